//! Which fields of two objects differ, for people.

use serde_json::{Map, Value};

use crate::model::plan::FieldChange;

/// Fields of one object that are told; the rest is counted.
pub(super) const FIELDS: usize = 50;
/// Characters of one told value.
const VALUE: usize = 200;
/// Nesting below which values are compared whole.
const DEPTH: usize = 64;

/// Fields that the server writes.
const SERVER_METADATA: [&str; 6] =
    ["managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink"];

/// The object without what the server writes: equal for two objects that say the same.
pub(super) fn without_server_fields(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
        if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
            for key in SERVER_METADATA {
                metadata.remove(key);
            }
        }
    }
    object
}

/// What differs between two objects, server fields apart: at most [`FIELDS`] changes, and how
/// many more there are.
pub(super) fn differences(old: &Value, new: &Value) -> (Vec<FieldChange>, usize) {
    let mut found =
        Found { secret: new["kind"] == "Secret" && new["apiVersion"] == "v1", ..Found::default() };
    found.compare(&mut Vec::new(), Some(&without_server_fields(old)), Some(&without_server_fields(new)));
    (found.changes, found.more)
}

/// What `wanted` says otherwise than `live`: fields that `wanted` does not name are passed over.
/// For objects that the server cannot try, whose defaults are therefore unknown.
pub(super) fn differences_of_named(live: &Value, wanted: &Value) -> (Vec<FieldChange>, usize) {
    let mut found = Found {
        secret: wanted["kind"] == "Secret" && wanted["apiVersion"] == "v1",
        named_only: true,
        ..Found::default()
    };
    found.compare(&mut Vec::new(), Some(&without_server_fields(live)), Some(&without_server_fields(wanted)));
    (found.changes, found.more)
}

#[derive(Default)]
struct Found {
    changes: Vec<FieldChange>,
    more: usize,
    secret: bool,
    named_only: bool,
}

impl Found {
    fn compare(&mut self, path: &mut Vec<String>, old: Option<&Value>, new: Option<&Value>) {
        if old == new || (self.named_only && new.is_none()) {
            return;
        }
        match (old, new) {
            (Some(Value::Object(old)), Some(Value::Object(new))) if path.len() < DEPTH => {
                self.compare_maps(path, old, new);
            }
            (Some(Value::Array(old)), Some(Value::Array(new))) if path.len() < DEPTH => {
                self.compare_lists(path, old, new);
            }
            // What appears or vanishes whole is told field by field as far as it has fields, so
            // that each line stays short.
            (None, Some(Value::Object(new))) if !new.is_empty() && path.len() < 3 => {
                self.compare_maps(path, &Map::new(), new);
            }
            _ => self.report(path, old, new),
        }
    }

    fn compare_maps(&mut self, path: &mut Vec<String>, old: &Map<String, Value>, new: &Map<String, Value>) {
        let gone = old.keys().filter(|key| !new.contains_key(*key));
        for key in new.keys().chain(gone) {
            path.push(field(key, path.is_empty()));
            self.compare(path, old.get(key), new.get(key));
            path.pop();
        }
    }

    fn compare_lists(&mut self, path: &mut Vec<String>, old: &[Value], new: &[Value]) {
        let key = ["name", "type", "mountPath", "key"]
            .into_iter()
            .find(|key| !old.is_empty() && !new.is_empty() && unique(old, key) && unique(new, key));
        if let Some(key) = key {
            let by = |list: &'_ [Value], wanted: &Value| list.iter().position(|item| item[key] == *wanted);
            let gone = old.iter().filter(|item| by(new, &item[key]).is_none());
            let order_differs = new.iter().map(|item| &item[key]).ne(old.iter().map(|item| &item[key]));
            let before = (self.changes.len(), self.more);
            for item in new.iter().chain(gone) {
                let name = item[key].as_str().unwrap_or_default();
                path.push(format!("[{key}={name}]"));
                let find = |list: &'_ [Value]| by(list, &item[key]);
                self.compare(path, find(old).map(|at| &old[at]), find(new).map(|at| &new[at]));
                path.pop();
            }
            if order_differs && before == (self.changes.len(), self.more) {
                // The same items in another order.
                let names =
                    |list: &[Value]| Value::Array(list.iter().map(|item| item[key].clone()).collect());
                self.report(path, Some(&names(old)), Some(&names(new)));
            }
        } else if old.len() == new.len() {
            for (at, (old, new)) in old.iter().zip(new).enumerate() {
                path.push(format!("[{at}]"));
                self.compare(path, Some(old), Some(new));
                path.pop();
            }
        } else {
            self.report(path, Some(&Value::Array(old.to_vec())), Some(&Value::Array(new.to_vec())));
        }
    }

    fn report(&mut self, path: &[String], old: Option<&Value>, new: Option<&Value>) {
        if self.changes.len() >= FIELDS {
            self.more += 1;
            return;
        }
        // kubectl keeps a copy of the whole object, data included, in an annotation.
        let hidden = self.secret
            && (matches!(path.first().map(String::as_str), Some("data" | "stringData"))
                || path.last().is_some_and(|last| last.contains("last-applied-configuration")));
        let told = |value: Option<&Value>, which: &str| {
            value.map(|value| if hidden { Value::String(format!("(secret, {which})")) } else { tell(value) })
        };
        self.changes.push(FieldChange {
            path: path.concat(),
            old: told(old, "before"),
            new: told(new, "after"),
        });
    }
}

fn unique(list: &[Value], key: &str) -> bool {
    let mut seen = std::collections::BTreeSet::new();
    list.iter().all(|item| item[key].as_str().is_some_and(|name| seen.insert(name)))
}

fn field(key: &str, first: bool) -> String {
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    match (plain, first) {
        (true, true) => key.to_owned(),
        (true, false) => format!(".{key}"),
        (false, _) => format!("[{key:?}]"),
    }
}

/// The value, or its beginning where it is long.
fn tell(value: &Value) -> Value {
    let (text, whole) = match value {
        Value::String(text) => (text.clone(), value.clone()),
        Value::Array(_) | Value::Object(_) => (value.to_string(), value.clone()),
        _ => return value.clone(),
    };
    if text.chars().count() <= VALUE {
        return whole;
    }
    let head: String = text.chars().take(VALUE).collect();
    Value::String(format!("{head}… ({} bytes)", text.len()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(old: &Value, new: &Value) -> Vec<String> {
        differences(old, new).0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_the_server_writes_does_not_count() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "generation": 1}, "status": {"x": 1}});
        let new = json!({"metadata": {"name": "a", "resourceVersion": "5", "managedFields": []}});
        assert_eq!(told(&old, &new), [""; 0]);
    }

    #[test]
    fn lists_are_told_by_name() {
        let old = json!({"spec": {"containers": [
            {"name": "web", "image": "a:1"}, {"name": "log", "image": "l:1"}]}});
        let new = json!({"spec": {"containers": [
            {"name": "new", "image": "n:1"}, {"name": "web", "image": "a:2"}]}});
        assert_eq!(
            told(&old, &new),
            [
                r#"spec.containers[name=new]: (absent) -> {"name":"new","image":"n:1"}"#,
                r#"spec.containers[name=web].image: "a:1" -> "a:2""#,
                r#"spec.containers[name=log]: {"name":"log","image":"l:1"} -> (absent)"#,
            ]
        );
        let a = json!({"spec": {"args": ["-v", "1"], "env": [{"name": "A"}, {"name": "B"}]}});
        let b = json!({"spec": {"args": ["-v", "2"], "env": [{"name": "B"}, {"name": "A"}]}});
        assert_eq!(told(&a, &b), [r#"spec.args[1]: "1" -> "2""#, r#"spec.env: ["A","B"] -> ["B","A"]"#]);
    }

    #[test]
    fn keys_are_quoted_and_values_cut() {
        let old = json!({"metadata": {"labels": {"app.kubernetes.io/name": "a"}}});
        let new = json!({"metadata": {"labels": {"app.kubernetes.io/name": "b".repeat(300)}}});
        let text = &told(&old, &new)[0];
        assert!(text.starts_with(r#"metadata.labels["app.kubernetes.io/name"]: "a" -> "bbb"#), "{text}");
        assert!(text.ends_with("… (300 bytes)\""), "{text}");
        let (fields, more) = differences(
            &json!({}),
            &json!({"data": (0..60).map(|n| (n.to_string(), n)).collect::<std::collections::BTreeMap<_, _>>()}),
        );
        assert_eq!((fields.len(), more), (FIELDS, 10));
    }

    #[test]
    fn secrets_are_not_told() {
        let old = json!({"apiVersion": "v1", "kind": "Secret", "data": {"password": "b2xk"}});
        let new =
            json!({"apiVersion": "v1", "kind": "Secret", "data": {"password": "bmV3"}, "type": "Opaque"});
        assert_eq!(
            told(&old, &new),
            [r#"data.password: "(secret, before)" -> "(secret, after)""#, r#"type: (absent) -> "Opaque""#]
        );
    }

    #[test]
    fn named_fields_only() {
        let live = json!({"spec": {"a": 1, "defaulted": true}, "status": {}});
        let (fields, _) = differences_of_named(&live, &json!({"spec": {"a": 2}}));
        assert_eq!(fields.len(), 1);
        assert_eq!(fields[0].to_string(), "spec.a: 1 -> 2");
    }
}
