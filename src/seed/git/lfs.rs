//! Git LFS, read-only: the batch API (git-lfs, `docs/api/batch.md`) and the basic transfer's downloads
//! (`docs/api/basic-transfers.md`), so that a clone at the site has its large files.
//!
//! An object is had under a repository whose release line lists it, and under no other; blobs that no
//! release lists as objects are not there at all. What writers ask for is refused, and locks are said not
//! to be kept here, which clients take for what it is.

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use futures_util::StreamExt;
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderValue, Method, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::http::Name;
use crate::model::Digest;
use crate::seed::registry;
use crate::seed::server::Shared;
use crate::store::{LfsCatalog, LfsLine};

/// The longest body of a batch: enough for [`OBJECTS`], and little enough for a thousand connections.
const BODY: usize = 256 << 10;
/// Objects of one batch; clients ask for 100 at a time.
const OBJECTS: usize = 1000;
/// Media type of all requests and answers but the objects themselves.
const JSON: &str = "application/vnd.git-lfs+json";

/// What clients are told who want to change something.
const READ_ONLY: &str = "this repository is read-only";

/// A path of the LFS server of a repository.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place<'p> {
    /// `/git/NAME.git/info/lfs`, as the client wrote it.
    base: &'p str,
    name: &'p str,
    rest: &'p str,
}

/// Takes `path` apart if it belongs here: `/git/NAME.git/info/lfs/REST`, with or without `.git`.
pub(super) fn place(path: &str) -> Option<Place<'_>> {
    const INFIX: &str = "/info/lfs/";
    let (name, rest) = path.strip_prefix("/git/")?.split_once(INFIX)?;
    let base = &path[..path.len() - rest.len() - 1];
    Some(Place { base, name: name.strip_suffix(".git").unwrap_or(name), rest })
}

/// An answer that is an error.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    message: String,
    header: Option<(header::HeaderName, HeaderValue)>,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), header: None }
    }

    fn method(allowed: &'static str) -> Self {
        let header = Some((header::ALLOW, HeaderValue::from_static(allowed)));
        Self { header, ..Self::new(StatusCode::METHOD_NOT_ALLOWED, format!("wanted {allowed}")) }
    }

    fn into_response(self) -> Response {
        let mut response = answer_json(self.status, &json!({ "message": self.message }));
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

impl From<registry::Refusal> for Refusal {
    fn from(refusal: registry::Refusal) -> Self {
        let header = refusal.range.map(|range| (header::CONTENT_RANGE, range));
        Self { status: refusal.status, message: refusal.message, header }
    }
}

fn answer_json(status: StatusCode, body: &Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Ask {
    Batch,
    Object(Digest),
}

/// Answers a request for `place`, which is the request's own path.
pub(super) async fn answer(shared: &Shared, request: Request) -> Response {
    let head = request.method() == Method::HEAD;
    let mut response = respond(shared, request).await.unwrap_or_else(Refusal::into_response);
    if head {
        *response.body_mut() = Body::empty();
    }
    response
}

async fn respond(shared: &Shared, request: Request) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    let not_found = || Refusal::new(StatusCode::NOT_FOUND, "wanted /git/NAME.git/info/lfs/objects/batch");
    let place = place(parts.uri.path()).ok_or_else(not_found)?;
    let name = Name::parse(place.name).ok_or_else(not_found)?;
    let ask = ask(&parts.method, place.rest)?;
    let snapshot = shared.content.snapshot().map_err(|error| {
        shared.content_failed(format!("cannot read what is to be served: {error}"));
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the content cannot be read")
    })?;
    let line = find(snapshot.catalog.lfs(), &name)?;
    match ask {
        Ask::Batch => {
            let origin = origin(&parts, shared.scheme())?;
            let bytes = read(shared, &parts, body).await?;
            let mut answer = batch(line, &bytes, &format!("{origin}{}", place.base))?;
            if shared.passwords.is_some() {
                // A client that is told so sends no password with its downloads.
                for object in answer["objects"].as_array_mut().into_iter().flatten() {
                    object.as_object_mut().map(|object| object.remove("authenticated"));
                }
            }
            Ok(answer_json(StatusCode::OK, &answer))
        }
        Ask::Object(digest) => {
            let missing = || Refusal::new(StatusCode::NOT_FOUND, no_object(&digest));
            let entry = line.object(digest).ok_or_else(missing)?;
            registry::deliver(shared, &parts, entry).await?.ok_or_else(missing)
        }
    }
}

fn no_object(digest: &Digest) -> String {
    format!("no release that is kept here lists the object `{}`", digest.hex())
}

/// The release line that `name` belongs to, in the way in which its repository is found.
fn find<'c>(catalog: &'c LfsCatalog, name: &Name) -> Result<&'c LfsLine, Refusal> {
    let none = |why: String| Refusal::new(StatusCode::NOT_FOUND, why);
    match name {
        Name::Either(release, submodule) => {
            if let Some(line) = release.as_ref().and_then(|release| catalog.line(release)) {
                return Ok(line);
            }
            match catalog.with_submodule(submodule).as_slice() {
                [] => Err(none(format!("no release or submodule {name} is here"))),
                [line] => Ok(line),
                _ => Err(none(format!("several releases have a submodule {name}"))),
            }
        }
        Name::Submodule(release, submodule) => catalog
            .line(release)
            .filter(|line| release == submodule || line.has_submodule(submodule))
            .ok_or_else(|| none(format!("no {name} is here"))),
    }
}

fn ask(method: &Method, rest: &str) -> Result<Ask, Refusal> {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    match rest {
        "objects/batch" if *method == Method::POST => Ok(Ask::Batch),
        "objects/batch" => Err(Refusal::method("POST")),
        // A client that is told 404 here goes on without locks (git-lfs, `docs/api/locking.md`).
        "locks/verify" => Err(Refusal::new(StatusCode::NOT_FOUND, "no locks are kept here")),
        "locks" if reads => Err(Refusal::new(StatusCode::NOT_FOUND, "no locks are kept here")),
        "locks" => Err(Refusal::new(StatusCode::FORBIDDEN, READ_ONLY)),
        _ if rest.starts_with("locks/") => Err(Refusal::new(StatusCode::FORBIDDEN, READ_ONLY)),
        _ => match rest.strip_prefix("objects/") {
            Some(_) if matches!(*method, Method::PUT | Method::POST | Method::PATCH | Method::DELETE) => {
                Err(Refusal::new(StatusCode::FORBIDDEN, READ_ONLY))
            }
            Some(_) if !reads => Err(Refusal::method("GET, HEAD")),
            Some(oid) => digest(oid).map(Ask::Object).ok_or_else(|| {
                let why = "the object's name is malformed: wanted 64 lower-case hexadecimal digits";
                Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, why)
            }),
            None => Err(Refusal::new(StatusCode::NOT_FOUND, "no such part of the Git LFS API")),
        },
    }
}

/// The name of an object: the SHA-256 of its bytes, 64 lower-case digits.
fn digest(oid: &str) -> Option<Digest> {
    let plain = oid.len() == 64 && oid.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    plain.then(|| format!("sha256:{oid}").parse().ok()).flatten()
}

/// `SCHEME://HOST`, as the client called this server: links of a batch must be absolute.
fn origin(parts: &Parts, scheme: &str) -> Result<String, Refusal> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    let host = parts.uri.authority().cloned().or(host).filter(|_| hosts.next().is_none());
    let host = host.filter(|host| !host.as_str().contains('@'));
    let host = host.ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, "wanted one Host: NAME[:PORT]"))?;
    Ok(format!("{scheme}://{host}"))
}

/// The whole body, bounded in length and time.
async fn read(shared: &Shared, parts: &Parts, body: Body) -> Result<Vec<u8>, Refusal> {
    if parts.headers.get(header::CONTENT_ENCODING).is_some_and(|value| value != "identity") {
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "wanted no Content-Encoding"));
    }
    let too_large = || {
        let why = format!("a batch has at most {BODY} bytes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, why)
    };
    let length =
        parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > BODY as u64) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    let mut stream = body.into_data_stream();
    let late = |_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "the request came too slowly");
    let deadline = Instant::now() + shared.limits.stall;
    while let Some(chunk) = tokio::time::timeout_at(deadline, stream.next()).await.map_err(late)? {
        let chunk = chunk.map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "the request ends early"))?;
        if bytes.len() + chunk.len() > BODY {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// A request of the batch API. Fields that are not here change nothing: `ref`, and `transfers`, since
/// `basic` is what every client has.
#[derive(Deserialize)]
struct Batch {
    operation: String,
    hash_algo: Option<String>,
    objects: Vec<Wanted>,
}

#[derive(Deserialize)]
struct Wanted {
    oid: String,
    size: i64,
}

/// Answers a batch; `base` is the URL of this repository's LFS server.
fn batch(line: &LfsLine, bytes: &[u8], base: &str) -> Result<Value, Refusal> {
    let batch: Batch = serde_json::from_slice(bytes).map_err(|error| {
        let status = match error.classify() {
            serde_json::error::Category::Data => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::BAD_REQUEST,
        };
        Refusal::new(status, format!("the request is not a batch: {error}"))
    })?;
    match batch.operation.as_str() {
        "download" => {}
        "upload" => return Err(Refusal::new(StatusCode::FORBIDDEN, READ_ONLY)),
        _ => return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "wanted operation `download`")),
    }
    if batch.hash_algo.is_some_and(|name| name != "sha256") {
        return Err(Refusal::new(StatusCode::CONFLICT, "wanted hash_algo `sha256`"));
    }
    if batch.objects.len() > OBJECTS {
        let why = format!("a batch has at most {OBJECTS} objects, not {}", batch.objects.len());
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, why));
    }
    let objects: Vec<Value> = batch.objects.iter().map(|wanted| object(line, wanted, base)).collect();
    Ok(json!({ "transfer": "basic", "hash_algo": "sha256", "objects": objects }))
}

fn object(line: &LfsLine, Wanted { oid, size }: &Wanted, base: &str) -> Value {
    let error = |code: u16, message: String| json!({ "oid": oid, "size": size, "error": { "code": code, "message": message } });
    let Some(digest) = digest(oid) else {
        return error(422, "the name is malformed: wanted 64 lower-case hexadecimal digits".to_owned());
    };
    match line.object(digest) {
        None => error(404, no_object(&digest)),
        Some(entry) if u64::try_from(*size).ok() != Some(entry.size) => {
            error(422, format!("the object has {} bytes, not {size}", entry.size))
        }
        Some(_) => json!({
            "oid": oid,
            "size": size,
            "authenticated": true,
            "actions": { "download": { "href": format!("{base}/objects/{oid}") } },
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Catalog, CatalogSource};

    const OWN: &[u8] = b"own";
    const BASE: &str = "http://site:5050/git/shop.git/info/lfs";

    /// A release that lists the object [`OWN`], and a layer that is none.
    fn catalog(releases: &[(&str, &str)]) -> Catalog {
        let digest = Digest::of(b"x");
        let commit = "1".repeat(40);
        let documents: Vec<crate::model::ReleaseDocument> = releases
            .iter()
            .map(|(name, submodule)| {
                let value = json!({
                    "format": 1, "name": name, "version": "1", "sequence": 1,
                    "created": "2026-11-21T10:00:00Z", "generator": "test",
                    "git": {
                        "commit": commit, "refs": [], "bundle": digest,
                        "submodules": [
                            { "name": submodule, "paths": [], "commit": commit, "refs": [], "bundle": digest },
                        ],
                        "lfs": [{ "digest": Digest::of(OWN), "size": 3, "paths": ["a.bin"] }],
                    },
                    "rendered": { "manifest": digest, "layer": digest, "objects": [] },
                    "images": [],
                    "blobs": [
                        { "digest": digest, "size": 1, "mediaType": "layer" },
                        { "digest": Digest::of(OWN), "size": 3, "mediaType": "object" },
                    ],
                });
                serde_json::from_value(value).unwrap()
            })
            .collect();
        let sources: Vec<_> =
            documents.iter().map(|document| CatalogSource { document, envelope: None }).collect();
        Catalog::build(&sources)
    }

    fn ask_for(request: &Value) -> Result<Value, (u16, String)> {
        let catalog = catalog(&[("shop", "lib")]);
        let line = catalog.lfs().line(&"shop".parse().unwrap()).unwrap();
        batch(line, request.to_string().as_bytes(), BASE)
            .map_err(|refusal| (refusal.status.as_u16(), refusal.message))
    }

    #[test]
    fn a_batch_has_a_link_or_an_error_for_each_object() {
        let (own, layer) = (Digest::of(OWN).hex(), Digest::of(b"x").hex());
        let upper = own.to_uppercase();
        let traversal = "../".repeat(20) + "etc/passwd/";
        let sizes: [(&str, i64); 7] =
            [(&own, 3), (&own, 4), (&own, -3), (&layer, 1), (&upper, 3), ("", 3), (&traversal, 3)];
        let objects: Vec<Value> =
            sizes.iter().map(|(oid, size)| json!({ "oid": oid, "size": size })).collect();
        for more in [json!({}), json!({ "transfers": ["tus"], "hash_algo": "sha256", "ref": null, "new": 1 })]
        {
            let mut request = json!({ "operation": "download", "objects": objects });
            request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let answer = ask_for(&request).unwrap();
            assert_eq!((&answer["transfer"], &answer["hash_algo"]), (&json!("basic"), &json!("sha256")));
            let answers = answer["objects"].as_array().unwrap();
            let codes: Vec<_> = answers.iter().map(|each| each["error"]["code"].as_u64()).collect();
            assert_eq!(codes, [None, Some(422), Some(422), Some(404), Some(422), Some(422), Some(422)]);
            for (answer, (oid, size)) in answers.iter().zip(sizes) {
                assert_eq!((&answer["oid"], &answer["size"]), (&json!(oid), &json!(size)));
                assert_eq!(answer.get("actions").is_some(), answer.get("error").is_none());
            }
            assert_eq!(answers[0]["actions"]["download"]["href"], format!("{BASE}/objects/{own}"));
            assert_eq!(answers[0]["authenticated"], true);
        }
    }

    #[test]
    fn a_request_that_is_no_download_of_a_few_objects_is_refused() {
        let object = json!({ "oid": Digest::of(OWN).hex(), "size": 3 });
        for (request, status, part) in [
            (json!({ "operation": "upload", "objects": [object] }), 403, "read-only"),
            (json!({ "operation": "steal", "objects": [] }), 422, "wanted operation `download`"),
            (json!({ "operation": "download", "hash_algo": "sha512", "objects": [] }), 409, "`sha256`"),
            (json!({ "operation": "download" }), 422, "objects"),
            (json!({ "operation": "download", "objects": {} }), 422, "not a batch"),
            (json!({ "operation": "download", "objects": [[]] }), 422, "not a batch"),
            (json!({ "operation": "download", "objects": [{ "oid": 1, "size": 3 }] }), 422, "not a batch"),
            (json!([]), 422, "not a batch"),
            (json!({ "operation": "download", "objects": vec![object.clone(); 1001] }), 413, "1000 objects"),
        ] {
            let (code, why) = ask_for(&request).unwrap_err();
            assert_eq!(code, status, "{request}: {why}");
            assert!(why.contains(part), "{why}");
        }
        let whole = ask_for(&json!({ "operation": "download", "objects": vec![object; 1000] })).unwrap();
        assert_eq!(whole["objects"].as_array().unwrap().len(), 1000);
        let line = LfsLine::default();
        let deep = vec![b'['; 100_000];
        for bad in [&b""[..], b"{", b"\xff", &deep, b"{}garbage"] {
            assert!(matches!(batch(&line, bad, BASE), Err(refusal) if refusal.status.is_client_error()));
        }
    }

    #[test]
    fn a_repository_has_the_objects_of_its_release_line() {
        let found = |catalog: &Catalog, name: &str| {
            Name::parse(name).map(|name| match find(catalog.lfs(), &name) {
                Ok(line) => line.object(Digest::of(OWN)).is_some(),
                Err(refusal) => {
                    assert_eq!(refusal.status, StatusCode::NOT_FOUND);
                    false
                }
            })
        };
        let one = catalog(&[("shop", "my-lib")]);
        for name in ["shop", "shop/shop", "shop/My_Lib", "My_Lib", "my-lib"] {
            assert_eq!(found(&one, name), Some(true), "{name}");
        }
        for name in ["other", "other/my-lib", "shop/other"] {
            assert_eq!(found(&one, name), Some(false), "{name}");
        }
        let two = catalog(&[("shop", "lib"), ("depot", "lib")]);
        assert_eq!(found(&two, "lib"), Some(false), "either may be meant");
        assert_eq!(found(&two, "depot/lib"), Some(true));
    }

    #[test]
    fn paths_and_methods() {
        let base = "/git/shop/lib.git/info/lfs";
        let (name, rest) = ("shop/lib", "objects/batch");
        assert_eq!(place("/git/shop/lib.git/info/lfs/objects/batch"), Some(Place { base, name, rest }));
        assert_eq!(place("/git/shop/info/lfs/locks").unwrap().name, "shop");
        for other in ["/git/shop.git/info/lfs", "/git/shop.git/info/refs", "/v2/shop/info/lfs/x", "/"] {
            assert_eq!(place(other), None, "{other}");
        }
        let own = format!("objects/{}", Digest::of(OWN).hex());
        let asked =
            |method: Method, rest: &str| ask(&method, rest).map_err(|refusal| refusal.status.as_u16());
        assert_eq!(asked(Method::POST, "objects/batch"), Ok(Ask::Batch));
        assert_eq!(asked(Method::HEAD, &own), Ok(Ask::Object(Digest::of(OWN))));
        for (method, rest, status) in [
            (Method::GET, "objects/batch", 405),
            (Method::PUT, &*own, 403),
            (Method::DELETE, &own, 403),
            (Method::OPTIONS, &own, 405),
            (Method::GET, "objects/../../x", 422),
            (Method::GET, "objects/", 422),
            (Method::POST, "locks/verify", 404),
            (Method::GET, "locks", 404),
            (Method::POST, "locks", 403),
            (Method::POST, "locks/1/unlock", 403),
            (Method::GET, "", 404),
            (Method::GET, "config", 404),
        ] {
            assert_eq!(asked(method, rest).unwrap_err(), status, "{rest}");
        }
    }

    #[test]
    fn links_name_the_server_as_the_client_did() {
        let parts = |hosts: &[&str]| {
            let mut request = http::Request::builder().uri("/x");
            for host in hosts {
                request = request.header(header::HOST, *host);
            }
            origin(&request.body(()).unwrap().into_parts().0, "http").map_err(|refusal| refusal.status)
        };
        assert_eq!(parts(&["site:5050"]).unwrap(), "http://site:5050");
        assert_eq!(parts(&["[::1]:5050"]).unwrap(), "http://[::1]:5050");
        for bad in [&[][..], &["a", "b"], &["u@a"], &["a/b"], &["a\"b"], &[""]] {
            assert_eq!(parts(bad).unwrap_err(), StatusCode::BAD_REQUEST, "{bad:?}");
        }
    }
}
