//! From what the cluster holds and says to what will be done: pure.

use std::collections::BTreeSet;

use serde_json::Value;

use super::diff::{differences, differences_of_named};
use super::inventory::{PART_OF, apply_set_id};
use super::observe::{Observation, Observed, Trial, key};
use super::order::{TITLES, kept, place};
use super::{ApplyError, ObjectFailure};
use crate::model::plan::{
    FORMAT, KeptObject, Plan, PlanTarget, PlannedChange, PlannedCreate, RunningRelease, Stage,
};

/// What the planner may do beyond the usual.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlanOptions {
    /// Delete namespaces, volume claims and definitions that left the release too, with all
    /// that goes with them.
    pub prune_everything: bool,
}

/// Makes the plan.
///
/// # Errors
///
/// When the server would refuse objects, or one belongs to another set. All refusals are told.
pub fn plan(seen: &Observation, options: PlanOptions) -> Result<Plan, ApplyError> {
    let release = &seen.release;
    let own = apply_set_id(&release.name);
    let mut plan = Plan {
        format: FORMAT,
        release: PlanTarget {
            name: release.name.clone(),
            version: release.version.clone(),
            digest: release.digest,
        },
        from: seen.parent.as_ref().map(|parent| RunningRelease {
            digest: parent.release.clone(),
            version: parent.version.clone(),
            applying: parent.applying.clone(),
        }),
        server: seen.server.clone(),
        create: Vec::new(),
        change: Vec::new(),
        unchanged: Vec::new(),
        prune: Vec::new(),
        kept: Vec::new(),
        stages: Vec::new(),
        warnings: seen.warnings.clone(),
    };
    let mut failures = Vec::new();
    for observed in &seen.objects {
        let owner = observed.live.as_ref().and_then(|live| live["metadata"]["labels"][PART_OF].as_str());
        if let Some(owner) = owner.filter(|owner| *owner != own) {
            return Err(ApplyError::OwnedByOther {
                object: Box::new(observed.desired.at()),
                owner: super::client::shorten(owner),
                own,
            });
        }
        if let Some(failure) = plan_object(&mut plan, observed) {
            failures.push(failure);
        }
    }
    if !failures.is_empty() {
        return Err(ApplyError::DryRun { failures });
    }
    plan_pruning(&mut plan, seen, options);
    for (number, title) in (1..).zip(TITLES) {
        let of_stage = seen.objects.iter().filter(|observed| observed.desired.place.stage == number);
        let objects: Vec<_> = of_stage.map(|observed| observed.desired.id.clone()).collect();
        if !objects.is_empty() {
            plan.stages.push(Stage { number, title: title.to_owned(), objects });
        }
    }
    Ok(plan)
}

fn plan_object(plan: &mut Plan, observed: &Observed) -> Option<ObjectFailure> {
    let desired = &observed.desired;
    let (object, origin) = (desired.id.clone(), desired.origin.clone());
    let failure = |why: &str, forbidden, immutable| {
        let why = why.to_owned();
        Some(ObjectFailure { id: object.clone(), origin: origin.clone(), why, forbidden, immutable })
    };
    let mut change = PlannedChange {
        object: object.clone(),
        origin: origin.clone(),
        fields: Vec::new(),
        more_fields: 0,
        taken_over: Vec::new(),
        recreate: None,
        unchecked: None,
    };
    match (&observed.trial, &observed.live) {
        (Trial::Refused { why, forbidden }, _) => return failure(why, *forbidden, false),
        (Trial::Result { .. }, None) => plan.create.push(PlannedCreate { object, origin, unchecked: None }),
        (Trial::Unchecked { why }, None) => {
            plan.create.push(PlannedCreate { object, origin, unchecked: Some(why.clone()) });
        }
        (Trial::Immutable { why }, None) => return failure(why, false, true),
        (Trial::Result { value, taken }, Some(live)) => {
            (change.fields, change.more_fields) = differences(live, value);
            change.taken_over.clone_from(taken);
            change.recreate = run_again(&object, live);
            if change.fields.is_empty() && change.recreate.is_none() {
                plan.unchanged.push(object);
            } else {
                plan.change.push(change);
            }
        }
        (Trial::Unchecked { why }, Some(live)) => {
            (change.fields, change.more_fields) = differences_of_named(live, &desired.value);
            if change.fields.is_empty() {
                plan.unchanged.push(object);
            } else {
                change.unchecked = Some(why.clone());
                plan.change.push(change);
            }
        }
        (Trial::Immutable { why }, Some(live)) => {
            if !is_job(&object) || !is_finished(live) {
                let running = if is_job(&object) { "; the Job has not finished" } else { "" };
                return failure(&format!("{why}{running}"), false, true);
            }
            (change.fields, change.more_fields) = differences_of_named(live, &desired.value);
            change.recreate = Some("a Job cannot be changed, and this one has finished".into());
            plan.change.push(change);
        }
    }
    None
}

fn is_job(object: &crate::model::ObjectId) -> bool {
    object.kind == "Job" && object.group() == "batch"
}

/// Whether a Job has come to its end, well or not.
fn is_finished(job: &Value) -> bool {
    has_condition(job, "Complete") || has_condition(job, "Failed")
}

fn has_condition(object: &Value, kind: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == kind && condition["status"] == "True")
}

/// Why an object that runs once is to run again although it says what the release says: it
/// failed, and would stand in the way of health for ever.
fn run_again(object: &crate::model::ObjectId, live: &Value) -> Option<String> {
    if is_job(object) && has_condition(live, "Failed") {
        return Some("the Job failed; it is run again".into());
    }
    let is_pod = object.kind == "Pod" && object.group().is_empty();
    (is_pod && live["status"]["phase"] == "Failed").then(|| "the Pod failed; it is run again".into())
}

fn plan_pruning(plan: &mut Plan, seen: &Observation, options: PlanOptions) {
    let wanted: BTreeSet<_> = seen.objects.iter().map(|observed| key(&observed.desired.id)).collect();
    let mut left: Vec<_> = seen.members.iter().filter(|member| !wanted.contains(&key(&member.id))).collect();
    // Against the order of work: what depends on others goes before them.
    left.sort_by_key(|member| {
        (std::cmp::Reverse(place(member.id.group(), &member.id.kind)), member.id.clone())
    });
    for member in left {
        match kept(member.id.group(), &member.id.kind) {
            Some(reason) if !options.prune_everything => {
                plan.kept.push(KeptObject { object: member.id.clone(), reason: reason.to_owned() });
            }
            _ => plan.prune.push(member.id.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::discovery::Resource;
    use super::super::inventory::Parent;
    use super::super::members::Member;
    use super::super::observe::Desired;
    use super::super::{ReleaseObjects, order};
    use super::*;
    use crate::model::{Digest, ErrorClass, ObjectId, Origin};

    fn id(api_version: &str, kind: &str, name: &str) -> ObjectId {
        ObjectId {
            api_version: api_version.into(),
            kind: kind.into(),
            namespace: Some("shop".into()),
            name: name.into(),
        }
    }

    fn resource(id: &ObjectId) -> Resource {
        Resource {
            group: id.group().into(),
            version: id.version().into(),
            kind: id.kind.clone(),
            plural: id.kind.to_lowercase() + "s",
            namespaced: true,
            applicable: true,
        }
    }

    fn observed(id: ObjectId, live: Option<Value>, trial: Trial) -> Observed {
        Observed {
            desired: Desired {
                origin: Origin { file: "shop.yaml".into(), line: Some(1), ..Origin::default() },
                value: json!({"spec": {"a": 2}}),
                resource: resource(&id),
                place: order::place(id.group(), &id.kind),
                id,
            },
            live,
            trial,
        }
    }

    fn seen(objects: Vec<Observed>, members: &[ObjectId]) -> Observation {
        Observation {
            release: ReleaseObjects {
                name: "shop".parse().unwrap(),
                version: "2".parse().unwrap(),
                digest: Digest::of(b"2"),
                sequence: 2,
                objects: vec![],
            },
            server: "v1.36.0".into(),
            default_namespace: "default".into(),
            objects,
            members: members
                .iter()
                .map(|id| Member {
                    id: id.clone(),
                    resource: resource(id),
                    uid: "u".into(),
                    value: Value::Null,
                })
                .collect(),
            parent: Some(Parent::default()),
            warnings: vec![],
        }
    }

    fn ok(value: Value) -> Trial {
        Trial::Result { value, taken: vec![] }
    }

    #[test]
    fn objects_are_created_changed_left_and_pruned() {
        let plan = plan(
            &seen(
                vec![
                    observed(id("v1", "ConfigMap", "new"), None, ok(json!({}))),
                    observed(
                        id("v1", "ConfigMap", "same"),
                        Some(json!({"data": {"a": "1"}, "metadata": {"resourceVersion": "1"}})),
                        ok(json!({"data": {"a": "1"}, "metadata": {"resourceVersion": "2"}})),
                    ),
                    observed(
                        id("apps/v1", "Deployment", "web"),
                        Some(json!({"spec": {"replicas": 1}, "status": {}})),
                        ok(json!({"spec": {"replicas": 2}})),
                    ),
                    observed(id("x.io/v1", "Thing", "t"), None, Trial::Unchecked { why: "later".into() }),
                ],
                &[
                    id("v1", "ConfigMap", "same"),
                    id("v1", "ConfigMap", "old"),
                    id("apps/v1", "Deployment", "old"),
                    id("v1", "PersistentVolumeClaim", "data"),
                ],
            ),
            PlanOptions::default(),
        )
        .unwrap();
        let names = |objects: &[ObjectId]| objects.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(plan.create.len(), 2);
        assert_eq!(plan.create[1].unchecked.as_deref(), Some("later"));
        assert_eq!(names(&plan.unchanged), ["ConfigMap shop/same"]);
        assert_eq!(plan.change[0].fields[0].to_string(), "spec.replicas: 1 -> 2");
        assert_eq!(names(&plan.prune), ["Deployment shop/old", "ConfigMap shop/old"]);
        assert_eq!(names(&[plan.kept[0].object.clone()]), ["PersistentVolumeClaim shop/data"]);
        assert_eq!(plan.stages.len(), 1);
        assert_eq!(plan.stages[0].step(), "stage:3");
    }

    #[test]
    fn finished_jobs_are_created_again_and_running_ones_are_not_touched() {
        let job = |status: Value, trial| {
            let live = json!({"spec": {"a": 1}, "status": status});
            plan(
                &seen(vec![observed(id("batch/v1", "Job", "j"), Some(live), trial)], &[]),
                PlanOptions::default(),
            )
        };
        let immutable = || Trial::Immutable { why: "`spec`: field is immutable".into() };
        let done = json!({"conditions": [{"type": "Complete", "status": "True"}]});
        let failed = json!({"conditions": [{"type": "Failed", "status": "True"}]});
        let changed = job(done.clone(), immutable()).unwrap();
        assert!(changed.change[0].recreate.is_some());
        assert_eq!(changed.change[0].fields[0].to_string(), "spec.a: 1 -> 2");
        let error = job(json!({"active": 1}), immutable()).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Failed);
        assert!(
            error.to_string().contains("Job shop/j (shop.yaml:1): `spec`: field is immutable"),
            "{error}"
        );
        let same = || ok(json!({"spec": {"a": 1}}));
        assert!(job(failed, same()).unwrap().change[0].recreate.is_some());
        assert_eq!(job(done, same()).unwrap().unchanged.len(), 1);
    }

    #[test]
    fn what_belongs_to_others_is_refused() {
        let live = json!({"metadata": {"labels": {PART_OF: "applyset-other-v1"}}});
        let observed = observed(id("v1", "ConfigMap", "a"), Some(live.clone()), ok(live));
        let error = plan(&seen(vec![observed], &[]), PlanOptions::default()).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Refused);
        assert!(error.to_string().contains("`applyset-other-v1`"), "{error}");
    }

    #[test]
    fn every_refusal_is_told() {
        let refused = |name: &str| {
            let trial = Trial::Refused { why: "no".into(), forbidden: true };
            observed(id("v1", "ConfigMap", name), None, trial)
        };
        let error = plan(&seen(vec![refused("a"), refused("b")], &[]), PlanOptions::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the API server would refuse 2 objects of the release; nothing was changed:\n  \
             ConfigMap shop/a (shop.yaml:1): no\n  ConfigMap shop/b (shop.yaml:1): no"
        );
        assert!(error.hint().is_some());
    }
}
