//! `build --compare`: whether a revision gives the archive at hand, byte for byte.
//!
//! Blobs are named by their digests, so nothing large is downloaded: the release that the revision
//! gives is worked out up to its document, and the archive, every byte of which is checked, must be
//! of that release. Nothing is written.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::difference::{self, Difference, Side};
use super::{Assembled, Options, assemble};
use crate::archive::{self, Release, rendered};
use crate::model::{Digest, Progress, ReleaseName, ReleaseVersion};
use crate::ops::{Error, Result, archives};

/// What a comparison found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// Format of this report: 1.
    pub format: u32,
    /// Whether the revision gives the archive: all its bytes but the signatures.
    pub identical: bool,
    /// The archive, as it was named.
    pub archive: String,
    /// Name of its release.
    pub name: ReleaseName,
    /// Version of its release.
    pub version: ReleaseVersion,
    /// Its commit.
    pub commit: String,
    /// Identity of its release.
    pub release: Digest,
    /// Identity of the release that the revision gives.
    pub rebuilt: Digest,
    /// Signatures of the archive. They are no part of the comparison, and were not checked.
    pub signatures: usize,
    /// What differs, the first and most telling first; empty when nothing does.
    pub differences: Vec<Difference>,
}

/// Compares the archive with what `options` would build. `options.output`, `key` and `reuse` have no
/// part in it.
///
/// # Errors
///
/// When the archive does not hold what it says, or the revision cannot be built. That both differ
/// is no error.
pub async fn compare(archive: &Path, options: Options, progress: Arc<dyn Progress>) -> Result<Comparison> {
    let name = archives::display_name(archive);
    let path = archive.to_owned();
    let told = Arc::clone(&progress);
    let reading = tokio::task::spawn_blocking(move || read(&path, told.as_ref()));
    let (release, layer) = reading
        .await
        .map_err(|error| Error::io("read", archive, std::io::Error::other(error)))?
        .map_err(|error| error.in_archive(&name))?;

    let Assembled { document, objects, .. } = assemble(&options, &progress).await?;
    let document_bytes = archive::document::to_bytes(&document);
    let rebuilt = Digest::of(&archive::manifest::build(&document, &document_bytes)?);
    let identical = rebuilt == release.digest;
    let differences = if identical {
        Vec::new()
    } else {
        let carried = rendered::unpack(layer.as_slice(), &release.document.rendered)
            .map_err(|error| Error::from(error).in_archive(&name))?;
        difference::between(
            &Side { document: &release.document, bytes: &release.document_bytes, objects: &carried },
            &Side { document: &document, bytes: &document_bytes, objects: &objects },
        )
    };
    Ok(Comparison {
        format: 1,
        identical,
        archive: name,
        commit: release.document.git.commit.to_string(),
        name: release.document.name,
        version: release.document.version,
        release: release.digest,
        rebuilt,
        signatures: release.signatures.len(),
        differences,
    })
}

/// Reads the whole archive: its release, and its layer of rendered objects.
fn read(path: &Path, progress: &dyn Progress) -> Result<(Release, Vec<u8>)> {
    let mut source = archives::source(path)?;
    let release = archive::read_head(&mut source)?.parse()?;
    let layer = archives::check_whole(source, &release, progress)?;
    Ok((release, layer))
}
