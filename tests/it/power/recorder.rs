//! The recorded disk itself: what was synced is there after every cut, what was not may be lost. A
//! harness that could not lose anything would find nothing.

use std::fs::{self, File};
use std::io::Write as _;
use std::sync::Arc;

use super::disk::{Cut, Dice, Disk, Event, Kind};
use super::fuse::Recorder;
use super::mount::{FileSystem, Mounted, keep};
use crate::support::root::is_root;

#[test]
fn what_was_synced_survives_and_what_was_not_may_be_lost() {
    if !is_root() {
        return;
    }
    for kind in [FileSystem::Ext4, FileSystem::Xfs] {
        let folder = tempfile::tempdir().unwrap();
        let (file, at) = (folder.path().join("recorder"), folder.path().join("at"));
        fs::create_dir(&at).unwrap();
        keep(&[&at, &file]);
        let disk = Arc::new(Disk::new(kind.make(folder.path())));
        let recorder = Recorder::mount(&file, Arc::clone(&disk)).unwrap();
        let mounted = Mounted::mount(recorder.path(), &at, kind).unwrap();
        disk.record();
        let bytes = vec![7; 300_000];
        for name in ["unsynced", "synced"] {
            File::create(at.join(name)).unwrap().write_all(&bytes).unwrap();
        }
        disk.happened(Event::Step("written".into()));
        File::open(at.join("synced")).unwrap().sync_all().unwrap();
        File::open(&at).unwrap().sync_all().unwrap();
        disk.happened(Event::Step("synced".into()));
        let log = disk.recorded();
        drop(mounted);
        drop(recorder);
        let synced = log.events.iter().rposition(|event| matches!(event, Event::Step(_))).unwrap();
        let mut lost = [0, 0];
        for number in 0..30 {
            let kinds = [Kind::Failpoint, Kind::Lost, Kind::Anywhere, Kind::Torn];
            let dice = Dice::new(number, kind.name());
            let cut = Cut::choose(kinds[usize::try_from(number % 4).unwrap()], &log, dice);
            let image = folder.path().join(format!("cut-{number}.img"));
            cut.image(&log).write(&image).unwrap();
            let _mounted = Mounted::mount(&image, &at, kind).unwrap();
            let has = |name: &str| fs::read(at.join(name)).is_ok_and(|found| found == bytes);
            assert!(
                has("synced") || cut.at <= synced,
                "{} {}: what was synced is lost",
                kind.name(),
                cut.kind.name()
            );
            lost[0] += u32::from(!has("unsynced"));
            lost[1] += u32::from(!has("synced"));
        }
        assert!(lost[0] > 0 && lost[1] > 0, "{}: nothing was ever lost, {lost:?}", kind.name());
    }
}
