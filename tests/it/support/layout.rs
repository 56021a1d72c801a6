//! OCI layouts written by hand, for what no tool here writes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fleetpack::model::{Digest, media_type};
use fleetpack::oci::{OciError, ResolvedImage, Sources, open_source};

use super::images::take;

/// A layout written by hand, for what no tool here writes.
pub struct Layout {
    path: PathBuf,
    listed: Vec<String>,
}

impl Layout {
    /// An empty one at `path`.
    pub fn new(path: &Path) -> Self {
        std::fs::create_dir_all(path.join("blobs/sha256")).unwrap();
        std::fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self { path: path.to_owned(), listed: Vec::new() }
    }

    /// Writes a blob and answers with its descriptor, `extra` (`,"key":…`) in it.
    pub fn blob(&self, kind: &str, bytes: &[u8], extra: &str) -> String {
        let digest = Digest::of(bytes);
        std::fs::write(self.path.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":{}{extra}}}"#, bytes.len())
    }

    /// Writes a manifest and its config, and answers with its descriptor.
    pub fn image(&self, layers: &[String], config: &str, extra: &str) -> String {
        let config = self.blob("application/vnd.oci.image.config.v1+json", config.as_bytes(), "");
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{config},"layers":[{}]}}"#,
            media_type::OCI_MANIFEST,
            layers.join(",")
        );
        self.blob(media_type::OCI_MANIFEST, text.as_bytes(), extra)
    }

    /// Writes what `BuildKit` writes about the child `of` of an index.
    pub fn attestation(&self, of: &str) -> String {
        let of = digest_in(of);
        let layer = self.blob("application/vnd.in-toto+json", format!("about {of}").as_bytes(), "");
        self.image(
            &[layer],
            "{}",
            &format!(
                r#","platform":{{"os":"unknown","architecture":"unknown"}},"annotations":{{"vnd.docker.reference.type":"attestation-manifest","vnd.docker.reference.digest":"{of}"}}"#
            ),
        )
    }

    /// Writes an index, and answers with its descriptor.
    pub fn index(&self, children: &[String], extra: &str) -> String {
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{}]}}"#,
            media_type::OCI_INDEX,
            children.join(",")
        );
        self.blob(media_type::OCI_INDEX, text.as_bytes(), extra)
    }

    /// Gives what a descriptor describes a name.
    pub fn name(&mut self, descriptor: &str, name: &str) {
        let annotated = descriptor.strip_suffix('}').unwrap();
        self.listed
            .push(format!(r#"{annotated},"annotations":{{"org.opencontainers.image.ref.name":"{name}"}}}}"#));
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, self.listed.join(","));
        std::fs::write(self.path.join("index.json"), text).unwrap();
    }

    /// Resolves an image of the layout for `platforms`; none takes all.
    pub async fn take(&self, image: &str, platforms: &[&str]) -> Result<ResolvedImage, OciError> {
        let source = open_source(&format!("oci:{}", self.path.display()))?;
        take(&Sources::new(vec![Arc::new(source)]), image, platforms).await
    }
}

/// The digest in a descriptor.
pub fn digest_in(descriptor: &str) -> Digest {
    let value: serde_json::Value = serde_json::from_str(descriptor).unwrap();
    value["digest"].as_str().unwrap().parse().unwrap()
}

/// The `platform` of a child of an index, as `extra` of its descriptor.
pub fn platform(architecture: &str) -> String {
    format!(r#","platform":{{"os":"linux","architecture":"{architecture}"}}"#)
}
