//! Bounds on everything that comes from outside. Sizes are bytes.
//!
//! They stand in one place so that a reviewer can judge them together.

/// `index.json` of an archive or layout.
pub const INDEX_JSON: u64 = 8 << 20;
/// A release manifest.
pub const RELEASE_MANIFEST: u64 = 1 << 20;
/// A release document: about 100,000 blobs.
pub const RELEASE_DOCUMENT: u64 = 32 << 20;
/// An image index or manifest (distribution refuses more than 4 MiB as well).
pub const MANIFEST: u64 = 4 << 20;
/// An image config.
pub const CONFIG: u64 = 8 << 20;
/// Members of one archive.
pub const MEMBERS: usize = 200_000;
/// Images of one release, and children of one index.
pub const IMAGES: usize = 20_000;
/// A signature bundle.
pub const SIGNATURE_BUNDLE: u64 = 48 << 10;
/// Signatures of one release.
pub const SIGNATURES: usize = 16;
/// A key file.
pub const KEY_FILE: u64 = 64 << 10;
/// One YAML file of a revision.
pub const YAML_FILE: u64 = 64 << 20;
/// The layer of rendered manifests, uncompressed.
pub const RENDERED: u64 = 256 << 20;
/// Objects of one release.
pub const OBJECTS: usize = 100_000;
/// A configuration or credentials file.
pub const CONFIG_FILE: u64 = 4 << 20;
/// One line of the ledger.
pub const LEDGER_LINE: u64 = 1 << 20;
/// The whole ledger: some hundred thousand attempts.
pub const LEDGER: u64 = 256 << 20;
/// The body of a registry's error or token answer.
pub const HTTP_SMALL_BODY: u64 = 1 << 20;
