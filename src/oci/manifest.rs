//! Indexes and manifests, read from bytes that are kept as they came.
//!
//! OCI Image Specification ("Image Manifest", "Image Index", "Content Descriptors") and Docker's
//! image manifest version 2, schema 2. Nothing here touches a file or the network.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;

use super::error::{OciError, Result, readable};
use crate::fsio::limits;
use crate::model::{BlobEntry, Digest, Platform, media_type};

/// An index or manifest, with its bytes as they are at the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawManifest {
    /// What it says it is.
    pub media_type: String,
    /// The digest of the bytes.
    pub digest: Digest,
    /// The bytes.
    pub bytes: Bytes,
}

impl RawManifest {
    /// The manifest as a blob of an archive.
    #[must_use]
    pub fn entry(&self) -> BlobEntry {
        BlobEntry { digest: self.digest, size: self.bytes.len() as u64, media_type: self.media_type.clone() }
    }
}

/// A content descriptor, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of what it describes.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes. Negative numbers and fractions are refused.
    pub size: u64,
    /// Where else it may be downloaded.
    #[serde(default, deserialize_with = "null_is_default")]
    pub urls: Vec<String>,
    /// Annotations.
    #[serde(default, deserialize_with = "null_is_default")]
    pub annotations: BTreeMap<String, String>,
    /// Platform of a child of an index.
    #[serde(default)]
    platform: Option<RawPlatform>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct RawPlatform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

impl RawPlatform {
    fn read(&self) -> Option<Platform> {
        let mut text = format!("{}/{}", self.os, self.architecture);
        if let Some(variant) = self.variant.as_deref().filter(|variant| !variant.is_empty()) {
            text = format!("{text}/{variant}");
        }
        // BuildKit writes `unknown/unknown` for what runs nowhere.
        text.parse().ok().filter(|_| self.os != "unknown")
    }
}

/// The annotation by which BuildKit marks its attestations in an index.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// The annotation that says which child they speak of.
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";

impl Descriptor {
    /// The platform it states, if it is one that something can run on.
    #[must_use]
    pub fn platform(&self) -> Option<Platform> {
        self.platform.as_ref().and_then(RawPlatform::read)
    }

    /// The child of the same index that this one is a `BuildKit` attestation of.
    #[must_use]
    pub fn attests(&self) -> Option<Digest> {
        if self.annotations.get(REFERENCE_TYPE).map(String::as_str) != Some("attestation-manifest") {
            return None;
        }
        self.annotations.get(REFERENCE_DIGEST)?.parse().ok()
    }

    /// Whether its layer may stay away from registries (OCI Image Specification,
    /// "Non-Distributable Layers"; Docker's foreign layers).
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.media_type.contains(".nondistributable.") || self.media_type.contains(".foreign.")
    }

    /// What it describes as a blob of an archive.
    #[must_use]
    pub fn entry(&self) -> BlobEntry {
        BlobEntry { digest: self.digest, size: self.size, media_type: self.media_type.clone() }
    }
}

/// What a manifest leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// An index or manifest list: its children.
    Index(Vec<Descriptor>),
    /// A manifest of one image or artifact.
    Image {
        /// Its config.
        config: Descriptor,
        /// Its layers, in order.
        layers: Vec<Descriptor>,
    },
}

/// A manifest, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// What it leads to.
    pub content: Content,
    /// What it refers to, if it is a referrer.
    pub subject: Option<Digest>,
    /// The type of artifact: its own word, else its config's media type.
    pub artifact_type: Option<String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    #[serde(default, deserialize_with = "null_is_default")]
    annotations: BTreeMap<String, String>,
    #[serde(rename = "fsLayers")]
    fs_layers: Option<serde::de::IgnoredAny>,
}

/// Go writes an empty list or map as `null`.
fn null_is_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// What a manifest was asked as, and what its source said about it.
#[derive(Debug, Clone, Default)]
pub(super) struct Claim<'a> {
    /// What was asked for, for people.
    pub what: &'a str,
    /// Where the bytes come from, for people.
    pub from: &'a str,
    /// Media type that the source states beside the bytes.
    pub media_type: Option<&'a str>,
    /// The digest that was asked for.
    pub pinned: Option<Digest>,
    /// The digest that the source states beside the bytes.
    pub promised: Option<Digest>,
}

/// Media types that say nothing about what stands in the bytes.
fn says_nothing(media_type: &str) -> bool {
    matches!(
        media_type,
        "" | "application/json" | "application/octet-stream" | "text/plain" | "binary/octet-stream"
    )
}

/// Whether bytes begin as a web page does.
pub(super) fn looks_like_html(content_type: Option<&str>, bytes: &[u8]) -> bool {
    content_type.is_some_and(|text| text.starts_with("text/html") || text.starts_with("application/xhtml"))
        || bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'<')
}

impl RawManifest {
    /// Checks bytes that a source handed out as a manifest.
    pub(super) fn check(bytes: Bytes, claim: &Claim<'_>) -> Result<Self> {
        let what = || claim.what.to_owned();
        let from = || claim.from.to_owned();
        let wrong = |why: String| OciError::Manifest { what: what(), from: from(), why };
        if bytes.len() as u64 > limits::MANIFEST {
            return Err(OciError::TooLarge { what: what(), from: from(), limit: limits::MANIFEST });
        }
        let digest = Digest::of(&bytes);
        for wanted in [claim.pinned, claim.promised].into_iter().flatten() {
            if wanted != digest {
                return Err(OciError::WrongDigest { what: what(), from: from(), got: digest, wanted });
            }
        }
        let stated = claim.media_type.map(|text| text.split(';').next().unwrap_or_default().trim());
        let stated = stated.filter(|text| !says_nothing(text));
        let schema1 = |text: &str| text.starts_with("application/vnd.docker.distribution.manifest.v1+");
        if let Some(media_type) = stated.filter(|text| schema1(text)) {
            return Err(OciError::Schema1 { what: what(), from: from(), media_type: readable(media_type) });
        }
        let document: RawDocument =
            serde_json::from_slice(&bytes).map_err(|error| wrong(format!("not a manifest: {error}")))?;
        let own = document.media_type.as_deref().filter(|text| !text.is_empty());
        if document.schema_version == Some(1) || document.fs_layers.is_some() || own.is_some_and(schema1) {
            let media_type = readable(own.or(stated).unwrap_or("no media type"));
            return Err(OciError::Schema1 { what: what(), from: from(), media_type });
        }
        if let (Some(stated), Some(own)) = (stated, own)
            && stated != own
        {
            return Err(wrong(format!(
                "its source calls it `{}`, and it calls itself `{}`",
                readable(stated),
                readable(own)
            )));
        }
        let media_type = match own.or(stated) {
            Some(text) => text.to_owned(),
            None if document.manifests.is_some() => media_type::OCI_INDEX.to_owned(),
            None => media_type::OCI_MANIFEST.to_owned(),
        };
        let raw = Self { media_type, digest, bytes };
        raw.understand(&document).map_err(wrong)?;
        Ok(raw)
    }

    /// What the manifest leads to.
    ///
    /// # Errors
    ///
    /// When the bytes are not what the media type says.
    pub fn read(&self) -> Result<Manifest> {
        let wrong = |why| OciError::Manifest {
            what: format!("manifest `{}`", self.digest),
            from: "its source".to_owned(),
            why,
        };
        let document =
            serde_json::from_slice(&self.bytes).map_err(|error| wrong(format!("not a manifest: {error}")))?;
        self.understand(&document).map_err(wrong)
    }

    fn understand(&self, document: &RawDocument) -> Result<Manifest, String> {
        if document.schema_version != Some(2) {
            return Err(match document.schema_version {
                Some(found) => format!("schemaVersion is {found}, wanted 2"),
                None => "not a manifest: no schemaVersion, wanted 2".to_owned(),
            });
        }
        // A document that reads as both means two things to two clients (CVE-2021-41190).
        if document.manifests.is_some() && (document.layers.is_some() || document.config.is_some()) {
            return Err("it holds `manifests` beside `config` or `layers`, wanted one kind".to_owned());
        }
        let content = if media_type::is_index(&self.media_type) {
            let children = document
                .manifests
                .clone()
                .ok_or_else(|| format!("`{}` without `manifests`", self.media_type))?;
            if children.len() > limits::IMAGES {
                return Err(format!("{} children, at most {} are read", children.len(), limits::IMAGES));
            }
            Content::Index(children)
        } else if media_type::is_manifest(&self.media_type) {
            let config =
                document.config.clone().ok_or_else(|| format!("`{}` without `config`", self.media_type))?;
            Content::Image { config, layers: document.layers.clone().unwrap_or_default() }
        } else {
            return Err(format!(
                "media type `{}`, wanted an OCI or Docker (schema 2) image manifest or index",
                readable(&self.media_type)
            ));
        };
        let descriptors: Box<dyn Iterator<Item = &Descriptor>> = match &content {
            Content::Index(children) => Box::new(children.iter()),
            Content::Image { config, layers } => Box::new(std::iter::once(config).chain(layers)),
        };
        let mut total = 0_i64;
        for descriptor in descriptors {
            total = i64::try_from(descriptor.size).ok().and_then(|size| total.checked_add(size)).ok_or_else(
                || format!("`{}` has {} bytes: no such size", descriptor.digest, descriptor.size),
            )?;
        }
        let artifact_type = document.artifact_type.clone().filter(|text| !text.is_empty()).or_else(|| {
            document.config.as_ref().map(|config| config.media_type.clone()).filter(|text| !text.is_empty())
        });
        Ok(Manifest {
            content,
            subject: document.subject.as_ref().map(|subject| subject.digest),
            artifact_type,
            annotations: document.annotations.clone(),
        })
    }
}

/// The platform that an image's config states, if it does.
#[must_use]
pub(super) fn platform_of_config(bytes: &[u8]) -> Option<Platform> {
    serde_json::from_slice::<RawPlatform>(bytes).ok().as_ref().and_then(RawPlatform::read)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn check(media_type: Option<&str>, text: &str) -> Result<RawManifest> {
        let claim = Claim { what: "image `x`", from: "`r`", media_type, ..Claim::default() };
        RawManifest::check(Bytes::copy_from_slice(text.as_bytes()), &claim)
    }

    fn image(extra: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,{extra}"config":{{"mediaType":"c","digest":"sha256:{HEX}","size":2}},"layers":[]}}"#
        )
    }

    #[test]
    fn the_media_type_comes_from_the_source_or_the_bytes() {
        let own = format!(r#""mediaType":"{}","#, media_type::OCI_MANIFEST);
        for (stated, extra) in [
            (Some(media_type::OCI_MANIFEST), ""),
            (None, own.as_str()),
            (Some("application/json; charset=utf-8"), own.as_str()),
            (None, ""),
        ] {
            assert_eq!(check(stated, &image(extra)).unwrap().media_type, media_type::OCI_MANIFEST);
        }
        assert_eq!(
            check(Some(media_type::DOCKER_MANIFEST), &image("")).unwrap().media_type,
            media_type::DOCKER_MANIFEST
        );
        let error = check(Some(media_type::DOCKER_MANIFEST), &image(&own)).unwrap_err().to_string();
        assert!(error.contains("its source calls it `application/vnd.docker"), "{error}");
    }

    #[test]
    fn refusals_say_what_was_found() {
        for (stated, text, want) in [
            (None, r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(), "schema 1"),
            (Some("application/vnd.docker.distribution.manifest.v1+prettyjws"), "{}".to_owned(), "schema 1"),
            (None, "<html>".to_owned(), "not a manifest"),
            (None, r#"{"schemaVersion":3}"#.to_owned(), "schemaVersion is 3, wanted 2"),
            (Some("application/x-tar"), image(""), "media type `application/x-tar`"),
            (None, image("").replace("\"size\":2", "\"size\":-2"), "not a manifest"),
            (None, image("").replace("\"size\":2", "\"size\":2.5"), "not a manifest"),
            (None, image("").replace("\"size\":2", "\"size\":9223372036854775808"), "no such size"),
            (None, image("").replace("sha256:e", "sha512:e"), "uses algorithm `sha512`"),
            (None, image(r#""manifests":[],"#), "wanted one kind"),
            (Some(media_type::OCI_INDEX), image(""), "without `manifests`"),
        ] {
            let error = check(stated, &text).unwrap_err().to_string();
            assert!(error.contains(want), "{error} lacks {want}");
        }
        let deep = "[".repeat(100_000);
        assert!(check(None, &deep).is_err());
    }

    #[test]
    fn sizes_that_overflow_together_are_refused() {
        let descriptor = format!(r#"{{"mediaType":"l","digest":"sha256:{HEX}","size":{}}}"#, i64::MAX);
        let text = image("").replace(r#""layers":[]"#, &format!(r#""layers":[{descriptor}]"#));
        assert!(check(None, &text).unwrap_err().to_string().contains("no such size"));
    }

    #[test]
    fn platforms_and_attestations() {
        let text = format!(
            r#"{{"mediaType":"m","digest":"sha256:{HEX}","size":1,"platform":{{"os":"unknown","architecture":"unknown"}},
            "annotations":{{"vnd.docker.reference.type":"attestation-manifest","vnd.docker.reference.digest":"sha256:{HEX}"}}}}"#
        );
        let descriptor: Descriptor = serde_json::from_str(&text).unwrap();
        assert_eq!(descriptor.platform(), None);
        assert_eq!(descriptor.attests(), Some(format!("sha256:{HEX}").parse().unwrap()));
        assert_eq!(
            platform_of_config(br#"{"os":"linux","architecture":"arm","variant":"v7"}"#).unwrap().to_string(),
            "linux/arm/v7"
        );
        assert_eq!(platform_of_config(b"{}"), None);
    }
}
