//! What can go wrong between a bundle and the repository that a site serves.

use std::io;
use std::path::PathBuf;

use super::{PackError, TreeFault, WalkError};
use crate::model::ErrorClass;

/// An error of the site side of Git.
#[derive(Debug, thiserror::Error)]
pub enum GitStoreError {
    /// There is nothing to build a generation of.
    #[error("a generation of the repository `{name}` wants at least one release")]
    Empty {
        /// Name of the releases.
        name: String,
    },
    /// A bundle's pack cannot be taken.
    #[error("git bundle of version `{version}`: {source}")]
    Pack {
        /// Version of the release.
        version: String,
        /// The cause.
        source: PackError,
    },
    /// A bundle does not hold all that its references reach.
    #[error("git bundle of version `{version}`: {source}")]
    History {
        /// Version of the release.
        version: String,
        /// The cause.
        source: WalkError,
    },
    /// A bundle names other references than its release document.
    #[error("git bundle of version `{version}` holds {found}, the release document wants {wanted}")]
    References {
        /// Version of the release.
        version: String,
        /// What the bundle's header says.
        found: String,
        /// What the release document says.
        wanted: String,
    },
    /// The release's commit is not reached by its references.
    #[error("git bundle of version `{version}`: no reference reaches the release's commit `{commit}`")]
    Unreached {
        /// Version of the release.
        version: String,
        /// The commit.
        commit: String,
    },
    /// The tree of the release's commit breaks a rule.
    #[error("git bundle of version `{version}`, folder `{folder}`: {fault}")]
    Tree {
        /// Version of the release.
        version: String,
        /// The folder, `.` for the root.
        folder: String,
        /// The rule.
        fault: TreeFault,
    },
    /// A release has no branch that `HEAD` could follow.
    #[error("the release of version `{version}` has no branch")]
    NoBranch {
        /// Version of the release.
        version: String,
    },
    /// The active release has a reference that cannot stand beside the site's own tags.
    #[error("reference `{name}` of version `{version}` cannot stand beside `{other}`")]
    Conflict {
        /// Version of the release.
        version: String,
        /// Its reference.
        name: String,
        /// The reference that is in the way.
        other: String,
    },
    /// The link to the generation in use leads somewhere else.
    #[error("`{}` is not a link to a generation of its repository: {why}", path.display())]
    Link {
        /// The link.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The record of a generation is not one that this program reads.
    #[error("`{}` is not the record of a git generation: {why}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file or folder could not be read, written or removed.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl GitStoreError {
    /// The class that decides the exit code.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::History { source: WalkError::Missing { .. }, .. } | Self::Unreached { .. } => {
                ErrorClass::Incomplete
            }
            Self::Pack { source: PackError::Io { .. }, .. }
            | Self::Io { .. }
            | Self::Empty { .. }
            | Self::Link { .. }
            | Self::Record { .. } => ErrorClass::Failed,
            _ => ErrorClass::Refused,
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Io { source, .. } | Self::Pack { source: PackError::Io { source, .. }, .. }
                if crate::fsio::is_full(source) =>
            {
                "free some space, then run the same command again: what was taken in stays".to_owned()
            }
            Self::Link { path, .. } | Self::Record { path, .. } => {
                format!("move `{}` away and apply the release again", path.display())
            }
            Self::Conflict { .. } => "rename the reference and build the release again".to_owned(),
            Self::History { .. } | Self::Unreached { .. } | Self::Pack { .. } | Self::Tree { .. }
                if self.class() != ErrorClass::Failed =>
            {
                "the release was built from a damaged repository or by another program: build it again"
                    .to_owned()
            }
            _ => return None,
        })
    }
}
