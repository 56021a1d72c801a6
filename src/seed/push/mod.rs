//! Seeding a registry of the site's own: everything that a release's images consist of goes there,
//! under its own digests and below one prefix.
//!
//! In order: every digest is asked for (HEAD); missing blobs, largest first, several at a time, each
//! once, and from there mounted into the other repositories; manifests, those of images before the
//! indexes that lead to them; what refers to them; tags. A tag moves last and by itself, so that a
//! cut leaves each tag at the old release or the new one, whole. At the end the registry is asked
//! again for everything that was sent. Nothing is ever removed: what older releases need stays.

mod early;
mod error;
mod plan;
mod referrers;
mod report;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

pub use self::early::{Early, Sent};
pub use self::error::PushError;
use self::plan::{Plan, WantedBlob, WantedManifest, WantedTag, read_manifest};
pub use self::report::PushReport;
use crate::fsio::Hasher;
use crate::model::{BlobEntry, Digest, Event, Progress, SiteRegistry};
use crate::oci::{self, BlobFile, Moved, OciError, Session, Target};
use crate::store::{Catalog, RecordedRegistry, Store, StoreError, StoredRelease};

/// Questions at a time.
const QUESTIONS: usize = 16;
/// Blobs at a time.
const UPLOADS: usize = 6;
/// Requests to the registry at a time, of all kinds.
pub const PER_HOST: usize = 16;

/// Pushes releases to one registry.
pub struct Pusher {
    target: Target,
    site: SiteRegistry,
    progress: Arc<dyn Progress>,
}

/// What of a plan the registry has.
#[derive(Default)]
struct Held {
    blobs: HashSet<(String, Digest)>,
    manifests: HashSet<(String, Digest)>,
    tags: BTreeMap<(String, String), Digest>,
}

/// Blobs, counted from several tasks.
#[derive(Default)]
struct Counts {
    pushed: [AtomicU64; 2],
    mounted: [AtomicU64; 2],
}

fn count(counter: &[AtomicU64; 2], bytes: u64) {
    counter[0].fetch_add(1, Ordering::Relaxed);
    counter[1].fetch_add(bytes, Ordering::Relaxed);
}

fn read(counter: &[AtomicU64; 2]) -> (u64, u64) {
    (counter[0].load(Ordering::Relaxed), counter[1].load(Ordering::Relaxed))
}

impl Pusher {
    /// Pushes to `site` through `registry`.
    ///
    /// # Errors
    ///
    /// When `registries.conf` blocks it.
    pub fn new(
        registry: &Arc<oci::Registry>,
        site: SiteRegistry,
        progress: &Arc<dyn Progress>,
    ) -> Result<Self, PushError> {
        let target = Target::new(registry, &site)
            .map_err(|source| PushError::Registry { registry: site.to_string(), source: source.into() })?;
        Ok(Self { target, site, progress: Arc::clone(progress) })
    }

    /// The registry, as a store remembers it.
    ///
    /// # Errors
    ///
    /// When nobody answers there.
    pub async fn record(&self) -> Result<RecordedRegistry, PushError> {
        let url = self.target.url().await.map_err(|error| self.fail(error))?;
        Ok(RecordedRegistry { registry: self.site.clone(), url })
    }

    fn fail(&self, source: OciError) -> PushError {
        PushError::Registry { registry: self.site.to_string(), source: source.into() }
    }

    /// Brings all of `release` to the registry. Tags that `running` gives another meaning stay as
    /// they are, until [`Pusher::point`]: what runs may be pulled again at any time.
    ///
    /// # Errors
    ///
    /// When the registry does not take something or does not have it afterwards, or the store does
    /// not hold it. What was sent stays, and is not sent again.
    pub async fn push(
        &self,
        store: &Store,
        release: &StoredRelease,
        running: Option<&StoredRelease>,
        early: &Sent,
    ) -> Result<PushReport, PushError> {
        let plan = self.plan(store, release)?;
        let title = format!("asking {} what it has of {}", self.site, release.document().title());
        self.progress.event(Event::Start { title, bytes: None });
        let held = self.look(&plan).await?;
        let mut report = PushReport { registry: self.site.to_string(), ..PushReport::default() };
        self.push_blobs(store, release, &plan, (&held, early), &mut report).await?;
        let sent = self.push_manifests(store, &plan, &held, &mut report).await?;
        self.point_referrers(store, &plan).await?;
        self.point_tags(store, &plan, &held.tags, running, &mut report).await?;
        self.look_again(&plan, &held, &sent).await?;
        self.progress.event(Event::Finish { summary: report.to_string() });
        Ok(report)
    }

    /// Makes every tag lead to `release`, all of which the registry has.
    ///
    /// # Errors
    ///
    /// When the registry does not take one.
    pub async fn point(&self, store: &Store, release: &StoredRelease) -> Result<(), PushError> {
        let plan = self.plan(store, release)?;
        let tags = self.ask_tags(&plan).await?;
        let mut report = PushReport::default();
        self.point_tags(store, &plan, &tags, None, &mut report).await
    }

    fn plan(&self, store: &Store, release: &StoredRelease) -> Result<Plan, PushError> {
        Plan::new(store, release.document(), Some(release.envelope()), &self.site)
    }

    /// Asks for everything.
    async fn look(&self, plan: &Plan) -> Result<Held, PushError> {
        let blobs = pairs(&plan.blobs);
        let blobs = self.ask_blobs(blobs.into_iter()).await?;
        let manifests = self.ask_manifests(plan.manifests.iter()).await?;
        let tags = self.ask_tags(plan).await?;
        Ok(Held { blobs, manifests, tags })
    }

    async fn ask_blobs<'a>(
        &self,
        wanted: impl Iterator<Item = (&'a BlobEntry, &'a String)>,
    ) -> Result<HashSet<(String, Digest)>, PushError> {
        let answers = stream::iter(wanted.map(|(entry, repository)| async move {
            let there = self.target.has_blob(repository, entry).await.map_err(|error| self.fail(error))?;
            Ok::<_, PushError>(there.then(|| (repository.clone(), entry.digest)))
        }));
        let found: Vec<_> = answers.buffer_unordered(QUESTIONS).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn ask_manifests<'a>(
        &self,
        wanted: impl Iterator<Item = &'a WantedManifest>,
    ) -> Result<HashSet<(String, Digest)>, PushError> {
        let answers = stream::iter(wanted.map(|manifest| async move {
            let digest = manifest.entry.digest;
            let found = self.target.digest_of(&manifest.repository, &digest.to_string()).await;
            let there = found.map_err(|error| self.fail(error))? == Some(digest);
            Ok::<_, PushError>(there.then(|| (manifest.repository.clone(), digest)))
        }));
        let found: Vec<_> = answers.buffer_unordered(QUESTIONS).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn ask_tags(&self, plan: &Plan) -> Result<BTreeMap<(String, String), Digest>, PushError> {
        let answers = stream::iter(plan.tags.keys().map(|key| async move {
            let found = self.target.digest_of(&key.0, &key.1).await.map_err(|error| self.fail(error))?;
            Ok::<_, PushError>(found.map(|digest| (key.clone(), digest)))
        }));
        let found: Vec<_> = answers.buffer_unordered(QUESTIONS).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Brings every blob into every repository that lacks it.
    async fn push_blobs(
        &self,
        store: &Store,
        release: &StoredRelease,
        plan: &Plan,
        (held, early): (&Held, &Sent),
        report: &mut PushReport,
    ) -> Result<(), PushError> {
        let mut work = Vec::new();
        let mut bytes = 0_u64;
        for blob in &plan.blobs {
            let (has, lacks): (Vec<&String>, Vec<&String>) = blob
                .repositories
                .iter()
                .partition(|repository| held.blobs.contains(&((*repository).clone(), blob.entry.digest)));
            for repository in &has {
                let key = ((*repository).clone(), blob.entry.digest);
                let (count, bytes) = if early.pushed.contains(&key) {
                    (&mut report.pushed, &mut report.pushed_bytes)
                } else if early.mounted.contains(&key) {
                    (&mut report.mounted, &mut report.mounted_bytes)
                } else {
                    (&mut report.skipped, &mut report.skipped_bytes)
                };
                *count += 1;
                *bytes += blob.entry.size;
            }
            if !lacks.is_empty() {
                bytes += if has.is_empty() { blob.entry.size } else { 0 };
                work.push((blob, has.first().copied(), lacks));
            }
        }
        if work.is_empty() {
            return Ok(());
        }
        // Only what is in no repository of this release is looked for in those of the others.
        let elsewhere = if work.iter().any(|(_, has, _)| has.is_none()) {
            self.elsewhere(store, Some(release.digest()))
        } else {
            HashMap::new()
        };
        let title = format!("pushing {} to {}", release.document().title(), self.site);
        self.progress.event(Event::Start { title, bytes: Some(bytes) });
        let counts = Counts::default();
        let (counts_ref, elsewhere) = (&counts, &elsewhere);
        stream::iter(work.into_iter().map(|(blob, has, lacks)| async move {
            let from = has.or_else(|| elsewhere.get(&blob.entry.digest));
            self.place_blob(store, blob, from, has.is_none(), &lacks, counts_ref).await
        }))
        .buffer_unordered(UPLOADS)
        .try_collect::<()>()
        .await?;
        for (counter, count, bytes) in [
            (&counts.pushed, &mut report.pushed, &mut report.pushed_bytes),
            (&counts.mounted, &mut report.mounted, &mut report.mounted_bytes),
        ] {
            let (more, more_bytes) = read(counter);
            *count += more;
            *bytes += more_bytes;
        }
        Ok(())
    }

    /// Repositories that other kept releases put their blobs into. What cannot be read is no
    /// reason to stop: the blobs are sent then.
    fn elsewhere(&self, store: &Store, release: Option<Digest>) -> HashMap<Digest, String> {
        let mut found = HashMap::new();
        for other in store.releases().unwrap_or_default() {
            if Some(other.digest()) == release {
                continue;
            }
            let Ok(plan) = self.plan(store, &other) else { continue };
            for blob in plan.blobs {
                if let Some(repository) = blob.repositories.into_iter().next() {
                    found.entry(blob.entry.digest).or_insert(repository);
                }
            }
        }
        found
    }

    /// Brings one blob into the repositories of `lacks`: sent once at most, mounted from there into
    /// the others.
    async fn place_blob(
        &self,
        store: &Store,
        blob: &WantedBlob,
        from: Option<&String>,
        announced: bool,
        lacks: &[&String],
        counts: &Counts,
    ) -> Result<(), PushError> {
        let entry = &blob.entry;
        let meter = Meter::new(entry.size, announced.then(|| Arc::clone(&self.progress)));
        let mut from = from.cloned();
        for repository in lacks {
            let mut session = None;
            if let Some(from) = from.as_ref().filter(|from| from != repository) {
                session = self.mount(repository, entry, from).await?;
                if session.is_none() {
                    count(&counts.mounted, entry.size);
                    meter.done();
                    continue;
                }
            }
            self.send_blob(store, repository, entry, session, &meter).await?;
            count(&counts.pushed, entry.size);
            meter.done();
            from = Some((*repository).clone());
        }
        Ok(())
    }

    async fn mount(&self, to: &str, entry: &BlobEntry, from: &str) -> Result<Option<Session>, PushError> {
        self.target.mount(to, entry, from).await.map_err(|error| self.fail(error))
    }

    async fn send_blob(
        &self,
        store: &Store,
        repository: &str,
        entry: &BlobEntry,
        session: Option<Session>,
        meter: &Meter,
    ) -> Result<(), PushError> {
        let (file, length) = store.open_blob(entry.digest)?;
        let path = store.blob_path(entry.digest);
        if length != entry.size {
            let why = format!("{length} bytes, wanted {}", entry.size);
            return Err(StoreError::Damaged { path, why }.into());
        }
        let file = BlobFile { file: Arc::new(file), path };
        let moved = meter.moved();
        let Err(error) = self.target.upload(repository, entry, &file, session, &moved).await else {
            return Ok(());
        };
        if matches!(error, OciError::Status { status: 400, .. } | OciError::WrongDigest { .. }) {
            // The registry hashes what comes. Before it is blamed, the disk is asked.
            check_blob(file, entry.clone()).await?;
        }
        Err(self.fail(error))
    }

    /// Sends what is missing of the manifests, stage by stage. Answers with those that were sent.
    async fn push_manifests(
        &self,
        store: &Store,
        plan: &Plan,
        held: &Held,
        report: &mut PushReport,
    ) -> Result<HashSet<(String, Digest)>, PushError> {
        let missing: Vec<&WantedManifest> = plan
            .manifests
            .iter()
            .filter(|manifest| {
                !held.manifests.contains(&(manifest.repository.clone(), manifest.entry.digest))
            })
            .collect();
        report.skipped_manifests = (plan.manifests.len() - missing.len()) as u64;
        report.manifests = missing.len() as u64;
        let sparse = Mutex::new(Vec::new());
        let refused = &sparse;
        // They stand in the order of their stages.
        for stage in missing.chunk_by(|a, b| a.stage == b.stage) {
            stream::iter(stage.iter().map(|manifest| async move {
                let raw = read_manifest(store, &manifest.entry)?;
                let reference = manifest.entry.digest.to_string();
                match self.target.put_manifest(&manifest.repository, &reference, &raw).await {
                    Err(OciError::Status { status: 400 | 404 | 422, said, .. }) if manifest.absent > 0 => {
                        let line = format!("`{}` ({} left out; {said})", manifest.of, manifest.absent);
                        refused.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                        Ok(())
                    }
                    done => done.map_err(|error| self.fail(error)),
                }
            }))
            .buffer_unordered(QUESTIONS)
            .try_collect::<()>()
            .await?;
        }
        let mut images = sparse.into_inner().unwrap_or_else(PoisonError::into_inner);
        if !images.is_empty() {
            images.sort();
            return Err(PushError::Sparse { registry: self.site.to_string(), images });
        }
        Ok(missing.into_iter().map(|m| (m.repository.clone(), m.entry.digest)).collect())
    }

    /// Where the registry does not list by itself what refers to a manifest, the index that stands
    /// in for it is written. What others wrote into it stays.
    async fn point_referrers(&self, store: &Store, plan: &Plan) -> Result<(), PushError> {
        for ((repository, subject), wanted) in &plan.referrers {
            let fail = |error| self.fail(error);
            if self.target.lists_referrers(repository, *subject).await.map_err(fail)? {
                continue;
            }
            let mut manifests = Vec::new();
            for manifest in wanted {
                let raw = read_manifest(store, &manifest.entry)?;
                manifests.push((manifest, raw.read().map_err(fail)?));
            }
            let tag = referrers::fallback_tag(*subject);
            let existing = self.target.manifest(repository, &tag).await.map_err(fail)?;
            match referrers::merge(existing.as_ref(), &manifests) {
                Ok(None) => {}
                Ok(Some(index)) => {
                    self.target.put_manifest(repository, &tag, &index).await.map_err(fail)?;
                }
                Err(why) => self.progress.warn(format!(
                    "`{}/{repository}:{tag}` is left alone, for {why}; what refers to `{subject}` can be had by digest",
                    self.site.host()
                )),
            }
        }
        Ok(())
    }

    /// Makes the tags lead to the release, but for those that `running` needs as they are.
    async fn point_tags(
        &self,
        store: &Store,
        plan: &Plan,
        there: &BTreeMap<(String, String), Digest>,
        running: Option<&StoredRelease>,
        report: &mut PushReport,
    ) -> Result<(), PushError> {
        let runs = running.map(|release| Catalog::build(&[release.catalog_source()]));
        let mut moving = Vec::new();
        for (key, wanted) in &plan.tags {
            let meant = runs.as_ref().and_then(|catalog| {
                catalog.tags(&wanted.name).find(|(tag, _)| *tag == key.1).map(|(_, digest)| digest)
            });
            let now = there.get(key).copied();
            if now == Some(wanted.entry.digest) {
                report.skipped_tags += 1;
            } else if meant.is_some_and(|meant| meant != wanted.entry.digest && now == Some(meant)) {
                report.held_tags += 1;
            } else if now.is_none()
                || !referrers::is_companion(&key.1)
                || self.may_replace(store, key, wanted).await?
            {
                moving.push((key, wanted));
            }
        }
        report.tags = moving.len() as u64;
        stream::iter(moving.into_iter().map(|(key, wanted)| async move {
            let raw = read_manifest(store, &wanted.entry)?;
            let fail = |error| self.fail(error);
            self.target.put_manifest(&key.0, &key.1, &raw).await.map_err(fail)?;
            let found = self.target.digest_of(&key.0, &key.1).await.map_err(fail)?;
            if found == Some(wanted.entry.digest) {
                return Ok(());
            }
            let found = found.map_or_else(|| "nothing".to_owned(), |digest| format!("`{digest}`"));
            let what = format!("`{}:{}` (leads to {found}, wanted `{}`)", key.0, key.1, wanted.entry.digest);
            Err(PushError::Lacks { registry: self.site.to_string(), missing: vec![what] })
        }))
        .buffer_unordered(QUESTIONS)
        .try_collect::<()>()
        .await
    }

    /// Whether a tag that holds somebody's signatures may lead to ours: only if ours are those and
    /// more.
    async fn may_replace(
        &self,
        store: &Store,
        key: &(String, String),
        wanted: &WantedTag,
    ) -> Result<bool, PushError> {
        let fail = |error| self.fail(error);
        let ours = read_manifest(store, &wanted.entry)?.read().map_err(fail)?;
        let Some(theirs) = self.target.manifest(&key.0, &key.1).await.map_err(fail)? else {
            return Ok(true);
        };
        if theirs.read().is_ok_and(|theirs| referrers::covers(&ours, &theirs)) {
            return Ok(true);
        }
        self.progress.warn(format!(
            "`{}/{}:{}` holds what this release does not have, so it is left alone; the release's own is `{}` there",
            self.site.host(),
            key.0,
            key.1,
            wanted.entry.digest
        ));
        Ok(false)
    }

    /// Asks again for all that was sent: that it was taken proves nothing.
    async fn look_again(
        &self,
        plan: &Plan,
        held: &Held,
        sent: &HashSet<(String, Digest)>,
    ) -> Result<(), PushError> {
        let new = |repository: &String, digest: Digest| !held.blobs.contains(&(repository.clone(), digest));
        let blobs: Vec<_> =
            pairs(&plan.blobs).into_iter().filter(|(entry, name)| new(name, entry.digest)).collect();
        let manifests: Vec<_> = plan
            .manifests
            .iter()
            .filter(|manifest| sent.contains(&(manifest.repository.clone(), manifest.entry.digest)))
            .collect();
        let has_blobs = self.ask_blobs(blobs.iter().copied()).await?;
        let has_manifests = self.ask_manifests(manifests.iter().copied()).await?;
        let lacks_blobs = blobs
            .iter()
            .filter(|(entry, repository)| !has_blobs.contains(&((*repository).clone(), entry.digest)))
            .map(|(entry, repository)| format!("blob `{}` in `{repository}`", entry.digest));
        let lacks_manifests = manifests
            .iter()
            .filter(|m| !has_manifests.contains(&(m.repository.clone(), m.entry.digest)))
            .map(|m| format!("manifest `{}` of `{}`", m.entry.digest, m.of));
        let missing: Vec<String> = lacks_manifests.chain(lacks_blobs).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(PushError::Lacks { registry: self.site.to_string(), missing })
    }
}

/// Each blob with each repository that must have it.
fn pairs(blobs: &[WantedBlob]) -> Vec<(&BlobEntry, &String)> {
    blobs
        .iter()
        .flat_map(|blob| blob.repositories.iter().map(move |repository| (&blob.entry, repository)))
        .collect()
}

/// Whether a blob of the store is still what it was.
async fn check_blob(file: BlobFile, entry: BlobEntry) -> Result<(), PushError> {
    let path = file.path.clone();
    let hashed = tokio::task::spawn_blocking(move || {
        use std::os::unix::fs::FileExt as _;
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 1 << 20];
        while hasher.length() < entry.size {
            let read = file.file.read_at(&mut buffer, hasher.length())?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
        }
        Ok::<_, std::io::Error>((hasher.finish(), entry.digest))
    });
    let hashed = hashed.await.map_err(std::io::Error::other).and_then(|done| done);
    match hashed {
        Err(source) => Err(StoreError::Io { what: "read", path, source }.into()),
        Ok((found, wanted)) if found != wanted => {
            Err(StoreError::Damaged { path, why: format!("its content has the digest `{found}`") }.into())
        }
        Ok(_) => Ok(()),
    }
}

/// Tells the progress of one blob, never backwards and never past its size.
struct Meter {
    size: u64,
    told: Arc<AtomicU64>,
    progress: Option<Arc<dyn Progress>>,
}

impl Meter {
    fn new(size: u64, progress: Option<Arc<dyn Progress>>) -> Self {
        Self { size, told: Arc::default(), progress }
    }

    fn moved(&self) -> Moved {
        let (told, progress) = (Arc::clone(&self.told), self.progress.clone());
        Arc::new(move |at| {
            let before = told.fetch_max(at, Ordering::Relaxed);
            if let Some(progress) = progress.as_ref().filter(|_| at > before) {
                progress.event(Event::Advance(at - before));
            }
        })
    }

    fn done(&self) {
        (self.moved())(self.size);
    }
}
