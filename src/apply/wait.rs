//! Waits until the release is healthy, and says what stands in the way where it is not.
//!
//! Polls one list for each kind and namespace, not one object at a time, so that the load does
//! not grow with the release. Nothing is held between polls: dropping the future stops the wait.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use super::client::{Call, encode};
use super::discovery::Resource;
use super::health::{Health, State, assess, has_state};
use super::inventory::{PART_OF, apply_set_id};
use super::members::{Depth, list};
use super::observe::{Desired, Observation};
use super::trouble::{self, Trouble};
use super::{ApplyError, Cluster};
use crate::model::{Event, ObjectId, Origin, Progress};

/// Pauses between polls.
const FIRST_PAUSE: Duration = Duration::from_millis(300);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// How long one question is asked again: the next poll asks anyway.
const PATIENCE: Duration = Duration::from_secs(2);
/// Objects whose pods are looked at in each poll, for the line of progress.
const LOOKED_AT: usize = 3;
/// Objects that the report explains.
const EXPLAINED: usize = 20;
/// Polls in a row that must say that an object failed: a controller may be about to replace it.
const FAILED_POLLS: u32 = 2;

/// How healthy a release is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthReport {
    /// How many objects are as they should be.
    pub ready: usize,
    /// How many objects the release has.
    pub total: usize,
    /// How long was waited, in seconds.
    pub seconds: u64,
    /// Objects that are not as they should be; at most 20 are explained.
    pub unready: Vec<Unready>,
    /// Why the cluster could not be asked in the end, where it could not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreachable: Option<String>,
}

/// One object that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Unready {
    /// The object.
    pub object: ObjectId,
    /// Where it comes from.
    pub origin: Origin,
    /// Its health.
    #[serde(flatten)]
    pub health: Health,
    /// What its pods and events say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
    /// Last lines of a container that crashed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

impl HealthReport {
    /// Whether everything is as it should be.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.ready == self.total
    }
}

impl fmt::Display for HealthReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_healthy() {
            return write!(f, "{} of {} objects ready after {} s", self.ready, self.total, self.seconds);
        }
        write!(
            f,
            "{} of {} objects are not ready after {} s:",
            self.total - self.ready,
            self.total,
            self.seconds
        )?;
        for unready in &self.unready {
            write!(f, "\n  {} ({}): {}", unready.object, unready.origin, unready.health.message)?;
            for detail in &unready.details {
                write!(f, "\n    {detail}")?;
            }
            for line in &unready.log {
                write!(f, "\n    | {line}")?;
            }
        }
        let told = self.unready.len();
        if self.total - self.ready > told {
            write!(f, "\n  and {} more", self.total - self.ready - told)?;
        }
        if let Some(why) = &self.unreachable {
            write!(f, "\n  the API server did not answer in the end: {why}")?;
        }
        Ok(())
    }
}

/// Waits until every object of the release is as it should be.
///
/// Passing trouble of the API server is waited out; a Job or Pod that failed ends the wait at
/// once, since no time heals it.
///
/// # Errors
///
/// [`ApplyError::Unhealthy`] when that does not come true within `timeout`.
pub async fn wait(
    cluster: &Cluster,
    seen: &Observation,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<HealthReport, ApplyError> {
    let begun = Instant::now();
    let mut watch = Watch::new(cluster, seen);
    let total = seen.objects.len();
    progress.event(Event::Start { title: format!("waiting for {total} objects"), bytes: None });
    let mut pause = FIRST_PAUSE;
    let mut said = String::new();
    let mut failed_polls = 0;
    loop {
        watch.poll().await;
        let unready = watch.unready();
        if unready.is_empty() && watch.unreachable.is_none() {
            let seconds = begun.elapsed().as_secs();
            progress.event(Event::Finish {
                summary: format!("{total} of {total} objects ready after {seconds} s"),
            });
            return Ok(HealthReport { ready: total, total, seconds, unready: Vec::new(), unreachable: None });
        }
        let line = watch.line(&unready).await;
        if line != said {
            progress.event(Event::Item(line.clone()));
            said = line;
        }
        let is_failed = unready.iter().any(|(_, health)| health.state == State::Failed);
        failed_polls = if is_failed { failed_polls + 1 } else { 0 };
        if failed_polls >= FAILED_POLLS || begun.elapsed() + pause >= timeout {
            let report = watch.report(&unready, begun.elapsed()).await;
            progress.event(Event::Finish {
                summary: format!("{} of {} objects ready", report.ready, report.total),
            });
            return Err(ApplyError::Unhealthy(Box::new(report)));
        }
        tokio::time::sleep(pause).await;
        pause = pause.mul_f32(1.5).min(LONGEST_PAUSE);
    }
}

struct Watch<'a> {
    cluster: &'a Cluster,
    seen: &'a Observation,
    selector: String,
    /// Objects to look at, by the list that holds them: indices into the release's objects.
    groups: Vec<(Resource, Option<String>, Vec<usize>)>,
    health: BTreeMap<usize, Health>,
    live: BTreeMap<usize, Value>,
    unreachable: Option<String>,
}

impl<'a> Watch<'a> {
    fn new(cluster: &'a Cluster, seen: &'a Observation) -> Self {
        let mut groups: Vec<(Resource, Option<String>, Vec<usize>)> = Vec::new();
        for (at, observed) in seen.objects.iter().enumerate() {
            let Desired { id, resource, .. } = &observed.desired;
            if !has_state(id.group(), &id.kind) {
                continue;
            }
            match groups
                .iter_mut()
                .find(|(other, namespace, _)| other == resource && *namespace == id.namespace)
            {
                Some((_, _, members)) => members.push(at),
                None => groups.push((resource.clone(), id.namespace.clone(), vec![at])),
            }
        }
        let selector = format!("{PART_OF}={}", apply_set_id(&seen.release.name));
        Self {
            cluster,
            seen,
            selector,
            groups,
            health: BTreeMap::new(),
            live: BTreeMap::new(),
            unreachable: None,
        }
    }

    /// Asks for every group once. What cannot be asked keeps the health it had.
    async fn poll(&mut self) {
        self.unreachable = None;
        for (resource, namespace, members) in &self.groups {
            let listed =
                list(self.cluster, resource, namespace.as_deref(), &self.selector, Depth::Whole, PATIENCE)
                    .await;
            let listed = match listed {
                Ok(listed) => listed,
                Err(error) => {
                    self.unreachable = Some(error.text());
                    continue;
                }
            };
            let mut by_name: BTreeMap<String, Value> = listed
                .into_iter()
                .filter_map(|object| Some((object["metadata"]["name"].as_str()?.to_owned(), object)))
                .collect();
            for &at in members {
                let id = &self.seen.objects[at].desired.id;
                let health = match by_name.remove(&id.name) {
                    Some(object) => {
                        let health = judge(self.cluster, id.group(), &id.kind, &object).await;
                        self.live.insert(at, object);
                        health
                    }
                    None => gone(&self.seen.objects[at].desired, self.health.get(&at)),
                };
                self.health.insert(at, health);
            }
        }
    }

    fn unready(&self) -> Vec<(usize, Health)> {
        let watched = self.groups.iter().flat_map(|(_, _, members)| members);
        let asked = |&at: &usize| {
            let unknown = || Health { state: State::InProgress, message: "not asked yet".into() };
            (at, self.health.get(&at).cloned().unwrap_or_else(unknown))
        };
        let mut unready: Vec<_> =
            watched.map(asked).filter(|(_, health)| health.state != State::Current).collect();
        unready.sort_by_key(|(at, _)| *at);
        unready
    }

    async fn troubles(&self, at: usize) -> Vec<Trouble> {
        let id = &self.seen.objects[at].desired.id;
        match self.live.get(&at) {
            Some(live) => trouble::of_object(self.cluster, id.group(), &id.kind, live).await,
            None => Vec::new(),
        }
    }

    /// `3 of 9 ready; waiting for Deployment shop/web: 0 of 1 replicas available (ImagePullBackOff: …)`.
    async fn line(&self, unready: &[(usize, Health)]) -> String {
        let total = self.seen.objects.len();
        let ready = total - unready.len();
        if let Some(why) = &self.unreachable {
            return format!("{ready} of {total} ready; the API server does not answer: {why}");
        }
        let mut first = None;
        for (at, health) in unready.iter().take(LOOKED_AT) {
            let trouble = self.troubles(*at).await.into_iter().next();
            let is_telling = trouble.is_some();
            if first.is_none() || is_telling {
                first = Some((*at, health, trouble));
            }
            if is_telling {
                break;
            }
        }
        let Some((at, health, trouble)) = first else { return format!("{ready} of {total} ready") };
        let why = trouble.map_or(String::new(), |trouble| format!(" ({})", trouble.why));
        format!(
            "{ready} of {total} ready; waiting for {}: {}{why}",
            self.seen.objects[at].desired.id, health.message
        )
    }

    async fn report(&self, unready: &[(usize, Health)], waited: Duration) -> HealthReport {
        let total = self.seen.objects.len();
        let mut explained = Vec::new();
        // What failed says more than what waits for it.
        let mut order: Vec<_> = unready.iter().collect();
        order.sort_by_key(|(_, health)| health.state != State::Failed);
        for (at, health) in order.into_iter().take(EXPLAINED) {
            let desired = &self.seen.objects[*at].desired;
            let id = &desired.id;
            let troubles = self.troubles(*at).await;
            let mut details: Vec<String> = troubles.iter().take(3).map(ToString::to_string).collect();
            let mut log = Vec::new();
            if let Some(crashed) = troubles.iter().find(|trouble| trouble.crashed) {
                log = trouble::last_lines(self.cluster, crashed).await;
            }
            details.extend(trouble::events(self.cluster, id.namespace.as_deref(), &id.kind, &id.name).await);
            if let Some(first) = troubles.first() {
                let of_pod = trouble::events(self.cluster, Some(&first.namespace), "Pod", &first.pod).await;
                details.extend(of_pod);
            }
            details.dedup();
            explained.push(Unready {
                object: id.clone(),
                origin: desired.origin.clone(),
                health: health.clone(),
                details,
                log,
            });
        }
        HealthReport {
            ready: total - unready.len(),
            total,
            seconds: waited.as_secs(),
            unready: explained,
            unreachable: self.unreachable.clone(),
        }
    }
}

/// The health of an object that is not there. A Job that asks to be cleaned up once it has ended
/// may be gone before anybody looks; one that was seen to fail has failed all the same.
fn gone(desired: &Desired, before: Option<&Health>) -> Health {
    let is_cleaned_up = desired.id.kind == "Job"
        && desired.id.group() == "batch"
        && desired.value["spec"]["ttlSecondsAfterFinished"].is_u64();
    match before {
        Some(health) if health.state == State::Failed => health.clone(),
        _ if is_cleaned_up => Health::current("has ended and was cleaned up"),
        _ => Health::not_found(),
    }
}

/// The health of an object, with what the object alone does not say: a claim of a class that
/// binds at first use is as it should be until a pod uses it, and then the pod tells.
pub(super) async fn judge(cluster: &Cluster, group: &str, kind: &str, object: &Value) -> Health {
    let health = assess(group, kind, object);
    if (group, kind) != ("", "PersistentVolumeClaim") || health.state != State::InProgress {
        return health;
    }
    let is_used = object["metadata"]["annotations"].get("volume.kubernetes.io/selected-node").is_some();
    let Some(class) = object["spec"]["storageClassName"].as_str().filter(|class| !class.is_empty()) else {
        return health;
    };
    let call = Call::get(format!("/apis/storage.k8s.io/v1/storageclasses/{}", encode(class)));
    match cluster.call(&call, Duration::from_secs(2)).await {
        Ok(answer) if answer.value["volumeBindingMode"] == "WaitForFirstConsumer" && !is_used => {
            Health::current("waits for its first pod")
        }
        _ => health,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_that_clean_up_after_themselves_are_done() {
        let desired = |value: Value| Desired {
            id: ObjectId {
                api_version: "batch/v1".into(),
                kind: "Job".into(),
                namespace: Some("shop".into()),
                name: "j".into(),
            },
            origin: Origin { file: "j.yaml".into(), ..Origin::default() },
            value,
            resource: Resource {
                group: "batch".into(),
                version: "v1".into(),
                kind: "Job".into(),
                plural: "jobs".into(),
                namespaced: true,
                applicable: true,
            },
            place: super::super::order::place("batch", "Job"),
        };
        let brief = desired(serde_json::json!({"spec": {"ttlSecondsAfterFinished": 0}}));
        assert_eq!(gone(&brief, None).state, State::Current);
        let failed = Health { state: State::Failed, message: "BackoffLimitExceeded".into() };
        assert_eq!(gone(&brief, Some(&failed)), failed);
        assert_eq!(gone(&desired(serde_json::json!({"spec": {}})), None).state, State::NotFound);
    }

    #[test]
    fn the_report_names_what_is_in_the_way() {
        let report = HealthReport {
            ready: 3,
            total: 5,
            seconds: 60,
            unready: vec![Unready {
                object: ObjectId {
                    api_version: "apps/v1".into(),
                    kind: "Deployment".into(),
                    namespace: Some("shop".into()),
                    name: "web".into(),
                },
                origin: Origin { file: "web.yaml".into(), line: Some(1), ..Origin::default() },
                health: Health { state: State::InProgress, message: "0 of 1 replicas available".into() },
                details: vec!["Pod shop/web-1 container web: CrashLoopBackOff".into()],
                log: vec!["cannot open /data".into()],
            }],
            unreachable: None,
        };
        assert_eq!(
            report.to_string(),
            "2 of 5 objects are not ready after 60 s:\n  \
             Deployment shop/web (web.yaml:1): 0 of 1 replicas available\n    \
             Pod shop/web-1 container web: CrashLoopBackOff\n    | cannot open /data\n  and 1 more"
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["unready"][0]["state"], "inProgress");
    }
}
