//! `fleetpack build`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use super::environment;
use super::inputs::{ImageArgs, RevisionArgs};
use super::settings;
use super::ui::{Failure, Format, Ui, bytes};
use crate::model::{ReleaseName, ReleaseVersion};
use crate::ops;

/// Resolve a Git revision and every image it runs into one archive.
///
/// The revision is read from the object database, never from the work tree. Images are taken from
/// their registries, by the credentials and mirrors that the containers' own tools use
/// (`DOCKER_CONFIG`, `REGISTRY_AUTH_FILE`, `CONTAINERS_REGISTRIES_CONF`). On any failure there is
/// no file under the output's name.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    revision: RevisionArgs,
    /// The archive to write, or a folder for it [default: NAME-VERSION.fleetpack.tar here].
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    images: ImageArgs,
    /// Name of the release [default: fleetpack.yaml's, else the repository folder's].
    #[arg(long, value_name = "NAME")]
    name: Option<ReleaseName>,
    /// Version of the release [default: fleetpack.yaml's, else the tag at the revision, else its short hash].
    #[arg(long, value_name = "VERSION")]
    release_version: Option<ReleaseVersion>,
    /// Number that sites use to tell newer from older [default: count of commits that the revision reaches].
    #[arg(long, value_name = "N")]
    sequence: Option<u64>,
    /// Sign with this private key (cosign's format); its password is `COSIGN_PASSWORD`, else asked for.
    #[arg(long, short, value_name = "KEY")]
    key: Option<PathBuf>,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Args {
    /// Builds the archive.
    pub(super) fn run(self, ui: &Arc<Ui>) -> Result<ExitCode, Failure> {
        let key = self.key.map(|path| {
            ops::keys::load_private(&path, || {
                settings::password(&format!("Password for `{}`: ", path.display()))
                    .map_err(|failure| failure.message)
            })
        });
        let created = match environment::variable("SOURCE_DATE_EPOCH") {
            Some(text) => Some(text.to_str().and_then(|text| text.parse::<i64>().ok()).ok_or_else(|| {
                Failure::usage(
                    format!("`SOURCE_DATE_EPOCH` is `{}`", text.to_string_lossy()),
                    "set it to a whole number of seconds since 1970, or unset it",
                )
            })?),
            None => None,
        };
        let options = ops::build::Options {
            revision: self.revision.options(),
            images: self.images.options(),
            output: self.output,
            name: self.name,
            version: self.release_version,
            sequence: self.sequence,
            key: key.transpose()?,
            created,
        };
        let report = settings::interruptible(ops::build::build(options, ui.clone()))??;
        match self.format {
            Format::Json => ui.json(&report),
            Format::Text => ui.data(&format!(
                "{}\n  release   {} {} (sequence {})\n  digest    {}\n  commit    {}\n  content   {} objects, {} images, {} blobs, {}\n  signed    {}",
                report.archive.display(),
                report.name,
                report.version,
                report.sequence,
                report.release,
                report.commit,
                report.objects,
                report.images,
                report.blobs,
                bytes(report.size),
                report.signed_by.as_deref().unwrap_or("no: no site will take it; sign it with `fleetpack sign`"),
            )),
        }
        Ok(ExitCode::SUCCESS)
    }
}
