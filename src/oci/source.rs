//! One trait for every place that holds images: a registry, an OCI layout folder, an archive.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use super::error::{OciError, Result};
use super::manifest::{Descriptor, RawManifest};
use crate::model::{BlobEntry, ImageRef};

/// A future behind a pointer, so that [`BlobSource`] can be a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The bytes of one blob on their way. Dropping it ends the transfer.
pub trait BlobStream: Send {
    /// The next bytes; nothing after the last ones.
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Bytes>>>;

    /// Where the bytes come from, for people: `registry.example.com/shop/web`. It may change
    /// along the way, when one place fails and another takes over.
    fn from(&self) -> String;
}

/// A place that holds images.
///
/// Manifests come checked: whole, of the digest that was asked for, of a known kind. Blobs come
/// with the right length or an error, and are not hashed here: whoever writes them hashes once.
pub trait BlobSource: Send + Sync {
    /// The index or manifest that `image` names. The digest decides where it has one.
    fn manifest<'a>(&'a self, image: &'a ImageRef) -> BoxFuture<'a, Result<RawManifest>>;

    /// Whether `image` is there. Cheaper than [`BlobSource::manifest`].
    fn exists<'a>(&'a self, image: &'a ImageRef) -> BoxFuture<'a, Result<bool>>;

    /// The bytes of `blob` from `offset` on.
    fn blob<'a>(
        &'a self,
        image: &'a ImageRef,
        blob: &'a BlobEntry,
        offset: u64,
    ) -> BoxFuture<'a, Result<Box<dyn BlobStream + 'a>>>;

    /// Whether `blob` is there.
    fn has_blob<'a>(&'a self, image: &'a ImageRef, blob: &'a BlobEntry) -> BoxFuture<'a, Result<bool>>;

    /// What refers to the manifest that `image` pins by digest: the referrers API and what stands
    /// in for it (OCI Distribution Specification, "Listing Referrers", "Referrers Tag Schema"). The
    /// descriptors are hints: their manifests say what they are.
    fn referrers<'a>(&'a self, image: &'a ImageRef) -> BoxFuture<'a, Result<Vec<Descriptor>>>;

    /// What the place is called, for people: `registries`, `oci:images/`.
    fn label(&self) -> String;
}

/// Places that hold images, in the order in which they are asked. The first that has an image
/// serves all of it.
#[derive(Clone)]
pub struct Sources {
    list: Vec<Arc<dyn BlobSource>>,
}

impl Sources {
    /// These places, in this order.
    #[must_use]
    pub fn new(list: Vec<Arc<dyn BlobSource>>) -> Self {
        Self { list }
    }

    /// The first place that has `image`, with its manifest.
    pub(super) async fn find(&self, image: &ImageRef) -> Result<(Arc<dyn BlobSource>, RawManifest)> {
        let mut failures = Vec::new();
        for source in &self.list {
            match source.manifest(image).await {
                Ok(manifest) => return Ok((Arc::clone(source), manifest)),
                // Only "it is not here" leads on: a source that is broken must not be passed over
                // for one that may hold something else under the same name.
                Err(error) if error.is_not_found() => failures.push((source.label(), error)),
                Err(error) => return Err(error),
            }
        }
        if failures.is_empty() {
            return Err(OciError::NotFound {
                what: format!("image `{image}`"),
                places: vec!["no place was given".into()],
            });
        }
        Err(OciError::from_places(&format!("image `{image}`"), failures))
    }
}
