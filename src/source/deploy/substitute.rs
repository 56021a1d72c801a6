//! Flux's `postBuild` substitution: `${NAME}` in the text of an object.
//!
//! Flux substitutes in the object's YAML and reads the result again, so a plain scalar may change its
//! type: `replicas: ${COUNT}` becomes a number. Here the same is done scalar by scalar.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::model::yaml;

/// Defaults within defaults.
const DEPTH: usize = 16;
/// What the variables of one object may come to: more than any API server takes of an object.
const LONGEST: usize = 16 << 20;

/// Substitutes in the keys and strings of `value`. Names that are set nowhere become nothing, as
/// in Flux, and are put into `unset`.
///
/// # Errors
///
/// A sentence that names the field and what is wrong there.
pub fn substitute(
    value: &Value,
    variables: &BTreeMap<String, String>,
    unset: &mut BTreeSet<String>,
) -> Result<Value, String> {
    let mut state = State { variables, unset, spent: 0 };
    state.value(value, "")
}

/// Whether Flux takes `name` for a variable's.
pub fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

struct State<'a> {
    variables: &'a BTreeMap<String, String>,
    unset: &'a mut BTreeSet<String>,
    /// Bytes that were put in so far.
    spent: usize,
}

impl State<'_> {
    /// Depth is bounded by the reader of the value.
    fn value(&mut self, value: &Value, field: &str) -> Result<Value, String> {
        Ok(match value {
            Value::String(text) if text.contains('$') => self.scalar(text, field)?,
            Value::Array(items) => {
                let items = items.iter().enumerate();
                let item = |(at, item): (usize, &Value)| self.value(item, &format!("{field}[{at}]"));
                Value::Array(items.map(item).collect::<Result<_, _>>()?)
            }
            Value::Object(entries) => {
                let mut out = Map::new();
                for (key, value) in entries {
                    let name = if key.contains('$') { self.text(key, field, 0)? } else { key.clone() };
                    let path = if field.is_empty() { key.clone() } else { format!("{field}.{key}") };
                    if out.insert(name.clone(), self.value(value, &path)?).is_some() {
                        return Err(format!("`{field}` has the key `{name}` twice after the substitution"));
                    }
                }
                Value::Object(out)
            }
            other => other.clone(),
        })
    }

    fn scalar(&mut self, text: &str, field: &str) -> Result<Value, String> {
        let new = self.text(text, field, 0)?;
        if !is_plain(text) {
            return Ok(Value::String(new));
        }
        let parsed = yaml::one_document(format!("value: {new}\n").as_bytes())
            .map_err(|error| format!("`{field}` is `{new:.200}` after the substitution: {}", error.why))?;
        Ok(parsed.get("value").cloned().unwrap_or(Value::Null))
    }

    fn text(&mut self, text: &str, field: &str, depth: usize) -> Result<String, String> {
        let bad = |what: &str| format!("`{field}` holds {what}, which Flux refuses");
        if depth > DEPTH {
            return Err(bad("defaults within defaults without end"));
        }
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                out.push('$');
                rest = after;
                continue;
            }
            let Some(after) = rest.strip_prefix('{') else {
                out.push('$');
                continue;
            };
            let end = closing(after).ok_or_else(|| bad("`${` without its `}`"))?;
            let inner = &after[..end];
            rest = &after[end + 1..];
            let name_end = inner.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(inner.len());
            let (name, function) = inner.split_at(name_end);
            if name.is_empty() {
                return Err(bad(&format!("`${{{inner:.100}}}`, which names no variable,")));
            }
            let value = self.variables.get(name).cloned();
            let value = if function.is_empty() {
                value.unwrap_or_else(|| {
                    self.unset.insert(name.to_owned());
                    String::new()
                })
            } else {
                let default = [":-", ":=", "="].iter().find_map(|form| function.strip_prefix(form));
                let Some(default) = default else {
                    return Err(format!(
                        "`{field}` holds `${{{inner:.100}}}`: of the forms of a variable only `${{NAME}}`, \
                         `${{NAME:-DEFAULT}}` and `${{NAME:=DEFAULT}}` are known here"
                    ));
                };
                match value {
                    Some(value) if !value.is_empty() => value,
                    _ => self.text(default, field, depth + 1)?,
                }
            };
            self.spent += value.len();
            if self.spent > LONGEST {
                return Err(format!("what is put in up to `{field}` comes to more than {LONGEST} bytes"));
            }
            out.push_str(&value);
        }
        out.push_str(rest);
        Ok(out)
    }
}

/// Where the `}` stands that ends what `${` began.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        match c {
            '{' if before == '$' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
        before = c;
    }
    None
}

/// Whether go-yaml writes `text` without quotes, so that what is put into it may change its type.
fn is_plain(text: &str) -> bool {
    let first = text.chars().next().unwrap_or(' ');
    !text.contains(['\n', '\r', '\t'])
        && !text.starts_with(' ')
        && !text.ends_with(' ')
        && !text.ends_with(':')
        && !text.contains(": ")
        && !text.contains(" #")
        && !matches!(
            first,
            '-' | '?'
                | ':'
                | ','
                | '['
                | ']'
                | '{'
                | '}'
                | '#'
                | '&'
                | '*'
                | '!'
                | '|'
                | '>'
                | '\''
                | '"'
                | '%'
                | '@'
                | '`'
        )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(value: &Value) -> Result<(Value, Vec<String>), String> {
        let variables =
            [("TAG", "1.2"), ("N", "3"), ("HOST", "a.example"), ("EMPTY", ""), ("LIST", "[a, b]")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let mut unset = BTreeSet::new();
        let value = substitute(value, &variables, &mut unset)?;
        Ok((value, unset.into_iter().collect()))
    }

    #[test]
    fn what_flux_makes_of_it() {
        for (before, after) in [
            (json!("x:${TAG}"), json!("x:1.2")),
            (json!("${TAG}"), json!(1.2)),
            (json!("${N}"), json!(3)),
            (json!("'${N}'"), json!("'3'")),
            (json!("line\n${N}"), json!("line\n3")),
            (json!("${LIST}"), json!(["a", "b"])),
            (json!("${EMPTY:-x}-${NONE:=y}-${HOST:-z}"), json!("x-y-a.example")),
            (json!("${NONE:-${HOST}}"), json!("a.example")),
            (json!("$HOST $${HOST} $$"), json!("$HOST ${HOST} $")),
            (json!({"${HOST}": "x"}), json!({"a.example": "x"})),
            (json!(["${HOST}", 1, true, null]), json!(["a.example", 1, true, null])),
        ] {
            assert_eq!(run(&before).unwrap().0, after, "{before}");
        }
        assert_eq!(run(&json!({"a": "x${NONE}"})).unwrap(), (json!({"a": "x"}), vec!["NONE".to_owned()]));
    }

    #[test]
    fn refusals_name_the_field() {
        for (bad, part) in [
            (json!({"a": {"b": ["${HOST"]}}), "`a.b[0]` holds `${` without"),
            (json!({"a": "${}"}), "names no variable"),
            (json!({"a": "${HOST/a/b}"}), "only `${NAME}`"),
            (json!({"a": "${HOST:0:1}"}), "only `${NAME}`"),
            (json!({"a": "${HOST-x}"}), "only `${NAME}`"),
            (json!({"${N}": 1, "3": 2}), "twice"),
            (json!({"a": "${X:-".repeat(40) + &"}".repeat(40)}), "without end"),
            (json!({"a": "x ${NONE:-[}"}), ""),
        ] {
            match run(&bad) {
                Err(why) => assert!(why.contains(part), "{why}"),
                Ok(value) => assert!(part.is_empty(), "{bad} gave {value:?}"),
            }
        }
        assert!(is_name("_a1") && !is_name("1a") && !is_name("a-b") && !is_name(""));
    }
}
