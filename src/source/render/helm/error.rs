//! Why a chart was not rendered.

use std::io;

use crate::model::yaml::YamlError;
use crate::model::{ErrorClass, ObjectId};

/// Why a chart was not rendered.
#[derive(Debug, thiserror::Error)]
pub enum HelmError {
    /// There is no Helm.
    #[error("`{chart}` is a Helm chart, and there is no `helm`")]
    NoHelm {
        /// The chart.
        chart: String,
    },
    /// A folder or file is no chart.
    #[error("`{place}` is not a Helm chart: {why}")]
    NotChart {
        /// The folder or file.
        place: String,
        /// What is missing or wrong.
        why: String,
    },
    /// A chart's own file is not YAML.
    #[error("{file}:{}:{}: {}", error.line, error.column, error.why)]
    Yaml {
        /// The file.
        file: String,
        /// What is wrong, and where.
        error: YamlError,
    },
    /// A packaged chart cannot be unpacked.
    #[error("cannot read the packaged chart `{place}`")]
    Package {
        /// The file.
        place: String,
        /// The cause.
        source: io::Error,
    },
    /// Charts within charts without end, or larger than any honest one.
    #[error("`{place}` has more than {limit} {what}")]
    TooMuch {
        /// The chart.
        place: String,
        /// What there is too much of.
        what: &'static str,
        /// How much may be there.
        limit: u64,
    },
    /// A dependency is not in the revision.
    #[error("`{chart}` depends on `{dependency}`{}, which is not in `{chart}/charts`", of_version(version))]
    Missing {
        /// The chart.
        chart: String,
        /// Name of the dependency.
        dependency: String,
        /// Its version, as far as it is known.
        version: String,
    },
    /// A dependency may be of many versions, and nothing says which.
    #[error(
        "`{chart}` depends on `{dependency}`{}, and there is no `Chart.lock` that says which version that is",
        of_version(version)
    )]
    Unlocked {
        /// The chart.
        chart: String,
        /// Name of the dependency.
        dependency: String,
        /// The versions that would do.
        version: String,
    },
    /// The dependency in the revision is of another version than the chart or its lock file wants.
    #[error("`{chart}` depends on `{dependency}` {wanted} (`{says}`), and {there}")]
    OtherVersion {
        /// The chart.
        chart: String,
        /// Name of the dependency.
        dependency: String,
        /// The version that is wanted.
        wanted: String,
        /// The file that wants it.
        says: String,
        /// Where the dependency stands, and its version.
        there: String,
    },
    /// The lock file was made for other dependencies.
    #[error("`{lock}` was made for other dependencies than `{chart}` has")]
    StaleLock {
        /// The lock file.
        lock: String,
        /// The chart.
        chart: String,
    },
    /// Helm leaves out an object that has a hook it does not know.
    #[error("helm leaves out an object of `{chart}`: {complaint}")]
    LeftOut {
        /// The chart.
        chart: String,
        /// What Helm says.
        complaint: String,
    },
    /// A chart gives another object each time.
    #[error("`{chart}` renders differently each time: {object}{}", field.as_ref().map(|field| format!(" in `{field}`")).unwrap_or_default())]
    Unstable {
        /// The chart.
        chart: String,
        /// The first object that differs.
        object: Box<ObjectId>,
        /// Its field, where one differs.
        field: Option<String>,
    },
}

fn of_version(version: &str) -> String {
    if version.is_empty() { String::new() } else { format!(" `{version}`") }
}

impl HelmError {
    /// How the error ends the process.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Missing { .. } => ErrorClass::Incomplete,
            _ => ErrorClass::Failed,
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoHelm { .. } => {
                "install Helm 3 or 4 on the build machine (https://helm.sh/docs/intro/install) and have it in `PATH`"
                    .to_owned()
            }
            Self::Missing { chart, .. } => {
                format!("run `helm dependency build {chart}` and commit `{chart}/charts`")
            }
            Self::Unlocked { chart, .. } | Self::StaleLock { chart, .. } | Self::OtherVersion { chart, .. } => {
                format!("run `helm dependency update {chart}` and commit `{chart}/Chart.lock` and `{chart}/charts`")
            }
            Self::NotChart { .. } => "`chart` names the folder that holds `Chart.yaml`, or a packaged chart".to_owned(),
            Self::LeftOut { .. } => "remove the hook, or name one that Helm knows".to_owned(),
            Self::Unstable { .. } => {
                "a release is built again to the same bytes, and an upgrade must not make new secrets: give the chart \
                 the value that it would make up (a password, a certificate, an existing secret)"
                    .to_owned()
            }
            Self::Yaml { .. } | Self::Package { .. } | Self::TooMuch { .. } => return None,
        })
    }
}
