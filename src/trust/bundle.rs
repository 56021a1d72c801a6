//! Sigstore bundles, version 0.3, with a message signature and a key: what is written, and the
//! strict reading of what was found (`sigstore_bundle.proto` of sigstore/protobuf-specs).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::keys::KeyError;
use super::private::PrivateKey;
use super::verify::Finding;
use crate::fsio::limits;
use crate::model::{Digest, media_type};

/// The one digest algorithm that is read and written.
const SHA256: &str = "SHA2_256";
/// A DER ECDSA P-256 signature takes at most 72 bytes.
const MAX_SIGNATURE: usize = 80;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    media_type: &'a str,
    verification_material: WrittenMaterial,
    message_signature: MessageSignature,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WrittenMaterial {
    public_key: Hint,
}

#[derive(Serialize, Deserialize)]
struct Hint {
    #[serde(default)]
    hint: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MessageSignature {
    message_digest: MessageDigest,
    signature: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MessageDigest {
    algorithm: String,
    digest: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Found {
    media_type: String,
    verification_material: FoundMaterial,
    message_signature: Option<MessageSignature>,
    dsse_envelope: Option<IgnoredAny>,
}

/// Log entries and timestamps may stand here; a key needs neither, and nothing is taken from them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FoundMaterial {
    public_key: Option<Hint>,
    certificate: Option<IgnoredAny>,
    x509_certificate_chain: Option<IgnoredAny>,
    #[serde(rename = "tlogEntries")]
    _tlog_entries: Option<IgnoredAny>,
    #[serde(rename = "timestampVerificationData")]
    _timestamp_verification_data: Option<IgnoredAny>,
}

/// What a bundle says, once its shape is right. Nothing of it is proven.
#[derive(Debug)]
pub(super) struct Claim {
    /// The key that it says it was made with; any text.
    pub hint: String,
    /// Digest of what was signed.
    pub digest: Digest,
    /// The signature, DER.
    pub signature: Vec<u8>,
}

/// Signs `manifest`, the bytes of a release manifest: a Sigstore bundle that `cosign verify-blob`
/// takes. All of it follows from key and manifest but the signature, which ECDSA draws at random.
///
/// # Errors
///
/// When the cryptographic library fails.
pub fn sign(manifest: &[u8], key: &PrivateKey) -> Result<Vec<u8>, KeyError> {
    let backend = |why: String| KeyError::Backend { what: "sign", why };
    let signature = key.pair().sign(manifest).map_err(|error| backend(error.to_string()))?;
    let bundle = Written {
        media_type: media_type::SIGSTORE_BUNDLE,
        verification_material: WrittenMaterial { public_key: Hint { hint: key.public().hint() } },
        message_signature: MessageSignature {
            message_digest: MessageDigest {
                algorithm: SHA256.to_owned(),
                digest: STANDARD.encode(Digest::of(manifest).as_raw()),
            },
            signature: STANDARD.encode(signature.as_bytes()),
        },
    };
    serde_json::to_vec(&bundle).map_err(|error| backend(error.to_string()))
}

impl Claim {
    /// Reads a bundle; what is not exactly a key's message signature over a SHA-256 digest is a finding.
    pub fn parse(bundle: &[u8]) -> Result<Self, Finding> {
        let malformed = |why: String| Finding::Malformed { why };
        if bundle.len() as u64 > limits::SIGNATURE_BUNDLE {
            let wanted = limits::SIGNATURE_BUNDLE;
            return Err(malformed(format!("{} bytes, wanted at most {wanted}", bundle.len())));
        }
        let found: Found = serde_json::from_slice(bundle).map_err(|error| malformed(error.to_string()))?;
        if found.media_type != media_type::SIGSTORE_BUNDLE {
            return Err(Finding::MediaType { found: found.media_type.chars().take(100).collect() });
        }
        if found.dsse_envelope.is_some() {
            return Err(Finding::Envelope);
        }
        let message = found.message_signature.ok_or_else(|| malformed("no `messageSignature`".to_owned()))?;
        let material = found.verification_material;
        if material.certificate.is_some() || material.x509_certificate_chain.is_some() {
            return Err(Finding::Certificate);
        }
        let hint = material.public_key.ok_or_else(|| malformed("no `publicKey`".to_owned()))?.hint;
        if message.message_digest.algorithm != SHA256 {
            let found = message.message_digest.algorithm.chars().take(60).collect();
            return Err(Finding::Algorithm { found });
        }
        let base64 = |what: &str, text: &str| {
            STANDARD.decode(text).map_err(|error| malformed(format!("the {what} is not base64: {error}")))
        };
        let digest: [u8; 32] = base64("digest", &message.message_digest.digest)?
            .try_into()
            .map_err(|bytes: Vec<u8>| malformed(format!("a digest of {} bytes, wanted 32", bytes.len())))?;
        let signature = base64("signature", &message.signature)?;
        if signature.is_empty() || signature.len() > MAX_SIGNATURE {
            return Err(malformed(format!(
                "a signature of {} bytes, wanted 1 to {MAX_SIGNATURE}",
                signature.len()
            )));
        }
        Ok(Self { hint, digest: Digest::from_raw(digest), signature })
    }
}
