//! A Git LFS server, as far as a build asks it (Git LFS API, "Batch" and "Basic Transfers"): which
//! objects it has, and their bytes.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde::{Deserialize, Serialize};

use super::program::Git;
use super::{RemoteSettings, RemoteUrl, Scheme};
use crate::fsio::limits;
use crate::model::{Digest, chain};

/// Media type of both directions.
const JSON: &str = "application/vnd.git-lfs+json";
/// Objects that one request may name, as servers bound it.
const AT_ONCE: usize = 100;
/// How long a server may say nothing at all.
const STALL: Duration = Duration::from_mins(1);

/// A server, and how this machine logs in there.
pub struct LfsServer {
    url: RemoteUrl,
    batch: Url,
    client: Client,
    settings: RemoteSettings,
    /// A folder that is no repository, for git's credential helpers to run in.
    folder: PathBuf,
    login: Mutex<Option<(String, String)>>,
}

impl std::fmt::Debug for LfsServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LfsServer({})", self.url)
    }
}

/// Where one object is.
#[derive(Debug, Clone)]
pub struct Action {
    href: Url,
    header: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Asked {
    operation: &'static str,
    transfers: [&'static str; 1],
    objects: Vec<AskedObject>,
    hash_algo: &'static str,
}

#[derive(Serialize)]
struct AskedObject {
    oid: String,
    size: u64,
}

#[derive(Deserialize)]
struct Answer {
    transfer: Option<String>,
    objects: Vec<Answered>,
}

#[derive(Deserialize)]
struct Answered {
    oid: String,
    size: Option<u64>,
    actions: Option<Actions>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Actions {
    download: Option<Download>,
}

#[derive(Deserialize)]
struct Download {
    href: String,
    #[serde(default)]
    header: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Refusal {
    code: Option<i64>,
    #[serde(default)]
    message: String,
}

/// The server of a remote that names none: `REMOTE.git/info/lfs`. The remote's own login goes there.
///
/// # Errors
///
/// When the remote is not spoken to over HTTP.
pub fn server_of(remote: &RemoteUrl) -> Result<RemoteUrl, String> {
    if !matches!(remote.scheme(), Scheme::Https | Scheme::Http) {
        return Err(format!(
            "`{remote}` is not spoken to over HTTP, and no `lfs.url` says where its server is"
        ));
    }
    let base = remote.as_str().trim_end_matches('/');
    let base = base.strip_suffix(".git").unwrap_or(base);
    let url = RemoteUrl::parse(&format!("{base}.git/info/lfs")).map_err(|error| error.to_string())?;
    Ok(url.with_login_of(remote))
}

impl LfsServer {
    /// The server at `url`.
    ///
    /// # Errors
    ///
    /// When the URL is not one of HTTP.
    pub fn new(url: &RemoteUrl, settings: &RemoteSettings, folder: PathBuf) -> Result<Self, String> {
        if !matches!(url.scheme(), Scheme::Https | Scheme::Http) {
            return Err(format!("`{url}` is no HTTP URL, and Git LFS is asked for over HTTP alone"));
        }
        let batch = Url::parse(&format!("{}/objects/batch", url.as_str().trim_end_matches('/')))
            .map_err(|error| format!("`{url}`: {error}"))?;
        // A redirect may lead elsewhere, but not out of TLS.
        let follow = |attempt: reqwest::redirect::Attempt<'_>| {
            let secure = attempt.previous().iter().any(|url| url.scheme() == "https");
            if attempt.previous().len() > 5 {
                attempt.error("more than 5 redirects")
            } else if secure && attempt.url().scheme() != "https" {
                attempt.error("a redirect leads from https to http")
            } else {
                attempt.follow()
            }
        };
        let client = Client::builder()
            .user_agent(concat!("fleetpack/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(STALL)
            .read_timeout(STALL)
            .redirect(reqwest::redirect::Policy::custom(follow))
            .build()
            .map_err(|error| chain(&error))?;
        let login = Mutex::new(url.login());
        Ok(Self { url: url.clone(), batch, client, settings: settings.clone(), folder, login })
    }

    /// Asks for objects (digest and size): where each is, or why it cannot be had.
    pub async fn locate(&self, objects: &[(Digest, u64)]) -> HashMap<Digest, Result<Action, String>> {
        let mut out = HashMap::new();
        for part in objects.chunks(AT_ONCE) {
            match self.locate_some(part).await {
                Ok(found) => out.extend(found),
                Err(why) => out.extend(part.iter().map(|(digest, _)| (*digest, Err(why.clone())))),
            }
        }
        out
    }

    async fn locate_some(
        &self,
        objects: &[(Digest, u64)],
    ) -> Result<HashMap<Digest, Result<Action, String>>, String> {
        let asked = Asked {
            operation: "download",
            transfers: ["basic"],
            objects: objects.iter().map(|(oid, size)| AskedObject { oid: oid.hex(), size: *size }).collect(),
            hash_algo: "sha256",
        };
        let body = serde_json::to_vec(&asked).map_err(|error| error.to_string())?;
        let response = self.ask(&body).await?;
        let bytes = bounded(response).await.map_err(|why| format!("`{}`: {why}", self.url))?;
        let answer: Answer = serde_json::from_slice(&bytes)
            .map_err(|error| format!("`{}` answers with something else than Git LFS: {error}", self.url))?;
        if let Some(transfer) = answer.transfer.filter(|name| name != "basic") {
            let transfer = safe(&transfer);
            return Err(format!("`{}` wants transfer `{transfer}`, and `basic` was offered", self.url));
        }
        let mut found: HashMap<String, Answered> =
            answer.objects.into_iter().map(|object| (object.oid.clone(), object)).collect();
        let place = |(oid, size): &(Digest, u64)| {
            let answered = found.remove(&oid.hex());
            (*oid, self.judge(answered, *size))
        };
        Ok(objects.iter().map(place).collect())
    }

    fn judge(&self, answered: Option<Answered>, size: u64) -> Result<Action, String> {
        let url = &self.url;
        let answered = answered.ok_or_else(|| format!("`{url}` says nothing of it"))?;
        if let Some(Refusal { code, message }) = answered.error {
            let code = code.map(|code| format!("{code}: ")).unwrap_or_default();
            return Err(format!("`{url}` answers {code}{}", safe(&message)));
        }
        if let Some(found) = answered.size.filter(|found| *found != size) {
            return Err(format!("`{url}` has it with {found} bytes, wanted {size}"));
        }
        let download = answered.actions.and_then(|actions| actions.download);
        let download = download.ok_or_else(|| format!("`{url}` does not say where it is"))?;
        let href = Url::parse(&download.href)
            .ok()
            .filter(|href| matches!(href.scheme(), "http" | "https"))
            .ok_or_else(|| format!("`{url}` says that it is at what is no HTTP URL"))?;
        Ok(Action { href, header: download.header })
    }

    /// The batch request: with the login at hand, then with what git's helpers say.
    async fn ask(&self, body: &[u8]) -> Result<Response, String> {
        let post = || {
            let request =
                self.client.post(self.batch.clone()).header(ACCEPT, JSON).header(CONTENT_TYPE, JSON);
            request.body(body.to_vec())
        };
        let known = self.known();
        let mut response = self.send(with(post(), known.as_ref())).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let Some(login) = self.helper("fill", None).await? else {
                return Err(format!(
                    "`{}` wants a login, and git's helpers know none that it takes",
                    self.url
                ));
            };
            response = self.send(with(post(), Some(&login))).await?;
            let taken = response.status() != StatusCode::UNAUTHORIZED;
            self.helper(if taken { "approve" } else { "reject" }, Some(&login)).await?;
            if taken {
                *self.login.lock().unwrap_or_else(PoisonError::into_inner) = Some(login);
            }
        }
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let message = bounded(response).await.ok().and_then(|bytes| {
            let refusal: Refusal = serde_json::from_slice(&bytes).ok()?;
            Some(format!(": {}", safe(&refusal.message)))
        });
        Err(format!("`{}` answers {}{}", self.url, status.as_u16(), message.unwrap_or_default()))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, String> {
        let sent = request.send().await;
        sent.map_err(|error| format!("`{}` cannot be asked: {}", self.url, chain(&error.without_url())))
    }

    fn known(&self) -> Option<(String, String)> {
        self.login.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What git's credential helpers say (gitcredentials(7)); `verb` is `fill`, `approve` or `reject`.
    async fn helper(
        &self,
        verb: &'static str,
        login: Option<&(String, String)>,
    ) -> Result<Option<(String, String)>, String> {
        if self.settings.git.is_none() {
            return Ok(None);
        }
        let host = self.batch.host_str().unwrap_or_default();
        let port = self.batch.port().map(|port| format!(":{port}")).unwrap_or_default();
        let path = self.batch.path().trim_start_matches('/').trim_end_matches("/objects/batch");
        let mut input = format!("protocol={}\nhost={host}{port}\npath={path}\n", self.batch.scheme());
        if let Some((user, password)) = login {
            input = format!("{input}username={user}\npassword={password}\n");
        }
        input.push('\n');
        let (settings, url, folder) = (self.settings.clone(), self.url.clone(), self.folder.clone());
        let run = move || {
            let git = Git::new(&settings, &url)?;
            // A helper that has nothing to say is no error of its own: the server's answer is.
            git.run("find a login for", &folder, &["credential", verb], input.as_bytes()).ok()
        };
        let answer = tokio::task::spawn_blocking(run).await.map_err(|error| error.to_string())?;
        let answer = String::from_utf8(answer.unwrap_or_default()).unwrap_or_default();
        let value = |key: &str| {
            answer.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned)
        };
        Ok(value("username").zip(value("password")))
    }

    /// Brings an object, which [`LfsServer::locate`] found, to `write` as it comes: `size` bytes.
    ///
    /// # Errors
    ///
    /// When the server does not give it, or another count of bytes, or `write` fails.
    pub async fn download(
        &self,
        action: &Action,
        size: u64,
        write: &mut (dyn FnMut(&[u8]) -> std::io::Result<()> + Send),
    ) -> Result<(), String> {
        // Addresses may hold signatures: they are not shown.
        let from = action.href.origin().ascii_serialization();
        let mut request = self.client.get(action.href.clone());
        let mut logged_in = false;
        for (name, value) in &action.header {
            logged_in |= name.eq_ignore_ascii_case(AUTHORIZATION.as_str());
            request = request.header(name, value);
        }
        let login = self.known().filter(|_| !logged_in && action.href.origin() == self.batch.origin());
        let failed = |error: reqwest::Error| format!("`{from}`: {}", chain(&error.without_url()));
        let mut response = with(request, login.as_ref()).send().await.map_err(failed)?;
        if response.status() != StatusCode::OK {
            return Err(format!("`{from}` answers {}", response.status().as_u16()));
        }
        let mut count = 0_u64;
        while let Some(bytes) = response.chunk().await.map_err(failed)? {
            count += bytes.len() as u64;
            if count > size {
                return Err(format!("`{from}` goes on after {size} bytes"));
            }
            write(&bytes).map_err(|error| error.to_string())?;
        }
        if count == size { Ok(()) } else { Err(format!("`{from}` ends after {count} of {size} bytes")) }
    }
}

fn with(request: RequestBuilder, login: Option<&(String, String)>) -> RequestBuilder {
    match login {
        Some((user, password)) => request.basic_auth(user, Some(password)),
        None => request,
    }
}

/// A short answer.
async fn bounded(mut response: Response) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(part) = response.chunk().await.map_err(|error| chain(&error.without_url()))? {
        bytes.extend_from_slice(&part);
        if bytes.len() as u64 > limits::HTTP_SMALL_BODY {
            return Err(format!("its answer is longer than {} bytes", limits::HTTP_SMALL_BODY));
        }
    }
    Ok(bytes)
}

/// Words of a server, as they may stand on a terminal.
fn safe(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_of_a_remote() {
        let of = |url: &str| server_of(&RemoteUrl::parse(url).unwrap()).map(|url| url.to_string());
        for (url, wanted) in [
            ("https://h.example/a/b", "https://h.example/a/b.git/info/lfs"),
            ("https://h.example/a/b.git/", "https://h.example/a/b.git/info/lfs"),
            ("http://me:secret@h.example:81/b.git", "http://h.example:81/b.git/info/lfs"),
        ] {
            assert_eq!(of(url).unwrap(), wanted);
        }
        assert!(of("git@h.example:a/b.git").unwrap_err().contains("not spoken to over HTTP"));
        let with = server_of(&RemoteUrl::parse("http://me:secret@h.example/b").unwrap()).unwrap();
        assert_eq!(with.login(), Some(("me".to_owned(), "secret".to_owned())));
    }
}
