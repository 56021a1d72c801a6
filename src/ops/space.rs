//! What the releases of a store take, each alone and together, and what letting go of them frees.
//! From sizes alone: nothing is hashed, and no file is opened but the releases' own.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::Serialize;

use super::Result;
use super::gc::{self, Choice};
use crate::ledger::History;
use crate::model::Digest;
use crate::store::{Store, StoredRelease, Survey};

/// The space that a store takes. Sizes are bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Space {
    /// Count of blobs.
    pub blobs: u64,
    /// All of them together.
    pub bytes: u64,
    /// Git repositories, beside their bundles among the blobs; what generations share counts once.
    pub git: u64,
    /// What `scrub` moved aside.
    pub quarantine: u64,
    /// Blobs that no release needs: of a command that was cut or runs now.
    pub leftovers: u64,
    /// What `gc` would free, if it kept as many releases as it does by default.
    pub reclaimable: u64,
    /// Each release.
    pub releases: Vec<ReleaseSpace>,
}

/// What one release takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseSpace {
    /// Identity of the release.
    pub release: Digest,
    /// `NAME VERSION (short digest)`.
    pub title: String,
    /// All of its blobs.
    pub total: u64,
    /// Those that no other release needs: what goes with it.
    pub own: u64,
    /// Those that another one needs as well.
    pub shared: u64,
    /// Whether `gc` would let go of it.
    pub leaves: bool,
}

impl Space {
    /// Measures the store whose releases are `survey`.
    ///
    /// # Errors
    ///
    /// When a folder of the store cannot be read.
    pub(super) fn measure(
        store: &Store,
        history: &History,
        survey: &Survey,
        files: &HashMap<Digest, u64>,
    ) -> Result<Self> {
        let choice = Choice::new(history, &survey.releases, gc::KEEP, None, None);
        let mut users: HashMap<Digest, u32> = HashMap::new();
        for release in &survey.releases {
            for blob in release.blobs().map(|blob| blob.digest).collect::<HashSet<_>>() {
                *users.entry(blob).or_default() += 1;
            }
        }
        let releases: Vec<ReleaseSpace> =
            survey.releases.iter().map(|release| of_release(release, &users, &choice)).collect();
        let freed = choice.freed(files, &HashSet::new());
        let (_, quarantine) = store.quarantined()?;
        // While a release cannot be read nobody knows what is its own, and nothing leaves.
        let reclaimable = if survey.damaged.is_empty() { freed.bytes() } else { 0 };
        Ok(Self {
            blobs: files.len() as u64,
            bytes: files.values().fold(0, |sum, size| sum.saturating_add(*size)),
            git: store.git_space()?,
            quarantine,
            leftovers: freed.leftovers.1,
            reclaimable: reclaimable.saturating_add(quarantine),
            releases,
        })
    }
}

fn of_release(release: &StoredRelease, users: &HashMap<Digest, u32>, choice: &Choice<'_>) -> ReleaseSpace {
    let mut seen = HashSet::new();
    let (mut total, mut own) = (0_u64, 0_u64);
    for blob in release.blobs().filter(|blob| seen.insert(blob.digest)) {
        total = total.saturating_add(blob.size);
        if users.get(&blob.digest) == Some(&1) {
            own = own.saturating_add(blob.size);
        }
    }
    ReleaseSpace {
        release: release.digest(),
        title: release.title(),
        total,
        own,
        shared: total - own,
        leaves: choice.leaves(release.digest()),
    }
}

/// Bytes as people read them, three digits of them.
pub(super) fn human(bytes: u64) -> String {
    let (mut unit, mut scale) = ("B", 1_u64);
    for (next, name) in [(1_000, "kB"), (1_000_000, "MB"), (1_000_000_000, "GB"), (1_000_000_000_000, "TB")] {
        if bytes >= next {
            (unit, scale) = (name, next);
        }
    }
    let (whole, tenth) = (bytes / scale, bytes % scale * 10 / scale);
    if scale == 1 || whole >= 100 { format!("{whole} {unit}") } else { format!("{whole}.{tenth} {unit}") }
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "space: {} in {} blobs, {} of Git", human(self.bytes), self.blobs, human(self.git))?;
        for (bytes, what) in [(self.leftovers, "left over"), (self.quarantine, "in quarantine")] {
            if bytes > 0 {
                write!(f, ", {} {what}", human(bytes))?;
            }
        }
        write!(f, "; `fleetpack gc` would free {}", human(self.reclaimable))?;
        let leaving: Vec<&str> = self
            .releases
            .iter()
            .filter(|release| release.leaves)
            .map(|release| release.title.as_str())
            .collect();
        if !leaving.is_empty() {
            write!(f, " ({} would leave)", leaving.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::human;

    #[test]
    fn sizes_as_people_say_them() {
        for (bytes, want) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (99_950, "99.9 kB"),
            (123_456_789, "123 MB"),
            (u64::MAX, "18446744 TB"),
        ] {
            assert_eq!(human(bytes), want);
        }
    }
}
