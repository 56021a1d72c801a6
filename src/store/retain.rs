//! Room: whether there is enough for what comes, and what goes when it leaves.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::error::StoreError;
use super::open::{Store, StoreWriter};
use super::releases::{StoredRelease, Survey, ordered};
use super::scrub::measure;
use crate::fsio::{Reserve, Room, Step, pass, sync_folder};
use crate::model::{BlobEntry, Digest};

/// Room for what is written beside the blobs: index, release file, ledger, folders.
const BESIDE: u64 = 4 << 20;
/// Files that are written beside the blobs.
const FILES_BESIDE: u64 = 32;

/// What the file system writes about a file in its own books: a byte for so many.
const BOOKS: u64 = 1024;

/// What comes into the store beside blobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Beside {
    /// Bytes.
    pub bytes: u64,
    /// Files and folders.
    pub files: u64,
}

/// What [`StoreWriter::retire`] has dropped.
#[derive(Debug, Default)]
pub struct Retired {
    /// Releases, by digest; with the release where it could still be read.
    pub releases: Vec<(Digest, Option<StoredRelease>)>,
    /// Blobs that no kept release refers to.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Store {
    /// Whether there is room for those of `blobs` that are missing, for what comes `beside` them, and
    /// for the reserve, each file in whole blocks.
    /// The error also says what dropping all releases but those in `keep` would free.
    ///
    /// # Errors
    ///
    /// When there is not, in bytes or in files.
    pub fn check_space<'a>(
        &self,
        blobs: impl IntoIterator<Item = &'a BlobEntry>,
        beside: Beside,
        keep: &[Digest],
    ) -> Result<(), StoreError> {
        let wanted: Vec<&BlobEntry> = blobs.into_iter().collect();
        let io = |source| StoreError::Io { what: "measure", path: self.folder().to_owned(), source };
        let room = Room::at(self.folder()).map_err(io)?;
        let mut needed = beside.bytes.saturating_add(BESIDE);
        let mut files = beside.files.saturating_add(FILES_BESIDE);
        if !Reserve::of(self.folder()).is_kept() {
            needed = needed.saturating_add(Reserve::size());
            files = files.saturating_add(Reserve::files());
        }
        for blob in wanted.iter().filter(|blob| !self.has(blob)) {
            // A file takes whole blocks. A sum of sizes from outside may be anything: too much is too much.
            let books = blob.size / BOOKS;
            needed = needed.saturating_add(room.taken_by(blob.size)).saturating_add(books);
            files = files.saturating_add(1);
        }
        let (unit, needed, available, by_bytes) = if needed > room.bytes {
            ("bytes", needed, room.bytes, true)
        } else if files > room.files {
            ("files", files, room.files, false)
        } else {
            return Ok(());
        };
        let spare = wanted.iter().map(|blob| blob.digest).collect();
        let mut reclaimable = 0_u64;
        for (_, size) in self.reclaimable(keep, &spare)? {
            reclaimable = reclaimable.saturating_add(if by_bytes { room.taken_by(size) } else { 1 });
        }
        Err(StoreError::Space { path: self.folder().to_owned(), unit, needed, available, reclaimable })
    }

    /// Blobs, with their sizes, that would go if the releases in `keep` alone were kept and the blobs
    /// in `spare`. Nothing is hashed. None would go while a release cannot be read.
    ///
    /// # Errors
    ///
    /// When a folder of the store cannot be read.
    pub fn reclaimable(
        &self,
        keep: &[Digest],
        spare: &HashSet<Digest>,
    ) -> Result<Vec<(Digest, u64)>, StoreError> {
        let Survey { mut releases, damaged } = self.survey()?;
        if !damaged.is_empty() {
            return Ok(Vec::new());
        }
        releases.retain(|release| keep.contains(&release.digest()));
        self.unneeded(&releases, spare)
    }

    /// Bytes of the Git repositories; what generations share by links counts once.
    ///
    /// # Errors
    ///
    /// When a folder cannot be read.
    pub fn git_space(&self) -> Result<u64, StoreError> {
        let mut sum = 0_u64;
        for name in ["git", "submodules"] {
            let folder = self.folder().join(name);
            let (_, bytes) =
                measure(&folder).map_err(|source| StoreError::Io { what: "read", path: folder, source })?;
            sum = sum.saturating_add(bytes);
        }
        Ok(sum)
    }

    /// Every blob in the store with the size of its file; files of other names are not ours.
    ///
    /// # Errors
    ///
    /// When the folder of blobs cannot be read.
    pub fn blob_files(&self) -> Result<HashMap<Digest, u64>, StoreError> {
        let folder = self.blobs_folder();
        let io = |source| StoreError::Io { what: "read", path: folder.clone(), source };
        let mut found = HashMap::new();
        for file in fs::read_dir(&folder).map_err(io)? {
            let file = file.map_err(io)?;
            if let Some(digest) = file.file_name().to_str().and_then(|name| Digest::from_hex(name).ok()) {
                let metadata = file.metadata().map_err(io)?;
                if metadata.is_file() {
                    found.insert(digest, metadata.len());
                }
            }
        }
        Ok(found)
    }
}

impl Store {
    /// Blobs, with their sizes, that neither a release in `kept` needs nor `spare` names: what a cut
    /// ingest left behind.
    ///
    /// # Errors
    ///
    /// When the folder of blobs cannot be read.
    pub fn unneeded(
        &self,
        kept: &[StoredRelease],
        spare: &HashSet<Digest>,
    ) -> Result<Vec<(Digest, u64)>, StoreError> {
        let needed: HashSet<Digest> =
            kept.iter().flat_map(StoredRelease::blobs).map(|blob| blob.digest).collect();
        let unneeded = |digest: &Digest| !needed.contains(digest) && !spare.contains(digest);
        Ok(self.blob_files()?.into_iter().filter(|(digest, _)| unneeded(digest)).collect())
    }
}

impl StoreWriter {
    /// Drops every release that is not in `keep`, and every blob that no release in `keep` needs,
    /// but for those in `spare`: they belong to what is about to come in.
    /// Safe against a cut anywhere: a release is gone before the first of its blobs, and the same
    /// call again finishes the work. The order of `keep` says whose names win in the index.
    ///
    /// # Errors
    ///
    /// When nothing would be kept, a release in `keep` is not there or cannot be read (then nothing
    /// was dropped), or a file cannot be removed.
    pub fn retire(&self, keep: &[Digest], spare: &HashSet<Digest>) -> Result<Retired, StoreError> {
        if keep.is_empty() {
            return Err(StoreError::KeepsNothing);
        }
        self.make_room();
        // 1. All that is kept can be read, and so is known in full.
        let kept = keep.iter().map(|digest| self.load(*digest)).collect::<Result<Vec<_>, _>>()?;
        let mut retired = Retired::default();
        // 2. The others are releases no more, durably. One that cannot be read goes as well.
        for digest in self.release_digests()?.into_iter().filter(|digest| !keep.contains(digest)) {
            let release = self.load(digest).ok();
            remove(&self.record_path(digest))?;
            retired.releases.push((digest, release));
        }
        let folder = self.releases_folder();
        sync_folder(&folder).map_err(|source| StoreError::Io { what: "sync", path: folder, source })?;
        // 3. No name leads to what goes now.
        let kept = ordered(kept, keep);
        self.write_index(&kept)?;
        // 4. Blobs that nobody needs.
        for (digest, size) in self.unneeded(&kept, spare)? {
            remove(&self.blob_path(digest))?;
            retired.blobs += 1;
            retired.bytes = retired.bytes.saturating_add(size);
        }
        if retired.blobs > 0 {
            let folder = self.blobs_folder();
            sync_folder(&folder).map_err(|source| StoreError::Io { what: "sync", path: folder, source })?;
        }
        Ok(retired)
    }
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match pass(Step::Remove, path).and_then(|()| fs::remove_file(path)) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(StoreError::Io { what: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::Sample;
    use super::*;
    use crate::model::ErrorClass;

    /// A small generator (xorshift), so that a failing round can be run again.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % bound
        }
    }

    fn random(dice: &mut Dice, number: u64) -> Sample {
        let images: Vec<(String, String)> = (0..dice.below(5))
            .map(|_| {
                let blob = dice.below(8);
                (format!("r.example.com/app-{}:{}", dice.below(50), dice.below(3)), format!("image {blob}"))
            })
            .collect::<std::collections::BTreeMap<_, _>>()
            .into_iter()
            .collect();
        let images: Vec<_> = images.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let mut sample = Sample::new("shop", &format!("{number}"), &images);
        for _ in 0..dice.below(6) {
            let layer = format!("shared layer {}", dice.below(10));
            sample.add(&layer, "application/vnd.oci.image.layer.v1.tar+gzip");
        }
        // Sealing anew is what adding a referrer does; a release without images has none.
        if images.is_empty() {
            sample = Sample::new("shop", &format!("{number}"), &[]);
        } else {
            sample.add_referrer(0, &format!("signature {}", dice.below(4)), None);
        }
        sample
    }

    #[test]
    fn what_is_kept_stays_whole_and_what_is_dropped_is_gone() {
        for round in 1..=25_u64 {
            let mut dice = Dice(round.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let folder = tempfile::tempdir().unwrap();
            let writer = Store::open_or_create(folder.path(), "test").unwrap();
            let samples: Vec<Sample> = (0..2 + dice.below(5))
                .map(|number| {
                    let sample = random(&mut dice, number);
                    sample.ingest(&writer, i64::try_from(number).unwrap());
                    sample
                })
                .collect();
            // An orphan, as a cut ingest leaves one.
            writer.put_all([&b"orphan"[..]]).unwrap();
            let mut keep: Vec<usize> = (0..samples.len()).filter(|_| dice.below(2) == 0).collect();
            if keep.is_empty() {
                keep.push(0);
            }
            let digests: Vec<Digest> = keep.iter().map(|at| samples[*at].release_digest()).collect();
            let retired = writer.retire(&digests, &HashSet::new()).unwrap();
            assert_eq!(retired.releases.len(), samples.len() - keep.len(), "round {round}");
            let stored = writer.releases().unwrap();
            assert_eq!(stored.len(), keep.len());
            let mut needed = HashSet::new();
            for release in &stored {
                writer.complete(release).unwrap_or_else(|error| panic!("round {round}: {error}"));
                for blob in release.blobs() {
                    assert_eq!(Digest::of(&writer.read_blob(blob.digest, 1 << 20).unwrap()), blob.digest);
                    needed.insert(blob.digest);
                }
            }
            let left: HashSet<Digest> = writer.blob_files().unwrap().into_keys().collect();
            assert_eq!(left, needed, "round {round}: nothing is left over");
            let again = writer.retire(&digests, &HashSet::new()).unwrap();
            assert_eq!((again.blobs, again.releases.len()), (0, 0), "a second time finds nothing to do");
        }
    }

    #[test]
    fn a_cut_between_any_two_steps_is_made_good_by_the_same_call() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Store::open_or_create(folder.path(), "test").unwrap();
        let old = Sample::new("shop", "1", &[("r.example.com/a:1", "old"), ("r.example.com/b:1", "shared")]);
        let new = Sample::new("shop", "2", &[("r.example.com/a:1", "new"), ("r.example.com/b:1", "shared")]);
        let own = |sample: &Sample| -> Vec<Digest> {
            let other: HashSet<Digest> = new.bytes.keys().copied().collect();
            sample.bytes.keys().filter(|digest| !other.contains(digest)).copied().collect()
        };
        let record = writer.releases_folder().join(format!("{}.json", old.release_digest().hex()));
        // The release file is gone and so are the first `cut` of its blobs.
        for cut in 0..=own(&old).len() {
            old.ingest(&writer, 1);
            new.ingest(&writer, 2);
            fs::remove_file(&record).unwrap();
            for digest in &own(&old)[..cut] {
                fs::remove_file(writer.blob_path(*digest)).unwrap();
            }
            let kept = &writer.releases().unwrap()[0];
            writer.complete(kept).unwrap();
            writer.retire(&[new.release_digest()], &HashSet::new()).unwrap();
            writer.complete(kept).unwrap();
            assert!(own(&old).iter().all(|digest| !writer.blob_path(*digest).exists()));
        }
    }

    #[test]
    fn nothing_is_dropped_when_the_list_of_what_to_keep_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Store::open_or_create(folder.path(), "test").unwrap();
        let (one, two) = (Sample::new("shop", "1", &[]), Sample::new("shop", "2", &[]));
        one.ingest(&writer, 1);
        two.ingest(&writer, 2);
        assert!(matches!(writer.retire(&[], &HashSet::new()), Err(StoreError::KeepsNothing)));
        let error = writer.retire(&[one.release_digest(), Digest::of(b"none")], &HashSet::new()).unwrap_err();
        assert!(matches!(error, StoreError::NoRelease { .. }), "{error}");
        // A kept release that cannot be read: nobody knows what it needs.
        fs::write(writer.blob_path(one.envelope.document.digest), b"x").unwrap();
        assert!(writer.retire(&[one.release_digest()], &HashSet::new()).is_err());
        assert_eq!(writer.release_digests().unwrap().len(), 2);
        writer.complete(&writer.load(two.release_digest()).unwrap()).unwrap();
        // One that is not kept may be unreadable, and goes.
        let retired = writer.retire(&[two.release_digest()], &HashSet::new()).unwrap();
        assert!(matches!(retired.releases[..], [(digest, None)] if digest == one.release_digest()));
    }

    #[test]
    fn what_is_about_to_come_in_is_spared() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Store::open_or_create(folder.path(), "test").unwrap();
        let one = Sample::new("shop", "1", &[]);
        one.ingest(&writer, 1);
        let (mine, other) = (Digest::of(b"of a cut ingest"), Digest::of(b"of nobody"));
        writer.put_all([&b"of a cut ingest"[..], b"of nobody"]).unwrap();
        let spare = HashSet::from([mine]);
        assert_eq!(writer.unneeded(&writer.releases().unwrap(), &spare).unwrap(), [(other, 9)]);
        assert_eq!(writer.retire(&[one.release_digest()], &spare).unwrap().blobs, 1);
        assert!(writer.blob_path(mine).exists() && !writer.blob_path(other).exists());
    }

    #[test]
    fn too_little_room_says_how_much_and_what_would_help() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Store::open_or_create(folder.path(), "test").unwrap();
        let (one, two) = (Sample::new("shop", "1", &[]), Sample::new("shop", "2", &[]));
        one.ingest(&writer, 1);
        two.ingest(&writer, 2);
        writer.check_space(&two.document.blobs, Beside { bytes: 1, files: 1 }, &[]).unwrap();
        let blob = |size| BlobEntry { digest: Digest::of(b"far too large"), size, media_type: String::new() };
        for size in [1_u64 << 60, u64::MAX] {
            let error =
                writer.check_space(&[blob(size)], Beside::default(), &[two.release_digest()]).unwrap_err();
            assert_eq!(error.class(), ErrorClass::Failed);
            let StoreError::Space { unit: "bytes", needed, available, reclaimable, .. } = error else {
                panic!("{error}")
            };
            let shared = media_type_empty();
            let dropped: u64 =
                one.bytes.iter().filter(|(digest, _)| **digest != shared).map(|(_, b)| b.len() as u64).sum();
            assert!(needed >= size && available < needed);
            // Small files, each of which takes a block.
            assert!(reclaimable >= dropped && reclaimable.is_multiple_of(512), "{reclaimable} of {dropped}");
        }
        // What is there already needs no room.
        let there = blob(0);
        let files = Beside { bytes: 0, files: u64::MAX };
        let error = writer.check_space([&there], files, &[]);
        assert!(
            matches!(error, Err(StoreError::Space { unit: "files", .. })) || !counts_files(folder.path())
        );
        assert!(writer.check_space([&there], Beside { bytes: u64::MAX, files: 0 }, &[]).is_err());
    }

    fn counts_files(folder: &Path) -> bool {
        Room::at(folder).unwrap().files < u64::MAX
    }

    fn media_type_empty() -> Digest {
        Digest::of(crate::model::media_type::EMPTY_BYTES)
    }
}
