//! `oci-archive:FILE`: an OCI layout in a tar file, read where it lies.
//!
//! One pass over the headers notes where each blob begins; nothing is unpacked. The walk is our
//! own over [`tar::Header`], because a library that follows long names and PAX records reads as
//! many bytes into memory as the archive asks for.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use tar::{EntryType, Header};

use super::error::{OciError, Result, readable};
use crate::fsio::limits;
use crate::model::Digest;

const BLOCK: u64 = 512;
/// Extended headers longer than this are refused.
const EXTENDED: u64 = 64 << 10;

/// Where things are in an archive: offset and size.
#[derive(Default)]
pub(super) struct ArchiveIndex {
    pub blobs: HashMap<Digest, (u64, u64)>,
    pub marker: Option<(u64, u64)>,
    pub index: Option<(u64, u64)>,
}

/// What an extended header says about the member behind it.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    size: Option<u64>,
}

impl ArchiveIndex {
    /// Walks over the headers of `file`.
    pub fn read(path: &Path, file: &File) -> Result<Self> {
        let wrong = |why: String| OciError::Layout { path: path.to_owned(), why };
        let io = |source| OciError::Io { path: path.to_owned(), source };
        let length = file.metadata().map_err(io)?.len();
        let mut found = Self::default();
        let mut extended = Extended::default();
        let mut at = 0_u64;
        let mut block = [0_u8; 512];
        for _ in 0..limits::MEMBERS {
            if at == length {
                // Writers that stop without the two zero blocks are common enough.
                return Ok(found);
            }
            if length - at < BLOCK {
                return Err(wrong(format!("cut short: ends within the header at byte {at}")));
            }
            file.read_exact_at(&mut block, at).map_err(io)?;
            if block.iter().all(|b| *b == 0) {
                return Ok(found);
            }
            let header = Header::from_byte_slice(&block);
            check_sum(header).map_err(|why| {
                wrong(
                    if at == 0 && (block.starts_with(&[0x1f, 0x8b]) || block.starts_with(b"\x28\xb5\x2f\xfd"))
                    {
                        "compressed, wanted a plain tar archive (uncompress it first)".to_owned()
                    } else {
                        format!("not a tar header at byte {at}: {why}")
                    },
                )
            })?;
            let stated = header
                .entry_size()
                .map_err(|error| wrong(format!("size of the member at byte {at}: {error}")))?;
            let kind = header.entry_type();
            let begin = at + BLOCK;
            let size = match kind {
                EntryType::Regular | EntryType::Continuous => extended.size.unwrap_or(stated),
                _ => stated,
            };
            let end = begin
                .checked_add(size)
                .and_then(|end| end.checked_next_multiple_of(BLOCK))
                .filter(|_| begin + size <= length)
                .ok_or_else(|| {
                    wrong(format!(
                        "cut short: the member at byte {at} has {size} bytes, and the file has {length}"
                    ))
                })?;
            let read_small = || {
                if size > EXTENDED {
                    return Err(wrong(format!(
                        "an extended header of {size} bytes at byte {at}, at most {EXTENDED} are read"
                    )));
                }
                let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
                file.read_exact_at(&mut bytes, begin).map_err(io)?;
                Ok(bytes)
            };
            match kind {
                EntryType::XHeader => {
                    extended = pax(&read_small()?)
                        .map_err(|why| wrong(format!("PAX header at byte {at}: {why}")))?;
                }
                EntryType::GNULongName => {
                    let mut name = read_small()?;
                    name.truncate(name.iter().position(|b| *b == 0).unwrap_or(name.len()));
                    extended.path = Some(name);
                }
                EntryType::GNULongLink | EntryType::XGlobalHeader => {
                    read_small()?;
                }
                _ => {
                    let name = std::mem::take(&mut extended)
                        .path
                        .unwrap_or_else(|| header.path_bytes().into_owned());
                    found.note(&name, kind, begin, size).map_err(wrong)?;
                }
            }
            at = end.min(length);
        }
        Err(wrong(format!("more than {} members", limits::MEMBERS)))
    }

    /// Notes a member, if it is one of a layout.
    fn note(&mut self, name: &[u8], kind: EntryType, at: u64, size: u64) -> Result<(), String> {
        let name = String::from_utf8_lossy(name);
        let name = name.strip_prefix("./").unwrap_or(&name);
        let plain = matches!(kind, EntryType::Regular | EntryType::Continuous);
        let shown = readable(name);
        let old = if name == "oci-layout" {
            if !plain {
                return Err(format!("member `{shown}` is not a plain file"));
            }
            self.marker.replace((at, size))
        } else if name == "index.json" {
            if !plain {
                return Err(format!("member `{shown}` is not a plain file"));
            }
            self.index.replace((at, size))
        } else if let Some(digest) =
            name.strip_prefix("blobs/sha256/").and_then(|hex| Digest::from_hex(hex).ok())
        {
            if !plain {
                return Err(format!("member `{shown}` is not a plain file"));
            }
            self.blobs.insert(digest, (at, size))
        } else {
            None
        };
        if old.is_some() { Err(format!("member `{shown}` stands twice")) } else { Ok(()) }
    }
}

/// The header's own checksum (POSIX.1-1988, ustar: the sum of its bytes, its own field as blanks).
fn check_sum(header: &Header) -> Result<(), String> {
    let bytes = header.as_bytes();
    let sum: u32 = bytes
        .iter()
        .enumerate()
        .map(|(at, byte)| u32::from(if (148..156).contains(&at) { b' ' } else { *byte }))
        .sum();
    match header.cksum() {
        Ok(stated) if stated == sum => Ok(()),
        Ok(stated) => Err(format!("checksum {sum}, wanted {stated}")),
        Err(_) => Err("no checksum".to_owned()),
    }
}

/// `LENGTH KEY=VALUE\n` records (POSIX.1-2001, pax); only `path` and `size` matter here.
fn pax(mut rest: &[u8]) -> Result<Extended, String> {
    let mut found = Extended::default();
    while !rest.is_empty() {
        let space = rest.iter().take(20).position(|b| *b == b' ').ok_or("a record without a length")?;
        let length: usize = std::str::from_utf8(&rest[..space])
            .ok()
            .and_then(|text| text.parse().ok())
            .filter(|length| *length > space + 1 && *length <= rest.len())
            .ok_or("a record of impossible length")?;
        let record = &rest[space + 1..length];
        let record = record.strip_suffix(b"\n").ok_or("a record without a newline")?;
        let equals = record.iter().position(|b| *b == b'=').ok_or("a record without `=`")?;
        let value = &record[equals + 1..];
        match &record[..equals] {
            b"path" => found.path = Some(value.to_vec()),
            b"size" => {
                let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                found.size = Some(size.ok_or("a size that is no number")?);
            }
            key if key.starts_with(b"GNU.sparse") => return Err("a sparse member".to_owned()),
            _ => {}
        }
        rest = &rest[length..];
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn member(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut header = Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_entry_type(EntryType::new(kind));
        header.set_size(content.len() as u64);
        header.set_cksum();
        let mut out = header.as_bytes().to_vec();
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }

    fn read(bytes: &[u8]) -> Result<ArchiveIndex> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        ArchiveIndex::read(Path::new("x.tar"), &file)
    }

    #[test]
    fn finds_members_under_all_spellings() {
        let blob = format!("blobs/sha256/{}", Digest::of(b"b").hex());
        let pax_record = |text: &str| format!("{} {text}\n", text.len() + 4);
        let mut bytes = member("./oci-layout", b'0', b"{}");
        bytes.extend(member("blobs", b'5', b""));
        bytes.extend(member("pax", b'x', pax_record(&format!("path={blob}")).as_bytes()));
        bytes.extend(member("short", b'0', b"b"));
        bytes.extend(member("index.json", b'0', b"[]"));
        bytes.extend([0; 1024]);
        let found = read(&bytes).unwrap();
        assert_eq!(found.marker, Some((512, 2)));
        assert_eq!(found.blobs.get(&Digest::of(b"b")), Some(&(512 * 6, 1)));
        assert!(found.index.is_some());
    }

    #[test]
    fn refusals_name_the_member() {
        let blob = format!("blobs/sha256/{}", Digest::of(b"b").hex());
        let twice = [member(&blob, b'0', b"b"), member(&blob, b'0', b"c")].concat();
        let mut huge = member("x", b'L', b"name");
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(1 << 40);
        header.set_cksum();
        huge.splice(..512, header.as_bytes().iter().copied());
        let whole = member(&blob, b'0', b"b");
        for (bytes, want) in [
            (twice, "stands twice"),
            (member(&blob, b'2', b""), "is not a plain file"),
            (member("index.json", b'1', b""), "is not a plain file"),
            (huge, "cut short: the member at byte 0 has 1099511627776 bytes"),
            (whole[..512].to_vec(), "cut short"),
            (whole[..100].to_vec(), "cut short"),
            (b"\x1f\x8b".iter().copied().chain([7; 600]).collect(), "compressed"),
            (vec![b'x'; 600], "not a tar header at byte 0"),
            (member("p", b'x', b"99 path=x\n"), "impossible length"),
            (member("p", b'x', &vec![b'x'; 70_000]), "at most 65536"),
        ] {
            let error = read(&bytes).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(want), "{error} lacks {want}");
        }
    }
}
