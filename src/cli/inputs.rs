//! Arguments that the commands of the build side share.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use super::{environment, settings};
use crate::model::{ImageRef, Platform};
use crate::ops::checkout::{RemoteSettings, RevisionOptions};
use crate::ops::images::ImageOptions;

/// Which revision of which repository.
#[derive(Debug, clap::Args)]
pub struct RevisionArgs {
    /// The Git repository: a folder, or a URL (https, http, ssh, file, `host:path`) to fetch from.
    #[arg(value_name = "PATH|URL", default_value = ".")]
    path: PathBuf,
    /// Branch, tag or hash to work on.
    #[arg(long, short, value_name = "REV", default_value = "HEAD")]
    revision: String,
}

impl RevisionArgs {
    /// As the use cases take it.
    pub(super) fn options(self) -> RevisionOptions {
        RevisionOptions {
            repository: self.path,
            revision: self.revision,
            remote: RemoteSettings {
                git: environment::program("git"),
                cache: environment::cache_home().map(|cache| cache.join("fleetpack/git")),
                prompt: std::io::stdin().is_terminal() && std::io::stderr().is_terminal(),
                ..RemoteSettings::default()
            },
            kustomize: environment::program("kustomize"),
            kubectl: environment::program("kubectl"),
            helm: environment::program("helm"),
        }
    }
}

/// Which images, and where they are looked for.
#[derive(Debug, clap::Args)]
pub struct ImageArgs {
    /// Take these platforms of each image index alone; may be given several times [default: fleetpack.yaml's, else all].
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',')]
    platform: Vec<Platform>,
    /// Carry this image too, although no manifest names it; may be given several times.
    #[arg(long, value_name = "REF", value_delimiter = ',')]
    image: Vec<ImageRef>,
    /// Take images from an OCI layout before asking their registries: `oci:DIR` or `oci-archive:FILE`,
    /// with `=REPOSITORY[:TAG]` behind it where the layout does not name them; may be given several times.
    #[arg(long, value_name = "SOURCE", value_delimiter = ',')]
    images_from: Vec<String>,
    /// Downloads at a time.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,
}

impl ImageArgs {
    /// As the use cases take it.
    pub(super) fn options(self) -> ImageOptions {
        ImageOptions {
            platforms: self.platform,
            images: self.image,
            local_images: self.images_from,
            referrers: None,
            jobs: usize::from(self.jobs),
            registries: settings::registry_settings(),
        }
    }
}
