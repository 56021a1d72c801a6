//! What the demo carries: a Git repository with two releases of a small shop, and the images that
//! its manifests name, made here so that nothing but this program is needed.

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::{Compression, GzBuilder};
use serde_json::json;

use crate::model::{Digest, media_type};
use crate::ops::{Error, Result};

/// The namespace of the shop's objects.
pub(super) const NAMESPACE: &str = "fleetpack-demo";
/// The releases, oldest first.
pub(super) const RELEASES: [&str; 2] = ["1.0", "2.0"];

/// The image of the shop's web server in a release.
pub(super) fn web(release: &str) -> String {
    format!("registry.example.com/shop/web:{release}")
}

const WORKER: &str = "registry.example.com/shop/worker:1.0";

/// The manifests of a release. The workloads have no replicas: on a cluster of somebody else's the
/// nodes could not reach the demo's server, and nothing of the demo should run there.
fn manifests(release: &str) -> String {
    let workload = |name: &str, image: &str| {
        format!(
            "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
             spec:\n  replicas: 0\n  selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    \
             metadata: {{labels: {{app: {name}}}}}\n    spec:\n      \
             containers: [{{name: {name}, image: \"{image}\"}}]\n"
        )
    };
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n\
         ---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: shop, namespace: {NAMESPACE}}}\n\
         data: {{release: \"{release}\"}}\n{}{}",
        workload("web", &web(release)),
        workload("worker", WORKER),
    )
}

const CONFIG: &str =
    "apiVersion: fleetpack.dev/v1\nkind: Release\nmetadata: {name: shop}\nsources:\n- path: shop.yaml\n";

/// Makes a bare repository at `path`: branch `main`, a commit and a tag `vRELEASE` for each release.
pub(super) fn repository(path: &Path) -> Result<()> {
    let failed =
        |error: gix::Error| Error::io("make the repository", path, std::io::Error::other(error.to_string()));
    let repository = gix::init_bare(path).map_err(failed)?;
    let mut parent: Option<gix::ObjectId> = None;
    for (number, release) in RELEASES.iter().enumerate() {
        let mut entries = Vec::new();
        for (name, content) in [(crate::model::config::FILE_NAME, CONFIG), ("shop.yaml", &manifests(release))]
        {
            entries.push(gix::objs::tree::Entry {
                mode: gix::objs::tree::EntryKind::Blob.into(),
                filename: name.into(),
                oid: repository.write_blob(content).map_err(failed)?.detach(),
            });
        }
        let tree = repository.write_object(gix::objs::Tree { entries }).map_err(failed)?.detach();
        let time = format!("{} +0000", 1_800_000_000 + 3600 * number);
        let signature =
            gix::actor::SignatureRef { name: "demo".into(), email: "demo@localhost".into(), time: &time };
        let message = format!("Shop {release}");
        let commit = repository.commit_as(signature, signature, "refs/heads/main", message, tree, parent);
        let commit = commit.map_err(failed)?.detach();
        let only_new = gix::refs::transaction::PreviousValue::MustNotExist;
        repository.tag_reference(format!("v{release}"), commit, only_new).map_err(failed)?;
        parent = Some(commit);
    }
    Ok(())
}

/// Makes an OCI image layout at `path` with every image of both releases. All share one layer.
pub(super) fn images(path: &Path) -> Result<()> {
    let blobs = path.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(|error| Error::io("make", &blobs, error))?;
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        let file = blobs.join(digest.hex());
        fs::write(&file, bytes).map_err(|error| Error::io("write", &file, error))?;
        Ok::<_, Error>(digest)
    };
    let base = layer("etc/os-release", "NAME=demo\n").map_err(|error| Error::io("write", path, error))?;
    let mut index = Vec::new();
    for name in RELEASES.map(web).into_iter().chain([WORKER.to_owned()]) {
        let own =
            layer("etc/image", &format!("{name}\n")).map_err(|error| Error::io("write", path, error))?;
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": [base.unpacked, own.unpacked]},
        })
        .to_string();
        let described = |bytes: &[u8], media_type: &str| {
            Ok::<_, Error>(json!({"mediaType": media_type, "digest": put(bytes)?, "size": bytes.len()}))
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": described(config.as_bytes(), "application/vnd.oci.image.config.v1+json")?,
            "layers": [
                described(&base.gzip, media_type::OCI_LAYER_GZIP)?,
                described(&own.gzip, media_type::OCI_LAYER_GZIP)?,
            ],
        })
        .to_string();
        let mut entry = described(manifest.as_bytes(), media_type::OCI_MANIFEST)?;
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        index.push(entry);
    }
    let index = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": index});
    for (name, content) in [("oci-layout", json!({"imageLayoutVersion": "1.0.0"})), ("index.json", index)] {
        let file = path.join(name);
        fs::write(&file, content.to_string()).map_err(|error| Error::io("write", &file, error))?;
    }
    Ok(())
}

/// A layer with one file.
struct Layer {
    gzip: Vec<u8>,
    /// Digest of the tar below the gzip, as a config lists it.
    unpacked: Digest,
}

fn layer(name: &str, content: &str) -> std::io::Result<Layer> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    builder.append_data(&mut header, name, content.as_bytes())?;
    let tar = builder.into_inner()?;
    let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::default());
    gzip.write_all(&tar)?;
    Ok(Layer { gzip: gzip.finish()?, unpacked: Digest::of(&tar) })
}
