//! Which object waits for which: sync waves, hooks, dependencies. Pure.
//!
//! A *wave* is healthy before the next begins (Argo CD, "Sync Phases and Waves"): waves have the
//! numbers of `argocd.argoproj.io/sync-wave`, hooks the weights of `helm.sh/hook-weight`, in a
//! phase before or after all else. Where deployers of the revision wait for one another, their turns
//! stand above all of that. Within a wave stand the stages by kind ([`super::order`]). An
//! object that *depends on* others (`config.kubernetes.io/depends-on`, sigs.k8s.io/cli-utils) comes
//! after they are healthy, in a later stage or on a higher level of its own. Namespaces and
//! definitions come no later than the first object that needs them, whatever wave they name.
//!
//! What an author wrote down is never bent: an object of wave 0 that depends on one of wave 1 is
//! refused, as are rings and dependencies on what is not in the release.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;

use serde_json::Value;

use super::ReleaseObjects;
use super::discovery::{is_definition, is_namespace};
use super::inventory::Parent;
use super::members::Member;
use super::order::{Phase, Place, place, runs_once};
use crate::model::{ObjectId, ObjectRole, Origin, RenderedObject};

/// Annotation of cli-utils: what the object depends on.
const DEPENDS_ON: &str = "config.kubernetes.io/depends-on";
/// Annotations of Argo CD.
const SYNC_WAVE: &str = "argocd.argoproj.io/sync-wave";
const ARGO_HOOK: &str = "argocd.argoproj.io/hook";
/// Annotations of Helm.
const HELM_HOOK: &str = "helm.sh/hook";
const HELM_WEIGHT: &str = "helm.sh/hook-weight";
/// Problems that are told.
const TOLD: usize = 50;
/// Objects of a ring that are named.
const NAMED: usize = 12;

/// What an apply is to the cluster: which hooks run follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    /// No release of this name ever became healthy here.
    Install,
    /// Another release ran before.
    Upgrade,
    /// The release runs already, or it is an older one that is gone back to: no hook runs.
    Again,
}

impl Occasion {
    pub(super) fn of(parent: Option<&Parent>, release: &ReleaseObjects) -> Self {
        let Some(running) = parent.filter(|parent| parent.release.is_some()) else { return Self::Install };
        let is_same = running.release.as_deref() == Some(release.digest.to_string().as_str());
        if is_same || running.sequence.is_some_and(|sequence| sequence > release.sequence) {
            Self::Again
        } else {
            Self::Upgrade
        }
    }
}

/// What names an object that another depends on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reference {
    group: String,
    namespace: Option<String>,
    kind: String,
    name: String,
}

impl Reference {
    /// Reads `GROUP/KIND/NAME` or `GROUP/namespaces/NAMESPACE/KIND/NAME`; the core group is empty.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.trim().split('/').collect();
        let (group, namespace, kind, name) = match fields[..] {
            [group, kind, name] => (group, None, kind, name),
            [group, "namespaces", namespace, kind, name] => (group, Some(namespace), kind, name),
            _ => return None,
        };
        let is_whole = !kind.is_empty() && !name.is_empty() && namespace.is_none_or(|text| !text.is_empty());
        let owned = |text: &str| text.to_owned();
        is_whole.then(|| Self {
            group: owned(group),
            namespace: namespace.map(owned),
            kind: owned(kind),
            name: owned(name),
        })
    }

    pub(super) fn names(&self, id: &ObjectId) -> bool {
        self.group == id.group()
            && self.kind == id.kind
            && self.name == id.name
            && self.namespace == id.namespace
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.group)?;
        self.namespace.iter().try_for_each(|namespace| write!(f, "namespaces/{namespace}/"))?;
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// What an object says that it depends on.
///
/// # Errors
///
/// The part of the annotation that is no reference.
pub(super) fn depends_on(value: &Value) -> Result<Vec<Reference>, String> {
    let Some(text) = annotation(value, DEPENDS_ON) else { return Ok(Vec::new()) };
    text.split(',').map(|part| Reference::parse(part).ok_or_else(|| shortened(part))).collect()
}

fn annotation<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value["metadata"]["annotations"][key].as_str()
}

fn shortened(text: &str) -> String {
    super::client::shorten(text)
}

/// Why an order cannot be worked out; one object's part in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderProblem {
    /// An annotation that cannot be read.
    Annotation {
        /// The object and where it comes from.
        object: String,
        /// The annotation.
        key: &'static str,
        /// What stands there.
        found: String,
        /// What may stand there.
        wanted: &'static str,
    },
    /// A dependency that is no object of the release.
    Unknown {
        /// The object and where it comes from.
        object: String,
        /// What it depends on.
        reference: String,
    },
    /// Objects that wait for each other.
    Ring {
        /// The objects, each of which waits for the next, the last for the first.
        objects: Vec<String>,
    },
    /// An object that names a wave before that of what it needs.
    Wave {
        /// The object and where it comes from.
        object: String,
        /// Its wave.
        wave: String,
        /// What it needs.
        needs: String,
        /// The wave of that.
        later: String,
    },
}

impl fmt::Display for OrderProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Annotation { object, key, found, wanted } => {
                write!(f, "{object}: the annotation `{key}` has `{found}`, wanted {wanted}")
            }
            Self::Unknown { object, reference } => {
                write!(f, "{object} depends on `{reference}`, which is not applied with this release")
            }
            Self::Ring { objects } => {
                write!(f, "each waits for the next, the last for the first: ")?;
                let more = objects.len().saturating_sub(NAMED);
                write!(f, "{}", objects[..objects.len() - more].join(" -> "))?;
                if more > 0 { write!(f, " -> and {more} more") } else { Ok(()) }
            }
            Self::Wave { object, wave, needs, later } => {
                write!(f, "{object} stands in {wave} and needs {needs}, which comes later, in {later}")
            }
        }
    }
}

/// One object as its order is worked out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item<'a> {
    pub(super) id: &'a ObjectId,
    pub(super) origin: Option<&'a Origin>,
    pub(super) role: ObjectRole,
    /// The turn of its deployer.
    pub(super) turn: u32,
    pub(super) value: &'a Value,
    /// The namespace that it goes to if it names none; what is not known matches any.
    pub(super) default_namespace: Option<&'a str>,
    /// Whether the id says for certain which namespace it is in.
    pub(super) resolved: bool,
}

impl<'a> Item<'a> {
    /// An object as a release holds it, before anybody knows its scope.
    pub(super) fn rendered(object: &'a RenderedObject) -> Self {
        Self {
            id: &object.id,
            origin: Some(&object.origin),
            role: object.role,
            turn: object.turn,
            value: &object.value,
            default_namespace: object.default_namespace.as_deref(),
            resolved: false,
        }
    }

    fn told(&self) -> String {
        self.origin.map_or_else(|| self.id.to_string(), |origin| format!("{} ({origin})", self.id))
    }

    fn namespace(&self) -> Option<&'a str> {
        self.id.namespace.as_deref().or(if self.resolved { None } else { self.default_namespace })
    }

    fn is(&self, reference: &Reference) -> bool {
        if reference.names(self.id) {
            return true;
        }
        // Which scope a kind has, only the cluster knows.
        !self.resolved
            && self.id.namespace.is_none()
            && reference.namespace.is_some()
            && self.default_namespace.is_none_or(|own| reference.namespace.as_deref() == Some(own))
    }
}

/// When an object is applied on an occasion; none: it has nothing to do then. Hooks that run once
/// run at the events that they name; hooks of other kinds are there at all times.
fn phase(item: &Item<'_>, occasion: Occasion) -> Option<Phase> {
    let list = |key| {
        let texts = annotation(item.value, key).unwrap_or_default().split(',');
        texts.map(|text| text.trim().to_ascii_lowercase()).collect::<BTreeSet<_>>()
    };
    let has = |set: &BTreeSet<String>, any: &[&str]| any.iter().any(|name| set.contains(*name));
    let choose = |set: &BTreeSet<String>, before: &[&str], after: &[&str]| {
        if has(set, before) { Some(Phase::Before) } else { has(set, after).then_some(Phase::After) }
    };
    let argo = list(ARGO_HOOK);
    let (now, ever) = if has(&argo, &["presync", "sync", "postsync"]) {
        let first = if has(&argo, &["presync"]) {
            Phase::Before
        } else if has(&argo, &["sync"]) {
            Phase::Main
        } else {
            Phase::After
        };
        ((occasion != Occasion::Again).then_some(first), first)
    } else if item.role == ObjectRole::Hook {
        let helm = list(HELM_HOOK);
        let now = match occasion {
            Occasion::Install => choose(&helm, &["pre-install"], &["post-install"]),
            Occasion::Upgrade => choose(&helm, &["pre-upgrade"], &["post-upgrade"]),
            Occasion::Again => None,
        };
        let ever = choose(&helm, &["pre-install", "pre-upgrade"], &["post-install", "post-upgrade"]);
        (now, ever.unwrap_or_default())
    } else {
        return Some(Phase::Main);
    };
    now.or_else(|| (!runs_once(item.id)).then_some(ever))
}

/// Places of objects, and which of them have nothing to do.
#[derive(Debug, Default)]
pub(super) struct Arranged {
    /// One for each item; none has nothing to do on this occasion.
    pub(super) places: Vec<Option<Place>>,
}

/// Works the order out.
///
/// # Errors
///
/// Everything that stands in its way, bounded.
pub(super) fn arrange(items: &[Item<'_>], occasion: Occasion) -> Result<Arranged, Vec<OrderProblem>> {
    let mut graph = Graph::new(items, occasion);
    graph.link();
    graph.pull();
    graph.settle();
    if graph.problems.is_empty() {
        let idle = graph.idle;
        let places = graph.places.into_iter().zip(idle).map(|(place, idle)| (!idle).then_some(place));
        Ok(Arranged { places: places.collect() })
    } else {
        graph.problems.truncate(TOLD);
        Err(graph.problems)
    }
}

/// Checks the order of rendered objects, as a build does: whatever the occasion, it can be worked out.
///
/// # Errors
///
/// [`super::ApplyError::Order`] with everything that stands in its way.
pub fn check_order(objects: &[RenderedObject]) -> Result<(), super::ApplyError> {
    let items: Vec<_> =
        objects.iter().filter(|object| object.role.is_applied()).map(Item::rendered).collect();
    for occasion in [Occasion::Install, Occasion::Upgrade] {
        arrange(&items, occasion).map_err(|problems| super::ApplyError::Order { problems })?;
    }
    Ok(())
}

/// The order in which members leave: the last wave first, and each group is gone before the next
/// is deleted. What cannot be read stands where its kind does; rings are cut.
pub(super) fn backwards<'a>(members: &[&'a Member]) -> Vec<Vec<&'a Member>> {
    let items: Vec<_> = members
        .iter()
        .map(|member| Item {
            id: &member.id,
            origin: None,
            role: match annotation(&member.value, HELM_HOOK) {
                Some(_) => ObjectRole::Hook,
                None => ObjectRole::Plain,
            },
            // The cluster does not say who deployed what.
            turn: 0,
            value: &member.value,
            default_namespace: None,
            resolved: true,
        })
        .collect();
    let mut graph = Graph::new(&items, Occasion::Upgrade);
    graph.link();
    graph.pull();
    graph.settle();
    let mut order: Vec<_> = graph.places.into_iter().zip(members.iter().copied()).collect();
    order.sort_by(|(a, left), (b, right)| b.cmp(a).then_with(|| left.id.cmp(&right.id)));
    let apart =
        |a: Place, b: Place| a.wave() != b.wave() || (a.step() != b.step() && (a.level > 0 || b.level > 0));
    let groups = order.chunk_by(|(a, _), (b, _)| !apart(*a, *b));
    groups.map(|group| group.iter().map(|(_, member)| *member).collect()).collect()
}

struct Graph<'a, 'b> {
    items: &'b [Item<'a>],
    places: Vec<Place>,
    /// Whether the author said in which wave the object stands.
    said: Vec<bool>,
    idle: Vec<bool>,
    /// What each waits for.
    needs: Vec<Vec<usize>>,
    /// Namespaces and definitions, and who lives by them.
    hosts: BTreeMap<usize, Vec<usize>>,
    problems: Vec<OrderProblem>,
}

impl<'a, 'b> Graph<'a, 'b> {
    fn new(items: &'b [Item<'a>], occasion: Occasion) -> Self {
        let mut graph = Self {
            items,
            places: Vec::with_capacity(items.len()),
            said: Vec::with_capacity(items.len()),
            idle: Vec::with_capacity(items.len()),
            needs: vec![Vec::new(); items.len()],
            hosts: BTreeMap::new(),
            problems: Vec::new(),
        };
        for item in items {
            let mut place = place(item.id.group(), &item.id.kind);
            let phase = phase(item, occasion);
            place.phase = phase.unwrap_or_default();
            place.turn = item.turn;
            let wave = annotation(item.value, SYNC_WAVE);
            match wave.map(|text| text.trim().parse()) {
                Some(Ok(wave)) => place.wave = wave,
                Some(Err(_)) => graph.problems.push(OrderProblem::Annotation {
                    object: item.told(),
                    key: SYNC_WAVE,
                    found: shortened(wave.unwrap_or_default()),
                    wanted: "a whole number",
                }),
                None if place.phase != Phase::Main => {
                    // What is no number weighs nothing, as with Helm.
                    let weight = annotation(item.value, HELM_WEIGHT).unwrap_or_default();
                    place.wave = weight.trim().parse().unwrap_or(0);
                }
                None => {}
            }
            graph.said.push(wave.is_some() || place.phase != Phase::Main || item.turn > 0);
            graph.idle.push(phase.is_none());
            graph.places.push(place);
        }
        graph
    }

    /// Finds what each object waits for.
    fn link(&mut self) {
        let items = self.items;
        let mut by_name: HashMap<(&str, &str, &str), Vec<usize>> = HashMap::new();
        let mut namespaces: HashMap<&str, usize> = HashMap::new();
        let mut definitions: HashMap<(&str, &str), usize> = HashMap::new();
        for (at, item) in items.iter().enumerate() {
            by_name.entry((item.id.group(), &item.id.kind, &item.id.name)).or_default().push(at);
            if is_namespace(item.id) {
                namespaces.insert(&item.id.name, at);
            } else if is_definition(item.id)
                && let spec = &item.value["spec"]
                && let (Some(group), Some(kind)) = (spec["group"].as_str(), spec["names"]["kind"].as_str())
            {
                definitions.insert((group, kind), at);
            }
        }
        for (at, item) in items.iter().enumerate() {
            let namespace = item.namespace().and_then(|namespace| namespaces.get(namespace));
            let definition = definitions.get(&(item.id.group(), item.id.kind.as_str()));
            for host in namespace.into_iter().chain(definition).copied().filter(|host| *host != at) {
                self.needs[at].push(host);
                if !self.idle[at] {
                    self.hosts.entry(host).or_default().push(at);
                }
            }
            let references = match depends_on(item.value) {
                Ok(references) => references,
                Err(found) => {
                    self.problems.push(OrderProblem::Annotation {
                        object: item.told(),
                        key: DEPENDS_ON,
                        found,
                        wanted: "`GROUP/KIND/NAME` or `GROUP/namespaces/NAMESPACE/KIND/NAME`, with \
                                 commas between several",
                    });
                    continue;
                }
            };
            for reference in references {
                let key = (reference.group.as_str(), reference.kind.as_str(), reference.name.as_str());
                let found = by_name.get(&key).into_iter().flatten().copied();
                let found: Vec<usize> = found.filter(|other| items[*other].is(&reference)).collect();
                if found.is_empty() {
                    let reference = shortened(&reference.to_string());
                    self.problems.push(OrderProblem::Unknown { object: item.told(), reference });
                }
                self.needs[at].extend(found);
            }
        }
        for needs in &mut self.needs {
            needs.sort_unstable();
            needs.dedup();
        }
    }

    /// Brings namespaces and definitions forward to the first wave that needs them.
    fn pull(&mut self) {
        for (host, guests) in &self.hosts {
            let first = guests.iter().map(|guest| self.places[*guest].wave()).min();
            if let Some(first) = first.filter(|first| *first < self.places[*host].wave()) {
                let place = &mut self.places[*host];
                (place.turn, place.phase, place.wave) = first;
                self.said[*host] = false;
            }
        }
    }

    /// Puts each object after what it waits for.
    fn settle(&mut self) {
        let mut waits: Vec<usize> = self.needs.iter().map(Vec::len).collect();
        let mut waiting: Vec<Vec<usize>> = vec![Vec::new(); self.items.len()];
        for (at, needs) in self.needs.iter().enumerate() {
            for need in needs {
                waiting[*need].push(at);
            }
        }
        let mut ready: VecDeque<usize> = (0..waits.len()).filter(|at| waits[*at] == 0).collect();
        let mut done = 0;
        while let Some(at) = ready.pop_front() {
            done += 1;
            self.settle_one(at);
            for next in std::mem::take(&mut waiting[at]) {
                waits[next] -= 1;
                if waits[next] == 0 {
                    ready.push_back(next);
                }
            }
        }
        if done < waits.len() {
            self.tell_ring(&waits);
        }
    }

    fn settle_one(&mut self, at: usize) {
        // What has nothing to do holds nobody up.
        let needs: Vec<usize> = self.needs[at].iter().copied().filter(|need| !self.idle[*need]).collect();
        if self.idle[at] {
            return;
        }
        let mut own = self.places[at];
        for need in &needs {
            let other = self.places[*need];
            if other.wave() <= own.wave() {
                continue;
            }
            if self.said[at] {
                self.problems.push(OrderProblem::Wave {
                    object: self.items[at].told(),
                    wave: own.wave_title(),
                    needs: self.items[*need].told(),
                    later: other.wave_title(),
                });
                continue;
            }
            (own.turn, own.phase, own.wave) = other.wave();
        }
        let mut alike: Vec<Place> = needs.iter().map(|need| self.places[*need]).collect();
        alike.retain(|other| other.wave() == own.wave());
        own.stage = alike.iter().map(|other| other.stage).max().unwrap_or(0).max(own.stage);
        let levels = alike.iter().filter(|other| other.stage == own.stage).map(|other| other.level + 1);
        own.level = levels.max().unwrap_or(0);
        self.places[at] = own;
    }

    /// Names one ring among the objects that nothing lets go.
    fn tell_ring(&mut self, waits: &[usize]) {
        let Some(mut at) = waits.iter().position(|count| *count > 0) else { return };
        let mut path: Vec<usize> = Vec::new();
        let mut seen: HashMap<usize, usize> = HashMap::new();
        while !seen.contains_key(&at) {
            seen.insert(at, path.len());
            path.push(at);
            // Each that waits still waits for another that does.
            let Some(next) = self.needs[at].iter().copied().find(|need| waits[*need] > 0) else { return };
            at = next;
        }
        let objects = path[seen[&at]..].iter().map(|at| self.items[*at].told()).collect();
        self.problems.push(OrderProblem::Ring { objects });
    }
}

#[cfg(test)]
mod tests;
