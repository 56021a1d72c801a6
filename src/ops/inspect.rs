//! `inspect`: what the head of an archive says.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Error, Result, archives, keys};
use crate::archive;
use crate::model::{Digest, ReleaseDocument};
use crate::trust::Signer;

/// The head of an archive.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// Identity of the release.
    pub digest: Digest,
    /// The release document.
    pub document: ReleaseDocument,
    /// Keys of yours that signed it; empty when none was given, and then nothing vouches for it.
    pub signers: Vec<Signer>,
    /// Signatures that are there, whoever made them.
    pub signatures: usize,
}

impl Inspection {
    /// The inspection as a JSON document; `part` is `summary` or one of its lists.
    #[must_use]
    pub fn json(&self, part: &str) -> Value {
        let document = json!(self.document);
        let content = match part {
            "images" => json!({ "images": document["images"] }),
            "objects" => json!({ "objects": document["rendered"]["objects"] }),
            "git" => json!({ "git": document["git"] }),
            "blobs" => json!({ "blobs": document["blobs"] }),
            _ => document,
        };
        json!({
            "format": 1,
            "verified": !self.signers.is_empty(),
            "signers": self.signers,
            "signatures": self.signatures,
            "digest": self.digest,
            "release": content,
        })
    }
}

/// Reads the head of an archive; with keys, a signature by one of them is demanded.
///
/// # Errors
///
/// When the head is not one, or no signature is by one of the keys.
pub fn inspect(path: &Path, public: &[PathBuf]) -> Result<Inspection> {
    let trusted = keys::load_public(public)?;
    if !trusted.is_empty() {
        let release = archives::open(path, &trusted)?.release;
        return Ok(Inspection {
            digest: release.digest,
            document: release.document.clone(),
            signers: release.signers().to_vec(),
            signatures: release.signatures.len(),
        });
    }
    let name = archives::display_name(path);
    let mut source = archives::source(path)?;
    let read = || Ok::<_, Error>(archive::read_head(&mut source)?.parse()?);
    let release = { read }().map_err(|error| error.in_archive(&name))?;
    Ok(Inspection {
        digest: release.digest,
        signatures: release.signatures.len(),
        document: release.document,
        signers: Vec::new(),
    })
}
