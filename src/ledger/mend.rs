//! Bringing back a line that was damaged on the disk.
//!
//! Each line holds the digest of the one before it. So for every line but the last it is known what
//! its bytes must hash to, and where one byte of it was changed, the byte is found by trying: what
//! has the digest is the line that was written, and nothing else is.

use std::fs;
use std::path::{Path, PathBuf};

use super::file::scan;
use super::{FILE_NAME, LedgerError, Line};
use crate::fsio::{FolderLock, Hasher, Step, limits, pass, sync_folder, write_atomic};
use crate::model::Digest;

/// Lines of this length are tried with every byte in every place; longer ones with every bit.
const EVERY_BYTE: usize = 4 << 10;
/// Longer lines are not tried.
const LONGEST: usize = 32 << 10;
/// More damaged lines than this are not a matter of a few bytes.
const LINES: usize = 16;

/// A ledger of which lines were brought back.
#[derive(Debug, Clone)]
pub struct Mended {
    /// Numbers of the lines.
    pub lines: Vec<u64>,
    /// The first error that the ledger had.
    pub error: String,
    /// Where the damaged ledger lies.
    pub moved_to: PathBuf,
}

/// Checks the ledger of the store `folder`, and where damaged lines can be brought back with
/// proof, does so; the damaged ledger is copied to `aside` before. Answers with the number of
/// whole lines, and with what was mended.
///
/// # Errors
///
/// As [`super::read`]: nothing was changed then.
pub fn mend(folder: &Path, _lock: &FolderLock, aside: &Path) -> Result<(u64, Option<Mended>), LedgerError> {
    let path = folder.join(FILE_NAME);
    let count = |history: &super::History| history.lines().len() as u64;
    let error = match super::read(folder) {
        Ok(history) => return Ok((count(&history), None)),
        // A version or a kind that is not known may be damage too.
        Err(error @ (LedgerError::Line { .. } | LedgerError::Newer { .. })) => error,
        Err(error) => return Err(error),
    };
    let io = |what, source| LedgerError::Io { what, path: path.clone(), source };
    let length = fs::metadata(&path).map_err(|source| io("read", source))?.len();
    if length > limits::LEDGER {
        return Err(error);
    }
    let mut bytes = fs::read(&path).map_err(|source| io("read", source))?;
    let mut lines = Vec::new();
    let history = loop {
        let broken = match scan(bytes.as_slice(), &path) {
            Ok(found) => break found.history,
            Err(LedgerError::Line { line, .. } | LedgerError::Newer { line, .. }) if lines.len() < LINES => {
                line
            }
            Err(_) => return Err(error),
        };
        let Some((line, mended)) = mend_line(&bytes, broken) else { return Err(error) };
        bytes = mended;
        lines.push(line);
    };
    let set_aside = || {
        if let Some(folder) = aside.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::copy(&path, aside)?;
        pass(Step::SyncFile, aside)?;
        fs::File::open(aside)?.sync_all()?;
        aside.parent().map_or(Ok(()), sync_folder)
    };
    set_aside().map_err(|source| LedgerError::Io { what: "copy", path: aside.to_owned(), source })?;
    write_atomic(&path, &bytes).map_err(|source| io("repair", source))?;
    Ok((count(&history), Some(Mended { lines, error: error.to_string(), moved_to: aside.to_owned() })))
}

/// Tries to mend what makes line `broken` wrong: the line itself, or the one before it. Answers with
/// the number of the line that was brought back, and the whole ledger.
fn mend_line(bytes: &[u8], broken: u64) -> Option<(u64, Vec<u8>)> {
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let at = usize::try_from(broken).ok()?.checked_sub(1)?;
    let replaced = |at: usize, count: usize, new: &[&[u8]]| {
        let mut all: Vec<&[u8]> = lines.clone();
        all.splice(at..at + count, new.iter().copied());
        all.join(&b'\n')
    };
    for place in [Some(at), at.checked_sub(1)].into_iter().flatten() {
        let line = *lines.get(place)?;
        let number = place as u64 + 1;
        // 1. A byte within the line.
        if let Some(wanted) = lines.get(place + 1).and_then(|next| previous(next))
            && let Some(mended) = try_bytes(line, wanted)
        {
            return Some((number, replaced(place, 1, &[&mended])));
        }
        // 2. A newline that became something else: two lines in one.
        for cut in line.windows(3).enumerate().filter(|(_, part)| part[0] == b'}' && part[2] == b'{') {
            let (first, second) = (&line[..=cut.0], &line[cut.0 + 2..]);
            if previous(second) == Some(Digest::of(first)) {
                return Some((number, replaced(place, 1, &[first, second])));
            }
        }
        // 3. A byte that became a newline: one line in two.
        if let (Some(second), Some(wanted)) =
            (lines.get(place + 1), lines.get(place + 2).and_then(|next| previous(next)))
            && line.len() + second.len() < LONGEST
        {
            let mut joined = [line, b"\n", second].concat();
            for byte in 0..=u8::MAX {
                joined[line.len()] = byte;
                if Digest::of(&joined) == wanted {
                    return Some((number, replaced(place, 2, &[&joined])));
                }
            }
        }
    }
    None
}

/// What a line says about the one before it.
fn previous(line: &[u8]) -> Option<Digest> {
    Line::previous(line)
}

/// The line that has the digest `wanted` and differs from `line` in one byte.
fn try_bytes(line: &[u8], wanted: Digest) -> Option<Vec<u8>> {
    if line.len() > LONGEST || Digest::of(line) == wanted {
        return None;
    }
    let bits: Vec<u8> = (0..8).map(|bit| 1_u8 << bit).collect();
    let all: Vec<u8> = (1..=u8::MAX).collect();
    let changes = if line.len() <= EVERY_BYTE { &all } else { &bits };
    let mut before = Hasher::new();
    for (at, byte) in line.iter().enumerate() {
        for change in changes {
            let mut hasher = before.clone();
            hasher.update(&[byte ^ change]);
            hasher.update(&line[at + 1..]);
            if hasher.finish() == wanted {
                let mut mended = line.to_vec();
                mended[at] ^= change;
                return Some(mended);
            }
        }
        before.update(&[*byte]);
    }
    None
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::{Action, Entry, Ledger, read};
    use super::*;

    fn story(folder: &Path) -> FolderLock {
        let lock = FolderLock::take(folder, "test").unwrap();
        let mut ledger = Ledger::open(folder, &lock).unwrap();
        let name = "shop".parse().unwrap();
        for release in 0..3_u8 {
            let time = Timestamp::from_second(1_800_000_000 + i64::from(release)).unwrap();
            let attempt = ledger.begin(time, &name, Action::Apply, Digest::of(&[release]), None).unwrap();
            ledger.append(time, Entry::Succeed { attempt }).unwrap();
        }
        lock
    }

    #[test]
    fn every_flipped_byte_is_brought_back_but_in_the_last_line() {
        let folder = tempfile::tempdir().unwrap();
        let lock = story(folder.path());
        let path = folder.path().join(FILE_NAME);
        let whole = fs::read(&path).unwrap();
        let last = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
        let aside = folder.path().join("aside");
        for at in (0..whole.len()).step_by(5) {
            let mut damaged = whole.clone();
            // A bit that changes with the place; now and then the byte becomes a newline.
            damaged[at] = if at % 17 == 0 { b'\n' } else { damaged[at] ^ (1 << (at % 8)) };
            if damaged == whole {
                continue;
            }
            fs::write(&path, &damaged).unwrap();
            let result = mend(folder.path(), &lock, &aside);
            if at < last {
                let (lines, mended) = result.unwrap_or_else(|error| panic!("byte {at}: {error}"));
                assert_eq!((lines, mended.unwrap().lines.len()), (6, 1), "byte {at}");
                assert_eq!(fs::read(&path).unwrap(), whole, "byte {at}");
                assert_eq!(fs::read(&aside).unwrap(), damaged);
            } else if result.is_err() {
                assert_eq!(fs::read(&path).unwrap(), damaged, "byte {at}: nothing was changed");
            }
        }
    }

    #[test]
    fn a_line_that_was_forged_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let lock = story(folder.path());
        let path = folder.path().join(FILE_NAME);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("\"action\":\"apply\"", "\"action\":\"rollback\"")).unwrap();
        assert!(mend(folder.path(), &lock, &folder.path().join("aside")).is_err());
        assert!(read(folder.path()).is_err());
        assert!(!folder.path().join("aside").exists());
    }
}
