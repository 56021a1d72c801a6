//! What a site cannot take is told before anything changes.

use std::time::Duration;

use fleetpack::apply::{self, ApplyError, ClusterTarget};
use fleetpack::model::ErrorClass;

use crate::apply::{connect, refused, release};
use crate::support::cluster::{self, Line};
use crate::support::root::is_root;

const CONFIG_MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: default}\n";

#[track_caller]
fn says(error: &ApplyError, class: ErrorClass, text: &str) {
    assert_eq!(error.to_string(), text);
    assert_eq!(error.class(), class);
}

/// The release left nothing behind, not even its inventory.
fn untouched(name: &str) {
    let parent = format!("fleetpack-{name}");
    let kube = cluster::control_plane();
    assert_eq!(kube.kubectl(&["get", "configmap", &parent, "-n", "fleetpack-system"]).code, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn kinds_and_namespaces_that_are_missing() {
    if !is_root() {
        return;
    }
    let api = connect().await;
    let yaml = format!(
        "{CONFIG_MAP}---\napiVersion: monitoring.fleetpack.test/v1\nkind: Rule\nmetadata: {{name: r, namespace: default}}\n\
             ---\napiVersion: apps/v9\nkind: Deployment\nmetadata: {{name: d, namespace: default}}\n"
    );
    let error = refused(&api, release("missing", "1", &yaml)).await;
    says(
        &error,
        ErrorClass::Incomplete,
        &format!(
            "Kubernetes {} here lacks what the release needs:\n  \
                 kind `Rule` of `monitoring.fleetpack.test/v1`, which Rule default/r (site.yaml:5) needs\n  \
                 kind `Deployment` of `apps/v9`, which Deployment default/d (site.yaml:9) needs",
            api.server_version()
        ),
    );
    let elsewhere = CONFIG_MAP.replace("default", "nowhere");
    let error = refused(&api, release("missing", "1", &elsewhere)).await;
    says(
        &error,
        ErrorClass::Incomplete,
        "namespaces are missing that no object of the release creates:\n  \
             `nowhere`, which ConfigMap nowhere/a (site.yaml:1) needs",
    );
    untouched("missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_that_are_being_deleted() {
    if !is_root() {
        return;
    }
    let api = connect().await;
    let kube = cluster::control_plane();
    let folder = tempfile::tempdir().unwrap();
    kube.put(
        folder.path(),
        "{apiVersion: v1, kind: Namespace, metadata: {name: dying}}\n---\n{apiVersion: v1, kind: ConfigMap, \
             metadata: {name: held, namespace: dying, finalizers: [fleetpack.test/hold]}}\n",
        &[],
    );
    kube.kubectl(&["delete", "namespace", "dying", "--wait=false"]).ok();
    let yaml = CONFIG_MAP.replace("default", "dying");
    let with_namespace = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: dying}}\n---\n{yaml}");
    for yaml in [yaml, with_namespace] {
        let error = refused(&api, release("dying", "1", &yaml)).await;
        assert_eq!(error.class(), ErrorClass::Failed);
        let text = error.to_string();
        assert!(
            text.starts_with("the namespace `dying` is being deleted (phase Terminating), so "),
            "{text}"
        );
        assert!(error.hint().unwrap().contains("kubectl get namespace dying"));
    }
    untouched("dying");
    kube.kubectl(&[
        "patch",
        "configmap",
        "held",
        "-n",
        "dying",
        "--type=merge",
        "-p",
        r#"{"metadata":{"finalizers":null}}"#,
    ])
    .ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_cannot_be_applied() {
    if !is_root() {
        return;
    }
    let api = connect().await;
    let error = refused(&api, release("bad", "1", "")).await;
    assert_eq!(error.class(), ErrorClass::Refused);
    let error = refused(&api, release("bad", "1", &format!("{CONFIG_MAP}---\n{CONFIG_MAP}"))).await;
    says(
        &error,
        ErrorClass::Failed,
        "ConfigMap default/a stands twice in the release: in site.yaml:1 and in site.yaml:5",
    );
    // Without a namespace it is the same object.
    let bare = CONFIG_MAP.replace(", namespace: default", "");
    let error = refused(&api, release("bad", "1", &format!("{CONFIG_MAP}---\n{bare}"))).await;
    assert!(matches!(error, ApplyError::Duplicate { .. }), "{error}");
    let scoped = "apiVersion: v1\nkind: Namespace\nmetadata: {name: odd, namespace: x}\n";
    let error = refused(&api, release("bad", "1", scoped)).await;
    says(
        &error,
        ErrorClass::Failed,
        "Namespace x/odd (site.yaml:1): names the namespace `x`, but its kind belongs to the whole cluster",
    );
    let asked = "apiVersion: authentication.k8s.io/v1\nkind: TokenReview\nmetadata: {name: t}\n";
    let error = refused(&api, release("bad", "1", asked)).await;
    assert!(error.to_string().contains("objects of kind `TokenReview` are asked, not kept"), "{error}");
    // What the server would refuse is told all at once.
    let wrong = format!(
        "{}---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: d, namespace: default}}\nspec: {{replikas: 1}}\n\
             ---\napiVersion: v1\nkind: Service\nmetadata: {{name: s, namespace: default}}\nspec: {{ports: [{{port: 0}}]}}\n",
        CONFIG_MAP.replace("name: a", "name: Bad_Name")
    );
    let error = refused(&api, release("bad", "1", &wrong)).await;
    assert_eq!(error.class(), ErrorClass::Failed);
    let text = error.to_string();
    for part in [
        "the API server would refuse 3 objects of the release; nothing was changed:\n",
        "ConfigMap default/Bad_Name (site.yaml:1): `metadata.name`: ",
        "Deployment default/d (site.yaml:5): ",
        ".spec.replikas: field not declared in schema",
        "Service default/s (site.yaml:10): `spec.ports[0].port`: Invalid value: 0: must be between 1 and 65535",
    ] {
        assert!(text.contains(part), "wanted `{part}` in:\n{text}");
    }
    untouched("bad");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_who_may_not() {
    if !is_root() {
        return;
    }
    let kube = cluster::control_plane();
    let folder = tempfile::tempdir().unwrap();
    let put = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: guest, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: guest}
rules:
- {apiGroups: [\"\"], resources: [configmaps, namespaces], verbs: [get, list, create, patch]}
- {apiGroups: [\"\"], resources: [secrets], verbs: [get, list]}
";
    kube.put(folder.path(), put, &[]);
    let token = kube.kubectl(&["create", "token", "guest", "-n", "default"]).ok().stdout;
    let kubeconfig = kube.changed_kubeconfig(folder.path(), |mut config| {
        config["users"][0]["user"] = serde_json::json!({"token": token.trim()});
        config
    });
    let api = apply::connect(&ClusterTarget { kubeconfig: Some(kubeconfig), context: None }).await.unwrap();
    let yaml =
        format!("{CONFIG_MAP}---\napiVersion: v1\nkind: Secret\nmetadata: {{name: s, namespace: default}}\n");
    let error = refused(&api, release("guest", "1", &yaml)).await;
    assert_eq!(error.class(), ErrorClass::Failed);
    assert!(error.to_string().starts_with("not allowed to read the inventory: "), "{error}");
    assert!(error.hint().unwrap().contains("kubectl auth can-i --list"));
    kube.kubectl(&[
        "create",
        "clusterrolebinding",
        "guest",
        "--clusterrole=guest",
        "--serviceaccount=default:guest",
    ])
    .ok();
    let error = loop {
        // The API server's own view of the new binding lags a moment.
        let error = refused(&api, release("guest", "1", &yaml)).await;
        if !matches!(error, ApplyError::Forbidden { .. }) {
            break error;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let ApplyError::DryRun { failures } = &error else { panic!("{error}") };
    assert_eq!(failures.len(), 1, "{error}");
    assert!(failures[0].forbidden && failures[0].id.kind == "Secret", "{error}");
    assert!(failures[0].why.contains("cannot patch resource \"secrets\""), "{error}");
    untouched("guest");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_do_not_answer_or_are_not_trusted() {
    if !is_root() {
        return;
    }
    let kube = cluster::control_plane();
    let folder = tempfile::tempdir().unwrap();
    let fails = async |kubeconfig: std::path::PathBuf, context: Option<&str>| {
        let target = ClusterTarget { kubeconfig: Some(kubeconfig), context: context.map(str::to_owned) };
        let error = apply::connect(&target).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Failed, "{error}");
        assert!(error.hint().is_some(), "{error}");
        error
    };
    // Nobody listens: a port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = kube.changed_kubeconfig(folder.path(), |mut config| {
        config["clusters"][0]["cluster"]["server"] = format!("https://{free}").into();
        config
    });
    let error = fails(nobody, None).await;
    assert!(matches!(error, ApplyError::Unreachable { .. }), "{error}");
    assert!(
        error.to_string().starts_with(&format!("the API server at `https://{free}` does not answer: ")),
        "{error}"
    );
    assert!(error.to_string().contains("onnection refused"), "{error}");
    // Somebody answers who is not Kubernetes.
    let line = Line::to(free).await;
    let hangs_up = kube.changed_kubeconfig(folder.path(), |mut config| {
        config["clusters"][0]["cluster"]["server"] = format!("https://{}", line.address).into();
        config
    });
    assert!(matches!(fails(hangs_up, None).await, ApplyError::Unreachable { .. }));
    // Another authority.
    let other = kube.changed_kubeconfig(folder.path(), |mut config| {
        let cluster = config["clusters"][0]["cluster"].as_object_mut().unwrap();
        cluster.remove("certificate-authority-data");
        config
    });
    let error = fails(other, None).await;
    assert!(matches!(error, ApplyError::Certificate { .. }), "{error}");
    // A token that nobody issued. Everybody may ask for the version, so the first real
    // question meets the refusal.
    let stranger = kube.changed_kubeconfig(folder.path(), |mut config| {
        config["users"][0]["user"] = serde_json::json!({"token": "nobody"});
        config
    });
    let error = fails(stranger, None).await;
    assert!(matches!(error, ApplyError::Unauthorized { .. }), "{error}");
    // Configuration.
    let error = fails(folder.path().join("absent"), None).await;
    assert!(error.to_string().ends_with("absent`: there is no such file"), "{error}");
    let error = fails(kube.kubeconfig.clone(), Some("prod")).await;
    assert!(error.to_string().ends_with("there is no such context, wanted one of `testbed`"), "{error}");
    let broken = folder.path().join("broken");
    std::fs::write(&broken, "clusters: {").unwrap();
    assert!(matches!(fails(broken, None).await, ApplyError::Config { .. }));
    // A list of files, as KUBECONFIG holds them; those that are not there are passed over.
    let list = std::env::join_paths([folder.path().join("absent"), kube.kubeconfig.clone()]).unwrap();
    let target = ClusterTarget { kubeconfig: Some(list.into()), context: Some("testbed".into()) };
    apply::connect(&target).await.unwrap();
}
