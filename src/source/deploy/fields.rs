//! Reads the fields of a deployer: what is not known by name is refused, so nothing is passed over.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::Trouble;

/// Reads `value`, which stands at `field`; nothing there reads as an empty mapping.
pub(super) fn read<T: DeserializeOwned>(value: &Value, field: &str) -> Result<T, Trouble> {
    let empty = Value::Object(serde_json::Map::new());
    let value = if value.is_null() { &empty } else { value };
    T::deserialize(value).map_err(|error| {
        let text = error.to_string();
        match text.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`')) {
            Some((name, _)) => Trouble::unsupported(
                format!("{field}.{name}"),
                "this field is not known here, and may change what is deployed",
            ),
            None => Trouble::invalid(field, text),
        }
    })
}

/// Refuses a field that is set, whatever it says.
pub(super) fn refuse(value: Option<&Value>, field: impl Into<String>, why: &str) -> Result<(), Trouble> {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => Ok(()),
        Some(Value::Object(entries)) if entries.is_empty() => Ok(()),
        Some(Value::Array(items)) if items.is_empty() => Ok(()),
        Some(Value::String(text)) if text.is_empty() => Ok(()),
        Some(_) => Err(Trouble::unsupported(field, why)),
    }
}

/// A JSON merge patch (RFC 7386).
pub(super) fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Some(entries) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            entries.remove(key);
        } else {
            merge_patch(entries.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Known {
        name: String,
    }

    #[test]
    fn unknown_fields_are_named() {
        assert_eq!(read::<Known>(&Value::Null, "spec").unwrap().name, "");
        let Err(Trouble::Unsupported(field, _)) = read::<Known>(&json!({"colour": 1}), "spec") else {
            panic!()
        };
        assert_eq!(field, "spec.colour");
        assert!(matches!(read::<Known>(&json!({"name": 1}), "spec"), Err(Trouble::Invalid(..))));
        assert!(
            refuse(Some(&json!({})), "x", "").is_ok() && refuse(Some(&json!({"a": 1})), "x", "").is_err()
        );
    }

    #[test]
    fn merge_patches() {
        let mut value = json!({"a": {"b": 1, "c": 2}, "d": [1]});
        merge_patch(&mut value, &json!({"a": {"b": null, "e": {"f": null}}, "d": [2]}));
        assert_eq!(value, json!({"a": {"c": 2, "e": {}}, "d": [2]}));
    }
}
