//! Charts, rendered with the real Helm 4 and 3: what comes out, what it is for, where it comes from,
//! and what is refused before Helm runs.

use std::fs;
use std::path::Path;

use fleetpack::archive::rendered;
use fleetpack::model::{ErrorClass, ObjectRole, RenderedObject};
use fleetpack::source::render::RenderTools;

use super::render::{Tree, images_of, place, tools};
use super::support::command::run;
use super::support::testbed::{testbed, tool};

fn with_helm_3() -> RenderTools {
    RenderTools { helm: Some(testbed(&["helm"]).join("bin/helm3")), ..tools() }
}

fn find<'a>(objects: &'a [RenderedObject], id: &str) -> &'a RenderedObject {
    objects.iter().find(|object| object.id.to_string() == id).unwrap_or_else(|| {
        panic!("no `{id}` in {:?}", objects.iter().map(|object| object.id.to_string()).collect::<Vec<_>>())
    })
}

const CHART: &str = "apiVersion: v2\nname: shop\nversion: 0.1.0\n";
const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";

fn source(rest: &str) -> String {
    format!(
        "apiVersion: fleetpack.dev/v1\nkind: Release\nmetadata: {{name: x}}\nsources:\n- helm: {{chart: charts/shop{rest}}}\n"
    )
}

#[test]
fn plain_files_a_chart_and_a_kustomization_make_one_release() {
    let tree = Tree::of("mixed");
    let objects = tree.objects();
    let found: Vec<_> =
        objects.iter().map(|object| format!("{} | {} | {}", object.origin, object.id, object.role)).collect();
    assert_eq!(
        found,
        [
            "plain/namespace.yaml:1 | Namespace shop | ",
            "charts/shop/crds/voucher.yaml:3 | CustomResourceDefinition vouchers.shop.example.com | crd",
            "charts/shop/templates/web.yaml:27 | ConfigMap shop/shop-about | ",
            "charts/shop/templates/voucher.yaml:11 | ClusterRole shop-reader | ",
            "charts/shop/templates/web.yaml:19 | Service shop/shop-web | ",
            "charts/shop/templates/web.yaml:4 | Deployment shop/shop-web | ",
            "charts/shop/charts/cache/templates/cache.yaml:1 | StatefulSet shop/shop-cache | ",
            "charts/shop/templates/voucher.yaml:6 | Thing thing | ",
            "charts/shop/templates/voucher.yaml:1 | Voucher shop/welcome | ",
            "charts/shop/templates/tests/reachable.yaml:1 | Pod shop/shop-reachable | test",
            "charts/shop/templates/hooks.yaml:1 | Job shop/schema | hook",
            "charts/shop/templates/hooks.yaml:15 | Job shop/farewell | undo hook",
            "overlay/limits.yaml:1 | LimitRange shop/small | ",
        ]
    );
    let about = &find(&objects, "ConfigMap shop/shop-about").value["data"];
    assert_eq!(about["greeting"], "hello, site", "inline values go over those of files");
    assert_eq!(about["kubernetes"], "v1.33.0");
    assert_eq!(about["monitoring"], "true");
    assert_eq!(about["looked-up"], "{}", "no cluster is asked");
    assert_eq!(
        find(&objects, "StatefulSet shop/shop-cache").value["spec"]["replicas"],
        1,
        "by its alias alone"
    );
    assert_eq!(find(&objects, "Thing thing").default_namespace.as_deref(), Some("shop"));
    assert_eq!(find(&objects, "ClusterRole shop-reader").default_namespace, None);

    // Tests and hooks that are not applied still bring their images.
    let images = images_of(&objects);
    for image in
        ["tools/wget:1.0", "shop/farewell:1.4.2", "shop/schema:1.4.2", "shop/web:1.4.2", "shop/cache:7.2"]
    {
        assert!(images.contains(&format!("registry.example.com/{image}")), "{image} in {images:?}");
    }
    let packed = rendered::pack(&objects).unwrap();
    assert_eq!(rendered::unpack(packed.layer.as_slice(), &packed.content()).unwrap(), objects);
    let document = serde_json::to_value(packed.content()).unwrap();
    assert_eq!(document["objects"][9]["role"], "test");
    assert_eq!(document["objects"][7]["defaultNamespace"], "shop");
    assert!(document["objects"][0].get("role").is_none());

    assert_eq!(tree.render(&with_helm_3()).0.unwrap(), objects, "Helm 3 renders the same");
}

#[test]
fn a_chart_at_the_root_is_the_release() {
    let chart = format!("{CHART}appVersion: '1'\n");
    let template = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ .Release.Name }}'}\n\
                    data: {k: '{{ .Capabilities.KubeVersion.Version }}', ns: '{{ .Release.Namespace }}'}\n";
    let tree = Tree::new(&[("Chart.yaml", &chart), ("templates/a.yaml", template), ("stray.yaml", MAP)]);
    for tools in [tools(), with_helm_3()] {
        let objects = tree.render(&tools).0.unwrap();
        assert_eq!(objects.len(), 1);
        assert_eq!(place(&objects, "ConfigMap default/shop"), "templates/a.yaml:1");
        assert_eq!(objects[0].value["data"]["ns"], "default");
        assert_eq!(objects[0].value["data"]["k"], "v1.36.0", "the same whatever Helm is installed");
    }
    tree.write("fleetpack.yaml", "apiVersion: fleetpack.dev/v1\nkind: Release\nmetadata: {name: fleet}\n");
    assert_eq!(tree.objects()[0].id.name, "fleet");
}

#[test]
fn settings_reach_helm_as_they_are() {
    let template = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  all: {{ toJson .Values | quote }}\n  \
                    apis: {{ .Capabilities.APIVersions.Has \"a.io/v1/Thing\" | quote }}\n";
    let config = "apiVersion: fleetpack.dev/v1\nkind: Release\nmetadata: {name: x}\n\
        target: {apiVersions: [a.io/v1/Thing]}\nsources:\n- helm:\n    chart: charts/shop\n    includeCrds: false\n    \
        values: ['odd, name.yaml', -x.yaml]\n    valuesInline: {list: [1, two], yes: 'no', answer: off, deep: {z: null}}\n";
    let tree = Tree::new(&[
        ("fleetpack.yaml", config),
        ("odd, name.yaml", "a: 1\nb: first\ndeep: {z: 1, x: 2}\n"),
        ("-x.yaml", "b: second\n"),
        ("charts/shop/Chart.yaml", CHART),
        ("charts/shop/templates/a.yaml", template),
        ("charts/shop/crds/c.yaml", "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n"),
    ]);
    let objects = tree.objects();
    assert_eq!(objects.len(), 1, "the CRD was not asked for");
    let data = &objects[0].value["data"];
    let values: serde_json::Value = serde_json::from_str(data["all"].as_str().unwrap()).unwrap();
    let wanted = serde_json::json!({
        "a": 1, "b": "second", "deep": {"x": 2, "z": null}, "list": [1, "two"], "true": "no", "answer": false
    });
    assert_eq!(values, wanted);
    assert_eq!(data["apis"], "true");
}

/// A chart with a dependency, as its own `Chart.yaml` and lock file say.
fn shop_with(dependency: &str) -> Tree {
    let tree = Tree::new(&[
        ("fleetpack.yaml", &source("")),
        ("charts/shop/Chart.yaml", &format!("{CHART}dependencies:\n- {dependency}\n")),
        ("charts/shop/templates/a.yaml", MAP),
    ]);
    for (name, version) in [("redis", "17.1.0"), ("inner", "1.0.0")] {
        tree.write(
            &format!("charts/{name}/Chart.yaml"),
            &format!("apiVersion: v2\nname: {name}\nversion: {version}\n"),
        );
        tree.write(
            &format!("charts/{name}/templates/x.yaml"),
            &format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\n"),
        );
    }
    tree
}

/// Has the real Helm fetch dependencies, or pack a chart.
fn helm(tree: &Tree, folder: &str, arguments: &[&str]) {
    run(tool("helm", tree.folder.path()).current_dir(tree.path().join(folder)).args(arguments)).ok();
    let _ = fs::remove_dir_all(tree.folder.path().join(".cache"));
    let _ = fs::remove_dir_all(tree.folder.path().join(".config"));
}

#[test]
fn dependencies_are_there_and_locked_or_refused_before_helm_runs() {
    // None of these comes as far as to need Helm.
    let none = RenderTools::default();
    let refused = |tree: &Tree, parts: &[&str]| {
        let error = tree.render(&none).0.unwrap_err();
        for part in parts {
            let text = format!("{error}\n{}", error.hint().unwrap_or_default());
            assert!(text.contains(part), "wanted `{part}` in: {text}");
        }
        error
    };
    let remote = "{name: redis, version: ^17.0.0, repository: 'https://charts.example.com'}";
    let error = refused(
        &shop_with(remote),
        &[
            "`charts/shop` depends on `redis` `^17.0.0`, which is not in `charts/shop/charts`",
            "helm dependency build charts/shop",
            "commit `charts/shop/charts`",
        ],
    );
    assert_eq!(error.class(), ErrorClass::Incomplete);

    let vendored = shop_with(remote);
    fs::rename(vendored.path().join("charts/redis"), vendored.path().join("charts/shop/redis")).unwrap();
    fs::create_dir(vendored.path().join("charts/shop/charts")).unwrap();
    fs::rename(vendored.path().join("charts/shop/redis"), vendored.path().join("charts/shop/charts/redis"))
        .unwrap();
    refused(&vendored, &["no `Chart.lock` that says which version", "helm dependency update charts/shop"]);
    vendored.write(
        "charts/shop/Chart.lock",
        "dependencies:\n- {name: redis, version: 17.1.0}\ndigest: sha256:00\n",
    );
    refused(&vendored, &["`charts/shop/Chart.lock` was made for other dependencies than `charts/shop` has"]);

    // Helm would leave out without a word what is there in another version.
    let other = shop_with("{name: redis, version: 18.0.0, repository: 'https://charts.example.com'}");
    fs::create_dir(other.path().join("charts/shop/charts")).unwrap();
    fs::rename(other.path().join("charts/redis"), other.path().join("charts/shop/charts/redis")).unwrap();
    refused(&other, &["`redis` 18.0.0", "`charts/shop/charts/redis` is 17.1.0"]);

    refused(&shop_with("{version: 1.0.0}"), &["`charts/shop` is not a Helm chart", "has no `name`"]);
    let tree = Tree::new(&[("fleetpack.yaml", &source("")), ("a.yaml", MAP)]);
    let error = refused(&tree, &["`helm: charts/shop` of `fleetpack.yaml` wants `charts/shop`"]);
    assert_eq!(error.class(), ErrorClass::Incomplete);
    let tree = Tree::new(&[("fleetpack.yaml", &source("")), ("charts/shop/a.yaml", MAP)]);
    refused(&tree, &["`charts/shop` is not a Helm chart", "no `Chart.yaml`"]);
    let tree = Tree::new(&[("fleetpack.yaml", &source("")), ("charts/shop/Chart.yaml", "name: [\n")]);
    refused(&tree, &["charts/shop/Chart.yaml:"]);
}

#[test]
fn what_the_real_helm_locks_and_packs_is_taken() {
    let tree = shop_with(
        "{name: redis, version: '>=17 <18', repository: 'file://../redis', alias: sessions, tags: [a, b], import-values: [{child: z, parent: a}, b]}",
    );
    helm(&tree, "charts/shop", &["dependency", "update"]);
    assert!(tree.path().join("charts/shop/charts/redis-17.1.0.tgz").is_file());
    assert!(tree.path().join("charts/shop/Chart.lock").is_file());
    let objects = tree.objects();
    assert_eq!(place(&objects, "Secret default/redis"), "charts/shop/charts/redis-17.1.0.tgz");

    // The lock file is made for these very dependencies.
    let chart = fs::read_to_string(tree.path().join("charts/shop/Chart.yaml")).unwrap();
    tree.write("charts/shop/Chart.yaml", &chart.replace(">=17 <18", ">=16 <18"));
    tree.refused(&["`charts/shop/Chart.lock` was made for other dependencies"]);
    tree.write("charts/shop/Chart.yaml", &chart);
    fs::remove_file(tree.path().join("charts/shop/charts/redis-17.1.0.tgz")).unwrap();
    tree.refused(&["depends on `redis` `17.1.0`, which is not in"]);
    tree.write("charts/shop/charts/redis-17.1.0.tgz", "no gzip");
    tree.refused(&["cannot read the packaged chart `charts/shop/charts/redis-17.1.0.tgz`"]);

    // A packaged chart in a packaged chart, and the whole as one file.
    let tree = shop_with("{name: redis, version: 17.1.0, repository: 'file://../redis'}");
    let inner = "apiVersion: v2\nname: redis\nversion: 17.1.0\ndependencies:\n- {name: inner, version: 1.x.x, repository: 'file://../inner'}\n";
    tree.write("charts/redis/Chart.yaml", inner);
    helm(&tree, "charts/redis", &["dependency", "update"]);
    helm(&tree, "charts/shop", &["dependency", "update"]);
    helm(&tree, "charts", &["package", "shop"]);
    let config = source("").replace("charts/shop", "charts/shop-0.1.0.tgz");
    tree.write("fleetpack.yaml", &config);
    let objects = tree.objects();
    assert_eq!(objects.len(), 3);
    for object in &objects {
        assert_eq!(object.origin.to_string(), "charts/shop-0.1.0.tgz");
        assert_eq!(object.role, ObjectRole::Plain);
    }
    assert_eq!(tree.render(&with_helm_3()).0.unwrap(), objects);

    // Helm looks for what a chart needs, and not for what its subcharts need.
    tree.write("fleetpack.yaml", &source(""));
    fs::remove_file(tree.path().join("charts/shop/charts/redis-17.1.0.tgz")).unwrap();
    tree.write("charts/shop/charts/redis/Chart.yaml", inner);
    tree.refused(&["`charts/shop/charts/redis` depends on `inner` `1.x.x`, which is not in"]);
}

#[test]
fn what_helm_says_and_what_it_lacks_is_told() {
    let with = |template: &str| {
        Tree::new(&[
            ("fleetpack.yaml", &source(", values: [site.yaml]")),
            ("site.yaml", "a: 1\n"),
            ("charts/shop/Chart.yaml", CHART),
            ("charts/shop/templates/a.yaml", template),
        ])
    };
    let error = with("a: {{ required \"say who you are\" .Values.who }}\n").refused(&[
        "refused the source `helm: charts/shop` of `fleetpack.yaml`",
        "shop/templates/a.yaml:1:6",
        "say who you are",
    ]);
    assert_eq!(error.class(), ErrorClass::Failed);
    with("a: {{ .Values.who\n").refused(&["shop/templates/a.yaml:1", "unclosed action"]);
    with("a: {{ include \"none\" . }}\n").refused(&["no template \"none\""]);
    with("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {a: b\n")
        .refused(&["shop/templates/a.yaml"]);
    with("a: 1\n")
        .refused(&["charts/shop/templates/a.yaml", "not a Kubernetes object: `apiVersion` is missing"]);
    with("{{- if .Values.never }}\n{{- end }}\n").refused(&["`helm: charts/shop` renders no object"]);
    with(&format!("{MAP}---\n{MAP}"))
        .refused(&["ConfigMap default/a stands twice", "charts/shop/templates/a.yaml"]);

    let tree = with(MAP);
    tree.write("site.yaml", "a: [\n");
    tree.refused(&["site.yaml"]);
    tree.write("fleetpack.yaml", &source(", values: [more.yaml]"));
    tree.write("charts/shop/more.yaml", "");
    tree.refused(&["wants the values of `more.yaml` (there is `charts/shop/more.yaml`"]);
    tree.write("fleetpack.yaml", &source(", kubeVersion: 1.20"));
    tree.write("charts/shop/Chart.yaml", &format!("{CHART}kubeVersion: '>=1.30.0-0'\n"));
    tree.refused(&["incompatible with Kubernetes v1.20.0"]);

    let error = with(MAP).render(&RenderTools { helm: None, ..tools() }).0.unwrap_err();
    assert_eq!(error.to_string(), "`charts/shop` is a Helm chart, and there is no `helm`");
    assert!(error.hint().unwrap().contains("install Helm"));

    // A chance would be another in the next build, and a new password in the next upgrade.
    with("apiVersion: v1\nkind: Secret\nmetadata: {name: db}\nstringData: {password: '{{ randAlphaNum 20 }}'}\n")
        .refused(&["renders differently each time: Secret db in `stringData.password`"]);

    // The same object from two sources.
    let tree = with(MAP);
    tree.write("extra/b.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: default}\n");
    tree.write("fleetpack.yaml", &format!("{}- path: extra\n", source("")));
    tree.refused(&[
        "ConfigMap default/a stands twice: in charts/shop/templates/a.yaml:1 and in extra/b.yaml:1",
    ]);
}

#[test]
fn helm_knows_nothing_of_the_user() {
    let folder = tempfile::tempdir().unwrap();
    let script = "#!/bin/sh\nprintf 'apiVersion: v1\\nkind: ConfigMap\\nmetadata: {name: spy}\\ndata:\\n'\n\
         env | sort | sed 's/\\([^=]*\\)=\\(.*\\)/  \\1: \"\\2\"/'\nprintf '  ARGS: \"%s\"\\n' \"$*\"\n";
    let spy = folder.path().join("helm");
    fs::write(&spy, script).unwrap();
    fs::set_permissions(&spy, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let tree = Tree::new(&[
        ("fleetpack.yaml", &source(", release: r, namespace: n, kubeVersion: 1.30, apiVersions: [a/v1]")),
        ("charts/shop/Chart.yaml", CHART),
    ]);
    let objects = tree.render(&RenderTools { helm: Some(spy), ..RenderTools::default() }).0.unwrap();
    let data = objects[0].value["data"].as_object().unwrap();
    let scratch = Path::new(data["HOME"].as_str().unwrap());
    assert_eq!(scratch.parent(), Some(tree.folder.path()));
    for (name, value) in data {
        let value = value.as_str().unwrap();
        if ["_HOME", "HELM_", "XDG_", "TMPDIR", "PWD"].iter().any(|part| name.contains(part)) {
            assert!(Path::new(value).starts_with(scratch), "{name}={value}");
        }
    }
    assert_eq!(data["https_proxy"], "http://127.0.0.1:9");
    assert!(!data.contains_key("CARGO_MANIFEST_DIR"));
    let chart = tree.path().join("charts/shop");
    assert_eq!(
        data["ARGS"],
        format!(
            "template --namespace=n --kube-version=1.30.0 --api-versions=a/v1 --include-crds -- r {}",
            chart.display()
        )
    );
}
