//! Brings back roles, memberships, tablespaces and settings for all roles.

use super::dump::created_role;
use super::load::From;
use super::script;
use super::target::Target;
use super::toc::GLOBALS;
use crate::domain::place::Place;
use crate::domain::restore::Existing;
use crate::error::Result;
use crate::runtime::JobContext;
use crate::system::postgres::client::Client;

/// Roles and tablespaces. Those that exist stay as they are, unless replacing was asked for; we ourselves always do.
pub async fn restore(
    target: &Target<'_>,
    from: From<'_>,
    admin: &Client,
    job: &JobContext,
) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    let (existing, own) = target.roles(admin, job).await?;
    let spaces = target.tablespaces(admin, job).await?;
    let mut kept = Vec::new();
    for statement in script::statements(&from.text(GLOBALS, job).await?) {
        match about(&statement) {
            About::Role(name) => {
                let replaced = target.existing == Existing::Replace && name != own;
                if existing.contains(&name) && !replaced {
                    kept.push(name);
                    continue;
                }
            }
            About::Membership(of, to) => {
                let known = existing.contains(&of) && existing.contains(&to);
                if known && target.existing == Existing::Refuse {
                    continue;
                }
            }
            About::Tablespace(name) => {
                if !spaces.contains(&name) {
                    tablespace(target, admin, &name, &statement, job).await?;
                }
                continue;
            }
            About::AllRoles => {
                let fresh = matches!(target.place, Place::Server(_));
                if !fresh && target.existing == Existing::Refuse {
                    notes.push(format!("left out, as it would change every role: {statement}"));
                    continue;
                }
            }
            About::Other => {}
        }
        admin.execute_all(job, "restore roles and tablespaces", &statement).await?;
    }
    kept.sort();
    kept.dedup();
    if !kept.is_empty() {
        let names = kept.join(", ");
        notes.push(format!("roles that existed were left as they were: {names}"));
    }
    Ok(notes)
}

async fn tablespace(
    target: &Target<'_>,
    admin: &Client,
    name: &str,
    statement: &str,
    job: &JobContext,
) -> Result<()> {
    let (before, create) = target.tablespace_sql(name, statement);
    if let Some(before) = before {
        admin.execute_all(job, "prepare tablespace", before).await?;
    }
    // not together with anything: it cannot run inside a transaction
    admin.execute_all(job, "create tablespace", &create).await.map_err(|e| {
        e.hint("the directory of the tablespace must exist on the server, empty and owned by it")
    })
}

/// What a statement of `globals.sql` is about.
enum About {
    Role(String),
    Membership(String, String),
    /// Creates it.
    Tablespace(String),
    AllRoles,
    Other,
}

fn about(statement: &str) -> About {
    let after = |prefix: &str| statement.strip_prefix(prefix).and_then(script::identifier);
    if statement.starts_with("ALTER ROLE ALL ") {
        return About::AllRoles;
    }
    if let Some((name, _)) = after("ALTER ROLE ").or_else(|| after("COMMENT ON ROLE ")) {
        return About::Role(name);
    }
    if let Some(name) = created_role(statement) {
        return About::Role(name);
    }
    if let Some((name, _)) = after("CREATE TABLESPACE ") {
        return About::Tablespace(name);
    }
    if let Some((of, rest)) = after("GRANT ")
        && let Some((to, _)) = rest.trim_start().strip_prefix("TO ").and_then(script::identifier)
    {
        return About::Membership(of, to);
    }
    About::Other
}
