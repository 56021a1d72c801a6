//! Making a large file durable while it is still being written, so that the last fsync finds
//! little left to do: the disk works while the network does.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

/// So many bytes are written between two rounds.
const ROUND: u64 = 64 << 20;

/// A thread that syncs what was written so far, round by round.
#[derive(Debug)]
pub struct EarlySync {
    written: AtomicU64,
    worker: Mutex<Option<Worker>>,
}

#[derive(Debug)]
struct Worker {
    wake: SyncSender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl EarlySync {
    /// Starts the thread for `file`, which shares its description with the writers' handle.
    ///
    /// # Errors
    ///
    /// When the handle cannot be cloned or no thread can be had.
    pub fn start(file: &File) -> io::Result<Self> {
        let file = file.try_clone()?;
        let (wake, rounds) = sync_channel::<()>(1);
        let work = move || rounds.iter().try_for_each(|()| file.sync_data());
        let thread = std::thread::Builder::new().name("early-sync".to_owned()).spawn(work)?;
        Ok(Self { written: AtomicU64::new(0), worker: Mutex::new(Some(Worker { wake, thread })) })
    }

    /// Takes note of `count` more bytes; never waits.
    pub fn wrote(&self, count: u64) {
        let before = self.written.fetch_add(count, Ordering::Relaxed);
        if before / ROUND != before.saturating_add(count) / ROUND
            && let Some(worker) = self.worker.lock().unwrap_or_else(PoisonError::into_inner).as_ref()
        {
            // A round that is under way, or a thread that has failed, takes no further word.
            let _ = worker.wake.try_send(());
        }
    }

    /// Ends the thread and tells what it met: the kernel reports a failed write-back once, and
    /// the fsync that follows would no longer hear of it.
    ///
    /// # Errors
    ///
    /// When a round failed.
    pub fn finish(&self) -> io::Result<()> {
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Worker { wake, thread }) = worker else { return Ok(()) };
        drop(wake);
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the syncing thread stopped")))
    }
}

impl Drop for EarlySync {
    fn drop(&mut self) {
        // Who drops without finishing throws the file away; the thread must not outlive it all the same.
        let _ = self.finish();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn rounds_end_with_the_file() {
        let mut file = tempfile::tempfile().unwrap();
        let early = EarlySync::start(&file).unwrap();
        for _ in 0..3 {
            file.write_all(&vec![1; 1 << 20]).unwrap();
            early.wrote(ROUND);
        }
        early.finish().unwrap();
        early.wrote(ROUND);
        early.finish().unwrap();
    }
}
