//! Blobs: read by digest, written once each, durable before they have their name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::error::StoreError;
use super::open::{Store, StoreWriter};
use crate::archive::stream::{BlobSink, BlobWrite};
use crate::fsio::atomic::TEMPORARY_PREFIX;
use crate::fsio::{Step, pass, sync_folder};
use crate::model::{BlobEntry, Digest};

/// Threads that wait for the disk while the next blobs are written: a sync is waiting, not work.
/// Measured on ext4: four take 0.1 s for 500 small blobs, and more gain nothing.
const SYNCERS: usize = 4;
/// Blobs that are written and wait for their sync; each holds an open file.
const WAITING: usize = 64;

impl Store {
    /// Where the blob with `digest` lies, or would lie.
    #[must_use]
    pub fn blob_path(&self, digest: Digest) -> PathBuf {
        self.blobs_folder().join(digest.hex())
    }

    /// Whether the blob is there with its size. Whole files alone have that name; the bytes were
    /// hashed when they came in.
    #[must_use]
    pub fn has(&self, blob: &BlobEntry) -> bool {
        fs::symlink_metadata(self.blob_path(blob.digest))
            .is_ok_and(|metadata| metadata.is_file() && metadata.len() == blob.size)
    }

    /// Opens a blob; says its size as well.
    ///
    /// # Errors
    ///
    /// When it is not there or cannot be read.
    pub fn open_blob(&self, digest: Digest) -> Result<(File, u64), StoreError> {
        let path = self.blob_path(digest);
        let open = || {
            let file = File::open(&path)?;
            let size = file.metadata()?.len();
            Ok((file, size))
        };
        open().map_err(|source: io::Error| match source.kind() {
            ErrorKind::NotFound => StoreError::NoBlob { digest },
            _ => StoreError::Io { what: "read", path: path.clone(), source },
        })
    }

    /// Reads a blob of at most `limit` bytes into memory and hashes it: disks lie.
    ///
    /// # Errors
    ///
    /// When it is not there, longer, or holds other bytes than its name says.
    pub fn read_blob(&self, digest: Digest, limit: u64) -> Result<Vec<u8>, StoreError> {
        let (file, _) = self.open_blob(digest)?;
        let path = self.blob_path(digest);
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes).map_err(|source| StoreError::Io {
            what: "read",
            path: path.clone(),
            source,
        })?;
        if bytes.len() as u64 > limit {
            return Err(StoreError::Damaged { path, why: format!("longer than {limit} bytes") });
        }
        let found = Digest::of(&bytes);
        if found != digest {
            return Err(StoreError::Damaged { path, why: format!("its content has the digest `{found}`") });
        }
        Ok(bytes)
    }
}

/// A blob that is written under a temporary name and waits for its sync.
struct Written {
    file: File,
    temporary: Temporary,
    target: PathBuf,
}

/// A temporary file, removed unless it got its name.
struct Temporary {
    path: PathBuf,
    kept: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept {
            // Whoever opens the store for writing next removes it as well.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Written {
    fn publish(mut self) -> Result<(), StoreError> {
        let io = |what, source| StoreError::Io { what, path: self.target.clone(), source };
        pass(Step::SyncFile, &self.target)
            .and_then(|()| self.file.sync_data())
            .map_err(|source| io("sync", source))?;
        pass(Step::Rename, &self.target)
            .and_then(|()| fs::rename(&self.temporary.path, &self.target))
            .map_err(|source| io("write", source))?;
        self.temporary.kept = true;
        Ok(())
    }
}

/// What writer and syncing threads share.
#[derive(Default)]
struct Shared {
    failed: Mutex<Option<StoreError>>,
    blobs: AtomicU64,
    bytes: AtomicU64,
}

impl Shared {
    fn fail(&self, error: StoreError) {
        // The first failure says why; those that follow are its consequences.
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    fn check(&self) -> Result<(), StoreError> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }
}

/// Takes blobs into the store, from several threads. Nothing is promised before [`Ingest::finish`]
/// has come back. It is the sink that an archive is streamed into.
pub struct Ingest<'store> {
    store: &'store StoreWriter,
    shared: Arc<Shared>,
    syncers: Mutex<Option<Syncers>>,
    started: AtomicU64,
}

/// The threads that sync, and the way to them.
struct Syncers {
    sender: SyncSender<Written>,
    threads: Vec<JoinHandle<()>>,
}

/// What an ingest has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ingested {
    /// Blobs.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl StoreWriter {
    /// Begins to take blobs in.
    #[must_use]
    pub fn ingest(&self) -> Ingest<'_> {
        Ingest { store: self, shared: Arc::default(), syncers: Mutex::default(), started: AtomicU64::new(0) }
    }

    /// Takes small blobs in whole, durably: `(media type, bytes)` each. Those that are there are
    /// passed over.
    ///
    /// # Errors
    ///
    /// When one cannot be written.
    pub(super) fn put_all<'a>(&self, contents: impl IntoIterator<Item = &'a [u8]>) -> Result<(), StoreError> {
        let ingest = self.ingest();
        for bytes in contents {
            let blob =
                BlobEntry { digest: Digest::of(bytes), size: bytes.len() as u64, media_type: String::new() };
            if !self.has(&blob) {
                let mut writer = ingest.begin(&blob)?;
                let io = |source| StoreError::Io { what: "write", path: self.blob_path(blob.digest), source };
                writer.write_all(bytes).map_err(io)?;
                writer.commit()?;
            }
        }
        ingest.finish().map(|_| ())
    }
}

impl Ingest<'_> {
    /// Begins one blob. Whoever writes the bytes hashes them, and commits only what is right.
    ///
    /// # Errors
    ///
    /// When the file cannot be made, there is no room for it, or an earlier blob failed.
    pub fn begin(&self, blob: &BlobEntry) -> Result<BlobWriter, StoreError> {
        self.shared.check()?;
        let target = self.store.blob_path(blob.digest);
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let name = format!("{TEMPORARY_PREFIX}{}-{number}", std::process::id());
        let path = self.store.blobs_folder().join(name);
        let io = |source| StoreError::Io { what: "write", path: target.clone(), source };
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path).map_err(io)?;
        let temporary = Temporary { path, kept: false };
        // No room is set aside: writing into blocks that were reserved took twice as long (ext4), and
        // whether there is room for all of them was asked before ([`Store::check_space`]).
        let sender = self.sender()?;
        Ok(BlobWriter {
            written: Written { file, temporary, target },
            blob: blob.clone(),
            length: 0,
            sender,
            shared: Arc::clone(&self.shared),
        })
    }

    fn sender(&self) -> Result<SyncSender<Written>, StoreError> {
        let mut syncers = self.syncers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(syncers) = &*syncers {
            return Ok(syncers.sender.clone());
        }
        let (sender, receiver) = sync_channel(WAITING);
        let receiver = Arc::new(Mutex::new(receiver));
        let mut threads = Vec::new();
        for number in 0..SYNCERS {
            let (receiver, shared) = (Arc::clone(&receiver), Arc::clone(&self.shared));
            let thread = std::thread::Builder::new()
                .name(format!("sync-{number}"))
                .spawn(move || publish_all(&receiver, &shared))
                .map_err(|source| StoreError::Io {
                    what: "begin to write",
                    path: self.store.blobs_folder(),
                    source,
                })?;
            threads.push(thread);
        }
        *syncers = Some(Syncers { sender: sender.clone(), threads });
        Ok(sender)
    }

    /// Waits until every blob that was committed is durable under its name.
    ///
    /// # Errors
    ///
    /// When one of them is not; those that are stay, and a second try passes them over.
    pub fn finish(self) -> Result<Ingested, StoreError> {
        self.join();
        self.shared.check()?;
        let blobs = self.shared.blobs.load(Ordering::Relaxed);
        // Also where nothing was written: a process that was killed may have renamed what this one
        // found there, and not come to this.
        let folder = self.store.blobs_folder();
        sync_folder(&folder).map_err(|source| StoreError::Io { what: "sync", path: folder, source })?;
        Ok(Ingested { blobs, bytes: self.shared.bytes.load(Ordering::Relaxed) })
    }

    fn join(&self) {
        let syncers = self.syncers.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Syncers { sender, threads }) = syncers else { return };
        drop(sender);
        for thread in threads {
            if thread.join().is_err() {
                self.shared.fail(StoreError::Io {
                    what: "sync",
                    path: self.store.blobs_folder(),
                    source: io::Error::other("a syncing thread stopped"),
                });
            }
        }
    }
}

impl Drop for Ingest<'_> {
    /// The lock must not go before the last thread that writes.
    fn drop(&mut self) {
        self.join();
    }
}

impl BlobSink for Ingest<'_> {
    fn wants(&self, blob: &BlobEntry) -> io::Result<bool> {
        Ok(!self.store.has(blob))
    }

    fn begin(&self, blob: &BlobEntry) -> io::Result<Box<dyn BlobWrite + Send>> {
        Ok(Box::new(Ingest::begin(self, blob).map_err(into_io)?))
    }
}

impl BlobWrite for BlobWriter {
    fn commit(self: Box<Self>) -> io::Result<()> {
        BlobWriter::commit(*self).map_err(into_io)
    }
}

/// The error as the archive's reader hands it on; what the disk said stays to be recognised.
fn into_io(error: StoreError) -> io::Error {
    let kind = match &error {
        StoreError::Io { source, .. } => source.kind(),
        _ => ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

fn publish_all(receiver: &Mutex<Receiver<Written>>, shared: &Shared) {
    loop {
        // The guard lives for this statement alone, so that the others take the next blobs meanwhile.
        let next = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(written) = next else { return };
        if let Err(error) = written.publish() {
            shared.fail(error);
        }
    }
}

/// One blob on its way into the store. Dropped without a commit, it leaves nothing.
pub struct BlobWriter {
    written: Written,
    blob: BlobEntry,
    length: u64,
    sender: SyncSender<Written>,
    shared: Arc<Shared>,
}

impl BlobWriter {
    /// Where the blob will lie.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.written.target
    }

    /// All bytes are there and have the digest: gives them their name, once they are synced.
    ///
    /// # Errors
    ///
    /// When the length is another, or an earlier blob failed.
    pub fn commit(self) -> Result<(), StoreError> {
        let Self { written, blob, length, sender, shared } = self;
        if length != blob.size {
            let why = format!("{length} bytes, wanted {}", blob.size);
            return Err(StoreError::Blob { digest: blob.digest, why });
        }
        shared.check()?;
        let path = written.target.clone();
        sender.send(written).map_err(|_| StoreError::Io {
            what: "sync",
            path,
            source: io::Error::other("the syncing threads stopped"),
        })?;
        shared.blobs.fetch_add(1, Ordering::Relaxed);
        shared.bytes.fetch_add(length, Ordering::Relaxed);
        Ok(())
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.blob.size - self.length;
        if bytes.len() as u64 > room {
            return Err(io::Error::other(format!("more than the {} bytes of the blob", self.blob.size)));
        }
        let count = self.written.file.write(bytes)?;
        self.length += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(bytes: &[u8]) -> BlobEntry {
        BlobEntry { digest: Digest::of(bytes), size: bytes.len() as u64, media_type: String::new() }
    }

    fn files(store: &Store) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(store.blobs_folder())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn many_blobs_of_all_sizes_arrive_whole() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Store::open_or_create(folder.path(), "test").unwrap();
        let contents: Vec<Vec<u8>> =
            (0..200_u32).map(|n| n.to_le_bytes().repeat((n as usize * 37) % 500)).collect();
        let large = vec![7_u8; 3 << 20];
        let ingest = writer.ingest();
        let mut bytes = 0;
        let mut names = std::collections::BTreeSet::new();
        for content in contents.iter().chain([&large]) {
            let blob = entry(content);
            if !names.insert(blob.digest.hex()) {
                continue;
            }
            let mut file = ingest.begin(&blob).unwrap();
            for part in content.chunks(1000) {
                file.write_all(part).unwrap();
            }
            file.commit().unwrap();
            bytes += blob.size;
        }
        assert_eq!(ingest.finish().unwrap(), Ingested { blobs: names.len() as u64, bytes });
        assert_eq!(files(&writer), names.into_iter().collect::<Vec<_>>());
        for content in contents.iter().chain([&large]) {
            assert!(writer.has(&entry(content)));
            assert_eq!(&writer.read_blob(Digest::of(content), 4 << 20).unwrap(), content);
        }
    }

    #[test]
    fn what_is_not_committed_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Store::open_or_create(folder.path(), "test").unwrap();
        let ingest = writer.ingest();
        let mut dropped = ingest.begin(&entry(b"dropped")).unwrap();
        dropped.write_all(b"drop").unwrap();
        drop(dropped);
        let mut short = ingest.begin(&entry(b"short")).unwrap();
        short.write_all(b"sho").unwrap();
        assert!(short.commit().unwrap_err().to_string().contains("3 bytes, wanted 5"));
        let mut long = ingest.begin(&entry(b"long")).unwrap();
        assert!(long.write_all(b"longer").is_err());
        drop(long);
        assert_eq!(ingest.finish().unwrap().blobs, 0);
        assert!(files(&writer).is_empty());
    }

    #[test]
    fn a_damaged_blob_is_seen_and_a_wrong_size_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Store::open_or_create(folder.path(), "test").unwrap();
        writer.put_all([&b"content"[..]]).unwrap();
        let blob = entry(b"content");
        fs::write(writer.blob_path(blob.digest), b"CONTENT").unwrap();
        let error = writer.read_blob(blob.digest, 100).unwrap_err().to_string();
        assert!(error.contains("is damaged: its content has the digest"), "{error}");
        assert!(writer.read_blob(blob.digest, 3).unwrap_err().to_string().contains("longer than 3"));
        fs::write(writer.blob_path(blob.digest), b"cont").unwrap();
        assert!(!writer.has(&blob));
        writer.put_all([&b"content"[..]]).unwrap();
        assert_eq!(writer.read_blob(blob.digest, 100).unwrap(), b"content");
        assert!(matches!(writer.read_blob(Digest::of(b"none"), 1), Err(StoreError::NoBlob { .. })));
    }

    #[test]
    fn a_failed_sync_is_told_and_promises_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Store::open_or_create(folder.path(), "test").unwrap();
        let ingest = writer.ingest();
        let blob = entry(b"x");
        let mut file = ingest.begin(&blob).unwrap();
        file.write_all(b"x").unwrap();
        // The name is taken by a folder: the rename fails.
        fs::create_dir(writer.blob_path(blob.digest)).unwrap();
        file.commit().unwrap();
        assert!(matches!(ingest.finish(), Err(StoreError::Io { what: "write", .. })));
        assert!(!writer.has(&blob));
    }
}
