//! `fleetpack mirrors`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use super::settings::StoreArgs;
use super::ui::{Failure, Ui};
use crate::ops;

/// Print the configuration that points a container runtime at `fleetpack serve`.
///
/// Every registry of the kept releases is mirrored, and the runtime never asks the registry itself.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The runtime.
    #[arg(long, value_enum)]
    runtime: ops::mirrors::Runtime,
    /// Where the nodes reach `fleetpack serve` [default: where `serve` runs, as it wrote into the store].
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    #[command(flatten)]
    store: StoreArgs,
    /// Write the files below this folder (containerd's `config_path`) instead of printing them.
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
}

impl Args {
    /// Prints or writes the files.
    pub(super) fn run(self, ui: &Arc<Ui>) -> Result<ExitCode, Failure> {
        let files = ops::mirrors::mirrors(self.runtime, self.endpoint.as_deref(), &self.store.path())?;
        match self.write {
            Some(folder) => {
                for path in ops::mirrors::write(&files, &folder)? {
                    ui.data(&path.display().to_string());
                }
            }
            None => {
                for (path, content) in files {
                    ui.data(&format!("# {path}\n{content}"));
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
