//! `apply --registry` where the registry fails, lies, or wants something first: what was pushed
//! stays, nothing half is ever named, and the same command finishes.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;

use base64::Engine as _;

use crate::push::push;
use crate::support::carried::{Carried, large};
use crate::support::command::run;
use crate::support::keeper::{Asked, Fault, Keeper};
use crate::support::registries::Process;
use crate::support::testbed::Registry;

/// A release with one layer of 6 MiB.
fn release(folder: &Path) -> (Carried, std::path::PathBuf, String) {
    let carried = Carried::new(folder);
    let archive = carried.build("1", &[6 << 20]);
    let layer = large(&archive, 3_000_000)[0].digest.to_string();
    (carried, archive, layer)
}

const PART: &str = "fleet/registry.example.com/carried/part";

fn is_large(asked: &Asked) -> bool {
    asked
        .headers
        .get("content-length")
        .and_then(|text| text.parse::<u64>().ok())
        .is_some_and(|size| size > 3_000_000)
}

#[test]
fn a_broken_upload_goes_on_at_the_byte_that_the_registry_has() {
    let folder = tempfile::tempdir().unwrap();
    let (carried, archive, layer) = release(folder.path());
    // It breaks twice: in the first PUT, and in the PATCH that goes on.
    let breaks = Mutex::new(vec![1_000_000, 2_000_000]);
    let keeper = Keeper::start(move |asked, _| {
        let next = if is_large(asked) { breaks.lock().unwrap().pop() } else { None };
        next.map_or(Fault::None, Fault::Cut)
    });
    let report = push(&carried, &archive, &keeper.host(), &[]).ok().json();
    assert_eq!(report["registry"]["tags"], 3, "{report}");
    assert_eq!(
        keeper.blob(PART, &layer).map(|bytes| bytes.len() as u64),
        Some(large(&archive, 3_000_000)[0].size)
    );
    let parts: Vec<Asked> = keeper.asked().into_iter().filter(is_large).collect();
    let total: usize = parts.iter().map(|asked| asked.read).sum();
    assert_eq!(total as u64, large(&archive, 3_000_000)[0].size, "no byte was taken twice: {parts:?}");
    let ranges: Vec<&str> =
        parts.iter().filter_map(|a| a.headers.get("content-range")).map(String::as_str).collect();
    assert!(ranges[0].starts_with("2000000-") && ranges[1].starts_with("3000000-"), "{ranges:?}");
}

#[test]
fn a_proxy_that_takes_no_large_bodies_gets_parts() {
    let folder = tempfile::tempdir().unwrap();
    let (carried, archive, layer) = release(folder.path());
    let keeper =
        Keeper::start(|asked, _| if is_large(asked) { Fault::Answer(413, Vec::new()) } else { Fault::None });
    let report = push(&carried, &archive, &keeper.host(), &[]);
    // Parts of 1 MiB are the smallest; they pass.
    report.ok();
    assert!(keeper.blob(PART, &layer).is_some());
    let tiny = Keeper::start(|asked, _| {
        let large = asked.headers.get("content-length").is_some_and(|length| length.len() > 5);
        if large { Fault::Answer(413, Vec::new()) } else { Fault::None }
    });
    push(&carried, &archive, &tiny.host(), &[]).refused(1, &["413", "client_max_body_size"]);
}

#[test]
fn a_registry_that_is_busy_is_waited_for_and_one_that_is_full_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (carried, archive, _) = release(folder.path());
    let busy = Keeper::start(|asked, before| match asked.method.as_str() {
        "POST" | "PUT" | "HEAD" if before < 2 => Fault::Answer(429, vec![("retry-after", "0".into())]),
        _ => Fault::None,
    });
    push(&carried, &archive, &busy.host(), &[]).ok();

    let full = Keeper::start(|asked, _| match asked.method.as_str() {
        "PUT" => Fault::Answer(507, Vec::new()),
        _ => Fault::None,
    });
    push(&carried, &archive, &full.host(), &[]).refused(1, &["507", "disk is full", "same command again"]);
    let refusing = Keeper::start(|asked, _| match asked.method.as_str() {
        "POST" => Fault::Answer(405, Vec::new()),
        _ => Fault::None,
    });
    push(&carried, &archive, &refusing.host(), &[]).refused(1, &["405", "read-only"]);
    assert!(refusing.asked().iter().filter(|asked| asked.method == "POST").count() < 20);
}

#[test]
fn a_registry_that_lies_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let (carried, archive, layer) = release(folder.path());
    // It says 201 and keeps nothing.
    let forgetful = Keeper::start(|asked, _| {
        if asked.method == "PUT" && is_large(asked) { Fault::Answer(201, Vec::new()) } else { Fault::None }
    });
    push(&carried, &archive, &forgetful.host(), &[]).refused(4, &["lacks 1 of the release", &layer]);
    assert!(!folder.path().join("store/registry.json").exists(), "it is not what nodes are led to");
    // It has another digest for what it was given.
    let other = format!("sha256:{}", "0".repeat(64));
    let changing = Keeper::start(move |asked, _| {
        if asked.method == "PUT" && asked.path.contains("/manifests/") {
            return Fault::Answer(201, vec![("docker-content-digest", other.clone())]);
        }
        Fault::None
    });
    push(&carried, &archive, &changing.host(), &[]).refused(1, &["has digest `sha256:0000"]);
    // A page for people.
    let page = Keeper::start(|asked, _| match asked.method.as_str() {
        "HEAD" => Fault::Answer(200, vec![("content-type", "text/html".into())]),
        _ => Fault::None,
    });
    push(&carried, &archive, &page.host(), &[]).refused(1, &["an HTML page"]);
    // Not the registry but the disk: the blob in the store is other bytes.
    let keeper = Keeper::start(|_, _| Fault::None);
    let hex = layer.strip_prefix("sha256:").unwrap();
    let path = folder.path().join("store/blobs/sha256").join(hex);
    let size = fs::metadata(&path).unwrap().len();
    fs::write(&path, vec![1; usize::try_from(size).unwrap()]).unwrap();
    push(&carried, &archive, &keeper.host(), &[]).refused(1, &["is damaged: its content has the digest"]);
}

#[test]
fn a_registry_that_is_stopped_in_the_middle_and_comes_back_gets_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let (carried, archive, _) = release(folder.path());
    let home = folder.path().join("registry");
    let registry = Registry::up(&home, &[]);
    let at = registry.address.clone();
    registry.down();
    push(&carried, &archive, &at, &[]).refused(1, &["no answer from", "same command again"]);
    let stored = fs::read_dir(folder.path().join("store/blobs/sha256")).unwrap().count();
    assert!(stored > 5, "the medium is not needed again");

    // A push that is killed at any time leaves no tag that leads nowhere, and the next one finishes.
    let _registry = Registry::up(&home, &[]);
    for pause in [30, 60, 90, 120, 200] {
        let mut command = carried.seed_command(&archive, Path::new("store"));
        let mut child = command
            .args(["--registry", &format!("{at}/fleet")])
            .stderr(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(pause));
        let _ = child.kill();
        child.wait().unwrap();
    }
    push(&carried, &archive, &at, &[]).ok();
    assert_eq!(push(&carried, &archive, &at, &[]).ok().json()["registry"]["pushed"], 0);
}

#[test]
fn logins_come_from_where_other_tools_keep_them() {
    let folder = tempfile::tempdir().unwrap();
    let (carried, archive, _) = release(folder.path());
    let registry = Registry::up(&folder.path().join("registry"), &["--htpasswd", "site:secret"]);
    let at = registry.address.clone();
    push(&carried, &archive, &at, &[]).refused(1, &["401", "skopeo login", "credentials"]);
    let login = |password: &str| {
        let auth = base64::engine::general_purpose::STANDARD.encode(format!("site:{password}"));
        serde_json::json!({"auths": {at.clone(): {"auth": auth}}}).to_string()
    };
    let file = folder.path().join("auth.json");
    let with = |name: &str, value: &Path| {
        let mut command = carried.seed_command(&archive, Path::new("store"));
        run(command.args(["--registry", &format!("{at}/fleet")]).env(name, value))
    };
    fs::write(&file, login("wrong")).unwrap();
    with("REGISTRY_AUTH_FILE", &file).refused(1, &["401", "found there"]);
    fs::write(&file, login("secret")).unwrap();
    with("REGISTRY_AUTH_FILE", &file).ok();
    let docker = folder.path().join("docker");
    fs::create_dir(&docker).unwrap();
    fs::write(docker.join("config.json"), login("secret")).unwrap();
    with("DOCKER_CONFIG", &docker).ok();
    // Read-only: everything is there, and that is enough; anything new is refused.
    drop(registry);
    let registry = Registry::up(&folder.path().join("registry"), &["--read-only"]);
    assert_eq!(registry.address, at);
    push(&carried, &archive, &at, &[]).ok();
    let two = carried.build("2", &[1 << 10]);
    push(&carried, &two, &at, &[]).refused(1, &["405", "read-only"]);
}

/// What a token server was asked for, by a real client of the real distribution's protocol.
#[test]
fn tokens_are_asked_for_what_a_push_needs() {
    let folder = tempfile::tempdir().unwrap();
    let (carried, archive, _) = release(folder.path());
    let address = std::sync::Arc::new(Mutex::new(String::new()));
    let known = std::sync::Arc::clone(&address);
    let keeper = Keeper::start(move |asked, _| {
        if asked.path.starts_with("/token") {
            // The answer carries the token in no body here: the scope is what is looked at.
            return Fault::Answer(403, Vec::new());
        }
        let realm = format!("Bearer realm=\"http://{}/token\",service=\"s\"", known.lock().unwrap());
        Fault::Answer(401, vec![("www-authenticate", realm)])
    });
    *address.lock().unwrap() = keeper.host();
    push(&carried, &archive, &keeper.host(), &[]).refused(1, &["403"]);
    let asked: HashMap<String, usize> = keeper.asked().iter().filter(|a| a.path.starts_with("/token")).fold(
        HashMap::new(),
        |mut map, asked| {
            *map.entry(asked.path.replace("%3A", ":").replace("%2F", "/").replace("%2C", ","))
                .or_default() += 1;
            map
        },
    );
    assert!(!asked.is_empty() && asked.keys().all(|path| path.contains(":pull,push")), "{asked:?}");
    assert!(asked.keys().all(|path| path.contains("scope=repository:fleet/")), "{asked:?}");
}

#[test]
fn wrong_words_are_refused_before_anything_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let (carried, archive, _) = release(folder.path());
    for (registry, want) in [
        ("http://127.0.0.1:5000/x", "begins with a scheme"),
        ("fleet", "begins with no registry's host"),
        ("127.0.0.1:5000/UPPER", "lower-case"),
    ] {
        let mut command = carried.seed_command(&archive, Path::new("store"));
        run(command.args(["--registry", registry])).refused(2, &[want]);
    }
    let mut both = carried.seed_command(&archive, Path::new("store"));
    run(both.args(["--registry", "127.0.0.1:1/x", "--endpoint", "http://127.0.0.1:1"]))
        .refused(2, &["cannot be used with"]);
    let long = format!("127.0.0.1:1/{}", "a".repeat(245));
    let memory = Process::in_memory(folder.path(), &[]);
    let long = long.replace("127.0.0.1:1", &memory.address);
    let mut command = carried.seed_command(&archive, Path::new("store"));
    run(command.args(["--registry", &long])).refused(2, &["at most 255", "shorter prefix"]);
}
