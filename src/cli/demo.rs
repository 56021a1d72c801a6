//! `fleetpack demo`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use super::environment;
use super::settings;
use super::ui::{Failure, Ui};
use crate::ops;

/// Show the whole way on this machine: build, verify, serve, apply, a second release, rollback.
///
/// Without `--kubeconfig` it starts a cluster of its own on loopback from this project's
/// `tests/testbed` (root; the first time it fetches and builds its parts, which takes a while)
/// and stops it at the end. Everything else lives in a temporary folder.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Use this cluster; its nodes must take images from the demo's `serve` (see `fleetpack mirrors`).
    #[arg(long, value_name = "FILE", requires = "listen")]
    kubeconfig: Option<PathBuf>,
    /// Where the demo's `serve` listens [default: a free port on loopback].
    #[arg(long, value_name = "ADDR")]
    listen: Option<std::net::SocketAddr>,
    /// Keep the folder with archives, keys and store, and say where it is.
    #[arg(long)]
    keep: bool,
}

impl Args {
    /// Runs the demo.
    pub(super) fn run(self, ui: &Arc<Ui>) -> Result<ExitCode, Failure> {
        let options = ops::demo::Options {
            here: environment::working_folder(),
            kubeconfig: self.kubeconfig,
            listen: self.listen,
            keep: self.keep,
            kustomize: environment::program("kustomize"),
            kubectl: environment::program("kubectl"),
        };
        settings::runtime()?.block_on(ops::demo::demo(options, ui.clone()))?;
        Ok(ExitCode::SUCCESS)
    }
}
