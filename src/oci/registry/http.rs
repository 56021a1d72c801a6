//! Requests to one registry: TLS, redirects, logins, bounds and retries.
//!
//! Redirects are followed here and not by the HTTP library, because what may be followed, and what
//! may be said to whom, is decided here: a login goes to the origin that asked for it and nowhere
//! else, and nothing leads from TLS to plain text.

use std::collections::HashMap;
use std::error::Error as _;
use std::fmt::Write as _;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RANGE, WWW_AUTHENTICATE,
};
use reqwest::{Client, Method, Response, StatusCode, Url};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use super::challenge;
use super::payload::Payload;
use super::retry::{RetryPolicy, retry_after};
use super::token::{self, LoginState};
use crate::fsio::limits;
use crate::model::Progress;
use crate::oci::credentials::Credentials;
use crate::oci::error::{OciError, Result, readable};
use crate::oci::files::read_bounded;
use crate::oci::manifest::looks_like_html;
use crate::oci::registries_conf::is_loopback;

/// Redirects that are followed for one request.
const REDIRECTS: usize = 8;

/// A failed attempt.
pub(super) struct Failure {
    pub error: OciError,
    /// Whether another attempt may go better.
    pub transient: bool,
    /// How long the registry asked to wait.
    pub retry_after: Option<Duration>,
}

impl From<OciError> for Failure {
    fn from(error: OciError) -> Self {
        Self { error, transient: false, retry_after: None }
    }
}

impl Failure {
    pub fn transient(error: OciError) -> Self {
        Self { error, transient: true, retry_after: None }
    }
}

/// One registry, under one way of speaking to it.
pub(super) struct Host {
    /// The name that references and configuration use.
    pub name: String,
    /// Whether TLS may be unchecked or missing.
    pub insecure: bool,
    /// The address that answered.
    base: OnceCell<Url>,
    /// Requests in flight are bounded.
    permits: Arc<Semaphore>,
    /// Why it was given up, once it was.
    down: Mutex<Option<String>>,
    /// Logins by repository and what they allow.
    logins: Mutex<HashMap<String, Arc<LoginState>>>,
}

impl Host {
    /// Why the host was given up, if it was.
    pub fn given_up(&self) -> Option<String> {
        locked(&self.down).clone()
    }

    /// Remembers that the host never answered, so that nobody waits for it again where there are
    /// other places.
    pub fn give_up(&self, error: &OciError) {
        if let OciError::Unreachable { why, .. } = error {
            *locked(&self.down) = Some(why.clone());
        }
    }

    fn login(&self, repository: &str, access: Access<'_>) -> Arc<LoginState> {
        // No repository's name holds a space.
        let key = match access {
            Access::Pull => repository.to_owned(),
            Access::Push { from: None } => format!("{repository} push"),
            Access::Push { from: Some(from) } => format!("{repository} push {from}"),
        };
        Arc::clone(locked(&self.logins).entry(key).or_default())
    }
}

/// The lock, whatever happened to another holder: what it guards is whole at every step.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a login must allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access<'a> {
    /// Reading the repository.
    Pull,
    /// Writing it as well, and reading another one, where a blob comes from there.
    Push { from: Option<&'a str> },
}

/// What to ask a registry for.
pub(super) struct Ask<'a> {
    pub host: &'a Arc<Host>,
    pub repository: &'a str,
    pub method: Method,
    /// Below `/v2/REPOSITORY/`, or a whole path with query from a `Link` header.
    pub path: &'a str,
    /// In place of the path: where the registry said that an upload goes on. It may be another host.
    pub url: Option<&'a Url>,
    pub access: Access<'a>,
    pub payload: Option<&'a Payload>,
    pub accept: Option<&'static str>,
    /// First byte wanted, where it is not the first of all.
    pub offset: u64,
    /// For people.
    pub what: &'a str,
}

/// The head of an answer, its body still to come.
pub(super) struct Answer {
    response: Response,
    /// The host that answered at last, for people.
    pub from: String,
    _permit: Option<OwnedSemaphorePermit>,
}

/// Everything that requests share.
pub(super) struct Transport {
    pub policy: RetryPolicy,
    pub credentials: Credentials,
    pub progress: Arc<dyn Progress>,
    /// Folders that hold `HOST/ca.crt` and the like (containers-certs.d(5)).
    pub certs_dirs: Vec<PathBuf>,
    pub per_host: usize,
    pub clients: Mutex<HashMap<(String, bool), Client>>,
    pub hosts: Mutex<HashMap<(String, bool), Arc<Host>>>,
}

impl Transport {
    /// The registry `name`.
    pub fn host(&self, name: &str, insecure: bool) -> Arc<Host> {
        let make = || {
            Arc::new(Host {
                name: name.to_owned(),
                insecure,
                base: OnceCell::new(),
                permits: Arc::new(Semaphore::new(self.per_host.max(1))),
                down: Mutex::new(None),
                logins: Mutex::new(HashMap::new()),
            })
        };
        Arc::clone(locked(&self.hosts).entry((name.to_owned(), insecure)).or_insert_with(make))
    }

    /// Does `once` until it succeeds, fails for good, or has failed often enough.
    pub async fn retrying<T, F: Future<Output = std::result::Result<T, Failure>>>(
        &self,
        host: &Host,
        attempts: u32,
        mut once: impl FnMut() -> F,
    ) -> Result<T> {
        let mut attempt = 1;
        loop {
            match once().await {
                Ok(value) => return Ok(value),
                Err(failure) => {
                    if !self.wait(&failure, attempt, attempts).await {
                        host.give_up(&failure.error);
                        return Err(failure.error);
                    }
                    attempt += 1;
                }
            }
        }
    }

    /// Waits before the next attempt, if there is to be one.
    pub async fn wait(&self, failure: &Failure, attempt: u32, attempts: u32) -> bool {
        if !failure.transient || attempt >= attempts {
            return false;
        }
        let delay = self.policy.delay(attempt, failure.retry_after);
        self.progress.note(format!(
            "{}; attempt {} of {attempts} in {:.1} s",
            failure.error,
            attempt + 1,
            delay.as_secs_f64()
        ));
        tokio::time::sleep(delay).await;
        true
    }

    /// Asks, following redirects and logging in where the registry wants that. Any status but
    /// 401 is the caller's to judge.
    pub async fn send(&self, ask: &Ask<'_>) -> std::result::Result<Answer, Failure> {
        let permit = Arc::clone(&ask.host.permits).acquire_owned().await.ok();
        let base = self.base(ask.host, ask.what).await?;
        let path = if ask.path.starts_with('/') {
            ask.path.to_owned()
        } else {
            format!("/v2/{}/{}", ask.repository, ask.path)
        };
        let url = base.join(&path).map_err(|error| OciError::Protocol {
            host: ask.host.name.clone(),
            what: ask.what.to_owned(),
            why: format!("`{}` is no address: {error}", readable(&path)),
        })?;
        if url.origin() != base.origin() {
            return Err(redirect_error(ask.host, ask.what, &url, "the next page lies on another host").into());
        }
        let url = ask.url.cloned().unwrap_or(url);
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(accept) = ask.accept {
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
        }
        if ask.offset > 0
            && let Ok(value) = HeaderValue::from_str(&format!("bytes={}-", ask.offset))
        {
            headers.insert(RANGE, value);
        }
        let login = ask.host.login(ask.repository, ask.access);
        let used = login.current().filter(|_| url.origin() == base.origin());
        let mut response = self.follow(ask, &url, &headers, used.as_ref()).await?;
        if response.status() == StatusCode::UNAUTHORIZED && response.url().origin() == base.origin() {
            let challenges: Vec<_> = response
                .headers()
                .get_all(WWW_AUTHENTICATE)
                .iter()
                .filter_map(|value| value.to_str().ok())
                .flat_map(challenge::parse)
                .collect();
            if !challenges.is_empty() {
                let fresh = token::obtain(self, ask, &base, &login, used.as_ref(), &challenges).await?;
                response = self.follow(ask, &url, &headers, Some(&fresh)).await?;
            }
        }
        let from = match authority(response.url()) {
            answered if response.url().origin() != base.origin() => answered,
            _ => ask.host.name.clone(),
        };
        if response.headers().get("content-encoding").is_some_and(|value| value != "identity") {
            return Err(OciError::Protocol {
                host: from,
                what: ask.what.to_owned(),
                why: "the body has a Content-Encoding that nobody asked for".to_owned(),
            }
            .into());
        }
        Ok(Answer { response, from, _permit: permit })
    }

    /// Where the registry answers: TLS, or for an insecure one whatever answers first.
    pub async fn base(&self, host: &Host, what: &str) -> std::result::Result<Url, Failure> {
        let name = if host.name == "docker.io" { "registry-1.docker.io" } else { &host.name };
        let address = |scheme: &str| {
            Url::parse(&format!("{scheme}://{name}/")).map_err(|error| OciError::Unreachable {
                host: host.name.clone(),
                what: what.to_owned(),
                why: format!("not an address: {error}"),
            })
        };
        let find = async {
            let secure = address("https")?;
            if !host.insecure {
                return Ok::<_, Failure>(secure);
            }
            let mut whys = Vec::new();
            for url in [secure, address("http")?] {
                let ping = url.join("/v2/").unwrap_or_else(|_| url.clone());
                match self.exchange(host, what, &Method::GET, &ping, &HeaderMap::new(), None, None).await {
                    Ok(_) => return Ok(url),
                    Err(Failure { error: OciError::Unreachable { why, .. }, .. }) => {
                        whys.push(format!("over {}: {why}", url.scheme()));
                    }
                    Err(failure) => return Err(failure),
                }
            }
            Err(Failure::transient(OciError::Unreachable {
                host: host.name.clone(),
                what: what.to_owned(),
                why: whys.join("; "),
            }))
        };
        host.base.get_or_try_init(|| find).await.cloned()
    }

    /// One request and the redirects that it leads to. The login goes to the first origin only.
    pub async fn follow(
        &self,
        ask: &Ask<'_>,
        url: &Url,
        headers: &HeaderMap,
        login: Option<&HeaderValue>,
    ) -> std::result::Result<Response, Failure> {
        let mut at = url.clone();
        for _ in 0..=REDIRECTS {
            let login = login.filter(|_| at.origin() == url.origin());
            let response =
                self.exchange(ask.host, ask.what, &ask.method, &at, headers, login, ask.payload).await?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let Some(target) = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()) else {
                return Ok(response);
            };
            let next = at.join(target).map_err(|error| OciError::Protocol {
                host: ask.host.name.clone(),
                what: ask.what.to_owned(),
                why: format!("it redirects to `{}`, which is no address: {error}", readable(target)),
            })?;
            let refuse = |why| redirect_error(ask.host, ask.what, &next, why);
            match next.scheme() {
                "https" => {}
                "http" if at.scheme() == "http" || ask.host.insecure => {}
                "http" => return Err(refuse("from TLS to plain HTTP").into()),
                _ => return Err(refuse("neither HTTP nor HTTPS").into()),
            }
            at = next;
        }
        Err(redirect_error(ask.host, ask.what, &at, "more than 8 redirects").into())
    }

    /// One request, and the head of its answer.
    #[expect(clippy::too_many_arguments, reason = "all of a request; a struct would only name them again")]
    pub async fn exchange(
        &self,
        host: &Host,
        what: &str,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        login: Option<&HeaderValue>,
        payload: Option<&Payload>,
    ) -> std::result::Result<Response, Failure> {
        let authority = authority(url);
        // `docker.io` answers under another name, and its certificates are configured under its own.
        let own = authority == host.name || host.name == "docker.io" && authority == "registry-1.docker.io";
        let name = if own { host.name.clone() } else { authority };
        let client = self.client(&name, host.insecure)?;
        let mut headers = headers.clone();
        let body = payload.map(|payload| payload.make(&mut headers));
        let mut request = client.request(method.clone(), url.clone()).headers(headers);
        if let Some(body) = body {
            request = request.body(body);
        }
        if let Some(login) = login {
            request = request.header(AUTHORIZATION, login.clone());
        }
        let limit = self.policy.stall.saturating_add(self.policy.connect);
        let done = match payload {
            Some(payload) => payload.watch(&self.policy, request.send()).await,
            None => tokio::time::timeout(limit, request.send()).await.ok(),
        };
        match done {
            Some(Ok(response)) => Ok(response),
            Some(Err(error)) => Err(transport_failure(&name, what, &error)),
            None => Err(Failure::transient(OciError::Unreachable {
                host: name,
                what: what.to_owned(),
                why: match payload {
                    Some(Payload::Part(_)) => {
                        format!("it took no bytes and gave no answer for {:.1} s", limit.as_secs_f64())
                    }
                    _ => format!("no answer within {:.1} s", self.policy.stall.as_secs_f64()),
                },
            })),
        }
    }

    /// The HTTP client for a host. Hosts without certificates of their own share one, and with it
    /// its pool of connections.
    pub fn client(&self, host: &str, insecure: bool) -> Result<Client> {
        let own: Option<&PathBuf> =
            self.certs_dirs.iter().find(|folder| !host.starts_with('.') && folder.join(host).is_dir());
        let loopback = is_loopback(host);
        let key = match (own, loopback) {
            (Some(_), _) => host,
            (None, true) => "loopback",
            (None, false) => "",
        };
        let key = (key.to_owned(), insecure);
        let mut clients = locked(&self.clients);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let mut builder = Client::builder()
            // gix brings HTTP/2 into the build; its one connection for everything is slower for large blobs.
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(self.policy.connect)
            .pool_idle_timeout(Duration::from_secs(30))
            .referer(false)
            .user_agent(concat!("fleetpack/", env!("CARGO_PKG_VERSION")));
        if insecure {
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        if loopback {
            // No proxy stands between a machine and itself, whatever the environment says.
            builder = builder.no_proxy();
        }
        if let Some(folder) = own {
            builder = with_certificates(builder, &folder.join(host))?;
        }
        let client = builder.build().map_err(|error| OciError::Unreachable {
            host: host.to_owned(),
            what: "any request".to_owned(),
            why: format!("TLS cannot be set up: {}", chain(&error)),
        })?;
        clients.insert(key, client.clone());
        Ok(client)
    }
}

/// Host and port of an address, as references write them.
fn authority(url: &Url) -> String {
    let name = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"))
}

pub(super) fn redirect_error(host: &Host, what: &str, target: &Url, why: &'static str) -> OciError {
    OciError::Redirect {
        host: host.name.clone(),
        what: what.to_owned(),
        // Queries of redirects hold signatures: they are not shown.
        target: readable(&target.origin().ascii_serialization()),
        why,
    }
}

/// Adds `*.crt` (authorities) and `*.cert` with `*.key` (our own certificate) of `folder`.
fn with_certificates(mut builder: reqwest::ClientBuilder, folder: &Path) -> Result<reqwest::ClientBuilder> {
    let io = |source| OciError::Io { path: folder.to_owned(), source };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        paths.push(entry.map_err(io)?.path());
    }
    paths.sort();
    for path in paths {
        let wrong = |error: reqwest::Error| OciError::Config { path: path.clone(), why: chain(&error) };
        let read =
            |path: &Path| Ok::<_, OciError>(read_bounded(path, limits::CONFIG_FILE)?.unwrap_or_default());
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => {
                let authorities = reqwest::Certificate::from_pem_bundle(&read(&path)?).map_err(wrong)?;
                builder = builder.tls_certs_merge(authorities);
            }
            Some("cert") => {
                let mut both = read(&path)?;
                both.push(b'\n');
                both.extend(read(&path.with_extension("key"))?);
                builder = builder.identity(reqwest::Identity::from_pem(&both).map_err(wrong)?);
            }
            _ => {}
        }
    }
    Ok(builder)
}

/// An error with its causes on one line. Addresses are left out: they may hold signatures.
pub(super) fn chain(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        // Many layers repeat what lies below them.
        if !text.contains(&words) {
            let _ = write!(text, "{}{words}", if text.is_empty() { "" } else { ": " });
        }
        cause = error.source();
    }
    if text.is_empty() {
        text = if error.is_timeout() { "timed out".to_owned() } else { "the connection failed".to_owned() };
    }
    readable(&text)
}

/// What the HTTP library's error means.
pub(super) fn transport_failure(host: &str, what: &str, error: &reqwest::Error) -> Failure {
    let why = chain(error);
    // The library hides the TLS error's type. A certificate does not become valid by asking again;
    // should the words ever change, the only harm is that it is asked again.
    let permanent = error.is_builder() || why.contains("certificate");
    let error = OciError::Unreachable { host: host.to_owned(), what: what.to_owned(), why };
    Failure { error, transient: !permanent, retry_after: None }
}

impl Answer {
    /// An answer that takes no place among those in flight.
    pub fn bare(response: Response, from: &str) -> Self {
        Self { response, from: from.to_owned(), _permit: None }
    }

    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// What `Content-Length` says.
    pub fn length(&self) -> Option<u64> {
        self.header("content-length").and_then(|text| text.parse().ok())
    }

    /// Whether a web page comes instead of an answer.
    pub fn is_html(&self) -> bool {
        looks_like_html(self.header("content-type"), &[])
    }

    /// The next bytes of the body.
    pub async fn chunk(&mut self) -> reqwest::Result<Option<Bytes>> {
        self.response.chunk().await
    }

    /// The whole of a small body.
    pub async fn small(
        &mut self,
        what: &str,
        limit: u64,
        policy: &RetryPolicy,
    ) -> std::result::Result<Bytes, Failure> {
        let too_large =
            || OciError::TooLarge { what: what.to_owned(), from: format!("`{}`", self.from), limit };
        let promised = self.length();
        if promised.is_some_and(|length| length > limit) {
            return Err(too_large().into());
        }
        let too_large = too_large();
        let from = self.from.clone();
        let mut body = BytesMut::new();
        let read = async {
            while let Some(chunk) =
                self.chunk().await.map_err(|error| transport_failure(&from, what, &error))?
            {
                if (body.len() + chunk.len()) as u64 > limit {
                    return Err(Failure::from(too_large));
                }
                body.extend_from_slice(&chunk);
            }
            Ok(())
        };
        match tokio::time::timeout(policy.small_body, read).await {
            Ok(done) => done?,
            Err(_) => {
                return Err(Failure::transient(OciError::Stalled {
                    host: from,
                    what: what.to_owned(),
                    got: body.len() as u64,
                    seconds: policy.small_body.as_secs_f64(),
                    floor: promised.unwrap_or(body.len() as u64 + 1),
                }));
            }
        }
        Ok(body.freeze())
    }

    /// The failure that an answer of this status is.
    pub async fn failure(mut self, ask: &Ask<'_>, transport: &Transport, label: &str) -> Failure {
        let status = self.status();
        let what = ask.what.to_owned();
        let wait = self.header("retry-after").and_then(|text| retry_after(text, jiff::Timestamp::now()));
        let html = self.is_html();
        // The words of an error are a courtesy: when they do not come, the status has to do.
        let body = match ask.method {
            Method::HEAD => Bytes::new(),
            _ => self.small(ask.what, limits::HTTP_SMALL_BODY, &transport.policy).await.unwrap_or_default(),
        };
        let words = error_words(&body);
        let said = if words.is_empty() { status.to_string() } else { format!("{status} ({words})") };
        let host = self.from.clone();
        let error = match status.as_u16() {
            404 => OciError::NotFound { what, places: vec![format!("{label} says {said}")] },
            401 | 403 => {
                let found = transport.credentials.find(&ask.host.name, ask.repository).await;
                OciError::Credentials {
                    host: ask.host.name.clone(),
                    repository: ask.repository.to_owned(),
                    what,
                    said,
                    looked: found.looked,
                }
            }
            code if html && code < 500 && code != 429 => {
                OciError::Html { host, what, status: code, wanted: "what a registry answers" }
            }
            code => OciError::Status { host, what, status: code, said },
        };
        // 501 and 507: what it cannot do, and a disk that is full.
        let transient =
            matches!(status.as_u16(), 408 | 425 | 429 | 500..=599) && !matches!(status.as_u16(), 501 | 507);
        Failure { error, transient, retry_after: wait }
    }
}

/// The words in a registry's error (OCI Distribution Specification, "Error Codes"), or the first
/// line of whatever came.
fn error_words(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<Words>,
    }
    #[derive(serde::Deserialize)]
    struct Words {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    if let Ok(found) = serde_json::from_slice::<Errors>(body) {
        let words = found.errors.iter().map(|e| format!("{}: {}", e.code, e.message)).collect::<Vec<_>>();
        return readable(&words.join("; "));
    }
    if looks_like_html(None, body) {
        return "an HTML page".to_owned();
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(300)]);
    readable(text.lines().next().unwrap_or_default())
}
