//! Kustomizations: looked through first, then built, then asked where each object comes from.
//!
//! What is applied is what a plain build writes. A second build, through a wrapper that asks for
//! origin annotations, only tells the files; nothing of it reaches the release.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::tool::{self, RenderTools};
use super::tree::{Scratch, Tree};
use super::{RenderError, objects_of};
use crate::model::{ObjectId, Origin, RenderedObject, yaml};

/// The names that kustomize looks for.
pub(in crate::source) const FILES: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];
const ORIGIN: &str = "config.kubernetes.io/origin";

/// Renders the kustomization in `folder` (a path below the tree).
pub(in crate::source) fn render(
    tree: &Tree,
    folder: &Path,
    tools: &RenderTools,
) -> Result<Vec<RenderedObject>, RenderError> {
    let label = tree.label(folder);
    Look { tree, seen: BTreeSet::new() }.folder(folder)?;
    let tool = tools.choose().ok_or_else(|| RenderError::NoTool { folder: label.clone() })?;

    let scratch = Scratch::beside(&tree.root)?;
    let output = tool::kustomize(tool, folder, &label, &scratch.0)?;
    let whole = Origin { file: label.clone(), ..Origin::default() };
    let documents = yaml::documents(&output)
        .map_err(|error| RenderError::Yaml { file: format!("the rendering of `{label}`"), error })?;
    let mut objects = Vec::new();
    for document in documents {
        objects_of(document.value, &whole, &mut objects)?;
    }

    let origins = origins(tree, folder, tool, &scratch.0).unwrap_or_default();
    let mut lines = Lines { tree, files: HashMap::new() };
    for object in &mut objects {
        if let Some(source) = origins.get(&object.id) {
            object.origin = Origin { file: source.file.clone(), ..Origin::default() };
            if source.holds_object {
                object.origin.line = lines.find(&source.file, &object.id);
            }
        }
    }
    Ok(objects)
}

/// Looks through a kustomization and what it is made of, for names that lead out of the revision.
struct Look<'a> {
    tree: &'a Tree,
    seen: BTreeSet<PathBuf>,
}

impl Look<'_> {
    fn folder(&mut self, first: &Path) -> Result<(), RenderError> {
        let mut queue = vec![first.to_owned()];
        while let Some(folder) = queue.pop() {
            if self.seen.insert(folder.clone()) {
                self.kustomization(&folder, &mut queue)?;
            }
        }
        Ok(())
    }

    fn kustomization(&self, folder: &Path, queue: &mut Vec<PathBuf>) -> Result<(), RenderError> {
        let Some(path) = FILES.iter().map(|name| folder.join(name)).find(|path| path.is_file()) else {
            return Err(RenderError::Missing {
                place: format!("`{}`", self.tree.label(folder)),
                wanted: format!("a `{}`", FILES[0]),
            });
        };
        let file = self.tree.label(&path);
        let bytes = self.tree.read(&path)?;
        let value =
            yaml::one_document(&bytes).map_err(|error| RenderError::Yaml { file: file.clone(), error })?;
        for field in ["helmCharts", "helmChartInflationGenerator", "helmGlobals"] {
            if value.get(field).is_some_and(|charts| !charts.is_null()) {
                return Err(RenderError::HelmCharts { file, field });
            }
        }
        for field in ["resources", "bases", "components", "generators", "transformers", "validators"] {
            for entry in strings(&value[field]) {
                // Generators and transformers may stand in the file itself.
                if entry.contains('\n') {
                    continue;
                }
                let remote = |why| RenderError::Remote {
                    file: file.clone(),
                    field: field.to_owned(),
                    entry: entry.chars().take(300).collect(),
                    why,
                };
                if looks_remote(entry) {
                    return Err(remote("which lies outside the revision"));
                }
                let target = fs::canonicalize(folder.join(entry))
                    .map_err(|_| remote("which is not in the revision"))?;
                if !target.starts_with(&self.tree.root) {
                    return Err(remote("which lies outside the revision"));
                }
                if target.is_dir() {
                    queue.push(target);
                }
            }
        }
        match loaded_files(&value).into_iter().find(|(_, entry)| entry.contains("://")) {
            Some((field, entry)) => Err(RenderError::Remote {
                file,
                field,
                entry: entry.chars().take(300).collect(),
                why: "which lies outside the revision",
            }),
            None => Ok(()),
        }
    }
}

fn strings(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// Every other field whose value kustomize loads as a file, or fetches when it is a URL.
fn loaded_files(value: &Value) -> Vec<(String, &str)> {
    let mut out = Vec::new();
    for field in ["patchesStrategicMerge", "crds", "configurations"] {
        let entries = strings(&value[field]).filter(|entry| !entry.contains('\n'));
        out.extend(entries.map(|entry| (field.to_owned(), entry)));
    }
    for field in ["patches", "patchesJson6902", "replacements"] {
        let items = value[field].as_array().into_iter().flatten();
        out.extend(
            items.filter_map(|item| item["path"].as_str()).map(|entry| (format!("{field}.path"), entry)),
        );
    }
    out.extend(value["openapi"]["path"].as_str().map(|entry| ("openapi.path".to_owned(), entry)));
    for field in ["configMapGenerator", "secretGenerator"] {
        for item in value[field].as_array().into_iter().flatten() {
            for list in ["files", "envs"] {
                out.extend(strings(&item[list]).map(|entry| (format!("{field}.{list}"), entry)));
            }
            out.extend(item["env"].as_str().map(|entry| (format!("{field}.env"), entry)));
        }
    }
    out
}

/// Whether kustomize could take `entry` for a URL or a Git repository. Wider than its own rule.
fn looks_remote(entry: &str) -> bool {
    let lower = entry.to_ascii_lowercase();
    lower.contains([':', '?', '@'])
        || lower.starts_with("github.com")
        || lower.contains("_git/")
        || format!("{lower}/").contains(".git/")
}

/// Where an object comes from.
struct Source {
    file: String,
    /// Whether the file holds the object, or only made it.
    holds_object: bool,
}

/// Asks the tool for the file of each object; `None` when it does not say.
fn origins(
    tree: &Tree,
    folder: &Path,
    tool: (&Path, &str),
    scratch: &Path,
) -> Option<BTreeMap<ObjectId, Source>> {
    // The wrapper lies in a folder of the scratch folder, which lies beside the tree.
    let prefix = format!("../../{}/", tree.root.file_name()?.to_str()?);
    let below = folder.strip_prefix(&tree.root).ok()?.to_str()?;
    let wrapper = scratch.join("wrapper");
    fs::create_dir(&wrapper).ok()?;
    let text = yaml::to_string(&serde_json::json!({
        "resources": [format!("{prefix}{below}")],
        "buildMetadata": ["originAnnotations"],
    }));
    fs::write(wrapper.join(FILES[0]), text).ok()?;
    let output = tool::kustomize(tool, &wrapper, "origins", scratch).ok()?;
    let mut origins = BTreeMap::new();
    for document in yaml::documents(&output).ok()? {
        let Ok(id) = ObjectId::of(&document.value) else { continue };
        let Some(text) = document.value["metadata"]["annotations"][ORIGIN].as_str() else { continue };
        let Ok(origin) = yaml::one_document(text.as_bytes()) else { continue };
        let source = match (origin["path"].as_str(), origin["configuredIn"].as_str()) {
            (Some(path), _) => Source { file: path.to_owned(), holds_object: true },
            (None, Some(path)) => Source { file: path.to_owned(), holds_object: false },
            (None, None) => continue,
        };
        if let Some(file) = source.file.strip_prefix(&prefix) {
            origins.insert(id, Source { file: file.to_owned(), ..source });
        }
    }
    Some(origins)
}

/// A document of a source file: its line, kind and name.
type Entry = (u64, Option<String>, Option<String>);

/// Finds the line of an object in its file.
struct Lines<'a> {
    tree: &'a Tree,
    files: HashMap<String, Vec<Entry>>,
}

impl Lines<'_> {
    fn find(&mut self, file: &str, id: &ObjectId) -> Option<u64> {
        let entries = self.files.entry(file.to_owned()).or_insert_with(|| {
            let path = self.tree.root.join(file);
            let documents = self.tree.read(&path).ok().and_then(|bytes| yaml::documents(&bytes).ok());
            let text = |value: &Value| value.as_str().map(str::to_owned);
            let entry = |document: yaml::Document| {
                let value = document.value;
                (document.line, text(&value["kind"]), text(&value["metadata"]["name"]))
            };
            documents.into_iter().flatten().map(entry).collect()
        });
        // Kustomize may have put something before and after the name.
        let same = |exact: bool| {
            let mut found = entries.iter().filter(|(_, kind, name)| {
                kind.as_ref() == Some(&id.kind)
                    && name
                        .as_ref()
                        .is_some_and(|name| if exact { *name == id.name } else { id.name.contains(name) })
            });
            let first = found.next()?;
            found.next().is_none().then_some(first.0)
        };
        same(true).or_else(|| same(false)).or(match entries.as_slice() {
            [(line, ..)] => Some(*line),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_kustomize_may_fetch() {
        for remote in [
            "https://example.com/a.yaml",
            "github.com/a/b//c?ref=v1",
            "GitHub.com/a/b",
            "git@example.com:a/b",
            "git::https://example.com/a",
            "gh:a/b",
            "example.com/a.git",
            "example.com/a.git/sub",
            "host:path",
            "org/_git/repo",
        ] {
            assert!(looks_remote(remote), "{remote}");
        }
        for local in ["../base", "web.yaml", "deploy/my.gitops", "."] {
            assert!(!looks_remote(local), "{local}");
        }
    }
}
