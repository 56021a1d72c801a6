//! `fleetpack.yaml`: how a revision says what its release is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::path::PathError;
use super::{ImageRef, Platform, ReleaseName, ReleaseVersion, SafePath};

/// Name of the configuration file at the root of a revision.
pub const FILE_NAME: &str = "fleetpack.yaml";

/// The whole of `fleetpack.yaml`. Unknown fields are errors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReleaseConfig {
    /// Always `fleetpack.dev/v1`.
    pub api_version: ConfigVersion,
    /// Always `Release`.
    pub kind: ConfigKind,
    /// What names the release.
    pub metadata: ConfigMetadata,
    /// Version of the release. Default: the tag at the revision, else its short hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<ReleaseVersion>,
    /// Where the manifests are, in order. Default: a root `kustomization.yaml`, else every YAML
    /// file of the revision that holds Kubernetes objects.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceConfig>,
    /// Platforms to take of each image index. Default: all that the index has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<Platform>,
    /// What to do about images.
    #[serde(default, skip_serializing_if = "ImagesConfig::is_default")]
    pub images: ImagesConfig,
}

/// The one version of the configuration this crate reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum ConfigVersion {
    /// The first version.
    #[serde(rename = "fleetpack.dev/v1")]
    V1,
}

/// The one kind of configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum ConfigKind {
    /// A release.
    Release,
}

/// What names a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigMetadata {
    /// The name of the line of releases.
    pub name: ReleaseName,
}

/// A file or folder of the revision; `.` is its root. A leading `./` and a trailing `/` mean nothing.
#[derive(Debug, Clone, PartialEq, Eq, schemars::JsonSchema)]
pub struct SourcePath(#[schemars(with = "String")] Option<SafePath>);

impl SourcePath {
    /// The path below the folder `tree`.
    #[must_use]
    pub fn below(&self, tree: &Path) -> PathBuf {
        self.0.as_ref().map_or_else(|| tree.to_owned(), |path| path.below(tree))
    }
}

impl FromStr for SourcePath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        let mut rest = text;
        while let Some(inner) = rest.strip_prefix("./") {
            rest = inner;
        }
        rest = rest.strip_suffix('/').unwrap_or(rest);
        match rest {
            "." => Ok(Self(None)),
            "" if text.starts_with('.') => Ok(Self(None)),
            _ => rest.parse().map(|path| Self(Some(path))),
        }
    }
}

impl fmt::Display for SourcePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_ref().map_or(".", SafePath::as_str))
    }
}

impl Serialize for SourcePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SourcePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// One source of manifests: exactly one of the fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SourceConfig {
    /// A kustomization folder below the root of the revision.
    Kustomize(SourcePath),
    /// A YAML file, or a folder whose YAML files are read, folders below it included.
    Path(SourcePath),
}

impl<'de> Deserialize<'de> for SourceConfig {
    /// Reads the mapping by its fields, so that two of them, or none, are named in the error.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        struct Fields {
            kustomize: Option<SourcePath>,
            path: Option<SourcePath>,
        }
        match Fields::deserialize(deserializer)? {
            Fields { kustomize: Some(folder), path: None } => Ok(Self::Kustomize(folder)),
            Fields { kustomize: None, path: Some(path) } => Ok(Self::Path(path)),
            Fields { kustomize: None, path: None } => {
                Err(D::Error::custom("an empty source, wanted one of `kustomize` and `path`"))
            }
            Fields { kustomize: Some(_), path: Some(_) } => {
                Err(D::Error::custom("`kustomize` and `path` in one source, wanted a source for each"))
            }
        }
    }
}

impl fmt::Display for SourceConfig {
    /// As the source stands in the file: `kustomize: deploy`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kustomize(folder) => write!(f, "kustomize: {folder}"),
            Self::Path(path) => write!(f, "path: {path}"),
        }
    }
}

/// What to do about images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImagesConfig {
    /// Images to carry although no manifest names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<ImageRef>,
}

impl ImagesConfig {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_paths_as_people_write_them() {
        for (text, want) in [
            ("deploy/site", "deploy/site"),
            ("extra/", "extra"),
            ("./extra", "extra"),
            (".", "."),
            ("./", "."),
        ] {
            assert_eq!(text.parse::<SourcePath>().unwrap().to_string(), want);
        }
        for bad in ["", "/", "/etc", "..", "a/../b", "a//"] {
            assert!(bad.parse::<SourcePath>().is_err(), "{bad:?}");
        }
    }
}
