//! `fleetpack images`.

use std::process::ExitCode;
use std::sync::Arc;

use super::inputs::{ImageArgs, RevisionArgs};
use super::settings;
use super::ui::{Failure, Format, Ui, bytes};
use crate::ops;

/// List every image that a revision needs, and everything that says so.
///
/// Each with its digest, platforms and size, whether it certainly runs, only looks like an image or
/// was asked for by name, and every place that names it: file and line, object, field. What
/// `images.ignore` in `fleetpack.yaml` leaves out is listed with its reason. Finds what `build`
/// finds and fails where it would; writes nothing.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    revision: RevisionArgs,
    #[command(flatten)]
    images: ImageArgs,
    /// How to print the list.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Args {
    /// Lists the images.
    pub(super) fn run(self, ui: &Arc<Ui>) -> Result<ExitCode, Failure> {
        let work = ops::list_images::list(self.revision.options(), self.images.options(), ui.clone());
        let report = settings::interruptible(work)??;
        match self.format {
            Format::Json => ui.json(&report),
            Format::Text => ui.data(&report.text(&bytes)),
        }
        Ok(ExitCode::SUCCESS)
    }
}
