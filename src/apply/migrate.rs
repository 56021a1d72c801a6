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
/// How often one object is written anew while others write it too.
const TRIES: u32 = 10;

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
    let work = Move { cluster, resource: &resource, stored: &stored_name, leaving: &leaving };
    for object in objects {
        work.one(object).await?;
    }
    let call = Call::merge(format!("{path}/status"), &json!({"status": {"storedVersions": [stored_name]}}));
    cluster.call(&call, PATIENCE).await.map_err(|error| {
        cluster.explain(&format!("put the stored versions of {} right", desired.id), error)
    })?;
    Ok(())
}

/// The rewriting of objects from versions that leave into the one that is stored.
struct Move<'a> {
    cluster: &'a Cluster,
    resource: &'a Resource,
    stored: &'a str,
    leaving: &'a [String],
}

impl Move<'_> {
    /// Writes one object anew. Its controllers may write it at the same time: then once more.
    async fn one(&self, mut object: Value) -> Result<(), ApplyError> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let path = self.resource.path(object["metadata"]["namespace"].as_str(), Some(&name));
        let mut tries = 0;
        loop {
            let call = Call::merge(path.clone(), &self.patch(&object["metadata"]));
            let result = self.cluster.call_unless(&call, PATIENCE, |error| error.code() == 409).await;
            let error = match result {
                Ok(_) => return Ok(()),
                Err(error) if error.is_not_found() => return Ok(()),
                Err(error) if error.code() == 409 && tries < TRIES => {
                    tries += 1;
                    match self.cluster.call(&Call::get(path.clone()), PATIENCE).await {
                        Ok(answer) => object = answer.value,
                        Err(error) if error.is_not_found() => return Ok(()),
                        Err(error) => return Err(self.explain(&name, error)),
                    }
                    continue;
                }
                Err(error) => error,
            };
            return Err(self.explain(&name, error));
        }
    }

    fn explain(&self, name: &str, error: CallError) -> ApplyError {
        let what = format!("write {} {name} anew as `{}`", self.resource.kind, self.stored);
        self.cluster.explain(&what, error)
    }

    /// A patch that changes nothing is written all the same where the stored version differs. Who
    /// manages which field is kept by version as well, and an API server can no longer apply an
    /// object of which it keeps that in a version that is gone.
    fn patch(&self, metadata: &Value) -> Value {
        let mut managed = metadata["managedFields"].clone();
        let mut differs = false;
        for entry in managed.as_array_mut().into_iter().flatten() {
            let version = entry["apiVersion"].as_str().and_then(|version| version.rsplit_once('/'));
            if version.is_some_and(|(_, version)| self.leaving.iter().any(|leaving| leaving == version)) {
                entry["apiVersion"] = format!("{}/{}", self.resource.group, self.stored).into();
                differs = true;
            }
        }
        if !differs {
            return json!({});
        }
        json!({"metadata": {"managedFields": managed, "resourceVersion": metadata["resourceVersion"]}})
    }
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
