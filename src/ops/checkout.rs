//! The revision that a command of the build side works on: found, checked, configured, rendered.

use std::path::{Path, PathBuf};

use super::{Error, Result};
use crate::fsio::limits;
use crate::model::{Lock, Progress, RenderedObject, config, lock};
use crate::source::git::{Dirty, Repository, Revision, Tree};
use crate::source::render;

/// Which revision of which repository, and what renders it.
#[derive(Debug, Clone, Default)]
pub struct RevisionOptions {
    /// The repository.
    pub repository: PathBuf,
    /// Branch, tag or hash.
    pub revision: String,
    /// `kustomize`, if it is installed.
    pub kustomize: Option<PathBuf>,
    /// `kubectl`, if it is installed.
    pub kubectl: Option<PathBuf>,
    /// `helm`, if it is installed.
    pub helm: Option<PathBuf>,
}

/// A revision whose names and modes are checked, with its configuration.
pub(super) struct Checkout {
    pub repository: Repository,
    pub revision: Revision,
    pub tree: Tree,
    pub config: Option<config::ReleaseConfig>,
    pub lock: Option<Lock>,
}

impl Checkout {
    /// Finds the revision and reads its `fleetpack.yaml` and `fleetpack.lock`, if it has them.
    pub fn open(options: &RevisionOptions, progress: &dyn Progress) -> Result<Self> {
        let repository = Repository::open(&options.repository)?;
        let revision = repository.resolve(&options.revision)?;
        warn_of_changes(&repository, &revision, progress);
        let tree = repository.tree(&revision)?;
        let config = match tree.file(config::FILE_NAME) {
            Some(_) => {
                Some(crate::source::config::parse(&tree.read(config::FILE_NAME, limits::CONFIG_FILE)?)?)
            }
            None => None,
        };
        let lock = match tree.file(lock::FILE_NAME) {
            Some(_) => Some(crate::source::lock::parse(&tree.read(lock::FILE_NAME, limits::CONFIG_FILE)?)?),
            None => None,
        };
        Ok(Self { repository, revision, tree, config, lock })
    }

    /// Exports the tree into a private folder, which goes when this is done, and renders it.
    pub fn render(&self, options: &RevisionOptions, progress: &dyn Progress) -> Result<Vec<RenderedObject>> {
        let scratch = tempfile::Builder::new().prefix("fleetpack-build-").tempdir().map_err(|error| {
            Error::io("make a private folder in", Path::new("the temporary folder"), error)
        })?;
        // The tree has a folder of its own in it: kustomize is helped by one beside it.
        let folder = scratch.path().join("tree");
        std::fs::create_dir(&folder).map_err(|error| Error::io("make", &folder, error))?;
        for warning in self.tree.export(&folder)? {
            progress.warn(warning);
        }
        let tools = render::RenderTools {
            kustomize: options.kustomize.clone(),
            kubectl: options.kubectl.clone(),
            helm: options.helm.clone(),
        };
        Ok(render::render(&folder, self.config.as_ref(), &tools, progress)?)
    }
}

/// Says what of the work tree is not in the revision.
fn warn_of_changes(repository: &Repository, revision: &Revision, progress: &dyn Progress) {
    match repository.dirty() {
        Ok(Dirty { count: 0, .. }) => {}
        Ok(Dirty { paths, count }) => progress.warn(format!(
            "the work tree has changes that commit {} has not, and they do not travel: {}{}",
            revision.short,
            paths.iter().take(5).cloned().collect::<Vec<_>>().join(", "),
            if count > 5 { format!(" and {} more", count - 5) } else { String::new() }
        )),
        // A work tree that cannot be compared says nothing about the revision, which is what is built.
        Err(error) => progress.warn(format!("cannot compare the work tree with the revision: {error}")),
    }
}
