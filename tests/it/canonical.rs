//! Same inputs, same bytes; `build --compare`, which proves it; `build --reuse`, which needs no download.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use fleetpack::archive::{ArchiveFile, Source, read_head, stream};
use fleetpack::fsio::Hasher;
use fleetpack::model::progress::Silent;
use fleetpack::model::{Digest, media_type};
use fleetpack::store::Store;
use rustix::process::geteuid;
use serde_json::Value;

use crate::support::clock::Clock;
use crate::support::command::{Ended, program, run};
use crate::support::shop::Shop;
use crate::support::testbed::testbed;

/// Twenty years.
const YEARS: i64 = 20 * 365 * 86_400;

/// A shop with a history that is worth packing in several ways.
fn shop(folder: &Path) -> Shop {
    let shop = Shop::new(folder);
    for n in 0..120_u32 {
        let line = |k: u32| format!("setting-{k}: {}\n", (n / 7 + k) * 7919 % 10_007);
        shop.repository.write(&format!("notes/{}.txt", n % 9), (0..300).map(line).collect::<String>());
        shop.repository.commit(&format!("note {n}"));
    }
    shop.repository.git(&["tag", "-a", "-m", "Shop 3", "v3"]);
    shop
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let mut command = program("git", folder);
    command.current_dir(folder).args(["-c", "protocol.file.allow=always", "-c", "safe.directory=*"]);
    run(command.args(arguments)).ok().stdout
}

fn clone(shop: &Shop, path: &Path, more: &[&str]) {
    let origin = format!("file://{}", shop.repository.path.display());
    let mut arguments = vec!["clone", "--quiet"];
    arguments.extend_from_slice(more);
    arguments.extend_from_slice(&[&origin, path.to_str().unwrap()]);
    git(&shop.folder, &arguments);
}

/// Every object in a file of its own.
fn unpack(clone: &Path) {
    let packs = clone.join(".git/objects/pack");
    let moved = clone.join(".git/moved");
    fs::rename(&packs, &moved).unwrap();
    fs::create_dir(&packs).unwrap();
    for entry in fs::read_dir(&moved).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "pack") {
            let mut command = program("git", clone);
            command.current_dir(clone).args(["unpack-objects", "-q"]).stdin(File::open(&path).unwrap());
            run(&mut command).ok();
        }
    }
    fs::remove_dir_all(&moved).unwrap();
}

fn count(clone: &Path, what: &str) -> u64 {
    let found = git(clone, &["count-objects", "-v"]);
    found.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(": ")?.parse().ok()).unwrap()
}

/// The one pack of a clone.
fn pack(clone: &Path) -> Digest {
    let entries = fs::read_dir(clone.join(".git/objects/pack")).unwrap();
    let mut packs = entries.map(|entry| entry.unwrap().path());
    digest(&packs.find(|path| path.extension().is_some_and(|extension| extension == "pack")).unwrap())
}

fn digest(path: &Path) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(&fs::read(path).unwrap());
    hasher.finish()
}

/// The program and kustomize where every user may run them, and a clock that is wrong.
struct Machine {
    bin: PathBuf,
    clock: Clock,
}

impl Machine {
    fn new(folder: &Path) -> Self {
        let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        open(folder);
        let bin = folder.join("bin");
        fs::create_dir(&bin).unwrap();
        let tools = testbed(&["peers"]).join("bin");
        for (name, from) in [
            ("fleetpack", PathBuf::from(env!("CARGO_BIN_EXE_fleetpack"))),
            ("kustomize", tools.join("kustomize")),
        ] {
            fs::copy(from, bin.join(name)).unwrap();
            open(&bin.join(name));
        }
        let clock = Clock::new(folder);
        open(clock.library());
        Self { bin, clock }
    }

    /// `fleetpack` as another user with another mask, clock, zone and language would run it. Without
    /// root the user stays the same.
    fn elsewhere(&self, shop: &Shop, folder: &Path) -> Command {
        let mut command = program("sh", folder);
        command.args(["-c", "umask 077; exec \"$@\"", "sh"]);
        if geteuid().is_root() {
            run(program("chown", folder).args(["-R", "65534:65534"]).arg(folder)).ok();
            command.args(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
        }
        let path = format!("{}:{}", self.bin.display(), std::env::var("PATH").unwrap());
        command
            .current_dir(folder)
            .env("PATH", path)
            .env("TZ", "Pacific/Kiritimati")
            .env("LC_ALL", "tr_TR.UTF-8")
            .env("LANG", "tr_TR.UTF-8")
            .env("CONTAINERS_REGISTRIES_CONF", shop.folder.join("registries.conf"));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        self.clock.set(&mut command, i64::try_from(now).unwrap() + YEARS);
        command
    }
}

#[test]
fn clones_packed_otherwise_on_other_machines_give_one_archive() {
    let folder = tempfile::tempdir().unwrap();
    let shop = shop(folder.path());
    let machine = Machine::new(folder.path());
    let here = folder.path().join("here");
    let there = folder.path().join("a longer way/there");
    fs::create_dir_all(&here).unwrap();
    fs::create_dir_all(&there).unwrap();

    let fresh = here.join("shop");
    clone(&shop, &fresh, &[]);
    let loose = there.join("loose");
    clone(&shop, &loose, &[]);
    unpack(&loose);
    let deep = there.join("deep");
    clone(&shop, &deep, &[]);
    git(&deep, &["repack", "-q", "-a", "-d", "-f", "--depth=250", "--window=50"]);
    // Objects borrowed from another repository, behind every index that git can lay over them.
    let borrowed = here.join("borrowed");
    clone(&shop, &borrowed, &["--shared"]);
    fs::write(borrowed.join("more"), "more").unwrap();
    git(&borrowed, &["repack", "-q", "-a", "-d"]);
    git(&borrowed, &["commit-graph", "write", "--reachable"]);
    git(&borrowed, &["multi-pack-index", "write"]);
    assert_eq!(count(&fresh, "count"), 0);
    assert_eq!(count(&loose, "in-pack"), 0);
    assert!(count(&loose, "count") > 300);
    assert_ne!(pack(&deep), pack(&fresh), "packed otherwise");

    let arguments = |name: &'static str, clone: &Path| {
        let clone = clone.to_str().unwrap().to_owned();
        ["build".into(), clone, "--revision".into(), "v3".into(), "-o".into(), name.into()] as [String; 6]
    };
    run(shop.fleetpack().args(arguments("first.tar", &fresh))).ok();
    let first = folder.path().join("first.tar");
    let wanted = digest(&first);
    run(shop.fleetpack().args(arguments("borrowed.tar", &borrowed)).env("TZ", "America/New_York")).ok();
    assert_eq!(digest(&folder.path().join("borrowed.tar")), wanted, "with alternates");
    for clone in [&loose, &deep] {
        let archive = there.join("out.tar");
        let mut command = machine.elsewhere(&shop, &there);
        command.arg("fleetpack").args(arguments("out.tar", clone));
        run(&mut command).ok();
        assert_eq!(digest(&archive), wanted, "{}", clone.display());
        fs::remove_file(&archive).unwrap();
    }
    // What was different was different.
    let mut command = machine.elsewhere(&shop, &there);
    let told = run(command.args(["sh", "-c", "umask; id -u; date +%Y; date +%z"])).ok().stdout;
    let told: Vec<&str> = told.lines().collect();
    let year: u32 = run(program("date", folder.path()).arg("+%Y")).ok().stdout.trim().parse().unwrap();
    assert!(told[2].parse::<u32>().unwrap() >= year + 19, "{told:?}");
    assert_eq!([told[0], told[3]], ["0077", "+1400"]);
    assert!(!geteuid().is_root() || told[1] == "65534", "{told:?}");

    // The comparison says so, from any of them.
    for clone in [&fresh, &loose, &deep, &borrowed] {
        let mut command = machine.elsewhere(&shop, &there);
        command.arg("fleetpack").args(["build", "--format", "json", "--revision", "v3"]).arg(clone);
        let found = run(command.arg("--compare").arg(&first)).ok().json();
        assert_eq!(found["identical"], true, "{found}");
    }
    assert_eq!(fs::read_dir(&there).unwrap().count(), 2, "the clones, and nothing was written");
}

fn compare(shop: &Shop, archive: &str, arguments: &[&str]) -> Ended {
    run(shop.fleetpack().args(["build", "shop", "--compare", archive]).args(arguments))
}

fn differences(shop: &Shop, archive: &str, arguments: &[&str]) -> Vec<Value> {
    let mut all = vec!["--format", "json"];
    all.extend_from_slice(arguments);
    let ended = compare(shop, archive, &all).refused(3, &[]);
    let found = ended.json();
    assert_eq!(found["identical"], false, "{found}");
    found["differences"].as_array().unwrap().clone()
}

#[test]
fn a_comparison_names_what_differs() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::new(folder.path());
    run(shop.fleetpack().args(["build", "shop", "--revision", "v1", "-o", "v1.tar", "--key", "release.key"]))
        .ok();
    let same = compare(&shop, "v1.tar", &["--revision", "v1"]).ok();
    assert!(same.stdout.starts_with("identical: commit "), "{}", same.stdout);
    assert!(same.stdout.contains("1 signatures"), "{}", same.stdout);
    let mut piped = shop.fleetpack();
    piped.args(["build", "shop", "--revision", "v1", "--compare", "-"]);
    run(piped.stdin(File::open(folder.path().join("v1.tar")).unwrap())).ok();

    // Another commit, and what follows from it, down to the field of an object.
    let found = differences(&shop, "v1.tar", &["--revision", "v2"]);
    assert_eq!(found[0]["what"], "commit");
    assert_eq!(found[0]["hint"], "compare with the revision that was built: `--revision v1`");
    let whats: Vec<&str> = found.iter().map(|one| one["what"].as_str().unwrap()).collect();
    for wanted in [
        "version",
        "sequence",
        "reference `refs/tags/v1`",
        "object `ConfigMap shop/shop` (v1), field `data.greeting`",
        "object `Deployment shop/web` (apps/v1), field `spec.template.spec.containers[0].image`",
        "image `registry.example.com/shop/web:1.0`",
        "image `registry.example.com/shop/web:2.0`",
    ] {
        assert!(whats.contains(&wanted), "{wanted} is not in {whats:#?}");
    }
    let text = compare(&shop, "v1.tar", &["--revision", "v2"]).refused(3, &[]).stdout;
    assert!(text.starts_with("different: the revision does not give v1.tar\n  first     commit: "), "{text}");

    // What the command line decides.
    run(shop.fleetpack().args(["build", "shop", "--revision", "v1", "-o", "options.tar"]).args([
        "--sequence",
        "9",
        "--platform",
        "linux/amd64",
        "--image",
        "registry.example.com/shop/web:2.0",
    ]))
    .ok();
    let found = differences(&shop, "options.tar", &["--revision", "v1"]);
    let hints: Vec<&str> = found.iter().filter_map(|one| one["hint"].as_str()).collect();
    for wanted in ["--sequence 9", "--platform linux/amd64", "--image registry.example.com/shop/web:2.0"] {
        assert!(hints.iter().any(|hint| hint.contains(wanted)), "{wanted}: {hints:#?}");
    }
    let same = ["--revision", "v1", "--sequence", "9", "--platform", "linux/amd64", "--image"];
    compare(&shop, "options.tar", &[&same[..], &["registry.example.com/shop/web:2.0"]].concat()).ok();

    // An image whose tag has moved.
    shop.registry.image("registry.example.com/shop/init:1.0", &["--file", "etc/part=moved"]);
    let found = differences(&shop, "v1.tar", &["--revision", "v1"]);
    assert_eq!(found[0]["what"], "image `registry.example.com/shop/init:1.0`");
    let old = &shop.images.iter().find(|(name, _)| name.ends_with("init:1.0")).unwrap().1;
    assert_eq!(found[0]["archive"], **old);

    // An archive that is not what it says is no archive to compare with.
    let mut bytes = fs::read(folder.path().join("v1.tar")).unwrap();
    let at = bytes.len() - 5_000;
    bytes[at] ^= 1;
    fs::write(folder.path().join("damaged.tar"), bytes).unwrap();
    let refused = compare(&shop, "damaged.tar", &["--revision", "v1"]).refused(3, &["`damaged.tar`"]);
    assert_eq!(refused.stdout, "");
    compare(&shop, "absent.tar", &[]).refused(1, &["`absent.tar`"]);
    compare(&shop, "v1.tar", &["--output", "x.tar"]).refused(2, &["--output"]);
}

/// Offset and size of the largest layer of an archive, and its digest.
fn largest_layer(path: &Path) -> (u64, u64, Digest) {
    let (archive, head) = ArchiveFile::open(path).unwrap();
    let release = head.parse().unwrap();
    let members = archive.members(&release).unwrap();
    let layers = release.document.blobs.iter().filter(|blob| blob.media_type.contains("layer"));
    let layer =
        layers.filter(|blob| blob.media_type != media_type::GIT_BUNDLE).max_by_key(|blob| blob.size).unwrap();
    let (offset, size) = members.range_of(layer.digest).unwrap();
    (offset, size, layer.digest)
}

#[test]
fn blobs_that_are_here_are_not_downloaded() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::new(folder.path());
    let build = |revision: &str, name: &str, more: &[&str]| {
        let mut command = shop.fleetpack();
        command.args(["build", "shop", "--format", "json", "--revision", revision, "-o", name]).args(more);
        run(&mut command)
    };
    let cold = build("v1", "v1.tar", &[]).ok().json();
    assert_eq!((&cold["reused"], &cold["reusedBytes"]), (&Value::from(0), &Value::from(0)));
    let all = cold["fetched"].as_u64().unwrap();
    assert!(all > 0);
    let wanted = digest(&folder.path().join("v1.tar"));

    let warm = build("v1", "warm.tar", &["--reuse", "v1.tar"]).ok().json();
    assert_eq!((warm["fetched"].as_u64(), warm["reused"].as_u64()), (Some(0), Some(all)), "{warm}");
    assert_eq!(digest(&folder.path().join("warm.tar")), wanted);

    // What is new comes from the registry.
    build("v2", "cold2.tar", &[]).ok();
    let mixed = build("v2", "warm2.tar", &["--reuse", "v1.tar"]).ok().json();
    assert!(mixed["fetched"].as_u64().unwrap() > 0 && mixed["reused"].as_u64().unwrap() > 0, "{mixed}");
    assert_eq!(digest(&folder.path().join("warm2.tar")), digest(&folder.path().join("cold2.tar")));
    let both = build("v2", "both.tar", &["--reuse", "v1.tar", "--reuse", "cold2.tar"]).ok().json();
    assert_eq!(both["fetched"], 0, "{both}");

    // A damaged blob is told and fetched; the archive is none the worse.
    let (offset, size, layer) = largest_layer(&folder.path().join("v1.tar"));
    fs::copy(folder.path().join("v1.tar"), folder.path().join("damaged.tar")).unwrap();
    let damaged = File::options().write(true).open(folder.path().join("damaged.tar")).unwrap();
    damaged.write_all_at(b"not what it was", offset + size / 2).unwrap();
    let healed = build("v1", "healed.tar", &["--reuse", "damaged.tar"]).ok();
    let warning = format!("cannot reuse blob `{layer}` from `damaged.tar`, so it is fetched");
    assert!(healed.stderr.contains(&warning), "{}", healed.stderr);
    assert_eq!(healed.json()["fetched"], 1);
    assert_eq!(digest(&folder.path().join("healed.tar")), wanted);
    // The next place that has it is asked before the registry.
    let second = build("v1", "second.tar", &["--reuse", "damaged.tar,v1.tar"]).ok();
    assert!(second.stderr.contains(&warning), "{}", second.stderr);
    assert_eq!(second.json()["fetched"], 0);

    // A store is read while somebody else writes into it.
    let writer = Store::open_or_create(&folder.path().join("store"), "test").unwrap();
    let ingest = writer.ingest();
    let mut source = Source::open(&folder.path().join("v1.tar")).unwrap();
    let release = read_head(&mut source).unwrap().parse().unwrap();
    stream(source, &release, &ingest, &Silent).unwrap();
    ingest.finish().unwrap();
    let stored = build("v1", "stored.tar", &["--reuse", "store"]).ok().json();
    assert_eq!(stored["fetched"], 0, "{stored}");
    assert_eq!(digest(&folder.path().join("stored.tar")), wanted);

    // The registry has lost a layer: without the archive there is no build, with it there is.
    let hex = layer.hex();
    let data =
        folder.path().join(format!("registry/data/docker/registry/v2/blobs/sha256/{}/{hex}", &hex[..2]));
    assert!(data.exists(), "{}", data.display());
    fs::remove_dir_all(&data).unwrap();
    build("v1", "lost.tar", &[]).refused(4, &[]);
    build("v1", "kept.tar", &["--reuse", "v1.tar"]).ok();
    assert_eq!(digest(&folder.path().join("kept.tar")), wanted);

    // What is no archive and no store is refused before anything is asked for.
    let mut other = File::create(folder.path().join("other.tar")).unwrap();
    other.write_all(b"not an archive").unwrap();
    build("v1", "x.tar", &["--reuse", "other.tar"]).refused(3, &["`other.tar`"]);
    build("v1", "x.tar", &["--reuse", "absent.tar"]).refused(1, &["`absent.tar`"]);
    build("v1", "x.tar", &["--reuse", "shop"]).refused(1, &["shop"]);
    assert!(!folder.path().join("x.tar").exists());
}
