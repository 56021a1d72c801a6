//! Sites whose clock is wrong: no battery (1970), or a typing error (2100). Nothing that decides
//! depends on the clock but the certificates of those one talks to.

use std::fs;

use crate::support::carried::Carried;
use crate::support::clock::Clock;
use crate::support::cluster::control_plane;
use crate::support::command::{Ended, run};
use crate::support::depot::{Depot, Server};
use crate::support::http::get;
use crate::support::root::is_root;

/// A minute after the beginning of 1970, and the beginning of 2100.
const FLAT: i64 = 60;
const FAR: i64 = 4_102_444_800;

#[test]
fn an_archive_is_the_same_in_1970_and_in_2100_and_verifies_in_both() {
    let folder = tempfile::tempdir().unwrap();
    let carried = Carried::new(folder.path());
    let clock = Clock::new(folder.path());
    let archive = carried.build("1", &[50_000]);
    let unsigned = folder.path().join("now.tar");
    run(&mut carried.build_command(&unsigned)).ok();
    let wanted = fs::read(&unsigned).unwrap();
    for seconds in [FLAT, FAR] {
        let output = folder.path().join(format!("{seconds}.tar"));
        run(clock.set(&mut carried.build_command(&output), seconds)).ok();
        assert!(fs::read(&output).unwrap() == wanted, "built at {seconds}");
        // Signed there, too: a signature by a key holds no time.
        run(clock.set(carried.fleetpack().args(["sign", "--key", "release.key"]).arg(&output), seconds)).ok();
        for there in [&archive, &output] {
            let mut command = carried.fleetpack();
            command.args(["verify", "--key", "release.pub"]).arg(there);
            run(clock.set(&mut command, seconds)).ok();
        }
    }
}

#[test]
fn a_site_whose_clock_jumps_keeps_its_order() {
    let folder = tempfile::tempdir().unwrap();
    let carried = Carried::new(folder.path());
    let clock = Clock::new(folder.path());
    let store = folder.path().join("store");
    let archives = ["1", "2", "3"].map(|version| carried.build(version, &[40_000]));
    let mut command = carried.fleetpack();
    command.args(["serve", "--listen", "127.0.0.1:0", "--store"]).arg(&store);
    let server = Server::start(clock.set(&mut command, FLAT), &folder.path().join("serve.log"));
    let at = |seconds: i64, arguments: &[&str]| -> Ended {
        let mut command = carried.fleetpack();
        command.args(arguments).arg("--store").arg(&store);
        run(clock.set(&mut command, seconds))
    };
    let seed = |number: usize, seconds: i64| {
        run(clock.set(&mut carried.seed_command(&archives[number], &store), seconds)).ok();
    };
    let held = || {
        let status = at(FLAT, &["status", "--format", "json"]).ok().json();
        let mut found: Vec<String> = status["releases"]
            .as_array()
            .unwrap_or_else(|| panic!("{status}"))
            .iter()
            .map(|release| release["version"].as_str().unwrap().to_owned())
            .collect();
        found.sort();
        found
    };
    // Forward by 130 years, and back.
    seed(0, FAR);
    seed(1, FLAT);
    assert_eq!(held(), ["1", "2"]);
    let lines = fs::read_to_string(store.join("ledger.jsonl")).unwrap();
    assert!(lines.contains("2100-01-01T") && lines.contains("1970-01-01T"), "{lines}");
    at(FAR, &["history"]).ok();
    // The release before is the one that came before, whatever the times say.
    at(FLAT, &["rollback", "--seed-only"]).ok();
    let found = get(server.host(), "/v2/registry.example.com/carried/part/manifests/1", &[]);
    assert_eq!(found.status, 200);
    seed(2, FLAT - 59);
    assert_eq!(held(), ["1", "3"], "what was there last stays, not what has the latest time");
    at(FAR, &["rollback", "--seed-only"]).ok();
    assert_eq!(server.stop().0, Some(0));
}

#[test]
fn a_cluster_whose_certificate_is_not_valid_yet_by_this_clock_says_so() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cluster = control_plane();
    let depot = Depot::new(folder.path(), "depot-clock", &cluster.kubeconfig);
    let clock = Clock::new(folder.path());
    let one = depot.build("1", "");
    for seconds in [FLAT, FAR] {
        let refused = run(clock.set(&mut depot.apply_command(&one, &[]), seconds));
        let why = if seconds == FLAT { "not valid yet" } else { "expired" };
        refused.refused(1, &["certificate of the API server", why, "a clock that is far off", "`date`"]);
        let ledger = fs::read_to_string(folder.path().join("store/ledger.jsonl")).unwrap();
        assert!(!ledger.contains("begin"), "nothing was begun: {ledger}");
    }
    depot.apply(&one, &[]).ok();
}
