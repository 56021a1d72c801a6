//! The store on disk: read by general OCI tools, and whole after its writer was killed.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use fleetpack::archive::stream::{Source, StreamReport, stream};
use fleetpack::archive::{self, ArchiveError, Head, Release, read_head};
use fleetpack::model::progress::Silent;
use fleetpack::model::{
    BlobEntry, Digest, ErrorClass, GitContent, GitRef, ImageEntry, ReleaseDocument, RenderedContent,
    media_type,
};
use fleetpack::store::{Store, StoreWriter};
use fleetpack::trust::{self, NewKeyPair, Verified};
use jiff::Timestamp;

use super::support::command::{fleetpack, run};
use super::support::depot::Server;
use super::support::testbed::{script, testbed, tool};

/// The key of all releases here: making one takes a while.
fn key() -> &'static NewKeyPair {
    static KEY: OnceLock<NewKeyPair> = OnceLock::new();
    KEY.get_or_init(|| NewKeyPair::generate("test.pub", b"").unwrap())
}

/// A release in the making: blobs by digest, and the images that use them.
#[derive(Clone, Default)]
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
        self.list(reference, digest);
    }

    /// Makes an image of these layers.
    fn made_image(&mut self, reference: &str, layers: impl IntoIterator<Item = Vec<u8>>) {
        let mut layers: Vec<_> = layers.into_iter().collect();
        // The document lists them in the order in which the manifest does: here by digest.
        layers.sort_by_cached_key(|layer| Digest::of(layer));
        let layer = |bytes: &Vec<u8>| {
            let digest = self.add(bytes, "application/vnd.oci.image.layer.v1.tar");
            serde_json::json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": bytes.len(),
            })
        };
        let layers: Vec<_> = layers.iter().map(layer).collect();
        let config = br#"{"architecture":"amd64","os":"linux"}"#;
        let config_type = "application/vnd.oci.image.config.v1+json";
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": {"mediaType": config_type, "digest": self.add(config, config_type), "size": config.len()},
            "layers": layers,
        });
        let digest = self.add(manifest.to_string().as_bytes(), media_type::OCI_MANIFEST);
        self.list(reference, digest);
    }

    fn list(&mut self, reference: &str, digest: Digest) {
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
        let document = self.document(version);
        let bytes = archive::document::to_bytes(&document);
        let manifest = archive::manifest::build(&document, &bytes).unwrap();
        let pair = key();
        let signatures = vec![trust::sign(&manifest, &pair.key).unwrap()];
        let index_json = archive::index::build(&document, &manifest, &signatures).unwrap();
        let head = Head { manifest, document: bytes, signatures, index_json, length: 0 };
        trust::verify(head, std::slice::from_ref(pair.key.public())).unwrap()
    }

    /// The archive of it, signed, at `path`.
    fn archive(&mut self, version: &str, path: &Path) {
        let writer = archive::writer::Writer::create(path, &self.document(version)).unwrap();
        for (digest, (_, bytes)) in &self.blobs {
            let mut placement = writer.placement(*digest).unwrap();
            placement.write(bytes).unwrap();
            placement.finish().unwrap();
        }
        let bundle = trust::sign(writer.manifest(), &key().key).unwrap();
        writer.finish(&[bundle]).unwrap();
    }

    fn document(&mut self, version: &str) -> ReleaseDocument {
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
        ReleaseDocument {
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
                submodules: Vec::new(),
                lfs: Vec::new(),
            },
            rendered: RenderedContent { manifest, layer, objects: Vec::new() },
            images: self.images.clone(),
            blobs,
        }
    }

    fn ingest(&self, store: &StoreWriter) {
        let ingest = store.ingest();
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

/// Streams an archive into the store, as `apply` does it.
fn apply(archive: &Path, store: &StoreWriter) -> Result<StreamReport, ArchiveError> {
    let mut source = Source::open(archive)?;
    let head = read_head(&mut source)?;
    let release = trust::verify(head, std::slice::from_ref(key().key.public())).unwrap();
    let ingest = store.ingest();
    let report = stream(source, &release, &ingest, &Silent)?;
    let written = ingest.finish().unwrap();
    assert_eq!((written.blobs, written.bytes), (report.stored, report.stored_bytes));
    store.record(&release, Timestamp::UNIX_EPOCH).unwrap();
    Ok(report)
}

#[test]
fn an_archive_streams_into_the_store_and_each_blob_is_written_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(&folder.path().join("store"), "test").unwrap();
    let mut draft = Draft::default();
    let layer =
        |number: u32| Digest::of(&number.to_le_bytes()).as_raw().repeat(if number < 4 { 60_000 } else { 50 });
    draft.made_image("r.example.com/app:1", (0..120).map(layer));
    let (one, two) = (folder.path().join("1.tar"), folder.path().join("2.tar"));
    draft.clone().archive("1", &one);
    let all = u64::try_from(draft.clone().document("1").blobs.len()).unwrap();
    let first = apply(&one, &store).unwrap();
    assert_eq!((first.stored, first.skipped), (all, 0));
    let again = apply(&one, &store).unwrap();
    assert_eq!((again.stored, again.skipped), (0, all));
    // The second release has three blobs of its own: Git, rendered manifest and layer.
    draft.archive("2", &two);
    assert_eq!(apply(&two, &store).unwrap().stored, 3);
    for release in store.releases().unwrap() {
        store.complete(&release).unwrap();
        assert!(release.blobs().all(|blob| store.read_blob(blob.digest, 1 << 24).is_ok()));
    }
    assert_eq!(store.releases().unwrap().len(), 2);
}

#[test]
fn a_tampered_archive_leaves_no_release_and_no_wrong_blob() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(&folder.path().join("store"), "test").unwrap();
    let mut draft = Draft::default();
    draft.made_image("r.example.com/app:1", (0..20_u32).map(|number| number.to_le_bytes().repeat(3000)));
    let path = folder.path().join("1.tar");
    draft.archive("1", &path);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.len() - 30_000;
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = apply(&path, &store).unwrap_err();
    assert!(matches!(error, ArchiveError::Digest { .. }), "{error}");
    assert_eq!(error.class(), ErrorClass::Refused);
    assert!(store.releases().unwrap().is_empty());
    for entry in fs::read_dir(store.folder().join("blobs/sha256")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        store.read_blob(Digest::from_hex(&name).expect("no temporary file"), 1 << 24).unwrap();
    }
}

/// What clients spell differently leads to one image; releases and their signatures are served too.
#[test]
fn clients_find_images_however_they_spell_them() {
    testbed(&["peers"]);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut draft = Draft::default();
    draft.made_image("docker.io/library/web:1.0", [b"web".to_vec()]);
    draft.made_image("a.example.com/both:1", [b"a".to_vec()]);
    draft.made_image("b.example.com/both:1", [b"b".to_vec()]);
    draft.images.sort_by(|a, b| a.reference.cmp(&b.reference));
    draft.archive("1.0", &path("release.tar"));
    let store = Store::open_or_create(&path("store"), "test").unwrap();
    apply(&path("release.tar"), &store).unwrap();
    drop(store);
    let digest = |reference: &str| {
        draft.images.iter().find(|image| image.reference.to_string() == reference).unwrap().digest.to_string()
    };
    let mut command = fleetpack(folder.path());
    command.args(["serve", "--listen", "127.0.0.1:0", "--store"]).arg(path("store"));
    let server = Server::start(&mut command, &path("serve.log"));
    let host = server.endpoint.strip_prefix("http://").unwrap().to_owned();
    let crane = |arguments: &[&str]| run(tool("crane", folder.path()).args(arguments));
    for (name, want) in [
        ("docker.io/library/web:1.0", "docker.io/library/web:1.0"),
        ("docker.io/web:1.0", "docker.io/library/web:1.0"),
        ("library/web:1.0", "docker.io/library/web:1.0"),
        ("a.example.com/both:1", "a.example.com/both:1"),
        ("b.example.com/both:1", "b.example.com/both:1"),
    ] {
        let found = crane(&["digest", "--insecure", &format!("{host}/{name}")]).ok().stdout;
        assert_eq!(found.trim(), digest(want), "{name}");
    }
    let error = crane(&["digest", "--insecure", &format!("{host}/both:1")]);
    assert!(error.code != 0, "two registries have a `both`");
    let release = crane(&["digest", "--insecure", &format!("{host}/fleetpack/shop:1.0-release")]).ok().stdout;
    let name = format!("{host}/fleetpack/shop@{}", release.trim());
    let found =
        run(tool("oras", folder.path()).args(["discover", "--plain-http", "--format", "json", &name])).ok();
    assert!(found.stdout.contains(media_type::SIGSTORE_BUNDLE), "{}", found.stdout);
}

const CHILD: &str = "FLEETPACK_TEST_STORE_CHILD";

/// Opens the store for writing. A program that another test starts has this process's locks between
/// its fork and its exec, so a lock may outlive the value that held it by a moment.
fn open_once_free(path: &Path, who: &str) -> StoreWriter {
    let begun = Instant::now();
    loop {
        match Store::open_or_create(path, who) {
            Err(error) if error.class() == ErrorClass::Locked && begun.elapsed() < Duration::from_mins(1) => {
                std::thread::sleep(Duration::from_millis(5));
            }
            opened => return opened.unwrap(),
        }
    }
}

/// What the killed process does: ingests blobs and records releases, for ever.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os(CHILD) else { return };
    let store = open_once_free(Path::new(&folder), "child");
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
            store.retire(&[release.digest(), before.digest()], &std::collections::HashSet::new()).unwrap();
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
            .stdout(fs::File::create(folder.path().join("child.log")).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Somewhere in the second or third release that it records.
        let before = newest(&path);
        let begun = Instant::now();
        while newest(&path) == before
            && child.try_wait().unwrap().is_none()
            && begun.elapsed() < Duration::from_mins(2)
        {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(11 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = open_once_free(&path, "test");
        let releases = store.releases().unwrap();
        assert!(
            newest(&path) > before,
            "the writer recorded nothing: {}",
            fs::read_to_string(folder.path().join("child.log")).unwrap()
        );
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
