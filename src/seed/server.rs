//! The listener, its connections, and which part answers what.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::{Method, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use super::stall::StallGuard;
use super::{Content, SeedError, git, registry};
use crate::model::Progress;

/// Bounds on what clients may hold. The defaults suit a small machine with a few dozen nodes.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at a time; more wait in the kernel's queue.
    pub connections: usize,
    /// How long the head of a request may take, and how long a connection may lie idle.
    pub head: Duration,
    /// How long a client may take nothing of an answer, and take to send a request's body.
    pub stall: Duration,
    /// Packs generated at a time; more wait.
    pub packs: usize,
    /// How long a request for a pack waits for its turn before it is told to come again.
    pub turn: Duration,
    /// How long open requests may go on once the server is to stop.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            head: Duration::from_secs(30),
            stall: Duration::from_mins(2),
            packs: 8,
            turn: Duration::from_mins(2),
            grace: Duration::from_secs(10),
        }
    }
}

/// A page for people: `/` and what lies beside it.
#[derive(Debug, Clone)]
pub struct Page {
    /// Its `Content-Type`.
    pub media_type: &'static str,
    /// Its bytes.
    pub body: Vec<u8>,
}

/// Answers paths that are neither images nor Git nor one of the server's own.
pub trait Front: Send + Sync {
    /// The page at `path` (`/`, `/status.json`), or nothing. Blocking; called in a thread of its own.
    ///
    /// # Errors
    ///
    /// When the page cannot be made; the operator is told, the client hears that it is not its fault.
    fn page(&self, path: &str) -> std::io::Result<Option<Page>>;
}

/// What every request needs.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) content: Arc<dyn Content>,
    pub(super) progress: Arc<dyn Progress>,
    pub(super) packs: Arc<Semaphore>,
    pub(super) limits: Arc<Limits>,
    front: Option<Arc<dyn Front>>,
}

/// A listener that serves nothing yet, so that its address can be made known before it does.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    limits: Limits,
    front: Option<Arc<dyn Front>>,
}

impl Server {
    /// Listens on `address`; port 0 takes a free one.
    ///
    /// # Errors
    ///
    /// When the address cannot be listened on.
    pub async fn bind(address: SocketAddr, limits: Limits) -> Result<Self, SeedError> {
        let listen = |source| SeedError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        Ok(Self { listener, address, limits, front: None })
    }

    /// Serves the pages of `front` beside images and Git.
    #[must_use]
    pub fn with_front(mut self, front: Arc<dyn Front>) -> Self {
        self.front = Some(front);
        self
    }

    /// Where the server listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://ADDRESS`: what runtimes, Git clients and the gate are told. A server that listens
    /// on every address is reached on this machine by the loopback one.
    #[must_use]
    pub fn endpoint(&self) -> String {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(match address.ip() {
                std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        format!("http://{address}")
    }

    /// Serves `content` until `stop` is done, then lets open requests end for a while.
    ///
    /// # Errors
    ///
    /// When the content cannot be read at all; checked once at the start.
    pub async fn run(
        self,
        content: Arc<dyn Content>,
        progress: Arc<dyn Progress>,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<(), SeedError> {
        content.snapshot().map_err(SeedError::Content)?;
        let limits = Arc::new(self.limits);
        let shared = Shared {
            content,
            progress: Arc::clone(&progress),
            packs: Arc::new(Semaphore::new(limits.packs.max(1))),
            limits: Arc::clone(&limits),
            front: self.front,
        };
        let service = TowerToHyperService::new(Router::new().fallback(dispatch).with_state(shared));
        let connections = Arc::new(Semaphore::new(limits.connections.max(1)));
        let (stopping, stopped) = watch::channel(());
        let mut stop = std::pin::pin!(stop);
        loop {
            let accepted = async {
                let permit = Arc::clone(&connections).acquire_owned().await;
                (self.listener.accept().await, permit)
            };
            let (accepted, permit) = tokio::select! {
                () = &mut stop => break,
                accepted = accepted => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, or a peer that left at once: neither ends the server,
                    // and neither is worth a busy loop.
                    progress.warn(format!("cannot accept a connection: {error}"));
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            // Small answers must not wait for the acknowledgement of the ones before.
            let _ = stream.set_nodelay(true);
            let io = TokioIo::new(StallGuard::new(stream, limits.stall));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.head)
                .half_close(false)
                .serve_connection(io, service.clone());
            let mut stopped = stopped.clone();
            tokio::spawn(async move {
                let _permit = permit;
                let mut connection = std::pin::pin!(connection);
                tokio::select! {
                    // What goes wrong on a connection is its client's matter.
                    _ = connection.as_mut() => return,
                    _ = stopped.changed() => connection.as_mut().graceful_shutdown(),
                }
                let _ = connection.await;
            });
        }
        drop(self.listener);
        drop(stopped);
        let _ = stopping.send(());
        let _ = tokio::time::timeout(limits.grace, stopping.closed()).await;
        Ok(())
    }
}

async fn dispatch(State(shared): State<Shared>, request: Request) -> Response {
    let path = request.uri().path();
    if path == "/v2" || path.starts_with("/v2/") {
        registry::answer(&shared, request).await
    } else if path.starts_with("/git/") {
        git::answer(&shared, request).await
    } else if path == "/healthz" {
        health(&shared, request.method())
    } else {
        let (parts, _) = request.into_parts();
        page(&shared, &parts).await
    }
}

/// A page for people, where there is one.
async fn page(shared: &Shared, request: &http::request::Parts) -> Response {
    let unknown = || text(StatusCode::NOT_FOUND, "fleetpack serves /v2/, /git/NAME.git and /healthz\n");
    let Some(front) = shared.front.clone() else { return unknown() };
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "wanted GET\n");
    }
    let path = request.uri.path().to_owned();
    let made = tokio::task::spawn_blocking(move || front.page(&path)).await;
    match made.map_err(std::io::Error::other).flatten() {
        Ok(Some(page)) => {
            let mut response = text(StatusCode::OK, page.body);
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static(page.media_type));
            headers.insert(header::CACHE_CONTROL, http::HeaderValue::from_static("no-cache"));
            headers.insert(header::X_CONTENT_TYPE_OPTIONS, http::HeaderValue::from_static("nosniff"));
            response
        }
        Ok(None) => unknown(),
        Err(error) => {
            shared.progress.warn(format!("cannot make the page: {error}"));
            text(StatusCode::INTERNAL_SERVER_ERROR, "the page cannot be made\n")
        }
    }
}

/// Healthy is who can read what it serves.
fn health(shared: &Shared, method: &Method) -> Response {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "wanted GET\n");
    }
    match shared.content.snapshot() {
        Ok(_) => text(StatusCode::OK, "ok\n"),
        Err(error) => {
            shared.progress.warn(format!("cannot read what is to be served: {error}"));
            text(StatusCode::SERVICE_UNAVAILABLE, "the content cannot be read\n")
        }
    }
}

/// A short answer for people.
pub(super) fn text(status: StatusCode, text: impl Into<Body>) -> Response {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}
