//! `mirrors`: what points container runtimes at this site, and whether it does.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::{Error, Result, apply};
use crate::fsio::{limits, sync_folder, write_atomic};
use crate::ledger;
use crate::model::{Digest, ImageRef, SiteRegistry};
pub use crate::seed::mirrors::NodeFile;
use crate::seed::mirrors::{self as render, Access, Dialect, Place};
use crate::store::{Store, StoredRelease};

/// Runtimes that can be configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Runtime {
    /// containerd's `config_path` tree of `hosts.toml` files, /etc/containerd/certs.d.
    Containerd,
    /// `registries.yaml` of k3s, /etc/rancher/k3s.
    K3s,
    /// The same of RKE2, /etc/rancher/rke2.
    Rke2,
    /// A drop-in of registries.conf for CRI-O and podman, /etc/containers.
    #[value(alias = "cri-o", alias = "podman")]
    Crio,
}

impl Runtime {
    /// The folder of its files on a node.
    #[must_use]
    pub const fn folder(self) -> &'static str {
        match self {
            Self::Containerd => "/etc/containerd/certs.d",
            Self::K3s => "/etc/rancher/k3s",
            Self::Rke2 => "/etc/rancher/rke2",
            Self::Crio => "/etc/containers",
        }
    }

    pub(super) const fn dialect(self) -> Dialect {
        match self {
            Self::Containerd => Dialect::Containerd,
            Self::K3s | Self::Rke2 => Dialect::K3s,
            Self::Crio => Dialect::Crio,
        }
    }
}

/// What mirrors are made from.
#[derive(Debug, Clone)]
pub struct Options {
    /// The runtime.
    pub runtime: Runtime,
    /// Where the nodes find the images: URLs of `serve`, or of a registry with the path of its
    /// prefix. None takes the registry that the site pushes to, else where `serve` runs.
    pub endpoints: Vec<String>,
    /// Certificate of the authority that the endpoints' certificates come from.
    pub ca: Option<PathBuf>,
    /// Name to log in with.
    pub username: Option<String>,
    /// File whose first line is the password.
    pub password_file: Option<PathBuf>,
    /// The store.
    pub store: PathBuf,
}

/// The files, and what they follow from.
pub(super) struct Made {
    pub(super) files: Vec<NodeFile>,
    pub(super) places: Vec<Place>,
    pub(super) access: Access,
    /// Images of the active releases; where none is active, of those that are served.
    pub(super) images: Vec<(ImageRef, Digest)>,
}

/// The files for a runtime, by path below its configuration folder.
///
/// # Errors
///
/// When the store cannot be read, or no endpoint is known.
pub fn mirrors(options: &Options) -> Result<Vec<NodeFile>> {
    Ok(make(options)?.files)
}

pub(super) fn make(options: &Options) -> Result<Made> {
    let store = Store::open_read_only(&options.store)?;
    let places = places(&options.endpoints, &store)?;
    let access = access(options, &places, &store)?;
    let releases = store.releases()?;
    let all =
        || releases.iter().flat_map(|release| release.document().images.iter().map(|image| &image.reference));
    let registries: BTreeSet<String> = all().map(|reference| reference.registry().to_owned()).collect();
    let of_hub = all().filter(|reference| reference.registry() == "docker.io");
    let hub: BTreeSet<String> = of_hub.map(|reference| reference.repository().to_owned()).collect();
    let files = render::files(
        options.runtime.dialect(),
        options.runtime.folder(),
        &places,
        &access,
        &registries,
        &hub,
    );
    let history = ledger::read(store.folder())?;
    let runs = |release: &&StoredRelease| {
        let name = &release.document().name;
        history.active(name).or_else(|| history.target(name)).is_none_or(|active| active == release.digest())
    };
    let mut images: Vec<(ImageRef, Digest)> = releases
        .iter()
        .filter(runs)
        .flat_map(|release| {
            release.document().images.iter().map(|image| (image.reference.clone(), image.digest))
        })
        .collect();
    images.sort();
    images.dedup();
    Ok(Made { files, places, access, images })
}

fn places(given: &[String], store: &Store) -> Result<Vec<Place>> {
    let recorded = store.registry()?;
    if given.is_empty() {
        return Ok(vec![match recorded {
            Some(recorded) => Place { url: recorded.url, registry: Some(recorded.registry) },
            None => Place { url: apply::endpoint(None, store)?, registry: None },
        }]);
    }
    let mut places = Vec::new();
    for endpoint in given {
        let endpoint = endpoint.trim_end_matches('/');
        apply::check_endpoint(endpoint)?;
        let usage = |why: String| Error::Usage {
            what: format!("`{endpoint:.200}` is not an endpoint: {why}"),
            hint:
                "give a URL such as `http://127.0.0.1:5050`, or with a prefix `https://registry.site/fleet`"
                    .into(),
        };
        let (scheme, rest) = endpoint.split_once("://").ok_or_else(|| usage("it has no scheme".into()))?;
        // The grammar of registries decides about host and path: both become parts of file names.
        let named: SiteRegistry = rest.parse().map_err(|error| usage(format!("{error}")))?;
        let url = format!("{scheme}://{}", named.host());
        let is_recorded = recorded.as_ref().is_some_and(|recorded| recorded.url == url);
        let registry = match (&recorded, named.prefix().is_empty()) {
            (_, false) => Some(named),
            (Some(recorded), true) if is_recorded => Some(recorded.registry.clone()),
            (_, true) => None,
        };
        places.push(Place { url, registry });
    }
    let mixed = places.iter().any(|place| place.registry.is_some())
        && places.iter().any(|place| place.registry.is_none());
    if mixed {
        return Err(Error::Usage {
            what: "some endpoints are registries with a prefix, others are not".into(),
            hint: "name endpoints of one kind: nodes ask all of them under the same names".into(),
        });
    }
    Ok(places)
}

fn access(options: &Options, places: &[Place], store: &Store) -> Result<Access> {
    let text = |path: &Path| {
        let bytes = read_small(path)?.ok_or_else(|| Error::io("read", path, ErrorKind::NotFound.into()))?;
        String::from_utf8(bytes).map_err(|_| Error::io("read", path, ErrorKind::InvalidData.into()))
    };
    let own = store.folder().join("serve/ca.crt");
    let ca = match &options.ca {
        Some(path) => Some(text(path)?),
        // The authority that `serve` made for itself.
        None if options.endpoints.is_empty()
            && places.iter().any(|place| place.registry.is_none() && place.url.starts_with("https://")) =>
        {
            match read_small(&own)? {
                Some(_) => Some(text(&own)?),
                None => None,
            }
        }
        None => None,
    };
    if let Some(ca) = &ca
        && !ca.contains("-----BEGIN CERTIFICATE-----")
    {
        let path = options.ca.as_ref().unwrap_or(&own);
        return Err(Error::Usage {
            what: format!("`{}` holds no certificate in PEM", path.display()),
            hint: "give the certificate of the authority that signed the endpoint's own".into(),
        });
    }
    let login = match (&options.username, &options.password_file) {
        (Some(name), Some(path)) => {
            let password = text(path)?;
            let password = password.lines().next().unwrap_or_default().to_owned();
            if password.is_empty() || name.contains([':', '\n']) {
                return Err(Error::Usage {
                    what: format!("`{}` begins with no password, or the name holds a colon", path.display()),
                    hint: "put the password on the first line of the file".into(),
                });
            }
            Some((name.clone(), password))
        }
        _ => None,
    };
    Ok(Access { ca, login })
}

/// A file of at most a few megabytes; none where there is none.
pub(super) fn read_small(path: &Path) -> Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(Error::io("read", path, error)),
    };
    let mut bytes = Vec::new();
    let read = file.take(limits::CONFIG_FILE + 1).read_to_end(&mut bytes);
    read.map_err(|error| Error::io("read", path, error))?;
    if bytes.len() as u64 > limits::CONFIG_FILE {
        return Err(Error::io("read", path, ErrorKind::FileTooLarge.into()));
    }
    Ok(Some(bytes))
}

/// Writes the files below `folder`, each whole or not at all; those with a password for their owner
/// alone.
///
/// # Errors
///
/// When one cannot be written.
pub fn write(files: &[NodeFile], folder: &Path) -> Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    for file in files {
        let path = folder.join(&file.path);
        let parent = path.parent().unwrap_or(folder);
        let write = || {
            fs::create_dir_all(parent)?;
            if !file.secret {
                return write_atomic(&path, file.content.as_bytes());
            }
            // Made with mode 0600.
            let mut temporary = tempfile::NamedTempFile::new_in(parent)?;
            temporary.write_all(file.content.as_bytes())?;
            temporary.as_file().sync_all()?;
            temporary.persist(&path).map_err(|error| error.error)?;
            sync_folder(parent)
        };
        write().map_err(|error| Error::io("write", &path, error))?;
        written.push(path);
    }
    Ok(written)
}
