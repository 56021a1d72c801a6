//! `fleetpack status`.

use std::process::ExitCode;
use std::sync::Arc;

use super::settings::StoreArgs;
use super::ui::{Failure, Format, Ui};
use crate::ops;

/// Show which releases the site keeps, which one is active, and whether it is all there.
///
/// Reads the store and its ledger alone.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    store: StoreArgs,
    /// How to print it.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Args {
    /// Shows the status.
    pub(super) fn run(self, ui: &Arc<Ui>) -> Result<ExitCode, Failure> {
        let report = ops::status::status(&self.store.path())?;
        match self.format {
            Format::Json => ui.json(&report),
            Format::Text => ui.data(&report.to_string()),
        }
        Ok(ExitCode::SUCCESS)
    }
}
