//! Holds the tree to its rules: layers, file headers, names, lengths, notes to self, machine paths.
//!
//! Reads files only. Every finding names file, line and rule. A module that the table of layers does not know is a
//! finding too: add it to `tests/tidy/layers.rs`, with what it may import.

#[path = "tidy/layers.rs"]
mod layers;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/text.rs"]
mod text;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// One breach: `src/domain/x.rs:3: layers: ..`.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    file: String,
    line: usize,
    rule: &'static str,
    what: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}: {}", self.file, self.line, self.rule, self.what)
    }
}

/// One file of the tree, with its path relative to the package.
struct SourceFile {
    path: String,
    text: String,
}

const TEXT_SUFFIXES: &[&str] = &["rs", "md", "toml", "yaml", "yml", "sh", "html", "css", "js", "py", "sql"];
const PLACES: &[&str] = &[
    "src",
    "tests",
    "docs",
    "scripts",
    "benches",
    "config",
    "runbooks",
    "scenarios",
    "docker",
    "README.md",
    "Makefile",
];

fn package() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every text file of the tree below `places`, sorted. Places that do not exist are left out.
fn files(places: &[&str]) -> std::io::Result<Vec<SourceFile>> {
    let mut pending: Vec<PathBuf> = places.iter().map(|p| package().join(p)).collect();
    let mut found = Vec::new();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                pending.push(entry?.path());
            }
        } else if path.is_file() && is_text(&path) {
            let relative = path.strip_prefix(package()).unwrap_or(&path);
            found.push(SourceFile {
                path: relative.to_string_lossy().into_owned(),
                text: std::fs::read_to_string(&path)?,
            });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Files without a suffix are scripts and Makefiles.
fn is_text(path: &Path) -> bool {
    path.extension().is_none_or(|e| TEXT_SUFFIXES.iter().any(|s| e == *s))
}

fn rust_files(places: &[&str]) -> std::io::Result<Vec<SourceFile>> {
    let mut found = files(places)?;
    found.retain(|f| Path::new(&f.path).extension().is_some_and(|e| e == "rs"));
    Ok(found)
}

#[track_caller]
fn assert_tidy(findings: &BTreeSet<Finding>) {
    let list: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(list.is_empty(), "{} findings:\n{}", list.len(), list.join("\n"));
}

#[test]
fn imports_point_inwards() {
    let files = rust_files(&["src"]).unwrap();
    assert!(files.len() > 20, "the tree was not found");
    assert_tidy(&layers::check(&files));
}

#[test]
fn every_file_says_what_it_owns() {
    assert_tidy(&text::headers(&rust_files(&["src", "tests", "benches"]).unwrap()));
}

#[test]
fn files_are_one_noun_and_short() {
    let files = rust_files(&["src", "tests", "benches"]).unwrap();
    let mut findings = text::names(&files);
    findings.extend(text::lengths(&files, text::LONG_FILES));
    assert_tidy(&findings);
}

#[test]
fn nothing_is_left_for_later_without_an_issue_and_nothing_names_a_machine() {
    let files = files(PLACES).unwrap();
    let mut findings = text::notes(&files);
    findings.extend(text::machine_paths(&files));
    assert_tidy(&findings);
}

mod these_checks {
    //! Each check is shown what it must catch.

    use super::*;

    fn file(path: &str, text: &str) -> SourceFile {
        SourceFile { path: path.to_owned(), text: text.to_owned() }
    }

    /// What the layers say about one file in a tree that also has the usual engines and adapters.
    fn layers(path: &str, text: &str) -> Vec<String> {
        let mut files: Vec<SourceFile> = [
            "src/system/mod.rs",
            "src/system/redis/mod.rs",
            "src/system/postgres/mod.rs",
            "src/storage/mod.rs",
            "src/storage/local.rs",
            "src/catalog/sqlite.rs",
            "src/sandbox/process.rs",
        ]
        .into_iter()
        .filter(|known| *known != path)
        .map(|known| file(known, "//! x\n"))
        .collect();
        files.push(file(path, text));
        layers::check(&files).iter().map(ToString::to_string).collect()
    }

    /// Path, text below the header, line of the breach, a word of the finding.
    const OUTWARDS: &[(&str, &str, usize, &str)] = &[
        ("src/domain/tier.rs", "use crate::runtime::JobContext;", 2, "runtime"),
        ("src/domain/tier.rs", "use tokio::time::Instant;", 2, "tokio"),
        ("src/error.rs", "fn f() { crate::catalog::open(); }", 2, "catalog"),
        (
            "src/system/postgres/backup.rs",
            "use crate::{\n error::Error,\n storage::Storage,\n};",
            4,
            "storage",
        ),
        ("src/system/postgres/backup.rs", "use super::super::redis::rdb;", 2, "redis"),
        ("src/system/postgres/mod.rs", "use crate::system::{Health, redis::rdb};", 2, "redis"),
        ("src/storage/object.rs", "use super::local::Local;", 2, "local"),
        ("src/storage/mod.rs", "use crate::catalog::Catalog;", 2, "catalog"),
        ("src/pipeline/sink.rs", "use crate::storage::local::Local;", 2, "local"),
        ("src/pipeline/sink.rs", "use crate::runbook::Plan;", 2, "runbook"),
        ("src/runbook/plan.rs", "\nuse crate::catalog::sqlite::SqliteCatalog;", 3, "sqlite"),
        ("src/operation/backup.rs", "use crate::actor::Root;", 2, "actor"),
        ("src/runtime/job.rs", "use actix::Actor;", 2, "actix"),
        ("src/actor/root.rs", "use actix_web::HttpServer;", 2, "actix_web"),
        ("src/web/runs.rs", "use crate::cli::Args;", 2, "cli"),
        ("src/gadget.rs", "", 1, "gadget"),
    ];

    #[test]
    fn an_import_outwards_is_found_however_it_is_written() {
        for (path, text, line, word) in OUTWARDS {
            let found = layers(path, &format!("//! x\n{text}\n"));
            let hit = |f: &String| f.starts_with(&format!("{path}:{line}: layers: ")) && f.contains(word);
            assert!(found.iter().any(hit), "{word} in {path} not found in {found:?}");
        }
    }

    #[test]
    fn what_is_allowed_is_not_found() {
        let allowed = [
            ("src/domain/tier.rs", "use std::fmt; use serde::Serialize; use super::id::TierName;"),
            ("src/system/postgres/backup.rs", "use super::client; use crate::system::{self, DataSystem};"),
            ("src/system/registry.rs", "use super::redis::Redis;"),
            ("src/sandbox/process.rs", "use crate::catalog::Catalog; use crate::system::DataSystem;"),
            ("src/operation/backup.rs", "use crate::pipeline::sink; use crate::catalog::Catalog;"),
            ("src/app.rs", "use crate::catalog::sqlite::SqliteCatalog; use actix::System;"),
            ("src/domain/run.rs", "// use crate::runtime\nconst A: &str = \"crate::runtime::x\";"),
            ("src/domain/id.rs", "#[cfg(test)]\nmod tests {\n use crate::runtime::JobContext;\n}"),
            ("src/domain/backup.rs", "#[cfg(test)]\nuse crate::runtime::JobContext;"),
            ("src/storage/mod.rs", "pub mod local;\nmod inner { use super::local::Local; }"),
        ];
        for (path, text) in allowed {
            assert_eq!(layers(path, &format!("//! x\n{text}\n")), Vec::<String>::new(), "{path}");
        }
    }

    #[test]
    fn files_that_only_tests_declare_may_import_anything() {
        let files = [
            file("src/system/mod.rs", "//! x\n"),
            file("src/system/redis/mod.rs", "//! x\n#[cfg(test)]\nmod live_tests;\nmod rdb;\n"),
            file("src/system/redis/live_tests.rs", "//! x\nuse crate::storage::memory::Memory;\n"),
            file("src/system/redis/rdb.rs", "//! x\nuse crate::storage::memory::Memory;\n"),
        ];
        let found: Vec<String> = layers::check(&files).into_iter().map(|f| f.file).collect();
        assert_eq!(found, ["src/system/redis/rdb.rs"]);
    }

    #[test]
    fn a_missing_header_a_vague_name_and_a_long_file_are_found() {
        let bare = file("src/a.rs", "use std::fmt;\nfn a() {}\nfn b() {}\n");
        assert_eq!(text::headers(&[bare]).len(), 1);
        let vague = ["src/utils.rs", "src/x/helpers.rs", "src/manager/mod.rs"].map(|p| file(p, "//! x\n"));
        assert_eq!(text::names(&vague).len(), 3);
        let long = [file("src/long.rs", &"//! x\n".repeat(text::LINES_MAX + 1))];
        assert_eq!(text::lengths(&long, &[]).len(), 1);
        assert_eq!(text::lengths(&long, &[("src/long.rs", "a table")]).len(), 0);
        let stale = text::lengths(&[file("src/long.rs", "//! x\n")], &[("src/long.rs", "a table")]);
        assert_eq!(stale.len(), 1);
    }

    #[test]
    fn notes_to_self_and_machine_paths_are_found_with_their_lines() {
        let note = concat!("TO", "DO");
        let noted = file("src/a.rs", &format!("//! x\n// {note}: later\n// {note}(#12): with an issue\n"));
        let found: Vec<usize> = text::notes(&[noted]).iter().map(|f| f.line).collect();
        assert_eq!(found, [2]);
        let home = concat!("/ro", "ot/");
        let pathed = file("docs/a.md", &format!("see\n{home}x and nowhere{home}x\n"));
        let found: Vec<usize> = text::machine_paths(&[pathed]).iter().map(|f| f.line).collect();
        assert_eq!(found, [2]);
    }
}
