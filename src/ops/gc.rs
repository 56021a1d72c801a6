//! What leaves a store, and when: one rule for `gc`, for what `apply` lets go, and for what the
//! space check says could go.
//!
//! Whoever reads from the store holds no lock. A blob that is being sent is an open file, which
//! lasts as long as somebody reads it, whatever becomes of its name; a Git request reads from one
//! generation, and the one that was in use before stays for an hour at least. Whoever writes
//! (`apply`, `rollback`, `scrub`) holds the store's lock, and so does this.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::Serialize;

use super::install::Site;
use super::space::human;
use super::{Result, chain};
use crate::ledger::{self, Entry, History};
use crate::model::{Digest, Progress, ReleaseName, ReleaseVersion};
use crate::store::{Store, StoredRelease, Survey, git};

/// Releases of each name that are kept, where nobody says otherwise.
pub const KEEP: usize = 2;
/// How long a Git generation stays that is not in use any more: longer than a request may take.
const GENERATION_STAYS: Duration = Duration::from_hours(1);

/// What a collection is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The store.
    pub store: PathBuf,
    /// Releases of each name to keep, of those that ran.
    pub keep: usize,
    /// Say what would go, and change nothing.
    pub dry_run: bool,
}

/// Which releases stay and which go.
pub(super) struct Choice<'a> {
    /// Those that stay, with the reasons.
    stay: Vec<(&'a StoredRelease, Vec<&'static str>)>,
    /// Those that go, the oldest first.
    go: Vec<&'a StoredRelease>,
}

/// What goes with the releases that go. Counts and bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Freed {
    /// Each release that goes: blobs that neither one that stays needs nor one before it.
    releases: Vec<(u64, u64)>,
    /// Blobs that no release needs at all.
    pub(super) leftovers: (u64, u64),
}

impl Freed {
    /// All bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.releases.iter().fold(self.leftovers.1, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }

    fn blobs(&self) -> u64 {
        self.releases.iter().fold(self.leftovers.0, |sum, (blobs, _)| sum + blobs)
    }
}

impl<'a> Choice<'a> {
    /// Of the releases in the store (the one that came in last first), those stay that
    ///
    /// 1. last ran healthy, `keep` of each name, the active one first (where no cluster was ever touched:
    ///    that were seeded last);
    /// 2. the last attempt of their name aimed at, however it ended: it may run, whole or in parts;
    /// 3. came in last of their name, or are `coming`;
    /// 4. have another name than `only`.
    pub(super) fn new(
        history: &History,
        releases: &'a [StoredRelease],
        keep: usize,
        only: Option<&ReleaseName>,
        coming: Option<Digest>,
    ) -> Self {
        let mut ran: BTreeMap<&ReleaseName, Vec<Digest>> = BTreeMap::new();
        let mut newest: BTreeMap<&ReleaseName, Digest> = BTreeMap::new();
        for release in releases {
            let name = &release.document().name;
            newest.entry(name).or_insert_with(|| coming.unwrap_or_else(|| release.digest()));
            ran.entry(name).or_insert_with(|| {
                let ran = history.ran(name);
                // A site whose cluster takes releases from the store by itself: what was seeded counts.
                let ran = if ran.is_empty() { history.seeded(name) } else { ran };
                ran.into_iter().take(keep.max(1)).collect()
            });
        }
        let mut choice = Self { stay: Vec::new(), go: Vec::new() };
        for release in releases {
            let (name, digest) = (&release.document().name, release.digest());
            let why: Vec<&'static str> = [
                (history.active(name) == Some(digest), "active"),
                (ran.get(name).is_some_and(|ran| ran.contains(&digest)), "ran"),
                (history.target(name) == Some(digest), "attempted"),
                // Clocks may be wrong: the one that the ledger has seeded last came in last, too.
                (
                    newest.get(name) == Some(&digest)
                        || (coming.is_none() && history.seeded(name).first() == Some(&digest)),
                    "newest",
                ),
                (only.is_some_and(|only| only != name), "otherName"),
            ]
            .into_iter()
            .filter_map(|(holds, why)| holds.then_some(why))
            .collect();
            if why.is_empty() { choice.go.insert(0, release) } else { choice.stay.push((release, why)) }
        }
        choice
    }

    /// Those that stay.
    pub(super) fn staying(&self) -> Vec<Digest> {
        self.stay.iter().map(|(release, _)| release.digest()).collect()
    }

    /// Whether a release goes.
    pub(super) fn leaves(&self, digest: Digest) -> bool {
        self.go.iter().any(|release| release.digest() == digest)
    }

    /// What goes with them: of the blobs `files`, none that a release which stays needs or `spare` names.
    pub(super) fn freed(&self, files: &HashMap<Digest, u64>, spare: &HashSet<Digest>) -> Freed {
        let mut counted: HashSet<Digest> =
            self.stay.iter().flat_map(|(release, _)| release.blobs()).map(|blob| blob.digest).collect();
        counted.extend(spare);
        let mut take = |digest: Digest, sum: &mut (u64, u64)| {
            if let Some(size) = files.get(&digest)
                && counted.insert(digest)
            {
                sum.0 += 1;
                sum.1 = sum.1.saturating_add(*size);
            }
        };
        let mut freed = Freed::default();
        for release in &self.go {
            let mut sum = (0, 0);
            for blob in release.blobs() {
                take(blob.digest, &mut sum);
            }
            freed.releases.push(sum);
        }
        for digest in files.keys() {
            take(*digest, &mut freed.leftovers);
        }
        freed
    }
}

impl Site {
    /// Lets go of releases and of blobs that nobody needs but those in `spare`, as [`Choice`] has it.
    /// Safe against a cut anywhere: the ledger says it first, so nobody counts on a release that may
    /// be half gone, and the same call again finishes the work.
    fn collect(
        &mut self,
        choice: &Choice<'_>,
        freed: &Freed,
        spare: &HashSet<Digest>,
        progress: &dyn Progress,
    ) -> Result<()> {
        // A store without a release that stays has nothing to tell leftovers from what is to come.
        if choice.stay.is_empty() || (choice.go.is_empty() && freed.blobs() == 0) {
            return Ok(());
        }
        for release in &choice.go {
            let (name, digest) = (release.document().name.clone(), release.digest());
            self.ledger.append(Timestamp::now(), Entry::Dropped { name, release: digest })?;
            progress.note(format!("{} leaves the store", release.title()));
        }
        let aims = self.aims(None);
        let mut stay = choice.staying();
        stay.sort_by_key(|digest| aims.iter().position(|aim| aim == digest).unwrap_or(aims.len()));
        self.store.retire(&stay, spare)?;
        Ok(())
    }

    /// What an `apply` of a release of `name` lets go of: `coming` is about to come in, or has, and
    /// blobs in `spare` are about to be asked for.
    pub(super) fn retain(
        &mut self,
        name: &ReleaseName,
        keep: usize,
        coming: Digest,
        spare: &HashSet<Digest>,
        progress: &dyn Progress,
    ) -> Result<()> {
        let Survey { releases, damaged } = self.store.survey()?;
        if let Some(release) = damaged.first() {
            // Nobody knows which blobs are its own.
            progress.warn(format!(
                "nothing leaves the store before `fleetpack scrub`: {}",
                chain(&release.error)
            ));
            return Ok(());
        }
        let choice = Choice::new(&self.ledger, &releases, keep, Some(name), Some(coming));
        let freed = choice.freed(&self.store.blob_files()?, spare);
        self.collect(&choice, &freed, spare, progress)
    }

    /// Brings the Git repositories of `name` to the releases that are there, and removes generations
    /// that nobody can be reading from any more.
    fn tidy_git(&self, name: &ReleaseName, kept: &[StoredRelease]) -> Result<()> {
        let root = self.store.folder().join("git");
        let link = root.join(format!("{name}.git"));
        let wanted: HashSet<Digest> = kept
            .iter()
            .filter(|release| release.document().name == *name)
            .map(StoredRelease::digest)
            .collect();
        let current = git::current(&root, name)?;
        let same = current.is_some_and(|generation| git::releases_of(generation.path()) == wanted);
        let switched = std::fs::symlink_metadata(&link).and_then(|metadata| metadata.modified());
        let old = switched.is_ok_and(|time| {
            SystemTime::now().duration_since(time).is_ok_and(|age| age >= GENERATION_STAYS)
        });
        // Switching to what is in use already removes all others.
        if !same || old {
            return self.git_follows_active(name);
        }
        // A collection that was cut may have come to its end but for this.
        git::clear_leftovers(&root)?;
        Ok(git::clear_leftovers(&git::submodules_folder(self.store.folder(), name))?)
    }
}

/// A release that left the store, or would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Dropped {
    /// Identity of the release.
    pub release: Digest,
    /// Its name.
    pub name: ReleaseName,
    /// Its version.
    pub version: ReleaseVersion,
    /// Blobs that go with it.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A release that stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// Identity of the release.
    pub release: Digest,
    /// Its name.
    pub name: ReleaseName,
    /// Its version.
    pub version: ReleaseVersion,
    /// Why: `active`, `ran` (among those that ran last), `attempted` (the last attempt aimed at it), `newest`.
    pub why: Vec<&'static str>,
}

/// Files and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Amount {
    /// How many.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a collection did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Format of this report: 1.
    pub format: u32,
    /// The store.
    pub store: String,
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Releases that left, the oldest first.
    pub dropped: Vec<Dropped>,
    /// Releases that stay.
    pub kept: Vec<Kept>,
    /// Blobs that no release needed: what a cut command left behind.
    pub leftovers: Amount,
    /// What `scrub` had moved aside.
    pub quarantine: Amount,
    /// Bytes of Git repositories that went; 0 in a dry run, which does not know.
    pub git: u64,
    /// All bytes together.
    pub freed: u64,
}

/// Collects.
///
/// # Errors
///
/// When there is no store, another process writes to it, a release in it cannot be read (then
/// nobody knows what it needs, and nothing goes), or a file cannot be removed.
pub fn collect(options: &Options, progress: &dyn Progress) -> Result<Report> {
    if options.dry_run {
        let store = Store::open_read_only(&options.store)?;
        let history = ledger::read(store.folder())?;
        let releases = readable(&store)?;
        let choice = Choice::new(&history, &releases, options.keep, None, None);
        let freed = choice.freed(&store.blob_files()?, &HashSet::new());
        return report(&store, options, &choice, &freed, 0);
    }
    let mut site = Site::open_existing(&options.store, "gc")?;
    let releases = readable(&site.store)?;
    let choice = Choice::new(&site.ledger, &releases, options.keep, None, None);
    let freed = choice.freed(&site.store.blob_files()?, &HashSet::new());
    let git = site.store.git_space()?;
    site.collect(&choice, &freed, &HashSet::new(), progress)?;
    let kept = site.store.releases()?;
    let names: HashSet<&ReleaseName> = releases.iter().map(|release| &release.document().name).collect();
    for name in names {
        if let Err(error) = site.tidy_git(name, &kept) {
            // What is served is the old generation, with more in it than is needed.
            progress.warn(format!("Git of `{name}` keeps what left: {}", chain(&error)));
        }
    }
    let git = git.saturating_sub(site.store.git_space()?);
    let report = report(&site.store, options, &choice, &freed, git)?;
    site.store.empty_quarantine()?;
    Ok(report)
}

/// The releases of a store of which none is damaged.
fn readable(store: &Store) -> Result<Vec<StoredRelease>> {
    let Survey { releases, damaged } = store.survey()?;
    match damaged.into_iter().next() {
        Some(release) => Err(release.error.into()),
        None => Ok(releases),
    }
}

fn report(store: &Store, options: &Options, choice: &Choice<'_>, freed: &Freed, git: u64) -> Result<Report> {
    let (files, bytes) = store.quarantined()?;
    // Without a release that stays, nothing goes.
    let nothing = Freed::default();
    let freed = if choice.stay.is_empty() { &nothing } else { freed };
    let dropped = choice.go.iter().zip(&freed.releases).map(|(release, (blobs, bytes))| Dropped {
        release: release.digest(),
        name: release.document().name.clone(),
        version: release.document().version.clone(),
        blobs: *blobs,
        bytes: *bytes,
    });
    let kept = choice.stay.iter().map(|(release, why)| Kept {
        release: release.digest(),
        name: release.document().name.clone(),
        version: release.document().version.clone(),
        why: why.clone(),
    });
    Ok(Report {
        format: 1,
        store: store.folder().display().to_string(),
        dry_run: options.dry_run,
        dropped: dropped.collect(),
        kept: kept.collect(),
        leftovers: Amount { files: freed.leftovers.0, bytes: freed.leftovers.1 },
        quarantine: Amount { files, bytes },
        git,
        freed: freed.bytes().saturating_add(bytes).saturating_add(git),
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let goes = if self.dry_run { "would leave" } else { "left" };
        for release in &self.dropped {
            let Dropped { name, version, release, blobs, bytes } = release;
            writeln!(f, "{name} {version} ({}) {goes}: {} in {blobs} blobs", release.short(), human(*bytes))?;
        }
        for (amount, what) in
            [(self.leftovers, "left over by a cut command"), (self.quarantine, "in quarantine")]
        {
            if amount.files > 0 {
                writeln!(f, "{} in {} files {what} {goes}", human(amount.bytes), amount.files)?;
            }
        }
        if self.git > 0 {
            writeln!(f, "{} of Git {goes}", human(self.git))?;
        }
        for kept in &self.kept {
            writeln!(
                f,
                "{} {} ({}) stays: {}",
                kept.name,
                kept.version,
                kept.release.short(),
                kept.why.join(", ")
            )?;
        }
        let would = if self.dry_run { "would free" } else { "freed" };
        write!(f, "{would} {}", human(self.freed))
    }
}
