//! Who serves the store: `serve.json`, written by `serve` without the lock.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;

use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::open::{Store, read_small};
use crate::fsio::{Step, limits, pass, write_atomic};

/// Name of the file.
pub(super) const FILE: &str = "serve.json";
const FORMAT: u64 = 1;

/// Where `serve` listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Base URL: `http://127.0.0.1:5050`.
    pub url: String,
    /// Its process.
    pub pid: u32,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    format: u64,
    endpoint: String,
    pid: u32,
}

/// Changes whenever what the store serves may have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp([Option<(u64, u64, i64, i64)>; 2]);

impl Store {
    /// The endpoint that was recorded last; that something answers there is not known.
    ///
    /// # Errors
    ///
    /// When the record cannot be read.
    pub fn endpoint(&self) -> Result<Option<Endpoint>, StoreError> {
        let path = self.folder().join(FILE);
        let Some(bytes) = read_small(&path, limits::CONFIG_FILE)? else { return Ok(None) };
        let damaged = |why: String| StoreError::Damaged { path: path.clone(), why };
        let wire: Wire = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if wire.format != FORMAT {
            return Err(damaged(format!("format {}, wanted {FORMAT}", wire.format)));
        }
        Ok(Some(Endpoint { url: wire.endpoint, pid: wire.pid }))
    }

    /// Records where this process serves the store.
    ///
    /// # Errors
    ///
    /// When the record cannot be written.
    pub fn record_endpoint(&self, endpoint: &Endpoint) -> Result<(), StoreError> {
        let path = self.folder().join(FILE);
        let wire = Wire { format: FORMAT, endpoint: endpoint.url.clone(), pid: endpoint.pid };
        let io = |source| StoreError::Io { what: "write", path: path.clone(), source };
        let mut bytes = serde_json::to_vec(&wire).map_err(|error| io(error.into()))?;
        bytes.push(b'\n');
        write_atomic(&path, &bytes).map_err(io)
    }

    /// Takes the record back, if it still names this endpoint.
    ///
    /// # Errors
    ///
    /// When the record cannot be read or removed.
    pub fn forget_endpoint(&self, endpoint: &Endpoint) -> Result<(), StoreError> {
        if self.endpoint()?.as_ref() != Some(endpoint) {
            return Ok(());
        }
        let path = self.folder().join(FILE);
        match pass(Step::Remove, &path).and_then(|()| fs::remove_file(&path)) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(StoreError::Io { what: "remove", path, source })
            }
            _ => Ok(()),
        }
    }

    /// A cheap look at whether releases or ledger changed: two equal stamps mean that neither did.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        // The index is replaced after each change of the releases; the ledger only grows.
        Stamp(["index.json", "ledger.jsonl"].map(|name| {
            let metadata = fs::metadata(self.folder().join(name)).ok()?;
            Some((metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_and_taken_back_by_the_one_who_wrote_it() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Store::open_or_create(folder.path(), "test").unwrap();
        assert_eq!(writer.endpoint().unwrap(), None);
        let one = Endpoint { url: "http://127.0.0.1:5050".to_owned(), pid: 1 };
        let two = Endpoint { url: "http://127.0.0.1:5051".to_owned(), pid: 2 };
        let reader = Store::open_read_only(folder.path()).unwrap();
        reader.record_endpoint(&one).unwrap();
        reader.record_endpoint(&two).unwrap();
        reader.forget_endpoint(&one).unwrap();
        assert_eq!(reader.endpoint().unwrap(), Some(two.clone()));
        reader.forget_endpoint(&two).unwrap();
        assert_eq!(reader.endpoint().unwrap(), None);
        fs::write(folder.path().join(FILE), "{\"format\":2,\"endpoint\":\"\",\"pid\":1}").unwrap();
        assert!(reader.endpoint().unwrap_err().to_string().contains("format 2, wanted 1"));
    }

    #[test]
    fn the_stamp_changes_with_index_and_ledger() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Store::open_or_create(folder.path(), "test").unwrap();
        let first = writer.stamp();
        assert_eq!(first, writer.stamp());
        fs::write(folder.path().join("ledger.jsonl"), "x").unwrap();
        let second = writer.stamp();
        assert_ne!(first, second);
        writer.write_index(&[]).unwrap();
        assert_ne!(second, writer.stamp());
    }
}
