//! One writer a folder.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// An exclusive advisory lock on a folder, held as long as the value lives. The kernel drops it
/// with the process, so a cut never leaves a stale one.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

/// Why the lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("`{}` is held by another fleetpack{}", path.display(), holder.as_ref().map(|text| format!(" ({text})")).unwrap_or_default())]
    Held {
        /// The lock file.
        path: PathBuf,
        /// What the holder wrote about itself.
        holder: Option<String>,
    },
    /// The file could not be opened or locked.
    #[error("cannot lock `{}`", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl FolderLock {
    /// Takes the lock of `folder` (file `lock` in it) without waiting; `purpose` tells others who holds it.
    ///
    /// # Errors
    ///
    /// [`LockError::Held`] when another process has it.
    pub fn take(folder: &Path, purpose: &str) -> Result<Self, LockError> {
        let path = folder.join("lock");
        let io = |source| LockError::Io { path: path.clone(), source };
        let mut file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path).map_err(io)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                let holder =
                    (&file).take(200).read_to_string(&mut holder).ok().map(|_| holder.trim().to_owned());
                return Err(LockError::Held { path, holder: holder.filter(|text| !text.is_empty()) });
            }
            Err(error) => return Err(io(error.into())),
        }
        file.set_len(0).map_err(io)?;
        file.rewind().map_err(io)?;
        writeln!(file, "{purpose}, process {}", std::process::id()).map_err(io)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_taker_learns_who_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let first = FolderLock::take(folder.path(), "apply").unwrap();
        let message = FolderLock::take(folder.path(), "gc").unwrap_err().to_string();
        assert!(message.contains("held by another fleetpack (apply, process"), "{message}");
        drop(first);
        FolderLock::take(folder.path(), "gc").unwrap();
    }
}
