//! Whether the generations of a store's repositories still hold what they were made of.
//!
//! Everything in a generation follows from its record and its packs, and the record from the
//! generation's name; a pack's name is the hash of its content (gitformat-pack).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};

use super::generation::{
    CONFIG, RECORD, Record, head_file, is_pack_name, object_id, packed_refs, references,
};
use super::pack::PackObjects;
use super::{GitStoreError, walk};
use crate::fsio::limits;
use crate::model::{Digest, GitOid, Progress, ReleaseName};

/// Length of a SHA-1.
const HASH: usize = 20;

/// A repository of a store, with all of its generations.
#[derive(Debug, Clone)]
pub struct Repository {
    /// The release line that it belongs to.
    pub line: ReleaseName,
    /// The submodule, where it is one.
    pub submodule: Option<ReleaseName>,
    /// The folder that holds link and generations.
    pub root: PathBuf,
    /// Its generations, sorted.
    pub generations: Vec<PathBuf>,
}

impl Repository {
    /// The name below its root.
    #[must_use]
    pub fn name(&self) -> &ReleaseName {
        self.submodule.as_ref().unwrap_or(&self.line)
    }
}

/// Hashes of packs that were computed already, by file: generations share them by links.
#[derive(Debug, Default)]
pub struct Sums(HashMap<(u64, u64), Result<String, String>>);

/// Every repository in the store at `store`: those of release lines, and those of their submodules.
///
/// # Errors
///
/// When a folder cannot be read.
pub fn repositories(store: &Path) -> Result<Vec<Repository>, GitStoreError> {
    let mut found = Vec::new();
    let root = store.join("git");
    for (line, generations) in folders(&root)? {
        found.push(Repository { line, submodule: None, root: root.clone(), generations });
    }
    let submodules = store.join("submodules");
    for (line, _) in folders(&submodules)? {
        let root = submodules.join(line.as_str());
        for (name, generations) in folders(&root)? {
            let (line, root) = (line.clone(), root.clone());
            found.push(Repository { line, submodule: Some(name), root, generations });
        }
    }
    Ok(found)
}

/// Folders below `root` that are called like a release, with the generations in them.
fn folders(root: &Path) -> Result<Vec<(ReleaseName, Vec<PathBuf>)>, GitStoreError> {
    let mut found = Vec::new();
    for path in list(root)? {
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        let Some(name) = name.filter(|_| path.is_dir() && !path.is_symlink()) else { continue };
        let is_generation = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.len() == 32 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        found.push((name, list(&path)?.into_iter().filter(is_generation).collect()));
    }
    Ok(found)
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, GitStoreError> {
    let io = |source| GitStoreError::Io { action: "read", path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io)?,
    };
    let mut paths: Vec<_> =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>().map_err(io)?;
    paths.sort();
    Ok(paths)
}

/// Whether the generation at `path` was made of the release with this digest, among others.
#[must_use]
pub fn holds(path: &Path, release: Digest) -> bool {
    releases_of(path).contains(&release)
}

/// The releases that the generation at `path` was made of; none where its record cannot be read.
#[must_use]
pub fn releases_of(path: &Path) -> HashSet<Digest> {
    Record::read(path)
        .map_or_else(|_| HashSet::new(), |record| record.releases.iter().map(|entry| entry.digest).collect())
}

/// Reads everything in the generation at `path`; says what is wrong with it first, by file.
#[must_use]
pub fn check_generation(path: &Path, sums: &mut Sums, progress: &dyn Progress) -> Option<String> {
    examine(path, sums, progress).err()
}

fn examine(path: &Path, sums: &mut Sums, progress: &dyn Progress) -> Result<(), String> {
    // 1. The record, by the generation's name.
    let record = Record::read(path).map_err(|error| error.to_string())?;
    let given = record.given();
    let packs = path.join("objects/pack");
    // 2. Each pack by its own, and what its references lead to.
    let mut peeled: BTreeMap<GitOid, GitOid> = BTreeMap::new();
    for (entry, release) in record.releases.iter().zip(&given) {
        let pack = entry.pack.as_ref().filter(|pack| is_pack_name(pack));
        let pack =
            pack.ok_or_else(|| format!("`{RECORD}` names no pack of version `{}`", release.version))?;
        check_pack(&packs, pack, sums, progress)?;
        let broken = |error: String| format!("`{pack}` cannot be used: {error}");
        let mut objects = PackObjects::open(&packs, pack).map_err(|error| broken(error.to_string()))?;
        for reference in &release.refs {
            let target = object_id(&reference.target);
            let (commit, _) = walk::peel(&mut objects, target).map_err(|error| broken(error.to_string()))?;
            if let Ok(commit) = commit.to_hex().to_string().parse() {
                peeled.insert(reference.target.clone(), commit);
            }
        }
    }
    // 3. The small files follow from the record.
    let references = references(&given).map_err(|error| error.to_string())?;
    let active = given.last().and_then(|release| {
        release.refs.iter().find(|reference| reference.name.is_branch()).map(|reference| &reference.name)
    });
    let active = active.ok_or_else(|| format!("`{RECORD}` names no branch"))?;
    for (name, wanted) in [
        ("packed-refs", packed_refs(&references, &peeled)),
        ("HEAD", head_file(active)),
        ("config", CONFIG.as_bytes().to_vec()),
    ] {
        let mut found = Vec::new();
        File::open(path.join(name))
            .and_then(|file| file.take(limits::GIT_RECORD + wanted.len() as u64).read_to_end(&mut found))
            .map_err(|error| format!("`{name}` cannot be read: {error}"))?;
        if found != wanted {
            return Err(format!("`{name}` is not what follows from `{RECORD}`"));
        }
    }
    for folder in ["objects/info", "refs/heads", "refs/tags"] {
        if !path.join(folder).is_dir() {
            return Err(format!("the folder `{folder}` is not there"));
        }
    }
    Ok(())
}

/// Checks a pack and its index: the hash at the end of each, and that they belong together.
fn check_pack(folder: &Path, name: &str, sums: &mut Sums, progress: &dyn Progress) -> Result<(), String> {
    let hex = name.strip_prefix("pack-").unwrap_or(name);
    let (pack, index) = (format!("{name}.pack"), format!("{name}.idx"));
    let found = sums.of(&folder.join(&pack), progress).map_err(|why| format!("`{pack}`: {why}"))?;
    if found != hex {
        return Err(format!("`{pack}` has the checksum `{found}`"));
    }
    let path = folder.join(&index);
    sums.of(&path, progress).map_err(|why| format!("`{index}`: {why}"))?;
    let of = pack_of_index(&path).map_err(|error| format!("`{index}` cannot be read: {error}"))?;
    if of != hex {
        return Err(format!("`{index}` is that of pack `{of}`"));
    }
    Ok(())
}

/// What an index says about its pack: the hash before its own.
fn pack_of_index(path: &Path) -> io::Result<String> {
    use std::os::unix::fs::FileExt as _;
    let file = File::open(path)?;
    let at = file.metadata()?.len().checked_sub(2 * HASH as u64).ok_or(ErrorKind::UnexpectedEof)?;
    let mut hash = [0; HASH];
    file.read_exact_at(&mut hash, at)?;
    Ok(hex::encode(hash))
}

impl Sums {
    /// The SHA-1 of all of a file but its last 20 bytes, which must say the same.
    fn of(&mut self, path: &Path, progress: &dyn Progress) -> Result<String, String> {
        let unreadable = |error: io::Error| format!("it cannot be read: {error}");
        let file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        let key = (metadata.dev(), metadata.ino());
        if let Some(known) = self.0.get(&key) {
            return known.clone();
        }
        let sum = hash_file(file, metadata.len(), progress);
        self.0.insert(key, sum.clone());
        sum
    }
}

fn hash_file(mut file: File, size: u64, progress: &dyn Progress) -> Result<String, String> {
    let unreadable = |error: io::Error| format!("it cannot be read: {error}");
    // Advice: read from the disk, not from what the kernel remembers of it.
    let _ = fadvise(&file, 0, None, Advice::DontNeed);
    let content = size.checked_sub(HASH as u64).ok_or("it is cut short")?;
    let mut hasher = gix::hash::hasher(gix::hash::Kind::Sha1);
    let mut buffer = vec![0; 256 << 10];
    let mut left = content;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        file.read_exact(&mut buffer[..length]).map_err(unreadable)?;
        hasher.update(&buffer[..length]);
        left -= length as u64;
        progress.event(crate::model::Event::Advance(length as u64));
    }
    let mut trailer = [0; HASH];
    file.read_exact(&mut trailer).map_err(unreadable)?;
    let found = hasher.try_finalize().map_err(|error| error.to_string())?.to_hex().to_string();
    let said = hex::encode(trailer);
    if found == said {
        Ok(found)
    } else {
        Err(format!("its content has the checksum `{found}`, its end says `{said}`"))
    }
}
