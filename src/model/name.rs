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
    fn honest_names_pass() {
        assert_eq!("shop-2".parse::<ReleaseName>().unwrap().as_str(), "shop-2");
        assert_eq!("1.4.2+build.7".parse::<ReleaseVersion>().unwrap().as_tag(), "1.4.2_build.7");
        assert_eq!("refs/heads/feature/x".parse::<RefName>().unwrap().short(), "feature/x");
    }
}
