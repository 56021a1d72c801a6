//! What refers to a manifest: signatures, attestations, SBOMs.
//!
//! Found in three ways: the referrers API, its tag schema (both behind
//! [`BlobSource::referrers`]), and the tags that cosign derives from the digest. What a list says
//! about an entry is not believed: cosign writes wrong artifact types into it. The manifests say.

use super::error::Result;
use super::manifest::{Manifest, RawManifest};
use super::resolve::{Reads, side_by_side};
use super::source::BlobSource;
use crate::model::config::Referrers;
use crate::model::{Digest, ImageRef, Progress, media_type};

/// What cosign appends to `sha256-HEX`. The first is that of signatures.
const SUFFIXES: [&str; 3] = ["sig", "att", "sbom"];
/// Artifact types that are signatures whatever they hold: cosign's and Notation's.
const SIGNATURES: [&str; 2] =
    ["application/vnd.dev.cosign.artifact.sig.v1+json", "application/vnd.cncf.notary.signature"];
/// The annotation by which cosign says what a bundle's envelope states.
const PREDICATE_TYPE: &str = "dev.sigstore.bundle.predicateType";
/// What it states when it is a signature of the image and nothing more.
const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";

/// One manifest that refers to another.
pub(super) struct Referrer {
    pub manifest: RawManifest,
    pub artifact_type: Option<String>,
    /// The tag that leads to it, where one does.
    pub tag: Option<String>,
}

/// Whether a manifest that refers to another one is a signature of it (`docs/formats.md`, "What
/// refers to an image").
fn is_signature(manifest: &Manifest) -> bool {
    let Some(kind) = manifest.artifact_type.as_deref() else { return false };
    SIGNATURES.contains(&kind)
        || kind.starts_with(media_type::SIGSTORE_BUNDLES)
            && manifest.annotations.get(PREDICATE_TYPE).is_none_or(|stated| stated == SIGNED)
}

/// What of `which` refers to `subject` in the repository of `image`, sorted by digest.
pub(super) async fn discover(
    source: &dyn BlobSource,
    image: &ImageRef,
    subject: Digest,
    which: Referrers,
    progress: &dyn Progress,
) -> Result<Vec<Referrer>> {
    let suffixes = match which {
        Referrers::All => &SUFFIXES[..],
        Referrers::Signatures => &SUFFIXES[..1],
        Referrers::None => return Ok(Vec::new()),
    };
    let at = image.at_digest(subject);
    let (listed, tagged) = tokio::try_join!(
        listed(source, &at, subject, which, progress),
        tagged(source, &at, subject, suffixes)
    )?;
    let mut found = listed;
    for (tag, manifest) in tagged {
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

/// What the referrers API of `at`, or its tag schema, lists, as the manifests themselves have it.
async fn listed(
    source: &dyn BlobSource,
    at: &ImageRef,
    subject: Digest,
    which: Referrers,
    progress: &dyn Progress,
) -> Result<Vec<Referrer>> {
    let mut found: Vec<Referrer> = Vec::new();
    for descriptor in source.referrers(at).await? {
        if descriptor.digest == subject || found.iter().any(|old| old.manifest.digest == descriptor.digest) {
            continue;
        }
        let reference = at.at_digest(descriptor.digest);
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
        if which == Referrers::Signatures && !is_signature(&read) {
            continue;
        }
        found.push(Referrer { manifest, artifact_type: read.artifact_type, tag: None });
    }
    Ok(found)
}

/// What stands under the tags that cosign derives from the digest.
async fn tagged(
    source: &dyn BlobSource,
    at: &ImageRef,
    subject: Digest,
    suffixes: &[&str],
) -> Result<Vec<(String, RawManifest)>> {
    let mut probes: Reads<'_, Option<(String, RawManifest)>> = Vec::new();
    for suffix in suffixes {
        let tag = format!("sha256-{}.{suffix}", subject.hex());
        let Ok(reference) = at.at_tag(&tag) else { continue };
        probes.push(Box::pin(async move {
            if !source.exists(&reference).await? {
                return Ok(None);
            }
            Ok(Some((tag, source.manifest(&reference).await?)))
        }));
    }
    Ok(side_by_side(probes).await?.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shapes that cosign 2, cosign 3, Notation and oras write.
    #[test]
    fn what_counts_as_a_signature() {
        let bundle = media_type::SIGSTORE_BUNDLE;
        for (kind, predicate, want) in [
            (bundle, Some(SIGNED), true),
            (bundle, None, true),
            (bundle, Some("https://cosign.sigstore.dev/attestation/v1"), false),
            (bundle, Some("https://spdx.dev/Document"), false),
            (SIGNATURES[0], None, true),
            (SIGNATURES[1], None, true),
            ("application/vnd.example.sbom", None, false),
            ("application/vnd.in-toto+json", None, false),
        ] {
            let manifest = Manifest {
                content: super::super::manifest::Content::Index(Vec::new()),
                subject: None,
                artifact_type: Some(kind.to_owned()),
                annotations: predicate
                    .map(|stated| (PREDICATE_TYPE.to_owned(), stated.to_owned()))
                    .into_iter()
                    .collect(),
            };
            assert_eq!(is_signature(&manifest), want, "{kind} {predicate:?}");
        }
    }
}
