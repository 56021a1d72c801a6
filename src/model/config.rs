//! `fleetpack.yaml`: how a revision says what its release is.

mod helm;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use helm::{HelmConfig, TargetConfig};

use super::deployers::DeployersConfig;
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
    /// Where the manifests are, in order. Default: a root `kustomization.yaml`, else a root
    /// `Chart.yaml`, else every YAML file of the revision that holds Kubernetes objects.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceConfig>,
    /// What the clusters are like that will run the release: charts ask.
    #[serde(default, skip_serializing_if = "TargetConfig::is_default")]
    pub target: TargetConfig,
    /// Platforms to take of each image index. Default: all that the index has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<Platform>,
    /// What to do about images.
    #[serde(default, skip_serializing_if = "ImagesConfig::is_default")]
    pub images: ImagesConfig,
    /// What to do about Argo CD and Flux objects of the revision.
    #[serde(default, skip_serializing_if = "DeployersConfig::is_default")]
    pub deployers: DeployersConfig,
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
    /// The root of the revision.
    #[must_use]
    pub const fn root() -> Self {
        Self(None)
    }

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
    /// A Helm chart.
    Helm(Box<HelmConfig>),
}

impl<'de> Deserialize<'de> for SourceConfig {
    /// Reads the mapping by its fields, so that two of them, or none, are named in the error.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        struct Fields {
            kustomize: Option<SourcePath>,
            path: Option<SourcePath>,
            helm: Option<Box<HelmConfig>>,
        }
        let Fields { kustomize, path, helm } = Fields::deserialize(deserializer)?;
        let given = [
            kustomize.map(|folder| ("kustomize", Self::Kustomize(folder))),
            path.map(|path| ("path", Self::Path(path))),
            helm.map(|chart| ("helm", Self::Helm(chart))),
        ];
        let mut given = given.into_iter().flatten();
        match (given.next(), given.next()) {
            (Some((_, source)), None) => Ok(source),
            (Some((first, _)), Some((second, _))) => Err(D::Error::custom(format!(
                "`{first}` and `{second}` in one source, wanted a source for each"
            ))),
            (None, _) => {
                Err(D::Error::custom("an empty source, wanted one of `kustomize`, `path` and `helm`"))
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
            Self::Helm(helm) => write!(f, "helm: {}", helm.chart),
        }
    }
}

/// Which of the manifests that refer to an image travel with it (`docs/formats.md`, "What refers
/// to an image").
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Referrers {
    /// Signatures, attestations, SBOMs and whatever else there is, and what refers to them in turn.
    #[default]
    All,
    /// Signatures alone.
    Signatures,
    /// None: no site can check a signature of the image then.
    None,
}

/// What to do about images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImagesConfig {
    /// Images to carry although no manifest names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<ImageRef>,
    /// What looks like an image, or names one, and is not to be carried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<IgnoredImage>,
    /// What of that which refers to an image travels with it. Default: `all`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub referrers: Option<Referrers>,
}

/// A reference that is not to be carried, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IgnoredImage {
    /// The reference, or what stands in its place in the manifest. Without tag and digest it means
    /// every image of the repository; `*` stands for any characters.
    pub image: ImagePattern,
    /// Why the release does without it.
    pub reason: Reason,
}

/// Which references an entry of `images.ignore` is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, schemars::JsonSchema)]
pub struct ImagePattern(#[schemars(length(min = 1, max = 1024))] String);

impl ImagePattern {
    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is about the text of a manifest, which means `image` where it means one.
    #[must_use]
    pub fn matches(&self, text: &str, image: Option<&ImageRef>) -> bool {
        if glob(&self.0, text) {
            return true;
        }
        let Some(image) = image else { return false };
        if self.0.contains('*') {
            return glob(&self.0, &image.to_string()) || glob(&self.0, &image.name());
        }
        let Ok(pattern) = self.0.parse::<ImageRef>() else { return false };
        let last = self.0.rsplit('/').next().unwrap_or_default();
        pattern == *image || (!last.contains([':', '@']) && pattern.name() == image.name())
    }
}

/// Whether `text` is what `pattern` says, where `*` stands for any characters.
fn glob(pattern: &str, text: &str) -> bool {
    let (mut parts, mut rest) = (pattern.split('*'), text);
    let Some(after) = parts.next().and_then(|first| rest.strip_prefix(first)) else { return false };
    rest = after;
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

impl<'de> Deserialize<'de> for ImagePattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.len() > 1024 || text.chars().any(char::is_control) {
            return Err(D::Error::custom("`image` is longer than 1024 bytes or holds control characters"));
        }
        if text.chars().all(|c| c == '*' || c.is_whitespace()) {
            let why =
                format!("`image` is `{text}`, wanted a reference, or a pattern that says more than `*`");
            return Err(D::Error::custom(why));
        }
        Ok(Self(text))
    }
}

/// Why something is done without: a sentence for those who review it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, schemars::JsonSchema)]
pub struct Reason(#[schemars(length(min = 1, max = 1000))] String);

impl Reason {
    /// The sentence.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?.trim().to_owned();
        match text.len() {
            _ if !text.contains(char::is_alphanumeric) => {
                Err(D::Error::custom(format!("`reason` is `{text:.100}`, wanted a sentence that says why")))
            }
            ..=1000 => Ok(Self(text)),
            _ => Err(D::Error::custom("`reason` is longer than 1000 bytes")),
        }
    }
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

    #[test]
    fn what_an_ignored_image_means() {
        for (pattern, text, want) in [
            ("example.com/doc-only", "example.com/doc-only:1.0", true),
            ("example.com/doc-only", "example.com/doc-only2:1.0", false),
            ("nginx", "nginx:1.27", true),
            ("nginx", "docker.io/library/nginx:1.27", true),
            ("nginx:1.27", "docker.io/library/nginx:1.27", true),
            ("nginx:1.27", "nginx:1.28", false),
            ("registry.example.com:5000/a", "registry.example.com:5000/a:1", true),
            ("quay.io/*/debug*", "quay.io/shop/debug:1", true),
            ("quay.io/*/debug", "quay.io/shop/debug:1", true),
            ("quay.io/*:1", "quay.io/a/b:11", false),
            ("docker.io/*", "nginx:1", true),
            ("$(params.*)", "$(params.image)", true),
            ("a*a", "a", false),
        ] {
            let image = text.parse::<ImageRef>().ok();
            assert_eq!(
                ImagePattern(pattern.to_owned()).matches(text, image.as_ref()),
                want,
                "{pattern} {text}"
            );
        }
    }
}
