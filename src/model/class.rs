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
    /// What was looked at is not as it should be, and looking was all that was asked for.
    Differs,
}

/// An error and its causes in one line; a cause whose text stands there already is left out.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
