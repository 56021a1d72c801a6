//! Git LFS in a build: objects come from the clone or from their server, are rendered from, and travel;
//! one that cannot be had fails the build by name. The repositories are made by the real git-lfs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::support::command::{Ended, fleetpack, program, run};
use super::support::depot::Server;
use super::support::githost::{GitHost, Request};
use super::support::repository::Repository;
use super::support::testbed::testbed;

/// How the server treats the object that a test is about.
#[derive(Debug, Clone, Default)]
struct Fault {
    /// Its oid; empty for none.
    oid: String,
    /// What it does.
    kind: &'static str,
}

struct Depot {
    folder: tempfile::TempDir,
    host: GitHost,
    shop: Repository,
    fault: Arc<Mutex<Fault>>,
}

/// Lets the real git-lfs have every `*.bin` and `lfs-*.yaml`.
pub(super) fn with_lfs(repository: &Repository) {
    let git_lfs = testbed(&["peers"]).join("bin/git-lfs");
    let git_lfs = git_lfs.to_str().unwrap();
    repository.git(&["config", "filter.lfs.clean", &format!("{git_lfs} clean -- %f")]);
    repository.git(&["config", "filter.lfs.smudge", &format!("{git_lfs} smudge --skip -- %f")]);
    repository.git(&["config", "filter.lfs.required", "true"]);
    let attributes = "*.bin filter=lfs -text\nlfs-*.yaml filter=lfs -text\n";
    repository.write(".gitattributes", attributes);
}

fn config_map(name: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{value: \"1\"}}\n")
}

/// More than manifests are rendered from.
fn large() -> Vec<u8> {
    (0..17 << 20_u32).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// The oid of the pointer that `repository` has at `path`.
fn oid(repository: &Repository, path: &str) -> String {
    let pointer = repository.git(&["show", &format!("HEAD:{path}")]);
    pointer.lines().find_map(|line| line.strip_prefix("oid sha256:")).unwrap().to_owned()
}

fn object(folder: &Path, oid: &str) -> PathBuf {
    folder.join(".git/lfs/objects").join(&oid[..2]).join(&oid[2..4]).join(oid)
}

/// The LFS API over the objects that the repositories in `folders` have.
fn answer(
    folders: &[PathBuf],
    endpoint: &str,
    fault: &Fault,
    request: &Request,
) -> Option<(u16, &'static str, Vec<u8>)> {
    const JSON: &str = "application/vnd.git-lfs+json";
    let find = |oid: &str| folders.iter().find_map(|folder| std::fs::read(object(folder, oid)).ok());
    if request.target.ends_with("/info/lfs/objects/batch") || request.target == "/elsewhere/objects/batch" {
        let asked: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!((&asked["operation"], &request.headers["accept"]), (&json!("download"), &JSON.to_owned()));
        assert!(asked["objects"].as_array().unwrap().len() <= 100);
        match fault.kind {
            "404" => return Some((404, JSON, b"{\"message\":\"no such\\u001b repository\"}".to_vec())),
            "401" => return Some((401, JSON, b"{\"message\":\"log in\"}".to_vec())),
            "500" => return Some((500, "text/html", b"<html>".to_vec())),
            "garbage" => return Some((200, JSON, b"<html>".to_vec())),
            "other transfer" => {
                return Some((200, JSON, b"{\"transfer\":\"tus\",\"objects\":[]}".to_vec()));
            }
            _ => {}
        }
        let objects = asked["objects"].as_array().unwrap().iter().filter_map(|asked| {
            let oid = asked["oid"].as_str().unwrap();
            let size = &asked["size"];
            let ours = fault.oid == oid;
            if ours && fault.kind == "unsaid" {
                return None;
            }
            if find(oid).is_none() || (ours && fault.kind == "missing") {
                return Some(
                    json!({"oid": oid, "size": size, "error": {"code": 404, "message": "not here"}}),
                );
            }
            let href = match fault.kind {
                "file" if ours => "file:///etc/passwd".to_owned(),
                _ => format!("{endpoint}/content/{oid}"),
            };
            let download = json!({"href": href, "header": {"X-Ticket": oid}});
            Some(json!({"oid": oid, "size": size, "actions": {"download": download}}))
        });
        let answer = json!({"transfer": "basic", "objects": objects.collect::<Vec<_>>()});
        return Some((200, JSON, answer.to_string().into_bytes()));
    }
    let oid = request.target.strip_prefix("/content/")?;
    assert_eq!(request.headers["x-ticket"], oid, "the action's header is sent");
    let mut bytes = find(oid).unwrap();
    if fault.oid == oid {
        match fault.kind {
            "long" => bytes.push(0),
            "short" => drop(bytes.pop()),
            "other" => bytes[0] ^= 1,
            "gone" => return Some((403, "text/plain", Vec::new())),
            _ => {}
        }
    }
    Some((200, "application/octet-stream", bytes))
}

impl Depot {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("host");
        let lib = Repository::init(&root.join("lib.git"));
        with_lfs(&lib);
        lib.write("lfs-lib.yaml", config_map("lib"));
        lib.commit("Lib");
        let shop = Repository::init(&root.join("shop.git"));
        with_lfs(&shop);
        shop.write("shop.yaml", config_map("shop"));
        shop.write("deploy/lfs-data.yaml", config_map("data"));
        shop.write("copy/lfs-data.yaml", config_map("data"));
        shop.write("large.bin", large());
        shop.write("empty.bin", "");
        // More than one request may name.
        for n in 0..120 {
            shop.write(&format!("many/{n:03}.bin"), format!("number {n}"));
        }
        shop.git(&["submodule", "--quiet", "add", "../lib.git", "vendor/lib"]);
        shop.write(
            "fleetpack.yaml",
            "apiVersion: fleetpack.dev/v1\nkind: Release\nmetadata: {name: shop}\nsources:\n- path: shop.yaml\n- path: deploy\n- path: vendor/lib\n",
        );
        shop.commit("Shop");
        let host = GitHost::new(&root);
        let fault = Arc::new(Mutex::new(Fault::default()));
        let (told, endpoint) = (Arc::clone(&fault), host.endpoint.clone());
        let folders = [root.join("shop.git"), root.join("lib.git")];
        host.route(move |request| answer(&folders, &endpoint, &told.lock().unwrap().clone(), request));
        let depot = Self { folder, host, shop, fault };
        run(depot.fleetpack(&["keygen", "--output-key-prefix", "release"])).ok();
        depot
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn fleetpack(&self, arguments: &[&str]) -> &mut Command {
        // Each command lives as long as the test; there are few.
        let command = Box::leak(Box::new(fleetpack(self.path())));
        command.current_dir(self.path()).args(arguments)
    }

    fn build(&self, place: &str, output: &str) -> Ended {
        run(self.fleetpack(&["build", place, "-o", output, "--key", "release.key"]))
    }

    fn release(&self, archive: &str) -> Value {
        let arguments = ["verify", archive, "--key", "release.pub", "--format", "json"];
        run(self.fleetpack(&arguments)).ok().json()["release"].clone()
    }

    fn clone(&self, name: &str) -> String {
        let to = self.path().join(name);
        run(program("git", self.path()).args(["clone", "--quiet", &self.host.url("shop.git")]).arg(&to)).ok();
        to.to_str().unwrap().to_owned()
    }
}

#[test]
fn objects_travel_whether_they_are_in_the_clone_or_on_the_server() {
    let depot = Depot::new();
    let url = depot.host.url("shop.git");
    let data = oid(&depot.shop, "deploy/lfs-data.yaml");
    let big = oid(&depot.shop, "large.bin");
    depot.build(&url, "remote.tar").ok();
    let requests: Vec<String> = depot.host.requests().into_iter().map(|(line, _)| line).collect();
    let count = |line: &str| requests.iter().filter(|found| found.as_str() == line).count();
    assert_eq!(count(&format!("GET /content/{big}")), 1, "a large object comes once");
    assert_eq!(count(&format!("GET /content/{data}")), 1, "and so does a small one");
    assert_eq!(count("POST /lib.git/info/lfs/objects/batch"), 1, "a submodule has a server of its own");

    // From where all objects are, nobody is asked.
    depot.build(depot.shop.path.to_str().unwrap(), "local.tar").ok();
    assert_eq!(depot.host.requests(), []);
    let release = depot.release("remote.tar");
    assert!(release.is_string());
    assert_eq!(depot.release("local.tar"), release);
    // A clone without objects, with a login that git's helper has.
    let plain = depot.clone("plain");
    depot.host.login("ci", "secret");
    depot.build(&plain, "x.tar").refused(4, &["vendor/lib"]);
    let mut helped = fleetpack(depot.path());
    helped
        .current_dir(depot.path())
        .args(["build", &plain, "-o", "plain.tar", "--key", "release.key"])
        .env("XDG_CACHE_HOME", depot.path().join("other-cache"))
        .envs([("GIT_CONFIG_COUNT", "1"), ("GIT_CONFIG_KEY_0", "credential.helper")])
        .env("GIT_CONFIG_VALUE_0", "!f() { echo username=ci; echo password=secret; }; f");
    run(&mut helped).ok();
    assert_eq!(depot.release("plain.tar"), release);
    // And with one in the URL.
    depot.build(&depot.host.url_with("ci:secret", "shop.git"), "login.tar").ok();
    assert_eq!(depot.release("login.tar"), release);

    let listed = run(depot.fleetpack(&["inspect", "remote.tar", "git"])).ok().stdout;
    for part in [
        format!("lfs sha256:{data}"),
        "  copy/lfs-data.yaml\n  deploy/lfs-data.yaml".to_owned(),
        format!("lfs sha256:{big}  {} bytes\n  large.bin", 17 << 20),
        "\n  vendor/lib/lfs-lib.yaml".to_owned(),
    ] {
        assert!(listed.contains(&part), "{listed}\nwanted {part}");
    }
    let document = run(depot.fleetpack(&["inspect", "remote.tar", "--format", "json"])).ok().stdout;
    assert!(document.contains("git-lfs") && document.contains("git-submodules"));
    let objects = run(depot.fleetpack(&["inspect", "remote.tar", "objects"])).ok().stdout;
    for part in ["deploy/lfs-data.yaml", "vendor/lib/lfs-lib.yaml", "shop.yaml"] {
        assert!(objects.contains(part), "{objects}");
    }
    // The archive's bytes are the files'.
    let serve = ["serve", "--listen", "127.0.0.1:0", "--store", "store"];
    let _serving = Server::start(depot.fleetpack(&serve), &depot.path().join("serve.log"));
    let seed = ["apply", "remote.tar", "--key", "release.pub", "--store", "store", "--seed-only"];
    run(depot.fleetpack(&seed)).ok();
    let blob = |oid: &str| std::fs::read(depot.path().join("store/blobs/sha256").join(oid)).unwrap();
    assert_eq!(blob(&data), config_map("data").into_bytes());
    assert!(blob(&big) == large());
    assert_eq!(blob(&oid(&depot.shop, "many/119.bin")), b"number 119");
    // Written out again it is the same archive.
    run(depot.fleetpack(&["export", "active", "--store", "store", "-o", "out.tar"])).ok();
    let bytes = |name: &str| std::fs::read(depot.path().join(name)).unwrap();
    assert!(bytes("out.tar") == bytes("remote.tar"));
}

#[test]
fn an_object_that_cannot_be_had_is_refused_by_name() {
    let depot = Depot::new();
    let url = depot.host.url("shop.git");
    let (data, big) = (oid(&depot.shop, "deploy/lfs-data.yaml"), oid(&depot.shop, "large.bin"));
    for (kind, about, path, said) in [
        ("missing", &data, "copy/lfs-data.yaml", "not here"),
        ("unsaid", &data, "copy/lfs-data.yaml", "says nothing of it"),
        ("file", &big, "large.bin", "no HTTP URL"),
        ("gone", &data, "copy/lfs-data.yaml", "answers 403"),
        ("long", &data, "copy/lfs-data.yaml", "goes on after"),
        ("short", &data, "copy/lfs-data.yaml", "ends after"),
        ("other", &data, "copy/lfs-data.yaml", "what came has digest"),
        ("long", &big, "large.bin", "goes on after"),
        ("short", &big, "large.bin", "ends after"),
        ("other", &big, "large.bin", "sha256:"),
        ("404", &big, "large.bin", "answers 404: no such repository"),
        ("401", &big, "large.bin", "wants a login"),
        ("500", &big, "large.bin", "answers 500"),
        ("garbage", &big, "large.bin", "something else than Git LFS"),
        ("other transfer", &big, "large.bin", "wants transfer `tus`"),
    ] {
        *depot.fault.lock().unwrap() = Fault { oid: about.clone(), kind };
        let parts = [path, about.as_str(), said, "git lfs fetch --all"];
        depot.build(&url, "x.tar").refused(4, &parts);
        assert!(!depot.path().join("x.tar").exists(), "{kind}");
    }
    // All of them at once, from two servers.
    *depot.fault.lock().unwrap() = Fault { oid: String::new(), kind: "404" };
    let said = depot.build(&url, "x.tar").refused(4, &["vendor/lib/lfs-lib.yaml", "many/119.bin"]);
    assert!(said.stderr.contains("123 objects of Git LFS cannot be had"), "{}", said.stderr);
    *depot.fault.lock().unwrap() = Fault::default();

    // Another server, which the revision names.
    let plain = depot.clone("plain");
    depot.host.requests();
    depot.shop.write(".lfsconfig", format!("[lfs]\n\turl = {}/elsewhere\n", depot.host.endpoint));
    depot.shop.commit("Elsewhere");
    depot.build(&url, "elsewhere.tar").ok();
    let requests = depot.host.requests();
    assert!(requests.iter().any(|(line, _)| line == "POST /elsewhere/objects/batch"), "{requests:?}");
    assert!(requests.iter().all(|(line, _)| !line.starts_with("POST /shop.git/info/lfs")), "{requests:?}");

    // What lies in the clone is not believed.
    let local = depot.shop.path.to_str().unwrap();
    let file = object(&depot.shop.path, &data);
    let good = std::fs::read(&file).unwrap();
    let write = |bytes: &[u8]| {
        // git-lfs makes them read-only.
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, bytes).unwrap();
    };
    write(&good.iter().map(|byte| byte ^ 1).collect::<Vec<_>>());
    depot.build(local, "x.tar").refused(4, &["copy/lfs-data.yaml", &data, "has digest"]);
    write(&good[1..]);
    depot.shop.git(&["rm", "--quiet", ".lfsconfig"]);
    depot.shop.commit("Nowhere");
    depot.build(local, "x.tar").refused(4, &["copy/lfs-data.yaml", "git lfs fetch --all"]);
    write(&good);
    // A remote that is spoken to by ssh is not asked.
    let git =
        |arguments: &[&str]| run(program("git", depot.path()).args(["-C", &plain]).args(arguments)).ok();
    git(&["submodule", "--quiet", "update", "--init"]);
    git(&["remote", "set-url", "origin", "git@git.example.com:shop.git"]);
    depot.build(&plain, "x.tar").refused(4, &["large.bin", "not spoken to over HTTP", "git lfs fetch"]);
}

#[test]
fn pointers_that_are_none_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let repository = Repository::init(&folder.path().join("shop"));
    repository.write("shop.yaml", config_map("shop"));
    let build = || {
        let mut command = fleetpack(folder.path());
        run(command.current_dir(folder.path()).args(["build", "shop", "-o", "x.tar"]))
    };
    let version = "version https://git-lfs.github.com/spec/v1\n";
    let zero = "0".repeat(64);
    for (pointer, said) in [
        (format!("{version}oid sha256:00\nsize 1\n"), "is not a digest"),
        (
            format!("{version}ext-0-crypt sha256:{zero}\noid sha256:{zero}\nsize 1\n"),
            "extension `ext-0-crypt`",
        ),
        (format!("{version}oid sha256:{zero}\n"), "wanted `oid` and `size`"),
    ] {
        repository.write("a.bin", pointer);
        repository.commit("bad");
        build().refused(4, &["`a.bin`", "Git LFS pointer", said]);
    }
    // A configuration is read from Git alone, and two sizes of one object are none.
    for (path, size) in [("a.bin", 1), ("b.bin", 2)] {
        repository.write(path, format!("{version}oid sha256:{zero}\nsize {size}\n"));
    }
    repository.commit("two sizes");
    build().refused(4, &["`b.bin`", "it says 2 bytes, and `a.bin` 1"]);
    // Longer than any pointer, or with another beginning: a file like others.
    repository.write("a.bin", format!("{version}{}", "x".repeat(1024)));
    repository.write("b.bin", format!("# {version}"));
    repository.commit("plain");
    build().ok();
}
