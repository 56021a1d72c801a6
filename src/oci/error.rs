//! What can go wrong between this program and an image.

use std::io;
use std::path::PathBuf;

use crate::model::{Digest, ErrorClass, Platform};

/// The result of this room's functions.
pub type Result<T, E = OciError> = std::result::Result<T, E>;

/// Why an image, or a part of it, was not had.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// A configuration or credentials file says something that makes no sense.
    #[error("`{}`: {why}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file could not be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The registries configuration forbids the image.
    #[error("`{image}` is blocked: the registries configuration has `blocked = true` for `{prefix}`")]
    Blocked {
        /// The image.
        image: String,
        /// The entry that blocks it.
        prefix: String,
    },
    /// No place has it.
    #[error("{what} was not found: {}", places.join("; "))]
    NotFound {
        /// What was asked for.
        what: String,
        /// What each place said.
        places: Vec<String>,
    },
    /// A registry wants other credentials than there are.
    #[error(
        "`{host}` refused {what}: {said}; credentials for `{host}/{repository}` were looked for in {}",
        if looked.is_empty() { "no file (none was given)".to_owned() } else { looked.join(", ") }
    )]
    Credentials {
        /// The registry.
        host: String,
        /// The repository there.
        repository: String,
        /// What was asked for.
        what: String,
        /// Status and words of the answer.
        said: String,
        /// Where credentials were looked for, and what was found.
        looked: Vec<String>,
    },
    /// No answer came: no connection, a broken one, or a silent one.
    #[error("no answer from `{host}` for {what}: {why}")]
    Unreachable {
        /// The registry or the host it led to.
        host: String,
        /// What was asked for.
        what: String,
        /// The cause, innermost last.
        why: String,
    },
    /// The connection moved too little for too long.
    #[error("`{host}` stalled while sending {what}: {got} bytes in {seconds:.1} s, wanted at least {floor}")]
    Stalled {
        /// The host.
        host: String,
        /// What was asked for.
        what: String,
        /// Bytes that came.
        got: u64,
        /// The time that was waited.
        seconds: f64,
        /// Bytes that should have come in it.
        floor: u64,
    },
    /// The registry answered with an error.
    #[error("`{host}` answered {what} with {said}")]
    Status {
        /// The host.
        host: String,
        /// What was asked for.
        what: String,
        /// The status code.
        status: u16,
        /// Status and words of the answer.
        said: String,
    },
    /// A web page stands where a registry should.
    #[error("`{host}` answered {what} with an HTML page (status {status}), wanted {wanted}")]
    Html {
        /// The host.
        host: String,
        /// What was asked for.
        what: String,
        /// The status code.
        status: u16,
        /// What was wanted.
        wanted: &'static str,
    },
    /// An answer breaks the distribution protocol.
    #[error("`{host}` answered {what} against the protocol: {why}")]
    Protocol {
        /// The host.
        host: String,
        /// What was asked for.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// A redirect leads where this program does not follow.
    #[error("`{host}` redirected {what} to `{target}`: {why}")]
    Redirect {
        /// The host that redirects.
        host: String,
        /// What was asked for.
        what: String,
        /// Scheme and host of the target.
        target: String,
        /// Why it is not followed.
        why: &'static str,
    },
    /// The bytes are not those that were asked for.
    #[error("{what} from {from} has digest `{got}`, wanted `{wanted}`")]
    WrongDigest {
        /// What was asked for.
        what: String,
        /// Where the bytes came from.
        from: String,
        /// Digest of the bytes.
        got: Digest,
        /// Digest that was pinned or promised.
        wanted: Digest,
    },
    /// There are more or fewer bytes than the descriptor says.
    #[error("{what} from {from} {got}, wanted {wanted} bytes")]
    WrongLength {
        /// What was asked for.
        what: String,
        /// Where the bytes came from.
        from: String,
        /// What was found: `has 10 bytes`, `goes on after 10 bytes`.
        got: String,
        /// Bytes that the descriptor states.
        wanted: u64,
    },
    /// An answer goes on past its bound.
    #[error("{what} from {from} is larger than {limit} bytes")]
    TooLarge {
        /// What was asked for.
        what: String,
        /// Where it came from.
        from: String,
        /// The bound.
        limit: u64,
    },
    /// A manifest is not one that this program carries.
    #[error("{what} from {from}: {why}")]
    Manifest {
        /// What was asked for.
        what: String,
        /// Where it came from.
        from: String,
        /// What was found and what was wanted.
        why: String,
    },
    /// A manifest of the first schema, which has no stable digests.
    #[error("{what} from {from} is a Docker schema 1 manifest (`{media_type}`), wanted schema 2 or OCI")]
    Schema1 {
        /// What was asked for.
        what: String,
        /// Where it came from.
        from: String,
        /// Its media type.
        media_type: String,
    },
    /// The image does not run on a platform that was asked for.
    #[error(
        "`{image}` has no platform `{wanted}`, it has {}",
        if has.is_empty() { "none".to_owned() } else { has.iter().map(|p| format!("`{p}`")).collect::<Vec<_>>().join(", ") }
    )]
    Platform {
        /// The image.
        image: String,
        /// The platform that was asked for.
        wanted: Platform,
        /// Those that the image has.
        has: Vec<Platform>,
    },
    /// A layer that the registry does not hold, but leads elsewhere for.
    #[error(
        "`{image}` has the non-distributable layer `{digest}` ({media_type}), and its registry does not hold it; its manifest names {}",
        if urls.is_empty() { "no other place".to_owned() } else { urls.join(", ") }
    )]
    Foreign {
        /// The image.
        image: String,
        /// The layer.
        digest: Digest,
        /// Its media type.
        media_type: String,
        /// Where the manifest says it is.
        urls: Vec<String>,
    },
    /// A layout or archive is not one, or is broken.
    #[error("`{}`: {why}", path.display())]
    Layout {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A name in a layout means two images.
    #[error("`{}` names `{image}` more than once: {}", path.display(), digests.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Ambiguous {
        /// The folder or file.
        path: PathBuf,
        /// The image.
        image: String,
        /// What the name leads to.
        digests: Vec<Digest>,
    },
    /// No place worked, each for a reason of its own.
    #[error("{what} could not be had: {}", failures.iter().map(|(place, error)| format!("{place}: {error}")).collect::<Vec<_>>().join("; "))]
    Places {
        /// What was asked for.
        what: String,
        /// Each place with its error, in the order in which they were tried.
        failures: Vec<(String, OciError)>,
    },
    /// The bytes could not be handed on.
    #[error("cannot write {what}: {source}")]
    Write {
        /// What was being written.
        what: String,
        /// The cause.
        source: io::Error,
    },
}

impl OciError {
    /// How the error ends the process.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound { .. } | Self::Platform { .. } | Self::Foreign { .. } => ErrorClass::Incomplete,
            Self::Places { failures, .. }
                if failures.iter().all(|(_, e)| e.class() == ErrorClass::Incomplete) =>
            {
                ErrorClass::Incomplete
            }
            Self::WrongDigest { .. } => ErrorClass::Refused,
            _ => ErrorClass::Failed,
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Credentials { host, .. } => Some(format!(
                "log in with `skopeo login {host}` or `docker login {host}`; many registries give this answer for an image that does not exist, too"
            )),
            Self::Blocked { prefix, .. } => {
                Some(format!("remove `blocked` from `{prefix}` in registries.conf, or use another image"))
            }
            Self::NotFound { .. } => Some("check the reference, and that the image was pushed".to_owned()),
            Self::Html { .. } => Some(
                "a proxy, a login page or a web server answers there: check the address and the proxy settings"
                    .to_owned(),
            ),
            Self::Unreachable { host, .. } => Some(format!(
                "check that `{host}` can be reached; a registry without TLS wants `insecure = true` in registries.conf"
            )),
            Self::Schema1 { .. } => Some(
                "build and push the image anew, or convert it: `skopeo copy --format v2s2 docker://… docker://…`"
                    .to_owned(),
            ),
            Self::TooLarge { .. } => Some(
                "whatever is well stays far below that bound, and registries refuse larger manifests too: look at what is served under that name"
                    .to_owned(),
            ),
            Self::Platform { .. } => {
                Some("ask for a platform that the image has, or push the missing one".to_owned())
            }
            Self::Foreign { .. } => {
                Some("push the layer to the registry as well, or use an image without such layers".to_owned())
            }
            Self::Status { status: 429, host, .. } => {
                Some(format!("`{host}` limits how much it serves: log in there, use a mirror, or wait"))
            }
            Self::Redirect { .. } => {
                Some("if the registry is meant to be used without TLS, say `insecure = true` in registries.conf".to_owned())
            }
            Self::Places { failures, .. } => failures.last().and_then(|(_, error)| error.hint()),
            _ => None,
        }
    }

    /// Whether this says that the thing is not there, rather than that nobody could tell.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::NotFound { .. } => true,
            Self::Places { failures, .. } => failures.iter().all(|(_, error)| error.is_not_found()),
            _ => false,
        }
    }

    /// Whether nobody answered.
    pub(super) const fn is_silence(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Stalled { .. })
    }

    /// One error from those of several places.
    pub(super) fn from_places(what: &str, mut failures: Vec<(String, Self)>) -> Self {
        if failures.len() == 1 {
            return failures.swap_remove(0).1;
        }
        if failures.iter().all(|(_, error)| matches!(error, Self::NotFound { .. })) {
            let places = failures
                .into_iter()
                .flat_map(|(label, error)| match error {
                    Self::NotFound { places, .. } => places,
                    _ => vec![label],
                })
                .collect();
            return Self::NotFound { what: what.to_owned(), places };
        }
        Self::Places { what: what.to_owned(), failures }
    }
}

/// Words from outside, fit for one line of a terminal: no control characters, cut to a readable length.
pub(super) fn readable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect::<String>().trim().to_owned()
}
