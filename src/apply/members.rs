//! The members of a set, as the cluster holds them.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::client::{Call, CallError};
use super::discovery::{Discovery, Resource};
use super::inventory::{Contents, PART_OF, split_group_kind};
use super::{ApplyError, Cluster};
use crate::fsio::limits;
use crate::model::ObjectId;

/// Objects of one page of a list.
const PAGE: &str = "250";
const PATIENCE: Duration = Duration::from_secs(15);
const METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

/// One member of the set.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) id: ObjectId,
    pub(super) resource: Resource,
    pub(super) uid: String,
    /// The object: its metadata alone, or all of it.
    pub(super) value: Value,
}

/// How much of each object is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    Metadata,
    Whole,
}

/// Finds every object that carries the set's label, in the kinds and namespaces of `contents`.
/// Kinds that the cluster no longer has are passed over: their objects went with them.
pub(super) async fn members(
    cluster: &Cluster,
    discovery: &mut Discovery,
    set: &str,
    contents: &Contents,
    depth: Depth,
) -> Result<Vec<Member>, ApplyError> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for group_kind in &contents.kinds {
        let (group, kind) = split_group_kind(group_kind);
        let Some(resource) = discovery.find_group_kind(cluster, group, kind).await? else { continue };
        let everywhere: Vec<Option<&str>> = if resource.namespaced {
            contents.namespaces.iter().map(|namespace| Some(namespace.as_str())).collect()
        } else {
            vec![None]
        };
        for namespace in everywhere {
            let listed =
                list(cluster, &resource, namespace, &format!("{PART_OF}={set}"), depth, PATIENCE).await;
            let listed = match listed {
                Ok(listed) => listed,
                Err(error) if error.is_not_found() => continue,
                Err(error) => {
                    return Err(cluster.explain(&format!("list the members of kind `{group_kind}`"), error));
                }
            };
            for value in listed {
                let metadata = &value["metadata"];
                let (Some(name), Some(uid)) = (metadata["name"].as_str(), metadata["uid"].as_str()) else {
                    continue;
                };
                if written_by_a_controller(&resource, metadata) || !seen.insert(uid.to_owned()) {
                    continue;
                }
                found.push(Member {
                    id: ObjectId {
                        api_version: resource.api_version(),
                        kind: resource.kind.clone(),
                        namespace: metadata["namespace"].as_str().map(str::to_owned),
                        name: name.to_owned(),
                    },
                    resource: resource.clone(),
                    uid: uid.to_owned(),
                    value,
                });
                if found.len() > limits::MEMBERS_OF_SET {
                    return Err(ApplyError::Answer {
                        what: format!("list the members of the set `{set}`"),
                        why: format!("has more than {} objects", limits::MEMBERS_OF_SET),
                    });
                }
            }
        }
    }
    Ok(found)
}

/// Controllers copy the labels of a Service to its endpoints: those are not ours to judge.
fn written_by_a_controller(resource: &Resource, metadata: &Value) -> bool {
    let controlled = metadata["ownerReferences"]
        .as_array()
        .is_some_and(|owners| owners.iter().any(|owner| owner["controller"] == true));
    let labels = &metadata["labels"];
    let endpoints = match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Endpoints") => labels.get("endpoints.kubernetes.io/managed-by").is_some(),
        ("discovery.k8s.io", "EndpointSlice") => {
            labels.get("endpointslice.kubernetes.io/managed-by").is_some()
        }
        _ => false,
    };
    controlled || endpoints
}

/// All objects of a kind, in a namespace or everywhere, that a label selector takes; page by page.
pub(super) async fn list(
    cluster: &Cluster,
    resource: &Resource,
    namespace: Option<&str>,
    selector: &str,
    depth: Depth,
    patience: Duration,
) -> Result<Vec<Value>, CallError> {
    let mut found: Vec<Value> = Vec::new();
    let mut more = String::new();
    let mut restarts = 0;
    loop {
        let mut call =
            Call::get(resource.path(namespace, None)).query("labelSelector", selector).query("limit", PAGE);
        if depth == Depth::Metadata {
            call = call.accept(METADATA);
        }
        if !more.is_empty() {
            call = call.query("continue", more.clone());
        }
        let answer = match cluster.call(&call, patience).await {
            Ok(answer) => answer.value,
            // The server forgot where the list was: from the start.
            Err(error) if error.code() == 410 && restarts < 3 => {
                restarts += 1;
                found.clear();
                more.clear();
                continue;
            }
            Err(error) => return Err(error),
        };
        if let Some(items) = answer["items"].as_array() {
            found.extend(items.iter().cloned());
        }
        answer["metadata"]["continue"].as_str().unwrap_or_default().clone_into(&mut more);
        if more.is_empty() || found.len() > limits::MEMBERS_OF_SET {
            return Ok(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_controllers_write_is_not_a_member() {
        let resource = |group: &str, kind: &str| Resource {
            group: group.into(),
            version: "v1".into(),
            kind: kind.into(),
            plural: "x".into(),
            namespaced: true,
            applicable: true,
        };
        let slice = resource("discovery.k8s.io", "EndpointSlice");
        let copied =
            json!({"labels": {"endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}});
        assert!(written_by_a_controller(&slice, &copied));
        assert!(!written_by_a_controller(&slice, &json!({"labels": {"a": "b"}})));
        let owned = json!({"ownerReferences": [{"kind": "X", "controller": true}]});
        assert!(written_by_a_controller(&resource("apps", "ReplicaSet"), &owned));
        assert!(!written_by_a_controller(&resource("apps", "ReplicaSet"), &json!({"ownerReferences": [{}]})));
    }
}
