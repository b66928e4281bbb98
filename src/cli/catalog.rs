//! `lifeboat catalog rebuild`: the catalog from storage alone.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::Context;
use crate::catalog::rebuild::rebuild;
use crate::domain::id::DestinationName;
use crate::domain::manifest::Manifest;
use crate::error::Result;
use crate::pipeline::inventory::inventory;

#[derive(Debug, Args)]
pub struct Catalog {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make the catalog say what the destinations hold. Runs and their journals stay.
    Rebuild,
}

#[derive(Debug, Default, Serialize)]
struct Found {
    backups: usize,
    /// Manifests that are not believed, with why.
    refused: Vec<String>,
    /// Segments without a manifest.
    unfinished: Vec<String>,
}

impl Catalog {
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let Verb::Rebuild = self.verb;
        let node = context.open()?;
        let trusted = node.trusted()?;
        let (mut entries, mut found): (Vec<(Manifest, DestinationName)>, Found) = Default::default();
        for (name, storage) in &node.storages {
            let inventory = inventory(&**storage, &trusted, None, &context.job).await?;
            entries.extend(inventory.backups.into_iter().map(|m| (m, name.clone())));
            found.refused.extend(inventory.refused.iter().map(|r| format!("{name}:{}: {}", r.key, r.error)));
            found.unfinished.extend(
                inventory.unfinished.iter().map(|u| format!("{name}:{} ({} objects)", u.prefix, u.objects)),
            );
        }
        found.backups = entries.len();
        let report = rebuild(&*node.catalog, entries, &context.job).await?;
        context.output.show(&serde_json::json!({ "found": found, "changes": report }), |_| {
            let mut text = format!("{} backups found in storage\n{report:?}\n", found.backups);
            for line in &found.refused {
                text.push_str(&format!("REFUSED {line}\n"));
            }
            for line in &found.unfinished {
                text.push_str(&format!("unfinished {line}\n"));
            }
            text
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
