//! `verify`: an archive proved whole and signed, in one pass, with nothing written.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Result, archives, keys};
use crate::archive::Discard;
use crate::model::{Digest, Progress, ReleaseName, ReleaseVersion};
use crate::trust::Signer;

/// What was verified.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Format of this report: 1.
    pub format: u32,
    /// Always true: what is not verified is an error, not a report.
    pub verified: bool,
    /// Identity of the release.
    pub release: Digest,
    /// Its name.
    pub name: ReleaseName,
    /// Its version.
    pub version: ReleaseVersion,
    /// Its sequence.
    pub sequence: u64,
    /// Its time.
    pub created: String,
    /// The commit.
    pub commit: String,
    /// Count of objects.
    pub objects: usize,
    /// Count of image references.
    pub images: usize,
    /// Count of blobs.
    pub blobs: usize,
    /// Bytes of all blobs.
    pub size: u64,
    /// Keys of yours that signed it.
    pub signers: Vec<Signer>,
}

/// Verifies an archive.
///
/// # Errors
///
/// When a key cannot be read, no signature is by one of the keys, or any byte is not what was signed.
pub fn verify(archive: &Path, public: &[PathBuf], progress: &dyn Progress) -> Result<Report> {
    let trusted = keys::load_public(public)?;
    let name = archives::display_name(archive);
    let archives::Opened { release, source } = archives::open(archive, &trusted)?;
    archives::stream(source, &release, &Discard, "verifying", progress)
        .map_err(|error| error.in_archive(&name))?;
    let document = &release.document;
    Ok(Report {
        format: 1,
        verified: true,
        release: release.digest,
        name: document.name.clone(),
        version: document.version.clone(),
        sequence: document.sequence,
        created: document.created.to_string(),
        commit: document.git.commit.to_string(),
        objects: document.rendered.objects.len(),
        images: document.images.len(),
        blobs: document.blobs.len(),
        size: document.blobs.iter().map(|blob| blob.size).sum(),
        signers: release.signers().to_vec(),
    })
}
