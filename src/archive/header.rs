//! Tar headers: the one form that is written, and words for whatever else is found.
//!
//! POSIX.1-2017, pax, "ustar Interchange Format"; sizes of 8 GiB and more in base-256 as GNU tar
//! and its readers know them.

use std::fmt;

use tar::{EntryType, Header};

use crate::model::Digest;

/// Size of a tar block.
pub const BLOCK: u64 = 512;
/// A header, or any other block.
pub type Block = [u8; 512];

/// Fields of a ustar header, for naming the one that differs.
const FIELDS: &[(&str, usize, usize)] = &[
    ("name", 0, 100),
    ("mode", 100, 108),
    ("owner", 108, 116),
    ("group", 116, 124),
    ("size", 124, 136),
    ("time", 136, 148),
    ("checksum", 148, 156),
    ("type", 156, 157),
    ("link name", 157, 257),
    ("magic", 257, 263),
    ("version", 263, 265),
    ("owner's name", 265, 297),
    ("group's name", 297, 329),
    ("device number", 329, 345),
    ("prefix", 345, 500),
    ("unused end", 500, 512),
];

/// The name of a member: no other shapes exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Member {
    /// `oci-layout`.
    OciLayout,
    /// `index.json`.
    Index,
    /// `blobs/sha256/HEX`.
    Blob(Digest),
    /// `signatures.reserved`: zeros that fill the signature area.
    Reserved,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OciLayout => f.write_str("oci-layout"),
            Self::Index => f.write_str("index.json"),
            Self::Blob(digest) => write!(f, "blobs/sha256/{}", digest.hex()),
            Self::Reserved => f.write_str("signatures.reserved"),
        }
    }
}

/// `size` rounded up to whole blocks; absent on overflow.
#[must_use]
pub const fn padded(size: u64) -> Option<u64> {
    size.checked_next_multiple_of(BLOCK)
}

/// Bytes of padding after content of `size` bytes.
#[must_use]
pub const fn padding(size: u64) -> u64 {
    (BLOCK - size % BLOCK) % BLOCK
}

/// The header that must stand before `member` of `size` bytes.
#[must_use]
pub fn header(member: Member, size: u64) -> Block {
    let mut header = Header::new_ustar();
    let name = member.to_string();
    // The longest name has 77 bytes, and the field 100.
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    *header.as_bytes()
}

/// The size that a found header claims, if it is a number at all.
#[must_use]
pub fn claimed_size(block: &Block) -> Option<u64> {
    Header::from_byte_slice(block).entry_size().ok()
}

/// The digest in the name of a found header, if it has the shape of a blob's.
#[must_use]
pub fn claimed_blob(block: &Block) -> Option<Digest> {
    let name = block[..100].split(|byte| *byte == 0).next()?;
    let hex = std::str::from_utf8(name).ok()?.strip_prefix("blobs/sha256/")?;
    Digest::from_hex(hex).ok()
}

/// Whether the checksum of a found header is right, so that it is a header and not just bytes.
#[must_use]
pub fn is_header(block: &Block) -> bool {
    let header = Header::from_byte_slice(block);
    let sum: u32 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { u32::from(b' ') } else { u32::from(*byte) })
        .sum();
    header.cksum().is_ok_and(|claimed| claimed == sum)
}

/// What `member` of `size` bytes is called in messages.
#[must_use]
pub fn wanted(member: Member, size: u64) -> String {
    format!("member `{member}` of {size} bytes")
}

/// What a found block is, in human terms, where `want` was to stand.
#[must_use]
pub fn describe(block: &Block, want: &Block) -> String {
    if block.iter().all(|byte| *byte == 0) {
        return "the end of the archive".to_owned();
    }
    let header = Header::from_byte_slice(block);
    let name = text(&header.path_bytes());
    if !is_header(block) {
        return match differing(block, want).as_slice() {
            [one, "checksum"] | [one] => format!("a damaged header (its {one} field differs)"),
            _ => "bytes that are no tar header (wrong checksum)".to_owned(),
        };
    }
    let link = header.link_name_bytes().map(|bytes| text(&bytes)).unwrap_or_default();
    let kind = match block[156] {
        b'0' | 0 => "member",
        b'1' => "hard link",
        b'2' => "symbolic link",
        b'3' => "character device",
        b'4' => "block device",
        b'5' => "folder",
        b'6' => "named pipe",
        b'7' => "contiguous file",
        b'g' | b'x' => "pax extension header",
        b'L' | b'K' => "GNU long-name header",
        b'S' => "sparse file",
        _ => "member of an unknown type",
    };
    let size =
        header.entry_size().map_or_else(|_| "unreadable size".to_owned(), |size| format!("{size} bytes"));
    let name_remark = if name.starts_with('/') {
        " (an absolute name)"
    } else if name.split(['/', '\\']).any(|part| part == "..") {
        " (a climbing name)"
    } else {
        ""
    };
    let mut found = match block[156] {
        b'1' | b'2' => format!("{kind} `{name}`{name_remark} to `{link}`"),
        b'3'..=b'6' => format!("{kind} `{name}`{name_remark}"),
        _ => format!("{kind} `{name}`{name_remark} of {size}"),
    };
    let differing = differing(block, want);
    if !differing.iter().any(|field| matches!(*field, "name" | "size" | "type")) {
        found.push_str(" with another ");
        found.push_str(&differing.join(", "));
    }
    found
}

/// Names of the fields in which two headers differ.
fn differing(found: &Block, want: &Block) -> Vec<&'static str> {
    FIELDS
        .iter()
        .filter(|(_, from, to)| found[*from..*to] != want[*from..*to])
        .map(|(name, ..)| *name)
        .collect()
}

/// Outside bytes, made printable and short.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(200).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(edit: impl Fn(&mut Header)) -> Block {
        let mut header = Header::from_byte_slice(&header(Member::Index, 42)).clone();
        edit(&mut header);
        header.set_cksum();
        *header.as_bytes()
    }

    #[test]
    fn fixed_fields() {
        let digest = Digest::of(b"x");
        let block = header(Member::Blob(digest), 1234);
        assert_eq!(&block[100..108], b"0000644\0");
        assert_eq!(&block[108..124], *b"0000000\x000000000\x00");
        assert_eq!(&block[124..136], b"00000002322\0");
        assert_eq!(&block[136..148], b"00000000000\0");
        assert_eq!(&block[156..265], [b"0".as_slice(), &[0; 100], b"ustar\x0000"].concat());
        assert!(block[265..].iter().all(|byte| *byte == 0));
        assert!(is_header(&block));
        assert_eq!((claimed_blob(&block), claimed_size(&block)), (Some(digest), Some(1234)));
    }

    #[test]
    fn eight_gibibytes_and_more_are_base_256() {
        let limit = 8 << 30;
        assert_eq!(&header(Member::Index, limit - 1)[124..136], b"77777777777\0");
        for size in [limit, limit + 1, 1 << 40, u64::MAX] {
            let block = header(Member::Index, size);
            assert_eq!(block[124..128], [0x80, 0, 0, 0]);
            assert_eq!(block[128..136], size.to_be_bytes());
            assert_eq!(claimed_size(&block), Some(size));
        }
    }

    #[test]
    fn padding_fills_blocks() {
        assert_eq!([0, 1, 511, 512, 513].map(padding), [0, 511, 1, 0, 511]);
        assert_eq!(padded(513), Some(1024));
        assert_eq!(padded(u64::MAX), None);
    }

    #[test]
    fn found_things_have_names() {
        let want = header(Member::Index, 42);
        let name = |header: &mut Header, name: &[u8]| {
            let field = &mut header.as_old_mut().name;
            field.fill(0);
            field[..name.len()].copy_from_slice(name);
        };
        let kind = |kind: u8| {
            edited(move |header| {
                header.set_entry_type(EntryType::new(kind));
                header.set_link_name_literal("/etc/passwd").unwrap();
            })
        };
        let cases: Vec<(Block, &str)> = vec![
            ([0; 512], "the end of the archive"),
            ([7; 512], "bytes that are no tar header (wrong checksum)"),
            (kind(b'1'), "hard link `index.json` to `/etc/passwd`"),
            (kind(b'2'), "symbolic link `index.json` to `/etc/passwd`"),
            (kind(b'3'), "character device `index.json`"),
            (kind(b'4'), "block device `index.json`"),
            (kind(b'5'), "folder `index.json`"),
            (kind(b'6'), "named pipe `index.json`"),
            (kind(b'S'), "sparse file `index.json` of 42 bytes"),
            (kind(b'x'), "pax extension header `index.json` of 42 bytes"),
            (kind(b'L'), "GNU long-name header `index.json` of 42 bytes"),
            (kind(b'V'), "member of an unknown type `index.json` of 42 bytes"),
            (edited(|h| name(h, b"/etc/x")), "member `/etc/x` (an absolute name) of 42 bytes"),
            (edited(|h| name(h, b"a/../x")), "member `a/../x` (a climbing name) of 42 bytes"),
            (edited(|h| name(h, b"..\\x")), "member `..\\\\x` (a climbing name) of 42 bytes"),
            (edited(|h| name(h, b"a\x1b[1m")), "member `a\\u{1b}[1m` of 42 bytes"),
            (edited(|h| h.set_size(43)), "member `index.json` of 43 bytes"),
            (edited(|h| h.set_mode(0o4755)), "member `index.json` of 42 bytes with another mode, checksum"),
            (edited(|h| h.set_mtime(1)), "member `index.json` of 42 bytes with another time, checksum"),
        ];
        for (block, text) in cases {
            assert_eq!(describe(&block, &want), text);
        }
        let mut flipped = want;
        flipped[3] ^= 1;
        assert_eq!(describe(&flipped, &want), "a damaged header (its name field differs)");
    }
}
