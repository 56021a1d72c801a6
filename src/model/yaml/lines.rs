//! Where the scalars of a YAML text stand.

use std::collections::BTreeSet;

use granit_parser::{Event, Options, Parser, ScalarStyle};

use super::MAX_DEPTH;
use crate::model::field::{FieldPath, INNER};

/// Texts within texts that are followed.
const INNER_DEPTH: usize = 4;

/// A scalar of a text, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalarLine {
    /// The document, as the line on which its content begins.
    pub document: u64,
    /// Path of the field in it.
    pub field: String,
    /// Line of the scalar, counted from 1.
    pub line: u64,
    /// The scalar; none where it stands in a text whose lines are not those of the file, and the
    /// line is that of the text.
    pub text: Option<String>,
}

/// Finds the scalars at `wanted`: each the line on which a document's content begins, and the path
/// of a field in it (into texts that the field holds as well). What is not there, or stands behind an alias, is
/// left out; of a text that is not YAML only what comes before the mistake is found.
#[must_use]
pub fn scalar_lines(text: &str, wanted: &BTreeSet<(u64, &str)>) -> Vec<ScalarLine> {
    let outer: BTreeSet<(u64, &str)> =
        wanted.iter().map(|(line, field)| (*line, field.split(INNER).next().unwrap_or_default())).collect();
    let mut found = Vec::new();
    scan(text, &mut |_, document, field, scalar| {
        if !outer.contains(&(document, field)) {
            return;
        }
        let begin = (document, field);
        for (_, whole) in
            wanted.range(begin..).take_while(|(at, whole)| *at == document && whole.starts_with(field))
        {
            let place = match &whole[field.len()..] {
                "" => Some((scalar.line, Some(scalar.text.to_owned()))),
                rest => rest.strip_prefix(INNER).map(|inner| scalar.inner(inner, INNER_DEPTH)),
            };
            found.extend(place.map(|(line, text)| ScalarLine {
                document,
                field: (*whole).to_owned(),
                line,
                text,
            }));
        }
    });
    found
}

struct Scalar<'a> {
    line: u64,
    text: &'a str,
    literal: bool,
}

impl Scalar<'_> {
    /// The line of what `field` names in this text, and what stands there; the text's own line
    /// where its lines are not those of the file.
    fn inner(&self, field: &str, depth: usize) -> (u64, Option<String>) {
        if !self.literal || depth == 0 {
            return (self.line, None);
        }
        // A block's span begins on the first line of its content that is not empty.
        let empty = self.text.bytes().take_while(|b| *b == b'\n').count() as u64;
        let before = self.line.saturating_sub(empty + 1);
        if let Some(number) = field.strip_prefix("line ") {
            return (number.parse().map_or(self.line, |number: u64| before.saturating_add(number)), None);
        }
        let (number, field) = match field.strip_prefix("document ").and_then(|rest| rest.split_once(INNER)) {
            Some((number, field)) => (number.parse().unwrap_or(1), field),
            None => (1_usize, field),
        };
        let (first, rest) = match field.split_once(INNER) {
            Some((first, rest)) => (first, Some(rest)),
            None => (field, None),
        };
        let mut found = None;
        scan(self.text, &mut |document, _, field, scalar| {
            if found.is_none() && document == number && field == first {
                found = Some(match rest {
                    Some(rest) => scalar.inner(rest, depth - 1),
                    None => (scalar.line, Some(scalar.text.to_owned())),
                });
            }
        });
        found.map_or((self.line, None), |(line, text)| (before.saturating_add(line), text))
    }
}

/// Where a collection stands: between which of its parts, and the length of its path.
enum Open {
    Sequence { next: usize, length: usize },
    Mapping { key: bool, length: usize },
}

/// Tells every scalar that is a value: number and first line of its document, its path, itself.
fn scan(text: &str, tell: &mut dyn FnMut(usize, u64, &str, &Scalar<'_>)) {
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.block_nesting_limit = MAX_DEPTH;
    options.flow_nesting_limit = MAX_DEPTH;
    let (mut open, mut path): (Vec<Open>, _) = (Vec::new(), FieldPath::default());
    let (mut number, mut begin) = (0, None);
    for event in Parser::new_from_str_with_options(text, options) {
        let Ok((event, span)) = event else { return };
        let line = span.start.line() as u64;
        match event {
            Event::DocumentStart(..) => {
                open.clear();
                path.truncate(0);
                begin = None;
            }
            Event::Scalar(text, style, ..) => {
                let first = *begin.get_or_insert_with(|| {
                    number += 1;
                    line
                });
                if let Some(Open::Mapping { key: key @ true, .. }) = open.last_mut() {
                    *key = false;
                    path.key(&text);
                    continue;
                }
                enter(&mut open, &mut path);
                let literal = style == ScalarStyle::Literal;
                tell(number, first, path.as_str(), &Scalar { line, text: &text, literal });
                leave(&mut open, &mut path);
            }
            Event::SequenceStart(..) | Event::MappingStart(..) => {
                begin.get_or_insert_with(|| {
                    number += 1;
                    line
                });
                enter(&mut open, &mut path);
                let length = path.len();
                open.push(match event {
                    Event::SequenceStart(..) => Open::Sequence { next: 0, length },
                    _ => Open::Mapping { key: true, length },
                });
            }
            Event::SequenceEnd | Event::MappingEnd => {
                open.pop();
                leave(&mut open, &mut path);
            }
            Event::Alias(..) => {
                enter(&mut open, &mut path);
                leave(&mut open, &mut path);
            }
            _ => {}
        }
    }
}

/// A value begins: an item of a sequence gets its number.
fn enter(open: &mut [Open], path: &mut FieldPath) {
    if let Some(Open::Sequence { next, .. }) = open.last_mut() {
        path.index(*next);
        *next += 1;
    }
}

/// A value ended: its collection waits for the next part.
fn leave(open: &mut [Open], path: &mut FieldPath) {
    match open.last_mut() {
        Some(Open::Sequence { length, .. }) => path.truncate(*length),
        Some(Open::Mapping { key, length }) => {
            path.truncate(*length);
            *key = true;
        }
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_know_their_lines() {
        let text = "# first\n---\na: 1\nb:\n- x\n- c: y\n  \"d.e\": z\n---\n\nb: [p, q]\ntext: |\n  one\n  image: w\n\
                    list: |\n  k: 1\n  ---\n  k: 2\nbad: [\n";
        let wanted = [
            (3, "a"),
            (3, "b[1].c"),
            (3, "b[1][\"d.e\"]"),
            (3, "missing"),
            (10, "b[1]"),
            (10, "text -> line 2"),
            (10, "list -> document 2 -> k"),
        ];
        let found = scalar_lines(text, &wanted.into_iter().collect());
        let lines: Vec<_> = found.iter().map(|found| (found.field.as_str(), found.line)).collect();
        assert_eq!(
            lines,
            [
                ("a", 3),
                ("b[1].c", 6),
                ("b[1][\"d.e\"]", 7),
                ("b[1]", 10),
                ("text -> line 2", 13),
                ("list -> document 2 -> k", 17),
            ]
        );
        assert_eq!(found[1].text.as_deref(), Some("y"));
        let blank = "a: |\n\n\n  b: c\n";
        let found = scalar_lines(blank, &[(1, "a -> b"), (1, "a")].into_iter().collect());
        assert_eq!(found.iter().map(|found| found.line).collect::<Vec<_>>(), [4, 4]);
        let json = "\n{\"a\": {\"b\": [\n1, \"x\"]}}\n";
        let found = scalar_lines(json, &[(2, "a.b[1]")].into_iter().collect());
        assert_eq!((found[0].line, found[0].text.as_deref()), (3, Some("x")));
    }
}
