//! Asks a place for every image of a release, by the paths that a runtime takes.

use std::time::Duration;

use futures_util::StreamExt as _;
use http::{StatusCode, header};

use super::mirrors::{Access, Dialect, Place};
use crate::model::{Digest, ImageRef, media_type};

/// Questions at a time.
const PARALLEL: usize = 8;
/// How long one answer may take: the place is near.
const ANSWER: Duration = Duration::from_secs(20);

/// What a place answered to one question that it should have answered otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lacking {
    /// The image.
    pub image: ImageRef,
    /// What was asked for: path and query.
    pub asked: String,
    /// What came.
    pub why: String,
}

/// Asks for the manifest of each image by digest. Answers with what is lacking.
///
/// # Errors
///
/// In words, when the place cannot be asked at all.
pub async fn ask(
    place: &Place,
    dialect: Dialect,
    access: &Access,
    images: &[(ImageRef, Digest)],
) -> Result<Vec<Lacking>, String> {
    // No proxy: the place is on this site, and what the environment names is not.
    let mut builder =
        reqwest::Client::builder().no_proxy().timeout(ANSWER).redirect(reqwest::redirect::Policy::none());
    if let Some(ca) = &access.ca {
        let certificates = reqwest::Certificate::from_pem_bundle(ca.as_bytes())
            .map_err(|error| format!("the certificate cannot be used: {}", crate::model::chain(&error)))?;
        builder = builder.tls_certs_merge(certificates);
    }
    let client = builder.build().map_err(|error| crate::model::chain(&error))?;
    let ask_one = |image: &ImageRef, digest: Digest| {
        let asked = place.question(dialect, image, digest);
        let mut request = client.head(format!("{}{asked}", place.url)).header(header::ACCEPT, accept());
        if let Some((name, password)) = &access.login {
            request = request.basic_auth(name, Some(password));
        }
        let image = image.clone();
        async move {
            let answer = request.send().await.map_err(|error| crate::model::chain(&error))?;
            let found = answer.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
            let why = match (answer.status(), found) {
                (StatusCode::OK, Some(found)) if found == digest.to_string() => return Ok(None),
                (StatusCode::OK, found) => {
                    format!("answered digest `{:.100}`, wanted `{digest}`", found.unwrap_or("nothing"))
                }
                (StatusCode::UNAUTHORIZED, _) => "wants a login, or another one".to_owned(),
                (status, _) => format!("answered {status}"),
            };
            Ok(Some(Lacking { image, asked, why }))
        }
    };
    let asked = futures_util::stream::iter(images.iter().map(|(image, digest)| ask_one(image, *digest)));
    let mut answers = asked.buffered(PARALLEL);
    let mut lacking = Vec::new();
    while let Some(answer) = answers.next().await {
        let answer: Result<Option<Lacking>, String> = answer;
        lacking.extend(answer?);
    }
    Ok(lacking)
}

fn accept() -> String {
    [media_type::OCI_INDEX, media_type::OCI_MANIFEST, media_type::DOCKER_LIST, media_type::DOCKER_MANIFEST]
        .join(", ")
}
