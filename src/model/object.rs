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
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct Origin {
    /// File below the root of the revision, or the folder whose rendering gave the object.
    pub file: String,
    /// Line on which the document begins, counted from 1, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        self.line.iter().try_for_each(|line| write!(f, ":{line}"))
    }
}

/// One object of the rendered release.
#[derive(Debug, Clone, PartialEq)]
pub struct RenderedObject {
    /// What names it.
    pub id: ObjectId,
    /// Where it comes from.
    pub origin: Origin,
    /// The whole object.
    pub value: serde_json::Value,
}
