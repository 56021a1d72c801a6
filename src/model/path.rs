//! Relative paths that cannot leave the folder they are joined to.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A relative path of plain components, separated by `/`.
///
/// Refused are absolute and climbing paths and every name that some file system reads in
/// another way: backslashes, colons, control characters, a trailing dot or space.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SafePath(String);

/// Why a text is not a safe path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("path `{found}` {why}")]
pub struct PathError {
    /// The whole text, cut to a readable length.
    pub found: String,
    /// The rule it breaks.
    pub why: &'static str,
}

impl SafePath {
    /// The path as text, `/` between components.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path below `folder`.
    #[must_use]
    pub fn below(&self, folder: &Path) -> PathBuf {
        folder.join(&self.0)
    }
}

impl FromStr for SafePath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        let refuse = |why| Err(PathError { found: text.chars().take(200).collect(), why });
        if text.is_empty() {
            return refuse("is empty");
        }
        if text.len() > 4096 {
            return refuse("is longer than 4096 bytes");
        }
        if text.starts_with('/') {
            return refuse("is absolute");
        }
        if text.bytes().any(|b| b < b' ' || b == 0x7f || b == b'\\' || b == b':') {
            return refuse("holds a backslash, a colon or a control character");
        }
        for part in text.split('/') {
            match part {
                "" => return refuse("has an empty component"),
                "." | ".." => return refuse("has a `.` or `..` component"),
                _ if part.len() > 255 => return refuse("has a component longer than 255 bytes"),
                _ if part.ends_with('.') || part.ends_with(' ') => {
                    return refuse("has a component that ends with a dot or a space");
                }
                _ => {}
            }
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for SafePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for SafePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SafePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for SafePath {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SafePath".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "minLength": 1,
            "description": "relative path below the root of the revision, without `.` or `..` components"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn climbing_and_disguised_paths_are_refused() {
        for bad in [
            "", "/etc", "a/../b", "..", "./a", "a//b", "a/", "a\\b", "C:a", "a/b.", "a /b ", "a\u{0}b",
            "a\nb",
        ] {
            assert!(bad.parse::<SafePath>().is_err(), "{bad:?}");
        }
        for good in ["a", "a/b.yaml", "deploy/overlays/site", ".github/x", "ä/ö"] {
            assert_eq!(good.parse::<SafePath>().unwrap().as_str(), good);
        }
    }
}
