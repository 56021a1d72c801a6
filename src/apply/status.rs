//! What a cluster says it runs.

use std::time::Duration;

use serde::Serialize;

use super::client::Call;
use super::discovery::Discovery;
use super::health::{Health, State, has_state};
use super::inventory::{ID, NAMESPACE, Parent, apply_set_id};
use super::members::{Depth, members};
use super::wait::judge;
use super::{ApplyError, Cluster};
use crate::model::{ObjectId, ReleaseName};

const PATIENCE: Duration = Duration::from_secs(10);
/// Releases of one cluster that are told.
const RELEASES: usize = 1000;

/// One release as the cluster tells of it. Texts as found: a cluster is an outside source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterRelease {
    /// Name of the line of releases.
    pub name: ReleaseName,
    /// Digest of the release that runs; absent when none ever became healthy.
    pub digest: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// Its sequence number.
    pub sequence: Option<u64>,
    /// Digest of the release that is being applied, or was when the work was cut.
    pub applying: Option<String>,
    /// How many objects the set has.
    pub objects: usize,
    /// How many of them are as they should be.
    pub ready: usize,
    /// Those that are not, and why; at most 50.
    pub unready: Vec<(ObjectId, Health)>,
}

/// Asks the cluster which releases it runs, or about one of them.
///
/// # Errors
///
/// When the cluster does not answer or does not allow it.
pub async fn status(
    cluster: &Cluster,
    only: Option<&ReleaseName>,
) -> Result<Vec<ClusterRelease>, ApplyError> {
    let call = Call::get(format!("/api/v1/namespaces/{NAMESPACE}/configmaps"))
        .query("labelSelector", ID)
        .query("limit", RELEASES.to_string());
    let answer = cluster.call(&call, PATIENCE).await;
    let answer = answer.map_err(|error| cluster.explain("read the inventories", error))?;
    let mut releases = Vec::new();
    let mut discovery = Discovery::default();
    for object in answer.value["items"].as_array().into_iter().flatten() {
        let name = object["metadata"]["name"].as_str().and_then(|name| name.strip_prefix("fleetpack-"));
        let Some(name) = name.and_then(|name| name.parse::<ReleaseName>().ok()) else { continue };
        let set = apply_set_id(&name);
        if only.is_some_and(|only| *only != name) || object["metadata"]["labels"][ID] != set.as_str() {
            continue;
        }
        let parent = Parent::read(object);
        let members = members(cluster, &mut discovery, &set, &parent.contents, Depth::Whole).await?;
        let mut unready = Vec::new();
        for member in &members {
            let id = &member.id;
            if has_state(id.group(), &id.kind) {
                let health = judge(cluster, id.group(), &id.kind, &member.value).await;
                if health.state != State::Current {
                    unready.push((id.clone(), health));
                }
            }
        }
        let ready = members.len() - unready.len();
        unready.truncate(50);
        releases.push(ClusterRelease {
            name,
            digest: parent.release,
            version: parent.version,
            sequence: parent.sequence,
            applying: parent.applying,
            objects: members.len(),
            ready,
            unready,
        });
    }
    Ok(releases)
}
