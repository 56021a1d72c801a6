//! Flux's objects of a revision, followed to what they deploy.

use fleetpack::model::ErrorClass;
use serde_json::json;

use crate::deployers::{REPOSITORY, config_map, kustomization, refused, run, values, with_chart};

#[test]
fn flux_builds_folders_and_substitutes() {
    let infra = kustomization("infra", "  path: ./infra\n");
    let apps = kustomization(
        "apps",
        "  path: ./apps\n  targetNamespace: web\n  namePrefix: p-\n  nameSuffix: -s\n  images: [{name: web, newTag: '2'}]\n  \
         commonMetadata: {labels: {team: x}}\n  patches:\n  - patch: |-\n      - {op: add, path: /spec/minReadySeconds, value: 7}\n    target: {kind: Deployment}\n  \
         postBuild:\n    substitute: {COUNT: '3', HOST: a.example}\n    substituteFrom:\n    - {kind: ConfigMap, name: vars}\n    - {kind: Secret, name: none, optional: true}\n",
    );
    let out = run(&[
        // The variables come from what another Kustomization deploys, which is followed later.
        ("root/a.yaml", &apps),
        ("root/b.yaml", &(infra + REPOSITORY)),
        ("infra/vars.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: vars, namespace: flux-system}\ndata: {COUNT: '9', TAG: v1}\n"),
        (
            "apps/web.yaml",
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, annotations: {host: '${HOST}', none: 'x${NONE}', raw: '$${HOST}'}}\nspec:\n  replicas: ${COUNT}\n  \
             selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web, tag: '${TAG}'}}\n    spec: {containers: [{name: web, image: 'web:1'}]}\n",
        ),
        ("apps/sub/kustomization.yaml", "resources: [m.yaml]\nnamePrefix: sub-\n"),
        ("apps/sub/m.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m, labels: {kustomize.toolkit.fluxcd.io/substitute: disabled}}\ndata: {k: '${HOST}'}\n"),
        ("apps/notes.txt", "not a manifest"),
    ])
    .unwrap();
    assert_eq!(
        out.names(),
        ["ConfigMap flux-system/vars", "ConfigMap web/p-sub-m-s", "Deployment web/p-web-s"]
    );
    let web = &out.object("Deployment web/p-web-s").value;
    assert_eq!(web["spec"]["replicas"], 3);
    assert_eq!(web["spec"]["minReadySeconds"], 7);
    assert_eq!(web["metadata"]["annotations"], json!({"host": "a.example", "none": "x", "raw": "${HOST}"}));
    assert_eq!(web["metadata"]["labels"]["team"], "x");
    assert_eq!(web["spec"]["template"]["metadata"]["labels"]["tag"], "v1");
    assert_eq!(web["spec"]["template"]["spec"]["containers"][0]["image"], "web:2");
    assert_eq!(out.object("ConfigMap web/p-sub-m-s").value["data"]["k"], "${HOST}");
    assert!(out.said.contains("set nowhere, so Flux puts nothing there: `${NONE}`"), "{}", out.said);
    assert!(out.said.contains("GitRepository flux-system/shop"), "{}", out.said);
}

#[test]
fn what_depends_on_others_has_a_later_turn() {
    let flux = |needs: &str| {
        let waits = format!("  path: ./apps\n  dependsOn: [{{name: {needs}}}]\n");
        [REPOSITORY, &kustomization("apps", &waits), &kustomization("infra", "  path: ./infra\n")].concat()
    };
    let (web, vars) = (config_map("web"), config_map("vars"));
    let files =
        |root: &str| run(&[("root/all.yaml", root), ("apps/web.yaml", &web), ("infra/vars.yaml", &vars)]);
    let out = files(&flux("infra")).unwrap();
    assert_eq!((out.object("ConfigMap web").turn, out.object("ConfigMap vars").turn), (1, 0));
    let out = files(&flux("gone")).unwrap();
    assert_eq!(out.object("ConfigMap web").turn, 0);
    assert!(
        out.said.contains("depends on Kustomization flux-system/gone, which is not in the revision"),
        "{}",
        out.said
    );
    assert!(files(&flux("apps")).is_ok(), "one that waits for itself is what it is");
}

#[test]
fn a_bootstrapped_flux_deploys_itself() {
    let own = REPOSITORY.to_owned() + &kustomization("flux-system", "  path: ./clusters/one\n");
    let map = config_map("web");
    let out = run(&[
        ("root/sync.yaml", &own),
        ("clusters/one/flux-system/sync.yaml", &own),
        ("clusters/one/flux-system/kustomization.yaml", "resources: [sync.yaml]\n"),
        ("clusters/one/web.yaml", &map),
    ])
    .unwrap();
    assert_eq!(out.names(), ["ConfigMap web"]);
}

#[test]
fn flux_installs_charts() {
    let release = |spec: &str| {
        format!(
            "---\napiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {{name: web, namespace: flux-system}}\nspec:\n  interval: 1m\n{spec}"
        )
    };
    let chart = "  chart: {spec: {chart: ./charts/part, sourceRef: {kind: GitRepository, name: shop}, valuesFiles: [charts/part/values.yaml, charts/part/other.yaml]}}\n";
    let maps = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: v, namespace: flux-system}\ndata:\n  values.yaml: |\n    size: 2\n    from: map\n  one: '5'\n\
        ---\napiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: flux-system}\nstringData: {k: 'nested: {b: 9}'}\n";
    let full = release(&format!(
        "{chart}  targetNamespace: web\n  install: {{createNamespace: true, crds: Skip}}\n  values: {{size: 3}}\n  \
         valuesFrom:\n  - {{kind: ConfigMap, name: v}}\n  - {{kind: ConfigMap, name: v, valuesKey: one, targetPath: 'deep.list[0]'}}\n  \
         - {{kind: Secret, name: s, valuesKey: k}}\n  - {{kind: Secret, name: absent, optional: true}}\n  commonMetadata: {{labels: {{team: x}}}}\n  \
         postRenderers:\n  - kustomize:\n      patches:\n      - patch: |-\n          - {{op: add, path: /data/extra, value: e}}\n        target: {{kind: ConfigMap}}\n"
    ));
    let files = with_chart(&[]);
    let root = REPOSITORY.to_owned() + maps + &full;
    let out = run(&[&files[..], &[("root/all.yaml", root.as_str())]].concat()).unwrap();
    assert_eq!(
        out.names(),
        [
            "ConfigMap flux-system/v",
            "ConfigMap web/web-web",
            "Job web/migrate",
            "Namespace web",
            "Pod web/check",
            "Secret flux-system/s"
        ]
    );
    let map = out.object("ConfigMap web/web-web");
    assert_eq!(
        values(map),
        json!({"colour": "blue", "size": 3, "from": "map", "deep": {"list": [5]}, "nested": {"a": 1, "b": 9}})
    );
    assert_eq!(map.value["data"]["extra"], "e");
    assert_eq!(map.value["metadata"]["labels"]["team"], "x");

    let by_chart = "---\napiVersion: source.toolkit.fluxcd.io/v1\nkind: HelmChart\nmetadata: {name: c, namespace: flux-system}\n\
        spec: {chart: charts/part, sourceRef: {kind: GitRepository, name: shop}, interval: 1m}\n";
    let root = REPOSITORY.to_owned()
        + by_chart
        + &release(
            "  chartRef: {kind: HelmChart, name: c}\n  releaseName: r\n  install: {disableHooks: true}\n",
        );
    let out = run(&[&files[..], &[("root/all.yaml", root.as_str())]].concat()).unwrap();
    assert_eq!(
        out.names(),
        ["ConfigMap flux-system/r", "CustomResourceDefinition things.a.io", "Pod flux-system/check"]
    );

    let away = "---\napiVersion: source.toolkit.fluxcd.io/v1\nkind: HelmRepository\nmetadata: {name: h, namespace: flux-system}\nspec: {url: https://charts.example.com}\n";
    let root = away.to_owned()
        + &release(
            "  chart: {spec: {chart: part, version: 1.x, sourceRef: {kind: HelmRepository, name: h}}}\n",
        );
    let with_root = [&files[..], &[("root/all.yaml", root.as_str())]].concat();
    refused(
        &with_root,
        ErrorClass::Incomplete,
        &[
            "HelmRelease flux-system/web: `spec.chart.spec.sourceRef`: the chart `part` 1.x lies in HelmRepository flux-system/h (`https://charts.example.com`)",
            "replace:\n  - object: HelmRelease flux-system/web\n    path: ",
        ],
    );
    let decided = [
        &with_root[..],
        &[("deployers", "{replace: [{object: HelmRelease flux-system/web, path: charts/part}]}")],
    ]
    .concat();
    assert!(run(&decided).unwrap().names().contains(&"ConfigMap flux-system/web".to_owned()));
}
