//! One generation of a repository, opened for one request.

use std::path::Path;

use gix::hashtable::HashMap;
use gix::objs::Kind;
use gix::{ObjectId, odb};

use super::GitError;
use crate::model::RefName;

/// References and objects of one generation.
pub(super) struct Repository {
    pub(super) odb: odb::Handle,
    /// Branches and tags, sorted by name.
    pub(super) refs: Vec<Reference>,
    pub(super) head: Head,
}

/// A branch or tag.
#[derive(Debug, Clone)]
pub(super) struct Reference {
    pub(super) name: RefName,
    pub(super) target: ObjectId,
    /// What an annotated tag leads to in the end.
    pub(super) peeled: Option<ObjectId>,
}

/// What `HEAD` says.
#[derive(Debug, Clone)]
pub(super) enum Head {
    /// It follows a branch.
    Branch(RefName, ObjectId),
    /// It follows a branch that is not there.
    Unborn(RefName),
    /// It names a commit.
    Detached(ObjectId),
    /// It is missing or leads elsewhere.
    None,
}

impl Repository {
    /// Opens the bare repository at `path`, which is no symbolic link any more.
    ///
    /// Configuration outside of the repository and the environment are not read, and references
    /// below `refs/replace/` change nothing: what is served is what the objects are.
    pub(super) fn open(path: &Path) -> Result<Self, GitError> {
        let options = gix::open::Options::isolated().open_path_as_is(true);
        let repository = gix::open_opts(path, options).map_err(GitError::repository)?;
        if repository.object_hash() != gix::hash::Kind::Sha1 {
            return Err(GitError::Broken("the repository does not name its objects by SHA-1".into()));
        }
        let mut odb = odb::at(repository.git_dir().join("objects"), gix::hash::Kind::Sha1)
            .map_err(GitError::repository)?;
        odb.set_pack_cache(|| Box::new(DeltaCache::default()));
        // A generation never changes, so that a look-up that fails needs no second look at the folder.
        odb.refresh_never();
        // Places of objects in packs are kept from the first look to the last byte.
        odb.prevent_pack_unload();
        let mut refs = Vec::new();
        for reference in
            repository.references().map_err(GitError::repository)?.all().map_err(GitError::repository)?
        {
            let mut reference = reference.map_err(GitError::repository)?;
            let Ok(name) = reference.name().as_bstr().to_string().parse::<RefName>() else { continue };
            let target = reference.follow_to_object().map_err(GitError::repository)?.detach();
            let peeled = peel(&odb, target)?;
            refs.push(Reference { name, target, peeled: (peeled != target).then_some(peeled) });
        }
        refs.sort_by(|a, b| a.name.cmp(&b.name));
        let head = match repository.head().map_err(GitError::repository)?.kind {
            gix::head::Kind::Symbolic(reference) => find(&refs, &reference.name.to_string())
                .map_or(Head::None, |reference| Head::Branch(reference.name.clone(), reference.target)),
            gix::head::Kind::Unborn(name) => name.to_string().parse().map_or(Head::None, Head::Unborn),
            gix::head::Kind::Detached { target, .. } => Head::Detached(target),
        };
        Ok(Self { odb, refs, head })
    }

    /// The reference with this full name, or with this short one below `refs/tags/` or `refs/heads/`.
    pub(super) fn find(&self, name: &str) -> Option<&Reference> {
        find(&self.refs, name)
            .or_else(|| find(&self.refs, &format!("refs/tags/{name}")))
            .or_else(|| find(&self.refs, &format!("refs/heads/{name}")))
    }

    /// What `HEAD` names, if it names anything.
    pub(super) const fn head_target(&self) -> Option<ObjectId> {
        match self.head {
            Head::Branch(_, target) | Head::Detached(target) => Some(target),
            Head::Unborn(_) | Head::None => None,
        }
    }
}

fn find<'a>(refs: &'a [Reference], name: &str) -> Option<&'a Reference> {
    refs.binary_search_by(|reference| reference.name.as_str().cmp(name)).ok().map(|at| &refs[at])
}

/// How many tags may stand on one another.
const TAG_CHAIN: usize = 64;

/// What `id` leads to once all tags are taken off.
pub(super) fn peel(odb: &odb::Handle, id: ObjectId) -> Result<ObjectId, GitError> {
    let mut at = id;
    let mut buffer = Vec::new();
    for _ in 0..TAG_CHAIN {
        match tag_target(odb, at, &mut buffer)? {
            Some(target) => at = target,
            None => return Ok(at),
        }
    }
    Err(GitError::Broken(format!("more than {TAG_CHAIN} tags stand on one another at `{id}`")))
}

/// What the tag `id` names; `None` when it is no tag.
pub(super) fn tag_target(
    odb: &odb::Handle,
    id: ObjectId,
    buffer: &mut Vec<u8>,
) -> Result<Option<ObjectId>, GitError> {
    if kind(odb, id)?.ok_or_else(|| GitError::missing(id))? != Kind::Tag {
        return Ok(None);
    }
    let data = find_object(odb, id, buffer)?;
    let tag = gix::objs::TagRefIter::from_bytes(data.data, gix::hash::Kind::Sha1);
    tag.target_id().map(Some).map_err(GitError::repository)
}

/// The kind of `id`; `None` when it is not there.
pub(super) fn kind(odb: &odb::Handle, id: ObjectId) -> Result<Option<Kind>, GitError> {
    let header = odb::Header::try_header(odb, &id).map_err(GitError::repository)?;
    Ok(header.map(|header| header.kind()))
}

/// The object `id`, decoded into `buffer`.
pub(super) fn find_object<'a>(
    odb: &odb::Handle,
    id: ObjectId,
    buffer: &'a mut Vec<u8>,
) -> Result<gix::objs::Data<'a>, GitError> {
    gix::objs::Find::try_find(odb, &id, buffer)
        .map_err(GitError::repository)?
        .ok_or_else(|| GitError::missing(id))
}

/// Decoded objects that deltas stand on. Trees of neighbouring commits share their bases, and
/// without this each would be decoded from the bottom of its chain again.
///
/// Two generations of a map: when the young one is full, it becomes the old one, and the old one
/// goes. What is asked for again moves to the young one.
#[derive(Default)]
struct DeltaCache {
    young: HashMap2,
    old: HashMap2,
    bytes: usize,
}

type HashMap2 = std::collections::HashMap<(u32, u64), (Kind, usize, Vec<u8>)>;

impl DeltaCache {
    /// Bytes of one generation.
    const CAPACITY: usize = 16 << 20;
    /// Larger objects are not kept.
    const LARGEST: usize = 1 << 20;

    fn keep(&mut self, key: (u32, u64), value: (Kind, usize, Vec<u8>)) {
        if self.bytes + value.2.len() > Self::CAPACITY {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
        self.bytes += value.2.len();
        self.young.insert(key, value);
    }
}

impl gix_pack::cache::DecodeEntry for DeltaCache {
    fn put(&mut self, pack_id: u32, offset: u64, data: &[u8], kind: Kind, compressed_size: usize) {
        if data.len() <= Self::LARGEST && !self.young.contains_key(&(pack_id, offset)) {
            self.keep((pack_id, offset), (kind, compressed_size, data.to_vec()));
        }
    }

    fn get(&mut self, pack_id: u32, offset: u64, out: &mut Vec<u8>) -> Option<(Kind, usize)> {
        let key = (pack_id, offset);
        if let Some(value) = self.old.remove(&key) {
            self.keep(key, value);
        }
        let (kind, compressed_size, data) = self.young.get(&key)?;
        out.clear();
        out.extend_from_slice(data);
        Some((*kind, *compressed_size))
    }
}

/// Commits that were decoded for this request.
pub(super) type Commits = HashMap<ObjectId, std::rc::Rc<Commit>>;

/// What a walk needs of a commit.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) tree: ObjectId,
    pub(super) parents: Vec<ObjectId>,
    /// The committer's clock, seconds.
    pub(super) time: i64,
}

impl Commit {
    /// Decodes what matters; the rest of the commit is not looked at.
    pub(super) fn parse(id: ObjectId, data: &[u8]) -> Result<Self, GitError> {
        use gix::objs::commit::ref_iter::Token;
        let broken = || GitError::Broken(format!("commit `{id}` cannot be read"));
        let (mut tree, mut parents) = (None, Vec::new());
        for token in gix::objs::CommitRefIter::from_bytes(data, gix::hash::Kind::Sha1) {
            match token.map_err(|_| broken())? {
                Token::Tree { id } => tree = Some(id),
                Token::Parent { id } => parents.push(id),
                Token::Author { .. } => {}
                Token::Committer { signature } => {
                    return Ok(Self { tree: tree.ok_or_else(broken)?, parents, time: signature.seconds() });
                }
                _ => break,
            }
        }
        Ok(Self { tree: tree.ok_or_else(broken)?, parents, time: 0 })
    }
}
