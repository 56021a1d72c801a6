//! Definitions whose versions leave: what is stored in such a version is written again first.
//!
//! An API server refuses a definition that lacks a version in which objects may still be stored
//! (`status.storedVersions`). So a release cannot drop a version at once, and, worse, a release
//! that brought a new one could not be gone back from. The way through is that of Kubernetes'
//! own storage migration: a definition with the versions of both, stored as the wanted one says;
//! every object of the kind written once, unchanged; the list of stored versions put right; then
//! the definition as the release has it. Every step can be cut and done again.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client::{Call, CallError, encode};
use super::discovery::Resource;
use super::members::{Depth, list};
use super::observe::Desired;
use super::{ApplyError, Cluster};
use crate::model::Progress;

/// How long one change is tried again.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long the API server may take to store objects in the new version.
const NOTICED: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(250);

/// Whether the server refuses a definition because objects may be stored in a version that it
/// does not have.
pub(super) fn is_stored_elsewhere(error: &CallError) -> bool {
    let CallError::Status(status) = error else { return false };
    let mut causes = status.details.iter().flat_map(|details| &details.causes).peekable();
    status.code == 422
        && causes.peek().is_some()
        && causes.all(|cause| cause.field.starts_with("status.storedVersions"))
}

/// The versions in which objects may be stored and that `desired` does not have.
pub(super) fn leaving(live: &Value, desired: &Value) -> Vec<String> {
    let has = |wanted: &str| versions(desired).any(|version| version["name"] == wanted);
    let stored = live["status"]["storedVersions"].as_array().into_iter().flatten();
    stored.filter_map(Value::as_str).filter(|name| !has(name)).map(str::to_owned).collect()
}

fn versions(definition: &Value) -> impl Iterator<Item = &Value> {
    definition["spec"]["versions"].as_array().into_iter().flatten()
}

/// The definition as wanted, with the versions of the live one beside its own.
fn both(live: &Value, desired: &Value) -> Value {
    let mut wide = desired.clone();
    let more: Vec<Value> = versions(live)
        .filter(|version| !versions(desired).any(|own| own["name"] == version["name"]))
        .map(|version| {
            let mut version = version.clone();
            version["storage"] = false.into();
            version
        })
        .collect();
    if let Some(list) = wide["spec"]["versions"].as_array_mut() {
        list.extend(more);
    }
    wide
}

/// Writes every object of the kind anew in the version that `desired` stores, so that the
/// versions that it lacks can go. Does nothing where none goes.
pub(super) async fn move_storage(
    cluster: &Cluster,
    desired: &Desired,
    progress: &dyn Progress,
) -> Result<(), ApplyError> {
    let path = desired.path();
    let live = match cluster.call(&Call::get(path.clone()), PATIENCE).await {
        Ok(answer) => answer.value,
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) => return Err(cluster.explain(&format!("read {}", desired.id), error)),
    };
    let leaving = leaving(&live, &desired.value);
    let Some(stored) = versions(&desired.value).find(|version| version["storage"] == true) else {
        return Ok(());
    };
    if leaving.is_empty() {
        return Ok(());
    }
    let spec = &desired.value["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let stored_name = text(&stored["name"]);
    // A version that is not served cannot be asked for.
    let asked = versions(&desired.value).find(|version| version["served"] == true).unwrap_or(stored);
    let resource = Resource {
        group: text(&spec["group"]),
        version: text(&asked["name"]),
        kind: text(&spec["names"]["kind"]),
        plural: text(&spec["names"]["plural"]),
        namespaced: spec["scope"] == "Namespaced",
        applicable: true,
    };
    let before = storage_hash(cluster, &resource).await;
    let call = Call::apply(path.clone(), &both(&live, &desired.value), true, false);
    cluster.call(&call, PATIENCE).await.map_err(|error| {
        cluster.explain(&format!("keep the versions of {} while objects move", desired.id), error)
    })?;
    let was_stored = versions(&live).find(|version| version["storage"] == true);
    if was_stored.is_some_and(|version| version["name"] != stored_name.as_str()) {
        // Discovery tells when the server has taken up the new version for storing.
        let deadline = Instant::now() + NOTICED;
        while storage_hash(cluster, &resource).await == before && Instant::now() < deadline {
            tokio::time::sleep(PAUSE).await;
        }
    }
    let objects = list(cluster, &resource, None, "", Depth::Metadata, PATIENCE).await.map_err(|error| {
        cluster.explain(&format!("list the objects of kind `{}`", resource.group_kind()), error)
    })?;
    progress.note(format!(
        "{}: writing {} objects anew as `{stored_name}`, so that `{}` can go",
        desired.id,
        objects.len(),
        leaving.join("`, `")
    ));
    for object in &objects {
        let metadata = &object["metadata"];
        let Some(name) = metadata["name"].as_str() else { continue };
        // A patch that changes nothing is written all the same where the stored version differs.
        let call = Call::merge(resource.path(metadata["namespace"].as_str(), Some(name)), &json!({}));
        match cluster.call(&call, PATIENCE).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                let what = format!("write {} {name} anew as `{stored_name}`", resource.kind);
                return Err(cluster.explain(&what, error));
            }
        }
    }
    let call = Call::merge(format!("{path}/status"), &json!({"status": {"storedVersions": [stored_name]}}));
    cluster.call(&call, PATIENCE).await.map_err(|error| {
        cluster.explain(&format!("put the stored versions of {} right", desired.id), error)
    })?;
    Ok(())
}

/// What discovery says about the version that objects are stored in.
async fn storage_hash(cluster: &Cluster, resource: &Resource) -> Option<Value> {
    let call = Call::get(format!("/apis/{}/{}", encode(&resource.group), encode(&resource.version)));
    let answer = cluster.call(&call, PAUSE).await.ok()?;
    let listed = answer.value["resources"].as_array()?;
    listed.iter().find(|entry| entry["name"] == resource.plural.as_str())?.get("storageVersionHash").cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(versions: &[(&str, bool)], stored: &[&str]) -> Value {
        let versions: Vec<_> =
            versions.iter().map(|(name, storage)| json!({"name": name, "storage": storage})).collect();
        json!({"spec": {"versions": versions}, "status": {"storedVersions": stored}})
    }

    #[test]
    fn the_way_leads_over_a_definition_with_both() {
        let live = definition(&[("v1", false), ("v2", true)], &["v1", "v2"]);
        let wanted = definition(&[("v1", true)], &[]);
        assert_eq!(leaving(&live, &wanted), ["v2"]);
        assert_eq!(both(&live, &wanted)["spec"], definition(&[("v1", true), ("v2", false)], &[])["spec"]);
        assert!(leaving(&wanted, &live).is_empty());
    }
}
