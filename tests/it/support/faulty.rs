//! A medium that misbehaves on purpose: one read-only file in a FUSE file system of ours, whose
//! every read is decided by the test. It speaks the kernel's protocol (`linux/fuse.h`, version 7)
//! by itself: what a library would add is not needed for one file.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::command::run;

/// What becomes of one read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The bytes as they are.
    Bytes,
    /// So many bytes at most, as if the medium had no more ready.
    Short(usize),
    /// The bytes, with one bit of the byte at this offset of the file flipped.
    Flipped(u64),
    /// This error number.
    Fails(i32),
    /// The medium is pulled: from now on everything fails with this error number, until it is back.
    Gone(i32),
}

/// Decides about a read of `length` bytes at `offset`.
type Decide = Box<dyn FnMut(u64, u64) -> Answer + Send>;

struct Shared {
    file: File,
    name: String,
    size: u64,
    decide: Mutex<Decide>,
    reads: Mutex<Vec<(u64, u64)>>,
    gone: Mutex<Option<i32>>,
    ended: AtomicBool,
}

/// The medium, mounted as long as it lives.
pub struct Faulty {
    mount: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Faulty {
    /// Mounts a medium at `mount` (a folder that it makes) that holds `archive` under its own name.
    /// Every byte comes from there, unless `decide` says otherwise; nothing is cached in between.
    #[track_caller]
    pub fn new(mount: &Path, archive: &Path) -> Self {
        fs::create_dir_all(mount).unwrap();
        let file = File::open(archive).unwrap();
        let size = file.metadata().unwrap().len();
        let shared = Arc::new(Shared {
            file,
            name: archive.file_name().unwrap().to_str().unwrap().to_owned(),
            size,
            decide: Mutex::new(Box::new(|_, _| Answer::Bytes)),
            reads: Mutex::default(),
            gone: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let mut command = Command::new("mount");
        command.args(["-i", "-t", "fuse", "-o"]);
        command.arg("fd=0,rootmode=40000,user_id=0,group_id=0,ro,nosuid,nodev").arg("faulty").arg(mount);
        run(command.stdin(Stdio::from(device.try_clone().unwrap()))).ok();
        let served = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            serve(&device, &served);
            served.ended.store(true, SeqCst);
        });
        Self { mount: mount.to_owned(), shared, thread: Some(thread) }
    }

    /// The archive on the medium.
    pub fn path(&self) -> PathBuf {
        self.mount.join(&self.shared.name)
    }

    /// Has `decide` decide about every read from now on.
    pub fn decide(&self, decide: impl FnMut(u64, u64) -> Answer + Send + 'static) {
        *self.shared.decide.lock().unwrap() = Box::new(decide);
    }

    /// The medium is well from now on, and there.
    pub fn heal(&self) {
        self.decide(|_, _| Answer::Bytes);
        *self.shared.gone.lock().unwrap() = None;
    }

    /// Offset and length of every read that gave bytes since the last call, in their order.
    pub fn reads(&self) -> Vec<(u64, u64)> {
        std::mem::take(&mut *self.shared.reads.lock().unwrap())
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        *self.shared.gone.lock().unwrap() = None;
        let unmounted = run(Command::new("umount").arg(&self.mount)).code == 0
            || run(Command::new("umount").arg("--lazy").arg(&self.mount)).code == 0;
        // A thread whose medium is still in use ends with the last user.
        if let Some(thread) = self.thread.take().filter(|_| unmounted && self.shared.ended.load(SeqCst)) {
            let _ = thread.join();
        }
    }
}

const ROOT: u64 = 1;
const FILE: u64 = 2;
const ENOENT: i32 = 2;
const EIO: i32 = 5;
const ENODEV: i32 = 19;
const ENOSYS: i32 = 38;
/// `FOPEN_DIRECT_IO`: each read of a program is a read of ours.
const DIRECT: u32 = 1;

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn longs(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

/// `struct fuse_attr`.
fn attributes(node: u64, size: u64) -> Vec<u8> {
    let (mode, links) = if node == ROOT { (0o040_555, 2) } else { (0o100_444, 1) };
    let mut out = longs(&[node, size, size.div_ceil(512), 0, 0, 0]);
    out.extend(words(&[0, 0, 0, mode, links, 0, 0, 0, 4096, 0]));
    out
}

fn serve(mut device: &File, shared: &Shared) {
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = match device.read(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.raw_os_error() == Some(ENODEV) => return,
            // A request that was taken back, or a signal.
            Err(error) if matches!(error.raw_os_error(), Some(ENOENT | 4)) => continue,
            Err(_) => return,
        };
        if length < 40 {
            return;
        }
        let request = &buffer[..length];
        let (opcode, unique) = (word(request, 4), long(request, 8));
        // FORGET, INTERRUPT and BATCH_FORGET have no answer.
        if matches!(opcode, 2 | 36 | 42) {
            continue;
        }
        let (error, payload) = match answer(opcode, long(request, 16), &request[40..], shared) {
            Ok(payload) => (0, payload),
            Err(number) => (-number, Vec::new()),
        };
        let mut reply = words(&[u32::try_from(16 + payload.len()).unwrap(), error.cast_unsigned()]);
        reply.extend(longs(&[unique]));
        reply.extend(payload);
        // Whoever asked may be gone.
        let _ = device.write_all(&reply);
    }
}

fn answer(opcode: u32, node: u64, body: &[u8], shared: &Shared) -> Result<Vec<u8>, i32> {
    let is_setup = matches!(opcode, 26 | 38 | 18 | 29 | 25);
    if let Some(number) = shared.gone.lock().unwrap().filter(|_| !is_setup && node != ROOT || opcode == 1) {
        return Err(number);
    }
    match opcode {
        // LOOKUP
        1 => {
            let name = body.split(|byte| *byte == 0).next().unwrap_or_default();
            if node != ROOT || name != shared.name.as_bytes() {
                return Err(ENOENT);
            }
            // No entry and no attribute stays valid: the kernel asks each time.
            let mut out = longs(&[FILE, 0, 0, 0, 0]);
            out.extend(attributes(FILE, shared.size));
            Ok(out)
        }
        // GETATTR
        3 => {
            let mut out = longs(&[0, 0]);
            out.extend(attributes(node, if node == ROOT { 0 } else { shared.size }));
            Ok(out)
        }
        // OPEN, OPENDIR
        14 | 27 => Ok([longs(&[0]), words(&[DIRECT, 0])].concat()),
        // READ
        15 if node == FILE => read(long(body, 8), u64::from(word(body, 16)), shared),
        // RELEASE, FLUSH, RELEASEDIR, READDIR (empty), DESTROY
        18 | 25 | 29 | 28 | 38 => Ok(Vec::new()),
        // INIT: version 7.31, nothing optional; writes, which never come, fit into the buffer.
        26 => {
            let mut out = words(&[7, 31, word(body, 8), 0, 16, 1 << 16, 1, 0]);
            out.extend(words(&[0; 8]));
            Ok(out)
        }
        _ => Err(ENOSYS),
    }
}

fn read(offset: u64, length: u64, shared: &Shared) -> Result<Vec<u8>, i32> {
    let decided = (shared.decide.lock().unwrap())(offset, length);
    let mut length = length.min(shared.size.saturating_sub(offset));
    let mut flip = None;
    match decided {
        Answer::Bytes => {}
        Answer::Short(most) => length = length.min(most as u64),
        Answer::Flipped(at) => flip = Some(at),
        Answer::Fails(number) => return Err(number),
        Answer::Gone(number) => {
            *shared.gone.lock().unwrap() = Some(number);
            return Err(number);
        }
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap()];
    let read: io::Result<()> = shared.file.read_exact_at(&mut bytes, offset);
    read.map_err(|_| EIO)?;
    if let Some(at) = flip.filter(|at| (offset..offset + length).contains(at)) {
        bytes[usize::try_from(at - offset).unwrap()] ^= 0x10;
    }
    shared.reads.lock().unwrap().push((offset, length));
    Ok(bytes)
}
