//! What goes wrong in a use case: the rooms' own errors, and what only the whole can see.

use std::io;
use std::path::{Path, PathBuf};

use crate::model::{ErrorClass, ImageRef, lock};

/// An error of a use case. Each has a class, which decides the exit code, and may have a hint.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder.
    #[error("cannot {what} `{}`", path.display())]
    Io {
        /// What was tried: `read`, `write`.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Something that the machine lacks.
    #[error("{what}")]
    Setup {
        /// What is wrong.
        what: String,
        /// What to do.
        hint: String,
    },
    /// A name, version or sequence that the revision or the command line gives cannot be used.
    #[error("{what}")]
    Usage {
        /// What is wrong.
        what: String,
        /// What to do.
        hint: String,
    },
    /// No password for a private key.
    #[error("cannot use the private key `{}`: {why}", path.display())]
    Password {
        /// The key.
        path: PathBuf,
        /// Why there is none.
        why: String,
    },
    /// An archive, from the file or standard input it was read from.
    #[error("`{name}`")]
    Archive {
        /// The file's name, or `standard input`.
        name: String,
        /// The cause.
        source: Box<Error>,
    },
    /// A blob that is not what its digest says.
    #[error("a blob of `{image}` from {from}")]
    Blob {
        /// The image that it belongs to.
        image: Box<ImageRef>,
        /// Where it came from.
        from: String,
        /// The cause.
        source: Box<Error>,
    },
    /// A release that is older than the one that runs.
    #[error(
        "release {found} is older than {active}, which is active here: sequence {found_sequence} < {active_sequence}"
    )]
    Downgrade {
        /// Title of the release that was to be applied.
        found: String,
        /// Its sequence.
        found_sequence: u64,
        /// Title of the active release.
        active: String,
        /// Its sequence.
        active_sequence: u64,
    },
    /// Images that are missing, cannot be resolved, or are not decided.
    #[error("{0}")]
    Images(Box<super::image_problems::ImageProblems>),
    /// A build that takes locked images alone has a lock file that does not fit, or none.
    #[error("{}", stale_text(*missing, differences))]
    Stale {
        /// Whether there is no lock file.
        missing: bool,
        /// Each way in which it does not fit.
        differences: Vec<String>,
        /// References that have to move.
        update: Vec<ImageRef>,
    },
    /// No endpoint is known for the gate.
    #[error("no endpoint to ask for the release: `fleetpack serve` has not run on the store `{}`", store.display())]
    NoEndpoint {
        /// The store.
        store: PathBuf,
    },
    /// The store holds no such release.
    #[error("{what}")]
    NoRelease {
        /// What was looked for and what there is.
        what: String,
    },
    /// The cluster refused the release or it did not become healthy.
    #[error("{}", install_text(release, restored.as_deref(), why))]
    Install {
        /// Title of the release.
        release: String,
        /// Title of the release that was restored, if one was.
        restored: Option<String>,
        /// What went wrong.
        why: String,
        /// What to do next.
        hint: String,
    },
    /// A key file.
    #[error(transparent)]
    Key(#[from] crate::trust::KeyError),
    /// The signatures of a release.
    #[error(transparent)]
    Signature(#[from] crate::trust::VerifyError),
    /// The archive's format.
    #[error(transparent)]
    Format(#[from] crate::archive::ArchiveError),
    /// The rendered manifests.
    #[error(transparent)]
    Rendered(#[from] crate::archive::rendered::RenderedError),
    /// Git on the build side.
    #[error(transparent)]
    Git(#[from] crate::source::git::GitError),
    /// `fleetpack.yaml`.
    #[error(transparent)]
    Config(#[from] crate::source::config::ConfigError),
    /// `fleetpack.lock`.
    #[error(transparent)]
    Lock(#[from] crate::source::lock::LockError),
    /// Rendering the manifests.
    #[error(transparent)]
    Render(#[from] crate::source::render::RenderError),
    /// Following the deployers of the revision.
    #[error(transparent)]
    Deploy(Box<crate::source::deploy::DeployError>),
    /// Registries and layouts.
    #[error(transparent)]
    Oci(Box<crate::oci::OciError>),
    /// Git on the site's side.
    #[error(transparent)]
    SiteGit(#[from] crate::store::git::GitStoreError),
    /// The store.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] crate::ledger::LedgerError),
    /// Serving, mirrors, gate.
    #[error(transparent)]
    Seed(#[from] crate::seed::SeedError),
    /// The gate.
    #[error(transparent)]
    Gate(#[from] crate::seed::GateError),
    /// A registry of the site's own.
    #[error(transparent)]
    Push(#[from] crate::seed::push::PushError),
    /// The cluster, before anything was changed there.
    #[error(transparent)]
    Cluster(#[from] crate::apply::ApplyError),
}

fn stale_text(missing: bool, differences: &[String]) -> String {
    let head = if missing { "the revision has no" } else { "the revision does not fit its" };
    let lines = differences.iter().map(|line| format!("\n  {line}"));
    format!("{head} {}:{}", lock::FILE_NAME, lines.collect::<String>())
}

fn install_text(release: &str, restored: Option<&str>, why: &str) -> String {
    match restored {
        Some(restored) => format!("release {release} did not take, and {restored} was restored: {why}"),
        None => format!("release {release} did not take: {why}"),
    }
}

impl From<crate::source::deploy::DeployError> for Error {
    fn from(error: crate::source::deploy::DeployError) -> Self {
        Self::Deploy(Box::new(error))
    }
}

impl From<crate::oci::OciError> for Error {
    fn from(error: crate::oci::OciError) -> Self {
        Self::Oci(Box::new(error))
    }
}

impl Error {
    /// A file error.
    pub(super) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { what, path: path.to_owned(), source }
    }

    /// Names the archive that the error is about.
    pub(super) fn in_archive(self, name: &str) -> Self {
        Self::Archive { name: name.to_owned(), source: Box::new(self) }
    }

    /// How the error ends the process.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Io { .. } | Self::Setup { .. } | Self::Password { .. } | Self::Blob { .. } => {
                ErrorClass::Failed
            }
            Self::Usage { .. } => ErrorClass::Usage,
            Self::Archive { source, .. } => source.class(),
            Self::Downgrade { .. } => ErrorClass::Refused,
            Self::Images(problems) => problems.class(),
            Self::Stale { .. } | Self::NoEndpoint { .. } | Self::NoRelease { .. } => ErrorClass::Incomplete,
            Self::Install { restored, .. } => match restored {
                Some(_) => ErrorClass::ClusterRestored,
                None => ErrorClass::ClusterBroken,
            },
            Self::Key(error) => error.class(),
            Self::Signature(error) => error.class(),
            Self::Format(error) => error.class(),
            Self::Rendered(error) => error.class(),
            Self::Git(error) => error.class(),
            Self::Config(error) => error.class(),
            Self::Lock(error) => error.class(),
            Self::Render(error) => error.class(),
            Self::Deploy(error) => error.class(),
            Self::Oci(error) => error.class(),
            Self::SiteGit(error) => error.class(),
            Self::Store(error) => error.class(),
            Self::Ledger(error) => error.class(),
            Self::Seed(error) => error.class(),
            Self::Gate(error) => error.class(),
            Self::Push(error) => error.class(),
            Self::Cluster(error) => error.class(),
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::AlreadyExists => Some("choose another name; nothing is ever replaced".into()),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Some("free some space, then run the same command again".into())
                }
                io::ErrorKind::PermissionDenied => Some("check who owns it, or run as a user who may".into()),
                _ => None,
            },
            Self::Setup { hint, .. } | Self::Usage { hint, .. } | Self::Install { hint, .. } => Some(hint.clone()),
            Self::Blob { .. } => Some("the registry holds or sends something else than it promises; push the image anew, or ask another mirror".into()),
            Self::Password { .. } => Some("set COSIGN_PASSWORD (empty for a key without a password)".into()),
            Self::Archive { source, .. } => source.hint(),
            Self::Downgrade { .. } => Some(
                "apply the newer release, go back with `fleetpack rollback`, or give the reason with \
                 `--allow-downgrade REASON`"
                    .into(),
            ),
            Self::Images(problems) => problems.hint(),
            Self::Stale { missing: true, .. } => Some(format!(
                "write it with `fleetpack lock`, review and commit {}, and build that revision",
                lock::FILE_NAME
            )),
            Self::Stale { update, .. } => {
                // Moving some references locks the others as well.
                let names: Vec<String> = update.iter().map(ToString::to_string).collect();
                let update = if names.is_empty() { "" } else { " --update " };
                let names = names.join(" ");
                Some(format!(
                    "run `fleetpack lock{update}{names}`, review and commit {}, and build that revision",
                    lock::FILE_NAME
                ))
            }
            Self::NoEndpoint { store } => Some(format!(
                "start it: `fleetpack serve --store {}` (and keep it running: nodes pull from it), or name another with `--endpoint URL`",
                store.display()
            )),
            Self::NoRelease { .. } => Some("`fleetpack status` lists what the store keeps".into()),
            Self::Key(error) => error.hint(),
            Self::Signature(error) => error.hint(),
            Self::Format(error) => error.hint(),
            Self::Rendered(error) => error.hint(),
            Self::Git(error) => error.hint(),
            Self::Config(error) => error.hint(),
            Self::Lock(error) => error.hint(),
            Self::Render(error) => error.hint(),
            Self::Deploy(error) => error.hint(),
            Self::Oci(error) => error.hint(),
            Self::SiteGit(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::Ledger(error) => error.hint(),
            Self::Seed(error) => error.hint(),
            Self::Gate(error) => error.hint(),
            Self::Push(error) => error.hint(),
            Self::Cluster(error) => error.hint(),
        }
    }
}
