//! Archives as input: from a file or standard input, the signature first.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::{Error, Result};
use crate::archive::{self, BlobSink, BlobWrite, Discard, Release, Source, StreamReport};
use crate::fsio::limits;
use crate::model::{BlobEntry, Digest, Event, Progress};
use crate::trust::{self, PublicKey, Verified};

/// An archive whose head was read and whose signature was checked.
pub(super) struct Opened {
    pub(super) release: Verified<Release>,
    /// Stands behind the head.
    pub(super) source: Source,
}

/// What the archive is called in messages.
pub(super) fn display_name(path: &Path) -> String {
    if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() }
}

/// Standard input; a file that was redirected to it is read as the file it is, on all cores.
fn standard_input() -> io::Result<Source> {
    let mut file = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    if file.metadata()?.is_file() && file.stream_position()? == 0 {
        return Ok(Source::File(file));
    }
    Ok(Source::Pipe(Box::new(file)))
}

/// Opens the file, or standard input.
pub(super) fn source(path: &Path) -> Result<Source> {
    if path == Path::new("-") {
        return standard_input().map_err(|error| Error::io("read", Path::new("standard input"), error));
    }
    Ok(Source::open(path)?)
}

/// Reads the head and has a signature over it checked by `keys`.
pub(super) fn open(path: &Path, keys: &[PublicKey]) -> Result<Opened> {
    let name = display_name(path);
    let mut source = source(path)?;
    let head = archive::read_head(&mut source).map_err(|error| Error::from(error).in_archive(&name))?;
    let release = trust::verify(head, keys).map_err(|error| Error::from(error).in_archive(&name))?;
    Ok(Opened { release, source })
}

/// Streams everything behind the head into `sink`, with a bar.
pub(super) fn stream(
    source: Source,
    release: &Release,
    sink: &dyn BlobSink,
    verb: &str,
    progress: &dyn Progress,
) -> Result<StreamReport> {
    let bytes = release.document.blobs.iter().map(|blob| blob.size).sum();
    progress
        .event(Event::Start { title: format!("{verb} {}", release.document.title()), bytes: Some(bytes) });
    let report = archive::stream(source, release, sink, progress)?;
    progress.event(Event::Finish { summary: String::new() });
    Ok(report)
}

/// Keeps one blob in memory and lets the others pass.
struct Keep {
    wanted: Digest,
    /// Whether the others are checked as well.
    check: bool,
    kept: Arc<Mutex<Option<Vec<u8>>>>,
}

impl BlobSink for Keep {
    fn wants(&self, blob: &BlobEntry) -> io::Result<bool> {
        Ok(self.check || blob.digest == self.wanted)
    }

    fn begin(&self, blob: &BlobEntry) -> io::Result<Box<dyn BlobWrite + Send>> {
        if blob.digest != self.wanted {
            return Ok(Box::new(Discard));
        }
        if blob.size > limits::RENDERED {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("{} bytes, at most {}", blob.size, limits::RENDERED),
            ));
        }
        Ok(Box::new(KeepWrite { bytes: Vec::new(), into: Arc::clone(&self.kept) }))
    }
}

struct KeepWrite {
    bytes: Vec<u8>,
    into: Arc<Mutex<Option<Vec<u8>>>>,
}

impl Write for KeepWrite {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWrite for KeepWrite {
    fn commit(self: Box<Self>) -> io::Result<()> {
        let mut slot = self.into.lock().map_err(|_| io::Error::other("a thread of the reader panicked"))?;
        *slot = Some(self.bytes);
        Ok(())
    }
}

/// The rendered layer of an archive, verified by its digest; nothing is written anywhere.
pub(super) fn read_rendered(opened: Opened, progress: &dyn Progress) -> Result<Vec<u8>> {
    let Opened { release, source } = opened;
    rendered_of(source, &release, false, progress)
}

/// The rendered layer of an archive of which every other blob is checked as well. Nobody vouches
/// for the release: this says that the archive holds what it lists, and no more.
pub(super) fn check_whole(source: Source, release: &Release, progress: &dyn Progress) -> Result<Vec<u8>> {
    rendered_of(source, release, true, progress)
}

fn rendered_of(source: Source, release: &Release, check: bool, progress: &dyn Progress) -> Result<Vec<u8>> {
    let keep = Keep { wanted: release.document.rendered.layer, check, kept: Arc::default() };
    stream(source, release, &keep, "reading", progress)?;
    let kept = keep.kept.lock().ok().and_then(|mut kept| kept.take());
    kept.ok_or_else(|| Error::io("read", Path::new("the archive"), io::ErrorKind::UnexpectedEof.into()))
}
