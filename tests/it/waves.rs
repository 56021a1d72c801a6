//! Waves, dependencies and webhooks on a real control plane; and what `apply` shows while it waits.

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fleetpack::apply::{self, ApplyError, Cluster, PlanOptions, ReleaseObjects, StepSink};
use fleetpack::model::progress::{Event, Progress, Silent};
use fleetpack::model::{ErrorClass, Plan, Waiting};

use crate::apply::{connect, refused, release};
use crate::support::cluster;
use crate::support::command::{fleetpack, program, run};
use crate::support::depot::Depot;
use crate::support::repository::Repository;
use crate::support::root::is_root;

/// A sink that keeps the looks, and the items of each phase.
#[derive(Default, Clone)]
pub struct Looks {
    pub waiting: Arc<Mutex<Vec<Waiting>>>,
    pub items: Arc<Mutex<Vec<String>>>,
}

impl Progress for Looks {
    fn event(&self, event: Event) {
        match event {
            Event::Waiting(waiting) => self.waiting.lock().unwrap().push(*waiting),
            Event::Item(item) => self.items.lock().unwrap().push(item),
            _ => {}
        }
    }
}

#[derive(Default)]
struct Steps(Vec<String>);

impl StepSink for Steps {
    fn step(&mut self, step: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.0.push(step.to_owned());
        Ok(())
    }
}

/// Applies a release within `patience` seconds of waiting; answers with its plan, its steps and
/// what was seen.
pub async fn applied(
    api: &Cluster,
    release: ReleaseObjects,
    patience: u64,
) -> (Plan, Vec<String>, Looks, Result<(), ApplyError>) {
    let looks = Looks::default();
    let seen = apply::observe(api, release, &Silent).await.unwrap();
    let plan = apply::plan(&seen, PlanOptions::default()).unwrap();
    let mut steps = Steps::default();
    let mut left = Duration::from_secs(patience);
    let work = async {
        apply::execute_within(api, &seen, &plan, &mut left, &mut steps, &looks).await?;
        apply::wait(api, &seen, Duration::from_secs(patience), &looks).await?;
        apply::prune(api, &seen, &plan, Duration::from_mins(1), &looks).await?;
        Ok(())
    };
    let result = work.await;
    (plan, steps.0, looks, result)
}

fn config(name: &str, annotation: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\n  namespace: waves\n  annotations: {{{annotation}}}\n"
    )
}

fn claim(namespace: &str, volume: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: data, namespace: {namespace}}}\n\
         spec: {{storageClassName: \"\", volumeName: {volume}, accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Mi}}}}}}\n"
    )
}

fn volume(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: {name}}}\nspec: {{capacity: {{storage: 1Mi}}, \
         accessModes: [ReadWriteOnce], persistentVolumeReclaimPolicy: Retain, hostPath: {{path: /nowhere}}}}\n"
    )
}

const WAVES: [&str; 5] =
    ["wave:-1/stage:1", "wave:-1/stage:3", "stage:3", "wave:1/stage:3", "wave:1/stage:3/1"];

#[tokio::test(flavor = "multi_thread")]
async fn a_wave_is_healthy_before_the_next_begins() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (api, kube) = (connect().await, cluster::control_plane());
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: waves}\n";
    let yaml = format!(
        "{namespace}{}{}{}{}",
        claim("waves", "waves-data"),
        config("late", "argocd.argoproj.io/sync-wave: \"1\""),
        config("early", "argocd.argoproj.io/sync-wave: \"-1\""),
        config("last", "config.kubernetes.io/depends-on: /namespaces/waves/ConfigMap/late"),
    );
    let is_there = |name: &str| kube.kubectl(&["get", "configmap", name, "-n", "waves"]).code == 0;

    // Nobody binds the claim of wave 0: wave 1 does not begin, and the message says why.
    let (plan, steps, looks, result) = applied(&api, release("waves", "1", &yaml), 4).await;
    let planned: Vec<_> = plan.stages.iter().map(fleetpack::model::plan::Stage::step).collect();
    assert_eq!(planned, WAVES);
    assert!(
        plan.to_string().contains("  4. wave 1: workloads and what they need: ConfigMap waves/late\n"),
        "{plan}"
    );
    let error = result.unwrap_err();
    assert_eq!(error.class(), ErrorClass::ClusterBroken);
    let text = error.to_string();
    for part in [
        "1 of 3 objects are not ready after ",
        "so this did not begin: wave 1:",
        "PersistentVolumeClaim waves/data",
    ] {
        assert!(text.contains(part), "wanted `{part}` in:\n{text}");
    }
    assert_eq!(steps, WAVES[..3]);
    assert!(is_there("early") && !is_there("late") && !is_there("last"));
    let last = looks.waiting.lock().unwrap().last().cloned().unwrap();
    assert_eq!((last.before.as_deref(), last.ready, last.total), (Some("wave 1"), 2, 3));
    assert_eq!(last.unready[0].object.to_string(), "PersistentVolumeClaim waves/data");
    // The inventory has every kind of every wave already.
    let inventory = kube.get(&["configmap", "fleetpack-waves", "-n", "fleetpack-system"]);
    let kinds = &inventory["metadata"]["annotations"]["applyset.kubernetes.io/contains-group-kinds"];
    assert_eq!(kinds, "ConfigMap,Namespace,PersistentVolumeClaim");

    // The volume comes while the same command waits: it goes on by itself.
    let put = volume("waves-data");
    let later = tokio::task::spawn_blocking({
        let folder = folder.path().to_owned();
        move || {
            std::thread::sleep(Duration::from_secs(1));
            cluster::control_plane().put(&folder, &put, &[]);
        }
    });
    let (_, steps, _, result) = applied(&api, release("waves", "1", &yaml), 60).await;
    result.unwrap();
    later.await.unwrap();
    assert_eq!(steps, WAVES);
    let made = |name: &str| {
        let object = kube.get(&["configmap", name, "-n", "waves"]);
        let version = object["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>();
        version.unwrap()
    };
    assert!(made("early") < made("late") && made("late") < made("last"));

    // What leaves goes the other way round.
    let (_, _, looks, result) =
        applied(&api, release("waves", "2", &format!("{namespace}{}", claim("waves", "waves-data"))), 30)
            .await;
    result.unwrap();
    let mut items = looks.items.lock().unwrap().clone();
    items.retain(|item| item.starts_with("deleted "));
    let gone = |name: &str| format!("deleted ConfigMap waves/{name}");
    assert_eq!(items, [gone("last"), gone("late"), gone("early")]);

    // And back, by the same waves.
    let (_, steps, _, result) = applied(&api, release("waves", "1", &yaml), 30).await;
    result.unwrap();
    assert_eq!(steps, WAVES);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_order_is_refused_by_name() {
    if !is_root() {
        return;
    }
    let api = connect().await;
    let ring = format!(
        "{}{}",
        config("a", "config.kubernetes.io/depends-on: /namespaces/waves/ConfigMap/b"),
        config("b", "config.kubernetes.io/depends-on: /namespaces/waves/ConfigMap/a")
    );
    let error = refused(&api, release("ring", "1", ring.trim_start_matches("---\n"))).await;
    assert_eq!(error.class(), ErrorClass::Failed);
    assert!(error.to_string().contains("ConfigMap waves/a (site.yaml:1) -> ConfigMap waves/b"), "{error}");
    assert!(error.hint().unwrap().contains("depends-on"));

    // A build says it before anything is fetched.
    let folder = tempfile::tempdir().unwrap();
    let repository = Repository::init(&folder.path().join("shop"));
    let build = |yaml: &str| {
        repository.write("shop.yaml", yaml.trim_start_matches("---\n"));
        repository.commit("change");
        run(fleetpack(folder.path()).current_dir(folder.path()).args(["build", "shop", "-o", "shop.tar"]))
    };
    build(&ring).refused(1, &["ConfigMap waves/a (shop.yaml:1) -> ConfigMap waves/b"]);
    build(&config("a", "config.kubernetes.io/depends-on: apps/namespaces/waves/Deployment/db")).refused(
        1,
        &["ConfigMap waves/a (shop.yaml:1) depends on `apps/namespaces/waves/Deployment/db`, which is not"],
    );
    build(&config("a", "argocd.argoproj.io/sync-wave: first")).refused(1, &["`first`", "a whole number"]);
    assert!(!folder.path().join("shop.tar").exists());
}

/// The expression keeps the API server from asking a webhook that nobody serves; whom it admits is
/// judged without expressions.
const HOOKED: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: hooked}
---
apiVersion: v1
kind: Service
metadata: {name: hook, namespace: hooked}
spec: {ports: [{port: 443}]}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata:
  name: hooked.fleetpack.test
  annotations: {cert-manager.io/inject-ca-from: hooked/hook}
webhooks:
- name: hooked.fleetpack.test
  admissionReviewVersions: [v1]
  sideEffects: None
  clientConfig: {service: {namespace: hooked, name: hook}}
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: hooked}}
  matchConditions: [{name: never, expression: 'false'}]
  rules: [{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: admitted, namespace: hooked, annotations: {argocd.argoproj.io/sync-wave: '1'}}
";

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_can_answer_before_what_they_admit_is_applied() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (api, kube) = (connect().await, cluster::control_plane());
    let fails = async || {
        let (.., result) = applied(&api, release("hooked", "1", HOOKED), 3).await;
        let text = result.unwrap_err().to_string();
        assert!(text.contains("so this did not begin: wave 1"), "{text}");
        assert_eq!(kube.kubectl(&["get", "configmap", "admitted", "-n", "hooked"]).code, 1);
        text
    };
    let text = fails().await;
    assert!(
        text.contains("waits for the CA bundle that `cert-manager.io/inject-ca-from` asks for"),
        "{text}"
    );

    // Somebody injects it; nothing answers yet.
    let bundle = std::fs::read_to_string(&kube.kubeconfig).unwrap();
    let config: serde_json::Value = serde_saphyr::from_str(&bundle).unwrap();
    let bundle = config["clusters"][0]["cluster"]["certificate-authority-data"].as_str().unwrap();
    let patch = format!(r#"[{{"op":"add","path":"/webhooks/0/clientConfig/caBundle","value":"{bundle}"}}]"#);
    let kind = "validatingwebhookconfiguration";
    kube.kubectl(&["patch", kind, "hooked.fleetpack.test", "--type=json", "-p", &patch]).ok();
    let text = fails().await;
    assert!(
        text.contains("the Service hooked/hook of the webhook `hooked.fleetpack.test` has no ready endpoint"),
        "{text}"
    );

    kube.put(
        folder.path(),
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: hook-1, namespace: hooked, \
         labels: {kubernetes.io/service-name: hook}}\naddressType: IPv4\nports: [{port: 443}]\n\
         endpoints: [{addresses: [10.9.8.7], conditions: {ready: true}}]\n",
        &[],
    );
    let (.., result) = applied(&api, release("hooked", "1", HOOKED), 30).await;
    result.unwrap();
    kube.kubectl(&["get", "configmap", "admitted", "-n", "hooked"]).ok();
    kube.kubectl(&["delete", kind, "hooked.fleetpack.test"]).ok();
}

#[test]
fn apply_shows_what_it_waits_for() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let kube = cluster::control_plane();
    let depot = Depot::new(folder.path(), "waves-shown", &kube.kubeconfig);
    let archive = depot.build("1", &claim("waves-shown", "waves-shown"));
    let waiting =
        |seconds: &str, more: &[&str]| depot.apply(&archive, &[&["--timeout", seconds], more].concat());

    // On a pipe, a line for each change.
    let ended = waiting("8s", &[]).refused(6, &["1 of 3 objects are not ready after "]);
    let line = "waiting: PersistentVolumeClaim waves-shown/data: phase Pending, wanted Bound";
    assert_eq!(ended.stderr.matches(line).count(), 1, "{}", ended.stderr);
    assert!(!ended.stderr.contains('\u{1b}'), "{}", ended.stderr);

    // For programs, an object a line, and why it failed in the last one.
    let ended = waiting("2s", &["--format", "json"]).refused(6, &["1 of 3 objects"]);
    let lines = ended.json_lines();
    let look = lines.iter().find(|line| line["event"] == "waiting").unwrap();
    assert_eq!(look["unready"][0]["object"]["name"], "data", "{look}");
    assert_eq!((&look["unready"][0]["state"], &look["total"]), (&"inProgress".into(), &3.into()), "{look}");
    assert!(lines.iter().any(|line| line["event"] == "begin" && line["message"] == "waiting for 3 objects"));
    let last = lines.last().unwrap();
    assert_eq!((&last["event"], &last["exitCode"]), (&"failed".into(), &6.into()), "{last}");
    assert!(last["message"].as_str().unwrap().contains("PersistentVolumeClaim waves-shown/data"), "{last}");

    // On a terminal, a table that is drawn anew.
    let command = depot.apply_command(&archive, &["--timeout", "3s"]);
    let line: Vec<_> = [command.get_program()].into_iter().chain(command.get_args()).collect();
    let line = line.iter().map(|part| part.to_str().unwrap()).collect::<Vec<_>>().join(" ");
    let mut terminal = in_terminal(&command, &line, folder.path());
    let shown = run(terminal.current_dir(folder.path()));
    let row = "waiting  PersistentVolumeClaim waves-shown/data  phase Pending, wanted Bound";
    assert!(shown.stdout.contains(row), "{}", shown.stdout);
    assert!(shown.stdout.contains("2 of 3 ready, "), "{}", shown.stdout);
    // The cursor goes up to draw over what was there.
    assert!(shown.stdout.contains("\u{1b}[1A") || shown.stdout.contains("\u{1b}[2A"), "{:?}", shown.stdout);

    // When it comes, the last line is the report.
    kube.put(folder.path(), &volume("waves-shown"), &[]);
    let lines = waiting("1m", &["--format", "json"]).ok().json_lines();
    let last = lines.last().unwrap();
    assert_eq!(
        (&last["event"], &last["done"], &last["format"]),
        (&"report".into(), &"installed".into(), &1.into())
    );
    assert!(last["plan"]["stages"].is_array(), "{last}");
}

/// `line` on a terminal of its own, with the environment of `command`.
fn in_terminal(command: &Command, line: &str, home: &std::path::Path) -> Command {
    let mut terminal = program("script", home);
    terminal
        .args(["-q", "-e", "-c", &format!("stty cols 120 rows 40; {line}"), "/dev/null"])
        .env("TERM", "xterm");
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            terminal.env(key, value);
        }
    }
    terminal
}
