//! The databases at a place that is restored into: what state they are in, how they are made and removed.
//!
//! A database that is being filled carries a comment with the run's id; it goes when the database is complete. Only such
//! a database of the same run, an empty one, or one that may be replaced is ever removed; `template0` and `template1` never.

use super::snapshot::database_sql;
use crate::domain::id::RunId;
use crate::domain::place::Place;
use crate::domain::restore::Existing;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::system::postgres::client::{Client, Connector};
use crate::system::postgres::rows::{quote_ident, quote_literal};

const UNFINISHED: &str = "lifeboat: restore not finished, run ";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Absent,
    /// Nothing of a user in it besides heartbeats.
    Empty,
    /// Left by a dead attempt of this very run.
    Ours,
    /// Holds something; says what.
    Filled(String),
}

#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub connector: &'a Connector,
    pub place: &'a Place,
    pub run: &'a RunId,
    pub existing: Existing,
}

/// The first thing of a user; extensions' own things count as the extension.
const FIRST_OBJECT: &str = "
SELECT what FROM (
  SELECT 'relation ' || c.oid::regclass AS what, c.oid FROM pg_class c
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND c.relnamespace NOT IN
      (SELECT n.oid FROM pg_namespace n WHERE n.nspname IN ('lifeboat', 'pg_toast'))
  UNION ALL SELECT 'function ' || oid::regprocedure, oid FROM pg_proc
  UNION ALL SELECT 'type ' || oid::regtype, oid FROM pg_type WHERE typtype IN ('d', 'e', 'r')
  UNION ALL SELECT 'schema ' || nspname, oid FROM pg_namespace WHERE nspname NOT IN ('lifeboat', 'public')
    AND nspname !~ '^pg_'
  UNION ALL SELECT 'extension ' || extname, oid FROM pg_extension WHERE extname <> 'plpgsql'
  UNION ALL SELECT 'large object ' || oid, oid FROM pg_largeobject_metadata) found
WHERE oid >= 16384 OR what LIKE 'large object%' LIMIT 1";

impl Target<'_> {
    /// A connection from which other databases can be made and removed.
    pub async fn admin(&self, job: &JobContext) -> Result<Client> {
        match self.connector.connect(self.place, "template1", job).await {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Denied) => {
                let other = &self.connector.settings().database;
                self.connector.connect(self.place, other, job).await
            }
            result => result,
        }
    }

    pub async fn state(&self, admin: &Client, database: &str, job: &JobContext) -> Result<State> {
        let query = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = $1";
        let rows = admin.rows(job, "look for database", query, &[&database]).await?;
        let Some(row) = rows.first() else {
            return Ok(State::Absent);
        };
        let comment: Option<String> = row.get(0);
        if let Some(run) = comment.as_deref().and_then(|c| c.strip_prefix(UNFINISHED)) {
            return Ok(if run == self.run.as_str() {
                State::Ours
            } else {
                State::Filled(format!("what the unfinished restore {run} left"))
            });
        }
        let client = self.connector.connect(self.place, database, job).await?;
        let first = client.text(job, "look into database", FIRST_OBJECT).await?;
        Ok(first.map_or(State::Empty, State::Filled))
    }

    /// What keeps `database` from being restored as a whole; `None` when nothing does.
    pub fn obstacle(&self, database: &str, state: &State) -> Option<String> {
        match (state, self.existing) {
            (State::Absent | State::Empty | State::Ours, _) | (State::Filled(_), Existing::Replace) => None,
            (State::Filled(what), Existing::Refuse) => Some(format!(
                "database {database} exists and is not empty ({what}): replacing it must be asked for"
            )),
        }
    }

    /// Makes `database` new and empty, marked as unfinished, from its `CREATE DATABASE`.
    ///
    /// `Conflict` when it holds something that may not be replaced; then nothing was changed.
    pub async fn create(&self, admin: &Client, database: &str, create: &str, job: &JobContext) -> Result<()> {
        let state = self.state(admin, database, job).await?;
        if let Some(obstacle) = self.obstacle(database, &state) {
            return Err(Error::new(ErrorKind::Conflict, "restore database")
                .with("database", database)
                .why(obstacle)
                .hint("restore elsewhere, or ask for what is there to be replaced"));
        }
        if state != State::Absent {
            self.drop_database(admin, database, &state, job).await?;
        }
        admin.execute_all(job, "create database", create).await?;
        let mark = format!(
            "COMMENT ON {} IS {}",
            database_sql(database),
            quote_literal(&format!("{UNFINISHED}{}", self.run))
        );
        admin.execute_all(job, "mark database", &mark).await
    }

    async fn drop_database(
        &self,
        admin: &Client,
        database: &str,
        state: &State,
        job: &JobContext,
    ) -> Result<()> {
        if database == "template0" || database == "template1" {
            return Err(Error::bug("remove a template database").with("database", database));
        }
        let this = database_sql(database);
        // a template cannot be dropped, and nobody may come in between
        let open = format!("ALTER {this} IS_TEMPLATE false");
        admin.execute_all(job, "prepare removal", &open).await?;
        let sandbox = matches!(self.place, Place::Server(_));
        let force = sandbox || *state == State::Ours || self.existing == Existing::Replace;
        let how = if force && admin.major() >= 13 { " WITH (FORCE)" } else { "" };
        tracing::info!(database, ?state, "removing database before its restore");
        let drop = format!("DROP {this}{how}");
        admin.execute_all(job, "remove database", &drop).await
    }

    /// Roles that exist before anything is restored, and the one we are.
    pub async fn roles(&self, admin: &Client, job: &JobContext) -> Result<(Vec<String>, String)> {
        let rows = admin.rows(job, "list roles", "SELECT rolname::text FROM pg_roles", &[]).await?;
        let own = admin.row(job, "ask who we are", "SELECT current_user::text", &[]).await?;
        Ok((rows.iter().map(|r| r.get(0)).collect(), own.get(0)))
    }

    pub async fn tablespaces(&self, admin: &Client, job: &JobContext) -> Result<Vec<String>> {
        let query = "SELECT spcname::text FROM pg_tablespace";
        let rows = admin.rows(job, "list tablespaces", query, &[]).await?;
        Ok(rows.iter().map(|r| r.get(0)).collect())
    }

    /// In a sandbox a tablespace lies inside the data directory, wherever it lay before.
    pub fn tablespace_sql(&self, name: &str, statement: &str) -> (Option<&'static str>, String) {
        match self.place {
            Place::Server(_) => (
                Some("SET allow_in_place_tablespaces = on"),
                format!("CREATE TABLESPACE {} LOCATION ''", quote_ident(name)),
            ),
            Place::Production | Place::Directory { .. } => (None, statement.to_owned()),
        }
    }
}
