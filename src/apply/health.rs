//! Whether an object is as it should be: the rules of kstatus (sigs.k8s.io/cli-utils, `pkg/kstatus`),
//! with corrections. Pure.
//!
//! Corrections, since a release is healthy only when its work is done: a running Job is not
//! current, a Job or Pod that failed has failed; and, since a release applied again must be able
//! to recover, a Deployment past its progress deadline is late, not lost.

use serde::Serialize;
use serde_json::Value;

/// The state of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// As it should be.
    Current,
    /// On the way, or stuck on the way.
    InProgress,
    /// It will not get there by itself.
    Failed,
    /// It is being deleted.
    Terminating,
    /// It is not there.
    NotFound,
}

/// The state of one object and a short reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// The state.
    pub state: State,
    /// Why, in words: `0 of 1 replicas available`.
    pub message: String,
}

impl Health {
    pub(super) fn current(message: impl Into<String>) -> Self {
        Self { state: State::Current, message: message.into() }
    }

    fn in_progress(message: impl Into<String>) -> Self {
        Self { state: State::InProgress, message: message.into() }
    }

    fn failed(message: impl Into<String>) -> Self {
        Self { state: State::Failed, message: message.into() }
    }

    pub(super) fn not_found() -> Self {
        Self { state: State::NotFound, message: "is not there".into() }
    }
}

/// Whether objects of a kind have a state at all: what only holds data is as it should be once
/// it is there.
pub(super) fn has_state(group: &str, kind: &str) -> bool {
    !matches!(
        (group, kind),
        (
            "",
            "ConfigMap"
                | "Secret"
                | "ServiceAccount"
                | "LimitRange"
                | "ResourceQuota"
                | "Endpoints"
                | "PodTemplate"
        ) | (
            "rbac.authorization.k8s.io"
                | "storage.k8s.io"
                | "scheduling.k8s.io"
                | "node.k8s.io"
                | "discovery.k8s.io"
                | "admissionregistration.k8s.io",
            _
        ) | ("networking.k8s.io", "NetworkPolicy" | "Ingress" | "IngressClass")
            | ("batch", "CronJob")
    )
}

/// The health of an object of a kind, from the object alone.
pub(super) fn assess(group: &str, kind: &str, object: &Value) -> Health {
    let metadata = &object["metadata"];
    if let Some(since) = metadata["deletionTimestamp"].as_str() {
        return Health { state: State::Terminating, message: format!("is being deleted since {since}") };
    }
    let status = &object["status"];
    if let (Some(seen), Some(now)) = (status["observedGeneration"].as_i64(), metadata["generation"].as_i64())
        && seen < now
    {
        return Health::in_progress(format!("its controller has seen generation {seen} of {now}"));
    }
    let object = Object { spec: &object["spec"], status, metadata };
    match (group, kind) {
        ("apps", "Deployment") => object.deployment(),
        ("apps", "StatefulSet") => object.stateful_set(),
        ("apps", "DaemonSet") => object.daemon_set(),
        ("apps", "ReplicaSet") | ("", "ReplicationController") => object.replica_set(),
        ("batch", "Job") => object.job(),
        ("batch", "CronJob") => Health::current("runs at its times"),
        ("", "Pod") => object.pod(),
        ("", "PersistentVolumeClaim") => object.claim(),
        ("", "Service") => object.service(),
        ("", "Namespace") => object.phase("Active"),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => object.definition(),
        ("apiregistration.k8s.io", "APIService") => object.api_service(),
        _ => object.generic(),
    }
}

struct Object<'a> {
    spec: &'a Value,
    status: &'a Value,
    metadata: &'a Value,
}

impl Object<'_> {
    fn condition(&self, kind: &str) -> Option<&Value> {
        self.status["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
    }

    fn is(&self, kind: &str) -> bool {
        self.condition(kind).is_some_and(|condition| condition["status"] == "True")
    }

    /// Reason and message of a condition, for people.
    fn says(&self, kind: &str) -> String {
        let Some(condition) = self.condition(kind) else { return String::new() };
        let reason = condition["reason"].as_str().unwrap_or_default();
        let message = super::client::shorten(condition["message"].as_str().unwrap_or_default());
        match (reason.is_empty(), message.is_empty()) {
            (false, false) => format!("{reason}: {message}"),
            _ => format!("{reason}{message}"),
        }
    }

    fn count(&self, field: &str) -> i64 {
        self.status[field].as_i64().unwrap_or(0)
    }

    fn wanted_replicas(&self) -> i64 {
        self.spec["replicas"].as_i64().unwrap_or(1)
    }

    /// Controllers that count generations have not looked at the object yet.
    fn unseen(&self) -> Option<Health> {
        let unseen = self.metadata["generation"].is_i64() && !self.status["observedGeneration"].is_i64();
        unseen.then(|| Health::in_progress("its controller has not looked at it yet"))
    }

    fn deployment(&self) -> Health {
        if self.spec["paused"] == true {
            return Health::current("paused");
        }
        if let Some(unseen) = self.unseen() {
            return unseen;
        }
        let wanted = self.wanted_replicas();
        let (all, updated, available) =
            (self.count("replicas"), self.count("updatedReplicas"), self.count("availableReplicas"));
        let late = match self.condition("Progressing") {
            Some(condition) if condition["reason"] == "ProgressDeadlineExceeded" => {
                "; its progress deadline has passed"
            }
            _ => "",
        };
        if updated < wanted {
            let why = if self.is("ReplicaFailure") {
                format!("; {}", self.says("ReplicaFailure"))
            } else {
                String::new()
            };
            return Health::in_progress(format!("{updated} of {wanted} replicas updated{late}{why}"));
        }
        if all > updated {
            let old = replicas(all - updated, "old");
            return Health::in_progress(format!(
                "{updated} of {wanted} replicas updated, {old} still there{late}"
            ));
        }
        if available < wanted || self.count("readyReplicas") < wanted {
            return Health::in_progress(format!("{available} of {wanted} replicas available{late}"));
        }
        if !self.is("Available") {
            return Health::in_progress(format!("not available: {}", self.says("Available")));
        }
        Health::current(format!("{available} of {wanted} replicas available"))
    }

    fn stateful_set(&self) -> Health {
        if self.spec["updateStrategy"]["type"] == "OnDelete" {
            return Health::current("updated when its pods are deleted");
        }
        if let Some(unseen) = self.unseen() {
            return unseen;
        }
        let wanted = self.wanted_replicas();
        let (all, ready, updated) =
            (self.count("replicas"), self.count("readyReplicas"), self.count("updatedReplicas"));
        if ready < wanted || all < wanted {
            return Health::in_progress(format!("{ready} of {wanted} replicas ready"));
        }
        if all > wanted {
            return Health::in_progress(format!("{} still there", replicas(all - wanted, "superfluous")));
        }
        let partition = self.spec["updateStrategy"]["rollingUpdate"]["partition"].as_i64().unwrap_or(0);
        let to_update = (wanted - partition).max(0);
        let rolled = self.status["currentRevision"] == self.status["updateRevision"];
        if !rolled && (updated < to_update || partition == 0) {
            return Health::in_progress(format!("{updated} of {to_update} replicas updated"));
        }
        Health::current(format!("{ready} of {wanted} replicas ready"))
    }

    fn daemon_set(&self) -> Health {
        if let Some(unseen) = self.unseen() {
            return unseen;
        }
        let wanted = self.count("desiredNumberScheduled");
        let (updated, available) = (self.count("updatedNumberScheduled"), self.count("numberAvailable"));
        if self.spec["updateStrategy"]["type"] != "OnDelete" && updated < wanted {
            return Health::in_progress(format!("{updated} of {wanted} nodes updated"));
        }
        if available < wanted || self.count("numberReady") < wanted {
            return Health::in_progress(format!("available on {available} of {wanted} nodes"));
        }
        Health::current(format!("available on {available} of {wanted} nodes"))
    }

    fn replica_set(&self) -> Health {
        if let Some(unseen) = self.unseen() {
            return unseen;
        }
        if self.is("ReplicaFailure") {
            return Health::in_progress(self.says("ReplicaFailure"));
        }
        let wanted = self.wanted_replicas();
        let (all, available) = (self.count("replicas"), self.count("availableReplicas"));
        if all > wanted {
            return Health::in_progress(format!("{} still there", replicas(all - wanted, "superfluous")));
        }
        if available < wanted || self.count("readyReplicas") < wanted {
            return Health::in_progress(format!("{available} of {wanted} replicas available"));
        }
        Health::current(format!("{available} of {wanted} replicas available"))
    }

    fn job(&self) -> Health {
        if self.is("Failed") {
            return Health::failed(self.says("Failed"));
        }
        if self.is("FailureTarget") {
            return Health::failed(self.says("FailureTarget"));
        }
        let wanted = self.spec["completions"].as_i64().unwrap_or(1);
        let (done, active) = (self.count("succeeded"), self.count("active"));
        if self.is("Complete") {
            return Health::current(format!("{done} of {wanted} runs succeeded"));
        }
        if self.spec["suspend"] == true {
            return Health::current("suspended");
        }
        let failed = match self.count("failed") {
            0 => String::new(),
            failed => format!(", {failed} failed"),
        };
        Health::in_progress(format!("{done} of {wanted} runs succeeded, {active} active{failed}"))
    }

    fn pod(&self) -> Health {
        match self.status["phase"].as_str() {
            Some("Succeeded") => Health::current("succeeded"),
            Some("Failed") => {
                let reason = self.status["reason"].as_str().unwrap_or("a container ended with an error");
                let message = super::client::shorten(self.status["message"].as_str().unwrap_or_default());
                Health::failed(if message.is_empty() {
                    reason.to_owned()
                } else {
                    format!("{reason}: {message}")
                })
            }
            Some("Running") if self.is("Ready") => Health::current("ready"),
            Some("Running") => Health::in_progress(format!("not ready: {}", self.says("Ready"))),
            _ if self.condition("PodScheduled").is_some_and(|condition| condition["status"] == "False") => {
                Health::in_progress(self.says("PodScheduled"))
            }
            Some(phase) => Health::in_progress(format!("phase {phase}")),
            None => Health::in_progress("nothing has looked at it yet"),
        }
    }

    fn claim(&self) -> Health {
        self.phase("Bound")
    }

    fn phase(&self, wanted: &str) -> Health {
        match self.status["phase"].as_str() {
            Some(phase) if phase == wanted => Health::current(phase),
            Some("Lost") => Health::failed("its volume is lost"),
            Some(phase) => Health::in_progress(format!("phase {phase}, wanted {wanted}")),
            None => Health::in_progress(format!("no phase yet, wanted {wanted}")),
        }
    }

    fn service(&self) -> Health {
        // An address from outside is not waited for: a site without a load balancer would wait
        // for ever.
        if self.spec["type"] == "LoadBalancer" && self.spec["clusterIP"].as_str().is_none_or(str::is_empty) {
            return Health::in_progress("has no cluster address yet");
        }
        Health::current("has its address")
    }

    fn definition(&self) -> Health {
        let denied = |kind| self.condition(kind).is_some_and(|condition| condition["status"] == "False");
        if denied("NamesAccepted") {
            return Health::failed(self.says("NamesAccepted"));
        }
        if self.is("Established") {
            return Health::current("established");
        }
        if denied("Established") && self.condition("Established").is_some_and(|c| c["reason"] != "Installing")
        {
            return Health::failed(self.says("Established"));
        }
        Health::in_progress("not established yet")
    }

    fn api_service(&self) -> Health {
        if self.is("Available") {
            Health::current("available")
        } else {
            Health::in_progress(self.says("Available"))
        }
    }

    /// Any other kind: the conventions for conditions that kstatus names.
    fn generic(&self) -> Health {
        if self.is("Stalled") {
            return Health::failed(self.says("Stalled"));
        }
        if self.is("Reconciling") {
            return Health::in_progress(self.says("Reconciling"));
        }
        match self.condition("Ready") {
            Some(ready) if ready["status"] != "True" => {
                Health::in_progress(format!("not ready: {}", self.says("Ready")))
            }
            _ => Health::current("is there"),
        }
    }
}

/// `1 old replica`, `2 old replicas`.
fn replicas(count: i64, which: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {which} replica{plural}")
}

#[cfg(test)]
mod tests {
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
        let job =
            |status: Value| state("batch", "Job", &json!({"spec": {"completions": 2}, "status": status}));
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
        assert_eq!(
            state("", "PersistentVolumeClaim", &json!({"status": {"phase": "Bound"}})).0,
            State::Current
        );
        assert_eq!(state("", "Service", &json!({"spec": {"type": "LoadBalancer"}})).0, State::InProgress);
        assert_eq!(state("", "Service", &json!({"spec": {"clusterIP": "None"}})).0, State::Current);
        assert_eq!(state("", "Namespace", &json!({"status": {"phase": "Active"}})).0, State::Current);
        let definition = |status: &str, reason: &str| {
            state("apiextensions.k8s.io", "CustomResourceDefinition",
            &json!({"status": {"conditions": [{"type": "Established", "status": status, "reason": reason}]}})).0
        };
        assert_eq!(definition("True", ""), State::Current);
        assert_eq!(definition("False", "Installing"), State::InProgress);
        assert_eq!(definition("False", "Broken"), State::Failed);
        assert_eq!(state("x.io", "Thing", &json!({"status": "odd"})).0, State::Current);
        assert_eq!(
            state(
                "x.io",
                "Thing",
                &json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}})
            )
            .0,
            State::InProgress
        );
        assert_eq!(
            state("", "ConfigMap", &json!({"metadata": {"deletionTimestamp": "now"}})).0,
            State::Terminating
        );
    }
}
