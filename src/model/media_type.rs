//! Media types this crate writes or understands.

/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker image manifest, version 2, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list, version 2.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// The empty JSON object `{}` as a config (OCI Image Specification, "Guidance for an Empty Descriptor").
pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// The bytes of the empty JSON blob.
pub const EMPTY_BYTES: &[u8] = b"{}";
/// fleetpack's release: artifact type of the release manifest and media type of its config, the release document.
pub const RELEASE: &str = "application/vnd.fleetpack.release.v1+json";
/// A git bundle, version 2 (gitformat-bundle).
pub const GIT_BUNDLE: &str = "application/vnd.fleetpack.git.bundle.v2";
/// An object of Git LFS: the content of a file, as it is.
pub const GIT_LFS_OBJECT: &str = "application/vnd.fleetpack.git.lfs.object";
/// A Sigstore bundle, version 0.3.
pub const SIGSTORE_BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// What the media types of all versions of Sigstore bundles begin with.
pub const SIGSTORE_BUNDLES: &str = "application/vnd.dev.sigstore.bundle";
/// Config of the rendered manifests, which Flux writes and Argo CD accepts.
pub const FLUX_CONFIG: &str = "application/vnd.cncf.flux.config.v1+json";
/// A gzip-compressed tar layer: what the rendered manifests travel in.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Whether `media_type` is an index or a manifest list: a list of manifests.
#[must_use]
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_LIST)
}

/// Whether `media_type` is a manifest of one image or artifact.
#[must_use]
pub fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
}
