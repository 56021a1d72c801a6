//! Opening a store, for reading and for writing.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Read as _};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::StoreError;
use crate::fsio::atomic::TEMPORARY_PREFIX;
use crate::fsio::{FolderLock, Reserve, Room, Step, limits, pass, sync_folder, write_atomic};

/// The format this crate writes, and the highest it reads.
pub const FORMAT: u64 = 1;
pub(super) const FORMAT_FILE: &str = "fleetpack-store.json";
pub(super) const FORMAT_BYTES: &[u8] = b"{\"format\":1}\n";
pub(super) const LAYOUT_BYTES: &[u8] = b"{\"imageLayoutVersion\":\"1.0.0\"}\n";
/// What a store that was cut while it was made may hold before its format file.
const OURS: &[&str] =
    &["lock", "blobs", "releases", "git", "oci-layout", "index.json", "lost+found", Reserve::NAME];

/// A store, to be read. What it says may change under the reader while another process writes, but
/// no file is ever seen half written.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

/// A store whose lock is held: the one that writes.
#[derive(Debug)]
pub struct StoreWriter {
    store: Store,
    lock: FolderLock,
}

impl Deref for StoreWriter {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

impl Store {
    /// Opens the store in `folder` for reading, without the lock.
    ///
    /// # Errors
    ///
    /// When there is none, or its format is not known.
    pub fn open_read_only(folder: &Path) -> Result<Self, StoreError> {
        match read_format(folder)? {
            Some(()) => Ok(Self { folder: folder.to_owned() }),
            None => match foreign(folder)? {
                Some(found) => Err(StoreError::NotAStore { path: folder.to_owned(), found }),
                None => Err(StoreError::Absent { path: folder.to_owned() }),
            },
        }
    }

    /// Opens the store in `folder` for writing, and makes it in an absent or empty one. Takes the
    /// lock (`purpose` tells others who holds it) and clears away what a cut left behind.
    ///
    /// # Errors
    ///
    /// When the folder is something else, another process holds the lock, or a file cannot be written.
    pub fn open_or_create(folder: &Path, purpose: &str) -> Result<StoreWriter, StoreError> {
        let there = read_format(folder)?.is_some();
        if !there {
            if let Some(found) = foreign(folder)? {
                return Err(StoreError::NotAStore { path: folder.to_owned(), found });
            }
            make_folder(folder)?;
        }
        let store = Self { folder: folder.to_owned() };
        let lock = FolderLock::take(folder, purpose)?;
        // Another process may have made it while this one waited at the door.
        if read_format(folder)?.is_none() {
            store.create()?;
        }
        let writer = StoreWriter { store, lock };
        writer.clear_leftovers()?;
        Ok(writer)
    }

    fn create(&self) -> Result<(), StoreError> {
        for name in ["blobs", "blobs/sha256", "releases", "git"] {
            make_folder(&self.folder.join(name))?;
        }
        // A process that was killed may have made the folder below and not come to this.
        let blobs = self.folder.join("blobs");
        sync_folder(&blobs).map_err(|source| StoreError::Io { what: "sync", path: blobs, source })?;
        let write = |name: &str, content: &[u8]| {
            let path = self.folder.join(name);
            write_atomic(&path, content).map_err(|source| StoreError::Io { what: "write", path, source })
        };
        write("oci-layout", LAYOUT_BYTES)?;
        self.write_index(&[])?;
        // Last: a store without this file is one that was never finished.
        write(FORMAT_FILE, FORMAT_BYTES)
    }

    /// The folder of the store.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn blobs_folder(&self) -> PathBuf {
        self.folder.join("blobs/sha256")
    }

    pub(super) fn releases_folder(&self) -> PathBuf {
        self.folder.join("releases")
    }
}

impl StoreWriter {
    /// The room that is kept aside in this store.
    #[must_use]
    pub fn reserve(&self) -> Reserve {
        Reserve::of(self.folder())
    }

    /// Gives the reserve back where little else is left: what is about to be written leads back to
    /// where the site was, or makes room.
    pub fn make_room(&self) {
        let is_short = |room: Room| room.bytes < Reserve::size() || room.files < Reserve::files();
        if Room::at(self.folder()).is_ok_and(is_short) {
            // Where it cannot be given back, the step that lacks it says so.
            let _ = self.reserve().spend();
        }
    }

    /// The lock, for what else wants proof that nobody else writes: the ledger.
    #[must_use]
    pub const fn lock(&self) -> &FolderLock {
        &self.lock
    }

    /// Removes temporary files whose writer is gone. This process holds the lock, so all of them
    /// are of no use, but for those of `serve`, which writes its one file without it.
    fn clear_leftovers(&self) -> Result<(), StoreError> {
        for folder in [self.folder().to_owned(), self.blobs_folder(), self.releases_folder()] {
            let io = |source| StoreError::Io { what: "read", path: folder.clone(), source };
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    make_folder(&folder)?;
                    continue;
                }
                Err(error) => return Err(io(error)),
            };
            for entry in entries {
                let entry = entry.map_err(io)?;
                let name = entry.file_name();
                let name = name.to_string_lossy();
                if name.starts_with(TEMPORARY_PREFIX) && !name.ends_with(super::endpoint::FILE) {
                    let path = entry.path();
                    pass(Step::Remove, &path)
                        .and_then(|()| fs::remove_file(&path))
                        .map_err(|source| StoreError::Io { what: "remove", path, source })?;
                }
            }
        }
        Ok(())
    }
}

/// Makes one folder durably, with those above it.
pub(super) fn make_folder(path: &Path) -> Result<(), StoreError> {
    let make = || -> io::Result<()> {
        let mut absent = Vec::new();
        let mut at = Some(path);
        while let Some(folder) = at.filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
            absent.push(folder);
            at = folder.parent();
        }
        for folder in absent.into_iter().rev() {
            pass(Step::MakeFolder, folder)?;
            match DirBuilder::new().create(folder) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
            sync_folder(parent.unwrap_or(Path::new(".")))?;
        }
        Ok(())
    };
    make().map_err(|source| StoreError::Io { what: "make", path: path.to_owned(), source })
}

/// Something in `folder` that no half-made store holds.
fn foreign(folder: &Path) -> Result<Option<String>, StoreError> {
    let io = |source| StoreError::Io { what: "read", path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    for entry in entries {
        let name = entry.map_err(io)?.file_name().to_string_lossy().into_owned();
        if !OURS.contains(&name.as_str()) && !name.starts_with(TEMPORARY_PREFIX) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

#[derive(Deserialize)]
struct Format {
    format: u64,
}

fn read_format(folder: &Path) -> Result<Option<()>, StoreError> {
    let path = folder.join(FORMAT_FILE);
    let Some(bytes) = read_small(&path, limits::CONFIG_FILE)? else { return Ok(None) };
    let damaged = |why: String| StoreError::Damaged { path: path.clone(), why };
    let format: Format = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    match format.format {
        FORMAT => Ok(Some(())),
        0 => Err(damaged(format!("format 0, wanted {FORMAT}"))),
        found => Err(StoreError::Newer { path: folder.to_owned(), found, wanted: FORMAT }),
    }
}

/// Reads a whole file of at most `limit` bytes; `None` where there is none.
pub(super) fn read_small(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let io = |source| StoreError::Io { what: "read", path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > limit {
        return Err(StoreError::Damaged { path: path.to_owned(), why: format!("longer than {limit} bytes") });
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ErrorClass;

    #[test]
    fn made_once_and_opened_by_one_writer_and_any_reader() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/store");
        assert!(matches!(Store::open_read_only(&path), Err(StoreError::Absent { .. })));
        assert!(!path.exists(), "reading makes nothing");
        let writer = Store::open_or_create(&path, "test").unwrap();
        Store::open_read_only(&path).unwrap();
        let error = Store::open_or_create(&path, "other").unwrap_err();
        assert_eq!(error.class(), ErrorClass::Locked);
        assert!(error.to_string().contains("(test, process"), "{error}");
        drop(writer);
        Store::open_or_create(&path, "other").unwrap();
    }

    #[test]
    fn a_folder_of_something_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.tex"), "x").unwrap();
        for error in [
            Store::open_or_create(folder.path(), "test").map(|_| ()).unwrap_err(),
            Store::open_read_only(folder.path()).map(|_| ()).unwrap_err(),
        ] {
            assert!(error.to_string().contains("holds `thesis.tex`"), "{error}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn other_formats_are_refused() {
        for (content, want) in [
            ("{\"format\":2}", "has format 2, wanted 1"),
            ("{\"format\":0}", "format 0"),
            ("", "is damaged"),
            ("[]", "is damaged"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(FORMAT_FILE), content).unwrap();
            let error = Store::open_or_create(folder.path(), "test").unwrap_err().to_string();
            assert!(error.contains(want), "{error}, wanted {want}");
            assert!(Store::open_read_only(folder.path()).is_err());
        }
    }

    #[test]
    fn a_making_that_was_cut_anywhere_is_finished() {
        let whole = tempfile::tempdir().unwrap();
        drop(Store::open_or_create(whole.path(), "test").unwrap());
        let parts = ["lock", "blobs", "blobs/sha256", "releases", "git", "oci-layout", "index.json"];
        for cut in 0..=parts.len() {
            let folder = tempfile::tempdir().unwrap();
            for part in &parts[..cut] {
                let from = whole.path().join(part);
                if from.is_dir() {
                    fs::create_dir(folder.path().join(part)).unwrap();
                } else {
                    fs::copy(from, folder.path().join(part)).unwrap();
                }
            }
            fs::write(folder.path().join(".fleetpack-tmp-1-index.json"), "{").unwrap();
            assert!(Store::open_read_only(folder.path()).is_err());
            drop(Store::open_or_create(folder.path(), "test").unwrap());
            Store::open_read_only(folder.path()).unwrap();
            assert!(!folder.path().join(".fleetpack-tmp-1-index.json").exists());
        }
    }

    #[test]
    fn leftovers_go_and_what_serve_is_writing_stays() {
        let folder = tempfile::tempdir().unwrap();
        drop(Store::open_or_create(folder.path(), "test").unwrap());
        let left = ["blobs/sha256/.fleetpack-tmp-7-1", "releases/.fleetpack-tmp-7-ab.json"];
        for name in left.iter().chain(&[".fleetpack-tmp-9-serve.json", "blobs/sha256/other"]) {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        Store::open_read_only(folder.path()).unwrap();
        assert!(folder.path().join(left[0]).exists(), "a reader removes nothing");
        drop(Store::open_or_create(folder.path(), "test").unwrap());
        assert!(left.iter().all(|name| !folder.path().join(name).exists()));
        assert!(folder.path().join(".fleetpack-tmp-9-serve.json").exists());
        assert!(folder.path().join("blobs/sha256/other").exists());
    }
}
