//! The file: reading it whole, appending to it durably.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read as _, Write as _};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::{Action, Entry, FILE_NAME, History, LedgerError, Line};
use crate::fsio::{FolderLock, Reserve, Step, is_full, limits, pass, sync_folder};
use crate::model::{Digest, ReleaseName};

/// Digest that stands in `prev` of the first line.
const START: Digest = Digest::from_raw([0; 32]);

/// A ledger that can be appended to. Its [`History`] is what it says.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    file: File,
    history: History,
    /// Digest of the last line.
    last: Digest,
    /// Bytes of whole lines.
    length: u64,
    stopped: bool,
}

/// What a file was found to hold.
pub(super) struct Found {
    pub(super) history: History,
    last: Digest,
    /// Bytes of whole lines.
    length: u64,
    /// Whether a torn line follows them.
    torn: bool,
}

/// Reads the ledger of the store `folder` without the lock. A line that is just being written is
/// not seen, and nothing is changed; an absent file is an empty ledger.
///
/// # Errors
///
/// When a line does not follow from the line before it, or the file cannot be read.
pub fn read(folder: &Path) -> Result<History, LedgerError> {
    let path = folder.join(FILE_NAME);
    match File::open(&path) {
        Ok(file) => Ok(scan(file, &path)?.history),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(History::default()),
        Err(source) => Err(LedgerError::Io { what: "read", path, source }),
    }
}

pub(super) fn scan(file: impl io::Read, path: &Path) -> Result<Found, LedgerError> {
    let io = |source| LedgerError::Io { what: "read", path: path.to_owned(), source };
    let mut reader = BufReader::new(file.take(limits::LEDGER + 1));
    let mut found = Found { history: History::default(), last: START, length: 0, torn: false };
    let mut line = Vec::new();
    loop {
        let number = found.history.next_number();
        line.clear();
        let count =
            reader.by_ref().take(limits::LEDGER_LINE + 1).read_until(b'\n', &mut line).map_err(io)? as u64;
        if count == 0 {
            return Ok(found);
        }
        if found.length + count > limits::LEDGER {
            let why = format!("the ledger is longer than {} bytes", limits::LEDGER);
            return Err(LedgerError::Line { line: number, why });
        }
        let Some(content) = line.strip_suffix(b"\n") else {
            if count > limits::LEDGER_LINE {
                let why = format!("longer than {} bytes", limits::LEDGER_LINE);
                return Err(LedgerError::Line { line: number, why });
            }
            found.torn = true;
            return Ok(found);
        };
        // A cut may keep the end of a write and lose its beginning, which then reads as zeros; JSON
        // holds none. Only the last line can be torn: whatever follows was written after its sync.
        if content.contains(&0) && reader.fill_buf().map_err(io)?.is_empty() {
            found.torn = true;
            return Ok(found);
        }
        let parsed = Line::parse(content, number, found.last)?;
        found.history.check(&parsed).map_err(|why| LedgerError::Line { line: number, why })?;
        found.history.push(parsed);
        found.last = Digest::of(content);
        found.length += count;
    }
}

impl Ledger {
    /// Opens the ledger of the store `folder` for writing, and makes it if there is none. A torn
    /// last line is cut off, durably. `_lock` proves that nobody else writes.
    ///
    /// # Errors
    ///
    /// When a line does not follow from the line before it, or the file cannot be read or repaired.
    pub fn open(folder: &Path, _lock: &FolderLock) -> Result<Self, LedgerError> {
        let path = folder.join(FILE_NAME);
        let io = |what| {
            let path = path.clone();
            move |source| LedgerError::Io { what, path, source }
        };
        let file = match OpenOptions::new().read(true).append(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let create = || {
                    let file = OpenOptions::new().read(true).append(true).create_new(true).open(&path)?;
                    pass(Step::SyncFile, &path)?;
                    file.sync_all()?;
                    Ok(file)
                };
                create().map_err(io("create"))?
            }
            Err(error) => return Err(io("read")(error)),
        };
        let found = scan(file.try_clone().map_err(io("read"))?, &path)?;
        if found.length == 0 {
            // The name of a file that nothing was written to yet; a process that was killed may have
            // made it and not come to this.
            sync_folder(folder).map_err(io("create"))?;
        }
        if found.torn {
            let repair = || {
                pass(Step::LedgerRepair, &path)?;
                file.set_len(found.length)?;
                pass(Step::SyncFile, &path)?;
                file.sync_all()
            };
            repair().map_err(io("repair"))?;
        }
        let Found { history, last, length, .. } = found;
        Ok(Self { path, file, history, last, length, stopped: false })
    }

    /// Appends `entry` and makes it durable. A [`Entry::Begin`] must carry [`History::next_number`];
    /// [`Ledger::begin`] does that.
    ///
    /// # Errors
    ///
    /// When the entry makes no sense here, or cannot be written: then nothing of it is there.
    pub fn append(&mut self, time: Timestamp, entry: Entry) -> Result<u64, LedgerError> {
        if self.stopped {
            return Err(LedgerError::Stopped { path: self.path.clone() });
        }
        let line = Line { number: self.history.next_number(), time, entry };
        let number = line.number;
        let mut bytes = line.to_bytes(self.last)?;
        let size = bytes.len() as u64 + 1;
        if size > limits::LEDGER_LINE || self.length + size > limits::LEDGER {
            let why = format!("a line of {size} bytes after {}, which is more than is read", self.length);
            return Err(LedgerError::Entry { why });
        }
        self.history.check(&line).map_err(|why| LedgerError::Entry { why })?;
        let digest = Digest::of(&bytes);
        bytes.push(b'\n');
        let mut written = self.write(&bytes);
        if written.as_ref().is_err_and(|error| is_full(error)) && !self.stopped {
            // What an attempt did must be told: the store's reserve is there for that.
            let reserve = self.path.parent().map(Reserve::of);
            if reserve.is_some_and(|reserve| reserve.spend().unwrap_or(false)) {
                written = self.write(&bytes);
            }
        }
        if let Err(source) = written {
            return Err(LedgerError::Io { what: "write", path: self.path.clone(), source });
        }
        self.history.push(line);
        self.last = digest;
        self.length += size;
        Ok(number)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut file = &self.file;
        let written = pass(Step::LedgerLine, &self.path)
            .and_then(|()| file.write_all(bytes))
            .and_then(|()| pass(Step::SyncFile, &self.path))
            .and_then(|()| file.sync_data());
        if written.is_err() {
            // What was half written must not stand before a later line.
            self.stopped = self.file.set_len(self.length).and_then(|()| self.file.sync_all()).is_err();
        }
        written
    }

    /// Appends a `begin` and hands out the number of the attempt.
    ///
    /// # Errors
    ///
    /// As [`Ledger::append`].
    pub fn begin(
        &mut self,
        time: Timestamp,
        name: &ReleaseName,
        action: Action,
        release: Digest,
        reason: Option<String>,
    ) -> Result<u64, LedgerError> {
        let entry = Entry::Begin {
            name: name.clone(),
            action,
            release,
            from: self.history.active(name),
            attempt: self.history.next_number(),
            reason,
        };
        self.append(time, entry)
    }
}

impl Deref for Ledger {
    type Target = History;

    fn deref(&self) -> &History {
        &self.history
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::Outcome;
    use super::*;

    fn time(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn name(text: &str) -> ReleaseName {
        text.parse().unwrap()
    }

    fn release(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    fn open(folder: &Path) -> Result<Ledger, LedgerError> {
        let lock = FolderLock::take(folder, "test").unwrap();
        Ledger::open(folder, &lock)
    }

    /// Two names; `shop` ran `1`, then `2` failed and `1` was restored, then `3` was cut.
    fn story(folder: &Path) -> Ledger {
        let mut ledger = open(folder).unwrap();
        let shop = name("shop");
        ledger.append(time(0), Entry::Seeded { name: shop.clone(), release: release("1") }).unwrap();
        let one = ledger.begin(time(1), &shop, Action::Apply, release("1"), None).unwrap();
        ledger.append(time(2), Entry::Step { attempt: one, step: "stage:1".into() }).unwrap();
        ledger.append(time(3), Entry::Succeed { attempt: one }).unwrap();
        let other = ledger.begin(time(4), &name("bank"), Action::Apply, release("b"), None).unwrap();
        let two = ledger
            .begin(time(5), &shop, Action::Apply, release("2"), Some("older, \"asked\" for\n".into()))
            .unwrap();
        ledger.append(time(6), Entry::Fail { attempt: two, error: "not healthy".into() }).unwrap();
        let back = ledger.begin(time(7), &shop, Action::Restore, release("1"), None).unwrap();
        ledger.append(time(8), Entry::Succeed { attempt: back }).unwrap();
        ledger.append(time(9), Entry::Succeed { attempt: other }).unwrap();
        ledger.begin(time(10), &shop, Action::Apply, release("3"), None).unwrap();
        ledger
    }

    #[test]
    fn says_what_runs_what_was_wanted_and_what_was_cut() {
        let folder = tempfile::tempdir().unwrap();
        let written = story(folder.path());
        for history in [written.clone_history(), read(folder.path()).unwrap()] {
            let shop = name("shop");
            assert_eq!(history.active(&shop), Some(release("1")));
            assert_eq!(history.target(&shop), Some(release("3")));
            assert_eq!(history.unfinished(&shop).unwrap().release, release("3"));
            assert_eq!(history.unfinished(&shop).unwrap().from, Some(release("1")));
            assert_eq!(history.unfinished(&name("bank")), None);
            assert_eq!(history.active(&name("bank")), Some(release("b")));
            assert_eq!(history.active(&name("none")), None);
            assert_eq!(history.ran(&shop), [release("1")]);
            assert_eq!(history.history(&shop).count(), 4);
            let outcome = &history.history(&shop).nth(1).unwrap().outcome;
            assert!(matches!(outcome, Outcome::Failed { error, .. } if error == "not healthy"));
            assert!(history.is_seeded(release("1")) && !history.is_seeded(release("2")));
            assert_eq!(history.names().map(ReleaseName::as_str).collect::<Vec<_>>(), ["bank", "shop"]);
            assert_eq!(history.next_number(), 12);
        }
    }

    impl Ledger {
        fn clone_history(&self) -> History {
            self.history.clone()
        }
    }

    #[test]
    fn a_line_torn_at_any_byte_is_dropped_and_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        drop(story(folder.path()));
        let path = folder.path().join(FILE_NAME);
        let whole = fs::read(&path).unwrap();
        let last = whole[..whole.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
        for cut in last..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let seen = read(folder.path()).unwrap();
            assert_eq!(seen.lines().len(), 10, "cut at {cut}");
            assert_eq!(fs::read(&path).unwrap(), &whole[..cut], "a reader repairs nothing");
            let mut ledger = open(folder.path()).unwrap();
            assert_eq!(fs::read(&path).unwrap(), &whole[..last], "cut at {cut}");
            assert_eq!(ledger.unfinished(&name("shop")), None);
            ledger.begin(time(10), &name("shop"), Action::Apply, release("3"), None).unwrap();
            assert_eq!(fs::read(&path).unwrap(), whole, "the same entry gives the same line");
        }
        // The end of a write that kept its newline and lost its beginning.
        let mut zeros = whole.clone();
        zeros[last..whole.len() - 10].fill(0);
        fs::write(&path, &zeros).unwrap();
        drop(open(folder.path()).unwrap());
        assert_eq!(fs::read(&path).unwrap(), &whole[..last]);
    }

    #[test]
    fn a_changed_missing_doubled_or_moved_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        drop(story(folder.path()));
        let path = folder.path().join(FILE_NAME);
        let whole = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = whole.split_inclusive('\n').collect();
        let refused = |content: &str, wanted_line: u64| {
            fs::write(&path, content).unwrap();
            for result in [read(folder.path()).map(|_| ()), open(folder.path()).map(|_| ())] {
                let error = result.unwrap_err();
                assert!(
                    matches!(error, LedgerError::Line { line, .. } if line == wanted_line),
                    "{error}, wanted line {wanted_line}"
                );
                assert_eq!(error.class(), crate::model::ErrorClass::Refused);
            }
            assert_eq!(fs::read_to_string(&path).unwrap(), content, "nothing is changed");
        };
        // Every flipped digit of a time shows at the line after.
        refused(&whole.replacen("stage:1", "stage:2", 1), 4);
        let removed: String = lines[..3].iter().chain(&lines[4..]).copied().collect();
        refused(&removed, 4);
        let doubled: String = lines[..3].iter().chain(&lines[2..]).copied().collect();
        refused(&doubled, 4);
        let swapped: String =
            [&lines[..2], &[lines[3], lines[2]], &lines[4..]].concat().into_iter().collect();
        refused(&swapped, 3);
        refused(&lines[1..].concat(), 1);
        refused(&whole.replacen("\"kind\":\"seeded\"", "\"kind\":\"sown\"", 1), 1);
        refused(&whole.replacen('{', "\0", 1), 1);
        refused(&format!("\n{whole}"), 1);
        refused(&format!("{whole}{}\n", "x".repeat(1 << 20)), 12);
    }

    #[test]
    fn every_flipped_bit_is_seen_but_in_the_last_line() {
        let folder = tempfile::tempdir().unwrap();
        drop(story(folder.path()));
        let path = folder.path().join(FILE_NAME);
        let whole = fs::read(&path).unwrap();
        let last = whole[..whole.len() - 1].iter().rposition(|b| *b == b'\n').unwrap();
        for at in (0..last).step_by(7) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
            assert!(read(folder.path()).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_newer_version_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let line = r#"{"v":2,"n":1,"time":"2027-01-01T00:00:00Z","prev":"","entry":{"kind":"receipt"}}"#;
        fs::write(folder.path().join(FILE_NAME), format!("{line}\n")).unwrap();
        let message = read(folder.path()).unwrap_err().to_string();
        assert_eq!(message, "ledger line 1: version 2 with an entry `receipt`, wanted version 1");
    }

    #[test]
    fn entries_that_make_no_sense_are_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = story(folder.path());
        let before = fs::read(folder.path().join(FILE_NAME)).unwrap();
        for entry in [
            Entry::Succeed { attempt: 1 },
            Entry::Succeed { attempt: 2 },
            Entry::Fail { attempt: 99, error: String::new() },
            Entry::Step { attempt: 11, step: "x".repeat(2 << 20) },
            Entry::Begin {
                name: name("shop"),
                action: Action::Apply,
                release: release("1"),
                from: None,
                attempt: 3,
                reason: None,
            },
        ] {
            assert!(ledger.append(time(11), entry).is_err());
        }
        assert_eq!(fs::read(folder.path().join(FILE_NAME)).unwrap(), before);
        // A new attempt supersedes the one that was cut.
        let next = ledger.begin(time(12), &name("shop"), Action::Rollback, release("1"), None).unwrap();
        assert_eq!(ledger.attempt(11).unwrap().outcome, Outcome::Superseded);
        assert!(ledger.append(time(13), Entry::Succeed { attempt: 11 }).is_err());
        ledger.append(time(13), Entry::Succeed { attempt: next }).unwrap();
        assert_eq!(read(folder.path()).unwrap().lines(), ledger.lines());
    }
}
