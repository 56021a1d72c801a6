//! `serve`: images and Git from the store or an archive, until told to stop.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use super::notify::Notifier;
use super::serve_files::{self, Files};
use super::{Error, Result, archives, keys};
use crate::archive::{self, Release};
use crate::fsio::ScratchFolder;
use crate::model::{GitOid, GitRef, Progress, ReleaseName};
use crate::seed::{self, Content, SeedError, Server, StatusPage};
pub use crate::seed::{AccessLog, Limits, Served};
use crate::store::{Endpoint, Store, StoreError, git};
pub use crate::trust::ServerName;
use crate::trust::Verified;

/// What a server is told.
#[derive(Clone)]
pub struct Options {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// What to serve.
    pub content: From,
    /// What nodes call it. The first one becomes part of the recorded endpoint; all of them are in
    /// the certificate that the site's own authority issues.
    pub names: Vec<ServerName>,
    /// Whether and how it speaks TLS.
    pub tls: Tls,
    /// An htpasswd file of those who may ask.
    pub passwords: Option<PathBuf>,
    /// Passwords may cross a network in the clear.
    pub plaintext_passwords: bool,
    /// Bounds on what clients may hold.
    pub limits: Limits,
    /// Who keeps a log of requests.
    pub log: Option<Arc<dyn AccessLog>>,
    /// The service manager that wants to hear of the server's state.
    pub notify: Option<Notifier>,
}

impl Options {
    /// In the clear, open to all, with the usual limits.
    #[must_use]
    pub fn new(listen: SocketAddr, content: From) -> Self {
        Self {
            listen,
            content,
            names: Vec::new(),
            tls: Tls::None,
            passwords: None,
            plaintext_passwords: false,
            limits: Limits::default(),
            log: None,
            notify: None,
        }
    }

    fn check(&self) -> Result<()> {
        let clear = self.tls == Tls::None && !self.listen.ip().is_loopback();
        if self.passwords.is_some() && clear && !self.plaintext_passwords {
            return Err(Error::Usage {
                what: format!("passwords would cross the network to `{}` in the clear", self.listen),
                hint:
                    "give `--tls-self-signed` or `--tls-cert` and `--tls-key`; or, where something in front \
                       of it speaks TLS, `--plaintext-passwords`"
                        .into(),
            });
        }
        if self.tls == Tls::SelfSigned && matches!(self.content, From::Archive { .. }) {
            return Err(Error::Usage {
                what: "the site's own authority is kept in a store, which an archive has none of".into(),
                hint: "give `--tls-cert` and `--tls-key`, or serve the store".into(),
            });
        }
        Ok(())
    }
}

/// Whether and how a server speaks TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// It does not.
    None,
    /// With a certificate from elsewhere; both files are read again when they change.
    Files {
        /// The chain, PEM, the server's own certificate first.
        certificate: PathBuf,
        /// Its private key, PEM.
        key: PathBuf,
    },
    /// With one of an authority of the site's own, which is kept in the store.
    SelfSigned,
}

/// Where the content comes from.
#[derive(Debug, Clone)]
pub enum From {
    /// A store; made when it is not there, so that `serve` can be started before the first apply.
    Store(PathBuf),
    /// An archive, signed by one of the keys.
    Archive {
        /// The file.
        archive: PathBuf,
        /// Public keys.
        keys: Vec<PathBuf>,
    },
}

/// A server that runs.
pub struct Running {
    endpoint: String,
    reload: Arc<Notify>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<std::result::Result<(), SeedError>>,
    /// Where it was recorded that this store is served.
    recorded: Option<(Store, Endpoint)>,
    _scratch: Option<ScratchFolder>,
}

/// Makes bare repositories below `scratch` from the bundles of an archive: a pack cannot be served
/// from within another file. Images are served where they lie.
fn archived_git(archive: &Path, release: &Verified<Release>, scratch: &Path) -> Result<seed::ArchivedGit> {
    let document = &release.document;
    let (file, _) = archive::ArchiveFile::open(archive)?;
    let members = file.members(release)?;
    let generation = |bundle, refs: &[GitRef], commit: &GitOid| git::GenerationRelease {
        version: document.version.clone(),
        digest: release.digest,
        bundle,
        bundle_path: scratch.join("bundle"),
        refs: refs.to_vec(),
        commit: commit.clone(),
    };
    let own = generation(document.git.bundle, &document.git.refs, &document.git.commit);
    let repository = archived_repository(&members, scratch, &scratch.join("git"), &document.name, own)?;
    let mut submodules = BTreeMap::new();
    for found in &document.git.submodules {
        let taken = generation(found.bundle, &found.refs, &found.commit);
        let path = archived_repository(&members, scratch, &scratch.join("submodules"), &found.name, taken)?;
        submodules.insert(found.name.clone(), path);
    }
    Ok(seed::ArchivedGit { repository, submodules })
}

/// One of them: its bundle is copied out of the archive, hashed on the way, and made a repository.
fn archived_repository(
    members: &archive::Members,
    scratch: &Path,
    root: &Path,
    name: &ReleaseName,
    generation: git::GenerationRelease,
) -> Result<PathBuf> {
    let bundle_path = scratch.join("bundle");
    let io = |error| Error::io("write", &bundle_path, error);
    let mut out = std::fs::File::create_new(&bundle_path).map_err(io)?;
    members.copy_verified(generation.bundle, &mut out)?;
    let built = git::build_generation(root, name, &[generation])?;
    std::fs::remove_file(&bundle_path).map_err(io)?;
    Ok(built.path().to_owned())
}

impl Running {
    /// `http://ADDRESS`.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Has it read its certificate and its passwords again now.
    pub fn reload(&self) {
        self.reload.notify_one();
    }

    /// Stops it and waits until open requests have ended.
    ///
    /// # Errors
    ///
    /// When it ended badly.
    pub async fn stop(&mut self) -> Result<()> {
        // A server that has ended by itself takes no message, and its result says why.
        let _ = self.stop.take().map(|stop| stop.send(()));
        // Now, not when the last request has ended: nobody new is let in from here on.
        let forgotten = self.forget();
        self.wait().await.and(forgotten)
    }

    /// Takes back the record of where the store is served, unless another server has put its own
    /// in its place.
    fn forget(&mut self) -> Result<()> {
        match self.recorded.take() {
            Some((store, endpoint)) => Ok(store.forget_endpoint(&endpoint)?),
            None => Ok(()),
        }
    }

    async fn wait(&mut self) -> Result<()> {
        let ended = match (&mut self.task).await {
            Ok(result) => result.map_err(Error::from),
            Err(error) => Err(Error::io("serve at", Path::new(&self.endpoint), std::io::Error::other(error))),
        };
        // Why it ended says more than that the record could not be removed.
        let forgotten = self.forget();
        ended.and(forgotten)
    }
}

/// Opens the store for reading, and makes an empty one where there is none: so `serve` can be
/// started before the first apply.
fn open_or_prepare(path: &Path) -> Result<Store> {
    match Store::open_read_only(path) {
        Err(StoreError::Absent { .. }) => {
            drop(Store::open_or_create(path, "serve")?);
            Ok(Store::open_read_only(path)?)
        }
        opened => Ok(opened?),
    }
}

/// Starts a server and says where it listens.
///
/// # Errors
///
/// When the content cannot be read or verified, or the address cannot be listened on.
pub async fn start(options: Options, progress: Arc<dyn Progress>) -> Result<Running> {
    options.check()?;
    // The Git repository that is made from an archive's bundle; it goes with the server.
    let mut kept = None;
    let (content, store, front): (Arc<dyn Content>, Option<Store>, StatusPage) = match &options.content {
        From::Store(path) => {
            let store = open_or_prepare(path)?;
            let content = seed::StoreContent::new(store.clone()).telling(progress.clone());
            (Arc::new(content), Some(store.clone()), StatusPage::of_store(store))
        }
        From::Archive { archive, keys: public } => {
            if archive == Path::new("-") {
                return Err(Error::Usage {
                    what: "an archive that is served is read again and again, which a pipe cannot be".into(),
                    hint: "give the archive as a file".into(),
                });
            }
            let trusted = keys::load_public(public)?;
            let name = archives::display_name(archive);
            let release = archives::open(archive, &trusted)?.release;
            // What a server that was killed left there goes first.
            let temporary = tempfile::env::temp_dir();
            let scratch = ScratchFolder::create(&temporary, "fleetpack-serve-")
                .map_err(|error| Error::io("make a private folder in", &temporary, error))?;
            let git =
                archived_git(archive, &release, scratch.path()).map_err(|error| error.in_archive(&name))?;
            let content = seed::ArchiveContent::open(archive, &release, git);
            let content = content.map_err(|error| Error::from(error).in_archive(&name))?;
            kept = Some(scratch);
            (Arc::new(content), None, StatusPage::of_archive(release.digest, release.document.clone()))
        }
    };
    let mut limits = options.limits.clone();
    serve_files::make_room_for_descriptors(&mut limits, progress.as_ref());
    let mut server = Server::bind(options.listen, limits).await?.with_front(Arc::new(front));
    let files = Files::load(&options, server.address(), store.as_ref())?;
    server = files.equip(server);
    if let Some(log) = &options.log {
        server = server.with_log(Arc::clone(log));
    }
    let mut endpoint = server.endpoint();
    if let Some(name) = options.names.first()
        && let Some((scheme, _)) = endpoint.split_once("://")
    {
        endpoint = format!("{scheme}://{name}:{}", server.address().port());
    }
    let mut recorded = None;
    if let Some(store) = store {
        let endpoint = Endpoint { url: endpoint.clone(), pid: std::process::id() };
        match store.record_endpoint(&endpoint) {
            Ok(()) => recorded = Some((store, endpoint)),
            // A store on a read-only medium can be served all the same.
            Err(error) => progress.warn(format!(
                "{}; `apply` and `mirrors` want `--endpoint {}`",
                super::chain(&error),
                endpoint.url
            )),
        }
    }
    let reload = Arc::new(Notify::new());
    let minders = [
        Some(tokio::spawn(serve_files::mind(files, Arc::clone(&reload), Arc::clone(&progress)))),
        options.notify.as_ref().and_then(Notifier::watchdog).map(|every| {
            let (notify, content) = (options.notify.clone(), Arc::clone(&content));
            tokio::spawn(serve_files::pulse(notify, every, content))
        }),
    ];
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(server.run(content, progress, async move {
        // A sender that is dropped stops the server as a message does.
        let _ = stopped.await;
        minders.iter().flatten().for_each(JoinHandle::abort);
    }));
    Ok(Running { endpoint, reload, stop: Some(stop), task, recorded, _scratch: kept })
}

/// Serves until SIGTERM or SIGINT; `ready` is told the endpoint. SIGHUP has certificate and passwords
/// read again.
///
/// # Errors
///
/// As [`start`], or when signals cannot be waited for.
pub async fn serve(options: Options, progress: Arc<dyn Progress>, ready: impl FnOnce(&str)) -> Result<()> {
    let signals = |kind| signal(kind).map_err(|error| Error::io("wait for", Path::new("signals"), error));
    let (mut terminate, mut interrupt, mut hangup) = (
        signals(SignalKind::terminate())?,
        signals(SignalKind::interrupt())?,
        signals(SignalKind::hangup())?,
    );
    let notify = options.notify.clone();
    let tell = |state: &str| {
        if let Some(Err(error)) = notify.as_ref().map(|notify| notify.tell(state)) {
            progress.warn(format!("cannot tell the service manager `{state}`: {error}"));
        }
    };
    let mut running = start(options, progress.clone()).await?;
    ready(running.endpoint());
    tell("READY=1");
    loop {
        tokio::select! {
            ended = running.wait() => return ended,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => running.reload(),
        }
    }
    tell("STOPPING=1");
    progress.note("stopping: open requests may end".into());
    running.stop().await
}
