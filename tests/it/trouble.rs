//! Trouble that needs no pods, on a real control plane: each case of `docs/cluster-trouble.md` by its
//! name, through the program itself. Whatever happens, the site is on a whole release afterwards.

use std::ops::Deref;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::support::cluster::{Cluster, Node, control_plane, with_node};
use crate::support::command::run;
use crate::support::depot::Depot;
use crate::support::root::is_root;
use crate::support::storm::{Storm, failure};

/// A site of its own on a shared cluster.
pub struct Site<C> {
    _folder: tempfile::TempDir,
    pub cluster: C,
    pub depot: Depot,
}

impl<C> Deref for Site<C> {
    type Target = Depot;

    fn deref(&self) -> &Depot {
        &self.depot
    }
}

impl Site<&'static Cluster> {
    /// On the control plane, without a node.
    #[track_caller]
    fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cluster = control_plane();
        let depot = Depot::new(folder.path(), name, &cluster.kubeconfig);
        Self { _folder: folder, cluster, depot }
    }
}

impl Site<Node> {
    /// On the node, which pulls from this site's server.
    #[track_caller]
    pub fn on_node(folder: tempfile::TempDir, mut depot: Depot) -> Self {
        let cluster = with_node(depot.endpoint());
        depot.kubeconfig.clone_from(&cluster.kubeconfig);
        Self { _folder: folder, cluster, depot }
    }
}

impl<C: Deref<Target = Cluster>> Site<C> {
    /// An object of the site's namespace.
    #[track_caller]
    pub fn get(&self, object: &str) -> Value {
        self.cluster.get(&["-n", &self.name, object])
    }

    #[track_caller]
    pub fn uid(&self, object: &str) -> String {
        self.get(object)["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    pub fn is_there(&self, object: &str) -> bool {
        self.cluster.kubectl(&["-n", &self.name, "get", object]).code == 0
    }

    /// kubectl in the site's namespace.
    #[track_caller]
    pub fn by_hand(&self, arguments: &[&str]) {
        self.cluster.kubectl(&[&["-n", &self.name], arguments].concat()).ok();
    }

    #[track_caller]
    pub fn put(&self, yaml: &str) {
        self.cluster.put(&self.folder, yaml, &[]);
    }

    /// The site runs release `version`, whole: its config map says so, and so does the ledger.
    #[track_caller]
    pub fn runs(&self, version: &str) {
        assert_eq!(self.get("configmap/depot")["data"]["value"], version);
        let status = self.site(&["status", "--format", "json"]).ok().json();
        assert_eq!(status["active"][0]["version"], version, "{status}");
        assert_eq!(status["unfinished"], serde_json::json!([]), "{status}");
    }

    /// A manifest in the site's namespace, behind a document mark.
    pub fn object(&self, text: &str) -> String {
        format!("---\n{}", text.replace("NS", &self.name))
    }
}

const DEPLOYMENT: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: NS}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: registry.example.com/depot/part:1}]}
";

/// No node runs here: its pod never starts.
fn sick() -> String {
    DEPLOYMENT
        .replace("replicas: 0", "replicas: 1")
        .replace("{name: web, namespace", "{name: sick, namespace")
}

#[test]
fn deployment_selector_changed() {
    if !is_root() {
        return;
    }
    let site = Site::new("trouble-selector");
    let one = site.build("1", &site.object(DEPLOYMENT));
    let other = DEPLOYMENT.replace("app: web", "app: other");
    let two = site.build("2", &site.object(&other));
    let three = site.build(
        "3",
        &site.object(
            &DEPLOYMENT
                .replace("{name: web, n", "{name: web, annotations: {fleetpack.dev/recreate: allowed}, n"),
        ),
    );
    site.apply(&one, &[]).ok();
    let before = site.uid("deployment/web");
    for mode in [&[][..], &["--dry-run"]] {
        site.apply(&two, mode).refused(
            1,
            &[
                "Deployment trouble-selector/web (depot.yaml:",
                "`spec.selector`: field is immutable; `fleetpack.dev/recreate: allowed` on it allows",
                "kubectl annotate -n trouble-selector deployment.apps web fleetpack.dev/recreate=allowed",
            ],
        );
        site.runs("1");
        assert_eq!(site.uid("deployment/web"), before);
    }
    // The site allows it by hand, and going back asks nobody.
    site.by_hand(&["annotate", "deployment.apps", "web", "fleetpack.dev/recreate=allowed"]);
    let plan = site.apply(&two, &["--dry-run"]).ok().stdout;
    assert!(plan.contains("deleted and created again: `spec.selector`: field is immutable"), "{plan}");
    site.apply(&two, &[]).ok();
    site.runs("2");
    assert_ne!(site.uid("deployment/web"), before);
    assert_eq!(site.get("deployment/web")["spec"]["selector"]["matchLabels"]["app"], "other");
    site.site(&["rollback"]).ok();
    site.runs("1");
    assert_eq!(site.get("deployment/web")["spec"]["selector"]["matchLabels"]["app"], "web");
    // And the release itself may allow it.
    site.site(&["rollback", "--to", "2"]).ok();
    site.apply(&three, &[]).ok();
    site.runs("3");
    assert_eq!(site.get("deployment/web")["spec"]["selector"]["matchLabels"]["app"], "web");
}

#[test]
fn recreation_is_undone_when_health_does_not_come() {
    if !is_root() {
        return;
    }
    let site = Site::new("trouble-undone");
    let other = DEPLOYMENT
        .replace("app: web", "app: other")
        .replace("{name: web, n", "{name: web, annotations: {fleetpack.dev/recreate: allowed}, n");
    let one = site.build("1", &site.object(DEPLOYMENT));
    let two = site.build("2", &(site.object(&other) + &site.object(&sick())));
    site.apply(&one, &[]).ok();
    site.apply(&two, &["--timeout", "3s"]).refused(5, &["Deployment trouble-undone/sick", "was restored"]);
    site.runs("1");
    assert_eq!(site.get("deployment/web")["spec"]["selector"]["matchLabels"]["app"], "web");
    assert!(!site.is_there("deployment/sick"));
}

#[test]
fn service_address_changed() {
    if !is_root() {
        return;
    }
    let site = Site::new("trouble-service");
    let service = |last: u8, note: &str| {
        site.object(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: NS{note}}}\n\
             spec: {{clusterIP: 10.96.201.{last}, ports: [{{port: 80}}]}}\n"
        ))
    };
    let allowed = ", annotations: {fleetpack.dev/recreate: allowed}";
    let (one, two) = (site.build("1", &service(1, "")), site.build("2", &service(2, "")));
    let three = site.build("3", &service(2, allowed));
    site.apply(&one, &[]).ok();
    site.apply(&two, &[])
        .refused(1, &["Service trouble-service/web", "may not change once set; `fleetpack.dev/recreate"]);
    site.runs("1");
    site.apply(&three, &[]).ok();
    assert_eq!(site.get("service/web")["spec"]["clusterIP"], "10.96.201.2");
    site.site(&["rollback"]).ok();
    site.runs("1");
    assert_eq!(site.get("service/web")["spec"]["clusterIP"], "10.96.201.1");
}

#[test]
fn claims_are_never_recreated_and_go_only_when_asked() {
    if !is_root() {
        return;
    }
    let site = Site::new("trouble-claims");
    let claim = |name: &str, mode: &str, note: &str| {
        site.object(&format!(
            "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}, namespace: NS, annotations: {{{note}}}}}\n\
             spec: {{storageClassName: late, accessModes: [{mode}], resources: {{requests: {{storage: 1Mi}}}}}}\n"
        ))
    };
    let class = "---\napiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: trouble-late}\n\
                 provisioner: fleetpack.test/none\nvolumeBindingMode: WaitForFirstConsumer\n";
    let with =
        |text: String| text.replace("storageClassName: late", "storageClassName: trouble-late") + class;
    let (rw, allowed) = ("ReadWriteOnce", "fleetpack.dev/recreate: allowed");
    let one =
        site.build("1", &with(claim("data", rw, "") + &claim("cache", rw, "fleetpack.dev/prune: allowed")));
    let two = site.build("2", &with(claim("data", "ReadWriteMany", allowed)));
    let three = site.build("3", class);
    let slip = site.build("4", &with(claim("data", rw, "fleetpack.dev/prune: \"yes\"")));
    site.apply(&one, &[]).ok();
    let before = site.uid("pvc/data");
    site.apply(&two, &[])
        .refused(1, &["PersistentVolumeClaim trouble-claims/data", "is never deleted to be created again"]);
    site.runs("1");
    let plan = site.apply(&three, &["--dry-run"]).ok().stdout;
    assert!(plan.contains("= keep    PersistentVolumeClaim trouble-claims/data"), "{plan}");
    assert!(plan.contains("- prune   PersistentVolumeClaim trouble-claims/cache"), "{plan}");
    site.apply(&three, &[]).ok();
    assert_eq!(site.uid("pvc/data"), before);
    assert!(!site.is_there("pvc/cache"));
    site.apply(&slip, &[])
        .refused(1, &["the annotation `fleetpack.dev/prune` is `\"yes\"`, wanted `allowed` or `never`"]);
    site.runs("3");
}

#[test]
fn namespaces_and_definitions_go_only_when_asked_and_empty() {
    if !is_root() {
        return;
    }
    let site = Site::new("trouble-holders");
    let namespace = |name: &str, note: &str| {
        format!(
            "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: trouble-{name}, annotations: {{{note}}}}}\n"
        )
    };
    let definition = |name: &str| {
        format!(
            "---\napiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n\
             metadata: {{name: {name}s.trouble.fleetpack.test, annotations: {{fleetpack.dev/prune: allowed}}}}\n\
             spec:\n  group: trouble.fleetpack.test\n  scope: Namespaced\n  \
             names: {{kind: {name}, plural: {name}s, singular: {name}, listKind: {name}List}}\n  \
             versions: [{{name: v1, served: true, storage: true, schema: {{openAPIV3Schema: {{type: object}}}}}}]\n"
        )
    };
    let allowed = "fleetpack.dev/prune: allowed";
    let inside = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: mine, namespace: trouble-empty}\n";
    let all = [
        &namespace("usual", ""),
        &namespace("empty", allowed),
        &namespace("shared", allowed),
        inside,
        &definition("crate"),
        &definition("barrel"),
    ];
    let one = site.build("1", &all.map(String::from).concat());
    let two = site.build("2", "");
    site.apply(&one, &[]).ok();
    site.put("{apiVersion: v1, kind: ConfigMap, metadata: {name: theirs, namespace: trouble-shared}}");
    site.put("{apiVersion: trouble.fleetpack.test/v1, kind: barrel, metadata: {name: theirs, namespace: trouble-shared}}");
    let said = site.apply(&two, &[]).ok().stderr;
    site.runs("2");
    for (object, there) in [
        ("namespace/trouble-usual", true),
        ("namespace/trouble-empty", false),
        ("namespace/trouble-shared", true),
        ("crd/crates.trouble.fleetpack.test", false),
        ("crd/barrels.trouble.fleetpack.test", true),
    ] {
        assert_eq!(site.is_there(object), there, "{object}:\n{said}");
    }
    assert!(
        said.contains(
            "Namespace trouble-shared left the release and stays: it holds what is not the release's"
        ),
        "{said}"
    );
    assert!(said.contains("ConfigMap trouble-shared/theirs"), "{said}");
}

fn definition(versions: &[(&str, bool)]) -> String {
    let mut text = "---\napiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n\
        metadata: {name: boxes.stored.fleetpack.test}\nspec:\n  group: stored.fleetpack.test\n  scope: Namespaced\n  \
        names: {kind: Box, plural: boxes, singular: box, listKind: BoxList}\n  versions:\n"
        .to_owned();
    for (name, storage) in versions {
        let version = format!(
            "  - {{name: {name}, served: true, storage: {storage}, schema: {{openAPIV3Schema: {{type: object, \
             properties: {{spec: {{type: object, properties: {{size: {{type: integer}}}}}}}}}}}}}}\n"
        );
        text.push_str(&version);
    }
    text
}

#[test]
fn definition_with_a_new_stored_version_and_back() {
    if !is_root() {
        return;
    }
    let site = Site::new("trouble-stored");
    let object = |version: &str, size: u8| {
        site.object(&format!(
            "apiVersion: stored.fleetpack.test/{version}\nkind: Box\nmetadata: {{name: mine, namespace: NS}}\nspec: {{size: {size}}}\n"
        ))
    };
    let one = site.build("1", &(definition(&[("v1", true)]) + &object("v1", 1)));
    let two = site.build("2", &(definition(&[("v1", false), ("v2", true)]) + &object("v2", 2)));
    let three = site.build("3", &(definition(&[("v2", true)]) + &object("v2", 3)));
    let crd = "crd/boxes.stored.fleetpack.test";
    let stored = || site.get(crd)["status"]["storedVersions"].clone();
    let versions = || {
        let all = site.get(crd)["spec"]["versions"].clone();
        all.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    site.apply(&one, &[]).ok();
    site.put("{apiVersion: stored.fleetpack.test/v1, kind: Box, metadata: {name: theirs, namespace: trouble-stored}, spec: {size: 7}}");
    site.apply(&two, &[]).ok();
    assert_eq!(stored(), serde_json::json!(["v1", "v2"]));
    // The release before knows no v2: what is stored in it moves, and no object is lost.
    let plan = site.site(&["rollback", "--dry-run"]).ok().stdout;
    assert!(plan.contains("objects that may be stored as `v2` are written again before"), "{plan}");
    site.site(&["rollback"]).ok();
    site.runs("1");
    assert_eq!((stored(), versions()), (serde_json::json!(["v1"]), vec!["v1".to_owned()]));
    assert_eq!(site.get("boxes.v1.stored.fleetpack.test/mine")["spec"]["size"], 1);
    assert_eq!(site.get("boxes.v1.stored.fleetpack.test/theirs")["spec"]["size"], 7);
    // Forth again, and on to a release that drops the old version.
    site.site(&["rollback", "--to", "2"]).ok();
    site.apply(&three, &[]).ok();
    site.runs("3");
    assert_eq!((stored(), versions()), (serde_json::json!(["v2"]), vec!["v2".to_owned()]));
    // kubectl remembers for a while which versions there are.
    let theirs = site.get("boxes.v2.stored.fleetpack.test/theirs");
    assert_eq!(
        (&theirs["spec"]["size"], &theirs["apiVersion"]),
        (&7.into(), &"stored.fleetpack.test/v2".into())
    );
}

/// A webhook that nobody answers for, over the config maps of one namespace.
fn webhook(name: &str, namespace: &str, note: &str) -> String {
    format!(
        "---\napiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingWebhookConfiguration\n\
         metadata: {{name: {name}, annotations: {{{note}}}}}\nwebhooks:\n- name: {name}.fleetpack.test\n  \
         admissionReviewVersions: [v1]\n  sideEffects: None\n  failurePolicy: Fail\n  timeoutSeconds: 2\n  \
         clientConfig: {{url: 'https://127.0.0.1:9/'}}\n  \
         namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {namespace}}}}}\n  \
         rules: [{{apiGroups: [''], apiVersions: [v1], operations: ['*'], resources: [configmaps]}}]\n"
    )
}

#[test]
fn own_webhook_that_is_down() {
    if !is_root() {
        return;
    }
    let site = Site::new("trouble-webhook");
    let hook = |note: &str| webhook("trouble-own", "trouble-webhook", note);
    let configuration = "validatingwebhookconfiguration/trouble-own";
    let one = site.build("1", "");
    let two = site.build("2", &(site.object(&sick()) + &hook("")));
    let three = site.build("3", &hook(""));
    let four = site.build("4", &hook(""));
    let five = site.build("5", &hook("fleetpack.dev/recreate: allowed"));
    site.apply(&one, &[]).ok();
    // It comes with a release that does not become healthy, and must not bar the way back.
    let said = site.apply(&two, &["--timeout", "3s"]).refused(5, &["was restored"]).stderr;
    assert!(said.contains("withdrew ValidatingWebhookConfiguration trouble-own"), "{said}");
    site.runs("1");
    assert!(!site.is_there(configuration));
    // It came, and the next release has it too: refused, or withdrawn for a while where that is allowed.
    site.apply(&three, &[]).ok();
    site.apply(&four, &[]).refused(
        1,
        &[
            "ValidatingWebhookConfiguration trouble-own (depot.yaml:",
            "stands in the way of the release's own objects",
            "failed calling webhook \"trouble-own.fleetpack.test\"",
            "`fleetpack.dev/recreate: allowed`",
        ],
    );
    site.runs("3");
    let before = site.uid(configuration);
    site.apply(&five, &[]).ok();
    site.runs("5");
    assert_ne!(site.uid(configuration), before);
    site.site(&["rollback"]).ok();
    site.runs("3");
    assert!(site.is_there(configuration), "release 3 has it");
    // Back to before it.
    site.site(&["rollback", "--to", "1"]).refused(2, &["`1`"]);
    site.by_hand(&["delete", configuration]);
}

#[test]
fn foreign_webhook_that_is_down() {
    if !is_root() {
        return;
    }
    let site = Site::new("trouble-foreign");
    let (one, two) =
        (site.build("1", ""), site.build("2", &site.object(&sick().replace("replicas: 1", "replicas: 0"))));
    site.apply(&one, &[]).ok();
    site.put(webhook("trouble-others", "trouble-foreign", "").trim_start_matches("---\n"));
    let begun = std::time::Instant::now();
    site.apply(&two, &[]).refused(
        1,
        &[
            "ConfigMap trouble-foreign/depot",
            "failed calling webhook \"trouble-others.fleetpack.test\"",
            "nothing was changed",
        ],
    );
    assert!(begun.elapsed() < Duration::from_secs(50));
    assert!(!site.is_there("deployment/sick"));
    site.by_hand(&["delete", "validatingwebhookconfiguration/trouble-others"]);
    site.runs("1");
    site.apply(&two, &[]).ok();
    site.runs("2");
}

/// A policy that refuses config maps of one namespace whose value is `bad`.
fn policy(name: &str, namespace: &str, bad: &str) -> String {
    format!(
        "---\napiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicy\nmetadata: {{name: {name}}}\n\
         spec:\n  failurePolicy: Fail\n  matchConstraints:\n    resourceRules: [{{apiGroups: [''], apiVersions: [v1], \
         operations: [CREATE, UPDATE], resources: [configmaps]}}]\n  validations: [{{expression: \"!has(object.data) || \
         !('value' in object.data) || object.data.value != '{bad}'\", message: 'no {bad} here'}}]\n\
         ---\napiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicyBinding\nmetadata: {{name: {name}}}\n\
         spec: {{policyName: {name}, validationActions: [Deny], matchResources: {{namespaceSelector: {{matchLabels: \
         {{kubernetes.io/metadata.name: {namespace}}}}}}}}}\n"
    )
}

/// Waits until the API server refuses, as the policy wants, what `arguments` do as a dry run.
fn until_refused(site: &Site<&'static Cluster>, value: &str) {
    let patch = format!(r#"{{"data":{{"value":"{value}"}}}}"#);
    let name = site.name.clone();
    let arguments =
        ["-n", &name, "patch", "configmap", "depot", "--type=merge", "--dry-run=server", "-p", &patch];
    for _ in 0..240 {
        if site.cluster.kubectl(&arguments).code != 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(250));
    }
    panic!("the policy does not come into force");
}

#[test]
fn foreign_admission_policy_refuses() {
    if !is_root() {
        return;
    }
    let site = Site::new("trouble-policy");
    let (one, two) = (site.build("1", ""), site.build("2", ""));
    site.apply(&one, &[]).ok();
    site.put(policy("trouble-policy", "trouble-policy", "2").trim_start_matches("---\n"));
    until_refused(&site, "2");
    let said = site
        .apply(&two, &[])
        .refused(1, &["ConfigMap trouble-policy/depot", "no 2 here", "nothing was changed"]);
    assert!(!said.stderr.contains("auth can-i"), "no right is missing:\n{}", said.stderr);
    site.runs("1");
    site.by_hand(&[
        "delete",
        "validatingadmissionpolicybinding/trouble-policy",
        "validatingadmissionpolicy/trouble-policy",
    ]);
}

#[test]
fn own_admission_policy_does_not_bar_the_way_back() {
    if !is_root() {
        return;
    }
    let site = Site::new("trouble-way");
    let one = site.build("1", "");
    let two = site.build("2", &policy("trouble-way", "trouble-way", "1"));
    site.apply(&one, &[]).ok();
    site.apply(&two, &[]).ok();
    until_refused(&site, "1");
    let said = site.site(&["rollback"]).ok().stderr;
    assert!(said.contains("withdrew ValidatingAdmissionPolicyBinding trouble-way"), "{said}");
    site.runs("1");
    assert!(!site.is_there("validatingadmissionpolicy/trouble-way"));
}

#[test]
fn quota_and_limits_refuse() {
    if !is_root() {
        return;
    }
    let site = Site::new("trouble-quota");
    let one = site.build("1", "");
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: more, namespace: NS}\n";
    let two = site.build("2", &site.object(map));
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: large, namespace: NS}\nspec: {containers: [{name: a, \
               image: registry.example.com/depot/part:1, resources: {requests: {cpu: 2}, limits: {cpu: 2}}}]}\n";
    let three = site.build("3", &site.object(pod));
    let four = site.build("4", &site.object(&sick()));
    site.apply(&one, &[]).ok();
    site.put(
        "{apiVersion: v1, kind: ResourceQuota, metadata: {name: small, namespace: trouble-quota}, spec: {hard: {configmaps: 2, pods: 0}}}\n---\n\
         {apiVersion: v1, kind: LimitRange, metadata: {name: small, namespace: trouble-quota}, spec: {limits: [{type: Container, max: {cpu: 1}}]}}",
    );
    // A quota counts once its controller has looked at it.
    while site.get("resourcequota/small")["status"]["used"]["configmaps"] != "2" {
        std::thread::sleep(Duration::from_millis(200));
    }
    let said = site
        .apply(&two, &[])
        .refused(1, &["ConfigMap trouble-quota/more", "exceeded quota: small", "nothing was changed"]);
    assert!(!said.stderr.contains("auth can-i"), "no right is missing:\n{}", said.stderr);
    site.apply(&three, &[]).refused(1, &["Pod trouble-quota/large", "maximum cpu usage per Container is 1"]);
    site.runs("1");
    // What a controller makes is refused after the dry run: health does not come, and says why.
    site.apply(&four, &["--timeout", "6s"])
        .refused(5, &["Deployment trouble-quota/sick", "quota", "was restored"]);
    site.runs("1");
}

#[test]
fn own_quota_does_not_bar_the_way_back() {
    if !is_root() {
        return;
    }
    let site = Site::new("trouble-counted");
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: more, namespace: NS}\n";
    let quota = "apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: small, namespace: NS}\nspec: {hard: {configmaps: 2}}\n";
    let one = site.build("1", &site.object(map));
    let two = site.build("2", &site.object(quota));
    site.apply(&one, &[]).ok();
    site.apply(&two, &[]).ok();
    assert!(!site.is_there("configmap/more"));
    while site.get("resourcequota/small")["status"]["used"]["configmaps"] != "2" {
        std::thread::sleep(Duration::from_millis(200));
    }
    let said = site.site(&["rollback"]).ok().stderr;
    assert!(said.contains("withdrew ResourceQuota trouble-counted/small"), "{said}");
    site.runs("1");
    assert!(site.is_there("configmap/more") && !site.is_there("resourcequota/small"));
}

#[test]
fn a_claim_that_was_enlarged_is_left_on_the_way_back() {
    if !is_root() {
        return;
    }
    let site = Site::new("trouble-grown");
    let claim = |size: u8| {
        site.object(&format!(
            "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: data, namespace: NS}}\nspec: {{storageClassName: \
             trouble-grow, accessModes: [ReadWriteOnce], resources: {{requests: {{storage: {size}Mi}}}}}}\n---\n\
             apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {{name: trouble-grow}}\n\
             provisioner: fleetpack.test/none\nallowVolumeExpansion: true\n"
        ))
    };
    let (one, two) = (site.build("1", &claim(1)), site.build("2", &(claim(2) + &site.object(&sick()))));
    site.put(
        "{apiVersion: v1, kind: PersistentVolume, metadata: {name: trouble-grown}, spec: {storageClassName: trouble-grow, \
         capacity: {storage: 5Mi}, accessModes: [ReadWriteOnce], claimRef: {namespace: trouble-grown, name: data}, \
         hostPath: {path: /run/trouble-grown}}}",
    );
    site.apply(&one, &[]).ok();
    let before = site.uid("pvc/data");
    site.apply(&two, &["--timeout", "3s"]).refused(5, &["Deployment trouble-grown/sick", "was restored"]);
    site.runs("1");
    assert_eq!(site.uid("pvc/data"), before);
    assert_eq!(site.get("pvc/data")["spec"]["resources"]["requests"]["storage"], "2Mi");
    let plan = site.site(&["rollback", "--to", "1", "--dry-run"]).ok().stdout;
    assert!(
        plan.contains("= leave   PersistentVolumeClaim trouble-grown/data  it cannot be changed back"),
        "{plan}"
    );
}

#[test]
fn namespace_stuck_terminating() {
    if !is_root() {
        return;
    }
    let site = Site::new("trouble-stuck");
    let (one, two) = (site.build("1", ""), site.build("2", ""));
    site.apply(&one, &[]).ok();
    site.put("{apiVersion: v1, kind: ConfigMap, metadata: {name: held, namespace: trouble-stuck, finalizers: [fleetpack.test/hold]}}");
    site.by_hand(&["delete", "namespace", "trouble-stuck", "--wait=false"]);
    let parts =
        ["`trouble-stuck` is being deleted (phase Terminating)", "kubectl get namespace trouble-stuck"];
    site.apply(&two, &[]).refused(1, &parts);
    site.apply(&one, &[]).refused(1, &parts);
    // Once what holds it is gone, the release that ran comes back by the same command.
    site.by_hand(&[
        "patch",
        "configmap",
        "held",
        "--type=merge",
        "-p",
        r#"{"metadata":{"finalizers":null}}"#,
    ]);
    site.cluster.kubectl(&["wait", "--for=delete", "namespace/trouble-stuck", "--timeout=60s"]).ok();
    site.apply(&one, &[]).ok();
    site.runs("1");
}

#[test]
fn storms_of_409_and_429_are_waited_out() {
    if !is_root() {
        return;
    }
    let mut site = Site::new("trouble-storm");
    let mut more = String::new();
    for n in 0..6 {
        more += &site
            .object(&format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c{n}, namespace: NS}}\n"));
    }
    let (one, two) = (site.build("1", &more), site.build("2", &more));
    let folder = site.folder.clone();
    let storm = Storm::before(site.cluster, &folder, |asked, before| {
        let is_change = asked.method == "PATCH";
        match before {
            // As an API server sheds load, and as a proxy before it does.
            0 if is_change => Some(failure(429, "TooManyRequests", "please wait").header("retry-after", "1")),
            1 if is_change => Some(failure(409, "Conflict", "the object has been modified")),
            2 if is_change && asked.path.contains("depot") => {
                Some(failure(503, "ServiceUnavailable", "etcd is away"))
            }
            0 if asked.path.contains("/configmaps") => {
                Some(failure(500, "InternalError", "etcdserver: leader changed"))
            }
            _ => None,
        }
    });
    site.depot.kubeconfig = storm.kubeconfig.clone();
    site.apply(&one, &[]).ok();
    let said = site.apply(&two, &[]).ok().stderr;
    assert!(said.contains("trying again for up to"), "{said}");
    assert!(said.contains("the API server answers again"), "{said}");
    // Bounded: nobody was asked more often than the pauses allow.
    let asked = storm.asked();
    assert!(asked.len() < 500, "{}", asked.len());
    site.depot.kubeconfig = site.cluster.kubeconfig.clone();
    site.runs("2");
}

#[test]
fn an_object_of_another_applier() {
    if !is_root() {
        return;
    }
    let site = Site::new("trouble-owner");
    let map = |value: u8, note: &str| {
        site.object(&format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: shared, namespace: NS{note}}}\ndata: {{size: \"{value}\"}}\n"
        ))
    };
    let one = site.build("1", "");
    let two = site.build("2", &map(2, ""));
    let three = site.build("3", &map(3, ", annotations: {fleetpack.dev/take-over: allowed}"));
    site.apply(&one, &[]).ok();
    let theirs = map(1, "");
    site.cluster.put(
        &site.folder,
        theirs.trim_start_matches("---\n"),
        &["--server-side", "--field-manager=argocd"],
    );
    site.apply(&two, &[]).refused(
        1,
        &[
            "ConfigMap trouble-owner/shared",
            "another manager owns fields that the release sets otherwise: `.data.size` of `argocd`",
            "kubectl annotate -n trouble-owner configmap shared fleetpack.dev/take-over=allowed",
        ],
    );
    site.runs("1");
    assert_eq!(site.get("configmap/shared")["data"]["size"], "1");
    // The site allows it by hand.
    site.by_hand(&["annotate", "configmap", "shared", "fleetpack.dev/take-over=allowed"]);
    let plan = site.apply(&two, &["--dry-run"]).ok().stdout;
    assert!(plan.contains("taken over from `argocd`: .data.size"), "{plan}");
    site.apply(&two, &[]).ok();
    assert_eq!(site.get("configmap/shared")["data"]["size"], "2");
    // The other one applies again: the release allows it by itself.
    site.by_hand(&["annotate", "configmap", "shared", "fleetpack.dev/take-over-"]);
    site.cluster.put(
        &site.folder,
        theirs.trim_start_matches("---\n"),
        &["--server-side", "--field-manager=argocd", "--force-conflicts"],
    );
    site.apply(&two, &[]).refused(1, &["`.data.size` of `argocd`"]);
    site.apply(&three, &[]).ok();
    assert_eq!(site.get("configmap/shared")["data"]["size"], "3");
    site.runs("3");
}

#[test]
fn edited_and_deleted_by_hand() {
    if !is_root() {
        return;
    }
    let site = Site::new("trouble-hand");
    let one = site.build("1", &site.object(DEPLOYMENT));
    site.apply(&one, &[]).ok();
    site.by_hand(&[
        "patch",
        "configmap",
        "depot",
        "--type=merge",
        "-p",
        r#"{"data":{"value":"9","more":"kept"}}"#,
    ]);
    site.by_hand(&["delete", "deployment", "web"]);
    let plan = site.apply(&one, &["--dry-run"]).ok().stdout;
    assert!(plan.contains("data.value: \"9\" -> \"1\""), "{plan}");
    assert!(plan.contains("taken over from `kubectl-patch`: .data.value"), "{plan}");
    assert!(plan.contains("+ create  Deployment trouble-hand/web"), "{plan}");
    site.apply(&one, &[]).ok();
    site.runs("1");
    assert_eq!(
        site.get("configmap/depot")["data"]["more"],
        "kept",
        "what the release does not name is theirs"
    );
    assert!(site.is_there("deployment/web"));
}

#[test]
fn no_rollback_leaves_all_and_says_how_to_go_on() {
    if !is_root() {
        return;
    }
    let site = Site::new("trouble-stay");
    let (one, two) = (site.build("1", ""), site.build("2", &site.object(&sick())));
    site.apply(&one, &[]).ok();
    site.apply(&two, &["--timeout", "3s", "--no-rollback"]).refused(
        6,
        &[
            "Deployment trouble-stay/sick",
            "the cluster was left as it is: `fleetpack apply` of the same archive goes on where this one ended",
            "`fleetpack rollback` goes back to trouble-stay 1",
        ],
    );
    assert_eq!(site.get("configmap/depot")["data"]["value"], "2");
    assert!(site.is_there("deployment/sick"));
    // Going on: the reason is gone, and the same command finishes.
    site.by_hand(&["scale", "deployment", "sick", "--replicas=0"]);
    site.apply(&two, &["--timeout", "3s", "--no-rollback"]).refused(6, &["Deployment trouble-stay/sick"]);
    site.site(&["rollback"]).ok();
    site.runs("1");
    assert!(!site.is_there("deployment/sick"));
}

#[test]
fn a_restore_that_fails_says_so() {
    if !is_root() {
        return;
    }
    let mut site = Site::new("trouble-worst");
    let (one, two) = (site.build("1", ""), site.build("2", &site.object(&sick())));
    site.apply(&one, &[]).ok();
    let folder = site.folder.clone();
    // From the moment that the sick object is there, the server has no more rights for us.
    let seen = std::sync::atomic::AtomicBool::new(false);
    let storm = Storm::before(site.cluster, Path::new(&folder), move |asked, _| {
        use std::sync::atomic::Ordering::SeqCst;
        if asked.method == "PATCH" && asked.path.contains("/sick") && !asked.path.contains("dryRun") {
            seen.store(true, SeqCst);
            return None;
        }
        (seen.load(SeqCst) && asked.method == "PATCH")
            .then(|| failure(403, "Forbidden", "User \"x\" cannot patch resource \"configmaps\""))
    });
    site.depot.kubeconfig = storm.kubeconfig.clone();
    site.apply(&two, &["--timeout", "3s"]).refused(
        6,
        &[
            "Deployment trouble-worst/sick",
            "trouble-worst 1",
            "could not be restored",
            "cannot patch resource",
            "`fleetpack rollback`",
        ],
    );
    site.depot.kubeconfig = site.cluster.kubeconfig.clone();
    run(site.fleetpack().args(["rollback", "--store", "store"])).ok();
    site.runs("1");
}
