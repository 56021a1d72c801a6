//! Private keys: made, read, written; the encrypted file is cosign's own.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crypto_secretbox::aead::AeadInPlace as _;
use crypto_secretbox::{Key, KeyInit as _, Nonce, XSalsa20Poly1305};
use serde::{Deserialize, Serialize};
use sigstore_crypto::KeyPair;
use zeroize::Zeroizing;

use super::keys::{KeyError, PRIVATE, PublicKey, encode_pem, pem_blocks, read_key_file};
use crate::fsio::sync_folder;

/// What cosign 2 and 3 write.
const TAG: &str = "ENCRYPTED SIGSTORE PRIVATE KEY";
/// What cosign 1 wrote.
const TAG_OLD: &str = "ENCRYPTED COSIGN PRIVATE KEY";
const KDF: &str = "scrypt";
const CIPHER: &str = "nacl/secretbox";
/// What cosign writes: 64 MiB of memory.
const COST: Cost = Cost { n: 1 << 16, r: 8, p: 1 };
/// Memory that reading a key may take: four times what cosign asks for.
const MAX_MEMORY: u64 = 256 << 20;
/// Work that reading a key may take, in the unit of `MAX_MEMORY`.
const MAX_WORK: u64 = 1 << 30;
const SALT: usize = 32;
const NONCE: usize = 24;
/// A PKCS#8 P-256 key takes 138 bytes and the authenticator 16.
const MAX_CIPHERTEXT: usize = 8 << 10;

/// An ECDSA P-256 private key that is ready to sign.
pub struct PrivateKey {
    pair: KeyPair,
    public: PublicKey,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey").field("public", &self.public).finish_non_exhaustive()
    }
}

impl PrivateKey {
    fn from_pkcs8(name: &str, der: &[u8]) -> Result<Self, KeyError> {
        let shape = |why: String| KeyError::Shape { name: name.to_owned(), why };
        let pair = KeyPair::from_pkcs8_der(der).map_err(|error| shape(format!("not {PRIVATE}: {error}")))?;
        let public = pair.public_key_der().map_err(|error| shape(error.to_string()))?;
        let public = PublicKey::from_der(name, public.as_bytes())?;
        Ok(Self { pair, public })
    }

    /// The public key that checks what this key signs.
    #[must_use]
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    pub(super) const fn pair(&self) -> &KeyPair {
        &self.pair
    }
}

/// A private key file that was read and not yet opened.
pub struct KeyFile {
    name: String,
    content: Content,
}

enum Content {
    /// JSON that holds the encrypted PKCS#8 key.
    Encrypted(Vec<u8>),
    /// PKCS#8 or SEC 1, in the clear.
    Plain(Zeroizing<Vec<u8>>),
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFile").field("name", &self.name).finish_non_exhaustive()
    }
}

impl KeyFile {
    /// Parses a PEM file that holds one private key: as cosign encrypts it, or in the clear as
    /// PKCS#8 or SEC 1. `name` is what errors call the key.
    ///
    /// # Errors
    ///
    /// When it holds anything else.
    pub fn parse(name: &str, text: &[u8]) -> Result<Self, KeyError> {
        let kind = |found: String| KeyError::Kind { name: name.to_owned(), found, wanted: PRIVATE };
        let mut found = None;
        // What `openssl ecparam -genkey` writes before the key says nothing that the key does not.
        for block in pem_blocks(name, text)?.into_iter().filter(|block| block.tag() != "EC PARAMETERS") {
            let tag: String = block.tag().chars().take(60).collect();
            let contents = block.into_contents();
            let content = match tag.as_str() {
                TAG | TAG_OLD => Content::Encrypted(contents),
                "PRIVATE KEY" | "EC PRIVATE KEY" => Content::Plain(Zeroizing::new(contents)),
                "PUBLIC KEY" => return Err(kind("a public key".to_owned())),
                "CERTIFICATE" => return Err(kind("a certificate".to_owned())),
                "RSA PRIVATE KEY" => return Err(kind("an RSA private key".to_owned())),
                _ => return Err(kind(format!("a PEM file of `{tag}`"))),
            };
            if found.replace(content).is_some() {
                return Err(kind("a file of several keys".to_owned()));
            }
        }
        let content = found.ok_or_else(|| kind("a file of parameters alone".to_owned()))?;
        Ok(Self { name: name.to_owned(), content })
    }

    /// Reads a private key file.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or as [`KeyFile::parse`].
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        Self::parse(&path.to_string_lossy(), &read_key_file(path)?)
    }

    /// Whether [`KeyFile::open`] wants a password. It may be the empty one.
    #[must_use]
    pub const fn is_encrypted(&self) -> bool {
        matches!(self.content, Content::Encrypted(_))
    }

    /// Opens the key; `password` is not looked at where the key stands in the clear.
    ///
    /// # Errors
    ///
    /// When the password is missing or wrong, or the key is no ECDSA P-256 key.
    pub fn open(&self, password: Option<&[u8]>) -> Result<PrivateKey, KeyError> {
        let der = match &self.content {
            Content::Encrypted(json) => {
                let password =
                    password.ok_or_else(|| KeyError::PasswordMissing { name: self.name.clone() })?;
                decrypt(&self.name, json, password)?
            }
            Content::Plain(der) => der.clone(),
        };
        // SEC 1 and PKCS#8 both parse; what signs is always the same.
        let pair =
            EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, &der).map_err(|error| {
                KeyError::Kind {
                    name: self.name.clone(),
                    found: format!("no such key ({error})"),
                    wanted: PRIVATE,
                }
            })?;
        let der = pair.to_pkcs8v1().map_err(|_| backend("encode the key"))?;
        PrivateKey::from_pkcs8(&self.name, der.as_ref())
    }
}

/// A key pair that was just made, as the files that hold it.
pub struct NewKeyPair {
    /// The encrypted private key, PEM.
    pub private_pem: String,
    /// The public key, PEM.
    pub public_pem: String,
    /// The key itself.
    pub key: PrivateKey,
}

impl NewKeyPair {
    /// Makes a pair and encrypts the private key with `password`, which may be empty.
    ///
    /// # Errors
    ///
    /// When the cryptographic library fails.
    pub fn generate(name: &str, password: &[u8]) -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
            .map_err(|_| backend("make a key pair"))?;
        let der = pair.to_pkcs8v1().map_err(|_| backend("encode the key"))?;
        let key = PrivateKey::from_pkcs8(name, der.as_ref())?;
        let json = encrypt(der.as_ref(), password)?;
        Ok(Self { private_pem: encode_pem(TAG, json), public_pem: key.public().to_pem(), key })
    }
}

/// Makes a pair and writes `PREFIX.key`, which only its owner may read, and `PREFIX.pub`; hands out
/// both paths and the public key.
///
/// # Errors
///
/// When one of the files exists or cannot be written; then neither is left behind.
pub fn write_key_pair(prefix: &Path, password: &[u8]) -> Result<(PathBuf, PathBuf, PublicKey), KeyError> {
    let with = |extension: &str| {
        let mut name = prefix.as_os_str().to_owned();
        name.push(extension);
        PathBuf::from(name)
    };
    let (private, public) = (with(".key"), with(".pub"));
    // Before the work; what appears in between is refused by the opening below.
    for path in [&private, &public] {
        if path.symlink_metadata().is_ok() {
            return Err(KeyError::Exists { path: path.clone() });
        }
    }
    let pair = NewKeyPair::generate(&public.to_string_lossy(), password)?;
    write_new(&private, pair.private_pem.as_bytes(), 0o600)?;
    write_new(&public, pair.public_pem.as_bytes(), 0o644).inspect_err(|_| {
        // Without its public half the key is of no use, and nobody has it yet.
        let _ = fs::remove_file(&private);
    })?;
    Ok((private, public, pair.key.public))
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<(), KeyError> {
    let io = |source| KeyError::Io { what: "write", path: path.to_owned(), source };
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(mode).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(KeyError::Exists { path: path.to_owned() });
        }
        Err(error) => return Err(io(error)),
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .and_then(|()| sync_folder(folder))
        .map_err(io)
        .inspect_err(|_| {
            let _ = fs::remove_file(path);
        })
}

/// The JSON inside the PEM block, as cosign (secure-systems-lab's `encrypted` package) writes it.
#[derive(Serialize, Deserialize)]
struct Envelope {
    kdf: Kdf,
    cipher: Cipher,
    ciphertext: String,
}

#[derive(Serialize, Deserialize)]
struct Kdf {
    name: String,
    params: Cost,
    salt: String,
}

#[derive(Serialize, Deserialize, Clone, Copy)]
struct Cost {
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
}

#[derive(Serialize, Deserialize)]
struct Cipher {
    name: String,
    nonce: String,
}

fn backend(what: &'static str) -> KeyError {
    KeyError::Backend { what, why: "the cryptographic library refused".to_owned() }
}

/// Stretches a password (RFC 7914), whose cost a hostile file must not choose freely.
fn stretch(name: &str, password: &[u8], salt: &[u8], cost: Cost) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let refuse = || KeyError::Shape {
        name: name.to_owned(),
        why: format!(
            "scrypt with N {}, r {}, p {}; wanted N a power of two and at most {} MiB of memory",
            cost.n,
            cost.r,
            cost.p,
            MAX_MEMORY >> 20
        ),
    };
    let memory = cost.n.checked_mul(128).and_then(|m| m.checked_mul(u64::from(cost.r))).ok_or_else(refuse)?;
    let work = memory.checked_mul(u64::from(cost.p)).ok_or_else(refuse)?;
    if !cost.n.is_power_of_two()
        || cost.n < 2
        || cost.r == 0
        || cost.p == 0
        || memory > MAX_MEMORY
        || work > MAX_WORK
    {
        return Err(refuse());
    }
    let log_n = u8::try_from(cost.n.trailing_zeros()).map_err(|_| refuse())?;
    let params = scrypt::Params::new(log_n, cost.r, cost.p).map_err(|_| refuse())?;
    let mut key = Zeroizing::new([0; 32]);
    scrypt::scrypt(password, salt, &params, &mut *key).map_err(|_| refuse())?;
    Ok(key)
}

fn encrypt(der: &[u8], password: &[u8]) -> Result<Vec<u8>, KeyError> {
    let (mut salt, mut nonce) = ([0; SALT], [0; NONCE]);
    rand::fill(&mut salt).map_err(|_| backend("draw random bytes"))?;
    rand::fill(&mut nonce).map_err(|_| backend("draw random bytes"))?;
    let key = stretch("new", password, &salt, COST)?;
    let cipher = XSalsa20Poly1305::new(Key::from_slice(&*key));
    // Room for the authenticator from the start: a growing vector would leave the key behind.
    let mut text = Zeroizing::new(Vec::with_capacity(der.len() + XSalsa20Poly1305::TAG_SIZE));
    text.extend_from_slice(der);
    cipher
        .encrypt_in_place(Nonce::from_slice(&nonce), b"", &mut *text)
        .map_err(|_| backend("encrypt the key"))?;
    let envelope = Envelope {
        kdf: Kdf { name: KDF.to_owned(), params: COST, salt: STANDARD.encode(salt) },
        cipher: Cipher { name: CIPHER.to_owned(), nonce: STANDARD.encode(nonce) },
        ciphertext: STANDARD.encode(&*text),
    };
    serde_json::to_vec(&envelope)
        .map_err(|error| KeyError::Backend { what: "encode the key", why: error.to_string() })
}

fn decrypt(name: &str, json: &[u8], password: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let shape = |why: String| KeyError::Shape { name: name.to_owned(), why };
    let envelope: Envelope =
        serde_json::from_slice(json).map_err(|error| shape(format!("not what cosign writes: {error}")))?;
    let named = |what: &str, found: &str, wanted: &str| {
        let found: String = found.chars().take(60).collect();
        shape(format!("{what} `{found}`, wanted `{wanted}`"))
    };
    if envelope.kdf.name != KDF {
        return Err(named("key derivation", &envelope.kdf.name, KDF));
    }
    if envelope.cipher.name != CIPHER {
        return Err(named("cipher", &envelope.cipher.name, CIPHER));
    }
    let bytes = |what: &str, text: &str| {
        STANDARD.decode(text).map_err(|error| shape(format!("{what} is not base64: {error}")))
    };
    let salt = bytes("the salt", &envelope.kdf.salt)?;
    let nonce = bytes("the nonce", &envelope.cipher.nonce)?;
    let mut text = Zeroizing::new(bytes("the ciphertext", &envelope.ciphertext)?);
    if nonce.len() != NONCE {
        return Err(shape(format!("a nonce of {} bytes, wanted {NONCE}", nonce.len())));
    }
    if text.len() > MAX_CIPHERTEXT {
        return Err(shape(format!("a ciphertext of {} bytes, wanted at most {MAX_CIPHERTEXT}", text.len())));
    }
    let key = stretch(name, password, &salt, envelope.kdf.params)?;
    XSalsa20Poly1305::new(Key::from_slice(&*key))
        .decrypt_in_place(Nonce::from_slice(&nonce), b"", &mut *text)
        .map_err(|_| KeyError::Password { name: name.to_owned() })?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_pair_on_disk_opens_with_its_password_alone_and_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let prefix = folder.path().join("release");
        let (private, public, key) = write_key_pair(&prefix, b"secret").unwrap();
        assert_eq!(private.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(PublicKey::load(&public).unwrap(), key);
        let file = KeyFile::load(&private).unwrap();
        assert!(file.is_encrypted());
        assert_eq!(file.open(Some(b"secret")).unwrap().public().fingerprint(), key.fingerprint());
        assert!(matches!(file.open(Some(b"Secret")), Err(KeyError::Password { .. })));
        assert!(matches!(file.open(None), Err(KeyError::PasswordMissing { .. })));

        let before = fs::read(&private).unwrap();
        assert!(matches!(write_key_pair(&prefix, b"x"), Err(KeyError::Exists { .. })));
        fs::remove_file(&private).unwrap();
        assert!(matches!(write_key_pair(&prefix, b"x"), Err(KeyError::Exists { .. })));
        assert!(!private.exists(), "nothing is left of a refused pair");
        fs::write(&private, before).unwrap();
        assert!(KeyFile::load(&public).unwrap_err().to_string().contains("is a public key"));
        assert!(PublicKey::load(&private).unwrap_err().to_string().contains("is a private key"));
    }

    #[test]
    fn hostile_key_files_cost_nothing() {
        let pair = NewKeyPair::generate("k", b"").unwrap();
        let block = pem::parse(&pair.private_pem).unwrap();
        let json = String::from_utf8(block.contents().to_vec()).unwrap();
        for (from, to, want) in [
            ("65536", "4294967296", "scrypt with N 4294967296"),
            ("65536", "18446744073709551615", "scrypt with N"),
            ("65536", "65537", "N a power of two"),
            ("65536", "0", "scrypt with N 0"),
            ("\"r\":8", "\"r\":4000000000", "scrypt with N"),
            ("\"p\":1", "\"p\":100000", "scrypt with N"),
            ("\"p\":1", "\"p\":0", "scrypt with N"),
            ("\"p\":1", "\"p\":-1", "not what cosign writes"),
            ("scrypt", "pbkdf2", "key derivation `pbkdf2`, wanted `scrypt`"),
            ("nacl/secretbox", "none", "cipher `none`"),
            ("nonce\":\"", "nonce\":\"AAAA", "a nonce of 27 bytes, wanted 24"),
            ("ciphertext\":\"", "ciphertext\":\"!", "the ciphertext is not base64"),
        ] {
            let changed = json.replacen(from, to, 1);
            assert_ne!(changed, json);
            let text = encode_pem(TAG, changed.into_bytes());
            let error =
                KeyFile::parse("k", text.as_bytes()).unwrap().open(Some(b"")).unwrap_err().to_string();
            assert!(error.contains(want), "{error}, wanted {want}");
        }
        // A ciphertext too short for its authenticator is a wrong password, not a panic.
        let short = regex_free_cut(&json);
        let file = KeyFile::parse("k", encode_pem(TAG, short.into_bytes()).as_bytes()).unwrap();
        assert!(matches!(file.open(Some(b"")), Err(KeyError::Password { .. })));
    }

    /// The envelope with a ciphertext of three bytes.
    fn regex_free_cut(json: &str) -> String {
        let at = json.find("ciphertext\":\"").unwrap() + "ciphertext\":\"".len();
        format!("{}AAAA\"}}", &json[..at])
    }

    #[test]
    fn other_private_keys_are_refused_by_name() {
        for (text, want) in [
            (encode_pem("RSA PRIVATE KEY", vec![1]), "an RSA private key"),
            (encode_pem("OPENSSH PRIVATE KEY", vec![1]), "a PEM file of `OPENSSH PRIVATE KEY`"),
            (encode_pem("EC PARAMETERS", vec![1]), "a file of parameters alone"),
            (encode_pem("PRIVATE KEY", vec![1]).repeat(2), "a file of several keys"),
        ] {
            let error = KeyFile::parse("k", text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(want), "{error}, wanted {want}");
        }
        let file = KeyFile::parse("k", encode_pem("PRIVATE KEY", vec![0x30, 0]).as_bytes()).unwrap();
        assert!(!file.is_encrypted());
        assert!(file.open(None).unwrap_err().to_string().contains("wanted an ECDSA P-256 private key"));
    }
}
