//! `fleetpack watch`: what differs comes back by itself, and nothing else happens.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::cluster::{Cluster, Line, control_plane};
use crate::support::command::run;
use crate::support::depot::Depot;
use crate::support::root::is_root;

/// A watch that runs, and its lines.
struct Watch {
    child: Child,
    lines: mpsc::Receiver<Value>,
}

impl Watch {
    fn start(depot: &Depot, arguments: &[&str]) -> Self {
        let mut command = depot.fleetpack();
        command.args(["watch", "--store", "store", "--interval", "1s", "--format", "json"]).args(arguments);
        let log = fs::File::create(depot.folder.join("watch.log")).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).unwrap());
            }
        });
        Self { child, lines }
    }

    /// The next line, which must be of this event.
    #[track_caller]
    fn next(&self, event: &str) -> Value {
        let line = self.lines.recv_timeout(Duration::from_mins(2)).expect("a line");
        assert_eq!(line["event"], event, "{line}");
        line
    }

    /// Ends it with SIGTERM; answers with the lines that were not read.
    #[track_caller]
    fn stop(mut self) -> Vec<Value> {
        run(Command::new("kill").arg(self.child.id().to_string())).ok();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        let mut lines: Vec<Value> = self.lines.iter().collect();
        assert_eq!(lines.pop().unwrap()["event"], "stopped");
        lines
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sets the depot's value as somebody else.
fn edit(cluster: &Cluster, name: &str, value: &str) {
    let patch = format!("{{\"data\":{{\"value\":\"{value}\"}}}}");
    let common = ["patch", "configmap", "depot", "-n", name, "--type=merge", "--field-manager", "rival"];
    cluster.kubectl(&[&common[..], &["-p", &patch]].concat()).ok();
}

fn value(cluster: &Cluster, name: &str) -> String {
    cluster.kubectl(&["-n", name, "get", "configmap", "depot", "-o", "jsonpath={.data.value}"]).stdout
}

/// Waits until the cluster says so.
#[track_caller]
fn until(what: &str, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_mins(2), "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn once_heals_what_differs_from_the_store_alone() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cluster = control_plane();
    let name = "depot-once";
    let mut depot = Depot::new(folder.path(), name, &cluster.kubeconfig);
    let ended = run(depot.fleetpack().args(["watch", "--once", "--store", "nowhere"]));
    assert!(ended.code == 8 && ended.stdout.contains("waiting: there is no store at `nowhere` yet"));
    let ended = depot.site(&["watch", "--once"]);
    assert!(ended.code == 8 && ended.stdout.contains("waiting: nothing was applied"), "{}", ended.stdout);

    let claim = format!(
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: extra, namespace: {name}}}\ndata: {{a: b}}\n"
    );
    let one = depot.build("1", &claim);
    depot.apply(&one, &[]).ok();
    fs::remove_file(&one).unwrap();
    let quiet = depot.site(&["watch", "--once"]).ok().stdout;
    assert!(quiet.lines().count() == 1 && quiet.contains("depot-once 1: watching "), "{quiet}");

    // Not even the server of images is needed, and what others put beside the release stays.
    depot.silence();
    cluster.put(folder.path(), &claim.replace("name: extra", "name: foreign"), &[]);
    cluster.kubectl(&["delete", "namespace", name]).ok();
    let healed = depot.site(&["watch", "--once"]).ok().stdout;
    for line in [
        "depot-once 1: healed Namespace depot-once was missing",
        "depot-once 1: healed ConfigMap depot-once/depot was missing",
        "depot-once 1: healed ConfigMap depot-once/extra was missing",
    ] {
        assert!(healed.contains(line), "wanted `{line}` in:\n{healed}");
    }
    assert_eq!(value(cluster, name), "1");
    cluster.kubectl(&["delete", "configmap", "fleetpack-depot-once", "-n", "fleetpack-system"]).ok();
    edit(cluster, name, "9");
    let healed = depot.site(&["watch", "--once"]).ok().stdout;
    let line = "healed ConfigMap depot-once/depot: data.value: wanted \"1\", found \"9\" (changed by rival)";
    assert!(healed.contains(line), "{healed}");
    let history = depot.site(&["history"]).ok().stdout;
    assert!(history.contains("heal      depot-once 1"), "{history}");
    assert!(history.contains("    ConfigMap depot-once/depot"), "{history}");
    // The inventory is whole again, and a rollback still goes nowhere: nothing ran before.
    let status = depot.site(&["status", "--exit-code"]).ok().stdout;
    assert!(status.contains("nothing differs"), "{status}");
    depot.site(&["rollback"]).refused(4, &["that ran before"]);

    // What can never change is told, and not tried.
    let stand_in = json!({"metadata": {"labels": {"applyset.kubernetes.io/part-of": "applyset-other-v1"}}});
    let common = ["patch", "configmap", "extra", "-n", name, "--type=merge", "-p"];
    cluster.kubectl(&[&common[..], &[&stand_in.to_string()]].concat()).ok();
    let ended = depot.site(&["watch", "--once"]);
    assert_eq!(ended.code, 8, "{}", ended.stdout);
    assert!(ended.stdout.contains("cannot heal ConfigMap depot-once/extra: it belongs to another set"));
}

#[test]
fn for_ever_it_heals_yields_and_gives_up_fights() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cluster = control_plane();
    let name = "depot-watch";
    let depot = Depot::new(folder.path(), name, &cluster.kubeconfig);
    let (one, two) = (depot.build("1", ""), depot.build("2", ""));
    let watch = Watch::start(&depot, &[]);
    watch.next("waiting");
    depot.apply(&one, &["--seed-only"]).ok();
    let line = watch.next("waiting");
    assert_eq!(line["name"], name, "{line}");
    depot.apply(&one, &[]).ok();
    let mut line = watch.lines.recv_timeout(Duration::from_mins(1)).unwrap();
    while line["event"] == "waiting" {
        // It may have looked while the apply ran.
        line = watch.lines.recv_timeout(Duration::from_mins(1)).unwrap();
    }
    assert_eq!(line["event"], "watching", "{line}");

    edit(cluster, name, "9");
    let line = watch.next("healed");
    assert_eq!(line["object"]["name"], "depot");
    assert_eq!(line["changedBy"], json!(["rival"]));
    assert_eq!(line["fields"], json!([{"path": "data.value", "wanted": "1", "found": "9"}]));
    assert_eq!(value(cluster, name), "1");

    // While another holds the store nothing is healed; afterwards it is.
    let lock = fleetpack::fsio::FolderLock::take(&folder.path().join("store"), "gc").unwrap();
    edit(cluster, name, "8");
    assert!(watch.lines.recv_timeout(Duration::from_secs(4)).is_err(), "nothing is said of waiting for it");
    assert_eq!(value(cluster, name), "8");
    drop(lock);
    watch.next("healed");

    // Applies do not fail because of it, even where it has its hands full.
    for (archive, wanted) in [(&two, "2"), (&two, "2")] {
        edit(cluster, name, "7");
        depot.apply(archive, &[]).ok();
        until("the release is as applied", || value(cluster, name) == wanted);
    }
    let mut line = watch.lines.recv_timeout(Duration::from_mins(1)).unwrap();
    while line["event"] != "watching" {
        line = watch.lines.recv_timeout(Duration::from_mins(1)).unwrap();
    }
    assert_eq!(line["version"], "2", "{line}");
    depot.site(&["rollback"]).ok();
    until("it followed the rollback", || value(cluster, name) == "1");
    let mut line = watch.lines.recv_timeout(Duration::from_mins(1)).unwrap();
    while line["event"] != "watching" {
        line = watch.lines.recv_timeout(Duration::from_mins(1)).unwrap();
    }

    // Somebody who does not give up is given way to, once told.
    for round in 0..3 {
        edit(cluster, name, &format!("fight {round}"));
        watch.next("healed");
    }
    edit(cluster, name, "fight for ever");
    let line = watch.next("contested");
    assert_eq!(line["changedBy"], json!(["rival"]), "{line}");
    // Others of the release are looked after all the same.
    cluster.kubectl(&["label", "namespace", name, "applyset.kubernetes.io/part-of-"]).ok();
    let line = watch.next("healed");
    assert_eq!(line["object"]["kind"], "Namespace", "{line}");
    assert_eq!(value(cluster, name), "fight for ever");
    assert_eq!(watch.stop(), Vec::<Value>::new());
    assert_eq!(depot.site(&["status", "--exit-code"]).code, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_outlives_its_cluster_and_leaves_broken_releases_alone() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cluster = control_plane();
    let name = "depot-alive";
    let mut depot = Depot::new(folder.path(), name, &cluster.kubeconfig);
    let sick = format!(
        "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: sick, namespace: {name}}}\nspec:\n  \
         selector: {{matchLabels: {{app: sick}}}}\n  template:\n    metadata: {{labels: {{app: sick}}}}\n    spec: \
         {{containers: [{{name: sick, image: \"registry.example.com/depot/part:1\"}}]}}\n"
    );
    let (one, two) = (depot.build("1", ""), depot.build("2", &sick));
    let to_cluster = Line::to(cluster.address()).await;
    let at = to_cluster.address;
    depot.kubeconfig = cluster.changed_kubeconfig(folder.path(), |mut config| {
        config["clusters"][0]["cluster"]["server"] = format!("https://{at}").into();
        config
    });
    let work = tokio::task::spawn_blocking(move || {
        depot.apply(&one, &[]).ok();
        let watch = Watch::start(&depot, &[]);
        watch.next("watching");
        to_cluster.cut(true);
        let line = watch.next("unreachable");
        assert!(line["why"].as_str().unwrap().contains("does not answer"), "{line}");
        edit(cluster, name, "9");
        // More rounds pass, and one line is enough.
        std::thread::sleep(Duration::from_secs(4));
        to_cluster.cut(false);
        watch.next("reachable");
        watch.next("healed");
        assert_eq!(value(cluster, name), "1");

        // A release that was left unhealthy on purpose is not undone.
        depot.apply(&two, &["--timeout", "3s", "--no-rollback"]).refused(6, &["Deployment depot-alive/sick"]);
        edit(cluster, name, "by hand");
        let mut line = watch.next("waiting");
        while line["why"].as_str().unwrap().contains("has not ended") {
            line = watch.next("waiting");
        }
        assert!(line["why"].as_str().unwrap().contains("failed"), "{line}");
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(value(cluster, name), "by hand");
        depot.site(&["rollback"]).ok();
        until("the rollback took", || value(cluster, name) == "1");
        watch.stop();
    });
    work.await.unwrap();
}
