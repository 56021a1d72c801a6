//! What the process is told by its environment, read once and handed on as values.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

/// A variable that is set and not empty.
#[must_use]
pub fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// The working folder.
#[must_use]
pub fn working_folder() -> PathBuf {
    env::current_dir().unwrap_or_else(|_| PathBuf::from("."))
}

/// The home folder.
#[must_use]
pub fn home() -> Option<PathBuf> {
    variable("HOME").map(PathBuf::from)
}

/// `$XDG_CONFIG_HOME`, or its default.
#[must_use]
pub fn config_home() -> Option<PathBuf> {
    variable("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| home().map(|home| home.join(".config")))
}

/// `$XDG_CACHE_HOME`, or its default.
#[must_use]
pub fn cache_home() -> Option<PathBuf> {
    variable("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| home().map(|home| home.join(".cache")))
}

/// The store of this machine: `/var/lib/fleetpack` for root, else below `$XDG_DATA_HOME`.
#[must_use]
pub fn default_store() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/fleetpack");
    }
    let data =
        variable("XDG_DATA_HOME").map(PathBuf::from).or_else(|| home().map(|home| home.join(".local/share")));
    data.unwrap_or_else(|| PathBuf::from("/var/lib")).join("fleetpack")
}

/// A program on the `PATH`.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    env::split_paths(&variable("PATH")?).map(|folder| folder.join(name)).find(|path| {
        use std::os::unix::fs::PermissionsExt;
        path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    })
}
