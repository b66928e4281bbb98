//! External programs: started without a shell, dying with us, every exit status read.
//!
//! A program runs through `setpriv --pdeathsig KILL`, so that SIGKILL of lifeboat takes it along, and with another
//! account's uid where asked. Secrets go by environment or standard input, never by argument.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdout, Command};

use super::{JobContext, account::Account, process::find_program};
use crate::error::{Error, ErrorKind, Result};

/// Of a program's standard error, the last part is kept for the error message.
const STDERR_KEPT_BYTES: usize = 16 * 1024;
const STDOUT_CHUNK_BYTES: usize = 256 * 1024;
/// Of a short-lived program's standard output, no more than this is collected.
const STDOUT_COLLECTED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A program to run. Debug shows names of environment variables, never their values.
#[derive(Clone)]
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: Option<PathBuf>,
    account: Option<Account>,
    stdin: Option<Bytes>,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.env.iter().map(|(k, _)| k).collect();
        f.debug_struct("Program")
            .field("path", &self.path)
            .field("args", &self.args)
            .field("env", &names)
            .finish_non_exhaustive()
    }
}

impl Program {
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), args: Vec::new(), env: Vec::new(), dir: None, account: None, stdin: None }
    }

    /// Finds `name` in `dirs` or on the PATH; `Unsupported` with `hint` when it is not there.
    pub fn find(name: &str, dirs: &[&Path], hint: &str) -> Result<Self> {
        find_program(name, dirs).map(Self::at).ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "find program").with("program", name).hint(hint)
        })
    }

    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    #[must_use]
    pub fn args<I: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = I>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    #[must_use]
    pub fn account(mut self, account: Option<Account>) -> Self {
        self.account = account;
        self
    }

    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Bytes>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn name(&self) -> String {
        self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned()
    }

    fn command(&self) -> Command {
        let mut command = match find_program("setpriv", &[]) {
            Some(setpriv) => {
                let mut c = Command::new(setpriv);
                c.args(["--pdeathsig", "KILL"]);
                if let Some(account) = &self.account {
                    c.args([
                        "--reuid",
                        &account.uid.to_string(),
                        "--regid",
                        &account.gid.to_string(),
                        "--clear-groups",
                    ]);
                }
                c.arg("--").arg(&self.path);
                c
            }
            None => {
                let mut c = Command::new(&self.path);
                if let Some(account) = &self.account {
                    c.uid(account.uid).gid(account.gid);
                }
                c
            }
        };
        command.args(&self.args).envs(self.env.iter().map(|(k, v)| (k, v))).kill_on_drop(true);
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command
    }

    fn spawn(&self, stdout: Stdio, stderr: Stdio) -> Result<tokio::process::Child> {
        let stdin = if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() };
        self.command().stdin(stdin).stdout(stdout).stderr(stderr).spawn().map_err(|e| {
            Error::new(crate::error::io_kind(&e), "start program")
                .with("program", self.path.display())
                .because(e)
        })
    }

    /// Runs to the end and gives standard output; any exit status but 0 is `Failed` with the tail of standard error.
    pub async fn output(&self, job: &JobContext) -> Result<Bytes> {
        let mut streaming = self.start(job)?;
        let mut all = Vec::new();
        while let Some(chunk) = streaming.next(job).await? {
            if all.len() + chunk.len() > STDOUT_COLLECTED_BYTES_MAX {
                return Err(Error::new(ErrorKind::Exhausted, "collect output").with("program", self.name()));
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all.into())
    }

    /// Starts the program with its standard output as a stream of chunks.
    pub fn start(&self, job: &JobContext) -> Result<Streaming> {
        let mut child = self.spawn(Stdio::piped(), Stdio::piped())?;
        let stdout = child.stdout.take().ok_or_else(|| Error::bug("take stdout of child"))?;
        let mut stderr = child.stderr.take().ok_or_else(|| Error::bug("take stderr of child"))?;
        let (stdin, input) = (child.stdin.take(), self.stdin.clone());
        let feeding = job.workers().spawn("feed child", async move {
            if let (Some(mut stdin), Some(input)) = (stdin, input)
                && let Err(error) = stdin.write_all(&input).await
            {
                tracing::debug!(%error, "child closed its input early");
            }
            Ok(())
        });
        let errors = job.workers().spawn("read child stderr", async move {
            let (mut kept, mut buffer) = (Vec::new(), vec![0; 4096]);
            loop {
                match stderr.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(n) => kept.extend_from_slice(&buffer[..n]),
                }
                if kept.len() > 2 * STDERR_KEPT_BYTES {
                    kept.drain(..kept.len() - STDERR_KEPT_BYTES);
                }
            }
            Ok(String::from_utf8_lossy(&kept).trim().to_owned())
        });
        Ok(Streaming {
            name: self.name(),
            child,
            stdout,
            errors: Some(errors),
            _feeding: feeding,
            ended: false,
        })
    }

    /// Starts a server-like program that outlives this call; output goes to `log`.
    pub fn start_logged(&self, log: &Path) -> Result<tokio::process::Child> {
        let io = |e: std::io::Error| {
            Error::new(crate::error::io_kind(&e), "open log of program")
                .with("path", log.display())
                .because(e)
        };
        let out = std::fs::OpenOptions::new().create(true).append(true).open(log).map_err(io)?;
        let err = out.try_clone().map_err(io)?;
        self.spawn(out.into(), err.into())
    }
}

/// A running program whose standard output is being read. Dropping it kills the program.
#[derive(Debug)]
pub struct Streaming {
    name: String,
    child: tokio::process::Child,
    stdout: ChildStdout,
    errors: Option<super::workers::Task<String>>,
    _feeding: super::workers::Task<()>,
    ended: bool,
}

impl Streaming {
    /// Next chunk of standard output. `None` only after the program has ended with status 0: a tool that prints and then
    /// fails gives an error here, never an end.
    pub async fn next(&mut self, job: &JobContext) -> Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        let mut chunk = bytes::BytesMut::with_capacity(STDOUT_CHUNK_BYTES);
        let read = async {
            self.stdout
                .read_buf(&mut chunk)
                .await
                .map_err(|e| Error::new(ErrorKind::Failed, "read output").because(e))
        };
        if job.run("read output of program", read).await? > 0 {
            return Ok(Some(chunk.freeze()));
        }
        self.ended = true;
        self.finish(job).await.map(|()| None)
    }

    async fn finish(&mut self, job: &JobContext) -> Result<()> {
        let wait = async {
            self.child.wait().await.map_err(|e| Error::new(ErrorKind::Failed, "wait for program").because(e))
        };
        let status = job.run("wait for program", wait).await?;
        let stderr = match self.errors.take() {
            Some(errors) => job.run("read errors of program", errors.join()).await.unwrap_or_default(),
            None => String::new(),
        };
        check_status(&self.name, status, &stderr)
    }
}

fn check_status(name: &str, status: ExitStatus, stderr: &str) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    let tail: String =
        stderr.lines().rev().take(8).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join(" | ");
    let why = if tail.is_empty() { "it said nothing on standard error".to_owned() } else { tail };
    Err(Error::new(ErrorKind::Failed, "finish program").with("program", name).with("status", status).why(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tool_that_prints_and_then_fails_gives_no_end_of_output() {
        let job = JobContext::plain();
        let program =
            Program::find("sh", &[], "").unwrap().args(["-c", "printf half; echo sorry >&2; exit 1"]);
        let mut output = program.start(&job).unwrap();
        assert_eq!(output.next(&job).await.unwrap().unwrap(), "half");
        let error = output.next(&job).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Failed);
        assert!(error.to_string().contains("sorry"), "{error}");
    }
}
