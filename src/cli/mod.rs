//! The command line: one file a subcommand.

use std::process::ExitCode;

/// Parses the command line, runs the command, and says how it ended.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
