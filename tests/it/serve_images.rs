//! The registry that `serve` is, on a store, asked by the clients that sites have, and by hand.

use std::path::Path;

use serde_json::Value;

use crate::support::command::run;
use crate::support::ctr::Ctr;
use crate::support::http::{get, raw, request};
use crate::support::root::is_root;
use crate::support::served::{BULK, BULK_SIZE, SIGNED, Site};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

/// The only layer of an image whose manifest is no index, with the most bytes.
fn layer(manifest: &Value) -> (String, u64) {
    let layers = manifest["layers"].as_array().unwrap();
    let largest = layers.iter().max_by_key(|layer| layer["size"].as_u64()).unwrap();
    (largest["digest"].as_str().unwrap().to_owned(), largest["size"].as_u64().unwrap())
}

#[test]
fn clients_pull_from_a_store_and_see_the_next_release() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path());
    // Whole indexes would hide what a release does without a platform.
    let first = site.build("v1", &["--platform", "linux/amd64"]);
    let second = site.build("v2", &[]);
    let server = site.serve();
    let host = server.host();
    assert_eq!(get(host, "/healthz", &[]).body, b"ok\n");
    assert_eq!(get(host, "/v2/registry.example.com/shop/web/manifests/1.0", &[]).code(), "NAME_UNKNOWN");
    site.seed(&first);
    site.clients(host);

    // An index that was carried in part keeps its digest; the child that was left out is missed by name.
    let agent = get(host, "/v2/registry.example.com/shop/agent/manifests/1.0", &[]);
    assert_eq!(agent.header("docker-content-digest"), site.digest("registry.example.com/shop/agent:1.0"));
    let child = |architecture: &str| {
        let index = agent.json();
        let children = index["manifests"].as_array().unwrap();
        let found = children.iter().find(|child| child["platform"]["architecture"] == architecture);
        let digest = found.unwrap()["digest"].as_str().unwrap().to_owned();
        get(host, &format!("/v2/registry.example.com/shop/agent/manifests/{digest}"), &[])
    };
    assert_eq!(child("amd64").status, 200);
    let absent = child("arm64");
    assert_eq!((absent.status, absent.code().as_str()), (404, "MANIFEST_UNKNOWN"));
    let message = absent.json()["errors"][0]["message"].to_string();
    assert!(message.contains("platform was not chosen"), "{message}");

    // The next release is seen without a restart, with what the first one left out; the
    // first one stays, to go back to.
    assert_eq!(get(host, "/v2/registry.example.com/shop/web/manifests/2.0", &[]).code(), "MANIFEST_UNKNOWN");
    site.seed(&second);
    let web = get(host, "/v2/registry.example.com/shop/web/manifests/2.0", &[]);
    assert_eq!(web.header("docker-content-digest"), site.digest("registry.example.com/shop/web:2.0"));
    let before = get(host, "/v2/registry.example.com/shop/web/manifests/1.0", &[]);
    assert_eq!(before.header("docker-content-digest"), site.digest("registry.example.com/shop/web:1.0"));
    assert_eq!(child("arm64").status, 200);
    let copy = format!("dir:{}", folder.path().join("all").display());
    run(site.skopeo_at(host).args([
        "copy",
        "--quiet",
        "--all",
        "docker://registry.example.com/shop/agent:1.0",
        &copy,
    ]))
    .ok();
    containerd(&site, folder.path());
}

/// A real containerd pulls through the files that `mirrors` writes, and asks nobody else.
fn containerd(site: &Site, folder: &Path) {
    if !is_root() {
        return;
    }
    let hosts = folder.join("certs.d");
    run(site
        .shop
        .fleetpack()
        .args(["mirrors", "--runtime", "containerd", "--store", "store", "--write"])
        .arg(&hosts))
    .ok();
    let containerd = Ctr::up(folder);
    let ctr = |arguments: &[&str]| containerd.run(arguments);
    let hosts = hosts.to_str().unwrap();
    for (reference, digest) in site.shop.images.iter().filter(|(reference, _)| reference != SIGNED) {
        ctr(&["images", "pull", "--local", "--snapshotter", "native", "--hosts-dir", hosts, reference]).ok();
        let listed = ctr(&["images", "ls", &format!("name=={reference}")]).ok().stdout;
        assert!(listed.contains(digest), "{reference}: {listed}");
    }
    // What is not in a release is not found, and nobody looks for it elsewhere.
    for absent in ["registry.example.com/shop/absent:1", "quay.io/shop/web:1.0", "docker.io/library/web:1.0"]
    {
        let ended = ctr(&["images", "pull", "--local", "--hosts-dir", hosts, absent]);
        assert_ne!(ended.code, 0, "{absent}: {}", ended.stdout);
        assert!(ended.stderr.contains("not found"), "{absent}: {}", ended.stderr);
        assert!(!ended.stderr.contains("lookup"), "{absent}: {}", ended.stderr);
    }
}

#[test]
fn every_request_has_its_answer() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(folder.path());
    let archive = site.build("v1", &[]);
    let server = site.serve();
    let host = server.host();
    site.seed(&archive);
    let shop = "/v2/registry.example.com/shop";

    manifests(&site, host, shop);
    let manifest = get(host, &format!("{shop}/bulk/manifests/1.0"), &[]).json();
    let (digest, length) = layer(&manifest);
    assert!(length >= BULK_SIZE as u64, "{BULK}");
    blobs(host, &format!("{shop}/bulk/blobs/{digest}"), &digest, length);
    lists(&site, host, shop);
    refusals(host, shop, &digest);

    // Names: the registry in the path, as `?ns=`, and left out where that says enough.
    let want = site.digest(SIGNED);
    for path in [
        "/v2/registry.example.com/shop/web/manifests/1.0".to_owned(),
        "/v2/shop/web/manifests/1.0?ns=registry.example.com".to_owned(),
        "/v2/shop/web/manifests/1.0".to_owned(),
        format!("/v2/shop/web/manifests/1.0?ns={host}"),
        format!("/v2/registry.example.com/shop/web/manifests/1.0?ns={host}"),
        "/v2/shop%2Fweb/manifests/1%2E0".to_owned(),
    ] {
        assert_eq!(get(host, &path, &[]).header("docker-content-digest"), want, "{path}");
    }
    for path in ["/v2/shop/web/manifests/1.0?ns=quay.io", "/v2/quay.io/shop/web/manifests/1.0"] {
        assert_eq!(get(host, path, &[]).code(), "NAME_UNKNOWN", "{path}: another registry's image");
    }
}

fn manifests(site: &Site, host: &str, shop: &str) {
    for (name, media_type) in [("web:1.0", MANIFEST), ("api:1.0", DOCKER), ("agent:1.0", INDEX)] {
        let digest = site.digest(&format!("registry.example.com/shop/{name}"));
        let (repository, tag) = name.split_once(':').unwrap();
        for reference in [tag, digest] {
            let path = format!("{shop}/{repository}/manifests/{reference}");
            let whole = get(host, &path, &[]);
            assert_eq!(whole.status, 200, "{path}");
            assert_eq!(whole.header("content-type"), media_type, "{path}: as it is stored");
            assert_eq!(fleetpack::model::Digest::of(&whole.body).to_string(), digest, "{path}");
            assert_eq!(whole.header("docker-content-digest"), digest);
            assert_eq!(whole.header("etag"), format!("\"{digest}\""));
            assert_eq!(whole.header("docker-distribution-api-version"), "registry/2.0");
            // What a client says it accepts changes nothing: there is one form of it.
            let other = get(host, &path, &[("Accept", "application/vnd.example")]);
            assert_eq!(other.body, whole.body);
            let head = request(host, "HEAD", &path, &[], b"");
            for header in ["content-type", "content-length", "docker-content-digest", "etag"] {
                assert_eq!(head.header(header), whole.header(header), "{path} {header}");
            }
            let same = get(host, &path, &[("If-None-Match", whole.header("etag"))]);
            assert_eq!((same.status, same.header("etag")), (304, whole.header("etag")));
            let other = get(host, &path, &[("If-None-Match", "\"sha256:other\"")]);
            assert_eq!(other.status, 200);
        }
    }
    let index = get(host, &format!("{shop}/agent/manifests/1.0"), &[]).json();
    for child in index["manifests"].as_array().unwrap() {
        let path = format!("{shop}/agent/manifests/{}", child["digest"].as_str().unwrap());
        let found = get(host, &path, &[]);
        assert_eq!(found.header("content-type"), child["mediaType"].as_str().unwrap());
        assert_eq!(found.body.len() as u64, child["size"].as_u64().unwrap());
    }
}

fn blobs(host: &str, path: &str, digest: &str, size: u64) {
    let whole = get(host, path, &[]);
    assert_eq!((whole.status, whole.whole, whole.body.len() as u64), (200, true, size));
    assert_eq!(fleetpack::model::Digest::of(&whole.body).to_string(), digest);
    assert_eq!(whole.header("content-type"), "application/octet-stream");
    assert_eq!(whole.header("accept-ranges"), "bytes");
    let head = request(host, "HEAD", path, &[("Range", "bytes=0-1")], b"");
    assert_eq!((head.status, head.header("content-length")), (200, size.to_string().as_str()));
    let etag = whole.header("etag").to_owned();
    assert_eq!(get(host, path, &[("If-None-Match", &etag)]).status, 304);

    let middle = usize::try_from(size / 2).unwrap();
    for (range, start, end) in [
        ("bytes=0-0".to_owned(), 0, 1),
        (format!("bytes={}-", size - 5), middle * 2 - 5, middle * 2),
        ("bytes=-7".to_owned(), middle * 2 - 7, middle * 2),
        (format!("bytes={middle}-{}", middle + 700_000), middle, middle + 700_001),
        (format!("bytes={middle}-{}", size * 3), middle, middle * 2),
    ] {
        assert_eq!(size % 2, 0, "the table above wants an even size");
        let part = get(host, path, &[("Range", &range)]);
        assert_eq!((part.status, part.whole), (206, true), "{range}");
        assert!(part.body == whole.body[start..end], "{range}");
        assert_eq!(part.header("content-range"), format!("bytes {start}-{}/{size}", end - 1));
        assert_eq!(get(host, path, &[("Range", &range), ("If-Range", &etag)]).status, 206);
        assert_eq!(get(host, path, &[("Range", &range), ("If-Range", "\"other\"")]).status, 200);
    }
    for range in [format!("bytes={size}-"), "bytes=-0".to_owned()] {
        let outside = get(host, path, &[("Range", &range)]);
        assert_eq!((outside.status, outside.code().as_str()), (416, "RANGE_INVALID"), "{range}");
        assert_eq!(outside.header("content-range"), format!("bytes */{size}"));
    }
    for range in ["bytes=0-1,4-5", "lines=1-2", "bytes=9-1", "bytes=", "x"] {
        assert_eq!(get(host, path, &[("Range", range)]).status, 200, "{range}: as if it were not there");
    }
}

fn lists(site: &Site, host: &str, shop: &str) {
    let tags = get(host, &format!("{shop}/init/tags/list"), &[]).json();
    assert_eq!(tags, serde_json::json!({"name": "registry.example.com/shop/init", "tags": ["1.0", "same"]}));
    let page = get(host, &format!("{shop}/init/tags/list?n=1"), &[]);
    assert_eq!(page.json()["tags"], serde_json::json!(["1.0"]));
    let link = page.header("link").to_owned();
    let next = link.strip_prefix('<').and_then(|link| link.split_once(">; rel=\"next\"")).unwrap().0;
    let page = get(host, next, &[]);
    assert_eq!((page.json()["tags"].clone(), page.header("link")), (serde_json::json!(["same"]), ""));
    let all = get(host, "/v2/_catalog", &[]).json();
    assert_eq!(all["repositories"].as_array().unwrap().len(), 7);
    assert_eq!(
        get(host, "/v2/_catalog?n=2&last=fleetpack/shop", &[]).json()["repositories"][0],
        "registry.example.com/shop/agent"
    );
    assert_eq!(get(host, "/v2/registry.example.com/shop/none/tags/list", &[]).code(), "NAME_UNKNOWN");

    let digest = site.digest(SIGNED);
    let path = format!("{shop}/web/referrers/{digest}");
    let all = get(host, &path, &[]);
    assert_eq!((all.status, all.header("content-type")), (200, INDEX));
    assert_eq!(all.header("oci-filters-applied"), "");
    let filtered = get(host, &format!("{path}?artifactType={BUNDLE}"), &[]);
    assert_eq!(filtered.header("oci-filters-applied"), "artifactType");
    let found = filtered.json();
    let [entry] = &found["manifests"].as_array().unwrap()[..] else { panic!("{found}") };
    assert_eq!(entry["artifactType"], BUNDLE);
    let referrer = get(host, &format!("{shop}/web/manifests/{}", entry["digest"].as_str().unwrap()), &[]);
    assert_eq!(referrer.json()["subject"]["digest"], digest);
    let escaped = get(host, &format!("{path}?artifactType={}", BUNDLE.replace('+', "%2B")), &[]);
    assert_eq!(escaped.json(), found);
    let none = get(host, &format!("{path}?artifactType=application/vnd.example"), &[]);
    assert_eq!((none.status, none.json()["manifests"].clone()), (200, serde_json::json!([])));
    // A digest that nothing refers to is an empty list: the API is there.
    let zeros = format!("sha256:{}", "0".repeat(64));
    let none = get(host, &format!("{shop}/web/referrers/{zeros}"), &[]);
    assert_eq!((none.status, none.json()["schemaVersion"].clone()), (200, serde_json::json!(2)));
}

fn refusals(host: &str, shop: &str, digest: &str) {
    let zeros = format!("sha256:{}", "0".repeat(64));
    for (method, path) in [
        ("PUT", format!("{shop}/web/manifests/1.0")),
        ("DELETE", format!("{shop}/web/manifests/1.0")),
        ("POST", format!("{shop}/web/blobs/uploads/")),
        ("POST", format!("{shop}/web/blobs/uploads/?mount={digest}&from=shop/api")),
        ("PATCH", format!("{shop}/web/blobs/uploads/1")),
        ("DELETE", format!("{shop}/web/blobs/{digest}")),
        ("PUT", "/v2/".to_owned()),
    ] {
        let refused = request(host, method, &path, &[], b"{}");
        assert_eq!((refused.status, refused.code().as_str()), (405, "UNSUPPORTED"), "{method} {path}");
        assert_eq!(refused.header("allow"), "GET, HEAD");
    }
    for (path, status, code) in [
        (format!("{shop}/web/manifests/9.9"), 404, "MANIFEST_UNKNOWN"),
        (format!("{shop}/web/manifests/{zeros}"), 404, "MANIFEST_UNKNOWN"),
        (format!("{shop}/web/manifests/{digest}"), 404, "MANIFEST_UNKNOWN"),
        (format!("{shop}/web/manifests/-x"), 404, "MANIFEST_UNKNOWN"),
        (format!("{shop}/web/manifests/.."), 404, "MANIFEST_UNKNOWN"),
        (format!("{shop}/web/manifests/sha256:1"), 400, "DIGEST_INVALID"),
        (format!("{shop}/web/manifests/sha512:{}", "0".repeat(128)), 400, "DIGEST_INVALID"),
        (format!("{shop}/web/blobs/{zeros}"), 404, "BLOB_UNKNOWN"),
        (format!("{shop}/web/blobs/sha256:../../../../etc/passwd"), 404, "UNSUPPORTED"),
        (format!("{shop}/web/blobs/sha256:..%2f..%2fetc%2fpasswd"), 404, "UNSUPPORTED"),
        (format!("{shop}/web/blobs/x"), 400, "DIGEST_INVALID"),
        (format!("{shop}/web/referrers/x"), 400, "DIGEST_INVALID"),
        (format!("{shop}/none/manifests/1.0"), 404, "NAME_UNKNOWN"),
        ("/v2/..%2f..%2fetc/manifests/passwd".to_owned(), 400, "NAME_INVALID"),
        ("/v2/../../etc/manifests/passwd".to_owned(), 400, "NAME_INVALID"),
        ("/v2/a%00b/manifests/1".to_owned(), 404, "UNSUPPORTED"),
        ("/v2/%ff/manifests/1".to_owned(), 404, "UNSUPPORTED"),
        ("/v2/%/manifests/1".to_owned(), 404, "UNSUPPORTED"),
        ("/v2/A/manifests/1".to_owned(), 400, "NAME_INVALID"),
        (format!("/v2/{}/manifests/1", "a/".repeat(2000)), 400, "NAME_INVALID"),
        ("/v2/shop/web/manifests/1.0?ns=../..".to_owned(), 400, "NAME_INVALID"),
        ("/v2/shop/web".to_owned(), 404, "UNSUPPORTED"),
        ("/v2/shop".to_owned(), 404, "UNSUPPORTED"),
    ] {
        let refused = get(host, &path, &[]);
        assert_eq!((refused.status, refused.code().as_str()), (status, code), "{path}");
        let head = request(host, "HEAD", &path, &[], b"");
        assert_eq!((head.status, head.header("content-type")), (status, "application/json"), "{path}");
    }
    // The status page, and nothing else beside it.
    assert_eq!(get(host, "/", &[]).status, 200);
    assert_eq!(get(host, "/index.html", &[]).status, 404);
    assert_eq!(get(host, "/../../etc/passwd", &[]).status, 404);
    assert_eq!(request(host, "POST", "/healthz", &[], b"").status, 405);
    // Not HTTP at all, or too much of it: an error or a closed line, and the server goes on.
    for bytes in [
        b"\0\0\0\0".to_vec(),
        b"GET\r\n\r\n".to_vec(),
        b"GET /v2/ HTTP/9.9\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01".to_vec(),
        [b"GET /v2/ HTTP/1.1\r\nHost: x\r\n".to_vec(), b"X: y\r\n".repeat(5000), b"\r\n".to_vec()].concat(),
        [b"GET /".to_vec(), vec![b'a'; 1 << 20], b" HTTP/1.1\r\n\r\n".to_vec()].concat(),
    ] {
        let answer = String::from_utf8_lossy(&raw(host, &bytes)).into_owned();
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 5"),
            "{answer}"
        );
    }
    assert_eq!(get(host, "/v2/", &[]).status, 200);
}
