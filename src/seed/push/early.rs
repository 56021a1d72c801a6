//! Blobs go to the registry while the archive is still being taken in: what is in the store, synced
//! and under its name, is sent, and the medium is not waited for.
//!
//! This is a head start and no more. Whatever goes wrong here ends it quietly: the push that
//! follows asks for everything, and meets and tells the same.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::sync::OnceCell;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use super::plan::Plan;
use super::{Meter, Pusher, UPLOADS};
use crate::archive::stream::{BlobSink, BlobWrite};
use crate::model::{BlobEntry, Digest, ReleaseDocument, media_type};
use crate::store::Store;

/// How long to wait before looking again whether a blob has its name: syncing takes its time.
const GLANCE: Duration = Duration::from_millis(5);

/// What was brought to the registry: by repository and digest.
#[derive(Debug, Default)]
pub struct Sent {
    pub(super) pushed: HashSet<(String, Digest)>,
    pub(super) mounted: HashSet<(String, Digest)>,
}

/// A push that has begun. Dropped, it ends.
pub struct Early {
    task: JoinHandle<Sent>,
    arrivals: Option<UnboundedSender<BlobEntry>>,
}

impl Drop for Early {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Early {
    /// A sink that hands blobs on to `inner`, and tells of those that it took.
    #[must_use]
    pub fn sink<'a>(&self, inner: &'a dyn BlobSink) -> Announcing<'a> {
        Announcing { inner, arrivals: self.arrivals.clone() }
    }

    /// Waits for what is under way: no more blobs come.
    pub async fn finish(mut self) -> Sent {
        self.arrivals = None;
        (&mut self.task).await.unwrap_or_default()
    }
}

/// See [`Early::sink`].
pub struct Announcing<'a> {
    inner: &'a dyn BlobSink,
    arrivals: Option<UnboundedSender<BlobEntry>>,
}

impl BlobSink for Announcing<'_> {
    fn wants(&self, blob: &BlobEntry) -> io::Result<bool> {
        self.inner.wants(blob)
    }

    fn begin(&self, blob: &BlobEntry) -> io::Result<Box<dyn BlobWrite + Send>> {
        let inner = self.inner.begin(blob)?;
        Ok(Box::new(AnnouncedWrite { inner, blob: blob.clone(), arrivals: self.arrivals.clone() }))
    }
}

struct AnnouncedWrite {
    inner: Box<dyn BlobWrite + Send>,
    blob: BlobEntry,
    arrivals: Option<UnboundedSender<BlobEntry>>,
}

impl io::Write for AnnouncedWrite {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl BlobWrite for AnnouncedWrite {
    fn commit(self: Box<Self>) -> io::Result<()> {
        self.inner.commit()?;
        if let Some(arrivals) = self.arrivals {
            // When nobody listens any more, the head start is over.
            let _ = arrivals.send(self.blob);
        }
        Ok(())
    }
}

/// Where blobs go, and where the registry may have them already.
struct Places {
    wanted: HashMap<Digest, String>,
    elsewhere: HashMap<Digest, String>,
}

/// What the tasks of one head start share.
struct Start {
    pusher: Arc<Pusher>,
    store: Store,
    document: ReleaseDocument,
    places: OnceCell<Places>,
    stopped: AtomicBool,
    sent: Mutex<Sent>,
}

impl Pusher {
    /// Begins to send the blobs of `document` as they come into `store`.
    #[must_use]
    pub fn begin(self: &Arc<Self>, store: Store, document: ReleaseDocument) -> Early {
        let (arrivals, coming) = unbounded_channel();
        let start = Start {
            pusher: Arc::clone(self),
            store,
            document,
            places: OnceCell::new(),
            stopped: AtomicBool::new(false),
            sent: Mutex::default(),
        };
        Early { task: tokio::spawn(start.run(coming)), arrivals: Some(arrivals) }
    }
}

impl Start {
    async fn run(self, coming: UnboundedReceiver<BlobEntry>) -> Sent {
        if self.pusher.target.url().await.is_ok() {
            let next = |mut coming: UnboundedReceiver<BlobEntry>| async {
                coming.recv().await.map(|blob| (blob, coming))
            };
            let this = &self;
            stream::unfold(coming, next)
                .map(|blob| async move {
                    if !this.stopped.load(Ordering::Relaxed) && this.take(&blob).await.is_none() {
                        this.stopped.store(true, Ordering::Relaxed);
                    }
                })
                .buffer_unordered(UPLOADS)
                .for_each(|()| async {})
                .await;
        }
        self.sent.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings one blob to the first repository that must have it; nothing when it could not be done.
    async fn take(&self, blob: &BlobEntry) -> Option<()> {
        let places = self.places.get_or_try_init(|| self.plan()).await.ok()?;
        let Some(repository) = places.wanted.get(&blob.digest) else { return Some(()) };
        while !self.store.has(blob) {
            tokio::time::sleep(GLANCE).await;
        }
        let pusher = &self.pusher;
        if pusher.target.has_blob(repository, blob).await.ok()? {
            return Some(());
        }
        let key = (repository.clone(), blob.digest);
        let mut session = None;
        if let Some(from) = places.elsewhere.get(&blob.digest).filter(|from| *from != repository) {
            session = pusher.mount(repository, blob, from).await.ok()?;
            if session.is_none() {
                self.sent.lock().unwrap_or_else(PoisonError::into_inner).mounted.insert(key);
                return Some(());
            }
        }
        let meter = Meter::new(blob.size, None);
        pusher.send_blob(&self.store, repository, blob, session, &meter).await.ok()?;
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).pushed.insert(key);
        Some(())
    }

    /// Waits for the manifests, which come before all else, and reads them.
    async fn plan(&self) -> Result<Places, ()> {
        let manifests = self.document.blobs.iter().filter(|blob| {
            media_type::is_manifest(&blob.media_type) || media_type::is_index(&blob.media_type)
        });
        for manifest in manifests {
            while !self.store.has(manifest) {
                tokio::time::sleep(GLANCE).await;
            }
        }
        let plan = Plan::new(&self.store, &self.document, None, &self.pusher.site).map_err(drop)?;
        let wanted = plan.blobs.into_iter().filter_map(|blob| {
            let repository = blob.repositories.into_iter().next()?;
            Some((blob.entry.digest, repository))
        });
        Ok(Places { wanted: wanted.collect(), elsewhere: self.pusher.elsewhere(&self.store, None) })
    }
}
