//! Media that break while they are read: errors at a place, pulled in the middle, short reads,
//! wrong bytes, slow ones. Each refusal names the file, the place and what to do next, leaves the
//! store as good as it was, and a second run goes on where the first one stopped.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use fleetpack::archive::stream::BUFFERS;
use fleetpack::model::Digest;

use crate::support::carried::{Carried, Place, blobs, files, large, rubbish};
use crate::support::command::{Ended, run};
use crate::support::depot::Server;
use crate::support::faulty::{Answer, Faulty};
use crate::support::http::get;
use crate::support::root::is_root;

const MIB: usize = 1 << 20;
const EIO: i32 = 5;
const ENODEV: i32 = 19;
const ESTALE: i32 = 116;

/// A site with a release in its store, and the next one on a medium of ours.
struct Site {
    carried: Carried,
    store: PathBuf,
    archive: PathBuf,
    medium: Faulty,
    _server: Server,
    before: Vec<(String, u64)>,
}

impl Site {
    /// The next release has layers of these sizes; the first of them is in the store already.
    fn new(folder: &Path, layers: &[usize]) -> Self {
        let carried = Carried::new(folder);
        let store = folder.join("store");
        let server = carried.serve(&store);
        carried.seed(&carried.build("1", &layers[..1]), &store).ok();
        let archive = carried.build("2", layers);
        let medium = Faulty::new(&folder.join("medium"), &archive);
        let before = files(&store);
        Self { carried, store, archive, medium, _server: server, before }
    }

    fn verify(&self) -> Ended {
        self.carried.with_key(&["verify"], &self.medium.path())
    }

    fn seed(&self) -> Ended {
        self.carried.seed(&self.medium.path(), &self.store)
    }

    /// All that was in the store is there with its size, and only whole blobs of the next release
    /// were added: no temporary file, no record, no line in the ledger. Answers with what was added.
    #[track_caller]
    fn unharmed(&self) -> Vec<Place> {
        let now = files(&self.store);
        for file in &self.before {
            assert!(now.contains(file), "{file:?} is not in {now:#?}");
        }
        let blobs = blobs(&self.archive);
        let added = now.iter().filter(|file| !self.before.contains(file));
        let added: Vec<Place> = added
            .map(|(name, size)| {
                let hex = name.strip_prefix("blobs/sha256/").unwrap_or_else(|| panic!("{name} was added"));
                let place = blobs.iter().find(|place| place.digest.hex() == hex).unwrap();
                assert_eq!(place.size, *size, "{name}");
                *place
            })
            .collect();
        for place in &added {
            let bytes = fs::read(self.store.join("blobs/sha256").join(place.digest.hex())).unwrap();
            assert_eq!(Digest::of(&bytes), place.digest, "what is under its name is right");
        }
        added
    }

    /// The same command on a medium that is well: it ends well, reads none of the large blobs that
    /// are there, and leaves no rubbish.
    #[track_caller]
    fn finishes(&self) {
        let there: Vec<Place> = large(&self.archive, MIB as u64)
            .into_iter()
            .filter(|place| self.store.join("blobs/sha256").join(place.digest.hex()).exists())
            .collect();
        assert!(!there.is_empty(), "the first layer is there from the release before");
        self.medium.heal();
        self.medium.reads();
        self.seed().ok();
        let reads = self.medium.reads();
        for Place { digest, offset, size } in there {
            let touched = reads.iter().find(|(at, length)| at + length > offset && *at < offset + size);
            assert_eq!(touched, None, "{digest} at {offset} is in the store and was read");
        }
        assert_eq!(rubbish(&self.store), Vec::<String>::new());
        let status =
            run(self.carried.fleetpack().args(["status", "--format", "json", "--store"]).arg(&self.store));
        assert!(status.ok().stdout.contains("\"2\""), "the new release is in the store");
    }
}

/// Whether a read touches byte `at`.
fn touches(at: u64, offset: u64, length: u64) -> bool {
    (offset..offset + length).contains(&at)
}

/// An error where a read touches byte `at`.
fn fails_at(at: u64, offset: u64, length: u64) -> Answer {
    if touches(at, offset, length) { Answer::Fails(EIO) } else { Answer::Bytes }
}

#[test]
fn a_place_that_cannot_be_read() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path(), &[3 * MIB, 2 * MIB, 5 * MIB]);
    let layers = large(&site.archive, MIB as u64);
    let last = layers.last().unwrap();
    let bad = last.offset + last.size / 2;
    site.medium.decide(move |offset, length| fails_at(bad, offset, length));
    let name = site.medium.path().display().to_string();
    let blob = format!("in `blobs/sha256/{}`", last.digest.hex());
    let wanted =
        [&name, "cannot read the archive at byte", &blob, "os error 5", "run the same command again"];
    site.verify().refused(1, &wanted);
    site.seed().refused(1, &wanted);
    let added = site.unharmed();
    assert!(!added.contains(last), "what cannot be read is not there");
    // `inspect` reads the head alone.
    site.carried.with_key(&["inspect"], &site.medium.path()).ok();
    site.finishes();
}

#[test]
fn a_head_that_cannot_be_read() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path(), &[2 * MIB, MIB]);
    site.medium.decide(|offset, length| fails_at(2048, offset, length));
    let name = site.medium.path().display().to_string();
    let wanted = [&name, "cannot read the archive at byte", "in its head", "os error 5", "another medium"];
    site.verify().refused(1, &wanted);
    site.carried.with_key(&["inspect"], &site.medium.path()).refused(1, &wanted);
    site.seed().refused(1, &wanted);
    assert_eq!(files(&site.store), site.before, "nothing was done");
    site.finishes();
}

/// The medium goes with error `number` once `after` bytes were read, at several places.
#[track_caller]
fn pulled(number: i32) {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path(), &[3 * MIB, 2 * MIB, 2 * MIB, 2 * MIB]);
    let told = format!("os error {number}");
    // Before the first byte, in the head, and in the blobs. What came in is not asked for again.
    for after in [0, 100_000, 3 << 19, 3_000_000] {
        let left = AtomicU64::new(after);
        site.medium.heal();
        site.medium.decide(move |_, length| {
            let before = left.load(SeqCst);
            left.store(before.saturating_sub(length), SeqCst);
            if before == 0 { Answer::Gone(number) } else { Answer::Bytes }
        });
        let name = site.medium.path().display().to_string();
        let wanted = [name.as_str(), "byte", &told, "put it in again", "run the same command again"];
        site.seed().refused(1, &wanted);
        site.unharmed();
        // Still not there: it cannot even be opened.
        site.seed().refused(1, &[&name, "cannot open", &told, "put it in again"]);
        site.verify().refused(1, &[&name, "cannot open", &told, "put it in again"]);
        site.unharmed();
    }
    site.finishes();
}

#[test]
fn a_medium_that_is_pulled_in_the_middle_and_put_in_again() {
    pulled(ENODEV);
}

#[test]
fn a_medium_behind_a_server_that_has_gone() {
    pulled(ESTALE);
}

#[test]
fn a_medium_that_gives_few_bytes_at_a_time() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path(), &[2 * MIB, MIB]);
    let count = AtomicU64::new(0);
    site.medium.decide(move |_, _| {
        Answer::Short(1 + usize::try_from(count.fetch_add(7919, SeqCst) % 30_011).unwrap())
    });
    site.verify().ok();
    site.carried.with_key(&["inspect"], &site.medium.path()).ok();
    site.seed().ok();
    site.finishes();
}

#[test]
fn wrong_bytes_that_are_right_at_the_second_reading() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path(), &[3 * MIB, 2 * MIB, 2 * MIB]);
    let last = *large(&site.archive, MIB as u64).last().unwrap();
    let bad = last.offset + 4321;
    let arm = || {
        let done = AtomicBool::new(false);
        site.medium.decide(move |offset, length| {
            let now = touches(bad, offset, length) && !done.swap(true, SeqCst);
            if now { Answer::Flipped(bad) } else { Answer::Bytes }
        });
    };
    let name = site.medium.path().display().to_string();
    let wanted = [&name, &*last.digest.hex(), "has digest", "wanted", "the medium reads badly"];
    arm();
    site.verify().refused(3, &wanted);
    site.verify().ok();
    arm();
    site.seed().refused(3, &wanted);
    assert!(!site.unharmed().contains(&last), "a wrong byte never has a name");
    site.finishes();
}

#[test]
fn a_served_archive_on_a_medium_that_fails_and_comes_back() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path(), &[3 * MIB, 2 * MIB]);
    let layers = large(&site.archive, MIB as u64);
    let (first, second) = (layers[0], *layers.last().unwrap());
    let mut command = site.carried.fleetpack();
    command.args(["serve", "--listen", "127.0.0.1:0", "--key", "release.pub", "--archive"]);
    let log = folder.path().join("serve-archive.log");
    let server = Server::start(command.arg(site.medium.path()), &log);
    let blob = |place: Place| get(server.host(), &format!("/v2/carried/part/blobs/{}", place.digest), &[]);
    let whole = |place: Place| {
        let answer = blob(place);
        answer.status == 200 && answer.whole && Digest::of(&answer.body) == place.digest
    };
    let bad = second.offset + second.size / 2;
    site.medium.decide(move |offset, length| fails_at(bad, offset, length));
    assert!(!whole(second), "no whole answer of what cannot be read");
    assert!(whole(first), "what can be read is served");
    // Pulled: nothing is served, and the server stays.
    site.medium.decide(|_, _| Answer::Gone(ENODEV));
    assert!(!whole(second) && !whole(first));
    assert_eq!(get(server.host(), "/healthz", &[]).status, 200);
    site.medium.heal();
    assert!(whole(first) && whole(second), "it is there again:\n{}", fs::read_to_string(&log).unwrap());
    assert_eq!(server.stop().0, Some(0));
}

/// The pace of the medium is the pace of `apply`: what has been read is in the store but for the
/// buffers, so that little is left to do when the last byte comes; and each byte is read once.
#[test]
fn a_slow_medium_is_kept_pace_with() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let place = Site::new(folder.path(), &[MIB, 24 * MIB, 24 * MIB, 24 * MIB]);
    let store = place.store.join("blobs/sha256");
    let held = |store: &Path| -> u64 {
        let entries = fs::read_dir(store).unwrap();
        // Files change their names meanwhile.
        entries.flatten().filter_map(|entry| Some(entry.metadata().ok()?.len())).sum()
    };
    let begin = held(&store);
    let behind = Arc::new(AtomicU64::new(0));
    let (worst, served) = (Arc::clone(&behind), Mutex::new(0_u64));
    place.medium.decide(move |_, length| {
        let mut served = served.lock().unwrap();
        let written = held(&store) - begin;
        worst.fetch_max(served.saturating_sub(written), SeqCst);
        *served += length;
        Answer::Bytes
    });
    place.seed().ok();
    let size = fs::metadata(&place.archive).unwrap().len();
    let first = large(&place.archive, MIB as u64)[0];
    let reads = place.medium.reads();
    let read: u64 = reads.iter().map(|(_, length)| length).sum();
    // The head is read twice where it is verified and then streamed past; small blobs may be, too.
    assert!(read <= size - first.size + MIB as u64, "{read} of {size} bytes were read");
    let behind = behind.load(SeqCst);
    assert!(behind <= BUFFERS as u64 + MIB as u64, "{behind} bytes were read and not written");
    place.finishes();
}
