//! What is written is read, by ourselves and across tools; what is malformed is refused without a panic.

use std::process::Command;

use proptest::prelude::*;

use std::io::Read;

use super::*;
use crate::error::ErrorKind;

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec((1u8..=255).prop_filter("part of a path", |b| *b != b'/'), 1..max)
        .prop_filter("a name", |n| n != b"." && n != b"..")
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::File),
        Just(Kind::HardLink),
        Just(Kind::Symlink),
        Just(Kind::CharDevice),
        Just(Kind::Directory),
        Just(Kind::Fifo),
    ]
}

prop_compose! {
    fn member()(
        path in proptest::collection::vec(bytes(120), 1..5),
        kind in kind(), mode in 0u32..0o10000, uid: u32, gid: u32, size in 0u64..3000,
        sec in -4_000_000_000i64..40_000_000_000, nsec in 0u32..1_000_000_000, link in bytes(300),
        xattrs in proptest::collection::vec((bytes(40), proptest::collection::vec(any::<u8>(), 0..700)), 0..3),
        holes: bool,
    ) -> Member {
        let file = kind == Kind::File;
        let linked = matches!(kind, Kind::HardLink | Kind::Symlink);
        let extents = vec![Extent { offset: 10_000, bytes: size }, Extent { offset: 20_000, bytes: 0 }];
        let sparse = (file && holes).then_some(extents);
        Member {
            path: path.join(&b'/'),
            kind, mode, uid, gid,
            size: if sparse.is_some() { 20_000 } else if file { size } else { 0 },
            mtime: Time { sec, nsec },
            link: if linked { link } else { Vec::new() },
            device: if kind == Kind::CharDevice { (4095, 1_048_575) } else { (0, 0) },
            xattrs, sparse,
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(members in proptest::collection::vec(member(), 0..5)) {
        let mut tar = Vec::new();
        for member in &members {
            encode(member, &mut tar);
            let content = vec![b'c'; member.stored_bytes() as usize];
            tar.extend_from_slice(&content);
            tar.extend_from_slice(pad(member.stored_bytes()));
        }
        tar.extend_from_slice(&END);
        let mut reader = Reader::new(tar.as_slice());
        for member in &members {
            let read = reader.next_member().unwrap();
            prop_assert_eq!(read.as_ref(), Some(member));
            let mut content = Vec::new();
            reader.read_to_end(&mut content).unwrap();
            prop_assert_eq!(content, vec![b'c'; member.stored_bytes() as usize]);
        }
        prop_assert!(reader.next_member().unwrap().is_none());
    }

    #[test]
    fn no_input_makes_it_panic(mut tar in proptest::collection::vec(any::<u8>(), 0..2000), name in bytes(90)) {
        let mut good = Vec::new();
        encode(&Member { path: name, mtime: Time { sec: 1, nsec: 1 }, ..Member::default() }, &mut good);
        let at = tar.len() % good.len();
        let flipped = tar.first().copied().unwrap_or(1);
        good[at] ^= flipped;
        good.append(&mut tar);
        let mut reader = Reader::new(good.as_slice());
        while let Ok(Some(_)) = reader.next_member() {}
    }
}

#[test]
fn archives_of_gnu_tar_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let long = "n".repeat(180);
    let script = format!(
        "mkdir -p d/{long}; echo hi > d/f; ln d/f d/h; ln -s f d/l; echo x > d/{long}/{long}
         truncate -s 2M d/s; printf x | dd of=d/s bs=1 seek=1000000 conv=notrunc status=none; chown 5000000 d/f"
    );
    let run = |script: &str| {
        let mut shell = Command::new("sh");
        let output = shell.args(["-ec", script]).current_dir(dir.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    run(&script);
    for format in ["gnu", "posix"] {
        let tar = run(&format!(
            "tar -c --format={format} --sort=name --sparse-version=1.0 -f - -S d/f d/h d/l d/{long} d/s"
        ));
        let sparse_is_ours = format == "posix";
        let mut reader = Reader::new(tar.as_slice());
        let mut seen = Vec::new();
        loop {
            match reader.next_member() {
                Ok(Some(member)) => {
                    let mut content = Vec::new();
                    reader.read_to_end(&mut content).unwrap();
                    seen.push((member, content));
                }
                Ok(None) => break,
                Err(e) => {
                    assert!(!sparse_is_ours && e.kind() == ErrorKind::Unsupported, "{e}");
                    break;
                }
            }
        }
        let find = |name: &str| {
            let found = seen.iter().find(|(m, _)| m.path == name.as_bytes());
            found.unwrap_or_else(|| panic!("{name} in {format}"))
        };
        assert_eq!((find("d/f").0.uid, find("d/f").1.as_slice()), (5_000_000, &b"hi\n"[..]));
        assert_eq!((find("d/h").0.kind, find("d/h").0.link.as_slice()), (Kind::HardLink, &b"d/f"[..]));
        assert_eq!(find(&format!("d/{long}/{long}")).1, b"x\n");
        if sparse_is_ours {
            let (sparse, content) = find("d/s");
            assert_eq!(sparse.size, 2 * 1024 * 1024);
            assert!(content.len() < 10_000 && content.contains(&b'x'));
        }
    }
}
