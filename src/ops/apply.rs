//! `apply`: check an archive, take it into the store, install it in the cluster.
//!
//! In order: signature, policy, space, ingest, Git, gate, plan, ledger, cluster, health, prune,
//! retention. Each step refuses before it changes anything, and each can be cut and run again.

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::archives::{self, Opened};
use super::gc::Choice;
use super::install::{self, Change, Site};
use super::registry::{self, Given, Seeding};
use super::{ClusterSettings, Error, RegistrySettings, Result, chain, keys};
use crate::apply as cluster;
use crate::archive::BlobSink;
use crate::ledger::{self, Action, Entry};
use crate::model::plan::Plan;
use crate::model::{Digest, Progress, ReleaseDocument, ReleaseName, ReleaseVersion, SiteRegistry};
use crate::seed::push::{Early, PushReport, Pusher, Sent};
use crate::store::{Beside, Store, StoreError, StoredRelease};

/// How far to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// All the way.
    #[default]
    Install,
    /// Print the plan, and change nothing: neither the store nor the cluster.
    DryRun,
    /// Stop after the gate.
    SeedOnly,
}

/// What an apply is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The archive; `-` is standard input.
    pub archive: PathBuf,
    /// Public keys, one of which must have signed.
    pub keys: Vec<PathBuf>,
    /// The store.
    pub store: PathBuf,
    /// The cluster.
    pub cluster: ClusterSettings,
    /// How far to go.
    pub mode: Mode,
    /// Where nodes reach `serve`; none takes what `serve` wrote into the store.
    pub endpoint: Option<String>,
    /// The registry of the site's own that the release goes to; none takes what the store
    /// remembers, unless an endpoint is given.
    pub registry: Option<SiteRegistry>,
    /// How to reach it.
    pub registries: RegistrySettings,
    /// How long health may take.
    pub timeout: Duration,
    /// Restore the release before when health does not come.
    pub rollback: bool,
    /// Releases to keep.
    pub keep: usize,
    /// Why a release that is older than the active one may be installed.
    pub allow_downgrade: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            archive: PathBuf::new(),
            keys: Vec::new(),
            store: PathBuf::new(),
            cluster: ClusterSettings::default(),
            mode: Mode::default(),
            endpoint: None,
            registry: None,
            registries: RegistrySettings::default(),
            timeout: Duration::from_mins(10),
            rollback: true,
            keep: 2,
            allow_downgrade: None,
        }
    }
}

/// What an apply did.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Format of this report: 1.
    pub format: u32,
    /// What was done: `installed`, `seeded`, `planned`.
    pub done: &'static str,
    /// Identity of the release.
    pub release: Digest,
    /// Its name.
    pub name: ReleaseName,
    /// Its version.
    pub version: ReleaseVersion,
    /// Bytes that were written into the store.
    pub stored: u64,
    /// Bytes of the archive that the store had already.
    pub skipped: u64,
    /// What the site's own registry was given, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<PushReport>,
    /// The plan for the cluster, unless only the store was seeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.plan, self.done) {
            (Some(plan), "planned") => {
                write!(f, "{plan}")?;
                if plan.changes_nothing() {
                    f.write_str("nothing to change")
                } else {
                    f.write_str("nothing was changed: this was a dry run")
                }
            }
            (Some(plan), _) => {
                write!(f, "{} {} runs and is healthy ({})", self.name, self.version, plan.summary())?;
                plan.healed().iter().try_for_each(|line| write!(f, "\nhealed: {line}"))
            }
            (None, _) => {
                let place = self.registry.as_ref().map_or("the endpoint", |pushed| &pushed.registry);
                write!(f, "{} {} is in the store and can be had from {place}", self.name, self.version)
            }
        }
    }
}

/// Applies an archive.
///
/// # Errors
///
/// As the steps say; [`Error::Install`] once the cluster was touched.
pub async fn apply(options: Options, progress: Arc<dyn Progress>) -> Result<Report> {
    let trusted = keys::load_public(&options.keys)?;
    if let Some(endpoint) = &options.endpoint {
        check_endpoint(endpoint)?;
    }
    let name = archives::display_name(&options.archive);
    let opened = archives::open(&options.archive, &trusted)?;
    if options.mode == Mode::DryRun {
        return dry_run(&options, opened, &progress).await.map_err(|error| error.in_refused_archive(&name));
    }
    let mut site = Site::open(&options.store, "apply")?;
    let document = opened.release.document.clone();
    let given = Given {
        endpoint: options.endpoint.as_deref(),
        registry: options.registry.as_ref(),
        settings: &options.registries,
    };
    site.pusher = registry::pusher(&given, &site.store, &progress)?;
    let reason = check_sequence(&site.store, &site.ledger, &document, options.allow_downgrade.as_deref())?;
    // What was to leave the store leaves it before the new release needs the room; what a cut run
    // has taken in of the new release stays.
    let coming: HashSet<Digest> = document.blobs.iter().map(|blob| blob.digest).collect();
    site.retain(&document.name, options.keep, opened.release.digest, &coming, progress.as_ref())?;
    // What the store has goes on to the registry while the rest is read.
    let begin = |pusher: &Arc<Pusher>| pusher.begin(Store::clone(&site.store), document.clone());
    let early = site.pusher.as_ref().map(begin);
    let (release, stored, skipped) = seed(&mut site, opened, early.as_ref(), &progress)
        .map_err(|error| error.in_refused_archive(&name))?;
    let early = match early {
        Some(early) => early.finish().await,
        None => Sent::default(),
    };
    let pushed = match gate(&site, &given, &release, &early, progress.as_ref()).await {
        Ok(pushed) => pushed,
        Err(error) => {
            // Git clients follow what runs, not what could not be served.
            site.git_follows_active(&document.name)?;
            return Err(error);
        }
    };
    if site.ledger.seeded(&document.name).first() != Some(&release.digest()) {
        let entry = Entry::Seeded { name: document.name.clone(), release: release.digest() };
        site.ledger.append(Timestamp::now(), entry)?;
        // Where no cluster was ever touched, names lead to what was seeded last.
        site.reindex(None)?;
    }
    let plan = match options.mode {
        Mode::SeedOnly => None,
        _ => Some(install_or_restore(&mut site, &options, &release, reason, &progress).await?),
    };
    let retained =
        site.retain(&document.name, options.keep, release.digest(), &HashSet::new(), progress.as_ref());
    if let Err(error) = retained {
        // The work is done; this is no reason to call it failed.
        progress.warn(format!("what was to leave the store is still there: {}", chain(&error)));
    }
    site.keep_reserve(progress.as_ref());
    Ok(Report {
        format: 1,
        done: if plan.is_some() { "installed" } else { "seeded" },
        release: release.digest(),
        name: document.name,
        version: document.version,
        stored,
        skipped,
        registry: pushed,
        plan,
    })
}

/// The sequence never goes down, unless there is a reason that the ledger can keep.
fn check_sequence(
    store: &Store,
    history: &ledger::History,
    document: &ReleaseDocument,
    allowed: Option<&str>,
) -> Result<Option<String>> {
    let Some(active) = history.active(&document.name) else { return Ok(None) };
    let active = known(store, active)?;
    if document.sequence >= active.document().sequence {
        return Ok(None);
    }
    match allowed {
        Some(reason) => Ok(Some(format!("downgrade allowed: {reason}"))),
        None => Err(Error::Downgrade {
            found: document.title(),
            found_sequence: document.sequence,
            active: active.title(),
            active_sequence: active.document().sequence,
        }),
    }
}

/// A release that the ledger names, which retention keeps as long as it does.
pub(super) fn known(store: &Store, digest: Digest) -> Result<StoredRelease> {
    store.release_by_digest(digest)?.ok_or_else(|| Error::NoRelease {
        what: format!(
            "the ledger names release `{digest}`, and the store `{}` does not hold it",
            store.folder().display()
        ),
    })
}

/// Files and folders of one generation of a repository, its packs included.
const FILES_OF_REPOSITORY: usize = 20;

/// Takes the archive into the store: blobs, the record of the release, Git.
fn seed(
    site: &mut Site,
    opened: Opened,
    early: Option<&Early>,
    progress: &Arc<dyn Progress>,
) -> Result<(StoredRelease, u64, u64)> {
    let Opened { release, source } = opened;
    // The pack of the Git bundle stands in the repository too, with an index beside it.
    let bundles = release.document.bundles();
    let bundle: u64 =
        bundles.iter().filter_map(|digest| release.document.blob(*digest)).map(|blob| blob.size).sum();
    // What `--keep 1` would leave.
    let others_held = site.store.survey()?.releases;
    let name = &release.document.name;
    let keep = Choice::new(&site.ledger, &others_held, 1, Some(name), Some(release.digest)).staying();
    let head = release.manifest.len() + release.document_bytes.len();
    let signatures: usize = release.signatures.iter().map(Vec::len).sum();
    let beside = Beside {
        // The index lists each image of each kept release once or twice; the document is larger.
        bytes: bundle.saturating_mul(2).saturating_add(2 * (head + signatures) as u64),
        files: (bundles.len() * FILES_OF_REPOSITORY + 2 * release.signatures.len()) as u64,
    };
    site.store.check_space(&release.document.blobs, beside, &keep)?;
    site.store
        .reserve()
        .keep()
        .map_err(|error| Error::io("keep room aside in", site.store.folder(), error))?;
    let sink = site.store.ingest();
    let announcing = early.map(|early| early.sink(&sink));
    let into = announcing.as_ref().map_or(&sink as &dyn BlobSink, |announcing| announcing);
    let streamed = archives::stream(source, &release, into, "taking in", progress.as_ref())?;
    drop(announcing);
    let ingested = sink.finish()?;
    let stored = site.store.record(&release, Timestamp::now())?;
    // It has come in; names lead to what runs until the cluster is to change.
    site.reindex(None)?;
    site.switch_git(&release.document.name, release.digest)?;
    Ok((stored, ingested.bytes, streamed.skipped_bytes))
}

/// Makes sure that nodes get everything that the release needs: the site's registry is given it, or
/// the endpoint is asked for it.
async fn gate(
    site: &Site,
    given: &Given<'_>,
    release: &StoredRelease,
    early: &Sent,
    progress: &dyn Progress,
) -> Result<Option<PushReport>> {
    let seeding = Seeding::choose(site.pusher.as_ref(), given, &site.store)?;
    let running = site.running(&release.document().name, release.digest())?;
    seeding.seed(&site.store, release, running.as_ref(), early, progress).await
}

/// The endpoint that was given, or the one that `serve` wrote into the store.
pub(super) fn endpoint(given: Option<&str>, store: &Store) -> Result<String> {
    let endpoint = match given {
        Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
        None => match store.endpoint()? {
            Some(endpoint) => endpoint.url,
            None => return Err(Error::NoEndpoint { store: store.folder().to_owned() }),
        },
    };
    check_endpoint(&endpoint)?;
    Ok(endpoint)
}

/// It becomes part of URLs and of configuration files: nothing in it may mean anything there.
pub(super) fn check_endpoint(endpoint: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || ":/.-_~[]".contains(c);
    let address = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
    if address.is_none_or(str::is_empty) || !endpoint.chars().all(plain) {
        return Err(Error::Usage {
            what: format!("`{endpoint:.200}` is not an endpoint"),
            hint: "give a URL such as `http://127.0.0.1:5050`".into(),
        });
    }
    Ok(())
}

/// Installs the release; when that fails after the cluster was touched, restores the one before.
async fn install_or_restore(
    site: &mut Site,
    options: &Options,
    release: &StoredRelease,
    reason: Option<String>,
    progress: &Arc<dyn Progress>,
) -> Result<Plan> {
    let name = &release.document().name;
    let connection = match cluster::connect(&options.cluster.target()).await {
        Ok(connection) => connection.telling(progress.clone()),
        Err(error) => {
            site.git_follows_active(name)?;
            return Err(error.into());
        }
    };
    let before = site.ledger.active(&release.document().name).filter(|active| *active != release.digest());
    let change = Change { action: Action::Apply, release, reason, timeout: options.timeout };
    let error = match install::install(site, &connection, change, progress).await {
        Ok(plan) => return Ok(plan),
        Err(error) => error,
    };
    let Error::Install { release: failed, why, hint, .. } = error else {
        // Nothing was changed in the cluster.
        site.git_follows_active(name)?;
        return Err(error);
    };
    let before = match before {
        Some(before) if options.rollback => before,
        before => {
            let hint = left_as_it_is(site, before, &hint);
            return Err(Error::Install { release: failed, restored: None, why, hint });
        }
    };
    progress.warn(format!("{failed} did not take ({why}); restoring {}", site.title(before)));
    match restore(site, &connection, before, &failed, options.timeout, progress).await {
        Ok(title) => Err(Error::Install { release: failed, restored: Some(title), why, hint }),
        Err(error) => Err(Error::Install {
            release: failed,
            restored: None,
            why: format!("{why}; and {} could not be restored: {}", site.title(before), chain(&error)),
            hint: "when the cluster answers again: `fleetpack rollback`".into(),
        }),
    }
}

/// How to go on where nothing was rolled back: because it was not wanted, or there is nothing to
/// go back to.
fn left_as_it_is(site: &Site, before: Option<Digest>, hint: &str) -> String {
    let back = match before {
        Some(before) => format!("`fleetpack rollback` goes back to {}", site.title(before)),
        None => "there is no release before it to go back to".to_owned(),
    };
    format!("the cluster was left as it is: {hint}; {back}")
}

/// Brings the cluster back to the release before; answers with its title.
async fn restore(
    site: &mut Site,
    connection: &cluster::Cluster,
    before: Digest,
    failed: &str,
    timeout: Duration,
    progress: &Arc<dyn Progress>,
) -> Result<String> {
    let prior = known(&site.store, before)?;
    site.store.make_room();
    site.switch_git(&prior.document().name, before)?;
    let reason = Some(format!("{failed} did not take"));
    let change = Change { action: Action::Restore, release: &prior, reason, timeout };
    install::install(site, connection, change, progress).await?;
    Ok(prior.title())
}

/// Reads the rendered manifests from the archive alone, and asks the cluster what would change.
async fn dry_run(options: &Options, opened: Opened, progress: &Arc<dyn Progress>) -> Result<Report> {
    let document = opened.release.document.clone();
    let digest = opened.release.digest;
    match Store::open_read_only(&options.store) {
        Ok(store) => {
            let history = ledger::read(store.folder())?;
            check_sequence(&store, &history, &document, options.allow_downgrade.as_deref())?;
        }
        // The first apply makes it.
        Err(StoreError::Absent { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let layer = archives::read_rendered(opened, progress.as_ref())?;
    let objects = install::release_objects(digest, &document, layer.as_slice())?;
    let connection = cluster::connect(&options.cluster.target()).await?.telling(progress.clone());
    let (_, plan) = install::look(&connection, objects, progress.as_ref()).await?;
    Ok(Report {
        format: 1,
        done: "planned",
        release: digest,
        name: document.name,
        version: document.version,
        stored: 0,
        skipped: 0,
        registry: None,
        plan: Some(plan),
    })
}

impl Error {
    /// Names the archive where the error is about its content, and leaves other errors as they are.
    fn in_refused_archive(self, name: &str) -> Self {
        match self {
            error @ (Self::Format(_) | Self::Signature(_) | Self::Rendered(_)) => error.in_archive(name),
            error => error,
        }
    }
}
