//! Bad input to `build`, `verify` and the store, through the binary: each refusal has its exit
//! code, names what it found, and changes nothing.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::command::{Ended, program, run};
use crate::support::root::is_root;
use crate::support::shop::Shop;

/// The shop of this test program's refusals: made once a test, since each breaks another thing.
fn shop(folder: &Path) -> Shop {
    Shop::new(folder)
}

fn build(shop: &Shop, arguments: &[&str]) -> Ended {
    run(shop.fleetpack().args(["build", "shop", "-o", "out.tar"]).args(arguments))
}

/// Nothing stands under the output's name, and nothing temporary beside it.
#[track_caller]
fn nothing_left(shop: &Shop) {
    let left: Vec<String> = fs::read_dir(&shop.folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("fleetpack-tmp") || name == "out.tar" || name.ends_with(".partial"))
        .collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn revisions_that_are_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let shop = shop(folder.path());
    build(&shop, &["--revision", "v9"]).refused(1, &["`v9`"]);
    build(&shop, &["--revision=--upload-pack=x"]).refused(2, &["--upload-pack=x"]);
    run(shop.fleetpack().args(["build", "registry"])).refused(1, &["registry"]);
    nothing_left(&shop);
}

#[test]
fn an_image_that_is_not_at_its_registry_names_file_object_and_field() {
    let folder = tempfile::tempdir().unwrap();
    let shop = shop(folder.path());
    let path = "deploy/base/shop.yaml";
    let text = fs::read_to_string(shop.repository.path.join(path)).unwrap();
    shop.repository.write(path, text.replace("shop/api:1.0", "shop/gone:1.0"));
    shop.repository.commit("an image that is gone");
    build(&shop, &[]).refused(
        4,
        &[
            "registry.example.com/shop/gone:1.0",
            path,
            "Deployment shop/api",
            "spec.template.spec.containers[0].image",
        ],
    );
    // One that cannot be an image at all.
    shop.repository.write(path, text.replace("shop/api:1.0", "shop/api:${TAG}"));
    shop.repository.commit("a template's leftovers");
    build(&shop, &[])
        .refused(4, &["${TAG}", path, "Deployment shop/api", "spec.template.spec.containers[0].image"]);
    nothing_left(&shop);
}

#[test]
fn a_registry_that_wants_other_credentials() {
    let folder = tempfile::tempdir().unwrap();
    let shop = shop(folder.path());
    let closed =
        crate::support::testbed::Registry::up(&folder.path().join("closed"), &["--htpasswd", "me:secret"]);
    closed.configure(folder.path(), &[crate::support::shop::HOST]);
    build(&shop, &[]).refused(1, &["registry.example.com", "credentials"]);
    // The wrong ones are no better than none.
    let config = format!(r#"{{"auths":{{"{}":{{"auth":"bWU6d3Jvbmc="}}}}}}"#, closed.address);
    fs::create_dir(folder.path().join("docker")).unwrap();
    fs::write(folder.path().join("docker/config.json"), config).unwrap();
    let mut command = shop.fleetpack();
    command.args(["build", "shop", "-o", "out.tar"]).env("DOCKER_CONFIG", folder.path().join("docker"));
    run(&mut command).refused(1, &["registry.example.com", "credentials"]);
    nothing_left(&shop);
}

#[test]
fn manifests_that_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let shop = shop(folder.path());
    shop.repository.write(
        "fleetpack.yaml",
        "apiVersion: fleetpack.dev/v1\nkind: Release\nmetadata: {name: shop}\nsources: [{path: plain}]\n",
    );
    shop.repository
        .write("plain/broken.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n data: {x: 1}\n");
    shop.repository.commit("broken");
    let ended = build(&shop, &[]).refused(1, &["plain/broken.yaml"]);
    assert!(ended.stderr.contains("line 5") || ended.stderr.contains("broken.yaml:5"), "{}", ended.stderr);

    shop.repository.write("plain/broken.yaml", "# nothing here\n");
    shop.repository.commit("empty");
    let ended = build(&shop, &[]);
    assert!(matches!(ended.code, 1 | 4), "{ended:?}");
    assert!(ended.stderr.contains("renders no object"), "{}", ended.stderr);

    shop.repository.write(
        "fleetpack.yaml",
        "apiVersion: fleetpack.dev/v1\nkind: Release\nmetadata: {name: shop}\nimage: x\n",
    );
    shop.repository.commit("an unknown field");
    build(&shop, &[]).refused(1, &["fleetpack.yaml", "image"]);
    nothing_left(&shop);
}

#[test]
fn outputs_that_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let shop = shop(folder.path());
    run(shop.fleetpack().args(["build", "shop", "-o", "no/such/folder/out.tar"]))
        .refused(1, &["no/such/folder"]);
    run(shop.fleetpack().args(["build", "shop", "-o", "/proc/out.tar"])).refused(1, &["/proc"]);
    nothing_left(&shop);
}

/// Runs `command` with `folder` on a file system of `kilobytes`, in a mount namespace of its own.
fn on_a_small_disk(command: &Command, folder: &Path, kilobytes: u64) -> Ended {
    let mut small = Command::new("unshare");
    small.args([
        "--mount",
        "sh",
        "-c",
        "mount -t tmpfs -o size=$1k tmpfs \"$2\" && shift 2 && exec \"$@\"",
        "sh",
    ]);
    small.arg(kilobytes.to_string()).arg(folder).arg(command.get_program()).args(command.get_args());
    small.env_clear().envs(command.get_envs().filter_map(|(name, value)| value.map(|value| (name, value))));
    if let Some(folder) = command.get_current_dir() {
        small.current_dir(folder);
    }
    run(&mut small)
}

#[test]
fn full_disks() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let shop = shop(folder.path());
    let archive = shop.build("v1");
    let small = folder.path().join("small");
    fs::create_dir(&small).unwrap();
    let mut command = shop.fleetpack();
    command.args(["build", "shop", "-o", "small/out.tar"]);
    on_a_small_disk(&command, &small, 512).refused(1, &["no space for `small/out.tar`", "available"]);

    let mut command = shop.fleetpack();
    command.args(["apply", "--seed-only", "--key", "release.pub", "--store", "small/store"]).arg(&archive);
    on_a_small_disk(&command, &small, 1024).refused(1, &["`small/store` has", "bytes free, wanted"]);
    nothing_left(&shop);
}

#[test]
fn signatures_and_keys() {
    let folder = tempfile::tempdir().unwrap();
    let shop = shop(folder.path());
    let archive = shop.build("v1");
    let archive = archive.to_str().unwrap();
    run(shop.fleetpack().args(["keygen", "--output-key-prefix", "other"])).ok();
    run(shop.fleetpack().args(["verify", archive])).refused(2, &["--key"]);
    run(shop.fleetpack().args(["verify", archive, "--key", "other.pub"])).refused(3, &["other.pub"]);
    run(shop.fleetpack().args(["verify", archive, "--key", "other.pub", "--key", "release.pub"])).ok();
    run(shop.fleetpack().args(["verify", archive, "--key", "release.key"])).refused(1, &["is a private key"]);

    let unsigned = build(&shop, &["--revision", "v1"]).ok();
    assert!(unsigned.stderr.contains("unsigned"), "{}", unsigned.stderr);
    run(shop.fleetpack().args(["verify", "out.tar", "--key", "release.pub"])).refused(3, &["is not signed"]);
    let store = ["--store", "store"];
    run(shop.fleetpack().args(["apply", "out.tar", "--key", "release.pub"]).args(store))
        .refused(3, &["is not signed"]);
    run(shop.fleetpack().args(["apply", archive, "--key", "other.pub"]).args(store))
        .refused(3, &["other.pub"]);
    assert!(
        !folder.path().join("store/blobs").exists()
            || fs::read_dir(folder.path().join("store/blobs/sha256")).unwrap().next().is_none()
    );

    // `sign` makes it good; a second key signs beside the first.
    run(shop.fleetpack().args(["sign", "out.tar", "--key", "release.key"])).ok();
    run(shop.fleetpack().args(["verify", "out.tar", "--key", "release.pub"])).ok();
    run(shop.fleetpack().args(["sign", "out.tar", "--key", "other.key"])).ok();
    run(shop.fleetpack().args(["verify", "out.tar", "--key", "other.pub"])).ok();
    run(shop.fleetpack().args(["verify", "out.tar", "--key", "release.pub"])).ok();
    let inspected = run(shop.fleetpack().args(["inspect", "out.tar"])).ok();
    assert!(inspected.stdout.starts_with("UNVERIFIED"), "{}", inspected.stdout);
}

#[test]
fn archives_that_are_not_what_was_signed() {
    let folder = tempfile::tempdir().unwrap();
    let shop = shop(folder.path());
    let archive = shop.build("v1");
    let bytes = fs::read(&archive).unwrap();
    let verify = || run(shop.fleetpack().args(["verify", "bad.tar", "--key", "release.pub"]));
    let piped = || {
        let bad = folder.path().join("bad.tar");
        let mut cat = program("cat", folder.path()).arg(bad).stdout(Stdio::piped()).spawn().unwrap();
        let mut command = shop.fleetpack();
        command.args(["verify", "-", "--key", "release.pub"]).stdin(cat.stdout.take().unwrap());
        let ended = run(&mut command);
        cat.wait().unwrap();
        ended
    };

    // Cut short: at every member's boundary would take an hour through the binary (the reader's own
    // tests do that); here at a few of them, from a file and from a pipe.
    for length in
        [0, 1, 511, 512, 1536, bytes.len() / 2, bytes.len() - 1025, bytes.len() - 1024, bytes.len() - 1]
    {
        fs::write(folder.path().join("bad.tar"), &bytes[..length]).unwrap();
        verify().refused(3, &["bad.tar"]);
        piped().refused(3, &["standard input"]);
    }
    // One flipped bit anywhere, sampled by a stride that meets headers, padding and content.
    fs::write(folder.path().join("bad.tar"), &bytes).unwrap();
    let file = fs::OpenOptions::new().write(true).open(folder.path().join("bad.tar")).unwrap();
    for at in (0..bytes.len()).step_by(bytes.len() / 40) {
        file.write_all_at(&[bytes[at] ^ 0x10], at as u64).unwrap();
        verify().refused(3, &["bad.tar"]);
        file.write_all_at(&[bytes[at]], at as u64).unwrap();
    }
    run(shop.fleetpack().args(["verify", "bad.tar", "--key", "release.pub"])).ok();
    // Something behind the end.
    file.write_all_at(b"x", bytes.len() as u64).unwrap();
    verify().refused(3, &["and more follows"]);
}
