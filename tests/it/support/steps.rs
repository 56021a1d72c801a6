//! Commands whose every durable step a test hears of before it is taken (`fsio::failpoint`), and
//! disks that are full from a step on.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::command::{Ended, run};

/// Runs `command`; `at` hears of every step (its number, from 0, and `STEP PATH`) and says whether
/// it goes on (`None`) or with which error number it fails.
#[track_caller]
pub fn run_by_steps(
    command: &mut Command,
    mut at: impl FnMut(usize, &str) -> Option<i32> + Send,
) -> (Ended, usize) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("steps");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::scope(|scope| {
        let steps = scope.spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut answers = stream.try_clone().unwrap();
            let mut count = 0;
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let answer = at(count, &line).map_or_else(|| "go".to_owned(), |number| number.to_string());
                count += 1;
                // Whoever asked may have been stopped.
                let _ = writeln!(answers, "{answer}");
            }
            count
        });
        let ended = run(command.env("FLEETPACK_FAILPOINTS", &path));
        (ended, steps.join().unwrap())
    })
}

/// What takes all the room of a disk, in a folder of its own at its root; it goes when dropped.
pub struct Filler {
    folder: PathBuf,
}

impl Filler {
    /// Takes every byte of the disk at `root`.
    #[track_caller]
    pub fn bytes(root: &Path) -> Self {
        let filler = Self::empty(root);
        let file = File::create(filler.folder.join("bytes")).unwrap();
        let left = fleetpack::fsio::available_space(root).unwrap();
        // Most of it at once; then what is left, in ever smaller parts.
        let _ = fleetpack::fsio::allocate(&file, left);
        let mut rest = File::create(filler.folder.join("rest")).unwrap();
        for size in [1 << 20, 1 << 16, 4096, 512] {
            while rest.write_all(&vec![1; size]).and_then(|()| rest.sync_data()).is_ok() {}
        }
        filler
    }

    /// Takes every inode of the disk at `root`.
    #[track_caller]
    pub fn files(root: &Path) -> Self {
        let filler = Self::empty(root);
        for number in 0.. {
            if File::create(filler.folder.join(number.to_string())).is_err() {
                break;
            }
        }
        filler
    }

    fn empty(root: &Path) -> Self {
        let folder = root.join("filler");
        fs::create_dir(&folder).unwrap();
        Self { folder }
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.folder).unwrap();
    }
}

/// Which of `count` steps a sweep stops at: all with `FLEETPACK_DISK_STEPS=all`, else about `few`
/// of them, evenly, the first and the last among them.
pub fn chosen(count: usize, few: usize) -> Vec<usize> {
    if std::env::var("FLEETPACK_DISK_STEPS").is_ok_and(|value| value == "all") || count <= few {
        return (0..count).collect();
    }
    (0..few).map(|part| part * (count - 1) / (few - 1)).collect()
}
