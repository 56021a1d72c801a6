//! Registries without the referrers API: the index under the tag `sha256-HEX` that stands in for it
//! (OCI Distribution Specification, "Referrers Tag Schema"), and cosign's `sha256-HEX.sig` tags.
//! What others wrote there stays.

use serde_json::{Value, json};

use super::plan::WantedManifest;
use crate::model::{Digest, media_type};
use crate::oci::{Content, Manifest, RawManifest};

/// The tag that holds the index for `subject`.
pub(super) fn fallback_tag(subject: Digest) -> String {
    format!("sha256-{}", subject.hex())
}

/// Whether `tag` belongs to another manifest (`sha256-HEX.sig`, `.att`, `.sbom`), as cosign names
/// what it attaches.
pub(super) fn is_companion(tag: &str) -> bool {
    let Some((hex, suffix)) = tag.strip_prefix("sha256-").and_then(|rest| rest.split_once('.')) else {
        return false;
    };
    Digest::from_hex(hex).is_ok() && !suffix.is_empty()
}

/// Whether all that `old` holds is in `new` as well, so that nothing is lost when the one takes the
/// other's tag.
pub(super) fn covers(new: &Manifest, old: &Manifest) -> bool {
    match (&new.content, &old.content) {
        (Content::Image { layers: new, .. }, Content::Image { layers: old, .. }) => {
            old.iter().all(|layer| new.iter().any(|known| known.digest == layer.digest))
        }
        _ => false,
    }
}

/// The index with the descriptors of `referrers` in it, if it lacks one of them. `existing` is what
/// the tag leads to now.
///
/// # Errors
///
/// With the reason, when what is there is no index.
pub(super) fn merge(
    existing: Option<&RawManifest>,
    referrers: &[(&WantedManifest, Manifest)],
) -> Result<Option<RawManifest>, String> {
    let mut index = match existing {
        Some(raw) if raw.media_type == media_type::OCI_INDEX => {
            serde_json::from_slice::<Value>(&raw.bytes).map_err(|error| error.to_string())?
        }
        Some(raw) => return Err(format!("it is a `{}`", raw.media_type)),
        None => json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": []}),
    };
    let Some(list) = index.get_mut("manifests").and_then(Value::as_array_mut) else {
        return Err("it has no list of manifests".to_owned());
    };
    let mut added = false;
    for (wanted, manifest) in referrers {
        let digest = wanted.entry.digest.to_string();
        if list.iter().any(|known| known["digest"] == digest.as_str()) {
            continue;
        }
        let mut descriptor =
            json!({"mediaType": wanted.entry.media_type, "digest": digest, "size": wanted.entry.size});
        if let Some(artifact) = &manifest.artifact_type {
            descriptor["artifactType"] = json!(artifact);
        }
        if !manifest.annotations.is_empty() {
            descriptor["annotations"] = json!(manifest.annotations);
        }
        list.push(descriptor);
        added = true;
    }
    if !added {
        return Ok(None);
    }
    let bytes = serde_json::to_vec(&index).map_err(|error| error.to_string())?;
    let digest = Digest::of(&bytes);
    Ok(Some(RawManifest { media_type: media_type::OCI_INDEX.to_owned(), digest, bytes: bytes.into() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::BlobEntry;

    fn wanted(text: &str) -> (WantedManifest, Manifest) {
        let bytes = format!(
            r#"{{"schemaVersion":2,"artifactType":"a/{text}","annotations":{{"k":"{text}"}},"config":{{"mediaType":"c","digest":"{}","size":2}},"layers":[]}}"#,
            Digest::of(b"{}")
        );
        let entry = BlobEntry {
            digest: Digest::of(bytes.as_bytes()),
            size: bytes.len() as u64,
            media_type: media_type::OCI_MANIFEST.to_owned(),
        };
        let raw =
            RawManifest { media_type: entry.media_type.clone(), digest: entry.digest, bytes: bytes.into() };
        let manifest = raw.read().unwrap();
        (WantedManifest { entry, repository: "r".into(), stage: 0, of: "x".into(), absent: 0 }, manifest)
    }

    #[test]
    fn what_others_wrote_stays_and_nothing_stands_twice() {
        let (one, one_manifest) = wanted("one");
        let (two, two_manifest) = wanted("two");
        let first = merge(None, &[(&one, one_manifest.clone())]).unwrap().unwrap();
        assert_eq!(merge(Some(&first), &[(&one, one_manifest.clone())]).unwrap(), None);
        let foreign = String::from_utf8(first.bytes.to_vec())
            .unwrap()
            .replace("\"schemaVersion\":2", "\"schemaVersion\":2,\"x-site\":{\"kept\":true}");
        let foreign = RawManifest { bytes: foreign.into(), ..first };
        let both = merge(Some(&foreign), &[(&one, one_manifest), (&two, two_manifest)]).unwrap().unwrap();
        let value: Value = serde_json::from_slice(&both.bytes).unwrap();
        assert_eq!(value["x-site"]["kept"], true);
        assert_eq!(value["manifests"].as_array().unwrap().len(), 2);
        assert_eq!(value["manifests"][1]["artifactType"], "a/two");
        assert_eq!(value["manifests"][1]["annotations"]["k"], "two");
        let image = RawManifest { media_type: media_type::OCI_MANIFEST.into(), ..both };
        assert!(merge(Some(&image), &[]).unwrap_err().contains("image.manifest"));
    }

    #[test]
    fn tags_of_companions() {
        let hex = "ab".repeat(32);
        assert!(is_companion(&format!("sha256-{hex}.sig")) && is_companion(&format!("sha256-{hex}.att")));
        for other in
            [format!("sha256-{hex}"), "1.0.sig".into(), "sha256-ab.sig".into(), format!("sha256-{hex}.")]
        {
            assert!(!is_companion(&other), "{other}");
        }
    }
}
