//! What can be wrong with an archive, and with writing one.

use std::io;
use std::path::PathBuf;

use crate::model::{Digest, ErrorClass};

/// Result of this room.
pub type Result<T> = std::result::Result<T, ArchiveError>;

/// Why an archive was refused, or could not be written. Offsets are bytes from its beginning.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Reading failed below the format.
    #[error("cannot read the archive at byte {offset}{}", member.as_ref().map(|member| format!(", in {member}")).unwrap_or_default())]
    Read {
        /// Where.
        offset: u64,
        /// What was being read, where it is known.
        member: Option<String>,
        /// The cause.
        source: io::Error,
    },
    /// A file could not be opened, made, written or renamed.
    #[error("cannot {action} `{}`", path.display())]
    File {
        /// What was tried: `open`, `create`, …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The input is something else.
    #[error("not a fleetpack archive: {found}, wanted a tar whose first member is `oci-layout`")]
    NotAnArchive {
        /// What it begins with.
        found: String,
    },
    /// The input ends early.
    #[error("the archive is cut short: it ends at byte {end}, inside {member}, which reaches byte {wanted}")]
    Truncated {
        /// What was being read.
        member: String,
        /// Where the input ends.
        end: u64,
        /// Where the piece that was being read ends.
        wanted: u64,
    },
    /// Another header than the one that must stand there.
    #[error("wrong member at byte {offset}: found {found}, wanted {wanted}")]
    Member {
        /// Where the header stands.
        offset: u64,
        /// What it says, in human terms.
        found: String,
        /// What it must say.
        wanted: String,
    },
    /// Bytes between members, or in the trailer, that are not zero.
    #[error("byte {offset} {place} is {found:#04x}, wanted 0")]
    NotZero {
        /// Where the byte is.
        offset: u64,
        /// What it belongs to: ``in the padding after `…` ``.
        place: String,
        /// The byte.
        found: u8,
    },
    /// Something follows the end.
    #[error("the archive ends at byte {end}, and more follows{}", size.map(|size| format!(": it has {size} bytes")).unwrap_or_default())]
    Trailing {
        /// Where it must end.
        end: u64,
        /// Size of the file, where it has one.
        size: Option<u64>,
    },
    /// Content that is not what its name says.
    #[error("{member} (at byte {offset}) has digest {found}, wanted {wanted}")]
    Digest {
        /// Whose content it is.
        member: String,
        /// Where the content begins.
        offset: u64,
        /// Digest of the bytes.
        found: Digest,
        /// Digest that was to be.
        wanted: Digest,
    },
    /// Fixed or derived content with other bytes.
    #[error("{member} (at byte {offset}) is not what follows from the signed content: {why}")]
    Derived {
        /// Whose content it is.
        member: String,
        /// Where the content begins.
        offset: u64,
        /// What differs.
        why: String,
    },
    /// A size beyond its bound (`fsio::limits`).
    #[error("{what} has {found}, more than the {limit} that are read")]
    TooLarge {
        /// What is too large.
        what: String,
        /// What it claims, with its unit.
        found: String,
        /// The bound.
        limit: u64,
    },
    /// The release manifest is not one.
    #[error("the release manifest {why}")]
    Manifest {
        /// What is wrong with it.
        why: String,
    },
    /// The release document was written by a later tool.
    #[error("the release document has format {found}, and this fleetpack reads {known}")]
    Format {
        /// Its format.
        found: u32,
        /// The highest that is read.
        known: u32,
    },
    /// The release document requires what this reader does not know.
    #[error("the release requires feature `{name}`, which this fleetpack does not know")]
    Feature {
        /// Name of the feature.
        name: String,
    },
    /// The release document contradicts itself or its format.
    #[error("the release document {why}")]
    Document {
        /// What is wrong with it.
        why: String,
    },
    /// The signature area, or a bundle for it, breaks a rule.
    #[error("signatures: {why}")]
    Signatures {
        /// What is wrong.
        why: String,
    },
    /// A carried manifest or index is not one, or contradicts the document.
    #[error("{member} {why}")]
    Content {
        /// Whose content it is.
        member: String,
        /// What is wrong with it.
        why: String,
    },
    /// Something that the release leads to is not in the archive.
    #[error("the release is not complete: {why}")]
    Incomplete {
        /// What is missing and who names it.
        why: String,
    },
    /// A sink could not take a blob.
    #[error("cannot store blob {digest}")]
    Sink {
        /// The blob.
        digest: Digest,
        /// The cause.
        source: io::Error,
    },
    /// The place of the output cannot take it.
    #[error("cannot write `{}`: {why}", path.display())]
    Output {
        /// The output.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file system of the output takes no file of that size.
    #[error("cannot write `{}`: it takes {needed} bytes, and its file system takes no file of more than {}", path.display(), limit(*largest))]
    FileLimit {
        /// The output.
        path: PathBuf,
        /// Size of the archive.
        needed: u64,
        /// Size of the largest file, where the kind of file system says it.
        largest: Option<u64>,
    },
    /// The file system of the output is too full.
    #[error("no space for `{}`: it takes {needed} bytes, and {available} are available", path.display())]
    NoSpace {
        /// The output.
        path: PathBuf,
        /// Size of the archive.
        needed: u64,
        /// What the file system has left.
        available: u64,
    },
    /// A blob that was placed has another size or digest than the document says.
    #[error("blob {wanted} came as {found_size} bytes with digest {found}, wanted {wanted_size} bytes")]
    Placed {
        /// Digest in the document.
        wanted: Digest,
        /// Size in the document.
        wanted_size: u64,
        /// Digest of what was written.
        found: Digest,
        /// Its size.
        found_size: u64,
    },
    /// A worker ended without a result.
    #[error("a worker thread ended without a result")]
    Worker,
}

fn limit(largest: Option<u64>) -> String {
    match largest {
        Some(largest) => format!("{largest} bytes"),
        None => format!("some size below that (FAT32: {} bytes)", u32::MAX),
    }
}

/// Whether `error` says that the device below the file system, or its server, has gone.
fn is_gone(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let gone = [Errno::NODEV, Errno::NXIO, Errno::STALE, Errno::NOTCONN, Errno::NOMEDIUM, Errno::CONNABORTED];
    error.raw_os_error().is_some_and(|number| gone.iter().any(|errno| errno.raw_os_error() == number))
}

impl ArchiveError {
    /// A read at `offset` that failed below the format; what stands there is not known.
    pub(super) fn read(offset: u64, source: io::Error) -> Self {
        Self::Read { offset, member: None, source }
    }

    /// How the error ends the process.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Read { .. }
            | Self::File { .. }
            | Self::Sink { .. }
            | Self::Output { .. }
            | Self::FileLimit { .. }
            | Self::NoSpace { .. }
            | Self::Placed { .. }
            | Self::Worker => ErrorClass::Failed,
            Self::NotAnArchive { .. }
            | Self::Truncated { .. }
            | Self::Member { .. }
            | Self::NotZero { .. }
            | Self::Trailing { .. }
            | Self::Digest { .. }
            | Self::Derived { .. }
            | Self::TooLarge { .. }
            | Self::Manifest { .. }
            | Self::Format { .. }
            | Self::Feature { .. }
            | Self::Document { .. }
            | Self::Signatures { .. }
            | Self::Content { .. } => ErrorClass::Refused,
            Self::Incomplete { .. } => ErrorClass::Incomplete,
        }
    }

    /// What to do next, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::NotAnArchive { .. } => "give the file that `fleetpack build` wrote, as it is",
            Self::Truncated { .. } => "copy the archive again: its end is missing",
            Self::Read { source, .. } | Self::File { source, .. } if is_gone(source) => {
                "the medium is not there any more: put it in again, then run the same command again; what was \
                 taken in stays"
            }
            Self::Read { .. } => {
                "the medium may be loose or damaged: run the same command again, what was taken in stays; if it \
                 stops at the same byte, copy the archive again, or from another medium"
            }
            Self::File { action: "open", source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "check the path, and that the medium is mounted"
            }
            Self::File { source, .. } if crate::fsio::is_full(source) => {
                "free some space, or name an output on another file system"
            }
            Self::File { source, .. } if source.kind() == io::ErrorKind::Unsupported => {
                "name an output on another file system, and copy the archive from there"
            }
            Self::Digest { .. } => {
                "the archive was damaged or changed after it was written, or the medium reads badly: run the same \
                 command again; if it says the same, copy the archive again from its source"
            }
            Self::NotZero { .. } | Self::Member { .. } | Self::Trailing { .. } => {
                "the archive was damaged or changed after it was written: copy it again from its source"
            }
            Self::Format { .. } | Self::Feature { .. } => "use a newer fleetpack",
            Self::Sink { source, .. } if crate::fsio::is_full(source) => {
                "free some space, then run the same command again: what was taken in stays"
            }
            Self::FileLimit { .. } => {
                "name an output on another file system: exFAT, ext4 and NTFS take larger files, FAT32 does not"
            }
            Self::NoSpace { .. } => "free some space, or name an output on another file system",
            Self::Incomplete { .. } => "build the release again",
            _ => return None,
        };
        Some(text.to_owned())
    }
}
