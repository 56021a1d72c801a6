//! A small release with everything in it, and ways to write, read and damage its archive.

mod refusals;
mod round_trip;
mod rules;
mod sinks;
mod writing;

use std::collections::HashMap;
use std::io::{self, Cursor, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::{BlobSink, BlobWrite, Discard, Release, Result, Source, StreamReport, Writer, read_head, stream};
use crate::model::progress::Silent;
use crate::model::{
    AbsentManifest, BlobEntry, Digest, GitContent, GitRef, ImageEntry, ReferrerEntry, ReleaseDocument,
    RenderedContent, media_type,
};

/// A release and the bytes of its blobs.
#[derive(Clone)]
pub(super) struct Fixture {
    pub document: ReleaseDocument,
    pub contents: HashMap<Digest, Vec<u8>>,
}

/// Collects blobs as a release would list them.
#[derive(Default)]
struct Blobs {
    contents: HashMap<Digest, Vec<u8>>,
    small: Vec<BlobEntry>,
    large: Vec<BlobEntry>,
}

impl Blobs {
    fn add(&mut self, media_type: &str, bytes: Vec<u8>, small: bool) -> Value {
        let entry =
            BlobEntry { digest: Digest::of(&bytes), size: bytes.len() as u64, media_type: media_type.into() };
        let descriptor = json!({"mediaType": media_type, "digest": entry.digest, "size": entry.size});
        if self.contents.insert(entry.digest, bytes).is_none() {
            if small { &mut self.small } else { &mut self.large }.push(entry);
        }
        descriptor
    }

    fn manifest(&mut self, media_type: &str, manifest: &Value) -> Value {
        self.add(media_type, serde_json::to_vec(manifest).unwrap(), true)
    }

    fn image(&mut self, media_type: &str, config: &str, layers: &[Value]) -> Value {
        let config = self.add("application/vnd.oci.image.config.v1+json", config.into(), true);
        let manifest =
            json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers});
        self.manifest(media_type, &manifest)
    }
}

fn digest_of(descriptor: &Value) -> Digest {
    descriptor["digest"].as_str().unwrap().parse().unwrap()
}

/// Bytes that do not repeat.
pub(super) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

impl Fixture {
    /// Two images that share a layer: a sparse index with a child that was left out, a signature
    /// with a subject and one with a tag; a single manifest under two names.
    pub fn new() -> Self {
        Self::with_layer(3000)
    }

    /// The same with a layer of `length` bytes.
    pub fn with_layer(length: usize) -> Self {
        let mut blobs = Blobs::default();
        let empty = blobs.add(media_type::EMPTY, media_type::EMPTY_BYTES.to_vec(), true);
        let layer = |seed, length| (media_type::OCI_LAYER_GZIP, noise(seed, length), false);
        let add = |blobs: &mut Blobs, (kind, bytes, small)| blobs.add(kind, bytes, small);
        let shared = add(&mut blobs, layer(1, 1024));
        let first = add(&mut blobs, layer(2, length));
        let second = add(&mut blobs, layer(3, 1));
        let nothing = add(&mut blobs, layer(4, 0));

        let child = blobs.image(media_type::OCI_MANIFEST, "{\"os\":\"linux\"}", &[shared.clone(), first]);
        let absent = Digest::of(b"a child for another platform");
        let absent_child = json!({"mediaType": media_type::OCI_MANIFEST, "digest": absent, "size": 77});
        let index = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX,
            "manifests": [child, absent_child]});
        let index = blobs.manifest(media_type::OCI_INDEX, &index);
        let docker = blobs.image(
            media_type::DOCKER_MANIFEST,
            "{\"os\":\"linux\",\"x\":1}",
            &[shared, second, nothing],
        );

        let statement = blobs.add("application/vnd.example+json", b"signed".to_vec(), false);
        let referrer = json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
            "artifactType": "application/vnd.example+json", "config": empty.clone(),
            "layers": [statement], "subject": index});
        let referrer = blobs.manifest(media_type::OCI_MANIFEST, &referrer);
        let payload =
            blobs.add("application/vnd.dev.cosign.simplesigning.v1+json", b"payload".to_vec(), false);
        let legacy = blobs.image(media_type::OCI_MANIFEST, "{\"sig\":1}", &[payload]);

        let layer = noise(5, 700);
        let rendered_layer = Digest::of(&layer);
        let rendered = json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
            "config": {"mediaType": media_type::FLUX_CONFIG, "digest": empty["digest"], "size": 2},
            "layers": [{"mediaType": media_type::OCI_LAYER_GZIP, "digest": rendered_layer, "size": 700}]});
        let rendered = blobs.manifest(media_type::OCI_MANIFEST, &rendered);
        let bundle = noise(6, 5000);
        let git_bundle = Digest::of(&bundle);

        let Blobs { mut contents, mut small, large } = blobs;
        small.sort_by_key(|blob| blob.digest);
        for (kind, bytes) in [(media_type::GIT_BUNDLE, bundle), (media_type::OCI_LAYER_GZIP, layer)] {
            let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
            small.push(BlobEntry { digest, size, media_type: kind.into() });
            contents.insert(digest, bytes);
        }
        small.extend(large);
        let commit: crate::model::GitOid = "1".repeat(40).parse().unwrap();
        let image = |reference: &str, descriptor: &Value| ImageEntry {
            reference: reference.parse().unwrap(),
            digest: digest_of(descriptor),
            media_type: descriptor["mediaType"].as_str().unwrap().into(),
            platforms: Vec::new(),
            absent: Vec::new(),
            referrers: Vec::new(),
            used_by: Vec::new(),
        };
        let mut sparse = image("registry.example.com/shop/web:1.0", &index);
        sparse.absent.push(AbsentManifest { digest: absent, platform: None });
        for (descriptor, tag) in
            [(&referrer, None), (&legacy, Some(format!("sha256-{}.sig", sparse.digest.hex())))]
        {
            sparse.referrers.push(ReferrerEntry {
                digest: digest_of(descriptor),
                media_type: media_type::OCI_MANIFEST.into(),
                subject: sparse.digest,
                tag,
                artifact_type: None,
            });
        }
        let document = ReleaseDocument {
            format: 1,
            requires: Vec::new(),
            name: "shop".parse().unwrap(),
            version: "1.4.2+b7".parse().unwrap(),
            sequence: 7,
            created: "2026-11-21T10:00:00Z".parse().unwrap(),
            generator: "fleetpack test".into(),
            git: GitContent {
                refs: vec![GitRef { name: "refs/heads/main".parse().unwrap(), target: commit.clone() }],
                commit,
                bundle: git_bundle,
                submodules: Vec::new(),
                lfs: Vec::new(),
            },
            rendered: RenderedContent {
                manifest: digest_of(&rendered),
                layer: rendered_layer,
                objects: Vec::new(),
            },
            images: vec![
                image("registry.example.com/shop/db:16", &docker),
                image("registry.example.com/shop/db:16.4", &docker),
                sparse,
            ],
            blobs: small,
        };
        Self { document, contents }
    }

    /// Writes the archive of the release at `path`.
    pub fn write(&self, path: &Path, bundles: &[Vec<u8>]) -> Result<()> {
        let writer = Writer::create(path, &self.document)?;
        self.place_all(&writer)?;
        writer.finish(bundles).map(|_| ())
    }

    /// Places every blob.
    pub fn place_all(&self, writer: &Writer) -> Result<()> {
        self.document.blobs.iter().try_for_each(|blob| {
            let mut placement = writer.placement(blob.digest)?;
            self.contents[&blob.digest].chunks(1000).for_each(|chunk| placement.write(chunk).unwrap());
            placement.finish()
        })
    }

    /// The archive of the release.
    pub fn bytes(&self, bundles: &[Vec<u8>]) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        self.write(&path, bundles).unwrap();
        std::fs::read(path).unwrap()
    }

    /// Swaps the bytes of blob `old`, and its entry in the document with it. What names it by
    /// digest elsewhere keeps the old name.
    pub fn replace(&mut self, old: Digest, bytes: Vec<u8>) -> Digest {
        let digest = Digest::of(&bytes);
        let blobs = &mut self.document.blobs;
        let small = blobs.iter().position(|blob| blob.digest == self.document.git.bundle).unwrap();
        let entry = blobs.iter_mut().find(|blob| blob.digest == old).unwrap();
        (entry.digest, entry.size) = (digest, bytes.len() as u64);
        blobs[..small].sort_by_key(|blob| blob.digest);
        self.contents.insert(digest, bytes);
        digest
    }
}

/// Keeps what it takes in memory; has `held` already.
#[derive(Clone, Default)]
pub(super) struct Keep {
    pub held: Vec<Digest>,
    pub kept: Arc<Mutex<HashMap<Digest, Vec<u8>>>>,
}

struct KeepOne {
    digest: Digest,
    bytes: Vec<u8>,
    kept: Arc<Mutex<HashMap<Digest, Vec<u8>>>>,
}

impl BlobSink for Keep {
    fn wants(&self, blob: &BlobEntry) -> io::Result<bool> {
        Ok(!self.held.contains(&blob.digest))
    }

    fn begin(&self, blob: &BlobEntry) -> io::Result<Box<dyn BlobWrite + Send>> {
        Ok(Box::new(KeepOne { digest: blob.digest, bytes: Vec::new(), kept: Arc::clone(&self.kept) }))
    }
}

impl io::Write for KeepOne {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWrite for KeepOne {
    fn commit(self: Box<Self>) -> io::Result<()> {
        self.kept.lock().unwrap().insert(self.digest, self.bytes);
        Ok(())
    }
}

/// The two kinds of source of the same bytes. The folder holds the file of the first.
pub(super) fn sources(bytes: &[u8]) -> [Source; 2] {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    io::Seek::rewind(&mut file).unwrap();
    [Source::File(file), Source::Pipe(Box::new(Cursor::new(bytes.to_vec())))]
}

/// Reads a whole archive, as verify does but for the signature.
pub(super) fn read(mut source: Source, sink: &dyn BlobSink) -> Result<(Release, StreamReport)> {
    let release = read_head(&mut source)?.parse()?;
    let report = stream(source, &release, sink, &Silent)?;
    Ok((release, report))
}

/// The error of reading `bytes`, which both kinds of source must refuse with the same words.
pub(super) fn refusal(bytes: &[u8]) -> String {
    let [file, pipe] = sources(bytes).map(|source| match read(source, &Discard) {
        Ok(_) => panic!("was accepted"),
        Err(error) => error.to_string(),
    });
    // A file says how long it is before anything is read, a pipe only at its end.
    assert_eq!(file.split(": it has").next(), pipe.split(": it has").next());
    file
}

/// A path in a fresh folder.
pub(super) fn scratch() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    (folder, path)
}
