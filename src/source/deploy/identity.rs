//! Which repository is this one, and which names mean the revision that is built.

use std::collections::BTreeSet;

/// What deployers may call the repository and the revision that is built.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// Normal forms of its URLs.
    repositories: BTreeSet<String>,
    /// The commit, in full.
    commit: String,
    /// Branches and tags that mean the commit, short and full.
    names: BTreeSet<String>,
}

impl Identity {
    /// Of a repository with these URLs, whose commit `commit` is what these references mean. A full
    /// name (`refs/heads/main`) counts for its short one too.
    pub fn new<'a>(
        urls: impl IntoIterator<Item = &'a str>,
        commit: &str,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let mut all = BTreeSet::new();
        for name in names {
            all.insert(name.to_owned());
            let remote = name.strip_prefix("refs/remotes/").and_then(|rest| rest.split_once('/'));
            let short = ["refs/heads/", "refs/tags/"]
                .iter()
                .find_map(|prefix| name.strip_prefix(prefix))
                .or(remote.map(|(_, branch)| branch));
            all.extend(short.map(str::to_owned));
        }
        Self { repositories: urls.into_iter().map(normal).collect(), commit: commit.to_owned(), names: all }
    }

    /// Whether `url` is a URL of this repository.
    #[must_use]
    pub fn is_here(&self, url: &str) -> bool {
        self.repositories.contains(&normal(url))
    }

    /// Whether any URL of this repository is known.
    #[must_use]
    pub fn has_url(&self) -> bool {
        !self.repositories.is_empty()
    }

    /// Whether `revision`, as a deployer says it, is the one that is built.
    #[must_use]
    pub fn is_now(&self, revision: &str) -> bool {
        let is_hash = revision.len() >= 7 && revision.bytes().all(|b| b.is_ascii_hexdigit());
        matches!(revision, "" | "HEAD")
            || self.names.contains(revision)
            || (is_hash && self.commit.starts_with(&revision.to_ascii_lowercase()))
    }

    /// The commit, in full.
    #[must_use]
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// The first digits of the commit, for people.
    #[must_use]
    pub fn short(&self) -> &str {
        self.commit.get(..12).unwrap_or(&self.commit)
    }
}

/// The host (in lower case, with a port that is not the scheme's own) and the path, without scheme,
/// user, outer slashes and a final `.git`. A repository on this machine is its path.
fn normal(url: &str) -> String {
    let url = url.trim();
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
        // `user@host:path`, as ssh takes it; a slash before the colon makes it a path.
        None => match url.split_once(':') {
            Some((host, path)) if !host.contains('/') && !host.is_empty() => {
                return join(&host_of(host, true), path);
            }
            _ => return join("", url),
        },
    };
    if scheme == "file" {
        return join("", rest);
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = path.split(['?', '#']).next().unwrap_or_default();
    // The port of an ssh server says nothing about the repository's other URLs.
    let own_port = match scheme.as_str() {
        "https" => ":443",
        "http" => ":80",
        "git" => ":9418",
        _ => "",
    };
    let host = host_of(authority, scheme.contains("ssh"));
    let host = if own_port.is_empty() { &host } else { host.strip_suffix(own_port).unwrap_or(&host) };
    join(host, path)
}

fn host_of(authority: &str, drop_port: bool) -> String {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host).to_ascii_lowercase();
    match host.rsplit_once(':') {
        Some((name, port)) if drop_port && port.bytes().all(|b| b.is_ascii_digit()) => name.to_owned(),
        _ => host,
    }
}

fn join(host: &str, path: &str) -> String {
    let path = path.trim_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path).trim_end_matches('/');
    format!("{host}/{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_one_repository() {
        let identity = Identity::new(["https://git.example.com/team/shop.git"], "", []);
        for same in [
            "https://git.example.com/team/shop",
            "https://git.example.com/team/shop/",
            "http://robot:secret@Git.Example.com:80/team/shop.git",
            "https://git.example.com:443/team/shop.git",
            "ssh://git@git.example.com/team/shop.git",
            "ssh://git@git.example.com:2222/team/shop.git",
            "git@git.example.com:team/shop.git",
            "git.example.com:/team/shop",
            "git://git.example.com:9418/team/shop.git",
            " https://git.example.com/team/shop.git ",
        ] {
            assert!(identity.is_here(same), "{same}");
        }
        for other in [
            "https://git.example.com/team/shop2.git",
            "https://git.example.com/team/Shop.git",
            "https://git.example.com:8443/team/shop.git",
            "https://example.com/team/shop.git",
            "https://charts.example.com",
            "/team/shop",
            "",
        ] {
            assert!(!identity.is_here(other), "{other}");
        }
        let local = Identity::new(["file:///srv/git/shop.git"], "", []);
        assert!(local.is_here("/srv/git/shop") && local.is_here("/srv/git/shop.git/"));
        assert!(!Identity::default().has_url());
    }

    #[test]
    fn names_of_the_revision() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let names = ["refs/heads/main", "refs/tags/v1.2", "refs/remotes/origin/stable", "live"];
        let identity = Identity::new([], commit, names);
        let same = ["", "HEAD", "main", "refs/heads/main", "v1.2", "stable", "live", "0123456", commit];
        for same in same {
            assert!(identity.is_now(same), "{same}");
        }
        for other in ["012345", "origin/stable", "v1", "1.x", "abcdef0", "refs/heads/v1.2"] {
            assert!(!identity.is_now(other), "{other}");
        }
    }
}
