//! Every blob of an archive: in which order, from where, and how it comes into its place.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::reuse::Reuse;
use crate::archive::{Placement, Writer, rendered};
use crate::model::{BlobEntry, Digest, Event, ImageRef, Progress, ReleaseDocument, media_type};
use crate::oci::{self, ResolvedImage};
use crate::ops::{Error, Result};
use crate::source::git::{BundlePlan, Measured, lfs};

/// A blob that is in memory already, or has yet to come from where its image is.
pub(super) enum Origin {
    Memory(Bytes),
    Image(ImageRef, Arc<dyn oci::BlobSource>),
    Bundle(Arc<BundlePlan>),
    Lfs(Box<lfs::Object>),
}

/// Lists every blob in archive order (`docs/formats.md`) and says where each comes from.
pub(super) fn plan_blobs(
    resolved: &[ResolvedImage],
    packed: &rendered::Packed,
    bundles: Vec<(BundlePlan, Measured)>,
    objects: Vec<lfs::Object>,
) -> (Vec<BlobEntry>, HashMap<Digest, Origin>) {
    let mut origins: HashMap<Digest, Origin> = HashMap::new();
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
                None => Origin::Image(image.asked.clone(), Arc::clone(&image.source)),
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
    origins.insert(layer.digest, Origin::Memory(Bytes::from(packed.layer.clone())));
    let mut large = Vec::with_capacity(bundles.len() + 1);
    for (plan, Measured { digest, size }) in bundles {
        origins.insert(digest, Origin::Bundle(Arc::new(plan)));
        large.push(BlobEntry { digest, size, media_type: media_type::GIT_BUNDLE.to_owned() });
    }
    large.push(layer);
    for blob in large {
        if listed.insert(blob.digest) {
            blobs.push(blob);
        }
    }
    for object in objects {
        let (digest, size) = (object.entry.digest, object.entry.size);
        if listed.insert(digest) {
            blobs.push(BlobEntry { digest, size, media_type: media_type::GIT_LFS_OBJECT.to_owned() });
            origins.insert(digest, Origin::Lfs(Box::new(object)));
        }
    }
    for image in resolved {
        for layer in &image.layers {
            if listed.insert(layer.digest) {
                blobs.push(layer.clone());
                let origin = || match image.inline.get(&layer.digest) {
                    Some(bytes) => Origin::Memory(bytes.clone()),
                    None => Origin::Image(image.asked.clone(), Arc::clone(&image.source)),
                };
                origins.entry(layer.digest).or_insert_with(origin);
            }
        }
    }
    (blobs, origins)
}

/// How many blobs came from where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Moved {
    pub fetched: usize,
    pub reused: usize,
    pub reused_bytes: u64,
}

/// Blobs from this size on are begun first, the largest before all, so that no core is left alone
/// with a large one at the end.
const LARGE: u64 = 64 << 20;

/// Brings every blob into its place, several at a time on all cores.
pub(super) async fn transfer(
    writer: &Writer,
    document: &ReleaseDocument,
    mut origins: HashMap<Digest, Origin>,
    reuse: &Arc<Reuse>,
    jobs: usize,
    progress: &Arc<dyn Progress>,
) -> Result<Moved> {
    let total = document.blobs.iter().map(|blob| blob.size).sum();
    let comes = |blob: &&BlobEntry| matches!(origins.get(&blob.digest), Some(Origin::Image(..)));
    let here = document.blobs.iter().filter(comes).filter(|blob| reuse.holds(blob)).count();
    let away = document.blobs.iter().filter(comes).count() - here;
    let title = match here {
        0 => format!("downloading {away} blobs"),
        here => format!("downloading {away} blobs, reusing {here}"),
    };
    progress.event(Event::Start { title, bytes: Some(total) });
    // Dropped on the way out of an error, the set ends the tasks that still run.
    let mut work = JoinSet::new();
    let path: Arc<Path> = writer.path().into();
    let mut moved = Moved::default();
    let mut joined = |done: Option<std::result::Result<Result<Moved>, tokio::task::JoinError>>| match done {
        Some(Ok(done)) => {
            let done = done?;
            moved.fetched += done.fetched;
            moved.reused += done.reused;
            moved.reused_bytes += done.reused_bytes;
            Ok(())
        }
        Some(Err(error)) => Err(Error::io("write", &path, io::Error::other(error))),
        None => Ok(()),
    };
    let mut order: Vec<&BlobEntry> = document.blobs.iter().collect();
    order.sort_by_key(|blob| std::cmp::Reverse(if blob.size >= LARGE { blob.size } else { 0 }));
    for blob in order {
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
        work.spawn(place.fill(origin, Arc::clone(reuse), Arc::clone(progress)));
    }
    while !work.is_empty() {
        joined(work.join_next().await)?;
    }
    progress.event(Event::Finish { summary: String::new() });
    Ok(moved)
}

/// The place of one blob in the output.
struct Place {
    placement: Placement,
    blob: BlobEntry,
    path: Arc<Path>,
}

impl Place {
    /// Brings the blob from where it is, hashed on the way.
    async fn fill(self, origin: Origin, reuse: Arc<Reuse>, progress: Arc<dyn Progress>) -> Result<Moved> {
        let Self { mut placement, blob, path } = self;
        let mut moved = Moved::default();
        match origin {
            Origin::Memory(bytes) => {
                placement.write(&bytes).map_err(|error| Error::io("write", &path, error))?;
                placement.finish()?;
                progress.event(Event::Advance(blob.size));
            }
            Origin::Image(image, source) => {
                if reuse.holds(&blob) {
                    let (entry, told) = (blob.clone(), Arc::clone(&progress));
                    let take = move || {
                        let taken = reuse.fill(&entry, &mut placement, told.as_ref())?;
                        Ok::<_, Error>((placement, taken))
                    };
                    let done = tokio::task::spawn_blocking(take).await;
                    let (back, taken) =
                        done.map_err(|error| Error::io("write", &path, io::Error::other(error)))??;
                    placement = back;
                    if taken {
                        progress.event(Event::Advance(blob.size));
                        return Ok(Moved { reused: 1, reused_bytes: blob.size, ..moved });
                    }
                }
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
                moved.fetched = 1;
            }
            Origin::Lfs(object) => {
                let told = Arc::clone(&progress);
                if object.is_here() {
                    let handle = tokio::runtime::Handle::current();
                    let take = move || handle.block_on(take_object(&object, placement, &path, told.as_ref()));
                    let written = tokio::task::spawn_blocking(take).await;
                    written.map_err(|error| {
                        Error::io("write", Path::new("the archive"), io::Error::other(error))
                    })??;
                } else {
                    take_object(&object, placement, &path, told.as_ref()).await?;
                }
            }
            Origin::Bundle(bundle) => {
                let write = move || {
                    bundle.write_to(&mut placement)?;
                    Ok::<_, Error>(placement.finish()?)
                };
                let written = tokio::task::spawn_blocking(write).await;
                written.map_err(|error| Error::io("write", &path, io::Error::other(error)))??;
                progress.event(Event::Advance(blob.size));
            }
        }
        Ok(moved)
    }
}

/// Brings an object of Git LFS into its place.
async fn take_object(
    object: &lfs::Object,
    mut placement: Placement,
    path: &Path,
    progress: &dyn Progress,
) -> Result<()> {
    // What the archive's file says is not the fault of where the object is from.
    let mut failed = None;
    let mut write = |bytes: &[u8]| {
        placement.write(bytes).map_err(|error| {
            let kind = error.kind();
            failed = Some(error);
            io::Error::from(kind)
        })?;
        progress.event(Event::Advance(bytes.len() as u64));
        Ok(())
    };
    let copied = object.copy(&mut write).await;
    match failed {
        Some(error) => return Err(Error::io("write", path, error)),
        None => copied?,
    }
    Ok(placement.finish().map_err(|error| object.lost(error.to_string()))?)
}
