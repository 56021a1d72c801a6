//! Bases of a kustomization that lie in another repository: taken only by a full commit, which
//! says what they hold, and fetched into a private folder before the tool starts.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use serde_json::Value;

use super::RenderError;
use super::tree::Tree;
use crate::model::{GitOid, Progress, SafePath, yaml};
use crate::source::git::remote::{self, RemoteSettings, RemoteUrl, Scheme};

/// Bases that one rendering may fetch.
const MAX_BASES: usize = 100;

/// A base elsewhere, as a kustomization names it.
#[derive(Debug)]
pub(super) struct BaseName {
    url: RemoteUrl,
    commit: GitOid,
    folder: Option<SafePath>,
}

impl BaseName {
    /// Reads an entry of `resources`, `bases` or `components` that leads elsewhere
    /// (kustomize's "remote targets"). An error goes on after the entry: "which …".
    pub fn parse(entry: &str) -> Result<Self, &'static str> {
        let entry = entry.strip_prefix("git::").unwrap_or(entry);
        let (address, query) = entry.split_once('?').unwrap_or((entry, ""));
        let parameter =
            |name: &str| query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        let Some(reference) = parameter("ref").or_else(|| parameter("version")) else {
            let file = Path::new(address).extension().is_some_and(|extension| {
                ["yaml", "yml", "json"].iter().any(|known| extension.eq_ignore_ascii_case(known))
            });
            return Err(if file {
                "which is a file outside the revision, that nothing pins"
            } else {
                "which is not pinned to a commit"
            });
        };
        let commit = reference.parse().map_err(|_| "which is not pinned to a commit")?;
        if query.split('&').any(|part| part.starts_with("submodules=") && part != "submodules=false") {
            return Err("which asks for submodules, and they are not fetched");
        }
        let (repository, folder) = split(address)
            .ok_or("in which the repository cannot be told from the folder (write `//` between them)")?;
        let repository = match repository.to_ascii_lowercase() {
            lower if lower.starts_with("github.com/") => format!("https://{repository}"),
            _ => repository,
        };
        let url = RemoteUrl::parse(&repository).map_err(|_| "which is no URL that is fetched from")?;
        if url.scheme() == Scheme::File {
            return Err("which is a folder of one machine");
        }
        let folder = match folder.trim_matches('/') {
            "" | "." => None,
            folder => Some(folder.parse().map_err(|_| "whose folder leads out of its repository")?),
        };
        Ok(Self { url, commit, folder })
    }
}

/// Splits an address into repository and folder, as kustomize does.
fn split(address: &str) -> Option<(String, String)> {
    let after_scheme = address.find("://").map_or(0, |at| at + 3);
    let rest = address.get(after_scheme..)?;
    let cut = |at: usize, skip: usize| {
        let folder = rest.get(at + skip..).unwrap_or_default();
        Some((format!("{}{}", &address[..after_scheme], &rest[..at]), folder.to_owned()))
    };
    if let Some(at) = rest.find("//") {
        return cut(at, 2);
    }
    if let Some(at) = rest.find(".git/") {
        return cut(at + 4, 1);
    }
    if rest.strip_suffix(".git").is_some() {
        return cut(rest.len(), 0);
    }
    // Without a mark the repository is `HOST/OWNER/NAME`.
    let start = rest.find(['/', ':'])? + 1;
    let mut slashes = rest.match_indices('/').map(|(at, _)| at).filter(|at| *at >= start);
    slashes.next()?;
    match slashes.next() {
        Some(at) => cut(at, 1),
        None => cut(rest.len(), 0),
    }
}

/// What was fetched for one rendering, and the kustomizations that were led to it.
pub(super) struct Bases<'a> {
    settings: &'a RemoteSettings,
    progress: &'a dyn Progress,
    folder: PathBuf,
    fetched: BTreeMap<(String, String), Rc<Tree>>,
    /// Files as they were: the tree is the revision's again when the rendering is over.
    changed: Vec<(PathBuf, Vec<u8>)>,
}

impl Drop for Bases<'_> {
    fn drop(&mut self) {
        for (path, bytes) in self.changed.drain(..).rev() {
            // The tree is a private copy that goes with the build.
            let _ = fs::write(path, bytes);
        }
    }
}

impl<'a> Bases<'a> {
    /// Nothing yet; what comes is put below `scratch`.
    pub fn new(scratch: &Path, settings: &'a RemoteSettings, progress: &'a dyn Progress) -> Self {
        Self {
            settings,
            progress,
            folder: scratch.join("bases"),
            fetched: BTreeMap::new(),
            changed: Vec::new(),
        }
    }

    /// The trees, each with its folder.
    pub fn trees(&self) -> impl Iterator<Item = &Rc<Tree>> {
        self.fetched.values()
    }

    /// Fetches a base that `file` names as `entry`, once; answers with its tree and its folder there.
    pub fn fetch(
        &mut self,
        base: &BaseName,
        file: &str,
        entry: &str,
    ) -> Result<(Rc<Tree>, PathBuf), RenderError> {
        let key = (base.url.to_string(), base.commit.to_string());
        let tree = if let Some(tree) = self.fetched.get(&key) {
            Rc::clone(tree)
        } else {
            if self.fetched.len() >= MAX_BASES {
                return Err(RenderError::TooManyBases { file: file.to_owned(), limit: MAX_BASES });
            }
            let root = self.export(base, file, entry)?;
            let tree = Rc::new(Tree { root, elsewhere: Some(key.clone()) });
            self.fetched.insert(key, Rc::clone(&tree));
            tree
        };
        let at = base.folder.as_ref().map_or_else(|| tree.root.clone(), |folder| folder.below(&tree.root));
        if !at.is_dir() {
            return Err(RenderError::Missing {
                place: format!("`{file}`"),
                wanted: format!("a folder by `{entry}`"),
            });
        }
        let at = tree.resolve(&at)?;
        Ok((tree, at))
    }

    /// Fetches the repository of a base and writes its files into a folder; answers with the folder.
    fn export(&self, base: &BaseName, file: &str, entry: &str) -> Result<PathBuf, RenderError> {
        let into = self.folder.join(self.fetched.len().to_string());
        let io = |source| RenderError::Io { path: into.display().to_string(), source };
        fs::create_dir_all(&into).map_err(io)?;
        self.progress.note(format!("taking the base `{}` at commit {}", base.url, base.commit));
        // On a thread of its own: this one may belong to a runtime that must not block.
        let fetching = || remote::export_commit(&base.url, &base.commit, &into, self.settings, self.progress);
        let Ok(done) = std::thread::scope(|scope| scope.spawn(fetching).join()) else {
            return Err(io(std::io::Error::other("the fetch broke off")));
        };
        let warnings = done.map_err(|source| RenderError::Base {
            file: file.to_owned(),
            entry: entry.to_owned(),
            source: Box::new(source),
        })?;
        for warning in warnings {
            self.progress.warn(format!("in the base `{}`: {warning}", base.url));
        }
        fs::canonicalize(&into).map_err(io)
    }

    /// Has the kustomization at `path`, in `folder`, name fetched folders in place of `entries`.
    pub fn lead(
        &mut self,
        path: &Path,
        folder: &Path,
        mut value: Value,
        entries: &[(String, PathBuf)],
    ) -> Result<(), RenderError> {
        let io = |source| RenderError::Io { path: path.display().to_string(), source };
        for field in FIELDS {
            for entry in value.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
                let found = entries.iter().find(|(name, _)| entry.as_str() == Some(name));
                if let Some((_, target)) = found {
                    *entry = relative(folder, target).into();
                }
            }
        }
        let before = fs::read(path).map_err(io)?;
        fs::write(path, yaml::to_string(&value)).map_err(io)?;
        self.changed.push((path.to_owned(), before));
        Ok(())
    }
}

/// The fields that may name a base elsewhere.
pub(super) const FIELDS: [&str; 3] = ["resources", "bases", "components"];

/// The path from one folder to another, both without links.
pub(super) fn relative(from: &Path, to: &Path) -> String {
    let (from, to): (Vec<Component<'_>>, Vec<Component<'_>>) =
        (from.components().collect(), to.components().collect());
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = std::iter::repeat_n("..".to_owned(), from.len() - common);
    let down = to.iter().skip(common).map(|part| part.as_os_str().to_string_lossy().into_owned());
    up.chain(down).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn names_as_kustomize_knows_them() {
        for (entry, url, folder) in [
            ("https://github.com/a/b?ref=", "https://github.com/a/b", None),
            ("https://github.com/a/b//deploy/base?ref=", "https://github.com/a/b", Some("deploy/base")),
            ("github.com/a/b/deploy/base?ref=", "https://github.com/a/b", Some("deploy/base")),
            (
                "https://git.example.com/x/y/z.git/base?timeout=90s&ref=",
                "https://git.example.com/x/y/z.git",
                Some("base"),
            ),
            ("git@github.com:a/b.git//c?ref=", "git@github.com:a/b.git", Some("c")),
            ("git@github.com:a/b?ref=", "git@github.com:a/b", None),
            ("git::https://example.com/a/b.git?ref=", "https://example.com/a/b.git", None),
            ("ssh://git@example.com/a/b//c/?version=", "ssh://git@example.com/a/b", Some("c")),
        ] {
            let base =
                BaseName::parse(&format!("{entry}{COMMIT}")).unwrap_or_else(|why| panic!("{entry}: {why}"));
            assert_eq!(
                (base.url.as_str(), base.folder.as_ref().map(SafePath::as_str)),
                (url, folder),
                "{entry}"
            );
        }
    }

    #[test]
    fn what_is_not_pinned_or_not_fetched() {
        for (entry, part) in [
            ("https://github.com/a/b", "not pinned"),
            ("https://github.com/a/b?ref=main", "not pinned"),
            ("https://github.com/a/b?ref=0123456", "not pinned"),
            ("https://example.com/a.yaml", "is a file"),
            (&format!("file:///srv/a//b?ref={COMMIT}"), "of one machine"),
            (&format!("https://github.com/a/b//../c?ref={COMMIT}"), "leads out"),
            (&format!("https://github.com/a/b?submodules=true&ref={COMMIT}"), "submodules"),
            (&format!("https://github.com?ref={COMMIT}"), "write `//`"),
            (&format!("ext::sh -c x//y?ref={COMMIT}"), "no URL"),
        ] {
            let why = BaseName::parse(entry).unwrap_err();
            assert!(why.contains(part), "{entry}: {why}");
        }
    }

    #[test]
    fn paths_from_folder_to_folder() {
        assert_eq!(relative(Path::new("/t/tree/a/b"), Path::new("/t/s/bases/0")), "../../../s/bases/0");
        assert_eq!(relative(Path::new("/t/a"), Path::new("/t/a/b")), "b");
    }
}
