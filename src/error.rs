//! The one error type. Owns kind, retryability, operation, context, hint and source of a failure.
//!
//! An error keeps all of them and is never flattened into a string. It is logged once, where it is handled.
//! The table from kind to exit code and HTTP status lives here and nowhere else; numbers are never reused.

use std::error::Error as StdError;
use std::fmt;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as far as a caller must know to decide. A kind exists only if somebody branches on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A file or an argument written by a person is wrong; nothing was done.
    Config,
    /// A server, a storage or a tool does not answer.
    Unreachable,
    /// Reached, and refused: password, rights, read-only.
    Denied,
    /// The named thing does not exist.
    NotFound,
    /// The state of the world forbids it: target not empty, object exists, chain broken, illegal transition.
    Conflict,
    /// Another run holds the system, or a limit of concurrent work is reached.
    Busy,
    /// Stored or restored bytes are not what they should be.
    Corrupt,
    /// No space, quota reached, a limit exceeded.
    Exhausted,
    /// Not available here: missing program, version without the ability.
    Unsupported,
    /// An external tool or a server did the work and said that it failed.
    Failed,
    /// The work was done and measured, and a check or an objective was not met.
    Unproven,
    /// Stopped on request. What is then unknown is said by the called function.
    Cancelled,
    /// Out of time. What is then unknown is said by the called function.
    DeadlineExceeded,
    /// A broken invariant of lifeboat itself.
    Bug,
}

/// Whether trying the same again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    Later,
    Never,
}

impl ErrorKind {
    pub const ALL: [Self; 14] = [
        Self::Config,
        Self::Unreachable,
        Self::Denied,
        Self::NotFound,
        Self::Conflict,
        Self::Busy,
        Self::Corrupt,
        Self::Exhausted,
        Self::Unsupported,
        Self::Failed,
        Self::Unproven,
        Self::Cancelled,
        Self::DeadlineExceeded,
        Self::Bug,
    ];

    /// Process exit code. 0 is success, 1 is never used, 2 belongs to the argument parser.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Config => 3,
            Self::Unreachable => 4,
            Self::Denied => 5,
            Self::NotFound => 6,
            Self::Conflict => 7,
            Self::Busy => 8,
            Self::Corrupt => 9,
            Self::Exhausted => 10,
            Self::Unsupported => 11,
            Self::Failed => 12,
            Self::Unproven => 13,
            Self::Cancelled => 14,
            Self::DeadlineExceeded => 15,
            Self::Bug => 70,
        }
    }

    pub fn http_status(self) -> u16 {
        match self {
            Self::Config => 400,
            Self::Denied => 403,
            Self::NotFound => 404,
            Self::Conflict | Self::Busy => 409,
            Self::Unproven => 422,
            Self::Unreachable => 502,
            Self::Exhausted => 507,
            Self::Unsupported => 501,
            Self::DeadlineExceeded => 504,
            Self::Cancelled => 503,
            Self::Corrupt | Self::Failed | Self::Bug => 500,
        }
    }

    /// Stable name for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Config => "CONFIG",
            Self::Unreachable => "UNREACHABLE",
            Self::Denied => "DENIED",
            Self::NotFound => "NOT_FOUND",
            Self::Conflict => "CONFLICT",
            Self::Busy => "BUSY",
            Self::Corrupt => "CORRUPT",
            Self::Exhausted => "EXHAUSTED",
            Self::Unsupported => "UNSUPPORTED",
            Self::Failed => "FAILED",
            Self::Unproven => "UNPROVEN",
            Self::Cancelled => "CANCELLED",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::Bug => "BUG",
        }
    }

    fn default_retry(self) -> Retry {
        match self {
            Self::Unreachable | Self::Busy | Self::DeadlineExceeded => Retry::Later,
            Self::Config
            | Self::Denied
            | Self::NotFound
            | Self::Conflict
            | Self::Corrupt
            | Self::Exhausted
            | Self::Unsupported
            | Self::Failed
            | Self::Unproven
            | Self::Cancelled
            | Self::Bug => Retry::Never,
        }
    }
}

type Source = Box<dyn StdError + Send + Sync>;

/// Boxed, so that `Result` stays small. Renders `cannot open object (key=.., storage=..): source`.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    retry: Retry,
    /// What could not be done: lowercase, no full stop, reads after "cannot".
    op: String,
    context: Vec<(&'static str, String)>,
    hint: Option<String>,
    source: Option<Source>,
}

impl Error {
    /// `op` reads after "cannot": `Error::new(Unreachable, "open object")`.
    pub fn new(kind: ErrorKind, op: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            retry: kind.default_retry(),
            op: op.into(),
            context: Vec::new(),
            hint: None,
            source: None,
        }))
    }

    pub fn bug(op: impl Into<String>) -> Self {
        Self::new(ErrorKind::Bug, op)
    }

    /// Adds a context pair. Never pass a secret.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((key, value.to_string()));
        self
    }

    /// Why, as a plain sentence fragment, where there is no source error.
    #[must_use]
    pub fn why(self, reason: impl Into<String>) -> Self {
        self.because(Reason(reason.into()))
    }

    #[must_use]
    pub fn because(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The way out, as an instruction to a person. The innermost hint wins.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        if self.0.hint.is_none() {
            self.0.hint = Some(hint.into());
        }
        self
    }

    #[must_use]
    pub fn retry_as(mut self, retry: Retry) -> Self {
        self.0.retry = retry;
        self
    }

    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    pub fn op(&self) -> &str {
        &self.0.op
    }

    pub fn advice(&self) -> Option<&str> {
        if self.0.hint.is_some() {
            return self.0.hint.as_deref();
        }
        self.0.source.as_deref().and_then(|s| s.downcast_ref::<Self>()).and_then(Self::advice)
    }

    pub fn context(&self) -> &[(&'static str, String)] {
        &self.0.context
    }

    /// Wraps an error of ours in a wider operation; kind, retryability and hint stay.
    #[must_use]
    pub fn during(self, op: impl Into<String>) -> Self {
        let (kind, retry) = (self.kind(), self.retry());
        Self::new(kind, op).retry_as(retry).because(self)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.0.op)?;
        for (n, (key, value)) in self.0.context.iter().enumerate() {
            write!(f, "{}{key}={value}", if n == 0 { " (" } else { ", " })?;
        }
        if !self.0.context.is_empty() {
            write!(f, ")")?;
        }
        let mut source = self.0.source.as_deref().map(|s| s as &(dyn StdError + 'static));
        while let Some(s) = source {
            write!(f, ": {s}")?;
            // our own Display already renders the rest of its chain
            source = if s.is::<Self>() { None } else { s.source() };
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self}", self.0.kind.name())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|s| s as &(dyn StdError + 'static))
    }
}

#[derive(Debug)]
struct Reason(String);

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Reason {}

/// Classifies an operating system error once, for everyone.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the list of io kinds is open and grows with the standard library"
)]
pub fn io_kind(error: &std::io::Error) -> ErrorKind {
    use std::io::ErrorKind as Io;
    match error.kind() {
        Io::NotFound => ErrorKind::NotFound,
        Io::PermissionDenied | Io::ReadOnlyFilesystem => ErrorKind::Denied,
        Io::AlreadyExists | Io::DirectoryNotEmpty | Io::AddrInUse => ErrorKind::Conflict,
        Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => ErrorKind::Exhausted,
        Io::ConnectionRefused
        | Io::ConnectionReset
        | Io::ConnectionAborted
        | Io::NotConnected
        | Io::BrokenPipe
        | Io::HostUnreachable
        | Io::NetworkUnreachable
        | Io::UnexpectedEof
        | Io::AddrNotAvailable => ErrorKind::Unreachable,
        Io::TimedOut => ErrorKind::DeadlineExceeded,
        _ => ErrorKind::Failed,
    }
}

/// `.or_io("write segment", &path)` on `io::Result`.
pub trait IoContext<T> {
    fn or_io(self, op: &'static str, path: &std::path::Path) -> Result<T>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn or_io(self, op: &'static str, path: &std::path::Path) -> Result<T> {
        self.map_err(|e| Error::new(io_kind(&e), op).with("path", path.display()).because(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_renders_operation_context_and_every_source_once() {
        let io = std::io::Error::from(std::io::ErrorKind::NotFound);
        let inner =
            Error::new(ErrorKind::NotFound, "open object").with("key", "a/b").because(io).hint("look");
        let outer = inner.during("restore orders");
        assert_eq!(
            outer.to_string(),
            "cannot restore orders: cannot open object (key=a/b): entity not found"
        );
        assert_eq!(outer.advice(), Some("look"));
    }

    #[test]
    fn exit_codes_are_distinct_and_never_zero_or_one() {
        let mut seen = std::collections::BTreeSet::new();
        for kind in ErrorKind::ALL {
            assert!(kind.exit_code() > 2);
            assert!(seen.insert(kind.exit_code()), "{kind:?} shares its exit code");
        }
    }
}
