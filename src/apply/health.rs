//! Whether an object is as it should be: the rules of kstatus (sigs.k8s.io/cli-utils, `pkg/kstatus`),
//! with corrections. Pure.
//!
//! Corrections, since a release is healthy only when its work is done: a running Job is not
//! current, a Job or Pod that failed has failed; and, since a release applied again must be able
//! to recover, a Deployment past its progress deadline is late, not lost, and a Pod whose container
//! crashes is in progress. What a site may lack for ever is not waited for: an address from a load
//! balancer, an Ingress controller, figures for an autoscaler, nodes for a `DaemonSet`.

use serde::Serialize;
use serde_json::Value;

use super::webhooks::{is_webhook, waits_for_ca};
pub use crate::model::HealthState as State;

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

    pub(super) fn in_progress(message: impl Into<String>) -> Self {
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
                | "discovery.k8s.io",
            _
        ) | ("networking.k8s.io", "NetworkPolicy" | "Ingress" | "IngressClass")
            | ("batch", "CronJob")
    ) && (group != "admissionregistration.k8s.io" || is_webhook(group, kind))
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
    if is_webhook(group, kind) {
        return waits_for_ca(object).unwrap_or_else(|| Health::current("is there"));
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
        ("autoscaling", "HorizontalPodAutoscaler") => object.autoscaler(),
        ("policy", "PodDisruptionBudget") => object.budget(),
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
        if wanted == 0 {
            return Health::current("no node takes it");
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
            Some("Running" | "Pending") if self.stuck().is_some() => {
                Health::in_progress(self.stuck().unwrap_or_default())
            }
            Some("Running") => Health::in_progress(format!("not ready: {}", self.says("Ready"))),
            _ if self.condition("PodScheduled").is_some_and(|condition| condition["status"] == "False") => {
                Health::in_progress(self.says("PodScheduled"))
            }
            Some(phase) => Health::in_progress(format!("phase {phase}")),
            None => Health::in_progress("nothing has looked at it yet"),
        }
    }

    /// A container that waits for another try: it crashed, or its image cannot be had. That may
    /// mend itself, when what it needs comes, so it is told and not given up.
    fn stuck(&self) -> Option<String> {
        let statuses = ["initContainerStatuses", "containerStatuses"];
        let mut statuses = statuses.iter().flat_map(|key| self.status[*key].as_array().into_iter().flatten());
        statuses.find_map(|status| {
            let waiting = status["state"]["waiting"]["reason"].as_str()?;
            let is_stuck =
                waiting == "CrashLoopBackOff" || waiting.contains("Image") || waiting.contains("Err");
            is_stuck.then(|| format!("container {}: {waiting}", status["name"].as_str().unwrap_or_default()))
        })
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
        if self.spec["type"] != "LoadBalancer" {
            return Health::current("has its address");
        }
        if self.spec["clusterIP"].as_str().is_none_or(str::is_empty) {
            return Health::in_progress("has no cluster address yet");
        }
        match self.status["loadBalancer"]["ingress"].as_array() {
            Some(addresses) if !addresses.is_empty() => Health::current("has its addresses"),
            _ => Health::current("has its cluster address; no load balancer has given it another"),
        }
    }

    fn definition(&self) -> Health {
        let denied = |kind| self.condition(kind).is_some_and(|condition| condition["status"] == "False");
        if denied("NamesAccepted") {
            return Health::failed(self.says("NamesAccepted"));
        }
        if self.is("Established") && self.is("NamesAccepted") {
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

    /// What it is to watch must be there; figures may be long in coming, or never come where the
    /// cluster measures nothing, and nothing of the release waits for them.
    fn autoscaler(&self) -> Health {
        if self.condition("AbleToScale").is_some_and(|condition| condition["status"] == "False") {
            return Health::in_progress(self.says("AbleToScale"));
        }
        match self.condition("ScalingActive") {
            Some(active) if active["status"] == "False" => {
                Health::current(format!("does not scale now: {}", self.says("ScalingActive")))
            }
            _ => Health::current("is there"),
        }
    }

    /// A budget that allows no disruption does its work.
    fn budget(&self) -> Health {
        match self.unseen() {
            Some(unseen) => unseen,
            None => Health::current(format!(
                "{} of {} pods healthy",
                self.count("currentHealthy"),
                self.count("desiredHealthy")
            )),
        }
    }

    /// Any other kind: the conventions for conditions that kstatus names, and `Available`, which
    /// many controllers set in the place of `Ready`. A condition that speaks of an older generation
    /// is yet to be looked at.
    fn generic(&self) -> Health {
        for kind in ["Stalled", "Reconciling", "Ready", "Available"] {
            let condition = self.condition(kind).unwrap_or(&Value::Null);
            if let (Some(of), Some(now)) =
                (condition["observedGeneration"].as_i64(), self.metadata["generation"].as_i64())
                && of < now
            {
                return Health::in_progress(format!("its condition {kind} is of generation {of}, not {now}"));
            }
        }
        if self.is("Stalled") {
            return Health::failed(self.says("Stalled"));
        }
        if self.is("Reconciling") {
            return Health::in_progress(self.says("Reconciling"));
        }
        let decisive = ["Ready", "Available"].into_iter().find(|kind| self.condition(kind).is_some());
        match decisive {
            Some(kind) if !self.is(kind) => {
                Health::in_progress(format!("not {}: {}", kind.to_lowercase(), self.says(kind)))
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
mod tests;
