//! `index.json` of the store: what general OCI tools read. It follows from the kept releases.

use std::collections::{HashMap, HashSet};

use super::error::StoreError;
use super::open::{Store, StoreWriter, read_small};
use super::releases::{StoredRelease, ordered};
use super::scrub::RewrittenFile;
use crate::archive::descriptor::{Descriptor, RefName, to_json};
use crate::archive::index::Index;
use crate::fsio::{limits, write_atomic};
use crate::model::{Digest, media_type};

/// Name of the file.
const FILE: &str = "index.json";

/// The list that is being made: a name leads to one manifest, and a manifest stands once for each
/// of its names, or once without.
#[derive(Default)]
struct List<'a> {
    manifests: Vec<Descriptor<'a>>,
    names: HashSet<String>,
    listed: HashSet<Digest>,
}

impl<'a> List<'a> {
    fn add(
        &mut self,
        digest: Digest,
        size: u64,
        media_type: &'a str,
        artifact_type: Option<&'a str>,
        name: Option<String>,
    ) {
        let name = name.filter(|name| self.names.insert(name.clone()));
        if self.listed.insert(digest) || name.is_some() {
            let annotations = name.map(|name| RefName { name });
            self.manifests.push(Descriptor { media_type, digest, size, artifact_type, annotations });
        }
    }

    fn add_release(&mut self, release: &'a StoredRelease) {
        let (document, envelope) = (release.document(), release.envelope());
        let sizes: HashMap<Digest, u64> =
            document.blobs.iter().map(|blob| (blob.digest, blob.size)).collect();
        let (repository, tag) = document.rendered_name();
        let manifest = &envelope.manifest;
        let name = format!("{repository}:{tag}-release");
        self.add(
            manifest.digest,
            manifest.size,
            media_type::OCI_MANIFEST,
            Some(media_type::RELEASE),
            Some(name),
        );
        let rendered = document.rendered.manifest;
        if let Some(size) = sizes.get(&rendered) {
            self.add(rendered, *size, media_type::OCI_MANIFEST, None, Some(format!("{repository}:{tag}")));
        }
        for image in &document.images {
            if let Some(size) = sizes.get(&image.digest) {
                let name = image.reference.to_string();
                self.add(image.digest, *size, &image.media_type, None, Some(name));
            }
        }
        for image in &document.images {
            for referrer in &image.referrers {
                if let Some(size) = sizes.get(&referrer.digest) {
                    let name = referrer.tag.as_ref().map(|tag| format!("{}:{tag}", image.reference.name()));
                    self.add(referrer.digest, *size, &referrer.media_type, None, name);
                }
            }
        }
        for signature in &envelope.signatures {
            let manifest = &signature.manifest;
            let artifact_type = Some(media_type::SIGSTORE_BUNDLE);
            self.add(manifest.digest, manifest.size, media_type::OCI_MANIFEST, artifact_type, None);
        }
    }
}

impl Store {
    /// Writes the index of `releases`, the one whose names win first.
    pub(super) fn write_index(&self, releases: &[StoredRelease]) -> Result<(), StoreError> {
        let path = self.folder().join(FILE);
        write_atomic(&path, &to_bytes(releases)).map_err(|source| StoreError::Io {
            what: "write",
            path,
            source,
        })
    }
}

impl StoreWriter {
    /// Holds the index against the releases in the store, of which those in `first` win their names,
    /// and writes it anew where it differs: a cut command may leave one that names other releases.
    ///
    /// # Errors
    ///
    /// When the releases cannot be read, or the index not written.
    pub fn check_index(&self, first: &[Digest]) -> Result<Option<RewrittenFile>, StoreError> {
        let wanted = to_bytes(&ordered(self.releases()?, first));
        let found = read_small(&self.folder().join(FILE), wanted.len() as u64 + limits::INDEX_JSON);
        let why = match found {
            Ok(Some(found)) if found == wanted => return Ok(None),
            Ok(Some(_)) => {
                "it is not what follows from the releases (a cut command may leave it so)".to_owned()
            }
            Ok(None) => "it is not there".to_owned(),
            Err(error) => error.to_string(),
        };
        self.rewrite(FILE, &wanted, why).map(Some)
    }
}

fn to_bytes(releases: &[StoredRelease]) -> Vec<u8> {
    let mut list = List::default();
    for release in releases {
        list.add_release(release);
    }
    let mut bytes = to_json(&Index::of(list.manifests));
    bytes.push(b'\n');
    bytes
}
