//! One connection: its handshake, its requests, and its end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::dispatch;
use super::metrics::count;
use super::server::{Held, Shared, Site};
use super::stall::StallGuard;
use super::wire::{Direct, Wire};

/// How long a connection lies idle before it makes room for another.
const IDLE: Duration = Duration::from_secs(1);

/// Whom a connection leads to, and what he does.
pub(super) struct Peer {
    /// Where he is.
    pub(super) address: SocketAddr,
    /// How the kernel sends files to him by itself, where it can.
    pub(super) direct: Option<Direct>,
    busy: AtomicUsize,
    quiet_since: Mutex<Instant>,
    requests: AtomicU64,
}

impl Peer {
    /// A request has begun.
    pub(super) fn begin(&self) {
        self.busy.fetch_add(1, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// A request has ended.
    pub(super) fn end(&self) {
        *self.quiet_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.busy.fetch_sub(1, Ordering::Relaxed);
    }

    fn idle(&self) -> bool {
        self.busy.load(Ordering::Relaxed) == 0
            && self.quiet_since.lock().unwrap_or_else(PoisonError::into_inner).elapsed() >= IDLE
    }
}

/// Answers the requests of a connection until it ends.
pub(super) async fn converse(
    site: Arc<Site>,
    stream: TcpStream,
    address: SocketAddr,
    mut stopped: watch::Receiver<()>,
    _held: Held,
) {
    // Small answers must not wait for the acknowledgement of the ones before.
    let _ = stream.set_nodelay(true);
    let limits = &site.limits;
    let (wire, direct) = match &site.tls {
        None => {
            let direct = Direct::default();
            (Wire::Plain(stream, direct.clone()), Some(direct))
        }
        Some(tls) => {
            let handshake = tokio::time::timeout(limits.head, tls.acceptor().accept(stream));
            let done = tokio::select! {
                done = handshake => done,
                _ = stopped.changed() => return,
            };
            match done {
                Ok(Ok(stream)) => (Wire::Tls(Box::new(stream)), None),
                // Who asks in the clear, or does not trust the certificate, hears so from TLS itself.
                Ok(Err(_)) => return count(&site.metrics.handshakes),
                Err(_) => return count(&site.metrics.stalled),
            }
        }
    };
    let peer = Arc::new(Peer {
        address,
        direct,
        busy: AtomicUsize::new(0),
        quiet_since: Mutex::new(Instant::now()),
        requests: AtomicU64::new(0),
    });
    let shared = Shared { site: Arc::clone(&site), peer: Arc::clone(&peer) };
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(dispatch::dispatch(shared, request.map(Body::new)).await) }
    });
    let io = TokioIo::new(StallGuard::new(wire, limits.stall));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(limits.head_size.max(8 << 10))
        // Stand-ins of `wire` must come through as they are.
        .writev(true)
        .half_close(false)
        .serve_connection(io, service);
    let mut connection = std::pin::pin!(connection);
    let ended = loop {
        tokio::select! {
            ended = connection.as_mut() => break ended,
            _ = stopped.changed() => {
                connection.as_mut().graceful_shutdown();
                break connection.await;
            }
            () = site.room.notified() => {
                if peer.idle() {
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    };
    // What goes wrong on a connection is its client's matter; one that lay idle is nobody's.
    if let Err(error) = ended {
        let idle = peer.busy.load(Ordering::Relaxed) == 0 && peer.requests.load(Ordering::Relaxed) > 0;
        let late = error.is_timeout() || {
            let cause = std::error::Error::source(&error);
            let cause = cause.and_then(|cause| cause.downcast_ref::<std::io::Error>());
            cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::TimedOut)
        };
        if late && !(error.is_timeout() && idle) {
            count(&site.metrics.stalled);
        }
    }
}
