//! Submodules: each travels as a repository of its own, is rendered from, and is served at the site so
//! that a recursive clone of the release works there, without the network.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::command::{Ended, fleetpack, program, run};
use super::support::depot::Server;
use super::support::githost::GitHost;
use super::support::repository::Repository;

fn config_map(name: &str, value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{value: \"{value}\"}}\n")
}

/// A shop with a submodule by a relative URL (`lib`, at two places and two commits), one within it
/// (`dep`), and one whose name a site does not take as it is (`My_Extra`).
struct Fleet {
    folder: tempfile::TempDir,
    host: GitHost,
    shop: Repository,
}

impl Fleet {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| Repository::init(&folder.path().join("host").join(name));
        let dep = make("dep.git");
        dep.write("dep.yaml", config_map("dep", "1"));
        dep.commit("Dep");
        let lib = make("lib.git");
        lib.write("lib.yaml", config_map("lib", "1"));
        let first = lib.commit("Lib 1");
        lib.git(&["submodule", "--quiet", "add", "../dep.git", "inner/dep"]);
        lib.commit("Lib 2, with dep");
        let extra = make("My_Extra.git");
        extra.write("notes/extra.yaml", config_map("extra", "1"));
        extra.commit("Extra");
        let host = GitHost::new(&folder.path().join("host"));
        let shop = make("shop.git");
        shop.write("shop.yaml", config_map("shop", "1"));
        shop.git(&["submodule", "--quiet", "add", "../lib.git", "vendor/lib"]);
        shop.git(&["submodule", "--quiet", "add", "../lib.git", "vendor/lib-old"]);
        shop.git(&["-C", "vendor/lib-old", "checkout", "--quiet", &first]);
        shop.git(&["submodule", "--quiet", "add", &host.url("My_Extra.git"), "vendor/extra"]);
        shop.write(
            "fleetpack.yaml",
            "apiVersion: fleetpack.dev/v1\nkind: Release\nmetadata: {name: shop}\nsources:\n- path: shop.yaml\n- path: vendor/lib\n- path: vendor/extra\n",
        );
        shop.commit("Shop 1");
        shop.git(&["tag", "v1.0"]);
        // What is checked out beside it must not be found by the way.
        shop.git(&["submodule", "--quiet", "deinit", "--all", "--force"]);
        std::fs::remove_dir_all(shop.path.join(".git/modules")).unwrap();
        let fleet = Self { folder, host, shop };
        run(fleetpack(fleet.path()).current_dir(fleet.path()).args([
            "keygen",
            "--output-key-prefix",
            "release",
        ]))
        .ok();
        fleet
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn fleetpack(&self, arguments: &[&str]) -> Command {
        let mut command = fleetpack(self.path());
        command.current_dir(self.path()).args(arguments);
        command
    }

    fn build(&self, place: &str, output: &str, arguments: &[&str]) -> Ended {
        let mut command = self.fleetpack(&["build", place, "-o", output, "--key", "release.key"]);
        run(command.args(arguments))
    }

    /// A clone of the shop, with all submodules in it or with none.
    fn clone(&self, from: &str, name: &str, arguments: &[&str]) -> PathBuf {
        let to = self.path().join(name).join("shop");
        let mut command = program("git", self.path());
        command.args(["-c", "protocol.file.allow=always", "clone", "--quiet"]).args(arguments);
        run(command.arg(from).arg(&to)).ok();
        to
    }
}

#[test]
fn submodules_travel_and_a_site_serves_them() {
    let fleet = Fleet::new();
    let url = fleet.host.url("shop.git");
    fleet.build(&url, "remote.tar", &[]).ok();
    // Clones with and without the submodules give the same bytes, and the former asks nobody.
    let plain = fleet.clone(&url, "plain", &[]);
    fleet.build(plain.to_str().unwrap(), "plain.tar", &[]).ok();
    let full = fleet.clone(&url, "full", &["--recurse-submodules"]);
    fleet.host.requests();
    let cache = [("XDG_CACHE_HOME", fleet.path().join("no-cache"))];
    let mut command = fleet.fleetpack(&["build", full.to_str().unwrap(), "-o", "full.tar"]);
    run(command.args(["--key", "release.key"]).envs(cache)).ok();
    assert_eq!(fleet.host.requests(), []);
    let verified = |name: &str| {
        run(&mut fleet.fleetpack(&["verify", name, "--key", "release.pub", "--format", "json"])).ok().json()
    };
    let release = verified("remote.tar")["release"].clone();
    assert!(release.is_string());
    assert_eq!((&verified("plain.tar")["release"], &verified("full.tar")["release"]), (&release, &release));

    let document = run(&mut fleet.fleetpack(&["inspect", "full.tar", "--format", "json"])).ok().stdout;
    assert!(document.contains("git-submodules"), "{document}");
    let listed = run(&mut fleet.fleetpack(&["inspect", "full.tar", "git"])).ok().stdout;
    for part in
        ["submodule lib\n", "submodule dep\n", "submodule my-extra\n", "vendor/lib/inner/dep  ../dep.git"]
    {
        assert!(listed.contains(part), "{listed}");
    }
    let objects = run(&mut fleet.fleetpack(&["inspect", "full.tar", "objects"])).ok().stdout;
    for part in ["vendor/lib/lib.yaml", "vendor/lib/inner/dep/dep.yaml", "vendor/extra/notes/extra.yaml"] {
        assert!(objects.contains(part), "{objects}");
    }

    // The site: no host but its own.
    let store = fleet.path().join("store");
    let store = store.to_str().unwrap();
    let log = fleet.path().join("serve.log");
    let serve = ["serve", "--listen", "127.0.0.1:0"];
    let stored = Server::start(&mut fleet.fleetpack(&[&serve[..], &["--store", store]].concat()), &log);
    let seed = ["apply", "full.tar", "--key", "release.pub", "--store", store, "--seed-only"];
    run(&mut fleet.fleetpack(&seed)).ok();
    // Written out again it is the same archive, and a scrub reads the submodules as well.
    run(&mut fleet.fleetpack(&["export", "active", "--store", store, "-o", "out.tar"])).ok();
    let bytes = |name: &str| std::fs::read(fleet.path().join(name)).unwrap();
    assert!(bytes("out.tar") == bytes("full.tar"));
    let scrubbed = run(&mut fleet.fleetpack(&["scrub", "--store", store])).ok().stdout;
    assert!(scrubbed.ends_with("all whole\n") && !scrubbed.contains(" 1 generations"), "{scrubbed}");
    let from = ["--archive", "full.tar", "--key", "release.pub"];
    let archived = Server::start(&mut fleet.fleetpack(&[&serve[..], &from].concat()), &log);
    for (name, server) in [("a", &stored), ("b", &archived)] {
        // Relative URLs lead to the site by themselves; an absolute one is led there.
        let instead = format!("url.{}/git/shop/.insteadOf={}/", server.endpoint, fleet.host.endpoint);
        let clone = fleet.path().join(format!("site-{name}"));
        run(program("git", fleet.path())
            .args(["-c", &instead, "clone", "--quiet", "--recurse-submodules"])
            .arg(format!("{}/git/shop.git", server.endpoint))
            .arg(&clone))
        .ok();
        for file in ["shop.yaml", "vendor/lib/inner/dep/dep.yaml", "vendor/extra/notes/extra.yaml"] {
            assert!(clone.join(file).exists(), "{file}");
        }
        assert!(!clone.join("vendor/lib-old/.gitmodules").exists(), "the older commit");
        let url = format!("{}/git/shop/none.git", server.endpoint);
        run(program("git", fleet.path()).args(["ls-remote", &url])).refused(128, &["not found"]);
    }

    // The next release has fewer; what nobody needs any more goes, and the gate still opens.
    fleet.shop.git(&["rm", "--quiet", "-f", "vendor/extra"]);
    fleet.shop.write(
        "fleetpack.yaml",
        "apiVersion: fleetpack.dev/v1\nkind: Release\nmetadata: {name: shop}\nsources: [{path: vendor/lib}]\n",
    );
    fleet.shop.commit("Shop 2");
    fleet.build(&url, "two.tar", &[]).ok();
    for keep in ["2", "1"] {
        let arguments =
            ["apply", "two.tar", "--key", "release.pub", "--store", store, "--seed-only", "--keep", keep];
        run(&mut fleet.fleetpack(&arguments)).ok();
        let extra = fleet.path().join("store/submodules/shop/my-extra.git").exists();
        assert_eq!(extra, keep == "2", "kept {keep}");
        assert!(fleet.path().join("store/submodules/shop/lib.git/HEAD").exists());
    }
}

#[test]
fn a_submodule_that_cannot_be_had_is_refused_by_name() {
    let fleet = Fleet::new();
    let url = fleet.host.url("shop.git");
    std::fs::rename(fleet.path().join("host/dep.git"), fleet.path().join("away")).unwrap();
    fleet.build(&url, "x.tar", &[]).refused(
        4,
        &["submodule `vendor/lib/inner/dep`", "dep.git", "git submodule update --init --recursive"],
    );
    std::fs::rename(fleet.path().join("away"), fleet.path().join("host/dep.git")).unwrap();
    // The commit is in nobody's repository.
    let shop = &fleet.shop;
    let tree = |commit: &str, modules: &str| {
        shop.write(".gitmodules", modules);
        shop.git(&["add", ".gitmodules"]);
        shop.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{commit},vendor/lost")]);
        shop.git(&["commit", "--quiet", "-m", "lost"]);
    };
    let before = std::fs::read_to_string(shop.path.join(".gitmodules")).unwrap();
    let lost = "1".repeat(40);
    let entry = |url: &str| format!("{before}[submodule \"lost\"]\n\tpath = vendor/lost\n\turl = {url}\n");
    tree(&lost, &entry("../lib.git"));
    fleet.build(&url, "x.tar", &[]).refused(4, &["submodule `vendor/lost`", &lost]);
    tree(&lost, &before);
    fleet.build(&url, "x.tar", &[]).refused(4, &["submodule `vendor/lost`", "`.gitmodules` has no entry"]);
    let marker = fleet.path().join("marker");
    for bad in [
        format!("ext::touch {}", marker.display()),
        format!("ssh://-oProxyCommand=touch${{IFS}}{}/x", marker.display()),
        "-u./payload".to_owned(),
        "../../../../../x".to_owned(),
    ] {
        tree(&lost, &entry(&bad));
        fleet.build(&url, "x.tar", &[]).refused(4, &["submodule `vendor/lost`"]);
        assert!(!marker.exists() && !fleet.path().join("x.tar").exists());
    }
}
