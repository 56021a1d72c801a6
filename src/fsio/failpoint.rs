//! Failpoints: every step that makes something durable, or changes the cluster, passes through
//! here first, so that a test can stop the process at it, cut the power there, or make it fail.
//!
//! Only a build with debug assertions, as `cargo test` makes it, can be told to stop anywhere; in
//! a release build [`pass`] is nothing. What each step is for, and their order in every command
//! that writes, stands in `ARCHITECTURE.md`, "Durable steps".

use std::io;
use std::path::Path;

/// What is about to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A folder is made.
    MakeFolder,
    /// The bytes of a file are made durable.
    SyncFile,
    /// A file or folder gets its final name, or loses it for a temporary one before it is removed.
    Rename,
    /// The names in a folder are made durable.
    SyncFolder,
    /// A file gets a second name.
    Link,
    /// The link to the Git generation in use is replaced.
    Switch,
    /// A line is appended to the ledger.
    LedgerLine,
    /// A torn line is cut off the ledger.
    LedgerRepair,
    /// A file or folder is removed.
    Remove,
    /// A request that changes the cluster is sent.
    ClusterCall,
    /// The cluster has answered it.
    ClusterAnswer,
}

impl Step {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::MakeFolder,
        Self::SyncFile,
        Self::Rename,
        Self::SyncFolder,
        Self::Link,
        Self::Switch,
        Self::LedgerLine,
        Self::LedgerRepair,
        Self::Remove,
        Self::ClusterCall,
        Self::ClusterAnswer,
    ];

    /// Its name, as `ARCHITECTURE.md` has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MakeFolder => "make-folder",
            Self::SyncFile => "sync-file",
            Self::Rename => "rename",
            Self::SyncFolder => "sync-folder",
            Self::Link => "link",
            Self::Switch => "switch",
            Self::LedgerLine => "ledger-line",
            Self::LedgerRepair => "ledger-repair",
            Self::Remove => "remove",
            Self::ClusterCall => "cluster-call",
            Self::ClusterAnswer => "cluster-answer",
        }
    }
}

/// Says that `step` is about to be taken on `what` (a path, or what a request is about), and waits
/// until whoever listens lets it go on. Without a listener it is nothing.
///
/// # Errors
///
/// The error that the listener asks for in the place of the step.
#[cfg(not(debug_assertions))]
#[inline]
pub const fn pass(_step: Step, _what: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(debug_assertions)]
pub use listened::{listen, pass};

#[cfg(debug_assertions)]
mod listened {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixStream;
    use std::sync::{Mutex, OnceLock, PoisonError};

    use super::{Path, Step, io};

    static LISTENER: OnceLock<Mutex<BufReader<UnixStream>>> = OnceLock::new();

    /// Tells every step from now on to the socket at `path`: a line `STEP WHAT` each, answered by
    /// a line `go`, or by the number of the system's error that the step is to fail with.
    ///
    /// # Errors
    ///
    /// When nobody listens there.
    pub fn listen(path: &Path) -> io::Result<()> {
        let stream = BufReader::new(UnixStream::connect(path)?);
        LISTENER.set(Mutex::new(stream)).map_err(|_| io::Error::other("somebody listens already"))
    }

    /// See the module.
    #[expect(clippy::missing_errors_doc, reason = "documented where a release build has it")]
    pub fn pass(step: Step, what: &Path) -> io::Result<()> {
        LISTENER.get().map_or(Ok(()), |listener| ask(listener, step, what))
    }

    fn ask(listener: &Mutex<BufReader<UnixStream>>, step: Step, what: &Path) -> io::Result<()> {
        let mut stream = listener.lock().unwrap_or_else(PoisonError::into_inner);
        let line = format!("{} {}\n", step.name(), what.display());
        stream.get_mut().write_all(line.as_bytes())?;
        let mut answer = String::new();
        stream.read_line(&mut answer)?;
        match answer.trim_end() {
            "go" => Ok(()),
            number => Err(number.parse().map_or_else(
                |_| io::Error::other(format!("the listener at the failpoints says `{number}`")),
                io::Error::from_raw_os_error,
            )),
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_step_goes_on_or_fails_as_the_listener_says() {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let listener = std::thread::spawn(move || {
                let mut theirs = BufReader::new(theirs);
                let mut heard = Vec::new();
                for answer in ["go", "28", "?"] {
                    let mut line = String::new();
                    theirs.read_line(&mut line).unwrap();
                    heard.push(line);
                    writeln!(theirs.get_mut(), "{answer}").unwrap();
                }
                heard
            });
            let stream = Mutex::new(BufReader::new(ours));
            ask(&stream, Step::Rename, Path::new("/a b")).unwrap();
            let full = ask(&stream, Step::SyncFile, Path::new("x")).unwrap_err();
            assert_eq!(full.kind(), io::ErrorKind::StorageFull);
            assert!(ask(&stream, Step::Switch, Path::new("y")).unwrap_err().to_string().contains("`?`"));
            assert_eq!(listener.join().unwrap(), ["rename /a b\n", "sync-file x\n", "switch y\n"]);
            assert!(ask(&stream, Step::Switch, Path::new("z")).is_err(), "a listener that went away");
        }
    }
}
