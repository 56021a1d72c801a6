//! Whether the store still holds what came in: every blob is hashed again, and what is damaged is
//! moved aside, where nothing is ever served from.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use rustix::fs::{Advice, fadvise};

use super::error::StoreError;
use super::open::{FORMAT_BYTES, FORMAT_FILE, LAYOUT_BYTES, Store, StoreWriter, make_folder};
use crate::fsio::{Hasher, Step, pass, sync_folder, write_atomic};
use crate::model::{Digest, Event, Progress};

/// Name of the folder for what is damaged.
pub(super) const QUARANTINE: &str = "quarantine";
/// Bytes that a thread reads at once.
const BUFFER: usize = 1 << 20;

/// What hashing every blob again has found.
#[derive(Debug, Default)]
pub struct Hashed {
    /// Blobs that were hashed.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that are not what their names say, sorted by digest.
    pub damaged: Vec<DamagedBlob>,
}

/// A blob that is not what its name says; it lies in the quarantine now.
#[derive(Debug, Clone)]
pub struct DamagedBlob {
    /// What it is called.
    pub digest: Digest,
    /// What was found.
    pub why: String,
    /// Where it was moved to.
    pub moved_to: PathBuf,
}

/// A small file that had to be written anew.
#[derive(Debug, Clone)]
pub struct RewrittenFile {
    /// Its path in the store.
    pub name: &'static str,
    /// What was found.
    pub why: String,
    /// Where the old one was moved to; none where there was none.
    pub moved_to: Option<PathBuf>,
}

impl StoreWriter {
    /// Moves a damaged file or folder of the store aside, durably, and says where to.
    ///
    /// # Errors
    ///
    /// When it cannot be moved.
    pub fn quarantine(&self, path: &Path) -> Result<PathBuf, StoreError> {
        let folder = self.folder().join(QUARANTINE);
        make_folder(&folder)?;
        let inside = path.strip_prefix(self.folder()).unwrap_or(path);
        let target = self.quarantine_place(&inside.to_string_lossy());
        let io = |source| StoreError::Io { what: "move aside", path: path.to_owned(), source };
        pass(Step::Rename, path).and_then(|()| fs::rename(path, &target)).map_err(io)?;
        // The new name first: a cut leaves the file under one name at least.
        sync_folder(&folder).map_err(io)?;
        sync_folder(path.parent().unwrap_or_else(|| self.folder())).map_err(io)?;
        Ok(target)
    }

    /// A name in the quarantine that nothing has, for what is called `name` in the store.
    #[must_use]
    pub fn quarantine_place(&self, name: &str) -> PathBuf {
        let folder = self.folder().join(QUARANTINE);
        let name = name.replace('/', ".");
        let mut target = folder.join(&name);
        let mut number = 1_u32;
        while fs::symlink_metadata(&target).is_ok() {
            number += 1;
            target = folder.join(format!("{name}.{number}"));
        }
        target
    }

    /// Hashes every blob on all cores and moves aside what is damaged, each as soon as it is found.
    /// Memory does not depend on what there is to hash. Bytes are asked of the disk: what the
    /// kernel remembers of a file says nothing about it.
    ///
    /// # Errors
    ///
    /// When the folder of blobs cannot be read, or a damaged blob cannot be moved.
    pub fn rehash(&self, progress: &dyn Progress) -> Result<Hashed, StoreError> {
        let mut files: Vec<(Digest, u64)> = self.blob_names()?;
        // The largest first, so that no core is left alone with one at the end.
        files.sort_by_key(|(digest, size)| (std::cmp::Reverse(*size), *digest));
        let total = files.iter().fold(0_u64, |sum, (_, size)| sum.saturating_add(*size));
        progress.event(Event::Start { title: format!("hashing {} blobs", files.len()), bytes: Some(total) });
        let next = AtomicUsize::new(0);
        let (blobs, bytes, stopped) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        let damaged = Mutex::new(Vec::new());
        let failed = Mutex::new(None);
        let work = || {
            let mut buffer = vec![0; BUFFER];
            while !stopped.load(Ordering::Relaxed) {
                let Some((digest, size)) = files.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
                let found = self.check_blob(*digest, &mut buffer, progress).and_then(|why| {
                    let Some(why) = why else { return Ok(()) };
                    let moved_to = self.quarantine(&self.blob_path(*digest))?;
                    let bad = DamagedBlob { digest: *digest, why, moved_to };
                    damaged.lock().unwrap_or_else(PoisonError::into_inner).push(bad);
                    Ok(())
                });
                if let Err(error) = found {
                    stopped.store(true, Ordering::Relaxed);
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
                blobs.fetch_add(1, Ordering::Relaxed);
                bytes.fetch_add(*size, Ordering::Relaxed);
            }
        };
        let cores = thread::available_parallelism().map_or(1, usize::from).clamp(1, 16);
        thread::scope(|scope| {
            for _ in 0..cores.min(files.len()) {
                scope.spawn(work);
            }
        });
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        progress.event(Event::Finish { summary: String::new() });
        let mut damaged = damaged.into_inner().unwrap_or_else(PoisonError::into_inner);
        damaged.sort_by_key(|bad: &DamagedBlob| bad.digest);
        Ok(Hashed { blobs: blobs.into_inner(), bytes: bytes.into_inner(), damaged })
    }

    /// Hashes one blob; says what is wrong with it.
    fn check_blob(
        &self,
        digest: Digest,
        buffer: &mut [u8],
        progress: &dyn Progress,
    ) -> Result<Option<String>, StoreError> {
        let path = self.blob_path(digest);
        let fatal = |source| StoreError::Io { what: "read", path: path.clone(), source };
        match fs::symlink_metadata(&path) {
            Ok(metadata) if !metadata.is_file() => return Ok(Some("it is no regular file".to_owned())),
            Ok(_) => {}
            Err(error) => return Err(fatal(error)),
        }
        let mut hasher = Hasher::new();
        let mut hash = || {
            let mut file = File::open(&path)?;
            // Advice: pages that are clean are given up and read from the disk again.
            let _ = fadvise(&file, 0, None, Advice::DontNeed);
            let _ = fadvise(&file, 0, None, Advice::Sequential);
            loop {
                match file.read(buffer) {
                    Ok(0) => return Ok(()),
                    Ok(count) => {
                        hasher.update(&buffer[..count]);
                        progress.event(Event::Advance(count as u64));
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        };
        match hash() {
            Ok(()) => {}
            // Not the disk's fault: somebody else's file.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return Err(fatal(error)),
            Err(error) => {
                let at = hasher.length();
                return Ok(Some(format!("it cannot be read from byte {at} on: {error}")));
            }
        }
        let size = hasher.length();
        let found = hasher.finish();
        Ok((found != digest).then(|| format!("its {size} bytes have the digest `{found}`")))
    }

    /// Every entry of the folder of blobs that is called like one, with its size.
    fn blob_names(&self) -> Result<Vec<(Digest, u64)>, StoreError> {
        let folder = self.blobs_folder();
        let io = |source| StoreError::Io { what: "read", path: folder.clone(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder).map_err(io)? {
            let entry = entry.map_err(io)?;
            if let Some(digest) = entry.file_name().to_str().and_then(|name| Digest::from_hex(name).ok()) {
                names.push((digest, entry.metadata().map_err(io)?.len()));
            }
        }
        Ok(names)
    }

    /// Holds the files that are the same in every store against what they must be, and writes those
    /// anew that are not.
    ///
    /// # Errors
    ///
    /// When one cannot be written.
    pub fn check_fixed_files(&self) -> Result<Vec<RewrittenFile>, StoreError> {
        let mut rewritten = Vec::new();
        for (name, wanted, exact) in [("oci-layout", LAYOUT_BYTES, true), (FORMAT_FILE, FORMAT_BYTES, false)]
        {
            let path = self.folder().join(name);
            let why = match fs::read(&path) {
                Ok(found) if found == wanted => continue,
                // It was read when the store was opened; how it is written is of no account.
                Ok(_) if !exact => continue,
                Ok(_) => "it is not what every store has there".to_owned(),
                Err(error) => error.to_string(),
            };
            rewritten.push(self.rewrite(name, wanted, why)?);
        }
        Ok(rewritten)
    }

    /// Moves a file of the store aside, where it is there, and writes it anew.
    pub(super) fn rewrite(
        &self,
        name: &'static str,
        bytes: &[u8],
        why: String,
    ) -> Result<RewrittenFile, StoreError> {
        let path = self.folder().join(name);
        let moved_to = if fs::symlink_metadata(&path).is_ok() { Some(self.quarantine(&path)?) } else { None };
        write_atomic(&path, bytes).map_err(|source| StoreError::Io { what: "write", path, source })?;
        Ok(RewrittenFile { name, why, moved_to })
    }

    /// Moves `serve.json` aside when it cannot be read: the next `serve` writes it anew.
    ///
    /// # Errors
    ///
    /// When it cannot be moved.
    pub fn check_endpoint_file(&self) -> Result<Option<RewrittenFile>, StoreError> {
        let Err(error) = self.endpoint() else { return Ok(None) };
        let name = super::endpoint::FILE;
        let moved_to = self.quarantine(&self.folder().join(name))?;
        Ok(Some(RewrittenFile { name, why: error.to_string(), moved_to: Some(moved_to) }))
    }

    /// Names of blobs among `wanted` that are there.
    #[must_use]
    pub fn present(&self, wanted: impl IntoIterator<Item = Digest>) -> HashSet<Digest> {
        wanted.into_iter().filter(|digest| self.blob_path(*digest).is_file()).collect()
    }

    /// Removes what lies in the quarantine, durably.
    ///
    /// # Errors
    ///
    /// When a file cannot be removed.
    pub fn empty_quarantine(&self) -> Result<(), StoreError> {
        let folder = self.folder().join(QUARANTINE);
        if !folder.is_dir() {
            return Ok(());
        }
        let remove = || {
            pass(Step::Remove, &folder)?;
            fs::remove_dir_all(&folder)?;
            sync_folder(self.folder())
        };
        remove().map_err(|source| StoreError::Io { what: "remove", path: folder.clone(), source })
    }
}

impl Store {
    /// What lies in the quarantine: how many files, and their bytes.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn quarantined(&self) -> Result<(u64, u64), StoreError> {
        let folder = self.folder().join(QUARANTINE);
        let io = |source| StoreError::Io { what: "read", path: folder.clone(), source };
        measure(&folder).map_err(io)
    }
}

/// Files below `folder` and their bytes, each once whatever its names; nothing where it is not there.
pub(super) fn measure(folder: &Path) -> io::Result<(u64, u64)> {
    let (mut files, mut bytes) = (0, 0_u64);
    let mut seen = HashSet::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            if metadata.is_dir() {
                open.push(entry.path());
            } else if seen.insert((metadata.dev(), metadata.ino())) {
                files += 1;
                bytes = bytes.saturating_add(metadata.len());
            }
        }
    }
    Ok((files, bytes))
}
