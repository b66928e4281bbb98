//! Tests of encoding and decoding one segment.

use proptest::prelude::*;

use super::super::testing::{Fixture, noise};
use super::*;

struct Codec {
    encoding: SegmentEncoding,
    encoder: Encoder,
    decoder: Decoder,
    pool: Arc<BlockPool>,
}

impl Codec {
    fn new(fixture: &Fixture, recipients: Vec<String>) -> Self {
        let pool = Arc::new(BlockPool::default());
        let encoding = SegmentEncoding { recipients, ..fixture.encoding.clone() };
        Self {
            encoder: Encoder::new(&encoding, pool.clone()).unwrap(),
            decoder: Decoder::new(fixture.identities.clone(), pool.clone()),
            encoding,
            pool,
        }
    }

    fn encode(&self, raw: &[u8]) -> (Segment, Bytes) {
        let mut blocks = Vec::new();
        block::append(&mut blocks, &self.pool, raw);
        let encoded = self.encoder.encode(blocks).unwrap();
        (encoded.segment, encoded.parts.concat().into())
    }

    fn decode(&self, segment: &Segment, stored: &Bytes) -> Result<Vec<u8>> {
        let blocks = self.decoder.decode(&self.encoding, segment, stored)?;
        Ok(blocks.iter().flat_map(|b| b.as_ref().to_vec()).collect())
    }
}

/// A segment entry that agrees with the stored bytes, as a forger with every key would write it.
fn agreeing(raw_bytes: u64, stored: &Bytes) -> Segment {
    Segment { raw_bytes, stored_bytes: stored.len() as u64, sha256: digest(std::slice::from_ref(stored)) }
}

#[test]
fn a_segment_comes_back_as_it_was_with_and_without_encryption() {
    let fixture = Fixture::new();
    for recipients in [fixture.encoding.recipients.clone(), Vec::new()] {
        let codec = Codec::new(&fixture, recipients);
        for bytes in [1, 65_535, 65_536, 131_072, block::BLOCK_BYTES, block::BLOCK_BYTES + 1, 3_500_000] {
            for raw in [noise(bytes as u64, bytes), vec![0; bytes]] {
                let (segment, stored) = codec.encode(&raw);
                assert_eq!(segment, agreeing(bytes as u64, &stored));
                assert!(codec.decode(&segment, &stored).unwrap() == raw, "{bytes} bytes");
            }
        }
    }
}

#[test]
fn a_segment_opens_with_any_one_of_its_keys_and_with_no_other() {
    let (own, escrow, stranger) = (Fixture::new(), Fixture::new(), Fixture::new());
    let both = [own.encoding.recipients.clone(), escrow.encoding.recipients.clone()].concat();
    let codec = Codec::new(&own, both.clone());
    let (segment, stored) = codec.encode(b"alpha");
    for fixture in [&own, &escrow] {
        assert_eq!(Codec::new(fixture, both.clone()).decode(&segment, &stored).unwrap(), b"alpha");
    }
    let error = Codec::new(&stranger, both.clone()).decode(&segment, &stored).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(both.iter().all(|key| error.advice().unwrap().contains(key)), "{error:?}");
}

#[test]
fn a_frame_that_holds_more_than_announced_is_refused_without_being_unpacked() {
    let fixture = Fixture::new();
    let codec = Codec::new(&fixture, Vec::new());
    let bomb = Bytes::from(zstd::bulk::compress(&vec![0; 64 * 1024 * 1024], 3).unwrap());
    let before = codec.pool.live_max();
    let error = codec.decode(&agreeing(1000, &bomb), &bomb).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(codec.pool.live_max() <= before + 1);
}

#[test]
fn a_frame_that_does_not_fit_its_entry_is_refused() {
    let fixture = Fixture::new();
    let codec = Codec::new(&fixture, Vec::new());
    let (segment, stored) = codec.encode(&noise(1, 100_000));
    let with = |tail: &[u8]| Bytes::from([&stored[..], tail].concat());
    let cut = stored.slice(..stored.len() - 1);
    for (raw_bytes, bytes) in [
        (segment.raw_bytes - 1, stored.clone()),
        (segment.raw_bytes + 1, stored.clone()),
        (segment.raw_bytes, with(b"x")),
        (segment.raw_bytes, with(&stored)),
        (segment.raw_bytes, cut),
        (segment.raw_bytes, Bytes::new()),
        (segment.raw_bytes, Bytes::from_static(b"plain text")),
    ] {
        let error = codec.decode(&agreeing(raw_bytes, &bytes), &bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    }
    assert!(codec.decode(&segment, &stored).is_ok());
}

#[test]
fn every_problem_of_an_encoding_is_named_at_once() {
    let bad =
        SegmentEncoding { segment_bytes: 1, zstd_level: 99, recipients: vec!["age1nonsense".to_owned()] };
    let keys: Vec<String> = check_encoding(&bad).into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["segment_bytes", "zstd_level", "recipients"]);
    let error = Encoder::new(&bad, Arc::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}

#[test]
fn the_age_header_is_covered_too() {
    // a byte of the header changed by somebody who also corrects size and checksum
    let fixture = Fixture::new();
    let codec = Codec::new(&fixture, fixture.encoding.recipients.clone());
    let (segment, stored) = codec.encode(b"alpha");
    for at in [0, 30, 60, 120, stored.len() - 1] {
        let mut changed = stored.to_vec();
        changed[at] ^= 1;
        let changed = Bytes::from(changed);
        let error = codec.decode(&agreeing(segment.raw_bytes, &changed), &changed).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Denied), "{at}: {error:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_single_flipped_bit_is_refused(bytes in 1usize..200_000, at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let fixture = Fixture::new();
        let codec = Codec::new(&fixture, fixture.encoding.recipients.clone());
        let (segment, stored) = codec.encode(&noise(7, bytes));
        let mut changed = stored.to_vec();
        let at = at.index(changed.len());
        changed[at] ^= 1 << bit;
        let error = codec.decode(&segment, &changed.into()).unwrap_err();
        prop_assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}
