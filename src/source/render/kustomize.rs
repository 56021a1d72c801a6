//! Kustomizations: looked through first, then built, then asked where each object comes from.
//!
//! What is applied is what a plain build writes. A second build, through a wrapper that asks for
//! origin annotations, only tells the files; nothing of it reaches the release.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use serde_json::Value;

use super::bases::{self, BaseName, Bases};
use super::tool::{self, RenderTools};
use super::tree::{Scratch, Tree};
use super::{RenderError, objects_of};
use crate::model::{ObjectId, Origin, Progress, RenderedObject, yaml};

/// The names that kustomize looks for.
pub(in crate::source) const FILES: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];
const ORIGIN: &str = "config.kubernetes.io/origin";

/// Renders the kustomization in `folder` (a path below the tree).
pub(in crate::source) fn render(
    tree: &Tree,
    folder: &Path,
    tools: &RenderTools,
    progress: &dyn Progress,
) -> Result<Vec<RenderedObject>, RenderError> {
    let label = tree.label(folder);
    let scratch = Scratch::beside(&tree.root)?;
    let own = Rc::new(Tree { root: tree.root.clone(), elsewhere: tree.elsewhere.clone() });
    let mut look = Look { bases: Bases::new(&scratch.0, &tools.remote, progress), seen: BTreeSet::new() };
    look.folder(Rc::clone(&own), folder)?;
    let tool = tools.choose().ok_or_else(|| RenderError::NoTool { folder: label.clone() })?;

    let output = tool::kustomize(tool, folder, &label, &scratch.0)?;
    let whole = Origin { file: label.clone(), ..Origin::default() };
    let documents = yaml::documents(&output)
        .map_err(|error| RenderError::Yaml { file: format!("the rendering of `{label}`"), error })?;
    let mut objects = Vec::new();
    for document in documents {
        objects_of(document.value, &whole, &mut objects)?;
    }

    let trees: Vec<_> = std::iter::once(&own).chain(look.bases.trees()).collect();
    let origins = origins(&trees, folder, tool, &scratch.0).unwrap_or_default();
    let mut lines = Lines { files: HashMap::new() };
    for object in &mut objects {
        if let Some(source) = origins.get(&object.id) {
            object.origin = Origin { file: source.tree.label(&source.file), ..Origin::default() };
            if source.holds_object {
                object.origin.line = lines.find(source, &object.id);
            }
        }
    }
    Ok(objects)
}

/// Looks through a kustomization and what it is made of, for names that lead out of the revision,
/// and fetches the bases among them that are pinned.
struct Look<'a> {
    bases: Bases<'a>,
    seen: BTreeSet<PathBuf>,
}

impl Look<'_> {
    fn folder(&mut self, tree: Rc<Tree>, first: &Path) -> Result<(), RenderError> {
        let mut queue = vec![(tree, first.to_owned())];
        while let Some((tree, folder)) = queue.pop() {
            if self.seen.insert(folder.clone()) {
                self.kustomization(&tree, &folder, &mut queue)?;
            }
        }
        Ok(())
    }

    fn kustomization(
        &mut self,
        tree: &Rc<Tree>,
        folder: &Path,
        queue: &mut Vec<(Rc<Tree>, PathBuf)>,
    ) -> Result<(), RenderError> {
        let Some(path) = FILES.iter().map(|name| folder.join(name)).find(|path| path.is_file()) else {
            return Err(RenderError::Missing {
                place: format!("`{}`", tree.label(folder)),
                wanted: format!("a `{}`", FILES[0]),
            });
        };
        let file = tree.label(&path);
        let bytes = tree.read(&path)?;
        let value =
            yaml::one_document(&bytes).map_err(|error| RenderError::Yaml { file: file.clone(), error })?;
        for field in ["helmCharts", "helmChartInflationGenerator", "helmGlobals"] {
            if value.get(field).is_some_and(|charts| !charts.is_null()) {
                return Err(RenderError::HelmCharts { file, field });
            }
        }
        let refused = |field: &str, entry: &str, why| RenderError::Remote {
            file: file.clone(),
            line: line_of(&bytes, entry),
            field: field.to_owned(),
            entry: entry.chars().take(300).collect(),
            why,
        };
        let mut fetched = Vec::new();
        for field in ["resources", "bases", "components", "generators", "transformers", "validators"] {
            for entry in strings(&value[field]) {
                // Generators and transformers may stand in the file itself.
                if entry.contains('\n') {
                    continue;
                }
                let remote = |why| refused(field, entry, why);
                if looks_remote(entry) {
                    if !bases::FIELDS.contains(&field) {
                        return Err(remote("which lies outside the revision"));
                    }
                    let base = BaseName::parse(entry).map_err(remote)?;
                    let (tree, target) = self.bases.fetch(&base, &file, entry)?;
                    fetched.push((entry.to_owned(), target.clone()));
                    queue.push((tree, target));
                    continue;
                }
                let target = fs::canonicalize(folder.join(entry))
                    .map_err(|_| remote("which is not in the revision"))?;
                if !target.starts_with(&tree.root) {
                    return Err(remote("which lies outside the revision"));
                }
                if target.is_dir() {
                    queue.push((Rc::clone(tree), target));
                }
            }
        }
        if let Some((field, entry)) =
            loaded_files(&value).into_iter().find(|(_, entry)| entry.contains("://"))
        {
            return Err(refused(&field, entry, "which lies outside the revision"));
        }
        if fetched.is_empty() {
            return Ok(());
        }
        let path = tree.resolve(&path)?;
        self.bases.lead(&path, folder, value, &fetched)
    }
}

/// The line on which `text` stands, if it stands on one alone.
fn line_of(bytes: &[u8], text: &str) -> Option<u64> {
    let content = String::from_utf8_lossy(bytes);
    let mut found = (1..).zip(content.lines()).filter(|(_, line)| line.contains(text));
    let first = found.next()?;
    found.next().is_none().then_some(first.0)
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
    tree: Rc<Tree>,
    /// Its path, below that tree.
    file: PathBuf,
    /// Whether the file holds the object, or only made it.
    holds_object: bool,
}

/// Asks the tool for the file of each object; `None` when it does not say.
fn origins(
    trees: &[&Rc<Tree>],
    folder: &Path,
    tool: (&Path, &str),
    scratch: &Path,
) -> Option<BTreeMap<ObjectId, Source>> {
    let wrapper = scratch.join("wrapper");
    fs::create_dir(&wrapper).ok()?;
    let wrapper = fs::canonicalize(wrapper).ok()?;
    let text = yaml::to_string(&serde_json::json!({
        "resources": [bases::relative(&wrapper, folder)],
        "buildMetadata": ["originAnnotations"],
    }));
    fs::write(wrapper.join(FILES[0]), text).ok()?;
    let output = tool::kustomize(tool, &wrapper, "origins", scratch).ok()?;
    let mut origins = BTreeMap::new();
    for document in yaml::documents(&output).ok()? {
        let Ok(id) = ObjectId::of(&document.value) else { continue };
        let Some(text) = document.value["metadata"]["annotations"][ORIGIN].as_str() else { continue };
        let Ok(origin) = yaml::one_document(text.as_bytes()) else { continue };
        let (path, holds_object) = match (origin["path"].as_str(), origin["configuredIn"].as_str()) {
            (Some(path), _) => (path, true),
            (None, Some(path)) => (path, false),
            (None, None) => continue,
        };
        let file = plain(&wrapper.join(path));
        // The trees of bases lie beside the revision's, so a file lies in one of them.
        if let Some(tree) = trees.iter().find(|tree| file.starts_with(&tree.root)) {
            origins.insert(id, Source { tree: Rc::clone(tree), file, holds_object });
        }
    }
    Some(origins)
}

/// A path without its `..`, by its text alone: where a link leads does not matter here.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        if part == Component::ParentDir {
            out.pop();
        } else {
            out.push(part);
        }
    }
    out
}

/// A document of a source file: its line, kind and name.
type Entry = (u64, Option<String>, Option<String>);

/// Finds the line of an object in its file.
struct Lines {
    files: HashMap<PathBuf, Vec<Entry>>,
}

impl Lines {
    fn find(&mut self, source: &Source, id: &ObjectId) -> Option<u64> {
        let entries = self.files.entry(source.file.clone()).or_insert_with(|| {
            let documents =
                source.tree.read(&source.file).ok().and_then(|bytes| yaml::documents(&bytes).ok());
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
