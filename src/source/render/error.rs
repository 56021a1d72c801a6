//! Why a tree was not rendered.

use std::io;

use super::helm::HelmError;
use super::tool::ToolError;
use crate::fsio::limits;
use crate::model::config::FILE_NAME;
use crate::model::yaml::YamlError;
use crate::model::{ErrorClass, ObjectId, Origin};
use crate::source::git::GitError;

/// Why a tree was not rendered.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// A file or folder could not be read.
    #[error("cannot read `{path}`")]
    Io {
        /// The file or folder.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// A file is larger than any honest one.
    #[error("`{path}` has more than {} bytes", limits::YAML_FILE)]
    Large {
        /// The file.
        path: String,
    },
    /// A file is not YAML that Kubernetes reads.
    #[error("{file}:{}:{}: {}", error.line, error.column, error.why)]
    Yaml {
        /// The file.
        file: String,
        /// What is wrong, and where.
        error: YamlError,
    },
    /// A document that should be a Kubernetes object is none.
    #[error("{origin}: not a Kubernetes object: {why}")]
    Object {
        /// Where the document begins.
        origin: Origin,
        /// What is missing or wrong.
        why: String,
    },
    /// One object stands twice.
    #[error("{id} stands twice: in {first} and in {second}")]
    Doubled {
        /// The object.
        id: Box<ObjectId>,
        /// Where it stands first.
        first: Box<Origin>,
        /// Where it stands again.
        second: Box<Origin>,
    },
    /// A source or a kustomization wants something that is not there.
    #[error("{place} wants {wanted}, which is not in the revision")]
    Missing {
        /// Who wants it.
        place: String,
        /// What it wants.
        wanted: String,
    },
    /// A source leads out of the tree.
    #[error("`{path}` is a link that leads out of the revision")]
    Outside {
        /// The path.
        path: String,
    },
    /// A kustomization names what the revision does not hold.
    #[error("{file}{}: `{field}` names `{entry}`, {why}", line.map(|line| format!(":{line}")).unwrap_or_default())]
    Remote {
        /// The kustomization.
        file: String,
        /// The line of the entry, where it can be told.
        line: Option<u64>,
        /// Its field.
        field: String,
        /// What the field names.
        entry: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A base elsewhere could not be fetched.
    #[error("{file}: cannot take the base `{entry}`")]
    Base {
        /// The kustomization that names it.
        file: String,
        /// As it names it.
        entry: String,
        /// The cause.
        source: Box<GitError>,
    },
    /// A kustomization leads to bases without end.
    #[error("{file}: more than {limit} bases lie elsewhere")]
    TooManyBases {
        /// The kustomization that names one too many.
        file: String,
        /// How many there may be.
        limit: usize,
    },
    /// A kustomization inflates Helm charts.
    #[error("{file}: `{field}` has kustomize run Helm, which may fetch charts from anywhere")]
    HelmCharts {
        /// The kustomization.
        file: String,
        /// Its field.
        field: &'static str,
    },
    /// A Helm chart was not rendered.
    #[error(transparent)]
    Helm(Box<HelmError>),
    /// By convention every YAML file would be taken, but some are the input of a kustomization.
    #[error("`{file}` is a kustomization, but not at the root: which one is the release is not said")]
    WhichKustomization {
        /// The kustomization.
        file: String,
    },
    /// A folder of plain objects holds a kustomization.
    #[error("`{file}` is a kustomization, and `path` takes plain objects")]
    KustomizationInPath {
        /// The kustomization.
        file: String,
    },
    /// There is no tool for a kustomization.
    #[error("`{folder}` is a kustomization, and there is neither `kustomize` nor `kubectl`")]
    NoTool {
        /// The folder.
        folder: String,
    },
    /// The tool failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// Nothing came out.
    #[error("{source_name} renders no object; a release without them would delete everything on the site")]
    Empty {
        /// The source, as people say it.
        source_name: String,
    },
    /// An object that no API server takes.
    #[error("{origin}: {id} has {found} bytes{of}, and Kubernetes takes at most {limit}")]
    TooLarge {
        /// The object.
        id: Box<ObjectId>,
        /// Where it stands.
        origin: Box<Origin>,
        /// Its size.
        found: u64,
        /// What is that large, with a blank before it, where it is not the whole.
        of: &'static str,
        /// How large it may be.
        limit: u64,
    },
    /// More than a release may hold.
    #[error("more than {} objects", limits::OBJECTS)]
    TooMany,
}

impl From<HelmError> for RenderError {
    fn from(error: HelmError) -> Self {
        Self::Helm(Box::new(error))
    }
}

impl RenderError {
    /// How the error ends the process.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Missing { .. } | Self::Remote { .. } | Self::Empty { .. } => ErrorClass::Incomplete,
            Self::Helm(error) => error.class(),
            Self::Base { source, .. } => source.class(),
            _ => ErrorClass::Failed,
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Remote { why, entry, .. } if why.contains("pinned to a commit") => {
                let address = entry.split('?').next().unwrap_or(entry);
                format!(
                    "write `{address}?ref=COMMIT` with the 40 digits of the commit (`git ls-remote` says which), or \
                     copy the base into the repository"
                )
            }
            Self::Base { source, .. } => return source.hint(),
            Self::Remote { .. } => {
                "copy it into the repository: a release is rendered from its revision alone".to_owned()
            }
            Self::Yaml { .. }
            | Self::Object { .. }
            | Self::Doubled { .. }
            | Self::WhichKustomization { .. } => {
                format!("`sources` in `{FILE_NAME}` says which files and kustomizations make up the release")
            }
            Self::KustomizationInPath { file } => {
                let folder = file.rsplit_once('/').map_or(".", |(folder, _)| folder);
                format!("name its folder as `kustomize: {folder}` in `{FILE_NAME}`")
            }
            Self::HelmCharts { .. } => {
                format!("copy the chart into the repository and name it as a `helm` source in `{FILE_NAME}`")
            }
            Self::Helm(error) => return error.hint(),
            Self::TooLarge { .. } => {
                "put what is so large into an image or a volume, or in several objects".to_owned()
            }
            Self::TooMany => "split the release in several".to_owned(),
            Self::NoTool { .. } => "install kustomize or kubectl on the build machine".to_owned(),
            Self::Empty { .. } => {
                format!("check `sources` in `{FILE_NAME}`, and that the revision is the right one")
            }
            _ => return None,
        })
    }
}
