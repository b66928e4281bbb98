//! The status page: plain HTML made on the server, no script, readable in a text browser at 3 a.m.

use minijinja::{Environment, context};

use super::Faces;
use crate::config::size::show_bytes;
use crate::error::{Error, Result};
use crate::operation::view::BackupLine;

const PAGE: &str = include_str!("page.html");

pub fn render(faces: &Faces, backups: &[BackupLine]) -> Result<String> {
    let broken = |e: minijinja::Error| Error::bug("render status page").because(e);
    let mut environment = Environment::new();
    environment.add_template("page.html", PAGE).map_err(broken)?;
    let systems: Vec<_> = faces
        .board
        .systems()
        .into_iter()
        .map(|(name, s)| {
            let newest = backups.iter().find(|b| b.system == name);
            context! {
                name => name.as_str(),
                state => s.health.as_ref().map_or_else(|| "not probed yet".to_owned(), |h| format!("{:?}", h.state).to_lowercase()),
                summary => s.health.as_ref().map(|h| h.summary.clone()).unwrap_or_default(),
                supervision => format!("{:?}", s.supervision).to_lowercase(),
                job => s.job.as_ref().map(|j| format!("{} {}, {}", j.what, j.progress.phase(), show_bytes(j.progress.bytes()))),
                newest => newest.map(|b| format!("{} {} of {}", b.kind, b.state, b.finished_at.format("%Y-%m-%d %H:%M:%SZ"))),
                error => s.last_error,
            }
        })
        .collect();
    let lines: Vec<_> = backups
        .iter()
        .map(|b| {
            context! {
                id => b.id.as_str(), system => b.system.as_str(), kind => b.kind.as_str(), state => b.state.as_str(),
                taken => b.finished_at.format("%Y-%m-%d %H:%M:%SZ").to_string(),
                raw => show_bytes(b.raw_bytes), stored => show_bytes(b.stored_bytes),
                proven => b.proven.map(|p| p.to_string()),
            }
        })
        .collect();
    let now = faces.node.clock.now().format("%Y-%m-%d %H:%M:%SZ").to_string();
    let page = environment.get_template("page.html").map_err(broken)?;
    page.render(context! { now, version => env!("CARGO_PKG_VERSION"), systems, backups => lines })
        .map_err(broken)
}
