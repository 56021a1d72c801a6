//! The release document: everything an archive holds, in archive order.
//!
//! It is the config of the release manifest, so the signature over the manifest's bytes binds it,
//! and with it every digest below. JSON keys stand in the order of the fields here; lists have a
//! fixed order that each field's comment gives. Reader × writer table: `docs/formats.md`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Digest, GitOid, ImageRef, ObjectId, ObjectRole, Origin, Platform, RefName, ReleaseName, ReleaseVersion,
    RenderedObject, SafePath,
};

/// The format this crate writes, and the highest it reads.
pub const FORMAT: u32 = 1;

/// Features that this crate knows; a document that requires another one is refused by name.
pub const KNOWN_FEATURES: &[&str] = &[LFS, SUBMODULES];

/// Feature: the release carries objects of Git LFS.
pub const LFS: &str = "git-lfs";

/// Feature: the release carries repositories of submodules.
pub const SUBMODULES: &str = "git-submodules";

/// The release document, format 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseDocument {
    /// Version of the format: 1.
    pub format: u32,
    /// Features a reader must know, sorted. A reader refuses one that it does not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    /// Name of the line of releases.
    pub name: ReleaseName,
    /// Version of this release.
    pub version: ReleaseVersion,
    /// Number that only grows from release to release of a name: the count of commits that the
    /// revision reaches, unless the build was told another.
    pub sequence: u64,
    /// Time of the release: the commit's, or `SOURCE_DATE_EPOCH`.
    #[schemars(with = "String")]
    pub created: Timestamp,
    /// Tool that wrote the archive, with its version: `fleetpack 0.1.0`.
    pub generator: String,
    /// The Git history that travels.
    pub git: GitContent,
    /// The rendered objects that travel.
    pub rendered: RenderedContent,
    /// Images, sorted by reference.
    pub images: Vec<ImageEntry>,
    /// Every blob of the archive except the release manifest, this document and the signatures,
    /// in archive order: (1) indexes, manifests and configs sorted by digest, (2) the git bundle,
    /// those of submodules in their order, then the layer of rendered manifests, (3) objects of Git
    /// LFS that do not stand above, sorted by digest, (4) layers and other blobs in the order in
    /// which `images` first leads to them. No digest stands twice.
    pub blobs: Vec<BlobEntry>,
}

/// One blob. The archive's offsets follow from the sizes, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlobEntry {
    /// Content digest.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// Media type, as the descriptor that leads to the blob states it.
    pub media_type: String,
}

/// The Git history of the revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GitContent {
    /// The commit that was built.
    pub commit: GitOid,
    /// References that the bundle carries, sorted by name; at least one branch, which the
    /// site's `HEAD` follows: the first branch.
    pub refs: Vec<GitRef>,
    /// Digest of the git bundle, version 2, of the whole history of the references.
    pub bundle: Digest,
    /// Repositories of the commit's submodules, at any depth, sorted by name. Wants the feature
    /// `git-submodules`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub submodules: Vec<SubmoduleEntry>,
    /// Objects of Git LFS that the files of the revision and of its submodules point to, sorted by
    /// digest, each once. Wants the feature `git-lfs`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lfs: Vec<LfsObject>,
}

/// The content of a file that lies outside Git's objects (Git LFS specification, "The Pointer").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LfsObject {
    /// Its oid: the SHA-256 of the content. The archive holds it as a blob.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// Where pointers to it stand, sorted; at least one. Those in a submodule have its path before.
    pub paths: Vec<String>,
}

/// A repository that the release needs beside its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubmoduleEntry {
    /// Name under which the site serves it: `/git/RELEASE/NAME.git`.
    pub name: ReleaseName,
    /// Where the revision has it, sorted by path; at least one.
    pub paths: Vec<SubmodulePath>,
    /// The commit of the first path.
    pub commit: GitOid,
    /// Branches that the bundle carries, sorted by name: `refs/heads/release` for that commit, and
    /// `refs/heads/release-COMMIT` for each other one.
    pub refs: Vec<GitRef>,
    /// Digest of the git bundle, version 2, of the whole history of the references.
    pub bundle: Digest,
}

/// One place that holds a submodule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubmodulePath {
    /// Folder below the root of the revision.
    pub path: SafePath,
    /// Its URL as `.gitmodules` has it, relative or not.
    pub url: String,
    /// The commit that is pinned there.
    pub commit: GitOid,
}

/// One reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GitRef {
    /// Full name.
    pub name: RefName,
    /// Object it names: a commit, or a tag object.
    pub target: GitOid,
}

/// The rendered objects: an OCI artifact that Argo CD and Flux accept as a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RenderedContent {
    /// Digest of the artifact's manifest.
    pub manifest: Digest,
    /// Digest of its one layer, a gzip-compressed tar of YAML files.
    pub layer: Digest,
    /// The objects, in the order in which the layer holds them.
    pub objects: Vec<ObjectEntry>,
}

/// One rendered object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectEntry {
    /// What names it.
    #[serde(flatten)]
    pub id: ObjectId,
    /// Where it comes from in the revision.
    pub origin: Origin,
    /// What it is for, where it is not simply one of the release's.
    #[serde(default, skip_serializing_if = "ObjectRole::is_plain")]
    pub role: ObjectRole,
    /// Namespace that it goes to if it names none and its kind belongs to one, where the source says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_namespace: Option<String>,
    /// When it comes, where deployers of the revision wait for one another: what has a lower turn is
    /// healthy before.
    #[serde(default, skip_serializing_if = "is_first")]
    pub turn: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
const fn is_first(turn: &u32) -> bool {
    *turn == 0
}

impl From<&RenderedObject> for ObjectEntry {
    fn from(object: &RenderedObject) -> Self {
        Self {
            id: object.id.clone(),
            origin: object.origin.clone(),
            role: object.role,
            default_namespace: object.default_namespace.clone(),
            turn: object.turn,
        }
    }
}

/// One image reference and what it resolves to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageEntry {
    /// The reference, normalised.
    pub reference: ImageRef,
    /// Digest of the manifest or index that it names.
    pub digest: Digest,
    /// Media type of that manifest or index.
    pub media_type: String,
    /// Platforms carried, in the order of the index; one for a single manifest whose config says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<Platform>,
    /// Children of the index that were left out because their platform was not asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<AbsentManifest>,
    /// What refers to the image and travels with it, in order of discovery, which is fixed:
    /// by subject (index first, then its children in order), then by digest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub referrers: Vec<ReferrerEntry>,
    /// Who uses it, in the order of the rendered objects. Empty for one that was asked for by
    /// `images.include` or `--image` alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub used_by: Vec<Usage>,
}

/// A child of an index that the archive does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AbsentManifest {
    /// Its digest.
    pub digest: Digest,
    /// Its platform, where the index says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

/// A manifest that refers to an image: a signature, an attestation, an SBOM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReferrerEntry {
    /// Digest of the referring manifest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// What it refers to.
    pub subject: Digest,
    /// Tag under which clients without the referrers API look for it in the image's repository
    /// (`sha256-….sig`), where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Its artifact type, read from the manifest itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

/// One place that uses an image.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// File and line of the object.
    pub origin: Origin,
    /// The object.
    pub object: ObjectId,
    /// Path of the field: `spec.template.spec.containers[0].image`. A key that is no plain word
    /// stands as `["key"]`, and ` -> ` leads into a document that the field holds as text.
    pub field: String,
    /// Line of the field's value in the origin's file, counted from 1, where it stands there as
    /// it was rendered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
}

impl Usage {
    /// File and line, as precisely as they are known: `deploy/web.yaml:31`.
    #[must_use]
    pub fn place(&self) -> String {
        Origin { line: self.line.or(self.origin.line), ..self.origin.clone() }.to_string()
    }
}

impl ReleaseDocument {
    /// The blob with `digest`, if the archive holds it.
    #[must_use]
    pub fn blob(&self, digest: Digest) -> Option<&BlobEntry> {
        self.blobs.iter().find(|blob| blob.digest == digest)
    }

    /// The git bundles in archive order, each once: the revision's, then those of its submodules.
    #[must_use]
    pub fn bundles(&self) -> Vec<Digest> {
        let mut bundles = vec![self.git.bundle];
        for submodule in &self.git.submodules {
            if !bundles.contains(&submodule.bundle) {
                bundles.push(submodule.bundle);
            }
        }
        bundles
    }

    /// `NAME VERSION`, as people say it.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{} {}", self.name, self.version)
    }

    /// The branch that the site's `HEAD` follows.
    #[must_use]
    pub fn branch(&self) -> Option<&GitRef> {
        self.git.refs.iter().find(|reference| reference.name.is_branch())
    }

    /// Repository and tag under which the rendered manifests are served: `fleetpack/NAME:VERSION`.
    #[must_use]
    pub fn rendered_name(&self) -> (String, String) {
        (format!("fleetpack/{}", self.name), self.version.as_tag())
    }
}
