//! The registry of the site's own, where it has one: releases are pushed there, nodes pull from it.

use std::sync::Arc;

use super::{RegistrySettings, Result, apply};
use crate::model::{Progress, SiteRegistry};
use crate::oci::{self, RetryPolicy};
use crate::seed::push::{PER_HOST, PushReport, Pusher, Sent};
use crate::seed::{self, Gated};
use crate::store::{Store, StoreWriter, StoredRelease};

/// Attempts at one thing: about a minute.
const PATIENCE: u32 = 8;

/// Where nodes get a release from.
pub(super) enum Seeding {
    /// `serve`, at this endpoint.
    Serve(String),
    /// A registry of the site's own.
    Push(Arc<Pusher>),
}

/// What the command line says about it.
pub(super) struct Given<'a> {
    pub endpoint: Option<&'a str>,
    pub registry: Option<&'a SiteRegistry>,
    pub settings: &'a RegistrySettings,
}

/// A client of registries.
pub(super) fn client(
    settings: &RegistrySettings,
    per_host: usize,
    retry: RetryPolicy,
    progress: &Arc<dyn Progress>,
) -> Result<oci::Registry> {
    Ok(oci::Registry::new(oci::RegistryOptions {
        registries: oci::RegistriesConf::load(&settings.registries_conf, &settings.drop_ins)?,
        credentials: oci::Credentials::load(oci::CredentialPaths {
            explicit: settings.auth_file.clone(),
            files: settings.auth_files.clone(),
            ..oci::CredentialPaths::default()
        })?,
        certs_dirs: settings.certs_dirs.clone(),
        per_host,
        retry,
        progress: Arc::clone(progress),
    }))
}

/// The registry that was given, or else the endpoint that was given, or else the registry that the
/// store remembers. None: whatever `serve` wrote into the store.
pub(super) fn pusher(
    given: &Given<'_>,
    store: &Store,
    progress: &Arc<dyn Progress>,
) -> Result<Option<Arc<Pusher>>> {
    let site = match (given.registry, given.endpoint) {
        (Some(site), _) => Some(site.clone()),
        (None, Some(_)) => None,
        (None, None) => store.registry()?.map(|recorded| recorded.registry),
    };
    let Some(site) = site else { return Ok(None) };
    // The registry is the site's own: it may be restarted meanwhile, and nobody else will serve.
    let retry = RetryPolicy { attempts: PATIENCE, ..RetryPolicy::default() };
    let registry = Arc::new(client(given.settings, PER_HOST, retry, progress)?);
    Ok(Some(Arc::new(Pusher::new(&registry, site, progress)?)))
}

impl Seeding {
    /// Decides it, from the command line and what the store remembers.
    pub(super) fn choose(pusher: Option<&Arc<Pusher>>, given: &Given<'_>, store: &Store) -> Result<Self> {
        match pusher {
            Some(pusher) => Ok(Self::Push(Arc::clone(pusher))),
            None => Ok(Self::Serve(apply::endpoint(given.endpoint, store)?)),
        }
    }

    /// Makes sure that nodes get all of `release` from there: a registry is given what it lacks, an
    /// endpoint is asked for everything. `running` is what the cluster runs meanwhile, `early` what
    /// went to the registry while the release came in.
    ///
    /// A registry has no Git. Where `serve` runs on the store as well, it is asked for the commit.
    pub(super) async fn seed(
        &self,
        store: &StoreWriter,
        release: &StoredRelease,
        running: Option<&StoredRelease>,
        early: &Sent,
        progress: &dyn Progress,
    ) -> Result<Option<PushReport>> {
        let document = release.document();
        match self {
            Self::Serve(endpoint) => {
                seed::gate(endpoint, store.folder(), document, Gated::All, progress).await?;
                // The last that was told counts, for those who are not told.
                store.record_registry(None)?;
                Ok(None)
            }
            Self::Push(pusher) => {
                // The first question: where nobody answers, nothing else needs to be tried.
                let record = pusher.record().await?;
                let report = pusher.push(store, release, running, early).await?;
                store.record_registry(Some(&record))?;
                match store.endpoint()? {
                    Some(serve) => {
                        seed::gate(&serve.url, store.folder(), document, Gated::Git, progress).await?;
                    }
                    None => progress.note(format!(
                        "Git is served by nobody here; where something in the cluster clones it, run `fleetpack serve --store {}` as well",
                        store.folder().display()
                    )),
                }
                Ok(Some(report))
            }
        }
    }
}
