//! One server, one store, and everything that a site does with them at once, for a while: pulls,
//! clones, seeding, applying and rolling back. Nobody may see an error, and the server must not grow.
//!
//! The short form runs with the other tests. The long form, here of an hour:
//!
//! ```text
//! FLEETPACK_SOAK=3600 cargo test --test it -- --nocapture soak
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fleetpack::model::Digest;

use crate::support::cluster::control_plane;
use crate::support::command::{Ended, program, run};
use crate::support::depot::Depot;
use crate::support::http::get;
use crate::support::root::is_root;
use crate::support::testbed::{testbed, tool};

/// Errors that are shown; more are counted.
const SHOWN: usize = 20;

/// What the parts of the soak share.
struct Soak {
    end: Instant,
    stop: AtomicBool,
    done: Mutex<BTreeMap<&'static str, u64>>,
    errors: Mutex<Vec<String>>,
    bytes: AtomicU64,
}

impl Soak {
    fn goes_on(&self) -> bool {
        Instant::now() < self.end && !self.stop.load(Ordering::Relaxed)
    }

    fn did(&self, what: &'static str) {
        *self.done.lock().unwrap().entry(what).or_default() += 1;
    }

    fn failed(&self, what: &str, why: &str) {
        let mut errors = self.errors.lock().unwrap();
        errors.push(format!("{what}: {why:.800}"));
        if errors.len() >= SHOWN {
            self.stop.store(true, Ordering::Relaxed);
        }
    }

    fn ended(&self, what: &'static str, ended: &Ended) -> bool {
        if ended.code == 0 {
            self.did(what);
            return true;
        }
        self.failed(what, &format!("ended with {}: {}", ended.code, ended.stderr));
        false
    }

    /// Walks the catalog as a runtime would: tags, manifests, and every blob of each, hashed.
    fn pull(&self, host: &str) {
        let fetch = |path: &str| {
            let answer = get(host, path, &[]);
            if answer.status == 200 && answer.whole {
                self.bytes.fetch_add(answer.body.len() as u64, Ordering::Relaxed);
                return Some(answer);
            }
            self.failed("pull", &format!("{path} answered {} (whole: {})", answer.status, answer.whole));
            None
        };
        let Some(catalog) = fetch("/v2/_catalog") else { return };
        for name in catalog.json()["repositories"].as_array().unwrap() {
            let name = name.as_str().unwrap();
            let Some(tags) = fetch(&format!("/v2/{name}/tags/list")) else { continue };
            for tag in tags.json()["tags"].as_array().unwrap() {
                let tag = tag.as_str().unwrap();
                let Some(manifest) = fetch(&format!("/v2/{name}/manifests/{tag}")) else { continue };
                let json = manifest.json();
                let lists =
                    ["layers", "blobs"].map(|list| json[list].as_array().cloned().unwrap_or_default());
                for blob in lists.iter().flatten().chain(json.get("config")) {
                    let digest = blob["digest"].as_str().unwrap();
                    let Some(found) = fetch(&format!("/v2/{name}/blobs/{digest}")) else { continue };
                    if Digest::of(&found.body).to_string() != digest {
                        self.failed("pull", &format!("{digest} has another content"));
                    }
                }
                self.did("pulls of an image, by hand");
            }
        }
    }
}

/// Resident memory in bytes, and open descriptors.
fn sample(pid: u32) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    (kib << 10, fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64)
}

fn clone(soak: &Soak, url: &str, home: &Path, commits: &[String], client: &str) {
    let folder = tempfile::tempdir_in(home).unwrap();
    let target = folder.path().join("clone");
    let target = target.to_str().unwrap();
    let (what, cloned) = match client {
        "go-git" => ("clones by go-git", run(tool("gogit", home).args(["clone", url, target]))),
        version => {
            let version = format!("protocol.version={version}");
            let arguments = ["-c", &version, "clone", "--quiet", url, target];
            ("clones by git", run(program("git", home).args(arguments)))
        }
    };
    if soak.ended(what, &cloned) {
        let head =
            run(program("git", home).args(["-c", "safe.directory=*", "-C", target, "rev-parse", "HEAD"]));
        if !commits.iter().any(|commit| commit == head.stdout.trim()) {
            soak.failed(what, &format!("HEAD is `{}`, wanted one of {commits:?}", head.stdout.trim()));
        }
    }
}

#[test]
fn a_site_that_works_without_a_pause_neither_fails_nor_grows() {
    let seconds = std::env::var("FLEETPACK_SOAK").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    testbed(&["peers", "gogit"]);
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    let cluster = is_root().then(control_plane);
    let nobody = home.join("none");
    let kubeconfig = cluster.map_or(&*nobody, |cluster| &*cluster.kubeconfig);
    let mut depot = Depot::new(home, "depot-soak", kubeconfig);
    let mut commits = Vec::new();
    let archives: Vec<_> = ["1", "2"]
        .iter()
        .map(|version| {
            let archive = depot.build(version, "");
            commits.push(depot.repository.git(&["rev-parse", "HEAD"]).trim().to_owned());
            archive
        })
        .collect();
    // The server's own limits are no part of this: all clients are on loopback.
    depot.serve();
    for archive in &archives {
        depot.apply(archive, if cluster.is_some() { &[] } else { &["--seed-only"] }).ok();
    }
    let (host, endpoint, pid) = depot.server();
    let url = format!("{endpoint}/git/depot-soak.git");
    let soak = Soak {
        end: Instant::now() + Duration::from_secs(seconds),
        stop: AtomicBool::new(false),
        done: Mutex::default(),
        errors: Mutex::default(),
        bytes: AtomicU64::new(0),
    };
    let mut samples = vec![sample(pid)];
    std::thread::scope(|scope| {
        let (soak, host, url, commits, depot) = (&soak, &*host, &*url, &*commits, &depot);
        for _ in 0..3 {
            scope.spawn(move || {
                while soak.goes_on() {
                    soak.pull(host);
                }
            });
        }
        scope.spawn(move || {
            while soak.goes_on() {
                let name = format!("{host}/registry.example.com/depot/part:1");
                let to = home.join("crane.tar");
                let pulled = run(tool("crane", home).args(["pull", "--insecure", &name]).arg(to));
                soak.ended("pulls by crane", &pulled);
            }
        });
        scope.spawn(move || {
            for client in ["2", "0", "go-git"].iter().cycle() {
                if !soak.goes_on() {
                    break;
                }
                clone(soak, url, home, commits, client);
            }
        });
        scope.spawn(move || {
            // One of these at a time: the store has one writer.
            while soak.goes_on() {
                soak.ended("applies, seeding alone", &depot.apply(&archives[1], &["--seed-only"]));
                if cluster.is_some() {
                    soak.ended("rollbacks", &depot.site(&["rollback"]));
                    soak.ended("applies", &depot.apply(&archives[1], &[]));
                } else {
                    soak.ended("rollbacks, seeding alone", &depot.site(&["rollback", "--seed-only"]));
                }
                soak.ended("status", &depot.site(&["history"]));
            }
        });
        let mut told = Instant::now();
        while soak.goes_on() {
            std::thread::sleep(Duration::from_millis(500));
            samples.push(sample(pid));
            if told.elapsed() > Duration::from_mins(1) {
                told = Instant::now();
                let (memory, descriptors) = samples[samples.len() - 1];
                eprintln!(
                    "soak: {} s left, {} MiB resident, {descriptors} descriptors, {} errors",
                    soak.end.saturating_duration_since(told).as_secs(),
                    memory >> 20,
                    soak.errors.lock().unwrap().len()
                );
            }
        }
    });
    report(soak, &samples, &host, pid, seconds);
}

/// Prints what was done and what it took, and stops the test where the server failed or grew.
fn report(soak: Soak, samples: &[(u64, u64)], host: &str, pid: u32, seconds: u64) {
    // Once nobody asks any more, what is left of the connections goes.
    let begin = Instant::now();
    while sample(pid).1 > samples[0].1 + 2 && begin.elapsed() < Duration::from_mins(1) {
        std::thread::sleep(Duration::from_millis(200));
    }
    let (_, descriptors) = sample(pid);
    let peak = |part: &[(u64, u64)]| part.iter().map(|(memory, _)| *memory).max().unwrap_or(0);
    let quarter = samples.len() / 4;
    let (early, late) = (peak(&samples[quarter..2 * quarter]), peak(&samples[3 * quarter..]));
    let figures = get(host, "/metrics", &[]).body;
    let figures = String::from_utf8(figures).unwrap();
    let figure = |name: &str| figures.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?").trim();
    eprintln!(
        "soak of {seconds} s: {} MB pulled by hand; peak memory {} MiB in the second quarter, {} MiB in the last; \
         descriptors {} before, {} at most, {descriptors} after; content errors {}, answers cut {}",
        soak.bytes.load(Ordering::Relaxed) / 1_000_000,
        early >> 20,
        late >> 20,
        samples[0].1,
        samples.iter().map(|(_, descriptors)| *descriptors).max().unwrap_or(0),
        figure("fleetpack_content_errors_total "),
        figure("fleetpack_http_answers_cut_total ")
    );
    for (what, number) in &*soak.done.lock().unwrap() {
        eprintln!("  {number} {what}");
    }
    let errors = soak.errors.into_inner().unwrap();
    assert!(errors.is_empty(), "{} errors, among them:\n{}", errors.len(), errors.join("\n"));
    assert_eq!(figure("fleetpack_content_errors_total "), "0");
    assert!(descriptors <= samples[0].1 + 2, "{descriptors} descriptors, {} before", samples[0].1);
    assert!(late <= early + early / 4 + (8 << 20), "memory grew from {early} to {late} bytes");
}
