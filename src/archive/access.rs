//! Random access: what `serve --archive` and dry runs read of an archive that is a file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::error::{ArchiveError, Result};
use super::head::{Head, Release, read_head};
use super::header::{BLOCK, Member, padded};
use super::layout::wrong_length;
use super::signature;
use crate::fsio::Hasher;
use crate::model::Digest;

/// Bytes that are copied at once.
const COPY: usize = 512 << 10;

/// An archive that is open and whose head was read.
#[derive(Debug)]
pub struct ArchiveFile {
    file: File,
    path: PathBuf,
}

/// An archive whose release is known: every blob can be found without reading what stands before.
#[derive(Debug)]
pub struct Members {
    file: File,
    ranges: HashMap<Digest, (u64, u64)>,
}

impl ArchiveFile {
    /// Opens the archive at `path` and reads its head.
    ///
    /// # Errors
    ///
    /// When it is no regular file, or the head is not right.
    pub fn open(path: &Path) -> Result<(Self, Head)> {
        let cannot = |source| ArchiveError::File { action: "open", path: path.to_owned(), source };
        let mut file = File::open(path).map_err(cannot)?;
        if !file.metadata().map_err(cannot)?.is_file() {
            let why = io::Error::new(ErrorKind::InvalidInput, "it is no regular file");
            return Err(cannot(why));
        }
        let head = read_head(&mut file)?;
        Ok((Self { file, path: path.to_owned() }, head))
    }

    /// The members of the archive, as `release` (parsed from its head) places them.
    ///
    /// # Errors
    ///
    /// When the file is longer or shorter than it must be.
    pub fn members(self, release: &Release) -> Result<Members> {
        let layout = release.layout()?;
        let cannot = |source| ArchiveError::File { action: "read", path: self.path.clone(), source };
        let length = self.file.metadata().map_err(cannot)?.len();
        if length != layout.total {
            return Err(wrong_length(length, layout.total));
        }
        let mut ranges: HashMap<_, _> = release
            .document
            .blobs
            .iter()
            .zip(&layout.blobs)
            .map(|(blob, place)| (blob.digest, (place.content(), place.size)))
            .collect();
        ranges.insert(release.digest, (layout.manifest.start, release.manifest.len() as u64));
        let document = Digest::of(&release.document_bytes);
        ranges.insert(document, (layout.document.start, release.document_bytes.len() as u64));
        let mut at = layout.signatures.start;
        for bundle in &release.signatures {
            for content in [&signature::referrer(bundle, &release.manifest), bundle] {
                let size = content.len() as u64;
                ranges.insert(Digest::of(content), (at + BLOCK, size));
                // The area has 192 KiB.
                at += BLOCK + padded(size).unwrap_or_default();
            }
        }
        Ok(Members { file: self.file, ranges })
    }
}

impl Members {
    /// Offset and size of blob `digest`; the release manifest, the document and the signatures are
    /// blobs as well.
    #[must_use]
    pub fn range_of(&self, digest: Digest) -> Option<(u64, u64)> {
        self.ranges.get(&digest).copied()
    }

    /// The file, for reading at offsets. What is read must be verified before it is used.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Copies blob `digest` to `out`, and refuses it at the end when its digest is another: what was
    /// written is then of no use.
    ///
    /// # Errors
    ///
    /// When the archive does not hold it or cannot be read there, or its digest is another;
    /// [`ArchiveError::Sink`] when `out` does not take it.
    pub fn copy_verified(&self, digest: Digest, out: &mut impl Write) -> Result<()> {
        let Some((offset, size)) = self.range_of(digest) else {
            return Err(ArchiveError::Incomplete { why: format!("the archive does not hold blob {digest}") });
        };
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; usize::try_from(size).unwrap_or(usize::MAX).min(COPY)];
        while hasher.length() < size {
            let at = offset + hasher.length();
            let length = usize::try_from(size - hasher.length()).unwrap_or(usize::MAX).min(buffer.len());
            let part = &mut buffer[..length];
            let member = || Some(format!("`{}`", Member::Blob(digest)));
            self.file.read_exact_at(part, at).map_err(|source| ArchiveError::Read {
                offset: at,
                member: member(),
                source,
            })?;
            out.write_all(part).map_err(|source| ArchiveError::Sink { digest, source })?;
            hasher.update(part);
        }
        let found = hasher.finish();
        if found == digest {
            return Ok(());
        }
        Err(ArchiveError::Digest { member: format!("blob {digest}"), offset, found, wanted: digest })
    }

    /// The bytes of blob `digest`, at most `limit` of them, verified.
    ///
    /// # Errors
    ///
    /// When the archive does not hold it, it is larger than `limit`, or its digest is another.
    pub fn read_verified(&self, digest: Digest, limit: u64) -> Result<Vec<u8>> {
        let Some((offset, size)) = self.range_of(digest) else {
            return Err(ArchiveError::Incomplete { why: format!("the archive does not hold blob {digest}") });
        };
        if size > limit {
            let found = format!("{size} bytes");
            return Err(ArchiveError::TooLarge { what: format!("blob {digest}"), found, limit });
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut bytes, offset).map_err(|source| ArchiveError::read(offset, source))?;
        let found = Digest::of(&bytes);
        if found != digest {
            let member = format!("blob {digest}");
            return Err(ArchiveError::Digest { member, offset, found, wanted: digest });
        }
        Ok(bytes)
    }
}
