//! Platforms of images, written `os/architecture[/variant]`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A platform as `--platform` takes it and an index lists it (OCI Image Specification, "Image Index").
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    /// Operating system, such as `linux`.
    pub os: String,
    /// Architecture in Go's terms, such as `amd64`.
    pub architecture: String,
    /// Variant of the architecture, such as `v8`.
    pub variant: Option<String>,
}

/// Why a text is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not a platform, wanted `os/architecture[/variant]` such as `linux/amd64`")]
pub struct PlatformError {
    /// The whole text.
    pub found: String,
}

impl Platform {
    /// Whether an image of platform `image` serves a request for `self`: the same system and
    /// architecture, and the same variant where the request names one.
    #[must_use]
    pub fn takes(&self, image: &Self) -> bool {
        // arm64 without a variant and arm64/v8 are the same machine: registries hold both spellings.
        let variant = |platform: &Self| match (platform.architecture.as_str(), platform.variant.as_deref()) {
            ("arm64", None) => Some("v8".to_owned()),
            (_, variant) => variant.map(str::to_owned),
        };
        self.os == image.os
            && self.architecture == image.architecture
            && (self.variant.is_none() || variant(self) == variant(image))
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let error = || PlatformError { found: text.to_owned() };
        let mut parts = text.split('/');
        let mut next = || match parts.next() {
            Some(part)
                if !part.is_empty()
                    && part.len() <= 64
                    && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) =>
            {
                Ok(Some(part.to_owned()))
            }
            Some(_) => Err(error()),
            None => Ok(None),
        };
        let os = next()?.ok_or_else(error)?;
        let architecture = next()?.ok_or_else(error)?;
        let variant = next()?;
        if next()?.is_some() {
            return Err(error());
        }
        Ok(Self { os, architecture, variant })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl Serialize for Platform {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Platform {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for Platform {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Platform".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)?$",
            "description": "os/architecture[/variant], such as linux/amd64"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_matches() {
        let platform = |text: &str| text.parse::<Platform>().unwrap();
        assert!(platform("linux/amd64").takes(&platform("linux/amd64")));
        assert!(platform("linux/arm64").takes(&platform("linux/arm64/v8")));
        assert!(platform("linux/arm64/v8").takes(&platform("linux/arm64")));
        assert!(!platform("linux/arm/v6").takes(&platform("linux/arm/v7")));
        for bad in ["", "linux", "linux/", "/amd64", "linux/a/b/c", "linux/am d64"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }
}
