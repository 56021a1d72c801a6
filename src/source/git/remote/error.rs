//! What can go wrong between here and a repository elsewhere.

use std::io;
use std::path::PathBuf;

use crate::model::{ErrorClass, GitOid};

/// Why a remote repository was not fetched. URLs stand here without their passwords.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// A URL that is not taken.
    #[error("`{url}` is not a repository's URL: {why}")]
    Url {
        /// As it was given, without what may be secret.
        url: String,
        /// The rule it breaks.
        why: String,
    },
    /// It takes git, which is not there.
    #[error("`{url}` cannot be fetched: {why}, and there is no `git` on the PATH")]
    NoGit {
        /// The repository.
        url: String,
        /// Why this program does not fetch it by itself.
        why: String,
    },
    /// A step of git failed.
    #[error("git cannot {what} `{url}`: {complaint}")]
    Git {
        /// What it was to do.
        what: &'static str,
        /// The repository.
        url: String,
        /// What it said, cut.
        complaint: String,
    },
    /// Nothing came for too long, or all of it took too long.
    #[error("gave up on `{url}`: {why}")]
    Time {
        /// The repository.
        url: String,
        /// What took how long.
        why: String,
    },
    /// More came than is taken.
    #[error("`{url}` sent more than {limit} bytes")]
    TooLarge {
        /// The repository.
        url: String,
        /// The bound.
        limit: u64,
    },
    /// The remote has not the commit.
    #[error("`{url}` does not give commit {commit}: {why}")]
    NoCommit {
        /// The repository.
        url: String,
        /// What was asked for.
        commit: GitOid,
        /// What the remote or git said.
        why: String,
    },
    /// The caller has given up.
    #[error("fetching `{url}` was interrupted")]
    Interrupted {
        /// The repository.
        url: String,
    },
    /// A folder for what is fetched.
    #[error("cannot {what} `{}`", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl RemoteError {
    /// The class that decides the exit code.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Url { .. } => ErrorClass::Usage,
            Self::NoCommit { .. } => ErrorClass::Incomplete,
            _ => ErrorClass::Failed,
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Url { .. } => "give a folder, or a URL that `git clone` takes without a helper".to_owned(),
            Self::NoGit { .. } => "install git, or clone the repository and build from the clone".to_owned(),
            Self::Git { url, .. } => format!("see what git says by itself: git ls-remote {url}"),
            Self::Time { .. } | Self::Interrupted { .. } => {
                "run it again: what has come is kept in the cache".to_owned()
            }
            Self::TooLarge { .. } => "clone the repository and build from the clone".to_owned(),
            Self::NoCommit { .. } => {
                "push the commit, or correct what names it; commits that no branch or tag reaches are rarely given"
                    .to_owned()
            }
            Self::Io { .. } => return None,
        })
    }
}
