//! A release that mixes everything a repository may hold, end to end: plain files, a kustomization, a
//! chart, an Argo CD app of apps and a Flux `HelmRelease` go in, and their pods run on a real node from
//! `serve` alone, on a cluster that has neither Argo CD nor Flux.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::cluster::with_node;
use crate::support::command::{fleetpack, run};
use crate::support::depot::Server;
use crate::support::repository::Repository;
use crate::support::root::is_root;
use crate::support::testbed::{Registry, testbed};

const URL: &str = "ssh://git@git.example.com/ops/mixed.git";
/// One image for each way into the release.
const PARTS: [&str; 7] = ["plain", "overlay", "chart", "app", "app-chart", "flux", "flux-chart"];

fn deployment(name: &str, image: &str) -> String {
    format!(
        "---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: {image}
        command: [httpd, -f, -p, '8080', -h, /www]
        readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
"
    )
}

fn application(name: &str, namespace: &str, source: &str) -> String {
    format!(
        "---
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {{name: {name}, namespace: argocd}}
spec:
  project: ops
  destination: {{server: https://kubernetes.default.svc, namespace: {namespace}}}
  syncPolicy: {{automated: {{prune: true}}, syncOptions: [CreateNamespace=true]}}
  source:
    repoURL: https://git.example.com/ops/mixed
    targetRevision: main
{source}"
    )
}

fn image(part: &str) -> String {
    format!("registry.example.com/mixed/{part}:1")
}

fn write(repository: &Repository) {
    repository.write(
        "fleetpack.yaml",
        "apiVersion: fleetpack.dev/v1\nkind: Release\nmetadata: {name: mixed}\nversion: 1.0.0\nsources:\n\
         - path: plain\n- kustomize: overlay\n\
         - helm: {chart: charts/part, release: chart, namespace: mixed, values: [site.yaml]}\n\
         - path: argocd/root.yaml\n- path: flux\n",
    );
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: mixed}\n".to_owned();
    let plain = deployment("plain", &image("plain"))
        .replace("{name: plain}\nspec", "{name: plain, namespace: mixed}\nspec");
    repository.write("plain/all.yaml", namespace + &plain);
    repository.write("overlay/kustomization.yaml", "namespace: mixed\nresources: [web.yaml]\nimages: [{name: web, newName: registry.example.com/mixed/overlay, newTag: '1'}]\n");
    repository.write("overlay/web.yaml", deployment("overlay", "web"));
    repository.write("charts/part/Chart.yaml", "apiVersion: v2\nname: part\nversion: 0.1.0\n");
    repository.write("charts/part/values.yaml", "image: registry.example.com/mixed/never:0\n");
    repository.write(
        "charts/part/templates/web.yaml",
        deployment("{{ .Release.Name }}", "{{ .Values.image }}")
            .replace("{name: {{ .Release.Name }}}", "{name: \"{{ .Release.Name }}\"}")
            .replace("{app: {{ .Release.Name }}}", "{app: \"{{ .Release.Name }}\"}"),
    );
    repository.write("site.yaml", format!("image: {}\n", image("chart")));

    let project = "apiVersion: argoproj.io/v1alpha1\nkind: AppProject\nmetadata: {name: ops, namespace: argocd}\nspec: {sourceRepos: ['*']}\n";
    repository.write(
        "argocd/root.yaml",
        project.to_owned() + &application("apps", "argocd", "    path: argocd/apps\n"),
    );
    repository.write(
        "argocd/apps/app.yaml",
        application("app", "from-argo", "    path: argocd/app\n    directory: {recurse: true}\n"),
    );
    let parameters = format!(
        "    path: charts/part\n    helm:\n      parameters: [{{name: image, value: '{}'}}]\n",
        image("app-chart")
    );
    repository.write("argocd/apps/chart.yaml", application("app-chart", "from-argo", &parameters));
    repository.write("argocd/app/deep/web.yaml", deployment("app", &image("app")));

    repository.write(
        "flux/source.yaml",
        "apiVersion: source.toolkit.fluxcd.io/v1\nkind: GitRepository\nmetadata: {name: ops, namespace: flux-system}\n\
         spec: {interval: 1m, url: 'ssh://git@git.example.com:2222/ops/mixed.git', ref: {branch: main}}\n",
    );
    repository.write(
        "flux/apps.yaml",
        "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {name: apps, namespace: flux-system}\nspec:\n  \
         interval: 1m\n  prune: true\n  path: ./flux-apps\n  targetNamespace: mixed\n  sourceRef: {kind: GitRepository, name: ops}\n  \
         postBuild: {substitute: {TAG: '1'}}\n",
    );
    repository.write("flux-apps/web.yaml", deployment("flux", "registry.example.com/mixed/flux:${TAG}"));
    repository.write(
        "flux/release.yaml",
        format!(
            "apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {{name: chart, namespace: flux-system}}\nspec:\n  \
             interval: 1m\n  targetNamespace: from-flux\n  install: {{createNamespace: true}}\n  \
             chart: {{spec: {{chart: charts/part, sourceRef: {{kind: GitRepository, name: ops}}}}}}\n  values: {{image: '{}'}}\n",
            image("flux-chart")
        ),
    );
}

/// The binary under test with the testbed's kustomize and Helm, led to the upstream registry.
fn command(folder: &Path) -> Command {
    let bin = testbed(&["peers", "helm"]).join("bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([bin].into_iter().chain(std::env::split_paths(&path))).unwrap();
    let mut command = fleetpack(folder);
    command
        .current_dir(folder)
        .env("PATH", path)
        .env("CONTAINERS_REGISTRIES_CONF", folder.join("registries.conf"));
    command
}

#[test]
fn a_release_of_everything_runs_from_serve_alone() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    testbed(&["peers", "mkimage"]);
    let registry = Registry::up(&folder.join("registry"), &[]);
    for part in PARTS {
        registry.image(&image(part), &["--file", &format!("www/index.html={part}")]);
    }
    registry.configure(folder, &["registry.example.com"]);
    let repository = Repository::init(&folder.join("mixed"));
    write(&repository);
    repository.commit("Everything");
    run(command(folder).args(["keygen", "--output-key-prefix", "release"])).ok();
    let build = ["build", "mixed", "--key", "release.key", "-o", "mixed.tar"];

    // Nobody has said yet what the repository is called.
    let refused = run(command(folder).args(build));
    refused.refused(
        4,
        &[
            "Application argocd/apps: `spec.source.repoURL`: `https://git.example.com/ops/mixed` is not this repository",
            "`deployers.repositories`",
            "  replace:\n  - object: Application argocd/apps\n    path: ",
            "  ignore:\n  - object: Application argocd/apps\n    reason: ",
        ],
    );
    repository.git(&["remote", "add", "origin", URL]);
    let ended = run(command(folder).args(build)).ok();
    for part in [
        "left out, for the release holds what they deploy",
        "HelmRelease flux-system/chart",
        "AppProject argocd/ops",
    ] {
        assert!(ended.stderr.contains(part), "wanted `{part}` in:\n{}", ended.stderr);
    }
    let objects = run(command(folder).args([
        "inspect",
        "mixed.tar",
        "objects",
        "--key",
        "release.pub",
        "--format",
        "json",
    ]))
    .ok();
    for part in [
        "\"Application argocd/apps\"",
        "\"Application argocd/app-chart\"",
        "\"HelmRelease flux-system/chart\"",
    ] {
        assert!(objects.stdout.contains(part), "wanted `{part}` in:\n{}", objects.stdout);
    }
    let address = registry.address.clone();
    registry.down();
    let begin = Instant::now();
    while TcpStream::connect(&address).is_ok() {
        assert!(begin.elapsed() < Duration::from_secs(10), "the upstream registry is stopped");
        std::thread::sleep(Duration::from_millis(50));
    }

    let store = folder.join("store");
    let mut serve = command(folder);
    serve.args(["serve", "--listen", "127.0.0.1:0", "--store"]).arg(&store);
    let serve = Server::start(&mut serve, &folder.join("serve.log"));
    let cluster = with_node(&serve.endpoint);
    let mut apply = command(folder);
    apply.args(["apply", "mixed.tar", "--key", "release.pub", "--timeout", "4m", "--store"]).arg(&store);
    run(apply.env("KUBECONFIG", &cluster.kubeconfig)).ok();

    let mut ready = BTreeSet::new();
    for namespace in ["mixed", "from-argo", "from-flux"] {
        let pods = cluster.get(&["-n", namespace, "pods"]);
        for pod in pods["items"].as_array().unwrap() {
            let conditions = pod["status"]["conditions"].as_array().unwrap();
            let is_ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
            assert!(is_ready, "{pod}");
            let image = pod["spec"]["containers"][0]["image"].as_str().unwrap();
            ready.insert((namespace, image.to_owned()));
        }
    }
    let want = [
        ("mixed", "plain"),
        ("mixed", "overlay"),
        ("mixed", "chart"),
        ("from-argo", "app"),
        ("from-argo", "app-chart"),
        ("mixed", "flux"),
        ("from-flux", "flux-chart"),
    ];
    assert_eq!(ready, want.map(|(namespace, part)| (namespace, image(part))).into());
}
