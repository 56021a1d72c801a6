//! Carries out a plan: stage after stage, server-side apply with one field manager.
//!
//! Every object of the release is applied, the unchanged ones too: that writes nothing where
//! nothing differs, and is right even where somebody changed the cluster since the plan.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream;
use serde_json::{Value, json};

use super::admission::withdraw;
use super::client::{Call, CallError};
use super::discovery::{Discovery, is_definition, is_namespace};
use super::health::{State, assess};
use super::inventory::{Parent, namespace_object};
use super::migrate::move_storage;
use super::observe::{Observation, Observed, Trial, key, namespace_path, parent_path};
use super::plan::{is_stateful_set, selector_differs};
use super::{ApplyError, Cluster, StepSink, wait};
use crate::model::plan::{Plan, Stage};
use crate::model::{Event, ObjectId, Progress};

/// Objects applied at the same time.
const AT_ONCE: usize = 4;
/// How long one change is tried again while the server or a webhook is in passing trouble.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long definitions and namespaces may take to be usable.
const READY: Duration = Duration::from_mins(1);
/// How long an object that is created anew may take to go.
const GONE: Duration = Duration::from_mins(2);
const PAUSE: Duration = Duration::from_millis(250);

/// [`execute_within`] ten minutes of waiting.
///
/// # Errors
///
/// As there.
pub async fn execute(
    cluster: &Cluster,
    seen: &Observation,
    plan: &Plan,
    sink: &mut dyn StepSink,
    progress: &dyn Progress,
) -> Result<(), ApplyError> {
    let mut patience = Duration::from_mins(10);
    execute_within(cluster, seen, plan, &mut patience, sink, progress).await
}

/// Applies every object of the release in the order of the plan; each stage that is done is
/// told to `sink`. Running it again after any cut finishes the work.
///
/// Health is waited for where the order asks for it: between waves, before what depends on others,
/// and of webhooks before what they admit; together no longer than `patience`, which is left with
/// what remains of it. The health of the whole, and pruning, are for [`super::wait`] and
/// [`super::prune`].
///
/// # Errors
///
/// When the cluster refuses an object, does not answer for longer than the patience of each
/// change, a wave does not become healthy ([`ApplyError::Unhealthy`]), or a step cannot be
/// recorded. The cluster then holds a part of the release.
pub async fn execute_within(
    cluster: &Cluster,
    seen: &Observation,
    plan: &Plan,
    patience: &mut Duration,
    sink: &mut dyn StepSink,
    progress: &dyn Progress,
) -> Result<(), ApplyError> {
    if plan.release.digest != seen.release.digest {
        return Err(ApplyError::PlanMismatch {
            plan: plan.release.digest.to_string(),
            release: seen.release.digest.to_string(),
        });
    }
    let at = |number, title: &str| {
        let title = title.to_owned();
        move |source: ApplyError| ApplyError::Stage { number, title, source: Box::new(source) }
    };
    // Before the inventory, which it may refuse as well.
    withdraw(cluster, seen, plan, progress).await.map_err(at(0, "withdrawing admission"))?;
    // Where all is as the release says and the inventory says so too, the cluster stays as it is
    // to the last byte: the objects are applied all the same, which then writes nothing.
    if !(plan.changes_nothing() && is_settled(seen)) {
        write_begun(cluster, seen).await.map_err(at(0, "inventory"))?;
    }
    for (number, stage) in (1..).zip(&plan.stages) {
        wait::until_may_begin(cluster, seen, stage, patience, progress).await?;
        progress.event(Event::Start {
            title: format!("stage {number} of {}: {}", plan.stages.len(), stage.title),
            bytes: None,
        });
        apply_stage(cluster, seen, plan, stage, progress).await.map_err(at(stage.number, &stage.title))?;
        let step = stage.step();
        sink.step(&step)
            .map_err(|source| ApplyError::Record { step, source })
            .map_err(at(stage.number, &stage.title))?;
        let summary = format!("{} objects applied: {}", stage.objects.len(), stage.title);
        progress.event(Event::Finish { summary });
    }
    Ok(())
}

/// Whether the inventory says already that this release runs, and lists all of it.
fn is_settled(seen: &Observation) -> bool {
    seen.parent.as_ref().is_some_and(|parent| {
        let own = seen.contents();
        parent.applying.is_none()
            && parent.release.as_deref() == Some(&seen.release.digest.to_string())
            && own.kinds.is_subset(&parent.contents.kinds)
            && own.namespaces.is_subset(&parent.contents.namespaces)
    })
}

/// The inventory first, and as a superset: whatever happens next, no member is lost.
async fn write_begun(cluster: &Cluster, seen: &Observation) -> Result<(), ApplyError> {
    let call = Call::apply(namespace_path(), &namespace_object(), true, false);
    cluster
        .call(&call, PATIENCE)
        .await
        .map_err(|error| cluster.explain("create the namespace of inventories", error))?;
    let parent = seen.parent.clone().unwrap_or_default();
    let begun = parent.begun(&seen.release, &seen.contents(), &seen.default_namespace);
    let call = Call::apply(parent_path(&seen.release), &begun.object(&seen.release.name), true, false);
    cluster.call(&call, PATIENCE).await.map_err(|error| cluster.explain("write the inventory", error))?;
    Ok(())
}

/// Writes the inventory of the release alone, with `also` for members that stay.
pub(super) async fn write_done(
    cluster: &Cluster,
    seen: &Observation,
    also: super::inventory::Contents,
) -> Result<(), ApplyError> {
    let done = Parent::done(&seen.release, seen.contents().union(&also), &seen.default_namespace);
    let call = Call::apply(parent_path(&seen.release), &done.object(&seen.release.name), true, false);
    cluster.call(&call, PATIENCE).await.map_err(|error| cluster.explain("write the inventory", error))?;
    Ok(())
}

async fn apply_stage(
    cluster: &Cluster,
    seen: &Observation,
    plan: &Plan,
    stage: &Stage,
    progress: &dyn Progress,
) -> Result<(), ApplyError> {
    let anew: BTreeSet<_> = plan
        .change
        .iter()
        .filter(|change| change.recreate.is_some())
        .map(|change| key(&change.object))
        .collect();
    let left: BTreeSet<_> = plan.left.iter().map(|left| key(&left.object)).collect();
    let objects: Vec<_> = seen
        .objects
        .iter()
        .filter(|observed| observed.desired.place.is_of(stage) && !left.contains(&key(&observed.desired.id)))
        .collect();
    for wave in objects.chunk_by(|a, b| a.desired.place == b.desired.place) {
        // After a failure nothing new begins, but what is under way is let finish.
        let stopped = AtomicBool::new(false);
        let stopped = &stopped;
        let mut changes = Vec::with_capacity(wave.len());
        for &observed in wave {
            let is_anew = anew.contains(&key(&observed.desired.id));
            changes.push(async move {
                if stopped.load(Ordering::Relaxed) {
                    return None;
                }
                Some(apply_one(cluster, observed, is_anew, progress).await)
            });
        }
        let mut running = stream::iter(changes).buffer_unordered(AT_ONCE);
        let mut first_error = None;
        while let Some(applied) = running.next().await {
            match applied {
                Some(Ok(id)) => progress.event(Event::Item(id.to_string())),
                Some(Err(error)) => {
                    stopped.store(true, Ordering::Relaxed);
                    first_error.get_or_insert(error);
                }
                None => {}
            }
        }
        if let Some(error) = first_error {
            return Err(error);
        }
    }
    for observed in &objects {
        if is_definition(&observed.desired.id) || is_namespace(&observed.desired.id) {
            until_ready(cluster, observed).await?;
        }
    }
    let definitions: Vec<_> = objects.iter().filter(|observed| is_definition(&observed.desired.id)).collect();
    if !definitions.is_empty() {
        until_served(cluster, &definitions).await?;
    }
    until_pods_are_welcome(cluster, seen, &objects).await;
    Ok(())
}

async fn apply_one(
    cluster: &Cluster,
    observed: &Observed,
    is_anew: bool,
    progress: &dyn Progress,
) -> Result<ObjectId, ApplyError> {
    let desired = &observed.desired;
    let id = &desired.id;
    let named = |source| ApplyError::Object { object: Box::new(desired.at()), source: Box::new(source) };
    if is_anew {
        let uid =
            observed.live.as_ref().and_then(|live| live["metadata"]["uid"].as_str()).unwrap_or_default();
        delete(cluster, &desired.path(), uid, way_of_deletion(observed))
            .await
            .map_err(|error| named(cluster.explain(&format!("delete {id} to create it again"), error)))?;
        until_gone(cluster, &desired.path(), uid, GONE).await.map_err(named)?;
    }
    if matches!(observed.trial, Trial::Stored { .. }) {
        move_storage(cluster, desired, progress).await.map_err(named)?;
    }
    let call = Call::apply(desired.path(), &desired.value, true, false);
    let deadline = Instant::now() + READY;
    loop {
        match cluster.call(&call, PATIENCE).await {
            Ok(_) => return Ok(id.clone()),
            // A kind that was defined a moment ago is not served by every part of the API
            // server at once.
            Err(error) if error.is_not_found() && Instant::now() < deadline && is_custom(id) => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(named(cluster.explain(&format!("apply {id}"), error))),
        }
    }
}

/// What becomes of what an object owns when it is deleted to be created again. The pods of a
/// stateful set run on, and its claims stay whatever its retention policy says; where the new one
/// would not know the pods, they would stand in its way, so they end first.
fn way_of_deletion(observed: &Observed) -> &'static str {
    let live = observed.live.as_ref().unwrap_or(&Value::Null);
    match is_stateful_set(&observed.desired.id) {
        true if selector_differs(live, &observed.desired.value) => "Foreground",
        true => "Orphan",
        false => "Background",
    }
}

fn is_custom(id: &ObjectId) -> bool {
    id.group().contains('.') && !id.group().ends_with(".k8s.io")
}

/// Deletes the very object with this uid. One that is gone, or is another by now, is fine.
pub(super) async fn delete(cluster: &Cluster, path: &str, uid: &str, policy: &str) -> Result<(), CallError> {
    let options = json!({
        "kind": "DeleteOptions",
        "apiVersion": "v1",
        "propagationPolicy": policy,
        "preconditions": {"uid": uid},
    });
    match cluster.call(&Call::delete(path, &options), PATIENCE).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() || error.code() == 409 => Ok(()),
        Err(error) => Err(error),
    }
}

/// Waits until the object with this uid is gone.
async fn until_gone(cluster: &Cluster, path: &str, uid: &str, patience: Duration) -> Result<(), ApplyError> {
    let deadline = Instant::now() + patience;
    loop {
        match cluster.call(&Call::get(path), PATIENCE).await {
            Ok(answer) if answer.value["metadata"]["uid"].as_str() == Some(uid) => {
                if Instant::now() >= deadline {
                    return Err(ApplyError::Answer {
                        what: "create it again".into(),
                        why: format!("is that it is still being deleted after {} s", patience.as_secs()),
                    });
                }
            }
            Ok(_) => return Ok(()),
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(cluster.explain("see it gone", error)),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits until a definition is established, or a namespace active.
async fn until_ready(cluster: &Cluster, observed: &Observed) -> Result<(), ApplyError> {
    let desired = &observed.desired;
    let deadline = Instant::now() + READY;
    loop {
        let answer = cluster.call(&Call::get(desired.path()), PATIENCE).await;
        let live = answer.map_err(|error| cluster.explain(&format!("read {}", desired.id), error))?.value;
        let health = assess(desired.id.group(), &desired.id.kind, &live);
        if health.state == State::Current {
            return Ok(());
        }
        if Instant::now() >= deadline || health.state == State::Failed {
            return Err(ApplyError::NotReady {
                object: Box::new(desired.id.clone()),
                seconds: READY.as_secs(),
                why: health.message,
            });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits until discovery tells of each kind that the definitions bring.
async fn until_served(cluster: &Cluster, definitions: &[&&Observed]) -> Result<(), ApplyError> {
    let deadline = Instant::now() + READY;
    let mut discovery = Discovery::default();
    for observed in definitions {
        let spec = &observed.desired.value["spec"];
        let (Some(group), Some(kind)) = (spec["group"].as_str(), spec["names"]["kind"].as_str()) else {
            continue;
        };
        for version in spec["versions"].as_array().into_iter().flatten() {
            let (Some(version), Some(true)) = (version["name"].as_str(), version["served"].as_bool()) else {
                continue;
            };
            while discovery.find_kind(cluster, group, version, kind).await?.is_none() {
                discovery.forget(group, version);
                if Instant::now() >= deadline {
                    return Err(ApplyError::NotReady {
                        object: Box::new(observed.desired.id.clone()),
                        seconds: READY.as_secs(),
                        why: format!("the API server does not serve `{kind}` of `{group}/{version}` yet"),
                    });
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    Ok(())
}

/// A bare pod is refused in a new namespace until a controller has made the namespace's service
/// account. Waits a moment for it where the release has such pods; if it does not come, the
/// pod's own refusal says so.
async fn until_pods_are_welcome(cluster: &Cluster, seen: &Observation, applied: &[&Observed]) {
    let namespaces = applied.iter().filter(|observed| is_namespace(&observed.desired.id));
    for namespace in namespaces.map(|observed| &observed.desired.id.name) {
        let has_pods = seen.objects.iter().any(|observed| {
            let id = &observed.desired.id;
            id.kind == "Pod" && id.group().is_empty() && id.namespace.as_ref() == Some(namespace)
        });
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/default", super::client::encode(namespace));
        let deadline = Instant::now() + Duration::from_secs(20);
        while has_pods && Instant::now() < deadline {
            let answer = cluster.call(&Call::get(path.clone()), Duration::from_secs(1)).await;
            if answer.is_ok_and(|answer| answer.value["metadata"]["uid"] != Value::Null) {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The work can move between threads of the runtime.
    #[test]
    fn futures_are_send() {
        fn is_send<T: Send>(_: &impl Fn() -> T) {}
        let refer = || -> (&Cluster, &Observation, &Plan) { unreachable!("only its type counts") };
        is_send(&|| {
            let (cluster, seen, plan) = refer();
            let sink: &'static mut super::super::Unrecorded = Box::leak(Box::default());
            execute(cluster, seen, plan, sink, &crate::model::progress::Silent)
        });
        is_send(&|| {
            let (cluster, seen, _) = refer();
            super::super::wait(cluster, seen, GONE, &crate::model::progress::Silent)
        });
        is_send(&|| {
            let (cluster, seen, _) = refer();
            super::super::observe(cluster, seen.release.clone(), &crate::model::progress::Silent)
        });
    }
}
