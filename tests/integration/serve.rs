//! The daemon: becomes ready, answers, works beside the command line, stops in order, and says why it cannot start.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Running, World, until};

/// A daemon of a world. Killed when dropped.
struct Daemon {
    port: u16,
    process: Running,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

fn listen_on(world: &World, port: u16) {
    world.edit_config(|c| format!("{c}\n[server]\nlisten = \"127.0.0.1:{port}\"\nprobe_interval = \"1s\"\n"));
}

impl Daemon {
    fn start(world: &World) -> Self {
        let port = lifeboat::system::testing::free_port().unwrap();
        listen_on(world, port);
        let daemon = Self { port, process: world.start(&["serve"]) };
        until("an answer of the daemon", || daemon.get("/ready").filter(|a| a.status == 200));
        daemon
    }

    fn get(&self, path: &str) -> Option<Answer> {
        self.request("GET", path)
    }

    fn request(&self, method: &str, path: &str) -> Option<Answer> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Answer { status, head: head.to_lowercase(), body: body.to_owned() })
    }
}

#[test]
fn the_daemon_answers_and_works_beside_the_command_line() {
    let world = World::new();
    let daemon = Daemon::start(&world);
    let get = |path: &str| daemon.get(path).unwrap();
    assert_eq!(get("/health").json()["data"]["status"], "alive");
    let status = get("/api/status").json();
    assert_eq!(status["code"], 200);
    assert_eq!(status["data"]["systems"].as_array().unwrap().len(), 2);
    until("a health of every system", || {
        let all = get("/api/status").json();
        let systems = all["data"]["systems"].as_array().unwrap();
        systems.iter().all(|s| s["health"]["state"] == "healthy").then_some(())
    });
    assert_eq!(get("/api/v1/backups").json()["data"], Value::Array(Vec::new()));

    world.ask(&["backup", "--all"]).ok();
    world.ask(&["drill", "sqlite-damaged"]).ok();
    assert_eq!(get("/api/v1/backups").json()["data"].as_array().unwrap().len(), 2);
    let of_one = get("/api/v1/backups?system=notes&limit=5").json();
    assert_eq!(of_one["data"][0]["system"], "notes");
    assert_eq!(of_one["data"].as_array().unwrap().len(), 1);
    assert_eq!(of_one["data"][0], world.ask(&["list", "notes"]).ok().json()["backups"][0]);

    let page = get("/");
    assert!(
        page.head.contains("text/html") && page.head.contains("content-security-policy"),
        "{}",
        page.head
    );
    assert!(page.body.contains("notes") && page.body.contains("documents"));
    let metrics = get("/metrics").body;
    for name in
        ["lifeboat_system_up{system=\"notes\"} 1", "lifeboat_system_supervised{system=\"documents\"} 1"]
    {
        assert!(metrics.contains(name), "{name} is not in\n{metrics}");
    }

    daemon.process.signal(Signal::SIGTERM);
    daemon.process.wait().ok();
    world.assert_nothing_left();
}

#[test]
fn bad_requests_are_answered_in_json_with_a_way_out() {
    let world = World::new();
    let daemon = Daemon::start(&world);
    for (path, status, error) in [
        ("/api/v1/backups?limit=many", 400, "CONFIG"),
        ("/api/v1/backups?unknown=1", 400, "CONFIG"),
        ("/api/v1/backups?system=..%2Fx", 400, "CONFIG"),
        ("/api/v1/backups?system=nothing", 404, "NOT_FOUND"),
        ("/nowhere", 404, "NOT_FOUND"),
        ("/../../etc/passwd", 404, "NOT_FOUND"),
    ] {
        let answer = daemon.get(path).unwrap();
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        assert_eq!(
            (&answer.json()["code"], &answer.json()["error"]),
            (&Value::from(status), &Value::from(error)),
            "{path}"
        );
    }
    assert_ne!(daemon.request("POST", "/api/v1/backups").unwrap().status, 200);
    assert_eq!(daemon.get("/health").unwrap().status, 200);
    daemon.process.signal(Signal::SIGINT);
    daemon.process.wait().ok();
}

#[test]
fn a_system_that_goes_down_is_seen() {
    let world = World::new().with_redis();
    let daemon = Daemon::start(&world);
    let health = || {
        let all = daemon.get("/api/status").unwrap().json();
        let systems = all["data"]["systems"].as_array().unwrap().clone();
        systems.into_iter().find(|s| s["name"] == "sessions").unwrap()["health"]["state"].clone()
    };
    until("a healthy Redis", || (health() == "healthy").then_some(()));
    world.redis.as_ref().unwrap().kill();
    until("a Redis that is down", || (health() == "down").then_some(()));
    assert!(daemon.get("/metrics").unwrap().body.contains("lifeboat_system_up{system=\"sessions\"} 0"));
    world.redis.as_ref().unwrap().control("start");
    until("a healthy Redis again", || (health() == "healthy").then_some(()));
}

#[test]
fn a_port_in_use_is_said_with_the_address() {
    let world = World::new();
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    listen_on(&world, port);
    world.tell(&["serve"]).ended(7).says(&[&format!("127.0.0.1:{port}"), "server.listen"]);
    world.assert_nothing_left();
}
