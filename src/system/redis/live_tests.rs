//! The engine against real servers on loopback.

mod access;
mod backups;
mod restores;
mod verifies;

use std::path::Path;

use super::connection::{Connection, Endpoint};
use super::resp::Reply;
use super::{RedisSystem, Settings};
use crate::domain::backup::BackupKind;
use crate::domain::id::{RunId, SystemName};
use crate::domain::manifest::Manifest;
use crate::domain::place::Place;
use crate::domain::restore::{Existing, RestoreRequest, Restored, Selection};
use crate::domain::verification::Verification;
use crate::error::Result;
use crate::runtime::JobContext;
use crate::system::testing::{MemoryBackups, TestServer};
use crate::system::{DataSystem, Engine, EngineDeps};

/// A server with an engine that takes it for production.
struct Live {
    server: TestServer,
    system: RedisSystem,
    job: JobContext,
}

fn engine(settings: Settings) -> RedisSystem {
    let deps = EngineDeps { name: SystemName::parse("cache").unwrap(), state_dir: "/nonexistent".into() };
    RedisSystem::build(settings, deps).unwrap()
}

impl Live {
    async fn start() -> Self {
        Self::start_in(|_| Ok(())).await
    }

    /// `adjust` may put files into the data directory first.
    async fn start_in(adjust: impl FnOnce(&Path) -> Result<()>) -> Self {
        let job = JobContext::plain().child(std::time::Duration::from_secs(120));
        let server = TestServer::start(&engine(Settings::default()), adjust, &job).await.unwrap();
        let settings = Settings { port: server.place.port, ..Settings::default() };
        Self { system: engine(settings), server, job }
    }

    async fn filled() -> Self {
        let live = Self::start().await;
        fill(&mut live.connect().await, &live.job).await;
        live
    }

    async fn connect(&self) -> Connection {
        let endpoint = Endpoint::open("127.0.0.1", self.server.place.port);
        endpoint.connect(&self.job).await.unwrap()
    }

    /// Commands, one a line, words between blanks; every one must succeed.
    async fn run(&self, lines: &str) -> Reply {
        run_lines(&mut self.connect().await, lines, &self.job).await
    }

    async fn take(&self, backups: &MemoryBackups) -> Result<Manifest> {
        backups.take(&self.system, BackupKind::Full, &[], &self.job).await
    }

    async fn restore(
        &self,
        backups: &MemoryBackups,
        manifest: &Manifest,
        place: Place,
        existing: Existing,
        patterns: &[&str],
    ) -> Result<Restored> {
        let request = request(manifest, place, existing, patterns);
        let plan = self.system.plan_restore(request, &self.job).await?;
        self.system.restore(&plan, backups, &self.job).await
    }

    async fn verify(&self, backups: &MemoryBackups, manifest: &Manifest, place: &Place) -> Verification {
        let chain = [manifest.clone()];
        self.system.verify(&chain, place, backups, &self.job).await.unwrap()
    }
}

fn request(manifest: &Manifest, place: Place, existing: Existing, patterns: &[&str]) -> RestoreRequest {
    RestoreRequest {
        run: RunId::parse("20260102-030405-0000000a").unwrap(),
        chain: vec![manifest.clone()],
        place,
        existing,
        selection: Selection { patterns: patterns.iter().map(|p| (*p).to_owned()).collect() },
    }
}

async fn run_lines(connection: &mut Connection, lines: &str, job: &JobContext) -> Reply {
    let mut last = Reply::Nil;
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split(' ').collect();
        last = connection.ask(&words, job).await.unwrap();
    }
    last
}

/// Every type in every encoding that this server writes, expiries, several databases, a library.
async fn fill(connection: &mut Connection, job: &JobContext) {
    let lines = "
        SET text hello
        SET number 12345
        SET negative -7
        SET small:ttl x PXAT 4102444800123
        SET beyond:double y PXAT 9007199254740993
        RPUSH list:small a b 3 -4
        SADD set:ints 3 1 -70000 9000000000
        SADD set:texts a b c
        ZADD zset:small 1.5 a -inf b inf c 0.1 d 7 e
        HSET hash:small f1 v1 f2 2 f3 -3
        PEXPIREAT hash:small 4102444800456
        XADD stream 1-1 a 1 b two
        XADD stream 1-2 a 2 b three
        XADD stream 2-1 other x
        XGROUP CREATE stream group 0
        XREADGROUP GROUP group alice COUNT 2 STREAMS stream >
        XREADGROUP GROUP group bob COUNT 1 STREAMS stream >
        XDEL stream 1-2
        XGROUP CREATE stream idle $
        SELECT 3
        SET text other
        RPUSH only:here 1
        SELECT 15
        SET last 1 PXAT 4102444800999
        SELECT 0";
    run_lines(connection, lines, job).await;
    let library = "#!lua name=lib\nredis.register_function('one', function() return 1 end)";
    connection.ask(&["FUNCTION", "LOAD", library], job).await.unwrap();
    let binary: Vec<u8> = (0..=255).collect();
    connection.call(&[b"SET", &binary, &binary], job).await.unwrap();
    let repeated = "lifeboat ".repeat(1000);
    connection.ask(&["SET", "compressible", &repeated], job).await.unwrap();
    let big: Vec<u8> =
        (0u64..700_000).flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()).collect();
    connection.call(&[b"SET", b"big", &big], job).await.unwrap();
    for n in 0..300 {
        let (n, text) = (n.to_string(), format!("element-{n}-{}", "x".repeat(70)));
        for command in [
            ["RPUSH", "list:long", &text, &n],
            ["SADD", "set:long", &text, &n],
            ["ZADD", "zset:long", &n, &text],
            ["HSET", "hash:long", &text, &n],
        ] {
            connection.ask(&command, job).await.unwrap();
        }
    }
}
