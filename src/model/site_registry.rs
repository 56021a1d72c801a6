//! A registry of the site's own: where it is, and under which names releases lie there.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use super::reference::is_repository;
use super::{ImageRef, ReleaseDocument};

/// `HOST[:PORT][/PREFIX]`: a registry that a release is pushed to, and the path below which all of
/// it lies.
///
/// An image keeps its whole upstream name below the prefix, registry included, so that two
/// registries' `app` stay two and nodes are led there by one rule: `docker.io/library/nginx` is
/// `PREFIX/docker.io/library/nginx`. What a repository's name cannot hold is written otherwise: a
/// port's colon as an underscore (no host name has one), upper case in lower case (hosts do not
/// differ by it), and an address `[fd00::1]` as `ip6-fd00-0-0-0-0-0-0-1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SiteRegistry {
    host: String,
    prefix: String,
}

/// Why a text names no such registry, or a repository cannot be had there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` {why}")]
pub struct SiteRegistryError {
    /// What was found, cut to a readable length.
    pub found: String,
    /// What is wrong with it.
    pub why: String,
}

impl SiteRegistry {
    /// Host with its port.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The path below which everything lies, without slashes around it; may be empty.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The repository for `name`, which is a registry's name and a repository there
    /// (`docker.io/library/nginx`), or `fleetpack/NAME`.
    ///
    /// # Errors
    ///
    /// When the outcome is no repository: longer than 255 bytes.
    pub fn repository(&self, name: &str) -> Result<String, SiteRegistryError> {
        let (registry, path) = name.split_once('/').unwrap_or((name, ""));
        let parts = [self.prefix.as_str(), &component(registry), path];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let repository = parts.join("/");
        if is_repository(&repository) {
            return Ok(repository);
        }
        Err(SiteRegistryError {
            why: format!(
                "is no repository's name ({} bytes, at most 255 of lower-case components)",
                repository.len()
            ),
            found: repository.chars().take(300).collect(),
        })
    }

    /// The path below which the images of `registry` lie: `PREFIX/docker.io`.
    #[must_use]
    pub fn path_of(&self, registry: &str) -> String {
        let component = component(registry);
        if self.prefix.is_empty() { component } else { format!("{}/{component}", self.prefix) }
    }

    /// Where people find the rendered manifests of a release: `HOST/PREFIX/fleetpack/NAME:VERSION`.
    ///
    /// # Errors
    ///
    /// As [`SiteRegistry::repository`].
    pub fn rendered(&self, document: &ReleaseDocument) -> Result<String, SiteRegistryError> {
        let (name, tag) = document.rendered_name();
        Ok(format!("{}/{}:{tag}", self.host, self.repository(&name)?))
    }
}

/// A registry's name as one component of a repository's.
fn component(registry: &str) -> String {
    let (host, port) = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            let address = address.parse::<Ipv6Addr>().map_or_else(
                // References hold no other, so this is never seen; the name's check refuses it.
                |_| address.to_owned(),
                |address| address.segments().map(|part| format!("{part:x}")).as_slice().join("-"),
            );
            (format!("ip6-{address}"), port.strip_prefix(':'))
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (host.to_ascii_lowercase(), Some(port)),
            None => (registry.to_ascii_lowercase(), None),
        },
    };
    port.map_or_else(|| host.clone(), |port| format!("{host}_{port}"))
}

impl fmt::Display for SiteRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

impl FromStr for SiteRegistry {
    type Err = SiteRegistryError;

    fn from_str(text: &str) -> Result<Self, SiteRegistryError> {
        let error =
            |why: &str| SiteRegistryError { found: text.chars().take(300).collect(), why: why.to_owned() };
        if text.contains("://") {
            return Err(error(
                "begins with a scheme, wanted HOST[:PORT]/PREFIX; a registry without TLS wants `insecure = true` in registries.conf",
            ));
        }
        let trimmed = text.strip_suffix('/').unwrap_or(text);
        let (host, prefix) = trimmed.split_once('/').unwrap_or((trimmed, ""));
        // The grammar of references decides what a host is; any repository will do for that.
        let sample: Result<ImageRef, _> = format!("{host}/x").parse();
        if !sample.is_ok_and(|sample| sample.registry() == host) {
            return Err(error(
                "begins with no registry's host, wanted HOST[:PORT]/PREFIX, such as `registry.site:5000/fleet`",
            ));
        }
        if !(prefix.is_empty() || is_repository(prefix)) {
            return Err(error(
                "has a prefix that is no repository's name, wanted lower-case components joined by `/`",
            ));
        }
        Ok(Self { host: host.to_owned(), prefix: prefix.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_a_registry() {
        for (text, host, prefix) in [
            ("registry.site:5000/fleet", "registry.site:5000", "fleet"),
            ("registry.site/a/b/", "registry.site", "a/b"),
            ("localhost/x", "localhost", "x"),
            ("127.0.0.1:5000", "127.0.0.1:5000", ""),
            ("[::1]:5000/x", "[::1]:5000", "x"),
        ] {
            let registry: SiteRegistry = text.parse().unwrap();
            assert_eq!((registry.host(), registry.prefix()), (host, prefix));
            assert_eq!(registry.to_string(), text.trim_end_matches('/'));
        }
        for (text, want) in [
            ("https://registry.site/x", "begins with a scheme"),
            ("fleet/x", "begins with no registry's host"),
            ("", "begins with no registry's host"),
            ("registry.site/Fleet", "has a prefix"),
            ("registry.site//x", "has a prefix"),
            ("registry.site/x:1", "has a prefix"),
            ("user@registry.site/x", "begins with no"),
        ] {
            let error = text.parse::<SiteRegistry>().unwrap_err().to_string();
            assert!(error.contains(want), "{error}, wanted {want}");
        }
    }

    #[test]
    fn names_below_the_prefix() {
        let registry: SiteRegistry = "registry.site/fleet".parse().unwrap();
        let bare: SiteRegistry = "registry.site".parse().unwrap();
        for (name, want) in [
            ("docker.io/library/nginx", "docker.io/library/nginx"),
            ("r.example.com:5000/web/app", "r.example.com_5000/web/app"),
            ("Registry.Example.com/a", "registry.example.com/a"),
            ("[fd00::1]:80/a", "ip6-fd00-0-0-0-0-0-0-1_80/a"),
            ("fleetpack/shop", "fleetpack/shop"),
        ] {
            assert_eq!(bare.repository(name).unwrap(), want);
            assert_eq!(registry.repository(name).unwrap(), format!("fleet/{want}"));
        }
        assert_eq!(registry.path_of("r.example.com:5000"), "fleet/r.example.com_5000");
        let long = format!("r.example.com/{}", "a".repeat(240));
        assert!(registry.repository(&long).unwrap_err().to_string().contains("at most 255"));
    }
}
