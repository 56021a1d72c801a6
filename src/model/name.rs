//! Names of releases, versions and Git objects, as types.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not a {kind}, wanted {wanted}")]
pub struct NameError {
    /// The whole text, cut to a readable length.
    pub found: String,
    /// What it was to be.
    pub kind: &'static str,
    /// The rule it breaks.
    pub wanted: &'static str,
}

/// Makes a string type whose only constructor is a check.
macro_rules! checked_name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $wanted:literal, $pattern:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> bool = $check;
                if check(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(NameError { found: text.chars().take(100).collect(), kind: $kind, wanted: $wanted })
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": $pattern, "description": $wanted })
            }
        }
    };
}

checked_name!(
    /// The name of a line of releases: part of file names, repository paths and labels, so a DNS label.
    ReleaseName,
    "release name",
    "1 to 52 lower-case letters, digits and `-`, beginning and ending with a letter or digit",
    "^[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?$",
    |text| {
        (1..=52).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-')
    }
);

checked_name!(
    /// The version of a release: part of file names and image tags.
    ReleaseVersion,
    "release version",
    "1 to 100 letters, digits, `.`, `_`, `+` and `-`, beginning with a letter or digit",
    "^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$",
    |text| {
        (1..=100).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-".contains(&b))
            && text.as_bytes()[0].is_ascii_alphanumeric()
            && !text.contains("..")
    }
);

impl ReleaseName {
    /// The name under which a repository called `text` (the last part of its URL) is served beside a
    /// release: in lower case, everything else that a name does not take turned into `-`.
    #[must_use]
    pub fn of_repository(text: &str) -> Self {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let name: String = text.trim_end_matches(".git").chars().map(plain).collect();
        let name: String = name.trim_matches('-').chars().take(48).collect();
        let name = name.trim_end_matches('-');
        Self(if name.is_empty() { "repository".to_owned() } else { name.to_owned() })
    }
}

impl ReleaseVersion {
    /// The version as an OCI tag, which knows no `+`: build metadata is set off by `_`, as Helm does.
    #[must_use]
    pub fn as_tag(&self) -> String {
        self.0.replace('+', "_")
    }
}

checked_name!(
    /// A full Git reference below `refs/heads/` or `refs/tags/` (git-check-ref-format), no part
    /// of which begins with `-`, so that it can never be read as an option.
    RefName,
    "Git reference",
    "a name below `refs/heads/` or `refs/tags/` as git-check-ref-format allows, no part beginning with `-`",
    "^refs/(heads|tags)/",
    |text| {
        let Some(rest) = text.strip_prefix("refs/heads/").or_else(|| text.strip_prefix("refs/tags/")) else {
            return false;
        };
        text.len() <= 255
            && !rest.is_empty()
            && rest != "@"
            && !rest.contains("..")
            && !rest.contains("@{")
            && !rest.ends_with('.')
            && !rest.bytes().any(|b| b <= b' ' || b == 0x7f || b"~^:?*[\\".contains(&b))
            && rest.split('/').all(|part| {
                !part.is_empty()
                    && !part.starts_with('.')
                    && !part.starts_with('-')
                    && !part.strip_suffix(".lock").is_some_and(|_| true)
            })
    }
);

impl RefName {
    /// The short name: `main` of `refs/heads/main`.
    #[must_use]
    pub fn short(&self) -> &str {
        self.0.strip_prefix("refs/heads/").or_else(|| self.0.strip_prefix("refs/tags/")).unwrap_or(&self.0)
    }

    /// Whether the reference is a branch.
    #[must_use]
    pub fn is_branch(&self) -> bool {
        self.0.starts_with("refs/heads/")
    }
}

checked_name!(
    /// The name of a Git object in a SHA-1 repository: 40 lower-case hexadecimal digits.
    GitOid,
    "Git object name",
    "40 lower-case hexadecimal digits",
    "^[0-9a-f]{40}$",
    |text| text.len() == 40 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
);

checked_name!(
    /// The name of a Helm release, as Helm takes it.
    HelmReleaseName,
    "Helm release name",
    "1 to 53 lower-case letters, digits, `-` and `.`, each part beginning and ending with a letter or digit",
    "^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$",
    |text| (1..=53).contains(&text.len()) && text.split('.').all(is_label)
);

checked_name!(
    /// The name of a namespace of a cluster (RFC 1123, a label).
    Namespace,
    "namespace",
    "1 to 63 lower-case letters, digits and `-`, beginning and ending with a letter or digit",
    "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
    |text| text.len() <= 63 && is_label(text)
);

impl Default for Namespace {
    /// The namespace where things go when nothing is said.
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl From<ReleaseName> for HelmReleaseName {
    fn from(name: ReleaseName) -> Self {
        Self(name.0)
    }
}

checked_name!(
    /// A version of Kubernetes, as charts ask for it: `1.33`, `v1.33.2+k3s1`.
    KubeVersion,
    "version of Kubernetes",
    "such as `1.33` or `v1.33.2`",
    "^v?[0-9]+\\.[0-9]+(\\.[0-9]+)?([-+][0-9A-Za-z.+-]+)?$",
    |text| {
        let number = text.strip_prefix('v').unwrap_or(text);
        let (core, rest) = number.split_at(number.find(['-', '+']).unwrap_or(number.len()));
        let parts: Vec<_> = core.split('.').collect();
        text.len() <= 64
            && (2..=3).contains(&parts.len())
            && parts.iter().all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
            && rest.len() != 1
            && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b".+-".contains(&b))
    }
);

checked_name!(
    /// An API that a cluster serves, as charts ask for it: `batch/v1`, `monitoring.coreos.com/v1/PodMonitor`.
    KubeApi,
    "Kubernetes API",
    "GROUP/VERSION or GROUP/VERSION/KIND, such as `batch/v1/CronJob`",
    "^[A-Za-z0-9.-]+(/[A-Za-z0-9.-]+){0,2}$",
    |text| {
        text.len() <= 320
            && !text.starts_with('-')
            && text.split('/').count() <= 3
            && text.split('/').all(|part| {
                !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b".-".contains(&b))
            })
    }
);

/// Whether `text` is a label of a domain name, without regard to its length.
fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_climb_or_confuse_are_refused() {
        for bad in ["", "Shop", "-shop", "shop-", "../shop", "a/b", "a.b", &"x".repeat(53)] {
            assert!(bad.parse::<ReleaseName>().is_err(), "{bad}");
        }
        for bad in ["", "../1", "1/2", "-1", ".1", "1..2", "1 2", "1\n"] {
            assert!(bad.parse::<ReleaseVersion>().is_err(), "{bad}");
        }
        for bad in [
            "main",
            "refs/heads/",
            "refs/notes/x",
            "refs/heads/-x",
            "refs/heads/a/../b",
            "refs/heads/a//b",
            "refs/heads/a.lock",
            "refs/heads/.a",
            "refs/heads/a~1",
            "refs/heads/a b",
            "refs/heads/@",
        ] {
            assert!(bad.parse::<RefName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_helm_is_told_is_checked() {
        for bad in ["", "Shop", "-x", "x-", "a..b", "a.-b", "a b", &"x".repeat(54)] {
            assert!(bad.parse::<HelmReleaseName>().is_err(), "{bad}");
        }
        assert!("my.shop-2".parse::<HelmReleaseName>().is_ok());
        assert!("my.shop".parse::<Namespace>().is_err());
        for bad in ["", "1", "v1", "1.x", "1.33.", "1.33.1.1", "1.33-", "1.33 ", "--help"] {
            assert!(bad.parse::<KubeVersion>().is_err(), "{bad}");
        }
        for good in ["1.33", "v1.33.2", "1.33.2+k3s1", "v1.30.0-eks-1234"] {
            assert!(good.parse::<KubeVersion>().is_ok(), "{good}");
        }
        for bad in ["", "a,b", "/v1", "a/b/c/d", "-a"] {
            assert!(bad.parse::<KubeApi>().is_err(), "{bad}");
        }
        assert!("monitoring.coreos.com/v1/PodMonitor".parse::<KubeApi>().is_ok());
    }

    #[test]
    fn honest_names_pass() {
        assert_eq!("shop-2".parse::<ReleaseName>().unwrap().as_str(), "shop-2");
        assert_eq!("1.4.2+build.7".parse::<ReleaseVersion>().unwrap().as_tag(), "1.4.2_build.7");
        assert_eq!("refs/heads/feature/x".parse::<RefName>().unwrap().short(), "feature/x");
    }
}
