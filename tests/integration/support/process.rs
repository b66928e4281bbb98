//! One run of the program: its arguments, its end and what it said. Killed when dropped, so that no test leaves one.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::until;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A process that was started and may still run.
pub struct Running {
    child: Child,
    said: PathBuf,
    told: String,
}

impl Running {
    /// `dir` is where the program stands and where its output is kept.
    pub fn start(command: &mut Command, dir: &Path) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let said = dir.join(format!("said-{number}"));
        let stream = |name: &str| Stdio::from(std::fs::File::create(said.with_extension(name)).unwrap());
        let (out, err) = (stream("out"), stream("err"));
        let child = command.current_dir(dir).stdin(Stdio::null()).stdout(out).stderr(err).spawn().unwrap();
        Self { child, said, told: format!("{command:?}") }
    }

    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// SIGKILL, as a crash or a power cut: the program gets no chance to clean up.
    pub fn crash(mut self) {
        assert!(!self.has_ended(), "ended before it could be killed: {:?}", self.read(ExitStatus::default()));
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn wait(mut self) -> Said {
        let what = format!("the end of {}", self.told);
        let status = until(&what, || self.child.try_wait().unwrap());
        self.read(status)
    }

    fn read(&self, status: ExitStatus) -> Said {
        let read = |name| {
            String::from_utf8_lossy(&std::fs::read(self.said.with_extension(name)).unwrap()).into_owned()
        };
        let code = status.code().unwrap_or_else(|| -status.signal().unwrap_or(0));
        Said { told: self.told.clone(), code, stdout: read("out"), stderr: read("err") }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            self.child.wait().unwrap();
        }
    }
}

/// How a run of the program ended, and what it said.
#[derive(Debug)]
pub struct Said {
    pub told: String,
    /// Exit code; a signal counts as its negative number.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    #[track_caller]
    pub fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}\n{}", self.told, self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        self.ended(0)
    }

    /// Standard output is exactly one JSON document.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("{}: {e}\n{}\n{}", self.told, self.stdout, self.stderr))
    }

    /// An error for people: every one of `words` is in it.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        let all = format!("{}{}", self.stdout, self.stderr);
        for word in words {
            assert!(all.contains(word), "`{word}` is not in what {} said:\n{all}", self.told);
        }
        self
    }
}
