//! Argo CD's `ApplicationSet`: the parameters that its generators give, and its template filled in.
//!
//! Generators: a list, and the folders and files of this repository. Others ask clusters, hosts and
//! services, which a build does not have. Templates: `{{name}}`, and with `goTemplate` fields
//! (`{{ .path.basename }}`), whole or within text; anything that computes is refused by name.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::error::Trouble;
use super::fields::{read, refuse};
use super::glob::{Stars, matches};
use super::job::Context;
use super::values::merge;
use crate::fsio::limits;
use crate::model::yaml;

/// The most Applications of one set.
const MOST: usize = 10_000;
/// Folders and files of a repository that are looked at.
const MOST_PATHS: usize = 500_000;
/// Mappings within mappings of a parameters file.
const DEPTH: usize = 32;

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    generators: Vec<Value>,
    template: Value,
    template_patch: Option<Value>,
    go_template: bool,
    go_template_options: Value,
    sync_policy: Value,
    strategy: Value,
    preserved_fields: Value,
    ignore_application_differences: Value,
    apply_nested_selectors: Value,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct ListGenerator {
    elements: Vec<Map<String, Value>>,
    elements_yaml: Option<String>,
    template: Value,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct GitGenerator {
    #[serde(rename = "repoURL")]
    repo_url: String,
    revision: String,
    directories: Vec<PathRule>,
    files: Vec<PathRule>,
    values: BTreeMap<String, String>,
    path_param_prefix: String,
    requeue_after_seconds: Value,
    template: Value,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PathRule {
    path: String,
    exclude: bool,
}

/// The parameters of one Application: a mapping for Go templates, else flat names to strings.
type Parameters = Map<String, Value>;

/// The Applications that the set makes, in the order of its generators.
pub(super) fn applications(value: &Value, context: &Context<'_>) -> Result<Vec<Value>, Trouble> {
    let spec: Spec = read(&value["spec"], "spec")?;
    refuse(
        spec.template_patch.as_ref(),
        "spec.templatePatch",
        "patches of the template are not filled in here",
    )?;
    if spec.generators.is_empty() {
        return Err(Trouble::missing("spec.generators", "there is none"));
    }
    let set = Set { context, go: spec.go_template };
    let mut out: Vec<Value> = Vec::new();
    let mut size = 0;
    for (index, generator) in spec.generators.iter().enumerate() {
        let field = format!("spec.generators[{index}]");
        let (parameters, own_template) = set.generate(generator, &field)?;
        let mut template = spec.template.clone();
        // Where a generator's own template says something, it goes over the set's.
        if own_template.is_object() {
            merge(&mut template, own_template);
        }
        for parameters in parameters {
            if out.len() >= MOST {
                return Err(Trouble::unsupported(field, format!("more than {MOST} Applications")));
            }
            let filled = set.fill(&template, &Value::Object(parameters), "spec.template")?;
            size += filled.to_string().len();
            if size as u64 > limits::RENDERED {
                let why = format!("its Applications come to more than {} bytes", limits::RENDERED);
                return Err(Trouble::unsupported(field, why));
            }
            let mut application = json!({
                "apiVersion": value["apiVersion"], "kind": "Application",
                "metadata": filled["metadata"], "spec": filled["spec"],
            });
            if !application["metadata"].is_object() {
                return Err(Trouble::missing("spec.template.metadata", "there is none"));
            }
            // The set's namespace is its Applications'.
            if let Some(namespace) = &context.id.namespace {
                application["metadata"]["namespace"] = Value::String(namespace.clone());
            }
            out.push(application);
        }
    }
    Ok(out)
}

struct Set<'a> {
    context: &'a Context<'a>,
    go: bool,
}

impl Set<'_> {
    /// The parameters of a generator, and its own template.
    fn generate(&self, generator: &Value, field: &str) -> Result<(Vec<Parameters>, Value), Trouble> {
        let Some(entries) = generator.as_object() else {
            return Err(Trouble::invalid(field, "no mapping"));
        };
        let mut found = None;
        for (name, value) in entries.iter().filter(|(_, value)| !value.is_null()) {
            match name.as_str() {
                "list" | "git" => found = Some((name.as_str(), value)),
                "selector" => {
                    let empty = value.as_object().is_some_and(Map::is_empty);
                    refuse(
                        (!empty).then_some(value),
                        format!("{field}.selector"),
                        "parameters are not selected here",
                    )?;
                }
                "matrix" | "merge" => {
                    return Err(Trouble::unsupported(
                        format!("{field}.{name}"),
                        "generators are not combined here: write out the combinations as a `list` of elements",
                    ));
                }
                other => {
                    return Err(Trouble::unsupported(
                        format!("{field}.{other}"),
                        "a build has nothing to ask for it: a `list` of elements, or folders or files of this \
                         repository (`git`), give the same Applications everywhere",
                    ));
                }
            }
        }
        match found {
            Some(("list", value)) => self.list(value, &format!("{field}.list")),
            Some((_, value)) => self.git(value, &format!("{field}.git")),
            None => Err(Trouble::invalid(field, "no generator")),
        }
    }

    fn list(&self, value: &Value, field: &str) -> Result<(Vec<Parameters>, Value), Trouble> {
        let ListGenerator { mut elements, elements_yaml, template } = read(value, field)?;
        if let Some(text) = elements_yaml.filter(|text| !text.is_empty()) {
            let at = format!("{field}.elementsYaml");
            if text.contains("{{") {
                return Err(Trouble::unsupported(at, "a template within is not filled in here"));
            }
            let list = yaml::one_document(text.as_bytes())
                .map_err(|error| Trouble::invalid(at.as_str(), error.to_string()))?;
            let more: Vec<Map<String, Value>> = Deserialize::deserialize(&list)
                .map_err(|_| Trouble::invalid(at, "not a list of mappings"))?;
            elements.extend(more);
        }
        if !self.go {
            for (index, element) in elements.iter_mut().enumerate() {
                *element = flat_element(element).map_err(|name| {
                    Trouble::invalid(
                        format!("{field}.elements[{index}].{name}"),
                        "not a string, which a set without `goTemplate` wants",
                    )
                })?;
            }
        }
        Ok((elements, template))
    }

    fn git(&self, value: &Value, field: &str) -> Result<(Vec<Parameters>, Value), Trouble> {
        let generator: GitGenerator = read(value, field)?;
        let GitGenerator { repo_url, revision, directories, files, .. } = &generator;
        self.context.is_here(
            repo_url,
            revision,
            &format!("{field}.repoURL"),
            &format!("{field}.revision"),
        )?;
        let mut out = Vec::new();
        if directories.is_empty() && files.is_empty() {
            return Err(Trouble::missing(field, "neither `directories` nor `files`"));
        }
        // With folders, Argo CD passes over files.
        if directories.is_empty() {
            let paths = all_paths(&self.context.tree.root, false)?;
            for path in chosen_files(&paths, files, &format!("{field}.files"))? {
                for content in self.parameters_of(&path, field)? {
                    out.push(self.parameters(&path, Some(content), &generator, field)?);
                }
            }
        } else {
            let paths = all_paths(&self.context.tree.root, true)?;
            for path in chosen(&paths, directories, Stars::Single, &format!("{field}.directories"))? {
                out.push(self.parameters(&path, None, &generator, field)?);
            }
        }
        Ok((out, generator.template))
    }

    /// The mapping of a parameters file, or those of its list.
    fn parameters_of(&self, path: &str, field: &str) -> Result<Vec<Map<String, Value>>, Trouble> {
        let bytes = self.context.tree.read(&self.context.tree.root.join(path))?;
        let at = format!("{field}.files");
        let documents = yaml::documents(&bytes)
            .map_err(|error| Trouble::invalid(at.as_str(), format!("{path}: {error}")))?;
        match documents.into_iter().next().map(|document| document.value) {
            None => Ok(vec![Map::new()]),
            Some(Value::Object(entries)) => Ok(vec![entries]),
            Some(Value::Array(items)) if items.is_empty() => Ok(vec![Map::new()]),
            Some(Value::Array(items)) => items
                .into_iter()
                .map(|item| match item {
                    Value::Object(entries) => Ok(entries),
                    _ => Err(Trouble::invalid(at.as_str(), format!("{path}: not a list of mappings"))),
                })
                .collect(),
            Some(_) => Err(Trouble::invalid(at, format!("{path}: neither a mapping nor a list of mappings"))),
        }
    }

    fn parameters(
        &self,
        path: &str,
        content: Option<Map<String, Value>>,
        generator: &GitGenerator,
        field: &str,
    ) -> Result<Parameters, Trouble> {
        let (folder, file) = match (&content, path.rsplit_once('/')) {
            (None, _) => (path, None),
            (Some(_), Some((folder, file))) => (folder, Some(file)),
            (Some(_), None) => (".", Some(path)),
        };
        let base = folder.rsplit('/').next().unwrap_or(folder);
        let mut parts = vec![("basename", base.to_owned()), ("basenameNormalized", normalized(base))];
        if let Some(file) = file {
            parts.push(("filename", file.to_owned()));
            parts.push(("filenameNormalized", normalized(file)));
        }
        let prefix = &generator.path_param_prefix;
        let mut out = Map::new();
        if self.go {
            out = content.unwrap_or_default();
            let mut about: Map<String, Value> =
                parts.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
            about.insert("path".to_owned(), folder.into());
            about.insert("segments".to_owned(), folder.split('/').collect::<Vec<_>>().into());
            if prefix.is_empty() {
                out.insert("path".to_owned(), about.into());
            } else {
                out.insert(prefix.clone(), json!({"path": about}));
            }
        } else {
            flatten(&Value::Object(content.unwrap_or_default()), String::new(), &mut out, 0)
                .map_err(|why| Trouble::unsupported(format!("{field}.files"), format!("{path}: {why}")))?;
            let name = if prefix.is_empty() { "path".to_owned() } else { format!("{prefix}.path") };
            for (part, value) in parts {
                out.insert(format!("{name}.{part}"), value.into());
            }
            for (index, segment) in folder.split('/').enumerate().filter(|(_, segment)| !segment.is_empty()) {
                out.insert(format!("{name}[{index}]"), segment.into());
            }
            out.insert(name, folder.into());
        }
        let known = Value::Object(out.clone());
        let mut values = Map::new();
        for (name, template) in &generator.values {
            let filled = self.text(template, &known, &format!("{field}.values.{name}"))?;
            values.insert(name.clone(), filled.into());
        }
        if self.go {
            if !values.is_empty() {
                out.insert("values".to_owned(), values.into());
            }
        } else {
            out.extend(values.into_iter().map(|(name, value)| (format!("values.{name}"), value)));
        }
        Ok(out)
    }

    /// Fills in the strings of a template, keys too. Depth is bounded by the reader of the value.
    fn fill(&self, template: &Value, parameters: &Value, field: &str) -> Result<Value, Trouble> {
        Ok(match template {
            Value::String(text) => Value::String(self.text(text, parameters, field)?),
            Value::Array(items) => {
                let items = items.iter().enumerate();
                let item =
                    |(at, item): (usize, &Value)| self.fill(item, parameters, &format!("{field}[{at}]"));
                Value::Array(items.map(item).collect::<Result<_, _>>()?)
            }
            Value::Object(entries) => {
                let mut out = Map::new();
                for (key, value) in entries {
                    let at = format!("{field}.{key}");
                    out.insert(self.text(key, parameters, &at)?, self.fill(value, parameters, &at)?);
                }
                Value::Object(out)
            }
            other => other.clone(),
        })
    }

    fn text(&self, text: &str, parameters: &Value, field: &str) -> Result<String, Trouble> {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("{{") {
            out.push_str(&rest[..at]);
            let inner = &rest[at + 2..];
            let Some(end) = inner.find("}}") else {
                return Err(Trouble::invalid(field, format!("`{text:.200}` has `{{{{` without `}}}}`")));
            };
            let expression = inner[..end].trim();
            let value =
                if self.go { go_field(expression, parameters) } else { plain(expression, parameters) };
            out.push_str(&value.map_err(|why| Trouble::unsupported(field, why))?);
            rest = &inner[end + 2..];
        }
        out.push_str(rest);
        Ok(out)
    }
}

fn plain(name: &str, parameters: &Value) -> Result<String, String> {
    parameters.get(name).and_then(Value::as_str).map(str::to_owned).ok_or_else(|| {
        let known = parameters.as_object().map(|known| known.keys().cloned().collect::<Vec<_>>().join(", "));
        format!(
            "`{{{{{name:.100}}}}}` is none of the generator's parameters ({:.300})",
            known.unwrap_or_default()
        )
    })
}

fn go_field(expression: &str, parameters: &Value) -> Result<String, String> {
    let is_name = |part: &str| {
        !part.is_empty()
            && part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    // `index .path.segments 1` is what the documentation writes for a part of the path.
    let (path, index) = match expression.strip_prefix("index ").and_then(|rest| rest.trim().rsplit_once(' '))
    {
        Some((path, index)) if index.bytes().all(|b| b.is_ascii_digit()) => {
            (path.trim(), index.parse::<usize>().ok())
        }
        _ => (expression, None),
    };
    let parts: Vec<&str> = path.strip_prefix('.').map(|path| path.split('.').collect()).unwrap_or_default();
    if parts.is_empty() || !parts.iter().all(|part| is_name(part)) {
        return Err(format!(
            "`{{{{ {expression:.200} }}}}` computes something; only fields (`{{{{ .name.field }}}}`) and \
             `index .name.field NUMBER` are filled in here"
        ));
    }
    let mut value = parts.iter().try_fold(parameters, |value, part| value.get(part));
    if let Some(index) = index {
        value = value.and_then(|value| value.get(index));
    }
    match value {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Bool(flag)) => Ok(flag.to_string()),
        Some(Value::Number(number)) if !number.is_f64() => Ok(number.to_string()),
        Some(_) => {
            Err(format!("`{{{{ {expression:.200} }}}}` is neither text nor a whole number nor a boolean"))
        }
        None => Err(format!("`{{{{ {expression:.200} }}}}` is none of the generator's parameters")),
    }
}

/// An element of a list as flat parameters; the name of what is no string otherwise.
fn flat_element(element: &Map<String, Value>) -> Result<Parameters, String> {
    let mut out = Map::new();
    for (key, value) in element {
        match value {
            Value::String(text) => {
                out.insert(key.clone(), text.as_str().into());
            }
            Value::Object(values) if key == "values" => {
                for (name, value) in values {
                    let text = value.as_str().ok_or_else(|| format!("values.{name}"))?;
                    out.insert(format!("values.{name}"), text.into());
                }
            }
            _ => return Err(key.clone()),
        }
    }
    Ok(out)
}

/// Nested mappings as names with dots.
fn flatten(value: &Value, name: String, out: &mut Parameters, depth: usize) -> Result<(), String> {
    if depth > DEPTH {
        return Err(format!("more than {DEPTH} deep"));
    }
    let join = |part: &str| if name.is_empty() { part.to_owned() } else { format!("{name}.{part}") };
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                flatten(value, join(key), out, depth + 1)?;
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                flatten(item, join(&at.to_string()), out, depth + 1)?;
            }
        }
        Value::String(text) => {
            out.insert(name, text.as_str().into());
        }
        Value::Number(number) if number.is_f64() => {
            return Err(format!("`{name}` is a number with a fraction: put it in quotes"));
        }
        Value::Null => {
            out.insert(name, "<nil>".into());
        }
        other => {
            out.insert(name, other.to_string().into());
        }
    }
    Ok(())
}

/// A name that a resource may have, as Argo CD makes it: lower case, other characters dashes.
fn normalized(name: &str) -> String {
    let lower: String = name
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' { c } else { '-' })
        .take(253)
        .collect();
    lower.trim_matches(['-', '.']).to_owned()
}

/// Every folder (or file) of the tree but hidden folders, below the root, sorted.
fn all_paths(root: &Path, folders: bool) -> Result<Vec<String>, Trouble> {
    let mut out = Vec::new();
    let mut queue = vec![(root.to_owned(), String::new())];
    let io = |path: &str, source| {
        Trouble::Render(Box::new(crate::source::render::RenderError::Io { path: path.to_owned(), source }))
    };
    while let Some((folder, label)) = queue.pop() {
        for entry in fs::read_dir(&folder).map_err(|error| io(&label, error))? {
            let entry = entry.map_err(|error| io(&label, error))?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            let kind = entry.file_type().map_err(|error| io(&label, error))?;
            let path = if label.is_empty() { name.clone() } else { format!("{label}/{name}") };
            if kind.is_dir() {
                // Argo CD passes over hidden folders when it looks for folders, not for files.
                if folders && name.starts_with('.') {
                    continue;
                }
                queue.push((entry.path(), path.clone()));
            }
            if kind.is_dir() == folders {
                out.push(path);
            }
            if out.len() + queue.len() > MOST_PATHS {
                return Err(Trouble::unsupported("spec.generators", format!("more than {MOST_PATHS} paths")));
            }
        }
    }
    out.sort();
    Ok(out)
}

/// Those of `paths` that a rule takes and none leaves out.
fn chosen(paths: &[String], rules: &[PathRule], stars: Stars, field: &str) -> Result<Vec<String>, Trouble> {
    let mut out = Vec::new();
    for path in paths {
        let (mut taken, mut left_out) = (false, false);
        for rule in rules {
            let fits = matches(&rule.path, path, stars).ok_or_else(|| {
                Trouble::invalid(field, format!("`{:.200}` is not a pattern of paths", rule.path))
            })?;
            taken |= fits && !rule.exclude;
            left_out |= fits && rule.exclude;
        }
        if taken && !left_out {
            out.push(path.clone());
        }
    }
    Ok(out)
}

/// The files that rules take. Argo CD has two ways of reading their patterns, and a setting of its own
/// says which: where they take different files, what the set makes is not known here.
fn chosen_files(paths: &[String], rules: &[PathRule], field: &str) -> Result<Vec<String>, Trouble> {
    let by_component = chosen(paths, rules, Stars::Component, field)?;
    let greedy = chosen(paths, rules, Stars::Greedy, field)?;
    // Both are sorted, as the paths are.
    let other = |a: &[String], b: &[String]| a.iter().find(|path| b.binary_search(path).is_err()).cloned();
    match other(&by_component, &greedy).or_else(|| other(&greedy, &by_component)) {
        None => Ok(by_component),
        Some(path) => Err(Trouble::unsupported(
            field,
            format!(
                "whether `{path:.300}` is taken depends on a setting of Argo CD (`new git file globbing`): write \
                     patterns that both ways read alike, or name the files"
            ),
        )),
    }
}
