//! Git objects as bytes: what a commit, a tag or a tree leads to, and which trees are fit to use.
//!
//! Pure parsing. The rules for trees are those of git's own `fsck` and index
//! (`verify_path`, `.git` under the spellings that NTFS and HFS+ take for it).

use gix::ObjectId;
use gix::bstr::ByteSlice;
use gix::objs::Kind;

/// What a commit leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitLinks {
    /// Its tree.
    pub tree: ObjectId,
    /// Its parents, in order.
    pub parents: Vec<ObjectId>,
    /// Committer time, seconds since 1970; 0 where the line is malformed, as git reads it.
    pub time: i64,
}

fn oid_line<'a>(data: &'a [u8], key: &[u8]) -> Option<(ObjectId, &'a [u8])> {
    let rest = data.strip_prefix(key)?;
    let (hex, rest) = rest.split_at_checked(40)?;
    Some((ObjectId::from_hex(hex).ok()?, rest.strip_prefix(b"\n")?))
}

/// Reads the links of a commit (gitformat: `tree`, `parent`…, `author`, `committer`).
#[must_use]
pub fn parse_commit(data: &[u8]) -> Option<CommitLinks> {
    let (tree, mut rest) = oid_line(data, b"tree ")?;
    let mut parents = Vec::new();
    while let Some((parent, next)) = oid_line(rest, b"parent ") {
        parents.push(parent);
        rest = next;
    }
    let time = rest
        .lines()
        .take_while(|line| !line.is_empty())
        .find_map(|line| line.strip_prefix(b"committer "))
        .and_then(|line| line.rsplit_once_str(b"> "))
        .and_then(|(_, stamp)| stamp.to_str().ok()?.split(' ').next()?.parse().ok())
        .unwrap_or(0);
    Some(CommitLinks { tree, parents, time })
}

/// Reads what a tag object names, and the kind it says the target has.
#[must_use]
pub fn parse_tag(data: &[u8]) -> Option<(ObjectId, Kind)> {
    let (target, rest) = oid_line(data, b"object ")?;
    let kind = rest.strip_prefix(b"type ")?.lines().next()?;
    Some((target, Kind::from_bytes(kind).ok()?))
}

/// What an entry of a tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A folder.
    Tree,
    /// A file.
    File {
        /// Whether it may be run.
        executable: bool,
    },
    /// A symbolic link.
    Symlink,
    /// A commit of another repository: a submodule.
    Submodule,
}

/// One entry of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeEntry<'a> {
    /// What it is.
    pub kind: EntryKind,
    /// Its name, as the bytes in the tree.
    pub name: &'a [u8],
    /// The object it names.
    pub oid: ObjectId,
}

/// What is wrong with a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeFault {
    /// The bytes do not have the shape of a tree.
    #[error("the tree object is malformed after {entries} entries")]
    Malformed {
        /// Entries that could be read.
        entries: usize,
    },
    /// An entry has a mode that git does not write.
    #[error("entry `{name}` has mode {mode:o}, wanted 40000, 100644, 100755, 120000 or 160000")]
    Mode {
        /// Name of the entry.
        name: String,
        /// Mode as found.
        mode: u32,
    },
    /// An entry has a name that would not stay in its folder or that stands for `.git`.
    #[error("entry `{name}` has a forbidden name: {why}")]
    Name {
        /// Name of the entry.
        name: String,
        /// The rule it breaks.
        why: String,
    },
    /// A name stands twice.
    #[error("entry `{name}` stands twice")]
    Duplicate {
        /// Name of the entry.
        name: String,
    },
    /// The entries are not in git's order.
    #[error("entry `{name}` is out of order")]
    Order {
        /// Name of the entry.
        name: String,
    },
}

/// The entries of a tree, unchecked but for their shape: history may hold what a revision may not.
pub struct TreeEntries<'a> {
    rest: &'a [u8],
    seen: usize,
}

impl<'a> TreeEntries<'a> {
    /// Reads the entries of the tree object `data`.
    #[must_use]
    pub const fn new(data: &'a [u8]) -> Self {
        Self { rest: data, seen: 0 }
    }

    fn parse(&mut self) -> Option<(u32, &'a [u8], ObjectId)> {
        let (mode, rest) = self.rest.split_once_str(b" ")?;
        if mode.is_empty() || mode.len() > 7 || !mode.iter().all(|b| matches!(b, b'0'..=b'7')) {
            return None;
        }
        let mode = mode.iter().fold(0, |value, digit| value << 3 | u32::from(digit - b'0'));
        let (name, rest) = rest.split_once_str(b"\0")?;
        let (oid, rest) = rest.split_at_checked(20)?;
        self.rest = rest;
        self.seen += 1;
        Some((mode, name, ObjectId::try_from(oid).ok()?))
    }
}

impl<'a> Iterator for TreeEntries<'a> {
    type Item = Result<(u32, &'a [u8], ObjectId), TreeFault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let entry = self.parse().ok_or(TreeFault::Malformed { entries: self.seen });
        if entry.is_err() {
            self.rest = &[];
        }
        Some(entry)
    }
}

/// Whether a mode says "folder", as git decides it (the type bits alone).
#[must_use]
pub const fn is_tree_mode(mode: u32) -> bool {
    mode & 0o170_000 == 0o040_000
}

/// Whether a mode says "commit of another repository".
#[must_use]
pub const fn is_submodule_mode(mode: u32) -> bool {
    mode & 0o170_000 == 0o160_000
}

fn lossy(name: &[u8]) -> String {
    name.to_str_lossy().chars().take(200).collect()
}

/// Reads the entries of a tree that is to be used: every name safe, every mode known, in order, none twice.
///
/// # Errors
///
/// The first rule that the tree breaks.
pub fn check_tree(data: &[u8]) -> Result<Vec<TreeEntry<'_>>, TreeFault> {
    let mut entries: Vec<TreeEntry<'_>> = Vec::new();
    let mut names = std::collections::HashSet::new();
    for entry in TreeEntries::new(data) {
        let (mode, name, oid) = entry?;
        let kind = match mode {
            0o040_000 => EntryKind::Tree,
            // 100664 was written by git before 2005-10 and is read as 100644 ever since.
            0o100_644 | 0o100_664 => EntryKind::File { executable: false },
            0o100_755 => EntryKind::File { executable: true },
            0o120_000 => EntryKind::Symlink,
            0o160_000 => EntryKind::Submodule,
            _ => return Err(TreeFault::Mode { name: lossy(name), mode }),
        };
        let link = (kind == EntryKind::Symlink).then_some(gix::validate::path::component::Mode::Symlink);
        check_name(name, link)
            .map_err(|error| TreeFault::Name { name: lossy(name), why: error.to_string() })?;
        if !names.insert(name) {
            return Err(TreeFault::Duplicate { name: lossy(name) });
        }
        if let Some(last) = entries.last()
            && !in_order((last.name, last.kind), (name, kind))
        {
            return Err(TreeFault::Order { name: lossy(name) });
        }
        entries.push(TreeEntry { kind, name, oid });
    }
    Ok(entries)
}

/// Checks a name as git does, on every file system at once: where a backslash separates, what
/// stands between backslashes is a name too.
fn check_name(
    name: &[u8],
    link: Option<gix::validate::path::component::Mode>,
) -> Result<(), gix::validate::path::component::Error> {
    let options = gix::validate::path::component::Options {
        protect_windows: false,
        protect_hfs: true,
        protect_ntfs: true,
    };
    gix::validate::path::component(name.as_bstr(), link, options)?;
    name.split_str(b"\\")
        .filter(|part| !part.is_empty())
        .try_for_each(|part| gix::validate::path::component(part.as_bstr(), link, options).map(|_| ()))
}

/// Git orders entries by name, folders as if their name ended with a slash.
fn in_order(first: (&[u8], EntryKind), second: (&[u8], EntryKind)) -> bool {
    let slash = |kind| (kind == EntryKind::Tree).then_some(&b'/');
    first.0.iter().chain(slash(first.1)).lt(second.0.iter().chain(slash(second.1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (mode, name) in entries {
            out.extend_from_slice(mode.as_bytes());
            out.push(b' ');
            out.extend_from_slice(name);
            out.push(0);
            out.extend_from_slice(&[7; 20]);
        }
        out
    }

    #[test]
    fn honest_trees_pass() {
        let bytes = tree(&[
            ("100644", b".gitignore"),
            ("100644", b"a.b"),
            ("40000", b"a"),
            ("100755", b"run"),
            ("120000", b"x"),
        ]);
        let kinds: Vec<_> = check_tree(&bytes).unwrap().iter().map(|entry| entry.kind).collect();
        assert_eq!(kinds[2], EntryKind::Tree);
        assert_eq!(kinds[3], EntryKind::File { executable: true });
        assert_eq!(check_tree(b"").unwrap(), []);
    }

    #[test]
    fn disguises_of_dot_git_and_climbing_names_are_refused() {
        for name in [
            &b".git"[..],
            b".GIT",
            b".giT",
            b"git~1",
            b"GIT~1",
            b".git ",
            b".git.",
            b".git::$INDEX_ALLOCATION",
            b".git\\x",
            ".g\u{200c}it".as_bytes(),
            "\u{feff}.git".as_bytes(),
            b"..",
            b".",
            b"",
            b"a/b",
        ] {
            let bytes = tree(&[("100644", name)]);
            assert!(matches!(check_tree(&bytes), Err(TreeFault::Name { .. })), "{}", name.as_bstr());
        }
        let link = tree(&[("120000", b".gitmodules")]);
        assert!(matches!(check_tree(&link), Err(TreeFault::Name { .. })));
    }

    #[test]
    fn bad_modes_order_duplicates_and_shapes_are_refused() {
        assert!(matches!(
            check_tree(&tree(&[("100600", b"a")])),
            Err(TreeFault::Mode { mode: 0o100_600, .. })
        ));
        assert!(matches!(check_tree(&tree(&[("40755", b"a")])), Err(TreeFault::Mode { .. })));
        let two = tree(&[("100644", b"a"), ("100644", b"a.b"), ("40000", b"a")]);
        assert!(matches!(check_tree(&two), Err(TreeFault::Duplicate { .. })));
        let order = tree(&[("100644", b"b"), ("100644", b"a")]);
        assert!(matches!(check_tree(&order), Err(TreeFault::Order { .. })));
        let folder = tree(&[("40000", b"a"), ("100644", b"a.b")]);
        assert!(matches!(check_tree(&folder), Err(TreeFault::Order { .. })), "a/ sorts after a.b");
        let bytes = tree(&[("100644", b"a")]);
        for cut in 1..bytes.len() {
            assert!(matches!(check_tree(&bytes[..cut]), Err(TreeFault::Malformed { .. })), "{cut}");
        }
    }

    #[test]
    fn commits_and_tags() {
        let one = "1".repeat(40);
        let two = "2".repeat(40);
        let commit = format!(
            "tree {one}\nparent {two}\nparent {one}\nauthor A <a@b> 5 +0000\ncommitter C > D <c@d> 77 +0100\n\nm\n"
        );
        let links = parse_commit(commit.as_bytes()).unwrap();
        assert_eq!((links.tree.to_string(), links.parents.len(), links.time), (one.clone(), 2, 77));
        assert_eq!(parse_commit(format!("tree {one}\n\n").as_bytes()).unwrap().time, 0);
        assert_eq!(parse_commit(b"tree 12\n"), None);
        let tag = format!("object {two}\ntype commit\ntag v1\n");
        assert_eq!(parse_tag(tag.as_bytes()).unwrap().1, Kind::Commit);
        assert_eq!(parse_tag(b"object x"), None);
    }
}
