//! Logging in: basic authentication, and bearer tokens as distribution's token server hands them out.

use std::sync::Mutex as SyncMutex;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::challenge::Challenge;
use super::http::{Access, Answer, Ask, Failure, Transport, locked, transport_failure};
use crate::fsio::limits;
use crate::oci::credentials::Login;
use crate::oci::error::{OciError, readable};

/// The login for one repository: found once, replaced when the registry no longer takes it.
#[derive(Default)]
pub(super) struct LoginState {
    header: SyncMutex<Option<HeaderValue>>,
    /// Held by the one who logs in; the others wait for the outcome.
    at_work: Mutex<()>,
}

impl LoginState {
    /// What to send, if anything.
    pub fn current(&self) -> Option<HeaderValue> {
        locked(&self.header).clone()
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

/// Answers one of `challenges`, unless another task did so while this one waited. `used` is the
/// login that was just refused.
pub(super) async fn obtain(
    transport: &Transport,
    ask: &Ask<'_>,
    base: &Url,
    state: &LoginState,
    used: Option<&HeaderValue>,
    challenges: &[Challenge],
) -> Result<HeaderValue, Failure> {
    let _guard = state.at_work.lock().await;
    if let Some(current) = state.current().filter(|current| Some(current) != used) {
        return Ok(current);
    }
    let found = transport.credentials.find(&ask.host.name, ask.repository).await;
    for failed in &found.failed {
        transport.progress.warn(format!("credential helper {failed}; asking without its login"));
    }
    let refused = |said: String| OciError::Credentials {
        host: ask.host.name.clone(),
        repository: ask.repository.to_owned(),
        what: ask.what.to_owned(),
        said,
        looked: found.looked.clone(),
    };
    let bearer =
        challenges.iter().find(|challenge| challenge.scheme == "bearer" && challenge.get("realm").is_some());
    let basic = challenges.iter().any(|challenge| challenge.scheme == "basic");
    let text = match (bearer, &found.login) {
        (Some(_), Some(Login::Bearer(token))) => format!("Bearer {token}"),
        (Some(challenge), login) => {
            let token = fetch(transport, ask, base, challenge, login.as_ref(), &refused).await?;
            format!("Bearer {token}")
        }
        (None, Some(Login::Basic { user, password })) if basic => basic_header(user, password),
        (None, Some(Login::Bearer(token) | Login::Identity(token))) if basic => format!("Bearer {token}"),
        (None, _) if basic => {
            return Err(refused("401 Unauthorized (it wants a user and a password)".to_owned()).into());
        }
        (None, _) => {
            let schemes: Vec<String> =
                challenges.iter().map(|c| format!("`{}`", readable(&c.scheme))).collect();
            return Err(refused(format!(
                "401 Unauthorized (it wants {}, and this program speaks `basic` and `bearer`)",
                schemes.join(", ")
            ))
            .into());
        }
    };
    let mut header = HeaderValue::from_str(&text)
        .map_err(|_| refused("the login holds characters that no header takes".to_owned()))?;
    header.set_sensitive(true);
    if used == Some(&header) {
        return Err(refused("401 Unauthorized (the login was not taken)".to_owned()).into());
    }
    *locked(&state.header) = Some(header.clone());
    Ok(header)
}

fn basic_header(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// What to ask a token server for: the repository, the one that a blob is mounted from, and other
/// names that the registry has for them. Never more than the request needs.
fn scopes(repository: &str, access: Access<'_>, challenge: Option<&str>) -> Vec<String> {
    let actions = if access == Access::Pull { "pull" } else { "pull,push" };
    let mut scopes = vec![format!("repository:{repository}:{actions}")];
    if let Access::Push { from: Some(from) } = access {
        scopes.push(format!("repository:{from}:pull"));
    }
    for other in challenge.unwrap_or_default().split_whitespace().take(4) {
        let fine = match other.strip_prefix("repository:").and_then(|rest| rest.rsplit_once(':')) {
            Some((_, "pull")) => true,
            Some((_, "pull,push" | "push,pull" | "push")) => access != Access::Pull,
            _ => false,
        };
        if fine && other.len() < 512 && !scopes.iter().any(|scope| scope == other) {
            scopes.push(other.to_owned());
        }
    }
    scopes
}

/// A token from the server that the challenge names, for what is asked and nothing else.
async fn fetch(
    transport: &Transport,
    ask: &Ask<'_>,
    base: &Url,
    challenge: &Challenge,
    login: Option<&Login>,
    refused: &(dyn Fn(String) -> OciError + Sync),
) -> Result<String, Failure> {
    let what = format!("a token for `{}/{}`", ask.host.name, ask.repository);
    let protocol =
        |why: String| OciError::Protocol { host: ask.host.name.clone(), what: ask.what.to_owned(), why };
    let realm = challenge.get("realm").unwrap_or_default();
    let mut url = Url::parse(realm).map_err(|error| {
        protocol(format!("its token server `{}` is no address: {error}", readable(realm)))
    })?;
    let plain = url.scheme() == "http" && (base.scheme() == "http" || ask.host.insecure);
    if url.scheme() != "https" && !plain {
        return Err(
            protocol(format!("its token server `{}` is not reached over TLS", readable(realm))).into()
        );
    }
    let scopes = scopes(ask.repository, ask.access, challenge.get("scope"));
    let service = challenge.get("service");
    let mut headers = HeaderMap::new();
    let client_ask = Ask { host: ask.host, what: &what, method: Method::GET, payload: None, ..*ask };
    let response = match login {
        Some(Login::Identity(token)) => {
            let mut form = Url::parse("form:").map_err(|error| protocol(error.to_string()))?;
            form.query_pairs_mut()
                .append_pair("grant_type", "refresh_token")
                .append_pair("client_id", "fleetpack")
                .append_pair("service", service.unwrap_or_default())
                .append_pair("scope", &scopes.join(" "))
                .append_pair("refresh_token", token);
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
            let body = form.query().unwrap_or_default().to_owned();
            transport.post(ask.host, &what, &url, headers, body).await?
        }
        login => {
            {
                let mut query = url.query_pairs_mut();
                if let Some(service) = service {
                    query.append_pair("service", service);
                }
                for scope in &scopes {
                    query.append_pair("scope", scope);
                }
            }
            let header = match login {
                Some(Login::Basic { user, password }) => {
                    let mut header = HeaderValue::from_str(&basic_header(user, password))
                        .map_err(|_| refused("the login holds characters that no header takes".to_owned()))?;
                    header.set_sensitive(true);
                    Some(header)
                }
                _ => None,
            };
            transport.follow(&client_ask, &url, &headers, header.as_ref()).await?
        }
    };
    let mut answer = Answer::bare(response, url.host_str().unwrap_or_default());
    let status = answer.status();
    if matches!(status.as_u16(), 400 | 401 | 403) {
        return Err(refused(format!("{status} (from the token server `{}`)", answer.from)).into());
    }
    if !status.is_success() {
        return Err(answer.failure(&client_ask, transport, "the token server").await);
    }
    if answer.is_html() {
        return Err(OciError::Html {
            host: answer.from.clone(),
            what,
            status: status.as_u16(),
            wanted: "a token in JSON",
        }
        .into());
    }
    let body = answer.small(&what, limits::HTTP_SMALL_BODY, &transport.policy).await?;
    let from = answer.from.clone();
    // What stands in the answer is secret: the parser's message quotes none of it.
    let found: Option<TokenAnswer> = serde_json::from_slice(&body).ok();
    found.and_then(|found| found.token.or(found.access_token)).filter(|token| !token.is_empty()).ok_or_else(
        || OciError::Protocol { host: from, what, why: "its answer holds no token".to_owned() }.into(),
    )
}

impl Transport {
    /// One POST, not followed anywhere: its body is a secret.
    async fn post(
        &self,
        host: &super::http::Host,
        what: &str,
        url: &Url,
        headers: HeaderMap,
        body: String,
    ) -> Result<reqwest::Response, Failure> {
        let name = url.host_str().unwrap_or_default();
        let request = self.client(name, host.insecure)?.post(url.clone()).headers(headers).body(body);
        match tokio::time::timeout(self.policy.stall, request.send()).await {
            Ok(done) => done.map_err(|error| transport_failure(name, what, &error)),
            Err(_) => Err(Failure::transient(OciError::Unreachable {
                host: name.to_owned(),
                what: what.to_owned(),
                why: format!("no answer within {:.1} s", self.policy.stall.as_secs_f64()),
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_asked_for_than_the_request_needs() {
        let pull = |challenge| scopes("a", Access::Pull, challenge);
        assert_eq!(pull(None), ["repository:a:pull"]);
        assert_eq!(pull(Some("repository:x/a:pull")), ["repository:a:pull", "repository:x/a:pull"]);
        assert_eq!(pull(Some("repository:x/a:pull,push registry:catalog:*")), ["repository:a:pull"]);
        let mount =
            scopes("a", Access::Push { from: Some("b") }, Some("repository:a:pull,push repository:b:pull"));
        assert_eq!(mount, ["repository:a:pull,push", "repository:b:pull"]);
        assert_eq!(scopes("a", Access::Push { from: None }, Some("repository:a:delete")).len(), 1);
    }
}
