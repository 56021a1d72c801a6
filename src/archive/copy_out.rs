//! Writing the archive of a release from blobs that lie elsewhere: into a file, many at once, or
//! into a stream, one after the other. Every byte is hashed on its way.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::error::{ArchiveError, Result};
use super::head::{self, Release};
use super::header::{Member, header, padding};
use super::layout::TRAILER;
use super::signature;
use super::writer::{Writer, Written};
use crate::fsio::Hasher;
use crate::model::{BlobEntry, Digest, Event, Progress};

/// Bytes that are copied at once into a stream.
const COPY: usize = 512 << 10;

/// Where blobs lie: a file for each, from its beginning.
pub trait BlobFiles: Sync {
    /// Opens a blob.
    ///
    /// # Errors
    ///
    /// When it is not there or cannot be read.
    fn open(&self, blob: &BlobEntry) -> io::Result<File>;
}

/// Writes the archive of `release` to `output`, its blobs from `blobs`, on all cores. Where the file
/// system can share blocks between files, bytes are shared and hashed, else copied and hashed.
///
/// # Errors
///
/// When a blob is not there or not what its digest says, or the archive cannot be written. Then
/// nothing is under the name of the output that was not there before.
pub fn copy_to_file(
    output: &Path,
    release: &Release,
    blobs: &impl BlobFiles,
    progress: &dyn Progress,
) -> Result<Written> {
    let writer = Writer::recreate(output, release)?;
    let entries = &release.document.blobs;
    let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
    let failed = Mutex::new(None);
    let copy = |blob: &BlobEntry| {
        let file = open(blobs, blob)?;
        writer.placement(blob.digest)?.adopt(&file, 0).map_err(|error| of_blob(blob, error))?;
        progress.event(Event::Advance(blob.size));
        Ok(())
    };
    let work = || {
        while !stopped.load(Ordering::Relaxed) {
            let Some(blob) = entries.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
            if let Err(error) = copy(blob) {
                stopped.store(true, Ordering::Relaxed);
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from).clamp(1, 8);
    thread::scope(|scope| {
        for _ in 0..cores.min(entries.len()) {
            scope.spawn(work);
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => writer.finish(&release.signatures),
    }
}

/// Writes the same archive into a stream. One that ends with an error ends short, and no reader takes
/// that for an archive. Answers with the number of bytes.
///
/// # Errors
///
/// As [`copy_to_file`].
pub fn copy_to_stream(
    output: &mut dyn Write,
    release: &Release,
    blobs: &impl BlobFiles,
    progress: &dyn Progress,
) -> Result<u64> {
    let layout = release.layout()?;
    let writing = |source| ArchiveError::File { action: "write", path: "standard output".into(), source };
    let mut bundles = release.signatures.clone();
    signature::arrange(&mut bundles)?;
    let head = head::to_bytes(&release.document, &release.document_bytes, &release.manifest, &bundles)?;
    output.write_all(&head).map_err(writing)?;
    let mut buffer = vec![0; COPY];
    for blob in &release.document.blobs {
        output.write_all(&header(Member::Blob(blob.digest), blob.size)).map_err(writing)?;
        let mut file = open(blobs, blob)?.take(blob.size);
        let mut hasher = Hasher::new();
        loop {
            let count = match file.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read.map_err(|source| ArchiveError::Sink { digest: blob.digest, source })?,
            };
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            output.write_all(&buffer[..count]).map_err(writing)?;
            progress.event(Event::Advance(count as u64));
        }
        let (found_size, found) = (hasher.length(), hasher.finish());
        if found != blob.digest {
            let (wanted, wanted_size) = (blob.digest, blob.size);
            return Err(ArchiveError::Placed { wanted, wanted_size, found, found_size });
        }
        io::copy(&mut io::repeat(0).take(padding(blob.size)), output).map_err(writing)?;
    }
    io::copy(&mut io::repeat(0).take(TRAILER), output).and_then(|_| output.flush()).map_err(writing)?;
    Ok(layout.total)
}

fn open(blobs: &impl BlobFiles, blob: &BlobEntry) -> Result<File> {
    blobs.open(blob).map_err(|source| ArchiveError::Sink { digest: blob.digest, source })
}

/// An error of reading says which blob it is about; the place in its file says nothing.
fn of_blob(blob: &BlobEntry, error: ArchiveError) -> ArchiveError {
    match error {
        ArchiveError::Read { source, .. } => ArchiveError::Sink { digest: blob.digest, source },
        error => error,
    }
}

/// The digest that an archive's errors name, where one is about a blob.
#[must_use]
pub const fn blob_of(error: &ArchiveError) -> Option<Digest> {
    match error {
        ArchiveError::Sink { digest, .. } => Some(*digest),
        ArchiveError::Placed { wanted, .. } => Some(*wanted),
        _ => None,
    }
}
