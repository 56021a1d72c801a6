//! A store with Git generations and no images, served by the binary, and the same repository
//! served by git itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use fleetpack::model::ReleaseName;
use fleetpack::store::Store;
use fleetpack::store::git::{Generation, GenerationRelease, build_generation, switch};

use super::command::{Ended, fleetpack, program, run};
use super::depot::Server;

/// A store whose Git is served.
pub struct GitSite {
    /// The folder that holds all of it.
    pub folder: PathBuf,
    /// The server.
    pub server: Server,
    root: PathBuf,
}

fn name() -> ReleaseName {
    "shop".parse().unwrap()
}

impl GitSite {
    /// An empty store below `folder`, and a server on it.
    #[track_caller]
    pub fn new(folder: &Path) -> Self {
        drop(Store::open_or_create(&folder.join("store"), "test").unwrap());
        let mut command = fleetpack(folder);
        command.args(["serve", "--listen", "127.0.0.1:0", "--store"]).arg(folder.join("store"));
        let server = Server::start(&mut command, &folder.join("serve.log"));
        // What `git upload-pack` allows a client to ask for, the server allows as well.
        let config = "[uploadpack]\nallowAnySHA1InWant = true\n[safe]\ndirectory = *\n[protocol \"file\"]\nallow = always\n";
        std::fs::write(folder.join("gitconfig"), config).unwrap();
        Self { folder: folder.to_owned(), server, root: folder.join("store/git") }
    }

    /// Makes a generation of `releases`, of which the last one is active.
    #[track_caller]
    pub fn generation(&self, releases: &[&GenerationRelease]) -> Generation {
        let releases: Vec<_> = releases.iter().map(|release| (*release).clone()).collect();
        build_generation(&self.root, &name(), &releases).unwrap()
    }

    /// Serves a generation from now on.
    #[track_caller]
    pub fn switch(&self, generation: &Generation) {
        switch(&self.root, &name(), generation).unwrap();
    }

    /// Where the server has it.
    pub fn url(&self) -> String {
        format!("{}/git/shop.git", self.server.endpoint)
    }

    /// git in `folder`, which speaks protocol `version`.
    pub fn git_command(&self, folder: &Path, version: &str) -> Command {
        let mut command = program("git", &self.folder);
        command.env("GIT_CONFIG_GLOBAL", self.folder.join("gitconfig")).current_dir(folder).args([
            "-c",
            &format!("protocol.version={version}"),
            "-c",
            "advice.detachedHead=false",
        ]);
        command
    }

    /// Runs git in `folder`.
    pub fn git(&self, folder: &Path, version: &str, arguments: &[&str]) -> Ended {
        run(self.git_command(folder, version).args(arguments))
    }

    /// Everything that a clone holds: every object that its references reach, the references, and
    /// where its history ends.
    #[track_caller]
    pub fn state(&self, clone: &Path) -> (Vec<String>, String, Vec<String>) {
        let sorted = |text: &str| {
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        let objects = self.git(clone, "2", &["rev-list", "--objects", "--all"]).ok().stdout;
        let refs = self.git(clone, "2", &["for-each-ref"]).ok().stdout;
        let folder = self.git(clone, "2", &["rev-parse", "--git-dir"]).ok().stdout;
        let shallow = clone.join(folder.trim()).join("shallow");
        let shallow = std::fs::read_to_string(shallow).unwrap_or_default();
        (sorted(&objects), refs, sorted(&shallow))
    }
}
