//! A little room kept aside, so that going back works on a full disk: a few files of zeros that are
//! removed when their blocks and inodes are needed.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use super::atomic::sync_folder;

/// Files of the reserve: a Git generation, the index, the ledger and what is renamed over them take
/// fewer.
const FILES: u32 = 32;
/// Bytes of each.
const SIZE: usize = 64 << 10;

/// The reserve of a folder: `reserve/` in it.
#[derive(Debug, Clone)]
pub struct Reserve {
    folder: PathBuf,
}

impl Reserve {
    /// Name of its folder.
    pub const NAME: &'static str = "reserve";

    /// The reserve below `folder`; nothing is made.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        Self { folder: folder.join(Self::NAME) }
    }

    /// Bytes that it keeps aside.
    #[must_use]
    pub const fn size() -> u64 {
        FILES as u64 * SIZE as u64
    }

    /// Files that it keeps aside, its folder included.
    #[must_use]
    pub const fn files() -> u64 {
        FILES as u64 + 1
    }

    /// Whether the whole of it is there.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        (0..FILES).all(|number| {
            fs::symlink_metadata(self.file(number)).is_ok_and(|found| found.len() == SIZE as u64)
        })
    }

    fn file(&self, number: u32) -> PathBuf {
        self.folder.join(number.to_string())
    }

    /// Makes what is missing of it. It need not be durable: what a cut takes is made again.
    ///
    /// # Errors
    ///
    /// When there is no room for it: then what there was of it is given back.
    pub fn keep(&self) -> io::Result<()> {
        if self.is_kept() {
            return Ok(());
        }
        let make = || {
            match fs::create_dir(&self.folder) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let zeros = vec![0; SIZE];
            for number in 0..FILES {
                File::create(self.file(number))?.write_all(&zeros)?;
            }
            Ok(())
        };
        make().inspect_err(|_| {
            // The last bytes of a disk are of more use to others.
            let _ = self.spend();
        })
    }

    /// Gives its room back; says whether there was any.
    ///
    /// # Errors
    ///
    /// When a file cannot be removed.
    pub fn spend(&self) -> io::Result<bool> {
        let mut any = false;
        for number in 0..FILES {
            match fs::remove_file(self.file(number)) {
                Ok(()) => any = true,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        if any {
            // Some file systems give blocks back only with the next commit of their journal.
            sync_folder(&self.folder)?;
            fs::remove_dir(&self.folder)?;
        }
        Ok(any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_spent_and_kept_again() {
        let folder = tempfile::tempdir().unwrap();
        let reserve = Reserve::of(folder.path());
        assert!(!reserve.is_kept() && !reserve.spend().unwrap());
        reserve.keep().unwrap();
        assert!(reserve.is_kept());
        fs::write(reserve.file(3), "cut").unwrap();
        assert!(!reserve.is_kept());
        reserve.keep().unwrap();
        assert!(reserve.is_kept() && reserve.spend().unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        fs::write(folder.path().join(Reserve::NAME), "in the way").unwrap();
        assert!(reserve.keep().is_err());
    }
}
