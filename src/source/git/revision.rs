//! From what a person calls a revision to the commit and the references that travel.

use gix::ObjectId;
use gix::bstr::ByteSlice;
use gix::objs::Kind;
use jiff::Timestamp;

use super::{GitError, Repository, from_oid};
use crate::model::{GitOid, GitRef, RefName, ReleaseVersion};
use crate::store::git::object::parse_commit;
use crate::store::git::walk::{self, Objects as _, WalkError};

/// The branch that a release travels on when no branch was asked for.
const RELEASE_BRANCH: &str = "refs/heads/release";
/// Tags below this are the site's own.
const RESERVED: &str = "refs/tags/fleetpack";
/// Digits of a short hash. Fixed, so that it does not depend on what else the clone holds.
const SHORT: usize = 12;

/// A commit, and how it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// The commit.
    pub commit: GitOid,
    /// How it was asked for.
    pub kind: RevisionKind,
    /// Committer time.
    pub created: Timestamp,
    /// Number of commits that it reaches, itself included.
    pub sequence: u64,
    /// The first digits of its name, for people and default versions.
    pub short: String,
    /// A tag that points at exactly this commit: the one that was asked for; else, of several, a
    /// tag that can serve as a version before others, an annotated one before a lightweight one,
    /// the highest version before lower ones.
    pub tag_at: Option<String>,
    /// The references that travel, sorted by name; at least one branch.
    pub refs: Vec<GitRef>,
}

/// How a revision was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevisionKind {
    /// By the name of a branch, or as `HEAD` that stands on one.
    Branch(RefName),
    /// By the name of a tag; the target is the commit or the tag object.
    Tag(RefName, GitOid),
    /// In another way: by hash, by a detached `HEAD`, relative to something.
    Hash,
}

impl Repository {
    /// Looks up a revision: a branch, a tag, a short or full hash, `HEAD`, `HEAD~1` and the like.
    ///
    /// # Errors
    ///
    /// When nothing or more than one thing has that name, or it does not lead to a commit.
    pub fn resolve(&self, revision: &str) -> Result<Revision, GitError> {
        let refuse = |why: &str| GitError::Revision {
            revision: revision.chars().take(200).collect(),
            why: why.to_owned(),
        };
        if revision.is_empty() {
            return Err(refuse("it is empty"));
        }
        if revision.len() > 1_000 {
            return Err(refuse("it is longer than 1000 bytes"));
        }
        if revision.starts_with('-') {
            return Err(refuse("it begins with `-`, as an option does"));
        }
        if revision.chars().any(char::is_control) {
            return Err(refuse("it holds a control character"));
        }
        let (kind, target) = self.look_up(revision)?;
        let (commit, _) = walk::peel(&mut self.objects(), target).map_err(|source| match source {
            WalkError::WrongKind { found, wanted: Kind::Commit, .. } => {
                GitError::NotACommit { revision: revision.to_owned(), found: found.to_string() }
            }
            source => self.walk_error(source),
        })?;
        self.describe(commit, kind)
    }

    fn look_up(&self, revision: &str) -> Result<(RevisionKind, ObjectId), GitError> {
        let local = self.local();
        if revision == "HEAD" || revision == "@" {
            let head = local.head().map_err(|error| self.unknown(revision, &error))?;
            if let Some(name) = head.referent_name() {
                let name = name.as_bstr().to_str_lossy().into_owned();
                if name.starts_with("refs/heads/") {
                    let found = reference(&local, &name)
                        .ok_or_else(|| GitError::NoCommit { branch: name.clone() })?;
                    return Ok((RevisionKind::Branch(ref_name(&name)?), found));
                }
            }
        } else if !is_full_hash(revision) {
            let names: Vec<String> = if revision.starts_with("refs/") {
                vec![revision.to_owned()]
            } else {
                ["refs/", "refs/heads/", "refs/tags/"].map(|prefix| format!("{prefix}{revision}")).to_vec()
            };
            let mut found: Vec<(String, ObjectId)> = names
                .into_iter()
                .filter(|name| name.starts_with("refs/heads/") || name.starts_with("refs/tags/"))
                .filter_map(|name| reference(&local, &name).map(|target| (name, target)))
                .collect();
            if found.len() > 1 {
                let candidates = found.into_iter().map(|(name, _)| name).collect();
                return Err(GitError::Ambiguous { revision: revision.to_owned(), candidates });
            }
            if let Some((name, target)) = found.pop() {
                let name = ref_name(&name)?;
                if name.is_branch() {
                    return Ok((RevisionKind::Branch(name), target));
                }
                if name.as_str() == RESERVED || name.as_str().starts_with("refs/tags/fleetpack/") {
                    let why = "tags below `fleetpack/` belong to the site".to_owned();
                    return Err(GitError::RefName { name: name.to_string(), why });
                }
                return Ok((RevisionKind::Tag(name, git_oid(&target)?), target));
            }
        }
        let target = local
            .rev_parse_single(revision.as_bytes().as_bstr())
            .map_err(|error| self.not_parsed(revision, &error))?
            .detach();
        Ok((RevisionKind::Hash, target))
    }

    fn not_parsed(&self, revision: &str, error: &gix::Error) -> GitError {
        for cause in error.iter_errors() {
            if let Some(gix::revision::spec::parse::Error::AmbiguousPrefix { candidates, .. }) =
                cause.downcast_ref()
            {
                let candidates =
                    candidates.iter().take(5).map(|(prefix, info)| format!("`{prefix}` {info}")).collect();
                return GitError::Ambiguous { revision: revision.to_owned(), candidates };
            }
        }
        self.unknown(revision, error)
    }

    fn unknown(&self, revision: &str, error: &gix::Error) -> GitError {
        let mut near: Vec<(usize, String)> = self
            .names()
            .into_iter()
            .filter_map(|name| {
                let short = name.short().to_owned();
                let distance = distance(&short, revision);
                let close = distance <= 1 + revision.len() / 4
                    || (revision.len() >= 2 && (short.contains(revision) || revision.contains(&short)));
                close.then_some((distance, short))
            })
            .collect();
        near.sort();
        near.dedup();
        GitError::Unknown {
            revision: revision.to_owned(),
            path: self.path.clone(),
            near_matches: near.into_iter().take(5).map(|(_, name)| name).collect(),
            why: error.to_string(),
        }
    }

    /// Branches and tags whose names can travel.
    fn names(&self) -> Vec<RefName> {
        let local = self.local();
        let Ok(platform) = local.references() else { return Vec::new() };
        let Ok(all) = platform.all() else { return Vec::new() };
        all.flatten()
            .filter_map(|reference| reference.name().as_bstr().to_str().ok()?.parse().ok())
            .take(10_000)
            .collect()
    }

    fn describe(&self, commit: ObjectId, kind: RevisionKind) -> Result<Revision, GitError> {
        let mut objects = self.objects();
        let mut buffer = Vec::new();
        walk::read_kind(&mut objects, &commit, Kind::Commit, &mut buffer)
            .map_err(|source| self.walk_error(source))?;
        let time = parse_commit(&buffer).map_or(0, |links| links.time);
        let sequence =
            walk::commits(&mut objects, &[commit]).map_err(|source| self.walk_error(source))?.len() as u64;
        let name = git_oid(&commit)?;
        let travels = |name: &str, target: &GitOid| {
            Ok::<_, GitError>(GitRef { name: ref_name(name)?, target: target.clone() })
        };
        let mut refs = match &kind {
            RevisionKind::Branch(branch) => vec![travels(branch.as_str(), &name)?],
            RevisionKind::Tag(tag, target) => {
                vec![travels(RELEASE_BRANCH, &name)?, travels(tag.as_str(), target)?]
            }
            RevisionKind::Hash => vec![travels(RELEASE_BRANCH, &name)?],
        };
        refs.sort_by(|a, b| a.name.cmp(&b.name));
        let tag_at = match &kind {
            RevisionKind::Tag(tag, _) => Some(tag.short().to_owned()),
            _ => self.tag_at(commit),
        };
        Ok(Revision {
            short: name.as_str().chars().take(SHORT).collect(),
            commit: name,
            kind,
            created: Timestamp::from_second(time).unwrap_or(Timestamp::UNIX_EPOCH),
            sequence,
            tag_at,
            refs,
        })
    }

    fn tag_at(&self, commit: ObjectId) -> Option<String> {
        let local = self.local();
        let mut objects = self.objects();
        let mut buffer = Vec::new();
        let platform = local.references().ok()?;
        let tags = platform.tags().ok()?;
        tags.flatten()
            .filter_map(|mut tag| {
                let name: RefName = tag.name().as_bstr().to_str().ok()?.parse().ok()?;
                if name.as_str().starts_with("refs/tags/fleetpack/") {
                    return None;
                }
                let target = tag.follow_to_object().ok()?.detach();
                let annotated = objects.read(&target, &mut buffer).ok()?? == Kind::Tag;
                let (at, _) = walk::peel(&mut objects, target).ok()?;
                (at == commit).then(|| {
                    let short = name.short().to_owned();
                    (short.parse::<ReleaseVersion>().is_ok(), annotated, numbers(&short), short)
                })
            })
            .max()
            .map(|(.., short)| short)
    }
}

/// What a reference of exactly this full name points at (symbolic ones followed, tags not).
fn reference(local: &gix::Repository, name: &str) -> Option<ObjectId> {
    let full = gix::refs::FullName::try_from(name).ok()?;
    let mut reference = local.try_find_reference(full.as_ref()).ok()??;
    if reference.name().as_bstr() != name {
        return None;
    }
    reference.follow_to_object().ok().map(gix::Id::detach)
}

fn is_full_hash(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn git_oid(oid: &ObjectId) -> Result<GitOid, GitError> {
    let text = from_oid(oid);
    text.parse()
        .map_err(|error: crate::model::name::NameError| GitError::Hash { what: text, why: error.to_string() })
}

fn ref_name(name: &str) -> Result<RefName, GitError> {
    name.parse().map_err(|error: crate::model::name::NameError| GitError::RefName {
        name: name.to_owned(),
        why: error.to_string(),
    })
}

/// The numbers in a name, so that `v1.10` stands above `v1.9`.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().unwrap_or(u64::MAX))
        .collect()
}

/// Edits that make one name of the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(100).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(100).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_as_people_do() {
        assert_eq!(distance("main", "mian"), 2);
        assert_eq!(distance("main", "main"), 0);
        assert_eq!(distance("", "abc"), 3);
        assert!(numbers("v1.10.0") > numbers("v1.9.12"));
    }
}
