//! The demo ends well, with nothing but the program itself, and on a real cluster.

use crate::support::cluster::control_plane;
use crate::support::command::{fleetpack, run};
use crate::support::depot::Depot;

#[test]
fn the_demo_wants_nothing_but_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = fleetpack(folder.path());
    // No git, no kustomize, no kubectl, no cluster.
    demo.arg("demo").env("PATH", "/nonexistent").env("TMPDIR", folder.path());
    let told = run(&mut demo).ok().stderr;
    for part in [
        "build",
        "verify",
        "serve",
        "apply shop-v2.0",
        "rollback",
        "cloned",
        "pulled",
        "done: release 1.0 is back",
    ] {
        assert!(told.contains(part), "wanted `{part}` in:\n{told}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn the_demo_on_a_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = control_plane();
    let mut demo = fleetpack(folder.path());
    demo.args(["demo", "--cluster"]).env("KUBECONFIG", &cluster.kubeconfig).env("TMPDIR", folder.path());
    let told = run(&mut demo).ok().stderr;
    assert!(told.contains("shop v1.0 runs again and is healthy"), "{told}");
    let release = ["-n", "fleetpack-demo", "get", "configmap", "shop", "-o", "jsonpath={.data.release}"];
    assert_eq!(cluster.kubectl(&release).ok().stdout, "1.0");
}

/// A site whose cluster takes releases from the store by itself goes back by seeding alone.
#[test]
fn a_site_that_only_seeds_goes_back_too() {
    let folder = tempfile::tempdir().unwrap();
    let depot = Depot::new(folder.path(), "depot-seeds", &folder.path().join("no-kubeconfig"));
    let (one, two) = (depot.build("1", ""), depot.build("2", ""));
    let served = || {
        let status = depot.site(&["status", "--format", "json"]).ok().json();
        let releases = status["releases"].as_array().unwrap().clone();
        assert!(releases.iter().all(|release| release["complete"] == true), "{status}");
        let served: Vec<_> = releases.iter().filter(|release| release["served"] == true).collect();
        (releases.len(), served.first().map(|release| release["version"].as_str().unwrap().to_owned()))
    };
    depot.apply(&one, &["--seed-only"]).ok();
    depot.site(&["rollback", "--seed-only"]).refused(4, &["no release of `depot-seeds`"]);
    depot.apply(&two, &["--seed-only"]).ok();
    assert_eq!(served(), (2, Some("2".to_owned())));
    depot.site(&["rollback", "--seed-only"]).ok();
    assert_eq!(served(), (2, Some("1".to_owned())));
    depot.site(&["rollback", "--seed-only"]).ok();
    assert_eq!(served(), (2, Some("2".to_owned())));
    assert_eq!(depot.site(&["history"]).ok().stdout.matches("seed ").count(), 4);
}
