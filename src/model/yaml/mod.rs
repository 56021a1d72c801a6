//! YAML as Kubernetes reads it, to and from JSON values.
//!
//! `kubectl` and the API server read YAML with `sigs.k8s.io/yaml`, that is with go-yaml version 2
//! (YAML 1.1 scalars: `yes` is a boolean, `0644` is octal) and then as JSON. What this module reads is
//! what they read; where readers disagree about a text (a key that stands twice, a merge that
//! comes after the key it overrides, tags of one's own), it is refused. What it writes, every
//! one of them reads back as the same value.
//!
//! Pure: bytes in, values out. Depth, nodes and what aliases may grow to are bounded.

mod json;
mod lines;
mod read;
mod scalar;
mod write;

use serde_json::Value;

pub use lines::{ScalarLine, scalar_lines};
pub use read::{documents, one_document};
pub use write::to_string;

/// Collections within collections; below the depth at which `serde_json` stops reading.
pub const MAX_DEPTH: usize = 120;
/// Values of one file, those that aliases repeat included.
pub const MAX_NODES: usize = 4_000_000;
/// Bytes of text that anchors and aliases of one file may repeat.
pub const MAX_REPEATED: usize = 64 << 20;

/// One document of a YAML or JSON stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Line on which its content begins, counted from 1.
    pub line: u64,
    /// What it says; never null, for such documents are left out.
    pub value: Value,
}

/// Why bytes are not YAML that Kubernetes reads, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {why}")]
pub struct YamlError {
    /// Line, counted from 1.
    pub line: u64,
    /// Column, counted from 1.
    pub column: u64,
    /// What is wrong.
    pub why: String,
}
