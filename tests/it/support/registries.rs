//! Registries beside Debian's docker-registry, each a process of its own (`tests/testbed/registries`).

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::testbed::tool;

/// A registry on loopback; stopped when dropped.
pub struct Process {
    child: Child,
    /// `127.0.0.1:PORT`.
    pub address: String,
}

impl Process {
    /// ociregistry, in memory, with the referrers API; `options` as its program takes them.
    #[track_caller]
    pub fn in_memory(folder: &Path, options: &[&str]) -> Self {
        let mut command = tool("registries", folder);
        let mut child = command
            .args(["oci", "127.0.0.1:0"])
            .args(options)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, address: line.trim().to_owned() }
    }

    /// distribution 3 with its files in `folder`; `more` is added to its configuration, `http` below
    /// its address.
    #[track_caller]
    pub fn distribution(folder: &Path, http: &str, more: &str) -> Self {
        // Whoever asks for the port next waits until it is used.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        fs::create_dir_all(folder).unwrap();
        let config = folder.join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: \"{}\"}}\nhttp:\n  addr: \"{address}\"\n  secret: testbed\n{http}{more}",
            folder.join("data").display()
        );
        fs::write(&config, text).unwrap();
        let log = fs::File::create(folder.join("log")).unwrap();
        let mut command: Command = tool("registries", folder);
        command.args(["distribution"]).arg(&config).env("OTEL_TRACES_EXPORTER", "none");
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let registry = Self { child, address };
        let begin = Instant::now();
        while TcpStream::connect(&registry.address).is_err() {
            let log = fs::read_to_string(folder.join("log")).unwrap();
            assert!(begin.elapsed() < Duration::from_secs(30), "the registry does not come up:\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
