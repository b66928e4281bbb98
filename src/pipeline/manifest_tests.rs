//! Tests of signing, opening and committing manifests.

use std::sync::Arc;

use proptest::prelude::*;

use super::super::testing::{DirStorage, Fixture};
use super::*;
use crate::domain::id::ArtifactName;
use crate::domain::manifest::Segment;
use crate::storage::Overwrite;

fn sample(fixture: &Fixture) -> Manifest {
    let segment = |raw_bytes| Segment {
        raw_bytes,
        stored_bytes: raw_bytes + 200,
        sha256: "0123456789abcdef".repeat(4),
    };
    let artifact = |name: &str, sizes: &[u64]| Artifact {
        name: ArtifactName::parse(name).unwrap(),
        raw_bytes: sizes.iter().sum(),
        segments: sizes.iter().copied().map(segment).collect(),
    };
    let artifacts = vec![artifact("a.tar", &[65_536, 10]), artifact("b/empty", &[])];
    fixture.manifest(1, artifacts)
}

#[test]
fn a_signed_manifest_opens_at_its_own_place() {
    let fixture = Fixture::new();
    let manifest = sample(&fixture);
    let bytes = sign(&manifest, &fixture.signing).unwrap();
    assert_eq!(open(&bytes, &fixture.trusted, &manifest.key()).unwrap(), manifest);
}

#[test]
fn a_manifest_at_another_place_is_refused() {
    let fixture = Fixture::new();
    let manifest = sample(&fixture);
    let bytes = sign(&manifest, &fixture.signing).unwrap();
    let elsewhere = fixture.manifest(2, Vec::new()).key();
    let error = open(&bytes, &fixture.trusted, &elsewhere).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("moved") && error.advice().is_some(), "{error:?}");
}

#[test]
fn a_manifest_of_a_stranger_is_denied_however_well_signed() {
    let (fixture, stranger) = (Fixture::new(), Fixture::new());
    let manifest = sample(&fixture);
    let bytes = sign(&manifest, &stranger.signing).unwrap();
    let error = open(&bytes, &fixture.trusted, &manifest.key()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains(&stranger.signing.public_key()), "{error:?}");
    // the stranger's signature under the trusted name
    let mut forged: SignedManifest = serde_json::from_slice(&bytes).unwrap();
    forged.signer = fixture.signing.public_key();
    let error = open(&serde_json::to_vec(&forged).unwrap(), &fixture.trusted, &manifest.key()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn a_newer_format_is_told_from_damage() {
    let fixture = Fixture::new();
    let text = r#"{"format": 2, "unheard": "of"}"#.to_owned();
    let signed = SignedManifest {
        signature: fixture.signing.sign(text.as_bytes()),
        signer: fixture.signing.public_key(),
        manifest: text,
    };
    let error = open(&serde_json::to_vec(&signed).unwrap(), &fixture.trusted, "x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn a_manifest_that_contradicts_itself_is_never_signed() {
    let fixture = Fixture::new();
    let changes: [fn(&mut Manifest); 7] = [
        |m| m.artifacts.reverse(),
        |m| m.artifacts[1].name = m.artifacts[0].name.clone(),
        |m| m.artifacts[0].raw_bytes += 1,
        |m| m.artifacts[0].segments[0].raw_bytes = 0,
        |m| m.artifacts[0].segments[1].sha256 = "A".repeat(64),
        |m| m.segment_encoding.segment_bytes = 1 << 40,
        |m| m.kind = BackupKind::Incremental,
    ];
    for change in changes {
        let mut manifest = sample(&fixture);
        change(&mut manifest);
        assert!(sign(&manifest, &fixture.signing).is_err(), "{manifest:?}");
    }
}

#[tokio::test]
async fn the_first_commit_stands() {
    let (job, fixture) = (JobContext::plain(), Fixture::new());
    let storage = DirStorage::new();
    let manifest = sample(&fixture);
    commit(&*storage, &manifest, &fixture.signing, &job).await.unwrap();
    commit(&*storage, &manifest, &fixture.signing, &job).await.expect("the same once more");
    let mut other = manifest.clone();
    other.host = "elsewhere".to_owned();
    let error = commit(&*storage, &other, &fixture.signing, &job).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let found = load(&*storage, &fixture.trusted, &manifest.key(), &job).await.unwrap();
    assert_eq!(found, manifest);
    let copy = DirStorage::new();
    let signed = load_signed(&*storage, &manifest.key(), &job).await.unwrap();
    commit_copy(&*copy, &manifest, signed, &job).await.unwrap();
    assert_eq!(load(&*copy, &fixture.trusted, &manifest.key(), &job).await.unwrap(), manifest);
    let error = load(&*storage, &fixture.trusted, "orders/none/manifest.json", &job).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_huge_object_is_not_read_as_a_manifest() {
    let (job, fixture) = (JobContext::plain(), Fixture::new());
    let storage = DirStorage::new();
    let key = sample(&fixture).key();
    storage.put(&key, vec!["x".into()], Overwrite::Forbid, &job).await.unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(storage.path(&key)).unwrap();
    file.set_len(MANIFEST_BYTES_MAX + 1).unwrap();
    let error = load(&*storage, &fixture.trusted, &key, &job).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn no_single_flipped_bit_is_accepted(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let fixture = Arc::new(Fixture::new());
        let manifest = sample(&fixture);
        let mut bytes = sign(&manifest, &fixture.signing).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        match open(&bytes, &fixture.trusted, &manifest.key()) {
            Err(error) => prop_assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Denied)),
            // white space outside of the strings says nothing
            Ok(same) => prop_assert_eq!(same, manifest),
        }
    }
}
