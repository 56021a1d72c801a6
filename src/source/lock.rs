//! Reads `fleetpack.lock`, which people edit and merge: every error names its line, what stands
//! there and what is wanted.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::config::located;
use crate::model::config::ConfigVersion;
use crate::model::lock::{FILE_NAME, Lock, Locked};
use crate::model::{Digest, ErrorClass, ImageRef, Platform};

/// Why `fleetpack.lock` was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{FILE_NAME}{}: {why}", line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct LockError {
    /// Line of the file, counted from 1, where it is known.
    pub line: Option<u64>,
    /// What is wrong.
    pub why: String,
}

impl LockError {
    /// How the error ends the process.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        ErrorClass::Failed
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(format!("correct the line, or delete `{FILE_NAME}` and write it anew with `fleetpack lock`"))
    }
}

/// The whole of `fleetpack.lock`. Unknown fields are errors.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Lock")]
pub struct LockFile {
    /// Always `fleetpack.dev/v1`.
    #[serde(rename = "apiVersion")]
    _api_version: ConfigVersion,
    /// Always `Lock`.
    #[serde(rename = "kind")]
    _kind: LockKind,
    /// One entry for each reference without a digest, no reference twice.
    images: Vec<Entry>,
}

/// The one kind of lock file.
#[derive(Deserialize, schemars::JsonSchema)]
enum LockKind {
    /// A lock.
    Lock,
}

/// What one reference means.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "LockedImage")]
struct Entry {
    /// The reference, without a digest.
    #[schemars(with = "ImageRef")]
    reference: Spanned<ImageRef>,
    /// Digest of the manifest or index that it means.
    digest: Digest,
    /// Every platform that the image has at that digest. Default: it says none.
    #[serde(default)]
    platforms: Vec<Platform>,
    /// When the reference was found to mean this.
    #[schemars(with = "String")]
    resolved: Timestamp,
}

/// Parses the bytes of `fleetpack.lock`. Unknown fields, doubled keys and references, and
/// references that hold a digest are errors; the order of the entries means nothing.
///
/// # Errors
///
/// When the bytes are not YAML, or not such a lock.
pub fn parse(bytes: &[u8]) -> Result<Lock, LockError> {
    if let Some(line) = conflict(bytes) {
        return Err(LockError {
            line: Some(line),
            why: "a merge conflict that nobody resolved, wanted one of the two sides".to_owned(),
        });
    }
    let options = serde_saphyr::options! { with_snippet: false };
    let file: LockFile = serde_saphyr::from_slice_with_options(bytes, options).map_err(|error| {
        let (line, why) = located(&error);
        LockError { line, why }
    })?;
    let mut lock = Lock::default();
    let mut lines: BTreeMap<ImageRef, u64> = BTreeMap::new();
    for entry in file.images {
        let line = entry.reference.referenced.line();
        let image = entry.reference.value;
        let wrong = |why: String| Err(LockError { line: Some(line), why });
        if !Lock::covers(&image) {
            return wrong(format!(
                "`{image}` holds a digest, which is a lock already; wanted a reference without one"
            ));
        }
        if let Some(first) = lines.insert(image.clone(), line) {
            return wrong(format!("`{image}` stands on line {first} already, wanted each reference once"));
        }
        let Entry { digest, platforms, resolved, .. } = entry;
        lock.set(image, Locked { digest, platforms, resolved });
    }
    Ok(lock)
}

/// The line of the first marker that a merge of Git left behind.
fn conflict(bytes: &[u8]) -> Option<u64> {
    let marker = |line: &[u8]| line.starts_with(b"<<<<<<< ") || line.starts_with(b">>>>>>> ");
    let at = bytes.split(|byte| *byte == b'\n').position(marker)?;
    Some(at as u64 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: fleetpack.dev/v1\nkind: Lock\nimages:\n";
    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn entry(reference: &str) -> String {
        format!(
            "- reference: {reference}\n  digest: sha256:{HEX}\n  platforms: [linux/amd64]\n  resolved: 2026-11-21T08:00:00Z\n"
        )
    }

    #[test]
    fn what_is_written_is_read() {
        let text = format!("{HEAD}{}{}", entry("nginx"), entry("'[::1]:5000/a:1'"));
        let lock = parse(text.as_bytes()).unwrap();
        assert_eq!(lock.len(), 2);
        let nginx = lock.get(&"docker.io/library/nginx:latest".parse().unwrap()).unwrap();
        assert_eq!(nginx.digest.hex(), HEX);
        let written = lock.to_text();
        assert_eq!(parse(written.as_bytes()).unwrap(), lock);
        assert_eq!(parse(written.replace('\n', "\r\n").as_bytes()).unwrap(), lock);
        assert_eq!(parse(written.as_bytes()).unwrap().to_text(), written);
        assert!(parse(Lock::default().to_text().as_bytes()).unwrap().is_empty());
        assert!(parse(format!("{}colour: red\n", Lock::default().to_text()).as_bytes()).is_err());
    }

    #[test]
    fn slips_of_a_hand_are_named_with_their_line() {
        let good = entry("a.example.com/x:1");
        for (text, parts) in [
            (format!("{HEAD}{good}  colour: red\n"), &["fleetpack.lock:8", "`colour`", "resolved"][..]),
            (format!("{HEAD}{good}{good}"), &["fleetpack.lock:8", "a.example.com/x:1", "on line 4"]),
            (
                format!("{HEAD}{}", good.replace("sha256:e3b0", "sha256:E3B0")),
                &["fleetpack.lock:5", "is not a digest", "wanted `sha256:`"],
            ),
            (
                format!("{HEAD}{}", good.replace("sha256:", "sha512:")),
                &["fleetpack.lock:5", "`sha512`", "wanted `sha256`"],
            ),
            (
                format!("{HEAD}{}", good.replace("x:1", "X:1")),
                &["fleetpack.lock:4", "a.example.com/X:1", "lower-case"],
            ),
            (
                format!("{HEAD}{}", good.replace("linux/amd64", "linux")),
                &["fleetpack.lock:6", "`linux` is not a platform"],
            ),
            (format!("{HEAD}{}", good.replace("2026-11", "2026-13")), &["fleetpack.lock:7", "month"]),
            (
                format!("{HEAD}{}", good.replace(":1\n", &format!(":1@sha256:{HEX}\n"))),
                &["fleetpack.lock:4", "holds a digest"],
            ),
            (
                format!("{HEAD}{}", good.replace("  digest: ", "  digest: sha256:00\n  digest: ")),
                &["fleetpack.lock:", "digest"],
            ),
            (
                format!("{HEAD}{}", good.replace("  resolved: 2026-11-21T08:00:00Z\n", "")),
                &["fleetpack.lock:6", "`resolved`"],
            ),
            (
                format!("{HEAD}<<<<<<< HEAD\n{good}=======\n{good}>>>>>>> other\n"),
                &["fleetpack.lock:4", "merge conflict"],
            ),
            (HEAD.replace("Lock", "Release"), &["fleetpack.lock:2", "`Release`", "Lock"]),
            (HEAD.replace("/v1", "/v2"), &["fleetpack.lock:1", "fleetpack.dev/v2", "fleetpack.dev/v1"]),
            (String::new(), &["fleetpack.lock"]),
            ("[".repeat(1 << 20), &["fleetpack.lock"]),
        ] {
            let message = parse(text.as_bytes()).unwrap_err().to_string();
            for part in parts {
                assert!(message.contains(part), "{message:?} lacks {part:?}");
            }
        }
        assert!(parse(b"\xff\xfe").is_err());
    }
}
