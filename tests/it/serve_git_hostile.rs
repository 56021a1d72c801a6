//! What no Git client should send: each is refused or cut off, and the server goes on.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use crate::git_store::release;
use crate::support::gitsite::GitSite;
use crate::support::http::{Answer, connect, get, parse, request};
use crate::support::repository::Repository;
use crate::support::served::noise;

const UPLOAD: &str = "/git/shop.git/git-upload-pack";
const TYPE: (&str, &str) = ("Content-Type", "application/x-git-upload-pack-request");
const BIG: usize = 24 << 20;

/// A repository whose pack is larger than the buffers of a connection.
fn site(folder: &std::path::Path) -> (GitSite, String) {
    let site = GitSite::new(folder);
    let made = Repository::init(&folder.join("made"));
    made.write("noise", noise(BIG));
    let commit = made.commit("noise");
    let generation = site.generation(&[&release(folder, &made.path, "main", "1")]);
    site.switch(&generation);
    (site, commit)
}

fn post(site: &GitSite, version: &str, body: &[u8]) -> Answer {
    request(site.server.host(), "POST", UPLOAD, &[TYPE, ("Git-Protocol", version)], body)
}

fn packet(text: &str) -> String {
    format!("{:04x}{text}", text.len() + 4)
}

#[track_caller]
fn still_well(site: &GitSite) {
    let listed = site.git(&site.folder, "2", &["ls-remote", &site.url()]).ok();
    assert!(listed.stdout.contains("refs/heads/main"), "{}", listed.stdout);
    let log = std::fs::read_to_string(site.folder.join("serve.log")).unwrap();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn requests_that_make_no_sense_are_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let (site, commit) = site(folder.path());
    let nowhere = "1".repeat(40);
    let want = packet(&format!("want {commit} side-band-64k\n"));
    for (body, part) in [
        ("hello".to_owned(), "packet at byte 0"),
        ("00".to_owned(), "packet at byte 0"),
        ("zzzz".to_owned(), "packet at byte 0"),
        ("fff1".to_owned(), "packet at byte 0"),
        ("0003".to_owned(), "packet at byte 0"),
        ("fff0want".to_owned(), "ends after"),
        (want.clone(), "before the flush"),
        (format!("{want}0000hello"), "packet at byte"),
        (format!("{want}0001"), "unexpected"),
        (format!("{}0000", packet("want 1234\n")), "object name"),
        (format!("{}0000", packet(&format!("want {}\n", "g".repeat(40)))), "object name"),
        (format!("{}0000{}", packet(&format!("want {nowhere}\n")), packet("done\n")), "not our ref"),
        (format!("{want}{}0000", packet("deepen 0\n")), "deepen"),
        (format!("{want}{}0000", packet("deepen 99999999999999999999999\n")), "unexpected"),
        (format!("{want}{}0000", packet("deepen -1\n")), "unexpected"),
        (format!("{want}{}0000{}", packet("deepen-not refs/../../etc\n"), packet("done\n")), "not a ref"),
        (format!("{want}{}0000", packet("filter blob:none\n")), "unexpected"),
        (format!("{want}0000{}", packet("have x\n")), "object name"),
    ] {
        let answer = post(&site, "version=0", body.as_bytes());
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(answer.whole && text.contains("ERR upload-pack: ") && text.contains(part), "{body}: {text}");
    }
    let fetch = |lines: &[&str]| {
        let lines: String = lines.iter().map(|line| packet(line)).collect();
        format!("{}0001{lines}0000", packet("command=fetch\n"))
    };
    for (body, part) in [
        (packet("command=push\n") + "0000", "invalid command"),
        (packet("command=ls-refs\n") + "0001" + &packet("ref-prefix x"), "before its flush"),
        (packet("command=ls-refs\n") + &packet("command=fetch\n") + "0000", "unexpected"),
        (packet("command=ls-refs\n") + &packet("object-format=sha256\n") + "0000", "sha256"),
        (fetch(&[&format!("want {nowhere}\n"), "done\n"]), "not our ref"),
        (fetch(&["want-ref refs/heads/main\n"]), "unexpected"),
        (fetch(&["deepen 1\n", "deepen-since 5\n"]), "cannot be used together"),
        ("0004".repeat(10), ""),
    ] {
        let answer = post(&site, "version=2", body.as_bytes());
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(answer.whole && text.contains(part), "{body}: {text}");
    }
    // Wants of what is no commit, the same want many times, and a great many unknown haves.
    let tree = format!("want {}\n", "4b825dc642cb6eb9a060e54bf8d69288fbee4904");
    assert!(post(&site, "version=2", fetch(&[&tree, "done\n"]).as_bytes()).whole);
    let many = fetch(&vec![format!("want {commit}\n").as_str(); 60_000]);
    let text = String::from_utf8_lossy(&post(&site, "version=2", many.as_bytes()).body).into_owned();
    assert!(text.contains("more than 50000"), "{text:.200}");
    let haves: Vec<String> = (0..100_000).map(|n| format!("have {n:040x}\n")).collect();
    let mut lines: Vec<&str> = haves.iter().map(String::as_str).collect();
    let want = format!("want {commit}\n");
    lines.push(&want);
    let begin = Instant::now();
    let text = post(&site, "version=2", fetch(&lines).as_bytes()).body;
    assert!(text.starts_with(b"0014acknowledgments\n0008NAK\n"), "{}", String::from_utf8_lossy(&text));
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    still_well(&site);
}

#[test]
fn bodies_have_an_end() {
    let folder = tempfile::tempdir().unwrap();
    let (site, _) = site(folder.path());
    let host = site.server.host();
    let before = site.server.peak_memory();

    // By length, and in chunks without end.
    for (header, chunk) in [
        ("Content-Length: 99999999999", vec![b'0'; 1 << 16]),
        ("Transfer-Encoding: chunked", [b"10000\r\n".as_slice(), &vec![b'0'; 1 << 16], b"\r\n"].concat()),
    ] {
        let mut stream = connect(host);
        write!(stream, "POST {UPLOAD} HTTP/1.1\r\nHost: x\r\n{}: {}\r\n{header}\r\n\r\n", TYPE.0, TYPE.1)
            .unwrap();
        let mut sent = 0_usize;
        while stream.write_all(&chunk).is_ok() {
            sent += chunk.len();
            assert!(sent < 256 << 20, "{header}: the server takes all that it is given");
        }
        let mut bytes = Vec::new();
        // The answer may be lost where the server closes with much unread.
        if stream.read_to_end(&mut bytes).is_ok() && !bytes.is_empty() {
            assert_eq!(parse(&bytes).status, 413);
        }
    }

    // 1 GiB of zeros in a megabyte.
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..1024 {
        bomb.write_all(&vec![b'0'; 1 << 20]).unwrap();
    }
    let bomb = bomb.finish().unwrap();
    assert!(bomb.len() < 4 << 20);
    let gzip = |bytes: &[u8]| request(host, "POST", UPLOAD, &[TYPE, ("Content-Encoding", "gzip")], bytes);
    assert_eq!(gzip(&bomb).status, 413);
    assert_eq!(gzip(&bomb[..bomb.len() / 2]).status, 413);
    assert_eq!(gzip(b"no gzip").status, 400);
    assert_eq!(gzip(&bomb[..12]).status, 400);
    assert_eq!(request(host, "POST", UPLOAD, &[TYPE, ("Content-Encoding", "br")], b"x").status, 415);
    assert_eq!(request(host, "POST", UPLOAD, &[("Content-Type", "text/plain")], b"0000").status, 415);
    let grown = site.server.peak_memory() - before;
    assert!(grown < 160 << 20, "{grown} bytes");
    still_well(&site);
}

#[test]
fn nothing_is_written_and_no_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (site, _) = site(folder.path());
    let host = site.server.host();
    for (method, path, status) in [
        ("GET", "/git/shop.git/info/refs?service=git-receive-pack", 403),
        ("POST", "/git/shop.git/git-receive-pack", 403),
        ("GET", "/git/shop.git/info/refs", 403),
        ("GET", "/git/shop.git/info/refs?service=git-upload-archive", 403),
        ("GET", "/git/shop.git/HEAD", 403),
        ("GET", "/git/shop.git/objects/info/packs", 403),
        ("GET", UPLOAD, 405),
        ("PUT", "/git/shop.git/info/refs?service=git-upload-pack", 405),
        ("GET", "/git/shop.git/config", 404),
        ("GET", "/git/shop.git/../shop.git/config", 404),
        ("GET", "/git/../git/shop.git/info/refs?service=git-upload-pack", 404),
        ("GET", "/git/%2e%2e/shop.git/info/refs?service=git-upload-pack", 404),
        ("GET", "/git/..%2fshop.git/info/refs?service=git-upload-pack", 404),
        ("GET", "/git/..git/info/refs?service=git-upload-pack", 404),
        ("GET", "/git/.git/info/refs?service=git-upload-pack", 404),
        ("GET", "/git/shop/info/refs?service=git-upload-pack", 404),
        ("GET", "/git//shop.git/info/refs?service=git-upload-pack", 404),
        ("GET", "/git/other.git/info/refs?service=git-upload-pack", 404),
        ("GET", "/git/shop.git/info/refs/../../config?service=git-upload-pack", 404),
        ("GET", "/git/-x.git/info/refs?service=git-upload-pack", 404),
        ("GET", "/git/", 404),
    ] {
        let answer = request(host, method, path, &[], b"");
        assert_eq!(answer.status, status, "{method} {path}");
        assert!(!String::from_utf8_lossy(&answer.body).contains("[core]"), "{method} {path}");
    }
    let clone = folder.path().join("clone");
    site.git(folder.path(), "2", &["clone", "-q", "--depth", "1", &site.url(), clone.to_str().unwrap()]).ok();
    let pushed = site.git(&clone, "2", &["push", "origin", "HEAD:refs/heads/other"]);
    assert_ne!(pushed.code, 0);
    assert!(pushed.stderr.contains("403"), "{}", pushed.stderr);
    still_well(&site);
}

#[test]
fn clients_that_go_away_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let (site, commit) = site(folder.path());
    let body =
        format!("{}0000{}", packet(&format!("want {commit} side-band-64k ofs-delta\n")), packet("done\n"));
    let host = site.server.host();
    let idle = site.server.threads();
    let begin = Instant::now();
    // Three times as many as may be served at a time.
    for _ in 0..24 {
        let mut stream = connect(host);
        write!(
            stream,
            "POST {UPLOAD} HTTP/1.1\r\nHost: x\r\n{}: {}\r\nContent-Length: {}\r\n\r\n{body}",
            TYPE.0,
            TYPE.1,
            body.len()
        )
        .unwrap();
        // The answer has begun, and much of it is still to come.
        let mut first = [0; 1000];
        stream.read_exact(&mut first).unwrap();
    }
    let clone = folder.path().join("clone");
    site.git(folder.path(), "2", &["clone", "-q", "--bare", &site.url(), clone.to_str().unwrap()]).ok();
    assert!(begin.elapsed() < Duration::from_secs(100), "nobody waited for one that had gone");
    // Threads that have nothing to do end after some seconds, but for what the server does by itself.
    let begin = Instant::now();
    while site.server.threads() > idle + 4 {
        assert!(begin.elapsed() < Duration::from_mins(1), "{} threads", site.server.threads());
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(get(host, "/healthz", &[]).status, 200);
    still_well(&site);
}
