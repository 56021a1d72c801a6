//! `serve --archive`: the same registry straight from an archive, and what it does with a bad byte.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use fleetpack::archive::ArchiveFile;
use fleetpack::model::Digest;

use crate::support::command::{program, run};
use crate::support::http::{get, request};
use crate::support::served::{BULK, SIGNED, Site};

/// Copies `archive` with one bit flipped in blob `digest`, at byte `at` of it.
fn flipped(archive: &Path, to: &Path, digest: Digest, at: impl Fn(u64) -> u64) -> PathBuf {
    std::fs::copy(archive, to).unwrap();
    let (file, head) = ArchiveFile::open(archive).unwrap();
    let release = head.parse().unwrap();
    let (offset, size) = file.members(&release).unwrap().range_of(digest).unwrap();
    let file = File::options().read(true).write(true).open(to).unwrap();
    let mut byte = [0];
    let place = offset + at(size);
    file.read_exact_at(&mut byte, place).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], place).unwrap();
    to.to_owned()
}

/// The largest layer of an image without an index.
fn layer(host: &str, reference: &str) -> Digest {
    let (name, tag) = reference.rsplit_once(':').unwrap();
    let manifest = get(host, &format!("/v2/{name}/manifests/{tag}"), &[]).json();
    let layers = manifest["layers"].as_array().unwrap();
    let largest = layers.iter().max_by_key(|layer| layer["size"].as_u64()).unwrap();
    largest["digest"].as_str().unwrap().parse().unwrap()
}

#[test]
fn clients_pull_from_an_archive_and_never_a_wrong_byte() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path());
    let archive = site.build("v1", &[]);
    let mut permissions = std::fs::metadata(&archive).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&archive, permissions).unwrap();
    let server = site.serve_archive(&archive);
    let host = server.host();
    let bulk = layer(host, BULK);
    let config = get(host, "/v2/registry.example.com/shop/bulk/manifests/1.0", &[]).json();
    let config: Digest = config["config"]["digest"].as_str().unwrap().parse().unwrap();
    let web = layer(host, SIGNED);
    // A range is the first that anybody asks of this blob.
    let part = get(host, &format!("/v2/shop/bulk/blobs/{bulk}"), &[("Range", "bytes=1000000-1999999")]);
    assert_eq!((part.status, part.body.len()), (206, 1_000_000));
    site.clients(host);
    let clone = folder.path().join("clone");
    run(program("git", folder.path())
        .args(["clone", "--quiet", &format!("{}/git/shop.git", server.endpoint)])
        .arg(&clone))
    .ok();
    assert!(clone.join("deploy/base/shop.yaml").exists());
    assert_eq!(get(host, "/git/other.git/info/refs?service=git-upload-pack", &[]).status, 404);
    assert_eq!(server.stop().0, Some(0));

    for (name, place) in
        [("first", (|_| 0) as fn(u64) -> u64), ("middle", |size| size / 2), ("last", |size| size - 1)]
    {
        let bad = flipped(&archive, &folder.path().join(format!("{name}.tar")), bulk, place);
        let server = site.serve_archive(&bad);
        let host = server.host();
        let path = format!("/v2/shop/bulk/blobs/{bulk}");
        if name == "last" {
            // A part that is right by itself belongs to a blob that is not.
            let part = get(host, &path, &[("Range", "bytes=0-9")]);
            assert_eq!((part.status, part.code().as_str()), (500, "UNKNOWN"));
        } else {
            // Several at once, before anybody knows.
            std::thread::scope(|scope| {
                let asked: Vec<_> = (0..4).map(|_| scope.spawn(|| get(host, &path, &[]))).collect();
                for answer in asked {
                    let answer = answer.join().unwrap();
                    assert!(!(answer.status == 200 && answer.whole), "{name}: {} bytes", answer.body.len());
                }
            });
        }
        let known = get(host, &path, &[]);
        assert_eq!((known.status, known.code().as_str()), (500, "UNKNOWN"), "{name}: it is known now");
        assert_ne!(get(host, &path, &[("Range", "bytes=0-9")]).status, 206);
        assert_ne!(request(host, "HEAD", &path, &[], b"").status, 200);
        let copy = format!("dir:{}", folder.path().join(name).display());
        let from = format!("docker://{BULK}");
        assert_ne!(run(site.skopeo_at(host).args(["copy", "--quiet", &from, &copy])).code, 0, "{name}");
        // What is right is served as before.
        let good = get(host, &format!("/v2/shop/web/blobs/{web}"), &[]);
        assert_eq!((good.status, good.whole, Digest::of(&good.body)), (200, true, web));
        let copy = format!("dir:{}", folder.path().join(format!("{name}-web")).display());
        run(site.skopeo_at(host).args(["copy", "--quiet", &format!("docker://{SIGNED}"), &copy])).ok();
        assert_eq!(get(host, "/healthz", &[]).status, 200);
        drop(server);
        std::fs::remove_file(bad).unwrap();
    }

    // Small blobs and manifests: not even a part of them leaves.
    let manifest: Digest = site.bulk.parse().unwrap();
    for (kind, digest) in [("manifests", manifest), ("blobs", config)] {
        let bad = flipped(&archive, &folder.path().join(format!("{kind}.tar")), digest, |size| size / 3);
        let server = site.serve_archive(&bad);
        let path = format!("/v2/shop/bulk/{kind}/{digest}");
        let answer = get(server.host(), &path, &[]);
        assert_eq!((answer.status, answer.code().as_str()), (500, "UNKNOWN"));
        assert_eq!(get(server.host(), &path, &[]).status, 500);
    }

    // The head is verified before anything is served.
    let other = site.shop.folder.join("other.pub");
    run(site.shop.fleetpack().args(["keygen", "--output-key-prefix", "other"])).ok();
    let mut command = site.shop.fleetpack();
    command.args(["serve", "--listen", "127.0.0.1:0", "--archive"]).arg(&archive).arg("--key").arg(&other);
    run(&mut command).refused(3, &["v1.tar"]);
}
