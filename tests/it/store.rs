//! The store on disk: read by general OCI tools, and whole after its writer was killed.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use fleetpack::archive::{self, Head, Release};
use fleetpack::model::{
    BlobEntry, Digest, GitContent, GitRef, ImageEntry, ReleaseDocument, RenderedContent, media_type,
};
use fleetpack::store::{Store, StoreWriter};
use fleetpack::trust::{self, NewKeyPair, Verified};
use jiff::Timestamp;

use super::support::command::run;
use super::support::testbed::{script, testbed, tool};

/// A release in the making: blobs by digest, and the images that use them.
#[derive(Default)]
struct Draft {
    blobs: BTreeMap<Digest, (BlobEntry, Vec<u8>)>,
    images: Vec<ImageEntry>,
}

impl Draft {
    fn add(&mut self, bytes: &[u8], media_type: &str) -> Digest {
        let digest = Digest::of(bytes);
        let entry = BlobEntry { digest, size: bytes.len() as u64, media_type: media_type.to_owned() };
        self.blobs.insert(digest, (entry, bytes.to_vec()));
        digest
    }

    /// Takes an image out of a layout that skopeo wrote.
    fn image(&mut self, reference: &str, layout: &Path) {
        let blob = |digest: Digest| fs::read(layout.join("blobs/sha256").join(digest.hex())).unwrap();
        let parse = |bytes: &[u8]| -> serde_json::Value { serde_json::from_slice(bytes).unwrap() };
        let digest_of =
            |value: &serde_json::Value| -> Digest { value["digest"].as_str().unwrap().parse().unwrap() };
        let index = parse(&fs::read(layout.join("index.json")).unwrap());
        let manifest_bytes = blob(digest_of(&index["manifests"][0]));
        let manifest = parse(&manifest_bytes);
        let parts = manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]);
        for part in parts {
            self.add(&blob(digest_of(part)), part["mediaType"].as_str().unwrap());
        }
        let digest = self.add(&manifest_bytes, media_type::OCI_MANIFEST);
        self.images.push(ImageEntry {
            reference: reference.parse().unwrap(),
            digest,
            media_type: media_type::OCI_MANIFEST.to_owned(),
            platforms: Vec::new(),
            absent: Vec::new(),
            referrers: Vec::new(),
            used_by: Vec::new(),
        });
    }

    /// Signs it and passes it through the one door.
    fn release(&mut self, version: &str) -> Verified<Release> {
        let oid = "1".repeat(40);
        let (git, layer) = (format!("git {version}"), format!("layer {version}"));
        let layer_size = layer.len();
        let git = self.add(git.as_bytes(), media_type::GIT_BUNDLE);
        let layer = self.add(layer.as_bytes(), media_type::OCI_LAYER_GZIP);
        let empty = self.add(media_type::EMPTY_BYTES, media_type::EMPTY);
        let rendered = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": {"mediaType": media_type::EMPTY, "digest": empty, "size": 2},
            "layers": [{"mediaType": media_type::OCI_LAYER_GZIP, "digest": layer, "size": layer_size}],
        });
        let manifest = self.add(rendered.to_string().as_bytes(), media_type::OCI_MANIFEST);
        let mut blobs: Vec<BlobEntry> = self.blobs.values().map(|(entry, _)| entry.clone()).collect();
        blobs.sort_by_key(|blob| {
            let place = match blob.media_type.as_str() {
                _ if blob.digest == git => 1,
                _ if blob.digest == layer => 2,
                text if text.contains("json") => 0,
                _ => 3,
            };
            (place, blob.digest)
        });
        let document = ReleaseDocument {
            format: 1,
            requires: Vec::new(),
            name: "shop".parse().unwrap(),
            version: version.parse().unwrap(),
            sequence: 1,
            created: "2026-11-21T10:00:00Z".parse().unwrap(),
            generator: "fleetpack 0.1.0".to_owned(),
            git: GitContent {
                commit: oid.parse().unwrap(),
                refs: vec![GitRef { name: "refs/heads/main".parse().unwrap(), target: oid.parse().unwrap() }],
                bundle: git,
            },
            rendered: RenderedContent { manifest, layer, objects: Vec::new() },
            images: self.images.clone(),
            blobs,
        };
        let bytes = archive::document::to_bytes(&document);
        let manifest = archive::manifest::build(&document, &bytes).unwrap();
        static KEY: OnceLock<NewKeyPair> = OnceLock::new();
        let pair = KEY.get_or_init(|| NewKeyPair::generate("test.pub", b"").unwrap());
        let signatures = vec![trust::sign(&manifest, &pair.key).unwrap()];
        let index_json = archive::index::build(&document, &manifest, &signatures).unwrap();
        let head = Head { manifest, document: bytes, signatures, index_json, length: 0 };
        trust::verify(head, &[pair.key.public().clone()]).unwrap()
    }

    fn ingest(&self, store: &StoreWriter) {
        let mut ingest = store.ingest();
        for (entry, bytes) in self.blobs.values().filter(|(entry, _)| !store.has(entry)) {
            let mut blob = ingest.begin(entry).unwrap();
            blob.write_all(bytes).unwrap();
            blob.commit().unwrap();
        }
        ingest.finish().unwrap();
    }
}

#[test]
fn skopeo_and_oras_read_the_store_as_a_layout() {
    testbed(&["peers"]);
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(&folder.path().join("store"), "test").unwrap();
    let mut wanted = BTreeMap::new();
    for version in ["1.0", "1.1"] {
        let mut draft = Draft::default();
        let reference = format!("docker.io/library/web:{version}");
        let layout = folder.path().join(format!("layout-{version}"));
        let mut command = script("image");
        command
            .args(["make", "--name", &reference, "--file", &format!("version={version}"), "--oci"])
            .arg(&layout);
        let digest = run(&mut command).ok().stdout.trim().to_owned();
        draft.image(&reference, &layout);
        let release = draft.release(version);
        draft.ingest(&store);
        store.record(&release, Timestamp::UNIX_EPOCH).unwrap();
        wanted.insert(reference, digest);
    }
    let layout = store.folder().display().to_string();
    for (reference, digest) in &wanted {
        let name = format!("oci:{layout}:{reference}");
        let shown =
            run(tool("skopeo", folder.path()).args(["inspect", "--format", "{{.Digest}}", &name])).ok();
        assert_eq!(shown.stdout.trim(), digest);
        let copy = format!("dir:{}", folder.path().join(digest.replace(':', "-")).display());
        run(tool("skopeo", folder.path()).args(["copy", "--quiet", "--preserve-digests", &name, &copy])).ok();
    }
    let tags = run(tool("oras", folder.path()).args(["repo", "tags", "--oci-layout", &layout])).ok();
    for name in wanted.keys().map(String::as_str).chain(["fleetpack/shop:1.0-release", "fleetpack/shop:1.1"])
    {
        assert!(tags.stdout.lines().any(|line| line == name), "{name} in:\n{}", tags.stdout);
    }
    // The release's signature is found by general tools as what refers to it.
    let name = format!("{layout}@{}", store.releases().unwrap()[0].digest());
    let found =
        run(tool("oras", folder.path()).args(["discover", "--format", "json", "--oci-layout", &name])).ok();
    assert!(found.stdout.contains(media_type::SIGSTORE_BUNDLE), "{}", found.stdout);
}

const CHILD: &str = "FLEETPACK_TEST_STORE_CHILD";

/// What the killed process does: ingests blobs and records releases, for ever.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os(CHILD) else { return };
    let store = Store::open_or_create(Path::new(&folder), "child").unwrap();
    let last = store.releases().unwrap().first().map(|release| release.ingested().as_second());
    let start = u32::try_from(last.unwrap_or_default()).unwrap() + 1;
    for number in start.. {
        let mut draft = Draft::default();
        for blob in 0..30_u32 {
            let seed = Digest::of(&[number.to_le_bytes(), blob.to_le_bytes()].concat());
            draft.add(&seed.as_raw().repeat(blob as usize * 200), "application/octet-stream");
        }
        let release = draft.release(&format!("1.{number}"));
        draft.ingest(&store);
        let release = store.record(&release, Timestamp::from_second(i64::from(number)).unwrap()).unwrap();
        if let Some(before) = store.releases().unwrap().get(1) {
            store.retire(&[release.digest(), before.digest()]).unwrap();
        }
    }
}

/// When the newest release came in, in the child's count.
fn newest(path: &Path) -> Option<Timestamp> {
    let releases = Store::open_read_only(path).ok()?.releases().ok()?;
    releases.first().map(fleetpack::store::StoredRelease::ingested)
}

#[test]
fn a_writer_killed_at_any_time_leaves_whole_releases_and_no_rubbish() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let mut seen = 0;
    for round in 0..12_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::child_that_writes_until_it_is_killed"])
            .env(CHILD, &path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Somewhere in the second or third release that it records.
        let before = newest(&path);
        let begun = Instant::now();
        while newest(&path) == before && begun.elapsed() < Duration::from_secs(120) {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(11 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = Store::open_or_create(&path, "test").unwrap();
        let releases = store.releases().unwrap();
        assert!(newest(&path) > before, "the writer recorded nothing");
        for release in &releases {
            store.complete(release).unwrap();
            for blob in release.blobs() {
                store.read_blob(blob.digest, 1 << 24).unwrap();
            }
        }
        for entry in fs::read_dir(path.join("blobs/sha256")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            // Nothing has a final name that is not whole.
            store.read_blob(Digest::from_hex(&name).expect("no temporary file"), 1 << 24).unwrap();
        }
        seen = seen.max(releases.len());
    }
    assert!(seen >= 2, "the writer keeps two releases");
}
