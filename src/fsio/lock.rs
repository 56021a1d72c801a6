//! One writer a folder.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::space::is_full;

/// The purpose of a holder that soon lets go by itself: the others wait for it.
pub const BRIEF: &str = "watch";
/// How long they wait, at most.
const BRIEFLY: Duration = Duration::from_mins(2);
/// How often they look.
const LOOK: Duration = Duration::from_millis(50);

/// An exclusive advisory lock on a folder, held as long as the value lives. The kernel drops it
/// with the process, so a cut never leaves a stale one.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

/// Why the lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("`{}` is held by another fleetpack{}", path.display(), holder.as_ref().map(|text| format!(" ({text})")).unwrap_or_default())]
    Held {
        /// The lock file.
        path: PathBuf,
        /// What the holder wrote about itself.
        holder: Option<String>,
    },
    /// The file could not be opened or locked.
    #[error("cannot lock `{}`", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl FolderLock {
    /// Takes the lock of `folder` (file `lock` in it); `purpose` tells others who holds it. Waits
    /// for nobody but a holder whose purpose is [`BRIEF`], unless this is another such.
    ///
    /// # Errors
    ///
    /// [`LockError::Held`] when another process has it.
    pub fn take(folder: &Path, purpose: &str) -> Result<Self, LockError> {
        let path = folder.join("lock");
        let io = |source| LockError::Io { path: path.clone(), source };
        let mut file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path).map_err(io)?;
        let deadline = Instant::now() + BRIEFLY;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let holder = holder(&file);
                    let is_brief = holder.as_ref().is_some_and(|holder| {
                        holder.strip_prefix(BRIEF).is_some_and(|rest| rest.starts_with(','))
                    });
                    if !is_brief || purpose == BRIEF || Instant::now() >= deadline {
                        return Err(LockError::Held { path, holder });
                    }
                    std::thread::sleep(LOOK);
                }
                Err(error) => return Err(io(error.into())),
            }
        }
        // On a full disk the lock is held all the same; others then only do not learn by whom.
        let tell = || {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{purpose}, process {}", std::process::id())
        };
        match { tell }() {
            Err(error) if !is_full(&error) => return Err(io(error)),
            _ => {}
        }
        Ok(Self { _file: file })
    }
}

/// What the holder wrote about itself.
fn holder(mut file: &File) -> Option<String> {
    let mut text = String::new();
    file.rewind().and_then(|()| file.take(200).read_to_string(&mut text)).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_taker_learns_who_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let first = FolderLock::take(folder.path(), "apply").unwrap();
        let message = FolderLock::take(folder.path(), "gc").unwrap_err().to_string();
        assert!(message.contains("held by another fleetpack (apply, process"), "{message}");
        drop(first);
        FolderLock::take(folder.path(), "gc").unwrap();
    }

    #[test]
    fn who_holds_it_briefly_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let first = FolderLock::take(folder.path(), BRIEF).unwrap();
        assert!(FolderLock::take(folder.path(), BRIEF).is_err(), "two of them do not wait for each other");
        let waiting = std::thread::spawn({
            let path = folder.path().to_owned();
            move || FolderLock::take(&path, "apply").map(|_| ())
        });
        std::thread::sleep(LOOK * 3);
        assert!(!waiting.is_finished());
        drop(first);
        waiting.join().unwrap().unwrap();
    }
}
