//! Random requests to `serve` and to `git upload-pack --stateless-rpc`: both send the same objects.

use std::collections::HashSet;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::git::thousand_commits;
use crate::git_store::release;
use crate::support::command::Ended;
use crate::support::gitsite::GitSite;
use crate::support::http::request;

/// As many requests as fit, between these two: it is the number that makes them worth something.
const AT_LEAST: u32 = 30;
const AT_MOST: u32 = 120;
const TIME: Duration = Duration::from_mins(1);

/// A repeatable sequence of numbers.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % bound
    }
}

fn line(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(format!("{:04x}{text}", text.len() + 4).as_bytes());
}

/// One fetch in the words of protocol `version`: everything at once, as go-git does it.
fn fetch(
    version: u8,
    wants: &[&str],
    haves: &[&str],
    shallow: &[String],
    depth: usize,
    tags: bool,
) -> Vec<u8> {
    let mut out = Vec::new();
    if version == 2 {
        line(&mut out, "command=fetch\n");
        out.extend_from_slice(b"0001");
        for word in ["ofs-delta\n", "no-progress\n"] {
            line(&mut out, word);
        }
        if tags {
            line(&mut out, "include-tag\n");
        }
    }
    let capabilities =
        format!(" side-band-64k ofs-delta no-progress{}", if tags { " include-tag" } else { "" });
    for (at, want) in wants.iter().enumerate() {
        line(&mut out, &format!("want {want}{}\n", if version != 2 && at == 0 { &capabilities } else { "" }));
    }
    for id in shallow {
        line(&mut out, &format!("shallow {id}\n"));
    }
    if depth > 0 {
        line(&mut out, &format!("deepen {depth}\n"));
    }
    if version != 2 {
        out.extend_from_slice(b"0000");
    }
    for have in haves {
        line(&mut out, &format!("have {have}\n"));
    }
    line(&mut out, "done\n");
    if version == 2 {
        out.extend_from_slice(b"0000");
    }
    out
}

/// The pack of an answer, and the lines about where the history ends.
#[track_caller]
fn read(answer: &[u8]) -> (Vec<u8>, Vec<String>) {
    let (mut pack, mut ends, mut rest) = (Vec::new(), Vec::new(), answer);
    while !rest.is_empty() {
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..4]).unwrap(), 16).unwrap();
        if length < 4 {
            rest = &rest[4..];
            continue;
        }
        let packet = &rest[4..length];
        rest = &rest[length..];
        match packet {
            [1, bytes @ ..] => pack.extend_from_slice(bytes),
            [2, ..] => {}
            [3, bytes @ ..] => panic!("{}", String::from_utf8_lossy(bytes)),
            text => {
                let text = String::from_utf8_lossy(text).trim().to_owned();
                assert!(!text.starts_with("ERR"), "{text}");
                if text.starts_with("shallow ") || text.starts_with("unshallow ") {
                    ends.push(text);
                }
            }
        }
    }
    ends.sort();
    (pack, ends)
}

/// Names of the objects of a pack, which must be whole by itself.
#[track_caller]
fn objects(site: &GitSite, bare: &Path, pack: &[u8]) -> Vec<String> {
    let _ = std::fs::remove_dir_all(bare);
    site.git(&site.folder, "2", &["init", "-q", "--bare", bare.to_str().unwrap()]).ok();
    let mut command = site.git_command(bare, "2");
    command
        .args(["index-pack", "--stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(pack);
    Ended::from(child.wait_with_output().unwrap()).ok();
    let all =
        site.git(bare, "2", &["cat-file", "--batch-all-objects", "--batch-check=%(objectname)"]).ok().stdout;
    all.lines().map(str::to_owned).collect()
}

#[test]
fn random_requests_get_the_objects_that_git_sends() {
    let folder = tempfile::tempdir().unwrap();
    let site = GitSite::new(folder.path());
    let made = thousand_commits(&folder.path().join("made"));
    let [tag, main] = [("v1.9", "1"), ("main", "2")]
        .map(|(revision, version)| release(folder.path(), &made.path, revision, version));
    let generation = site.generation(&[&tag, &main]);
    site.switch(&generation);
    let commits = made.git(&["rev-list", "main"]);
    let commits: Vec<_> = commits.lines().collect();
    let tagged = made.git(&["rev-parse", "v1.9"]);
    let begin = Instant::now();
    let mut dice = Dice(0x1234_5678_9abc_def1);
    for round in 0..AT_MOST {
        if round >= AT_LEAST && begin.elapsed() > TIME {
            break;
        }
        let version = [0, 2][dice.below(2)];
        let mut pick = |most: usize| -> Vec<&str> {
            let count = dice.below(most + 1);
            (0..count).map(|_| commits[dice.below(commits.len())]).collect()
        };
        let (mut wants, haves) = (pick(3), pick(4));
        if wants.is_empty() {
            wants.push(if round % 2 == 0 { &tagged } else { commits[0] });
        }
        let depth = if dice.below(2) == 0 { 0 } else { 1 + dice.below(30) };
        // A client that has a cut history says where it ends: here, behind what it has.
        let shallow: Vec<String> = if dice.below(3) == 0 {
            haves.iter().map(|have| (*have).to_owned()).collect()
        } else {
            Vec::new()
        };
        let tags = dice.below(2) == 0;
        let asked = fetch(version, &wants, &haves, &shallow, depth, tags);
        let told = format!(
            "round {round}, version {version}: wants {wants:?}, haves {haves:?}, shallow {shallow:?}, depth {depth}, tags {tags}"
        );

        let protocol = format!("version={version}");
        let headers =
            [("Content-Type", "application/x-git-upload-pack-request"), ("Git-Protocol", &protocol)];
        let ours = request(site.server.host(), "POST", "/git/shop.git/git-upload-pack", &headers, &asked);
        assert_eq!((ours.status, ours.whole), (200, true), "{told}");

        let mut command = site.git_command(folder.path(), "2");
        command
            .args(["upload-pack", "--stateless-rpc"])
            .arg(generation.path())
            .env("GIT_PROTOCOL", &protocol);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || stdin.write_all(&asked));
        let git = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert!(git.status.success(), "{told}: {}", String::from_utf8_lossy(&git.stderr));

        let (sent, ends) = read(&ours.body);
        let (git_pack, git_ends) = read(&git.stdout);
        assert_eq!(ends, git_ends, "{told}");
        let ours = objects(&site, &folder.path().join("pack-ours"), &sent);
        let git = objects(&site, &folder.path().join("pack-git"), &git_pack);
        let told = format!("{told}: {} objects, git sends {}", ours.len(), git.len());
        if depth == 0 || haves.is_empty() {
            assert!(ours == git, "{told}");
            continue;
        }
        // Where the history is cut anew, git looks behind the cut for nothing that the client has,
        // and sends some of it again. Ours may leave out that and nothing else.
        assert!(ours.iter().all(|id| git.binary_search(id).is_ok()), "{told}");
        let walk: &[&str] = if shallow.is_empty() { &[] } else { &["--no-walk"] };
        let had = made.git(&[&["rev-list", "--objects"], walk, &haves].concat());
        let had: HashSet<&str> = had.lines().map(|line| line.split(' ').next().unwrap()).collect();
        let lacking = git.iter().filter(|id| ours.binary_search(id).is_err());
        assert!(lacking.into_iter().all(|id| had.contains(id.as_str())), "{told}");
    }
}
