//! `registries.conf`, version 2, as containers-registries.conf(5) describes it: prefixes,
//! locations, mirrors, insecure and blocked places. Skopeo, podman and CRI-O read the same files.
//!
//! Short names are normalised to `docker.io` before they come here, as Kubernetes does, so
//! `unqualified-search-registries` and `[aliases]` change nothing.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::{OciError, Result, readable};
use super::files::read_text;
use crate::fsio::limits;
use crate::model::ImageRef;

/// Which references a mirror is asked for (`pull-from-mirror`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PullFromMirror {
    #[default]
    All,
    DigestOnly,
    TagOnly,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    #[serde(rename = "pull-from-mirror")]
    mode: Option<PullFromMirror>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Entry {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default, rename = "mirror")]
    mirrors: Vec<Mirror>,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default, rename = "registry")]
    entries: Vec<Entry>,
    /// The table of version 1.
    registries: Option<toml::Value>,
}

/// The registries configuration: where to ask for an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistriesConf {
    entries: Vec<(PathBuf, Entry)>,
}

/// One place to ask for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlaceSpec {
    /// Host with port.
    pub registry: String,
    /// Repository there.
    pub repository: String,
    /// Whether TLS may be unchecked or missing. Nothing is said for hosts without an entry.
    pub insecure: Option<bool>,
    /// Whether it is a mirror.
    pub mirror: bool,
}

impl RegistriesConf {
    /// Reads the first of `files` that exists, then `*.conf` of each of the `drop_ins` folders in
    /// the order of their names. A later entry replaces an earlier one of the same prefix.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, or says something that makes no sense.
    pub fn load(files: &[PathBuf], drop_ins: &[PathBuf]) -> Result<Self> {
        let mut conf = Self::default();
        for path in files {
            if let Some(text) = read_text(path, limits::CONFIG_FILE)? {
                conf.add(path, &text)?;
                break;
            }
        }
        for folder in drop_ins {
            let Ok(listing) = std::fs::read_dir(folder) else { continue };
            let mut paths: Vec<PathBuf> = listing
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
                .collect();
            paths.sort();
            for path in paths {
                if let Some(text) = read_text(&path, limits::CONFIG_FILE)? {
                    conf.add(&path, &text)?;
                }
            }
        }
        Ok(conf)
    }

    /// Adds what the file `path` says in `text`.
    fn add(&mut self, path: &Path, text: &str) -> Result<()> {
        let wrong = |why: String| OciError::Config { path: path.to_owned(), why };
        let document: Document = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        if document.registries.is_some() {
            return Err(wrong(
                "`[registries.…]` is version 1 of registries.conf, wanted version 2 (`[[registry]]`)"
                    .to_owned(),
            ));
        }
        let mut seen: Vec<String> = Vec::new();
        for mut entry in document.entries {
            for location in
                std::iter::once(&mut entry.location).chain(entry.mirrors.iter_mut().map(|m| &mut m.location))
            {
                *location = location.trim_end_matches('/').to_owned();
                if location.contains("://") {
                    return Err(wrong(format!(
                        "location `{}` holds a scheme, wanted `host[:port][/path]`",
                        readable(location)
                    )));
                }
            }
            entry.prefix.truncate(entry.prefix.trim_end_matches('/').len());
            if entry.prefix.is_empty() {
                if entry.location.is_empty() {
                    return Err(wrong("a `[[registry]]` without `prefix` and `location`".to_owned()));
                }
                entry.prefix.clone_from(&entry.location);
            }
            if entry.prefix.contains("://")
                || entry.prefix.strip_prefix("*.").unwrap_or(&entry.prefix).contains('*')
            {
                return Err(wrong(format!(
                    "prefix `{}`, wanted `host[:port][/path]` or `*.domain`",
                    readable(&entry.prefix)
                )));
            }
            if entry.location.is_empty() && !entry.prefix.starts_with("*.") {
                entry.location.clone_from(&entry.prefix);
            }
            if entry.mirrors.iter().any(|mirror| mirror.location.is_empty()) {
                return Err(wrong(format!("a mirror of `{}` without `location`", readable(&entry.prefix))));
            }
            if entry.mirror_by_digest_only && entry.mirrors.iter().any(|m| m.mode.is_some()) {
                return Err(wrong(format!(
                    "`{}` has `mirror-by-digest-only` beside `pull-from-mirror`, wanted one of them",
                    readable(&entry.prefix)
                )));
            }
            if seen.contains(&entry.prefix) {
                return Err(wrong(format!("prefix `{}` stands twice", readable(&entry.prefix))));
            }
            seen.push(entry.prefix.clone());
            self.entries.retain(|(_, old)| old.prefix != entry.prefix);
            self.entries.push((path.to_owned(), entry));
        }
        Ok(())
    }

    /// The places to ask for `image`, in order: mirrors, then the location itself.
    pub(super) fn places(&self, image: &ImageRef) -> Result<Vec<PlaceSpec>> {
        let name = image.name();
        let found = self
            .entries
            .iter()
            .filter_map(|(path, entry)| Some((matched(&entry.prefix, image)?, path, entry)))
            .max_by_key(|(length, _, _)| *length);
        let Some((_, path, entry)) = found else {
            return Ok(vec![PlaceSpec {
                registry: image.registry().to_owned(),
                repository: image.repository().to_owned(),
                insecure: None,
                mirror: false,
            }]);
        };
        if entry.blocked {
            return Err(OciError::Blocked { image: image.to_string(), prefix: entry.prefix.clone() });
        }
        let rest = if entry.prefix.starts_with("*.") {
            &name[image.registry().len()..]
        } else {
            // A prefix that names a tag or digest covers more than the name.
            name.get(entry.prefix.len()..).unwrap_or_default()
        };
        let place = |location: &str, insecure: bool, mirror: bool| {
            let text = if location.is_empty() { name.clone() } else { format!("{location}{rest}") };
            let wrong = |why: String| OciError::Config {
                path: path.clone(),
                why: format!("`{}` makes `{text}` of `{image}`: {why}", readable(location)),
            };
            let place: ImageRef =
                text.parse().map_err(|e: crate::model::reference::ReferenceError| wrong(e.why))?;
            let host = text.split('/').next().unwrap_or_default();
            if place.registry() != host && host != "index.docker.io" {
                return Err(wrong(format!("`{host}` is not a host, wanted one with a dot or a port")));
            }
            Ok(PlaceSpec {
                registry: place.registry().to_owned(),
                repository: place.repository().to_owned(),
                insecure: insecure.then_some(true).or((!is_loopback(place.registry())).then_some(false)),
                mirror,
            })
        };
        let mut places = Vec::new();
        for mirror in &entry.mirrors {
            let mode = match mirror.mode {
                None if entry.mirror_by_digest_only => PullFromMirror::DigestOnly,
                mode => mode.unwrap_or_default(),
            };
            let asked = match mode {
                PullFromMirror::All => true,
                PullFromMirror::DigestOnly => image.digest().is_some(),
                PullFromMirror::TagOnly => image.digest().is_none(),
            };
            if asked {
                places.push(place(&mirror.location, mirror.insecure, true)?);
            }
        }
        places.push(place(&entry.location, entry.insecure, false)?);
        Ok(places)
    }
}

/// How many bytes of the reference `prefix` covers, if it covers it at all.
fn matched(prefix: &str, image: &ImageRef) -> Option<usize> {
    if let Some(domain) = prefix.strip_prefix('*') {
        let host = image.registry();
        let host = if domain.contains(':') { host } else { host.split(':').next().unwrap_or_default() };
        return host.ends_with(domain).then_some(domain.len());
    }
    let whole = image.to_string();
    let rest = whole.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with(['/', ':', '@'])).then_some(prefix.len())
}

/// Whether `host` (with or without a port) is this machine: plain HTTP is allowed there, as Docker does.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(text: &str) -> Result<RegistriesConf> {
        let mut conf = RegistriesConf::default();
        conf.add(Path::new("registries.conf"), text)?;
        Ok(conf)
    }

    fn places(conf: &RegistriesConf, image: &str) -> Vec<String> {
        conf.places(&image.parse().unwrap())
            .unwrap()
            .iter()
            .map(|place| {
                let kind = if place.mirror { "mirror " } else { "" };
                let insecure = match place.insecure {
                    Some(true) => " insecure",
                    Some(false) => " secure",
                    None => "",
                };
                format!("{kind}{}/{}{insecure}", place.registry, place.repository)
            })
            .collect()
    }

    const SAMPLE: &str = r#"
        unqualified-search-registries = ["docker.io"]
        short-name-mode = "permissive"
        [[registry]]
        prefix = "docker.io"
        location = "docker.io"
        [[registry.mirror]]
        location = "mirror.example.com:5000/hub"
        insecure = true
        [[registry.mirror]]
        location = "second.example.com"
        pull-from-mirror = "digest-only"
        [[registry.mirror]]
        location = "third.example.com"
        pull-from-mirror = "tag-only"
        [[registry]]
        prefix = "docker.io/bitnami"
        blocked = true
        [[registry]]
        prefix = "*.example.net"
        insecure = true
        [[registry]]
        prefix = "a.example.org/old"
        location = "b.example.org/new"
        mirror-by-digest-only = true
        [[registry.mirror]]
        location = "c.example.org"
    "#;

    #[test]
    fn mirrors_come_first_and_the_longest_prefix_counts() {
        let conf = conf(SAMPLE).unwrap();
        let hex = "0".repeat(64);
        assert_eq!(
            places(&conf, "nginx:1"),
            [
                "mirror mirror.example.com:5000/hub/library/nginx insecure",
                "mirror third.example.com/library/nginx secure",
                "docker.io/library/nginx secure"
            ]
        );
        assert_eq!(
            places(&conf, &format!("nginx:1@sha256:{hex}"))[1],
            "mirror second.example.com/library/nginx secure"
        );
        assert_eq!(places(&conf, "x.y.example.net:80/a/b:1"), ["x.y.example.net:80/a/b insecure"]);
        assert_eq!(places(&conf, "example.net/a:1"), ["example.net/a"]);
        assert_eq!(places(&conf, "a.example.org/old/x:1"), ["b.example.org/new/x secure"]);
        assert_eq!(places(&conf, "a.example.org/older/x:1"), ["a.example.org/older/x"]);
        assert_eq!(
            places(&conf, &format!("a.example.org/old/x@sha256:{hex}"))[0],
            "mirror c.example.org/x secure"
        );
        let error = conf.places(&"bitnami/redis".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("`blocked = true` for `docker.io/bitnami`"), "{error}");
        assert_eq!(places(&conf, "127.0.0.1:5000/x:1"), ["127.0.0.1:5000/x"]);
    }

    #[test]
    fn nonsense_is_refused() {
        for (text, want) in [
            ("[registries.search]\nregistries=[]", "version 1"),
            ("[[registry]]\ninsecure=true", "without `prefix` and `location`"),
            ("[[registry]]\nlocation='http://x.y'", "holds a scheme"),
            ("[[registry]]\nprefix='a.*.b'", "wanted `host"),
            ("[[registry]]\nprefix='a.b'\n[[registry]]\nprefix='a.b'", "stands twice"),
            ("[[registry]]\nprefix='a.b'\n[[registry.mirror]]\nlocation=''", "without `location`"),
            (
                "[[registry]]\nprefix='a.b'\n[[registry.mirror]]\nlocation='c.d'\npull-from-mirror='x'",
                "unknown variant",
            ),
            ("[[registry", "TOML parse error"),
        ] {
            let error = conf(text).unwrap_err().to_string();
            assert!(error.contains(want), "{error} lacks {want}");
        }
        let conf = conf("[[registry]]\nprefix='a.b'\nlocation='nohost'").unwrap();
        assert!(conf.places(&"a.b/c".parse().unwrap()).unwrap_err().to_string().contains("is not a host"));
    }

    #[test]
    fn drop_ins_replace_entries_of_the_main_file() {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("registries.conf");
        let drop_in = folder.path().join("d");
        std::fs::create_dir(&drop_in).unwrap();
        std::fs::write(&main, "[[registry]]\nprefix='a.b'\nlocation='one.example.com'").unwrap();
        std::fs::write(drop_in.join("10.conf"), "[[registry]]\nprefix='a.b'\nlocation='two.example.com'")
            .unwrap();
        std::fs::write(drop_in.join("20.conf.bak"), "broken [[[").unwrap();
        let missing = folder.path().join("missing");
        let conf = RegistriesConf::load(&[missing.clone(), main], &[missing, drop_in]).unwrap();
        assert_eq!(places(&conf, "a.b/c:1"), ["two.example.com/c secure"]);
    }

    #[test]
    fn loopback() {
        for host in ["localhost", "localhost:5000", "127.0.0.1", "127.1.2.3:80", "[::1]:5000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example.com", "128.0.0.1", "docker.io", "[::2]:5000"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
