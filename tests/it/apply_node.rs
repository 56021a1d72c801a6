//! Health as real pods have it: images that are not there, containers that crash, Jobs that fail.

use std::time::Duration;

use fleetpack::apply::{self, ApplyError, Cluster, ClusterTarget, PlanOptions, ReleaseObjects, Unrecorded};
use fleetpack::model::ErrorClass;
use fleetpack::model::progress::Silent;

use crate::apply::release;
use crate::support::cluster::with_node;
use crate::support::root::is_root;
use crate::support::testbed::Registry;

async fn apply_and_wait(api: &Cluster, release: ReleaseObjects, timeout: u64) -> Result<String, ApplyError> {
    let seen = apply::observe(api, release, &Silent).await?;
    let plan = apply::plan(&seen, PlanOptions::default())?;
    apply::execute(api, &seen, &plan, &mut Unrecorded, &Silent).await?;
    apply::wait(api, &seen, Duration::from_secs(timeout), &Silent).await?;
    apply::prune(api, &seen, &plan, Duration::from_mins(1), &Silent).await?;
    Ok(plan.summary())
}

/// A Deployment of one container, whose shell runs `script`.
fn deployment(name: &str, image: &str, script: &str) -> String {
    format!(
        "---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: pods}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{{name: main, image: \"fleetpack.test/node/{image}\", command: [sh, -c, \"{script}\"]}}]
"
    )
}

fn job(name: &str, script: &str) -> String {
    format!(
        "---
apiVersion: batch/v1
kind: Job
metadata: {{name: {name}, namespace: pods}}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 0
      containers: [{{name: main, image: \"fleetpack.test/node/tool:1\", command: [sh, -c, \"{script}\"]}}]
"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_say_why_a_release_is_not_healthy() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::up(&folder.path().join("registry"), &[]);
    registry.image("fleetpack.test/node/tool:1", &["--flat"]);
    let node = with_node(&format!("http://{}", registry.address));
    let target = ClusterTarget { kubeconfig: Some(node.kubeconfig.clone()), context: None };
    let api = apply::connect(&target).await.unwrap();
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: pods}\n";

    let good = format!(
        "{namespace}{}{}",
        deployment("web", "tool:1", "sleep 3600"),
        job("migrate", "echo migrated")
    );
    apply_and_wait(&api, release("pods", "1", &good), 120).await.unwrap();
    let pods = node.get(&["pods", "-n", "pods", "-l", "app=web"]);
    assert_eq!(pods["items"][0]["status"]["phase"], "Running");

    // The next one wants an image that nobody has, and has a container that crashes.
    let bad = format!(
        "{namespace}{}{}",
        deployment("web", "absent:2", "sleep 3600"),
        deployment("crash", "tool:1", "echo cannot open /data; exit 3")
    );
    let error = apply_and_wait(&api, release("pods", "2", &bad), 25).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::ClusterBroken);
    let text = error.to_string();
    for part in [
        "2 of 3 objects are not ready after 2",
        "Deployment pods/web (site.yaml:5): 1 of 1 replicas updated, 1 old replica still there",
        "fleetpack.test/node/absent:2",
        "Deployment pods/crash (site.yaml:16): 0 of 1 replicas available",
        "ended with exit code 3 (Error)",
        "    | cannot open /data",
    ] {
        assert!(text.contains(part), "wanted `{part}` in:\n{text}");
    }
    assert!(text.contains("ImagePullBackOff") || text.contains("ErrImagePull"), "{text}");
    // What ran is still there: nothing is pruned before the release is healthy.
    assert_eq!(node.kubectl(&["get", "job", "migrate", "-n", "pods"]).code, 0);

    // Back to the one before, and the crashing one goes, its pods with it.
    let summary = apply_and_wait(&api, release("pods", "1", &good), 120).await.unwrap();
    assert_eq!(summary, "0 to create, 1 to change, 2 unchanged, 1 to prune");
    assert_eq!(node.get(&["pods", "-n", "pods", "-l", "app=crash"])["items"], serde_json::json!([]));

    // A Job that fails ends the wait long before the time is over, and says what it wrote.
    let failing = format!("{good}{}", job("check", "echo the disk is missing; exit 1"));
    let begun = std::time::Instant::now();
    let error = apply_and_wait(&api, release("pods", "3", &failing), 600).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_mins(2), "{error}");
    let text = error.to_string();
    for part in [
        "1 of 4 objects are not ready",
        "Job pods/check (",
        "BackoffLimitExceeded",
        "    | the disk is missing",
    ] {
        assert!(text.contains(part), "wanted `{part}` in:\n{text}");
    }
    let status = apply::status(&api, Some(&"pods".parse().unwrap())).await.unwrap();
    assert_eq!((status[0].version.as_deref(), status[0].ready, status[0].objects), (Some("1"), 3, 4));
}
