//! What a running server says about itself: INFO, clock, databases, configuration.

use std::collections::BTreeMap;

use super::connection::Connection;
use super::resp::Reply;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;

/// The fields of INFO.
#[derive(Clone, Debug, Default)]
pub struct Info(BTreeMap<String, String>);

impl Info {
    pub async fn read(connection: &mut Connection, job: &JobContext) -> Result<Self> {
        let text = connection.ask(&["INFO"], job).await?.to_text();
        let fields = text.lines().filter_map(|line| line.trim_end().split_once(':'));
        Ok(Self(fields.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()))
    }

    pub fn get(&self, field: &str) -> Option<&str> {
        self.0.get(field).map(String::as_str)
    }

    pub fn number(&self, field: &str) -> Option<u64> {
        self.get(field)?.parse().ok()
    }

    pub fn is(&self, field: &str, value: &str) -> bool {
        self.get(field) == Some(value)
    }

    /// `Redis 7.0.15`, `Valkey 8.1.0`.
    pub fn version(&self) -> String {
        match (self.get("valkey_version"), self.get("redis_version")) {
            (Some(valkey), _) => format!("Valkey {valkey}"),
            (None, Some(redis)) => format!("Redis {redis}"),
            (None, None) => "unknown".to_owned(),
        }
    }

    pub fn major(&self) -> Option<u32> {
        self.get("redis_version")?.split('.').next()?.parse().ok()
    }

    /// Keys per database number; databases without keys are not listed.
    pub fn keys(&self) -> BTreeMap<u64, u64> {
        let keyspace = self.0.iter().filter_map(|(name, value)| {
            let number = name.strip_prefix("db")?.parse().ok()?;
            let keys = value.split(',').find_map(|part| part.strip_prefix("keys="))?;
            Some((number, keys.parse().ok()?))
        });
        keyspace.collect()
    }
}

/// The server's clock in milliseconds since 1970; ours when the user may not ask for it.
pub async fn clock_ms(connection: &mut Connection, job: &JobContext) -> Result<i64> {
    let reply = match connection.ask(&["TIME"], job).await {
        Err(error) if error.kind() == ErrorKind::Denied => return Ok(job.now().timestamp_millis()),
        other => other?,
    };
    match reply.items() {
        [seconds, micros] => {
            let parts = seconds.integer().zip(micros.integer());
            parts.map(|(s, us)| s.saturating_mul(1000).saturating_add(us / 1000))
        }
        _ => None,
    }
    .ok_or_else(|| Error::new(ErrorKind::Failed, "read the server's clock"))
}

/// Parameters by pattern; `None` when the user may not read them or the server does not offer it.
pub async fn parameters(
    connection: &mut Connection,
    pattern: &str,
    job: &JobContext,
) -> Result<Option<BTreeMap<String, String>>> {
    match connection.ask(&["CONFIG", "GET", pattern], job).await {
        Ok(reply) => {
            let pairs = reply.items().chunks_exact(2);
            Ok(Some(pairs.map(|p| (p[0].to_text(), p[1].to_text())).collect()))
        }
        Err(error) if matches!(error.kind(), ErrorKind::Denied | ErrorKind::Failed) => Ok(None),
        Err(error) => Err(error),
    }
}

pub async fn select(connection: &mut Connection, db: u64, job: &JobContext) -> Result<()> {
    connection.ask(&["SELECT", &db.to_string()], job).await.map(drop).map_err(|e| {
        e.during("select database")
            .with("db", db)
            .hint("raise `databases` in the server's configuration: the backup uses a higher database number")
    })
}

/// Whether `key` exists in the selected database.
pub async fn exists(connection: &mut Connection, key: &[u8], job: &JobContext) -> Result<bool> {
    Ok(connection.call(&[b"EXISTS", key], job).await? == Reply::Integer(1))
}
