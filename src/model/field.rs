//! Paths of fields in documents, as people and reports write them.

use std::fmt;

/// The path of a field: `spec.template.spec.containers[0].image`.
///
/// Keys of letters, digits, `_` and `-` stand as they are, others as `["key"]`. ` -> ` leads into a
/// document that the field before it holds as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldPath(String);

impl FieldPath {
    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its length, to go back to with [`FieldPath::truncate`].
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it is the path of the whole document.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Goes back to what the path was when it had this length.
    pub fn truncate(&mut self, length: usize) {
        self.0.truncate(length);
    }

    /// Goes on to the value of `key`.
    pub fn key(&mut self, key: &str) {
        let word =
            !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if word {
            if !self.0.is_empty() && !self.0.ends_with("> ") {
                self.0.push('.');
            }
            self.0.push_str(key);
            return;
        }
        self.0.push_str("[\"");
        for c in key.chars() {
            match c {
                '"' | '\\' => self.0.extend(['\\', c]),
                c if c.is_control() => self.0.push('?'),
                c => self.0.push(c),
            }
        }
        self.0.push_str("\"]");
    }

    /// Goes on to an item of a sequence.
    pub fn index(&mut self, at: usize) {
        self.0.push('[');
        self.0.push_str(&at.to_string());
        self.0.push(']');
    }

    /// Goes on into the text that stands there.
    pub fn inner(&mut self) {
        self.0.push_str(INNER);
    }

    /// Goes on to a document of a text that holds several, counted from 1.
    pub fn document(&mut self, number: usize) {
        self.0.push_str("document ");
        self.0.push_str(&number.to_string());
        self.0.push_str(INNER);
    }

    /// Goes on to a line of a text that is no document, counted from 1.
    pub fn line(&mut self, number: usize) {
        self.0.push_str("line ");
        self.0.push_str(&number.to_string());
    }
}

/// What leads into a text.
pub(super) const INNER: &str = " -> ";

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_as_people_write_them() {
        let mut path = FieldPath::default();
        path.key("data");
        path.key("a.b/\"c");
        path.index(3);
        let length = path.len();
        path.inner();
        path.document(2);
        path.key("spec");
        path.key("x_1-y");
        assert_eq!(path.as_str(), "data[\"a.b/\\\"c\"][3] -> document 2 -> spec.x_1-y");
        path.truncate(length);
        path.inner();
        path.line(7);
        assert_eq!(path.to_string(), "data[\"a.b/\\\"c\"][3] -> line 7");
    }
}
