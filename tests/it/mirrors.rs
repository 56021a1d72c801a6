//! What `mirrors` writes for runtimes, read by the code that the runtimes read it with; and what
//! `mirrors --check` finds.

use std::fs;
use std::path::Path;

use crate::support::command::run;
use crate::support::depot::Depot;
use crate::support::testbed::{Registry, tool};

const IMAGE: &str = "registry.example.com/depot/part:1";
const RUNTIMES: [(&str, &str); 4] = [
    ("containerd", "etc/containerd/certs.d"),
    ("k3s", "etc/rancher/k3s"),
    ("rke2", "etc/rancher/rke2"),
    ("crio", "etc/containers"),
];

/// A depot with a seeded release, and the digest of its image.
fn seeded(folder: &Path, name: &str) -> (Depot, String) {
    let depot = Depot::new(folder, name, &folder.join("kubeconfig"));
    let one = depot.build("1", "");
    depot.apply(&one, &["--seed-only"]).ok();
    let status = depot.fleetpack().args(["inspect", "1.tar", "images"]).output().unwrap();
    let text = String::from_utf8(status.stdout).unwrap();
    let at = text.find("sha256:").unwrap_or_else(|| panic!("{text}"));
    (depot, text[at..at + 71].to_owned())
}

fn written(depot: &Depot, runtime: &str, more: &[&str], below: &str) {
    let folder = depot.folder.join(below);
    fs::create_dir_all(&folder).unwrap();
    let folder = folder.display().to_string();
    depot.site(&[&["mirrors", "--runtime", runtime, "--write", &folder], more].concat()).ok();
}

/// skopeo, which reads registries.conf as CRI-O and podman do, with the drop-in that was written.
fn skopeo(depot: &Depot, conf: &str) -> String {
    let at = |arguments: &[&str]| {
        let mut command = tool("skopeo", &depot.folder);
        run(command.arg("--registries-conf").arg(depot.folder.join(conf)).args(arguments)).ok().stdout
    };
    let image = format!("docker://{IMAGE}");
    at(&["copy", "--quiet", &image, &format!("oci:{}", depot.folder.join("copied").display())]);
    at(&["inspect", "--no-tags", "--format", "{{.Digest}}", &image]).trim().to_owned()
}

/// The package of k3s and RKE2, with the registries.yaml that was written.
fn wharfie(depot: &Depot, file: &str) -> String {
    let mut command = tool("wharfie", &depot.folder);
    run(command.arg(depot.folder.join(file)).arg(IMAGE)).ok().stdout.trim().to_owned()
}

#[test]
fn runtimes_are_led_to_serve() {
    let folder = tempfile::tempdir().unwrap();
    let (depot, digest) = seeded(folder.path(), "depot-mirrors");
    written(&depot, "crio", &[], "crio");
    assert_eq!(skopeo(&depot, "crio/registries.conf.d/50-fleetpack.conf"), digest);
    written(&depot, "k3s", &[], "k3s");
    assert_eq!(wharfie(&depot, "k3s/registries.yaml"), digest);
    let printed = depot.site(&["mirrors", "--runtime", "rke2"]).ok().stdout;
    assert!(printed.contains("# registries.yaml\nmirrors:"), "{printed}");
    assert!(printed.contains("disable-default-registry-endpoint: true"), "{printed}");
}

#[test]
fn runtimes_are_led_below_the_prefix_of_a_registry() {
    let folder = tempfile::tempdir().unwrap();
    let (depot, digest) = seeded(folder.path(), "depot-prefix");
    let registry = Registry::up(&folder.path().join("registry"), &[]);
    let to = format!("docker://{}/fleet/{IMAGE}", registry.address);
    let from = format!("docker://{}/{IMAGE}", depot.host());
    let mut copy = tool("skopeo", folder.path());
    let plain = ["--src-tls-verify=false", "--dest-tls-verify=false"];
    run(copy.args(["copy", "--quiet", "--all"]).args(plain).args([&from, &to])).ok();
    let endpoint = format!("http://{}/fleet", registry.address);
    let given = ["--endpoint", &endpoint];
    written(&depot, "crio", &given, "crio");
    assert_eq!(skopeo(&depot, "crio/registries.conf.d/50-fleetpack.conf"), digest);
    written(&depot, "k3s", &given, "k3s");
    assert_eq!(wharfie(&depot, "k3s/registries.yaml"), digest);
    for (runtime, _) in RUNTIMES {
        let checked = depot.site(&["mirrors", "--runtime", runtime, "--check", "--endpoint", &endpoint]).ok();
        assert!(checked.stdout.contains("has 1 of 1 images"), "{}", checked.stdout);
    }
    // What is nowhere is told by name, with what was asked.
    let elsewhere = format!("http://{}/other", registry.address);
    let ended = depot.site(&["mirrors", "--runtime", "k3s", "--check", "--endpoint", &elsewhere]);
    assert_eq!(ended.code, 4, "{}", ended.stdout);
    let line =
        format!("/v2/other/registry.example.com/depot/part/manifests/{digest}?ns=registry.example.com");
    assert!(ended.stdout.contains(&line), "{}", ended.stdout);
}

#[test]
fn a_node_with_a_wrong_file_is_told_which_and_what_it_should_say() {
    let folder = tempfile::tempdir().unwrap();
    let (mut depot, _) = seeded(folder.path(), "depot-check");
    let root = folder.path().join("node");
    let root = root.to_str().unwrap();
    let check = |depot: &Depot, runtime: &str, more: &[&str]| {
        depot.site(&[&["mirrors", "--runtime", runtime, "--check", "--root", root], more].concat())
    };
    for (runtime, below) in RUNTIMES {
        let missing = check(&depot, runtime, &[]);
        assert_eq!(missing.code, 8, "{}", missing.stdout);
        assert!(missing.stdout.contains("is not there"), "{}", missing.stdout);
        written(&depot, runtime, &[], &format!("node/{below}"));
        let right = check(&depot, runtime, &["--format", "json"]).ok().json();
        assert!(right["files"].as_array().unwrap().iter().all(|file| file["wrong"] == serde_json::json!([])));
        assert_eq!(right["endpoints"][0]["lacking"], serde_json::json!([]), "{right}");
    }
    let node = folder.path().join("node");
    let wrong = |file: &str, from: &str, to: &str| {
        let path = node.join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replace(from, to)).unwrap();
    };
    let host = depot.host().to_owned();
    wrong(
        "etc/containerd/certs.d/registry.example.com/hosts.toml",
        &format!("server = \"http://{host}\""),
        "",
    );
    wrong("etc/rancher/k3s/registries.yaml", &format!("http://{host}"), "https://registry-1.docker.io");
    wrong("etc/containers/registries.conf.d/50-fleetpack.conf", "insecure = true", "insecure = false");
    for (runtime, file, line) in [
        (
            "containerd",
            "registry.example.com/hosts.toml",
            format!("server: found nothing, wanted \"http://{host}\""),
        ),
        (
            "k3s",
            "registries.yaml",
            format!("found [\"https://registry-1.docker.io\"], wanted [\"http://{host}\"]"),
        ),
        ("crio", "50-fleetpack.conf", "insecure: found false, wanted true".to_owned()),
    ] {
        let ended = check(&depot, runtime, &[]);
        assert_eq!(ended.code, 8, "{}", ended.stdout);
        for part in [&format!("{file} is wrong:"), &line, "it should say:"] {
            assert!(ended.stdout.contains(part), "wanted `{part}` in:\n{}", ended.stdout);
        }
    }
    // containerd that does not read the tree at all.
    written(&depot, "containerd", &[], "node/etc/containerd/certs.d");
    fs::write(node.join("etc/containerd/config.toml"), "version = 3\n").unwrap();
    let ended = check(&depot, "containerd", &[]);
    assert_eq!(ended.code, 8, "{}", ended.stdout);
    assert!(ended.stdout.contains("config_path = \"/etc/containerd/certs.d\""), "{}", ended.stdout);
    let config = "version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n";
    fs::write(node.join("etc/containerd/config.toml"), config).unwrap();
    check(&depot, "containerd", &[]).ok();

    // Passwords stand in files that only their owner reads, and in no report.
    fs::write(folder.path().join("password"), "swordfish\n").unwrap();
    let login = ["--username", "node", "--password-file", "password"];
    let ended = check(&depot, "containerd", &login);
    assert_eq!(ended.code, 8, "{}", ended.stdout);
    assert!(!ended.stdout.contains("c3dvcmRmaXNo") && !ended.stdout.contains("Basic"), "{}", ended.stdout);
    written(&depot, "k3s", &login, "login");
    let path = folder.path().join("login/registries.yaml");
    assert!(fs::read_to_string(&path).unwrap().contains("swordfish"));
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);

    depot.silence();
    let endpoint = ["--endpoint", &format!("http://{host}")];
    let ended = depot.site(&[&["mirrors", "--runtime", "crio", "--check"], &endpoint[..]].concat());
    assert_eq!(ended.code, 4, "{}", ended.stdout);
    assert!(ended.stdout.contains("cannot be asked"), "{}", ended.stdout);
    depot.site(&["mirrors", "--runtime", "crio", "--endpoint", "http://a/../b"]).refused(2, &["a/../b"]);
}
