//! What every storage must do, as one suite: for the tests of the adapters, and as the probe of a configured destination.
//!
//! Works below a prefix of its own and removes what it wrote, also when a check does not hold. Writes about 100 MiB.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::{Overwrite, Storage};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::JobContext;

/// Above the default segment and above common limits of a single upload part.
const LARGE_BYTES: usize = 33 * 1024 * 1024;
/// A race that is lost once in a few tries should show.
const RACES: usize = 8;
/// A body of several parts that are neither equal nor aligned.
const PART_BYTES: usize = 700_001;

macro_rules! hold {
    ($test:expr, $($what:tt)*) => {
        if !$test {
            return Err(Error::new(ErrorKind::Failed, "trust storage").why(format!($($what)*)));
        }
    };
}

/// Fails with kind `Failed` and the broken promise as the reason; other kinds come from the storage itself.
pub async fn check(storage: &dyn Storage, job: &JobContext) -> Result<()> {
    let suite = Suite { storage, job, prefix: format!("conformance-{:08x}", job.clock().random()) };
    let result = suite.run().await;
    let cleaned = suite.clean().await;
    result.and(cleaned).map_err(|e| e.during(format!("use storage {}", storage.location())))
}

struct Suite<'a> {
    storage: &'a dyn Storage,
    job: &'a JobContext,
    prefix: String,
}

impl Suite<'_> {
    async fn run(&self) -> Result<()> {
        self.missing_objects().await?;
        self.round_trips().await?;
        self.create_only().await?;
        self.concurrent_creates().await?;
        self.overwriting().await?;
        self.listing().await?;
        self.refused_keys().await?;
        self.nothing_half_visible().await?;
        self.deleting().await
    }

    async fn clean(&self) -> Result<()> {
        let prefix = format!("{}/", self.prefix);
        for object in self.storage.list(&prefix, self.job).await? {
            self.storage.delete(&object.key, self.job).await?;
        }
        let left = self.storage.list(&prefix, self.job).await?;
        hold!(left.is_empty(), "{} deleted objects are still listed", left.len());
        Ok(())
    }

    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    async fn put(&self, name: &str, body: &Bytes, overwrite: Overwrite) -> Result<()> {
        let parts = (0..body.len())
            .step_by(PART_BYTES)
            .map(|at| body.slice(at..body.len().min(at + PART_BYTES)))
            .collect();
        self.storage.put(&self.key(name), parts, overwrite, self.job).await
    }

    async fn get(&self, name: &str) -> Result<Bytes> {
        self.storage.get(&self.key(name), self.job).await
    }

    async fn size(&self, name: &str) -> Result<Option<u64>> {
        let meta = self.storage.stat(&self.key(name), self.job).await?;
        Ok(meta.map(|m| m.bytes))
    }

    async fn missing_objects(&self) -> Result<()> {
        let got = self.get("none").await.map_err(|e| e.kind());
        hold!(got == Err(ErrorKind::NotFound), "reading what is not there gave {got:?}");
        hold!(self.size("none").await?.is_none(), "a missing object has a size");
        let listed = self.storage.list(&self.key("none/"), self.job).await?;
        hold!(listed.is_empty(), "a prefix without objects lists {}", listed.len());
        self.storage.delete(&self.key("none"), self.job).await
    }

    async fn round_trips(&self) -> Result<()> {
        for (name, bytes) in [
            ("round/empty", 0),
            ("round/one", 1),
            ("round/block", 4096),
            ("round/parts", 3 * PART_BYTES + 17),
            ("round/000001.zst.age", 70_000),
            ("round/under_score-and.dot/.hidden", 5),
            ("round/large", LARGE_BYTES),
        ] {
            let body = body(bytes, 1);
            self.put(name, &body, Overwrite::Forbid).await?;
            let size = self.size(name).await?;
            hold!(size == Some(bytes as u64), "{name} of {bytes} bytes has the size {size:?}");
            hold!(self.get(name).await? == body, "{name} of {bytes} bytes came back changed");
        }
        Ok(())
    }

    async fn create_only(&self) -> Result<()> {
        let (first, second) = (body(100, 1), body(200, 2));
        self.put("once", &first, Overwrite::Forbid).await?;
        let again = self.put("once", &second, Overwrite::Forbid).await;
        let again = again.map_err(|e| e.kind());
        hold!(again == Err(ErrorKind::Conflict), "creating an existing object gave {again:?}");
        hold!(self.get("once").await? == first, "a refused create changed the object");
        Ok(())
    }

    async fn concurrent_creates(&self) -> Result<()> {
        for race in 0..RACES {
            let name = format!("race/{race}");
            let (left, right) = (body(3 * 1024 * 1024, 1), body(3 * 1024 * 1024, 2));
            let (a, b) = tokio::join!(
                self.put(&name, &left, Overwrite::Forbid),
                self.put(&name, &right, Overwrite::Forbid)
            );
            let outcomes = (a.map_err(|e| e.kind()), b.map_err(|e| e.kind()));
            let winner = match outcomes {
                (Ok(()), Err(ErrorKind::Conflict)) => left,
                (Err(ErrorKind::Conflict), Ok(())) => right,
                other => {
                    hold!(false, "two writers that create the same object got {other:?}");
                    continue;
                }
            };
            hold!(self.get(&name).await? == winner, "the object is not the one of the winner");
        }
        Ok(())
    }

    async fn overwriting(&self) -> Result<()> {
        for (bytes, seed) in [(2_000_000, 1), (10, 2), (5000, 3)] {
            let body = body(bytes, seed);
            self.put("again", &body, Overwrite::Allow).await?;
            hold!(self.get("again").await? == body, "overwriting with {bytes} bytes did not take");
        }
        Ok(())
    }

    async fn listing(&self) -> Result<()> {
        // in byte order, which is neither the order of directories nor that of a dictionary
        let names = ["list/B/1", "list/a-b/1", "list/a.b/1", "list/a/1", "list/a/2", "list/a0"];
        for (n, name) in names.iter().enumerate().rev() {
            self.put(name, &body(n, 1), Overwrite::Forbid).await?;
        }
        let listed = self.storage.list(&self.key("list/"), self.job).await?;
        let keys: Vec<&str> = listed.iter().map(|m| m.key.as_str()).collect();
        let expected: Vec<String> = names.iter().map(|n| self.key(n)).collect();
        hold!(keys == expected, "listing gave {keys:?}");
        let sizes: Vec<u64> = listed.iter().map(|m| m.bytes).collect();
        hold!(sizes == [0, 1, 2, 3, 4, 5], "listing gave the sizes {sizes:?}");
        let below = self.storage.list(&self.key("list/a/"), self.job).await?;
        hold!(below.len() == 2, "a prefix reached beyond its slash: {below:?}");
        let all = self.storage.list("", self.job).await?;
        hold!(
            all.iter().filter(|m| expected.contains(&m.key)).count() == names.len(),
            "listing everything leaves objects out"
        );
        hold!(all.is_sorted_by(|a, b| a.key < b.key), "listing everything is not in order");
        hold!(self.size("list/a").await?.is_none(), "a prefix has a size");
        let got = self.get("list/a").await.map_err(|e| e.kind());
        hold!(got == Err(ErrorKind::NotFound), "reading a prefix gave {got:?}");
        Ok(())
    }

    async fn refused_keys(&self) -> Result<()> {
        for bad in ["", "/a", "a/", "a//b", "../a", "a/../../b", "a/./b", "a b", "a\nb"] {
            let put = self.storage.put(bad, vec![], Overwrite::Allow, self.job).await;
            let kind = put.map_err(|e| e.kind());
            hold!(kind == Err(ErrorKind::Config), "the key {bad:?} gave {kind:?}");
        }
        Ok(())
    }

    /// While an object is being written, others see none of it or all of it.
    async fn nothing_half_visible(&self) -> Result<()> {
        let (name, done) = ("whole/large", AtomicBool::new(false));
        let (old, new) = (body(1_500_000, 1), body(LARGE_BYTES, 2));
        self.put(name, &old, Overwrite::Forbid).await?;
        let writing = async {
            let put = self.put(name, &new, Overwrite::Allow).await;
            done.store(true, Ordering::Relaxed);
            put
        };
        let watching = async {
            while !done.load(Ordering::Relaxed) {
                let listed = self.storage.list(&self.key("whole/"), self.job).await?;
                let sizes: Vec<u64> = listed.iter().map(|m| m.bytes).collect();
                let whole = [[old.len() as u64], [new.len() as u64]].iter().any(|s| sizes == *s);
                hold!(whole, "an unfinished write shows as sizes {sizes:?}");
                let seen = self.get(name).await?;
                hold!(seen == old || seen == new, "a reader saw {} bytes of a mixture", seen.len());
            }
            Ok(())
        };
        let (written, watched) = tokio::join!(writing, watching);
        written.and(watched)
    }

    async fn deleting(&self) -> Result<()> {
        for _ in 0..2 {
            self.storage.delete(&self.key("once"), self.job).await?;
        }
        hold!(self.size("once").await?.is_none(), "a deleted object is still there");
        self.put("once", &body(9, 3), Overwrite::Forbid).await
    }
}

/// `length` bytes that differ from place to place and from seed to seed.
fn body(length: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::super::ObjectMeta;
    use super::super::memory::MemoryStorage;
    use super::*;

    /// Breaks one promise of a sound storage.
    #[derive(Clone, Copy, Debug)]
    enum Flaw {
        OverwritesAlways,
        LosesTheLastByte,
        ListsUnordered,
        DeletesNothing,
        ReadsMissingAsEmpty,
    }

    #[derive(Debug)]
    struct Flawed(MemoryStorage, Flaw);

    #[async_trait::async_trait]
    impl Storage for Flawed {
        fn location(&self) -> String {
            "flawed".to_owned()
        }
        async fn put(&self, key: &str, parts: Vec<Bytes>, how: Overwrite, job: &JobContext) -> Result<()> {
            let (parts, how) = match self.1 {
                Flaw::OverwritesAlways => (parts, Overwrite::Allow),
                Flaw::LosesTheLastByte => {
                    let body = Bytes::from(parts.concat());
                    (vec![body.slice(..body.len().saturating_sub(1))], how)
                }
                Flaw::ListsUnordered | Flaw::DeletesNothing | Flaw::ReadsMissingAsEmpty => (parts, how),
            };
            self.0.put(key, parts, how, job).await
        }
        async fn get(&self, key: &str, job: &JobContext) -> Result<Bytes> {
            match (self.1, self.0.get(key, job).await) {
                (Flaw::ReadsMissingAsEmpty, Err(_)) => Ok(Bytes::new()),
                (_, got) => got,
            }
        }
        async fn stat(&self, key: &str, job: &JobContext) -> Result<Option<ObjectMeta>> {
            self.0.stat(key, job).await
        }
        async fn list(&self, prefix: &str, job: &JobContext) -> Result<Vec<ObjectMeta>> {
            let mut listed = self.0.list(prefix, job).await?;
            if matches!(self.1, Flaw::ListsUnordered) {
                listed.reverse();
            }
            Ok(listed)
        }
        async fn delete(&self, key: &str, job: &JobContext) -> Result<()> {
            match self.1 {
                Flaw::DeletesNothing => Ok(()),
                Flaw::OverwritesAlways
                | Flaw::LosesTheLastByte
                | Flaw::ListsUnordered
                | Flaw::ReadsMissingAsEmpty => self.0.delete(key, job).await,
            }
        }
        async fn free_bytes(&self, job: &JobContext) -> Result<Option<u64>> {
            self.0.free_bytes(job).await
        }
    }

    #[tokio::test]
    async fn the_suite_finds_every_planted_flaw() {
        for flaw in [
            Flaw::OverwritesAlways,
            Flaw::LosesTheLastByte,
            Flaw::ListsUnordered,
            Flaw::DeletesNothing,
            Flaw::ReadsMissingAsEmpty,
        ] {
            let storage = Flawed(MemoryStorage::default(), flaw);
            let error = check(&storage, &JobContext::plain()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Failed, "{flaw:?}: {error}");
        }
    }
}
