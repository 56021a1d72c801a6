//! From parser events to JSON values, within bounds.

use std::collections::{HashMap, HashSet};

use granit_parser::{Event, Options, Parser, ScalarStyle, Span, Tag};
use serde_json::{Map, Value};

use super::scalar::{Scalar, resolve};
use super::{Document, MAX_DEPTH, MAX_NODES, MAX_REPEATED, YamlError, json};

/// Reads every document of a YAML stream, or every value of a JSON stream. Documents that hold
/// nothing (comments alone, null) are left out.
///
/// # Errors
///
/// When the bytes are not such a stream, say something that readers disagree about, or grow
/// beyond the bounds.
pub fn documents(bytes: &[u8]) -> Result<Vec<Document>, YamlError> {
    let at = |offset: usize, why: &str| {
        let before = &bytes[..offset];
        let line = before.split(|b| *b == b'\n').count() as u64;
        let column = before.iter().rev().take_while(|b| **b != b'\n').count() as u64 + 1;
        YamlError { line, column, why: why.to_owned() }
    };
    let text = std::str::from_utf8(bytes).map_err(|error| at(error.valid_up_to(), "not UTF-8"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_ascii_start().starts_with(['{', '['])
        && let Some(documents) = json::stream(text)
    {
        return Ok(documents);
    }
    // A line that ends for one reader and goes on for another could hide a field in a comment.
    if let Some(offset) = text.find(['\u{85}', '\u{2028}', '\u{2029}']) {
        let why = "a character that ends the line in YAML 1.1 and does not in YAML 1.2: write it escaped";
        return Err(at(offset + bytes.len() - text.len(), why));
    }
    Builder::default().read(text)
}

/// Reads bytes that must hold exactly one document.
///
/// # Errors
///
/// As [`documents`], and when there is none or more than one.
pub fn one_document(bytes: &[u8]) -> Result<Value, YamlError> {
    let mut documents = documents(bytes)?;
    let why = match documents.len() {
        1 => return Ok(documents.remove(0).value),
        0 => "there is no document, wanted one".to_owned(),
        count => format!("there are {count} documents, wanted one"),
    };
    let line = documents.get(1).map_or(1, |document| document.line);
    Err(YamlError { line, column: 1, why })
}

/// A collection that is being read.
enum Open {
    Sequence {
        items: Vec<Value>,
        anchor: usize,
    },
    Mapping {
        entries: Map<String, Value>,
        merged: HashSet<String>,
        merge_seen: bool,
        key: Key,
        anchor: usize,
    },
}

/// Where a mapping stands between its keys and values.
enum Key {
    Wanted,
    Named(String),
    Merge,
}

/// A value that an anchor names, with what a repetition of it costs.
struct Anchored {
    value: Value,
    nodes: usize,
    bytes: usize,
    depth: usize,
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Anchored>,
    nodes: usize,
    repeated: usize,
    root: Option<Document>,
}

fn error(span: &Span, why: impl Into<String>) -> YamlError {
    YamlError { line: span.start.line() as u64, column: span.start.col() as u64 + 1, why: why.into() }
}

/// Values, bytes of text and depth of `value`.
fn measure(value: &Value) -> (usize, usize, usize) {
    let join = |(nodes, bytes, depth): (usize, usize, usize), inner: (usize, usize, usize)| {
        (nodes + inner.0, bytes + inner.1, depth.max(inner.2 + 1))
    };
    match value {
        Value::String(text) => (1, text.len(), 0),
        Value::Array(items) => items.iter().map(measure).fold((1, 0, 1), join),
        Value::Object(entries) => entries
            .iter()
            .map(|(key, value)| {
                let (nodes, bytes, depth) = measure(value);
                (nodes, bytes + key.len(), depth)
            })
            .fold((1, 0, 1), join),
        _ => (1, 0, 0),
    }
}

/// The type that a tag asks for: a name of YAML's core schema, or `None` for no tag.
fn core_type<'t>(tag: Option<&'t Tag>, span: &Span) -> Result<Option<&'t str>, YamlError> {
    let Some(tag) = tag else { return Ok(None) };
    match tag.core_suffix() {
        Some(name) => Ok(Some(name)),
        None => Err(error(span, format!("the tag `{}` is not one that Kubernetes reads", tag.original()))),
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, span: &Span) -> Result<Scalar, YamlError> {
    let wanted = core_type(tag, span)?;
    let found = match wanted {
        None if style != ScalarStyle::Plain => return Ok(Scalar::Text(text.to_owned())),
        Some("str") => return Ok(Scalar::Text(text.to_owned())),
        _ => resolve(text),
    };
    match (wanted, found) {
        (None, found) => Ok(found),
        #[expect(clippy::cast_precision_loss, reason = "the tag asks for a float")]
        (Some("float"), Scalar::Int(value)) => Ok(Scalar::Float(value as f64)),
        (Some(wanted), found) if found.kind() == wanted => Ok(found),
        (Some(wanted), found) => {
            Err(error(span, format!("`{text:.100}` is a {}, its tag wants a {wanted}", found.kind())))
        }
    }
}

impl Builder {
    fn read(mut self, text: &str) -> Result<Vec<Document>, YamlError> {
        let mut options = Options::default();
        options.set_emit_comments(false);
        options.block_nesting_limit = MAX_DEPTH;
        options.flow_nesting_limit = MAX_DEPTH;
        let mut documents = Vec::new();
        for event in Parser::new_from_str_with_options(text, options) {
            let (event, span) = event.map_err(|cause| YamlError {
                line: cause.marker().line() as u64,
                column: cause.marker().col() as u64 + 1,
                why: cause.info(),
            })?;
            match event {
                Event::DocumentEnd => {
                    self.anchors.clear();
                    documents.extend(self.root.take().filter(|document| !document.value.is_null()));
                }
                Event::Scalar(text, style, anchor, tag) => {
                    self.scalar(&text, style, anchor, tag.as_deref(), &span)?;
                }
                Event::SequenceStart(_, anchor, tag) => {
                    if core_type(tag.as_deref(), &span)?.is_some_and(|name| name != "seq") {
                        return Err(error(&span, "a sequence with the tag of another type"));
                    }
                    self.begin(Open::Sequence { items: Vec::new(), anchor }, &span)?;
                }
                Event::MappingStart(_, anchor, tag) => {
                    if core_type(tag.as_deref(), &span)?.is_some_and(|name| name != "map") {
                        return Err(error(&span, "a mapping with the tag of another type"));
                    }
                    let open = Open::Mapping {
                        entries: Map::new(),
                        merged: HashSet::new(),
                        merge_seen: false,
                        key: Key::Wanted,
                        anchor,
                    };
                    self.begin(open, &span)?;
                }
                Event::SequenceEnd | Event::MappingEnd => self.end(&span)?,
                Event::Alias(anchor) => self.alias(anchor, &span)?,
                _ => {}
            }
        }
        Ok(documents)
    }

    fn count(&mut self, nodes: usize, span: &Span) -> Result<(), YamlError> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            return Err(error(
                span,
                format!("more than {MAX_NODES} values, those that aliases repeat included"),
            ));
        }
        Ok(())
    }

    fn begin(&mut self, open: Open, span: &Span) -> Result<(), YamlError> {
        self.count(1, span)?;
        if self.open.len() >= MAX_DEPTH {
            return Err(error(span, format!("nested deeper than {MAX_DEPTH}")));
        }
        if let Some(Open::Mapping { key: Key::Wanted, .. }) = self.open.last() {
            return Err(error(span, "a key that is a collection, wanted a scalar"));
        }
        self.start_root(span);
        self.open.push(open);
        Ok(())
    }

    /// Notes the line of a document's first value.
    fn start_root(&mut self, span: &Span) {
        if self.open.is_empty() && self.root.is_none() {
            self.root = Some(Document { line: span.start.line() as u64, value: Value::Null });
        }
    }

    fn end(&mut self, span: &Span) -> Result<(), YamlError> {
        match self.open.pop() {
            Some(Open::Sequence { items, anchor }) => self.place(Value::Array(items), anchor, span),
            Some(Open::Mapping { entries, anchor, .. }) => self.place(Value::Object(entries), anchor, span),
            None => Ok(()),
        }
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        span: &Span,
    ) -> Result<(), YamlError> {
        self.count(1, span)?;
        self.start_root(span);
        if let Some(Open::Mapping { key: key @ Key::Wanted, merge_seen, .. }) = self.open.last_mut() {
            if text == "<<" && style == ScalarStyle::Plain && tag.is_none() {
                if std::mem::replace(merge_seen, true) {
                    return Err(error(span, "the merge key `<<` stands twice in one mapping"));
                }
                *key = Key::Merge;
                return Ok(());
            }
            if span.start.line() != span.end.line() {
                return Err(error(span, "a key of several lines"));
            }
            let name = scalar(text, style, tag, span)?.into_key().map_err(|why| error(span, why))?;
            *key = Key::Named(name.clone());
            self.check_new_key(&name, span)?;
            return self.remember(&Value::String(name), anchor, span);
        }
        let value = scalar(text, style, tag, span)?.into_value().map_err(|why| error(span, why))?;
        self.place(value, anchor, span)
    }

    fn check_new_key(&self, name: &str, span: &Span) -> Result<(), YamlError> {
        match self.open.last() {
            Some(Open::Mapping { entries, merged, .. })
                if entries.contains_key(name) && !merged.contains(name) =>
            {
                Err(error(span, format!("the key `{name:.100}` stands twice in one mapping")))
            }
            _ => Ok(()),
        }
    }

    fn remember(&mut self, value: &Value, anchor: usize, span: &Span) -> Result<(), YamlError> {
        if anchor == 0 {
            return Ok(());
        }
        let (nodes, bytes, depth) = measure(value);
        self.repeat(nodes, bytes, span)?;
        self.anchors.insert(anchor, Anchored { value: value.clone(), nodes, bytes, depth });
        Ok(())
    }

    fn repeat(&mut self, nodes: usize, bytes: usize, span: &Span) -> Result<(), YamlError> {
        self.count(nodes, span)?;
        self.repeated = self.repeated.saturating_add(bytes);
        if self.repeated > MAX_REPEATED {
            return Err(error(span, format!("anchors and aliases repeat more than {MAX_REPEATED} bytes")));
        }
        Ok(())
    }

    fn alias(&mut self, anchor: usize, span: &Span) -> Result<(), YamlError> {
        let Some(anchored) = self.anchors.get(&anchor) else {
            return Err(error(span, "an alias within the value of its own anchor"));
        };
        let (nodes, bytes, depth) = (anchored.nodes, anchored.bytes, anchored.depth);
        if self.open.len() + depth > MAX_DEPTH {
            return Err(error(span, format!("nested deeper than {MAX_DEPTH}")));
        }
        self.repeat(nodes, bytes, span)?;
        let value = self.anchors.get(&anchor).map(|anchored| anchored.value.clone()).unwrap_or_default();
        self.start_root(span);
        if let Some(Open::Mapping { key: Key::Wanted, .. }) = self.open.last() {
            let Value::String(name) = value else {
                return Err(error(span, "an alias as a key, wanted one that names a string"));
            };
            self.check_new_key(&name, span)?;
            if let Some(Open::Mapping { key, .. }) = self.open.last_mut() {
                *key = Key::Named(name);
            }
            return Ok(());
        }
        self.place(value, 0, span)
    }

    /// Puts a finished value where it belongs.
    fn place(&mut self, value: Value, anchor: usize, span: &Span) -> Result<(), YamlError> {
        self.remember(&value, anchor, span)?;
        match self.open.last_mut() {
            None => {
                if let Some(root) = &mut self.root {
                    root.value = value;
                }
            }
            Some(Open::Sequence { items, .. }) => items.push(value),
            Some(Open::Mapping { entries, merged, key, .. }) => {
                match std::mem::replace(key, Key::Wanted) {
                    Key::Named(name) => {
                        merged.remove(&name);
                        entries.insert(name, value);
                    }
                    Key::Merge => merge(entries, merged, value, span)?,
                    // A collection as a key is refused where it begins.
                    Key::Wanted => return Err(error(span, "a key that is a collection, wanted a scalar")),
                }
            }
        }
        Ok(())
    }
}

/// Merges the mapping, or the mappings, behind `<<`; of several the first wins.
///
/// go-yaml version 2 lets a merge override keys that stand before it, the specification and
/// go-yaml version 3 do not: such a mapping is refused unless both agree.
fn merge(
    entries: &mut Map<String, Value>,
    merged: &mut HashSet<String>,
    value: Value,
    span: &Span,
) -> Result<(), YamlError> {
    let wanted = || error(span, "the merge key `<<` wants a mapping or a sequence of mappings");
    let sources = match value {
        Value::Object(source) => vec![source],
        Value::Array(items) => items
            .into_iter()
            .map(|item| match item {
                Value::Object(source) => Ok(source),
                _ => Err(wanted()),
            })
            .collect::<Result<_, _>>()?,
        _ => return Err(wanted()),
    };
    for source in sources {
        for (name, value) in source {
            match entries.get(&name) {
                None => {
                    merged.insert(name.clone());
                    entries.insert(name, value);
                }
                Some(before) if merged.contains(&name) || *before == value => {}
                Some(_) => {
                    let why = format!(
                        "the merge sets `{name:.100}`, which stands before it with another value: put `<<` first"
                    );
                    return Err(error(span, why));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Value {
        one_document(text.as_bytes()).unwrap()
    }

    fn refused(text: &str) -> String {
        documents(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn scalars_and_keys_as_kubernetes_reads_them() {
        let text = "a: yes\nb: 'yes'\nc: 0644\nd: 1_000\ne: ~\nf:\ng: 1.0\nh: !!str 12\ni: 2001-01-01\n\
                    on: 1\n1: x\n1.5: z\nj: |\n  two\n  lines\n";
        assert_eq!(
            read(text),
            json!({"a": true, "b": "yes", "c": 420, "d": 1000, "e": null, "f": null, "g": 1, "h": "12",
                   "i": "2001-01-01", "true": 1, "1": "x", "1.5": "z", "j": "two\nlines\n"})
        );
    }

    #[test]
    fn documents_know_their_lines() {
        let text = "# nothing\n---\n# only a comment\n---\n\n# first\na: 1\n---\nb: 2\n---\n";
        let found: Vec<_> = documents(text.as_bytes()).unwrap();
        let lines: Vec<_> = found.iter().map(|document| document.line).collect();
        assert_eq!(lines, [7, 9]);
        assert_eq!(found[1].value, json!({"b": 2}));
        let found = documents(b"\xef\xbb\xbf\n{\"a\": 1.0}\n\n{\"b\": \"\\ud83d\\ude00\"} ").unwrap();
        assert_eq!(found[0], Document { line: 2, value: json!({"a": 1}) });
        assert_eq!(found[1], Document { line: 4, value: json!({"b": "\u{1f600}"}) });
        assert_eq!(read("{a: 1, b: [x]}"), json!({"a": 1, "b": ["x"]}), "flow YAML is not JSON");
        assert_eq!(documents(b"").unwrap(), []);
    }

    #[test]
    fn anchors_and_merges() {
        let text = "base: &base {a: 1, b: 2}\nleft:\n  <<: *base\n  b: 3\nlist: [*base]\nboth:\n  <<: [{a: 5}, *base]\n";
        let value = read(text);
        assert_eq!(value["left"], json!({"a": 1, "b": 3}));
        assert_eq!(value["list"], json!([{"a": 1, "b": 2}]));
        assert_eq!(value["both"], json!({"a": 5, "b": 2}));
    }

    #[test]
    fn refusals_say_where_and_what() {
        for (text, want) in [
            ("a: 1\nb: 2\na: 3\n", "line 3, column 1: the key `a` stands twice in one mapping"),
            ("{\"a\": 1, \"a\": 2}", "line 1, column 10: the key `a` stands twice in one mapping"),
            ("1: x\n'1': y\n", "line 2, column 1: the key `1` stands twice in one mapping"),
            ("~: x\n", "line 1, column 1: a key is null"),
            ("a: !vault x\n", "line 1, column 11: the tag `!vault` is not one that Kubernetes reads"),
            ("a: !!int x\n", "line 1, column 10: `x` is a str, its tag wants a int"),
            ("a: .nan\n", "line 1, column 4: JSON has no number for `NaN`"),
            ("[a]: b\n", "line 1, column 1: a key that is a collection, wanted a scalar"),
            ("a: &x [*x]\n", "line 1, column 8: an alias within the value of its own anchor"),
            (
                "a: 1\n<<: {a: 2}\n",
                "line 2, column 10: the merge sets `a`, which stands before it with another value: put `<<` first",
            ),
            (
                "a: 1 # \u{2028}b: 2\n",
                "line 1, column 8: a character that ends the line in YAML 1.1 and does not in YAML 1.2: \
                 write it escaped",
            ),
            ("{\"a\n b\": 1}", "line 1, column 2: a key of several lines"),
            ("<<: 1\n", "line 1, column 5: the merge key `<<` wants a mapping or a sequence of mappings"),
        ] {
            assert_eq!(refused(text), want, "{text:?}");
        }
        assert_eq!(refused("x: 1\na: [1,\nb: 2\n"), "line 2, column 4: unclosed bracket '['");
        assert_eq!(refused("a: 1\n\tb: 2\n"), "line 1, column 4: while scanning a plain scalar, found a tab");
        assert_eq!(documents(b"a: 1\nb: \xff").unwrap_err().to_string(), "line 2, column 4: not UTF-8");
        assert!(
            one_document(b"a: 1\n---\nb: 2\n").unwrap_err().to_string().contains("there are 2 documents")
        );
    }

    #[test]
    fn bombs_do_not_go_off() {
        let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
        for n in 1..12 {
            let inner = vec![format!("*a{}", n - 1); 9].join(", ");
            let _ = writeln!(laughs, "a{n}: &a{n} [{inner}]");
        }
        assert!(refused(&laughs).contains("more than 4000000 values"), "{}", refused(&laughs));
        let mut deep = "a0: &a0 [x]\n".to_owned();
        for n in 1..200 {
            let _ = writeln!(deep, "a{n}: &a{n} [*a{}]", n - 1);
        }
        assert!(refused(&deep).contains("nested deeper than 120"));
        assert!(documents("[".repeat(100_000).as_bytes()).is_err());
        assert!(documents("- ".repeat(100_000).as_bytes()).is_err());
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 100].join(", "));
        assert!(refused(&long).contains("repeat more than"));
    }
}
