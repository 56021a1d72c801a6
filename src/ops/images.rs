//! The images of a release: which it wants and why, and what they are at their sources.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures_util::StreamExt;
use serde::Serialize;

use super::checkout::Checkout;
use super::image_problems::{ImageProblems, UnresolvedImage};
use super::{Error, RegistrySettings, Result, registry};
use crate::fsio::limits;
use crate::model::config::IgnoredImage;
use crate::model::{Event, ImageEntry, ImageRef, Lock, Platform, Progress, RenderedObject, Usage, config};
use crate::oci::{self, ResolvedImage, Sources};
use crate::source::images::{self, Certainty, Rule, UnresolvableImage};

/// Which images besides those of the manifests, and where all of them are looked for.
#[derive(Debug, Clone, Default)]
pub struct ImageOptions {
    /// Platforms to take of each index; empty leaves it to the configuration.
    pub platforms: Vec<Platform>,
    /// Images to carry although no manifest names them.
    pub images: Vec<ImageRef>,
    /// Places on this machine to look for images before asking registries.
    pub local_images: Vec<String>,
    /// What of that which refers to an image travels with it; none leaves it to the configuration.
    pub referrers: Option<config::Referrers>,
    /// Downloads at a time; 0 takes 8.
    pub jobs: usize,
    /// Registries' configuration and credentials.
    pub registries: RegistrySettings,
}

impl ImageOptions {
    /// Downloads at a time.
    pub(super) const fn jobs(&self) -> usize {
        if self.jobs == 0 { 8 } else { self.jobs }
    }

    /// Platforms to take of each index; none takes all that it has.
    pub(super) fn platforms<'a>(&'a self, config: Option<&'a config::ReleaseConfig>) -> &'a [Platform] {
        match (self.platforms.as_slice(), config) {
            ([], Some(config)) => &config.platforms,
            (platforms, _) => platforms,
        }
    }

    /// What to take of each image.
    fn extent<'a>(&'a self, config: Option<&'a config::ReleaseConfig>) -> oci::Extent<'a> {
        let configured = || config.and_then(|config| config.images.referrers);
        let referrers = self.referrers.or_else(configured).unwrap_or_default();
        oci::Extent { platforms: self.platforms(config), referrers }
    }
}

/// How sure it is that a release needs an image, the weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Need {
    /// Something looks like a reference. It is carried if its registry has it.
    Candidate,
    /// It was asked for by name.
    Included,
    /// It certainly runs.
    Required,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Candidate => "candidate",
            Self::Included => "included",
            Self::Required => "required",
        })
    }
}

/// One place that names an image, and what says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// File, object and field.
    #[serde(flatten)]
    pub usage: Usage,
    /// Whether what stands there certainly runs.
    pub required: bool,
    /// What was recognised.
    pub rule: Rule,
}

/// An image that a release wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedImage {
    /// How sure that is: the strongest of its reasons.
    pub need: Need,
    /// Who uses it, in the order of the objects; none when it was asked for by name alone.
    pub places: Vec<Place>,
}

/// What is not carried because `fleetpack.yaml` says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ignored {
    /// What stands in the manifests: a reference, or what could not be one.
    pub image: String,
    /// The entry that decides it.
    pub ignored_by: String,
    /// Its reason.
    pub reason: String,
    /// Where it stands.
    pub places: Vec<Place>,
}

/// All that a release wants, and what it does without.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// The images, by reference.
    pub images: BTreeMap<ImageRef, WantedImage>,
    /// What is left out by `images.ignore`, by what stands in the manifests.
    pub ignored: Vec<Ignored>,
    /// Fields that should name an image and do not.
    pub fields: Vec<UnresolvableImage>,
}

/// Every image to carry, and who uses it: those of the objects, and those that were asked for.
/// Entries of the configuration that nothing meets are warned of.
pub(super) fn wanted(
    checkout: &Checkout,
    objects: &[RenderedObject],
    options: &ImageOptions,
    progress: &dyn Progress,
) -> Wanted {
    let config = checkout.config.as_ref();
    let mut wanted = Wanted::default();
    let included = config.into_iter().flat_map(|config| &config.images.include).chain(&options.images);
    for image in included {
        wanted.images.insert(image.clone(), WantedImage { need: Need::Included, places: Vec::new() });
    }
    let mut ignore = Ignore::new(config.map_or(&[][..], |config| &config.images.ignore));
    let mut discovery = images::discover(objects);
    images::locate(&mut discovery, &mut |file| checkout.tree.read(file, limits::YAML_FILE).ok());
    for found in discovery.found {
        let required = found.certainty == Certainty::Required;
        let place = Place { usage: found.usage, required, rule: found.rule };
        // Who asks for an image by name means it, whatever a pattern says.
        let named = wanted.images.get(&found.image).is_some_and(|image| image.need == Need::Included);
        if !named && ignore.takes(&found.text, Some(&found.image), &place) {
            continue;
        }
        let need = if required { Need::Required } else { Need::Candidate };
        let image = wanted.images.entry(found.image).or_insert(WantedImage { need, places: Vec::new() });
        image.need = image.need.max(need);
        image.places.push(place);
    }
    for field in discovery.unresolvable {
        let place = Place { usage: field.usage.clone(), required: true, rule: field.rule };
        if field.text.is_empty() || !ignore.takes(&field.text, None, &place) {
            wanted.fields.push(field);
        }
    }
    wanted.ignored = ignore.finish(progress);
    wanted
}

/// The entries of `images.ignore`, and what they met.
struct Ignore<'a> {
    entries: &'a [IgnoredImage],
    used: Vec<bool>,
    /// By entry and text.
    met: BTreeMap<(usize, String), Vec<Place>>,
}

impl<'a> Ignore<'a> {
    fn new(entries: &'a [IgnoredImage]) -> Self {
        Self { entries, used: vec![false; entries.len()], met: BTreeMap::new() }
    }

    /// Whether an entry says that `text` is not carried. The first that does counts.
    fn takes(&mut self, text: &str, image: Option<&ImageRef>, place: &Place) -> bool {
        let Some(at) = self.entries.iter().position(|entry| entry.image.matches(text, image)) else {
            return false;
        };
        self.used[at] = true;
        let name = image.map_or_else(|| text.to_owned(), ToString::to_string);
        self.met.entry((at, name)).or_default().push(place.clone());
        true
    }

    fn finish(self, progress: &dyn Progress) -> Vec<Ignored> {
        for (entry, used) in self.entries.iter().zip(&self.used) {
            if !used {
                let image = entry.image.as_str();
                progress.warn(format!(
                    "`images.ignore` in {} names `{image}`, which nothing uses: remove the entry",
                    config::FILE_NAME
                ));
            }
        }
        let ignored = self.met.into_iter().map(|((at, image), places)| Ignored {
            image,
            ignored_by: self.entries[at].image.as_str().to_owned(),
            reason: self.entries[at].reason.to_string(),
            places,
        });
        ignored.collect()
    }
}

fn open_sources(options: &ImageOptions, progress: &Arc<dyn Progress>) -> Result<Sources> {
    let mut list: Vec<Arc<dyn oci::BlobSource>> = Vec::new();
    for local in &options.local_images {
        list.push(Arc::new(oci::open_source(local)?));
    }
    let settings = &options.registries;
    list.push(Arc::new(registry::client(settings, options.jobs(), oci::RetryPolicy::default(), progress)?));
    Ok(Sources::new(list))
}

/// Resolves every image, the locked ones at their digests. A candidate that no source has, or that none can be asked for, is
/// undecided; everything that keeps the release from being complete is told together.
pub(super) async fn resolve_all(
    options: &ImageOptions,
    config: Option<&config::ReleaseConfig>,
    lock: Option<&Lock>,
    wanted: &Wanted,
    progress: &Arc<dyn Progress>,
) -> Result<Vec<ResolvedImage>> {
    let extent = options.extent(config);
    let sources = open_sources(options, progress)?;
    let (sources, progress) = (&sources, progress.as_ref());
    let results: Vec<_> = futures_util::stream::iter(wanted.images.iter().map(|(image, want)| async move {
        progress.event(Event::Item(image.to_string()));
        let locked = lock.and_then(|lock| lock.get(image)).map(|locked| locked.digest);
        let asked = locked.map_or_else(|| image.clone(), |digest| image.pinned(digest));
        (image, want, locked, oci::resolve(sources, &asked, extent, progress).await)
    }))
    .buffered(options.jobs())
    .collect()
    .await;
    let mut good = Vec::new();
    let mut problems = ImageProblems { fields: wanted.fields.clone(), ..ImageProblems::default() };
    for (image, want, locked, resolved) in results {
        match resolved {
            Ok(mut resolved) => {
                if want.need == Need::Candidate {
                    tell_taken(image, want, progress);
                }
                let used_by = want.places.iter().map(|place| place.usage.clone()).collect();
                resolved.entry = ImageEntry { reference: image.clone(), used_by, ..resolved.entry };
                good.push(resolved);
            }
            Err(error) => {
                let (image, wanted) = (image.clone(), want.clone());
                let unresolved = UnresolvedImage { image, wanted, locked, error };
                // What is locked was there once: it is no mere look.
                if want.need == Need::Candidate && locked.is_none() {
                    problems.undecided.push(unresolved);
                } else {
                    problems.images.push(unresolved);
                }
            }
        }
    }
    if problems.is_empty() { Ok(good) } else { Err(Error::Images(Box::new(problems))) }
}

/// Reports a candidate that is carried because it exists.
fn tell_taken(image: &ImageRef, want: &WantedImage, progress: &dyn Progress) {
    let Some(Place { usage, rule, .. }) = want.places.first() else { return };
    progress.note(format!(
        "carried, for it exists: `{image}` ({rule}: {}, {}, `{}`)",
        usage.place(),
        usage.object,
        usage.field
    ));
}
