//! What a push did, for people and programs.

use serde::Serialize;

/// What pushing a release came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PushReport {
    /// The registry, with its prefix.
    pub registry: String,
    /// Blobs that were sent.
    pub pushed: u64,
    /// Their bytes.
    pub pushed_bytes: u64,
    /// Blobs that the registry took over from another of its repositories.
    pub mounted: u64,
    /// Their bytes.
    pub mounted_bytes: u64,
    /// Blobs that were there.
    pub skipped: u64,
    /// Their bytes.
    pub skipped_bytes: u64,
    /// Manifests and indexes that were sent.
    pub manifests: u64,
    /// Manifests and indexes that were there.
    pub skipped_manifests: u64,
    /// Tags that lead to the release now and did not before.
    pub tags: u64,
    /// Tags that did so before.
    pub skipped_tags: u64,
    /// Tags that lead to the release that runs, until the cluster changes.
    pub held_tags: u64,
}

impl std::fmt::Display for PushReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let megabytes = |bytes: u64| bytes / 1_000_000;
        write!(
            f,
            "{}: {} blobs pushed ({} MB), {} mounted, {} there; {} manifests pushed, {} there; {} tags moved",
            self.registry,
            self.pushed,
            megabytes(self.pushed_bytes),
            self.mounted,
            self.skipped,
            self.manifests,
            self.skipped_manifests,
            self.tags
        )?;
        if self.held_tags > 0 {
            write!(f, ", {} to move when the cluster changes", self.held_tags)?;
        }
        Ok(())
    }
}
