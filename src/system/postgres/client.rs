//! Connections to a PostgreSQL server: production or a sandbox, with session settings that make answers comparable.
//!
//! Settings go into the startup packet, where nothing that a database or a role sets can override them.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::config::SslMode;
use tokio_postgres::types::ToSql;
use tokio_postgres::{NoTls, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

pub use super::refusal::{refused, server_error};
use super::settings::Settings;
use super::tls;
use crate::domain::place::Place;
use crate::error::{Error, ErrorKind, IoContext, Result, Retry};
use crate::runtime::JobContext;
use crate::runtime::workers::Task;

/// One connection attempt; the job's own deadline may be earlier.
pub const CONNECT_WAIT_MAX: Duration = Duration::from_secs(15);

/// No timeouts, one way to write every value, no names found by search path, no rows hidden by policies.
pub const SESSION_OPTIONS: &str = "-c statement_timeout=0 -c lock_timeout=60000 \
    -c idle_in_transaction_session_timeout=0 -c search_path= -c DateStyle=ISO,YMD -c IntervalStyle=postgres \
    -c extra_float_digits=3 -c bytea_output=hex -c TimeZone=UTC -c row_security=off -c role=none \
    -c default_transaction_read_only=off -c default_transaction_isolation=read\\ committed \
    -c xmlbinary=base64 -c synchronize_seqscans=off -c jit=off";

const APPLICATION_NAME: &str = "lifeboat";

/// Makes connections for one system. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connector {
    settings: Arc<Settings>,
}

/// Where a connection goes: resolved from a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Host name, address, or the directory of a Unix socket.
    pub host: String,
    pub port: u16,
    /// Sandboxes trust loopback and speak no TLS.
    pub trusted: Trusted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trusted {
    Sandbox,
    Configured,
}

/// An open connection. Dropping it closes it.
pub struct Client {
    inner: tokio_postgres::Client,
    /// 150018 for 15.18.
    version: u32,
    version_text: String,
    _connection: Task<()>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Deref for Client {
    type Target = tokio_postgres::Client;
    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

impl std::ops::DerefMut for Client {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.inner
    }
}

impl Connector {
    pub fn new(settings: Arc<Settings>) -> Self {
        Self { settings }
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A directory has no server: `Bug`, since callers decide by place before they connect.
    pub fn address(&self, place: &Place) -> Result<Address> {
        match place {
            Place::Production => Ok(Address {
                host: self.settings.host.clone(),
                port: self.settings.port,
                trusted: Trusted::Configured,
            }),
            Place::Server(server) => {
                Ok(Address { host: server.host.clone(), port: server.port, trusted: Trusted::Sandbox })
            }
            Place::Directory { path } => {
                Err(Error::bug("connect to plain files").with("path", path.display()))
            }
        }
    }

    /// Opens a connection to `database` at `place`.
    ///
    /// Errors: `Unreachable`, `Denied` (password, rights), `NotFound` (no such database).
    pub async fn connect(&self, place: &Place, database: &str, job: &JobContext) -> Result<Client> {
        let address = self.address(place)?;
        let config = self.config(&address, database)?;
        let tls = match address.trusted {
            Trusted::Sandbox => None,
            Trusted::Configured => tls::client_config(&self.settings)?,
        };
        let limited = job.child(CONNECT_WAIT_MAX);
        let opened = match tls {
            None => limited.run("connect", open(&config, NoTls, job)).await,
            Some(tls) => limited.run("connect", open(&config, MakeRustlsConnect::new(tls), job)).await,
        };
        let client = opened.map_err(|e| self.explain(e, &address, database, job))?;
        if client.version >= 170_000 {
            // known since 17 only, so it cannot stand in the startup packet
            client.execute_all(job, "set session limits", "SET transaction_timeout = 0").await?;
        }
        Ok(client)
    }

    /// The connector for checks that need every right. A sandbox trusts whoever connects, so a superuser of the restored
    /// server is used there; elsewhere the configured user has to do.
    pub async fn for_checks(&self, place: &Place, client: &Client, job: &JobContext) -> Result<Self> {
        if self.address(place)?.trusted == Trusted::Configured {
            return Ok(self.clone());
        }
        let sql = "SELECT rolname::text FROM pg_roles WHERE rolsuper AND rolcanlogin \
            ORDER BY rolname <> current_user, oid LIMIT 1";
        let Some(user) = client.text(job, "find superuser", sql).await? else {
            return Ok(self.clone());
        };
        let settings = Settings { user, ..(*self.settings).clone() };
        Ok(Self::new(Arc::new(settings)))
    }

    fn config(&self, address: &Address, database: &str) -> Result<tokio_postgres::Config> {
        let mut config = tokio_postgres::Config::new();
        if address.host.starts_with('/') {
            config.host_path(&address.host);
        } else {
            config.host(&address.host);
        }
        config
            .port(address.port)
            .user(&self.settings.user)
            .dbname(database)
            .application_name(APPLICATION_NAME)
            .options(SESSION_OPTIONS)
            .connect_timeout(CONNECT_WAIT_MAX)
            .keepalives_idle(Duration::from_secs(60));
        let encrypted =
            address.trusted == Trusted::Configured && self.settings.tls != super::settings::Tls::Off;
        config.ssl_mode(if encrypted { SslMode::Require } else { SslMode::Disable });
        if let (Trusted::Configured, Some(password)) = (address.trusted, &self.settings.password) {
            config.password(password.read()?.expose());
        }
        Ok(config)
    }

    fn explain(&self, error: Error, address: &Address, database: &str, job: &JobContext) -> Error {
        let timed_out = error.kind() == ErrorKind::DeadlineExceeded && job.check("connect").is_ok();
        let kind = if timed_out { ErrorKind::Unreachable } else { error.kind() };
        let retry = if kind == ErrorKind::Unreachable { Retry::Later } else { error.retry() };
        let advised = error.advice().is_some();
        let wrapped = Error::new(kind, "connect to PostgreSQL")
            .with("host", &address.host)
            .with("port", address.port)
            .with("user", &self.settings.user)
            .with("database", database)
            .because(error)
            .retry_as(retry);
        if kind == ErrorKind::Unreachable && !advised {
            return wrapped.hint("is the server running, and are host and port right?");
        }
        wrapped
    }

    /// Environment for PostgreSQL's own client programs, so that nothing secret stands in their arguments.
    /// The database goes by environment too: a name that looks like a connection string is then only a name.
    pub fn environment(&self, place: &Place, database: &str) -> Result<Vec<(String, String)>> {
        let address = self.address(place)?;
        let mut env = vec![
            ("PGHOST".to_owned(), address.host.clone()),
            ("PGPORT".to_owned(), address.port.to_string()),
            ("PGUSER".to_owned(), self.settings.user.clone()),
            ("PGDATABASE".to_owned(), database.to_owned()),
            ("PGAPPNAME".to_owned(), APPLICATION_NAME.to_owned()),
            ("PGCONNECT_TIMEOUT".to_owned(), CONNECT_WAIT_MAX.as_secs().to_string()),
            ("PGCLIENTENCODING".to_owned(), "UTF8".to_owned()),
            ("PGOPTIONS".to_owned(), SESSION_OPTIONS.to_owned()),
            // never a file of the account that happens to run us
            ("PGPASSFILE".to_owned(), "/nonexistent".to_owned()),
            ("LC_ALL".to_owned(), "C.UTF-8".to_owned()),
        ];
        if address.trusted == Trusted::Sandbox {
            env.push(("PGSSLMODE".to_owned(), "disable".to_owned()));
            return Ok(env);
        }
        let mode = match self.settings.tls {
            super::settings::Tls::Off => "disable",
            super::settings::Tls::Require => "require",
            super::settings::Tls::Verify => "verify-full",
        };
        env.push(("PGSSLMODE".to_owned(), mode.to_owned()));
        if let Some(ca) = &self.settings.ca_file {
            env.push(("PGSSLROOTCERT".to_owned(), ca.display().to_string()));
        } else if mode == "verify-full" {
            env.push(("PGSSLROOTCERT".to_owned(), "system".to_owned()));
        }
        if let Some(password) = &self.settings.password {
            env.push(("PGPASSWORD".to_owned(), password.read()?.expose().clone()));
        }
        Ok(env)
    }
}

async fn open<T>(config: &tokio_postgres::Config, tls: T, job: &JobContext) -> Result<Client>
where
    T: tokio_postgres::tls::MakeTlsConnect<tokio_postgres::Socket> + Send + 'static,
    T::TlsConnect: Send,
    T::Stream: Send + 'static,
    <T::TlsConnect as tokio_postgres::tls::TlsConnect<tokio_postgres::Socket>>::Future: Send,
{
    let (inner, connection) = config.connect(tls).await.map_err(|e| server_error("open connection", e))?;
    let version_text = connection.parameter("server_version").unwrap_or_default().to_owned();
    let task = job.workers().spawn("PostgreSQL connection", async move {
        if let Err(error) = connection.await {
            // whoever uses the connection gets the error; this is only for reading along
            tracing::debug!(%error, "connection ended");
        }
        Ok(())
    });
    Ok(Client { inner, version: version_number(&version_text), version_text, _connection: task })
}

/// `15.18 (Debian ..)` gives 150018; `16beta1` gives 160000. 0 when it is no version.
pub fn version_number(text: &str) -> u32 {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    let major = numbers.next().unwrap_or(0);
    let minor_is_release = text.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with('.');
    let minor = if minor_is_release { numbers.next().unwrap_or(0) } else { 0 };
    major * 10_000 + minor.min(9_999)
}

impl Client {
    /// As `server_version_num`: 150018 for 15.18.
    pub fn version(&self) -> u32 {
        self.version
    }

    pub fn major(&self) -> u32 {
        self.version / 10_000
    }

    /// As the server says it: `15.18 (Debian 15.18-0+deb12u1)`.
    pub fn version_text(&self) -> &str {
        &self.version_text
    }

    pub async fn rows(
        &self,
        job: &JobContext,
        op: &'static str,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>> {
        let query = async { self.inner.query(sql, params).await.map_err(|e| server_error(op, e)) };
        job.run(op, query).await
    }

    /// The one row that `sql` gives; `NotFound` when it gives none.
    pub async fn row(
        &self,
        job: &JobContext,
        op: &'static str,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Row> {
        let mut rows = self.rows(job, op, sql, params).await?;
        if rows.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, op).why("the server answered no row"));
        }
        Ok(rows.swap_remove(0))
    }

    /// Several statements without parameters; answers are dropped.
    pub async fn execute_all(&self, job: &JobContext, op: &'static str, sql: &str) -> Result<()> {
        let work = async { self.inner.batch_execute(sql).await.map_err(|e| server_error(op, e)) };
        job.run(op, work).await
    }

    /// First column of the first row, as text; `None` for no row or NULL. For queries that people wrote.
    pub async fn text(&self, job: &JobContext, op: &'static str, sql: &str) -> Result<Option<String>> {
        let work = async { self.inner.simple_query(sql).await.map_err(|e| server_error(op, e)) };
        let messages = job.run(op, work).await?;
        let first = messages.into_iter().find_map(|m| {
            if let tokio_postgres::SimpleQueryMessage::Row(row) = m {
                return Some(row.get(0).map(str::to_owned));
            }
            None
        });
        Ok(first.flatten())
    }
}

/// First file with what `path` should hold, as trimmed text.
pub fn read_trimmed(path: &std::path::Path) -> Result<String> {
    Ok(std::fs::read_to_string(path).or_io("read file", path)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_releases_and_betas_are_numbers() {
        assert_eq!(version_number("15.18 (Debian 15.18-0+deb12u1)"), 150_018);
        assert_eq!(version_number("12.22"), 120_022);
        assert_eq!(version_number("19beta1"), 190_000);
    }
}
