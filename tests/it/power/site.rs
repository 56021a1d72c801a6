//! A site whose store lies on a recorded disk, and its life: the scenarios in which the power fails.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use fleetpack::model::Digest;
use fleetpack::store::Store;

use super::api::{Api, Call};
use super::disk::{Dice, Disk, Event, Image, Log};
use super::fuse::Recorder;
use super::mount::{FileSystem, Mounted, keep};
use super::points::Points;
use crate::support::cluster::control_plane;
use crate::support::command::run;
use crate::support::depot::{Depot, Server};
use crate::support::served::noise;
use crate::support::testbed::script;

/// A command of the site.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// `apply` of a release.
    Apply(&'static str),
    /// `apply --seed-only`.
    Seed(&'static str),
    /// `rollback --to`.
    To(&'static str),
    /// `rollback` to the release before.
    Back,
    /// `apply` of a release; the others stay.
    Keeping(&'static str),
    /// `gc`.
    Gc,
}

/// What a scenario begins with.
#[derive(Clone, Copy, Debug)]
pub enum From {
    /// An empty disk.
    Empty,
    /// The end of another scenario.
    End(&'static str),
    /// Another scenario, in which the power failed: what is recorded is the run that makes it good.
    Cut(&'static str),
}

/// What is done when the power fails, and what must be true then.
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it begins with.
    pub from: From,
    /// What is done, and done again.
    pub act: Act,
    /// The active release before.
    pub before: Option<&'static str>,
    /// The active release once it is done.
    pub then: &'static str,
    /// The releases that the store keeps then.
    pub kept: &'static [&'static str],
    /// What is done after that, and the release that it makes active.
    pub follow: Option<(Act, &'static str)>,
    /// Whether the power fails in it; otherwise others begin with its end.
    pub cut: bool,
}

/// All of them. `serve` starts, runs beside and stops in each.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "first",
        from: From::Empty,
        act: Act::Apply("1"),
        before: None,
        then: "1",
        kept: &["1"],
        follow: None,
        cut: true,
    },
    Scenario {
        name: "next",
        from: From::End("first"),
        act: Act::Apply("2"),
        before: Some("1"),
        then: "2",
        kept: &["1", "2"],
        follow: Some((Act::Back, "1")),
        cut: true,
    },
    Scenario {
        name: "again",
        from: From::Cut("next"),
        act: Act::Apply("2"),
        before: Some("1"),
        then: "2",
        kept: &["1", "2"],
        follow: Some((Act::Back, "1")),
        cut: true,
    },
    Scenario {
        name: "third",
        from: From::End("next"),
        act: Act::Apply("3"),
        before: Some("2"),
        then: "3",
        kept: &["2", "3"],
        follow: Some((Act::Back, "2")),
        cut: true,
    },
    Scenario {
        name: "rollback",
        from: From::End("next"),
        act: Act::To("1"),
        before: Some("2"),
        then: "1",
        kept: &["1", "2"],
        follow: Some((Act::Back, "2")),
        cut: true,
    },
    Scenario {
        name: "seed-only",
        from: From::End("first"),
        act: Act::Seed("2"),
        before: Some("1"),
        then: "1",
        kept: &["1", "2"],
        follow: Some((Act::Apply("2"), "2")),
        cut: true,
    },
    Scenario {
        name: "keeping",
        from: From::End("next"),
        act: Act::Keeping("3"),
        before: Some("2"),
        then: "3",
        kept: &["1", "2", "3"],
        follow: None,
        cut: false,
    },
    Scenario {
        name: "gc",
        from: From::End("keeping"),
        act: Act::Gc,
        before: Some("3"),
        then: "3",
        kept: &["2", "3"],
        follow: Some((Act::Back, "2")),
        cut: true,
    },
];

/// One run of a scenario, with all that is needed to cut it anywhere.
pub struct Recording {
    /// The disk.
    pub log: Log,
    /// What the cluster had been told before.
    pub before: Vec<Call>,
    /// What it was told meanwhile.
    pub calls: Vec<Call>,
    /// The disk once all was done and unmounted.
    pub end: Image,
}

/// A release, as the checks know it.
#[derive(Clone)]
pub struct Known {
    /// Its identity.
    pub digest: Digest,
    /// Its commit.
    pub commit: String,
}

/// The site.
pub struct Site {
    /// Repository, archives, keys; its store is where the disk is mounted.
    pub depot: Depot,
    /// The way to the cluster.
    pub api: Api,
    /// The failpoints.
    pub points: Points,
    /// What the store lies on.
    pub kind: FileSystem,
    /// The releases, by version, as far as they were ever in the store.
    pub known: BTreeMap<String, Known>,
    archives: BTreeMap<&'static str, PathBuf>,
}

impl Site {
    /// Makes one in `folder`, with three releases.
    #[track_caller]
    pub fn new(folder: &Path, name: &str, kind: FileSystem) -> Self {
        let cluster = control_plane();
        let mut depot = Depot::new(folder, name, &cluster.kubeconfig);
        depot.silence();
        std::fs::remove_dir_all(folder.join("store")).unwrap();
        std::fs::create_dir(folder.join("store")).unwrap();
        keep(&[&folder.join("store"), &folder.join("recorder")]);
        let api = Api::open(&cluster.kubeconfig, folder);
        depot.kubeconfig.clone_from(&api.kubeconfig);
        let points = Points::listen(&folder.join("points.sock"), &folder.join("store"));
        let mut site = Self { depot, api, points, kind, known: BTreeMap::new(), archives: BTreeMap::new() };
        // A layer that all releases have, and one each of their own.
        site.image("all:1", "all", 700_000);
        for version in ["1", "2", "3"] {
            site.image(&format!("own:{version}"), version, 300_000);
            let archive = site.build(version);
            site.archives.insert(version, archive);
        }
        site
    }

    fn image(&self, name: &str, content: &str, size: usize) {
        let tree = self.depot.folder.join("tree");
        std::fs::create_dir_all(&tree).unwrap();
        let mut bytes = noise(size);
        bytes.extend_from_slice(content.as_bytes());
        bytes.rotate_right(content.len());
        std::fs::write(tree.join("bulk"), bytes).unwrap();
        let mut command = script("image");
        command.args(["make", "--base", "none", "--compression", "none"]);
        command.args(["--name", &format!("registry.example.com/depot/{name}")]);
        command
            .args(["--file", &format!("etc/part={content}")])
            .arg("--add")
            .arg(format!("{}:/bulk", tree.display()));
        run(command.arg("--oci").arg(self.depot.folder.join("images"))).ok();
    }

    #[track_caller]
    fn build(&self, version: &str) -> PathBuf {
        let Depot { name, repository, folder, .. } = &self.depot;
        repository.write(
            "fleetpack.yaml",
            format!(
                "apiVersion: fleetpack.dev/v1\nkind: Release\nmetadata: {{name: {name}}}\nversion: \"{version}\"\n\
                 sources: [{{path: site.yaml}}]\nimages: {{include: [\"registry.example.com/depot/all:1\"]}}\n"
            ),
        );
        repository.write(
            "site.yaml",
            format!(
                "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n---\napiVersion: v1\nkind: ConfigMap\n\
                 metadata: {{name: depot, namespace: {name}}}\ndata: {{value: \"{version}\"}}\n---\n\
                 apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: only-{version}, namespace: {name}}}\n---\n\
                 apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web, namespace: {name}}}\nspec:\n  \
                 replicas: 0\n  selector: {{matchLabels: {{app: web}}}}\n  template:\n    metadata: {{labels: {{app: web}}}}\n    \
                 spec: {{containers: [{{name: web, image: \"registry.example.com/depot/own:{version}\", \
                 readinessProbe: {{tcpSocket: {{port: 80}}}}}}]}}\n"
            ),
        );
        repository.commit(&format!("release {version}"));
        let archive = folder.join(format!("{version}.tar"));
        let mut command = self.depot.fleetpack();
        command.args(["build", "repository", "--images-from", "oci:images", "--key", "release.key", "-o"]);
        run(command.arg(&archive)).ok();
        archive
    }

    /// Where the disk is mounted.
    pub fn store(&self) -> PathBuf {
        self.depot.folder.join("store")
    }

    fn on_store(&self, arguments: &[&str]) -> Command {
        let mut command = self.depot.fleetpack();
        command.args(arguments).args(["--store", "store"]);
        command
    }

    /// A command of the site, ready to run; it stops at failpoints where it is recorded.
    pub fn command(&self, act: Act, recorded: bool) -> Command {
        let mut command = match act {
            Act::Apply(version) => self.depot.apply_command(&self.archives[version], &[]),
            Act::Seed(version) => self.depot.apply_command(&self.archives[version], &["--seed-only"]),
            Act::Keeping(version) => self.depot.apply_command(&self.archives[version], &["--keep", "9"]),
            Act::To(version) => self.on_store(&["rollback", "--to", version]),
            Act::Back => self.on_store(&["rollback"]),
            Act::Gc => self.on_store(&["gc"]),
        };
        if recorded {
            command.env("FLEETPACK_FAILPOINTS", self.points.path());
        }
        command
    }

    /// Starts the server.
    #[track_caller]
    pub fn serve(&self, recorded: bool) -> Server {
        let mut command = self.depot.fleetpack();
        command.args(["serve", "--listen", "127.0.0.1:0", "--store", "store"]);
        if recorded {
            command.env("FLEETPACK_FAILPOINTS", self.points.path());
        }
        Server::start(&mut command, &self.depot.folder.join("serve.log"))
    }

    /// Runs a scenario on a recorded disk that holds `base`, with the cluster as `before` made it.
    /// With `noise` the file system also writes back at moments of its own.
    #[track_caller]
    pub fn record(
        &mut self,
        scenario: &Scenario,
        base: Image,
        before: &[Call],
        noise: Option<Dice>,
    ) -> Recording {
        self.api.note(None);
        self.api.restore(before.iter()).unwrap();
        let disk = Arc::new(Disk::new(base));
        let recorder = Recorder::mount(&self.depot.folder.join("recorder"), Arc::clone(&disk)).unwrap();
        let mounted = Mounted::mount(recorder.path(), &self.store(), self.kind).unwrap();
        disk.record();
        self.api.note(Some(Arc::clone(&disk)));
        self.points.note(Some(Arc::clone(&disk)), noise);
        let server = self.serve(true);
        run(&mut self.command(scenario.act, true)).ok();
        disk.happened(Event::Ended);
        let (code, _) = server.stop();
        assert_eq!(code, Some(0), "serve");
        let log = disk.recorded();
        let calls = self.api.calls();
        self.points.note(None, None);
        self.api.note(None);
        for release in Store::open_read_only(&self.store()).unwrap().releases().unwrap() {
            let document = release.document();
            let known = Known { digest: release.digest(), commit: document.git.commit.to_string() };
            self.known.insert(document.version.to_string(), known);
        }
        drop(mounted);
        drop(recorder);
        Recording { log, before: before.to_vec(), calls, end: disk.image() }
    }
}
