//! One pass over the blobs of an archive: every byte is read once, hashed, and handed to a sink.
//!
//! `verify` is this with a sink that keeps nothing, `apply` with the store's. A seekable source is
//! read by all cores at once, a pipe by one thread that feeds the others; memory is bounded by
//! [`BUFFERS`], whatever the archive's size.

mod file;
mod intake;
mod pipe;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::thread::ScopedJoinHandle;

use super::error::{ArchiveError, Result};
use super::head::Release;
use crate::model::{BlobEntry, Progress};

/// Bytes of buffers in all.
pub const BUFFERS: usize = 16 << 20;

/// Takes the blobs of an archive, from several threads.
pub trait BlobSink: Sync {
    /// Whether the sink wants the bytes of `blob`. Where it does not, a seekable source is not read
    /// there at all (but for manifests and indexes, which are small and needed for the closure).
    ///
    /// # Errors
    ///
    /// When the sink cannot tell.
    fn wants(&self, blob: &BlobEntry) -> io::Result<bool>;

    /// Begins to take `blob`.
    ///
    /// # Errors
    ///
    /// When there is no place for it.
    fn begin(&self, blob: &BlobEntry) -> io::Result<Box<dyn BlobWrite + Send>>;
}

/// Takes the bytes of one blob in order. Dropped without [`BlobWrite::commit`] when they are not right.
pub trait BlobWrite: io::Write {
    /// Keeps the blob. Called only after its size and digest were found right.
    ///
    /// # Errors
    ///
    /// When it cannot be made durable.
    fn commit(self: Box<Self>) -> io::Result<()>;
}

/// The sink that keeps nothing and wants everything checked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Discard;

impl BlobSink for Discard {
    fn wants(&self, _: &BlobEntry) -> io::Result<bool> {
        Ok(true)
    }

    fn begin(&self, _: &BlobEntry) -> io::Result<Box<dyn BlobWrite + Send>> {
        Ok(Box::new(Self))
    }
}

impl io::Write for Discard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWrite for Discard {
    fn commit(self: Box<Self>) -> io::Result<()> {
        Ok(())
    }
}

/// Where an archive comes from. Read the head from it first (it is a reader), then [`stream`] it.
pub enum Source {
    /// A regular file: read at any offset.
    File(File),
    /// Anything else: read once, in order.
    Pipe(Box<dyn Read + Send>),
}

impl Source {
    /// Opens the archive at `path`; a path that is no regular file is read as a pipe.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let open = || {
            let file = File::open(path)?;
            let metadata = file.metadata()?;
            if metadata.is_dir() {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            Ok(if metadata.is_file() { Self::File(file) } else { Self::Pipe(Box::new(file)) })
        };
        open().map_err(|source| ArchiveError::File { action: "open", path: path.to_owned(), source })
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read(buffer),
            Self::Pipe(pipe) => pipe.read(buffer),
        }
    }
}

/// What one pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamReport {
    /// Blobs whose digest was checked.
    pub checked: u64,
    /// Their bytes.
    pub checked_bytes: u64,
    /// Blobs that the sink took.
    pub stored: u64,
    /// Their bytes.
    pub stored_bytes: u64,
    /// Blobs that were skipped because the sink has them.
    pub skipped: u64,
    /// Their bytes.
    pub skipped_bytes: u64,
}

/// Passes over all that follows the head: every header, every blob, the padding, the trailer, and
/// that nothing follows; the blobs go to `sink`. Once the manifests have passed, the closure is
/// checked: before any large blob is read.
///
/// `source` stands at the end of the head, where `read_head` leaves it. `progress` hears how many
/// bytes of blobs are done ([`crate::model::Event::Advance`]; they add up to the sizes in the
/// document) and nothing else: the caller begins and ends the phase.
///
/// # Errors
///
/// At the first thing that is not as the release says, or that the sink cannot take. Blobs that
/// were committed before stay with the sink: each is whole.
pub fn stream(
    source: Source,
    release: &Release,
    sink: &dyn BlobSink,
    progress: &dyn Progress,
) -> Result<StreamReport> {
    let pass = intake::Pass::new(release, sink, progress)?;
    match source {
        Source::File(file) => file::run(&pass, &file)?,
        Source::Pipe(pipe) => pipe::run(&pass, pipe)?,
    }
    Ok(pass.report())
}

/// Threads that hash: the cores that this process may use, within reason.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).clamp(1, 8)
}

/// Waits for all of `threads`.
fn join(threads: Vec<ScopedJoinHandle<'_, ()>>) -> Result<()> {
    let ended: Vec<_> = threads.into_iter().map(ScopedJoinHandle::join).collect();
    if ended.iter().all(std::thread::Result::is_ok) { Ok(()) } else { Err(ArchiveError::Worker) }
}
