use super::*;
use crate::image::test_archive::Archive;
use proptest::prelude::*;

fn entries(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, ImageError> {
    let mut stream = TarStream::new(bytes);
    let mut entries = Vec::new();
    while let Some(entry) = stream.next()? {
        let mut content = Vec::new();
        stream.content().read_to_end(&mut content).unwrap();
        entries.push((entry, content));
    }
    Ok(entries)
}

fn message(bytes: &[u8]) -> String {
    entries(bytes).unwrap_err().to_string()
}

#[test]
fn entries_come_with_their_content() {
    let archive = Archive::default()
        .folder("etc/")
        .file("etc/one", b"1")
        .file("etc/empty", b"")
        .symlink("etc/link", "one")
        .finish();
    let found = entries(&archive).unwrap();
    let names: Vec<_> = found.iter().map(|(entry, _)| entry.path.clone()).collect();
    assert_eq!(names, [&b"etc/"[..], b"etc/one", b"etc/empty", b"etc/link"]);
    assert_eq!(found[1].1, b"1");
    assert_eq!(found[3].0.kind, EntryKind::Symlink);
    assert_eq!(found[3].0.link, b"one");
}

#[test]
fn unread_content_is_skipped() {
    let archive = Archive::default()
        .file("a", &[7; 1000])
        .file("b", b"x")
        .finish();
    let mut stream = TarStream::new(archive.as_slice());
    assert_eq!(stream.next().unwrap().unwrap().path, b"a");
    assert_eq!(stream.next().unwrap().unwrap().path, b"b");
    assert!(stream.next().unwrap().is_none());
}

#[test]
fn extended_headers_replace_what_the_header_says() {
    let long = "d/".repeat(100) + "f";
    let archive = Archive::default()
        .extended(&[
            ("path", long.as_bytes()),
            ("uid", b"1234"),
            ("mtime", b"1700000000.5"),
            ("SCHILY.xattr.user.note", b"a\nb"),
        ])
        .file("short", b"x")
        .file("next", b"")
        .finish();
    let found = entries(&archive).unwrap();
    let entry = &found[0].0;
    assert_eq!(entry.path, long.as_bytes());
    assert_eq!(entry.uid, 1234);
    assert_eq!(entry.mtime_s, 1_700_000_000);
    assert_eq!(
        entry.attributes,
        [(b"user.note".to_vec(), b"a\nb".to_vec())]
    );
    assert_eq!(found[1].0.path, b"next", "they hold for one entry only");
}

#[test]
fn the_size_of_an_extended_header_counts() {
    // A reader that trusts the header's own 0 would take the content for headers.
    let inner = Archive::default().file("smuggled", b"x").finish();
    let archive = Archive::default()
        .extended(&[("size", inner.len().to_string().as_bytes())])
        .custom(EntryType::Regular, "outer", "", &inner, |header| {
            header.set_size(0);
        })
        .finish();
    let found = entries(&archive).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].1, inner);
}

#[test]
fn gnu_long_names_are_joined() {
    let long = "x/".repeat(120) + "y";
    let archive = Archive::default()
        .entry(
            EntryType::GNULongName,
            "././@LongLink",
            "",
            format!("{long}\0").as_bytes(),
        )
        .file("short", b"")
        .finish();
    assert_eq!(entries(&archive).unwrap()[0].0.path, long.as_bytes());
}

#[test]
fn damaged_archives_are_told_from_short_ones() {
    let archive = Archive::default().file("a", b"content").finish();
    assert!(message(&archive[..700]).contains("truncated"));
    assert!(message(&archive[..1024]).contains("end marker"));
    assert!(message(&archive[..100]).contains("truncated"));
    assert!(message(b"").contains("truncated"));
    let mut damaged = archive.clone();
    damaged[0] = b'b';
    assert!(message(&damaged).contains("checksum"));
    let mut doubled = vec![0; 512];
    doubled.extend_from_slice(&archive);
    assert!(message(&doubled).contains("end marker"));
}

#[test]
fn headers_cannot_ask_for_much_memory() {
    let huge = |kind| {
        Archive::default()
            .custom(kind, "x", "", b"", |header| header.set_size(1 << 40))
            .finish()
    };
    for kind in [
        EntryType::XHeader,
        EntryType::GNULongName,
        EntryType::GNULongLink,
    ] {
        assert!(message(&huge(kind)).contains("bytes in an extended header"));
    }
    // Many small ones for one entry are together as bad as a large one.
    let value = vec![b'v'; 100_000];
    let many = (0..20)
        .fold(Archive::default(), |archive, _| {
            archive.extended(&[("SCHILY.xattr.user.x", &value)])
        })
        .file("a", b"")
        .finish();
    assert!(message(&many).contains("bytes in an extended header"));
}

#[test]
fn sparse_files_and_unknown_types_are_refused_by_name() {
    let sparse = Archive::default().entry(EntryType::GNUSparse, "big", "", b"");
    assert!(message(&sparse.finish()).contains("--sparse"));
    let sparse = Archive::default()
        .extended(&[("GNU.sparse.major", b"1")])
        .file("big", b"");
    assert!(message(&sparse.finish()).contains("--sparse"));
    let unknown = Archive::default().entry(EntryType::new(b'Z'), "odd", "", b"");
    assert!(message(&unknown.finish()).contains("odd"));
}

#[test]
fn bad_extended_records_are_refused() {
    for body in [
        &b"x"[..],
        b"5 a=b",
        b"99 a=b\n",
        b"0 a=b\n",
        b"2 \n",
        b"6 a=b\n",
        b"-6 a=b\n",
        b"12 size=abc\n",
    ] {
        let archive = Archive::default()
            .entry(EntryType::XHeader, "x", "", body)
            .file("a", b"")
            .finish();
        // `6 a=b\n` is right: 6 bytes, the line feed included.
        assert_eq!(entries(&archive).is_ok(), body == b"6 a=b\n", "{body:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_end_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let _ = entries(&bytes);
    }

    #[test]
    fn a_damaged_archive_ends_without_a_panic(at in 0usize..2048, byte in any::<u8>(), fix in any::<bool>()) {
        let mut archive = Archive::default()
            .extended(&[("path", b"long/name"), ("size", b"3")])
            .file("a", b"abc")
            .finish();
        let at = at % archive.len();
        archive[at] = byte;
        if fix {
            let block = at / 512 * 512;
            let mut header = Header::from_byte_slice(&archive[block..block + 512]).clone();
            header.set_cksum();
            archive[block..block + 512].copy_from_slice(header.as_bytes());
        }
        let _ = entries(&archive);
    }

    #[test]
    fn records_are_split_as_written(key in "[a-zA-Z.]{1,20}", value in proptest::collection::vec(any::<u8>(), 0..50)) {
        let archive = Archive::default().extended(&[(&key, &value), ("end", b"")]).finish();
        let body = &archive[512..];
        let (found_key, found_value, rest) = record(body).unwrap();
        prop_assert_eq!(found_key, key.as_bytes());
        prop_assert_eq!(found_value, value.as_slice());
        prop_assert_eq!(record(rest).unwrap().0, b"end");
    }
}
