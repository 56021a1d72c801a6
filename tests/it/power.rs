//! Power cuts: the store lies on a real file system on a recorded disk, the power fails at a
//! failpoint or anywhere between, and the same command must finish the work.
//!
//! 30 cuts by default. The long run, as `docs/power-cuts.md` has it:
//!
//! ```text
//! FLEETPACK_POWER_CUTS=600 FLEETPACK_POWER_SEED=1 FLEETPACK_POWER_REPORT=docs/power-cuts.md \
//!     cargo test --test it power::the_power_fails -- --nocapture
//! ```
//!
//! `FLEETPACK_POWER_ONLY=ext4.0/next/17` repeats one of its cuts.

mod api;
mod check;
mod disk;
mod fuse;
mod mount;
mod points;
mod recorder;
mod report;
mod site;
mod steps;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::support::root::is_root;
use disk::{Cut, Dice, Kind};
use mount::FileSystem;
use report::{Outcome, Report};
use site::{From, Recording, SCENARIOS, Site};

/// One thread with a site of its own; odd ones record with noise.
#[derive(Clone, Copy)]
struct Worker {
    kind: FileSystem,
    number: usize,
}

impl Worker {
    fn name(self) -> String {
        format!("{}.{}", self.kind.name(), self.number)
    }
}

/// What the environment asks for.
struct Settings {
    cuts: usize,
    seed: u64,
    only: Option<String>,
    report: Option<String>,
}

impl Settings {
    fn read() -> Self {
        let variable = |name: &str| std::env::var(format!("FLEETPACK_POWER_{name}")).ok();
        let number = |name: &str| variable(name).map(|text| text.parse::<u64>().unwrap());
        Self {
            cuts: usize::try_from(number("CUTS").unwrap_or(30)).unwrap(),
            seed: number("SEED").unwrap_or(1),
            only: variable("ONLY"),
            report: variable("REPORT"),
        }
    }

    fn is_long(&self) -> bool {
        self.cuts > 100
    }
}

/// Whether the binary under test has them; where it has not, the test says that it is skipped.
fn has_failpoints() -> bool {
    if cfg!(not(debug_assertions)) {
        eprintln!("skipped: a build without debug assertions has no failpoints");
    }
    cfg!(debug_assertions)
}

/// Of so many cuts of one recording, which kind this one is.
const KINDS: [Kind; 6] =
    [Kind::Failpoint, Kind::Lost, Kind::Anywhere, Kind::Failpoint, Kind::Torn, Kind::Failpoint];

#[test]
fn the_power_fails() {
    if !is_root() || !has_failpoints() {
        return;
    }
    let settings = Settings::read();
    let numbers = if settings.is_long() { 0..2 } else { 0..1 };
    let workers: Vec<Worker> = numbers
        .flat_map(|number| [FileSystem::Ext4, FileSystem::Xfs].map(|kind| Worker { kind, number }))
        .collect();
    let scenarios = SCENARIOS.iter().filter(|scenario| scenario.cut).count();
    let each = settings.cuts.div_ceil(workers.len() * scenarios);
    let reports: Vec<Report> = std::thread::scope(|scope| {
        let settings = &settings;
        let threads: Vec<_> =
            workers.iter().map(|worker| scope.spawn(move || work(*worker, settings, each))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut report = Report::default();
    for other in reports {
        report.take(other);
    }
    eprintln!("{}", report.table());
    if let Some(path) = &settings.report {
        std::fs::write(path, report.document(settings.cuts, settings.seed)).unwrap();
    }
    assert!(report.violations().is_empty(), "{}", report.violations().join("\n"));
    assert!(settings.only.is_some() || report.count() >= settings.cuts, "{} cuts", report.count());
}

fn work(worker: Worker, settings: &Settings, each: usize) -> Report {
    let folder = tempfile::tempdir().unwrap();
    let name = format!("power-{}-{}", worker.kind.name(), worker.number);
    let mut site = Site::new(folder.path(), &name, worker.kind);
    let empty = worker.kind.make(folder.path());
    let mut recordings: BTreeMap<&str, Recording> = BTreeMap::new();
    for scenario in SCENARIOS {
        let (base, before) = match scenario.from {
            From::Empty => (empty.clone(), Vec::new()),
            From::End(name) => {
                let Recording { before, calls, end, .. } = &recordings[name];
                (end.clone(), [&before[..], &calls[..]].concat())
            }
            From::Cut(name) => {
                let Recording { before, calls, log, .. } = &recordings[name];
                let cut = Cut::choose(
                    Kind::Lost,
                    log,
                    Dice::new(settings.seed, &format!("{} again", worker.name())),
                );
                let calls = cut.calls(log).into_iter().map(|number| calls[number].clone());
                (cut.image(log), before.iter().cloned().chain(calls).collect())
            }
        };
        // Some file systems write back as they like, others only when they are told to.
        let writes_back = settings.is_long() && worker.number % 2 == 1
            || !settings.is_long() && worker.kind == FileSystem::Xfs;
        let noise = writes_back.then(|| Dice::new(settings.seed, &format!("noise {name} {}", scenario.name)));
        recordings.insert(scenario.name, site.record(scenario, base, &before, noise));
    }
    let mut report = Report::default();
    for scenario in SCENARIOS.iter().filter(|scenario| scenario.cut) {
        let recording = &recordings[scenario.name];
        report.recorded(worker.kind.name(), scenario.name, recording);
        let failpoints = (0..each).filter(|number| KINDS[number % KINDS.len()] == Kind::Failpoint).count();
        for number in 0..each {
            let repeat = format!("{}/{}/{number}", worker.name(), scenario.name);
            if settings.only.as_ref().is_some_and(|only| *only != repeat) {
                continue;
            }
            let kind = KINDS[number % KINDS.len()];
            let dice = Dice::new(settings.seed, &repeat);
            let cut = if kind == Kind::Failpoint {
                // Spread over all of them, so that a long run comes to each.
                let nth = (0..number).filter(|number| KINDS[number % KINDS.len()] == kind).count();
                Cut::at_failpoint(&recording.log, nth, failpoints, dice)
            } else {
                Cut::choose(kind, &recording.log, dice)
            };
            let begun = std::time::Instant::now();
            let survived =
                catch_unwind(AssertUnwindSafe(|| check::survives(&site, scenario, recording, &cut)));
            let violation = survived.err().map(|panic| {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                let kept =
                    std::env::temp_dir().join(format!("fleetpack-power-{}.img", repeat.replace('/', "-")));
                let _ = cut.image(&recording.log).write(&kept);
                format!("{}; the disk is kept as {}", text.unwrap_or_default(), kept.display())
            });
            report.add(Outcome {
                file_system: worker.kind.name(),
                scenario: scenario.name,
                kind,
                at: cut.at,
                step: cut.step(&recording.log).replace(&folder.path().display().to_string(), ""),
                repeat,
                seconds: begun.elapsed().as_secs_f64(),
                violation,
            });
        }
    }
    report
}
