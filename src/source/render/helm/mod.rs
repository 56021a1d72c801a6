//! Helm charts of the revision: their dependencies looked at first, then rendered twice.
//!
//! What is applied is what `helm template` writes, hooks, tests and CRDs included, each marked
//! as what it is. The second rendering only proves that the first was no chance.

mod chart;
mod error;
mod lock;
mod origin;

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

pub use error::HelmError;

use super::tool::{self, RenderTools};
use super::tree::{Scratch, Tree};
use super::{RenderError, objects_of};
use crate::model::config::{FILE_NAME, HelmConfig, SourcePath, TargetConfig};
use crate::model::name::NameError;
use crate::model::{
    HelmReleaseName, KubeApi, KubeVersion, Namespace, ObjectRole, Progress, RenderedObject, yaml,
};
use chart::Chart;
use origin::{Origins, Sources};

/// The version of Kubernetes that charts are told when nothing says another: fixed, so that
/// another Helm renders the same.
const DEFAULT_KUBE_VERSION: &str = "1.36.0";

/// What is asked of Helm.
#[derive(Debug, Clone)]
pub struct HelmRequest {
    /// Who asks, as people say it: the source of `fleetpack.yaml`, or the file and object.
    pub asked_by: String,
    /// The chart's folder or packaged file.
    pub chart: SourcePath,
    /// `.Release.Name`.
    pub release: HelmReleaseName,
    /// `.Release.Namespace`, where objects go that name none.
    pub namespace: Namespace,
    /// Values, in order: a later one goes over an earlier one.
    pub values: Vec<HelmValues>,
    /// Single values that go over all of those.
    pub parameters: Vec<HelmParameter>,
    /// Whether the chart's `crds/` are taken.
    pub include_crds: bool,
    /// What the chart is told; none tells it Kubernetes 1.36.0.
    pub kube_version: Option<KubeVersion>,
    /// What the chart is told of beyond Kubernetes' own APIs.
    pub api_versions: Vec<KubeApi>,
}

/// Values for a chart.
#[derive(Debug, Clone)]
pub enum HelmValues {
    /// A file of the revision.
    File(SourcePath),
    /// Values that stand elsewhere.
    Inline(Map<String, Value>),
}

/// One value, as `helm --set` takes it.
#[derive(Debug, Clone)]
pub struct HelmParameter {
    /// Path of the value: `image.tag`.
    pub name: String,
    /// The value.
    pub value: String,
    /// Whether it is a string whatever it looks like.
    pub force_string: bool,
}

impl HelmRequest {
    /// What a source of `fleetpack.yaml` asks for. `release` is the name where the source has none.
    pub(super) fn of(
        chart: &HelmConfig,
        release: HelmReleaseName,
        target: Option<&TargetConfig>,
        asked_by: String,
    ) -> Self {
        let files = chart.values.iter().cloned().map(HelmValues::File);
        let inline =
            (!chart.values_inline.is_empty()).then(|| HelmValues::Inline(chart.values_inline.clone()));
        let target_apis = || target.map(|target| target.api_versions.clone()).unwrap_or_default();
        Self {
            asked_by,
            chart: chart.chart.clone(),
            release: chart.release.clone().unwrap_or(release),
            namespace: chart.namespace.clone().unwrap_or_default(),
            values: files.chain(inline).collect(),
            parameters: Vec::new(),
            include_crds: chart.include_crds,
            kube_version: chart
                .kube_version
                .clone()
                .or_else(|| target.and_then(|target| target.kube_version.clone())),
            api_versions: chart.api_versions.clone().unwrap_or_else(target_apis),
        }
    }
}

/// The name of a Helm release of the chart in `folder` where nothing says one: the chart's own.
pub(super) fn release_of(tree: &Tree, folder: &Path) -> Result<HelmReleaseName, RenderError> {
    let chart = Chart::load(tree, folder)?;
    let why = |error: NameError| {
        format!("its name gives none to the release ({error}): name it as a `helm` source in `{FILE_NAME}`")
    };
    Ok(chart
        .name
        .parse()
        .map_err(|error| HelmError::NotChart { place: chart.place.clone(), why: why(error) })?)
}

/// Renders a chart. Objects that name no namespace have the request's as their default.
///
/// # Errors
///
/// When the chart or a file of values is not in the revision, a dependency is not there or not
/// locked, there is no Helm or it refuses the chart, or the chart renders differently each time.
pub(in crate::source) fn render(
    tree: &Tree,
    request: &HelmRequest,
    tools: &RenderTools,
    progress: &dyn Progress,
) -> Result<Vec<RenderedObject>, RenderError> {
    let at = request.chart.below(&tree.root);
    if fs::symlink_metadata(&at).is_err() {
        let wanted = format!("`{}`", request.chart);
        return Err(RenderError::Missing { place: request.asked_by.clone(), wanted });
    }
    let at = tree.resolve(&at)?;
    let label = tree.label(&at);
    let chart = Chart::load(tree, &at)?;
    chart.check()?;
    let helm = tools.helm.as_deref().ok_or_else(|| HelmError::NoHelm { chart: label.clone() })?;

    let scratch = Scratch::beside(&tree.root)?;
    let (mut arguments, names) = values(tree, request, &scratch)?;
    arguments.push(format!("--namespace={}", request.namespace));
    arguments.push(format!("--kube-version={}", kube_version(request.kube_version.as_ref())));
    arguments.extend(request.api_versions.iter().map(|api| format!("--api-versions={api}")));
    arguments.extend(request.include_crds.then(|| "--include-crds".to_owned()));
    arguments.extend(["--".to_owned(), request.release.to_string()]);

    let run = || {
        tool::helm(helm, &arguments, &at, &request.asked_by, &scratch.0)
            // Helm is given copies of the files of values: people know them by other names.
            .map_err(|error| error.with_complaint(|text| readable(text, tree, &names)))
    };
    let first = run()?;
    for line in readable(&first.complaint, tree, &names).lines().take(20) {
        if line.contains("skipping unknown hook") {
            return Err(HelmError::LeftOut { chart: label, complaint: line.to_owned() }.into());
        }
        progress.note(format!("helm, on `{label}`: {line}"));
    }
    let objects = parse(tree, &chart, request, &first.output)?;
    let second = run()?;
    if first.output != second.output {
        let again = parse(tree, &chart, request, &second.output)?;
        if let Some((object, field)) = difference(&objects, &again) {
            let object = Box::new(object.id.clone());
            return Err(HelmError::Unstable { chart: label, object, field }.into());
        }
    }
    Ok(objects)
}

/// The version of Kubernetes with all three numbers: of two, one Helm makes `v1.33`, another `v1.33.0`.
fn kube_version(wanted: Option<&KubeVersion>) -> String {
    let wanted = wanted.map_or(DEFAULT_KUBE_VERSION, KubeVersion::as_str);
    let (core, rest) = wanted.split_at(wanted.find(['-', '+']).unwrap_or(wanted.len()));
    let third = if core.matches('.').count() == 1 { ".0" } else { "" };
    format!("{core}{third}{rest}")
}

/// Names of copies of files, beside those that people know.
type Names = Vec<(String, String)>;

/// Copies files of values and writes down inline ones, in `scratch`: Helm splits the names it is
/// given at commas and fetches those that look like URLs. Answers with Helm's arguments, and
/// the names of the copies beside those that people know.
fn values(
    tree: &Tree,
    request: &HelmRequest,
    scratch: &Scratch,
) -> Result<(Vec<String>, Names), RenderError> {
    let (mut arguments, mut names) = (Vec::new(), Names::new());
    for (number, values) in request.values.iter().enumerate() {
        let (content, known) = match values {
            HelmValues::File(path) => {
                let at = path.below(&tree.root);
                if fs::symlink_metadata(&at).is_err() {
                    return Err(missing_values(tree, request, path));
                }
                (tree.read(&at)?, path.to_string())
            }
            HelmValues::Inline(values) => {
                let bytes = serde_json::to_vec(values).unwrap_or_default();
                (bytes, format!("the inline values of {}", request.asked_by))
            }
        };
        let name = format!("fleetpack-values-{number}.yaml");
        let path = scratch.0.join(&name);
        fs::write(&path, content)
            .map_err(|source| RenderError::Io { path: path.display().to_string(), source })?;
        arguments.push(format!("--values={name}"));
        names.push((name, known));
    }
    for parameter in &request.parameters {
        let flag = if parameter.force_string { "--set-string" } else { "--set" };
        arguments.push(format!("{flag}={}={}", parameter.name, with_commas(&parameter.value)));
    }
    Ok((arguments, names))
}

fn missing_values(tree: &Tree, request: &HelmRequest, path: &SourcePath) -> RenderError {
    let in_chart = path.below(&request.chart.below(&tree.root));
    let instead = if in_chart.is_file() {
        format!(" (there is `{}`: paths begin at the root of the revision)", tree.label(&in_chart))
    } else {
        String::new()
    };
    RenderError::Missing {
        place: request.asked_by.clone(),
        wanted: format!("the values of `{path}`{instead}"),
    }
}

/// A value in which commas mean themselves, unless it is a list in braces.
fn with_commas(value: &str) -> String {
    if value.starts_with('{') && value.ends_with('}') {
        return value.to_owned();
    }
    let mut out = String::with_capacity(value.len());
    let mut escaped = false;
    for c in value.chars() {
        if c == ',' && !escaped {
            out.push('\\');
        }
        escaped = c == '\\' && !escaped;
        out.push(c);
    }
    out
}

/// What Helm says, in the names that people know.
fn readable(text: &str, tree: &Tree, names: &Names) -> String {
    let text = text.strip_suffix("Use --debug flag to render out invalid YAML").unwrap_or(text).trim_end();
    let mut text = text.replace(&format!("{}/", tree.root.display()), "");
    for (name, known) in names {
        text = text.replace(name, known);
    }
    text
}

fn parse(
    tree: &Tree,
    chart: &Chart,
    request: &HelmRequest,
    output: &[u8],
) -> Result<Vec<RenderedObject>, RenderError> {
    let text = std::str::from_utf8(output).unwrap_or_default();
    let sources = Sources::of(text);
    let documents = yaml::documents(output).map_err(|mut error| {
        let source = sources.before(error.line);
        error.why = format!("{} (rendered from `{}`)", error.why, source.unwrap_or("its templates"));
        RenderError::Yaml { file: format!("the rendering of `{}`", chart.place), error }
    })?;
    let mut origins = Origins::new(tree, chart);
    let mut objects = Vec::new();
    for document in documents {
        let source = sources.before(document.line);
        let begin = objects.len();
        objects_of(document.value, &origins.place(source), &mut objects)?;
        for object in objects.iter_mut().skip(begin) {
            object.origin = origins.find(source, &object.id);
            object.role = ObjectRole::in_chart(&object.id, &object.value);
            if object.id.namespace.is_none() {
                object.default_namespace = Some(request.namespace.to_string());
            }
        }
    }
    Ok(objects)
}

/// The first object that differs, and the field of it.
fn difference<'a>(
    one: &'a [RenderedObject],
    other: &'a [RenderedObject],
) -> Option<(&'a RenderedObject, Option<String>)> {
    for (a, b) in one.iter().zip(other) {
        if a.id != b.id {
            return Some((a, None));
        }
        if let Some(field) = differing_field(&a.value, &b.value) {
            return Some((a, Some(field)));
        }
    }
    one.get(other.len()).or_else(|| other.get(one.len())).map(|object| (object, None))
}

/// The path of the first field that differs.
fn differing_field(a: &Value, b: &Value) -> Option<String> {
    let join = |part: String, rest: String| match rest.as_str() {
        "" => part,
        rest if rest.starts_with('[') => format!("{part}{rest}"),
        rest => format!("{part}.{rest}"),
    };
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                match b.get(key) {
                    None => return Some(key.clone()),
                    Some(other) => {
                        if let Some(rest) = differing_field(value, other) {
                            return Some(join(key.clone(), rest));
                        }
                    }
                }
            }
            b.keys().find(|key| !a.contains_key(*key)).cloned()
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .enumerate()
            .find_map(|(at, (a, b))| differing_field(a, b).map(|rest| join(format!("[{at}]"), rest))),
        (a, b) => (a != b).then(String::new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_versions_and_fields() {
        assert_eq!(with_commas("a,b\\,c"), "a\\,b\\,c");
        assert_eq!(with_commas("{a,b}"), "{a,b}");
        for (text, wanted) in
            [("1.33", "1.33.0"), ("v1.33+k3s", "v1.33.0+k3s"), ("1.33.2-rc.1", "1.33.2-rc.1")]
        {
            assert_eq!(kube_version(Some(&text.parse().unwrap())), wanted);
        }
        assert_eq!(kube_version(None), DEFAULT_KUBE_VERSION);
        let a = serde_json::json!({"spec": {"list": [1, {"x": "a"}]}});
        let b = serde_json::json!({"spec": {"list": [1, {"x": "b"}]}});
        assert_eq!(differing_field(&a, &b).as_deref(), Some("spec.list[1].x"));
        assert_eq!(differing_field(&a, &a), None);
    }
}
