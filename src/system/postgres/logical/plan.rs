//! Plans a logical restore: what will be done, what stands in the way, what is not known. Changes nothing.

use std::path::Path;

use globset::{GlobBuilder, GlobMatcher};

use super::target::Target;
use super::toc::TableToc;
use super::{Detail, Logical, files};
use crate::domain::place::Place;
use crate::domain::restore::{Existing, RestorePlan, RestoreRequest, Selection};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;
use crate::system::point;
use crate::system::postgres::client::Client;
use crate::system::postgres::rows::readable;

/// Which tables are to be restored: `schema.table` or `database:schema.table`, each part may hold `*` and `?`.
#[derive(Clone, Debug)]
pub struct Wish {
    patterns: Vec<(Option<GlobMatcher>, GlobMatcher, String)>,
}

impl Wish {
    /// `None` for everything.
    pub fn of(selection: &Selection) -> Result<Option<Self>> {
        if selection.is_everything() {
            return Ok(None);
        }
        let patterns = selection.patterns.iter().map(|pattern| {
            let (database, table) = match pattern.split_once(':') {
                Some((database, table)) => (Some(glob(database)?), table),
                None => (None, pattern.as_str()),
            };
            if !table.contains('.') {
                return Err(Error::new(ErrorKind::Config, "read table pattern")
                    .with("pattern", pattern)
                    .hint("write schema.table or database:schema.table"));
            }
            Ok((database, glob(table)?, pattern.clone()))
        });
        let patterns = patterns.collect::<Result<_>>()?;
        Ok(Some(Self { patterns }))
    }

    pub fn wants_database(&self, database: &str) -> bool {
        self.patterns.iter().any(|(d, _, _)| d.as_ref().is_none_or(|d| d.is_match(database)))
    }

    /// Names are matched as they are, and as they stand in the fingerprint.
    pub fn wants(&self, database: &str, schema: &str, table: &str) -> bool {
        self.patterns.iter().any(|p| matches(p, database, schema, table))
    }

    /// Patterns that match none of the tables.
    pub fn unmatched(&self, tables: &[(&str, &TableToc)]) -> Vec<String> {
        self.patterns
            .iter()
            .filter(|p| !tables.iter().any(|(d, t)| matches(p, d, &t.schema, &t.name)))
            .map(|(_, _, text)| text.clone())
            .collect()
    }
}

fn matches(
    pattern: &(Option<GlobMatcher>, GlobMatcher, String),
    database: &str,
    schema: &str,
    table: &str,
) -> bool {
    let (in_database, named, _) = pattern;
    in_database.as_ref().is_none_or(|d| d.is_match(database))
        && (named.is_match(format!("{schema}.{table}"))
            || named.is_match(format!("{}.{}", readable(schema), readable(table))))
}

fn glob(pattern: &str) -> Result<GlobMatcher> {
    let glob = GlobBuilder::new(pattern).build().map_err(|e| {
        Error::new(ErrorKind::Config, "read table pattern").with("pattern", pattern).because(e)
    })?;
    Ok(glob.compile_matcher())
}

impl Logical<'_> {
    pub async fn plan_restore(&self, request: RestoreRequest, job: &JobContext) -> Result<RestorePlan> {
        let captured = &point(&request.chain)?.captured;
        let detail = Detail::of(captured)?;
        let wish = Wish::of(&request.selection)?;
        let mut plan = RestorePlan {
            actions: Vec::new(),
            bytes: point(&request.chain)?.raw_bytes(),
            free_bytes: None,
            missing: Vec::new(),
            unknown: Vec::new(),
            detail: serde_json::Value::Null,
            request,
        };
        let place = plan.request.place.clone();
        match &place {
            Place::Directory { path } => files::plan(&mut plan, path)?,
            Place::Server(server) => {
                plan.free_bytes = free_bytes(&server.dir);
                self.plan_server(&mut plan, &detail, wish.as_ref(), job).await?;
            }
            Place::Production => {
                plan.free_bytes = self.settings.data_dir.as_deref().and_then(free_bytes);
                if plan.free_bytes.is_none() {
                    plan.unknown.push("free space on the server's machine".to_owned());
                }
                self.plan_server(&mut plan, &detail, wish.as_ref(), job).await?;
            }
        }
        if plan.free_bytes.is_some_and(|free| free < plan.bytes) {
            plan.missing.push(format!(
                "space: {} bytes are needed, {} are free",
                plan.bytes,
                plan.free_bytes.unwrap_or(0)
            ));
        }
        Ok(plan)
    }

    async fn plan_server(
        &self,
        plan: &mut RestorePlan,
        detail: &Detail,
        wish: Option<&Wish>,
        job: &JobContext,
    ) -> Result<()> {
        let request = plan.request.clone();
        let target = Target {
            connector: self.connector,
            place: &request.place,
            run: &request.run,
            existing: request.existing,
        };
        let admin = target.admin(job).await?;
        if admin.major() < detail.major {
            plan.unknown.push(format!(
                "whether a server of version {} takes what one of version {} held",
                admin.major(),
                detail.major
            ));
        }
        plan_globals(plan, &target, &admin, detail, job).await?;
        for database in &detail.databases {
            let name = &database.name;
            let state = target.state(&admin, name, job).await?;
            let Some(wish) = wish else {
                plan.missing.extend(target.obstacle(name, &state));
                plan.actions.push(format!(
                    "make database {name} new and load {} tables, {} bytes on the original server",
                    database.tables, database.bytes
                ));
                continue;
            };
            if !wish.wants_database(name) {
                continue;
            }
            plan.actions.push(match (&state, request.existing) {
                (super::target::State::Absent | super::target::State::Ours, _) => format!(
                    "make database {name} with its whole schema, load only the selected tables, build indexes and keys; \
                     foreign keys and triggers are left out"
                ),
                (_, Existing::Replace) => format!(
                    "in database {name}: empty each selected table, which must exist there, and load its rows again"
                ),
                (_, Existing::Refuse) => format!(
                    "in database {name}: load each selected table, which must exist there and be empty"
                ),
            });
        }
        plan.actions.push("gather statistics (ANALYZE)".to_owned());
        Ok(())
    }
}

async fn plan_globals(
    plan: &mut RestorePlan,
    target: &Target<'_>,
    admin: &Client,
    detail: &Detail,
    job: &JobContext,
) -> Result<()> {
    let (roles, _) = target.roles(admin, job).await?;
    let missing = |have: &[String], want: &[String]| -> Vec<String> {
        want.iter().filter(|w| !have.contains(w)).cloned().collect()
    };
    let create = missing(&roles, &detail.roles);
    if !create.is_empty() {
        plan.actions.push(format!("create roles {}", create.join(", ")));
    }
    if create.len() < detail.roles.len() && plan.request.existing == Existing::Refuse {
        plan.actions.push("leave roles that exist already as they are".to_owned());
    }
    let spaces = missing(&target.tablespaces(admin, job).await?, &detail.tablespaces);
    if !spaces.is_empty() {
        plan.actions.push(format!("create tablespaces {}", spaces.join(", ")));
    }
    Ok(())
}

pub fn free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(patterns: &[&str]) -> Wish {
        let patterns = patterns.iter().map(|p| (*p).to_owned()).collect();
        Wish::of(&Selection { patterns }).unwrap().unwrap()
    }

    #[test]
    fn tables_are_chosen_by_database_schema_and_name() {
        let w = wish(&["shop:public.ord*", "audit.log"]);
        assert!(w.wants("shop", "public", "orders"));
        assert!(!w.wants("other", "public", "orders"));
        assert!(w.wants("other", "audit", "log"));
        assert!(!w.wants("shop", "public", "items"));
        let quoted = wish(&["\"Odd Schema\".\"T\""]);
        assert!(quoted.wants("d", "Odd Schema", "T"));
        assert!(wish(&["Odd Schema.T"]).wants("d", "Odd Schema", "T"));
    }

    #[test]
    fn a_pattern_without_a_schema_is_refused() {
        let selection = Selection { patterns: vec!["orders".to_owned()] };
        assert_eq!(Wish::of(&selection).unwrap_err().kind(), ErrorKind::Config);
    }
}
