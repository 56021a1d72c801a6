//! Values of Helm charts: merged, and set by path as `helm --set` does.

use serde_json::{Map, Value};

/// The highest index of a list that a path may name (Helm's own bound).
const MAX_INDEX: usize = 65_536;
/// Steps of a path.
const MAX_STEPS: usize = 64;

/// Puts `over` over `base`: mappings are merged, everything else replaces what was there.
pub fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                match base.get_mut(&key) {
                    Some(inner @ Value::Object(_)) if value.is_object() => merge(inner, value),
                    _ => {
                        base.insert(key, value);
                    }
                }
            }
        }
        (base, over) => *base = over,
    }
}

enum Step {
    Key(String),
    Index(usize),
}

/// Sets the value at `path` (`a.b[0].c`, a dot of a name written `\.`) to what Helm makes of `text`.
///
/// # Errors
///
/// A sentence that says what is wrong with the path or the text.
pub fn set_path(values: &mut Value, path: &str, text: &str) -> Result<(), String> {
    let quoted = |quote: char| text.starts_with(quote) && text.ends_with(quote);
    let value = if quoted('\'') || quoted('"') {
        Value::String(text.trim_matches(['\'', '"']).to_owned())
    } else {
        if text.contains([',', '\\']) || text.starts_with(['{', '[']) {
            return Err(format!(
                "the value for `{path}` has a comma, a backslash or a brace, of which Helm's `--set` would make \
                 more than one value; put it in quotes, or give it as YAML without `targetPath`"
            ));
        }
        typed(text)
    };
    set(values, path, value)
}

/// Sets the value at `path` as it is.
///
/// # Errors
///
/// A sentence that says what is wrong with the path.
pub fn set(values: &mut Value, path: &str, value: Value) -> Result<(), String> {
    let steps = steps(path)?;
    let mut at = values;
    for step in &steps {
        at = match step {
            Step::Key(key) => {
                if !at.is_object() {
                    *at = Value::Object(Map::new());
                }
                match at {
                    Value::Object(entries) => entries.entry(key.clone()).or_insert(Value::Null),
                    _ => return Err(format!("`{path}` cannot be set")),
                }
            }
            Step::Index(index) => {
                if !at.is_array() {
                    *at = Value::Array(Vec::new());
                }
                match at {
                    Value::Array(items) => {
                        if items.len() <= *index {
                            items.resize(index + 1, Value::Null);
                        }
                        &mut items[*index]
                    }
                    _ => return Err(format!("`{path}` cannot be set")),
                }
            }
        };
    }
    *at = value;
    Ok(())
}

/// A number, a boolean, null or a string, by Helm's rule.
fn typed(text: &str) -> Value {
    match text {
        "null" => return Value::Null,
        "true" => return Value::Bool(true),
        "false" => return Value::Bool(false),
        "0" => return Value::from(0),
        _ => {}
    }
    // A leading zero would lose something, so such a text stays one.
    if !text.starts_with('0')
        && let Ok(number) = text.parse::<i64>()
    {
        return Value::from(number);
    }
    Value::String(text.to_owned())
}

fn steps(path: &str) -> Result<Vec<Step>, String> {
    let wrong = |why: &str| format!("`{path:.200}` is not a path of values: {why}");
    let mut out = Vec::new();
    let mut name = String::new();
    let mut chars = path.chars();
    let mut after_index = false;
    let mut finish = |name: &mut String, after_index: bool| {
        if name.is_empty() {
            return if after_index { Ok(()) } else { Err(wrong("a name is empty")) };
        }
        out.push(Step::Key(std::mem::take(name)));
        if out.len() > MAX_STEPS { Err(wrong("it is too deep")) } else { Ok(()) }
    };
    let mut indices: Vec<(usize, usize)> = Vec::new();
    let mut count = 0;
    while let Some(c) = chars.next() {
        match c {
            '\\' => name.push(chars.next().ok_or_else(|| wrong("it ends with a backslash"))?),
            '.' => {
                count += usize::from(!name.is_empty());
                finish(&mut name, after_index)?;
                after_index = false;
            }
            '[' => {
                count += usize::from(!name.is_empty());
                finish(&mut name, after_index)?;
                let digits: String = chars.by_ref().take_while(|c| *c != ']').take(8).collect();
                let index: usize = digits.parse().map_err(|_| wrong("an index is not a number"))?;
                if index > MAX_INDEX {
                    return Err(wrong("an index is too high"));
                }
                indices.push((count, index));
                if indices.len() > MAX_STEPS {
                    return Err(wrong("it is too deep"));
                }
                after_index = true;
            }
            '=' | ',' | '{' | '}' => return Err(wrong("it holds one of `=,{}`")),
            c => {
                if after_index {
                    return Err(wrong("a name follows an index without a dot"));
                }
                name.push(c);
            }
        }
    }
    finish(&mut name, after_index)?;
    // Indices go in where they stood among the names.
    for (shift, (at, index)) in indices.into_iter().enumerate() {
        out.insert(at + shift, Step::Index(index));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn merging_goes_down_mappings_only() {
        let mut base = json!({"a": {"b": 1, "c": [1, 2]}, "d": "x"});
        merge(&mut base, json!({"a": {"c": [3]}, "d": {"e": 1}, "f": null}));
        assert_eq!(base, json!({"a": {"b": 1, "c": [3]}, "d": {"e": 1}, "f": null}));
    }

    #[test]
    fn paths_as_helm_sets_them() {
        let mut values = json!({"a": {"keep": 1}, "list": [{"x": 1}]});
        for (path, text) in [
            ("a.b.c", "true"),
            ("a.n", "007"),
            ("a.i", "12"),
            ("a.q", "'12'"),
            ("list[0].y", "z"),
            ("list[2]", "null"),
            ("name\\.with\\.dots", "v"),
        ] {
            set_path(&mut values, path, text).unwrap();
        }
        assert_eq!(
            values,
            json!({"a": {"keep": 1, "b": {"c": true}, "n": "007", "i": 12, "q": "12"},
                   "list": [{"x": 1, "y": "z"}, null, null], "name.with.dots": "v"})
        );
        for (path, text) in [
            ("", "x"),
            ("a..b", "x"),
            ("a[x]", "x"),
            ("a[99999999]", "x"),
            ("a=b", "x"),
            ("a", "1,2"),
            ("a\\", "x"),
        ] {
            assert!(set_path(&mut values, path, text).is_err(), "{path} {text}");
        }
    }
}
