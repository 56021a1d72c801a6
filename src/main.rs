//! Parse, run, exit: everything else lives in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    fleetpack::cli::main()
}
