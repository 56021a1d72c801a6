//! What a site holds: blobs, releases, Git, and who serves them (`docs/formats.md`, "Site store").
//!
//! May use `trust`, `archive`, `oci`, `fsio` and `model`. Must never show a file under its final
//! name before it is whole and synced, write without the lock, or touch a blob of a kept release.

mod blobs;
pub mod catalog;
mod endpoint;
mod error;
pub mod git;
mod index;
mod lfs;
mod mend;
mod open;
mod releases;
mod retain;
#[cfg(test)]
mod samples;
mod scrub;
mod serving;
mod site_registry;
mod uses;

pub use blobs::{BlobWriter, Ingest, Ingested};
pub use catalog::{Catalog, CatalogSource, Envelope, Referrer, SignatureBlobs};
pub use endpoint::{Endpoint, Stamp};
pub use error::StoreError;
pub use lfs::{LfsCatalog, LfsLine};
pub use mend::RebuiltRecord;
pub use open::{FORMAT, Store, StoreWriter};
pub use releases::{DamagedRelease, StoredRelease, Survey};
pub use retain::{Beside, Retired};
pub use scrub::{DamagedBlob, Hashed, RewrittenFile};
pub use site_registry::RecordedRegistry;
