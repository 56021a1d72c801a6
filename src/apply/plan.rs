//! From what the cluster holds and says to what will be done: pure.

use std::collections::BTreeSet;

use serde_json::Value;

use super::admission::{can_only_refuse, is_quota};
use super::consent::{self, Cure, Pruning};
use super::diff::{differences, differences_of_named};
use super::inventory::{PART_OF, apply_set_id};
use super::members::Member;
use super::observe::{Observation, Observed, Trial, key};
use super::order::kept;
use super::waves::backwards;
use super::{ApplyError, ObjectFailure};
use crate::model::plan::{
    FORMAT, KeptObject, Plan, PlanTarget, PlannedChange, PlannedCreate, RunningRelease, Stage, TakenOver,
    WithdrawnObject,
};

/// What the planner may do beyond the usual.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlanOptions {
    /// Delete namespaces, volume claims and definitions that left the release too, with all
    /// that goes with them.
    pub prune_everything: bool,
    /// The work leads back to a release that ran here: what was done on the way from it is undone
    /// without asking again, be it by deleting an object and creating it anew or by taking fields
    /// over.
    pub going_back: bool,
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
        left: Vec::new(),
        withdraw: Vec::new(),
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
        if let Some(failure) = plan_object(&mut plan, observed, &own, options) {
            failures.push(failure);
        }
    }
    failures.extend(plan_withdrawing(&mut plan, seen, options));
    if !failures.is_empty() {
        return Err(ApplyError::DryRun { failures });
    }
    plan_pruning(&mut plan, seen, options);
    for step in seen.objects.chunk_by(|a, b| a.desired.place.step() == b.desired.place.step()) {
        let place = step[0].desired.place;
        plan.stages.push(Stage {
            number: place.stage,
            wave: place.wave_name(),
            level: place.level,
            title: place.title(),
            objects: step.iter().map(|observed| observed.desired.id.clone()).collect(),
        });
    }
    Ok(plan)
}

/// What is done about one object; or why it is refused.
fn plan_object(
    plan: &mut Plan,
    observed: &Observed,
    own: &str,
    options: PlanOptions,
) -> Option<ObjectFailure> {
    let desired = &observed.desired;
    let (object, origin) = (desired.id.clone(), desired.origin.clone());
    let refuse = |why: String, forbidden, cure| {
        Some(ObjectFailure { id: object.clone(), origin: origin.clone(), why, forbidden, cure })
    };
    let allows = |cure: Cure| options.going_back || cure.is_allowed(&desired.value, observed.live.as_ref());
    let mut change = PlannedChange {
        object: object.clone(),
        origin: origin.clone(),
        fields: Vec::new(),
        more_fields: 0,
        taken_over: Vec::new(),
        recreate: None,
        leaving_versions: Vec::new(),
        unchecked: None,
    };
    match (&observed.trial, &observed.live) {
        (Trial::Refused { why, forbidden }, _) => return refuse(why.clone(), *forbidden, None),
        (Trial::Result { .. }, None) => plan.create.push(PlannedCreate { object, origin, unchecked: None }),
        (Trial::Unchecked { why }, None) => {
            plan.create.push(PlannedCreate { object, origin, unchecked: Some(why.clone()) });
        }
        (Trial::Immutable { why }, None) => return refuse(why.clone(), false, None),
        (Trial::Stored { .. } | Trial::Leaving { .. }, None) => {}
        (Trial::Result { value, taken }, Some(live)) => {
            if let Some(why) = foreign(live, own, taken)
                && !allows(Cure::TakeOver)
            {
                return refuse(why, false, Some(Cure::TakeOver));
            }
            (change.fields, change.more_fields) = differences(live, value);
            change.taken_over.clone_from(taken);
            change.recreate = run_again(&object, live);
            if let Some(failed) = &change.recreate
                && !allows(Cure::Recreate)
            {
                return refuse(format!("{failed}, and stands in the way"), false, Some(Cure::Recreate));
            }
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
        (Trial::Stored { versions }, Some(live)) => {
            (change.fields, change.more_fields) = differences_of_named(live, &desired.value);
            change.leaving_versions.clone_from(versions);
            plan.change.push(change);
        }
        (Trial::Leaving { since, held: Some(held) }, Some(_)) => {
            let why = format!("is being deleted since {since}, held up by the finalizers {held}");
            return refuse(why, false, None);
        }
        (Trial::Leaving { since, held: None }, Some(_)) => {
            change.recreate = Some(format!("is being deleted since {since}"));
            plan.change.push(change);
        }
        (Trial::Immutable { why }, Some(live)) => {
            let running =
                if is_job(&object) && !is_finished(live) { "; the Job has not finished" } else { "" };
            if options.going_back && consent::is_irreplaceable(&object) {
                let reason = format!("it cannot be changed back: {why}");
                plan.left.push(KeptObject { object, reason });
                return None;
            }
            if let Some(never) = never_recreated(&object, live, &desired.value) {
                return refuse(format!("{why}; {never}"), false, None);
            }
            if !allows(Cure::Recreate) {
                return refuse(format!("{why}{running}"), false, Some(Cure::Recreate));
            }
            (change.fields, change.more_fields) = differences_of_named(live, &desired.value);
            change.recreate = Some(format!("{why}{running}{}", what_survives(&object, live, &desired.value)));
            plan.change.push(change);
        }
    }
    None
}

/// Why an object is never deleted to be created again, whatever an annotation says.
fn never_recreated(object: &crate::model::ObjectId, live: &Value, desired: &Value) -> Option<String> {
    if consent::is_irreplaceable(object) {
        return Some(format!(
            "a {} is never deleted to be created again, since data would go with it: give it another name",
            object.kind
        ));
    }
    let deletes_claims = live["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Delete";
    (is_stateful_set(object) && deletes_claims && selector_differs(live, desired)).then(|| {
        "its claims would be deleted with it: set `persistentVolumeClaimRetentionPolicy.whenDeleted` to \
         `Retain` first"
            .to_owned()
    })
}

/// What is left of an object when it is deleted to be created again, where that is worth a word.
fn what_survives(object: &crate::model::ObjectId, live: &Value, desired: &Value) -> &'static str {
    if !is_stateful_set(object) {
        ""
    } else if selector_differs(live, desired) {
        "; its pods end first, its claims stay as they are"
    } else {
        "; its pods run on and its claims stay as they are, only new ones follow the new templates"
    }
}

pub(super) fn is_stateful_set(object: &crate::model::ObjectId) -> bool {
    object.kind == "StatefulSet" && object.group() == "apps"
}

/// Whether the pods of the live object would be none of the new one.
pub(super) fn selector_differs(live: &Value, desired: &Value) -> bool {
    live["spec"]["selector"] != desired["spec"]["selector"]
}

/// Who else manages fields that the release would set otherwise: everybody, where the object was
/// never the release's own; where it is, those that apply it themselves. What was edited by hand
/// or by a controller since is drift, and is taken back.
pub(super) fn foreign(live: &Value, own: &str, taken: &[TakenOver]) -> Option<String> {
    let is_own = live["metadata"]["labels"][PART_OF] == own;
    let others: Vec<String> = taken
        .iter()
        .filter(|taken| !is_own || consent::is_applier(live, &taken.manager))
        .map(|taken| format!("`{}` of `{}`", taken.field, taken.manager))
        .collect();
    if others.is_empty() {
        return None;
    }
    let more = if others.len() > 5 { format!(", and {} more", others.len() - 5) } else { String::new() };
    let named = others.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
    Some(format!("another manager owns fields that the release sets otherwise: {named}{more}"))
}

/// Decides about admission of the set that stands in the way; answers with what may not be
/// withdrawn.
fn plan_withdrawing(plan: &mut Plan, seen: &Observation, options: PlanOptions) -> Vec<ObjectFailure> {
    let mut failures = Vec::new();
    for blocker in &seen.blockers {
        let in_release = seen.objects.iter().find(|observed| key(&observed.desired.id) == key(&blocker.id));
        let after = match in_release {
            None => "the release does not have it",
            // It is put right before what it counts comes.
            Some(_) if is_quota(&blocker.id) => continue,
            Some(_) if options.going_back => "it comes back with the last stage",
            Some(observed) if Cure::Recreate.is_allowed(&observed.desired.value, Some(&blocker.live)) => {
                "it comes back with the last stage"
            }
            Some(observed) => {
                failures.push(ObjectFailure {
                    id: blocker.id.clone(),
                    origin: observed.desired.origin.clone(),
                    why: format!("stands in the way of the release's own objects: {}", blocker.why),
                    forbidden: false,
                    cure: Some(Cure::Recreate),
                });
                continue;
            }
        };
        let reason = format!("{after}, and it stands in the way: {}", blocker.why);
        plan.withdraw.push(WithdrawnObject { object: blocker.id.clone(), reason });
    }
    if options.going_back {
        let wanted: BTreeSet<_> = seen.objects.iter().map(|observed| key(&observed.desired.id)).collect();
        for id in seen.members.iter().map(|member| &member.id) {
            let is_known = plan.withdraw.iter().any(|withdrawn| key(&withdrawn.object) == key(id));
            if can_only_refuse(id) && !wanted.contains(&key(id)) && !is_known {
                let reason = "the release does not have it, and it could bar the way back".to_owned();
                plan.withdraw.push(WithdrawnObject { object: id.clone(), reason });
            }
        }
    }
    failures
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
        return Some("the Job failed".into());
    }
    let is_pod = object.kind == "Pod" && object.group().is_empty();
    (is_pod && live["status"]["phase"] == "Failed").then(|| "the Pod failed".into())
}

fn plan_pruning(plan: &mut Plan, seen: &Observation, options: PlanOptions) {
    let wanted: BTreeSet<_> = seen.objects.iter().map(|observed| key(&observed.desired.id)).collect();
    let idle: BTreeSet<_> = seen.idle.iter().map(key).collect();
    let withdrawn: BTreeSet<_> = plan.withdraw.iter().map(|withdrawn| withdrawn.object.clone()).collect();
    let is_left = |member: &&Member| !wanted.contains(&key(&member.id)) && !withdrawn.contains(&member.id);
    let left: Vec<_> = seen.members.iter().filter(is_left).collect();
    // Against the order of work: what depends on others goes before them.
    for member in backwards(&left).into_iter().flatten() {
        if idle.contains(&key(&member.id)) {
            let reason = "a hook that has nothing to do this time".to_owned();
            plan.kept.push(KeptObject { object: member.id.clone(), reason });
            continue;
        }
        let rule = kept(member.id.group(), &member.id.kind);
        let reason = match (consent::pruning(&member.value), rule) {
            (Pruning::Never, _) => Some("an annotation on it says that it stays"),
            (Pruning::Allowed, _) => None,
            (Pruning::Usual, rule) => rule.filter(|_| !options.prune_everything),
        };
        match reason {
            Some(reason) => {
                plan.kept.push(KeptObject { object: member.id.clone(), reason: reason.to_owned() });
            }
            None => plan.prune.push(member.id.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::discovery::Resource;
    use super::super::inventory::Parent;
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
            idle: vec![],
            warnings: vec![],
            blockers: vec![],
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

    const BACK: PlanOptions = PlanOptions { prune_everything: false, going_back: true };

    /// Plans for one object whose manifest has `annotation`, and whose live form is `live`.
    fn of_one(
        id: ObjectId,
        annotation: Option<&str>,
        live: &Value,
        trial: Trial,
        options: PlanOptions,
    ) -> Result<Plan, ApplyError> {
        let mut one = observed(id, Some(live.clone()), trial);
        if let Some(key) = annotation {
            one.desired.value["metadata"] = json!({"annotations": {key: "allowed"}});
        }
        plan(&seen(vec![one], &[]), options)
    }

    #[test]
    fn what_cannot_be_changed_is_refused_unless_an_annotation_or_the_way_back_allows_it() {
        let immutable = || Trial::Immutable { why: "`spec.selector`: field is immutable".into() };
        let web = || id("apps/v1", "Deployment", "web");
        let live = json!({"spec": {"a": 1}});
        let error = of_one(web(), None, &live, immutable(), PlanOptions::default()).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Failed);
        assert_eq!(
            error.to_string(),
            "the API server would refuse 1 object of the release; nothing was changed:\n  \
             Deployment shop/web (shop.yaml:1): `spec.selector`: field is immutable; \
             `fleetpack.dev/recreate: allowed` on it allows to delete it and create it again"
        );
        let hint = error.hint().unwrap();
        assert!(
            hint.ends_with("kubectl annotate -n shop deployment.apps web fleetpack.dev/recreate=allowed"),
            "{hint}"
        );
        for (annotation, options) in [(Some("fleetpack.dev/recreate"), PlanOptions::default()), (None, BACK)]
        {
            let plan = of_one(web(), annotation, &live, immutable(), options).unwrap();
            assert!(plan.change[0].recreate.is_some());
            assert_eq!(plan.change[0].fields[0].to_string(), "spec.a: 1 -> 2");
        }
        // Claims and their like are not to be had back: refused, or left as they are on the way back.
        let claim = || id("v1", "PersistentVolumeClaim", "data");
        let allowed = Some("fleetpack.dev/recreate");
        let error = of_one(claim(), allowed, &live, immutable(), PlanOptions::default()).unwrap_err();
        assert!(error.to_string().contains("is never deleted to be created again"), "{error}");
        let plan = of_one(claim(), None, &live, immutable(), BACK).unwrap();
        assert_eq!(plan.left[0].object, claim());
        assert!(plan.change.is_empty());
    }

    #[test]
    fn what_survives_a_stateful_set_is_told() {
        let immutable = || Trial::Immutable { why: "x".into() };
        let db = || id("apps/v1", "StatefulSet", "db");
        let told = |live: Value| {
            let plan = of_one(db(), None, &live, immutable(), BACK)?;
            Ok::<_, ApplyError>(plan.change[0].recreate.clone().unwrap())
        };
        assert!(told(json!({"spec": {}})).unwrap().contains("its pods run on and its claims stay"));
        let other = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}});
        assert!(told(other.clone()).unwrap().contains("its pods end first, its claims stay"));
        let mut deletes = other;
        deletes["spec"]["persistentVolumeClaimRetentionPolicy"] = json!({"whenDeleted": "Delete"});
        assert!(told(deletes).unwrap_err().to_string().contains("`Retain` first"));
    }

    #[test]
    fn failed_and_running_jobs_are_told() {
        let job = |status: Value, trial, options| {
            of_one(
                id("batch/v1", "Job", "j"),
                None,
                &json!({"spec": {"a": 1}, "status": status}),
                trial,
                options,
            )
        };
        let immutable = || Trial::Immutable { why: "`spec`: field is immutable".into() };
        let done = json!({"conditions": [{"type": "Complete", "status": "True"}]});
        let failed = json!({"conditions": [{"type": "Failed", "status": "True"}]});
        let error = job(json!({"active": 1}), immutable(), PlanOptions::default()).unwrap_err();
        let text = "Job shop/j (shop.yaml:1): `spec`: field is immutable; the Job has not finished; \
                    `fleetpack.dev/recreate: allowed` on it allows";
        assert!(error.to_string().contains(text), "{error}");
        let same = || ok(json!({"spec": {"a": 1}}));
        let error = job(failed.clone(), same(), PlanOptions::default()).unwrap_err();
        assert!(error.to_string().contains("the Job failed, and stands in the way; `fleetpack.dev/recreate"));
        assert!(job(failed, same(), BACK).unwrap().change[0].recreate.is_some());
        assert_eq!(job(done, same(), PlanOptions::default()).unwrap().unchanged.len(), 1);
    }

    #[test]
    fn other_appliers_are_refused_and_drift_is_taken_back() {
        let own = apply_set_id(&"shop".parse().unwrap());
        let live = |label: Option<&str>, operation: &str| {
            json!({"spec": {"a": 1}, "metadata": {"labels": {PART_OF: label},
                "managedFields": [{"manager": "other", "operation": operation}]}})
        };
        let trial = || {
            let taken = TakenOver { manager: "other".into(), field: ".spec.a".into() };
            Trial::Result { value: json!({"spec": {"a": 2}}), taken: vec![taken] }
        };
        let plan_for = |live: &Value, annotation, options| {
            of_one(id("v1", "ConfigMap", "a"), annotation, live, trial(), options)
        };
        let usual = PlanOptions::default();
        assert!(plan_for(&live(Some(&own), "Update"), None, usual).is_ok(), "edited by hand");
        for live in [live(Some(&own), "Apply"), live(None, "Update")] {
            let error = plan_for(&live, None, usual).unwrap_err();
            assert!(
                error.to_string().contains(
                    "another manager owns fields that the release sets otherwise: `.spec.a` of `other`; \
                     `fleetpack.dev/take-over: allowed` on it allows to take the fields over"
                ),
                "{error}"
            );
            assert_eq!(plan_for(&live, Some("fleetpack.dev/take-over"), usual).unwrap().change.len(), 1);
            assert!(plan_for(&live, None, BACK).is_ok());
        }
    }

    #[test]
    fn deletion_under_way_is_waited_out_unless_a_finalizer_holds_it() {
        let leaving =
            |held: Option<&str>| Trial::Leaving { since: "now".into(), held: held.map(str::to_owned) };
        let web = || id("apps/v1", "Deployment", "web");
        let plan = of_one(web(), None, &json!({}), leaving(None), PlanOptions::default()).unwrap();
        assert_eq!(plan.change[0].recreate.as_deref(), Some("is being deleted since now"));
        let error = of_one(web(), None, &json!({}), leaving(Some("[\"x\"]")), BACK).unwrap_err();
        assert!(error.to_string().contains("held up by the finalizers [\"x\"]"), "{error}");
    }

    #[test]
    fn annotations_decide_what_is_pruned() {
        let mut seen = seen(
            vec![observed(id("v1", "ConfigMap", "a"), None, ok(json!({})))],
            &[id("v1", "PersistentVolumeClaim", "data"), id("v1", "Secret", "key")],
        );
        for (member, word) in seen.members.iter_mut().zip(["allowed", "never"]) {
            member.value = json!({"metadata": {"annotations": {"fleetpack.dev/prune": word}}});
        }
        let plan = plan(&seen, PlanOptions::default()).unwrap();
        assert_eq!(plan.prune[0].to_string(), "PersistentVolumeClaim shop/data");
        assert_eq!(plan.kept[0].object.to_string(), "Secret shop/key");
    }

    #[test]
    fn what_can_only_refuse_goes_first_on_the_way_back() {
        let members = [id("v1", "ResourceQuota", "small"), id("v1", "Secret", "key")];
        let seen = seen(vec![observed(id("v1", "ConfigMap", "a"), None, ok(json!({})))], &members);
        let back = plan(&seen, BACK).unwrap();
        assert_eq!(back.withdraw[0].object, members[0]);
        assert_eq!(back.prune, [members[1].clone()]);
        let usual = plan(&seen, PlanOptions::default()).unwrap();
        assert_eq!((usual.withdraw.len(), usual.prune.len()), (0, 2));
    }

    #[test]
    fn own_admission_in_the_way_is_withdrawn_where_it_may_be() {
        let hook = || ObjectId {
            namespace: None,
            ..id("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "w")
        };
        let with = |objects: Vec<Observed>| {
            let mut seen = seen(objects, &[]);
            seen.blockers.push(super::super::admission::Blocker {
                id: hook(),
                live: json!({}),
                why: "it is down".into(),
                probe: super::super::client::Call::get("/"),
            });
            seen
        };
        let other = || observed(id("v1", "ConfigMap", "a"), None, ok(json!({})));
        let mine = || observed(hook(), Some(json!({})), ok(json!({})));
        let usual = PlanOptions::default();
        let leaves = plan(&with(vec![other()]), usual).unwrap();
        assert_eq!(
            leaves.withdraw[0].reason,
            "the release does not have it, and it stands in the way: it is down"
        );
        let error = plan(&with(vec![other(), mine()]), usual).unwrap_err();
        assert!(
            error.to_string().contains("stands in the way of the release's own objects: it is down"),
            "{error}"
        );
        assert_eq!(plan(&with(vec![other(), mine()]), BACK).unwrap().withdraw.len(), 1);
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
