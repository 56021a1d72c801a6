//! `Chart.lock`: which version each dependency is, and a digest over what was asked for.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::model::Digest;

/// A lock file.
pub(super) struct Lock {
    /// The file, as people know it.
    pub file: String,
    /// Whether it was made for the dependencies that the chart lists.
    pub agrees: bool,
    /// Name, repository and version of each dependency.
    versions: Vec<(String, String, String)>,
}

impl Lock {
    /// Reads a lock file beside the dependencies that the chart lists.
    pub fn read(value: &Value, listed: &Value, file: String) -> Self {
        let locked = &value["dependencies"];
        let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        let versions = locked.as_array().into_iter().flatten();
        let versions =
            versions.map(|entry| (text(entry, "name"), text(entry, "repository"), text(entry, "version")));
        let digest = value["digest"].as_str().unwrap_or_default();
        Self {
            file,
            // The second is how Helm 2 did it, whose lock files are still about.
            agrees: digest == hash(&json!([normal(listed), normal(locked)]))
                || digest == hash(&json!({ "dependencies": normal(listed) })),
            versions: versions.collect(),
        }
    }

    /// The version of a dependency.
    pub fn version(&self, name: &str, repository: &str) -> Option<&str> {
        let same_name = || self.versions.iter().filter(|entry| entry.0 == name);
        let exact = same_name().find(|entry| entry.1 == repository);
        exact.or_else(|| same_name().next()).map(|entry| entry.2.as_str())
    }
}

/// Dependencies in the order of fields and with the omissions that Helm hashes.
fn normal(list: &Value) -> Value {
    let Some(list) = list.as_array() else { return Value::Null };
    let fields = [
        ("name", true),
        ("version", false),
        ("repository", true),
        ("condition", false),
        ("tags", false),
        ("enabled", false),
        ("import-values", false),
        ("alias", false),
    ];
    let entry = |entry: &Value| {
        let mut out = serde_json::Map::new();
        for (field, always) in fields {
            let value = match &entry[field] {
                Value::Null => Value::String(String::new()),
                value => sorted(value),
            };
            let empty = match &value {
                Value::String(text) => text.is_empty(),
                Value::Array(items) => items.is_empty(),
                Value::Bool(yes) => !yes,
                _ => false,
            };
            if always || !empty {
                out.insert(field.to_owned(), value);
            }
        }
        Value::Object(out)
    };
    Value::Array(list.iter().map(entry).collect())
}

/// Go writes the keys of a map sorted.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(entries) => {
            let mut keys: Vec<_> = entries.iter().collect();
            keys.sort_by(|a, b| a.0.cmp(b.0));
            Value::Object(keys.into_iter().map(|(key, value)| (key.clone(), sorted(value))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

/// The digest over JSON as Go writes it: characters that matter in HTML are escaped.
fn hash(value: &Value) -> String {
    let mut text = String::new();
    for c in value.to_string().chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                // Writing into a string never fails.
                let _ = write!(text, "\\u{:04x}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    Digest::of(text.as_bytes()).to_string()
}

/// Whether a wanted version is one version, not a range.
pub(super) fn is_exact(version: &str) -> bool {
    let number = version.strip_prefix(['=', 'v']).unwrap_or(version).trim();
    let number = number.strip_prefix('v').unwrap_or(number);
    let core = number.split(['-', '+']).next().unwrap_or_default();
    core.split('.').count() == 3
        && core.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
        && number.bytes().all(|b| b.is_ascii_alphanumeric() || b".+-".contains(&b))
}

/// Whether two exact versions are the same, however they are written. Build metadata is none of it.
pub(super) fn same_version(a: &str, b: &str) -> bool {
    fn core(text: &str) -> &str {
        let text = text.strip_prefix('=').unwrap_or(text).trim();
        let text = text.strip_prefix('v').unwrap_or(text);
        text.split('+').next().unwrap_or(text)
    }
    core(a) == core(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_versions() {
        for exact in ["1.2.3", "v1.2.3", "=1.2.3", "1.2.3-rc.1+build"] {
            assert!(is_exact(exact), "{exact}");
        }
        for range in
            ["", "1", "1.2", "1.x.x", "^1.2.3", "~1.2.3", ">=1.2.3", "1.2.3 - 2.0.0", "*", "1.2.3 || 2.0.0"]
        {
            assert!(!is_exact(range), "{range}");
        }
        assert!(same_version("v1.2.3", "1.2.3+meta"));
        assert!(!same_version("1.2.3", "1.2.3-rc"));
    }
}
