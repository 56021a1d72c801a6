//! What can go wrong between a repository and its revision's tree or bundle.

use std::io;
use std::path::PathBuf;

use crate::model::ErrorClass;
use crate::store::git::{TreeFault, WalkError};

/// An error of the build side of Git.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// A repository elsewhere cannot be fetched.
    #[error(transparent)]
    Remote(Box<super::remote::RemoteError>),
    /// There is no repository, or it cannot be read.
    #[error("no git repository at `{}` or above it: {why}", path.display())]
    Open {
        /// Where it was looked for.
        path: PathBuf,
        /// The cause.
        why: String,
    },
    /// The repository names its objects by another hash.
    #[error("the repository `{}` uses object format `{found}`, wanted `sha1`", path.display())]
    ObjectFormat {
        /// The repository.
        path: PathBuf,
        /// Its format.
        found: String,
    },
    /// The clone does not hold the whole history.
    #[error("the repository `{}` is a shallow clone, wanted the whole history", path.display())]
    Shallow {
        /// The repository.
        path: PathBuf,
    },
    /// The revision is not one that can be looked up.
    #[error("`{revision}` is not a revision: {why}")]
    Revision {
        /// As it was asked for.
        revision: String,
        /// What is wrong with it.
        why: String,
    },
    /// Nothing has that name.
    #[error("revision `{revision}` is not in the repository `{}`{}", path.display(), near(near_matches))]
    Unknown {
        /// As it was asked for.
        revision: String,
        /// The repository.
        path: PathBuf,
        /// Branches and tags with a name like it.
        near_matches: Vec<String>,
        /// What git's rules say about it.
        why: String,
    },
    /// `HEAD` stands on a branch without commits.
    #[error("branch `{branch}` has no commit yet")]
    NoCommit {
        /// Its full name.
        branch: String,
    },
    /// Several things have that name.
    #[error("revision `{revision}` is ambiguous: it names {}", candidates.join(" and "))]
    Ambiguous {
        /// As it was asked for.
        revision: String,
        /// What it may mean.
        candidates: Vec<String>,
    },
    /// The revision leads to something else than a commit.
    #[error("revision `{revision}` names a {found}, wanted a commit")]
    NotACommit {
        /// As it was asked for.
        revision: String,
        /// What it names.
        found: String,
    },
    /// A reference has a name that cannot travel.
    #[error("reference `{name}` cannot travel: {why}")]
    RefName {
        /// Its full name.
        name: String,
        /// The rule it breaks.
        why: String,
    },
    /// The history cannot be read to its end.
    #[error("cannot read the history in `{}`: {source}", path.display())]
    History {
        /// The repository.
        path: PathBuf,
        /// Whether the clone says that it was made without some objects.
        partial: bool,
        /// The cause.
        source: WalkError,
    },
    /// The revision's tree breaks a rule.
    #[error("folder `{folder}` of the revision: {fault}")]
    Tree {
        /// The folder, `.` for the root.
        folder: String,
        /// The rule.
        fault: TreeFault,
    },
    /// A path of the revision cannot be used.
    #[error("path `{path}` of the revision {why}")]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// A submodule of the revision cannot be had, or is not followed here.
    #[error("submodule `{path}` of the revision cannot be had: {why}")]
    Submodule {
        /// Where it is.
        path: String,
        /// Why not.
        why: String,
    },
    /// A file that begins as a Git LFS pointer and is none, or is one that is not taken.
    #[error("`{path}` of the revision begins as a Git LFS pointer does: {why}")]
    LfsPointer {
        /// Where it is.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// Objects of Git LFS that cannot be had.
    #[error("{} of Git LFS cannot be had:{}", count(missing.len()), listed(missing))]
    LfsMissing {
        /// All of them.
        missing: Vec<super::lfs::Missing>,
    },
    /// A Git LFS pointer stands where its content is not followed to.
    #[error("`{path}` of the revision is a Git LFS pointer, whose content lies outside Git")]
    Lfs {
        /// Where it is.
        path: String,
    },
    /// The revision is larger than this program takes.
    #[error("the revision holds more than {limit} {what}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// A file is larger than its reader takes.
    #[error("file `{path}` of the revision is {found} bytes long, wanted at most {limit}")]
    FileTooLarge {
        /// Where it is.
        path: String,
        /// Its size.
        found: u64,
        /// The bound.
        limit: u64,
    },
    /// There is no such file.
    #[error("file `{path}` is not in the revision")]
    NoFile {
        /// Where it was looked for.
        path: String,
    },
    /// A file could not be written while the tree was exported.
    #[error("cannot write `{}`", path.display())]
    Export {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The bundle could not be written.
    #[error("cannot write the git bundle")]
    Write(#[source] io::Error),
    /// Hashing or deflating failed.
    #[error("cannot pack {what}: {why}")]
    Hash {
        /// The object.
        what: String,
        /// The cause.
        why: String,
    },
    /// The state of the work tree cannot be told.
    #[error("cannot compare the work tree with its commit: {why}")]
    Status {
        /// The cause.
        why: String,
    },
}

fn count(objects: usize) -> String {
    if objects == 1 { "an object".to_owned() } else { format!("{objects} objects") }
}

fn listed(missing: &[super::lfs::Missing]) -> String {
    missing.iter().fold(String::new(), |text, one| format!("{text}\n  {one}"))
}

fn near(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!("; there is `{}`", names.join("`, `")) }
}

impl From<super::remote::RemoteError> for GitError {
    fn from(error: super::remote::RemoteError) -> Self {
        Self::Remote(Box::new(error))
    }
}

impl GitError {
    /// The class that decides the exit code.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Remote(error) => error.class(),
            Self::Revision { .. } => ErrorClass::Usage,
            Self::Shallow { .. }
            | Self::Submodule { .. }
            | Self::Lfs { .. }
            | Self::LfsPointer { .. }
            | Self::LfsMissing { .. }
            | Self::History { source: WalkError::Missing { .. }, .. } => ErrorClass::Incomplete,
            _ => ErrorClass::Failed,
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Remote(error) => return error.hint(),
            Self::Shallow { .. } => "fetch the rest of the history: git fetch --unshallow".to_owned(),
            Self::ObjectFormat { .. } => {
                "convert the repository: sites that follow Git know 40-digit names only".to_owned()
            }
            Self::Ambiguous { candidates, .. } if candidates.iter().any(|name| name.starts_with("refs/")) => {
                "write the full name".to_owned()
            }
            Self::Ambiguous { .. } => "write more digits of the hash".to_owned(),
            Self::Unknown { .. } => "list what there is: git branch --all; git tag".to_owned(),
            Self::Submodule { path, .. } => format!(
                "see that its URL in `.gitmodules` can be cloned and has the commit, or bring it into the clone: git submodule update --init --recursive -- {path}"
            ),
            Self::LfsPointer { .. } => {
                "write the pointer anew (git lfs track, git add --renormalize), or store the file in Git itself"
                    .to_owned()
            }
            Self::LfsMissing { .. } => {
                "bring them into the clone that is built from: git lfs fetch --all; or to their server from where they are: git lfs push --all origin"
                    .to_owned()
            }
            Self::Lfs { .. } => {
                "store the file in Git itself (git lfs migrate export), or leave it out".to_owned()
            }
            Self::History { partial: true, .. } => {
                "the clone was made with `--filter`: clone again without it".to_owned()
            }
            Self::History { source: WalkError::Missing { .. }, .. } => {
                "the repository is damaged: see git fsck, and clone again".to_owned()
            }
            _ => return None,
        })
    }
}
