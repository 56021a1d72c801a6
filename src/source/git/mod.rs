//! Git on the build side: a local repository, a revision of it, its tree, its whole history as a bundle;
//! and repositories elsewhere ([`remote`]).
//!
//! May use `model`, `fsio`, the object rules of `store::git`, and gix. Reads the object database,
//! never the work tree (but to say that it is dirty). [`Repository`] runs no program whatever the repository's
//! configuration says, reads no configuration but the repository's own, ignores replacements
//! (`refs/replace`), grafts and commit graphs, and writes nothing into the repository.

pub mod bundle;
mod clone;
mod delta;
pub mod error;
pub mod lfs;
mod pack;
pub mod remote;
pub mod revision;
pub mod submodules;
pub mod tree;

use std::path::{Path, PathBuf};

use gix::ObjectId;
use gix::objs::{Exists as _, Find as _, Kind};

pub use bundle::{BundlePlan, Measured};
pub use error::GitError;
pub use revision::{Revision, RevisionKind};
pub use tree::{FileMode, Tree, TreeFile};

use crate::fsio::limits;
use crate::model::GitOid;
use crate::store::git::walk::{Objects, ReadError};

/// Bytes that each reading thread may spend on keeping bases of deltas.
const PACK_CACHE: usize = 16 << 20;

/// A local repository, open for reading.
#[derive(Clone)]
pub struct Repository {
    inner: gix::ThreadSafeRepository,
    path: PathBuf,
    /// The private folder of one that was fetched.
    kept: Option<std::sync::Arc<tempfile::TempDir>>,
}

/// Files of the work tree that differ from `HEAD`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dirty {
    /// The first of them, sorted.
    pub paths: Vec<String>,
    /// How many there are.
    pub count: usize,
}

impl Repository {
    /// Opens the repository at `path` or in the nearest folder above it, as git looks for one:
    /// a work tree, a linked work tree, or a bare repository.
    ///
    /// # Errors
    ///
    /// When there is none, or it is of a kind that is not carried: SHA-256, or shallow.
    pub fn open(path: &Path) -> Result<Self, GitError> {
        let found = |source: gix::Error| GitError::Open { path: path.to_owned(), why: source.to_string() };
        let options = || {
            gix::open::Options::isolated()
                // What a repository says about itself is data here: nothing of it names a program that runs.
                .filter_config_section(|meta| meta.source.kind() != gix::config::source::Kind::Repository)
                .config_overrides([
                    format!("gitoxide.objects.allocLimit={}", limits::GIT_OBJECT),
                    "core.useReplaceRefs=false".to_owned(),
                ])
        };
        let inner = gix::ThreadSafeRepository::discover_opts(
            path,
            gix::discover::upwards::Options::default(),
            gix::sec::trust::Mapping { full: options(), reduced: options() },
        )
        .map_err(found)?;
        let repository = Self { path: inner.path().to_owned(), inner, kept: None };
        let local = repository.local();
        if local.object_hash() != gix::hash::Kind::Sha1 {
            return Err(GitError::ObjectFormat {
                path: repository.path,
                found: local.object_hash().to_string(),
            });
        }
        if local.is_shallow().map_err(found)? {
            return Err(GitError::Shallow { path: repository.path });
        }
        Ok(repository)
    }

    /// The repository's own folder (`.git`, or the bare repository).
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder that linked work trees share.
    fn common_folder(&self) -> PathBuf {
        self.local().common_dir().to_owned()
    }

    /// The URL of the remote `origin`, or of the only one.
    fn origin(&self) -> Option<String> {
        let local = self.local();
        let config = local.config_snapshot();
        let url = |name: &str| config.string(&format!("remote.{name}.url")).map(|url| url.to_string());
        url("origin").or_else(|| {
            let names = local.remote_names();
            let only = names.iter().next().filter(|_| names.len() == 1)?;
            url(&only.to_string())
        })
    }

    /// Where the repository's own configuration says that its Git LFS server is.
    fn lfs_url(&self) -> Option<String> {
        let local = self.local();
        let config = local.config_snapshot();
        let url = config.string("lfs.url").or_else(|| config.string("remote.origin.lfsurl"));
        url.map(|url| url.to_string())
    }

    /// The work tree, where there is one.
    #[must_use]
    pub fn work_tree(&self) -> Option<PathBuf> {
        self.local().workdir().map(Path::to_owned)
    }

    /// Tracked files that differ from `HEAD`, in the index or in the work tree. Untracked files and
    /// submodules do not count.
    ///
    /// # Errors
    ///
    /// When the index or `HEAD` cannot be read.
    pub fn dirty(&self) -> Result<Dirty, GitError> {
        let local = self.local();
        if local.workdir().is_none() {
            return Ok(Dirty::default());
        }
        let status = |source: gix::Error| GitError::Status { why: source.to_string() };
        let changes = local
            .status(gix::progress::Discard)
            .map_err(status)?
            .untracked_files(gix::status::UntrackedFiles::None)
            .index_worktree_submodules(None)
            .index_worktree_rewrites(None)
            .tree_index_track_renames(gix::status::tree_index::TrackRenames::Disabled)
            .into_iter(None)
            .map_err(status)?;
        let mut paths = std::collections::BTreeSet::new();
        let mut seen = std::collections::HashSet::new();
        for change in changes {
            let change = change.map_err(status)?;
            let path = change.location().to_string();
            if seen.insert(path.clone()) {
                paths.insert(path);
                if paths.len() > 20 {
                    paths.pop_last();
                }
            }
        }
        Ok(Dirty { paths: paths.into_iter().collect(), count: seen.len() })
    }

    /// A handle for this thread, with replacements off and room for delta bases.
    fn local(&self) -> gix::Repository {
        let mut local = self.inner.to_thread_local();
        local.objects.ignore_replacements = true;
        local.objects.set_pack_cache(|| Box::new(gix_pack::cache::lru::MemoryCappedHashmap::new(PACK_CACHE)));
        local
    }

    /// Whether the object database has this object.
    #[must_use]
    pub fn holds(&self, oid: &GitOid) -> bool {
        to_oid(oid).is_ok_and(|oid| self.local().objects.exists(&oid))
    }

    fn objects(&self) -> OdbObjects {
        OdbObjects { odb: self.local().objects, scratch: Vec::new() }
    }

    /// Whether the clone says that it was made without some objects.
    fn is_partial(&self) -> bool {
        let local = self.local();
        let config = local.config_snapshot();
        config.string("extensions.partialClone").is_some()
            || config
                .plumbing()
                .sections_by_name("remote")
                .is_some_and(|mut remotes| remotes.any(|remote| remote.value("promisor").is_some()))
    }

    fn walk_error(&self, source: crate::store::git::WalkError) -> GitError {
        let partial = matches!(source, crate::store::git::WalkError::Missing { .. }) && self.is_partial();
        GitError::History { path: self.path.clone(), partial, source }
    }
}

/// The object database of a repository.
struct OdbObjects {
    odb: gix::OdbHandle,
    scratch: Vec<u8>,
}

impl Objects for OdbObjects {
    fn read(&mut self, oid: &ObjectId, out: &mut Vec<u8>) -> Result<Option<Kind>, ReadError> {
        out.clear();
        // The data is a part of the buffer, not always its front.
        Ok(self.odb.try_find(oid, &mut self.scratch)?.map(|data| {
            out.extend_from_slice(data.data);
            data.kind
        }))
    }

    fn contains(&mut self, oid: &ObjectId) -> Result<bool, ReadError> {
        Ok(self.odb.exists(oid))
    }
}

fn to_oid(oid: &GitOid) -> Result<ObjectId, GitError> {
    ObjectId::from_hex(oid.as_str().as_bytes())
        .map_err(|error| GitError::Hash { what: oid.to_string(), why: error.to_string() })
}

fn from_oid(oid: &ObjectId) -> String {
    oid.to_hex().to_string()
}
