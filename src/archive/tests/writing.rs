//! Writing: in any order, from many threads, refused before it begins or leaving nothing.

use std::fs;
use std::thread;

use super::*;
use crate::archive::ArchiveError;

impl Fixture {
    /// Digest of the release manifest.
    pub fn release(&self) -> Digest {
        let (_folder, path) = scratch();
        Writer::create(&path, &self.document).unwrap().digest()
    }
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().count() == 0
}

#[test]
fn placements_in_any_order_on_many_threads() {
    let fixture = Fixture::new();
    let (_folder, path) = scratch();
    let writer = Writer::create(&path, &fixture.document).unwrap();
    thread::scope(|scope| {
        for blob in fixture.document.blobs.iter().rev() {
            let mut placement = writer.placement(blob.digest).unwrap();
            let content = &fixture.contents[&blob.digest];
            scope.spawn(move || {
                // A first attempt that breaks off, and one that cannot resume.
                placement.write(&content[..content.len() / 2]).unwrap();
                assert_eq!(placement.written(), content.len() as u64 / 2);
                placement.restart();
                content.chunks(7).for_each(|chunk| placement.write(chunk).unwrap());
                placement.finish().unwrap();
            });
        }
    });
    let size = writer.size();
    let written = writer.finish(&[]).unwrap();
    assert_eq!((written.size, written.digest), (size, fixture.release()));
    assert_eq!(fs::read(&path).unwrap(), fixture.bytes(&[]));
}

#[test]
fn a_release_is_written_again_bit_for_bit() {
    let fixture = Fixture::new();
    let (_folder, path) = scratch();
    // A later tool has written a field that is not known here.
    let mut value = serde_json::to_value(&fixture.document).unwrap();
    value["remark"] = json!("of a later tool");
    let document_bytes = serde_json::to_vec(&value).unwrap();
    let manifest = super::super::manifest::build(&fixture.document, &document_bytes).unwrap();
    let bundles = vec![b"one".to_vec()];
    let release = Release {
        digest: Digest::of(&manifest),
        manifest,
        document_bytes,
        document: fixture.document.clone(),
        signatures: bundles.clone(),
        head_length: 0,
    };
    let writer = Writer::recreate(&path, &release).unwrap();
    assert_eq!(writer.digest(), release.digest);
    fixture.place_all(&writer).unwrap();
    writer.finish(&bundles).unwrap();
    let (found, _) = read(Source::open(&path).unwrap(), &Discard).unwrap();
    assert_eq!((found.digest, found.document_bytes), (release.digest, release.document_bytes));
}

#[test]
fn wrong_and_missing_blobs_leave_nothing() {
    let fixture = Fixture::new();
    let (folder, path) = scratch();
    let writer = Writer::create(&path, &fixture.document).unwrap();
    let bundle = fixture.document.git.bundle;
    let content = &fixture.contents[&bundle];

    let mut short = writer.placement(bundle).unwrap();
    short.write(&content[1..]).unwrap();
    let found = Digest::of(&content[1..]);
    assert_eq!(
        short.finish().unwrap_err().to_string(),
        format!("blob {bundle} came as 4999 bytes with digest {found}, wanted 5000 bytes")
    );
    let mut long = writer.placement(bundle).unwrap();
    long.write(content).unwrap();
    let error = long.write(b"x").unwrap_err().to_string();
    assert_eq!(error, format!("blob {bundle} has 5000 bytes, and more came"));
    let mut wrong = writer.placement(bundle).unwrap();
    wrong.write(&vec![0; content.len()]).unwrap();
    assert!(matches!(wrong.finish(), Err(ArchiveError::Placed { .. })));
    let error = writer.placement(Digest::of(b"other")).unwrap_err().to_string();
    assert!(error.contains("which was to be written"), "{error}");
    let error = writer.finish(&[]).unwrap_err().to_string();
    let count = fixture.document.blobs.len();
    assert!(
        error.starts_with(&format!("the release is not complete: {count} blobs were not written")),
        "{error}"
    );
    assert!(is_empty(folder.path()));
}

#[test]
fn outputs_that_cannot_be() {
    let document = Fixture::new().document;
    let (folder, path) = scratch();
    let refused = |path: &Path| Writer::create(path, &document).unwrap_err().to_string();
    let display = folder.path().display();
    assert_eq!(
        refused(folder.path()),
        format!("cannot write `{display}`: it is a folder, wanted a file name")
    );
    assert_eq!(
        refused(&folder.path().join("no/a.tar")),
        format!("cannot write `{display}/no/a.tar`: folder `{display}/no` does not exist")
    );
    assert_eq!(refused(Path::new("/dev/null")), "cannot write `/dev/null`: it is there and no regular file");
    assert_eq!(refused(Path::new("..")), "cannot write `..`: it is no file name");
    fs::write(folder.path().join("file"), b"").unwrap();
    let below = refused(&folder.path().join("file/a.tar"));
    assert!(below.contains("Not a directory"), "{below}");
    fs::remove_file(folder.path().join("file")).unwrap();
    // What was there stays until the new one is whole.
    fs::write(&path, b"old").unwrap();
    drop(Writer::create(&path, &document).unwrap());
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

#[test]
fn a_full_disk_is_known_before_the_first_byte() {
    let mut fixture = Fixture::new();
    fixture.document.blobs.last_mut().unwrap().size = 1 << 56;
    let (folder, path) = scratch();
    let error = Writer::create(&path, &fixture.document).unwrap_err();
    let ArchiveError::NoSpace { needed, available, .. } = &error else { panic!("{error}") };
    assert!(*needed > 1 << 56 && *available > 0 && available < needed, "{error}");
    assert!(error.to_string().starts_with("no space for `"), "{error}");
    assert!(is_empty(folder.path()));
}
