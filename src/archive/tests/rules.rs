//! Documents that break a rule, and manifests that lead nowhere.

use super::*;
use crate::archive::{document, manifest};
use crate::model::{ErrorClass, LfsObject, ReleaseDocument, SubmoduleEntry, SubmodulePath};

type Edit = Box<dyn FnOnce(&mut ReleaseDocument)>;

fn error_of(edit: impl FnOnce(&mut ReleaseDocument)) -> String {
    let mut broken = Fixture::new().document;
    edit(&mut broken);
    let checked = document::check(&broken).unwrap_err().to_string();
    assert_eq!(document::parse(&document::to_bytes(&broken)).unwrap_err().to_string(), checked);
    checked
}

/// A submodule that has the bundle of the release itself.
fn submodule(d: &ReleaseDocument, name: &str) -> SubmoduleEntry {
    let commit = d.git.commit.clone();
    SubmoduleEntry {
        name: name.parse().unwrap(),
        paths: vec![SubmodulePath {
            path: "lib".parse().unwrap(),
            url: "../lib.git".into(),
            commit: commit.clone(),
        }],
        refs: d.git.refs.clone(),
        commit,
        bundle: d.git.bundle,
    }
}

fn submodules(d: &mut ReleaseDocument, names: &[&str]) {
    d.requires.push("git-submodules".into());
    d.git.submodules = names.iter().map(|name| submodule(d, name)).collect();
}

/// Objects of Git LFS right behind the rendered layer, as `lfs` names them.
fn lfs(d: &mut ReleaseDocument, contents: &[&[u8]]) {
    d.requires.insert(0, "git-lfs".into());
    let mut objects: Vec<LfsObject> = contents
        .iter()
        .map(|bytes| LfsObject {
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            paths: vec!["a.bin".into(), "lib/b.bin".into()],
        })
        .collect();
    objects.sort_by_key(|object| object.digest);
    let at = d.blobs.iter().position(|blob| blob.digest == d.rendered.layer).unwrap() + 1;
    let entry = |object: &LfsObject| BlobEntry {
        digest: object.digest,
        size: object.size,
        media_type: media_type::GIT_LFS_OBJECT.into(),
    };
    d.blobs.splice(at..at, objects.iter().map(entry).collect::<Vec<_>>());
    d.git.lfs = objects;
}

#[test]
fn objects_of_git_lfs_travel_as_blobs() {
    let mut fixture = Fixture::new();
    // One that nothing else leads to, and one that is a config and one that is a layer of an image.
    lfs(&mut fixture.document, &[b"one", b"another"]);
    for bytes in [b"one".as_slice(), b"another"] {
        fixture.contents.insert(Digest::of(bytes), bytes.to_vec());
    }
    let config = fixture.document.blobs[0].clone();
    let shared = LfsObject { digest: config.digest, size: config.size, paths: vec!["c.json".into()] };
    fixture.document.git.lfs.push(shared);
    fixture.document.git.lfs.sort_by_key(|object| object.digest);
    let head = read_head(&mut Cursor::new(fixture.bytes(&[]))).unwrap();
    let release = head.parse().unwrap();
    assert_eq!(release.document, fixture.document);
    let manifest = String::from_utf8(release.manifest).unwrap();
    assert_eq!(manifest.matches(media_type::GIT_LFS_OBJECT).count(), 3);

    // A manifest that only Git LFS names is not led to as what it is listed as.
    let mut stray = Fixture::new();
    let bytes = b"{\"schemaVersion\":2,\"config\":{\"digest\":\"sha256:0\"}}".to_vec();
    let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
    stray.contents.insert(digest, bytes);
    stray.document.requires.push("git-lfs".into());
    stray.document.git.lfs = vec![LfsObject { digest, size, paths: vec!["x".into()] }];
    stray.document.blobs.insert(0, BlobEntry { digest, size, media_type: "text/plain".into() });
    let small = stray.document.blobs.iter().position(|b| b.digest == stray.document.git.bundle).unwrap();
    stray.document.blobs[..small].sort_by_key(|blob| blob.digest);
    assert!(document::check(&stray.document).is_ok());
    let closure = crate::archive::closure::Closure::new(&stray.document);
    for (place, blob) in stray.document.blobs.iter().enumerate() {
        if crate::archive::closure::is_parsed(blob) {
            closure.add(place, &stray.contents[&blob.digest]).unwrap();
        }
    }
    let error = closure.check().unwrap_err().to_string();
    assert!(error.contains(&format!("lists blob {digest}, and nothing leads to it")), "{error}");
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of rules")]
fn a_document_keeps_its_rules() {
    let other = Digest::of(b"other");
    let edit = |edit: fn(&mut ReleaseDocument)| -> Edit { Box::new(edit) };
    let cases: Vec<(Edit, &str)> = vec![
        (edit(|d| d.git.refs.clear()), "names no branch in `git.refs`"),
        (edit(|d| d.git.refs.push(d.git.refs[0].clone())), "does not sort `git.refs` by name, each once"),
        (edit(|d| d.requires.push("git-submodules".into())), "just where it requires `git-submodules`"),
        (edit(|d| d.git.submodules = vec![submodule(d, "a")]), "just where it requires `git-submodules`"),
        (edit(|d| submodules(d, &["b", "a"])), "does not sort `git.submodules` by name, each once"),
        (edit(|d| submodules(d, &["a", "a"])), "does not sort `git.submodules` by name, each once"),
        (edit(|d| submodules(d, &["a", "b"])), "lists submodule `lib` twice"),
        (
            edit(|d| {
                submodules(d, &["a"]);
                d.git.submodules[0].paths.clear();
            }),
            "does not sort the paths of submodule `a`",
        ),
        (
            edit(|d| {
                submodules(d, &["a"]);
                d.git.submodules[0].refs.clear();
            }),
            "names no branch for commit",
        ),
        (
            edit(|d| {
                submodules(d, &["a"]);
                d.git.submodules[0].paths[0].url = "a\nb".into();
            }),
            "gives submodule `lib` a URL that is none",
        ),
        (
            edit(|d| {
                submodules(d, &["a"]);
                d.git.submodules[0].bundle = Digest::of(b"other");
            }),
            "names git bundle sha256:",
        ),
        (
            edit(|d| {
                submodules(d, &["a"]);
                let image = d.blobs.last_mut().unwrap();
                image.media_type = media_type::GIT_BUNDLE.into();
                d.git.submodules[0].bundle = image.digest;
            }),
            "of a submodule in its place",
        ),
        (edit(|d| d.requires.push("git-lfs".into())), "just where it requires `git-lfs`"),
        (
            edit(|d| {
                lfs(d, &[b"a"]);
                d.requires.clear();
            }),
            "just where it requires `git-lfs`",
        ),
        (
            edit(|d| {
                lfs(d, &[b"a", b"b"]);
                d.git.lfs.reverse();
            }),
            "does not sort `git.lfs` by digest, each once",
        ),
        (
            edit(|d| {
                lfs(d, &[b"a"]);
                d.git.lfs[0].paths.reverse();
            }),
            "does not sort the paths of Git LFS object",
        ),
        (
            edit(|d| {
                lfs(d, &[b"a"]);
                d.git.lfs[0].paths.clear();
            }),
            "does not sort the paths of Git LFS object",
        ),
        (
            edit(|d| {
                lfs(d, &[b"a"]);
                d.git.lfs[0].paths = vec!["a\nb".into()];
            }),
            "a path that is none",
        ),
        (
            edit(|d| {
                lfs(d, &[b"a"]);
                d.git.lfs[0].size = 2;
            }),
            " 2 bytes, and lists it with 1",
        ),
        (
            edit(|d| {
                lfs(d, &[b"a"]);
                d.git.lfs[0].digest = Digest::of(b"other");
            }),
            "and does not list it in `blobs`",
        ),
        (
            edit(|d| {
                lfs(d, &[b"a"]);
                let at = d.blobs.iter().position(|blob| blob.digest == Digest::of(b"a")).unwrap();
                d.blobs.swap(at, at + 1);
            }),
            "does not list Git LFS object",
        ),
        (
            edit(|d| {
                lfs(d, &[b"a"]);
                let at = d.blobs.iter().position(|blob| blob.digest == Digest::of(b"a")).unwrap();
                d.blobs[at].media_type = "text/plain".into();
            }),
            "wanted `application/vnd.fleetpack.git.lfs.object`",
        ),
        (edit(|d| d.blobs.push(d.blobs[0].clone())), "lists blob sha256:"),
        (edit(|d| d.blobs.swap(0, 1)), "does not sort the manifests and configs before the git bundle"),
        (edit(|d| d.blobs[0].media_type = "a\nb".into()), "a media type that is none"),
        (Box::new(move |d| d.git.bundle = other), "names git bundle sha256:"),
        (Box::new(move |d| d.rendered.layer = other), "does not list rendered layer"),
        (Box::new(move |d| d.rendered.manifest = other), "names rendered manifest sha256:"),
        (edit(|d| d.rendered.manifest = d.git.bundle), "lists rendered manifest sha256:"),
        (edit(|d| d.images.reverse()), "does not sort `images` by reference, each once"),
        (edit(|d| d.images[1] = d.images[0].clone()), "does not sort `images` by reference, each once"),
        (Box::new(move |d| d.images[0].digest = other), "and does not list it in `blobs`"),
        (
            edit(|d| d.images[0].media_type = "text/plain".into()),
            "media type `text/plain`, no manifest or index",
        ),
        (
            edit(|d| d.images[0].media_type = media_type::OCI_MANIFEST.into()),
            "wanted `application/vnd.oci.image.manifest",
        ),
        (edit(|d| d.images[0].absent = d.images[2].absent.clone()), "which is no index"),
        (edit(|d| d.images[2].absent = vec![d.images[2].absent[0].clone(); 2]), "as absent twice"),
        (
            edit(|d| d.images[2].referrers = vec![d.images[2].referrers[0].clone(); 2]),
            "lists referrer of image",
        ),
        (edit(|d| d.images[2].referrers[0].tag = Some("../x".into())), "a tag that is none"),
        (
            Box::new(move |d| {
                let pinned = format!("registry.example.com/a/b@{other}");
                d.images[0].reference = pinned.parse().unwrap();
            }),
            "resolves image `registry.example.com/a/b@sha256:",
        ),
        (
            edit(|d| d.blobs.last_mut().unwrap().media_type = media_type::OCI_INDEX.into()),
            "after the git bundle",
        ),
    ];
    for (edit, wanted) in cases {
        let message = error_of(edit);
        assert!(message.starts_with("the release document "), "{message}");
        assert!(message.contains(wanted), "{message}\nwanted {wanted}");
    }
    let empty = Digest::of(media_type::EMPTY_BYTES);
    let message = error_of(|d| d.blobs.retain(|blob| blob.digest != empty));
    assert_eq!(
        message,
        format!("the release document does not list the empty blob {empty} before the git bundle")
    );
    let message = error_of(|d| {
        let index = d.images[2].digest;
        d.blobs.iter_mut().find(|blob| blob.digest == index).unwrap().size = 5 << 20;
    });
    assert!(message.ends_with("has 5242880 bytes, more than the 4194304 that are read"), "{message}");
}

#[test]
fn later_formats_and_features_are_refused_by_name() {
    let parse = |edit: fn(&mut Value)| {
        let mut value = serde_json::to_value(Fixture::new().document).unwrap();
        edit(&mut value);
        document::parse(&serde_json::to_vec(&value).unwrap())
    };
    let error = parse(|value| {
        // A later format may look quite different.
        *value = json!({"format": 2, "parts": []});
    });
    assert_eq!(
        error.unwrap_err().to_string(),
        "the release document has format 2, and this fleetpack reads 1"
    );
    let error = parse(|value| value["requires"] = json!(["deltas"])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the release requires feature `deltas`, which this fleetpack does not know"
    );
    assert_eq!(error.hint().unwrap(), "use a newer fleetpack");
    assert!(parse(|value| value["remark"] = json!("of a later tool")).is_ok(), "unknown fields are ignored");
    let error = parse(|value| value["name"] = json!("../x")).unwrap_err().to_string();
    assert!(
        error.starts_with("the release document does not parse: `../x` is not a release name"),
        "{error}"
    );
    let error = document::parse(b"{\"format\":1,\"format\":1}").unwrap_err().to_string();
    assert!(error.contains("duplicate field"), "{error}");
    let deep = format!("{{\"format\":1,\"x\":{}", "[".repeat(100_000));
    let error = document::parse(deep.as_bytes()).unwrap_err().to_string();
    assert!(error.starts_with("the release document does not parse"), "{error}");
}

#[test]
fn sizes_that_no_file_has() {
    let mut fixture = Fixture::new();
    let last = fixture.document.blobs.len() - 1;
    for size in [u64::MAX, u64::MAX - 511, i64::MAX as u64, 1 << 62] {
        fixture.document.blobs[last].size = size;
        fixture.document.blobs[last - 1].size = size;
        let (_folder, path) = scratch();
        let error = Writer::create(&path, &fixture.document).unwrap_err().to_string();
        assert!(error.contains("larger than any file can be"), "{error}");
    }
}

#[test]
fn the_manifest_binds_the_document() {
    let fixture = Fixture::new();
    let head = || read_head(&mut Cursor::new(fixture.bytes(&[]))).unwrap();
    let refused = |edit: &dyn Fn(&mut super::super::Head)| {
        let mut head = head();
        edit(&mut head);
        head.parse().unwrap_err().to_string()
    };
    let text = |head: &super::super::Head| String::from_utf8(head.manifest.clone()).unwrap();

    let message = refused(&|head| head.document[20] ^= 1);
    assert!(message.starts_with("the release manifest names document sha256:"), "{message}");
    let message = refused(&|head| head.document.push(b' '));
    assert!(message.starts_with("the release manifest says that the document has"), "{message}");
    let message = refused(&|head| head.manifest = b"{}".to_vec());
    assert!(message.starts_with("the release manifest does not parse: missing field"), "{message}");
    let message = refused(&|head| head.manifest = text(head).replace("release.v1", "release.v9").into());
    assert!(
        message.contains("has `artifactType` `application/vnd.fleetpack.release.v9+json`, wanted"),
        "{message}"
    );
    // Another commit in the annotations, or another spelling of the same JSON.
    let message =
        refused(&|head| head.manifest = text(head).replace(&"1".repeat(40), &"2".repeat(40)).into());
    assert!(
        message.contains("is not the one that follows from the document: they differ at byte"),
        "{message}"
    );
    let message = refused(&|head| head.manifest.push(b'\n'));
    assert!(message.contains("they differ at byte"), "{message}");
    let message = refused(&|head| head.index_json.truncate(100));
    assert!(message.starts_with("`index.json` (at byte 1536) is not what follows"), "{message}");
}

#[test]
fn the_manifest_is_canonical() {
    let fixture = Fixture::new();
    let bytes = document::to_bytes(&fixture.document);
    let manifest = String::from_utf8(manifest::build(&fixture.document, &bytes).unwrap()).unwrap();
    let (git, rendered) = (fixture.document.git.bundle, fixture.document.rendered.layer);
    let wanted = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\
         \"artifactType\":\"application/vnd.fleetpack.release.v1+json\",\
         \"config\":{{\"mediaType\":\"application/vnd.fleetpack.release.v1+json\",\"digest\":\"{}\",\"size\":{}}},\
         \"layers\":[{{\"mediaType\":\"application/vnd.fleetpack.git.bundle.v2\",\"digest\":\"{git}\",\"size\":5000}},\
         {{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar+gzip\",\"digest\":\"{rendered}\",\"size\":700}}],\
         \"annotations\":{{\"org.opencontainers.image.created\":\"2026-11-21T10:00:00Z\",\
         \"org.opencontainers.image.revision\":\"1111111111111111111111111111111111111111\",\
         \"org.opencontainers.image.title\":\"shop\",\"org.opencontainers.image.version\":\"1.4.2+b7\"}}}}",
        Digest::of(&bytes),
        bytes.len(),
    );
    assert_eq!(manifest, wanted);
    assert_eq!(manifest::document_of(manifest.as_bytes()).unwrap(), (Digest::of(&bytes), bytes.len() as u64));
}

/// The refusal of a release whose archive is in order but whose closure is not.
fn open_closure(edit: impl FnOnce(&mut Fixture)) -> (String, ErrorClass) {
    let mut fixture = Fixture::new();
    edit(&mut fixture);
    let bytes = fixture.bytes(&[]);
    let [source, _] = sources(&bytes);
    let class = read(source, &Discard).unwrap_err().class();
    (refusal(&bytes), class)
}

/// Rewrites the index of the sparse image.
fn edit_index(fixture: &mut Fixture, edit: impl FnOnce(&mut Value)) {
    let old = fixture.document.images[2].digest;
    let mut index: Value = serde_json::from_slice(&fixture.contents[&old]).unwrap();
    edit(&mut index);
    let new = fixture.replace(old, serde_json::to_vec(&index).unwrap());
    let image = &mut fixture.document.images[2];
    image.digest = new;
    // What referred to the old index cannot come along.
    let referrers = std::mem::take(&mut image.referrers);
    let gone: Vec<_> = referrers.iter().map(|referrer| referrer.digest).collect();
    let named: Vec<Digest> = gone
        .iter()
        .flat_map(|digest| {
            let manifest: Value = serde_json::from_slice(&fixture.contents[digest]).unwrap();
            [digest_of(&manifest["config"]), digest_of(&manifest["layers"][0])]
        })
        .filter(|digest| *digest != Digest::of(media_type::EMPTY_BYTES))
        .collect();
    fixture.document.blobs.retain(|blob| !gone.contains(&blob.digest) && !named.contains(&blob.digest));
}

#[test]
fn everything_that_is_named_is_carried() {
    let absent = Digest::of(b"a child for another platform");
    let (message, class) = open_closure(|fixture| fixture.document.images[2].absent.clear());
    let wanted = format!(
        "the release is not complete: image `registry.example.com/shop/web:1.0` needs manifest {absent}"
    );
    assert!(message.starts_with(&wanted), "{message}");
    assert_eq!(class, ErrorClass::Incomplete);

    let (message, class) = open_closure(|fixture| drop(fixture.document.blobs.pop()));
    assert!(
        message.contains("needs layer sha256:") && message.ends_with("which the archive does not hold"),
        "{message}"
    );
    assert_eq!(class, ErrorClass::Incomplete);

    let (message, _) = open_closure(|fixture| {
        fixture.document.images[2].absent.push(AbsentManifest { digest: Digest::of(b"x"), platform: None });
    });
    assert!(message.contains("as absent, and its index does not name it"), "{message}");

    let (message, _) = open_closure(|fixture| {
        let bytes = b"nobody asked".to_vec();
        let entry = BlobEntry { digest: Digest::of(&bytes), size: 12, media_type: "text/plain".into() };
        fixture.contents.insert(entry.digest, bytes);
        fixture.document.blobs.push(entry);
    });
    let stray = Digest::of(b"nobody asked");
    assert_eq!(message, format!("the release document lists blob {stray}, and nothing leads to it"));

    let (message, _) = open_closure(|fixture| drop(fixture.document.images.pop()));
    assert!(message.ends_with("and nothing leads to it"), "{message}");
}

#[test]
fn manifests_say_what_the_document_says() {
    let mut untouched = Fixture::new();
    edit_index(&mut untouched, |_| {});
    let [file, _] = sources(&untouched.bytes(&[]));
    read(file, &Discard).unwrap();
    let refused = |edit: fn(&mut Value)| open_closure(|fixture| edit_index(fixture, edit)).0;
    let message = refused(|index| index["manifests"][0]["size"] = json!(5));
    assert!(
        message.contains("gives manifest sha256:") && message.contains(" 5 bytes, and the release document "),
        "{message}"
    );
    let message = refused(|index| index["manifests"][0]["mediaType"] = json!("text/plain"));
    assert!(
        message.contains("media type `text/plain`, and the release document `application/vnd.oci"),
        "{message}"
    );
    let message = refused(|index| index["mediaType"] = json!(media_type::DOCKER_LIST));
    assert!(message.contains("calls itself `application/vnd.docker"), "{message}");
    let message = refused(|index| index["layers"] = json!([]));
    assert!(message.contains("is no index: wanted `manifests` and neither config nor layers"), "{message}");
    let message = refused(|index| index["schemaVersion"] = json!(1));
    assert!(message.contains("has `schemaVersion` 1, wanted 2"), "{message}");
    let message = refused(|index| *index = json!([]));
    assert!(message.contains("does not parse"), "{message}");
}

#[test]
fn referrers_refer_to_their_image() {
    let other = Digest::of(b"other");
    let (message, _) = open_closure(|fixture| fixture.document.images[2].referrers[0].subject = other);
    assert!(message.contains(&format!("refers to {other}, which is no part of image")), "{message}");
    let (message, _) = open_closure(|fixture| {
        let absent = fixture.document.images[2].absent[0].digest;
        fixture.document.images[2].referrers[0].subject = absent;
    });
    assert!(
        message.contains("refers to sha256:") && message.contains("and the release document says to"),
        "{message}"
    );
    let (message, _) = open_closure(|fixture| fixture.document.images[2].referrers[1].tag = None);
    assert!(message.contains("refers to nothing, and the release document says to"), "{message}");
}
