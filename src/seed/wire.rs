//! The bytes of a connection: plain TCP, on which the kernel itself sends stretches of files, or TLS.
//!
//! Hyper knows bodies made of bytes alone. So the body of a blob on plain TCP is made of stand-ins:
//! slices of one region of memory that nobody ever writes or reads. Hyper hands them on without a
//! copy, behind the head that they belong to; here they are known by their address, and in their
//! place as many bytes of the file go out by `sendfile`. What goes on around that (ranges, `HEAD`,
//! pipelining, keep-alive) stays Hyper's.
//!
//! Stand-ins and the files behind them keep one order, since a connection answers one request
//! after another. Where they ever disagreed, the connection would be cut: no stand-in is sent.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// The longest stand-in.
pub(super) const WINDOW: usize = 1 << 20;

/// The region of the stand-ins: address space, not memory, since its pages are never touched.
static REGION: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(vec![0; WINDOW]));

fn stands_in(slice: &[u8]) -> bool {
    REGION.as_ptr_range().contains(&slice.as_ptr())
}

/// A stretch of a file that is still to be sent.
struct Part {
    file: Arc<File>,
    offset: u64,
    left: usize,
}

/// How much a connection sends before it lets others have their turn: a client that reads as fast as
/// the kernel sends would keep a thread to itself otherwise.
const BURST: usize = 1 << 20;

/// What is to be sent, in order.
#[derive(Default)]
struct Queue {
    parts: VecDeque<Part>,
    /// What was sent since others had their turn.
    burst: usize,
}

/// The files behind the stand-ins of one connection, in the order in which they go out.
#[derive(Clone, Default)]
pub(super) struct Direct(Arc<Mutex<Queue>>);

impl Direct {
    /// What to put into a body instead of `length` bytes (at most [`WINDOW`]) of `file` at `offset`.
    pub(super) fn stand_in(&self, file: Arc<File>, offset: u64, length: usize) -> Bytes {
        let length = length.min(WINDOW);
        let part = Part { file, offset, left: length };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).parts.push_back(part);
        REGION.slice(..length)
    }

    /// Sends what stands behind the next `wanted` bytes of stand-ins, or a part of it.
    fn poll_send(
        &self,
        stream: &TcpStream,
        context: &mut Context<'_>,
        wanted: usize,
    ) -> Poll<io::Result<usize>> {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = &mut *queue;
        if queue.burst >= BURST {
            queue.burst = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            if stream.poll_write_ready(context)?.is_pending() {
                queue.burst = 0;
                return Poll::Pending;
            }
            let Some(part) = queue.parts.front_mut() else {
                return Poll::Ready(Err(io::Error::other("no file stands behind an answer")));
            };
            let length = wanted.min(part.left).min(BURST);
            match stream.try_io(Interest::WRITABLE, || send(stream, part, length)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(sent) => {
                    part.offset += sent as u64;
                    part.left = part.left.saturating_sub(sent);
                    if part.left == 0 {
                        queue.parts.pop_front();
                    }
                    queue.burst += sent;
                    return Poll::Ready(Ok(sent));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

/// One call of `sendfile`; a copy where the file system cannot do that.
fn send(stream: &TcpStream, part: &Part, length: usize) -> io::Result<usize> {
    let mut offset = part.offset;
    match rustix::fs::sendfile(stream, &*part.file, Some(&mut offset), length) {
        Err(Errno::INVAL | Errno::NOSYS) => {
            let mut buffer = vec![0; length.min(64 << 10)];
            let read = rustix::io::pread(&*part.file, buffer.as_mut_slice(), part.offset)?;
            Ok(rustix::io::write(stream, &buffer[..read])?)
        }
        sent => Ok(sent?),
    }
}

/// A connection.
pub(super) enum Wire {
    /// In the clear.
    Plain(TcpStream, Direct),
    /// Encrypted.
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream, _) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream, direct) if stands_in(bytes) => direct.poll_send(stream, context, bytes.len()),
            Self::Plain(stream, _) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream, direct) => {
                let first = slices.iter().position(|slice| !slice.is_empty()).unwrap_or(slices.len());
                let slices = &slices[first..];
                match slices.iter().position(|slice| stands_in(slice)) {
                    Some(0) => direct.poll_send(stream, context, slices[0].len()),
                    found => {
                        let plain = &slices[..found.unwrap_or(slices.len())];
                        Pin::new(stream).poll_write_vectored(context, plain)
                    }
                }
            }
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(..) => true,
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream, _) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream, _) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap());
        let (near, far) = tokio::join!(listener.accept(), far);
        (near.unwrap().0, far.unwrap())
    }

    #[tokio::test]
    async fn a_stand_in_becomes_the_bytes_of_its_file() {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
        file.write_all(&content).unwrap();
        let file = Arc::new(file);
        let (near, mut far) = pair().await;
        let direct = Direct::default();
        let mut wire = Wire::Plain(near, direct.clone());
        let mut want = b"head".to_vec();
        want.extend_from_slice(&content[1000..1000 + WINDOW]);
        want.extend_from_slice(b"between");
        want.extend_from_slice(&content[7..12]);
        let reader = tokio::spawn(async move {
            let mut got = Vec::new();
            far.read_to_end(&mut got).await.unwrap();
            got
        });
        let first = direct.stand_in(file.clone(), 1000, usize::MAX);
        let second = direct.stand_in(file, 7, 5);
        let mut parts = [&b"head"[..], &first, b"between", &second];
        let mut slices: Vec<IoSlice<'_>> = parts.iter_mut().map(|part| IoSlice::new(part)).collect();
        let mut left = &mut slices[..];
        while !left.is_empty() {
            let sent = wire.write_vectored(left).await.unwrap();
            IoSlice::advance_slices(&mut left, sent);
        }
        wire.shutdown().await.unwrap();
        assert!(reader.await.unwrap() == want);
    }

    #[tokio::test]
    async fn no_stand_in_ever_leaves() {
        let (near, mut far) = pair().await;
        let direct = Direct::default();
        let mut wire = Wire::Plain(near, direct.clone());
        // One that nobody put there, and one whose file has become too short.
        assert!(wire.write(&REGION[..10]).await.is_err());
        let short = direct.stand_in(Arc::new(tempfile::tempfile().unwrap()), 0, 10);
        let error = wire.write(&short).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        drop(wire);
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        assert!(got.is_empty(), "{got:?}");
    }
}
