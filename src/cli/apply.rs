//! `fleetpack apply`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::lines;
use super::settings::{self, ClusterArgs, RegistryArgs, StoreArgs};
use super::ui::{Failure, Format, Ui};
use crate::ops;

/// Check an archive, take it into the store, and install it in the cluster.
///
/// The medium is read once and never written. The release before stays complete in the store.
/// Health that does not come in time rolls back to it. Running the same command again after a
/// cut finishes the work.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The archive; `-` reads standard input.
    archive: PathBuf,
    /// Public key that must have signed; may be given several times, and one of them must match.
    #[arg(long, short, value_name = "PUB", required = true, value_delimiter = ',')]
    key: Vec<PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Print what would change in the cluster, and change nothing, neither there nor in the store.
    #[arg(long, conflicts_with = "seed_only")]
    dry_run: bool,
    /// Stop when every image and the commit can be had from the endpoint; leave the cluster alone.
    #[arg(long)]
    seed_only: bool,
    /// Where the nodes reach `fleetpack serve` [default: where `serve` runs, as it wrote into the store].
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    #[command(flatten)]
    registry: RegistryArgs,
    /// How long the release may take to become healthy.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = settings::duration)]
    timeout: Duration,
    /// Leave the cluster as it is when the release does not become healthy.
    #[arg(long)]
    no_rollback: bool,
    /// Releases to keep complete in the store, the active one included.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=100))]
    keep: u16,
    /// Install a release that is older than the active one, for the reason given; the ledger keeps it.
    #[arg(long, value_name = "REASON", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    allow_downgrade: Option<String>,
    /// How to print the result; `json` tells the course too, one object a line, the report last.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Args {
    /// Applies the archive.
    pub(super) fn run(self, ui: &Arc<Ui>) -> Result<ExitCode, Failure> {
        let options = ops::apply::Options {
            archive: self.archive,
            keys: self.key,
            store: self.store.path(),
            cluster: self.cluster.settings(),
            mode: if self.dry_run {
                ops::apply::Mode::DryRun
            } else if self.seed_only {
                ops::apply::Mode::SeedOnly
            } else {
                ops::apply::Mode::Install
            },
            endpoint: self.endpoint,
            registry: self.registry.registry,
            registries: settings::registry_settings(),
            timeout: self.timeout,
            rollback: !self.no_rollback,
            keep: usize::from(self.keep),
            allow_downgrade: self.allow_downgrade,
        };
        let is_short = options.mode != ops::apply::Mode::Install;
        lines::told(ui, self.format, is_short, |progress| ops::apply::apply(options, progress))?;
        Ok(ExitCode::SUCCESS)
    }
}
