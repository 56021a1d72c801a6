//! Orders that come out, and those that cannot.

use serde_json::json;

use super::*;

fn object(api_version: &str, kind: &str, name: &str, annotations: &Value) -> RenderedObject {
    let namespaced = !matches!(kind, "Namespace" | "CustomResourceDefinition" | "ClusterRole");
    let mut value = json!({
        "apiVersion": api_version, "kind": kind,
        "metadata": {"name": name, "annotations": annotations},
    });
    if namespaced {
        value["metadata"]["namespace"] = "shop".into();
    }
    let id = ObjectId::of(&value).unwrap();
    let role = ObjectRole::in_chart(&id, &value);
    RenderedObject {
        role,
        ..RenderedObject::new(id, Origin { file: "a.yaml".into(), ..Origin::default() }, value)
    }
}

fn order(objects: &[RenderedObject], occasion: Occasion) -> Result<Vec<String>, Vec<String>> {
    let items: Vec<_> = objects.iter().map(Item::rendered).collect();
    let arranged = arrange(&items, occasion)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let mut placed: Vec<_> =
        arranged.places.into_iter().zip(objects).filter_map(|(place, o)| Some((place?, o))).collect();
    placed.sort_by_key(|(place, _)| *place);
    let steps = placed.chunk_by(|(a, _), (b, _)| a.step() == b.step());
    Ok(steps
        .map(|step| {
            let names: Vec<_> = step.iter().map(|(_, object)| object.id.name.as_str()).collect();
            let place = step[0].0;
            format!("{} {}/{}: {}", place.wave_title(), place.stage, place.level, names.join(" "))
        })
        .collect())
}

#[test]
fn without_annotations_kinds_alone_decide() {
    let objects = [
        object("apps/v1", "Deployment", "web", &json!({})),
        object("v1", "ConfigMap", "web-config", &Value::Null),
        object("v1", "Namespace", "shop", &json!({})),
    ];
    assert_eq!(
        order(&objects, Occasion::Install).unwrap(),
        ["wave 0 1/0: shop", "wave 0 3/0: web-config web"]
    );
}

#[test]
fn waves_come_one_after_the_other_and_bring_their_namespaces() {
    let wave = |number: &str| json!({SYNC_WAVE: number});
    let objects = [
        object("apps/v1", "Deployment", "web", &wave("1")),
        object("batch/v1", "Job", "migrate", &json!({})),
        object("v1", "ConfigMap", "early", &wave("-5")),
        object("v1", "Namespace", "shop", &wave("3")),
        object("v1", "Namespace", "other", &wave("3")),
    ];
    assert_eq!(
        order(&objects, Occasion::Again).unwrap(),
        [
            "wave -5 1/0: shop",
            "wave -5 3/0: early",
            "wave 0 3/0: migrate",
            "wave 1 3/0: web",
            "wave 3 1/0: other"
        ]
    );
    let bad = order(&[object("v1", "ConfigMap", "c", &wave("soon"))], Occasion::Install).unwrap_err();
    assert_eq!(
        bad,
        [
            "ConfigMap shop/c (a.yaml): the annotation `argocd.argoproj.io/sync-wave` has `soon`, wanted a whole number"
        ]
    );
}

#[test]
fn dependencies_come_first_whatever_their_kind() {
    let on = |text: &str| json!({DEPENDS_ON: text});
    let objects = [
        object("v1", "ConfigMap", "late", &on("apps/namespaces/shop/Deployment/web")),
        object("apps/v1", "Deployment", "web", &on(" apps/namespaces/shop/StatefulSet/db , /Namespace/shop")),
        object("apps/v1", "StatefulSet", "db", &json!({})),
        object("rbac.authorization.k8s.io/v1", "ClusterRole", "role", &on("/namespaces/shop/ConfigMap/late")),
        object("v1", "Namespace", "shop", &json!({})),
    ];
    assert_eq!(
        order(&objects, Occasion::Install).unwrap(),
        ["wave 0 1/0: shop", "wave 0 3/0: db", "wave 0 3/1: web", "wave 0 3/2: late", "wave 0 3/3: role"]
    );
}

#[test]
fn what_cannot_be_is_named() {
    let on = |text: &str| json!({DEPENDS_ON: text});
    let ring = [
        object("v1", "ConfigMap", "a", &on("/namespaces/shop/ConfigMap/b")),
        object("v1", "ConfigMap", "b", &on("/namespaces/shop/ConfigMap/c")),
        object("v1", "ConfigMap", "c", &on("/namespaces/shop/ConfigMap/b")),
    ];
    assert_eq!(
        order(&ring, Occasion::Install).unwrap_err(),
        [
            "each waits for the next, the last for the first: ConfigMap shop/b (a.yaml) -> ConfigMap shop/c (a.yaml)"
        ]
    );
    let of_itself = [object("v1", "ConfigMap", "a", &on("/namespaces/shop/ConfigMap/a"))];
    assert!(order(&of_itself, Occasion::Install).unwrap_err()[0].contains("ConfigMap shop/a"));
    // A namespace that waits for what lives in it.
    let inside = [
        object("v1", "Namespace", "shop", &on("/namespaces/shop/ConfigMap/a")),
        object("v1", "ConfigMap", "a", &json!({})),
    ];
    assert!(
        order(&inside, Occasion::Install).unwrap_err()[0].contains("Namespace shop (a.yaml) -> ConfigMap")
    );
    for (text, want) in [
        ("/namespaces/shop/ConfigMap/gone", "depends on `/namespaces/shop/ConfigMap/gone`, which is not"),
        ("/ConfigMap/a", "depends on `/ConfigMap/a`, which is not"),
        ("", "has ``, wanted `GROUP/KIND/NAME`"),
        ("apps/v1/namespaces/shop/Deployment/a", "wanted `GROUP/KIND/NAME`"),
        ("apps/Deployment/", "wanted `GROUP/KIND/NAME`"),
    ] {
        let problems = order(&[object("v1", "ConfigMap", "a", &on(text))], Occasion::Install).unwrap_err();
        assert!(problems[0].contains(want), "{text}: {problems:?}");
    }
    let against = [
        object("v1", "ConfigMap", "a", &json!({SYNC_WAVE: "0", DEPENDS_ON: "/namespaces/shop/ConfigMap/b"})),
        object("v1", "ConfigMap", "b", &json!({SYNC_WAVE: "1"})),
    ];
    assert_eq!(
        order(&against, Occasion::Install).unwrap_err(),
        [
            "ConfigMap shop/a (a.yaml) stands in wave 0 and needs ConfigMap shop/b (a.yaml), which comes later, in wave 1"
        ]
    );
}

#[test]
fn hooks_run_at_their_events_in_the_order_of_their_weights() {
    let hook = |events: &str, weight: &str| json!({HELM_HOOK: events, HELM_WEIGHT: weight});
    let objects = [
        object("batch/v1", "Job", "migrate", &hook("post-install,pre-upgrade", "1")),
        object("v1", "ServiceAccount", "migrator", &hook("pre-install,pre-upgrade", "-5")),
        object("batch/v1", "Job", "seed", &hook("pre-install", "x")),
        object("batch/v1", "Job", "check", &json!({ARGO_HOOK: "PostSync", SYNC_WAVE: "2"})),
        object("apps/v1", "Deployment", "web", &json!({})),
        object("v1", "Namespace", "shop", &json!({})),
    ];
    assert_eq!(
        order(&objects, Occasion::Install).unwrap(),
        [
            "hooks before the release, wave -5 1/0: shop",
            "hooks before the release, wave -5 3/0: migrator",
            "hooks before the release 3/0: seed",
            "wave 0 3/0: web",
            "hooks after the release, wave 1 3/0: migrate",
            "hooks after the release, wave 2 3/0: check"
        ]
    );
    assert_eq!(
        order(&objects, Occasion::Upgrade).unwrap(),
        [
            "hooks before the release, wave -5 1/0: shop",
            "hooks before the release, wave -5 3/0: migrator",
            "hooks before the release, wave 1 3/0: migrate",
            "wave 0 3/0: web",
            "hooks after the release, wave 2 3/0: check"
        ]
    );
    // Going back, or once more: nothing runs again, what stays is there.
    assert_eq!(
        order(&objects, Occasion::Again).unwrap(),
        [
            "hooks before the release, wave -5 1/0: shop",
            "hooks before the release, wave -5 3/0: migrator",
            "wave 0 3/0: web"
        ]
    );
}

#[test]
fn members_leave_the_other_way_round() {
    let member = |kind: &str, name: &str, annotations: Value| {
        let value = json!({"apiVersion": "v1", "kind": kind,
            "metadata": {"name": name, "namespace": "shop", "annotations": annotations}});
        Member {
            id: ObjectId::of(&value).unwrap(),
            resource: super::super::discovery::Resource {
                group: String::new(),
                version: "v1".into(),
                kind: kind.into(),
                plural: String::new(),
                namespaced: true,
                applicable: true,
            },
            uid: String::new(),
            value,
        }
    };
    let members = [
        member("ConfigMap", "a", json!({SYNC_WAVE: "-1"})),
        member("Service", "b", Value::Null),
        member("ConfigMap", "c", json!({SYNC_WAVE: "nonsense"})),
        member("ConfigMap", "d", json!({DEPENDS_ON: "/namespaces/shop/ConfigMap/c"})),
        member("Pod", "e", json!({SYNC_WAVE: "7"})),
    ];
    let members: Vec<&Member> = members.iter().collect();
    let names: Vec<String> = backwards(&members)
        .into_iter()
        .map(|group| group.iter().map(|member| member.id.name.as_str()).collect())
        .collect();
    assert_eq!(names, ["e", "d", "bc", "a"]);
}

#[test]
fn turns_of_deployers_stand_above_waves() {
    let mut late = object("v1", "ConfigMap", "late", &json!({SYNC_WAVE: "-9"}));
    late.turn = 1;
    let mut hook = object("batch/v1", "Job", "hook", &json!({HELM_HOOK: "pre-install"}));
    hook.turn = 1;
    let mut namespace = object("v1", "Namespace", "shop", &json!({}));
    namespace.turn = 1;
    let objects = [late, hook, namespace, object("v1", "ConfigMap", "early", &json!({SYNC_WAVE: "7"}))];
    assert_eq!(
        order(&objects, Occasion::Install).unwrap(),
        [
            "wave 7 1/0: shop",
            "wave 7 3/0: early",
            "turn 1, hooks before the release 3/0: hook",
            "turn 1, wave -9 3/0: late"
        ]
    );
}
