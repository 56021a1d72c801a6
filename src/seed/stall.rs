//! A connection that gives up on a peer that takes nothing.
//!
//! Hyper bounds the time a request's head may take, and the handlers bound the time of its body.
//! What is left is a client that stops reading in the middle of an answer: without a bound it
//! would hold its connection, and with it a file or a pack generator, for ever. So would one that
//! takes a byte now and then, which is why a little has to be taken in each stretch of time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// The least that a client has to take, in bytes a second: the slowest links that sites have carry
/// ten times as much.
const LEAST: u64 = 100;

/// Wraps a stream; a write fails once its peer took nothing, or next to nothing, for `limit`.
pub(super) struct StallGuard<S> {
    inner: S,
    limit: Duration,
    timer: Pin<Box<Sleep>>,
    /// Whether a write waits, and so the timer runs.
    waiting: bool,
    /// When the stretch of time began that is looked at, and what was taken in it.
    begin: Instant,
    taken: u64,
}

impl<S> StallGuard<S> {
    pub(super) fn new(inner: S, limit: Duration) -> Self {
        let timer = Box::pin(tokio::time::sleep(limit));
        Self { inner, limit, timer, waiting: false, begin: Instant::now(), taken: 0 }
    }

    fn watch<T>(&mut self, context: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.waiting = false;
            return result;
        }
        if !self.waiting {
            self.waiting = true;
            let now = Instant::now();
            self.timer.as_mut().reset(now + self.limit);
            // Whoever waits again and again, each time for less than the limit, is looked at over
            // all of that time; a peer that was served in between starts afresh.
            let stretch = now - self.begin;
            if stretch > self.limit {
                let least = u128::from(LEAST) * stretch.as_millis() / 1000;
                if u128::from(self.taken) < least {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                self.begin = now;
                self.taken = 0;
            }
        }
        match self.timer.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }

    fn watch_write(
        &mut self,
        context: &mut Context<'_>,
        result: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(taken)) = result {
            self.taken = self.taken.saturating_add(taken as u64);
        }
        self.watch(context, result)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StallGuard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(context, buffer);
        if result.is_ready() && buffer.filled().len() > before {
            // A new request: what came before it is no part of what its answer is measured by.
            self.begin = Instant::now();
            self.taken = 0;
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StallGuard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.watch_write(context, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.watch_write(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_flush(context);
        self.watch(context, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_shutdown(context);
        self.watch(context, result)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn a_reader_that_stops_is_left() {
        let (near, far) = tokio::io::duplex(16);
        let mut guard = StallGuard::new(near, Duration::from_millis(20));
        guard.write_all(b"fits").await.unwrap();
        let error = guard.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(far);
    }

    #[tokio::test]
    async fn a_reader_that_takes_next_to_nothing_is_left_and_a_slow_one_is_not() {
        for (each, ends) in [(1, true), (4096, false)] {
            let (near, mut far) = tokio::io::duplex(each);
            let mut guard = StallGuard::new(near, Duration::from_millis(200));
            let reader = tokio::spawn(async move {
                let mut buffer = vec![0; each];
                for _ in 0..40 {
                    tokio::time::sleep(Duration::from_millis(40)).await;
                    if tokio::io::AsyncReadExt::read(&mut far, &mut buffer).await.unwrap_or(0) == 0 {
                        break;
                    }
                }
            });
            let sent = guard.write_all(&vec![0; each * 30]).await;
            assert_eq!(sent.is_err(), ends, "{each}: {sent:?}");
            drop(guard);
            reader.await.unwrap();
        }
    }
}
