//! Blobs, handed on as they come.

use std::io;

use super::error::{OciError, Result};
use super::source::BlobSource;
use crate::model::{BlobEntry, ImageRef};

/// What a finished download tells about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Where the (last) bytes came from, for the message about a digest that does not fit.
    pub from: String,
}

/// Streams `blob` of `image` from `source` into `write`: each byte once, in order, exactly
/// `blob.size` of them. The bytes are **not** hashed: whoever writes them hashes them once and
/// reports a wrong digest with [`Fetched::from`].
///
/// # Errors
///
/// When the blob is not there, has another length, or cannot be had after all attempts; when
/// `write` fails.
pub async fn fetch(
    source: &dyn BlobSource,
    image: &ImageRef,
    blob: &BlobEntry,
    write: &mut (dyn FnMut(&[u8]) -> io::Result<()> + Send),
) -> Result<Fetched> {
    let mut stream = source.blob(image, blob, 0).await?;
    let what = || format!("blob `{}` of `{image}`", blob.digest);
    let mut count = 0_u64;
    while let Some(bytes) = stream.next().await? {
        count += bytes.len() as u64;
        if count > blob.size {
            let got = format!("goes on after {} bytes", blob.size);
            return Err(OciError::WrongLength { what: what(), from: stream.from(), got, wanted: blob.size });
        }
        write(&bytes).map_err(|source| OciError::Write { what: what(), source })?;
    }
    if count != blob.size {
        let got = format!("ends after {count} bytes");
        return Err(OciError::WrongLength { what: what(), from: stream.from(), got, wanted: blob.size });
    }
    Ok(Fetched { from: stream.from() })
}
