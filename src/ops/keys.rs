//! Keys: making pairs, loading private and public ones from files.

use std::path::{Path, PathBuf};

use super::{Error, Result};
use crate::trust::{KeyFile, PrivateKey, PublicKey, write_key_pair};

/// Where a new key pair was written.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The encrypted private key, mode 0600.
    pub private: PathBuf,
    /// The public key.
    pub public: PathBuf,
}

/// Makes a key pair, `PREFIX.key` and `PREFIX.pub`. Existing files are never replaced.
///
/// # Errors
///
/// When a file is there already or cannot be written.
pub fn generate(prefix: &Path, password: &str) -> Result<Pair> {
    let (private, public, _) = write_key_pair(prefix, password.as_bytes())?;
    Ok(Pair { private, public })
}

/// Loads a private key; `password` is asked only when the key is encrypted.
///
/// # Errors
///
/// When the file is no private key, the password is wrong, or none was to be had (its text is the error's).
pub fn load_private(
    path: &Path,
    password: impl FnOnce() -> std::result::Result<String, String>,
) -> Result<PrivateKey> {
    let file = KeyFile::load(path)?;
    if !file.is_encrypted() {
        return Ok(file.open(None)?);
    }
    let password = password().map_err(|why| Error::Password { path: path.to_owned(), why })?;
    Ok(file.open(Some(password.as_bytes()))?)
}

/// Loads the public keys that one trusts.
///
/// # Errors
///
/// When a file is no public key.
pub fn load_public(paths: &[PathBuf]) -> Result<Vec<PublicKey>> {
    paths.iter().map(|path| Ok(PublicKey::load(path)?)).collect()
}
