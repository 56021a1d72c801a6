//! What looks like an image and is decided by its registry or by `fleetpack.yaml`; `fleetpack
//! images`; the demo shop of the corpus.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::command::{Ended, fleetpack, run};
use crate::support::repository::Repository;
use crate::support::testbed::{Registry, testbed};

const HEAD: &str = "apiVersion: fleetpack.dev/v1\nkind: Release\nmetadata: {name: app}\nversion: \"1\"\n";

const APP: &str = "apiVersion: v1
kind: Pod
metadata: {name: operator, namespace: app}
spec:
  containers:
  - name: operator
    image: registry.example.com/operator:1
    args:
    - --worker-image=registry.example.com/worker:1
    - --helper-image=registry.example.com/gone:1
    - --mirror-image=closed.example.com/secret:1
    - --login-image=login.example.com/secret:1
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: app}
data:
  help: |
    for example registry.example.com/doc/only:2
";

/// A registry, a repository whose release is `APP`, and a place that refuses every connection.
struct Site {
    folder: tempfile::TempDir,
    registry: Registry,
    repository: Repository,
}

impl Site {
    #[track_caller]
    fn new(hosts: &[&str]) -> Self {
        testbed(&["peers", "mkimage"]);
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::up(&folder.path().join("registry"), &[]);
        let conf = registry.configure(folder.path(), hosts);
        // Nobody listens on the port of a listener that is gone.
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let text = fs::read_to_string(&conf).unwrap();
        let nobody = format!("prefix = \"closed.example.com\"\nlocation = \"{closed}\"\ninsecure = true\n");
        fs::write(&conf, format!("{text}[[registry]]\n{nobody}")).unwrap();
        let repository = Repository::init(&folder.path().join("repository"));
        Self { folder, registry, repository }
    }

    #[track_caller]
    fn release(&self, images: &str) {
        self.repository.write("fleetpack.yaml", format!("{HEAD}sources: [{{path: app.yaml}}]\n{images}"));
        self.repository.commit("release");
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> Ended {
        let bin = testbed(&["peers"]).join("bin");
        let path = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect::<Vec<_>>();
        let mut command = fleetpack(self.folder.path());
        command
            .current_dir(self.folder.path())
            .env("PATH", std::env::join_paths([bin].into_iter().chain(path)).unwrap())
            .env("CONTAINERS_REGISTRIES_CONF", self.folder.path().join("registries.conf"));
        run(command.args(arguments))
    }

    fn archive(&self) -> PathBuf {
        self.folder.path().join("app.tar")
    }
}

#[test]
fn candidates_are_decided_by_their_registry_or_by_the_author() {
    let site = Site::new(&["registry.example.com"]);
    for name in ["operator:1", "worker:1"] {
        site.registry.image(&format!("registry.example.com/{name}"), &["--file", "etc/part=x"]);
    }
    // One that wants a login which nobody has.
    let login = Registry::up(&site.folder.path().join("login"), &["--htpasswd", "me:secret"]);
    let conf = site.folder.path().join("registries.conf");
    let others = fs::read_to_string(&conf).unwrap();
    login.configure(site.folder.path(), &["login.example.com"]);
    fs::write(&conf, others + &fs::read_to_string(&conf).unwrap()).unwrap();
    site.repository.write("app.yaml", APP);
    site.release("");
    let build = ["build", "repository", "-o", "app.tar", "--format", "json"];

    // All that is undecided at once, with the lines to paste; one that cannot be asked is one of them.
    let ended = site.run(&build).refused(
        4,
        &[
            "4 texts that look like images are not decided",
            "`registry.example.com/gone:1`: image `registry.example.com/gone:1` was not found",
            "app.yaml:10  Pod app/operator  spec.containers[0].args[1]  (an argument)",
            "`closed.example.com/secret:1`: it cannot be asked for: no answer from",
            "`login.example.com/secret:1`: it cannot be asked for: `127.0.0.1:",
            "401 Unauthorized",
            "app.yaml:19  ConfigMap app/settings  data.help",
            "(a reference in a text)",
            "carried, for it exists: `registry.example.com/worker:1` (an argument: app.yaml:9, Pod app/operator",
        ],
    );
    assert!(!site.archive().exists());
    let (_, lines) = ended.stderr.split_once("decide it in `fleetpack.yaml`:\n\n").unwrap();
    let (lines, _) = lines.split_once("\n\n").unwrap();
    assert_eq!(
        lines,
        "images:\n  ignore:\n  - {image: \"closed.example.com/secret:1\", reason: \"…\"}\n  \
         - {image: \"login.example.com/secret:1\", reason: \"…\"}\n  \
         - {image: \"registry.example.com/doc/only:2\", reason: \"…\"}\n  \
         - {image: \"registry.example.com/gone:1\", reason: \"…\"}"
    );
    // Pasted as they are they lack the reason, and with one they decide.
    site.release(lines);
    site.run(&build).refused(1, &["fleetpack.yaml:8", "`reason` is `…`, wanted a sentence that says why"]);
    site.release(&lines.replace('…', "only an example"));
    let report = site.run(&build).ok().json();
    assert_eq!(report["images"], 2);
    fs::remove_file(site.archive()).unwrap();

    // An entry that nothing meets is told; a required image may be ignored; `include` wins.
    let decided = "images:\n  include: [registry.example.com/operator:1]\n  ignore:\n  \
                   - {image: \"*.example.com/*\", reason: the site has them}\n  \
                   - {image: nginx, reason: never there}\n";
    site.release(decided);
    let ended = site.run(&["images", "repository"]).ok();
    assert!(ended.stderr.contains("names `nginx`, which nothing uses"), "{}", ended.stderr);
    for part in [
        "registry.example.com/operator:1\n  required  sha256:",
        "  used by   app.yaml:7  Pod app/operator  spec.containers[0].image  (a pod runs it)\n",
        "registry.example.com/worker:1\n  ignored by `*.example.com/*`: the site has them\n  used by   app.yaml:9  ",
        "spec.containers[0].args[0]  (looks like one: an argument)",
        "1 images (1 required, 5 ignored), ",
    ] {
        assert!(ended.stdout.contains(part), "{part}\nin:\n{}", ended.stdout);
    }
}

#[test]
fn the_list_of_images_is_what_a_build_carries() {
    let site = Site::new(&["registry.example.com"]);
    let many = ["--platform", "linux/amd64,linux/arm64", "--file", "etc/part=x"];
    let digest = site.registry.image("registry.example.com/operator:1", &many);
    site.registry.image("registry.example.com/tools/debug:1", &["--file", "etc/part=y"]);
    let (pod, _) = APP.split_once("    args:").unwrap();
    site.repository.write("app.yaml", pod);
    site.release("images: {include: [registry.example.com/tools/debug:1]}\n");

    let list =
        |more: &[&str]| site.run(&[&["images", "repository", "--format", "json"], more].concat()).ok().json();
    let listed = list(&[]);
    assert_eq!((&listed["format"], listed["images"].as_array().unwrap().len()), (&1.into(), 2));
    let operator = &listed["images"][0];
    assert_eq!(operator["reference"], "registry.example.com/operator:1");
    assert_eq!(operator["digest"], digest.as_str());
    assert_eq!(operator["need"], "required");
    assert_eq!(operator["platforms"], serde_json::json!(["linux/amd64", "linux/arm64"]));
    let place = &operator["places"][0];
    assert_eq!((&place["field"], &place["line"]), (&"spec.containers[0].image".into(), &7.into()));
    assert_eq!((&place["rule"], &place["required"]), (&"pod-spec".into(), &true.into()));
    assert_eq!(listed["images"][1]["need"], "included");
    assert_eq!(listed["images"][1]["places"], serde_json::json!([]));

    // One platform is smaller, and the sizes are those of the archive's blobs.
    let sparse = list(&["--platform", "linux/amd64"]);
    assert!(sparse["size"].as_u64() < listed["size"].as_u64());
    site.run(&["build", "repository", "-o", "app.tar"]).ok();
    let release = site.run(&["inspect", "app.tar", "--format", "json"]).ok().json();
    let document = &release["release"];
    let carried: BTreeMap<&str, &Value> = document["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| (image["reference"].as_str().unwrap(), &image["digest"]))
        .collect();
    for image in listed["images"].as_array().unwrap() {
        assert_eq!(carried[image["reference"].as_str().unwrap()], &image["digest"]);
    }
    let blobs = document["blobs"].as_array().unwrap();
    let own = |blob: &&Value| {
        blob["digest"] != document["git"]["bundle"]
            && blob["digest"] != document["rendered"]["manifest"]
            && blob["digest"] != document["rendered"]["layer"]
            && blob["mediaType"] != "application/vnd.oci.empty.v1+json"
            && blob["mediaType"] != "application/vnd.cncf.flux.config.v1+json"
    };
    let bytes: u64 = blobs.iter().filter(own).map(|blob| blob["size"].as_u64().unwrap()).sum();
    assert_eq!(listed["size"], bytes);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn the_demo_shop_is_whole_or_refused() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus/boutique");
    if !corpus.is_dir() {
        // The corpus is no part of the project: where it is not, there is nothing to test.
        eprintln!("skipped: the corpus is not at {}", corpus.display());
        return;
    }
    let site = Site::new(&["us-central1-docker.pkg.dev", "docker.io"]);
    copy(&corpus, &site.repository.path);
    // Images under their own names. One manifest pins a digest that no image made here has, so
    // the manifest of the copy names the digest of the one that is.
    let shop = "us-central1-docker.pkg.dev/online-boutique-ci/microservices-demo";
    let services = [
        "adservice",
        "cartservice",
        "checkoutservice",
        "currencyservice",
        "emailservice",
        "frontend",
        "loadgenerator",
        "paymentservice",
        "productcatalogservice",
        "recommendationservice",
        "shippingservice",
    ];
    for service in services {
        let part = format!("etc/part={service}");
        site.registry.image(&format!("{shop}/{service}:v0.10.6"), &["--file", &part]);
    }
    site.registry.image("docker.io/library/redis:alpine", &["--file", "etc/part=redis"]);
    let busybox = site.registry.image("docker.io/library/busybox:1.38.0", &["--file", "etc/part=busybox"]);
    let generator = site.repository.path.join("loadgenerator.yaml");
    let text = fs::read_to_string(&generator).unwrap();
    let pinned = "sha256:fd8d9aa63ba2f0982b5304e1ee8d3b90a210bc1ffb5314d980eb6962f1a9715d";
    assert!(text.contains(pinned));
    fs::write(&generator, text.replace(pinned, &busybox)).unwrap();
    site.repository.write("fleetpack.yaml", format!("{HEAD}sources: [{{kustomize: .}}]\n"));
    site.repository.commit("the shop");

    let build = ["build", "repository", "-o", "app.tar", "--format", "json"];
    let report = site.run(&build).ok().json();
    assert_eq!(report["images"], 13);
    let listed = site.run(&["images", "repository", "--format", "json"]).ok().json();
    let images = listed["images"].as_array().unwrap();
    assert_eq!(images.len(), 13);
    for image in images {
        assert_eq!(image["need"], "required", "{image}");
        assert!(image["places"].as_array().unwrap().iter().all(|place| place["line"].is_u64()), "{image}");
    }
    fs::remove_file(site.archive()).unwrap();

    // Without one of them nothing is built, and what is missing is named with who uses it.
    let gone =
        site.folder.path().join("registry/data/docker/registry/v2/repositories/docker.io/library/redis");
    fs::remove_dir_all(gone).unwrap();
    site.run(&build).refused(
        4,
        &[
            "an image cannot be resolved",
            "`docker.io/library/redis:alpine`",
            "cartservice.yaml:118",
            "Deployment redis-cart",
            "spec.template.spec.containers[0].image",
        ],
    );
    assert!(!site.archive().exists());
}
