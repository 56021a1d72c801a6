//! The search through one object: first the fields that certainly run images, then all others.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::guess::{self, Name};
use super::kinds::{self, Holds, Known};
use super::{Certainty, Discovery, FoundImage, Rule, UnresolvableImage};
use crate::fsio::limits;
use crate::model::{FieldPath, ImageRef, ObjectId, Origin, RenderedObject, Usage};

pub(super) const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Keys whose values are prose for people, or about credentials.
const PASSED_OVER: &[&str] = &[
    "description",
    "longDescription",
    "imagePullSecrets",
    "imagePullSecret",
    "managedFields",
    "matchLabels",
];

/// Searches one object.
pub(super) fn search(object: &RenderedObject, texts: &mut super::text::Budget, out: &mut Discovery) {
    let mut search = Search {
        id: &object.id,
        origin: &object.origin,
        root: &object.value,
        path: FieldPath::default(),
        taken: HashSet::new(),
        told: HashSet::new(),
        loose: false,
        rule: Rule::Field,
        parameters: None,
        depth: 0,
        texts,
        out,
    };
    search.object(&object.value, object.id.group(), &object.id.kind);
}

pub(super) struct Search<'a> {
    id: &'a ObjectId,
    origin: &'a Origin,
    /// The object, or the document within a text, that is searched.
    pub(super) root: &'a Value,
    pub(super) path: FieldPath,
    /// Fields that are dealt with.
    taken: HashSet<String>,
    told: HashSet<(String, ImageRef)>,
    /// Nothing here is sure: all is a candidate, and what is none is nothing.
    loose: bool,
    /// What a value with the name of an image is called here.
    pub(super) rule: Rule,
    /// The values of its parameters, once somebody asked for one.
    pub(super) parameters: Option<HashMap<&'a str, Vec<&'a str>>>,
    /// Texts within texts.
    pub(super) depth: usize,
    pub(super) texts: &'a mut super::text::Budget,
    out: &'a mut Discovery,
}

impl Search<'_> {
    /// Searches an object of a cluster.
    fn object(&mut self, value: &Value, group: &str, kind: &str) {
        match kinds::known(group, kind) {
            Known::Silent => return,
            Known::Definition => return self.definition(value, ""),
            Known::Policy => self.loose = true,
            Known::BuiltIn(entry) | Known::Custom(entry) => {
                let strict = matches!(kinds::known(group, kind), Known::BuiltIn(_));
                for (path, holds) in entry.fields {
                    self.follow(value, path, *holds, strict);
                }
            }
            Known::Unknown => {}
        }
        let data = group.is_empty() && matches!(kind, "ConfigMap" | "Secret");
        for (key, child) in value.as_object().into_iter().flatten() {
            if matches!(key.as_str(), "apiVersion" | "kind" | "status") {
                continue;
            }
            let length = self.path.len();
            self.path.key(key);
            match key.as_str() {
                "data" if data && kind == "Secret" => self.secret(child),
                "data" | "stringData" | "binaryData" if data => self.data(child),
                _ => self.value(child, guess::classify(key)),
            }
            self.path.truncate(length);
        }
    }

    /// Searches a document that stands in a text: none of it is sure.
    pub(super) fn document(&mut self, value: &Value) {
        let inner = Search {
            id: self.id,
            origin: self.origin,
            root: value,
            path: std::mem::take(&mut self.path),
            taken: HashSet::new(),
            told: std::mem::take(&mut self.told),
            loose: true,
            rule: Rule::Field,
            parameters: None,
            depth: self.depth + 1,
            texts: &mut *self.texts,
            out: &mut *self.out,
        };
        let (path, told) = inner.whole_document(value);
        self.path = path;
        self.told = told;
    }

    fn whole_document(mut self, value: &Value) -> (FieldPath, HashSet<(String, ImageRef)>) {
        match ObjectId::of(value) {
            Ok(id) => self.object(value, id.group(), &id.kind),
            Err(_) => self.value(value, Name::None),
        }
        (self.path, self.told)
    }

    /// Goes along a path of the tables and takes what stands at its end.
    fn follow(&mut self, value: &Value, path: &str, holds: Holds, strict: bool) {
        let (part, rest) = match path.split_once('.') {
            Some((part, rest)) => (part, Some(rest)),
            None => (path, None),
        };
        let length = self.path.len();
        if part == "*" {
            for (key, child) in value.as_object().into_iter().flatten() {
                self.path.key(key);
                self.arrive(Some(child), rest, holds, strict);
                self.path.truncate(length);
            }
        } else if let Some(list) = part.strip_suffix("[]") {
            self.path.key(list);
            let length_of_list = self.path.len();
            for (at, child) in value[list].as_array().into_iter().flatten().enumerate() {
                self.path.index(at);
                self.arrive(Some(child), rest, holds, strict);
                self.path.truncate(length_of_list);
            }
        } else {
            self.path.key(part);
            self.arrive(value.get(part), rest, holds, strict);
        }
        self.path.truncate(length);
    }

    fn arrive(&mut self, value: Option<&Value>, rest: Option<&str>, holds: Holds, strict: bool) {
        match (value, rest) {
            (Some(value), Some(rest)) => self.follow(value, rest, holds, strict),
            (value, None) => match holds {
                Holds::PodSpec | Holds::Overlay => {
                    let rule = if strict { Rule::PodSpec } else { Rule::Schema };
                    let sure = holds == Holds::PodSpec;
                    self.pod_spec(value.unwrap_or(&Value::Null), rule, sure);
                }
                Holds::Image => self.sure(value, Rule::Schema, false),
                Holds::Offer => self.offer(value),
                Holds::Versioned(default) => self.versioned(value.unwrap_or(&Value::Null), default),
            },
            (None, Some(_)) => {}
        }
    }

    /// Takes the images of a pod spec. `sure`: each container must name one.
    fn pod_spec(&mut self, spec: &Value, rule: Rule, sure: bool) {
        let start = self.path.len();
        for list in CONTAINER_LISTS {
            self.path.key(list);
            let length = self.path.len();
            for (at, container) in spec[list].as_array().into_iter().flatten().enumerate() {
                self.path.index(at);
                self.path.key("image");
                self.sure(container.get("image"), rule, sure);
                self.path.truncate(length);
            }
            self.path.truncate(start);
        }
        self.path.key("volumes");
        let length = self.path.len();
        for (at, volume) in spec["volumes"].as_array().into_iter().flatten().enumerate() {
            if let Some(image) = volume.get("image").filter(|image| image.is_object()) {
                self.path.index(at);
                self.path.key("image");
                self.path.key("reference");
                self.sure(image.get("reference"), rule, sure);
                self.path.truncate(length);
            }
        }
        self.path.truncate(start);
    }

    /// Takes a field that certainly holds an image; `wanted`: it must be there.
    fn sure(&mut self, value: Option<&Value>, rule: Rule, wanted: bool) {
        let (text, why) = match value {
            // Blank is how some kinds say that something else fills it in.
            Some(Value::String(text)) if !text.trim().is_empty() => {
                let reference = guess::without_scheme(text);
                let url = self.path.as_str().rsplit('.').next() == Some("url");
                let bare = if rule == Rule::Schema { reference } else { text };
                match bare.parse::<ImageRef>() {
                    Ok(image) => return self.take(text, image, Certainty::Required, rule),
                    // A module or disk may come from a web server instead.
                    Err(_) if url && reference.contains("://") => return,
                    Err(_) if rule == Rule::Schema && self.parameter(text) => return,
                    Err(_) if text.contains("${") || text.contains("{{") || text.contains("$(") => {
                        (text.clone(), format!("`{text:.300}` is a template that nothing filled in"))
                    }
                    Err(error) => (text.clone(), error.to_string()),
                }
            }
            _ if !wanted => return,
            None | Some(Value::Null) => (String::new(), "there is no image".to_owned()),
            Some(Value::String(_)) => (String::new(), "the image is empty".to_owned()),
            Some(other) => {
                let text = other.to_string();
                let why = format!("`{text:.300}` is not a string");
                (text, why)
            }
        };
        if self.is_full(rule) {
            return;
        }
        self.taken.insert(self.path.as_str().to_owned());
        if !self.loose {
            let usage = self.usage();
            self.out.paths += usage.field.len();
            self.out.unresolvable.push(UnresolvableImage { text, why, usage, rule });
        }
    }

    fn offer(&mut self, value: Option<&Value>) {
        if let Some(Value::String(text)) = value
            && let Ok(image) = text.parse::<ImageRef>()
        {
            self.take(text, image, Certainty::Candidate, Rule::Schema);
        }
    }

    /// Takes the image of an object that names it in several fields, or by its version alone.
    fn versioned(&mut self, value: &Value, default: &str) {
        let text = |key: &str| value[key].as_str().filter(|text| !text.is_empty());
        let length = self.path.len();
        if text("image").is_some() {
            self.path.key("image");
            self.sure(value.get("image"), Rule::Schema, false);
            self.path.truncate(length);
            return;
        }
        let base = text("baseImage");
        let pinned = match (text("sha"), text("tag"), text("version")) {
            (Some(sha), ..) => format!("@sha256:{sha}"),
            (None, Some(tag), _) => format!(":{tag}"),
            (None, None, Some(version)) => format!(":{version}"),
            (None, None, None) => return,
        };
        let reference = format!("{}{pinned}", base.unwrap_or(default));
        let Ok(image) = reference.parse::<ImageRef>() else { return };
        // Which default an operator has, its own arguments decide.
        let (key, certainty, rule) = match base {
            Some(_) => ("baseImage", Certainty::Required, Rule::Schema),
            None => ("version", Certainty::Candidate, Rule::Default),
        };
        self.path.key(key);
        self.take(&reference, image, certainty, rule);
        self.path.truncate(length);
    }

    fn usage(&self) -> Usage {
        Usage {
            origin: self.origin.clone(),
            object: self.id.clone(),
            field: self.path.as_str().to_owned(),
            line: None,
        }
    }

    /// Notes an image at the path.
    pub(super) fn take(&mut self, text: &str, image: ImageRef, certainty: Certainty, rule: Rule) {
        if self.is_full(rule) {
            return;
        }
        let field = self.path.as_str().to_owned();
        self.taken.insert(field.clone());
        if self.told.insert((field, image.clone())) {
            let certainty = if self.loose { Certainty::Candidate } else { certainty };
            let usage = self.usage();
            self.out.paths += usage.field.len();
            self.out.found.push(FoundImage { text: text.to_owned(), image, usage, certainty, rule });
        }
    }

    /// Whether nothing more is taken. The first time it is told, which refuses the release.
    pub(super) fn is_full(&mut self, rule: Rule) -> bool {
        let count = self.out.found.len() + self.out.unresolvable.len();
        if !self.out.full && (count >= limits::IMAGE_PLACES || self.out.paths >= limits::IMAGE_PATHS) {
            self.out.full = true;
            let why = format!("more than {} places of the release name images", limits::IMAGE_PLACES);
            let usage = self.usage();
            self.out.unresolvable.push(UnresolvableImage { text: String::new(), why, usage, rule });
        }
        self.out.full
    }

    /// Notes what looks like an image.
    pub(super) fn candidate(&mut self, text: &str, image: ImageRef, rule: Rule) {
        self.take(text, image, Certainty::Candidate, rule);
    }

    /// Searches any value. Its depth is bounded by the reader of the value.
    pub(super) fn value(&mut self, value: &Value, name: Name) {
        match value {
            Value::String(text) => self.string(text, name),
            Value::Array(items) => self.items(items, name),
            Value::Object(entries) => self.mapping(entries, name),
            _ => {}
        }
    }

    fn string(&mut self, text: &str, name: Name) {
        if self.taken.contains(self.path.as_str()) {
            return;
        }
        if name != Name::None
            && let Some(image) = guess::named(text, name)
        {
            let rule = self.rule;
            return self.candidate(text, image, rule);
        }
        self.text(text);
    }

    fn items(&mut self, items: &[Value], name: Name) {
        let length = self.path.len();
        let pairs = pairs(items);
        let entries: Vec<_> = pairs.iter().map(|(_, name, _, value)| (*name, *value)).collect();
        for found in super::split::assemble(&entries, Name::None) {
            let (at, _, field, _) = pairs[found.at];
            self.path.index(at);
            self.path.key(field);
            self.assembled(&found);
            self.path.truncate(length);
        }
        for (at, item) in items.iter().enumerate() {
            self.path.index(at);
            self.value(item, name);
            self.path.truncate(length);
        }
    }

    fn mapping(&mut self, entries: &Map<String, Value>, name: Name) {
        self.pod_shape(entries);
        if entries.keys().any(|key| is_split_key(key)) {
            let list: Vec<_> = entries.iter().map(|(key, value)| (key.as_str(), value)).collect();
            let length = self.path.len();
            for found in super::split::assemble(&list, name) {
                self.path.key(list[found.at].0);
                self.assembled(&found);
                self.path.truncate(length);
            }
        }
        let pair_name = entries.get("name").and_then(Value::as_str).map_or(Name::None, guess::classify);
        for (key, child) in entries {
            if PASSED_OVER.contains(&key.as_str()) {
                continue;
            }
            let length = self.path.len();
            self.path.key(key);
            let here = match key.as_str() {
                // A pair of a name and a value, as variables and parameters are.
                "value" | "default" if pair_name != Name::None => pair_name,
                // What stands in an object that is called an image.
                "name" | "ref" | "reference" | "uri" | "url" if name != Name::None => Name::Part,
                // An openshift reference; its kind says what it is.
                "name" if entries.get("kind").is_some_and(|kind| kind == "DockerImage") => Name::Exact,
                "repository" | "registry" | "tag" | "digest" => Name::None,
                key => match guess::classify(key) {
                    // A mapping of images by any keys.
                    Name::None if name == Name::Exact && child.is_string() && images_by_key(entries) => {
                        Name::Part
                    }
                    own => own,
                },
            };
            let rule = self.rule;
            match (key.as_str(), child) {
                ("env", _) => self.rule = Rule::Variable,
                ("params" | "parameters", _) => self.rule = Rule::Parameter,
                _ => {}
            }
            match (key.as_str(), child) {
                ("args" | "command" | "extraArgs" | "additionalArgs", Value::Array(items)) => {
                    self.arguments(items);
                }
                ("annotations", Value::Object(annotations)) => self.annotations(annotations),
                ("labels" | "nodeSelector" | "matchExpressions", _) => {}
                _ => self.value(child, here),
            }
            self.rule = rule;
            self.path.truncate(length);
        }
    }

    /// Takes the images of what looks like a pod spec: containers with names and images.
    fn pod_shape(&mut self, entries: &Map<String, Value>) {
        let lists = CONTAINER_LISTS.iter().filter_map(|list| entries.get(*list)?.as_array());
        let mut containers = lists.flatten().peekable();
        let shape = containers.peek().is_some()
            && containers.all(|item| item["name"].is_string())
            && entries
                .get("containers")
                .and_then(Value::as_array)
                .is_some_and(|list| list.iter().any(|item| item["image"].is_string()));
        if shape {
            let start = self.path.len();
            for list in CONTAINER_LISTS {
                self.path.key(list);
                let length = self.path.len();
                let items = entries.get(list).and_then(Value::as_array);
                for (at, container) in items.into_iter().flatten().enumerate() {
                    self.path.index(at);
                    self.path.key("image");
                    if !self.taken.contains(self.path.as_str()) {
                        self.sure(container.get("image"), Rule::PodShape, false);
                    }
                    self.path.truncate(length);
                }
                self.path.truncate(start);
            }
        }
    }

    /// Searches the arguments of a container.
    fn arguments(&mut self, items: &[Value]) {
        let length = self.path.len();
        let mut flag = Name::None;
        for (at, item) in items.iter().enumerate() {
            self.path.index(at);
            let before = std::mem::replace(&mut flag, Name::None);
            match item {
                Value::String(text) => match flag_of(text) {
                    Some((name, Some(value))) => {
                        match guess::named(value, guess::classify(name))
                            .or_else(|| guess::whole(guess::without_scheme(value)))
                        {
                            Some(image) => self.candidate(value, image, Rule::Argument),
                            None => self.text(text),
                        }
                    }
                    Some((name, None)) => flag = guess::classify(name),
                    None => match guess::named(text, before).filter(|_| before >= Name::Part) {
                        Some(image) => self.candidate(text, image, Rule::Argument),
                        None => self.text(text),
                    },
                },
                other => self.value(other, Name::None),
            }
            self.path.truncate(length);
        }
    }

    fn annotations(&mut self, annotations: &Map<String, Value>) {
        let length = self.path.len();
        for (key, value) in annotations {
            let Value::String(text) = value else { continue };
            if kinds::is_tool_annotation(key) || PASSED_OVER.contains(&key.as_str()) {
                continue;
            }
            self.path.key(key);
            if let Some((_, tag)) = kinds::ANNOTATIONS.iter().find(|(known, _)| known == key) {
                let tag = tag.and_then(|tag| annotations.get(tag)?.as_str());
                let reference = match tag {
                    Some(tag) if !text.rsplit('/').next().unwrap_or_default().contains([':', '@']) => {
                        format!("{text}:{tag}")
                    }
                    _ => text.clone(),
                };
                self.sure(Some(&Value::String(reference)), Rule::Schema, false);
            } else {
                let rule = std::mem::replace(&mut self.rule, Rule::Annotation);
                self.string(text, guess::classify(key));
                self.rule = rule;
            }
            self.path.truncate(length);
        }
    }

    /// Searches what a config map or secret holds.
    fn data(&mut self, data: &Value) {
        let rule = std::mem::replace(&mut self.rule, Rule::Data);
        if let Value::Object(entries) = data {
            self.mapping(entries, Name::None);
        }
        self.rule = rule;
    }

    /// Searches what a secret holds in base64.
    fn secret(&mut self, data: &Value) {
        use base64::Engine as _;
        let mut plain = Map::new();
        for (key, value) in data.as_object().into_iter().flatten() {
            let bytes = value.as_str().and_then(|text| {
                let text: String = text.split_ascii_whitespace().collect();
                base64::engine::general_purpose::STANDARD.decode(text).ok()
            });
            if let Some(text) = bytes.and_then(|bytes| String::from_utf8(bytes).ok()) {
                plain.insert(key.clone(), Value::String(text));
            }
        }
        self.data(&Value::Object(plain));
    }

    /// Takes an image whose parts stand in fields of their own, at the path of its repository.
    fn assembled(&mut self, found: &super::split::Assembled) {
        if !self.taken.contains(self.path.as_str()) {
            self.candidate(&found.text, found.image.clone(), Rule::Split);
        }
    }
}

/// Items that pair a name with a value: index, name, the value's key, the value.
fn pairs(items: &[Value]) -> Vec<(usize, &str, &'static str, &Value)> {
    let pair = |(at, item): (usize, &'_ Value)| -> Option<(usize, String, &'static str)> {
        let name = item.get("name")?.as_str().filter(|name| is_split_key(name))?;
        let key = ["value", "default"].into_iter().find(|key| item.get(*key).is_some())?;
        Some((at, name.to_owned(), key))
    };
    if !items.iter().enumerate().any(|item| pair(item).is_some()) {
        return Vec::new();
    }
    items
        .iter()
        .enumerate()
        .filter_map(|(at, item)| {
            let key = ["value", "default"].into_iter().find(|key| item.get(*key).is_some())?;
            Some((at, item.get("name")?.as_str()?, key, item.get(key)?))
        })
        .collect()
}

/// Whether a key may hold a part of a reference that stands apart.
fn is_split_key(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["repository", "repo", "tag", "digest", "sha", "sha256"].iter().any(|end| key.ends_with(end))
}

/// Whether a mapping that is called `images` holds images by names of its own.
fn images_by_key(entries: &Map<String, Value>) -> bool {
    !entries.keys().any(|key| is_split_key(key) || matches!(key.as_str(), "name" | "pullPolicy" | "registry"))
}

/// The name of a flag, and its value where that stands in the same argument.
fn flag_of(text: &str) -> Option<(&str, Option<&str>)> {
    let name = text.strip_prefix("--").or_else(|| text.strip_prefix('-'))?;
    if name.is_empty() || name.starts_with('-') || name.contains(char::is_whitespace) && !name.contains('=') {
        return None;
    }
    match name.split_once('=') {
        Some((name, value)) => Some((name, Some(value.trim_matches(['"', '\''])))),
        None => Some((name, None)),
    }
}
