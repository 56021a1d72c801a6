//! Damaged and forged archives: every one is refused, with what was found.

use std::ops::Range;

use super::*;
use crate::archive::header::{self, Block, Member};
use crate::model::ErrorClass;

/// An archive taken apart into members: name, header with content and padding.
fn members(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    loop {
        let block: &Block = bytes[at..at + 512].try_into().unwrap();
        if block.iter().all(|byte| *byte == 0) {
            return found;
        }
        let size = usize::try_from(header::claimed_size(block).unwrap()).unwrap();
        let end = at + 512 + size.next_multiple_of(512);
        found.push(at..end);
        at = end;
    }
}

fn signed() -> (Fixture, Vec<u8>) {
    let fixture = Fixture::new();
    let bytes = fixture.bytes(&[noise(1, 900)]);
    (fixture, bytes)
}

/// Members 1 to 5 with one signature: `oci-layout`, index, manifest, document, referrer, bundle, filler.
const HEAD: usize = 7;

#[test]
fn cut_at_every_boundary() {
    let (_, bytes) = signed();
    let mut cuts: Vec<usize> =
        members(&bytes).iter().flat_map(|member| [member.start, member.start + 512]).collect();
    cuts.extend([bytes.len() - 1024, bytes.len() - 512, bytes.len()]);
    cuts.extend((0..bytes.len()).step_by(40 * 512));
    let cuts = cuts.into_iter().flat_map(|at| [at.saturating_sub(1), at, at + 1]);
    for cut in cuts.filter(|cut| *cut < bytes.len()) {
        let message = refusal(&bytes[..cut]);
        let wanted = match cut {
            0 => "not a fleetpack archive: the input is empty".to_owned(),
            1..512 => format!("not a fleetpack archive: the input has no more than {cut} bytes"),
            _ => format!("the archive is cut short: it ends at byte {cut}, inside "),
        };
        assert!(message.starts_with(&wanted), "{cut}: {message}");
    }
}

#[test]
fn truncation_names_the_member_and_the_whole() {
    let (fixture, bytes) = signed();
    let last = fixture.document.blobs.last().unwrap().digest.hex();
    let total = bytes.len();
    for (cut, inside) in [
        (total - 1, "the end of the archive".to_owned()),
        (total - 1025, format!("the padding after `blobs/sha256/{last}`")),
        (total - 1536, format!("`blobs/sha256/{last}`")),
        (total - 1537, format!("the header of `blobs/sha256/{last}`")),
    ] {
        let wanted = format!(
            "the archive is cut short: it ends at byte {cut}, inside {inside}, which reaches byte {total}"
        );
        assert_eq!(refusal(&bytes[..cut]), wanted);
    }
}

#[test]
fn one_flipped_bit_anywhere() {
    let (_, bytes) = signed();
    let mut offsets: Vec<usize> = (0..bytes.len()).step_by(1009).collect();
    for member in members(&bytes) {
        // Every field of every header, both ends of the content, and the padding.
        let fields = [0, 99, 100, 108, 116, 124, 136, 148, 156, 157, 257, 263, 265, 329, 345, 511];
        offsets.extend(fields.map(|field| member.start + field));
        offsets.extend([member.start + 512, member.end - 1].into_iter().filter(|at| *at < member.end));
    }
    offsets.extend((bytes.len() - 1024..bytes.len()).step_by(31));
    for (round, offset) in offsets.into_iter().enumerate() {
        let mut damaged = bytes.clone();
        damaged[offset] ^= 1 << (round % 8);
        let source = Source::Pipe(Box::new(Cursor::new(damaged.clone())));
        let error = read(source, &Discard).err().unwrap_or_else(|| panic!("byte {offset} may be changed"));
        assert!(matches!(error.class(), ErrorClass::Refused), "byte {offset}: {error}");
        if round % 8 == 0 {
            refusal(&damaged);
        }
    }
}

#[test]
fn something_behind_the_end() {
    let (_, mut bytes) = signed();
    let end = bytes.len();
    bytes.push(0);
    assert_eq!(
        refusal(&bytes),
        format!("the archive ends at byte {end}, and more follows: it has {} bytes", end + 1)
    );
    bytes.extend_from_slice(&[0; 511]);
    assert!(refusal(&bytes).starts_with(&format!("the archive ends at byte {end}, and more follows")));
}

/// The archive with its members rearranged by `edit`.
fn rearranged(bytes: &[u8], edit: impl FnOnce(&mut Vec<Vec<u8>>)) -> Vec<u8> {
    let mut parts: Vec<_> = members(bytes).into_iter().map(|range| bytes[range].to_vec()).collect();
    edit(&mut parts);
    parts.push(vec![0; 1024]);
    parts.concat()
}

#[test]
fn extra_missing_doubled_and_reordered_members() {
    let (fixture, bytes) = signed();
    let blob = |number: usize| Member::Blob(fixture.document.blobs[number].digest);
    let size = |number: usize| fixture.document.blobs[number].size;
    let wanted = |number| format!("wanted member `{}` of {} bytes", blob(number), size(number));
    let last = fixture.document.blobs.len() - 1;
    let offset = |number: usize| members(&bytes)[HEAD + number].start;

    let missing = refusal(&rearranged(&bytes, |parts| drop(parts.remove(HEAD + 4))));
    let found =
        format!("wrong member at byte {}: found member `{}` of {} bytes", offset(4), blob(5), size(5));
    assert_eq!(
        missing,
        format!("{found} (which belongs further on: one is missing or moved), {}", wanted(4))
    );

    let doubled = refusal(&rearranged(&bytes, |parts| parts.insert(HEAD + 5, parts[HEAD + 4].clone())));
    let found =
        format!("wrong member at byte {}: found member `{}` of {} bytes", offset(5), blob(4), size(4));
    assert_eq!(doubled, format!("{found} (which stands twice or too late), {}", wanted(5)));

    let reordered = refusal(&rearranged(&bytes, |parts| parts.swap(HEAD + last, HEAD + last - 1)));
    let found = format!("found member `{}` of {} bytes (which belongs further on", blob(last), size(last));
    assert!(reordered.contains(&found) && reordered.ends_with(&wanted(last - 1)), "{reordered}");

    let content = vec![7; 512];
    let extra = Member::Blob(Digest::of(&content));
    let extra_part = [header::header(extra, 512).as_slice(), &content].concat();
    let inside = refusal(&rearranged(&bytes, |parts| parts.insert(HEAD + 2, extra_part.clone())));
    let found = format!("found member `{extra}` of 512 bytes (which the release does not list)");
    assert_eq!(inside, format!("wrong member at byte {}: {found}, {}", offset(2), wanted(2)));
    let behind = refusal(&rearranged(&bytes, |parts| parts.push(extra_part.clone())));
    assert_eq!(
        behind,
        format!("wrong member at byte {}: {found}, wanted the end of the archive", bytes.len() - 1024)
    );
    let again = refusal(&rearranged(&bytes, |parts| parts.push(parts[HEAD].clone())));
    assert!(again.ends_with("(which stands twice or too late), wanted the end of the archive"), "{again}");

    let no_last = refusal(&rearranged(&bytes, |parts| drop(parts.pop())));
    assert!(no_last.contains("found the end of the archive, wanted member `blobs/"), "{no_last}");
}

#[test]
fn other_members_in_the_head() {
    let (_, bytes) = signed();
    let swap = |a: usize, b: usize| refusal(&rearranged(&bytes, |parts| parts.swap(a, b)));
    let first = swap(0, 1);
    assert!(first.starts_with("wrong member at byte 0: found member `index.json` of"), "{first}");
    assert!(first.ends_with("wanted member `oci-layout` of 30 bytes"), "{first}");
    let index = swap(1, 2);
    assert!(index.starts_with("wrong member at byte 1024: found member `blobs/sha256/"), "{index}");
    assert!(index.ends_with("wanted `index.json` as a plain member"), "{index}");
    // Nothing says which of two blobs is the manifest but the signature, which is over another.
    let manifest = swap(2, 3);
    assert!(manifest.contains("is not what follows from the signed content"), "{manifest}");
    let referrer = swap(4, 5);
    assert!(
        referrer.contains("is not what follows from the signed content: wanted the manifest of bundle"),
        "{referrer}"
    );
    let filler = refusal(&rearranged(&bytes, |parts| drop(parts.remove(6))));
    assert!(filler.contains("is not what follows from the signed content"), "{filler}");
    let gone = refusal(&rearranged(&bytes, |parts| drop(parts.drain(4..6))));
    assert!(gone.starts_with("wrong member at byte "), "{gone}");
}

#[test]
fn signatures_out_of_order_or_twice() {
    let fixture = Fixture::new();
    let bytes = fixture.bytes(&[noise(1, 900), noise(2, 900)]);
    let swapped = refusal(&rearranged(&bytes, |parts| {
        parts.swap(4, 6);
        parts.swap(5, 7);
    }));
    assert!(swapped.starts_with("signatures: bundle sha256:"), "{swapped}");
    assert!(swapped.ends_with("is out of order or stands twice"), "{swapped}");
    let twice = refusal(&rearranged(&bytes, |parts| {
        parts[6] = parts[4].clone();
        parts[7] = parts[5].clone();
    }));
    assert!(twice.ends_with("is out of order or stands twice"), "{twice}");
    // The index still lists two signatures.
    let one = fixture.bytes(&[noise(1, 900)]);
    let stale = refusal(&rearranged(&bytes, |parts| {
        let lone: Vec<_> = members(&one).into_iter().map(|range| one[range].to_vec()).collect();
        parts.splice(4..9, lone[4..7].to_vec());
    }));
    assert!(stale.starts_with("`index.json` (at byte 1536) is not what follows"), "{stale}");
}

/// The archive with the header of member `number` changed by `edit`, checksum made right.
fn forged(bytes: &[u8], number: usize, edit: impl Fn(&mut tar::Header)) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let at = members(&bytes)[number].start;
    let mut header = tar::Header::from_byte_slice(&bytes[at..at + 512]).clone();
    edit(&mut header);
    header.set_cksum();
    bytes[at..at + 512].copy_from_slice(header.as_bytes());
    bytes
}

#[test]
fn links_devices_and_names_that_leave_the_folder() {
    let (fixture, bytes) = signed();
    let number = HEAD + 3;
    let name = format!("blobs/sha256/{}", fixture.document.blobs[3].digest.hex());
    let kind = |kind: u8| {
        move |header: &mut tar::Header| {
            header.set_entry_type(tar::EntryType::new(kind));
            header.set_link_name_literal("../../etc/passwd").unwrap();
        }
    };
    for (found, edited) in [
        (format!("hard link `{name}` to `../../etc/passwd`"), forged(&bytes, number, kind(b'1'))),
        (format!("symbolic link `{name}` to `../../etc/passwd`"), forged(&bytes, number, kind(b'2'))),
        (format!("character device `{name}`"), forged(&bytes, number, kind(b'3'))),
        (format!("block device `{name}`"), forged(&bytes, number, kind(b'4'))),
        (format!("folder `{name}`"), forged(&bytes, number, kind(b'5'))),
        (format!("named pipe `{name}`"), forged(&bytes, number, kind(b'6'))),
        (format!("sparse file `{name}` of"), forged(&bytes, number, kind(b'S'))),
        (format!("pax extension header `{name}` of"), forged(&bytes, number, kind(b'x'))),
        (format!("GNU long-name header `{name}` of"), forged(&bytes, number, kind(b'L'))),
    ] {
        let message = refusal(&edited);
        assert!(message.contains(&format!("found {found}")), "{message}");
        assert!(message.contains(&format!("wanted member `{name}`")), "{message}");
    }
    for (bad, remark) in [
        ("/etc/passwd", " (an absolute name)"),
        ("../../etc/passwd", " (a climbing name)"),
        ("blobs/../../x", " (a climbing name)"),
        ("C:\\x", ""),
        ("", ""),
    ] {
        let rename = |header: &mut tar::Header| {
            let field = &mut header.as_old_mut().name;
            field.fill(0);
            field[..bad.len()].copy_from_slice(bad.as_bytes());
        };
        for member in 0..HEAD + 4 {
            let message = refusal(&forged(&bytes, member, rename));
            let found = format!("found member `{}`{remark} of", bad.escape_debug());
            assert!(message.contains(&found), "member {member}: {message}");
        }
    }
    let message = refusal(&forged(&bytes, number, |header| header.set_mode(0o4755)));
    assert!(message.contains("with another mode, checksum"), "{message}");
}

#[test]
fn sizes_that_lie() {
    let (fixture, bytes) = signed();
    let size = fixture.document.blobs[3].size;
    for lie in [0, size + 1, u64::MAX, 9 << 30] {
        let message = refusal(&forged(&bytes, HEAD + 3, |header| header.set_size(lie)));
        assert!(message.contains(&format!("of {lie} bytes, wanted")), "{message}");
    }
    for (member, what) in [(1, "`index.json`"), (2, "the release manifest"), (3, "the release document")] {
        let message = refusal(&forged(&bytes, member, |header| header.set_size(u64::MAX)));
        assert!(
            message.starts_with(&format!("{what} has 18446744073709551615 bytes, more than the")),
            "{message}"
        );
    }
    let message = refusal(&forged(&bytes, 5, |header| header.set_size(50_000)));
    assert_eq!(message, "a signature bundle has 50000 bytes, more than the 49152 that are read");
    let message = refusal(&forged(&bytes, 4, |header| header.set_size(50_000)));
    assert!(message.ends_with("has 50000 bytes, more than the 49152 that are read"), "{message}");
}

#[test]
fn other_files() {
    for (begin, text) in [
        (b"\x1f\x8b\x08\x00".as_slice(), "it begins as gzip-compressed data"),
        (b"\x28\xb5\x2f\xfd", "it begins as zstd-compressed data"),
        (b"PK\x03\x04", "it begins as a zip archive"),
        (b"", "it begins as zeros"),
        (b"hello\x1b[2Jworld, and", "it begins with `hello\\u{1b}[2Jworld,"),
    ] {
        let mut bytes = begin.to_vec();
        bytes.resize(2000, 0);
        let message = refusal(&bytes);
        let wanted = format!("not a fleetpack archive: {text}");
        assert!(message.starts_with(&wanted), "{message}");
    }
}

#[test]
fn a_blob_with_other_bytes() {
    let (fixture, mut bytes) = signed();
    let place = members(&bytes)[HEAD + 3].start + 512;
    bytes[place] ^= 0x80;
    let blob = &fixture.document.blobs[3];
    let mut content = fixture.contents[&blob.digest].clone();
    content[0] ^= 0x80;
    let wanted = format!(
        "`blobs/sha256/{}` (at byte {place}) has digest {}, wanted {}",
        blob.digest.hex(),
        Digest::of(&content),
        blob.digest
    );
    assert_eq!(refusal(&bytes), wanted);
}
