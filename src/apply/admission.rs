//! Admission that stands in a release's own way: a webhook or policy that an earlier release
//! brought, and that refuses, or cannot be asked about, the objects of the one that comes.
//!
//! What belongs to others is never touched: their refusals are refusals. What is a member of the
//! release's own set can be withdrawn for as long as the work takes, where it goes anyway, where
//! the work leads back, or where an annotation on it allows it (`fleetpack.dev/recreate`): the
//! last stage puts back what the release has.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::client::{Call, CallError, encode};
use super::discovery::Resource;
use super::execute::delete;
use super::inventory::PART_OF;
use super::members::{Depth, list};
use super::observe::{Observation, key};
use super::{ApplyError, Cluster};
use crate::model::plan::Plan;
use crate::model::{ObjectId, Progress};

const GROUP: &str = "admissionregistration.k8s.io";
const QUOTA: &str = "ResourceQuota";
/// How long one question about admission is asked again.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long the API server may take to notice that admission was withdrawn.
const NOTICED: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(250);

/// An admission object of the release's own set, and what it did.
#[derive(Debug, Clone)]
pub(super) struct Blocker {
    pub(super) id: ObjectId,
    pub(super) live: Value,
    /// What the server says of it.
    pub(super) why: String,
    /// A dry run that it refuses: when this passes, it is out of the way.
    pub(super) probe: Call,
}

/// Who refused, as the server's message names it.
#[derive(Debug, PartialEq, Eq)]
enum Refuser<'a> {
    Quota(&'a str),
    Webhook(&'a str),
    Policy { policy: &'a str, binding: &'a str },
}

fn refuser(message: &str) -> Option<Refuser<'_>> {
    let between = |before: &str, end: char| {
        let rest = &message[message.find(before)? + before.len()..];
        rest.find(end).map(|at| &rest[..at])
    };
    if let Some(name) = between("exceeded quota: ", ',') {
        return Some(Refuser::Quota(name));
    }
    let webhook = between("failed calling webhook \"", '"').or_else(|| between("admission webhook \"", '"'));
    if let Some(name) = webhook {
        return Some(Refuser::Webhook(name));
    }
    let policy = between("ValidatingAdmissionPolicy '", '\'')?;
    Some(Refuser::Policy { policy, binding: between("with binding '", '\'')? })
}

/// Whether an admission webhook could not be asked, rather than having said no.
pub(super) fn is_unasked(error: &CallError) -> bool {
    error.code() == 500 && error.text().contains("failed calling webhook")
}

/// The admission object of the set behind a refusal, if there is one.
pub(super) async fn blocker(
    cluster: &Cluster,
    set: &str,
    namespace: Option<&str>,
    error: &CallError,
    probe: &Call,
) -> Option<Blocker> {
    let why = error.text();
    let (id, live) = match refuser(&why)? {
        Refuser::Quota(name) => own_quota(cluster, set, namespace?, name).await?,
        Refuser::Webhook(name) => own_webhook(cluster, set, name).await?,
        Refuser::Policy { policy, binding } => {
            match own_object(cluster, set, "ValidatingAdmissionPolicyBinding", binding).await {
                Some(found) => found,
                None => own_object(cluster, set, "ValidatingAdmissionPolicy", policy).await?,
            }
        }
    };
    Some(Blocker { id, live, why, probe: probe.clone() })
}

async fn own_webhook(cluster: &Cluster, set: &str, name: &str) -> Option<(ObjectId, Value)> {
    for kind in ["ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"] {
        let selector = format!("{PART_OF}={set}");
        let listed = list(cluster, &resource(kind), None, &selector, Depth::Whole, PATIENCE).await;
        let found = listed.unwrap_or_default().into_iter().find(|object| {
            object["webhooks"].as_array().into_iter().flatten().any(|webhook| webhook["name"] == name)
        });
        if let Some(live) = found {
            return Some((id(kind, live["metadata"]["name"].as_str()?), live));
        }
    }
    None
}

async fn own_object(cluster: &Cluster, set: &str, kind: &str, name: &str) -> Option<(ObjectId, Value)> {
    let live = cluster.call(&Call::get(path(kind, name)), PATIENCE).await.ok()?.value;
    (live["metadata"]["labels"][PART_OF] == set).then(|| (id(kind, name), live))
}

async fn own_quota(cluster: &Cluster, set: &str, namespace: &str, name: &str) -> Option<(ObjectId, Value)> {
    let path = format!("/api/v1/namespaces/{}/resourcequotas/{}", encode(namespace), encode(name));
    let live = cluster.call(&Call::get(path), PATIENCE).await.ok()?.value;
    let id = ObjectId {
        api_version: "v1".into(),
        kind: QUOTA.into(),
        namespace: Some(namespace.into()),
        name: name.into(),
    };
    (live["metadata"]["labels"][PART_OF] == set).then_some((id, live))
}

/// Whether it is a quota: those come before what they count, so one that the release has needs no
/// withdrawing.
pub(super) fn is_quota(id: &ObjectId) -> bool {
    id.kind == QUOTA && id.group().is_empty()
}

/// Whether objects of the kind can only refuse others: what a release brought of them and the one
/// before does not have goes first on the way back, since pods that controllers make meet them
/// too, which no dry run shows.
pub(super) fn can_only_refuse(id: &ObjectId) -> bool {
    is_quota(id) || (id.kind == "LimitRange" && id.group().is_empty()) || id.group() == GROUP
}

fn id(kind: &str, name: &str) -> ObjectId {
    ObjectId { api_version: format!("{GROUP}/v1"), kind: kind.into(), namespace: None, name: name.into() }
}

fn resource(kind: &str) -> Resource {
    let lower = kind.to_lowercase();
    let plural = lower.strip_suffix('y').map_or(format!("{lower}s"), |stem| format!("{stem}ies"));
    Resource {
        group: GROUP.into(),
        version: "v1".into(),
        kind: kind.into(),
        plural,
        namespaced: false,
        applicable: true,
    }
}

fn path(kind: &str, name: &str) -> String {
    format!("/apis/{GROUP}/v1/{}/{}", resource(kind).plural, encode(name))
}

/// Deletes the admission objects that the plan withdraws, and waits until the API server has
/// noticed. They are members of the set, so nothing is lost by a cut: whoever works next finds
/// them gone, and the release that has them brings them back.
pub(super) async fn withdraw(
    cluster: &Cluster,
    seen: &Observation,
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<(), ApplyError> {
    for withdrawn in &plan.withdraw {
        let id = &withdrawn.object;
        let blocker = seen.blockers.iter().find(|blocker| blocker.id == *id);
        let member = seen.members.iter().find(|member| key(&member.id) == key(id));
        let uid = blocker.map_or_else(
            || member.map(|member| member.uid.as_str()),
            |blocker| blocker.live["metadata"]["uid"].as_str(),
        );
        let place = match (&id.namespace, member) {
            (_, Some(member)) => member.resource.path(id.namespace.as_deref(), Some(&id.name)),
            (Some(_), None) => continue,
            (None, None) => path(&id.kind, &id.name),
        };
        let deleted = delete(cluster, &place, uid.unwrap_or_default(), "Background").await;
        deleted.map_err(|error| cluster.explain(&format!("withdraw {id}"), error))?;
        progress.note(format!("withdrew {id}: {}", withdrawn.reason));
    }
    let gone = |blocker: &&Blocker| plan.withdraw.iter().any(|withdrawn| withdrawn.object == blocker.id);
    for blocker in seen.blockers.iter().filter(gone) {
        let deadline = Instant::now() + NOTICED;
        let is_its = |error: &CallError| refuser(&error.text()) == refuser(&blocker.why);
        while let Err(error) = cluster.call(&blocker.probe, Duration::ZERO).await {
            if !is_its(&error) || Instant::now() >= deadline {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_refused_is_read_from_the_message() {
        let down = "Internal error occurred: failed calling webhook \"deny.shop.example\": failed to call \
                    webhook: Post \"https://127.0.0.1:1/\": dial tcp: connection refused";
        assert_eq!(refuser(down), Some(Refuser::Webhook("deny.shop.example")));
        let denied = "admission webhook \"deny.shop.example\" denied the request: no";
        assert_eq!(refuser(denied), Some(Refuser::Webhook("deny.shop.example")));
        let policy =
            "configmaps \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: x";
        assert_eq!(refuser(policy), Some(Refuser::Policy { policy: "p", binding: "b" }));
        assert_eq!(
            refuser("pods \"p\" is forbidden: exceeded quota: small, requested: pods=1"),
            Some(Refuser::Quota("small"))
        );
        for other in ["exceeded quota: q", "failed calling webhook \"x", ""] {
            assert_eq!(refuser(other), None);
        }
    }

    #[test]
    fn paths_are_those_of_the_api() {
        let of = |kind| path(kind, "n");
        assert_eq!(
            of("ValidatingAdmissionPolicy"),
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/n"
        );
        assert_eq!(
            of("MutatingWebhookConfiguration"),
            "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/n"
        );
    }
}
