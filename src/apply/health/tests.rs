//! Objects as clusters hold them, and what is thought of them.

use serde_json::json;

use super::*;

fn state(group: &str, kind: &str, object: &Value) -> (State, String) {
    let Health { state, message } = assess(group, kind, object);
    (state, message)
}

#[test]
fn deployments() {
    let deployment = |status: Value| {
        state(
            "apps",
            "Deployment",
            &json!({"metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": status}),
        )
    };
    let available = json!([{"type": "Available", "status": "True"}]);
    assert_eq!(deployment(json!({})).0, State::InProgress);
    assert_eq!(
        deployment(
            json!({"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2})
        )
        .1,
        "its controller has seen generation 1 of 2"
    );
    assert_eq!(
        deployment(json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 1})).1,
        "1 of 2 replicas updated"
    );
    assert_eq!(
        deployment(json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 2})).1,
        "2 of 2 replicas updated, 1 old replica still there"
    );
    let late = json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 1,
        "conditions": [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]});
    assert_eq!(
        deployment(late),
        (State::InProgress, "1 of 2 replicas available; its progress deadline has passed".into())
    );
    let good = json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2,
        "readyReplicas": 2, "conditions": available});
    assert_eq!(deployment(good), (State::Current, "2 of 2 replicas available".into()));
    let none = json!({"metadata": {"generation": 1}, "spec": {"replicas": 0},
        "status": {"observedGeneration": 1, "conditions": available}});
    assert_eq!(state("apps", "Deployment", &none).0, State::Current);
}

#[test]
fn running_jobs_are_not_done_and_failed_ones_have_failed() {
    let job = |status: Value| state("batch", "Job", &json!({"spec": {"completions": 2}, "status": status}));
    assert_eq!(job(json!({"active": 1})), (State::InProgress, "0 of 2 runs succeeded, 1 active".into()));
    assert_eq!(
        job(json!({"conditions": [{"type": "Complete", "status": "True"}], "succeeded": 2})).0,
        State::Current
    );
    let failed = json!({"conditions": [{"type": "Failed", "status": "True",
        "reason": "BackoffLimitExceeded", "message": "too many"}]});
    assert_eq!(job(failed), (State::Failed, "BackoffLimitExceeded: too many".into()));
}

#[test]
fn pods() {
    let pod = |status: Value| state("", "Pod", &json!({"spec": {}, "status": status}));
    assert_eq!(pod(json!({"phase": "Failed"})).0, State::Failed);
    assert_eq!(pod(json!({"phase": "Succeeded"})).0, State::Current);
    assert_eq!(
        pod(json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]})).0,
        State::Current
    );
    let waiting = json!({"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}]});
    assert_eq!(pod(waiting), (State::InProgress, "Unschedulable: 0/1 nodes".into()));
    assert_eq!(pod(Value::Null).0, State::InProgress);
}

#[test]
fn the_other_kinds() {
    let set = |status: Value| {
        state(
            "apps",
            "StatefulSet",
            &json!({"metadata": {"generation": 1}, "spec": {"replicas": 1}, "status": status}),
        )
    };
    assert_eq!(
        set(json!({"observedGeneration": 1, "replicas": 1, "readyReplicas": 1, "updatedReplicas": 1,
        "currentRevision": "a", "updateRevision": "a"}))
        .0,
        State::Current
    );
    assert_eq!(
        set(json!({"observedGeneration": 1, "replicas": 1, "readyReplicas": 1, "updatedReplicas": 0,
        "currentRevision": "a", "updateRevision": "b"}))
        .0,
        State::InProgress
    );
    let daemon = |status: Value| state("apps", "DaemonSet", &json!({"spec": {}, "status": status}));
    assert_eq!(
        daemon(json!({"desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberAvailable": 2})).1,
        "available on 2 of 3 nodes"
    );
    assert_eq!(
        state("", "PersistentVolumeClaim", &json!({"status": {"phase": "Pending"}})).0,
        State::InProgress
    );
    assert_eq!(state("", "PersistentVolumeClaim", &json!({"status": {"phase": "Bound"}})).0, State::Current);
    assert_eq!(state("", "Service", &json!({"spec": {"type": "LoadBalancer"}})).0, State::InProgress);
    assert_eq!(state("", "Service", &json!({"spec": {"clusterIP": "None"}})).0, State::Current);
    assert_eq!(state("", "Namespace", &json!({"status": {"phase": "Active"}})).0, State::Current);
    let definition = |status: &str, reason: &str| {
        state(
            "apiextensions.k8s.io",
            "CustomResourceDefinition",
            &json!({"status": {"conditions": [{"type": "NamesAccepted", "status": "True"},
                {"type": "Established", "status": status, "reason": reason}]}}),
        )
        .0
    };
    assert_eq!(definition("True", ""), State::Current);
    assert_eq!(definition("False", "Installing"), State::InProgress);
    assert_eq!(definition("False", "Broken"), State::Failed);
    assert_eq!(state("x.io", "Thing", &json!({"status": "odd"})).0, State::Current);
    assert_eq!(
        state("x.io", "Thing", &json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}})).0,
        State::InProgress
    );
    assert_eq!(
        state("", "ConfigMap", &json!({"metadata": {"deletionTimestamp": "now"}})).0,
        State::Terminating
    );
}

fn generic(status: &Value) -> (State, String) {
    state("x.io", "Thing", &json!({"metadata": {"generation": 3}, "status": status}))
}

#[test]
fn custom_resources_are_judged_by_their_conditions() {
    let of = |kind: &str, status: &str| {
        json!({"conditions": [
        {"type": kind, "status": status, "reason": "Because", "message": "of this"}]})
    };
    assert_eq!(generic(&of("Ready", "False")), (State::InProgress, "not ready: Because: of this".into()));
    assert_eq!(generic(&of("Ready", "Unknown")).0, State::InProgress);
    assert_eq!(generic(&of("Ready", "True")).0, State::Current);
    assert_eq!(generic(&of("Available", "False")).1, "not available: Because: of this");
    assert_eq!(generic(&of("Reconciling", "True")).0, State::InProgress);
    assert_eq!(generic(&of("Stalled", "True")), (State::Failed, "Because: of this".into()));
    assert_eq!(generic(&of("Stalled", "False")).0, State::Current);
    assert_eq!(generic(&of("Synced", "False")).0, State::Current);
    // `Ready` says more than `Available`.
    let both = json!({"conditions": [
        {"type": "Available", "status": "False"}, {"type": "Ready", "status": "True"}]});
    assert_eq!(generic(&both).0, State::Current);
    let old = json!({"conditions": [{"type": "Stalled", "status": "True", "observedGeneration": 2}]});
    assert_eq!(generic(&old), (State::InProgress, "its condition Stalled is of generation 2, not 3".into()));
    assert_eq!(
        generic(&json!({"observedGeneration": 2})),
        (State::InProgress, "its controller has seen generation 2 of 3".into())
    );
    assert_eq!(generic(&Value::Null).0, State::Current);
}

#[test]
fn pods_that_crash_say_so_and_may_recover() {
    let pod = json!({"spec": {"restartPolicy": "Always"}, "status": {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}],
        "containerStatuses": [
            {"name": "ok", "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}},
            {"name": "main", "restartCount": 4, "state": {"waiting": {"reason": "CrashLoopBackOff",
             "message": "back-off 1m20s restarting failed container"}},
             "lastState": {"terminated": {"exitCode": 3, "reason": "Error"}}}]}});
    assert_eq!(state("", "Pod", &pod), (State::InProgress, "container main: CrashLoopBackOff".into()));
    let image = json!({"status": {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}],
        "initContainerStatuses": [{"name": "init", "state": {"waiting": {"reason": "ErrImagePull"}}}]}});
    assert_eq!(state("", "Pod", &image), (State::InProgress, "container init: ErrImagePull".into()));
    let creating = json!({"status": {"phase": "Pending", "containerStatuses": [
        {"name": "a", "state": {"waiting": {"reason": "ContainerCreating"}}}]}});
    assert_eq!(state("", "Pod", &creating).1, "phase Pending");
    let done = json!({"spec": {"restartPolicy": "Never"}, "status": {"phase": "Succeeded",
        "conditions": [{"type": "Ready", "status": "False", "reason": "PodCompleted"}]}});
    assert_eq!(state("", "Pod", &done).0, State::Current);
    let evicted = json!({"status": {"phase": "Failed", "reason": "Evicted", "message": "low on memory"}});
    assert_eq!(state("", "Pod", &evicted), (State::Failed, "Evicted: low on memory".into()));
}

#[test]
fn what_a_site_may_lack_is_not_waited_for() {
    let balancer = |status: Value| {
        state(
            "",
            "Service",
            &json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.7"}, "status": status}),
        )
    };
    assert_eq!(
        balancer(json!({"loadBalancer": {}})),
        (State::Current, "has its cluster address; no load balancer has given it another".into())
    );
    assert_eq!(balancer(json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}})).1, "has its addresses");
    assert!(!has_state("networking.k8s.io", "Ingress"));
    let daemon = json!({"metadata": {"generation": 1}, "spec": {}, "status": {"observedGeneration": 1,
        "currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0}});
    assert_eq!(state("apps", "DaemonSet", &daemon), (State::Current, "no node takes it".into()));
    let unseen = json!({"metadata": {"generation": 1}, "spec": {}, "status": {}});
    assert_eq!(state("apps", "DaemonSet", &unseen).0, State::InProgress);
    let scaler = |conditions: Value| {
        state("autoscaling", "HorizontalPodAutoscaler", &json!({"status": {"conditions": conditions}}))
    };
    let (measured, message) = scaler(json!([
        {"type": "AbleToScale", "status": "True", "reason": "SucceededGetScale"},
        {"type": "ScalingActive", "status": "False", "reason": "FailedGetResourceMetric", "message": "no metrics"}]));
    assert_eq!(measured, State::Current);
    assert_eq!(message, "does not scale now: FailedGetResourceMetric: no metrics");
    let lost = scaler(json!([{"type": "AbleToScale", "status": "False", "reason": "FailedGetScale",
        "message": "deployments.apps \"web\" not found"}]));
    assert_eq!(lost.0, State::InProgress);
    assert_eq!(scaler(Value::Null).0, State::Current);
}

#[test]
fn budgets_definitions_and_apis() {
    let budget = |status: Value| {
        state("policy", "PodDisruptionBudget", &json!({"metadata": {"generation": 1}, "status": status}))
    };
    assert_eq!(budget(json!({})).0, State::InProgress);
    assert_eq!(
        budget(
            json!({"observedGeneration": 1, "currentHealthy": 1, "desiredHealthy": 2, "disruptionsAllowed": 0})
        ),
        (State::Current, "1 of 2 pods healthy".into())
    );
    let definition = |conditions: Value| {
        state(
            "apiextensions.k8s.io",
            "CustomResourceDefinition",
            &json!({"status": {"conditions": conditions}}),
        )
    };
    let condition = |kind: &str, status: &str, reason: &str| json!({"type": kind, "status": status, "reason": reason, "message": "m"});
    let accepted = condition("NamesAccepted", "True", "NoConflicts");
    assert_eq!(
        definition(json!([accepted, condition("Established", "True", "InitialNamesAccepted")])).0,
        State::Current
    );
    assert_eq!(definition(json!([accepted])).0, State::InProgress);
    assert_eq!(
        definition(json!([condition("Established", "True", "InitialNamesAccepted")])).0,
        State::InProgress
    );
    assert_eq!(
        definition(json!([condition("NamesAccepted", "False", "PluralConflict")])),
        (State::Failed, "PluralConflict: m".into())
    );
    let api = |status: &str| {
        let conditions =
            json!([{"type": "Available", "status": status, "reason": "MissingEndpoints", "message": "m"}]);
        state("apiregistration.k8s.io", "APIService", &json!({"status": {"conditions": conditions}}))
    };
    assert_eq!(api("True").0, State::Current);
    assert_eq!(api("False"), (State::InProgress, "MissingEndpoints: m".into()));
}

#[test]
fn webhooks_wait_for_a_bundle_that_is_promised() {
    let kind = "ValidatingWebhookConfiguration";
    let group = "admissionregistration.k8s.io";
    assert!(has_state(group, kind) && !has_state(group, "ValidatingAdmissionPolicy"));
    let webhook = |annotations: Value| {
        state(
            group,
            kind,
            &json!({"metadata": {"annotations": annotations}, "webhooks": [
            {"name": "a.x.io", "clientConfig": {"service": {"namespace": "n", "name": "s"}}}]}),
        )
    };
    assert_eq!(webhook(json!({"cert-manager.io/inject-ca-from": "n/c"})).0, State::InProgress);
    assert_eq!(webhook(Value::Null).0, State::Current);
}
