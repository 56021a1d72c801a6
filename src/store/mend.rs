//! Making whole again what the store's own content vouches for.
//!
//! The trust behind it: a record under the name of a digest is written only after the release with
//! that digest was verified. From the digest follow manifest, document and every blob, whoever
//! brings the bytes; so bytes that have one of these digests need no signature of their own.

use std::collections::HashSet;
use std::fs;

use jiff::Timestamp;

use super::error::StoreError;
use super::open::{Store, StoreWriter};
use super::releases::{Parts, Record, StoredRelease};
use crate::archive::{Release, manifest, signature};
use crate::fsio::limits;
use crate::model::Digest;

/// What was done about a record that could not be read.
#[derive(Debug)]
pub struct RebuiltRecord {
    /// The release.
    pub digest: Digest,
    /// Where the damaged record was moved to.
    pub moved_to: std::path::PathBuf,
    /// Signatures of the release that were found again.
    pub signatures: usize,
}

impl Store {
    /// The release as its archive's head has it: the bytes of manifest, document and signatures.
    ///
    /// # Errors
    ///
    /// When one of them is not there or not what its digest says.
    pub fn archived(&self, release: &StoredRelease) -> Result<Release, StoreError> {
        let (manifest, document_bytes) = self.release_bytes(release.digest())?;
        let signatures = release
            .envelope()
            .signatures
            .iter()
            .map(|pair| self.read_blob(pair.bundle.digest, limits::SIGNATURE_BUNDLE))
            .collect::<Result<Vec<_>, _>>()?;
        let digest = release.digest();
        let document = release.document().clone();
        let archived = Release { manifest, digest, document_bytes, document, signatures, head_length: 0 };
        let damaged = |why: String| StoreError::Damaged { path: self.record_path(digest), why };
        let layout = archived.layout().map_err(|error| damaged(error.to_string()))?;
        Ok(Release { head_length: layout.head_length(), ..archived })
    }

    /// The manifest of the release `digest` and the document that it names.
    fn release_bytes(&self, digest: Digest) -> Result<(Vec<u8>, Vec<u8>), StoreError> {
        let manifest = self.read_blob(digest, limits::RELEASE_MANIFEST)?;
        let (document, _) = manifest::document_of(&manifest)
            .map_err(|error| StoreError::Damaged { path: self.blob_path(digest), why: error.to_string() })?;
        let document = self.read_blob(document, limits::RELEASE_DOCUMENT)?;
        Ok((manifest, document))
    }
}

impl StoreWriter {
    /// Whether the record of a release can be read by itself, whatever it names.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the record.
    pub fn check_record(&self, digest: Digest) -> Result<(), StoreError> {
        self.read_record(digest).map(|_| ())
    }

    /// Makes a damaged record anew: manifest and document follow from its name, signatures are found
    /// by what they refer to, and the time is that of the damaged file.
    ///
    /// # Errors
    ///
    /// When manifest or document is not there, or the record cannot be written. The damaged one stays then:
    /// it is what says that the blobs belong to a release.
    pub fn rebuild_record(&self, digest: Digest) -> Result<RebuiltRecord, StoreError> {
        let path = self.record_path(digest);
        let (manifest, document) = self.release_bytes(digest)?;
        let bundles = self.bundles_of(digest, &manifest)?;
        let written = fs::metadata(&path).ok().and_then(|metadata| metadata.modified().ok());
        let ingested =
            written.and_then(|time| Timestamp::try_from(time).ok()).unwrap_or(Timestamp::UNIX_EPOCH);
        let ingested = Timestamp::from_second(ingested.as_second()).unwrap_or(ingested);
        let moved_to = self.quarantine(&path)?;
        self.record_parts(Parts { manifest: &manifest, document: &document, bundles: &bundles }, ingested)?;
        Ok(RebuiltRecord { digest, moved_to, signatures: bundles.len() })
    }

    /// Signatures over `manifest` that lie in the store: found by their own manifests, which follow
    /// from them.
    fn bundles_of(&self, release: Digest, manifest: &[u8]) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut bundles = Vec::new();
        for (digest, size) in self.blob_files()? {
            if size > limits::SIGNATURE_BUNDLE || bundles.len() == limits::SIGNATURES {
                continue;
            }
            let Ok(bytes) = self.read_blob(digest, limits::SIGNATURE_BUNDLE) else { continue };
            let Some(bundle) = signature::bundle_of(&bytes, release) else { continue };
            let Ok(bundle) = self.read_blob(bundle, limits::SIGNATURE_BUNDLE) else { continue };
            if signature::referrer(&bundle, manifest) == bytes {
                bundles.push(bundle);
            }
        }
        Ok(bundles)
    }

    /// Writes manifests of signatures anew that are missing: they follow from the signatures.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn rederive(&self) -> Result<(), StoreError> {
        for release in self.releases()? {
            let missing = self.missing(&release);
            let lost = release
                .envelope()
                .signatures
                .iter()
                .filter(|pair| missing.iter().any(|blob| blob.digest == pair.manifest.digest));
            for pair in lost {
                let manifest = self.read_blob(release.digest(), limits::RELEASE_MANIFEST)?;
                let bundle = self.read_blob(pair.bundle.digest, limits::SIGNATURE_BUNDLE)?;
                self.put_all([signature::referrer(&bundle, &manifest).as_slice()])?;
            }
        }
        Ok(())
    }

    /// Takes manifest, document and signatures again from the head of an archive whose release the
    /// store has a record of. Signatures are taken that the record names; another archive's are not.
    /// Answers with whether the archive is of such a release.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn restore_head(&self, head: &Release) -> Result<bool, StoreError> {
        if !self.release_digests()?.contains(&head.digest) {
            return Ok(false);
        }
        let known: HashSet<Digest> = match self.read_record(head.digest) {
            Ok(Record { signatures, .. }) => signatures.into_iter().collect(),
            Err(_) => HashSet::new(),
        };
        let bundles = head.signatures.iter().filter(|bundle| known.contains(&Digest::of(bundle)));
        let parts = [head.manifest.as_slice(), head.document_bytes.as_slice()];
        self.put_all(parts.into_iter().chain(bundles.map(Vec::as_slice)))?;
        Ok(true)
    }
}
