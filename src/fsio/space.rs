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

/// What a file system has left for this user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes; all there can be, where they are not counted.
    pub bytes: u64,
    /// Files; all there can be, where the file system makes its inodes as it goes.
    pub files: u64,
    /// Bytes of a block: a file takes whole ones.
    pub block: u64,
}

impl Room {
    /// What the file system of `path` has left.
    ///
    /// # Errors
    ///
    /// When `path` is not there or the file system does not say.
    pub fn at(path: &Path) -> io::Result<Self> {
        let found = statvfs(path)?;
        let block = found.f_frsize.max(1);
        Ok(Self {
            bytes: if found.f_blocks == 0 { u64::MAX } else { found.f_bavail.saturating_mul(block) },
            files: if found.f_files == 0 { u64::MAX } else { found.f_favail },
            block,
        })
    }

    /// Bytes that a file of `size` bytes takes.
    #[must_use]
    pub const fn taken_by(self, size: u64) -> u64 {
        size.div_ceil(self.block).saturating_mul(self.block)
    }
}

/// Whether `error`, or what caused it, says that a disk or a quota is full.
#[must_use]
pub fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            // An error that such a one was made of is not among its sources.
            if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
                || error.get_ref().is_some_and(|inner| is_full(inner))
            {
                return true;
            }
        }
        cause = error.source();
    }
    false
}

/// Bytes that the file system of `path` has left for this user; all there can be when it does not
/// count them (some drivers behind FUSE answer that they have no blocks at all).
///
/// # Errors
///
/// When `path` is not there or the file system does not say.
pub fn available_space(path: &Path) -> io::Result<u64> {
    Ok(Room::at(path)?.bytes)
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
        let room = Room::at(folder.path()).unwrap();
        assert_eq!((room.taken_by(0), room.taken_by(1)), (0, room.block));
        assert_eq!(room.taken_by(room.block + 1), 2 * room.block);
        let full = io::Error::other(io::Error::from(io::ErrorKind::StorageFull));
        assert!(is_full(&full) && !is_full(&io::Error::other("x")));
        assert_eq!(largest_file(folder.path()).unwrap(), None, "no test runs on FAT");
        let file = File::create(folder.path().join("x")).unwrap();
        allocate(&file, 70_000).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 70_000);
        let available = available_space(folder.path()).unwrap();
        let error = allocate(&file, available.saturating_mul(4).min(1 << 60)).unwrap_err();
        assert!(matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::FileTooLarge), "{error}");
    }
}
