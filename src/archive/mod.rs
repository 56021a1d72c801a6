//! The archive: an uncompressed POSIX tar that is an OCI image layout, with every byte fixed by
//! the signed release document (`docs/formats.md`).
//!
//! May use `oci`, `fsio` and `model`. Must never decide whether a signature counts, unpack anything,
//! or accept a byte that does not follow from the signed content.

pub mod access;
pub mod closure;
pub mod copy_out;
pub mod descriptor;
pub mod document;
pub mod error;
pub mod head;
pub mod header;
pub mod index;
pub mod layout;
pub mod manifest;
pub mod rendered;
pub mod signature;
pub mod stream;
pub mod writer;

pub use access::{ArchiveFile, Members};
pub use error::{ArchiveError, Result};
pub use head::{Head, Release, read_head};
pub use header::Member;
pub use layout::{Layout, Place};
pub use stream::{BlobSink, BlobWrite, Discard, Source, StreamReport, stream};
pub use writer::{Placement, Writer, Written, add_signature};

#[cfg(test)]
mod tests;
