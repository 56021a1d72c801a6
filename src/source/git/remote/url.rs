//! Where a repository lies when it is not in a folder: the URLs that are taken, and those that are not.

use std::fmt;
use std::path::PathBuf;

use super::RemoteError;

/// A URL longer than this is none.
const MAX: usize = 2_048;

/// How a remote is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Smart HTTP within TLS.
    Https,
    /// Smart HTTP in the clear.
    Http,
    /// A program on the other end of a secure shell.
    Ssh,
    /// A folder of this machine.
    File,
}

/// The address of a repository, checked: of a kind that is taken, and nothing in it can be read as an
/// option or as a helper program. What it prints never holds a password.
#[derive(Clone, PartialEq, Eq)]
pub struct RemoteUrl {
    scheme: Scheme,
    /// Without user and password for HTTP, without password for ssh.
    clean: String,
    /// `USER:PASSWORD` of an HTTP URL, as it stood there.
    login: Option<String>,
}

impl fmt::Display for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.clean)
    }
}

impl fmt::Debug for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteUrl({})", self.clean)
    }
}

/// Whether `text` is meant as a URL: `scheme://…`, `helper::…`, or ssh's short form `[user@]host:path`.
#[must_use]
pub fn looks_remote(text: &str) -> bool {
    if text.contains("://") {
        return true;
    }
    // Git's own rule: a colon before the first slash.
    text.split_once(':').is_some_and(|(host, _)| !host.is_empty() && !host.contains('/'))
}

impl RemoteUrl {
    /// Checks a URL.
    ///
    /// # Errors
    ///
    /// When it is of a kind that is not taken, or breaks a rule.
    pub fn parse(text: &str) -> Result<Self, RemoteError> {
        let refuse = |why: &str| RemoteError::Url { url: safe(text), why: why.to_owned() };
        if text.len() > MAX {
            return Err(refuse("it is longer than 2048 bytes"));
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(refuse("it holds white space or a control character"));
        }
        if text.starts_with('-') {
            return Err(refuse("it begins with `-`, as an option does"));
        }
        if let Some((name, _)) = text.split_once("::")
            && !name.contains('/')
            && !name.contains('[')
        {
            return Err(refuse("it names a transport helper, which is a program"));
        }
        let Some((scheme, rest)) = text.split_once("://") else { return Self::short(text) };
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "https" => Scheme::Https,
            "http" => Scheme::Http,
            "ssh" | "git+ssh" | "ssh+git" => Scheme::Ssh,
            "file" => Scheme::File,
            _ => return Err(refuse("wanted `https://`, `http://`, `ssh://`, `file://` or `host:path`")),
        };
        if rest.contains(['?', '#']) {
            return Err(refuse("it holds `?` or `#`; name a branch or tag with `--revision`"));
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if scheme == Scheme::File {
            if !matches!(authority, "" | "localhost") || path.len() < 2 {
                return Err(refuse("wanted `file:///` and an absolute path"));
            }
            return Ok(Self { scheme, clean: format!("file://{path}"), login: None });
        }
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        if path.len() < 2 {
            return Err(refuse("it has no path"));
        }
        check_host(host).map_err(refuse)?;
        let (clean, login) = if scheme == Scheme::Ssh {
            let user = user.map(|user| user.split(':').next().unwrap_or_default());
            check_user(user).map_err(refuse)?;
            let user = user.map(|user| format!("{user}@")).unwrap_or_default();
            (format!("ssh://{user}{host}{path}"), None)
        } else {
            let name = if scheme == Scheme::Https { "https" } else { "http" };
            (format!("{name}://{host}{path}"), user.map(str::to_owned))
        };
        Ok(Self { scheme, clean, login })
    }

    /// `[user@]host:path`.
    fn short(text: &str) -> Result<Self, RemoteError> {
        let refuse = |why: &str| RemoteError::Url { url: safe(text), why: why.to_owned() };
        let wanted = "wanted `https://`, `http://`, `ssh://`, `file://` or `host:path`";
        let (authority, path) = text.split_once(':').ok_or_else(|| refuse(wanted))?;
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        check_user(user).map_err(refuse)?;
        check_host(host).map_err(refuse)?;
        if path.is_empty() || path.starts_with('-') {
            return Err(refuse("its path is empty or begins with `-`, as an option does"));
        }
        Ok(Self { scheme: Scheme::Ssh, clean: text.to_owned(), login: None })
    }

    /// How it is spoken to.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The URL without what is secret in it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.clean
    }

    /// Whether both are on one host and port, spoken to in the same way.
    #[must_use]
    pub fn same_host(&self, other: &Self) -> bool {
        let host = |url: &Self| {
            let (_, rest) = url.clean.split_once("://")?;
            Some(rest[..rest.find('/').unwrap_or(rest.len())].to_ascii_lowercase())
        };
        self.scheme == other.scheme && host(self).is_some() && host(self) == host(other)
    }

    /// The folder that a `file://` URL names.
    #[must_use]
    pub fn folder(&self) -> Option<PathBuf> {
        (self.scheme == Scheme::File)
            .then(|| PathBuf::from(unescape(self.clean.strip_prefix("file://").unwrap_or_default())))
    }

    /// The last part of its path without `.git`: what a clone's folder would be called.
    #[must_use]
    pub fn base_name(&self) -> &str {
        let path = self.clean.trim_end_matches('/');
        let path = path.strip_suffix("/.git").unwrap_or(path);
        let name = path.rsplit(['/', ':']).next().unwrap_or_default();
        name.strip_suffix(".git").unwrap_or(name)
    }

    /// User and password that stood in an HTTP URL, as a credential helper would say them.
    pub(crate) fn login(&self) -> Option<(String, String)> {
        let (user, password) = self.login.as_deref()?.split_once(':')?;
        Some((unescape(user), unescape(password)))
    }

    /// The same with the login of `other`, which must be on the same host.
    pub(in crate::source::git) fn with_login_of(self, other: &Self) -> Self {
        Self { login: other.login.clone(), ..self }
    }

    /// The URL with user and password, for a program's environment; never for its arguments.
    pub(super) fn with_login(&self) -> Option<String> {
        let login = self.login.as_deref()?;
        let (scheme, rest) = self.clean.split_once("://")?;
        Some(format!("{scheme}://{login}@{rest}"))
    }

    /// The password, where there is one, as it stands in the URL.
    pub(super) fn secret(&self) -> Option<&str> {
        self.login.as_deref()?.split_once(':').map(|(_, password)| password).filter(|text| !text.is_empty())
    }

    /// The repository that `other` names when it stands in a file of this one (git-submodule(1), `add`):
    /// a URL of its own, or `./…` and `../…` relative to this one.
    ///
    /// # Errors
    ///
    /// When it climbs out of this URL's path, or is a URL that is not taken.
    pub fn join(&self, other: &str) -> Result<Self, RemoteError> {
        if !is_relative(other) {
            return Self::parse(other);
        }
        let refuse = |why: &str| RemoteError::Url { url: safe(other), why: why.to_owned() };
        let climbs = "it climbs above the remote that it is relative to";
        let mut base = self.clean.trim_end_matches('/').to_owned();
        let root = match self.clean.split_once("://") {
            Some((scheme, rest)) => scheme.len() + 3 + rest.find('/').unwrap_or(rest.len()),
            None => self.clean.find(':').map_or(0, |at| at + 1),
        };
        let mut rest = other;
        loop {
            if let Some(next) = rest.strip_prefix("../") {
                let end = base.rfind('/').filter(|at| *at >= root).unwrap_or(root);
                if base.len() <= root {
                    return Err(refuse(climbs));
                }
                base.truncate(end);
                rest = next;
            } else if let Some(next) = rest.strip_prefix("./") {
                rest = next;
            } else {
                break;
            }
        }
        if rest.is_empty() || rest.split('/').any(|part| part == "..") {
            return Err(refuse(climbs));
        }
        let slash = if base.ends_with(':') { "" } else { "/" };
        let mut joined = Self::parse(&format!("{base}{slash}{rest}"))?;
        joined.login.clone_from(&self.login);
        Ok(joined)
    }
}

/// Whether a submodule's URL is relative to its superproject's.
#[must_use]
pub fn is_relative(url: &str) -> bool {
    url.starts_with("./") || url.starts_with("../")
}

fn check_host(host: &str) -> Result<(), &'static str> {
    if host.is_empty() {
        return Err("it has no host");
    }
    if host.starts_with(['-', ':']) {
        return Err("its host begins with `-` or `:`");
    }
    if host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:[]".contains(c)) {
        Ok(())
    } else {
        Err("its host holds something else than letters, digits, `.`, `-`, `_`, `:` and brackets")
    }
}

fn check_user(user: Option<&str>) -> Result<(), &'static str> {
    match user {
        Some(user) if user.is_empty() || user.starts_with('-') || user.contains(['/', '@']) => {
            Err("its user is empty, begins with `-`, or holds `/` or `@`")
        }
        _ => Ok(()),
    }
}

/// A text that may be a URL, cut and without what may be a password.
fn safe(text: &str) -> String {
    let text: String = text.chars().take(200).flat_map(char::escape_debug).collect();
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}…{}", &text[..scheme + 3], &text[at..]),
        _ => text,
    }
}

/// Percent-decoding (RFC 3986 section 2.1); what is no escape stays.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let decoded = (*byte == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .and_then(|pair| hex::decode(pair).ok()?.first().copied());
        out.push(decoded.unwrap_or(*byte));
        at += if decoded.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> RemoteUrl {
        RemoteUrl::parse(text).unwrap()
    }

    #[test]
    fn what_is_taken() {
        for (text, shown, name) in [
            ("https://example.com/a/shop.git", "https://example.com/a/shop.git", "shop"),
            ("HTTPS://me:secret@example.com:8443/shop/", "https://example.com:8443/shop/", "shop"),
            ("http://127.0.0.1:8080/x", "http://127.0.0.1:8080/x", "x"),
            ("ssh://git:secret@example.com:22/~/shop.git", "ssh://git@example.com:22/~/shop.git", "shop"),
            ("git@example.com:team/shop.git", "git@example.com:team/shop.git", "shop"),
            ("file:///srv/shop/.git", "file:///srv/shop/.git", "shop"),
        ] {
            let url = parse(text);
            assert_eq!((url.to_string().as_str(), url.base_name()), (shown, name));
            assert!(!format!("{url:?} {url}").contains("secret"));
            assert!(looks_remote(text));
        }
        assert_eq!(
            parse("https://me:a%40b@h/x").login(),
            Some(("me".to_owned(), "a@b".to_owned())),
            "as it was meant"
        );
        assert_eq!(parse("file:///a%20b").folder(), Some("/a b".into()));
        for local in [".", "../shop", "/srv/shop.git", "shop", "./a:b", ""] {
            assert!(!looks_remote(local), "{local}");
        }
    }

    #[test]
    fn what_is_not() {
        for bad in [
            "ext::sh -c id",
            "ext::sh",
            "fd::17",
            "persistent-https::example.com/x",
            "-oProxyCommand=id:x",
            "--upload-pack=id",
            "ssh://-oProxyCommand=id/x",
            "ssh://-l@example.com/x",
            "-host:x",
            "user@-host:x",
            "host:-x",
            "git://example.com/x",
            "ftp://example.com/x",
            "https:///x",
            "https://example.com",
            "https://example.com/x?ref=main",
            "https://example.com/x\n",
            "https://exa mple.com/x",
            "https://exa;mple.com/x",
            "file://host/x",
            "file://",
            "host:",
        ] {
            let error = RemoteUrl::parse(bad).unwrap_err();
            assert!(matches!(error, RemoteError::Url { .. }), "{bad}");
        }
        let message = RemoteUrl::parse("https://me:secret@example.com/x?y").unwrap_err().to_string();
        assert!(!message.contains("secret"), "{message}");
    }

    #[test]
    fn relative_ones() {
        let join = |base: &str, other: &str| parse(base).join(other).map(|url| url.to_string());
        assert_eq!(join("https://h/a/shop.git", "../lib.git").unwrap(), "https://h/a/lib.git");
        assert_eq!(join("https://h/a/shop.git/", "../../b/lib").unwrap(), "https://h/b/lib");
        assert_eq!(join("https://h/a/shop.git", "./lib").unwrap(), "https://h/a/shop.git/lib");
        assert_eq!(join("git@h:a/shop.git", "../lib.git").unwrap(), "git@h:a/lib.git");
        assert_eq!(join("git@h:shop.git", "../lib.git").unwrap(), "git@h:lib.git");
        assert_eq!(join("file:///srv/shop", "../lib").unwrap(), "file:///srv/lib");
        assert_eq!(join("https://h/shop", "https://g/lib").unwrap(), "https://g/lib");
        assert_eq!(parse("https://u:p@h/shop").join("../lib").unwrap().login().unwrap().0, "u");
        for bad in ["../../../x", "../", "./", "../a/../../x", "ext::x"] {
            assert!(join("https://h/shop", bad).is_err(), "{bad}");
        }
    }
}
