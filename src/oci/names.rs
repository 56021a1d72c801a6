//! Which image of an OCI layout a reference means (OCI Image Layout Specification, "index.json").
//!
//! A layout names its images by the annotation `org.opencontainers.image.ref.name`, which tools
//! fill in three ways: the whole reference, the reference as it was typed, or a tag alone. The
//! first two are clear. A tag alone says nothing about the repository, so it counts only in a
//! layout that the user bound to one: a guess here would put a wrong image under a right name.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::{OciError, Result};
use super::manifest::Descriptor;
use crate::fsio::limits;
use crate::model::reference::is_tag;
use crate::model::{Digest, ImageRef};

const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// What containerd and `BuildKit` write beside it: the whole reference.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u64,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    image_layout_version: String,
}

/// The names in a layout.
pub(super) struct Names {
    path: PathBuf,
    pub manifests: Vec<Descriptor>,
    bound: Option<ImageRef>,
}

impl Names {
    /// Reads `oci-layout` and `index.json` of the layout at `path`.
    pub fn parse(path: &Path, marker: &[u8], index: &[u8], bound: Option<ImageRef>) -> Result<Self> {
        let wrong = |why: String| OciError::Layout { path: path.to_owned(), why };
        let marker: Marker =
            serde_json::from_slice(marker).map_err(|error| wrong(format!("`oci-layout`: {error}")))?;
        if marker.image_layout_version != "1.0.0" {
            return Err(wrong(format!(
                "image layout version `{}`, wanted `1.0.0`",
                super::error::readable(&marker.image_layout_version)
            )));
        }
        let index: Index =
            serde_json::from_slice(index).map_err(|error| wrong(format!("`index.json`: {error}")))?;
        if index.schema_version != 2 {
            return Err(wrong(format!("`index.json` has schemaVersion {}, wanted 2", index.schema_version)));
        }
        let manifests = index.manifests.unwrap_or_default();
        if manifests.len() > limits::IMAGES {
            return Err(wrong(format!(
                "`index.json` lists {} manifests, at most {} are read",
                manifests.len(),
                limits::IMAGES
            )));
        }
        Ok(Self { path: path.to_owned(), manifests, bound })
    }

    /// The digest that `image` means here.
    pub fn find(&self, image: &ImageRef) -> Result<Option<Digest>> {
        if let Some(digest) = image.digest() {
            return Ok(Some(digest));
        }
        let mut digests: Vec<Digest> = Vec::new();
        for descriptor in self.manifests.iter().filter(|descriptor| self.names(descriptor, image)) {
            if !digests.contains(&descriptor.digest) {
                digests.push(descriptor.digest);
            }
        }
        match digests.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(*one)),
            _ => Err(OciError::Ambiguous { path: self.path.clone(), image: image.to_string(), digests }),
        }
    }

    fn names(&self, descriptor: &Descriptor, image: &ImageRef) -> bool {
        let whole = |text: &str| text.parse::<ImageRef>().is_ok_and(|named| named == *image);
        let bound = self.bound.as_ref().filter(|bound| bound.name() == image.name());
        let name = descriptor.annotations.get(REF_NAME);
        if descriptor.annotations.get(CONTAINERD_NAME).is_some_and(|text| whole(text)) {
            return true;
        }
        match (name, bound) {
            (Some(tag), Some(_)) if is_tag(tag) => image.tag() == Some(tag),
            // `1.27` would also read as the image `docker.io/library/1.27:latest`: what is only a
            // tag is no name of its own.
            (Some(text), _) => !is_tag(text) && whole(text),
            (None, Some(bound)) => self.manifests.len() == 1 && bound == image,
            (None, None) => false,
        }
    }

    /// The words for an image that is not here.
    pub fn absence(&self, image: &ImageRef) -> String {
        let loose = self
            .manifests
            .iter()
            .filter(|d| !d.annotations.contains_key(CONTAINERD_NAME))
            .filter(|d| d.annotations.get(REF_NAME).is_none_or(|name| is_tag(name)))
            .count();
        if loose > 0 && self.bound.is_none() {
            return format!(
                "`{}` holds {loose} image(s) without a repository name; `oci:DIR=REPOSITORY` says whose they are, such as `oci:{}={}`",
                self.path.display(),
                self.path.display(),
                image.name()
            );
        }
        format!("`{}` does not name it", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(entries: &[(Option<&str>, u8)], bound: Option<&str>) -> Names {
        let manifests: Vec<String> = entries
            .iter()
            .map(|(name, n)| {
                let annotations = name
                    .map(|name| format!(r#","annotations":{{"{REF_NAME}":"{name}"}}"#))
                    .unwrap_or_default();
                format!(r#"{{"mediaType":"m","digest":"{}","size":1{annotations}}}"#, Digest::of(&[*n]))
            })
            .collect();
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, manifests.join(","));
        Names::parse(
            Path::new("dir"),
            br#"{"imageLayoutVersion":"1.0.0"}"#,
            index.as_bytes(),
            bound.map(|text| text.parse().unwrap()),
        )
        .unwrap()
    }

    fn found(names: &Names, image: &str) -> Option<Digest> {
        names.find(&image.parse().unwrap()).unwrap()
    }

    #[test]
    fn whole_references_and_those_as_typed() {
        let names =
            names(&[(Some("docker.io/library/nginx:1"), 1), (Some("shop/web:2"), 2), (Some("7"), 3)], None);
        assert_eq!(found(&names, "nginx:1"), Some(Digest::of(&[1])));
        assert_eq!(found(&names, "docker.io/shop/web:2"), Some(Digest::of(&[2])));
        assert_eq!(found(&names, "nginx:2"), None);
        assert_eq!(found(&names, "redis:7"), None, "a tag alone is nobody's");
        assert_eq!(found(&names, "7"), None);
        assert!(names.absence(&"redis:7".parse().unwrap()).contains("oci:dir=docker.io/library/redis"));
    }

    #[test]
    fn tags_alone_count_where_the_layout_is_bound() {
        let names = names(&[(Some("1.0"), 1), (Some("2.0"), 2)], Some("r.example.com/web"));
        assert_eq!(found(&names, "r.example.com/web:2.0"), Some(Digest::of(&[2])));
        assert_eq!(found(&names, "r.example.com/db:2.0"), None);
        let single = self::names(&[(None, 1)], Some("r.example.com/web:3"));
        assert_eq!(found(&single, "r.example.com/web:3"), Some(Digest::of(&[1])));
        assert_eq!(found(&single, "r.example.com/web:4"), None);
    }

    #[test]
    fn two_images_of_one_name_are_refused() {
        let names = names(&[(Some("a.b/c:1"), 1), (Some("a.b/c:1"), 2)], None);
        let error = names.find(&"a.b/c:1".parse().unwrap()).unwrap_err().to_string();
        assert!(error.starts_with("`dir` names `a.b/c:1` more than once: sha256:"), "{error}");
    }

    #[test]
    fn broken_layouts_are_refused() {
        let parse = |marker: &str, index: &str| {
            Names::parse(Path::new("dir"), marker.as_bytes(), index.as_bytes(), None)
                .err()
                .map(|e| e.to_string())
        };
        let fine = r#"{"imageLayoutVersion":"1.0.0"}"#;
        assert!(
            parse(r#"{"imageLayoutVersion":"2.0.0"}"#, "{}").unwrap().contains("`2.0.0`, wanted `1.0.0`")
        );
        assert!(parse(fine, r#"{"schemaVersion":1}"#).unwrap().contains("schemaVersion 1, wanted 2"));
        assert!(parse(fine, "<html>").unwrap().contains("`index.json`"));
        assert!(parse("", "{}").unwrap().contains("`oci-layout`"));
    }
}
