//! An API server in trouble: a proxy before the real one that answers some requests itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::liar::{Asked, Body, Liar, Reply};

/// The proxy; it ends when dropped.
pub struct Storm {
    /// A kubeconfig that leads to it.
    pub kubeconfig: PathBuf,
    liar: Liar,
    _runtime: Arc<tokio::runtime::Runtime>,
}

impl Storm {
    /// A proxy before `cluster`, whose kubeconfig is written into `folder`. `lie` sees each request
    /// and how many of the same method and path came before; where it answers, the server does not.
    pub fn before(
        cluster: &Cluster,
        folder: &Path,
        lie: impl Fn(&Asked, usize) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let text = std::fs::read_to_string(&cluster.kubeconfig).unwrap();
        let config: Value = serde_saphyr::from_str(&text).unwrap();
        let pem = |part: &Value, key: &str| STANDARD.decode(part[key].as_str().unwrap()).unwrap();
        let (server, user) = (&config["clusters"][0]["cluster"], &config["users"][0]["user"]);
        let identity = [pem(user, "client-certificate-data"), pem(user, "client-key-data")].concat();
        let authority = pem(server, "certificate-authority-data");
        let url = server["server"].as_str().unwrap().to_owned();
        let runtime = Arc::new(tokio::runtime::Runtime::new().unwrap());
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([reqwest::Certificate::from_pem(&authority).unwrap()])
            .identity(reqwest::Identity::from_pem(&identity).unwrap())
            .build()
            .unwrap();
        let inner = runtime.clone();
        let liar = Liar::start(move |asked, before| {
            lie(asked, before).unwrap_or_else(|| inner.block_on(forward(&client, &url, asked)))
        });
        let kubeconfig = folder.join("storm.kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "storm",
            "clusters": [{"name": "storm", "cluster": {"server": format!("http://{}", liar.address)}}],
            "users": [{"name": "storm", "user": {}}],
            "contexts": [{"name": "storm", "context": {"cluster": "storm", "user": "storm"}}],
        });
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        Self { kubeconfig, liar, _runtime: runtime }
    }

    /// What was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.liar.asked()
    }
}

async fn forward(client: &reqwest::Client, url: &str, asked: &Asked) -> Reply {
    let method: reqwest::Method = asked.method.parse().unwrap();
    let mut request = client.request(method, format!("{url}{}", asked.path)).body(asked.body.clone());
    for name in ["accept", "content-type", "user-agent"] {
        request = request.header(name, asked.header(name).unwrap_or_default());
    }
    let answer = request.send().await.unwrap();
    let (status, kind) = (answer.status().as_u16(), answer.headers().get("content-type").cloned());
    let body = answer.bytes().await.unwrap().to_vec();
    let reply = Reply::new(status, Body::Whole(body));
    match kind {
        Some(kind) => reply.header("content-type", kind.to_str().unwrap()),
        None => reply,
    }
}

/// A failure as an API server words it.
pub fn failure(code: u16, reason: &str, message: &str) -> Reply {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "reason": reason, "message": message});
    Reply::new(code, Body::Whole(status.to_string().into_bytes())).header("content-type", "application/json")
}
