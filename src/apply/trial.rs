//! One object, tried on the server: what is there, and what it would say. Changes nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::client::{Call, CallError, shorten};
use super::observe::{Desired, Observed, Trial, Wanted};
use super::{ApplyError, Cluster};
use crate::model::plan::TakenOver;

/// How long one call is tried again.
const PATIENCE: Duration = Duration::from_secs(15);

/// What decides how an object can be tried.
pub(super) struct Context<'a> {
    pub(super) cluster: &'a Cluster,
    /// Namespaces that the release creates.
    pub(super) new_namespaces: &'a BTreeSet<String>,
    /// Kinds whose definition the release changes, as (group, kind).
    pub(super) changing: &'a BTreeSet<(String, String)>,
    /// Objects of the release that the server wants to see before a bare pod, as (kind, name).
    pub(super) made: &'a BTreeSet<(String, String)>,
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
        if let Some(live) = &live
            && let Some(since) = live["metadata"]["deletionTimestamp"].as_str()
        {
            let held =
                live["metadata"]["finalizers"].as_array().map(|finalizers| json!(finalizers).to_string());
            let held =
                held.map_or(String::new(), |held| format!(", held up by the finalizers {}", shorten(&held)));
            let why = format!("is being deleted since {since}{held}");
            return Ok((
                Observed { desired, live: None, trial: Trial::Refused { why, forbidden: false } },
                Vec::new(),
            ));
        }
        let (trial, warnings) = self.dry_run(&desired, live.is_some()).await?;
        Ok((Observed { desired, live, trial }, warnings))
    }

    async fn dry_run(&self, desired: &Desired, is_there: bool) -> Result<(Trial, Vec<String>), ApplyError> {
        let call = |force| Call::apply(desired.path(), &desired.value, force, true);
        let mut taken = Vec::new();
        let mut result = self.cluster.call(&call(false), PATIENCE).await;
        if let Err(error) = &result {
            taken = error.field_conflicts().into_iter().map(taken_over).collect();
            if !taken.is_empty() {
                result = self.cluster.call(&call(true), PATIENCE).await;
            }
        }
        let error = match result {
            Ok(answer) => return Ok((Trial::Result { value: answer.value, taken }, answer.warnings)),
            Err(error) => error,
        };
        let CallError::Status(status) = &error else {
            return Err(self.cluster.explain(&format!("try {}", desired.id), error));
        };
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
            403 => Trial::Refused { why, forbidden: true },
            _ if self.changing.contains(&kind) => {
                Trial::Unchecked { why: "this release changes the definition of its kind".into() }
            }
            422 if is_there && is_immutable(status) => Trial::Immutable { why: immutable_fields(status) },
            _ => Trial::Refused { why, forbidden: false },
        };
        Ok((trial, Vec::new()))
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

/// Whether the server refuses because fields can never change. The message is all there is to
/// know it by: the same code and reason stand for values that are wrong in themselves.
fn is_immutable(status: &kube::core::Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let mut causes = causes.filter(|cause| !cause.message.is_empty()).peekable();
    causes.peek().is_some()
        && causes.all(|cause| {
            cause.message.ends_with("field is immutable")
                || (cause.reason == "FieldValueForbidden"
                    && (cause.message.contains("updates to") || cause.message.contains("may not be changed")))
        })
}

/// The fields that can never change. Where the server repeats their whole value, it is left out.
fn immutable_fields(status: &kube::core::Status) -> String {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let fields = causes.take(5).map(|cause| {
        let is_plain = cause.message.ends_with("field is immutable");
        let why = if is_plain { "field is immutable".to_owned() } else { shorten(&cause.message) };
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
    }
}
