//! What can go wrong at a cluster, as values.

use std::fmt::{self, Write as _};

use super::consent::Cure;
use super::wait::HealthReport;
use super::waves::OrderProblem;
use crate::model::{ErrorClass, ObjectId, Origin};

/// How many objects one message names before it only counts.
const NAMED: usize = 20;

/// Why the work at a cluster failed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The configuration of the connection cannot be used.
    #[error("cannot use {tried}: {why}")]
    Config {
        /// What was read: the kubeconfig and the context, or the pod's service account.
        tried: String,
        /// What is wrong with it.
        why: String,
    },
    /// Nobody answers at the address.
    #[error("the API server at `{url}` does not answer: {why}")]
    Unreachable {
        /// Its address.
        url: String,
        /// The chain of causes.
        why: String,
    },
    /// The server's certificate is not the one that the kubeconfig trusts.
    #[error("the certificate of the API server at `{url}` is not trusted: {why}")]
    Certificate {
        /// Its address.
        url: String,
        /// The chain of causes.
        why: String,
    },
    /// The server does not know who asks.
    #[error("the API server at `{url}` does not accept the credentials: {why}")]
    Unauthorized {
        /// Its address.
        url: String,
        /// What it says.
        why: String,
    },
    /// The server knows who asks, and does not allow it.
    #[error("not allowed to {what}: {why}")]
    Forbidden {
        /// What was asked: `apply Deployment shop/web`.
        what: String,
        /// What the server says.
        why: String,
    },
    /// The server refused for another reason.
    #[error("cannot {what}: the API server answered {code}: {why}")]
    Server {
        /// What was asked.
        what: String,
        /// Its HTTP status.
        code: u16,
        /// What it says.
        why: String,
    },
    /// The server's answer cannot be used.
    #[error("cannot {what}: the API server's answer {why}")]
    Answer {
        /// What was asked.
        what: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// The release has no object: applying it would delete everything.
    #[error("the release has no objects; applying it would delete all that it had before")]
    Empty,
    /// An object cannot be applied as it stands.
    #[error("{object}: {why}")]
    Malformed {
        /// The object.
        object: Box<ObjectAt>,
        /// What is wrong with it.
        why: String,
    },
    /// Two objects of the release are one object of the cluster.
    #[error("{} stands twice in the release: in {} and in {second}", first.id, first.origin)]
    Duplicate {
        /// The object, where it stands first.
        first: Box<ObjectAt>,
        /// Where it stands again.
        second: Origin,
    },
    /// Objects wait for what never comes, or their order cannot be read.
    #[error("the objects of the release cannot be put in order:{}", list(problems))]
    Order {
        /// What stands in the way.
        problems: Vec<OrderProblem>,
    },
    /// The cluster has no such kinds, and no definition in the release brings them.
    #[error("Kubernetes {server} here lacks what the release needs:{}", list(missing))]
    MissingKinds {
        /// Version of the API server.
        server: String,
        /// What is missing.
        missing: Vec<MissingKind>,
    },
    /// Namespaces that neither exist nor come with the release.
    #[error("namespaces are missing that no object of the release creates:{}", list(missing))]
    MissingNamespaces {
        /// What is missing.
        missing: Vec<MissingNamespace>,
    },
    /// A namespace that the release needs is being deleted.
    #[error(
        "the namespace `{namespace}` is being deleted (phase Terminating), so {object} cannot be applied{why}"
    )]
    Terminating {
        /// The namespace.
        namespace: String,
        /// The first object that needs it.
        object: Box<ObjectId>,
        /// What holds the deletion up, where the cluster says.
        why: String,
    },
    /// An object belongs to another set.
    #[error("{object} belongs to another set of objects: `{owner}`, not to `{own}`")]
    OwnedByOther {
        /// The object.
        object: Box<ObjectAt>,
        /// The set that its label names.
        owner: String,
        /// The set of this release.
        own: String,
    },
    /// The server would refuse objects.
    #[error("the API server would refuse {} of the release; nothing was changed:{}", count(failures.len()), list(failures))]
    DryRun {
        /// What it would refuse.
        failures: Vec<ObjectFailure>,
    },
    /// The plan was made for another release.
    #[error("the plan is for `{plan}`, the objects are those of `{release}`")]
    PlanMismatch {
        /// Digest in the plan.
        plan: String,
        /// Digest of the release.
        release: String,
    },
    /// A stage failed: the cluster has changed already.
    #[error("stage {number} ({title}) failed: {source}")]
    Stage {
        /// Its number.
        number: u8,
        /// What it holds.
        title: String,
        /// Why.
        source: Box<ApplyError>,
    },
    /// One object failed while the cluster was being changed.
    #[error("{object}: {source}")]
    Object {
        /// The object.
        object: Box<ObjectAt>,
        /// Why.
        source: Box<ApplyError>,
    },
    /// What a later stage builds on did not become ready.
    #[error("{object} did not become ready within {seconds} s: {why}")]
    NotReady {
        /// The object.
        object: Box<ObjectId>,
        /// How long it was waited for.
        seconds: u64,
        /// What it says of itself.
        why: String,
    },
    /// A step that was done could not be recorded.
    #[error("cannot record the step `{step}`: {source}")]
    Record {
        /// The step.
        step: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The release did not become healthy.
    #[error("{0}")]
    Unhealthy(Box<HealthReport>),
}

/// An object and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectAt {
    /// The object.
    pub id: ObjectId,
    /// Where it comes from.
    pub origin: Origin,
}

impl fmt::Display for ObjectAt {
    /// `Deployment shop/web (shop.yaml:3)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.id, self.origin)
    }
}

/// A kind that the cluster lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingKind {
    /// The object that needs it.
    pub id: ObjectId,
    /// Where the object comes from.
    pub origin: Origin,
}

impl fmt::Display for MissingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, origin } = self;
        write!(f, "kind `{}` of `{}`, which {id} ({origin}) needs", id.kind, id.api_version)
    }
}

/// A namespace that the cluster lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingNamespace {
    /// The namespace.
    pub namespace: String,
    /// The first object that needs it.
    pub id: ObjectId,
    /// Where the object comes from.
    pub origin: Origin,
}

impl fmt::Display for MissingNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`, which {} ({}) needs", self.namespace, self.id, self.origin)
    }
}

/// An object that the server would refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectFailure {
    /// The object.
    pub id: ObjectId,
    /// Where it comes from.
    pub origin: Origin,
    /// What the server says, fields included.
    pub why: String,
    /// Whether the server lacks a permission rather than the object a right form.
    pub forbidden: bool,
    /// What an annotation on the object would allow, where that is what stands in the way.
    pub cure: Option<Cure>,
}

impl fmt::Display for ObjectFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.id, self.origin, self.why)?;
        match self.cure {
            Some(cure) => write!(f, "; `{}: allowed` on it allows {}", cure.key(), cure.act()),
            None => Ok(()),
        }
    }
}

/// The command that puts the annotation on the object in the cluster.
fn annotate(id: &ObjectId, cure: Cure) -> String {
    let group = if id.group().is_empty() { String::new() } else { format!(".{}", id.group()) };
    let namespace = id.namespace.as_ref().map_or(String::new(), |namespace| format!(" -n {namespace}"));
    let kind = id.kind.to_lowercase();
    format!("kubectl annotate{namespace} {kind}{group} {} {}=allowed", id.name, cure.key())
}

/// One line an item, bounded.
fn list<T: fmt::Display>(items: &[T]) -> String {
    let mut text = String::new();
    for item in items.iter().take(NAMED) {
        // Writing to a string does not fail.
        let _ = write!(text, "\n  {item}");
    }
    if items.len() > NAMED {
        let _ = write!(text, "\n  and {} more", items.len() - NAMED);
    }
    text
}

fn count(objects: usize) -> String {
    if objects == 1 { "1 object".to_owned() } else { format!("{objects} objects") }
}

impl ApplyError {
    /// How the error ends the process. What happens before [`super::execute`] changes nothing
    /// and so never says that the cluster is broken.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::MissingKinds { .. } | Self::MissingNamespaces { .. } => ErrorClass::Incomplete,
            Self::Empty | Self::OwnedByOther { .. } => ErrorClass::Refused,
            Self::Stage { .. } | Self::Unhealthy(_) | Self::NotReady { .. } => ErrorClass::ClusterBroken,
            _ => ErrorClass::Failed,
        }
    }

    /// What to do next, where something can be said.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Config { .. } => "name a kubeconfig with --kubeconfig or KUBECONFIG, and a context of it \
                                    with --context"
                .to_owned(),
            Self::Unreachable { .. } => {
                "is the API server running, and is the address in the kubeconfig right?".to_owned()
            }
            Self::Certificate { .. } => "the kubeconfig's `certificate-authority-data` must be the cluster's; \
                                         a clock that is far off makes certificates invalid too (`date` shows \
                                         this machine's)"
                .to_owned(),
            Self::Unauthorized { .. } => {
                "the kubeconfig's credentials may have expired: ask for new ones".to_owned()
            }
            Self::Forbidden { .. } => "`kubectl auth can-i --list` shows what these credentials may do; \
                                       applying a release wants get, list, create, patch and delete on its kinds"
                .to_owned(),
            Self::MissingKinds { .. } => {
                "install what brings these kinds, or add its definitions to the release".to_owned()
            }
            Self::Order { .. } => "the annotations `config.kubernetes.io/depends-on` and \
                                   `argocd.argoproj.io/sync-wave` of the objects decide; put them right in the \
                                   revision and build again"
                .to_owned(),
            Self::MissingNamespaces { .. } => {
                "create the namespaces, or add them to the release as objects".to_owned()
            }
            Self::Terminating { namespace, .. } => {
                format!("wait until it is gone: kubectl get namespace {namespace} -o yaml shows what holds it up")
            }
            Self::OwnedByOther { owner, .. } => format!(
                "`kubectl get configmaps,secrets -A -l applyset.kubernetes.io/id={owner}` shows who owns it"
            ),
            Self::DryRun { failures }
                if let Some((id, cure)) = failures.iter().find_map(|one| Some((&one.id, one.cure?))) =>
            {
                format!(
                    "put the annotation into the manifests and build again, or allow it on this site alone: {}",
                    annotate(id, cure)
                )
            }
            Self::DryRun { failures } if failures.iter().all(|failure| failure.forbidden) => {
                "`kubectl auth can-i --list` shows what these credentials may do".to_owned()
            }
            Self::Stage { source, .. } | Self::Object { source, .. } => return source.hint(),
            Self::NotReady { .. } | Self::Unhealthy(_) => {
                "`fleetpack apply` of the same archive goes on where this one ended".to_owned()
            }
            _ => return None,
        })
    }
}
