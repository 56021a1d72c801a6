//! A regular file: all cores hash, each another blob, while the next bytes are read.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use rustix::fs::{Advice, fadvise};

use super::intake::{Intake, Pass, parts};
use super::{BUFFERS, join, workers};
use crate::archive::error::{ArchiveError, Result};
use crate::archive::header::Block;
use crate::archive::layout::wrong_length;

/// A buffer at most. Each fill is one turn at the medium.
const TURN: usize = 2 << 20;
/// Some are filled while one is hashed.
const BUFFERS_OF_PAIR: usize = 4;
/// Blobs from this size on are begun first, the largest before all, so that no core is left alone
/// with a large one at the end. Smaller ones follow in the order in which they stand.
const LARGE: u64 = 64 << 20;

pub(super) fn run(pass: &Pass<'_>, file: &File) -> Result<()> {
    let length = file.metadata().map_err(|source| pass.unreadable(0, source))?.len();
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
        Short::Failed(offset, source) => pass.unreadable(offset, source),
    })?;
    pass.check_trailer(&trailer)
}

/// A part of one member, header and padding included, on its way from a reader to its hasher.
struct Piece<'p, 'a> {
    place: usize,
    /// Where it begins in the archive.
    offset: u64,
    buffer: Vec<u8>,
    length: usize,
    /// With the first piece of a member: where its content goes.
    intake: Option<Intake<'p, 'a>>,
}

/// Reads the blobs with these numbers on all cores: for each core a pair of threads, one that reads
/// ahead and one that hashes.
fn read_all(pass: &Pass<'_>, file: &File, order: &[usize]) -> Result<()> {
    let next = AtomicUsize::new(0);
    let turn = Mutex::new(());
    let pairs = workers().min(order.len());
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for _ in 0..pairs {
            let (empty, buffers) = channel();
            for _ in 0..BUFFERS_OF_PAIR {
                // The receiver is right here.
                let _ = empty.send(vec![0; (BUFFERS / pairs / BUFFERS_OF_PAIR).min(TURN)]);
            }
            let (full, pieces) = channel();
            threads.push(scope.spawn(move || hash_pieces(pass, pieces, &empty)));
            threads.push(scope.spawn(|| {
                let mut reader = Reader { pass, file, turn: &turn, buffers, full };
                while let Some(place) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if pass.is_stopped() {
                        return;
                    }
                    if let Err(error) = reader.read(*place) {
                        pass.fail(pass.layout.blobs[*place].header, error);
                    }
                }
            }));
        }
        join(threads)
    })?;
    pass.outcome()
}

struct Reader<'p, 'a> {
    pass: &'p Pass<'a>,
    file: &'p File,
    turn: &'p Mutex<()>,
    buffers: Receiver<Vec<u8>>,
    full: Sender<Piece<'p, 'a>>,
}

impl Reader<'_, '_> {
    /// Reads blob number `place`, unless it is skipped. When the hasher has gone, it has said why.
    fn read(&mut self, place: usize) -> Result<()> {
        let pass = self.pass;
        let mut intake = pass.begin(place)?;
        if intake.is_none() {
            return Ok(());
        }
        let at = pass.layout.blobs[place];
        let mut offset = at.header;
        while offset < at.end() {
            let Ok(mut buffer) = self.buffers.recv() else { return Ok(()) };
            if pass.is_stopped() {
                return Ok(());
            }
            let length = usize::try_from(at.end() - offset).unwrap_or(usize::MAX).min(buffer.len());
            let filled = {
                // One thread at a time: a disc or stick reads one place after the other, and from
                // memory the wait is short beside the hashing.
                let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
                read_exact(self.file, &mut buffer[..length], offset)
            };
            filled.map_err(|error| match error {
                Short::End(end) => pass.truncated(place, end),
                Short::Failed(offset, source) => pass.unreadable(offset, source),
            })?;
            let piece = Piece { place, offset, buffer, length, intake: intake.take() };
            offset += length as u64;
            if self.full.send(piece).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Takes pieces as they come, and gives the buffers back.
fn hash_pieces(pass: &Pass<'_>, pieces: Receiver<Piece<'_, '_>>, empty: &Sender<Vec<u8>>) {
    let mut current = None;
    for mut piece in pieces {
        if pass.is_stopped() {
            return;
        }
        if let Some(first) = piece.intake.take() {
            current = Some(first);
        }
        if let Err(error) = hash_piece(pass, &piece, &mut current) {
            return pass.fail(pass.layout.blobs[piece.place].header, error);
        }
        // When the reader has gone, nobody needs the buffer.
        let _ = empty.send(piece.buffer);
    }
}

fn hash_piece(pass: &Pass<'_>, piece: &Piece<'_, '_>, current: &mut Option<Intake<'_, '_>>) -> Result<()> {
    let at = pass.layout.blobs[piece.place];
    let chunk = &piece.buffer[..piece.length];
    let [header, content, padding] = parts(at.header, at.size, piece.offset, chunk);
    if piece.offset == at.header {
        // A buffer is larger than a block, so the first piece holds the whole header.
        let mut block: Block = [0; 512];
        block.copy_from_slice(header);
        pass.check_header(piece.place, &block)?;
    }
    if let Some(intake) = current {
        intake.take(content)?;
    }
    let end = piece.offset + piece.length as u64;
    pass.check_padding(piece.place, padding, end)?;
    if end < at.end() {
        return Ok(());
    }
    current.take().map_or(Ok(()), Intake::finish)
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
            Err(Short::Failed(offset, source)) => return pass.unreadable(offset, source),
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
        Err(Short::Failed(offset, source)) => pass.unreadable(offset, source),
    }
}
