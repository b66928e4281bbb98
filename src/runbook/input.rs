//! Inputs of a runbook and their substitution. Pure: `${name}` as a whole value or inside text, never through a shell.
//!
//! A whole value keeps its type. `$${` stands for a literal `${`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::problem::Problems;
use super::yaml::{At, Node, Value};
use crate::domain::id::SystemName;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputType {
    /// A configured system, of one kind where given.
    System {
        kind: Option<String>,
    },
    Text,
    Duration,
    Number,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    pub of: InputType,
    pub default: Option<Bound>,
    pub why: Option<String>,
}

/// The value of an input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    System(SystemName),
    Text(String),
    Duration(#[serde(with = "super::seconds")] Duration),
    Number(f64),
}

pub type Bindings = BTreeMap<String, Bound>;

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System(name) => name.fmt(f),
            Self::Text(text) => text.fmt(f),
            Self::Duration(d) => humantime::format_duration(*d).fmt(f),
            Self::Number(n) => n.fmt(f),
        }
    }
}

impl InputType {
    pub fn describe(&self) -> String {
        match self {
            Self::System { kind: Some(kind) } => format!("a {kind} system"),
            Self::System { kind: None } => "a system".to_owned(),
            Self::Text => "text".to_owned(),
            Self::Duration => "a duration".to_owned(),
            Self::Number => "a number".to_owned(),
        }
    }

    /// Reads a value of this type; the message says what is wanted.
    pub fn read(&self, text: &str) -> Result<Bound, String> {
        match self {
            Self::System { .. } => SystemName::parse(text).map(Bound::System).map_err(|e| e.to_string()),
            Self::Text => Ok(Bound::Text(text.to_owned())),
            Self::Duration => humantime::parse_duration(text)
                .map(Bound::Duration)
                .map_err(|_| format!("`{text}` is not a duration; write it like 90s, 15m or 2h")),
            Self::Number => text.parse().map(Bound::Number).map_err(|_| format!("`{text}` is not a number")),
        }
    }

    /// A stand-in, so that a runbook can be checked and shown before its inputs are known.
    fn sample(&self, name: &str) -> Bound {
        match self {
            Self::System { .. } => SystemName::parse(name.to_lowercase())
                .map_or_else(|_| Bound::Text(format!("${{{name}}}")), Bound::System),
            Self::Text => Bound::Text(format!("${{{name}}}")),
            Self::Duration => Bound::Duration(Duration::from_secs(1)),
            Self::Number => Bound::Number(1.0),
        }
    }
}

impl Input {
    pub fn parse(at: &At<'_>, problems: &mut Problems) -> Option<Self> {
        let mut fields = at.fields(problems)?;
        let kind = fields.take("kind").and_then(|a| a.text(problems));
        let types = [("system", 0), ("text", 1), ("duration", 2), ("number", 3)];
        let chosen = fields.require("type", problems).and_then(|a| a.choice(&types, problems));
        let of = match chosen {
            Some(0) => Some(InputType::System { kind: kind.clone() }),
            Some(1) => Some(InputType::Text),
            Some(2) => Some(InputType::Duration),
            Some(3) => Some(InputType::Number),
            Some(_) | None => None,
        };
        if kind.is_some() && !matches!(of, Some(InputType::System { .. }) | None) {
            at.problem(problems, "`kind` belongs to inputs of type system only");
        }
        let default = fields.take("default").and_then(|a| {
            let text = a.text(problems)?;
            let read = of.as_ref()?.read(&text);
            read.map_err(|m| a.problem(problems, m)).ok()
        });
        let why = fields.take("why").and_then(|a| a.text(problems));
        fields.finish(problems);
        Some(Self { of: of?, default, why })
    }
}

/// Defaults where there are any, stand-ins for the rest.
pub fn samples(inputs: &BTreeMap<String, Input>) -> Bindings {
    inputs
        .iter()
        .map(|(name, input)| {
            let bound = input.default.clone().unwrap_or_else(|| input.of.sample(name));
            (name.clone(), bound)
        })
        .collect()
}

/// A copy of `at` with every placeholder replaced. Unknown names are problems.
pub fn substitute(at: &At<'_>, bindings: &Bindings, problems: &mut Problems) -> Node {
    let value = match &at.node.value {
        Value::Text(text) => replace(text, at, bindings, problems),
        Value::List(_) => {
            let items = at.items(problems);
            Value::List(items.iter().map(|i| substitute(i, bindings, problems)).collect())
        }
        Value::Map(entries) => Value::Map(
            entries
                .iter()
                .map(|(key, node)| {
                    let path = format!("{}.{}", at.path, key.name);
                    (key.clone(), substitute(&At { path, node }, bindings, problems))
                })
                .collect(),
        ),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => at.node.value.clone(),
    };
    Node { line: at.node.line, value }
}

fn replace(text: &str, at: &At<'_>, bindings: &Bindings, problems: &mut Problems) -> Value {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if rest[..start].ends_with('$') {
            out.push_str(&rest[..start]);
            out.push('{');
            rest = &rest[start + 2..];
            continue;
        }
        let Some(end) = rest[start..].find('}') else {
            at.problem(problems, "`${` without `}`; write `$${` for a literal one");
            return Value::Text(text.to_owned());
        };
        let name = &rest[start + 2..start + end];
        let Some(bound) = bindings.get(name) else {
            let known: Vec<&str> = bindings.keys().map(String::as_str).collect();
            at.problem(problems, format!("no input is named `{name}`; inputs are: {}", known.join(", ")));
            return Value::Text(text.to_owned());
        };
        if start == 0 && end + 1 == text.len() {
            return whole(bound);
        }
        out.push_str(&rest[..start]);
        out.push_str(&bound.to_string());
        rest = &rest[start + end + 1..];
    }
    out.push_str(rest);
    Value::Text(out)
}

fn whole(bound: &Bound) -> Value {
    match bound {
        #[expect(clippy::cast_possible_truncation, reason = "only whole numbers within range are cast")]
        Bound::Number(n) if n.fract() == 0.0 && n.abs() < 9e15 => Value::Int(*n as i64),
        Bound::Number(n) => Value::Float(*n),
        Bound::System(_) | Bound::Text(_) | Bound::Duration(_) => Value::Text(bound.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn replaced(text: &str, bindings: &Bindings) -> (Value, usize) {
        let mut problems = Problems::of("x");
        let node = Node { line: 1, value: Value::Text(text.to_owned()) };
        let at = At { path: "f".into(), node: &node };
        let value = substitute(&at, bindings, &mut problems).value;
        (value, problems.into_list().len())
    }

    #[test]
    fn whole_values_keep_their_type_and_parts_become_text() {
        let bindings = Bindings::from([
            ("n".to_owned(), Bound::Number(3.0)),
            ("s".to_owned(), Bound::Text("a; rm -rf /".to_owned())),
        ]);
        assert_eq!(replaced("${n}", &bindings).0, Value::Int(3));
        assert_eq!(replaced("x${n}y", &bindings).0, Value::Text("x3y".into()));
        assert_eq!(replaced("${s}", &bindings).0, Value::Text("a; rm -rf /".into()));
        assert_eq!(replaced("$${n} ${n}", &bindings).0, Value::Text("${n} 3".into()));
        assert_eq!(replaced("${m}", &bindings).1, 1);
        assert_eq!(replaced("${n", &bindings).1, 1);
    }

    proptest! {
        #[test]
        fn substitution_is_not_repeated_on_what_was_put_in(value in "[a-z${}]{0,12}", before in "[a-z ]{1,5}") {
            let bindings = Bindings::from([("v".to_owned(), Bound::Text(value.clone()))]);
            let text = format!("{before}${{v}}");
            prop_assert_eq!(replaced(&text, &bindings), (Value::Text(format!("{before}{value}")), 0));
        }
    }
}
