//! Kubernetes objects as the revision renders them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What names one object in a cluster.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct ObjectId {
    /// API group and version as in the manifest: `apps/v1`, `v1`.
    pub api_version: String,
    /// Kind: `Deployment`.
    pub kind: String,
    /// Namespace, where the manifest names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name. An object with only a `generateName` is refused: it could not be applied twice.
    pub name: String,
}

impl ObjectId {
    /// What names the object `value`, as a manifest holds it.
    ///
    /// # Errors
    ///
    /// A sentence that says which part is missing or wrong; it goes on after "where".
    pub fn of(value: &serde_json::Value) -> Result<Self, String> {
        let text = |parent: &serde_json::Value, field: &str| match parent.get(field) {
            None | Some(serde_json::Value::Null) => Ok(None),
            Some(serde_json::Value::String(text)) if text.is_empty() => Ok(None),
            Some(serde_json::Value::String(text))
                if text.len() > 512 || text.chars().any(char::is_control) =>
            {
                Err(format!("`{field}` is longer than 512 bytes or holds control characters"))
            }
            Some(serde_json::Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(format!("`{field}` is not a string")),
        };
        if !value.is_object() {
            return Err("there is no mapping".to_owned());
        }
        let api_version = text(value, "apiVersion")?.ok_or("`apiVersion` is missing")?;
        let kind = text(value, "kind")?.ok_or("`kind` is missing")?;
        let metadata = match value.get("metadata") {
            Some(metadata) if metadata.is_object() => metadata,
            Some(_) => return Err("`metadata` is not a mapping".to_owned()),
            None => return Err("`metadata` is missing".to_owned()),
        };
        let Some(name) = text(metadata, "name")? else {
            return Err(match text(metadata, "generateName")? {
                Some(_) => "`metadata.name` is missing (`generateName` would make another object each time)",
                None => "`metadata.name` is missing",
            }
            .to_owned());
        };
        Ok(Self { api_version, kind, namespace: text(metadata, "namespace")?, name })
    }

    /// The API group: empty for the core group.
    #[must_use]
    pub fn group(&self) -> &str {
        self.api_version.rsplit_once('/').map_or("", |(group, _)| group)
    }

    /// The API version without its group.
    #[must_use]
    pub fn version(&self) -> &str {
        self.api_version.rsplit_once('/').map_or(self.api_version.as_str(), |(_, version)| version)
    }

    /// Whether both name the same object, whatever the version it is asked for in.
    #[must_use]
    pub fn same_object(&self, other: &Self) -> bool {
        self.group() == other.group()
            && self.kind == other.kind
            && self.namespace == other.namespace
            && self.name == other.name
    }
}

impl fmt::Display for ObjectId {
    /// `Deployment shop/web`, `Namespace shop`: kind, namespace, name, as people say it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        self.namespace.iter().try_for_each(|namespace| write!(f, "{namespace}/"))?;
        f.write_str(&self.name)
    }
}

/// Where an object comes from in the revision.
#[derive(
    Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct Origin {
    /// File below the root of the revision, or the folder whose rendering gave the object.
    pub file: String,
    /// Line on which the document begins, counted from 1, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The deployers of the revision (an Argo CD `Application`, a Flux `Kustomization`) that led to
    /// the object, the outermost first: `Application argocd/shop`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deployers: Vec<String>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        self.line.iter().try_for_each(|line| write!(f, ":{line}"))?;
        if self.deployers.is_empty() {
            return Ok(());
        }
        write!(f, " (through {})", self.deployers.join(", "))
    }
}

/// What an object is for, where it is not simply one of the release's.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum ObjectRole {
    /// One of the release's objects.
    #[default]
    Plain,
    /// The definition of a kind.
    Crd,
    /// A hook of a Helm chart that runs before or after an installation or upgrade: it is
    /// applied as an object like all others.
    Hook,
    /// A hook of a Helm chart or an Application that runs at a deletion, rollback or failure alone:
    /// it travels with its images, and is not applied.
    UndoHook,
    /// A test of a Helm chart: it travels with its images, and is not applied.
    Test,
    /// What a deployer of the release (an Argo CD `Application`, a Flux `Kustomization`) will deploy
    /// at the site by itself: it travels with its images, and is not applied.
    Deployed,
}

impl ObjectRole {
    /// The role of an object that is no part of a Helm chart.
    #[must_use]
    pub fn of(id: &ObjectId) -> Self {
        let crd = id.kind == "CustomResourceDefinition" && id.group() == "apiextensions.k8s.io";
        if crd { Self::Crd } else { Self::Plain }
    }

    /// The role of an object of a Helm chart: what its `helm.sh/hook` annotation says.
    #[must_use]
    pub fn in_chart(id: &ObjectId, value: &serde_json::Value) -> Self {
        let hooks = value["metadata"]["annotations"]["helm.sh/hook"].as_str().unwrap_or_default();
        let mut role = None;
        for hook in hooks.split(',').map(|hook| hook.trim().to_ascii_lowercase()) {
            match hook.as_str() {
                "pre-install" | "post-install" | "pre-upgrade" | "post-upgrade" => return Self::Hook,
                "test" | "test-success" => role = Some(Self::Test),
                "pre-delete" | "post-delete" | "pre-rollback" | "post-rollback" => {
                    role = role.or(Some(Self::UndoHook));
                }
                _ => {}
            }
        }
        role.unwrap_or_else(|| Self::of(id))
    }

    /// Whether `apply` brings the object to the cluster.
    #[must_use]
    pub const fn is_applied(self) -> bool {
        match self {
            Self::Plain | Self::Crd | Self::Hook => true,
            Self::UndoHook | Self::Test | Self::Deployed => false,
        }
    }

    /// Whether the object is simply one of the release's.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
    pub(crate) const fn is_plain(&self) -> bool {
        matches!(self, Self::Plain)
    }
}

impl fmt::Display for ObjectRole {
    /// As people say it; nothing for a plain object.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "",
            Self::Crd => "crd",
            Self::Hook => "hook",
            Self::UndoHook => "undo hook",
            Self::Test => "test",
            Self::Deployed => "deployed",
        })
    }
}

/// One object of the rendered release.
#[derive(Debug, Clone, PartialEq)]
pub struct RenderedObject {
    /// What names it.
    pub id: ObjectId,
    /// Where it comes from.
    pub origin: Origin,
    /// What it is for.
    pub role: ObjectRole,
    /// Namespace that it goes to if it names none and its kind belongs to one.
    pub default_namespace: Option<String>,
    /// When it comes, where deployers wait for one another: what has a lower turn is healthy before.
    pub turn: u32,
    /// The whole object.
    pub value: serde_json::Value,
}

impl RenderedObject {
    /// An object that is no part of a Helm chart.
    #[must_use]
    pub fn new(id: ObjectId, origin: Origin, value: serde_json::Value) -> Self {
        Self { role: ObjectRole::of(&id), id, origin, default_namespace: None, turn: 0, value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_follow_from_the_hooks() {
        let role = |kind: &str, hook: serde_json::Value| {
            let version = if kind == "Pod" { "v1" } else { "apiextensions.k8s.io/v1" };
            let value = serde_json::json!({
                "apiVersion": version, "kind": kind,
                "metadata": {"name": "x", "annotations": {"helm.sh/hook": hook}},
            });
            ObjectRole::in_chart(&ObjectId::of(&value).unwrap(), &value)
        };
        assert_eq!(role("Pod", "pre-install,post-delete".into()), ObjectRole::Hook);
        assert_eq!(role("Pod", "post-delete, test".into()), ObjectRole::Test);
        assert_eq!(role("Pod", "Test-Success".into()), ObjectRole::Test);
        assert_eq!(role("Pod", "pre-rollback".into()), ObjectRole::UndoHook);
        assert_eq!(role("Pod", serde_json::Value::Null), ObjectRole::Plain);
        assert_eq!(role("CustomResourceDefinition", "".into()), ObjectRole::Crd);
        assert!(ObjectRole::Hook.is_applied() && !ObjectRole::Test.is_applied());
    }
}
