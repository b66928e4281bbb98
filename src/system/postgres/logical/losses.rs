//! What a logical backup of *this* server does not carry, or brings back changed. Found by looking, never assumed.

use std::collections::BTreeMap;

use crate::domain::backup::Digest;
use crate::error::Result;
use crate::runtime::JobContext;
use crate::system::postgres::client::Client;
use crate::system::postgres::rows::readable;

/// Names listed in one note; the rest is counted.
const NAMES_SHOWN_MAX: usize = 5;

/// A query for names, and what is to be said when there are some.
struct Question {
    said: &'static str,
    names: &'static str,
}

/// User schemas only, for queries that join `pg_namespace n`.
const DATABASE_QUESTIONS: [Question; 14] = [
    Question {
        said: "materialized views are computed again when loaded, not restored as they were",
        names: "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                WHERE c.relkind = 'm' AND c.relispopulated AND n.nspname !~ '^pg_'",
    },
    Question {
        said: "invalid indexes are not restored",
        names: "SELECT indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
                JOIN pg_namespace n ON n.oid = c.relnamespace \
                WHERE NOT i.indisvalid AND c.relkind = 'i' AND n.nspname !~ '^pg_'",
    },
    Question {
        said: "constraints that are NOT VALID stay so; rows that break them are restored",
        names: "SELECT conname || ' on ' || COALESCE(NULLIF(conrelid, 0)::regclass::text, contypid::regtype::text) \
                FROM pg_constraint WHERE NOT convalidated AND oid >= 16384",
    },
    Question {
        said: "disabled triggers of foreign keys come back enabled",
        names: "SELECT DISTINCT tgrelid::regclass::text FROM pg_trigger WHERE tgisinternal AND tgenabled <> 'O'",
    },
    Question {
        said: "members that were added to built-in operator families are not restored",
        names: "SELECT DISTINCT f.opfname::text FROM pg_opfamily f WHERE f.oid < 16384 AND ( \
                EXISTS (SELECT FROM pg_amop o WHERE o.amopfamily = f.oid AND o.oid >= 16384 AND NOT EXISTS \
                  (SELECT FROM pg_depend d WHERE d.classid = 'pg_amop'::regclass AND d.objid = o.oid AND d.deptype IN ('e', 'i'))) \
                OR EXISTS (SELECT FROM pg_amproc p WHERE p.amprocfamily = f.oid AND p.oid >= 16384 AND NOT EXISTS \
                  (SELECT FROM pg_depend d WHERE d.classid = 'pg_amproc'::regclass AND d.objid = p.oid AND d.deptype IN ('e', 'i'))))",
    },
    Question {
        said: "rows of foreign tables are elsewhere and not in this backup",
        names: "SELECT ftrelid::regclass::text FROM pg_foreign_table",
    },
    Question {
        said: "subscriptions come back disabled and without their slot",
        names: "SELECT subname::text FROM pg_subscription \
                WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())",
    },
    Question {
        said: "checks that call functions are evaluated while rows load: one that reads other tables may refuse them",
        names: "SELECT DISTINCT c.conname || ' on ' || c.conrelid::regclass FROM pg_constraint c \
                JOIN pg_depend d ON d.classid = 'pg_constraint'::regclass AND d.objid = c.oid \
                AND d.refclassid = 'pg_proc'::regclass AND d.refobjid >= 16384 \
                WHERE c.contype = 'c' AND c.conrelid <> 0",
    },
    Question {
        said: "unlogged tables are in this backup, but a crash of the server empties them",
        names: "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relkind = 'r' AND c.relpersistence = 'u'",
    },
    Question {
        said: "tables in system schemas are not in this backup",
        names: "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't' \
                AND (n.nspname IN ('pg_catalog', 'information_schema')) \
                AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')",
    },
    Question {
        said: "security labels on the database are not restored",
        names: "SELECT label FROM pg_shseclabel WHERE classoid = 'pg_database'::regclass \
                AND objoid = (SELECT oid FROM pg_database WHERE datname = current_database())",
    },
    Question {
        said: "rights on system objects that were changed are restored as far as pg_dump knows them",
        names: "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_init_privs i \
                ON i.objoid = c.oid AND i.classoid = 'pg_class'::regclass AND i.objsubid = 0 \
                WHERE c.oid < 16384 AND c.relacl IS DISTINCT FROM i.initprivs",
    },
    Question {
        said: "text in a database without an encoding (SQL_ASCII) is restored byte by byte; nothing checks that it is readable",
        names: "SELECT datname::text FROM pg_database WHERE datname = current_database() AND encoding = 0",
    },
    Question {
        said: "objects of these extensions come from what is installed where the backup is loaded, at its version",
        names: "SELECT e.extname || ' ' || e.extversion FROM pg_extension e WHERE e.extname <> 'plpgsql'",
    },
];

const SERVER_QUESTIONS: [Question; 4] = [
    Question {
        said: "databases that allow no connections are not in this backup",
        names: "SELECT datname::text FROM pg_database WHERE NOT datallowconn AND datname <> 'template0'",
    },
    Question {
        said: "prepared transactions are not in this backup",
        names: "SELECT gid FROM pg_prepared_xacts",
    },
    Question {
        said: "replication slots are not in this backup",
        names: "SELECT slot_name::text FROM pg_replication_slots WHERE slot_name !~ '^lifeboat' AND NOT temporary",
    },
    Question {
        said: "settings in postgresql.auto.conf are not in this backup",
        names: "SELECT name FROM pg_settings WHERE sourcefile LIKE '%postgresql.auto.conf'",
    },
];

/// Tables that belong to an extension without being its configuration, and hold rows.
const EXTENSION_TABLES: &str = "SELECT c.oid::regclass::text, e.extname::text FROM pg_class c \
    JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0 \
      AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' \
    JOIN pg_extension e ON e.oid = d.refobjid \
    WHERE c.relkind = 'r' AND NOT (c.oid = ANY (COALESCE(e.extconfig, '{}')))";

/// Objects of a user in `template1`, which new databases would have got.
const TEMPLATE_OBJECTS: &str = "SELECT c.oid::regclass::text FROM pg_class c WHERE c.oid >= 16384 AND c.relkind IN ('r', 'v', 'm', 'S', 'p') \
    UNION ALL SELECT 'extension ' || extname FROM pg_extension WHERE extname <> 'plpgsql'";

/// Notes on the database that `client` is connected to.
pub async fn of_database(client: &Client, database: &str, job: &JobContext) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for question in &DATABASE_QUESTIONS {
        let names = names(client, question.names, job).await?;
        notes.extend(note(Some(database), question.said, &names));
    }
    for row in client.rows(job, "list tables of extensions", EXTENSION_TABLES, &[]).await? {
        let (table, extension): (String, String) = (row.get(0), row.get(1));
        let any = client.text(job, "look into table", &format!("SELECT 1 FROM {table} LIMIT 1")).await?;
        if any.is_some() {
            notes.push(format!(
                "{}: rows of {table} are not in this backup: the table belongs to extension {extension} and is not its configuration",
                readable(database)
            ));
        }
    }
    Ok(notes)
}

pub async fn of_server(client: &Client, job: &JobContext) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for question in &SERVER_QUESTIONS {
        let names = names(client, question.names, job).await?;
        notes.extend(note(None, question.said, &names));
    }
    Ok(notes)
}

/// `client` is connected to `template1`.
pub async fn of_template(client: &Client, job: &JobContext) -> Result<Vec<String>> {
    let names = names(client, TEMPLATE_OBJECTS, job).await?;
    let said = "objects that new databases would inherit are not in this backup";
    Ok(note(Some("template1"), said, &names).into_iter().collect())
}

async fn names(client: &Client, query: &str, job: &JobContext) -> Result<Vec<String>> {
    let rows = client.rows(job, "look for what cannot be carried", query, &[]).await?;
    Ok(rows.iter().filter_map(|r| r.get::<_, Option<String>>(0)).collect())
}

fn note(database: Option<&str>, said: &str, names: &[String]) -> Option<String> {
    if names.is_empty() {
        return None;
    }
    let shown = names[..names.len().min(NAMES_SHOWN_MAX)].join(", ");
    let more = match names.len().saturating_sub(NAMES_SHOWN_MAX) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let at = database.map_or(String::new(), |d| format!("{}: ", readable(d)));
    Some(format!("{at}{said}: {shown}{more}"))
}

/// Every object that a logical backup carries besides rows, by type: how many, and a hash over their names.
const OBJECTS: &str = "
WITH o(classid, objid) AS (
  SELECT 'pg_class'::regclass, c.oid FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid
    WHERE c.relkind <> 't' AND c.relpersistence <> 't' AND c.relnamespace <> 'pg_toast'::regnamespace
    AND COALESCE(i.indisvalid, true)
  UNION ALL SELECT 'pg_constraint'::regclass, oid FROM pg_constraint WHERE contype <> 't'
  UNION ALL SELECT 'pg_trigger'::regclass, oid FROM pg_trigger WHERE NOT tgisinternal
  UNION ALL SELECT 'pg_proc'::regclass, oid FROM pg_proc
  UNION ALL SELECT 'pg_type'::regclass, oid FROM pg_type WHERE typtype IN ('d', 'e', 'r')
  UNION ALL SELECT 'pg_policy'::regclass, oid FROM pg_policy
  UNION ALL SELECT 'pg_rewrite'::regclass, oid FROM pg_rewrite
  UNION ALL SELECT 'pg_attrdef'::regclass, oid FROM pg_attrdef
  UNION ALL SELECT 'pg_namespace'::regclass, oid FROM pg_namespace WHERE nspname !~ '^(pg_|public$)'
  UNION ALL SELECT 'pg_extension'::regclass, oid FROM pg_extension WHERE extname NOT IN ('plpgsql', 'amcheck')
  UNION ALL SELECT 'pg_statistic_ext'::regclass, oid FROM pg_statistic_ext
  UNION ALL SELECT 'pg_event_trigger'::regclass, oid FROM pg_event_trigger
  UNION ALL SELECT 'pg_publication'::regclass, oid FROM pg_publication
  UNION ALL SELECT 'pg_cast'::regclass, oid FROM pg_cast
  UNION ALL SELECT 'pg_operator'::regclass, oid FROM pg_operator
  UNION ALL SELECT 'pg_opclass'::regclass, oid FROM pg_opclass
  UNION ALL SELECT 'pg_collation'::regclass, oid FROM pg_collation
  UNION ALL SELECT 'pg_ts_config'::regclass, oid FROM pg_ts_config
  UNION ALL SELECT 'pg_foreign_server'::regclass, oid FROM pg_foreign_server)
SELECT i.type, count(*), sum(hashtextextended(i.identity, 0)::numeric)::text
FROM o CROSS JOIN LATERAL pg_identify_object(o.classid, o.objid, 0) i
WHERE o.objid >= 16384 AND i.identity IS NOT NULL AND COALESCE(i.schema, '') <> 'lifeboat'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = o.classid AND d.objid = o.objid AND d.objsubid = 0
                  AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e')
GROUP BY i.type";

/// Objects of the database that `client` is connected to. Only comparable between servers of the same major version.
pub async fn objects(client: &Client, job: &JobContext) -> Result<BTreeMap<String, Digest>> {
    let rows = client.rows(job, "list objects", OBJECTS, &[]).await?;
    Ok(rows
        .iter()
        .map(|row| {
            let digest = Digest { count: u64::try_from(row.get::<_, i64>(1)).unwrap_or(0), hash: row.get(2) };
            (row.get(0), digest)
        })
        .collect())
}
