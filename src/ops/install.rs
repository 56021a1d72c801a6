//! Bringing the cluster to a release that the store holds: what `apply`, `rollback` and the
//! restoring of the release before have in common.
//!
//! Bracketed in the ledger: begin, a step for each stage, then succeed or fail.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::{Error, Result, chain};
use crate::apply::{self, Cluster, PlanOptions, ReleaseObjects, StepSink};
use crate::archive::rendered;
use crate::fsio::Reserve;
use crate::ledger::{Action, Entry, Ledger, LedgerError};
use crate::model::plan::Plan;
use crate::model::{Digest, Event, Progress, ReleaseDocument, ReleaseName};
use crate::seed::push::Pusher;
use crate::store::{Store, StoreWriter, StoredRelease, git};

/// A site whose lock this process holds.
pub(super) struct Site {
    pub(super) store: StoreWriter,
    pub(super) ledger: Ledger,
    /// The registry of the site's own, where releases go to one.
    pub(super) pusher: Option<Arc<Pusher>>,
}

impl Site {
    /// Opens the store for writing, and the ledger with it.
    pub(super) fn open(path: &Path, purpose: &str) -> Result<Self> {
        Self::of(Store::open_or_create(path, purpose)?)
    }

    /// The site of a store that is open already.
    pub(super) fn of(store: StoreWriter) -> Result<Self> {
        let ledger = Ledger::open(store.folder(), store.lock())?;
        Ok(Self { store, ledger, pusher: None })
    }

    /// As [`Site::open`], for a store that must be there already.
    pub(super) fn open_existing(path: &Path, purpose: &str) -> Result<Self> {
        Store::open_read_only(path)?;
        Self::open(path, purpose)
    }

    /// Keeps room aside in the store for going back. Where there is none now, that is told, and the
    /// next apply asks for it before it begins.
    pub(super) fn keep_reserve(&self, progress: &dyn Progress) {
        if let Err(error) = self.store.reserve().keep() {
            let size = Reserve::size();
            progress.warn(format!(
                "the store has no {size} bytes left to keep aside for going back on a full disk: {error}"
            ));
        }
    }

    /// Titles of releases, for messages: a release that left the store is its short digest.
    pub(super) fn title(&self, digest: Digest) -> String {
        self.store
            .release_by_digest(digest)
            .ok()
            .flatten()
            .map_or_else(|| digest.short(), |release| release.title())
    }

    /// Switches the served Git repository to all kept releases of `name`, `active` over the others.
    pub(super) fn switch_git(&self, name: &ReleaseName, active: Digest) -> Result<()> {
        let mut releases: Vec<StoredRelease> =
            self.store.releases()?.into_iter().filter(|release| release.document().name == *name).collect();
        if !releases.iter().any(|release| release.digest() == active) {
            // Without it another one would lead: its record cannot be read, or it is gone.
            super::apply::known(&self.store, active)?;
        }
        releases.sort_by_key(|release| {
            (release.digest() == active, release.document().sequence, release.ingested())
        });
        let generation: Vec<_> = releases
            .iter()
            .map(|release| {
                let document = release.document();
                git::GenerationRelease {
                    version: document.version.clone(),
                    digest: release.digest(),
                    bundle: document.git.bundle,
                    bundle_path: self.store.blob_path(document.git.bundle),
                    refs: document.git.refs.clone(),
                    commit: document.git.commit.clone(),
                }
            })
            .collect();
        let root = self.store.folder().join("git");
        // Whoever clones right now reads from the generation in use; a link that leads nowhere is
        // put right by the switch.
        let before = git::current(&root, name).ok().flatten();
        let built = git::build_generation(&root, name, &generation)?;
        git::switch(&root, name, &built)?;
        git::prune_generations(&root, name, before.as_ref())?;
        self.switch_submodules(name, &releases)
    }

    /// The same for the repositories of the releases' submodules; those that no release has any more go.
    fn switch_submodules(&self, name: &ReleaseName, releases: &[StoredRelease]) -> Result<()> {
        let root = git::submodules_folder(self.store.folder(), name);
        let mut wanted: BTreeMap<&ReleaseName, Vec<git::GenerationRelease>> = BTreeMap::new();
        for release in releases {
            for submodule in &release.document().git.submodules {
                wanted.entry(&submodule.name).or_default().push(git::GenerationRelease {
                    version: release.document().version.clone(),
                    digest: release.digest(),
                    bundle: submodule.bundle,
                    bundle_path: self.store.blob_path(submodule.bundle),
                    refs: submodule.refs.clone(),
                    commit: submodule.commit.clone(),
                });
            }
        }
        for (submodule, generation) in &wanted {
            let before = git::current(&root, submodule).ok().flatten();
            let built = git::build_generation(&root, submodule, generation)?;
            git::switch(&root, submodule, &built)?;
            git::prune_generations(&root, submodule, before.as_ref())?;
        }
        let wanted: Vec<&ReleaseName> = wanted.into_keys().collect();
        Ok(git::remove_others(&root, &wanted)?)
    }

    /// What the cluster runs of `name`, or should: where that is another release than `coming`.
    pub(super) fn running(&self, name: &ReleaseName, coming: Digest) -> Result<Option<StoredRelease>> {
        let runs = self.ledger.target(name).or_else(|| self.ledger.active(name));
        match runs.filter(|runs| *runs != coming) {
            Some(runs) => Ok(self.store.release_by_digest(runs)?),
            None => Ok(None),
        }
    }

    /// Switches the served Git repository back to the active release, where there is one.
    pub(super) fn git_follows_active(&self, name: &ReleaseName) -> Result<()> {
        self.store.make_room();
        match self.ledger.active(name).or_else(|| self.ledger.target(name)) {
            Some(active) => self.switch_git(name, active),
            None => Ok(()),
        }
    }

    /// What the last attempt of each name aimed at, `first` before all: these win tags and names.
    pub(super) fn aims(&self, first: Option<Digest>) -> Vec<Digest> {
        let aimed = self.ledger.names().filter_map(|name| self.ledger.target(name));
        first.into_iter().chain(aimed).collect()
    }

    /// Writes the store's index anew in the order in which `serve` resolves tags.
    pub(super) fn reindex(&self, first: Option<Digest>) -> Result<()> {
        Ok(self.store.reindex(&self.aims(first))?)
    }
}

/// The objects of a stored release, read from its rendered layer.
pub(super) fn stored_objects(store: &Store, release: &StoredRelease) -> Result<ReleaseObjects> {
    let (layer, _) = store.open_blob(release.document().rendered.layer)?;
    release_objects(release.digest(), release.document(), layer)
}

/// The objects of a release, from the bytes of its rendered layer.
pub(super) fn release_objects(
    digest: Digest,
    document: &ReleaseDocument,
    layer: impl std::io::Read,
) -> Result<ReleaseObjects> {
    Ok(ReleaseObjects {
        name: document.name.clone(),
        version: document.version.clone(),
        digest,
        sequence: document.sequence,
        objects: rendered::unpack(layer, &document.rendered)?,
    })
}

/// Looks at the cluster and plans; changes nothing.
pub(super) async fn look(
    cluster: &Cluster,
    objects: ReleaseObjects,
    progress: &dyn Progress,
) -> Result<(apply::Observation, Plan)> {
    look_for(cluster, objects, PlanOptions::default(), progress).await
}

/// The same, for a change that may do more or less than the usual.
pub(super) async fn look_for(
    cluster: &Cluster,
    objects: ReleaseObjects,
    options: PlanOptions,
    progress: &dyn Progress,
) -> Result<(apply::Observation, Plan)> {
    progress.event(Event::Start { title: "asking the cluster what would change".into(), bytes: None });
    let seen = apply::observe(cluster, objects, progress).await?;
    let plan = apply::plan(&seen, options)?;
    progress.event(Event::Finish { summary: plan.summary() });
    Ok((seen, plan))
}

/// Writes each stage into the ledger.
struct Steps<'a> {
    ledger: &'a mut Ledger,
    attempt: u64,
}

impl Steps<'_> {
    fn mark(&mut self, step: &str) -> std::result::Result<u64, LedgerError> {
        self.ledger.append(Timestamp::now(), Entry::Step { attempt: self.attempt, step: step.to_owned() })
    }
}

impl StepSink for Steps<'_> {
    fn step(&mut self, step: &str) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.mark(step)?;
        Ok(())
    }
}

/// What is to be brought about, and how.
pub(super) struct Change<'a> {
    pub(super) action: Action,
    pub(super) release: &'a StoredRelease,
    pub(super) reason: Option<String>,
    pub(super) timeout: Duration,
}

/// Brings the cluster to a release: plan, begin, stages, health, prune, succeed.
///
/// An error before the ledger's `begin` is the room's own: nothing was changed. After it, it is
/// [`Error::Install`] without a restored release, and the ledger has the attempt as failed.
pub(super) async fn install(
    site: &mut Site,
    cluster: &Cluster,
    change: Change<'_>,
    progress: &Arc<dyn Progress>,
) -> Result<Plan> {
    let release = change.release;
    let objects = stored_objects(&site.store, release)?;
    let options = PlanOptions { going_back: change.action != Action::Apply, ..PlanOptions::default() };
    let (seen, plan) = look_for(cluster, objects, options, progress.as_ref()).await?;
    // What nodes and layout tools are led to is right before the first of them asks.
    site.reindex(Some(release.digest()))?;
    if let Some(pusher) = &site.pusher {
        pusher.point(&site.store, release).await?;
    }
    let name = &release.document().name;
    let attempt =
        site.ledger.begin(Timestamp::now(), name, change.action, release.digest(), change.reason)?;
    let mut steps = Steps { ledger: &mut site.ledger, attempt };
    let work = async {
        // Waves wait within the same time as the whole.
        let mut patience = change.timeout;
        apply::execute_within(cluster, &seen, &plan, &mut patience, &mut steps, progress.as_ref()).await?;
        apply::wait(cluster, &seen, patience, progress.as_ref()).await?;
        steps.mark("healthy")?;
        let pruned = apply::prune(cluster, &seen, &plan, change.timeout, progress.as_ref()).await?;
        for object in &pruned.deleted {
            progress.note(format!("deleted {object}"));
        }
        steps.mark("pruned")?;
        steps.ledger.append(Timestamp::now(), Entry::Succeed { attempt })?;
        Ok::<_, Error>(())
    };
    let Err(error) = work.await else { return Ok(plan) };
    let mut why = chain(&error);
    let entry = Entry::Fail { attempt, error: why.chars().take(2000).collect() };
    if let Err(unwritten) = site.ledger.append(Timestamp::now(), entry) {
        // The cluster was touched, and that is what the caller must hear; a `begin` without an end
        // reads as one that was cut.
        why = format!("{why}; and the ledger does not say so: {}", chain(&unwritten));
    }
    Err(Error::Install {
        release: release.title(),
        restored: None,
        why,
        hint: error.hint().unwrap_or_else(|| {
            "see what the cluster says, then run the same command again, or `fleetpack rollback`".into()
        }),
    })
}
