//! Memory does not grow with the archive: `verify` and `apply` of a large archive take what they
//! take for a small one. The archives are holes around a small release, and the store lies on a
//! disk that compresses.
//!
//! `FLEETPACK_MEMORY_GIB=20` compares 1 GiB with 20 GiB instead of 64 MiB with 1 GiB.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::carried::Carried;
use crate::support::medium;
use crate::support::root::is_root;
use crate::support::testbed::testbed;

const MIB: u64 = 1 << 20;

/// Runs `command` to its end and answers with the peak of its resident memory in KiB. The kernel's
/// figures are read while it runs, since none is left of them after.
#[track_caller]
fn peak(command: &mut Command) -> u64 {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut peak = 0;
    loop {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let found = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok());
        peak = peak.max(found.unwrap_or(0));
        if let Some(ended) = child.try_wait().unwrap() {
            assert!(ended.success(), "{command:?} ended with {ended}");
            return peak;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// `small` and `large` archives, each in blobs of that size; what both take, in KiB.
#[track_caller]
fn compare(what: &str, archives: [&Path; 2], command: impl Fn(&Path) -> Command) {
    let [small, large] = archives.map(|archive| peak(&mut command(archive)));
    let sizes = archives.map(|archive| fs::metadata(archive).unwrap().len() / MIB);
    eprintln!("{what}: {} MiB takes {small} KiB, {} MiB takes {large} KiB", sizes[0], sizes[1]);
    assert!(large <= small + small / 5 + 8 * 1024, "{what}: {small} KiB, then {large} KiB");
    assert!(large <= 96 * 1024, "{what}: {large} KiB");
}

#[test]
fn memory_stays_flat_while_archives_grow() {
    if !is_root() {
        return;
    }
    testbed(&["media"]);
    let folder = tempfile::tempdir().unwrap();
    let carried = Carried::new(folder.path());
    let base = carried.build("1", &[1000]);
    let gib: Option<u64> = std::env::var("FLEETPACK_MEMORY_GIB").ok().map(|value| value.parse().unwrap());
    let (small, large) = match gib {
        None => (carried.hollow(&base, 4, 16 * MIB), carried.hollow(&base, 8, 128 * MIB)),
        Some(gib) => (carried.hollow(&base, 4, 256 * MIB), carried.hollow(&base, gib, 1024 * MIB)),
    };
    let archives = [small.as_path(), large.as_path()];
    compare("verify", archives, |archive| {
        let mut command = carried.fleetpack();
        command.args(["verify", "--key", "release.pub"]).arg(archive);
        command
    });
    compare("verify from a pipe", archives, |archive| {
        // A pipe, since a file that is standard input is read as the file it is.
        let mut cat = Command::new("cat").arg(archive).stdout(Stdio::piped()).spawn().unwrap();
        let mut command = carried.fleetpack();
        command.args(["verify", "--key", "release.pub", "-"]).stdin(cat.stdout.take().unwrap());
        std::thread::spawn(move || cat.wait());
        command
    });
    let disk = medium::compressing(folder.path(), gib.map_or(4, |gib| gib * 2 + 6) << 30);
    let store = disk.path().join("store");
    let server = carried.serve(&store);
    compare("apply", archives, |archive| carried.seed_command(archive, &store));
    drop(server);
}
