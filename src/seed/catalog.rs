//! Which names and digests a set of releases answers to: pure data, built from release documents.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Digest, ReferrerEntry, ReleaseDocument, media_type};

/// A blob or manifest that can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Size in bytes.
    pub size: u64,
    /// Media type, as the descriptor that leads to it states it.
    pub media_type: String,
}

/// The names and digests.
#[derive(Debug, Default)]
pub struct Catalog {
    blobs: BTreeMap<Digest, Entry>,
    tags: BTreeMap<(Option<String>, String), BTreeMap<String, Digest>>,
    referrers: BTreeMap<Digest, Vec<ReferrerEntry>>,
}

impl Catalog {
    /// Adds a release; where two name one tag, the one that was added first wins.
    pub fn add(&mut self, document: &ReleaseDocument) {
        for blob in &document.blobs {
            let entry = Entry { size: blob.size, media_type: blob.media_type.clone() };
            self.blobs.entry(blob.digest).or_insert(entry);
        }
        let (repository, tag) = document.rendered_name();
        self.tags.entry((None, repository)).or_default().entry(tag).or_insert(document.rendered.manifest);
        for image in &document.images {
            let key = (Some(image.reference.registry().to_owned()), image.reference.repository().to_owned());
            let tags = self.tags.entry(key).or_default();
            if let Some(tag) = image.reference.tag() {
                tags.entry(tag.to_owned()).or_insert(image.digest);
            }
            for referrer in &image.referrers {
                if let Some(tag) = &referrer.tag {
                    tags.entry(tag.clone()).or_insert(referrer.digest);
                }
                let list = self.referrers.entry(referrer.subject).or_default();
                if !list.iter().any(|seen| seen.digest == referrer.digest) {
                    list.push(referrer.clone());
                }
            }
        }
    }

    fn matching<'a>(
        &'a self,
        registry: Option<&'a str>,
        repository: &'a str,
    ) -> impl Iterator<Item = &'a BTreeMap<String, Digest>> {
        self.tags
            .iter()
            .filter(move |((found, name), _)| {
                name == repository && (registry.is_none() || found.as_deref() == registry)
            })
            .map(|(_, tags)| tags)
    }

    /// The manifest that a tag names. Without a registry, the first that knows it.
    #[must_use]
    pub fn resolve_tag(&self, registry: Option<&str>, repository: &str, tag: &str) -> Option<Digest> {
        self.matching(registry, repository).find_map(|tags| tags.get(tag).copied())
    }

    /// A manifest or index.
    #[must_use]
    pub fn manifest(&self, digest: Digest) -> Option<&Entry> {
        self.blobs.get(&digest).filter(|entry| {
            media_type::is_index(&entry.media_type) || media_type::is_manifest(&entry.media_type)
        })
    }

    /// A blob of any kind.
    #[must_use]
    pub fn blob(&self, digest: Digest) -> Option<&Entry> {
        self.blobs.get(&digest)
    }

    /// Tags of a repository, sorted; `None` when there is no such repository.
    #[must_use]
    pub fn tags(&self, registry: Option<&str>, repository: &str) -> Option<Vec<String>> {
        let mut known = false;
        let mut all = BTreeSet::new();
        for tags in self.matching(registry, repository) {
            known = true;
            all.extend(tags.keys().cloned());
        }
        known.then(|| all.into_iter().collect())
    }

    /// What refers to `subject`.
    #[must_use]
    pub fn referrers(&self, subject: Digest) -> &[ReferrerEntry] {
        self.referrers.get(&subject).map_or(&[], Vec::as_slice)
    }

    /// All repositories as `REGISTRY/REPOSITORY`, sorted.
    #[must_use]
    pub fn repositories(&self) -> Vec<String> {
        let name = |(registry, repository): &(Option<String>, String)| match registry {
            Some(registry) => format!("{registry}/{repository}"),
            None => repository.clone(),
        };
        self.tags.keys().map(name).collect::<BTreeSet<_>>().into_iter().collect()
    }
}
