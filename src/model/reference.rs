//! Image references, as Docker and containerd read them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Digest;

/// A normalised image reference: `registry/repository[:tag][@digest]`.
///
/// Follows the grammar of distribution's `reference` package and its normalisation: a name whose
/// first component has no dot, colon or upper case and is not `localhost` lies on `docker.io`, one
/// component there lies below `library/`, and a reference with neither tag nor digest means `latest`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageRef {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not an image reference: {why}")]
pub struct ReferenceError {
    /// The whole text, cut to a readable length.
    pub found: String,
    /// What is wrong with it.
    pub why: String,
}

impl ImageRef {
    /// Registry host with its port: `docker.io`, `registry.example.com:5000`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Repository below the registry: `library/nginx`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Registry and repository, without tag or digest.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The tag; absent only when a digest is there.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest that the reference pins, if it does.
    #[must_use]
    pub const fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same repository at `digest`, without a tag.
    #[must_use]
    pub fn at_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The same reference with `digest` in place of what it pinned, its tag kept.
    #[must_use]
    pub fn pinned(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    /// The same repository at `tag`, without a digest.
    ///
    /// # Errors
    ///
    /// When `tag` is not a tag.
    pub fn at_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError { found: tag.chars().take(100).collect(), why: "bad tag".into() });
        }
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }
}

/// Whether `text` is a tag: `[A-Za-z0-9_][A-Za-z0-9._-]{0,127}`.
#[must_use]
pub fn is_tag(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Whether `text` is a repository path: lower-case components joined by `/`, at most 255 bytes.
#[must_use]
pub fn is_repository(text: &str) -> bool {
    let separators_ok = |part: &str| {
        // Between letters and digits stand one dot, one or two underscores, or any number of dashes.
        let mut run = String::new();
        for c in part.chars() {
            if c.is_ascii_lowercase() || c.is_ascii_digit() {
                if !(run.is_empty()
                    || run == "."
                    || run == "_"
                    || run == "__"
                    || run.bytes().all(|b| b == b'-'))
                {
                    return false;
                }
                run.clear();
            } else if matches!(c, '.' | '_' | '-') {
                run.push(c);
            } else {
                return false;
            }
        }
        run.is_empty()
    };
    (1..=255).contains(&text.len())
        && text.split('/').all(|part| {
            part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()) && separators_ok(part)
        })
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, rest)) => {
            if v6.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            match rest.strip_prefix(':') {
                Some(port) => ("", Some(port)),
                None => return rest.is_empty(),
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let host_ok = text.starts_with('[')
        || (host.len() <= 253
            && host.split('.').all(|label| {
                !label.is_empty()
                    && !label.starts_with('-')
                    && !label.ends_with('-')
                    && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            }));
    host_ok
        && port
            .is_none_or(|port| port.parse::<u16>().is_ok_and(|number| number > 0) && !port.starts_with('+'))
}

impl FromStr for ImageRef {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let error =
            |why: &str| ReferenceError { found: text.chars().take(300).collect(), why: why.to_owned() };
        if text.len() > 1024 {
            return Err(error("longer than 1024 bytes"));
        }
        // What people mistype most is named for itself.
        if text.contains("://") {
            return Err(error("it begins with a scheme, wanted the registry's host first"));
        }
        if text.contains(char::is_whitespace) {
            return Err(error("it holds white space"));
        }
        if let Some(c) = text.chars().find(|c| !c.is_ascii()) {
            return Err(error(&format!("`{}` is not ASCII", c.escape_debug())));
        }
        if text.starts_with('/') {
            return Err(error("nothing stands before the first `/`, wanted a registry or a repository"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                (rest, Some(digest.parse::<Digest>().map_err(|e| error(&e.to_string()))?))
            }
            None => (text, None),
        };
        // A colon after the last slash begins the tag; one before it belongs to the registry's port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(error(
                "the tag wants 1 to 128 letters, digits, `_`, `.` and `-`, beginning with none of the last two",
            ));
        }
        let (registry, repository) = match name.split_once('/') {
            Some((first, path))
                if first.contains(['.', ':', '['])
                    || first == "localhost"
                    || first.bytes().any(|b| b.is_ascii_uppercase()) =>
            {
                (first, path.to_owned())
            }
            _ => ("docker.io", name.to_owned()),
        };
        let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
        let repository = if registry == "docker.io" && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository
        };
        if !is_registry(registry) {
            return Err(error("the registry wants a host name or address with an optional port"));
        }
        if repository.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(error("the repository holds upper case, wanted lower-case letters"));
        }
        if !is_repository(&repository) || repository == "library/" {
            return Err(error(
                "the repository wants lower-case components of letters, digits and single separators",
            ));
        }
        let tag = match (tag, digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some("latest".to_owned()),
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

impl Serialize for ImageRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ImageRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for ImageRef {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ImageRef".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "minLength": 1,
            "maxLength": 1024,
            "description": "image reference: [registry/]repository[:tag][@digest]"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_as_docker_does() {
        let hex = "a".repeat(64);
        for (text, want) in [
            ("nginx", "docker.io/library/nginx:latest".to_owned()),
            ("nginx:1.27", "docker.io/library/nginx:1.27".to_owned()),
            ("bitnami/redis:7", "docker.io/bitnami/redis:7".to_owned()),
            ("localhost/x", "localhost/x:latest".to_owned()),
            ("localhost:5000/x:1", "localhost:5000/x:1".to_owned()),
            ("index.docker.io/library/nginx:1", "docker.io/library/nginx:1".to_owned()),
            ("registry.example.com/shop/web:1.0", "registry.example.com/shop/web:1.0".to_owned()),
            (&format!("gcr.io/a/b:1@sha256:{hex}"), format!("gcr.io/a/b:1@sha256:{hex}")),
            (&format!("gcr.io/a/b@sha256:{hex}"), format!("gcr.io/a/b@sha256:{hex}")),
            ("[::1]:5000/a/b:1", "[::1]:5000/a/b:1".to_owned()),
        ] {
            let image: ImageRef = text.parse().unwrap();
            assert_eq!(image.to_string(), want);
            assert_eq!(want.parse::<ImageRef>().unwrap(), image, "the normal form is stable");
        }
    }

    #[test]
    fn refuses_what_no_registry_takes() {
        for bad in [
            "",
            ":1",
            "nginx:",
            "Nginx",
            "a//b",
            "a/../b",
            "-a/b",
            "a/b:-x",
            "a/b@sha256:xyz",
            "a b",
            "a/b:x y",
            "registry.example.com/",
            "registry.example.com:0/a",
            "registry.example.com:99999/a",
            "a/b___c",
            "http://a/b",
            "x.y/a$b",
            "${IMAGE}",
            "{{ .Values.image }}",
        ] {
            assert!(bad.parse::<ImageRef>().is_err(), "{bad:?}");
        }
    }
}
