//! YAML as a tree that remembers lines, and typed reading of it. Unknown keys are problems, with the nearest known one.
//!
//! Typed reading reports into [`Problems`] and goes on, so that one pass finds everything that is wrong with a file.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::problem::{Problems, nearest};

/// Runbooks and scenarios are written by hand: a larger file is a mistake.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;

#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub line: u64,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// In the order of the file.
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub line: u64,
    pub name: String,
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { line: spanned.referenced.line(), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Int(v))
    }
    fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<Value, E> {
        i64::try_from(v).map(Value::Int).map_err(E::custom)
    }
    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Value::Float(v))
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::Text(v.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let line = key.referenced.line();
            entries.push((Key { line, name: key.value }, map.next_value()?));
        }
        Ok(Value::Map(entries))
    }
}

/// Reads `text`; what the YAML reader refuses becomes a problem with its line.
pub fn parse(text: &str, problems: &mut Problems) -> Option<Node> {
    match serde_saphyr::from_str::<Node>(text) {
        Ok(node) => Some(node),
        Err(error) => {
            let inner = error.without_snippet();
            let line = inner.location().map(|l| l.line());
            problems.add(line, "", format!("this is not valid YAML: {inner}"));
            None
        }
    }
}

/// A node and the way to it.
#[derive(Clone, Debug)]
pub struct At<'a> {
    pub path: String,
    pub node: &'a Node,
}

impl<'a> At<'a> {
    pub fn problem(&self, problems: &mut Problems, message: impl Into<String>) {
        problems.add(Some(self.node.line), &self.path, message);
    }

    fn mismatch(&self, problems: &mut Problems, wanted: &str) {
        let found = match &self.node.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        };
        self.problem(problems, format!("here stands {found}, wanted is {wanted}"));
    }

    /// Text; numbers and truth values are taken as they are written.
    pub fn text(&self, problems: &mut Problems) -> Option<String> {
        match &self.node.value {
            Value::Text(t) => Some(t.clone()),
            Value::Int(n) => Some(n.to_string()),
            Value::Float(n) => Some(n.to_string()),
            Value::Bool(b) => Some(b.to_string()),
            Value::Null | Value::List(_) | Value::Map(_) => {
                self.mismatch(problems, "text");
                None
            }
        }
    }

    pub fn parse<T: FromStr<Err: fmt::Display>>(&self, problems: &mut Problems) -> Option<T> {
        let text = self.text(problems)?;
        text.parse().map_err(|e| self.problem(problems, format!("{e}"))).ok()
    }

    pub fn duration(&self, problems: &mut Problems) -> Option<Duration> {
        let text = self.text(problems)?;
        let parsed = humantime::parse_duration(&text);
        if parsed.is_err() {
            self.problem(problems, format!("`{text}` is not a duration; write it like 90s, 15m or 2h"));
        }
        parsed.ok()
    }

    pub fn number(&self, problems: &mut Problems) -> Option<f64> {
        match &self.node.value {
            #[expect(clippy::cast_precision_loss, reason = "bounds of checks, not identifiers")]
            Value::Int(n) => Some(*n as f64),
            Value::Float(n) => Some(*n),
            Value::Null | Value::Bool(_) | Value::Text(_) | Value::List(_) | Value::Map(_) => {
                self.mismatch(problems, "a number");
                None
            }
        }
    }

    pub fn whole(&self, of: std::ops::RangeInclusive<u32>, problems: &mut Problems) -> Option<u32> {
        let found = match &self.node.value {
            Value::Int(n) => u32::try_from(*n).ok().filter(|n| of.contains(n)),
            Value::Null
            | Value::Bool(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::List(_)
            | Value::Map(_) => None,
        };
        if found.is_none() {
            let (lo, hi) = (of.start(), of.end());
            self.mismatch(problems, &format!("a whole number from {lo} to {hi}"));
        }
        found
    }

    pub fn truth(&self, problems: &mut Problems) -> Option<bool> {
        if let Value::Bool(b) = &self.node.value {
            return Some(*b);
        }
        self.mismatch(problems, "true or false");
        None
    }

    pub fn choice<T: Copy>(&self, of: &[(&str, T)], problems: &mut Problems) -> Option<T> {
        let text = self.text(problems)?;
        let found = of.iter().find(|(name, _)| *name == text).map(|(_, v)| *v);
        if found.is_none() {
            let names: Vec<&str> = of.iter().map(|(n, _)| *n).collect();
            self.problem(problems, format!("`{text}` is not one of {}", names.join(", ")));
        }
        found
    }

    pub fn items(&self, problems: &mut Problems) -> Vec<At<'a>> {
        if let Value::List(list) = &self.node.value {
            let path = &self.path;
            return list
                .iter()
                .enumerate()
                .map(|(n, node)| At { path: format!("{path}[{n}]"), node })
                .collect();
        }
        self.mismatch(problems, "a list");
        Vec::new()
    }

    pub fn texts(&self, problems: &mut Problems) -> Vec<String> {
        let items = self.items(problems);
        items.iter().filter_map(|i| i.text(problems)).collect()
    }

    pub fn fields(&self, problems: &mut Problems) -> Option<Fields<'a>> {
        if let Value::Map(entries) = &self.node.value {
            return Some(Fields {
                path: self.path.clone(),
                line: self.node.line,
                entries,
                taken: BTreeSet::new(),
                known: Vec::new(),
            });
        }
        self.mismatch(problems, "a mapping");
        None
    }
}

/// The keys of one mapping. Every key that was never asked for is a problem when reading is finished.
#[derive(Debug)]
pub struct Fields<'a> {
    path: String,
    line: u64,
    entries: &'a [(Key, Node)],
    taken: BTreeSet<usize>,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    pub fn take(&mut self, key: &'static str) -> Option<At<'a>> {
        self.know(key);
        let at = self.entries.iter().position(|(k, _)| k.name == key)?;
        self.taken.insert(at);
        Some(At { path: self.path_of(key), node: &self.entries[at].1 })
    }

    pub fn require(&mut self, key: &'static str, problems: &mut Problems) -> Option<At<'a>> {
        let found = self.take(key);
        if found.is_none() {
            problems.add(Some(self.line), self.path_of(key), "is missing");
        }
        found
    }

    /// Whether `key` is there and nobody has taken it yet.
    pub fn offers(&self, key: &str) -> bool {
        let at = self.entries.iter().position(|(k, _)| k.name == key);
        at.is_some_and(|at| !self.taken.contains(&at))
    }

    pub fn holds_list(&self, key: &str) -> bool {
        let found = self.entries.iter().find(|(k, _)| k.name == key);
        found.is_some_and(|(_, node)| matches!(node.value, Value::List(_)))
    }

    /// All entries, for mappings whose keys are names chosen by the author.
    pub fn entries(&mut self) -> Vec<(&'a str, At<'a>)> {
        self.taken.extend(0..self.entries.len());
        self.entries
            .iter()
            .map(|(key, node)| {
                let path = self.path_of(&key.name);
                (key.name.as_str(), At { path, node })
            })
            .collect()
    }

    /// A key that would be understood here, for suggestions only.
    pub fn know(&mut self, key: &'static str) {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
    }

    pub fn line(&self) -> u64 {
        self.line
    }

    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Reports every key that nobody asked for.
    pub fn finish(self, problems: &mut Problems) {
        let extra = self.entries.iter().enumerate();
        for (_, (key, _)) in extra.filter(|(n, _)| !self.taken.contains(n)) {
            let message = match nearest(&key.name, self.known.iter().copied()) {
                Some(known) => format!("unknown key; did you mean `{known}`?"),
                None => format!("unknown key; known here: {}", self.known.join(", ")),
            };
            problems.add(Some(key.line), self.path_of(&key.name), message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_of_a_file_is_found_with_its_line() {
        let mut problems = Problems::of("x.yaml");
        let text = "name: a\ntimeot: 3s\nlimit: many\n";
        let node = parse(text, &mut problems).unwrap();
        let at = At { path: String::new(), node: &node };
        let mut fields = at.fields(&mut problems).unwrap();
        let name: Option<String> = fields.require("name", &mut problems).and_then(|a| a.text(&mut problems));
        assert_eq!(name.as_deref(), Some("a"));
        assert!(fields.take("timeout").is_none());
        let limit = fields.take("limit").unwrap();
        assert!(limit.whole(1..=9, &mut problems).is_none());
        fields.finish(&mut problems);
        let shown: Vec<String> = problems.into_list().iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "x.yaml:3: limit: here stands text, wanted is a whole number from 1 to 9",
                "x.yaml:2: timeot: unknown key; did you mean `timeout`?",
            ]
        );
    }

    #[test]
    fn broken_yaml_and_a_doubled_key_are_problems_with_a_line() {
        for text in ["name: [1, 2\nsteps: 3", "a: 1\nb: 2\na: 3\n"] {
            let mut problems = Problems::of("x.yaml");
            assert!(parse(text, &mut problems).is_none(), "{text}");
            assert!(problems.into_list()[0].line.is_some(), "{text}");
        }
    }
}
