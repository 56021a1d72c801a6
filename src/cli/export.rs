//! `fleetpack export`.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use super::settings::StoreArgs;
use super::ui::{Failure, Format, Ui, bytes};
use crate::model::ReleaseName;
use crate::ops;
use crate::ops::export::Output;

/// Write the archive of a release out again, bit for bit as it came in, with its signatures.
///
/// A release of which something is missing or damaged is refused, with what it is. On any failure
/// there is no file under the output's name.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The release: version, `NAME:VERSION`, digest (or the beginning of one), `active`, or `previous`
    /// (the one that `fleetpack rollback` would go to).
    release: String,
    /// The archive to write, or a folder for it; `-` writes to standard output [default: NAME-VERSION.fleetpack.tar here].
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Name of the release, where the store holds several.
    #[arg(long, value_name = "NAME")]
    name: Option<ReleaseName>,
    #[command(flatten)]
    store: StoreArgs,
    /// How to print the result, which is not printed beside an archive on standard output.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Args {
    /// Writes the archive.
    pub(super) fn run(self, ui: &Arc<Ui>) -> Result<ExitCode, Failure> {
        let stream = self.output.as_deref() == Some(Path::new("-"));
        if stream && io::stdout().is_terminal() {
            return Err(Failure::usage(
                "an archive does not go to a terminal",
                "redirect it, or name a file with `-o`",
            ));
        }
        let output = if stream { Output::Stream(Box::new(io::stdout())) } else { Output::File(self.output) };
        let options =
            ops::export::Options { store: self.store.path(), release: self.release, name: self.name, output };
        let report = ops::export::export(options, ui.as_ref())?;
        let Some(archive) = &report.archive else { return Ok(ExitCode::SUCCESS) };
        match self.format {
            Format::Json => ui.json(&report),
            Format::Text => ui.data(&format!(
                "{archive}: {} {} ({}), {}, signatures: {}",
                report.name,
                report.version,
                report.release.short(),
                bytes(report.size),
                report.signatures
            )),
        }
        Ok(ExitCode::SUCCESS)
    }
}
