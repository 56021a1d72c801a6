//! What the cluster says about the active releases: health, and what differs. Changes nothing.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::{ClusterSettings, Error, Result, chain, install};
use crate::apply::{self as cluster, ApplyError, ClusterRelease, DriftReport};
use crate::model::progress::Silent;
use crate::model::{Digest, ReleaseName};
use crate::store::Store;

/// How long the cluster may take to answer at all: a person waits.
const CONNECT: Duration = Duration::from_secs(5);
/// How long it may take to be asked about one release.
const COMPARE: Duration = Duration::from_mins(1);

/// What the cluster says.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterState {
    /// When it was asked.
    pub asked: String,
    /// Address of the API server; absent where none answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Each active release, compared.
    pub releases: Vec<DriftReport>,
    /// What could not be asked: nothing but the store is known of it.
    pub unknown: Vec<Unknown>,
}

/// Something that the cluster could not be asked about.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Unknown {
    /// The release; absent where the cluster did not answer at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<ReleaseName>,
    /// Why.
    pub why: String,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// The release's health as the members of its inventory have it, where that much is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub members: Option<ClusterRelease>,
}

impl Unknown {
    fn new(name: Option<ReleaseName>, error: &Error) -> Self {
        Self { name, why: chain(error), help: error.hint(), members: None }
    }
}

/// Asks about the active release of every name.
pub(super) async fn ask(
    store: &Store,
    active: &[(ReleaseName, Digest)],
    settings: &ClusterSettings,
) -> ClusterState {
    let mut state = ClusterState {
        asked: Timestamp::now().to_string(),
        url: None,
        server: None,
        releases: Vec::new(),
        unknown: Vec::new(),
    };
    let connected = tokio::time::timeout(CONNECT, cluster::connect(&settings.target())).await;
    let connection = match connected {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            state.unknown.push(Unknown::new(None, &error.into()));
            return state;
        }
        Err(_) => {
            let why = format!("no answer within {} s", CONNECT.as_secs());
            state.unknown.push(Unknown { name: None, why, help: None, members: None });
            return state;
        }
    };
    state.url = Some(connection.url().to_owned());
    state.server = Some(connection.server_version().to_owned());
    for (name, release) in active {
        let looked = tokio::time::timeout(COMPARE, compare(store, *release, &connection)).await;
        let mut unknown = match looked {
            Ok(Ok(report)) => {
                state.releases.push(report);
                continue;
            }
            Ok(Err(error)) => Unknown::new(Some(name.clone()), &error),
            Err(_) => Unknown {
                name: Some(name.clone()),
                why: format!("not all of it was answered within {} s", COMPARE.as_secs()),
                help: None,
                members: None,
            },
        };
        // Who may not try objects may still be allowed to look at them.
        unknown.members = members(&connection, name).await;
        state.unknown.push(unknown);
    }
    state
}

async fn compare(store: &Store, release: Digest, connection: &cluster::Cluster) -> Result<DriftReport> {
    let release = super::apply::known(store, release)?;
    let objects = install::stored_objects(store, &release)?;
    let seen = cluster::observe(connection, objects, &Silent).await?;
    Ok(cluster::compare(connection, &seen).await)
}

async fn members(connection: &cluster::Cluster, name: &ReleaseName) -> Option<ClusterRelease> {
    let asked = tokio::time::timeout(CONNECT, cluster::status(connection, Some(name))).await;
    let releases: std::result::Result<_, ApplyError> = asked.ok()?;
    releases.ok()?.into_iter().next()
}

impl fmt::Display for ClusterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cluster")?;
        if let (Some(url), Some(server)) = (&self.url, &self.server) {
            write!(f, " {url}, Kubernetes {server}")?;
        }
        for release in &self.releases {
            write!(f, "\n{release}")?;
            if !release.drift.is_empty() {
                write!(
                    f,
                    "\n  `fleetpack watch --once` brings it back, and so does applying the same archive again"
                )?;
            }
        }
        for unknown in &self.unknown {
            match &unknown.name {
                Some(name) => write!(f, "\n{name}: cannot be compared: {}", unknown.why)?,
                None => write!(f, " cannot be asked, so only the store is known: {}", unknown.why)?,
            }
            if let Some(members) = &unknown.members {
                write!(f, "\n  {} of {} objects of its inventory are ready", members.ready, members.objects)?;
                for (object, health) in &members.unready {
                    write!(f, "\n  ! {object}: {}", health.message)?;
                }
            }
            if let Some(help) = &unknown.help {
                write!(f, "\n  help: {help}")?;
            }
        }
        Ok(())
    }
}
