//! The care of a store: scrubbing it, mending it, collecting what nobody needs, writing archives out.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::command::{Ended, run};
use crate::support::depot::{Depot, Server};
use crate::support::testbed::script;

/// A depot whose releases are seeded: no cluster has a part in this.
fn depot(folder: &Path, name: &str) -> Depot {
    Depot::new(folder, name, Path::new("/none"))
}

fn seed(depot: &Depot, archive: &Path) {
    depot.apply(archive, &["--seed-only"]).ok();
}

/// Every file below `folder` with its content; links with where they lead.
fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(folder).unwrap().to_owned();
            if path.is_symlink() {
                files.insert(name, fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes());
            } else if path.is_dir() {
                open.push(path);
            } else {
                files.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    files.retain(|name, _| !name.starts_with("quarantine") && name != Path::new("lock"));
    files
}

fn copy(from: &Path, to: &Path) {
    run(std::process::Command::new("cp").arg("-a").arg(from).arg(to)).ok();
}

fn scrub(depot: &Depot, store: &Path, more: &[&str]) -> Ended {
    let mut command = depot.fleetpack();
    run(command.args(["scrub", "--format", "json", "--store"]).arg(store).args(more))
}

/// The problems of a report: file, and whether it is whole again.
fn problems(report: &serde_json::Value) -> Vec<(String, bool)> {
    let problem = |p: &serde_json::Value| (p["file"].as_str().unwrap().to_owned(), p["mended"].is_string());
    report["problems"].as_array().unwrap().iter().map(problem).collect()
}

/// Turns one bit of a file around.
fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 4;
    let mut rights = fs::metadata(path).unwrap().permissions();
    #[expect(clippy::permissions_set_readonly_false, reason = "a test's own file")]
    rights.set_readonly(false);
    fs::set_permissions(path, rights).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_flipped_byte_in_any_file_is_found_named_and_mended() {
    let folder = tempfile::tempdir().unwrap();
    let mut depot = depot(folder.path(), "depot-flip");
    let one = depot.build("1", "");
    seed(&depot, &one);
    let two = depot.build("2", "");
    seed(&depot, &two);
    depot.silence();
    let store = folder.path().join("store");
    // A file that serve leaves behind when it is killed.
    fs::write(store.join("serve.json"), "{\"format\":1,\"endpoint\":\"http://127.0.0.1:9\",\"pid\":1}\n")
        .unwrap();
    let whole = tree(&store);
    let report = scrub(&depot, &store, &[]).ok().json();
    assert_eq!((&report["whole"], problems(&report)), (&true.into(), Vec::new()), "{report}");
    assert_eq!(report["generations"].as_u64(), Some(2), "{report}");
    assert_eq!(tree(&store), whole, "a scrub of a whole store changes nothing");
    let text = depot.site(&["scrub"]).ok().stdout;
    assert!(text.ends_with("all whole\n"), "{text}");

    let mut kinds = std::collections::BTreeSet::new();
    for (name, content) in &whole {
        if name.is_absolute() || store.join(name).is_symlink() || content.is_empty() {
            continue;
        }
        let text = name.to_str().unwrap();
        // Room that is set aside: its bytes mean nothing.
        if text.starts_with("reserve/") {
            continue;
        }
        let copied = folder.path().join("copy");
        let _ = fs::remove_dir_all(&copied);
        copy(&store, &copied);
        // The first line of the ledger; elsewhere the middle.
        let at = match text {
            "ledger.jsonl" => 30,
            // Where it is served is known to nobody else: what can be seen is that it is no record.
            "serve.json" => 0,
            _ => content.len() / 2,
        };
        flip(&copied.join(name), at);
        let generation = text.strip_prefix("git/depot-flip/").map(|rest| &rest[..32]);
        let named = generation.map_or_else(|| text.to_owned(), |id| format!("git/depot-flip/{id}"));
        kinds.insert(text.split('/').next().unwrap().to_owned());
        if text == "fleetpack-store.json" {
            let mut command = depot.fleetpack();
            let ended = run(command.args(["scrub", "--store"]).arg(&copied));
            ended.refused(1, &["fleetpack-store.json", "is damaged"]);
            continue;
        }
        // A pack that both generations hold is one file.
        let first = scrub(&depot, &copied, &[]);
        let report = first.json();
        let found = problems(&report);
        assert!(found.iter().any(|(file, _)| *file == named), "{text}: {report}");
        let is_blob = text.starts_with("blobs/");
        if is_blob {
            let problem = &report["problems"][0];
            assert!(!problem["neededBy"].as_array().unwrap().is_empty(), "{report}");
            let moved = copied.join(problem["quarantined"].as_str().unwrap());
            let mended = problem["mended"].is_string();
            assert!(moved.is_file() && copied.join(name).exists() == mended, "{report}");
        }
        // What follows from the rest of the store is mended at once; a blob wants an archive, but for
        // those that follow from another one.
        let open: Vec<_> = found.iter().filter(|(_, mended)| !mended).collect();
        assert_eq!(first.code, if open.is_empty() { 0 } else { 4 }, "{text}: {report}");
        assert!(open.iter().all(|(file, _)| file.starts_with("blobs/")), "{text}: {report}");
        assert!(is_blob || open.is_empty(), "{text}: {report}");
        let archives = [one.to_str().unwrap(), two.to_str().unwrap()];
        let repair = ["--repair", archives[0], "--repair", archives[1]];
        let report = scrub(&depot, &copied, &repair).ok().json();
        assert_eq!(report["whole"], true, "{text}: {report}");
        let report = scrub(&depot, &copied, &[]).ok().json();
        assert_eq!(problems(&report), Vec::new(), "{text}");
        let mut now = tree(&copied);
        if text == "serve.json" {
            now.insert(name.clone(), content.clone());
        }
        if text.starts_with("releases/") {
            // Made anew: when the release came in is the one thing that nothing else says.
            let signatures = |bytes: &[u8]| {
                serde_json::from_slice::<serde_json::Value>(bytes).map(|record| record["signatures"].clone())
            };
            assert_eq!(signatures(&now[name]).unwrap(), signatures(content).unwrap(), "{text}");
            now.insert(name.clone(), content.clone());
        }
        // The generation before the one in use is for those who read from it; nothing makes it anew.
        let in_use = String::from_utf8(whole[Path::new("git/depot-flip.git")].clone()).unwrap();
        let used = |name: &&PathBuf| {
            let name = name.to_str().unwrap();
            name.strip_prefix("git/").is_none_or(|rest| rest.starts_with(&in_use) || !rest.contains('/'))
        };
        for name in whole.keys().filter(used) {
            assert!(now.get(name) == whole.get(name), "{text}: `{}` is not what it was", name.display());
        }
        assert_eq!(now.keys().filter(used).count(), whole.keys().filter(used).count(), "{text}");
    }
    let kinds: Vec<_> = kinds.iter().map(String::as_str).collect();
    let want = [
        "blobs",
        "fleetpack-store.json",
        "git",
        "index.json",
        "ledger.jsonl",
        "oci-layout",
        "releases",
        "serve.json",
    ];
    assert_eq!(kinds, want);
}

/// The store of a depot as `status` sees it: versions that are kept, and whether all are complete.
fn kept(depot: &Depot, store: &str) -> (Vec<String>, bool) {
    let mut command = depot.fleetpack();
    let status = run(command.args(["status", "--offline", "--format", "json", "--store", store])).ok().json();
    let releases = status["releases"].as_array().unwrap();
    let versions = releases.iter().map(|release| release["version"].as_str().unwrap().to_owned()).collect();
    (versions, releases.iter().all(|release| release["complete"] == true))
}

fn blobs(store: &Path) -> usize {
    fs::read_dir(store.join("blobs/sha256")).unwrap().count()
}

#[test]
fn a_collection_says_what_goes_before_it_goes() {
    let folder = tempfile::tempdir().unwrap();
    let depot = depot(folder.path(), "depot-gc");
    let store = folder.path().join("store");
    for version in ["1", "2", "3"] {
        let archive = depot.build(version, "");
        depot.apply(&archive, &["--seed-only", "--keep", "9"]).ok();
    }
    fs::write(store.join("blobs/sha256").join("0".repeat(64)), "left over").unwrap();
    fs::create_dir(store.join("quarantine")).unwrap();
    fs::write(store.join("quarantine/blobs.sha256.1"), "damaged").unwrap();
    let before = tree(&store);
    let size = |files: &BTreeMap<PathBuf, Vec<u8>>| {
        let blobs = files.iter().filter(|(name, _)| name.starts_with("blobs"));
        blobs.map(|(_, content)| content.len() as u64).sum::<u64>()
    };
    let status = depot.site(&["status", "--offline", "--format", "json"]).ok().json();
    let plan = depot.site(&["gc", "--dry-run", "--format", "json"]).ok().json();
    assert_eq!(tree(&store), before, "a dry run changes nothing");
    assert_eq!(status["space"]["reclaimable"], plan["freed"], "{status}\n{plan}");
    assert_eq!(status["space"]["leftovers"].as_u64(), Some(9), "{status}");
    assert_eq!(status["space"]["quarantine"].as_u64(), Some(7), "{status}");
    let dropped = plan["dropped"].as_array().unwrap();
    assert_eq!((dropped.len(), &dropped[0]["version"]), (1, &"1".into()), "{plan}");
    let own = &status["space"]["releases"].as_array().unwrap().iter().find(|r| r["leaves"] == true).unwrap();
    assert_eq!(dropped[0]["bytes"], own["own"], "{status}\n{plan}");
    assert!(own["shared"].as_u64().unwrap() > 0, "the image: {status}");
    let text = depot.site(&["status", "--offline"]).ok().stdout;
    assert!(text.contains("`fleetpack gc` would free") && text.contains("depot-gc 1 ("), "{text}");

    let done = depot.site(&["gc", "--format", "json"]).ok().json();
    assert_eq!(done["dropped"], plan["dropped"], "{done}");
    assert!(!store.join("quarantine").exists());
    assert_eq!(kept(&depot, "store"), (vec!["2".to_owned(), "3".to_owned()], true));
    let freed = plan["dropped"][0]["bytes"].as_u64().unwrap() + 9;
    assert_eq!(size(&before) - size(&tree(&store)), freed);
    // The release that is served stays, whatever is asked for; there is nothing more to do then.
    let done = depot.site(&["gc", "--keep", "1", "--format", "json"]).ok().json();
    assert_eq!(done["dropped"][0]["version"], "2", "{done}");
    assert_eq!(done["kept"][0]["why"], serde_json::json!(["ran", "attempted", "newest"]), "{done}");
    let done = depot.site(&["gc", "--keep", "1", "--format", "json"]).ok().json();
    assert_eq!(
        (done["dropped"].as_array().unwrap().len(), &done["leftovers"]["files"]),
        (0, &0.into()),
        "{done}"
    );
    depot.site(&["gc", "--keep", "0"]).refused(2, &["0"]);
    // The clone has what is left, and the report of a scrub nothing to say.
    let url = format!("{}/git/depot-gc.git", endpoint(&store));
    let mut clone = crate::support::command::program("git", folder.path());
    run(clone.current_dir(folder.path()).args(["clone", "-q", &url, "clone"])).ok();
    assert_eq!(problems(&scrub(&depot, &store, &[]).ok().json()), Vec::new());
}

fn endpoint(store: &Path) -> String {
    let bytes = fs::read(store.join("serve.json")).unwrap();
    let served: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    served["endpoint"].as_str().unwrap().to_owned()
}

#[test]
fn what_is_being_sent_is_sent_to_its_end() {
    use std::io::{Read as _, Write as _};
    let folder = tempfile::tempdir().unwrap();
    let depot = depot(folder.path(), "depot-pull");
    let store = folder.path().join("store");
    // More than the buffers of a connection take, in the history of each release.
    depot.repository.write("noise", crate::support::served::noise(24 << 20));
    for version in ["1", "2", "3"] {
        let archive = depot.build(version, "");
        depot.apply(&archive, &["--seed-only", "--keep", "9"]).ok();
    }
    let bundle = fs::read_dir(store.join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().path());
    let of_first =
        depot.site(&["gc", "--dry-run", "--format", "json"]).ok().json()["dropped"][0]["release"].clone();
    let document = bundle.filter(|path| fs::metadata(path).unwrap().len() < 1 << 20).find_map(|path| {
        let text = fs::read_to_string(path).ok()?;
        let document: serde_json::Value = serde_json::from_str(&text).ok()?;
        (document["version"] == "1" && document["git"]["bundle"].is_string()).then_some(document)
    });
    let bundle = document.unwrap()["git"]["bundle"].as_str().unwrap().to_owned();
    let path = store.join("blobs/sha256").join(bundle.strip_prefix("sha256:").unwrap());
    let whole = fs::read(&path).unwrap();
    let host = endpoint(&store).strip_prefix("http://").unwrap().to_owned();
    let mut stream = std::net::TcpStream::connect(&host).unwrap();
    write!(
        stream,
        "GET /v2/fleetpack/depot-pull/blobs/{bundle} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = vec![0; 4096];
    stream.read_exact(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..200]));
    let done = depot.site(&["gc", "--format", "json"]).ok().json();
    assert_eq!(done["dropped"][0]["release"], of_first, "{done}");
    assert!(!path.exists());
    stream.read_to_end(&mut answer).unwrap();
    let head = answer.windows(4).position(|part| part == b"\r\n\r\n").unwrap() + 4;
    assert!(answer[head..] == whole, "{} bytes of {}", answer.len() - head, whole.len());
    // While another command writes, a collection and a scrub wait for their turn.
    let lock = fleetpack::fsio::FolderLock::take(&store, "test").unwrap();
    depot.site(&["gc"]).refused(7, &["held by another fleetpack"]);
    depot.site(&["scrub"]).refused(7, &["held by another fleetpack"]);
    drop(lock);
}

/// Runs `command`, killing it at step number `at` of those that make something durable; says how
/// many it passed.
fn killed_at(command: &mut std::process::Command, socket: &Path, at: usize) -> usize {
    use std::io::{BufRead as _, Write as _};
    let _ = fs::remove_file(socket);
    let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    let mut child = command
        .env("FLEETPACK_FAILPOINTS", socket)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let (stream, _) = listener.accept().unwrap();
    let mut lines = std::io::BufReader::new(stream);
    let mut steps = 0;
    for step in 0.. {
        let mut line = String::new();
        if lines.read_line(&mut line).unwrap() == 0 {
            break;
        }
        if step == at {
            child.kill().unwrap();
            child.wait().unwrap();
            return step;
        }
        steps += 1;
        writeln!(lines.get_mut(), "go").unwrap();
    }
    assert!(child.wait().unwrap().success());
    steps
}

#[test]
fn a_collection_that_was_killed_anywhere_leaves_a_whole_store() {
    let folder = tempfile::tempdir().unwrap();
    let mut depot = depot(folder.path(), "depot-kill");
    let store = folder.path().join("store");
    for version in ["1", "2", "3"] {
        let archive = depot.build(version, "");
        depot.apply(&archive, &["--seed-only", "--keep", "9"]).ok();
    }
    depot.silence();
    fs::create_dir(store.join("quarantine")).unwrap();
    fs::write(store.join("quarantine/x"), "damaged").unwrap();
    let copied = folder.path().join("copy");
    let socket = folder.path().join("socket");
    let gc = |keep: &str| {
        let mut command = depot.fleetpack();
        command.args(["gc", "--store", "copy", "--keep", keep]);
        command
    };
    copy(&store, &copied);
    let all = killed_at(&mut gc("1"), &socket, usize::MAX);
    assert!(all >= 10, "{all} steps");
    // Every step with `FLEETPACK_EVERY_STEP` set; else some of them, the first and the last among them.
    let some = all.div_ceil(8);
    let stride = if std::env::var_os("FLEETPACK_EVERY_STEP").is_some() { 1 } else { some };
    for steps in (0..all).step_by(stride).chain([all - 1]) {
        fs::remove_dir_all(&copied).unwrap();
        copy(&store, &copied);
        assert_eq!(killed_at(&mut gc("1"), &socket, steps), steps);
        let report = scrub(&depot, &copied, &[]).ok().json();
        assert_eq!(report["whole"], true, "step {steps}: {report}");
        run(&mut gc("1")).ok();
        assert_eq!(kept(&depot, "copy"), (vec!["3".to_owned()], true), "step {steps}");
        let after = blobs(&copied);
        let report = scrub(&depot, &copied, &[]).ok().json();
        assert_eq!(
            (report["whole"].clone(), report["blobs"].as_u64()),
            (true.into(), Some(after as u64)),
            "{report}"
        );
    }
}

fn sum(path: &Path) -> fleetpack::model::Digest {
    fleetpack::model::Digest::of(&fs::read(path).unwrap())
}

#[test]
fn what_a_killed_server_left_behind_is_removed_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let depot = depot(folder.path(), "depot-left");
    let one = depot.build("1", "");
    let temporary = folder.path().join("tmp");
    fs::create_dir(&temporary).unwrap();
    let serve = || {
        let mut command = depot.fleetpack();
        command.env("TMPDIR", &temporary).args(["serve", "--listen", "127.0.0.1:0", "--key", "release.pub"]);
        Server::start(command.arg("--archive").arg(&one), &folder.path().join("archive.log"))
    };
    let folders = || {
        let names = fs::read_dir(&temporary).unwrap().map(|entry| entry.unwrap().file_name());
        names.collect::<std::collections::BTreeSet<_>>()
    };
    // Dropping one kills it.
    drop(serve());
    let left = folders();
    assert_eq!(left.len(), 1);
    let second = serve();
    let now = folders();
    assert!(now.len() == 1 && now != left, "{left:?} {now:?}");
    let third = serve();
    assert!(folders().len() == 2 && folders().is_superset(&now), "what another uses stays");
    let mut clone = crate::support::command::program("git", folder.path());
    let url = format!("{}/git/depot-left.git", second.endpoint);
    run(clone.current_dir(folder.path()).args(["clone", "-q", &url, "clone"])).ok();
    for server in [second, third] {
        assert_eq!(server.stop().0, Some(0));
    }
    assert!(folders().is_empty());
}

#[test]
fn an_exported_archive_is_the_one_that_came_in() {
    let folder = tempfile::tempdir().unwrap();
    let depot = depot(folder.path(), "depot-out");
    let one = depot.build("1", "");
    seed(&depot, &one);
    let two = depot.build("2", "");
    // Signed a second time, by another key.
    let mut command = depot.fleetpack();
    run(command.args(["keygen", "--output-key-prefix", "second"])).ok();
    run(depot.fleetpack().args(["sign", "--key", "second.key"]).arg(&two)).ok();
    seed(&depot, &two);
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    let folder_text = out.to_str().unwrap();
    let report = depot.site(&["export", "1", "-o", folder_text, "--format", "json"]).ok().json();
    assert_eq!(report["signatures"].as_u64(), Some(1), "{report}");
    assert_eq!(sum(&out.join("depot-out-1.fleetpack.tar")), sum(&one));
    let report = depot.site(&["export", "active", "-o", folder_text, "--format", "json"]).ok().json();
    assert_eq!(report["signatures"].as_u64(), Some(2), "{report}");
    let second = out.join("depot-out-2.fleetpack.tar");
    assert_eq!(sum(&second), sum(&two));
    for (text, wanted) in
        [("previous", &one), ("depot-out:2", &two), (&report["release"].as_str().unwrap()[7..20], &two)]
    {
        let mut command = depot.fleetpack();
        let ended = command.args(["export", text, "-o", "-", "--store", "store"]).output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        assert_eq!(fleetpack::model::Digest::of(&ended.stdout), sum(wanted), "{text}");
    }
    // Another site takes it, by either key.
    for key in ["release.pub", "second.pub"] {
        run(depot.fleetpack().args(["verify", "--key", key]).arg(&second)).ok();
    }
    let mut command = depot.fleetpack();
    command.args(["apply", "--seed-only", "--key", "second.pub", "--store", "other", "--endpoint"]);
    // It has no server of its own: the gate asks the one of the first site, which has the release.
    run(command.arg(endpoint(&folder.path().join("store"))).arg(&second)).ok();
    assert_eq!(kept(&depot, "other"), (vec!["2".to_owned()], true));

    // A part of an index's platforms.
    let mut image = script("image");
    image.args([
        "make",
        "--name",
        "registry.example.com/depot/part:2",
        "--platform",
        "linux/amd64,linux/arm64",
    ]);
    run(image.args(["--file", "etc/part=many", "--oci"]).arg(folder.path().join("images"))).ok();
    let mut command = depot.fleetpack();
    command.args([
        "build",
        "repository",
        "--images-from",
        "oci:images",
        "--key",
        "release.key",
        "--name",
        "sparse",
    ]);
    command.args([
        "--image",
        "registry.example.com/depot/part:2",
        "--platform",
        "linux/amd64",
        "-o",
        "sparse.tar",
    ]);
    run(&mut command).ok();
    let sparse = folder.path().join("sparse.tar");
    seed(&depot, &sparse);
    depot.site(&["export", "active", "-o", "out"]).refused(2, &["several lines", "--name"]);
    depot.site(&["export", "active", "--name", "sparse", "-o", "out.tar"]).ok();
    assert_eq!(sum(&folder.path().join("out.tar")), sum(&sparse));

    // What is not whole is refused, with what is missing and what for; nothing is written.
    let store = folder.path().join("store");
    let layer = fs::read_dir(store.join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().path());
    let layer = layer.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    // The image is the same in both releases.
    let whole = fs::read(&layer).unwrap();
    flip(&layer, 1000);
    let refused = depot.site(&["export", "depot-out:2", "-o", "bad.tar"]);
    refused.refused(1, &["is damaged", "scrub --repair"]);
    fs::remove_file(&layer).unwrap();
    let refused = depot.site(&["export", "depot-out:2", "-o", "bad.tar"]);
    refused.refused(4, &["missing: `sha256:", "image registry.example.com/depot/part:1", "scrub --repair"]);
    let mut command = depot.fleetpack();
    let ended = command.args(["export", "depot-out:2", "-o", "-", "--store", "store"]).output().unwrap();
    assert_eq!((ended.status.code(), ended.stdout.len()), (Some(4), 0));
    assert!(!folder.path().join("bad.tar").exists());
    fs::write(&layer, whole).unwrap();
    depot.site(&["export", "9"]).refused(2, &["no release `9`"]);
    depot.site(&["export", "depot-out:2", "-o", "/none/x.tar"]).refused(1, &["/none"]);
}
