//! The store as the sink of an archive's stream: what it lacks is written, the rest is passed over.

use std::io;
use std::sync::{Mutex, PoisonError};

use super::StoreError;
use super::blobs::{BlobWriter, Ingest, Ingested};
use super::open::StoreWriter;
use crate::archive::{BlobSink, BlobWrite};
use crate::model::BlobEntry;

/// Takes the blobs of an archive into the store, from several threads. Nothing is promised before
/// [`StoreSink::finish`] has come back.
pub struct StoreSink<'store> {
    store: &'store StoreWriter,
    ingest: Mutex<Ingest<'store>>,
}

impl StoreWriter {
    /// Begins to take an archive in.
    #[must_use]
    pub fn sink(&self) -> StoreSink<'_> {
        StoreSink { store: self, ingest: Mutex::new(self.ingest()) }
    }
}

impl StoreSink<'_> {
    /// Waits until every blob is durable under its name.
    ///
    /// # Errors
    ///
    /// When one of them is not; those that are stay, and a second try passes them over.
    pub fn finish(self) -> Result<Ingested, StoreError> {
        self.ingest.into_inner().unwrap_or_else(PoisonError::into_inner).finish()
    }
}

impl BlobSink for StoreSink<'_> {
    fn wants(&self, blob: &BlobEntry) -> io::Result<bool> {
        Ok(!self.store.has(blob))
    }

    fn begin(&self, blob: &BlobEntry) -> io::Result<Box<dyn BlobWrite + Send>> {
        let mut ingest = self.ingest.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Box::new(ingest.begin(blob).map_err(io::Error::other)?))
    }
}

impl BlobWrite for BlobWriter {
    fn commit(self: Box<Self>) -> io::Result<()> {
        Self::commit(*self).map_err(io::Error::other)
    }
}
