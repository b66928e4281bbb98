//! The disaster: PostgreSQL killed and its data directory destroyed, Redis flushed, the SQLite file cut off, files deleted.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::estate::{Estate, FILES};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::runtime::JobContext;

const DEATH_WITHIN: Duration = Duration::from_secs(10);

/// Strikes everything; one line each for a person.
pub async fn strike(estate: &Estate, job: &JobContext) -> Result<Vec<String>> {
    let mut said = Vec::new();
    if estate.postgres_port.is_some() {
        said.push(postgres(&estate.postgres_data(), job).await?);
    }
    if let Some(port) = estate.redis_port {
        let failed = |e: redis::RedisError| Error::new(ErrorKind::Failed, "flush Redis").because(e);
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}/")).map_err(failed)?;
        let mut connection = client.get_multiplexed_async_connection().await.map_err(failed)?;
        redis::cmd("FLUSHALL").query_async::<()>(&mut connection).await.map_err(failed)?;
        said.push("Redis       FLUSHALL".to_owned());
    }
    let sqlite = estate.sqlite_file();
    let file = std::fs::File::options().write(true).open(&sqlite).or_io("open", &sqlite)?;
    let half = file.metadata().or_io("stat", &sqlite)?.len() / 2;
    file.set_len(half).or_io("truncate", &sqlite)?;
    said.push("SQLite      file cut off in the middle".to_owned());
    let documents = estate.path(FILES);
    for part in ["doc", "app"] {
        let path = documents.join(part);
        if path.is_dir() {
            std::fs::remove_dir_all(&path).or_io("remove", &path)?;
        }
    }
    said.push("files       doc/ and app/ deleted".to_owned());
    Ok(said)
}

async fn postgres(data: &Path, job: &JobContext) -> Result<String> {
    let pid_file = data.join("postmaster.pid");
    let text = std::fs::read_to_string(&pid_file).or_io("read", &pid_file)?;
    let pid = text.lines().next().and_then(|l| l.trim().parse::<i32>().ok());
    let pid = Pid::from_raw(pid.ok_or_else(|| Error::bug("read the pid of the demo's PostgreSQL"))?);
    kill(pid, Signal::SIGKILL).map_err(|e| Error::new(ErrorKind::Failed, "kill PostgreSQL").because(e))?;
    let limit = job.child(DEATH_WITHIN);
    while kill(pid, None).is_ok() {
        limit.sleep("wait for the death of PostgreSQL", Duration::from_millis(10)).await?;
    }
    // orphaned backends notice within moments; what they still write is destroyed as well
    let gone = data.with_file_name("destroyed");
    std::fs::rename(data, &gone).or_io("destroy the data directory", data)?;
    while std::fs::remove_dir_all(&gone).is_err() {
        limit.sleep("destroy the data directory", Duration::from_millis(20)).await?;
    }
    Ok("PostgreSQL  SIGKILL, data directory destroyed".to_owned())
}
