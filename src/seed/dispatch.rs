//! What happens to each request: who asks, which part answers, and what is told about it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderValue, Method, StatusCode, header};
use hyper::body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

use super::auth::Verdict;
use super::metrics::{Process, Route, count};
use super::server::Shared;
use super::{Served, git, registry};

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
    /// The page at `path` (`/`, `/status.json`), or nothing; `json` is what the client would rather
    /// have. Blocking; called in a thread of its own.
    ///
    /// # Errors
    ///
    /// When the page cannot be made; the operator is told, the client hears that it is not its fault.
    fn page(&self, path: &str, json: bool) -> std::io::Result<Option<Page>>;
}

/// Answers one request.
pub(super) async fn dispatch(shared: Shared, request: Request) -> Response {
    let begin = Instant::now();
    let route = Route::of(request.uri().path());
    let running = Running::begin(&shared);
    let mut told = shared.log.is_some().then(|| Served {
        peer: shared.peer.address,
        user: None,
        method: request.method().as_str().chars().take(16).collect(),
        target: request
            .uri()
            .path_and_query()
            .map_or("", |target| target.as_str())
            .chars()
            .take(1024)
            .collect(),
        status: 0,
        bytes: 0,
        whole: false,
        took: std::time::Duration::ZERO,
        agent: agent(&request),
    });
    let authorization = request.headers().get(header::AUTHORIZATION).cloned();
    let mut turn = None;
    let response = match enter(&shared, authorization, route, &mut turn).await {
        Ok(user) => {
            if let Some(told) = &mut told {
                told.user = user;
            }
            answer(&shared, request, route).await
        }
        Err(refusal) => refusal,
    };
    let status = response.status().as_u16();
    response.map(|body| {
        let count =
            Counted { body, running, told, route, status, begin, bytes: 0, whole: false, _turn: turn };
        Body::new(count)
    })
}

fn agent(request: &Request) -> Option<String> {
    let agent = request.headers().get(header::USER_AGENT)?.to_str().ok()?;
    Some(agent.chars().take(200).collect())
}

/// Lets a request in: it names a user, where that is asked for, and it is its turn.
async fn enter(
    shared: &Shared,
    authorization: Option<HeaderValue>,
    route: Route,
    turn: &mut Option<OwnedSemaphorePermit>,
) -> Result<Option<Arc<str>>, Response> {
    // Whether the server is well is asked by those who have no password.
    if route == Route::Health {
        return Ok(None);
    }
    let mut user = None;
    if let Some(passwords) = &shared.passwords {
        match passwords.check(authorization.as_ref()).await {
            Verdict::Let(name) => user = Some(name),
            Verdict::Deny => return Err(unauthorized(route)),
            Verdict::Busy => return Err(busy("too many passwords to check\n")),
        }
    }
    if route != Route::Metrics {
        let permit = Arc::clone(&shared.requests).acquire_owned();
        match tokio::time::timeout(shared.limits.turn, permit).await {
            Ok(Ok(permit)) => *turn = Some(permit),
            _ => return Err(busy("too many requests at a time\n")),
        }
    }
    Ok(user)
}

fn unauthorized(route: Route) -> Response {
    let mut response = match route {
        Route::Base | Route::Catalog | Route::Tags | Route::Manifest | Route::Blob | Route::Referrers => {
            registry::unauthorized()
        }
        _ => text(StatusCode::UNAUTHORIZED, "wanted a name and a password\n"),
    };
    let basic = HeaderValue::from_static("Basic realm=\"fleetpack\", charset=\"UTF-8\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, basic);
    response
}

fn busy(why: &'static str) -> Response {
    let mut response = text(StatusCode::SERVICE_UNAVAILABLE, why);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    response
}

async fn answer(shared: &Shared, request: Request, route: Route) -> Response {
    let path = request.uri().path();
    if path == "/v2" || path.starts_with("/v2/") {
        return registry::answer(shared, request).await;
    }
    if path.starts_with("/git/") {
        return git::answer(shared, request).await;
    }
    let (parts, _) = request.into_parts();
    let known = matches!(route, Route::Health | Route::Metrics) || shared.front.is_some();
    if known && !matches!(parts.method, Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "wanted GET\n");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match route {
        Route::Health => health(shared),
        Route::Metrics => metrics(shared).await,
        _ => page(shared, &parts).await,
    }
}

/// Healthy is who can read what it serves.
fn health(shared: &Shared) -> Response {
    match shared.content.snapshot() {
        Ok(_) => text(StatusCode::OK, "ok\n"),
        Err(error) => {
            shared.content_failed(format!("cannot read what is to be served: {error}"));
            text(StatusCode::SERVICE_UNAVAILABLE, "the content cannot be read\n")
        }
    }
}

async fn metrics(shared: &Shared) -> Response {
    let site = Arc::clone(&shared.site);
    let made = tokio::task::spawn_blocking(move || {
        // Figures are wanted most when the content cannot be read.
        let active = site.content.snapshot().map(|snapshot| snapshot.active.clone()).unwrap_or_default();
        let end = site.tls.as_ref().map_or(0, |tls| tls.end());
        site.metrics.certificate_end.store(end, Ordering::Relaxed);
        site.metrics.render(&active, &Process::read())
    });
    let Ok(made) = made.await else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "the figures cannot be read\n");
    };
    let mut response = text(StatusCode::OK, made);
    let version = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, version);
    response
}

/// A page for people, where there is one.
async fn page(shared: &Shared, request: &http::request::Parts) -> Response {
    let unknown =
        || text(StatusCode::NOT_FOUND, "fleetpack serves /v2/, /git/NAME.git, /metrics and /healthz\n");
    let Some(front) = shared.front.clone() else { return unknown() };
    let path = request.uri.path().to_owned();
    // Browsers name HTML; who names JSON and no HTML wants JSON.
    let accept = request.headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let accept: Vec<&str> = accept.collect();
    let named = |kind: &str| accept.iter().any(|value| value.contains(kind));
    let json = named("application/json") && !named("text/html");
    let made = tokio::task::spawn_blocking(move || front.page(&path, json)).await;
    match made.map_err(std::io::Error::other).flatten() {
        Ok(Some(page)) => {
            let mut response = text(StatusCode::OK, page.body);
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(page.media_type));
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            headers.insert(header::VARY, HeaderValue::from_static("accept"));
            headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            response
        }
        Ok(None) => unknown(),
        Err(error) => {
            shared.progress.warn(format!("cannot make the page: {error}"));
            text(StatusCode::INTERNAL_SERVER_ERROR, "the page cannot be made\n")
        }
    }
}

/// A short answer for people.
pub(super) fn text(status: StatusCode, text: impl Into<Body>) -> Response {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// A request that is being answered.
struct Running(Shared);

impl Running {
    fn begin(shared: &Shared) -> Self {
        shared.peer.begin();
        count(&shared.metrics.in_flight);
        Self(shared.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.0.peer.end();
    }
}

/// The body of an answer, whose end is the end of its request.
struct Counted {
    body: Body,
    running: Running,
    told: Option<Served>,
    route: Route,
    status: u16,
    begin: Instant,
    bytes: u64,
    whole: bool,
    _turn: Option<OwnedSemaphorePermit>,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
            }
            Poll::Ready(None) => self.whole = true,
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let took = self.begin.elapsed();
        let whole = self.whole || self.body.is_end_stream();
        let metrics = &self.running.0.metrics;
        metrics.ended(self.route, self.status, self.bytes, took);
        if !whole {
            count(&metrics.cut);
        }
        if let (Some(log), Some(mut told)) = (&self.running.0.log, self.told.take()) {
            told.status = self.status;
            told.bytes = self.bytes;
            told.whole = whole;
            told.took = took;
            log.served(&told);
        }
    }
}
