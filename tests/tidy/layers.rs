//! Which module may import which (`docs/architecture.md`). The table below is the rule; the code applies it.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{self, NamedPath};
use super::{Finding, SourceFile};

const CORE: &[&str] = &["domain", "error", "runtime", "archive"];
const PORTS: &[&str] = &["storage", "catalog", "system", "sandbox", "alert"];
/// What carries runs out. Knows ports, never an adapter.
const WORK: &[&str] = &["pipeline", "operation", "runbook", "scenario", "drill", "evidence"];
/// Names, counts and config that everything around the work may use.
const AROUND: &[&str] = &["config", "telemetry"];
/// Puts concrete types together; may import everything.
const OUTER: &[&str] = &["app", "cli", "demo", "main", "lib"];

/// Modules of a port that are no adapter: they see what the port sees.
const PORT_PARTS: &[(&str, &str)] = &[
    ("storage", "conformance"),
    ("storage", "key"),
    ("catalog", "conformance"),
    ("catalog", "rebuild"),
    ("system", "testing"),
    ("system", "conformance"),
    ("system", "registry"),
    ("alert", "rule"),
];

/// Modules that make up one adapter together.
const ONE_ADAPTER: &[(&str, &[&str])] =
    &[("catalog", &["sqlite", "migrations"]), ("sandbox", &["process", "ledger", "remains", "port", "root"])];

/// Ports that a port and its adapters may use beside their own.
const PORT_USES: &[(&str, &[&str])] = &[("sandbox", &["catalog", "system"])];

/// Crates that only some modules may name.
const CRATE_OWNERS: &[(&[&str], &[&str])] =
    &[(&["actix", "actix_rt"], &["actor", "app", "main"]), (&["actix_web"], &["web"])];

const DOMAIN_CRATES: &[&str] = &["std", "core", "alloc", "serde", "serde_json", "chrono"];

pub fn check(files: &[SourceFile]) -> BTreeSet<Finding> {
    let tree = Tree::of(files);
    let mut findings = BTreeSet::new();
    for (module, file) in &tree.modules {
        let mut say = |line: usize, what: String| {
            findings.insert(Finding { file: file.path.clone(), line, rule: "layers", what });
        };
        let Some(allowed) = allowed(&module[0]) else {
            say(1, format!("`{}` has no layer: add it to tests/tidy/layers.rs", module[0]));
            continue;
        };
        if tree.only_tests.iter().any(|t| module.starts_with(t)) {
            continue;
        }
        for path in source::read(&file.text, &tree.own_path(module)).paths {
            if let Some(what) = tree.breach(module, &allowed, &path) {
                say(path.line, what);
            }
        }
    }
    findings
}

/// Top-level modules that `top` may import; `None` for a module that nobody has thought about.
fn allowed(top: &str) -> Option<BTreeSet<&'static str>> {
    let every = || [CORE, PORTS, WORK, AROUND, &["actor", "web"], OUTER].concat();
    let uses: Vec<&str> = match top {
        "domain" => vec!["domain"],
        "error" | "runtime" => vec!["domain", "error", "runtime"],
        "archive" => CORE.to_vec(),
        port if PORTS.contains(&port) => {
            let more = PORT_USES.iter().find(|(p, _)| *p == port).map_or(&[][..], |(_, m)| m);
            [CORE, more, &PORTS[PORTS.iter().position(|p| *p == port)?..][..1]].concat()
        }
        "telemetry" => [CORE, &["telemetry"]].concat(),
        "config" => [CORE, PORTS, &["config"]].concat(),
        "pipeline" => [CORE, PORTS, &["pipeline", "telemetry"]].concat(),
        "operation" => [CORE, PORTS, WORK, AROUND].concat(),
        work if WORK.contains(&work) => [CORE, PORTS, WORK, &["telemetry"]].concat(),
        "actor" => [CORE, PORTS, WORK, AROUND, &["actor"]].concat(),
        "web" => [CORE, PORTS, WORK, AROUND, &["actor", "web"]].concat(),
        outer if OUTER.contains(&outer) => every(),
        _ => return None,
    };
    Some(uses.into_iter().collect())
}

struct Tree<'a> {
    /// Module path to file; `lib` and `main` for the roots.
    modules: BTreeMap<Vec<String>, &'a SourceFile>,
    only_tests: BTreeSet<Vec<String>>,
}

impl<'a> Tree<'a> {
    fn of(files: &'a [SourceFile]) -> Self {
        let modules: BTreeMap<_, _> = files.iter().map(|f| (module_of(&f.path), f)).collect();
        let mut only_tests = BTreeSet::new();
        for (module, file) in &modules {
            for test in source::read(&file.text, module).test_modules {
                let mut path = module.clone();
                path.push(test);
                only_tests.insert(path);
            }
        }
        Self { modules, only_tests }
    }

    /// As the compiler counts: the roots are the crate itself.
    fn own_path(&self, module: &[String]) -> Vec<String> {
        match module {
            [root] if root == "lib" || root == "main" => Vec::new(),
            module => module.to_vec(),
        }
    }

    fn breach(&self, module: &[String], allowed: &BTreeSet<&str>, path: &NamedPath) -> Option<String> {
        let top = module[0].as_str();
        let (first, rest) = path.parts.split_first()?;
        if first != "crate" && first != "lifeboat" {
            return foreign_crate(top, first);
        }
        let named = rest.first()?.as_str();
        // a macro, or an item of the crate root
        if !self.modules.keys().any(|m| m[0] == named) && self::allowed(named).is_none() {
            return None;
        }
        if !allowed.contains(named) {
            return Some(format!("`{top}` may not import `{named}`"));
        }
        let adapter = adapter(named, rest.get(1)?, self)?;
        let mine = module.get(1).filter(|_| top == named).and_then(|m| self::adapter(named, m, self));
        let free = OUTER.contains(&top)
            || mine == Some(adapter)
            // the port's own file declares its adapters, the registry names the engines
            || (top == named && (module.len() == 1 || module[1] == "registry"));
        (!free).then(|| format!("`{}` may not import the adapter `{named}::{adapter}`", module.join("::")))
    }
}

/// The adapter that module `part` of a port belongs to, if it is one.
fn adapter<'n>(port: &str, part: &'n str, tree: &Tree<'_>) -> Option<&'n str> {
    let is_module = tree.modules.keys().any(|m| m.len() > 1 && m[0] == port && m[1] == part);
    if !PORTS.contains(&port) || !is_module || PORT_PARTS.contains(&(port, part)) {
        return None;
    }
    let whole = ONE_ADAPTER.iter().find(|(p, parts)| *p == port && parts.contains(&part));
    Some(whole.map_or(part, |(_, parts)| parts[0]))
}

fn foreign_crate(top: &str, name: &str) -> Option<String> {
    for (crates, owners) in CRATE_OWNERS {
        if crates.contains(&name) && !owners.contains(&top) {
            return Some(format!("`{name}` belongs to {}", owners.join(", ")));
        }
    }
    // lowercase and of one word: a crate, not a type; modules of the file itself are resolved by the compiler
    let is_dependency = dependencies().contains(name);
    (top == "domain" && is_dependency && !DOMAIN_CRATES.contains(&name))
        .then(|| format!("`domain` is pure: it may not use `{name}`"))
}

/// Names of the package's dependencies as Rust writes them.
fn dependencies() -> BTreeSet<String> {
    let manifest = include_str!("../../Cargo.toml");
    let lines = manifest.lines().skip_while(|l| *l != "[dependencies]");
    let lines = lines.take_while(|l| !l.starts_with("[lints"));
    lines.filter_map(|l| l.split_once('=')).map(|(name, _)| name.trim().replace('-', "_")).collect()
}

/// `src/system/redis/mod.rs` is `system::redis`.
fn module_of(path: &str) -> Vec<String> {
    let path = path.strip_prefix("src/").unwrap_or(path);
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let path = path.strip_suffix("/mod").unwrap_or(path);
    path.split('/').map(str::to_owned).collect()
}
