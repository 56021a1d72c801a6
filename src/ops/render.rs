//! `render`: the objects of a revision, and the file that each comes from.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::Result;
use super::checkout::{Checkout, RevisionOptions};
use crate::model::{Event, GitOid, ObjectEntry, Progress, yaml};

/// The objects of a revision, in the order in which they travel.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Format of this report: 1.
    pub format: u32,
    /// The commit.
    pub commit: GitOid,
    /// The objects.
    pub objects: Vec<Rendered>,
}

/// One object.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rendered {
    /// What names it, where it comes from and what it is for, as the release document has it.
    #[serde(flatten)]
    pub entry: ObjectEntry,
    /// The whole object.
    pub object: Value,
}

/// Renders a revision.
///
/// # Errors
///
/// When the revision or its manifests cannot be had.
pub async fn render(options: RevisionOptions, progress: Arc<dyn Progress>) -> Result<Report> {
    let checkout = Checkout::open(&options, &progress).await?;
    progress.event(Event::Start { title: format!("rendering {}", checkout.revision.short), bytes: None });
    let objects: Vec<_> = checkout
        .render(&options, progress.as_ref())?
        .into_iter()
        .map(|object| Rendered { entry: ObjectEntry::from(&object), object: object.value })
        .collect();
    let idle = objects.iter().filter(|object| !object.entry.role.is_applied()).count();
    let idle = if idle == 0 { String::new() } else { format!(", {idle} of them not applied") };
    progress.event(Event::Finish { summary: format!("{} objects{idle}", objects.len()) });
    Ok(Report { format: 1, commit: checkout.revision.commit, objects })
}

impl Report {
    /// The objects as a stream of YAML documents, each below a comment that says where it comes
    /// from and what it is for: `# web.yaml:3 (hook)`.
    #[must_use]
    pub fn yaml(&self) -> String {
        let mut out = String::new();
        for Rendered { entry, object } in &self.objects {
            // A file name from outside must not end the comment.
            let origin: String = entry.origin.to_string().chars().flat_map(shown).collect();
            let role = if entry.role.is_plain() { String::new() } else { format!(" ({})", entry.role) };
            out.push_str("---\n# ");
            out.push_str(&origin);
            out.push_str(&role);
            out.push('\n');
            out.push_str(&yaml::to_string(object));
        }
        out
    }
}

/// A character of a comment: one that a reader might take for the end of a line is escaped.
fn shown(c: char) -> impl Iterator<Item = char> {
    let harmful = c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}');
    let (escaped, plain) = if harmful { (Some(c.escape_unicode()), None) } else { (None, Some(c)) };
    escaped.into_iter().flatten().chain(plain)
}
