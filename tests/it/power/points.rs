//! The listener at the failpoints of the programs under test.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::disk::{Dice, Disk, Event};

/// A socket that notes each step in the log of the disk and lets it go on.
pub struct Points {
    path: PathBuf,
    state: Arc<Mutex<State>>,
}

struct State {
    disk: Option<Arc<Disk>>,
    mounted: PathBuf,
    /// Decides at which steps the file system writes back by itself; none: at none.
    noise: Option<Dice>,
    steps: Vec<String>,
}

impl Points {
    /// Listens at `path`; the store is mounted at `mounted`.
    pub fn listen(path: &Path, mounted: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let state = State { disk: None, mounted: mounted.to_owned(), noise: None, steps: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || answer(stream, &state));
            }
        });
        Self { path: path.to_owned(), state }
    }

    /// Where.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Steps are noted at `disk` from now on. With `noise` the file system writes back all it has at
    /// some of them, as it may at any moment by itself.
    pub fn note(&self, disk: Option<Arc<Disk>>, noise: Option<Dice>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.disk = disk;
        state.noise = noise;
        state.steps.clear();
    }

    /// The steps since [`Points::note`].
    pub fn steps(&self) -> Vec<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).steps.clone()
    }
}

/// One of these programs; ends with it.
fn answer(stream: UnixStream, state: &Mutex<State>) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).is_ok_and(|length| length > 0) {
        let step = line.trim_end().to_owned();
        let write_back = {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(disk) = &state.disk {
                disk.happened(Event::Step(step.clone()));
            }
            state.steps.push(step);
            let due = state.noise.as_mut().is_some_and(|noise| noise.below(4) == 0);
            due.then(|| state.mounted.clone())
        };
        if let Some(mounted) = write_back
            && let Ok(folder) = File::open(mounted)
        {
            let _ = rustix::fs::syncfs(folder);
        }
        if stream.get_mut().write_all(b"go\n").is_err() {
            return;
        }
        line.clear();
    }
}
