//! Git LFS at the site: what git-lfs fetches from a store and from an archive, and what it is refused.

use std::path::{Path, PathBuf};
use std::process::Command;

use fleetpack::archive::Writer;
use fleetpack::model::{BlobEntry, Digest, ReleaseDocument, media_type};
use fleetpack::trust::{self, NewKeyPair};
use serde_json::{Value, json};

use super::git_store::release;
use super::lfs::with_lfs;
use super::support::command::{Ended, fleetpack, program, run};
use super::support::depot::Server;
use super::support::http::{Answer, get, request};
use super::support::repository::Repository;
use super::support::served::noise;
use super::support::testbed::testbed;

const BATCH: &str = "/git/shop.git/info/lfs/objects/batch";

/// A signed release whose branch has two large files by pointers, and one that nobody carries.
struct Fleet {
    folder: tempfile::TempDir,
    archive: PathBuf,
    /// Content of `media/large.bin` and of `media/small.bin`.
    contents: [Vec<u8>; 2],
    document: ReleaseDocument,
}

fn pointer(content: &[u8]) -> String {
    let oid = Digest::of(content).hex();
    format!("version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {}\n", content.len())
}

fn oid(content: &[u8]) -> String {
    Digest::of(content).hex()
}

impl Fleet {
    fn new() -> Self {
        testbed(&["peers"]);
        let folder = tempfile::tempdir().unwrap();
        // More than one chunk, and less than one.
        let contents = [noise(3 << 20), b"small\n".to_vec()];
        let made = Repository::init(&folder.path().join("made"));
        made.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n");
        made.write("media/large.bin", pointer(&contents[0]));
        made.write("media/small.bin", pointer(&contents[1]));
        made.write("plain.txt", "plain\n");
        made.commit("Large files");
        let (archive, document) = archive(folder.path(), &made.path, &contents);
        let config = "[filter \"lfs\"]\nclean = git-lfs clean -- %f\nsmudge = git-lfs smudge -- %f\n\
                      process = git-lfs filter-process\nrequired = true\n";
        std::fs::write(folder.path().join("gitconfig"), config).unwrap();
        Self { folder, archive, contents, document }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn serve(&self, arguments: &[&str]) -> Server {
        let mut command = fleetpack(self.path());
        command.current_dir(self.path()).args(["serve", "--listen", "127.0.0.1:0"]).args(arguments);
        Server::start(&mut command, &self.path().join("serve.log"))
    }

    fn serve_archive(&self) -> Server {
        self.serve(&["--key", "release.pub", "--archive", self.archive.to_str().unwrap()])
    }

    /// A server of a store that the release was put into.
    fn serve_store(&self) -> Server {
        let mut command = fleetpack(self.path());
        command.current_dir(self.path()).args(["apply", "--seed-only", "--store", "store"]);
        let server = self.serve(&["--store", "store"]);
        run(command.args(["--key", "release.pub"]).arg(&self.archive)).ok();
        server
    }

    /// git with git-lfs as it is after `git lfs install`.
    fn git(&self, folder: &Path, arguments: &[&str]) -> Ended {
        let mut command: Command = program("git", self.path());
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("PATH", format!("{}:{path}", testbed(&["peers"]).join("bin").display()))
            .env("GIT_CONFIG_GLOBAL", self.path().join("gitconfig"))
            .current_dir(folder)
            .args(arguments);
        run(&mut command)
    }
}

/// The release of `made` with `contents`, made through the library and signed.
fn archive(folder: &Path, made: &Path, contents: &[Vec<u8>]) -> (PathBuf, ReleaseDocument) {
    let release = release(folder, made, "main", "1");
    let mut all = std::collections::HashMap::new();
    let mut add = |kind: &str, bytes: Vec<u8>| {
        let entry =
            BlobEntry { digest: Digest::of(&bytes), size: bytes.len() as u64, media_type: kind.to_owned() };
        all.insert(entry.digest, bytes);
        entry
    };
    let bundle = add(media_type::GIT_BUNDLE, std::fs::read(&release.bundle_path).unwrap());
    let layer = add(media_type::OCI_LAYER_GZIP, b"rendered".to_vec());
    let empty = add(media_type::EMPTY, media_type::EMPTY_BYTES.to_vec());
    let descriptor = |kind: &str, entry: &BlobEntry| json!({"mediaType": kind, "digest": entry.digest, "size": entry.size});
    let manifest = json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": descriptor(media_type::FLUX_CONFIG, &empty),
        "layers": [descriptor(media_type::OCI_LAYER_GZIP, &layer)]});
    let manifest = add(media_type::OCI_MANIFEST, manifest.to_string().into_bytes());
    let mut objects: Vec<_> =
        contents.iter().map(|content| add(media_type::GIT_LFS_OBJECT, content.clone())).collect();
    objects.sort_by_key(|object| object.digest);
    let lfs: Vec<_> = objects
        .iter()
        .map(|object| json!({"digest": object.digest, "size": object.size, "paths": ["media/x.bin"]}))
        .collect();
    let rendered = json!({"manifest": manifest.digest, "layer": layer.digest, "objects": []});
    let git = json!({"commit": release.commit, "refs": release.refs, "bundle": bundle.digest, "lfs": lfs});
    let mut blobs = vec![empty, manifest];
    blobs.sort_by_key(|blob| blob.digest);
    blobs.extend([bundle, layer]);
    blobs.extend(objects);
    let document: ReleaseDocument = serde_json::from_value(json!({
        "format": 1, "requires": ["git-lfs"], "name": "shop", "version": "1", "sequence": 1,
        "created": "2026-11-21T10:00:00Z", "generator": "fleetpack test",
        "git": git, "rendered": rendered, "images": [], "blobs": blobs,
    }))
    .unwrap();
    let path = folder.join("shop.tar");
    let writer = Writer::create(&path, &document).unwrap();
    for blob in &document.blobs {
        let mut placement = writer.placement(blob.digest).unwrap();
        placement.write(&all[&blob.digest]).unwrap();
        placement.finish().unwrap();
    }
    let key = NewKeyPair::generate("release.pub", b"").unwrap();
    std::fs::write(folder.join("release.pub"), &key.public_pem).unwrap();
    let signature = trust::sign(writer.manifest(), &key.key).unwrap();
    writer.finish(&[signature]).unwrap();
    (path, document)
}

#[test]
fn git_lfs_fetches_from_a_store_and_from_an_archive() {
    let fleet = Fleet::new();
    for (name, server) in [("store", fleet.serve_store()), ("archive", fleet.serve_archive())] {
        let url = format!("{}/git/shop.git", server.endpoint);
        let holds = |clone: &Path| {
            for (file, content) in ["large", "small"].iter().zip(&fleet.contents) {
                let found = std::fs::read(clone.join(format!("media/{file}.bin"))).unwrap();
                assert!(&found == content, "{name}: {file}");
            }
            fleet.git(clone, &["lfs", "fsck"]).ok();
            assert_eq!(fleet.git(clone, &["status", "--porcelain"]).ok().stdout, "");
        };
        // In one go, by the filter.
        let cloned = fleet.path().join(format!("{name}-clone"));
        fleet.git(fleet.path(), &["clone", "--quiet", &url, cloned.to_str().unwrap()]).ok();
        holds(&cloned);
        // Pointers first, as whoever skips the filter has them, and then the objects.
        let pulled = fleet.path().join(format!("{name}-pull"));
        let skip =
            ["-c", "filter.lfs.smudge=", "-c", "filter.lfs.process=", "-c", "filter.lfs.required=false"];
        let clone = ["clone", "--quiet", &url, pulled.to_str().unwrap()];
        fleet.git(fleet.path(), &[&skip[..], &clone].concat()).ok();
        let pointed = std::fs::read(pulled.join("media/small.bin")).unwrap();
        assert_eq!(pointed, pointer(&fleet.contents[1]).as_bytes());
        // A client may be told to look elsewhere for what the links name: behind a proxy that speaks TLS.
        let elsewhere = format!("url.http://127.0.0.1:1/.insteadOf={url}/info/lfs/objects/");
        let rewrite = ["-c", &elsewhere, "-c", "lfs.transfer.enableHrefRewrite=true"];
        let once = ["-c", "lfs.transfer.maxRetries=1", "lfs", "fetch"];
        let led = fleet.git(&pulled, &[&rewrite[..], &once].concat());
        assert_ne!(led.code, 0);
        assert!(led.stderr.contains("127.0.0.1:1"), "{}", led.stderr);
        fleet.git(&pulled, &["lfs", "pull"]).ok();
        holds(&pulled);
        // Who wants to send is refused in words.
        std::fs::write(pulled.join("media/new.bin"), "new").unwrap();
        fleet.git(&pulled, &["add", "media/new.bin"]).ok();
        let who = ["-c", "user.name=Tester", "-c", "user.email=tester@localhost"];
        fleet.git(&pulled, &[&who[..], &["commit", "--quiet", "-m", "new"]].concat()).ok();
        let pushed = fleet.git(&pulled, &["lfs", "push", "origin", "main"]);
        assert_ne!(pushed.code, 0);
        assert!(pushed.stderr.contains("read-only"), "{}", pushed.stderr);
    }
}

#[test]
fn what_a_build_carries_is_had_at_the_site() {
    let fleet = Fleet::new();
    let made = Repository::init(&fleet.path().join("built"));
    with_lfs(&made);
    let content = noise(2 << 20);
    made.write("media/film.bin", &content);
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: shop}\ndata: {a: b}\n";
    made.write("lfs-shop.yaml", map);
    let config = "apiVersion: fleetpack.dev/v1\nkind: Release\nmetadata: {name: fleet}\nversion: 1.0.0\n";
    made.write("fleetpack.yaml", format!("{config}sources: [{{path: lfs-shop.yaml}}]\n"));
    made.commit("Film");
    let own = |arguments: &[&str]| {
        let mut command = fleetpack(fleet.path());
        run(command.current_dir(fleet.path()).args(arguments)).ok()
    };
    own(&["keygen", "--output-key-prefix", "site"]);
    own(&["build", "built", "--key", "site.key", "--output", "built.tar"]);
    // The site has the archive alone.
    std::fs::remove_dir_all(&made.path).unwrap();
    let server = fleet.serve(&["--store", "site-store"]);
    own(&["apply", "--seed-only", "--store", "site-store", "--key", "site.pub", "built.tar"]);
    let url = format!("{}/git/fleet.git", server.endpoint);
    let cloned = fleet.path().join("site-clone");
    fleet.git(fleet.path(), &["clone", "--quiet", &url, cloned.to_str().unwrap()]).ok();
    assert!(std::fs::read(cloned.join("media/film.bin")).unwrap() == content);
    assert_eq!(std::fs::read_to_string(cloned.join("lfs-shop.yaml")).unwrap(), map);
    fleet.git(&cloned, &["lfs", "fsck"]).ok();
}

fn batch(server: &Server, path: &str, body: &[u8]) -> Answer {
    let headers =
        [("Accept", "application/vnd.git-lfs+json"), ("Content-Type", "application/vnd.git-lfs+json")];
    request(server.host(), "POST", path, &headers, body)
}

fn download(objects: &Value) -> Vec<u8> {
    json!({ "operation": "download", "transfers": ["basic"], "objects": objects }).to_string().into_bytes()
}

/// The message of an error, which stands in an answer of the LFS API.
#[track_caller]
fn told(answer: &Answer) -> String {
    assert_eq!(answer.header("content-type"), "application/vnd.git-lfs+json", "{answer:?}");
    answer.json()["message"].as_str().unwrap().to_owned()
}

#[test]
fn objects_are_had_whole_and_in_part_and_nothing_else_is() {
    let fleet = Fleet::new();
    let [large, _] = &fleet.contents;
    let at = |oid: &str| format!("/git/shop.git/info/lfs/objects/{oid}");
    for server in [fleet.serve_store(), fleet.serve_archive()] {
        let host = server.host();
        let objects = json!([{ "oid": oid(large), "size": large.len() }, { "oid": oid(b"no"), "size": 2 }]);
        for path in [BATCH, "/git/shop/info/lfs/objects/batch", "/git/shop/shop.git/info/lfs/objects/batch"] {
            let answer = batch(&server, path, &download(&objects));
            assert_eq!(answer.status, 200, "{path}: {answer:?}");
            assert_eq!(answer.header("content-type"), "application/vnd.git-lfs+json");
            let json = answer.json();
            let base = path.strip_suffix("/batch").unwrap();
            let href = format!("{}{base}/{}", server.endpoint, oid(large));
            assert_eq!(json["objects"][0]["actions"]["download"]["href"], href);
            assert_eq!(json["objects"][1]["error"]["code"], 404);
            assert_eq!(get(host, href.strip_prefix(&server.endpoint).unwrap(), &[]).status, 200);
        }
        let path = at(&oid(large));
        let whole = get(host, &path, &[]);
        assert!(whole.whole && whole.body == *large);
        let tag = whole.header("etag").to_owned();
        assert_eq!(get(host, &path, &[("If-None-Match", &tag)]).status, 304);
        let head = request(host, "HEAD", &path, &[], b"");
        assert_eq!((head.status, head.header("content-length")), (200, &*large.len().to_string()));
        let part = get(host, &path, &[("Range", "bytes=1048576-")]);
        assert_eq!((part.status, part.body == large[1 << 20..]), (206, true));
        let outside = get(host, &path, &[("Range", "bytes=99999999-")]);
        assert_eq!((outside.status, outside.header("content-range")), (416, "bytes */3145728"));
        told(&outside);

        // Blobs of the release that are no objects, other releases, odd names.
        for digest in [fleet.document.git.bundle, fleet.document.rendered.layer] {
            assert_eq!(get(host, &format!("/v2/fleetpack/shop/blobs/{digest}"), &[]).status, 200);
            assert!(told(&get(host, &at(&digest.hex()), &[])).contains("no release"));
            let size = fleet.document.blob(digest).unwrap().size;
            let answer = batch(&server, BATCH, &download(&json!([{ "oid": digest.hex(), "size": size }])));
            assert_eq!(answer.json()["objects"][0]["error"]["code"], 404);
        }
        for (path, status) in [
            (at("../../../../etc/passwd"), 422),
            (at("..%2f..%2fstore"), 422),
            (at(&oid(large).to_uppercase()), 422),
            (at(&format!("sha256:{}", oid(large))), 422),
            (at(""), 422),
            (path.replace("shop.git", "other.git"), 404),
            (path.replace("shop.git", "shop/other.git"), 404),
            (path.replace("shop.git", "../shop.git"), 404),
            (BATCH.to_owned(), 405),
            ("/git/shop.git/info/lfs/locks".to_owned(), 404),
            ("/git/shop.git/info/lfs/".to_owned(), 404),
        ] {
            let answer = get(host, &path, &[]);
            assert_eq!(answer.status, status, "{path}");
            told(&answer);
        }
        for (method, path, status) in [
            ("PUT", &*path, 403),
            ("DELETE", &path, 403),
            ("POST", "/git/shop.git/info/lfs/locks", 403),
            ("POST", "/git/shop.git/info/lfs/locks/verify", 404),
        ] {
            let answer = request(host, method, path, &[], b"{}");
            assert_eq!(answer.status, status, "{method} {path}");
            told(&answer);
        }
    }
}

#[test]
fn batches_that_no_client_should_send_are_refused() {
    let fleet = Fleet::new();
    let server = fleet.serve_archive();
    let many = |count: usize| download(&vec![json!({ "oid": oid(b"no"), "size": 2 }); count].into());
    for (body, status) in [
        (b"hello".to_vec(), 400),
        (b"{\"operation\":".to_vec(), 400),
        (vec![b'['; 100_000], 422),
        (b"{}".to_vec(), 422),
        (json!({ "operation": "upload", "objects": [] }).to_string().into_bytes(), 403),
        (json!({ "operation": "download", "hash_algo": "md5", "objects": [] }).to_string().into_bytes(), 409),
        (many(1001), 413),
    ] {
        let answer = batch(&server, BATCH, &body);
        assert_eq!(answer.status, status, "{}", String::from_utf8_lossy(&body[..body.len().min(80)]));
        told(&answer);
    }
    assert_eq!(batch(&server, BATCH, &many(1000)).status, 200);
    // The server closes on who goes on sending, and its answer may be lost with the connection.
    for body in [many(10_000), vec![b' '; 32 << 20]] {
        assert!(matches!(batch(&server, BATCH, &body).status, 0 | 413));
    }
    let announced = request(server.host(), "POST", BATCH, &[("Content-Length", "1099511627776")], b"");
    assert_eq!(announced.status, 413);
    let deflated = request(server.host(), "POST", BATCH, &[("Content-Encoding", "gzip")], b"x");
    assert_eq!(deflated.status, 415);
    assert_eq!(batch(&server, BATCH, &many(1)).status, 200, "it goes on");
    let log = std::fs::read_to_string(fleet.path().join("serve.log")).unwrap();
    assert!(!log.contains("panicked"), "{log}");
}
