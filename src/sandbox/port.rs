//! Loopback ports of throwaway servers: finding a free one, and telling who listens on it.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use crate::error::{IoContext, Result};

/// A port that was free a moment ago.
pub(super) fn free() -> Result<u16> {
    let tables = Path::new("127.0.0.1:0");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).or_io("find a free port", tables)?;
    Ok(listener.local_addr().or_io("find a free port", tables)?.port())
}

/// Does somebody listen on the port?
pub(super) fn is_taken(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err_and(|e| e.kind() == std::io::ErrorKind::AddrInUse)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listener {
    /// One of the given processes.
    Ours,
    /// Some other process: what answers there is not the sandbox.
    Foreign,
    /// Nobody, or this host does not tell.
    Unknown,
}

/// Who listens on the port: one of `pids`, or somebody else?
pub(super) fn listener(port: u16, pids: &[u32]) -> Listener {
    let sockets = listening_sockets(port);
    if sockets.is_empty() {
        return Listener::Unknown;
    }
    let wanted: Vec<String> = sockets.iter().map(|inode| format!("socket:[{inode}]")).collect();
    for pid in pids {
        let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
            return Listener::Unknown;
        };
        let mut links = descriptors.flatten().filter_map(|d| std::fs::read_link(d.path()).ok());
        if links.any(|link| wanted.iter().any(|w| link.as_os_str() == w.as_str())) {
            return Listener::Ours;
        }
    }
    Listener::Foreign
}

/// Inodes of the TCP sockets that listen on the port.
fn listening_sockets(port: u16) -> Vec<String> {
    const LISTENING: &str = "0A";
    let end = format!(":{port:04X}");
    let mut inodes = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            if let [_, local, _, LISTENING, _, _, _, _, _, inode, ..] = fields.as_slice()
                && local.ends_with(&end)
            {
                inodes.push((*inode).to_owned());
            }
        }
    }
    inodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_told_from_a_foreign_one() {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        assert!(is_taken(port));
        assert_eq!(listener(port, &[std::process::id()]), Listener::Ours);
        assert_eq!(listener(port, &[]), Listener::Foreign);
        drop(socket);
        assert_eq!(listener(port, &[std::process::id()]), Listener::Unknown);
        assert!(!is_taken(port));
    }
}
