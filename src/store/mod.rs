//! What a site holds: blobs, releases, Git, and who serves them (`docs/formats.md`, "Site store").
//!
//! May use `trust`, `archive`, `oci`, `fsio` and `model`. Must never show a file under its final
//! name before it is whole and synced, write without the lock, or touch a blob of a kept release.

pub mod catalog;
pub mod git;
#[cfg(test)]
mod samples;

pub use catalog::{Catalog, CatalogSource, Envelope, Referrer, SignatureBlobs};
