//! `fleetpack rollback`.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::lines;
use super::settings::{self, ClusterArgs, RegistryArgs, StoreArgs};
use super::ui::{Failure, Format, Ui};
use crate::model::ReleaseName;
use crate::ops;

/// Go back to the release before, or to another one that the store keeps.
///
/// Needs the store and the cluster alone: no archive, no network.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Release to go to: digest (or the beginning of one) or version [default: the one that ran before].
    #[arg(long, value_name = "RELEASE")]
    to: Option<String>,
    /// Name of the release, where the store holds several.
    #[arg(long, value_name = "NAME")]
    name: Option<ReleaseName>,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Print what would change in the cluster, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Leave the cluster alone: Git and tags lead to the release again (for sites whose cluster takes
    /// releases from the store by itself).
    #[arg(long, conflicts_with = "dry_run")]
    seed_only: bool,
    /// Where the nodes reach `fleetpack serve` [default: where `serve` runs, as it wrote into the store].
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    #[command(flatten)]
    registry: RegistryArgs,
    /// How long the release may take to become healthy.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = settings::duration)]
    timeout: Duration,
    /// How to print the result; `json` tells the course too, one object a line, the report last.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Args {
    /// Rolls back.
    pub(super) fn run(self, ui: &Arc<Ui>) -> Result<ExitCode, Failure> {
        let options = ops::rollback::Options {
            to: self.to,
            name: self.name,
            store: self.store.path(),
            cluster: self.cluster.settings(),
            dry_run: self.dry_run,
            seed_only: self.seed_only,
            endpoint: self.endpoint,
            registry: self.registry.registry,
            registries: settings::registry_settings(),
            timeout: self.timeout,
        };
        let is_short = options.dry_run || options.seed_only;
        lines::told(ui, self.format, is_short, |progress| ops::rollback::rollback(options, progress))?;
        Ok(ExitCode::SUCCESS)
    }
}
