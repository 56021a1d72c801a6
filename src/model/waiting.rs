//! What a release waits for while it is being applied: a pure value, told again and again.

use std::fmt;

use serde::Serialize;

use super::ObjectId;

/// The state of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum HealthState {
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

impl fmt::Display for HealthState {
    /// One word for a column.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Current => "ready",
            Self::InProgress => "waiting",
            Self::Failed => "failed",
            Self::Terminating => "ending",
            Self::NotFound => "absent",
        })
    }
}

/// A look at what is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// What begins once all of it is ready (`wave 1: workloads and what they need`); absent at the
    /// end of the release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// How many objects are as they should be.
    pub ready: usize,
    /// Of how many.
    pub total: usize,
    /// How long it was waited, in seconds.
    pub seconds: u64,
    /// For how much longer it will be waited, in seconds.
    pub left: u64,
    /// Objects that became ready since the look before; at most 50.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub became_ready: Vec<ObjectId>,
    /// Objects that are not ready, those that say most first; bounded.
    pub unready: Vec<WaitingFor>,
    /// How many more are not ready.
    pub more: usize,
    /// Why the cluster does not answer, where it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreachable: Option<String>,
}

/// One object that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WaitingFor {
    /// The object.
    pub object: ObjectId,
    /// Its state.
    pub state: HealthState,
    /// Why, in words: `0 of 1 replicas available`.
    pub message: String,
    /// What its pods and events say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
    /// Last lines of a container that crashed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

impl WaitingFor {
    /// The message, and the first of what its pods and events say.
    #[must_use]
    pub fn why(&self) -> String {
        match self.details.first() {
            Some(detail) => format!("{} ({detail})", self.message),
            None => self.message.clone(),
        }
    }
}

impl Waiting {
    /// Whether another look says the same, but for the time that went by.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        let timeless =
            |waiting: &Self| Self { seconds: 0, left: 0, became_ready: Vec::new(), ..waiting.clone() };
        self.became_ready.is_empty() && timeless(self) == timeless(other)
    }
}

impl fmt::Display for Waiting {
    /// `3 of 9 ready after 12 s; waiting for Deployment shop/web: 0 of 1 replicas available (…)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} ready after {} s", self.ready, self.total, self.seconds)?;
        if let Some(before) = &self.before {
            write!(f, ", before {before}")?;
        }
        if let Some(why) = &self.unreachable {
            return write!(f, "; the API server does not answer: {why}");
        }
        match self.unready.first() {
            Some(first) => write!(f, "; waiting for {}: {}", first.object, first.why()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_reads_well_and_time_alone_is_no_news() {
        let mut waiting = Waiting {
            before: Some("wave 1".into()),
            ready: 1,
            total: 2,
            seconds: 12,
            left: 48,
            became_ready: vec![],
            unready: vec![WaitingFor {
                object: ObjectId {
                    api_version: "batch/v1".into(),
                    kind: "Job".into(),
                    namespace: Some("shop".into()),
                    name: "migrate".into(),
                },
                state: HealthState::InProgress,
                message: "0 of 1 runs succeeded, 1 active".into(),
                details: vec!["Pod shop/migrate-x: Unschedulable".into()],
                log: vec![],
            }],
            more: 0,
            unreachable: None,
        };
        assert_eq!(
            waiting.to_string(),
            "1 of 2 ready after 12 s, before wave 1; waiting for Job shop/migrate: 0 of 1 runs succeeded, \
             1 active (Pod shop/migrate-x: Unschedulable)"
        );
        let before = waiting.clone();
        waiting.seconds = 13;
        assert!(waiting.says_the_same(&before));
        waiting.unready[0].details.clear();
        assert!(!waiting.says_the_same(&before));
        let json = serde_json::to_value(&before).unwrap();
        assert_eq!(
            (json["left"].as_u64(), json["unready"][0]["state"].as_str()),
            (Some(48), Some("inProgress"))
        );
    }
}
