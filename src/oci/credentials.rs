//! Credentials of registries: Docker's `config.json` with its helpers, and containers-auth.json(5).
//!
//! The caller says which files there are; nothing here reads the environment. Secrets are never
//! printed: their types have no `Debug` that shows them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Mutex;

use super::error::{OciError, Result, readable};
use super::files::read_text;
use crate::fsio::limits;

/// Where credentials may be.
#[derive(Debug, Clone, Default)]
pub struct CredentialPaths {
    /// The file that the user named (`REGISTRY_AUTH_FILE`): it must exist, and no other is read.
    pub explicit: Option<PathBuf>,
    /// Files that are read where they exist, in this order: `auth.json` of the containers' tools,
    /// Docker's `config.json`.
    pub files: Vec<PathBuf>,
    /// Folders in which `docker-credential-NAME` is looked for before the program search path.
    pub helper_dirs: Vec<PathBuf>,
    /// How long a credential helper may take; none gives it half a minute.
    pub helper_time: Option<Duration>,
}

/// How long a credential helper may take, unless the caller says otherwise.
const HELPER_TIME: Duration = Duration::from_secs(30);
/// How much a credential helper may write.
const HELPER_OUTPUT: u64 = 1 << 20;

/// What a registry wants to see.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Login {
    /// A user and a password.
    Basic { user: String, password: String },
    /// A refresh token, which a token server takes (`identitytoken`).
    Identity(String),
    /// A bearer token, used as it is (`registrytoken`).
    Bearer(String),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(..)")
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawLogin {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawFile {
    auths: Option<BTreeMap<String, RawLogin>>,
    cred_helpers: Option<BTreeMap<String, String>>,
    creds_store: Option<String>,
}

struct AuthFile {
    path: PathBuf,
    auths: BTreeMap<String, Login>,
    helpers: BTreeMap<String, String>,
    store: Option<String>,
}

/// What a helper said: a login, that it has none, or why it failed.
type Said = std::result::Result<Option<Login>, String>;

/// The credentials that there are.
#[derive(Default)]
pub struct Credentials {
    files: Vec<AuthFile>,
    missing: Vec<PathBuf>,
    helper_dirs: Vec<PathBuf>,
    helper_time: Option<Duration>,
    /// What helpers said, by helper and key.
    asked: Mutex<HashMap<(String, String), Said>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.files.iter().map(|file| &file.path)).finish()
    }
}

/// What was found for a registry, and where it was looked for.
pub(super) struct Found {
    pub login: Option<Login>,
    pub looked: Vec<String>,
    /// Helpers that failed just now, and why; told once.
    pub failed: Vec<String>,
}

impl Credentials {
    /// No credentials at all.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads the files of `paths`.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or understood, or the one that the user named does not exist.
    pub fn load(paths: CredentialPaths) -> Result<Self> {
        let mut credentials =
            Self { helper_dirs: paths.helper_dirs, helper_time: paths.helper_time, ..Self::default() };
        let (files, must_exist) = match paths.explicit {
            Some(path) => (vec![path], true),
            None => (paths.files, false),
        };
        for path in files {
            match read_text(&path, limits::CONFIG_FILE)? {
                Some(text) => credentials.files.push(parse(&path, &text)?),
                None if must_exist => {
                    return Err(OciError::Config { path, why: "there is no such file".to_owned() });
                }
                None => credentials.missing.push(path),
            }
        }
        Ok(credentials)
    }

    /// The login for `repository` on `registry`: in each file the helper of the registry, then the
    /// entry with the longest key (containers-auth.json(5), "FORMAT"), then the default helper.
    pub(super) async fn find(&self, registry: &str, repository: &str) -> Found {
        let (mut looked, mut failed) = (Vec::new(), Vec::new());
        for file in &self.files {
            let path = file.path.display();
            let own = file.helpers.get(registry);
            let key = || keys(registry, repository).iter().find_map(|key| file.auths.get(key)).cloned();
            if let (None, Some(login)) = (own, key()) {
                looked.push(format!("`{path}` (found there)"));
                return Found { login: Some(login), looked, failed };
            }
            let helper = own.or(file.store.as_ref());
            let Some(helper) = helper else {
                looked.push(format!("`{path}` (none there)"));
                continue;
            };
            let (said, first) = self.ask(helper, registry).await;
            match said {
                Ok(Some(login)) => {
                    looked.push(format!("`{path}` (from the helper `{helper}`)"));
                    return Found { login: Some(login), looked, failed };
                }
                Ok(None) => looked.push(format!("`{path}` (the helper `{helper}` has none)")),
                Err(why) => {
                    if first {
                        failed.push(format!("`docker-credential-{helper}`, asked for `{registry}`: {why}"));
                    }
                    looked.push(format!("`{path}` (the helper `{helper}` failed: {why})"));
                }
            }
        }
        looked.extend(self.missing.iter().map(|path| format!("`{}` (no such file)", path.display())));
        Found { login: None, looked, failed }
    }

    /// Asks a helper once for each key, and says whether this was the first time; the lock also
    /// keeps two prompts from standing side by side.
    async fn ask(&self, helper: &str, registry: &str) -> (Said, bool) {
        // Docker's tools store the Hub's login under the address of its old API.
        let key = if registry == "docker.io" { "https://index.docker.io/v1/" } else { registry };
        let mut asked = self.asked.lock().await;
        if let Some(answer) = asked.get(&(helper.to_owned(), key.to_owned())) {
            return (answer.clone(), false);
        }
        let answer = self.run(helper, key).await;
        asked.insert((helper.to_owned(), key.to_owned()), answer.clone());
        (answer, true)
    }

    async fn run(&self, helper: &str, key: &str) -> Said {
        let name = format!("docker-credential-{helper}");
        let program = self
            .helper_dirs
            .iter()
            .map(|folder| folder.join(&name))
            .find(|path| path.is_file())
            .unwrap_or_else(|| PathBuf::from(&name));
        let mut child = tokio::process::Command::new(&program)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot run `{}`: {error}", program.display()))?;
        // A helper is a script as often as not: what it started is stopped with it.
        let mut group = Group(child.id());
        let talk = async {
            if let Some(mut stdin) = child.stdin.take() {
                // A helper that does not read its input says so with its answer or status.
                let _ = stdin.write_all(key.as_bytes()).await;
            }
            let mut output = Vec::new();
            if let Some(stdout) = child.stdout.take() {
                stdout.take(HELPER_OUTPUT + 1).read_to_end(&mut output).await?;
            }
            if output.len() as u64 > HELPER_OUTPUT {
                return Err(std::io::Error::other("it writes more than 1 MiB"));
            }
            Ok((child.wait().await?, output))
        };
        let time = self.helper_time.unwrap_or(HELPER_TIME);
        let (status, output) = tokio::time::timeout(time, talk)
            .await
            .map_err(|_| format!("no answer within {} s, so it was stopped", time.as_secs()))?
            .map_err(|error| error.to_string())?;
        // It ended by itself: what it leaves running, such as an agent, is meant to run.
        group.0 = None;
        if !status.success() {
            let said = readable(&String::from_utf8_lossy(&output));
            // The words that the helpers' own protocol library uses for "there is none".
            if said.contains("credentials not found") || said.contains("no credentials server URL") {
                return Ok(None);
            }
            return Err(format!("{status}{}", if said.is_empty() { said } else { format!(": {said}") }));
        }
        // What stands in the answer is secret: the parser's message quotes none of it.
        let answer: Answer = serde_json::from_slice(&output)
            .map_err(|_| "its answer is not `{Username, Secret}`".to_owned())?;
        Ok(match answer {
            Answer { secret, .. } if secret.is_empty() => None,
            Answer { username, secret } if username == "<token>" => Some(Login::Identity(secret)),
            Answer { username, secret } => Some(Login::Basic { user: username, password: secret }),
        })
    }
}

/// The processes of a helper, which do not outlive this value.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
            // A group that is gone already is what is wanted.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// What a credential helper answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// The keys under which a login may stand, the most specific first.
fn keys(registry: &str, repository: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut path = repository;
    loop {
        keys.push(format!("{registry}/{path}"));
        match path.rsplit_once('/') {
            Some((parent, _)) => path = parent,
            None => break,
        }
    }
    keys.push(registry.to_owned());
    keys
}

/// A key as it is compared: no scheme, no API path behind it, one name for Docker Hub.
fn normal_key(key: &str) -> String {
    let key = match key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")) {
        Some(rest) => rest.split('/').next().unwrap_or_default(),
        None => key.trim_end_matches('/'),
    };
    let key = key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key);
    let (host, path) = key.split_once('/').map_or((key, None), |(host, path)| (host, Some(path)));
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    };
    path.map_or_else(|| host.to_owned(), |path| format!("{host}/{path}"))
}

fn parse(path: &Path, text: &str) -> Result<AuthFile> {
    let wrong = |why: String| OciError::Config { path: path.to_owned(), why };
    // Only the place of an error is told: the text around it may be a secret.
    let raw: RawFile = serde_json::from_str(text).map_err(|error| {
        wrong(format!("not a credentials file: line {}, column {}", error.line(), error.column()))
    })?;
    let helper = |name: String| {
        let fine = !name.is_empty()
            && !name.starts_with('.')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if fine {
            Ok(name)
        } else {
            Err(wrong(format!("`{}` is not the name of a credential helper", readable(&name))))
        }
    };
    let mut auths = BTreeMap::new();
    for (key, raw) in raw.auths.unwrap_or_default() {
        // A key in the exact form wins over one that only means the same.
        let normal = normal_key(&key);
        if let Some(login) =
            login(raw).map_err(|why| wrong(format!("`auths` of `{}`: {why}", readable(&key))))?
            && (normal == key || !auths.contains_key(&normal))
        {
            auths.insert(normal, login);
        }
    }
    let mut helpers = BTreeMap::new();
    for (key, name) in raw.cred_helpers.unwrap_or_default() {
        helpers.insert(normal_key(&key), helper(name)?);
    }
    let store = raw.creds_store.filter(|name| !name.is_empty()).map(helper).transpose()?;
    Ok(AuthFile { path: path.to_owned(), auths, helpers, store })
}

fn login(raw: RawLogin) -> std::result::Result<Option<Login>, &'static str> {
    if !raw.registrytoken.is_empty() {
        return Ok(Some(Login::Bearer(raw.registrytoken)));
    }
    if !raw.identitytoken.is_empty() {
        return Ok(Some(Login::Identity(raw.identitytoken)));
    }
    if raw.auth.is_empty() {
        // An empty entry is the place holder of a login that a helper keeps.
        return Ok(
            (!raw.username.is_empty()).then_some(Login::Basic { user: raw.username, password: raw.password })
        );
    }
    let decoded = STANDARD.decode(raw.auth.trim()).map_err(|_| "`auth` is not base64")?;
    let text = String::from_utf8(decoded).map_err(|_| "`auth` is not UTF-8")?;
    let (user, password) = text.split_once(':').ok_or("`auth` has no colon, wanted `user:password`")?;
    Ok(Some(Login::Basic { user: user.to_owned(), password: password.trim_end_matches('\0').to_owned() }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn auth(text: &str) -> String {
        STANDARD.encode(text)
    }

    fn user(found: &Found) -> Option<&str> {
        match &found.login {
            Some(Login::Basic { user, .. }) => Some(user),
            _ => None,
        }
    }

    fn one(text: &str) -> Credentials {
        Credentials { files: vec![parse(Path::new("auth.json"), text).unwrap()], ..Credentials::none() }
    }

    #[tokio::test]
    async fn the_longest_key_wins() {
        let credentials = one(&format!(
            r#"{{"auths":{{"r.example.com":{{"auth":"{}"}},"r.example.com/shop":{{"auth":"{}"}},
                "r.example.com/shop/web":{{"auth":"{}"}},"https://index.docker.io/v1/":{{"auth":"{}"}},
                "https://old.example.com/v2/":{{"auth":"{}"}}, "empty.example.com":{{}}}}}}"#,
            auth("host:p"),
            auth("shop:p:with:colons"),
            auth("web:p"),
            auth("hub:p"),
            auth("old:p")
        ));
        for (registry, repository, want) in [
            ("r.example.com", "shop/web", Some("web")),
            ("r.example.com", "shop/web/x", Some("web")),
            ("r.example.com", "shop/db", Some("shop")),
            ("r.example.com", "shopping", Some("host")),
            ("docker.io", "library/nginx", Some("hub")),
            ("old.example.com", "x", Some("old")),
            ("empty.example.com", "x", None),
            ("r.example.com:5000", "shop/web", None),
        ] {
            let found = credentials.find(registry, repository).await;
            assert_eq!(user(&found), want, "{registry}/{repository}");
            assert!(found.looked[0].contains("`auth.json`"), "{:?}", found.looked);
        }
        let found = credentials.find("r.example.com", "shop/db").await;
        assert!(matches!(found.login, Some(Login::Basic { password, .. }) if password == "p:with:colons"));
    }

    #[tokio::test]
    async fn helpers_are_asked_once_with_the_host_on_stdin() {
        let folder = tempfile::tempdir().unwrap();
        let helper = |name: &str, script: &str| {
            let path = folder.path().join(format!("docker-credential-{name}"));
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        let log = folder.path().join("log");
        helper(
            "good",
            &format!(
                "host=$(cat); echo \"$1 $host\" >>{}; echo '{{\"Username\":\"u\",\"Secret\":\"s\"}}'",
                log.display()
            ),
        );
        helper("token", r#"echo '{"Username":"<token>","Secret":"t"}'"#);
        helper("none", "echo 'credentials not found in native keychain'; exit 1");
        helper("bad", "echo 'keychain is locked'; exit 3");
        helper("endless", "exec yes");
        // A script whose child keeps the pipe open for ever.
        let pid = folder.path().join("pid");
        helper("hangs", &format!("sleep 3600 & echo $! >{}; wait", pid.display()));
        let credentials = Credentials {
            helper_dirs: vec![folder.path().to_owned()],
            helper_time: Some(Duration::from_secs(2)),
            ..one(r#"{"credHelpers":{"g.example.com":"good","t.example.com":"token","n.example.com":"none",
                "b.example.com":"bad","e.example.com":"endless",
                "h.example.com":"hangs"},"credsStore":"good"}"#)
        };
        for _ in 0..2 {
            assert_eq!(user(&credentials.find("g.example.com", "x").await), Some("u"));
            assert_eq!(user(&credentials.find("docker.io", "library/x").await), Some("u"));
        }
        assert_eq!(
            std::fs::read_to_string(log).unwrap(),
            "get g.example.com\nget https://index.docker.io/v1/\n"
        );
        assert_eq!(credentials.find("t.example.com", "x").await.login, Some(Login::Identity("t".into())));
        for (host, want) in [
            ("n.example.com", "has none"),
            ("b.example.com", "keychain is locked"),
            ("e.example.com", "more than 1 MiB"),
            ("h.example.com", "no answer within 2 s, so it was stopped"),
        ] {
            let found = credentials.find(host, "x").await;
            assert!(found.login.is_none());
            assert!(found.looked[0].contains(want), "{:?}", found.looked);
            let told = usize::from(host != "n.example.com");
            assert_eq!(found.failed.len(), told, "{:?}", found.failed);
            assert_eq!(credentials.find(host, "x").await.failed.len(), 0, "told once");
        }
        let pid = std::fs::read_to_string(pid).unwrap();
        // Gone, or waiting for somebody to take note; the kernel may need a moment for it.
        let gone = || {
            let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
            state.map_or(true, |state| state.contains(") Z "))
        };
        for _ in 0..500 {
            if gone() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(gone(), "the helper's child still runs");
    }

    #[test]
    fn bad_files_are_refused_without_their_secrets() {
        for (text, want) in [
            (r#"{"auths":{"x":{"auth":"!"}}}"#, "`auths` of `x`: `auth` is not base64"),
            (r#"{"auths":{"x":{"auth":"c2VjcmV0"}}}"#, "has no colon"),
            (r#"{"auths":{"x":{"password":"secret","auth":7}}}"#, "not a credentials file: line 1"),
            (r#"{"credsStore":"../evil"}"#, "`../evil` is not the name of a credential helper"),
        ] {
            let error = parse(Path::new("auth.json"), text).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(want) && !error.contains("secret"), "{error}");
        }
        let missing = CredentialPaths { explicit: Some("/no/such/auth.json".into()), ..Default::default() };
        assert!(Credentials::load(missing).unwrap_err().to_string().contains("no such file"));
    }
}
