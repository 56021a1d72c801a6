//! Full disks: refused before the start where it can be known, and clean at every step where it
//! cannot. A disk that fills while `apply` runs loses nothing, the site stays on its release, and
//! the same command ends well once there is room. Going back works on a disk without a byte left.
//!
//! `FLEETPACK_DISK_STEPS=all` fills the disk at every single step instead of some.

use std::fs;
use std::path::{Path, PathBuf};

use fleetpack::model::Digest;

use crate::support::carried::{Carried, blobs, files, large, rubbish};
use crate::support::cluster::{self, control_plane};
use crate::support::command::{Ended, program, run};
use crate::support::depot::{Depot, Server};
use crate::support::http::get;
use crate::support::medium::{self, Mount};
use crate::support::root::is_root;
use crate::support::steps::{Filler, chosen, run_by_steps};
use crate::support::testbed::testbed;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const ENOSPC: i32 = 28;

/// A store on a disk of its own, with release 1 in it and release 2 at hand.
struct Small {
    carried: Carried,
    disk: Mount,
    store: PathBuf,
    one: PathBuf,
    two: PathBuf,
    server: Server,
}

impl Small {
    fn new(folder: &Path, disk: impl FnOnce(&Path) -> Mount) -> Self {
        let carried = Carried::new(folder);
        let disk = disk(folder);
        let store = disk.path().join("store");
        let one = carried.build("1", &[200 * KIB, 100 * KIB]);
        let two = carried.build("2", &[200 * KIB, 150 * KIB, 300 * KIB]);
        let server = carried.serve(&store);
        carried.seed(&one, &store).ok();
        Self { carried, disk, store, one, two, server }
    }

    fn ledger(&self) -> String {
        fs::read_to_string(self.store.join("ledger.jsonl")).unwrap()
    }

    /// Release 1 is whole: every blob has its digest, the server has it, git clones it.
    #[track_caller]
    fn has_one(&self) {
        for place in blobs(&self.one) {
            let bytes = fs::read(self.store.join("blobs/sha256").join(place.digest.hex())).unwrap();
            assert_eq!(Digest::of(&bytes), place.digest);
        }
        let found = get(self.server.host(), "/v2/registry.example.com/carried/part/manifests/1", &[]);
        assert_eq!(found.status, 200);
        let repository = format!("{}/git/carried.git", self.server.endpoint);
        let told = run(program("git", &self.carried.folder).args(["ls-remote", &repository])).ok().stdout;
        assert!(told.contains("refs/heads/main"), "{told}");
        run(self.carried.fleetpack().args(["status", "--store"]).arg(&self.store)).ok();
    }

    /// Fills the disk before chosen steps of the seeding of release 2.
    #[track_caller]
    fn sweep(&self, few: usize, fill: fn(&Path) -> Filler) {
        let seed = |archive: &Path| self.carried.seed_command(archive, &self.store);
        let back = || {
            run(seed(&self.one).args(["--keep", "1"])).ok();
            assert_eq!(self.releases(), 1);
        };
        let (ended, count) = run_by_steps(&mut seed(&self.two), |_, _| None);
        ended.ok();
        assert!(count > 30, "{count} steps");
        back();
        let mut failed = 0;
        for step in chosen(count, few) {
            let (ledger, record) = (self.ledger(), self.record());
            let mut filler = None;
            let mut what = String::new();
            let disk = self.disk.path();
            let (ended, _) = run_by_steps(&mut seed(&self.two), |number, line| {
                if number == step {
                    filler = Some(fill(disk));
                    line.clone_into(&mut what);
                }
                None
            });
            assert!(self.ledger().starts_with(&ledger), "{what}: lines are added, and none is changed");
            assert_eq!(self.record(), record, "{what}: the record of release 1");
            if ended.code != 0 {
                failed += 1;
                let wanted = ["No space left on device", "help: ", "free", "same command again"];
                ended.refused(1, &wanted);
            }
            self.has_one();
            drop(filler);
            run(&mut seed(&self.two)).ok();
            assert_eq!(rubbish(&self.store), Vec::<String>::new(), "{what}");
            self.has_one();
            back();
        }
        assert!(failed > 2, "only {failed} steps failed: was the disk full?");
    }

    fn record(&self) -> Vec<u8> {
        let (_, head) = fleetpack::archive::ArchiveFile::open(&self.one).unwrap();
        fs::read(self.store.join("releases").join(format!("{}.json", head.digest().hex()))).unwrap()
    }

    fn releases(&self) -> usize {
        fs::read_dir(self.store.join("releases")).unwrap().count()
    }
}

#[test]
fn an_ext4_disk_that_fills_at_any_step_of_a_seeding() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    Small::new(folder.path(), |at| medium::ext4(at, 64 << 20, &[])).sweep(6, Filler::bytes);
}

#[test]
fn a_file_system_in_memory_that_fills_at_any_step_of_a_seeding() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    Small::new(folder.path(), |at| medium::memory(&at.join("disk"), 32 << 20, 0)).sweep(8, Filler::bytes);
}

#[test]
fn inodes_that_run_out_at_any_step_of_a_seeding() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    Small::new(folder.path(), |at| medium::memory(&at.join("disk"), 32 << 20, 400)).sweep(8, Filler::files);
}

#[test]
fn too_little_room_is_told_before_the_start_with_what_would_help() {
    if !is_root() {
        return;
    }
    testbed(&["media"]);
    let folder = tempfile::tempdir().unwrap();
    let carried = Carried::new(folder.path());
    let disk = medium::memory(&folder.path().join("disk"), 38 << 20, 0);
    let store = disk.path().join("store");
    let _server = carried.serve(&store);
    let build = |version: &str| carried.build(version, &[KIB, 11 * MIB]);
    let [one, two, three] = ["1", "2", "3"].map(build);
    carried.seed(&one, &store).ok();
    carried.seed(&two, &store).ok();
    let before = files(&store);
    let mut command = carried.seed_command(&three, &store);
    command.args(["--keep", "3"]);
    let refused =
        run(&mut command).refused(1, &["disk/store` has", "bytes free, wanted", "--keep 1", "frees up to"]);
    let number = |text: &str, before: &str| -> u64 {
        let rest =
            &text[text.find(before).unwrap_or_else(|| panic!("`{before}` in {text}")) + before.len()..];
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
    };
    let needed = number(&refused.stderr, "wanted ");
    assert!(needed > 11 << 20 && needed < 18 << 20, "{needed}");
    let frees = number(&refused.stderr, "frees up to ");
    // The release that came in last stays with `--keep 1`; the one before it goes.
    assert!((11 << 20..13 << 20).contains(&frees), "{frees}");
    assert_eq!(files(&store), before, "nothing was done");
    // What the hint says is right.
    run(carried.seed_command(&three, &store).args(["--keep", "1"])).ok();
}

#[test]
fn too_few_inodes_are_told_before_the_start() {
    if !is_root() {
        return;
    }
    testbed(&["media"]);
    let folder = tempfile::tempdir().unwrap();
    let carried = Carried::new(folder.path());
    // Without a journal a disk of this size has few blocks of inodes, and says so.
    let disk = medium::ext4(folder.path(), 64 << 20, &["-N", "64"]);
    let store = disk.path().join("store");
    let _server = carried.serve(&store);
    let one = carried.build("1", &[KIB]);
    carried
        .seed(&one, &store)
        .refused(1, &["ext4/store` has", "files free, wanted", "give the store more room"]);
    let held = files(&store);
    assert!(held.iter().all(|(name, _)| !name.contains('/')), "nothing was done: {held:?}");
}

#[test]
fn an_xfs_disk_is_measured_and_used() {
    if !is_root() {
        return;
    }
    testbed(&["media"]);
    let folder = tempfile::tempdir().unwrap();
    let small = Small::new(folder.path(), |at| medium::xfs(at, 320 << 20));
    let filler = Filler::bytes(small.disk.path());
    small.carried.seed(&small.two, &small.store).refused(1, &["bytes free, wanted"]);
    small.has_one();
    drop(filler);
    small.carried.seed(&small.two, &small.store).ok();
    let filler = Filler::bytes(small.disk.path());
    run(small.carried.fleetpack().args(["rollback", "--seed-only", "--store"]).arg(&small.store)).ok();
    drop(filler);
    small.has_one();
}

#[test]
fn going_back_works_without_a_byte_or_an_inode_left() {
    if !is_root() {
        return;
    }
    for (files, fill) in [(0, Filler::bytes as fn(&Path) -> Filler), (400, Filler::files)] {
        let folder = tempfile::tempdir().unwrap();
        let small = Small::new(folder.path(), |at| medium::memory(&at.join("disk"), 32 << 20, files));
        small.carried.seed(&small.two, &small.store).ok();
        let head = |name: &str| {
            let repository = format!("{}/git/carried.git", small.server.endpoint);
            run(program("git", &small.carried.folder).args(["ls-remote", &repository, name])).ok().stdout
        };
        let two = head("refs/heads/main");
        let filler = fill(small.disk.path());
        let mut command = small.carried.fleetpack();
        command.args(["rollback", "--seed-only", "--store"]).arg(&small.store);
        run(&mut command).ok();
        assert_ne!(head("refs/heads/main"), two, "Git leads to release 1");
        small.has_one();
        // Forward again takes room, and says so before it begins.
        small.carried.seed(&small.two, &small.store).refused(1, &["free, wanted"]);
        drop(filler);
        small.carried.seed(&small.two, &small.store).ok();
        assert_eq!(head("refs/heads/main"), two);
        assert_eq!(rubbish(&small.store), Vec::<String>::new());
    }
}

#[test]
fn garbage_is_collected_on_a_full_disk() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let small = Small::new(folder.path(), |at| medium::memory(&at.join("disk"), 32 << 20, 0));
    small.carried.seed(&small.two, &small.store).ok();
    let filler = Filler::bytes(small.disk.path());
    let mut command = small.carried.fleetpack();
    command.args(["gc", "--keep", "1", "--store"]).arg(&small.store);
    let told = run(&mut command).ok();
    assert_eq!(small.releases(), 1, "{told:?}");
    assert!(fleetpack::fsio::available_space(small.disk.path()).unwrap() > 0);
    assert_eq!(rubbish(&small.store), Vec::<String>::new());
    drop(filler);
    small.carried.seed(&small.one, &small.store).ok();
    small.has_one();
}

#[test]
fn a_build_whose_disk_fills_leaves_nothing() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let carried = Carried::new(folder.path());
    let archive = carried.build("1", &[300 * KIB]);
    let disk = medium::memory(&folder.path().join("disk"), 8 << 20, 0);
    let output = disk.path().join("out.tar");
    let build = || carried.build_command(&output);
    let (ended, count) = run_by_steps(&mut build(), |_, _| None);
    ended.ok();
    assert_eq!(fs::metadata(&output).unwrap().len(), fs::metadata(&archive).unwrap().len());
    fs::remove_file(&output).unwrap();
    for step in 0..count {
        let (ended, _) = run_by_steps(&mut build(), |number, _| (number == step).then_some(ENOSPC));
        if output.exists() {
            // The folder's own sync failed: the archive has its name, and may lose it with the power.
            assert_eq!(step + 1, count);
            fs::remove_file(&output).unwrap();
        }
        ended.refused(1, &["out.tar", "No space left on device", "free some space"]);
        assert_eq!(files(disk.path()), Vec::new(), "step {step}");
    }
    // A disk that is full before: refused before the first byte.
    let filler = Filler::bytes(disk.path());
    run(&mut build()).refused(1, &["no space for", "out.tar", "are available", "free some space"]);
    drop(filler);
    run(&mut build()).ok();
}

/// A depot whose store is on a disk of its own in memory.
struct Site {
    depot: Depot,
    disk: Mount,
    cluster: &'static cluster::Cluster,
}

impl Site {
    fn new(folder: &Path, name: &str) -> Self {
        let cluster = control_plane();
        let disk = medium::memory(&folder.join("store"), 48 << 20, 0);
        let depot = Depot::new(folder, name, &cluster.kubeconfig);
        Self { depot, disk, cluster }
    }

    fn value(&self) -> String {
        let arguments = ["-n", &self.depot.name, "get", "configmap", "depot", "-o", "jsonpath={.data.value}"];
        self.cluster.kubectl(&arguments).ok().stdout
    }

    fn ledger(&self) -> String {
        fs::read_to_string(self.disk.path().join("ledger.jsonl")).unwrap()
    }

    /// Applies `archive` and fills the disk before step `step`, counted from the ledger's `begin`.
    fn apply_filled_at(&self, archive: &Path, more: &[&str], step: usize) -> (Ended, usize, Option<Filler>) {
        let (mut filler, mut seen) = (None, 0);
        let mut command = self.depot.apply_command(archive, more);
        let disk = self.disk.path();
        let (ended, _) = run_by_steps(&mut command, |_, line| {
            // What comes before the first of these is a seeding, and is swept by itself.
            if seen > 0 || line.starts_with("cluster-") || line.starts_with("ledger-line") {
                if seen == step {
                    filler = Some(Filler::bytes(disk));
                }
                seen += 1;
            }
            None
        });
        (ended, seen, filler)
    }
}

#[test]
fn a_disk_that_fills_at_any_step_of_an_apply_leaves_no_change_without_its_record() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path(), "depot-full");
    let archives = [site.depot.build("1", ""), site.depot.build("2", "")];
    let more = ["--allow-downgrade", "back and forth"];
    site.depot.apply(&archives[0], &[]).ok();
    let (ended, count, _) = site.apply_filled_at(&archives[1], &more, usize::MAX);
    ended.ok();
    assert!(count > 8, "{count} steps");
    let mut at = 1;
    for step in chosen(count, 6) {
        let next = 1 - at;
        let before = site.ledger();
        let (ended, _, filler) = site.apply_filled_at(&archives[next], &more, step);
        let after = site.ledger();
        let added = after.strip_prefix(&before).unwrap();
        if ended.code == 0 {
            assert_eq!(site.value(), (next + 1).to_string(), "step {step}");
            assert!(added.contains(r#""kind":"succeed""#), "step {step}: {added}");
        } else {
            ended.refused(1, &["No space left on device", "free"]);
            assert_eq!(site.value(), (at + 1).to_string(), "step {step}: nothing was changed");
            assert!(!added.contains(r#""kind":"begin""#), "step {step}: {added}");
        }
        drop(filler);
        site.depot.apply(&archives[next], &more).ok();
        assert_eq!(site.value(), (next + 1).to_string());
        at = next;
    }
}

#[test]
fn a_release_that_does_not_take_is_rolled_back_on_a_full_disk_too() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path(), "depot-full-sick");
    let pod = "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: sick, namespace: depot-full-sick}\n\
               spec:\n  selector: {matchLabels: {app: sick}}\n  template:\n    metadata: {labels: {app: sick}}\n    \
               spec: {containers: [{name: sick, image: \"registry.example.com/depot/part:1\"}]}\n";
    let (one, two) = (site.depot.build("1", ""), site.depot.build("2", pod));
    site.depot.apply(&one, &[]).ok();
    let before = site.ledger();
    // Full from the first word to the cluster on.
    let (ended, _, filler) = site.apply_filled_at(&two, &["--timeout", "3s"], 3);
    ended.refused(5, &["Deployment depot-full-sick/sick", "was restored"]);
    assert_eq!(site.value(), "1");
    let after = site.ledger();
    let added = after.strip_prefix(&before).unwrap();
    for kind in ["begin", "fail", "succeed"] {
        assert!(added.contains(&format!(r#""kind":"{kind}""#)), "{kind}: {added}");
    }
    assert_eq!(added.matches(r#""action":"restore""#).count(), 1, "{added}");
    drop(filler);
    site.depot.apply(&one, &["--allow-downgrade", "the same"]).ok();
    // And by hand, with nothing left.
    let three = site.depot.build("3", "");
    site.depot.apply(&three, &[]).ok();
    let filler = Filler::bytes(site.disk.path());
    site.depot.site(&["rollback"]).ok();
    assert_eq!(site.value(), "1");
    drop(filler);
    let layers = large(&one, 0);
    assert!(
        layers.iter().all(|place| site.disk.path().join("blobs/sha256").join(place.digest.hex()).exists())
    );
}
