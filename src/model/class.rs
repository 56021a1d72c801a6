//! How an error ends the process: the class every room's error belongs to.

/// The class of an error, which decides the exit code (`cli::exit` holds the numbers).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// The work failed: input/output, network, a tool, a bad input file.
    Failed,
    /// The command line or configuration asks for something that makes no sense.
    Usage,
    /// Verification or policy refused.
    Refused,
    /// Something the release needs is missing: an image, a blob, a base, an API.
    Incomplete,
    /// The cluster refused or did not become healthy, and the prior release was restored.
    ClusterRestored,
    /// The cluster refused or did not become healthy, and the prior release was not restored.
    ClusterBroken,
    /// Another fleetpack holds the store.
    Locked,
}
