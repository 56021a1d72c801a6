//! What a release needs each of its blobs for, as people say it.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;

use super::open::Store;
use super::releases::StoredRelease;
use crate::fsio::limits;
use crate::model::{Digest, media_type};
use crate::oci::{Content, RawManifest};

/// How many uses of one blob are told.
const TOLD: usize = 8;

impl Store {
    /// What `release` needs each of `wanted` for: `image docker.io/library/nginx:1`, `git bundle` …
    /// What an image leads to is known as far as its manifests can be read.
    #[must_use]
    pub fn uses(&self, release: &StoredRelease, wanted: &HashSet<Digest>) -> BTreeMap<Digest, Vec<String>> {
        let mut uses = Uses { wanted, found: BTreeMap::new() };
        let document = release.document();
        let envelope = release.envelope();
        uses.add(envelope.manifest.digest, || "release manifest".to_owned());
        uses.add(envelope.document.digest, || "release document".to_owned());
        for pair in &envelope.signatures {
            for blob in [&pair.manifest, &pair.bundle] {
                uses.add(blob.digest, || "signature of the release".to_owned());
            }
        }
        uses.add(document.git.bundle, || "git bundle".to_owned());
        for submodule in &document.git.submodules {
            uses.add(submodule.bundle, || format!("git bundle of submodule {}", submodule.name));
        }
        for object in &document.git.lfs {
            let path = object.paths.first().map_or("", String::as_str);
            uses.add(object.digest, || format!("Git LFS object {path}"));
        }
        uses.add(document.rendered.manifest, || "rendered manifests".to_owned());
        uses.add(document.rendered.layer, || "rendered manifests".to_owned());
        let types: HashMap<Digest, &str> =
            document.blobs.iter().map(|blob| (blob.digest, blob.media_type.as_str())).collect();
        for image in &document.images {
            let name = image.reference.to_string();
            self.image_uses(&mut uses, &types, image.digest, &format!("image {name}"));
            for referrer in &image.referrers {
                self.image_uses(&mut uses, &types, referrer.digest, &format!("what refers to image {name}"));
            }
        }
        for blob in release.blobs() {
            if wanted.contains(&blob.digest) && !uses.found.contains_key(&blob.digest) {
                let what = if blob.media_type == media_type::SIGSTORE_BUNDLE {
                    "signature of the release"
                } else {
                    "content"
                };
                uses.add(blob.digest, || what.to_owned());
            }
        }
        uses.found
    }

    /// Follows an index or manifest as far as it can be read.
    fn image_uses(&self, uses: &mut Uses<'_>, types: &HashMap<Digest, &str>, root: Digest, what: &str) {
        let mut open = vec![root];
        let mut seen = HashSet::new();
        while let Some(digest) = open.pop() {
            if !seen.insert(digest) {
                continue;
            }
            uses.add(digest, || what.to_owned());
            let Some(kind) =
                types.get(&digest).filter(|kind| media_type::is_index(kind) || media_type::is_manifest(kind))
            else {
                continue;
            };
            let Ok(bytes) = self.read_blob(digest, limits::MANIFEST) else { continue };
            let raw = RawManifest { media_type: (*kind).to_owned(), digest, bytes: Bytes::from(bytes) };
            match raw.read().map(|manifest| manifest.content) {
                Ok(Content::Index(children)) => open.extend(children.iter().map(|child| child.digest)),
                Ok(Content::Image { config, layers }) => {
                    for part in std::iter::once(&config).chain(&layers) {
                        uses.add(part.digest, || what.to_owned());
                    }
                }
                Err(_) => {}
            }
        }
    }
}

/// What was found for each blob that somebody asks about.
struct Uses<'a> {
    wanted: &'a HashSet<Digest>,
    found: BTreeMap<Digest, Vec<String>>,
}

impl Uses<'_> {
    fn add(&mut self, digest: Digest, what: impl FnOnce() -> String) {
        if !self.wanted.contains(&digest) {
            return;
        }
        let uses = self.found.entry(digest).or_default();
        let what = what();
        if uses.len() < TOLD && !uses.contains(&what) {
            uses.push(what);
        }
    }
}
