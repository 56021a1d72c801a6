//! Rendering with the real kustomize and kubectl: what comes out, where it comes from, what is
//! refused.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use fleetpack::archive::rendered;
use fleetpack::model::config::ReleaseConfig;
use fleetpack::model::{ErrorClass, Event, Progress, RenderedObject, yaml};
use fleetpack::source::render::{RenderError, RenderTools, render};
use fleetpack::source::{config, images};

use super::support::command::run;
use super::support::testbed::{testbed, tool};
use super::yaml::kubectl_reads;

#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl Progress for Lines {
    fn event(&self, event: Event) {
        if let Event::Note(line) | Event::Warning(line) = event {
            self.0.lock().unwrap().push(line);
        }
    }
}

pub fn tools() -> RenderTools {
    let bin = testbed(&["peers", "helm"]).join("bin");
    RenderTools {
        kustomize: Some(bin.join("kustomize")),
        kubectl: Some(bin.join("kubectl")),
        helm: Some(bin.join("helm")),
        ..RenderTools::default()
    }
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A tree in a private folder of its own, as the build exports it.
pub struct Tree {
    pub folder: tempfile::TempDir,
}

impl Tree {
    pub fn new(files: &[(&str, &str)]) -> Self {
        let tree = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(tree.path()).unwrap();
        for (path, content) in files {
            tree.write(path, content);
        }
        tree
    }

    pub fn of(testdata: &str) -> Self {
        let tree = Self { folder: tempfile::tempdir().unwrap() };
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(testdata), &tree.path());
        tree
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("tree")
    }

    pub fn write(&self, path: &str, content: &str) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn config(&self) -> Option<ReleaseConfig> {
        let bytes = fs::read(self.path().join("fleetpack.yaml")).ok()?;
        Some(config::parse(&bytes).unwrap())
    }

    pub fn render(&self, tools: &RenderTools) -> (Result<Vec<RenderedObject>, RenderError>, Vec<String>) {
        let lines = Lines::default();
        let result = render(&self.path(), self.config().as_ref(), tools, &lines);
        let names: Vec<_> =
            fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["tree"], "nothing is left beside the tree");
        (result, lines.0.into_inner().unwrap())
    }

    #[track_caller]
    pub fn objects(&self) -> Vec<RenderedObject> {
        self.render(&tools()).0.unwrap()
    }

    #[track_caller]
    pub fn refused(&self, parts: &[&str]) -> RenderError {
        let error = self.render(&tools()).0.unwrap_err();
        for part in parts {
            assert!(error.to_string().contains(part), "wanted `{part}` in: {error}");
        }
        error
    }
}

pub fn place(objects: &[RenderedObject], id: &str) -> String {
    objects.iter().find(|object| object.id.to_string() == id).unwrap().origin.to_string()
}

pub fn images_of(objects: &[RenderedObject]) -> BTreeSet<String> {
    images::discover(objects).found.into_iter().map(|found| found.image.to_string()).collect()
}

#[test]
fn the_shop_renders_as_a_plain_build_and_knows_its_files() {
    let tree = Tree::of("shop");
    let objects = tree.objects();

    // The very values that the tool writes, in its order.
    let mut command = tool("kustomize", tree.folder.path());
    let output = run(command.arg("build").arg(tree.path().join("deploy/overlays/site"))).ok().stdout;
    let plain: Vec<_> = yaml::documents(output.as_bytes()).unwrap().into_iter().map(|d| d.value).collect();
    let values: Vec<_> = objects.iter().map(|object| object.value.clone()).collect();
    assert_eq!(values, plain);

    for (id, origin) in [
        ("Namespace shop", "deploy/overlays/site/namespace.yaml:1"),
        ("Deployment shop/web", "deploy/base/web.yaml:2"),
        ("Service shop/web", "deploy/base/web.yaml:41"),
        ("CronJob shop/report", "deploy/base/jobs.yaml:17"),
        ("ClusterRole shop-agent", "deploy/base/agent.yaml:28"),
    ] {
        assert_eq!(place(&objects, id), origin, "{id}");
    }
    let generated = objects.iter().find(|object| object.id.name.starts_with("web-content-")).unwrap();
    assert_eq!(generated.origin.to_string(), "deploy/overlays/site/kustomization.yaml");

    let found = images::discover(&objects).found;
    let wanted = ["agent", "cart", "checkout", "orders-db", "report", "schema", "web"]
        .map(|name| format!("registry.example.com/shop/{name}:1.4.0"));
    let wanted: BTreeSet<_> =
        wanted.into_iter().chain(["registry.example.com/shop/seed:1.0".to_owned()]).collect();
    assert_eq!(images_of(&objects), wanted);
    let schema = found.iter().find(|found| found.image.repository() == "shop/schema").unwrap();
    assert_eq!(schema.usage.field, "spec.template.spec.initContainers[0].image");
    assert_eq!(schema.usage.origin.to_string(), "deploy/base/web.yaml:2");

    // kubectl's own kustomize gives the same objects.
    let with_kubectl = RenderTools { kustomize: None, ..tools() };
    let again = tree.render(&with_kubectl).0.unwrap();
    assert_eq!(again.len(), objects.len());
    for object in &objects {
        let other = again.iter().find(|other| other.id == object.id).unwrap();
        assert_eq!(other.value, object.value);
    }

    // What travels is what was rendered, for us and for kubectl.
    let packed = rendered::pack(&objects).unwrap();
    assert_eq!(rendered::unpack(packed.layer.as_slice(), &packed.content()).unwrap(), objects);
    let layer = tempfile::tempdir().unwrap();
    let files = layer.path().join("files");
    fs::create_dir(&files).unwrap();
    fs::write(layer.path().join("layer.tar.gz"), &packed.layer).unwrap();
    let mut tar = super::support::command::program("tar", layer.path());
    run(tar.arg("-C").arg(&files).arg("-xzf").arg(layer.path().join("layer.tar.gz"))).ok();
    let names: BTreeSet<_> =
        fs::read_dir(&files).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.contains("00000-namespace-shop.yaml"), "{names:?}");
    for (read, object) in kubectl_reads(&files).into_iter().zip(&objects) {
        let mut read = read;
        // Asking kubectl to remove an annotation leaves an empty mapping behind.
        if object.value["metadata"].get("annotations").is_none() {
            read["metadata"].as_object_mut().unwrap().remove("annotations");
        }
        assert_eq!(read, object.value);
    }
}

#[test]
fn plain_files_are_taken_by_convention() {
    let tree = Tree::of("plain");
    let (objects, lines) = tree.render(&RenderTools::default());
    let objects = objects.unwrap();
    let found: Vec<_> = objects.iter().map(|object| format!("{} {}", object.origin, object.id)).collect();
    assert_eq!(
        found,
        [
            "clock.yaml:3 Namespace clock",
            "clock.yaml:8 ConfigMap clock/zones",
            "clock.yaml:21 Deployment clock/clock",
            "extra/limits.json:1 LimitRange clock/small",
            "jobs/cleanup.yml:1 CronJob clock/cleanup",
            "jobs/cleanup.yml:1 ServiceAccount clock/cleanup",
        ]
    );
    assert_eq!(objects[1].value["data"]["NO"], "Europe/Oslo");
    assert_eq!(
        images_of(&objects).into_iter().collect::<Vec<_>>(),
        ["registry.example.com/shop/clock-cleanup:2.0", "registry.example.com/shop/clock:2.0"]
    );
    assert!(lines.iter().any(|line| line.contains("skaffold.yaml:1")), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("docs/template.yaml")), "{lines:?}");
}

#[test]
fn the_demo_shop_of_the_corpus_has_thirteen_images() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus/boutique");
    if !corpus.is_dir() {
        eprintln!("skipped: the corpus is not at {}", corpus.display());
        return;
    }
    let tree = Tree { folder: tempfile::tempdir().unwrap() };
    copy(&corpus, &tree.path());
    let objects = tree.objects();
    let found = images::discover(&objects).found;
    assert_eq!(found.len(), 13, "{found:#?}");
    assert_eq!(images_of(&objects).len(), 13);
    assert!(objects.iter().all(|object| object.origin.line.is_some()), "each object knows its file and line");
    assert!(objects.iter().all(|object| object.origin.file.contains("service.yaml")
        || object.origin.file.contains("frontend")
        || object.origin.file.contains("loadgenerator")));
    rendered::pack(&objects).unwrap();
}

#[test]
fn sources_come_in_order_and_names_that_look_like_options_are_none() {
    let config_map = |name: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n");
    let tree = Tree::new(&[
        (
            "fleetpack.yaml",
            "apiVersion: fleetpack.dev/v1\nkind: Release\nmetadata: {name: x}\nsources:\n- path: ./extra/\n\
             - kustomize: -rf\n- path: one.yaml\n- kustomize: named/kustomization.yaml\n",
        ),
        ("extra/b.yaml", &config_map("b")),
        ("extra/a/deep.yml", &config_map("deep")),
        ("extra/notes.txt", "not YAML: ["),
        (
            "-rf/kustomization.yaml",
            "namePrefix: pre-\nresources: [r.yaml]\nbuildMetadata: [originAnnotations]\n",
        ),
        ("-rf/r.yaml", &format!("# one\n---\n{}", config_map("r"))),
        ("one.yaml", &config_map("one")),
        ("named/kustomization.yaml", "resources: [n.yaml]\n"),
        ("named/n.yaml", &config_map("n")),
        ("ignored.yaml", "kind: [\n"),
    ]);
    let objects = tree.objects();
    let names: Vec<_> = objects.iter().map(|object| object.id.name.as_str()).collect();
    assert_eq!(names, ["deep", "b", "pre-r", "one", "n"]);
    assert_eq!(objects[2].origin.to_string(), "-rf/r.yaml:3", "found although its name was changed");
    assert_eq!(
        objects[2].value["metadata"]["annotations"]["config.kubernetes.io/origin"], "path: r.yaml\n",
        "an annotation that the kustomization asks for stays"
    );
    assert!(objects[4].value["metadata"].get("annotations").is_none());
}

#[test]
fn broken_and_incomplete_trees_are_refused_with_file_and_line() {
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";
    let with = |files: &[(&str, &str)], parts: &[&str]| Tree::new(files).refused(parts);
    let source = |source: &str| {
        format!("apiVersion: fleetpack.dev/v1\nkind: Release\nmetadata: {{name: x}}\nsources:\n- {source}\n")
    };

    with(&[("a.yaml", "apiVersion: v1\nkind: [\n")], &["a.yaml:2:7: "]);
    with(&[("a.yaml", "apiVersion: v1\nkind: A\nkind: B\n")], &["a.yaml:3:1: the key `kind` stands twice"]);
    with(&[("a.json", "{\"apiVersion\": \"v1\",")], &["a.json:1:"]);
    with(
        &[("a/b.yaml", &format!("{map}---\n{map}"))],
        &["ConfigMap a stands twice: in a/b.yaml:1 and in a/b.yaml:5"],
    );
    with(
        &[("a.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {generateName: a-}\n")],
        &["a.yaml:1", "generateName"],
    );
    with(
        &[("a.yaml", "apiVersion: v1\nkind: Pod\n")],
        &["a.yaml:1: not a Kubernetes object: `metadata` is missing"],
    );
    with(&[("Chart.yaml", "name: x\n"), ("a.yaml", map)], &["`.` is not a Helm chart", "no `version`"]);
    with(
        &[("deploy/kustomization.yaml", "resources: []\n"), ("a.yaml", map)],
        &["deploy/kustomization.yaml", "not at the root"],
    );

    for files in [
        &[("README.md", "x")][..],
        &[("kustomization.yaml", "resources: []\n")],
        &[("a.yaml", "# none\n---\n")],
    ] {
        let error = with(files, &["delete everything"]);
        assert_eq!(error.class(), ErrorClass::Incomplete);
    }

    let path = source("path: extra");
    with(&[("fleetpack.yaml", &path)], &["`path: extra`", "is not in the revision"]);
    with(&[("fleetpack.yaml", &path), ("extra/x.txt", "")], &["the source `path: extra` renders no object"]);
    with(
        &[("fleetpack.yaml", &path), ("extra/x.yaml", "a: 1\n")],
        &["extra/x.yaml:1: not a Kubernetes object: `apiVersion` is missing"],
    );
    with(
        &[("fleetpack.yaml", &path), ("extra/x.yaml", "- 1\n")],
        &["extra/x.yaml:1: not a Kubernetes object: there is no mapping"],
    );
    with(
        &[("fleetpack.yaml", &path), ("extra/kustomization.yaml", "{}")],
        &["extra/kustomization.yaml", "`path` takes plain objects"],
    );
    with(
        &[("fleetpack.yaml", &source("kustomize: extra")), ("extra/x.yaml", map)],
        &["`extra` wants a `kustomization.yaml`"],
    );

    // The two ends of one name, whatever their version.
    let role = |version: &str| {
        format!("apiVersion: rbac.authorization.k8s.io/{version}\nkind: Role\nmetadata: {{name: r}}\n")
    };
    with(
        &[("a.yaml", &role("v1")), ("b.yaml", &role("v1beta1"))],
        &["Role r stands twice: in a.yaml:1 and in b.yaml:1"],
    );

    let error = with(
        &[("kustomization.yaml", "resources: [r.yaml]\npatches: [{path: none.yaml}]\n"), ("r.yaml", map)],
        &["none.yaml", "refused `.`"],
    );
    assert_eq!(error.class(), ErrorClass::Failed);
    let none = Tree::new(&[("kustomization.yaml", "resources: [r.yaml]\n"), ("r.yaml", map)]);
    let error = none.render(&RenderTools::default()).0.unwrap_err();
    assert!(error.to_string().contains("neither `kustomize` nor `kubectl`"), "{error}");
}

/// A tool that says it was called.
fn spy(folder: &Path) -> (RenderTools, PathBuf) {
    let (tool, marker) = (folder.join("spy"), folder.join("called"));
    let script = format!(
        "#!/bin/sh\ntouch '{}'\nprintf 'apiVersion: v1\\nkind: ConfigMap\\nmetadata: {{name: spy}}\\ndata:\\n'\n\
         env | sort | sed 's/\\([^=]*\\)=\\(.*\\)/  \\1: \"\\2\"/'\nprintf '  ARGS: \"%s\"\\n' \"$*\"\n",
        marker.display()
    );
    fs::write(&tool, script).unwrap();
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    (RenderTools { kustomize: Some(tool), ..RenderTools::default() }, marker)
}

#[test]
fn what_leads_out_of_the_revision_is_refused_before_the_tool_starts() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret.yaml"), "apiVersion: v1\n").unwrap();
    let (tools, marker) = spy(outside.path());
    let absolute = format!("resources: [{}]\n", outside.path().join("secret.yaml").display());
    for (kustomization, part) in [
        ("resources: ['https://example.com/a.yaml']\n", "https://example.com/a.yaml"),
        ("resources: ['github.com/example/repo//base?ref=v1']\n", "which is not pinned to a commit"),
        ("bases: ['git@example.com:a/b.git']\n", "`bases` names `git@example.com:a/b.git`"),
        ("components: ['../../up']\n", "`components` names `../../up`, which is not in the revision"),
        ("resources: [missing.yaml]\n", "`resources` names `missing.yaml`, which is not in the revision"),
        ("resources: [link.yaml]\n", "which lies outside the revision"),
        (&absolute, "which lies outside the revision"),
        ("patches: [{path: 'https://example.com/p.yaml'}]\n", "`patches.path`"),
        ("configMapGenerator: [{name: a, files: ['k=http://127.0.0.1/x']}]\n", "`configMapGenerator.files`"),
        ("secretGenerator: [{name: a, envs: ['http://127.0.0.1/x']}]\n", "`secretGenerator.envs`"),
        ("openapi: {path: 'https://example.com/o.json'}\n", "`openapi.path`"),
        ("helmCharts: [{name: a, repo: 'https://example.com'}]\n", "`helmCharts` has kustomize run Helm"),
        ("transformers: ['https://example.com/t']\n", "`transformers`"),
        ("resources: [inner]\n", "inner/kustomization.yaml:1: `resources` names `https://example.com/deep`"),
        ("resources: [\n", "kustomization.yaml:1:"),
    ] {
        let tree = Tree::new(&[
            ("kustomization.yaml", kustomization),
            ("inner/kustomization.yaml", "resources: ['https://example.com/deep', ..]\n"),
        ]);
        std::os::unix::fs::symlink(outside.path().join("secret.yaml"), tree.path().join("link.yaml"))
            .unwrap();
        let error = tree.render(&tools).0.unwrap_err();
        assert!(error.to_string().contains(part), "wanted `{part}` in: {error}");
        assert!(!marker.exists(), "the tool was started for {kustomization}");
    }
}

#[test]
fn the_tool_sees_nothing_of_the_environment() {
    let outside = tempfile::tempdir().unwrap();
    let (tools, marker) = spy(outside.path());
    let tree = Tree::new(&[("kustomization.yaml", "resources: [a.yaml]\n"), ("a.yaml", "x: 1\n")]);
    let objects = tree.render(&tools).0.unwrap();
    assert!(marker.exists());
    let data = objects[0].value["data"].as_object().unwrap();
    let names: Vec<_> = data.keys().map(String::as_str).collect();
    let known = [
        "ALL_PROXY",
        "ARGS",
        "GIT_ALLOW_PROTOCOL",
        "GIT_TERMINAL_PROMPT",
        "HOME",
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "KUBECONFIG",
        "LC_ALL",
        "PATH",
        "PWD",
        "TMPDIR",
        "http_proxy",
        "https_proxy",
    ];
    assert!(names.iter().all(|name| known.contains(name)), "{names:?}");
    let home = Path::new(data["HOME"].as_str().unwrap());
    assert!(home.starts_with(tree.folder.path().canonicalize().unwrap()) && !home.exists());
    let arguments = data["ARGS"].as_str().unwrap();
    assert!(arguments.starts_with("build --load-restrictor LoadRestrictionsRootOnly -- /"), "{arguments}");
}
