//! `demo`: the whole way on one machine, with everything thrown away at the end.
//!
//! Needs nothing but this program: the repository and the images are made here, and the steps are
//! the very functions that the other subcommands call.

mod shop;
mod visit;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::apply::Mode;
use super::checkout::RevisionOptions;
use super::images::ImageOptions;
use super::{ClusterSettings, Error, Result, apply, build, inspect, keys, rollback, serve, status, verify};
use crate::model::{Progress, ReleaseDocument};

/// What the demo is told.
#[derive(Debug)]
pub struct Options {
    /// The cluster to apply to; without one the releases are seeded, and the cluster's part is left out.
    pub cluster: Option<ClusterSettings>,
    /// Keep the folder at the end.
    pub keep: bool,
}

/// Runs the demo.
///
/// # Errors
///
/// When a step fails, as it would on its own.
pub async fn demo(options: Options, progress: Arc<dyn Progress>) -> Result<()> {
    let scratch = tempfile::Builder::new()
        .prefix("fleetpack-demo-")
        .tempdir()
        .map_err(|error| Error::io("make a folder in", Path::new("the temporary folder"), error))?;
    let folder = scratch.path().to_owned();
    let demo = Demo { folder: folder.clone(), cluster: options.cluster, progress: Arc::clone(&progress) };
    demo.run().await?;
    if options.keep {
        progress.note(format!("everything is in {}", scratch.keep().display()));
    }
    Ok(())
}

struct Demo {
    folder: PathBuf,
    cluster: Option<ClusterSettings>,
    progress: Arc<dyn Progress>,
}

/// An archive of the demo and what it says it holds.
struct Built {
    archive: PathBuf,
    document: ReleaseDocument,
}

impl Demo {
    fn step(&self, line: &str) {
        self.progress.note(format!("\n== {line}"));
    }

    fn tell(&self, line: impl Into<String>) {
        self.progress.note(line.into());
    }

    async fn run(&self) -> Result<()> {
        let key = self.prepare()?;
        let mut built = Vec::new();
        for release in shop::RELEASES {
            built.push(self.build(&key, release).await?);
        }
        for release in &built {
            self.verify(&key, release)?;
        }
        self.step("fleetpack serve: images and Git from a store, on loopback");
        let store = self.folder.join("store");
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let content = serve::From::Store(store.clone());
        let mut server =
            serve::start(serve::Options::new(listen, content), Arc::clone(&self.progress)).await?;
        let endpoint = server.endpoint().to_owned();
        self.tell(format!("it answers at {endpoint}; the store is empty so far"));

        for (release, built) in shop::RELEASES.iter().zip(&built) {
            self.apply(&key, &store, built).await?;
            self.visit(&endpoint, release, built).await?;
        }
        self.rollback(&store).await?;
        self.visit(&endpoint, shop::RELEASES[0], &built[0]).await?;

        self.step("fleetpack status, fleetpack history");
        self.tell(status::status(&store)?.to_string());
        self.tell(status::history(&store)?.to_string());
        server.stop().await?;
        self.step("done: release 1.0 is back, and nothing of the demo is left running");
        match &self.cluster {
            Some(_) => self.tell(format!(
                "its objects stay in the cluster; look at them, then: kubectl delete namespace {}",
                shop::NAMESPACE
            )),
            None => self.tell("with `--cluster` it applies to the cluster of KUBECONFIG as well"),
        }
        Ok(())
    }

    fn prepare(&self) -> Result<keys::Pair> {
        self.step("fleetpack keygen; a Git repository with two releases; the images that they run");
        let key = keys::generate(&self.folder.join("release"), "")?;
        shop::repository(&self.folder.join("shop.git"))?;
        shop::images(&self.folder.join("images"))?;
        self.tell(format!(
            "all of it is in {}: shop.git (tags v1.0, v2.0), images (an OCI layout)",
            self.folder.display()
        ));
        Ok(key)
    }

    async fn build(&self, key: &keys::Pair, release: &str) -> Result<Built> {
        self.step(&format!(
            "fleetpack build shop.git --revision v{release} --images-from oci:images --key release.key"
        ));
        let options = build::Options {
            revision: RevisionOptions {
                repository: self.folder.join("shop.git"),
                revision: format!("v{release}"),
                ..RevisionOptions::default()
            },
            images: ImageOptions {
                local_images: vec![format!("oci:{}", self.folder.join("images").display())],
                ..ImageOptions::default()
            },
            output: Some(self.folder.clone()),
            key: Some(keys::load_private(&key.private, || Ok(String::new()))?),
            ..build::Options::default()
        };
        let report = build::build(options, Arc::clone(&self.progress)).await?;
        self.tell(format!(
            "{}\nrelease {}: {} objects, {} images, {} blobs; look at it: tar tf, skopeo inspect oci-archive:…",
            report.archive.display(),
            report.release,
            report.objects,
            report.images,
            report.blobs
        ));
        let document = inspect::inspect(&report.archive, std::slice::from_ref(&key.public))?.document;
        Ok(Built { archive: report.archive, document })
    }

    fn verify(&self, key: &keys::Pair, built: &Built) -> Result<()> {
        self.step(&format!("fleetpack verify {} --key release.pub", file_name(&built.archive)));
        let report =
            verify::verify(&built.archive, std::slice::from_ref(&key.public), self.progress.as_ref())?;
        let signers: Vec<String> = report.signers.iter().map(ToString::to_string).collect();
        self.tell(format!("verified offline, {} blobs; signed by {}", report.blobs, signers.join(", ")));
        Ok(())
    }

    async fn apply(&self, key: &keys::Pair, store: &Path, built: &Built) -> Result<()> {
        let seed_only = if self.cluster.is_some() { "" } else { " --seed-only" };
        self.step(&format!("fleetpack apply {} --key release.pub{seed_only}", file_name(&built.archive)));
        let options = apply::Options {
            archive: built.archive.clone(),
            keys: vec![key.public.clone()],
            store: store.to_owned(),
            cluster: self.cluster.clone().unwrap_or_default(),
            mode: if self.cluster.is_some() { Mode::Install } else { Mode::SeedOnly },
            ..apply::Options::default()
        };
        let report = apply::apply(options, Arc::clone(&self.progress)).await?;
        self.tell(format!(
            "{report}\n{} bytes were new to the store, {} were there already",
            report.stored, report.skipped
        ));
        Ok(())
    }

    async fn rollback(&self, store: &Path) -> Result<()> {
        let seed_only = self.cluster.is_none();
        self.step(if seed_only { "fleetpack rollback --seed-only" } else { "fleetpack rollback" });
        let options = rollback::Options {
            store: store.to_owned(),
            cluster: self.cluster.clone().unwrap_or_default(),
            seed_only,
            ..rollback::Options::default()
        };
        let report = rollback::rollback(options, Arc::clone(&self.progress)).await?;
        self.tell(report.to_string());
        Ok(())
    }

    /// Does what a node and a Git client would do, and compares with what the archive says.
    async fn visit(&self, endpoint: &str, release: &str, built: &Built) -> Result<()> {
        let image = shop::web(release);
        let (digest, bytes) = visit::pull(endpoint, &image).await?;
        let carried = built.document.images.iter().find(|entry| entry.reference.to_string() == image);
        if carried.is_none_or(|entry| entry.digest != digest) {
            return Err(Error::Setup {
                what: format!("`{image}` has another digest at {endpoint} than in the archive: `{digest}`"),
                hint: "this is a defect of fleetpack: please report it".into(),
            });
        }
        self.tell(format!("pulled {image} through the server: {bytes} bytes, {digest}, as in the archive"));
        let folder = tempfile::Builder::new()
            .prefix("clone-")
            .tempdir_in(&self.folder)
            .map_err(|error| Error::io("make a folder in", &self.folder, error))?;
        let commit = visit::clone(endpoint, &built.document, &folder.path().join("git")).await?;
        self.tell(format!(
            "cloned {endpoint}/git/shop.git: v{release} is commit {}",
            &commit[..12.min(commit.len())]
        ));
        Ok(())
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
