//! Room on a file system, asked for before the work begins.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

/// Bytes that the file system of `path` has left for this user.
///
/// # Errors
///
/// When `path` is not there or the file system does not say.
pub fn available_space(path: &Path) -> io::Result<u64> {
    let stat = statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Gives `file` a length of `size` bytes of zeros, with its space set aside where the file system
/// can do that (FAT cannot; then only the length is set, and nothing is promised).
///
/// # Errors
///
/// `StorageFull` when there is no space for it, `FileTooLarge` when the file system takes no such file.
pub fn allocate(file: &File, size: u64) -> io::Result<()> {
    if size == 0 {
        return Ok(());
    }
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, size) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => return file.set_len(size),
            Err(error) => return Err(error.into()),
        }
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
        let file = File::create(folder.path().join("x")).unwrap();
        allocate(&file, 70_000).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 70_000);
        let available = available_space(folder.path()).unwrap();
        let error = allocate(&file, available.saturating_mul(4).min(1 << 60)).unwrap_err();
        assert!(matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::FileTooLarge), "{error}");
    }
}
