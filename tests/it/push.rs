//! `apply --registry`: a release goes to a registry of the site's own, and comes back out of it as
//! real clients ask for it.

use std::fs;
use std::path::Path;

use fleetpack::model::media_type;
use serde_json::Value;

use crate::support::carried::Carried;
use crate::support::command::{Ended, run};
use crate::support::layout::{Layout, digest_in, platform};
use crate::support::registries::Process;
use crate::support::testbed::{Registry, tool};

/// `apply --seed-only --registry ADDRESS/fleet` into the folder's store.
pub fn push(carried: &Carried, archive: &Path, address: &str, more: &[&str]) -> Ended {
    let mut command = carried.seed_command(archive, Path::new("store"));
    command.args(["--format", "json", "--registry", &format!("{address}/fleet")]).args(more);
    run(&mut command)
}

/// What a push says that it did.
fn told(ended: Ended) -> Value {
    ended.ok().json()["registry"].clone()
}

/// The digest that skopeo finds under a name of the registry.
fn digest_at(carried: &Carried, address: &str, name: &str) -> String {
    let mut command = tool("skopeo", &carried.folder);
    let found =
        run(command.args(["inspect", "--raw", "--tls-verify=false", &format!("docker://{address}/{name}")]));
    fleetpack::model::Digest::of(found.ok().stdout.as_bytes()).to_string()
}

/// The digest of an image in a release that the store holds.
fn digest_in_store(carried: &Carried, version: &str) -> String {
    let archive = carried.folder.join(format!("carried-{version}.fleetpack.tar"));
    let images =
        run(carried.fleetpack().arg("inspect").arg(archive).args(["images", "--format", "json"])).ok().json();
    images["release"]["images"][0]["digest"].as_str().unwrap().to_owned()
}

const PART: &str = "fleet/registry.example.com/carried/part";

#[test]
fn two_releases_go_to_docker_registry_and_each_blob_goes_once() {
    let folder = tempfile::tempdir().unwrap();
    let carried = Carried::new(folder.path());
    let (one, two) = (carried.build("1", &[3 << 20, 2 << 20]), carried.build("2", &[3 << 20, 1 << 20]));
    let registry = Registry::up(&folder.path().join("registry"), &[]);
    let at = registry.address.clone();

    let first = told(push(&carried, &one, &at, &[]));
    assert!(first["pushedBytes"].as_u64().unwrap() > 5 << 20, "{first}");
    // The rendered layer stands in two manifests of one repository, and goes there once.
    assert_eq!((&first["skipped"], &first["heldTags"]), (&0.into(), &0.into()), "{first}");
    assert_eq!(digest_at(&carried, &at, &format!("{PART}:1")), digest_in_store(&carried, "1"));
    // The store remembers; the second run asks and sends nothing.
    let mut again = carried.seed_command(&one, Path::new("store"));
    let again = run(again.args(["--format", "json"]));
    assert!(again.stderr.contains("0 blobs pushed"), "{}", again.stderr);
    let again = told(again);
    assert_eq!(
        (&again["pushed"], &again["mounted"], &again["manifests"], &again["tags"]),
        (&0.into(), &0.into(), &0.into(), &0.into())
    );
    let status = run(carried.fleetpack().args(["status", "--store", "store"])).ok().stdout;
    assert!(status.contains(&format!("pushed to {at}/fleet")), "{status}");

    // What both releases have does not go again, and the first stays.
    let second = told(push(&carried, &two, &at, &[]));
    let bytes = second["pushedBytes"].as_u64().unwrap();
    assert!((1 << 20..2 << 20).contains(&bytes), "{second}");
    for version in ["1", "2"] {
        assert_eq!(
            digest_at(&carried, &at, &format!("{PART}:{version}")),
            digest_in_store(&carried, version)
        );
        digest_at(&carried, &at, &format!("fleet/fleetpack/carried:{version}"));
        digest_at(&carried, &at, &format!("fleet/fleetpack/carried:{version}-release"));
    }
    // skopeo copies the whole image out, and hashes every byte of it.
    let mut copy = tool("skopeo", folder.path());
    copy.args(["copy", "--quiet", "--src-tls-verify=false", &format!("docker://{at}/{PART}:1")]);
    run(copy.arg(format!("oci:{}", folder.path().join("out").display()))).ok();

    // A registry that lost everything is given it again by a rollback.
    registry.down();
    fs::remove_dir_all(folder.path().join("registry/data")).unwrap();
    let _registry = Registry::up(&folder.path().join("registry"), &[]);
    let back = run(carried.fleetpack().args(["rollback", "--seed-only", "--store", "store"])).ok();
    assert!(back.stderr.contains("blobs pushed"), "{}", back.stderr);
    assert_eq!(digest_at(&carried, &at, &format!("{PART}:1")), digest_in_store(&carried, "1"));

    // An endpoint makes the store forget the registry.
    let server = carried.serve(&folder.path().join("store"));
    let mut apply = carried.seed_command(&two, Path::new("store"));
    run(apply.args(["--endpoint", &server.endpoint])).ok();
    assert!(!folder.path().join("store/registry.json").exists());
}

#[test]
fn a_blob_of_several_repositories_is_sent_once_and_mounted() {
    let folder = tempfile::tempdir().unwrap();
    let carried = Carried::new(folder.path());
    let mut layout = Layout::new(&folder.path().join("images"));
    let shared = layout.blob(media_type::OCI_LAYER_GZIP, &vec![7; 100_000], "");
    let names = ["docker.io/library/a:1", "r.example.com:5000/b:1", "localhost/c:1"];
    for name in names {
        let own = layout.blob(media_type::OCI_LAYER_GZIP, name.as_bytes(), "");
        let image = layout.image(&[shared.clone(), own], r#"{"os":"linux","architecture":"amd64"}"#, "");
        layout.name(&image, name);
    }
    let archive = release(&carried, "1", &names, "");
    let docker = Registry::up(&folder.path().join("registry"), &[]);
    let three = Process::distribution(&folder.path().join("three"), "", "");
    let memory = Process::in_memory(folder.path(), &[]);
    for address in [&docker.address, &three.address, &memory.address] {
        let report = told(push(&carried, &archive, address, &[]));
        // The layer, and the config that all three have.
        assert_eq!(
            (&report["mounted"], &report["mountedBytes"]),
            (&4.into(), &(2 * 100_000 + 2 * 37).into()),
            "{address}: {report}"
        );
        for name in ["docker.io/library/a:1", "r.example.com_5000/b:1", "localhost/c:1"] {
            digest_at(&carried, address, &format!("fleet/{name}"));
        }
        assert_eq!(told(push(&carried, &archive, address, &[]))["pushed"], 0, "{address}");
    }
}

/// Builds a release of what `images` in the layout `images` names.
fn release(carried: &Carried, version: &str, images: &[&str], more: &str) -> std::path::PathBuf {
    let quoted: Vec<String> = images.iter().map(|image| format!("\"{image}\"")).collect();
    carried.repository.write(
        "fleetpack.yaml",
        format!(
            "apiVersion: fleetpack.dev/v1\nkind: Release\nmetadata: {{name: carried}}\nversion: \"{version}\"\n\
             sources: [{{path: carried.yaml}}]\nimages: {{include: [{}]}}\n{more}",
            quoted.join(", ")
        ),
    );
    let object = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: carried, namespace: default}\n";
    carried.repository.write("carried.yaml", format!("{object}data: {{version: \"{version}\"}}\n"));
    carried.repository.commit(&format!("release {version}"));
    let archive = carried.folder.join(format!("carried-{version}.fleetpack.tar"));
    run(carried.build_command(&archive).args(["--key", "release.key"])).ok();
    archive
}

#[test]
fn an_index_with_platforms_left_out_goes_where_it_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let carried = Carried::new(folder.path());
    let mut layout = Layout::new(&folder.path().join("images"));
    let image = |architecture: &str| {
        let layer = layout.blob(media_type::OCI_LAYER_GZIP, architecture.as_bytes(), "");
        let config = format!(r#"{{"os":"linux","architecture":"{architecture}"}}"#);
        layout.image(&[layer], &config, &platform(architecture))
    };
    let children = [image("amd64"), image("arm64")];
    let index = layout.index(&children, "");
    let name = "registry.example.com/web:1";
    layout.name(&index, name);
    let sparse = release(&carried, "1", &[name], "platforms: [linux/amd64]\n");
    let whole = release(&carried, "2", &[name], "");

    let docker = Registry::up(&folder.path().join("registry"), &[]);
    let strict = Process::distribution(&folder.path().join("strict"), "", "");
    for address in [&docker.address, &strict.address] {
        push(&carried, &sparse, address, &[]).refused(
            4,
            &[
                "takes no index with platforms left out",
                "`registry.example.com/web:1` (1 left out",
                "fleetpack serve",
            ],
        );
        let tags = run(tool("skopeo", folder.path()).args([
            "list-tags",
            "--tls-verify=false",
            &format!("docker://{address}/fleet/registry.example.com/web"),
        ]));
        assert!(!tags.stdout.contains("\"1\""), "no tag leads to half an image: {}", tags.stdout);
        assert!(!folder.path().join("store/registry.json").exists());
    }
    let lax = "validation: {manifests: {indexes: {platforms: none}}}\n";
    let lax = Process::distribution(&folder.path().join("lax"), "", lax);
    let memory = Process::in_memory(folder.path(), &["sparse", "no-digest"]);
    for address in [&lax.address, &memory.address] {
        told(push(&carried, &sparse, address, &[]));
        assert_eq!(
            digest_at(&carried, address, "fleet/registry.example.com/web:1"),
            digest_in(&index).to_string()
        );
    }
    told(push(&carried, &whole, &docker.address, &[]));
    let copied = run(tool("skopeo", folder.path()).args([
        "copy",
        "--quiet",
        "--all",
        "--src-tls-verify=false",
        &format!("docker://{}/fleet/registry.example.com/web:1", docker.address),
        &format!("oci:{}", folder.path().join("out").display()),
    ]));
    copied.ok();
}

#[test]
fn what_refers_to_an_image_is_found_with_and_without_the_api() {
    let folder = tempfile::tempdir().unwrap();
    let carried = Carried::new(folder.path());
    // Two sites' worth of referrers at the source: one that travels, one that the site wrote itself.
    let upstream = Registry::up(&folder.path().join("upstream"), &[]);
    let conf = upstream.configure(folder.path(), &["registry.example.com"]);
    let name = "registry.example.com/web:1";
    let digest = upstream.image(name, &["--file", "etc/web=1"]);
    let oras =
        |arguments: &[&str]| run(tool("oras", folder.path()).current_dir(folder.path()).args(arguments));
    fs::write(folder.path().join("sbom.json"), "{}").unwrap();
    fs::write(folder.path().join("note.json"), "{\"site\":1}").unwrap();
    let attach = |address: &str, kind: &str, file: &str| {
        let at = format!("{address}@{digest}");
        oras(&[
            "attach",
            "--plain-http",
            "--distribution-spec",
            "v1.1-referrers-tag",
            "--artifact-type",
            kind,
            &at,
            &format!("{file}:application/json"),
        ])
        .ok();
    };
    attach(&format!("{}/registry.example.com/web", upstream.address), "application/sbom", "sbom.json");
    carried.repository.write(
        "fleetpack.yaml",
        format!(
            "apiVersion: fleetpack.dev/v1\nkind: Release\nmetadata: {{name: carried}}\nversion: \"1\"\n\
             sources: [{{path: carried.yaml}}]\nimages: {{include: [\"{name}\"]}}\n"
        ),
    );
    carried
        .repository
        .write("carried.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: default}\n");
    carried.repository.commit("one");
    let archive = folder.path().join("carried-1.fleetpack.tar");
    let mut build = carried.fleetpack();
    build.args(["build", "repository", "--key", "release.key", "-o"]).arg(&archive);
    run(build.env("CONTAINERS_REGISTRIES_CONF", conf)).ok();

    let docker = Registry::up(&folder.path().join("registry"), &[]);
    let memory = Process::in_memory(folder.path(), &[]);
    let found = |address: &str| {
        let spec = if address == docker.address { "v1.1-referrers-tag" } else { "v1.1-referrers-api" };
        let at = format!("{address}/fleet/registry.example.com/web@{digest}");
        oras(&["discover", "--plain-http", "--distribution-spec", spec, "--format", "json", &at]).ok().stdout
    };
    for address in [&docker.address, &memory.address] {
        told(push(&carried, &archive, address, &[]));
        let listed = found(address);
        assert!(listed.contains("application/sbom"), "{address}: {listed}");
        // The release itself is signed there.
        let own = format!("{address}/fleet/fleetpack/carried:1-release");
        let spec = if *address == docker.address { "v1.1-referrers-tag" } else { "v1.1-referrers-api" };
        let own = oras(&["discover", "--plain-http", "--distribution-spec", spec, "--format", "json", &own])
            .ok()
            .stdout;
        assert!(own.contains("application/vnd.dev.sigstore.bundle"), "{own}");
    }
    // The site adds its own; a registry that lost ours has it put back beside that.
    let hex = digest.strip_prefix("sha256:").unwrap();
    let tag = format!("{}/fleet/registry.example.com/web", docker.address);
    let mut delete = tool("skopeo", folder.path());
    delete.args(["delete", "--tls-verify=false", &format!("docker://{tag}:sha256-{hex}")]);
    run(&mut delete).ok();
    attach(&tag, "application/note", "note.json");
    told(push(&carried, &archive, &docker.address, &[]));
    let listed = found(&docker.address);
    assert!(listed.contains("application/sbom") && listed.contains("application/note"), "{listed}");
}
