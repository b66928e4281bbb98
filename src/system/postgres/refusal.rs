//! What errors of a PostgreSQL server mean to us: the one place that reads SQLSTATE codes.

use tokio_postgres::error::SqlState;

use crate::error::{Error, ErrorKind};

/// Classifies an error of the driver once, for everyone.
pub fn server_error(op: impl Into<String>, error: tokio_postgres::Error) -> Error {
    if let Some(db) = error.as_db_error() {
        return refused(op.into(), db.code().code(), db.message(), db.detail(), db.hint());
    }
    if is_tls(&error) {
        return Error::new(ErrorKind::Denied, op)
            .because(error)
            .hint("is the certificate valid for this host, and does ca_file name its authority?");
    }
    let io = std::error::Error::source(&error).and_then(|s| s.downcast_ref::<std::io::Error>());
    let kind = match io {
        Some(_) => ErrorKind::Unreachable,
        None if error.is_closed() => ErrorKind::Unreachable,
        None => ErrorKind::Failed,
    };
    Error::new(kind, op).because(error)
}

/// Did the two sides not agree on encryption? Then the server was reached.
fn is_tls(error: &tokio_postgres::Error) -> bool {
    let io = std::error::Error::source(error).and_then(|s| s.downcast_ref::<std::io::Error>());
    io.and_then(std::io::Error::get_ref).and_then(|inner| inner.downcast_ref::<rustls::Error>()).is_some()
}

/// An error that the server reported, by its five-character code.
pub fn refused(op: String, code: &str, message: &str, detail: Option<&str>, hint: Option<&str>) -> Error {
    let kind = kind_of(code);
    let why = match detail {
        Some(detail) => format!("{message} ({detail})"),
        None => message.to_owned(),
    };
    let error = Error::new(kind, op).with("sqlstate", code).why(why);
    if code == SqlState::INVALID_PASSWORD.code()
        || code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION.code()
    {
        return error.hint("check user, password and the server's pg_hba.conf");
    }
    if code == SqlState::INSUFFICIENT_PRIVILEGE.code() {
        return error.hint(format!("the server said: {message}; grant that right to the configured user"));
    }
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

fn kind_of(code: &str) -> ErrorKind {
    match code {
        "28P01" | "28000" | "42501" | "25006" => ErrorKind::Denied,
        "3D000" | "42P01" | "42704" | "3F000" | "58P01" => ErrorKind::NotFound,
        "42710" | "42P04" | "42P07" | "55000" => ErrorKind::Conflict,
        "53300" | "55P03" | "55006" => ErrorKind::Busy,
        "0A000" => ErrorKind::Unsupported,
        _ => match &code[..code.len().min(2)] {
            "08" | "57" => ErrorKind::Unreachable,
            "53" | "54" => ErrorKind::Exhausted,
            "XX" if code != "XX000" => ErrorKind::Corrupt,
            _ => ErrorKind::Failed,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_password_is_denied_and_says_what_to_check() {
        let error = refused("log in".to_owned(), "28P01", "password authentication failed", None, None);
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(error.advice().unwrap().contains("pg_hba"));
    }
}
