//! Images whose parts stand in fields of their own: `registry`, `repository`, `tag`, `digest`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::guess::{self, Name};
use crate::model::ImageRef;

/// An image that was put together.
pub(super) struct Assembled {
    /// Number of the entry that holds the repository.
    pub at: usize,
    /// The reference as it was put together.
    pub text: String,
    /// What it means.
    pub image: ImageRef,
}

#[derive(Default)]
struct Parts<'e> {
    registry: Option<&'e str>,
    repository: Option<(&'e str, usize)>,
    tag: Option<String>,
    digest: Option<String>,
}

/// The text of a string or number that is not empty.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Puts together what the entries (key, value) of one mapping or list of pairs hold. `name`
/// is what the mapping itself is called: whether it is about an image.
pub(super) fn assemble(entries: &[(&str, &Value)], name: Name) -> Vec<Assembled> {
    // By the words before the part: `sidecar.image.repository` belongs to `sidecar.image.tag`.
    let mut groups: BTreeMap<Vec<String>, Parts<'_>> = BTreeMap::new();
    let mut whole = Vec::new();
    for (at, (key, value)) in entries.iter().enumerate() {
        let Some(text) = scalar(value) else { continue };
        let mut words = guess::words(key);
        let Some(last) = words.pop() else { continue };
        match (last.as_str(), value) {
            ("repository" | "repo", Value::String(text)) => {
                groups.entry(words).or_default().repository = Some((text.trim(), at));
            }
            ("registry" | "hub", Value::String(text)) => {
                groups.entry(words).or_default().registry = Some(text.trim());
            }
            ("tag", _) => groups.entry(words).or_default().tag = Some(text),
            ("digest" | "sha" | "sha256", _) => groups.entry(words).or_default().digest = Some(text),
            ("image", Value::String(text)) => {
                words.push(last);
                whole.push((words, text.trim(), at));
            }
            ("name", Value::String(text)) if words.last().is_some_and(|word| word == "image") => {
                whole.push((words, text.trim(), at));
            }
            // `image: {name: …, tag: …}`
            ("name", Value::String(text)) if words.is_empty() && name >= Name::Part => {
                whole.push((words, text.trim(), at));
            }
            _ => {}
        }
    }
    let mut out = Vec::new();
    for (words, parts) in &groups {
        let about_image =
            words.iter().any(|word| word == "image") || (words.is_empty() && name >= Name::Part);
        if let Some((repository, at)) = parts.repository
            && (about_image || parts.tag.is_some() || parts.digest.is_some())
        {
            out.extend(parts.join(repository, at));
        }
    }
    // `image: a/b` beside `tag: 1`, or beside `imageTag: 1`.
    for (words, text, at) in whole {
        let apart = groups.get(&words).or_else(|| {
            let bare: &[String] = &[];
            (words.len() == 1).then(|| groups.get(bare)).flatten()
        });
        let Some(parts) = apart.filter(|parts| parts.repository.is_none()) else { continue };
        let last = text.rsplit('/').next().unwrap_or_default();
        if !last.contains([':', '@'])
            && (parts.tag.is_some() || parts.digest.is_some() || parts.registry.is_some())
        {
            out.extend(parts.join(text, at));
        }
    }
    out
}

impl Parts<'_> {
    fn join(&self, repository: &str, at: usize) -> Option<Assembled> {
        let repository = guess::without_scheme(repository).trim_matches('/');
        let mut text = String::new();
        if let Some(registry) = self.registry {
            let registry =
                registry.split_once("://").map_or(registry, |(_, host)| host).trim_end_matches('/');
            if !registry.is_empty() && !repository.starts_with(&format!("{registry}/")) {
                text = format!("{registry}/");
            }
        }
        text.push_str(repository);
        let (tag, mut digest) = match &self.tag {
            Some(tag) if tag.starts_with("sha256:") => (None, Some(tag.clone())),
            tag => (tag.as_deref(), self.digest.clone()),
        };
        let last = repository.rsplit('/').next().unwrap_or_default();
        if let Some(tag) = tag
            && !last.contains([':', '@'])
        {
            text.push(':');
            text.push_str(tag.trim_start_matches(':'));
        }
        if let Some(digest) = digest.take_if(|_| !last.contains('@')) {
            text.push('@');
            if !digest.contains(':') {
                text.push_str("sha256:");
            }
            text.push_str(&digest);
        }
        let image = guess::named(&text, Name::Exact)?;
        Some(Assembled { at, text, image })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(value: &Value, name: Name) -> Vec<String> {
        let entries: Vec<_> =
            value.as_object().unwrap().iter().map(|(key, value)| (key.as_str(), value)).collect();
        let found = assemble(&entries, name).into_iter();
        found.map(|found| format!("{} {}", entries[found.at].0, found.text)).collect()
    }

    #[test]
    fn parts_are_put_together() {
        let sha = "a".repeat(64);
        for (value, want) in [
            (json!({"repository": "a/b", "tag": "1"}), "repository a/b:1".to_owned()),
            (
                json!({"registry": "quay.io", "repository": "a/b", "tag": 16}),
                "repository quay.io/a/b:16".into(),
            ),
            (
                json!({"registry": "https://quay.io/", "repository": "quay.io/a", "tag": "1"}),
                "repository quay.io/a:1".into(),
            ),
            (
                json!({"repository": "a/b", "tag": "", "digest": format!("sha256:{sha}")}),
                format!("repository a/b@sha256:{sha}"),
            ),
            (json!({"repository": "a/b", "sha": sha}), format!("repository a/b@sha256:{sha}")),
            (
                json!({"repository": "a/b", "tag": format!("sha256:{sha}")}),
                format!("repository a/b@sha256:{sha}"),
            ),
            (json!({"image": "a/b", "tag": "1"}), "image a/b:1".into()),
            (json!({"image": "a/b", "imageTag": "1"}), "image a/b:1".into()),
            (
                json!({"hub": "docker.io/istio", "image": "proxyv2", "tag": "1.2"}),
                "image docker.io/istio/proxyv2:1.2".into(),
            ),
            (
                json!({"sidecarImageRepository": "a/b", "sidecarImageTag": "1"}),
                "sidecarImageRepository a/b:1".into(),
            ),
            (json!({"image.repository": "a/b", "image.tag": "1"}), "image.repository a/b:1".into()),
            (json!({"PROXY_IMAGE": "a/b", "PROXY_IMAGE_TAG": "1"}), "PROXY_IMAGE a/b:1".into()),
            (json!({"imageName": "a/b", "imageTag": "1"}), "imageName a/b:1".into()),
        ] {
            assert_eq!(texts(&value, Name::None), [want], "{value}");
        }
        assert_eq!(texts(&json!({"name": "a/b", "tag": "1"}), Name::Exact), ["name a/b:1"]);
        assert_eq!(texts(&json!({"repository": "a/b"}), Name::Exact), ["repository a/b"]);
    }

    #[test]
    fn what_names_no_image() {
        for value in [
            json!({"repository": "https://charts.example.com", "tag": "1"}),
            json!({"repository": "github.com/a/b", "tag": "1"}),
            json!({"repository": "a/b"}),
            json!({"repository": "a/b", "tag": null}),
            json!({"repository": "a/b", "tag": "not a tag"}),
            json!({"name": "a/b", "tag": "1"}),
            json!({"image": "a/b:1", "tag": "2"}),
            json!({"tag": "1"}),
        ] {
            assert_eq!(texts(&value, Name::None), Vec::<String>::new(), "{value}");
        }
    }
}
