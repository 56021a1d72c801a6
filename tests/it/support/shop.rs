//! A shop whose releases the tests carry: manifests, and images at a loopback registry under the
//! names that the manifests use.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::command::{fleetpack, run};
use super::repository::Repository;
use super::testbed::{Registry, testbed, tool};

/// The registry that the manifests name.
pub const HOST: &str = "registry.example.com";

/// Images of the shop: the reference, and how each is made. Among them a multi-architecture index,
/// a Docker v2s2 image, a zstd-compressed layer, and a second reference to one image.
pub const IMAGES: &[(&str, &[&str])] = &[
    ("registry.example.com/shop/web:1.0", &["--file", "www/index.html=shop 1.0"]),
    ("registry.example.com/shop/web:2.0", &["--file", "www/index.html=shop 2.0"]),
    ("registry.example.com/shop/api:1.0", &["--format", "docker", "--file", "etc/part=api"]),
    ("registry.example.com/shop/worker:1.0", &["--compression", "zstd", "--file", "etc/part=worker"]),
    ("registry.example.com/shop/init:1.0", &["--file", "etc/part=init"]),
    ("registry.example.com/shop/init:same", &["--file", "etc/part=init"]),
    (
        "registry.example.com/shop/agent:1.0",
        &["--platform", "linux/amd64,linux/arm64", "--file", "etc/part=agent"],
    ),
];

/// A process that stays and ends at once when it is told to.
const STAY: &str = "trap 'exit 0' TERM; while :; do sleep 1 & wait; done";

/// The base of the kustomization: everything but the version.
pub const BASE: &str = r#"apiVersion: v1
kind: Namespace
metadata:
  name: shop
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: shop
  namespace: shop
automountServiceAccountToken: false
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: shop
  namespace: shop
data:
  greeting: "yes"
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  namespace: shop
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      serviceAccountName: shop
      terminationGracePeriodSeconds: 1
      containers:
        - name: web
          image: registry.example.com/shop/web:1.0
          command: ["httpd", "-f", "-p", "8080", "-h", "/www"]
          readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: api
  namespace: shop
spec:
  replicas: 1
  selector: {matchLabels: {app: api}}
  template:
    metadata: {labels: {app: api}}
    spec:
      terminationGracePeriodSeconds: 1
      initContainers:
        - name: init
          image: registry.example.com/shop/init:1.0
          command: ["true"]
      containers:
        - name: api
          image: registry.example.com/shop/api:1.0
          command: ["sh", "-c", "STAY"]
---
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: agent
  namespace: shop
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: agent
          image: registry.example.com/shop/agent:1.0
          command: ["sh", "-c", "STAY"]
---
apiVersion: batch/v1
kind: Job
metadata:
  name: worker
  namespace: shop
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers:
        - name: worker
          image: registry.example.com/shop/worker:1.0
          command: ["true"]
---
apiVersion: batch/v1
kind: CronJob
metadata:
  name: nightly
  namespace: shop
spec:
  schedule: "0 3 * * *"
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers:
            - name: nightly
              image: registry.example.com/shop/init:same
              command: ["true"]
"#;

/// A registry with the shop's images, a repository with two releases, a key pair.
pub struct Shop {
    /// The folder that holds all of it.
    pub folder: PathBuf,
    /// The repository; tags `v1` and `v2`, branch `main` at the second.
    pub repository: Repository,
    /// The registry upstream.
    pub registry: Registry,
    /// Reference and digest of each image, as the registry says.
    pub images: Vec<(String, String)>,
}

impl Shop {
    /// Makes one below `folder`.
    #[track_caller]
    pub fn new(folder: &Path) -> Self {
        testbed(&["peers", "mkimage"]);
        let registry = Registry::up(&folder.join("registry"), &[]);
        let images = IMAGES
            .iter()
            .map(|(reference, arguments)| ((*reference).to_owned(), registry.image(reference, arguments)))
            .collect();
        registry.configure(folder, &[HOST]);
        let repository = Repository::init(&folder.join("shop"));
        repository.write(
            "fleetpack.yaml",
            "apiVersion: fleetpack.dev/v1\nkind: Release\nmetadata: {name: shop}\nsources:\n- kustomize: deploy/site\n",
        );
        repository.write("deploy/base/shop.yaml", BASE.replace("STAY", STAY));
        repository.write("deploy/base/kustomization.yaml", "resources: [shop.yaml]\n");
        repository.write(
            "deploy/site/kustomization.yaml",
            "resources: [../base]\ncommonAnnotations: {example.com/site: \"7\"}\n",
        );
        repository.commit("Shop 1");
        repository.git(&["tag", "-a", "-m", "Shop 1", "v1"]);
        let second =
            BASE.replace("STAY", STAY).replace("shop/web:1.0", "shop/web:2.0").replace("\"yes\"", "\"no\"");
        repository.write("deploy/base/shop.yaml", second);
        repository.commit("Shop 2");
        repository.git(&["tag", "v2"]);
        let shop = Self { folder: folder.to_owned(), repository, registry, images };
        run(shop.fleetpack().args(["keygen", "--output-key-prefix", "release"])).ok();
        shop
    }

    /// The binary under test, in the shop's folder, with its `registries.conf`.
    pub fn fleetpack(&self) -> Command {
        let mut command = fleetpack(&self.folder);
        let kustomize = testbed(&["peers"]).join("bin");
        let path = std::env::join_paths(
            [kustomize]
                .into_iter()
                .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
        );
        command
            .current_dir(&self.folder)
            .env("PATH", path.unwrap())
            .env("CONTAINERS_REGISTRIES_CONF", self.folder.join("registries.conf"));
        command
    }

    /// A tool of the testbed with the shop's `registries.conf`.
    pub fn tool(&self, name: &str) -> Command {
        let mut command = tool(name, &self.folder);
        command
            .current_dir(&self.folder)
            .env("CONTAINERS_REGISTRIES_CONF", self.folder.join("registries.conf"));
        command
    }

    /// Builds `revision` signed with the shop's key.
    #[track_caller]
    pub fn build(&self, revision: &str) -> PathBuf {
        let mut command = self.fleetpack();
        command.args(["build", "shop", "--revision", revision, "--key", "release.key", "--format", "json"]);
        let report = run(&mut command).ok().json();
        self.folder.join(report["archive"].as_str().unwrap())
    }
}
