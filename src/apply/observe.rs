//! What the cluster holds of a release, and what it would say to it: server-side dry run of
//! every object. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use serde_json::{Value, json};

use super::admission::Blocker;
use super::client::{Call, shorten};
use super::diff::without_server_fields;
use super::discovery::{Discovery, Resource, brought, is_definition, is_namespace};
use super::inventory::{self, Contents, PART_OF, Parent};
use super::members::{Depth, Member, members};
use super::order::{Place, place};
use super::trial::{Context, Found};
use super::waves::{Arranged, Item, Occasion, arrange};
use super::{ApplyError, Cluster, MissingKind, MissingNamespace, ObjectAt, ReleaseObjects};
use crate::fsio::limits;
use crate::model::plan::TakenOver;
use crate::model::{Event, ObjectId, ObjectRole, Origin, Progress, RenderedObject};

/// Calls at the same time: a small API server serves them without shedding load.
const AT_ONCE: usize = 8;
/// How long one call is tried again.
const PATIENCE: Duration = Duration::from_secs(15);
/// Warnings that are kept.
const WARNINGS: usize = 50;

/// What a cluster holds of a release and what it would do with it.
#[derive(Debug)]
pub struct Observation {
    /// The release; its objects are in `objects`, resolved.
    pub(super) release: ReleaseObjects,
    pub(super) server: String,
    pub(super) default_namespace: String,
    /// In the order of work.
    pub(super) objects: Vec<Observed>,
    pub(super) members: Vec<Member>,
    pub(super) parent: Option<Parent>,
    /// Hooks of the release that have nothing to do this time. What is there of them stays.
    pub(super) idle: Vec<ObjectId>,
    pub(super) warnings: Vec<String>,
    /// Admission of the release's own set that refuses objects of it.
    pub(super) blockers: Vec<Blocker>,
}

/// An object as it is to be applied.
#[derive(Debug, Clone)]
pub(super) struct Desired {
    pub(super) id: ObjectId,
    pub(super) origin: Origin,
    pub(super) value: Value,
    pub(super) resource: Resource,
    pub(super) place: Place,
}

impl Desired {
    pub(super) fn at(&self) -> ObjectAt {
        ObjectAt { id: self.id.clone(), origin: self.origin.clone() }
    }

    pub(super) fn path(&self) -> String {
        self.resource.path(self.id.namespace.as_deref(), Some(&self.id.name))
    }
}

/// An object, what is there of it, and what the server says to it.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) desired: Desired,
    pub(super) live: Option<Value>,
    pub(super) trial: Trial,
}

/// What a dry run said.
#[derive(Debug)]
pub(super) enum Trial {
    /// The object as it would be.
    Result { value: Value, taken: Vec<TakenOver> },
    /// The server cannot try it yet.
    Unchecked { why: String },
    /// The object is there, and what differs can never change.
    Immutable { why: String },
    /// It is a definition that lacks versions in which objects may be stored.
    Stored { versions: Vec<String> },
    /// The object is there and is being deleted; `held` says what holds that up, beside the garbage
    /// collection of what it owns.
    Leaving { since: String, held: Option<String> },
    /// The server would refuse it.
    Refused { why: String, forbidden: bool },
}

impl Trial {
    /// The server would refuse the object itself.
    pub(super) fn refused(why: String) -> Self {
        Self::Refused { why, forbidden: false }
    }
}

impl Observation {
    /// The kinds and namespaces of the release's objects.
    pub(super) fn contents(&self) -> Contents {
        let mut contents = Contents::default();
        for observed in &self.objects {
            contents.kinds.insert(observed.desired.resource.group_kind());
            contents.namespaces.extend(observed.desired.id.namespace.clone());
        }
        contents
    }

    /// How many objects the release has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Never: a release without objects is refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }
}

/// Looks at everything the release would touch. Changes nothing.
///
/// # Errors
///
/// When the cluster lacks a kind or a namespace that the release needs, a namespace is being
/// deleted, an object cannot be applied as it stands, or the server does not answer. What the
/// server would refuse is not an error here but in [`super::plan`], where all of it is told.
pub async fn observe(
    cluster: &Cluster,
    mut release: ReleaseObjects,
    progress: &dyn Progress,
) -> Result<Observation, ApplyError> {
    let mut rendered = std::mem::take(&mut release.objects);
    // What runs at a test or an uninstallation alone only travels.
    rendered.retain(|object| object.role.is_applied());
    if rendered.is_empty() {
        return Err(ApplyError::Empty);
    }
    progress.event(Event::Start {
        title: format!("trying {} objects on Kubernetes {}", rendered.len(), cluster.server_version()),
        bytes: None,
    });
    let mut looker =
        Looker { cluster, discovery: Discovery::default(), warnings: Vec::new(), found: Arc::default() };
    let parent = looker.parent(&release).await?;
    let default_namespace = parent
        .as_ref()
        .and_then(|parent| parent.default_namespace.clone())
        .unwrap_or_else(|| cluster.default_namespace().to_owned());
    let set = inventory::apply_set_id(&release.name);

    let coming = brought(rendered.iter());
    let roles: Vec<_> = rendered.iter().map(|object| (object.role, object.turn)).collect();
    let wanted = looker.resolve(rendered, &coming, &default_namespace, &set).await?;
    no_duplicates(&wanted)?;
    let (wanted, idle) = in_order(wanted, &roles, Occasion::of(parent.as_ref(), &release))?;
    if wanted.is_empty() {
        return Err(ApplyError::Empty);
    }
    let new_namespaces = looker.namespaces(&wanted).await?;
    looker.may_keep_inventory(&release, parent.as_ref(), &default_namespace).await?;

    let objects = looker.try_all(wanted, &coming, &new_namespaces, progress).await?;
    let mut observation = Observation {
        release,
        server: cluster.server_version().to_owned(),
        default_namespace,
        objects,
        members: Vec::new(),
        parent,
        idle,
        warnings: Vec::new(),
        blockers: Vec::new(),
    };
    if let Some(parent) = &observation.parent {
        let contents = parent.contents.union(&observation.contents());
        let Looker { discovery, .. } = &mut looker;
        observation.members = members(cluster, discovery, &set, &contents, Depth::Metadata).await?;
    }
    looker.warnings.truncate(WARNINGS);
    observation.warnings = looker.warnings;
    observation.blockers = looker.found.blockers();
    progress
        .event(Event::Finish { summary: format!("{} objects tried, nothing changed", observation.len()) });
    Ok(observation)
}

/// One object and whether its kind is served already.
pub(super) type Wanted = (Desired, bool);

struct Looker<'a> {
    cluster: &'a Cluster,
    discovery: Discovery,
    warnings: Vec<String>,
    found: Arc<Found>,
}

impl Looker<'_> {
    async fn parent(&self, release: &ReleaseObjects) -> Result<Option<Parent>, ApplyError> {
        match self.cluster.call(&Call::get(parent_path(release)), PATIENCE).await {
            Ok(answer) => Ok(Some(Parent::read(&answer.value))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(self.cluster.explain("read the inventory", error)),
        }
    }

    /// Finds each object's kind and namespace, and marks it as a member of the set.
    async fn resolve(
        &mut self,
        rendered: Vec<RenderedObject>,
        coming: &[Resource],
        default_namespace: &str,
        set: &str,
    ) -> Result<Vec<Wanted>, ApplyError> {
        if rendered.len() > limits::OBJECTS {
            return Err(ApplyError::Answer {
                what: "take the release".into(),
                why: format!("would be about more than {} objects", limits::OBJECTS),
            });
        }
        let mut wanted = Vec::with_capacity(rendered.len());
        let mut missing = Vec::new();
        let mut defaulted = 0_usize;
        for object in rendered {
            let RenderedObject { mut id, origin, default_namespace: own_namespace, mut value, .. } = object;
            let served = self.discovery.find(self.cluster, &id).await?;
            let is_served = served.is_some();
            let by_definition = || {
                let comes = |resource: &&Resource| {
                    resource.group == id.group()
                        && resource.version == id.version()
                        && resource.kind == id.kind
                };
                coming.iter().find(comes).cloned()
            };
            let Some(resource) = served.or_else(by_definition) else {
                missing.push(MissingKind { id, origin });
                continue;
            };
            let malformed = |why: String| ApplyError::Malformed {
                object: Box::new(ObjectAt { id: id.clone(), origin: origin.clone() }),
                why,
            };
            if !resource.applicable {
                return Err(malformed(format!("objects of kind `{}` are asked, not kept", id.kind)));
            }
            if matches!(id.name.as_str(), "" | "." | "..") || !value["metadata"].is_object() {
                return Err(malformed("has no `metadata.name` that can name an object".into()));
            }
            if !resource.namespaced
                && let Some(namespace) = &id.namespace
            {
                let why =
                    format!("names the namespace `{namespace}`, but its kind belongs to the whole cluster");
                return Err(malformed(why));
            }
            if let Some(owner) = value["metadata"]["labels"][PART_OF].as_str()
                && owner != set
            {
                let own = set.to_owned();
                return Err(ApplyError::OwnedByOther {
                    object: Box::new(ObjectAt { id, origin }),
                    owner: shorten(owner),
                    own,
                });
            }
            if resource.namespaced && id.namespace.is_none() {
                defaulted += usize::from(own_namespace.is_none());
                id.namespace = Some(own_namespace.unwrap_or_else(|| default_namespace.to_owned()));
            }
            mark(&mut value, id.namespace.as_deref(), set);
            let place = place(id.group(), &id.kind);
            wanted.push((Desired { id, origin, value, resource, place }, is_served));
        }
        if !missing.is_empty() {
            return Err(ApplyError::MissingKinds {
                server: self.cluster.server_version().to_owned(),
                missing,
            });
        }
        if defaulted > 0 {
            self.warnings
                .push(format!("{defaulted} objects name no namespace: they go to `{default_namespace}`"));
        }
        Ok(wanted)
    }

    /// Checks every namespace that an object needs; answers with those that the release creates.
    async fn namespaces(&mut self, wanted: &[Wanted]) -> Result<BTreeSet<String>, ApplyError> {
        let own: BTreeSet<&str> = wanted
            .iter()
            .filter(|(desired, _)| is_namespace(&desired.id))
            .map(|(desired, _)| desired.id.name.as_str())
            .collect();
        let mut needed: BTreeMap<&str, &Desired> = BTreeMap::new();
        for (desired, _) in wanted {
            if let Some(namespace) = &desired.id.namespace {
                needed.entry(namespace).or_insert(desired);
            } else if is_namespace(&desired.id) {
                needed.entry(&desired.id.name).or_insert(desired);
            }
        }
        let mut new = BTreeSet::new();
        let mut missing = Vec::new();
        for (namespace, desired) in needed {
            match self.namespace(namespace).await? {
                Some(live) if is_terminating(&live) => {
                    return Err(ApplyError::Terminating {
                        namespace: namespace.to_owned(),
                        object: Box::new(desired.id.clone()),
                        why: what_remains(&live),
                    });
                }
                Some(_) => {}
                None if own.contains(namespace) => {
                    new.insert(namespace.to_owned());
                }
                None => missing.push(MissingNamespace {
                    namespace: namespace.to_owned(),
                    id: desired.id.clone(),
                    origin: desired.origin.clone(),
                }),
            }
        }
        if missing.is_empty() { Ok(new) } else { Err(ApplyError::MissingNamespaces { missing }) }
    }

    async fn namespace(&self, name: &str) -> Result<Option<Value>, ApplyError> {
        let path = format!("/api/v1/namespaces/{}", super::client::encode(name));
        match self.cluster.call(&Call::get(path), PATIENCE).await {
            Ok(answer) => Ok(Some(answer.value)),
            Err(error) if error.is_not_found() => Ok(None),
            // Who may not read namespaces may still fill this one: the dry run will tell.
            Err(error) if error.code() == 403 => Ok(Some(Value::Null)),
            Err(error) => Err(self.cluster.explain(&format!("read the namespace `{name}`"), error)),
        }
    }

    /// Tries to write the inventory: without it nothing must change.
    async fn may_keep_inventory(
        &self,
        release: &ReleaseObjects,
        parent: Option<&Parent>,
        default_namespace: &str,
    ) -> Result<(), ApplyError> {
        let (path, object) = match self.namespace(inventory::NAMESPACE).await? {
            Some(live) if is_terminating(&live) => {
                return Err(ApplyError::Terminating {
                    namespace: inventory::NAMESPACE.to_owned(),
                    object: Box::new(ObjectId {
                        api_version: "v1".into(),
                        kind: "ConfigMap".into(),
                        namespace: Some(inventory::NAMESPACE.into()),
                        name: inventory::parent_name(&release.name),
                    }),
                    why: what_remains(&live),
                });
            }
            Some(_) => {
                let parent = parent.cloned().unwrap_or_default();
                let begun = parent.begun(release, &Contents::default(), default_namespace);
                (parent_path(release), begun.object(&release.name))
            }
            None => (namespace_path(), inventory::namespace_object()),
        };
        let call = Call::apply(path, &object, true, true);
        let Err(error) = self.cluster.call(&call, PATIENCE).await else { return Ok(()) };
        let set = inventory::apply_set_id(&release.name);
        match self.found.note(self.cluster, &set, Some(inventory::NAMESPACE), &error, &call).await {
            Some(_) => Ok(()),
            None => Err(self.cluster.explain("write the inventory", error)),
        }
    }

    /// Dry run of everything: definitions first, since what they change decides about others.
    async fn try_all(
        &mut self,
        wanted: Vec<Wanted>,
        coming: &[Resource],
        new_namespaces: &BTreeSet<String>,
        progress: &dyn Progress,
    ) -> Result<Vec<Observed>, ApplyError> {
        let (definitions, others): (Vec<_>, Vec<_>) =
            wanted.into_iter().partition(|(desired, _)| is_definition(&desired.id));
        let made: BTreeSet<(String, String)> = others
            .iter()
            .filter(|(desired, _)| {
                matches!(desired.id.kind.as_str(), "ServiceAccount" | "PriorityClass" | "RuntimeClass")
            })
            .map(|(desired, _)| (desired.id.kind.clone(), desired.id.name.clone()))
            .collect();
        let nothing = BTreeSet::new();
        let found = Arc::clone(&self.found);
        let context =
            Context { cluster: self.cluster, new_namespaces, changing: &nothing, made: &made, found: &found };
        let mut objects = self.try_some(definitions, &context, progress).await?;
        let changing: BTreeSet<(String, String)> = objects
            .iter()
            .filter(|observed| observed.would_change())
            .flat_map(|observed| {
                let spec = &observed.desired.value["spec"];
                let group = spec["group"].as_str().unwrap_or_default();
                let kinds = coming.iter().filter(move |resource| resource.group == group);
                kinds.map(|resource| (resource.group.clone(), resource.kind.clone()))
            })
            .collect();
        let context = Context { changing: &changing, ..context };
        objects.extend(self.try_some(others, &context, progress).await?);
        objects.sort_by_key(|observed| observed.desired.place);
        Ok(objects)
    }

    async fn try_some(
        &mut self,
        wanted: Vec<Wanted>,
        context: &Context<'_>,
        progress: &dyn Progress,
    ) -> Result<Vec<Observed>, ApplyError> {
        let mut tries = stream::iter(wanted.into_iter().map(|wanted| context.look(wanted))).buffered(AT_ONCE);
        let mut observed = Vec::new();
        while let Some(looked) = tries.next().await {
            let (object, warnings) = looked?;
            progress.event(Event::Item(object.desired.id.to_string()));
            for warning in warnings {
                let line = format!("{}: {warning}", object.desired.id);
                if self.warnings.len() < WARNINGS && !self.warnings.contains(&line) {
                    self.warnings.push(line);
                }
            }
            observed.push(object);
        }
        Ok(observed)
    }
}

impl Observed {
    /// Whether applying it changes something, as far as the dry run could tell.
    pub(super) fn would_change(&self) -> bool {
        match (&self.live, &self.trial) {
            (Some(live), Trial::Result { value, .. }) => {
                without_server_fields(live) != without_server_fields(value)
            }
            _ => true,
        }
    }
}

/// Sets the namespace and the member's label.
fn mark(value: &mut Value, namespace: Option<&str>, set: &str) {
    let Some(metadata) = value["metadata"].as_object_mut() else { return };
    if let Some(namespace) = namespace {
        metadata.insert("namespace".into(), namespace.into());
    }
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    if labels.is_null() {
        *labels = json!({});
    }
    if let Some(labels) = labels.as_object_mut() {
        labels.insert(PART_OF.into(), set.into());
    }
}

fn no_duplicates(wanted: &[Wanted]) -> Result<(), ApplyError> {
    let mut seen: BTreeMap<_, &Desired> = BTreeMap::new();
    for (desired, _) in wanted {
        let id = &desired.id;
        if let Some(first) = seen.insert(key(id), desired) {
            return Err(ApplyError::Duplicate {
                first: Box::new(first.at()),
                second: desired.origin.clone(),
            });
        }
    }
    Ok(())
}

/// Puts objects into the order of work; answers also with the hooks that have nothing to do.
fn in_order(
    wanted: Vec<Wanted>,
    roles: &[(ObjectRole, u32)],
    occasion: Occasion,
) -> Result<(Vec<Wanted>, Vec<ObjectId>), ApplyError> {
    let items: Vec<_> = wanted
        .iter()
        .zip(roles)
        .map(|((desired, _), (role, turn))| Item {
            id: &desired.id,
            origin: Some(&desired.origin),
            role: *role,
            turn: *turn,
            value: &desired.value,
            default_namespace: None,
            resolved: true,
        })
        .collect();
    let Arranged { places } = arrange(&items, occasion).map_err(|problems| ApplyError::Order { problems })?;
    let mut idle = Vec::new();
    let mut placed = Vec::with_capacity(wanted.len());
    for ((mut desired, is_served), place) in wanted.into_iter().zip(places) {
        if let Some(place) = place {
            desired.place = place;
            placed.push((desired, is_served));
        } else {
            idle.push(desired.id);
        }
    }
    placed.sort_by_key(|(desired, _)| desired.place);
    Ok((placed, idle))
}

/// What makes an object one object, whatever the version it is asked for in.
pub(super) fn key(id: &ObjectId) -> (&str, &str, Option<&str>, &str) {
    (id.group(), &id.kind, id.namespace.as_deref(), &id.name)
}

fn is_terminating(namespace: &Value) -> bool {
    namespace["status"]["phase"] == "Terminating" || namespace["metadata"].get("deletionTimestamp").is_some()
}

/// What holds up the deletion of a namespace, from its conditions.
fn what_remains(namespace: &Value) -> String {
    let conditions = namespace["status"]["conditions"].as_array().into_iter().flatten();
    let messages: Vec<_> = conditions
        .filter(|condition| condition["status"] == "True")
        .filter_map(|condition| condition["message"].as_str())
        .map(shorten)
        .collect();
    if messages.is_empty() { String::new() } else { format!("; {}", messages.join("; ")) }
}

pub(super) fn parent_path(release: &ReleaseObjects) -> String {
    format!(
        "/api/v1/namespaces/{}/configmaps/{}",
        inventory::NAMESPACE,
        inventory::parent_name(&release.name)
    )
}

pub(super) fn namespace_path() -> String {
    format!("/api/v1/namespaces/{}", inventory::NAMESPACE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_marked_as_members() {
        for labels in [json!(null), json!({"a": "b"})] {
            let mut value = json!({"metadata": {"name": "x", "labels": labels}});
            mark(&mut value, Some("shop"), "applyset-x-v1");
            assert_eq!(value["metadata"]["labels"][PART_OF], "applyset-x-v1");
            assert_eq!(value["metadata"]["namespace"], "shop");
        }
    }

    #[test]
    fn terminating_namespaces_say_what_holds_them() {
        let live = json!({"status": {"phase": "Terminating", "conditions": [
            {"status": "False", "message": "all fine"}, {"status": "True", "message": "1 pod remains"}]}});
        assert!(is_terminating(&live));
        assert_eq!(what_remains(&live), "; 1 pod remains");
        assert!(!is_terminating(&Value::Null));
    }
}
