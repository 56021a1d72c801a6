//! A site with a registry of its own: what its cluster runs, what its nodes pull, what its tags mean
//! in between.

use std::fs;

use crate::push::push;
use crate::support::carried::Carried;
use crate::support::cluster::control_plane;
use crate::support::command::{fleetpack, program, run};
use crate::support::ctr::Ctr;
use crate::support::depot::Depot;
use crate::support::http::request;
use crate::support::registries::Process;
use crate::support::root::is_root;
use crate::support::testbed::{Registry, script};

/// The digest that a tag of the pushed image leads to.
fn tag(address: &str) -> Option<String> {
    let path = "/v2/fleet/registry.example.com/depot/part/manifests/1";
    let accept = [("Accept", "application/vnd.oci.image.manifest.v1+json")];
    let answer = request(address, "HEAD", path, &accept, b"");
    (answer.status == 200).then(|| answer.header("docker-content-digest").to_owned())
}

#[test]
fn a_tag_that_means_something_else_moves_when_the_cluster_does() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cluster = control_plane();
    let depot = Depot::new(folder.path(), "depot-push", &cluster.kubeconfig);
    let registry = Registry::up(&folder.path().join("registry"), &[]);
    let at = registry.address.clone();
    let one = depot.build("1", "");
    fs::remove_dir_all(folder.path().join("images")).unwrap();
    let mut image = script("image");
    image.args(["make", "--name", "registry.example.com/depot/part:1", "--file", "etc/part=other"]);
    run(image.arg("--oci").arg(folder.path().join("images"))).ok();
    let two = depot.build("2", "");
    let value = || {
        let map = ["-n", "depot-push", "get", "configmap", "depot", "-o", "jsonpath={.data.value}"];
        cluster.kubectl(&map).stdout
    };

    depot.apply(&one, &["--registry", &format!("{at}/fleet")]).ok();
    let first = tag(&at).unwrap();
    // It is all there, and the tag still leads to what runs.
    let seeded = depot.apply(&two, &["--seed-only", "--format", "json"]).ok().json();
    assert_eq!(seeded["registry"]["heldTags"], 1, "{seeded}");
    assert_eq!(tag(&at).as_ref(), Some(&first));
    depot.apply(&two, &[]).ok();
    let second = tag(&at).unwrap();
    assert_ne!(first, second);
    assert_eq!(value(), "2");
    depot.site(&["rollback"]).ok();
    assert_eq!((tag(&at), value()), (Some(first.clone()), "1".to_owned()));
    // Without the registry nothing is begun.
    let before = fs::read(folder.path().join("store/ledger.jsonl")).unwrap();
    registry.down();
    depot.apply(&two, &[]).refused(1, &["no answer from", &at]);
    assert_eq!(value(), "1");
    assert_eq!(fs::read(folder.path().join("store/ledger.jsonl")).unwrap(), before);
}

#[test]
fn nodes_pull_from_the_registry_by_the_names_of_upstream() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let carried = Carried::new(folder.path());
    let one = carried.build("1", &[100_000]);
    let registry = Registry::up(&folder.path().join("registry"), &[]);
    push(&carried, &one, &registry.address, &[]).ok();
    let hosts = folder.path().join("certs.d");
    let mut mirrors = carried.fleetpack();
    mirrors.args(["mirrors", "--runtime", "containerd", "--store", "store", "--write"]);
    run(mirrors.arg(&hosts)).ok();
    let ctr = Ctr::up(folder.path());
    ctr.pull(&hosts, "registry.example.com/carried/part:1").ok();
    for absent in ["registry.example.com/carried/absent:1", "quay.io/carried/part:1"] {
        let ended = ctr.pull(&hosts, absent);
        assert_ne!(ended.code, 0, "{absent}");
        assert!(ended.stderr.contains("not found") && !ended.stderr.contains("lookup"), "{}", ended.stderr);
    }
}

/// Certificates are checked wherever the registry is not this machine itself, so the registry gets a
/// name that only this test's processes know.
#[test]
fn a_registry_behind_tls_is_trusted_by_the_sites_own_authority() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let carried = Carried::new(folder.path());
    let archive = carried.build("1", &[100_000]);
    let openssl = |arguments: &str| {
        let mut command = program("openssl", folder.path());
        run(command.current_dir(folder.path()).args(arguments.split(' '))).ok();
    };
    openssl("ecparam -name prime256v1 -genkey -noout -out ca.key");
    openssl(
        "req -x509 -new -key ca.key -subj /CN=site -days 30 -out ca.crt -addext basicConstraints=critical,CA:TRUE",
    );
    let config = "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nnew_certs_dir=.\nserial=serial\ndefault_md=sha256\n\
                  policy=p\nx509_extensions=e\nunique_subject=no\n[p]\ncommonName=supplied\n[e]\n\
                  subjectAltName=DNS:registry.site\n";
    for (name, content) in [("ca.cnf", config), ("index", ""), ("serial", "07\n")] {
        fs::write(folder.path().join(name), content).unwrap();
    }
    let certificate = |name: &str, dates: &str| {
        openssl(&format!("ecparam -name prime256v1 -genkey -noout -out {name}.key"));
        openssl(&format!("req -new -key {name}.key -subj /CN=registry.site -out {name}.csr"));
        let ca = "ca -batch -notext -config ca.cnf -cert ca.crt -keyfile ca.key";
        openssl(&format!("{ca} -in {name}.csr {dates} -out {name}.crt"));
    };
    certificate("good", "-days 30");
    certificate("expired", "-startdate 200101000000Z -enddate 200201000000Z");
    let hosts = folder.path().join("hosts");
    fs::write(&hosts, "127.0.0.1 registry.site localhost\n").unwrap();
    let inside = |address: &str| {
        let port = address.rsplit_once(':').unwrap().1;
        let mut push = fleetpack(folder.path());
        push.args(["apply", "--seed-only", "--key", "release.pub", "--store", "store"]).arg(&archive);
        push.arg("--registry").arg(format!("registry.site:{port}/fleet"));
        // A mount namespace of its own, in which the name stands in /etc/hosts.
        let mut shell = program("unshare", folder.path());
        shell.current_dir(folder.path()).args(["--mount", "sh", "-c"]);
        shell.arg("mount --bind \"$0\" /etc/hosts && exec \"$@\"").arg(&hosts);
        run(shell.arg(push.get_program()).args(push.get_args()))
    };
    let serve = |name: &str| {
        let path = |kind: &str| folder.path().join(format!("{name}.{kind}")).display().to_string();
        let tls = format!("  tls: {{certificate: \"{}\", key: \"{}\"}}\n", path("crt"), path("key"));
        Process::distribution(&folder.path().join(format!("tls-{name}")), &tls, "")
    };
    let good = serve("good");
    inside(&good.address).refused(1, &["certificate", "certs.d/registry.site:", "ca.crt"]);
    let trust = |address: &str| {
        let port = address.rsplit_once(':').unwrap().1;
        let own = folder.path().join(format!(".config/containers/certs.d/registry.site:{port}"));
        fs::create_dir_all(&own).unwrap();
        fs::copy(folder.path().join("ca.crt"), own.join("ca.crt")).unwrap();
    };
    trust(&good.address);
    inside(&good.address).ok();
    let record = fs::read_to_string(folder.path().join("store/registry.json")).unwrap();
    assert!(record.contains("\"https://registry.site:"), "{record}");
    let expired = serve("expired");
    trust(&expired.address);
    inside(&expired.address).refused(1, &["certificate", "xpired"]);
}
