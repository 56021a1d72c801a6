//! Into a registry: blobs and manifests (OCI Distribution Specification, "Push").
//!
//! A blob goes in one PUT, which is what every registry is quickest at. A connection that breaks
//! goes on at the byte that the registry has, where it can say which that is (distribution cannot:
//! there the blob begins anew). A proxy that takes no large bodies gets smaller and smaller parts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use reqwest::{Method, Url};

use super::http::{Access, Answer, Ask, Failure, Host, redirect_error};
use super::payload::{BlobFile, Moved, Part, Payload};
use super::{ACCEPT_MANIFESTS, Place, Registry, html};
use crate::fsio::limits;
use crate::model::digest::DigestError;
use crate::model::{BlobEntry, Digest, ImageRef, SiteRegistry};
use crate::oci::error::{OciError, Result, readable};
use crate::oci::manifest::{Claim, RawManifest};
use crate::oci::registries_conf::is_loopback;

/// Sizes of parts for whoever finds the whole too large (413), in the order in which they are tried.
const PARTS: [u64; 3] = [64 << 20, 8 << 20, 1 << 20];

/// Attempts at the first question: one that never answered is not waited for as one that stopped.
const FIRST: u32 = 3;

/// A registry that is pushed to.
#[derive(Clone)]
pub struct Target {
    registry: Arc<Registry>,
    host: Arc<Host>,
}

/// An upload that a registry has begun.
#[derive(Debug, Clone)]
pub struct Session {
    url: Url,
    /// The next byte that it wants; none when that is to be asked for.
    offset: Option<u64>,
}

/// One step towards a blob in its place.
enum Step {
    Done,
    /// The upload is gone: begin anew.
    Lost(Failure),
    Failed(Failure),
}

impl Target {
    /// The registry `site`. What `registries.conf` says about it counts, but for mirrors and
    /// locations, which are for reading.
    ///
    /// # Errors
    ///
    /// When it is blocked there.
    pub fn new(registry: &Arc<Registry>, site: &SiteRegistry) -> Result<Self> {
        let sample: Option<ImageRef> = format!("{}/{}", site.host(), site.path_of("x")).parse().ok();
        let spec = match &sample {
            Some(sample) => registry.registries.places(sample)?.pop(),
            None => None,
        };
        let insecure = spec.and_then(|spec| spec.insecure).unwrap_or_else(|| is_loopback(site.host()));
        let host = registry.transport.host(site.host(), insecure);
        Ok(Self { registry: Arc::clone(registry), host })
    }

    /// Where it answers: `https://HOST[:PORT]`, or the same with `http`.
    ///
    /// # Errors
    ///
    /// When nobody answers.
    pub async fn url(&self) -> Result<String> {
        let what = "the registry of the site";
        let base = self
            .registry
            .transport
            .retrying(&self.host, self.attempts().min(FIRST), || {
                self.registry.transport.base(&self.host, what)
            })
            .await?;
        Ok(format!("{}://{}", base.scheme(), self.host.name))
    }

    fn place(&self, repository: &str) -> Place {
        Place {
            host: Arc::clone(&self.host),
            repository: repository.to_owned(),
            label: format!("`{}/{repository}`", self.host.name),
        }
    }

    fn attempts(&self) -> u32 {
        self.registry.transport.policy.attempts.max(1)
    }

    fn ask<'a>(place: &'a Place, method: Method, path: &'a str, what: &'a str) -> Ask<'a> {
        let access = Access::Push { from: None };
        Ask { method, access, ..Registry::ask(place, path, None, what) }
    }

    /// Asks, and takes the statuses of `good`, or 404.
    async fn send(&self, ask: &Ask<'_>, place: &Place, good: &[u16]) -> std::result::Result<Answer, Failure> {
        let transport = &self.registry.transport;
        let answer = transport.send(ask).await?;
        let status = answer.status().as_u16();
        if good.contains(&status) && !answer.is_html() {
            return Ok(answer);
        }
        if good.contains(&status) {
            return Err(html(&answer, ask.what, "what a registry answers").into());
        }
        let mut failure = answer.failure(ask, transport, &place.label).await;
        if let OciError::NotFound { what, places } = failure.error {
            // Nobody looks for anything here: the registry does not know the repository, or the upload.
            let host = self.host.name.clone();
            failure.error = OciError::Status { host, what, status: 404, said: places.join("; ") };
        }
        Err(failure)
    }

    /// Whether `blob` is in `repository`.
    ///
    /// # Errors
    ///
    /// When the registry does not say, or has another size for it.
    pub async fn has_blob(&self, repository: &str, blob: &BlobEntry) -> Result<bool> {
        let place = self.place(repository);
        let what = format!("blob `{}` in `{repository}`", blob.digest);
        let path = format!("blobs/{}", blob.digest);
        let (place, what, path) = (&place, what.as_str(), path.as_str());
        let once = || async move {
            let ask = Self::ask(place, Method::HEAD, path, what);
            let answer = self.send(&ask, place, &[200, 404]).await?;
            if answer.status().as_u16() == 404 {
                return Ok(false);
            }
            match answer.length() {
                Some(length) if length != blob.size => Err(OciError::WrongLength {
                    what: what.to_owned(),
                    from: format!("`{}`", answer.from),
                    got: format!("has {length} bytes"),
                    wanted: blob.size,
                }
                .into()),
                _ => Ok::<_, Failure>(true),
            }
        };
        self.registry.transport.retrying(&self.host, self.attempts(), once).await
    }

    /// The digest of the manifest that `reference` (a tag, or a digest) names in `repository`.
    ///
    /// # Errors
    ///
    /// When the registry does not say.
    pub async fn digest_of(&self, repository: &str, reference: &str) -> Result<Option<Digest>> {
        let place = self.place(repository);
        let what = format!("`{reference}` of `{repository}`");
        let path = format!("manifests/{reference}");
        let (place, what, path) = (&place, what.as_str(), path.as_str());
        let once = || async move {
            let ask = Ask { accept: Some(ACCEPT_MANIFESTS), ..Self::ask(place, Method::HEAD, path, what) };
            let answer = self.send(&ask, place, &[200, 404]).await?;
            if answer.status().as_u16() == 404 {
                return Ok(Some(None));
            }
            Ok::<_, Failure>(stated(&answer, what)?.map(Some))
        };
        let said = self.registry.transport.retrying(&self.host, self.attempts(), once).await?;
        match said {
            Some(digest) => Ok(digest),
            // Some leave the header out: then the bytes say it.
            None => Ok(self.manifest(repository, reference).await?.map(|manifest| manifest.digest)),
        }
    }

    /// The manifest that `reference` names in `repository`, if there is one.
    ///
    /// # Errors
    ///
    /// When the registry does not say, or what comes is no manifest.
    pub async fn manifest(&self, repository: &str, reference: &str) -> Result<Option<RawManifest>> {
        let place = self.place(repository);
        let what = format!("`{reference}` of `{repository}`");
        let path = format!("manifests/{reference}");
        let (place, what, path) = (&place, what.as_str(), path.as_str());
        let once = || async move {
            let ask = Ask { accept: Some(ACCEPT_MANIFESTS), ..Self::ask(place, Method::GET, path, what) };
            let mut answer = self.send(&ask, place, &[200, 404]).await?;
            if answer.status().as_u16() == 404 {
                return Ok(None);
            }
            let policy = &self.registry.transport.policy;
            let bytes = answer.small(what, limits::MANIFEST, policy).await?;
            let claim = Claim {
                what,
                from: &place.label,
                media_type: answer.header("content-type"),
                pinned: reference.parse().ok(),
                promised: stated(&answer, what)?,
            };
            Ok::<_, Failure>(Some(RawManifest::check(bytes, &claim)?))
        };
        self.registry.transport.retrying(&self.host, self.attempts(), once).await
    }

    /// Whether the registry has the referrers API for `repository`: it lists by itself what refers
    /// to a manifest.
    ///
    /// # Errors
    ///
    /// When the registry does not say.
    pub async fn lists_referrers(&self, repository: &str, subject: Digest) -> Result<bool> {
        let place = self.place(repository);
        let what = format!("what refers to `{subject}` in `{repository}`");
        Ok(self.registry.api_at(&place, subject, &what, self.attempts()).await?.is_some())
    }

    /// Asks for `blob` to be taken over from the repository `from` of the same registry. None: it
    /// is there now. Otherwise the registry began an upload instead, which it says of repositories
    /// that have no such blob as well.
    ///
    /// # Errors
    ///
    /// When it does neither.
    pub async fn mount(&self, repository: &str, blob: &BlobEntry, from: &str) -> Result<Option<Session>> {
        let place = self.place(repository);
        let what = format!("blob `{}` of `{from}` for `{repository}`", blob.digest);
        let path = format!("blobs/uploads/?mount={}&from={from}", blob.digest);
        let (place, what, path) = (&place, what.as_str(), path.as_str());
        let once = || async move {
            let payload = Payload::empty();
            let access = Access::Push { from: Some(from) };
            let ask = Ask { access, payload: Some(&payload), ..Self::ask(place, Method::POST, path, what) };
            match self.send(&ask, place, &[201, 202]).await {
                Ok(answer) if answer.status().as_u16() == 201 => Ok(None),
                Ok(answer) => self.session(&answer, what, Some(0)).await.map(Some),
                Err(failure) => Err(failure),
            }
        };
        match self.registry.transport.retrying(&self.host, self.attempts(), once).await {
            // Who may write here may not be allowed to read there; some know no mounting at all.
            Err(OciError::Credentials { .. } | OciError::Status { status: 400 | 404 | 405, .. }) => {
                self.begin(place, what).await.map(Some)
            }
            done => done,
        }
    }

    async fn begin(&self, place: &Place, what: &str) -> Result<Session> {
        let once = || self.begin_once(place, what);
        self.registry.transport.retrying(&self.host, self.attempts(), once).await
    }

    async fn begin_once(&self, place: &Place, what: &str) -> std::result::Result<Session, Failure> {
        let payload = Payload::empty();
        let ask = Ask { payload: Some(&payload), ..Self::ask(place, Method::POST, "blobs/uploads/", what) };
        let answer = self.send(&ask, place, &[202]).await?;
        self.session(&answer, what, Some(0)).await
    }

    /// Where an upload goes on, as an answer says it.
    async fn session(
        &self,
        answer: &Answer,
        what: &str,
        offset: Option<u64>,
    ) -> std::result::Result<Session, Failure> {
        let base = self.registry.transport.base(&self.host, what).await?;
        let protocol =
            |why: String| OciError::Protocol { host: answer.from.clone(), what: what.to_owned(), why };
        let location = answer.header("location").unwrap_or_default();
        if location.is_empty() {
            return Err(protocol("it says not where the upload goes on (`Location`)".to_owned()).into());
        }
        let mut url = base
            .join(location)
            .map_err(|error| protocol(format!("Location `{}` is no address: {error}", readable(location))))?;
        if url.scheme() == "http" && base.scheme() == "https" && url.host() == base.host() {
            // A registry that does not know that TLS is spoken before it.
            let port = base.port();
            if url.set_scheme("https").is_err() || url.set_port(port).is_err() {
                return Err(protocol(format!("Location `{}`", readable(location))).into());
            }
        }
        match url.scheme() {
            "https" => {}
            "http" if base.scheme() == "http" || self.host.insecure => {}
            "http" => return Err(redirect_error(&self.host, what, &url, "from TLS to plain HTTP").into()),
            _ => return Err(redirect_error(&self.host, what, &url, "neither HTTP nor HTTPS").into()),
        }
        Ok(Session { url, offset })
    }

    /// Brings `blob` into `repository`. `session` is an upload that the registry has begun for it.
    /// `moved` hears how far the registry was sent, which goes back where it has to begin anew.
    ///
    /// # Errors
    ///
    /// When the registry does not take it, or the file cannot be read.
    pub async fn upload(
        &self,
        repository: &str,
        blob: &BlobEntry,
        file: &BlobFile,
        session: Option<Session>,
        moved: &Moved,
    ) -> Result<()> {
        let what = format!("blob `{}` for `{repository}`", blob.digest);
        let upload = Upload {
            target: self,
            place: &self.place(repository),
            what: &what,
            blob,
            file,
            moved,
            confirmed: AtomicU64::new(0),
        };
        upload.run(session).await
    }

    /// Puts a manifest under `reference`: its digest, or a tag.
    ///
    /// # Errors
    ///
    /// When the registry does not take it, or takes it as something else.
    pub async fn put_manifest(
        &self,
        repository: &str,
        reference: &str,
        manifest: &RawManifest,
    ) -> Result<()> {
        let place = self.place(repository);
        let what = format!("manifest `{reference}` for `{repository}`");
        let path = format!("manifests/{reference}");
        let payload = Payload::Small(Some(manifest.media_type.clone()), manifest.bytes.clone());
        let (place, what, path, payload) = (&place, what.as_str(), path.as_str(), &payload);
        let once = || async move {
            let ask = Ask { payload: Some(payload), ..Self::ask(place, Method::PUT, path, what) };
            let answer = self.send(&ask, place, &[200, 201, 202]).await?;
            match stated(&answer, what)? {
                Some(got) if got != manifest.digest => Err(OciError::WrongDigest {
                    what: what.to_owned(),
                    from: format!("`{}`", answer.from),
                    got,
                    wanted: manifest.digest,
                }
                .into()),
                _ => Ok::<_, Failure>(()),
            }
        };
        self.registry.transport.retrying(&self.host, self.attempts(), once).await
    }
}

/// The digest that an answer names, where it does.
fn stated(answer: &Answer, what: &str) -> Result<Option<Digest>> {
    match answer.header("docker-content-digest").map(str::parse::<Digest>) {
        None | Some(Err(DigestError::Algorithm { .. })) => Ok(None),
        Some(Ok(digest)) => Ok(Some(digest)),
        Some(Err(error)) => Err(OciError::Protocol {
            host: answer.from.clone(),
            what: what.to_owned(),
            why: format!("Docker-Content-Digest: {error}"),
        }),
    }
}

/// One blob on its way.
struct Upload<'a> {
    target: &'a Target,
    place: &'a Place,
    what: &'a str,
    blob: &'a BlobEntry,
    file: &'a BlobFile,
    moved: &'a Moved,
    /// Bytes that the registry said it has.
    confirmed: AtomicU64,
}

impl Upload<'_> {
    async fn run(&self, mut session: Option<Session>) -> Result<()> {
        let transport = &self.target.registry.transport;
        let (mut attempt, mut best) = (1, 0);
        let mut parts = None;
        loop {
            let failure = match self.advance(&mut session, parts).await {
                Ok(Step::Done) => return Ok(()),
                Ok(Step::Lost(failure)) => {
                    session = None;
                    failure
                }
                Ok(Step::Failed(failure)) | Err(failure) => failure,
            };
            if matches!(failure.error, OciError::Status { status: 413, .. }) {
                let next = PARTS.iter().find(|part| **part < parts.unwrap_or(self.blob.size));
                if let Some(next) = next {
                    transport
                        .progress
                        .note(format!("{}; sending it in parts of {next} bytes", failure.error));
                    (parts, session) = (Some(*next), None);
                    continue;
                }
            }
            // What counts as getting on is what the registry has, not what was sent to it.
            let confirmed = self.confirmed.load(Ordering::Relaxed);
            if confirmed > best {
                (attempt, best) = (1, confirmed);
            }
            if !transport.wait(&failure, attempt, self.target.attempts()).await {
                return Err(failure.error);
            }
            attempt += 1;
            if let Some(session) = &mut session {
                session.offset = None;
            }
            // The answer may be all that was lost.
            if self.target.has_blob(&self.place.repository, self.blob).await? {
                return Ok(());
            }
        }
    }

    /// From what there is of the upload to its end.
    async fn advance(
        &self,
        session: &mut Option<Session>,
        parts: Option<u64>,
    ) -> std::result::Result<Step, Failure> {
        let mut at = match session {
            Some(session) => session.clone(),
            None => self.target.begin_once(self.place, self.what).await?,
        };
        *session = Some(Session { url: at.url.clone(), offset: None });
        let known = match at.offset {
            Some(offset) => Some(offset),
            None => self.where_it_stands(&mut at).await?,
        };
        let mut offset = if let Some(offset) = known.filter(|offset| *offset <= self.blob.size) {
            offset
        } else {
            at = self.target.begin_once(self.place, self.what).await?;
            0
        };
        self.confirmed.fetch_max(offset, Ordering::Relaxed);
        *session = Some(Session { url: at.url.clone(), offset: None });
        if offset == 0 && parts.is_none() {
            return self.finish(&at, 0).await;
        }
        while offset < self.blob.size {
            let end = parts.map_or(self.blob.size, |part| self.blob.size.min(offset + part));
            let part = Part::new(self.file, offset..end, true, self.moved);
            let payload = Payload::Part(part.clone());
            let ask = self.ask(Method::PATCH, &at.url, Some(&payload));
            let answer = match self.target.send(&ask, self.place, &[201, 202, 204]).await {
                Ok(answer) => answer,
                Err(failure) => return Ok(self.judge(failure, &part)),
            };
            at = self.target.session(&answer, self.what, Some(end)).await?;
            *session = Some(Session { url: at.url.clone(), offset: None });
            self.confirmed.fetch_max(end, Ordering::Relaxed);
            offset = end;
        }
        self.finish(&at, self.blob.size).await
    }

    fn ask<'a>(&'a self, method: Method, url: &'a Url, payload: Option<&'a Payload>) -> Ask<'a> {
        Ask { url: Some(url), payload, ..Target::ask(self.place, method, "blobs/uploads/", self.what) }
    }

    /// The next byte that the registry wants; none when it no longer knows of the upload.
    async fn where_it_stands(&self, session: &mut Session) -> std::result::Result<Option<u64>, Failure> {
        let url = session.url.clone();
        let ask = self.ask(Method::GET, &url, None);
        let answer = match self.target.send(&ask, self.place, &[200, 202, 204]).await {
            Ok(answer) => answer,
            Err(Failure { error: OciError::Status { status: 400..=428, .. }, .. }) => return Ok(None),
            Err(failure) => return Err(failure),
        };
        // `0-0` is how distribution writes that there is nothing yet.
        let range = answer.header("range").unwrap_or("0-0");
        let range = range.strip_prefix("bytes=").unwrap_or(range);
        let last = range.strip_prefix("0-").and_then(|last| last.trim().parse::<u64>().ok());
        let Some(next) = last.map(|last| if last == 0 { 0 } else { last.saturating_add(1) }) else {
            return Ok(None);
        };
        if answer.header("location").is_some() {
            *session = self.target.session(&answer, self.what, Some(next)).await?;
        }
        Ok(Some(next))
    }

    /// Sends what is missing from `from` on, and closes the upload.
    async fn finish(&self, session: &Session, from: u64) -> std::result::Result<Step, Failure> {
        let mut url = session.url.clone();
        url.query_pairs_mut().append_pair("digest", &self.blob.digest.to_string());
        let part = Part::new(self.file, from..self.blob.size, false, self.moved);
        let payload = if from < self.blob.size {
            Payload::Part(part.clone())
        } else {
            Payload::Small(None, Bytes::new())
        };
        let ask = self.ask(Method::PUT, &url, Some(&payload));
        let answer = match self.target.send(&ask, self.place, &[201, 204]).await {
            Ok(answer) => answer,
            Err(failure) => return Ok(self.judge(failure, &part)),
        };
        match stated(&answer, self.what)? {
            Some(got) if got != self.blob.digest => Err(OciError::WrongDigest {
                what: self.what.to_owned(),
                from: format!("`{}`", answer.from),
                got,
                wanted: self.blob.digest,
            }
            .into()),
            _ => Ok(Step::Done),
        }
    }

    /// What a failed request for a part means for the upload.
    fn judge(&self, mut failure: Failure, part: &Part) -> Step {
        if let Some(source) = part.failure() {
            return Step::Failed(OciError::Io { path: self.file.path.clone(), source }.into());
        }
        // Another upload may go better than one that is gone or out of step.
        if matches!(failure.error, OciError::Status { status: 404 | 409 | 416, .. }) {
            failure.transient = true;
            return Step::Lost(failure);
        }
        Step::Failed(failure)
    }
}
