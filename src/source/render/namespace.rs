//! Puts objects that name no namespace into the one that their source says, as an installation by
//! Helm would: where it can be told that their kind belongs to a namespace.

use std::collections::HashMap;

use serde_json::Value;

use crate::model::{ObjectId, RenderedObject};

/// Settles the default namespace of every object whose kind is known: Kubernetes' own kinds, and
/// those that the release itself defines. For the others it stays, and the site's API server
/// says whether the kind belongs to a namespace.
pub(in crate::source) fn settle(objects: &mut [RenderedObject]) {
    if objects.iter().all(|object| object.default_namespace.is_none()) {
        return;
    }
    let defined = defined(objects);
    for object in objects {
        let key = (object.id.group().to_owned(), object.id.kind.clone());
        let Some(namespaced) = scope(&object.id).or_else(|| defined.get(&key).copied()) else { continue };
        let Some(namespace) = object.default_namespace.take() else { continue };
        if namespaced
            && object.id.namespace.is_none()
            && let Some(metadata) = object.value.get_mut("metadata").and_then(Value::as_object_mut)
        {
            metadata.insert("namespace".to_owned(), namespace.clone().into());
            object.id.namespace = Some(namespace);
        }
    }
}

/// The kinds that the release defines, by group and kind: whether they belong to a namespace.
fn defined(objects: &[RenderedObject]) -> HashMap<(String, String), bool> {
    let definition = |object: &RenderedObject| {
        let spec = &object.value["spec"];
        let (group, kind) = (spec["group"].as_str()?, spec["names"]["kind"].as_str()?);
        Some(((group.to_owned(), kind.to_owned()), spec["scope"].as_str()? == "Namespaced"))
    };
    let definitions = objects.iter().filter(|object| object.id.kind == "CustomResourceDefinition");
    definitions.filter_map(definition).collect()
}

/// Whether a kind of Kubernetes' own belongs to a namespace; `None` for the kinds of others.
fn scope(id: &ObjectId) -> Option<bool> {
    let of_the_cluster: &[&str] = match id.group() {
        "" => &["Namespace", "Node", "PersistentVolume", "ComponentStatus"],
        "apps"
        | "autoscaling"
        | "batch"
        | "coordination.k8s.io"
        | "discovery.k8s.io"
        | "events.k8s.io"
        | "extensions" => &[],
        "admissionregistration.k8s.io"
        | "apiextensions.k8s.io"
        | "apiregistration.k8s.io"
        | "flowcontrol.apiserver.k8s.io"
        | "node.k8s.io"
        | "scheduling.k8s.io"
        | "storagemigration.k8s.io" => return Some(false),
        "certificates.k8s.io" => &["CertificateSigningRequest", "ClusterTrustBundle"],
        "networking.k8s.io" => &["IngressClass", "IPAddress", "ServiceCIDR"],
        "policy" => &["PodSecurityPolicy"],
        "rbac.authorization.k8s.io" => &["ClusterRole", "ClusterRoleBinding"],
        "resource.k8s.io" => &["DeviceClass", "DeviceTaintRule", "ResourceSlice"],
        "storage.k8s.io" => {
            &["CSIDriver", "CSINode", "StorageClass", "VolumeAttachment", "VolumeAttributesClass"]
        }
        _ => return None,
    };
    Some(!of_the_cluster.contains(&id.kind.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Origin;
    use serde_json::json;

    #[test]
    fn known_kinds_are_settled_and_others_keep_their_default() {
        let object = |version: &str, kind: &str, spec: Value| {
            let value = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x"}, "spec": spec});
            let origin = Origin { file: "x".into(), ..Origin::default() };
            let mut object = RenderedObject::new(ObjectId::of(&value).unwrap(), origin, value);
            object.default_namespace = Some("shop".into());
            object
        };
        let crd = |kind: &str, scope: &str| {
            let spec = json!({"group": "a.io", "names": {"kind": kind}, "scope": scope});
            object("apiextensions.k8s.io/v1", "CustomResourceDefinition", spec)
        };
        let mut objects = [
            object("apps/v1", "Deployment", json!({})),
            object("rbac.authorization.k8s.io/v1", "ClusterRole", json!({})),
            object("a.io/v2", "Near", json!({})),
            object("a.io/v2", "Wide", json!({})),
            object("other.io/v1", "Thing", json!({})),
            crd("Near", "Namespaced"),
            crd("Wide", "Cluster"),
        ];
        settle(&mut objects);
        let found: Vec<_> = objects
            .iter()
            .map(|object| (object.id.namespace.as_deref(), object.default_namespace.as_deref()))
            .collect();
        let (set, no) = ((Some("shop"), None), (None, None));
        assert_eq!(found, [set, no, set, no, (None, Some("shop")), no, no]);
        assert_eq!(objects[0].value["metadata"]["namespace"], "shop");
    }
}
