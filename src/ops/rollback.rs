//! `rollback`: to the release before, from the store and the ledger alone.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::install::{self, Change, Site};
use super::registry::{self, Given, Seeding};
use super::{ClusterSettings, Error, RegistrySettings, Result, apply};
use crate::apply as cluster;
use crate::ledger::{self, Action, Entry, Outcome};
use crate::model::plan::Plan;
use crate::model::{Digest, Progress, ReleaseName, ReleaseVersion, SiteRegistry};
use crate::seed::push::Sent;
use crate::store::{Store, StoredRelease};

/// What a rollback is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// Release to go to: digest, the beginning of one, or version; none takes the one before.
    pub to: Option<String>,
    /// Name of the release; none takes the only one that the store holds.
    pub name: Option<ReleaseName>,
    /// The store.
    pub store: PathBuf,
    /// The cluster.
    pub cluster: ClusterSettings,
    /// Print the plan, and change nothing.
    pub dry_run: bool,
    /// Where nodes reach `serve`; none takes what `serve` wrote into the store.
    pub endpoint: Option<String>,
    /// The registry of the site's own; none takes what the store remembers, unless an endpoint is given.
    pub registry: Option<SiteRegistry>,
    /// How to reach it.
    pub registries: RegistrySettings,
    /// How long health may take.
    pub timeout: Duration,
    /// Leave the cluster alone: Git and tags lead to the release again, and that is all.
    pub seed_only: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            to: None,
            name: None,
            store: PathBuf::new(),
            cluster: ClusterSettings::default(),
            dry_run: false,
            endpoint: None,
            registry: None,
            registries: RegistrySettings::default(),
            timeout: Duration::from_mins(10),
            seed_only: false,
        }
    }
}

/// What a rollback did.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Format of this report: 1.
    pub format: u32,
    /// What was done: `rolledBack`, `seeded`, `planned`.
    pub done: &'static str,
    /// Identity of the release that runs now.
    pub release: Digest,
    /// Its name.
    pub name: ReleaseName,
    /// Its version.
    pub version: ReleaseVersion,
    /// What changed in the cluster, unless it was left alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.plan {
            Some(plan) if self.done == "planned" => {
                write!(f, "{plan}nothing was changed: this was a dry run")
            }
            Some(plan) => {
                write!(f, "{} {} runs again and is healthy ({})", self.name, self.version, plan.summary())
            }
            None => write!(f, "{} {} is what the endpoint leads to again", self.name, self.version),
        }
    }
}

/// The name that is meant: the one given, or the only one that the ledger knows.
pub(super) fn pick_name(
    given: Option<&ReleaseName>,
    history: &ledger::History,
    store: &Store,
) -> Result<ReleaseName> {
    if let Some(name) = given {
        return Ok(name.clone());
    }
    let names: Vec<&ReleaseName> = history.names().collect();
    match names.as_slice() {
        [name] => Ok((*name).clone()),
        [] => Err(Error::NoRelease {
            what: format!("nothing was ever applied from the store `{}`", store.folder().display()),
        }),
        several => Err(Error::Usage {
            what: format!(
                "the store holds several lines of releases: {}",
                several.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
            ),
            hint: "say which with `--name`".into(),
        }),
    }
}

/// The release to go to, where none was named:
///
/// * an attempt to go back that did not end well is taken up again, to the same release;
/// * after another release was begun and did not come to run, it is the active one;
/// * otherwise it is the one that ran before the active one and is still kept.
pub(super) fn target(name: &ReleaseName, history: &ledger::History, kept: &[Digest]) -> Option<Digest> {
    let active = history.active(name);
    if history.last_attempt(name).is_none() {
        // No cluster was ever touched: what was seeded before is what was there before.
        return history.seeded(name).into_iter().skip(1).find(|release| kept.contains(release));
    }
    let open = history.last_attempt(name).filter(|last| !matches!(last.outcome, Outcome::Succeeded { .. }));
    match open {
        Some(last) if last.action != Action::Apply => Some(last.release),
        Some(last) if Some(last.release) != active => active,
        _ => history.ran(name).into_iter().find(|release| Some(*release) != active && kept.contains(release)),
    }
}

fn pick_release(
    options: &Options,
    name: &ReleaseName,
    history: &ledger::History,
    store: &Store,
) -> Result<StoredRelease> {
    if let Some(text) = &options.to {
        return Ok(store.release(text, Some(name))?);
    }
    // One whose record is damaged is not passed over for an older one: it is named.
    let kept: Vec<Digest> = store.release_digests()?.into_iter().collect();
    let Some(target) = target(name, history, &kept) else {
        return Err(Error::NoRelease {
            what: format!("the store keeps no release of `{name}` that ran before the present one"),
        });
    };
    apply::known(store, target)
}

/// Rolls back.
///
/// # Errors
///
/// When there is nothing to go to, it is not complete any more, or the cluster refuses.
pub async fn rollback(options: Options, progress: Arc<dyn Progress>) -> Result<Report> {
    let report = |release: &StoredRelease, done, plan| Report {
        format: 1,
        done,
        release: release.digest(),
        name: release.document().name.clone(),
        version: release.document().version.clone(),
        plan,
    };
    if options.dry_run {
        let store = Store::open_read_only(&options.store)?;
        let history = ledger::read(store.folder())?;
        let name = pick_name(options.name.as_ref(), &history, &store)?;
        let release = pick_release(&options, &name, &history, &store)?;
        let connection = cluster::connect(&options.cluster.target()).await?.telling(progress.clone());
        let objects = install::stored_objects(&store, &release)?;
        let back = cluster::PlanOptions { going_back: true, ..cluster::PlanOptions::default() };
        let (_, plan) = install::look_for(&connection, objects, back, progress.as_ref()).await?;
        return Ok(report(&release, "planned", Some(plan)));
    }
    let mut site = Site::open_existing(&options.store, "rollback")?;
    let name = pick_name(options.name.as_ref(), &site.ledger, &site.store)?;
    if options.seed_only && site.ledger.last_attempt(&name).is_some() {
        return Err(Error::Usage {
            what: format!("`{name}` was applied to a cluster from this store, which has to go back with it"),
            hint: "run `fleetpack rollback` without `--seed-only`".into(),
        });
    }
    let release = pick_release(&options, &name, &site.ledger, &site.store)?;
    progress.note(format!("going back to {}", release.title()));
    site.store.complete(&release)?;
    let given = Given {
        endpoint: options.endpoint.as_deref(),
        registry: options.registry.as_ref(),
        settings: &options.registries,
    };
    site.pusher = registry::pusher(&given, &site.store, &progress)?;
    let seeding = Seeding::choose(site.pusher.as_ref(), &given, &site.store)?;
    // Going back works on a full disk, too.
    site.store.make_room();
    site.switch_git(&name, release.digest())?;
    let running = site.running(&name, release.digest())?;
    // What the registry has lost since is pushed again.
    let asked = seeding
        .seed(&site.store, &release, running.as_ref(), &Sent::default(), progress.as_ref())
        .await
        .map(drop);
    if options.seed_only && asked.is_ok() {
        let entry = Entry::Seeded { name: name.clone(), release: release.digest() };
        site.ledger.append(Timestamp::now(), entry)?;
        site.reindex(None)?;
        site.keep_reserve(progress.as_ref());
        return Ok(report(&release, "seeded", None));
    }
    let connection = match asked {
        Ok(()) => cluster::connect(&options.cluster.target()).await.map_err(Error::from),
        Err(error) => Err(error),
    };
    let connection = match connection {
        Ok(connection) => connection.telling(progress.clone()),
        Err(error) => {
            site.git_follows_active(&name)?;
            return Err(error);
        }
    };
    let change =
        Change { action: Action::Rollback, release: &release, reason: None, timeout: options.timeout };
    match install::install(&mut site, &connection, change, &progress).await {
        Ok(plan) => {
            site.keep_reserve(progress.as_ref());
            Ok(report(&release, "rolledBack", Some(plan)))
        }
        Err(error) => {
            if !matches!(error, Error::Install { .. }) {
                // Nothing was changed in the cluster.
                site.git_follows_active(&name)?;
            }
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::fsio::FolderLock;
    use crate::ledger::{Entry, Ledger};

    /// Plays attempts (action, release, whether it succeeded; none: it was cut) and answers with
    /// the release to go to, if all of them are kept but `dropped`.
    fn after(attempts: &[(Action, &str, Option<bool>)], dropped: &[&str]) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::take(folder.path(), "test").unwrap();
        let mut ledger = Ledger::open(folder.path(), &lock).unwrap();
        let name: ReleaseName = "shop".parse().unwrap();
        let now = Timestamp::UNIX_EPOCH;
        for (action, release, outcome) in attempts {
            let attempt = ledger.begin(now, &name, *action, Digest::of(release.as_bytes()), None).unwrap();
            let end = match outcome {
                None => continue,
                Some(true) => Entry::Succeed { attempt },
                Some(false) => Entry::Fail { attempt, error: "x".into() },
            };
            ledger.append(now, end).unwrap();
        }
        let all = ["1", "2", "3"];
        let kept: Vec<Digest> =
            all.iter().filter(|r| !dropped.contains(r)).map(|r| Digest::of(r.as_bytes())).collect();
        let found = target(&name, &ledger, &kept)?;
        all.iter().find(|release| Digest::of(release.as_bytes()) == found).map(|r| (*r).to_owned())
    }

    #[test]
    fn where_a_rollback_goes() {
        use Action::{Apply, Restore, Rollback};
        let (ran, failed, cut) = (Some(true), Some(false), None);
        let begin = [(Apply, "1", ran), (Apply, "2", ran)];
        let go = |more: &[(Action, &str, Option<bool>)]| after(&[&begin[..], more].concat(), &[]);
        assert_eq!(after(&begin[..1], &[]), None, "nothing ran before the first release");
        assert_eq!(after(&[(Apply, "1", cut)], &[]), None, "nor when it was cut");
        assert_eq!(go(&[]).as_deref(), Some("1"));
        assert_eq!(after(&begin, &["1"]), None, "what left the store is nowhere to go to");
        // Another release was begun, and cut, or failed and was not restored.
        assert_eq!(go(&[(Apply, "3", cut)]).as_deref(), Some("2"));
        assert_eq!(go(&[(Apply, "3", failed)]).as_deref(), Some("2"));
        // It was restored, or that did not work or was cut either.
        assert_eq!(go(&[(Apply, "3", failed), (Restore, "2", ran)]).as_deref(), Some("1"));
        assert_eq!(go(&[(Apply, "3", failed), (Restore, "2", failed)]).as_deref(), Some("2"));
        assert_eq!(go(&[(Apply, "3", failed), (Restore, "2", cut)]).as_deref(), Some("2"));
        // Back and forth; one that was cut or failed is taken up again.
        assert_eq!(go(&[(Rollback, "1", ran)]).as_deref(), Some("2"));
        assert_eq!(go(&[(Rollback, "1", cut)]).as_deref(), Some("1"));
        assert_eq!(go(&[(Rollback, "1", failed)]).as_deref(), Some("1"));
        // The active release, applied again, did not take.
        assert_eq!(go(&[(Apply, "2", failed)]).as_deref(), Some("1"));
    }
}
