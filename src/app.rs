//! Composition root: the only place that names concrete types. Turns a config file into a [`Node`].

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use crate::catalog::Catalog;
use crate::catalog::sqlite::SqliteCatalog;
use crate::config::raw::BucketAddressing;
use crate::config::{Config, DestinationConfig};
use crate::domain::id::{DestinationName, SystemName};
use crate::error::{IoContext, Result};
use crate::operation::Node;
use crate::runtime::account::Account;
use crate::runtime::{Clock, SystemClock, Workers};
use crate::sandbox::process::ProcessProvider;
use crate::storage::Storage;
use crate::storage::local::LocalStorage;
use crate::storage::object::{Addressing, ObjectSettings, ObjectStorage};
use crate::system::registry::{Registry, registry};
use crate::system::{EngineDeps, SharedSystem};

/// Everything of one configured lifeboat, ready for work. `workers` are the process's; the config may limit them.
pub fn open(config: Config, workers: &Workers) -> Result<Node> {
    open_with(config, &registry(), Arc::new(SystemClock), workers)
}

/// As [`open`], with other engines or another clock: for tests.
pub fn open_with(
    config: Config,
    registry: &Registry,
    clock: Arc<dyn Clock>,
    workers: &Workers,
) -> Result<Node> {
    private_dir(&config.state_dir)?;
    private_dir(&config.state_dir.join("locks"))?;
    if config.pipeline.workers > 0 {
        workers.set_cores(config.pipeline.workers);
    }
    let catalog: Arc<dyn Catalog> =
        Arc::new(SqliteCatalog::open(config.state_dir.join("catalog.sqlite"), workers.clone())?);
    let account = Account::for_servers(&config.sandbox_user)?;
    let sandboxes = Arc::new(ProcessProvider::new(config.sandbox_dir.clone(), account, catalog.clone()));
    Ok(Node {
        systems: systems(&config, registry)?,
        storages: storages(&config)?,
        catalog,
        sandboxes,
        clock,
        workers: workers.clone(),
        config: Arc::new(config),
    })
}

fn systems(config: &Config, registry: &Registry) -> Result<BTreeMap<SystemName, SharedSystem>> {
    let mut all = BTreeMap::new();
    for (name, system) in &config.systems {
        let state_dir = config.state_dir.join("systems").join(name.as_str());
        private_dir(&state_dir)?;
        let deps = EngineDeps { name: name.clone(), state_dir };
        all.insert(name.clone(), registry.build(&system.kind, system.settings.clone(), deps)?);
    }
    Ok(all)
}

fn storages(config: &Config) -> Result<BTreeMap<DestinationName, Arc<dyn Storage>>> {
    let mut all: BTreeMap<DestinationName, Arc<dyn Storage>> = BTreeMap::new();
    for (name, destination) in &config.destinations {
        let storage: Arc<dyn Storage> = match destination {
            DestinationConfig::Local { path } => Arc::new(LocalStorage::open(path.clone())?),
            DestinationConfig::S3 {
                bucket,
                endpoint,
                region,
                prefix,
                addressing,
                access_key,
                secret_key,
            } => Arc::new(ObjectStorage::open(&ObjectSettings {
                bucket: bucket.clone(),
                endpoint: endpoint.clone(),
                region: region.clone(),
                prefix: prefix.clone(),
                addressing: match addressing {
                    BucketAddressing::Path => Addressing::Path,
                    BucketAddressing::Host => Addressing::Host,
                },
                access_key: access_key.clone(),
                secret_key: secret_key.clone(),
            })?),
        };
        all.insert(name.clone(), storage);
    }
    Ok(all)
}

/// Makes a directory that only we may enter; one that is there stays as it is.
pub fn private_dir(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .or_io("make directory", path)
        .map_err(|e| e.hint("set lifeboat.state_dir to a place that this user may write to"))
}
