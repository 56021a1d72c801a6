//! The exported tree of a revision, and a private folder beside it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::RenderError;
use crate::fsio::limits;

/// The exported tree of a revision.
pub(in crate::source) struct Tree {
    /// Its root, without links.
    pub root: PathBuf,
    /// The URL and commit it was fetched by, if it is not the revision's.
    pub elsewhere: Option<(String, String)>,
}

impl Tree {
    /// The tree at `path`.
    pub fn open(path: &Path) -> Result<Self, RenderError> {
        let root = fs::canonicalize(path)
            .map_err(|source| RenderError::Io { path: path.display().to_string(), source })?;
        Ok(Self { root, elsewhere: None })
    }

    /// A path as people know it: below the root of the revision.
    pub fn label(&self, path: &Path) -> String {
        if let (Some((url, commit)), Ok(below)) = (&self.elsewhere, path.strip_prefix(&self.root)) {
            let below = below.to_string_lossy();
            let slashes = if below.is_empty() { "" } else { "//" };
            return format!("{url}{slashes}{below}?ref={commit}");
        }
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

/// A private folder beside the exported tree, gone with this value.
pub(super) struct Scratch(pub PathBuf);

impl Scratch {
    pub fn beside(root: &Path) -> Result<Self, RenderError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.subsec_nanos());
        let name = format!(".fleetpack-render-{}-{count}-{nanos}", std::process::id());
        let path = root.parent().unwrap_or(root).join(name);
        let mut builder = fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        // A name that exists is an error, so nobody can have laid it out for us.
        builder
            .create(&path)
            .map_err(|source| RenderError::Io { path: path.display().to_string(), source })?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It lies in a temporary folder that goes with the build.
        let _ = fs::remove_dir_all(&self.0);
    }
}
