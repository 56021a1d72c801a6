//! Which objects a client lacks: the closure of what it wants, less that of what it has.
//!
//! The walk is our own because the library's knows no shallow boundaries and leaves out too
//! little of what the client has. It is iterative, so that no history is too deep for it.

use std::collections::VecDeque;
use std::rc::Rc;

use gix::ObjectId;
use gix::hashtable::{HashMap, HashSet};
use gix::objs::Kind;

use super::GitError;
use super::repository::{Commit, Commits, Repository, find_object, kind, tag_target};
use super::request::{Deepen, INFINITE};

/// Looks at the objects of one repository for one request.
pub(super) struct Walk<'a> {
    repository: &'a Repository,
    commits: Commits,
    buffer: Vec<u8>,
    steps: u32,
    /// Asked now and then: whether nobody waits for the outcome any more.
    given_up: &'a dyn Fn() -> bool,
}

/// Where the client's history will end.
#[derive(Debug, Default)]
pub(super) struct Boundary {
    /// Commits that the client is told to cut off behind.
    pub(super) shallow: Vec<ObjectId>,
    /// Commits behind which it was cut off so far, and is no longer.
    pub(super) unshallow: Vec<ObjectId>,
    /// All commits whose parents are not sent: the new boundary and the old one.
    pub(super) ends: HashSet<ObjectId>,
}

/// What the client wants, has, and how its history is cut.
pub(super) struct Question<'a> {
    pub(super) wants: &'a [ObjectId],
    /// Objects that both sides have.
    pub(super) common: &'a [ObjectId],
    /// Where the client's history ends now.
    pub(super) shallow: &'a HashSet<ObjectId>,
    pub(super) boundary: &'a Boundary,
    pub(super) include_tag: bool,
}

impl<'a> Walk<'a> {
    pub(super) fn new(repository: &'a Repository, given_up: &'a dyn Fn() -> bool) -> Self {
        Self { repository, commits: Commits::default(), buffer: Vec::new(), steps: 0, given_up }
    }

    fn step(&mut self) -> Result<(), GitError> {
        self.steps = self.steps.wrapping_add(1);
        if self.steps.is_multiple_of(1024) && (self.given_up)() { Err(GitError::GivenUp) } else { Ok(()) }
    }

    fn commit(&mut self, id: ObjectId) -> Result<Rc<Commit>, GitError> {
        if let Some(commit) = self.commits.get(&id) {
            return Ok(Rc::clone(commit));
        }
        self.step()?;
        let data = find_object(&self.repository.odb, id, &mut self.buffer)?;
        if data.kind != Kind::Commit {
            return Err(GitError::Broken(format!("`{id}` is a {}, wanted a commit", data.kind)));
        }
        let commit = Rc::new(Commit::parse(id, data.data)?);
        self.commits.insert(id, Rc::clone(&commit));
        Ok(commit)
    }

    /// Whether the repository holds `id`.
    pub(super) fn holds(&self, id: ObjectId) -> bool {
        gix::objs::Exists::exists(&self.repository.odb, &id)
    }

    /// The commit that `id` leads to, with the tags on the way; `None` when it leads to none.
    fn peel(&mut self, id: ObjectId) -> Result<(Vec<ObjectId>, ObjectId, Kind), GitError> {
        let mut tags = Vec::new();
        let mut at = id;
        while let Some(target) = tag_target(&self.repository.odb, at, &mut self.buffer)? {
            tags.push(at);
            if tags.len() > 64 {
                return Err(GitError::Broken(format!("too many tags stand on one another at `{id}`")));
            }
            at = target;
        }
        let kind = kind(&self.repository.odb, at)?.ok_or_else(|| GitError::missing(at))?;
        Ok((tags, at, kind))
    }

    /// The commits among `ids`, tags taken off.
    fn commits_of(&mut self, ids: &[ObjectId]) -> Result<Vec<ObjectId>, GitError> {
        let mut commits = Vec::new();
        for id in ids {
            let (_, target, kind) = self.peel(*id)?;
            if kind == Kind::Commit {
                commits.push(target);
            }
        }
        Ok(commits)
    }

    /// Everything that `roots` reach, nearest first. Commits of `hidden` are left out, and what
    /// lies behind those and behind commits of `ends` is not looked at.
    fn reach(
        &mut self,
        roots: &[ObjectId],
        ends: &HashSet<ObjectId>,
        hidden: &HashSet<ObjectId>,
    ) -> Result<Vec<ObjectId>, GitError> {
        let mut seen = HashSet::default();
        let mut found = Vec::new();
        let mut queue: VecDeque<ObjectId> = roots.iter().copied().collect();
        while let Some(id) = queue.pop_front() {
            self.step()?;
            if hidden.contains(&id) || !seen.insert(id) {
                continue;
            }
            found.push(id);
            if !ends.contains(&id) {
                queue.extend(self.commit(id)?.parents.iter().copied());
            }
        }
        Ok(found)
    }

    /// The client's ends as far as they are commits of this repository; others cannot matter.
    pub(super) fn known_commits(&mut self, ids: &[ObjectId]) -> Result<HashSet<ObjectId>, GitError> {
        let mut known = HashSet::default();
        for id in ids {
            if kind(&self.repository.odb, *id)? == Some(Kind::Commit) {
                known.insert(*id);
            }
        }
        Ok(known)
    }

    /// Whether every want has an ancestor, or is one, that both sides have: then asking for more
    /// common commits is of no use.
    pub(super) fn all_reach(
        &mut self,
        wants: &[ObjectId],
        common: &HashSet<ObjectId>,
        shallow: &HashSet<ObjectId>,
    ) -> Result<bool, GitError> {
        if common.is_empty() {
            return Ok(false);
        }
        let wants = self.commits_of(wants)?;
        let nothing = HashSet::default();
        let ends: HashSet<ObjectId> = common.union(shallow).copied().collect();
        let mut children: HashMap<ObjectId, Vec<ObjectId>> = HashMap::default();
        let mut reaching: Vec<ObjectId> = Vec::new();
        for id in self.reach(&wants, &ends, &nothing)? {
            if common.contains(&id) {
                reaching.push(id);
            } else if !ends.contains(&id) {
                for parent in &self.commit(id)?.parents {
                    children.entry(*parent).or_default().push(id);
                }
            }
        }
        let mut good: HashSet<ObjectId> = HashSet::default();
        while let Some(id) = reaching.pop() {
            if good.insert(id) {
                reaching.extend(children.get(&id).into_iter().flatten().copied());
            }
        }
        Ok(wants.iter().all(|want| good.contains(want)))
    }

    /// Where the client's history will end, given what it asks and where it ends now.
    pub(super) fn boundary(
        &mut self,
        wants: &[ObjectId],
        shallow: &HashSet<ObjectId>,
        deepen: &Deepen,
    ) -> Result<Boundary, GitError> {
        let mut boundary = Boundary { ends: shallow.clone(), ..Boundary::default() };
        let (inside, cut) = if deepen.by_list() {
            self.within_list(wants, deepen)?
        } else if deepen.depth == INFINITE {
            (shallow.clone(), Vec::new())
        } else if deepen.depth > 0 && deepen.relative {
            // From every end that the client has, whatever it wants: what it has already it does
            // not ask for again, and would else have none of it deepened.
            let from: Vec<_> = shallow.iter().copied().collect();
            self.within_depth(&from, deepen.depth.saturating_add(1))?
        } else if deepen.depth > 0 {
            let wants = self.commits_of(wants)?;
            self.within_depth(&wants, deepen.depth)?
        } else {
            return Ok(boundary);
        };
        boundary.shallow = cut.iter().copied().filter(|id| !shallow.contains(id)).collect();
        boundary.unshallow = shallow.iter().copied().filter(|id| inside.contains(id)).collect();
        boundary.unshallow.sort_unstable();
        boundary.ends.extend(cut);
        Ok(boundary)
    }

    /// Commits less than `depth` steps from `roots`, and those at exactly that distance: the cut.
    fn within_depth(
        &mut self,
        roots: &[ObjectId],
        depth: u32,
    ) -> Result<(HashSet<ObjectId>, Vec<ObjectId>), GitError> {
        let mut inside = HashSet::default();
        let mut seen: HashSet<ObjectId> = HashSet::default();
        let mut level: Vec<ObjectId> = roots.iter().copied().filter(|id| seen.insert(*id)).collect();
        for _ in 1..depth {
            if level.is_empty() {
                break;
            }
            let mut next = Vec::new();
            for id in level {
                inside.insert(id);
                let commit = self.commit(id)?;
                next.extend(commit.parents.iter().copied().filter(|parent| seen.insert(*parent)));
            }
            level = next;
        }
        Ok((inside, level))
    }

    /// Commits that are young enough and not reached by what is to be left out; those of them
    /// with a parent that is not among them are the cut.
    fn within_list(
        &mut self,
        wants: &[ObjectId],
        deepen: &Deepen,
    ) -> Result<(HashSet<ObjectId>, Vec<ObjectId>), GitError> {
        let nothing = HashSet::default();
        let mut left_out = Vec::new();
        for name in &deepen.not {
            let reference = self
                .repository
                .find(name)
                .ok_or_else(|| GitError::Client(format!("deepen-not is not a ref: `{name:.200}`")))?;
            left_out.push(reference.target);
        }
        let left_out = self.commits_of(&left_out)?;
        let hidden: HashSet<ObjectId> = self.reach(&left_out, &nothing, &nothing)?.into_iter().collect();
        let since = deepen.since.unwrap_or(i64::MIN);
        let mut inside: HashSet<ObjectId> = HashSet::default();
        let mut order = Vec::new();
        let mut queue: VecDeque<ObjectId> = self.commits_of(wants)?.into();
        while let Some(id) = queue.pop_front() {
            if hidden.contains(&id) || inside.contains(&id) || self.commit(id)?.time < since {
                continue;
            }
            inside.insert(id);
            order.push(id);
            queue.extend(self.commit(id)?.parents.iter().copied());
        }
        if order.is_empty() {
            return Err(GitError::Client("no commits selected for shallow requests".into()));
        }
        let mut cut = Vec::new();
        for id in order {
            if self.commit(id)?.parents.iter().any(|parent| !inside.contains(parent)) {
                cut.push(id);
            }
        }
        for id in &cut {
            inside.remove(id);
        }
        Ok((inside, cut))
    }

    /// Every object that answers the question: tags, commits, trees and blobs.
    pub(super) fn objects(&mut self, question: &Question<'_>) -> Result<Vec<ObjectId>, GitError> {
        let nothing = HashSet::default();
        let had_tips = self.commits_of(question.common)?;
        let had: HashSet<ObjectId> = self.reach(&had_tips, question.shallow, &nothing)?.into_iter().collect();

        let mut out = Vec::new();
        let mut seen: HashSet<ObjectId> = HashSet::default();
        let mut roots = Vec::new();
        let mut loose = Vec::new();
        for want in question.wants {
            let (tags, target, kind) = self.peel(*want)?;
            out.extend(tags.into_iter().filter(|tag| seen.insert(*tag)));
            match kind {
                Kind::Commit => roots.push(target),
                kind => loose.push((target, kind)),
            }
        }
        for id in &question.boundary.unshallow {
            roots.extend(self.commit(*id)?.parents.iter().copied());
        }
        let sent = self.reach(&roots, &question.boundary.ends, &had)?;

        // What the client has at the edge of what is sent is likely to be in what is sent, too.
        let mut edge: HashSet<ObjectId> = question.boundary.unshallow.iter().copied().collect();
        edge.retain(|id| had.contains(id));
        edge.extend(had_tips);
        for id in &sent {
            if !question.boundary.ends.contains(id) {
                let commit = self.commit(*id)?;
                edge.extend(commit.parents.iter().copied().filter(|parent| had.contains(parent)));
            }
        }
        for id in edge {
            let tree = self.commit(id)?.tree;
            self.tree(tree, &mut seen, &mut |_| {})?;
        }

        out.extend(sent.iter().copied().filter(|id| seen.insert(*id)));
        for id in &sent {
            let tree = self.commit(*id)?.tree;
            self.tree(tree, &mut seen, &mut |id| out.push(id))?;
        }
        for (id, kind) in loose {
            if kind == Kind::Tree {
                self.tree(id, &mut seen, &mut |id| out.push(id))?;
            } else if seen.insert(id) {
                out.push(id);
            }
        }
        if question.include_tag {
            let sent: HashSet<ObjectId> = out.iter().copied().collect();
            let repository = self.repository;
            for reference in &repository.refs {
                if reference.peeled.is_some_and(|target| sent.contains(&target)) {
                    let (tags, ..) = self.peel(reference.target)?;
                    out.extend(tags.into_iter().filter(|tag| seen.insert(*tag)));
                }
            }
        }
        Ok(out)
    }

    /// The tree `id` and all below it that was not seen before. Submodules lie elsewhere.
    fn tree(
        &mut self,
        id: ObjectId,
        seen: &mut HashSet<ObjectId>,
        found: &mut dyn FnMut(ObjectId),
    ) -> Result<(), GitError> {
        let mut open = Vec::new();
        if seen.insert(id) {
            found(id);
            open.push(id);
        }
        while let Some(id) = open.pop() {
            self.step()?;
            let data = find_object(&self.repository.odb, id, &mut self.buffer)?;
            if data.kind != Kind::Tree {
                return Err(GitError::Broken(format!("`{id}` is a {}, wanted a tree", data.kind)));
            }
            for entry in gix::objs::TreeRefIter::from_bytes(data.data, gix::hash::Kind::Sha1) {
                let entry = entry.map_err(|_| GitError::Broken(format!("tree `{id}` cannot be read")))?;
                let target = entry.oid.to_owned();
                if entry.mode.is_commit() || !seen.insert(target) {
                    continue;
                }
                found(target);
                if entry.mode.is_tree() {
                    open.push(target);
                }
            }
        }
        Ok(())
    }
}
