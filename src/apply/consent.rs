//! What may be done to one object beyond the usual, as annotations on it say: pure.
//!
//! Consent stands in the release, where it was reviewed, or on the object in the cluster, where
//! whoever runs the site has put it by hand; what a release put there counts for that release
//! alone. Words that Argo CD, Flux and Helm have for the same are understood.

use serde_json::Value;

use super::FIELD_MANAGER;
use crate::model::ObjectId;

/// Annotation: the object may be deleted and created again where it cannot be changed in place,
/// and where it failed for good.
const RECREATE: &str = "fleetpack.dev/recreate";
/// Annotation: fields that another applier manages may be taken over.
const TAKE_OVER: &str = "fleetpack.dev/take-over";
/// Annotation: whether the object is deleted once it left the release.
const PRUNE: &str = "fleetpack.dev/prune";
const ALLOWED: &str = "allowed";
const NEVER: &str = "never";

/// What an annotation can allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cure {
    /// Deleting the object and creating it again: `fleetpack.dev/recreate: allowed`.
    Recreate,
    /// Taking fields over from another applier: `fleetpack.dev/take-over: allowed`.
    TakeOver,
}

impl Cure {
    /// The annotation's key; its value is `allowed`.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Recreate => RECREATE,
            Self::TakeOver => TAKE_OVER,
        }
    }

    /// `delete it and create it again`.
    pub(super) fn act(self) -> &'static str {
        match self {
            Self::Recreate => "to delete it and create it again",
            Self::TakeOver => "to take the fields over",
        }
    }

    /// Whether the release's object, or whoever put it on the live one by hand, allows it.
    pub(super) fn is_allowed(self, desired: &Value, live: Option<&Value>) -> bool {
        let own = annotation(desired, self.key()) == Some(ALLOWED);
        let by_hand = live.is_some_and(|live| {
            annotation(live, self.key()) == Some(ALLOWED) && !is_applied(live, self.key())
        });
        own || by_hand || (self == Self::Recreate && others_recreate(desired))
    }
}

/// What Argo CD, Flux and Helm call it.
fn others_recreate(desired: &Value) -> bool {
    let says = |key: &str| annotation(desired, key).unwrap_or_default();
    let lists = |key: &str, word: &str| says(key).split(',').any(|item| item.trim() == word);
    // Both recreate hooks by default: a hook is made to run, not to be changed.
    let is_hook = |hook: &str, policy: &str, word: &str| {
        !says(hook).is_empty() && (says(policy).is_empty() || lists(policy, word))
    };
    says("kustomize.toolkit.fluxcd.io/force").eq_ignore_ascii_case("enabled")
        || lists("argocd.argoproj.io/sync-options", "Force=true")
        || is_hook("helm.sh/hook", "helm.sh/hook-delete-policy", "before-hook-creation")
        || is_hook("argocd.argoproj.io/hook", "argocd.argoproj.io/hook-delete-policy", "BeforeHookCreation")
}

/// What the live object says about its deletion once it left the release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pruning {
    /// Nothing: the rule of its kind holds.
    Usual,
    /// It is deleted although its kind usually stays.
    Allowed,
    /// It stays.
    Never,
}

/// Reads it from the live object (its metadata is enough).
pub(super) fn pruning(live: &Value) -> Pruning {
    let says = |key: &str| annotation(live, key).unwrap_or_default();
    let others_keep = says("kustomize.toolkit.fluxcd.io/prune").eq_ignore_ascii_case("disabled")
        || says("helm.sh/resource-policy") == "keep"
        || says("argocd.argoproj.io/sync-options").split(',').any(|item| item.trim() == "Prune=false");
    match says(PRUNE) {
        ALLOWED => Pruning::Allowed,
        NEVER => Pruning::Never,
        _ if others_keep => Pruning::Never,
        _ => Pruning::Usual,
    }
}

/// Whether each annotation of ours says something that is known: a slip must not pass for a no.
pub(super) fn check(desired: &Value) -> Result<(), String> {
    let known = [(RECREATE, &[ALLOWED][..]), (TAKE_OVER, &[ALLOWED]), (PRUNE, &[ALLOWED, NEVER])];
    for (key, words) in known {
        let value = &desired["metadata"]["annotations"][key];
        if !value.is_null() && !value.as_str().is_some_and(|word| words.contains(&word)) {
            let wanted = words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" or ");
            let found = super::client::shorten(&value.to_string());
            return Err(format!("the annotation `{key}` is `{found}`, wanted {wanted}"));
        }
    }
    Ok(())
}

/// Kinds that are never deleted to be created again, whatever an annotation says: with them would
/// go what cannot be brought back.
pub(super) fn is_irreplaceable(id: &ObjectId) -> bool {
    super::order::kept(id.group(), &id.kind).is_some()
}

fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object["metadata"]["annotations"][key].as_str()
}

/// Whether a release put the annotation there: our field manager owns it.
fn is_applied(live: &Value, key: &str) -> bool {
    let entries = live["metadata"]["managedFields"].as_array().into_iter().flatten();
    let field = format!("f:{key}");
    entries
        .filter(|entry| entry["manager"] == FIELD_MANAGER)
        .any(|entry| !entry["fieldsV1"]["f:metadata"]["f:annotations"][&field].is_null())
}

/// Whether another manager than ours applies the object (rather than having changed it once).
pub(super) fn is_applier(live: &Value, manager: &str) -> bool {
    let entries = live["metadata"]["managedFields"].as_array().into_iter().flatten();
    manager != FIELD_MANAGER
        && entries.filter(|entry| entry["manager"] == manager).any(|entry| entry["operation"] == "Apply")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(key: &str, value: &str) -> Value {
        json!({"metadata": {"annotations": {key: value}}})
    }

    #[test]
    fn consent_stands_in_the_release_or_was_put_on_the_object_by_hand() {
        let nothing = json!({"metadata": {}});
        let says = with(RECREATE, ALLOWED);
        assert!(Cure::Recreate.is_allowed(&says, None));
        assert!(!Cure::TakeOver.is_allowed(&says, None));
        assert!(!Cure::Recreate.is_allowed(&nothing, Some(&nothing)));
        assert!(Cure::Recreate.is_allowed(&nothing, Some(&says)), "by hand");
        let mut applied = says.clone();
        applied["metadata"]["managedFields"] = json!([{"manager": "fleetpack", "operation": "Apply",
            "fieldsV1": {"f:metadata": {"f:annotations": {"f:fleetpack.dev/recreate": {}}}}}]);
        assert!(
            !Cure::Recreate.is_allowed(&nothing, Some(&applied)),
            "the release before said so, not this one"
        );
    }

    #[test]
    fn the_words_of_others_are_understood() {
        for (key, value, wanted) in [
            ("helm.sh/hook", "pre-upgrade", true),
            ("argocd.argoproj.io/hook", "Sync", true),
            ("argocd.argoproj.io/sync-options", "Prune=false, Force=true", true),
            ("argocd.argoproj.io/sync-options", "Prune=false", false),
            ("kustomize.toolkit.fluxcd.io/force", "enabled", true),
            ("kustomize.toolkit.fluxcd.io/force", "disabled", false),
        ] {
            assert_eq!(Cure::Recreate.is_allowed(&with(key, value), None), wanted, "{key}: {value}");
        }
        let kept = json!({"metadata": {"annotations": {
            "helm.sh/hook": "pre-upgrade", "helm.sh/hook-delete-policy": "hook-succeeded"}}});
        assert!(!Cure::Recreate.is_allowed(&kept, None));
        assert_eq!(pruning(&with("helm.sh/resource-policy", "keep")), Pruning::Never);
        assert_eq!(pruning(&with("argocd.argoproj.io/sync-options", "Prune=false")), Pruning::Never);
        assert_eq!(pruning(&with("kustomize.toolkit.fluxcd.io/prune", "disabled")), Pruning::Never);
        assert_eq!(pruning(&with(PRUNE, ALLOWED)), Pruning::Allowed);
        assert_eq!(pruning(&json!({})), Pruning::Usual);
    }

    #[test]
    fn slips_are_refused() {
        let error = check(&with(RECREATE, "true")).unwrap_err();
        assert_eq!(error, "the annotation `fleetpack.dev/recreate` is `\"true\"`, wanted `allowed`");
        assert!(check(&with(PRUNE, "sometimes")).unwrap_err().ends_with("wanted `allowed` or `never`"));
        assert!(check(&with(PRUNE, NEVER)).is_ok() && check(&json!({})).is_ok());
    }

    #[test]
    fn appliers_are_told_from_editors() {
        let live = json!({"metadata": {"managedFields": [
            {"manager": "kubectl-edit", "operation": "Update"}, {"manager": "argocd", "operation": "Apply"}]}});
        assert!(is_applier(&live, "argocd"));
        assert!(!is_applier(&live, "kubectl-edit") && !is_applier(&live, "fleetpack"));
    }
}
