//! What only root can do: clusters, mount namespaces, containerd.

/// Whether this process is root. Where it is not, the test says that it is skipped and returns;
/// with `FLEETPACK_TESTS_SKIP_NOTHING`, as in CI, it fails.
#[track_caller]
pub fn is_root() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(
        std::env::var_os("FLEETPACK_TESTS_SKIP_NOTHING").is_none(),
        "this test wants root, and nothing may be skipped here"
    );
    let place = std::panic::Location::caller();
    eprintln!("skipped: {}:{} wants root (namespaces, cgroups, mounts)", place.file(), place.line());
    false
}
