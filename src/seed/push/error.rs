//! Why a registry does not hold a release.

use crate::model::ErrorClass;
use crate::model::site_registry::SiteRegistryError;
use crate::oci::OciError;
use crate::store::StoreError;

/// Things that are named; more are counted.
const NAMED: usize = 10;

/// Why a release is not in the site's registry.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The registry's answer, or none.
    #[error("the registry `{registry}` does not take the release")]
    Registry {
        /// The registry.
        registry: String,
        /// The cause.
        source: Box<OciError>,
    },
    /// What is pushed cannot be read from the store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A repository would have a name that no registry takes.
    #[error(transparent)]
    Name(#[from] SiteRegistryError),
    /// A manifest in the store leads to what the release does not hold.
    #[error("manifest `{manifest}` leads to `{lacking}`, which the release does not hold")]
    Closure {
        /// The manifest.
        manifest: String,
        /// What it leads to.
        lacking: String,
    },
    /// It takes no index whose children are not all there.
    #[error(
        "the registry `{registry}` takes no index with platforms left out, and {} of the release {}: {}",
        images.len(), if images.len() == 1 { "is one" } else { "are such" }, listing(images)
    )]
    Sparse {
        /// The registry.
        registry: String,
        /// Each image with what was left out, and what the registry said.
        images: Vec<String>,
    },
    /// It said that it took everything, and does not have it.
    #[error("the registry `{registry}` lacks {} of the release after it took all of it: {}", missing.len(), listing(missing))]
    Lacks {
        /// The registry.
        registry: String,
        /// What it lacks.
        missing: Vec<String>,
    },
}

fn listing(things: &[String]) -> String {
    let mut text = things.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    if things.len() > NAMED {
        text = format!("{text}; and {} more", things.len() - NAMED);
    }
    text
}

impl PushError {
    /// How the error ends the process.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            // That the registry does not hold something is no wrong reference of the release.
            Self::Registry { .. } => ErrorClass::Failed,
            Self::Store(error) => error.class(),
            Self::Name(_) => ErrorClass::Usage,
            Self::Closure { .. } => ErrorClass::Refused,
            Self::Sparse { .. } | Self::Lacks { .. } => ErrorClass::Incomplete,
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let again = "then run the same command again: what the registry has is not sent again";
        match self {
            Self::Registry { registry, source } => Some(match source.as_ref() {
                OciError::Credentials { host, .. } => format!(
                    "log in with a user who may push to `{registry}`: `skopeo login {host}` or `docker login {host}`; {again}"
                ),
                OciError::Status { status: 405, .. } => format!(
                    "`{registry}` takes nothing: it is read-only, or passes on what another registry has; name one that can be written to"
                ),
                OciError::Status { status: 404, .. } => format!(
                    "some registries want the project or path to be made before: make it, or name another prefix than `{registry}`; {again}"
                ),
                OciError::Status { status: 413, .. } => format!(
                    "something before the registry takes no large bodies: raise its limit (nginx: `client_max_body_size 0`); {again}"
                ),
                OciError::Status { status: 507, .. } => {
                    format!("the registry's disk is full: make room there; {again}")
                }
                OciError::Status { status: 500..=599, .. } => {
                    format!("the registry's own log says why, a full disk perhaps; {again}")
                }
                OciError::Unreachable { host, .. } => format!(
                    "check that `{host}` runs and can be reached; a certificate of the site's own goes to certs.d/{host}/ca.crt, and a registry without TLS wants `insecure = true` in registries.conf; {again}"
                ),
                other => return other.hint().or_else(|| Some(again.to_owned())),
            }),
            Self::Store(error) => error.hint(),
            Self::Name(_) => Some("give a shorter prefix to `--registry`".to_owned()),
            Self::Closure { .. } => None,
            Self::Sparse { .. } => Some(
                "build the release with all platforms of these images (no `platforms`, no `--platform`), let nodes pull from `fleetpack serve`, which serves such indexes, or have the registry take them (distribution 3: `validation.manifests.indexes.platforms: none`)"
                    .to_owned(),
            ),
            Self::Lacks { registry, .. } => Some(format!(
                "something removes from `{registry}`, or several registries answer under that name: look there, {again}"
            )),
        }
    }
}
