//! `fleetpack render`.

use std::process::ExitCode;
use std::sync::Arc;

use super::inputs::RevisionArgs;
use super::settings;
use super::ui::{Failure, Ui, table};
use crate::ops;

/// Print the objects that a revision renders to, and the file that each comes from.
///
/// What `build` would put into an archive: plain files, kustomizations and Helm charts of the
/// revision, in order. Asks no registry and no cluster. Objects with the role `test` or `undo
/// hook` (of Helm charts) travel with their images, and `apply` leaves them out.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    revision: RevisionArgs,
    /// How to print them.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// How objects are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Format {
    /// A line an object: API version, kind and name, role, file.
    #[default]
    Text,
    /// One JSON document with a `format` number; `object` holds the whole object.
    Json,
    /// The objects as YAML documents, each below a comment that says where it comes from.
    Yaml,
}

impl Args {
    /// Prints the objects.
    pub(super) fn run(self, ui: &Arc<Ui>) -> Result<ExitCode, Failure> {
        let report = settings::interruptible(ops::render::render(self.revision.options(), ui.clone()))??;
        match self.format {
            Format::Json => ui.json(&report),
            Format::Yaml => ui.raw(report.yaml().as_bytes()),
            Format::Text => {
                let row = |object: &ops::render::Rendered| super::inspect::object_row(&object.entry);
                ui.data(&table(&report.objects.iter().map(row).collect::<Vec<_>>()));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
