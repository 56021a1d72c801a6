//! Archives on media as people carry them: read in place, from file systems that know neither
//! owners nor links, and refused where a medium cannot take one. What breaks while it is read
//! stands in `media_faults`.

use std::fs;
use std::path::Path;

use crate::support::carried::{Carried, files, large, rubbish};
use crate::support::command::{program, run};
use crate::support::http::get;
use crate::support::layout::Layout;
use crate::support::medium::{self, Mount};
use crate::support::root::is_root;
use crate::support::{depot::Server, testbed::testbed};

const MIB: usize = 1 << 20;

/// What a technician does with an archive on `stick`: `verify`, `inspect`, `apply`, `serve`.
#[track_caller]
fn works_from(carried: &Carried, archive: &Path, stick: &Mount) {
    let there = stick.path().join(archive.file_name().unwrap());
    let before = files(stick.path());
    let report = carried.with_key(&["verify", "--format", "json"], &there).ok().json();
    assert_eq!(report["verified"], true);
    let found = carried.with_key(&["inspect", "--format", "json"], &there).ok().json();
    assert_eq!(found["digest"], report["release"]);

    let store = carried.folder.join("store");
    let server = carried.serve(&store);
    carried.seed(&there, &store).ok();
    assert_eq!(rubbish(&store), Vec::<String>::new());
    let again = run(carried.seed_command(&there, &store).args(["--format", "json"])).ok().json();
    assert_eq!(again["stored"], 0, "nothing is written twice");
    drop(server);

    let mut command = carried.fleetpack();
    command.args(["serve", "--listen", "127.0.0.1:0", "--key", "release.pub", "--archive"]).arg(&there);
    let server = Server::start(&mut command, &carried.folder.join("serve-archive.log"));
    for place in large(archive, 1) {
        let answer = get(server.host(), &format!("/v2/carried/part/blobs/{}", place.digest), &[]);
        if answer.status == 200 {
            assert_eq!(answer.body.len() as u64, place.size);
        }
    }
    let layer = large(archive, MIB as u64)[0];
    let answer = get(server.host(), &format!("/v2/carried/part/blobs/{}", layer.digest), &[]);
    assert_eq!((answer.status, fleetpack::model::Digest::of(&answer.body)), (200, layer.digest));
    let repository = format!("{}/git/carried.git", server.endpoint);
    let told = run(program("git", &carried.folder).args(["ls-remote", &repository])).ok().stdout;
    assert!(told.contains("refs/heads/main"), "{told}");
    drop(server);
    assert_eq!(files(stick.path()), before, "nothing is written to the medium");
}

/// A release of some MiB, and a place for the medium.
fn carried(folder: &Path) -> (Carried, std::path::PathBuf) {
    testbed(&["media"]);
    let carried = Carried::new(folder);
    let archive = carried.build("1", &[3 * MIB + 77, 2 * MIB]);
    (carried, archive)
}

#[test]
fn a_fat32_stick() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (carried, archive) = carried(folder.path());
    works_from(&carried, &archive, &medium::fat32(folder.path(), &[&archive]));
}

#[test]
fn an_exfat_stick() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (carried, archive) = carried(folder.path());
    works_from(&carried, &archive, &medium::exfat(folder.path(), &[&archive]));
}

#[test]
fn an_iso9660_disc() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (carried, archive) = carried(folder.path());
    works_from(&carried, &archive, &medium::iso9660(folder.path(), &[&archive]));
}

#[test]
fn a_squashfs_image() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (carried, archive) = carried(folder.path());
    works_from(&carried, &archive, &medium::squashfs(folder.path(), &[&archive]));
}

#[test]
fn a_mount_that_is_read_only() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (carried, archive) = carried(folder.path());
    let stick = folder.path().join("stick");
    fs::create_dir(&stick).unwrap();
    fs::copy(&archive, stick.join(archive.file_name().unwrap())).unwrap();
    let mount = medium::read_only(&stick, &folder.path().join("read-only"));
    works_from(&carried, &archive, &mount);
    // What writes is refused, and says where.
    let there = mount.path().join(archive.file_name().unwrap());
    let output = mount.path().join("new.tar");
    let refused = run(&mut carried.build_command(&output)).refused(1, &["new.tar", "Read-only file system"]);
    assert_eq!(refused.stdout, "");
    run(carried.fleetpack().args(["sign", "--key", "release.key"]).arg(&there))
        .refused(1, &["Read-only file system"]);
    assert_eq!(files(&stick).len(), 1);
}

/// A release whose one layer is said to have `size` bytes; nobody has them.
fn announced(carried: &Carried, size: u64) {
    let mut layout = Layout::new(&carried.folder.join("images"));
    let digest = fleetpack::model::Digest::of(b"of a layer that is never asked for");
    let layer = format!(
        r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{digest}","size":{size}}}"#
    );
    let image = layout.image(&[layer], r#"{"os":"linux","architecture":"amd64"}"#, "");
    layout.name(&image, "registry.example.com/carried/part:1");
    carried.repository.write(
        "fleetpack.yaml",
        "apiVersion: fleetpack.dev/v1\nkind: Release\nmetadata: {name: carried}\nversion: \"1\"\n\
         sources: [{path: carried.yaml}]\nimages: {include: [\"registry.example.com/carried/part:1\"]}\n",
    );
    carried.repository.write(
        "carried.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: carried, namespace: default}\ndata: {a: b}\n",
    );
    carried.repository.commit("a release that is too large");
}

#[test]
fn a_driver_that_cannot_set_the_length_of_a_file() {
    if !is_root() {
        return;
    }
    testbed(&["media"]);
    let folder = tempfile::tempdir().unwrap();
    let carried = Carried::new(folder.path());
    announced(&carried, 5 << 20);
    // This driver of FAT32 can lengthen files by writing alone, and counts no free space either.
    let stick = medium::fat32_to_write(folder.path(), 64 << 20);
    let output = stick.path().join("carried.tar");
    let wanted = ["carried.tar", "cannot set the length of a file", "another file system"];
    let refused = run(&mut carried.build_command(&output)).refused(1, &wanted);
    assert!(!refused.stderr.contains("downloading"), "{}", refused.stderr);
    assert_eq!(files(stick.path()), Vec::new());
}

#[test]
fn a_file_system_that_takes_no_file_of_that_size_is_named_before_the_first_download() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let carried = Carried::new(folder.path());
    announced(&carried, 17 << 30);
    // Without extents, blocks of 1 KiB reach 16 GiB into a file: FAT's limit in another place.
    let disk = medium::ext4(
        folder.path(),
        24 << 30,
        &["-b", "1024", "-O", "^extent,^64bit,^has_journal", "-N", "4096"],
    );
    let wanted =
        ["carried.tar", "it takes 18253", "takes no file of more than", "FAT32: 4294967295", "exFAT"];
    let refused = run(&mut carried.build_command(&disk.path().join("carried.tar"))).refused(1, &wanted);
    assert!(!refused.stderr.contains("downloading"), "{}", refused.stderr);
    assert!(files(disk.path()).is_empty());
}

#[test]
fn an_archive_that_does_not_fit_on_a_stick_is_refused_before_the_first_download() {
    if !is_root() {
        return;
    }
    testbed(&["media"]);
    let folder = tempfile::tempdir().unwrap();
    let carried = Carried::new(folder.path());
    announced(&carried, 5 << 30);
    let stick = medium::exfat_to_write(folder.path(), 64 << 20);
    let refused = run(&mut carried.build_command(&stick.path().join("carried.tar")))
        .refused(1, &["no space for", "carried.tar", "it takes 5368", "are available", "free some space"]);
    assert!(!refused.stderr.contains("downloading"), "{}", refused.stderr);
    assert_eq!(files(stick.path()), Vec::new());
}
