//! `fleetpack keygen`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::settings;
use super::ui::{Failure, Ui};
use crate::ops;

/// Make a key pair as cosign writes it: an encrypted private key and its public key.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write `PREFIX.key` and `PREFIX.pub`; existing files are never replaced.
    #[arg(long, value_name = "PREFIX", default_value = "fleetpack")]
    output_key_prefix: PathBuf,
}

impl Args {
    /// Makes the pair.
    pub(super) fn run(self, ui: &Ui) -> Result<ExitCode, Failure> {
        let password = settings::new_password()?;
        let made = ops::keys::generate(&self.output_key_prefix, &password)?;
        ui.data(&format!("{}\n{}", made.private.display(), made.public.display()));
        Ok(ExitCode::SUCCESS)
    }
}
