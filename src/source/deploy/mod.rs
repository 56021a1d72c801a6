//! Deployers inside a revision: Argo CD's and Flux's objects, followed to what they deploy.
//!
//! A repository that a deployer reads holds its deployers too: an `Application` names a folder of the
//! same repository, a `HelmRelease` a chart in it. What they would deploy is part of the release, so it
//! is rendered here, to any depth, with the meaning that the projects give to each field. A field that
//! may change the outcome and is not known is refused by name; a source that lies elsewhere is refused
//! with the lines of `fleetpack.yaml` that decide about it.

mod argo;
mod argo_set;
mod edit;
mod error;
mod fields;
mod flux;
mod flux_helm;
mod glob;
pub mod identity;
mod job;
mod known;
mod rendering;
mod substitute;
mod turns;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

pub use error::{DeployError, Place};
pub use identity::Identity;

use crate::fsio::limits;
use crate::model::deployers::{DeployersConfig, DeployersMode};
use crate::model::{ObjectId, ObjectRole, Origin, Progress, RenderedObject};
use crate::source::render::{self, RenderError, RenderTools, Tree};
use error::Trouble;
use job::Context;
use known::Known;
use rendering::Renderer;

/// Deployers that deploy deployers.
const DEPTH: usize = 32;
/// Deployers of one release.
const MOST: usize = 10_000;
/// How many names a message lists.
const LISTED: usize = 20;

/// What following deployers leans on.
pub struct Settings<'a> {
    /// `deployers` of `fleetpack.yaml`.
    pub config: &'a DeployersConfig,
    /// Which repository this is.
    pub identity: Identity,
    /// Whether no source is named, so that every YAML file is taken, also what deployers deploy.
    pub by_convention: bool,
    /// What renders.
    pub tools: &'a RenderTools,
    /// Told of what is left out.
    pub progress: &'a dyn Progress,
}

/// What an object is to this room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Application,
    ApplicationSet,
    Kustomization,
    HelmRelease,
    /// Serves deployers and nobody else.
    Feeder,
}

impl Part {
    fn of(id: &ObjectId) -> Option<Self> {
        Some(match (id.group(), id.kind.as_str()) {
            ("argoproj.io", "Application") => Self::Application,
            ("argoproj.io", "ApplicationSet") => Self::ApplicationSet,
            ("kustomize.toolkit.fluxcd.io", "Kustomization") => Self::Kustomization,
            ("helm.toolkit.fluxcd.io", "HelmRelease") => Self::HelmRelease,
            ("argoproj.io", "AppProject")
            | (
                "source.toolkit.fluxcd.io" | "image.toolkit.fluxcd.io" | "notification.toolkit.fluxcd.io",
                _,
            ) => Self::Feeder,
            _ => return None,
        })
    }

    fn is_deployer(self) -> bool {
        self != Self::Feeder
    }
}

/// Follows the deployers among `objects`, which were rendered from `tree`. Without a deployer the
/// objects come back as they are.
///
/// `tree` must lie in a private folder of its own; files in it are changed while they are rendered, and
/// put back.
///
/// # Errors
///
/// When a deployer leads elsewhere, asks for what is not done here, names what is not there, or
/// deploys what deploys it; when what it deploys does not render, or contradicts what there is.
pub fn follow(
    tree: &Path,
    objects: Vec<RenderedObject>,
    settings: &Settings<'_>,
) -> Result<Vec<RenderedObject>, DeployError> {
    let config = settings.config;
    if !objects.iter().any(|object| Part::of(&object.id).is_some_and(Part::is_deployer)) {
        for name in
            config.replace.iter().map(|entry| &entry.object).chain(config.ignore.iter().map(|e| &e.object))
        {
            settings.progress.warn(stale(&name.to_string()));
        }
        return Ok(objects);
    }
    let tree = Tree::open(tree)?;
    let mut work = Work {
        settings,
        renderer: Renderer { tree: &tree, tools: settings.tools, progress: settings.progress },
        known: Known::default(),
        pending: Vec::new(),
        followed: 0,
        edges: BTreeMap::new(),
        namespaces: BTreeMap::new(),
        elsewhere: Vec::new(),
        used: BTreeSet::new(),
        unset: BTreeSet::new(),
    };
    let given = objects.len();
    for object in objects {
        work.add(object, None)?;
    }
    work.run()?;
    work.check_cycles()?;
    work.add_namespaces();
    work.tell();

    let Work { known, .. } = work;
    let mut all = known.objects;
    if config.mode == DeployersMode::Expand {
        turns::assign(&mut all, settings.progress)?;
    }
    let given = without_inputs(&mut all, given, settings);
    if all.len() > limits::OBJECTS {
        return Err(RenderError::TooMany.into());
    }
    all.iter().try_for_each(render::check_size)?;
    render::settle(&mut all);
    render::refuse_doubled(&all)?;
    if config.mode == DeployersMode::Keep {
        let mut deployed = all.split_off(given);
        deployed.retain(|object| Part::of(&object.id).is_none());
        for object in &mut deployed {
            object.role = ObjectRole::Deployed;
        }
        all.append(&mut deployed);
    } else {
        all.retain(|object| Part::of(&object.id).is_none());
    }
    if !all.iter().any(|object| object.role.is_applied()) {
        let source_name = "what the revision's deployers deploy".to_owned();
        return Err(RenderError::Empty { source_name }.into());
    }
    Ok(all)
}

/// Leaves out those of the first `given` objects whose file a deployer deploys, if they are there only
/// because nothing says what the release is; else it is said that they are there twice. Answers with
/// how many of the given are left.
fn without_inputs(all: &mut Vec<RenderedObject>, given: usize, settings: &Settings<'_>) -> usize {
    let place = |object: &RenderedObject| (object.origin.file.clone(), object.origin.line);
    let deployed: BTreeMap<_, _> = all[given..]
        .iter()
        .filter_map(|object| {
            Some((place(object), (object.id.clone(), object.origin.deployers.last()?.clone())))
        })
        .collect();
    let twice: BTreeSet<usize> = (0..given)
        .filter(|at| {
            let object = &all[*at];
            let same = |id: &ObjectId| id.kind == object.id.kind && id.name == object.id.name;
            Part::of(&object.id).is_none() && deployed.get(&place(object)).is_some_and(|(id, _)| same(id))
        })
        .collect();
    for at in &twice {
        let object = &all[*at];
        let by = deployed.get(&place(object)).map(|(_, by)| by.clone()).unwrap_or_default();
        let (id, origin) = (&object.id, &object.origin);
        if settings.by_convention {
            settings.progress.note(format!("left out: {id} ({origin}) is what {by} deploys"));
        } else {
            settings
                .progress
                .warn(format!("{id} ({origin}) is in the release twice: by itself, and through {by}"));
        }
    }
    if !settings.by_convention {
        return given;
    }
    let mut at = 0;
    all.retain(|_| {
        at += 1;
        !twice.contains(&(at - 1))
    });
    given - twice.len()
}

fn stale(name: &str) -> String {
    format!("`deployers` of fleetpack.yaml decides about `{name}`, which is not in the revision")
}

struct Work<'a> {
    settings: &'a Settings<'a>,
    renderer: Renderer<'a>,
    known: Known,
    /// Deployers that are not followed yet.
    pending: Vec<RenderedObject>,
    followed: usize,
    /// Which deployer deploys which.
    edges: BTreeMap<String, BTreeSet<String>>,
    /// Namespaces that deployers make, with labels, annotations and who makes them.
    namespaces: BTreeMap<String, (Value, Value, Origin)>,
    elsewhere: Vec<Place>,
    /// Entries of the configuration that named something.
    used: BTreeSet<String>,
    unset: BTreeSet<String>,
}

impl Work<'_> {
    /// Follows deployers until none is left. One whose references are not known yet waits for the
    /// others; what is optional is given up only when nothing else moves.
    fn run(&mut self) -> Result<(), DeployError> {
        let mut sure = false;
        while !self.pending.is_empty() {
            let mut waiting = Vec::new();
            let mut moved = false;
            for object in std::mem::take(&mut self.pending) {
                match self.one(&object, sure) {
                    Ok(()) => moved = true,
                    Err(Stop::Trouble(Trouble::Later(field, why))) => waiting.push((object, field, why)),
                    Err(Stop::Trouble(Trouble::Elsewhere(field, why))) => {
                        moved = true;
                        self.elsewhere.push(place(&object, field, why));
                    }
                    Err(Stop::Trouble(trouble)) => return Err(named(&object, trouble)),
                    Err(Stop::Error(error)) => return Err(error),
                }
            }
            if !moved && sure {
                // What waits may wait for what lies elsewhere, so that is told first.
                if self.elsewhere.is_empty()
                    && let Some((object, field, why)) = waiting.into_iter().next()
                {
                    return Err(named(&object, Trouble::Missing(field, why)));
                }
                break;
            }
            sure = !moved;
            self.pending.extend(waiting.into_iter().map(|(object, ..)| object));
        }
        if self.elsewhere.is_empty() {
            return Ok(());
        }
        let places = std::mem::take(&mut self.elsewhere);
        Err(DeployError::Elsewhere { places, has_url: self.settings.identity.has_url() })
    }

    /// Follows one deployer.
    fn one(&mut self, object: &RenderedObject, sure: bool) -> Result<(), Stop> {
        let config = self.settings.config;
        if let Some(entry) = config.ignore.iter().find(|entry| entry.object.names(&object.id)) {
            self.used.insert(format!("ignore {}", entry.object));
            self.settings.progress.note(format!("{} is not followed: {}", object.id, entry.reason));
            return Ok(());
        }
        let replaced: Vec<_> = config.replace.iter().filter(|entry| entry.object.names(&object.id)).collect();
        for entry in &replaced {
            self.used.insert(format!("replace {}", entry.object));
        }
        let context =
            Context { tree: self.renderer.tree, identity: &self.settings.identity, id: &object.id, replaced };
        let deployers: Vec<String> =
            object.origin.deployers.iter().cloned().chain([object.id.to_string()]).collect();
        let asked_by = Origin { deployers: deployers.clone(), ..object.origin.clone() }.to_string();
        let suspended = || {
            self.settings.progress.note(format!("{} is suspended, and deploys nothing", object.id));
        };
        let mut products = Vec::new();
        match Part::of(&object.id) {
            Some(Part::Application) => {
                let application = argo::application(&object.value, &context)?;
                for job in application.jobs {
                    products.extend(self.renderer.render(job, &asked_by)?);
                }
                for product in &mut products {
                    argo_role(product);
                }
                products.retain(|product| !is_skipped(product));
                if let Some(namespace) = &application.namespace {
                    for product in &mut products {
                        // Helm's own default is the chart's; Argo CD's own goes before it.
                        product.default_namespace = Some(namespace.clone());
                    }
                    if let Some((labels, annotations)) = application.create_namespace {
                        let origin = Origin { deployers: deployers.clone(), ..object.origin.clone() };
                        self.namespaces.entry(namespace.clone()).or_insert((labels, annotations, origin));
                    }
                }
            }
            Some(Part::ApplicationSet) => {
                for value in argo_set::applications(&object.value, &context)? {
                    let id = ObjectId::of(&value).map_err(|why| {
                        Trouble::invalid("spec.template", format!("gives an Application where {why}"))
                    })?;
                    products.push(RenderedObject::new(id, object.origin.clone(), value));
                }
            }
            Some(Part::Kustomization) => {
                let Some(read) = flux::kustomization(&object.value, &context, &self.known, sure)? else {
                    suspended();
                    return Ok(());
                };
                products = self.renderer.render(read.job, &asked_by)?;
                self.after(&read.after, &mut products)?;
            }
            Some(Part::HelmRelease) => {
                let Some(read) = flux_helm::helm_release(&object.value, &context, &self.known, sure)? else {
                    suspended();
                    return Ok(());
                };
                let namespace = read.chart.namespace.clone();
                products = self.renderer.render(job::Job::Chart(Box::new(read.chart)), &asked_by)?;
                self.after(&read.after, &mut products)?;
                if let Some(namespace) = namespace.filter(|_| read.create_namespace) {
                    let origin = Origin { deployers: deployers.clone(), ..object.origin.clone() };
                    self.namespaces.entry(namespace).or_insert((Value::Null, Value::Null, origin));
                }
            }
            Some(Part::Feeder) | None => return Ok(()),
        }
        for mut product in products {
            product.origin.deployers.clone_from(&deployers);
            self.add(product, Some(object)).map_err(Stop::Error)?;
        }
        Ok(())
    }

    fn after(&mut self, after: &flux::After, products: &mut [RenderedObject]) -> Result<(), Trouble> {
        for product in products {
            let id = product.id.to_string();
            let mut unset = BTreeSet::new();
            after
                .apply(product, &mut unset)
                .map_err(|why| Trouble::invalid("spec.postBuild", format!("{id}: {why}")))?;
            self.unset.extend(unset.into_iter().map(|name| format!("`${{{name}}}` of {id}")));
        }
        Ok(())
    }

    /// Takes an object of the release, or of the deployer `by`.
    fn add(&mut self, mut object: RenderedObject, by: Option<&RenderedObject>) -> Result<(), DeployError> {
        let part = Part::of(&object.id);
        // All of these belong to a namespace, and refer to others in it.
        if part.is_some()
            && object.id.namespace.is_none()
            && let Some(namespace) = object.default_namespace.take()
        {
            object.value["metadata"]["namespace"] = Value::String(namespace.clone());
            object.id.namespace = Some(namespace);
        }
        let is_deployer = part.is_some_and(Part::is_deployer);
        if let (true, Some(by)) = (is_deployer, by) {
            self.edges.entry(by.id.to_string()).or_default().insert(object.id.to_string());
        }
        if let Some(there) = self.known.same(&object) {
            // A deployer that deploys itself, perhaps with a label more, is how they are bootstrapped.
            let manages_itself = is_deployer && there.value["spec"] == object.value["spec"];
            if by.is_some() && (manages_itself || there.value == object.value) {
                return Ok(());
            }
            return Err(DeployError::Objects(RenderError::Doubled {
                id: Box::new(object.id),
                first: Box::new(there.origin.clone()),
                second: Box::new(object.origin),
            }));
        }
        if is_deployer {
            if object.origin.deployers.len() > DEPTH {
                return Err(DeployError::Deep { limit: DEPTH, chain: object.origin.deployers });
            }
            self.followed += 1;
            if self.followed > MOST {
                return Err(DeployError::Many { limit: MOST });
            }
            self.pending.push(object.clone());
        }
        if self.known.objects.len() > limits::OBJECTS {
            return Err(RenderError::TooMany.into());
        }
        self.known.add(object);
        Ok(())
    }

    /// Refuses deployers that deploy one another; one that deploys itself is what it is.
    fn check_cycles(&self) -> Result<(), DeployError> {
        let mut done: BTreeSet<&str> = BTreeSet::new();
        for start in self.edges.keys() {
            let mut path: Vec<(&str, Vec<&str>)> = vec![(start, self.next(start))];
            while let Some((name, next)) = path.last_mut() {
                let name = *name;
                let Some(to) = next.pop() else {
                    done.insert(name);
                    path.pop();
                    continue;
                };
                if let Some(at) = path.iter().position(|(on, _)| *on == to) {
                    let mut chain: Vec<String> = path[at..].iter().map(|(on, _)| (*on).to_owned()).collect();
                    chain.push(to.to_owned());
                    return Err(DeployError::Cycle { chain });
                }
                if !done.contains(to) {
                    path.push((to, self.next(to)));
                }
            }
        }
        Ok(())
    }

    fn next<'b>(&'b self, name: &'b str) -> Vec<&'b str> {
        let next = self.edges.get(name).into_iter().flatten().map(String::as_str);
        next.filter(|to| *to != name).collect()
    }

    /// Adds the namespaces that deployers make and nothing else of the release does.
    fn add_namespaces(&mut self) {
        for (name, (labels, annotations, origin)) in std::mem::take(&mut self.namespaces) {
            if self.known.find("", "Namespace", None, &name).is_some() {
                continue;
            }
            let mut value = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            for (field, map) in [("labels", labels), ("annotations", annotations)] {
                if map.as_object().is_some_and(|map| !map.is_empty()) {
                    value["metadata"][field] = map;
                }
            }
            let id = ObjectId { api_version: "v1".into(), kind: "Namespace".into(), namespace: None, name };
            self.known.add(RenderedObject::new(id, origin, value));
        }
    }

    /// Says what is left out, what is set nowhere, and what in the configuration names nothing.
    fn tell(&self) {
        let Settings { config, progress, .. } = self.settings;
        if config.mode == DeployersMode::Expand {
            let left: Vec<_> =
                self.known.objects.iter().filter(|object| Part::of(&object.id).is_some()).collect();
            let names = left.iter().take(LISTED).map(|object| object.id.to_string()).collect::<Vec<_>>();
            progress.note(format!(
                "left out, for the release holds what they deploy: {}{}",
                names.join(", "),
                more(left.len())
            ));
        }
        if !self.unset.is_empty() {
            let names: Vec<_> = self.unset.iter().take(LISTED).cloned().collect();
            progress.warn(format!(
                "set nowhere, so Flux puts nothing there: {}{}",
                names.join(", "),
                more(self.unset.len())
            ));
        }
        for (what, name) in config
            .replace
            .iter()
            .map(|entry| ("replace", &entry.object))
            .chain(config.ignore.iter().map(|entry| ("ignore", &entry.object)))
        {
            if !self.used.contains(&format!("{what} {name}")) {
                progress.warn(stale(&name.to_string()));
            }
        }
    }
}

fn more(count: usize) -> String {
    if count > LISTED { format!(" and {} more", count - LISTED) } else { String::new() }
}

/// Why following one deployer stopped.
enum Stop {
    Trouble(Trouble),
    Error(DeployError),
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

fn place(object: &RenderedObject, field: String, why: String) -> Place {
    Place { object: object.id.clone(), origin: object.origin.clone(), field, why }
}

fn named(object: &RenderedObject, trouble: Trouble) -> DeployError {
    let place = |field, why| Box::new(place(object, field, why));
    match trouble {
        Trouble::Invalid(field, why) => DeployError::Invalid { place: place(field, why) },
        Trouble::Unsupported(field, why) => DeployError::Unsupported { place: place(field, why) },
        Trouble::Missing(field, why) | Trouble::Later(field, why) => {
            DeployError::Missing { place: place(field, why) }
        }
        Trouble::Elsewhere(field, why) => {
            DeployError::Elsewhere { places: vec![*place(field, why)], has_url: true }
        }
        Trouble::Render(source) => {
            DeployError::Render { object: Box::new(object.id.clone()), origin: object.origin.clone(), source }
        }
    }
}

const ARGO_HOOK: &str = "argocd.argoproj.io/hook";

fn argo_hooks(object: &RenderedObject) -> impl Iterator<Item = &str> {
    let hooks = object.value["metadata"]["annotations"][ARGO_HOOK].as_str().unwrap_or_default();
    hooks.split(',').map(str::trim).filter(|hook| !hook.is_empty())
}

/// Marks hooks of Argo CD, and of Helm, which Argo CD takes wherever they stand.
fn argo_role(object: &mut RenderedObject) {
    if object.role == ObjectRole::Plain {
        object.role = ObjectRole::in_chart(&object.id, &object.value);
    }
    if argo_hooks(object).next().is_none() {
        return;
    }
    let runs = argo_hooks(object).any(|hook| matches!(hook, "PreSync" | "Sync" | "PostSync"));
    object.role = if runs { ObjectRole::Hook } else { ObjectRole::UndoHook };
}

/// Whether Argo CD passes over the object.
fn is_skipped(object: &RenderedObject) -> bool {
    argo_hooks(object).any(|hook| hook == "Skip")
}
