//! The referrers API ("Listing Referrers").

use std::collections::BTreeMap;

use axum::response::Response;
use http::{HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

use super::{Refusal, answer_bytes, route::Name, whole};
use crate::fsio::limits;
use crate::model::{Digest, media_type};
use crate::seed::content::Snapshot;
use crate::seed::server::Shared;
use crate::store::Referrer;

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    media_type: &'static str,
    manifests: Vec<Descriptor>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

/// What the descriptor of a referrer repeats of its manifest.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    artifact_type: Option<String>,
    config: Option<Config>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    media_type: String,
}

/// Lists what refers to `subject`; an empty list where nothing does, known or not: that is what
/// tells a client that this registry has the API and needs no fallback tag.
pub(super) async fn answer(
    shared: &Shared,
    snapshot: &Snapshot,
    name: &Name,
    subject: Digest,
    artifact_type: Option<&str>,
) -> Result<Response, Refusal> {
    let mut manifests = Vec::new();
    let catalog = &snapshot.catalog;
    let repository = catalog.resolve_repository(name.registry.as_deref(), &name.repository);
    for Referrer { manifest: entry, .. } in
        repository.map_or(&[][..], |found| catalog.referrers(found, subject))
    {
        let Some(bytes) = whole(shared, entry, limits::MANIFEST).await? else { continue };
        // What the manifest itself says counts; the descriptors that others keep are known to lie.
        let manifest: Manifest = serde_json::from_slice(&bytes).unwrap_or_default();
        let found = manifest
            .artifact_type
            .filter(|text| !text.is_empty())
            .or_else(|| manifest.config.map(|config| config.media_type));
        if artifact_type.is_some_and(|wanted| found.as_deref() != Some(wanted)) {
            continue;
        }
        manifests.push(Descriptor {
            media_type: entry.media_type.clone(),
            digest: entry.digest,
            size: entry.size,
            artifact_type: found,
            annotations: manifest.annotations.unwrap_or_default(),
        });
    }
    let index = Index { schema_version: 2, media_type: media_type::OCI_INDEX, manifests };
    let bytes = serde_json::to_vec(&index)
        .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", error.to_string()))?;
    let mut response = answer_bytes(StatusCode::OK, media_type::OCI_INDEX, bytes);
    if artifact_type.is_some() {
        response.headers_mut().insert(FILTERS_APPLIED, HeaderValue::from_static("artifactType"));
    }
    Ok(response)
}
