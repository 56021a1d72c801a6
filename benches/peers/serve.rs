//! `fleetpack serve` against docker-registry: one set of images in both, pulled by plain clients that
//! read and throw away, so that what is measured is the server.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::{Bench, quotient, run};

const CLIENTS: usize = 8;
const MANY: usize = 100;
const ROUNDS: usize = 2;
/// Times of manifests that are taken.
const TIMES: usize = 4_000;

/// A server that is measured.
struct Server {
    address: String,
    pid: u32,
    child: Option<Child>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Server {
    /// `fleetpack serve` on `store`, which has answered a first request.
    fn ours(bench: &Bench, store: &Path) -> Self {
        let mut command = bench.fleetpack();
        command.args(["serve", "--listen", "127.0.0.1:0", "--store"]).arg(store);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("http://").unwrap().to_owned();
        Self { address, pid: child.id(), child: Some(child) }
    }

    /// The docker-registry of the bench, started anew.
    fn theirs(bench: &Bench) -> Self {
        let folder = bench.work.join("registry");
        let _ = Bench::answer(Bench::script("registry").arg("down").arg(&folder));
        let address = Bench::answer(Bench::script("registry").arg("up").arg(&folder));
        let pid = fs::read_to_string(folder.join("pid")).unwrap();
        Self { address, pid: pid.split_whitespace().next().unwrap().parse().unwrap(), child: None }
    }

    /// Processor seconds that it has used, user and system.
    fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u32 = fields[11].parse::<u32>().unwrap() + fields[12].parse::<u32>().unwrap();
        f64::from(ticks) / 100.0
    }

    /// Highest resident memory in KiB.
    fn peak(&self) -> u64 {
        super::field(&fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap(), "VmHWM:")
    }
}

/// A connection that is kept.
struct Client {
    stream: BufReader<TcpStream>,
    host: String,
    buffer: Vec<u8>,
}

impl Client {
    fn new(host: &str) -> Self {
        let stream = TcpStream::connect(host).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::new(stream), host: host.to_owned(), buffer: vec![0; 1 << 20] }
    }

    /// Asks, reads the head, and answers with the length of the body.
    fn ask(&mut self, path: &str) -> usize {
        let host = &self.host;
        let accept = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
                      application/vnd.docker.distribution.manifest.v2+json";
        let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\n\r\n");
        self.stream.get_mut().write_all(head.as_bytes()).unwrap();
        let mut length = None;
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 200"), "{path}: {line}");
        loop {
            line.clear();
            self.stream.read_line(&mut line).unwrap();
            if line == "\r\n" {
                return length.unwrap();
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().ok();
            }
        }
    }

    /// The whole body.
    fn get(&mut self, path: &str) -> Vec<u8> {
        let mut body = vec![0; self.ask(path)];
        self.stream.read_exact(&mut body).unwrap();
        body
    }

    /// The length of the body, which is thrown away.
    fn skim(&mut self, path: &str) -> u64 {
        let length = self.ask(path);
        let mut left = length;
        while left > 0 {
            let most = left.min(self.buffer.len());
            let count = self.stream.read(&mut self.buffer[..most]).unwrap();
            assert!(count > 0, "{path} ends {left} bytes early");
            left -= count;
        }
        length as u64
    }
}

/// Paths of the manifests and of the blobs of the images, each once.
fn paths(bench: &Bench, host: &str) -> (Vec<String>, Vec<String>) {
    let mut client = Client::new(host);
    let (mut manifests, mut blobs) = (Vec::new(), BTreeMap::new());
    for reference in &bench.references {
        let (name, tag) = reference.rsplit_once(':').unwrap();
        let path = format!("/v2/{name}/manifests/{tag}");
        let json: serde_json::Value = serde_json::from_slice(&client.get(&path)).unwrap();
        manifests.push(path);
        let layers = json["layers"].as_array().unwrap();
        for blob in layers.iter().chain([&json["config"]]) {
            let digest = blob["digest"].as_str().unwrap();
            blobs.insert(digest.to_owned(), format!("/v2/{name}/blobs/{digest}"));
        }
    }
    (manifests, blobs.into_values().collect())
}

/// All blobs by each of the clients at once: bytes, time, processor seconds.
fn pull(server: &Server, manifests: &[String], blobs: &[String]) -> (u64, Duration, f64) {
    let before = server.cpu();
    let begin = Instant::now();
    let bytes = std::thread::scope(|scope| {
        let pull = |at: usize| {
            let mut client = Client::new(&server.address);
            let mut bytes: u64 = manifests.iter().map(|path| client.skim(path)).sum();
            // Each begins elsewhere, as nodes do.
            let from = at * blobs.len() / CLIENTS;
            for path in blobs[from..].iter().chain(&blobs[..from]) {
                bytes += client.skim(path);
            }
            bytes
        };
        let clients: Vec<_> = (0..CLIENTS).map(|at| scope.spawn(move || pull(at))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    (bytes, begin.elapsed(), server.cpu() - before)
}

/// Median and 99th percentile of the time that a manifest takes while others pull blobs.
fn manifests(server: &Server, manifests: &[String], blobs: &[String]) -> (Duration, Duration) {
    let stop = AtomicBool::new(false);
    let mut times = std::thread::scope(|scope| {
        for at in 0..CLIENTS {
            let stop = &stop;
            scope.spawn(move || {
                let mut client = Client::new(&server.address);
                for path in blobs.iter().cycle().skip(at * blobs.len() / CLIENTS) {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    client.skim(path);
                }
            });
        }
        let mut client = Client::new(&server.address);
        let times: Vec<Duration> = manifests
            .iter()
            .cycle()
            .take(TIMES)
            .map(|path| {
                let begin = Instant::now();
                client.skim(path);
                begin.elapsed()
            })
            .collect();
        stop.store(true, Ordering::Relaxed);
        times
    });
    times.sort();
    (times[TIMES / 2], times[TIMES * 99 / 100])
}

/// Peak memory once a hundred clients are in the middle of a large blob.
fn memory(server: &Server, blobs: &[String]) -> u64 {
    let mut clients: Vec<Client> = (0..MANY).map(|_| Client::new(&server.address)).collect();
    // The largest: none of it fits into the buffers of a connection.
    let mut lengths = Vec::new();
    let mut probe = Client::new(&server.address);
    for path in blobs {
        lengths.push((probe.skim(path), path));
    }
    let (_, largest) = lengths.iter().max().unwrap();
    for client in &mut clients {
        client.ask(largest);
        let _ = client.stream.read(&mut client.buffer).unwrap();
    }
    std::thread::sleep(Duration::from_secs(1));
    for _ in 0..20 {
        for client in &mut clients {
            let _ = client.stream.read(&mut client.buffer).unwrap();
        }
    }
    server.peak()
}

/// A store whose release has 10,000 blobs and more, in a hundred images.
fn wide_store(bench: &Bench) -> std::path::PathBuf {
    let store = bench.work.join("wide-store");
    if store.join("index.json").exists() && store.join("wide").exists() {
        return store;
    }
    let layout = bench.work.join("wide-layout");
    let blobs = layout.join("blobs/sha256");
    bench.clean("wide-layout");
    bench.clean("wide-store");
    bench.clean("wide");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = hex::encode(Sha256::digest(bytes));
        fs::write(blobs.join(&digest), bytes).unwrap();
        format!("\"digest\":\"sha256:{digest}\",\"size\":{}", bytes.len())
    };
    let (mut entries, mut pods) = (Vec::new(), String::new());
    for image in 0..100 {
        let config =
            put(format!("{{\"architecture\":\"amd64\",\"os\":\"linux\",\"author\":\"{image}\"}}").as_bytes());
        let layers: Vec<String> = (0..100)
            .map(|layer| {
                let blob = put(format!("layer {layer} of image {image}").as_bytes());
                format!("{{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\",{blob}}}")
            })
            .collect();
        let manifest = put(format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"config\":{{\
                 \"mediaType\":\"application/vnd.oci.image.config.v1+json\",{config}}},\"layers\":[{}]}}",
            layers.join(",")
        )
        .as_bytes());
        let name = format!("registry.example.com/wide/image-{image}:1");
        entries.push(format!(
            "{{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",{manifest},\
             \"annotations\":{{\"org.opencontainers.image.ref.name\":\"{name}\"}}}}"
        ));
        let _ = write!(
            pods,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: pod-{image}, namespace: default}}\nspec: {{containers: [{{name: main, image: \"{name}\"}}]}}\n"
        );
    }
    let index = format!("{{\"schemaVersion\":2,\"manifests\":[{}]}}", entries.join(","));
    fs::write(layout.join("index.json"), index).unwrap();
    fs::write(layout.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
    let repository = bench.work.join("wide");
    fs::create_dir_all(&repository).unwrap();
    fs::write(repository.join("pods.yaml"), pods).unwrap();
    fs::write(
        repository.join("fleetpack.yaml"),
        "apiVersion: fleetpack.dev/v1\nkind: Release\nmetadata: {name: wide}\nversion: \"1\"\nsources: [{path: pods.yaml}]\n",
    )
    .unwrap();
    for arguments in [&["init", "-q", "-b", "main"][..], &["add", "-A"], &["commit", "-q", "-m", "wide"]] {
        let mut git = std::process::Command::new("git");
        git.current_dir(&repository).args(["-c", "user.name=bench", "-c", "user.email=bench@localhost"]);
        run(git.args(arguments));
    }
    let images = format!("oci:{}", layout.display());
    let mut build = bench.fleetpack();
    build.args(["build", "wide", "--images-from", &images, "--key", "bench.key", "-o", "wide.tar"]);
    run(&mut build);
    let server = Server::ours(bench, &store);
    let mut apply = bench.fleetpack();
    apply.args(["apply", "--seed-only", "--key", "bench.pub", "--store"]).arg(&store).arg("wide.tar");
    run(&mut apply);
    drop(server);
    fs::write(store.join("wide"), "").unwrap();
    store
}

/// From nothing to the answer to a first request.
fn start(bench: &Bench, store: &Path) -> Duration {
    let begin = Instant::now();
    let server = Server::ours(bench, store);
    let mut client = Client::new(&server.address);
    client.skim("/v2/registry.example.com/wide/image-99/manifests/1");
    begin.elapsed()
}

/// The rows of `serve`.
pub fn serve(bench: &Bench) {
    let store = bench.work.join("serve-store");
    bench.clean("serve-store");
    {
        let _server = Server::ours(bench, &store);
        let mut apply = bench.fleetpack();
        apply
            .args(["apply", "--seed-only", "--key", "bench.pub", "--store"])
            .arg(&store)
            .arg(bench.archive());
        run(&mut apply);
    }
    let measure = |server: Server| {
        let (tags, blobs) = paths(bench, &server.address);
        // Once for the page cache.
        let _ = pull(&server, &tags, &blobs);
        let pulls: Vec<_> = (0..ROUNDS).map(|_| pull(&server, &tags, &blobs)).collect();
        let fastest = pulls.iter().min_by_key(|(_, wall, _)| *wall).unwrap();
        let leanest =
            pulls.iter().map(|(bytes, _, cpu)| cpu / quotient(*bytes, 1_000_000_000)).reduce(f64::min);
        let speed = quotient(fastest.0, 1_000_000_000) / fastest.1.as_secs_f64();
        let (median, slow) = manifests(&server, &tags, &blobs);
        (fastest.0, speed, leanest.unwrap(), median, slow, blobs)
    };
    let ours = measure(Server::ours(bench, &store));
    let theirs = measure(Server::theirs(bench));
    let memory_ours = memory(&Server::ours(bench, &store), &ours.5);
    let memory_theirs = memory(&Server::theirs(bench), &theirs.5);
    let wide = wide_store(bench);
    let cold = (0..ROUNDS).map(|_| start(bench, &wide)).min().unwrap();
    let set = ours.0 / CLIENTS as u64 / 1_000_000;
    println!(
        "| serve, {set} MB of images by {CLIENTS} clients at once | fleetpack | docker-registry | ratio |"
    );
    println!("| --- | --- | --- | --- |");
    println!("| throughput | {:.2} GB/s | {:.2} GB/s | {:.2} |", ours.1, theirs.1, ours.1 / theirs.1);
    println!("| processor seconds a GB | {:.3} | {:.3} | {:.2} |", ours.2, theirs.2, ours.2 / theirs.2);
    for (name, ours, theirs) in [("median", ours.3, theirs.3), ("99th percentile", ours.4, theirs.4)] {
        println!(
            "| a manifest meanwhile, {name} | {:.2} ms | {:.2} ms | {:.2} |",
            ours.as_secs_f64() * 1e3,
            theirs.as_secs_f64() * 1e3,
            ours.as_secs_f64() / theirs.as_secs_f64()
        );
    }
    println!(
        "| peak memory with {MANY} clients | {} MiB | {} MiB | |",
        memory_ours >> 10,
        memory_theirs >> 10
    );
    println!("| cold start with 10,000 blobs | {:.2} s | | |\n", cold.as_secs_f64());
}
