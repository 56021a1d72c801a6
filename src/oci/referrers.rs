//! What refers to a manifest: signatures, attestations, SBOMs.
//!
//! Found in three ways: the referrers API, its tag schema (both behind
//! [`BlobSource::referrers`]), and the tags that cosign derives from the digest. What a list says
//! about an entry is not believed: cosign writes wrong artifact types into it. The manifests say.

use super::error::Result;
use super::manifest::RawManifest;
use super::resolve::{Reads, side_by_side};
use super::source::BlobSource;
use crate::model::{Digest, ImageRef, Progress};

/// What cosign appends to `sha256-HEX`.
const SUFFIXES: [&str; 3] = ["sig", "att", "sbom"];

/// One manifest that refers to another.
pub(super) struct Referrer {
    pub manifest: RawManifest,
    pub artifact_type: Option<String>,
    /// The tag that leads to it, where one does.
    pub tag: Option<String>,
}

/// What refers to `subject` in the repository of `image`, sorted by digest.
pub(super) async fn discover(
    source: &dyn BlobSource,
    image: &ImageRef,
    subject: Digest,
    progress: &dyn Progress,
) -> Result<Vec<Referrer>> {
    let at = image.at_digest(subject);
    let mut found: Vec<Referrer> = Vec::new();
    for descriptor in source.referrers(&at).await? {
        if descriptor.digest == subject || found.iter().any(|old| old.manifest.digest == descriptor.digest) {
            continue;
        }
        let reference = image.at_digest(descriptor.digest);
        let manifest = match source.manifest(&reference).await {
            Ok(manifest) => manifest,
            Err(error) if error.is_not_found() => {
                progress.warn(format!("`{reference}` is listed as referring to `{at}`, but it is not there"));
                continue;
            }
            Err(error) => return Err(error),
        };
        let read = manifest.read()?;
        if read.subject != Some(subject) {
            progress
                .warn(format!("`{reference}` is listed as referring to `{at}`, but it does not: left out"));
            continue;
        }
        found.push(Referrer { manifest, artifact_type: read.artifact_type, tag: None });
    }
    let mut probes: Reads<'_, Option<(String, RawManifest)>> = Vec::new();
    for suffix in SUFFIXES {
        let tag = format!("sha256-{}.{suffix}", subject.hex());
        let Ok(reference) = at.at_tag(&tag) else { continue };
        probes.push(Box::pin(async move {
            if !source.exists(&reference).await? {
                return Ok(None);
            }
            Ok(Some((tag, source.manifest(&reference).await?)))
        }));
    }
    for (tag, manifest) in side_by_side(probes).await?.into_iter().flatten() {
        if manifest.digest == subject {
            continue;
        }
        if let Some(old) = found.iter_mut().find(|old| old.manifest.digest == manifest.digest) {
            old.tag.get_or_insert(tag);
            continue;
        }
        let artifact_type = manifest.read()?.artifact_type;
        found.push(Referrer { manifest, artifact_type, tag: Some(tag) });
    }
    found.sort_by_key(|referrer| referrer.manifest.digest);
    Ok(found)
}
