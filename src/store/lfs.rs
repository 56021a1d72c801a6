//! Which objects of Git LFS belong to which release line. Pure: made from release documents.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::model::{BlobEntry, Digest, ReleaseDocument, ReleaseName};

/// The objects of all release lines.
#[derive(Debug, Clone, Default)]
pub struct LfsCatalog {
    lines: BTreeMap<ReleaseName, LfsLine>,
}

/// What the kept releases of one line list.
#[derive(Debug, Clone, Default)]
pub struct LfsLine {
    submodules: BTreeSet<ReleaseName>,
    objects: HashMap<Digest, BlobEntry>,
}

impl LfsCatalog {
    /// Adds what one release lists.
    pub(super) fn add(&mut self, document: &ReleaseDocument) {
        let line = self.lines.entry(document.name.clone()).or_default();
        line.submodules.extend(document.git.submodules.iter().map(|submodule| submodule.name.clone()));
        let listed: BTreeSet<Digest> = document.git.lfs.iter().map(|object| object.digest).collect();
        let blobs = document.blobs.iter().filter(|blob| listed.contains(&blob.digest));
        line.objects.extend(blobs.map(|blob| (blob.digest, blob.clone())));
    }

    /// The release line of this name.
    #[must_use]
    pub fn line(&self, name: &ReleaseName) -> Option<&LfsLine> {
        self.lines.get(name)
    }

    /// The release lines that have a submodule of this name, sorted by their own.
    #[must_use]
    pub fn with_submodule(&self, name: &ReleaseName) -> Vec<&LfsLine> {
        self.lines.values().filter(|line| line.has_submodule(name)).collect()
    }
}

impl LfsLine {
    /// Whether a release of the line has a submodule of this name.
    #[must_use]
    pub fn has_submodule(&self, name: &ReleaseName) -> bool {
        self.submodules.contains(name)
    }

    /// The blob of an object that a release of the line lists, for its own repository or for one of its
    /// submodules.
    #[must_use]
    pub fn object(&self, digest: Digest) -> Option<&BlobEntry> {
        self.objects.get(&digest)
    }
}
