//! A containerd of its own and its client `ctr`: what pulls as a node does. Wants root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::command::{Ended, program, run};
use super::testbed::{testbed, tool};

/// containerd without anything but images; stopped when dropped.
pub struct Ctr {
    child: Child,
    root: PathBuf,
}

impl Ctr {
    /// Starts one below `folder`.
    #[track_caller]
    pub fn up(folder: &Path) -> Self {
        testbed(&["peers"]);
        let root = folder.join("containerd");
        fs::create_dir(&root).unwrap();
        let config = format!(
            "version = 3\nroot = \"{0}/root\"\nstate = \"{0}/state\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \
             \"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\", \"io.containerd.nri.v1.nri\", \
             \"io.containerd.internal.v1.opt\"]\n[grpc]\naddress = \"{0}/socket\"\n[ttrpc]\naddress = \"{0}/ttrpc\"\n",
            root.display()
        );
        fs::write(root.join("config.toml"), config).unwrap();
        let log = fs::File::create(root.join("log")).unwrap();
        let mut command = tool("containerd", folder);
        command.arg("--config").arg(root.join("config.toml")).stdout(Stdio::null()).stderr(log);
        let ctr = Self { child: command.spawn().unwrap(), root };
        let begin = Instant::now();
        while ctr.run(&["version"]).code != 0 {
            let log = fs::read_to_string(ctr.root.join("log")).unwrap();
            assert!(begin.elapsed() < Duration::from_mins(1), "{log}");
            std::thread::sleep(Duration::from_millis(100));
        }
        ctr
    }

    /// Runs `ctr` with these arguments.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        let mut command = tool("ctr", &self.root);
        command.arg("--address").arg(self.root.join("socket"));
        run(command.args(["-n", "test"]).args(arguments))
    }

    /// Pulls an image through the `hosts.toml` files of a folder.
    pub fn pull(&self, hosts: &Path, reference: &str) -> Ended {
        let hosts = hosts.to_str().unwrap();
        self.run(&["images", "pull", "--local", "--snapshotter", "native", "--hosts-dir", hosts, reference])
    }
}

impl Drop for Ctr {
    fn drop(&mut self) {
        // Asked, not killed: it undoes its mounts.
        let _ = run(program("kill", Path::new("/")).arg(self.child.id().to_string()));
        let _ = self.child.wait();
    }
}
