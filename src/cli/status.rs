//! `fleetpack status`.

use std::process::ExitCode;
use std::sync::Arc;

use super::exit;
use super::settings::{self, ClusterArgs, StoreArgs};
use super::ui::{Failure, Format, Ui};
use crate::ops;

/// Show which releases the site keeps, which one is active, whether it is healthy, and what differs from it.
///
/// The store and its ledger say what there is; the cluster is asked about the active release (a
/// dry run of each object), and nothing is changed. Where the cluster cannot be asked, what the
/// store knows is told nevertheless, with the reason.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Read the store alone, and do not ask the cluster.
    #[arg(long)]
    offline: bool,
    /// End with 8 where the cluster differs or is not healthy, 4 where the active release is not complete
    /// in the store, 1 where the cluster cannot be asked [default: 0 in all of these cases].
    #[arg(long)]
    exit_code: bool,
    /// How to print it.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Args {
    /// Shows the status.
    pub(super) fn run(self, ui: &Arc<Ui>) -> Result<ExitCode, Failure> {
        let store = self.store.path();
        let report = if self.offline {
            ops::status::status(&store)?
        } else {
            settings::runtime()?.block_on(ops::status::with_cluster(&store, &self.cluster.settings()))?
        };
        match self.format {
            Format::Json => ui.json(&report),
            Format::Text => ui.data(&report.to_string()),
        }
        Ok(report.verdict().filter(|_| self.exit_code).map_or(ExitCode::SUCCESS, exit::exit))
    }
}
