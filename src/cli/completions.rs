//! `lifeboat completions SHELL`.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, CommandFactory};

use super::Context;
use crate::error::{Error, Result, io_kind};

#[derive(Debug, Args)]
pub struct Completions {
    shell: clap_complete::Shell,
}

impl Completions {
    pub fn run(self, _context: &Context) -> Result<ExitCode> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::Args::command(), "lifeboat", &mut script);
        std::io::stdout()
            .write_all(&script)
            .map_err(|e| Error::new(io_kind(&e), "write output").because(e))?;
        Ok(ExitCode::SUCCESS)
    }
}
