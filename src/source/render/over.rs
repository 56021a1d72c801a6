//! A kustomization over objects that are rendered already.

use std::collections::HashMap;
use std::fs;

use serde_json::Value;

use super::kustomize::FILES;
use super::tool::{self, RenderTools};
use super::tree::{Scratch, Tree};
use super::{RenderError, objects_of};
use crate::model::{Origin, RenderedObject, yaml};

/// Builds `kustomization`, whose resources are `objects` alone. Objects keep where they come from and
/// what they are for; a name that the kustomization changes does not, and comes from `objects` as
/// a whole.
///
/// # Errors
///
/// When there is no tool, or it refuses.
pub(in crate::source) fn over(
    tree: &Tree,
    objects: Vec<RenderedObject>,
    mut kustomization: Value,
    tools: &RenderTools,
) -> Result<Vec<RenderedObject>, RenderError> {
    let Some(first) = objects.first() else { return Ok(objects) };
    let whole = Origin { line: None, ..first.origin.clone() };
    let label = whole.file.clone();
    let tool = tools.choose().ok_or_else(|| RenderError::NoTool { folder: label.clone() })?;
    let scratch = Scratch::beside(&tree.root)?;
    let folder = scratch.0.join("over");
    let io = |source| RenderError::Io { path: folder.display().to_string(), source };
    fs::create_dir(&folder).map_err(io)?;
    let documents: Vec<String> = objects.iter().map(|object| yaml::to_string(&object.value)).collect();
    fs::write(folder.join("objects.yaml"), documents.join("---\n")).map_err(io)?;
    kustomization["resources"] = Value::from(vec!["objects.yaml"]);
    fs::write(folder.join(FILES[0]), yaml::to_string(&kustomization)).map_err(io)?;

    let output = tool::kustomize(tool, &folder, &label, &scratch.0)?;
    let documents = yaml::documents(&output)
        .map_err(|error| RenderError::Yaml { file: format!("the rendering of `{label}`"), error })?;
    let mut out = Vec::new();
    for document in documents {
        objects_of(document.value, &whole, &mut out)?;
    }
    let mut before: HashMap<_, _> = objects.into_iter().map(|object| (object.id.clone(), object)).collect();
    for object in &mut out {
        let same = before.remove(&object.id).or_else(|| {
            // The namespace may have been put in.
            let mut id = object.id.clone();
            id.namespace = None;
            before.remove(&id)
        });
        if let Some(same) = same {
            object.origin = same.origin;
            object.role = same.role;
            object.default_namespace = same.default_namespace;
        }
    }
    Ok(out)
}
