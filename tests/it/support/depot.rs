//! A release without pods, for what the site does: a few objects and one small image, so that a
//! control plane without a node is enough and each test has names of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::command::{Ended, fleetpack, run};
use super::repository::Repository;
use super::testbed::{script, testbed};

/// A depot called `name`: its repository, its archives, its store and a server on it.
pub struct Depot {
    /// The folder that holds all of it.
    pub folder: PathBuf,
    /// Name of the release and of its namespace.
    pub name: String,
    /// The repository.
    pub repository: Repository,
    /// kubeconfig of the cluster.
    pub kubeconfig: PathBuf,
    server: Option<Server>,
}

/// `fleetpack serve`; stopped when dropped.
pub struct Server {
    child: Child,
    /// `http://127.0.0.1:PORT`.
    pub endpoint: String,
}

impl Server {
    /// Starts `command`, which is a `fleetpack serve`, and waits until it says where it listens.
    #[track_caller]
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let mut child =
            command.stdout(Stdio::piped()).stderr(fs::File::create(log).unwrap()).spawn().unwrap();
        let mut line = String::new();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        assert!(line.starts_with("http"), "serve says `{line}`:\n{}", fs::read_to_string(log).unwrap());
        Self { child, endpoint: line.trim().to_owned() }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> &str {
        self.endpoint.split_once("://").unwrap().1
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop (SIGTERM) and waits until it has: with which code, and after what time.
    #[track_caller]
    pub fn stop(mut self) -> (Option<i32>, std::time::Duration) {
        let begin = std::time::Instant::now();
        run(Command::new("kill").arg(self.child.id().to_string())).ok();
        (self.child.wait().unwrap().code(), begin.elapsed())
    }

    /// Peak of its resident memory in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// Threads that it has now.
    pub fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap().count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Depot {
    /// Makes one below `folder`, with a key pair, an image layout, an empty repository and a server.
    #[track_caller]
    pub fn new(folder: &Path, name: &str, kubeconfig: &Path) -> Self {
        testbed(&["peers", "mkimage"]);
        let layout = folder.join("images");
        let mut image = script("image");
        image.args([
            "make",
            "--name",
            "registry.example.com/depot/part:1",
            "--file",
            &format!("etc/part={name}"),
        ]);
        run(image.arg("--oci").arg(&layout)).ok();
        let mut depot = Self {
            folder: folder.to_owned(),
            name: name.to_owned(),
            repository: Repository::init(&folder.join("repository")),
            kubeconfig: kubeconfig.to_owned(),
            server: None,
        };
        run(depot.fleetpack().args(["keygen", "--output-key-prefix", "release"])).ok();
        depot.serve();
        depot
    }

    /// Starts the server, or starts it anew.
    #[track_caller]
    pub fn serve(&mut self) {
        self.server = None;
        let mut command = self.fleetpack();
        command.args(["serve", "--listen", "127.0.0.1:0", "--store", "store"]);
        self.server = Some(Server::start(&mut command, &self.folder.join("serve.log")));
    }

    /// Where the server listens: `http://127.0.0.1:PORT`.
    #[track_caller]
    pub fn endpoint(&self) -> &str {
        &self.server.as_ref().unwrap().endpoint
    }

    /// The server: `127.0.0.1:PORT`, its endpoint, its process.
    #[track_caller]
    pub fn server(&self) -> (String, String, u32) {
        let server = self.server.as_ref().unwrap();
        (server.host().to_owned(), server.endpoint.clone(), server.pid())
    }

    /// Where it listens: `127.0.0.1:PORT`.
    #[track_caller]
    pub fn host(&self) -> &str {
        self.server.as_ref().unwrap().host()
    }

    /// A server on an archive of this depot.
    #[track_caller]
    pub fn serve_archive(&self, archive: &str) -> Server {
        let mut command = self.fleetpack();
        command.args(["serve", "--listen", "127.0.0.1:0", "--key", "release.pub", "--archive", archive]);
        Server::start(&mut command, &self.folder.join("serve-archive.log"))
    }

    /// Stops the server.
    pub fn silence(&mut self) {
        self.server = None;
    }

    /// The binary under test, in the depot's folder.
    pub fn fleetpack(&self) -> Command {
        let mut command = fleetpack(&self.folder);
        command.current_dir(&self.folder).env("KUBECONFIG", &self.kubeconfig).env("FLEETPACK_TIMEOUT", "2m");
        command
    }

    /// Builds a release whose config map says `value`, with `more` objects beside it.
    #[track_caller]
    pub fn build(&self, value: &str, more: &str) -> PathBuf {
        let Self { name, .. } = self;
        self.repository.write(
            "fleetpack.yaml",
            format!(
                "apiVersion: fleetpack.dev/v1\nkind: Release\nmetadata: {{name: {name}}}\nversion: \"{value}\"\n\
                 sources: [{{path: depot.yaml}}]\nimages: {{include: [\"registry.example.com/depot/part:1\"]}}\n"
            ),
        );
        self.repository.write(
            "depot.yaml",
            format!(
                "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n---\napiVersion: v1\nkind: ConfigMap\n\
                 metadata: {{name: depot, namespace: {name}}}\ndata: {{value: \"{value}\"}}\n{more}"
            ),
        );
        self.repository.commit(&format!("release {value}"));
        let archive = self.folder.join(format!("{value}.tar"));
        let mut command = self.fleetpack();
        command.args(["build", "repository", "--images-from", "oci:images", "--key", "release.key", "-o"]);
        run(command.arg(&archive)).ok();
        archive
    }

    /// `fleetpack apply` of an archive, ready to run.
    pub fn apply_command(&self, archive: &Path, more: &[&str]) -> Command {
        let mut command = self.fleetpack();
        command.args(["apply", "--key", "release.pub", "--store", "store"]).args(more).arg(archive);
        command
    }

    /// Applies an archive.
    pub fn apply(&self, archive: &Path, more: &[&str]) -> Ended {
        run(&mut self.apply_command(archive, more))
    }

    /// Runs a command of the site on the store.
    pub fn site(&self, arguments: &[&str]) -> Ended {
        run(self.fleetpack().args(arguments).args(["--store", "store"]))
    }
}
