//! `fleetpack lock`, and builds that follow a lock: what is pinned stays, whatever its tag says, and
//! what does not fit is told with its place.

use std::fs;

use fleetpack::model::{Digest, media_type};

use crate::support::command::{Ended, fleetpack, run};
use crate::support::liar::{Asked, Liar, Reply};
use crate::support::repository::Repository;
use crate::support::shop::Shop;

fn lock(shop: &Shop, arguments: &[&str]) -> Ended {
    run(shop.fleetpack().args(["lock", "shop"]).args(arguments))
}

fn build(shop: &Shop, output: &str, arguments: &[&str]) -> Ended {
    run(shop.fleetpack().args(["build", "shop", "-o", output]).args(arguments))
}

fn text(shop: &Shop) -> String {
    fs::read_to_string(shop.repository.path.join("fleetpack.lock")).unwrap()
}

/// The digest of the image that an archive holds under `reference`.
fn carried(shop: &Shop, archive: &str, reference: &str) -> String {
    let shown = run(shop.fleetpack().args(["inspect", archive, "images", "--format", "json"])).ok().json();
    let images = shown["release"]["images"].as_array().unwrap();
    let image = images.iter().find(|image| image["reference"] == reference).unwrap();
    image["digest"].as_str().unwrap().to_owned()
}

const WEB: &str = "registry.example.com/shop/web:2.0";

#[test]
fn a_tag_that_moves_changes_nothing_until_the_lock_does() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::new(folder.path());
    let was = shop.images.iter().find(|(name, _)| name == WEB).unwrap().1.clone();

    let said = run(shop.fleetpack().args(["lock", "shop"]).env("SOURCE_DATE_EPOCH", "1760000000")).ok();
    assert!(said.stdout.contains("6 images locked (6 added, 0 moved, 0 removed)"), "{}", said.stdout);
    let first = text(&shop);
    let block = format!(
        "- reference: {WEB}\n  digest: {was}\n  platforms: [linux/amd64]\n  resolved: 2025-10-09T08:53:20Z\n"
    );
    assert!(first.contains(&block), "{first}");
    assert!(first.contains("  platforms: [linux/amd64, linux/arm64]\n"), "{first}");
    shop.repository.commit("lock");

    // Nothing is asked of anybody where nothing changes.
    shop.registry.configure(folder.path(), &[]);
    let again = lock(&shop, &[]).ok();
    assert!(again.stdout.contains("the file is as it was"), "{}", again.stdout);
    assert_eq!(text(&shop), first);
    shop.registry.configure(folder.path(), &["registry.example.com"]);

    build(&shop, "one.tar", &["--locked"]).ok();
    let now = shop.registry.image(WEB, &["--file", "www/index.html=moved"]);
    assert_ne!(now, was);
    build(&shop, "two.tar", &["--locked"]).ok();
    assert!(
        fs::read(folder.path().join("one.tar")).unwrap() == fs::read(folder.path().join("two.tar")).unwrap()
    );
    assert_eq!(carried(&shop, "two.tar", WEB), was, "the reference is the manifests', the digest the lock's");
    lock(&shop, &[]).ok();
    assert_eq!(text(&shop), first);

    // What is asked for again moves, and only its block changes; what means the same keeps its time.
    let moved =
        lock(&shop, &["--update", WEB, "registry.example.com/shop/api:1.0", "--format", "json"]).ok().json();
    assert_eq!(moved["written"], true);
    assert_eq!(moved["moved"], serde_json::json!([{"reference": WEB, "from": was, "to": now}]));
    assert_eq!((&moved["added"], &moved["removed"]), (&serde_json::json!([]), &serde_json::json!([])));
    let second = text(&shop);
    let changed: Vec<_> = first.lines().zip(second.lines()).filter(|(old, new)| old != new).collect();
    assert_eq!(changed.len(), 2, "{changed:?}");
    assert_eq!(changed[0].1, format!("  digest: {now}"));
    shop.repository.commit("move web");
    build(&shop, "three.tar", &["--locked"]).ok();
    assert_eq!(carried(&shop, "three.tar", WEB), now);

    // `--update` alone asks for all; one that is not used is told.
    let said = lock(&shop, &["--update"]).ok();
    assert!(said.stdout.contains("the file is as it was"), "{}", said.stdout);
    lock(&shop, &["--update", "registry.example.com/shop/web:1.0"])
        .refused(2, &["registry.example.com/shop/web:1.0", "is not used", WEB]);
    lock(&shop, &["--update", &format!("{WEB}@{was}")]).refused(2, &["holds a digest"]);
    let printed = lock(&shop, &["--output", "-"]).ok();
    assert_eq!(printed.stdout, second);
}

#[test]
fn a_locked_build_names_every_difference() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::new(folder.path());
    let loose = build(&shop, "out.tar", &[]).ok();
    assert!(loose.stderr.contains("has no fleetpack.lock: references by tag (6)"), "{}", loose.stderr);
    fs::remove_file(folder.path().join("out.tar")).unwrap();
    build(&shop, "out.tar", &["--locked"]).refused(
        4,
        &[
            "the revision has no fleetpack.lock",
            WEB,
            "deploy/base",
            "Deployment shop/web",
            "`fleetpack lock`",
        ],
    );
    lock(&shop, &[]).ok();
    shop.repository.commit("lock");

    // Another image in place of one that was locked.
    let path = "deploy/base/shop.yaml";
    let manifests = fs::read_to_string(shop.repository.path.join(path)).unwrap();
    shop.repository.write(path, manifests.replace("shop/web:2.0", "shop/web:1.0"));
    shop.repository.commit("back to 1.0");
    build(&shop, "out.tar", &["--locked"]).refused(
        4,
        &[
            "the revision does not fit its fleetpack.lock",
            "`registry.example.com/shop/web:1.0` is used and not locked: deploy/",
            "Deployment shop/web, spec.template.spec.containers[0].image",
            "`registry.example.com/shop/web:2.0` is locked and not used",
            "run `fleetpack lock`",
        ],
    );
    let loose = build(&shop, "out.tar", &[]).ok();
    assert!(
        loose.stderr.contains("warning: not in fleetpack.lock, so taken as the registry has it now: `registry.example.com/shop/web:1.0`;"),
        "{}",
        loose.stderr
    );
    assert!(
        loose.stderr.contains("names what nothing uses: `registry.example.com/shop/web:2.0`;"),
        "{}",
        loose.stderr
    );
    fs::remove_file(folder.path().join("out.tar")).unwrap();
    let changed = lock(&shop, &[]).ok();
    assert!(changed.stdout.contains("(1 added, 0 moved, 1 removed)"), "{}", changed.stdout);
    shop.repository.commit("lock");
    build(&shop, "out.tar", &["--locked"]).ok();

    // A platform that a locked image has not.
    fs::remove_file(folder.path().join("out.tar")).unwrap();
    build(&shop, "out.tar", &["--locked", "--platform", "linux/arm64"]).refused(
        4,
        &[
            "which has no platform `linux/arm64`, only `linux/amd64`",
            "`fleetpack lock --update registry.example.com/shop/api:1.0",
        ],
    );
    lock(&shop, &["--platform", "linux/arm64"]).refused(4, &["has no platform `linux/arm64`"]);
    assert!(!folder.path().join("out.tar").exists());
}

#[test]
fn locks_that_a_hand_has_touched() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::new(folder.path());
    lock(&shop, &[]).ok();
    let good = text(&shop);
    let change = |from: &str, to: &str| {
        assert!(good.contains(from));
        shop.repository.write("fleetpack.lock", good.replacen(from, to, 1));
        shop.repository.commit("by hand");
    };
    change("  digest: sha256:", "  digest: sha-256:");
    build(&shop, "out.tar", &[]).refused(1, &["fleetpack.lock:7: ", "wanted `sha256", "correct the line"]);
    lock(&shop, &[]).refused(1, &["fleetpack.lock:7: "]);
    change("  resolved: ", "  resolvd: ");
    build(&shop, "out.tar", &[]).refused(1, &["fleetpack.lock:9: ", "`resolvd`", "resolved"]);

    // A digest that the registry has not (any more).
    let gone = Digest::of(b"gone");
    let web = good.split(&format!("{WEB}\n  digest: ")).nth(1).unwrap()[..71].to_owned();
    change(&web, &gone.to_string());
    build(&shop, "out.tar", &[]).refused(
        4,
        &[
            WEB,
            &format!("locked at {gone}"),
            "Deployment shop/web",
            &format!("`fleetpack lock --update {WEB}`"),
        ],
    );
    lock(&shop, &["--update", WEB]).ok();
    assert_eq!(
        text(&shop).lines().filter(|line| !line.starts_with("  resolved")).collect::<Vec<_>>(),
        good.lines().filter(|line| !line.starts_with("  resolved")).collect::<Vec<_>>()
    );

    // One that cannot be read in the revision either is written anew where it was deleted.
    change("  resolved: ", "  resolvd: ");
    fs::remove_file(shop.repository.path.join("fleetpack.lock")).unwrap();
    let said = lock(&shop, &[]).ok();
    assert!(said.stdout.contains("(6 added, 0 moved, 0 removed)"), "{}", said.stdout);

    // The file may be anything but a lock.
    fs::remove_file(shop.repository.path.join("fleetpack.lock")).unwrap();
    fs::create_dir(shop.repository.path.join("fleetpack.lock")).unwrap();
    lock(&shop, &[]).refused(1, &["fleetpack.lock"]);
}

#[test]
fn what_is_not_committed_yet_is_locked_through_a_stash() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::new(folder.path());
    let path = "deploy/base/shop.yaml";
    let manifests = fs::read_to_string(shop.repository.path.join(path)).unwrap();
    shop.repository.write(path, manifests.replace("shop/web:2.0", "shop/web:1.0"));
    let stash = shop.repository.git(&["stash", "create"]);
    lock(&shop, &["--revision", &stash]).ok();
    shop.repository.commit("manifests and their lock in one commit");
    build(&shop, "out.tar", &["--locked"]).ok();

    // A bare repository has no place for it, unless one is named.
    shop.repository.git(&["clone", "--quiet", "--bare", ".", "../bare.git"]);
    run(shop.fleetpack().args(["lock", "bare.git"])).refused(2, &["has no work tree", "--output"]);
    run(shop.fleetpack().args(["lock", "bare.git", "-o", "other.lock"])).ok();
    // What is fetched has none either.
    let url = format!("file://{}", folder.path().join("bare.git").display());
    let remote = |arguments: &[&str]| {
        let cache = folder.path().join("cache");
        run(shop.fleetpack().env("XDG_CACHE_HOME", cache).args(["lock", &url]).args(arguments))
    };
    remote(&[]).refused(2, &["bare.git` has no work tree", "--output"]);
    let printed = remote(&["-o", "-"]).ok();
    assert_eq!(printed.stdout, text(&shop), "the lock of the revision stays as it is");
    let other = fs::read_to_string(folder.path().join("other.lock")).unwrap();
    let without_times = |text: &str| {
        text.lines().filter(|line| !line.starts_with("  resolved")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(without_times(&other), without_times(&text(&shop)));
}

/// A registry that has one image and answers with `manifest(n)` the n-th time that its tag is asked for.
fn registry(manifest: impl Fn(usize) -> Vec<u8> + Send + Sync + 'static, layers: [Vec<u8>; 2]) -> Liar {
    Liar::start(move |asked: &Asked, before| {
        let reply = |bytes: Vec<u8>| Reply::ok(bytes).header("content-type", media_type::OCI_MANIFEST);
        let all = [manifest(0), manifest(1), b"{}".to_vec(), layers[0].clone(), layers[1].clone()];
        let name = asked.path.rsplit('/').next().unwrap();
        let named = all.into_iter().find(|bytes| Digest::of(bytes).to_string() == name);
        match (named, asked.path.contains("/manifests/")) {
            (Some(bytes), true) => reply(bytes),
            (Some(bytes), false) => Reply::ok(bytes),
            (None, true) if name == "latest" => reply(manifest(before.min(1))),
            (None, _) => Reply::not_found(),
        }
    })
}

fn manifest_of(layer: &[u8]) -> Vec<u8> {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{}","size":2}},"layers":[{{"mediaType":"{}","digest":"{}","size":{}}}]}}"#,
        media_type::OCI_MANIFEST,
        media_type::EMPTY,
        Digest::of(b"{}"),
        media_type::OCI_LAYER_GZIP,
        Digest::of(layer),
        layer.len()
    )
    .into_bytes()
}

#[test]
fn a_tag_is_asked_for_once_and_never_where_it_is_locked() {
    let folder = tempfile::tempdir().unwrap();
    let layers = [b"the first layer".to_vec(), b"another one".to_vec()];
    let (first, second) = (manifest_of(&layers[0]), manifest_of(&layers[1]));
    let (one, two) = (first.clone(), second.clone());
    // The tag has moved when it is asked for again.
    let liar = registry(move |n| if n == 0 { one.clone() } else { two.clone() }, layers.clone());
    fs::write(
        folder.path().join("registries.conf"),
        format!(
            "[[registry]]\nprefix = \"registry.example.com\"\nlocation = \"{}\"\ninsecure = true\n",
            liar.host()
        ),
    )
    .unwrap();
    let repository = Repository::init(&folder.path().join("shop"));
    repository.write(
        "pod.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: web, image: registry.example.com/web}]}\n",
    );
    repository.commit("a pod");
    let tool = |arguments: &[&str]| {
        let mut command = fleetpack(folder.path());
        command
            .current_dir(folder.path())
            .env("CONTAINERS_REGISTRIES_CONF", folder.path().join("registries.conf"))
            .args(arguments);
        run(&mut command)
    };
    let tags = || {
        let by_tag = |asked: &Asked| asked.path.ends_with("/manifests/latest");
        liar.asked()
            .iter()
            .filter(|asked| by_tag(asked))
            .map(|asked| asked.method.clone())
            .collect::<Vec<_>>()
    };
    let digest = |archive: &str| {
        let shown = tool(&["inspect", archive, "images", "--format", "json"]).ok().json();
        let image = &shown["release"]["images"][0];
        assert_eq!(image["reference"], "registry.example.com/web:latest");
        image["digest"].as_str().unwrap().parse::<Digest>().unwrap()
    };

    // It moves between resolving and downloading: what was resolved is what is taken.
    let said = tool(&["build", "shop", "-o", "one.tar"]).ok();
    assert_eq!(digest("one.tar"), Digest::of(&first));
    assert_eq!(tags(), ["GET"]);
    let warning = "warning: `registry.example.com/web:latest`: `latest`, or no tag,";
    assert!(said.stderr.contains(warning), "{}", said.stderr);
    assert!(said.stderr.contains("pod.yaml:4 (Pod web, spec.containers[0].image)"), "{}", said.stderr);

    // A lock by hand at what it was: the tag is not asked for again. The warning stays.
    repository.write(
        "fleetpack.lock",
        format!(
            "apiVersion: fleetpack.dev/v1\nkind: Lock\nimages:\n- reference: registry.example.com/web\n  digest: {}\n  resolved: 2026-11-21T08:00:00Z\n",
            Digest::of(&first)
        ),
    );
    repository.commit("a lock");
    let said = tool(&["build", "shop", "-o", "two.tar", "--locked"]).ok();
    assert_eq!(digest("two.tar"), Digest::of(&first));
    assert_eq!(tags(), ["GET"]);
    assert!(said.stderr.contains(warning), "{}", said.stderr);

    let said = tool(&["lock", "shop", "--update", "registry.example.com/web"]).ok();
    assert!(said.stdout.contains("(0 added, 1 moved, 0 removed)"), "{}", said.stdout);
    assert!(said.stderr.contains(warning), "{}", said.stderr);
    repository.commit("moved");
    tool(&["build", "shop", "-o", "three.tar", "--locked"]).ok();
    assert_eq!(digest("three.tar"), Digest::of(&second));
    assert_eq!(tags(), ["GET", "GET"]);

    // A mirror that may only be asked by digest serves what is locked, layers included.
    let moved = second.clone();
    let mirror = registry(move |_| moved.clone(), layers);
    let conf = format!(
        "{}[[registry.mirror]]\nlocation = \"{}\"\ninsecure = true\npull-from-mirror = \"digest-only\"\n",
        fs::read_to_string(folder.path().join("registries.conf")).unwrap(),
        mirror.host()
    );
    fs::write(folder.path().join("registries.conf"), conf).unwrap();
    let before = liar.asked().len();
    tool(&["build", "shop", "-o", "four.tar", "--locked"]).ok();
    assert_eq!(digest("four.tar"), Digest::of(&second));
    let blobs = |asked: &[Asked]| asked.iter().filter(|asked| asked.path.contains("/blobs/")).count();
    assert_eq!((blobs(&mirror.asked()), blobs(&liar.asked()[before..])), (1, 0));
}
