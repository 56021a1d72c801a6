//! Requests to one API server: bounded, timed, retried.
//!
//! Objects travel as JSON values, never through typed structs: what a manifest says and this
//! crate does not know reaches the server all the same.

use std::error::Error as _;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Request, header};
use http_body_util::{BodyExt as _, Limited};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Status;
use kube::core::response::StatusDetails;
use serde_json::Value;

use super::ApplyError;
use super::retry::{LONGEST_ASKED, Pauses, Weather};
use crate::fsio::{Step, limits, pass};
use crate::model::Progress;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// How long one answer may take: an admission webhook may take 30 s.
const ANSWER: Duration = Duration::from_mins(1);
/// How long it may take where the caller has little patience.
const QUICK_ANSWER: Duration = Duration::from_secs(10);
/// Warnings of one answer that are kept.
const WARNINGS: usize = 8;

/// Which cluster to use. The command line reads the environment and passes it as values.
#[derive(Debug, Clone, Default)]
pub struct ClusterTarget {
    /// A kubeconfig, or several in the form of `KUBECONFIG`, merged as kubectl merges them.
    /// Absent: the service account of the pod that fleetpack runs in.
    pub kubeconfig: Option<PathBuf>,
    /// The context to use instead of the kubeconfig's current one.
    pub context: Option<String>,
}

/// A connection to a cluster whose API server has answered.
#[derive(Clone)]
pub struct Cluster {
    client: kube::Client,
    url: String,
    server: String,
    default_namespace: String,
    weather: Weather,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("url", &self.url)
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

/// Connects, and asks the server for its version: who gets a [`Cluster`] knows that it answers.
///
/// # Errors
///
/// When the configuration cannot be read, or the server does not answer, is not the one that the
/// configuration trusts, or does not accept the credentials. Nothing is tried twice for longer
/// than a moment: a person waits.
pub async fn connect(target: &ClusterTarget) -> Result<Cluster, ApplyError> {
    let (mut config, tried) = config(target).await?;
    config.connect_timeout = Some(CONNECT);
    // Tries are counted and bounded in one place: here.
    config.default_retry = false;
    let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let default_namespace = config.default_namespace.clone();
    let client =
        kube::Client::try_from(config).map_err(|error| ApplyError::Config { tried, why: chain(&error) })?;
    let mut cluster =
        Cluster { client, url, server: String::new(), default_namespace, weather: Weather::default() };
    let version = cluster.call(&Call::get("/version"), Duration::from_secs(2)).await;
    let version = version.map_err(|error| cluster.explain("read the server's version", error))?;
    let Some(server) = version.value["gitVersion"].as_str() else {
        return Err(ApplyError::Answer {
            what: "read the server's version".into(),
            why: "has no `gitVersion`: is this an API server of Kubernetes?".into(),
        });
    };
    cluster.server = server.chars().take(100).collect();
    Ok(cluster)
}

async fn config(target: &ClusterTarget) -> Result<(kube::Config, String), ApplyError> {
    let Some(list) = &target.kubeconfig else {
        // The library reads the two variables that the kubelet sets for every pod.
        let tried = "the service account of the pod (no kubeconfig was given)".to_owned();
        return match kube::Config::incluster() {
            Ok(config) => Ok((config, tried)),
            Err(error) => Err(ApplyError::Config { tried, why: chain(&error) }),
        };
    };
    let mut tried = format!("kubeconfig `{}`", list.display());
    let fail = |tried: &str, why: String| ApplyError::Config { tried: tried.to_owned(), why };
    let paths: Vec<_> = if list.exists() {
        vec![list.clone()]
    } else {
        // As kubectl does it: of a list, files that are not there are passed over.
        std::env::split_paths(list).filter(|path| path.exists()).collect()
    };
    if paths.is_empty() {
        return Err(fail(&tried, "there is no such file".into()));
    }
    let mut merged = Kubeconfig::default();
    for path in paths {
        let size = std::fs::metadata(&path).map_err(|error| fail(&tried, error.to_string()))?.len();
        if size > limits::CONFIG_FILE {
            let limit = limits::CONFIG_FILE;
            return Err(fail(&tried, format!("{size} bytes, wanted at most {limit}")));
        }
        merged = Kubeconfig::read_from(&path)
            .and_then(|next| merged.merge(next))
            .map_err(|error| fail(&tried, chain(&error)))?;
    }
    let own_proxy = merged.clusters.iter().any(|named| {
        named
            .cluster
            .as_ref()
            .is_some_and(|cluster| cluster.proxy_url.as_ref().is_some_and(|url| !url.is_empty()))
    });
    if let Some(context) = &target.context {
        tried = format!("context `{context}` of {tried}");
        if !merged.contexts.iter().any(|named| named.name == *context) {
            let names: Vec<_> = merged.contexts.iter().map(|named| format!("`{}`", named.name)).collect();
            return Err(fail(
                &tried,
                format!("there is no such context, wanted one of {}", names.join(", ")),
            ));
        }
    }
    let options = KubeConfigOptions { context: target.context.clone(), ..Default::default() };
    let mut config = kube::Config::from_custom_kubeconfig(merged, &options)
        .await
        .map_err(|error| fail(&tried, chain(&error)))?;
    if !own_proxy {
        // The library also takes a proxy from the environment; the site calls nobody.
        config.proxy_url = None;
    }
    Ok((config, tried))
}

/// One request.
#[derive(Debug, Clone)]
pub(super) struct Call {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    content_type: &'static str,
    accept: &'static str,
    body: Vec<u8>,
}

impl Call {
    fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            query: Vec::new(),
            content_type: "application/json",
            accept: "application/json",
            body: Vec::new(),
        }
    }

    pub(super) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// A server-side apply (Kubernetes API, "Server-Side Apply") of `object`.
    pub(super) fn apply(path: impl Into<String>, object: &Value, force: bool, dry_run: bool) -> Self {
        let mut call = Self::new(Method::PATCH, path).query("fieldManager", super::FIELD_MANAGER);
        if force {
            call = call.query("force", "true");
        }
        if dry_run {
            call = call.query("dryRun", "All");
        }
        // JSON is YAML: the media type has no JSON form that every server version knows.
        call.content_type = "application/apply-patch+yaml";
        call.body = object.to_string().into_bytes();
        call
    }

    /// A merge patch (RFC 7386).
    pub(super) fn merge(path: impl Into<String>, changes: &Value) -> Self {
        let mut call = Self::new(Method::PATCH, path).query("fieldManager", super::FIELD_MANAGER);
        call.content_type = "application/merge-patch+json";
        call.body = changes.to_string().into_bytes();
        call
    }

    pub(super) fn delete(path: impl Into<String>, options: &Value) -> Self {
        let mut call = Self::new(Method::DELETE, path);
        call.body = options.to_string().into_bytes();
        call
    }

    pub(super) fn query(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.query.push((key, value.into()));
        self
    }

    pub(super) fn accept(mut self, media_types: &'static str) -> Self {
        self.accept = media_types;
        self
    }

    /// Whether it changes the cluster: neither a question nor a dry run.
    fn changes(&self) -> bool {
        self.method != Method::GET && !self.query.iter().any(|(key, _)| *key == "dryRun")
    }

    /// What the call is about, for who listens at the failpoints.
    fn described(&self) -> PathBuf {
        PathBuf::from(format!("{} {}", self.method, self.path))
    }

    fn request(&self) -> Result<Request<Body>, http::Error> {
        let mut uri = self.path.clone();
        for (at, (key, value)) in self.query.iter().enumerate() {
            uri.push(if at == 0 { '?' } else { '&' });
            uri.push_str(key);
            uri.push('=');
            uri.push_str(&encode(value));
        }
        Request::builder()
            .method(self.method.clone())
            .uri(uri)
            .header(header::ACCEPT, self.accept)
            .header(header::CONTENT_TYPE, self.content_type)
            .header(header::USER_AGENT, concat!("fleetpack/", env!("CARGO_PKG_VERSION")))
            .body(Body::from(self.body.clone()))
    }
}

/// Percent-encodes all but the characters that mean themselves everywhere (RFC 3986, 2.3), and
/// `:`, which stands in names of RBAC objects.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// A good answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) value: Value,
    /// Text of the `Warning` headers.
    pub(super) warnings: Vec<String>,
}

/// Why a call failed, before anybody says what it was for.
#[derive(Debug)]
pub(super) enum CallError {
    /// The server answered with a failure.
    Status(Box<Status>),
    /// No answer came.
    Transport(String),
    /// The server is not the trusted one, or the credentials cannot be used: trying again is
    /// no use.
    Certificate(String),
    /// The answer cannot be used.
    Answer(String),
}

impl CallError {
    /// The HTTP status, 0 where there was none.
    pub(super) fn code(&self) -> u16 {
        if let Self::Status(status) = self { status.code } else { 0 }
    }

    pub(super) fn is_not_found(&self) -> bool {
        self.code() == 404
    }

    /// Whether another field manager owns a field that the call would change.
    pub(super) fn field_conflicts(&self) -> Vec<(String, String)> {
        let Self::Status(status) = self else { return Vec::new() };
        let causes = status.details.iter().flat_map(|details| &details.causes);
        causes
            .filter(|cause| cause.reason == "FieldManagerConflict")
            .map(|cause| (cause.message.clone(), cause.field.clone()))
            .collect()
    }

    /// Whether the same call may succeed a moment later.
    fn is_passing(&self) -> bool {
        match self {
            Self::Transport(_) => true,
            // 500 without a reason is the server's word for a patch that does not fit the
            // schema; with one it is trouble of the server or of a webhook.
            Self::Status(status) if status.code == 500 => !status.reason.is_empty(),
            Self::Status(status) if status.code == 409 => {
                status.reason == "Conflict" && self.field_conflicts().is_empty() && !is_precondition(status)
            }
            Self::Status(status) => matches!(status.code, 408 | 429 | 502 | 503 | 504),
            Self::Certificate(_) | Self::Answer(_) => false,
        }
    }

    /// What the server asks to wait.
    fn wanted_pause(&self) -> Option<Duration> {
        let Self::Status(status) = self else { return None };
        let seconds = status.details.as_ref()?.retry_after_seconds;
        (seconds > 0).then(|| Duration::from_secs(seconds.into()).min(LONGEST_ASKED))
    }

    /// What the server says, for people: bounded, with the fields it names.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Status(status) => {
                let causes =
                    status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
                if status.code == 422 && !causes.is_empty() {
                    let mut parts: Vec<_> = causes
                        .iter()
                        .take(5)
                        .map(|cause| format!("`{}`: {}", shorten(&cause.field), shorten(&cause.message)))
                        .collect();
                    if causes.len() > 5 {
                        parts.push(format!("and {} more", causes.len() - 5));
                    }
                    parts.join("; ")
                } else if status.message.is_empty() {
                    format!("{} (without a message)", status.reason)
                } else {
                    shorten(&status.message)
                }
            }
            Self::Transport(why) | Self::Certificate(why) | Self::Answer(why) => why.clone(),
        }
    }
}

/// Keeps the beginning and the end: servers put whole objects between the two.
pub(super) fn shorten(text: &str) -> String {
    let clean = text.trim().replace(['\n', '\r', '\t'], " ");
    let characters: Vec<char> = clean.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if characters.len() <= 400 {
        return characters.into_iter().collect();
    }
    let head: String = characters[..200].iter().collect();
    let tail: String = characters[characters.len() - 150..].iter().collect();
    format!("{head} … {tail}")
}

/// All causes of an error in one line, each said once, and not at any length.
fn chain(error: &dyn std::error::Error) -> String {
    shorten(&crate::model::chain(error))
}

fn transport(error: &kube::Error) -> CallError {
    // The library's own words for its layers say nothing to a person.
    let why = match error {
        kube::Error::Service(inner) => chain(&**inner),
        _ => error.source().map_or_else(|| chain(error), chain),
    };
    match error {
        kube::Error::Auth(_) | kube::Error::RustlsTls(_) => CallError::Certificate(why),
        _ if is_certificate(error) => CallError::Certificate(why),
        _ => CallError::Transport(why),
    }
}

/// Whether the TLS library did not like the other side's certificate. Its error type is not ours
/// to name, since the crate does not depend on it: it travels inside an I/O error of this kind,
/// and those that concern certificates say so.
fn is_certificate(error: &(dyn std::error::Error + 'static)) -> bool {
    let inner = error.downcast_ref::<std::io::Error>().is_some_and(|io| {
        (io.kind() == std::io::ErrorKind::InvalidData && io.to_string().contains("certificate"))
            || io.get_ref().is_some_and(|inner| is_certificate(inner))
    });
    inner || error.source().is_some_and(is_certificate)
}

impl Cluster {
    /// The same cluster, whose passing trouble is told to `sink` while it is waited out.
    #[must_use]
    pub fn telling(self, sink: Arc<dyn Progress>) -> Self {
        Self { weather: Weather::telling(sink), ..self }
    }

    /// Address of the API server.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Version of the API server, as it says it: `v1.36.1`.
    #[must_use]
    pub fn server_version(&self) -> &str {
        &self.server
    }

    /// The namespace of objects that name none: the context's, else `default`.
    #[must_use]
    pub fn default_namespace(&self) -> &str {
        &self.default_namespace
    }

    /// One call, tried again for up to `patience` while the failure is a passing one.
    pub(super) async fn call(&self, call: &Call, patience: Duration) -> Result<Answer, CallError> {
        self.call_unless(call, patience, |_| false).await
    }

    /// The same, but a failure that `is_enough` takes ends it although it may pass.
    pub(super) async fn call_unless(
        &self,
        call: &Call,
        patience: Duration,
        is_enough: impl Fn(&CallError) -> bool + Send,
    ) -> Result<Answer, CallError> {
        let limit = if patience < QUICK_ANSWER { QUICK_ANSWER } else { ANSWER };
        let mut pauses = Pauses::new(patience);
        loop {
            let error = match self.once(call, limit).await {
                Ok(answer) => {
                    self.weather.good();
                    return Ok(answer);
                }
                Err(error) => error,
            };
            if !error.is_passing() || is_enough(&error) {
                return Err(error);
            }
            let Some(pause) = pauses.next(error.wanted_pause()) else { return Err(error) };
            self.weather.bad(|| self.says(call, &error), pauses.waited() + pause, patience);
            tokio::time::sleep(pause).await;
        }
    }

    /// `the API server at `URL` answered 429 to PATCH /api/v1/…: too many requests`.
    fn says(&self, call: &Call, error: &CallError) -> String {
        let how = match error.code() {
            0 => "does not answer".to_owned(),
            code => format!("answered {code} to"),
        };
        let (method, path) = (&call.method, shorten(&call.path));
        format!("the API server at `{}` {how} {method} {path}: {}", self.url, error.text())
    }

    /// Like [`Self::call`], with text as the answer: a container's log.
    pub(super) async fn text(&self, call: &Call, patience: Duration) -> Result<String, CallError> {
        match self.call(call, patience).await?.value {
            Value::String(text) => Ok(text),
            other => Ok(other.to_string()),
        }
    }

    async fn once(&self, call: &Call, limit: Duration) -> Result<Answer, CallError> {
        let failed = |error: std::io::Error| CallError::Answer(error.to_string());
        if call.changes() {
            pass(Step::ClusterCall, &call.described()).map_err(failed)?;
        }
        let result = match tokio::time::timeout(limit, self.exchange(call)).await {
            Ok(result) => result,
            Err(_) => Err(CallError::Transport(format!("no answer within {} s", limit.as_secs()))),
        };
        if call.changes() {
            pass(Step::ClusterAnswer, &call.described()).map_err(failed)?;
        }
        result
    }

    async fn exchange(&self, call: &Call) -> Result<Answer, CallError> {
        let request =
            call.request().map_err(|error| CallError::Answer(format!("was not asked for: {error}")))?;
        let response = self.client.send(request).await.map_err(|error| transport(&error))?;
        let code = response.status();
        let warnings = response.headers().get_all(header::WARNING);
        let warnings = warnings.iter().take(WARNINGS).filter_map(warning).collect();
        let asked = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        // A date is possible too, but no API server and no proxy before one sends it.
        let asked: Option<u32> = asked.and_then(|seconds| seconds.trim().parse().ok());
        let plain = response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
        let limit = usize::try_from(limits::API_ANSWER).unwrap_or(usize::MAX);
        let body = Limited::new(response.into_body(), limit).collect().await.map_err(|error| {
            if error.downcast_ref::<http_body_util::LengthLimitError>().is_some() {
                CallError::Answer(format!("is longer than {} bytes", limits::API_ANSWER))
            } else {
                CallError::Transport(format!("the answer was cut off: {}", chain(&*error)))
            }
        })?;
        let bytes = body.to_bytes();
        if code.is_client_error() || code.is_server_error() {
            let mut status = serde_json::from_slice::<Status>(&bytes).unwrap_or_else(|_| {
                let text = String::from_utf8_lossy(&bytes[..bytes.len().min(400)]);
                Status::failure(text.trim(), "")
            });
            status.code = code.as_u16();
            if let Some(seconds) = asked {
                let details = status.details.get_or_insert_with(empty_details);
                details.retry_after_seconds = details.retry_after_seconds.max(seconds);
            }
            return Err(CallError::Status(Box::new(status)));
        }
        if !code.is_success() {
            return Err(CallError::Answer(format!("has the HTTP status {code}, wanted 200")));
        }
        let value = if plain {
            Value::String(String::from_utf8_lossy(&bytes).into_owned())
        } else {
            serde_json::from_slice(&bytes)
                .map_err(|error| CallError::Answer(format!("is not JSON: {error}")))?
        };
        Ok(Answer { value, warnings })
    }

    /// Says what a failed call was for.
    pub(super) fn explain(&self, what: &str, error: CallError) -> ApplyError {
        let url = self.url.clone();
        let why = error.text();
        match error {
            CallError::Transport(_) => ApplyError::Unreachable { url, why },
            CallError::Certificate(_) => ApplyError::Certificate { url, why },
            CallError::Answer(_) => ApplyError::Answer { what: what.to_owned(), why },
            CallError::Status(status) => match status.code {
                401 => ApplyError::Unauthorized { url, why },
                403 => ApplyError::Forbidden { what: what.to_owned(), why },
                code => ApplyError::Server { what: what.to_owned(), code, why },
            },
        }
    }
}

/// Details of a failure that has none.
fn empty_details() -> StatusDetails {
    StatusDetails {
        name: String::new(),
        group: String::new(),
        kind: String::new(),
        uid: String::new(),
        causes: Vec::new(),
        retry_after_seconds: 0,
    }
}

/// Whether a conflict is about the object's identity, which no further try changes.
fn is_precondition(status: &Status) -> bool {
    status.message.contains("Precondition failed") || status.message.contains("UID in the precondition")
}

/// The text of a `Warning` header: `299 - "text"` (RFC 7234, 5.5).
fn warning(value: &HeaderValue) -> Option<String> {
    let text = value.to_str().ok()?;
    let (_, quoted) = text.split_once('"')?;
    Some(shorten(quoted.strip_suffix('"').unwrap_or(quoted)).replace("\\\"", "\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, reason: &str) -> CallError {
        CallError::Status(Box::new(Status::failure("", reason).with_code(code)))
    }

    #[test]
    fn only_passing_failures_are_tried_again() {
        for error in [
            status(429, "TooManyRequests"),
            status(500, "InternalError"),
            status(503, "ServiceUnavailable"),
            status(409, "Conflict"),
            CallError::Transport("connection refused".into()),
        ] {
            assert!(error.is_passing(), "{error:?}");
        }
        for error in [
            status(500, ""),
            status(409, "AlreadyExists"),
            status(403, "Forbidden"),
            status(422, "Invalid"),
            CallError::Certificate("unknown issuer".into()),
        ] {
            assert!(!error.is_passing(), "{error:?}");
        }
    }

    #[test]
    fn another_object_of_the_same_name_is_no_passing_conflict() {
        let told = "Operation cannot be fulfilled on jobs.batch \"a\": the UID in the precondition (1) does not \
                    match the UID in record (2). The object might have been deleted and then recreated";
        let error = CallError::Status(Box::new(Status::failure(told, "Conflict").with_code(409)));
        assert!(!error.is_passing());
    }

    #[test]
    fn paths_and_queries_are_encoded() {
        assert_eq!(encode("system:a/../b?c=d&é"), "system:a%2F..%2Fb%3Fc%3Dd%26%C3%A9");
        let call = Call::get("/api/v1/pods").query("labelSelector", "a=b,c in (d)");
        assert_eq!(call.request().unwrap().uri(), "/api/v1/pods?labelSelector=a%3Db%2Cc%20in%20%28d%29");
    }

    #[test]
    fn long_messages_keep_their_end() {
        let text = format!("spec: Invalid value: {}: field is immutable", "x".repeat(10_000));
        assert!(shorten(&text).ends_with("field is immutable"));
        assert!(shorten(&text).len() < 500);
        assert_eq!(shorten("a\n\u{1b}[31mb"), "a \u{fffd}[31mb");
    }
}
