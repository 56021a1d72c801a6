//! Mounting: images of file systems on loop devices, and nothing left behind.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::disk::Image;
use crate::support::command::{program, run};
use crate::support::testbed::tool;

/// A file system that the store lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// With a journal, data ordered.
    Ext4,
    /// With its log.
    Xfs,
}

impl FileSystem {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// An empty one, made in `folder`.
    #[track_caller]
    pub fn make(self, folder: &Path) -> Image {
        let path = folder.join("empty.img");
        // The least that xfs takes.
        let size = match self {
            Self::Ext4 => 96_u64 << 20,
            Self::Xfs => 300 << 20,
        };
        fs::File::create(&path).unwrap().set_len(size).unwrap();
        let mut command = match self {
            Self::Ext4 => program("mkfs.ext4", folder),
            Self::Xfs => tool("mkfs.xfs", folder),
        };
        match self {
            Self::Ext4 => {
                command.args(["-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"])
            }
            Self::Xfs => command.args(["-q", "-f", "-K"]),
        };
        run(command.arg(&path)).ok();
        let image = Image::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        image
    }
}

/// A file system that is mounted from a file; unmounted when dropped.
pub struct Mounted {
    folder: PathBuf,
}

impl Mounted {
    /// Mounts `file` at `folder`. What a cut left is made good by the kernel now.
    pub fn mount(file: &Path, folder: &Path, kind: FileSystem) -> Result<Self, String> {
        let mut command = program("mount", folder);
        // The images of one file system bear one identity.
        let options = if kind == FileSystem::Xfs { "loop,nouuid" } else { "loop" };
        let ended = run(command.args(["-t", kind.name(), "-o", options]).arg(file).arg(folder));
        if ended.code == 0 { Ok(Self { folder: folder.to_owned() }) } else { Err(ended.stderr) }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let ended = run(program("umount", &self.folder).arg(&self.folder));
        if ended.code != 0 {
            // Somebody still has a file open; it goes with the last one.
            run(program("umount", &self.folder).arg("-l").arg(&self.folder));
        }
    }
}

/// Whatever becomes of this process, a helper that waits for its end unmounts `folders`: in a
/// process group of its own, so that an interrupt from the terminal does not reach it.
pub fn keep(folders: &[&Path]) {
    let mut keeper = Command::new("sh");
    keeper
        .args(["-c", "cat >/dev/null; for at; do umount -l \"$at\" 2>/dev/null; done", "sh"])
        .args(folders)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    #[expect(clippy::zombie_processes, reason = "it outlives this process, and init reaps it")]
    let mut keeper = keeper.spawn().unwrap();
    std::mem::forget(keeper.stdin.take());
}
