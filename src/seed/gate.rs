//! The gate: asks the endpoint that the nodes will use for everything that a release needs, before
//! the cluster is touched. What the store holds proves nothing about what a node will get.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{StatusCode, header};

use super::OWN_USER;
use crate::model::{
    Digest, ErrorClass, Event, GitOid, GitRef, Progress, RefName, ReleaseDocument, chain, media_type,
};
use crate::store::Store;

/// Questions at a time.
const PARALLEL: usize = 16;
/// How long one answer may take: the endpoint is near.
const ANSWER: Duration = Duration::from_secs(20);
/// The longest advertisement of references that is read.
const ADVERTISEMENT: usize = 4 << 20;
/// Missing things that are named; more are counted.
const NAMED: usize = 10;

/// Why the gate is shut.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The endpoint is no URL that can be asked.
    #[error("the endpoint `{endpoint}` cannot be asked: {why}")]
    Endpoint {
        /// The endpoint.
        endpoint: String,
        /// Why not.
        why: String,
    },
    /// Nobody answers.
    #[error("nothing answers at the endpoint `{endpoint}`")]
    Silent {
        /// The endpoint.
        endpoint: String,
        /// The store that should be served there.
        store: PathBuf,
        /// The cause.
        source: reqwest::Error,
    },
    /// It answers, but not with all of the release.
    #[error("the endpoint `{endpoint}` lacks {} of the release: {}", missing.len(), listing(missing))]
    Missing {
        /// The endpoint.
        endpoint: String,
        /// What it lacks, and what it answered.
        missing: Vec<String>,
        /// The store that should be served there.
        store: PathBuf,
    },
}

fn listing(missing: &[String]) -> String {
    let mut text = missing.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    if missing.len() > NAMED {
        text = format!("{text}; and {} more", missing.len() - NAMED);
    }
    text
}

impl GateError {
    /// How the error ends the process.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Endpoint { .. } => ErrorClass::Usage,
            Self::Silent { .. } | Self::Missing { .. } => ErrorClass::Incomplete,
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let line = |store: &Path| format!("fleetpack serve --store {}", store.display());
        Some(match self {
            Self::Endpoint { .. } => "give a URL such as `http://127.0.0.1:5050`".to_owned(),
            Self::Silent { store, .. } => {
                format!("start it, and keep it running: `{}`; then run the same command again", line(store))
            }
            Self::Missing { store, .. } => {
                format!(
                    "another server or store may answer there; the one that is wanted starts with `{}`",
                    line(store)
                )
            }
        })
    }
}

/// One thing that a node may ask for.
struct Question {
    url: String,
    /// How it is called in a message.
    what: String,
    /// The digest that the answer must name; none for Git.
    digest: Option<Digest>,
    size: u64,
}

/// What the endpoint is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gated {
    /// Images and Git.
    All,
    /// Git alone: images are had from elsewhere.
    Git,
}

/// Asks for every manifest and blob of the release, under the very names that a runtime uses, and
/// for its branch. `store` is named in the advice when nobody answers.
///
/// # Errors
///
/// When nobody answers, or something is missing: all of it is told.
pub async fn gate(
    endpoint: &str,
    store: &Path,
    document: &ReleaseDocument,
    gated: Gated,
    progress: &dyn Progress,
) -> Result<(), GateError> {
    let bad = |why: String| GateError::Endpoint { endpoint: endpoint.to_owned(), why };
    let url: reqwest::Url =
        endpoint.parse().map_err(|error: url_error::ParseError| bad(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad(format!("its scheme is `{}`, wanted `http` or `https`", url.scheme())));
    }
    let client = client(endpoint, store, url.scheme() == "https").map_err(bad)?;
    let silent =
        |source| GateError::Silent { endpoint: endpoint.to_owned(), store: store.to_owned(), source };
    client.get(format!("{endpoint}/v2/")).send().await.map_err(silent)?;

    let questions = if gated == Gated::All { questions(endpoint, document) } else { Vec::new() };
    progress.event(Event::Start { title: format!("asking {endpoint} for everything"), bytes: None });
    let count = questions.len();
    let answers = futures_util::stream::iter(questions.into_iter().map(|question| {
        let client = &client;
        async move { ask(client, &question).await.err().map(|why| format!("{}: {why}", question.what)) }
    }))
    .buffered(PARALLEL);
    let mut missing: Vec<String> = answers.filter_map(|answer| async { answer }).collect().await;
    if let Err(why) = ask_git(&client, endpoint, document.name.as_str(), &document.git.refs).await {
        missing.push(format!("commit {}: {why}", document.git.commit));
    }
    for submodule in &document.git.submodules {
        let name = format!("{}/{}", document.name, submodule.name);
        if let Err(why) = ask_git(&client, endpoint, &name, &submodule.refs).await {
            missing.push(format!("submodule `{}`: {why}", submodule.name));
        }
    }
    if !missing.is_empty() {
        return Err(GateError::Missing { endpoint: endpoint.to_owned(), missing, store: store.to_owned() });
    }
    progress.event(Event::Finish {
        summary: match gated {
            Gated::All => format!("{endpoint} has all {count} manifests and blobs, and the commit"),
            Gated::Git => format!("{endpoint} has the commit"),
        },
    });
    Ok(())
}

/// Every manifest and blob, each under a repository that leads to it.
fn questions(endpoint: &str, document: &ReleaseDocument) -> Vec<Question> {
    // Blobs are asked for under any repository: the server keeps one set for all. Manifests are
    // asked for under the first image's name as well; what names them is the digest.
    let first = document.images.first().map(|image| image.reference.name());
    let any = first.unwrap_or_else(|| document.rendered_name().0);
    let mut questions: Vec<Question> = document
        .blobs
        .iter()
        .map(|blob| {
            let is_manifest =
                media_type::is_manifest(&blob.media_type) || media_type::is_index(&blob.media_type);
            let kind = if is_manifest { "manifests" } else { "blobs" };
            Question {
                url: format!("{endpoint}/v2/{any}/{kind}/{}", blob.digest),
                what: format!("{} {}", &kind[..kind.len() - 1], blob.digest),
                digest: Some(blob.digest),
                size: blob.size,
            }
        })
        .collect();
    for image in &document.images {
        let size = document.blob(image.digest).map_or(0, |blob| blob.size);
        questions.push(Question {
            url: format!("{endpoint}/v2/{}/manifests/{}", image.reference.name(), image.digest),
            what: format!("image {}", image.reference),
            digest: Some(image.digest),
            size,
        });
    }
    questions
}

/// A client that trusts the site's own authority beside those of this machine, and that the server of
/// this very store lets in. `store` need not be there.
fn client(endpoint: &str, store: &Path, tls: bool) -> Result<reqwest::Client, String> {
    // No proxy: the endpoint is on this site, and what the environment names is not.
    let mut builder =
        reqwest::Client::builder().no_proxy().timeout(ANSWER).redirect(reqwest::redirect::Policy::none());
    if let Ok(store) = Store::open_read_only(store) {
        if tls && let Some(authority) = store.authority().map_err(|error| chain(&error))? {
            let certificates = reqwest::Certificate::from_pem_bundle(&authority);
            builder = builder.tls_certs_merge(certificates.map_err(|error| chain(&error))?);
        }
        // The secret is for the server that made it, and for nobody else.
        let own = store.endpoint().ok().flatten().is_some_and(|own| own.url == endpoint);
        if own && let Some(secret) = store.secret().map_err(|error| chain(&error))? {
            let login = STANDARD.encode(format!("{OWN_USER}:{secret}"));
            let mut value = header::HeaderValue::from_str(&format!("Basic {login}"))
                .map_err(|_| "the secret of the store is damaged".to_owned())?;
            value.set_sensitive(true);
            builder = builder.default_headers([(header::AUTHORIZATION, value)].into_iter().collect());
        }
    }
    builder.build().map_err(|error| chain(&error))
}

async fn ask(client: &reqwest::Client, question: &Question) -> Result<(), String> {
    let accept = [
        media_type::OCI_INDEX,
        media_type::OCI_MANIFEST,
        media_type::DOCKER_LIST,
        media_type::DOCKER_MANIFEST,
        "*/*",
    ];
    let answer = client
        .head(&question.url)
        .header(header::ACCEPT, accept.join(", "))
        .send()
        .await
        .map_err(|error| error.to_string())?;
    if answer.status() != StatusCode::OK {
        return Err(format!("answered {}", answer.status()));
    }
    let text = |name: &str| {
        answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("nothing").to_owned()
    };
    if let Some(digest) = question.digest
        && text("docker-content-digest") != digest.to_string()
    {
        return Err(format!("answered digest `{}`", text("docker-content-digest")));
    }
    if text("content-length") != question.size.to_string() {
        return Err(format!("answered {} bytes, wanted {}", text("content-length"), question.size));
    }
    Ok(())
}

/// The branch of the release must lead to its commit: the smart protocol's first answer lists both.
async fn ask_git(
    client: &reqwest::Client,
    endpoint: &str,
    name: &str,
    refs: &[GitRef],
) -> Result<(), String> {
    let url = format!("{endpoint}/git/{name}.git/info/refs?service=git-upload-pack");
    let answer = client.get(url).send().await.map_err(|error| error.to_string())?;
    if answer.status() != StatusCode::OK {
        return Err(format!("Git answered {}", answer.status()));
    }
    let mut stream = answer.bytes_stream();
    let mut body: Vec<u8> = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk: Bytes = chunk.map_err(|error| error.to_string())?;
        if body.len() + chunk.len() > ADVERTISEMENT {
            return Err(format!("its list of references is longer than {ADVERTISEMENT} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    let lacking = refs.iter().find(|reference| !lists(&body, &reference.target, &reference.name));
    match lacking {
        Some(reference) => Err(format!("`{}` does not lead to `{}` there", reference.name, reference.target)),
        None => Ok(()),
    }
}

/// Whether a list of references (gitprotocol-pack, "Reference Discovery") leads from `name` to
/// `target`. A line ends with the name, or with what the server can do behind a zero byte, so that
/// `refs/heads/main` is not found in `refs/heads/main-2`.
fn lists(list: &[u8], target: &GitOid, name: &RefName) -> bool {
    let line = format!("{target} {name}");
    list.windows(line.len() + 1)
        .any(|window| window.strip_prefix(line.as_bytes()).is_some_and(|end| matches!(end, b"\n" | b"\0")))
}

/// The error of a URL that cannot be parsed, as reqwest re-exports none.
mod url_error {
    pub(super) type ParseError = <reqwest::Url as std::str::FromStr>::Err;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_cut() {
        let missing: Vec<String> = (0..12).map(|number| format!("blob {number}")).collect();
        let text = listing(&missing);
        assert!(text.ends_with("blob 9; and 2 more"), "{text}");
    }

    #[test]
    fn a_reference_is_found_by_its_whole_name_alone() {
        let one = "1".repeat(40);
        let list = format!(
            "001e# service=git-upload-pack\n00000000{one} HEAD\0agent=x\n003d{one} refs/heads/main-2\n\
             003f{one} refs/heads/first\0agent=x\n0000"
        );
        let found = |name: &str| lists(list.as_bytes(), &one.parse().unwrap(), &name.parse().unwrap());
        assert!(found("refs/heads/main-2") && found("refs/heads/first"));
        assert!(!found("refs/heads/main") && !found("refs/heads/fir"));
        assert!(!lists(
            list.as_bytes(),
            &"2".repeat(40).parse().unwrap(),
            &"refs/heads/first".parse().unwrap()
        ));
        assert!(!lists(b"", &one.parse().unwrap(), &"refs/heads/first".parse().unwrap()));
    }
}
