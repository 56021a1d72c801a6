//! `scrub`: everything the store holds is read and hashed again; what is damaged is moved aside,
//! named with who needs it, and made whole again as far as the store or an archive can do that.
//!
//! What an archive is believed: nothing. Its bytes are taken where they have a digest that a
//! release in the store needs, and the record of that release was written only after its signature
//! was verified. So an archive of anybody serves, signed or not, and needs no key.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::install::Site;
use super::{Result, archives, chain};
use crate::archive::{self, BlobSink, BlobWrite};
use crate::ledger;
use crate::model::{BlobEntry, Digest, ErrorClass, Event, Progress, ReleaseName};
use crate::store::{Ingest, RewrittenFile, Store, StoreError, StoreWriter, StoredRelease, Survey, git};

/// What a scrub is told.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The store.
    pub store: PathBuf,
    /// Archives to take damaged and missing blobs from, in turn; `-` is standard input.
    pub repair: Vec<PathBuf>,
}

/// What a file of the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// A blob.
    Blob,
    /// The record of a release.
    Release,
    /// A generation of a Git repository, or the link to it.
    Git,
    /// The ledger.
    Ledger,
    /// `index.json`, `oci-layout`, `fleetpack-store.json` or `serve.json`.
    File,
}

/// What is the matter with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// It is there and is not what it must be.
    Damaged,
    /// A release needs it and it is not there.
    Missing,
}

/// A release that needs something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Need {
    /// Identity of the release.
    pub release: Digest,
    /// `NAME VERSION (short digest)`, or the short digest alone where the release cannot be read.
    pub title: String,
    /// What for: `image docker.io/library/nginx:1`, `git bundle` …
    pub uses: Vec<String>,
}

/// One thing that was wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// What it is.
    pub kind: Kind,
    /// Whether it is damaged or missing.
    pub state: State,
    /// Its path in the store.
    pub file: String,
    /// What was found.
    pub why: String,
    /// Releases that need it; none needs a blob that a cut command left behind.
    pub needed_by: Vec<Need>,
    /// Where the damaged one was moved to, as a path in the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<String>,
    /// How it became whole again; absent while it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mended: Option<String>,
}

impl Problem {
    /// Whether something that the site needs is still not whole.
    fn is_open(&self) -> bool {
        self.mended.is_none() && (self.kind != Kind::Blob || !self.needed_by.is_empty())
    }
}

/// What a scrub found and did.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Format of this report: 1.
    pub format: u32,
    /// The store.
    pub store: String,
    /// Whether all that the site needs is whole now.
    pub whole: bool,
    /// Blobs that were hashed.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Releases that can be read.
    pub releases: usize,
    /// Generations of Git repositories that were read.
    pub generations: usize,
    /// Whole lines of the ledger.
    pub ledger_lines: u64,
    /// What was wrong, and is or is not any more.
    pub problems: Vec<Problem>,
    /// Archives that could not be read to their end, with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unread_archives: Vec<String>,
}

impl Report {
    /// How the command ends where something is still not whole: a ledger that does not hold together
    /// is refused, anything else is incomplete.
    #[must_use]
    pub fn class(&self) -> Option<ErrorClass> {
        let mut open = self.problems.iter().filter(|problem| problem.is_open()).peekable();
        open.peek()?;
        if open.any(|problem| problem.kind == Kind::Ledger) {
            return Some(ErrorClass::Refused);
        }
        Some(ErrorClass::Incomplete)
    }

    /// What to do where something is still not whole.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self.class()? {
            ErrorClass::Refused => Some(
                "the ledger was changed in more than a few bytes, or in its last line: put its last backup in place, \
                 or remove the last line if that one is wrong; then run the same command again"
                    .to_owned(),
            ),
            _ => Some(
                "take it again from an archive of the release that needs it: \
                 `fleetpack scrub --repair ARCHIVE`; or apply that archive again"
                    .to_owned(),
            ),
        }
    }
}

/// What was found so far.
#[derive(Default)]
struct Findings {
    problems: Vec<Problem>,
    /// Places in `problems` of blobs that are damaged or missing.
    blobs: BTreeMap<Digest, usize>,
    /// Archives that were not read to their end.
    unread: Vec<String>,
}

/// Scrubs the store.
///
/// # Errors
///
/// When there is no store, another process writes to it, or a file cannot be moved or written. What
/// is wrong with the store's content is in the report, and its class says how to end.
pub fn scrub(options: &Options, progress: &dyn Progress) -> Result<Report> {
    Store::open_read_only(&options.store)?;
    let store = Store::open_or_create(&options.store, "scrub")?;
    let mut findings = Findings::default();
    // 1. Every blob; what is damaged is moved aside as soon as it is found.
    let hashed = store.rehash(progress)?;
    for bad in hashed.damaged {
        let problem = Problem {
            why: bad.why,
            quarantined: Some(inside(&store, &bad.moved_to)),
            ..Problem::of_blob(bad.digest, State::Damaged)
        };
        findings.blobs.insert(bad.digest, findings.problems.len());
        findings.problems.push(problem);
    }
    // 2. The small files that do not depend on what there is.
    for file in store.check_fixed_files()? {
        findings.rewritten(&store, file, "written anew");
    }
    if let Some(file) = store.check_endpoint_file()? {
        findings.rewritten(&store, file, "moved away; `fleetpack serve` writes it when it starts");
    }
    if let Err(error) = store.registry() {
        // Nobody else knows which registry it named: the next push writes it anew.
        let why = format!("{error}; push the active release again with `fleetpack apply --registry`");
        findings.problems.push(Problem::new(Kind::File, State::Damaged, "registry.json".to_owned(), why));
    }
    // 3. The ledger, by its own chain.
    let ledger_lines = findings.ledger(&store)?;
    // 4. Records of releases and what they need: from the store itself, then from archives.
    findings.records(&store)?;
    findings.missing(&store)?;
    for archive in &options.repair {
        findings.repair(&store, archive, progress)?;
    }
    store.rederive()?;
    findings.settle(&store)?;
    // 5. Git and the index, which follow from the rest; without a ledger nobody knows in what order.
    let (generations, broken) = findings.check_git(&store, progress)?;
    let folder = store.folder().to_owned();
    let releases = store.releases()?.len();
    if ledger_lines.is_some() {
        let site = Site::of(store)?;
        findings.mend_git(&site, broken)?;
        let first = site.aims(None);
        if let Some(file) = site.store.check_index(&first)? {
            findings.rewritten(&site.store, file, "made anew from the releases");
        }
    }
    let mut report = Report {
        format: 1,
        store: folder.display().to_string(),
        whole: false,
        blobs: hashed.blobs,
        bytes: hashed.bytes,
        releases,
        generations,
        ledger_lines: ledger_lines.unwrap_or(0),
        problems: findings.problems,
        unread_archives: findings.unread,
    };
    report.whole = report.class().is_none();
    Ok(report)
}

/// A path as it is called within the store.
fn inside(store: &Store, path: &Path) -> String {
    path.strip_prefix(store.folder()).unwrap_or(path).display().to_string()
}

impl Problem {
    fn of_blob(digest: Digest, state: State) -> Self {
        Self::new(Kind::Blob, state, format!("blobs/sha256/{}", digest.hex()), String::new())
    }

    const fn new(kind: Kind, state: State, file: String, why: String) -> Self {
        Self { kind, state, file, why, needed_by: Vec::new(), quarantined: None, mended: None }
    }
}

impl Findings {
    fn rewritten(&mut self, store: &Store, file: RewrittenFile, how: &str) {
        let state = if file.moved_to.is_some() { State::Damaged } else { State::Missing };
        let moved_to = file.moved_to.as_ref().map(|path| inside(store, path));
        self.problems.push(Problem {
            quarantined: moved_to,
            mended: Some(how.to_owned()),
            ..Problem::new(Kind::File, state, file.name.to_owned(), file.why)
        });
    }

    /// Checks the ledger; answers with its lines, unless it does not hold together.
    fn ledger(&mut self, store: &StoreWriter) -> Result<Option<u64>> {
        let aside = store.quarantine_place(ledger::FILE_NAME);
        let problem = |why| Problem::new(Kind::Ledger, State::Damaged, ledger::FILE_NAME.to_owned(), why);
        match ledger::mend(store.folder(), store.lock(), &aside) {
            Ok((lines, None)) => Ok(Some(lines)),
            Ok((lines, Some(mended))) => {
                let numbers: Vec<_> = mended.lines.iter().map(u64::to_string).collect();
                self.problems.push(Problem {
                    quarantined: Some(inside(store, &mended.moved_to)),
                    mended: Some(format!("line {} brought back: the chain proves it", numbers.join(", "))),
                    ..problem(mended.error)
                });
                Ok(Some(lines))
            }
            Err(error @ (ledger::LedgerError::Line { .. } | ledger::LedgerError::Newer { .. })) => {
                self.problems.push(problem(error.to_string()));
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Rebuilds records that cannot be read, as far as the store has what they name.
    fn records(&mut self, store: &StoreWriter) -> Result<()> {
        for digest in store.release_digests()? {
            let Err(error) = store.check_record(digest) else { continue };
            let file = format!("releases/{}.json", digest.hex());
            let need = Need { release: digest, title: digest.short(), uses: vec!["record".to_owned()] };
            let known = self.problems.iter().position(|problem| problem.file == file);
            let at = known.unwrap_or_else(|| {
                let problem = Problem::new(Kind::Release, State::Damaged, file, error.to_string());
                self.problems.push(Problem { needed_by: vec![need], ..problem });
                self.problems.len() - 1
            });
            match store.rebuild_record(digest) {
                Ok(rebuilt) => {
                    let problem = &mut self.problems[at];
                    problem.quarantined = Some(inside(store, &rebuilt.moved_to));
                    let count = rebuilt.signatures;
                    let s = if count == 1 { "" } else { "s" };
                    problem.mended =
                        Some(format!("made anew from the release's manifest and {count} signature{s}"));
                }
                // The blobs that it names are among the problems themselves.
                Err(StoreError::NoBlob { digest: blob }) => {
                    self.problems[at].why = format!("{error}; `{blob}` is wanted to make it anew");
                }
                Err(other @ (StoreError::Damaged { .. } | StoreError::Incomplete { .. })) => {
                    self.problems[at].why = format!("{error}; {other}");
                }
                Err(other) => return Err(other.into()),
            }
        }
        Ok(())
    }

    /// What releases need and the store does not hold, each blob once.
    fn wanted(store: &StoreWriter) -> Result<BTreeMap<Digest, BlobEntry>> {
        let mut wanted = BTreeMap::new();
        let Survey { releases, damaged } = store.survey()?;
        for release in &releases {
            wanted.extend(store.missing(release).into_iter().map(|blob| (blob.digest, blob)));
        }
        for release in damaged {
            if let StoreError::NoBlob { digest } = release.error {
                let blob = BlobEntry { digest, size: 0, media_type: String::new() };
                wanted.insert(digest, blob);
            }
        }
        Ok(wanted)
    }

    /// Notes what is missing and was not found damaged before.
    fn missing(&mut self, store: &StoreWriter) -> Result<()> {
        for digest in Self::wanted(store)?.into_keys() {
            if self.blobs.contains_key(&digest) {
                continue;
            }
            self.blobs.insert(digest, self.problems.len());
            let why = "a release needs it, and it is not there".to_owned();
            self.problems.push(Problem { why, ..Problem::of_blob(digest, State::Missing) });
        }
        Ok(())
    }

    /// Takes what is wanted from an archive.
    fn repair(&mut self, store: &StoreWriter, path: &Path, progress: &dyn Progress) -> Result<()> {
        let name = archives::display_name(path);
        let refused = |error: super::Error| error.in_archive(&name);
        let mut source = archives::source(path)?;
        let head = archive::read_head(&mut source).and_then(archive::Head::parse);
        let head = head.map_err(|error| refused(error.into()))?;
        // The head first: from manifest and document follows what else is wanted.
        store.restore_head(&head)?;
        self.records(store)?;
        self.missing(store)?;
        let wanted: HashSet<Digest> = Self::wanted(store)?.into_keys().collect();
        if head.document.blobs.iter().any(|blob| wanted.contains(&blob.digest)) {
            let sink = Again { wanted: &wanted, ingest: store.ingest() };
            progress.event(Event::Start { title: format!("taking blobs again from {name}"), bytes: None });
            let streamed = archive::stream(source, &head, &sink, progress);
            // What came before an error is whole, each blob by its own digest.
            sink.ingest.finish()?;
            progress.event(Event::Finish { summary: String::new() });
            if let Err(error) = streamed {
                self.unread.push(chain(&refused(error.into())));
            }
        }
        self.mark(store, |_| true, &format!("taken again from {name}"));
        Ok(())
    }

    /// Notes how blobs that are there again came back.
    fn mark(&mut self, store: &StoreWriter, which: impl Fn(Digest) -> bool, how: &str) {
        let there = store.present(self.blobs.keys().copied());
        for (digest, at) in &self.blobs {
            let problem = &mut self.problems[*at];
            if there.contains(digest) && problem.mended.is_none() && which(*digest) {
                problem.mended = Some(how.to_owned());
            }
        }
    }

    /// Says who needs each blob, now that more can be read.
    fn settle(&mut self, store: &StoreWriter) -> Result<()> {
        self.mark(store, |_| true, "made anew: it follows from a signature");
        let Survey { releases, damaged } = store.survey()?;
        let asked: HashSet<Digest> = self.blobs.keys().copied().collect();
        for release in &releases {
            for (digest, uses) in store.uses(release, &asked) {
                if let Some(at) = self.blobs.get(&digest) {
                    let need = Need { release: release.digest(), title: release.title(), uses };
                    self.problems[*at].needed_by.push(need);
                }
            }
        }
        for release in damaged {
            let StoreError::NoBlob { digest } = release.error else { continue };
            let what = if digest == release.digest { "release manifest" } else { "release document" };
            if let Some(at) = self.blobs.get(&digest) {
                self.problems[*at].needed_by.push(Need {
                    release: release.digest,
                    title: release.digest.short(),
                    uses: vec![what.to_owned()],
                });
            }
        }
        Ok(())
    }

    /// Reads every generation of every repository, and moves aside what is damaged. Answers with how
    /// many there were, and with the places in `problems` of what is to be made anew.
    fn check_git(&mut self, store: &StoreWriter, progress: &dyn Progress) -> Result<(usize, Vec<Broken>)> {
        progress.event(Event::Start { title: "checking Git repositories".into(), bytes: None });
        let mut sums = git::Sums::default();
        let (mut count, mut broken) = (0, Vec::new());
        for repository in git::repositories(store.folder())? {
            for path in &repository.generations {
                count += 1;
                let Some(why) = git::check_generation(path, &mut sums, progress) else { continue };
                let at = self.problems.len();
                let file = inside(store, path);
                let moved_to = store.quarantine(path)?;
                self.problems.push(Problem {
                    quarantined: Some(inside(store, &moved_to)),
                    ..Problem::new(Kind::Git, State::Damaged, file, why)
                });
                broken.push(Broken { at, line: repository.line.clone(), path: path.clone() });
            }
        }
        progress.event(Event::Finish { summary: String::new() });
        Ok((count, broken))
    }

    /// Makes repositories anew from the bundles in the store.
    fn mend_git(&mut self, site: &Site, mut broken: Vec<Broken>) -> Result<()> {
        let releases = site.store.releases()?;
        // Each release line that has something to be made anew, with the reason why it could not be.
        let mut lines: BTreeMap<ReleaseName, Option<String>> =
            broken.iter().map(|broken| (broken.line.clone(), None)).collect();
        // A release that was asked for at the endpoint has its Git there.
        for release in &releases {
            let name = &release.document().name;
            if site.ledger.target(name) == Some(release.digest())
                && let Some((file, why)) = lacking(site, release)
                && !lines.contains_key(name)
            {
                lines.insert(name.clone(), None);
                let path = site.store.folder().join(&file);
                broken.push(Broken { at: self.problems.len(), line: name.clone(), path });
                self.problems.push(Problem::new(Kind::Git, State::Missing, file, why));
            }
        }
        for (name, failed) in &mut lines {
            let newest = releases.iter().find(|release| release.document().name == *name);
            let active = site.ledger.active(name).or_else(|| site.ledger.target(name));
            let Some(active) = active.or_else(|| newest.map(StoredRelease::digest)) else { continue };
            if newest.is_some()
                && let Err(error) = site.switch_git(name, active)
            {
                *failed = Some(chain(&error));
            }
        }
        for Broken { at, line: name, path } in &broken {
            let (problem, failed) = (&mut self.problems[*at], lines.get(name).and_then(Option::as_ref));
            problem.needed_by = releases
                .iter()
                .filter(|release| release.document().name == *name)
                .map(|release| Need {
                    release: release.digest(),
                    title: release.title(),
                    uses: vec!["Git".to_owned()],
                })
                .collect();
            match failed {
                Some(why) => problem.why = format!("{}; it cannot be made anew: {why}", problem.why),
                None if path.exists() => {
                    problem.mended = Some("made anew from the bundles in the store".to_owned());
                }
                None => problem.mended = Some("moved away: it was not in use".to_owned()),
            }
        }
        Ok(())
    }
}

/// A generation that was damaged.
struct Broken {
    /// Its place among the problems.
    at: usize,
    line: ReleaseName,
    path: PathBuf,
}

/// What of the Git repositories of a release that is served is not there.
fn lacking(site: &Site, release: &StoredRelease) -> Option<(String, String)> {
    let document = release.document();
    let root = site.store.folder().join("git");
    let submodules = git::submodules_folder(site.store.folder(), &document.name);
    let own = std::iter::once((&root, &document.name));
    let all = own.chain(document.git.submodules.iter().map(|submodule| (&submodules, &submodule.name)));
    for (root, name) in all {
        let why = match git::current(root, name) {
            Ok(Some(generation)) if git::holds(generation.path(), release.digest()) => continue,
            Ok(Some(generation)) => {
                format!("generation `{}` does not hold {}", generation.id(), release.title())
            }
            Ok(None) => "it is not there".to_owned(),
            Err(error) => error.to_string(),
        };
        return Some((format!("git/{}.git", document.name), why));
    }
    None
}

/// Takes the blobs that are wanted, and no others.
struct Again<'a> {
    wanted: &'a HashSet<Digest>,
    ingest: Ingest<'a>,
}

impl BlobSink for Again<'_> {
    fn wants(&self, blob: &BlobEntry) -> io::Result<bool> {
        Ok(self.wanted.contains(&blob.digest) && self.ingest.wants(blob)?)
    }

    fn begin(&self, blob: &BlobEntry) -> io::Result<Box<dyn BlobWrite + Send>> {
        BlobSink::begin(&self.ingest, blob)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match (self.state, &self.mended, self.is_open()) {
            (_, Some(_), _) => "mended ",
            (State::Damaged, _, true) => "DAMAGED",
            (State::Missing, _, true) => "MISSING",
            (_, None, false) => "unused ",
        };
        write!(f, "{state} {}: {}", self.file, self.why)?;
        for need in &self.needed_by {
            write!(f, "\n        needed by {}", need.title)?;
            if !need.uses.is_empty() {
                write!(f, ": {}", need.uses.join(", "))?;
            }
        }
        if let Some(quarantined) = &self.quarantined {
            write!(f, "\n        moved to {quarantined}")?;
        }
        if let Some(mended) = &self.mended {
            write!(f, "\n        {mended}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        write!(
            f,
            "{} blobs ({} MB), {} releases, {} generations of Git, {} ledger lines: ",
            self.blobs,
            self.bytes / 1_000_000,
            self.releases,
            self.generations,
            self.ledger_lines
        )?;
        let open = self.problems.iter().filter(|problem| problem.is_open()).count();
        match (open, self.problems.len()) {
            (0, 0) => f.write_str("all whole"),
            (0, count) => write!(f, "whole again ({count} mended or moved away)"),
            (open, _) => write!(f, "{open} NOT WHOLE"),
        }
    }
}
