//! Archives as input: from a file or standard input, the signature first.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;

use super::{Error, Result};
use crate::archive::stream::{self, BlobSink, BlobWrite, Source, StreamReport};
use crate::archive::{self, Release};
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

/// Opens the file, or standard input.
pub(super) fn source(path: &Path) -> Result<Source> {
    if path == Path::new("-") {
        // A file that was redirected to us is read as the file it is.
        return Ok(Source::stdin());
    }
    let file = File::open(path).map_err(|error| Error::io("read", path, error))?;
    Ok(Source::of(file))
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
pub(super) fn stream(source: Source, release: &Release, sink: &dyn BlobSink, verb: &str, progress: &dyn Progress) -> Result<StreamReport> {
    let bytes = release.document.blobs.iter().map(|blob| blob.size).sum();
    progress.event(Event::Start { title: format!("{verb} {}", release.document.title()), bytes: Some(bytes) });
    let report = stream::stream(source, release, sink, progress)?;
    progress.event(Event::Finish { summary: String::new() });
    Ok(report)
}

/// Keeps one blob in memory and lets the others pass.
struct Keep {
    wanted: Digest,
    kept: Mutex<Option<Vec<u8>>>,
}

struct KeepWrite<'a> {
    bytes: Vec<u8>,
    into: &'a Mutex<Option<Vec<u8>>>,
}

impl Write for KeepWrite<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWrite for KeepWrite<'_> {
    fn commit(self: Box<Self>) -> io::Result<()> {
        let mut slot = self.into.lock().map_err(|_| io::Error::other("a thread of the reader panicked"))?;
        *slot = Some(self.bytes);
        Ok(())
    }
}

/// The rendered layer of an archive, verified by its digest; nothing is written anywhere.
pub(super) fn read_rendered(opened: Opened, progress: &dyn Progress) -> Result<Vec<u8>> {
    let Opened { release, source } = opened;
    let keep = Keep { wanted: release.document.rendered.layer, kept: Mutex::new(None) };
    stream(source, &release, &keep, "reading", progress)?;
    let kept = keep.kept.into_inner().ok().flatten();
    kept.ok_or_else(|| Error::io("read", Path::new("the archive"), io::ErrorKind::UnexpectedEof.into()))
}
