//! `lifeboat init`: writes a commented config file. Never overwrites one.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::Context;
use crate::error::{IoContext, Result};

/// The example is the template: one text, kept true by a test.
pub const TEMPLATE: &str = include_str!("../../config/lifeboat.example.toml");

#[derive(Debug, Args)]
pub struct Init {
    /// Where to write it. Default: the file named by --config.
    path: Option<PathBuf>,
}

impl Init {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let path = self.path.unwrap_or_else(|| context.config.clone());
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .or_io("write config", &path)
            .map_err(|e| e.hint("name another file, or edit the one that is there"))?;
        file.write_all(TEMPLATE.as_bytes()).or_io("write config", &path)?;
        let next = "edit it, then: lifeboat keys init, lifeboat doctor, lifeboat backup --all";
        let value = serde_json::json!({ "written": path, "next": next });
        context.output.show(&value, |_| format!("wrote {}\nnext: {next}", path.display()))?;
        Ok(ExitCode::SUCCESS)
    }
}
