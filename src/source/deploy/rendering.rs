//! Renders what a deployer names, with the tools that render the sources of `fleetpack.yaml`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::edit::{Edit, Stand};
use super::error::Trouble;
use super::glob::{Stars, matches};
use super::job::{Chart, Directory, Job};
use crate::model::config::SourcePath;
use crate::model::{ObjectRole, Origin, Progress, RenderedObject, yaml};
use crate::source::render::{
    HelmRequest, HelmValues, KUSTOMIZATION_FILES, RenderError, RenderTools, Tree, chart, kustomization,
    objects_of, over,
};

/// Deepest folder that is looked into.
const DEPTH: usize = 64;
/// The file with which a folder says what Flux leaves out.
const SOURCE_IGNORE: &str = ".sourceignore";
/// Files that Flux leaves out of every source.
const FLUX_LEAVES_OUT: &[&str] = &[
    ".flux.yaml",
    ".sops.yaml",
    ".travis.yml",
    ".gitlab-ci.yml",
    "appveyor.yml",
    ".drone.yml",
    "cloudbuild.yaml",
    "codeship-services.yml",
    "codeship-steps.yml",
    ".goreleaser.yml",
    ".goreleaser.yaml",
];

/// What renders.
pub(super) struct Renderer<'a> {
    pub tree: &'a Tree,
    pub tools: &'a RenderTools,
    pub progress: &'a dyn Progress,
}

impl Renderer<'_> {
    /// Renders one source of a deployer, which is called `asked_by` in errors.
    pub fn render(&self, job: Job, asked_by: &str) -> Result<Vec<RenderedObject>, Trouble> {
        match job {
            Job::Directory(directory) => self.directory(&directory),
            Job::Kustomize { folder, edit } => self.kustomize(&folder, &edit, None),
            Job::Flux { folder, edit, has_ignore } => {
                let generated = match kustomization_file(&folder) {
                    Some(_) => None,
                    None => Some(self.generated(&folder, has_ignore)?),
                };
                self.kustomize(&folder, &edit, generated)
            }
            Job::Chart(chart) => self.chart(*chart, asked_by),
        }
    }

    /// Builds a kustomization with the changes; `generated` stands for the file that is not there.
    fn kustomize(
        &self,
        folder: &Path,
        edit: &Edit,
        generated: Option<Value>,
    ) -> Result<Vec<RenderedObject>, Trouble> {
        let stand = if generated.is_none() && edit.is_empty() {
            None
        } else {
            let (path, old, mut value) = match (generated, kustomization_file(folder)) {
                (Some(value), _) => (folder.join(KUSTOMIZATION_FILES[0]), None, value),
                (None, Some(path)) => {
                    let bytes = self.tree.read(&path)?;
                    let file = self.tree.label(&path);
                    let value =
                        yaml::one_document(&bytes).map_err(|error| RenderError::Yaml { file, error })?;
                    (path, Some(bytes), value)
                }
                // The rendering says that it is missing.
                (None, None) => return Ok(kustomization(self.tree, folder, self.tools, self.progress)?),
            };
            edit.apply(&mut value).map_err(|why| Trouble::invalid("spec", why))?;
            Some(Stand::write(&path, old, &value)?)
        };
        let objects = kustomization(self.tree, folder, self.tools, self.progress);
        drop(stand);
        Ok(objects?)
    }

    /// The kustomization that Flux makes of a folder without one.
    fn generated(&self, folder: &Path, has_ignore: bool) -> Result<Value, Trouble> {
        let refuse = |what: &str| {
            let folder = self.tree.label(folder);
            Trouble::unsupported(
                "spec.path",
                format!(
                    "Flux would take the YAML files of `{folder}` but those that {what} leaves out, whose patterns \
                     are not read here: write a `kustomization.yaml` there"
                ),
            )
        };
        if has_ignore {
            return Err(refuse("the source's `spec.ignore` or `spec.sparseCheckout`"));
        }
        let mut above = Some(folder);
        while let Some(folder) = above.filter(|folder| folder.starts_with(&self.tree.root)) {
            if folder.join(SOURCE_IGNORE).exists() {
                return Err(refuse(&format!("`{}`", self.tree.label(&folder.join(SOURCE_IGNORE)))));
            }
            above = folder.parent();
        }
        let mut resources = Vec::new();
        self.scan(folder, ".", &mut resources, 0, &refuse)?;
        Ok(json!({
            "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": resources,
        }))
    }

    /// Collects YAML files in the order of their names, and folders that are kustomizations whole.
    fn scan(
        &self,
        folder: &Path,
        label: &str,
        out: &mut Vec<String>,
        depth: usize,
        refuse: &dyn Fn(&str) -> Trouble,
    ) -> Result<(), Trouble> {
        if depth > DEPTH {
            return Err(Trouble::unsupported("spec.path", format!("folders more than {DEPTH} deep")));
        }
        for path in self.entries(folder)? {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let here = format!("{label}/{name}");
            let kind = path.symlink_metadata().map_err(|source| self.io(&path, source))?.file_type();
            if name == SOURCE_IGNORE {
                return Err(refuse(&format!("`{}`", self.tree.label(&path))));
            }
            let left_out = FLUX_LEAVES_OUT.contains(&name) || matches!(name, ".github" | ".circleci");
            if left_out && (depth == 0 || name.starts_with(".goreleaser") || folder == self.tree.root) {
                continue;
            }
            if kind.is_dir() {
                if kustomization_file(&path).is_some() {
                    out.push(here);
                } else {
                    self.scan(&path, &here, out, depth + 1, refuse)?;
                }
            } else if kind.is_file() && [".yaml", ".yml"].iter().any(|ending| name.ends_with(ending)) {
                out.push(here);
            }
        }
        Ok(())
    }

    /// Plain files, by Argo CD's rules.
    fn directory(&self, directory: &Directory) -> Result<Vec<RenderedObject>, Trouble> {
        let mut files = Vec::new();
        self.files(directory, &directory.folder, "", &mut files, 0)?;
        let mut out = Vec::new();
        for path in files {
            self.file(&path, &mut out)?;
        }
        Ok(out)
    }

    fn files(
        &self,
        directory: &Directory,
        folder: &Path,
        label: &str,
        out: &mut Vec<PathBuf>,
        depth: usize,
    ) -> Result<(), Trouble> {
        if depth > DEPTH {
            return Err(Trouble::unsupported("spec.source.path", format!("folders more than {DEPTH} deep")));
        }
        let fits = |pattern: &Option<String>, path: &str, field: &str| match pattern {
            None => Ok(None),
            Some(pattern) => matches(pattern, path, Stars::Everything).map(Some).ok_or_else(|| {
                Trouble::invalid(field, format!("`{pattern:.200}` is not a pattern of files"))
            }),
        };
        for path in self.entries(folder)? {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let here = if label.is_empty() { name.to_owned() } else { format!("{label}/{name}") };
            let kind = path.symlink_metadata().map_err(|source| self.io(&path, source))?.file_type();
            if kind.is_dir() {
                if directory.recurse {
                    self.files(directory, &path, &here, out, depth + 1)?;
                }
                continue;
            }
            let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
            if !matches!(ending, "yaml" | "yml" | "json" | "jsonnet") || !path.is_file() {
                continue;
            }
            if fits(&directory.exclude, &here, "directory.exclude")? == Some(true)
                || fits(&directory.include, &here, "directory.include")? == Some(false)
            {
                continue;
            }
            if ending == "jsonnet" {
                let file = self.tree.label(&path);
                return Err(Trouble::unsupported(
                    "directory",
                    format!(
                        "`{file}` is Jsonnet, which is not rendered here: `exclude` it, or commit its output"
                    ),
                ));
            }
            out.push(path);
        }
        Ok(())
    }

    /// The objects of one file; a file of something else is passed over, as Argo CD does.
    fn file(&self, path: &Path, out: &mut Vec<RenderedObject>) -> Result<(), Trouble> {
        let file = self.tree.label(path);
        let bytes = self.tree.read(path)?;
        let has = |word: &[u8]| bytes.windows(word.len()).any(|window| window == word);
        if has(b"+argocd:skip-file-rendering") {
            self.progress.note(format!("left out: `{file}` says that Argo CD passes over it"));
            return Ok(());
        }
        let is_manifest = has(b"apiVersion") && has(b"kind") && has(b"metadata");
        let mut objects = Vec::new();
        let result = yaml::documents(&bytes)
            .map_err(|error| RenderError::Yaml { file: file.clone(), error })
            .and_then(|documents| {
                for document in documents {
                    let origin =
                        Origin { file: file.clone(), line: Some(document.line), ..Origin::default() };
                    objects_of(document.value, &origin, &mut objects)?;
                }
                Ok(())
            });
        match result {
            Err(error) if is_manifest || !objects.is_empty() => Err(error.into()),
            Err(_) => {
                self.progress.note(format!("left out: `{file}` holds no Kubernetes object"));
                Ok(())
            }
            Ok(()) => {
                out.append(&mut objects);
                Ok(())
            }
        }
    }

    fn chart(&self, job: Chart, asked_by: &str) -> Result<Vec<RenderedObject>, Trouble> {
        let label = self.tree.label(&job.folder);
        let path: SourcePath = label.parse().map_err(|error| {
            Trouble::invalid("spec", format!("the chart's folder `{label:.300}`: {error}"))
        })?;
        let stand = match &job.own_values {
            None => None,
            Some(_) if !job.folder.is_dir() => {
                let why = "a packaged chart cannot be given other values of its own here: unpack it";
                return Err(Trouble::unsupported("spec.chart.spec.valuesFiles", why));
            }
            Some(values) => {
                let path = job.folder.join("values.yaml");
                let old = path.is_file().then(|| self.tree.read(&path)).transpose()?;
                Some(Stand::write(&path, old, values)?)
            }
        };
        let named = |what: &str, error: &dyn std::fmt::Display| {
            Trouble::invalid("spec", format!("what Helm would be told as {what}: {error}"))
        };
        let apis = job.api_versions.iter().map(|api| api.parse().map_err(|error| named("an API", &error)));
        let kube_version = job.kube_version.map(|version| version.parse()).transpose();
        let namespace = job.namespace.as_deref().unwrap_or("default");
        let request = HelmRequest {
            asked_by: asked_by.to_owned(),
            chart: path,
            release: job.release.parse().map_err(|error| named("the release's name", &error))?,
            namespace: namespace.parse().map_err(|error| named("the namespace", &error))?,
            values: match job.values {
                Value::Object(values) if !values.is_empty() => vec![HelmValues::Inline(values)],
                _ => Vec::new(),
            },
            parameters: job.parameters,
            include_crds: job.crds,
            kube_version: kube_version.map_err(|error| named("Kubernetes' version", &error))?,
            api_versions: apis.collect::<Result<_, _>>()?,
        };
        let objects = chart(self.tree, &request, self.tools, self.progress);
        drop(stand);
        let mut objects = objects?;
        objects.retain(|object| match object.role {
            ObjectRole::Hook => job.hooks,
            ObjectRole::Test => job.tests,
            _ => true,
        });
        for edit in &job.post {
            objects = self.post_render(objects, edit)?;
        }
        Ok(objects)
    }

    /// Puts a kustomization over a chart's objects: not over its hooks, nor over its `crds/`.
    fn post_render(&self, objects: Vec<RenderedObject>, edit: &Edit) -> Result<Vec<RenderedObject>, Trouble> {
        let (changed, mut rest): (Vec<_>, Vec<_>) =
            objects.into_iter().partition(|object| match object.role {
                ObjectRole::Plain => true,
                ObjectRole::Crd => !object.origin.file.contains("crds/"),
                _ => false,
            });
        let mut kustomization = json!({});
        edit.apply(&mut kustomization).map_err(|why| Trouble::invalid("spec.postRenderers", why))?;
        let mut out = over(self.tree, changed, kustomization, self.tools)?;
        out.append(&mut rest);
        Ok(out)
    }

    /// What a folder holds, sorted by name.
    fn entries(&self, folder: &Path) -> Result<Vec<PathBuf>, Trouble> {
        let read = || -> std::io::Result<Vec<PathBuf>> {
            fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect()
        };
        let mut entries = read().map_err(|source| self.io(folder, source))?;
        entries.sort();
        Ok(entries)
    }

    fn io(&self, path: &Path, source: std::io::Error) -> Trouble {
        RenderError::Io { path: self.tree.label(path), source }.into()
    }
}

/// The kustomization of a folder, if it is one.
fn kustomization_file(folder: &Path) -> Option<PathBuf> {
    KUSTOMIZATION_FILES.iter().map(|name| folder.join(name)).find(|path| path.is_file())
}
