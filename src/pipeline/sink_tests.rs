//! Tests of the sink.

use bytes::Bytes;

use super::super::testing::{DirStorage, Fixture, SEGMENT_BYTES, noise};
use super::*;
use crate::runtime::{SystemClock, Workers};

fn name(text: &str) -> ArtifactName {
    ArtifactName::parse(text).unwrap()
}

async fn store(sink: &SegmentSink, artifact: &str, bytes: &[u8]) -> Result<()> {
    let mut writer = sink.artifact(&name(artifact)).await?;
    for chunk in bytes.chunks(10_000) {
        writer.write(Bytes::copy_from_slice(chunk)).await?;
    }
    writer.finish().await.map(drop)
}

#[tokio::test]
async fn artifacts_are_cut_at_the_segment_size_and_sorted_by_name() {
    let (job, fixture, storage) = (JobContext::plain(), Fixture::new(), DirStorage::new());
    let sink = fixture.sink(&storage, 1, &job);
    let size = usize::try_from(SEGMENT_BYTES).unwrap();
    for (artifact, bytes) in [("z", size), ("b/empty", 0), ("b/big", 2 * size + 1), ("a", size - 1)] {
        store(&sink, artifact, &noise(1, bytes)).await.unwrap();
    }
    let artifacts = sink.finish().await.unwrap();
    let seen: Vec<(&str, u64, Vec<u64>)> = artifacts
        .iter()
        .map(|a| (a.name.as_str(), a.raw_bytes, a.segments.iter().map(|s| s.raw_bytes).collect()))
        .collect();
    let s = SEGMENT_BYTES;
    assert_eq!(
        seen,
        [
            ("a", s - 1, vec![s - 1]),
            ("b/big", 2 * s + 1, vec![s, s, 1]),
            ("b/empty", 0, vec![]),
            ("z", s, vec![s]),
        ]
    );
    let prefix = backup_prefix(&fixture.system, &fixture.id(1));
    let stored = storage.list("", &job).await.unwrap();
    assert_eq!(stored.len(), 5);
    assert!(stored.iter().any(|o| o.key == format!("{prefix}/b/big/000003.zst.age")), "{stored:?}");
}

#[tokio::test]
async fn a_name_is_taken_once_and_the_manifest_keeps_its_own() {
    let (job, fixture, storage) = (JobContext::plain(), Fixture::new(), DirStorage::new());
    let sink = fixture.sink(&storage, 1, &job);
    store(&sink, "a", b"alpha").await.unwrap();
    for taken in ["a", "manifest.json", "manifest.json/x"] {
        assert_eq!(store(&sink, taken, b"beta").await.unwrap_err().kind(), ErrorKind::Conflict);
    }
    assert_eq!(sink.finish().await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_object_that_is_there_already_is_never_replaced() {
    let (job, fixture, storage) = (JobContext::plain(), Fixture::new(), DirStorage::new());
    store(&fixture.sink(&storage, 1, &job), "a", b"first").await.unwrap();
    let first = fixture.sink(&storage, 2, &job);
    store(&first, "a", b"first").await.unwrap();
    let artifacts = first.finish().await.unwrap();
    let second = fixture.sink(&storage, 2, &job);
    store(&second, "a", b"second").await.ok();
    assert_eq!(second.finish().await.unwrap_err().kind(), ErrorKind::Conflict);
    let manifest = fixture.manifest(2, artifacts);
    let stored = storage.get(&manifest.segment_key(&name("a"), 1), &job).await.unwrap();
    assert_eq!(stored.len() as u64, manifest.artifacts[0].segments[0].stored_bytes);
}

#[tokio::test]
async fn the_first_failure_reaches_every_writer_and_the_end() {
    let (job, fixture, storage) = (JobContext::plain(), Fixture::new(), DirStorage::new());
    *storage.fault.lock().unwrap() = Some((1, ErrorKind::Exhausted));
    let sink = fixture.sink(&storage, 1, &job);
    let mut idle = sink.artifact(&name("idle")).await.unwrap();
    let mut failed = None;
    for n in 0.. {
        if let Err(error) = store(&sink, &format!("a{n}"), &noise(n, 100_000)).await {
            failed = Some(error);
            break;
        }
        tokio::task::yield_now().await;
    }
    let write = idle.write("x".into()).await.unwrap_err();
    let finish = sink.finish().await.unwrap_err();
    for error in [failed.unwrap(), write, finish] {
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        assert!(error.to_string().contains("put object"), "{error}");
        assert_eq!(error.advice(), Some("make room"));
    }
}

#[tokio::test]
async fn a_writer_dropped_before_its_end_spoils_the_backup() {
    let (job, fixture, storage) = (JobContext::plain(), Fixture::new(), DirStorage::new());
    let sink = fixture.sink(&storage, 1, &job);
    store(&sink, "a", b"alpha").await.unwrap();
    drop(sink.artifact(&name("b")).await.unwrap());
    let error = sink.finish().await.unwrap_err();
    assert!(error.to_string().contains("artifact was not finished"), "{error}");
    let sink = fixture.sink(&storage, 2, &job);
    let open = sink.artifact(&name("b")).await.unwrap();
    let error = sink.finish().await.unwrap_err();
    assert!(error.to_string().contains("artifact was not finished"), "{error}");
    drop(open);
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_write_is_never_continued() {
    let (job, fixture, storage) = (JobContext::plain(), Fixture::new(), DirStorage::new());
    let gate = Arc::new(Semaphore::new(0));
    *storage.gate.lock().unwrap() = Some(gate.clone());
    let sink = fixture.sink(&storage, 1, &job);
    let mut writer = sink.artifact(&name("a")).await.unwrap();
    let chunk = Bytes::from(noise(1, 200_000));
    // with nothing stored the pipeline fills up, and the write that waits is dropped; paused time passes only when
    // nothing else can happen
    while tokio::time::timeout(std::time::Duration::from_secs(1), writer.write(chunk.clone())).await.is_ok() {
    }
    gate.add_permits(1000);
    let error = writer.write(chunk).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Bug);
    drop(writer);
    assert!(sink.finish().await.is_err());
}

#[tokio::test]
async fn an_aborted_backup_leaves_no_object_even_when_its_job_was_cancelled() {
    let (job, fixture, storage) = (JobContext::plain(), Fixture::new(), DirStorage::new());
    let backup = job.child(std::time::Duration::from_secs(600));
    let sink = fixture.sink(&storage, 1, &backup);
    store(&sink, "a", &noise(1, 300_000)).await.unwrap();
    store(&sink, "b", b"beta").await.unwrap();
    backup.cancel();
    let aborted = sink.abort(&job).await;
    assert!(aborted.left.is_empty(), "{aborted:?}");
    assert_eq!(aborted.deleted, 6);
    assert!(storage.list("", &job).await.unwrap().is_empty());
    assert_eq!(store(&sink, "c", b"gamma").await.unwrap_err().kind(), ErrorKind::Cancelled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_bounded_by_segments_in_flight_whatever_the_size() {
    let job = JobContext::new(Arc::new(SystemClock), Workers::with_cores(2));
    let (mut fixture, storage) = (Fixture::new(), DirStorage::new());
    fixture.encoding.segment_bytes = 2 * BLOCK_BYTES as u64;
    let sink = fixture.sink(&storage, 1, &job);
    let mut writers = Vec::new();
    for n in 0..5 {
        writers.push(sink.artifact(&name(&format!("a{n}"))).await.unwrap());
    }
    let chunk = Bytes::from(noise(3, 700_000));
    for _ in 0..20 {
        for writer in &mut writers {
            writer.write(chunk.clone()).await.unwrap();
        }
    }
    for writer in writers {
        writer.finish().await.unwrap();
    }
    let artifacts = sink.finish().await.unwrap();
    assert!(artifacts.iter().all(|a| a.raw_bytes == 14_000_000));
    // segments filled to the full (2) and in flight (2 cores + 2), of two blocks each; while one is encoded it holds one
    // block more; three artifacts beyond the first two hold one block
    let blocks_max = 2 * 2 + 4 * (2 + 1) + 3;
    assert!(sink.held_bytes_max() <= blocks_max * BLOCK_BYTES, "{}", sink.held_bytes_max());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_artifacts_do_not_wait_for_each_other() {
    let (job, fixture, storage) = (JobContext::plain(), Fixture::new(), DirStorage::new());
    let mut sink_encoding = fixture.encoding.clone();
    sink_encoding.segment_bytes = super::super::segment::SEGMENT_BYTES_DEFAULT;
    let sink =
        SegmentSink::new(&fixture.system, &fixture.id(1), storage.clone(), &sink_encoding, job.clone())
            .unwrap();
    let gate = Arc::new(Semaphore::new(0));
    *storage.gate.lock().unwrap() = Some(gate.clone());
    for n in 0..20 {
        store(&sink, &format!("t{n}"), b"a small table").await.unwrap();
    }
    gate.add_permits(1000);
    assert_eq!(sink.finish().await.unwrap().len(), 20);
    assert!(storage.storing_max.load(Ordering::SeqCst) <= IN_FLIGHT_MAX);
}

#[tokio::test]
async fn cancelling_ends_a_write_that_waits() {
    let (job, fixture, storage) = (JobContext::plain(), Fixture::new(), DirStorage::new());
    *storage.gate.lock().unwrap() = Some(Arc::new(Semaphore::new(0)));
    let sink = fixture.sink(&storage, 1, &job);
    let mut writer = sink.artifact(&name("a")).await.unwrap();
    let filling = async {
        loop {
            if let Err(error) = writer.write(Bytes::from(noise(1, 200_000))).await {
                return error;
            }
        }
    };
    let cancelling = async {
        while storage.storing_max.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        job.cancel();
    };
    let (error, ()) = tokio::join!(filling, cancelling);
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}
