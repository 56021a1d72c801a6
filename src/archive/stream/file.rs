//! A regular file: all cores read and hash, each another blob.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use rustix::fs::{Advice, fadvise};

use super::intake::{Pass, parts};
use super::{BUFFERS, join, workers};
use crate::archive::error::{ArchiveError, Result};
use crate::archive::header::Block;
use crate::archive::layout::wrong_length;

/// A worker's buffer at most. Each fill is one turn at the medium.
const TURN: usize = 4 << 20;
/// Blobs from this size on are begun first, the largest before all, so that no core is left alone
/// with a large one at the end. Smaller ones follow in the order in which they stand.
const LARGE: u64 = 64 << 20;

pub(super) fn run(pass: &Pass<'_>, file: &File) -> Result<()> {
    let length = file.metadata().map_err(|source| ArchiveError::Read { offset: 0, source })?.len();
    if length != pass.layout.total {
        return Err(explain_length(pass, file, length));
    }
    // Advice only: what it would do to the speed is all that is lost.
    let _ = fadvise(file, 0, None, Advice::Sequential);
    read_all(pass, file, &pass.small.clone().collect::<Vec<_>>())?;
    pass.check_closure()?;
    let mut order: Vec<usize> = pass.large.clone().collect();
    order.sort_by_key(|place| match pass.blobs[*place].size {
        size if size >= LARGE => (u64::MAX - size, *place),
        _ => (u64::MAX, *place),
    });
    read_all(pass, file, &order)?;
    let mut trailer = [0; 1024];
    let at = pass.layout.trailer();
    read_exact(file, &mut trailer, at).map_err(|error| match error {
        Short::End(end) => pass.truncated_trailer(end),
        Short::Failed(offset, source) => ArchiveError::Read { offset, source },
    })?;
    pass.check_trailer(&trailer)
}

/// Reads the blobs with these numbers on all cores.
fn read_all(pass: &Pass<'_>, file: &File, order: &[usize]) -> Result<()> {
    let next = AtomicUsize::new(0);
    let turn = Mutex::new(());
    let workers = workers().min(order.len());
    let work = || {
        let mut buffer = vec![0; (BUFFERS / workers).min(TURN)];
        while let Some(place) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            if pass.is_stopped() {
                return;
            }
            read_one(pass, file, *place, &mut buffer, &turn);
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        join(threads)
    })?;
    pass.outcome()
}

fn read_one(pass: &Pass<'_>, file: &File, place: usize, buffer: &mut [u8], turn: &Mutex<()>) {
    let at = pass.layout.blobs[place];
    let mut offset = at.header;
    let mut read = || {
        let Some(mut intake) = pass.begin(place)? else { return Ok(()) };
        let end = at.end();
        while offset < end {
            if pass.is_stopped() {
                return Ok(());
            }
            let count = usize::try_from(end - offset).unwrap_or(usize::MAX).min(buffer.len());
            let chunk = &mut buffer[..count];
            let filled = {
                // One thread at a time: a disc or stick reads one place after the other, and from
                // memory the wait is short beside the hashing.
                let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
                read_exact(file, chunk, offset)
            };
            filled.map_err(|error| match error {
                Short::End(end) => pass.truncated(place, end),
                Short::Failed(offset, source) => ArchiveError::Read { offset, source },
            })?;
            let [header, content, padding] = parts(at.header, at.size, offset, chunk);
            if offset == at.header {
                // A buffer is larger than a block, so the first chunk holds the whole header.
                let mut block: Block = [0; 512];
                block.copy_from_slice(header);
                pass.check_header(place, &block)?;
            }
            intake.take(content)?;
            offset += count as u64;
            pass.check_padding(place, padding, offset)?;
        }
        intake.finish()
    };
    let outcome: Result<()> = read();
    if let Err(error) = outcome {
        pass.fail(at.header, error);
    }
}

/// Why a buffer could not be filled.
enum Short {
    /// The file ends there.
    End(u64),
    Failed(u64, io::Error),
}

fn read_exact(file: &File, buffer: &mut [u8], offset: u64) -> std::result::Result<(), Short> {
    let mut filled = 0;
    while filled < buffer.len() {
        let at = offset + filled as u64;
        match file.read_at(&mut buffer[filled..], at) {
            Ok(0) => return Err(Short::End(at)),
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Short::Failed(at, error)),
        }
    }
    Ok(())
}

/// Finds out what makes the file longer or shorter than it must be: a member too many or too few
/// says more than the size does.
fn explain_length(pass: &Pass<'_>, file: &File, length: u64) -> ArchiveError {
    let mut block: Block = [0; 512];
    for (place, at) in pass.layout.blobs.iter().enumerate() {
        match read_exact(file, &mut block, at.header) {
            Ok(()) => {}
            Err(Short::End(end)) => return pass.truncated(place, end),
            Err(Short::Failed(offset, source)) => return ArchiveError::Read { offset, source },
        }
        if let Err(error) = pass.check_header(place, &block) {
            return error;
        }
        if length < at.end() {
            return pass.truncated(place, length);
        }
    }
    let mut trailer = [0; 1024];
    match read_exact(file, &mut trailer, pass.layout.trailer()) {
        Ok(()) => {
            pass.check_trailer(&trailer).err().unwrap_or_else(|| wrong_length(length, pass.layout.total))
        }
        Err(Short::End(end)) => pass.truncated_trailer(end),
        Err(Short::Failed(offset, source)) => ArchiveError::Read { offset, source },
    }
}
