//! What the site does when something is wrong: each refusal names what it found, and the site
//! stays on a whole release.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::cluster::{Cluster, control_plane};
use crate::support::command::{Ended, run};
use crate::support::depot::Depot;
use crate::support::root::is_root;

fn value(cluster: &Cluster, depot: &Depot) -> String {
    let map =
        cluster.kubectl(&["-n", &depot.name, "get", "configmap", "depot", "-o", "jsonpath={.data.value}"]);
    map.stdout
}

fn ledger(depot: &Depot) -> String {
    fs::read_to_string(depot.folder.join("store/ledger.jsonl")).unwrap_or_default()
}

/// The first name in the store's own index: what wins over the others.
fn first_name(depot: &Depot) -> String {
    let bytes = fs::read(depot.folder.join("store/index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap().to_owned()
}

#[test]
fn a_release_is_applied_changed_pruned_and_rolled_back() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cluster = control_plane();
    let depot = Depot::new(folder.path(), "depot-way", &cluster.kubeconfig);
    let extra = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: extra, namespace: depot-way}\n";
    let one = depot.build("1", extra);
    let two = depot.build("2", "");
    let three = depot.build("3", "");
    depot.apply(&one, &[]).ok();
    assert_eq!(value(cluster, &depot), "1");
    depot.apply(&two, &[]).ok();
    assert_eq!(value(cluster, &depot), "2");
    assert_eq!(cluster.kubectl(&["-n", "depot-way", "get", "configmap", "extra"]).code, 1, "pruned");

    // The generation that a clone may be reading from stays until the next switch.
    let generations = || fs::read_dir(folder.path().join("store/git/depot-way")).unwrap().count();
    assert_eq!(generations(), 2);

    // Without `to`, back and forth; what was pruned is there again.
    depot.site(&["rollback"]).ok();
    assert_eq!(value(cluster, &depot), "1");
    cluster.kubectl(&["-n", "depot-way", "get", "configmap", "extra"]).ok();
    depot.site(&["rollback", "--to", "2"]).ok();
    assert_eq!(value(cluster, &depot), "2");
    depot.site(&["rollback", "--to", "9"]).refused(2, &["`9`"]);

    // Seeded and not yet applied: applying it takes nothing in again. A blob that a cut ingest left
    // behind goes.
    let leftover = folder.path().join("store/blobs/sha256").join("0".repeat(64));
    fs::write(&leftover, "left over").unwrap();
    depot.apply(&three, &["--seed-only"]).ok();
    assert!(!leftover.exists());
    assert_eq!(first_name(&depot), "fleetpack/depot-way:2-release", "names lead to what runs");
    // The third release pushes out the one that ran longest ago; the last two stay complete.
    let report = depot.apply(&three, &["--format", "json"]).ok().json();
    assert_eq!(report["stored"], 0, "{report}");
    assert_eq!(first_name(&depot), "fleetpack/depot-way:3-release");
    assert!(generations() <= 2);
    let status = depot.site(&["status", "--format", "json"]).ok().json();
    let kept: Vec<&str> = status["releases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|release| release["version"].as_str().unwrap())
        .collect();
    assert_eq!(kept, ["2", "3"], "{status}");
    assert!(status["releases"].as_array().unwrap().iter().all(|release| release["complete"] == true));
    depot.site(&["rollback"]).ok();
    assert_eq!(value(cluster, &depot), "2");
    assert_eq!(first_name(&depot), "fleetpack/depot-way:2-release");
}

#[test]
fn an_older_release_wants_a_reason_that_the_ledger_keeps() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cluster = control_plane();
    let depot = Depot::new(folder.path(), "depot-older", &cluster.kubeconfig);
    let (one, two) = (depot.build("1", ""), depot.build("2", ""));
    depot.apply(&two, &[]).ok();
    depot.apply(&one, &[]).refused(3, &["older", "sequence 1 < 2", "--allow-downgrade"]);
    depot.apply(&one, &["--dry-run"]).refused(3, &["older"]);
    assert_eq!(value(cluster, &depot), "2");
    depot.apply(&one, &["--allow-downgrade", "two eats the logs"]).ok();
    assert_eq!(value(cluster, &depot), "1");
    assert!(depot.site(&["history"]).ok().stdout.contains("two eats the logs"));
}

#[test]
fn a_cluster_that_cannot_be_reached_changes_nothing() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cluster = control_plane();
    let mut depot = Depot::new(folder.path(), "depot-down", &cluster.kubeconfig);
    let one = depot.build("1", "");
    let config = cluster.changed_kubeconfig(folder.path(), |mut config| {
        // The discard port: nothing answers there.
        config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9".into();
        config
    });
    depot.kubeconfig = config;
    depot.apply(&one, &["--endpoint", "127.0.0.1:5050"]).refused(2, &["`127.0.0.1:5050`"]);
    depot.apply(&one, &[]).refused(1, &["https://127.0.0.1:9"]);
    assert!(!ledger(&depot).contains("\"begin\""), "the cluster was not to be touched");
    // One that answers and refuses.
    depot.kubeconfig = cluster.changed_kubeconfig(folder.path(), |mut config| {
        config["users"][0]["user"] = serde_json::json!({"token": "nobody"});
        config
    });
    depot.apply(&one, &[]).refused(1, &["nauthorized"]);
    assert!(!ledger(&depot).contains("\"begin\""), "the cluster was not to be touched");
    depot.kubeconfig = cluster.kubeconfig.clone();
    // A plan needs no store, and makes none.
    fs::create_dir(folder.path().join("empty")).unwrap();
    for store in ["none", "empty"] {
        let mut command = depot.fleetpack();
        command.args(["apply", "--dry-run", "--key", "release.pub", "--store", store]).arg(&one);
        assert!(run(&mut command).ok().stdout.contains("this was a dry run"));
    }
    assert!(!folder.path().join("none").exists());
    assert_eq!(fs::read_dir(folder.path().join("empty")).unwrap().count(), 0);
    depot.apply(&one, &[]).ok();
}

#[test]
fn a_namespace_that_is_going_away_is_named() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cluster = control_plane();
    let depot = Depot::new(folder.path(), "depot-leaving", &cluster.kubeconfig);
    let one = depot.build("1", "");
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: depot-leaving}\n---\napiVersion: v1\nkind: ConfigMap\n\
                     metadata: {name: holds, namespace: depot-leaving, finalizers: [example.com/hold]}\n";
    cluster.put(folder.path(), namespace, &[]);
    cluster.kubectl(&["delete", "namespace", "depot-leaving", "--wait=false"]).ok();
    let ended = depot.apply(&one, &[]).refused(1, &["depot-leaving"]);
    assert!(
        ended.stderr.contains("terminating") || ended.stderr.contains("being deleted"),
        "{}",
        ended.stderr
    );
    let release = [
        "-n",
        "depot-leaving",
        "patch",
        "configmap",
        "holds",
        "--type=merge",
        "-p",
        r#"{"metadata":{"finalizers":[]}}"#,
    ];
    cluster.kubectl(&release).ok();
}

#[test]
fn a_release_that_does_not_become_healthy_is_rolled_back_by_itself() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cluster = control_plane();
    let depot = Depot::new(folder.path(), "depot-sick", &cluster.kubeconfig);
    // No node runs here, so a pod never starts: health cannot come.
    let pod = "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: sick, namespace: depot-sick}\nspec:\n  \
               selector: {matchLabels: {app: sick}}\n  template:\n    metadata: {labels: {app: sick}}\n    spec: \
               {containers: [{name: sick, image: \"registry.example.com/depot/part:1\"}]}\n";
    let (one, two) = (depot.build("1", ""), depot.build("2", pod));
    // The first release has none before it to go back to.
    let first = Depot::new(&folder.path().join("first"), "depot-first", &cluster.kubeconfig);
    let alone = first.build("1", &pod.replace("depot-sick", "depot-first"));
    first.apply(&alone, &["--timeout", "3s"]).refused(6, &["Deployment depot-first/sick"]);

    depot.apply(&one, &[]).ok();
    depot.apply(&two, &["--timeout", "3s"]).refused(5, &["Deployment depot-sick/sick", "was restored"]);
    assert_eq!(value(cluster, &depot), "1");
    assert_eq!(cluster.kubectl(&["-n", "depot-sick", "get", "deployment", "sick"]).code, 1, "pruned again");
    let status = depot.site(&["status", "--format", "json"]).ok().json();
    assert_eq!(status["active"][0]["version"], "1", "{status}");

    depot.apply(&two, &["--timeout", "3s", "--no-rollback"]).refused(6, &["Deployment depot-sick/sick"]);
    assert_eq!(value(cluster, &depot), "2");
    depot.site(&["rollback"]).ok();
    assert_eq!(value(cluster, &depot), "1");
}

#[test]
fn a_gate_that_nobody_answers_says_which_line_starts_it() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cluster = control_plane();
    let mut depot = Depot::new(folder.path(), "depot-gate", &cluster.kubeconfig);
    let one = depot.build("1", "");
    depot.silence();
    depot.apply(&one, &[]).refused(4, &["fleetpack serve --store"]);
    depot.apply(&one, &["--seed-only"]).refused(4, &["fleetpack serve --store"]);
    assert!(!ledger(&depot).contains("\"begin\""));
    depot.serve();
    depot.apply(&one, &["--seed-only"]).ok();
    assert!(!ledger(&depot).contains("\"begin\""));
    assert!(ledger(&depot).contains("\"seeded\""));
    depot.apply(&one, &[]).ok();
}

#[test]
fn two_at_once() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cluster = control_plane();
    let depot = Depot::new(folder.path(), "depot-twice", &cluster.kubeconfig);
    let one = depot.build("1", "");
    // The first one waits for its archive: a pipe that nobody writes to holds it before the head,
    // so the store's lock is held by a stand-in that takes it as fleetpack does.
    fs::create_dir_all(folder.path().join("store")).unwrap();
    let lock = fleetpack::fsio::FolderLock::take(&folder.path().join("store"), "apply").unwrap();
    depot.apply(&one, &[]).refused(7, &["held by another fleetpack"]);
    depot.site(&["rollback"]).refused(7, &["held by another fleetpack"]);
    drop(lock);
    depot.apply(&one, &[]).ok();
    // And two real ones: one of them wins, the other is told or comes after.
    let children: Vec<_> = (0..2).map(|_| depot.apply_command(&one, &[]).spawn().unwrap()).collect();
    let mut codes: Vec<i32> =
        children.into_iter().map(|mut child| child.wait().unwrap().code().unwrap()).collect();
    codes.sort_unstable();
    assert!(codes == [0, 7] || codes == [0, 0], "{codes:?}");
}

/// Runs `command` where `folder` is read-only, in a mount namespace of its own.
fn read_only(command: &Command, folder: &Path) -> Ended {
    let mut inside = Command::new("unshare");
    let script = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" && shift && exec \"$@\"";
    inside.args(["--mount", "sh", "-c", script, "sh"]).arg(folder);
    inside.arg(command.get_program()).args(command.get_args()).env_clear();
    inside.envs(command.get_envs().filter_map(|(name, value)| value.map(|value| (name, value))));
    run(inside.current_dir(command.get_current_dir().unwrap()))
}

#[test]
fn a_read_only_medium_is_enough_and_a_read_only_store_can_be_read() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cluster = control_plane();
    let depot = Depot::new(folder.path(), "depot-stick", &cluster.kubeconfig);
    let built = depot.build("1", "");
    let stick = folder.path().join("stick");
    fs::create_dir(&stick).unwrap();
    let archive = stick.join("depot.tar");
    fs::rename(built, &archive).unwrap();
    let with = |arguments: &[&str]| {
        let mut command = depot.fleetpack();
        command.args(arguments).arg(&archive).args(["--key", "release.pub"]);
        read_only(&command, &stick)
    };
    with(&["verify"]).ok();
    with(&["inspect"]).ok();
    with(&["apply", "--store", "store", "--dry-run"]).ok();
    with(&["apply", "--store", "store"]).ok();
    assert_eq!(fs::read_dir(&stick).unwrap().count(), 1, "nothing stands beside the archive");

    let store = folder.path().join("store");
    let on_store = |arguments: &[&str]| {
        let mut command = depot.fleetpack();
        command.args(arguments).args(["--store", "store"]);
        read_only(&command, &store)
    };
    assert!(on_store(&["status"]).ok().stdout.contains("depot-stick 1"));
    on_store(&["history"]).ok();
    on_store(&["mirrors", "--runtime", "containerd"]).ok();
    on_store(&["rollback", "--to", "1", "--dry-run"]).ok();
    on_store(&["rollback", "--to", "1"]).refused(1, &["store/lock", "Read-only"]);
}

/// Kills `apply` with SIGKILL when the ledger has `lines` lines; false when it ended before.
fn kill_at(depot: &Depot, archive: &Path, lines: usize) -> bool {
    let mut child = depot.apply_command(archive, &["--quiet"]).spawn().unwrap();
    let begin = Instant::now();
    loop {
        if ledger(depot).lines().count() >= lines {
            child.kill().unwrap();
            child.wait().unwrap();
            return true;
        }
        if child.try_wait().unwrap().is_some() || begin.elapsed() > Duration::from_mins(2) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn killed_at_every_ledger_step_the_same_command_finishes() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cluster = control_plane();
    let depot = Depot::new(folder.path(), "depot-cut", &cluster.kubeconfig);
    let archives: Vec<_> = (1..=12).map(|value| depot.build(&value.to_string(), "")).collect();
    depot.apply(&archives[0], &[]).ok();
    let mut kills = 0;
    for (step, archive) in archives.iter().enumerate().skip(1) {
        let before = ledger(&depot).lines().count();
        if !kill_at(&depot, archive, before + step) {
            break;
        }
        kills += 1;
        // Whatever it was cut at, the ledger reads and names one active release.
        let status = depot.site(&["status", "--format", "json"]).ok().json();
        assert_eq!(status["active"].as_array().unwrap().len(), 1, "{status}");
        depot.apply(archive, &[]).ok();
        assert_eq!(value(cluster, &depot), (step + 1).to_string());
        let status = depot.site(&["status", "--format", "json"]).ok().json();
        assert_eq!(status["unfinished"].as_array().unwrap().len(), 0, "{status}");
        assert!(status["releases"].as_array().unwrap().iter().all(|release| release["complete"] == true));
    }
    assert!(
        kills >= 5,
        "an apply writes at least: seeded, begin, stages, healthy, pruned; killed at {kills}"
    );
}

#[test]
fn the_command_line_refuses_what_makes_no_sense() {
    let folder = tempfile::tempdir().unwrap();
    let bad = |arguments: &[&str], parts: &[&str]| {
        run(crate::support::command::fleetpack(folder.path()).args(arguments)).refused(2, parts);
    };
    bad(&["apply", "x.tar"], &["--key"]);
    bad(&["apply", "x.tar", "--key", "k", "--dry-run", "--seed-only"], &["--seed-only"]);
    bad(&["apply", "x.tar", "--key", "k", "--timeout", "soon"], &["soon", "90s"]);
    bad(&["build", "--platform", "amd64"], &["os/architecture"]);
    bad(&["serve", "--archive", "x.tar"], &["--key"]);
    let prefix = folder.path().join("k");
    let key = folder.path().join("k.key");
    run(crate::support::command::fleetpack(folder.path())
        .args(["keygen", "--output-key-prefix"])
        .arg(prefix))
    .ok();
    bad(&["sign", "-", "--key", key.to_str().unwrap()], &["standard input"]);
    bad(&["frobnicate"], &["frobnicate"]);
}
