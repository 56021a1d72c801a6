//! The entries of a canonical pack (gitformat-pack): what is a delta of what, and how it is deflated.
//!
//! All of it follows from the objects and their order, so that one history gives the same bytes
//! however the clone at hand is packed. Chunks of objects are independent of each other: several
//! threads work on them, each ahead of the writer by a bounded number of bytes, and their results
//! are taken in order.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use gix::ObjectId;
use gix::objs::Kind;

use super::delta;
use super::{GitError, OdbObjects, Repository, from_oid};
use crate::store::git::walk;

/// Objects of one chunk: no delta crosses its border.
pub(super) const CHUNK: usize = 1024;
/// Bases that are looked at.
const WINDOW: usize = 2;
/// A delta at most this part of its object ends the search.
const GOOD: usize = 4;
/// Longest chain of deltas, as git's default.
const DEPTH: usize = 50;
/// Objects above this are never deltas nor bases of one.
const DELTA_MAX: usize = 8 << 20;
/// Objects below this are not worth a delta.
const DELTA_MIN: usize = 64;
/// What is no longer than this is stored as it is: deflating it saves nothing that is worth the time.
const STORED: usize = 128;
/// Bytes that a thread may be ahead of the writer, and one entry more.
const AHEAD: usize = 8 << 20;
/// Entries, and bytes of them, that are handed over together.
const BATCH: (usize, usize) = (64, 256 << 10);

/// One object, ready to be written.
pub(super) struct Packed {
    pub kind: Kind,
    /// How many entries back the base stands; 0 for an object that is whole. Less than [`CHUNK`].
    pub base: u16,
    /// Bytes of the object or delta.
    pub size: u64,
    /// The same, as a zlib stream.
    pub deflated: Vec<u8>,
}

/// Makes the entries of `objects`, in order. `known` holds the bases that an earlier run chose: then
/// no other is looked at. `take` gets each entry.
///
/// # Errors
///
/// When an object cannot be read, or `take` fails.
pub(super) fn entries(
    repository: &Repository,
    objects: &[(ObjectId, Kind)],
    known: Option<&[u16]>,
    mut take: impl FnMut(Packed) -> Result<(), GitError>,
) -> Result<(), GitError> {
    let chunks = objects.len().div_ceil(CHUNK);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8).min(chunks).max(1);
    let lanes: Vec<Lane> = (0..threads).map(|_| Lane::default()).collect();
    std::thread::scope(|scope| {
        // However this ends, no thread waits for a writer that is gone.
        let _open = lanes.iter().map(Closing).collect::<Vec<_>>();
        for (number, lane) in lanes.iter().enumerate() {
            scope.spawn(move || {
                let _open = Closing(lane);
                let mut worker = Worker::new(repository);
                for (at, chunk) in objects.chunks(CHUNK).enumerate().skip(number).step_by(threads) {
                    let known = known.map(|known| &known[at * CHUNK..][..chunk.len()]);
                    if worker.chunk(chunk, known, lane).is_none() {
                        return;
                    }
                }
            });
        }
        for (at, chunk) in objects.chunks(CHUNK).enumerate() {
            let mut left = chunk.len();
            while left > 0 {
                // A thread that ends early has panicked, and the scope passes that on.
                let Some(batch) = lanes[at % threads].pop() else { return Ok(()) };
                left -= batch.entries.len();
                batch.entries.into_iter().try_for_each(&mut take)?;
                if let Some(error) = batch.error {
                    return Err(error);
                }
            }
        }
        Ok(())
    })
}

/// Entries that follow on each other.
#[derive(Default)]
struct Batch {
    entries: Vec<Packed>,
    bytes: usize,
    /// Why there is nothing after them.
    error: Option<GitError>,
}

/// The way from a thread to the writer: bounded by bytes, since entries have any size.
#[derive(Default)]
struct Lane {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    batches: VecDeque<Batch>,
    bytes: usize,
    closed: bool,
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a batch over, once there is room; none when nobody wants more.
    fn push(&self, batch: Batch) -> Option<()> {
        let mut queue = self.lock();
        while queue.bytes > AHEAD && !queue.closed {
            queue = self.wait(queue);
        }
        if queue.closed {
            return None;
        }
        queue.bytes += batch.bytes;
        queue.batches.push_back(batch);
        self.changed.notify_all();
        Some(())
    }

    /// The next batch; none when its thread has gone.
    fn pop(&self) -> Option<Batch> {
        let mut queue = self.lock();
        loop {
            if let Some(batch) = queue.batches.pop_front() {
                queue.bytes -= batch.bytes;
                self.changed.notify_all();
                return Some(batch);
            }
            if queue.closed {
                return None;
            }
            queue = self.wait(queue);
        }
    }
}

/// Closes a lane when either end of it goes. What was handed over can still be taken.
struct Closing<'a>(&'a Lane);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

/// An object that may be a base.
struct Candidate {
    data: Vec<u8>,
    /// Its number in the chunk.
    at: usize,
    depth: usize,
}

struct Worker<'a> {
    repository: &'a Repository,
    objects: OdbObjects,
    deflate: flate2::Compress,
    /// The last objects of the chunk that may be bases, all of one kind, the nearest last.
    window: VecDeque<Candidate>,
    kind: Kind,
}

impl<'a> Worker<'a> {
    fn new(repository: &'a Repository) -> Self {
        let deflate = flate2::Compress::new(flate2::Compression::new(6), true);
        Self {
            repository,
            objects: repository.objects(),
            deflate,
            window: VecDeque::new(),
            kind: Kind::Commit,
        }
    }

    /// Packs the objects of one chunk; none when nobody wants more of them.
    fn chunk(&mut self, chunk: &[(ObjectId, Kind)], known: Option<&[u16]>, lane: &Lane) -> Option<()> {
        self.window.clear();
        let mut batch = Batch::default();
        for (at, (oid, kind)) in chunk.iter().enumerate() {
            match self.pack(*oid, *kind, at, known.map(|known| known[at])) {
                Ok(packed) => {
                    batch.bytes += packed.deflated.len() + size_of::<Packed>();
                    batch.entries.push(packed);
                }
                Err(error) => {
                    batch.error = Some(error);
                    lane.push(batch);
                    return None;
                }
            }
            if batch.entries.len() >= BATCH.0 || batch.bytes >= BATCH.1 || at + 1 == chunk.len() {
                lane.push(std::mem::take(&mut batch))?;
            }
        }
        Some(())
    }

    fn pack(&mut self, oid: ObjectId, kind: Kind, at: usize, known: Option<u16>) -> Result<Packed, GitError> {
        let mut data = Vec::new();
        walk::read_kind(&mut self.objects, &oid, kind, &mut data)
            .map_err(|source| self.repository.walk_error(source))?;
        let may = matches!(kind, Kind::Tree | Kind::Blob) && (DELTA_MIN..=DELTA_MAX).contains(&data.len());
        if kind != self.kind {
            self.window.clear();
            self.kind = kind;
        }
        let delta = if may { self.delta(&data, at, known) } else { None };
        let (base, depth, bytes) = match &delta {
            Some(Delta { back, depth, bytes }) => (*back, *depth, bytes.as_slice()),
            None => (0, 0, data.as_slice()),
        };
        let deflated = if bytes.len() <= STORED { stored(bytes) } else { self.deflate(oid, bytes)? };
        let packed = Packed { kind, base, size: bytes.len() as u64, deflated };
        if may {
            if self.window.len() == WINDOW {
                self.window.pop_front();
            }
            self.window.push_back(Candidate { data, at, depth });
        }
        Ok(packed)
    }

    /// The delta that the rule chooses for object number `at`, or the one that it chose before.
    fn delta(&mut self, data: &[u8], at: usize, known: Option<u16>) -> Option<Delta> {
        let mut best: Option<Delta> = None;
        for candidate in self.window.iter().rev() {
            let back = u16::try_from(at - candidate.at).ok()?;
            if known.is_some_and(|known| known != back) || candidate.depth >= DEPTH {
                continue;
            }
            // The next must be shorter; a tie goes to the nearer.
            let limit = best.as_ref().map_or(data.len() / 2, |best| best.bytes.len() - 1);
            let length = candidate.data.len();
            // What the base lacks must be spelled out, and one much longer has little in common.
            if data.len() / 32 >= length || data.len().saturating_sub(length) >= limit {
                continue;
            }
            if let Some(bytes) = delta::delta(&candidate.data, data, limit) {
                let good = bytes.len() <= data.len() / GOOD;
                best = Some(Delta { back, depth: candidate.depth + 1, bytes });
                if good {
                    break;
                }
            }
        }
        best
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

struct Delta {
    back: u16,
    depth: usize,
    bytes: Vec<u8>,
}

/// `data`, at most [`STORED`] bytes, as a zlib stream of one stored block (RFC 1950, RFC 1951 3.2.4).
fn stored(data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap_or(0);
    let mut out = vec![0x78, 0x01, 1];
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&(!length).to_le_bytes());
    out.extend_from_slice(data);
    // Adler-32.
    let (low, high) = data.iter().fold((1_u32, 0_u32), |(low, high), byte| {
        let low = (low + u32::from(*byte)) % 65_521;
        (low, (high + low) % 65_521)
    });
    out.extend_from_slice(&(high << 16 | low).to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

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
    fn what_is_stored_inflates() {
        for data in [&b""[..], b"a", &[0xff; STORED]] {
            let mut back = Vec::new();
            flate2::read::ZlibDecoder::new(stored(data).as_slice()).read_to_end(&mut back).unwrap();
            assert_eq!(back, data);
        }
    }

    #[test]
    fn a_lane_is_bounded_and_ends_with_either_side() {
        let lane = Lane::default();
        let batch = |bytes| Batch { bytes, ..Batch::default() };
        assert!(lane.push(batch(AHEAD)).is_some() && lane.push(batch(2)).is_some());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| lane.push(batch(3)));
            assert_eq!(lane.pop().unwrap().bytes, AHEAD);
            assert!(waiting.join().unwrap().is_some());
        });
        drop(Closing(&lane));
        assert!(lane.push(batch(1)).is_none());
        assert_eq!([lane.pop().unwrap().bytes, lane.pop().unwrap().bytes], [2, 3]);
        assert!(lane.pop().is_none());
    }
}
