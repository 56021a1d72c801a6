//! `fleetpack inspect`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use super::ui::{Failure, Format, Ui, bytes, table};
use crate::model::{ObjectEntry, ReleaseDocument};
use crate::ops;

/// Show what an archive says it holds.
///
/// Reads the head alone. Without `--key` nothing vouches for what is shown, and it says so.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The archive; `-` reads standard input.
    archive: PathBuf,
    /// What to show.
    #[arg(value_enum, default_value_t)]
    part: Part,
    /// Public key that must have signed; may be given several times.
    #[arg(long, short, value_name = "PUB", value_delimiter = ',')]
    key: Vec<PathBuf>,
    /// How to print it: `json` holds the release document, or the part of it, under `release`.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Parts of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Part {
    /// A page about the whole.
    #[default]
    Summary,
    /// Images, their digests and platforms, and who uses them.
    Images,
    /// Kubernetes objects and the files they come from.
    Objects,
    /// Commit and references.
    Git,
    /// Every blob in archive order.
    Blobs,
}

impl Args {
    /// Shows the release.
    pub(super) fn run(self, ui: &Arc<Ui>) -> Result<ExitCode, Failure> {
        let shown = ops::inspect::inspect(&self.archive, &self.key)?;
        match self.format {
            Format::Json => ui.json(&shown.json(part_name(self.part))),
            Format::Text => {
                let status = match shown.signers.as_slice() {
                    [] => "UNVERIFIED: nothing below is vouched for; give --key".to_owned(),
                    signers => {
                        let signers: Vec<String> = signers.iter().map(ToString::to_string).collect();
                        format!(
                            "head verified, signed by {} (blobs not read: `verify` reads them)",
                            signers.join(", ")
                        )
                    }
                };
                ui.data(&format!(
                    "{status}\n{}",
                    text(self.part, &shown.digest.to_string(), &shown.document)
                ));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

const fn part_name(part: Part) -> &'static str {
    match part {
        Part::Summary => "summary",
        Part::Images => "images",
        Part::Objects => "objects",
        Part::Git => "git",
        Part::Blobs => "blobs",
    }
}

/// An object in a table: API version, kind and name, role, file.
pub(super) fn object_row(object: &ObjectEntry) -> Vec<String> {
    vec![
        object.id.api_version.clone(),
        object.id.to_string(),
        object.role.to_string(),
        object.origin.to_string(),
    ]
}

fn text(part: Part, digest: &str, document: &ReleaseDocument) -> String {
    match part {
        Part::Summary => format!(
            "{} (sequence {}, {})\n  release   {digest}\n  commit    {}\n  content   {} objects, {} images, {} blobs, {}\n  made by   {}",
            document.title(),
            document.sequence,
            document.created,
            document.git.commit,
            document.rendered.objects.len(),
            document.images.len(),
            document.blobs.len(),
            bytes(document.blobs.iter().map(|blob| blob.size).sum()),
            document.generator,
        ),
        Part::Images => {
            let mut lines = Vec::new();
            for image in &document.images {
                let platforms: Vec<String> = image.platforms.iter().map(ToString::to_string).collect();
                lines.push(format!("{}\n  {}  {}", image.reference, image.digest, platforms.join(" ")));
                lines.extend(image.absent.iter().map(|child| {
                    let platform = child.platform.as_ref().map(ToString::to_string).unwrap_or_default();
                    format!("  left out  {}  {platform}", child.digest)
                }));
                lines.extend(image.referrers.iter().map(|referrer| {
                    let kind =
                        referrer.artifact_type.as_deref().or(referrer.tag.as_deref()).unwrap_or("artifact");
                    format!("  referrer  {}  {kind}", referrer.digest)
                }));
                lines.extend(image.used_by.iter().map(|usage| {
                    format!("  used by   {}  {}  {}", usage.place(), usage.object, usage.field)
                }));
            }
            lines.join("\n")
        }
        Part::Objects => table(&document.rendered.objects.iter().map(object_row).collect::<Vec<_>>()),
        Part::Git => {
            let refs: Vec<Vec<String>> = document
                .git
                .refs
                .iter()
                .map(|reference| vec![reference.target.to_string(), reference.name.to_string()])
                .collect();
            let mut text =
                format!("commit {}\nbundle {}\n{}", document.git.commit, document.git.bundle, table(&refs));
            for submodule in &document.git.submodules {
                text = format!("{text}\nsubmodule {}\n  bundle {}", submodule.name, submodule.bundle);
                for place in &submodule.paths {
                    text = format!("{text}\n  {}  {}  {}", place.commit, place.path, place.url);
                }
            }
            for object in &document.git.lfs {
                text = format!("{text}\nlfs {}  {} bytes", object.digest, object.size);
                for path in &object.paths {
                    text = format!("{text}\n  {path}");
                }
            }
            text
        }
        Part::Blobs => table(
            &document
                .blobs
                .iter()
                .map(|blob| vec![blob.digest.to_string(), blob.size.to_string(), blob.media_type.clone()])
                .collect::<Vec<_>>(),
        ),
    }
}
