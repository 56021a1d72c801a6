//! One blob on its way: resumed where a connection broke, continued at the next place where one
//! fails for good. Each byte is handed on once and in order.

use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};

use super::http::{Answer, Failure, transport_failure};
use super::retry::PROGRESS;
use super::{Place, Registry, not_empty};
use crate::model::{BlobEntry, ImageRef};
use crate::oci::error::{OciError, Result, readable};
use crate::oci::source::{BlobStream, BoxFuture};

/// A download, as far as it has come.
pub(super) struct Download<'a> {
    registry: &'a Registry,
    what: String,
    path: String,
    size: u64,
    places: Vec<Place>,
    /// The place that serves now.
    at: usize,
    /// The next byte to hand on.
    offset: u64,
    /// Where the last failure stood.
    failed_at: u64,
    attempt: u32,
    connection: Option<Connection>,
    failures: Vec<(String, OciError)>,
    done: bool,
}

/// An answer whose body is being read.
struct Connection {
    answer: Answer,
    /// Bytes to drop before the first that is wanted: the registry began at 0 although it was
    /// asked for a range.
    skip: u64,
    waited: Duration,
    moved: u64,
}

impl<'a> Download<'a> {
    pub fn new(
        registry: &'a Registry,
        image: &ImageRef,
        blob: &BlobEntry,
        offset: u64,
        places: Vec<Place>,
    ) -> Self {
        Self {
            registry,
            what: format!("blob `{}` of `{image}`", blob.digest),
            path: format!("blobs/{}", blob.digest),
            size: blob.size,
            places,
            at: 0,
            offset,
            failed_at: offset,
            attempt: 1,
            connection: None,
            failures: Vec::new(),
            done: false,
        }
    }

    fn length(&self, from: &str, got: String) -> OciError {
        OciError::WrongLength { what: self.what.clone(), from: format!("`{from}`"), got, wanted: self.size }
    }

    async fn advance(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.done {
                return Ok(None);
            }
            let step = if self.connection.is_none() {
                if self.offset == self.size {
                    self.done = true;
                    continue;
                }
                self.open().await.map(|connection| {
                    self.connection = Some(connection);
                    None
                })
            } else {
                self.read().await
            };
            match step {
                Ok(Some(bytes)) => return Ok(Some(bytes)),
                Ok(None) => {}
                Err(failure) => {
                    self.connection = None;
                    self.recover(failure).await?;
                }
            }
        }
    }

    /// Asks for what is still missing.
    async fn open(&self) -> std::result::Result<Connection, Failure> {
        let place = &self.places[self.at];
        let answer = self.registry.open_blob(place, &self.path, &self.what, self.offset).await?;
        let protocol =
            |why: String| OciError::Protocol { host: answer.from.clone(), what: self.what.clone(), why };
        let wanted_left = self.size.saturating_sub(self.offset);
        let skip = if answer.status().as_u16() == 206 {
            let range = answer.header("content-range").unwrap_or_default();
            if self.offset == 0 {
                return Err(protocol("a part (206), although the whole was asked for".to_owned()).into());
            }
            let Some((first, last, total)) = content_range(range) else {
                return Err(protocol(format!(
                    "Content-Range `{}`, wanted `bytes FIRST-LAST/SIZE`",
                    readable(range)
                ))
                .into());
            };
            if total.is_some_and(|total| total != self.size) {
                return Err(self
                    .length(&answer.from, format!("has {} bytes", total.unwrap_or_default()))
                    .into());
            }
            if first != self.offset || last.checked_add(1) != Some(self.size) {
                return Err(protocol(format!(
                    "bytes {first} to {last}, wanted {} to {}",
                    self.offset,
                    self.size - 1
                ))
                .into());
            }
            if answer.length().is_some_and(|length| length != wanted_left) {
                return Err(protocol(format!(
                    "Content-Length {} for a part of {wanted_left} bytes",
                    answer.length().unwrap_or_default()
                ))
                .into());
            }
            0
        } else {
            if let Some(length) = answer.length().filter(|length| *length != self.size) {
                if answer.is_html() {
                    return Err(super::html(&answer, &self.what, "a blob").into());
                }
                return Err(self.length(&answer.from, format!("has {length} bytes")).into());
            }
            if answer.is_html() && answer.length().is_none() {
                return Err(super::html(&answer, &self.what, "a blob").into());
            }
            self.offset
        };
        Ok(Connection { answer, skip, waited: Duration::ZERO, moved: 0 })
    }

    /// The next bytes of the open connection; nothing when they were to be dropped, or at the end.
    async fn read(&mut self) -> std::result::Result<Option<Bytes>, Failure> {
        let policy = &self.registry.transport.policy;
        let Some(connection) = &mut self.connection else { return Ok(None) };
        let host = connection.answer.from.clone();
        // Only the time in which the registry is waited for counts, not that of whoever takes the bytes.
        let left = policy.stall.saturating_sub(connection.waited);
        let began = Instant::now();
        let outcome = tokio::time::timeout(left, connection.answer.chunk()).await;
        connection.waited += began.elapsed();
        let stalled = |connection: &Connection| {
            Failure::transient(OciError::Stalled {
                host: host.clone(),
                what: self.what.clone(),
                got: connection.moved,
                seconds: connection.waited.as_secs_f64(),
                floor: policy.floor,
            })
        };
        let mut bytes = match outcome {
            Err(_) => {
                if connection.moved < policy.floor {
                    return Err(stalled(connection));
                }
                // Slow, but alive: a new window begins.
                (connection.waited, connection.moved) = (Duration::ZERO, 0);
                return Ok(None);
            }
            Ok(Err(error)) => return Err(transport_failure(&host, &self.what, &error)),
            Ok(Ok(Some(bytes))) => bytes,
            Ok(Ok(None)) if self.offset == self.size => {
                self.done = true;
                self.connection = None;
                return Ok(None);
            }
            Ok(Ok(None)) => {
                let error = self.length(&host, format!("ends after {} bytes", self.offset));
                return Err(Failure::transient(error));
            }
        };
        connection.moved += bytes.len() as u64;
        if connection.waited >= policy.stall {
            if connection.moved < policy.floor {
                return Err(stalled(connection));
            }
            (connection.waited, connection.moved) = (Duration::ZERO, 0);
        }
        let dropped = connection.skip.min(bytes.len() as u64);
        connection.skip -= dropped;
        // What is dropped is no longer than the chunk, whose length is a `usize`.
        bytes.advance(usize::try_from(dropped).unwrap_or(bytes.len()));
        if bytes.len() as u64 > self.size - self.offset {
            return Err(self.length(&host, format!("goes on after {} bytes", self.size)).into());
        }
        self.offset += bytes.len() as u64;
        Ok(not_empty(bytes))
    }

    /// Waits for the next attempt, or goes on at the next place, or gives up.
    async fn recover(&mut self, failure: Failure) -> Result<()> {
        let place = &self.places[self.at];
        if self.offset - self.failed_at >= PROGRESS {
            self.attempt = 1;
        }
        self.failed_at = self.offset;
        let last = self.at + 1 == self.places.len();
        let attempts = self.registry.attempts(place, last, &self.what).unwrap_or(1);
        if self.registry.transport.wait(&failure, self.attempt, attempts).await {
            self.attempt += 1;
            return Ok(());
        }
        place.host.give_up(&failure.error);
        self.failures.push((place.label.clone(), failure.error));
        self.attempt = 1;
        self.at += 1;
        if self.at < self.places.len() {
            return Ok(());
        }
        self.done = true;
        self.at = 0;
        Err(OciError::from_places(&self.what, std::mem::take(&mut self.failures)))
    }
}

impl BlobStream for Download<'_> {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Bytes>>> {
        Box::pin(self.advance())
    }

    fn from(&self) -> String {
        let place = &self.places[self.at];
        format!("{}/{}", place.host.name, place.repository)
    }
}

/// `bytes FIRST-LAST/SIZE` (RFC 9110, section 14.4); the size may be `*`.
fn content_range(value: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, size) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let size = match size {
        "*" => None,
        size => Some(size.parse().ok()?),
    };
    Some((first.parse().ok()?, last.parse().ok()?, size))
}

#[cfg(test)]
mod tests {
    use super::content_range;

    #[test]
    fn content_ranges() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, 9, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, 9, None)));
        for bad in ["", "bytes 5-9", "bytes */10", "items 5-9/10", "bytes 5-x/10", "bytes 5-9/-1"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
