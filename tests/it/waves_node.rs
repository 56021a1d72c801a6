//! Waves where pods run: a migration before the application, hooks before and after, a crash told
//! while it is waited for.

use std::time::Duration;

use fleetpack::apply::{self, ClusterTarget, ReleaseObjects};
use fleetpack::model::ObjectRole;

use crate::apply::release;
use crate::support::cluster::{Cluster, with_node};
use crate::support::root::is_root;
use crate::support::testbed::Registry;
use crate::waves::applied;

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: turns}\n";

fn job(name: &str, annotations: &str, script: &str) -> String {
    format!(
        "---
apiVersion: batch/v1
kind: Job
metadata: {{name: {name}, namespace: turns, annotations: {{{annotations}}}}}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 0
      containers: [{{name: main, image: \"fleetpack.test/turns/tool:1\", command: [sh, -c, \"{script}\"]}}]
"
    )
}

fn deployment(name: &str, annotations: &str, script: &str) -> String {
    format!(
        "---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: turns, annotations: {{{annotations}}}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{{name: main, image: \"fleetpack.test/turns/tool:1\", command: [sh, -c, \"{script}\"]}}]
"
    )
}

/// The release with the roles that a chart's objects have.
fn of_chart(version: &str, yaml: &str) -> ReleaseObjects {
    let mut release = release("turns", version, yaml);
    for object in &mut release.objects {
        object.role = ObjectRole::in_chart(&object.id, &object.value);
    }
    release
}

fn time(node: &Cluster, kind: &str, name: &str, path: &str) -> String {
    node.kubectl(&["get", kind, name, "-n", "turns", "-o", &format!("jsonpath={{{path}}}")]).ok().stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_take_their_turns() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::up(&folder.path().join("registry"), &[]);
    registry.image("fleetpack.test/turns/tool:1", &["--flat"]);
    let node = with_node(&format!("http://{}", registry.address));
    let target = ClusterTarget { kubeconfig: Some(node.kubeconfig.clone()), context: None };
    let api = apply::connect(&target).await.unwrap();

    // A migration in wave 0, the application in wave 1; a hook before both, another after all.
    let wave = |number: i32| format!("argocd.argoproj.io/sync-wave: '{number}'");
    let migrate = job("migrate", &wave(0), "sleep 2; echo migrated");
    let web = deployment("web", &wave(1), "sleep 3600");
    let prepare = job("prepare", "helm.sh/hook: 'pre-install,pre-upgrade'", "sleep 1");
    let check = job("check", "helm.sh/hook: post-install", "true");
    let upgrade = job("upgrade", "helm.sh/hook: pre-upgrade", "true");
    let first = format!("{NAMESPACE}{web}{check}{upgrade}{migrate}{prepare}");
    let (_, steps, _, result) = applied(&api, of_chart("1", &first), 120).await;
    result.unwrap();
    assert_eq!(steps, ["pre:0/stage:1", "pre:0/stage:3", "stage:3", "wave:1/stage:3", "post:0/stage:3"]);
    let begun = |kind: &str, name: &str| time(&node, kind, name, ".metadata.creationTimestamp");
    let done = |name: &str| time(&node, "job", name, ".status.completionTime");
    assert!(done("prepare") <= begun("job", "migrate"));
    assert!(done("migrate") <= begun("deployment", "web"));
    let available =
        time(&node, "deployment", "web", ".status.conditions[?(@.type==\"Available\")].lastTransitionTime");
    assert!(available <= begun("job", "check"));
    assert_eq!(node.kubectl(&["get", "job", "upgrade", "-n", "turns"]).code, 1, "nothing was upgraded");

    // The next release: the hook for upgrades runs, and what an installation ran stays and rests.
    let checked = done("check");
    let crashing = deployment("web", &wave(1), "echo cannot open /data; exit 3");
    let second = format!("{NAMESPACE}{crashing}{check}{upgrade}{migrate}{prepare}");
    let (plan, steps, looks, result) = applied(&api, of_chart("2", &second), 25).await;
    assert_eq!(steps, ["pre:0/stage:1", "pre:0/stage:3", "stage:3", "wave:1/stage:3"]);
    assert_eq!(plan.kept.len(), 1, "{plan}");
    assert_eq!(plan.kept[0].object.name, "check");
    assert!(!done("upgrade").is_empty());
    // It crashes, and the table says so with its last lines while it is waited for.
    let text = result.unwrap_err().to_string();
    assert!(text.contains("    | cannot open /data"), "{text}");
    let looks = looks.waiting.lock().unwrap().clone();
    let told = looks.iter().flat_map(|look| &look.unready).find(|row| row.log == ["cannot open /data"]);
    let row = told.unwrap_or_else(|| panic!("no look shows the log: {looks:#?}"));
    assert_eq!(row.object.to_string(), "Deployment turns/web");
    assert!(row.details[0].contains("ended with exit code 3"), "{row:?}");

    // Back: no hook runs, what they left is still there.
    let (plan, steps, _, result) = applied(&api, of_chart("1", &first), 120).await;
    result.unwrap();
    assert_eq!(steps, ["stage:1", "stage:3", "wave:1/stage:3"]);
    let mut kept: Vec<_> = plan.kept.iter().map(|kept| kept.object.name.as_str()).collect();
    kept.sort_unstable();
    assert_eq!(kept, ["check", "prepare", "upgrade"]);
    assert_eq!(done("check"), checked);

    // A migration that fails stops the release long before the time is over, and the application
    // of the new release is never begun.
    let failing =
        job("migrate", &wave(0), "echo the schema is too old; exit 1").replace("migrate,", "migrate-2,");
    let third = format!("{NAMESPACE}{}{failing}", web.replace("3600", "3601"));
    let begun = std::time::Instant::now();
    let (_, steps, _, result) = applied(&api, of_chart("3", &third), 600).await;
    assert!(begun.elapsed() < Duration::from_mins(2));
    assert_eq!(steps, ["stage:1", "stage:3"]);
    let text = result.unwrap_err().to_string();
    for part in ["so this did not begin: wave 1:", "Job turns/migrate-2 (", "    | the schema is too old"] {
        assert!(text.contains(part), "wanted `{part}` in:\n{text}");
    }
    let script = time(&node, "deployment", "web", ".spec.template.spec.containers[0].command[2]");
    assert_eq!(script, "sleep 3600");
}
