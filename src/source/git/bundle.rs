//! A revision's whole history as a git bundle (gitformat-bundle, version 2; gitformat-pack).
//!
//! The pack is canonical: which objects, in which order, what is a delta of what, and how it is
//! deflated follow from the objects alone, never from how the clone at hand is packed. So one
//! commit gives the same bytes on any machine (with one version of this program).
//!
//! Objects stand in the order of [`Closure`]; a tree or blob is a delta of the object right before
//! it where that makes it less than half as long. Chunks of objects are independent of each other,
//! so that several threads may work, and their results are taken in order.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use gix::ObjectId;
use gix::objs::Kind;
use gix_pack::data::entry::Header;

use super::delta::Index;
use super::{GitError, OdbObjects, Repository, Revision, from_oid, to_oid};
use crate::fsio::{Hasher, limits};
use crate::model::{BundleHeader, Digest};
use crate::store::git::walk::{self, Closure};

/// Objects of one chunk: no delta crosses its border.
const CHUNK: usize = 256;
/// Longest chain of deltas, as git's default.
const DEPTH: usize = 50;
/// Objects above this are never deltas nor bases of one.
const DELTA_MAX: usize = 8 << 20;
/// Objects below this are not worth a delta.
const DELTA_MIN: usize = 64;
/// Entries that a thread may be ahead of the writer.
const AHEAD: usize = 8;

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
}

/// One object, ready to be written.
struct Packed {
    kind: Kind,
    /// How many entries back the base stands.
    base: Option<usize>,
    size: u64,
    deflated: Vec<u8>,
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
        self.generate(&mut meter)?;
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
        match &self.kept {
            Some(bytes) => out.write_all(bytes).map_err(GitError::Write),
            None => self.generate(out),
        }
    }

    fn generate(&self, out: &mut impl Write) -> Result<(), GitError> {
        out.write_all(&self.header).map_err(GitError::Write)?;
        let count = u32::try_from(self.objects.len())
            .map_err(|_| self.repository.walk_error(walk::WalkError::TooMany))?;
        let mut pack = PackWriter { out, hash: gix::hash::hasher(gix::hash::Kind::Sha1), offset: 0 };
        pack.write(&gix_pack::data::header::encode(gix_pack::data::Version::V2, count))?;

        let chunks = self.objects.len().div_ceil(CHUNK);
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8).min(chunks).max(1);
        std::thread::scope(|scope| {
            let mut lanes: Vec<Receiver<Result<Packed, GitError>>> = Vec::new();
            for lane in 0..threads {
                let (sender, receiver) = sync_channel(AHEAD);
                lanes.push(receiver);
                scope.spawn(move || {
                    let mut worker = Worker::new(&self.repository);
                    for chunk in self.objects.chunks(CHUNK).skip(lane).step_by(threads) {
                        if worker.chunk(chunk, &sender).is_err() {
                            return;
                        }
                    }
                });
            }
            let mut offsets = Vec::with_capacity(CHUNK);
            for (number, chunk) in self.objects.chunks(CHUNK).enumerate() {
                offsets.clear();
                for _ in chunk {
                    // A thread that ends early has panicked, and the scope passes that on.
                    let Ok(packed) = lanes[number % threads].recv() else { return Ok(()) };
                    let packed = packed?;
                    offsets.push(pack.offset);
                    pack.entry(&packed, &offsets)?;
                }
            }
            pack.finish()
        })
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
}

impl<W: Write> PackWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), GitError> {
        self.hash.update(bytes);
        self.offset += bytes.len() as u64;
        self.out.write_all(bytes).map_err(GitError::Write)
    }

    /// Writes an entry that begins at the last of `offsets`, those of its chunk.
    fn entry(&mut self, packed: &Packed, offsets: &[u64]) -> Result<(), GitError> {
        let header = match packed.base.and_then(|back| offsets.get(offsets.len() - 1 - back)) {
            Some(base) => Header::OfsDelta { base_distance: self.offset - base },
            None => match packed.kind {
                Kind::Commit => Header::Commit,
                Kind::Tree => Header::Tree,
                Kind::Blob => Header::Blob,
                Kind::Tag => Header::Tag,
            },
        };
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

/// The object before, as a base.
struct Base {
    data: Vec<u8>,
    kind: Kind,
    depth: usize,
}

struct Worker<'a> {
    repository: &'a Repository,
    objects: OdbObjects,
    deflate: flate2::Compress,
}

impl<'a> Worker<'a> {
    fn new(repository: &'a Repository) -> Self {
        let deflate = flate2::Compress::new(flate2::Compression::new(6), true);
        Self { repository, objects: repository.objects(), deflate }
    }

    /// Packs the objects of one chunk; an error means that nobody wants more of them.
    fn chunk(
        &mut self,
        chunk: &[(ObjectId, Kind)],
        sender: &SyncSender<Result<Packed, GitError>>,
    ) -> Result<(), ()> {
        let mut before: Option<Base> = None;
        for (oid, kind) in chunk {
            let packed = self.pack(*oid, *kind, &mut before);
            let failed = packed.is_err();
            sender.send(packed).map_err(|_| ())?;
            if failed {
                return Err(());
            }
        }
        Ok(())
    }

    fn pack(&mut self, oid: ObjectId, kind: Kind, before: &mut Option<Base>) -> Result<Packed, GitError> {
        let mut data = Vec::new();
        walk::read_kind(&mut self.objects, &oid, kind, &mut data)
            .map_err(|source| self.repository.walk_error(source))?;
        let alike = matches!(kind, Kind::Tree | Kind::Blob)
            && (DELTA_MIN..=DELTA_MAX).contains(&data.len())
            && before.as_ref().is_some_and(|base| {
                base.kind == kind
                    && base.depth < DEPTH
                    && (DELTA_MIN..=DELTA_MAX).contains(&base.data.len())
                    && data.len() / 32 < base.data.len()
            });
        let delta = before
            .as_ref()
            .filter(|_| alike)
            .and_then(|base| Some((Index::new(&base.data).delta(&data, data.len() / 2)?, base.depth + 1)));
        let (packed, depth) = match &delta {
            Some((delta, depth)) => (
                Packed { kind, base: Some(1), size: delta.len() as u64, deflated: self.deflate(oid, delta)? },
                *depth,
            ),
            None => {
                (Packed { kind, base: None, size: data.len() as u64, deflated: self.deflate(oid, &data)? }, 0)
            }
        };
        *before = Some(Base { data, kind, depth });
        Ok(packed)
    }

    fn deflate(&mut self, oid: ObjectId, data: &[u8]) -> Result<Vec<u8>, GitError> {
        self.deflate.reset();
        let mut out = Vec::with_capacity(data.len() / 2 + 64);
        loop {
            let done = usize::try_from(self.deflate.total_in()).unwrap_or(usize::MAX);
            let status = self
                .deflate
                .compress_vec(data.get(done..).unwrap_or_default(), &mut out, flate2::FlushCompress::Finish)
                .map_err(|error| GitError::Hash { what: from_oid(&oid), why: error.to_string() })?;
            if status == flate2::Status::StreamEnd {
                return Ok(out);
            }
            out.reserve(data.len() / 4 + 4096);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deflating_does_not_depend_on_what_was_deflated_before() {
        // The canonical bytes of a pack rest on this: threads take different chunks from run to run.
        let mut used = flate2::Compress::new(flate2::Compression::new(6), true);
        let text: Vec<u8> = (0..60_000_u32).flat_map(|n| (n * n % 251).to_string().into_bytes()).collect();
        let mut run = |data: &[u8]| {
            used.reset();
            let mut out = Vec::with_capacity(data.len() + 100);
            assert_eq!(
                used.compress_vec(data, &mut out, flate2::FlushCompress::Finish).unwrap(),
                flate2::Status::StreamEnd
            );
            out
        };
        let first = run(&text);
        run(&text[500..9_000]);
        assert_eq!(run(&text), first);
    }

    #[test]
    fn the_meter_lets_go_of_large_bundles() {
        let mut meter = Meter { hasher: Hasher::new(), kept: Some(Vec::new()) };
        let piece = vec![0; 1 << 20];
        for _ in 0..32 {
            meter.write_all(&piece).unwrap();
        }
        assert_eq!(meter.kept.as_ref().unwrap().len(), 32 << 20);
        meter.write_all(&[0]).unwrap();
        assert!(meter.kept.is_none());
    }
}
