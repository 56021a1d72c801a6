//! The door: bytes become [`Verified`] here and nowhere else.

use std::fmt;
use std::ops::Deref;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sigstore_crypto::{SigningScheme, VerificationKey};
use sigstore_types::SignatureBytes;

use super::bundle::Claim;
use super::keys::PublicKey;
use crate::archive::{ArchiveError, Head, Release};
use crate::fsio::limits;
use crate::model::{Digest, ErrorClass};

/// A value whose signature was checked. Only this room makes one.
#[derive(Debug, Clone)]
pub struct Verified<T> {
    value: T,
    signers: Vec<Signer>,
}

impl<T> Verified<T> {
    /// Who signed it: at least one, each key once, in the order of the keys that were given.
    #[must_use]
    pub fn signers(&self) -> &[Signer] {
        &self.signers
    }

    /// The value alone.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.value
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// A key whose signature was found good.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Signer {
    /// What the caller calls the key: the name of its file.
    pub key: String,
    /// SHA-256 of the key as DER `SubjectPublicKeyInfo`.
    pub fingerprint: Digest,
}

/// Why one signature does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// Not a bundle of the one shape that is read.
    #[error("not a Sigstore bundle of the kind wanted: {why}")]
    Malformed {
        /// What was found and what was wanted.
        why: String,
    },
    /// A bundle of another version.
    #[error("media type `{found}`, wanted `{}`", crate::model::media_type::SIGSTORE_BUNDLE)]
    MediaType {
        /// The media type found.
        found: String,
    },
    /// A DSSE envelope.
    #[error("a DSSE envelope, wanted a message signature")]
    Envelope,
    /// Made with a certificate.
    #[error("made with a certificate, which no key can verify")]
    Certificate,
    /// Another digest algorithm.
    #[error("digest algorithm `{found}`, wanted `SHA2_256`")]
    Algorithm {
        /// The algorithm found.
        found: String,
    },
    /// A signature over other bytes.
    #[error("signs `{found}`, wanted `{wanted}`")]
    OtherContent {
        /// Digest of what it signs.
        found: Digest,
        /// Digest of the release manifest.
        wanted: Digest,
    },
    /// A signature by a key that was not given.
    #[error("made with the key `{found}`")]
    OtherKey {
        /// What the bundle says about its key.
        found: String,
    },
    /// Names one of the keys given, but that key did not make it.
    #[error("does not verify, although it names the key `{key}` ({fingerprint})")]
    Broken {
        /// What the caller calls the key.
        key: String,
        /// The key's fingerprint.
        fingerprint: Digest,
    },
}

/// Why a release is not taken.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The caller named no key.
    #[error("no public key was given, and only a signature by a key that you name counts")]
    NoKeys,
    /// No signature at all.
    #[error("the release `{manifest}` is not signed")]
    Unsigned {
        /// Digest of the release manifest.
        manifest: Digest,
    },
    /// More signatures than are read.
    #[error("the release carries {found} signatures, wanted at most {}", limits::SIGNATURES)]
    TooMany {
        /// How many.
        found: usize,
    },
    /// A signature that names one of the keys does not verify: manifest or signature were changed.
    #[error("the signature of the release `{manifest}` {finding}")]
    Broken {
        /// Digest of the release manifest.
        manifest: Digest,
        /// What is wrong.
        finding: Finding,
    },
    /// The signatures are by other keys.
    #[error("the release `{manifest}` is signed with {}, wanted {}", list(found), list(wanted))]
    OtherKeys {
        /// Digest of the release manifest.
        manifest: Digest,
        /// What the bundles say about their keys.
        found: Vec<String>,
        /// The keys given.
        wanted: Vec<String>,
    },
    /// The signature is good, and what it binds breaks a rule.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// None of the signatures could be one of the wanted kind.
    #[error("no signature of the release `{manifest}` counts: {}", joined(findings))]
    Unusable {
        /// Digest of the release manifest.
        manifest: Digest,
        /// What is wrong with each.
        findings: Vec<Finding>,
    },
}

fn list(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn joined(findings: &[Finding]) -> String {
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl VerifyError {
    /// How the error ends the process.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NoKeys => ErrorClass::Usage,
            Self::Archive(error) => error.class(),
            _ => ErrorClass::Refused,
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(
            match self {
                Self::NoKeys => "name the key of whoever built the release with `--key FILE.pub`",
                Self::Unsigned { .. } => {
                    "sign it where the key is: `fleetpack sign ARCHIVE --key FILE.key`, or build it with `--key`"
                }
                Self::OtherKeys { .. } => {
                    "check with whoever built the release which key they used, by a way that the archive did not take"
                }
                Self::Broken { .. } => "the release was changed after it was signed: do not use it; fetch it again",
                Self::Archive(error) => return error.hint(),
                Self::TooMany { .. } | Self::Unusable { .. } => return None,
            }
            .to_owned(),
        )
    }
}

/// The door: checks the signatures of an archive's head, and only then parses what they bind.
///
/// # Errors
///
/// When no signature by one of `keys` counts, or what it binds breaks a rule of the format.
pub fn verify(head: Head, keys: &[PublicKey]) -> Result<Verified<Release>, VerifyError> {
    // 1. The manifest's bytes carry a good signature.
    let signers = verify_manifest(&head.manifest, &head.signatures, keys)?;
    // 2. The manifest binds the document, and the document all the rest.
    let value = head.parse()?;
    Ok(Verified { value, signers })
}

/// Checks the signatures `bundles` over `manifest`, the bytes of a release manifest. One good
/// signature by one of `keys` suffices; what else stands beside it proves nothing and is passed over.
///
/// # Errors
///
/// When no signature counts; the error says what was found and what was wanted.
pub fn verify_manifest(
    manifest: &[u8],
    bundles: &[Vec<u8>],
    keys: &[PublicKey],
) -> Result<Vec<Signer>, VerifyError> {
    let digest = Digest::of(manifest);
    // 1. There is something to check, something to check it with, and not too much of it.
    if keys.is_empty() {
        return Err(VerifyError::NoKeys);
    }
    if bundles.is_empty() {
        return Err(VerifyError::Unsigned { manifest: digest });
    }
    if bundles.len() > limits::SIGNATURES {
        return Err(VerifyError::TooMany { found: bundles.len() });
    }
    // 2. Each bundle is checked by itself.
    let mut good = vec![false; keys.len()];
    let mut findings = Vec::new();
    for bundle in bundles {
        match check(manifest, digest, bundle, keys) {
            Ok(key) => good[key] = true,
            Err(finding) => findings.push(finding),
        }
    }
    // 3. At least one key of ours made at least one of them.
    let signers: Vec<Signer> = keys
        .iter()
        .zip(&good)
        .filter(|(_, good)| **good)
        .map(|(key, _)| Signer { key: key.name().to_owned(), fingerprint: key.fingerprint() })
        .collect();
    if signers.is_empty() { Err(refusal(digest, findings, keys)) } else { Ok(signers) }
}

/// Checks one bundle; hands out the position of the key that made it.
fn check(manifest: &[u8], digest: Digest, bundle: &[u8], keys: &[PublicKey]) -> Result<usize, Finding> {
    // 2.1 Its shape: size, media type, a message signature, a key and no certificate, SHA-256.
    let claim = Claim::parse(bundle)?;
    // 2.2 It is about these bytes.
    if claim.digest != digest {
        return Err(Finding::OtherContent { found: claim.digest, wanted: digest });
    }
    // 2.3 The hint is not proven. It says which key to blame; every key is tried without it.
    let named = keys.iter().position(|key| key.hint() == claim.hint);
    let signature = SignatureBytes::new(claim.signature);
    let candidates = named.map_or(0..keys.len(), |at| at..at + 1);
    // 2.4 ECDSA P-256 over the SHA-256 of the manifest's own bytes.
    for at in candidates {
        let key = VerificationKey::from_spki_with_scheme(keys[at].der(), SigningScheme::EcdsaP256Sha256);
        if key.is_ok_and(|key| key.verify(manifest, &signature).is_ok()) {
            return Ok(at);
        }
    }
    Err(match named.map(|at| &keys[at]) {
        Some(key) => Finding::Broken { key: key.name().to_owned(), fingerprint: key.fingerprint() },
        None => Finding::OtherKey { found: spoken(&claim.hint) },
    })
}

/// The error that helps most: a changed release before a foreign key, a foreign key before the rest.
fn refusal(manifest: Digest, findings: Vec<Finding>, keys: &[PublicKey]) -> VerifyError {
    if let Some(finding) = findings.iter().find(|finding| matches!(finding, Finding::Broken { .. })) {
        return VerifyError::Broken { manifest, finding: finding.clone() };
    }
    let found: Vec<String> = findings
        .iter()
        .filter_map(|finding| match finding {
            Finding::OtherKey { found } => Some(found.clone()),
            _ => None,
        })
        .collect();
    if found.is_empty() {
        return VerifyError::Unusable { manifest, findings };
    }
    let wanted = keys.iter().map(|key| format!("{} ({})", key.fingerprint(), key.name())).collect();
    VerifyError::OtherKeys { manifest, found, wanted }
}

/// A hint as a person compares it: the fingerprint where it is one, else its text, made harmless.
fn spoken(hint: &str) -> String {
    if let Ok(raw) = STANDARD.decode(hint)
        && let Ok(raw) = <[u8; 32]>::try_from(raw)
    {
        return Digest::from_raw(raw).to_string();
    }
    let text: String = hint.chars().filter(|c| !c.is_control()).take(100).collect();
    if text.is_empty() { "unnamed".to_owned() } else { text }
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.key, self.fingerprint)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{NewKeyPair, PrivateKey, sign};
    use super::*;

    const MANIFEST: &[u8] = br#"{"schemaVersion":2}"#;

    fn key(name: &str) -> PrivateKey {
        NewKeyPair::generate(name, b"").unwrap().key
    }

    fn refused(manifest: &[u8], bundles: &[Vec<u8>], keys: &[PublicKey]) -> VerifyError {
        let error = verify_manifest(manifest, bundles, keys).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Refused);
        error
    }

    #[test]
    fn one_good_signature_by_one_key_suffices() {
        let (ours, theirs) = (key("ours.pub"), key("theirs.pub"));
        let bundles = vec![sign(MANIFEST, &theirs).unwrap(), sign(MANIFEST, &ours).unwrap(), b"{}".to_vec()];
        let signers = verify_manifest(MANIFEST, &bundles, &[ours.public().clone()]).unwrap();
        assert_eq!(signers[0].key, "ours.pub");
        assert_eq!(signers[0].fingerprint, ours.public().fingerprint());
        let both = [ours.public().clone(), theirs.public().clone()];
        assert_eq!(verify_manifest(MANIFEST, &bundles, &both).unwrap().len(), 2);
        // A hint is no proof, and its absence no obstacle.
        let text = String::from_utf8(bundles[1].clone()).unwrap();
        let nameless = text.replace(&ours.public().hint(), "kms://release").into_bytes();
        assert_eq!(verify_manifest(MANIFEST, &[nameless], &both).unwrap()[0].key, "ours.pub");
    }

    #[test]
    fn each_refusal_says_what_it_is() {
        let (ours, theirs) = (key("ours.pub"), key("theirs.pub"));
        let keys = [ours.public().clone()];
        assert!(matches!(refused(MANIFEST, &[], &keys), VerifyError::Unsigned { .. }));
        let good = sign(MANIFEST, &ours).unwrap();
        let error = refused(MANIFEST, &vec![good.clone(); 17], &keys);
        assert!(matches!(error, VerifyError::TooMany { found: 17 }));
        assert_eq!(verify_manifest(MANIFEST, &vec![good.clone(); 16], &keys).unwrap().len(), 1);

        let error = refused(MANIFEST, &[sign(MANIFEST, &theirs).unwrap()], &keys);
        let message = error.to_string();
        assert!(message.contains(&theirs.public().fingerprint().to_string()), "{message}");
        assert!(message.contains(&format!("{} (ours.pub)", ours.public().fingerprint())), "{message}");

        // Another release's good signature.
        let error = refused(b"other", std::slice::from_ref(&good), &keys).to_string();
        assert!(
            error.contains("signs `sha256:") && error.contains(&Digest::of(b"other").to_string()),
            "{error}"
        );

        // Their signature under our name.
        let text = String::from_utf8(sign(MANIFEST, &theirs).unwrap()).unwrap();
        let forged = text.replace(&theirs.public().hint(), &ours.public().hint()).into_bytes();
        let error = refused(MANIFEST, &[forged], &keys);
        assert!(matches!(error, VerifyError::Broken { .. }), "{error}");

        assert!(matches!(verify_manifest(MANIFEST, &[good], &[]), Err(VerifyError::NoKeys)));
    }

    #[test]
    fn only_the_one_shape_is_read() {
        let ours = key("ours.pub");
        let keys = [ours.public().clone()];
        let good = String::from_utf8(sign(MANIFEST, &ours).unwrap()).unwrap();
        for (from, to, want) in [
            ("bundle.v0.3+json", "bundle+json;version=0.1", "media type `"),
            ("SHA2_256", "SHA2_512", "digest algorithm `SHA2_512`"),
            ("SHA2_256", "sha256", "digest algorithm `sha256`"),
            ("\"messageSignature\"", "\"dsseEnvelope\":{},\"messageSignature\"", "a DSSE envelope"),
            ("\"messageSignature\"", "\"extra\":1,\"messageSignature\"", "unknown field `extra`"),
            ("\"publicKey\"", "\"certificate\":{\"rawBytes\":\"\"},\"publicKey\"", "made with a certificate"),
            ("{\"publicKey\":{", "{\"certificate\":{\"rawBytes\":\"\"},\"x\":{", "unknown field `x`"),
            ("\"publicKey\"", "\"x509CertificateChain\":{},\"publicKey\"", "made with a certificate"),
            ("\"publicKey\"", "\"publicKey\":{},\"publicKey\"", "duplicate field `publicKey`"),
            ("\"digest\":\"", "\"digest\":\"AAAA", "a digest of 35 bytes"),
            ("\"signature\":\"", "\"signature\":\"!", "the signature is not base64"),
            ("\"mediaType\"", "\"mediaTyp\"", "unknown field `mediaTyp`"),
            ("}}", "}} {}", "trailing characters"),
        ] {
            let at = if from == "}}" { good.rfind(from) } else { good.find(from) }.unwrap();
            let changed = format!("{}{to}{}", &good[..at], &good[at + from.len()..]);
            let message = refused(MANIFEST, &[changed.into_bytes()], &keys).to_string();
            assert!(message.contains(want), "{message}, wanted {want}");
        }
        let padded = format!("{good}{}", " ".repeat(50_000)).into_bytes();
        assert!(refused(MANIFEST, &[padded], &keys).to_string().contains("wanted at most 49152"));
        // Log entries are allowed and prove nothing.
        let logged = good.replacen("\"publicKey\"", "\"tlogEntries\":[{}],\"publicKey\"", 1).into_bytes();
        verify_manifest(MANIFEST, &[logged], &keys).unwrap();
        // Deep nesting ends in an error, not in the stack.
        let deep = format!("{{\"mediaType\":{}", "[".repeat(40_000)).into_bytes();
        refused(MANIFEST, &[deep], &keys);
    }

    #[test]
    fn no_flipped_bit_of_the_manifest_or_the_signature_passes() {
        let ours = key("ours.pub");
        let keys = [ours.public().clone()];
        let bundle = sign(MANIFEST, &ours).unwrap();
        for at in 0..MANIFEST.len() * 8 {
            let mut manifest = MANIFEST.to_vec();
            manifest[at / 8] ^= 1 << (at % 8);
            refused(&manifest, std::slice::from_ref(&bundle), &keys);
        }
        let claim = Claim::parse(&bundle).unwrap();
        let text = String::from_utf8(bundle).unwrap();
        let old = STANDARD.encode(&claim.signature);
        for at in 0..claim.signature.len() * 8 {
            let mut signature = claim.signature.clone();
            signature[at / 8] ^= 1 << (at % 8);
            let changed = text.replace(&old, &STANDARD.encode(signature)).into_bytes();
            let error = refused(MANIFEST, &[changed], &keys);
            assert!(matches!(error, VerifyError::Broken { .. }), "{error}");
        }
    }
}
