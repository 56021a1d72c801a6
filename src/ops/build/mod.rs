//! `build`: a Git revision and every image it runs, into one archive.
//!
//! Everything small comes first: the tree is rendered, images are found and resolved to their
//! manifests, the Git bundle is measured. Then every size is known, so every offset in the output
//! is, and all blobs stream side by side straight into their places.

mod blobs;
pub mod compare;
mod difference;
mod naming;
mod reuse;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use self::blobs::{Origin, plan_blobs, transfer};
pub(super) use self::naming::output_path;
use self::naming::{release_name, release_time, release_version};
use self::reuse::Reuse;
use super::checkout::{Checkout, RevisionOptions};
use super::images::{self, ImageOptions};
use super::{Error, Result};
use crate::archive::{Writer, rendered};
use crate::model::{
    Digest, Event, GitContent, LfsObject, Progress, ReleaseDocument, ReleaseName, ReleaseVersion,
    RenderedObject, SubmoduleEntry, release,
};
use crate::source::git::{BundlePlan, Revision};
use crate::trust::{self, PrivateKey};

/// What a build is told.
#[derive(Default)]
pub struct Options {
    /// The revision, and what renders it.
    pub revision: RevisionOptions,
    /// Its images.
    pub images: ImageOptions,
    /// Whether the revision's lock file must name every image, and no other.
    pub locked: bool,
    /// File to write, or folder for it; none writes to the working folder.
    pub output: Option<PathBuf>,
    /// Archives, and folders of stores, whose blobs need not be downloaded.
    pub reuse: Vec<PathBuf>,
    /// Name of the release, over the configuration's.
    pub name: Option<ReleaseName>,
    /// Version of the release, over the configuration's.
    pub version: Option<ReleaseVersion>,
    /// Sequence, over the count of commits.
    pub sequence: Option<u64>,
    /// Key to sign with.
    pub key: Option<PrivateKey>,
    /// Time of the release in seconds since 1970, over the commit's.
    pub created: Option<i64>,
}

/// What a build made.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Format of this report: 1.
    pub format: u32,
    /// The archive.
    pub archive: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// Identity of the release: digest of its manifest.
    pub release: Digest,
    /// Name of the release.
    pub name: ReleaseName,
    /// Version of the release.
    pub version: ReleaseVersion,
    /// Sequence of the release.
    pub sequence: u64,
    /// The commit.
    pub commit: String,
    /// Count of objects.
    pub objects: usize,
    /// Count of image references.
    pub images: usize,
    /// Count of blobs.
    pub blobs: usize,
    /// Count of blobs that came from registries or from a layout on this machine.
    pub fetched: usize,
    /// Count of blobs that were taken from what `reuse` names.
    pub reused: usize,
    /// Their bytes.
    pub reused_bytes: u64,
    /// Fingerprint of the key that signed, if one did.
    pub signed_by: Option<String>,
}

/// All that decides about the bytes of an archive, before any large blob is downloaded.
struct Assembled {
    document: ReleaseDocument,
    objects: Vec<RenderedObject>,
    origins: HashMap<Digest, Origin>,
}

/// Renders, resolves and measures.
async fn assemble(options: &Options, progress: &Arc<dyn Progress>) -> Result<Assembled> {
    let checkout = Checkout::open(&options.revision, progress).await?;
    let config = checkout.config.as_ref();
    let lock = checkout.lock()?;
    let name = release_name(options, config, checkout.remote.as_ref(), progress.as_ref())?;
    let version = release_version(options, config, &checkout.revision)?;
    let created = release_time(options, &checkout.revision)?;

    progress.event(Event::Start { title: format!("rendering {name} {version}"), bytes: None });
    let objects = checkout.render(&options.revision, progress.as_ref())?;
    crate::apply::check_order(&objects)?;
    let wanted = images::wanted(&checkout, &objects, &options.images, progress.as_ref());
    progress.event(Event::Finish {
        summary: format!("{} objects, {} image references", objects.len(), wanted.images.len()),
    });
    super::lock::check(
        lock.as_ref(),
        &wanted,
        options.images.platforms(config),
        options.locked,
        progress.as_ref(),
    )?;

    progress.event(Event::Start { title: format!("resolving {} images", wanted.images.len()), bytes: None });
    // Packing Git's objects keeps one core busy while the registries answer.
    let mut plans = vec![checkout.repository.bundle(&checkout.revision)?];
    for submodule in &checkout.submodules.repositories {
        plans.push(submodule.repository.bundle(&submodule.revision)?);
    }
    let measuring = tokio::task::spawn_blocking(move || {
        let measure = |mut plan: BundlePlan| plan.measure().map(|measured| (plan, measured));
        plans.into_iter().map(measure).collect::<std::result::Result<Vec<_>, _>>()
    });
    let resolved = images::resolve_all(&options.images, config, lock.as_ref(), &wanted, progress).await?;
    let bundles = measuring
        .await
        .map_err(|error| Error::io("pack", &options.revision.repository, io::Error::other(error)))??;
    progress.event(Event::Finish { summary: String::new() });

    let packed = rendered::pack(&objects)?;
    let bundle = bundles[0].1.digest;
    let submodules: Vec<SubmoduleEntry> = checkout
        .submodules
        .repositories
        .into_iter()
        .zip(&bundles[1..])
        .map(|(found, (_, measured))| found.entry(measured.digest))
        .collect();
    let lfs: Vec<LfsObject> = checkout.lfs.objects.iter().map(|object| object.entry.clone()).collect();
    let (blobs, origins) = plan_blobs(&resolved, &packed, bundles, checkout.lfs.objects);
    let Revision { sequence, commit, refs, .. } = checkout.revision;
    let features = [(lfs.is_empty(), release::LFS), (submodules.is_empty(), release::SUBMODULES)];
    let document = ReleaseDocument {
        format: release::FORMAT,
        requires: features.iter().filter(|(empty, _)| !empty).map(|(_, name)| (*name).to_owned()).collect(),
        name,
        version,
        sequence: options.sequence.unwrap_or(sequence),
        created,
        generator: concat!("fleetpack ", env!("CARGO_PKG_VERSION")).to_owned(),
        git: GitContent { commit, refs, bundle, submodules, lfs },
        rendered: packed.content(),
        images: resolved.into_iter().map(|image| image.entry).collect(),
        blobs,
    };
    Ok(Assembled { document, objects, origins })
}

/// Builds an archive. On any failure there is no file under its name.
///
/// # Errors
///
/// When the revision, its manifests or an image cannot be had, or the output cannot be written.
pub async fn build(options: Options, progress: Arc<dyn Progress>) -> Result<Report> {
    let reuse = Arc::new(Reuse::open(&options.reuse)?);
    let Assembled { document, origins, .. } = assemble(&options, &progress).await?;
    let output = output_path(options.output.as_deref(), &document.name, &document.version);
    let writer = Writer::create(&output, &document)?;
    let jobs = options.images.jobs();
    let moved = transfer(&writer, &document, origins, &reuse, jobs, &progress).await?;
    let mut signatures = Vec::new();
    if let Some(key) = &options.key {
        signatures.push(trust::sign(writer.manifest(), key)?);
    } else {
        let advice = "sign it with `fleetpack sign`, or build with `--key`";
        progress.warn(format!("the archive is unsigned, and no site will take it; {advice}"));
    }
    let written = writer.finish(&signatures)?;
    Ok(Report {
        format: 1,
        archive: output,
        size: written.size,
        release: written.digest,
        name: document.name,
        version: document.version,
        sequence: document.sequence,
        commit: document.git.commit.to_string(),
        objects: document.rendered.objects.len(),
        images: document.images.len(),
        blobs: document.blobs.len(),
        fetched: moved.fetched,
        reused: moved.reused,
        reused_bytes: moved.reused_bytes,
        signed_by: options.key.as_ref().map(|key| key.public().fingerprint().to_string()),
    })
}
