//! The care of a store: scrubbing it, mending it, collecting what nobody needs, writing archives out.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::command::{Ended, run};
use crate::support::depot::Depot;

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
