//! Media as people carry them, mounted for a test: FAT32, exFAT, ISO 9660, squashfs, what is
//! mounted read-only; and small disks for what is written. All of it wants root.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::command::run;
use super::testbed::tool;

/// Something mounted, until it is dropped.
pub struct Mount {
    at: PathBuf,
    /// A loop device that is ours to give back.
    device: Option<String>,
}

impl Mount {
    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Mounts with `mount OPTIONS SOURCE AT`, where `at` is made.
    #[track_caller]
    pub fn new(options: &[&str], source: impl AsRef<OsStr>, at: &Path) -> Self {
        fs::create_dir_all(at).unwrap();
        run(Command::new("mount").args(options).arg(source).arg(at)).ok();
        Self { at: at.to_owned(), device: None }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if run(Command::new("umount").arg(&self.at)).code != 0 {
            run(Command::new("umount").arg("--lazy").arg(&self.at));
        }
        if let Some(device) = &self.device {
            run(Command::new("losetup").args(["--detach", device]));
        }
    }
}

/// An empty image file of `size` bytes.
fn image(path: &Path, size: u64) {
    File::create(path).unwrap().set_len(size).unwrap();
}

/// Room for `files` and a file system around them.
fn size_for(files: &[&Path]) -> u64 {
    let content: u64 = files.iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    (content + content / 50 + (48 << 20)).next_multiple_of(1 << 20)
}

/// A FAT32 stick with `files`, read-only; the driver is FUSE's.
#[track_caller]
pub fn fat32(folder: &Path, files: &[&Path]) -> Mount {
    let disk = folder.join("fat32.img");
    image(&disk, size_for(files));
    run(tool("mkfs.vfat", folder).args(["-F", "32"]).arg(&disk)).ok();
    for file in files {
        run(tool("mcopy", folder).arg("-i").arg(&disk).arg(file).arg("::")).ok();
    }
    fuse_fat(folder, &disk, "ro")
}

/// An empty FAT32 stick that can be written.
#[track_caller]
pub fn fat32_to_write(folder: &Path, size: u64) -> Mount {
    let disk = folder.join("fat32.img");
    image(&disk, size);
    run(tool("mkfs.vfat", folder).args(["-F", "32"]).arg(&disk)).ok();
    fuse_fat(folder, &disk, "rw+")
}

fn fuse_fat(folder: &Path, disk: &Path, mode: &str) -> Mount {
    let at = folder.join("fat32");
    fs::create_dir(&at).unwrap();
    run(tool("fusefat", folder).arg(disk).arg(&at).args(["-o", mode])).ok();
    Mount { at, device: None }
}

/// An empty exFAT stick that can be written; the driver is FUSE's.
#[track_caller]
pub fn exfat_to_write(folder: &Path, size: u64) -> Mount {
    let disk = folder.join("exfat.img");
    image(&disk, size);
    run(tool("mkfs.exfat", folder).arg(&disk)).ok();
    fuse_exfat(folder, &disk, "rw")
}

fn fuse_exfat(folder: &Path, disk: &Path, mode: &str) -> Mount {
    let at = folder.join("exfat");
    fs::create_dir_all(&at).unwrap();
    // This driver takes block devices alone.
    let device = run(Command::new("losetup").args(["--find", "--show"]).arg(disk)).ok().stdout;
    let device = device.trim().to_owned();
    run(tool("mount.exfat-fuse", folder).args(["-o", mode, &device]).arg(&at)).ok();
    Mount { at, device: Some(device) }
}

/// An exFAT stick with `files`, read-only.
#[track_caller]
pub fn exfat(folder: &Path, files: &[&Path]) -> Mount {
    let stick = exfat_to_write(folder, size_for(files));
    for file in files {
        fs::copy(file, stick.path().join(file.file_name().unwrap())).unwrap();
    }
    drop(stick);
    fuse_exfat(folder, &folder.join("exfat.img"), "ro")
}

/// A disc with `files`; the driver is FUSE's.
#[track_caller]
pub fn iso9660(folder: &Path, files: &[&Path]) -> Mount {
    let (disc, at) = (folder.join("disc.iso"), folder.join("disc"));
    run(tool("genisoimage", folder).args(["-quiet", "-J", "-R", "-o"]).arg(&disc).args(files)).ok();
    fs::create_dir(&at).unwrap();
    run(tool("fuseiso", folder).arg(&disc).arg(&at)).ok();
    Mount { at, device: None }
}

/// A squashfs image with `files`; the driver is the kernel's.
#[track_caller]
pub fn squashfs(folder: &Path, files: &[&Path]) -> Mount {
    let disk = folder.join("squashfs.img");
    let mut command = tool("mksquashfs", folder);
    run(command.args(files).arg(&disk).args(["-quiet", "-no-progress", "-noappend"])).ok();
    Mount::new(&["-t", "squashfs", "-o", "loop,ro"], &disk, &folder.join("squashfs"))
}

/// `of` once more, read-only.
#[track_caller]
pub fn read_only(of: &Path, at: &Path) -> Mount {
    Mount::new(&["-o", "bind,ro"], of, at)
}

/// A file system in memory of `size` bytes with `files` inodes (0: any number).
#[track_caller]
pub fn memory(at: &Path, size: u64, files: u64) -> Mount {
    let options = format!("size={size},nr_inodes={files},mode=755");
    Mount::new(&["-t", "tmpfs", "-o", &options], "tmpfs", at)
}

/// An ext4 disk of `size` bytes; `more` goes to `mkfs.ext4`.
#[track_caller]
pub fn ext4(folder: &Path, size: u64, more: &[&str]) -> Mount {
    let disk = folder.join("ext4.img");
    image(&disk, size);
    let mut command = Command::new("mkfs.ext4");
    run(command.args(["-q", "-F", "-m", "0"]).args(more).arg(&disk)).ok();
    Mount::new(&["-t", "ext4", "-o", "loop"], &disk, &folder.join("ext4"))
}

/// A btrfs disk of `size` bytes that compresses all it is given: zeros take hardly any room.
#[track_caller]
pub fn compressing(folder: &Path, size: u64) -> Mount {
    let disk = folder.join("btrfs.img");
    image(&disk, size);
    run(tool("mkfs.btrfs", folder).args(["-q"]).arg(&disk)).ok();
    Mount::new(&["-t", "btrfs", "-o", "loop,compress-force=lzo"], &disk, &folder.join("btrfs"))
}

/// An xfs disk of `size` bytes.
#[track_caller]
pub fn xfs(folder: &Path, size: u64) -> Mount {
    let disk = folder.join("xfs.img");
    image(&disk, size);
    run(tool("mkfs.xfs", folder).args(["-q"]).arg(&disk)).ok();
    Mount::new(&["-t", "xfs", "-o", "loop"], &disk, &folder.join("xfs"))
}
