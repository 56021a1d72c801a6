//! Writing an archive: every offset is known before the first byte, so blobs are written into
//! their final places side by side, in any order, each byte once.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Seek};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::document;
use super::error::{ArchiveError, Result};
use super::head::{self, Release, read_head};
use super::header::{Member, header};
use super::layout::Layout;
use super::{index, manifest, signature};
use crate::fsio::{EarlySync, Hasher, TemporaryFile, allocate, available_space, largest_file, share};
use crate::model::{Digest, ReleaseDocument};

/// Bytes that are copied at once: they stay in the processor's cache from reading to writing.
const COPY: usize = 512 << 10;

/// An archive that is being written under a temporary name. Dropped without [`Writer::finish`], it
/// leaves nothing.
#[derive(Debug)]
pub struct Writer {
    output: TemporaryFile,
    shared: Arc<Shared>,
    document: ReleaseDocument,
    document_bytes: Vec<u8>,
    manifest: Vec<u8>,
}

/// What placements write into.
#[derive(Debug)]
struct Shared {
    file: File,
    path: PathBuf,
    layout: Layout,
    placed: Vec<AtomicBool>,
    early: EarlySync,
}

/// An archive that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Its path.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// Digest of the release manifest: the identity of the release.
    pub digest: Digest,
}

impl Writer {
    /// Begins the archive of `document` at `output`: checks the document, works out every offset
    /// and sets the space aside.
    ///
    /// # Errors
    ///
    /// When the document breaks a rule of its format, or `output` cannot be written or is too large
    /// for its file system.
    pub fn create(output: &Path, document: &ReleaseDocument) -> Result<Self> {
        Self::with_bytes(output, document, document::to_bytes(document))
    }

    /// Begins the same archive that `release` was read from, at `output`.
    ///
    /// # Errors
    ///
    /// As [`Writer::create`].
    pub fn recreate(output: &Path, release: &Release) -> Result<Self> {
        // The bytes as they are: a later tool may have written fields that this one does not know.
        Self::with_bytes(output, &release.document, release.document_bytes.clone())
    }

    fn with_bytes(output: &Path, document: &ReleaseDocument, document_bytes: Vec<u8>) -> Result<Self> {
        document::check_size(document_bytes.len() as u64)?;
        document::check(document)?;
        let manifest = manifest::build(document, &document_bytes)?;
        let index_size = index::build(document, &manifest, &[])?.len() as u64;
        let layout = Layout::new(document, document_bytes.len() as u64, manifest.len() as u64, index_size)?;
        let output = create_output(output, layout.total)?;
        let file = output.file().try_clone().map_err(cannot("write", output.target()))?;
        let early = EarlySync::start(&file).map_err(cannot("write", output.target()))?;
        let placed = layout.blobs.iter().map(|_| AtomicBool::new(false)).collect();
        let shared = Arc::new(Shared { file, path: output.target().to_owned(), layout, placed, early });
        Ok(Self { output, shared, document: document.clone(), document_bytes, manifest })
    }

    /// The name that the archive will have.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.output.target()
    }

    /// Size of the whole archive.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.shared.layout.total
    }

    /// Bytes of the release manifest: what is signed.
    #[must_use]
    pub fn manifest(&self) -> &[u8] {
        &self.manifest
    }

    /// Digest of the release manifest: the identity of the release.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// The place of blob `digest`. Any number of placements may be open, on any threads.
    ///
    /// # Errors
    ///
    /// When the document does not list the blob.
    pub fn placement(&self, digest: Digest) -> Result<Placement> {
        let number = self.document.blobs.iter().position(|blob| blob.digest == digest);
        let number = number.ok_or_else(|| ArchiveError::Document {
            why: format!("does not list blob {digest}, which was to be written"),
        })?;
        let place = self.shared.layout.blobs[number];
        Ok(Placement {
            shared: Arc::clone(&self.shared),
            number,
            digest,
            offset: place.content(),
            size: place.size,
            hasher: Hasher::new(),
        })
    }

    /// Writes all that stands around the blobs, makes the archive durable and gives it its name.
    ///
    /// # Errors
    ///
    /// When a blob was not placed, the signatures do not fit, or writing fails.
    pub fn finish(self, bundles: &[Vec<u8>]) -> Result<Written> {
        let Self { output, shared, document, document_bytes, manifest } = self;
        let missing: Vec<_> = document
            .blobs
            .iter()
            .zip(&shared.placed)
            .filter(|(_, placed)| !placed.load(Ordering::Acquire))
            .map(|(blob, _)| blob.digest)
            .collect();
        if let Some(first) = missing.first() {
            let why = format!("{} blobs were not written, {first} first", missing.len());
            return Err(ArchiveError::Incomplete { why });
        }
        let mut bundles = bundles.to_vec();
        signature::arrange(&mut bundles)?;
        let head = head::to_bytes(&document, &document_bytes, &manifest, &bundles)?;
        let path = output.target().to_owned();
        let write = || {
            // Padding and the trailer are there: the file began as zeros.
            shared.file.write_all_at(&head, 0)?;
            for (blob, place) in document.blobs.iter().zip(&shared.layout.blobs) {
                shared.file.write_all_at(&header(Member::Blob(blob.digest), blob.size), place.header)?;
            }
            shared.early.finish()?;
            output.commit()
        };
        write().map_err(cannot("write", &path))?;
        Ok(Written { path, size: shared.layout.total, digest: Digest::of(&manifest) })
    }
}

/// The place of one blob: takes its bytes in order and hashes them on the way.
#[derive(Debug)]
pub struct Placement {
    shared: Arc<Shared>,
    number: usize,
    digest: Digest,
    offset: u64,
    size: u64,
    hasher: Hasher,
}

impl Placement {
    /// Writes the next bytes.
    ///
    /// # Errors
    ///
    /// When there are more than the blob has, or writing fails.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.written();
        if bytes.len() as u64 > self.size - written {
            let more = format!("blob {} has {} bytes, and more came", self.digest, self.size);
            return Err(io::Error::new(ErrorKind::InvalidData, more));
        }
        self.shared.file.write_all_at(bytes, self.offset + written)?;
        self.hasher.update(bytes);
        self.shared.early.wrote(bytes.len() as u64);
        Ok(())
    }

    /// Bytes written so far: where a resumed download goes on.
    #[must_use]
    pub const fn written(&self) -> u64 {
        self.hasher.length()
    }

    /// Size of the blob.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Begins again at the first byte, for a source that cannot resume.
    pub fn restart(&mut self) {
        self.hasher = Hasher::new();
    }

    /// Takes the whole blob from `file`, where it begins at `from`. Bytes that the file system lets
    /// both files share are not copied; what now stands in the archive is hashed all the same.
    ///
    /// # Errors
    ///
    /// [`ArchiveError::File`] when the archive cannot be written. Any other means that the blob is
    /// not there as it must be: then the placement stands at its beginning again, for another source.
    pub fn adopt(&mut self, file: &File, from: u64) -> Result<()> {
        self.restart();
        let done = self.copy(file, from).and_then(|()| self.check());
        if done.is_err() {
            self.restart();
        }
        done
    }

    fn copy(&mut self, file: &File, from: u64) -> Result<()> {
        let shared = share(file, from, &self.shared.file, self.offset, self.size);
        let mut buffer = vec![0; usize::try_from(self.size).unwrap_or(usize::MAX).min(COPY)];
        while self.written() < self.size {
            let at = self.written();
            let until = match &shared {
                range if at < range.start => range.start,
                range if at < range.end => range.end,
                _ => self.size,
            };
            let length = usize::try_from(until - at).unwrap_or(usize::MAX).min(buffer.len());
            let part = &mut buffer[..length];
            if shared.contains(&at) {
                // Read back from the archive: the other file may have changed since.
                let offset = self.offset + at;
                self.shared
                    .file
                    .read_exact_at(part, offset)
                    .map_err(|source| ArchiveError::read(offset, source))?;
                self.hasher.update(part);
                self.shared.early.wrote(length as u64);
            } else {
                let offset = from + at;
                file.read_exact_at(part, offset).map_err(|source| ArchiveError::read(offset, source))?;
                if let Err(source) = self.write(part) {
                    return Err(cannot("write", &self.shared.path)(source));
                }
            }
        }
        Ok(())
    }

    /// Checks that the blob is whole.
    ///
    /// # Errors
    ///
    /// When its size or digest is not the one in the document.
    pub fn finish(mut self) -> Result<()> {
        self.check()
    }

    fn check(&mut self) -> Result<()> {
        let found_size = self.written();
        let found = std::mem::replace(&mut self.hasher, Hasher::new()).finish();
        if found != self.digest || found_size != self.size {
            let (wanted, wanted_size) = (self.digest, self.size);
            return Err(ArchiveError::Placed { wanted, wanted_size, found, found_size });
        }
        self.shared.placed[self.number].store(true, Ordering::Release);
        Ok(())
    }
}

impl io::Write for Placement {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::write(self, bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Adds a signature to the archive at `path`, which must hold release `release` (the one that was
/// signed). The result stands at `output`, or in the place of `path`.
///
/// Only the head's area changes, but a head half rewritten would be no archive at all: so the file
/// is cloned under a temporary name (by reference where the file system can, `copy_file_range`),
/// changed there, synced and renamed. A cut leaves the old archive or the new one.
///
/// # Errors
///
/// When the archive is not that release, the signature is there already or does not fit, or writing fails.
pub fn add_signature(
    path: &Path,
    output: Option<&Path>,
    release: Digest,
    bundle: Vec<u8>,
) -> Result<Written> {
    let mut file = File::open(path).map_err(cannot("open", path))?;
    let head = read_head(&mut file)?;
    let length = head.length;
    let found = head.parse()?;
    if found.digest != release {
        let why = format!("the archive holds release {}, and {release} was signed", found.digest);
        return Err(ArchiveError::Signatures { why });
    }
    let layout = found.layout()?;
    let size = file.metadata().map_err(cannot("read", path))?.len();
    if size != layout.total {
        return Err(super::layout::wrong_length(size, layout.total));
    }
    let mut bundles = found.signatures;
    bundles.push(bundle);
    signature::arrange(&mut bundles)?;
    let bytes = head::to_bytes(&found.document, &found.document_bytes, &found.manifest, &bundles)?;
    if bytes.len() as u64 != length {
        let why = format!("the head would have {} bytes instead of {length}", bytes.len());
        return Err(ArchiveError::Signatures { why });
    }
    let target = output.unwrap_or(path);
    let output = create_output(target, 0)?;
    let mut copy = || {
        file.rewind()?;
        // Between files this is `copy_file_range`, which clones where the file system can.
        let copied = io::copy(&mut file, &mut output.file())?;
        if copied != layout.total {
            let changed = format!("the archive changed while it was copied: {copied} bytes came");
            return Err(io::Error::new(ErrorKind::UnexpectedEof, changed));
        }
        output.file().write_all_at(&bytes, 0)
    };
    copy().map_err(|error| no_space(target, layout.total, error))?;
    output.commit().map_err(cannot("write", target))?;
    Ok(Written { path: target.to_owned(), size: layout.total, digest: release })
}

fn cannot(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ArchiveError {
    let path = path.to_owned();
    move |source| ArchiveError::File { action, path, source }
}

/// The temporary file for `path`, with `size` bytes set aside.
fn create_output(path: &Path, size: u64) -> Result<TemporaryFile> {
    let refuse = |why: String| ArchiveError::Output { path: path.to_owned(), why };
    if path.file_name().is_none() {
        return Err(refuse("it is no file name".into()));
    }
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => return Err(refuse("it is a folder, wanted a file name".into())),
        Ok(found) if !found.is_file() => return Err(refuse("it is there and no regular file".into())),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(refuse(error.to_string())),
    }
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    if !folder.is_dir() {
        return Err(refuse(format!("folder `{}` does not exist", folder.display())));
    }
    // Known before a file is made, and before the first download.
    if let Ok(Some(largest)) = largest_file(folder)
        && size > largest
    {
        return Err(ArchiveError::FileLimit { path: path.to_owned(), needed: size, largest: Some(largest) });
    }
    let output = TemporaryFile::create(path)
        .map_err(|error| refuse(format!("cannot make a file in `{}`: {error}", folder.display())))?;
    // Asked first, for file systems that cannot set space aside.
    if available_space(folder).is_ok_and(|available| available < size) {
        return Err(no_space(path, size, ErrorKind::StorageFull.into()));
    }
    allocate(output.file(), size).map_err(|error| no_space(path, size, error))?;
    Ok(output)
}

/// Says what is missing when `error` means that the file system is full or takes no such file.
fn no_space(path: &Path, needed: u64, error: io::Error) -> ArchiveError {
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => match available_space(folder) {
            Ok(available) => ArchiveError::NoSpace { path: path.to_owned(), needed, available },
            Err(_) => cannot("write", path)(error),
        },
        ErrorKind::FileTooLarge => ArchiveError::FileLimit { path: path.to_owned(), needed, largest: None },
        _ => cannot("write", path)(error),
    }
}
