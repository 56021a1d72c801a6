//! `fleetpack gc`.

use std::process::ExitCode;
use std::sync::Arc;

use super::settings::StoreArgs;
use super::ui::{Failure, Format, Ui};
use crate::ops;

/// Free the space of releases that need not stay, and of what cut commands left behind.
///
/// Of each name stay the releases that last ran healthy (`--keep`, the active one among them), the one that the
/// last attempt aimed at, and the one that came in last. Runs beside `fleetpack serve`: what is being
/// sent is sent to its end. Empties the quarantine of `fleetpack scrub`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    store: StoreArgs,
    /// Releases of each name to keep, of those that ran.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    keep: u16,
    /// Say what would go, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Args {
    /// Collects.
    pub(super) fn run(self, ui: &Arc<Ui>) -> Result<ExitCode, Failure> {
        let options = ops::gc::Options {
            store: self.store.path(),
            keep: usize::from(self.keep),
            dry_run: self.dry_run,
        };
        let report = ops::gc::collect(&options, ui.as_ref())?;
        match self.format {
            Format::Json => ui.json(&report),
            Format::Text => ui.data(&report.to_string()),
        }
        Ok(ExitCode::SUCCESS)
    }
}
