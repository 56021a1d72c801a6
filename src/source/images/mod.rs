//! From rendered objects to the images that they would run.
//!
//! Complete or refused: an image field that names no image is an error that says which one.

use std::fmt::{self, Write as _};

use serde::Serialize;
use serde_json::Value;

use crate::model::{ImageRef, ObjectId, Origin, RenderedObject, Usage};

const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// The built-in kinds that hold a pod spec, by group and kind, and where they hold it.
const POD_SPECS: &[(&[&str], &str, &[&str])] = &[
    (&[""], "Pod", &["spec"]),
    (&[""], "PodTemplate", &["template", "spec"]),
    (&[""], "ReplicationController", &["spec", "template", "spec"]),
    (&["apps", "extensions"], "ReplicaSet", &["spec", "template", "spec"]),
    (&["apps", "extensions"], "Deployment", &["spec", "template", "spec"]),
    (&["apps", "extensions"], "DaemonSet", &["spec", "template", "spec"]),
    (&["apps"], "StatefulSet", &["spec", "template", "spec"]),
    (&["batch"], "Job", &["spec", "template", "spec"]),
    (&["batch"], "CronJob", &["spec", "jobTemplate", "spec", "template", "spec"]),
];

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
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PodSpec => "a pod",
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
}

/// Finds the images of `objects`.
///
/// The built-in kinds that hold a pod spec must name an image for every container of every list
/// and for every image volume. In objects of other kinds, whatever looks like a pod spec (a
/// mapping with a list `containers` whose entries have an `image`) is taken too.
#[must_use]
pub fn discover(objects: &[RenderedObject]) -> Discovery {
    let mut discovery = Discovery::default();
    for object in objects {
        let mut search = Search { object: &object.id, origin: &object.origin, out: &mut discovery };
        let built_in = POD_SPECS
            .iter()
            .find(|(groups, kind, _)| *kind == object.id.kind && groups.contains(&object.id.group()));
        match built_in {
            Some((_, _, path)) => {
                let spec = path.iter().fold(&object.value, |value, part| &value[part]);
                search.pod_spec(spec, &path.join("."), true);
            }
            // It describes objects and runs nothing.
            None if object.id.kind == "CustomResourceDefinition" => {}
            None => search.anywhere(&object.value, &mut String::new()),
        }
    }
    discovery
}

struct Search<'a> {
    object: &'a ObjectId,
    origin: &'a Origin,
    out: &'a mut Discovery,
}

impl Search<'_> {
    /// Takes the images of a pod spec at `path`. `sure`: it is one, so each container must name
    /// an image; else only a string counts.
    fn pod_spec(&mut self, spec: &Value, path: &str, sure: bool) {
        for list in CONTAINER_LISTS {
            for (at, container) in spec[list].as_array().into_iter().flatten().enumerate() {
                let field = format!("{path}.{list}[{at}].image");
                self.field(container.get("image"), field, sure);
            }
        }
        for (at, volume) in spec["volumes"].as_array().into_iter().flatten().enumerate() {
            if let Some(image) = volume.get("image").filter(|image| image.is_object()) {
                self.field(image.get("reference"), format!("{path}.volumes[{at}].image.reference"), sure);
            }
        }
    }

    fn field(&mut self, value: Option<&Value>, field: String, sure: bool) {
        let usage = Usage { origin: self.origin.clone(), object: self.object.clone(), field, line: None };
        let (text, why) = match value {
            Some(Value::String(text)) if !text.is_empty() => match text.parse::<ImageRef>() {
                Ok(image) => {
                    let (certainty, rule) = (Certainty::Required, Rule::PodSpec);
                    self.out.found.push(FoundImage { text: text.clone(), image, usage, certainty, rule });
                    return;
                }
                Err(_) if text.contains("${") || text.contains("{{") || text.contains("$(") => {
                    (text.clone(), format!("`{text:.300}` is a template that nothing filled in"))
                }
                Err(error) => (text.clone(), error.to_string()),
            },
            _ if !sure => return,
            None | Some(Value::Null) => (String::new(), "there is no image".to_owned()),
            Some(Value::String(_)) => (String::new(), "the image is empty".to_owned()),
            Some(other) => {
                let text = other.to_string();
                let why = format!("`{text:.300}` is not a string");
                (text, why)
            }
        };
        self.out.unresolvable.push(UnresolvableImage { text, why, usage, rule: Rule::PodSpec });
    }

    /// Looks for what looks like a pod spec. Depth is bounded by the reader of the value.
    fn anywhere(&mut self, value: &Value, path: &mut String) {
        let length = path.len();
        match value {
            Value::Object(entries) => {
                let containers = entries.get("containers").and_then(Value::as_array);
                let is_spec =
                    containers.is_some_and(|list| list.iter().any(|item| item["image"].is_string()));
                if is_spec {
                    self.pod_spec(value, path.trim_start_matches('.'), false);
                }
                for (key, value) in entries {
                    if is_spec && (CONTAINER_LISTS.contains(&key.as_str()) || key == "volumes") {
                        continue;
                    }
                    path.push('.');
                    path.push_str(key);
                    self.anywhere(value, path);
                    path.truncate(length);
                }
            }
            Value::Array(items) => {
                for (at, item) in items.iter().enumerate() {
                    // Writing into a string cannot fail.
                    let _ = write!(path, "[{at}]");
                    self.anywhere(item, path);
                    path.truncate(length);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
    fn embedded_templates_of_unknown_kinds() {
        let rest = json!({"spec": {"steps": [{"containers": [{"image": "a:1"}, {"name": "no image"}]}],
                                   "image": {"repository": "x"}, "containers": "none"}});
        assert_eq!(
            fields(&[
                object("argoproj.io/v1alpha1", "Rollout", &rest),
                object("v1", "ConfigMap", &json!({}))
            ]),
            [("spec.steps[0].containers[0].image".to_owned(), "docker.io/library/a:1".to_owned())]
        );
        let crd = json!({"spec": {"containers": [{"image": "a:1"}]}});
        assert_eq!(fields(&[object("apiextensions.k8s.io/v1", "CustomResourceDefinition", &crd)]), []);
    }

    #[test]
    fn what_names_no_image_is_named() {
        let containers = json!([
            {"image": ""}, {"image": "web:${TAG}"}, {"image": "{{ .Values.image }}"}, {"image": 3}, {},
            {"image": "UPPER"}, {"image": " web"},
        ]);
        let pod =
            object("v1", "Pod", &json!({"spec": {"containers": containers, "volumes": [{"image": {}}]}}));
        let fields = discover(&[pod]).unresolvable;
        assert_eq!(fields.len(), 8);
        let line = |field: UnresolvableImage| format!("`{}`: {}\n", field.usage.field, field.why);
        let message: String = fields.into_iter().map(line).collect();
        for part in [
            "`spec.containers[0].image`: the image is empty",
            "`spec.containers[1].image`: `web:${TAG}` is a template that nothing filled in",
            "`spec.containers[2].image`: `{{ .Values.image }}` is a template",
            "`spec.containers[3].image`: `3` is not a string",
            "`spec.containers[4].image`: there is no image",
            "`spec.containers[5].image`: `UPPER` is not an image reference",
            "`spec.containers[6].image`: ` web` is not an image reference",
            "`spec.volumes[0].image.reference`: there is no image",
        ] {
            assert!(message.contains(part), "{message}\nlacks {part}");
        }
    }
}
