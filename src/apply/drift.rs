//! What of a release differs in the cluster now, and how healthy it is. Changes nothing.
//!
//! Only what the release's own objects say counts: the server tries each of them as it stands
//! (a dry run with fleetpack's field manager), and what the try would change is what differs.
//! Fields that nobody but others set, such as the replicas of an autoscaler where the release
//! names none, are therefore never drift.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::Cluster;
use super::consent::Cure;
use super::diff::{differences, differences_of_named};
use super::health::{Health, State, has_state};
use super::inventory::{PART_OF, apply_set_id};
use super::observe::{Observation, Observed, Trial, key};
use super::order::kept;
use super::plan::foreign;
use super::wait::judge;
use crate::model::plan::FieldChange;
use crate::model::{Digest, ObjectId, Origin, ReleaseName, ReleaseVersion};

/// Objects of each list that are told in a text; the rest is counted.
const TOLD: usize = 50;

/// One release, compared with the cluster.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DriftReport {
    /// Name of the line of releases.
    pub name: ReleaseName,
    /// Its version.
    pub version: ReleaseVersion,
    /// Digest of its release manifest.
    pub release: Digest,
    /// How many objects it has.
    pub objects: usize,
    /// How many of them are as they should be, by the rules that an apply waits by.
    pub ready: usize,
    /// Those that are not.
    pub unready: Vec<UnreadyObject>,
    /// Objects that are missing or say something else than the release.
    pub drift: Vec<ObjectDrift>,
    /// Objects that carry the release's label and are not of the release.
    pub superfluous: Vec<ObjectId>,
    /// Objects that the server could not try, and why.
    pub unchecked: Vec<UncheckedObject>,
    /// What is wrong with the inventory in the cluster, if something is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inventory: Option<InventoryDrift>,
}

/// An object that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UnreadyObject {
    /// The object.
    pub object: ObjectId,
    /// Where it comes from.
    pub origin: Origin,
    /// Its health.
    #[serde(flatten)]
    pub health: Health,
}

/// An object that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectDrift {
    /// The object.
    pub object: ObjectId,
    /// Where it comes from.
    pub origin: Origin,
    /// Whether it is not there at all.
    pub missing: bool,
    /// The fields that differ, at most 50; none where the object is missing.
    pub fields: Vec<FieldDrift>,
    /// How many more fields differ.
    pub more_fields: usize,
    /// Field managers that set fields otherwise, as the API server names them.
    pub changed_by: Vec<String>,
    /// Why applying the object would not heal it, where it would not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stuck: Option<String>,
}

/// One field that differs. A side that is absent has no such field; values of Secrets are not told.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FieldDrift {
    /// Path of the field: `spec.template.spec.containers[name=web].image`.
    pub path: String,
    /// What the release says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wanted: Option<Value>,
    /// What stands in the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<Value>,
}

/// An object that could not be compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UncheckedObject {
    /// The object.
    pub object: ObjectId,
    /// Where it comes from.
    pub origin: Origin,
    /// Why not.
    pub why: String,
}

/// What is wrong with the inventory. Texts as found: a cluster is an outside source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "problem")]
pub enum InventoryDrift {
    /// It is not there.
    Missing,
    /// It does not list all kinds and namespaces of the release.
    Incomplete,
    /// It says that another release runs.
    OtherRelease {
        /// Digest of that release; none where none ever became healthy.
        #[serde(skip_serializing_if = "Option::is_none")]
        found: Option<String>,
        /// Its version.
        #[serde(skip_serializing_if = "Option::is_none")]
        version: Option<String>,
    },
    /// A release is being applied, or was when the work was cut.
    Applying {
        /// Digest of that release.
        found: String,
    },
}

impl InventoryDrift {
    /// Whether writing the inventory anew heals it. Otherwise somebody else is at work, and what
    /// the store says must not be held against the cluster.
    #[must_use]
    pub const fn heals(&self) -> bool {
        matches!(self, Self::Missing | Self::Incomplete)
    }
}

impl fmt::Display for InventoryDrift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("the inventory is missing in the cluster"),
            Self::Incomplete => f.write_str("the inventory does not list all kinds of the release"),
            Self::OtherRelease { found, version } => {
                let version = version.as_deref().unwrap_or("of unknown version");
                let found = found.as_deref().unwrap_or("none");
                write!(f, "the cluster says that it runs another release: {version} ({found})")
            }
            Self::Applying { found } => {
                write!(
                    f,
                    "the cluster says that the release `{found}` is being applied, or was when it was cut"
                )
            }
        }
    }
}

impl DriftReport {
    /// Whether every object is as it should be.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.unready.is_empty()
    }

    /// Whether nothing differs and everything could be compared.
    #[must_use]
    pub fn is_in_sync(&self) -> bool {
        self.drift.is_empty()
            && self.superfluous.is_empty()
            && self.unchecked.is_empty()
            && self.inventory.is_none()
    }
}

/// Compares what was seen with the release that it was seen for.
pub async fn compare(cluster: &Cluster, seen: &Observation) -> DriftReport {
    let set = apply_set_id(&seen.release.name);
    let mut report = DriftReport {
        name: seen.release.name.clone(),
        version: seen.release.version.clone(),
        release: seen.release.digest,
        objects: seen.objects.len(),
        ready: 0,
        unready: Vec::new(),
        drift: Vec::new(),
        superfluous: Vec::new(),
        unchecked: Vec::new(),
        inventory: inventory(seen),
    };
    for observed in &seen.objects {
        let (id, origin) = (&observed.desired.id, &observed.desired.origin);
        let health = health(cluster, observed).await;
        if let Some(health) = health.filter(|health| health.state != State::Current) {
            report.unready.push(UnreadyObject { object: id.clone(), origin: origin.clone(), health });
        }
        match differs(observed, &set) {
            Found::Same => {}
            Found::Unknown(why) => {
                report.unchecked.push(UncheckedObject { object: id.clone(), origin: origin.clone(), why });
            }
            Found::Differs(drift) => report.drift.push(*drift),
        }
    }
    report.ready = report.objects - report.unready.len();
    let applied = seen.objects.iter().map(|observed| key(&observed.desired.id));
    // Hooks that ran are of the release, though nothing is to be done about them.
    let own: BTreeSet<_> = applied.chain(seen.idle.iter().map(key)).collect();
    // What stays by rule although it left the release was told when it did.
    let left = seen.members.iter().filter(|member| {
        !own.contains(&key(&member.id)) && kept(member.id.group(), &member.id.kind).is_none()
    });
    report.superfluous.extend(left.map(|member| member.id.clone()));
    report
}

fn inventory(seen: &Observation) -> Option<InventoryDrift> {
    let Some(parent) = &seen.parent else { return Some(InventoryDrift::Missing) };
    if let Some(found) = &parent.applying {
        return Some(InventoryDrift::Applying { found: found.clone() });
    }
    if parent.release.as_deref() != Some(&seen.release.digest.to_string()) {
        let (found, version) = (parent.release.clone(), parent.version.clone());
        return Some(InventoryDrift::OtherRelease { found, version });
    }
    let own = seen.contents();
    let lists_all =
        own.kinds.is_subset(&parent.contents.kinds) && own.namespaces.is_subset(&parent.contents.namespaces);
    (!lists_all).then_some(InventoryDrift::Incomplete)
}

/// The health of an object that was seen; none where it has none, or could not be looked at.
async fn health(cluster: &Cluster, observed: &Observed) -> Option<Health> {
    let id = &observed.desired.id;
    match (&observed.live, &observed.trial) {
        (Some(live), _) if has_state(id.group(), &id.kind) => {
            Some(judge(cluster, id.group(), &id.kind, live).await)
        }
        (Some(_), _) | (None, Trial::Refused { forbidden: true, .. }) => None,
        (None, _) if cleans_up(observed) => None,
        (None, _) => Some(Health::not_found()),
    }
}

/// Whether the object goes by itself once it has done its work: then it is not missing.
fn cleans_up(observed: &Observed) -> bool {
    let Observed { desired, .. } = observed;
    desired.id.kind == "Job"
        && desired.id.group() == "batch"
        && desired.value["spec"]["ttlSecondsAfterFinished"].is_u64()
}

enum Found {
    Same,
    Differs(Box<ObjectDrift>),
    Unknown(String),
}

fn differs(observed: &Observed, set: &str) -> Found {
    let desired = &observed.desired;
    let mut drift = ObjectDrift {
        object: desired.id.clone(),
        origin: desired.origin.clone(),
        missing: observed.live.is_none(),
        fields: Vec::new(),
        more_fields: 0,
        changed_by: Vec::new(),
        stuck: None,
    };
    let fields = match (&observed.live, &observed.trial) {
        (_, Trial::Refused { why, .. }) => return Found::Unknown(why.clone()),
        (Some(live), _) if live["metadata"]["labels"][PART_OF].as_str().is_some_and(|owner| owner != set) => {
            let owner =
                super::client::shorten(live["metadata"]["labels"][PART_OF].as_str().unwrap_or_default());
            return Found::Unknown(format!("it belongs to another set of objects: `{owner}`"));
        }
        (None, _) if cleans_up(observed) => return Found::Same,
        (None, _) => return Found::Differs(Box::new(drift)),
        (Some(live), Trial::Result { value, taken }) => {
            drift.changed_by = taken.iter().map(|taken| taken.manager.clone()).collect();
            drift.changed_by.sort();
            drift.changed_by.dedup();
            drift.stuck =
                foreign(live, set, taken).filter(|_| !Cure::TakeOver.is_allowed(&desired.value, Some(live)));
            differences(live, value)
        }
        (Some(live), Trial::Stored { versions }) => {
            let versions = versions.join("`, `");
            drift.stuck =
                Some(format!("objects may be stored in versions that leave with it (`{versions}`)"));
            differences_of_named(live, &desired.value)
        }
        (Some(_), Trial::Leaving { since, held }) => {
            let held =
                held.as_ref().map_or(String::new(), |held| format!(", held up by the finalizers {held}"));
            return Found::Unknown(format!("is being deleted since {since}{held}"));
        }
        (Some(live), Trial::Unchecked { .. }) => differences_of_named(live, &desired.value),
        (Some(live), Trial::Immutable { why }) => {
            drift.stuck = Some(format!("it can never change: {why}"));
            differences_of_named(live, &desired.value)
        }
    };
    let secret = desired.id.kind == "Secret" && desired.id.group().is_empty();
    drift.fields = fields.0.into_iter().map(|change| field(change, secret)).collect();
    drift.more_fields = fields.1;
    if drift.fields.is_empty() && drift.stuck.is_none() {
        return Found::Same;
    }
    Found::Differs(Box::new(drift))
}

/// What a plan calls old and new is here found and wanted; hidden values have no before and after.
fn field(change: FieldChange, secret: bool) -> FieldDrift {
    let hide = |value: Option<Value>| {
        value.map(|value| match value.as_str() {
            Some(text) if secret && text.starts_with("(secret, ") => Value::String("(secret)".into()),
            _ => value,
        })
    };
    FieldDrift { path: change.path, wanted: hide(change.new), found: hide(change.old) }
}

impl fmt::Display for FieldDrift {
    /// `data.value: wanted "1", found "2"`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |value: &Option<Value>| value.as_ref().map_or("nothing".to_owned(), Value::to_string);
        write!(f, "{}: wanted {}, found {}", self.path, side(&self.wanted), side(&self.found))
    }
}

impl fmt::Display for ObjectDrift {
    /// One line for the object, and one for each field, indented by four.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.object, self.origin)?;
        if self.missing {
            write!(f, " is missing")?;
        } else if self.changed_by.is_empty() {
            write!(f, " differs")?;
        } else {
            write!(f, " differs, changed by {}", self.changed_by.join(", "))?;
        }
        if let Some(why) = &self.stuck {
            write!(f, "; {why}")?;
        }
        for field in &self.fields {
            write!(f, "\n    {field}")?;
        }
        if self.more_fields > 0 {
            write!(f, "\n    and {} more fields", self.more_fields)?;
        }
        Ok(())
    }
}

/// Writes items, each on lines of its own behind `mark`, and counts what is too much.
fn told<T>(f: &mut fmt::Formatter<'_>, items: &[T], mark: &str, text: impl Fn(&T) -> String) -> fmt::Result {
    for item in items.iter().take(TOLD) {
        write!(f, "\n  {mark} {}", text(item).replace('\n', "\n  "))?;
    }
    if items.len() > TOLD {
        write!(f, "\n  {mark} and {} more", items.len() - TOLD)?;
    }
    Ok(())
}

impl fmt::Display for DriftReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let health = if self.is_healthy() { "healthy" } else { "NOT HEALTHY" };
        let differs = match self.drift.len() {
            0 if self.is_in_sync() => "nothing differs".to_owned(),
            0 => "no object of it differs".to_owned(),
            1 => "1 object differs".to_owned(),
            many => format!("{many} objects differ"),
        };
        write!(
            f,
            "{} {}: {health}, {} of {} objects ready; {differs}",
            self.name, self.version, self.ready, self.objects
        )?;
        if let Some(problem) = &self.inventory {
            write!(f, "\n  ! {problem}")?;
        }
        told(f, &self.unready, "!", |unready| {
            format!("{} ({}): {}", unready.object, unready.origin, unready.health.message)
        })?;
        let (missing, changed): (Vec<_>, Vec<_>) = self.drift.iter().partition(|drift| drift.missing);
        told(f, &missing, "-", ToString::to_string)?;
        told(f, &changed, "~", ToString::to_string)?;
        told(f, &self.superfluous, "+", |object| {
            format!("{object} carries the label of this release and is not of it")
        })?;
        told(f, &self.unchecked, "?", |unchecked| {
            format!("{} ({}) could not be compared: {}", unchecked.object, unchecked.origin, unchecked.why)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::discovery::Resource;
    use super::super::observe::Desired;
    use super::super::order;
    use super::*;
    use crate::model::plan::TakenOver;

    fn observed(kind: &str, value: Value, live: Option<Value>, trial: Trial) -> Observed {
        let group = if kind == "Job" { "batch" } else { "" };
        let api_version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
        Observed {
            desired: Desired {
                id: ObjectId {
                    api_version,
                    kind: kind.into(),
                    namespace: Some("shop".into()),
                    name: "web".into(),
                },
                origin: Origin { file: "shop.yaml".into(), line: Some(4), ..Origin::default() },
                value,
                resource: Resource {
                    group: group.into(),
                    version: "v1".into(),
                    kind: kind.into(),
                    plural: "x".into(),
                    namespaced: true,
                    applicable: true,
                },
                place: order::place(group, kind),
            },
            live,
            trial,
        }
    }

    fn drift(observed: &Observed) -> Option<ObjectDrift> {
        match differs(observed, "applyset-x-v1") {
            Found::Same => None,
            Found::Differs(drift) => Some(*drift),
            Found::Unknown(why) => panic!("{why}"),
        }
    }

    #[test]
    fn what_was_changed_is_told_with_who_did_it() {
        let map = |a: &str| {
            json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": a, "other": "x"},
                "metadata": {"labels": {PART_OF: "applyset-x-v1"}}})
        };
        let (live, value) = (map("2"), map("1"));
        let taken = vec![TakenOver { manager: "kubectl-edit".into(), field: ".data.a".into() }];
        let changed = observed("ConfigMap", json!({}), Some(live), Trial::Result { value, taken });
        assert_eq!(
            drift(&changed).unwrap().to_string(),
            "ConfigMap shop/web (shop.yaml:4) differs, changed by kubectl-edit\n    data.a: wanted \"1\", found \"2\""
        );
    }

    #[test]
    fn values_of_secrets_are_not_told() {
        let secret = |data: &str| json!({"apiVersion": "v1", "kind": "Secret", "data": {"password": data}});
        let trial = Trial::Result { value: secret("b2xk"), taken: vec![] };
        let changed = drift(&observed("Secret", json!({}), Some(secret("bmV3")), trial)).unwrap();
        let text = format!("{changed} {}", serde_json::to_string(&changed).unwrap());
        assert!(text.contains("data.password: wanted \"(secret)\", found \"(secret)\""), "{text}");
        assert!(!text.contains("b2xk") && !text.contains("bmV3"), "{text}");
    }

    #[test]
    fn what_cleans_up_after_itself_is_not_missing() {
        let job = |spec: Value| {
            let trial = Trial::Result { value: json!({}), taken: vec![] };
            observed("Job", json!({"spec": spec}), None, trial)
        };
        assert_eq!(drift(&job(json!({"ttlSecondsAfterFinished": 60}))), None);
        assert!(drift(&job(json!({}))).unwrap().missing);
    }

    #[test]
    fn what_can_never_change_is_not_said_to_heal() {
        let live = json!({"spec": {"a": 1}});
        let trial = Trial::Immutable { why: "`spec.a`: field is immutable".into() };
        let stuck = drift(&observed("Service", json!({"spec": {"a": 2}}), Some(live), trial)).unwrap();
        assert_eq!(stuck.stuck.as_deref(), Some("it can never change: `spec.a`: field is immutable"));
        assert_eq!(stuck.fields[0].to_string(), "spec.a: wanted 2, found 1");
    }
}
