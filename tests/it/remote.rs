//! Building from a URL: from a real Git host over HTTP, by ssh, from a folder, with a remote that
//! moves, logins, and addresses that must not be followed.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::command::{Ended, fleetpack, program, run};
use super::support::githost::GitHost;
use super::support::repository::Repository;

/// A repository that needs no image, with tags, two branches, and enough history to be worth a pack.
struct Upstream {
    folder: tempfile::TempDir,
    bare: PathBuf,
    work: Repository,
    host: GitHost,
}

impl Upstream {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let work = Repository::init(&folder.path().join("work"));
        for n in 1..=5 {
            work.write("shop.yaml", config_map(n));
            work.commit(&format!("Shop {n}"));
        }
        work.git(&["tag", "-a", "-m", "Four", "v1.4", "HEAD~1"]);
        work.git(&["tag", "-a", "-m", "Five", "v1.5"]);
        work.git(&["branch", "old", "HEAD~3"]);
        let bare = folder.path().join("host/team/shop.git");
        work.git(&["clone", "--quiet", "--bare", ".", bare.to_str().unwrap()]);
        work.git(&["remote", "add", "origin", bare.to_str().unwrap()]);
        let host = GitHost::new(&folder.path().join("host"));
        Self { folder, bare, work, host }
    }

    fn build(&self, place: &str, output: &str, arguments: &[&str]) -> Command {
        let mut command = fleetpack(self.folder.path());
        command.current_dir(self.folder.path()).args(["build", place, "-o", output, "--format", "json"]);
        command.args(arguments);
        command
    }

    fn bytes(&self, output: &str) -> Vec<u8> {
        std::fs::read(self.folder.path().join(output)).unwrap()
    }

    fn cached(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.folder.path().join(".cache/fleetpack/git")) else {
            return Vec::new();
        };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn config_map(n: u32) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: shop}}\ndata: {{version: \"{n}\"}}\n")
}

fn commit(ended: &Ended) -> String {
    ended.json()["commit"].as_str().unwrap().to_owned()
}

#[test]
fn a_url_gives_the_same_archive_as_a_clone() {
    let upstream = Upstream::new();
    let clone = upstream.folder.path().join("clone/shop");
    std::fs::create_dir_all(clone.parent().unwrap()).unwrap();
    run(program("git", upstream.folder.path()).arg("clone").arg("-q").arg(&upstream.bare).arg(&clone)).ok();
    let url = upstream.host.url("team/shop.git");
    for (n, revision) in ["HEAD", "main", "v1.4", "HEAD~2", "v1.5~1"].into_iter().enumerate() {
        let (local, remote) = (format!("local-{n}.tar"), format!("remote-{n}.tar"));
        let revision = ["--revision", revision];
        run(&mut upstream.build(clone.to_str().unwrap(), &local, &revision)).ok();
        let ended = run(&mut upstream.build(&url, &remote, &revision)).ok();
        assert_eq!(upstream.bytes(&local), upstream.bytes(&remote), "{revision:?}");
        assert!(ended.stderr.contains(&format!("`{url}` is at commit {}", commit(&ended))));
    }
    let version = run(&mut upstream.build(&url, "last.tar", &[])).ok().json();
    assert_eq!((version["version"].as_str(), version["name"].as_str()), (Some("v1.5"), Some("shop")));
    assert_eq!(version["sequence"], 5);
    let clients = upstream.host.requests();
    assert!(
        !clients.is_empty() && clients.iter().all(|(_, client)| !client.contains("git/2")),
        "{clients:?}"
    );
    // gix needs no git: it speaks HTTP by itself.
    let empty = upstream.folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    run(upstream.build(&url, "alone.tar", &[]).env("PATH", &empty)).ok();
    assert_eq!(upstream.bytes("alone.tar"), upstream.bytes("last.tar"));
}

#[test]
fn git_does_what_gix_leaves_to_it_and_the_output_says_so() {
    let upstream = Upstream::new();
    let url = upstream.host.url("team/shop.git");
    run(&mut upstream.build(&url, "first.tar", &[])).ok();
    let config = upstream.folder.path().join("gitconfig");
    std::fs::write(&config, "[http]\n\tuserAgent = git/of-this-user\n").unwrap();
    upstream.host.requests();
    let cache = upstream.folder.path().join("other-cache");
    let ended = run(upstream
        .build(&url, "second.tar", &[])
        .env("GIT_CONFIG_GLOBAL", &config)
        .env("XDG_CACHE_HOME", &cache))
    .ok();
    assert!(
        ended.stderr.contains("is fetched by git: git's configuration has a section `http`"),
        "{ended:?}"
    );
    assert_eq!(upstream.bytes("first.tar"), upstream.bytes("second.tar"));
    assert!(upstream.host.requests().iter().all(|(_, client)| client == "git/of-this-user"));

    // ssh, as git runs it: a program that is told the host and the command.
    let script = upstream.folder.path().join("ssh");
    let text = "#!/bin/sh\n# ssh [options] HOST COMMAND\nfor last; do :; done\necho \"$@\" >> \"$(dirname \"$0\")/ssh.log\"\nexec sh -c \"$last\"\n";
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let bare = upstream.bare.display();
    for (n, url) in
        [format!("ssh://git@example.com{bare}"), format!("git@example.com:{bare}")].iter().enumerate()
    {
        let output = format!("ssh-{n}.tar");
        let ended = run(upstream.build(url, &output, &[]).env("GIT_SSH_COMMAND", &script)).ok();
        assert!(ended.stderr.contains("is fetched by git: ssh"), "{ended:?}");
        assert_eq!(upstream.bytes("first.tar"), upstream.bytes(&output));
    }
    let log = std::fs::read_to_string(upstream.folder.path().join("ssh.log")).unwrap();
    assert!(log.contains("git@example.com"), "{log}");
    let ended = run(upstream.build("git@example.com:x", "x.tar", &[]).env("PATH", "/nowhere"));
    ended.refused(1, &["there is no `git` on the PATH", "install git"]);

    // A detached HEAD, and file://, which is read where it lies.
    let file = format!("file://{bare}");
    run(&mut upstream.build(&file, "file.tar", &[])).ok();
    assert_eq!(upstream.bytes("first.tar"), upstream.bytes("file.tar"));
    let old = upstream.work.git(&["rev-parse", "old"]);
    std::fs::write(upstream.bare.join("HEAD"), format!("{old}\n")).unwrap();
    for (config, output) in [(config.as_path(), "a.tar"), (Path::new("/dev/null"), "b.tar")] {
        let ended = run(upstream.build(&url, output, &[]).env("GIT_CONFIG_GLOBAL", config)).ok();
        assert_eq!(commit(&ended), old);
    }
    assert_eq!(upstream.bytes("a.tar"), upstream.bytes("b.tar"));
}

#[test]
fn a_remote_that_moves_changes_nothing() {
    for by_git in [false, true] {
        let upstream = Upstream::new();
        let url = upstream.host.url("team/shop.git");
        let config = upstream.folder.path().join("gitconfig");
        std::fs::write(&config, "[http]\n\tuserAgent = git/x\n").unwrap();
        let config = if by_git { config } else { "/dev/null".into() };
        let before = upstream.work.git(&["rev-parse", "HEAD"]);
        upstream.work.write("shop.yaml", config_map(6));
        let after = upstream.work.commit("Shop 6");
        // Between the advertisement and the pack, main moves on.
        let (bare, work) = (upstream.bare.clone(), upstream.work.path.clone());
        let mut posts = 0;
        upstream.host.before_post(move |_| {
            posts += 1;
            // By protocol 2 the first POST is the advertisement, of each connection anew. gix's only
            // one, and git's second after `ls-remote`, lie before the packs.
            if posts == if by_git { 3 } else { 2 } {
                run(program("git", &work)
                    .current_dir(&work)
                    .args(["push", "-q", "-f"])
                    .arg(&bare)
                    .arg("main"))
                .ok();
            }
        });
        let mut build = upstream.build(&url, "a.tar", &[]);
        let ended = run(build.env("GIT_CONFIG_GLOBAL", &config)).ok();
        let now =
            run(program("git", &upstream.bare).arg("-C").arg(&upstream.bare).args(["rev-parse", "main"]));
        assert_eq!(now.ok().stdout.trim(), after, "the remote has moved");
        assert_eq!(commit(&ended), before);
        // The next build takes what is new, and the cache makes it small.
        let ended = run(upstream.build(&url, "b.tar", &[]).env("GIT_CONFIG_GLOBAL", &config)).ok();
        assert_eq!(commit(&ended), after);
        assert_eq!(upstream.cached().len(), 2);
        // History that is rewritten, and a branch whose name becomes a folder.
        upstream.work.git(&["checkout", "-q", "old"]);
        upstream.work.git(&["branch", "-q", "-D", "main"]);
        upstream.work.git(&["checkout", "-q", "-b", "main"]);
        upstream.work.write("shop.yaml", config_map(7));
        let rewritten = upstream.work.commit("Shop 7");
        upstream.work.git(&["push", "-q", "--delete", "origin", "old"]);
        upstream.work.git(&["push", "-q", "-f", "origin", "main", "main:old/er"]);
        let ended = run(upstream.build(&url, "c.tar", &[]).env("GIT_CONFIG_GLOBAL", &config)).ok();
        assert_eq!(commit(&ended), rewritten);
        assert_eq!(ended.json()["sequence"], 3);
        let arguments = ["--revision", "old"];
        let ended = run(upstream.build(&url, "d.tar", &arguments).env("GIT_CONFIG_GLOBAL", &config));
        ended.refused(1, &["revision `old` is not in the repository", &url]);
    }
}

#[test]
fn logins_come_from_gits_own_helpers_and_are_never_shown() {
    let upstream = Upstream::new();
    upstream.host.login("ci", "s3cret/word");
    let url = upstream.host.url("team/shop.git");
    let ended = run(&mut upstream.build(&url, "a.tar", &[]));
    ended.refused(1, &["git ls-remote"]);
    let folder = upstream.folder.path();
    let helper = folder.join("gitconfig");
    std::fs::write(
        &helper,
        "[credential]\n\thelper = \"!f() { echo asked >> $HOME/asked; echo username=ci; echo password=s3cret/word; }; f\"\n",
    )
    .unwrap();
    let ended = run(upstream.build(&url, "a.tar", &[]).env("GIT_CONFIG_GLOBAL", &helper)).ok();
    // gix asks as well, and then sends no login in the clear; git does what its user told it.
    assert!(folder.join("asked").exists() && ended.stderr.contains("in clear text"), "{ended:?}");

    let secret = upstream.host.url_with("ci:s3cret%2Fword", "team/shop.git");
    let by_git = folder.join("by-git");
    std::fs::write(&by_git, "[http]\n\tuserAgent = git/x\n").unwrap();
    for config in [Path::new("/dev/null"), &by_git] {
        let ended = run(upstream.build(&secret, "b.tar", &[]).env("GIT_CONFIG_GLOBAL", config)).ok();
        assert_eq!(upstream.bytes("a.tar"), upstream.bytes("b.tar"));
        assert!(!format!("{ended:?}").contains("s3cret"), "{ended:?}");
        let wrong = upstream.host.url_with("ci:wr0ng", "team/shop.git");
        let ended = run(upstream.build(&wrong, "c.tar", &[]).env("GIT_CONFIG_GLOBAL", config));
        assert!(!format!("{ended:?}").contains("wr0ng"), "{ended:?}");
        ended.refused(1, &[&url]);
    }
    // Nothing of it stays on the disk.
    let found = run(program("grep", folder).args(["-rlE", "s3cret|wr0ng", ".cache"]).current_dir(folder));
    assert_eq!((found.code, found.stdout.as_str()), (1, ""));
}

#[test]
fn addresses_that_are_not_followed() {
    let upstream = Upstream::new();
    let marker = upstream.folder.path().join("marker");
    let touch = marker.display();
    for url in [
        format!("ext::touch {touch}"),
        format!("ext::touch% {touch}"),
        format!("ssh://-oProxyCommand=touch${{IFS}}{touch}/x"),
        "-oProxyCommand=touch:marker".to_owned(),
        "git://127.0.0.1/x".to_owned(),
        format!("{}?x=y", upstream.host.url("team/shop.git")),
    ] {
        let mut command = fleetpack(upstream.folder.path());
        let ended = run(command.current_dir(upstream.folder.path()).args(["build", "--", &url]));
        assert_eq!(ended.code, 2, "{url}: {ended:?}");
        assert!(!marker.exists(), "{url}");
    }
    let nothing = run(&mut upstream.build(&upstream.host.url("team/none.git"), "x.tar", &[]));
    nothing.refused(1, &["team/none.git"]);
    // A host that answers with something else than Git.
    upstream.host.route(|request| {
        request.target.contains("/page").then(|| (200, "text/html", b"<html>Sign in</html>".to_vec()))
    });
    let page = run(&mut upstream.build(&upstream.host.url("page.git"), "x.tar", &[]));
    page.refused(1, &["page.git"]);
    assert!(!upstream.folder.path().join("x.tar").exists());
}

#[test]
fn two_builds_at_once_share_a_cache() {
    let upstream = Upstream::new();
    let url = upstream.host.url("team/shop.git");
    let mut children: Vec<_> =
        (0..4).map(|n| upstream.build(&url, &format!("{n}.tar"), &[]).spawn().unwrap()).collect();
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    for n in 1..4 {
        assert_eq!(upstream.bytes("0.tar"), upstream.bytes(&format!("{n}.tar")));
    }
    assert_eq!(upstream.cached().len(), 2, "one repository and its lock");
}
