//! The main job, end to end: a real registry and a real repository go in at one end, real pods run
//! at the other with no registry but ours, and the release before comes back with no network.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::cluster::{Cluster, with_node};
use crate::support::command::{program, run};
use crate::support::depot::Server;
use crate::support::root::is_root;
use crate::support::shop::Shop;
use crate::support::testbed::script;

/// Image of each Running pod of the shop, by application, once none is going away any more.
fn running(cluster: &Cluster) -> Vec<(String, String)> {
    let begin = Instant::now();
    loop {
        let pods = cluster.get(&["-n", "shop", "pods"]);
        let pods = pods["items"].as_array().unwrap();
        let ending = pods.iter().any(|pod| !pod["metadata"]["deletionTimestamp"].is_null());
        if !ending || begin.elapsed() > Duration::from_mins(1) {
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            let mut found: Vec<(String, String)> = pods
                .iter()
                .filter(|pod| pod["status"]["phase"] == "Running")
                .map(|pod| {
                    (text(&pod["metadata"]["labels"]["app"]), text(&pod["spec"]["containers"][0]["image"]))
                })
                .collect();
            found.sort();
            return found;
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

fn pods(web: &str) -> Vec<(String, String)> {
    [("agent", "agent:1.0"), ("api", "api:1.0"), ("web", web)]
        .map(|(app, image)| (app.to_owned(), format!("registry.example.com/shop/{image}")))
        .into()
}

#[test]
fn a_release_crosses_the_gap_and_the_one_before_comes_back() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::new(folder.path());
    let first = shop.build("v1");
    let second = shop.build("main");
    let Shop { registry, .. } = &shop;
    // The upstream registry is gone before the site sees the first byte.
    run(script("registry").arg("down").arg(folder.path().join("registry"))).ok();
    // A process that has ended gives its port back a moment later.
    let begin = Instant::now();
    while std::net::TcpStream::connect(&registry.address).is_ok() {
        assert!(begin.elapsed() < Duration::from_secs(10), "the upstream registry is stopped");
        std::thread::sleep(Duration::from_millis(50));
    }

    let store = folder.path().join("store");
    let mut serve = shop.fleetpack();
    serve.args(["serve", "--listen", "127.0.0.1:0", "--store"]).arg(&store);
    let serve = Server::start(&mut serve, &folder.path().join("serve.log"));
    let cluster = &with_node(&serve.endpoint);
    let kubeconfig = &cluster.kubeconfig;
    let site = |arguments: &[&str]| {
        let mut command = shop.fleetpack();
        command.args(arguments).arg("--store").arg(&store).env("KUBECONFIG", kubeconfig);
        run(&mut command)
    };
    let apply = |archive: &Path, more: &[&str]| {
        let mut arguments =
            vec!["apply", archive.to_str().unwrap(), "--key", "release.pub", "--timeout", "4m"];
        arguments.extend_from_slice(more);
        site(&arguments)
    };

    // A dry run prints the plan and changes nothing, neither in the cluster nor in the store.
    let plan = apply(&first, &["--dry-run"]).ok();
    assert!(plan.stdout.contains("create") && plan.stdout.contains("Deployment shop/web"), "{}", plan.stdout);
    assert_eq!(cluster.kubectl(&["get", "namespace", "shop"]).code, 1);
    assert!(!store.join("ledger.jsonl").exists());

    apply(&first, &[]).ok();
    assert_eq!(running(cluster), pods("web:1.0"));

    // The second release from a pipe, as from a tape or a network copy.
    let mut cat = program("cat", folder.path()).arg(&second).stdout(Stdio::piped()).spawn().unwrap();
    let mut command = shop.fleetpack();
    command.args(["apply", "-", "--key", "release.pub", "--timeout", "4m", "--store"]).arg(&store);
    command.env("KUBECONFIG", kubeconfig).stdin(cat.stdout.take().unwrap());
    let _ = run(&mut command).ok();
    cat.wait().unwrap();
    assert_eq!(running(cluster), pods("web:2.0"));
    let greeting = || {
        cluster
            .kubectl(&["-n", "shop", "get", "configmap", "shop", "-o", "jsonpath={.data.greeting}"])
            .ok()
            .stdout
    };
    assert_eq!(greeting(), "no");

    // Applying what runs changes nothing.
    let again = apply(&second, &["--dry-run"]).ok();
    assert!(again.stdout.contains("nothing to change"), "{}", again.stdout);

    // An older release is refused by its sequence, and the cluster is left alone.
    apply(&first, &[]).refused(3, &["sequence", "--allow-downgrade"]);
    assert_eq!(running(cluster), pods("web:2.0"));

    site(&["rollback", "--timeout", "4m"]).ok();
    assert_eq!(running(cluster), pods("web:1.0"));
    assert_eq!(greeting(), "yes");

    let status = site(&["status", "--format", "json"]).ok().json();
    assert_eq!(status["active"][0]["version"], "v1", "{status}");
    assert_eq!(status["releases"].as_array().unwrap().len(), 2);
    let history = site(&["history"]).ok().stdout;
    assert!(history.contains("rollback"), "{history}");

    // Git serves what runs.
    let clone = folder.path().join("clone");
    run(program("git", folder.path())
        .args(["clone", "--quiet", &format!("{}/git/shop.git", serve.endpoint)])
        .arg(&clone))
    .ok();
    assert!(clone.join("deploy/base/shop.yaml").exists());
}

/// Another tool's view of the archive agrees with ours and with the registry's.
#[test]
fn peers_read_the_archive() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::new(folder.path());
    let archive = shop.build("v2");
    let document =
        run(shop.fleetpack().arg("inspect").arg(&archive).args(["--key", "release.pub", "--format", "json"]))
            .ok()
            .json();
    let images = document["release"]["images"].as_array().unwrap();
    assert_eq!(images.len(), 6, "the manifests of the second release use six references");

    for image in images {
        let reference = image["reference"].as_str().unwrap();
        let digest = image["digest"].as_str().unwrap();
        let upstream = shop.images.iter().find(|(name, _)| name == reference).unwrap();
        assert_eq!(digest, upstream.1, "{reference} has its upstream digest");
        let name = format!("oci-archive:{}:{reference}", archive.display());
        let raw = shop.tool("skopeo").args(["inspect", "--raw", &name]).output().unwrap();
        assert!(raw.status.success(), "{}", String::from_utf8_lossy(&raw.stderr));
        assert_eq!(fleetpack::model::Digest::of(&raw.stdout).to_string(), digest);
        let copy = format!("dir:{}", folder.path().join("copy").display());
        run(shop.tool("skopeo").args(["copy", "--quiet", "--all", &name, &copy])).ok();
        fs::remove_dir_all(folder.path().join("copy")).unwrap();
    }

    let names = run(program("tar", folder.path()).arg("tf").arg(&archive)).ok().stdout;
    assert!(names.starts_with("oci-layout\nindex.json\nblobs/sha256/"), "{names:.200}");

    // `git clone` of the bundle inside has the revision.
    let unpacked = folder.path().join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    run(program("tar", folder.path()).arg("xf").arg(&archive).arg("-C").arg(&unpacked)).ok();
    let blob = |digest: &str| unpacked.join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
    let bundle = blob(document["release"]["git"]["bundle"].as_str().unwrap());
    let clone = folder.path().join("clone");
    run(program("git", folder.path()).args(["clone", "--quiet"]).args([&bundle, &clone])).ok();
    let head =
        run(program("git", &clone).args(["-C", clone.to_str().unwrap(), "rev-parse", "HEAD"])).ok().stdout;
    assert_eq!(head.trim(), shop.repository.git(&["rev-parse", "v2"]));

    // The real cosign verifies the signature over the release manifest, offline, by the public key alone.
    let manifest = blob(document["digest"].as_str().unwrap());
    let bundle = fs::read_dir(unpacked.join("blobs/sha256"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            fs::metadata(path).unwrap().len() < 4096
                && fs::read_to_string(path).is_ok_and(|text| {
                    text.contains("dev.sigstore.bundle.v0.3") && text.contains("messageSignature")
                })
        })
        .unwrap();
    let mut cosign = shop.tool("cosign3");
    cosign
        .args(["verify-blob", "--insecure-ignore-tlog", "--key", "release.pub", "--bundle"])
        .arg(&bundle)
        .arg(&manifest);
    run(&mut cosign).ok();

    // Two builds of one revision from one clone give the same bytes, the signature apart.
    let build = |name: &str| {
        run(shop.fleetpack().args(["build", "shop", "--revision", "v2", "-o", name])).ok();
        fleetpack::model::Digest::of(&fs::read(folder.path().join(name)).unwrap())
    };
    assert_eq!(build("one.tar"), build("two.tar"));

    // From standard input, in one pass.
    let mut verify = shop.fleetpack();
    verify.args(["verify", "-", "--key", "release.pub"]).stdin(fs::File::open(&archive).unwrap());
    run(&mut verify).ok();
}
