//! Argo CD's `Application`: which sources it has and what is done to them.
//!
//! Fields and their meaning are those of `argoproj.io/v1alpha1` and of its repo server. What only says
//! when and how Argo CD syncs is passed over; what changes the objects is honoured or refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::edit::{self, Edit};
use super::error::Trouble;
use super::fields::{merge_patch, read, refuse};
use super::job::{Chart, Context, Directory, Job, is_chart, is_kustomization};
use super::values;
use crate::model::yaml;
use crate::source::render::HelmParameter;

/// An Application, as far as it says what is deployed where.
#[derive(Debug, Default)]
pub(super) struct Application {
    /// Namespace for objects that name none.
    pub namespace: Option<String>,
    /// Labels and annotations of the namespace, if Argo CD makes it.
    pub create_namespace: Option<(Value, Value)>,
    pub jobs: Vec<Job>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    project: Value,
    source: Value,
    sources: Vec<Value>,
    source_hydrator: Option<Value>,
    destination: Destination,
    sync_policy: SyncPolicy,
    ignore_differences: Value,
    info: Value,
    revision_history_limit: Value,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Destination {
    server: Option<String>,
    name: Option<String>,
    namespace: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct SyncPolicy {
    automated: Value,
    sync_options: Vec<String>,
    retry: Value,
    managed_namespace_metadata: ManagedMetadata,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ManagedMetadata {
    labels: Value,
    annotations: Value,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Source {
    #[serde(rename = "repoURL")]
    repo_url: String,
    target_revision: String,
    path: Option<String>,
    chart: Option<String>,
    #[serde(rename = "ref")]
    reference: Option<String>,
    name: Value,
    helm: Option<Value>,
    kustomize: Option<Value>,
    directory: Option<Value>,
    plugin: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Helm {
    value_files: Vec<String>,
    ignore_missing_value_files: bool,
    values: Option<String>,
    values_object: Option<Value>,
    parameters: Vec<Parameter>,
    file_parameters: Vec<FileParameter>,
    release_name: Option<String>,
    version: Value,
    pass_credentials: Value,
    skip_crds: bool,
    skip_tests: bool,
    skip_schema_validation: Value,
    namespace: Option<String>,
    kube_version: Option<String>,
    api_versions: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Parameter {
    name: String,
    value: String,
    force_string: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FileParameter {
    name: String,
    path: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "the fields of the API")]
struct Kustomize {
    name_prefix: Option<String>,
    name_suffix: Option<String>,
    namespace: Option<String>,
    images: Vec<String>,
    replicas: Vec<Replica>,
    common_labels: BTreeMap<String, String>,
    force_common_labels: bool,
    label_without_selector: bool,
    label_include_templates: bool,
    common_annotations: BTreeMap<String, String>,
    force_common_annotations: bool,
    common_annotations_envsubst: bool,
    patches: Vec<Value>,
    components: Vec<String>,
    ignore_missing_components: bool,
    version: Option<Value>,
    kube_version: Value,
    api_versions: Value,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Replica {
    name: String,
    count: Value,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct DirectoryOptions {
    recurse: bool,
    include: Option<String>,
    exclude: Option<String>,
    jsonnet: Option<Value>,
}

/// Reads an Application.
pub(super) fn application(value: &Value, context: &Context<'_>) -> Result<Application, Trouble> {
    let spec: Spec = read(&value["spec"], "spec")?;
    refuse(spec.source_hydrator.as_ref(), "spec.sourceHydrator", "what a hydrator writes is not followed")?;
    let Destination { server, name, namespace } = spec.destination;
    let here = |server: &str| {
        let host = server.trim_end_matches('/').strip_prefix("https://").unwrap_or(server);
        matches!(
            host.strip_suffix(":443").unwrap_or(host),
            "" | "kubernetes.default.svc" | "kubernetes.default.svc.cluster.local"
        )
    };
    if let Some(server) = server.filter(|server| !here(server)) {
        let why = format!("`{server:.300}` is another cluster, and a release is for one");
        return Err(Trouble::unsupported("spec.destination.server", why));
    }
    if let Some(name) = name.filter(|name| !matches!(name.as_str(), "" | "in-cluster")) {
        let why = format!("`{name:.300}` is another cluster, and a release is for one");
        return Err(Trouble::unsupported("spec.destination.name", why));
    }
    let namespace = namespace.filter(|namespace| !namespace.is_empty());
    let creates = spec.sync_policy.sync_options.iter().any(|option| option == "CreateNamespace=true");
    let metadata = spec.sync_policy.managed_namespace_metadata;
    let mut out = Application {
        create_namespace: creates.then_some((metadata.labels, metadata.annotations)),
        namespace,
        jobs: Vec::new(),
    };

    // With `sources`, Argo CD passes over `source`.
    let several = !spec.sources.is_empty();
    let raw = if several { spec.sources } else { vec![spec.source] };
    if !several && raw[0].is_null() {
        return Err(Trouble::missing("spec.source", "there is none"));
    }
    let mut sources = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let field = if several { format!("spec.sources[{index}]") } else { "spec.source".to_owned() };
        let source: Source = read(&raw, &field)?;
        sources.push(Located { index: several.then_some(index), field, raw, source });
    }
    let mut references = BTreeMap::new();
    for located in &sources {
        if let Some(reference) = located.source.reference.as_ref().filter(|reference| !reference.is_empty()) {
            let root = located.root(context)?;
            references.insert(format!("${reference}"), root);
        }
    }
    for located in &sources {
        let is_rendered = located.source.path.is_some() || located.source.chart.is_some();
        if located.source.reference.is_some() && !is_rendered {
            continue;
        }
        let application =
            Named { context, value, namespace: out.namespace.as_deref(), references: &references };
        out.jobs.push(application.job(located)?);
    }
    Ok(out)
}

/// A source and where it stands.
struct Located {
    index: Option<usize>,
    field: String,
    raw: Value,
    source: Source,
}

impl Located {
    /// The folder that the source's repository is.
    fn root(&self, context: &Context<'_>) -> Result<PathBuf, Trouble> {
        if let Some(path) = context.stand_in(self.index) {
            return context.stand_in_folder(path);
        }
        context.is_here(
            &self.source.repo_url,
            &self.source.target_revision,
            &format!("{}.repoURL", self.field),
            &format!("{}.targetRevision", self.field),
        )?;
        Ok(context.tree.root.clone())
    }

    /// The folder that is rendered.
    fn folder(&self, context: &Context<'_>) -> Result<PathBuf, Trouble> {
        let Source { chart, path, repo_url, target_revision, .. } = &self.source;
        if let Some(path) = context.stand_in(self.index) {
            return context.stand_in_folder(path);
        }
        if let Some(chart) = chart.as_ref().filter(|chart| !chart.is_empty()) {
            let why = format!("the chart `{chart:.200}` {target_revision:.100} lies in `{repo_url:.300}`");
            return Err(Trouble::elsewhere(format!("{}.chart", self.field), why));
        }
        self.root(context)?;
        let field = format!("{}.path", self.field);
        let Some(path) = path else { return Err(Trouble::missing(field, "there is none")) };
        context.folder(path, &field)
    }
}

/// An Application while its sources are read.
struct Named<'a> {
    context: &'a Context<'a>,
    value: &'a Value,
    namespace: Option<&'a str>,
    references: &'a BTreeMap<String, PathBuf>,
}

impl Named<'_> {
    fn job(&self, located: &Located) -> Result<Job, Trouble> {
        let folder = located.folder(self.context)?;
        let field = located.field.as_str();
        let source = self.overridden(located, &folder)?;
        refuse(source.plugin.as_ref(), format!("{field}.plugin"), "what a plugin renders is not known here")?;
        let set = |value: &Option<Value>| value.as_ref().is_some_and(|value| !value.is_null());
        let explicit = [&source.helm, &source.kustomize, &source.directory].map(set);
        if explicit.iter().filter(|set| **set).count() > 1 {
            let why = "more than one of `helm`, `kustomize` and `directory`, of which Argo CD takes one";
            return Err(Trouble::invalid(field, why));
        }
        match explicit {
            [true, ..] => self.chart(located, &source, folder),
            [_, true, _] => self.kustomize(field, &source, folder),
            [_, _, true] => directory(field, source.directory.as_ref(), folder),
            _ if source.chart.is_some() || is_chart(&folder) => self.chart(located, &source, folder),
            _ if is_kustomization(&folder) => self.kustomize(field, &source, folder),
            _ => directory(field, None, folder),
        }
    }

    /// The source with what `.argocd-source.yaml` and `.argocd-source-NAME.yaml` in its folder change.
    fn overridden(&self, located: &Located, folder: &Path) -> Result<Source, Trouble> {
        let mut merged = located.raw.clone();
        let name = &self.context.id.name;
        for file in [".argocd-source.yaml".to_owned(), format!(".argocd-source-{name}.yaml")] {
            let path = folder.join(file);
            if !path.is_file() {
                continue;
            }
            let bytes = self.context.tree.read(&path)?;
            let change = yaml::one_document(&bytes).map_err(|error| {
                Trouble::invalid(
                    located.field.as_str(),
                    format!("{}: {error}", self.context.tree.label(&path)),
                )
            })?;
            merge_patch(&mut merged, &change);
        }
        for kept in ["chart", "path", "repoURL", "targetRevision"] {
            merged[kept] = located.raw[kept].clone();
        }
        if let Some(entries) = merged.as_object_mut() {
            entries.retain(|_, value| !value.is_null());
        }
        read(&merged, &located.field)
    }

    fn kustomize(&self, field: &str, source: &Source, folder: PathBuf) -> Result<Job, Trouble> {
        let field = format!("{field}.kustomize");
        let options: Kustomize = read(source.kustomize.as_ref().unwrap_or(&Value::Null), &field)?;
        refuse(options.version.as_ref(), format!("{field}.version"), "the kustomize at hand is taken")?;
        let text = |text: Option<String>| text.filter(|text| !text.is_empty());
        let env = |map: BTreeMap<String, String>, part: &str| {
            map.into_iter()
                .map(|(key, value)| Ok((key, self.environment(&value, source, &format!("{field}.{part}"))?)))
                .collect::<Result<BTreeMap<_, _>, Trouble>>()
        };
        let mut edit = Edit {
            name_prefix: text(options.name_prefix),
            name_suffix: text(options.name_suffix),
            namespace: text(options.namespace),
            force_labels: options.force_common_labels,
            labels_without_selectors: options.label_without_selector,
            labels_in_templates: options.label_include_templates,
            force_annotations: options.force_common_annotations,
            patches: options.patches,
            ..Edit::default()
        };
        edit.labels = env(options.common_labels, "commonLabels")?;
        edit.annotations = if options.common_annotations_envsubst {
            env(options.common_annotations, "commonAnnotations")?
        } else {
            options.common_annotations
        };
        for image in &options.images {
            let at = format!("{field}.images");
            let image = self.environment(image, source, &at)?;
            edit.images.push(edit::image(&image).map_err(|why| Trouble::invalid(at, why))?);
        }
        for Replica { name, count } in options.replicas {
            let number = count.as_i64().or_else(|| count.as_str().and_then(|text| text.parse().ok()));
            let number = number.ok_or_else(|| {
                Trouble::invalid(
                    format!("{field}.replicas"),
                    format!("the count of `{name:.100}` is no number"),
                )
            })?;
            edit.replicas.push(serde_json::json!({"name": name, "count": number}));
        }
        for component in options.components {
            if options.ignore_missing_components && !folder.join(&component).exists() {
                continue;
            }
            edit.components.push(component);
        }
        Ok(Job::Kustomize { folder, edit })
    }

    fn chart(&self, located: &Located, source: &Source, folder: PathBuf) -> Result<Job, Trouble> {
        let field = format!("{}.helm", located.field);
        let options: Helm = read(source.helm.as_ref().unwrap_or(&Value::Null), &field)?;
        let mut values = Value::Object(serde_json::Map::new());
        let at = format!("{field}.valueFiles");
        for file in &options.value_files {
            let Some(path) =
                self.value_file(file, source, &folder, &at, options.ignore_missing_value_files)?
            else {
                continue;
            };
            values::merge(&mut values, Self::values_of(&self.context.tree.read(&path)?, &at, file)?);
        }
        let object = options.values_object.filter(|object| !object.is_null());
        match (object, options.values) {
            (Some(object), _) => values::merge(&mut values, object),
            (None, Some(text)) => {
                let at = format!("{field}.values");
                values::merge(&mut values, Self::values_of(text.as_bytes(), &at, "it")?);
            }
            (None, None) => {}
        }
        let at = format!("{field}.parameters");
        let mut parameters = Vec::new();
        for Parameter { name, value, force_string } in options.parameters {
            let value = self.environment(&value, source, &at)?;
            if name.is_empty() || name.contains(['=', ',']) {
                return Err(Trouble::invalid(at, format!("`{name:.200}` is not the name of a value")));
            }
            parameters.push(HelmParameter { name, value, force_string });
        }
        let at = format!("{field}.fileParameters");
        for FileParameter { name, path } in &options.file_parameters {
            let Some(path) = self.value_file(path, source, &folder, &at, false)? else { continue };
            let text = String::from_utf8(self.context.tree.read(&path)?)
                .map_err(|_| Trouble::invalid(at.as_str(), format!("`{}` is no text", path.display())))?;
            values::set(&mut values, name, Value::String(text))
                .map_err(|why| Trouble::unsupported(at.as_str(), why))?;
        }
        let text = |text: Option<String>| text.filter(|text| !text.is_empty());
        Ok(Job::Chart(Box::new(Chart {
            folder,
            release: text(options.release_name).unwrap_or_else(|| self.context.id.name.clone()),
            namespace: text(options.namespace).or_else(|| self.namespace.map(str::to_owned)),
            values,
            parameters,
            own_values: None,
            crds: !options.skip_crds,
            tests: !options.skip_tests,
            hooks: true,
            kube_version: text(options.kube_version),
            api_versions: options.api_versions,
            post: Vec::new(),
        })))
    }

    fn values_of(bytes: &[u8], field: &str, file: &str) -> Result<Value, Trouble> {
        let documents = yaml::documents(bytes)
            .map_err(|error| Trouble::invalid(field, format!("`{file:.200}` is not YAML: {error}")))?;
        match documents.into_iter().next().map(|document| document.value) {
            None => Ok(Value::Object(serde_json::Map::new())),
            Some(value @ Value::Object(_)) => Ok(value),
            Some(_) => Err(Trouble::invalid(field, format!("`{file:.200}` holds no mapping of values"))),
        }
    }

    /// A values file: of the chart's folder, of the repository (`/x`), or of a `ref` (`$name/x`).
    fn value_file(
        &self,
        text: &str,
        source: &Source,
        folder: &Path,
        field: &str,
        may_miss: bool,
    ) -> Result<Option<PathBuf>, Trouble> {
        let first = text.split('/').next().unwrap_or_default();
        let path = if let Some(root) = self.references.get(first) {
            let rest = self.environment(text.get(first.len() + 1..).unwrap_or_default(), source, field)?;
            root.join(rest.trim_start_matches('/'))
        } else {
            let text = self.environment(text, source, field)?;
            if text.contains("://") {
                return Err(Trouble::elsewhere(field, format!("`{text:.300}` is not in this repository")));
            }
            match text.strip_prefix('/') {
                Some(rest) => self.context.tree.root.join(rest),
                None => folder.join(&text),
            }
        };
        if path.symlink_metadata().is_err() {
            if may_miss {
                return Ok(None);
            }
            return Err(Trouble::missing(field, format!("`{text:.300}` is not in the revision")));
        }
        Ok(Some(self.context.tree.resolve(&path)?))
    }

    /// Puts in what Argo CD calls the build environment; a name that it does not have is refused.
    fn environment(&self, text: &str, source: &Source, field: &str) -> Result<String, Trouble> {
        let commit = self.context.identity.commit();
        let value = |name: &str| -> Option<String> {
            Some(match name {
                "ARGOCD_APP_NAME" => self.context.id.name.clone(),
                "ARGOCD_APP_NAMESPACE" => self.namespace.unwrap_or_default().to_owned(),
                "ARGOCD_APP_PROJECT_NAME" => {
                    self.value["spec"]["project"].as_str().unwrap_or("default").to_owned()
                }
                "ARGOCD_APP_REVISION" => commit.to_owned(),
                "ARGOCD_APP_REVISION_SHORT" => commit.chars().take(7).collect(),
                "ARGOCD_APP_REVISION_SHORT_8" => commit.chars().take(8).collect(),
                "ARGOCD_APP_SOURCE_REPO_URL" => source.repo_url.clone(),
                "ARGOCD_APP_SOURCE_PATH" => source.path.clone().unwrap_or_default(),
                "ARGOCD_APP_SOURCE_TARGET_REVISION" => source.target_revision.clone(),
                _ => return None,
            })
        };
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                out.push('$');
                rest = after;
                continue;
            }
            let (name, after) = match rest.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
                Some(parts) => parts,
                None => rest.split_at(
                    rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len()),
                ),
            };
            let Some(value) = value(name) else {
                let why = format!("`{text:.200}` names `${name:.100}`, which is none of Argo CD's own names");
                return Err(Trouble::unsupported(field, why));
            };
            out.push_str(&value);
            rest = after;
        }
        out.push_str(rest);
        Ok(out)
    }
}

fn directory(field: &str, options: Option<&Value>, folder: PathBuf) -> Result<Job, Trouble> {
    let field = format!("{field}.directory");
    let options: DirectoryOptions = read(options.unwrap_or(&Value::Null), &field)?;
    refuse(options.jsonnet.as_ref(), format!("{field}.jsonnet"), "Jsonnet is not rendered here")?;
    let text = |text: Option<String>| text.filter(|text| !text.is_empty());
    let (include, exclude) = (text(options.include), text(options.exclude));
    Ok(Job::Directory(Directory { folder, recurse: options.recurse, include, exclude }))
}
