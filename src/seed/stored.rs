//! The store as content: what is applied while the server runs is seen at the next request.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::content::{Active, Content, Opened, Snapshot};
use crate::ledger;
use crate::model::progress::Silent;
use crate::model::{Digest, Progress, ReleaseName, chain};
use crate::store::{Stamp, Store, git};

/// A store that is served.
pub struct StoreContent {
    store: Store,
    /// The last snapshot, and the state of the store that it was made from.
    last: Mutex<Option<(Stamp, Arc<Snapshot>)>>,
    /// Who hears of what in the store is damaged.
    progress: Arc<dyn Progress>,
}

impl StoreContent {
    /// Serves `store`.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store, last: Mutex::new(None), progress: Arc::new(Silent) }
    }

    /// Says to `progress` what in the store is damaged, once for each state of the store.
    #[must_use]
    pub fn telling(self, progress: Arc<dyn Progress>) -> Self {
        Self { progress, ..self }
    }

    /// Reads all releases. Where two give one tag different digests, the one that the ledger's last
    /// `begin` of its name aimed at comes first, then the newest.
    fn read(&self) -> io::Result<Snapshot> {
        let history = ledger::read(self.store.folder()).map_err(io::Error::other)?;
        let targets: Vec<Digest> = history.names().filter_map(|name| history.target(name)).collect();
        let (catalog, damaged) = self.store.catalog(&targets).map_err(io::Error::other)?;
        for release in damaged {
            self.progress.warn(format!(
                "release `{}` is not served by name: {}; `fleetpack scrub` says what to do",
                release.digest,
                chain(&release.error)
            ));
        }
        let mut active = Vec::new();
        for name in history.names() {
            let Some(digest) = history.active(name) else { continue };
            // One that is damaged was told of above.
            let Ok(Some(release)) = self.store.release_by_digest(digest) else { continue };
            let version = release.document().version.to_string();
            active.push(Active { name: name.clone(), version, digest });
        }
        Ok(Snapshot { catalog, active })
    }
}

impl Content for StoreContent {
    fn snapshot(&self) -> io::Result<Arc<Snapshot>> {
        // The stamp is taken before the reading: a change in between makes the next look read again.
        let stamp = self.store.stamp();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, snapshot)) = last.as_ref()
            && *known == stamp
        {
            return Ok(Arc::clone(snapshot));
        }
        let snapshot = match (self.read(), last.as_ref()) {
            (Ok(snapshot), _) => Arc::new(snapshot),
            // A ledger that is damaged while the server runs: what it led to still leads there.
            (Err(error), Some((_, before))) => {
                self.progress.warn(format!("what is served stays as it was: {}", chain(&error)));
                Arc::clone(before)
            }
            (Err(error), None) => return Err(error),
        };
        *last = Some((stamp, Arc::clone(&snapshot)));
        Ok(snapshot)
    }

    fn open(&self, digest: Digest) -> io::Result<Opened> {
        let file = fs::File::open(self.store.blob_path(digest))?;
        let size = file.metadata()?.len();
        Ok(Opened { file: Arc::new(file), offset: 0, size, unproved: None })
    }

    fn repository(&self, name: &ReleaseName) -> io::Result<PathBuf> {
        let root = self.store.folder().join("git");
        let generation = git::current(&root, name).map_err(io::Error::other)?;
        let generation = generation.ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("no release of `{name}` is in the store"))
        })?;
        Ok(generation.path().to_owned())
    }

    fn submodule(&self, release: Option<&ReleaseName>, name: &ReleaseName) -> io::Result<PathBuf> {
        let none = |why: String| io::Error::new(io::ErrorKind::NotFound, why);
        let found = git::submodules_named(self.store.folder(), name).map_err(io::Error::other)?;
        if let Some(release) = release {
            let found = found.into_iter().find(|(line, _)| line == release);
            let (_, generation) =
                found.ok_or_else(|| none(format!("no release of `{release}` has a submodule `{name}`")))?;
            return Ok(generation.path().to_owned());
        }
        match found.as_slice() {
            [] => Err(none(format!("no release or submodule `{name}` is in the store"))),
            [(_, generation)] => Ok(generation.path().to_owned()),
            several => {
                let urls: Vec<_> =
                    several.iter().map(|(line, _)| format!("/git/{line}/{name}.git")).collect();
                Err(none(format!("several releases have a submodule `{name}`: wanted {}", urls.join(" or "))))
            }
        }
    }
}
