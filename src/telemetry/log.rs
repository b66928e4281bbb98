//! Logging to standard error, as text, or as JSON with `LIFEBOAT_LOG_FORMAT=json`.

use tracing_subscriber::EnvFilter;

use crate::error::{Error, ErrorKind, Result};

/// Installs the process-wide log. `filter` is a level or a filter such as `lifeboat=debug,warn`.
pub fn install(filter: &str) -> Result<()> {
    let filter = EnvFilter::try_new(filter).map_err(|e| {
        Error::new(ErrorKind::Config, "use log filter")
            .with("filter", filter)
            .because(e)
            .hint("use error, warn, info, debug or trace")
    })?;
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let installed = if std::env::var("LIFEBOAT_LOG_FORMAT").is_ok_and(|f| f == "json") {
        log.json().try_init()
    } else {
        log.try_init()
    };
    installed.map_err(|e| Error::bug("install the log twice").because(e))
}
