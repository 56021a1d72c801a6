//! `images`: every image of a revision, with all that says so, and nothing written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::Result;
use super::checkout::{Checkout, RevisionOptions};
use super::images::{self, Ignored, ImageOptions, Need, Place, WantedImage};
use crate::model::{Digest, Event, ImageRef, Platform, Progress};
use crate::oci::ResolvedImage;

/// Every image of a revision.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Format of this report: 1.
    pub format: u32,
    /// The commit.
    pub commit: String,
    /// Size in bytes of all blobs of all images, each counted once.
    pub size: u64,
    /// The images, by reference.
    pub images: Vec<ListedImage>,
    /// What is not carried because `fleetpack.yaml` says so.
    pub ignored: Vec<Ignored>,
}

/// One image.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedImage {
    /// The reference, normalised.
    pub reference: ImageRef,
    /// Digest of the manifest or index that it names.
    pub digest: Digest,
    /// Whether `fleetpack.lock` pins it there.
    pub locked: bool,
    /// How sure it is that the release needs it.
    pub need: Need,
    /// Platforms that travel.
    pub platforms: Vec<Platform>,
    /// Size in bytes of all its blobs, what refers to it included.
    pub size: u64,
    /// Everything that names it.
    pub places: Vec<Place>,
}

/// Lists the images of a revision. Manifests are read from the registries, layers are not.
///
/// # Errors
///
/// As a build: when the revision or its manifests cannot be had, an image cannot be resolved, or
/// what looks like one is not decided.
pub async fn list(
    revision: RevisionOptions,
    options: ImageOptions,
    progress: Arc<dyn Progress>,
) -> Result<Report> {
    let checkout = Checkout::open(&revision, &progress).await?;
    let lock = checkout.lock()?;
    let lock = lock.as_ref();
    progress.event(Event::Start { title: "rendering".into(), bytes: None });
    let objects = checkout.render(&revision, progress.as_ref())?;
    let wanted = images::wanted(&checkout, &objects, &options, progress.as_ref());
    progress.event(Event::Finish { summary: String::new() });

    progress.event(Event::Start { title: format!("resolving {} images", wanted.images.len()), bytes: None });
    let resolved = images::resolve_all(&options, checkout.config.as_ref(), lock, &wanted, &progress).await?;
    progress.event(Event::Finish { summary: String::new() });
    let mut sizes = BTreeMap::new();
    let mut images = Vec::with_capacity(resolved.len());
    for image in &resolved {
        let own = blobs(image);
        let reference = image.entry.reference.clone();
        let wanted = wanted.images.get(&reference);
        let WantedImage { need, places } =
            wanted.cloned().unwrap_or(WantedImage { need: Need::Included, places: Vec::new() });
        images.push(ListedImage {
            locked: lock.is_some_and(|lock| lock.get(&reference).is_some()),
            reference,
            digest: image.entry.digest,
            need,
            platforms: image.entry.platforms.clone(),
            size: own.values().sum(),
            places,
        });
        sizes.extend(own);
    }
    Ok(Report {
        format: 1,
        commit: checkout.revision.commit.to_string(),
        size: sizes.values().sum(),
        images,
        ignored: wanted.ignored,
    })
}

/// Every blob of an image with its size.
fn blobs(image: &ResolvedImage) -> BTreeMap<Digest, u64> {
    let manifests = image.manifests.iter().map(|manifest| (manifest.digest, manifest.bytes.len() as u64));
    let others = image.configs.iter().chain(&image.layers).map(|blob| (blob.digest, blob.size));
    manifests.chain(others).collect()
}

impl Report {
    /// The report as people read it; `bytes` words a size.
    #[must_use]
    pub fn text(&self, bytes: &dyn Fn(u64) -> String) -> String {
        let mut lines = Vec::new();
        for image in &self.images {
            let platforms: Vec<String> = image.platforms.iter().map(ToString::to_string).collect();
            let locked = if image.locked { "  locked" } else { "" };
            lines.push(image.reference.to_string());
            lines.push(format!(
                "  {}  {}  {}  {}{locked}",
                image.need,
                image.digest,
                platforms.join(" "),
                bytes(image.size)
            ));
            lines.extend(image.places.iter().map(line));
            if image.places.is_empty() {
                lines.push("  asked for by `--image` or `images.include`".to_owned());
            }
        }
        for ignored in &self.ignored {
            lines.push(ignored.image.clone());
            lines.push(format!("  ignored by `{}`: {}", ignored.ignored_by, ignored.reason));
            lines.extend(ignored.places.iter().map(line));
        }
        let counts: BTreeSet<Need> = self.images.iter().map(|image| image.need).collect();
        let counts: Vec<String> = counts
            .iter()
            .rev()
            .map(|need| format!("{} {need}", self.images.iter().filter(|image| image.need == *need).count()))
            .chain((!self.ignored.is_empty()).then(|| format!("{} ignored", self.ignored.len())))
            .collect();
        let counts = if counts.is_empty() { String::new() } else { format!(" ({})", counts.join(", ")) };
        lines.push(format!("{} images{counts}, {}", self.images.len(), bytes(self.size)));
        lines.join("\n")
    }
}

fn line(place: &Place) -> String {
    let usage = &place.usage;
    let doubt = if place.required { "" } else { "looks like one: " };
    format!("  used by   {}  {}  {}  ({doubt}{})", usage.place(), usage.object, usage.field, place.rule)
}
