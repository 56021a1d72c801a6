//! Releases that are whole in the store: recorded, loaded, looked up.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::catalog::{Catalog, CatalogSource, Envelope};
use super::error::StoreError;
use super::open::{Store, StoreWriter, read_small};
use crate::archive::{Release, document, manifest, signature};
use crate::fsio::{limits, write_atomic};
use crate::model::{BlobEntry, Digest, ReleaseDocument, ReleaseName, media_type};
use crate::trust::Verified;

/// Format of `releases/HEX.json`.
const FORMAT: u64 = 1;
/// Fewer digits of a digest name nothing: they would be taken for a version too easily.
const SHORTEST: usize = 6;

#[derive(Serialize, Deserialize)]
pub(super) struct Record {
    format: u64,
    manifest: Digest,
    pub(super) signatures: Vec<Digest>,
    pub(super) ingested: Timestamp,
    /// Digest of the record as it is written without this field: a changed time shows. Records of
    /// earlier versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sum: Option<Digest>,
}

impl Record {
    fn new(manifest: Digest, signatures: Vec<Digest>, ingested: Timestamp) -> Self {
        let record = Self { format: FORMAT, manifest, signatures, ingested, sum: None };
        let sum = Some(record.sum());
        Self { sum, ..record }
    }

    fn sum(&self) -> Digest {
        let text = |digest: &Digest| digest.hex();
        let signatures = self.signatures.iter().map(text).collect::<Vec<_>>().join(",");
        Digest::of(
            format!("{} {} [{signatures}] {}", self.format, self.manifest.hex(), self.ingested).as_bytes(),
        )
    }
}

/// A release that came in whole, its signature verified. Only this room makes one.
#[derive(Debug, Clone)]
pub struct StoredRelease {
    document: ReleaseDocument,
    envelope: Envelope,
    ingested: Timestamp,
    /// Signatures that came in and cannot be read any more; their sizes are not known.
    lost: Vec<BlobEntry>,
}

/// A release of which the store has a record, and whose record, manifest or document cannot be read.
#[derive(Debug)]
pub struct DamagedRelease {
    /// The digest of its manifest, by which the record is called.
    pub digest: Digest,
    /// What is wrong.
    pub error: StoreError,
}

/// Every release of which the store has a record.
#[derive(Debug, Default)]
pub struct Survey {
    /// Those that can be read, the one that came in last first.
    pub releases: Vec<StoredRelease>,
    /// The others, sorted by digest.
    pub damaged: Vec<DamagedRelease>,
}

impl StoredRelease {
    /// The digest of the release manifest: the release's identity.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.envelope.manifest.digest
    }

    /// Its document.
    #[must_use]
    pub const fn document(&self) -> &ReleaseDocument {
        &self.document
    }

    /// What stands beside the document: manifest and signatures.
    #[must_use]
    pub const fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// When it first came in.
    #[must_use]
    pub const fn ingested(&self) -> Timestamp {
        self.ingested
    }

    /// `NAME VERSION (short digest)`, as people tell releases apart.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{} ({})", self.document.title(), self.digest().short())
    }

    /// Every blob that the release needs, each once: those of its document, and its envelope.
    pub fn blobs(&self) -> impl Iterator<Item = &BlobEntry> {
        let signatures = self.envelope.signatures.iter().flat_map(|pair| [&pair.manifest, &pair.bundle]);
        let envelope = [&self.envelope.manifest, &self.envelope.document];
        self.document.blobs.iter().chain(envelope).chain(signatures).chain(&self.lost)
    }

    /// What a catalog is made from.
    #[must_use]
    pub const fn catalog_source(&self) -> CatalogSource<'_> {
        CatalogSource { document: &self.document, envelope: Some(&self.envelope) }
    }
}

/// The bytes that make a release one: all of it but the blobs of its document.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts<'a> {
    pub manifest: &'a [u8],
    pub document: &'a [u8],
    pub bundles: &'a [Vec<u8>],
}

impl Store {
    /// Every release of the store that can be read, the one that came in last first. One that
    /// cannot does not stand in the way of the others; [`Store::survey`] names it.
    ///
    /// # Errors
    ///
    /// When the folder of records cannot be read.
    pub fn releases(&self) -> Result<Vec<StoredRelease>, StoreError> {
        Ok(self.survey()?.releases)
    }

    /// Every release of the store, and what is wrong with those that cannot be read.
    ///
    /// # Errors
    ///
    /// When the folder of records cannot be read.
    pub fn survey(&self) -> Result<Survey, StoreError> {
        let mut survey = Survey::default();
        for digest in self.release_digests()? {
            match self.load(digest) {
                Ok(release) => survey.releases.push(release),
                // A writer may drop a release while this process reads; then its file is gone.
                Err(_) if !self.record_path(digest).exists() => {}
                Err(error) => survey.damaged.push(DamagedRelease { digest, error }),
            }
        }
        survey.releases.sort_by_key(|release| (std::cmp::Reverse(release.ingested), release.digest()));
        Ok(survey)
    }

    pub(super) fn record_path(&self, digest: Digest) -> PathBuf {
        self.releases_folder().join(format!("{}.json", digest.hex()))
    }

    /// Digests of the releases of which the store has a record, sorted.
    ///
    /// # Errors
    ///
    /// When the folder of records cannot be read.
    pub fn release_digests(&self) -> Result<BTreeSet<Digest>, StoreError> {
        let folder = self.releases_folder();
        let io = |source| StoreError::Io { what: "read", path: folder.clone(), source };
        let mut digests = BTreeSet::new();
        for entry in fs::read_dir(&folder).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            // Names of another shape are not ours; a temporary one is being written.
            if let Some(hex) = name.to_str().and_then(|name| name.strip_suffix(".json"))
                && let Ok(digest) = Digest::from_hex(hex)
            {
                digests.insert(digest);
            }
        }
        Ok(digests)
    }

    /// Reads the record of a release, and nothing that it names.
    pub(super) fn read_record(&self, digest: Digest) -> Result<Record, StoreError> {
        let path = self.record_path(digest);
        let damaged = |why: String| StoreError::Damaged { path: path.clone(), why };
        let bytes = read_small(&path, limits::CONFIG_FILE)?
            .ok_or_else(|| StoreError::NoRelease { wanted: digest.to_string(), there: Vec::new() })?;
        let record: Record = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if record.format != FORMAT {
            return Err(damaged(format!("format {}, wanted {FORMAT}", record.format)));
        }
        if record.manifest != digest {
            return Err(damaged(format!("is of release `{}`, wanted `{digest}`", record.manifest)));
        }
        if record.signatures.len() > limits::SIGNATURES {
            let found = record.signatures.len();
            return Err(damaged(format!("{found} signatures, wanted at most {}", limits::SIGNATURES)));
        }
        if record.sum.is_some_and(|sum| sum != record.sum()) {
            return Err(damaged("it was changed after it was written".to_owned()));
        }
        Ok(record)
    }

    /// Loads one release; its manifest and document are hashed again, for disks lie. A signature
    /// that cannot be read any more leaves it a release: it was checked when the release came in.
    pub(super) fn load(&self, digest: Digest) -> Result<StoredRelease, StoreError> {
        let path = self.record_path(digest);
        let damaged = |why: String| StoreError::Damaged { path: path.clone(), why };
        let record = self.read_record(digest)?;
        let manifest_bytes = self.read_blob(digest, limits::RELEASE_MANIFEST)?;
        let (wanted, _) =
            manifest::document_of(&manifest_bytes).map_err(|error| damaged(error.to_string()))?;
        let document = self.read_blob(wanted, limits::RELEASE_DOCUMENT)?;
        let (mut bundles, mut lost) = (Vec::new(), Vec::new());
        for bundle in record.signatures {
            match self.read_blob(bundle, limits::SIGNATURE_BUNDLE) {
                Ok(bytes) => bundles.push(bytes),
                Err(_) => lost.push(BlobEntry {
                    digest: bundle,
                    size: 0,
                    media_type: media_type::SIGSTORE_BUNDLE.to_owned(),
                }),
            }
        }
        let parts = Parts { manifest: &manifest_bytes, document: &document, bundles: &bundles };
        let release = assemble(parts, record.ingested).map_err(damaged)?;
        Ok(StoredRelease { lost, ..release })
    }

    /// The release that `text` names: a digest, at least six of its digits, a version, or
    /// `NAME:VERSION`; of the line `name`, where one is given.
    ///
    /// # Errors
    ///
    /// When no release or more than one is called that.
    pub fn release(&self, text: &str, name: Option<&ReleaseName>) -> Result<StoredRelease, StoreError> {
        let Survey { releases, damaged } = self.survey()?;
        let releases: Vec<_> = releases
            .into_iter()
            .filter(|release| name.is_none_or(|name| release.document.name == *name))
            .collect();
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let named = |release: &StoredRelease| {
            let (name, version) = (release.document.name.as_str(), release.document.version.as_str());
            let digest = hex.len() >= SHORTEST && release.digest().hex().starts_with(hex);
            digest || version == text || text.split_once(':') == Some((name, version))
        };
        let titles = |found: &[StoredRelease]| found.iter().map(StoredRelease::title).collect();
        let wanted: String = text.chars().filter(|c| !c.is_control()).take(120).collect();
        let (mut found, others): (Vec<_>, Vec<_>) = releases.into_iter().partition(named);
        if found.is_empty()
            && let Some(damaged) = damaged
                .into_iter()
                .find(|release| hex.len() >= SHORTEST && release.digest.hex().starts_with(hex))
        {
            return Err(damaged.error);
        }
        match found.len() {
            0 => Err(StoreError::NoRelease { wanted, there: titles(&others) }),
            1 => Ok(found.remove(0)),
            _ => Err(StoreError::Ambiguous { wanted, found: titles(&found) }),
        }
    }

    /// The release with this digest, if it is in the store.
    ///
    /// # Errors
    ///
    /// When it is there and cannot be read.
    pub fn release_by_digest(&self, digest: Digest) -> Result<Option<StoredRelease>, StoreError> {
        match self.load(digest) {
            Ok(release) => Ok(Some(release)),
            Err(StoreError::NoRelease { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Blobs of `release` that are not in the store with their size: none, if it is complete.
    #[must_use]
    pub fn missing(&self, release: &StoredRelease) -> Vec<BlobEntry> {
        release.blobs().filter(|blob| !self.has(blob)).cloned().collect()
    }

    /// Refuses a release of which something is missing.
    ///
    /// # Errors
    ///
    /// Names what is missing.
    pub fn complete(&self, release: &StoredRelease) -> Result<(), StoreError> {
        let missing: Vec<Digest> = self.missing(release).iter().map(|blob| blob.digest).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(StoreError::Incomplete { release: release.digest(), missing })
    }

    /// What a registry on this store answers: the releases in `first` win their tags, in that order;
    /// then the others, from the newest to the oldest. `first` is what the ledger aims at. Releases
    /// that cannot be read are not in it, and stand beside it.
    ///
    /// # Errors
    ///
    /// When the folder of records cannot be read.
    pub fn catalog(&self, first: &[Digest]) -> Result<(Catalog, Vec<DamagedRelease>), StoreError> {
        let Survey { releases, damaged } = self.survey()?;
        let releases = ordered(releases, first);
        let sources: Vec<_> = releases.iter().map(StoredRelease::catalog_source).collect();
        Ok((Catalog::build(&sources), damaged))
    }
}

impl StoreWriter {
    /// Records a release of which every blob is in the store, durably: after this it is one of
    /// [`Store::releases`], and before it is none of them. Recording it again adds signatures.
    ///
    /// # Errors
    ///
    /// When a blob is missing, or a file cannot be written; then it is not recorded.
    pub fn record(&self, release: &Verified<Release>, now: Timestamp) -> Result<StoredRelease, StoreError> {
        let parts = Parts {
            manifest: &release.manifest,
            document: &release.document_bytes,
            bundles: &release.signatures,
        };
        self.record_parts(parts, now)
    }

    pub(super) fn record_parts(&self, parts: Parts<'_>, now: Timestamp) -> Result<StoredRelease, StoreError> {
        let digest = Digest::of(parts.manifest);
        // A record that cannot be read is written anew.
        let known = self.release_by_digest(digest).ok().flatten();
        // Signatures that came in before stay; the bound on their number holds for all of them.
        let mut bundles = parts.bundles.to_vec();
        for signature in known.iter().flat_map(|release| &release.envelope.signatures) {
            bundles.push(self.read_blob(signature.bundle.digest, limits::SIGNATURE_BUNDLE)?);
        }
        bundles.sort_by_cached_key(|bundle| Digest::of(bundle));
        bundles.dedup();
        bundles.truncate(limits::SIGNATURES);
        let ingested = known.map_or(now, |release| release.ingested);
        let parts = Parts { bundles: &bundles, ..parts };
        let path = self.record_path(digest);
        let release =
            assemble(parts, ingested).map_err(|why| StoreError::Damaged { path: path.clone(), why })?;

        // 1. All of its blobs are there.
        let missing: Vec<Digest> =
            release.document.blobs.iter().filter(|blob| !self.has(blob)).map(|blob| blob.digest).collect();
        if !missing.is_empty() {
            return Err(StoreError::Incomplete { release: digest, missing });
        }
        // 2. Its manifest, document and signatures are there, durably.
        let referrers: Vec<Vec<u8>> =
            bundles.iter().map(|bundle| signature::referrer(bundle, parts.manifest)).collect();
        let contents = [parts.manifest, parts.document].into_iter();
        self.put_all(contents.chain(bundles.iter().chain(&referrers).map(Vec::as_slice)))?;
        // 3. It counts from here on.
        let signatures = release.envelope.signatures.iter().map(|pair| pair.bundle.digest).collect();
        let record = Record::new(digest, signatures, ingested);
        let io = |source| StoreError::Io { what: "write", path: path.clone(), source };
        let mut bytes = serde_json::to_vec(&record).map_err(|error| io(error.into()))?;
        bytes.push(b'\n');
        write_atomic(&path, &bytes).map_err(io)?;
        // 4. Tools that read the layout see it. A cut before this is made good by the next writer.
        self.reindex(&[])?;
        Ok(release)
    }

    /// Writes the index anew, where the releases in `first` win their names, in that order; then
    /// the others, from the newest to the oldest.
    ///
    /// # Errors
    ///
    /// When a release cannot be read or the index not written.
    pub fn reindex(&self, first: &[Digest]) -> Result<(), StoreError> {
        self.write_index(&ordered(self.releases()?, first))
    }
}

/// Puts the releases in `first` before the others, in that order.
pub(super) fn ordered(mut releases: Vec<StoredRelease>, first: &[Digest]) -> Vec<StoredRelease> {
    releases.sort_by_key(|release| {
        first.iter().position(|digest| *digest == release.digest()).unwrap_or(first.len())
    });
    releases
}

/// Makes a release of its parts, whose digests are right.
fn assemble(parts: Parts<'_>, ingested: Timestamp) -> Result<StoredRelease, String> {
    let said = |error: crate::archive::ArchiveError| error.to_string();
    let (wanted, _) = manifest::document_of(parts.manifest).map_err(said)?;
    let found = Digest::of(parts.document);
    if found != wanted {
        return Err(format!("the release document is `{found}`, wanted `{wanted}`"));
    }
    let document = document::parse(parts.document).map_err(said)?;
    if manifest::build(&document, parts.document).map_err(said)? != parts.manifest {
        return Err("the release manifest does not follow from its document".to_owned());
    }
    let envelope = Envelope::of(parts.manifest, parts.document, parts.bundles);
    Ok(StoredRelease { document, envelope, ingested, lost: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::super::samples::Sample;
    use super::*;
    use crate::model::ErrorClass;

    fn two(writer: &StoreWriter) -> (Sample, Sample) {
        let old =
            Sample::new("shop", "1.0", &[("docker.io/library/nginx:1", "old"), ("r.example.com/a:1", "a")]);
        let new =
            Sample::new("shop", "1.1", &[("docker.io/library/nginx:1", "new"), ("r.example.com/a:1", "a")]);
        old.ingest(writer, 100);
        new.ingest(writer, 200);
        (old, new)
    }

    fn index(store: &Store) -> serde_json::Value {
        serde_json::from_slice(&fs::read(store.folder().join("index.json")).unwrap()).unwrap()
    }

    /// What each name in the index leads to.
    fn names(store: &Store) -> std::collections::BTreeMap<String, String> {
        let index = index(store);
        let entries = index["manifests"].as_array().unwrap();
        let named = entries.iter().filter_map(|entry| {
            let name = entry["annotations"]["org.opencontainers.image.ref.name"].as_str()?;
            Some((name.to_owned(), entry["digest"].as_str().unwrap().to_owned()))
        });
        let found: Vec<_> = named.collect();
        let map: std::collections::BTreeMap<_, _> = found.iter().cloned().collect();
        assert_eq!(map.len(), found.len(), "no name stands twice");
        map
    }

    #[test]
    fn a_release_counts_once_all_of_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Store::open_or_create(folder.path(), "test").unwrap();
        let sample = Sample::new("shop", "1", &[("docker.io/library/nginx:1", "nginx")]);
        let error = sample.record(&writer, 1).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Incomplete);
        assert!(writer.releases().unwrap().is_empty());
        let stored = sample.ingest(&writer, 1);
        assert_eq!(stored.digest(), sample.release_digest());
        assert_eq!(stored.envelope(), &sample.envelope);
        let loaded = Store::open_read_only(folder.path()).unwrap().releases().unwrap().remove(0);
        assert_eq!((loaded.document(), loaded.envelope()), (&sample.document, &sample.envelope));
        writer.complete(&loaded).unwrap();

        let lost = sample.document.images[0].digest;
        fs::remove_file(writer.blob_path(lost)).unwrap();
        let error = writer.complete(&loaded).unwrap_err();
        assert!(
            error.to_string().contains(&format!("1 blob of release `{}` is not", loaded.digest())),
            "{error}"
        );
        assert!(error.to_string().contains(&lost.to_string()));
    }

    #[test]
    fn releases_are_found_by_what_people_call_them() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Store::open_or_create(folder.path(), "test").unwrap();
        let (old, new) = two(&writer);
        let bank = Sample::new("bank", "1.0", &[]);
        bank.ingest(&writer, 150);
        let digest = old.release_digest();
        let shop: ReleaseName = "shop".parse().unwrap();
        for text in [digest.to_string(), digest.hex(), digest.short(), "shop:1.0".to_owned()] {
            assert_eq!(writer.release(&text, None).unwrap().digest(), digest, "{text}");
        }
        assert_eq!(writer.release("1.1", None).unwrap().digest(), new.release_digest());
        assert_eq!(writer.release("1.0", Some(&shop)).unwrap().digest(), digest);
        let error = writer.release("1.0", None).unwrap_err();
        assert!(matches!(&error, StoreError::Ambiguous { found, .. } if found.len() == 2), "{error}");
        let error = writer.release("9", None).unwrap_err().to_string();
        assert!(error.contains("no release `9`; it holds shop 1.1 ("), "{error}");
        assert!(writer.release("bank:1.0", Some(&shop)).is_err());
        assert!(writer.release(&digest.hex()[..5], None).is_err(), "five digits are too few");
        assert!(writer.release("", None).is_err());
        let order: Vec<_> = writer.releases().unwrap().iter().map(StoredRelease::digest).collect();
        assert_eq!(order, [new.release_digest(), bank.release_digest(), digest]);
    }

    #[test]
    fn the_index_names_each_tag_once_and_lists_every_manifest() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Store::open_or_create(folder.path(), "test").unwrap();
        assert!(names(&writer).is_empty());
        let (old, new) = two(&writer);
        for (first, want) in
            [(&[][..], "new"), (&[old.release_digest()], "old"), (&[new.release_digest()], "new")]
        {
            writer.reindex(first).unwrap();
            let names = names(&writer);
            assert_eq!(names["docker.io/library/nginx:1"], Sample::digest(want).to_string());
            assert_eq!(names["fleetpack/shop:1.0-release"], old.release_digest().to_string());
            assert!(names.contains_key("fleetpack/shop:1.1"));
            let index = index(&writer).to_string();
            for text in ["old", "new", "a"] {
                assert!(index.contains(&Sample::digest(text).to_string()));
            }
            assert_eq!(index.matches(&Sample::digest("a").to_string()).count(), 1);
        }
        let (catalog, _) = writer.catalog(&[old.release_digest()]).unwrap();
        assert_eq!(catalog.resolve_tag(None, "nginx", "1").unwrap().digest, Sample::digest("old"));
    }

    #[test]
    fn what_lies_on_disk_is_checked_when_it_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Store::open_or_create(folder.path(), "test").unwrap();
        let sample = Sample::new("shop", "1", &[]);
        sample.ingest(&writer, 1);
        let record = writer.releases_folder().join(format!("{}.json", sample.release_digest().hex()));
        let good = fs::read_to_string(&record).unwrap();
        let other = Sample::new("shop", "2", &[]);
        for (from, to, want) in [
            ("\"format\":1", "\"format\":2", "format 2, wanted 1"),
            (
                &sample.release_digest().to_string()[..],
                &other.release_digest().to_string()[..],
                "is of release",
            ),
            ("{", "", "is damaged"),
        ] {
            fs::write(&record, good.replacen(from, to, 1)).unwrap();
            let survey = writer.survey().unwrap();
            assert!(survey.releases.is_empty());
            let error = survey.damaged[0].error.to_string();
            assert!(error.contains(want), "{error}, wanted {want}");
        }
        fs::write(&record, good).unwrap();
        for blob in
            [&sample.envelope.manifest, &sample.envelope.document, &sample.envelope.signatures[0].bundle]
        {
            let path = writer.blob_path(blob.digest);
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&path, &bytes).unwrap();
            let survey = writer.survey().unwrap();
            if blob == &sample.envelope.signatures[0].bundle {
                assert_eq!(survey.releases[0].lost[0].digest, blob.digest);
            } else {
                let error = survey.damaged[0].error.to_string();
                assert!(survey.releases.is_empty() && error.contains("is damaged"), "{error}");
            }
            bytes[middle] ^= 1;
            fs::write(&path, &bytes).unwrap();
        }
        assert_eq!(writer.releases().unwrap().len(), 1);
    }

    #[test]
    fn coming_in_again_keeps_the_time_and_adds_signatures() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Store::open_or_create(folder.path(), "test").unwrap();
        let sample = Sample::new("shop", "1", &[]);
        let first = sample.ingest(&writer, 1);
        let bytes = |blob: &BlobEntry| sample.bytes[&blob.digest].clone();
        let (manifest, document) = (bytes(&sample.envelope.manifest), bytes(&sample.envelope.document));
        let bundles = vec![b"countersignature".to_vec()];
        let parts = Parts { manifest: &manifest, document: &document, bundles: &bundles };
        let second = writer.record_parts(parts, Timestamp::from_second(2).unwrap()).unwrap();
        assert_eq!(second.ingested(), first.ingested());
        assert_eq!(second.envelope().signatures.len(), 2);
        assert_eq!(writer.releases().unwrap()[0].envelope(), second.envelope());
        writer.complete(&second).unwrap();
    }
}
