//! Repositories elsewhere: fetched into a cache, read like a local one.
//!
//! Over HTTP gix fetches by itself; over ssh, and where gix declines (the user's configuration says
//! something about HTTP, a kind of login it does not know), git does, and the output says so. Either
//! speaks to the remote once: the references that were advertised are the ones that are looked up
//! afterwards, so a remote that moves meanwhile changes nothing.
//!
//! A cache folder holds one bare repository for each URL, named by the SHA-256 of the URL. Objects
//! are only ever added to it, under a lock; each fetch has a private repository of its own that
//! holds the references of that moment and borrows the objects. So two builds at once do not disturb
//! each other, and a cache may be removed whenever nobody builds.

mod error;
pub mod lfs;
mod native;
mod program;
mod url;

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

pub use error::RemoteError;
pub use url::{RemoteUrl, Scheme, is_relative, looks_remote};

use self::native::Declined;
use self::program::{Git, Watch};
use super::{GitError, Repository};
use crate::fsio::atomic::write_atomic;
use crate::model::{Digest, GitOid, Progress, RefName};

/// A bare repository's configuration.
const CONFIG: &str = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n";

/// What fetching needs to know of the machine.
#[derive(Debug, Clone, Default)]
pub struct RemoteSettings {
    /// git, if it is installed.
    pub git: Option<PathBuf>,
    /// Folder of the cache; none fetches everything anew.
    pub cache: Option<PathBuf>,
    /// Whether there is a terminal at which git may ask for a password.
    pub prompt: bool,
    /// Set when the work is to stop.
    pub cancel: Arc<AtomicBool>,
}

/// A folder is read where it lies.
fn in_place(url: &RemoteUrl, folder: &Path) -> Result<Repository, GitError> {
    let repository = Repository::open(folder)?;
    let same =
        |a: &Path, b: &Path| a.canonicalize().ok().zip(b.canonicalize().ok()).is_some_and(|(a, b)| a == b);
    let is_it = same(repository.path(), folder)
        || repository.work_tree().is_some_and(|tree| same(&tree, folder))
        || same(repository.path(), &folder.join(".git"));
    if is_it {
        return Ok(repository);
    }
    let why = format!("the nearest one is `{}`", repository.path().display());
    Err(GitError::Open { path: PathBuf::from(url.as_str()), why })
}

/// What is fetched.
#[derive(Clone, Copy)]
enum Want<'a> {
    /// All branches and tags.
    All,
    /// One commit, which must not be a reference's.
    Commit(&'a GitOid),
}

impl Want<'_> {
    /// Refspecs for gix, which wants a destination for patterns. It is one that nothing else uses, so
    /// that no name stands in the way of another; the next fetch clears it away.
    fn specs(self) -> Vec<String> {
        let own = format!("refs/fleetpack/{}", std::process::id());
        match self {
            Self::All => vec![
                "HEAD".to_owned(),
                format!("+refs/heads/*:{own}/heads/*"),
                format!("+refs/tags/*:{own}/tags/*"),
            ],
            Self::Commit(commit) => vec![commit.to_string()],
        }
    }
}

/// Where the remote's `HEAD` stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Head {
    Branch(String),
    Detached(String),
}

/// The references of one advertisement, by name; only branches and tags, and only names that can travel.
#[derive(Debug, Default)]
struct Snapshot {
    refs: std::collections::BTreeMap<String, String>,
    head: Option<Head>,
}

impl Snapshot {
    fn insert(&mut self, name: &str, target: String) {
        if name.parse::<RefName>().is_ok() && target.parse::<GitOid>().is_ok() {
            self.refs.insert(name.to_owned(), target);
        }
    }
}

/// Fetches all branches and tags of a remote with their whole history. The repository's private folder
/// goes with the last copy of it.
///
/// # Errors
///
/// When neither gix nor git can, or what came is no repository that is carried.
pub fn fetch(
    url: &RemoteUrl,
    settings: &RemoteSettings,
    progress: &dyn Progress,
) -> Result<Repository, GitError> {
    if let Some(folder) = url.folder() {
        return in_place(url, &folder);
    }
    let place = Place::take(url, settings)?;
    let snapshot = place.update(Want::All, progress)?;
    place.open(&snapshot)
}

/// Fetches one commit with its whole history. A remote is not asked for what the cache holds: the
/// commit's name says what it is.
///
/// # Errors
///
/// When the remote does not give the commit, or cannot be fetched from.
pub fn fetch_commit(
    url: &RemoteUrl,
    commit: &GitOid,
    settings: &RemoteSettings,
    progress: &dyn Progress,
) -> Result<Repository, GitError> {
    if let Some(folder) = url.folder() {
        let found = in_place(url, &folder)?;
        return if found.holds(commit) {
            Ok(found)
        } else {
            let why = "it is not there".to_owned();
            Err(RemoteError::NoCommit { url: url.to_string(), commit: commit.clone(), why }.into())
        };
    }
    let place = Place::take(url, settings)?;
    let mut snapshot = Snapshot::default();
    if !place.holds(commit)? {
        snapshot = place.update(Want::All, progress)?;
    }
    if !place.holds(commit)? {
        place.update(Want::Commit(commit), progress).map_err(|error| RemoteError::NoCommit {
            url: url.to_string(),
            commit: commit.clone(),
            why: error.to_string(),
        })?;
    }
    if !place.holds(commit)? {
        let why = "it sent something else".to_owned();
        return Err(RemoteError::NoCommit { url: url.to_string(), commit: commit.clone(), why }.into());
    }
    place.open(&snapshot)
}

/// Writes the files of one commit of a remote into `into`, which must be there, empty and private;
/// answers with warnings, a line each.
///
/// # Errors
///
/// When the commit cannot be had, or its tree is not one that is carried.
pub fn export_commit(
    url: &RemoteUrl,
    commit: &GitOid,
    into: &Path,
    settings: &RemoteSettings,
    progress: &dyn Progress,
) -> Result<Vec<String>, GitError> {
    let repository = fetch_commit(url, commit, settings, progress)?;
    let revision = repository.resolve(commit.as_str())?;
    repository.tree(&revision)?.export(into)
}

/// The cache of one URL, locked, and a private folder.
struct Place<'a> {
    url: &'a RemoteUrl,
    settings: &'a RemoteSettings,
    folder: tempfile::TempDir,
    cache: PathBuf,
    _lock: Option<File>,
}

fn io<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> RemoteError + use<'a> {
    move |source| RemoteError::Io { what, path: path.to_owned(), source }
}

impl<'a> Place<'a> {
    fn take(url: &'a RemoteUrl, settings: &'a RemoteSettings) -> Result<Self, RemoteError> {
        let folder = tempfile::Builder::new()
            .prefix("fleetpack-git-")
            .tempdir()
            .map_err(io("make a private folder in", Path::new("the temporary folder")))?;
        let name = Digest::of(url.as_str().as_bytes()).hex();
        let (cache, lock) = match &settings.cache {
            None => (folder.path().join("cache.git"), None),
            Some(caches) => {
                // What is cached may be nobody else's to read.
                fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(caches)
                    .map_err(io("make the cache", caches))?;
                let path = caches.join(format!("{name}.lock"));
                let file = File::create(&path).map_err(io("make", &path))?;
                let watch = Watch::new(url, settings, caches);
                while flock(&file, FlockOperation::NonBlockingLockExclusive)
                    == Err(rustix::io::Errno::WOULDBLOCK)
                {
                    watch.check()?;
                    std::thread::sleep(Duration::from_millis(20));
                }
                (caches.join(format!("{name}.git")), Some(file))
            }
        };
        make_bare(&cache)?;
        Ok(Self { url, settings, folder, cache, _lock: lock })
    }

    /// Fetches, by gix where it can, else by git.
    fn update(&self, want: Want<'_>, progress: &dyn Progress) -> Result<Snapshot, RemoteError> {
        let why = match self.url.scheme() {
            Scheme::Https | Scheme::Http => match native::fetch(self.url, self.settings, &self.cache, want) {
                Ok(snapshot) => {
                    self.remember(&snapshot)?;
                    return Ok(snapshot);
                }
                Err(Declined::Stop(error)) => return Err(error),
                Err(Declined::TryGit(why)) => why,
            },
            Scheme::Ssh | Scheme::File => "ssh is git's to speak".to_owned(),
        };
        let Some(git) = Git::new(self.settings, self.url) else {
            return Err(RemoteError::NoGit { url: self.url.to_string(), why });
        };
        progress.note(format!("`{}` is fetched by git: {why}", self.url));
        match want {
            Want::All => self.update_by_git(&git),
            Want::Commit(commit) => {
                let arguments = ["--no-tags", "--", self.url.as_str(), commit.as_str()];
                git.run("fetch from", &self.cache, &[&FETCH[..], &arguments].concat(), b"")?;
                Ok(Snapshot::default())
            }
        }
    }

    fn update_by_git(&self, git: &Git<'_>) -> Result<Snapshot, RemoteError> {
        let url = self.url.as_str();
        // Only the name of the default branch is taken from here: where it stands is what the fetch says.
        let listed = git.run("list", &self.cache, &["ls-remote", "--symref", "--", url, "HEAD"], b"")?;
        let listed = String::from_utf8_lossy(&listed).into_owned();
        let branch = listed.lines().find_map(|line| line.strip_prefix("ref: ")?.strip_suffix("\tHEAD"));
        let has_head = listed.lines().any(|line| line.ends_with("\tHEAD"));
        let mut arguments = FETCH.to_vec();
        arguments.extend(["--prune", "--no-tags", "--force", "--", url]);
        arguments.extend(["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]);
        if branch.is_none() && has_head {
            arguments.push("+HEAD:refs/fleetpack/HEAD");
        }
        git.run("fetch from", &self.cache, &arguments, b"")?;
        let format = "--format=%(objectname) %(refname)";
        let listed = git.run("list what came from", &self.cache, &["for-each-ref", format], b"")?;
        let mut snapshot = Snapshot::default();
        for line in String::from_utf8_lossy(&listed).lines() {
            match line.split_once(' ') {
                Some((oid, "refs/fleetpack/HEAD")) if branch.is_none() => {
                    snapshot.head = Some(Head::Detached(oid.to_owned()));
                }
                Some((oid, name)) => snapshot.insert(name, oid.to_owned()),
                None => {}
            }
        }
        if let Some(branch) = branch {
            snapshot.head = Some(Head::Branch(branch.to_owned()));
        }
        Ok(snapshot)
    }

    /// Lets the next fetch know what the cache holds.
    fn remember(&self, snapshot: &Snapshot) -> Result<(), RemoteError> {
        let heads = self.cache.join("refs/heads");
        // Loose references are git's; they would stand before these.
        for folder in [&heads, &self.cache.join("refs/tags")] {
            fs::remove_dir_all(folder).and_then(|()| fs::create_dir(folder)).map_err(io("clear", folder))?;
        }
        write_refs(&self.cache, snapshot)
    }

    fn holds(&self, commit: &GitOid) -> Result<bool, GitError> {
        Ok(Repository::open(&self.cache)?.holds(commit))
    }

    /// The private repository of this moment.
    fn open(self, snapshot: &Snapshot) -> Result<Repository, GitError> {
        let view = self.folder.path().join("view.git");
        make_bare(&view)?;
        write_refs(&view, snapshot)?;
        let objects = self.cache.join("objects");
        let objects = objects.canonicalize().map_err(io("find", &objects))?;
        let alternates = view.join("objects/info/alternates");
        let mut line = std::os::unix::ffi::OsStrExt::as_bytes(objects.as_os_str()).to_vec();
        line.push(b'\n');
        fs::write(&alternates, line).map_err(io("write", &alternates))?;
        let head = match &snapshot.head {
            Some(Head::Branch(name)) if name.parse::<RefName>().is_ok() => format!("ref: {name}\n"),
            Some(Head::Detached(oid)) => format!("{oid}\n"),
            _ => "ref: refs/heads/main\n".to_owned(),
        };
        let path = view.join("HEAD");
        fs::write(&path, head).map_err(io("write", &path))?;
        let mut repository = Repository::open(&view)?;
        // Errors name what the user named.
        repository.path = PathBuf::from(self.url.as_str());
        repository.kept = Some(Arc::new(self.folder));
        Ok(repository)
    }
}

const FETCH: [&str; 4] = ["fetch", "--progress", "--no-write-fetch-head", "--no-recurse-submodules"];

/// Makes a bare repository where there is none.
fn make_bare(path: &Path) -> Result<(), RemoteError> {
    for part in ["objects/pack", "objects/info", "refs/heads", "refs/tags"] {
        let folder = path.join(part);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(io("make", &folder))?;
    }
    for (file, content) in [("config", CONFIG), ("HEAD", "ref: refs/heads/main\n")] {
        let file = path.join(file);
        if !file.exists() {
            write_atomic(&file, content.as_bytes()).map_err(io("write", &file))?;
        }
    }
    Ok(())
}

fn write_refs(repository: &Path, snapshot: &Snapshot) -> Result<(), RemoteError> {
    let mut text = b"# pack-refs with: sorted \n".to_vec();
    for (name, target) in &snapshot.refs {
        // A vector takes every byte.
        let _ = writeln!(text, "{target} {name}");
    }
    let path = repository.join("packed-refs");
    write_atomic(&path, &text).map_err(io("write", &path))
}
