//! Helm charts as sources, and what they may ask about the cluster.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::SourcePath;
use crate::model::{HelmReleaseName, KubeApi, KubeVersion, Namespace};

/// A Helm chart of the revision, and what it is rendered with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HelmConfig {
    /// The chart's folder below the root of the revision, or its packaged file (`.tgz`).
    pub chart: SourcePath,
    /// Name of the Helm release, `.Release.Name`. Default: the name of this release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<HelmReleaseName>,
    /// Namespace of the Helm release, `.Release.Namespace`, where objects go that name none.
    /// Default: `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
    /// Files of values below the root of the revision, in order: a later one goes over an earlier one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<SourcePath>,
    /// Values that go over those of the files.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub values_inline: Map<String, Value>,
    /// Whether the chart's `crds/` are taken. Default: yes.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub include_crds: bool,
    /// Version of Kubernetes that the chart is told. Default: that of `target`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kube_version: Option<KubeVersion>,
    /// APIs that the chart is told of beyond Kubernetes' own. Default: those of `target`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_versions: Option<Vec<KubeApi>>,
}

impl HelmConfig {
    /// The chart at the root of a revision, with nothing said about it.
    #[must_use]
    pub fn of_root() -> Self {
        Self {
            chart: SourcePath::root(),
            release: None,
            namespace: None,
            values: Vec::new(),
            values_inline: Map::new(),
            include_crds: true,
            kube_version: None,
            api_versions: None,
        }
    }
}

const fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
const fn is_yes(value: &bool) -> bool {
    *value
}

/// What the clusters are like that will run the release.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetConfig {
    /// Version of Kubernetes that charts are told. Default: 1.36.0, whatever Helm is installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kube_version: Option<KubeVersion>,
    /// APIs that charts are told of beyond Kubernetes' own: `GROUP/VERSION` or `GROUP/VERSION/KIND`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub api_versions: Vec<KubeApi>,
}

impl TargetConfig {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
