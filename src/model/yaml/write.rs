//! JSON values as YAML that every reader takes for the same value.
//!
//! Block style, two spaces, as people and `kubectl` write it. A string stands plain only where
//! no version of YAML could read it as anything else; otherwise it is double-quoted, or a
//! literal block when it has several lines and nothing in it that a block could lose.

use std::fmt::Write as _;

use serde_json::Value;

/// A longer key is written with `? `: readers look for the `:` of a simple key within 1024 bytes.
const LONGEST_SIMPLE_KEY: usize = 250;

/// `value` as one YAML document, with a final newline.
#[must_use]
pub fn to_string(value: &Value) -> String {
    let mut out = String::new();
    if is_block(value) {
        block(&mut out, value, 0, true);
    } else {
        scalar(&mut out, value, None);
        out.push('\n');
    }
    out
}

fn is_block(value: &Value) -> bool {
    match value {
        Value::Array(items) => !items.is_empty(),
        Value::Object(entries) => !entries.is_empty(),
        _ => false,
    }
}

fn spaces(out: &mut String, count: usize) {
    out.extend(std::iter::repeat_n(' ', count));
}

/// A collection that is not empty. `fresh`: the cursor stands at the start of a line, else
/// behind a `- ` that already brought it to the column `indent`.
fn block(out: &mut String, value: &Value, indent: usize, fresh: bool) {
    let mut fresh = fresh;
    let mut start = |out: &mut String| {
        if std::mem::replace(&mut fresh, true) {
            spaces(out, indent);
        }
    };
    match value {
        Value::Array(items) => {
            for item in items {
                start(out);
                out.push_str("- ");
                if is_block(item) {
                    block(out, item, indent + 2, false);
                } else {
                    scalar(out, item, Some(indent + 2));
                    out.push('\n');
                }
            }
        }
        Value::Object(entries) => {
            for (key, value) in entries {
                start(out);
                // A sequence may stand at the column of its key, but not behind a `? `.
                let mut sequence_indent = indent;
                if key.len() > LONGEST_SIMPLE_KEY {
                    out.push_str("? ");
                    quoted(out, key);
                    out.push('\n');
                    spaces(out, indent);
                    sequence_indent = indent + 2;
                } else if is_plain(key) {
                    out.push_str(key);
                } else {
                    quoted(out, key);
                }
                out.push(':');
                if is_block(value) {
                    out.push('\n');
                    let inner = if value.is_array() { sequence_indent } else { indent + 2 };
                    block(out, value, inner, true);
                } else {
                    out.push(' ');
                    scalar(out, value, Some(indent + 2));
                    out.push('\n');
                }
            }
        }
        _ => {}
    }
}

/// A scalar or an empty collection. `block_indent`: the column for the lines of a literal
/// block, where one may stand.
fn scalar(out: &mut String, value: &Value, block_indent: Option<usize>) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
        Value::String(text) => match block_indent {
            _ if is_plain(text) => out.push_str(text),
            Some(indent) if is_literal(text) => literal(out, text, indent),
            _ => quoted(out, text),
        },
    }
}

/// Whether no YAML reader takes the plain `text` for anything but this string, as key or value.
fn is_plain(text: &str) -> bool {
    let Some(first) = text.chars().next() else { return false };
    // Numbers, dates and the like begin with a digit, a sign or a dot in every version of YAML.
    if !(first.is_ascii_alphabetic() || first == '/') || text.ends_with([' ', ':']) || text.len() > 1000 {
        return false;
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || " _./@%+=,;()<>?!~^$*&|:#-".contains(c);
    if !text.chars().all(allowed) || text.contains(": ") || text.contains(" #") {
        return false;
    }
    !matches!(
        text.to_ascii_lowercase().as_str(),
        "y" | "yes" | "true" | "on" | "n" | "no" | "false" | "off" | "null" | "nan" | "inf" | "infinity"
    )
}

/// Whether a literal block carries `text` to every reader unchanged.
fn is_literal(text: &str) -> bool {
    let body = text.strip_suffix('\n').unwrap_or(text);
    let printable = |c: char| {
        matches!(c, '\n' | '\t' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
            && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')
    };
    text.contains('\n')
        && !body.is_empty()
        && !body.ends_with('\n')
        && !body.starts_with(['\n', ' ', '\t'])
        && text.chars().all(printable)
        && body.split('\n').all(|line| line.is_empty() || !line.trim_matches([' ', '\t']).is_empty())
}

fn literal(out: &mut String, text: &str, indent: usize) {
    let body = text.strip_suffix('\n');
    out.push_str(if body.is_some() { "|" } else { "|-" });
    let body = body.unwrap_or(text);
    for line in body.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            spaces(out, indent);
            out.push_str(line);
        }
    }
}

fn quoted(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            ' '..='~'
            | '\u{a1}'..='\u{2027}'
            | '\u{202a}'..='\u{d7ff}'
            | '\u{e000}'..='\u{fefe}'
            | '\u{ff00}'..='\u{fffd}'
            | '\u{10000}'.. => out.push(c),
            _ => {
                let code = u32::from(c);
                // Writing into a string cannot fail.
                let _ =
                    if code <= 0xff { write!(out, "\\x{code:02X}") } else { write!(out, "\\u{code:04X}") };
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::one_document;
    use super::*;

    #[test]
    fn as_people_write_it() {
        let value = json!({
            "kind": "ConfigMap", "empty": {}, "none": null, "list": [], "on": "off", "port": "8080", "n": 1,
            "items": ["a", {"b": 1, "c": [2, [3]]}, [], ["x"]],
            "script": "one\n\n  two\n", "tail": "a\nb", "image": "registry.example.com:5000/a/b:1.0",
        });
        let want = "kind: ConfigMap\nempty: {}\nnone: null\nlist: []\n\"on\": \"off\"\nport: \"8080\"\n\"n\": 1\n\
                    items:\n- a\n- b: 1\n  c:\n  - 2\n  - - 3\n- []\n- - x\nscript: |\n  one\n\n    two\n\
                    tail: |-\n  a\n  b\nimage: registry.example.com:5000/a/b:1.0\n";
        assert_eq!(to_string(&value), want);
        assert_eq!(one_document(want.as_bytes()).unwrap(), value);
    }

    /// Pieces that YAML readers trip over, alone and in every pair, as key and as value.
    #[test]
    fn every_string_comes_back() {
        let pieces = [
            "",
            "a",
            " ",
            "\n",
            "\t",
            "\r",
            ":",
            "#",
            "-",
            "?",
            "|",
            ">",
            "'",
            "\"",
            "\\",
            "%",
            "@",
            "`",
            "!",
            "&",
            "*",
            "[",
            "]",
            "{",
            "}",
            ",",
            "~",
            "<<",
            "---",
            "...",
            "yes",
            "No",
            "null",
            "0",
            "0x1F",
            "1e3",
            "1_0",
            ".5",
            ".inf",
            "+1",
            "2001-01-01",
            "1:30",
            "=",
            "\u{0}",
            "\u{7f}",
            "\u{85}",
            "\u{a0}",
            "\u{2028}",
            "\u{feff}",
            "\u{fffe}",
            "é",
            "\u{1f600}",
            ": ",
            " #",
            "- ",
            "{{ .Values.x }}",
            "${TAG}",
            "\n\n",
            "  \n",
        ];
        for first in pieces {
            for second in pieces {
                for text in [
                    format!("{first}{second}"),
                    format!("x{first}\n{second}y"),
                    format!("{first}y\n{second}"),
                ] {
                    let long = format!("{text}{}", "k".repeat(300));
                    let value = json!({
                        text.as_str(): {"v": text, "l": [text, [text], {text.as_str(): text}]},
                        long.as_str(): [text, long],
                        "last": {long.as_str(): {"a": text}},
                    });
                    let yaml = to_string(&value);
                    let back = one_document(yaml.as_bytes());
                    assert_eq!(back.as_ref(), Ok(&value), "{text:?} as\n{yaml}");
                }
            }
        }
    }

    #[test]
    fn every_number_comes_back() {
        for value in [
            json!(0),
            json!(-1),
            json!(i64::MIN),
            json!(i64::MAX),
            json!(u64::MAX),
            json!(0.1),
            json!(-1.5e-9),
            json!(1e20),
            json!(1.797e308),
            json!(5e-324),
            json!(true),
            json!(null),
            json!([]),
            json!({}),
            json!("x"),
        ] {
            let nested = json!({"a": [value.clone()], "b": value.clone()});
            assert_eq!(one_document(to_string(&nested).as_bytes()).unwrap(), nested);
            if !value.is_null() {
                assert_eq!(one_document(to_string(&value).as_bytes()).unwrap(), value);
            }
        }
    }
}
