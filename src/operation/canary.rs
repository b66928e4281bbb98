//! Heartbeat records: writing them into production, and reading RPO out of a restored copy.

use crate::config::CanaryUse;
use crate::domain::backup::{Watermark, WatermarkSource};
use crate::domain::canary::{CanaryReading, CanaryRecord};
use crate::domain::id::SystemName;
use crate::domain::place::Place;
use crate::error::Result;
use crate::operation::Node;
use crate::pipeline::signing::TrustedSigners;
use crate::runtime::JobContext;
use crate::system::Canary;

fn message(system: &SystemName, seq: u64, utc: crate::domain::Timestamp) -> Vec<u8> {
    format!("lifeboat canary|{system}|{seq}|{}", utc.timestamp_micros()).into_bytes()
}

/// Writes one record into production. `None` where canaries are off or the engine has none.
pub async fn write(node: &Node, system: &SystemName, job: &JobContext) -> Result<Option<CanaryRecord>> {
    let engine = node.system(system)?;
    let Some(canary) = engine.canary().filter(|_| is_on(node, system)) else {
        return Ok(None);
    };
    let seq = next_number(node, system, canary, job).await?;
    // microseconds: what every engine can keep
    let now = job.now();
    let utc = now - chrono::Duration::nanoseconds(i64::from(now.timestamp_subsec_nanos() % 1_000));
    let mac = node.signing_key()?.sign_text(&message(system, seq, utc));
    let record = CanaryRecord { seq, utc, mac };
    job.run("write canary", canary.write(&record, job)).await?;
    node.catalog.canary_written(system, &record).await?;
    Ok(Some(record))
}

/// The next number. A catalog that knows none goes on behind the newest record in the system, so that a lost catalog does
/// not number anew.
async fn next_number(node: &Node, system: &SystemName, canary: &dyn Canary, job: &JobContext) -> Result<u64> {
    let seq = node.catalog.next_canary(system).await?;
    if seq > 1 {
        return Ok(seq);
    }
    let trusted = node.trusted()?;
    let records = job.run("read canaries", canary.read(&Place::Production, job)).await?;
    match CanaryReading::read(records, |r| is_ours(system, r, &trusted)).newest {
        Some(newest) => {
            node.catalog.canary_written(system, &newest).await?;
            node.catalog.next_canary(system).await
        }
        None => Ok(seq),
    }
}

fn is_on(node: &Node, system: &SystemName) -> bool {
    node.config.systems.get(system).is_some_and(|s| s.canary == CanaryUse::On)
}

/// What a copy says about its newest write.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Freshness {
    pub watermark: Option<Watermark>,
    pub canaries: CanaryReading,
}

/// Reads the watermark of a copy: the newest valid canary or the engine's own record, whichever is newer.
pub async fn freshness(
    node: &Node,
    system: &SystemName,
    place: &Place,
    job: &JobContext,
) -> Result<Freshness> {
    let engine = node.system(system)?;
    let trusted = node.trusted()?;
    let canaries = match engine.canary().filter(|_| is_on(node, system)) {
        Some(canary) => {
            let records = job.run("read canaries", canary.read(place, job)).await?;
            CanaryReading::read(records, |r| is_ours(system, r, &trusted))
        }
        None => CanaryReading::default(),
    };
    let from_canary =
        canaries.newest.as_ref().map(|r| Watermark { at: r.utc, source: WatermarkSource::Canary });
    let from_engine = job.run("read watermark", engine.watermark(place, job)).await?;
    let watermark = from_canary.into_iter().chain(from_engine).max_by_key(|w| w.at);
    Ok(Freshness { watermark, canaries })
}

fn is_ours(system: &SystemName, record: &CanaryRecord, trusted: &TrustedSigners) -> bool {
    trusted.signed(&message(system, record.seq, record.utc), &record.mac)
}
