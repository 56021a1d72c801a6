//! HTTP around the protocol: paths, headers, bounded bodies, and streaming what a thread generates.

use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use futures_util::StreamExt;
use http::{HeaderValue, Method, StatusCode, header};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use super::GitError;
use super::answer::{self, Version};
use super::lfs;
use super::repository::Repository;
use crate::model::ReleaseName;
use crate::seed::content::Content;
use crate::seed::dispatch::text;
use crate::seed::server::Shared;

/// The longest request body, inflated: a client that has 300,000 commits to offer.
const BODY: usize = 16 << 20;
/// The longest part of a body that is read before it is the request's turn: enough for every
/// client that is not far behind, and little enough for a thousand of them.
const EARLY: usize = 256 << 10;
/// Chunks of an answer that wait for a slow client.
const WAITING: usize = 4;

/// What is asked of a repository.
enum Ask {
    /// `info/refs?service=git-upload-pack`
    Advertise,
    /// `git-upload-pack`
    Upload,
}

/// Answers a request below `/git/`.
pub(in crate::seed) async fn answer(shared: &Shared, request: Request) -> Response {
    if lfs::place(request.uri().path()).is_some() {
        return lfs::answer(shared, request).await;
    }
    match route(request.method(), request.uri().path(), request.uri().query().unwrap_or_default()) {
        Ok((name, ask)) => match name.find(shared.content.as_ref()) {
            Ok(path) => serve(shared, request, path, ask).await,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                text(StatusCode::NOT_FOUND, format!("{error}\n"))
            }
            Err(error) => {
                shared.content_failed(format!("cannot open the repository of {name}: {error}"));
                text(StatusCode::INTERNAL_SERVER_ERROR, "the repository cannot be read\n")
            }
        },
        Err((status, why)) => text(status, why),
    }
}

/// The repository that a path names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// `/git/NAME.git`: that of a release line, else of a submodule. So a URL relative to a release's
    /// own (`../lib.git`) leads to its submodule.
    Either(Option<ReleaseName>, ReleaseName),
    /// `/git/RELEASE/NAME.git`: that of a submodule; with the release's own name, its own.
    Submodule(ReleaseName, ReleaseName),
}

impl Name {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let submodule = |text: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            (!text.is_empty() && text.len() <= 255 && text.chars().all(plain) && text != "..")
                .then(|| ReleaseName::of_repository(text))
        };
        match text.split_once('/') {
            None => Some(Self::Either(text.parse().ok(), submodule(text)?)),
            Some((release, name)) => Some(Self::Submodule(release.parse().ok()?, submodule(name)?)),
        }
    }

    fn find(&self, content: &dyn Content) -> io::Result<PathBuf> {
        let not_there = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        match self {
            Self::Either(release, name) => {
                match release.as_ref().map(|release| content.repository(release)) {
                    Some(Err(error)) if not_there(&error) => {
                        content.submodule(None, name).map_err(|other| {
                            // Only that several have the name says more than that the release is not there.
                            if other.to_string().contains("several") { other } else { error }
                        })
                    }
                    Some(found) => found,
                    None => content.submodule(None, name),
                }
            }
            Self::Submodule(release, name) => match content.submodule(Some(release), name) {
                Err(error) if not_there(&error) && release == name => content.repository(release),
                found => found,
            },
        }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Either(_, name) => write!(f, "`{name}`"),
            Self::Submodule(release, name) => write!(f, "submodule `{name}` of `{release}`"),
        }
    }
}

fn route(method: &Method, path: &str, query: &str) -> Result<(Name, Ask), (StatusCode, &'static str)> {
    const UNKNOWN: (StatusCode, &str) =
        (StatusCode::NOT_FOUND, "wanted /git/NAME.git or /git/RELEASE/SUBMODULE.git\n");
    const READ_ONLY: (StatusCode, &str) = (StatusCode::FORBIDDEN, "this repository is read-only\n");
    let rest = path.strip_prefix("/git/").ok_or(UNKNOWN)?;
    let (name, rest) = rest.split_once(".git/").ok_or(UNKNOWN)?;
    let name = Name::parse(name).ok_or(UNKNOWN)?;
    let service = query.split('&').find_map(|pair| pair.strip_prefix("service="));
    match (rest, service) {
        ("info/refs", Some("git-receive-pack")) | ("git-receive-pack", _) => Err(READ_ONLY),
        ("info/refs", Some("git-upload-pack")) if matches!(*method, Method::GET | Method::HEAD) => {
            Ok((name, Ask::Advertise))
        }
        ("git-upload-pack", _) if *method == Method::POST => Ok((name, Ask::Upload)),
        ("info/refs" | "git-upload-pack", Some("git-upload-pack")) | ("git-upload-pack", None) => {
            Err((StatusCode::METHOD_NOT_ALLOWED, "wanted GET for info/refs, POST for git-upload-pack\n"))
        }
        ("info/refs" | "HEAD", _) => Err((
            StatusCode::FORBIDDEN,
            "only the smart protocol is served: wanted info/refs?service=git-upload-pack\n",
        )),
        _ if rest.starts_with("objects/") => {
            Err((StatusCode::FORBIDDEN, "only the smart protocol is served\n"))
        }
        _ => Err(UNKNOWN),
    }
}

async fn serve(shared: &Shared, request: Request, path: PathBuf, ask: Ask) -> Response {
    let version = Version::of(request.headers().get("git-protocol").and_then(|value| value.to_str().ok()));
    match ask {
        Ask::Advertise => {
            let made = tokio::task::spawn_blocking(move || {
                let repository = Repository::open(&path)?;
                Ok::<_, GitError>(answer::advertise(&repository, version))
            });
            match made.await {
                Ok(Ok(bytes)) => reply("application/x-git-upload-pack-advertisement", bytes.into()),
                Ok(Err(error)) => broken(shared, &error.to_string()),
                Err(error) => broken(shared, &error.to_string()),
            }
        }
        Ask::Upload => match body(shared, request).await {
            Ok((bytes, turn)) => upload(shared, path, version, bytes, turn),
            Err(refusal) => refusal,
        },
    }
}

fn broken(shared: &Shared, why: &str) -> Response {
    shared.content_failed(format!("Git: {why}"));
    text(StatusCode::INTERNAL_SERVER_ERROR, "the repository cannot be read\n")
}

fn reply(media_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    // What branches name changes with each release: nobody on the way may keep an answer.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, max-age=0, must-revalidate"));
    response
}

/// Waits until fewer packs are made than may be at a time.
async fn turn(shared: &Shared) -> Result<OwnedSemaphorePermit, Response> {
    let turn = tokio::time::timeout(shared.limits.turn, Arc::clone(&shared.packs).acquire_owned());
    turn.await.ok().and_then(Result::ok).ok_or_else(|| {
        let mut response = text(StatusCode::SERVICE_UNAVAILABLE, "too many fetches at a time\n");
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
        response
    })
}

/// The whole body, inflated where the client deflated it, bounded both before and after; and the
/// turn that was waited for, so that few long bodies are in memory at a time.
async fn body(shared: &Shared, request: Request) -> Result<(Vec<u8>, OwnedSemaphorePermit), Response> {
    let encoding = request.headers().get(header::CONTENT_ENCODING).cloned();
    let expected = request.headers().get(header::CONTENT_TYPE);
    if expected.is_none_or(|value| value != "application/x-git-upload-pack-request") {
        let why = "wanted Content-Type: application/x-git-upload-pack-request\n";
        return Err(text(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    }
    let mut bytes = Vec::new();
    let mut held = None;
    let mut stream = request.into_body().into_data_stream();
    // Whoever asks slowly holds a connection, and a turn if he asks much.
    let late = |_| text(StatusCode::REQUEST_TIMEOUT, "the request came too slowly\n");
    let mut deadline = Instant::now() + shared.limits.stall;
    while let Some(chunk) = tokio::time::timeout_at(deadline, stream.next()).await.map_err(late)? {
        let chunk = chunk.map_err(|_| text(StatusCode::BAD_REQUEST, "the request ends early\n"))?;
        if bytes.len() + chunk.len() > BODY {
            return Err(too_large());
        }
        if bytes.len() + chunk.len() > EARLY && held.is_none() {
            held = Some(turn(shared).await?);
            deadline = Instant::now() + shared.limits.stall;
        }
        bytes.extend_from_slice(&chunk);
    }
    let held = match held {
        Some(held) => held,
        None => turn(shared).await?,
    };
    match encoding.as_ref().map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok((bytes, held)),
        Some(b"gzip" | b"x-gzip") => {
            let inflated = tokio::task::spawn_blocking(move || inflate(&bytes)).await;
            match inflated.map_err(io::Error::other).flatten() {
                Ok(inflated) if inflated.len() > BODY => Err(too_large()),
                Ok(inflated) => Ok((inflated, held)),
                Err(error) => Err(text(StatusCode::BAD_REQUEST, format!("the body is not gzip: {error}\n"))),
            }
        }
        Some(_) => Err(text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "wanted gzip or no Content-Encoding\n")),
    }
}

fn too_large() -> Response {
    text(StatusCode::PAYLOAD_TOO_LARGE, format!("a request has at most {BODY} bytes\n"))
}

/// Inflates at most one byte more than a body may have.
fn inflate(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut inflated = Vec::new();
    flate2::read::GzDecoder::new(bytes).take(BODY as u64 + 1).read_to_end(&mut inflated)?;
    Ok(inflated)
}

/// Streams what a thread generates, which stops soon after the client went away.
fn upload(
    shared: &Shared,
    path: PathBuf,
    version: Version,
    request: Vec<u8>,
    turn: OwnedSemaphorePermit,
) -> Response {
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(WAITING);
    let site = Arc::clone(&shared.site);
    tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let given_up = {
            let sender = sender.clone();
            move || sender.is_closed()
        };
        let mut out = Channel { sender, buffer: Vec::new(), whole: false };
        let done = Repository::open(&path)
            .and_then(|repository| answer::upload(&repository, version, &request, &mut out, &given_up))
            .and_then(|()| Ok(io::Write::flush(&mut out)?));
        match done {
            Ok(()) => out.whole = true,
            Err(error @ GitError::Broken(_)) => site.content_failed(format!("Git: {error}")),
            Err(_) => {}
        }
    });
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|chunk| (chunk, receiver))
    });
    reply("application/x-git-upload-pack-result", Body::from_stream(stream))
}

/// Hands bytes to the connection in chunks worth sending.
struct Channel {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
    whole: bool,
}

impl Drop for Channel {
    /// An answer that is not whole, for whatever reason, ends with a cut connection, so that
    /// nobody takes it for one that is.
    fn drop(&mut self) {
        if !self.whole {
            let _ = self.sender.blocking_send(Err(io::Error::other("the answer is not whole")));
        }
    }
}

impl Channel {
    const CHUNK: usize = 64 << 10;
}

impl io::Write for Channel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= Self::CHUNK {
            io::Write::flush(self)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::take(&mut self.buffer));
        self.sender.blocking_send(Ok(chunk)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let get = |path: &str, query: &str| route(&Method::GET, path, query);
        assert!(matches!(get("/git/shop.git/info/refs", "service=git-upload-pack"), Ok((_, Ask::Advertise))));
        let name = |path: &str| get(path, "service=git-upload-pack").ok().map(|(name, _)| name);
        let [shop, lib]: [ReleaseName; 2] = ["shop", "my-lib"].map(|name| name.parse().unwrap());
        assert_eq!(name("/git/shop/My_Lib.git/info/refs"), Some(Name::Submodule(shop, lib.clone())));
        assert_eq!(name("/git/My_Lib.git/info/refs"), Some(Name::Either(None, lib)));
        for bad in [
            "/git/shop/../x.git/info/refs",
            "/git/a/b/c.git/info/refs",
            "/git/.git/info/refs",
            "/git/%2e.git/info/refs",
        ] {
            assert_eq!(name(bad), None, "{bad}");
        }
        let post = route(&Method::POST, "/git/shop.git/git-upload-pack", "");
        assert!(matches!(post, Ok((_, Ask::Upload))));
        for (path, query, status) in [
            ("/git/shop.git/info/refs", "", StatusCode::FORBIDDEN),
            ("/git/shop.git/info/refs", "service=git-receive-pack", StatusCode::FORBIDDEN),
            ("/git/shop.git/objects/info/packs", "", StatusCode::FORBIDDEN),
            ("/git/shop.git/git-upload-pack", "", StatusCode::METHOD_NOT_ALLOWED),
            ("/git/../shop.git/info/refs", "service=git-upload-pack", StatusCode::NOT_FOUND),
            ("/git/..%2fshop.git/info/refs", "service=git-upload-pack", StatusCode::NOT_FOUND),
            ("/git/shop/info/refs", "service=git-upload-pack", StatusCode::NOT_FOUND),
            ("/git/shop.git/config", "", StatusCode::NOT_FOUND),
        ] {
            assert_eq!(get(path, query).err().map(|(status, _)| status), Some(status), "{path}?{query}");
        }
    }
}
