//! Texts that fields hold: documents of their own, scripts, configuration, bare references.

use super::Rule;
use super::guess::{self, Name};
use super::search::Search;
use crate::model::yaml;

/// Documents within documents.
const DEPTH: usize = 3;
/// A text that is read as a document; of a longer one only the lines are looked at. Bytes.
const DOCUMENT: usize = 8 << 20;
/// All texts of a release that are read as documents. Bytes.
const DOCUMENTS: usize = 256 << 20;

/// What may still be read as documents.
pub(super) struct Budget(usize);

impl Default for Budget {
    fn default() -> Self {
        Self(DOCUMENTS)
    }
}

impl Search<'_> {
    /// Searches a text that is no reference as a whole.
    pub(super) fn text(&mut self, text: &str) {
        let one = text.trim();
        if let Some(image) = guess::whole(guess::without_scheme(one)) {
            return self.candidate(one, image, Rule::Text);
        }
        if !self.read(text) {
            self.lines(text);
        }
    }

    /// Searches the text as YAML or JSON; false where it is neither a mapping nor a list.
    fn read(&mut self, text: &str) -> bool {
        let structured =
            text.contains('\n') || text.contains(": ") || text.trim_start().starts_with(['{', '[']);
        if !structured || self.depth >= DEPTH || text.len() > DOCUMENT || text.len() > self.texts.0 {
            return false;
        }
        self.texts.0 -= text.len();
        let Ok(documents) = yaml::documents(text.as_bytes()) else { return false };
        if !documents.iter().any(|document| document.value.is_object() || document.value.is_array()) {
            return false;
        }
        let length = self.path.len();
        self.path.inner();
        let several = documents.len() > 1;
        for (at, document) in documents.iter().enumerate() {
            let length = self.path.len();
            if several {
                self.path.document(at + 1);
            }
            self.document(&document.value);
            self.path.truncate(length);
        }
        self.path.truncate(length);
        true
    }

    /// Searches the text line by line.
    fn lines(&mut self, text: &str) {
        let several = text.trim_end().contains('\n');
        let length = self.path.len();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            // What is commented out does not run.
            if line.starts_with('#') || line.starts_with("//") || line.len() < 5 {
                continue;
            }
            if several {
                self.path.inner();
                self.path.line(at + 1);
            }
            self.line(line);
            self.path.truncate(length);
        }
    }

    fn line(&mut self, line: &str) {
        if let Some((name, value)) = assignment(line)
            && let Some(image) = guess::named(value, guess::classify(name))
        {
            return self.candidate(value, image, Rule::Text);
        }
        // The base of a build. A query's `FROM` has neither a path nor a tag behind it.
        if let Some(base) = line.strip_prefix("FROM ")
            && let Some(base) = base.split_whitespace().find(|word| !word.starts_with('-'))
            && let Some(image) = guess::named(base, Name::Part)
        {
            return self.candidate(base, image, Rule::Text);
        }
        let mut before = Name::None;
        for word in line.split_whitespace() {
            let flag = word.strip_prefix("--").or_else(|| word.strip_prefix('-'));
            match flag
                .map(|flag| flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value))))
            {
                Some((name, Some(value))) => {
                    let value = value.trim_matches(['"', '\'']);
                    if let Some(image) = guess::named(value, guess::classify(name)) {
                        self.candidate(value, image, Rule::Text);
                        continue;
                    }
                }
                Some((name, None)) => {
                    before = guess::classify(name);
                    continue;
                }
                None if before >= Name::Part => {
                    let value = word.trim_matches(['"', '\'']);
                    if let Some(image) = guess::named(value, before) {
                        self.candidate(value, image, Rule::Text);
                        before = Name::None;
                        continue;
                    }
                }
                None => {}
            }
            before = Name::None;
            for token in guess::tokens(word) {
                if let Some(image) = guess::whole(token) {
                    self.candidate(token, image, Rule::Text);
                }
            }
        }
    }
}

/// The two sides of `name = value`, `name: value`, `export NAME="value"`, `- name: value`.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let line = line.strip_prefix("- ").unwrap_or(line);
    let line = ["export ", "ENV ", "ARG ", "local ", "set "]
        .iter()
        .find_map(|word| line.strip_prefix(word))
        .unwrap_or(line);
    let at = line.find(['=', ':'])?;
    let (name, value) = (line[..at].trim().trim_matches(['"', '\'']), &line[at + 1..]);
    if name.is_empty() || name.contains(char::is_whitespace) {
        return None;
    }
    let value = value.split(" #").next().unwrap_or_default().trim().trim_end_matches([',', ';']);
    Some((name, value.trim_matches(['"', '\''])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_of_an_assignment() {
        for (line, want) in [
            ("image = \"a/b:1\"", Some(("image", "a/b:1"))),
            ("- image: a/b:1 # why", Some(("image", "a/b:1"))),
            ("export X_IMAGE='a:1';", Some(("X_IMAGE", "a:1"))),
            ("\"image\": \"a/b:1\",", Some(("image", "a/b:1"))),
            ("IMAGE=a/b@sha256:00", Some(("IMAGE", "a/b@sha256:00"))),
            ("run the image: a", None),
            ("nothing", None),
        ] {
            assert_eq!(assignment(line), want, "{line}");
        }
    }
}
