//! What must be true after a power cut, before and after the same command has run again.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use fleetpack::model::{Digest, ReleaseName, media_type};
use fleetpack::store::{Store, StoreError, StoredRelease};
use fleetpack::{fsio, ledger};

use super::api::Call;
use super::disk::{Cut, Event};
use super::mount::Mounted;
use super::site::{Recording, Scenario, Site};
use crate::support::command::{program, run};

/// Cuts the power, switches it on again, and looks. Stops where something is wrong.
pub fn survives(site: &Site, scenario: &Scenario, recording: &Recording, cut: &Cut) {
    // A file of its own: who looks through the loop devices of the machine keeps them a moment longer,
    // and `mount` takes a device again that has the same file.
    let folder = tempfile::tempdir_in(&site.depot.folder).unwrap();
    let file = folder.path().join("cut.img");
    cut.image(&recording.log).write(&file).unwrap();
    let mounted = Mounted::mount(&file, &site.store(), site.kind);
    let mounted = mounted.unwrap_or_else(|why| panic!("the file system is not whole: {why}"));
    let done = cut.calls(&recording.log).into_iter().map(|number| &recording.calls[number]);
    site.api.restore(recording.before.iter().chain(done)).unwrap();

    let active = as_the_cut_left_it(site, scenario);
    nothing_promised_is_lost(site, scenario, recording, cut);
    let server = site.serve(false);
    if let Some(release) = &active {
        served(site, release, &server.endpoint);
    }
    let ended = run(&mut site.command(scenario.act, false));
    assert_eq!(ended.code, 0, "the same command again: {}", ended.stderr);
    finished(site, scenario.then, scenario.kept, &server.endpoint);
    if let Some((act, then)) = scenario.follow {
        let ended = run(&mut site.command(act, false));
        assert_eq!(ended.code, 0, "{act:?} after it: {}", ended.stderr);
        finished(site, then, scenario.kept, &server.endpoint);
    }
    drop(server);
    drop(mounted);
}

fn name(site: &Site) -> ReleaseName {
    site.depot.name.parse().unwrap()
}

/// The store as it was found: whatever is in it is whole, and the active release is one of two and
/// complete. Answers with the active release.
fn as_the_cut_left_it(site: &Site, scenario: &Scenario) -> Option<StoredRelease> {
    let store = match Store::open_read_only(&site.store()) {
        Ok(store) => store,
        Err(StoreError::Absent { .. }) if scenario.before.is_none() => return None,
        Err(error) => panic!("the store cannot be opened: {error}"),
    };
    whole(&store);
    let history = ledger::read(store.folder()).unwrap_or_else(|error| panic!("the ledger: {error}"));
    let active = history.active(&name(site));
    let wanted = [scenario.before, Some(scenario.then)].map(|version| version.map(|v| site.known[v].digest));
    assert!(wanted.contains(&active), "active is {active:?}, wanted one of {wanted:?}");
    // The release before is there and complete, whatever happened.
    if let Some(version) = scenario.before {
        let release = store.release_by_digest(site.known[version].digest).unwrap();
        let release = release.unwrap_or_else(|| panic!("release {version} is not there any more"));
        store.complete(&release).unwrap();
    }
    active.map(|digest| store.release_by_digest(digest).unwrap().expect("the active release is there"))
}

/// What was durable before something else was done is there: the ledger tells of every change of the
/// cluster before it is made, and what a command said at its end stays true.
fn nothing_promised_is_lost(site: &Site, scenario: &Scenario, recording: &Recording, cut: &Cut) {
    let happened = &recording.log.events[..cut.at];
    let has_ended = happened.iter().any(|event| matches!(event, Event::Ended));
    let calls: Vec<&Call> = happened
        .iter()
        .filter_map(
            |event| if let Event::CallBegan(call) = event { Some(&recording.calls[*call]) } else { None },
        )
        .collect();
    if calls.is_empty() && !has_ended {
        return;
    }
    let history = ledger::read(&site.store()).unwrap();
    let name = name(site);
    if !calls.is_empty() {
        let attempt = history.last_attempt(&name).expect("the ledger knows that the cluster is changed");
        assert_eq!(attempt.release, site.known[scenario.then].digest, "the ledger knows to what");
        let is_healthy = attempt.steps.iter().any(|step| step == "healthy");
        assert!(is_healthy || !calls.iter().any(|call| call.deletes()), "pruned before it was healthy");
    }
    if has_ended {
        assert_eq!(history.active(&name), Some(site.known[scenario.then].digest), "the command had ended");
        assert_eq!(history.unfinished(&name), None, "the command had ended");
        let releases = Store::open_read_only(&site.store()).unwrap().releases().unwrap();
        let found: BTreeSet<&str> =
            releases.iter().map(|release| release.document().version.as_str()).collect();
        assert_eq!(found, scenario.kept.iter().copied().collect(), "releases when the command had ended");
    }
}

/// Every blob is what its name says, every release complete, every repository whole.
fn whole(store: &Store) {
    for entry in std::fs::read_dir(store.folder().join("blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let Ok(wanted) = Digest::from_hex(&name) else { continue };
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(Digest::of(&bytes), wanted, "blob of {} bytes", bytes.len());
    }
    for release in store.releases().unwrap_or_else(|error| panic!("the releases: {error}")) {
        store.complete(&release).unwrap_or_else(|error| panic!("{}: {error}", release.title()));
    }
    for entry in std::fs::read_dir(store.folder().join("git")).unwrap() {
        let path = entry.unwrap().path();
        let is_link = path.extension().is_some_and(|extension| extension == "git");
        if is_link && !path.file_name().unwrap().to_str().unwrap().starts_with(fsio::atomic::TEMPORARY_PREFIX)
        {
            let ended =
                run(program("git", store.folder()).arg("-C").arg(&path).args(["fsck", "--full", "--strict"]));
            assert_eq!(ended.code, 0, "{}: {}", path.display(), ended.stderr);
        }
    }
}

/// All of a release can be had from the endpoint: every blob, byte by byte, and its commit.
fn served(site: &Site, release: &StoredRelease, endpoint: &str) {
    let document = release.document();
    let image = document.images.first().unwrap().reference.name();
    for blob in &document.blobs {
        let is_manifest = media_type::is_manifest(&blob.media_type) || media_type::is_index(&blob.media_type);
        let kind = if is_manifest { "manifests" } else { "blobs" };
        let url = format!("{endpoint}/v2/{image}/{kind}/{}", blob.digest);
        let bytes = site.api.fetch(&url).unwrap_or_else(|why| panic!("{url}: {why}"));
        assert_eq!(Digest::of(&bytes), blob.digest, "{url}");
    }
    // The branch leads to the release that came last, if the power failed between the two.
    let name = format!("refs/tags/fleetpack/{}-{}", document.version, release.digest().short());
    let url = format!("{endpoint}/git/{}.git", document.name);
    let listed = run(program("git", &site.store()).args(["ls-remote", &url, &name])).ok().stdout;
    assert_eq!(listed.trim_end(), format!("{}\t{name}", document.git.commit));
}

/// The site runs `then` and nothing is left of the cut.
fn finished(site: &Site, then: &str, kept: &[&str], endpoint: &str) {
    let store = Store::open_read_only(&site.store()).unwrap();
    whole(&store);
    let (name, wanted) = (name(site), &site.known[then]);
    let history = ledger::read(store.folder()).unwrap_or_else(|error| panic!("the ledger: {error}"));
    assert_eq!(history.active(&name), Some(wanted.digest), "release {then} is the active one");
    assert_eq!(history.unfinished(&name), None);
    let releases = store.releases().unwrap();
    let found: BTreeSet<&str> = releases.iter().map(|release| release.document().version.as_str()).collect();
    assert_eq!(found, kept.iter().copied().collect(), "releases in the store");
    let left = store.unneeded(&releases, &HashSet::new()).unwrap();
    assert!(left.is_empty(), "{} blobs are left over", left.len());
    leftovers(store.folder());
    let active = releases.iter().find(|release| release.digest() == wanted.digest).unwrap();
    served(site, active, endpoint);
    let url = format!("{endpoint}/git/{name}.git");
    let head = run(program("git", store.folder()).args(["ls-remote", &url, "HEAD"]));
    let seeded_later = history.seeded(&name).first().is_some_and(|last| *last != wanted.digest);
    assert!(
        head.stdout.starts_with(&wanted.commit) || seeded_later,
        "HEAD is {}, wanted {} of release {then}",
        head.stdout,
        wanted.commit
    );
    // The cluster.
    let namespace = format!("/api/v1/namespaces/{name}/configmaps");
    let value = site.api.get(&format!("{namespace}/depot"))["data"]["value"].clone();
    assert_eq!(value, then, "what the cluster runs");
    for version in ["1", "2", "3"] {
        let found = !site.api.get(&format!("{namespace}/only-{version}")).is_null();
        assert_eq!(found, version == then, "`only-{version}` in the cluster under release {then}");
    }
    let parent = site.api.get(&format!("/api/v1/namespaces/fleetpack-system/configmaps/fleetpack-{name}"));
    let annotations = &parent["metadata"]["annotations"];
    assert_eq!(annotations["fleetpack.dev/release"], wanted.digest.to_string());
    assert!(annotations["fleetpack.dev/applying"].is_null(), "{annotations}");
}

/// No temporary name is left anywhere, but for the one file that `serve` writes without the lock.
fn leftovers(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = name.starts_with(fsio::atomic::TEMPORARY_PREFIX) && !name.ends_with("serve.json");
        assert!(!ours, "`{}` is left over", entry.path().display());
        if entry.file_type().unwrap().is_dir() {
            leftovers(&entry.path());
        }
    }
}
