//! `fleetpack lock`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use super::inputs::{ImageArgs, RevisionArgs};
use super::settings;
use super::ui::{Failure, Format, Ui};
use crate::model::ImageRef;
use crate::model::lock::Changes;
use crate::ops;
use crate::ops::lock::{Options, Output, Report, Update};

/// Write what each image reference of a revision means to `fleetpack.lock`.
///
/// `build` takes the digests of the `fleetpack.lock` that the revision it builds holds, so commit
/// the file. What is locked keeps its digest until `--update`; images that the revision no longer
/// uses leave the file. References that hold a digest need no entry.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    revision: RevisionArgs,
    /// The file to write; `-` prints it [default: fleetpack.lock at the root of the work tree].
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Ask for these references again, or for all where none is named; may mean another digest then.
    #[arg(long, value_name = "REF", num_args = 0.., value_delimiter = ',')]
    update: Option<Vec<ImageRef>>,
    #[command(flatten)]
    images: ImageArgs,
    /// How to print what changed.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Args {
    /// Writes the lock.
    pub(super) fn run(self, ui: &Arc<Ui>) -> Result<ExitCode, Failure> {
        let output = match self.output {
            None => Output::WorkTree,
            Some(path) if path.as_os_str() == "-" => Output::Text,
            Some(path) => Output::File(path),
        };
        if output == Output::Text && self.format == Format::Json {
            return Err(Failure::usage(
                "`--output -` prints the lock, and `--format json` what changed",
                "give one of them",
            ));
        }
        let options = Options {
            revision: self.revision.options(),
            images: self.images.options(),
            output,
            update: match self.update {
                None => Update::Keep,
                Some(these) if these.is_empty() => Update::All,
                Some(these) => Update::These(these),
            },
            now: settings::source_date_epoch()?,
        };
        let report = settings::interruptible(ops::lock::lock(options, ui.clone()))??;
        match (self.format, &report.lock) {
            (Format::Json, _) => ui.json(&report),
            (Format::Text, Some(path)) => ui.data(&format!("{}: {}", path.display(), told(&report))),
            (Format::Text, None) => ui.raw(report.text.as_bytes()),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn told(report: &Report) -> String {
    let Changes { added, moved, removed } = &report.changes;
    let mut text = format!(
        "{} images locked ({} added, {} moved, {} removed){}",
        report.images,
        added.len(),
        moved.len(),
        removed.len(),
        if report.written { "" } else { "; the file is as it was" }
    );
    let added = added.iter().map(|image| format!("\n  added    {}  {}", image.reference, image.digest));
    let moved = moved.iter().map(|image| {
        format!(
            "\n  moved    {}\n           from {}\n           to   {}",
            image.reference, image.from, image.to
        )
    });
    let removed = removed.iter().map(|image| format!("\n  removed  {}  {}", image.reference, image.digest));
    text.extend(added.chain(moved).chain(removed));
    text
}
