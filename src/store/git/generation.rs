//! Generations of a bare repository (`docs/formats.md`, "Site store").
//!
//! ```text
//! git/NAME.git -> NAME/GENERATION     the generation in use, switched by rename
//! git/NAME/GENERATION/                never changed once it has this name
//!     fleetpack-git.json              the releases it was made of, and the pack of each
//!     HEAD, config, packed-refs, objects/pack/…
//! ```
//!
//! Whatever is under a temporary name was cut and is removed by the next call; whatever has a
//! final name is whole and synced. The caller holds the store's lock.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use gix::ObjectId;
use gix::objs::Kind;
use serde::{Deserialize, Serialize};

use super::object::{EntryKind, check_tree, parse_commit};
use super::pack::{self, PackObjects};
use super::walk::{self, WalkError};
use super::{GitStoreError, PackError};
use crate::fsio::atomic::TEMPORARY_PREFIX;
use crate::fsio::{Step, limits, pass, sync_folder};
use crate::model::{BundleHeader, Digest, GitOid, GitRef, RefName, ReleaseName, ReleaseVersion};

/// The format of `fleetpack-git.json`, and of what a generation holds.
const FORMAT: u32 = 1;
pub(super) const RECORD: &str = "fleetpack-git.json";
/// A bare repository that nothing collects and that has no hooks.
pub(super) const CONFIG: &str = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n\thooksPath = /dev/null\n\
                      [gc]\n\tauto = 0\n";

/// One kept release, as a generation needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerationRelease {
    /// Its version.
    pub version: ReleaseVersion,
    /// Its identity: the digest of its release manifest.
    pub digest: Digest,
    /// Digest of its git bundle, which was verified.
    pub bundle: Digest,
    /// Where the bundle lies.
    pub bundle_path: PathBuf,
    /// The references that the release document lists.
    pub refs: Vec<GitRef>,
    /// The commit that was built.
    pub commit: GitOid,
}

/// A whole generation, ready to be used or in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    id: String,
    path: PathBuf,
}

impl Generation {
    /// Its name: it follows from the releases that it holds.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The bare repository.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// What a generation says about itself.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    format: u32,
    /// Oldest first, the active one last.
    pub(super) releases: Vec<RecordRelease>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct RecordRelease {
    version: ReleaseVersion,
    pub(super) digest: Digest,
    bundle: Digest,
    commit: GitOid,
    refs: Vec<GitRef>,
    /// Name of its pack; not part of the generation's own name, which must be known before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pack: Option<String>,
}

impl Record {
    /// The name of the generation: it follows from all but the names of its packs.
    fn id(&self) -> io::Result<String> {
        let without = |release: &RecordRelease| RecordRelease { pack: None, ..release.clone() };
        let plain = Self { format: self.format, releases: self.releases.iter().map(without).collect() };
        Ok(Digest::of(&serde_json::to_vec(&plain)?).hex().chars().take(32).collect())
    }

    /// Reads the record of the generation at `path`, and holds it against the generation's name.
    pub(super) fn read(path: &Path) -> Result<Self, GitStoreError> {
        let file = path.join(RECORD);
        let record = read_record(&file)?;
        let found = record.id().map_err(io_error("read", &file))?;
        if path.file_name().and_then(|name| name.to_str()) != Some(found.as_str()) {
            return Err(GitStoreError::Record { path: file, why: format!("it is that of `{found}`") });
        }
        Ok(record)
    }

    /// The releases as they were given.
    pub(super) fn given(&self) -> Vec<GenerationRelease> {
        let release = |entry: &RecordRelease| GenerationRelease {
            version: entry.version.clone(),
            digest: entry.digest,
            bundle: entry.bundle,
            bundle_path: PathBuf::new(),
            refs: entry.refs.clone(),
            commit: entry.commit.clone(),
        };
        self.releases.iter().map(release).collect()
    }
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> GitStoreError + use<'a> {
    move |source| GitStoreError::Io { action, path: path.to_owned(), source }
}

fn make_folder(path: &Path) -> Result<(), GitStoreError> {
    pass(Step::MakeFolder, path).and_then(|()| fs::create_dir_all(path)).map_err(io_error("create", path))
}

/// Makes a folder below `root` and `root` itself, durably up to the folder that was there before.
/// Each is synced whether it is new or not: a process that was killed may have made it and not
/// come to this.
fn make_folder_durably(root: &Path, folder: &Path) -> Result<(), GitStoreError> {
    let above: Vec<&Path> = root.ancestors().skip(1).take_while(|path| !path.exists()).collect();
    let first = above.last().map_or(root, |path| *path);
    make_folder(folder)?;
    for path in above {
        sync(path)?;
    }
    if let Some(parent) = first.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        sync(parent)?;
    }
    sync(root)
}

fn sync(path: &Path) -> Result<(), GitStoreError> {
    sync_folder(path).map_err(io_error("sync", path))
}

/// Removes what a cut left behind.
fn clean(folder: &Path) -> Result<(), GitStoreError> {
    for entry in fs::read_dir(folder).map_err(io_error("read", folder))? {
        let entry = entry.map_err(io_error("read", folder))?;
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX) {
            let path = entry.path();
            let kind = entry.file_type().map_err(io_error("read", &path))?;
            let remove =
                |path: &Path| if kind.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            pass(Step::Remove, &path).and_then(|()| remove(&path)).map_err(io_error("remove", &path))?;
        }
    }
    Ok(())
}

/// Removes what a cut left behind in `root` and in the folder of each repository below it, where
/// nothing is to be made or switched that would.
///
/// # Errors
///
/// When a folder cannot be read, or something in it not removed.
pub fn clear_leftovers(root: &Path) -> Result<(), GitStoreError> {
    if !root.is_dir() {
        return Ok(());
    }
    clean(root)?;
    for entry in fs::read_dir(root).map_err(io_error("read", root))? {
        let entry = entry.map_err(io_error("read", root))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            clean(&entry.path())?;
        }
    }
    Ok(())
}

/// Makes the generation of `releases` (oldest first, the active one last) below `root`, the store's
/// `git` folder. One that is there already is taken as it is; packs that another generation holds
/// are linked, not written again.
///
/// # Errors
///
/// When a bundle is not whole, or breaks a rule; nothing has a final name then.
pub fn build_generation(
    root: &Path,
    name: &ReleaseName,
    releases: &[GenerationRelease],
) -> Result<Generation, GitStoreError> {
    let Some(active) = releases.last() else { return Err(GitStoreError::Empty { name: name.to_string() }) };
    let mut record = Record {
        format: FORMAT,
        releases: releases
            .iter()
            .map(|release| RecordRelease {
                version: release.version.clone(),
                digest: release.digest,
                bundle: release.bundle,
                commit: release.commit.clone(),
                refs: release.refs.clone(),
                pack: None,
            })
            .collect(),
    };
    let id = record.id().map_err(io_error("describe", root))?;
    let folder = root.join(name.as_str());
    make_folder_durably(root, &folder)?;
    clean(&folder)?;
    let generation = Generation { path: folder.join(&id), id };
    if generation.path.join(RECORD).is_file() {
        sync(&folder)?;
        return Ok(generation);
    }
    let references = references(releases)?;
    let head = active
        .refs
        .iter()
        .find(|reference| reference.name.is_branch())
        .ok_or_else(|| GitStoreError::NoBranch { version: active.version.to_string() })?;

    let temporary = folder.join(format!("{TEMPORARY_PREFIX}{}", generation.id));
    for part in ["objects/pack", "objects/info", "refs/heads", "refs/tags"] {
        make_folder(&temporary.join(part))?;
    }
    let packs = temporary.join("objects/pack");
    let known = known_packs(&folder)?;
    let mut peeled = BTreeMap::new();
    for (release, entry) in releases.iter().zip(&mut record.releases) {
        entry.pack = Some(take_release(release, &packs, &known, &mut peeled)?);
    }

    let listing = packed_refs(&references, &peeled);
    let record =
        serde_json::to_vec_pretty(&record).map_err(io::Error::other).map_err(io_error("describe", root))?;
    for (file, bytes) in [
        ("packed-refs", listing),
        ("HEAD", head_file(&head.name)),
        ("config", CONFIG.as_bytes().to_vec()),
        (RECORD, record),
    ] {
        let path = temporary.join(file);
        File::create_new(&path)
            .and_then(|mut file| {
                file.write_all(&bytes)?;
                pass(Step::SyncFile, &path)?;
                file.sync_all()
            })
            .map_err(io_error("write", &path))?;
    }
    for part in ["objects/pack", "objects/info", "objects", "refs/heads", "refs/tags", "refs", ""] {
        sync(&temporary.join(part))?;
    }
    pass(Step::Rename, &generation.path)
        .and_then(|()| fs::rename(&temporary, &generation.path))
        .map_err(io_error("create", &generation.path))?;
    sync(&folder)?;
    Ok(generation)
}

/// The file of references.
pub(super) fn packed_refs(
    references: &BTreeMap<RefName, GitOid>,
    peeled: &BTreeMap<GitOid, GitOid>,
) -> Vec<u8> {
    let mut listing = b"# pack-refs with: peeled fully-peeled sorted \n".to_vec();
    for (name, target) in references {
        listing.extend_from_slice(format!("{target} {name}\n").as_bytes());
        if let Some(commit) = peeled.get(target).filter(|commit| *commit != target) {
            listing.extend_from_slice(format!("^{commit}\n").as_bytes());
        }
    }
    listing
}

/// The file that names the branch in use.
pub(super) fn head_file(branch: &RefName) -> Vec<u8> {
    format!("ref: {branch}\n").into_bytes()
}

/// All references of a generation: those of the releases, later ones over earlier ones, and one tag
/// that keeps each release's commit named.
pub(super) fn references(releases: &[GenerationRelease]) -> Result<BTreeMap<RefName, GitOid>, GitStoreError> {
    let mut out: BTreeMap<RefName, GitOid> = BTreeMap::new();
    // Files and folders cannot share a name, and git keeps references as if they were files.
    let mut insert = |name: RefName, target: GitOid| {
        let within = |a: &str, b: &str| b.strip_prefix(a).is_some_and(|rest| rest.starts_with('/'));
        out.retain(|other, _| {
            !within(other.as_str(), name.as_str()) && !within(name.as_str(), other.as_str())
        });
        out.insert(name, target);
    };
    for release in releases {
        for reference in &release.refs {
            insert(reference.name.clone(), reference.target.clone());
        }
    }
    for release in releases {
        insert(release_tag(release)?, release.commit.clone());
    }
    if let Some(active) = releases.last()
        && let Some(lost) =
            active.refs.iter().find(|reference| out.get(&reference.name) != Some(&reference.target))
    {
        return Err(GitStoreError::Conflict {
            version: active.version.to_string(),
            name: lost.name.to_string(),
            other: "refs/tags/fleetpack/".to_owned(),
        });
    }
    Ok(out)
}

/// `refs/tags/fleetpack/VERSION-SHORTDIGEST`.
fn release_tag(release: &GenerationRelease) -> Result<RefName, GitStoreError> {
    let name = format!("refs/tags/fleetpack/{}-{}", release.version, release.digest.short());
    name.parse().map_err(|_| GitStoreError::Conflict {
        version: release.version.to_string(),
        name,
        other: "git's rules for names".to_owned(),
    })
}

/// Which generation holds the pack of a bundle, and under which name.
fn known_packs(folder: &Path) -> Result<BTreeMap<Digest, (PathBuf, String)>, GitStoreError> {
    let mut known = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(io_error("read", folder))? {
        let path = entry.map_err(io_error("read", folder))?.path();
        let file = path.join(RECORD);
        if !file.is_file() {
            continue;
        }
        for release in read_record(&file)?.releases {
            if let Some(pack) = release.pack.filter(|pack| is_pack_name(pack)) {
                known.insert(release.bundle, (path.join("objects/pack"), pack));
            }
        }
    }
    Ok(known)
}

fn read_record(path: &Path) -> Result<Record, GitStoreError> {
    let refuse = |why: String| GitStoreError::Record { path: path.to_owned(), why };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limits::GIT_RECORD + 1).read_to_end(&mut bytes))
        .map_err(io_error("read", path))?;
    if bytes.len() as u64 > limits::GIT_RECORD {
        return Err(refuse(format!("it is longer than {} bytes", limits::GIT_RECORD)));
    }
    let record: Record = serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))?;
    if record.format == FORMAT {
        Ok(record)
    } else {
        Err(refuse(format!("format {}, wanted {FORMAT}", record.format)))
    }
}

pub(super) fn is_pack_name(name: &str) -> bool {
    name.strip_prefix("pack-").is_some_and(|hex| hex.parse::<GitOid>().is_ok())
}

/// Brings one release's pack into `packs` and checks that the release is whole in it.
/// Answers with the name of the pack; adds what each reference peels to to `peeled`.
fn take_release(
    release: &GenerationRelease,
    packs: &Path,
    known: &BTreeMap<Digest, (PathBuf, String)>,
    peeled: &mut BTreeMap<GitOid, GitOid>,
) -> Result<String, GitStoreError> {
    let version = || release.version.to_string();
    let packed = |source: PackError| GitStoreError::Pack { version: version(), source };
    let walked = |source: WalkError| GitStoreError::History { version: version(), source };
    let (header, file) = pack::read_header(&release.bundle_path).map_err(packed)?;
    compare(release, &header)?;
    let (name, imported) = match known.get(&release.bundle) {
        Some((from, name)) => {
            link(from, packs, name)?;
            (name.clone(), false)
        }
        None => (pack::import(&release.bundle_path, file, packs).map_err(packed)?, true),
    };
    let mut objects = PackObjects::open(packs, &name).map_err(packed)?;
    let mut tips = Vec::new();
    for reference in &release.refs {
        let target = object_id(&reference.target);
        let (commit, _) = walk::peel(&mut objects, target).map_err(walked)?;
        tips.push(target);
        if let Ok(commit) = commit.to_hex().to_string().parse() {
            peeled.insert(reference.target.clone(), commit);
        }
    }
    if imported {
        objects.refuse_duplicates().map_err(packed)?;
        let closure = walk::closure(&mut objects, &tips).map_err(walked)?;
        let commit = object_id(&release.commit);
        if !closure.commits.contains(&commit) {
            return Err(GitStoreError::Unreached { version: version(), commit: release.commit.to_string() });
        }
        check_release_tree(&mut objects, release)?;
    }
    Ok(name)
}

pub(super) fn object_id(oid: &GitOid) -> ObjectId {
    ObjectId::from_hex(oid.as_str().as_bytes()).unwrap_or_else(|_| ObjectId::null(gix::hash::Kind::Sha1))
}

/// The bundle must say what the release document says: the document is what was signed for people to read.
fn compare(release: &GenerationRelease, header: &BundleHeader) -> Result<(), GitStoreError> {
    let list = |refs: Vec<(String, &GitOid)>, head: Option<&GitOid>| {
        let mut lines: Vec<_> = refs.into_iter().map(|(name, oid)| format!("`{name}` at {oid}")).collect();
        lines.sort();
        lines.extend(head.map(|oid| format!("`HEAD` at {oid}")));
        lines.join(", ")
    };
    let found = list(header.refs.iter().map(|(n, o)| (n.to_string(), o)).collect(), header.head.as_ref());
    let wanted =
        list(release.refs.iter().map(|r| (r.name.to_string(), &r.target)).collect(), Some(&release.commit));
    if found == wanted {
        Ok(())
    } else {
        Err(GitStoreError::References { version: release.version.to_string(), found, wanted })
    }
}

/// Links pack and index of another generation; a pack that two releases share is there already.
fn link(from: &Path, packs: &Path, name: &str) -> Result<(), GitStoreError> {
    for extension in ["pack", "idx"] {
        let file = format!("{name}.{extension}");
        let to = packs.join(&file);
        match pass(Step::Link, &to).and_then(|()| fs::hard_link(from.join(&file), &to)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            linked => linked.map_err(io_error("link", &to))?,
        }
    }
    Ok(())
}

/// Every folder of the release's own tree is fit to be checked out, and every entry is what its mode says.
fn check_release_tree(objects: &mut PackObjects, release: &GenerationRelease) -> Result<(), GitStoreError> {
    let walked = |source: WalkError| GitStoreError::History { version: release.version.to_string(), source };
    let mut buffer = Vec::new();
    let commit = object_id(&release.commit);
    walk::read_kind(objects, &commit, Kind::Commit, &mut buffer).map_err(walked)?;
    let root = parse_commit(&buffer)
        .ok_or(WalkError::Malformed { oid: commit, kind: Kind::Commit })
        .map_err(walked)?
        .tree;
    let mut seen: gix::hashtable::HashSet<ObjectId> = gix::hashtable::HashSet::default();
    let mut stack = vec![(String::new(), root)];
    while let Some((folder, oid)) = stack.pop() {
        walk::read_kind(objects, &oid, Kind::Tree, &mut buffer).map_err(walked)?;
        let entries = check_tree(&buffer).map_err(|fault| GitStoreError::Tree {
            version: release.version.to_string(),
            folder: if folder.is_empty() { ".".to_owned() } else { folder.clone() },
            fault,
        })?;
        for entry in entries {
            let wanted = match entry.kind {
                EntryKind::Tree => Kind::Tree,
                EntryKind::File { .. } | EntryKind::Symlink => Kind::Blob,
                EntryKind::Submodule => continue,
            };
            let oid = entry.oid;
            match objects.kind(&oid).map_err(|source| walked(WalkError::Read { oid, source }))? {
                Some(found) if found == wanted => {}
                Some(found) => return Err(walked(WalkError::WrongKind { oid, found, wanted })),
                None => return Err(walked(WalkError::Missing { oid, wanted })),
            }
            if wanted == Kind::Tree && seen.insert(oid) {
                let name = String::from_utf8_lossy(entry.name);
                stack.push((format!("{folder}{}/", name.escape_debug()), oid));
            }
        }
    }
    Ok(())
}

/// Where the repositories of the submodules of a release line lie in the store at `store`: a root as
/// `git` is one for the lines themselves.
#[must_use]
pub fn submodules_folder(store: &Path, name: &ReleaseName) -> PathBuf {
    store.join("submodules").join(name.as_str())
}

/// The generations in use of a submodule called `name`, of every release line that has one.
///
/// # Errors
///
/// When a folder cannot be read, or a link leads astray.
pub fn submodules_named(
    store: &Path,
    name: &ReleaseName,
) -> Result<Vec<(ReleaseName, Generation)>, GitStoreError> {
    let folder = store.join("submodules");
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_error("read", &folder))?,
    };
    let mut out = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error("read", &folder))?;
        let Some(line) = entry.file_name().to_str().and_then(|name| name.parse::<ReleaseName>().ok()) else {
            continue;
        };
        if let Some(generation) = current(&entry.path(), name)? {
            out.push((line, generation));
        }
    }
    out.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(out)
}

/// Removes every repository below `root` but those called `names`.
///
/// # Errors
///
/// When one cannot be removed; its link goes first, so none is ever served half.
pub fn remove_others(root: &Path, names: &[&ReleaseName]) -> Result<(), GitStoreError> {
    if !root.is_dir() {
        return Ok(());
    }
    clean(root)?;
    for entry in fs::read_dir(root).map_err(io_error("read", root))? {
        let entry = entry.map_err(io_error("read", root))?;
        let Ok(name) = entry.file_name().to_string_lossy().parse::<ReleaseName>() else { continue };
        if names.contains(&&name) {
            continue;
        }
        let link = link_path(root, &name);
        match pass(Step::Remove, &link).and_then(|()| fs::remove_file(&link)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed.map_err(io_error("remove", &link))?,
        }
        sync(root)?;
        // Never half removed under its own name: what has a name there is taken as whole.
        let away = root.join(format!("{TEMPORARY_PREFIX}{name}"));
        pass(Step::Rename, &away)
            .and_then(|()| fs::rename(entry.path(), &away))
            .map_err(io_error("remove", &entry.path()))?;
    }
    sync(root)?;
    clean(root)?;
    if names.is_empty() {
        // It may hold something that is not ours; then it stays.
        let _ = fs::remove_dir(root);
        return Ok(());
    }
    sync(root)
}

fn link_path(root: &Path, name: &ReleaseName) -> PathBuf {
    root.join(format!("{name}.git"))
}

/// The generation in use; none when the repository is not there.
///
/// # Errors
///
/// When the link leads to something else than a generation of this repository.
pub fn current(root: &Path, name: &ReleaseName) -> Result<Option<Generation>, GitStoreError> {
    let path = link_path(root, name);
    let target = match fs::read_link(&path) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(GitStoreError::Link { path, why: error.to_string() }),
    };
    let id = target
        .to_str()
        .and_then(|text| text.strip_prefix(name.as_str())?.strip_prefix('/'))
        .filter(|id| id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
    match id {
        Some(id) if root.join(&target).join(RECORD).is_file() => {
            Ok(Some(Generation { id: id.to_owned(), path: root.join(&target) }))
        }
        Some(_) => Err(GitStoreError::Link { path, why: "the generation is not there".to_owned() }),
        None => Err(GitStoreError::Link { path, why: format!("it leads to `{}`", target.display()) }),
    }
}

/// Puts a generation into use: from one moment to the next, everybody who opens the repository sees it.
///
/// # Errors
///
/// When the link cannot be made or replaced; the old one is then still there.
pub fn switch(root: &Path, name: &ReleaseName, generation: &Generation) -> Result<(), GitStoreError> {
    clean(root)?;
    let path = link_path(root, name);
    let target = Path::new(name.as_str()).join(&generation.id);
    if fs::read_link(&path).is_ok_and(|found| found == target) {
        return sync(root);
    }
    let temporary = root.join(format!("{TEMPORARY_PREFIX}{name}.git"));
    std::os::unix::fs::symlink(&target, &temporary).map_err(io_error("link", &temporary))?;
    pass(Step::Switch, &path)
        .and_then(|()| fs::rename(&temporary, &path))
        .map_err(io_error("switch", &path))?;
    sync(root)
}

/// Removes every generation but the one in use and `keep`.
///
/// # Errors
///
/// When one cannot be removed; none is ever left half removed under its own name.
pub fn prune_generations(
    root: &Path,
    name: &ReleaseName,
    keep: Option<&Generation>,
) -> Result<usize, GitStoreError> {
    let folder = root.join(name.as_str());
    if !folder.is_dir() {
        return Ok(0);
    }
    let used = current(root, name)?;
    let kept = |id: &str| [used.as_ref(), keep].into_iter().flatten().any(|generation| generation.id == id);
    clean(&folder)?;
    let mut removed = 0;
    for entry in fs::read_dir(&folder).map_err(io_error("read", &folder))? {
        let entry = entry.map_err(io_error("read", &folder))?;
        let id = entry.file_name().to_string_lossy().into_owned();
        if kept(&id) || !entry.path().join(RECORD).is_file() {
            continue;
        }
        let away = folder.join(format!("{TEMPORARY_PREFIX}{id}"));
        pass(Step::Rename, &away)
            .and_then(|()| fs::rename(entry.path(), &away))
            .map_err(io_error("remove", &away))?;
        removed += 1;
    }
    if removed > 0 {
        sync(&folder)?;
        clean(&folder)?;
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(version: &str, refs: &[(&str, char)]) -> GenerationRelease {
        let oid = |c: char| c.to_string().repeat(40).parse::<GitOid>().unwrap();
        GenerationRelease {
            version: version.parse().unwrap(),
            digest: Digest::of(version.as_bytes()),
            bundle: Digest::of(b"bundle"),
            bundle_path: PathBuf::new(),
            refs: refs.iter().map(|(n, c)| GitRef { name: n.parse().unwrap(), target: oid(*c) }).collect(),
            commit: oid('c'),
        }
    }

    #[test]
    fn what_a_cut_removal_left_goes_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let generation = format!("shop/{}", "0".repeat(32));
        for part in ["shop/.fleetpack-tmp-ab/objects", ".fleetpack-tmp-lib/x", &generation] {
            fs::create_dir_all(root.path().join(part)).unwrap();
        }
        std::os::unix::fs::symlink(&generation, root.path().join("shop.git")).unwrap();
        clear_leftovers(root.path()).unwrap();
        clear_leftovers(&root.path().join("none")).unwrap();
        assert!(root.path().join(&generation).is_dir() && root.path().join("shop.git").is_dir());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2);
        assert_eq!(fs::read_dir(root.path().join("shop")).unwrap().count(), 1);
    }

    #[test]
    fn later_references_stand_over_earlier_ones_and_every_release_keeps_a_name() {
        let one = release("1.0", &[("refs/heads/a", '1'), ("refs/heads/main", '1'), ("refs/tags/v1", '1')]);
        let two = release("2.0", &[("refs/heads/a/b", '2'), ("refs/heads/main", '2')]);
        let all = references(&[one.clone(), two.clone()]).unwrap();
        let lines: Vec<_> = all.iter().map(|(n, o)| format!("{n} {}", &o.as_str()[..1])).collect();
        let tag = |r: &GenerationRelease| format!("refs/tags/fleetpack/{}-{} c", r.version, r.digest.short());
        assert_eq!(
            lines,
            ["refs/heads/a/b 2", "refs/heads/main 2", &tag(&one), &tag(&two), "refs/tags/v1 1"]
        );
        // Back again: the first one is the active one.
        assert!(references(&[two, one]).unwrap().contains_key(&"refs/heads/a".parse().unwrap()));
        let clash = release("3.0", &[("refs/heads/main", '1'), ("refs/tags/fleetpack", '1')]);
        assert!(matches!(references(&[clash]), Err(GitStoreError::Conflict { .. })));
    }
}
