//! Definitions: schema by `pg_dump`, roles and tablespaces by `pg_dumpall`, and what neither of them writes in a form that
//! loads anywhere: the databases themselves and their properties, settings for all roles.

use serde_json::Value;

use super::script;
use super::snapshot::{Snapshot, database_sql};
use super::toc::{File, GLOBALS, artifact};
use crate::domain::place::Place;
use crate::error::{Error, Result};
use crate::runtime::JobContext;
use crate::runtime::child::Program;
use crate::system::postgres::client::{Client, Connector};
use crate::system::postgres::programs::{self, Wanted};
use crate::system::postgres::rows::{quote_ident, quote_literal};
use crate::system::postgres::settings::Settings;
use crate::system::{ArtifactWriter, BackupSink};

/// How long `pg_dump` waits for a lock before it gives up.
const LOCK_WAIT_MILLIS: u32 = 60_000;
/// Settings whose value is a list of quoted names rather than one text.
const LIST_SETTINGS: [&str; 6] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// What is needed to run the server's own client programs.
#[derive(Clone, Copy, Debug)]
pub struct Tools<'a> {
    pub settings: &'a Settings,
    pub connector: &'a Connector,
    pub place: &'a Place,
    pub major: u32,
}

impl Tools<'_> {
    /// A client program connected to `database`, which goes by environment and is never read as a connection string.
    pub fn program(&self, name: &str, database: &str) -> Result<Program> {
        let program = programs::find(self.settings, name, Wanted::AtLeast(self.major))?;
        let env = self.connector.environment(self.place, database)?;
        Ok(env.into_iter().fold(program, |p, (key, value)| {
            if key == "PGOPTIONS" {
                let options = format!("{value} -c standard_conforming_strings=on -c lc_monetary=C");
                return p.env(key, options);
            }
            p.env(key, value)
        }))
    }

    /// Streams `pre-data` or `post-data` of the snapshot's database into its artifact.
    pub async fn section(
        &self,
        snapshot: &Snapshot,
        database: &Database,
        file: File,
        sink: &dyn BackupSink,
        job: &JobContext,
    ) -> Result<()> {
        let (section, head) = match file {
            File::Pre => ("pre-data", database.before_schema.as_str()),
            File::Post => ("post-data", ""),
            File::Create | File::Sequences | File::LargeObjects | File::Properties => {
                return Err(Error::bug("dump a section of this name").with("file", format!("{file:?}")));
            }
        };
        let mut program = self
            .program("pg_dump", &snapshot.database)?
            .args(["--no-password", "--no-blobs", "--format=plain"])
            .arg(format!("--section={section}"))
            .arg(format!("--snapshot={}", snapshot.id))
            .arg(format!("--lock-wait-timeout={LOCK_WAIT_MILLIS}"));
        if database.encoding == "SQL_ASCII" {
            program = program.arg("--encoding=SQL_ASCII");
        }
        let mut writer = sink.artifact(&artifact(&file.of(database.oid))?).await?;
        if !head.is_empty() {
            writer.write(head.to_owned().into()).await?;
        }
        let mut output = program.start(job)?;
        while let Some(chunk) = output.next(job).await? {
            write(&mut writer, chunk, job).await?;
        }
        job.run("finish artifact", writer.finish()).await.map(drop)
    }

    /// Roles and tablespaces, in a form that loads where some of the roles exist already. Gives notes.
    pub async fn globals(
        &self,
        client: &Client,
        sink: &dyn BackupSink,
        job: &JobContext,
    ) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        let readable = "SELECT has_table_privilege('pg_catalog.pg_authid', 'SELECT')::text";
        let mut program = self.program("pg_dumpall", "postgres")?.args(["--globals-only", "--no-password"]);
        if client.text(job, "look at rights", readable).await?.as_deref() != Some("true") {
            program = program.arg("--no-role-passwords");
            notes.push(
                "passwords of roles are not in this backup: the user may not read pg_authid".to_owned(),
            );
        }
        // a plain name only: this program reads anything with = or :// as a connection string
        let plain = |name: &&String| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        if let Some(name) = Some(&self.settings.database).filter(plain) {
            program = program.arg(format!("--database={name}"));
        }
        let output = program.output(job).await?;
        let text =
            String::from_utf8(output.to_vec()).map_err(|e| Error::bug("read roles as UTF-8").because(e))?;
        let settings = settings_sql(client, "setdatabase = 0 AND setrole = 0", job).await?;
        let whole = format!("{}\n{settings}", tolerate_existing_roles(&text));
        write_text(sink, GLOBALS, whole, job).await?;
        Ok(notes)
    }
}

pub async fn write(
    writer: &mut Box<dyn ArtifactWriter>,
    chunk: bytes::Bytes,
    job: &JobContext,
) -> Result<()> {
    job.run("write artifact", writer.write(chunk)).await
}

pub async fn write_text(sink: &dyn BackupSink, name: &str, text: String, job: &JobContext) -> Result<()> {
    let mut writer = sink.artifact(&artifact(name)?).await?;
    write(&mut writer, text.into(), job).await?;
    job.run("finish artifact", writer.finish()).await.map(drop)
}

/// `CREATE ROLE x;` becomes: create it unless it is there.
fn tolerate_existing_roles(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let mut rest = text;
    for statement in script::statements(text) {
        let Some(name) = created_role(&statement) else {
            continue;
        };
        let Some(at) = rest.find(&statement) else { continue };
        out.push_str(&rest[..at]);
        out.push_str(&ensure_role(&name));
        rest = &rest[at + statement.len()..];
    }
    out.push_str(rest);
    out
}

/// The role that a statement of `globals.sql` creates.
pub fn created_role(statement: &str) -> Option<String> {
    let after = statement.strip_prefix("CREATE ROLE ")?;
    script::identifier(after).map(|(name, _)| name)
}

fn ensure_role(name: &str) -> String {
    let body = format!(
        "BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {}) THEN CREATE ROLE {}; END IF; END",
        quote_literal(name),
        quote_ident(name)
    );
    format!("DO {};", quote_literal(&body))
}

/// One database as its definition goes into the backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    pub oid: u32,
    pub name: String,
    pub encoding: String,
    pub create: String,
    /// Applied after the content: settings here can keep content from loading.
    pub properties: String,
    /// What a new database has and this one has not.
    pub before_schema: String,
}

const DATABASE: &str = "SELECT to_jsonb(d) || jsonb_build_object('owner', pg_get_userbyid(d.datdba), \
    'tablespace', t.spcname, 'encoding_name', pg_encoding_to_char(d.encoding), \
    'comment', shobj_description(d.oid, 'pg_database'), \
    'public', EXISTS (SELECT FROM pg_namespace WHERE nspname = 'public')) \
    FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace WHERE d.datname = current_database()";

impl Database {
    /// Reads the database that `client` is connected to.
    pub async fn read(client: &Client, job: &JobContext) -> Result<Self> {
        let row = client.row(job, "read database properties", DATABASE, &[]).await?;
        let d: Value = row.get(0);
        let text = |key: &str| d.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let name = text("datname");
        let oid = d.get("oid").and_then(as_oid).unwrap_or_default();
        let has_public = d.get("public").and_then(Value::as_bool).unwrap_or(true);
        let before_schema = if has_public {
            ""
        } else {
            "-- this database has no schema public\nDROP SCHEMA IF EXISTS public;\n\n"
        };
        Ok(Self {
            oid,
            encoding: text("encoding_name"),
            create: create_sql(&name, &d),
            properties: properties_sql(client, &name, &d, job).await?,
            before_schema: before_schema.to_owned(),
            name,
        })
    }
}

fn as_oid(value: &Value) -> Option<u32> {
    match value.as_str() {
        Some(text) => text.parse().ok(),
        None => value.as_u64().and_then(|n| u32::try_from(n).ok()),
    }
}

fn create_sql(name: &str, d: &Value) -> String {
    let text = |key: &str| d.get(key).and_then(Value::as_str);
    let mut sql = format!(
        "CREATE {} WITH TEMPLATE = template0 ENCODING = {}",
        database_sql(name),
        quote_literal(text("encoding_name").unwrap_or("UTF8"))
    );
    let mut option = |key: &str, value: Option<&str>| {
        if let Some(value) = value {
            sql.push_str(&format!(" {key} = {}", quote_literal(value)));
        }
    };
    // named from version 15 on; the key for its locale changed with 17
    let locale = text("datlocale").or(text("daticulocale"));
    match text("datlocprovider") {
        Some("i") => {
            option("LOCALE_PROVIDER", Some("icu"));
            option("ICU_LOCALE", locale);
            option("ICU_RULES", text("daticurules"));
        }
        Some("b") => {
            option("LOCALE_PROVIDER", Some("builtin"));
            option("BUILTIN_LOCALE", locale);
        }
        Some(_) => option("LOCALE_PROVIDER", Some("libc")),
        None => {}
    }
    option("LC_COLLATE", text("datcollate"));
    option("LC_CTYPE", text("datctype"));
    for (key, name) in [("OWNER", text("owner")), ("TABLESPACE", text("tablespace"))] {
        if let Some(name) = name {
            sql.push_str(&format!(" {key} = {}", quote_ident(name)));
        }
    }
    sql.push(';');
    sql
}

async fn properties_sql(client: &Client, name: &str, d: &Value, job: &JobContext) -> Result<String> {
    let this = database_sql(name);
    let mut lines = Vec::new();
    let text = |key: &str| d.get(key).and_then(Value::as_str);
    if let Some(owner) = text("owner") {
        lines.push(format!("ALTER {this} OWNER TO {};", quote_ident(owner)));
    }
    lines.push(match text("comment") {
        Some(comment) => format!("COMMENT ON {this} IS {};", quote_literal(comment)),
        None => format!("COMMENT ON {this} IS NULL;"),
    });
    lines.extend(grants(client, &this, job).await?);
    if let Some(limit) = d.get("datconnlimit").and_then(Value::as_i64).filter(|n| *n >= 0) {
        lines.push(format!("ALTER {this} CONNECTION LIMIT {limit};"));
    }
    if d.get("datistemplate").and_then(Value::as_bool) == Some(true) {
        lines.push(format!("ALTER {this} IS_TEMPLATE true;"));
    }
    let own = "setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())";
    lines.push(settings_sql(client, own, job).await?);
    Ok(lines.join("\n"))
}

const GRANTS: &str = "SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END, \
    a.privilege_type, a.is_grantable FROM pg_database d, aclexplode(d.datacl) a WHERE d.datname = current_database()";

/// Nothing for a database whose rights were never changed.
async fn grants(client: &Client, this: &str, job: &JobContext) -> Result<Vec<String>> {
    let rows = client.rows(job, "read database rights", GRANTS, &[]).await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let mut lines = vec![format!("REVOKE ALL ON {this} FROM PUBLIC;")];
    for row in rows {
        let (to, privilege): (String, String) = (row.get(0), row.get(1));
        let option = if row.get(2) { " WITH GRANT OPTION" } else { "" };
        lines.push(format!("GRANT {privilege} ON {this} TO {to}{option};"));
    }
    Ok(lines)
}

/// Settings stored for databases and roles, as statements; `which` is a condition on `pg_db_role_setting`.
async fn settings_sql(client: &Client, which: &str, job: &JobContext) -> Result<String> {
    let query = format!(
        "SELECT d.datname::text, r.rolname::text, u.setting \
         FROM pg_db_role_setting s CROSS JOIN LATERAL unnest(s.setconfig) u(setting) \
         LEFT JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole \
         WHERE {which} ORDER BY 1, 2, 3"
    );
    let mut lines = Vec::new();
    for row in client.rows(job, "read stored settings", &query, &[]).await? {
        let (database, role, setting): (Option<String>, Option<String>, String) =
            (row.get(0), row.get(1), row.get(2));
        let target = match (database, role) {
            (Some(database), Some(role)) => {
                format!("ROLE {} IN {}", quote_ident(&role), database_sql(&database))
            }
            (Some(database), None) => database_sql(&database),
            (None, Some(role)) => format!("ROLE {}", quote_ident(&role)),
            (None, None) => "ROLE ALL".to_owned(),
        };
        if let Some((name, value)) = setting.split_once('=') {
            lines.push(format!(
                "ALTER {target} SET {} TO {};",
                quote_ident(name),
                setting_value(name, value)
            ));
        }
    }
    Ok(lines.join("\n"))
}

fn setting_value(name: &str, value: &str) -> String {
    if !LIST_SETTINGS.contains(&name) {
        return quote_literal(value);
    }
    let (mut items, mut rest) = (Vec::new(), value.trim());
    while !rest.is_empty() {
        let (item, after) = match script::identifier(rest).filter(|_| rest.starts_with('"')) {
            Some(found) => found,
            None => rest
                .find(',')
                .map_or((rest.trim().to_owned(), ""), |end| (rest[..end].trim().to_owned(), &rest[end..])),
        };
        items.push(quote_literal(&item));
        rest = after.trim_start().trim_start_matches(',').trim_start();
    }
    if items.is_empty() {
        return "''".to_owned();
    }
    items.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_that_exists_already_does_not_stop_the_globals() {
        let text = "--\n-- Roles\n--\n\nCREATE ROLE app;\nALTER ROLE app WITH LOGIN;\nCREATE ROLE \"we\"\"ird; x\";\n";
        let out = tolerate_existing_roles(text);
        assert!(!out.contains("\nCREATE ROLE"), "{out}");
        assert!(out.contains("rolname = ''app''"), "{out}");
        assert!(out.contains("ALTER ROLE app WITH LOGIN;"), "{out}");
        assert!(out.contains("CREATE ROLE \"we\"\"ird; x\""), "{out}");
    }

    #[test]
    fn lists_of_names_are_set_as_lists() {
        assert_eq!(setting_value("search_path", "\"$user\", public, \"a,b\""), "'$user', 'public', 'a,b'");
        assert_eq!(setting_value("search_path", "\"\""), "''");
        assert_eq!(setting_value("work_mem", "4MB"), "'4MB'");
    }
}
