//! What can be wrong with a store.

use std::io;
use std::path::PathBuf;

use crate::fsio::lock::LockError;
use crate::model::{Digest, ErrorClass};

/// Why the store cannot be used as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file could not be read, written or removed.
    #[error("cannot {what} `{}`", path.display())]
    Io {
        /// What was to be done: `read`, `write`, `sync` …
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The folder is there and is something else.
    #[error("`{}` is not a fleetpack store: holds `{found}`, wanted an empty folder or a store", path.display())]
    NotAStore {
        /// The folder.
        path: PathBuf,
        /// What was found in it.
        found: String,
    },
    /// There is no store.
    #[error("there is no fleetpack store at `{}`", path.display())]
    Absent {
        /// The folder.
        path: PathBuf,
    },
    /// A newer fleetpack wrote the store.
    #[error("the store `{}` has format {found}, wanted {wanted}", path.display())]
    Newer {
        /// The folder.
        path: PathBuf,
        /// Format found.
        found: u64,
        /// Highest format that is read.
        wanted: u64,
    },
    /// A file of the store does not hold what it must.
    #[error("`{}` is damaged: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found and what was wanted.
        why: String,
    },
    /// Another process writes.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A blob is not there.
    #[error("the store holds no blob `{digest}`")]
    NoBlob {
        /// The blob.
        digest: Digest,
    },
    /// A blob came with another length or content than announced.
    #[error("blob `{digest}`: {why}")]
    Blob {
        /// The blob.
        digest: Digest,
        /// What was found and what was wanted.
        why: String,
    },
    /// Blobs of a release are missing.
    #[error("{} of release `{release}` {} not in the store: {}", plural(missing.len()), if missing.len() == 1 { "is" } else { "are" }, first(missing))]
    Incomplete {
        /// The release.
        release: Digest,
        /// Digests of what is missing.
        missing: Vec<Digest>,
    },
    /// The file system is too full.
    #[error("`{}` has {available} {unit} free, wanted {needed}", path.display())]
    Space {
        /// The store.
        path: PathBuf,
        /// `bytes` or `files`.
        unit: &'static str,
        /// How much is needed.
        needed: u64,
        /// How much there is.
        available: u64,
        /// How much of it dropping every release that need not be kept would free.
        reclaimable: u64,
    },
    /// No release is called that.
    #[error("the store holds no release `{wanted}`{}", known(there))]
    NoRelease {
        /// What was asked for.
        wanted: String,
        /// What there is.
        there: Vec<String>,
    },
    /// Several releases are called that.
    #[error("`{wanted}` means several releases: {}", found.join(", "))]
    Ambiguous {
        /// What was asked for.
        wanted: String,
        /// The releases.
        found: Vec<String>,
    },
    /// Nothing was to be kept.
    #[error("asked to drop every release of the store; at least one is always kept")]
    KeepsNothing,
}

fn plural(count: usize) -> String {
    if count == 1 { "1 blob".to_owned() } else { format!("{count} blobs") }
}

fn first(missing: &[Digest]) -> String {
    let mut text = missing.iter().take(3).map(|digest| format!("`{digest}`")).collect::<Vec<_>>().join(", ");
    if missing.len() > 3 {
        text.push_str(", …");
    }
    text
}

fn known(there: &[String]) -> String {
    if there.is_empty() { ", nor any other".to_owned() } else { format!("; it holds {}", there.join(", ")) }
}

impl StoreError {
    /// How the error ends the process.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Lock(LockError::Held { .. }) => ErrorClass::Locked,
            Self::Incomplete { .. } | Self::NoBlob { .. } => ErrorClass::Incomplete,
            Self::NoRelease { .. } | Self::Ambiguous { .. } => ErrorClass::Usage,
            Self::Blob { .. } => ErrorClass::Refused,
            _ => ErrorClass::Failed,
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, .. } if crate::fsio::is_full(source) => Some(
                "free space, or keep fewer releases (`--keep 1`); then run the same command again".to_owned(),
            ),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Some(
                "run the command as the owner of the store, or name another one with `--store`".to_owned(),
            ),
            Self::NotAStore { .. } => Some("name another folder with `--store`".to_owned()),
            Self::Absent { .. } => {
                Some("`fleetpack apply` makes one; name another place with `--store`".to_owned())
            }
            Self::Newer { .. } => {
                Some("use the fleetpack that last wrote this store, or a newer one".to_owned())
            }
            Self::Damaged { .. } | Self::Incomplete { .. } | Self::NoBlob { .. } => {
                Some(
                    "take it again from an archive of that release: `fleetpack scrub --repair ARCHIVE`, or apply \
                     the archive again"
                        .to_owned(),
                )
            }
            Self::Lock(LockError::Held { .. }) => {
                Some("wait until it has ended, then run the same command again".to_owned())
            }
            Self::Space { unit, reclaimable, .. } if *reclaimable > 0 => Some(format!(
                "give the store more room, or apply with `--keep 1`: it drops the release before the active one \
                     first, and frees up to {reclaimable} {unit} (`fleetpack gc --keep 1 --dry-run` says whose)"
            )),
            Self::Space { .. } => {
                Some("no old release could be dropped: give the store more room".to_owned())
            }
            Self::Ambiguous { .. } => {
                Some("name it by its digest, as far as it needs to be told apart".to_owned())
            }
            _ => None,
        }
    }
}
