//! `lifeboat assess`: what is wrong, what is lost, what to do next.

use std::fmt::Write;
use std::process::ExitCode;

use clap::Args;

use super::Context;
use super::output::{Table, show_time};
use crate::error::{ErrorKind, Result};
use crate::operation::assess::{Assessment, assess};

#[derive(Debug, Args)]
pub struct Assess {}

impl Assess {
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let node = context.open()?;
        let assessment = assess(&node, &context.job).await?;
        context.output.show(&assessment, render)?;
        Ok(if assessment.healthy {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(ErrorKind::Unreachable.exit_code())
        })
    }
}

fn render(a: &Assessment) -> String {
    let mut table = Table::new(["SYSTEM", "KIND", "STATE", "NEWEST POINT", "AS OF", "EXPOSURE", "PROVEN"]);
    for s in &a.systems {
        let state = format!("{:?}", s.health.state).to_lowercase();
        let exposure = s.exposure_seconds.map_or_else(|| "unknown".to_owned(), |e| format!("{e} s"));
        let (point, as_of, proven) = match &s.point {
            Some(p) => (
                format!("{} {}", p.backup, p.state),
                p.watermark.map_or_else(|| show_time(p.captured_at), |w| show_time(w.at)),
                p.proven_at.map_or_else(|| "never".to_owned(), show_time),
            ),
            None => ("none".to_owned(), "-".to_owned(), "never".to_owned()),
        };
        table.row([s.name.to_string(), s.kind.clone(), state, point, as_of, exposure, proven]);
    }
    let mut text = table.render();
    for s in &a.systems {
        if s.advice.is_empty() && s.health.summary.is_empty() {
            continue;
        }
        let _infallible = writeln!(text, "\n{}: {}", s.name, s.health.summary);
        for line in &s.advice {
            let _infallible = writeln!(text, "  - {line}");
        }
    }
    text.push_str("\nNext:\n");
    for line in &a.next {
        let _infallible = writeln!(text, "  {line}");
    }
    text
}
