//! Deletes what left the release, once the release is healthy, and closes the inventory.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::client::Call;
use super::discovery::{Discovery, is_definition, is_namespace};
use super::execute::{delete, write_done};
use super::inventory::Contents;
use super::members::Member;
use super::observe::{Observation, key};
use super::order::owns_pods;
use super::tenants::tenants;
use super::waves::backwards;
use super::{ApplyError, Cluster};
use crate::model::plan::Plan;
use crate::model::{Event, ObjectId, Progress};

const PAUSE: Duration = Duration::from_millis(300);
/// How long one question is asked again: a restart of the API server fits.
const PATIENCE: Duration = Duration::from_secs(90);

/// What became of the objects that left the release.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PruneReport {
    /// Objects that are gone.
    pub deleted: Vec<ObjectId>,
    /// Objects that were deleted but have not gone yet, each with what holds it up. They are
    /// still in the inventory, so the next apply looks at them again.
    pub lingering: Vec<(ObjectId, String)>,
    /// Objects that stay by rule: the plan says why.
    pub kept: Vec<ObjectId>,
}

/// Deletes what the plan prunes, waits up to `timeout` until it is gone, and then records in
/// the cluster that the release runs. Call it only after [`super::wait`] has succeeded, also
/// when there is nothing to prune.
///
/// # Errors
///
/// When the cluster refuses a deletion or the inventory, or does not answer. Running it again
/// finishes the work.
pub async fn prune(
    cluster: &Cluster,
    seen: &Observation,
    plan: &Plan,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<PruneReport, ApplyError> {
    let mut report = PruneReport {
        kept: plan.kept.iter().map(|kept| kept.object.clone()).collect(),
        ..PruneReport::default()
    };
    let deadline = Instant::now() + timeout;
    if !plan.prune.is_empty() {
        progress.event(Event::Start { title: format!("pruning {} objects", plan.prune.len()), bytes: None });
    }
    let members: Vec<&Member> = plan
        .prune
        .iter()
        .filter_map(|id| seen.members.iter().find(|member| key(&member.id) == key(id)))
        .collect();
    // What holds others' objects goes last, and only when none of them is left in it.
    let (holders, others): (Vec<&Member>, Vec<&Member>) =
        members.into_iter().partition(|member| is_namespace(&member.id) || is_definition(&member.id));
    // The last wave first; each is gone before the one that it was built on is deleted.
    for group in backwards(&others) {
        delete_all(cluster, &group, deadline, &mut report, progress).await?;
    }
    let mut discovery = Discovery::default();
    let mut empty = Vec::new();
    for member in holders {
        let left = tenants(cluster, &mut discovery, &member.id, &path(member)).await?;
        if left.is_empty() {
            empty.push(member);
        } else {
            progress.warn(format!(
                "{} left the release and stays: it holds what is not the release's, such as {}",
                member.id,
                left.join(", ")
            ));
            report.kept.push(member.id.clone());
        }
    }
    delete_all(cluster, &empty, deadline, &mut report, progress).await?;
    let mut still = Contents::default();
    for id in report.kept.iter().chain(report.lingering.iter().map(|(id, _)| id)) {
        if let Some(member) = seen.members.iter().find(|member| member.id == *id) {
            still.kinds.insert(member.resource.group_kind());
            still.namespaces.extend(id.namespace.clone());
        }
    }
    write_done(cluster, seen, still).await?;
    if !plan.prune.is_empty() {
        progress.event(Event::Finish { summary: format!("{} objects pruned", report.deleted.len()) });
    }
    Ok(report)
}

/// Deletes the members and waits until they are gone, or the time is over.
async fn delete_all(
    cluster: &Cluster,
    members: &[&Member],
    deadline: Instant,
    report: &mut PruneReport,
    progress: &dyn Progress,
) -> Result<(), ApplyError> {
    for member in members {
        let id = &member.id;
        let policy = if owns_pods(id.group(), &id.kind) { "Foreground" } else { "Background" };
        let deleted = delete(cluster, &path(member), &member.uid, policy).await;
        deleted.map_err(|error| cluster.explain(&format!("delete {id}"), error))?;
        progress.event(Event::Item(format!("deleted {id}")));
    }
    for member in members {
        match until_gone(cluster, member, deadline).await? {
            None => report.deleted.push(member.id.clone()),
            Some(why) => {
                progress.warn(format!("{} has not gone yet: {why}", member.id));
                report.lingering.push((member.id.clone(), why));
            }
        }
    }
    Ok(())
}

fn path(member: &Member) -> String {
    member.resource.path(member.id.namespace.as_deref(), Some(&member.id.name))
}

/// Waits until the member is gone; at the deadline, says what holds it up.
async fn until_gone(
    cluster: &Cluster,
    member: &Member,
    deadline: Instant,
) -> Result<Option<String>, ApplyError> {
    loop {
        match cluster.call(&Call::get(path(member)), PATIENCE).await {
            Ok(answer) if answer.value["metadata"]["uid"].as_str() == Some(&member.uid) => {
                if Instant::now() >= deadline {
                    let finalizers = &answer.value["metadata"]["finalizers"];
                    return Ok(Some(if finalizers.is_array() {
                        format!("held up by the finalizers {finalizers}")
                    } else {
                        "it is still ending".to_owned()
                    }));
                }
            }
            Ok(_) => return Ok(None),
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(cluster.explain(&format!("see {} gone", member.id), error)),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
