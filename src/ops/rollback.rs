//! `rollback`: to the release before, from the store and the ledger alone.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::install::{self, Change, Site};
use super::{ClusterSettings, Error, Result, apply};
use crate::apply as cluster;
use crate::ledger::{self, Action};
use crate::model::plan::Plan;
use crate::model::{Digest, Progress, ReleaseName, ReleaseVersion};
use crate::seed;
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
    /// How long health may take.
    pub timeout: Duration,
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
            timeout: Duration::from_mins(10),
        }
    }
}

/// What a rollback did.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Format of this report: 1.
    pub format: u32,
    /// What was done: `rolledBack`, `planned`.
    pub done: &'static str,
    /// Identity of the release that runs now.
    pub release: Digest,
    /// Its name.
    pub name: ReleaseName,
    /// Its version.
    pub version: ReleaseVersion,
    /// What changed in the cluster.
    pub plan: Plan,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.done == "planned" {
            return write!(f, "{}nothing was changed: this was a dry run", self.plan);
        }
        write!(f, "{} {} runs again and is healthy ({})", self.name, self.version, self.plan.summary())
    }
}

/// The name that is meant: the one given, or the only one that the ledger knows.
fn pick_name(given: Option<&ReleaseName>, history: &ledger::History, store: &Store) -> Result<ReleaseName> {
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

/// The release to go to. After a cut that is the active one, which the cut attempt was to replace;
/// otherwise the one that ran before it.
fn pick_release(
    options: &Options,
    name: &ReleaseName,
    history: &ledger::History,
    store: &Store,
) -> Result<StoredRelease> {
    if let Some(text) = &options.to {
        return Ok(store.release(text, Some(name))?);
    }
    let active = history.active(name);
    let cut = history.last_attempt(name).is_some_and(|attempt| {
        Some(attempt.release) != active && !matches!(attempt.outcome, ledger::Outcome::Succeeded { .. })
    });
    let target =
        if cut { active } else { history.ran(name).into_iter().find(|release| Some(*release) != active) };
    let Some(target) = target else {
        return Err(Error::NoRelease {
            what: format!("no release of `{name}` ran here before the present one"),
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
        let connection = cluster::connect(&options.cluster.target()).await?;
        let objects = install::stored_objects(&store, &release)?;
        let (_, plan) = install::look(&connection, objects, progress.as_ref()).await?;
        return Ok(report(&release, "planned", plan));
    }
    let mut site = Site::open_existing(&options.store, "rollback")?;
    let name = pick_name(options.name.as_ref(), &site.ledger, &site.store)?;
    let release = pick_release(&options, &name, &site.ledger, &site.store)?;
    progress.note(format!("going back to {}", release.title()));
    site.store.complete(&release)?;
    let endpoint = apply::endpoint(options.endpoint.as_deref(), &site.store)?;
    site.switch_git(&name, release.digest())?;
    let asked = seed::gate(&endpoint, site.store.folder(), release.document(), progress.as_ref()).await;
    let connection = match asked {
        Ok(()) => cluster::connect(&options.cluster.target()).await.map_err(Error::from),
        Err(error) => Err(error.into()),
    };
    let connection = match connection {
        Ok(connection) => connection,
        Err(error) => {
            site.git_follows_active(&name)?;
            return Err(error);
        }
    };
    let change =
        Change { action: Action::Rollback, release: &release, reason: None, timeout: options.timeout };
    let plan = install::install(&mut site, &connection, change, &progress).await?;
    Ok(report(&release, "rolledBack", plan))
}
