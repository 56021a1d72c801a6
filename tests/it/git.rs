//! The build side of Git against the real git: what it resolves, exports and bundles.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use fleetpack::fsio::Hasher;
use fleetpack::model::{Digest, ErrorClass};
use fleetpack::source::git::{Dirty, FileMode, GitError, Repository, RevisionKind};

use super::support::command::{program, run};
use super::support::repository::Repository as Made;

/// A history with merges, tags and a thousand commits, written by `git fast-import`.
pub(crate) fn thousand_commits(path: &Path) -> Made {
    let made = Made::init(path);
    let mut stream = String::new();
    let mut text = (0..200).fold(String::new(), |text, n| text + &format!("line {n} of a manifest\n"));
    for n in 1..=1000_u32 {
        let _ = writeln!(text, "more {}", n * 7919 % 1000);
        let side = n % 10 == 5;
        let merge = n % 10 == 6;
        let branch = if side { "side" } else { "main" };
        let _ = write!(
            stream,
            "commit refs/heads/{branch}\nmark :{n}\ncommitter T <t@localhost> {} +0100\ndata 6\nchange\n",
            1_700_000_000 + n * 60
        );
        if n > 1 {
            let _ = writeln!(stream, "from :{}", n - 1 - u32::from(merge));
        }
        if merge {
            let _ = writeln!(stream, "merge :{}", n - 1);
        }
        let file = format!("deploy/app{}/service.yaml", n % 7);
        let content = format!("name: app{}\nversion: {n}\n{text}", n % 7);
        let _ = write!(stream, "M 100644 inline {file}\ndata {}\n{content}\n", content.len());
    }
    for (tag, mark) in [("v1.9", 500), ("v1.10", 1000)] {
        let _ =
            write!(stream, "tag {tag}\nfrom :{mark}\ntagger T <t@localhost> 1700000000 +0000\ndata 3\ntag\n");
    }
    let mut child = program("git", path)
        .current_dir(path)
        .args(["fast-import", "--quiet", "--force"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stream.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    made.git(&["reset", "--quiet", "--hard"]);
    made
}

fn bundle_bytes(path: &Path, revision: &str) -> Vec<u8> {
    let repository = Repository::open(path).unwrap();
    let mut plan = repository.bundle(&repository.resolve(revision).unwrap()).unwrap();
    let measured = plan.measure().unwrap();
    let mut bytes = Vec::new();
    plan.write_to(&mut bytes).unwrap();
    assert_eq!((Digest::of(&bytes), bytes.len() as u64), (measured.digest, measured.size));
    bytes
}

fn count_objects(made: &Made, arguments: &[&str]) -> usize {
    let mut all = vec!["rev-list", "--objects"];
    all.extend(arguments);
    made.git(&all).lines().count()
}

#[test]
fn git_reads_the_bundle_and_counts_the_same_objects() {
    let folder = tempfile::tempdir().unwrap();
    let made = thousand_commits(&folder.path().join("repo"));
    let file = folder.path().join("x.bundle");
    for (revision, refs) in [
        ("main", &["refs/heads/main"][..]),
        ("v1.10", &["refs/heads/release", "refs/tags/v1.10"]),
        ("v1.9", &["refs/heads/release", "refs/tags/v1.9"]),
        ("main~3", &["refs/heads/release"]),
    ] {
        let bytes = bundle_bytes(&made.path, revision);
        std::fs::write(&file, &bytes).unwrap();
        let file = file.to_str().unwrap();
        made.git(&["bundle", "verify", "--quiet", file]);
        let heads = made.git(&["bundle", "list-heads", file]);
        let names: Vec<_> = heads.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        assert_eq!(names, [refs, &["HEAD"]].concat());

        let clone = folder.path().join(format!("clone-{}", revision.replace(['/', '~'], "-")));
        run(program("git", folder.path()).args(["clone", "--quiet", file]).arg(&clone)).ok();
        let clone = Made::init(&clone);
        clone.git(&["fsck", "--strict", "--full"]);
        assert_eq!(
            clone.git(&["rev-parse", "HEAD"]),
            made.git(&["rev-parse", &format!("{revision}^{{commit}}")])
        );
        let repository = Repository::open(&made.path).unwrap();
        let plan = repository.bundle(&repository.resolve(revision).unwrap()).unwrap();
        assert_eq!(plan.objects(), count_objects(&made, &[revision]));
        assert_eq!(
            clone.git(&["count-objects", "-v"]).lines().find_map(|l| l.strip_prefix("in-pack: ")).unwrap(),
            plan.objects().to_string()
        );
    }
}

#[test]
fn the_bundle_does_not_depend_on_how_the_clone_is_packed() {
    let folder = tempfile::tempdir().unwrap();
    let made = thousand_commits(&folder.path().join("repo"));
    let first = bundle_bytes(&made.path, "v1.10");
    assert_eq!(bundle_bytes(&made.path, "v1.10"), first, "a second run");
    made.git(&["repack", "-adfq", "--window=3", "--depth=5"]);
    assert_eq!(bundle_bytes(&made.path, "v1.10"), first, "packed otherwise");
    let clone = folder.path().join("clone");
    made.git(&[
        "clone",
        "--quiet",
        "--bare",
        &format!("file://{}", made.path.display()),
        clone.to_str().unwrap(),
    ]);
    let pack = std::fs::read_dir(clone.join("objects/pack")).unwrap().flatten().map(|e| e.path());
    for pack in pack.filter(|path| path.extension().is_some_and(|e| e == "pack")).collect::<Vec<_>>() {
        let moved = folder.path().join("moved.pack");
        std::fs::rename(&pack, &moved).unwrap();
        std::fs::remove_file(pack.with_extension("idx")).unwrap();
        let input = std::fs::File::open(&moved).unwrap();
        run(program("git", &clone).current_dir(&clone).args(["unpack-objects", "-q"]).stdin(input)).ok();
    }
    assert_eq!(bundle_bytes(&clone, "v1.10"), first, "loose, in a bare clone");

    let git = folder.path().join("git.pack");
    made.git(&["bundle", "create", "--quiet", git.to_str().unwrap(), "v1.10"]);
    let theirs = std::fs::metadata(&git).unwrap().len();
    assert!((first.len() as u64) * 2 < theirs * 3, "{} bytes, git makes {theirs}", first.len());
}

#[test]
fn a_bundle_too_large_to_keep_is_made_again_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let made = Made::init(&folder.path().join("repo"));
    let mut seed = 1_u64;
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u8::try_from(seed >> 56).unwrap()
    };
    // No zlib looks back so far that it would see the noise come again.
    let noise: Vec<u8> = (0..1 << 20).map(|_| next()).collect();
    let large = usize::try_from(fleetpack::fsio::limits::GIT_BUNDLE_IN_MEMORY).unwrap() + (8 << 20);
    for part in 0..8_u8 {
        let content = [&[part][..], &noise.repeat(large >> 23)].concat();
        made.write(&format!("large/{part}"), content);
    }
    let mut text = noise[..60_000].to_vec();
    made.write("small", &text);
    made.commit("noise");
    for n in 0..40 {
        text[n * 1_000] ^= 1;
        made.write("small", &text);
        made.commit("more");
    }
    // `bundle_bytes` measures, writes, and compares.
    let bytes = bundle_bytes(&made.path, "main");
    assert!(bytes.len() > large && bytes.len() < large + (1 << 20), "{}", bytes.len());
    let file = folder.path().join("large.bundle");
    std::fs::write(&file, &bytes).unwrap();
    let clone = folder.path().join("clone");
    run(program("git", folder.path()).args(["clone", "--quiet", "--bare"]).args([&file, &clone])).ok();
    made.git(&["-C", clone.to_str().unwrap(), "fsck", "--strict", "--full"]);
}

#[test]
fn revisions_are_resolved_as_git_does() {
    let folder = tempfile::tempdir().unwrap();
    let made = Made::init(&folder.path().join("repo"));
    made.write("a", "1");
    let first = made.commit("one");
    made.git(&["tag", "v1.9.0"]);
    made.git(&["tag", "-a", "-m", "x", "v1.10.0"]);
    made.git(&["tag", "-a", "-m", "x", "release/9"]);
    made.git(&["branch", "feature/x"]);
    made.write("a", "2");
    let second = made.commit("two");
    made.git(&["tag", "blob", &made.git(&["rev-parse", "HEAD:a"])]);
    made.git(&["branch", "both"]);
    made.git(&["tag", "both"]);
    made.git(&["pack-refs", "--all"]);
    let below = made.path.join("deep/er");
    std::fs::create_dir_all(&below).unwrap();
    let repository = Repository::open(&below).unwrap();

    let head = repository.resolve("HEAD").unwrap();
    assert_eq!(head.kind, RevisionKind::Branch("refs/heads/main".parse().unwrap()));
    assert_eq!(
        (head.commit.as_str(), head.sequence, head.short.as_str()),
        (second.as_str(), 2, &second[..12])
    );
    assert_eq!(head.created.as_second(), 1_700_000_120);
    assert_eq!(head.tag_at.as_deref(), Some("both"));
    let tag = repository.resolve("v1.10.0").unwrap();
    assert!(matches!(&tag.kind, RevisionKind::Tag(name, target)
        if name.as_str() == "refs/tags/v1.10.0" && target.as_str() == made.git(&["rev-parse", "v1.10.0"])));
    assert_eq!((tag.commit.as_str(), tag.sequence), (first.as_str(), 1));
    let names: Vec<_> = tag.refs.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["refs/heads/release", "refs/tags/v1.10.0"]);
    for (revision, commit, kind_is_branch) in [
        ("feature/x", &first, true),
        ("heads/feature/x", &first, true),
        ("refs/heads/feature/x", &first, true),
        (&first[..], &first, false),
        (&first[..8], &first, false),
        ("HEAD~1", &first, false),
        ("main^", &first, false),
        ("v1.10.0^{}", &first, false),
        ("refs/heads/both", &second, true),
    ] {
        let found = repository.resolve(revision).unwrap();
        assert_eq!(found.commit.as_str(), commit, "{revision}");
        assert_eq!(matches!(found.kind, RevisionKind::Branch(_)), kind_is_branch, "{revision}");
        assert!(found.refs.iter().any(|r| r.name.is_branch()));
    }
    // Of the tags at the first commit, `v1.10.0` is annotated, a version, and the highest.
    assert_eq!(repository.resolve(&first).unwrap().tag_at.as_deref(), Some("v1.10.0"));

    made.git(&["checkout", "--quiet", "--detach", &first]);
    assert_eq!(repository.resolve("HEAD").unwrap().kind, RevisionKind::Hash);

    for bad in ["-x", "--upload-pack=sh", "", "a\nb"] {
        let error = repository.resolve(bad).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Usage, "{error}");
    }
    let unknown = repository.resolve("mian").unwrap_err();
    assert!(unknown.to_string().contains("`mian`") && unknown.to_string().contains("`main`"), "{unknown}");
    assert!(
        matches!(repository.resolve("both").unwrap_err(), GitError::Ambiguous { candidates, .. } if candidates.len() == 2)
    );
    for bad in
        ["0000000000000000000000000000000000000001", "HEAD~9", "main..both", "nothing", "refs/heads/none"]
    {
        assert!(repository.resolve(bad).is_err(), "{bad}");
    }
    for bad in ["blob", "HEAD:a", "HEAD^{tree}", "HEAD:"] {
        assert!(matches!(repository.resolve(bad), Err(GitError::NotACommit { .. })), "{bad}");
    }
    assert!(matches!(Repository::open(folder.path()), Err(GitError::Open { .. })));
}

#[test]
fn work_trees_of_every_kind_open() {
    let folder = tempfile::tempdir().unwrap();
    let made = Made::init(&folder.path().join("repo"));
    made.write("a", "1");
    made.commit("one");
    let linked = folder.path().join("linked");
    made.git(&["worktree", "add", "--quiet", "-b", "side", linked.to_str().unwrap()]);
    let repository = Repository::open(&linked).unwrap();
    assert!(matches!(repository.resolve("HEAD").unwrap().kind,
        RevisionKind::Branch(name) if name.as_str() == "refs/heads/side"));
    let bare = folder.path().join("bare.git");
    made.git(&["clone", "--quiet", "--bare", ".", bare.to_str().unwrap()]);
    let repository = Repository::open(&bare).unwrap();
    repository.resolve("main").unwrap();
    assert_eq!(repository.dirty().unwrap().count, 0);
    let empty = Made::init(&folder.path().join("empty"));
    let error = Repository::open(&empty.path).unwrap().resolve("HEAD").unwrap_err();
    assert!(matches!(&error, GitError::NoCommit { branch } if branch == "refs/heads/main"), "{error}");
}

#[test]
fn replacements_and_grafts_do_not_change_history() {
    let folder = tempfile::tempdir().unwrap();
    let made = Made::init(&folder.path().join("repo"));
    for n in 0..5 {
        made.write("a", n.to_string());
        made.commit("c");
    }
    let count = count_objects(&made, &["main"]);
    let tip = made.git(&["rev-parse", "main"]);
    let before = made.git(&["rev-parse", "main~1"]);
    made.git(&["replace", "--graft", &tip]);
    std::fs::create_dir_all(made.path.join(".git/info")).unwrap();
    std::fs::write(made.path.join(".git/info/grafts"), format!("{before}\n")).unwrap();
    let repository = Repository::open(&made.path).unwrap();
    let revision = repository.resolve("main").unwrap();
    assert_eq!(revision.sequence, 5);
    assert_eq!(repository.bundle(&revision).unwrap().objects(), count);
    assert_eq!(repository.tree(&revision).unwrap().read("a", 10).unwrap(), b"4");
}

#[test]
fn what_is_not_whole_or_not_git_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let made = Made::init(&folder.path().join("repo"));
    made.write("a", "1");
    made.commit("one");
    made.write("a", "2");
    made.commit("two");
    let url = format!("file://{}", made.path.display());
    let shallow = folder.path().join("shallow");
    made.git(&["clone", "--quiet", "--depth=1", &url, shallow.to_str().unwrap()]);
    let error = Repository::open(&shallow).err().unwrap();
    assert!(matches!(error, GitError::Shallow { .. }));
    assert!(error.hint().unwrap().contains("git fetch --unshallow"));

    made.git(&["config", "uploadpack.allowFilter", "true"]);
    let partial = folder.path().join("partial");
    made.git(&["clone", "--quiet", "--no-checkout", "--filter=blob:none", &url, partial.to_str().unwrap()]);
    let repository = Repository::open(&partial).unwrap();
    let error = repository.bundle(&repository.resolve("HEAD").unwrap()).err().unwrap();
    assert_eq!(error.class(), ErrorClass::Incomplete);
    assert!(error.hint().unwrap().contains("--filter"), "{error}");

    let sha256 = folder.path().join("sha256");
    made.git(&["init", "--quiet", "--object-format=sha256", sha256.to_str().unwrap()]);
    assert!(matches!(Repository::open(&sha256), Err(GitError::ObjectFormat { .. })));

    let inner = folder.path().join("inner");
    made.git(&["clone", "--quiet", &url, inner.to_str().unwrap()]);
    made.git(&["submodule", "--quiet", "add", &url, "vendor/inner"]);
    made.commit("submodule");
    let repository = Repository::open(&made.path).unwrap();
    let with = repository.resolve("main").unwrap();
    let error = repository.tree(&with).err().unwrap();
    assert!(matches!(&error, GitError::Submodule { path, .. } if path == "vendor/inner"), "{error}");
    made.git(&["rm", "--quiet", "-f", "vendor/inner"]);
    made.commit("none any more");
    // In the past a submodule may be: it is not followed, and git counts the same.
    let past = repository.resolve("main").unwrap();
    repository.tree(&past).unwrap();
    assert_eq!(repository.bundle(&past).unwrap().objects(), count_objects(&made, &["main"]));

    made.write("big.bin", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n");
    made.commit("lfs");
    let error = repository.tree(&repository.resolve("main").unwrap()).err().unwrap();
    assert!(matches!(&error, GitError::LfsPointer { path, .. } if path == "big.bin"), "{error}");
}

#[test]
fn a_dirty_work_tree_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let made = Made::init(&folder.path().join("repo"));
    for n in 0..40 {
        made.write(&format!("f{n:02}"), "x");
    }
    made.write(".gitattributes", "f00 filter=evil\n");
    made.commit("one");
    let repository = Repository::open(&made.path).unwrap();
    assert_eq!(repository.dirty().unwrap(), Dirty::default());
    made.write("new", "untracked");
    assert_eq!(repository.dirty().unwrap().count, 0, "untracked files do not count");
    // A configuration that would run programs, in the repository itself.
    let mark = folder.path().join("ran");
    let touch = format!("touch {}; cat", mark.display());
    for key in
        ["filter.evil.clean", "filter.evil.smudge", "filter.evil.process", "core.fsmonitor", "diff.external"]
    {
        made.git(&["config", key, &touch]);
    }
    made.write("f00", "changed");
    made.write("f39", "changed");
    std::fs::remove_file(made.path.join("f01")).unwrap();
    made.write("f02", "staged");
    made.git(&["add", "f02"]);
    let _ = std::fs::remove_file(&mark);
    let dirty = repository.dirty().unwrap();
    assert_eq!((dirty.count, dirty.paths.join(" ").as_str()), (4, "f00 f01 f02 f39"));
    assert!(!mark.exists(), "the repository's configuration ran a program");
    for n in 3..39 {
        made.write(&format!("f{n:02}"), "changed too");
    }
    let dirty = repository.dirty().unwrap();
    assert_eq!((dirty.count, dirty.paths.len()), (40, 20));
}

#[test]
fn the_tree_is_listed_read_and_exported() {
    let folder = tempfile::tempdir().unwrap();
    let made = Made::init(&folder.path().join("repo"));
    made.write("deploy/a.yaml", "a: 1\n");
    made.write("deploy.md", "x");
    made.write("bin/run", "#!/bin/sh\n");
    made.git(&["add", "-A"]);
    made.git(&["update-index", "--chmod=+x", "bin/run"]);
    for (path, target) in
        [("deploy/link", "../bin/run"), ("out", "/etc/passwd"), ("up", "../x"), ("bin/folder", "../deploy")]
    {
        std::os::unix::fs::symlink(target, made.path.join(path)).unwrap();
    }
    made.git(&["add", "-A"]);
    made.git(&["update-index", "--chmod=+x", "bin/run"]);
    made.git(&["commit", "--quiet", "-m", "x"]);
    made.write("deploy/a.yaml", "not committed");
    let repository = Repository::open(&made.path).unwrap();
    let tree = repository.tree(&repository.resolve("HEAD").unwrap()).unwrap();
    let paths: Vec<_> = tree.files().iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["bin/folder", "bin/run", "deploy.md", "deploy/a.yaml", "deploy/link", "out", "up"]);
    assert_eq!(tree.file("bin/run").unwrap().mode, FileMode::Executable);
    assert_eq!(tree.read("deploy/a.yaml", 5).unwrap(), b"a: 1\n");
    assert!(matches!(tree.read("deploy/a.yaml", 4), Err(GitError::FileTooLarge { found: 5, .. })));
    assert!(matches!(tree.read("deploy", 4), Err(GitError::NoFile { .. })));
    let out = tempfile::tempdir().unwrap();
    let warnings = tree.export(out.path()).unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("`out`") && warnings[1].contains("`up`"));
    assert_eq!(std::fs::read(out.path().join("bin/folder/a.yaml")).unwrap(), b"a: 1\n");
    assert_eq!(std::fs::read_link(out.path().join("deploy/link")).unwrap(), Path::new("../bin/run"));
    assert!(out.path().join("up").symlink_metadata().is_err());
    assert_eq!(out.path().join("bin/run").metadata().unwrap().permissions().mode() & 0o100, 0o100);
    assert!(matches!(tree.export(out.path()), Err(GitError::Export { .. })), "only into an empty folder");
}

/// Writes a tree object as it is, whatever git thinks of it, and a commit of it.
pub(crate) fn commit_raw_tree(made: &Made, entries: &[(&str, &[u8], &str)]) -> String {
    let mut bytes = Vec::new();
    for (mode, name, oid) in entries {
        bytes.extend_from_slice(mode.as_bytes());
        bytes.push(b' ');
        bytes.extend_from_slice(name);
        bytes.push(0);
        bytes.extend((0..20).map(|n| u8::from_str_radix(&oid[2 * n..2 * n + 2], 16).unwrap()));
    }
    let file = made.path.join("../raw-tree");
    std::fs::write(&file, bytes).unwrap();
    let tree = made.git(&["hash-object", "--literally", "-t", "tree", "-w", file.to_str().unwrap()]);
    made.git(&["commit-tree", "-m", "raw", &tree])
}

#[test]
fn hostile_trees_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let made = Made::init(&folder.path().join("repo"));
    made.write("a", "1");
    made.commit("one");
    let blob = made.git(&["rev-parse", "HEAD:a"]);
    let repository = Repository::open(&made.path).unwrap();
    for (entries, part) in [
        (&[("100644", &b".git"[..], &blob[..])][..], "`.git`"),
        (&[("100644", b"git~1", &blob)], "`git~1`"),
        (&[("100644", b"..", &blob)], "`..`"),
        (&[("100644", b"a/b", &blob)], "`a/b`"),
        (&[("100644", b"a", &blob), ("100644", b"a", &blob)], "twice"),
        (&[("100644", b"b", &blob), ("100644", b"a", &blob)], "order"),
        (&[("104755", b"b", &blob)], "mode 104755"),
        (&[("40000", b"b", &blob)], "is a blob"),
        (&[("100644", b"\xff", &blob)], "UTF-8"),
        (&[("120000", b".gitmodules", &blob)], "`.gitmodules`"),
    ] {
        let commit = commit_raw_tree(&made, entries);
        let error = repository.tree(&repository.resolve(&commit).unwrap()).err().unwrap().to_string();
        assert!(error.contains(part), "{error} for {part}");
    }
}

#[test]
fn this_projects_own_history_travels() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let Ok(repository) = Repository::open(here) else {
        eprintln!("skipped: not run from a whole clone");
        return;
    };
    let revision = repository.resolve("HEAD").unwrap();
    repository.tree(&revision).unwrap();
    let mut hasher = Hasher::new();
    let mut plan = repository.bundle(&revision).unwrap();
    let mut bytes = Vec::new();
    plan.write_to(&mut bytes).unwrap();
    hasher.update(&bytes);
    assert_eq!(plan.measure().unwrap().digest, hasher.finish());
    let count =
        run(program("git", here).current_dir(here).args(["rev-list", "--objects", revision.commit.as_str()]));
    assert_eq!(plan.objects(), count.ok().stdout.lines().count());
}
