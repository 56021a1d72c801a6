//! A revision's whole history as a git bundle (gitformat-bundle, version 2; gitformat-pack).
//!
//! The pack is canonical: which objects, in which order, what is a delta of what, and how it is
//! deflated follow from the objects alone, never from how the clone at hand is packed. So one
//! commit gives the same bytes on any machine (with one version of this program).
//!
//! Objects stand in the order of [`Closure`]; `pack` makes the entries of them.

use std::io::{self, Write};
use std::sync::Arc;

use gix::ObjectId;
use gix::objs::Kind;
use gix_pack::data::entry::Header;

use super::pack::{self, CHUNK, Packed};
use super::{GitError, Repository, Revision, to_oid};
use crate::fsio::{Hasher, limits};
use crate::model::{BundleHeader, Digest};
use crate::store::git::walk::{self, Closure};

/// What a bundle will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// Digest of all its bytes.
    pub digest: Digest,
    /// Number of its bytes.
    pub size: u64,
}

/// A bundle that can be written any number of times, to the same bytes.
pub struct BundlePlan {
    repository: Repository,
    header: Vec<u8>,
    objects: Arc<Vec<(ObjectId, Kind)>>,
    kept: Option<Vec<u8>>,
    measured: Option<Measured>,
    /// What each object's base was when the bundle was measured: found once, used again.
    bases: Vec<u16>,
}

impl Repository {
    /// Lists the whole history of the revision's references: what their bundle must hold.
    ///
    /// # Errors
    ///
    /// When an object is missing (a partial clone) or malformed.
    pub fn bundle(&self, revision: &Revision) -> Result<BundlePlan, GitError> {
        let header = BundleHeader {
            refs: revision.refs.iter().map(|r| (r.name.clone(), r.target.clone())).collect(),
            head: Some(revision.commit.clone()),
        };
        let mut tips = Vec::new();
        for (_, oid) in &header.refs {
            tips.push(to_oid(oid)?);
        }
        let Closure { commits, tags, trees, blobs } =
            walk::closure(&mut self.objects(), &tips).map_err(|source| self.walk_error(source))?;
        let objects = [(commits, Kind::Commit), (tags, Kind::Tag), (trees, Kind::Tree), (blobs, Kind::Blob)]
            .into_iter()
            .flat_map(|(oids, kind)| oids.into_iter().map(move |oid| (oid, kind)))
            .collect();
        Ok(BundlePlan {
            repository: self.clone(),
            header: header.to_bytes(),
            objects: Arc::new(objects),
            kept: None,
            measured: None,
            bases: Vec::new(),
        })
    }
}

impl BundlePlan {
    /// Number of objects in the pack.
    #[must_use]
    pub fn objects(&self) -> usize {
        self.objects.len()
    }

    /// Makes the bundle to learn its digest and size. One of up to
    /// [`limits::GIT_BUNDLE_IN_MEMORY`] bytes is kept, so that writing it costs nothing more.
    ///
    /// # Errors
    ///
    /// When an object cannot be read.
    pub fn measure(&mut self) -> Result<Measured, GitError> {
        if let Some(measured) = self.measured {
            return Ok(measured);
        }
        let mut meter = Meter { hasher: Hasher::new(), kept: Some(Vec::new()) };
        let mut bases = Vec::with_capacity(self.objects.len());
        self.generate(&mut meter, None, |packed| bases.push(packed.base))?;
        self.bases = bases;
        let measured = Measured { size: meter.hasher.length(), digest: meter.hasher.finish() };
        self.kept = meter.kept;
        self.measured = Some(measured);
        Ok(measured)
    }

    /// Writes the bundle. The caller hashes what it writes and compares with [`Self::measure`].
    ///
    /// # Errors
    ///
    /// When an object cannot be read, or `out` does not take the bytes.
    pub fn write_to(&self, out: &mut impl Write) -> Result<(), GitError> {
        if let Some(bytes) = &self.kept {
            return out.write_all(bytes).map_err(GitError::Write);
        }
        let known = (self.bases.len() == self.objects.len()).then_some(self.bases.as_slice());
        self.generate(out, known, |_| ())
    }

    fn generate(
        &self,
        out: &mut impl Write,
        known: Option<&[u16]>,
        mut tell: impl FnMut(&Packed),
    ) -> Result<(), GitError> {
        out.write_all(&self.header).map_err(GitError::Write)?;
        let count = u32::try_from(self.objects.len())
            .map_err(|_| self.repository.walk_error(walk::WalkError::TooMany))?;
        let hash = gix::hash::hasher(gix::hash::Kind::Sha1);
        let mut pack = PackWriter { out, hash, offset: 0, chunk: Vec::with_capacity(CHUNK) };
        pack.write(&gix_pack::data::header::encode(gix_pack::data::Version::V2, count))?;
        pack::entries(&self.repository, &self.objects, known, |packed| {
            tell(&packed);
            pack.entry(&packed)
        })?;
        pack.finish()
    }
}

/// Counts and hashes; keeps the bytes as long as they are few.
struct Meter {
    hasher: Hasher,
    kept: Option<Vec<u8>>,
}

impl Write for Meter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        if self.hasher.length() > limits::GIT_BUNDLE_IN_MEMORY {
            self.kept = None;
        } else if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct PackWriter<'a, W> {
    out: &'a mut W,
    hash: gix::hash::Hasher,
    offset: u64,
    /// Where the entries of the chunk begin.
    chunk: Vec<u64>,
}

impl<W: Write> PackWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), GitError> {
        self.hash.update(bytes);
        self.offset += bytes.len() as u64;
        self.out.write_all(bytes).map_err(GitError::Write)
    }

    /// Writes the next entry.
    fn entry(&mut self, packed: &Packed) -> Result<(), GitError> {
        if self.chunk.len() == CHUNK {
            self.chunk.clear();
        }
        let base = self.chunk.len().checked_sub(usize::from(packed.base)).and_then(|at| self.chunk.get(at));
        let header = match base {
            Some(base) => Header::OfsDelta { base_distance: self.offset - base },
            None => match packed.kind {
                Kind::Commit => Header::Commit,
                Kind::Tree => Header::Tree,
                Kind::Blob => Header::Blob,
                Kind::Tag => Header::Tag,
            },
        };
        self.chunk.push(self.offset);
        let mut bytes = Vec::with_capacity(32);
        header.write_to(packed.size, &mut bytes).map_err(GitError::Write)?;
        self.write(&bytes)?;
        self.write(&packed.deflated)
    }

    fn finish(mut self) -> Result<(), GitError> {
        let hash = std::mem::replace(&mut self.hash, gix::hash::hasher(gix::hash::Kind::Sha1));
        let trailer = hash
            .try_finalize()
            .map_err(|error| GitError::Hash { what: "the pack".to_owned(), why: error.to_string() })?;
        self.out.write_all(trailer.as_slice()).map_err(GitError::Write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_meter_lets_go_of_large_bundles() {
        let mut meter = Meter { hasher: Hasher::new(), kept: Some(Vec::new()) };
        let piece = vec![0; 1 << 20];
        for _ in 0..limits::GIT_BUNDLE_IN_MEMORY >> 20 {
            meter.write_all(&piece).unwrap();
        }
        assert_eq!(
            meter.kept.as_ref().unwrap().len(),
            usize::try_from(limits::GIT_BUNDLE_IN_MEMORY).unwrap()
        );
        meter.write_all(&[0]).unwrap();
        assert!(meter.kept.is_none());
    }
}
