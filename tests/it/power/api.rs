//! Between fleetpack and the API server: every call that changes the cluster is noted in the log of
//! the disk, so that the cluster can be brought to the state that belongs to a cut.
//!
//! The state of a release in the cluster follows from the calls alone, in their order (server-side
//! apply with one field manager, and deletions), so carrying out the calls before the cut on a
//! cluster without the release makes the state at the cut, but for identities and times.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::State;
use axum::http::{Request, Response, StatusCode};
use base64::Engine as _;
use serde_json::Value;

use super::disk::{Disk, Event};

/// A call that changed the cluster.
#[derive(Clone, Debug)]
pub struct Call {
    method: reqwest::Method,
    path: String,
    content_type: String,
    body: Bytes,
}

impl Call {
    /// Whether it removed something.
    pub fn deletes(&self) -> bool {
        self.method == reqwest::Method::DELETE
    }
}

/// The way to the API server.
pub struct Api {
    runtime: tokio::runtime::Runtime,
    plain: reqwest::Client,
    shared: Arc<Shared>,
    /// A kubeconfig that leads through here.
    pub kubeconfig: PathBuf,
}

struct Shared {
    server: String,
    client: reqwest::Client,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    disk: Option<Arc<Disk>>,
    calls: Vec<Call>,
    /// Every object that was ever applied.
    objects: BTreeSet<String>,
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, call: &Call, accept: &str) -> reqwest::Result<reqwest::Response> {
        let url = format!("{}{}", self.server, call.path);
        let request = self.client.request(call.method.clone(), url).body(call.body.clone());
        request.header("content-type", &call.content_type).header("accept", accept).send().await
    }
}

impl Api {
    /// A way to the cluster of `kubeconfig`; files of its own in `folder`.
    #[track_caller]
    pub fn open(kubeconfig: &Path, folder: &Path) -> Self {
        let mut config: Value =
            serde_saphyr::from_str(&std::fs::read_to_string(kubeconfig).unwrap()).unwrap();
        let pem = |value: &Value| {
            base64::engine::general_purpose::STANDARD.decode(value.as_str().unwrap()).unwrap()
        };
        let user = config["users"][0]["user"].clone();
        let cluster = config["clusters"][0]["cluster"].clone();
        let key = |name: &str| match user[format!("{name}-data")].as_str() {
            Some(_) => pem(&user[format!("{name}-data")]),
            None => std::fs::read(user[name].as_str().unwrap()).unwrap(),
        };
        let identity = [key("client-certificate"), key("client-key")].concat();
        let authority = reqwest::Certificate::from_pem(&pem(&cluster["certificate-authority-data"])).unwrap();
        let client = reqwest::Client::builder()
            .identity(reqwest::Identity::from_pem(&identity).unwrap())
            .tls_certs_only([authority])
            .no_proxy()
            .build()
            .unwrap();
        let server = cluster["server"].as_str().unwrap().to_owned();
        let shared = Arc::new(Shared { server, client, seen: Mutex::default() });
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let app = axum::Router::new().fallback(pass).with_state(Arc::clone(&shared));
        runtime.spawn(async move { axum::serve(listener, app).await });
        config["clusters"][0]["cluster"] = serde_json::json!({"server": format!("http://{address}")});
        config["users"][0]["user"] = serde_json::json!({});
        let kubeconfig = folder.join("through.kubeconfig");
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        let plain = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { runtime, plain, shared, kubeconfig }
    }

    /// Calls are noted at `disk` from now on, and counted from 0.
    pub fn note(&self, disk: Option<Arc<Disk>>) {
        let mut seen = self.shared.seen();
        seen.disk = disk;
        seen.calls.clear();
    }

    /// The calls since [`Api::note`].
    pub fn calls(&self) -> Vec<Call> {
        self.shared.seen().calls.clone()
    }

    /// Removes what was ever applied through here (but the namespaces, which take too long to go) and
    /// carries out `calls`.
    pub fn restore<'a>(&self, calls: impl Iterator<Item = &'a Call>) -> Result<(), String> {
        let objects = self.shared.seen().objects.clone();
        self.runtime.block_on(async {
            for path in &objects {
                self.delete(path).await?;
            }
            for call in calls {
                if call.method == reqwest::Method::DELETE {
                    self.delete(&call.path).await?;
                    continue;
                }
                let answer = self.shared.send(call, "application/json").await;
                let answer = answer.map_err(|error| error.to_string())?;
                if !answer.status().is_success() {
                    let text = answer.text().await.unwrap_or_default();
                    return Err(format!("{} {}: {text}", call.method, call.path));
                }
            }
            Ok(())
        })
    }

    async fn delete(&self, path: &str) -> Result<(), String> {
        let call = |method, body: &'static [u8]| Call {
            method,
            path: path.to_owned(),
            content_type: "application/json".into(),
            body: Bytes::from_static(body),
        };
        let failed = |error: reqwest::Error| error.to_string();
        let remove = call(
            reqwest::Method::DELETE,
            br#"{"kind":"DeleteOptions","apiVersion":"v1","propagationPolicy":"Background"}"#,
        );
        let until = Instant::now() + Duration::from_secs(30);
        let mut answer = self.shared.send(&remove, "application/json").await.map_err(failed)?;
        while answer.status() != StatusCode::NOT_FOUND {
            if Instant::now() > until {
                return Err(format!("`{path}` does not go"));
            }
            let look = call(reqwest::Method::GET, b"");
            answer = self.shared.send(&look, "application/json").await.map_err(failed)?;
            if answer.status() != StatusCode::NOT_FOUND {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// Reads an object; null where there is none.
    pub fn get(&self, path: &str) -> Value {
        let call = Call {
            method: reqwest::Method::GET,
            path: path.to_owned(),
            content_type: "application/json".into(),
            body: Bytes::new(),
        };
        let value = self.runtime.block_on(async {
            let answer = self.shared.send(&call, "application/json").await.ok()?;
            let found = answer.status().is_success();
            let bytes = answer.bytes().await.ok()?;
            found.then(|| serde_json::from_slice(&bytes).ok()).flatten()
        });
        value.unwrap_or_default()
    }

    /// What is at `url`, which is not the API server's.
    pub fn fetch(&self, url: &str) -> Result<Vec<u8>, String> {
        let fetched = async {
            let answer = self.plain.get(url).send().await?.error_for_status()?;
            answer.bytes().await
        };
        self.runtime.block_on(fetched).map(|bytes| bytes.to_vec()).map_err(|error| error.to_string())
    }
}

/// One request, whole, and its answer.
async fn pass(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let header = |name: &str| {
        parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("application/json").to_owned()
    };
    let path = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let accept = header("accept");
    let body = to_bytes(body, 16 << 20).await.unwrap_or_default();
    let call = Call { method: parts.method, path, content_type: header("content-type"), body };
    let changes = call.method != reqwest::Method::GET && !call.path.contains("dryRun=All");
    let noted = changes.then(|| {
        let mut seen = shared.seen();
        let number = seen.calls.len();
        seen.calls.push(call.clone());
        let path = call.path.split('?').next().unwrap_or_default();
        let is_namespace = path.rsplit_once('/').is_some_and(|(folder, _)| folder == "/api/v1/namespaces");
        if call.method == reqwest::Method::PATCH && !is_namespace {
            seen.objects.insert(path.to_owned());
        }
        if let Some(disk) = &seen.disk {
            disk.happened(Event::CallBegan(number));
        }
        number
    });
    let answered = async {
        let answer = shared.send(&call, &accept).await?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        Ok::<_, reqwest::Error>((status, headers, answer.bytes().await?))
    };
    let answered = answered.await;
    if let Some(number) = noted
        && let Some(disk) = &shared.seen().disk
    {
        disk.happened(Event::CallEnded(number));
    }
    let (status, headers, bytes) = match answered {
        Ok(answer) => answer,
        Err(error) => {
            let mut response = Response::new(Body::from(error.to_string()));
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            return response;
        }
    };
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    for name in ["content-type", "warning", "retry-after"] {
        for value in headers.get_all(name) {
            response.headers_mut().append(axum::http::HeaderName::from_static(name), value.clone());
        }
    }
    response
}
