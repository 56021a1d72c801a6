//! What tells two releases apart, in terms of their content.
//!
//! Pure: two documents and their objects in, a list out. The causes come before their effects: the
//! tool, what the command line gives, the commit, the objects, the images, the Git bundle. What none
//! of these explains is named by its place in the document, so that two different releases never
//! give an empty list.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};

use serde::Serialize;
use serde_json::Value;

use crate::model::{AbsentManifest, ImageEntry, ObjectEntry, ReleaseDocument, RenderedObject};

/// One difference between an archive and what was built again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// What differs: `commit`, ``image `example.com/web:1` ``.
    pub what: String,
    /// What the archive has; nothing when it has no such thing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive: Option<String>,
    /// What the revision gives; nothing when it gives no such thing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rebuilt: Option<String>,
    /// What may lie behind it, or what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.what)?;
        match (&self.archive, &self.rebuilt) {
            (Some(archive), Some(rebuilt)) => write!(f, "{archive} in the archive, {rebuilt} rebuilt"),
            (Some(archive), None) => write!(f, "{archive} in the archive, not rebuilt"),
            (None, Some(rebuilt)) => write!(f, "not in the archive, {rebuilt} rebuilt"),
            (None, None) => f.write_str("differs"),
        }
    }
}

/// One of the two releases.
pub(super) struct Side<'a> {
    pub document: &'a ReleaseDocument,
    /// The document as it is carried: a later tool may write fields that this one does not know.
    pub bytes: &'a [u8],
    pub objects: &'a [RenderedObject],
}

/// The longest value that is quoted.
const QUOTED: usize = 200;

#[derive(Default)]
struct Found(Vec<Difference>);

impl Found {
    /// Notes a difference, where there is one. `hint` is asked only then.
    fn compare<T: PartialEq + Display>(
        &mut self,
        what: impl Into<String>,
        archive: Option<T>,
        rebuilt: Option<T>,
        hint: impl FnOnce() -> Option<String>,
    ) {
        if archive != rebuilt {
            let text = |value: Option<T>| value.map(|value| shortened(&value.to_string()));
            self.0.push(Difference {
                what: what.into(),
                archive: text(archive),
                rebuilt: text(rebuilt),
                hint: hint(),
            });
        }
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(QUOTED) {
        Some((at, _)) => format!("{}… ({} bytes)", &text[..at], text.len()),
        None => text.to_owned(),
    }
}

/// What differs between an archive and what was built again.
pub(super) fn between(archive: &Side<'_>, rebuilt: &Side<'_>) -> Vec<Difference> {
    let mut found = Found::default();
    let (a, b) = (archive.document, rebuilt.document);
    found.compare("tool that wrote it", Some(&a.generator), Some(&b.generator), || {
        Some(format!("other versions may write other bytes: compare with {}", a.generator))
    });
    found.compare(
        "required features",
        Some(a.requires.join(", ")).filter(|text| !text.is_empty()),
        Some(b.requires.join(", ")).filter(|text| !text.is_empty()),
        || None,
    );
    found.compare("name", Some(a.name.as_str()), Some(b.name.as_str()), || {
        Some(format!("if it was built with `--name {}`, give the same", a.name))
    });
    found.compare("commit", Some(a.git.commit.as_str()), Some(b.git.commit.as_str()), || {
        Some(format!("compare with the revision that was built: `--revision {}`", revision_of(a)))
    });
    found.compare("version", Some(a.version.as_str()), Some(b.version.as_str()), || {
        Some(format!("if it was built with `--release-version {}`, give the same", a.version))
    });
    found.compare("sequence", Some(a.sequence), Some(b.sequence), || {
        Some(format!("if it was built with `--sequence {}`, give the same", a.sequence))
    });
    found.compare("time", Some(a.created), Some(b.created), || {
        Some(format!("if `SOURCE_DATE_EPOCH` was {} then, set it", a.created.as_second()))
    });
    references(&mut found, a, b);
    objects(&mut found, archive, rebuilt);
    let layer = |document: &ReleaseDocument| Some(document.rendered.layer);
    if found.0.is_empty() {
        found.compare("layer of rendered objects", layer(a), layer(b), || {
            Some("the objects are the same, and were packed in another way".into())
        });
    }
    images(&mut found, a, b);
    if found.0.is_empty() {
        let bundle = |document: &ReleaseDocument| {
            let size = document.blob(document.git.bundle).map_or(0, |blob| blob.size);
            Some(format!("{} of {size} bytes", document.git.bundle))
        };
        found.compare("Git bundle", bundle(a), bundle(b), || {
            Some("the references are the same, and their history was packed in another way".into())
        });
    }
    let submodules = |document: &ReleaseDocument| {
        let named = document.git.submodules.iter();
        let paths = named.flat_map(|found| &found.paths);
        let listed: Vec<_> = paths.map(|place| format!("{} at {}", place.path, place.commit)).collect();
        Some(listed.join(", "))
    };
    found.compare("submodules", submodules(a), submodules(b), || None);
    let lfs = |document: &ReleaseDocument| {
        let paths = document.git.lfs.iter().flat_map(|object| {
            let named = move |path: &String| format!("{path} {} of {} bytes", object.digest, object.size);
            object.paths.iter().map(named)
        });
        let mut listed: Vec<_> = paths.collect();
        listed.sort();
        Some(listed.join(", "))
    };
    found.compare("objects of Git LFS", lfs(a), lfs(b), || None);
    if found.0.is_empty() {
        rest(&mut found, archive.bytes, rebuilt.bytes);
    }
    found.0
}

/// The revision that gives these references: the tag, the branch that was asked for, or the commit.
fn revision_of(document: &ReleaseDocument) -> String {
    let short = |name: &str| {
        name.strip_prefix("refs/tags/")
            .or_else(|| name.strip_prefix("refs/heads/"))
            .unwrap_or(name)
            .to_owned()
    };
    let refs = &document.git.refs;
    if let Some(tag) = refs.iter().find(|reference| !reference.name.is_branch()) {
        return short(tag.name.as_str());
    }
    // A branch may have moved on since: the commit is what cannot be mistaken.
    document.git.commit.to_string()
}

fn references(found: &mut Found, a: &ReleaseDocument, b: &ReleaseDocument) {
    let map = |document: &ReleaseDocument| -> BTreeMap<String, String> {
        let refs = document.git.refs.iter();
        refs.map(|reference| (reference.name.to_string(), reference.target.to_string())).collect()
    };
    let (archive, rebuilt) = (map(a), map(b));
    let names: BTreeSet<&String> = archive.keys().chain(rebuilt.keys()).collect();
    for name in names {
        found.compare(format!("reference `{name}`"), archive.get(name), rebuilt.get(name), || {
            Some(format!("compare with the revision as it was named then: `--revision {}`", branch_of(a)))
        });
    }
}

/// The name under which the revision was asked for, where the references tell.
fn branch_of(document: &ReleaseDocument) -> String {
    match document.branch() {
        Some(branch) if document.git.refs.len() == 1 && branch.name.as_str() != "refs/heads/release" => {
            branch.name.as_str().trim_start_matches("refs/heads/").to_owned()
        }
        _ => revision_of(document),
    }
}

fn objects(found: &mut Found, archive: &Side<'_>, rebuilt: &Side<'_>) {
    type Objects<'a> = BTreeMap<String, (&'a ObjectEntry, Option<&'a RenderedObject>)>;
    fn map<'a>(side: &Side<'a>) -> Objects<'a> {
        let entries = side.document.rendered.objects.iter().enumerate();
        let name = |entry: &ObjectEntry| format!("object `{}` ({})", entry.id, entry.id.api_version);
        entries.map(|(at, entry)| (name(entry), (entry, side.objects.get(at)))).collect()
    }
    let (ours, theirs) = (map(archive), map(rebuilt));
    let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let before = found.0.len();
    for name in names {
        match (ours.get(name), theirs.get(name)) {
            (Some((a, value)), Some((b, other))) => {
                if let (Some(value), Some(other)) = (value, other)
                    && let Some((path, here, there)) = first_field(&value.value, &other.value)
                {
                    found.compare(format!("{name}, field `{path}`"), here, there, || None);
                }
                let origin = |entry: &ObjectEntry| Some(format!("`{}`", entry.origin));
                found.compare(format!("{name}, origin"), origin(a), origin(b), || None);
            }
            (a, b) => {
                let origin = |side: Option<&(&ObjectEntry, Option<&RenderedObject>)>| {
                    side.map(|(entry, _)| format!("from `{}`", entry.origin))
                };
                found.compare(name.clone(), origin(a), origin(b), || None);
            }
        }
    }
    if found.0.len() == before {
        let order = |side: &Side<'_>| {
            let entries = side.document.rendered.objects.iter();
            entries.map(|entry| entry.id.to_string()).collect::<Vec<_>>()
        };
        let (ours, theirs) = (order(archive), order(rebuilt));
        if let Some(at) = ours.iter().zip(&theirs).position(|(a, b)| a != b) {
            found.compare(
                format!("order of objects, number {}", at + 1),
                ours.get(at),
                theirs.get(at),
                || None,
            );
        }
    }
}

/// Where two values differ first, and how: the path, and the value on each side.
fn first_field(a: &Value, b: &Value) -> Option<(String, Option<String>, Option<String>)> {
    fn walk(a: &Value, b: &Value, path: &str) -> Option<(String, Option<String>, Option<String>)> {
        if a == b {
            return None;
        }
        let one_sided =
            |path: String, a: Option<&Value>, b: Option<&Value>| Some((path, a.map(quoted), b.map(quoted)));
        match (a, b) {
            (Value::Object(left), Value::Object(right)) => {
                let names: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
                names.into_iter().find_map(|name| {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    match (left.get(name), right.get(name)) {
                        (Some(a), Some(b)) => walk(a, b, &path),
                        (a, b) => one_sided(path, a, b),
                    }
                })
            }
            (Value::Array(left), Value::Array(right)) => (0..left.len().max(right.len())).find_map(|at| {
                let path = format!("{path}[{at}]");
                match (left.get(at), right.get(at)) {
                    (Some(a), Some(b)) => walk(a, b, &path),
                    (a, b) => one_sided(path, a, b),
                }
            }),
            _ => one_sided(path.to_owned(), Some(a), Some(b)),
        }
    }
    walk(a, b, "")
}

fn quoted(value: &Value) -> String {
    format!("`{}`", shortened(&value.to_string()))
}

fn images(found: &mut Found, a: &ReleaseDocument, b: &ReleaseDocument) {
    fn map(document: &ReleaseDocument) -> BTreeMap<String, &ImageEntry> {
        document.images.iter().map(|image| (image.reference.to_string(), image)).collect()
    }
    let (archive, rebuilt) = (map(a), map(b));
    let names: BTreeSet<&String> = archive.keys().chain(rebuilt.keys()).collect();
    for name in names {
        let what = format!("image `{name}`");
        let (ours, theirs) = (archive.get(name).copied(), rebuilt.get(name).copied());
        let digest = |image: Option<&ImageEntry>| image.map(|image| image.digest);
        found.compare(&what, digest(ours), digest(theirs), || match (ours, theirs) {
            (Some(_), Some(_)) => {
                Some("its tag has moved since: digests in the manifests or in a lock file stay".into())
            }
            (Some(image), None) if image.used_by.is_empty() => {
                Some(format!("if it was built with `--image {name}`, give the same"))
            }
            _ => None,
        });
        let (Some(ours), Some(theirs)) = (ours, theirs) else { continue };
        let list = |texts: Vec<String>| Some(texts.join(", ")).filter(|text| !text.is_empty());
        let platforms = |image: &ImageEntry| list(image.platforms.iter().map(ToString::to_string).collect());
        let asked = || {
            let names = platforms(ours)?;
            Some(format!("if it was built with `--platform {}`, give the same", names.replace(", ", ",")))
        };
        found.compare(format!("{what}, platforms"), platforms(ours), platforms(theirs), asked);
        if ours.digest != theirs.digest {
            continue;
        }
        let absent = |image: &ImageEntry| list(image.absent.iter().map(absent_name).collect());
        found.compare(format!("{what}, left out"), absent(ours), absent(theirs), asked);
        let referrers = |image: &ImageEntry| {
            let name = |digest: &crate::model::Digest, tag: Option<&String>| match tag {
                Some(tag) => format!("{digest} ({tag})"),
                None => digest.to_string(),
            };
            list(image.referrers.iter().map(|found| name(&found.digest, found.tag.as_ref())).collect())
        };
        found.compare(format!("{what}, referrers"), referrers(ours), referrers(theirs), || {
            Some("something was signed or removed at the registry since, or `--referrers` was given".into())
        });
        let users = |image: &ImageEntry| {
            let name =
                |usage: &crate::model::Usage| format!("{} {} {}", usage.origin, usage.object, usage.field);
            list(image.used_by.iter().map(name).collect())
        };
        found.compare(format!("{what}, used by"), users(ours), users(theirs), || None);
    }
}

fn absent_name(child: &AbsentManifest) -> String {
    child.platform.as_ref().map_or_else(|| child.digest.to_string(), ToString::to_string)
}

/// The first place of the documents that differs, whatever it means.
fn rest(found: &mut Found, archive: &[u8], rebuilt: &[u8]) {
    let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap_or_default();
    if let Some((path, a, b)) = first_field(&parse(archive), &parse(rebuilt)) {
        return found.compare(format!("release document, `{path}`"), a, b, || None);
    }
    let at = archive.iter().zip(rebuilt).take_while(|(a, b)| a == b).count();
    found.compare(
        "release document",
        Some(format!("other bytes from number {at} on, of {}", archive.len())),
        Some(format!("{} bytes", rebuilt.len())),
        || Some("the content is the same, and was written in another way".into()),
    );
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn hash(digit: &str) -> String {
        format!("sha256:{}", digit.repeat(64))
    }

    fn document() -> Value {
        json!({
            "format": 1, "name": "shop", "version": "1", "sequence": 3, "created": "2026-11-21T10:00:00Z",
            "generator": "fleetpack 0.1.0",
            "git": {"commit": "1".repeat(40), "bundle": hash("2"),
                "refs": [{"name": "refs/heads/main", "target": "1".repeat(40)}]},
            "rendered": {"manifest": hash("3"), "layer": hash("4"), "objects": [
                {"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "origin": {"file": "a.yaml", "line": 1}},
                {"apiVersion": "v1", "kind": "ConfigMap", "name": "b", "origin": {"file": "a.yaml", "line": 9}}]},
            "images": [{"reference": "example.com/web:1", "digest": hash("5"), "mediaType": "x",
                "platforms": ["linux/amd64", "linux/arm64"]}],
            "blobs": [{"digest": hash("2"), "size": 10, "mediaType": "x"}],
        })
    }

    fn objects(document: &ReleaseDocument, value: &str) -> Vec<RenderedObject> {
        let entries = document.rendered.objects.iter();
        let object = |entry: &ObjectEntry| {
            let data = json!({"data": {"list": [1, {"k": value}]}, "metadata": {"name": entry.id.name}});
            RenderedObject::new(entry.id.clone(), entry.origin.clone(), data)
        };
        entries.map(object).collect()
    }

    /// What differs once `change` was made to the archive's document.
    fn changed(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut other = document();
        change(&mut other);
        let (a, b) = (other.to_string(), document().to_string());
        let (left, right) = (serde_json::from_str(&a).unwrap(), serde_json::from_str(&b).unwrap());
        let (mine, yours) = (objects(&left, "v"), objects(&right, "v"));
        let found = between(
            &Side { document: &left, bytes: a.as_bytes(), objects: &mine },
            &Side { document: &right, bytes: b.as_bytes(), objects: &yours },
        );
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn causes_come_first_and_nothing_is_passed_over() {
        assert_eq!(changed(|_| ()).len(), 1, "a caller that knows better is believed");
        let tool = changed(|d| {
            d["generator"] = "fleetpack 0.0.9".into();
            d["git"]["bundle"] = hash("9").into();
            d["blobs"][0]["digest"] = hash("9").into();
        });
        assert_eq!(tool, ["tool that wrote it: fleetpack 0.0.9 in the archive, fleetpack 0.1.0 rebuilt"]);
        let bundle = changed(|d| {
            d["git"]["bundle"] = hash("9").into();
            d["blobs"][0]["digest"] = hash("9").into();
        });
        assert!(bundle[0].starts_with("Git bundle: sha256:9999"), "{bundle:?}");
        let layer = changed(|d| d["rendered"]["layer"] = hash("9").into());
        assert!(layer[0].starts_with("layer of rendered objects: "), "{layer:?}");
        let unknown = changed(|d| d["later"] = json!({"field": [1]}));
        assert_eq!(unknown, ["release document, `later`: `{\"field\":[1]}` in the archive, not rebuilt"]);
        let blob = changed(|d| d["blobs"][0]["mediaType"] = "y".into());
        assert_eq!(blob, ["release document, `blobs[0].mediaType`: `\"y\"` in the archive, `\"x\"` rebuilt"]);
        let lfs = changed(|d| {
            d["git"]["lfs"] = json!([{"digest": hash("8"), "size": 3, "paths": ["a.bin"]}]);
        });
        let wanted = format!("objects of Git LFS: a.bin {} of 3 bytes in the archive", hash("8"));
        assert!(lfs[0].starts_with(&wanted), "{lfs:?}");
        let order = changed(|d| d["rendered"]["objects"].as_array_mut().unwrap().reverse());
        assert_eq!(order, ["order of objects, number 1: ConfigMap b in the archive, ConfigMap a rebuilt"]);
        let gone = changed(|d| d["rendered"]["objects"].as_array_mut().unwrap().truncate(1));
        assert_eq!(gone, ["object `ConfigMap b` (v1): not in the archive, from `a.yaml:9` rebuilt"]);
        let image = changed(|d| {
            d["images"][0]["platforms"] = json!(["linux/amd64"]);
            d["images"][0]["absent"] = json!([{"digest": hash("7"), "platform": "linux/arm64"}]);
        });
        assert_eq!(
            image[0],
            "image `example.com/web:1`, platforms: linux/amd64 in the archive, linux/amd64, linux/arm64 rebuilt"
        );
        assert_eq!(image[1], "image `example.com/web:1`, left out: linux/arm64 in the archive, not rebuilt");
    }

    #[test]
    fn the_first_field_is_found_at_any_depth() {
        let parsed: ReleaseDocument = serde_json::from_value(document()).unwrap();
        let (left, right) = (objects(&parsed, "old"), objects(&parsed, "new"));
        let (path, a, b) = first_field(&left[0].value, &right[0].value).unwrap();
        assert_eq!(path, "data.list[1].k");
        assert_eq!((a.unwrap(), b.unwrap()), ("`\"old\"`".to_owned(), "`\"new\"`".to_owned()));
        let long = quoted(&Value::String("ü".repeat(1_000)));
        assert!(long.chars().count() < 250 && long.contains("… (2002 bytes)"), "{long}");
    }
}
