//! `fleetpack verify`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use super::ui::{Failure, Format, Ui, bytes};
use crate::ops;

/// Prove offline that an archive is whole and who vouches for it.
///
/// Reads the archive once: its signature first, then every byte. Needs no network and writes nothing.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The archive; `-` reads standard input.
    archive: PathBuf,
    /// Public key that must have signed; may be given several times, and one of them must match.
    #[arg(long, short, value_name = "PUB", required = true, value_delimiter = ',')]
    key: Vec<PathBuf>,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Args {
    /// Verifies the archive.
    pub(super) fn run(self, ui: &Arc<Ui>) -> Result<ExitCode, Failure> {
        let report = ops::verify::verify(&self.archive, &self.key, ui.as_ref())?;
        match self.format {
            Format::Json => ui.json(&report),
            Format::Text => ui.data(&format!(
                "verified: {} {} (sequence {}, {})\n  release   {}\n  commit    {}\n  content   {} objects, {} images, {} blobs, {}\n  signed    {}",
                report.name,
                report.version,
                report.sequence,
                report.created,
                report.release,
                report.commit,
                report.objects,
                report.images,
                report.blobs,
                bytes(report.size),
                report.signers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            )),
        }
        Ok(ExitCode::SUCCESS)
    }
}
