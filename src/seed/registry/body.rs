//! The body of a blob: large reads in blocking threads, one chunk ahead of the network.
//!
//! At most three chunks of a connection are in memory: one that the socket takes, one that waits
//! for it, one that is being read.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use tokio::task::JoinHandle;

use crate::fsio::Hasher;
use crate::model::{Digest, Progress};
use crate::seed::content::{Opened, chunk};

/// Where reading is, between two chunks.
struct Reading {
    opened: Opened,
    at: u64,
    end: u64,
    /// Runs along when the blob has still to be proved. Then `at..end` is the whole blob.
    hasher: Hasher,
}

impl Reading {
    /// Reads the next chunk. The last one of an unproved blob leaves only once all of them
    /// together are what the digest says: until then no client has a whole blob, and when they
    /// are not, the connection ends short of its length, which no client takes for success.
    fn next(mut self) -> io::Result<(Bytes, Self)> {
        let bytes = self.opened.read_at(self.at, chunk(self.end - self.at))?;
        self.at += bytes.len() as u64;
        if self.opened.unproved.is_some() {
            self.hasher.update(&bytes);
            if self.at == self.end
                && let Some(unproved) = self.opened.unproved.take()
            {
                unproved.settle(std::mem::take(&mut self.hasher))?;
            }
        }
        Ok((bytes.into(), self))
    }

    /// Starts reading the next chunk, if there is one.
    fn ahead(self) -> Option<JoinHandle<io::Result<(Bytes, Self)>>> {
        (self.at < self.end).then(|| tokio::task::spawn_blocking(move || self.next()))
    }
}

/// Streams `length` bytes from `start`. A blob that is still to be proved is streamed whole.
pub(super) fn stream(
    opened: Opened,
    start: u64,
    length: u64,
    progress: Arc<dyn Progress>,
    digest: Digest,
) -> Body {
    let reading = Reading { opened, at: start, end: start.saturating_add(length), hasher: Hasher::new() };
    let chunks = stream::try_unfold(reading.ahead(), move |ahead| {
        let progress = Arc::clone(&progress);
        async move {
            let Some(ahead) = ahead else { return Ok(None) };
            match ahead.await.map_err(io::Error::other).flatten() {
                Ok((bytes, reading)) => Ok(Some((bytes, reading.ahead()))),
                Err(error) => {
                    progress.warn(format!("cut blob `{digest}` short: {error}"));
                    Err(error)
                }
            }
        }
    });
    Body::from_stream(chunks)
}
