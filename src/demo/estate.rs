//! The demo's production: throwaway servers with their own directories and ports, and the config that describes them.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::app;
use crate::config::Config;
use crate::domain::id::SystemName;
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::operation::Node;
use crate::pipeline::keys;
use crate::runtime::JobContext;
use crate::runtime::account::Account;
use crate::runtime::child::Program;
use crate::runtime::process::find_program;
use crate::system::registry::registry;
use crate::system::testing::free_port;

pub const POSTGRES: &str = "orders";
pub const REDIS: &str = "sessions";
pub const SQLITE: &str = "notes";
pub const FILES: &str = "documents";

/// Everything the demo made. [`Estate::destroy`] takes it all away; dropping it takes the directory away.
#[derive(Debug)]
pub struct Estate {
    home: tempfile::TempDir,
    pub account: Option<Account>,
    pub postgres_port: Option<u16>,
    pub redis_port: Option<u16>,
    pub left_out: Vec<String>,
}

impl Estate {
    /// Makes directories, scripts, keys and config; starts no server yet.
    pub fn prepare(job: &JobContext) -> Result<Self> {
        let parent = Path::new("/var/tmp");
        let home = tempfile::Builder::new()
            .prefix("lifeboat-demo-")
            .tempdir_in(parent)
            .or_io("make directory", parent)?;
        // the servers' account must be able to pass through
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o711))
            .or_io("open directory", home.path())?;
        let account = Account::for_servers("nobody")?;
        let mut left_out = Vec::new();
        let postgres_port = usable("postgres", "postgresql", &mut left_out).then(free_port).transpose()?;
        let redis_port = usable("redis-server", "redis-server", &mut left_out).then(free_port).transpose()?;
        let estate = Self { home, account, postgres_port, redis_port, left_out };
        for dir in ["keys", "state", "backups", "sandbox", SQLITE, FILES, "bin"] {
            app::private_dir(&estate.path(dir))?;
        }
        for dir in ["sandbox", "bin"] {
            std::fs::set_permissions(estate.path(dir), std::fs::Permissions::from_mode(0o711))
                .or_io("open directory", &estate.path(dir))?;
        }
        keys::generate(&estate.path("keys"), job.now())?;
        estate.write_scripts()?;
        std::fs::write(estate.config_file(), estate.config_text())
            .or_io("write config", &estate.config_file())?;
        Ok(estate)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn config_file(&self) -> PathBuf {
        self.path("lifeboat.toml")
    }

    pub fn postgres_data(&self) -> PathBuf {
        self.path("postgres/data")
    }

    pub fn sqlite_file(&self) -> PathBuf {
        self.path(SQLITE).join("notes.sqlite")
    }

    pub fn open(&self, job: &JobContext) -> Result<Node> {
        app::open(Config::load(&self.config_file(), &registry())?, job.workers())
    }

    /// Initialises and starts the servers.
    pub async fn start(&self, node: &Node, job: &JobContext) -> Result<()> {
        if self.postgres_port.is_some() {
            let data = self.postgres_data();
            self.server_dir(&data)?;
            let engine = node.system(&name(POSTGRES)?)?;
            let sandboxing =
                engine.sandboxing().ok_or_else(|| Error::bug("start PostgreSQL for the demo"))?;
            sandboxing.initialise(&data, self.account.as_ref(), job).await?;
            self.script("postgres", "start", job).await?;
        }
        if self.redis_port.is_some() {
            self.server_dir(&self.path("redis"))?;
            self.script("redis", "start", job).await?;
        }
        Ok(())
    }

    fn server_dir(&self, dir: &Path) -> Result<()> {
        app::private_dir(dir)?;
        let top = dir.strip_prefix(self.home.path()).ok().and_then(|p| p.components().next());
        match (&self.account, top) {
            (Some(account), Some(top)) => account.own_tree(&self.home.path().join(top)),
            _ => Ok(()),
        }
    }

    pub async fn script(&self, server: &str, action: &str, job: &JobContext) -> Result<()> {
        Program::at(self.path("bin").join(server)).arg(action).output(job).await.map(drop)
    }

    /// Stops every server. The directory goes when the estate is dropped.
    pub async fn destroy(self, job: &JobContext) -> Result<()> {
        let mut first_error = None;
        for (server, port) in [("postgres", self.postgres_port), ("redis", self.redis_port)] {
            if port.is_some()
                && let Err(error) = self.script(server, "stop", job).await
            {
                first_error.get_or_insert(error);
            }
        }
        let path = self.home.path().to_path_buf();
        self.home.close().or_io("remove the demo's directory", &path)?;
        first_error.map_or(Ok(()), Err)
    }

    /// The service scripts of production, as an operator would have them: start and stop, both safe to repeat.
    fn write_scripts(&self) -> Result<()> {
        let run_as = match &self.account {
            Some(a) => format!("setpriv --reuid {} --regid {} --clear-groups -- ", a.uid, a.gid),
            None => String::new(),
        };
        let home = self.home.path().display();
        if let (Some(port), Some(postgres)) = (self.postgres_port, postgres_bin("pg_ctl")) {
            let (pg_ctl, data) = (postgres.display(), self.postgres_data());
            let data = data.display();
            let script = format!(
                "#!/bin/sh\ncd /\ncase \"$1\" in\nstart) {run_as}{pg_ctl} -D {data} -s -w -t 60 -o '-p {port} -c unix_socket_directories=' -l {home}/postgres/server.log start ;;\n\
                 stop) if [ -s {data}/postmaster.pid ]; then {run_as}{pg_ctl} -D {data} -s -m immediate stop || true; fi ;;\nesac\n"
            );
            self.write_script("postgres", &script)?;
        }
        if let Some(port) = self.redis_port {
            let script = format!(
                "#!/bin/sh\ncd /\ncase \"$1\" in\nstart) {run_as}redis-server --port {port} --bind 127.0.0.1 --dir {home}/redis --save '' --appendonly no \
                 --daemonize yes --pidfile {home}/redis/redis.pid --logfile {home}/redis/redis.log --repl-diskless-sync-delay 0 >/dev/null\n\
                 n=0; until redis-cli -p {port} ping >/dev/null 2>&1; do n=$((n+1)); [ $n -lt 200 ] || exit 1; sleep 0.05; done ;;\n\
                 stop) redis-cli -p {port} shutdown nosave >/dev/null 2>&1 || true ;;\nesac\n"
            );
            self.write_script("redis", &script)?;
        }
        Ok(())
    }

    fn write_script(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path("bin").join(name);
        std::fs::write(&path, text).or_io("write script", &path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).or_io("write script", &path)
    }

    fn config_text(&self) -> String {
        let home = self.home.path().display();
        let mut text = format!(
            "[lifeboat]\nstate_dir = \"{home}/state\"\n\n[encryption]\nrecipients_file = \"keys/recipients.txt\"\nidentity_files = [\"keys/identity.age\"]\n\
             signing_key = \"keys/signing.key\"\nsigners_file = \"keys/signers.txt\"\n\n[sandbox]\ndir = \"{home}/sandbox\"\n\n\
             [destinations.local]\ntype = \"local\"\npath = \"backups\"\n"
        );
        let account =
            self.account.as_ref().map_or_else(String::new, |a| format!("account = \"{}\"\n", a.name));
        if let Some(port) = self.postgres_port {
            let data = self.postgres_data();
            let _infallible = write!(
                text,
                "\n[systems.{POSTGRES}]\nkind = \"postgres\"\nrto = \"2m\"\nrpo = \"1m\"\n[systems.{POSTGRES}.settings]\nport = {port}\ndata_dir = \"{}\"\n\
                 row_fingerprint = true\n{account}[systems.{POSTGRES}.service]\nstart = [\"{home}/bin/postgres\", \"start\"]\nstop = [\"{home}/bin/postgres\", \"stop\"]\n\
                 [[systems.{POSTGRES}.checks]]\nname = \"orders can be read\"\nquery = \"@demo select count(*) from public.orders\"\nmin = 1\n\
                 [[systems.{POSTGRES}.checks]]\nname = \"the EURO SIGN is in the table\"\nquery = \"@demo select count(*) from public.lines where line like '%EURO SIGN%'\"\nmin = 1\n",
                data.display()
            );
        }
        if let Some(port) = self.redis_port {
            let _infallible = write!(
                text,
                "\n[systems.{REDIS}]\nkind = \"redis\"\nrto = \"1m\"\nrpo = \"1m\"\n[systems.{REDIS}.settings]\nport = {port}\ndata_dir = \"{home}/redis\"\n{account}\
                 [systems.{REDIS}.service]\nstart = [\"{home}/bin/redis\", \"start\"]\n\
                 [[systems.{REDIS}.checks]]\nname = \"the session counter is there\"\nquery = \"GET app:sequence\"\nmin = 1\n"
            );
        }
        let _infallible = write!(
            text,
            "\n[systems.{SQLITE}]\nkind = \"sqlite\"\nrto = \"1m\"\nrpo = \"1m\"\n[systems.{SQLITE}.settings]\npath = \"{}\"\n\
             [[systems.{SQLITE}.checks]]\nname = \"notes can be read\"\nquery = \"select count(*) from notes\"\nmin = 1\n\
             \n[systems.{FILES}]\nkind = \"files\"\nrto = \"1m\"\nrpo = \"1m\"\n[systems.{FILES}.settings]\npath = \"{home}/{FILES}\"\n\
             [[systems.{FILES}.checks]]\nname = \"the application's settings are there\"\nquery = \"exists app/settings.json\"\nexpect = \"true\"\n",
            self.sqlite_file().display()
        );
        text
    }
}

pub fn name(text: &str) -> Result<SystemName> {
    SystemName::parse(text).map_err(|e| Error::new(ErrorKind::Bug, "name a system of the demo").because(e))
}

/// A server program, on the PATH or where Debian keeps PostgreSQL's.
fn postgres_bin(program: &str) -> Option<PathBuf> {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|dirs| dirs.filter_map(|d| d.ok().map(|d| d.path().join("bin"))).collect())
        .unwrap_or_default();
    versions.sort();
    versions.reverse();
    let dirs: Vec<&Path> = versions.iter().map(PathBuf::as_path).collect();
    find_program(program, &dirs)
}

fn usable(program: &str, package: &str, left_out: &mut Vec<String>) -> bool {
    let found = if program == "postgres" { postgres_bin(program) } else { find_program(program, &[]) };
    if found.is_none() {
        left_out.push(format!("{program} is not on this machine: apt-get install {package}"));
    }
    found.is_some()
}
