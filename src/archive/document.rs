//! The release document: read from bytes, and held against every rule of its format.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;

use super::descriptor::to_json;
use super::error::{ArchiveError, Result};
use crate::fsio::limits;
use crate::model::{
    BlobEntry, Digest, ImageEntry, LfsObject, ReleaseDocument, media_type, reference, release,
};

/// The bytes of `document` as the archive holds them: JSON without white space.
#[must_use]
pub fn to_bytes(document: &ReleaseDocument) -> Vec<u8> {
    to_json(document)
}

/// Parses the release document and checks it.
///
/// # Errors
///
/// When its format or a feature that it requires is not known, or it breaks a rule.
pub fn parse(bytes: &[u8]) -> Result<ReleaseDocument> {
    /// What every format says first, so that a later one is refused for what it is.
    #[derive(Deserialize)]
    struct Format {
        format: u32,
        #[serde(default)]
        requires: Vec<String>,
    }
    check_size(bytes.len() as u64)?;
    let refuse = |error: serde_json::Error| rule(format!("does not parse: {error}"));
    let format: Format = serde_json::from_slice(bytes).map_err(refuse)?;
    if format.format != release::FORMAT {
        return Err(ArchiveError::Format { found: format.format, known: release::FORMAT });
    }
    if let Some(name) = format.requires.iter().find(|name| !release::KNOWN_FEATURES.contains(&name.as_str()))
    {
        let name = name.chars().take(100).flat_map(char::escape_debug).collect();
        return Err(ArchiveError::Feature { name });
    }
    let document = serde_json::from_slice(bytes).map_err(refuse)?;
    check(&document)?;
    Ok(document)
}

/// Checks that a document of `size` bytes is read.
///
/// # Errors
///
/// When it is too large.
pub fn check_size(size: u64) -> Result<()> {
    at_most("bytes", size, limits::RELEASE_DOCUMENT)
}

fn rule(why: impl Into<String>) -> ArchiveError {
    ArchiveError::Document { why: why.into() }
}

fn at_most(what: &str, found: u64, limit: u64) -> Result<()> {
    if found <= limit {
        return Ok(());
    }
    Err(ArchiveError::TooLarge {
        what: "the release document".into(),
        found: format!("{found} {what}"),
        limit,
    })
}

/// Checks every rule of the format that the document alone can break (`docs/formats.md`).
///
/// # Errors
///
/// Names the first rule that is broken.
pub fn check(document: &ReleaseDocument) -> Result<()> {
    if document.format != release::FORMAT {
        return Err(ArchiveError::Format { found: document.format, known: release::FORMAT });
    }
    at_most("blobs", document.blobs.len() as u64, limits::MEMBERS as u64)?;
    at_most("images", document.images.len() as u64, limits::IMAGES as u64)?;
    at_most("objects", document.rendered.objects.len() as u64, limits::OBJECTS as u64)?;
    if !document.requires.is_sorted_by(|a, b| a < b) {
        return Err(rule("does not sort `requires`"));
    }
    if !document.git.refs.is_sorted_by(|a, b| a.name < b.name) {
        return Err(rule("does not sort `git.refs` by name, each once"));
    }
    if document.branch().is_none() {
        return Err(rule("names no branch in `git.refs`"));
    }
    check_submodules(document)?;
    check_lfs(document)?;
    let blobs = Blobs::check(document)?;
    if !document.images.is_sorted_by(|a, b| a.reference < b.reference) {
        return Err(rule("does not sort `images` by reference, each once"));
    }
    document.images.iter().try_for_each(|image| blobs.check_image(image))
}

/// The rules of `git.submodules`.
fn check_submodules(document: &ReleaseDocument) -> Result<()> {
    let submodules = &document.git.submodules;
    at_most("submodules", submodules.len() as u64, limits::SUBMODULES as u64)?;
    if submodules.is_empty() == document.requires.iter().any(|name| name == release::SUBMODULES) {
        let feature = release::SUBMODULES;
        return Err(rule(format!("does not list `git.submodules` just where it requires `{feature}`")));
    }
    if !submodules.is_sorted_by(|a, b| a.name < b.name) {
        return Err(rule("does not sort `git.submodules` by name, each once"));
    }
    let mut paths = HashSet::new();
    for submodule in submodules {
        let name = &submodule.name;
        let refs = &submodule.refs;
        if !refs.is_sorted_by(|a, b| a.name < b.name) || refs.iter().any(|found| !found.name.is_branch()) {
            return Err(rule(format!("does not sort the branches of submodule `{name}` by name, each once")));
        }
        if submodule.paths.first().is_none_or(|first| first.commit != submodule.commit)
            || !submodule.paths.is_sorted_by(|a, b| a.path < b.path)
        {
            return Err(rule(format!("does not sort the paths of submodule `{name}`, its commit's first")));
        }
        at_most("paths of submodules", submodule.paths.len() as u64, limits::SUBMODULES as u64)?;
        for place in &submodule.paths {
            if !refs.iter().any(|found| found.target == place.commit) {
                let (path, commit) = (&place.path, &place.commit);
                return Err(rule(format!("names no branch for commit {commit} of submodule `{path}`")));
            }
            if !paths.insert(&place.path) {
                return Err(rule(format!("lists submodule `{}` twice", place.path)));
            }
            if place.url.len() > 2_048 || place.url.chars().any(char::is_control) {
                return Err(rule(format!("gives submodule `{}` a URL that is none", place.path)));
            }
        }
    }
    Ok(())
}

/// The rules of `git.lfs`, but for the blobs.
fn check_lfs(document: &ReleaseDocument) -> Result<()> {
    let objects = &document.git.lfs;
    at_most("objects of Git LFS", objects.len() as u64, limits::LFS_OBJECTS as u64)?;
    if objects.is_empty() == document.requires.iter().any(|name| name == release::LFS) {
        return Err(rule(format!("does not list `git.lfs` just where it requires `{}`", release::LFS)));
    }
    if !objects.is_sorted_by(|a, b| a.digest < b.digest) {
        return Err(rule("does not sort `git.lfs` by digest, each once"));
    }
    for LfsObject { digest, paths, .. } in objects {
        if paths.is_empty() || !paths.is_sorted_by(|a, b| a < b) {
            return Err(rule(format!("does not sort the paths of Git LFS object {digest}, each once")));
        }
        let bad = |path: &&String| {
            path.is_empty() || path.len() > limits::GIT_PATH || path.chars().any(char::is_control)
        };
        if paths.iter().any(|path| bad(&path)) {
            return Err(rule(format!("gives Git LFS object {digest} a path that is none")));
        }
    }
    Ok(())
}

/// The blobs by digest, and where the manifests and configs among them end.
struct Blobs<'a> {
    entries: &'a [BlobEntry],
    places: HashMap<Digest, usize>,
    small: usize,
}

impl<'a> Blobs<'a> {
    fn check(document: &'a ReleaseDocument) -> Result<Self> {
        let entries = document.blobs.as_slice();
        let mut places = HashMap::with_capacity(entries.len());
        for (place, blob) in entries.iter().enumerate() {
            if places.insert(blob.digest, place).is_some() {
                return Err(rule(format!("lists blob {} twice", blob.digest)));
            }
            if !is_media_type(&blob.media_type) {
                return Err(rule(format!("gives blob {} a media type that is none", blob.digest)));
            }
        }
        let small = small_blobs(document)?;
        let blobs = Self { entries, places, small };
        if !entries[..small].is_sorted_by(|a, b| a.digest < b.digest) {
            return Err(rule("does not sort the manifests and configs before the git bundle by digest"));
        }
        blobs.expect("git bundle", document.git.bundle, media_type::GIT_BUNDLE)?;
        let bundles = document.bundles();
        for (place, bundle) in bundles.iter().enumerate().skip(1) {
            blobs.expect("git bundle", *bundle, media_type::GIT_BUNDLE)?;
            if entries.get(small + place).is_none_or(|blob| blob.digest != *bundle) {
                return Err(rule(format!("does not list git bundle {bundle} of a submodule in its place")));
            }
        }
        if entries.get(small + bundles.len()).is_none_or(|blob| blob.digest != document.rendered.layer) {
            let layer = document.rendered.layer;
            return Err(rule(format!("does not list rendered layer {layer} right after the git bundle")));
        }
        blobs.expect("rendered layer", document.rendered.layer, media_type::OCI_LAYER_GZIP)?;
        blobs.expect_small("rendered manifest", document.rendered.manifest, media_type::OCI_MANIFEST)?;
        blobs.check_lfs(document, small + bundles.len() + 1)?;
        let empty = Digest::of(media_type::EMPTY_BYTES);
        if blobs.places.get(&empty).is_none_or(|place| *place >= small) {
            return Err(rule(format!("does not list the empty blob {empty} before the git bundle")));
        }
        for (place, blob) in entries.iter().enumerate() {
            if media_type::is_manifest(&blob.media_type) || media_type::is_index(&blob.media_type) {
                if place >= small {
                    return Err(rule(format!("lists manifest {} after the git bundle", blob.digest)));
                }
                if blob.size > limits::MANIFEST {
                    let what = format!("manifest {}", blob.digest);
                    let found = format!("{} bytes", blob.size);
                    return Err(ArchiveError::TooLarge { what, found, limit: limits::MANIFEST });
                }
            }
        }
        Ok(blobs)
    }

    /// Objects of Git LFS stand from place `next` on, but for those that stand before it for what
    /// else they are.
    fn check_lfs(&self, document: &ReleaseDocument, mut next: usize) -> Result<()> {
        let first = next;
        for LfsObject { digest, size, .. } in &document.git.lfs {
            let Some(place) = self.places.get(digest) else {
                return Err(rule(format!("names Git LFS object {digest} and does not list it in `blobs`")));
            };
            let blob = &self.entries[*place];
            if blob.size != *size {
                let listed = blob.size;
                return Err(rule(format!(
                    "gives Git LFS object {digest} {size} bytes, and lists it with {listed}"
                )));
            }
            if *place < first {
                continue;
            }
            if *place != next {
                return Err(rule(format!("does not list Git LFS object {digest} in its place")));
            }
            self.expect("Git LFS object", *digest, media_type::GIT_LFS_OBJECT)?;
            next += 1;
        }
        Ok(())
    }

    fn expect(&self, what: &str, digest: Digest, media_type: &str) -> Result<usize> {
        let Some(place) = self.places.get(&digest) else {
            return Err(rule(format!("names {what} {digest} and does not list it in `blobs`")));
        };
        let found = &self.entries[*place].media_type;
        if found != media_type {
            return Err(rule(format!("lists {what} {digest} as `{found}`, wanted `{media_type}`")));
        }
        Ok(*place)
    }

    fn expect_small(&self, what: &str, digest: Digest, media_type: &str) -> Result<()> {
        if self.expect(what, digest, media_type)? >= self.small {
            return Err(rule(format!("lists {what} {digest} after the git bundle")));
        }
        Ok(())
    }

    fn check_image(&self, image: &ImageEntry) -> Result<()> {
        let name = &image.reference;
        let is_index = media_type::is_index(&image.media_type);
        if !is_index && !media_type::is_manifest(&image.media_type) {
            let found = &image.media_type;
            return Err(rule(format!("gives image `{name}` media type `{found}`, no manifest or index")));
        }
        self.expect_small(&format!("image `{name}`"), image.digest, &image.media_type)?;
        if let Some(pinned) = name.digest()
            && pinned != image.digest
        {
            return Err(rule(format!("resolves image `{name}` to {}, another digest", image.digest)));
        }
        if !is_index && !image.absent.is_empty() {
            return Err(rule(format!("lists absent children of image `{name}`, which is no index")));
        }
        let mut seen = HashSet::new();
        if let Some(twice) = image.absent.iter().find(|absent| !seen.insert(absent.digest)) {
            return Err(rule(format!("lists child {} of image `{name}` as absent twice", twice.digest)));
        }
        let mut seen = HashSet::new();
        for referrer in &image.referrers {
            let what = format!("referrer of image `{name}`");
            let digest = referrer.digest;
            if !media_type::is_index(&referrer.media_type) && !media_type::is_manifest(&referrer.media_type) {
                let found = &referrer.media_type;
                return Err(rule(format!(
                    "gives {what} {digest} media type `{found}`, no manifest or index"
                )));
            }
            self.expect_small(&what, digest, &referrer.media_type)?;
            if referrer.tag.as_ref().is_some_and(|tag| !reference::is_tag(tag)) {
                return Err(rule(format!("gives {what} {digest} a tag that is none")));
            }
            if !seen.insert((digest, &referrer.tag)) {
                return Err(rule(format!("lists {what} {digest} twice")));
            }
        }
        Ok(())
    }
}

/// How many blobs stand before the git bundle: the indexes, manifests and configs.
///
/// # Errors
///
/// When the git bundle is not listed.
pub(super) fn small_blobs(document: &ReleaseDocument) -> Result<usize> {
    let bundle = document.git.bundle;
    document
        .blobs
        .iter()
        .position(|blob| blob.digest == bundle)
        .ok_or_else(|| rule(format!("names git bundle {bundle} and does not list it in `blobs`")))
}

/// Whether `text` may stand in a `Content-Type` header: the reader serves it later.
fn is_media_type(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.bytes().all(|byte| (b' '..0x7f).contains(&byte))
}
