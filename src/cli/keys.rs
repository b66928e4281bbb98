//! `lifeboat keys`: make, list and check keys.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::Context;
use crate::app;
use crate::config::Config;
use crate::error::Result;
use crate::pipeline::keys::{EncryptionKeys, Identities, generate};
use crate::pipeline::signing::{SigningKey, TrustedSigners};
use crate::system::registry::registry;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lifeboat keys init                    into {state_dir}/keys
  lifeboat keys init --dir ./keys
  lifeboat keys check                   can this machine back up, restore and check signatures?")]
pub struct Keys {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make an age key pair and a signing key. Never overwrites one.
    Init {
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Public keys that are configured.
    List,
    /// Whether the keys fit together, and what this machine can do with them.
    Check,
}

#[derive(Debug, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "two answers to two questions, as JSON")]
struct KeyReport {
    recipients: Vec<String>,
    identities: Vec<String>,
    signer: Option<String>,
    trusted: Vec<String>,
    can_back_up: bool,
    can_restore: bool,
    findings: Vec<String>,
}

impl Keys {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        match self.verb {
            Verb::Init { dir } => init(context, dir),
            Verb::List | Verb::Check => {
                let report = report(&Config::load(&context.config, &registry())?);
                context.output.show(&report, render)?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

fn init(context: &Context, dir: Option<PathBuf>) -> Result<ExitCode> {
    let dir = match dir {
        Some(dir) => dir,
        None => {
            let config = Config::load(&context.config, &registry())?;
            app::private_dir(&config.state_dir)?;
            config.state_dir.join("keys")
        }
    };
    let keys = generate(&dir, context.job.now())?;
    let value = serde_json::json!({
        "identity": keys.identity, "recipients": keys.recipients, "signing": keys.signing, "signers": keys.signers,
        "recipient": keys.recipient, "signer": keys.signer,
    });
    context.output.show(&value, |_| {
        format!(
            "made {}\n  {}  SECRET: opens backups. Copy it to a place that does not burn down with this machine.\n  \
             {}  public: encrypts backups\n  {}  SECRET: signs manifests\n  {}  public: whose manifests are trusted",
            dir.display(),
            keys.identity.display(),
            keys.recipients.display(),
            keys.signing.display(),
            keys.signers.display(),
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

fn report(config: &Config) -> KeyReport {
    let e = &config.encryption;
    let mut findings = Vec::new();
    let mut note = |error: crate::error::Error| findings.push(error.to_string());
    let recipients = EncryptionKeys::load(&e.recipients_file)
        .map_err(&mut note)
        .map(|k| k.to_strings())
        .unwrap_or_default();
    let identities = Identities::load(&e.identity_files).map_err(&mut note).ok();
    let signing = SigningKey::load(&e.signing_key).map_err(&mut note).ok();
    let trusted = TrustedSigners::load(&e.signers_file).map_err(&mut note).unwrap_or_default();
    findings.extend(identities.iter().flat_map(|l| l.findings.clone()));
    findings.extend(signing.iter().flat_map(|l| l.findings.clone()));
    let signer = signing.map(|l| l.keys.public_key());
    let opens = identities.as_ref().is_some_and(|l| l.keys.open_any_of(&recipients));
    if let Some(signer) = &signer
        && !trusted.trusts(signer)
    {
        findings.push("own manifests would be refused: add the signer to the signers file".to_owned());
    }
    if identities.is_some() && !opens {
        findings.push(
            "the identities here open none of the recipients: backups taken now could not be restored here"
                .to_owned(),
        );
    }
    KeyReport {
        can_back_up: (!e.enabled || !recipients.is_empty()) && signer.is_some(),
        can_restore: (!e.enabled || opens) && !trusted.to_strings().is_empty(),
        identities: identities.map(|l| l.keys.public_keys().to_vec()).unwrap_or_default(),
        trusted: trusted.to_strings(),
        recipients,
        signer,
        findings,
    }
}

fn render(report: &KeyReport) -> String {
    let yes_no = |yes: bool| if yes { "yes" } else { "no" };
    let mut text = format!(
        "recipients  {}\nidentities  {}\nsigner      {}\ntrusted     {}\ncan back up {}   can restore {}",
        report.recipients.join(" "),
        report.identities.join(" "),
        report.signer.as_deref().unwrap_or("-"),
        report.trusted.join(" "),
        yes_no(report.can_back_up),
        yes_no(report.can_restore),
    );
    for finding in &report.findings {
        text.push_str("\n! ");
        text.push_str(finding);
    }
    text
}
