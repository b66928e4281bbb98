//! What no RDB carries: users and configuration, captured beside it, for a person to restore by hand.

use bytes::Bytes;

use super::artifact;
use super::connection::Connection;
use super::server;
use crate::error::{ErrorKind, Result};
use crate::runtime::JobContext;
use crate::system::BackupSink;

const ACL: &str = "acl.txt";
const CONFIG: &str = "config.txt";
const SECRET_PARAMETERS: [&str; 4] =
    ["requirepass", "masterauth", "tls-key-file-pass", "tls-client-key-file-pass"];

/// Writes both artifacts, as far as the user may read them. Gives the notes for the manifest.
pub async fn capture(
    connection: &mut Connection,
    sink: &dyn BackupSink,
    job: &JobContext,
) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    match connection.ask(&["ACL", "LIST"], job).await {
        Ok(users) => {
            store(sink, ACL, users.to_text() + "\n", job).await?;
            notes.push(format!("users are in {ACL}, with hashed passwords; a restore does not apply them"));
        }
        Err(error) if is_not_allowed(error.kind()) => {
            notes.push("users were not captured: the right to ACL LIST is missing".to_owned());
        }
        Err(error) => return Err(error),
    }
    match server::parameters(connection, "*", job).await? {
        Some(parameters) => {
            let lines = parameters
                .iter()
                .filter(|(name, _)| !is_secret(name))
                .map(|(name, value)| format!("{name} \"{}\"\n", value.escape_default()));
            store(sink, CONFIG, lines.collect(), job).await?;
            notes.push(format!(
                "the configuration is in {CONFIG}, without passwords; a restore does not apply it"
            ));
        }
        None => {
            notes.push("the configuration was not captured: the right to CONFIG GET is missing".to_owned());
        }
    }
    notes.push("cached scripts are in no backup; function libraries are".to_owned());
    Ok(notes)
}

fn is_not_allowed(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Denied | ErrorKind::Failed)
}

fn is_secret(parameter: &str) -> bool {
    SECRET_PARAMETERS.contains(&parameter) || parameter.ends_with("pass") || parameter.contains("password")
}

async fn store(sink: &dyn BackupSink, name: &str, text: String, job: &JobContext) -> Result<()> {
    let mut writer = sink.artifact(&artifact(name)?).await?;
    job.run("store artifact", writer.write(Bytes::from(text))).await?;
    job.run("store artifact", writer.finish()).await?;
    Ok(())
}
