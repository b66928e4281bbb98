//! Storage in a local directory: one file per object.
//!
//! Invariants: a file under a final name is whole and durable (written aside, synced, renamed, directory synced);
//! create-only holds against every other process (`RENAME_NOREPLACE`, else a hard link); files are 0600, directories 0700;
//! nothing outside the root is ever touched; what a failed put made is removed again.

mod aside;
mod direct;
#[cfg(test)]
mod tests;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::key::{ASIDE_PREFIX, check_key, check_prefix, is_key_part};
use super::{OBJECT_BYTES_MAX, ObjectMeta, Overwrite, Storage};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::runtime::JobContext;
use aside::{
    Aside, exists, is_absent, is_older, make_directories, publish, put_error, remove_empty, stat_now,
    sync_directory,
};
use direct::BufferPool;

#[derive(Clone, Debug)]
pub struct LocalStorage {
    root: PathBuf,
    buffers: Arc<BufferPool>,
}

/// What blocking work asks between two steps: cancelled, out of time, or nobody waits for it any more.
struct Stop {
    job: JobContext,
    token: CancellationToken,
}

impl Stop {
    fn check(&self, op: &'static str) -> Result<()> {
        self.job.progress().beat();
        if self.token.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, op));
        }
        self.job.check(op)
    }
}

impl LocalStorage {
    /// Makes the directory (0700) when it is missing. Gives up early when it cannot be written.
    pub fn open(root: PathBuf) -> Result<Self> {
        if !root.is_absolute() {
            return Err(Error::new(ErrorKind::Config, "open local storage")
                .with("path", root.display())
                .hint("give an absolute path"));
        }
        make_directories(&root).or_io("make storage directory", &root)?;
        rustix::fs::access(&root, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
            .map_err(io::Error::from)
            .or_io("write into storage directory", &root)?;
        Ok(Self { root, buffers: Arc::default() })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Removes unfinished writes that are older than `age`: what a killed process left behind. Gives their number.
    pub async fn sweep(&self, age: Duration, job: &JobContext) -> Result<u64> {
        self.blocking("sweep storage", job, move |storage, stop| storage.sweep_now("", age, stop)).await
    }

    /// Runs `work` off the runtime. When the caller gives up waiting, the work is told to stop before its next step.
    async fn blocking<T: Send + 'static>(
        &self,
        op: &'static str,
        job: &JobContext,
        work: impl FnOnce(&Self, &Stop) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let token = job.token().child_token();
        let _stop_when_dropped = token.clone().drop_guard();
        let (storage, stop) = (self.clone(), Stop { job: job.clone(), token });
        job.run(op, job.workers().block(op, move || work(&storage, &stop))).await
    }

    fn put_now(&self, key: &str, parts: &[Bytes], overwrite: Overwrite, stop: &Stop) -> Result<()> {
        let path = self.root.join(key);
        if overwrite == Overwrite::Forbid && stat_now(&path)?.is_some() {
            return Err(exists(&path));
        }
        stop.check("store object")?;
        let mut aside = Aside::beside(&path, &stop.job)?;
        let mut stopped = None;
        let mut between = || {
            stop.check("store object").map_err(|error| {
                stopped = Some(error);
                io::Error::other("stopped")
            })
        };
        let written = aside.in_directory(|name| direct::write_new(name, parts, &self.buffers, &mut between));
        if let Some(error) = stopped {
            return Err(error);
        }
        written.map_err(|e| put_error(e, &path))?;
        stop.check("store object")?;
        publish(&aside.path, &path, overwrite)?;
        aside.published = true;
        sync_directory(aside.directory()).map_err(|e| put_error(e, &path))
    }

    fn get_now(&self, key: &str, stop: &Stop) -> Result<Bytes> {
        let path = self.root.join(key);
        let missing = || Error::new(ErrorKind::NotFound, "read object").with("path", path.display());
        let bytes = stat_now(&path)?.ok_or_else(missing)?;
        if bytes > OBJECT_BYTES_MAX {
            return Err(Error::new(ErrorKind::Exhausted, "read object")
                .with("path", path.display())
                .with("bytes", bytes)
                .why(format!("an object has at most {OBJECT_BYTES_MAX} bytes")));
        }
        stop.check("read object")?;
        let mut file = std::fs::File::open(&path).or_io("read object", &path)?;
        // one byte more, so that the end is found without growing the buffer
        let mut body = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0) + 1);
        file.by_ref().take(OBJECT_BYTES_MAX).read_to_end(&mut body).or_io("read object", &path)?;
        Ok(body.into())
    }

    fn list_now(&self, prefix: &str, stop: &Stop) -> Result<Vec<ObjectMeta>> {
        let mut found = Vec::new();
        self.walk(prefix, stop, &mut |key, entry| {
            if let (Some(key), Some(bytes)) = (key, stat_now(entry)?) {
                found.push(ObjectMeta { key, bytes });
            }
            Ok(())
        })?;
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// Calls `visit` for every entry below `prefix` that is no directory; the key is `None` for what is not an object.
    fn walk(
        &self,
        prefix: &str,
        stop: &Stop,
        visit: &mut dyn FnMut(Option<String>, &Path) -> Result<()>,
    ) -> Result<()> {
        let mut pending = vec![prefix.to_owned()];
        while let Some(prefix) = pending.pop() {
            stop.check("list objects")?;
            let directory = self.root.join(&prefix);
            let entries = match std::fs::read_dir(&directory) {
                Err(e) if is_absent(&e) => continue,
                entries => entries.or_io("list objects", &directory)?,
            };
            for entry in entries {
                let entry = entry.or_io("list objects", &directory)?;
                let name = entry.file_name();
                let key = name.to_str().filter(|n| is_key_part(n)).map(|n| format!("{prefix}{n}"));
                let is_directory = match entry.file_type() {
                    Err(e) if is_absent(&e) => continue,
                    kind => kind.or_io("list objects", &directory)?.is_dir(),
                };
                match (is_directory, key) {
                    (true, Some(key)) => pending.push(format!("{key}/")),
                    (true, None) => {}
                    (false, key) => visit(key, &entry.path())?,
                }
            }
        }
        Ok(())
    }

    fn delete_now(&self, key: &str, stop: &Stop) -> Result<()> {
        let path = self.root.join(key);
        stop.check("delete object")?;
        if stat_now(&path)?.is_none() {
            return Ok(());
        }
        match std::fs::remove_file(&path) {
            Err(e) if is_absent(&e) => return Ok(()),
            removed => removed.or_io("delete object", &path)?,
        }
        let directory = path.parent().unwrap_or(&self.root);
        match sync_directory(directory) {
            Err(e) if is_absent(&e) => {}
            synced => synced.or_io("delete object", &path)?,
        }
        remove_empty(directory, &self.root);
        Ok(())
    }

    fn sweep_now(&self, prefix: &str, age: Duration, stop: &Stop) -> Result<u64> {
        let mut removed = 0;
        let now = SystemTime::from(stop.job.now());
        self.walk(prefix, stop, &mut |_, path| {
            let aside =
                path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(ASIDE_PREFIX.as_bytes()));
            if aside && is_older(path, now, age) && std::fs::remove_file(path).is_ok() {
                removed += 1;
                remove_empty(path.parent().unwrap_or(&self.root), &self.root);
            }
            Ok(())
        })?;
        Ok(removed)
    }
}

#[async_trait]
impl Storage for LocalStorage {
    fn location(&self) -> String {
        self.root.display().to_string()
    }

    async fn put(&self, key: &str, parts: Vec<Bytes>, overwrite: Overwrite, job: &JobContext) -> Result<()> {
        check_key(key)?;
        let key = key.to_owned();
        self.blocking("store object", job, move |storage, stop| {
            storage.put_now(&key, &parts, overwrite, stop)
        })
        .await
    }

    async fn get(&self, key: &str, job: &JobContext) -> Result<Bytes> {
        check_key(key)?;
        let key = key.to_owned();
        self.blocking("read object", job, move |storage, stop| storage.get_now(&key, stop)).await
    }

    async fn stat(&self, key: &str, job: &JobContext) -> Result<Option<ObjectMeta>> {
        check_key(key)?;
        let key = key.to_owned();
        self.blocking("stat object", job, move |storage, _| {
            let bytes = stat_now(&storage.root.join(&key))?;
            Ok(bytes.map(|bytes| ObjectMeta { key, bytes }))
        })
        .await
    }

    async fn list(&self, prefix: &str, job: &JobContext) -> Result<Vec<ObjectMeta>> {
        check_prefix(prefix)?;
        let prefix = prefix.to_owned();
        self.blocking("list objects", job, move |storage, stop| storage.list_now(&prefix, stop)).await
    }

    async fn delete(&self, key: &str, job: &JobContext) -> Result<()> {
        check_key(key)?;
        let key = key.to_owned();
        self.blocking("delete object", job, move |storage, stop| storage.delete_now(&key, stop)).await
    }

    async fn discard_unfinished(&self, prefix: &str, job: &JobContext) -> Result<u64> {
        check_prefix(prefix)?;
        let prefix = prefix.to_owned();
        self.blocking("discard unfinished writes", job, move |storage, stop| {
            storage.sweep_now(&prefix, Duration::ZERO, stop)
        })
        .await
    }

    async fn free_bytes(&self, job: &JobContext) -> Result<Option<u64>> {
        self.blocking("measure free space", job, |storage, _| {
            let stat = rustix::fs::statvfs(&storage.root)
                .map_err(io::Error::from)
                .or_io("measure free space", &storage.root)?;
            Ok(Some(stat.f_bavail.saturating_mul(stat.f_frsize)))
        })
        .await
    }
}
