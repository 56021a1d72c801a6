//! Bytes that two files hold in common, where the file system can do that (reflinks).

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;

use rustix::fs::{copy_file_range, fstatfs};

/// File systems that let files share blocks (`linux/magic.h`). On others `copy_file_range` is a
/// plain copy within the kernel, and whoever hashes the bytes has them in hand anyway.
const SHARING: &[i64] = &[
    0x9123_683e, // btrfs
    0x5846_5342, // xfs
    0xca45_1a4e, // bcachefs
];
/// Blocks are shared whole; no such file system has larger ones by default.
const BLOCK: u64 = 4096;

/// Lets `to`, from `place` on, share `size` bytes with `from`, from `at` on, as far as whole blocks
/// can be shared. Answers with what of the bytes (counted from 0) is now in `to`; an empty range
/// when nothing is. It is never an error: what is not shared is left to be copied.
#[must_use]
pub fn share(from: &File, at: u64, to: &File, place: u64, size: u64) -> Range<u64> {
    let range = blocks(at, place, size);
    if range.is_empty() || !can_share(from, to) {
        return 0..0;
    }
    let (mut input, mut output) = (at + range.start, place + range.start);
    let end = place + range.end;
    while output < end {
        let length = usize::try_from(end - output).unwrap_or(usize::MAX).min(1 << 30);
        match copy_file_range(from, Some(&mut input), to, Some(&mut output), length) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    range.start..output - place
}

/// The part of `size` bytes that fills whole blocks in both files.
fn blocks(at: u64, place: u64, size: u64) -> Range<u64> {
    if at % BLOCK != place % BLOCK {
        return 0..0;
    }
    let start = (at.next_multiple_of(BLOCK) - at).min(size);
    let whole = (size - start) / BLOCK * BLOCK;
    start..start + whole
}

fn can_share(from: &File, to: &File) -> bool {
    let device = |file: &File| file.metadata().map(|metadata| metadata.dev()).ok();
    device(from).is_some()
        && device(from) == device(to)
        && fstatfs(to).is_ok_and(|stat| SHARING.contains(&stat.f_type))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn whole_blocks_of_both_files() {
        assert_eq!(blocks(512, 4608, 10_000), 3584..3584 + 4096);
        assert_eq!(blocks(0, 8192, 8192), 0..8192);
        assert!(blocks(0, 512, 1 << 20).is_empty(), "no common border");
        assert!(blocks(512, 512, 3000).is_empty(), "no whole block");
        assert!(blocks(1, 1, 0).is_empty());
    }

    #[test]
    fn what_is_said_to_be_shared_is_there() {
        // On a file system that shares nothing the range is empty.
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let bytes: Vec<u8> = (0..20_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        from.write_all_at(&bytes, 512).unwrap();
        let range = share(&from, 512, &to, 4608, bytes.len() as u64);
        let mut found = vec![0; usize::try_from(range.end - range.start).unwrap()];
        to.read_exact_at(&mut found, 4608 + range.start).unwrap();
        assert_eq!(found, bytes[usize::try_from(range.start).unwrap()..][..found.len()]);
    }
}
