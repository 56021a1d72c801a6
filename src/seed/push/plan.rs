//! What a registry must hold for a release, and in which order it can be given. Reads manifests
//! from the store, and asks nobody.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::error::PushError;
use crate::fsio::limits;
use crate::model::{BlobEntry, Digest, ReleaseDocument, SiteRegistry, media_type};
use crate::oci::{Content, Manifest, RawManifest};
use crate::store::{Catalog, CatalogSource, Envelope, Store};

/// Indexes within indexes; the archive's reader refuses more.
const DEPTH: u32 = 16;
/// Manifests that refer to others come after all that they may refer to.
const REFERRERS: u32 = 1000;

/// What a registry must hold.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Configs, layers and the like, the largest first.
    pub blobs: Vec<WantedBlob>,
    /// Manifests, each after what it leads to.
    pub manifests: Vec<WantedManifest>,
    /// What a tag of a repository leads to.
    pub tags: BTreeMap<(String, String), WantedTag>,
    /// By repository and subject: what refers to it by its own word.
    pub referrers: BTreeMap<(String, Digest), Vec<WantedManifest>>,
}

/// A blob, and every repository that must have it.
#[derive(Debug)]
pub(super) struct WantedBlob {
    pub entry: BlobEntry,
    pub repositories: Vec<String>,
}

/// A manifest in a repository.
#[derive(Debug, Clone)]
pub(super) struct WantedManifest {
    pub entry: BlobEntry,
    pub repository: String,
    /// Those of one stage can be pushed side by side.
    pub stage: u32,
    /// The image that it belongs to, for people.
    pub of: String,
    /// Its children that the release does not hold.
    pub absent: usize,
}

/// A tag's manifest.
#[derive(Debug, Clone)]
pub(super) struct WantedTag {
    pub entry: BlobEntry,
    /// The repository's upstream name, which keys the tag in a catalog.
    pub name: String,
}

/// The way through the manifests of a release.
struct Walk<'a> {
    store: &'a Store,
    /// All that the release holds.
    held: HashMap<Digest, &'a BlobEntry>,
    /// Children that were left out on purpose.
    left_out: HashSet<Digest>,
    parsed: HashMap<Digest, Manifest>,
    seen: HashMap<(String, Digest), u32>,
    blobs: HashMap<Digest, Vec<String>>,
    manifests: Vec<WantedManifest>,
}

impl Plan {
    /// What `registry` must hold for the release of `document`; of what stands beside it
    /// (`envelope`) as well, once the store has that.
    ///
    /// # Errors
    ///
    /// When the store lacks or has damaged a manifest, or a repository's name is too long.
    pub fn new(
        store: &Store,
        document: &ReleaseDocument,
        envelope: Option<&Envelope>,
        registry: &SiteRegistry,
    ) -> Result<Self, PushError> {
        let signatures = || envelope.iter().flat_map(|envelope| &envelope.signatures);
        let beside = envelope.iter().flat_map(|envelope| [&envelope.manifest, &envelope.document]);
        let signing = signatures().flat_map(|pair| [&pair.manifest, &pair.bundle]);
        let held = document.blobs.iter().chain(beside).chain(signing);
        let images = &document.images;
        let mut walk = Walk {
            store,
            held: held.map(|blob| (blob.digest, blob)).collect(),
            left_out: images.iter().flat_map(|image| image.absent.iter().map(|a| a.digest)).collect(),
            parsed: HashMap::new(),
            seen: HashMap::new(),
            blobs: HashMap::new(),
            manifests: Vec::new(),
        };
        let own = document.rendered_name().0;
        let title = document.title();
        let own_repository = registry.repository(&own)?;
        let release = envelope.map(|envelope| envelope.manifest.digest);
        for digest in std::iter::once(document.rendered.manifest).chain(release) {
            walk.manifest(&own_repository, digest, &title, 0, 0)?;
        }
        for signature in signatures() {
            walk.manifest(&own_repository, signature.manifest.digest, &title, REFERRERS, 0)?;
        }
        for image in images {
            let repository = registry.repository(&image.reference.name())?;
            let of = image.reference.to_string();
            walk.manifest(&repository, image.digest, &of, 0, 0)?;
            for referrer in &image.referrers {
                walk.manifest(&repository, referrer.digest, &of, REFERRERS, 0)?;
            }
        }
        let mut plan = walk.finish();
        let catalog = Catalog::build(&[CatalogSource { document, envelope }]);
        for name in catalog.repositories() {
            let repository = registry.repository(name)?;
            for (tag, digest) in catalog.tags(name) {
                if let Some(entry) = catalog.manifest(digest) {
                    let wanted = WantedTag { entry: entry.clone(), name: name.to_owned() };
                    plan.tags.insert((repository.clone(), tag.to_owned()), wanted);
                }
            }
        }
        Ok(plan)
    }
}

impl Walk<'_> {
    /// Takes up a manifest and all below it. Answers with its stage.
    fn manifest(
        &mut self,
        repository: &str,
        digest: Digest,
        of: &str,
        base: u32,
        depth: u32,
    ) -> Result<u32, PushError> {
        if let Some(stage) = self.seen.get(&(repository.to_owned(), digest)) {
            return Ok(*stage);
        }
        let lacking =
            |what: Digest| PushError::Closure { manifest: digest.to_string(), lacking: what.to_string() };
        let Some(entry) = self.held.get(&digest).map(|entry| (*entry).clone()) else {
            return Err(lacking(digest));
        };
        let content = self.read(&entry)?.content.clone();
        let (mut stage, mut absent) = (base, 0);
        match content {
            Content::Index(children) => {
                for child in children {
                    if !self.held.contains_key(&child.digest) && self.left_out.contains(&child.digest) {
                        absent += 1;
                        continue;
                    }
                    if depth >= DEPTH {
                        return Err(lacking(child.digest));
                    }
                    stage = stage.max(1 + self.manifest(repository, child.digest, of, base, depth + 1)?);
                }
            }
            Content::Image { config, layers } => {
                for blob in std::iter::once(&config).chain(&layers) {
                    if self.held.contains_key(&blob.digest) {
                        let repositories = self.blobs.entry(blob.digest).or_default();
                        if !repositories.iter().any(|known| known == repository) {
                            repositories.push(repository.to_owned());
                        }
                    } else if !blob.is_foreign() {
                        return Err(lacking(blob.digest));
                    }
                }
            }
        }
        self.seen.insert((repository.to_owned(), digest), stage);
        let (repository, of) = (repository.to_owned(), of.to_owned());
        self.manifests.push(WantedManifest { entry, repository, stage, of, absent });
        Ok(stage)
    }

    fn read(&mut self, entry: &BlobEntry) -> Result<&Manifest, PushError> {
        if !self.parsed.contains_key(&entry.digest) {
            let manifest = read_manifest(self.store, entry)?.read().map_err(|error| PushError::Registry {
                registry: "store".to_owned(),
                source: Box::new(error),
            })?;
            self.parsed.insert(entry.digest, manifest);
        }
        Ok(&self.parsed[&entry.digest])
    }

    fn finish(mut self) -> Plan {
        let mut blobs: Vec<WantedBlob> = Vec::new();
        for (digest, repositories) in self.blobs {
            if let Some(entry) = self.held.get(&digest) {
                blobs.push(WantedBlob { entry: (*entry).clone(), repositories });
            }
        }
        // What takes longest is begun first, so that nothing is waited for alone at the end.
        blobs.sort_by_key(|blob| (std::cmp::Reverse(blob.entry.size), blob.entry.digest));
        self.manifests.sort_by_key(|manifest| manifest.stage);
        let mut referrers: BTreeMap<_, Vec<WantedManifest>> = BTreeMap::new();
        for manifest in &self.manifests {
            if let Some(subject) = self.parsed.get(&manifest.entry.digest).and_then(|parsed| parsed.subject) {
                referrers.entry((manifest.repository.clone(), subject)).or_default().push(manifest.clone());
            }
        }
        Plan { blobs, manifests: self.manifests, tags: BTreeMap::new(), referrers }
    }
}

/// A manifest of the store, hashed again as it is read.
pub(super) fn read_manifest(store: &Store, entry: &BlobEntry) -> Result<RawManifest, PushError> {
    let limit = if media_type::is_index(&entry.media_type) || media_type::is_manifest(&entry.media_type) {
        limits::MANIFEST
    } else {
        limits::RELEASE_MANIFEST
    };
    let bytes = store.read_blob(entry.digest, limit)?;
    Ok(RawManifest { media_type: entry.media_type.clone(), digest: entry.digest, bytes: bytes.into() })
}
