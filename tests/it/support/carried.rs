//! A release that is carried to a site without a cluster: a few objects, a small image, and layers
//! of noise in a known number and size, made without a registry.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use fleetpack::archive::{self, ArchiveFile};
use fleetpack::fsio::Hasher;
use fleetpack::model::{BlobEntry, Digest, LfsObject, media_type};
use fleetpack::trust::KeyFile;

use super::command::{Ended, fleetpack, run};
use super::depot::Server;
use super::repository::Repository;
use super::testbed::{script, testbed};

/// The repository, the images and the keys of a release line `carried`.
pub struct Carried {
    /// The folder that holds all of it.
    pub folder: PathBuf,
    /// The repository.
    pub repository: Repository,
}

/// A blob of an archive: its digest, where its content begins, and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its digest.
    pub digest: Digest,
    /// Offset of its content.
    pub offset: u64,
    /// Bytes of content.
    pub size: u64,
}

impl Carried {
    /// Makes one below `folder`.
    #[track_caller]
    pub fn new(folder: &Path) -> Self {
        testbed(&["peers", "mkimage"]);
        let carried =
            Self { folder: folder.to_owned(), repository: Repository::init(&folder.join("repository")) };
        run(carried.fleetpack().args(["keygen", "--output-key-prefix", "release"])).ok();
        carried
    }

    /// The binary under test, in the folder.
    pub fn fleetpack(&self) -> Command {
        let mut command = fleetpack(&self.folder);
        command.current_dir(&self.folder);
        command
    }

    /// Builds version `version`, whose image has a layer of noise for each of `layers`, so large.
    /// Other versions have other noise, but for the first layer.
    #[track_caller]
    pub fn build(&self, version: &str, layers: &[usize]) -> PathBuf {
        let image = format!("registry.example.com/carried/part:{version}");
        let mut command = script("image");
        command.args(["make", "--compression", "none", "--name", &image, "--oci"]);
        command.arg(self.folder.join("images"));
        for (number, size) in layers.iter().enumerate() {
            let tree = self.folder.join(format!("layer-{version}-{number}"));
            fs::create_dir_all(&tree).unwrap();
            let seed = if number == 0 { "0".to_owned() } else { format!("{version} {number}") };
            fs::write(tree.join(format!("noise-{number}")), noise(seed.as_bytes(), *size)).unwrap();
            command.args(["--add", tree.to_str().unwrap()]);
        }
        run(&mut command).ok();
        self.repository.write(
            "fleetpack.yaml",
            format!(
                "apiVersion: fleetpack.dev/v1\nkind: Release\nmetadata: {{name: carried}}\n\
                 version: \"{version}\"\nsources: [{{path: carried.yaml}}]\nimages: {{include: [\"{image}\"]}}\n"
            ),
        );
        let object = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: carried, namespace: default}\n";
        self.repository.write("carried.yaml", format!("{object}data: {{version: \"{version}\"}}\n"));
        self.repository.commit(&format!("release {version}"));
        let archive = self.folder.join(format!("carried-{version}.fleetpack.tar"));
        run(self.build_command(&archive).args(["--key", "release.key"])).ok();
        archive
    }

    /// `fleetpack build` of what was committed last, to `output`.
    pub fn build_command(&self, output: &Path) -> Command {
        let mut command = self.fleetpack();
        command.args(["build", "repository", "--images-from", "oci:images", "-o"]).arg(output);
        command
    }

    /// Runs a command on an archive, with the key that signed it.
    pub fn with_key(&self, command: &[&str], archive: &Path) -> Ended {
        run(self.fleetpack().args(command).args(["--key", "release.pub"]).arg(archive))
    }

    /// `fleetpack apply --seed-only` into `store`.
    pub fn seed_command(&self, archive: &Path, store: &Path) -> Command {
        let mut command = self.fleetpack();
        command.args(["apply", "--seed-only", "--key", "release.pub", "--store"]).arg(store).arg(archive);
        command
    }

    /// Seeds `store`.
    pub fn seed(&self, archive: &Path, store: &Path) -> Ended {
        run(&mut self.seed_command(archive, store))
    }

    /// A server on `store`.
    #[track_caller]
    pub fn serve(&self, store: &Path) -> Server {
        let mut command = self.fleetpack();
        command.args(["serve", "--listen", "127.0.0.1:0", "--store"]).arg(store);
        Server::start(&mut command, &self.folder.join("serve.log"))
    }
}

impl Carried {
    /// Writes the release of `base` again with `count` objects of Git LFS more, each of about `size`
    /// bytes of zeros, signed. Where they stand the archive has holes: it takes hardly any room.
    #[track_caller]
    pub fn hollow(&self, base: &Path, count: u64, size: u64) -> PathBuf {
        let (file, head) = ArchiveFile::open(base).unwrap();
        let mut release = head.parse().unwrap();
        let members = file.members(&release).unwrap();
        let read = |blob: &BlobEntry| members.read_verified(blob.digest, 64 << 20).unwrap();
        let contents: HashMap<Digest, Vec<u8>> =
            release.document.blobs.iter().map(|blob| (blob.digest, read(blob))).collect();
        // All begin alike, so that the long beginning is hashed once.
        let mut hasher = Hasher::new();
        let zeros = vec![0; 1 << 20];
        while hasher.length() < size {
            hasher.update(&zeros);
        }
        let mut objects: Vec<LfsObject> = (0..count)
            .map(|number| {
                hasher.update(&zeros[..512]);
                let (digest, size) = (hasher.clone().finish(), hasher.length());
                LfsObject { digest, size, paths: vec![format!("hollow/{number}")] }
            })
            .collect();
        objects.sort_by_key(|object| object.digest);
        let document = &mut release.document;
        let after =
            document.blobs.iter().position(|blob| blob.digest == document.rendered.layer).unwrap() + 1;
        let entries = objects.iter().map(|object| BlobEntry {
            digest: object.digest,
            size: object.size,
            media_type: media_type::GIT_LFS_OBJECT.to_owned(),
        });
        document.blobs.splice(after..after, entries.collect::<Vec<_>>());
        document.requires = vec![fleetpack::model::release::LFS.to_owned()];
        document.git.lfs = objects;
        release.document_bytes = archive::document::to_bytes(&release.document);
        release.manifest = archive::manifest::build(&release.document, &release.document_bytes).unwrap();
        release.signatures = Vec::new();
        let key = KeyFile::load(&self.folder.join("release.key")).unwrap().open(Some(b"")).unwrap();
        let bundles = [fleetpack::trust::sign(&release.manifest, &key).unwrap()];
        let layout = release.layout().unwrap();
        let path = self.folder.join(format!("hollow-{count}-{size}.fleetpack.tar"));
        let out = fs::File::create(&path).unwrap();
        out.set_len(layout.total).unwrap();
        let head =
            archive::head::to_bytes(&release.document, &release.document_bytes, &release.manifest, &bundles);
        out.write_all_at(&head.unwrap(), 0).unwrap();
        for (blob, place) in release.document.blobs.iter().zip(&layout.blobs) {
            let header = archive::header::header(archive::Member::Blob(blob.digest), blob.size);
            out.write_all_at(&header, place.header).unwrap();
            if let Some(content) = contents.get(&blob.digest) {
                out.write_all_at(content, place.content()).unwrap();
            }
        }
        path
    }
}

/// The blobs of `archive`, in their order.
pub fn blobs(archive: &Path) -> Vec<Place> {
    let (file, head) = ArchiveFile::open(archive).unwrap();
    let release = head.parse().unwrap();
    let members = file.members(&release).unwrap();
    let place = |digest: Digest| {
        let (offset, size) = members.range_of(digest).unwrap();
        Place { digest, offset, size }
    };
    release.document.blobs.iter().map(|blob| place(blob.digest)).collect()
}

/// The blobs of at least `size` bytes.
pub fn large(archive: &Path, size: u64) -> Vec<Place> {
    blobs(archive).into_iter().filter(|place| place.size >= size).collect()
}

/// Every file below `folder` but the lock and the record of the server, with its size, sorted: what
/// a store holds.
pub fn files(folder: &Path) -> Vec<(String, u64)> {
    fn walk(root: &Path, at: &Path, found: &mut Vec<(String, u64)>) {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                walk(root, &path, found);
            } else {
                let name = path.strip_prefix(root).unwrap().display().to_string();
                found.push((name, if metadata.is_symlink() { 0 } else { metadata.len() }));
            }
        }
    }
    let mut found = Vec::new();
    walk(folder, folder, &mut found);
    found.retain(|(name, _)| !matches!(name.as_str(), "lock" | "serve.json"));
    found.sort();
    found
}

/// Temporary files anywhere below `folder`.
pub fn rubbish(folder: &Path) -> Vec<String> {
    files(folder).into_iter().map(|(name, _)| name).filter(|name| name.contains("fleetpack-tmp")).collect()
}

/// Bytes that look like noise, the same for the same seed.
pub fn noise(seed: &[u8], length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for byte in seed {
        state = (state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3) | 1;
    }
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
