//! Releases made up for this room's tests: real digests, real bytes, no images.

use std::collections::BTreeMap;

use super::catalog::{Envelope, SignatureBlobs};
use super::releases::Parts;
use super::{StoreError, StoreWriter, StoredRelease};
use crate::archive;
use crate::model::{
    AbsentManifest, BlobEntry, Digest, GitContent, GitRef, ImageEntry, ReferrerEntry, ReleaseDocument,
    RenderedContent, media_type,
};

/// A release and the bytes of all its blobs.
pub struct Sample {
    pub document: ReleaseDocument,
    pub envelope: Envelope,
    pub bytes: BTreeMap<Digest, Vec<u8>>,
}

impl Sample {
    /// The digest of the blob that is made from `text`.
    pub fn digest(text: &str) -> Digest {
        Digest::of(Self::content(text).as_slice())
    }

    fn content(text: &str) -> Vec<u8> {
        format!("{{\"blob\":\"{text}\"}}").into_bytes()
    }

    /// A release of images, each a reference and the text that its manifest is made from.
    pub fn new(name: &str, version: &str, images: &[(&str, &str)]) -> Self {
        let oid = "1".repeat(40);
        let document = ReleaseDocument {
            format: 1,
            requires: Vec::new(),
            name: name.parse().unwrap(),
            version: version.parse().unwrap(),
            sequence: 1,
            created: "2026-11-21T10:00:00Z".parse().unwrap(),
            generator: "fleetpack 0.1.0".to_owned(),
            git: GitContent {
                commit: oid.parse().unwrap(),
                refs: vec![GitRef { name: "refs/heads/main".parse().unwrap(), target: oid.parse().unwrap() }],
                bundle: Self::digest(&format!("git {name} {version}")),
                submodules: Vec::new(),
                lfs: Vec::new(),
            },
            rendered: RenderedContent {
                manifest: Self::digest(&format!("rendered {name} {version}")),
                layer: Self::digest(&format!("layer {name} {version}")),
                objects: Vec::new(),
            },
            images: Vec::new(),
            blobs: Vec::new(),
        };
        let none = BlobEntry { digest: Digest::of(b""), size: 0, media_type: String::new() };
        let envelope = Envelope { manifest: none.clone(), document: none, signatures: Vec::new() };
        let mut sample = Self { document, envelope, bytes: BTreeMap::new() };
        sample.add(&format!("rendered {name} {version}"), media_type::OCI_MANIFEST);
        sample.add(&format!("git {name} {version}"), media_type::GIT_BUNDLE);
        sample.add(&format!("layer {name} {version}"), media_type::OCI_LAYER_GZIP);
        for (reference, text) in images {
            let digest = sample.add(text, media_type::OCI_MANIFEST);
            sample.document.images.push(ImageEntry {
                reference: reference.parse().unwrap(),
                digest,
                media_type: media_type::OCI_MANIFEST.to_owned(),
                platforms: Vec::new(),
                absent: Vec::new(),
                referrers: Vec::new(),
                used_by: Vec::new(),
            });
        }
        sample.seal();
        sample
    }

    /// Adds a blob that the document lists.
    pub fn add(&mut self, text: &str, media_type: &str) -> Digest {
        let entry = self.keep(Self::content(text), media_type);
        let digest = entry.digest;
        if self.document.blob(digest).is_none() {
            self.document.blobs.push(entry);
        }
        digest
    }

    pub fn add_referrer(&mut self, image: usize, text: &str, tag: Option<&str>) {
        let digest = self.add(text, media_type::OCI_MANIFEST);
        let image = &mut self.document.images[image];
        image.referrers.push(ReferrerEntry {
            digest,
            media_type: media_type::OCI_MANIFEST.to_owned(),
            subject: image.digest,
            tag: tag.map(str::to_owned),
            artifact_type: None,
        });
        self.seal();
    }

    pub fn add_absent(&mut self, image: usize, text: &str) {
        let digest = Self::digest(text);
        self.document.images[image].absent.push(AbsentManifest { digest, platform: None });
        self.seal();
    }

    fn keep(&mut self, content: Vec<u8>, media_type: &str) -> BlobEntry {
        let digest = Digest::of(&content);
        let size = content.len() as u64;
        self.bytes.insert(digest, content);
        BlobEntry { digest, size, media_type: media_type.to_owned() }
    }

    /// Brings the document into its order, and makes the release manifest and one signature anew.
    fn seal(&mut self) {
        let empty = self.keep(media_type::EMPTY_BYTES.to_vec(), media_type::EMPTY);
        let document = &mut self.document;
        document.images.sort_by(|a, b| a.reference.cmp(&b.reference));
        if document.blob(empty.digest).is_none() {
            document.blobs.push(empty);
        }
        let (git, layer) = (document.git.bundle, document.rendered.layer);
        document.blobs.sort_by_key(|blob| {
            let place = match blob.media_type.as_str() {
                _ if blob.digest == git => 1,
                _ if blob.digest == layer => 2,
                media_type::OCI_MANIFEST | media_type::EMPTY => 0,
                _ => 3,
            };
            (place, blob.digest)
        });
        let document_bytes = archive::document::to_bytes(&self.document);
        let manifest = archive::manifest::build(&self.document, &document_bytes).unwrap();
        let bundle = format!("{{\"signs\":\"{}\"}}", Digest::of(&manifest)).into_bytes();
        let referrer = archive::signature::referrer(&bundle, &manifest);
        self.envelope = Envelope {
            manifest: self.keep(manifest, media_type::OCI_MANIFEST),
            document: self.keep(document_bytes, media_type::RELEASE),
            signatures: vec![SignatureBlobs {
                manifest: self.keep(referrer, media_type::OCI_MANIFEST),
                bundle: self.keep(bundle, media_type::SIGSTORE_BUNDLE),
            }],
        };
    }

    /// Takes the release into a store, blobs first.
    pub fn ingest(&self, store: &StoreWriter, now: i64) -> StoredRelease {
        self.ingest_blobs(store);
        self.record(store, now).unwrap()
    }

    /// Takes the blobs of the document alone.
    pub fn ingest_blobs(&self, store: &StoreWriter) {
        store.put_all(self.document.blobs.iter().map(|blob| self.bytes[&blob.digest].as_slice())).unwrap();
    }

    /// Records the release.
    pub fn record(&self, store: &StoreWriter, now: i64) -> Result<StoredRelease, StoreError> {
        let bytes = |blob: &BlobEntry| self.bytes[&blob.digest].clone();
        let bundles: Vec<_> = self.envelope.signatures.iter().map(|pair| bytes(&pair.bundle)).collect();
        let (manifest, document) = (bytes(&self.envelope.manifest), bytes(&self.envelope.document));
        let parts = Parts { manifest: &manifest, document: &document, bundles: &bundles };
        store.record_parts(parts, jiff::Timestamp::from_second(now).unwrap())
    }

    pub fn release_digest(&self) -> Digest {
        self.envelope.manifest.digest
    }
}
