//! What production holds, and the comparison of what came back with what was there.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::world::World;

const ROW_BYTES: usize = 400;

/// A database with `rows` notes of incompressible content.
pub fn fill_notes(file: &Path, rows: usize) {
    let db = rusqlite::Connection::open(file).unwrap();
    db.execute_batch("pragma journal_mode = wal; create table if not exists notes (id integer primary key, body blob not null)").unwrap();
    add_notes(file, rows);
}

pub fn add_notes(file: &Path, rows: usize) {
    let db = rusqlite::Connection::open(file).unwrap();
    let sql = format!(
        "with recursive n(i) as (select 1 union all select i + 1 from n where i < {rows}) \
         insert into notes (body) select randomblob({ROW_BYTES}) from n"
    );
    db.execute_batch(&sql).unwrap();
}

/// Every row of the notes, in order. lifeboat's own heartbeat table is not part of them.
pub fn notes(file: &Path) -> Vec<(i64, Vec<u8>)> {
    let db = rusqlite::Connection::open(file).unwrap();
    let mut query = db.prepare("select id, body from notes order by id").unwrap();
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

/// A small tree with what trees have: empty files and directories, links, modes, names that are no plain ASCII.
pub fn fill_documents(root: &Path) {
    for dir in ["app", "empty", "deep/er/still"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    let files: [(&str, Vec<u8>); 6] = [
        ("settings.json", b"{\"theme\": \"sea\"}".to_vec()),
        ("app/nothing", Vec::new()),
        ("app/größe \n odd", b"umlaut, blank and line break".to_vec()),
        ("deep/er/still/water", (0..200_000_u32).map(|n| (n * 7 % 251) as u8).collect()),
        ("app/run.sh", b"#!/bin/sh\n".to_vec()),
        (".hidden", b"here".to_vec()),
    ];
    for (name, bytes) in files {
        std::fs::write(root.join(name), bytes).unwrap();
    }
    std::fs::set_permissions(root.join("app/run.sh"), std::fs::Permissions::from_mode(0o750)).unwrap();
    symlink("../settings.json", root.join("app/link")).unwrap();
    std::fs::hard_link(root.join("settings.json"), root.join("deep/same")).unwrap();
}

/// Many files that do not compress, so that capturing and restoring them takes a while.
pub fn fill_many_documents(root: &Path, files: u32, bytes: usize) {
    let mut state = 88_172_645_463_325_252_u64;
    for n in 0..files {
        let dir = root.join(format!("many/{:02}", n % 37));
        std::fs::create_dir_all(&dir).unwrap();
        let body: Vec<u8> = (0..bytes)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect();
        std::fs::write(dir.join(format!("{n}")), body).unwrap();
    }
}

/// Mode (kind included) and content of every entry, by its path.
pub type Tree = BTreeMap<String, (u32, Vec<u8>)>;

/// A tree as it is, the heartbeat file of lifeboat apart.
pub fn tree(root: &Path) -> Tree {
    let mut found = BTreeMap::new();
    for path in walk(root) {
        let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        if name.starts_with(".lifeboat") {
            continue;
        }
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_symlink() {
            std::fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else if meta.is_file() {
            std::fs::read(&path).unwrap()
        } else {
            b"directory".to_vec()
        };
        found.insert(name, (meta.permissions().mode(), content));
    }
    found
}

fn walk(root: &Path) -> Vec<std::path::PathBuf> {
    let (mut found, mut pending) = (Vec::new(), vec![root.to_path_buf()]);
    while let Some(dir) = pending.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                pending.push(path.clone());
            }
            found.push(path);
        }
    }
    found
}

/// Files (not directories) below `root`, relative to it, sorted; whatever their names.
pub fn files_below(root: &Path) -> Vec<String> {
    let mut found: Vec<String> = walk(root)
        .iter()
        .filter(|p| !p.is_dir())
        .map(|p| p.strip_prefix(root).unwrap().to_string_lossy().into_owned())
        .collect();
    found.sort();
    found
}

pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Keys of the world's Redis with one of each type.
pub fn fill_redis(world: &World, keys: u32) {
    let mut pipe = redis::pipe();
    for n in 0..keys {
        pipe.set(format!("session:{n}"), format!("user-{n}")).ignore();
    }
    pipe.lpush("queue", "a").ignore().hset("user", "name", "Ann").ignore().sadd("tags", "sea").ignore();
    pipe.exec(&mut redis(world)).unwrap();
}

pub fn redis(world: &World) -> redis::Connection {
    let port = world.redis.as_ref().unwrap().port;
    let url = format!("redis://:{}@127.0.0.1:{port}/", super::server::REDIS_PASSWORD);
    redis::Client::open(url).unwrap().get_connection().unwrap()
}

/// Number of keys of the application.
pub fn redis_keys(world: &World) -> usize {
    let mut connection = redis(world);
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
    keys.iter().filter(|k| !k.contains("lifeboat")).count()
}

/// Runs SQL in the world's PostgreSQL; gives unaligned rows.
pub fn psql(world: &World, database: &str, sql: &str) -> String {
    let port = world.postgres.as_ref().unwrap().port.to_string();
    let said = std::process::Command::new("psql")
        .args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "-p",
            &port,
            "-d",
            database,
            "-c",
            sql,
        ])
        .env("PGPASSWORD", super::server::POSTGRES_PASSWORD)
        .output()
        .unwrap();
    assert!(said.status.success(), "{sql}: {}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8_lossy(&said.stdout).trim().to_owned()
}

pub fn fill_postgres(world: &World, rows: u32) {
    psql(world, "postgres", "create database shop");
    let sql = format!(
        "create table orders (id bigserial primary key, item text not null); \
         insert into orders (item) select md5(n::text) || repeat(md5((n * 7)::text), 8) from generate_series(1, {rows}) n"
    );
    psql(world, "shop", &sql);
}
