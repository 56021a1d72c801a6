//! `fleetpack scrub`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use super::exit;
use super::settings::StoreArgs;
use super::ui::{Failure, Format, Ui};
use crate::ops;

/// Hash everything in the store again, and mend what is damaged.
///
/// Reads every blob, the packs of every Git repository, the records of releases and the ledger.
/// What is damaged is moved into the store's folder `quarantine`, named with who needs it, and made
/// whole again as far as the rest of the store allows. Runs beside `fleetpack serve`; one that was
/// cut is run again. Ends with 0 when all that the site needs is whole, with 4 when a release lacks
/// something, with 3 when the ledger does not hold together.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    store: StoreArgs,
    /// Take damaged and missing blobs again from this archive; `-` reads standard input; may be
    /// given several times. Needs no key: only bytes are taken whose digest a release in the store needs.
    #[arg(long, value_name = "ARCHIVE")]
    repair: Vec<PathBuf>,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Args {
    /// Scrubs the store.
    pub(super) fn run(self, ui: &Arc<Ui>) -> Result<ExitCode, Failure> {
        let options = ops::scrub::Options { store: self.store.path(), repair: self.repair };
        let report = ops::scrub::scrub(&options, ui.as_ref())?;
        match self.format {
            Format::Json => ui.json(&report),
            Format::Text => ui.data(&report.to_string()),
        }
        let Some(class) = report.class() else { return Ok(ExitCode::SUCCESS) };
        ui.error("the store is not whole", report.hint().as_deref());
        Ok(exit::exit(class))
    }
}
