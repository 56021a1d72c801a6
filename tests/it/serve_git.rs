//! Git that `serve` serves, against git's own server on the same repository: after every step the
//! clone has the same objects, the same references and the same end of its history.

use std::path::Path;

use fleetpack::store::git::{Generation, GenerationRelease};

use crate::git::thousand_commits;
use crate::git_store::release;
use crate::support::command::run;
use crate::support::gitsite::GitSite;
use crate::support::repository::Repository;
use crate::support::testbed::{testbed, tool};

const VERSIONS: [&str; 3] = ["0", "1", "2"];

/// Releases of a history with merges: `main` at its 500th commit and at its 1000th, and both tags.
struct History {
    made: Repository,
    half: [GenerationRelease; 2],
    whole: [GenerationRelease; 2],
}

impl History {
    fn new(folder: &Path) -> Self {
        let made = thousand_commits(&folder.join("made"));
        let end = made.git(&["rev-parse", "main"]);
        let bundle = |revision: &str, version: &str| release(folder, &made.path, revision, version);
        let tags = [bundle("v1.9", "1.9-tag"), bundle("v1.10", "1.10-tag")];
        made.git(&["update-ref", "refs/heads/main", &made.git(&["rev-parse", "v1.9^{commit}"])]);
        let half = bundle("main", "1.9");
        made.git(&["update-ref", "refs/heads/main", &end]);
        let whole = bundle("main", "1.10");
        let [first, second] = tags;
        Self { made, half: [first, half], whole: [second, whole] }
    }

    fn first(&self, site: &GitSite) -> Generation {
        site.generation(&[&self.half[0], &self.half[1]])
    }

    fn second(&self, site: &GitSite) -> Generation {
        site.generation(&[&self.half[0], &self.half[1], &self.whole[0], &self.whole[1]])
    }

    /// Both are kept, and the first one runs again: `main` went back.
    fn back(&self, site: &GitSite) -> Generation {
        site.generation(&[&self.whole[0], &self.whole[1], &self.half[0], &self.half[1]])
    }
}

/// Fetches that deepen say `--tags`: over HTTP, git itself follows tags into what it did not want
/// with protocol 2 alone.
///
/// Does `steps` against both servers and compares after each. A step is words for git: the first
/// makes `clone`; `URL` stands for the repository.
#[track_caller]
fn same(site: &GitSite, generation: &Generation, version: &str, name: &str, steps: &[&str]) {
    let oracle = format!("file://{}", generation.path().display());
    let parent = site.folder.join(format!("{name}-{version}"));
    let clones = [parent.join("ours"), parent.join("git")];
    for folder in &clones {
        std::fs::create_dir_all(folder).unwrap();
    }
    for step in steps {
        for (folder, url) in clones.iter().zip([&site.url(), &oracle]) {
            let words: Vec<_> = step.split(' ').map(|word| if word == "URL" { url } else { word }).collect();
            let ended = site.git(folder, version, &words);
            assert_eq!(ended.code, 0, "{name}, version {version}: {step}: {}", ended.stderr);
        }
        let [ours, git] = [0, 1].map(|at| site.state(&clones[at]));
        let told = format!("{name}, version {version}, after `{step}`");
        assert_eq!(ours.1, git.1, "{told}: references");
        assert_eq!(ours.2, git.2, "{told}: where the history ends");
        assert!(ours.0 == git.0, "{told}: {} objects, git has {}", ours.0.len(), git.0.len());
        site.git(&clones[0], version, &["fsck", "--strict", "--no-dangling"]).ok();
    }
    std::fs::remove_dir_all(parent).unwrap();
}

#[test]
fn every_kind_of_clone_and_fetch_is_what_git_itself_gives() {
    let folder = tempfile::tempdir().unwrap();
    let site = GitSite::new(folder.path());
    let history = History::new(folder.path());
    let generation = history.second(&site);
    site.switch(&generation);
    let commit = |revision: &str| history.made.git(&["rev-parse", revision]);
    // The time of the 900th commit and of the 700th.
    let [late, early] = [900, 700].map(|n| format!("@{}", 1_700_000_000 + n * 60));
    let [since, before] = [late, early].map(|time| time.replace('@', ""));
    let deep = commit("main~700");
    for version in VERSIONS {
        let case = |name: &str, steps: &[&str]| same(&site, &generation, version, name, steps);
        case("full", &["clone -q URL .", "fetch -q"]);
        case("mirror", &["clone -q --mirror URL ."]);
        case("one", &["clone -q --depth 1 URL .", "fetch -q --unshallow --tags"]);
        case(
            "five",
            &[
                "clone -q --depth 5 URL .",
                "fetch -q --deepen 3 --tags",
                "fetch -q --depth 20 --tags",
                "fetch -q --depth 2",
                "fetch -q --unshallow --tags",
            ],
        );
        case(
            "five-all",
            &[
                "clone -q --depth 5 --no-single-branch URL .",
                "fetch -q --deepen 4",
                "fetch -q --unshallow --tags",
            ],
        );
        case("single", &["clone -q --single-branch --branch main URL ."]);
        case(
            "tag",
            &[
                "clone -q --branch v1.9 --depth 3 URL .",
                "fetch -q --depth 6 --no-tags origin refs/tags/v1.10:refs/tags/v1.10",
            ],
        );
        case("tags", &["clone -q --no-tags URL .", "fetch -q --tags --force --prune"]);
        case(
            "since",
            &[
                &format!("clone -q --shallow-since={since} URL ."),
                &format!("fetch -q --no-tags --shallow-since={before}"),
                "fetch -q --unshallow --tags",
            ],
        );
        case("exclude", &["clone -q --shallow-exclude=v1.9 URL .", "fetch -q --unshallow --tags"]);
        case(
            "hash",
            &[
                "init -q",
                "remote add origin URL",
                &format!("fetch -q --depth 1 origin {deep}:refs/heads/deep"),
                &format!("fetch -q --depth 4 origin {deep}"),
                "fetch -q --unshallow --tags origin",
            ],
        );

        let list = |arguments: &[&str]| {
            let oracle = format!("file://{}", generation.path().display());
            let ours =
                site.git(folder.path(), version, &[&["ls-remote"], arguments, &[&site.url()]].concat());
            let git = site.git(folder.path(), version, &[&["ls-remote"], arguments, &[&oracle]].concat());
            assert_eq!(ours.ok().stdout, git.ok().stdout, "version {version} {arguments:?}");
        };
        for arguments in [&[][..], &["--heads"], &["--tags"], &["--symref"], &["--tags", "--refs"]] {
            list(arguments);
        }
    }
    // What is not there is refused by name, with every version.
    let nowhere = "1".repeat(40);
    for version in VERSIONS {
        let refused = site.git(&history.made.path, version, &["fetch", &site.url(), &nowhere]);
        assert_ne!(refused.code, 0);
        assert!(refused.stderr.contains("not our ref"), "{}", refused.stderr);
        assert_ne!(
            site.git(folder.path(), version, &["ls-remote", &site.url().replace("shop", "other")]).code,
            0
        );
    }
}

#[test]
fn releases_that_come_and_go_are_fetched_without_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let site = GitSite::new(folder.path());
    let history = History::new(folder.path());
    let [first, second, back] = [history.first(&site), history.second(&site), history.back(&site)];
    for version in VERSIONS {
        for (name, arguments) in
            [("whole", &["clone", "-q"][..]), ("shallow", &["clone", "-q", "--depth", "3"])]
        {
            let told = format!("{name}, version {version}");
            let clones = ["ours", "git"].map(|who| folder.path().join(format!("{who}-{name}-{version}")));
            site.switch(&first);
            for (clone, url) in clones.iter().zip([site.url(), format!("file://{}", first.path().display())])
            {
                let path = clone.to_str().unwrap();
                site.git(folder.path(), version, &[arguments, &["--no-single-branch", &url, path]].concat())
                    .ok();
            }
            let count = |clone: &Path| {
                let text = site.git(clone, version, &["count-objects", "-v"]).ok().stdout;
                let number = |key: &str| {
                    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
                    line.trim().parse::<u64>().unwrap()
                };
                number("count:") + number("in-pack:")
            };
            let had = count(&clones[0]);
            for (step, generation) in [("second", &second), ("back", &back), ("second again", &second)] {
                site.switch(generation);
                let path = format!("file://{}", generation.path().display());
                site.git(&clones[1], version, &["remote", "set-url", "origin", &path]).ok();
                for clone in &clones {
                    // As Argo CD fetches.
                    site.git(clone, version, &["fetch", "-q", "origin", "--tags", "--force", "--prune"]).ok();
                }
                let [ours, git] = [0, 1].map(|at| site.state(&clones[at]));
                assert_eq!(ours.1, git.1, "{told}: {step}");
                assert_eq!(ours.2, git.2, "{told}: {step}");
                assert!(ours.0 == git.0, "{told}: {step}: {} objects, git has {}", ours.0.len(), git.0.len());
                site.git(&clones[0], version, &["fsck", "--strict", "--no-dangling"]).ok();
            }
            if name == "whole" {
                // Nothing came twice: what is there is what is reached.
                let all = site.state(&clones[0]).0.len() as u64;
                assert!(had < all && count(&clones[0]) == all, "{told}: {had}, {}, {all}", count(&clones[0]));
            }
        }
    }
}

#[test]
fn go_git_clones_and_fetches() {
    testbed(&["gogit"]);
    let folder = tempfile::tempdir().unwrap();
    let site = GitSite::new(folder.path());
    let history = History::new(folder.path());
    let (first, second, back) = (history.first(&site), history.second(&site), history.back(&site));
    site.switch(&first);
    let gogit = |arguments: &[&str]| {
        run(tool("gogit", folder.path()).current_dir(folder.path()).args(arguments)).ok()
    };
    let url = site.url();
    let sorted = |text: &str| {
        let mut lines: Vec<_> =
            text.split_whitespace().collect::<Vec<_>>().chunks(2).map(|pair| pair.join(" ")).collect();
        lines.sort();
        lines
    };
    gogit(&["clone", &url, "whole"]);
    gogit(&["clone", &url, "bare", "--bare"]);
    gogit(&["clone", &url, "three", "--depth", "3"]);
    gogit(&["clone", &url, "tag", "--ref", "refs/tags/v1.9"]);
    site.switch(&second);
    let listed = site.git(folder.path(), "0", &["ls-remote", &url]).ok().stdout;
    let found = gogit(&["ls-remote", &url]).stdout;
    let hashes =
        |text: &str| sorted(text).into_iter().filter(|line| !line.contains("HEAD")).collect::<Vec<_>>();
    assert_eq!(hashes(&found), hashes(&listed));
    for (generation, revision) in [(&second, "main"), (&back, "v1.9^{commit}"), (&second, "main")] {
        site.switch(generation);
        let want = history.made.git(&["rev-parse", revision]);
        for clone in ["whole", "three", "tag"] {
            gogit(&["fetch", clone, "--force", "--tags"]);
            let clone = folder.path().join(clone);
            if !clone.ends_with("tag") {
                let found = site.git(&clone, "2", &["rev-parse", "refs/remotes/origin/main"]).ok().stdout;
                assert_eq!(found.trim(), want, "{}", clone.display());
            }
            site.git(&clone, "2", &["fsck", "--strict", "--no-dangling"]).ok();
        }
    }
    let shallow = std::fs::read_to_string(folder.path().join("three/.git/shallow")).unwrap();
    assert!(!shallow.trim().is_empty());
    let objects = site.state(&folder.path().join("whole")).0;
    site.git(folder.path(), "2", &["clone", "-q", "--no-local", &url, "compare"]).ok();
    assert!(objects == site.state(&folder.path().join("compare")).0);
}

/// This project's own history, where the tests run in a clone of it.
#[test]
fn this_projects_own_history() {
    let folder = tempfile::tempdir().unwrap();
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let site = GitSite::new(folder.path());
    let shallow = site.git(own, "2", &["rev-parse", "--is-shallow-repository"]);
    if shallow.code != 0 {
        eprintln!("skipped: {} is no Git repository", own.display());
        return;
    }
    assert_eq!(shallow.stdout.trim(), "false", "the tests want the full history of this project");
    let commit = site.git(own, "2", &["rev-parse", "HEAD"]).ok().stdout.trim().to_owned();
    let generation = site.generation(&[&release(folder.path(), own, &commit, "1")]);
    site.switch(&generation);
    for version in VERSIONS {
        same(&site, &generation, version, "own", &["clone -q --mirror URL ."]);
        same(
            &site,
            &generation,
            version,
            "own-shallow",
            &["clone -q --depth 2 URL .", "fetch -q --deepen 5", "fetch -q --unshallow --tags"],
        );
    }
}
