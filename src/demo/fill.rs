//! Filling the demo's production with real data, and saying what was taken.

use std::path::Path;

use bytes::Bytes;
use futures_util::SinkExt;
use rusqlite::Connection;

use super::estate::{Estate, FILES};
use super::source;
use crate::config::size::show_bytes;
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::runtime::JobContext;

const COPY_CHUNK_BYTES: usize = 256 * 1024;
const REDIS_BATCH: usize = 5_000;

fn failed<E: std::error::Error + Send + Sync + 'static>(what: &'static str) -> impl Fn(E) -> Error {
    move |e| Error::new(ErrorKind::Failed, what).because(e)
}

/// Fills every system; one line each for a person.
pub async fn fill(estate: &Estate, job: &JobContext) -> Result<Vec<String>> {
    let mut said = Vec::new();
    if let Some(port) = estate.postgres_port {
        said.push(postgres(port, job).await?);
    }
    if let Some(port) = estate.redis_port {
        said.push(redis(port, job).await?);
    }
    let file = estate.sqlite_file();
    said.push(job.workers().block("fill sqlite", move || sqlite(&file)).await?);
    let tree = estate.path(FILES);
    said.push(job.workers().block("fill files", move || files(&tree)).await?);
    Ok(said)
}

pub async fn connect(port: u16, database: &str, job: &JobContext) -> Result<tokio_postgres::Client> {
    let text = format!("host=127.0.0.1 port={port} user=postgres dbname={database}");
    let connecting = async {
        tokio_postgres::connect(&text, tokio_postgres::NoTls)
            .await
            .map_err(failed("connect to the demo's PostgreSQL"))
    };
    let (client, connection) = job.run("connect", connecting).await?;
    job.workers()
        .spawn("demo connection", async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection of the demo ended");
            }
            Ok(())
        })
        .detach();
    Ok(client)
}

async fn postgres(port: u16, job: &JobContext) -> Result<String> {
    let sql = failed::<tokio_postgres::Error>("fill PostgreSQL");
    connect(port, "postgres", job).await?.batch_execute("create database demo").await.map_err(&sql)?;
    let client = connect(port, "demo", job).await?;
    client
        .batch_execute(
            "create table files (id serial primary key, path text not null unique);
             create table lines (file int not null references files, n int not null, line text not null, primary key (file, n));
             create table orders (id bigserial primary key, at timestamptz not null default clock_timestamp(), item text not null);",
        )
        .await
        .map_err(&sql)?;
    let texts = source::texts(&["/usr/share/unicode", "/usr/share/iso-codes/json"])?;
    let (mut rows, mut bytes) = (0, 0);
    for (path, size) in &texts {
        job.check("fill PostgreSQL")?;
        let file: i32 = client
            .query_one("insert into files (path) values ($1) returning id", &[&path.display().to_string()])
            .await
            .map_err(&sql)?
            .get(0);
        rows += copy_lines(&client, file, path).await?;
        bytes += size;
    }
    client.batch_execute("create index on lines (md5(line)); analyze").await.map_err(&sql)?;
    Ok(format!(
        "PostgreSQL  {rows} rows: the lines of {} files ({}) of unicode-data and iso-codes",
        texts.len(),
        show_bytes(bytes)
    ))
}

async fn copy_lines(client: &tokio_postgres::Client, file: i32, path: &Path) -> Result<usize> {
    let sql = failed::<tokio_postgres::Error>("fill PostgreSQL");
    let lines = source::lines(path)?;
    let sink = client.copy_in("copy lines (file, n, line) from stdin").await.map_err(&sql)?;
    let mut sink = std::pin::pin!(sink);
    let mut chunk = String::new();
    for (n, line) in lines.iter().enumerate() {
        let escaped = line.replace('\\', "\\\\").replace('\t', "\\t").replace('\r', "\\r");
        chunk.push_str(&format!("{file}\t{n}\t{escaped}\n"));
        if chunk.len() > COPY_CHUNK_BYTES {
            sink.send(Bytes::from(std::mem::take(&mut chunk))).await.map_err(&sql)?;
        }
    }
    sink.send(Bytes::from(chunk)).await.map_err(&sql)?;
    sink.finish().await.map_err(&sql)?;
    Ok(lines.len())
}

async fn redis(port: u16, job: &JobContext) -> Result<String> {
    let said = failed::<redis::RedisError>("fill Redis");
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/")).map_err(&said)?;
    let mut connection =
        job.run("connect", async { client.get_multiplexed_async_connection().await.map_err(&said) }).await?;
    let mut keys = 0;
    let characters = source::lines(Path::new("/usr/share/unicode/UnicodeData.txt")).unwrap_or_default();
    for batch in characters.chunks(REDIS_BATCH) {
        let mut pipe = redis::pipe();
        for line in batch {
            let mut fields = line.split(';');
            if let (Some(code), Some(name)) = (fields.next(), fields.next()) {
                pipe.hset(format!("char:{code}"), "name", name).ignore();
                pipe.hset(format!("char:{code}"), "record", line).ignore();
                pipe.sadd(format!("word:{}", name.split(' ').next().unwrap_or("none")), code).ignore();
                keys += 1;
            }
        }
        job.run("fill Redis", async { pipe.query_async::<()>(&mut connection).await.map_err(&said) }).await?;
    }
    let zones = source::files(&["/usr/share/zoneinfo"])?;
    let mut pipe = redis::pipe();
    for (path, _) in zones.iter().take(REDIS_BATCH) {
        let bytes = std::fs::read(path).or_io("read", path)?;
        pipe.set(format!("zone:{}", path.display()), bytes).ignore();
        pipe.expire(format!("zone:{}", path.display()), 86_400).ignore();
    }
    job.run("fill Redis", async { pipe.query_async::<()>(&mut connection).await.map_err(&said) }).await?;
    Ok(format!(
        "Redis       {keys} characters of unicode-data as hashes and sets, {} time zones of tzdata with a TTL",
        zones.len()
    ))
}

fn sqlite(path: &Path) -> Result<String> {
    let sql = failed::<rusqlite::Error>("fill SQLite");
    let mut db = Connection::open(path).map_err(&sql)?;
    db.execute_batch(
        "pragma journal_mode = wal;
         create table notes (id integer primary key, at text not null, text text not null);
         create table lines (file text not null, n integer not null, line text not null, primary key (file, n)) without rowid;",
    )
    .map_err(&sql)?;
    let texts = source::texts(&["/usr/share/perl", "/usr/share/iso-codes/json"])?;
    let (mut rows, mut bytes) = (0, 0);
    let transaction = db.transaction().map_err(&sql)?;
    {
        let mut insert = transaction.prepare("insert into lines values (?1, ?2, ?3)").map_err(&sql)?;
        for (path, size) in &texts {
            for (n, line) in source::lines(path)?.iter().enumerate() {
                insert
                    .execute((path.display().to_string(), i64::try_from(n).unwrap_or(i64::MAX), line))
                    .map_err(&sql)?;
                rows += 1;
            }
            bytes += size;
        }
    }
    transaction.commit().map_err(&sql)?;
    Ok(format!(
        "SQLite      {rows} rows: the lines of {} files ({}) of iso-codes and perl-modules",
        texts.len(),
        show_bytes(bytes)
    ))
}

fn files(tree: &Path) -> Result<String> {
    let found = source::files(&["/usr/share/zoneinfo", "/usr/share/doc"])?;
    let mut bytes = 0;
    for (path, size) in &found {
        let target = tree.join(path.strip_prefix("/usr/share").unwrap_or(path));
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent).or_io("make directory", parent)?;
        }
        std::fs::copy(path, &target).or_io("copy", path)?;
        bytes += size;
    }
    let app = tree.join("app");
    std::fs::create_dir_all(&app).or_io("make directory", &app)?;
    std::fs::write(app.join("settings.json"), "{\"theme\": \"dark\"}\n").or_io("write", &app)?;
    Ok(format!("files       {} files ({}) of tzdata and /usr/share/doc", found.len(), show_bytes(bytes)))
}
