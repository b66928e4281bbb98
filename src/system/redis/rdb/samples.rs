//! RDBs made by hand, for tests.

use super::write::{Writer, push_length, push_string};
use super::*;

pub fn header(magic: &str) -> Header {
    Header {
        magic: magic.to_owned(),
        version: 0,
        server_version: Some("7.2.0".to_owned()),
        created_s: Some(1_700_000_000),
    }
}

pub fn rdb_of(magic: &str, records: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    writer.header(&header(magic)).unwrap();
    for (n, (encoding, raw)) in records.iter().enumerate() {
        let key = format!("key{n}");
        let record = Record {
            db: n as u64 % 3,
            key: key.as_bytes(),
            expires_at_ms: (n % 2 == 0).then_some(1 << 54 | 1),
            usage: match n % 3 {
                0 => Usage::Unknown,
                1 => Usage::IdleSeconds(99),
                _ => Usage::Frequency(7),
            },
            value: Value { kind: Kind::String, elements: 0, hash: 0, timed: Vec::new() },
            encoding: *encoding,
            raw,
        };
        writer.record(&record).unwrap();
    }
    writer.function(b"#!lua name=l").unwrap();
    writer.finish().unwrap()
}

fn strings(count: u64, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    push_length(count, &mut out);
    for part in parts {
        push_string(part, &mut out);
    }
    out
}

pub fn in_string(blob: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    push_string(blob, &mut out);
    out
}

pub fn listpack(parts: &[&str]) -> Vec<u8> {
    let mut body = Vec::new();
    for part in parts {
        let entry = match part.parse::<i64>() {
            Ok(n @ 0..=127) => vec![n as u8],
            Ok(n) => [&[0xf4][..], &n.to_le_bytes()].concat(),
            Err(_) => [&[0x80 | part.len() as u8][..], part.as_bytes()].concat(),
        };
        body.extend_from_slice(&entry);
        body.push(entry.len() as u8);
    }
    let total = body.len() as u32 + 7;
    [&total.to_le_bytes()[..], &(parts.len() as u16).to_le_bytes(), &body, &[0xff]].concat()
}

pub fn ziplist(parts: &[&str]) -> Vec<u8> {
    let (mut body, mut previous, mut tail) = (Vec::new(), 0u8, 10);
    for part in parts {
        tail = 10 + body.len() as u32;
        let entry = match part.parse::<i64>() {
            Ok(n @ 0..=12) => vec![previous, 0xf1 + n as u8],
            Ok(n) => [&[previous, 0xe0][..], &n.to_le_bytes()].concat(),
            Err(_) => [&[previous, part.len() as u8][..], part.as_bytes()].concat(),
        };
        previous = entry.len() as u8;
        body.extend_from_slice(&entry);
    }
    let total = body.len() as u32 + 11;
    let count = (parts.len() as u16).to_le_bytes();
    [&total.to_le_bytes()[..], &tail.to_le_bytes(), &count, &body, &[0xff]].concat()
}

/// Values, each in every encoding that can hold it.
pub fn same_values() -> Vec<Vec<(u8, Vec<u8>)>> {
    vec![hashes(), lists(), sets(), sorted_sets(), texts(), vec![stream(15), stream(19), stream(21)]]
}

const FAR: [u8; 8] = 1u64.to_le_bytes();

fn hashes() -> Vec<(u8, Vec<u8>)> {
    let hash = ["f1", "5", "f2", "-70000"];
    let hash_bytes = hash.map(str::as_bytes);
    let zipmap = b"\x02\x02f1\x01\x005\x02f2\x06\x00-70000\xff";
    let timed = ["f1", "5", "0", "f2", "-70000", "0"];
    let triples = |prefix: &[u8]| {
        let mut out = prefix.to_vec();
        push_length(2, &mut out);
        for pair in hash_bytes.chunks(2) {
            push_length(0, &mut out);
            push_string(pair[0], &mut out);
            push_string(pair[1], &mut out);
        }
        out
    };
    vec![
        (4, strings(2, &hash_bytes)),
        (9, in_string(zipmap)),
        (13, in_string(&ziplist(&hash))),
        (16, in_string(&listpack(&hash))),
        (22, triples(&[])),
        (23, in_string(&listpack(&timed))),
        (24, triples(&FAR)),
        (25, [&FAR[..], &in_string(&listpack(&timed))].concat()),
    ]
}

fn lists() -> Vec<(u8, Vec<u8>)> {
    let list = ["a", "7", "-300", "a"];
    let quick = |container: &[u64], blob: &[u8]| {
        let mut out = vec![1];
        container.iter().for_each(|c| push_length(*c, &mut out));
        push_string(blob, &mut out);
        out
    };
    let mut plain = vec![4];
    for part in list {
        plain.push(1);
        push_string(part.as_bytes(), &mut plain);
    }
    vec![
        (1, strings(4, &list.map(str::as_bytes))),
        (10, in_string(&ziplist(&list))),
        (14, quick(&[], &ziplist(&list))),
        (18, quick(&[2], &listpack(&list))),
        (18, plain),
    ]
}

fn sets() -> Vec<(u8, Vec<u8>)> {
    let intset = [&2u32.to_le_bytes()[..], &2u32.to_le_bytes(), &[0xfe, 0xff, 9, 0]].concat();
    vec![(2, strings(2, &[b"9", b"-2"])), (11, in_string(&intset)), (20, in_string(&listpack(&["-2", "9"])))]
}

fn sorted_sets() -> Vec<(u8, Vec<u8>)> {
    let scores = ["m1", "1.5", "m2", "-3"];
    let mut binary = vec![2];
    for (member, score) in [("m1", 1.5f64), ("m2", -3.0)] {
        push_string(member.as_bytes(), &mut binary);
        binary.extend(score.to_le_bytes());
    }
    let text = b"\x02\x02m1\x031.5\x02m2\x02-3".to_vec();
    vec![(3, text), (5, binary), (12, in_string(&ziplist(&scores))), (17, in_string(&listpack(&scores)))]
}

fn texts() -> Vec<(u8, Vec<u8>)> {
    vec![
        (0, in_string(b"12345")),
        (0, vec![0xc1, 0x39, 0x30]),
        (0, vec![0xc2, 0x39, 0x30, 0, 0]),
        (0, vec![0xc3, 6, 5, 4, b'1', b'2', b'3', b'4', b'5']),
    ]
}

pub fn stream(encoding: u8) -> (u8, Vec<u8>) {
    let mut out = vec![1];
    let id = [5u64.to_be_bytes(), 0u64.to_be_bytes()].concat();
    push_string(&id, &mut out);
    // one entry with the master's field, one deleted, one with fields of its own
    let entries = [
        "2", "1", "1", "f", "0", "2", "0", "0", "v", "4", "1", "0", "1", "1", "g", "w", "6", "0", "1", "2",
        "1", "g", "x", "6",
    ];
    push_string(&listpack(&entries), &mut out);
    // length, last id
    [2, 6, 2].iter().for_each(|n| push_length(*n, &mut out));
    if encoding >= 19 {
        // first id, highest deleted id, entries added
        [5, 0, 0, 0, 2].iter().for_each(|n| push_length(*n, &mut out));
    }
    push_length(1, &mut out);
    push_string(b"group", &mut out);
    [6, 2].iter().for_each(|n| push_length(*n, &mut out));
    if encoding >= 19 {
        push_length(2, &mut out);
    }
    push_length(1, &mut out);
    out.extend_from_slice(&id);
    out.extend(777u64.to_le_bytes());
    push_length(3, &mut out);
    push_length(1, &mut out);
    push_string(b"consumer", &mut out);
    out.extend(778u64.to_le_bytes());
    if encoding >= 21 {
        out.extend(778u64.to_le_bytes());
    }
    push_length(1, &mut out);
    out.extend_from_slice(&id);
    (encoding, out)
}

pub fn sample() -> Vec<u8> {
    rdb_of("REDIS0012", &same_values().concat())
}
