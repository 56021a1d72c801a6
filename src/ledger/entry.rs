//! Entries, and the lines that hold them.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::LedgerError;
use crate::model::{Digest, ReleaseName};

/// Version of the lines this crate writes, and the highest it reads.
pub const VERSION: u64 = 1;

/// Kinds of entries that version 1 knows.
const KINDS: &[&str] = &["seeded", "begin", "step", "succeed", "fail", "dropped", "healed"];

/// What an attempt wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Run the release of an archive.
    Apply,
    /// Run an earlier release, as somebody asked for.
    Rollback,
    /// Run the release before, because an attempt failed.
    Restore,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Apply => "apply",
            Self::Rollback => "rollback",
            Self::Restore => "restore",
        })
    }
}

/// One thing that happened (`docs/formats.md`, "Ledger").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Entry {
    /// All blobs and the Git history of the release are in the store and were asked for at the endpoint.
    Seeded {
        /// Line of releases.
        name: ReleaseName,
        /// Digest of the release manifest.
        release: Digest,
    },
    /// The cluster is about to change.
    Begin {
        /// Line of releases.
        name: ReleaseName,
        /// What is wanted.
        action: Action,
        /// The release to run.
        release: Digest,
        /// The active release before.
        from: Option<Digest>,
        /// The number of this line.
        attempt: u64,
        /// Why, where somebody had to say so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A stage of the attempt is done.
    Step {
        /// Number of the attempt's `begin`.
        attempt: u64,
        /// The stage.
        step: String,
    },
    /// The release runs and is healthy.
    Succeed {
        /// Number of the attempt's `begin`.
        attempt: u64,
    },
    /// The attempt ended otherwise.
    Fail {
        /// Number of the attempt's `begin`.
        attempt: u64,
        /// What happened.
        error: String,
    },
    /// The release left the store.
    Dropped {
        /// Line of releases.
        name: ReleaseName,
        /// Digest of the release manifest.
        release: Digest,
    },
    /// Objects of the active release that differed in the cluster are as they should be again.
    Healed {
        /// Line of releases.
        name: ReleaseName,
        /// Digest of the release manifest.
        release: Digest,
        /// The objects; the first twenty of them.
        objects: Vec<String>,
        /// How many more there were.
        #[serde(default, skip_serializing_if = "is_zero")]
        more: u64,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// One line of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its number, from 1.
    pub number: u64,
    /// When it was written, as the writer's clock had it.
    pub time: Timestamp,
    /// What happened.
    pub entry: Entry,
}

/// A line as JSON.
#[derive(Serialize, Deserialize)]
struct Wire<E> {
    v: u64,
    n: u64,
    time: Timestamp,
    prev: String,
    entry: E,
}

/// What every version of a line has.
#[derive(Deserialize)]
struct AnyWire {
    v: u64,
    entry: AnyEntry,
}

#[derive(Deserialize)]
struct AnyEntry {
    kind: String,
}

impl Line {
    /// The line as bytes, without its newline; `prev` is the digest of the line before.
    pub(super) fn to_bytes(&self, prev: Digest) -> Result<Vec<u8>, LedgerError> {
        let wire = Wire { v: VERSION, n: self.number, time: self.time, prev: prev.hex(), entry: &self.entry };
        serde_json::to_vec(&wire).map_err(|error| LedgerError::Entry { why: error.to_string() })
    }

    /// What the line with these bytes says about the one before it, if it is a line at all.
    pub(super) fn previous(bytes: &[u8]) -> Option<Digest> {
        #[derive(Deserialize)]
        struct Link {
            prev: String,
        }
        let link: Link = serde_json::from_slice(bytes).ok()?;
        Digest::from_hex(&link.prev).ok()
    }

    /// Parses line `number`, whose line before has the digest `prev`.
    pub(super) fn parse(bytes: &[u8], number: u64, prev: Digest) -> Result<Self, LedgerError> {
        let refuse = |why: String| LedgerError::Line { line: number, why };
        let any: AnyWire = serde_json::from_slice(bytes).map_err(|error| refuse(error.to_string()))?;
        let kind: String = any.entry.kind.chars().take(60).collect();
        if any.v > VERSION {
            return Err(LedgerError::Newer { line: number, version: any.v, kind });
        }
        if any.v == 0 {
            return Err(refuse(format!("version `0`, wanted `{VERSION}`")));
        }
        if !KINDS.contains(&kind.as_str()) {
            return Err(refuse(format!("an entry of kind `{kind}`, wanted one of `{}`", KINDS.join("`, `"))));
        }
        let wire: Wire<Entry> = serde_json::from_slice(bytes).map_err(|error| refuse(error.to_string()))?;
        if wire.n != number {
            return Err(refuse(format!("the line says that it is number {}, wanted {number}", wire.n)));
        }
        if wire.prev != prev.hex() {
            let found: String = wire.prev.chars().take(64).collect();
            return Err(refuse(format!(
                "the chain is broken: `prev` is `{found}`, but the line before has `{}`",
                prev.hex()
            )));
        }
        Ok(Self { number, time: wire.time, entry: wire.entry })
    }
}
