//! The revision that a command of the build side works on: found, checked, configured, rendered.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::{Error, Result};
use crate::fsio::limits;
use crate::model::{Event, Lock, Progress, RenderedObject, config, lock};
use crate::source::git::lfs::{self, Lfs};
pub use crate::source::git::remote::RemoteSettings;
use crate::source::git::remote::{self, RemoteUrl};
use crate::source::git::submodules::{self, Submodules};
use crate::source::git::{Dirty, GitError, Repository, Revision, RevisionKind, Tree};
use crate::source::{deploy, render};

/// Which revision of which repository, and what renders it.
#[derive(Debug, Clone, Default)]
pub struct RevisionOptions {
    /// The repository: a folder, or a URL.
    pub repository: PathBuf,
    /// Branch, tag or hash.
    pub revision: String,
    /// How one that lies elsewhere is fetched.
    pub remote: RemoteSettings,
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
    /// Where the repository was fetched from, if it was.
    pub remote: Option<RemoteUrl>,
    /// What the tree's submodules are.
    pub submodules: Submodules,
    /// What files of the tree and of its submodules are in Git LFS.
    pub lfs: Lfs,
}

/// Ends a fetch that nobody waits for any more.
struct Cancel {
    flag: Arc<AtomicBool>,
    ended: mpsc::Receiver<()>,
}

impl Drop for Cancel {
    fn drop(&mut self) {
        self.flag.store(true, Ordering::Relaxed);
        // Until its children are gone; a fetch that has ended has closed the channel.
        let _ = self.ended.recv_timeout(Duration::from_secs(2));
    }
}

/// Fetches on a thread of its own; dropping this ends the fetch.
async fn fetch<T: Send + 'static>(
    options: &RevisionOptions,
    progress: &Arc<dyn Progress>,
    work: impl FnOnce(&RemoteSettings, &dyn Progress) -> std::result::Result<T, GitError> + Send + 'static,
) -> Result<T> {
    let flag = Arc::new(AtomicBool::new(false));
    let (ending, ended) = mpsc::channel();
    let _cancel = Cancel { flag: Arc::clone(&flag), ended };
    let settings = RemoteSettings { cancel: flag, ..options.remote.clone() };
    let progress = Arc::clone(progress);
    let fetching = tokio::task::spawn_blocking(move || {
        let _ending = ending;
        work(&settings, progress.as_ref())
    });
    let fetched = fetching
        .await
        .map_err(|error| Error::io("fetch", &options.repository, std::io::Error::other(error)))?;
    Ok(fetched?)
}

impl Checkout {
    /// Finds the revision and reads its `fleetpack.yaml`, if it has one.
    pub async fn open(options: &RevisionOptions, progress: &Arc<dyn Progress>) -> Result<Self> {
        let given = options.repository.to_string_lossy();
        let (repository, remote) = if remote::looks_remote(&given) && !options.repository.exists() {
            let url = RemoteUrl::parse(&given).map_err(GitError::from)?;
            progress.event(Event::Start { title: format!("fetching {url}"), bytes: None });
            let place = url.clone();
            let work = move |settings: &RemoteSettings, progress: &dyn Progress| {
                remote::fetch(&place, settings, progress)
            };
            let fetched = fetch(options, progress, work).await?;
            progress.event(Event::Finish { summary: String::new() });
            (fetched, Some(url))
        } else {
            (Repository::open(&options.repository)?, None)
        };
        let revision = repository.resolve(&options.revision)?;
        match &remote {
            Some(url) => progress.note(format!("`{url}` is at commit {}", revision.commit)),
            None => warn_of_changes(&repository, &revision, progress.as_ref()),
        }
        let tree = repository.tree_with_links(&revision)?;
        let (tree, submodules) = if tree.links().is_empty() {
            (tree, Submodules::default())
        } else {
            progress.event(Event::Start {
                title: format!("finding {} submodules", tree.links().len()),
                bytes: None,
            });
            let (repository, url) = (repository.clone(), remote.clone());
            let work = move |settings: &RemoteSettings, progress: &dyn Progress| {
                submodules::find(&repository, &tree, url.as_ref(), settings, progress)
                    .map(|found| (tree, found))
            };
            let found = fetch(options, progress, work).await?;
            progress.event(Event::Finish { summary: format!("{} submodules", found.1.trees.len()) });
            found
        };
        let config = match tree.file(config::FILE_NAME) {
            Some(_) => {
                Some(crate::source::config::parse(&tree.read(config::FILE_NAME, limits::CONFIG_FILE)?)?)
            }
            None => None,
        };
        let lfs = {
            let mut trees = vec![(String::new(), &tree)];
            trees.extend(submodules.trees.iter().map(|(path, tree)| (path.to_string(), tree)));
            let count: usize = trees.iter().map(|(_, tree)| tree.pointers().len()).sum();
            if count == 0 {
                Lfs::default()
            } else {
                let title = format!("finding what {count} Git LFS pointers name");
                progress.event(Event::Start { title, bytes: None });
                let found = lfs::find(&trees, remote.as_ref(), &options.remote, progress.as_ref()).await?;
                progress.event(Event::Finish { summary: format!("{} objects", found.objects.len()) });
                found
            }
        };
        Ok(Self { repository, revision, tree, config, remote, submodules, lfs })
    }

    /// The revision's `fleetpack.lock`, if it has one.
    pub fn lock(&self) -> Result<Option<Lock>> {
        match self.tree.file(lock::FILE_NAME) {
            Some(_) => {
                let bytes = self.tree.read(lock::FILE_NAME, limits::CONFIG_FILE)?;
                Ok(Some(crate::source::lock::parse(&bytes)?))
            }
            None => Ok(None),
        }
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
        for (path, tree) in &self.submodules.trees {
            let folder = path.below(&folder);
            std::fs::create_dir_all(&folder).map_err(|error| Error::io("make", &folder, error))?;
            for warning in tree.export(&folder)? {
                progress.warn(format!("in submodule `{path}`: {warning}"));
            }
        }
        for object in &self.lfs.objects {
            for path in object.export(&folder)? {
                progress.warn(format!(
                    "`{path}` is rendered from as its Git LFS pointer: its {} bytes travel and are more than manifests are rendered from",
                    object.entry.size
                ));
            }
        }
        let tools = render::RenderTools {
            kustomize: options.kustomize.clone(),
            kubectl: options.kubectl.clone(),
            helm: options.helm.clone(),
            remote: options.remote.clone(),
        };
        let objects = render::render(&folder, self.config.as_ref(), &tools, progress)?;
        Ok(self.follow(&folder, objects, &tools, progress)?)
    }

    /// Follows the Argo CD and Flux objects of the revision to what they deploy.
    fn follow(
        &self,
        folder: &Path,
        objects: Vec<RenderedObject>,
        tools: &render::RenderTools,
        progress: &dyn Progress,
    ) -> std::result::Result<Vec<RenderedObject>, deploy::DeployError> {
        let deployers = self.config.as_ref().map(|config| config.deployers.clone()).unwrap_or_default();
        let commit = &self.revision.commit;
        let names = self.repository.names_of(commit);
        let mut urls = self.repository.remote_urls();
        urls.extend(self.remote.as_ref().map(ToString::to_string));
        let built = match &self.revision.kind {
            RevisionKind::Branch(name) | RevisionKind::Tag(name, _) => Some(name.as_str()),
            RevisionKind::Hash => None,
        };
        let identity = deploy::Identity::new(
            urls.iter().chain(&deployers.repositories).map(String::as_str),
            commit.as_str(),
            names.iter().chain(&deployers.revisions).map(String::as_str).chain(built),
        );
        let by_convention = self.config.as_ref().is_none_or(|config| config.sources.is_empty());
        let settings = deploy::Settings { config: &deployers, identity, by_convention, tools, progress };
        deploy::follow(folder, objects, &settings)
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
