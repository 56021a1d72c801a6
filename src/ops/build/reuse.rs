//! Blobs that an earlier archive or a store on this machine holds: taken from there, hashed on the
//! way, instead of from a registry.
//!
//! Nothing that is read here is believed: which blobs the release has, and their digests, the
//! registries and the lock file say. So no signature is asked for. Stores are read without their
//! lock: an `apply` beside this build is not held up.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::archive::{ArchiveError, ArchiveFile, Members, Placement};
use crate::model::{BlobEntry, Progress, chain};
use crate::ops::{Error, Result};
use crate::store::Store;

/// Everything that blobs may be taken from, in the order in which it was given.
pub(super) struct Reuse {
    shelves: Vec<Shelf>,
}

struct Shelf {
    name: String,
    content: Content,
}

enum Content {
    Archive(Members),
    Store(Store),
}

impl Reuse {
    /// Opens archives, and stores by their folders.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        let shelves = paths.iter().map(|path| Shelf::open(path)).collect::<Result<_>>()?;
        Ok(Self { shelves })
    }

    /// Whether the blob may be had here.
    pub fn holds(&self, blob: &BlobEntry) -> bool {
        self.shelves.iter().any(|shelf| shelf.holds(blob))
    }

    /// Fills the place of `blob`. `false` when none of them has it whole: each that has it damaged
    /// is named in a warning, and the place is as it was.
    pub fn fill(&self, blob: &BlobEntry, placement: &mut Placement, progress: &dyn Progress) -> Result<bool> {
        for shelf in self.shelves.iter().filter(|shelf| shelf.holds(blob)) {
            match shelf.take(blob, placement) {
                Ok(()) => return Ok(true),
                Err(error @ Error::Format(ArchiveError::File { .. })) => return Err(error),
                Err(error) => progress.warn(format!(
                    "cannot reuse blob `{}` from `{}`, so it is fetched: {}",
                    blob.digest,
                    shelf.name,
                    chain(&error)
                )),
            }
        }
        Ok(false)
    }
}

impl Shelf {
    fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        if path.is_dir() {
            return Ok(Self { name, content: Content::Store(Store::open_read_only(path)?) });
        }
        let open = || {
            let (file, head) = ArchiveFile::open(path)?;
            let release = head.parse()?;
            Ok::<_, Error>(file.members(&release)?)
        };
        let members = open().map_err(|error| error.in_archive(&name))?;
        Ok(Self { name, content: Content::Archive(members) })
    }

    fn holds(&self, blob: &BlobEntry) -> bool {
        match &self.content {
            Content::Archive(members) => {
                members.range_of(blob.digest).is_some_and(|(_, size)| size == blob.size)
            }
            Content::Store(store) => store.has(blob),
        }
    }

    fn take(&self, blob: &BlobEntry, placement: &mut Placement) -> Result<()> {
        match &self.content {
            Content::Archive(members) => {
                let (offset, _) = members.range_of(blob.digest).unwrap_or_default();
                Ok(placement.adopt(members.file(), offset)?)
            }
            // A blob that is collected in the meantime stays readable through the open file.
            Content::Store(store) => {
                let (file, _): (File, u64) = store.open_blob(blob.digest)?;
                Ok(placement.adopt(&file, 0)?)
            }
        }
    }
}
