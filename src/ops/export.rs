//! `export`: the archive of a release written out again from the store, bit for bit as it came in,
//! with its signatures.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;

use super::rollback::{pick_name, target};
use super::{Error, Result, apply, chain};
use crate::archive::copy_out::{self, BlobFiles};
use crate::ledger::{self, History};
use crate::model::{BlobEntry, Digest, Event, Progress, ReleaseName, ReleaseVersion};
use crate::store::{Store, StoreError, StoredRelease};

/// Missing blobs that are told with what they are for.
const TOLD: usize = 50;

/// Where the archive goes.
pub enum Output {
    /// To a file, or into a folder under its usual name; none is the usual name in the present folder.
    File(Option<PathBuf>),
    /// Into a stream.
    Stream(Box<dyn Write + Send>),
}

/// What an export is told.
pub struct Options {
    /// The store.
    pub store: PathBuf,
    /// The release: digest (or the beginning of one), version, `NAME:VERSION`, `active` or `previous`.
    pub release: String,
    /// Name of the release, where the store holds several.
    pub name: Option<ReleaseName>,
    /// Where to.
    pub output: Output,
}

/// What was written.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Format of this report: 1.
    pub format: u32,
    /// The file; absent for a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive: Option<String>,
    /// Its size in bytes.
    pub size: u64,
    /// Identity of the release.
    pub release: Digest,
    /// Its name.
    pub name: ReleaseName,
    /// Its version.
    pub version: ReleaseVersion,
    /// Signatures that are in it.
    pub signatures: usize,
}

/// Writes the archive of a release.
///
/// # Errors
///
/// When there is no such release, something of it is missing or damaged (what, is told), or the
/// archive cannot be written: then nothing is under its name that was not there before.
pub fn export(options: Options, progress: &dyn Progress) -> Result<Report> {
    let store = Store::open_read_only(&options.store)?;
    let release = pick(&store, &options.release, options.name.as_ref())?;
    complete(&store, &release, progress)?;
    let archived = store.archived(&release)?;
    let document = &archived.document;
    let bytes = document.blobs.iter().map(|blob| blob.size).sum();
    progress.event(Event::Start { title: format!("writing {}", document.title()), bytes: Some(bytes) });
    let blobs = Blobs(&store);
    let written = match options.output {
        Output::File(path) => {
            let path = super::build::output_path(path.as_deref(), &document.name, &document.version);
            copy_out::copy_to_file(&path, &archived, &blobs, progress)
                .map(|written| (Some(written.path.display().to_string()), written.size))
        }
        Output::Stream(mut stream) => {
            copy_out::copy_to_stream(&mut *stream, &archived, &blobs, progress).map(|size| (None, size))
        }
    };
    progress.event(Event::Finish { summary: String::new() });
    let (archive, size) = written.map_err(|error| match copy_out::blob_of(&error) {
        // The hint is the store's: the archive to be is not at fault.
        Some(digest) => {
            Error::Store(StoreError::Damaged { path: store.blob_path(digest), why: chain(&error) })
        }
        None => error.into(),
    })?;
    Ok(Report {
        format: 1,
        archive,
        size,
        release: release.digest(),
        name: document.name.clone(),
        version: document.version.clone(),
        signatures: archived.signatures.len(),
    })
}

/// The release that is meant.
fn pick(store: &Store, text: &str, name: Option<&ReleaseName>) -> Result<StoredRelease> {
    if !matches!(text, "active" | "previous") {
        return Ok(store.release(text, name)?);
    }
    let history: History = ledger::read(store.folder())?;
    let name = pick_name(name, &history, store)?;
    let found = if text == "active" {
        history.active(&name).or_else(|| history.target(&name))
    } else {
        let kept: Vec<Digest> = store.release_digests()?.into_iter().collect();
        target(&name, &history, &kept)
    };
    let found = found.ok_or_else(|| Error::NoRelease {
        what: format!("the store `{}` knows no {text} release of `{name}`", store.folder().display()),
    })?;
    apply::known(store, found)
}

/// Refuses a release of which something is missing, and tells what.
fn complete(store: &Store, release: &StoredRelease, progress: &dyn Progress) -> Result<()> {
    let missing: Vec<Digest> = store.missing(release).into_iter().map(|blob| blob.digest).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let uses = store.uses(release, &missing.iter().copied().collect());
    for digest in missing.iter().take(TOLD) {
        let what = uses.get(digest).map_or_else(String::new, |uses| uses.join(", "));
        progress.warn(format!("missing: `{digest}` ({what})"));
    }
    Err(StoreError::Incomplete { release: release.digest(), missing }.into())
}

/// The store as a place of blobs.
struct Blobs<'a>(&'a Store);

impl BlobFiles for Blobs<'_> {
    fn open(&self, blob: &BlobEntry) -> io::Result<File> {
        File::open(self.0.blob_path(blob.digest))
    }
}
