//! The demo as people run it: everything passes, the report is there, and nothing else is, however it ends.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;

use crate::support::world::text;
use crate::support::{Running, content, until};

/// A demo that runs in a directory of its own.
struct Demo {
    process: Running,
    dir: tempfile::TempDir,
}

impl Demo {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        let process = Running::start(command.args(["demo", "--json"]), dir.path());
        Self { process, dir }
    }

    /// Where its production lives: the directory whose catalog it has open.
    fn home(&self) -> PathBuf {
        let fds = format!("/proc/{}/fd", self.process.pid());
        until("the demo's directory", || {
            let links =
                std::fs::read_dir(&fds).ok()?.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
            links.into_iter().find_map(|link| {
                link.ancestors()
                    .find(|a| {
                        a.parent() == Some(Path::new("/var/tmp"))
                            && a.to_string_lossy().contains("/lifeboat-demo-")
                    })
                    .map(PathBuf::from)
            })
        })
    }
}

fn assert_gone(home: &Path) {
    assert!(!home.try_exists().unwrap(), "{} is left with {:?}", home.display(), content::files_below(home));
    let home = home.display().to_string();
    for entry in std::fs::read_dir("/proc").unwrap() {
        let dir = entry.unwrap().path();
        let command = std::fs::read(dir.join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let cwd = std::fs::read_link(dir.join("cwd")).unwrap_or_default();
        assert!(!command.contains(&home) && !cwd.starts_with(&home), "{} is left: {command}", dir.display());
    }
}

#[test]
fn the_demo_passes_for_every_system_and_leaves_its_report_only() {
    let demo = Demo::start();
    let home = demo.home();
    let said = demo.process.wait();
    assert_gone(&home);
    let result = said.json();
    assert_eq!(said.code, 0, "{result:#}\n{}", said.stderr);
    assert_eq!(result["verdict"], "PASS", "{result:#}");
    assert_eq!(result["drill_verdict"], "PASS", "{result:#}");
    assert_eq!(result["left_out"], serde_json::json!([]));
    let systems = result["systems"].as_array().unwrap();
    let mut kinds: Vec<String> = systems.iter().map(|s| text(&s["kind"])).collect();
    kinds.sort();
    assert_eq!(kinds, ["files", "postgres", "redis", "sqlite"]);
    for system in systems {
        assert_eq!(system["verdict"], "PASS", "{system}");
        assert!(system["compared"].as_u64().unwrap() > 0, "{system}");
        assert!(system["rto"]["achieved_seconds"].as_f64().unwrap() > 0.0, "{system}");
    }
    let report = result["report"].as_array().unwrap();
    assert_eq!(report.len(), 2);
    for file in report {
        let file = text(file);
        assert!(Path::new(&file).starts_with(demo.dir.path().canonicalize().unwrap()), "{file}");
        assert!(std::fs::metadata(file).unwrap().len() > 0);
    }
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    for moment in ["", "redis/redis.pid", "backups"] {
        let demo = Demo::start();
        let home = demo.home();
        until("the moment to interrupt", || {
            let stored = moment == "backups" && !content::files_below(&home.join(moment)).is_empty();
            (stored || (moment != "backups" && home.join(moment).try_exists().unwrap())).then_some(())
        });
        demo.process.signal(Signal::SIGINT);
        demo.process.wait().ended(14);
        assert_gone(&home);
        assert!(!demo.dir.path().join("lifeboat-demo").try_exists().unwrap(), "a report of nothing");
    }
}
