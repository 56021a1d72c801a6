//! The body of a blob: sent by the kernel where it can, read piece by piece otherwise.
//!
//! What lies in the page cache is sent or read at once; what does not is brought there by a
//! blocking thread first, so that a slow disk delays nobody but who asks for what is on it. At most
//! two pieces of a connection are in memory.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use tokio::task::JoinHandle;

use crate::fsio::Hasher;
use crate::model::Digest;
use crate::seed::content::{Opened, chunk};
use crate::seed::server::Shared;
use crate::seed::wire::{Direct, WINDOW};

/// How much is read at once where the bytes go through this process: TLS.
const PIECE: usize = 64 << 10;
/// How much is brought into the page cache at once where the bytes go through this process.
const AHEAD: usize = 512 << 10;

/// Where reading is, between two chunks.
struct Reading {
    opened: Opened,
    at: u64,
    end: u64,
    /// Runs along when the blob has still to be proved. Then `at..end` is the whole blob.
    hasher: Hasher,
}

impl Reading {
    /// Reads the next chunk of a blob that is to be proved. The last one leaves only once all of
    /// them together are what the digest says: until then no client has a whole blob, and when they
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

    /// Steps over the next stretch of at most `most` bytes: where it begins, how long it is.
    fn step(&mut self, most: usize) -> (u64, usize) {
        let at = self.at;
        let length = usize::try_from(self.end - at).map_or(most, |left| left.min(most));
        self.at += length as u64;
        (at, length)
    }
}

/// Streams `length` bytes from `start`. A blob that is still to be proved is streamed whole.
pub(super) fn stream(opened: Opened, start: u64, length: u64, shared: &Shared, digest: Digest) -> Body {
    let proved = opened.unproved.is_none();
    let reading = Reading { opened, at: start, end: start.saturating_add(length), hasher: Hasher::new() };
    let told = shared.clone();
    let tell = move |error: io::Error| {
        told.content_failed(format!("cut blob `{digest}` short: {error}"));
        error
    };
    match (&shared.peer.direct, proved) {
        (_, false) => Body::from_stream(stream::try_unfold(reading.ahead(), move |ahead| {
            let tell = tell.clone();
            async move {
                let Some(ahead) = ahead else { return Ok(None) };
                let (bytes, reading) = ahead.await.map_err(io::Error::other).flatten().map_err(tell)?;
                Ok::<_, io::Error>(Some((bytes, reading.ahead())))
            }
        })),
        (Some(direct), true) => {
            let direct = direct.clone();
            Body::from_stream(stream::try_unfold(reading, move |reading| {
                let (direct, tell) = (direct.clone(), tell.clone());
                async move { sent(reading, &direct).await.map_err(tell) }
            }))
        }
        (None, true) => Body::from_stream(stream::try_unfold(reading, move |reading| {
            let tell = tell.clone();
            async move { read(reading).await.map_err(tell) }
        })),
    }
}

/// The next window, which the kernel sends.
async fn sent(mut reading: Reading, direct: &Direct) -> io::Result<Option<(Bytes, Reading)>> {
    if reading.at == reading.end {
        return Ok(None);
    }
    let (at, length) = reading.step(WINDOW);
    let opened = &reading.opened;
    if !opened.is_cached(at, length) {
        let opened = opened.clone();
        tokio::task::spawn_blocking(move || opened.cache(at, length)).await.map_err(io::Error::other)??;
    }
    let offset = reading.opened.offset.checked_add(at).ok_or(io::ErrorKind::InvalidInput)?;
    let stand_in = direct.stand_in(Arc::clone(&reading.opened.file), offset, length);
    Ok(Some((stand_in, reading)))
}

/// The next piece, read into memory.
async fn read(mut reading: Reading) -> io::Result<Option<(Bytes, Reading)>> {
    if reading.at == reading.end {
        return Ok(None);
    }
    let (at, length) = reading.step(PIECE);
    if let Some(bytes) = reading.opened.read_cached(at, length) {
        return Ok(Some((bytes.into(), reading)));
    }
    let opened = reading.opened.clone();
    let ahead = usize::try_from(reading.end - at).map_or(AHEAD, |left| left.min(AHEAD));
    let read = tokio::task::spawn_blocking(move || {
        opened.cache(at, ahead)?;
        opened.read_at(at, length)
    });
    Ok(Some((read.await.map_err(io::Error::other)??.into(), reading)))
}
