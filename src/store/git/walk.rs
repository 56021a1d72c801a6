//! The closure of a set of references: every object that they reach, in an order that depends on
//! nothing but the objects.
//!
//! It serves both sides: the build lists what a bundle must hold, the site checks that a bundle
//! holds it. Grafts, replacements and commit graphs are never looked at.

use std::collections::{BinaryHeap, HashMap};

use gix::ObjectId;
use gix::hashtable::HashSet;
use gix::objs::Kind;

use super::object::{TreeEntries, TreeFault, is_submodule_mode, is_tree_mode, parse_commit, parse_tag};
use crate::fsio::limits;

/// An error of whatever holds the objects.
pub type ReadError = Box<dyn std::error::Error + Send + Sync>;

/// Where objects are read from.
pub trait Objects {
    /// Reads the object into `out` (cleared before); none when it is not there.
    ///
    /// # Errors
    ///
    /// When it is there and cannot be read.
    fn read(&mut self, oid: &ObjectId, out: &mut Vec<u8>) -> Result<Option<Kind>, ReadError>;

    /// Whether the object is there.
    ///
    /// # Errors
    ///
    /// When that cannot be found out.
    fn contains(&mut self, oid: &ObjectId) -> Result<bool, ReadError>;
}

/// Why a closure could not be had.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// An object is not there.
    #[error("{wanted} `{oid}` is missing")]
    Missing {
        /// The object.
        oid: ObjectId,
        /// What it was to be.
        wanted: Kind,
    },
    /// An object is of another kind than what leads to it says.
    #[error("object `{oid}` is a {found}, wanted a {wanted}")]
    WrongKind {
        /// The object.
        oid: ObjectId,
        /// What it is.
        found: Kind,
        /// What it was to be.
        wanted: Kind,
    },
    /// A commit or tag cannot be parsed.
    #[error("{kind} `{oid}` is malformed")]
    Malformed {
        /// The object.
        oid: ObjectId,
        /// What it is.
        kind: Kind,
    },
    /// A tree cannot be parsed.
    #[error("tree `{oid}`: {fault}")]
    Tree {
        /// The object.
        oid: ObjectId,
        /// What is wrong.
        fault: TreeFault,
    },
    /// The history is larger than this program takes.
    #[error("the history holds more than {} objects", limits::GIT_OBJECTS)]
    TooMany,
    /// An object could not be read.
    #[error("cannot read object `{oid}`")]
    Read {
        /// The object.
        oid: ObjectId,
        /// The cause.
        source: ReadError,
    },
}

/// Every object that a set of references reaches, each once.
///
/// Trees and blobs stand in groups of one file name and path, newest first: neighbours are alike,
/// which is what deltas live on.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Closure {
    /// Commits, newest first (committer time, then name).
    pub commits: Vec<ObjectId>,
    /// Tag objects, in the order of the references.
    pub tags: Vec<ObjectId>,
    /// Trees.
    pub trees: Vec<ObjectId>,
    /// Blobs.
    pub blobs: Vec<ObjectId>,
}

impl Closure {
    /// Number of objects.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.commits.len() + self.tags.len() + self.trees.len() + self.blobs.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Reads an object that must be there.
///
/// # Errors
///
/// When it is missing or cannot be read.
pub fn read(
    objects: &mut impl Objects,
    oid: &ObjectId,
    wanted: Kind,
    out: &mut Vec<u8>,
) -> Result<Kind, WalkError> {
    objects
        .read(oid, out)
        .map_err(|source| WalkError::Read { oid: *oid, source })?
        .ok_or(WalkError::Missing { oid: *oid, wanted })
}

/// Reads an object that must be there and of this kind.
///
/// # Errors
///
/// When it is missing, cannot be read, or is of another kind.
pub fn read_kind(
    objects: &mut impl Objects,
    oid: &ObjectId,
    wanted: Kind,
    out: &mut Vec<u8>,
) -> Result<(), WalkError> {
    let found = read(objects, oid, wanted, out)?;
    if found == wanted { Ok(()) } else { Err(WalkError::WrongKind { oid: *oid, found, wanted }) }
}

/// Follows tag objects from `oid` to the commit; says which tag objects lay on the way.
///
/// # Errors
///
/// When an object is missing or malformed, or the end is not a commit.
pub fn peel(objects: &mut impl Objects, oid: ObjectId) -> Result<(ObjectId, Vec<ObjectId>), WalkError> {
    let mut buffer = Vec::new();
    let mut tags = Vec::new();
    let mut at = oid;
    let mut wanted = Kind::Commit;
    loop {
        match read(objects, &at, wanted, &mut buffer)? {
            Kind::Commit => return Ok((at, tags)),
            Kind::Tag => {
                // A tag names its target by hash, so a ring cannot be made; the bound is for the time it takes.
                let (target, kind) =
                    parse_tag(&buffer).ok_or(WalkError::Malformed { oid: at, kind: Kind::Tag })?;
                if tags.len() >= 1_000 {
                    return Err(WalkError::TooMany);
                }
                tags.push(at);
                at = target;
                wanted = kind;
            }
            found => return Err(WalkError::WrongKind { oid: at, found, wanted: Kind::Commit }),
        }
    }
}

/// Every commit that `tips` (commits) reach, newest first, and the tree of each.
///
/// # Errors
///
/// When a commit is missing or malformed, or there are too many.
pub fn commits(
    objects: &mut impl Objects,
    tips: &[ObjectId],
) -> Result<Vec<(ObjectId, ObjectId)>, WalkError> {
    let mut buffer = Vec::new();
    let mut seen = HashSet::default();
    let mut queue = BinaryHeap::new();
    let mut out = Vec::new();
    let mut pending: Vec<ObjectId> = tips.to_vec();
    loop {
        for oid in pending.drain(..) {
            if seen.insert(oid) {
                if seen.len() > limits::GIT_OBJECTS {
                    return Err(WalkError::TooMany);
                }
                read_kind(objects, &oid, Kind::Commit, &mut buffer)?;
                let links = parse_commit(&buffer).ok_or(WalkError::Malformed { oid, kind: Kind::Commit })?;
                queue.push((links.time, oid, links.tree, links.parents));
            }
        }
        let Some((_, oid, tree, parents)) = queue.pop() else { return Ok(out) };
        out.push((oid, tree));
        pending.extend(parents);
    }
}

/// Paths, numbered as the walk meets them.
#[derive(Default)]
struct Paths {
    numbers: HashMap<Vec<u8>, u32>,
    /// File name of each number, to sort groups by.
    names: Vec<Box<[u8]>>,
    key: Vec<u8>,
}

impl Paths {
    fn number(&mut self, parent: u32, name: &[u8]) -> u32 {
        self.key.clear();
        self.key.extend_from_slice(&parent.to_le_bytes());
        self.key.extend_from_slice(name);
        if let Some(number) = self.numbers.get(self.key.as_slice()) {
            return *number;
        }
        // Never more than objects, whose number is bounded far below.
        let number = u32::try_from(self.names.len() + 1).unwrap_or(u32::MAX);
        self.names.push(name.into());
        self.numbers.insert(self.key.clone(), number);
        number
    }

    /// Orders objects by file name, then path, keeping the order within one path.
    fn group(&self, mut members: Vec<(u32, ObjectId)>) -> Vec<ObjectId> {
        let mut order: Vec<u32> = (0..=u32::try_from(self.names.len()).unwrap_or(u32::MAX)).collect();
        let name = |number: u32| number.checked_sub(1).and_then(|at| self.names.get(at as usize));
        order.sort_by(|a, b| name(*a).cmp(&name(*b)).then(a.cmp(b)));
        let mut rank = vec![0_u32; order.len()];
        for (at, number) in order.iter().enumerate() {
            rank[*number as usize] = u32::try_from(at).unwrap_or(u32::MAX);
        }
        members.sort_by_key(|(number, _)| rank[*number as usize]);
        members.into_iter().map(|(_, oid)| oid).collect()
    }
}

/// Every object that `tips` (commits or tag objects) reach.
///
/// Submodules are not followed: their commits are of other repositories.
///
/// # Errors
///
/// When an object is missing or malformed, or there are too many.
pub fn closure(objects: &mut impl Objects, tips: &[ObjectId]) -> Result<Closure, WalkError> {
    let mut out = Closure::default();
    let mut starts = Vec::new();
    for tip in tips {
        let (commit, tags) = peel(objects, *tip)?;
        out.tags.extend(tags.iter().filter(|tag| !out.tags.contains(tag)).copied().collect::<Vec<_>>());
        starts.push(commit);
    }
    let history = commits(objects, &starts)?;

    let mut seen: HashSet<ObjectId> = HashSet::default();
    let mut paths = Paths::default();
    let mut trees = Vec::new();
    let mut blobs = Vec::new();
    let mut buffer = Vec::new();
    let mut stack = Vec::new();
    for (_, root) in &history {
        if seen.insert(*root) {
            stack.push((0, *root));
        }
        while let Some((path, tree)) = stack.pop() {
            trees.push((path, tree));
            if history.len() + seen.len() > limits::GIT_OBJECTS {
                return Err(WalkError::TooMany);
            }
            read_kind(objects, &tree, Kind::Tree, &mut buffer)?;
            for entry in TreeEntries::new(&buffer) {
                let (mode, name, oid) = entry.map_err(|fault| WalkError::Tree { oid: tree, fault })?;
                if is_submodule_mode(mode) || !seen.insert(oid) {
                    continue;
                }
                let number = paths.number(path, name);
                if is_tree_mode(mode) {
                    stack.push((number, oid));
                } else if objects.contains(&oid).map_err(|source| WalkError::Read { oid, source })? {
                    blobs.push((number, oid));
                } else {
                    return Err(WalkError::Missing { oid, wanted: Kind::Blob });
                }
            }
        }
    }
    out.commits = history.into_iter().map(|(commit, _)| commit).collect();
    out.trees = paths.group(trees);
    out.blobs = paths.group(blobs);
    Ok(out)
}
