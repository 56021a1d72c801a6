//! Where everything stands: pure arithmetic on the sizes in the release document.

use std::ops::Range;

use super::error::{ArchiveError, Result};
use super::header::{BLOCK, padded};
use super::{index, signature};
use crate::model::ReleaseDocument;

/// Size of the end of the archive: two zero blocks.
pub const TRAILER: u64 = 2 * BLOCK;

/// Where one blob stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Offset of its header.
    pub header: u64,
    /// Size of its content.
    pub size: u64,
}

impl Place {
    /// Offset of the content.
    #[must_use]
    pub const fn content(&self) -> u64 {
        self.header + BLOCK
    }

    /// Offset of the first byte after the content and its padding.
    #[must_use]
    pub const fn end(&self) -> u64 {
        // `Layout::new` has computed the same sum with checks.
        self.content() + self.size.next_multiple_of(BLOCK)
    }
}

/// Offsets of every part of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Content of `index.json`.
    pub index: Range<u64>,
    /// Content of the release manifest.
    pub manifest: Range<u64>,
    /// Content of the release document.
    pub document: Range<u64>,
    /// The signature area, headers included.
    pub signatures: Range<u64>,
    /// The blobs, in the order of the document.
    pub blobs: Vec<Place>,
    /// Size of the whole archive.
    pub total: u64,
}

impl Layout {
    /// The layout of `document` (`document_size` bytes) with an `index.json` of `index_size` and a
    /// release manifest of `manifest_size` bytes.
    ///
    /// # Errors
    ///
    /// When the sizes add up to more than a file can have.
    pub fn new(
        document: &ReleaseDocument,
        document_size: u64,
        manifest_size: u64,
        index_size: u64,
    ) -> Result<Self> {
        let too_large = || ArchiveError::Document {
            why: "lists blobs that together are larger than any file can be".into(),
        };
        let mut at = 0_u64;
        let mut member = |size: u64| {
            let place = Place { header: at, size };
            let end = padded(size)
                .and_then(|size| size.checked_add(BLOCK))
                .and_then(|size| size.checked_add(at))
                // Offsets are signed numbers to the operating system.
                .filter(|end| i64::try_from(*end).is_ok())
                .ok_or_else(too_large)?;
            at = end;
            Ok::<_, ArchiveError>(place)
        };
        let content = |place: Place| place.content()..place.content() + place.size;
        member(index::OCI_LAYOUT.len() as u64)?;
        let index = content(member(index_size)?);
        let manifest = content(member(manifest_size)?);
        let document_place = member(document_size)?;
        let area = member(signature::AREA - BLOCK)?;
        let blobs = document.blobs.iter().map(|blob| member(blob.size)).collect::<Result<Vec<_>>>()?;
        let total =
            at.checked_add(TRAILER).filter(|end| i64::try_from(*end).is_ok()).ok_or_else(too_large)?;
        Ok(Self {
            index,
            manifest,
            document: content(document_place),
            signatures: area.header..area.end(),
            blobs,
            total,
        })
    }

    /// Where the blobs begin: members 1 to 5 stand before.
    #[must_use]
    pub const fn head_length(&self) -> u64 {
        self.signatures.end
    }

    /// Where the trailer begins.
    #[must_use]
    pub const fn trailer(&self) -> u64 {
        self.total - TRAILER
    }
}

/// The error for an archive of `found` bytes that must have `wanted`.
pub(super) fn wrong_length(found: u64, wanted: u64) -> ArchiveError {
    if found < wanted {
        return ArchiveError::Truncated { member: "the blobs".into(), end: found, wanted };
    }
    ArchiveError::Trailing { end: wanted, size: Some(found) }
}
