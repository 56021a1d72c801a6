//! Renders the tree of a revision to the objects that a site will apply.
//!
//! Sources come from `fleetpack.yaml`, else by convention. Every object is named and doubled
//! ones are refused; nothing is added to an object, and nothing taken away.

mod bases;
mod error;
mod files;
mod helm;
mod kustomize;
mod namespace;
mod over;
mod size;
mod tool;
mod tree;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

pub use error::RenderError;
pub use helm::{HelmError, HelmParameter, HelmRequest, HelmValues};
pub use tool::{RenderTools, ToolError};

// What `source::deploy` renders with.
pub(super) use helm::render as chart;
pub(super) use kustomize::{FILES as KUSTOMIZATION_FILES, render as kustomization};
pub(super) use namespace::settle;
pub(super) use over::over;
pub(super) use size::check as check_size;
pub(super) use tree::Tree;

use crate::fsio::limits;
use crate::model::config::{FILE_NAME, HelmConfig, ReleaseConfig, SourceConfig};
use crate::model::{ObjectId, Origin, Progress, RenderedObject};

/// Renders `tree`, the exported tree of a revision.
///
/// `tree` must lie in a private folder of its own: a kustomization is rendered with the help of
/// a folder beside it.
///
/// # Errors
///
/// When a source cannot be read or rendered, an object has no name or stands twice, or nothing
/// comes out at all.
pub fn render(
    tree: &Path,
    config: Option<&ReleaseConfig>,
    tools: &RenderTools,
    progress: &dyn Progress,
) -> Result<Vec<RenderedObject>, RenderError> {
    let tree = Tree::open(tree)?;
    let mut objects = Vec::new();
    match config.filter(|config| !config.sources.is_empty()) {
        None => objects = by_convention(&tree, config, tools, progress)?,
        Some(config) => {
            for source in &config.sources {
                let more = from_source(&tree, source, config, tools, progress)?;
                if more.is_empty() {
                    return Err(RenderError::Empty { source_name: format!("the source `{source}`") });
                }
                objects.extend(more);
            }
        }
    }
    // Tests and the like are not applied: a release of nothing else is empty as well.
    if !objects.iter().any(|object| object.role.is_applied()) {
        return Err(RenderError::Empty { source_name: "the revision".to_owned() });
    }
    if objects.len() > limits::OBJECTS {
        return Err(RenderError::TooMany);
    }
    objects.iter().try_for_each(size::check)?;
    settle(&mut objects);
    refuse_doubled(&objects)?;
    Ok(objects)
}

fn from_source(
    tree: &Tree,
    source: &SourceConfig,
    config: &ReleaseConfig,
    tools: &RenderTools,
    progress: &dyn Progress,
) -> Result<Vec<RenderedObject>, RenderError> {
    let asked_by = || format!("the source `{source}` of `{FILE_NAME}`");
    let path = match source {
        SourceConfig::Kustomize(path) | SourceConfig::Path(path) => path,
        SourceConfig::Helm(chart) => {
            let release = config.metadata.name.clone().into();
            let request = HelmRequest::of(chart, release, Some(&config.target), asked_by());
            return helm::render(tree, &request, tools, progress);
        }
    };
    let at = path.below(&tree.root);
    if fs::symlink_metadata(&at).is_err() {
        return Err(RenderError::Missing { place: asked_by(), wanted: format!("`{path}`") });
    }
    let at = tree.resolve(&at)?;
    if !matches!(source, SourceConfig::Kustomize(_)) {
        return files::explicit(tree, &at);
    }
    // `kustomize: deploy/kustomization.yaml` means its folder.
    let is_file = at.file_name().is_some_and(|name| kustomize::FILES.iter().any(|file| name == *file));
    let folder = if at.is_file() && is_file { at.parent().unwrap_or(&at) } else { &at };
    kustomize::render(tree, folder, tools, progress)
}

fn by_convention(
    tree: &Tree,
    config: Option<&ReleaseConfig>,
    tools: &RenderTools,
    progress: &dyn Progress,
) -> Result<Vec<RenderedObject>, RenderError> {
    if kustomize::FILES.iter().any(|name| tree.root.join(name).is_file()) {
        return kustomize::render(tree, &tree.root, tools, progress);
    }
    if tree.root.join("Chart.yaml").exists() {
        let release = match config {
            Some(config) => config.metadata.name.clone().into(),
            // Not the folder's name: two clones of a repository give the same release.
            None => helm::release_of(tree, &tree.root)?,
        };
        let (chart, target) = (HelmConfig::of_root(), config.map(|config| &config.target));
        let request = HelmRequest::of(&chart, release, target, "the chart at the root".to_owned());
        return helm::render(tree, &request, tools, progress);
    }
    files::by_convention(tree, progress)
}

/// Takes the object, or the objects of a list, that a document holds.
pub(in crate::source) fn objects_of(
    value: Value,
    origin: &Origin,
    out: &mut Vec<RenderedObject>,
) -> Result<(), RenderError> {
    let mut queue = vec![value];
    while let Some(mut value) = queue.pop() {
        // As kubectl does: a kind that ends with `List` and has a list of items is only a wrapping.
        let is_list = value["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
        if is_list && let Some(Value::Array(items)) = value.get_mut("items") {
            queue.extend(items.drain(..).rev());
            continue;
        }
        let id = ObjectId::of(&value).map_err(|why| RenderError::Object { origin: origin.clone(), why })?;
        if out.len() >= limits::OBJECTS {
            return Err(RenderError::TooMany);
        }
        out.push(RenderedObject::new(id, origin.clone(), value));
    }
    Ok(())
}

pub(super) fn refuse_doubled(objects: &[RenderedObject]) -> Result<(), RenderError> {
    let mut seen: HashMap<_, &Origin> = HashMap::with_capacity(objects.len());
    for object in objects {
        let id = &object.id;
        let key = (id.group(), id.kind.as_str(), id.namespace.as_deref(), id.name.as_str());
        if let Some(first) = seen.insert(key, &object.origin) {
            return Err(RenderError::Doubled {
                id: Box::new(id.clone()),
                first: Box::new(first.clone()),
                second: Box::new(object.origin.clone()),
            });
        }
    }
    Ok(())
}
