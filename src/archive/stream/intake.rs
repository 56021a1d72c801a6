//! What both kinds of source share: the checks on one member, and what is known of the whole pass.

use std::io::{self, Write as _};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{BlobSink, BlobWrite, StreamReport};
use crate::archive::closure::{Closure, is_parsed};
use crate::archive::document::small_blobs;
use crate::archive::error::{ArchiveError, Result};
use crate::archive::head::Release;
use crate::archive::header::{self, BLOCK, Block, Member, claimed_blob, describe};
use crate::archive::layout::Layout;
use crate::fsio::Hasher;
use crate::model::{BlobEntry, Event, Progress};

/// One pass over an archive.
pub(super) struct Pass<'a> {
    pub layout: Layout,
    pub blobs: &'a [BlobEntry],
    /// The blobs before the git bundle: manifests, indexes, configs.
    pub small: Range<usize>,
    pub large: Range<usize>,
    closure: Closure<'a>,
    sink: &'a dyn BlobSink,
    progress: &'a dyn Progress,
    counts: Counts,
    stopped: AtomicBool,
    failure: Mutex<Option<(u64, ArchiveError)>>,
}

#[derive(Default)]
struct Counts {
    checked: [AtomicU64; 2],
    stored: [AtomicU64; 2],
    skipped: [AtomicU64; 2],
}

fn count(counter: &[AtomicU64; 2], bytes: u64) {
    counter[0].fetch_add(1, Ordering::Relaxed);
    counter[1].fetch_add(bytes, Ordering::Relaxed);
}

impl<'a> Pass<'a> {
    pub fn new(release: &'a Release, sink: &'a dyn BlobSink, progress: &'a dyn Progress) -> Result<Self> {
        let document = &release.document;
        let small = small_blobs(document)?;
        Ok(Self {
            layout: release.layout()?,
            blobs: &document.blobs,
            small: 0..small,
            large: small..document.blobs.len(),
            closure: Closure::new(document),
            sink,
            progress,
            counts: Counts::default(),
            stopped: AtomicBool::new(false),
            failure: Mutex::new(None),
        })
    }

    pub fn report(&self) -> StreamReport {
        let [checked, stored, skipped] = [&self.counts.checked, &self.counts.stored, &self.counts.skipped]
            .map(|counter| [0, 1].map(|at| counter[at].load(Ordering::Relaxed)));
        StreamReport {
            checked: checked[0],
            checked_bytes: checked[1],
            stored: stored[0],
            stored_bytes: stored[1],
            skipped: skipped[0],
            skipped_bytes: skipped[1],
        }
    }

    /// Notes an error at `offset` and stops all threads. Of several the first in the archive is told.
    pub fn fail(&self, offset: u64, error: ArchiveError) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.as_ref().is_none_or(|(at, _)| offset < *at) {
            *failure = Some((offset, error));
        }
        self.stopped.store(true, Ordering::Release);
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// The error that stopped the threads, if one did.
    pub fn outcome(&self) -> Result<()> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        match failure {
            Some((_, error)) => Err(error),
            None if self.is_stopped() => Err(ArchiveError::Worker),
            None => Ok(()),
        }
    }

    pub fn check_closure(&self) -> Result<()> {
        self.closure.check()
    }

    /// What to do with blob number `place`; `None` when it is skipped.
    pub fn begin(&self, place: usize) -> Result<Option<Intake<'_, 'a>>> {
        let blob = &self.blobs[place];
        let sink = |source| ArchiveError::Sink { digest: blob.digest, source };
        let parsed = is_parsed(blob);
        let wanted = self.sink.wants(blob).map_err(sink)?;
        if !wanted {
            count(&self.counts.skipped, blob.size);
            if !parsed {
                self.progress.event(Event::Advance(blob.size));
                return Ok(None);
            }
        }
        let write = if wanted { Some(self.sink.begin(blob).map_err(sink)?) } else { None };
        // The document bounds manifests to 4 MiB.
        let keep = parsed.then(Vec::new);
        Ok(Some(Intake { pass: self, place, hasher: Hasher::new(), write, keep }))
    }

    /// What blob number `place` is called in messages.
    pub fn name(&self, place: usize) -> String {
        format!("`{}`", Member::Blob(self.blobs[place].digest))
    }

    /// The header that must stand before blob number `place`.
    fn header(&self, place: usize) -> Block {
        let blob = &self.blobs[place];
        header::header(Member::Blob(blob.digest), blob.size)
    }

    /// Checks the header before blob number `place`.
    pub fn check_header(&self, place: usize, found: &Block) -> Result<()> {
        if *found == self.header(place) {
            return Ok(());
        }
        let blob = &self.blobs[place];
        Err(ArchiveError::Member {
            offset: self.layout.blobs[place].header,
            found: describe(found, &self.header(place)) + self.remark(place, found),
            wanted: header::wanted(Member::Blob(blob.digest), blob.size),
        })
    }

    /// What is known of a member that stands where blob number `place` must stand.
    fn remark(&self, place: usize, found: &Block) -> &'static str {
        let Some(digest) = claimed_blob(found).filter(|_| header::is_header(found)) else { return "" };
        match self.blobs.iter().position(|blob| blob.digest == digest) {
            None => " (which the release does not list)",
            Some(other) if other < place => " (which stands twice or too late)",
            Some(other) if other > place => " (which belongs further on: one is missing or moved)",
            Some(_) => "",
        }
    }

    /// Checks the padding of blob number `place`, which ends at `end`.
    pub fn check_padding(&self, place: usize, bytes: &[u8], end: u64) -> Result<()> {
        match bytes.iter().position(|byte| *byte != 0) {
            None => Ok(()),
            Some(at) => Err(ArchiveError::NotZero {
                offset: end - bytes.len() as u64 + at as u64,
                place: format!("in the padding after {}", self.name(place)),
                found: bytes[at],
            }),
        }
    }

    /// Checks the two blocks at the end.
    pub fn check_trailer(&self, bytes: &[u8; 1024]) -> Result<()> {
        let Some(at) = bytes.iter().position(|byte| *byte != 0) else { return Ok(()) };
        let offset = self.layout.trailer();
        let mut block: Block = [0; 512];
        block.copy_from_slice(&bytes[..512]);
        if at < 512 && header::is_header(&block) {
            let nothing: Block = [0; 512];
            return Err(ArchiveError::Member {
                offset,
                found: describe(&block, &nothing) + self.remark(self.blobs.len(), &block),
                wanted: "the end of the archive".into(),
            });
        }
        Err(ArchiveError::NotZero {
            offset: offset + at as u64,
            place: "in the end of the archive".into(),
            found: bytes[at],
        })
    }

    /// The error for an input that ends at `end`, while the piece up to `wanted` of blob number
    /// `place` was being read.
    pub fn truncated(&self, place: usize, end: u64) -> ArchiveError {
        let at = &self.layout.blobs[place];
        let member = if end < at.content() {
            format!("the header of {}", self.name(place))
        } else if end < at.content() + at.size {
            self.name(place)
        } else {
            format!("the padding after {}", self.name(place))
        };
        ArchiveError::Truncated { member, end, wanted: self.layout.total }
    }

    /// The error for a read at `offset` that failed below the format.
    pub fn unreadable(&self, offset: u64, source: io::Error) -> ArchiveError {
        let place = self.layout.blobs.iter().position(|at| (at.header..at.end()).contains(&offset));
        ArchiveError::Read { offset, member: place.map(|place| self.name(place)), source }
    }

    pub fn truncated_trailer(&self, end: u64) -> ArchiveError {
        let member = "the end of the archive".into();
        ArchiveError::Truncated { member, end, wanted: self.layout.total }
    }
}

/// One blob on its way to the sink.
pub(super) struct Intake<'p, 'a> {
    pass: &'p Pass<'a>,
    place: usize,
    hasher: Hasher,
    write: Option<Box<dyn BlobWrite + Send>>,
    /// Bytes of a manifest, for the closure.
    keep: Option<Vec<u8>>,
}

impl Intake<'_, '_> {
    /// Takes the next bytes of content.
    pub fn take(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.hasher.update(bytes);
        if let Some(write) = &mut self.write {
            let digest = self.pass.blobs[self.place].digest;
            write.write_all(bytes).map_err(|source| ArchiveError::Sink { digest, source })?;
        }
        if let Some(keep) = &mut self.keep {
            keep.extend_from_slice(bytes);
        }
        self.pass.progress.event(Event::Advance(bytes.len() as u64));
        Ok(())
    }

    /// Checks size and digest; only then is the blob committed.
    pub fn finish(self) -> Result<()> {
        let pass = self.pass;
        let blob = &pass.blobs[self.place];
        let offset = pass.layout.blobs[self.place].content();
        let size = self.hasher.length();
        let found = self.hasher.finish();
        if found != blob.digest || size != blob.size {
            let member = pass.name(self.place);
            return Err(ArchiveError::Digest { member, offset, found, wanted: blob.digest });
        }
        count(&pass.counts.checked, size);
        if let Some(bytes) = &self.keep {
            pass.closure.add(self.place, bytes)?;
        }
        if let Some(write) = self.write {
            write.commit().map_err(|source| ArchiveError::Sink { digest: blob.digest, source })?;
            count(&pass.counts.stored, size);
        }
        Ok(())
    }
}

/// The parts of `chunk` (bytes from `offset` on) that lie in the header, the content and the
/// padding of the member at `header`, whose content has `size` bytes.
pub(super) fn parts(header: u64, size: u64, offset: u64, chunk: &[u8]) -> [&[u8]; 3] {
    let cut = |at: u64| usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX).min(chunk.len());
    let content = cut(header + BLOCK);
    let padding = cut(header + BLOCK + size);
    [&chunk[..content], &chunk[content..padding], &chunk[padding..]]
}
