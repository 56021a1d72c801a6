//! Paths below `/v2/`, parsed into names.

use crate::model::reference::{is_repository, is_tag};
use crate::model::{Digest, ImageRef};

/// What a path asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// `/v2/`: is this a registry?
    Base,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/NAME/tags/list`
    Tags(Name),
    /// `/v2/NAME/manifests/REFERENCE`
    Manifest(Name, Reference),
    /// `/v2/NAME/blobs/DIGEST`
    Blob(Name, Digest),
    /// `/v2/NAME/referrers/DIGEST`
    Referrers(Name, Digest),
    /// Something that only writers ask for.
    Upload,
}

/// A repository, as the path or the mirror parameter names it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// The registry, where it is named.
    pub(super) registry: Option<String>,
    /// The repository.
    pub(super) repository: String,
    /// The whole as asked for.
    pub(super) asked: String,
}

/// A manifest's tag or digest.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reference {
    Tag(String),
    Digest(Digest),
}

/// Why a path is none of these.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadPath {
    /// No such place.
    Unknown,
    /// The repository's name.
    Name(String),
    /// The tag.
    Tag(String),
    /// The digest.
    Digest(String),
}

/// Undoes percent-encoding, once. `None` for what is not UTF-8 or holds a control character.
pub(super) fn decode(path: &str) -> Option<String> {
    let mut out = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let byte = if byte == b'%' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            u8::try_from(high << 4 | low).ok()?
        } else {
            byte
        };
        if byte.is_ascii_control() {
            return None;
        }
        out.push(byte);
    }
    String::from_utf8(out).ok()
}

/// Parses `path` (still encoded); `namespace` is containerd's `?ns=`: the registry that this
/// server stands in for.
pub(super) fn parse(path: &str, namespace: Option<&str>) -> Result<Route, BadPath> {
    let path = decode(path).ok_or(BadPath::Unknown)?;
    let rest = match path.strip_prefix("/v2") {
        Some("" | "/") => return Ok(Route::Base),
        Some(rest) => rest.strip_prefix('/').ok_or(BadPath::Unknown)?,
        None => return Err(BadPath::Unknown),
    };
    if rest == "_catalog" {
        return Ok(Route::Catalog);
    }
    if let Some(name) = rest.strip_suffix("/tags/list") {
        return Ok(Route::Tags(name_of(name, namespace)?));
    }
    let trimmed = rest.strip_suffix('/').unwrap_or(rest);
    if trimmed.ends_with("/blobs/uploads") || trimmed.contains("/blobs/uploads/") {
        return Ok(Route::Upload);
    }
    let (rest, last) = rest.rsplit_once('/').ok_or(BadPath::Unknown)?;
    let (name, kind) = rest.rsplit_once('/').ok_or(BadPath::Unknown)?;
    let digest = || last.parse::<Digest>().map_err(|error| BadPath::Digest(error.to_string()));
    match kind {
        "manifests" => {
            let name = name_of(name, namespace)?;
            // A tag knows no colon, so what has one is meant as a digest.
            if last.contains(':') {
                return Ok(Route::Manifest(name, Reference::Digest(digest()?)));
            }
            if !is_tag(last) {
                return Err(BadPath::Tag(last.chars().take(200).collect()));
            }
            Ok(Route::Manifest(name, Reference::Tag(last.to_owned())))
        }
        "blobs" => Ok(Route::Blob(name_of(name, namespace)?, digest()?)),
        "referrers" => Ok(Route::Referrers(name_of(name, namespace)?, digest()?)),
        _ => Err(BadPath::Unknown),
    }
}

fn name_of(text: &str, namespace: Option<&str>) -> Result<Name, BadPath> {
    let bad = || BadPath::Name(text.chars().take(300).collect());
    let asked = text.to_owned();
    let normal = |registry: &str, repository: &str| {
        // What Docker Hub is called by the machines that serve it.
        let registry = match registry {
            "registry-1.docker.io" | "index.docker.io" => "docker.io",
            other => other,
        };
        let whole: ImageRef = format!("{registry}/{repository}").parse().map_err(|_| bad())?;
        // A text that says something else than a registry and a repository (a tag, a digest, a
        // registry that is not one) reads back in another way.
        if whole.registry() != registry || !whole.repository().ends_with(repository) {
            return Err(bad());
        }
        Ok(Name {
            registry: Some(registry.to_owned()),
            repository: whole.repository().to_owned(),
            asked: asked.clone(),
        })
    };
    if let Some(registry) = namespace {
        return normal(registry, text);
    }
    match text.split_once('/') {
        Some((first, rest)) if first == "localhost" || first.contains(['.', ':']) => normal(first, rest),
        _ if is_repository(text) => Ok(Name { registry: None, repository: text.to_owned(), asked }),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(registry: Option<&str>, repository: &str, asked: &str) -> Name {
        Name {
            registry: registry.map(str::to_owned),
            repository: repository.to_owned(),
            asked: asked.to_owned(),
        }
    }

    #[test]
    fn what_clients_ask() {
        let hex = "a".repeat(64);
        let digest: Digest = format!("sha256:{hex}").parse().unwrap();
        for (path, ns, want) in [
            ("/v2/", None, Route::Base),
            ("/v2", None, Route::Base),
            ("/v2/_catalog", None, Route::Catalog),
            ("/v2/shop/web/tags/list", None, Route::Tags(name(None, "shop/web", "shop/web"))),
            (
                "/v2/registry.example.com/shop/web/manifests/1.0",
                None,
                Route::Manifest(
                    name(Some("registry.example.com"), "shop/web", "registry.example.com/shop/web"),
                    Reference::Tag("1.0".into()),
                ),
            ),
            (
                "/v2/localhost:5000/web/manifests/1.0",
                None,
                Route::Manifest(
                    name(Some("localhost:5000"), "web", "localhost:5000/web"),
                    Reference::Tag("1.0".into()),
                ),
            ),
            (
                "/v2/library/nginx/manifests/latest",
                Some("docker.io"),
                Route::Manifest(
                    name(Some("docker.io"), "library/nginx", "library/nginx"),
                    Reference::Tag("latest".into()),
                ),
            ),
            (
                "/v2/docker.io/nginx/tags/list",
                None,
                Route::Tags(name(Some("docker.io"), "library/nginx", "docker.io/nginx")),
            ),
            (
                &format!("/v2/web/blobs/sha256:{hex}"),
                Some("127.0.0.1:5000"),
                Route::Blob(name(Some("127.0.0.1:5000"), "web", "web"), digest),
            ),
            (
                &format!("/v2/web/manifests/sha256%3A{hex}"),
                None,
                Route::Manifest(name(None, "web", "web"), Reference::Digest(digest)),
            ),
            (
                &format!("/v2/a/manifests/b/referrers/sha256:{hex}"),
                None,
                Route::Referrers(name(None, "a/manifests/b", "a/manifests/b"), digest),
            ),
            ("/v2/web/blobs/uploads/", None, Route::Upload),
            ("/v2/web/blobs/uploads/1234", None, Route::Upload),
        ] {
            assert_eq!(parse(path, ns), Ok(want), "{path}");
        }
    }

    #[test]
    fn hostile_paths_name_nothing() {
        let hex = "a".repeat(64);
        for (path, ns) in [
            ("/v2/../etc/passwd", None),
            ("/v2/..%2f..%2fetc/manifests/passwd", None),
            ("/v2/a/../b/manifests/1", None),
            ("/v2/a%2f..%2fb/tags/list", None),
            ("/v2/%2e%2e/manifests/1", None),
            ("/v2/a/manifests/..", None),
            ("/v2/a/manifests/%2e%2e", None),
            ("/v2/a/manifests/", None),
            ("/v2//manifests/1", None),
            ("/v2/a/blobs/sha256:../../x", None),
            ("/v2/a/blobs/sha512:00", None),
            ("/v2/a/blobs/%00", None),
            ("/v2/a/blobs/%zz", None),
            ("/v2/a/blobs/%", None),
            ("/v2/A/manifests/1", None),
            ("/v2/a:1/b/manifests/1", Some("x")),
            ("/v2/a/manifests/1", Some("../..")),
            ("/v2/a/manifests/1", Some("")),
            ("/v2/a/manifests/1", Some("x.y/z")),
            ("/v2/a@sha256:b/manifests/1", None),
            ("/v2x/a/manifests/1", None),
            ("/v2/x.y//a/manifests/1", None),
            (&format!("/v2/x.y/a:1/manifests/sha256:{hex}"), None),
            (&format!("/v2/blobs/sha256:{hex}"), None),
        ] {
            assert!(parse(path, ns).is_err(), "{path} {ns:?}: {:?}", parse(path, ns));
        }
    }
}
