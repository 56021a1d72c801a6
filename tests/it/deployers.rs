//! Argo CD and Flux objects of a revision, followed to what they deploy: with the real kustomize and
//! the real Helm, and against what their projects say each field means.

use std::fs;
use std::sync::Mutex;

use fleetpack::model::{ErrorClass, Event, ObjectRole, Progress, RenderedObject};
use fleetpack::source::config;
use fleetpack::source::deploy::{DeployError, Identity, Settings, follow};
use fleetpack::source::render::{RenderTools, render};
use serde_json::{Value, json};

use crate::support::testbed::testbed;

const HERE: &str = "https://git.example.com/ops/shop.git";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl Progress for Lines {
    fn event(&self, event: Event) {
        if let Event::Note(line) | Event::Warning(line) = event {
            self.0.lock().unwrap().push(line);
        }
    }
}

/// What came out, and what was said.
pub struct Out {
    objects: Vec<RenderedObject>,
    pub said: String,
}

impl Out {
    /// `KIND NAMESPACE/NAME` of the release's objects, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.objects.iter().map(|object| object.id.to_string()).collect();
        names.sort();
        names
    }

    #[track_caller]
    pub fn object(&self, name: &str) -> &RenderedObject {
        let all = || self.objects.iter();
        all().find(|object| object.id.to_string() == name).unwrap_or_else(|| {
            panic!("no `{name}` among {:?}", all().map(|object| object.id.to_string()).collect::<Vec<_>>())
        })
    }
}

/// Renders the `root/` of a revision with these files and follows its deployers. A file called
/// `deployers` says what `fleetpack.yaml` says about them; with one called `convention` it names no source.
pub fn run(files: &[(&str, &str)]) -> Result<Out, DeployError> {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let mut text =
        "apiVersion: fleetpack.dev/v1\nkind: Release\nmetadata: {name: shop}\nsources: [{path: root}]\n"
            .to_owned();
    for (path, content) in files {
        if *path == "convention" {
            text = text.replace("sources: [{path: root}]\n", "");
            continue;
        }
        if *path == "deployers" {
            text = format!("{text}deployers: {content}\n");
            continue;
        }
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content.replace("HERE", HERE)).unwrap();
    }
    let config = config::parse(text.as_bytes()).unwrap();
    let bin = testbed(&["peers", "helm"]).join("bin");
    let tools = RenderTools {
        kustomize: Some(bin.join("kustomize")),
        helm: Some(bin.join("helm")),
        ..RenderTools::default()
    };
    let lines = Lines::default();
    let objects = render(&tree, Some(&config), &tools, &lines).unwrap();
    let urls = [HERE].into_iter().chain(config.deployers.repositories.iter().map(String::as_str));
    let names = ["refs/heads/main"].into_iter().chain(config.deployers.revisions.iter().map(String::as_str));
    let settings = Settings {
        config: &config.deployers,
        identity: Identity::new(urls, COMMIT, names),
        by_convention: config.sources.is_empty(),
        tools: &tools,
        progress: &lines,
    };
    let before = listing(&tree);
    let followed = follow(&tree, objects, &settings);
    assert_eq!(listing(&tree), before, "the exported tree is as it was");
    Ok(Out { objects: followed?, said: lines.0.into_inner().unwrap().join("\n") })
}

fn listing(folder: &std::path::Path) -> Vec<(std::path::PathBuf, Option<Vec<u8>>)> {
    let mut out = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(listing(&path));
            out.push((path, None));
        } else {
            let bytes = fs::read(&path).unwrap();
            out.push((path, Some(bytes)));
        }
    }
    out.sort();
    out
}

#[track_caller]
pub fn refused(files: &[(&str, &str)], class: ErrorClass, parts: &[&str]) {
    let error = match run(files) {
        Ok(out) => panic!("not refused: {:?}", out.names()),
        Err(error) => error,
    };
    let text = format!("{error}\n{}", error.hint().unwrap_or_default());
    for part in parts {
        assert!(text.contains(part), "wanted `{part}` in:\n{text}");
    }
    assert_eq!(error.class(), class, "{text}");
}

pub fn config_map(name: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{k: v}}\n")
}

/// An Application of the folder `path`, with more lines of its `spec` and of its source.
fn application(name: &str, path: &str, spec: &str, source: &str) -> String {
    format!(
        "---\napiVersion: argoproj.io/v1alpha1\nkind: Application\nmetadata: {{name: {name}, namespace: argocd}}\n\
         spec:\n  project: default\n  destination: {{server: https://kubernetes.default.svc, namespace: {name}}}\n\
         {spec}  source:\n    repoURL: HERE\n    targetRevision: main\n    path: {path}\n{source}"
    )
}

pub const REPOSITORY: &str = "---\napiVersion: source.toolkit.fluxcd.io/v1\nkind: GitRepository\n\
    metadata: {name: shop, namespace: flux-system}\nspec: {interval: 1m, url: HERE, ref: {branch: main}}\n";

/// A Flux Kustomization with these lines of its `spec`.
pub fn kustomization(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\n\
         metadata: {{name: {name}, namespace: flux-system}}\nspec:\n  interval: 1m\n  prune: true\n  \
         sourceRef: {{kind: GitRepository, name: shop}}\n{spec}"
    )
}

const CHART: &[(&str, &str)] = &[
    ("charts/part/Chart.yaml", "apiVersion: v2\nname: part\nversion: 0.1.0\n"),
    ("charts/part/values.yaml", "colour: red\nsize: 1\nnested: {a: 1, b: 2}\n"),
    ("charts/part/other.yaml", "colour: blue\n"),
    (
        "charts/part/templates/all.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: \"{{ .Release.Name }}\"}\ndata:\n  values: |\n    \
         {{- .Values | toJson | nindent 4 }}\n  namespace: {{ .Release.Namespace }}\n  kube: {{ .Capabilities.KubeVersion }}\n\
         ---\napiVersion: v1\nkind: Pod\nmetadata: {name: check, annotations: {helm.sh/hook: test}}\n\
         spec: {containers: [{name: main, image: a:1}]}\n---\napiVersion: batch/v1\nkind: Job\n\
         metadata: {name: migrate, annotations: {helm.sh/hook: pre-install}}\nspec: {}\n",
    ),
    (
        "charts/part/crds/thing.yaml",
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: things.a.io}\n\
         spec: {group: a.io, scope: Namespaced, names: {kind: Thing, plural: things}, versions: []}\n",
    ),
];

pub fn with_chart<'a>(files: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [CHART, files].concat()
}

pub fn values(object: &RenderedObject) -> Value {
    serde_json::from_str(object.value["data"]["values"].as_str().unwrap()).unwrap()
}

#[test]
fn an_app_of_apps_is_followed_to_its_leaves() {
    let root = application("apps", "apps", "", "");
    let web = application("web", "web", "  syncPolicy: {syncOptions: [CreateNamespace=true]}\n", "");
    let deep = application("deep", "web/deep/", "", "    directory: {recurse: true, exclude: 'skip/*'}\n");
    let map = config_map("web");
    let own = root.as_str();
    let out = run(&[
        ("root/all.yaml", &root),
        // An app of apps may hold itself.
        ("apps/self.yaml", own),
        ("apps/web.yaml", &web),
        ("apps/deep.yaml", &deep),
        ("apps/values.yaml", "replicas: 3\n"),
        ("web/web.yaml", &map),
        ("web/role.yaml", "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: x}\n"),
        ("web/deep/a/b.json", "{\"apiVersion\": \"v1\", \"kind\": \"Secret\", \"metadata\": {\"name\": \"s\", \"namespace\": \"own\"}}"),
        ("web/deep/skip/c.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: skipped}\n"),
        ("web/deep/job.yaml", "apiVersion: batch/v1\nkind: Job\nmetadata: {name: clean, annotations: {argocd.argoproj.io/hook: PostDelete}}\nspec: {}\n"),
        ("web/deep/not.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: not, annotations: {argocd.argoproj.io/hook: Skip}}\n"),
    ])
    .unwrap();
    assert_eq!(
        out.names(),
        ["ClusterRole x", "ConfigMap web/web", "Job deep/clean", "Namespace web", "Secret own/s"]
    );
    let map = out.object("ConfigMap web/web");
    assert_eq!(
        map.origin.to_string(),
        "web/web.yaml:1 (through Application argocd/apps, Application argocd/web)"
    );
    assert_eq!(map.value["metadata"]["namespace"], "web");
    assert_eq!(out.object("Job deep/clean").role, ObjectRole::UndoHook);
    for part in ["left out", "Application argocd/deep", "`apps/values.yaml` holds no Kubernetes object"] {
        assert!(out.said.contains(part), "{}", out.said);
    }
}

#[test]
fn kept_deployers_travel_and_are_followed_for_their_images() {
    let root = application("web", "web", "", "");
    let map = config_map("web");
    let out =
        run(&[("root/all.yaml", &root), ("web/web.yaml", &map), ("deployers", "{mode: keep}")]).unwrap();
    assert_eq!(out.names(), ["Application argocd/web", "ConfigMap web/web"]);
    assert_eq!(out.object("ConfigMap web/web").role, ObjectRole::Deployed);
    let application = out.object("Application argocd/web");
    assert!(application.role.is_applied());
    assert_eq!(application.value["spec"]["source"]["repoURL"], HERE);
}

#[test]
fn what_an_application_changes_in_a_kustomization() {
    let options = "    kustomize:\n      namePrefix: a-\n      nameSuffix: -z\n      namespace: own\n      images: ['web=registry.example/web:2']\n      \
        replicas: [{name: web, count: 3}]\n      commonLabels: {team: $ARGOCD_APP_NAME}\n      labelWithoutSelector: true\n      \
        commonAnnotations: {note: x}\n      components: [../part]\n      patches:\n      - patch: |-\n          - {op: add, path: /spec/paused, value: true}\n        target: {kind: Deployment}\n";
    let app = application("web", "web", "", options);
    let out = run(&[
        ("root/all.yaml", &app),
        ("web/kustomization.yaml", "resources: [web.yaml]\nimages: [{name: web, newTag: old}]\n"),
        (
            "web/web.yaml",
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n    spec: {containers: [{name: web, image: 'web:1'}]}\n",
        ),
        ("web/.argocd-source-web.yaml", "kustomize: {images: ['web=registry.example/web:3']}\n"),
        ("part/kustomization.yaml", "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\ncommonAnnotations: {part: p}\n"),
    ])
    .unwrap();
    let object = out.object("Deployment own/a-web-z");
    let spec = &object.value["spec"];
    assert_eq!(spec["replicas"], 3);
    assert_eq!(spec["paused"], true);
    assert_eq!(spec["template"]["spec"]["containers"][0]["image"], "registry.example/web:3");
    assert_eq!(object.value["metadata"]["labels"]["team"], "web");
    assert!(spec["selector"]["matchLabels"].get("team").is_none());
    assert_eq!(object.value["metadata"]["annotations"], json!({"note": "x", "part": "p"}));
    assert_eq!(object.origin.file, "web/web.yaml");
}

#[test]
fn what_an_application_tells_a_chart() {
    let options = "    helm:\n      releaseName: mine\n      kubeVersion: 1.30.0\n      skipCrds: true\n      skipTests: true\n      valueFiles: [other.yaml, /site/values.yaml, absent.yaml]\n      \
        ignoreMissingValueFiles: true\n      valuesObject: {nested: {b: 3}}\n      parameters:\n      - {name: size, value: '12'}\n      - {name: text, value: '12', forceString: true}\n      \
        - {name: list, value: '{a,b}'}\n      fileParameters: [{name: file, path: note.txt}]\n";
    let app = application("web", "charts/part", "", options);
    let files = with_chart(&[
        ("root/all.yaml", &app),
        ("site/values.yaml", "site: true\n"),
        ("charts/part/note.txt", "a, b\n"),
    ]);
    let out = run(&files).unwrap();
    assert_eq!(out.names(), ["ConfigMap web/mine", "Job web/migrate"]);
    let map = out.object("ConfigMap web/mine");
    assert_eq!(
        values(map),
        json!({"colour": "blue", "site": true, "size": 12, "text": "12", "list": ["a", "b"],
               "file": "a, b\n", "nested": {"a": 1, "b": 3}})
    );
    assert_eq!(map.value["data"]["namespace"], "web");
    assert_eq!(map.value["data"]["kube"], "v1.30.0");
    assert_eq!(map.origin.deployers, ["Application argocd/web"]);
}

#[test]
fn several_sources_and_values_by_reference() {
    let app = "apiVersion: argoproj.io/v1alpha1\nkind: Application\nmetadata: {name: web, namespace: argocd}\nspec:\n  \
        destination: {name: in-cluster, namespace: web}\n  sources:\n  - {repoURL: HERE, ref: own}\n  \
        - {repoURL: https://charts.example.com, chart: part, targetRevision: 1.2.3, helm: {valueFiles: [$own/site/values.yaml]}}\n  \
        - {repoURL: HERE, path: plain, targetRevision: HEAD}\n";
    let map = config_map("plain");
    let files =
        with_chart(&[("root/all.yaml", app), ("site/values.yaml", "site: yes\n"), ("plain/a.yaml", &map)]);
    refused(
        &files,
        ErrorClass::Incomplete,
        &[
            "root/all.yaml:1: Application argocd/web: `spec.sources[1].chart`: the chart `part` 1.2.3 lies in `https://charts.example.com`",
            "replace:\n  - object: Application argocd/web\n    source: 1\n    path: ",
            "ignore:\n  - object: Application argocd/web\n    reason: ",
        ],
    );
    let decided = [
        &files[..],
        &[("deployers", "{replace: [{object: Application argocd/web, source: 1, path: charts/part}]}")],
    ]
    .concat();
    let out = run(&decided).unwrap();
    assert_eq!(
        out.names(),
        [
            "ConfigMap web/plain",
            "ConfigMap web/web",
            "CustomResourceDefinition things.a.io",
            "Job web/migrate",
            "Pod web/check"
        ]
    );
    assert_eq!(values(out.object("ConfigMap web/web"))["site"], true);
    assert_eq!(out.object("Pod web/check").role, ObjectRole::Test);
    let ignored = [&files[..], &[("root/b.yaml", map.as_str()), ("deployers", "{ignore: [{object: Application web, reason: the site has it}, {object: Application gone, reason: x}]}")]].concat();
    let out = run(&ignored).unwrap();
    assert_eq!(out.names(), ["ConfigMap plain"]);
    assert!(out.said.contains("is not followed: the site has it"), "{}", out.said);
    assert!(
        out.said.contains("decides about `Application gone`, which is not in the revision"),
        "{}",
        out.said
    );
}

#[test]
fn sets_of_applications() {
    let set = |generators: &str, go: bool, template: &str| {
        format!(
            "apiVersion: argoproj.io/v1alpha1\nkind: ApplicationSet\nmetadata: {{name: all, namespace: argocd}}\nspec:\n  goTemplate: {go}\n  \
             generators:\n{generators}  template:\n    metadata: {{name: '{template}'}}\n    spec:\n      destination: {{namespace: x}}\n      \
             source: {{repoURL: HERE, path: '{}'}}\n",
            if go { "{{ .path.path }}" } else { "{{path}}" }
        )
    };
    let (a, b, c) = (config_map("a"), config_map("b"), config_map("c"));
    let files = [
        ("apps/a/m.yaml", a.as_str()),
        ("apps/b/m.yaml", &b),
        ("apps/c_d/m.yaml", &c),
        ("params/p/one.json", "{\"path_to\": {\"x\": 1}}"),
    ];
    let folders = "  - git: {repoURL: HERE, revision: HEAD, directories: [{path: 'apps/*'}, {path: apps/b, exclude: true}]}\n";
    for (go, name) in [(false, "app-{{path.basenameNormalized}}"), (true, "app-{{.path.basenameNormalized}}")]
    {
        let text = set(folders, go, name);
        let out = run(&[&files[..], &[("root/set.yaml", text.as_str())]].concat()).unwrap();
        assert_eq!(out.names(), ["ConfigMap x/a", "ConfigMap x/c"]);
        assert_eq!(
            out.object("ConfigMap x/c").origin.deployers,
            ["ApplicationSet argocd/all", "Application argocd/app-c-d"]
        );
    }
    let list = "  - list: {elements: [{path: apps/a}], elementsYaml: '[{path: apps/b}]'}\n";
    let text = set(list, false, "l-{{ path }}")
        .replace("l-{{ path }}", "l-{{ path }}x")
        .replace("name: 'l-{{ path }}x'", "name: fixed");
    refused(
        &[&files[..], &[("root/set.yaml", text.as_str())]].concat(),
        ErrorClass::Failed,
        &["Application argocd/fixed stands twice"],
    );
    let deep = ("params/p/deep/two.json", "{}");
    let greedy = set("  - git: {repoURL: HERE, files: [{path: 'params/*/*.json'}]}\n", false, "x");
    refused(
        &[&files[..], &[deep, ("root/set.yaml", greedy.as_str())]].concat(),
        ErrorClass::Incomplete,
        &["`spec.generators[0].git.files`: whether `params/p/deep/two.json` is taken depends on a setting"],
    );
    let by_files = "  - git: {repoURL: HERE, files: [{path: 'params/**/*.json'}]}\n";
    let text =
        set(by_files, false, "f-{{path_to.x}}-{{path.filename}}").replace("path: '{{path}}'", "path: apps/a");
    let out = run(&[&files[..], &[("root/set.yaml", text.as_str())]].concat()).unwrap();
    assert_eq!(out.object("ConfigMap x/a").origin.deployers[1], "Application argocd/f-1-one.json");

    for (generators, go, name, part) in [
        (
            "  - matrix: {generators: []}\n",
            false,
            "x",
            "`spec.generators[0].matrix`: generators are not combined here: write out",
        ),
        ("  - merge: {generators: []}\n", false, "x", "`spec.generators[0].merge`"),
        ("  - clusters: {}\n", false, "x", "`spec.generators[0].clusters`: a build has nothing to ask"),
        (folders, true, "{{ .path.basename | upper }}", "`{{ .path.basename | upper }}` computes something"),
        (folders, true, "{{ .nothing }}", "none of the generator's parameters"),
        (folders, false, "{{nothing}}", "`{{nothing}}` is none of the generator's parameters (path"),
    ] {
        let text = set(generators, go, name);
        refused(&[&files[..], &[("root/set.yaml", text.as_str())]].concat(), ErrorClass::Incomplete, &[part]);
    }
    let elsewhere =
        set(folders, false, "x").replace("- git: {repoURL: HERE", "- git: {repoURL: https://other.example/x");
    refused(
        &[&files[..], &[("root/set.yaml", elsewhere.as_str())]].concat(),
        ErrorClass::Incomplete,
        &["`spec.generators[0].git.repoURL`: `https://other.example/x` is not this repository"],
    );
}

#[test]
fn what_is_refused_is_named() {
    let map = config_map("web");
    let web = ("web/web.yaml", map.as_str());
    let incomplete = ErrorClass::Incomplete;
    for (app, class, parts) in [
        (
            application("web", "web", "", "    plugin: {name: x}\n"),
            incomplete,
            &["`spec.source.plugin`: what a plugin renders"][..],
        ),
        (
            application("web", "web", "", "    colour: red\n"),
            incomplete,
            &["`spec.source.colour`: this field is not known here"],
        ),
        (
            application("web", "web", "  sourceHydrator: {drySource: {}}\n", ""),
            incomplete,
            &["`spec.sourceHydrator`"],
        ),
        (
            application("web", "web", "", "    directory: {jsonnet: {tlas: [{name: x}]}}\n"),
            incomplete,
            &["`spec.source.directory.jsonnet`"],
        ),
        (
            application("web", "absent", "", ""),
            incomplete,
            &["`spec.source.path`: `absent` is not in the revision"],
        ),
        (application("web", "../..", "", ""), ErrorClass::Failed, &["leads out of the revision"]),
        (
            application("web", "web", "", "").replace("targetRevision: main", "targetRevision: v9"),
            incomplete,
            &[
                "`spec.source.targetRevision`: `v9` is not known to be the revision that is built (0123456789ab)",
                "deployers.revisions",
            ],
        ),
        (
            application("web", "web", "", "").replace("HERE", "https://other.example/x"),
            incomplete,
            &[
                "`spec.source.repoURL`: `https://other.example/x` is not this repository",
                "deployers.repositories",
            ],
        ),
        (
            application("web", "web", "", "").replace("https://kubernetes.default.svc", "https://10.0.0.1"),
            incomplete,
            &["`spec.destination.server`: `https://10.0.0.1` is another cluster"],
        ),
        (
            application(
                "web",
                "web",
                "",
                "    helm: {valueFiles: [x.yaml]}\n    kustomize: {namePrefix: x}\n",
            ),
            ErrorClass::Failed,
            &["more than one of `helm`, `kustomize` and `directory`"],
        ),
        (
            REPOSITORY.to_owned() + &kustomization("web", "  path: web\n  decryption: {provider: sops}\n"),
            incomplete,
            &["`spec.decryption`: what is encrypted cannot be read here"],
        ),
        (
            kustomization("web", "  path: web\n"),
            incomplete,
            &["`spec.sourceRef`: GitRepository flux-system/shop is not in the revision"],
        ),
        (
            REPOSITORY.replace("branch: main", "semver: 1.x") + &kustomization("web", "  path: web\n"),
            incomplete,
            &["spec.ref.semver", "`1.x` is not known to be"],
        ),
        (
            REPOSITORY.replace("interval: 1m", "ignore: '*.md'") + &kustomization("web", "  path: web\n"),
            incomplete,
            &["write a `kustomization.yaml` there"],
        ),
        (
            REPOSITORY.to_owned()
                + &kustomization(
                    "web",
                    "  path: web\n  postBuild: {substituteFrom: [{kind: ConfigMap, name: v}]}\n",
                ),
            incomplete,
            &["`spec.postBuild.substituteFrom[0]`: the ConfigMap `v` is not in the revision"],
        ),
        (
            kustomization("web", "  path: web\n").replace("kind: GitRepository", "kind: OCIRepository"),
            incomplete,
            &["`spec.sourceRef`: `web` lies in OCIRepository flux-system/shop"],
        ),
    ] {
        refused(&[("root/all.yaml", app.as_str()), web], class, parts);
    }
}

#[test]
fn what_is_suspended_or_called_otherwise() {
    let map = config_map("web");
    let web = ("web/web.yaml", map.as_str());
    let suspended = REPOSITORY.to_owned() + &kustomization("web", "  path: web\n  suspend: true\n");
    let out = run(&[("root/all.yaml", suspended.as_str()), ("root/map.yaml", &map), web]).unwrap();
    assert_eq!(out.names(), ["ConfigMap web"]);
    assert!(out.said.contains("Kustomization flux-system/web is suspended"), "{}", out.said);
    // A name that the configuration gives is one of the revision's.
    let tagged = application("web", "web", "", "").replace("targetRevision: main", "targetRevision: stable");
    assert!(run(&[("root/all.yaml", tagged.as_str()), web, ("deployers", "{revisions: [stable]}")]).is_ok());
}

#[test]
fn what_is_deployed_is_not_taken_twice_by_convention() {
    let root = application("web", "web", "", "");
    let (map, other) = (config_map("web"), config_map("other"));
    let files = [
        ("root/all.yaml", root.as_str()),
        ("web/web.yaml", &map),
        ("more/other.yaml", &other),
        ("convention", ""),
    ];
    let out = run(&files).unwrap();
    assert_eq!(out.names(), ["ConfigMap other", "ConfigMap web/web"]);
    assert!(
        out.said.contains("ConfigMap web (web/web.yaml:1) is what Application argocd/web deploys"),
        "{}",
        out.said
    );
    // Where sources are named, they are what was meant.
    let root = application("web", "root/web", "", "");
    let out = run(&[("root/all.yaml", &root), ("root/web/web.yaml", &map)]).unwrap();
    assert_eq!(out.names(), ["ConfigMap web", "ConfigMap web/web"]);
    assert!(
        out.said.contains("is in the release twice: by itself, and through Application argocd/web"),
        "{}",
        out.said
    );
}

#[test]
fn cycles_are_refused_with_their_chain() {
    let (a, b, c) =
        (application("a", "b", "", ""), application("b", "c", "", ""), application("c", "a", "", ""));
    let chain = "Application argocd/a deploys Application argocd/b deploys Application argocd/c deploys Application argocd/a";
    refused(
        &[("root/a.yaml", &a), ("b/b.yaml", &b), ("c/c.yaml", &c), ("a/a.yaml", &a)],
        ErrorClass::Failed,
        &[chain],
    );
}

#[test]
fn what_two_deployers_deploy_must_be_the_same() {
    let (one, two) = (application("one", "first", "", ""), application("two", "second", "", ""));
    let own = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m, namespace: own}\ndata: {k: v}\n";
    let other = own.replace("k: v", "k: w");
    let root = one + &two;
    let out = run(&[("root/a.yaml", &root), ("first/m.yaml", own), ("second/m.yaml", own)]).unwrap();
    assert_eq!(out.names(), ["ConfigMap own/m"]);
    refused(
        &[("root/a.yaml", &root), ("first/m.yaml", own), ("second/m.yaml", &other)],
        ErrorClass::Failed,
        &[
            "ConfigMap own/m stands twice: in first/m.yaml:1 (through Application argocd/one) and in second/m.yaml:1 (through Application argocd/two)",
        ],
    );
}
