//! Members 1 to 5: what stands before the blobs, read into bounded memory.
//!
//! [`read_head`] reads the fixed framing and parses none of the content, so that the signature can
//! be checked over `manifest` before anything is believed. [`Head::parse`] then follows the chain
//! of digests: manifest, document, and everything that must follow from them.

use std::io::{ErrorKind, Read};

use super::document;
use super::error::{ArchiveError, Result};
use super::header::{self, BLOCK, Block, Member, claimed_blob, claimed_size, describe, padding};
use super::layout::Layout;
use super::{index, manifest, signature};
use crate::fsio::limits;
use crate::model::{Digest, ReleaseDocument};

/// The head of an archive as it was found. Its framing is right; its content is not believed yet.
#[derive(Debug, Clone)]
pub struct Head {
    /// Bytes of the release manifest: what signatures are over.
    pub manifest: Vec<u8>,
    /// Bytes of the release document.
    pub document: Vec<u8>,
    /// The Sigstore bundles, in their order.
    pub signatures: Vec<Vec<u8>>,
    /// Bytes of `index.json`.
    pub index_json: Vec<u8>,
    /// Length of the head: the blobs begin there.
    pub length: u64,
}

/// A release whose document is what its manifest names. Only the `trust` room says whether the
/// manifest is signed by a key that counts.
#[derive(Debug, Clone)]
pub struct Release {
    /// Bytes of the release manifest.
    pub manifest: Vec<u8>,
    /// Digest of the manifest: the identity of the release.
    pub digest: Digest,
    /// Bytes of the document.
    pub document_bytes: Vec<u8>,
    /// The document.
    pub document: ReleaseDocument,
    /// The Sigstore bundles, in their order.
    pub signatures: Vec<Vec<u8>>,
    /// Length of the head: the blobs begin there.
    pub head_length: u64,
}

impl Head {
    /// Digest of the release manifest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// Parses what the manifest binds, and holds all else in the head against what follows from it.
    ///
    /// # Errors
    ///
    /// When the document is not the manifest's, breaks a rule, or anything differs from what follows.
    pub fn parse(self) -> Result<Release> {
        // 1. The manifest names the document by size and digest.
        let (digest, size) = manifest::document_of(&self.manifest)?;
        let found_size = self.document.len() as u64;
        if found_size != size {
            let why = format!("says that the document has {size} bytes, and it has {found_size}");
            return Err(ArchiveError::Manifest { why });
        }
        let found = Digest::of(&self.document);
        if found != digest {
            let why = format!("names document {digest}, and the archive holds {found}");
            return Err(ArchiveError::Manifest { why });
        }
        // 2. Only now is the document parsed, and held against its own rules.
        let document = document::parse(&self.document)?;
        // 3. The manifest's other fields follow from the document.
        if let Some(at) = first_difference(&manifest::build(&document, &self.document)?, &self.manifest) {
            let why = format!("is not the one that follows from the document: they differ at byte {at}");
            return Err(ArchiveError::Manifest { why });
        }
        // 4. `index.json` follows from the document and the signatures.
        let index_json = index::build(&document, &self.manifest, &self.signatures)?;
        let layout = Layout::new(&document, size, self.manifest.len() as u64, index_json.len() as u64)?;
        if let Some(at) = first_difference(&index_json, &self.index_json) {
            let why = format!("they differ at byte {at} of {}", index_json.len());
            return Err(ArchiveError::Derived {
                member: "`index.json`".into(),
                offset: layout.index.start,
                why,
            });
        }
        // 5. The area was held against the bundles while it was read; its members must not stand again.
        for bundle in &self.signatures {
            let referrer = signature::referrer(bundle, &self.manifest);
            for content in [bundle, &referrer] {
                let digest = Digest::of(content);
                if document.blobs.iter().any(|blob| blob.digest == digest) {
                    let why = format!("lists blob {digest}, which is a part of a signature");
                    return Err(ArchiveError::Document { why });
                }
            }
        }
        Ok(Release {
            digest: self.digest(),
            manifest: self.manifest,
            document_bytes: self.document,
            document,
            signatures: self.signatures,
            head_length: self.length,
        })
    }
}

impl Release {
    /// Where everything stands in the archive of this release.
    ///
    /// # Errors
    ///
    /// When the sizes are beyond what a file can have; never for a release that was parsed.
    pub fn layout(&self) -> Result<Layout> {
        let index = index::build(&self.document, &self.manifest, &self.signatures)?;
        let document = self.document_bytes.len() as u64;
        Layout::new(&self.document, document, self.manifest.len() as u64, index.len() as u64)
    }
}

fn first_difference(wanted: &[u8], found: &[u8]) -> Option<usize> {
    if wanted == found {
        return None;
    }
    Some(wanted.iter().zip(found).take_while(|(a, b)| a == b).count())
}

/// The bytes of members 1 to 5: all that stands before the blobs.
///
/// # Errors
///
/// When the bundles (in the order of [`signature::arrange`]) do not fit their area.
pub fn to_bytes(
    document: &ReleaseDocument,
    document_bytes: &[u8],
    manifest: &[u8],
    bundles: &[Vec<u8>],
) -> Result<Vec<u8>> {
    let index_json = index::build(document, manifest, bundles)?;
    let mut head = Vec::new();
    for (member, content) in [
        (Member::OciLayout, index::OCI_LAYOUT),
        (Member::Index, &index_json),
        (Member::Blob(Digest::of(manifest)), manifest),
        (Member::Blob(Digest::of(document_bytes)), document_bytes),
    ] {
        head.extend_from_slice(&header::header(member, content.len() as u64));
        head.extend_from_slice(content);
        head.resize(head.len().next_multiple_of(512), 0);
    }
    head.extend_from_slice(&signature::area(bundles, manifest)?);
    Ok(head)
}

/// Reads members 1 to 5. `source` then stands at the first blob's header.
///
/// Nothing is parsed but tar headers, each of which must be the one form that is written; digests
/// in names are checked, and the signatures' referrer manifests against their bundles.
///
/// # Errors
///
/// When the input is no archive, ends early, or differs from the form in any byte.
pub fn read_head(source: &mut impl Read) -> Result<Head> {
    let mut reader = HeadReader { source, offset: 0 };
    // Member 1.
    let first = reader.first_block()?;
    let layout = index::OCI_LAYOUT;
    let wanted = header::header(Member::OciLayout, layout.len() as u64);
    if first != wanted {
        if !header::is_header(&first) {
            return Err(ArchiveError::NotAnArchive { found: what_begins_with(&first) });
        }
        return Err(reader.wrong(&first, Member::OciLayout, layout.len() as u64));
    }
    let offset = reader.offset;
    if reader.content(Member::OciLayout, layout.len() as u64)? != layout {
        let why = format!("wanted `{}`", String::from_utf8_lossy(layout));
        return Err(ArchiveError::Derived { member: "`oci-layout`".into(), offset, why });
    }
    // Member 2.
    let (_, index_json) = reader.member("`index.json`", limits::INDEX_JSON, |_| Some(Member::Index))?;
    // Members 3 and 4.
    let blob = |block: &Block| claimed_blob(block).map(Member::Blob);
    let (_, manifest) = reader.member("the release manifest", limits::RELEASE_MANIFEST, blob)?;
    let (_, document) = reader.member("the release document", limits::RELEASE_DOCUMENT, blob)?;
    // Member 5.
    let signatures = reader.signatures(&manifest)?;
    Ok(Head { manifest, document, signatures, index_json, length: reader.offset })
}

struct HeadReader<'a, R> {
    source: &'a mut R,
    offset: u64,
}

impl<R: Read> HeadReader<'_, R> {
    /// Fills as much of `buffer` as the source has.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.source.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => {
                    let member = Some("its head".to_owned());
                    return Err(ArchiveError::Read { offset: self.offset + filled as u64, member, source });
                }
            }
        }
        Ok(filled)
    }

    fn exact(&mut self, buffer: &mut [u8], member: &str) -> Result<()> {
        let filled = self.fill(buffer)? as u64;
        let wanted = self.offset + buffer.len() as u64;
        self.offset += filled;
        if self.offset < wanted {
            return Err(ArchiveError::Truncated { member: member.to_owned(), end: self.offset, wanted });
        }
        Ok(())
    }

    fn first_block(&mut self) -> Result<Block> {
        let mut block = [0; 512];
        match self.fill(&mut block)? {
            0 => Err(ArchiveError::NotAnArchive { found: "the input is empty".into() }),
            512 => {
                self.offset = BLOCK;
                Ok(block)
            }
            short => {
                Err(ArchiveError::NotAnArchive { found: format!("the input has no more than {short} bytes") })
            }
        }
    }

    fn block(&mut self, what: &str) -> Result<Block> {
        let mut block = [0; 512];
        self.exact(&mut block, &format!("the header of {what}"))?;
        Ok(block)
    }

    /// The error for a header that was just read.
    fn wrong(&self, found: &Block, member: Member, size: u64) -> ArchiveError {
        ArchiveError::Member {
            offset: self.offset - BLOCK,
            found: describe(found, &header::header(member, size)),
            wanted: header::wanted(member, size),
        }
    }

    /// A header whose name and size are not known beforehand: `name` finds the one, and the whole
    /// block must then be the form that is written for them.
    fn header(
        &mut self,
        what: &str,
        limit: u64,
        name: impl Fn(&Block) -> Option<Member>,
    ) -> Result<(Member, u64)> {
        let block = self.block(what)?;
        let wrong = |found: String| ArchiveError::Member {
            offset: self.offset - BLOCK,
            found,
            wanted: format!("{what} as a plain member"),
        };
        let (Some(member), Some(size)) = (name(&block), claimed_size(&block)) else {
            return Err(wrong(describe(&block, &header::header(Member::Index, 0))));
        };
        if block != header::header(member, size) {
            return Err(wrong(describe(&block, &header::header(member, size))));
        }
        if size > limit {
            let found = format!("{size} bytes");
            return Err(ArchiveError::TooLarge { what: what.to_owned(), found, limit });
        }
        Ok((member, size))
    }

    fn member(
        &mut self,
        what: &str,
        limit: u64,
        name: impl Fn(&Block) -> Option<Member>,
    ) -> Result<(Member, Vec<u8>)> {
        let (member, size) = self.header(what, limit, name)?;
        Ok((member, self.content(member, size)?))
    }

    /// Content of `size` bytes, which its caller has bounded, and its padding; a blob's digest is checked.
    fn content(&mut self, member: Member, size: u64) -> Result<Vec<u8>> {
        let offset = self.offset;
        let name = format!("`{member}`");
        let mut content = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        self.exact(&mut content, &name)?;
        self.padding(size, &name)?;
        if let Member::Blob(wanted) = member {
            let found = Digest::of(&content);
            if found != wanted {
                return Err(ArchiveError::Digest { member: name, offset, found, wanted });
            }
        }
        Ok(content)
    }

    fn padding(&mut self, size: u64, name: &str) -> Result<()> {
        let mut padding_bytes = [0; 512];
        // At most 511 bytes.
        let padding_bytes = &mut padding_bytes[..usize::try_from(padding(size)).unwrap_or_default()];
        let place = format!("in the padding after {name}");
        self.exact(padding_bytes, &place)?;
        self.zeros(padding_bytes, &place)
    }

    /// Checks bytes that were just read.
    fn zeros(&self, bytes: &[u8], place: &str) -> Result<()> {
        match bytes.iter().position(|byte| *byte != 0) {
            None => Ok(()),
            Some(at) => Err(ArchiveError::NotZero {
                offset: self.offset - bytes.len() as u64 + at as u64,
                place: place.to_owned(),
                found: bytes[at],
            }),
        }
    }

    fn signatures(&mut self, manifest: &[u8]) -> Result<Vec<Vec<u8>>> {
        let start = self.offset;
        let mut bundles: Vec<Vec<u8>> = Vec::new();
        loop {
            let used = self.offset - start;
            let Some(filler) = signature::filler(used) else {
                let why = format!("they take {used} bytes, more than are reserved");
                return Err(ArchiveError::Signatures { why });
            };
            let offset = self.offset;
            let block = self.block("a signature")?;
            if block == filler {
                let rest = signature::AREA - BLOCK - used;
                // The area has 192 KiB.
                let mut zeros = vec![0; usize::try_from(rest).unwrap_or_default()];
                self.exact(&mut zeros, "`signatures.reserved`")?;
                self.zeros(&zeros, "in `signatures.reserved`")?;
                return Ok(bundles);
            }
            // A referrer manifest, whose content must be the one that follows from the bundle behind it.
            let (Some(digest), Some(size)) = (claimed_blob(&block), claimed_size(&block)) else {
                return Err(self.wrong(&block, Member::Reserved, signature::AREA - BLOCK - used));
            };
            let member = Member::Blob(digest);
            if block != header::header(member, size) {
                return Err(self.wrong(&block, member, size));
            }
            if size > limits::SIGNATURE_BUNDLE {
                let what = format!("signature manifest `{member}`");
                let found = format!("{size} bytes");
                return Err(ArchiveError::TooLarge { what, found, limit: limits::SIGNATURE_BUNDLE });
            }
            let referrer = self.content(member, size)?;
            let (_, bundle) = self.member("a signature bundle", limits::SIGNATURE_BUNDLE, |block| {
                claimed_blob(block).map(Member::Blob)
            })?;
            if referrer != signature::referrer(&bundle, manifest) {
                let why = format!("wanted the manifest of bundle {}", Digest::of(&bundle));
                return Err(ArchiveError::Derived { member: format!("`{member}`"), offset, why });
            }
            if bundles.last().is_some_and(|last| Digest::of(last) >= Digest::of(&bundle)) {
                let why = format!("bundle {} is out of order or stands twice", Digest::of(&bundle));
                return Err(ArchiveError::Signatures { why });
            }
            if bundles.len() == limits::SIGNATURES {
                let why = format!("more than {} of them", limits::SIGNATURES);
                return Err(ArchiveError::Signatures { why });
            }
            bundles.push(bundle);
        }
    }
}

/// What a first block looks like, for the person who gave the wrong file.
fn what_begins_with(block: &Block) -> String {
    let kind = match block {
        [0x1f, 0x8b, ..] => "gzip-compressed data",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd-compressed data",
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz-compressed data",
        [b'P', b'K', 3, 4, ..] => "a zip archive",
        [b'{', ..] => "JSON",
        _ if block.iter().all(|byte| *byte == 0) => "zeros",
        _ => {
            let text: String =
                String::from_utf8_lossy(&block[..16]).chars().flat_map(char::escape_debug).collect();
            return format!("it begins with `{text}`");
        }
    };
    format!("it begins as {kind}")
}
