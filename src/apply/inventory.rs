//! The inventory: an ApplySet (Kubernetes enhancement 3659, "ApplySet: kubectl apply --prune").
//!
//! The parent is a `ConfigMap` that lists the kinds and namespaces of the members; each member
//! carries the set's id as a label. Before the first change the parent lists old and new kinds
//! together, and only after pruning the new ones alone: a cut at any point loses no member.
//! Annotations of our own say which release the cluster runs, so that it can be asked.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::ReleaseObjects;
use crate::model::{Digest, ReleaseName};

/// The one field manager of every object of every release.
pub const FIELD_MANAGER: &str = "fleetpack";
/// The namespace of the parents.
pub const NAMESPACE: &str = "fleetpack-system";

/// Label on the parent: the id of the set.
pub(super) const ID: &str = "applyset.kubernetes.io/id";
/// Label on each member: the id of its set.
pub(super) const PART_OF: &str = "applyset.kubernetes.io/part-of";
/// Annotation on the parent: who maintains the set.
const TOOLING: &str = "applyset.kubernetes.io/tooling";
/// Annotation on the parent: kinds of the members, sorted, `Kind.group`.
const KINDS: &str = "applyset.kubernetes.io/contains-group-kinds";
/// Annotation on the parent: namespaces of the members beside the parent's own, sorted.
const NAMESPACES: &str = "applyset.kubernetes.io/additional-namespaces";
/// Annotations of our own: what runs, and what is being applied.
pub(super) const RELEASE: &str = "fleetpack.dev/release";
pub(super) const VERSION: &str = "fleetpack.dev/version";
pub(super) const SEQUENCE: &str = "fleetpack.dev/sequence";
pub(super) const APPLYING: &str = "fleetpack.dev/applying";
pub(super) const DEFAULT_NAMESPACE: &str = "fleetpack.dev/default-namespace";

/// Name of the parent of a release's set: `fleetpack-shop`.
#[must_use]
pub fn parent_name(release: &ReleaseName) -> String {
    format!("fleetpack-{release}")
}

/// The id of a release's set, version 1 of the KEP: a hash of the parent's name, namespace, kind
/// and group, so that nobody can claim another parent's set.
#[must_use]
pub fn apply_set_id(release: &ReleaseName) -> String {
    id_of_parent(&parent_name(release), NAMESPACE, "ConfigMap", "")
}

fn id_of_parent(name: &str, namespace: &str, kind: &str, group: &str) -> String {
    let digest = Digest::of(format!("{name}.{namespace}.{kind}.{group}").as_bytes());
    format!("applyset-{}-v1", URL_SAFE_NO_PAD.encode(digest.as_raw()))
}

/// What a parent lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Contents {
    /// `Kind.group` of the members.
    pub(super) kinds: BTreeSet<String>,
    /// Namespaces of the members; the parent's own may be among them.
    pub(super) namespaces: BTreeSet<String>,
}

impl Contents {
    pub(super) fn union(&self, other: &Self) -> Self {
        Self { kinds: &self.kinds | &other.kinds, namespaces: &self.namespaces | &other.namespaces }
    }
}

/// A parent as it stands in a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) contents: Contents,
    pub(super) release: Option<String>,
    pub(super) version: Option<String>,
    pub(super) sequence: Option<u64>,
    pub(super) applying: Option<String>,
    pub(super) default_namespace: Option<String>,
}

impl Parent {
    pub(super) fn read(object: &Value) -> Self {
        let annotations = &object["metadata"]["annotations"];
        let text =
            |key: &str| annotations[key].as_str().map(|text| text.chars().take(300).collect::<String>());
        let listed = |key: &str| {
            let text = annotations[key].as_str().unwrap_or_default();
            text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
        };
        let mut namespaces: BTreeSet<String> = listed(NAMESPACES);
        namespaces.insert(NAMESPACE.to_owned());
        Self {
            contents: Contents { kinds: listed(KINDS), namespaces },
            release: text(RELEASE),
            version: text(VERSION),
            sequence: text(SEQUENCE).and_then(|text| text.parse().ok()),
            applying: text(APPLYING),
            default_namespace: text(DEFAULT_NAMESPACE).filter(|text| !text.is_empty()),
        }
    }

    /// The parent while `release` is being applied: what ran before still stands as what runs.
    pub(super) fn begun(&self, release: &ReleaseObjects, contents: &Contents, default: &str) -> Self {
        Self {
            contents: self.contents.union(contents),
            applying: Some(release.digest.to_string()),
            default_namespace: Some(default.to_owned()),
            ..self.clone()
        }
    }

    /// The parent when `release` runs, is healthy, and what left it is gone.
    pub(super) fn done(release: &ReleaseObjects, contents: Contents, default: &str) -> Self {
        Self {
            contents,
            release: Some(release.digest.to_string()),
            version: Some(release.version.to_string()),
            sequence: Some(release.sequence),
            applying: None,
            default_namespace: Some(default.to_owned()),
        }
    }

    /// The object to apply.
    pub(super) fn object(&self, release: &ReleaseName) -> Value {
        let joined = |set: &BTreeSet<String>| {
            set.iter().filter(|item| *item != NAMESPACE).cloned().collect::<Vec<_>>().join(",")
        };
        let mut annotations = Map::new();
        let mut set = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                annotations.insert(key.to_owned(), Value::String(value));
            }
        };
        set(TOOLING, Some(concat!("fleetpack/v", env!("CARGO_PKG_VERSION")).to_owned()));
        set(KINDS, Some(self.contents.kinds.iter().cloned().collect::<Vec<_>>().join(",")));
        set(NAMESPACES, Some(joined(&self.contents.namespaces)));
        set(RELEASE, self.release.clone());
        set(VERSION, self.version.clone());
        set(SEQUENCE, self.sequence.map(|sequence| sequence.to_string()));
        set(APPLYING, self.applying.clone());
        set(DEFAULT_NAMESPACE, self.default_namespace.clone());
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": parent_name(release),
                "namespace": NAMESPACE,
                "labels": {(ID): apply_set_id(release)},
                "annotations": annotations,
            },
        })
    }
}

/// The namespace of the parents, as an object to apply.
pub(super) fn namespace_object() -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
}

/// Splits `Kind.group`.
pub(super) fn split_group_kind(text: &str) -> (&str, &str) {
    text.split_once('.').map_or(("", text), |(kind, group)| (group, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release() -> ReleaseObjects {
        ReleaseObjects {
            name: "shop".parse().unwrap(),
            version: "2".parse().unwrap(),
            digest: Digest::of(b"2"),
            sequence: 7,
            objects: vec![],
        }
    }

    #[test]
    fn ids_are_those_of_the_enhancement() {
        // sha256("parent.default.ConfigMap.") in URL-safe base64, computed with other tools.
        let id = id_of_parent("parent", "default", "ConfigMap", "");
        assert_eq!(id, "applyset-gER-88e-bGQpd1W1MaqV-KU1XYLjw_VtpQarrfsBrFI-v1");
        assert!(apply_set_id(&release().name).len() <= 63);
    }

    #[test]
    fn the_superset_comes_first_and_what_runs_stays_until_it_is_done() {
        let set = |items: &[&str]| items.iter().map(|&item| item.to_owned()).collect::<BTreeSet<_>>();
        let old = Parent {
            contents: Contents { kinds: set(&["Secret"]), namespaces: set(&["old", NAMESPACE]) },
            release: Some("sha256:1".into()),
            version: Some("1".into()),
            sequence: Some(6),
            applying: None,
            default_namespace: Some("default".into()),
        };
        assert_eq!(Parent::read(&old.object(&release().name)), old);
        let new = Contents { kinds: set(&["ConfigMap", "Deployment.apps"]), namespaces: set(&["new"]) };
        let begun = Parent::read(&old.begun(&release(), &new, "default").object(&release().name));
        assert_eq!(begun.contents.kinds, set(&["ConfigMap", "Deployment.apps", "Secret"]));
        assert_eq!(begun.contents.namespaces, set(&["new", "old", NAMESPACE]));
        assert_eq!(begun.release.as_deref(), Some("sha256:1"));
        assert_eq!(begun.applying, Some(release().digest.to_string()));
        let done = Parent::done(&release(), new, "default").object(&release().name);
        assert_eq!(done["metadata"]["annotations"][KINDS], "ConfigMap,Deployment.apps");
        assert_eq!(done["metadata"]["annotations"][NAMESPACES], "new");
        assert_eq!(done["metadata"]["annotations"][SEQUENCE], "7");
        assert_eq!(done["metadata"]["annotations"].get(APPLYING), None);
    }

    #[test]
    fn group_kinds_split() {
        assert_eq!(split_group_kind("ConfigMap"), ("", "ConfigMap"));
        assert_eq!(split_group_kind("Role.rbac.authorization.k8s.io"), ("rbac.authorization.k8s.io", "Role"));
    }
}
