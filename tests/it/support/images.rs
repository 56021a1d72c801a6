//! Images resolved and fetched through the library, from wherever they lie.

use std::path::Path;
use std::sync::Arc;

use fleetpack::model::progress::Silent;
use fleetpack::model::{Digest, Platform};
use fleetpack::oci::{
    Extent, OciError, RegistriesConf, Registry, RegistryOptions, ResolvedImage, Sources, fetch, resolve,
};

use super::testbed;

/// A client that is led to `registry` for `registry.example.com`.
pub fn client(registry: &testbed::Registry, folder: &Path) -> Registry {
    let conf = registry.configure(folder, &["registry.example.com"]);
    Registry::new(RegistryOptions {
        registries: RegistriesConf::load(&[conf], &[]).unwrap(),
        ..RegistryOptions::default()
    })
}

/// The same, as the only source.
pub fn of_registry(registry: &testbed::Registry, folder: &Path) -> Sources {
    Sources::new(vec![Arc::new(client(registry, folder))])
}

/// Resolves one image for `platforms`; none takes all.
pub async fn take(sources: &Sources, image: &str, platforms: &[&str]) -> Result<ResolvedImage, OciError> {
    let platforms: Vec<Platform> = platforms.iter().map(|text| text.parse().unwrap()).collect();
    let extent = Extent { platforms: &platforms, ..Extent::default() };
    resolve(sources, &image.parse().unwrap(), extent, &Silent).await
}

/// Fetches every blob and checks its digest.
pub async fn fetch_all(found: &ResolvedImage) {
    for blob in found.configs.iter().chain(&found.layers) {
        let mut bytes = Vec::new();
        let from = fetch(found.source.as_ref(), &found.entry.reference, blob, &mut |part| {
            bytes.extend_from_slice(part);
            Ok(())
        })
        .await
        .unwrap();
        assert_eq!(Digest::of(&bytes), blob.digest, "from {from:?}");
        if let Some(inline) = found.inline.get(&blob.digest) {
            assert_eq!(inline, &bytes);
        }
    }
}

/// What must not depend on where an image lies.
pub fn shape(found: &ResolvedImage) -> impl PartialEq + std::fmt::Debug + use<> {
    let manifests: Vec<_> = found.manifests.iter().map(|m| (m.digest, m.media_type.clone())).collect();
    (
        found.entry.digest,
        found.entry.platforms.clone(),
        found.entry.absent.clone(),
        manifests,
        found.configs.clone(),
        found.layers.clone(),
    )
}

/// Platforms as people write them.
pub fn texts(platforms: &[Platform]) -> Vec<String> {
    platforms.iter().map(ToString::to_string).collect()
}
