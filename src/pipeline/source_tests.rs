//! Tests of the source, and of sink and source together.

use futures_util::TryStreamExt;
use proptest::prelude::*;

use super::super::testing::{DirStorage, Fixture, SEGMENT_BYTES, noise};
use super::*;
use crate::runtime::{SystemClock, Workers};

fn name(text: &str) -> ArtifactName {
    ArtifactName::parse(text).unwrap()
}

fn source(
    fixture: &Fixture,
    storage: &Arc<DirStorage>,
    manifest: &Manifest,
    job: &JobContext,
) -> SegmentSource {
    let chain = [(manifest.clone(), storage.clone() as Arc<dyn Storage>)];
    SegmentSource::new(chain, fixture.identities.clone(), job)
}

async fn read(
    source: &SegmentSource,
    manifest: &Manifest,
    artifact: &str,
    job: &JobContext,
) -> Result<Vec<u8>> {
    let stream = source.open(&manifest.id, &name(artifact), job).await?;
    let parts: Vec<Bytes> = stream.try_collect().await?;
    Ok(parts.concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_is_read_from_the_storage_of_each_backup() {
    let (job, fixture) = (JobContext::plain(), Fixture::new());
    let (near, far) = (DirStorage::new(), DirStorage::new());
    let big = noise(5, 1_000_000);
    let full = fixture.backup(&near, 1, &[("a", &big), ("empty", b"")], &job).await;
    let next = fixture.backup(&far, 2, &[("a", b"changed")], &job).await;
    let chain =
        [(full.clone(), near.clone() as Arc<dyn Storage>), (next.clone(), far.clone() as Arc<dyn Storage>)];
    let source = SegmentSource::new(chain, fixture.identities.clone(), &job);
    assert!(read(&source, &full, "a", &job).await.unwrap() == big);
    assert_eq!(read(&source, &full, "empty", &job).await.unwrap(), b"");
    assert_eq!(read(&source, &next, "a", &job).await.unwrap(), b"changed");
    assert_eq!(read(&source, &full, "none", &job).await.unwrap_err().kind(), ErrorKind::NotFound);
    let absent = fixture.manifest(3, Vec::new());
    assert_eq!(read(&source, &absent, "a", &job).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn damage_is_named_and_nothing_of_the_damaged_segment_comes_out() {
    let (job, fixture, storage) = (JobContext::plain(), Fixture::new(), DirStorage::new());
    let raw = noise(5, 300_000);
    let manifest = fixture.backup(&storage, 1, &[("a", &raw)], &job).await;
    let key = manifest.segment_key(&name("a"), 3);
    let whole = std::fs::read(storage.path(&key)).unwrap();
    type Damage = fn(&mut Vec<u8>);
    let damages: [Damage; 3] = [|b| b[700] ^= 4, |b| b.truncate(b.len() - 1), |b| b.push(0)];
    for damage in damages.map(Some).into_iter().chain([None]) {
        match damage {
            Some(damage) => storage.change(&key, damage),
            None => std::fs::remove_file(storage.path(&key)).unwrap(),
        }
        let source = source(&fixture, &storage, &manifest, &job);
        let mut stream = source.open(&manifest.id, &name("a"), &job).await.unwrap();
        let mut seen = Vec::new();
        let error = loop {
            match stream.next().await.unwrap() {
                Ok(bytes) => seen.extend_from_slice(&bytes),
                Err(error) => break error,
            }
        };
        assert!(seen == raw[..2 * usize::try_from(SEGMENT_BYTES).unwrap()]);
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(&key) && error.advice().is_some(), "{error:?}");
        assert!(stream.next().await.is_none(), "a stream that failed has ended");
        std::fs::write(storage.path(&key), &whole).unwrap();
    }
}

#[tokio::test]
async fn two_segments_exchanged_are_refused() {
    let (job, fixture, storage) = (JobContext::plain(), Fixture::new(), DirStorage::new());
    let manifest = fixture.backup(&storage, 1, &[("a", &noise(5, 200_000))], &job).await;
    let [one, two] = [1, 2].map(|n| storage.path(&manifest.segment_key(&name("a"), n)));
    let aside = one.with_extension("aside");
    std::fs::rename(&one, &aside).unwrap();
    std::fs::rename(&two, &one).unwrap();
    std::fs::rename(&aside, &two).unwrap();
    let source = source(&fixture, &storage, &manifest, &job);
    assert_eq!(read(&source, &manifest, "a", &job).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_wrong_key_is_denied_with_the_name_of_the_right_one() {
    let (job, fixture, storage) = (JobContext::plain(), Fixture::new(), DirStorage::new());
    let manifest = fixture.backup(&storage, 1, &[("a", b"alpha")], &job).await;
    let stranger = Fixture::new();
    for identities in [stranger.identities.clone(), Arc::default()] {
        let chain = [(manifest.clone(), storage.clone() as Arc<dyn Storage>)];
        let source = SegmentSource::new(chain, identities, &job);
        let error = read(&source, &manifest, "a", &job).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(error.advice().unwrap().contains(&fixture.encoding.recipients[0]), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_read_side_by_side_never_wait_for_each_other_and_memory_is_bounded() {
    let job = JobContext::new(Arc::new(SystemClock), Workers::with_cores(2));
    let (mut fixture, storage) = (Fixture::new(), DirStorage::new());
    fixture.encoding.segment_bytes = super::super::block::BLOCK_BYTES as u64;
    let raw = noise(9, 6_500_000);
    let manifest = fixture.backup(&storage, 1, &[("a", &raw), ("b", &raw), ("c", &raw)], &job).await;
    let source = source(&fixture, &storage, &manifest, &job);
    let mut streams = Vec::new();
    for artifact in ["a", "b", "c"] {
        streams.push(source.open(&manifest.id, &name(artifact), &job).await.unwrap());
    }
    // a has read ahead as far as it may before b and c are read at all
    let mut seen = [Vec::new(), Vec::new(), Vec::new()];
    for n in [0, 1, 2] {
        seen[n].extend_from_slice(&streams[n].next().await.unwrap().unwrap());
    }
    for n in [2, 1, 0] {
        while let Some(bytes) = streams[n].next().await {
            seen[n].extend_from_slice(&bytes.unwrap());
        }
    }
    assert!(seen.iter().all(|s| *s == raw));
    // one segment for each stream, one being handed out, two ahead; a segment is one block here
    assert!(source.held_bytes_max() <= 6 * super::super::block::BLOCK_BYTES, "{}", source.held_bytes_max());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_goes_in_comes_out_around_every_boundary(
        segments in 0u64..4,
        beside in -2i64..3,
        chunk in 1usize..150_000,
        encrypted in any::<bool>(),
    ) {
        let bytes = usize::try_from((segments * SEGMENT_BYTES).saturating_add_signed(beside)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (job, mut fixture, storage) = (JobContext::plain(), Fixture::new(), DirStorage::new());
            if !encrypted {
                fixture.encoding.recipients.clear();
            }
            let raw = noise(segments, bytes);
            let sink = fixture.sink(&storage, 1, &job);
            let mut writer = crate::system::BackupSink::artifact(&sink, &name("a")).await.unwrap();
            for part in raw.chunks(chunk) {
                writer.write(Bytes::copy_from_slice(part)).await.unwrap();
            }
            writer.finish().await.unwrap();
            let manifest = fixture.manifest(1, sink.finish().await.unwrap());
            let source = source(&fixture, &storage, &manifest, &job);
            assert!(read(&source, &manifest, "a", &job).await.unwrap() == raw);
        });
    }
}
