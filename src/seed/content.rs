//! What is served: a catalog that says what there is, and where each blob's bytes lie.
//!
//! The registry and the Git server know no store and no archive, only this trait. A blob is a
//! stretch of a file, so that it can be read at any offset by many at once, and handed to the
//! kernel whole once a transport can do that.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::fsio::Hasher;
use crate::model::{Digest, ReleaseName};
use crate::store::Catalog;

/// One state of the content; a request uses one from its first look to its last.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// What there is.
    pub catalog: Catalog,
    /// The releases that run, by the ledger.
    pub active: Vec<Active>,
}

/// A release that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Active {
    /// Its line.
    pub name: ReleaseName,
    /// Its version.
    pub version: String,
    /// Its digest.
    pub digest: Digest,
}

/// Something that can be served.
pub trait Content: Send + Sync {
    /// The content as it is now. Cheap when nothing changed since the call before.
    ///
    /// # Errors
    ///
    /// When the content cannot be read.
    fn snapshot(&self) -> io::Result<Arc<Snapshot>>;

    /// Opens a blob.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] when the blob is not there; another when it cannot be read.
    fn open(&self, digest: Digest) -> io::Result<Opened>;

    /// The bare repository of a release line, resolved to the generation in use, so that a switch
    /// during a request changes nothing for that request.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] when there is none; the message says why when there is more to say.
    fn repository(&self, name: &ReleaseName) -> io::Result<PathBuf>;

    /// The bare repository of a submodule, resolved in the same way: that of the release line
    /// `release`, or of the only one that has a submodule of this name.
    ///
    /// # Errors
    ///
    /// As [`Content::repository`].
    fn submodule(&self, release: Option<&ReleaseName>, name: &ReleaseName) -> io::Result<PathBuf>;
}

/// Takes note of blobs whose bytes were found to be what their digest says.
pub trait Witness: Send + Sync {
    /// The whole of `digest` was read and is right.
    fn good(&self, digest: Digest);
    /// The whole of `digest` was read and has digest `found`.
    fn bad(&self, digest: Digest, found: Digest);
}

/// One blob, open.
#[derive(Clone)]
pub struct Opened {
    /// The file that holds it.
    pub file: Arc<File>,
    /// Where in the file it begins.
    pub offset: u64,
    /// How long it is.
    pub size: u64,
    /// Absent when the bytes were checked before (as they went into the store). Otherwise none
    /// of the blob may count as delivered before the whole of it was hashed.
    pub unproved: Option<Unproved>,
}

/// A blob whose bytes nobody has hashed yet.
#[derive(Clone)]
pub struct Unproved {
    /// What the bytes must hash to.
    pub digest: Digest,
    /// Who wants to know the outcome.
    pub witness: Arc<dyn Witness>,
}

impl Unproved {
    /// Settles the question with the hash of all bytes.
    ///
    /// # Errors
    ///
    /// When they hash to something else.
    pub fn settle(&self, hasher: Hasher) -> io::Result<()> {
        let found = hasher.finish();
        if found == self.digest {
            self.witness.good(self.digest);
            return Ok(());
        }
        self.witness.bad(self.digest, found);
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("blob has digest `{found}`, wanted `{}`", self.digest),
        ))
    }
}

/// How much is read at once: large enough that a switch of threads does not count, small enough
/// that a few hundred connections fit into memory.
pub const CHUNK: usize = 512 << 10;

impl Opened {
    /// Reads `length` bytes at `at` from the blob's start. Blocking.
    ///
    /// # Errors
    ///
    /// When the file ends early or cannot be read.
    pub fn read_at(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        let base = self.offset.checked_add(at).ok_or(io::ErrorKind::InvalidInput)?;
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let from = base.checked_add(bytes.len() as u64).ok_or(io::ErrorKind::InvalidInput)?;
            match rustix::io::pread(&*self.file, rustix::buffer::spare_capacity(&mut bytes), from) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // The allocator may have given more room than was asked for.
        bytes.truncate(length);
        Ok(bytes)
    }

    /// Reads up to `length` bytes at `at` from the blob's start if that takes no waiting for a disk;
    /// never fewer than all of them.
    #[must_use]
    pub fn read_cached(&self, at: u64, length: usize) -> Option<Vec<u8>> {
        let base = self.offset.checked_add(at)?;
        let mut bytes = vec![0; length];
        let flags = rustix::io::ReadWriteFlags::NOWAIT;
        let slices = &mut [io::IoSliceMut::new(&mut bytes)];
        let read = rustix::io::preadv2(&*self.file, slices, base, flags).ok()?;
        (read == length).then_some(bytes)
    }

    /// Whether reading that stretch takes no waiting for a disk, as far as samples of it say.
    #[must_use]
    pub fn is_cached(&self, at: u64, length: usize) -> bool {
        self.samples(at, length).all(|at| self.read_cached(at, 1).is_some())
    }

    /// Waits until that stretch is in the page cache. Blocking.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn cache(&self, at: u64, length: usize) -> io::Result<()> {
        let base = self.offset.checked_add(at).ok_or(io::ErrorKind::InvalidInput)?;
        // Only advice: where it is not taken, the samples bring in what they can.
        let advice = rustix::fs::Advice::WillNeed;
        let _ = rustix::fs::fadvise(&*self.file, base, std::num::NonZeroU64::new(length as u64), advice);
        self.samples(at, length).try_for_each(|at| self.read_at(at, 1).map(drop))
    }

    /// Places that are all in the page cache only if, very likely, what lies between them is: the
    /// kernel reads ahead by 128 KiB and more.
    fn samples(&self, at: u64, length: usize) -> impl Iterator<Item = u64> {
        let end = at.saturating_add(length as u64).min(self.size);
        (at..end).step_by(64 << 10).chain(end.checked_sub(1))
    }

    /// Hashes the whole blob, unless its bytes were checked before. Blocking.
    ///
    /// # Errors
    ///
    /// When it cannot be read or is not what its digest says.
    pub fn prove(&mut self) -> io::Result<()> {
        let Some(unproved) = self.unproved.take() else { return Ok(()) };
        let mut hasher = Hasher::new();
        while hasher.length() < self.size {
            hasher.update(&self.read_at(hasher.length(), chunk(self.size - hasher.length()))?);
        }
        unproved.settle(hasher)
    }
}

/// The length of the next chunk when `left` bytes are left.
#[must_use]
pub fn chunk(left: u64) -> usize {
    usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK))
}
