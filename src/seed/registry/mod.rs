//! The pulling half of the OCI Distribution Specification, version 1.1.
//!
//! Everything is answered from the catalog, so that a `HEAD` costs a look-up and one `open`;
//! only the body of a `GET` reads a blob. Writers are told that this registry has no such part.

mod body;
mod range;
mod referrers;
mod route;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde_json::json;

use self::range::Part;
use self::route::{BadPath, Name, Reference, Route};
use super::content::{CHUNK, Opened, Snapshot};
use super::server::Shared;
use crate::fsio::limits;
use crate::model::{BlobEntry, Digest};
use crate::store::Catalog;

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const JSON: &str = "application/json";

/// An answer that is an error: status, code of the specification ("Error Codes"), message.
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    code: &'static str,
    pub(super) message: String,
    /// What the answer says in `Content-Range`.
    pub(super) range: Option<HeaderValue>,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), range: None }
    }

    fn into_response(self) -> Response {
        let body = json!({ "errors": [{ "code": self.code, "message": self.message, "detail": null }] });
        let mut response = answer_bytes(self.status, JSON, body.to_string().into_bytes());
        if let Some(range) = self.range {
            response.headers_mut().insert(header::CONTENT_RANGE, range);
        }
        response
    }
}

impl From<BadPath> for Refusal {
    fn from(bad: BadPath) -> Self {
        match bad {
            BadPath::Unknown => {
                Self::new(StatusCode::NOT_FOUND, "UNSUPPORTED", "no such part of the distribution API")
            }
            BadPath::Name(name) => Self::new(
                StatusCode::BAD_REQUEST,
                "NAME_INVALID",
                format!("`{name}` is not a repository, with or without its registry"),
            ),
            BadPath::Tag(tag) => {
                Self::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", format!("`{tag}` is not a tag"))
            }
            BadPath::Digest(why) => Self::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", why),
        }
    }
}

/// The answer to who did not say who he is (code `UNAUTHORIZED`).
pub(super) fn unauthorized() -> Response {
    let why = "wanted a name and a password";
    let mut response = Refusal::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", why).into_response();
    response.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    response
}

/// Answers a request below `/v2`.
pub(super) async fn answer(shared: &Shared, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let head = parts.method == Method::HEAD;
    let mut response = match respond(shared, &parts).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(),
    };
    response.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    if head {
        *response.body_mut() = Body::empty();
    }
    response
}

async fn respond(shared: &Shared, request: &Parts) -> Result<Response, Refusal> {
    let mut query = Query::parse(request.uri.query().unwrap_or_default());
    // A runtime that takes this server for a registry of its own names it as its clients do.
    let host = request.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    query.namespace = query.namespace.filter(|namespace| Some(namespace.as_str()) != host);
    let route = route::parse(request.uri.path(), query.namespace.as_deref())?;
    if !matches!(request.method, Method::GET | Method::HEAD) || route == Route::Upload {
        let mut response =
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "this registry is read-only")
                .into_response();
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    let snapshot = shared.content.snapshot().map_err(|error| broken(shared, None, &error))?;
    let catalog = &snapshot.catalog;
    match route {
        Route::Base | Route::Upload => Ok(answer_bytes(StatusCode::OK, JSON, b"{}".to_vec())),
        Route::Catalog => {
            let all: Vec<&str> = catalog.repositories().collect();
            Ok(page(&query, &all, "/v2/_catalog", |part| json!({ "repositories": part })))
        }
        Route::Tags(name) => {
            let repository = find(catalog, &name)?;
            let tags: Vec<&str> = catalog.tags(repository).map(|(tag, _)| tag).collect();
            let path = format!("/v2/{}/tags/list", name.asked);
            Ok(page(&query, &tags, &path, |part| json!({ "name": name.asked, "tags": part })))
        }
        Route::Manifest(name, reference) => manifest(shared, request, &snapshot, &name, &reference).await,
        Route::Blob(name, digest) => blob(shared, request, &snapshot, &name, digest).await,
        Route::Referrers(name, digest) => {
            referrers::answer(shared, &snapshot, &name, digest, query.artifact_type.as_deref()).await
        }
    }
}

/// The full name of the repository that is asked for.
fn find<'c>(catalog: &'c Catalog, name: &Name) -> Result<&'c str, Refusal> {
    let found = catalog.resolve_repository(name.registry.as_deref(), &name.repository);
    found.ok_or_else(|| {
        let candidates = catalog.ambiguous(&name.repository);
        let why = match &name.registry {
            Some(registry) => format!("no release holds `{registry}/{}`", name.repository),
            None if !candidates.is_empty() => {
                format!("`{}` may be any of: {}; ask for one of them", name.repository, candidates.join(", "))
            }
            None => format!("no release holds `{}`", name.repository),
        };
        Refusal::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", why)
    })
}

fn unknown_blob(name: &Name, digest: Digest) -> Refusal {
    let why = format!("no release holds blob `{digest}`, asked for in `{}`", name.asked);
    Refusal::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", why)
}

fn unknown_manifest(name: &Name, reference: &str) -> Refusal {
    let why = format!("no release holds `{reference}` of `{}`", name.asked);
    Refusal::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", why)
}

/// The content let us down: the operator hears why, the client that it is not its fault.
fn broken(shared: &Shared, digest: Option<Digest>, error: &std::io::Error) -> Refusal {
    let what = digest.map_or_else(|| "the catalog".to_owned(), |digest| format!("blob `{digest}`"));
    shared.content_failed(format!("cannot read {what}: {error}"));
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", format!("{what} cannot be read"))
}

async fn manifest(
    shared: &Shared,
    request: &Parts,
    snapshot: &Snapshot,
    name: &Name,
    reference: &Reference,
) -> Result<Response, Refusal> {
    let catalog = &snapshot.catalog;
    let entry = match reference {
        // A digest says all that there is to say, under whatever name.
        Reference::Digest(digest) => catalog.manifest(*digest).ok_or_else(|| {
            if catalog.is_absent(*digest) {
                let why = format!(
                    "`{digest}` of `{}` was left out of the release: its platform was not chosen",
                    name.asked
                );
                return Refusal::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", why);
            }
            unknown_manifest(name, &digest.to_string())
        })?,
        Reference::Tag(tag) => {
            let found = catalog.resolve_tag(None, find(catalog, name)?, tag);
            found.ok_or_else(|| unknown_manifest(name, tag))?
        }
    };
    let digest = entry.digest;
    let missing = || unknown_manifest(name, &digest.to_string());
    let (length, bytes) = if request.method == Method::GET && !unchanged(&request.headers, digest) {
        let bytes = whole(shared, entry, limits::MANIFEST).await?.ok_or_else(missing)?;
        (bytes.len() as u64, bytes)
    } else {
        (open(shared, entry).await?.ok_or_else(missing)?.size, Vec::new())
    };
    if unchanged(&request.headers, digest) {
        return Ok(labelled(StatusCode::NOT_MODIFIED, digest, None));
    }
    let mut response = labelled(StatusCode::OK, digest, Some(length));
    let media_type = HeaderValue::from_str(&entry.media_type)
        .map_err(|_| broken(shared, Some(digest), &std::io::ErrorKind::InvalidData.into()))?;
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    *response.body_mut() = Body::from(bytes);
    Ok(response)
}

async fn blob(
    shared: &Shared,
    request: &Parts,
    snapshot: &Snapshot,
    name: &Name,
    digest: Digest,
) -> Result<Response, Refusal> {
    let entry = snapshot.catalog.blob(digest).ok_or_else(|| unknown_blob(name, digest))?;
    deliver(shared, request, entry).await?.ok_or_else(|| unknown_blob(name, digest))
}

/// Answers a `GET` or `HEAD` with the bytes of a blob, or with those of the range that is asked for;
/// `None` when it is not there, although the catalog knows it.
pub(super) async fn deliver(
    shared: &Shared,
    request: &Parts,
    entry: &BlobEntry,
) -> Result<Option<Response>, Refusal> {
    let digest = entry.digest;
    let Some(mut opened) = open(shared, entry).await? else { return Ok(None) };
    let headers = &request.headers;
    if unchanged(headers, digest) {
        return Ok(Some(labelled(StatusCode::NOT_MODIFIED, digest, None)));
    }
    // RFC 9110, section 13.1.5: a range under a condition that does not hold is no range. There
    // are no dates here, so that a date never holds.
    let condition = headers.get(header::IF_RANGE);
    let part = match headers.get(header::RANGE).and_then(|value| value.to_str().ok()) {
        Some(range) if condition.is_none_or(|value| *value == etag(digest)) => {
            range::parse(range, opened.size)
        }
        _ => Part::Whole,
    };
    let get = request.method == Method::GET;
    let (mut response, start, length) = match part {
        Part::Whole => (labelled(StatusCode::OK, digest, Some(opened.size)), 0, opened.size),
        // RFC 9110, section 14.2: a server ignores `Range` on anything but a GET.
        Part::Bytes(..) | Part::Outside if !get => {
            (labelled(StatusCode::OK, digest, Some(opened.size)), 0, opened.size)
        }
        Part::Outside => {
            let why = format!("blob `{digest}` has {} bytes", opened.size);
            let refusal = Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "RANGE_INVALID", why);
            return Err(Refusal { range: Some(content_range(None, opened.size)), ..refusal });
        }
        Part::Bytes(start, length) => {
            // A part proves nothing about itself: the whole is hashed before any of it leaves.
            opened = prove(shared, digest, opened).await?;
            let mut response = labelled(StatusCode::PARTIAL_CONTENT, digest, Some(length));
            let range = content_range(Some((start, length)), opened.size);
            response.headers_mut().insert(header::CONTENT_RANGE, range);
            (response, start, length)
        }
    };
    if get && opened.size <= CHUNK as u64 {
        // Proved before its last chunk leaves in any case; so that there is an error to read where
        // one chunk is all of it.
        opened = prove(shared, digest, opened).await?;
    }
    let octets = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, octets);
    response.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if get {
        *response.body_mut() = body::stream(opened, start, length, shared, digest);
    }
    Ok(Some(response))
}

/// Opens a blob; `None` when it is not there, although the catalog knows it. One of another size
/// than the catalog says is no better than one that cannot be read.
async fn open(shared: &Shared, entry: &BlobEntry) -> Result<Option<Opened>, Refusal> {
    open_and(shared, entry, Ok).await
}

/// Opens a blob and goes on with it, by one visit to the threads that may wait for a disk.
async fn open_and<T: Send + 'static>(
    shared: &Shared,
    entry: &BlobEntry,
    go_on: impl FnOnce(Opened) -> std::io::Result<T> + Send + 'static,
) -> Result<Option<T>, Refusal> {
    let BlobEntry { digest, size, .. } = *entry;
    let content = shared.content.clone();
    let done = tokio::task::spawn_blocking(move || {
        let opened = match content.open(digest) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        if opened.size != size {
            return Err(std::io::Error::other(format!("it has {} bytes, wanted {size}", opened.size)));
        }
        go_on(opened).map(Some)
    });
    match done.await.map_err(std::io::Error::other).flatten() {
        Ok(None) => {
            shared.content_failed(format!("blob `{digest}` is listed by a release, but not there"));
            Ok(None)
        }
        Ok(found) => Ok(found),
        Err(error) => Err(broken(shared, Some(digest), &error)),
    }
}

/// Hashes the whole of a blob that nobody has hashed yet.
async fn prove(shared: &Shared, digest: Digest, mut opened: Opened) -> Result<Opened, Refusal> {
    if opened.unproved.is_none() {
        return Ok(opened);
    }
    tokio::task::spawn_blocking(move || opened.prove().map(|()| opened))
        .await
        .map_err(std::io::Error::other)
        .flatten()
        .map_err(|error| broken(shared, Some(digest), &error))
}

/// All bytes of a small blob, proved; `None` when it is not there, although the catalog knows it.
async fn whole(shared: &Shared, entry: &BlobEntry, limit: u64) -> Result<Option<Vec<u8>>, Refusal> {
    let read = move |mut opened: Opened| {
        let too_large = || std::io::Error::new(std::io::ErrorKind::FileTooLarge, "larger than a manifest");
        let size = usize::try_from(opened.size).map_err(|_| too_large())?;
        if opened.size > limit {
            return Err(too_large());
        }
        let bytes = opened.read_at(0, size)?;
        if let Some(unproved) = opened.unproved.take() {
            let mut hasher = crate::fsio::Hasher::new();
            hasher.update(&bytes);
            unproved.settle(hasher)?;
        }
        Ok(bytes)
    };
    open_and(shared, entry, read).await
}

fn etag(digest: Digest) -> String {
    format!("\"{digest}\"")
}

/// Whether the client has `digest` already (RFC 9110, section 13.1.2).
fn unchanged(headers: &HeaderMap, digest: Digest) -> bool {
    let etag = etag(digest);
    headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').any(|one| {
            let one = one.trim();
            one == "*" || one.strip_prefix("W/").unwrap_or(one) == etag
        })
    })
}

fn content_range(part: Option<(u64, u64)>, size: u64) -> HeaderValue {
    let text = match part {
        Some((start, length)) => format!("bytes {start}-{}/{size}", start + length.saturating_sub(1)),
        None => format!("bytes */{size}"),
    };
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("bytes */*"))
}

/// An answer without a body that says whose it is. Content under a digest never changes, but a
/// tag does, so that nobody between may keep either without asking.
fn labelled(status: StatusCode, digest: Digest, length: Option<u64>) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if let (Ok(label), Ok(etag)) =
        (HeaderValue::from_str(&digest.to_string()), HeaderValue::from_str(&etag(digest)))
    {
        headers.insert(CONTENT_DIGEST, label);
        headers.insert(header::ETAG, etag);
    }
    if let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn answer_bytes(status: StatusCode, media_type: &'static str, bytes: Vec<u8>) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CONTENT_LENGTH, bytes.len().into());
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    *response.body_mut() = bytes.into();
    response
}

/// One page of a sorted list ("Listing Tags"): at most `n` entries after `last`, and a link to
/// the next page where there is one.
fn page(
    query: &Query,
    all: &[&str],
    path: &str,
    body: impl FnOnce(&[&str]) -> serde_json::Value,
) -> Response {
    let from = query.last.as_deref().map_or(0, |last| all.partition_point(|entry| *entry <= last));
    let rest = &all[from..];
    let part = &rest[..query.n.unwrap_or(rest.len()).min(rest.len())];
    let mut response = answer_bytes(StatusCode::OK, JSON, body(part).to_string().into_bytes());
    if let (Some(last), true) = (part.last(), part.len() < rest.len()) {
        let namespace = query.namespace.as_ref().map(|ns| format!("&ns={ns}")).unwrap_or_default();
        let link = format!("<{path}?n={}&last={last}{namespace}>; rel=\"next\"", part.len());
        if let Ok(link) = HeaderValue::from_str(&link) {
            response.headers_mut().insert(header::LINK, link);
        }
    }
    response
}

/// The parameters that the API knows; others are ignored.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    n: Option<usize>,
    last: Option<String>,
    namespace: Option<String>,
    artifact_type: Option<String>,
}

impl Query {
    fn parse(text: &str) -> Self {
        let mut query = Self::default();
        for pair in text.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            // `+` means a space in a form, but media types hold it (`…+json`) and clients do not
            // always escape it; no value here ever holds a space.
            let Some(value) = route::decode(value) else { continue };
            match key {
                "n" => query.n = value.parse().ok(),
                "last" => query.last = Some(value),
                "ns" => query.namespace = Some(value),
                "artifactType" => query.artifact_type = Some(value),
                _ => {}
            }
        }
        query
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let query = Query::parse("n=2&last=1.0&ns=docker.io&artifactType=application%2Fx+json&z=1&n");
        assert_eq!(query.last.as_deref(), Some("1.0"));
        assert_eq!(query.namespace.as_deref(), Some("docker.io"));
        assert_eq!(query.artifact_type.as_deref(), Some("application/x+json"));
        assert_eq!(Query::parse("n=2").n, Some(2));
        assert_eq!(Query::parse("n=-2").n, None);
    }

    #[test]
    fn pages() {
        let all = ["a", "b", "c", "d"];
        let link = |query: &str| {
            let response = page(&Query::parse(query), &all, "/v2/x/tags/list", |part| json!(part.len()));
            response.headers().get(header::LINK).map(|link| link.to_str().unwrap().to_owned())
        };
        assert_eq!(link(""), None);
        assert_eq!(link("n=2").as_deref(), Some("</v2/x/tags/list?n=2&last=b>; rel=\"next\""));
        assert_eq!(
            link("n=1&last=bb&ns=x.y").as_deref(),
            Some("</v2/x/tags/list?n=1&last=c&ns=x.y>; rel=\"next\"")
        );
        assert_eq!(link("n=2&last=b"), None);
        assert_eq!(link("n=0"), None);
    }

    #[test]
    fn conditions() {
        let digest = Digest::of(b"x");
        let with = |value: String| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, value.parse().unwrap());
            unchanged(&headers, digest)
        };
        assert!(with(format!("\"{digest}\"")));
        assert!(with(format!("\"other\", W/\"{digest}\"")));
        assert!(with("*".into()));
        assert!(!with("\"other\"".into()));
        assert!(!with(digest.to_string()));
    }
}
