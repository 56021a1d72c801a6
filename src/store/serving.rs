//! What `serve` keeps beside the content: its certificates, and the secret by which `apply` on this
//! machine is let in where passwords are asked for. Written without the lock, in a folder of its own.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

use super::error::StoreError;
use super::open::{Store, read_small};
use crate::fsio::{Step, limits, pass, sync_folder};
use crate::trust::{Authority, CertificateError, Identity, ServerName};

/// Name of the folder.
pub(super) const FOLDER: &str = "serve";
const AUTHORITY: &str = "ca.crt";
const AUTHORITY_KEY: &str = "ca.key";
const SERVER: &str = "server.crt";
const SERVER_KEY: &str = "server.key";
const SECRET: &str = "secret";

impl Store {
    fn serving(&self, name: &str) -> PathBuf {
        self.folder().join(FOLDER).join(name)
    }

    /// Where the certificate of the site's own authority lies, once there is one: what nodes are to
    /// trust.
    #[must_use]
    pub fn authority_path(&self) -> PathBuf {
        self.serving(AUTHORITY)
    }

    /// The certificate of the site's own authority, if there is one: PEM.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn authority(&self) -> Result<Option<Vec<u8>>, StoreError> {
        read_small(&self.authority_path(), limits::KEY_FILE)
    }

    /// A certificate for a server that is called by any of `names`, from the site's own authority.
    /// Both are made when they are not there; the server's is made anew when it lacks a name or
    /// comes near its end.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or written, or is damaged.
    pub fn certificate(&self, names: &BTreeSet<ServerName>, now: SystemTime) -> Result<Identity, StoreError> {
        let authority = self.open_authority()?;
        let path = self.serving(SERVER);
        let made = |why: CertificateError| StoreError::Damaged { path: path.clone(), why: why.to_string() };
        let read = |name: &str| read_small(&self.serving(name), limits::KEY_FILE);
        if let (Some(certificate), Some(key)) = (read(SERVER)?, read(SERVER_KEY)?)
            && authority.still_good(&certificate, names, now)
        {
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap_or_default();
            return Ok(Identity { certificate: text(certificate), key: Zeroizing::new(text(key)) });
        }
        let issued = authority.issue(names, now).map_err(made)?;
        // A cut between the two leaves a pair that does not fit, which whoever loads it finds out:
        // so the certificate goes first of all, and a key alone is never used.
        match pass(Step::Remove, &path).and_then(|()| fs::remove_file(&path)) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                return Err(StoreError::Io { what: "remove", path, source });
            }
            _ => {}
        }
        self.write_serving(SERVER_KEY, issued.key.as_bytes(), 0o600)?;
        self.write_serving(SERVER, issued.certificate.as_bytes(), 0o644)?;
        Ok(issued)
    }

    fn open_authority(&self) -> Result<Authority, StoreError> {
        let path = self.authority_path();
        let damaged =
            |why: CertificateError| StoreError::Damaged { path: path.clone(), why: why.to_string() };
        // The key carries the certificate behind it, so that both come into being by one rename; the
        // file for the nodes is a copy.
        if let Some(both) = read_small(&self.serving(AUTHORITY_KEY), limits::KEY_FILE)? {
            let both = Zeroizing::new(both);
            let blocks = pem::parse_many(&*both).map_err(|error| StoreError::Damaged {
                path: self.serving(AUTHORITY_KEY),
                why: error.to_string(),
            })?;
            let block = |tag: &str| {
                let found = blocks.iter().find(|block| block.tag() == tag);
                found.map(pem::encode).unwrap_or_default().into_bytes()
            };
            let authority = Authority::read(&block("CERTIFICATE"), &block("PRIVATE KEY")).map_err(damaged)?;
            if self.authority()?.is_none_or(|found| found != authority.identity().certificate.as_bytes()) {
                self.write_serving(AUTHORITY, authority.identity().certificate.as_bytes(), 0o644)?;
            }
            return Ok(authority);
        }
        let authority = Authority::generate().map_err(damaged)?;
        let Identity { certificate, key } = authority.identity();
        let both = Zeroizing::new(format!("{}{certificate}", key.as_str()));
        self.write_serving(AUTHORITY_KEY, both.as_bytes(), 0o600)?;
        // Read back: another process may have put its own there at the same time, and the last one
        // counts for both.
        self.open_authority()
    }

    /// Makes the secret by which `apply` on this machine is let in by a server that asks for
    /// passwords, and records it.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn record_secret(&self) -> Result<String, StoreError> {
        let mut bytes = [0; 32];
        SystemRandom::new().fill(&mut bytes).map_err(|_| StoreError::Io {
            what: "write",
            path: self.serving(SECRET),
            source: io::Error::other("the system has no random bytes"),
        })?;
        let secret = hex::encode(bytes);
        self.write_serving(SECRET, secret.as_bytes(), 0o600)?;
        Ok(secret)
    }

    /// The secret that was recorded last, for whoever may read it.
    ///
    /// # Errors
    ///
    /// When it is there and cannot be read.
    pub fn secret(&self) -> Result<Option<String>, StoreError> {
        let bytes = read_small(&self.serving(SECRET), limits::KEY_FILE)?;
        Ok(bytes.and_then(|bytes| String::from_utf8(bytes).ok()))
    }

    /// Writes a file under its name whole or not at all, never readable by more than `mode` says.
    fn write_serving(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), StoreError> {
        let path = self.serving(name);
        let folder = self.folder().join(FOLDER);
        write_private(&folder, &path, bytes, mode).map_err(|source| StoreError::Io {
            what: "write",
            path,
            source,
        })
    }
}

fn write_private(folder: &Path, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        Err(_) => {}
        Ok(()) => sync_folder(folder.parent().unwrap_or(folder))?,
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!(".fleetpack-tmp-{}-{name}", std::process::id()));
    // One that a killed process of the same number left may be readable by others.
    let _ = fs::remove_file(&temporary);
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        pass(Step::SyncFile, path)?;
        file.sync_all()?;
        pass(Step::Rename, path)?;
        fs::rename(&temporary, path)?;
        sync_folder(folder)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn one_authority_and_a_certificate_as_long_as_it_will_do() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_or_create(&folder.path().join("store"), "test").unwrap();
        let now = SystemTime::now();
        let names = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
        assert!(store.authority().unwrap().is_none());
        let first = store.certificate(&names(&["a", "b"]), now).unwrap();
        let authority = store.authority().unwrap().unwrap();
        let again = store.certificate(&names(&["b"]), now).unwrap();
        assert_eq!(first.certificate, again.certificate);
        let more = store.certificate(&names(&["b", "c"]), now).unwrap();
        assert_ne!(first.certificate, more.certificate);
        // The copy for the nodes is made again from what is beside the key.
        fs::remove_file(store.authority_path()).unwrap();
        store.certificate(&names(&["b"]), now).unwrap();
        assert_eq!(store.authority().unwrap().unwrap(), authority);
        for (name, mode) in [("ca.key", 0o600), ("server.key", 0o600), ("ca.crt", 0o644)] {
            let found = fs::metadata(store.serving(name)).unwrap().permissions().mode() & 0o777;
            assert_eq!(found & !mode, 0, "{name} is {found:o}");
        }
        assert!(store.secret().unwrap().is_none());
        let secret = store.record_secret().unwrap();
        assert_eq!(store.secret().unwrap().unwrap(), secret);
        // A key without its certificate, as a cut leaves it, is no pair.
        fs::remove_file(store.serving("server.crt")).unwrap();
        let new = store.certificate(&names(&["b"]), now).unwrap();
        assert_ne!(new.certificate, more.certificate);
    }
}
