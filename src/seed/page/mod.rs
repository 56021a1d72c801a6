//! The status page at `/`: what the store knows of the site, for people and as JSON.
//!
//! `serve` has no cluster: health is what the ledger recorded last, and the page says when that
//! was. It is one file without scripts and without references to anything else.

mod html;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::Serialize;

use super::{Front, Page};
use crate::fsio::available_space;
use crate::ledger::{self, Attempt, Entry, History, Outcome};
use crate::model::{Digest, ReleaseDocument, ReleaseName, ReleaseVersion};
use crate::store::{Stamp, Store, StoredRelease};

/// Attempts of a release line that are told.
const ATTEMPTS: usize = 20;

/// What the page says.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Site {
    /// Format of this report: 1.
    format: u32,
    /// Which fleetpack serves.
    generator: &'static str,
    /// What is served: `store` or `archive`.
    source: &'static str,
    /// Bytes free on the store's file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    free: Option<u64>,
    /// Bytes of all blobs of kept releases, each once.
    used: u64,
    /// Each line of releases.
    lines: Vec<ReleaseLine>,
}

/// One line of releases.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ReleaseLine {
    name: ReleaseName,
    /// `healthy`, `failed`, `unfinished`, or `seeded` where no cluster was ever touched.
    state: &'static str,
    /// When that was recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    recorded: Option<Timestamp>,
    /// Why the last attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Digest of the release that last became healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    active: Option<Digest>,
    /// Digest of the release that tags and Git lead to.
    #[serde(skip_serializing_if = "Option::is_none")]
    served: Option<Digest>,
    /// Every kept release, the newest first.
    releases: Vec<Kept>,
    /// What was done, the latest first.
    history: Vec<Done>,
}

/// A kept release.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    release: Digest,
    version: ReleaseVersion,
    sequence: u64,
    commit: String,
    created: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    ingested: Option<Timestamp>,
    /// Bytes of all its blobs.
    size: u64,
    /// How many objects it applies.
    objects: usize,
    images: Vec<Image>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Image {
    reference: String,
    digest: Digest,
    platforms: Vec<String>,
}

/// Something that was done.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Done {
    time: Timestamp,
    action: String,
    release: Digest,
    /// Its version, where the store still has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<ReleaseVersion>,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The pages of a store or an archive.
pub struct StatusPage {
    from: From,
    /// The last answer, and the state of the store that it was made from.
    last: Mutex<Option<(Option<Stamp>, Arc<Site>)>>,
}

enum From {
    Store(Store),
    Archive(Box<(Digest, ReleaseDocument)>),
}

impl StatusPage {
    /// Of a store.
    #[must_use]
    pub const fn of_store(store: Store) -> Self {
        Self { from: From::Store(store), last: Mutex::new(None) }
    }

    /// Of an archive, which holds one release and knows of no cluster.
    #[must_use]
    pub fn of_archive(release: Digest, document: ReleaseDocument) -> Self {
        Self { from: From::Archive(Box::new((release, document))), last: Mutex::new(None) }
    }

    fn site(&self) -> io::Result<Site> {
        let stamp = match &self.from {
            From::Store(store) => Some(store.stamp()),
            From::Archive(_) => None,
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let known = last.as_ref().filter(|(known, _)| *known == stamp).map(|(_, site)| Arc::clone(site));
        let site = if let Some(site) = known {
            site
        } else {
            let made = Arc::new(self.read()?);
            *last = Some((stamp, Arc::clone(&made)));
            made
        };
        drop(last);
        // Space changes without the store: it is asked for each time.
        let free = match &self.from {
            From::Store(store) => available_space(store.folder()).ok(),
            From::Archive(_) => None,
        };
        Ok(Site { free, ..Site::clone(&site) })
    }

    fn read(&self) -> io::Result<Site> {
        match &self.from {
            From::Store(store) => {
                let history = ledger::read(store.folder()).map_err(io::Error::other)?;
                let releases = store.releases().map_err(io::Error::other)?;
                Ok(of_store(&releases, &history))
            }
            From::Archive(archive) => {
                let (release, document) = archive.as_ref();
                let line = ReleaseLine {
                    name: document.name.clone(),
                    state: "seeded",
                    recorded: None,
                    error: None,
                    active: None,
                    served: Some(*release),
                    releases: vec![kept(*release, document, None)],
                    history: Vec::new(),
                };
                Ok(site("archive", document.blobs.iter().map(|blob| blob.size).sum(), vec![line]))
            }
        }
    }
}

impl Front for StatusPage {
    fn page(&self, path: &str, json: bool) -> io::Result<Option<Page>> {
        match path {
            "/" if !json => Ok(Some(Page {
                media_type: "text/html; charset=utf-8",
                body: html::page(&self.site()?, Timestamp::now()).into_bytes(),
            })),
            "/" | "/status.json" => Ok(Some(Page {
                media_type: "application/json",
                body: serde_json::to_vec(&self.site()?).map_err(io::Error::other)?,
            })),
            _ => Ok(None),
        }
    }
}

fn site(source: &'static str, used: u64, lines: Vec<ReleaseLine>) -> Site {
    let generator = concat!("fleetpack ", env!("CARGO_PKG_VERSION"));
    Site { format: 1, generator, source, free: None, used, lines }
}

fn of_store(releases: &[StoredRelease], history: &History) -> Site {
    let sizes: std::collections::HashMap<Digest, u64> =
        releases.iter().flat_map(StoredRelease::blobs).map(|blob| (blob.digest, blob.size)).collect();
    let mut names: Vec<&ReleaseName> = history.names().collect();
    names.extend(releases.iter().map(|release| &release.document().name));
    names.sort();
    names.dedup();
    let lines = names.into_iter().map(|name| line(name, releases, history)).collect();
    site("store", sizes.values().sum(), lines)
}

fn line(name: &ReleaseName, releases: &[StoredRelease], history: &History) -> ReleaseLine {
    let mut own: Vec<&StoredRelease> =
        releases.iter().filter(|release| release.document().name == *name).collect();
    own.sort_by_key(|release| std::cmp::Reverse((release.document().sequence, release.ingested())));
    let last = history.last_attempt(name);
    let (state, recorded, error) = match last.map(|last| (last, &last.outcome)) {
        None => ("seeded", None, None),
        Some((_, Outcome::Succeeded { time })) => ("healthy", Some(*time), None),
        Some((_, Outcome::Failed { time, error })) => ("failed", Some(*time), Some(error.clone())),
        Some((last, Outcome::Unfinished | Outcome::Superseded)) => ("unfinished", Some(last.began), None),
    };
    let version = |digest: Digest| {
        own.iter().find(|kept| kept.digest() == digest).map(|kept| kept.document().version.clone())
    };
    let mut done: Vec<(u64, Done)> = history
        .history(name)
        .map(|attempt| (attempt.number, attempted(attempt, version(attempt.release))))
        .collect();
    for line in history.lines() {
        let (of, release, action) = match &line.entry {
            Entry::Seeded { name, release } => (name, *release, "seed"),
            Entry::Healed { name, release, .. } => (name, *release, "heal"),
            _ => continue,
        };
        if of == name {
            let (time, version) = (line.time, version(release));
            let (action, outcome) = (action.to_owned(), "succeeded");
            done.push((line.number, Done { time, action, release, version, outcome, error: None }));
        }
    }
    done.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    ReleaseLine {
        name: name.clone(),
        state,
        recorded,
        error,
        active: history.active(name),
        served: history.target(name),
        releases: own
            .iter()
            .map(|release| kept(release.digest(), release.document(), Some(release.ingested())))
            .collect(),
        history: done.into_iter().take(ATTEMPTS).map(|(_, done)| done).collect(),
    }
}

fn attempted(attempt: &Attempt, version: Option<ReleaseVersion>) -> Done {
    let (outcome, error) = match &attempt.outcome {
        Outcome::Unfinished => ("unfinished", None),
        Outcome::Superseded => ("superseded", None),
        Outcome::Succeeded { .. } => ("succeeded", None),
        Outcome::Failed { error, .. } => ("failed", Some(error.clone())),
    };
    let (time, action, release) = (attempt.began, attempt.action.to_string(), attempt.release);
    Done { time, action, release, version, outcome, error }
}

fn kept(release: Digest, document: &ReleaseDocument, ingested: Option<Timestamp>) -> Kept {
    let image = |image: &crate::model::release::ImageEntry| Image {
        reference: image.reference.to_string(),
        digest: image.digest,
        platforms: image.platforms.iter().map(ToString::to_string).collect(),
    };
    Kept {
        release,
        version: document.version.clone(),
        sequence: document.sequence,
        commit: document.git.commit.to_string(),
        created: document.created,
        ingested,
        size: document.blobs.iter().map(|blob| blob.size).sum(),
        objects: document.rendered.objects.iter().filter(|object| object.role.is_applied()).count(),
        images: document.images.iter().map(image).collect(),
    }
}
