//! `status` and `history`: what the store and the ledger say, and the cluster where it is asked.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::cluster_state::{self, ClusterState};
use super::space::{Space, human};
use super::{ClusterSettings, Result, chain};
use crate::ledger::{self, Attempt, Outcome};
use crate::model::{BlobEntry, Digest, ErrorClass, ReleaseName, ReleaseVersion};
use crate::store::{Store, StoredRelease, Survey};

/// The state of a site.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Format of this report: 1.
    pub format: u32,
    /// The store.
    pub store: String,
    /// Where `serve` was last started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The registry of the site's own that releases are pushed to, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<String>,
    /// The active release of each name.
    pub active: Vec<ReleaseState>,
    /// Attempts that run now, or were cut.
    pub unfinished: Vec<Entry>,
    /// Every release that the store keeps.
    pub releases: Vec<ReleaseState>,
    /// What the cluster says; absent where it was not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterState>,
    /// What the releases take, and what `gc` would free.
    pub space: Space,
    /// Releases that cannot be read, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<DamagedState>,
}

/// A release whose record, manifest or document is damaged: nothing of it is served by name.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DamagedState {
    /// Identity of the release.
    pub release: Digest,
    /// What is wrong.
    pub why: String,
}

/// A kept release.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseState {
    /// Identity of the release.
    pub release: Digest,
    /// Its name.
    pub name: ReleaseName,
    /// Its version.
    pub version: ReleaseVersion,
    /// Its sequence.
    pub sequence: u64,
    /// The commit.
    pub commit: String,
    /// Whether it is the active one.
    pub active: bool,
    /// Whether tags and Git lead to it.
    pub served: bool,
    /// Whether every blob of it is there.
    pub complete: bool,
    /// When it came into the store.
    pub ingested: String,
    /// Bytes of all its blobs.
    pub size: u64,
    /// Bytes of blobs that no other kept release has: what dropping it would free.
    pub own: u64,
}

/// One attempt in the ledger, or a seeding.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Number of the attempt.
    pub attempt: u64,
    /// When it began.
    pub began: String,
    /// Name of the release.
    pub name: ReleaseName,
    /// What it was: `seed`, `apply`, `rollback`, `restore`, `heal`.
    pub action: String,
    /// The release.
    pub release: Digest,
    /// Its version, where the store still has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<ReleaseVersion>,
    /// `succeeded`, `failed`, `unfinished` (it runs now, or was cut) or `superseded` (another began before it ended).
    pub outcome: &'static str,
    /// The error of one that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Why, where a reason was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Steps that were done; of a healing, the objects.
    pub steps: Vec<String>,
}

/// What was done at a site, the oldest first.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// Format of this report: 1.
    pub format: u32,
    /// Every attempt.
    pub attempts: Vec<Entry>,
}

/// Reads the state of a site.
///
/// # Errors
///
/// When the store or its ledger cannot be read.
pub fn status(path: &Path) -> Result<Status> {
    let store = Store::open_read_only(path)?;
    let history = ledger::read(store.folder())?;
    let mut survey = store.survey()?;
    // One look at the folder of blobs serves for all releases.
    let files = store.blob_files()?;
    let space = Space::measure(&store, &history, &survey, &files)?;
    let Survey { releases, damaged } = &mut survey;
    releases.sort_by_key(|release| (release.document().name.clone(), release.document().sequence));
    let states: Vec<ReleaseState> = releases
        .iter()
        .map(|release| {
            let document = release.document();
            let there = |blob: &BlobEntry| files.get(&blob.digest) == Some(&blob.size);
            let taken = space.releases.iter().find(|space| space.release == release.digest());
            ReleaseState {
                release: release.digest(),
                name: document.name.clone(),
                version: document.version.clone(),
                sequence: document.sequence,
                commit: document.git.commit.to_string(),
                active: history.active(&document.name) == Some(release.digest()),
                served: history.target(&document.name) == Some(release.digest()),
                complete: release.blobs().all(there),
                ingested: release.ingested().to_string(),
                size: taken.map_or(0, |space| space.total),
                own: taken.map_or(0, |space| space.own),
            }
        })
        .collect();
    Ok(Status {
        format: 1,
        store: store.folder().display().to_string(),
        endpoint: store.endpoint()?.map(|endpoint| endpoint.url),
        registry: store.registry()?.map(|recorded| recorded.registry.to_string()),
        active: states.iter().filter(|state| state.active).cloned().collect(),
        unfinished: history.all_unfinished().map(|attempt| entry(attempt, releases)).collect(),
        releases: states,
        space,
        cluster: None,
        damaged: damaged
            .iter()
            .map(|release| DamagedState { release: release.digest, why: chain(&release.error) })
            .collect(),
    })
}

/// Reads the state of a site, and asks the cluster about what is active. A cluster that does not
/// answer is told in the report: what the store knows is worth knowing then all the more.
///
/// # Errors
///
/// As [`status`].
pub async fn with_cluster(path: &Path, settings: &ClusterSettings) -> Result<Status> {
    let mut status = status(path)?;
    if !status.active.is_empty() {
        let active: Vec<_> = status.active.iter().map(|state| (state.name.clone(), state.release)).collect();
        let store = Store::open_read_only(path)?;
        status.cluster = Some(cluster_state::ask(&store, &active, settings).await);
    }
    Ok(status)
}

impl Status {
    /// What `--exit-code` ends with: none where all is as it should be.
    #[must_use]
    pub fn verdict(&self) -> Option<ErrorClass> {
        let cluster = self.cluster.as_ref();
        let differs = cluster.is_some_and(|cluster| {
            cluster.releases.iter().any(|release| !release.is_healthy() || !release.is_in_sync())
        });
        if differs {
            return Some(ErrorClass::Differs);
        }
        if self.releases.iter().any(|state| state.active && !state.complete) {
            return Some(ErrorClass::Incomplete);
        }
        cluster.filter(|cluster| !cluster.unknown.is_empty()).map(|_| ErrorClass::Failed)
    }
}

/// Reads the history of a site.
///
/// # Errors
///
/// When the store or its ledger cannot be read.
pub fn history(path: &Path) -> Result<History> {
    let store = Store::open_read_only(path)?;
    let history = ledger::read(store.folder())?;
    let releases = store.releases()?;
    let mut attempts: Vec<Entry> =
        history.attempts().iter().map(|attempt| entry(attempt, &releases)).collect();
    for line in history.lines() {
        let (action, name, release, steps) = match &line.entry {
            ledger::Entry::Seeded { name, release } => ("seed", name, release, Vec::new()),
            ledger::Entry::Healed { name, release, objects, more } => {
                let more = (*more > 0).then(|| format!("and {more} more"));
                ("heal", name, release, objects.iter().cloned().chain(more).collect())
            }
            _ => continue,
        };
        let known = releases.iter().find(|known| known.digest() == *release);
        attempts.push(Entry {
            attempt: line.number,
            began: line.time.to_string(),
            name: name.clone(),
            action: action.to_owned(),
            release: *release,
            version: known.map(|release| release.document().version.clone()),
            outcome: "succeeded",
            error: None,
            reason: None,
            steps,
        });
    }
    attempts.sort_by_key(|entry| entry.attempt);
    Ok(History { format: 1, attempts })
}

fn entry(attempt: &Attempt, releases: &[StoredRelease]) -> Entry {
    let (outcome, error) = match &attempt.outcome {
        Outcome::Unfinished => ("unfinished", None),
        Outcome::Superseded => ("superseded", None),
        Outcome::Succeeded { .. } => ("succeeded", None),
        Outcome::Failed { error, .. } => ("failed", Some(error.clone())),
    };
    let known = releases.iter().find(|release| release.digest() == attempt.release);
    Entry {
        attempt: attempt.number,
        began: attempt.began.to_string(),
        name: attempt.name.clone(),
        action: attempt.action.to_string(),
        release: attempt.release,
        version: known.map(|release| release.document().version.clone()),
        outcome,
        error,
        reason: attempt.reason.clone(),
        steps: attempt.steps.clone(),
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "store {}", self.store)?;
        match &self.endpoint {
            Some(endpoint) => write!(f, ", served at {endpoint}")?,
            None if self.registry.is_some() => {}
            None => write!(f, ", never served")?,
        }
        if let Some(registry) = &self.registry {
            write!(f, ", pushed to {registry}")?;
        }
        if self.releases.is_empty() && self.damaged.is_empty() {
            write!(f, "\n  no release yet")?;
        }
        for state in &self.releases {
            // Where no cluster was ever touched, what is served is the news.
            let mark = match (state.active, state.served) {
                (true, _) => '*',
                (false, true) => '>',
                (false, false) => ' ',
            };
            let complete = if state.complete { "complete" } else { "INCOMPLETE" };
            write!(
                f,
                "\n{mark} {} {}  {}  sequence {}  commit {}  {complete}  {}, {} of its own",
                state.name,
                state.version,
                state.release.short(),
                state.sequence,
                state.commit.get(..12).unwrap_or(&state.commit),
                human(state.size),
                human(state.own),
            )?;
        }
        if !self.releases.is_empty() {
            write!(f, "\n{}", self.space)?;
        }
        for damaged in &self.damaged {
            write!(
                f,
                "\n! release {} is DAMAGED: {}; `fleetpack scrub` says what to do",
                damaged.release.short(),
                damaged.why
            )?;
        }
        for open in &self.unfinished {
            write!(
                f,
                "\n! {} of {} {} began at {} and has not ended: it runs now, or was cut; the same command finishes it",
                open.action,
                open.name,
                open.release.short(),
                open.began
            )?;
        }
        if let Some(cluster) = &self.cluster {
            write!(f, "\n{cluster}")?;
        }
        Ok(())
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.attempts.is_empty() {
            return f.write_str("nothing was ever applied here");
        }
        for (at, entry) in self.attempts.iter().enumerate() {
            if at > 0 {
                writeln!(f)?;
            }
            let version =
                entry.version.as_ref().map_or_else(|| "(left the store)".to_owned(), ToString::to_string);
            write!(
                f,
                "{}  {:8}  {} {version}  {}  {}",
                entry.began,
                entry.action,
                entry.name,
                entry.release.short(),
                entry.outcome
            )?;
            if let Some(reason) = &entry.reason {
                write!(f, "  ({reason})")?;
            }
            if let Some(error) = &entry.error {
                write!(f, "\n    {error}")?;
            }
            if entry.action == "heal" {
                write!(f, "\n    {}", entry.steps.join(", "))?;
            }
        }
        Ok(())
    }
}
