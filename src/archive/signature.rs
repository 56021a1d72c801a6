//! Signatures in the archive: their referrer manifests, which follow from the bundles' bytes, and
//! the area of fixed size that holds them. Whether a signature is good is not decided here.

use serde::Serialize;

use super::descriptor::{Descriptor, to_json};
use super::error::{ArchiveError, Result};
use super::header::{BLOCK, Block, Member, header};
use crate::fsio::limits;
use crate::model::{Digest, media_type};

/// Size of the area, headers included.
pub const AREA: u64 = 192 << 10;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Referrer<'a> {
    schema_version: u32,
    media_type: &'a str,
    artifact_type: &'a str,
    config: Descriptor<'a>,
    layers: [Descriptor<'a>; 1],
    subject: Descriptor<'a>,
}

/// The referrer manifest for a bundle with `bundle` digest and `bundle_size`, over the release
/// manifest with digest `release` and `release_size`.
fn referrer_of(bundle: Digest, bundle_size: u64, release: Digest, release_size: u64) -> Vec<u8> {
    to_json(&Referrer {
        schema_version: 2,
        media_type: media_type::OCI_MANIFEST,
        artifact_type: media_type::SIGSTORE_BUNDLE,
        config: Descriptor::empty(),
        layers: [Descriptor::new(media_type::SIGSTORE_BUNDLE, bundle, bundle_size)],
        subject: Descriptor::new(media_type::OCI_MANIFEST, release, release_size),
    })
}

/// The referrer manifest of the signature `bundle` over `release_manifest`.
#[must_use]
pub fn referrer(bundle: &[u8], release_manifest: &[u8]) -> Vec<u8> {
    let (release, size) = (Digest::of(release_manifest), release_manifest.len() as u64);
    referrer_of(Digest::of(bundle), bundle.len() as u64, release, size)
}

/// Size of the largest referrer manifest that can stand over a release manifest of `size` bytes.
pub(super) fn largest_referrer(size: u64) -> u64 {
    let any = Digest::from_raw([0; 32]);
    referrer_of(any, limits::SIGNATURE_BUNDLE, any, size).len() as u64
}

/// Sorts `bundles` as the area holds them and checks that they may stand in it together.
///
/// # Errors
///
/// When one stands twice or is too large, or there are too many.
pub fn arrange(bundles: &mut Vec<Vec<u8>>) -> Result<()> {
    let refuse = |why: String| Err(ArchiveError::Signatures { why });
    bundles.sort_by_cached_key(|bundle| Digest::of(bundle));
    if bundles.len() > limits::SIGNATURES {
        return refuse(format!("{} of them, at most {} are kept", bundles.len(), limits::SIGNATURES));
    }
    if bundles.windows(2).any(|pair| pair[0] == pair[1]) {
        return refuse("the same signature stands twice".to_owned());
    }
    for bundle in bundles {
        let size = bundle.len() as u64;
        if size == 0 || size > limits::SIGNATURE_BUNDLE {
            return refuse(format!("a bundle has {size} bytes, wanted 1 to {}", limits::SIGNATURE_BUNDLE));
        }
    }
    Ok(())
}

/// The whole area for `bundles`, in the order of [`arrange`]: [`AREA`] bytes.
///
/// # Errors
///
/// When they do not fit.
pub fn area(bundles: &[Vec<u8>], release_manifest: &[u8]) -> Result<Vec<u8>> {
    let mut parts = Vec::new();
    for bundle in bundles {
        for content in [&referrer(bundle, release_manifest), bundle] {
            let size = content.len() as u64;
            parts.extend_from_slice(&header(Member::Blob(Digest::of(content)), size));
            parts.extend_from_slice(content);
            parts.resize(parts.len().next_multiple_of(512), 0);
        }
    }
    let used = parts.len() as u64;
    let Some(filler) = filler(used) else {
        let why = format!("{} of them take {used} bytes, and {} are reserved", bundles.len(), AREA - BLOCK);
        return Err(ArchiveError::Signatures { why });
    };
    parts.extend_from_slice(&filler);
    // The filler fits, so what stands before it does.
    let mut area = vec![0; usize::try_from(AREA).unwrap_or(usize::MAX)];
    area[..parts.len()].copy_from_slice(&parts);
    Ok(area)
}

/// Header of the filler after `used` bytes of signatures; absent when there is no room for it.
pub(super) fn filler(used: u64) -> Option<Block> {
    Some(header(Member::Reserved, AREA.checked_sub(BLOCK)?.checked_sub(used)?))
}

/// The digest of the bundle, where `bytes` may be the manifest of a signature over the release
/// manifest with digest `release`. Whether they are is for [`referrer`] to say.
#[must_use]
pub fn bundle_of(bytes: &[u8], release: Digest) -> Option<Digest> {
    #[derive(serde::Deserialize)]
    struct Part {
        digest: Digest,
    }
    #[derive(serde::Deserialize)]
    struct Outline {
        layers: Vec<Part>,
        subject: Part,
    }
    let outline: Outline = serde_json::from_slice(bytes).ok()?;
    match outline.layers.as_slice() {
        [bundle] if outline.subject.digest == release => Some(bundle.digest),
        _ => None,
    }
}
