//! Flux's `Kustomization`: which folder it builds and what it changes.
//!
//! Fields and their meaning are those of `kustomize.toolkit.fluxcd.io/v1` and of its controller. What
//! only says when and how Flux applies is passed over; what changes the objects is honoured or refused.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};

use super::edit::Edit;
use super::error::Trouble;
use super::fields::{read, refuse};
use super::job::{Context, Job};
use super::known::Known;
use super::substitute;
use crate::model::{ObjectId, RenderedObject};

/// The API group of Flux's sources.
pub(super) const SOURCES: &str = "source.toolkit.fluxcd.io";

/// A Kustomization, as far as it says what is deployed.
#[derive(Debug)]
pub(super) struct Kustomization {
    pub job: Job,
    pub after: After,
}

/// What Flux changes in the objects once they are built.
#[derive(Debug, Default, PartialEq)]
pub(super) struct After {
    /// Variables of `postBuild`; empty: nothing is substituted.
    pub variables: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    path: String,
    source_ref: Reference,
    target_namespace: Option<String>,
    name_prefix: Option<String>,
    name_suffix: Option<String>,
    patches: Vec<Value>,
    patches_strategic_merge: Option<Value>,
    #[serde(rename = "patchesJson6902")]
    patches_json6902: Option<Value>,
    images: Vec<Value>,
    components: Vec<String>,
    ignore_missing_components: bool,
    common_metadata: CommonMetadata,
    post_build: PostBuild,
    suspend: bool,
    decryption: Option<Value>,
    kube_config: Option<Value>,
    build_metadata: Value,
    deletion_policy: Value,
    depends_on: Value,
    force: Value,
    health_checks: Value,
    health_check_exprs: Value,
    interval: Value,
    prune: Value,
    retry_interval: Value,
    service_account_name: Value,
    timeout: Value,
    validation: Value,
    wait: Value,
}

/// A reference to one of Flux's sources.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Reference {
    pub api_version: Value,
    pub kind: String,
    pub name: String,
    pub namespace: Option<String>,
}

/// Labels and annotations for every object.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct CommonMetadata {
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct PostBuild {
    substitute: BTreeMap<String, Value>,
    substitute_from: Vec<Variables>,
    substitute_strategy: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Variables {
    kind: String,
    name: String,
    optional: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct GitRepository {
    url: String,
    #[serde(rename = "ref")]
    reference: GitReference,
    include: Option<Value>,
    ignore: Option<String>,
    sparse_checkout: Value,
    git_implementation: Value,
    access_from: Value,
    interval: Value,
    provider: Value,
    proxy_secret_ref: Value,
    recurse_submodules: Value,
    secret_ref: Value,
    service_account_name: Value,
    suspend: Value,
    timeout: Value,
    verify: Value,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct GitReference {
    branch: String,
    tag: String,
    semver: String,
    name: String,
    commit: String,
}

/// What a reference to a source leads to.
pub(super) struct Found {
    /// The repository's root.
    pub root: PathBuf,
    /// Whether files are left out by patterns.
    pub has_ignore: bool,
}

/// Follows a reference to a source of the deployer's own namespace or another; it must be a
/// `GitRepository` of this repository.
pub(super) fn source(
    reference: &Reference,
    field: &str,
    what: &str,
    context: &Context<'_>,
    known: &Known,
) -> Result<Found, Trouble> {
    let namespace = reference.namespace.as_deref().or(context.id.namespace.as_deref());
    let name = format!(
        "{} {}{}",
        reference.kind,
        namespace.map(|n| format!("{n}/")).unwrap_or_default(),
        reference.name
    );
    let object = known.find(SOURCES, &reference.kind, namespace, &reference.name);
    if reference.kind != "GitRepository" {
        let url = object.and_then(|object| {
            let spec = &object.value["spec"];
            spec["url"].as_str().or_else(|| spec["endpoint"].as_str())
        });
        let url = url.map(|url| format!(" (`{url:.300}`)")).unwrap_or_default();
        return Err(Trouble::elsewhere(field, format!("{what} lies in {name}{url}")));
    }
    let Some(object) = object else {
        return Err(Trouble::later(field, format!("{name} is not in the revision")));
    };
    let spec: GitRepository = read(&object.value["spec"], &format!("{name}: spec"))?;
    refuse(
        spec.include.as_ref(),
        format!("{name}: spec.include"),
        "other repositories within are not followed",
    )?;
    let GitReference { branch, tag, semver, name: full, commit } = &spec.reference;
    let (part, revision) =
        [("commit", commit), ("name", full), ("semver", semver), ("tag", tag), ("branch", branch)]
            .into_iter()
            .find(|(_, text)| !text.is_empty())
            .unwrap_or(("branch", branch));
    context.is_here(
        &spec.url,
        revision,
        &format!("{field}: {name}: spec.url"),
        &format!("{field}: {name}: spec.ref.{part}"),
    )?;
    let has_ignore =
        spec.ignore.is_some_and(|ignore| !ignore.trim().is_empty()) || !spec.sparse_checkout.is_null();
    Ok(Found { root: context.tree.root.clone(), has_ignore })
}

/// Reads a Kustomization; `None` when it is suspended. `sure` means that what is not known now will
/// not be known later.
pub(super) fn kustomization(
    value: &Value,
    context: &Context<'_>,
    known: &Known,
    sure: bool,
) -> Result<Option<Kustomization>, Trouble> {
    let spec: Spec = read(&value["spec"], "spec")?;
    if spec.suspend {
        return Ok(None);
    }
    for (field, value, why) in [
        (
            "spec.decryption",
            &spec.decryption,
            "what is encrypted cannot be read here, and would be applied as it is",
        ),
        ("spec.kubeConfig", &spec.kube_config, "it deploys to another cluster, and a release is for one"),
        (
            "spec.patchesStrategicMerge",
            &spec.patches_strategic_merge,
            "of an old version: write it as `patches`",
        ),
        ("spec.patchesJson6902", &spec.patches_json6902, "of an old version: write it as `patches`"),
        (
            "spec.postBuild.substituteStrategy",
            &spec.post_build.substitute_strategy,
            "only the usual way of substituting is known here",
        ),
    ] {
        refuse(value.as_ref(), field, why)?;
    }
    let (folder, has_ignore) = if let Some(path) = context.stand_in(None) {
        (context.stand_in_folder(path)?, false)
    } else {
        let what = format!("`{:.200}`", if spec.path.is_empty() { "." } else { &spec.path });
        let found = source(&spec.source_ref, "spec.sourceRef", &what, context, known)?;
        (context.folder(&spec.path, "spec.path")?, found.has_ignore)
    };
    let text = |text: Option<String>| text.filter(|text| !text.is_empty());
    let mut edit = Edit {
        name_prefix: text(spec.name_prefix),
        name_suffix: text(spec.name_suffix),
        namespace: text(spec.target_namespace),
        patches: patches(spec.patches, "spec.patches")?,
        images: spec.images,
        ..Edit::default()
    };
    for component in spec.components {
        if component.contains("://") || component.starts_with('/') {
            return Err(Trouble::elsewhere(
                "spec.components",
                format!("`{component:.300}` is not in this repository"),
            ));
        }
        if !spec.ignore_missing_components || folder.join(&component).exists() {
            edit.components.push(component);
        }
    }
    let variables = variables(spec.post_build, context.id.namespace.as_deref(), known, sure)?;
    let CommonMetadata { labels, annotations } = spec.common_metadata;
    let job = Job::Flux { folder, edit, has_ignore };
    Ok(Some(Kustomization { job, after: After { variables, labels, annotations } }))
}

/// Patches as kustomize takes them: `patch` and `target`, in the text of the object.
pub(super) fn patches(patches: Vec<Value>, field: &str) -> Result<Vec<Value>, Trouble> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Patch {
        patch: String,
        #[serde(default)]
        target: Value,
    }
    let one = |(at, value): (usize, Value)| {
        let Patch { patch, target } = read(&value, &format!("{field}[{at}]"))?;
        let mut out = json!({"patch": patch});
        if !target.is_null() {
            out["target"] = target;
        }
        Ok(out)
    };
    patches.into_iter().enumerate().map(one).collect()
}

fn variables(
    post_build: PostBuild,
    namespace: Option<&str>,
    known: &Known,
    sure: bool,
) -> Result<BTreeMap<String, String>, Trouble> {
    let mut out = BTreeMap::new();
    for (at, Variables { kind, name, optional }) in post_build.substitute_from.into_iter().enumerate() {
        let field = format!("spec.postBuild.substituteFrom[{at}]");
        if kind != "ConfigMap" && kind != "Secret" {
            return Err(Trouble::invalid(
                field,
                format!("`{kind:.100}` is neither `ConfigMap` nor `Secret`"),
            ));
        }
        match known.data(&kind, namespace, &name) {
            Some(Ok(data)) => out.extend(data.into_iter().map(|(key, value)| (key, value.replace('\n', "")))),
            Some(Err(why)) => return Err(Trouble::invalid(field, why)),
            None if optional && sure => {}
            None => {
                return Err(Trouble::later(
                    field,
                    format!("the {kind} `{name:.200}` is not in the revision"),
                ));
            }
        }
    }
    for (name, value) in post_build.substitute {
        let text = match value {
            Value::String(text) => text,
            other => {
                let field = format!("spec.postBuild.substitute.{name}");
                return Err(Trouble::invalid(
                    field,
                    format!("`{other:.100}` is not a string: put it in quotes"),
                ));
            }
        };
        out.insert(name, text.replace('\n', ""));
    }
    if let Some(name) = out.keys().find(|name| !substitute::is_name(name)) {
        let why = format!("`{name:.100}` is not the name of a variable, and Flux refuses it");
        return Err(Trouble::invalid("spec.postBuild", why));
    }
    Ok(out)
}

impl After {
    /// Changes one built object. Names that are set nowhere go into `unset`.
    ///
    /// # Errors
    ///
    /// A sentence that names the object's field.
    pub fn apply(&self, object: &mut RenderedObject, unset: &mut BTreeSet<String>) -> Result<(), String> {
        const SWITCH: &str = "kustomize.toolkit.fluxcd.io/substitute";
        let metadata = &object.value["metadata"];
        let is_off = ["labels", "annotations"].iter().any(|part| metadata[*part][SWITCH] == "disabled");
        if !self.variables.is_empty() && !is_off {
            object.value = substitute::substitute(&object.value, &self.variables, unset)?;
            object.id = ObjectId::of(&object.value).map_err(|why| format!("after the substitution {why}"))?;
        }
        for (part, pairs) in [("labels", &self.labels), ("annotations", &self.annotations)] {
            for (key, value) in pairs {
                let map = &mut object.value["metadata"][part];
                if !map.is_object() {
                    *map = json!({});
                }
                map[key] = Value::String(value.clone());
            }
        }
        Ok(())
    }
}
