//! Files that are whole or absent, whatever happens in between.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use super::failpoint::{Step, pass};

/// Prefix of every temporary name; whoever finds one with no writer may delete it.
pub const TEMPORARY_PREFIX: &str = ".fleetpack-tmp-";

/// Makes the entries of `folder` durable.
///
/// # Errors
///
/// When the folder cannot be opened or synced.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    let folder_file = File::open(folder)?;
    pass(Step::SyncFolder, folder)?;
    folder_file.sync_all()
}

/// Writes `bytes` to `path`: temporary name in the same folder, fsync, rename, fsync of the folder.
/// Readers see the old content or the new one, never a mixture; a cut leaves at most a temporary
/// file behind.
///
/// # Errors
///
/// When a step fails; the old content is then still there.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename))?;
    let temporary =
        folder.join(format!("{TEMPORARY_PREFIX}{}-{}", std::process::id(), name.to_string_lossy()));
    let write = || {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(&temporary)?;
        file.write_all(bytes)?;
        pass(Step::SyncFile, path)?;
        file.sync_all()?;
        pass(Step::Rename, path)?;
        fs::rename(&temporary, path)?;
        sync_folder(folder)
    };
    write().inspect_err(|_| {
        // The temporary file is of no use to anybody; that it cannot be removed changes nothing.
        let _ = fs::remove_file(&temporary);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_and_leaves_nothing_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(write_atomic(&folder.path().join("no/such/folder"), b"x").is_err());
    }
}
