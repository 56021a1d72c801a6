//! `build`: a Git revision and every image it runs, into one archive.
//!
//! Everything small comes first: the tree is rendered, images are found and resolved to their
//! manifests, the Git bundle is measured. Then every size is known, so every offset in the output
//! is, and all blobs stream side by side straight into their places.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use jiff::Timestamp;
use serde::Serialize;
use tokio::task::JoinSet;

use super::error::UnresolvedImage;
use super::{Error, RegistrySettings, Result};
use crate::archive::{Placement, Writer, rendered};
use crate::fsio::limits;
use crate::model::RenderedObject;
use crate::model::{
    BlobEntry, Digest, Event, GitContent, ImageEntry, ImageRef, Platform, Progress, ReleaseDocument,
    ReleaseName, ReleaseVersion, Usage, config, media_type, release,
};
use crate::oci::{self, ResolvedImage, Sources};
use crate::source::git::{BundlePlan, Dirty, Measured, Repository, Revision, Tree};
use crate::source::{images, render};
use crate::trust::{self, PrivateKey};

/// What a build is told.
#[derive(Default)]
pub struct Options {
    /// The repository.
    pub repository: PathBuf,
    /// Branch, tag or hash.
    pub revision: String,
    /// File to write, or folder for it; none writes to the working folder.
    pub output: Option<PathBuf>,
    /// Platforms to take of each index; empty leaves it to the configuration.
    pub platforms: Vec<Platform>,
    /// Images to carry although no manifest names them.
    pub images: Vec<ImageRef>,
    /// Places on this machine to look for images before asking registries.
    pub local_images: Vec<String>,
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
    /// Downloads at a time; 0 takes 8.
    pub jobs: usize,
    /// Registries' configuration and credentials.
    pub registries: RegistrySettings,
    /// `kustomize`, if it is installed.
    pub kustomize: Option<PathBuf>,
    /// `kubectl`, if it is installed.
    pub kubectl: Option<PathBuf>,
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
    /// Fingerprint of the key that signed, if one did.
    pub signed_by: Option<String>,
}

/// A blob that is in memory already, or has yet to come from where its image is.
enum Origin {
    Memory(Bytes),
    Image(ImageRef, Arc<dyn oci::BlobSource>),
    Bundle,
}

/// Builds an archive. On any failure there is no file under its name.
///
/// # Errors
///
/// When the revision, its manifests or an image cannot be had, or the output cannot be written.
pub async fn build(options: Options, progress: Arc<dyn Progress>) -> Result<Report> {
    let repository = Repository::open(&options.repository)?;
    let revision = repository.resolve(&options.revision)?;
    warn_of_changes(&repository, &revision, progress.as_ref());
    let tree = repository.tree(&revision)?;
    let config = match tree.file(config::FILE_NAME) {
        Some(_) => Some(crate::source::config::parse(&tree.read(config::FILE_NAME, limits::CONFIG_FILE)?)?),
        None => None,
    };
    let name = release_name(&options, config.as_ref(), progress.as_ref())?;
    let version = release_version(&options, config.as_ref(), &revision)?;
    let created = release_time(&options, &revision)?;
    let output = output_path(options.output.as_deref(), &name, &version);

    progress.event(Event::Start { title: format!("rendering {name} {version}"), bytes: None });
    let objects = render_tree(&tree, config.as_ref(), &options, progress.as_ref())?;
    let wanted = wanted_images(&objects, config.as_ref(), &options)?;
    progress.event(Event::Finish {
        summary: format!("{} objects, {} image references", objects.len(), wanted.len()),
    });

    progress.event(Event::Start { title: format!("resolving {} images", wanted.len()), bytes: None });
    // Packing Git's objects keeps one core busy while the registries answer.
    let mut plan = repository.bundle(&revision)?;
    let measuring = tokio::task::spawn_blocking(move || plan.measure().map(|measured| (plan, measured)));
    let resolved = resolve_all(&options, config.as_ref(), wanted, &progress).await?;
    let (bundle, measured) = measuring
        .await
        .map_err(|error| Error::io("pack", &options.repository, io::Error::other(error)))??;
    progress.event(Event::Finish { summary: String::new() });

    let packed = rendered::pack(&objects)?;
    let (blobs, origins) = plan_blobs(&resolved, &packed, measured);
    let document = ReleaseDocument {
        format: release::FORMAT,
        requires: Vec::new(),
        name,
        version,
        sequence: options.sequence.unwrap_or(revision.sequence),
        created,
        generator: concat!("fleetpack ", env!("CARGO_PKG_VERSION")).to_owned(),
        git: GitContent { commit: revision.commit, refs: revision.refs, bundle: measured.digest },
        rendered: packed.content(),
        images: resolved.into_iter().map(|image| image.entry).collect(),
        blobs,
    };

    let writer = Writer::create(&output, &document)?;
    transfer(&writer, &document, origins, bundle, jobs(&options), &progress).await?;
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
        signed_by: options.key.as_ref().map(|key| key.public().fingerprint().to_string()),
    })
}

const fn jobs(options: &Options) -> usize {
    if options.jobs == 0 { 8 } else { options.jobs }
}

/// Exports the tree into a private folder, which goes when this is done, and renders it.
fn render_tree(
    tree: &Tree,
    config: Option<&config::ReleaseConfig>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Vec<RenderedObject>> {
    let scratch = tempfile::Builder::new()
        .prefix("fleetpack-build-")
        .tempdir()
        .map_err(|error| Error::io("make a private folder in", Path::new("the temporary folder"), error))?;
    // The tree has a folder of its own in it: kustomize is helped by one beside it.
    let folder = scratch.path().join("tree");
    std::fs::create_dir(&folder).map_err(|error| Error::io("make", &folder, error))?;
    for warning in tree.export(&folder)? {
        progress.warn(warning);
    }
    let tools =
        render::RenderTools { kustomize: options.kustomize.clone(), kubectl: options.kubectl.clone() };
    Ok(render::render(&folder, config, &tools, progress)?)
}

/// Every image to carry, and who uses it: those of the objects, and those that were asked for.
fn wanted_images(
    objects: &[RenderedObject],
    config: Option<&config::ReleaseConfig>,
    options: &Options,
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

/// Brings every blob into its place, several at a time on all cores.
async fn transfer(
    writer: &Writer,
    document: &ReleaseDocument,
    mut origins: HashMap<Digest, Origin>,
    bundle: BundlePlan,
    jobs: usize,
    progress: &Arc<dyn Progress>,
) -> Result<()> {
    let total = document.blobs.iter().map(|blob| blob.size).sum();
    let downloads = origins.values().filter(|origin| matches!(origin, Origin::Image(..))).count();
    progress.event(Event::Start { title: format!("downloading {downloads} blobs"), bytes: Some(total) });
    let bundle = Arc::new(bundle);
    // Dropped on the way out of an error, the set ends the tasks that still run.
    let mut work = JoinSet::new();
    let path: Arc<Path> = writer.path().into();
    let joined = |done: Option<std::result::Result<Result<()>, tokio::task::JoinError>>| match done {
        Some(Ok(done)) => done,
        Some(Err(error)) => Err(Error::io("write", &path, io::Error::other(error))),
        None => Ok(()),
    };
    for blob in &document.blobs {
        let Some(origin) = origins.remove(&blob.digest) else {
            return Err(Error::Setup {
                what: format!("blob `{}` has no origin", blob.digest),
                hint: "this is a defect of fleetpack: please report it".into(),
            });
        };
        if work.len() >= jobs {
            joined(work.join_next().await)?;
        }
        let place =
            Place { placement: writer.placement(blob.digest)?, blob: blob.clone(), path: Arc::clone(&path) };
        work.spawn(place.fill(origin, Arc::clone(&bundle), Arc::clone(progress)));
    }
    while !work.is_empty() {
        joined(work.join_next().await)?;
    }
    progress.event(Event::Finish { summary: String::new() });
    Ok(())
}

/// Says what of the work tree is not in the revision.
fn warn_of_changes(repository: &Repository, revision: &Revision, progress: &dyn Progress) {
    match repository.dirty() {
        Ok(Dirty { count: 0, .. }) => {}
        Ok(Dirty { paths, count }) => progress.warn(format!(
            "the work tree has changes that commit {} has not, and they do not travel: {}{}",
            revision.short,
            paths.iter().take(5).cloned().collect::<Vec<_>>().join(", "),
            if count > 5 { format!(" and {} more", count - 5) } else { String::new() }
        )),
        // A work tree that cannot be compared says nothing about the revision, which is what is built.
        Err(error) => progress.warn(format!("cannot compare the work tree with the revision: {error}")),
    }
}

fn release_name(
    options: &Options,
    config: Option<&config::ReleaseConfig>,
    progress: &dyn Progress,
) -> Result<ReleaseName> {
    if let Some(name) = options.name.clone().or_else(|| config.map(|config| config.metadata.name.clone())) {
        return Ok(name);
    }
    let folder =
        options.repository.canonicalize().map_err(|error| Error::io("open", &options.repository, error))?;
    let folder = folder.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let folder = folder.strip_suffix(".git").unwrap_or(&folder).to_owned();
    let name: ReleaseName = folder.parse().map_err(|_| Error::Usage {
        what: format!("the release has no name, and its folder `{folder}` cannot give one"),
        hint: format!("add a `{}` with `metadata: {{name: …}}`, or give `--name`", config::FILE_NAME),
    })?;
    progress.note(format!(
        "the release is called `{name}` after its folder; `metadata.name` in {} fixes the name",
        config::FILE_NAME
    ));
    Ok(name)
}

fn release_version(
    options: &Options,
    config: Option<&config::ReleaseConfig>,
    revision: &Revision,
) -> Result<ReleaseVersion> {
    let given = options.version.clone().or_else(|| config.and_then(|config| config.version.clone()));
    if let Some(version) = given {
        return Ok(version);
    }
    let text = revision.tag_at.as_deref().unwrap_or(&revision.short);
    // A tag such as `release/1.2` is a fine tag, but no version: its last part is one.
    let text = text.rsplit('/').next().unwrap_or(text);
    text.parse().map_err(|error| Error::Usage {
        what: format!("the tag at the revision gives no version: {error}"),
        hint: "give `version` in fleetpack.yaml, or `--release-version`".into(),
    })
}

fn release_time(options: &Options, revision: &Revision) -> Result<Timestamp> {
    let Some(seconds) = options.created else { return Ok(revision.created) };
    Timestamp::from_second(seconds).map_err(|error| Error::Usage {
        what: format!("`SOURCE_DATE_EPOCH` is {seconds}: {error}"),
        hint: "set it to seconds since 1970, or unset it".into(),
    })
}

fn output_path(output: Option<&Path>, name: &ReleaseName, version: &ReleaseVersion) -> PathBuf {
    let file = format!("{name}-{version}.fleetpack.tar");
    match output {
        None => PathBuf::from(file),
        Some(path) if path.is_dir() => path.join(file),
        Some(path) => path.to_owned(),
    }
}

fn open_sources(options: &Options, progress: &Arc<dyn Progress>) -> Result<Sources> {
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
        per_host: jobs(options),
        progress: Arc::clone(progress),
        ..oci::RegistryOptions::default()
    })));
    Ok(Sources::new(list))
}

/// Resolves every image; all that cannot be resolved are told together.
async fn resolve_all(
    options: &Options,
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
    .buffered(jobs(options))
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

/// Lists every blob in archive order (`docs/formats.md`) and says where each comes from.
fn plan_blobs(
    resolved: &[ResolvedImage],
    packed: &rendered::Packed,
    bundle: Measured,
) -> (Vec<BlobEntry>, HashMap<Digest, Origin>) {
    let mut origins: HashMap<Digest, Origin> = HashMap::new();
    let bundle =
        BlobEntry { digest: bundle.digest, size: bundle.size, media_type: media_type::GIT_BUNDLE.to_owned() };
    let mut small: BTreeMap<Digest, BlobEntry> = BTreeMap::new();
    let mut add_small = |digest: Digest, media_type: &str, bytes: &Bytes| {
        small.entry(digest).or_insert(BlobEntry {
            digest,
            size: bytes.len() as u64,
            media_type: media_type.to_owned(),
        });
    };
    let empty = Bytes::from_static(media_type::EMPTY_BYTES);
    let memory = [
        (Digest::of(&empty), media_type::EMPTY, empty),
        (packed.manifest_digest, media_type::OCI_MANIFEST, Bytes::from(packed.manifest.clone())),
    ];
    for (digest, media_type, bytes) in memory {
        add_small(digest, media_type, &bytes);
        origins.entry(digest).or_insert(Origin::Memory(bytes));
    }
    for image in resolved {
        for manifest in &image.manifests {
            add_small(manifest.digest, &manifest.media_type, &manifest.bytes);
            origins.entry(manifest.digest).or_insert_with(|| Origin::Memory(manifest.bytes.clone()));
        }
    }
    for image in resolved {
        for config in &image.configs {
            small.entry(config.digest).or_insert_with(|| config.clone());
            origins.entry(config.digest).or_insert_with(|| match image.inline.get(&config.digest) {
                Some(bytes) => Origin::Memory(bytes.clone()),
                None => Origin::Image(image.entry.reference.clone(), Arc::clone(&image.source)),
            });
        }
    }
    let mut blobs: Vec<BlobEntry> = small.into_values().collect();
    let mut listed: HashSet<Digest> = blobs.iter().map(|blob| blob.digest).collect();
    let layer = BlobEntry {
        digest: packed.layer_digest,
        size: packed.layer.len() as u64,
        media_type: media_type::OCI_LAYER_GZIP.to_owned(),
    };
    origins.insert(bundle.digest, Origin::Bundle);
    origins.insert(layer.digest, Origin::Memory(Bytes::from(packed.layer.clone())));
    for blob in [bundle, layer] {
        if listed.insert(blob.digest) {
            blobs.push(blob);
        }
    }
    for image in resolved {
        for layer in &image.layers {
            if listed.insert(layer.digest) {
                blobs.push(layer.clone());
                let origin = || match image.inline.get(&layer.digest) {
                    Some(bytes) => Origin::Memory(bytes.clone()),
                    None => Origin::Image(image.entry.reference.clone(), Arc::clone(&image.source)),
                };
                origins.entry(layer.digest).or_insert_with(origin);
            }
        }
    }
    (blobs, origins)
}

/// The place of one blob in the output.
struct Place {
    placement: Placement,
    blob: BlobEntry,
    path: Arc<Path>,
}

impl Place {
    /// Brings the blob from where it is, hashed on the way.
    async fn fill(self, origin: Origin, bundle: Arc<BundlePlan>, progress: Arc<dyn Progress>) -> Result<()> {
        let Self { mut placement, blob, path } = self;
        match origin {
            Origin::Memory(bytes) => {
                placement.write(&bytes).map_err(|error| Error::io("write", &path, error))?;
                placement.finish()?;
                progress.event(Event::Advance(blob.size));
            }
            Origin::Image(image, source) => {
                let mut write = |bytes: &[u8]| {
                    placement.write(bytes)?;
                    progress.event(Event::Advance(bytes.len() as u64));
                    Ok(())
                };
                let fetched = oci::fetch(source.as_ref(), &image, &blob, &mut write).await?;
                placement.finish().map_err(|source| Error::Blob {
                    image: Box::new(image),
                    from: fetched.from,
                    source: Box::new(source.into()),
                })?;
            }
            Origin::Bundle => {
                let write = move || {
                    bundle.write_to(&mut placement)?;
                    Ok::<_, Error>(placement.finish()?)
                };
                let written = tokio::task::spawn_blocking(write).await;
                written.map_err(|error| Error::io("write", &path, io::Error::other(error)))??;
                progress.event(Event::Advance(blob.size));
            }
        }
        Ok(())
    }
}
