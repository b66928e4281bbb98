//! The demo's application: one writer per system that counts what was acknowledged, and later reads back what is left.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use rusqlite::Connection;

use super::estate::{self, Estate, FILES, POSTGRES, REDIS, SQLITE};
use super::fill;
use crate::domain::id::SystemName;
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::operation::{Node, canary};
use crate::runtime::JobContext;
use crate::runtime::workers::Task;

const WRITE_EVERY: Duration = Duration::from_millis(20);
const BEAT_EVERY: Duration = Duration::from_millis(500);

/// Writers under way; [`Writers::stop`] gives the number of the last acknowledged write of each.
#[derive(Debug)]
pub struct Writers {
    job: JobContext,
    acknowledged: BTreeMap<SystemName, Arc<AtomicU64>>,
    tasks: Vec<Task<()>>,
}

fn failed<E: std::error::Error + Send + Sync + 'static>(e: E) -> Error {
    Error::new(ErrorKind::Failed, "write for the demo").because(e)
}

fn sqlite(path: &Path) -> Result<u64> {
    let db = Connection::open(path).map_err(failed)?;
    db.busy_timeout(Duration::from_secs(5)).map_err(failed)?;
    db.execute("insert into notes (at, text) values (datetime('now'), hex(randomblob(16)))", ())
        .map_err(failed)?;
    Ok(db.last_insert_rowid().unsigned_abs())
}

fn upload(path: &Path, n: u64) -> Result<u64> {
    let mut file = std::fs::File::create_new(path).or_io("write", path)?;
    writeln!(file, "upload {n}").or_io("write", path)?;
    Ok(n)
}

impl Writers {
    pub async fn start(estate: &Estate, node: &Node, job: &JobContext) -> Result<Self> {
        let mut writers = Self { job: job.fresh_child(), acknowledged: BTreeMap::new(), tasks: Vec::new() };
        if let Some(port) = estate.postgres_port {
            let client = Arc::new(fill::connect(port, "demo", job).await?);
            writers.add(POSTGRES, move |_| {
                let client = client.clone();
                Box::pin(async move {
                    let sql = "insert into orders (item) values (md5(random()::text)) returning id";
                    client
                        .query_one(sql, &[])
                        .await
                        .map(|r| r.get::<_, i64>(0).unsigned_abs())
                        .map_err(failed)
                })
            })?;
        }
        if let Some(port) = estate.redis_port {
            let client = redis::Client::open(format!("redis://127.0.0.1:{port}/")).map_err(failed)?;
            let connection = client.get_multiplexed_async_connection().await.map_err(failed)?;
            writers.add(REDIS, move |_| {
                let mut connection = connection.clone();
                Box::pin(async move {
                    let mut pipe = redis::pipe();
                    pipe.atomic().incr("app:sequence", 1).lpush("app:log", "visit").ignore();
                    pipe.ltrim("app:log", 0, 999).ignore();
                    pipe.query_async::<(u64,)>(&mut connection).await.map(|n| n.0).map_err(failed)
                })
            })?;
        }
        let path = estate.sqlite_file();
        writers.add(SQLITE, move |_| {
            let written = sqlite(&path);
            Box::pin(async move { written })
        })?;
        let app = estate.path(FILES).join("app");
        writers.add(FILES, move |n| {
            let written = upload(&app.join(format!("upload-{n:06}.txt")), n);
            Box::pin(async move { written })
        })?;
        writers.beat(node);
        Ok(writers)
    }

    /// Writes at a steady pace until stopped or refused; counts what was acknowledged.
    fn add(
        &mut self,
        system: &str,
        mut write: impl FnMut(u64) -> BoxFuture<'static, Result<u64>> + Send + 'static,
    ) -> Result<()> {
        let count = Arc::new(AtomicU64::new(0));
        self.acknowledged.insert(estate::name(system)?, count.clone());
        let job = self.job.clone();
        self.tasks.push(self.job.workers().spawn("demo writer", async move {
            for n in 1.. {
                match job.run("write", write(n)).await {
                    Ok(number) => count.store(number, Ordering::Release),
                    Err(error) => {
                        tracing::debug!(%error, "the demo's writer stops");
                        break;
                    }
                }
                if job.sleep("write", WRITE_EVERY).await.is_err() {
                    break;
                }
            }
            Ok(())
        }));
        Ok(())
    }

    /// Heartbeat records, as `serve` would write them.
    fn beat(&mut self, node: &Node) {
        for system in self.acknowledged.keys() {
            let (node, system, job) = (node.clone(), system.clone(), self.job.clone());
            self.tasks.push(self.job.workers().spawn("demo heartbeat", async move {
                while job.sleep("beat", BEAT_EVERY).await.is_ok() {
                    if let Err(error) = canary::write(&node, &system, &job).await {
                        tracing::debug!(%system, %error, "no heartbeat");
                    }
                }
                Ok(())
            }));
        }
    }

    /// Stops writing; number of the last acknowledged write per system.
    pub async fn stop(self) -> Result<BTreeMap<SystemName, u64>> {
        self.job.cancel();
        for task in self.tasks {
            task.join().await?;
        }
        Ok(self.acknowledged.into_iter().map(|(name, n)| (name, n.load(Ordering::Acquire))).collect())
    }
}

/// Number of the newest write that production holds now, as the application sees it.
pub async fn newest(estate: &Estate, system: &SystemName, job: &JobContext) -> Result<u64> {
    match (system.as_str(), estate.postgres_port, estate.redis_port) {
        (POSTGRES, Some(port), _) => {
            let client = fill::connect(port, "demo", job).await?;
            let row =
                client.query_one("select coalesce(max(id), 0) from orders", &[]).await.map_err(failed)?;
            Ok(row.get::<_, i64>(0).unsigned_abs())
        }
        (REDIS, _, Some(port)) => {
            let client = redis::Client::open(format!("redis://127.0.0.1:{port}/")).map_err(failed)?;
            let mut connection = client.get_multiplexed_async_connection().await.map_err(failed)?;
            let n: Option<u64> =
                redis::cmd("GET").arg("app:sequence").query_async(&mut connection).await.map_err(failed)?;
            Ok(n.unwrap_or(0))
        }
        (SQLITE, _, _) => {
            let db = Connection::open(estate.sqlite_file()).map_err(failed)?;
            db.query_row("select coalesce(max(id), 0) from notes", (), |r| r.get::<_, i64>(0))
                .map(i64::unsigned_abs)
                .map_err(failed)
        }
        (FILES, _, _) => {
            let app = estate.path(FILES).join("app");
            let uploads = std::fs::read_dir(&app).or_io("list", &app)?.filter_map(std::result::Result::ok);
            let number =
                |name: String| name.strip_prefix("upload-")?.strip_suffix(".txt")?.parse::<u64>().ok();
            Ok(uploads
                .filter_map(|e| number(e.file_name().to_string_lossy().into_owned()))
                .max()
                .unwrap_or(0))
        }
        _ => Err(Error::bug("read back a system that the demo does not have").with("system", system)),
    }
}
