//! The release manifest: small, canonical, signed. Its digest is the release's identity.

use serde::{Deserialize, Serialize};

use super::descriptor::{Descriptor, to_json};
use super::error::{ArchiveError, Result};
use crate::model::{Digest, ReleaseDocument, media_type};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'a> {
    schema_version: u32,
    media_type: &'a str,
    artifact_type: &'a str,
    config: Descriptor<'a>,
    layers: Vec<Descriptor<'a>>,
    annotations: Annotations<'a>,
}

#[derive(Serialize)]
struct Annotations<'a> {
    #[serde(rename = "org.opencontainers.image.created")]
    created: String,
    #[serde(rename = "org.opencontainers.image.revision")]
    revision: &'a str,
    #[serde(rename = "org.opencontainers.image.title")]
    title: &'a str,
    #[serde(rename = "org.opencontainers.image.version")]
    version: &'a str,
}

/// The release manifest of `document`, whose bytes are `document_bytes`.
///
/// # Errors
///
/// When the document does not list the git bundle or the layer of rendered manifests.
pub fn build(document: &ReleaseDocument, document_bytes: &[u8]) -> Result<Vec<u8>> {
    let layer = |what: &str, digest: Digest, media_type| {
        let blob = document.blob(digest).ok_or_else(|| ArchiveError::Document {
            why: format!("names {what} {digest} and does not list it in `blobs`"),
        })?;
        Ok(Descriptor::new(media_type, digest, blob.size))
    };
    let mut layers = vec![
        layer("git bundle", document.git.bundle, media_type::GIT_BUNDLE)?,
        layer("rendered layer", document.rendered.layer, media_type::OCI_LAYER_GZIP)?,
    ];
    for bundle in document.bundles().into_iter().skip(1) {
        layers.push(layer("git bundle", bundle, media_type::GIT_BUNDLE)?);
    }
    for object in &document.git.lfs {
        layers.push(layer("Git LFS object", object.digest, media_type::GIT_LFS_OBJECT)?);
    }
    Ok(to_json(&Manifest {
        schema_version: 2,
        media_type: media_type::OCI_MANIFEST,
        artifact_type: media_type::RELEASE,
        config: Descriptor::new(media_type::RELEASE, Digest::of(document_bytes), document_bytes.len() as u64),
        layers,
        annotations: Annotations {
            created: document.created.to_string(),
            revision: document.git.commit.as_str(),
            title: document.name.as_str(),
            version: document.version.as_str(),
        },
    }))
}

/// Digest and size of the release document, as the release manifest `bytes` binds them. That the
/// rest of the manifest is what follows from the document is checked against [`build`] later.
///
/// # Errors
///
/// When the bytes are not a release manifest.
pub fn document_of(bytes: &[u8]) -> Result<(Digest, u64)> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Found {
        artifact_type: String,
        config: FoundConfig,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct FoundConfig {
        media_type: String,
        digest: Digest,
        size: u64,
    }
    let refuse = |why: String| ArchiveError::Manifest { why };
    let found: Found =
        serde_json::from_slice(bytes).map_err(|error| refuse(format!("does not parse: {error}")))?;
    for (what, text) in [("artifactType", found.artifact_type), ("config.mediaType", found.config.media_type)]
    {
        if text != media_type::RELEASE {
            let text: String = text.chars().take(200).flat_map(char::escape_debug).collect();
            return Err(refuse(format!("has `{what}` `{text}`, wanted `{}`", media_type::RELEASE)));
        }
    }
    Ok((found.config.digest, found.config.size))
}
