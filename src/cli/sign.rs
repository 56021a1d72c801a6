//! `fleetpack sign`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use super::settings;
use super::ui::{Failure, Ui};
use crate::ops;

/// Add a signature to an archive.
///
/// Only the reserved area in its head changes; the bytes that are signed do not.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The archive.
    archive: PathBuf,
    /// Private key (cosign's format); its password is `COSIGN_PASSWORD`, else asked for.
    #[arg(long, short, value_name = "KEY")]
    key: PathBuf,
    /// Write the signed archive here and leave the given one as it is.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Args {
    /// Signs the archive.
    pub(super) fn run(self, ui: &Arc<Ui>) -> Result<ExitCode, Failure> {
        let key = ops::keys::load_private(&self.key, || {
            settings::password(&format!("Password for `{}`: ", self.key.display()))
                .map_err(|failure| failure.message)
        })?;
        let report = ops::sign::sign(&self.archive, self.output.as_deref(), &key, ui.as_ref())?;
        ui.data(&format!(
            "{}\n  release   {}\n  signed    {}\n  signatures in all: {}",
            report.archive.display(),
            report.release,
            report.signed_by,
            report.signatures
        ));
        Ok(ExitCode::SUCCESS)
    }
}
