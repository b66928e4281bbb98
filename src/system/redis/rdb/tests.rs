//! The reader against RDBs made by hand: every encoding, every cut, random damage.

use bytes::Bytes;
use proptest::prelude::*;

use super::samples::{in_string, listpack, rdb_of, same_values, sample, ziplist};
use super::write::{push_length, push_string};
use super::*;

/// Keeps what it is told.
#[derive(Debug, Default)]
struct Seen {
    values: Vec<(u64, Vec<u8>, Option<i64>, Value)>,
    raw: Vec<(u8, Vec<u8>)>,
    functions: usize,
}

impl Visitor for Seen {
    fn begin(&mut self, _: &Header) -> Result<()> {
        Ok(())
    }
    fn key(&mut self, r: Record<'_>) -> Result<()> {
        self.values.push((r.db, r.key.to_vec(), r.expires_at_ms, r.value));
        self.raw.push((r.encoding, r.raw.to_vec()));
        Ok(())
    }
    fn function(&mut self, _: &[u8]) -> Result<()> {
        self.functions += 1;
        Ok(())
    }
    fn keeps_raw(&self) -> RawValues {
        RawValues::Kept
    }
}

fn read_all(bytes: &[u8]) -> Result<(Seen, Summary)> {
    let mut seen = Seen::default();
    let parts: Vec<Bytes> = bytes.chunks(61).map(Bytes::copy_from_slice).collect();
    let summary = read(parts.into_iter(), &mut seen)?;
    Ok((seen, summary))
}

#[test]
fn a_value_has_one_digest_whatever_its_encoding() {
    let mut digests = std::collections::BTreeSet::new();
    for group in same_values() {
        let (seen, _) = read_all(&rdb_of("REDIS0012", &group)).unwrap();
        let first = seen.values[0].3.clone();
        for (n, (_, _, _, value)) in seen.values.iter().enumerate() {
            assert_eq!(*value, first, "encoding {}", group[n].0);
        }
        assert!(digests.insert(first.hash), "{:?} collides", first.kind);
        assert!(first.elements > 0);
        assert_eq!(seen.raw, group, "raw values are kept as they came");
    }
}

#[test]
fn databases_expiries_and_functions_are_told() {
    let (seen, summary) = read_all(&sample()).unwrap();
    assert_eq!(summary.checksum, Checksum::Held);
    assert_eq!(summary.header.created_s, Some(1_700_000_000));
    assert_eq!((seen.functions, seen.values[4].0), (1, 1));
    assert_eq!(seen.values[0].2, Some(1 << 54 | 1));
    assert_eq!(seen.values[1].2, None);
}

#[test]
fn fields_that_expire_are_digested_by_the_instant() {
    let blob = listpack(&["a", "1", "0", "b", "2", "5000"]);
    let raw = [&5000u64.to_le_bytes()[..], &in_string(&blob)].concat();
    let (seen, _) = read_all(&rdb_of("REDIS0012", &[(25, raw)])).unwrap();
    let value = &seen.values[0].3;
    assert_eq!((value.elements, value.timed.len()), (1, 1));
    assert_ne!(value.at(4999), value.at(5000));
    let only = [&5000u64.to_le_bytes()[..], &in_string(&listpack(&["b", "2", "5000"]))].concat();
    let (seen, _) = read_all(&rdb_of("REDIS0012", &[(25, only)])).unwrap();
    assert_eq!(seen.values[0].3.at(5000), None);
}

#[test]
fn valkey_hashes_with_expiring_fields_are_read_in_its_own_form() {
    let mut raw = vec![2];
    for (field, at) in [("a", -1i64), ("b", 5000)] {
        push_string(field.as_bytes(), &mut raw);
        push_string(b"v", &mut raw);
        raw.extend(at.to_le_bytes());
    }
    let (seen, summary) = read_all(&rdb_of("VALKEY080", &[(22, raw)])).unwrap();
    assert_eq!(summary.header.version, 80);
    let value = &seen.values[0].3;
    assert_eq!((value.elements, value.timed[0].0), (1, 5000));
}

#[test]
fn every_cut_and_every_flipped_bit_is_an_error() {
    let whole = sample();
    for cut in 0..whole.len() {
        assert!(read_all(&whole[..cut]).is_err(), "cut at {cut}");
    }
    for at in 9..whole.len() {
        let mut bad = whole.clone();
        bad[at] ^= 0x10;
        assert!(read_all(&bad).is_err(), "flipped at {at}");
    }
    let longer = [&whole[..], b"x"].concat();
    assert!(read_all(&longer).is_err());
}

#[test]
fn a_corrupt_packed_value_names_its_key() {
    let mut blob = ziplist(&["f1", "5", "f2", "x"]);
    blob[11] = 0x3f;
    let text = read_all(&rdb_of("REDIS0011", &[(13, in_string(&blob))])).unwrap_err().to_string();
    assert!(text.contains("key=key0") && text.contains("encoding=13"), "{text}");
}

#[test]
fn a_newer_format_and_an_unknown_encoding_are_refused_by_name() {
    let error = read_all(b"REDIS0099\xff").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let error = read_all(&rdb_of("REDIS0012", &[(99, vec![1, 2, 3])])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("key0"), "{error}");
    assert!(read_all(b"GARBAGE..........").is_err());
}

#[test]
fn module_values_and_module_data_are_passed_over_and_named() {
    let id = 0u64;
    let mut module = Vec::new();
    push_length(id, &mut module);
    // a number, a text, the end
    module.extend([2, 7, 5, 2, b'h', b'i', 0]);
    let mut bytes = rdb_of("REDIS0011", &[(7, module.clone())]);
    let (seen, _) = read_all(&bytes).unwrap();
    assert_eq!(seen.values[0].3.kind, Kind::Module);
    bytes.truncate(9);
    bytes.extend([247, 0, 2, 1, 2, 9, 0, 255]);
    let sum = CRC.checksum(&bytes);
    bytes.extend(sum.to_le_bytes());
    let (_, summary) = read_all(&bytes).unwrap();
    assert_eq!(summary.modules, ["AAAAAAAAA"]);
}

#[test]
fn a_switched_off_checksum_is_told() {
    let mut bytes = rdb_of("REDIS0011", &[(0, in_string(b"v"))]);
    let end = bytes.len() - 8;
    bytes[end..].fill(0);
    assert_eq!(read_all(&bytes).unwrap().1.checksum, Checksum::Disabled);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_damage_never_panics(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        let mut bytes = sample();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        // without a checksum the structure alone must hold
        let end = bytes.len().saturating_sub(8);
        bytes[end..].fill(0);
        if let Ok((seen, _)) = read_all(&bytes) {
            prop_assert!(seen.values.len() <= bytes.len());
        }
    }

    #[test]
    fn random_bytes_as_a_value_never_panic(encoding in 0u8..26, raw in prop::collection::vec(any::<u8>(), 0..200)) {
        let in_blob = in_string(&raw);
        for value in [raw, in_blob] {
            if let Ok((seen, _)) = read_all(&rdb_of("REDIS0012", &[(encoding, value)])) {
                prop_assert!(seen.values.len() <= 400);
            }
        }
    }
}
