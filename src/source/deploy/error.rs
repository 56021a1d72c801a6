//! Why what a revision's deployers deploy is not known.

use std::fmt::Write as _;

use crate::model::config::FILE_NAME;
use crate::model::{ErrorClass, ObjectId, Origin};
use crate::source::render::RenderError;

/// What is wrong at one field of one deployer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The deployer.
    pub object: ObjectId,
    /// Where it stands.
    pub origin: Origin,
    /// Path of the field.
    pub field: String,
    /// What is wrong; a sentence that goes on after a colon.
    pub why: String,
}

/// The same before the deployer is named.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The field says what it must not.
    Invalid(String, String),
    /// The field asks for what is not done here.
    Unsupported(String, String),
    /// The field leads out of the repository.
    Elsewhere(String, String),
    /// The field names what is not there.
    Missing(String, String),
    /// The field names what is not known yet, and may be when other deployers are followed.
    Later(String, String),
    /// The source did not render.
    Render(Box<RenderError>),
}

impl From<RenderError> for Trouble {
    fn from(error: RenderError) -> Self {
        Self::Render(Box::new(error))
    }
}

impl Trouble {
    pub fn invalid(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Invalid(field.into(), why.into())
    }

    pub fn unsupported(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Unsupported(field.into(), why.into())
    }

    pub fn elsewhere(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Elsewhere(field.into(), why.into())
    }

    pub fn later(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Later(field.into(), why.into())
    }

    pub fn missing(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Missing(field.into(), why.into())
    }
}

/// Why the objects behind a revision's deployers are not all known.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// Deployers take what they deploy from outside the repository.
    #[error("{}", elsewhere_text(places))]
    Elsewhere {
        /// Each of them.
        places: Vec<Place>,
        /// Whether any URL of this repository was known to compare with.
        has_url: bool,
    },
    /// A field asks for what is not done here.
    #[error("{}: {}: `{}`: {}", place.origin, place.object, place.field, place.why)]
    Unsupported {
        /// Where.
        place: Box<Place>,
    },
    /// A field says what it must not.
    #[error("{}: {}: `{}`: {}", place.origin, place.object, place.field, place.why)]
    Invalid {
        /// Where.
        place: Box<Place>,
    },
    /// A field names what the revision does not have.
    #[error("{}: {}: `{}`: {}", place.origin, place.object, place.field, place.why)]
    Missing {
        /// Where.
        place: Box<Place>,
    },
    /// Deployers deploy one another.
    #[error("deployers that deploy one another: {}", chain.join(" deploys "))]
    Cycle {
        /// From the first to the first again.
        chain: Vec<String>,
    },
    /// Deployers depend on one another.
    #[error("deployers that wait for each other (`spec.dependsOn`): {}", deployers.join(", "))]
    Waits {
        /// Those in the ring, and what waits for it.
        deployers: Vec<String>,
    },
    /// Deployers deploy deployers without end in sight.
    #[error("deployers more than {limit} deep: {}", chain.join(" deploys "))]
    Deep {
        /// The most that is followed.
        limit: usize,
        /// The chain.
        chain: Vec<String>,
    },
    /// More deployers than any release has.
    #[error("more than {limit} deployers")]
    Many {
        /// The most that is followed.
        limit: usize,
    },
    /// What a deployer deploys did not render.
    #[error("{origin}: {object}: what it deploys does not render: {}", crate::model::chain(source.as_ref()))]
    Render {
        /// The deployer.
        object: Box<ObjectId>,
        /// Where it stands.
        origin: Origin,
        /// The cause.
        source: Box<RenderError>,
    },
    /// All objects together are no release.
    #[error(transparent)]
    Objects(#[from] RenderError),
}

fn elsewhere_text(places: &[Place]) -> String {
    let line = |Place { object, origin, field, why }: &Place| format!("{origin}: {object}: `{field}`: {why}");
    if let [place] = places {
        return line(place);
    }
    let mut text = format!("{} deployers take what they deploy from elsewhere:", places.len());
    for place in places {
        // Writing into a string cannot fail.
        let _ = write!(text, "\n  {}", line(place));
    }
    text
}

/// The lines of `fleetpack.yaml` that decide about `places`, to be chosen from.
fn lines(places: &[Place]) -> String {
    let mut text = String::from("deployers:\n  replace:");
    let mut seen: Vec<String> = Vec::new();
    for Place { object, field, .. } in places {
        let index = field.strip_prefix("spec.sources[").and_then(|rest| rest.split(']').next());
        let index = index.map(|index| format!("\n    source: {index}")).unwrap_or_default();
        let _ = write!(text, "\n  - object: {object}{index}\n    path: FOLDER OF THIS REPOSITORY");
        if !seen.contains(&object.to_string()) {
            seen.push(object.to_string());
        }
    }
    text.push_str("\n  ignore:");
    for object in seen {
        let _ = write!(text, "\n  - object: {object}\n    reason: WHY THE SITE NEEDS NOTHING OF IT");
    }
    text
}

impl DeployError {
    /// How the error ends the process.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Elsewhere { .. } | Self::Unsupported { .. } | Self::Missing { .. } => {
                ErrorClass::Incomplete
            }
            Self::Render { source, .. } => source.class(),
            Self::Objects(error) => error.class(),
            _ => ErrorClass::Failed,
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Elsewhere { places, has_url } => {
                let own = if *has_url {
                    "if it is this repository under another name, list the URL in `deployers.repositories`, and the \
                     branch or tag in `deployers.revisions`"
                } else {
                    "no URL of this repository is known (the clone has no remote): list it in \
                     `deployers.repositories`"
                };
                format!(
                    "{own}; else say in `{FILE_NAME}` what stands in for it, or why the release is complete without \
                     it, one of the two for each:\n{}",
                    lines(places)
                )
            }
            Self::Unsupported { place } => format!(
                "commit what it deploys as plain objects, a kustomization or a chart, name that in `sources`, and \
                 decide about the deployer in `{FILE_NAME}`:\ndeployers:\n  ignore:\n  - object: {}\n    reason: \
                 its objects are a source of their own",
                place.object
            ),
            Self::Missing { .. } => {
                "deployers are followed through what the revision holds: commit it, or decide with `deployers.ignore`"
                    .to_owned()
            }
            Self::Waits { .. } => {
                "Flux would wait for ever: take one of them out of the others' `spec.dependsOn`".to_owned()
            }
            Self::Cycle { .. } | Self::Deep { .. } => {
                "let each deployer deploy what lies below it, and none that lies above".to_owned()
            }
            Self::Render { source, .. } => return source.hint(),
            Self::Objects(error) => return error.hint(),
            Self::Invalid { .. } | Self::Many { .. } => return None,
        })
    }
}
