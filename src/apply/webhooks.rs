//! Webhooks of the release: whom they admit, and whether they can answer.
//!
//! A webhook that must be asked (`failurePolicy: Fail`) and cannot answer refuses everything it
//! admits. So what it admits waits until it has a CA bundle and its Service a ready endpoint,
//! where the webhook stands in an earlier stage. Expressions (`matchConditions`) are not evaluated:
//! a webhook that has some counts as admitting.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::Cluster;
use super::client::{Call, encode};
use super::discovery::Resource;
use super::health::Health;
use super::observe::{Desired, Observation, Observed};
use super::order::owns_pods;
use crate::model::ObjectId;

const PATIENCE: Duration = Duration::from_secs(2);
/// Annotations by which others put the CA bundle into a webhook.
const INJECTED: [&str; 4] = [
    "cert-manager.io/inject-ca-from",
    "cert-manager.io/inject-ca-from-secret",
    "cert-manager.io/inject-apiserver-ca",
    "service.beta.openshift.io/inject-cabundle",
];

/// Whether objects of the kind are webhooks.
pub(super) fn is_webhook(group: &str, kind: &str) -> bool {
    group == "admissionregistration.k8s.io"
        && matches!(kind, "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration")
}

/// The webhooks among the objects before `first` that admit an object of the stage which begins
/// there, and must answer for it. One whose server is only applied in that stage or later is
/// passed over: waiting for it would never end.
pub(super) async fn before(cluster: &Cluster, seen: &Observation, first: usize) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    let (applied, rest) = seen.objects.split_at(first);
    let Some(step) = rest.first().map(|observed| observed.desired.place.step()) else { return found };
    let stage: Vec<&Observed> =
        rest.iter().take_while(|observed| observed.desired.place.step() == step).collect();
    let mut namespaces = BTreeMap::new();
    for (at, observed) in applied.iter().enumerate() {
        let ObjectId { kind, .. } = &observed.desired.id;
        if !is_webhook(observed.desired.id.group(), kind) {
            continue;
        }
        let mut admits = false;
        for webhook in asked(&observed.desired.value) {
            if served_by(webhook, applied, rest) {
                continue;
            }
            for other in &stage {
                if has_rule(webhook, &other.desired.resource)
                    && selects(&webhook["objectSelector"], &other.desired.value["metadata"]["labels"])
                    && in_namespace(cluster, webhook, other, &mut namespaces).await
                {
                    admits = true;
                    break;
                }
            }
        }
        if admits {
            found.insert(at);
        }
    }
    found
}

/// The webhooks of a configuration without which nothing goes.
fn asked(configuration: &Value) -> impl Iterator<Item = &Value> {
    let webhooks = configuration["webhooks"].as_array().into_iter().flatten();
    webhooks.filter(|webhook| webhook["failurePolicy"] != "Ignore")
}

/// Whether a rule of the webhook is about a kind of object.
fn has_rule(webhook: &Value, resource: &Resource) -> bool {
    let has = |rule: &Value, field: &str, wanted: &[&str]| {
        let listed = rule[field].as_array().into_iter().flatten().filter_map(Value::as_str);
        listed.into_iter().any(|item| wanted.contains(&item))
    };
    let exact = webhook["matchPolicy"] == "Exact";
    let rules = webhook["rules"].as_array().into_iter().flatten();
    rules.into_iter().any(|rule| {
        let scope = rule["scope"].as_str().unwrap_or("*");
        has(rule, "apiGroups", &["*", &resource.group])
            && (!exact || has(rule, "apiVersions", &["*", &resource.version]))
            && has(rule, "operations", &["*", "CREATE", "UPDATE"])
            && has(rule, "resources", &["*", "*/*", &resource.plural])
            && (scope == "*" || (scope == "Namespaced") == resource.namespaced)
    })
}

/// Whether a label selector takes an object with `labels`. One that says nothing takes all.
fn selects(selector: &Value, labels: &Value) -> bool {
    let named = selector["matchLabels"].as_object().into_iter().flatten();
    let mut expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    named.into_iter().all(|(key, value)| labels[key.as_str()] == *value)
        && expressions.all(|expression| {
            let label = &labels[expression["key"].as_str().unwrap_or_default()];
            let is_listed = expression["values"].as_array().is_some_and(|values| values.contains(label));
            match expression["operator"].as_str() {
                Some("In") => label.is_string() && is_listed,
                Some("NotIn") => !label.is_string() || !is_listed,
                Some("Exists") => label.is_string(),
                Some("DoesNotExist") => !label.is_string(),
                _ => true,
            }
        })
}

/// Whether the webhook's selector takes the namespace that an object is in.
async fn in_namespace(
    cluster: &Cluster,
    webhook: &Value,
    object: &Observed,
    known: &mut BTreeMap<String, Value>,
) -> bool {
    let selector = &webhook["namespaceSelector"];
    let (Some(namespace), true) =
        (&object.desired.id.namespace, selector.as_object().is_some_and(|selector| !selector.is_empty()))
    else {
        return true;
    };
    if !known.contains_key(namespace) {
        let call = Call::get(format!("/api/v1/namespaces/{}", encode(namespace)));
        // Who may not read the namespace waits rather than runs into the webhook.
        let Ok(answer) = cluster.call(&call, PATIENCE).await else { return true };
        known.insert(namespace.clone(), answer.value["metadata"]["labels"].clone());
    }
    known.get(namespace).is_none_or(|labels| selects(selector, labels))
}

/// Whether what answers for the webhook is only applied with `rest`: its Service, or pods that
/// the Service takes.
fn served_by(webhook: &Value, applied: &[Observed], rest: &[Observed]) -> bool {
    let service = &webhook["clientConfig"]["service"];
    let (Some(namespace), Some(name)) = (service["namespace"].as_str(), service["name"].as_str()) else {
        return false;
    };
    let at_home = |observed: &&Observed| observed.desired.id.namespace.as_deref() == Some(namespace);
    let is_service = |observed: &&Observed| {
        let id = &observed.desired.id;
        id.kind == "Service" && id.group().is_empty() && id.name == name
    };
    if rest.iter().filter(at_home).any(|observed| is_service(&observed)) {
        return true;
    }
    let Some(service) = applied.iter().filter(at_home).find(is_service) else { return false };
    let selector = &service.desired.value["spec"]["selector"];
    let Some(selector) = selector.as_object().filter(|selector| !selector.is_empty()) else { return false };
    rest.iter().filter(at_home).any(|observed| {
        let Desired { id, value, .. } = &observed.desired;
        let is_pod = id.kind == "Pod" && id.group().is_empty();
        let metadata = if is_pod { &value["metadata"] } else { &value["spec"]["template"]["metadata"] };
        (is_pod || owns_pods(id.group(), &id.kind))
            && selector.iter().all(|(key, value)| metadata["labels"][key.as_str()] == *value)
    })
}

/// Whether a CA bundle says nothing: absent, empty, or white space that stands in for one.
fn is_empty(bundle: &Value) -> bool {
    let text = bundle.as_str().unwrap_or_default();
    match STANDARD.decode(text.trim()) {
        Ok(bytes) => bytes.iter().all(u8::is_ascii_whitespace),
        // The server takes base64 alone, so this is somebody's bundle.
        Err(_) => false,
    }
}

/// Whether somebody is to put a CA bundle into the object, and has not done so.
pub(super) fn waits_for_ca(object: &Value) -> Option<Health> {
    let annotations = &object["metadata"]["annotations"];
    let by = INJECTED.iter().find(|key| annotations.get(**key).is_some())?;
    let lacking = object["webhooks"]
        .as_array()?
        .iter()
        .find(|webhook| is_empty(&webhook["clientConfig"]["caBundle"]))?;
    let name = lacking["name"].as_str().unwrap_or_default();
    Some(Health::in_progress(format!("the webhook `{name}` waits for the CA bundle that `{by}` asks for")))
}

/// Whether every webhook of a configuration that must be asked can answer.
pub(super) async fn serves(cluster: &Cluster, configuration: &Value) -> Health {
    let mut looked_at = BTreeSet::new();
    for webhook in asked(configuration) {
        let name = webhook["name"].as_str().unwrap_or_default();
        let service = &webhook["clientConfig"]["service"];
        let (Some(namespace), Some(service)) = (service["namespace"].as_str(), service["name"].as_str())
        else {
            continue;
        };
        if is_empty(&webhook["clientConfig"]["caBundle"]) {
            return Health::in_progress(format!("the webhook `{name}` has no CA bundle yet"));
        }
        if !looked_at.insert((namespace, service)) {
            continue;
        }
        let call =
            Call::get(format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices", encode(namespace)))
                .query("labelSelector", format!("kubernetes.io/service-name={service}"))
                .query("limit", "50");
        match cluster.call(&call, PATIENCE).await {
            Ok(answer) if is_answered(&answer.value) => {}
            Ok(_) => {
                return Health::in_progress(format!(
                    "the Service {namespace}/{service} of the webhook `{name}` has no ready endpoint"
                ));
            }
            // Who may not look takes the server's word when the time comes.
            Err(error) if error.code() == 403 => {}
            Err(error) => return Health::in_progress(error.text()),
        }
    }
    Health::current("answers")
}

/// Whether a list of endpoint slices has an endpoint that is ready.
fn is_answered(slices: &Value) -> bool {
    let slices = slices["items"].as_array().into_iter().flatten();
    let mut endpoints = slices.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    endpoints.any(|endpoint| {
        endpoint["conditions"]["ready"] != false
            && endpoint["addresses"].as_array().is_some_and(|addresses| !addresses.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn resource(group: &str, plural: &str, namespaced: bool) -> Resource {
        Resource {
            group: group.into(),
            version: "v1".into(),
            kind: "K".into(),
            plural: plural.into(),
            namespaced,
            applicable: true,
        }
    }

    #[test]
    fn rules_say_whom_a_webhook_admits() {
        let webhook = json!({"rules": [
            {"apiGroups": ["x.io"], "apiVersions": ["v1alpha1"], "operations": ["CREATE"], "resources": ["things"],
             "scope": "Namespaced"},
            {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["DELETE"], "resources": ["*"]},
        ]});
        assert!(has_rule(&webhook, &resource("x.io", "things", true)));
        assert!(!has_rule(&webhook, &resource("x.io", "things", false)));
        assert!(!has_rule(&webhook, &resource("x.io", "others", true)));
        assert!(!has_rule(&webhook, &resource("", "pods", true)));
        let exact = json!({"matchPolicy": "Exact", "rules": webhook["rules"]});
        assert!(!has_rule(&exact, &resource("x.io", "things", true)));
        let all = json!({"rules": [
            {"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*/*"]}]});
        assert!(has_rule(&all, &resource("apps", "deployments", true)));
        assert!(!has_rule(&json!({}), &resource("apps", "deployments", true)));
    }

    #[test]
    fn selectors_take_what_they_say() {
        let selector = json!({"matchLabels": {"a": "1"}, "matchExpressions": [
            {"key": "b", "operator": "In", "values": ["x", "y"]},
            {"key": "c", "operator": "NotIn", "values": ["z"]},
            {"key": "d", "operator": "DoesNotExist"}]});
        assert!(selects(&selector, &json!({"a": "1", "b": "y"})));
        assert!(!selects(&selector, &json!({"a": "1"})));
        assert!(!selects(&selector, &json!({"a": "1", "b": "y", "c": "z"})));
        assert!(!selects(&selector, &json!({"a": "1", "b": "y", "d": ""})));
        assert!(selects(&Value::Null, &Value::Null));
        assert!(selects(&json!({}), &json!({"a": "1"})));
    }

    #[test]
    fn bundles_are_waited_for_where_somebody_is_to_bring_them() {
        let configuration = |bundle: Value, annotations: Value| {
            json!({"metadata": {"annotations": annotations}, "webhooks": [
                {"name": "a.x.io", "clientConfig": {"caBundle": bundle, "service": {"namespace": "n", "name": "s"}}}]})
        };
        let injected = json!({"cert-manager.io/inject-ca-from": "n/c"});
        for empty in [Value::Null, json!(""), json!("Cg==")] {
            let health = waits_for_ca(&configuration(empty.clone(), injected.clone())).unwrap();
            assert!(health.message.contains("`a.x.io`"), "{}", health.message);
            assert_eq!(waits_for_ca(&configuration(empty, Value::Null)), None);
        }
        assert_eq!(waits_for_ca(&configuration(json!("QUJD"), injected)), None);
    }

    #[test]
    fn endpoints_count_when_they_are_ready() {
        let slices = |ready: Value, addresses: Value| json!({"items": [{"endpoints": null}, {"endpoints": [{"conditions": {"ready": ready}, "addresses": addresses}]}]});
        assert!(is_answered(&slices(Value::Null, json!(["10.0.0.1"]))));
        assert!(is_answered(&slices(json!(true), json!(["10.0.0.1"]))));
        assert!(!is_answered(&slices(json!(false), json!(["10.0.0.1"]))));
        assert!(!is_answered(&slices(json!(true), json!([]))));
        assert!(!is_answered(&json!({"items": []})));
    }
}
