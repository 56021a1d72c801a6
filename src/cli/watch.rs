//! `fleetpack watch`.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::exit;
use super::settings::{self, ClusterArgs, StoreArgs};
use super::ui::{Failure, Format, Ui};
use crate::model::ReleaseName;
use crate::ops;

/// Keep the cluster at the active release: bring back, from the store alone, what differs from it.
///
/// Runs until SIGTERM or Ctrl-C, and prints one line a change. Only objects and fields that the
/// release names count; nothing is deleted. It stays away while another fleetpack is at work and
/// where the last attempt was cut or failed, and gives up on a field that somebody else keeps
/// setting. A cluster that does not answer is tried again, ever more patiently.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Watch this line of releases alone [default: all that the store holds].
    #[arg(long, value_name = "NAME")]
    name: Option<ReleaseName>,
    /// How long to wait between two looks.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = settings::duration)]
    interval: Duration,
    /// Look and heal once, and end: with 0 when all is as it should be, 8 when something is left, 1 when
    /// the cluster cannot be asked, 7 when another fleetpack holds the store.
    #[arg(long)]
    once: bool,
    /// How to print the lines: text, or JSON, one object a line.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Args {
    /// Watches.
    pub(super) fn run(self, ui: &Arc<Ui>) -> Result<ExitCode, Failure> {
        if self.interval.is_zero() {
            return Err(Failure::usage("the interval is 0s", "give one of a second or more, such as `5m`"));
        }
        let options = ops::watch::Options {
            store: self.store.path(),
            cluster: self.cluster.settings(),
            name: self.name,
            interval: self.interval,
            once: self.once,
        };
        let printer = ui.clone();
        let format = self.format;
        let tell = move |line: &ops::watch_line::Line| match format {
            Format::Text => printer.data(&line.to_string()),
            Format::Json => printer.json_line(line),
        };
        let verdict = settings::runtime()?.block_on(ops::watch::watch(options, tell))?;
        Ok(verdict.map_or(ExitCode::SUCCESS, exit::exit))
    }
}
