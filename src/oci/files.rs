//! Small files from outside, read within their bounds.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::error::{OciError, Result};

/// The content of `path`, or nothing when there is no such file.
pub(super) fn read_bounded(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let io = |source| OciError::Io { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(io(error)),
    };
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > limit {
        return Err(OciError::TooLarge {
            what: "the file".to_owned(),
            from: format!("`{}`", path.display()),
            limit,
        });
    }
    Ok(Some(bytes))
}

/// The content of `path` as text, or nothing when there is no such file.
pub(super) fn read_text(path: &Path, limit: u64) -> Result<Option<String>> {
    let Some(bytes) = read_bounded(path, limit)? else { return Ok(None) };
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(error) => Err(OciError::Config {
            path: path.to_owned(),
            why: format!("not UTF-8 after byte {}", error.utf8_error().valid_up_to()),
        }),
    }
}
