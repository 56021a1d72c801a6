//! A containerd of a test's own.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use super::command::{Ended, program, run};
use super::testbed::{testbed, tool};

/// A running containerd; stopped when dropped.
pub struct Containerd {
    child: Child,
    home: PathBuf,
    socket: PathBuf,
}

impl Containerd {
    /// Starts one whose files are below `home`, and waits until it answers.
    #[track_caller]
    pub fn start(home: &Path) -> Self {
        testbed(&["peers"]);
        let root = home.join("containerd");
        std::fs::create_dir(&root).unwrap();
        let socket = root.join("socket");
        let config = format!(
            "version = 3\nroot = \"{0}/root\"\nstate = \"{0}/state\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \
             \"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\", \"io.containerd.nri.v1.nri\", \
             \"io.containerd.internal.v1.opt\"]\n[grpc]\naddress = \"{1}\"\n[ttrpc]\naddress = \"{0}/ttrpc\"\n",
            root.display(),
            socket.display()
        );
        std::fs::write(root.join("config.toml"), config).unwrap();
        let log = std::fs::File::create(root.join("log")).unwrap();
        let mut command = tool("containerd", home);
        command.arg("--config").arg(root.join("config.toml")).stdout(Stdio::null()).stderr(log);
        let containerd = Self { child: command.spawn().unwrap(), home: home.to_owned(), socket };
        let begin = std::time::Instant::now();
        while containerd.ctr(&["version"]).code != 0 {
            let log = std::fs::read_to_string(root.join("log")).unwrap();
            assert!(begin.elapsed().as_secs() < 60, "{log}");
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        containerd
    }

    /// Runs ctr on it.
    pub fn ctr(&self, arguments: &[&str]) -> Ended {
        run(tool("ctr", &self.home).arg("--address").arg(&self.socket).args(["-n", "test"]).args(arguments))
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // Asked, not killed: it undoes its mounts.
        let _ = run(program("kill", Path::new("/")).arg(self.child.id().to_string()));
        let _ = self.child.wait();
    }
}
