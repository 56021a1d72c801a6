//! Images in layouts and archives: those that skopeo and oras wrote, and some written by hand for
//! what no tool writes.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use fleetpack::model::{Digest, ErrorClass, media_type};
use fleetpack::oci::{Sources, fetch, open_source};

use crate::support::command::run;
use crate::support::images::{client, fetch_all, of_registry, shape, take, texts};
use crate::support::layout::{Layout, digest_in, platform};
use crate::support::testbed::{self, script, tool};

fn skopeo_copy(registry: &testbed::Registry, home: &Path, from: &str, to: &str) {
    run(tool("skopeo", home)
        .args(["copy", "--quiet", "--all", "--preserve-digests", "--src-tls-verify=false"])
        .args([&format!("docker://{}/{from}", registry.address), to]))
    .ok();
}

#[tokio::test]
async fn layouts_and_archives_hold_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    let registry = testbed::Registry::up(&home.join("registry"), &[]);
    let name = "registry.example.com/shop/web:1";
    let digest = registry.image(name, &["--platform", "linux/amd64,linux/arm64"]);
    let (dir, tar) = (home.join("layout"), home.join("image.tar"));
    skopeo_copy(&registry, home, name, &format!("oci:{}:{name}", dir.display()));
    skopeo_copy(&registry, home, name, &format!("oci-archive:{}:1", tar.display()));
    let wanted = take(&of_registry(&registry, home), name, &[]).await.unwrap();
    let open = |text: String| Sources::new(vec![Arc::new(open_source(&text).unwrap())]);

    let layout = open(format!("oci:{}", dir.display()));
    let bound = open(format!("oci-archive:{}=registry.example.com/shop/web", tar.display()));
    for sources in [&layout, &bound] {
        for reference in [name.to_owned(), format!("registry.example.com/shop/web@{digest}")] {
            let found = take(sources, &reference, &[]).await.unwrap();
            assert_eq!(shape(&found), shape(&wanted));
            fetch_all(&found).await;
        }
        let error = take(sources, "registry.example.com/shop/web:2", &[]).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Incomplete);
    }

    // A tag alone is nobody's name.
    let loose = open(format!("oci-archive:{}", tar.display()));
    let error = take(&loose, name, &[]).await.unwrap_err().to_string();
    assert!(
        error.contains("without a repository name") && error.contains("=registry.example.com/shop/web"),
        "{error}"
    );

    // What the layout does not have comes from the registry.
    registry.image("registry.example.com/shop/db:1", &[]);
    let both = Sources::new(vec![
        Arc::new(open_source(&format!("oci:{}", dir.display())).unwrap()),
        Arc::new(client(&registry, home)),
    ]);
    let found = take(&both, "registry.example.com/shop/db:1", &[]).await.unwrap();
    assert_eq!(found.source.label(), "registries");
    assert_eq!(take(&both, name, &[]).await.unwrap().source.label(), format!("oci:{}", dir.display()));

    // Damage is named.
    let layer = &wanted.layers[0];
    let blob = dir.join("blobs/sha256").join(layer.digest.hex());
    std::fs::write(&blob, b"cut").unwrap();
    let error = fetch(
        &open_source(&format!("oci:{}", dir.display())).unwrap(),
        &name.parse().unwrap(),
        layer,
        &mut |_| Ok(()),
    )
    .await
    .unwrap_err()
    .to_string();
    assert!(error.contains(&format!("has 3 bytes, wanted {} bytes", layer.size)), "{error}");
    let manifest = dir.join("blobs/sha256").join(wanted.manifests[1].digest.hex());
    std::fs::write(&manifest, b"{}").unwrap();
    let error = take(&layout, name, &[]).await.unwrap_err().to_string();
    assert!(error.contains("has digest `sha256:44136fa355b3"), "{error}");
    let bytes = std::fs::read(&tar).unwrap();
    std::fs::write(&tar, &bytes[..bytes.len() / 2]).unwrap();
    let error = open_source(&format!("oci-archive:{}", tar.display())).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("cut short"), "{error}");
}

#[tokio::test]
async fn referrers_in_a_layout_that_oras_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    let layout = home.join("layout");
    let name = "registry.example.com/shop/web:1";
    let digest = run(script("image").args(["make", "--name", name, "--oci"]).arg(&layout))
        .ok()
        .stdout
        .trim()
        .to_owned();
    std::fs::write(home.join("sbom.json"), "{}\n").unwrap();
    let attach = |subject: &str| {
        let ended = run(tool("oras", home)
            .current_dir(home)
            .args([
                "attach",
                "--oci-layout",
                "--artifact-type",
                "application/vnd.example.sbom",
                "--format",
                "json",
            ])
            .args([&format!("{}@{subject}", layout.display()), "sbom.json"]))
        .ok();
        ended.json()["digest"].as_str().unwrap().to_owned()
    };
    let sbom = attach(&digest);
    let about_sbom = attach(&sbom);
    let source = open_source(&format!("oci:{}", layout.display())).unwrap();
    let found = take(&Sources::new(vec![Arc::new(source)]), name, &[]).await.unwrap();
    let entries: Vec<_> = found
        .entry
        .referrers
        .iter()
        .map(|entry| {
            (entry.digest.to_string(), entry.subject.to_string(), entry.artifact_type.clone().unwrap())
        })
        .collect();
    let kind = "application/vnd.example.sbom".to_owned();
    assert_eq!(entries, [(sbom.clone(), digest, kind.clone()), (about_sbom, sbom, kind)]);
    fetch_all(&found).await;
}

#[tokio::test]
async fn attestations_stay_with_their_child() {
    let folder = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(folder.path());
    let layer = |text: &str| layout.blob(media_type::OCI_LAYER_GZIP, text.as_bytes(), "");
    let amd = layout.image(&[layer("amd")], r#"{"os":"linux","architecture":"amd64"}"#, &platform("amd64"));
    let arm = layout.image(&[layer("arm")], r#"{"os":"linux","architecture":"arm64"}"#, &platform("arm64"));
    let (about_amd, about_arm) = (layout.attestation(&amd), layout.attestation(&arm));
    // An index within the index, as some tools write for one more platform.
    let riscv = layout.image(&[layer("riscv")], "{}", &platform("riscv64"));
    let nested = layout.index(std::slice::from_ref(&riscv), "");
    let index =
        layout.index(&[amd.clone(), arm.clone(), about_amd.clone(), about_arm.clone(), nested.clone()], "");
    layout.name(&index, "a.example.com/x:1");

    let found = layout.take("a.example.com/x:1", &["linux/arm64"]).await.unwrap();
    let held: Vec<Digest> = found.manifests.iter().map(|manifest| manifest.digest).collect();
    assert_eq!(held, [&index, &arm, &about_arm, &nested].map(|text| digest_in(text)));
    let absent: Vec<Digest> = found.entry.absent.iter().map(|absent| absent.digest).collect();
    assert_eq!(absent, [&amd, &about_amd, &riscv].map(|text| digest_in(text)));
    assert_eq!(texts(&found.entry.platforms), ["linux/arm64"]);

    let whole = layout.take("a.example.com/x:1", &[]).await.unwrap();
    assert_eq!(texts(&whole.entry.platforms), ["linux/amd64", "linux/arm64", "linux/riscv64"]);
    assert_eq!(whole.manifests.len(), 7);
    let blobs: BTreeSet<Digest> = whole.configs.iter().chain(&whole.layers).map(|blob| blob.digest).collect();
    assert_eq!(blobs.len(), whole.configs.len() + whole.layers.len(), "no blob stands twice");
    let error = layout.take("a.example.com/x:1", &["linux/s390x"]).await.unwrap_err().to_string();
    assert!(error.contains("it has `linux/amd64`, `linux/arm64`, `linux/riscv64`"), "{error}");
}

#[tokio::test]
async fn images_that_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(folder.path());
    let foreign = |text: &str| {
        format!(
            r#"{{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":"{}","size":{},"urls":["https://example.com/layer"]}}"#,
            Digest::of(text.as_bytes()),
            text.len()
        )
    };
    let elsewhere = layout.image(&[foreign("elsewhere")], "{}", "");
    layout.blob("", b"here", "");
    let here = layout.image(&[foreign("here")], "{}", "");
    let two_sizes = layout.image(
        &[layout.blob("l", b"one", ""), layout.blob("l", b"one", "").replace("\"size\":3", "\"size\":4")],
        "{}",
        "",
    );
    let child = layout.image(&[], "{}", "");
    let wrong_child = layout.index(&[child.replace("\"size\":", "\"size\":1")], "");
    let innermost = layout.image(&[], "{}", "");
    let mut deep = layout.index(&[innermost], "");
    for _ in 0..5 {
        deep = layout.index(&[deep], "");
    }
    let schema1 =
        layout.index(&[layout.blob("application/vnd.docker.distribution.manifest.v1+json", b"{}", "")], "");
    for (name, descriptor) in [
        ("elsewhere", &elsewhere),
        ("here", &here),
        ("sizes", &two_sizes),
        ("child", &wrong_child),
        ("deep", &deep),
        ("schema1", &schema1),
    ] {
        layout.name(descriptor, &format!("a.example.com/{name}:1"));
    }
    layout.take("a.example.com/here:1", &[]).await.unwrap();
    for (name, want, class) in [
        (
            "elsewhere",
            "and its registry does not hold it; its manifest names https://example.com/layer",
            ErrorClass::Incomplete,
        ),
        ("sizes", "has 3 bytes and that it has 4", ErrorClass::Failed),
        ("child", "bytes, wanted 1", ErrorClass::Failed),
        ("deep", "indexes lie more than 4 deep in each other", ErrorClass::Failed),
        ("schema1", "is a Docker schema 1 manifest", ErrorClass::Failed),
        ("missing", "does not name it", ErrorClass::Incomplete),
    ] {
        let error = layout.take(&format!("a.example.com/{name}:1"), &[]).await.unwrap_err();
        assert!(error.to_string().contains(want), "{error} lacks {want}");
        assert_eq!(error.class(), class, "{error}");
    }
}
