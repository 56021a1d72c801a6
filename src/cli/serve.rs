//! `fleetpack serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use super::settings::{self, StoreArgs};
use super::ui::{Failure, Ui};
use crate::ops;

/// Serve images and Git from the store, or straight from an archive, read-only.
///
/// Images: OCI distribution pull under `/v2/`. Git: smart HTTP under `/git/NAME.git`. A release
/// that is applied while it runs is seen without a restart. Prints its URL once it answers, and
/// ends on SIGTERM or Ctrl-C.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5050")]
    listen: SocketAddr,
    #[command(flatten)]
    store: StoreArgs,
    /// Serve this archive instead of the store; each blob is verified when it is first read.
    #[arg(long, value_name = "ARCHIVE", requires = "key")]
    archive: Option<PathBuf>,
    /// Public key that must have signed the archive; may be given several times.
    #[arg(long, short, value_name = "PUB", value_delimiter = ',')]
    key: Vec<PathBuf>,
}

impl Args {
    /// Serves until told to stop.
    pub(super) fn run(self, ui: &Arc<Ui>) -> Result<ExitCode, Failure> {
        let options = ops::serve::Options {
            listen: self.listen,
            content: match self.archive {
                Some(archive) => ops::serve::From::Archive { archive, keys: self.key },
                None => ops::serve::From::Store(self.store.path()),
            },
        };
        let ready = |endpoint: &str| ui.data(endpoint);
        settings::runtime()?.block_on(ops::serve::serve(options, ui.clone(), ready))?;
        Ok(ExitCode::SUCCESS)
    }
}
