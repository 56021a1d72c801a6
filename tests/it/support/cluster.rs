//! Real clusters on loopback, shared by all tests of the program.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use serde_json::Value;

use super::command::{Ended, run};
use super::testbed::{script, tool};

/// A running cluster. It ends with the test program, however that ends.
pub struct Cluster {
    folder: PathBuf,
    /// Path of a kubeconfig with all rights.
    pub kubeconfig: PathBuf,
}

/// A control plane without a node: objects are real, pods never run. Started on first use.
#[track_caller]
pub fn control_plane() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::up("control-plane", &["--no-node"]))
}

/// The cluster with a node, for one test at a time: it has one mirror.
pub struct Node {
    cluster: &'static Cluster,
    _turn: MutexGuard<'static, ()>,
}

impl std::ops::Deref for Node {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.cluster
    }
}

/// A cluster with one node that runs real pods, whose images come from `mirror` alone
/// (`http://127.0.0.1:PORT`). Started on first use; the next test that wants it waits for its
/// turn and brings its own mirror.
#[track_caller]
pub fn with_node(mirror: &str) -> Node {
    static TURN: Mutex<()> = Mutex::new(());
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = CLUSTER.get_or_init(|| Cluster::up("node", &["--mirror", mirror]));
    cluster.mirror(mirror);
    Node { cluster, _turn: turn }
}

impl Cluster {
    fn up(name: &str, arguments: &[&str]) -> Self {
        let folder = std::env::temp_dir().join(format!("fleetpack-it-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        // Destructors of statics do not run, and a killed program runs none at all: a helper
        // waits for the end of a pipe that the kernel closes with this process. In a process
        // group of its own, so that an interrupt from the terminal does not reach it.
        let down = script("cluster");
        let mut keeper = Command::new("sh");
        keeper
            .args(["-c", "cat >/dev/null; \"$0\" down \"$1\" >/dev/null 2>&1 && rm -rf -- \"$1\""])
            .arg(down.get_program())
            .arg(&folder)
            .env_clear()
            .envs(down.get_envs().filter_map(|(key, value)| Some((key, value?))))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        #[expect(clippy::zombie_processes, reason = "it outlives this process, and init reaps it")]
        let mut keeper = keeper.spawn().unwrap();
        std::mem::forget(keeper.stdin.take());
        let ended = run(script("cluster").arg("up").arg(&folder).args(arguments)).ok();
        Self { kubeconfig: PathBuf::from(ended.stdout.trim()), folder }
    }

    /// Points the node at another mirror.
    #[track_caller]
    pub fn mirror(&self, url: &str) {
        run(script("cluster").arg("mirror").arg(&self.folder).arg(url)).ok();
    }

    /// Kills a component, such as `kube-apiserver`, which comes back so many seconds later, and waits
    /// until it is up again. Whoever else
    /// uses the cluster notices: for the cluster with a node, which is used by one test at a time.
    #[track_caller]
    pub fn restart(&self, name: &str, seconds: u32) {
        run(script("cluster").arg("restart").arg(&self.folder).args([name, &seconds.to_string()])).ok();
    }

    /// A command in the node's namespaces, such as `ctr -n k8s.io images ls`.
    pub fn on_node(&self, arguments: &[&str]) -> Ended {
        run(script("cluster").arg("exec").arg(&self.folder).args(arguments))
    }

    /// The real kubectl.
    pub fn kubectl(&self, arguments: &[&str]) -> Ended {
        let mut command = tool("kubectl", &self.folder);
        run(command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments))
    }

    /// What kubectl prints as JSON.
    #[track_caller]
    pub fn get(&self, arguments: &[&str]) -> Value {
        let arguments = [&["get", "-o", "json"], arguments].concat();
        self.kubectl(&arguments).ok().json()
    }

    /// Applies YAML as somebody else would.
    #[track_caller]
    pub fn put(&self, folder: &Path, yaml: &str, arguments: &[&str]) {
        let file = folder.join("put.yaml");
        std::fs::write(&file, yaml).unwrap();
        self.kubectl(&[&["apply", "-f", file.to_str().unwrap()], arguments].concat()).ok();
    }

    /// A kubeconfig like this cluster's, with `change` made to its text, in `folder`.
    #[track_caller]
    pub fn changed_kubeconfig(&self, folder: &Path, change: impl Fn(Value) -> Value) -> PathBuf {
        let text = std::fs::read_to_string(&self.kubeconfig).unwrap();
        let config: Value = serde_saphyr::from_str(&text).unwrap();
        let path = folder.join("kubeconfig");
        std::fs::write(&path, change(config).to_string()).unwrap();
        path
    }

    /// The address of the API server.
    pub fn address(&self) -> SocketAddr {
        let text = std::fs::read_to_string(&self.kubeconfig).unwrap();
        let config: Value = serde_saphyr::from_str(&text).unwrap();
        let url = config["clusters"][0]["cluster"]["server"].as_str().unwrap().to_owned();
        url.strip_prefix("https://").unwrap().parse().unwrap()
    }
}

/// A line to the API server that can be cut: every connection through it ends, and new ones are
/// refused until it is whole again.
pub struct Line {
    /// Where it listens.
    pub address: SocketAddr,
    cut: std::sync::Arc<AtomicBool>,
}

impl Line {
    /// A line to `target`.
    pub async fn to(target: SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cut = std::sync::Arc::new(AtomicBool::new(false));
        let state = cut.clone();
        tokio::spawn(async move {
            loop {
                let Ok((mut client, _)) = listener.accept().await else { return };
                let state = state.clone();
                tokio::spawn(async move {
                    if state.load(Ordering::SeqCst) {
                        return;
                    }
                    let Ok(mut server) = tokio::net::TcpStream::connect(target).await else { return };
                    let until_cut = async {
                        while !state.load(Ordering::SeqCst) {
                            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                        }
                    };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        () = until_cut => {}
                    }
                });
            }
        });
        Self { address, cut }
    }

    /// Cuts the line, or mends it.
    pub fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
    }

    /// A handle for another task.
    pub fn switch(&self) -> std::sync::Arc<AtomicBool> {
        self.cut.clone()
    }
}
