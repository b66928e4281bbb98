//! Heartbeat records: a list in database 0, newest last.

use async_trait::async_trait;

use super::fingerprint::CANARY_KEY;
use super::rdb::decode::Decoder;
use super::rdb::{Header, RawValues, Record, Visitor};
use super::{RedisSystem, dump_in, feed, resp};
use crate::domain::canary::{CANARIES_KEPT, CanaryRecord};
use crate::domain::place::Place;
use crate::error::{Error, Result};
use crate::runtime::JobContext;
use crate::system::Canary;

#[async_trait]
impl Canary for RedisSystem {
    async fn write(&self, record: &CanaryRecord, job: &JobContext) -> Result<()> {
        let json = serde_json::to_vec(record).map_err(|e| Error::bug("write canary").because(e))?;
        let oldest = format!("-{CANARIES_KEPT}");
        let mut connection = self.settings.endpoint().connect(job).await?;
        let mut commands = Vec::new();
        resp::encode(&[b"RPUSH", CANARY_KEY, &json], &mut commands);
        resp::encode(&[b"LTRIM", CANARY_KEY, oldest.as_bytes(), b"-1"], &mut commands);
        connection.send(&commands, job).await?;
        connection.receive(job).await?.into_result(b"RPUSH")?;
        connection.receive(job).await?.into_result(b"LTRIM")?;
        Ok(())
    }

    async fn read(&self, place: &Place, job: &JobContext) -> Result<Vec<CanaryRecord>> {
        let texts: Vec<Vec<u8>> = match (self.endpoint(place), place) {
            (Some(endpoint), _) => {
                let mut connection = endpoint.connect(job).await?;
                let reply = connection.call(&[b"LRANGE", CANARY_KEY, b"0", b"-1"], job).await?;
                reply.items().iter().map(|r| r.to_text().into_bytes()).collect()
            }
            (None, Place::Directory { path }) => {
                let (found, _) = feed::parse_file(&dump_in(path), CanaryFinder::default(), job).await?;
                found.records
            }
            (None, Place::Production | Place::Server(_)) => return Err(Error::bug("reach a server")),
        };
        // one that cannot be read proves nothing: it is left out like one that was never written
        Ok(texts.iter().filter_map(|text| serde_json::from_slice(text).ok()).collect())
    }
}

/// Looks for the canaries in an RDB.
#[derive(Debug, Default)]
struct CanaryFinder {
    version: u16,
    records: Vec<Vec<u8>>,
}

impl Visitor for CanaryFinder {
    fn begin(&mut self, header: &Header) -> Result<()> {
        self.version = header.version;
        Ok(())
    }

    fn key(&mut self, record: Record<'_>) -> Result<()> {
        if record.db == 0 && record.key == CANARY_KEY {
            self.records = Decoder::list(self.version, record.encoding, record.raw)?;
        }
        Ok(())
    }

    fn function(&mut self, _code: &[u8]) -> Result<()> {
        Ok(())
    }

    fn keeps_raw(&self) -> RawValues {
        RawValues::Kept
    }
}
