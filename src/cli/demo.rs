//! `fleetpack demo`.

use std::process::ExitCode;
use std::sync::Arc;

use super::settings::{self, ClusterArgs};
use super::ui::{Failure, Ui};
use crate::ops;

/// Show the whole way on this machine: build, verify, serve, apply, a second release, rollback.
///
/// Needs nothing but this program: the repository and the images are made on the spot, everything
/// lives in a temporary folder and goes with it, and nothing listens beyond loopback.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Apply to a cluster as well: its objects (none of them runs a pod) stay in the namespace `fleetpack-demo`.
    #[arg(long)]
    cluster: bool,
    #[command(flatten)]
    target: ClusterArgs,
    /// Keep the folder with archives, keys and store, and say where it is.
    #[arg(long)]
    keep_folder: bool,
}

impl Args {
    /// Runs the demo.
    pub(super) fn run(self, ui: &Arc<Ui>) -> Result<ExitCode, Failure> {
        let options = ops::demo::Options {
            cluster: self.cluster.then(|| self.target.settings()),
            keep: self.keep_folder,
        };
        settings::interruptible(ops::demo::demo(options, ui.clone()))??;
        Ok(ExitCode::SUCCESS)
    }
}
