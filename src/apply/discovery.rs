//! Kinds of objects and where the API server keeps them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::client::{Call, encode};
use super::{ApplyError, Cluster};
use crate::model::{ObjectId, RenderedObject};

/// How long discovery is tried again while the server has passing trouble.
const PATIENCE: Duration = Duration::from_secs(10);

/// One kind, as the server serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resource {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) kind: String,
    /// The plural that stands in paths.
    pub(super) plural: String,
    pub(super) namespaced: bool,
    /// Whether objects of the kind are kept and can be applied.
    pub(super) applicable: bool,
}

impl Resource {
    /// The path of all objects of the kind, of those of one namespace, or of one object.
    pub(super) fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let mut path = api_path(&self.group, &self.version);
        if let (true, Some(namespace)) = (self.namespaced, namespace) {
            path.push_str("/namespaces/");
            path.push_str(&encode(namespace));
        }
        path.push('/');
        path.push_str(&encode(&self.plural));
        if let Some(name) = name {
            path.push('/');
            path.push_str(&encode(name));
        }
        path
    }

    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `Deployment.apps`, `ConfigMap`: the form that an ApplySet's parent lists.
    pub(super) fn group_kind(&self) -> String {
        if self.group.is_empty() { self.kind.clone() } else { format!("{}.{}", self.kind, self.group) }
    }
}

fn api_path(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("/api/{}", encode(version))
    } else {
        format!("/apis/{}/{}", encode(group), encode(version))
    }
}

/// What the server has said so far: one question for each group and version that somebody needs.
#[derive(Debug, Default)]
pub(super) struct Discovery {
    seen: BTreeMap<(String, String), Vec<Resource>>,
}

impl Discovery {
    /// The kind as the server serves it, if it does.
    pub(super) async fn find(
        &mut self,
        cluster: &Cluster,
        id: &ObjectId,
    ) -> Result<Option<Resource>, ApplyError> {
        self.find_kind(cluster, id.group(), id.version(), &id.kind).await
    }

    pub(super) async fn find_kind(
        &mut self,
        cluster: &Cluster,
        group: &str,
        version: &str,
        kind: &str,
    ) -> Result<Option<Resource>, ApplyError> {
        let key = (group.to_owned(), version.to_owned());
        if !self.seen.contains_key(&key) {
            let served = match cluster.call(&Call::get(api_path(group, version)), PATIENCE).await {
                Ok(answer) => resources(group, version, &answer.value),
                Err(error) if error.is_not_found() => Vec::new(),
                Err(error) => {
                    let what = format!("ask for the kinds of `{group}/{version}`");
                    return Err(cluster.explain(&what, error));
                }
            };
            self.seen.insert(key.clone(), served);
        }
        Ok(self.seen[&key].iter().find(|resource| resource.kind == kind).cloned())
    }

    /// The kind in whatever version the server likes best, if it serves it at all.
    pub(super) async fn find_group_kind(
        &mut self,
        cluster: &Cluster,
        group: &str,
        kind: &str,
    ) -> Result<Option<Resource>, ApplyError> {
        if group.is_empty() {
            return self.find_kind(cluster, "", "v1", kind).await;
        }
        let call = Call::get(format!("/apis/{}", encode(group)));
        let versions = match cluster.call(&call, PATIENCE).await {
            Ok(answer) => group_versions(&answer.value),
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(cluster.explain(&format!("ask for the versions of `{group}`"), error)),
        };
        for version in versions {
            if let Some(resource) = self.find_kind(cluster, group, &version, kind).await? {
                return Ok(Some(resource));
            }
        }
        Ok(None)
    }

    /// Every kind of objects that live in namespaces, each in the version the server likes best.
    pub(super) async fn namespaced(&mut self, cluster: &Cluster) -> Result<Vec<Resource>, ApplyError> {
        let groups = cluster.call(&Call::get("/apis"), PATIENCE).await;
        let groups = groups.map_err(|error| cluster.explain("ask for the groups of kinds", error))?.value;
        let mut wanted = vec![(String::new(), "v1".to_owned())];
        for group in groups["groups"].as_array().into_iter().flatten() {
            let version = group_versions(group).into_iter().next();
            if let (Some(name), Some(version)) = (group["name"].as_str(), version) {
                wanted.push((name.to_owned(), version));
            }
        }
        let mut found = Vec::new();
        for (group, version) in wanted {
            // Any kind will do: the answer holds them all.
            self.find_kind(cluster, &group, &version, "").await?;
            let served = &self.seen[&(group, version)];
            found.extend(served.iter().filter(|kind| kind.namespaced && kind.applicable).cloned());
        }
        Ok(found)
    }

    /// Forgets what was said of a group and version: a definition has changed it.
    pub(super) fn forget(&mut self, group: &str, version: &str) {
        self.seen.remove(&(group.to_owned(), version.to_owned()));
    }
}

/// Versions of an `APIGroup`, the preferred one first; at most 20.
fn group_versions(group: &Value) -> Vec<String> {
    let listed = group["versions"].as_array().into_iter().flatten();
    let mut versions: Vec<String> =
        group["preferredVersion"]["version"].as_str().map(str::to_owned).into_iter().collect();
    for version in listed.filter_map(|version| version["version"].as_str()).take(20) {
        if !versions.iter().any(|seen| seen == version) {
            versions.push(version.to_owned());
        }
    }
    versions
}

/// Reads an `APIResourceList`; subresources are left out.
fn resources(group: &str, version: &str, list: &Value) -> Vec<Resource> {
    let entries = list["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
    let read = |entry: &Value| {
        let plural = entry["name"].as_str()?;
        let kind = entry["kind"].as_str()?;
        if plural.contains('/') {
            return None;
        }
        let verbs = entry["verbs"].as_array().map(Vec::as_slice).unwrap_or_default();
        Some(Resource {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
            namespaced: entry["namespaced"].as_bool().unwrap_or(false),
            applicable: verbs.iter().any(|verb| verb == "patch"),
        })
    };
    entries.iter().filter_map(read).collect()
}

/// The kinds that the definitions among `objects` bring, in every version they serve.
pub(super) fn brought<'a>(objects: impl Iterator<Item = &'a RenderedObject>) -> Vec<Resource> {
    let mut found = Vec::new();
    for object in objects.filter(|object| is_definition(&object.id)) {
        let spec = &object.value["spec"];
        let (Some(group), Some(kind), Some(plural)) =
            (spec["group"].as_str(), spec["names"]["kind"].as_str(), spec["names"]["plural"].as_str())
        else {
            continue;
        };
        for version in spec["versions"].as_array().into_iter().flatten() {
            if let (Some(name), Some(true)) = (version["name"].as_str(), version["served"].as_bool()) {
                found.push(Resource {
                    group: group.to_owned(),
                    version: name.to_owned(),
                    kind: kind.to_owned(),
                    plural: plural.to_owned(),
                    namespaced: spec["scope"] == "Namespaced",
                    applicable: true,
                });
            }
        }
    }
    found
}

pub(super) fn is_definition(id: &ObjectId) -> bool {
    id.kind == "CustomResourceDefinition" && id.group() == "apiextensions.k8s.io"
}

pub(super) fn is_namespace(id: &ObjectId) -> bool {
    id.kind == "Namespace" && id.group().is_empty()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_are_read_without_subresources() {
        let list = json!({"resources": [
            {"name": "deployments", "kind": "Deployment", "namespaced": true, "verbs": ["get", "patch"]},
            {"name": "deployments/scale", "kind": "Scale", "namespaced": true, "verbs": ["patch"]},
            {"name": "tokenreviews", "kind": "TokenReview", "namespaced": false, "verbs": ["create"]},
            {"kind": "Nameless"}, 7,
        ]});
        let found = resources("apps", "v1", &list);
        assert_eq!(found.len(), 2);
        assert_eq!(
            found[0].path(Some("shop"), Some("web/../x")),
            "/apis/apps/v1/namespaces/shop/deployments/web%2F..%2Fx"
        );
        assert_eq!(found[0].group_kind(), "Deployment.apps");
        assert!(!found[1].applicable);
        assert_eq!(found[1].path(Some("ignored"), None), "/apis/apps/v1/tokenreviews");
        assert_eq!(resources("", "v1", &json!("html")), []);
    }

    #[test]
    fn the_preferred_version_comes_first() {
        let group = json!({"versions": [{"version": "v2"}, {"version": "v1"}], "preferredVersion": {"version": "v1"}});
        assert_eq!(group_versions(&group), ["v1", "v2"]);
    }
}
