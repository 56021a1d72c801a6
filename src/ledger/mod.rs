//! What was done to a site: an append-only, hash-chained file of JSON lines (`docs/formats.md`,
//! "Ledger"). Recovery reads this and nothing else.
//!
//! May use `fsio` and `model`. Must never read a clock (the caller gives the time), change a line
//! that is written, or write without the store's lock.

mod entry;
mod file;
mod history;
mod mend;

pub use entry::{Action, Entry, Line, VERSION};
pub use file::{Ledger, read};
pub use history::{Attempt, History, Outcome};
pub use mend::{Mended, mend};

use std::io;
use std::path::PathBuf;

use crate::model::ErrorClass;

/// Name of the ledger's file in the store.
pub const FILE_NAME: &str = "ledger.jsonl";

/// Why the ledger cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file could not be read or written.
    #[error("cannot {what} the ledger `{}`", path.display())]
    Io {
        /// `read`, `create`, `write`, `repair`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A line does not follow from the line before it.
    #[error("ledger line {line}: {why}")]
    Line {
        /// Number of the line, from 1.
        line: u64,
        /// What was found and what was wanted.
        why: String,
    },
    /// A newer fleetpack wrote the line.
    #[error("ledger line {line}: version {version} with an entry `{kind}`, wanted version {VERSION}")]
    Newer {
        /// Number of the line, from 1.
        line: u64,
        /// Version found.
        version: u64,
        /// Kind of its entry.
        kind: String,
    },
    /// The entry makes no sense after what stands in the ledger.
    #[error("the ledger takes no such entry: {why}")]
    Entry {
        /// What is wrong with it.
        why: String,
    },
    /// An earlier write failed and could not be undone: nothing more is written.
    #[error("the ledger `{}` is not written any more, since an earlier write failed", path.display())]
    Stopped {
        /// The file.
        path: PathBuf,
    },
}

impl LedgerError {
    /// How the error ends the process.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Line { .. } | Self::Newer { .. } => ErrorClass::Refused,
            Self::Io { .. } | Self::Entry { .. } | Self::Stopped { .. } => ErrorClass::Failed,
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Line { .. } => Some(
                "the file was changed by something else than fleetpack; put its last backup in place, or move \
                 it away to begin a new one (the site then knows no active release)"
                    .to_owned(),
            ),
            Self::Newer { .. } => Some("use the fleetpack that last wrote this store, or a newer one".to_owned()),
            Self::Stopped { .. } => Some("free space or repair the disk, then run the same command again".to_owned()),
            Self::Io { source, .. } if crate::fsio::is_full(source) => {
                Some("free some space, then run the same command again".to_owned())
            }
            Self::Io { .. } | Self::Entry { .. } => None,
        }
    }
}
