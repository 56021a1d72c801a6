//! The files of a revision, checked before anything of them is used.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use gix::ObjectId;
use gix::objs::Kind;
use gix::odb::Header as _;

use super::lfs::{self, Pointer};
use super::submodules::Gitlink;
use super::{GitError, OdbObjects, Repository, Revision, from_oid, to_oid};
use crate::fsio::limits;
use crate::model::GitOid;
use crate::store::git::object::{EntryKind, check_tree, parse_commit};
use crate::store::git::walk::{self, WalkError};

/// Symbolic links that one path may lead through, as Linux has it.
const MAX_LINKS: usize = 40;

/// What a file of a revision is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileMode {
    /// A plain file.
    Plain,
    /// A file that may be run.
    Executable,
    /// A symbolic link; its content is the target.
    Symlink,
}

/// One file of a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeFile {
    /// Path below the root, `/` between components.
    pub path: String,
    /// What it is.
    pub mode: FileMode,
    /// The blob.
    pub oid: GitOid,
    /// Its size.
    pub size: u64,
}

/// All files of a revision. To have one means that every name and mode in it passed the checks, and
/// that Git LFS pointers and submodules are listed.
pub struct Tree {
    repository: Repository,
    files: Vec<TreeFile>,
    links: Vec<Gitlink>,
    pointers: Vec<Pointer>,
}

impl Repository {
    /// Reads and checks the tree of a revision that has no submodules and nothing in Git LFS.
    ///
    /// # Errors
    ///
    /// As [`Repository::tree_with_links`], and when there is a submodule or a Git LFS pointer.
    pub fn tree(&self, revision: &Revision) -> Result<Tree, GitError> {
        let tree = self.tree_with_links(revision)?;
        if let Some(pointer) = tree.pointers.first() {
            return Err(GitError::Lfs { path: pointer.path.clone() });
        }
        match tree.links.first() {
            None => Ok(tree),
            Some(link) => Err(GitError::Submodule {
                path: link.path.clone(),
                why: "submodules are not followed here".to_owned(),
            }),
        }
    }

    /// Reads and checks the tree of a revision. Submodules and Git LFS pointers are
    /// listed by themselves.
    ///
    /// # Errors
    ///
    /// When a name, mode or order breaks git's rules, or a Git LFS pointer its own.
    pub fn tree_with_links(&self, revision: &Revision) -> Result<Tree, GitError> {
        let mut objects = self.objects();
        let mut buffer = Vec::new();
        let commit = to_oid(&revision.commit)?;
        let broken = |source| self.walk_error(source);
        walk::read_kind(&mut objects, &commit, Kind::Commit, &mut buffer).map_err(broken)?;
        let root = parse_commit(&buffer)
            .ok_or_else(|| broken(WalkError::Malformed { oid: commit, kind: Kind::Commit }))?
            .tree;
        let mut reader = Reader {
            repository: self,
            objects,
            files: Vec::new(),
            links: Vec::new(),
            pointers: Vec::new(),
            total: 0,
            paths: 0,
        };
        let mut stack = vec![(String::new(), root)];
        while let Some((folder, oid)) = stack.pop() {
            reader.folder(&folder, oid, &mut stack)?;
        }
        let mut files = reader.files;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let mut links = reader.links;
        links.sort_by(|a, b| a.path.cmp(&b.path));
        let mut pointers = reader.pointers;
        pointers.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Tree { repository: self.clone(), files, links, pointers })
    }
}

struct Reader<'a> {
    repository: &'a Repository,
    objects: OdbObjects,
    files: Vec<TreeFile>,
    links: Vec<Gitlink>,
    pointers: Vec<Pointer>,
    total: u64,
    paths: usize,
}

impl Reader<'_> {
    fn folder(
        &mut self,
        folder: &str,
        oid: ObjectId,
        stack: &mut Vec<(String, ObjectId)>,
    ) -> Result<(), GitError> {
        let mut buffer = Vec::new();
        walk::read_kind(&mut self.objects, &oid, Kind::Tree, &mut buffer)
            .map_err(|source| self.repository.walk_error(source))?;
        let entries = check_tree(&buffer).map_err(|fault| GitError::Tree {
            folder: if folder.is_empty() { ".".to_owned() } else { folder.to_owned() },
            fault,
        })?;
        for entry in entries {
            let lossy = format!("{folder}{}", String::from_utf8_lossy(entry.name));
            let Ok(name) = std::str::from_utf8(entry.name) else {
                return Err(GitError::Path { path: lossy, why: "is not UTF-8".to_owned() });
            };
            let path = format!("{folder}{name}");
            if path.len() > limits::GIT_PATH || name.len() > 255 {
                let why = format!("is longer than {} bytes, or a part of it than 255", limits::GIT_PATH);
                return Err(GitError::Path { path: path.chars().take(200).collect(), why });
            }
            // Folders count too: a tree may name one folder many times over, and its folders again.
            self.paths += 1;
            if self.paths > 2 * limits::GIT_FILES {
                return Err(GitError::TooLarge { what: "files", limit: limits::GIT_FILES as u64 });
            }
            match entry.kind {
                EntryKind::Tree => stack.push((format!("{path}/"), entry.oid)),
                EntryKind::Submodule => {
                    let commit = hash(&path, entry.oid)?;
                    self.links.push(Gitlink { path, commit });
                }
                EntryKind::File { executable: true } => self.file(path, FileMode::Executable, entry.oid)?,
                EntryKind::File { executable: false } => self.file(path, FileMode::Plain, entry.oid)?,
                EntryKind::Symlink => self.file(path, FileMode::Symlink, entry.oid)?,
            }
        }
        Ok(())
    }

    fn file(&mut self, path: String, mode: FileMode, oid: ObjectId) -> Result<(), GitError> {
        let read = |source: gix::Error| WalkError::Read { oid, source: Box::new(source) };
        let header = self
            .objects
            .odb
            .try_header(&oid)
            .map_err(read)
            .and_then(|found| found.ok_or(WalkError::Missing { oid, wanted: Kind::Blob }))
            .and_then(|header| match header.kind() {
                Kind::Blob => Ok(header),
                found => Err(WalkError::WrongKind { oid, found, wanted: Kind::Blob }),
            })
            .map_err(|source| self.repository.walk_error(source))?;
        let size = header.size();
        self.total = self.total.saturating_add(size);
        if self.total > limits::GIT_TREE {
            return Err(GitError::TooLarge { what: "bytes of files", limit: limits::GIT_TREE });
        }
        if self.files.len() >= limits::GIT_FILES {
            return Err(GitError::TooLarge { what: "files", limit: limits::GIT_FILES as u64 });
        }
        if mode != FileMode::Symlink && size < lfs::POINTER_MAX && size > 30 {
            let mut buffer = Vec::new();
            walk::read_kind(&mut self.objects, &oid, Kind::Blob, &mut buffer)
                .map_err(|source| self.repository.walk_error(source))?;
            let found = lfs::parse(&buffer);
            let found = found.map_err(|why| GitError::LfsPointer { path: path.clone(), why })?;
            if let Some((oid, size)) = found {
                self.pointers.push(Pointer { path: path.clone(), oid, size });
            }
        }
        let oid = hash(&path, oid)?;
        self.files.push(TreeFile { path, mode, oid, size });
        Ok(())
    }
}

fn hash(path: &str, oid: ObjectId) -> Result<GitOid, GitError> {
    from_oid(&oid).parse().map_err(|error: crate::model::name::NameError| GitError::Hash {
        what: path.to_owned(),
        why: error.to_string(),
    })
}

impl Tree {
    /// The submodules, sorted by path.
    #[must_use]
    pub fn links(&self) -> &[Gitlink] {
        &self.links
    }

    /// The Git LFS pointers among the files, sorted by path.
    #[must_use]
    pub fn pointers(&self) -> &[Pointer] {
        &self.pointers
    }

    /// The repository that it is of.
    pub(super) fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The files, sorted by path.
    #[must_use]
    pub fn files(&self) -> &[TreeFile] {
        &self.files
    }

    /// The file at `path`.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&TreeFile> {
        self.files
            .binary_search_by(|file| file.path.as_str().cmp(path))
            .ok()
            .and_then(|at| self.files.get(at))
    }

    /// The content of the file at `path` (of a symbolic link: its target), if it has at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// When there is no such file, it is larger, its content is in Git LFS, or it cannot be read.
    pub fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>, GitError> {
        if self.pointers.iter().any(|pointer| pointer.path == path) {
            return Err(GitError::Lfs { path: path.to_owned() });
        }
        let file =
            self.file(path).ok_or_else(|| GitError::NoFile { path: path.chars().take(200).collect() })?;
        self.content(&mut self.repository.objects(), file, limit)
    }

    fn content(&self, objects: &mut OdbObjects, file: &TreeFile, limit: u64) -> Result<Vec<u8>, GitError> {
        if file.size > limit {
            return Err(GitError::FileTooLarge { path: file.path.clone(), found: file.size, limit });
        }
        let mut out = Vec::new();
        walk::read_kind(objects, &to_oid(&file.oid)?, Kind::Blob, &mut out)
            .map_err(|source| self.repository.walk_error(source))?;
        Ok(out)
    }

    /// Writes all files below `folder`, which must be there, empty, and nobody else's to write in.
    ///
    /// A symbolic link is written only if it stays in the tree whatever other links it leads
    /// through; for each other one a line of warning comes back.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or written; what was written until then stays.
    pub fn export(&self, folder: &Path) -> Result<Vec<String>, GitError> {
        let mut objects = self.repository.objects();
        let mut folders = BTreeSet::new();
        let mut links = BTreeMap::new();
        for file in &self.files {
            if file.mode == FileMode::Symlink {
                links.insert(file.path.as_str(), self.content(&mut objects, file, limits::GIT_SYMLINK)?);
                continue;
            }
            let bytes = self.content(&mut objects, file, limits::GIT_OBJECT as u64)?;
            let path = folder.join(&file.path);
            let export = |source| GitError::Export { path: path.clone(), source };
            make_parents(folder, &file.path, &mut folders)?;
            let mode = if file.mode == FileMode::Executable { 0o755 } else { 0o644 };
            fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(&path)
                .and_then(|mut out| out.write_all(&bytes))
                .map_err(export)?;
        }
        // Links last: no file is ever written through one.
        let mut warnings = Vec::new();
        for (path, target) in &links {
            if stays_inside(path, &links) {
                make_parents(folder, path, &mut folders)?;
                let at = folder.join(path);
                std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(target), &at)
                    .map_err(|source| GitError::Export { path: at, source })?;
            } else {
                warnings.push(format!(
                    "left out the symbolic link `{path}`: its target `{}` is outside the revision",
                    String::from_utf8_lossy(target).escape_debug()
                ));
            }
        }
        Ok(warnings)
    }
}

fn make_parents<'a>(folder: &Path, path: &'a str, made: &mut BTreeSet<&'a str>) -> Result<(), GitError> {
    for (end, _) in path.match_indices('/') {
        let parent = &path[..end];
        if made.insert(parent) {
            let path = folder.join(parent);
            fs::create_dir(&path).map_err(|source| GitError::Export { path, source })?;
        }
    }
    Ok(())
}

/// Whether following the link at `path` never leaves the root, other links on the way included.
///
/// `..` after a link goes up from where the link led, so targets cannot be judged as text alone.
fn stays_inside(path: &str, links: &BTreeMap<&str, Vec<u8>>) -> bool {
    let mut pending: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
    let mut at: Vec<String> = Vec::new();
    let mut followed = 0;
    while let Some(part) = pending.pop() {
        match part.as_str() {
            "" | "." => {}
            ".." => {
                if at.pop().is_none() {
                    return false;
                }
            }
            _ => {
                at.push(part);
                if let Some(target) = links.get(at.join("/").as_str()) {
                    followed += 1;
                    let Ok(target) = std::str::from_utf8(target) else { return false };
                    if followed > MAX_LINKS
                        || target.is_empty()
                        || target.starts_with('/')
                        || target.contains('\0')
                    {
                        return false;
                    }
                    at.pop();
                    pending.extend(target.split('/').rev().map(str::to_owned));
                }
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_as_the_kernel_would() {
        let links: BTreeMap<&str, Vec<u8>> = [
            ("inside", "a/b"),
            ("a/up", "../c"),
            ("absolute", "/etc/passwd"),
            ("climbs", "../x"),
            ("x/y/z/deep", "../../../e"),
            // As text this is `x/y/etc`; in truth it is `../etc`.
            ("x/y/z/sly", "deep/../../etc"),
            ("ring", "ring"),
            ("through", "climbs"),
            ("dangling", "not/there"),
            ("root", "."),
        ]
        .into_iter()
        .map(|(path, target)| (path, target.as_bytes().to_vec()))
        .collect();
        let kept: Vec<_> = links.keys().filter(|path| stays_inside(path, &links)).copied().collect();
        assert_eq!(kept, ["a/up", "dangling", "inside", "root", "x/y/z/deep"]);
    }
}
