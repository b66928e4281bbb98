//! A world of its own for one test: production with a database file and a tree, optional servers, keys and configuration.
//!
//! Invariants: everything is below one directory of /var/tmp that goes when the world is dropped, after the servers;
//! nothing in it knows another world, so tests run side by side.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::server::{ACCOUNT, POSTGRES_PASSWORD, REDIS_PASSWORD, Server};
use super::{Running, Said, content};

pub struct World {
    // dropped first: a server must not lose its directory while it runs
    pub redis: Option<Server>,
    pub postgres: Option<Server>,
    method: &'static str,
    env: Vec<(String, String)>,
    home: tempfile::TempDir,
}

impl World {
    /// A database file and a tree, filled; keys made.
    pub fn new() -> Self {
        let world = Self::without_keys();
        world.tell(&["keys", "init"]).ok();
        world
    }

    pub fn without_keys() -> Self {
        let home = tempfile::Builder::new().prefix("lifeboat-itest-").tempdir_in("/var/tmp").unwrap();
        let world = Self { redis: None, postgres: None, method: "physical", env: Vec::new(), home };
        world.open_to_all("");
        for dir in ["bin", "sandbox", "notes", "documents", "said"] {
            std::fs::create_dir(world.path(dir)).unwrap();
        }
        world.open_to_all("bin");
        world.open_to_all("sandbox");
        content::fill_notes(&world.notes(), 300);
        content::fill_documents(&world.documents());
        world.write_config();
        world
    }

    pub fn with_redis(mut self) -> Self {
        self.redis = Some(Server::redis(self.home.path()));
        self.write_config();
        self
    }

    pub fn with_postgres(mut self) -> Self {
        self.postgres = Some(Server::postgres(self.home.path()));
        self.write_config();
        self
    }

    /// PostgreSQL with logical backups, which are restored into a running server.
    pub fn with_logical_postgres(mut self) -> Self {
        self.method = "logical";
        self.with_postgres()
    }

    fn open_to_all(&self, dir: &str) {
        std::fs::set_permissions(self.path(dir), std::fs::Permissions::from_mode(0o711)).unwrap();
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn notes(&self) -> PathBuf {
        self.path("notes/notes.sqlite")
    }

    pub fn documents(&self) -> PathBuf {
        self.path("documents")
    }

    pub fn store(&self) -> PathBuf {
        self.path("backups")
    }

    pub fn config_file(&self) -> PathBuf {
        self.path("lifeboat.toml")
    }

    pub fn edit_config(&self, edit: impl FnOnce(String) -> String) {
        let text = std::fs::read_to_string(self.config_file()).unwrap();
        let edited = edit(text.clone());
        assert_ne!(text, edited, "the edit changed nothing");
        std::fs::write(self.config_file(), edited).unwrap();
    }

    /// For every later run of the program.
    pub fn env(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.to_owned()));
    }

    pub fn start(&self, args: &[&str]) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command
            .arg("--config")
            .arg(self.config_file())
            .args(args)
            .env("REDIS_PASSWORD", REDIS_PASSWORD)
            .env("POSTGRES_PASSWORD", POSTGRES_PASSWORD)
            .envs(self.env.iter().map(|(k, v)| (k, v)));
        Running::start(&mut command, &self.path("said"))
    }

    pub fn tell(&self, args: &[&str]) -> Said {
        self.start(args).wait()
    }

    /// As [`Self::tell`] with `--json`.
    pub fn ask(&self, args: &[&str]) -> Said {
        self.tell(&[args, &["--json"]].concat())
    }

    /// Takes one backup that must work; gives its id.
    #[track_caller]
    pub fn backup(&self, system: &str) -> String {
        let taken = self.ask(&["backup", system]).ok().json();
        text(&taken["backups"][0]["backup"])
    }

    /// What the catalog lists, newest first.
    #[track_caller]
    pub fn listed(&self) -> Vec<Value> {
        self.ask(&["list"]).ok().json()["backups"].as_array().unwrap().clone()
    }

    #[track_caller]
    pub fn runs(&self) -> Vec<Value> {
        self.ask(&["runs", "list"]).ok().json()["runs"].as_array().unwrap().clone()
    }

    pub fn sql(&self, query: &str) -> i64 {
        let catalog = rusqlite::Connection::open(self.path("state/catalog.sqlite")).unwrap();
        catalog.busy_timeout(std::time::Duration::from_secs(30)).unwrap();
        catalog.query_row(query, [], |row| row.get(0)).unwrap()
    }

    /// Files below the destination, relative to it, sorted.
    pub fn stored(&self) -> Vec<String> {
        content::files_below(&self.store())
    }

    /// Nothing made for a run is left: sandboxes, their servers and ledger, helpers, leases of runs.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        assert_eq!(self.sql("select count(*) from resource"), 0, "the ledger is not empty");
        assert_eq!(self.sql("select count(*) from lease where scope = 'run'"), 0, "leases are left");
        let sandboxes = content::names(&self.path("sandbox"));
        assert!(sandboxes.is_empty(), "sandboxes are left: {sandboxes:?}");
        self.assert_no_process_left();
    }

    /// No process works in this world but the servers of production.
    #[track_caller]
    pub fn assert_no_process_left(&self) {
        let left = self.processes();
        assert!(left.is_empty(), "processes are left: {left:#?}");
    }

    /// Command lines of processes that work in this world, production's servers apart.
    pub fn processes(&self) -> Vec<String> {
        let home = self.home().display().to_string();
        let production = ["postgres", "redis"].map(|dir| self.path(dir));
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap() {
            let dir = entry.unwrap().path();
            // a process may end while it is looked at
            let Ok(command) = std::fs::read(dir.join("cmdline")) else { continue };
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let cwd = std::fs::read_link(dir.join("cwd")).unwrap_or_default();
            let production = production
                .iter()
                .any(|p| cwd.starts_with(p) || command.contains(&format!("-D {}", p.display())));
            if !production && (command.contains(&home) || cwd.starts_with(self.home())) {
                found.push(format!("{} {command}", dir.display()));
            }
        }
        found
    }

    fn write_config(&self) {
        let home = self.home().display();
        let mut config = format!(
            "[lifeboat]\nstate_dir = \"{home}/state\"\n\n[pipeline]\nsegment_size = \"64KiB\"\nworkers = 2\n\n\
             [sandbox]\ndir = \"{home}/sandbox\"\n\n[destinations.local]\ntype = \"local\"\npath = \"{home}/backups\"\n\n\
             [systems.notes]\nkind = \"sqlite\"\n[systems.notes.settings]\npath = \"{}\"\n\
             [[systems.notes.checks]]\nname = \"notes can be read\"\nquery = \"select count(*) from notes\"\nmin = 1\n\n\
             [systems.documents]\nkind = \"files\"\n[systems.documents.settings]\npath = \"{}\"\n\
             [[systems.documents.checks]]\nname = \"settings are there\"\nquery = \"exists settings.json\"\nexpect = \"true\"\n",
            self.notes().display(),
            self.documents().display(),
        );
        if let Some(redis) = &self.redis {
            config.push_str(&format!(
                "\n[systems.sessions]\nkind = \"redis\"\n[systems.sessions.settings]\nport = {}\npassword = \"env:REDIS_PASSWORD\"\n\
                 [systems.sessions.service]\nstart = [\"{home}/bin/redis\", \"start\"]\n\
                 [[systems.sessions.checks]]\nname = \"sessions are there\"\nquery = \"DBSIZE\"\nmin = 1\n",
                redis.port
            ));
        }
        if let Some(postgres) = &self.postgres {
            let (method, dir) = (self.method, postgres.dir.display());
            let more = match method {
                "physical" => format!("row_fingerprint = true\naccount = \"{ACCOUNT}\"\n"),
                _ => String::new(),
            };
            let stop = match method {
                "physical" => format!("stop = [\"{home}/bin/postgres\", \"stop\"]\n"),
                _ => String::new(),
            };
            config.push_str(&format!(
                "\n[systems.orders]\nkind = \"postgres\"\n[systems.orders.settings]\nport = {}\npassword = \"env:POSTGRES_PASSWORD\"\n\
                 method = \"{method}\"\ndata_dir = \"{dir}/data\"\n{more}[systems.orders.service]\nstart = [\"{home}/bin/postgres\", \"start\"]\n{stop}\
                 [[systems.orders.checks]]\nname = \"orders are there\"\nquery = \"@shop select count(*) from public.orders\"\nmin = 1\n",
                postgres.port
            ));
        }
        std::fs::write(self.config_file(), config).unwrap();
    }
}

/// A JSON string as text.
#[track_caller]
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}")).to_owned()
}
