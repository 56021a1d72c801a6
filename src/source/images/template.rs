//! Images that are filled in later: parameters of templates, and defaults of definitions.

use std::collections::HashMap;

use serde_json::Value;

use super::guess::{self, Name};
use super::search::Search;
use super::{Certainty, Rule};
use crate::model::ImageRef;

impl Search<'_> {
    /// Takes what fills in the one placeholder of `text`, where the object gives it values:
    /// Tekton's `$(params.NAME)`, Argo's `{{inputs.parameters.NAME}}`.
    pub(super) fn parameter(&mut self, text: &str) -> bool {
        let Some((before, name, after)) = placeholder(text) else { return false };
        if placeholder(after).is_some() {
            return false;
        }
        let root = self.root;
        let parameters = self.parameters.get_or_insert_with(|| {
            let mut all = HashMap::new();
            collect_parameters(root, &mut all);
            all
        });
        let values = parameters.get(name).cloned().unwrap_or_default();
        let mut any = false;
        for value in values {
            if self.is_full(Rule::Parameter) {
                break;
            }
            if let Ok(image) = format!("{before}{value}{after}").parse::<ImageRef>() {
                any = true;
                self.take(text, image, Certainty::Required, Rule::Parameter);
            }
        }
        any
    }

    /// Searches the schema of a custom kind for defaults.
    pub(super) fn definition(&mut self, schema: &Value, name: &str) {
        let length = self.path.len();
        match schema {
            Value::Object(entries) => {
                for (key, child) in entries {
                    self.path.key(key);
                    match (key.as_str(), child) {
                        ("default", Value::String(text)) if guess::classify(name) != Name::None => {
                            if let Some(image) = guess::named(text, guess::classify(name)) {
                                self.candidate(text, image, Rule::Definition);
                            }
                        }
                        ("default", Value::Object(_) | Value::Array(_)) => {
                            let rule = std::mem::replace(&mut self.rule, Rule::Definition);
                            self.value(child, guess::classify(name));
                            self.rule = rule;
                        }
                        ("properties", Value::Object(properties)) => {
                            let length = self.path.len();
                            for (name, child) in properties {
                                self.path.key(name);
                                self.definition(child, name);
                                self.path.truncate(length);
                            }
                        }
                        ("status" | "metadata", _) if name.is_empty() && length == 0 => {}
                        _ => self.definition(child, name),
                    }
                    self.path.truncate(length);
                }
            }
            Value::Array(items) => {
                for (at, item) in items.iter().enumerate() {
                    self.path.index(at);
                    self.definition(item, name);
                    self.path.truncate(length);
                }
            }
            _ => {}
        }
    }
}

/// Splits a text around its first placeholder: before it, its parameter's name, behind it.
fn placeholder(text: &str) -> Option<(&str, &str, &str)> {
    let (begin, open, close) = match (text.find("$("), text.find("{{")) {
        (Some(at), None) => (at, "$(", ")"),
        (Some(at), Some(other)) if at < other => (at, "$(", ")"),
        (_, Some(at)) => (at, "{{", "}}"),
        (None, None) => return None,
    };
    let (inner, after) = text[begin + open.len()..].split_once(close)?;
    let name = inner.trim().rsplit(['.', '"', '\'']).find(|part| !part.is_empty() && *part != "]")?;
    Some((&text[..begin], name, after))
}

/// The values that `value` gives each parameter, wherever they stand.
fn collect_parameters<'v>(value: &'v Value, out: &mut HashMap<&'v str, Vec<&'v str>>) {
    match value {
        Value::Object(entries) => {
            if let Some(name) = entries.get("name").and_then(Value::as_str) {
                let own = ["value", "default"].into_iter().filter_map(|key| entries.get(key)?.as_str());
                let choices = entries.get("enum").and_then(Value::as_array);
                let choices = choices.into_iter().flatten().filter_map(Value::as_str);
                let mut values = own.chain(choices).peekable();
                if values.peek().is_some() {
                    out.entry(name).or_default().extend(values);
                }
            }
            entries.values().for_each(|child| collect_parameters(child, out));
        }
        Value::Array(items) => items.iter().for_each(|child| collect_parameters(child, out)),
        _ => {}
    }
}
