//! A pipe: this thread reads in order, the others hash. Several small blobs are in flight at once;
//! in a large one reading goes on while its bytes are hashed and stored.

use std::io::{ErrorKind, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use super::intake::{Intake, Pass};
use super::{BUFFERS, join, workers};
use crate::archive::error::{ArchiveError, Result};
use crate::archive::header::{Block, padding};

/// Size of one buffer.
const CHUNK: usize = 1 << 20;

/// A buffer with `length` bytes of content. Dropping it gives the buffer back to the reader.
struct Chunk {
    buffer: Vec<u8>,
    length: usize,
    home: Sender<Vec<u8>>,
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // When the reader has gone, nobody needs the buffer.
        let _ = self.home.send(std::mem::take(&mut self.buffer));
    }
}

/// A blob for a worker: its chunks come in order, and the channel closes after the last.
struct Task<'p, 'a> {
    place: usize,
    intake: Intake<'p, 'a>,
    chunks: Receiver<Chunk>,
    _pending: Pending<'p>,
}

/// Counts the tasks that are not done yet, so that the reader can wait for the manifests.
#[derive(Default)]
struct Tasks {
    count: Mutex<usize>,
    done: Condvar,
}

struct Pending<'p>(&'p Tasks);

impl Tasks {
    fn begin(&self) -> Pending<'_> {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Pending(self)
    }

    fn wait(&self) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        while *count > 0 {
            count = self.done.wait(count).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        *self.0.count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.done.notify_all();
    }
}

pub(super) fn run(pass: &Pass<'_>, source: Box<dyn Read + Send>) -> Result<()> {
    let tasks = Tasks::default();
    let (home, pool) = channel();
    for _ in 0..BUFFERS / CHUNK {
        // The receiver is right here.
        let _ = home.send(Vec::new());
    }
    let (queue, waiting) = channel::<Task>();
    let waiting = Mutex::new(waiting);
    let work = || {
        loop {
            let task = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(task) = task else { return };
            let place = task.place;
            // A sink that panics must not take the thread along: the reader waits for its buffers.
            let outcome = catch_unwind(AssertUnwindSafe(|| hash(pass, task)));
            if let Err(error) = outcome.unwrap_or(Err(ArchiveError::Worker)) {
                pass.fail(pass.layout.blobs[place].header, error);
            }
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..workers()).map(|_| scope.spawn(work)).collect();
        let mut reader = Reader { pass, source, offset: pass.layout.head_length() };
        if let Err(error) = reader.read(&tasks, &queue, &home, &pool) {
            pass.fail(reader.offset, error);
        }
        drop(queue);
        join(threads)
    })?;
    pass.outcome()
}

fn hash(pass: &Pass<'_>, task: Task<'_, '_>) -> Result<()> {
    let Task { place, mut intake, chunks, _pending } = task;
    let mut taken = 0;
    for chunk in chunks {
        if pass.is_stopped() {
            return Ok(());
        }
        intake.take(&chunk.buffer[..chunk.length])?;
        taken += chunk.length as u64;
    }
    if taken < pass.blobs[place].size {
        // The reader has stopped in the middle of the blob, and says why.
        return Ok(());
    }
    intake.finish()
}

struct Reader<'p, 'a> {
    pass: &'p Pass<'a>,
    source: Box<dyn Read + Send>,
    offset: u64,
}

impl<'p, 'a> Reader<'p, 'a> {
    fn read(
        &mut self,
        tasks: &'p Tasks,
        queue: &Sender<Task<'p, 'a>>,
        home: &Sender<Vec<u8>>,
        pool: &Receiver<Vec<u8>>,
    ) -> Result<()> {
        let pass = self.pass;
        for place in pass.small.start..pass.large.end {
            if place == pass.small.end {
                tasks.wait();
                if !pass.is_stopped() {
                    pass.check_closure()?;
                }
            }
            if pass.is_stopped() {
                return Ok(());
            }
            let mut block: Block = [0; 512];
            self.exact(&mut block, |end| pass.truncated(place, end))?;
            pass.check_header(place, &block)?;
            // The channel that ends the blob is closed at the end of each turn.
            let chunks = match pass.begin(place)? {
                None => None,
                Some(intake) => {
                    let (sender, chunks) = channel();
                    // Workers live as long as the queue.
                    let _ = queue.send(Task { place, intake, chunks, _pending: tasks.begin() });
                    Some(sender)
                }
            };
            let mut left = pass.blobs[place].size;
            while left > 0 {
                let Ok(mut buffer) = pool.recv() else { return Err(ArchiveError::Worker) };
                if pass.is_stopped() {
                    return Ok(());
                }
                if buffer.is_empty() {
                    buffer = vec![0; CHUNK];
                }
                let length = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK);
                let filled = self.exact(&mut buffer[..length], |end| pass.truncated(place, end));
                let chunk = Chunk { buffer, length, home: home.clone() };
                filled?;
                left -= length as u64;
                if let Some(chunks) = &chunks {
                    // A worker that has given up says why.
                    let _ = chunks.send(chunk);
                }
            }
            let mut zeros = [0; 512];
            // At most 511 bytes.
            let zeros = &mut zeros[..usize::try_from(padding(pass.blobs[place].size)).unwrap_or_default()];
            self.exact(zeros, |end| pass.truncated(place, end))?;
            pass.check_padding(place, zeros, self.offset)?;
        }
        self.end()
    }

    /// The trailer, and that nothing follows.
    fn end(&mut self) -> Result<()> {
        let pass = self.pass;
        let mut trailer = [0; 1024];
        self.exact(&mut trailer, |end| pass.truncated_trailer(end))?;
        pass.check_trailer(&trailer)?;
        let mut more = [0];
        match self.exact(&mut more, |_| ArchiveError::Worker) {
            Ok(()) => Err(ArchiveError::Trailing { end: pass.layout.total, size: None }),
            Err(ArchiveError::Worker) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn exact(&mut self, buffer: &mut [u8], at_end: impl Fn(u64) -> ArchiveError) -> Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.source.read(&mut buffer[filled..]) {
                Ok(0) => return Err(at_end(self.offset)),
                Ok(count) => {
                    filled += count;
                    self.offset += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => return Err(self.pass.unreadable(self.offset, source)),
            }
        }
        Ok(())
    }
}
