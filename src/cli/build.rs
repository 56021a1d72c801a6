//! `fleetpack build`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use super::exit;
use super::inputs::{ImageArgs, RevisionArgs};
use super::settings;
use super::ui::{Failure, Format, Ui, bytes};
use crate::model::config::Referrers;
use crate::model::{ErrorClass, ReleaseName, ReleaseVersion};
use crate::ops;
use crate::ops::build::compare::Comparison;

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
    /// Fail unless the revision's `fleetpack.lock` names every image that is used, and no other.
    #[arg(long)]
    locked: bool,
    /// What of that which refers to an image travels with it [default: fleetpack.yaml's, else all].
    #[arg(long, value_enum, value_name = "WHICH")]
    referrers: Option<Which>,
    /// Take blobs from this earlier archive, or from the folder of a store on this machine, instead
    /// of downloading them: each is hashed, and fetched after all where it is damaged; may be given several times.
    #[arg(long, value_name = "ARCHIVE|STORE", value_delimiter = ',')]
    reuse: Vec<PathBuf>,
    /// Write nothing: say whether the revision gives this archive (`-` reads standard input), byte for
    /// byte but for its signatures, or what differs; exits with 3 when it does. What was given when it
    /// was built (`--revision`, `--platform`, `--image`, `--name` ...) must be given again.
    #[arg(long, value_name = "ARCHIVE", conflicts_with_all = ["output", "key", "reuse"])]
    compare: Option<PathBuf>,
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

/// What of that which refers to an image travels with it.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Which {
    /// Signatures, attestations, SBOMs, and what refers to them.
    All,
    /// Signatures alone.
    Signatures,
    /// Nothing.
    None,
}

impl From<Which> for Referrers {
    fn from(which: Which) -> Self {
        match which {
            Which::All => Self::All,
            Which::Signatures => Self::Signatures,
            Which::None => Self::None,
        }
    }
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
        let created = settings::source_date_epoch()?;
        let options = ops::build::Options {
            revision: self.revision.options(),
            images: ops::images::ImageOptions {
                referrers: self.referrers.map(Into::into),
                ..self.images.options()
            },
            locked: self.locked,
            output: self.output,
            reuse: self.reuse,
            name: self.name,
            version: self.release_version,
            sequence: self.sequence,
            key: key.transpose()?,
            created,
        };
        if let Some(archive) = self.compare {
            let compared = ops::build::compare::compare(&archive, options, ui.clone());
            return Ok(print(&settings::interruptible(compared)??, self.format, ui));
        }
        let report = settings::interruptible(ops::build::build(options, ui.clone()))??;
        match self.format {
            Format::Json => ui.json(&report),
            Format::Text => ui.data(&format!(
                "{}\n  release   {} {} (sequence {})\n  digest    {}\n  commit    {}\n  content   {} objects, {} images, {} blobs, {}\n  reused    {} blobs, {}\n  signed    {}",
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
                report.reused,
                bytes(report.reused_bytes),
                report.signed_by.as_deref().unwrap_or("no: no site will take it; sign it with `fleetpack sign`"),
            )),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints what a comparison found; two that differ end with 3.
fn print(found: &Comparison, format: Format, ui: &Ui) -> ExitCode {
    match format {
        Format::Json => ui.json(found),
        Format::Text if found.identical => ui.data(&format!(
            "identical: commit {} gives {}\n  release   {} {}\n  digest    {}\n  signed    {} signatures, which are no part of the comparison",
            found.commit, found.archive, found.name, found.version, found.release, found.signatures,
        )),
        Format::Text => {
            let mut lines = vec![format!("different: the revision does not give {}", found.archive)];
            if let Some(first) = found.differences.first() {
                lines.push(format!("  first     {first}"));
                lines.extend(first.hint.iter().map(|hint| format!("            {hint}")));
            }
            let more = found.differences.iter().skip(1).take(20);
            lines.extend(more.map(|difference| format!("  then      {difference}")));
            if let Some(left @ 1..) = found.differences.len().checked_sub(21) {
                lines.push(format!("  and       {left} more: `--format json` lists all"));
            }
            lines.push(format!("  digest    {} in the archive, {} rebuilt", found.release, found.rebuilt));
            ui.data(&lines.join("\n"));
        }
    }
    if found.identical { ExitCode::SUCCESS } else { exit::exit(ErrorClass::Refused) }
}
