//! Storage in memory, for tests: with a limit of space and puts that fail on demand. Nothing outlives the value.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::key::{check_key, check_prefix};
use super::{OBJECT_BYTES_MAX, ObjectMeta, Overwrite, Storage};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;

#[derive(Debug, Default)]
pub struct MemoryStorage {
    state: Mutex<State>,
    bytes_max: Option<u64>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Bytes>,
    /// Puts that were asked for, failed ones included.
    puts: u64,
    /// Number of the put, counted from 1, and what it fails with.
    faults: BTreeMap<u64, ErrorKind>,
}

impl MemoryStorage {
    /// Holds at most `bytes_max` bytes in all; a put beyond that is `Exhausted`.
    pub fn with_capacity(bytes_max: u64) -> Self {
        Self { bytes_max: Some(bytes_max), ..Self::default() }
    }

    /// Lets the `nth` put from now on (1 is the next one) fail once and store nothing.
    pub fn fail_put(&self, nth: u64, kind: ErrorKind) {
        let mut state = self.state();
        let number = state.puts + nth;
        state.faults.insert(number, kind);
    }

    /// Replaces an object behind the back of whoever wrote it, to test what damage does. `None` removes it.
    pub fn tamper(&self, key: &str, change: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>) {
        let mut state = self.state();
        if let Some(body) = state.objects.remove(key)
            && let Some(changed) = change(body.into())
        {
            state.objects.insert(key.to_owned(), changed.into());
        }
    }

    pub fn keys(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_now(&self, key: &str, parts: &[Bytes], overwrite: Overwrite) -> Result<()> {
        let mut state = self.state();
        state.puts += 1;
        let number = state.puts;
        let fail =
            |kind: ErrorKind, why: &str| Err(Error::new(kind, "store object").with("key", key).why(why));
        if let Some(kind) = state.faults.remove(&number) {
            return fail(kind, "a fault was asked for");
        }
        if overwrite == Overwrite::Forbid && state.objects.contains_key(key) {
            return fail(ErrorKind::Conflict, "it exists already");
        }
        let body = parts.concat();
        let others = state.objects.iter().filter(|(k, _)| *k != key);
        let used = others.map(|(_, o)| o.len() as u64).sum::<u64>() + body.len() as u64;
        if body.len() as u64 > OBJECT_BYTES_MAX || self.bytes_max.is_some_and(|max| used > max) {
            return fail(ErrorKind::Exhausted, "no space is left");
        }
        state.objects.insert(key.to_owned(), body.into());
        Ok(())
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    fn location(&self) -> String {
        "memory".to_owned()
    }

    async fn put(&self, key: &str, parts: Vec<Bytes>, overwrite: Overwrite, job: &JobContext) -> Result<()> {
        check_key(key)?;
        job.check("store object")?;
        self.put_now(key, &parts, overwrite)
    }

    async fn get(&self, key: &str, job: &JobContext) -> Result<Bytes> {
        check_key(key)?;
        job.check("read object")?;
        let found = self.state().objects.get(key).cloned();
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, "read object").with("key", key))
    }

    async fn stat(&self, key: &str, job: &JobContext) -> Result<Option<ObjectMeta>> {
        check_key(key)?;
        job.check("stat object")?;
        Ok(self
            .state()
            .objects
            .get(key)
            .map(|body| ObjectMeta { key: key.to_owned(), bytes: body.len() as u64 }))
    }

    async fn list(&self, prefix: &str, job: &JobContext) -> Result<Vec<ObjectMeta>> {
        check_prefix(prefix)?;
        job.check("list objects")?;
        let state = self.state();
        let found = state.objects.iter().filter(|(key, _)| key.starts_with(prefix));
        Ok(found.map(|(key, body)| ObjectMeta { key: key.clone(), bytes: body.len() as u64 }).collect())
    }

    async fn delete(&self, key: &str, job: &JobContext) -> Result<()> {
        check_key(key)?;
        job.check("delete object")?;
        self.state().objects.remove(key);
        Ok(())
    }

    async fn free_bytes(&self, _job: &JobContext) -> Result<Option<u64>> {
        let used: u64 = self.state().objects.values().map(|o| o.len() as u64).sum();
        Ok(self.bytes_max.map(|max| max.saturating_sub(used)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn memory_conforms() {
        let job = JobContext::plain();
        super::super::conformance::check(&MemoryStorage::default(), &job).await.unwrap();
    }

    #[tokio::test]
    async fn the_chosen_put_fails_once_and_stores_nothing() {
        let (storage, job) = (MemoryStorage::default(), JobContext::plain());
        storage.fail_put(2, ErrorKind::Unreachable);
        let put = async |key| storage.put(key, vec![], Overwrite::Forbid, &job).await;
        put("a").await.unwrap();
        assert_eq!(put("b").await.unwrap_err().kind(), ErrorKind::Unreachable);
        assert_eq!(storage.keys(), ["a"]);
        put("b").await.unwrap();
    }

    #[tokio::test]
    async fn a_put_beyond_the_capacity_is_exhausted() {
        let (storage, job) = (MemoryStorage::with_capacity(4), JobContext::plain());
        let put =
            async |key, body: &'static str| storage.put(key, vec![body.into()], Overwrite::Allow, &job).await;
        put("a", "1234").await.unwrap();
        put("a", "4321").await.unwrap();
        assert_eq!(put("b", "1").await.unwrap_err().kind(), ErrorKind::Exhausted);
        assert_eq!(storage.free_bytes(&job).await.unwrap(), Some(0));
    }
}
