//! One object, tried on the server: what is there, and what it would say. Changes nothing.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::admission::{Blocker, blocker, is_unasked};
use super::client::{Call, CallError, shorten};
use super::discovery::is_definition;
use super::inventory::PART_OF;
use super::observe::{Desired, Observed, Trial, Wanted};
use super::{ApplyError, Cluster, consent, migrate};
use crate::model::plan::TakenOver;

/// How long one call is tried again: a restart of the API server fits.
const PATIENCE: Duration = Duration::from_mins(1);
/// The same once an admission webhook has not answered another object for as long as that.
const NO_PATIENCE: Duration = Duration::ZERO;
/// How long a webhook that does not answer is asked again.
const WEBHOOK: Duration = Duration::from_secs(5);

/// What decides how an object can be tried.
pub(super) struct Context<'a> {
    pub(super) cluster: &'a Cluster,
    /// Namespaces that the release creates.
    pub(super) new_namespaces: &'a BTreeSet<String>,
    /// Kinds whose definition the release changes, as (group, kind).
    pub(super) changing: &'a BTreeSet<(String, String)>,
    /// Objects of the release that the server wants to see before a bare pod, as (kind, name).
    pub(super) made: &'a BTreeSet<(String, String)>,
    /// What the tries found out together.
    pub(super) found: &'a Found,
}

/// What the tries of one release find out together.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Whether an admission webhook does not answer: asking again was no use.
    unasked: AtomicBool,
    /// Admission of the release's own set that stands in the way.
    blockers: Mutex<Vec<Blocker>>,
}

impl Found {
    /// The admission objects that were found, which are handed over.
    pub(super) fn blockers(&self) -> Vec<Blocker> {
        std::mem::take(&mut self.blockers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes note of a refusal; answers with the admission object of the set that is behind it.
    pub(super) async fn note(
        &self,
        cluster: &Cluster,
        set: &str,
        namespace: Option<&str>,
        error: &CallError,
        probe: &Call,
    ) -> Option<String> {
        if is_unasked(error) {
            self.unasked.store(true, Ordering::Relaxed);
        }
        let blocker = blocker(cluster, set, namespace, error, probe).await?;
        let why = format!("{} of this line of releases stands in the way", blocker.id);
        let mut blockers = self.blockers.lock().unwrap_or_else(PoisonError::into_inner);
        if !blockers.iter().any(|known| known.id == blocker.id) {
            blockers.push(blocker);
        }
        Some(why)
    }

    /// How long to ask for an object whose admission may hang on a webhook.
    fn patience(&self) -> Duration {
        if self.unasked.load(Ordering::Relaxed) { NO_PATIENCE } else { WEBHOOK }
    }
}

impl Context<'_> {
    /// Reads an object and tries it.
    pub(super) async fn look(
        &self,
        (desired, is_served): Wanted,
    ) -> Result<(Observed, Vec<String>), ApplyError> {
        let unchecked = |desired: Desired, why: String| {
            Ok((Observed { desired, live: None, trial: Trial::Unchecked { why } }, Vec::new()))
        };
        if let Err(why) = consent::check(&desired.value) {
            return Ok((Observed { desired, live: None, trial: Trial::refused(why) }, Vec::new()));
        }
        if !is_served {
            return unchecked(desired, "its kind comes with a definition of this release".into());
        }
        if let Some(namespace) = &desired.id.namespace
            && self.new_namespaces.contains(namespace)
        {
            let why = format!("this release creates the namespace `{namespace}`");
            return unchecked(desired, why);
        }
        let live = match self.cluster.call(&Call::get(desired.path()), PATIENCE).await {
            Ok(answer) => Some(answer.value),
            Err(error) if error.is_not_found() => None,
            Err(error) if error.code() == 403 => {
                let trial = Trial::Refused { why: error.text(), forbidden: true };
                return Ok((Observed { desired, live: None, trial }, Vec::new()));
            }
            Err(error) => return Err(self.cluster.explain(&format!("read {}", desired.id), error)),
        };
        if let Some(value) = &live
            && let Some(since) = value["metadata"]["deletionTimestamp"].as_str()
        {
            let trial = Trial::Leaving { since: shorten(since), held: held_up(value) };
            return Ok((Observed { desired, live, trial }, Vec::new()));
        }
        let (trial, warnings) = self.dry_run(&desired, live.as_ref()).await?;
        Ok((Observed { desired, live, trial }, warnings))
    }

    async fn dry_run(
        &self,
        desired: &Desired,
        live: Option<&Value>,
    ) -> Result<(Trial, Vec<String>), ApplyError> {
        let call = |force| Call::apply(desired.path(), &desired.value, force, true);
        let is_there = live.is_some();
        let mut taken = Vec::new();
        let mut result = self.ask(&call(false)).await;
        if let Err(error) = &result {
            taken = error.field_conflicts().into_iter().map(taken_over).collect();
            if !taken.is_empty() {
                result = self.ask(&call(true)).await;
            }
        }
        let error = match result {
            Ok(answer) => return Ok((Trial::Result { value: answer.value, taken }, answer.warnings)),
            Err(error) => error,
        };
        let CallError::Status(status) = &error else {
            return Err(self.cluster.explain(&format!("try {}", desired.id), error));
        };
        let set = desired.value["metadata"]["labels"][PART_OF].as_str().unwrap_or_default();
        let namespace = desired.id.namespace.as_deref();
        if let Some(why) = self.found.note(self.cluster, set, namespace, &error, &call(true)).await {
            return Ok((Trial::Unchecked { why }, Vec::new()));
        }
        let why = error.text();
        let kind = (desired.id.group().to_owned(), desired.id.kind.clone());
        let trial = match status.code {
            401 => return Err(self.cluster.explain(&format!("try {}", desired.id), error)),
            // The server says so in words alone.
            400 if why.contains("does not support dry run") => {
                Trial::Unchecked { why: "an admission webhook does not support dry runs".into() }
            }
            _ if self.waits_for_others(desired) && !is_there => {
                Trial::Unchecked { why: "it names objects that this release creates".into() }
            }
            403 => Trial::Refused { forbidden: is_missing_right(&why), why },
            _ if is_definition(&desired.id) && migrate::is_stored_elsewhere(&error) => {
                let versions = live.map(|live| migrate::leaving(live, &desired.value));
                Trial::Stored { versions: versions.unwrap_or_default() }
            }
            _ if self.changing.contains(&kind) => {
                Trial::Unchecked { why: "this release changes the definition of its kind".into() }
            }
            422 if is_there && is_immutable(status) => Trial::Immutable { why: immutable_fields(status) },
            _ => Trial::refused(why),
        };
        Ok((trial, Vec::new()))
    }

    /// Asks the server. Where a webhook does not answer, the others are not waited for as long.
    async fn ask(&self, call: &Call) -> Result<super::client::Answer, CallError> {
        match self.cluster.call_unless(call, PATIENCE, is_unasked).await {
            Err(error) if is_unasked(&error) => self.cluster.call(call, self.found.patience()).await,
            result => result,
        }
    }

    /// Whether a bare pod names objects that the release brings: the server checks them when the
    /// pod is made, and a dry run makes none of them.
    fn waits_for_others(&self, desired: &Desired) -> bool {
        let spec = &desired.value["spec"];
        let named = |kind: &str, name: &Value| {
            name.as_str().is_some_and(|name| self.made.contains(&(kind.to_owned(), name.to_owned())))
        };
        desired.id.kind == "Pod"
            && desired.id.group().is_empty()
            && (named("ServiceAccount", &spec["serviceAccountName"])
                || named("PriorityClass", &spec["priorityClassName"])
                || named("RuntimeClass", &spec["runtimeClassName"]))
    }
}

/// What holds up the deletion of an object, garbage collection of its own apart.
fn held_up(live: &Value) -> Option<String> {
    let finalizers = live["metadata"]["finalizers"].as_array()?;
    let foreign: Vec<_> =
        finalizers.iter().filter(|name| *name != "foregroundDeletion" && *name != "orphan").collect();
    (!foreign.is_empty()).then(|| shorten(&json!(foreign).to_string()))
}

/// Whether the caller lacks a right, rather than the object being one that admission refuses:
/// both are answered 403.
fn is_missing_right(why: &str) -> bool {
    why.contains(" cannot ") && why.contains(" resource ")
}

/// What a server says of fields that can never change.
const UNCHANGEABLE: [&str; 7] = [
    // A claim that was enlarged.
    "can not be less than",
    "is immutable",
    "may not be changed",
    "may not change once set",
    "cannot change roleref",
    "updates to",
    "pod updates may not change fields",
];

/// Whether the server refuses because fields can never change. The message is all there is to
/// know it by: the same code and reason stand for values that are wrong in themselves.
fn is_immutable(status: &kube::core::Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let mut causes = causes.filter(|cause| !cause.message.is_empty()).peekable();
    causes.peek().is_some()
        && causes.all(|cause| {
            // The value itself may stand before the sentence.
            let said = shorten(&cause.message).to_lowercase();
            UNCHANGEABLE.iter().any(|words| said.contains(words))
        })
}

/// The fields that can never change. Where the server repeats their whole value, it is left out.
fn immutable_fields(status: &kube::core::Status) -> String {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let fields = causes.take(5).map(|cause| {
        let sentence = ["field is immutable", "may not change once set", "cannot change roleRef"];
        let plain = sentence.into_iter().find(|sentence| cause.message.ends_with(sentence));
        let why = plain.map_or_else(|| shorten(&cause.message), str::to_owned);
        format!("`{}`: {why}", shorten(&cause.field))
    });
    fields.collect::<Vec<_>>().join("; ")
}

/// `conflict with "kubectl-edit" using apps/v1` to `kubectl-edit`.
fn taken_over((message, field): (String, String)) -> TakenOver {
    let manager = message.split('"').nth(1).unwrap_or(&message);
    TakenOver { manager: shorten(manager), field: shorten(&field) }
}

#[cfg(test)]
mod tests {
    use kube::core::response::{StatusCause, StatusDetails};

    use super::*;

    fn refused(causes: &[(&str, &str)]) -> kube::core::Status {
        let cause = |(reason, message): &(&str, &str)| StatusCause {
            reason: (*reason).into(),
            message: (*message).into(),
            field: "spec".into(),
        };
        kube::core::Status::failure("", "Invalid").with_code(422).with_details(StatusDetails {
            causes: causes.iter().map(cause).collect(),
            ..serde_json::from_value(json!({})).unwrap()
        })
    }

    #[test]
    fn what_can_never_change_is_told_from_what_is_wrong() {
        assert!(is_immutable(&refused(&[("FieldValueInvalid", "Invalid value: {}: field is immutable")])));
        let stateful =
            "Forbidden: updates to statefulset spec for fields other than 'replicas' are forbidden";
        assert!(is_immutable(&refused(&[("FieldValueForbidden", stateful)])));
        assert!(!is_immutable(&refused(&[
            ("FieldValueInvalid", "field is immutable"),
            ("FieldValueRequired", "Required value"),
        ])));
        assert!(!is_immutable(&refused(&[])));
        let address = "Invalid value: [\"10.96.0.9\"]: may not change once set";
        assert!(is_immutable(&refused(&[("FieldValueInvalid", address)])));
        assert_eq!(
            immutable_fields(&refused(&[("FieldValueInvalid", address)])),
            "`spec`: may not change once set"
        );
    }

    #[test]
    fn rights_are_told_from_admission() {
        assert!(is_missing_right(
            "secrets \"s\" is forbidden: User \"u\" cannot patch resource \"secrets\" in API group"
        ));
        assert!(!is_missing_right("pods \"p\" is forbidden: exceeded quota: small, requested: pods=1"));
    }

    #[test]
    fn what_holds_a_deletion_up_is_named() {
        let live = |finalizers: Value| json!({"metadata": {"finalizers": finalizers}});
        assert_eq!(held_up(&live(json!(["foregroundDeletion"]))), None);
        assert_eq!(held_up(&live(json!(["x.io/a", "orphan"]))).unwrap(), "[\"x.io/a\"]");
        assert_eq!(held_up(&json!({})), None);
    }
}
