//! The site side of Git: generations that the real git reads, and bundles that must not get in.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use fleetpack::model::{BundleHeader, Digest, ErrorClass, GitRef, ReleaseName};
use fleetpack::source::git::Repository;
use fleetpack::store::git::{
    Generation, GenerationRelease, GitStoreError, PackError, TreeFault, WalkError, build_generation, current,
    prune_generations, switch,
};

use super::git::{commit_raw_tree, thousand_commits};
use super::support::command::{program, run};
use super::support::repository::Repository as Made;

fn name() -> ReleaseName {
    "shop".parse().unwrap()
}

/// Bundles a revision into `folder`, as a build does, and says what its release document would.
pub(crate) fn release(folder: &Path, made: &Path, revision: &str, version: &str) -> GenerationRelease {
    let repository = Repository::open(made).unwrap();
    let found = repository.resolve(revision).unwrap();
    let mut bytes = Vec::new();
    repository.bundle(&found).unwrap().write_to(&mut bytes).unwrap();
    let bundle = Digest::of(&bytes);
    let path = folder.join(format!("{}.bundle", bundle.hex()));
    fs::write(&path, bytes).unwrap();
    GenerationRelease {
        version: version.parse().unwrap(),
        digest: Digest::of(version.as_bytes()),
        bundle,
        bundle_path: path,
        refs: found.refs,
        commit: found.commit,
    }
}

fn packs(generation: &Generation) -> Vec<PathBuf> {
    let mut out: Vec<_> = fs::read_dir(generation.path().join("objects/pack"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "pack"))
        .collect();
    out.sort();
    out
}

fn leftovers(folder: &Path) -> usize {
    let own = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    own.map(|entry| {
        let below = if entry.file_type().unwrap().is_dir() { leftovers(&entry.path()) } else { 0 };
        below + usize::from(entry.file_name().to_string_lossy().starts_with(".fleetpack-tmp-"))
    })
    .sum()
}

fn clone(root: &Path, to: &Path) -> Made {
    run(program("git", to.parent().unwrap()).args(["clone", "--quiet"]).arg(root.join("shop.git")).arg(to))
        .ok();
    let made = Made::init(to);
    made.git(&["fsck", "--full", "--strict"]);
    made
}

#[test]
fn git_clones_each_generation_and_goes_back() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store/git");
    fs::create_dir_all(&root).unwrap();
    let made = thousand_commits(&folder.path().join("repo"));
    let one = release(folder.path(), &made.path, "v1.9", "1.9");
    let two = release(folder.path(), &made.path, "main", "2.0");
    // The branch is taken back and goes another way: not a fast-forward.
    made.git(&["reset", "--quiet", "--hard", "main~10"]);
    made.write("new", "x");
    made.commit("another way");
    let three = release(folder.path(), &made.path, "main", "3.0");

    assert_eq!(current(&root, &name()).unwrap(), None);
    let first = build_generation(&root, &name(), std::slice::from_ref(&one)).unwrap();
    assert_eq!(current(&root, &name()).unwrap(), None, "built is not switched");
    switch(&root, &name(), &first).unwrap();
    assert_eq!(current(&root, &name()).unwrap(), Some(first.clone()));
    let seen = clone(&root, &folder.path().join("clone-1"));
    assert_eq!(seen.git(&["rev-parse", "HEAD"]), one.commit.as_str());
    assert_eq!(seen.git(&["rev-parse", "--abbrev-ref", "HEAD"]), "release");
    assert_eq!(seen.git(&["rev-parse", "v1.9^{commit}"]), one.commit.as_str());

    let second = build_generation(&root, &name(), &[one.clone(), two.clone()]).unwrap();
    switch(&root, &name(), &second).unwrap();
    let third = build_generation(&root, &name(), &[one.clone(), two.clone(), three.clone()]).unwrap();
    switch(&root, &name(), &third).unwrap();
    assert_eq!(packs(&third).len(), 3);
    for pack in packs(&second) {
        let same = third.path().join("objects/pack").join(pack.file_name().unwrap());
        assert_eq!(
            pack.metadata().unwrap().ino(),
            same.metadata().unwrap().ino(),
            "linked, not written again"
        );
    }
    let seen = clone(&root, &folder.path().join("clone-3"));
    assert_eq!(seen.git(&["rev-parse", "main"]), three.commit.as_str());
    for kept in [&one, &two, &three] {
        let tag = format!("fleetpack/{}-{}", kept.version, kept.digest.short());
        assert_eq!(seen.git(&["rev-parse", &tag]), kept.commit.as_str());
    }
    run(program("git", folder.path()).arg("-C").arg(third.path()).args(["fsck", "--full", "--strict"])).ok();

    // Back to 2.0: the same releases in another order are another generation.
    let back = build_generation(&root, &name(), &[one.clone(), three, two.clone()]).unwrap();
    assert_ne!(back.id(), third.id());
    switch(&root, &name(), &back).unwrap();
    let seen = Made::init(&folder.path().join("clone-3"));
    seen.git(&["fetch", "--quiet", "--tags", "--force", "--prune", "origin"]);
    assert_eq!(seen.git(&["rev-parse", "origin/main"]), two.commit.as_str());

    // Twice is once.
    let before = back.path().metadata().unwrap().ino();
    assert_eq!(
        build_generation(&root, &name(), &[one, release(folder.path(), &made.path, "main", "3.0"), two])
            .unwrap(),
        back
    );
    assert_eq!(back.path().metadata().unwrap().ino(), before);
    switch(&root, &name(), &back).unwrap();

    assert_eq!(prune_generations(&root, &name(), Some(&first)).unwrap(), 2);
    assert!(first.path().is_dir() && back.path().is_dir() && !third.path().exists());
    assert_eq!(prune_generations(&root, &name(), None).unwrap(), 1);
    assert_eq!(prune_generations(&root, &name(), None).unwrap(), 0);
    run(program("git", folder.path())
        .arg("-C")
        .arg(root.join("shop.git"))
        .args(["fsck", "--full", "--strict"]))
    .ok();
    assert_eq!(leftovers(&root), 0);
}

#[test]
fn two_releases_of_one_commit_share_a_pack() {
    let folder = tempfile::tempdir().unwrap();
    let made = Made::init(&folder.path().join("repo"));
    made.write("a", "1");
    made.commit("one");
    let one = release(folder.path(), &made.path, "main", "1.0");
    let two = GenerationRelease {
        version: "1.1".parse().unwrap(),
        digest: Digest::of(b"other images"),
        ..one.clone()
    };
    let root = folder.path().join("git");
    let generation = build_generation(&root, &name(), &[one.clone(), two.clone()]).unwrap();
    assert_eq!(packs(&generation).len(), 1);
    switch(&root, &name(), &generation).unwrap();
    let generation = build_generation(&root, &name(), &[two, one]).unwrap();
    assert_eq!(packs(&generation).len(), 1);
    assert!(matches!(build_generation(&root, &name(), &[]), Err(GitStoreError::Empty { .. })));
}

#[test]
fn what_a_cut_left_behind_is_cleared() {
    let folder = tempfile::tempdir().unwrap();
    let made = Made::init(&folder.path().join("repo"));
    made.write("a", "1");
    made.commit("one");
    let one = release(folder.path(), &made.path, "main", "1.0");
    let root = folder.path().join("git");
    let generation = build_generation(&root, &name(), std::slice::from_ref(&one)).unwrap();
    fs::remove_dir_all(generation.path()).unwrap();
    let half = root.join(format!("shop/.fleetpack-tmp-{}", generation.id()));
    fs::create_dir_all(half.join("objects/pack")).unwrap();
    fs::write(half.join("objects/pack/.fleetpack-tmp-pack"), "half").unwrap();
    std::os::unix::fs::symlink("nowhere", root.join(".fleetpack-tmp-shop.git")).unwrap();
    assert_eq!(build_generation(&root, &name(), &[one]).unwrap(), generation);
    switch(&root, &name(), &generation).unwrap();
    assert_eq!(leftovers(&root), 0);
    clone(&root, &folder.path().join("clone"));

    fs::remove_file(root.join("shop.git")).unwrap();
    std::os::unix::fs::symlink("../../etc", root.join("shop.git")).unwrap();
    assert!(matches!(current(&root, &name()), Err(GitStoreError::Link { .. })));
}

const CHILD: &str = "FLEETPACK_TEST_GIT_STORE";

/// Not a test of its own: what the test below starts and kills.
#[test]
fn child_that_builds_generations() {
    let Some(folder) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let one = release(&folder, &folder.join("repo"), "v1.9", "1.9");
    let two = release(&folder, &folder.join("repo"), "main", "2.0");
    let root = folder.join("git");
    // Bounded, so that nothing runs on when the test that started it is gone.
    for _ in 0..1000 {
        for releases in [vec![one.clone(), two.clone()], vec![two.clone(), one.clone()]] {
            let generation = build_generation(&root, &name(), &releases).unwrap();
            switch(&root, &name(), &generation).unwrap();
            prune_generations(&root, &name(), None).unwrap();
            fs::write(folder.join("turned"), "").unwrap();
        }
    }
}

#[test]
fn killed_at_any_moment_the_repository_is_whole_and_the_work_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    thousand_commits(&folder.path().join("repo"));
    let root = folder.path().join("git");
    fs::create_dir(&root).unwrap();
    for round in 0..12_u64 {
        let _ = fs::remove_file(folder.path().join("turned"));
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "git_store::child_that_builds_generations"])
            .env(CHILD, folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        for _ in 0..600 {
            if folder.path().join("turned").exists() || child.try_wait().unwrap().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        std::thread::sleep(Duration::from_millis(round * 23));
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9), "the child failed by itself");
        let link = root.join("shop.git");
        run(program("git", folder.path()).arg("-C").arg(&link).args(["fsck", "--full", "--strict"])).ok();
    }
    let one = release(folder.path(), &folder.path().join("repo"), "v1.9", "1.9");
    let generation = build_generation(&root, &name(), std::slice::from_ref(&one)).unwrap();
    switch(&root, &name(), &generation).unwrap();
    prune_generations(&root, &name(), None).unwrap();
    assert_eq!(leftovers(&root), 0);
    assert_eq!(clone(&root, &folder.path().join("clone")).git(&["rev-parse", "HEAD"]), one.commit.as_str());
}

/// A small repository, its release, and ways to spoil it.
struct Victim {
    folder: tempfile::TempDir,
    made: Made,
    good: GenerationRelease,
    bytes: Vec<u8>,
    header: usize,
}

impl Victim {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = Made::init(&folder.path().join("repo"));
        let text = (0..300).fold(String::new(), |text, n| text + &format!("line {n}\n"));
        for n in 0..3 {
            made.write("deploy/a.yaml", format!("{text}{n}\n"));
            made.commit("c");
        }
        let good = release(folder.path(), &made.path, "main", "1.0");
        let bytes = fs::read(&good.bundle_path).unwrap();
        let (_, header) = BundleHeader::parse(&bytes).unwrap();
        Self { folder, made, good, bytes, header }
    }

    /// Tries to take a bundle of these bytes; it must be refused and leave nothing under a final name.
    fn refuse(&self, bytes: &[u8]) -> GitStoreError {
        let path = self.folder.path().join("hostile.bundle");
        fs::write(&path, bytes).unwrap();
        let root = self.folder.path().join("git");
        let hostile = GenerationRelease { bundle: Digest::of(bytes), bundle_path: path, ..self.good.clone() };
        let error = build_generation(&root, &name(), &[hostile]).unwrap_err();
        assert!(current(&root, &name()).unwrap().is_none());
        let finals = fs::read_dir(root.join("shop")).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(finals.into_iter().all(|name| name.to_string_lossy().starts_with(".fleetpack-tmp-")));
        error
    }

    fn with_pack(&self, pack: &[u8]) -> Vec<u8> {
        [&self.bytes[..self.header], pack].concat()
    }

    /// What git packs when it is told these objects or revisions.
    fn git_pack(&self, arguments: &[&str], input: &str) -> Vec<u8> {
        let mut child = program("git", &self.made.path)
            .current_dir(&self.made.path)
            .args(["pack-objects", "--stdout", "--quiet"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        output.stdout
    }
}

/// A pack of entries that stand there as they are.
fn raw_pack(count: u32, entries: &[u8]) -> Vec<u8> {
    let mut out = b"PACK\0\0\0\x02".to_vec();
    out.extend_from_slice(&count.to_be_bytes());
    out.extend_from_slice(entries);
    let mut hash = gix::hash::hasher(gix::hash::Kind::Sha1);
    hash.update(&out);
    out.extend_from_slice(hash.try_finalize().unwrap().as_slice());
    out
}

fn entry_header(kind: u8, mut size: u64) -> Vec<u8> {
    let mut out = vec![kind << 4 | u8::try_from(size & 15).unwrap()];
    size >>= 4;
    while size > 0 {
        *out.last_mut().unwrap() |= 0x80;
        out.push(u8::try_from(size & 0x7f).unwrap());
        size >>= 7;
    }
    out
}

fn deflate(data: impl std::io::Read) -> Vec<u8> {
    let mut out = Vec::new();
    std::io::copy(&mut flate2::read::ZlibEncoder::new(data, flate2::Compression::best()), &mut out).unwrap();
    out
}

#[test]
fn every_flipped_byte_and_every_cut_is_refused() {
    let victim = Victim::new();
    for at in 0..victim.bytes.len() {
        let mut bytes = victim.bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        let error = victim.refuse(&bytes);
        assert_ne!(error.class(), ErrorClass::Failed, "{at}: {error}");
    }
    for cut in (0..victim.bytes.len()).step_by(3) {
        victim.refuse(&victim.bytes[..cut]);
    }
    let garbage: Vec<u8> = (0..5000_u32).map(|n| u8::try_from(n * 7919 % 251).unwrap()).collect();
    victim.refuse(&garbage);
    assert!(matches!(
        victim.refuse(&victim.with_pack(&garbage)),
        GitStoreError::Pack { source: PackError::NotAPack, .. }
    ));
    let trailing = [&victim.bytes[..], b"x"].concat();
    assert!(matches!(
        victim.refuse(&trailing),
        GitStoreError::Pack { source: PackError::Trailing { count: 1 }, .. }
    ));
}

#[test]
fn packs_that_lack_something_are_refused() {
    let victim = Victim::new();
    let all = victim.made.git(&["rev-list", "--objects", "main"]);
    let oids: Vec<_> = all.lines().map(|line| &line[..40]).collect();
    let whole = victim.git_pack(&[], &(oids.join("\n") + "\n"));
    // Git's own pack of the same objects is taken: what is refused below is refused for what it lacks.
    let path = victim.folder.path().join("theirs.bundle");
    let bytes = victim.with_pack(&whole);
    fs::write(&path, &bytes).unwrap();
    let theirs = GenerationRelease { bundle: Digest::of(&bytes), bundle_path: path, ..victim.good.clone() };
    build_generation(&victim.folder.path().join("theirs"), &name(), &[theirs]).unwrap();

    for (at, missing) in oids.iter().enumerate() {
        let mut some = oids.clone();
        some.remove(at);
        let pack = victim.git_pack(&["--window=0"], &(some.join("\n") + "\n"));
        let error = victim.refuse(&victim.with_pack(&pack));
        assert!(
            matches!(&error, GitStoreError::History { source: WalkError::Missing { oid, .. }, .. } if oid.to_hex().to_string().as_str() == *missing),
            "{error}"
        );
        assert_eq!(error.class(), ErrorClass::Incomplete);
    }
    let thin = victim.git_pack(&["--revs", "--thin"], "main\n^main~1\n");
    let error = victim.refuse(&victim.with_pack(&thin));
    assert!(matches!(error, GitStoreError::Pack { source: PackError::Index { .. }, .. }), "{error}");

    // A reference to an object that is not there: bundle and document agree, the pack does not hold it.
    let absent = "1".repeat(40);
    let refs = vec![GitRef { name: "refs/heads/main".parse().unwrap(), target: absent.parse().unwrap() }];
    let header = BundleHeader {
        refs: vec![(refs[0].name.clone(), refs[0].target.clone())],
        head: Some(victim.good.commit.clone()),
    };
    let bytes = [&header.to_bytes()[..], &victim.bytes[victim.header..]].concat();
    assert!(matches!(victim.refuse(&bytes), GitStoreError::References { .. }), "the document says otherwise");
    let path = victim.folder.path().join("absent.bundle");
    fs::write(&path, &bytes).unwrap();
    let absent =
        GenerationRelease { refs, bundle: Digest::of(&bytes), bundle_path: path, ..victim.good.clone() };
    let error = build_generation(&victim.folder.path().join("git"), &name(), &[absent]).unwrap_err();
    assert!(matches!(error, GitStoreError::History { source: WalkError::Missing { .. }, .. }), "{error}");
}

#[test]
fn bombs_and_doubles_are_refused_before_they_cost_anything() {
    let victim = Victim::new();
    let zeros = |count: u64| std::io::Read::take(std::io::repeat(0), count);
    // One object that is too large by its own header.
    let large = [entry_header(3, 1 << 40), deflate(zeros(1000))].concat();
    let error = victim.refuse(&victim.with_pack(&raw_pack(1, &large)));
    assert!(matches!(error, GitStoreError::Pack { source: PackError::TooLarge { .. }, .. }), "{error}");
    // One that inflates to more than it claims.
    let liar = [entry_header(3, 10), deflate(zeros(50 << 20))].concat();
    let error = victim.refuse(&victim.with_pack(&raw_pack(1, &liar)));
    assert!(error.to_string().contains("more than the 10 bytes"), "{error}");
    // A claim of billions of objects.
    let error = victim.refuse(&victim.with_pack(&raw_pack(u32::MAX, &liar)));
    assert!(matches!(error, GitStoreError::Pack { source: PackError::Objects { .. }, .. }), "{error}");
    // Thousands of small deltas, each of which makes 32 MiB of one base.
    let size = 32_u64 << 20;
    let mut entries = [entry_header(3, size), deflate(zeros(size))].concat();
    let base_end = 12 + entries.len();
    let mut varint = Vec::new();
    let mut left = size;
    while left >= 0x80 {
        varint.push(u8::try_from(left & 0x7f).unwrap() | 0x80);
        left >>= 7;
    }
    varint.push(u8::try_from(left).unwrap());
    let mut delta = [&varint[..], &varint].concat();
    // `0x80`: copy 64 KiB from the front of the base.
    delta.extend(std::iter::repeat_n(0x80, usize::try_from(size >> 16).unwrap()));
    let deflated = deflate(&delta[..]);
    for _ in 0..4000 {
        let at = 12 + entries.len();
        entries.extend(entry_header(6, delta.len() as u64));
        let distance = at - 12;
        // gitformat-pack, "offset encoding".
        let mut encoded = vec![u8::try_from(distance & 0x7f).unwrap()];
        let mut rest = distance >> 7;
        while rest > 0 {
            rest -= 1;
            encoded.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
            rest >>= 7;
        }
        encoded.reverse();
        entries.extend(encoded);
        entries.extend(&deflated);
    }
    assert!(base_end < 100_000 && entries.len() < 1 << 20, "{} bytes", entries.len());
    let error = victim.refuse(&victim.with_pack(&raw_pack(4001, &entries)));
    assert!(matches!(error, GitStoreError::Pack { source: PackError::Inflation { .. }, .. }), "{error}");

    let blob = [entry_header(3, 3), deflate(&b"abc"[..])].concat();
    let own = &victim.bytes[victim.header + 12..victim.bytes.len() - 20];
    let count = u32::from_be_bytes(victim.bytes[victim.header + 8..victim.header + 12].try_into().unwrap());
    let doubled = raw_pack(count + 2, &[own, &blob, &blob].concat());
    let error = victim.refuse(&victim.with_pack(&doubled));
    assert!(matches!(error, GitStoreError::Pack { source: PackError::Duplicate { .. }, .. }), "{error}");
}

#[test]
fn a_release_whose_tree_is_hostile_is_refused() {
    let victim = Victim::new();
    let blob = victim.made.git(&["rev-parse", "HEAD:deploy/a.yaml"]);
    for entries in
        [&[("100644", &b".git"[..], &blob[..])][..], &[("100644", b"a", &blob), ("100644", b"a", &blob)]]
    {
        let commit = commit_raw_tree(&victim.made, entries);
        victim.made.git(&["branch", "--force", "hostile", &commit]);
        let hostile = release(victim.folder.path(), &victim.made.path, "hostile", "6.6");
        let error = build_generation(&victim.folder.path().join("git"), &name(), &[hostile]).unwrap_err();
        assert!(
            matches!(
                &error,
                GitStoreError::Tree { fault: TreeFault::Name { .. } | TreeFault::Duplicate { .. }, .. }
            ),
            "{error}"
        );
    }
    let commit = commit_raw_tree(&victim.made, &[("40000", b"folder", &blob)]);
    victim.made.git(&["branch", "--force", "hostile", &commit]);
    let repository = Repository::open(&victim.made.path).unwrap();
    assert!(
        repository.bundle(&repository.resolve("hostile").unwrap()).is_err(),
        "a file that claims to be a folder"
    );
}
