//! JSON streams: what a file that begins with `{` or `[` may be. Objects with a doubled key are
//! refused, which `serde_json`'s own value would take.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{Document, MAX_DEPTH, MAX_NODES, scalar::float_value};

/// A JSON value whose objects have no key twice and whose whole numbers are integers.
struct Strict(Value);

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Strict;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Strict, E> {
        Ok(Strict(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Strict, E> {
        float_value(value).map(Strict).ok_or_else(|| E::custom("a number that JSON cannot hold"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Strict, A::Error> {
        let mut out = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            out.push(item);
        }
        Ok(Strict(Value::Array(out)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Strict, A::Error> {
        let mut out = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if out.contains_key(&key) {
                return Err(A::Error::custom(format!("the key `{key:.100}` stands twice in one object")));
            }
            out.insert(key, entries.next_value::<Strict>()?.0);
        }
        Ok(Strict(Value::Object(out)))
    }
}

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor)
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(entries) => 1 + entries.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Reads `text` as JSON values one after another; `None` when it is not that (it may be YAML).
/// A doubled key is not looked for again: YAML finds it as well, with its line.
pub(super) fn stream(text: &str) -> Option<Vec<Document>> {
    // An upper bound of the values to come, before any is made.
    if text.bytes().filter(|b| matches!(b, b',' | b'[' | b'{')).count() > MAX_NODES {
        return None;
    }
    let mut documents = Vec::new();
    let (mut counted, mut line) = (0, 1);
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Strict>();
    loop {
        let rest = text.get(stream.byte_offset()..)?;
        let start = text.len() - rest.trim_ascii_start().len();
        let Some(next) = stream.next() else {
            return Some(documents);
        };
        let Strict(value) = next.ok()?;
        if depth(&value) > MAX_DEPTH {
            return None;
        }
        line += text.get(counted..start)?.bytes().filter(|b| *b == b'\n').count() as u64;
        counted = start;
        if !value.is_null() {
            documents.push(Document { line, value });
        }
    }
}
