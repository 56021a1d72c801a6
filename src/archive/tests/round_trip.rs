//! What was written is what is read, from a file and from a pipe.

use std::fs;

use super::*;
use crate::archive::{ArchiveFile, add_signature};
use crate::fsio::limits;

#[test]
fn both_sources_give_every_blob_once() {
    let fixture = Fixture::new();
    let bundles = [b"{\"b\":1}".to_vec(), b"{\"a\":1}".to_vec()];
    let total: u64 = fixture.document.blobs.iter().map(|blob| blob.size).sum();
    for source in sources(&fixture.bytes(&bundles)) {
        let keep = Keep::default();
        let (release, report) = read(source, &keep).unwrap();
        assert_eq!(release.document, fixture.document);
        assert_eq!(release.digest, Digest::of(&release.manifest));
        let mut signatures = release.signatures;
        signatures.sort();
        assert_eq!(signatures, [bundles[1].clone(), bundles[0].clone()]);
        assert_eq!(*keep.kept.lock().unwrap(), fixture.contents);
        let count = fixture.document.blobs.len() as u64;
        let want = StreamReport {
            checked: count,
            checked_bytes: total,
            stored: count,
            stored_bytes: total,
            ..StreamReport::default()
        };
        assert_eq!(report, want);
    }
}

#[test]
fn large_blobs_pass_in_many_chunks() {
    let fixture = Fixture::with_layer(23 << 20);
    for source in sources(&fixture.bytes(&[])) {
        let keep = Keep::default();
        read(source, &keep).unwrap();
        assert!(*keep.kept.lock().unwrap() == fixture.contents);
    }
}

#[test]
fn the_same_release_is_the_same_bytes_whatever_the_signatures() {
    let fixture = Fixture::new();
    let plain = fixture.bytes(&[]);
    assert_eq!(plain, fixture.bytes(&[]));
    let signed = fixture.bytes(&[b"one".to_vec()]);
    assert_eq!(plain.len(), signed.len());
    let [plain, signed] = [plain, signed].map(|bytes| read_head(&mut Cursor::new(bytes)).unwrap());
    assert_eq!(
        (plain.manifest, plain.document, plain.length),
        (signed.manifest, signed.document, signed.length)
    );
    assert_ne!(plain.index_json, signed.index_json);
}

#[test]
fn what_the_sink_has_is_not_read() {
    let fixture = Fixture::new();
    let bytes = fixture.bytes(&[]);
    let release = read_head(&mut Cursor::new(&bytes)).unwrap().parse().unwrap();
    let layout = release.layout().unwrap();
    let small = fixture.document.blobs.iter().position(|b| b.digest == fixture.document.git.bundle).unwrap();
    let held: Vec<_> = fixture.document.blobs.iter().map(|blob| blob.digest).collect();
    // All large members are gone from the medium, headers included; whoever reads them, notices.
    let mut damaged = bytes.clone();
    let from = usize::try_from(layout.blobs[small].header).unwrap();
    let to = usize::try_from(layout.trailer()).unwrap();
    damaged[from..to].fill(0xff);
    let keep = Keep { held: held.clone(), ..Keep::default() };
    let [file, _] = sources(&damaged);
    let (_, report) = read(file, &keep).unwrap();
    assert_eq!((report.stored, report.skipped), (0, held.len() as u64));
    assert!(report.checked > 0 && report.checked < small as u64 + 1, "manifests only: {report:?}");
    // A pipe has to pass them, and a sink that has them does not take them again.
    let [_, pipe] = sources(&bytes);
    let (_, report) = read(pipe, &keep).unwrap();
    assert_eq!((report.stored, report.skipped), (0, held.len() as u64));
    assert!(keep.kept.lock().unwrap().is_empty());
}

#[test]
fn signatures_are_added_beside_the_signed_bytes() {
    let fixture = Fixture::new();
    let (folder, path) = scratch();
    fixture.write(&path, &[b"one".to_vec()]).unwrap();
    let release = fixture.release();
    let other = folder.path().join("b.tar");
    let written = add_signature(&path, Some(&other), release, b"two".to_vec()).unwrap();
    assert_eq!((written.path.as_path(), written.size), (other.as_path(), fs::metadata(&path).unwrap().len()));
    assert_eq!(fs::read(&path).unwrap(), fixture.bytes(&[b"one".to_vec()]));
    assert_eq!(fs::read(&other).unwrap(), fixture.bytes(&[b"two".to_vec(), b"one".to_vec()]));
    add_signature(&path, None, release, b"two".to_vec()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), fs::read(&other).unwrap());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left beside");

    let error = add_signature(&path, None, release, b"two".to_vec()).unwrap_err().to_string();
    assert_eq!(error, "signatures: the same signature stands twice");
    let error = add_signature(&path, None, Digest::of(b"x"), b"three".to_vec()).unwrap_err().to_string();
    assert!(error.contains("the archive holds release") && error.contains("was signed"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), fs::read(&other).unwrap());
}

#[test]
fn sixteen_signatures_fit_and_bounds_hold() {
    let fixture = Fixture::new();
    let bundles = |count: u64, size| (0..count).map(|seed| noise(seed, size)).collect::<Vec<_>>();
    let (release, _) =
        read(Source::Pipe(Box::new(Cursor::new(fixture.bytes(&bundles(16, 9000))))), &Discard).unwrap();
    assert_eq!(release.signatures.len(), 16);
    let limit = usize::try_from(limits::SIGNATURE_BUNDLE).unwrap();
    let (folder, path) = scratch();
    for (bundles, message) in [
        (bundles(17, 100), "signatures: 17 of them, at most 16 are kept".to_owned()),
        (bundles(1, limit + 1), "signatures: a bundle has 49153 bytes, wanted 1 to 49152".to_owned()),
        (bundles(1, 0), "signatures: a bundle has 0 bytes, wanted 1 to 49152".to_owned()),
        (bundles(4, limit), "signatures: 4 of them take 204800 bytes, and 196096 are reserved".to_owned()),
    ] {
        assert_eq!(fixture.write(&path, &bundles).unwrap_err().to_string(), message);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
    }
}

#[test]
fn members_are_found_without_reading_what_stands_before() {
    let fixture = Fixture::new();
    let (_folder, path) = scratch();
    let bundle = b"a signature".to_vec();
    fixture.write(&path, std::slice::from_ref(&bundle)).unwrap();
    let (file, head) = ArchiveFile::open(&path).unwrap();
    let release = head.parse().unwrap();
    let members = file.members(&release).unwrap();
    for (digest, bytes) in &fixture.contents {
        assert_eq!(members.read_verified(*digest, 1 << 20).unwrap(), *bytes);
    }
    for bytes in [&release.manifest, &release.document_bytes, &bundle] {
        assert_eq!(members.read_verified(Digest::of(bytes), 1 << 20).unwrap(), *bytes);
    }
    let absent = Digest::of(b"absent");
    assert_eq!(members.range_of(absent), None);
    let error = members.read_verified(absent, 9).unwrap_err().to_string();
    assert_eq!(error, format!("the release is not complete: the archive does not hold blob {absent}"));
    let error = members.read_verified(release.digest, 9).unwrap_err().to_string();
    assert!(error.ends_with("more than the 9 that are read"), "{error}");

    let mut bytes = fs::read(&path).unwrap();
    let (offset, _) = members.range_of(fixture.document.git.bundle).unwrap();
    bytes[usize::try_from(offset).unwrap()] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = members.read_verified(fixture.document.git.bundle, 1 << 20).unwrap_err().to_string();
    assert!(error.contains("has digest"), "{error}");
    bytes.push(0);
    fs::write(&path, &bytes).unwrap();
    let error = ArchiveFile::open(&path).unwrap().0.members(&release).unwrap_err().to_string();
    assert!(error.contains("and more follows"), "{error}");
}
