//! Room on a file system, asked for before the work begins.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate, statfs, statvfs};
use rustix::io::Errno;

/// File systems of which it is known how large a file can be (`linux/magic.h`): FAT keeps the size
/// in 32 bits.
const LARGEST: &[(i64, u64)] = &[
    (0x4d44, u32::MAX as u64), // msdos, vfat
];

/// The size of the largest file that the file system of `path` takes, where its kind says so.
/// One behind FUSE does not say its kind.
///
/// # Errors
///
/// When `path` is not there.
pub fn largest_file(path: &Path) -> io::Result<Option<u64>> {
    let kind = statfs(path)?.f_type;
    Ok(LARGEST.iter().find(|(magic, _)| *magic == kind).map(|(_, largest)| *largest))
}

/// Bytes that the file system of `path` has left for this user; all there can be when it does not
/// count them (some drivers behind FUSE answer that they have no blocks at all).
///
/// # Errors
///
/// When `path` is not there or the file system does not say.
pub fn available_space(path: &Path) -> io::Result<u64> {
    let stat = statvfs(path)?;
    if stat.f_blocks == 0 {
        return Ok(u64::MAX);
    }
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Gives `file` a length of `size` bytes of zeros, with its space set aside where the file system
/// can do that (FAT cannot; then only the length is set, and nothing is promised).
///
/// # Errors
///
/// `StorageFull` when there is no space for it, `FileTooLarge` when the file system takes no such
/// file, `Unsupported` when it can set no length at all.
pub fn allocate(file: &File, size: u64) -> io::Result<()> {
    if size == 0 {
        return Ok(());
    }
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, size) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                return file.set_len(size).map_err(|error| refused_length(file, error));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// What it means that `file`, which is ours to grow, was refused a length. Some drivers say `EPERM`
/// for one that is too large, and some for every one.
fn refused_length(file: &File, error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput => match file.set_len(1) {
            Ok(()) => io::ErrorKind::FileTooLarge.into(),
            Err(_) => {
                io::Error::new(io::ErrorKind::Unsupported, "its file system cannot set the length of a file")
            }
        },
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_counted_and_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        assert!(available_space(folder.path()).unwrap() > 0);
        assert!(available_space(&folder.path().join("absent")).is_err());
        assert_eq!(largest_file(folder.path()).unwrap(), None, "no test runs on FAT");
        let file = File::create(folder.path().join("x")).unwrap();
        allocate(&file, 70_000).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 70_000);
        let available = available_space(folder.path()).unwrap();
        let error = allocate(&file, available.saturating_mul(4).min(1 << 60)).unwrap_err();
        assert!(matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::FileTooLarge), "{error}");
    }
}
