//! What differs in the cluster from the release that runs: told by `status`, healed by `apply` and
//! by `watch`, on a real control plane.

use std::fs;

use serde_json::Value;

use crate::support::cluster::{Cluster, control_plane};
use crate::support::depot::Depot;
use crate::support::root::is_root;

/// Objects beside the depot's own: a secret, a service with defaults of the server, a deployment
/// that runs nothing and leaves its replicas to others.
fn extra(name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: keys, namespace: {name}}}\nstringData: {{password: hunter2}}\n\
         ---\napiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: {name}}}\nspec: {{selector: {{app: web}}, ports: [{{port: 80}}]}}\n\
         ---\napiVersion: batch/v1\nkind: CronJob\nmetadata: {{name: nightly, namespace: {name}}}\nspec:\n  schedule: \"0 3 * * *\"\n  suspend: true\n  \
         jobTemplate: {{spec: {{template: {{spec: {{restartPolicy: Never, containers: [{{name: night, image: \"registry.example.com/depot/part:1\"}}]}}}}}}}}\n"
    )
}

/// Kind, name and resource version of everything in the namespace that the release made, and of its inventory.
fn versions(cluster: &Cluster, name: &str) -> Vec<String> {
    let row = |item: &Value| {
        let text = |field: &str| item["metadata"][field].as_str().unwrap().to_owned();
        format!("{} {} {}", item["kind"].as_str().unwrap(), text("name"), text("resourceVersion"))
    };
    let mut found: Vec<String> = cluster.get(&["configmaps,secrets,services,cronjobs", "-n", name])["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(row)
        .collect();
    for one in
        [&["namespace", name][..], &["configmap", &format!("fleetpack-{name}"), "-n", "fleetpack-system"]]
    {
        found.push(row(&cluster.get(one)));
    }
    found.sort();
    found
}

fn release(status: &Value) -> &Value {
    assert_eq!(status["cluster"]["releases"].as_array().unwrap().len(), 1, "{status}");
    &status["cluster"]["releases"][0]
}

#[test]
fn status_tells_what_differs_and_apply_heals_it() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cluster = control_plane();
    let name = "depot-drift";
    let depot = Depot::new(folder.path(), name, &cluster.kubeconfig);
    let one = depot.build("1", &extra(name));
    depot.apply(&one, &["--seed-only"]).ok();
    let seeded = depot.site(&["status", "--exit-code", "--format", "json"]).ok().json();
    assert!(seeded.get("cluster").is_none(), "no cluster was ever touched: {seeded}");
    depot.apply(&one, &[]).ok();

    // Nothing differs: an apply changes nothing at all, not even the inventory.
    let status = depot.site(&["status", "--exit-code"]).ok().stdout;
    assert!(status.contains("depot-drift 1: healthy, 5 of 5 objects ready; nothing differs"), "{status}");
    let before = versions(cluster, name);
    let again = depot.apply(&one, &[]).ok();
    assert!(!again.stdout.contains("healed"), "{}", again.stdout);
    assert_eq!(versions(cluster, name), before);

    // What others set where the release says nothing is theirs.
    let patch = |arguments: &[&str], manager: &str, patch: &str| {
        let common = ["--type=merge", "--field-manager", manager, "-p", patch, "-n", name];
        cluster.kubectl(&[&["patch"], arguments, &common[..]].concat()).ok();
    };
    patch(
        &["configmap", "depot"],
        "controller",
        r#"{"data":{"learned":"x"},"metadata":{"labels":{"a":"b"}}}"#,
    );
    let status = depot.site(&["status", "--exit-code", "--format", "json"]).ok().json();
    assert_eq!(release(&status)["drift"], serde_json::json!([]), "{status}");

    // Edited by hand, deleted, and a secret.
    patch(&["configmap", "depot"], "kubectl-edit", r#"{"data":{"value":"99"}}"#);
    patch(&["secret", "keys"], "kubectl-edit", r#"{"stringData":{"password":"swordfish"}}"#);
    patch(&["cronjob", "nightly"], "night-shift", r#"{"spec":{"suspend":false}}"#);
    cluster.kubectl(&["delete", "service", "web", "-n", name]).ok();
    let status = depot.site(&["status"]).ok().stdout;
    for line in [
        "depot-drift 1: NOT HEALTHY, 4 of 5 objects ready; 4 objects differ",
        "  ! Service depot-drift/web (depot.yaml:",
        "  ~ ConfigMap depot-drift/depot (depot.yaml:5) differs, changed by kubectl-edit",
        "      data.value: wanted \"1\", found \"99\"",
        "      data.password: wanted \"(secret)\", found \"(secret)\"",
        "changed by night-shift",
        "      spec.suspend: wanted true, found false",
        ") is missing",
        "`fleetpack watch --once` brings it back",
    ] {
        assert!(status.contains(line), "wanted `{line}` in:\n{status}");
    }
    let ended = depot.site(&["status", "--exit-code", "--format", "json"]);
    assert_eq!(ended.code, 8, "{}", ended.stderr);
    let status = ended.json();
    let drift = release(&status)["drift"].as_array().unwrap();
    let of = |kind: &str| drift.iter().find(|drift| drift["object"]["kind"] == kind).unwrap();
    assert_eq!(of("Service")["missing"], true);
    assert_eq!(
        of("ConfigMap")["fields"],
        serde_json::json!([{"path": "data.value", "wanted": "1", "found": "99"}])
    );
    assert_eq!(of("ConfigMap")["changedBy"], serde_json::json!(["kubectl-edit"]));
    // hunter2 and swordfish, as they are and as the cluster keeps them.
    for secret in ["hunter2", "swordfish", "aHVudGVyMg", "c3dvcmRmaXNo"] {
        assert!(!ended.stdout.contains(secret), "{}", ended.stdout);
    }

    // The same archive again heals it, and says what.
    let healed = depot.apply(&one, &[]).ok().stdout;
    for line in [
        "healed: ConfigMap depot-drift/depot differed: data.value: \"99\" -> \"1\"",
        "healed: Service depot-drift/web was missing",
        "healed: CronJob depot-drift/nightly differed: spec.suspend: false -> true",
    ] {
        assert!(healed.contains(line), "wanted `{line}` in:\n{healed}");
    }
    let status = depot.site(&["status", "--exit-code"]).ok().stdout;
    assert!(status.contains("nothing differs"), "{status}");
    let map = cluster.get(&["configmap", "depot", "-n", name]);
    assert_eq!(map["data"], serde_json::json!({"value": "1", "learned": "x"}), "what is others' stays");
}

#[test]
fn without_a_cluster_status_tells_what_the_store_knows() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cluster = control_plane();
    let mut depot = Depot::new(folder.path(), "depot-alone", &cluster.kubeconfig);
    let one = depot.build("1", "");
    depot.apply(&one, &[]).ok();
    // Nothing answers at the discard port.
    depot.kubeconfig = cluster.changed_kubeconfig(folder.path(), |mut config| {
        config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9".into();
        config
    });
    let status = depot.site(&["status"]).ok().stdout;
    assert!(status.contains("* depot-alone 1"), "{status}");
    assert!(status.contains("cluster cannot be asked, so only the store is known: "), "{status}");
    assert!(status.contains("https://127.0.0.1:9"), "{status}");
    let ended = depot.site(&["status", "--exit-code", "--format", "json"]);
    assert_eq!(ended.code, 1, "{}", ended.stdout);
    assert_eq!(ended.json()["active"][0]["version"], "1");
    depot.site(&["status", "--offline", "--exit-code"]).ok();
    // Nor is there a kubeconfig.
    depot.kubeconfig = folder.path().join("absent");
    assert!(depot.site(&["status"]).ok().stdout.contains("absent"));

    // One who may look and not try learns the health.
    fs::create_dir(folder.path().join("viewer")).unwrap();
    let viewer = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: viewer, namespace: default}\n---\n\
                  apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: drift-viewer}\n\
                  roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}\n\
                  subjects: [{kind: ServiceAccount, name: viewer, namespace: default}]\n";
    cluster.put(folder.path(), viewer, &[]);
    let token = cluster.kubectl(&["create", "token", "viewer"]).ok().stdout;
    depot.kubeconfig = cluster.changed_kubeconfig(&folder.path().join("viewer"), |mut config| {
        config["users"][0]["user"] = serde_json::json!({"token": token.trim()});
        config
    });
    let status = depot.site(&["status"]).ok().stdout;
    assert!(status.contains("depot-alone: cannot be compared: not allowed to "), "{status}");
}
