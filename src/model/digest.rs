//! Content digests (OCI Image Specification, "Digests").

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// A SHA-256 content digest, written `sha256:` and 64 lower-case hexadecimal digits.
///
/// Other algorithms are refused by name: one strong hash keeps every stored name one shape.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The algorithm is not the one this crate reads.
    #[error("digest `{found}` uses algorithm `{algorithm}`, wanted `sha256`")]
    Algorithm {
        /// The whole text.
        found: String,
        /// What stands before the colon.
        algorithm: String,
    },
    /// The text has not the shape of a digest.
    #[error("`{found}` is not a digest, wanted `sha256:` and 64 lower-case hexadecimal digits")]
    Shape {
        /// The whole text, cut to a readable length.
        found: String,
    },
}

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest with these raw bytes, as a hash function hands them out.
    #[must_use]
    pub const fn from_raw(raw: [u8; 32]) -> Self {
        Self(raw)
    }

    /// The raw 32 bytes.
    #[must_use]
    pub const fn as_raw(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hexadecimal digits without the algorithm: a blob's file name in an OCI layout.
    #[must_use]
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }

    /// The first twelve hexadecimal digits, for people.
    #[must_use]
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }

    /// Parses 64 lower-case hexadecimal digits.
    ///
    /// # Errors
    ///
    /// When `text` has another length or holds another character.
    pub fn from_hex(text: &str) -> Result<Self, DigestError> {
        let shape = || DigestError::Shape { found: text.chars().take(100).collect() };
        if text.len() != 64 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(shape());
        }
        let mut raw = [0; 32];
        hex::decode_to_slice(text, &mut raw).map_err(|_| shape())?;
        Ok(Self(raw))
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let found = || text.chars().take(100).collect::<String>();
        match text.split_once(':') {
            Some(("sha256", hex)) => Self::from_hex(hex).map_err(|_| DigestError::Shape { found: found() }),
            Some((algorithm @ ("sha512" | "sha384" | "blake3" | "md5" | "sha1"), _)) => {
                Err(DigestError::Algorithm { found: found(), algorithm: algorithm.to_owned() })
            }
            _ => Err(DigestError::Shape { found: found() }),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for Digest {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Digest".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^sha256:[0-9a-f]{64}$",
            "description": "SHA-256 content digest"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let digest = Digest::of(b"");
        let text = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.parse::<Digest>(), Ok(digest));
        assert_eq!(Digest::from_hex(&digest.hex()), Ok(digest));
    }

    #[test]
    fn refusals_name_what_was_found() {
        for (text, want) in [
            ("sha512:00", "digest `sha512:00` uses algorithm `sha512`, wanted `sha256`"),
            (
                "sha256:XY",
                "`sha256:XY` is not a digest, wanted `sha256:` and 64 lower-case hexadecimal digits",
            ),
            ("", "`` is not a digest, wanted `sha256:` and 64 lower-case hexadecimal digits"),
        ] {
            assert_eq!(text.parse::<Digest>().unwrap_err().to_string(), want);
        }
        let upper = format!("sha256:{}", "A".repeat(64));
        assert!(upper.parse::<Digest>().is_err());
    }
}
