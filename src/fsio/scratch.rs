//! A private folder for the life of a process. One that a killed process left behind is removed by
//! the next that makes one of its kind.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use super::lock::{FolderLock, LockError};

/// A folder of one's own below the temporary folder, locked as long as it lives and removed with it.
#[derive(Debug)]
pub struct ScratchFolder {
    folder: tempfile::TempDir,
    /// Goes after the folder: until then nobody else takes it for left behind.
    _lock: FolderLock,
}

impl ScratchFolder {
    /// Makes one in `parent` whose name begins with `prefix`, and removes those of that kind whose
    /// process is gone. What cannot be removed stays.
    ///
    /// # Errors
    ///
    /// When the folder cannot be made.
    pub fn create(parent: &Path, prefix: &str) -> io::Result<Self> {
        remove_abandoned(parent, prefix);
        let folder = private(prefix).tempdir_in(parent)?;
        let lock = FolderLock::take(folder.path(), "scratch").map_err(|error| match error {
            LockError::Io { source, .. } => source,
            held @ LockError::Held { .. } => io::Error::other(held),
        })?;
        Ok(Self { folder, _lock: lock })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Makes folders that nobody else may enter.
fn private(prefix: &str) -> tempfile::Builder<'_, '_> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix).permissions(fs::Permissions::from_mode(0o700));
    builder
}

/// Removes folders that nobody has locked. Others may write into the temporary folder as well: only
/// a folder that belongs to this user and that nobody else may enter is looked into.
fn remove_abandoned(parent: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if !entry.file_name().to_string_lossy().starts_with(prefix) {
            continue;
        }
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        // The last six bits of the mode are the rights of everybody else.
        let own = found.is_dir()
            && found.uid() == rustix::process::geteuid().as_raw()
            && found.mode().trailing_zeros() >= 6;
        // Without its file it was made a moment ago and is about to be locked.
        let was_locked = || fs::symlink_metadata(path.join("lock")).is_ok_and(|lock| lock.is_file());
        if own && was_locked() && FolderLock::take(&path, "cleaning").is_ok() {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_is_removed_and_what_another_holds_stays() {
        let parent = tempfile::tempdir().unwrap();
        let first = ScratchFolder::create(parent.path(), "x-serve-").unwrap();
        // What a process that was killed leaves: a folder with a lock that nobody holds.
        let left = private("x-serve-").tempdir_in(parent.path()).unwrap().keep();
        drop(FolderLock::take(&left, "killed").unwrap());
        fs::write(left.join("pack"), "x").unwrap();
        let unlocked = private("x-serve-").tempdir_in(parent.path()).unwrap();
        let other = private("x-other-").tempdir_in(parent.path()).unwrap();
        drop(FolderLock::take(other.path(), "x").unwrap());
        let mut second = ScratchFolder::create(parent.path(), "x-serve-").unwrap();
        // A program that another test starts just now may hold the lock for a moment longer.
        for _ in 0..1000 {
            if !left.exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
            second = ScratchFolder::create(parent.path(), "x-serve-").unwrap();
        }
        assert!(!left.exists());
        assert!(
            [first.path(), second.path(), unlocked.path(), other.path()].iter().all(|path| path.is_dir())
        );
        drop(first);
        assert!(second.path().is_dir());
    }
}
