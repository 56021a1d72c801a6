//! The registry of the site's own that releases are pushed to: `registry.json`. Without that file
//! nodes pull from `serve`.

use std::fs;
use std::io::ErrorKind;

use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::open::{Store, StoreWriter, read_small};
use crate::fsio::{Step, limits, pass, sync_folder, write_atomic};
use crate::model::SiteRegistry;

const FILE: &str = "registry.json";
const FORMAT: u64 = 1;

/// A registry that holds the releases of this site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedRegistry {
    /// Its host, and the prefix below which the releases lie.
    pub registry: SiteRegistry,
    /// Where it answered: `https://registry.site:5000`. `http` where it speaks no TLS.
    pub url: String,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    format: u64,
    registry: String,
    url: String,
}

impl Store {
    /// The registry that the last release was pushed to, if this site has one of its own.
    ///
    /// # Errors
    ///
    /// When the record cannot be read.
    pub fn registry(&self) -> Result<Option<RecordedRegistry>, StoreError> {
        let path = self.folder().join(FILE);
        let Some(bytes) = read_small(&path, limits::CONFIG_FILE)? else { return Ok(None) };
        let damaged = |why: String| StoreError::Damaged { path: path.clone(), why };
        let wire: Wire = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if wire.format != FORMAT {
            return Err(damaged(format!("format {}, wanted {FORMAT}", wire.format)));
        }
        let registry: SiteRegistry = wire.registry.parse().map_err(|error| damaged(format!("{error}")))?;
        if !["http", "https"].iter().any(|scheme| wire.url == format!("{scheme}://{}", registry.host())) {
            return Err(damaged(format!(
                "url `{:.200}`, wanted `https://{}` or the same with `http`",
                wire.url,
                registry.host()
            )));
        }
        Ok(Some(RecordedRegistry { registry, url: wire.url }))
    }
}

impl StoreWriter {
    /// Records the registry, or that there is none any more. What is recorded already is left alone.
    ///
    /// # Errors
    ///
    /// When the record cannot be written or removed.
    pub fn record_registry(&self, registry: Option<&RecordedRegistry>) -> Result<(), StoreError> {
        let path = self.folder().join(FILE);
        let Some(registry) = registry else {
            let remove = || match pass(Step::Remove, &path).and_then(|()| fs::remove_file(&path)) {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
                Ok(()) => sync_folder(self.folder()),
            };
            return remove().map_err(|source| StoreError::Io { what: "remove", path: path.clone(), source });
        };
        if self.registry().is_ok_and(|known| known.as_ref() == Some(registry)) {
            return Ok(());
        }
        let io = |source| StoreError::Io { what: "write", path: path.clone(), source };
        let wire =
            Wire { format: FORMAT, registry: registry.registry.to_string(), url: registry.url.clone() };
        let mut bytes = serde_json::to_vec(&wire).map_err(|error| io(error.into()))?;
        bytes.push(b'\n');
        write_atomic(&path, &bytes).map_err(io)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_and_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Store::open_or_create(folder.path(), "test").unwrap();
        assert_eq!(writer.registry().unwrap(), None);
        writer.record_registry(None).unwrap();
        let one = RecordedRegistry {
            registry: "registry.site:5000/fleet".parse().unwrap(),
            url: "https://registry.site:5000".into(),
        };
        writer.record_registry(Some(&one)).unwrap();
        writer.record_registry(Some(&one)).unwrap();
        assert_eq!(Store::open_read_only(folder.path()).unwrap().registry().unwrap(), Some(one));
        for (content, want) in [
            ("{\"format\":2,\"registry\":\"a.b/c\",\"url\":\"https://a.b\"}", "format 2, wanted 1"),
            ("{\"format\":1,\"registry\":\"nohost\",\"url\":\"https://a.b\"}", "no registry's host"),
            ("{\"format\":1,\"registry\":\"a.b/c\",\"url\":\"https://evil.b\"}", "wanted `https://a.b`"),
        ] {
            fs::write(folder.path().join(FILE), content).unwrap();
            let error = writer.registry().unwrap_err().to_string();
            assert!(error.contains(want), "{error}, wanted {want}");
        }
        writer.record_registry(None).unwrap();
        assert_eq!(writer.registry().unwrap(), None);
    }
}
