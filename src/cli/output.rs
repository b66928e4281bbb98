//! Standard output: text for people, one JSON document for programs; errors with kind, way out and exit code.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use serde::Serialize;

use crate::error::{Error, Result, io_kind};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug)]
pub struct Output {
    form: Form,
}

impl Output {
    pub fn new(form: Form) -> Self {
        Self { form }
    }

    /// The result: `value` as JSON, or what `text` makes of it.
    pub fn show<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        let line = match self.form {
            Form::Text => text(value),
            Form::Json => {
                serde_json::to_string_pretty(value).map_err(|e| Error::bug("write json").because(e))?
            }
        };
        Self::write(&mut std::io::stdout().lock(), line.trim_end())
    }

    pub fn text(self, line: &str) -> Result<()> {
        match self.form {
            Form::Text => Self::write(&mut std::io::stdout().lock(), line),
            Form::Json => Ok(()),
        }
    }

    /// A remark for people, on standard error.
    pub fn note(self, line: &str) -> Result<()> {
        Self::write(&mut std::io::stderr().lock(), line)
    }

    fn write(to: &mut dyn std::io::Write, line: &str) -> Result<()> {
        writeln!(to, "{line}").map_err(|e| Error::new(io_kind(&e), "write output").because(e))
    }

    /// Shows an error and gives its exit code.
    pub fn fail(self, error: &Error) -> ExitCode {
        let kind = error.kind();
        let shown = match self.form {
            Form::Text => {
                let mut text = format!("error: {error}");
                if let Some(advice) = error.advice() {
                    let _infallible = write!(text, "\n  try: {advice}");
                }
                writeln!(std::io::stderr().lock(), "{text}")
            }
            Form::Json => {
                let value = serde_json::json!({
                    "code": kind.http_status(), "error": kind.name(), "message": error.to_string(),
                    "hint": error.advice(), "exit_code": kind.exit_code(),
                });
                writeln!(std::io::stdout().lock(), "{value:#}")
            }
        };
        if let Err(error) = shown {
            tracing::debug!(%error, "nobody reads the output");
        }
        ExitCode::from(kind.exit_code())
    }
}

/// A plain table: columns as wide as their widest cell, two spaces between.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<S: Into<String>>(head: impl IntoIterator<Item = S>) -> Self {
        let mut table = Self::default();
        table.row(head);
        table
    }

    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let pad = width - cell.chars().count().min(*width);
                line.push_str(cell);
                line.push_str(&" ".repeat(pad + 2));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// `3.2 s`, `4m 10s`: for tables.
pub fn show_seconds(seconds: f64) -> String {
    if seconds < 120.0 {
        return format!("{seconds:.1} s");
    }
    // whole seconds of a run that people wait for
    humantime::format_duration(std::time::Duration::from_secs(seconds as u64)).to_string()
}

pub fn show_time(at: crate::domain::Timestamp) -> String {
    at.format("%Y-%m-%d %H:%M:%SZ").to_string()
}
