//! Git LFS (Git LFS specification, version 1): files whose content lies outside Git's objects. A
//! pointer in the tree names it; the content is in the clone's `lfs/objects`, or on a server.
//!
//! What travels follows from the pointers alone: whether an object was in the clone or had to be
//! fetched changes no byte.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt as _;

use super::remote::lfs::{Action, LfsServer, server_of};
use super::remote::{RemoteSettings, RemoteUrl, looks_remote};
use super::{GitError, Repository, Tree, submodules};
use crate::fsio::{Hasher, limits};
use crate::model::{Digest, LfsObject, Progress, chain};

/// What pointers of this version begin with, and what git-lfs takes for the same from older ones.
const VERSIONS: [&str; 3] = [
    "version https://git-lfs.github.com/spec/v1",
    "version https://hawser.github.com/spec/v1",
    "version http://git-media.io/v/2",
];
/// A pointer is shorter than this ("The Pointer").
pub(super) const POINTER_MAX: u64 = 1024;
/// Objects up to this size are there when manifests are rendered: more than any object of Kubernetes
/// can hold.
pub const RENDERED: u64 = 16 << 20;
/// All of them together, the smallest first.
const RENDERED_ALL: u64 = 1 << 30;
/// Downloads side by side.
const PARALLEL: usize = 8;
/// The file of a revision that may name the server.
const FILE: &str = ".lfsconfig";

/// A pointer in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer {
    /// Its file, below the root of the tree.
    pub path: String,
    /// The object.
    pub oid: Digest,
    /// Its size.
    pub size: u64,
}

/// Reads a pointer: none where the bytes are an ordinary file's.
///
/// # Errors
///
/// When they begin as a pointer does and are none.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Digest, u64)>, String> {
    if bytes.len() as u64 >= POINTER_MAX
        || !VERSIONS.iter().any(|version| bytes.starts_with(version.as_bytes()))
    {
        return Ok(None);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8")?;
    let text = text.strip_suffix('\n').ok_or("its last line has no end")?;
    let mut lines = text.split('\n');
    if !lines.next().is_some_and(|first| VERSIONS.contains(&first)) {
        return Err("its version is none that is known".to_owned());
    }
    let (mut oid, mut size, mut last) = (None, None, "");
    for line in lines {
        let (key, value) = line.split_once(' ').ok_or("a line is no `KEY VALUE`")?;
        if key <= last {
            return Err("its keys are not in alphabetical order, each once".to_owned());
        }
        last = key;
        match key {
            "oid" => oid = Some(value.parse::<Digest>().map_err(|error| error.to_string())?),
            "size" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                size = Some(value.parse::<u64>().map_err(|error| format!("its size: {error}"))?);
            }
            "size" => return Err("its size is no number".to_owned()),
            key if key.starts_with("ext-") => {
                return Err(format!("it uses the extension `{}`, a program", key.escape_debug()));
            }
            key => return Err(format!("it has a key `{}`, which is not known", key.escape_debug())),
        }
    }
    match (oid, size) {
        (Some(oid), Some(size)) if size > 0 || oid == Digest::of(b"") => Ok(Some((oid, size))),
        (Some(_), Some(_)) => Err("it says 0 bytes, and its oid is not that of nothing".to_owned()),
        _ => Err("wanted `oid` and `size`".to_owned()),
    }
}

/// The objects of a revision and its submodules.
#[derive(Debug, Default)]
pub struct Lfs {
    /// Each once, sorted by digest.
    pub objects: Vec<Object>,
}

/// One object, and where its bytes are.
#[derive(Debug, Clone)]
pub struct Object {
    /// What the release document says of it.
    pub entry: LfsObject,
    source: Source,
    rendered: bool,
}

#[derive(Debug, Clone)]
enum Source {
    /// No bytes at all.
    Nothing,
    /// A file of a clone.
    File(PathBuf),
    /// A file of the private folder, which goes with the last of its objects.
    Brought {
        path: PathBuf,
        _folder: Arc<tempfile::TempDir>,
    },
    Server(Arc<LfsServer>),
}

/// An object that cannot be had.
#[derive(Debug)]
pub struct Missing {
    /// The first path of a pointer to it.
    pub path: String,
    /// The object.
    pub oid: Digest,
    /// Its size.
    pub size: u64,
    /// Why.
    pub why: String,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` (oid {}, {} bytes): {}", self.path, self.oid, self.size, self.why)
    }
}

/// Where the objects of one tree may be.
struct Home {
    folders: Vec<PathBuf>,
    server: Result<RemoteUrl, String>,
}

/// An object on the way to be found.
struct Wanted {
    entry: LfsObject,
    homes: Vec<usize>,
}

/// Finds every object that pointers in `trees` (each with its folder below the root) name. `url` is
/// where the first of them, the revision's own, was fetched from.
///
/// # Errors
///
/// When an object cannot be had: all of them are named.
pub async fn find(
    trees: &[(String, &Tree)],
    url: Option<&RemoteUrl>,
    settings: &RemoteSettings,
    progress: &dyn Progress,
) -> Result<Lfs, GitError> {
    let mut homes = Vec::new();
    let mut wanted: BTreeMap<Digest, Wanted> = BTreeMap::new();
    for (place, (prefix, tree)) in trees.iter().enumerate() {
        if tree.pointers().is_empty() {
            continue;
        }
        let mut home = home(prefix, tree, url.filter(|_| place == 0), progress)?;
        // A login that stood in the URL of the build is good for that host.
        if let (Ok(server), Some(url)) = (&mut home.server, url)
            && server.login().is_none()
            && server.same_host(url)
        {
            *server = server.clone().with_login_of(url);
        }
        homes.push(home);
        for pointer in tree.pointers() {
            let path =
                if prefix.is_empty() { pointer.path.clone() } else { format!("{prefix}/{}", pointer.path) };
            let size = pointer.size;
            let one = wanted.entry(pointer.oid).or_insert_with(|| Wanted {
                entry: LfsObject { digest: pointer.oid, size, paths: Vec::new() },
                homes: Vec::new(),
            });
            if one.entry.size != size {
                let why = format!("it says {size} bytes, and `{}` {}", one.entry.paths[0], one.entry.size);
                return Err(GitError::LfsPointer { path, why });
            }
            one.entry.paths.push(path);
            if !one.homes.contains(&(homes.len() - 1)) {
                one.homes.push(homes.len() - 1);
            }
        }
        if wanted.len() > limits::LFS_OBJECTS {
            return Err(GitError::TooLarge { what: "Git LFS objects", limit: limits::LFS_OBJECTS as u64 });
        }
    }
    if wanted.is_empty() {
        return Ok(Lfs::default());
    }
    let scratch = tempfile::Builder::new()
        .prefix("fleetpack-lfs-")
        .tempdir()
        .map_err(|source| GitError::Export { path: std::env::temp_dir(), source })?;
    let finder = Finder { homes, settings, scratch: Arc::new(scratch) };
    finder.run(wanted).await
}

struct Finder<'a> {
    homes: Vec<Home>,
    settings: &'a RemoteSettings,
    scratch: Arc<tempfile::TempDir>,
}

impl Finder<'_> {
    async fn run(&self, mut wanted: BTreeMap<Digest, Wanted>) -> Result<Lfs, GitError> {
        let mut by_size: Vec<(u64, Digest)> =
            wanted.values().map(|one| (one.entry.size, one.entry.digest)).collect();
        by_size.sort_unstable();
        let mut room = RENDERED_ALL;
        let mut rendered = std::collections::HashSet::new();
        for (size, digest) in by_size {
            if size > RENDERED || size > room {
                break;
            }
            room -= size;
            rendered.insert(digest);
        }
        let (mut objects, mut missing) = (Vec::new(), Vec::new());
        let mut asked: BTreeMap<String, (RemoteUrl, Vec<LfsObject>)> = BTreeMap::new();
        for one in wanted.values_mut() {
            one.entry.paths.sort();
            one.entry.paths.dedup();
            let entry = one.entry.clone();
            if let Some(source) = self.here(one) {
                let rendered = rendered.contains(&entry.digest);
                objects.push(Object { entry, source, rendered });
                continue;
            }
            // The first server that is one answers for it.
            let homes = || one.homes.iter().filter_map(|at| self.homes.get(*at));
            if let Some(url) = homes().find_map(|home| home.server.as_ref().ok()) {
                let known = asked.entry(url.as_str().to_owned());
                known.or_insert_with(|| (url.clone(), Vec::new())).1.push(entry);
            } else {
                let why = homes().find_map(|home| home.server.as_ref().err().cloned());
                missing.push(lacking(&entry, why.unwrap_or_default()));
            }
        }
        for (url, entries) in asked.into_values() {
            self.ask(&url, entries, &rendered, &mut objects, &mut missing).await;
        }
        if !missing.is_empty() {
            missing.sort_by(|a, b| a.path.cmp(&b.path));
            return Err(GitError::LfsMissing { missing });
        }
        objects.sort_by_key(|object| object.entry.digest);
        Ok(Lfs { objects })
    }

    /// The object's file in a clone, if it is there and as long as it must be.
    fn here(&self, one: &Wanted) -> Option<Source> {
        if one.entry.size == 0 {
            return Some(Source::Nothing);
        }
        let hex = one.entry.digest.hex();
        let folders = one.homes.iter().filter_map(|at| self.homes.get(*at)).flat_map(|home| &home.folders);
        let mut files = folders.map(|folder| folder.join(&hex[..2]).join(&hex[2..4]).join(&hex));
        let right = |file: &PathBuf| {
            fs::metadata(file).is_ok_and(|data| data.is_file() && data.len() == one.entry.size)
        };
        files.find(right).map(Source::File)
    }

    /// Asks one server, and brings what is rendered from.
    async fn ask(
        &self,
        url: &RemoteUrl,
        entries: Vec<LfsObject>,
        rendered: &std::collections::HashSet<Digest>,
        objects: &mut Vec<Object>,
        missing: &mut Vec<Missing>,
    ) {
        let server = match LfsServer::new(url, self.settings, self.scratch.path().to_owned()) {
            Ok(server) => Arc::new(server),
            Err(why) => {
                missing.extend(entries.iter().map(|entry| lacking(entry, why.clone())));
                return;
            }
        };
        let names: Vec<_> = entries.iter().map(|entry| (entry.digest, entry.size)).collect();
        let mut found = server.locate(&names).await;
        let mut wanted = Vec::new();
        for entry in entries {
            match found.remove(&entry.digest) {
                Some(Ok(action)) => wanted.push((entry, action)),
                Some(Err(why)) => missing.push(lacking(&entry, why)),
                None => missing.push(lacking(&entry, format!("`{url}` says nothing of it"))),
            }
        }
        let brought = futures_util::stream::iter(wanted.into_iter().map(|(entry, action)| {
            let server = Arc::clone(&server);
            async move {
                if !rendered.contains(&entry.digest) {
                    return Ok(Object { entry, source: Source::Server(server), rendered: false });
                }
                match self.bring(&server, &action, &entry).await {
                    Ok(path) => {
                        let source = Source::Brought { path, _folder: Arc::clone(&self.scratch) };
                        Ok(Object { entry, source, rendered: true })
                    }
                    Err(why) => Err(lacking(&entry, why)),
                }
            }
        }));
        let brought: Vec<_> = brought.buffer_unordered(PARALLEL).collect().await;
        for one in brought {
            match one {
                Ok(object) => objects.push(object),
                Err(lost) => missing.push(lost),
            }
        }
    }

    async fn bring(&self, server: &LfsServer, action: &Action, entry: &LfsObject) -> Result<PathBuf, String> {
        let path = self.scratch.path().join(entry.digest.hex());
        let mut file = File::create_new(&path).map_err(|error| error.to_string())?;
        let mut hasher = Hasher::new();
        let mut write = |bytes: &[u8]| {
            hasher.update(bytes);
            file.write_all(bytes)
        };
        server.download(action, entry.size, &mut write).await?;
        let found = hasher.finish();
        if found == entry.digest { Ok(path) } else { Err(format!("what came has digest {found}")) }
    }
}

fn lacking(entry: &LfsObject, why: String) -> Missing {
    let path = entry.paths.first().cloned().unwrap_or_default();
    Missing { path, oid: entry.digest, size: entry.size, why }
}

/// Where the objects of a tree may be: in the clone, in the folder it was cloned from, on a server
/// (git-lfs-config(5), `lfs.url` and `remote.<remote>.lfsurl`).
fn home(
    prefix: &str,
    tree: &Tree,
    url: Option<&RemoteUrl>,
    progress: &dyn Progress,
) -> Result<Home, GitError> {
    let repository = tree.repository();
    let url = match url {
        Some(url) => Some(url.clone()),
        None => fetched_from(repository).or_else(|| submodules::own_url(repository)),
    };
    let mut folders = vec![repository.common_folder().join("lfs/objects")];
    if let Some(folder) = url.as_ref().and_then(RemoteUrl::folder)
        && let Ok(origin) = Repository::open(&folder)
    {
        folders.push(origin.common_folder().join("lfs/objects"));
    }
    let named = match repository.lfs_url() {
        Some(text) => Some(text),
        None => named_in_tree(tree)?,
    };
    let server = match (&named, &url) {
        (Some(text), base) => RemoteUrl::parse(text).map_err(|error| error.to_string()).map(|named| {
            let place = if prefix.is_empty() { "the revision" } else { prefix };
            if base.as_ref().is_none_or(|base| !named.same_host(base)) {
                progress.note(format!("Git LFS objects of `{place}` are asked for at `{named}`"));
            }
            named
        }),
        (None, Some(base)) => server_of(base),
        (None, None) => Err("it is not in the clone, which has no remote".to_owned()),
    };
    Ok(Home { folders, server })
}

/// Where a fetched repository came from.
fn fetched_from(repository: &Repository) -> Option<RemoteUrl> {
    let text = repository.path().to_str().filter(|text| looks_remote(text))?;
    RemoteUrl::parse(text).ok()
}

/// `lfs.url` of the tree's `.lfsconfig`.
fn named_in_tree(tree: &Tree) -> Result<Option<String>, GitError> {
    if tree.file(FILE).is_none() {
        return Ok(None);
    }
    let bytes = tree.read(FILE, limits::CONFIG_FILE)?;
    let config = gix::config::File::from_bytes_no_includes(
        &bytes,
        gix::config::file::Metadata::api(),
        gix::config::file::init::Options::default(),
    )
    .map_err(|error| GitError::Path { path: FILE.to_owned(), why: format!("does not parse: {error}") })?;
    Ok(config.string("lfs.url").map(|url| url.to_string()))
}

impl Object {
    /// Whether its bytes are on this machine.
    #[must_use]
    pub const fn is_here(&self) -> bool {
        !matches!(self.source, Source::Server(_))
    }

    /// Brings its bytes to `write`; waits for the disk where they are on this machine. That they are those of its
    /// digest is for the taker to see.
    ///
    /// # Errors
    ///
    /// When they cannot be had, are more or fewer, or `write` fails.
    pub async fn copy(
        &self,
        write: &mut (dyn FnMut(&[u8]) -> io::Result<()> + Send),
    ) -> Result<(), GitError> {
        match &self.source {
            Source::Nothing => Ok(()),
            Source::File(path) | Source::Brought { path, .. } => {
                self.copy_file(path, write).map_err(|why| self.lost(why))
            }
            Source::Server(server) => {
                // Asked for anew: what was said before may no longer hold.
                let entry = &self.entry;
                let mut found = server.locate(&[(entry.digest, entry.size)]).await;
                let action = found.remove(&entry.digest).unwrap_or_else(|| Err("nothing came".to_owned()));
                let action = action.map_err(|why| self.lost(why))?;
                server.download(&action, entry.size, write).await.map_err(|why| self.lost(why))
            }
        }
    }

    fn copy_file(
        &self,
        path: &Path,
        write: &mut (dyn FnMut(&[u8]) -> io::Result<()> + Send),
    ) -> Result<(), String> {
        let text = |error: io::Error| format!("`{}`: {}", path.display(), chain(&error));
        let mut file = File::open(path).map_err(text)?;
        let mut part = vec![0; 1 << 20];
        let mut count = 0;
        loop {
            let read = file.read(&mut part).map_err(text)?;
            count += read as u64;
            if read == 0 || count > self.entry.size {
                break;
            }
            write(&part[..read]).map_err(text)?;
        }
        let size = self.entry.size;
        if count == size { Ok(()) } else { Err(format!("`{}` has not {size} bytes", path.display())) }
    }

    /// The error of one whose bytes are not what they must be.
    #[must_use]
    pub fn lost(&self, why: String) -> GitError {
        GitError::LfsMissing { missing: vec![lacking(&self.entry, why)] }
    }

    /// Puts its content in the place of its pointers below `folder`, a tree that was exported; answers
    /// with the paths where the pointer stays because the content is too large to render from.
    ///
    /// # Errors
    ///
    /// When the content is not what it must be, or cannot be written.
    pub fn export(&self, folder: &Path) -> Result<&[String], GitError> {
        if !self.rendered {
            return Ok(&self.entry.paths);
        }
        let mut bytes = Vec::new();
        if let Source::File(path) | Source::Brought { path, .. } = &self.source {
            let mut keep = |part: &[u8]| {
                bytes.extend_from_slice(part);
                Ok(())
            };
            self.copy_file(path, &mut keep).map_err(|why| self.lost(why))?;
            let found = Digest::of(&bytes);
            if found != self.entry.digest {
                return Err(self.lost(format!("`{}` has digest {found}", path.display())));
            }
        }
        for path in &self.entry.paths {
            // The export made the file; it keeps its mode.
            let path = folder.join(path);
            let write =
                |path: &Path| fs::OpenOptions::new().write(true).truncate(true).open(path)?.write_all(&bytes);
            write(&path).map_err(|source| GitError::Export { path: path.clone(), source })?;
        }
        Ok(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_read_as_the_specification_says() {
        let oid = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393";
        let version = "version https://git-lfs.github.com/spec/v1\n";
        let good = format!("{version}oid sha256:{oid}\nsize 12345\n");
        let (digest, size) = parse(good.as_bytes()).unwrap().unwrap();
        assert_eq!((digest.hex().as_str(), size), (oid, 12345));
        let old = good.replace("git-lfs.github.com", "hawser.github.com");
        assert_eq!(parse(old.as_bytes()).unwrap(), Some((digest, size)));
        let nothing = Digest::of(b"").hex();
        assert!(parse(format!("{version}oid sha256:{nothing}\nsize 0\n").as_bytes()).unwrap().is_some());
        for plain in ["", "version 1\n", &format!(" {good}"), &format!("{good}{}", " ".repeat(1024))] {
            assert_eq!(parse(plain.as_bytes()), Ok(None), "{plain}");
        }
        for (bad, why) in [
            (version.to_owned(), "wanted `oid` and `size`"),
            (good.trim_end().to_owned(), "its last line has no end"),
            (good.replace('\n', "\r\n"), "its version is none"),
            (good.replace("v1", "v1.1"), "its version is none"),
            (good.replace(oid, "00"), "is not a digest"),
            (good.replace("sha256", "sha512"), "wanted `sha256`"),
            (good.replace("12345", "-1"), "its size is no number"),
            (good.replace("12345", &"9".repeat(30)), "its size: "),
            (good.replace("12345", "0"), "it says 0 bytes"),
            (format!("{version}size 3\noid sha256:{oid}\n"), "alphabetical order"),
            (format!("{good}size 12345\n"), "alphabetical order"),
            (
                format!("{version}ext-0-foo sha256:{oid}\noid sha256:{oid}\nsize 3\n"),
                "the extension `ext-0-foo`",
            ),
            (format!("{good}x-later 1\n"), "a key `x-later`"),
            (format!("{good}nonsense\n"), "no `KEY VALUE`"),
        ] {
            let error = parse(bad.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
        assert!(parse(&[version.as_bytes(), &[0xff, b'\n']].concat()).unwrap_err().contains("UTF-8"));
    }
}
