//! Changes that a deployer makes to a kustomization before it builds it.
//!
//! Argo CD runs `kustomize edit` in the folder, Flux writes the file anew: both change the file in
//! place, and so does this, in the exported tree, and puts the old one back afterwards.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::model::yaml;
use crate::source::render::RenderError;

/// What is changed.
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "the switches of `kustomize edit`")]
pub(super) struct Edit {
    pub name_prefix: Option<String>,
    pub name_suffix: Option<String>,
    pub namespace: Option<String>,
    /// `{name, newName, newTag, digest}`; one of the same name is replaced.
    pub images: Vec<Value>,
    /// `{name, count}`; one of the same name is replaced.
    pub replicas: Vec<Value>,
    pub labels: BTreeMap<String, String>,
    pub force_labels: bool,
    /// Labels go to metadata (and with the second, to templates) but not into selectors.
    pub labels_without_selectors: bool,
    pub labels_in_templates: bool,
    pub annotations: BTreeMap<String, String>,
    pub force_annotations: bool,
    pub patches: Vec<Value>,
    pub components: Vec<String>,
}

impl Edit {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Changes the kustomization.
    ///
    /// # Errors
    ///
    /// A sentence that says what does not fit.
    pub fn apply(&self, kustomization: &mut Value) -> Result<(), String> {
        let Some(file) = kustomization.as_object_mut() else {
            return Err("the kustomization is no mapping".to_owned());
        };
        for (field, value) in [
            ("namePrefix", &self.name_prefix),
            ("nameSuffix", &self.name_suffix),
            ("namespace", &self.namespace),
        ] {
            if let Some(value) = value {
                file.insert(field.to_owned(), Value::String(value.clone()));
            }
        }
        for (field, entries) in [("images", &self.images), ("replicas", &self.replicas)] {
            for entry in entries {
                let list = list(file, field)?;
                match list.iter_mut().find(|old| old["name"] == entry["name"]) {
                    Some(old) => *old = entry.clone(),
                    None => list.push(entry.clone()),
                }
            }
        }
        if self.labels_without_selectors && !self.labels.is_empty() {
            list(file, "labels")?.push(json!({
                "pairs": self.labels, "includeSelectors": false, "includeTemplates": self.labels_in_templates,
            }));
        } else {
            pairs(file, "commonLabels", &self.labels, self.force_labels)?;
        }
        pairs(file, "commonAnnotations", &self.annotations, self.force_annotations)?;
        for patch in &self.patches {
            list(file, "patches")?.push(patch.clone());
        }
        for component in &self.components {
            let component = Value::String(component.clone());
            let list = list(file, "components")?;
            if !list.contains(&component) {
                list.push(component);
            }
        }
        Ok(())
    }
}

fn list<'a>(file: &'a mut Map<String, Value>, field: &str) -> Result<&'a mut Vec<Value>, String> {
    let value = file.entry(field.to_owned()).or_insert(Value::Null);
    if value.is_null() {
        *value = Value::Array(Vec::new());
    }
    value.as_array_mut().ok_or_else(|| format!("`{field}` of the kustomization is no list"))
}

fn pairs(
    file: &mut Map<String, Value>,
    field: &str,
    new: &BTreeMap<String, String>,
    force: bool,
) -> Result<(), String> {
    if new.is_empty() {
        return Ok(());
    }
    let value = file.entry(field.to_owned()).or_insert(Value::Null);
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    let old = value.as_object_mut().ok_or_else(|| format!("`{field}` of the kustomization is no mapping"))?;
    for (key, value) in new {
        if !force && old.contains_key(key) {
            return Err(format!("`{field}` of the kustomization has `{key}` already"));
        }
        old.insert(key.clone(), Value::String(value.clone()));
    }
    Ok(())
}

/// An image as `kustomize edit set image` takes it: `NAME=NEW:TAG`, `NAME:TAG`, `NAME@DIGEST`.
///
/// # Errors
///
/// A sentence that says what is wrong.
pub(super) fn image(text: &str) -> Result<Value, String> {
    let wrong = || format!("`{text:.200}` is not `NAME=NEW:TAG`, `NAME:TAG` or `NAME@DIGEST`");
    if text.contains('*') {
        return Err(format!(
            "`{text:.200}` keeps parts of what stands in the kustomization by `*`, which is not done"
        ));
    }
    let (name, new) = match text.split_once('=') {
        Some((name, new)) => (Some(name), new),
        None => (None, text),
    };
    let (rest, digest) = match new.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (new, None),
    };
    let (new_name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if new_name.is_empty()
        || name.is_some_and(str::is_empty)
        || (name.is_none() && tag.is_none() && digest.is_none())
    {
        return Err(wrong());
    }
    let mut out = json!({"name": name.unwrap_or(new_name)});
    if name.is_some_and(|name| name != new_name) {
        out["newName"] = Value::String(new_name.to_owned());
    }
    for (field, value) in [("newTag", tag), ("digest", digest)] {
        if let Some(value) = value {
            out[field] = Value::String(value.to_owned());
        }
    }
    Ok(out)
}

/// A file of the exported tree that says something else for a while.
pub(super) struct Stand {
    path: PathBuf,
    old: Option<Vec<u8>>,
}

impl Stand {
    /// Writes `value` as YAML where `old` (none: nothing) stands.
    pub fn write(path: &Path, old: Option<Vec<u8>>, value: &Value) -> Result<Self, RenderError> {
        let stand = Self { path: path.to_owned(), old };
        stand.replace(yaml::to_string(value).as_bytes())?;
        Ok(stand)
    }

    fn replace(&self, bytes: &[u8]) -> Result<(), RenderError> {
        let io = |source| RenderError::Io { path: self.path.display().to_string(), source };
        // A link or a hard link must not carry the change to where it leads.
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        fs::write(&self.path, bytes).map_err(io)
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        // The tree goes with the build, and what cannot be put back is seen by the next rendering.
        let _ = match &self.old {
            Some(bytes) => self.replace(bytes).map_err(drop),
            None => fs::remove_file(&self.path).map_err(drop),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits() {
        let mut file = json!({"namePrefix": "a-", "images": [{"name": "web", "newTag": "1"}], "patches": [{"path": "p"}]});
        let edit = Edit {
            name_prefix: Some("b-".into()),
            images: vec![image("web=registry.example/web:2").unwrap(), image("db@sha256:00").unwrap()],
            labels: [("team".to_owned(), "x".to_owned())].into(),
            patches: vec![json!({"patch": "x"})],
            components: vec!["../c".into()],
            ..Edit::default()
        };
        edit.apply(&mut file).unwrap();
        assert_eq!(
            file,
            json!({
                "namePrefix": "b-",
                "images": [{"name": "web", "newName": "registry.example/web", "newTag": "2"},
                           {"name": "db", "digest": "sha256:00"}],
                "patches": [{"path": "p"}, {"patch": "x"}],
                "commonLabels": {"team": "x"},
                "components": ["../c"],
            })
        );
        assert!(edit.apply(&mut file).unwrap_err().contains("`team` already"));
        let edit = Edit { labels_without_selectors: true, ..edit };
        edit.apply(&mut file).unwrap();
        assert_eq!(file["labels"][0]["includeSelectors"], false);
        assert!(Edit::default().is_empty() && !edit.is_empty());
        assert!(edit.apply(&mut json!([])).is_err());
        for bad in ["web", "", "=x:1", "web=*:1", "web="] {
            assert!(image(bad).is_err(), "{bad}");
        }
    }
}
