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
/// Places of one release that name images or look like it.
pub const IMAGE_PLACES: usize = 200_000;
/// The paths of all those places together.
pub const IMAGE_PATHS: usize = 256 << 20;
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
/// One Git object, inflated. The largest that well-known hosts take is a fifth of it.
pub const GIT_OBJECT: usize = 512 << 20;
/// Git objects of one history.
pub const GIT_OBJECTS: usize = 10_000_000;
/// A Git object made by applying a delta: this crate writes none above an eighth of it.
pub const GIT_DELTA_RESULT: u64 = 64 << 20;
/// What all objects of a pack may inflate to: this, plus [`GIT_INFLATE_RATIO`] times the pack.
pub const GIT_INFLATE_BASE: u64 = 256 << 20;
/// See [`GIT_INFLATE_BASE`]. Long histories of large files reach some hundreds.
pub const GIT_INFLATE_RATIO: u64 = 2_000;
/// Submodules of one revision, at any depth.
pub const SUBMODULES: usize = 200;
/// Objects of Git LFS of one release: the release manifest names each.
pub const LFS_OBJECTS: usize = 10_000;
/// Submodules within submodules.
pub const SUBMODULE_DEPTH: usize = 8;
/// What one fetch of a remote repository may bring.
pub const GIT_FETCH: u64 = 64 << 30;
/// Files of one revision.
pub const GIT_FILES: usize = 500_000;
/// All files of one revision together.
pub const GIT_TREE: u64 = 8 << 30;
/// Length of a path in a revision.
pub const GIT_PATH: usize = 4_096;
/// The target of a symbolic link in a revision.
pub const GIT_SYMLINK: u64 = 4_096;
/// A Git bundle up to this size stays in memory between measuring and writing.
pub const GIT_BUNDLE_IN_MEMORY: u64 = 64 << 20;
/// The record file of a Git generation.
pub const GIT_RECORD: u64 = 4 << 20;
/// One answer of an API server, a page of a list included.
pub const API_ANSWER: u64 = 64 << 20;
/// Members of one inventory that are looked at.
pub const MEMBERS_OF_SET: usize = 200_000;
