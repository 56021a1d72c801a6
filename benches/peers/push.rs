//! Seeding a docker-registry: `apply --registry` against `skopeo copy`, image after image.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{Bench, Cost, best, quotient, ratio, run, seconds};

/// A docker-registry that is empty each time it is asked for.
struct Fresh {
    folder: PathBuf,
    address: String,
}

impl Fresh {
    fn new(bench: &Bench) -> Self {
        let folder = bench.work.join("push-registry");
        let mut fresh = Self { folder, address: String::new() };
        fresh.renew();
        fresh
    }

    fn stop(&self) {
        let _ = Bench::script("registry").arg("down").arg(&self.folder).stdout(Stdio::null()).status();
    }

    /// Empties it. It comes back at the same address.
    fn renew(&mut self) {
        self.stop();
        let _ = fs::remove_dir_all(self.folder.join("data"));
        rustix::fs::sync();
        self.address = Bench::answer(Bench::script("registry").arg("up").arg(&self.folder));
    }

    /// Seconds of processor time that it took so far.
    fn processor(&self) -> f64 {
        let pid = fs::read_to_string(self.folder.join("pid")).unwrap_or_default();
        let pid = pid.split_whitespace().next().unwrap_or_default().to_owned();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
        (ticks(11) + ticks(12)) / 100.0
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        self.stop();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Bench {
    /// The images of the corpus in one OCI layout, as skopeo wrote it.
    fn layout(&self) -> PathBuf {
        let layout = self.work.join("push-layout");
        let done = layout.join("complete");
        if fs::read_to_string(&done).is_ok_and(|names| names == self.references.join("\n")) {
            return layout;
        }
        let _ = fs::remove_dir_all(&layout);
        for name in &self.references {
            let mut copy = self.tool("skopeo");
            copy.args(["copy", "--quiet", "--src-tls-verify=false", "--all"]);
            copy.arg(format!("docker://{}/{name}", self.registry));
            run(copy.arg(format!("oci:{}:{name}", layout.display())));
        }
        fs::write(done, self.references.join("\n")).unwrap();
        layout
    }

    /// Seeding an empty registry, and seeding it again.
    pub fn push(&self) {
        let layout = self.layout();
        let size = fs::metadata(self.archive()).unwrap().len();
        let mut fresh = Fresh::new(self);
        let address = fresh.address.clone();
        let apply = |store: &str| {
            let mut command = self.fleetpack();
            command
                .args(["apply", "--seed-only", "--key", "bench.pub", "--store"])
                .arg(self.work.join(store));
            command.args(["--registry", &format!("{address}/fleet")]).arg(self.archive());
            command
        };
        // All read from the page cache.
        for file in fs::read_dir(layout.join("blobs/sha256")).unwrap() {
            run(Command::new("cat").arg(file.unwrap().path()));
        }
        run(Command::new("cat").arg(self.archive()));
        let whole = best(
            || {
                fresh.renew();
                self.clean("push-store");
            },
            || vec![apply("push-store")],
        );
        let processor = fresh.processor();
        let again = best(|| (), || vec![apply("push-store")]);
        // The store has it all; only the registry is empty.
        let pushed = best(|| fresh.renew(), || vec![apply("push-store")]);
        let skopeo = best(
            || fresh.renew(),
            || {
                let copy = |name: &String| {
                    let mut copy = self.tool("skopeo");
                    copy.args(["copy", "--quiet", "--all", "--preserve-digests", "--dest-tls-verify=false"]);
                    copy.arg(format!("oci:{}:{name}", layout.display()));
                    copy.arg(format!("docker://{address}/skopeo/{name}"));
                    copy
                };
                self.references.iter().map(copy).collect()
            },
        );
        let theirs = fresh.processor();
        let share = |cost: Cost| format!("{:.2}", ratio(cost, skopeo));
        println!(
            "| push to docker-registry, {} images, {} MB | `apply --registry` | the store has it | again | skopeo copy, each |",
            self.references.len(),
            size / 1_000_000
        );
        println!("| --- | --- | --- | --- | --- |");
        println!(
            "| time | {} | {} | {} | {} |",
            seconds(whole),
            seconds(pushed),
            seconds(again),
            seconds(skopeo)
        );
        println!("| share of skopeo's | {} | {} | {} | |", share(whole), share(pushed), share(again));
        println!("| again / first | | | {:.3} | |", ratio(again, whole));
        println!(
            "| throughput, GB/s | {:.2} | {:.2} | | {:.2} |",
            speed(size, whole),
            speed(size, pushed),
            speed(size, skopeo)
        );
        println!("| the registry's processor time | {processor:.2} s | | | {theirs:.2} s |");
        println!(
            "| peak memory | {} MiB | {} MiB | {} MiB | {} MiB |\n",
            whole.peak >> 10,
            pushed.peak >> 10,
            again.peak >> 10,
            skopeo.peak >> 10
        );
        self.clean("push-store");
    }
}

fn speed(size: u64, cost: Cost) -> f64 {
    quotient(size, 1_000_000_000) / cost.wall.as_secs_f64()
}
