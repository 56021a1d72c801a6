//! Releases on a real control plane: what is created, changed, left alone, pruned, gone back to.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fleetpack::apply::{
    self, ApplyError, Cluster, ClusterTarget, Observation, PlanOptions, ReleaseObjects, StepSink, Unrecorded,
};
use fleetpack::model::progress::{Event, Progress, Silent};
use fleetpack::model::{Digest, ErrorClass, ObjectId, ObjectRole, Origin, Plan, RenderedObject};
use serde_json::Value;

use crate::support::cluster::{self, Line};
use crate::support::root::is_root;

/// A sink that keeps the steps, and can refuse one.
#[derive(Default)]
struct Steps {
    taken: Vec<String>,
    refuse: Option<&'static str>,
}

impl StepSink for Steps {
    fn step(&mut self, step: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if self.refuse == Some(step) {
            return Err("the disk is full".into());
        }
        self.taken.push(step.to_owned());
        Ok(())
    }
}

/// A sink that keeps the lines.
#[derive(Default, Clone)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Progress for Lines {
    fn event(&self, event: Event) {
        match event {
            Event::Item(line) | Event::Note(line) | Event::Warning(line) => self.0.lock().unwrap().push(line),
            Event::Waiting(waiting) => self.0.lock().unwrap().push(waiting.to_string()),
            _ => {}
        }
    }
}

/// The objects of YAML documents, each with the line it begins on.
pub fn objects(yaml: &str) -> Vec<RenderedObject> {
    let mut found = Vec::new();
    let mut line = 1;
    for document in yaml.trim_start().split("---\n") {
        let value: Value =
            serde_saphyr::from_str(document).unwrap_or_else(|error| panic!("{error}: {document}"));
        let text = |value: &Value| value.as_str().map(str::to_owned);
        if !document.trim().is_empty() {
            let id = ObjectId {
                api_version: text(&value["apiVersion"]).unwrap(),
                kind: text(&value["kind"]).unwrap(),
                namespace: text(&value["metadata"]["namespace"]),
                name: text(&value["metadata"]["name"]).unwrap(),
            };
            let origin = Origin { file: "site.yaml".into(), line: Some(line), ..Origin::default() };
            found.push(RenderedObject::new(id, origin, value));
        }
        line += document.lines().count() as u64 + 1;
    }
    found
}

pub fn release(name: &str, version: &str, yaml: &str) -> ReleaseObjects {
    ReleaseObjects {
        name: name.parse().unwrap(),
        version: version.parse().unwrap(),
        digest: Digest::of(format!("{name} {version}").as_bytes()),
        sequence: 1,
        objects: objects(yaml),
    }
}

pub async fn connect() -> Cluster {
    let kubeconfig = Some(cluster::control_plane().kubeconfig.clone());
    apply::connect(&ClusterTarget { kubeconfig, context: None }).await.unwrap()
}

async fn seen(cluster: &Cluster, release: ReleaseObjects) -> (Observation, Plan) {
    let seen = apply::observe(cluster, release, &Silent).await.unwrap();
    let plan = apply::plan(&seen, PlanOptions::default()).unwrap();
    (seen, plan)
}

/// Applies a release to the end and answers with its plan.
async fn applied(cluster: &Cluster, release: ReleaseObjects) -> Plan {
    let (seen, plan) = seen(cluster, release).await;
    apply::execute(cluster, &seen, &plan, &mut Unrecorded, &Silent).await.unwrap();
    apply::wait(cluster, &seen, Duration::from_mins(2), &Silent).await.unwrap();
    apply::prune(cluster, &seen, &plan, Duration::from_mins(1), &Silent).await.unwrap();
    plan
}

pub async fn refused(cluster: &Cluster, release: ReleaseObjects) -> ApplyError {
    match apply::observe(cluster, release, &Silent).await {
        Err(error) => error,
        Ok(seen) => apply::plan(&seen, PlanOptions::default()).unwrap_err(),
    }
}

fn names(objects: &[ObjectId]) -> Vec<String> {
    objects.iter().map(ToString::to_string).collect()
}

/// Resource versions of everything that carries the set's label.
fn versions(name: &str, kinds: &str) -> Vec<(String, String)> {
    let label = format!("applyset.kubernetes.io/part-of={}", apply::apply_set_id(&name.parse().unwrap()));
    let list = cluster::control_plane().get(&[kinds, "-A", "-l", &label]);
    let items = list["items"].as_array().unwrap();
    let version = |item: &Value| {
        let metadata = &item["metadata"];
        let name = format!("{} {}", item["kind"].as_str().unwrap(), metadata["name"].as_str().unwrap());
        (name, metadata["resourceVersion"].as_str().unwrap().to_owned())
    };
    items.iter().map(version).collect()
}

const MIXED: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: web, namespace: mixed}
data: {GREETING: hello, FLAG: "yes"}
---
apiVersion: mixed.fleetpack.test/v1
kind: Crate
metadata: {name: first, namespace: mixed}
spec: {size: 3}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: mixed}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      serviceAccountName: web
      containers: [{name: web, image: "fleetpack.test/web:1", env: [{name: A, value: "1"}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: mixed}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Secret
metadata: {name: web, namespace: mixed}
stringData: {password: hunter2}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: web, namespace: mixed}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: web, namespace: mixed}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: web, namespace: mixed}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: web}
subjects: [{kind: ServiceAccount, name: web, namespace: mixed}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: "mixed:reader"}
rules: [{apiGroups: [""], resources: [nodes], verbs: [get]}]
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: mixed-high}
value: 1000
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: mixed}
spec: {storageClassName: mixed-late, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: mixed-late}
provisioner: fleetpack.test/none
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: v1
kind: Namespace
metadata: {name: mixed}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: crates.mixed.fleetpack.test}
spec:
  group: mixed.fleetpack.test
  scope: Namespaced
  names: {kind: Crate, plural: crates, singular: crate, listKind: CrateList}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties: {spec: {type: object, properties: {size: {type: integer}}}}
"#;

#[expect(clippy::too_many_lines, reason = "one release's life, told in order")]
#[tokio::test(flavor = "multi_thread")]
async fn a_release_comes_changes_goes_and_comes_back() {
    if !is_root() {
        return;
    }
    let api = connect().await;
    let kube = cluster::control_plane();
    assert!(api.server_version().starts_with("v1."), "{}", api.server_version());

    // First: all is new, and planning it leaves no trace.
    let (first, plan) = seen(&api, release("mixed", "1", MIXED)).await;
    assert_eq!((plan.create.len(), plan.change.len(), plan.unchanged.len()), (14, 0, 0));
    let unchecked = |name: &str| {
        let create = plan.create.iter().find(|create| create.object.to_string() == name).unwrap();
        create.unchecked.clone().unwrap_or_default()
    };
    assert_eq!(unchecked("Crate mixed/first"), "its kind comes with a definition of this release");
    assert_eq!(unchecked("ConfigMap mixed/web"), "this release creates the namespace `mixed`");
    assert_eq!(unchecked("Namespace mixed"), "");
    assert_eq!(kube.kubectl(&["get", "namespace", "mixed"]).code, 1);
    let mut steps = Steps::default();
    apply::execute(&api, &first, &plan, &mut steps, &Silent).await.unwrap();
    assert_eq!(steps.taken, ["stage:1", "stage:2", "stage:3"]);
    let report = apply::wait(&api, &first, Duration::from_mins(1), &Silent).await.unwrap();
    assert_eq!((report.ready, report.total), (14, 14));
    // Before the end the cluster says that it is on its way, after it what it runs.
    let mixed = "mixed".parse().unwrap();
    let on_the_way = apply::status(&api, Some(&mixed)).await.unwrap();
    assert_eq!(on_the_way[0].digest, None);
    assert_eq!(on_the_way[0].applying, Some(plan.release.digest.to_string()));
    apply::prune(&api, &first, &plan, Duration::from_secs(30), &Silent).await.unwrap();
    let status = apply::status(&api, Some(&mixed)).await.unwrap();
    assert_eq!(status[0].digest, Some(plan.release.digest.to_string()));
    assert_eq!((status[0].version.as_deref(), status[0].applying.as_deref()), (Some("1"), None));
    assert_eq!((status[0].objects, status[0].ready), (14, 14));

    // The inventory is an ApplySet that others can read.
    let parent = kube.get(&["configmap", "fleetpack-mixed", "-n", "fleetpack-system"]);
    let annotations = &parent["metadata"]["annotations"];
    assert_eq!(
        annotations["applyset.kubernetes.io/tooling"],
        concat!("fleetpack/v", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(annotations["applyset.kubernetes.io/additional-namespaces"], "mixed");
    let kinds = annotations["applyset.kubernetes.io/contains-group-kinds"].as_str().unwrap();
    assert!(
        kinds.starts_with("ClusterRole.rbac.authorization.k8s.io,ConfigMap,Crate.mixed.fleetpack.test,"),
        "{kinds}"
    );
    assert_eq!(parent["metadata"]["labels"]["applyset.kubernetes.io/id"], apply::apply_set_id(&mixed));
    let kinds = "configmap,deployment,service,secret,serviceaccount,role,rolebinding,pvc";
    assert_eq!(versions("mixed", kinds).len(), 8);
    let web = kube.get(&["configmap", "web", "-n", "mixed", "--show-managed-fields"]);
    assert_eq!(web["metadata"]["managedFields"][0]["manager"], "fleetpack");
    assert_eq!(web["metadata"]["managedFields"][0]["operation"], "Apply");

    // Again: nothing differs, and nothing is written. (Controllers still write the status of claims.)
    let kinds =
        "configmap,deployment,service,secret,serviceaccount,role,rolebinding,clusterrole,priorityclass";
    let before = versions("mixed", kinds);
    let plan = applied(&api, release("mixed", "1", MIXED)).await;
    assert!(plan.changes_nothing(), "{plan}");
    assert_eq!(plan.unchanged.len(), 14);
    assert_eq!(versions("mixed", kinds), before);

    // The next version: two changes, three objects fewer.
    let mut second = MIXED
        .replace("GREETING: hello, ", "GREETING: hi, ")
        .replace("hunter2", "hunter3")
        .replace("replicas: 0", "replicas: 0\n  revisionHistoryLimit: 3")
        .replace("fleetpack.test/web:1", "fleetpack.test/web:2")
        .replace("size: 3}", "size: 4}");
    for gone in ["kind: Service\n", "kind: PersistentVolumeClaim\n", "kind: PriorityClass\n"] {
        let kept: Vec<_> = second.split("---\n").filter(|document| !document.contains(gone)).collect();
        second = kept.join("---\n");
    }
    let (next, plan) = seen(&api, release("mixed", "2", &second)).await;
    let fields: Vec<_> = plan
        .change
        .iter()
        .flat_map(|change| change.fields.iter().map(move |field| format!("{}: {field}", change.object)))
        .collect();
    assert_eq!(
        fields,
        [
            r#"ConfigMap mixed/web: data.GREETING: "hello" -> "hi""#,
            r#"Secret mixed/web: data.password: "(secret, before)" -> "(secret, after)""#,
            r#"Deployment mixed/web: spec.template.spec.containers[name=web].image: "fleetpack.test/web:1" -> "fleetpack.test/web:2""#,
            "Deployment mixed/web: spec.revisionHistoryLimit: 10 -> 3",
            "Crate mixed/first: spec.size: 3 -> 4",
        ]
    );
    assert!(!plan.to_string().contains("hunter"), "{plan}");
    assert_eq!(names(&plan.prune), ["Service mixed/web", "PriorityClass mixed-high"]);
    assert_eq!(plan.kept[0].object.to_string(), "PersistentVolumeClaim mixed/data");
    assert_eq!(plan.from.as_ref().unwrap().version.as_deref(), Some("1"));
    assert_eq!(versions("mixed", kinds), before, "a dry run changes nothing");
    apply::execute(&api, &next, &plan, &mut Unrecorded, &Silent).await.unwrap();
    apply::wait(&api, &next, Duration::from_mins(1), &Silent).await.unwrap();
    assert_eq!(kube.kubectl(&["get", "service", "web", "-n", "mixed"]).code, 0, "pruning comes last");
    let pruned = apply::prune(&api, &next, &plan, Duration::from_mins(1), &Silent).await.unwrap();
    assert_eq!(names(&pruned.deleted), ["Service mixed/web", "PriorityClass mixed-high"]);
    assert_eq!(names(&pruned.kept), ["PersistentVolumeClaim mixed/data"]);
    assert_eq!(kube.kubectl(&["get", "service", "web", "-n", "mixed"]).code, 1);
    assert_eq!(kube.kubectl(&["get", "pvc", "data", "-n", "mixed"]).code, 0);
    let parent = kube.get(&["configmap", "fleetpack-mixed", "-n", "fleetpack-system"]);
    let kinds_now = parent["metadata"]["annotations"]["applyset.kubernetes.io/contains-group-kinds"].clone();
    assert!(!kinds_now.as_str().unwrap().split(',').any(|kind| kind == "Service"), "{kinds_now}");
    assert!(kinds_now.as_str().unwrap().contains("PersistentVolumeClaim"), "kept members stay members");

    // Back to the first: what changed goes back, what went comes back.
    let plan = applied(&api, release("mixed", "1", MIXED)).await;
    assert_eq!(plan.create.len(), 2, "{plan}");
    assert_eq!(plan.change.len(), 4, "{plan}");
    let web = kube.get(&["configmap", "web", "-n", "mixed"]);
    assert_eq!(web["data"]["GREETING"], "hello");
    let deployment = kube.get(&["deployment", "web", "-n", "mixed"]);
    assert_eq!(deployment["spec"]["revisionHistoryLimit"], 10, "a field that left goes back to its default");
    assert!(kube.get(&["service", "web", "-n", "mixed"])["spec"]["clusterIP"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_between_stages_is_finished_by_the_same_command() {
    if !is_root() {
        return;
    }
    let api = connect().await;
    let kube = cluster::control_plane();
    let yaml = "
apiVersion: v1
kind: Namespace
metadata: {name: cut}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: a, namespace: cut}
data: {a: \"1\"}
";
    let (first, plan) = seen(&api, release("cut", "1", yaml)).await;
    let mut steps = Steps { refuse: Some("stage:1"), ..Steps::default() };
    let error = apply::execute(&api, &first, &plan, &mut steps, &Silent).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::ClusterBroken);
    assert_eq!(
        error.to_string(),
        "stage 1 (definitions, namespaces and cluster roles) failed: \
         cannot record the step `stage:1`: the disk is full"
    );
    assert_eq!(kube.kubectl(&["get", "configmap", "a", "-n", "cut"]).code, 1, "the next stage did not begin");
    let plan = applied(&api, release("cut", "1", yaml)).await;
    assert_eq!(names(&plan.unchanged), ["Namespace cut"]);
    assert_eq!(plan.from.unwrap().applying, Some(plan.release.digest.to_string()));

    // A release that was cut after it made an object: the one before takes it away again.
    let more = format!("{yaml}---\napiVersion: v1\nkind: Secret\nmetadata: {{name: b, namespace: cut}}\n");
    let (second, plan) = seen(&api, release("cut", "2", &more)).await;
    apply::execute(&api, &second, &plan, &mut Unrecorded, &Silent).await.unwrap();
    assert_eq!(kube.kubectl(&["get", "secret", "b", "-n", "cut"]).code, 0);
    let plan = applied(&api, release("cut", "1", yaml)).await;
    assert_eq!(names(&plan.prune), ["Secret cut/b"]);
    assert_eq!(kube.kubectl(&["get", "secret", "b", "-n", "cut"]).code, 1);
}

/// Cuts the line at the twentieth object, and mends it two seconds later.
struct Cutter(Arc<AtomicBool>, AtomicUsize);

impl Progress for Cutter {
    fn event(&self, event: Event) {
        if matches!(event, Event::Item(_)) && self.1.fetch_add(1, SeqCst) == 20 {
            self.0.store(true, SeqCst);
            let line = self.0.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(2)).await;
                line.store(false, SeqCst);
            });
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_cut_midway_is_waited_out() {
    if !is_root() {
        return;
    }
    let kube = cluster::control_plane();
    let folder = tempfile::tempdir().unwrap();
    let line = Line::to(kube.address()).await;
    let kubeconfig = kube.changed_kubeconfig(folder.path(), |mut config| {
        config["clusters"][0]["cluster"]["server"] = format!("https://{}", line.address).into();
        config
    });
    let api = apply::connect(&ClusterTarget { kubeconfig: Some(kubeconfig), context: None }).await.unwrap();
    let mut yaml = "apiVersion: v1\nkind: Namespace\nmetadata: {name: line}\n".to_owned();
    for n in 0..40 {
        let document =
            format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c{n}, namespace: line}}\n");
        yaml.push_str(&document);
    }
    let (first, plan) = seen(&api, release("line", "1", &yaml)).await;
    // The line goes when the twentieth object is there, and comes back after two seconds.
    let cutter = Cutter(line.switch(), AtomicUsize::new(0));
    apply::execute(&api, &first, &plan, &mut Unrecorded, &cutter).await.unwrap();
    assert!(cutter.1.load(SeqCst) >= 41);
    assert_eq!(versions("line", "configmap").len(), 40);

    // While it stays cut, waiting goes on until its time is over, and says why.
    line.cut(true);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let error = apply::wait(&api, &first, Duration::from_secs(1), &Silent).await.unwrap_err();
    let ApplyError::Unhealthy(report) = &error else { panic!("{error}") };
    assert!(report.unreachable.is_some(), "{error}");
    let error = apply::observe(&api, release("line", "1", &yaml), &Silent).await.unwrap_err();
    assert!(matches!(error, ApplyError::Unreachable { .. }), "{error}");
    assert_eq!(error.class(), ErrorClass::Failed);
    line.cut(false);
    apply::wait(&api, &first, Duration::from_secs(30), &Silent).await.unwrap();
    apply::prune(&api, &first, &plan, Duration::from_secs(1), &Silent).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_changed_is_told_and_taken_back() {
    if !is_root() {
        return;
    }
    let api = connect().await;
    let kube = cluster::control_plane();
    let yaml = "
apiVersion: v1
kind: ConfigMap
metadata: {name: taken}
data: {mine: \"1\"}
";
    applied(&api, release("taken", "1", yaml)).await;
    // No namespace in the manifest: the context's, which is `default`.
    kube.kubectl(&[
        "patch",
        "configmap",
        "taken",
        "-n",
        "default",
        "--type=merge",
        "-p",
        r#"{"data":{"mine":"2","theirs":"3"}}"#,
        "--field-manager=somebody",
    ])
    .ok();
    let (_, plan) = seen(&api, release("taken", "1", yaml)).await;
    assert_eq!(plan.warnings, ["1 objects name no namespace: they go to `default`"]);
    assert_eq!(plan.change[0].fields.len(), 1);
    assert_eq!(plan.change[0].fields[0].to_string(), r#"data.mine: "2" -> "1""#);
    assert_eq!(plan.change[0].taken_over[0].manager, "somebody");
    assert_eq!(plan.change[0].taken_over[0].field, ".data.mine");
    applied(&api, release("taken", "1", yaml)).await;
    let data = kube.get(&["configmap", "taken", "-n", "default"])["data"].clone();
    assert_eq!(data, serde_json::json!({"mine": "1", "theirs": "3"}));
    // Another release may not take it.
    let error = refused(&api, release("thief", "1", yaml)).await;
    assert_eq!(error.class(), ErrorClass::Refused);
    assert!(
        error.to_string().starts_with(
            "ConfigMap default/taken (site.yaml:1) belongs to another set of objects: `applyset-"
        ),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ready_is_named() {
    if !is_root() {
        return;
    }
    let api = connect().await;
    let yaml = "
apiVersion: v1
kind: Namespace
metadata: {name: unready}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: unready}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: \"fleetpack.test/web:1\"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: alone, namespace: unready}
spec: {containers: [{name: a, image: \"fleetpack.test/a:1\"}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: ready, namespace: unready}
";
    let (first, plan) = seen(&api, release("unready", "1", yaml)).await;
    apply::execute(&api, &first, &plan, &mut Unrecorded, &Silent).await.unwrap();
    let lines = Lines::default();
    let error = apply::wait(&api, &first, Duration::from_secs(6), &lines).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::ClusterBroken);
    let text = error.to_string();
    for part in [
        "2 of 4 objects are not ready after ",
        "Deployment unready/web (site.yaml:5): 0 of 1 replicas available",
        "Pod unready/alone (site.yaml:14): Unschedulable: ",
        "    Pod unready/web-",
    ] {
        assert!(text.contains(part), "wanted `{part}` in:\n{text}");
    }
    let said = lines.0.lock().unwrap().join("\n");
    assert!(said.contains("2 of 4 ready after "), "{said}");
    assert!(said.contains("; waiting for Deployment unready/web: "), "{said}");
    assert!(said.contains(": Unschedulable: no nodes available"), "{said}");
    let status = apply::status(&api, Some(&"unready".parse().unwrap())).await.unwrap();
    assert_eq!((status[0].objects, status[0].ready), (4, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn finished_jobs_run_again_and_running_ones_stay() {
    if !is_root() {
        return;
    }
    let api = connect().await;
    let kube = cluster::control_plane();
    // Nobody but this test says how the Job fares.
    let yaml = |image: u8| {
        format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: migrate, namespace: default}}\nspec:\n  \
             managedBy: fleetpack.test/nobody\n  template:\n    spec: {{restartPolicy: Never, \
             containers: [{{name: m, image: \"fleetpack.test/m:{image}\"}}]}}\n"
        )
    };
    let (first, plan) = seen(&api, release("job", "1", &yaml(1))).await;
    apply::execute(&api, &first, &plan, &mut Unrecorded, &Silent).await.unwrap();
    let error = apply::wait(&api, &first, Duration::from_secs(1), &Silent).await.unwrap_err();
    assert!(error.to_string().contains("0 of 1 runs succeeded, 0 active"), "{error}");
    let error = refused(&api, release("job", "2", &yaml(2))).await;
    assert_eq!(error.class(), ErrorClass::Failed);
    let text = "Job default/migrate (site.yaml:1): `spec.template`: field is immutable; the Job has not \
                finished; `fleetpack.dev/recreate: allowed` on it allows";
    assert!(error.to_string().contains(text), "{error}");
    let uid = || kube.get(&["job", "migrate"])["metadata"]["uid"].as_str().unwrap().to_owned();
    let say = |succeeded: bool| {
        let time = "2026-01-01T00:00:00Z";
        let condition = |kind: &str| {
            format!(r#"{{"type":"{kind}","status":"True","reason":"Test","lastTransitionTime":"{time}"}}"#)
        };
        let status = if succeeded {
            format!(
                r#""completionTime":"{time}","succeeded":1,"conditions":[{},{}]"#,
                condition("SuccessCriteriaMet"),
                condition("Complete")
            )
        } else {
            format!(r#""failed":1,"conditions":[{},{}]"#, condition("FailureTarget"), condition("Failed"))
        };
        let patch = format!(r#"{{"status":{{"startTime":"{time}",{status}}}}}"#);
        kube.kubectl(&["patch", "job", "migrate", "--subresource=status", "--type=merge", "-p", &patch]).ok();
    };
    let before = uid();
    say(false);
    // A failed Job ends the wait at once, and the same release runs it again where it may.
    let error = apply::wait(&api, &first, Duration::from_mins(10), &Silent).await.unwrap_err();
    assert!(error.to_string().contains("Job default/migrate (site.yaml:1): Test"), "{error}");
    let error = refused(&api, release("job", "1", &yaml(1))).await;
    assert!(error.to_string().contains("the Job failed, and stands in the way; `fleetpack.dev/"), "{error}");
    let yaml = |image: u8| {
        yaml(image)
            .replace("name: migrate,", "name: migrate, annotations: {fleetpack.dev/recreate: allowed},")
    };
    let (again, plan) = seen(&api, release("job", "1", &yaml(1))).await;
    assert_eq!(plan.change[0].recreate.as_deref(), Some("the Job failed"));
    apply::execute(&api, &again, &plan, &mut Unrecorded, &Silent).await.unwrap();
    assert_ne!(uid(), before);
    say(true);
    apply::wait(&api, &again, Duration::from_secs(30), &Silent).await.unwrap();
    let (_, plan) = seen(&api, release("job", "1", &yaml(1))).await;
    assert!(plan.changes_nothing(), "{plan}");
    let (second, plan) = seen(&api, release("job", "2", &yaml(2))).await;
    let change = &plan.change[0];
    assert_eq!(change.recreate.as_deref(), Some("`spec.template`: field is immutable"));
    assert_eq!(
        change.fields[0].to_string(),
        r#"spec.template.spec.containers[name=m].image: "fleetpack.test/m:1" -> "fleetpack.test/m:2""#
    );
    let before = uid();
    apply::execute(&api, &second, &plan, &mut Unrecorded, &Silent).await.unwrap();
    assert_ne!(uid(), before);
    let image = kube.get(&["job", "migrate"])["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    assert_eq!(image, "fleetpack.test/m:2");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_takes_the_set_over() {
    if !is_root() {
        return;
    }
    let api = connect().await;
    let kube = cluster::control_plane();
    let yaml = "
apiVersion: v1
kind: ConfigMap
metadata: {name: handed-over, namespace: fleetpack-system}
---
apiVersion: v1
kind: Secret
metadata: {name: handed-over, namespace: fleetpack-system}
";
    // kubectl takes members in the parent's own namespace alone.
    let folder = tempfile::tempdir().unwrap();
    kube.put(
        folder.path(),
        "{apiVersion: v1, kind: Namespace, metadata: {name: fleetpack-system}}",
        &["--server-side"],
    );
    applied(&api, release("handover", "1", yaml)).await;
    let file = folder.path().join("kept.yaml");
    std::fs::write(&file, yaml.split("---").next().unwrap()).unwrap();
    let take_over = || {
        let mut kubectl = crate::support::testbed::tool("kubectl", folder.path());
        kubectl.env("KUBECTL_APPLYSET", "true").env("KUBECONFIG", &kube.kubeconfig);
        kubectl.args(["apply", "-n", "fleetpack-system", "--server-side", "--force-conflicts", "--prune"]);
        kubectl.args(["--applyset=configmap/fleetpack-handover", "-f"]).arg(&file);
        crate::support::command::run(&mut kubectl)
    };
    // Ours until its owner is changed.
    take_over().refused(1, &["fleetpack"]);
    let parent = ["annotate", "--overwrite", "configmap", "fleetpack-handover", "-n", "fleetpack-system"];
    kube.kubectl(&[&parent[..], &["applyset.kubernetes.io/tooling=kubectl/v1.36"]].concat()).ok();
    let said = take_over().ok().stdout;
    assert!(said.contains("secret/handed-over pruned"), "{said}");
    assert_eq!(kube.kubectl(&["get", "configmap", "handed-over", "-n", "fleetpack-system"]).code, 0);
    assert_eq!(kube.kubectl(&["get", "secret", "handed-over", "-n", "fleetpack-system"]).code, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tests_and_deletion_hooks_of_a_chart_only_travel() {
    let cluster = connect().await;
    let yaml = "apiVersion: v1\nkind: Namespace\nmetadata: {name: roles}\n---\n\
        apiVersion: v1\nkind: ConfigMap\nmetadata: {name: plain}\n---\n\
        apiVersion: v1\nkind: ConfigMap\nmetadata: {name: hook, namespace: roles}\n---\n\
        apiVersion: v1\nkind: ConfigMap\nmetadata: {name: test, namespace: roles}\n---\n\
        apiVersion: v1\nkind: ConfigMap\nmetadata: {name: farewell, namespace: roles}\n---\n\
        apiVersion: none.fleetpack.test/v1\nkind: Nowhere\nmetadata: {name: of-a-test}\n";
    let mut wanted = release("roles", "1", yaml);
    for object in &mut wanted.objects {
        // Where it goes is said beside the object, for the site knows its kind.
        object.default_namespace = Some("roles".into());
        object.role = match object.id.name.as_str() {
            "hook" => ObjectRole::Hook,
            "test" | "of-a-test" => ObjectRole::Test,
            "farewell" => ObjectRole::UndoHook,
            _ => ObjectRole::Plain,
        };
    }
    let plan = applied(&cluster, wanted.clone()).await;
    let created: Vec<_> = plan.create.iter().map(|create| create.object.to_string()).collect();
    assert_eq!(created, ["Namespace roles", "ConfigMap roles/plain", "ConfigMap roles/hook"]);
    assert_eq!(plan.warnings, Vec::<String>::new(), "a default that the release says is no guess");

    // What is a test from now on leaves the cluster.
    wanted = release("roles", "2", yaml);
    wanted.objects.retain(|object| object.id.name != "of-a-test");
    for object in &mut wanted.objects {
        object.default_namespace = Some("roles".into());
        if object.id.kind == "ConfigMap" && object.id.name != "plain" {
            object.role = ObjectRole::Test;
        }
    }
    assert_eq!(names(&applied(&cluster, wanted.clone()).await.prune), ["ConfigMap roles/hook"]);

    wanted.objects.retain(|object| object.role == ObjectRole::Test);
    assert!(matches!(refused(&cluster, wanted).await, ApplyError::Empty));
}
