//! What a request carries to a registry, and how long its answer may take.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Body, Response};

use super::http::locked;
use super::retry::RetryPolicy;

/// How much of a file is read at once.
const CHUNK: u64 = 512 << 10;
/// A registry that has all bytes may still hash or move them; slower than this it is not.
const SLOWEST_FINISH: u64 = 10 << 20;

/// Hears how far into a blob the registry was sent bytes.
pub type Moved = Arc<dyn Fn(u64) + Send + Sync>;

/// A blob's file, to be sent in whole or in parts.
#[derive(Clone)]
pub struct BlobFile {
    /// The file; its length is the blob's.
    pub file: Arc<File>,
    /// Where it lies, for messages.
    pub path: PathBuf,
}

/// A body. It is made anew for each attempt.
#[derive(Clone)]
pub(super) enum Payload {
    /// Small and in memory, with its media type, where it has one.
    Small(Option<String>, Bytes),
    /// A part of a blob.
    Part(Part),
}

/// A part of a blob's file.
#[derive(Clone)]
pub(super) struct Part {
    pub blob: BlobFile,
    pub from: u64,
    pub to: u64,
    /// Whether to say which part it is.
    pub ranged: bool,
    pub moved: Moved,
    /// Bytes of this part that the HTTP library took.
    sent: Arc<AtomicU64>,
    /// Why the file could not be read, if it could not.
    failed: Arc<Mutex<Option<io::Error>>>,
}

impl Part {
    pub fn new(blob: &BlobFile, range: std::ops::Range<u64>, ranged: bool, moved: &Moved) -> Self {
        Self {
            blob: blob.clone(),
            from: range.start,
            to: range.end,
            ranged,
            moved: Arc::clone(moved),
            sent: Arc::default(),
            failed: Arc::default(),
        }
    }

    /// Why the file could not be read, if that is what went wrong.
    pub fn failure(&self) -> Option<io::Error> {
        locked(&self.failed).take()
    }

    fn body(&self) -> Body {
        self.sent.store(0, Ordering::Relaxed);
        let part = self.clone();
        Body::wrap_stream(futures_util::stream::try_unfold(part.from, move |at| {
            let part = part.clone();
            async move {
                if at >= part.to {
                    return Ok(None);
                }
                let length = (part.to - at).min(CHUNK);
                let file = Arc::clone(&part.blob.file);
                let read = tokio::task::spawn_blocking(move || {
                    // At most `CHUNK` bytes.
                    let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
                    file.read_exact_at(&mut bytes, at).map(|()| bytes)
                });
                match read.await.map_err(io::Error::other).and_then(|read| read) {
                    Ok(bytes) => {
                        part.sent.fetch_add(length, Ordering::Relaxed);
                        (part.moved)(at + length);
                        Ok(Some((Bytes::from(bytes), at + length)))
                    }
                    Err(error) => {
                        // The library would call it a broken connection.
                        let told = io::Error::from(error.kind());
                        *locked(&part.failed) = Some(error);
                        Err(told)
                    }
                }
            }
        }))
    }
}

impl Payload {
    /// Nothing, said aloud: a POST without a length is refused by some.
    pub const fn empty() -> Self {
        Self::Small(None, Bytes::new())
    }

    fn length(&self) -> u64 {
        match self {
            Self::Small(_, bytes) => bytes.len() as u64,
            Self::Part(part) => part.to - part.from,
        }
    }

    /// Headers and body for one attempt.
    pub fn make(&self, headers: &mut HeaderMap) -> Body {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(self.length()));
        match self {
            Self::Small(media_type, bytes) => {
                if let Some(value) = media_type.as_ref().and_then(|text| HeaderValue::from_str(text).ok()) {
                    headers.insert(CONTENT_TYPE, value);
                }
                Body::from(bytes.clone())
            }
            Self::Part(part) => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
                // Without a unit (OCI Distribution Specification, "Pushing a blob in chunks").
                if part.ranged
                    && let Ok(value) = HeaderValue::from_str(&format!("{}-{}", part.from, part.to - 1))
                {
                    headers.insert(CONTENT_RANGE, value);
                }
                part.body()
            }
        }
    }

    /// Waits for the answer, as long as bytes move and for a while after the last; none when it is
    /// not worth waiting any longer.
    pub async fn watch(
        &self,
        policy: &RetryPolicy,
        sending: impl Future<Output = reqwest::Result<Response>>,
    ) -> Option<reqwest::Result<Response>> {
        let mut sending = std::pin::pin!(sending);
        let mut seen = 0;
        let window = policy.stall.saturating_add(policy.connect);
        let mut patience = Duration::from_secs(self.length() / SLOWEST_FINISH);
        loop {
            if let Ok(done) = tokio::time::timeout(window, &mut sending).await {
                return Some(done);
            }
            let sent = match self {
                Self::Small(..) => return None,
                Self::Part(part) => part.sent.load(Ordering::Relaxed),
            };
            if sent >= self.length() {
                patience = patience.checked_sub(window)?;
            } else if sent.saturating_sub(seen) < policy.floor {
                return None;
            }
            seen = sent;
        }
    }
}
