//! How the process ends: one number for each class of error (`docs/formats.md`, "Exit codes").

use std::process::ExitCode;

use crate::model::ErrorClass;

/// The table of exit codes, as `--help` and the man page print it.
pub const TABLE: &str = "Exit codes:
  0  done
  1  failed: input/output, network, a tool, a bad input file
  2  wrong usage
  3  verification or policy refused
  4  incomplete: an image, blob, base or API is missing
  5  the cluster refused or did not become healthy, and the prior release was restored
  6  the same, and it was not restored
  7  another fleetpack holds the store
  8  what was looked at is not as it should be (status --exit-code, watch --once, mirrors --check)";

/// The exit code of `class`.
#[must_use]
pub const fn code(class: ErrorClass) -> u8 {
    match class {
        ErrorClass::Failed => 1,
        ErrorClass::Usage => 2,
        ErrorClass::Refused => 3,
        ErrorClass::Incomplete => 4,
        ErrorClass::ClusterRestored => 5,
        ErrorClass::ClusterBroken => 6,
        ErrorClass::Locked => 7,
        ErrorClass::Differs => 8,
    }
}

/// The exit code of `class`, as `main` returns it.
#[must_use]
pub fn exit(class: ErrorClass) -> ExitCode {
    ExitCode::from(code(class))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_every_code() {
        for class in [
            ErrorClass::Failed,
            ErrorClass::Usage,
            ErrorClass::Refused,
            ErrorClass::Incomplete,
            ErrorClass::ClusterRestored,
            ErrorClass::ClusterBroken,
            ErrorClass::Locked,
            ErrorClass::Differs,
        ] {
            assert!(TABLE.contains(&format!("\n  {}  ", code(class))));
        }
    }
}
