//! Flux's `HelmRelease`: which chart it installs, with which values.
//!
//! Fields and their meaning are those of `helm.toolkit.fluxcd.io/v2` and of its controller. What only
//! says when and how Flux installs is passed over; what changes the objects is honoured or refused.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::edit::Edit;
use super::error::Trouble;
use super::fields::{read, refuse};
use super::flux::{After, CommonMetadata, Reference, SOURCES, patches, source};
use super::job::{Chart, Context};
use super::known::Known;
use super::values;
use crate::model::{Digest, yaml};

/// Longest name that Helm takes for a release.
const LONGEST_NAME: usize = 53;

/// A `HelmRelease`, as far as it says what is deployed.
#[derive(Debug)]
pub(super) struct HelmRelease {
    pub chart: Chart,
    /// Whether Flux makes the namespace.
    pub create_namespace: bool,
    pub after: After,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    chart: Option<Value>,
    chart_ref: Option<Reference>,
    release_name: String,
    target_namespace: String,
    suspend: bool,
    values: Value,
    values_from: Vec<ValuesFrom>,
    install: Map<String, Value>,
    post_renderers: Vec<Value>,
    common_metadata: CommonMetadata,
    kube_config: Option<Value>,
    depends_on: Value,
    drift_detection: Value,
    health_check_exprs: Value,
    interval: Value,
    max_history: Value,
    persistent_client: Value,
    rollback: Value,
    service_account_name: Value,
    storage_namespace: Value,
    test: Value,
    timeout: Value,
    uninstall: Value,
    upgrade: Value,
    wait_strategy: Value,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct ValuesFrom {
    kind: String,
    name: String,
    values_key: Option<String>,
    target_path: Option<String>,
    optional: bool,
    literal: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct ChartSpec {
    chart: String,
    version: String,
    source_ref: Reference,
    values_file: String,
    values_files: Vec<String>,
    ignore_missing_values_files: bool,
    interval: Value,
    reconcile_strategy: Value,
    suspend: Value,
    access_from: Value,
    verify: Value,
}

/// The chart: its folder or packaged file, and the values that stand in for its own.
struct Located {
    path: PathBuf,
    own_values: Option<Value>,
}

/// Reads a `HelmRelease`; `None` when it is suspended. `sure` means that what is not known now will not
/// be known later.
pub(super) fn helm_release(
    value: &Value,
    context: &Context<'_>,
    known: &Known,
    sure: bool,
) -> Result<Option<HelmRelease>, Trouble> {
    let spec: Spec = read(&value["spec"], "spec")?;
    if spec.suspend {
        return Ok(None);
    }
    refuse(
        spec.kube_config.as_ref(),
        "spec.kubeConfig",
        "it deploys to another cluster, and a release is for one",
    )?;
    let Located { path, own_values } = match (&spec.chart, &spec.chart_ref) {
        (Some(chart), None) => {
            let template: Value = chart["spec"].clone();
            located(&read(&template, "spec.chart.spec")?, "spec.chart.spec", context, known)?
        }
        (None, Some(reference)) => by_reference(reference, context, known)?,
        _ => return Err(Trouble::invalid("spec.chart", "wanted one of `chart` and `chartRef`")),
    };
    let namespace = context.id.namespace.as_deref().unwrap_or("default");
    let target = if spec.target_namespace.is_empty() { namespace } else { &spec.target_namespace };
    let release = match (spec.release_name.as_str(), spec.target_namespace.as_str()) {
        ("", "") => short(&context.id.name),
        ("", target) => short(&format!("{target}-{}", context.id.name)),
        (name, _) => short(name),
    };
    let mut values = Value::Object(Map::new());
    for (at, from) in spec.values_from.into_iter().enumerate() {
        values_from(&mut values, from, &format!("spec.valuesFrom[{at}]"), context, known, sure)?;
    }
    match spec.values {
        Value::Null => {}
        own @ Value::Object(_) => values::merge(&mut values, own),
        _ => return Err(Trouble::invalid("spec.values", "not a mapping")),
    }
    let install = |field: &str| spec.install.get(field);
    let is_set = |field: &str| install(field).and_then(Value::as_bool).unwrap_or(false);
    let crds = match install("crds").and_then(Value::as_str) {
        None | Some("Create" | "CreateReplace") => !is_set("skipCRDs"),
        Some("Skip") => false,
        Some(other) => {
            return Err(Trouble::invalid("spec.install.crds", format!("`{other:.100}` is not known here")));
        }
    };
    let post = spec.post_renderers.into_iter().enumerate();
    let post = post.map(|(at, value)| post_renderer(&value, &format!("spec.postRenderers[{at}]")));
    let post = post.collect::<Result<Vec<_>, _>>()?;
    let CommonMetadata { labels, annotations } = spec.common_metadata;
    Ok(Some(HelmRelease {
        chart: Chart {
            folder: path,
            release,
            namespace: Some(target.to_owned()),
            values,
            parameters: Vec::new(),
            own_values,
            crds,
            tests: true,
            hooks: !is_set("disableHooks"),
            kube_version: None,
            api_versions: Vec::new(),
            post,
        },
        create_namespace: is_set("createNamespace"),
        after: After { labels, annotations, ..After::default() },
    }))
}

fn by_reference(reference: &Reference, context: &Context<'_>, known: &Known) -> Result<Located, Trouble> {
    if let Some(path) = context.stand_in(None) {
        return Ok(Located { path: context.stand_in_folder(path)?, own_values: None });
    }
    if reference.kind != "HelmChart" {
        source(reference, "spec.chartRef", "the chart", context, known)?;
        let why = format!("`{:.100}` is not a source of charts", reference.kind);
        return Err(Trouble::invalid("spec.chartRef.kind", why));
    }
    let namespace = reference.namespace.as_deref().or(context.id.namespace.as_deref());
    let Some(object) = known.find(SOURCES, "HelmChart", namespace, &reference.name) else {
        let why = format!("the HelmChart `{:.200}` is not in the revision", reference.name);
        return Err(Trouble::later("spec.chartRef", why));
    };
    let field = format!("spec.chartRef: {}: spec", object.id);
    let mut chart: ChartSpec = read(&object.value["spec"], &field)?;
    // A HelmChart's source is of its own namespace.
    chart.source_ref.namespace = object.id.namespace.clone().or(chart.source_ref.namespace);
    located(&chart, &field, context, known)
}

fn located(chart: &ChartSpec, field: &str, context: &Context<'_>, known: &Known) -> Result<Located, Trouble> {
    let (path, root) = if let Some(path) = context.stand_in(None) {
        let path = context.path(&path.to_string(), "deployers.replace.path")?;
        (path.clone(), path)
    } else {
        let what = format!("the chart `{:.200}` {:.100}", chart.chart, chart.version);
        let found =
            source(&chart.source_ref, &format!("{field}.sourceRef"), what.trim_end(), context, known)?;
        (context.path(&chart.chart, &format!("{field}.chart"))?, found.root)
    };
    let mut own_values = None;
    let first = Some(&chart.values_file).filter(|file| !file.is_empty());
    for file in first.into_iter().chain(&chart.values_files) {
        let at = format!("{field}.valuesFiles");
        let file_path = root.join(file.trim_start_matches('/'));
        if file_path.symlink_metadata().is_err() {
            if chart.ignore_missing_values_files {
                continue;
            }
            return Err(Trouble::missing(at, format!("`{file:.300}` is not in the revision")));
        }
        let values = values_text(&context.tree.read(&file_path)?)
            .map_err(|why| Trouble::invalid(at, format!("`{file:.300}`: {why}")))?;
        values::merge(own_values.get_or_insert_with(|| Value::Object(Map::new())), values);
    }
    Ok(Located { path, own_values })
}

fn values_text(bytes: &[u8]) -> Result<Value, String> {
    let documents = yaml::documents(bytes).map_err(|error| error.to_string())?;
    match documents.into_iter().next().map(|document| document.value) {
        None => Ok(Value::Object(Map::new())),
        Some(value @ Value::Object(_)) => Ok(value),
        Some(_) => Err("no mapping of values".to_owned()),
    }
}

fn values_from(
    values: &mut Value,
    from: ValuesFrom,
    field: &str,
    context: &Context<'_>,
    known: &Known,
    sure: bool,
) -> Result<(), Trouble> {
    let ValuesFrom { kind, name, values_key, target_path, optional, literal } = from;
    refuse(literal.as_ref(), format!("{field}.literal"), "values are not taken literally here")?;
    if kind != "ConfigMap" && kind != "Secret" {
        return Err(Trouble::invalid(field, format!("`{kind:.100}` is neither `ConfigMap` nor `Secret`")));
    }
    let key = values_key.filter(|key| !key.is_empty()).unwrap_or_else(|| "values.yaml".to_owned());
    let text = match known.data(&kind, context.id.namespace.as_deref(), &name) {
        Some(Ok(mut data)) => data.remove(&key),
        Some(Err(why)) => return Err(Trouble::invalid(field, why)),
        None if optional && sure => return Ok(()),
        None => {
            return Err(Trouble::later(field, format!("the {kind} `{name:.200}` is not in the revision")));
        }
    };
    let Some(text) = text else {
        if optional {
            return Ok(());
        }
        return Err(Trouble::missing(field, format!("the {kind} `{name:.200}` has no `{key:.200}`")));
    };
    if let Some(path) = target_path.filter(|path| !path.is_empty()) {
        return values::set_path(values, &path, &text).map_err(|why| Trouble::unsupported(field, why));
    }
    let more = values_text(text.as_bytes())
        .map_err(|why| Trouble::invalid(field, format!("`{key:.200}` of the {kind} `{name:.200}`: {why}")))?;
    values::merge(values, more);
    Ok(())
}

fn post_renderer(value: &Value, field: &str) -> Result<Edit, Trouble> {
    #[derive(Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct PostRenderer {
        kustomize: Value,
    }
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase", deny_unknown_fields)]
    struct Kustomize {
        patches: Vec<Value>,
        images: Vec<Value>,
        patches_strategic_merge: Option<Value>,
        #[serde(rename = "patchesJson6902")]
        patches_json6902: Option<Value>,
    }
    let PostRenderer { kustomize } = read(value, field)?;
    let field = format!("{field}.kustomize");
    let kustomize: Kustomize = read(&kustomize, &field)?;
    for (name, value) in [
        ("patchesStrategicMerge", &kustomize.patches_strategic_merge),
        ("patchesJson6902", &kustomize.patches_json6902),
    ] {
        refuse(value.as_ref(), format!("{field}.{name}"), "of an old version: write it as `patches`")?;
    }
    let patches = patches(kustomize.patches, &format!("{field}.patches"))?;
    Ok(Edit { patches, images: kustomize.images, ..Edit::default() })
}

/// A name that Helm takes for a release, as Flux shortens it.
fn short(name: &str) -> String {
    if name.len() <= LONGEST_NAME || !name.is_ascii() {
        return name.to_owned();
    }
    let digest = Digest::of(name.as_bytes()).to_string();
    let hex = digest.rsplit(':').next().unwrap_or_default();
    format!("{}-{}", &name[..LONGEST_NAME - 13], &hex[..12])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_shortened_as_flux_does() {
        assert_eq!(short("shop"), "shop");
        let long = "a".repeat(60);
        let name = short(&long);
        assert_eq!(name.len(), LONGEST_NAME);
        assert!(name.starts_with(&"a".repeat(40)) && name.as_bytes()[40] == b'-');
    }
}
