//! Where an object of a chart comes from: Helm's `# Source:` comments, led back to the revision.

use std::collections::HashMap;

use super::chart::Chart;
use crate::model::{ObjectId, Origin};
use crate::source::render::tree::Tree;

const MARK: &str = "# Source: ";

/// The `# Source:` comments of a rendering: the line of each, and what it names.
pub(super) struct Sources<'a>(Vec<(u64, &'a str)>);

impl<'a> Sources<'a> {
    /// Reads the comments that stand right below a `---`: no other one is Helm's.
    pub fn of(output: &'a str) -> Self {
        let mut sources = Vec::new();
        let mut begins = true;
        for (number, line) in (1..).zip(output.lines()) {
            if begins && let Some(source) = line.strip_prefix(MARK) {
                sources.push((number, source));
            }
            begins = line == "---";
        }
        Self(sources)
    }

    /// What the comment before `line` names, `CHART/templates/web.yaml`.
    pub fn before(&self, line: u64) -> Option<&'a str> {
        let after = self.0.partition_point(|(at, _)| *at <= line);
        after.checked_sub(1).and_then(|at| self.0.get(at)).map(|(_, source)| *source)
    }
}

/// Leads the paths of the comments to files of the revision.
pub(super) struct Origins<'a> {
    pub tree: &'a Tree,
    pub chart: &'a Chart,
    files: HashMap<String, Vec<Segment>>,
}

/// A document of a template, as far as it can be told before it is rendered.
struct Segment {
    line: u64,
    kinds: Vec<String>,
    names: Vec<String>,
}

impl<'a> Origins<'a> {
    pub fn new(tree: &'a Tree, chart: &'a Chart) -> Self {
        Self { tree, chart, files: HashMap::new() }
    }

    /// The file that a comment names, and the packaged chart it lies in where it lies in one.
    fn file(&self, source: &str) -> (String, bool) {
        let mut chart = self.chart;
        let mut rest = source.split_once('/').map_or("", |(_, rest)| rest);
        loop {
            let Some(folder) = &chart.folder else { return (chart.place.clone(), true) };
            let inner = rest.strip_prefix("charts/").and_then(|below| below.split_once('/'));
            if let Some((name, below)) = inner
                && let Some(part) = chart.part(name)
            {
                (chart, rest) = (part, below);
                continue;
            }
            let path = folder.join(rest);
            return if !rest.is_empty() && path.is_file() {
                (self.tree.label(&path), false)
            } else {
                (chart.place.clone(), true)
            };
        }
    }

    /// The file that a comment names, without a line.
    pub fn place(&self, source: Option<&str>) -> Origin {
        let file = source.map_or_else(|| self.chart.place.clone(), |source| self.file(source).0);
        Origin { file, ..Origin::default() }
    }

    /// Where the object `id` that a comment names comes from.
    pub fn find(&mut self, source: Option<&str>, id: &ObjectId) -> Origin {
        let (file, opaque) = match source {
            Some(source) => self.file(source),
            None => (self.chart.place.clone(), true),
        };
        let line = if opaque { None } else { self.line(&file, id) };
        Origin { file, line, ..Origin::default() }
    }

    /// The line on which a template begins what becomes the object, where only one place can be it.
    fn line(&mut self, file: &str, id: &ObjectId) -> Option<u64> {
        if !self.files.contains_key(file) {
            let bytes = self.tree.read(&self.tree.root.join(file)).unwrap_or_default();
            self.files.insert(file.to_owned(), segments(&String::from_utf8_lossy(&bytes)));
        }
        let segments = self.files.get(file)?;
        let one = |mut found: Box<dyn Iterator<Item = &Segment> + '_>| {
            let first = found.next()?;
            found.next().is_none().then_some(first.line)
        };
        let of_kind = || segments.iter().filter(|segment| segment.kinds.contains(&id.kind));
        one(Box::new(of_kind().filter(|segment| segment.names.contains(&id.name))))
            .or_else(|| one(Box::new(of_kind())))
            .or_else(|| one(Box::new(segments.iter())))
    }
}

/// The documents of a template: between lines of `---`, each with its first line that is neither
/// comment nor template alone, and the kinds and names that stand in it as they are.
fn segments(text: &str) -> Vec<Segment> {
    let mut segments = Vec::new();
    let mut open: Option<Segment> = None;
    let mut in_comment = false;
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim_end() == "---" {
            segments.extend(open.take());
            continue;
        }
        let plain = line.trim();
        if in_comment || plain.starts_with("{{/*") || plain.starts_with("{{- /*") {
            in_comment = !plain.contains("*/");
            continue;
        }
        let template = plain.starts_with("{{") && plain.ends_with("}}");
        if plain.is_empty() || plain.starts_with('#') || template {
            continue;
        }
        let segment = open.get_or_insert(Segment { line: number, kinds: Vec::new(), names: Vec::new() });
        let unquoted = |text: &str| text.trim().trim_matches(['"', '\'']).to_owned();
        if let Some(kind) = line.strip_prefix("kind:") {
            segment.kinds.push(unquoted(kind));
        } else if let Some(name) = plain.strip_prefix("name:") {
            segment.names.push(unquoted(name));
        }
    }
    segments.extend(open);
    segments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_below_a_separator_count_alone() {
        let text = "---\n# Source: a/templates/x.yaml\n# Source: a/fake\nkind: A\n---\n# Source: a/crds/y.yaml\n---\nkind: B\n";
        let sources = Sources::of(text);
        assert_eq!(sources.before(4), Some("a/templates/x.yaml"));
        assert_eq!(sources.before(8), Some("a/crds/y.yaml"));
        assert_eq!(sources.before(1), None);
    }

    #[test]
    fn segments_of_a_template() {
        let text = "{{- /*\n  kind: Comment\n*/}}\n{{- if .Values.x }}\n# web\napiVersion: v1\nkind: Service\nmetadata:\n  \
                    name: {{ .Release.Name }}\n{{- end }}\n---\napiVersion: v1\nkind: \"Secret\"\nmetadata:\n  name: 'a'\n";
        let found: Vec<_> = segments(text).into_iter().map(|s| (s.line, s.kinds, s.names)).collect();
        assert_eq!(
            found,
            [
                (6, vec!["Service".to_owned()], vec!["{{ .Release.Name }}".to_owned()]),
                (12, vec!["Secret".to_owned()], vec!["a".to_owned()])
            ]
        );
    }
}
