//! Submodules of a revision (gitsubmodules(7)): each pinned commit, at any depth, found in the clone
//! at hand or fetched from where `.gitmodules` says, as a repository of its own.
//!
//! What travels follows from the commits alone: whether a submodule was in the clone or had to be
//! fetched changes no byte.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gix::bstr::ByteSlice as _;

use super::remote::{self, RemoteSettings, RemoteUrl, is_relative, looks_remote};
use super::{FileMode, GitError, Repository, Revision, Tree};
use crate::fsio::limits;
use crate::model::{Digest, GitOid, GitRef, Progress, ReleaseName, SafePath, SubmoduleEntry, SubmodulePath};

/// The file that says where submodules come from.
const FILE: &str = ".gitmodules";

/// A place in a tree that pins a commit of another repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gitlink {
    /// Its folder below the root of that tree.
    pub path: String,
    /// The commit.
    pub commit: GitOid,
}

/// The repositories and files of all submodules of a revision.
#[derive(Default)]
pub struct Submodules {
    /// Each repository once, sorted by name.
    pub repositories: Vec<SubmoduleRepository>,
    /// The tree of each place, with its path; parents before what is within them.
    pub trees: Vec<(SafePath, Tree)>,
}

/// One repository, and what of it is needed.
pub struct SubmoduleRepository {
    /// Where it was found.
    pub repository: Repository,
    /// The commits and the branches that they travel on.
    pub revision: Revision,
    name: ReleaseName,
    paths: Vec<SubmodulePath>,
}

impl SubmoduleRepository {
    /// Its place in the release document, once its bundle is measured.
    #[must_use]
    pub fn entry(self, bundle: Digest) -> SubmoduleEntry {
        let Revision { commit, refs, .. } = self.revision;
        SubmoduleEntry { name: self.name, paths: self.paths, commit, refs, bundle }
    }
}

/// A tree whose submodules are to be found.
struct Parent {
    /// Its folder below the root, with a slash behind it; empty for the root.
    prefix: String,
    repository: Repository,
    /// What its own relative URLs are relative to, as far as the revision says.
    identity: String,
    /// The same for real.
    base: Option<RemoteUrl>,
    depth: usize,
}

/// A repository on the way to be listed.
struct Found {
    identity: String,
    repository: Repository,
    paths: Vec<SubmodulePath>,
}

/// Finds every submodule of `tree`, the tree of a revision of `repository`, which was fetched from
/// `url` if it was.
///
/// # Errors
///
/// When one of them cannot be had: named, with what to do.
pub fn find(
    repository: &Repository,
    tree: &Tree,
    url: Option<&RemoteUrl>,
    settings: &RemoteSettings,
    progress: &dyn Progress,
) -> Result<Submodules, GitError> {
    let mut found: Vec<Found> = Vec::new();
    let mut trees: Vec<(SafePath, Tree)> = Vec::new();
    let root = Parent {
        prefix: String::new(),
        repository: repository.clone(),
        identity: ".".to_owned(),
        base: url.cloned().or_else(|| own_url(repository)),
        depth: 0,
    };
    let mut waiting = links(&root, tree)?;
    while let Some((parent, link, section)) = waiting.pop() {
        let path = format!("{}{}", parent.prefix, link.path);
        let refuse = |why: String| GitError::Submodule { path: path.clone(), why };
        if trees.len() >= limits::SUBMODULES || parent.depth >= limits::SUBMODULE_DEPTH {
            return Err(GitError::TooLarge { what: "submodules", limit: limits::SUBMODULES as u64 });
        }
        let section = section.ok_or_else(|| refuse(format!("`{FILE}` has no entry for it")))?;
        let safe: SafePath =
            path.parse().map_err(|error: crate::model::path::PathError| refuse(error.to_string()))?;
        let identity = identity(&parent.identity, &section.url);
        let url = target(&parent, &section.url);
        let known = found.iter().position(|known| known.identity == identity);
        // The clone's own folder for this place comes first: what is within it has its folders there.
        let shared = known.map(|at| &found[at].repository).filter(|shared| shared.holds(&link.commit));
        let opened = match (in_clone(&parent, &link, &section), shared) {
            (Some(opened), _) => opened,
            (None, Some(shared)) => shared.clone(),
            (None, None) => {
                let url = url.as_ref().map_err(|why| refuse(why.clone()))?;
                remote::fetch_commit(url, &link.commit, settings, progress)
                    .map_err(|error| refuse(error.to_string()))?
            }
        };
        let place =
            SubmodulePath { path: safe.clone(), url: recorded(&section.url), commit: link.commit.clone() };
        if let Some(at) = known {
            if !found[at].repository.holds(&link.commit) {
                if let Some(lost) = found[at].paths.iter().find(|place| !opened.holds(&place.commit)) {
                    let (other, commit) = (&lost.path, &lost.commit);
                    return Err(refuse(format!(
                        "it shares its repository with `{other}`, and the one that holds its commit has not {commit}"
                    )));
                }
                found[at].repository = opened.clone();
            }
            found[at].paths.push(place);
        } else {
            let (identity, repository) = (identity.clone(), opened.clone());
            found.push(Found { identity, repository, paths: vec![place] });
        }
        let revision = opened.resolve(link.commit.as_str())?;
        let tree = opened.tree_with_links(&revision).map_err(|error| refuse(error.to_string()))?;
        let child = Parent {
            prefix: format!("{path}/"),
            base: url.ok().or_else(|| own_url(&opened)),
            repository: opened,
            identity,
            depth: parent.depth + 1,
        };
        waiting.extend(links(&child, &tree)?);
        trees.push((safe, tree));
    }
    trees.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(Submodules { repositories: listed(found)?, trees })
}

type Waiting = (std::rc::Rc<Parent>, Gitlink, Option<Section>);

/// The links of a tree, with what its `.gitmodules` says of each.
fn links(parent: &Parent, tree: &Tree) -> Result<Vec<Waiting>, GitError> {
    if tree.links().is_empty() {
        return Ok(Vec::new());
    }
    let sections = sections(tree, &parent.prefix)?;
    let parent = std::rc::Rc::new(Parent {
        prefix: parent.prefix.clone(),
        repository: parent.repository.clone(),
        identity: parent.identity.clone(),
        base: parent.base.clone(),
        depth: parent.depth,
    });
    let with = |link: &Gitlink| {
        (std::rc::Rc::clone(&parent), link.clone(), sections.get(link.path.as_str()).cloned())
    };
    Ok(tree.links().iter().map(with).collect())
}

/// What `.gitmodules` says of one submodule.
#[derive(Debug, Clone)]
struct Section {
    name: String,
    url: String,
}

/// The entries of `.gitmodules` by path (gitmodules(5)).
fn sections(tree: &Tree, prefix: &str) -> Result<BTreeMap<String, Section>, GitError> {
    let Some(file) = tree.file(FILE).filter(|file| file.mode != FileMode::Symlink) else {
        return Ok(BTreeMap::new());
    };
    let refuse = |why: String| GitError::Path { path: format!("{prefix}{}", file.path), why };
    let bytes = tree.read(FILE, limits::CONFIG_FILE)?;
    let config = gix::config::File::from_bytes_no_includes(
        &bytes,
        gix::config::file::Metadata::api(),
        gix::config::file::init::Options::default(),
    )
    .map_err(|error| refuse(format!("does not parse: {error}")))?;
    let mut by_name: BTreeMap<String, (Option<String>, Option<String>)> = BTreeMap::new();
    for section in config.sections_by_name("submodule").into_iter().flatten() {
        let Some(name) = section.header().subsection_name().and_then(|name| name.to_str().ok()) else {
            continue;
        };
        let entry = by_name.entry(name.to_owned()).or_default();
        let value =
            |key: &str| section.body().value(key).and_then(|value| value.to_str().ok().map(str::to_owned));
        if let Some(path) = value("path") {
            entry.0 = Some(path);
        }
        if let Some(url) = value("url") {
            entry.1 = Some(url);
        }
    }
    let whole = by_name.into_iter().filter_map(|(name, (path, url))| {
        Some((path?.trim_end_matches('/').to_owned(), Section { name, url: url? }))
    });
    Ok(whole.collect())
}

/// The repository in the clone at hand that holds the link's commit.
fn in_clone(parent: &Parent, link: &Gitlink, section: &Section) -> Option<Repository> {
    let mut places: Vec<PathBuf> = Vec::new();
    // A name is a path below `.git/modules`; one that climbs is an attack (CVE-2018-11235).
    if section.name.parse::<SafePath>().is_ok() {
        places.push(parent.repository.common_folder().join("modules").join(&section.name));
    }
    if let Some(tree) = parent.repository.work_tree() {
        places.push(tree.join(&link.path).join(".git"));
    }
    places
        .iter()
        .filter(|place| place.is_dir())
        .filter_map(|place| Repository::open(place).ok())
        .find(|found| found.holds(&link.commit))
}

/// Where a submodule's URL leads from its parent.
fn target(parent: &Parent, url: &str) -> Result<RemoteUrl, String> {
    if is_relative(url) {
        let base = parent.base.as_ref().ok_or("its URL is relative, and the repository has none")?;
        return base.join(url).map_err(|error| error.to_string());
    }
    if looks_remote(url) {
        return RemoteUrl::parse(url).map_err(|error| error.to_string());
    }
    of_folder(Path::new(url)).ok_or_else(|| format!("its URL `{}` leads nowhere", url.escape_debug()))
}

/// The URL that a clone's relative URLs are relative to: that of `origin`, else its own folder.
pub(super) fn own_url(repository: &Repository) -> Option<RemoteUrl> {
    match repository.origin() {
        Some(text) if looks_remote(&text) => RemoteUrl::parse(&text).ok(),
        Some(text) => of_folder(&repository.work_tree().unwrap_or_default().join(text)),
        None => of_folder(&repository.work_tree().unwrap_or_else(|| repository.path().to_owned())),
    }
}

fn of_folder(path: &Path) -> Option<RemoteUrl> {
    let path = path.canonicalize().ok()?;
    let text = path.to_str()?.replace('%', "%25").replace(' ', "%20").replace('?', "%3F").replace('#', "%23");
    RemoteUrl::parse(&format!("file://{text}")).ok()
}

/// What a document says of a URL: all of it but a login.
fn recorded(url: &str) -> String {
    let url: String = url.chars().filter(|c| !c.is_control()).take(2_000).collect();
    match url.split_once("://") {
        Some((scheme, rest)) if !scheme.eq_ignore_ascii_case("ssh") => {
            let end = rest.find('/').unwrap_or(rest.len());
            let host = rest[..end].rsplit_once('@').map_or(&rest[..end], |(_, host)| host);
            format!("{scheme}://{host}{}", &rest[end..])
        }
        _ => url,
    }
}

/// What makes two submodules one repository, from the revision alone: the URL, or the way to it.
fn identity(parent: &str, url: &str) -> String {
    if !is_relative(url) {
        return recorded(url).trim_end_matches('/').trim_end_matches(".git").to_owned();
    }
    let mut parts: Vec<&str> = parent.split('/').filter(|part| *part != ".").collect();
    for part in url.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/").trim_end_matches(".git").to_owned()
}

/// Names for the repositories, and the branches that their commits travel on.
fn listed(mut found: Vec<Found>) -> Result<Vec<SubmoduleRepository>, GitError> {
    for one in &mut found {
        one.paths.sort_by(|a, b| a.path.cmp(&b.path));
    }
    // The first to use a base name has it, in the order of paths.
    found.sort_by(|a, b| a.paths[0].path.cmp(&b.paths[0].path));
    let mut out: BTreeMap<ReleaseName, SubmoduleRepository> = BTreeMap::new();
    for Found { identity, repository, paths } in found {
        let base = ReleaseName::of_repository(identity.rsplit(['/', ':']).next().unwrap_or_default());
        let numbered = |n: usize| format!("{base}-{n}").parse().unwrap_or_else(|_| base.clone());
        let mut name = base.clone();
        for n in 2..=limits::SUBMODULES + 1 {
            if !out.contains_key(&name) {
                break;
            }
            name = numbered(n);
        }
        let mut revision = repository.resolve(paths[0].commit.as_str())?;
        for place in &paths {
            if revision.refs.iter().all(|known| known.target != place.commit) {
                let name = format!("refs/heads/release-{}", place.commit);
                let name = name.parse().map_err(|error: crate::model::name::NameError| {
                    GitError::RefName { name, why: error.to_string() }
                })?;
                revision.refs.push(GitRef { name, target: place.commit.clone() });
            }
        }
        revision.refs.sort_by(|a, b| a.name.cmp(&b.name));
        out.insert(name.clone(), SubmoduleRepository { repository, revision, name, paths });
    }
    Ok(out.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_repository_has_one_identity_wherever_the_clone_lies() {
        assert_eq!(identity(".", "../lib.git"), "../lib");
        assert_eq!(identity("../lib", "../dep.git"), "../dep");
        assert_eq!(identity("../lib", "../../x/dep"), "../../x/dep");
        assert_eq!(identity("https://h/a/lib", "../dep.git"), "https:/h/a/dep".replace(":/", "://"));
        assert_eq!(identity(".", "https://me:pass@h/a/lib.git/"), "https://h/a/lib");
        assert_eq!(recorded("ssh://git@h/x"), "ssh://git@h/x");
    }

    #[test]
    fn names_that_a_site_serves() {
        let name = |text: &str| ReleaseName::of_repository(text).to_string();
        assert_eq!(name("lib.git"), "lib");
        assert_eq!(name("My_Lib.Core"), "my-lib-core");
        assert_eq!(name("..."), "repository");
        assert_eq!(name(&"x".repeat(60)).len(), 48);
    }
}
