//! What a deployer has rendered, once its fields are understood.

use std::path::PathBuf;

use serde_json::Value;

use super::edit::Edit;
use super::error::Trouble;
use super::identity::Identity;
use crate::model::ObjectId;
use crate::model::config::SourcePath;
use crate::model::deployers::ReplacedSource;
use crate::source::render::{HelmParameter, KUSTOMIZATION_FILES, Tree};

/// One source to render.
#[derive(Debug)]
pub(super) enum Job {
    /// Plain files, as Argo CD takes them.
    Directory(Directory),
    /// A kustomization, changed first.
    Kustomize {
        /// Its folder.
        folder: PathBuf,
        /// The changes.
        edit: Edit,
    },
    /// A kustomization as Flux builds it: made of all YAML files where there is none.
    Flux {
        /// The folder.
        folder: PathBuf,
        /// The changes.
        edit: Edit,
        /// Whether the source leaves files out by patterns that are not read here.
        has_ignore: bool,
    },
    /// A Helm chart.
    Chart(Box<Chart>),
}

/// Plain files of a folder.
#[derive(Debug)]
pub(super) struct Directory {
    pub folder: PathBuf,
    pub recurse: bool,
    pub include: Option<String>,
    pub exclude: Option<String>,
}

/// A chart and all that it is rendered with.
#[derive(Debug)]
pub(super) struct Chart {
    pub folder: PathBuf,
    pub release: String,
    pub namespace: Option<String>,
    /// What goes over the chart's own values.
    pub values: Value,
    /// Single values that go over those.
    pub parameters: Vec<HelmParameter>,
    /// What stands in for the chart's own values.
    pub own_values: Option<Value>,
    pub crds: bool,
    pub tests: bool,
    pub hooks: bool,
    pub kube_version: Option<String>,
    pub api_versions: Vec<String>,
    /// Flux's kustomizations over the output, in order.
    pub post: Vec<Edit>,
}

/// What the reading of a deployer leans on.
pub(super) struct Context<'a> {
    pub tree: &'a Tree,
    pub identity: &'a Identity,
    /// The deployer.
    pub id: &'a ObjectId,
    /// What the configuration says about it.
    pub replaced: Vec<&'a ReplacedSource>,
}

impl Context<'_> {
    /// The folder that stands in for the source at `index` of several, or for the only one.
    pub fn stand_in(&self, index: Option<usize>) -> Option<&SourcePath> {
        let fits = |entry: &&&ReplacedSource| entry.source.is_none() || entry.source == index;
        // One that says which source it means goes before one that does not.
        let exact = self.replaced.iter().find(|entry| entry.source.is_some() && entry.source == index);
        exact.or_else(|| self.replaced.iter().find(fits)).map(|entry| &entry.path)
    }

    /// Whether a Git source is this repository, at the revision that is built.
    pub fn is_here(
        &self,
        url: &str,
        revision: &str,
        field: &str,
        revision_field: &str,
    ) -> Result<(), Trouble> {
        if !self.identity.is_here(url) {
            return Err(Trouble::elsewhere(field, format!("`{url:.300}` is not this repository")));
        }
        self.is_now(revision, revision_field)
    }

    /// Whether `revision` is the one that is built.
    pub fn is_now(&self, revision: &str, field: &str) -> Result<(), Trouble> {
        if self.identity.is_now(revision) {
            return Ok(());
        }
        let why = format!(
            "`{revision:.200}` is not known to be the revision that is built ({})",
            self.identity.short()
        );
        Err(Trouble::elsewhere(field, why))
    }

    /// A path of the repository; it must be there, and lie within.
    pub fn path(&self, text: &str, field: &str) -> Result<PathBuf, Trouble> {
        let relative = text.trim_start_matches('/');
        let path = if relative.is_empty() { self.tree.root.clone() } else { self.tree.root.join(relative) };
        if path.symlink_metadata().is_err() {
            return Err(Trouble::missing(field, format!("`{text:.300}` is not in the revision")));
        }
        Ok(self.tree.resolve(&path)?)
    }

    /// A folder of the repository.
    pub fn folder(&self, text: &str, field: &str) -> Result<PathBuf, Trouble> {
        let path = self.path(text, field)?;
        if path.is_dir() {
            Ok(path)
        } else {
            Err(Trouble::invalid(field, format!("`{text:.300}` is not a folder")))
        }
    }

    /// A folder that the configuration names.
    pub fn stand_in_folder(&self, path: &SourcePath) -> Result<PathBuf, Trouble> {
        self.folder(&path.to_string(), "deployers.replace.path")
    }
}

/// Whether a folder is a chart.
pub(super) fn is_chart(folder: &std::path::Path) -> bool {
    folder.join("Chart.yaml").is_file()
}

/// Whether a folder is a kustomization.
pub(super) fn is_kustomization(folder: &std::path::Path) -> bool {
    KUSTOMIZATION_FILES.iter().any(|name| folder.join(name).is_file())
}
