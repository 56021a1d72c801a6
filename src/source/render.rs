//! Renders the tree of a revision to the objects that a site will apply.
//!
//! Sources come from `fleetpack.yaml`, else by convention. Every object is named and doubled
//! ones are refused; nothing is added to an object, and nothing taken away.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

pub use super::render_tool::{RenderTools, ToolError};

use super::{render_files, render_kustomize};
use crate::fsio::limits;
use crate::model::config::{FILE_NAME, ReleaseConfig, SourceConfig};
use crate::model::yaml::YamlError;
use crate::model::{ErrorClass, ObjectId, Origin, Progress, RenderedObject};

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
        first: Origin,
        /// Where it stands again.
        second: Origin,
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
    #[error("{file}: `{field}` names `{entry}`, {why}")]
    Remote {
        /// The kustomization.
        file: String,
        /// Its field.
        field: String,
        /// What the field names.
        entry: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A kustomization inflates Helm charts.
    #[error("{file}: `{field}` wants Helm, whose charts are not rendered yet")]
    HelmCharts {
        /// The kustomization.
        file: String,
        /// Its field.
        field: &'static str,
    },
    /// The revision is a Helm chart.
    #[error("the revision is a Helm chart (`Chart.yaml` at its root), and charts are not rendered yet")]
    Chart,
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
    /// More than a release may hold.
    #[error("more than {} objects", limits::OBJECTS)]
    TooMany,
}

impl RenderError {
    /// How the error ends the process.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Missing { .. } | Self::Remote { .. } | Self::Empty { .. } => ErrorClass::Incomplete,
            _ => ErrorClass::Failed,
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
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
            Self::Chart | Self::HelmCharts { .. } => {
                "commit the output of `helm template` and name it as a `path` source".to_owned()
            }
            Self::NoTool { .. } => "install kustomize or kubectl on the build machine".to_owned(),
            Self::Empty { .. } => {
                format!("check `sources` in `{FILE_NAME}`, and that the revision is the right one")
            }
            _ => return None,
        })
    }
}

/// The exported tree of a revision.
pub(super) struct Tree {
    /// Its root, without links.
    pub root: PathBuf,
}

impl Tree {
    /// A path as people know it: below the root of the revision.
    pub fn label(&self, path: &Path) -> String {
        match path.strip_prefix(&self.root) {
            Ok(below) if below.as_os_str().is_empty() => ".".to_owned(),
            Ok(below) => below.to_string_lossy().into_owned(),
            Err(_) => path.to_string_lossy().into_owned(),
        }
    }

    /// `path` with its links resolved; it must still lie in the tree.
    pub fn resolve(&self, path: &Path) -> Result<PathBuf, RenderError> {
        let resolved =
            fs::canonicalize(path).map_err(|source| RenderError::Io { path: self.label(path), source })?;
        if resolved.starts_with(&self.root) {
            Ok(resolved)
        } else {
            Err(RenderError::Outside { path: self.label(path) })
        }
    }

    /// The bytes of a file, bounded.
    pub fn read(&self, path: &Path) -> Result<Vec<u8>, RenderError> {
        let io = |source| RenderError::Io { path: self.label(path), source };
        let resolved = self.resolve(path)?;
        let mut bytes = Vec::new();
        let file = File::open(&resolved).map_err(io)?;
        if !file.metadata().map_err(io)?.is_file() {
            return Err(io(io::Error::other("not a regular file")));
        }
        file.take(limits::YAML_FILE + 1).read_to_end(&mut bytes).map_err(io)?;
        if bytes.len() as u64 > limits::YAML_FILE {
            return Err(RenderError::Large { path: self.label(path) });
        }
        Ok(bytes)
    }
}

/// Renders `tree`, the exported tree of a revision.
///
/// `tree` must lie in a private folder of its own: a kustomization is rendered with the help of
/// a folder beside it.
///
/// # Errors
///
/// When a source cannot be read or rendered, an object has no name or stands twice, or nothing
/// comes out at all.
pub fn render(
    tree: &Path,
    config: Option<&ReleaseConfig>,
    tools: &RenderTools,
    progress: &dyn Progress,
) -> Result<Vec<RenderedObject>, RenderError> {
    let root = fs::canonicalize(tree)
        .map_err(|source| RenderError::Io { path: tree.display().to_string(), source })?;
    let tree = Tree { root };
    let sources = config.map_or(&[][..], |config| config.sources.as_slice());
    let objects = if sources.is_empty() {
        by_convention(&tree, tools, progress)?
    } else {
        let mut objects = Vec::new();
        for source in sources {
            let more = from_source(&tree, source, tools)?;
            if more.is_empty() {
                return Err(RenderError::Empty { source_name: format!("the source `{source}`") });
            }
            objects.extend(more);
        }
        objects
    };
    if objects.is_empty() {
        return Err(RenderError::Empty { source_name: "the revision".to_owned() });
    }
    if objects.len() > limits::OBJECTS {
        return Err(RenderError::TooMany);
    }
    refuse_doubled(&objects)?;
    Ok(objects)
}

fn from_source(
    tree: &Tree,
    source: &SourceConfig,
    tools: &RenderTools,
) -> Result<Vec<RenderedObject>, RenderError> {
    let (SourceConfig::Kustomize(path) | SourceConfig::Path(path)) = source;
    let at = path.below(&tree.root);
    if fs::symlink_metadata(&at).is_err() {
        return Err(RenderError::Missing {
            place: format!("the source `{source}` of `{FILE_NAME}`"),
            wanted: format!("`{path}`"),
        });
    }
    let at = tree.resolve(&at)?;
    match source {
        SourceConfig::Kustomize(_) => {
            // `kustomize: deploy/kustomization.yaml` means its folder.
            let is_file =
                at.file_name().is_some_and(|name| render_kustomize::FILES.iter().any(|file| name == *file));
            let folder = if at.is_file() && is_file { at.parent().unwrap_or(&at) } else { &at };
            render_kustomize::render(tree, folder, tools)
        }
        SourceConfig::Path(_) => render_files::explicit(tree, &at),
    }
}

fn by_convention(
    tree: &Tree,
    tools: &RenderTools,
    progress: &dyn Progress,
) -> Result<Vec<RenderedObject>, RenderError> {
    if render_kustomize::FILES.iter().any(|name| tree.root.join(name).is_file()) {
        return render_kustomize::render(tree, &tree.root, tools);
    }
    if tree.root.join("Chart.yaml").exists() {
        return Err(RenderError::Chart);
    }
    render_files::by_convention(tree, progress)
}

/// Takes the object, or the objects of a list, that a document holds.
pub(super) fn objects_of(
    value: Value,
    origin: &Origin,
    out: &mut Vec<RenderedObject>,
) -> Result<(), RenderError> {
    let mut queue = vec![value];
    while let Some(mut value) = queue.pop() {
        // As kubectl does: a kind that ends with `List` and has a list of items is only a wrapping.
        let is_list = value["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
        if is_list && let Some(Value::Array(items)) = value.get_mut("items") {
            queue.extend(items.drain(..).rev());
            continue;
        }
        let id = ObjectId::of(&value).map_err(|why| RenderError::Object { origin: origin.clone(), why })?;
        if out.len() >= limits::OBJECTS {
            return Err(RenderError::TooMany);
        }
        out.push(RenderedObject { id, origin: origin.clone(), value });
    }
    Ok(())
}

fn refuse_doubled(objects: &[RenderedObject]) -> Result<(), RenderError> {
    let mut seen: HashMap<_, &Origin> = HashMap::with_capacity(objects.len());
    for object in objects {
        let id = &object.id;
        let key = (id.group(), id.kind.as_str(), id.namespace.as_deref(), id.name.as_str());
        if let Some(first) = seen.insert(key, &object.origin) {
            return Err(RenderError::Doubled {
                id: Box::new(id.clone()),
                first: first.clone(),
                second: object.origin.clone(),
            });
        }
    }
    Ok(())
}
