//! `lock`: writes what each image reference of a revision means; and what a build does with that.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::checkout::{Checkout, RevisionOptions};
use super::images::{self, ImageOptions, Wanted};
use super::{Error, Result};
use crate::fsio::{atomic, limits};
use crate::model::config::Referrers;
use crate::model::lock::{Changes, Difference, FILE_NAME, Locked};
use crate::model::{Event, ImageRef, Lock, Platform, Progress, Usage};
use crate::source;
pub use crate::source::lock::LockFile;

/// Places that a warning lists for one image; the rest is counted.
const PLACES: usize = 5;

/// What `lock` is told.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The revision, and what renders it.
    pub revision: RevisionOptions,
    /// Its images.
    pub images: ImageOptions,
    /// Where the lock goes.
    pub output: Output,
    /// Which references may move.
    pub update: Update,
    /// The time that new entries bear, in seconds since 1970; none takes the clock's.
    pub now: Option<i64>,
}

/// Where a lock goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Output {
    /// To `fleetpack.lock` at the root of the work tree.
    #[default]
    WorkTree,
    /// To this file.
    File(PathBuf),
    /// Nowhere: the caller takes the text.
    Text,
}

/// Which references that are locked already are asked for again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Update {
    /// None.
    #[default]
    Keep,
    /// All.
    All,
    /// These. One that means `latest` and is not used stands for every tag of its repository.
    These(Vec<ImageRef>),
}

/// What `lock` did.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Format of this report: 1.
    pub format: u32,
    /// The file, unless the lock was only wanted as a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock: Option<PathBuf>,
    /// Whether the file has other bytes now.
    pub written: bool,
    /// Count of references in the lock.
    pub images: usize,
    /// What changed.
    #[serde(flatten)]
    pub changes: Changes,
    /// The bytes of the lock.
    #[serde(skip)]
    pub text: String,
}

/// Locks every image reference of a revision. What is locked already keeps its digest and its time
/// unless it is to be updated; nobody is asked about it. Where nothing changes, the file's bytes stay.
///
/// # Errors
///
/// When the revision, its manifests or an image cannot be had, the lock that is there cannot be
/// read, or the new one cannot be written.
pub async fn lock(options: Options, progress: Arc<dyn Progress>) -> Result<Report> {
    let checkout = Checkout::open(&options.revision, &progress).await?;
    let config = checkout.config.as_ref();
    let target = match &options.output {
        Output::WorkTree => Some(work_tree(&checkout, &options.revision)?.join(FILE_NAME)),
        Output::File(path) => Some(path.clone()),
        Output::Text => None,
    };
    let before = match &target {
        Some(path) => read(path)?,
        None => checkout.lock()?.map(|lock| (lock.to_text(), lock)),
    };
    let (old_text, before) = before.unwrap_or_default();

    progress.event(Event::Start { title: "rendering".into(), bytes: None });
    let objects = checkout.render(&options.revision, progress.as_ref())?;
    let mut wanted = images::wanted(&checkout, &objects, &options.images, progress.as_ref());
    progress.event(Event::Finish {
        summary: format!("{} objects, {} image references", objects.len(), wanted.images.len()),
    });
    warn_of_floating(&wanted, progress.as_ref());
    wanted.images.retain(|image, _| Lock::covers(image));

    let moving = moving(&options.update, &before, wanted.images.keys())?;
    let mut now = Lock::default();
    for (image, locked) in before.iter() {
        if wanted.images.contains_key(image) && !moving.contains(image) {
            now.set(image.clone(), locked.clone());
            wanted.images.remove(image);
        }
    }
    let kept: Vec<ImageRef> = now.iter().map(|(image, _)| image.clone()).collect();
    let lacking = now.differences(kept.iter(), options.images.platforms(config));
    if !lacking.is_empty() {
        return Err(stale(false, &lacking, &Wanted::default()));
    }

    progress.event(Event::Start { title: format!("resolving {} images", wanted.images.len()), bytes: None });
    // What refers to an image does not change what it is.
    let asked = ImageOptions { referrers: Some(Referrers::None), ..options.images };
    let resolved = images::resolve_all(&asked, config, None, &wanted, &progress).await?;
    progress.event(Event::Finish { summary: String::new() });
    let time = match options.now {
        Some(seconds) => Timestamp::from_second(seconds).map_err(|error| Error::Usage {
            what: format!("`SOURCE_DATE_EPOCH` is {seconds}: {error}"),
            hint: "set it to seconds since 1970, or unset it".into(),
        })?,
        None => Timestamp::now(),
    };
    for entry in resolved.into_iter().map(|image| image.entry) {
        let absent = entry.absent.into_iter().filter_map(|absent| absent.platform);
        let platforms = entry.platforms.into_iter().chain(absent).collect();
        // What was asked for again and means the same keeps its time, so that its block does not change.
        let old = before.get(&entry.reference).filter(|old| old.digest == entry.digest);
        let resolved = old.map_or(time, |old| old.resolved);
        now.set(entry.reference, Locked { digest: entry.digest, platforms, resolved });
    }

    let text = now.to_text();
    let written = text != old_text;
    if let Some(path) = target.as_deref().filter(|_| written) {
        atomic::write_atomic(path, text.as_bytes()).map_err(|error| Error::io("write", path, error))?;
    }
    Ok(Report {
        format: 1,
        written: written && target.is_some(),
        lock: target,
        images: now.len(),
        changes: now.changes(&before),
        text,
    })
}

/// The root of the work tree that a lock goes to.
fn work_tree(checkout: &Checkout, options: &RevisionOptions) -> Result<PathBuf> {
    let (name, root) = match &checkout.remote {
        // What was fetched lies in a cache, where nobody would look for a lock.
        Some(url) => (url.to_string(), None),
        None => (options.repository.display().to_string(), checkout.repository.work_tree()),
    };
    root.ok_or_else(|| Error::Usage {
        what: format!("the repository `{name}` has no work tree to write {FILE_NAME} in"),
        hint: "name the file with `--output FILE`; `-` prints it".into(),
    })
}

/// The lock file at `path`, if there is one, with its text.
fn read(path: &Path) -> Result<Option<(String, Lock)>> {
    let failed = |error| Error::io("read", path, error);
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(limits::CONFIG_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limits::CONFIG_FILE {
        let why = format!("larger than {} bytes", limits::CONFIG_FILE);
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, why)));
    }
    let lock = source::lock::parse(&bytes)?;
    Ok(Some((String::from_utf8_lossy(&bytes).into_owned(), lock)))
}

/// Which references are to be asked for again.
fn moving<'a>(
    update: &Update,
    before: &Lock,
    wanted: impl Iterator<Item = &'a ImageRef>,
) -> Result<BTreeSet<ImageRef>> {
    let wanted: BTreeSet<&ImageRef> = wanted.collect();
    let these = match update {
        Update::Keep => &[][..],
        Update::All => return Ok(wanted.into_iter().cloned().collect()),
        Update::These(these) => these.as_slice(),
    };
    let mut chosen = BTreeSet::new();
    for name in these {
        if wanted.contains(name) {
            chosen.insert(name.clone());
            continue;
        }
        let repository = wanted.iter().filter(|image| image.name() == name.name());
        let tags: Vec<ImageRef> = repository.map(|image| (*image).clone()).collect();
        if name.tag() != Some("latest") || tags.is_empty() {
            let why = match before.get(name) {
                _ if !Lock::covers(name) => "holds a digest, which is a lock of its own",
                Some(_) => "is locked, but no longer used by the revision",
                None => "is not used by the revision",
            };
            return Err(Error::Usage {
                what: format!("`--update {name}`: the reference {why}, so there is nothing to move"),
                hint: match tags.as_slice() {
                    [] => {
                        "name references as the manifests do; the repository's path stands before `--update`"
                            .into()
                    }
                    tags => format!(
                        "the revision uses {}",
                        tags.iter().map(|tag| format!("`{tag}`")).collect::<Vec<_>>().join(", ")
                    ),
                },
            });
        }
        chosen.extend(tags);
    }
    Ok(chosen)
}

/// Warns of references without a tag, or with the tag `latest`: they say nothing about what runs,
/// locked or not.
fn warn_of_floating(wanted: &Wanted, progress: &dyn Progress) {
    for (image, want) in &wanted.images {
        if image.digest().is_some() || image.tag() != Some("latest") {
            continue;
        }
        let mut places: Vec<String> = want.places.iter().take(PLACES).map(|at| place(&at.usage)).collect();
        if want.places.len() > PLACES {
            places.push(format!("{} more places", want.places.len() - PLACES));
        }
        if places.is_empty() {
            places.push("`--image` or `images.include`".into());
        }
        progress.warn(format!(
            "`{image}`: `latest`, or no tag, may mean something else every day; give it a version in {}",
            places.join(", ")
        ));
    }
}

fn place(usage: &Usage) -> String {
    format!("{} ({}, {})", usage.place(), usage.object, usage.field)
}

/// Compares the lock of a revision with its images. With `strict` any difference is an error;
/// without, references that are not locked are warned of. So are those without a version, anyway.
pub(super) fn check(
    lock: Option<&Lock>,
    wanted: &Wanted,
    platforms: &[Platform],
    strict: bool,
    progress: &dyn Progress,
) -> Result<()> {
    warn_of_floating(wanted, progress);
    let empty = Lock::default();
    let differences = lock.unwrap_or(&empty).differences(wanted.images.keys(), platforms);
    if strict && (lock.is_none() || !differences.is_empty()) {
        return Err(stale(lock.is_none(), &differences, wanted));
    }
    let (mut missing, mut unused) = (Vec::new(), Vec::new());
    for difference in &differences {
        match difference {
            Difference::Missing { image } => missing.push(format!("`{image}`")),
            Difference::Unused { image } => unused.push(format!("`{image}`")),
            // Resolving the image tells it.
            Difference::Platform { .. } => {}
        }
    }
    if !unused.is_empty() {
        progress.note(format!(
            "{FILE_NAME} names what nothing uses: {}; `fleetpack lock` takes it out",
            unused.join(", ")
        ));
    }
    match (lock, missing.len()) {
        (_, 0) => {}
        (None, count) => progress.note(format!(
            "the revision has no {FILE_NAME}: references by tag ({count}) mean what their registries say now; `fleetpack lock` fixes that"
        )),
        (Some(_), _) => progress.warn(format!(
            "not in {FILE_NAME}, so taken as the registry has it now: {}; run `fleetpack lock` and commit the file",
            missing.join(", ")
        )),
    }
    Ok(())
}

fn stale(missing: bool, differences: &[Difference], wanted: &Wanted) -> Error {
    let line = |difference: &Difference| match difference {
        Difference::Missing { image } => {
            match wanted.images.get(image).and_then(|want| want.places.first()) {
                Some(at) => format!("{difference}: {}", place(&at.usage)),
                None => difference.to_string(),
            }
        }
        Difference::Unused { .. } | Difference::Platform { .. } => difference.to_string(),
    };
    let update = differences.iter().filter_map(|difference| match difference {
        Difference::Platform { image, .. } => Some(image.clone()),
        Difference::Missing { .. } | Difference::Unused { .. } => None,
    });
    Error::Stale { missing, differences: differences.iter().map(line).collect(), update: update.collect() }
}
