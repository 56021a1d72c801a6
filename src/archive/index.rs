//! `index.json`: what general OCI tools read. It follows from the document and the signatures.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::descriptor::{Descriptor, to_json};
use super::error::{ArchiveError, Result};
use super::signature;
use crate::fsio::limits;
use crate::model::{Digest, ReleaseDocument, media_type};

/// The content of `oci-layout` (OCI Image Specification, "OCI Image Layout").
pub const OCI_LAYOUT: &[u8] = b"{\"imageLayoutVersion\":\"1.0.0\"}";

/// An image index (OCI Image Specification, "OCI Image Index") as this crate writes it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Index<'a> {
    schema_version: u32,
    media_type: &'static str,
    manifests: Vec<Descriptor<'a>>,
}

impl<'a> Index<'a> {
    /// The index that lists `manifests`.
    #[must_use]
    pub const fn of(manifests: Vec<Descriptor<'a>>) -> Self {
        Self { schema_version: 2, media_type: media_type::OCI_INDEX, manifests }
    }
}

/// `index.json` of `document` with the release manifest `manifest` and the signatures `bundles` (in
/// the order of [`signature::arrange`]), padded to the size that [`signature::AREA`] full of
/// signatures would need.
///
/// # Errors
///
/// When the document names a manifest that it does not list, or the result is too large.
pub fn build(document: &ReleaseDocument, manifest: &[u8], bundles: &[Vec<u8>]) -> Result<Vec<u8>> {
    let sizes: HashMap<Digest, u64> = document.blobs.iter().map(|blob| (blob.digest, blob.size)).collect();
    let size_of = |digest: Digest| {
        sizes.get(&digest).copied().ok_or_else(|| ArchiveError::Document {
            why: format!("names manifest {digest} and does not list it in `blobs`"),
        })
    };
    let (repository, tag) = document.rendered_name();
    let mut release = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(manifest), manifest.len() as u64)
        .named(format!("{repository}:{tag}-release"));
    release.artifact_type = Some(media_type::RELEASE);
    let rendered = document.rendered.manifest;
    let rendered = Descriptor::new(media_type::OCI_MANIFEST, rendered, size_of(rendered)?)
        .named(format!("{repository}:{tag}"));
    let mut manifests = vec![release, rendered];
    for image in &document.images {
        let size = size_of(image.digest)?;
        manifests
            .push(Descriptor::new(&image.media_type, image.digest, size).named(image.reference.to_string()));
    }
    for image in &document.images {
        for referrer in &image.referrers {
            let plain = Descriptor::new(&referrer.media_type, referrer.digest, size_of(referrer.digest)?);
            manifests.push(match &referrer.tag {
                Some(tag) => plain.named(format!("{}:{tag}", image.reference.name())),
                None => plain,
            });
        }
    }
    // Two tags of one repository may lead to one image with its referrers: one entry is enough.
    let mut seen = HashSet::new();
    manifests.retain(|descriptor| seen.insert(descriptor.clone()));

    let entry = |digest, size| Descriptor {
        artifact_type: Some(media_type::SIGSTORE_BUNDLE),
        ..Descriptor::new(media_type::OCI_MANIFEST, digest, size)
    };
    let largest = entry(Digest::from_raw([0; 32]), signature::largest_referrer(manifest.len() as u64));
    let room = limits::SIGNATURES * (to_json(&largest).len() + ",".len());
    let bare = to_json(&Index::of(manifests.clone())).len();
    let size = bare + room + "\n".len();
    if size as u64 > limits::INDEX_JSON {
        let found = format!("{size} bytes");
        return Err(ArchiveError::TooLarge { what: "`index.json`".into(), found, limit: limits::INDEX_JSON });
    }
    for bundle in bundles {
        let referrer = signature::referrer(bundle, manifest);
        manifests.push(entry(Digest::of(&referrer), referrer.len() as u64));
    }
    let mut bytes = to_json(&Index::of(manifests));
    if bytes.len() >= size {
        let why = format!("{} of them do not fit `index.json`", bundles.len());
        return Err(ArchiveError::Signatures { why });
    }
    bytes.resize(size - 1, b' ');
    bytes.push(b'\n');
    Ok(bytes)
}
