//! fleetpack against its peers, in one run on one machine, on one corpus (`cargo bench`).
//!
//! The corpus is made of real Debian packages: at least 12 images and 1 GB with shared layers, in
//! a docker-registry on loopback. Printed are ratios and the figures behind them; these machines
//! are noisy, so each command runs several times and the fastest run counts. A filter word runs
//! the parts whose names hold it: `cargo bench -- verify`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark prints, and stops where it cannot go on"
)]

#[path = "peers/link.rs"]
mod link;
#[path = "peers/packing.rs"]
mod packing;
#[path = "peers/push.rs"]
mod push;
#[path = "peers/serve.rs"]
mod serve;

use std::fmt::Write;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

const FLEETPACK: &str = env!("CARGO_BIN_EXE_fleetpack");
const ROUNDS: usize = 3;

/// Large images that join the testbed's shop, so that the corpus passes 1 GB (`install bulk`).
const BULK: &[&str] = &["kiosk", "signage", "mail", "compiler", "functional", "toolchain", "jdk"];
/// The registries that the references name; all of them are the one on loopback here.
const HOSTS: &[&str] = &["registry.example.com", "us-central1-docker.pkg.dev", "docker.io"];

/// What one run cost.
#[derive(Clone, Copy)]
struct Cost {
    wall: Duration,
    /// Bytes that went to the block layer or will (the kernel's `write_bytes`).
    written: u64,
    /// Bytes that `read` and its kin returned.
    read: u64,
    /// Highest resident memory in KiB.
    peak: u64,
}

fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// Runs `command` to its end. The kernel's counters of a process outlive it until it is reaped.
fn run(command: &mut Command) -> Cost {
    let begin = Instant::now();
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let id = child.id();
    let stderr = child.stderr.take().unwrap();
    let told =
        std::thread::spawn(move || BufReader::new(stderr).lines().map_while(Result::ok).collect::<Vec<_>>());
    let mut peak = 0;
    let pid = Pid::from_child(&child);
    let wall = loop {
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        peak = peak.max(field(&status, "VmHWM:"));
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        if waitid(WaitId::Pid(pid), options).unwrap().is_some() {
            break begin.elapsed();
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let io = fs::read_to_string(format!("/proc/{id}/io")).unwrap_or_default();
    let status = child.wait().unwrap();
    let told = told.join().unwrap();
    assert!(status.success(), "{command:?} ended with {status}:\n{}", told.join("\n"));
    Cost { wall, written: field(&io, "write_bytes:"), read: field(&io, "rchar:"), peak }
}

/// The fastest of several runs, `before` each of which the traces of the last are removed.
fn best(mut before: impl FnMut(), mut command: impl FnMut() -> Vec<Command>) -> Cost {
    (0..ROUNDS)
        .map(|_| {
            before();
            command().iter_mut().map(run).reduce(|a, b| Cost {
                wall: a.wall + b.wall,
                written: a.written + b.written,
                read: a.read + b.read,
                peak: a.peak.max(b.peak),
            })
        })
        .map(Option::unwrap)
        .min_by_key(|cost| cost.wall)
        .unwrap()
}

fn seconds(cost: Cost) -> String {
    format!("{:.2} s", cost.wall.as_secs_f64())
}

fn ratio(ours: Cost, theirs: Cost) -> f64 {
    ours.wall.as_secs_f64() / theirs.wall.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn quotient(a: u64, b: u64) -> f64 {
    a as f64 / b as f64
}

/// The corpus: a registry that holds the images, a repository whose manifests name them.
struct Bench {
    work: PathBuf,
    testbed: PathBuf,
    registry: String,
    references: Vec<String>,
    serve: Option<Child>,
}

impl Bench {
    fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(self.testbed.join("bin").join(name));
        command.env("CONTAINERS_REGISTRIES_CONF", self.work.join("registries.conf"));
        command
    }

    fn fleetpack(&self) -> Command {
        let mut command = Command::new(FLEETPACK);
        command
            .env("CONTAINERS_REGISTRIES_CONF", self.work.join("registries.conf"))
            .env("COSIGN_PASSWORD", "")
            .current_dir(&self.work);
        command
    }

    fn script(name: &str) -> Command {
        Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testbed").join(name))
    }

    fn answer(command: &mut Command) -> String {
        let out = command.stderr(Stdio::inherit()).output().unwrap();
        assert!(out.status.success(), "{command:?}");
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    fn git(&self, arguments: &[&str]) {
        let mut command = Command::new("git");
        command.current_dir(self.work.join("repo")).args([
            "-c",
            "user.name=bench",
            "-c",
            "user.email=bench@localhost",
        ]);
        run(command.args(arguments));
    }

    fn prepare() -> Self {
        let testbed = PathBuf::from(Self::answer(Self::script("install").args(["peers", "corpus", "bulk"])));
        let work = testbed.join("bench");
        fs::create_dir_all(&work).unwrap();
        let registry = Self::answer(Self::script("registry").arg("up").arg(work.join("registry")));
        let mut references: Vec<String> =
            BULK.iter().map(|name| format!("registry.example.com/bulk/{name}:1")).collect();
        let mut bench = Self { work, testbed, registry, references: Vec::new(), serve: None };
        for reference in &references {
            let mut copy = bench.tool("skopeo");
            copy.args(["copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false"]);
            copy.arg(format!("oci:{}:{reference}", bench.testbed.join("bulk").display()));
            run(copy.arg(format!("docker://{}/{reference}", bench.registry)));
        }
        for release in ["v0.10.6", "v0.10.7"] {
            let mut push = Self::script("corpus");
            let pushed = Self::answer(push.args(["push", &bench.registry, "--release", release]));
            references.extend(pushed.lines().map(str::to_owned));
        }
        references.sort();
        references.dedup();
        bench.references = references;
        let entry = |host: &&str| {
            format!(
                "[[registry]]\nprefix = \"{host}\"\nlocation = \"{}/{host}\"\ninsecure = true\n",
                bench.registry
            )
        };
        fs::write(bench.work.join("registries.conf"), HOSTS.iter().map(entry).collect::<String>()).unwrap();
        let mut manifests = String::new();
        for (at, reference) in bench.references.iter().enumerate() {
            write!(
                manifests,
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: pod-{at}, namespace: default}}\nspec: {{containers: [{{name: main, image: \"{reference}\"}}]}}\n"
            )
            .unwrap();
        }
        let repository = bench.work.join("repo");
        if !repository.join(".git").exists() {
            fs::create_dir_all(&repository).unwrap();
            bench.git(&["init", "-q", "-b", "main"]);
        }
        fs::write(repository.join("pods.yaml"), manifests).unwrap();
        fs::write(
            repository.join("fleetpack.yaml"),
            "apiVersion: fleetpack.dev/v1\nkind: Release\nmetadata: {name: bench}\nversion: \"1\"\nsources: [{path: pods.yaml}]\n",
        )
        .unwrap();
        bench.git(&["add", "-A"]);
        bench.git(&["commit", "-q", "--allow-empty", "-m", "corpus"]);
        for suffix in ["key", "pub"] {
            let _ = fs::remove_file(bench.work.join(format!("bench.{suffix}")));
        }
        run(bench.fleetpack().args(["keygen", "--output-key-prefix", "bench"]));
        bench
    }

    fn archive(&self) -> PathBuf {
        self.work.join("bench.fleetpack.tar")
    }

    fn build_command(&self) -> Command {
        let mut command = self.fleetpack();
        command.args(["build", "repo", "--key", "bench.key", "-o"]).arg(self.archive());
        command
    }

    fn clean(&self, name: &str) {
        let path = self.work.join(name);
        let _ = fs::remove_dir_all(&path);
        let _ = fs::remove_file(&path);
        rustix::fs::sync();
    }

    fn build(&self) {
        let ours = best(|| self.clean("bench.fleetpack.tar"), || vec![self.build_command()]);
        let size = fs::metadata(self.archive()).unwrap().len();
        let tar = |folder: &str| {
            let mut command = Command::new("tar");
            command.current_dir(&self.work).args(["-cf", "peer.tar", "-C", folder, "."]);
            command
        };
        let crane = best(
            || {
                self.clean("crane");
                self.clean("peer.tar");
            },
            || {
                let mut pull = self.tool("crane");
                pull.args(["pull", "--insecure", "--format=oci"]);
                pull.args(self.references.iter().map(|name| format!("{}/{name}", self.registry)));
                pull.arg(self.work.join("crane"));
                vec![pull, tar("crane")]
            },
        );
        let skopeo = best(
            || {
                self.clean("skopeo");
                self.clean("peer.tar");
            },
            || {
                let copy = |name: &String| {
                    let mut copy = self.tool("skopeo");
                    copy.args(["copy", "--quiet", "--src-tls-verify=false", "--all"]);
                    copy.arg(format!("docker://{}/{name}", self.registry));
                    copy.arg(format!("oci:{}:{name}", self.work.join("skopeo").display()));
                    copy
                };
                self.references.iter().map(copy).chain([tar("skopeo")]).collect()
            },
        );
        println!(
            "| build, {} images, {} MB | fleetpack | crane + tar | skopeo + tar |",
            self.references.len(),
            size / 1_000_000
        );
        println!("| --- | --- | --- | --- |");
        println!("| time | {} | {} | {} |", seconds(ours), seconds(crane), seconds(skopeo));
        println!("| fleetpack's share of it | | {:.2} | {:.2} |", ratio(ours, crane), ratio(ours, skopeo));
        println!(
            "| bytes written / archive | {:.3} | {:.3} | {:.3} |",
            quotient(ours.written, size),
            quotient(crane.written, size),
            quotient(skopeo.written, size)
        );
        println!(
            "| peak memory | {} MiB | {} MiB | {} MiB |\n",
            ours.peak >> 10,
            crane.peak >> 10,
            skopeo.peak >> 10
        );
    }

    /// A build whose blobs an earlier archive holds, from a registry on loopback and from one behind
    /// a link of a gigabit a second.
    fn reuse(&self) {
        let gigabit = link::Link::new(&self.registry, 125_000_000);
        let slow = self.work.join("registries-link.conf");
        let conf = fs::read_to_string(self.work.join("registries.conf")).unwrap();
        fs::write(&slow, conf.replace(&self.registry, &gigabit.address)).unwrap();
        let size = fs::metadata(self.archive()).unwrap().len();
        println!(
            "| build, {} images, {} MB | downloading all | `--reuse` of an archive that has all | share |",
            self.references.len(),
            size / 1_000_000
        );
        println!("| --- | --- | --- | --- |");
        for (name, conf) in
            [("registry on loopback", "registries.conf"), ("1 Gbit/s", "registries-link.conf")]
        {
            let build = |more: &[&str]| {
                let mut command = self.fleetpack();
                command.env("CONTAINERS_REGISTRIES_CONF", self.work.join(conf));
                command.args(["build", "repo", "--key", "bench.key", "-o", "again.tar"]).args(more);
                command
            };
            let cold = best(|| self.clean("again.tar"), || vec![build(&[])]);
            let archive = self.archive();
            let more = ["--reuse", archive.to_str().unwrap()];
            let warm = best(|| self.clean("again.tar"), || vec![build(&more)]);
            println!("| {name} | {} | {} | {:.2} |", seconds(cold), seconds(warm), ratio(warm, cold));
        }
        self.clean("again.tar");
        // What any program pays for a durable file of that size on this disk.
        let copied = best(
            || self.clean("again.tar"),
            || {
                let mut copy = Command::new("dd");
                copy.args(["bs=1M", "conv=fsync", "status=none"]).arg("of=again.tar").current_dir(&self.work);
                copy.arg(format!("if={}", self.archive().display()));
                vec![copy]
            },
        );
        self.clean("again.tar");
        println!("| `dd conv=fsync` of the archive | | {} | |\n", seconds(copied));
    }

    fn verify(&self) {
        let size = fs::metadata(self.archive()).unwrap().len();
        // Both read from the page cache: neither is to be measured on the disk's account.
        run(Command::new("cat").arg(self.archive()));
        let ours = best(
            || (),
            || {
                let mut command = self.fleetpack();
                command.args(["verify", "--key", "bench.pub"]).arg(self.archive());
                vec![command]
            },
        );
        let theirs = best(
            || (),
            || {
                let mut command = Command::new("openssl");
                command.args(["dgst", "-sha256"]).arg(self.archive());
                vec![command]
            },
        );
        let speed = |cost: Cost| quotient(size, 1_000_000_000) / cost.wall.as_secs_f64();
        println!(
            "| verify, {} MB in the page cache | fleetpack verify | openssl dgst -sha256 |",
            size / 1_000_000
        );
        println!("| --- | --- | --- |");
        println!("| time | {} | {} |", seconds(ours), seconds(theirs));
        println!("| throughput | {:.2} GB/s | {:.2} GB/s |", speed(ours), speed(theirs));
        println!("| fleetpack / openssl | {:.2} | |", speed(ours) / speed(theirs));
        println!("| peak memory | {} MiB | {} MiB |\n", ours.peak >> 10, theirs.peak >> 10);
    }

    fn apply(&mut self) {
        let size = fs::metadata(self.archive()).unwrap().len();
        let store = self.work.join("store");
        self.clean("store");
        fs::create_dir_all(&store).unwrap();
        let mut serve = self.fleetpack();
        serve.args(["serve", "--listen", "127.0.0.1:0", "--store"]).arg(&store);
        self.serve = Some(serve.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let begin = Instant::now();
        while !store.join("serve.json").exists() {
            assert!(begin.elapsed() < Duration::from_secs(20), "serve does not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        let command = || {
            let mut command = self.fleetpack();
            command
                .args(["apply", "--seed-only", "--key", "bench.pub", "--store"])
                .arg(&store)
                .arg(self.archive());
            command
        };
        rustix::fs::sync();
        let first = run(&mut command());
        let second = best(|| (), || vec![command()]);
        println!("| apply --seed-only, {} MB | first | again |", size / 1_000_000);
        println!("| --- | --- | --- |");
        println!("| time | {} | {} |", seconds(first), seconds(second));
        println!("| again / first | | {:.3} |", ratio(second, first));
        println!(
            "| bytes read / archive | {:.3} | {:.3} |",
            quotient(first.read, size),
            quotient(second.read, size)
        );
        println!(
            "| bytes written / archive | {:.3} | {:.3} |",
            quotient(first.written, size),
            quotient(second.written, size)
        );
        println!("| peak memory | {} MiB | {} MiB |\n", first.peak >> 10, second.peak >> 10);
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(mut serve) = self.serve.take() {
            let _ = serve.kill();
            let _ = serve.wait();
        }
        let _ = Self::script("registry").arg("down").arg(self.work.join("registry")).status();
    }
}

fn main() {
    // `cargo bench` adds `--bench`; `cargo test --benches` must not start a gigabyte of work.
    let words: Vec<String> = std::env::args().skip(1).collect();
    if !words.iter().any(|word| word == "--bench") {
        return;
    }
    let filter: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let wanted = |name: &str| filter.is_empty() || filter.iter().any(|word| name.contains(word.as_str()));
    if wanted("packing") {
        let testbed = PathBuf::from(Bench::answer(Bench::script("install").arg("histories")));
        let work = testbed.join("bench");
        fs::create_dir_all(&work).unwrap();
        packing::packing(&testbed, &work);
        if !["build", "reuse", "verify", "apply", "push", "serve"].iter().any(|name| wanted(name)) {
            return;
        }
    }
    let mut bench = Bench::prepare();
    if wanted("build") {
        bench.build();
    }
    if !bench.archive().exists() {
        run(&mut bench.build_command());
    }
    if wanted("reuse") {
        bench.reuse();
    }
    if wanted("verify") {
        bench.verify();
    }
    if wanted("apply") {
        bench.apply();
    }
    if wanted("push") {
        bench.push();
    }
    if wanted("serve") {
        serve::serve(&bench);
    }
}
