//! `fleetpack completions`.

use std::process::ExitCode;

use super::generate;
use super::ui::{Failure, Ui};

/// Print the completions of a shell.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell.
    shell: clap_complete::Shell,
}

impl Args {
    /// Prints the script.
    #[expect(clippy::unnecessary_wraps, reason = "every subcommand has one shape")]
    pub(super) fn run(self, ui: &Ui) -> Result<ExitCode, Failure> {
        ui.raw(&generate::completions(self.shell));
        Ok(ExitCode::SUCCESS)
    }
}
