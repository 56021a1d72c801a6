//! Images at registries (OCI Distribution Specification, "Pull", "Push" and "Listing Referrers").
//!
//! Which registry is asked follows from `registries.conf`: mirrors in order, then the location
//! itself. May use the network. Must never print a secret, and never hash a blob: whoever writes
//! it hashes it once.

mod challenge;
mod download;
mod http;
mod payload;
pub mod retry;
mod token;
mod upload;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use reqwest::Method;

use self::download::Download;
use self::http::{Access, Answer, Ask, Failure, Host, Transport, locked};
pub use self::payload::{BlobFile, Moved};
pub use self::retry::RetryPolicy;
pub use self::upload::{Session, Target};
use super::credentials::Credentials;
use super::error::{OciError, Result};
use super::manifest::{Claim, Content, Descriptor, RawManifest};
use super::registries_conf::{RegistriesConf, is_loopback};
use super::source::{BlobSource, BlobStream, BoxFuture};
use crate::fsio::limits;
use crate::model::progress::Silent;
use crate::model::{BlobEntry, Digest, ImageRef, Progress, media_type};

/// What this client can read.
const ACCEPT_MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
/// Pages of referrers that are read.
const REFERRER_PAGES: usize = 64;
/// Attempts at a place that is not the last one: the next place is the better second attempt.
const ATTEMPTS_BEFORE_NEXT: u32 = 2;

/// How to reach registries.
pub struct RegistryOptions {
    /// Where to ask for what.
    pub registries: RegistriesConf,
    /// Who asks.
    pub credentials: Credentials,
    /// Folders that hold certificates by host (containers-certs.d(5)), in order: the first that
    /// knows a host counts.
    pub certs_dirs: Vec<PathBuf>,
    /// How patient to be.
    pub retry: RetryPolicy,
    /// Requests in flight to one host, downloads included.
    pub per_host: usize,
    /// Takes notes about attempts and warnings.
    pub progress: Arc<dyn Progress>,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            registries: RegistriesConf::default(),
            credentials: Credentials::none(),
            certs_dirs: Vec::new(),
            retry: RetryPolicy::default(),
            per_host: 8,
            progress: Arc::new(Silent),
        }
    }
}

/// All registries, behind one pool of connections and one cache of logins.
pub struct Registry {
    registries: RegistriesConf,
    transport: Transport,
    /// Whether a repository, by host and name, has the referrers API, once that is known. Some
    /// hosts have it for some of their repositories, so nothing is concluded from one to another.
    referrers_api: Mutex<HashMap<(String, String), ApiState>>,
}

/// Held by the one who finds out; the others wait for the outcome instead of asking as well.
type ApiState = Arc<tokio::sync::Mutex<Option<bool>>>;

/// One place to ask for an image.
struct Place {
    host: Arc<Host>,
    repository: String,
    /// For people.
    label: String,
}

impl Registry {
    /// A client. Nothing is connected to yet.
    #[must_use]
    pub fn new(options: RegistryOptions) -> Self {
        Self {
            registries: options.registries,
            transport: Transport {
                policy: options.retry,
                credentials: options.credentials,
                progress: options.progress,
                certs_dirs: options.certs_dirs,
                per_host: options.per_host,
                clients: Mutex::new(HashMap::new()),
                hosts: Mutex::new(HashMap::new()),
            },
            referrers_api: Mutex::default(),
        }
    }

    fn places(&self, image: &ImageRef) -> Result<Vec<Place>> {
        let specs = self.registries.places(image)?;
        Ok(specs
            .into_iter()
            .map(|spec| {
                let insecure = spec.insecure.unwrap_or_else(|| is_loopback(&spec.registry));
                let kind = if spec.mirror { "mirror " } else { "" };
                Place {
                    label: format!("{kind}`{}/{}`", spec.registry, spec.repository),
                    host: self.transport.host(&spec.registry, insecure),
                    repository: spec.repository,
                }
            })
            .collect())
    }

    /// How often to try at a place, or the error of one that was given up before. The only place
    /// and the last one are always tried.
    fn attempts(&self, place: &Place, last: bool, what: &str) -> Result<u32> {
        if last {
            return Ok(self.transport.policy.attempts.max(1));
        }
        match place.host.given_up() {
            Some(why) => Err(OciError::Unreachable {
                host: place.host.name.clone(),
                what: what.to_owned(),
                why: format!("given up before: {why}"),
            }),
            None => Ok(self.transport.policy.attempts.clamp(1, ATTEMPTS_BEFORE_NEXT)),
        }
    }

    async fn manifest_at(&self, place: &Place, image: &ImageRef, attempts: u32) -> Result<RawManifest> {
        let what = format!("image `{image}`");
        let reference = reference_of(image);
        let path = format!("manifests/{reference}");
        let (what, path) = (what.as_str(), path.as_str());
        self.transport
            .retrying(&place.host, attempts, || async move {
                let ask = Self::ask(place, path, Some(ACCEPT_MANIFESTS), what);
                let mut answer = self.transport.send(&ask).await?;
                if answer.status().as_u16() != 200 {
                    return Err(answer.failure(&ask, &self.transport, &place.label).await);
                }
                if answer.is_html() {
                    return Err(html(&answer, what, "a manifest").into());
                }
                let bytes = answer.small(what, limits::MANIFEST, &self.transport.policy).await?;
                let promised = match answer.header("docker-content-digest").map(str::parse::<Digest>) {
                    None | Some(Err(crate::model::digest::DigestError::Algorithm { .. })) => None,
                    Some(Ok(digest)) => Some(digest),
                    Some(Err(error)) => {
                        return Err(OciError::Protocol {
                            host: answer.from.clone(),
                            what: what.to_owned(),
                            why: format!("Docker-Content-Digest: {error}"),
                        }
                        .into());
                    }
                };
                if super::manifest::looks_like_html(None, &bytes) {
                    return Err(html(&answer, what, "a manifest").into());
                }
                let claim = Claim {
                    what,
                    from: &place.label,
                    media_type: answer.header("content-type"),
                    pinned: image.digest(),
                    promised,
                };
                Ok(RawManifest::check(bytes, &claim)?)
            })
            .await
    }

    fn ask<'a>(place: &'a Place, path: &'a str, accept: Option<&'static str>, what: &'a str) -> Ask<'a> {
        Ask {
            host: &place.host,
            repository: &place.repository,
            method: Method::GET,
            path,
            url: None,
            access: Access::Pull,
            payload: None,
            accept,
            offset: 0,
            what,
        }
    }

    /// Whether something is there, by HEAD.
    async fn head_at(
        &self,
        place: &Place,
        path: &str,
        accept: Option<&'static str>,
        what: &str,
        attempts: u32,
    ) -> Result<bool> {
        self.transport
            .retrying(&place.host, attempts, || async move {
                let ask = Ask { method: Method::HEAD, ..Self::ask(place, path, accept, what) };
                let answer = self.transport.send(&ask).await?;
                match answer.status().as_u16() {
                    200 if answer.is_html() => {
                        Err(html(&answer, what, "the head of a manifest or blob").into())
                    }
                    200 => Ok(true),
                    404 => Ok(false),
                    _ => Err(answer.failure(&ask, &self.transport, &place.label).await),
                }
            })
            .await
    }

    /// Whether something is at any place. A place that nobody reaches counts as one that has
    /// nothing where another one answered; any other error is one.
    async fn head(
        &self,
        image: &ImageRef,
        path: &str,
        accept: Option<&'static str>,
        what: &str,
    ) -> Result<bool> {
        let places = self.places(image)?;
        let mut failures = Vec::new();
        let mut answered = false;
        for (n, place) in places.iter().enumerate() {
            let outcome = match self.attempts(place, places.len() == 1, what) {
                Ok(attempts) => self.head_at(place, path, accept, what, attempts).await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(true) => return Ok(true),
                Ok(false) => answered = true,
                Err(error) => failures.push((places[n].label.clone(), error)),
            }
        }
        if failures.is_empty() || answered && failures.iter().all(|(_, error)| error.is_silence()) {
            return Ok(false);
        }
        Err(OciError::from_places(what, failures))
    }

    /// What the referrers API of a place lists, or nothing where there is no such API.
    async fn referrers_at(
        &self,
        place: &Place,
        subject: Digest,
        what: &str,
        attempts: u32,
    ) -> Result<Option<Vec<Descriptor>>> {
        let mut found = Vec::new();
        let mut path = format!("referrers/{subject}");
        for _ in 0..REFERRER_PAGES {
            let page_path = path.as_str();
            let page = self
                .transport
                .retrying(&place.host, attempts, || async move {
                    let ask = Self::ask(place, page_path, Some(media_type::OCI_INDEX), what);
                    let mut answer = self.transport.send(&ask).await?;
                    match answer.status().as_u16() {
                        200 => {}
                        // What registries without the API answer.
                        400 | 404 | 405 | 406 | 501 => return Ok(None),
                        _ => return Err(answer.failure(&ask, &self.transport, &place.label).await),
                    }
                    let stated = answer.header("content-type").map(str::to_owned);
                    if stated.as_deref().is_none_or(|text| !text.starts_with(media_type::OCI_INDEX)) {
                        return Ok(None);
                    }
                    let next = answer.header("link").and_then(next_page);
                    let bytes = answer.small(what, limits::MANIFEST, &self.transport.policy).await?;
                    let claim =
                        Claim { what, from: &place.label, media_type: stated.as_deref(), ..Claim::default() };
                    Ok::<_, Failure>(Some((RawManifest::check(bytes, &claim)?, next)))
                })
                .await?;
            let Some((index, next)) = page else { return Ok(None) };
            if let Content::Index(children) = index.read()?.content {
                found.extend(children);
            }
            match next {
                Some(next) if found.len() <= limits::IMAGES => path = next,
                _ => return Ok(Some(found)),
            }
        }
        Err(OciError::Protocol {
            host: place.host.name.clone(),
            what: what.to_owned(),
            why: format!("more than {REFERRER_PAGES} pages of referrers"),
        })
    }

    /// The same, without asking a repository again that has no such API.
    async fn api_at(
        &self,
        place: &Place,
        subject: Digest,
        what: &str,
        attempts: u32,
    ) -> Result<Option<Vec<Descriptor>>> {
        let key = (place.host.name.clone(), place.repository.clone());
        let state = Arc::clone(locked(&self.referrers_api).entry(key).or_default());
        let mut known = state.lock().await;
        match *known {
            Some(false) => return Ok(None),
            Some(true) => drop(known),
            None => {
                let found = self.referrers_at(place, subject, what, attempts).await?;
                *known = Some(found.is_some());
                return Ok(found);
            }
        }
        self.referrers_at(place, subject, what, attempts).await
    }

    /// What refers to `image` at one place: its API, else its tag schema.
    async fn all_referrers_at(
        &self,
        place: &Place,
        image: &ImageRef,
        subject: Digest,
        attempts: u32,
    ) -> Result<Vec<Descriptor>> {
        let what = format!("what refers to `{image}`");
        if let Some(found) = self.api_at(place, subject, &what, attempts).await? {
            return Ok(found);
        }
        let Ok(tag) = image.at_tag(&format!("sha256-{}", subject.hex())) else { return Ok(Vec::new()) };
        let path = format!("manifests/{}", reference_of(&tag));
        if !self.head_at(place, &path, Some(ACCEPT_MANIFESTS), &what, attempts).await? {
            return Ok(Vec::new());
        }
        match self.manifest_at(place, &tag, attempts).await?.read()?.content {
            Content::Index(children) => Ok(children),
            Content::Image { .. } => {
                self.transport
                    .progress
                    .warn(format!("`{tag}` is not an index of referrers, so it is left alone"));
                Ok(Vec::new())
            }
        }
    }
}

/// What stands behind `manifests/`: the digest where there is one.
fn reference_of(image: &ImageRef) -> String {
    image.digest().map_or_else(|| image.tag().unwrap_or("latest").to_owned(), |digest| digest.to_string())
}

fn html(answer: &Answer, what: &str, wanted: &'static str) -> OciError {
    let (host, status) = (answer.from.clone(), answer.status().as_u16());
    OciError::Html { host, what: what.to_owned(), status, wanted }
}

/// The next page that a `Link` header names (RFC 8288), if it is a path on the same registry.
fn next_page(header: &str) -> Option<String> {
    header.split(',').find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let next = parameters.split(';').any(|p| matches!(p.trim(), "rel=\"next\"" | "rel=next"));
        (next && target.starts_with("/v2/")).then(|| target.to_owned())
    })
}

impl BlobSource for Registry {
    fn manifest<'a>(&'a self, image: &'a ImageRef) -> BoxFuture<'a, Result<RawManifest>> {
        Box::pin(async move {
            let what = format!("image `{image}`");
            let places = self.places(image)?;
            let mut failures = Vec::new();
            for (n, place) in places.iter().enumerate() {
                let outcome = match self.attempts(place, n + 1 == places.len(), &what) {
                    Ok(attempts) => self.manifest_at(place, image, attempts).await,
                    Err(error) => Err(error),
                };
                match outcome {
                    Ok(manifest) => return Ok(manifest),
                    Err(error) => {
                        if let Some(next) = places.get(n + 1) {
                            self.transport.progress.note(format!("{error}; asking {} next", next.label));
                        }
                        failures.push((place.label.clone(), error));
                    }
                }
            }
            Err(OciError::from_places(&what, failures))
        })
    }

    fn exists<'a>(&'a self, image: &'a ImageRef) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let path = format!("manifests/{}", reference_of(image));
            self.head(image, &path, Some(ACCEPT_MANIFESTS), &format!("image `{image}`")).await
        })
    }

    fn blob<'a>(
        &'a self,
        image: &'a ImageRef,
        blob: &'a BlobEntry,
        offset: u64,
    ) -> BoxFuture<'a, Result<Box<dyn BlobStream + 'a>>> {
        Box::pin(async move {
            let places = self.places(image)?;
            Ok(Box::new(Download::new(self, image, blob, offset, places)) as Box<dyn BlobStream + 'a>)
        })
    }

    fn has_blob<'a>(&'a self, image: &'a ImageRef, blob: &'a BlobEntry) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let path = format!("blobs/{}", blob.digest);
            self.head(image, &path, None, &format!("blob `{}` of `{image}`", blob.digest)).await
        })
    }

    fn referrers<'a>(&'a self, image: &'a ImageRef) -> BoxFuture<'a, Result<Vec<Descriptor>>> {
        Box::pin(async move {
            let Some(subject) = image.digest() else { return Ok(Vec::new()) };
            let what = format!("what refers to `{image}`");
            let places = self.places(image)?;
            // All places are asked: a mirror may hold an image without what refers to it.
            let mut found: Vec<Descriptor> = Vec::new();
            let mut failures = Vec::new();
            let mut answered = false;
            for place in &places {
                let outcome = match self.attempts(place, places.len() == 1, &what) {
                    Ok(attempts) => self.all_referrers_at(place, image, subject, attempts).await,
                    Err(error) => Err(error),
                };
                match outcome {
                    Ok(more) => {
                        answered = true;
                        for descriptor in more {
                            if !found.iter().any(|old| old.digest == descriptor.digest) {
                                found.push(descriptor);
                            }
                        }
                    }
                    Err(error) => failures.push((place.label.clone(), error)),
                }
            }
            if failures.is_empty() || answered && failures.iter().all(|(_, error)| error.is_silence()) {
                return Ok(found);
            }
            Err(OciError::from_places(&what, failures))
        })
    }

    fn label(&self) -> String {
        "registries".to_owned()
    }
}

/// Small helpers for [`Download`].
impl Registry {
    async fn open_blob(
        &self,
        place: &Place,
        path: &str,
        what: &str,
        offset: u64,
    ) -> std::result::Result<Answer, Failure> {
        let ask = Ask { offset, ..Self::ask(place, path, None, what) };
        let answer = self.transport.send(&ask).await?;
        match answer.status().as_u16() {
            200 | 206 => Ok(answer),
            _ => Err(answer.failure(&ask, &self.transport, &place.label).await),
        }
    }
}

/// An empty chunk says nothing; the caller asks again.
fn not_empty(bytes: Bytes) -> Option<Bytes> {
    (!bytes.is_empty()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_pages() {
        assert_eq!(
            next_page("</v2/a/referrers/sha256:00?n=2>; rel=\"next\""),
            Some("/v2/a/referrers/sha256:00?n=2".into())
        );
        for none in
            ["", "<https://evil.example.com/v2/>; rel=\"next\"", "</v2/a>; rel=\"prev\"", "</x>; rel=next"]
        {
            assert_eq!(next_page(none), None, "{none}");
        }
    }
}
