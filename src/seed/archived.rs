//! An archive as content: served where it lies, each blob hashed in full before any of it counts.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::content::{Content, Opened, Snapshot, Unproved, Witness};
use crate::archive::{ArchiveError, ArchiveFile, Members, Release};
use crate::model::{Digest, ReleaseName};
use crate::store::{Catalog, CatalogSource, Envelope};
use crate::trust::Verified;

/// Blobs that were hashed and found right, or wrong.
#[derive(Default)]
struct Known {
    good: Mutex<HashSet<Digest>>,
    bad: Mutex<HashSet<Digest>>,
}

fn insert(set: &Mutex<HashSet<Digest>>, digest: Digest) {
    set.lock().unwrap_or_else(PoisonError::into_inner).insert(digest);
}

fn holds(set: &Mutex<HashSet<Digest>>, digest: Digest) -> bool {
    set.lock().unwrap_or_else(PoisonError::into_inner).contains(&digest)
}

impl Witness for Known {
    fn good(&self, digest: Digest) {
        insert(&self.good, digest);
    }

    fn bad(&self, digest: Digest, _: Digest) {
        insert(&self.bad, digest);
    }
}

/// An archive that is served.
pub struct ArchiveContent {
    file: Arc<std::fs::File>,
    members: Members,
    snapshot: Arc<Snapshot>,
    known: Arc<Known>,
    name: ReleaseName,
    git: ArchivedGit,
}

/// Bare repositories that were made from the bundles of an archive.
pub struct ArchivedGit {
    /// The release's own.
    pub repository: PathBuf,
    /// Those of its submodules, by name.
    pub submodules: BTreeMap<ReleaseName, PathBuf>,
}

impl ArchiveContent {
    /// Serves the archive at `path`, whose head is `release`. `git` is what was made
    /// from its bundles.
    ///
    /// # Errors
    ///
    /// When the file is not the archive that the head belongs to.
    pub fn open(path: &Path, release: &Verified<Release>, git: ArchivedGit) -> Result<Self, ArchiveError> {
        let (archive, head) = ArchiveFile::open(path)?;
        // The file may have been exchanged since its head was verified.
        if head.digest() != release.digest {
            let why =
                format!("is `{}` now, and was `{}` when it was verified", head.digest(), release.digest);
            return Err(ArchiveError::Manifest { why });
        }
        let members = archive.members(release)?;
        let file = members.file().try_clone().map_err(|source| ArchiveError::Read {
            offset: 0,
            member: None,
            source,
        })?;
        let envelope = Envelope::of(&release.manifest, &release.document_bytes, &release.signatures);
        let source = CatalogSource { document: &release.document, envelope: Some(&envelope) };
        let catalog = Catalog::build(&[source]);
        Ok(Self {
            file: Arc::new(file),
            members,
            snapshot: Arc::new(Snapshot { catalog, active: Vec::new() }),
            known: Arc::default(),
            name: release.document.name.clone(),
            git,
        })
    }
}

impl Content for ArchiveContent {
    fn snapshot(&self) -> io::Result<Arc<Snapshot>> {
        Ok(Arc::clone(&self.snapshot))
    }

    fn open(&self, digest: Digest) -> io::Result<Opened> {
        let (offset, size) = self.members.range_of(digest).ok_or(io::ErrorKind::NotFound)?;
        if holds(&self.known.bad, digest) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("blob `{digest}` is damaged in the archive"),
            ));
        }
        let unproved = (!holds(&self.known.good, digest))
            .then(|| Unproved { digest, witness: Arc::clone(&self.known) as Arc<dyn Witness> });
        Ok(Opened { file: Arc::clone(&self.file), offset, size, unproved })
    }

    fn repository(&self, name: &ReleaseName) -> io::Result<PathBuf> {
        if *name == self.name {
            return Ok(self.git.repository.clone());
        }
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("the archive holds `{}`, not `{name}`", self.name),
        ))
    }

    fn submodule(&self, release: Option<&ReleaseName>, name: &ReleaseName) -> io::Result<PathBuf> {
        let found = self.git.submodules.get(name).filter(|_| release.is_none_or(|line| *line == self.name));
        found.cloned().ok_or_else(|| {
            let why = format!("the archive holds `{}`, and no submodule `{name}` of it", self.name);
            io::Error::new(io::ErrorKind::NotFound, why)
        })
    }
}
