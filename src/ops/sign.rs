//! `sign`: one more signature in the reserved area of an archive's head.

use std::path::{Path, PathBuf};

use super::{Error, Result, archives};
use crate::archive;
use crate::model::{Digest, Progress};
use crate::trust::{self, PrivateKey};

/// What was signed.
#[derive(Debug, Clone)]
pub struct Report {
    /// The signed archive.
    pub archive: PathBuf,
    /// Identity of the release.
    pub release: Digest,
    /// Fingerprint of the key.
    pub signed_by: String,
    /// Signatures that the archive has now.
    pub signatures: usize,
}

/// Signs an archive, in place or into `output`. Every byte is verified against the document first:
/// nobody signs an archive that no site would take.
///
/// # Errors
///
/// When the archive is not whole, the key has signed it already, or it cannot be written.
pub fn sign(path: &Path, output: Option<&Path>, key: &PrivateKey, progress: &dyn Progress) -> Result<Report> {
    if path == Path::new("-") {
        return Err(Error::Usage {
            what: "standard input cannot be signed: the signature goes into the file".into(),
            hint: "name the archive".into(),
        });
    }
    let name = archives::display_name(path);
    let mut source = archives::source(path)?;
    let release = archive::read_head(&mut source)
        .and_then(archive::Head::parse)
        .map_err(|error| Error::from(error).in_archive(&name))?;
    archives::stream(source, &release, &archive::Discard, "checking", progress)
        .map_err(|error| error.in_archive(&name))?;
    let bundle = trust::sign(&release.manifest, key)?;
    archive::add_signature(path, output, release.digest, bundle)?;
    Ok(Report {
        archive: output.unwrap_or(path).to_owned(),
        release: release.digest,
        signed_by: key.public().fingerprint().to_string(),
        signatures: release.signatures.len() + 1,
    })
}
