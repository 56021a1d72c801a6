//! The canonical Git bundle against `git bundle create`: bytes, and time from clones of two kinds.
//!
//! A fresh clone has one pack whose deltas git copies as they are, while the canonical bundle is made
//! from the objects alone: git's best case. From loose objects both do the same work.

use std::fs;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fleetpack::source::git::Repository;

const ROUNDS: usize = 5;

fn git(folder: &Path, arguments: &[&str]) {
    let done = Command::new("git").current_dir(folder).args(arguments).stdin(Stdio::null()).status().unwrap();
    assert!(done.success(), "git {arguments:?}");
}

fn fastest(mut work: impl FnMut()) -> Duration {
    let time = |_| {
        let begin = Instant::now();
        work();
        begin.elapsed()
    };
    (0..ROUNDS).map(time).min().unwrap()
}

/// Writes the bundle as a build does: measured first, then written.
fn ours(clone: &Path, out: &Path) -> usize {
    let repository = Repository::open(clone).unwrap();
    let mut plan = repository.bundle(&repository.resolve("main").unwrap()).unwrap();
    plan.measure().unwrap();
    plan.write_to(&mut BufWriter::new(fs::File::create(out).unwrap())).unwrap();
    plan.objects()
}

/// This project's history (where the bench runs in a clone of it) and those of the testbed.
pub fn packing(testbed: &Path, work: &Path) {
    let work = work.join("packing");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work).unwrap();
    println!("| Git history | objects | size / git's | fleetpack | `git bundle create` | share |");
    println!("| --- | --- | --- | --- | --- | --- |");
    let this = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut histories = vec![("fleetpack", this.clone(), "HEAD")];
    histories.retain(|_| this.join(".git").exists());
    for name in ["tools", "client-go", "spinnaker", "gems"] {
        histories.push((name, testbed.join("histories").join(format!("{name}.git")), "main"));
    }
    for (name, origin, tip) in histories {
        let (fresh, loose) = (work.join(format!("{name}-fresh")), work.join(format!("{name}-loose")));
        // By the protocol, so that the clone is packed as one from afar.
        let seed = work.join(format!("{name}-seed"));
        git(&work, &["clone", "--quiet", "--bare", origin.to_str().unwrap(), seed.to_str().unwrap()]);
        let commit = Command::new("git").arg("-C").arg(&origin).args(["rev-parse", tip]).output().unwrap();
        let commit = String::from_utf8(commit.stdout).unwrap();
        git(&seed, &["update-ref", "refs/heads/main", commit.trim()]);
        git(&seed, &["symbolic-ref", "HEAD", "refs/heads/main"]);
        let url = format!("file://{}", seed.display());
        let clone = ["clone", "--quiet", "--bare", "--single-branch", "--no-tags", "--branch", "main"];
        git(&work, &[&clone[..], &[&url, fresh.to_str().unwrap()]].concat());
        git(&work, &["init", "--quiet", "--bare", loose.to_str().unwrap()]);
        for entry in fs::read_dir(fresh.join("objects/pack")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "pack") {
                let mut unpack = Command::new("git");
                unpack.current_dir(&loose).args(["unpack-objects", "-q"]);
                assert!(unpack.stdin(fs::File::open(path).unwrap()).status().unwrap().success());
            }
        }
        git(&loose, &["update-ref", "refs/heads/main", commit.trim()]);
        let (mine, theirs) = (work.join("ours.bundle"), work.join("git.bundle"));
        let size = |path: &Path| super::quotient(fs::metadata(path).unwrap().len(), 1);
        for (kind, clone) in [("fresh clone", &fresh), ("loose objects", &loose)] {
            let mut objects = 0;
            let time = fastest(|| objects = ours(clone, &mine));
            let git_time =
                fastest(|| git(clone, &["bundle", "create", "--quiet", theirs.to_str().unwrap(), "main"]));
            println!(
                "| {name}, {kind} | {objects} | {:.2} | {:.2} s | {:.2} s | {:.2} |",
                size(&mine) / size(&theirs),
                time.as_secs_f64(),
                git_time.as_secs_f64(),
                time.as_secs_f64() / git_time.as_secs_f64()
            );
        }
    }
    println!();
    let _ = fs::remove_dir_all(&work);
}
