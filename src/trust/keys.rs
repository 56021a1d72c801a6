//! Public keys, and what can be wrong with a key.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sigstore_crypto::KeyAlgorithm;
use sigstore_types::DerPublicKey;
use zeroize::Zeroizing;

use crate::fsio::limits;
use crate::model::{Digest, ErrorClass};

/// The DER of every uncompressed P-256 `SubjectPublicKeyInfo` before its point (RFC 5480, section 2).
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Length of an uncompressed P-256 point (SEC 1, section 2.3.3).
const POINT: usize = 65;

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file could not be read or written.
    #[error("cannot {what} the key file `{}`", path.display())]
    Io {
        /// `read` or `write`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file that would be written is there already.
    #[error("`{}` exists, and a key file is never overwritten", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The bytes are no key file.
    #[error("key `{name}`: {why}")]
    Shape {
        /// What the caller calls the key.
        name: String,
        /// What was found and what was wanted.
        why: String,
    },
    /// A key, but not of the kind that is wanted.
    #[error("key `{name}` is {found}, wanted {wanted}")]
    Kind {
        /// What the caller calls the key.
        name: String,
        /// What it is.
        found: String,
        /// What it must be.
        wanted: &'static str,
    },
    /// An encrypted key, and no password was given.
    #[error("key `{name}` is encrypted, and no password was given")]
    PasswordMissing {
        /// What the caller calls the key.
        name: String,
    },
    /// The password does not open the key.
    #[error("the password does not open key `{name}`")]
    Password {
        /// What the caller calls the key.
        name: String,
    },
    /// The cryptographic library failed.
    #[error("cannot {what}: {why}")]
    Backend {
        /// What was to be done.
        what: &'static str,
        /// What the library says.
        why: String,
    },
}

impl KeyError {
    /// How the error ends the process.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::PasswordMissing { .. } => ErrorClass::Usage,
            _ => ErrorClass::Failed,
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Exists { .. } => {
                Some("name another prefix with `--output-key-prefix`, or move the old pair away".to_owned())
            }
            Self::Kind { wanted: PUBLIC, .. } => Some(
                "`fleetpack keygen` and `cosign generate-key-pair` write such a key to a `.pub` file"
                    .to_owned(),
            ),
            Self::Kind { .. } => Some(
                "`fleetpack keygen` and `cosign generate-key-pair` write such a key to a `.key` file"
                    .to_owned(),
            ),
            Self::PasswordMissing { .. } => {
                Some("set `COSIGN_PASSWORD`, or run the command where it can ask for the password".to_owned())
            }
            _ => None,
        }
    }
}

/// What a public key must be.
pub(super) const PUBLIC: &str = "an ECDSA P-256 public key in PEM";
/// What a private key must be.
pub(super) const PRIVATE: &str = "an ECDSA P-256 private key in PEM";

/// An ECDSA P-256 public key, which signatures are checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    name: String,
    der: DerPublicKey,
    fingerprint: Digest,
}

impl PublicKey {
    /// Parses a PEM file with one `PUBLIC KEY`, as `cosign.pub` is one. `name` is what errors and
    /// reports call the key: the name of its file.
    ///
    /// # Errors
    ///
    /// When it is anything else than an ECDSA P-256 public key; the error says what it is.
    pub fn parse(name: &str, text: &[u8]) -> Result<Self, KeyError> {
        let blocks = pem_blocks(name, text)?;
        let kind = |found: String| KeyError::Kind { name: name.to_owned(), found, wanted: PUBLIC };
        let [block] = blocks.as_slice() else {
            return Err(kind(format!("a file of {} PEM blocks", blocks.len())));
        };
        match block.tag() {
            "PUBLIC KEY" => {}
            tag if tag.ends_with("PRIVATE KEY") => return Err(kind("a private key".to_owned())),
            "CERTIFICATE" => return Err(kind("a certificate".to_owned())),
            "RSA PUBLIC KEY" => return Err(kind("an RSA public key".to_owned())),
            tag => return Err(kind(format!("a PEM file of `{}`", tag.chars().take(60).collect::<String>()))),
        }
        Self::from_der(name, block.contents())
    }

    /// Takes a DER `SubjectPublicKeyInfo`.
    pub(super) fn from_der(name: &str, bytes: &[u8]) -> Result<Self, KeyError> {
        let kind =
            |found: &str| KeyError::Kind { name: name.to_owned(), found: found.to_owned(), wanted: PUBLIC };
        let der = DerPublicKey::from_bytes(bytes);
        match KeyAlgorithm::from_spki(&der) {
            Ok(KeyAlgorithm::EcdsaP256) => {}
            Ok(KeyAlgorithm::EcdsaP384) => return Err(kind("an ECDSA P-384 public key")),
            Ok(KeyAlgorithm::Ed25519) => return Err(kind("an Ed25519 public key")),
            Ok(KeyAlgorithm::Rsa) => return Err(kind("an RSA public key")),
            Ok(other) => return Err(kind(&format!("a public key of {other:?}"))),
            Err(error) => {
                return Err(KeyError::Shape {
                    name: name.to_owned(),
                    why: format!("{error}, wanted {PUBLIC}"),
                });
            }
        }
        // One key has one encoding, so that one key has one fingerprint.
        let Some(point) =
            bytes.strip_prefix(&SPKI_PREFIX).filter(|point| point.len() == POINT && point[0] == 4)
        else {
            return Err(kind("an ECDSA P-256 public key in another encoding than the uncompressed one"));
        };
        if ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).is_err() {
            return Err(kind("no point of the curve P-256"));
        }
        Ok(Self { name: name.to_owned(), der, fingerprint: Digest::of(bytes) })
    }

    /// Reads a public key from `path`; the key is called by the file's name.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or as [`PublicKey::parse`].
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        Self::parse(&path.to_string_lossy(), &read_key_file(path)?)
    }

    /// What the caller calls the key.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 of the key as DER `SubjectPublicKeyInfo`.
    #[must_use]
    pub const fn fingerprint(&self) -> Digest {
        self.fingerprint
    }

    /// What a Sigstore bundle names the key by, as cosign does: the fingerprint in base64.
    #[must_use]
    pub fn hint(&self) -> String {
        STANDARD.encode(self.fingerprint.as_raw())
    }

    /// The key as a PEM file.
    #[must_use]
    pub fn to_pem(&self) -> String {
        encode_pem("PUBLIC KEY", self.der.as_bytes().to_vec())
    }

    pub(super) const fn der(&self) -> &DerPublicKey {
        &self.der
    }
}

/// Reads a key file, bounded.
pub(super) fn read_key_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let io = |source| KeyError::Io { what: "read", path: path.to_owned(), source };
    // Room for all of it at once: a growing vector would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity((64 << 10) + 2));
    File::open(path).map_err(io)?.take(limits::KEY_FILE + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > limits::KEY_FILE {
        let why = format!("longer than {} bytes, which no key file is", limits::KEY_FILE);
        return Err(KeyError::Shape { name: path.to_string_lossy().into_owned(), why });
    }
    Ok(bytes)
}

/// The PEM blocks of a key file; at least one.
pub(super) fn pem_blocks(name: &str, text: &[u8]) -> Result<Vec<pem::Pem>, KeyError> {
    let shape = |why: String| KeyError::Shape { name: name.to_owned(), why };
    if text.len() as u64 > limits::KEY_FILE {
        return Err(shape(format!("longer than {} bytes, which no key file is", limits::KEY_FILE)));
    }
    let blocks = pem::parse_many(text).map_err(|error| shape(format!("not a PEM file: {error}")))?;
    if blocks.is_empty() {
        return Err(shape("not a PEM file: holds no `-----BEGIN …-----`".to_owned()));
    }
    Ok(blocks)
}

/// A PEM file of one block, lines as cosign and openssl write them.
pub(super) fn encode_pem(tag: &str, contents: Vec<u8>) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(tag, contents), config)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COSIGN: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEfVwrEcarp1B4/S/551n8bIjoQ6E4
h4j+QqvBCnplcsb8CKkjMagOaJOis2Uh2ym0LPOqbiN/NakF3bjGXFeLIw==
-----END PUBLIC KEY-----
";

    #[test]
    fn reads_and_writes_what_cosign_writes() {
        let key = PublicKey::parse("cosign.pub", COSIGN.as_bytes()).unwrap();
        assert_eq!(key.to_pem(), COSIGN);
        assert_eq!(key.hint(), "SWd6WeCUmQAV79keiHFOs83F1IV1Q8K+FLYpjBdCuT4=");
        let windows = COSIGN.replace('\n', "\r\n");
        assert_eq!(PublicKey::parse("cosign.pub", windows.as_bytes()).unwrap(), key);
    }

    #[test]
    fn other_keys_are_refused_by_name() {
        // An Ed25519 key is its prefix (RFC 8410) and any 32 bytes.
        let ed25519 =
            [&[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00][..], &[7; 32]]
                .concat();
        let off_curve = [&SPKI_PREFIX[..], &[4], &[1; 64]].concat();
        let mut compressed = [&SPKI_PREFIX[..], &[2], &[1; 32]].concat();
        (compressed[1], compressed[24]) = (0x39, 0x22);
        for (text, want) in [
            ("", "not a PEM file"),
            ("ssh-ed25519 AAAA", "not a PEM file"),
            (&COSIGN.repeat(2), "a file of 2 PEM blocks"),
            (
                &COSIGN.replace("PUBLIC", "ENCRYPTED SIGSTORE PRIVATE"),
                "is a private key, wanted an ECDSA P-256 public",
            ),
            (&COSIGN.replace("PUBLIC KEY", "CERTIFICATE"), "is a certificate"),
            (&COSIGN.replace("MFkw", "AFkw"), "wanted an ECDSA P-256 public key"),
            (&encode_pem("PUBLIC KEY", ed25519), "is an Ed25519 public key"),
            (&encode_pem("PUBLIC KEY", off_curve), "is no point of the curve"),
            (&encode_pem("PUBLIC KEY", compressed), "in another encoding"),
            (&"x".repeat(70_000), "longer than 65536 bytes"),
        ] {
            let message = PublicKey::parse("site.pub", text.as_bytes()).unwrap_err().to_string();
            assert!(message.contains(want) && message.contains("`site.pub`"), "{message}, wanted {want}");
        }
    }
}
