//! The images of a release: which it wants, and what they are at their sources.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt;

use super::error::UnresolvedImage;
use super::{Error, RegistrySettings, Result};
use crate::model::{Event, ImageEntry, ImageRef, Platform, Progress, RenderedObject, Usage, config};
use crate::oci::{self, ResolvedImage, Sources};
use crate::source::images;

/// Which images besides those of the manifests, and where all of them are looked for.
#[derive(Debug, Clone, Default)]
pub struct ImageOptions {
    /// Platforms to take of each index; empty leaves it to the configuration.
    pub platforms: Vec<Platform>,
    /// Images to carry although no manifest names them.
    pub images: Vec<ImageRef>,
    /// Places on this machine to look for images before asking registries.
    pub local_images: Vec<String>,
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
}

/// Every image to carry, and who uses it: those of the objects, and those that were asked for.
pub(super) fn wanted(
    objects: &[RenderedObject],
    config: Option<&config::ReleaseConfig>,
    options: &ImageOptions,
) -> Result<BTreeMap<ImageRef, Vec<Usage>>> {
    let mut wanted: BTreeMap<ImageRef, Vec<Usage>> = BTreeMap::new();
    for found in images::discover(objects).complete()? {
        wanted.entry(found.image).or_default().push(found.usage);
    }
    let included = config.into_iter().flat_map(|config| &config.images.include).chain(&options.images);
    for image in included {
        wanted.entry(image.clone()).or_default();
    }
    Ok(wanted)
}

fn open_sources(options: &ImageOptions, progress: &Arc<dyn Progress>) -> Result<Sources> {
    let mut list: Vec<Arc<dyn oci::BlobSource>> = Vec::new();
    for local in &options.local_images {
        list.push(Arc::new(oci::open_source(local)?));
    }
    let settings = &options.registries;
    list.push(Arc::new(oci::Registry::new(oci::RegistryOptions {
        registries: oci::RegistriesConf::load(&settings.registries_conf, &settings.drop_ins)?,
        credentials: oci::Credentials::load(oci::CredentialPaths {
            explicit: settings.auth_file.clone(),
            files: settings.auth_files.clone(),
            helper_dirs: Vec::new(),
        })?,
        certs_dirs: settings.certs_dirs.clone(),
        per_host: options.jobs(),
        progress: Arc::clone(progress),
        ..oci::RegistryOptions::default()
    })));
    Ok(Sources::new(list))
}

/// Resolves every image; all that cannot be resolved are told together.
pub(super) async fn resolve_all(
    options: &ImageOptions,
    config: Option<&config::ReleaseConfig>,
    wanted: BTreeMap<ImageRef, Vec<Usage>>,
    progress: &Arc<dyn Progress>,
) -> Result<Vec<ResolvedImage>> {
    let platforms = match (options.platforms.as_slice(), config) {
        ([], Some(config)) => config.platforms.as_slice(),
        (platforms, _) => platforms,
    };
    let sources = open_sources(options, progress)?;
    let (sources, progress) = (&sources, progress.as_ref());
    let results: Vec<_> = futures_util::stream::iter(wanted.into_iter().map(|(image, used_by)| async move {
        progress.event(Event::Item(image.to_string()));
        let resolved = oci::resolve(sources, &image, platforms, progress).await;
        (image, used_by, resolved)
    }))
    .buffered(options.jobs())
    .collect()
    .await;
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for (image, used_by, resolved) in results {
        match resolved {
            Ok(mut resolved) => {
                resolved.entry = ImageEntry { used_by, ..resolved.entry };
                good.push(resolved);
            }
            Err(error) => bad.push(UnresolvedImage { image, used_by, error }),
        }
    }
    if bad.is_empty() { Ok(good) } else { Err(Error::Images { images: bad }) }
}
