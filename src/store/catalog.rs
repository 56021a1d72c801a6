//! Which name leads to which digest: what a registry that holds these releases answers
//! (`docs/formats.md`, "Tags of images"). Pure: made from release documents, touches no file.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::lfs::LfsCatalog;
use crate::archive::signature;
use crate::model::{BlobEntry, Digest, ImageEntry, ReleaseDocument, media_type};

/// Where the rendered manifests and the release manifest of `NAME` are served: `fleetpack/NAME`.
const OWN: &str = "fleetpack/";
/// The registry that other spellings of it mean.
const DOCKER: &str = "docker.io";

/// What stands beside a release document: the release manifest and its signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The release manifest.
    pub manifest: BlobEntry,
    /// The release document as a blob.
    pub document: BlobEntry,
    /// The signatures.
    pub signatures: Vec<SignatureBlobs>,
}

impl Envelope {
    /// What stands beside the document `document` of the release manifest `manifest`, which
    /// `bundles` sign.
    #[must_use]
    pub fn of(manifest: &[u8], document: &[u8], bundles: &[Vec<u8>]) -> Self {
        let entry = |bytes: &[u8], media_type: &str| BlobEntry {
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            media_type: media_type.to_owned(),
        };
        let signature = |bundle: &Vec<u8>| SignatureBlobs {
            manifest: entry(&signature::referrer(bundle, manifest), media_type::OCI_MANIFEST),
            bundle: entry(bundle, media_type::SIGSTORE_BUNDLE),
        };
        Self {
            manifest: entry(manifest, media_type::OCI_MANIFEST),
            document: entry(document, media_type::RELEASE),
            signatures: bundles.iter().map(signature).collect(),
        }
    }
}

/// One signature as the two blobs that hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureBlobs {
    /// The manifest that refers to the release manifest.
    pub manifest: BlobEntry,
    /// The Sigstore bundle.
    pub bundle: BlobEntry,
}

/// One release that a catalog is made from.
#[derive(Debug, Clone, Copy)]
pub struct CatalogSource<'a> {
    /// Its document.
    pub document: &'a ReleaseDocument,
    /// What stands beside it; without, the release manifest itself is not served.
    pub envelope: Option<&'a Envelope>,
}

/// A manifest that refers to another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referrer {
    /// The referring manifest.
    pub manifest: BlobEntry,
    /// Its artifact type, where it has one.
    pub artifact_type: Option<String>,
}

/// Everything that is served under one repository name.
#[derive(Debug, Clone, Default)]
pub struct Repository {
    tags: BTreeMap<String, Digest>,
    referrers: HashMap<Digest, Vec<Referrer>>,
}

/// Names, tags and digests of a set of releases.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// By full name: `REGISTRY/REPOSITORY`, or `fleetpack/NAME`.
    repositories: BTreeMap<String, Repository>,
    /// Full names by what they are without their registry.
    short: HashMap<String, Vec<String>>,
    blobs: HashMap<Digest, BlobEntry>,
    absent: BTreeSet<Digest>,
    lfs: LfsCatalog,
}

impl Catalog {
    /// Makes the catalog of `releases`, the one whose tags win first.
    #[must_use]
    pub fn build(releases: &[CatalogSource<'_>]) -> Self {
        let mut catalog = Self::default();
        for release in releases {
            catalog.add_manifests(release);
        }
        // Media types of manifests come from what names them; the rest of the blobs follow.
        for release in releases {
            catalog.lfs.add(release.document);
            for blob in &release.document.blobs {
                catalog.blobs.entry(blob.digest).or_insert_with(|| blob.clone());
            }
            for image in &release.document.images {
                for child in &image.absent {
                    catalog.absent.insert(child.digest);
                }
            }
        }
        // What one release left out another may hold.
        catalog.absent.retain(|digest| !catalog.blobs.contains_key(digest));
        for name in catalog.repositories.keys() {
            if let Some((_, path)) = name.split_once('/')
                && !name.starts_with(OWN)
            {
                catalog.short.entry(path.to_owned()).or_default().push(name.clone());
            }
        }
        catalog
    }

    fn add_manifests(&mut self, release: &CatalogSource<'_>) {
        let document = release.document;
        let (name, version) = document.rendered_name();
        if let Some(blob) = document.blob(document.rendered.manifest) {
            self.add_blob(blob, media_type::OCI_MANIFEST);
            self.add_tag(&name, &version, blob.digest);
        }
        if let Some(envelope) = release.envelope {
            self.add_blob(&envelope.manifest, media_type::OCI_MANIFEST);
            self.add_blob(&envelope.document, media_type::RELEASE);
            self.add_tag(&name, &format!("{version}-release"), envelope.manifest.digest);
            for signature in &envelope.signatures {
                self.add_blob(&signature.manifest, media_type::OCI_MANIFEST);
                self.add_blob(&signature.bundle, media_type::SIGSTORE_BUNDLE);
                let referrer = Referrer {
                    manifest: typed(&signature.manifest, media_type::OCI_MANIFEST),
                    artifact_type: Some(media_type::SIGSTORE_BUNDLE.to_owned()),
                };
                self.add_referrer(&name, envelope.manifest.digest, referrer);
            }
        }
        let sizes: HashMap<Digest, &BlobEntry> =
            document.blobs.iter().map(|blob| (blob.digest, blob)).collect();
        // A reference by tag alone says what the tag means; one by tag and digest only remembers it.
        let (pinned, plain): (Vec<_>, Vec<_>) =
            document.images.iter().partition(|image| image.reference.digest().is_some());
        for image in plain.into_iter().chain(pinned) {
            self.add_image(image, &sizes);
        }
    }

    fn add_image(&mut self, image: &ImageEntry, sizes: &HashMap<Digest, &BlobEntry>) {
        let Some(blob) = sizes.get(&image.digest) else { return };
        let name = image.reference.name();
        self.add_blob(blob, &image.media_type);
        self.repositories.entry(name.clone()).or_default();
        if let Some(tag) = image.reference.tag() {
            self.add_tag(&name, tag, image.digest);
        }
        for entry in &image.referrers {
            let Some(blob) = sizes.get(&entry.digest) else { continue };
            self.add_blob(blob, &entry.media_type);
            if let Some(tag) = &entry.tag {
                self.add_tag(&name, tag, entry.digest);
            }
            let referrer = Referrer {
                manifest: typed(blob, &entry.media_type),
                artifact_type: entry.artifact_type.clone(),
            };
            self.add_referrer(&name, entry.subject, referrer);
        }
    }

    fn add_blob(&mut self, blob: &BlobEntry, media_type: &str) {
        self.blobs.entry(blob.digest).or_insert_with(|| typed(blob, media_type));
    }

    /// The first to say what a tag means is right: releases come in their order of priority.
    fn add_tag(&mut self, name: &str, tag: &str, digest: Digest) {
        let repository = self.repositories.entry(name.to_owned()).or_default();
        repository.tags.entry(tag.to_owned()).or_insert(digest);
    }

    fn add_referrer(&mut self, name: &str, subject: Digest, referrer: Referrer) {
        let repository = self.repositories.entry(name.to_owned()).or_default();
        let referrers = repository.referrers.entry(subject).or_default();
        if !referrers.iter().any(|known| known.manifest.digest == referrer.manifest.digest) {
            referrers.push(referrer);
        }
    }

    /// The full name of the repository that a client asks for by `path`, and by `registry` where it
    /// says `?ns=`.
    ///
    /// Without a registry, `path` is the full name, or the name without its registry where only one
    /// registry has it. With one, it is that registry's and no other's: whoever asks for
    /// `quay.io/app` must never be given the `app` of somebody else.
    #[must_use]
    pub fn resolve_repository(&self, registry: Option<&str>, path: &str) -> Option<&str> {
        let registry = registry.map(|name| match name {
            "index.docker.io" | "registry-1.docker.io" => DOCKER,
            name => name,
        });
        let key = |name: &str| self.repositories.get_key_value(name).map(|(name, _)| name.as_str());
        match registry {
            Some(registry) => key(&format!("{registry}/{path}")).or_else(|| {
                (registry == DOCKER && !path.contains('/'))
                    .then(|| key(&format!("{DOCKER}/library/{path}")))?
            }),
            None => key(path).or_else(|| self.by_short_name(path)).or_else(|| {
                // Docker's own short form, with and without its registry.
                let short = path.strip_prefix("docker.io/").unwrap_or(path);
                (!short.contains('/')).then(|| key(&format!("{DOCKER}/library/{short}")))?
            }),
        }
    }

    fn by_short_name(&self, path: &str) -> Option<&str> {
        match self.short.get(path)?.as_slice() {
            [only] => Some(only),
            _ => None,
        }
    }

    /// The registries among which the name `path` is ambiguous; empty where it is not.
    #[must_use]
    pub fn ambiguous(&self, path: &str) -> &[String] {
        self.short.get(path).map(Vec::as_slice).filter(|names| names.len() > 1).unwrap_or_default()
    }

    /// The manifest that `tag` names in a repository.
    #[must_use]
    pub fn resolve_tag(&self, registry: Option<&str>, path: &str, tag: &str) -> Option<&BlobEntry> {
        let repository = self.repositories.get(self.resolve_repository(registry, path)?)?;
        self.manifest(*repository.tags.get(tag)?)
    }

    /// The index or manifest with `digest`.
    #[must_use]
    pub fn manifest(&self, digest: Digest) -> Option<&BlobEntry> {
        self.blobs.get(&digest).filter(|blob| {
            media_type::is_manifest(&blob.media_type) || media_type::is_index(&blob.media_type)
        })
    }

    /// The blob with `digest`, manifests included.
    #[must_use]
    pub fn blob(&self, digest: Digest) -> Option<&BlobEntry> {
        self.blobs.get(&digest)
    }

    /// The objects of Git LFS, by release line.
    #[must_use]
    pub const fn lfs(&self) -> &LfsCatalog {
        &self.lfs
    }

    /// Every blob, each once, in no order.
    pub fn blobs(&self) -> impl Iterator<Item = &BlobEntry> {
        self.blobs.values()
    }

    /// Whether `digest` is a child of a carried index that was left out on purpose.
    #[must_use]
    pub fn is_absent(&self, digest: Digest) -> bool {
        self.absent.contains(&digest)
    }

    /// Tags of the repository with this full name, sorted.
    pub fn tags(&self, name: &str) -> impl Iterator<Item = (&str, Digest)> {
        let tags = self.repositories.get(name).map(|repository| &repository.tags);
        tags.into_iter().flatten().map(|(tag, digest)| (tag.as_str(), *digest))
    }

    /// What refers to `subject` in the repository with this full name, in order of discovery.
    #[must_use]
    pub fn referrers(&self, name: &str, subject: Digest) -> &[Referrer] {
        let repository = self.repositories.get(name);
        repository.and_then(|repository| repository.referrers.get(&subject)).map_or(&[], Vec::as_slice)
    }

    /// Full names of all repositories, sorted.
    pub fn repositories(&self) -> impl Iterator<Item = &str> {
        self.repositories.keys().map(String::as_str)
    }
}

fn typed(blob: &BlobEntry, media_type: &str) -> BlobEntry {
    BlobEntry { digest: blob.digest, size: blob.size, media_type: media_type.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::samples::Sample;
    use super::*;

    fn build(samples: &[&Sample]) -> Catalog {
        let sources: Vec<_> = samples
            .iter()
            .map(|sample| CatalogSource { document: &sample.document, envelope: Some(&sample.envelope) })
            .collect();
        Catalog::build(&sources)
    }

    fn of(text: &str) -> Digest {
        Sample::digest(text)
    }

    #[test]
    fn the_first_release_wins_a_tag_and_every_digest_resolves() {
        let old =
            Sample::new("shop", "1", &[("docker.io/library/nginx:1", "old"), ("r.example.com/a/b:1", "b")]);
        let new = Sample::new("shop", "2", &[("docker.io/library/nginx:1", "new")]);
        for (order, want) in [([&new, &old], "new"), ([&old, &new], "old")] {
            let catalog = build(&order);
            let found = catalog.resolve_tag(Some("docker.io"), "library/nginx", "1").unwrap();
            assert_eq!(found.digest, of(want));
            assert_eq!(found.media_type, media_type::OCI_MANIFEST);
            for each in ["old", "new", "b"] {
                assert!(catalog.manifest(of(each)).is_some() && catalog.blob(of(each)).is_some());
            }
            assert_eq!(
                catalog.repositories().collect::<Vec<_>>(),
                ["docker.io/library/nginx", "fleetpack/shop", "r.example.com/a/b"]
            );
            let tags: Vec<_> = catalog.tags("fleetpack/shop").map(|(tag, _)| tag).collect();
            assert_eq!(tags, ["1", "1-release", "2", "2-release"]);
        }
    }

    #[test]
    fn names_are_found_in_every_way_that_clients_spell_them() {
        let sample = Sample::new(
            "shop",
            "1",
            &[
                ("docker.io/library/nginx:1", "nginx"),
                ("r.example.com:5000/web/app:1", "app"),
                ("a.example.com/both:1", "a"),
                ("b.example.com/both:1", "b"),
            ],
        );
        let catalog = build(&[&sample]);
        for (registry, path, want) in [
            (Some("docker.io"), "library/nginx", "docker.io/library/nginx"),
            (Some("index.docker.io"), "library/nginx", "docker.io/library/nginx"),
            (Some("docker.io"), "nginx", "docker.io/library/nginx"),
            (None, "docker.io/library/nginx", "docker.io/library/nginx"),
            (None, "docker.io/nginx", "docker.io/library/nginx"),
            (None, "library/nginx", "docker.io/library/nginx"),
            (None, "nginx", "docker.io/library/nginx"),
            (None, "web/app", "r.example.com:5000/web/app"),
            (None, "r.example.com:5000/web/app", "r.example.com:5000/web/app"),
            (Some("a.example.com"), "both", "a.example.com/both"),
            (Some("b.example.com"), "both", "b.example.com/both"),
            (None, "fleetpack/shop", "fleetpack/shop"),
        ] {
            assert_eq!(catalog.resolve_repository(registry, path), Some(want), "{registry:?} {path}");
        }
        for (registry, path) in [
            (None, "both"),
            (Some("docker.io"), "web/app"),
            (None, "app"),
            (Some("a.example.com"), "nginx"),
            (Some("quay.io"), "web/app"),
            (Some("quay.io"), "nginx"),
        ] {
            assert_eq!(catalog.resolve_repository(registry, path), None, "{registry:?} {path}");
        }
        assert_eq!(catalog.ambiguous("both").len(), 2);
        assert!(catalog.ambiguous("web/app").is_empty());
    }

    #[test]
    fn a_plain_tag_is_stronger_than_one_beside_a_digest() {
        let pinned = format!("docker.io/library/nginx:1@{}", of("pinned"));
        let sample = Sample::new("shop", "1", &[(&pinned, "pinned"), ("docker.io/library/nginx:1", "plain")]);
        let catalog = build(&[&sample]);
        assert_eq!(catalog.resolve_tag(None, "nginx", "1").unwrap().digest, of("plain"));
        assert!(catalog.manifest(of("pinned")).is_some());
    }

    #[test]
    fn referrers_belong_to_their_repository_and_subject() {
        let mut sample = Sample::new("shop", "1", &[("docker.io/library/nginx:1", "nginx")]);
        sample.add_referrer(0, "signature", Some("sha256-abc.sig"));
        let catalog = build(&[&sample]);
        let found = catalog.referrers("docker.io/library/nginx", of("nginx"));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].manifest.digest, of("signature"));
        assert_eq!(catalog.resolve_tag(None, "nginx", "sha256-abc.sig").unwrap().digest, of("signature"));
        assert!(catalog.referrers("docker.io/library/other", of("nginx")).is_empty());
        let signed = catalog.referrers("fleetpack/shop", sample.envelope.manifest.digest);
        assert_eq!(signed[0].artifact_type.as_deref(), Some(media_type::SIGSTORE_BUNDLE));
    }

    #[test]
    fn a_child_left_out_by_one_release_is_served_from_another() {
        let mut sparse = Sample::new("shop", "1", &[("docker.io/library/nginx:1", "index")]);
        sparse.add_absent(0, "arm");
        assert!(build(&[&sparse]).is_absent(of("arm")));
        let whole = Sample::new("shop", "2", &[("docker.io/library/nginx:2", "arm")]);
        let both = build(&[&sparse, &whole]);
        assert!(!both.is_absent(of("arm")) && both.manifest(of("arm")).is_some());
    }
}
