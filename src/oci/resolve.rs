//! From a reference to the closure of everything that belongs to the image, by manifests alone.
//!
//! The outcome depends on the source and the request only, never on timing: children are read side
//! by side, and put together in the order of their index.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::error::{OciError, Result};
use super::fetch::fetch;
use super::manifest::{Content, Descriptor, Manifest, RawManifest, platform_of_config};
use super::referrers::{Referrer, discover};
use super::source::{BlobSource, BoxFuture, Sources};
use crate::fsio::limits;
use crate::model::config::Referrers;
use crate::model::{
    AbsentManifest, BlobEntry, Digest, ImageEntry, ImageRef, Platform, Progress, ReferrerEntry, media_type,
};

/// Indexes within indexes.
const INDEX_DEPTH: usize = 4;
/// Referrers of referrers.
const REFERRER_DEPTH: usize = 8;
/// Referrers of one image, those of its parts included.
const REFERRERS: usize = 1000;
/// Manifests of one image that are read side by side. The source bounds what one host sees.
const PARALLEL: usize = 8;

/// An image with all that belongs to it.
#[derive(Clone)]
pub struct ResolvedImage {
    /// What the release document says about it; `used_by` is empty.
    pub entry: ImageEntry,
    /// The reference that was asked for, under which its blobs are to be fetched.
    pub asked: ImageRef,
    /// Every index and manifest, referrers included: the image's own first, parents before
    /// children, no digest twice.
    pub manifests: Vec<RawManifest>,
    /// Every config, in the order of the manifests. No digest is in two of the lists.
    pub configs: Vec<BlobEntry>,
    /// Every layer and other blob, in the order of the manifests.
    pub layers: Vec<BlobEntry>,
    /// Bytes of small blobs that were read on the way, checked. They need not be fetched again.
    pub inline: BTreeMap<Digest, Bytes>,
    /// The place that has the image: where its blobs are to be fetched.
    pub source: Arc<dyn BlobSource>,
}

impl fmt::Debug for ResolvedImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResolvedImage")
            .field("entry", &self.entry)
            .field("manifests", &self.manifests.iter().map(|m| m.digest).collect::<Vec<_>>())
            .field("configs", &self.configs)
            .field("layers", &self.layers)
            .field("source", &self.source.label())
            .finish_non_exhaustive()
    }
}

/// What to take of an image; the default is all of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extent<'a> {
    /// Of an index only the children for these platforms, or all where there are none.
    pub platforms: &'a [Platform],
    /// Which of the manifests that refer to it.
    pub referrers: Referrers,
}

/// Resolves `image` at the first of `sources` that has it. The reference's digest decides where it
/// has one. A tag is asked for once: all that follows goes by digest.
///
/// # Errors
///
/// When the image is not there, lacks one of the platforms, or a part of it cannot be read,
/// understood or carried.
pub async fn resolve(
    sources: &Sources,
    image: &ImageRef,
    extent: Extent<'_>,
    progress: &dyn Progress,
) -> Result<ResolvedImage> {
    let Extent { platforms, referrers } = extent;
    let (source, root) = sources.find(image).await?;
    let walk = Walk { source: source.as_ref(), image, platforms, referrers, progress };
    let (digest, media_type) = (root.digest, root.media_type.clone());
    let tree = walk.tree(root, 0).await?;
    let mut closure = Closure::new(image);
    closure.add(&tree)?;

    let mut carried = Vec::new();
    if media_type::is_index(&media_type) {
        for platform in &tree.platforms {
            if !carried.contains(platform) {
                carried.push(platform.clone());
            }
        }
        let has: BTreeSet<&Platform> = tree
            .platforms
            .iter()
            .chain(tree.absent.iter().filter_map(|absent| absent.platform.as_ref()))
            .collect();
        if let Some(wanted) = platforms.iter().find(|wanted| !carried.iter().any(|has| wanted.takes(has)))
            && !has.is_empty()
        {
            return Err(OciError::Platform {
                image: image.to_string(),
                wanted: wanted.clone(),
                has: has.into_iter().cloned().collect(),
            });
        }
    } else if let Some(platform) = walk.platform_of(&tree, &mut closure.inline).await? {
        if let Some(wanted) = platforms.first()
            && !platforms.iter().any(|wanted| wanted.takes(&platform))
        {
            return Err(OciError::Platform {
                image: image.to_string(),
                wanted: wanted.clone(),
                has: vec![platform],
            });
        }
        carried.push(platform);
    }

    let referrers = walk.referrers(&tree, &mut closure).await?;
    let entry = ImageEntry {
        reference: image.clone(),
        digest,
        media_type,
        platforms: carried,
        absent: tree.absent,
        referrers,
        used_by: Vec::new(),
    };
    let Closure { manifests, configs, layers, inline, .. } = closure.finish();
    let asked = image.clone();
    Ok(ResolvedImage { entry, asked, manifests, configs, layers, inline, source: Arc::clone(&source) })
}

/// A manifest and everything below it that is carried.
#[derive(Default)]
struct Tree {
    /// Parents before children.
    nodes: Vec<(RawManifest, Manifest)>,
    /// What an index lists that is not a manifest.
    loose: Vec<Descriptor>,
    /// Platforms of the carried children.
    platforms: Vec<Platform>,
    absent: Vec<AbsentManifest>,
}

struct Walk<'a> {
    source: &'a dyn BlobSource,
    image: &'a ImageRef,
    platforms: &'a [Platform],
    referrers: Referrers,
    progress: &'a dyn Progress,
}

impl<'a> Walk<'a> {
    fn broken(&self, why: String) -> OciError {
        OciError::Manifest { what: format!("image `{}`", self.image), from: self.source.label(), why }
    }

    /// Reads what lies below `root`.
    fn tree(&'a self, root: RawManifest, depth: usize) -> BoxFuture<'a, Result<Tree>> {
        Box::pin(async move {
            let read = root.read()?;
            let mut tree = Tree::default();
            let children = match &read.content {
                Content::Index(children) => children.clone(),
                Content::Image { .. } => Vec::new(),
            };
            tree.nodes.push((root, read));
            if !children.is_empty() && depth >= INDEX_DEPTH {
                return Err(self.broken(format!("indexes lie more than {INDEX_DEPTH} deep in each other")));
            }
            let taken = self.choose(&children);
            let mut reads: Reads<'_, Part> = Vec::with_capacity(children.len());
            for (child, taken) in children.into_iter().zip(taken) {
                reads.push(if taken {
                    Box::pin(self.child(child, depth))
                } else {
                    Box::pin(std::future::ready(Ok(Part::Absent(child))))
                });
            }
            let parts = side_by_side(reads).await?;
            for part in parts {
                match part {
                    Part::Absent(child) => {
                        let platform = child.platform();
                        tree.absent.push(AbsentManifest { digest: child.digest, platform });
                    }
                    Part::Loose(child) => tree.loose.push(child),
                    Part::Tree(platform, below) => {
                        tree.platforms.extend(platform);
                        tree.platforms.extend(below.platforms);
                        tree.nodes.extend(below.nodes);
                        tree.loose.extend(below.loose);
                        tree.absent.extend(below.absent);
                    }
                }
                if tree.nodes.len() > limits::IMAGES {
                    return Err(self.broken(format!("more than {} manifests", limits::IMAGES)));
                }
            }
            // One child may be listed for two platforms: carried once is carried.
            let held: BTreeSet<Digest> = tree.nodes.iter().map(|(raw, _)| raw.digest).collect();
            let mut seen = BTreeSet::new();
            tree.absent.retain(|absent| !held.contains(&absent.digest) && seen.insert(absent.digest));
            Ok(tree)
        })
    }

    /// Which children of an index are carried.
    fn choose(&self, children: &[Descriptor]) -> Vec<bool> {
        if self.platforms.is_empty() {
            return vec![true; children.len()];
        }
        let mut taken: Vec<bool> = children
            .iter()
            .map(|child| {
                child.platform().is_none_or(|has| self.platforms.iter().any(|wanted| wanted.takes(&has)))
            })
            .collect();
        // What BuildKit says about a child stays with it.
        for (n, child) in children.iter().enumerate() {
            if let Some(of) = child.attests() {
                let mut listed =
                    children.iter().zip(&taken).filter(|(other, _)| other.digest == of).peekable();
                if listed.peek().is_some() {
                    taken[n] = listed.any(|(_, taken)| *taken);
                }
            }
        }
        taken
    }

    async fn child(&'a self, child: Descriptor, depth: usize) -> Result<Part> {
        let kind = child.media_type.as_str();
        if kind.starts_with("application/vnd.docker.distribution.manifest.v1+") {
            return Err(OciError::Schema1 {
                what: format!("child `{}` of `{}`", child.digest, self.image),
                from: self.source.label(),
                media_type: kind.to_owned(),
            });
        }
        if !kind.is_empty() && !media_type::is_index(kind) && !media_type::is_manifest(kind) {
            return Ok(Part::Loose(child));
        }
        let reference = self.image.at_digest(child.digest);
        let manifest = self.source.manifest(&reference).await?;
        if manifest.bytes.len() as u64 != child.size {
            return Err(OciError::WrongLength {
                what: format!("child `{}` of `{}`", child.digest, self.image),
                from: self.source.label(),
                got: format!("has {} bytes", manifest.bytes.len()),
                wanted: child.size,
            });
        }
        if !kind.is_empty() && kind != manifest.media_type {
            return Err(self.broken(format!(
                "the index calls `{}` a `{kind}`, and it calls itself a `{}`",
                child.digest, manifest.media_type
            )));
        }
        let platform = child.platform();
        Ok(Part::Tree(platform, Box::new(self.tree(manifest, depth + 1).await?)))
    }

    /// The platform of a single manifest, from its config, which is kept.
    async fn platform_of(
        &self,
        tree: &Tree,
        inline: &mut BTreeMap<Digest, Bytes>,
    ) -> Result<Option<Platform>> {
        let Some((_, Manifest { content: Content::Image { config, .. }, .. })) = tree.nodes.first() else {
            return Ok(None);
        };
        let of_image = matches!(
            config.media_type.as_str(),
            "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json"
        );
        if !of_image {
            return Ok(None);
        }
        check_config(self.image, config)?;
        let mut bytes = Vec::new();
        let fetched = fetch(self.source, self.image, &config.entry(), &mut |part| {
            bytes.extend_from_slice(part);
            Ok(())
        })
        .await?;
        let got = Digest::of(&bytes);
        if got != config.digest {
            return Err(OciError::WrongDigest {
                what: format!("config of `{}`", self.image),
                from: format!("`{}`", fetched.from),
                got,
                wanted: config.digest,
            });
        }
        let platform = platform_of_config(&bytes);
        inline.insert(config.digest, bytes.into());
        Ok(platform)
    }

    /// What refers to the image and its parts, and to those in turn; adds it to `closure`.
    async fn referrers(&'a self, tree: &Tree, closure: &mut Closure<'a>) -> Result<Vec<ReferrerEntry>> {
        let mut entries: Vec<ReferrerEntry> = Vec::new();
        if self.referrers == Referrers::None {
            closure.check_foreign(self.source).await?;
            return Ok(entries);
        }
        // The same manifest may stand in an index twice: it is asked for once, in its first place.
        let mut known: BTreeSet<Digest> = BTreeSet::new();
        let mut subjects: Vec<Digest> =
            tree.nodes.iter().map(|(raw, _)| raw.digest).filter(|digest| known.insert(*digest)).collect();
        for depth in 0.. {
            if depth > REFERRER_DEPTH {
                return Err(
                    self.broken(format!("manifests refer to each other more than {REFERRER_DEPTH} deep; `images.referrers` can leave them out"))
                );
            }
            let mut reads: Reads<'_, (Digest, Vec<Referrer>)> = Vec::with_capacity(subjects.len());
            for subject in std::mem::take(&mut subjects) {
                reads.push(Box::pin(async move {
                    let which = self.referrers;
                    Ok((subject, discover(self.source, self.image, subject, which, self.progress).await?))
                }));
            }
            let found = side_by_side(reads).await?;
            for (subject, referrers) in found {
                for Referrer { manifest, artifact_type, tag } in referrers {
                    if !known.insert(manifest.digest) {
                        continue;
                    }
                    if entries.len() >= REFERRERS {
                        return Err(self.broken(format!("more than {REFERRERS} manifests refer to it")));
                    }
                    entries.push(ReferrerEntry {
                        digest: manifest.digest,
                        media_type: manifest.media_type.clone(),
                        subject,
                        tag,
                        artifact_type,
                    });
                    // All of a referrer is carried, whatever platforms were asked for.
                    let whole = Walk { platforms: &[], ..*self };
                    let below = whole.whole_tree(manifest).await?;
                    for (raw, _) in &below.nodes {
                        known.insert(raw.digest);
                        subjects.push(raw.digest);
                    }
                    closure.add(&below)?;
                }
            }
            if subjects.is_empty() {
                break;
            }
        }
        closure.check_foreign(self.source).await?;
        Ok(entries)
    }

    /// [`Walk::tree`] for a walk that lives only as long as the call.
    async fn whole_tree(&self, root: RawManifest) -> Result<Tree> {
        let walk: &Walk<'_> = self;
        walk.tree(root, 0).await
    }
}

/// Reads that are to be done side by side.
pub(super) type Reads<'a, T> = Vec<BoxFuture<'a, Result<T>>>;

/// Several reads at once, with their outcomes in the order in which they were given.
pub(super) async fn side_by_side<T: Send>(reads: Reads<'_, T>) -> Result<Vec<T>> {
    stream::iter(reads).buffered(PARALLEL).try_collect().await
}

enum Part {
    Absent(Descriptor),
    Loose(Descriptor),
    Tree(Option<Platform>, Box<Tree>),
}

fn check_config(image: &ImageRef, config: &Descriptor) -> Result<()> {
    if config.size > limits::CONFIG {
        return Err(OciError::TooLarge {
            what: format!("config `{}` of `{image}` ({} bytes)", config.digest, config.size),
            from: "its manifest's word".to_owned(),
            limit: limits::CONFIG,
        });
    }
    Ok(())
}

/// Everything that was found, without doubles.
struct Closure<'a> {
    image: &'a ImageRef,
    manifests: Vec<RawManifest>,
    configs: Vec<BlobEntry>,
    layers: Vec<BlobEntry>,
    foreign: Vec<Descriptor>,
    inline: BTreeMap<Digest, Bytes>,
    held: BTreeSet<Digest>,
    /// The size that each digest was first seen with.
    sizes: HashMap<Digest, u64>,
}

impl<'a> Closure<'a> {
    fn new(image: &'a ImageRef) -> Self {
        Self {
            image,
            manifests: Vec::new(),
            configs: Vec::new(),
            layers: Vec::new(),
            foreign: Vec::new(),
            inline: BTreeMap::new(),
            held: BTreeSet::new(),
            sizes: HashMap::new(),
        }
    }

    fn size(&mut self, digest: Digest, size: u64) -> Result<()> {
        let first = *self.sizes.entry(digest).or_insert(size);
        if first != size {
            return Err(OciError::Manifest {
                what: format!("image `{}`", self.image),
                from: "its source".to_owned(),
                why: format!("it says that `{digest}` has {first} bytes and that it has {size}"),
            });
        }
        Ok(())
    }

    fn add(&mut self, tree: &Tree) -> Result<()> {
        for (raw, _) in &tree.nodes {
            self.size(raw.digest, raw.bytes.len() as u64)?;
            if self.held.insert(raw.digest) {
                self.manifests.push(raw.clone());
            }
        }
        for (_, manifest) in &tree.nodes {
            let Content::Image { config, layers } = &manifest.content else { continue };
            check_config(self.image, config)?;
            self.size(config.digest, config.size)?;
            if config.digest == Digest::of(media_type::EMPTY_BYTES) {
                self.inline.insert(config.digest, Bytes::from_static(media_type::EMPTY_BYTES));
            }
            if !self.configs.iter().any(|old| old.digest == config.digest) {
                self.configs.push(config.entry());
            }
            for layer in layers {
                self.layer(layer)?;
            }
        }
        tree.loose.iter().try_for_each(|loose| self.layer(loose))
    }

    fn layer(&mut self, layer: &Descriptor) -> Result<()> {
        self.size(layer.digest, layer.size)?;
        if self.held.insert(layer.digest) {
            if layer.is_foreign() || !layer.urls.is_empty() {
                self.foreign.push(layer.clone());
            }
            self.layers.push(layer.entry());
        }
        Ok(())
    }

    /// Refuses layers that only another place than the image's own has.
    async fn check_foreign(&self, source: &dyn BlobSource) -> Result<()> {
        for layer in &self.foreign {
            if !source.has_blob(self.image, &layer.entry()).await? {
                return Err(OciError::Foreign {
                    image: self.image.to_string(),
                    digest: layer.digest,
                    media_type: layer.media_type.clone(),
                    urls: layer.urls.clone(),
                });
            }
        }
        Ok(())
    }

    /// What is a config somewhere is one, even where it is a layer elsewhere; what is a manifest
    /// is neither.
    fn finish(mut self) -> Self {
        let manifests: BTreeSet<Digest> = self.manifests.iter().map(|raw| raw.digest).collect();
        self.configs.retain(|config| !manifests.contains(&config.digest));
        let configs: BTreeSet<Digest> = self.configs.iter().map(|config| config.digest).collect();
        self.layers.retain(|layer| !configs.contains(&layer.digest) && !manifests.contains(&layer.digest));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Callers resolve many images side by side, on several threads.
    #[test]
    fn futures_move_between_threads() {
        fn moves<T: Send>(_: &T) {}
        let sources = Sources::new(Vec::new());
        let image: ImageRef = "a".parse().unwrap();
        moves(&resolve(&sources, &image, Extent::default(), &crate::model::progress::Silent));
        moves(&fetch(
            &super::super::Registry::new(super::super::RegistryOptions::default()),
            &image,
            &BlobEntry { digest: Digest::of(b""), size: 0, media_type: String::new() },
            &mut |_| Ok(()),
        ));
    }
}
