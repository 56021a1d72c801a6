//! Keys: making pairs, loading private and public ones from files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{Error, Result};
use crate::fsio::{limits, sync_folder};
use crate::trust::keys::{PrivateKey, PublicKey};

/// Where a new key pair was written.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The encrypted private key, mode 0600.
    pub private: PathBuf,
    /// The public key.
    pub public: PathBuf,
}

/// Reads a small file whole, refusing one that is larger than `limit`.
pub(super) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
        .map_err(|error| Error::io("read", path, error))?;
    if bytes.len() as u64 > limit {
        let what = format!("is larger than {limit} bytes: not the file that is wanted here");
        return Err(Error::io("read", path, io::Error::new(io::ErrorKind::FileTooLarge, what)));
    }
    Ok(bytes)
}

/// Makes a key pair, `PREFIX.key` and `PREFIX.pub`. Existing files are never replaced.
///
/// # Errors
///
/// When a file is there already or cannot be written.
pub fn generate(prefix: &Path, password: &str) -> Result<Pair> {
    let named = |suffix: &str| {
        let mut name = prefix.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let pair = Pair { private: named(".key"), public: named(".pub") };
    let key = PrivateKey::generate()?;
    let private = key.to_encrypted_pem(password)?;
    let public = key.public().to_pem();
    let create = |path: &Path, mode: u32, text: &str| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    create(&pair.private, 0o600, &private).map_err(|error| Error::io("write", &pair.private, error))?;
    if let Err(error) = create(&pair.public, 0o644, &public) {
        // A private key without its public half is of no use, and it stands in the way of the next try.
        let _ = fs::remove_file(&pair.private);
        return Err(Error::io("write", &pair.public, error));
    }
    let folder = pair.private.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    sync_folder(folder).map_err(|error| Error::io("write", folder, error))?;
    Ok(pair)
}

/// Loads a private key; `password` is asked only when the key is encrypted.
///
/// # Errors
///
/// When the file is no private key, the password is wrong, or none was to be had (its text is the error's).
pub fn load_private(path: &Path, password: impl FnOnce() -> std::result::Result<String, String>) -> Result<PrivateKey> {
    let bytes = read_bounded(path, limits::KEY_FILE)?;
    let load = || {
        if PrivateKey::is_encrypted(&bytes) {
            let password = password().map_err(|why| Error::Password { path: path.to_owned(), why })?;
            return Ok(PrivateKey::from_pem(&bytes, Some(&password))?);
        }
        Ok(PrivateKey::from_pem(&bytes, None)?)
    };
    load().map_err(|error: Error| error.in_key(path))
}

/// Loads the public keys that one trusts.
///
/// # Errors
///
/// When a file is no public key; a private one is pointed out, for it should not be here at all.
pub fn load_public(paths: &[PathBuf]) -> Result<Vec<PublicKey>> {
    paths
        .iter()
        .map(|path| {
            let bytes = read_bounded(path, limits::KEY_FILE)?;
            let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
            PublicKey::from_pem(&bytes, &name).map_err(|error| Error::from(error).in_key(path))
        })
        .collect()
}
