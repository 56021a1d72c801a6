//! The objects that are known so far, by what names them: deployers refer to one another.

use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::model::{ObjectId, RenderedObject};

/// Group, kind, namespace and name.
type Key = (String, String, Option<String>, String);

/// Objects by what names them.
#[derive(Debug, Default)]
pub(super) struct Known {
    index: HashMap<Key, usize>,
    pub objects: Vec<RenderedObject>,
}

/// The key of an object that stands in `namespace`.
fn key(id: &ObjectId, namespace: Option<&str>) -> Key {
    (id.group().to_owned(), id.kind.clone(), namespace.map(str::to_owned), id.name.clone())
}

impl Known {
    /// The one that stands there already under the object's name.
    pub fn same(&self, object: &RenderedObject) -> Option<&RenderedObject> {
        let namespace = object.id.namespace.as_deref().or(object.default_namespace.as_deref());
        self.index.get(&key(&object.id, namespace)).map(|at| &self.objects[*at])
    }

    /// Takes an object that is not there yet.
    pub fn add(&mut self, object: RenderedObject) {
        let namespace = object.id.namespace.as_deref().or(object.default_namespace.as_deref());
        self.index.insert(key(&object.id, namespace), self.objects.len());
        self.objects.push(object);
    }

    /// An object by name; one that names no namespace counts where there is none in `namespace`.
    pub fn find(
        &self,
        group: &str,
        kind: &str,
        namespace: Option<&str>,
        name: &str,
    ) -> Option<&RenderedObject> {
        let of = |namespace: Option<&str>| {
            let key = (group.to_owned(), kind.to_owned(), namespace.map(str::to_owned), name.to_owned());
            self.index.get(&key).map(|at| &self.objects[*at])
        };
        of(namespace)
            .or_else(|| of(None))
            .or_else(|| if namespace.is_none() { of(Some("default")) } else { None })
    }

    /// The data of a `ConfigMap` or `Secret`, as text.
    ///
    /// # Errors
    ///
    /// `None` when it is not known; a sentence when a value is not what it must be.
    pub fn data(
        &self,
        kind: &str,
        namespace: Option<&str>,
        name: &str,
    ) -> Option<Result<BTreeMap<String, String>, String>> {
        let object = self.find("", kind, namespace, name)?;
        Some(data_of(&object.value))
    }
}

fn data_of(value: &Value) -> Result<BTreeMap<String, String>, String> {
    if value.get("sops").is_some_and(Value::is_object) {
        return Err("it is encrypted with SOPS, and cannot be read here".to_owned());
    }
    let is_secret = value["kind"] == "Secret";
    let mut out = BTreeMap::new();
    for (field, encoded) in [("data", is_secret), ("stringData", false)] {
        for (name, value) in value[field].as_object().into_iter().flatten() {
            let text = value.as_str().ok_or_else(|| format!("`{field}.{name}` of it is not a string"))?;
            let text = if encoded {
                let packed: String = text.split_whitespace().collect();
                let bytes =
                    STANDARD.decode(packed).map_err(|error| format!("`{field}.{name}` of it: {error}"))?;
                String::from_utf8(bytes).map_err(|_| format!("`{field}.{name}` of it is not text"))?
            } else {
                text.to_owned()
            };
            out.insert(name.clone(), text);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::Origin;

    #[test]
    fn objects_are_found_where_they_stand() {
        let mut known = Known::default();
        for value in [
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "x"}, "data": {"k": "v"}}),
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "dg=="},
                   "stringData": {"l": "w"}}),
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bad"}, "data": {"k": "%"}}),
        ] {
            let id = ObjectId::of(&value).unwrap();
            known.add(RenderedObject::new(id, Origin::default(), value));
        }
        let map = known.data("ConfigMap", Some("x"), "a").unwrap().unwrap();
        assert_eq!(map["k"], "v");
        assert!(known.data("ConfigMap", Some("y"), "a").is_none());
        let secret = known.data("Secret", Some("y"), "s").unwrap().unwrap();
        assert_eq!((secret["k"].as_str(), secret["l"].as_str()), ("v", "w"));
        assert!(known.data("Secret", None, "bad").unwrap().is_err());
    }
}
