//! `deployers` of `fleetpack.yaml`: what to do about Argo CD and Flux objects of a revision.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ObjectId;
use super::config::{Reason, SourcePath};

/// What to do about objects that deploy others: Argo CD's `Application` and `ApplicationSet`, Flux's
/// `Kustomization` and `HelmRelease`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeployersConfig {
    /// Whether the release holds what they deploy, or the objects themselves.
    #[serde(default, skip_serializing_if = "DeployersMode::is_default")]
    pub mode: DeployersMode,
    /// URLs under which deployers know this repository, besides those of the clone's remotes.
    /// Scheme, user, a final `.git` and the case of the host make no difference.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repositories: Vec<String>,
    /// Branches and tags that stand for the revision that is built, whatever it is called here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revisions: Vec<String>,
    /// Folders of this repository that stand in for what lies elsewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replace: Vec<ReplacedSource>,
    /// Deployers that are not followed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<IgnoredDeployer>,
}

impl DeployersConfig {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What becomes of deployers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum DeployersMode {
    /// The release holds what they would deploy, in their place: the site needs no deployer.
    #[default]
    Expand,
    /// The release holds the deployers as they are, for a site that runs Argo CD or Flux; what they
    /// would deploy is rendered for its images.
    Keep,
}

impl DeployersMode {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A folder of this repository in the place of a source that lies elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReplacedSource {
    /// The deployer, as errors name it.
    pub object: DeployerName,
    /// Which of the `sources` of an Application, counted from 0, where it has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<usize>,
    /// The folder: the chart, or what stands in for the source's own path.
    pub path: SourcePath,
}

/// A deployer that is not followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IgnoredDeployer {
    /// The deployer, as errors name it.
    pub object: DeployerName,
    /// Why the release is complete without what it deploys.
    pub reason: Reason,
}

/// A deployer by kind, namespace and name, as errors print it: `Application argocd/shop`. Without a
/// namespace it means the one of that name in any namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, schemars::JsonSchema)]
pub struct DeployerName(#[schemars(with = "String")] Parts);

/// Kind, namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Parts {
    kind: String,
    namespace: Option<String>,
    name: String,
}

/// Kinds that a [`DeployerName`] may have.
pub const DEPLOYER_KINDS: [&str; 4] = ["Application", "ApplicationSet", "Kustomization", "HelmRelease"];

impl DeployerName {
    /// Whether this names the object.
    #[must_use]
    pub fn names(&self, id: &ObjectId) -> bool {
        let Parts { kind, namespace, name } = &self.0;
        *kind == id.kind && *name == id.name && (namespace.is_none() || *namespace == id.namespace)
    }
}

impl FromStr for DeployerName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text:.200}` does not name a deployer, wanted `KIND NAMESPACE/NAME` with a kind of {}",
                DEPLOYER_KINDS.join(", ")
            )
        };
        let (kind, rest) = text.split_once(' ').ok_or_else(wrong)?;
        let (namespace, name) = match rest.trim_start().split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, rest.trim_start()),
        };
        let plain = |part: &str| {
            (1..=253).contains(&part.len())
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
        };
        if !DEPLOYER_KINDS.contains(&kind) || !plain(name) || !namespace.is_none_or(plain) {
            return Err(wrong());
        }
        Ok(Self(Parts {
            kind: kind.to_owned(),
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
        }))
    }
}

impl fmt::Display for DeployerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { kind, namespace, name } = &self.0;
        write!(f, "{kind} ")?;
        namespace.iter().try_for_each(|namespace| write!(f, "{namespace}/"))?;
        f.write_str(name)
    }
}

impl Serialize for DeployerName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeployerName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_errors_print_them() {
        let id = |kind: &str, namespace: Option<&str>, name: &str| ObjectId {
            api_version: "argoproj.io/v1alpha1".into(),
            kind: kind.into(),
            namespace: namespace.map(str::to_owned),
            name: name.into(),
        };
        let shop = id("Application", Some("argocd"), "shop");
        let name: DeployerName = shop.to_string().parse().unwrap();
        assert_eq!(name.to_string(), "Application argocd/shop");
        assert!(name.names(&shop));
        assert!(!name.names(&id("Application", None, "shop")));
        assert!(!name.names(&id("HelmRelease", Some("argocd"), "shop")));
        let anywhere: DeployerName = "Application shop".parse().unwrap();
        assert!(anywhere.names(&shop) && anywhere.names(&id("Application", None, "shop")));
        for bad in ["", "shop", "Deployment a/b", "Application ", "Application a/b/c", "Application A"] {
            assert!(bad.parse::<DeployerName>().is_err(), "{bad:?}");
        }
    }
}
