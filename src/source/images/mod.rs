//! From rendered objects to the images that they would run.
//!
//! Complete or refused: an image field that names no image is an error that says which one.

mod guess;
mod kinds;
mod places;
mod search;
mod split;
mod template;
mod text;

use std::fmt;

use serde::Serialize;

pub use self::places::locate;
use crate::model::{ImageRef, RenderedObject, Usage};

/// How sure it is that a reference is one, and runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Certainty {
    /// It looks like an image: whether it is one, its registry knows.
    Candidate,
    /// It certainly runs.
    Required,
}

/// What says that a text is an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// A container or an image volume of a pod spec.
    PodSpec,
    /// A field that a known kind runs.
    Schema,
    /// What looks like a pod spec, in an unknown kind.
    PodShape,
    /// A value that fills in the image of a template.
    Parameter,
    /// The version of a known kind, for which its operator takes a default image.
    Default,
    /// The default that a definition gives a field named like an image.
    Definition,
    /// A field named like an image.
    Field,
    /// Registry, repository and tag in fields of their own.
    Split,
    /// A container's argument.
    Argument,
    /// A container's variable named like an image.
    Variable,
    /// An annotation named like an image.
    Annotation,
    /// A key of a config map or secret named like an image.
    Data,
    /// A whole reference in a text, or a line of it that is named like an image.
    Text,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PodSpec => "a pod runs it",
            Self::Schema => "its kind runs it",
            Self::PodShape => "containers with names and images",
            Self::Parameter => "a parameter for an image",
            Self::Default => "the operator's default for this version",
            Self::Definition => "a field's default",
            Self::Field => "a field named like an image",
            Self::Split => "repository and tag in fields of their own",
            Self::Argument => "an argument",
            Self::Variable => "a variable named like an image",
            Self::Annotation => "an annotation named like an image",
            Self::Data => "a key named like an image",
            Self::Text => "a reference in a text",
        })
    }
}

/// One place that names an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundImage {
    /// The text as it stands in the manifest.
    pub text: String,
    /// What it means.
    pub image: ImageRef,
    /// Where it stands.
    pub usage: Usage,
    /// Whether it certainly runs.
    pub certainty: Certainty,
    /// What says so.
    pub rule: Rule,
}

/// One place that should name an image and does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnresolvableImage {
    /// What stands there; empty where nothing does.
    pub text: String,
    /// Why it names no image.
    pub why: String,
    /// Where it stands.
    pub usage: Usage,
    /// What says that it should name one.
    pub rule: Rule,
}

/// All that a release would run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Discovery {
    /// Images, in the order of the objects.
    pub found: Vec<FoundImage>,
    /// Fields that should name one, in the same order.
    pub unresolvable: Vec<UnresolvableImage>,
    /// Bytes of the paths of all of them.
    paths: usize,
    /// More was there than a release may have.
    full: bool,
}

/// Finds the images of `objects`.
///
/// The built-in kinds that hold a pod spec must name an image for every container of every list
/// and for every image volume; kinds of others are known by their schema (`kinds.rs`). What looks
/// like a pod spec in objects of unknown kinds is taken for one. Everything else is searched for
/// what looks like an image: fields, arguments and variables by their names, whole references by
/// their form, in documents within texts as well.
#[must_use]
pub fn discover(objects: &[RenderedObject]) -> Discovery {
    let mut discovery = Discovery::default();
    let mut texts = text::Budget::default();
    for object in objects {
        search::search(object, &mut texts, &mut discovery);
    }
    discovery
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fsio::limits;
    use crate::model::{ObjectId, Origin};

    fn object(api_version: &str, kind: &str, rest: &Value) -> RenderedObject {
        let mut value = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}});
        for (key, part) in rest.as_object().unwrap() {
            value[key] = part.clone();
        }
        let id = ObjectId::of(&value).unwrap();
        RenderedObject::new(id, Origin { file: "x.yaml".into(), line: Some(7), ..Origin::default() }, value)
    }

    fn fields(objects: &[RenderedObject]) -> Vec<(String, String)> {
        let found = discover(objects).found;
        found.into_iter().map(|image| (image.usage.field, image.image.to_string())).collect()
    }

    #[test]
    fn every_built_in_kind_and_every_list() {
        let spec = json!({
            "initContainers": [{"image": "a:1"}],
            "containers": [{"image": "b:1"}, {"image": "c:1"}],
            "ephemeralContainers": [{"image": "d:1"}],
            "volumes": [{"name": "x"}, {"image": {"reference": "e:1"}}],
        });
        for (api_version, kind, rest, path) in [
            ("v1", "Pod", json!({"spec": spec}), "spec"),
            ("v1", "PodTemplate", json!({"template": {"spec": spec}}), "template.spec"),
            (
                "v1",
                "ReplicationController",
                json!({"spec": {"template": {"spec": spec}}}),
                "spec.template.spec",
            ),
            ("apps/v1", "ReplicaSet", json!({"spec": {"template": {"spec": spec}}}), "spec.template.spec"),
            (
                "extensions/v1beta1",
                "Deployment",
                json!({"spec": {"template": {"spec": spec}}}),
                "spec.template.spec",
            ),
            ("apps/v1", "StatefulSet", json!({"spec": {"template": {"spec": spec}}}), "spec.template.spec"),
            (
                "apps/v1beta2",
                "DaemonSet",
                json!({"spec": {"template": {"spec": spec}}}),
                "spec.template.spec",
            ),
            ("batch/v1", "Job", json!({"spec": {"template": {"spec": spec}}}), "spec.template.spec"),
            (
                "batch/v1beta1",
                "CronJob",
                json!({"spec": {"jobTemplate": {"spec": {"template": {"spec": spec}}}}}),
                "spec.jobTemplate.spec.template.spec",
            ),
        ] {
            let want: Vec<_> = [
                ("initContainers[0].image", "a"),
                ("containers[0].image", "b"),
                ("containers[1].image", "c"),
                ("ephemeralContainers[0].image", "d"),
                ("volumes[1].image.reference", "e"),
            ]
            .map(|(field, name)| (format!("{path}.{field}"), format!("docker.io/library/{name}:1")))
            .to_vec();
            assert_eq!(fields(&[object(api_version, kind, &rest)]), want, "{kind}");
        }
    }

    #[test]
    fn texts_of_any_size_and_depth_end() {
        // Documents in documents: what lies too deep is looked at line by line.
        let mut text = "image: registry.example.com/deep:1\n".to_owned();
        for _ in 0..6 {
            text = format!("inner: |\n  {}\n", text.trim_end().replace('\n', "\n  "));
        }
        let long = format!("a: [\n{}", "image: registry.example.com/long:1\n".repeat(1000));
        let map = object("v1", "ConfigMap", &json!({"data": {"deep": text, "long": long}}));
        let found = discover(&[map]).found;
        assert_eq!(found.len(), 1001);
        let field = "data.deep -> inner -> inner -> inner -> line 4";
        assert!(found.iter().any(|found| found.usage.field == field), "{:?}", found[0].usage);

        // No text makes a list that fits into no memory: the release is refused instead.
        let endless = "image: a.example.com/b:1\n".repeat(limits::IMAGE_PLACES + 10);
        let map = object("v1", "ConfigMap", &json!({"data": {"endless": endless, "more": endless}}));
        let discovery = discover(&[map]);
        assert_eq!((discovery.found.len(), discovery.unresolvable.len()), (limits::IMAGE_PLACES, 1));
        assert_eq!(discovery.unresolvable[0].why, "more than 200000 places of the release name images");

        let level = |n: u8| {
            let (own, before) = (char::from(b'b' + n), char::from(b'a' + n));
            format!("{own}: &{own} [{}]", vec![format!("*{before}"); 10].join(", "))
        };
        let levels: Vec<_> = (0..9).map(level).collect();
        let bomb = format!("a: &a [x, x, x, x, x, x, x, x, x, x]\n{}\n", levels.join("\n"));
        let map = object("v1", "ConfigMap", &json!({"data": {"bomb": bomb}}));
        assert!(discover(&[map]).found.is_empty());
    }
}
