//! A file whose every write and flush passes through this process: the kernel's FUSE protocol
//! (`linux/fuse.h`, 7.31), as far as a loop device on one file needs it. The mount is the file.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::io::Errno;

use super::disk::{Disk, Event};
use crate::support::command::{program, run};

/// The largest write of one request.
const MAX_WRITE: usize = 1 << 20;
const ROOT_MODE: u32 = 0o100_600;

/// The mounted file.
pub struct Recorder {
    path: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Mounts `disk` over the file at `path`.
    pub fn mount(path: &Path, disk: Arc<Disk>) -> io::Result<Self> {
        File::create(path)?;
        let device = File::options().read(true).write(true).open("/dev/fuse")?;
        // The kernel takes the device from the descriptors of whoever mounts: its standard input.
        let options = format!("fd=0,rootmode={ROOT_MODE:o},user_id=0,group_id=0,allow_other,nosuid,nodev");
        let mut mount = program("mount", Path::new("/"));
        mount.args(["-i", "-t", "fuse", "-o", &options, "power-recorder"]).arg(path);
        run(mount.stdin(device.try_clone()?)).ok();
        let thread =
            std::thread::Builder::new().name("recorder".into()).spawn(move || answer(&device, &disk))?;
        Ok(Self { path: path.to_owned(), thread: Some(thread) })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        run(program("umount", Path::new("/")).arg("-l").arg(&self.path));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Answers the kernel until the file is unmounted.
fn answer(device: &File, disk: &Disk) {
    let mut buffer = vec![0; MAX_WRITE + (64 << 10)];
    loop {
        let length = match rustix::io::read(device, &mut buffer) {
            Ok(length) => length,
            Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => continue,
            Err(_) => return,
        };
        let request = Request(&buffer[..length]);
        let (code, body) = match reply(&request, disk) {
            Ok(Some(body)) => (0, body),
            Ok(None) => continue,
            Err(errno) => (-errno.raw_os_error(), Vec::new()),
        };
        let mut bytes = Vec::with_capacity(16 + body.len());
        bytes.extend_from_slice(&u32::try_from(16 + body.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(&code.to_le_bytes());
        bytes.extend_from_slice(&request.long(8).to_le_bytes());
        bytes.extend_from_slice(&body);
        // A request that was given up in the meantime wants no answer.
        let _ = rustix::io::write(device, &bytes);
    }
}

/// A request: `fuse_in_header` (40 bytes) and what follows it.
struct Request<'a>(&'a [u8]);

impl Request<'_> {
    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap())
    }

    fn long(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().unwrap())
    }
}

/// What the kernel is told; nothing where it wants no answer.
fn reply(request: &Request<'_>, disk: &Disk) -> Result<Option<Vec<u8>>, Errno> {
    const BODY: usize = 40;
    let body = match request.word(4) {
        // LOOKUP: the mount is a file.
        1 => return Err(Errno::NOTDIR),
        // FORGET, INTERRUPT, BATCH_FORGET
        2 | 36 | 42 => return Ok(None),
        // GETATTR, SETATTR
        3 | 4 => attributes(disk),
        // OPEN
        14 => vec![0; 16],
        // READ
        15 => disk.read(request.long(BODY + 8), request.word(BODY + 16) as usize),
        // WRITE
        16 => {
            let size = request.word(BODY + 16);
            disk.write(request.long(BODY + 8), &request.0[BODY + 40..BODY + 40 + size as usize]);
            [size.to_le_bytes(), [0; 4]].concat()
        }
        // STATFS
        17 => vec![0; 80],
        // RELEASE, FLUSH (of a file that is closed), ACCESS, DESTROY
        18 | 25 | 34 | 38 => Vec::new(),
        // FSYNC
        20 => {
            disk.happened(Event::Flush);
            Vec::new()
        }
        // INIT
        26 => initial(request.word(BODY + 12)),
        _ => return Err(Errno::NOSYS),
    };
    Ok(Some(body))
}

/// `fuse_attr_out`
fn attributes(disk: &Disk) -> Vec<u8> {
    let mut body = Vec::with_capacity(104);
    let size = disk.size();
    for long in [3600, 0, 1, size, size / 512, 0, 0, 0] {
        body.extend_from_slice(&u64::to_le_bytes(long));
    }
    for word in [0, 0, 0, ROOT_MODE, 1, 0, 0, 0, 4096, 0] {
        body.extend_from_slice(&u32::to_le_bytes(word));
    }
    body
}

/// `fuse_init_out`
fn initial(offered: u32) -> Vec<u8> {
    const ASYNC_READ: u32 = 1;
    const BIG_WRITES: u32 = 1 << 5;
    const MAX_PAGES: u32 = 1 << 22;
    let mut body = Vec::with_capacity(64);
    for word in [7, 31, 128 << 10, offered & (ASYNC_READ | BIG_WRITES | MAX_PAGES)] {
        body.extend_from_slice(&u32::to_le_bytes(word));
    }
    for half in [16_u16, 12] {
        body.extend_from_slice(&half.to_le_bytes());
    }
    for word in [u32::try_from(MAX_WRITE).unwrap(), 1] {
        body.extend_from_slice(&word.to_le_bytes());
    }
    for half in [u16::try_from(MAX_WRITE / 4096).unwrap(), 0] {
        body.extend_from_slice(&half.to_le_bytes());
    }
    body.resize(64, 0);
    body
}
