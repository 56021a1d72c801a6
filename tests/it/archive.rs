//! What the writer writes, read by tools that know nothing of it: tar, skopeo, oras.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use fleetpack::archive::header::{Member, header};
use fleetpack::archive::{Discard, Source, Writer, add_signature, read_head, stream};
use fleetpack::model::progress::Silent;
use fleetpack::model::{BlobEntry, Digest, ReleaseDocument, media_type};
use serde_json::{Value, json};

use crate::support::command::{program, run};
use crate::support::testbed::{script, tool};

const IMAGE: &str = "registry.example.com/shop/web:1.0";
/// The same with a port, a tag and (added below) a digest.
const PINNED: &str = "registry.example.com:5000/shop/web:1.0";

/// An archive of a real multi-architecture image under two names, signed once.
struct Made {
    path: PathBuf,
    image: Digest,
    document: ReleaseDocument,
    release: Digest,
}

/// The blobs of the layout at `layout`, with the media types that its manifests give them.
fn blobs_of(layout: &Path, root: &str, contents: &mut HashMap<Digest, Vec<u8>>) -> [Vec<BlobEntry>; 2] {
    let mut small = Vec::new();
    let mut large = Vec::new();
    let mut waiting = vec![(root.to_owned(), None::<String>, true)];
    while let Some((digest, kind, is_small)) = waiting.pop() {
        let digest: Digest = digest.parse().unwrap();
        let bytes = fs::read(layout.join("blobs/sha256").join(digest.hex())).unwrap();
        let parsed = serde_json::from_slice::<Value>(&bytes).unwrap_or_default();
        let kind = kind.unwrap_or_else(|| parsed["mediaType"].as_str().unwrap().to_owned());
        if media_type::is_manifest(&kind) || media_type::is_index(&kind) {
            for (key, is_small) in [("manifests", true), ("config", true), ("layers", false)] {
                let named = match &parsed[key] {
                    Value::Array(all) => all.clone(),
                    Value::Null => Vec::new(),
                    one => vec![one.clone()],
                };
                waiting.extend(named.iter().map(|descriptor| {
                    let text = |key: &str| descriptor[key].as_str().unwrap().to_owned();
                    (text("digest"), Some(text("mediaType")), is_small)
                }));
            }
        }
        let entry = BlobEntry { digest, size: bytes.len() as u64, media_type: kind };
        if contents.insert(digest, bytes).is_none() {
            if is_small { &mut small } else { &mut large }.push(entry);
        }
    }
    [small, large]
}

fn make(folder: &Path) -> Made {
    let layout = folder.join("layout");
    let arguments = ["make", "--name", IMAGE, "--platform", "linux/amd64,linux/arm64", "--oci"];
    let image = run(script("image").args(arguments).arg(&layout)).ok().stdout.trim().to_owned();
    let mut contents = HashMap::new();
    let [mut small, large] = blobs_of(&layout, &image, &mut contents);
    let mut add = |kind: &str, bytes: &[u8]| {
        let entry =
            BlobEntry { digest: Digest::of(bytes), size: bytes.len() as u64, media_type: kind.to_owned() };
        contents.insert(entry.digest, bytes.to_vec());
        entry
    };
    let bundle = add(media_type::GIT_BUNDLE, b"# v2 git bundle\n\n");
    let layer = add(media_type::OCI_LAYER_GZIP, b"rendered");
    let descriptor = |kind: &str, entry: &BlobEntry| json!({"mediaType": kind, "digest": entry.digest, "size": entry.size});
    let empty = add(media_type::EMPTY, media_type::EMPTY_BYTES);
    let manifest = json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": descriptor(media_type::FLUX_CONFIG, &empty),
        "layers": [descriptor(media_type::OCI_LAYER_GZIP, &layer)]});
    let manifest = add(media_type::OCI_MANIFEST, manifest.to_string().as_bytes());
    let rendered = json!({"manifest": manifest.digest, "layer": layer.digest, "objects": []});
    small.extend([empty, manifest]);
    small.sort_by_key(|blob| blob.digest);
    let bundle_digest = bundle.digest;
    small.extend([bundle, layer]);
    small.extend(large);
    let commit = "1".repeat(40);
    let entry = |reference: &str| json!({"reference": reference, "digest": image, "mediaType": media_type::OCI_INDEX});
    let document: ReleaseDocument = serde_json::from_value(json!({
        "format": 1, "name": "shop", "version": "1.0", "sequence": 1,
        "created": "2026-11-21T10:00:00Z", "generator": "fleetpack test",
        "git": {"commit": commit, "refs": [{"name": "refs/heads/main", "target": commit}], "bundle": bundle_digest},
        "rendered": rendered,
        "images": [entry(IMAGE), entry(&format!("{PINNED}@{image}"))],
        "blobs": small,
    }))
    .unwrap();

    let path = folder.join("shop-1.0.fleetpack.tar");
    let writer = Writer::create(&path, &document).unwrap();
    for blob in &document.blobs {
        let mut placement = writer.placement(blob.digest).unwrap();
        placement.write(&contents[&blob.digest]).unwrap();
        placement.finish().unwrap();
    }
    let release = writer.digest();
    writer.finish(&[b"{\"one\":1}".to_vec()]).unwrap();
    add_signature(&path, None, release, b"{\"two\":2}".to_vec()).unwrap();
    Made { path, image: image.parse().unwrap(), document, release }
}

#[test]
fn tar_lists_plain_files_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let made = make(folder.path());
    let listed = run(program("tar", folder.path()).arg("tvf").arg(&made.path)).ok();
    assert_eq!(listed.stderr, "", "tar has nothing to remark");
    let lines: Vec<&str> = listed.stdout.lines().collect();
    assert!(
        lines.iter().all(|line| line.starts_with("-rw-r--r-- 0/0") && line.contains(" 1970-01-01 00:00 ")),
        "{}",
        listed.stdout
    );
    let names: Vec<&str> = lines.iter().map(|line| line.rsplit(' ').next().unwrap()).collect();
    let release = format!("blobs/sha256/{}", made.release.hex());
    assert_eq!(names[..3], ["oci-layout", "index.json", &release]);
    // Two signatures, each with its manifest, and the filler.
    assert_eq!(names[8], "signatures.reserved");
    let blobs: Vec<_> =
        made.document.blobs.iter().map(|blob| format!("blobs/sha256/{}", blob.digest.hex())).collect();
    assert_eq!(names[9..], blobs);

    let unpacked = folder.path().join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    run(tool("busybox", folder.path()).args(["tar", "xf"]).arg(&made.path).arg("-C").arg(&unpacked)).ok();
    for name in names.iter().filter_map(|name| name.strip_prefix("blobs/sha256/")) {
        let bytes = fs::read(unpacked.join("blobs/sha256").join(name)).unwrap();
        assert_eq!(Digest::of(&bytes).hex(), name);
    }
}

#[test]
fn skopeo_reads_every_image() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    let made = make(home);
    let pinned = format!("{PINNED}@{}", made.image);
    for name in [IMAGE, &pinned, "fleetpack/shop:1.0"] {
        let source = format!("oci-archive:{}:{name}", made.path.display());
        let raw = tool("skopeo", home).args(["inspect", "--raw", &source]).output().unwrap();
        assert!(raw.status.success(), "{name}: {}", String::from_utf8_lossy(&raw.stderr));
        let wanted =
            if name.starts_with("fleetpack/") { made.document.rendered.manifest } else { made.image };
        assert_eq!(Digest::of(&raw.stdout), wanted, "{name}");
    }
    let source = format!("oci-archive:{}:{IMAGE}", made.path.display());
    let copy = home.join("copy");
    run(tool("skopeo", home)
        .args(["copy", "--quiet", "--all", "--preserve-digests", "--insecure-policy", &source])
        .arg(format!("oci:{}:x", copy.display())))
    .ok();
    let index: Value = serde_json::from_slice(&fs::read(copy.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["digest"], json!(made.image));
}

#[test]
fn oras_finds_the_signatures() {
    let folder = tempfile::tempdir().unwrap();
    let made = make(folder.path());
    let subject = format!("{}@{}", made.path.display(), made.release);
    let found =
        run(tool("oras", folder.path()).args(["discover", "--oci-layout", "--format", "json", &subject]))
            .ok();
    let found = found.json();
    let referrers = found["referrers"].as_array().or(found["manifests"].as_array()).unwrap();
    assert_eq!(referrers.len(), 2, "{found}");
    assert!(referrers.iter().all(|one| one["artifactType"] == json!(media_type::SIGSTORE_BUNDLE)), "{found}");
    let fetched = run(tool("oras", folder.path()).args(["manifest", "fetch", "--oci-layout", &subject])).ok();
    assert_eq!(fetched.json()["artifactType"], json!(media_type::RELEASE));
}

#[test]
fn tar_reads_sizes_beyond_eight_gibibytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.tar");
    let size = (9_u64 << 30) + 7;
    let member = Member::Blob(Digest::of(b"x"));
    let file = File::create(&path).unwrap();
    file.write_all_at(&header(member, size), 0).unwrap();
    // Sparse: nine gibibytes that are not there.
    file.set_len(512 + size.next_multiple_of(512) + 1024).unwrap();
    let listed = run(program("tar", folder.path()).arg("tvf").arg(&path)).ok();
    assert!(
        listed.stdout.contains(&size.to_string()) && listed.stdout.contains(&member.to_string()),
        "{listed:?}"
    );
}

#[test]
fn a_fifo_is_read_as_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    let made = make(folder.path());
    let fifo = folder.path().join("fifo");
    run(program("mkfifo", folder.path()).arg(&fifo)).ok();
    let bytes = fs::read(&made.path).unwrap();
    std::thread::scope(|scope| {
        let target = fifo.clone();
        scope.spawn(move || {
            let mut pipe = File::options().write(true).open(target).unwrap();
            bytes.chunks(7001).for_each(|part| pipe.write_all(part).unwrap());
        });
        let mut source = Source::open(&fifo).unwrap();
        assert!(matches!(source, Source::Pipe(_)));
        let release = read_head(&mut source).unwrap().parse().unwrap();
        assert_eq!(release.digest, made.release);
        let report = stream(source, &release, &Discard, &Silent).unwrap();
        assert_eq!(report.checked, made.document.blobs.len() as u64);
    });
}
