//! Identity of processes: telling whether one that was written down still lives.

use std::path::Path;

use crate::domain::run::Owner;

/// Start time of a process (field 22 of its `stat`) together with the boot id; `None` when there is no such process.
pub fn start_mark(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // the command name may hold spaces and parentheses: fields count from behind the last one
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().collect();
    // a zombie has ended: it only waits for its parent
    if fields.first() == Some(&"Z") {
        return None;
    }
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Some(format!("{}@{}", fields.get(19)?, boot.trim()))
}

pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// This process as the owner of a run.
pub fn own_identity() -> Owner {
    let pid = std::process::id();
    Owner { pid, started: start_mark(pid).unwrap_or_default(), host: host_name() }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    Alive,
    Gone,
    /// It ran on another host; nothing can be said from here.
    Elsewhere,
}

pub fn liveness(owner: &Owner) -> Liveness {
    if owner.host != host_name() {
        return Liveness::Elsewhere;
    }
    match start_mark(owner.pid) {
        Some(mark) if mark == owner.started => Liveness::Alive,
        _ => Liveness::Gone,
    }
}

/// First of `names` found as an executable in `dirs` and then on the PATH.
pub fn find_program(name: &str, dirs: &[&Path]) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path);
    dirs.iter().map(|d| d.to_path_buf()).chain(on_path).map(|d| d.join(name)).find(|p| is_executable(p))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}
