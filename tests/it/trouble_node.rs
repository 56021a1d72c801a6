//! Trouble of pods, on a real node: each case of `docs/cluster-trouble.md` by its name, through the
//! program itself. Whatever happens, the site runs a whole release afterwards.

use std::time::{Duration, Instant};

use crate::support::cluster::Node;
use crate::support::command::run;
use crate::support::depot::Depot;
use crate::support::root::is_root;
use crate::support::testbed::script;
use crate::trouble::Site;

/// A process that stays and ends at once when it is told to.
const STAY: &str = "trap 'exit 0' TERM; while :; do sleep 1 & wait; done";

/// A depot for the node; releases are built before it is the test's turn to use that.
fn depot(name: &str) -> (tempfile::TempDir, Depot) {
    let folder = tempfile::tempdir().unwrap();
    let depot = Depot::new(folder.path(), name, &folder.path().join("none"));
    (folder, depot)
}

/// A Deployment of one pod whose shell runs `script`; `more` goes into its container.
fn web(namespace: &str, tag: &str, script: &str, more: &str) -> String {
    format!(
        "---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web, namespace: {namespace}}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: registry.example.com/depot/part:{tag}
        command: [sh, -c, \"{script}\"]
        {more}
"
    )
}

fn job(namespace: &str, script: &str, note: &str) -> String {
    format!(
        "---
apiVersion: batch/v1
kind: Job
metadata: {{name: migrate, namespace: {namespace}, annotations: {{{note}}}}}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 0
      containers: [{{name: main, image: \"registry.example.com/depot/part:1\", command: [sh, -c, \"{script}\"]}}]
"
    )
}

/// The release's one pod runs and is ready.
#[track_caller]
fn serves(site: &Site<Node>) {
    let web = site.get("deployment/web");
    assert_eq!(web["status"]["availableReplicas"], 1, "{web}");
    assert_eq!(web["status"]["updatedReplicas"], 1, "{web}");
}

#[test]
fn image_that_crashes() {
    if !is_root() {
        return;
    }
    let name = "trouble-crash";
    let (folder, depot) = depot(name);
    let one = depot.build("1", &web(name, "1", STAY, ""));
    let two = depot.build("2", &web(name, "1", "echo cannot open /data; exit 3", ""));
    let site = Site::on_node(folder, depot);
    site.apply(&one, &[]).ok();
    site.apply(&two, &["--timeout", "8s"]).refused(
        5,
        &[
            "Deployment trouble-crash/web (depot.yaml:",
            "exit code 3",
            "| cannot open /data",
            "trouble-crash 1",
            "was restored",
        ],
    );
    site.runs("1");
    serves(&site);
}

#[test]
fn image_that_cannot_be_pulled() {
    if !is_root() {
        return;
    }
    let name = "trouble-pull";
    let (folder, depot) = depot(name);
    let mut image = script("image");
    image.args(["make", "--name", "registry.example.com/depot/part:pull", "--file", "etc/part=pull"]);
    run(image.arg("--oci").arg(depot.folder.join("images"))).ok();
    let one = depot.build("1", &web(name, "1", STAY, ""));
    let two = depot.build("2", &web(name, "pull", STAY, ""));
    let site = Site::on_node(folder, depot);
    site.apply(&one, &[]).ok();
    // The endpoint has the image, the node asks somebody else.
    site.cluster.mirror("http://127.0.0.1:9");
    let said = site
        .apply(&two, &["--timeout", "8s"])
        .refused(5, &["Deployment trouble-pull/web", "registry.example.com/depot/part:pull", "was restored"])
        .stderr;
    assert!(said.contains("ImagePullBackOff") || said.contains("ErrImagePull"), "{said}");
    site.runs("1");
    serves(&site);
    // The node's configuration is put right, and the same command finishes.
    site.cluster.mirror(site.endpoint());
    site.apply(&two, &[]).ok();
    site.runs("2");
    serves(&site);
}

#[test]
fn probe_that_never_passes() {
    if !is_root() {
        return;
    }
    let name = "trouble-probe";
    let (folder, depot) = depot(name);
    let one = depot.build("1", &web(name, "1", STAY, ""));
    let probe = "readinessProbe: {exec: {command: [sh, -c, 'echo not yet; exit 1']}, periodSeconds: 1}";
    let two = depot.build("2", &web(name, "1", STAY, probe));
    let site = Site::on_node(folder, depot);
    site.apply(&one, &[]).ok();
    let pod =
        || site.cluster.get(&["pods", "-n", name, "-l", "app=web"])["items"][0]["metadata"]["uid"].clone();
    let before = pod();
    site.apply(&two, &["--timeout", "8s"])
        .refused(5, &["Deployment trouble-probe/web", "Readiness probe failed", "not yet", "was restored"]);
    site.runs("1");
    serves(&site);
    assert_eq!(pod(), before, "the pod that served went on serving");
}

#[test]
fn job_that_fails() {
    if !is_root() {
        return;
    }
    let name = "trouble-job";
    let (folder, depot) = depot(name);
    let one = depot.build("1", &web(name, "1", STAY, ""));
    let failing = job(name, "echo the disk is missing; exit 1", "");
    let two = depot.build("2", &(web(name, "1", STAY, "") + &failing));
    let allowed = failing.replace("annotations: {}", "annotations: {fleetpack.dev/recreate: allowed}");
    let three = depot.build("3", &(web(name, "1", STAY, "") + &allowed));
    let site = Site::on_node(folder, depot);
    site.apply(&one, &[]).ok();
    // It ends the wait long before the time is over.
    let begun = Instant::now();
    site.apply(&two, &["--timeout", "10m"]).refused(
        5,
        &["Job trouble-job/migrate", "BackoffLimitExceeded", "| the disk is missing", "was restored"],
    );
    assert!(begun.elapsed() < Duration::from_mins(3));
    site.runs("1");
    assert!(!site.is_there("job/migrate"));
    // Left as it is, the failed Job is in the way of the same release, unless that may run it again.
    site.apply(&two, &["--no-rollback"])
        .refused(6, &["Job trouble-job/migrate", "`fleetpack rollback` goes back to"]);
    let before = site.uid("job/migrate");
    site.apply(&two, &[])
        .refused(1, &["the Job failed, and stands in the way; `fleetpack.dev/recreate: allowed`"]);
    assert_eq!(site.uid("job/migrate"), before);
    site.site(&["rollback"]).ok();
    site.runs("1");
    site.apply(&three, &["--no-rollback"]).refused(6, &["Job trouble-job/migrate"]);
    let before = site.uid("job/migrate");
    site.apply(&three, &["--no-rollback"]).refused(6, &["| the disk is missing"]);
    assert_ne!(site.uid("job/migrate"), before);
    site.site(&["rollback"]).ok();
    site.runs("1");
    serves(&site);
}

#[test]
fn job_that_changed() {
    if !is_root() {
        return;
    }
    let name = "trouble-hook";
    let (folder, depot) = depot(name);
    let one = depot.build("1", &job(name, "echo one", ""));
    let two = depot.build("2", &job(name, "echo two", ""));
    let three = depot.build("3", &job(name, "echo two", "fleetpack.dev/recreate: allowed"));
    let site = Site::on_node(folder, depot);
    let command =
        || site.get("job/migrate")["spec"]["template"]["spec"]["containers"][0]["command"][2].clone();
    site.apply(&one, &[]).ok();
    site.apply(&two, &[]).refused(
        1,
        &[
            "Job trouble-hook/migrate",
            "`spec.template`: field is immutable; `fleetpack.dev/recreate: allowed`",
        ],
    );
    site.runs("1");
    assert_eq!(command(), "echo one");
    site.apply(&three, &[]).ok();
    site.runs("3");
    assert_eq!(command(), "echo two");
    // The other way it runs again as well, from the store alone.
    site.site(&["rollback"]).ok();
    site.runs("1");
    assert_eq!(command(), "echo one");
    assert_eq!(site.get("job/migrate")["status"]["succeeded"], 1);
}

fn stateful_set(namespace: &str, app: &str, size: &str, note: &str) -> String {
    format!(
        "---
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: db, namespace: {namespace}, annotations: {{{note}}}}}
spec:
  selector: {{matchLabels: {{app: {app}}}}}
  persistentVolumeClaimRetentionPolicy: {{whenDeleted: {retention}}}
  template:
    metadata: {{labels: {{app: {app}}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: registry.example.com/depot/part:1
        command: [sh, -c, \"{STAY}\"]
        volumeMounts: [{{name: data, mountPath: /data}}]
  volumeClaimTemplates:
  - metadata: {{name: data}}
    spec: {{storageClassName: '', accessModes: [ReadWriteOnce], resources: {{requests: {{storage: {size}}}}}}}
",
        retention = if app == "db" { "Delete" } else { "Retain" },
    )
}

#[test]
fn stateful_set_templates_changed() {
    if !is_root() {
        return;
    }
    let name = "trouble-db";
    let allowed = "fleetpack.dev/recreate: allowed";
    let (folder, depot) = depot(name);
    let one = depot.build("1", &stateful_set(name, "db", "1Mi", ""));
    let two = depot.build("2", &stateful_set(name, "db", "2Mi", ""));
    let three = depot.build("3", &stateful_set(name, "db", "2Mi", allowed));
    let four = depot.build("4", &stateful_set(name, "other", "2Mi", allowed));
    let site = Site::on_node(folder, depot);
    site.put(&format!(
        "{{apiVersion: v1, kind: PersistentVolume, metadata: {{name: trouble-db}}, spec: {{capacity: {{storage: 5Mi}}, \
         accessModes: [ReadWriteOnce], claimRef: {{namespace: {name}, name: data-db-0}}, \
         hostPath: {{path: /run/trouble-db, type: DirectoryOrCreate}}}}}}"
    ));
    site.apply(&one, &[]).ok();
    let (pod, claim) = (site.uid("pod/db-0"), site.uid("pvc/data-db-0"));
    site.apply(&two, &[]).refused(
        1,
        &[
            "StatefulSet trouble-db/db",
            "updates to statefulset spec for fields other than",
            "kubectl annotate -n trouble-db statefulset.apps db fleetpack.dev/recreate=allowed",
        ],
    );
    site.runs("1");
    let plan = site.apply(&three, &["--dry-run"]).ok().stdout;
    assert!(plan.contains("its pods run on and its claims stay as they are"), "{plan}");
    let wanted = || {
        let claim = &site.get("statefulset/db")["spec"]["volumeClaimTemplates"][0];
        claim["spec"]["resources"]["requests"]["storage"].as_str().unwrap().to_owned()
    };
    let all = || (site.uid("pod/db-0"), site.uid("pvc/data-db-0"));
    site.apply(&three, &[]).ok();
    site.runs("3");
    assert_eq!((wanted().as_str(), all()), ("2Mi", (pod.clone(), claim.clone())));
    // Back, from the store alone: the pod and its data are still the same.
    site.site(&["rollback"]).ok();
    site.runs("1");
    assert_eq!((wanted().as_str(), all()), ("1Mi", (pod.clone(), claim.clone())));
    // Pods that the new set would not know end first; claims that would go with the set bar that.
    site.apply(&four, &[])
        .refused(1, &["`persistentVolumeClaimRetentionPolicy.whenDeleted` to `Retain` first"]);
    site.runs("1");
    site.by_hand(&[
        "patch",
        "statefulset",
        "db",
        "--type=merge",
        "-p",
        r#"{"spec":{"persistentVolumeClaimRetentionPolicy":{"whenDeleted":"Retain"}}}"#,
    ]);
    site.apply(&four, &[]).ok();
    site.runs("4");
    assert_ne!(site.uid("pod/db-0"), pod);
    assert_eq!(site.uid("pvc/data-db-0"), claim);
}

#[test]
fn api_server_restarted_in_the_middle() {
    if !is_root() {
        return;
    }
    let name = "trouble-restart";
    let (folder, depot) = depot(name);
    let many = |value: u8| {
        let mut yaml = web(name, "1", STAY, &format!("env: [{{name: RELEASE, value: \"{value}\"}}]"));
        for n in 0..200 {
            let map = format!(
                "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c{n}, namespace: {name}}}\ndata: {{a: \"{value}\"}}\n"
            );
            yaml.push_str(&map);
        }
        yaml
    };
    let (one, two) = (depot.build("1", &many(1)), depot.build("2", &many(2)));
    let site = Site::on_node(folder, depot);
    site.apply(&one, &[]).ok();
    let begins = || {
        let ledger = std::fs::read_to_string(site.folder.join("store/ledger.jsonl")).unwrap();
        ledger.lines().filter(|line| line.contains("\"begin\"")).count()
    };
    let mut command = site.apply_command(&two, &[]);
    let child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    while begins() < 2 {
        std::thread::sleep(Duration::from_millis(2));
    }
    site.cluster.restart("kube-apiserver", 5);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("does not answer") && said.contains("trying again for up to"), "{said}");
    site.runs("2");
    serves(&site);
    assert_eq!(site.get("configmap/c199")["data"]["a"], "2");
    site.site(&["rollback"]).ok();
    site.runs("1");
}
