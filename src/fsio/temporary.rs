//! A large file on its way to its name: made beside it, renamed when whole, removed otherwise.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, flock};

use super::atomic::{TEMPORARY_PREFIX, sync_folder};
use super::failpoint::{Step, pass};

/// A file under a temporary name in the folder of its final one. Dropping it removes it.
///
/// It is locked as long as it lives, so that [`TemporaryFile::create`] can tell what a killed
/// process left behind from what another process is writing, and removes the former.
#[derive(Debug)]
pub struct TemporaryFile {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    committed: bool,
}

impl TemporaryFile {
    /// Makes the temporary file for `target`, readable and writable, and removes what killed
    /// processes left behind for the same target.
    ///
    /// # Errors
    ///
    /// When `target` has no file name, or its folder cannot be written.
    pub fn create(target: &Path) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = target.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename))?;
        let name = name.to_string_lossy();
        let folder = folder_of(target);
        remove_abandoned(folder, &name);
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let temporary = folder.join(format!("{TEMPORARY_PREFIX}{}.{count}-{name}", std::process::id()));
            let file = match OpenOptions::new().create_new(true).read(true).write(true).open(&temporary) {
                Ok(file) => file,
                // What an earlier process of the same number left, and could not be removed above.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            };
            // Not every file system knows locks; without them abandoned files stay, which is safe.
            let _ = flock(&file, FlockOperation::NonBlockingLockExclusive);
            // Another process may have taken it for abandoned just before it was locked.
            if file.metadata()?.nlink() > 0 {
                return Ok(Self { file, temporary, target: target.to_owned(), committed: false });
            }
        }
    }

    /// The file.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// The name it will have.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Makes the content durable, then gives it its final name, durably.
    ///
    /// # Errors
    ///
    /// When a step fails; nothing is then under the final name that was not there before.
    pub fn commit(mut self) -> io::Result<()> {
        pass(Step::SyncFile, &self.target)?;
        self.file.sync_all()?;
        pass(Step::Rename, &self.target)?;
        fs::rename(&self.temporary, &self.target)?;
        self.committed = true;
        sync_folder(folder_of(&self.target))
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if !self.committed {
            // It is of no use to anybody; that it cannot be removed changes nothing.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// Removes temporary files for `name` that nobody has locked. What fails is left alone: the
/// caller's own step will say what is wrong with the folder.
fn remove_abandoned(folder: &Path, name: &str) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let found = entry.file_name();
        let Some(rest) = found.to_str().and_then(|found| found.strip_prefix(TEMPORARY_PREFIX)) else {
            continue;
        };
        let is_ours = rest
            .split_once('-')
            .is_some_and(|(id, rest)| rest == name && id.bytes().all(|b| b.is_ascii_digit() || b == b'.'));
        if is_ours
            && entry.file_type().is_ok_and(|kind| kind.is_file())
            && let Ok(file) = File::open(entry.path())
            && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn whole_or_absent() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a.tar");
        let file = TemporaryFile::create(&target).unwrap();
        file.file().write_all(b"one").unwrap();
        drop(file);
        assert_eq!(names(folder.path()), Vec::<String>::new());
        let file = TemporaryFile::create(&target).unwrap();
        file.file().write_all(b"two").unwrap();
        file.commit().unwrap();
        assert_eq!(names(folder.path()), ["a.tar"]);
        assert_eq!(fs::read(&target).unwrap(), b"two");
    }

    #[test]
    fn only_what_nobody_writes_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a.tar");
        let abandoned = format!("{TEMPORARY_PREFIX}1.0-a.tar");
        let other = format!("{TEMPORARY_PREFIX}1.0-b.tar");
        for name in [&abandoned, &other] {
            fs::write(folder.path().join(name), b"x").unwrap();
        }
        let first = TemporaryFile::create(&target).unwrap();
        let second = TemporaryFile::create(&target).unwrap();
        let found = names(folder.path());
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(!found.contains(&abandoned) && found.contains(&other));
        drop((first, second));
        assert_eq!(names(folder.path()), [other]);
    }
}
