//! `mirrors`: what points container runtimes at `serve`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Error, Result, apply};
use crate::fsio::write_atomic;
use crate::model::SafePath;
use crate::seed;
use crate::store::Store;

/// Runtimes that can be configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Runtime {
    /// containerd's `config_path` tree of `hosts.toml` files.
    Containerd,
}

/// The files for a runtime, by path below its configuration folder.
///
/// # Errors
///
/// When the store cannot be read, or no endpoint is known.
pub fn mirrors(runtime: Runtime, endpoint: Option<&str>, store: &Path) -> Result<Vec<(SafePath, String)>> {
    let store = Store::open_read_only(store)?;
    let mut registries = BTreeSet::new();
    for release in store.releases()? {
        registries
            .extend(release.document().images.iter().map(|image| image.reference.registry().to_owned()));
    }
    // Nodes pull from where releases are pushed to; an endpoint that is given is one to go by.
    if let (None, Some(own)) = (endpoint, store.registry()?) {
        return Ok(match runtime {
            Runtime::Containerd => seed::mirrors::containerd_own(&own, &registries),
        });
    }
    let endpoint = apply::endpoint(endpoint, &store)?;
    match runtime {
        Runtime::Containerd => Ok(seed::mirrors::containerd(&endpoint, &registries)),
    }
}

/// Writes the files below `folder`, each whole or not at all.
///
/// # Errors
///
/// When one cannot be written.
pub fn write(files: &[(SafePath, String)], folder: &Path) -> Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    for (path, content) in files {
        let path = path.below(folder);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent)
            .and_then(|()| write_atomic(&path, content.as_bytes()))
            .map_err(|error| Error::io("write", &path, error))?;
        written.push(path);
    }
    Ok(written)
}
