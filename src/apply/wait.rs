//! Waits until the release is healthy, and says what stands in the way where it is not.
//!
//! Polls one list for each kind and namespace, not one object at a time, so that the load does
//! not grow with the release. Nothing is held between polls: dropping the future stops the wait.

use std::collections::{BTreeMap, BTreeSet};
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
use super::waves::depends_on;
use super::webhooks;
use super::{ApplyError, Cluster};
use crate::model::plan::Stage;
use crate::model::{Event, ObjectId, Origin, Progress, Waiting, WaitingFor};

/// Pauses between polls.
const FIRST_PAUSE: Duration = Duration::from_millis(300);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// How long one question is asked again: the next poll asks anyway.
const PATIENCE: Duration = Duration::from_secs(2);
/// Objects that each look tells.
const ROWS: usize = 12;
/// Objects whose pods and events are looked at in each poll, and how long what was seen holds.
const LOOKED_AT: usize = 4;
const FRESH: Duration = Duration::from_secs(5);
/// Lines of a log that a look tells.
const LOG_LINES: usize = 3;
/// Objects that became ready and are told at once.
const TOLD: usize = 50;
/// Objects that the report explains.
const EXPLAINED: usize = 20;
/// Looks, and the pause between them, at containers without a readiness probe once they run: one that
/// crashes at its start counts as ready for a moment.
const LOOKS_AGAIN: u32 = 2;
const SETTLE: Duration = Duration::from_millis(1500);
/// Polls in a row that must say that an object failed: a controller may be about to replace it.
const FAILED_POLLS: u32 = 2;

/// How healthy a release is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthReport {
    /// What did not begin because of it, where it is not the whole release that was waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// How many objects are as they should be.
    pub ready: usize,
    /// How many objects were waited for: at the end, all that the release has.
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
        let (unready, total) = (self.total - self.ready, self.total);
        write!(f, "{unready} of {total} objects are not ready after {} s", self.seconds)?;
        if let Some(before) = &self.before {
            write!(f, ", so this did not begin: {before}")?;
        }
        f.write_str(":")?;
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
    let all = (0..seen.objects.len()).collect();
    until(Watch::new(cluster, seen, None, &all, BTreeSet::new()), timeout, progress).await
}

/// Waits for what a stage builds on, if anything: the waves before it, what its objects depend on,
/// and the webhooks of the release that admit them. Takes the time from `patience`.
pub(super) async fn until_may_begin(
    cluster: &Cluster,
    seen: &Observation,
    stage: &Stage,
    patience: &mut Duration,
    progress: &dyn Progress,
) -> Result<(), ApplyError> {
    let Some(first) = seen.objects.iter().position(|observed| observed.desired.place.is_of(stage)) else {
        return Ok(());
    };
    let place = seen.objects[first].desired.place;
    let (mut needed, serving) = (healthy_before(seen, first), webhooks::before(cluster, seen, first).await);
    needed.extend(&serving);
    if needed.is_empty() {
        return Ok(());
    }
    let begun = Instant::now();
    let title = match place.wave_name() {
        Some(_) => place.wave_title(),
        None => place.title(),
    };
    let watch = Watch::new(cluster, seen, Some(title), &needed, serving);
    let waited = until(watch, *patience, progress).await;
    *patience = patience.saturating_sub(begun.elapsed());
    waited.map(|_| ())
}

/// What must be healthy before the stage that begins with the object at `first`: at the beginning
/// of a wave all that stands before it, else what its objects depend on.
fn healthy_before(seen: &Observation, first: usize) -> BTreeSet<usize> {
    let place = seen.objects[first].desired.place;
    let mut needed = BTreeSet::new();
    if first > 0 && seen.objects[first - 1].desired.place.wave() != place.wave() {
        needed.extend(0..first);
        return needed;
    }
    let stage = seen.objects[first..].iter().take_while(|other| other.desired.place.step() == place.step());
    // The order was worked out from the same annotations, so they can be read.
    let references: Vec<_> =
        stage.flat_map(|observed| depends_on(&observed.desired.value).unwrap_or_default()).collect();
    if references.is_empty() {
        return needed;
    }
    for (at, observed) in seen.objects[..first].iter().enumerate() {
        if references.iter().any(|reference| reference.names(&observed.desired.id)) {
            needed.insert(at);
        }
    }
    needed
}

async fn until(
    mut watch: Watch<'_>,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<HealthReport, ApplyError> {
    let begun = Instant::now();
    let total = watch.total;
    let title = match &watch.before {
        Some(before) => format!("waiting for {total} objects before {before}"),
        None => format!("waiting for {total} objects"),
    };
    progress.event(Event::Start { title, bytes: None });
    let mut pause = FIRST_PAUSE;
    let mut failed_polls = 0;
    let looks_again = if watch.may_crash() { LOOKS_AGAIN } else { 0 };
    let mut good_polls = 0;
    loop {
        watch.poll().await;
        let unready = watch.unready();
        let waited = begun.elapsed();
        let is_good = unready.is_empty() && watch.unreachable.is_none();
        good_polls = if is_good { good_polls + 1 } else { 0 };
        if is_good && good_polls <= looks_again {
            tokio::time::sleep(SETTLE).await;
            continue;
        }
        if is_good {
            let seconds = waited.as_secs();
            let summary = match &watch.before {
                Some(before) => format!("{total} of {total} objects ready after {seconds} s: {before}"),
                None => format!("{total} of {total} objects ready after {seconds} s"),
            };
            progress.event(Event::Finish { summary });
            let (before, unready) = (watch.before, Vec::new());
            return Ok(HealthReport { before, ready: total, total, seconds, unready, unreachable: None });
        }
        watch.look_closer(&unready).await;
        progress.event(Event::Waiting(Box::new(watch.look(&unready, waited, timeout))));
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

/// What pods, events and logs said of an object, and of which of its states.
struct Closer {
    at: Instant,
    of: Health,
    details: Vec<String>,
    log: Vec<String>,
}

struct Watch<'a> {
    cluster: &'a Cluster,
    seen: &'a Observation,
    before: Option<String>,
    total: usize,
    /// Webhooks that must answer, rather than only be there.
    serving: BTreeSet<usize>,
    selector: String,
    /// Objects to look at, by the list that holds them: indices into the release's objects.
    groups: Vec<(Resource, Option<String>, Vec<usize>)>,
    health: BTreeMap<usize, Health>,
    live: BTreeMap<usize, Value>,
    closer: BTreeMap<usize, Closer>,
    /// What was not ready at the last look.
    told: BTreeSet<usize>,
    unreachable: Option<String>,
}

impl<'a> Watch<'a> {
    fn new(
        cluster: &'a Cluster,
        seen: &'a Observation,
        before: Option<String>,
        objects: &BTreeSet<usize>,
        serving: BTreeSet<usize>,
    ) -> Self {
        let mut places: BTreeMap<(String, String, Option<&str>), usize> = BTreeMap::new();
        let mut groups: Vec<(Resource, Option<String>, Vec<usize>)> = Vec::new();
        for &at in objects {
            let Desired { id, resource, .. } = &seen.objects[at].desired;
            if !has_state(id.group(), &id.kind) && !serving.contains(&at) {
                continue;
            }
            let key = (resource.api_version(), resource.plural.clone(), id.namespace.as_deref());
            let group = *places.entry(key).or_insert_with(|| {
                groups.push((resource.clone(), id.namespace.clone(), Vec::new()));
                groups.len() - 1
            });
            groups[group].2.push(at);
        }
        Self {
            cluster,
            seen,
            before,
            total: objects.len(),
            serving,
            selector: format!("{PART_OF}={}", apply_set_id(&seen.release.name)),
            groups,
            health: BTreeMap::new(),
            live: BTreeMap::new(),
            closer: BTreeMap::new(),
            told: BTreeSet::new(),
            unreachable: None,
        }
    }

    /// Whether pods of a workload that this release changes say nothing of their readiness.
    fn may_crash(&self) -> bool {
        let watched = self.groups.iter().flat_map(|(_, _, members)| members);
        watched.map(|at| &self.seen.objects[*at]).any(|observed| {
            let Desired { id, value, .. } = &observed.desired;
            let containers = value["spec"]["template"]["spec"]["containers"].as_array();
            id.group() == "apps"
                && containers.into_iter().flatten().any(|container| container.get("readinessProbe").is_none())
                && observed.would_change()
        })
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
                        let mut health = judge(self.cluster, id.group(), &id.kind, &object).await;
                        if health.state == State::Current && self.serving.contains(&at) {
                            health = webhooks::serves(self.cluster, &object).await;
                        }
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
        // What failed says more than what waits for it.
        unready.sort_by_key(|(at, health)| (health.state != State::Failed, *at));
        unready
    }

    async fn troubles(&self, at: usize) -> Vec<Trouble> {
        let id = &self.seen.objects[at].desired.id;
        match self.live.get(&at) {
            Some(live) => trouble::of_object(self.cluster, id.group(), &id.kind, live).await,
            None => Vec::new(),
        }
    }

    /// Asks pods, events and logs of a few objects: those never asked first, then those asked
    /// longest ago.
    async fn look_closer(&mut self, unready: &[(usize, Health)]) {
        if self.unreachable.is_some() {
            return;
        }
        let now = Instant::now();
        let mut due: Vec<_> = unready
            .iter()
            .take(ROWS)
            .filter(|(at, health)| match self.closer.get(at) {
                Some(known) => known.of != *health || now.duration_since(known.at) >= FRESH,
                None => true,
            })
            .map(|(at, health)| (self.closer.get(at).map(|known| known.at), *at, health.clone()))
            .collect();
        due.sort_by_key(|(asked, at, _)| (*asked, *at));
        for (_, at, of) in due.into_iter().take(LOOKED_AT) {
            let id = &self.seen.objects[at].desired.id;
            let troubles = self.troubles(at).await;
            let mut details: Vec<String> = troubles.iter().take(2).map(ToString::to_string).collect();
            if details.is_empty() {
                details = trouble::events(self.cluster, id.namespace.as_deref(), &id.kind, &id.name).await;
            }
            // Of a bare pod the message says it already.
            details.retain(|detail| !detail.ends_with(&of.message));
            let mut log = Vec::new();
            if let Some(crashed) = troubles.iter().find(|trouble| trouble.crashed) {
                log = trouble::last_lines(self.cluster, crashed).await;
                log.drain(..log.len().saturating_sub(LOG_LINES));
            }
            self.closer.insert(at, Closer { at: Instant::now(), of, details, log });
        }
    }

    fn look(&mut self, unready: &[(usize, Health)], waited: Duration, timeout: Duration) -> Waiting {
        let now: BTreeSet<usize> = unready.iter().map(|(at, _)| *at).collect();
        let id = |at: usize| self.seen.objects[at].desired.id.clone();
        let became_ready = self.told.difference(&now).take(TOLD).map(|at| id(*at)).collect();
        self.told = now;
        let mut rows: Vec<_> = unready.iter().take(ROWS).collect();
        let is_quiet = |at: &usize| self.closer.get(at).is_none_or(|closer| closer.details.is_empty());
        rows.sort_by_key(|(at, health)| (health.state != State::Failed, is_quiet(at)));
        let told = |(at, health): &(usize, Health)| WaitingFor {
            object: id(*at),
            state: health.state,
            message: health.message.clone(),
            details: self.closer.get(at).map(|closer| closer.details.clone()).unwrap_or_default(),
            log: self.closer.get(at).map(|closer| closer.log.clone()).unwrap_or_default(),
        };
        Waiting {
            before: self.before.clone(),
            ready: self.total - unready.len(),
            total: self.total,
            seconds: waited.as_secs(),
            left: timeout.saturating_sub(waited).as_secs(),
            became_ready,
            more: unready.len() - rows.len(),
            unready: rows.into_iter().map(told).collect(),
            unreachable: self.unreachable.clone(),
        }
    }

    async fn report(&self, unready: &[(usize, Health)], waited: Duration) -> HealthReport {
        let mut explained = Vec::new();
        for (at, health) in unready.iter().take(EXPLAINED) {
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
            before: self.before.clone(),
            ready: self.total - unready.len(),
            total: self.total,
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
        Err(error) if error.is_not_found() => {
            Health::in_progress(format!("{}: there is no StorageClass `{class}`", health.message))
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
            before: None,
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
        let held_up = HealthReport { before: Some("wave 1".into()), ..report };
        assert!(
            held_up
                .to_string()
                .starts_with("2 of 5 objects are not ready after 60 s, so this did not begin: wave 1:\n")
        );
    }
}
