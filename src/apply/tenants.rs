//! Who else lives in a namespace or under a definition that is to go: what is deleted with it
//! must not be somebody else's.

use std::time::Duration;

use serde_json::Value;

use super::client::Call;
use super::discovery::{Discovery, Resource, is_namespace};
use super::members::{Depth, list};
use super::{ApplyError, Cluster};
use crate::model::ObjectId;

const PATIENCE: Duration = Duration::from_secs(15);
/// Objects that are named; one is enough to keep what holds it.
const NAMED: usize = 3;

/// What still lives in a namespace, or is still of a definition's kind: `ConfigMap shop/a`, a
/// few of them. What Kubernetes puts into every namespace by itself, and what controllers made for
/// other objects, does not count.
pub(super) async fn tenants(
    cluster: &Cluster,
    discovery: &mut Discovery,
    id: &ObjectId,
    path: &str,
) -> Result<Vec<String>, ApplyError> {
    let mut found = Vec::new();
    let (resources, namespace) = if is_namespace(id) {
        (discovery.namespaced(cluster).await?, Some(id.name.as_str()))
    } else {
        let answer = cluster.call(&Call::get(path), PATIENCE).await;
        let definition = match answer {
            Ok(answer) => answer.value,
            Err(error) if error.is_not_found() => return Ok(found),
            Err(error) => return Err(cluster.explain(&format!("read {id}"), error)),
        };
        let spec = &definition["spec"];
        let (group, kind) = (spec["group"].as_str(), spec["names"]["kind"].as_str());
        let (Some(group), Some(kind)) = (group, kind) else { return Ok(found) };
        (discovery.find_group_kind(cluster, group, kind).await?.into_iter().collect(), None)
    };
    for resource in resources.iter().filter(|resource| !is_passing(resource)) {
        let listed = match list(cluster, resource, namespace, "", Depth::Metadata, PATIENCE).await {
            Ok(listed) => listed,
            // Kinds that cannot be listed hold nothing that could be found.
            Err(error) if error.is_not_found() || error.code() == 405 => continue,
            Err(error) => {
                let what = format!("list the objects of kind `{}`", resource.group_kind());
                return Err(cluster.explain(&what, error));
            }
        };
        for object in listed.iter().filter(|object| is_tenant(resource, object)) {
            let metadata = &object["metadata"];
            let place = metadata["namespace"].as_str().map_or(String::new(), |place| format!("{place}/"));
            let name = metadata["name"].as_str().unwrap_or_default();
            found.push(format!("{} {place}{name}", resource.kind));
            if found.len() == NAMED {
                return Ok(found);
            }
        }
    }
    Ok(found)
}

/// Kinds of objects that tell about others and go by themselves.
fn is_passing(resource: &Resource) -> bool {
    matches!(
        (resource.group.as_str(), resource.kind.as_str()),
        ("" | "events.k8s.io", "Event")
            | ("", "Endpoints")
            | ("discovery.k8s.io", "EndpointSlice")
            | ("coordination.k8s.io", "Lease")
    )
}

fn is_tenant(resource: &Resource, object: &Value) -> bool {
    let metadata = &object["metadata"];
    let owners = metadata["ownerReferences"].as_array().into_iter().flatten();
    let is_made = owners.into_iter().any(|owner| owner["controller"] == true);
    let is_everywhere = matches!(
        (resource.kind.as_str(), metadata["name"].as_str()),
        ("ServiceAccount", Some("default")) | ("ConfigMap", Some("kube-root-ca.crt"))
    );
    !is_made && !is_everywhere && metadata["deletionTimestamp"].is_null()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_kubernetes_makes_is_no_tenant() {
        let resource = |kind: &str| Resource {
            group: String::new(),
            version: "v1".into(),
            kind: kind.into(),
            plural: String::new(),
            namespaced: true,
            applicable: true,
        };
        let named = |name: &str| json!({"metadata": {"name": name}});
        assert!(!is_tenant(&resource("ServiceAccount"), &named("default")));
        assert!(!is_tenant(&resource("ConfigMap"), &named("kube-root-ca.crt")));
        assert!(is_tenant(&resource("ConfigMap"), &named("default")));
        let made = json!({"metadata": {"name": "web-1", "ownerReferences": [{"controller": true}]}});
        assert!(!is_tenant(&resource("Pod"), &made));
        assert!(is_passing(&resource("Event")) && !is_passing(&resource("Secret")));
    }
}
