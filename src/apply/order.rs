//! The order of work: which stage a kind belongs to, and where in it it stands.
//!
//! A stage begins when the one before it is done; what stands earlier in a stage is applied
//! earlier, and what stands equal is applied at the same time. Deletion goes the other way.
//! Waves and dependencies ([`super::waves`]) stand above the stages: each wave has its own.

use crate::model::ObjectId;
use crate::model::plan::Stage;

/// Titles of the stages, the first of which is number 1.
pub(super) const TITLES: [&str; 4] = [
    "definitions, namespaces and cluster roles",
    "classes",
    "workloads and what they need",
    "admission and aggregated APIs",
];

/// Hooks that run before everything else, the release itself, and hooks that run after it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Before,
    #[default]
    Main,
    After,
}

/// Where an object stands, from the coarse to the fine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Of the deployers of the revision, where some wait for others.
    pub(super) turn: u32,
    pub(super) phase: Phase,
    /// Argo CD's sync wave; of a Helm hook its weight.
    pub(super) wave: i64,
    /// 1 to 4, by kind.
    pub(super) stage: u8,
    /// How many others of the same stage it waits for, one after the other.
    pub(super) level: u32,
    /// Within a step, by kind.
    pub(super) rank: u8,
}

impl Place {
    /// What is healthy before the next of it begins.
    pub(super) const fn wave(self) -> (u32, Phase, i64) {
        (self.turn, self.phase, self.wave)
    }

    /// What is applied in one go.
    pub(super) const fn step(self) -> (u32, Phase, i64, u8, u32) {
        (self.turn, self.phase, self.wave, self.stage, self.level)
    }

    /// The wave as people say it: `wave 1`, `hooks before the release`.
    pub(super) fn wave_title(self) -> String {
        let weight = if self.wave == 0 { String::new() } else { format!(", wave {}", self.wave) };
        let wave = match self.phase {
            Phase::Before => format!("hooks before the release{weight}"),
            Phase::Main => format!("wave {}", self.wave),
            Phase::After => format!("hooks after the release{weight}"),
        };
        if self.turn == 0 { wave } else { format!("turn {}, {wave}", self.turn) }
    }

    /// The wave as the ledger and the plan have it; none for the one that all releases have.
    pub(super) fn wave_name(self) -> Option<String> {
        let wave = match self.phase {
            Phase::Before => format!("pre:{}", self.wave),
            Phase::Main if self.wave == 0 && self.turn == 0 => return None,
            Phase::Main => format!("wave:{}", self.wave),
            Phase::After => format!("post:{}", self.wave),
        };
        Some(if self.turn == 0 { wave } else { format!("turn:{}/{wave}", self.turn) })
    }

    /// Whether it belongs to a stage of a plan.
    pub(super) fn is_of(self, stage: &Stage) -> bool {
        self.stage == stage.number && self.level == stage.level && self.wave_name() == stage.wave
    }

    /// What a step holds, for people.
    pub(super) fn title(self) -> String {
        let kinds = TITLES.get(usize::from(self.stage).saturating_sub(1)).copied().unwrap_or_default();
        match self.wave_name() {
            Some(_) => format!("{}: {kinds}", self.wave_title()),
            None => kinds.to_owned(),
        }
    }
}

/// Whether an object runs once and is done, rather than stays.
pub(super) fn runs_once(id: &ObjectId) -> bool {
    matches!(
        (id.group(), id.kind.as_str()),
        ("", "Pod")
            | ("batch", "Job")
            | ("argoproj.io", "Workflow")
            | ("tekton.dev", "PipelineRun" | "TaskRun")
    )
}

/// Where objects of a kind stand. The group counts: a `Service` of another group is a custom
/// resource like any other.
pub(super) fn place(group: &str, kind: &str) -> Place {
    let (stage, rank) = match (group, kind) {
        ("apiextensions.k8s.io", "CustomResourceDefinition") => (1, 0),
        ("", "Namespace") => (1, 1),
        ("rbac.authorization.k8s.io", "ClusterRole") => (1, 2),
        ("rbac.authorization.k8s.io", "ClusterRoleBinding") => (1, 3),
        ("storage.k8s.io", "CSIDriver") => (2, 0),
        ("storage.k8s.io", "StorageClass" | "VolumeAttributesClass")
        | ("scheduling.k8s.io", "PriorityClass")
        | ("node.k8s.io", "RuntimeClass")
        | ("networking.k8s.io", "IngressClass")
        | ("resource.k8s.io", "DeviceClass") => (2, 1),
        ("flowcontrol.apiserver.k8s.io", _) => (2, 2),
        ("", "ResourceQuota" | "LimitRange") => (3, 0),
        ("networking.k8s.io", "NetworkPolicy") => (3, 1),
        ("", "ServiceAccount") => (3, 2),
        ("rbac.authorization.k8s.io", "Role") => (3, 3),
        ("rbac.authorization.k8s.io", "RoleBinding") => (3, 4),
        ("", "Secret" | "ConfigMap") => (3, 5),
        ("", "PersistentVolume") => (3, 6),
        ("", "PersistentVolumeClaim") => (3, 7),
        ("", "Service" | "Endpoints") | ("discovery.k8s.io", "EndpointSlice") => (3, 8),
        // Before the pods that it protects.
        ("policy", "PodDisruptionBudget") => (3, 9),
        ("", "Pod" | "ReplicationController" | "PodTemplate")
        | ("apps", "ReplicaSet" | "Deployment" | "StatefulSet" | "DaemonSet" | "ControllerRevision") => {
            (3, 10)
        }
        ("autoscaling", _) => (3, 11),
        ("batch", "Job") => (3, 12),
        ("batch", "CronJob") => (3, 13),
        ("networking.k8s.io", "Ingress") => (3, 14),
        ("admissionregistration.k8s.io", _) => (4, 1),
        ("apiregistration.k8s.io", "APIService") => (4, 0),
        // Custom resources: after the controllers that are to see them.
        _ => (3, 20),
    };
    Place { stage, rank, ..Place::default() }
}

/// Whether an object of the kind stays although it left the release, and why: with it would go
/// what cannot be brought back.
pub(super) fn kept(group: &str, kind: &str) -> Option<&'static str> {
    match (group, kind) {
        ("", "Namespace") => Some("deleting a namespace deletes all that others put into it"),
        ("", "PersistentVolumeClaim" | "PersistentVolume") => Some("deleting it deletes data"),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            Some("deleting a definition deletes every object of its kind")
        }
        _ => None,
    }
}

/// Whether objects of the kind own pods, which are to be gone before the object counts as gone.
pub(super) fn owns_pods(group: &str, kind: &str) -> bool {
    matches!(
        (group, kind),
        ("apps", "ReplicaSet" | "Deployment" | "StatefulSet" | "DaemonSet")
            | ("batch", "Job" | "CronJob")
            | ("", "ReplicationController")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_need_comes_first() {
        let kinds = [
            ("apiextensions.k8s.io", "CustomResourceDefinition"),
            ("", "Namespace"),
            ("rbac.authorization.k8s.io", "ClusterRole"),
            ("storage.k8s.io", "StorageClass"),
            ("", "ServiceAccount"),
            ("rbac.authorization.k8s.io", "RoleBinding"),
            ("", "ConfigMap"),
            ("", "PersistentVolumeClaim"),
            ("", "Service"),
            ("apps", "Deployment"),
            ("batch", "Job"),
            ("serving.knative.dev", "Service"),
            ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"),
        ];
        assert!(kinds.map(|(group, kind)| place(group, kind)).is_sorted_by(|a, b| a < b));
        for (group, kind) in kinds {
            let stage = place(group, kind).stage;
            assert!((1..=TITLES.len()).contains(&usize::from(stage)));
        }
    }
}
