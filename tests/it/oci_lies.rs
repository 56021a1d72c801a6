//! Registries that lie, break off, dawdle or lead astray: what is asked, what is refused, and in
//! which words.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleetpack::model::progress::Silent;
use fleetpack::model::{BlobEntry, Digest, ErrorClass, ImageRef, Progress, media_type};
use fleetpack::oci::{
    BlobSource, CredentialPaths, Credentials, Extent, Fetched, OciError, RegistriesConf, Registry,
    RegistryOptions, ResolvedImage, RetryPolicy, Sources, fetch, resolve,
};

use crate::support::liar::{Asked, Body, Liar, Notes, Reply};

fn quick() -> RetryPolicy {
    RetryPolicy {
        attempts: 3,
        base_delay: Duration::from_millis(2),
        max_delay: Duration::from_millis(8),
        max_retry_after: Duration::from_secs(2),
        connect: Duration::from_secs(5),
        stall: Duration::from_millis(400),
        floor: 1024,
        small_body: Duration::from_millis(800),
    }
}

/// A client without patience.
pub fn registry(options: impl FnOnce(&mut RegistryOptions)) -> Registry {
    let mut chosen = RegistryOptions { retry: quick(), ..RegistryOptions::default() };
    options(&mut chosen);
    Registry::new(chosen)
}

/// A manifest with one layer.
pub fn manifest_of(layer: &[u8]) -> Vec<u8> {
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

/// A layer of some size.
pub fn layer() -> Vec<u8> {
    (0..300_000_u32).map(|n| (n % 251) as u8).collect()
}

/// A layer as a manifest lists it.
pub fn entry(bytes: &[u8]) -> BlobEntry {
    BlobEntry {
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        media_type: media_type::OCI_LAYER_GZIP.into(),
    }
}

/// The image that is asked for.
pub fn image(liar: &Liar) -> ImageRef {
    format!("{}/shop/web:1", liar.host()).parse().unwrap()
}

/// What came of a download, and how it ended.
pub async fn download(
    registry: &Registry,
    image: &ImageRef,
    blob: &BlobEntry,
) -> (Vec<u8>, Result<Fetched, OciError>) {
    let mut bytes = Vec::new();
    let outcome = fetch(registry, image, blob, &mut |part| {
        bytes.extend_from_slice(part);
        Ok(())
    })
    .await;
    (bytes, outcome)
}

/// What a download from a server that answers blobs so ends with.
async fn refused(answer: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static) -> (String, Vec<Asked>) {
    let liar = Liar::start(answer);
    let (_, outcome) = download(&registry(|_| {}), &image(&liar), &entry(&layer())).await;
    let error = outcome.unwrap_err();
    (error.to_string().replace(&liar.host(), "HOST"), liar.asked())
}

/// What the manifest of a server that answers so ends with.
async fn manifest(
    answer: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static,
) -> (String, OciError, usize) {
    let liar = Liar::start(answer);
    let error = registry(|_| {}).manifest(&image(&liar)).await.unwrap_err();
    (error.to_string().replace(&liar.host(), "HOST"), error, liar.asked().len())
}

/// Stops the test unless each of `parts` is there.
#[track_caller]
pub fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "wanted `{part}` in: {text}");
    }
}

/// Where a request wants to begin.
pub fn range(asked: &Asked) -> Option<usize> {
    asked.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

#[tokio::test]
async fn a_dropped_download_goes_on_where_it_broke() {
    let bytes = layer();
    let content = bytes.clone();
    let liar = Liar::start(move |asked, _| match range(asked) {
        None => {
            Reply::new(200, Body::Cut(content[..100_000].to_vec())).header("content-length", content.len())
        }
        Some(from) => Reply::new(206, Body::Whole(content[from..].to_vec()))
            .header("content-range", format!("bytes {from}-{}/{}", content.len() - 1, content.len())),
    });
    let (got, outcome) = download(&registry(|_| {}), &image(&liar), &entry(&bytes)).await;
    assert_eq!(outcome.unwrap().from, format!("{}/shop/web", liar.host()));
    assert!(got == bytes, "the bytes differ");
    let ranges: Vec<_> = liar.asked().iter().map(|asked| asked.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".to_owned())]);
}

#[tokio::test]
async fn a_registry_without_ranges_is_read_again_and_skipped() {
    let bytes = layer();
    let content = bytes.clone();
    let liar = Liar::start(move |_, before| {
        let body =
            if before == 0 { Body::Cut(content[..70_001].to_vec()) } else { Body::Whole(content.clone()) };
        Reply::new(200, body).header("content-length", content.len())
    });
    let (got, outcome) = download(&registry(|_| {}), &image(&liar), &entry(&bytes)).await;
    outcome.unwrap();
    assert!(got == bytes, "the bytes differ");
    assert_eq!(liar.asked().len(), 2);
}

#[tokio::test]
async fn a_download_that_breaks_for_ever_ends() {
    let (error, asked) = refused(|_, _| {
        Reply::new(200, Body::Cut(layer()[..10].to_vec())).header("content-length", layer().len())
    })
    .await;
    says(&error, &["no answer from `HOST` for blob `sha256:", "shop/web:1"]);
    assert_eq!(asked.len(), 3, "as many attempts as the policy has");
}

#[tokio::test]
async fn wrong_ranges_are_refused() {
    let (error, _) = refused(|asked, _| match range(asked) {
        None => Reply::new(200, Body::Cut(layer()[..1000].to_vec())).header("content-length", layer().len()),
        Some(_) => Reply::new(206, Body::Whole(layer()[999..].to_vec()))
            .header("content-range", "bytes 999-299999/300000"),
    })
    .await;
    says(&error, &["against the protocol: bytes 999 to 299999, wanted 1000 to 299999"]);
}

#[tokio::test]
async fn web_pages_are_no_blobs_and_no_manifests() {
    let page =
        || Reply::ok("<!DOCTYPE html><html>Log in</html>").header("content-type", "text/html; charset=utf-8");
    let (error, asked) = refused(move |_, _| page()).await;
    says(&error, &["answered blob `sha256:", "with an HTML page (status 200), wanted a blob"]);
    assert_eq!(asked.len(), 1, "a page does not become a blob by asking again");
    let (error, cause, count) = manifest(move |_, _| page()).await;
    says(&error, &["with an HTML page (status 200), wanted a manifest"]);
    assert!(cause.hint().unwrap().contains("login page"), "{:?}", cause.hint());
    assert_eq!(count, 1);
    let (error, ..) =
        manifest(|_, _| Reply::ok(" <html>").header("content-type", media_type::OCI_MANIFEST)).await;
    says(&error, &["with an HTML page (status 200)"]);
}

#[tokio::test]
async fn wrong_digests_are_refused() {
    let (error, cause, count) =
        manifest(|_, _| Reply::ok(manifest_of(b"x")).header("docker-content-digest", Digest::of(b"another")))
            .await;
    let (got, wanted) = (Digest::of(&manifest_of(b"x")), Digest::of(b"another"));
    assert_eq!(
        error,
        format!("image `HOST/shop/web:1` from `HOST/shop/web` has digest `{got}`, wanted `{wanted}`")
    );
    assert_eq!((cause.class(), count), (ErrorClass::Refused, 1));

    let liar = Liar::start(|_, _| Reply::ok(manifest_of(b"x")));
    let pinned = image(&liar).at_digest(Digest::of(b"pinned"));
    let error = registry(|_| {}).manifest(&pinned).await.unwrap_err().to_string();
    says(&error, &[&format!("has digest `{got}`, wanted `{}`", Digest::of(b"pinned"))]);
}

#[tokio::test]
async fn wrong_lengths_are_refused() {
    let (error, asked) = refused(|_, _| Reply::ok("short")).await;
    says(&error, &["from `HOST`", "has 5 bytes, wanted 300000 bytes"]);
    assert_eq!(asked.len(), 1);
    let (error, _) = refused(|_, _| Reply::ok([layer(), layer()].concat())).await;
    says(&error, &["has 600000 bytes, wanted 300000 bytes"]);
    // Without a length, only the bytes tell.
    let (error, _) = refused(|_, _| Reply::ok([layer(), vec![0]].concat()).without("content-length")).await;
    says(&error, &["goes on after 300000 bytes, wanted 300000 bytes"]);
    let (error, asked) = refused(|_, _| Reply::ok(&layer()[..100]).without("content-length")).await;
    says(&error, &["ends after 100 bytes, wanted 300000 bytes"]);
    assert_eq!(asked.len(), 3, "a short body may be a broken connection");
}

#[tokio::test]
async fn endless_bodies_end() {
    let (error, _) = refused(|_, _| Reply::new(200, Body::Endless)).await;
    says(&error, &["goes on after 300000 bytes"]);
    let (error, ..) = manifest(|_, _| Reply::new(200, Body::Endless)).await;
    assert_eq!(error, "image `HOST/shop/web:1` from `HOST` is larger than 4194304 bytes");
    let (error, ..) = manifest(|_, _| Reply::new(500, Body::Endless)).await;
    says(&error, &["with 500 Internal Server Error"]);
}

#[tokio::test]
async fn huge_manifests_are_refused_by_their_length() {
    let (error, cause, count) =
        manifest(|_, _| Reply::ok("x").header("content-length", 5_000_000_000_u64)).await;
    says(&error, &["is larger than 4194304 bytes"]);
    assert_eq!((cause.class(), count), (ErrorClass::Failed, 1));
}

#[tokio::test]
async fn slow_registries_are_given_up() {
    let began = Instant::now();
    let (error, asked) = refused(|_, _| {
        Reply::new(200, Body::Drip(layer(), Duration::from_millis(10)))
            .header("content-length", layer().len())
    })
    .await;
    says(&error, &["`HOST` stalled while sending blob `sha256:", "wanted at least 1024"]);
    assert_eq!(asked.len(), 3);
    let (error, ..) =
        manifest(|_, _| Reply::new(200, Body::Drip(manifest_of(b"x"), Duration::from_millis(50)))).await;
    says(&error, &["stalled while sending image `HOST/shop/web:1`"]);
    let (error, _) = refused(|_, _| {
        Reply::new(200, Body::Silence(Duration::from_mins(1))).header("content-length", layer().len())
    })
    .await;
    says(&error, &["stalled", "0 bytes in"]);
    assert!(began.elapsed() < Duration::from_secs(50), "{:?}", began.elapsed());
}

#[tokio::test]
async fn busy_registries_are_asked_again() {
    let liar = Liar::start(|_, before| match before {
        0 => Reply::new(429, Body::Whole(b"slow down".to_vec())).header("retry-after", "1"),
        1 => Reply::new(500, Body::Whole(Vec::new())),
        _ => Reply::ok(manifest_of(b"x")),
    });
    let began = Instant::now();
    let found = registry(|_| {}).manifest(&image(&liar)).await.unwrap();
    assert_eq!(found.digest, Digest::of(&manifest_of(b"x")));
    assert_eq!(found.media_type, media_type::OCI_MANIFEST);
    assert!(began.elapsed() >= Duration::from_secs(1), "Retry-After was not honoured: {:?}", began.elapsed());
    assert_eq!(liar.asked().len(), 3);

    let (error, cause, count) = manifest(|_, _| {
        Reply::new(429, Body::Whole(br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"limit"}]}"#.to_vec()))
    })
    .await;
    assert_eq!(
        error,
        "`HOST` answered image `HOST/shop/web:1` with 429 Too Many Requests (TOOMANYREQUESTS: limit)"
    );
    assert_eq!(count, 3);
    assert!(cause.hint().unwrap().contains("limits how much it serves"));
}

#[tokio::test]
async fn what_is_missing_is_incomplete_at_once() {
    let (error, cause, count) = manifest(|_, _| Reply::not_found()).await;
    assert_eq!(
        error,
        "image `HOST/shop/web:1` was not found: `HOST/shop/web` says 404 Not Found (UNKNOWN: nothing here)"
    );
    assert_eq!((cause.class(), count), (ErrorClass::Incomplete, 1));
}

#[tokio::test]
async fn manifests_of_the_first_schema_are_refused_by_name() {
    for body in [r#"{"schemaVersion":1,"fsLayers":[]}"#, "{}"] {
        let (error, ..) = manifest(move |_, _| {
            Reply::ok(body)
                .header("content-type", "application/vnd.docker.distribution.manifest.v1+prettyjws")
        })
        .await;
        says(
            &error,
            &["is a Docker schema 1 manifest (`application/vnd.docker.distribution.manifest.v1+prettyjws`)"],
        );
    }
    let (error, ..) =
        manifest(|_, _| Reply::ok(manifest_of(b"x")).header("content-type", media_type::OCI_INDEX)).await;
    says(&error, &["its source calls it `application/vnd.oci.image.index.v1+json`, and it calls itself"]);
}

/// Credentials for `host`, in a file of their own.
pub fn login(folder: &std::path::Path, host: &str) -> Credentials {
    use base64::Engine as _;
    let path = folder.join("auth.json");
    let auth = base64::engine::general_purpose::STANDARD.encode("user:secret");
    std::fs::write(&path, format!(r#"{{"auths":{{"{host}":{{"auth":"{auth}"}}}}}}"#)).unwrap();
    Credentials::load(CredentialPaths { explicit: Some(path), ..CredentialPaths::default() }).unwrap()
}

#[tokio::test]
async fn redirects_take_no_credentials_with_them() {
    let bytes = layer();
    let content = bytes.clone();
    let other = Liar::start(move |_, _| Reply::ok(content.clone()));
    let target = format!("http://{}/storage/blob?signature=s3cret", other.host());
    let liar = Liar::start(move |asked, _| match asked.header("authorization") {
        None => Reply::new(401, Body::Whole(Vec::new())).header("www-authenticate", "Basic realm=\"x\""),
        Some(_) => Reply::new(307, Body::Whole(Vec::new())).header("location", &target),
    });
    let folder = tempfile::tempdir().unwrap();
    let registry = registry(|options| options.credentials = login(folder.path(), &liar.host()));
    let (got, outcome) = download(&registry, &image(&liar), &entry(&bytes)).await;
    outcome.unwrap();
    assert!(got == bytes, "the bytes differ");
    let asked = liar.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1].header("authorization"), Some("Basic dXNlcjpzZWNyZXQ="));
    let asked = other.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("authorization"), None, "{asked:?}");
    assert!(asked[0].headers.iter().all(|(_, value)| !value.contains("dXNlcjpzZWNyZXQ")), "{asked:?}");
}

#[tokio::test]
async fn redirects_end_and_stay_with_http() {
    let (error, asked) =
        refused(|_, _| Reply::new(302, Body::Whole(Vec::new())).header("location", "/v2/round/and/round"))
            .await;
    says(&error, &["`HOST` redirected blob", "to `http://HOST`: more than 8 redirects"]);
    assert_eq!(asked.len(), 9);
    let (error, _) =
        refused(|_, _| Reply::new(302, Body::Whole(Vec::new())).header("location", "file:///etc/passwd"))
            .await;
    says(&error, &["neither HTTP nor HTTPS"]);
}

#[tokio::test]
async fn tokens_are_asked_for_once_and_again_when_they_end() {
    let tokens = Liar::start(|_, before| Reply::ok(format!(r#"{{"token":"token-{before}"}}"#)));
    let realm = format!("http://{}/token", tokens.host());
    let liar = Liar::start(move |asked, before| {
        let challenge = || {
            Reply::new(401, Body::Whole(Vec::new())).header(
                "www-authenticate",
                format!(r#"Bearer realm="{realm}",service="registry",scope="repository:shop/web:pull,push""#),
            )
        };
        match asked.header("authorization") {
            // The first token ends after one use.
            Some("Bearer token-0") if before <= 1 => Reply::ok(manifest_of(b"x")),
            Some("Bearer token-1") => Reply::ok(manifest_of(b"x")),
            _ => challenge(),
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let registry = registry(|options| options.credentials = login(folder.path(), &liar.host()));
    for _ in 0..3 {
        registry.manifest(&image(&liar)).await.unwrap();
    }
    let sent: Vec<_> =
        liar.asked().iter().map(|a| a.header("authorization").unwrap_or("-").to_owned()).collect();
    assert_eq!(sent, ["-", "Bearer token-0", "Bearer token-0", "Bearer token-1", "Bearer token-1"]);
    let asked = tokens.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0].path, "/token?service=registry&scope=repository%3Ashop%2Fweb%3Apull");
    assert_eq!(asked[0].header("authorization"), Some("Basic dXNlcjpzZWNyZXQ="));
}

#[tokio::test]
async fn refused_credentials_say_where_they_were_looked_for() {
    let challenge = |_: &Asked, _| {
        Reply::new(401, Body::Whole(br#"{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}"#.to_vec()))
            .header("www-authenticate", "Basic realm=\"x\"")
    };
    let (error, cause, _) = manifest(challenge).await;
    says(
        &error,
        &["`HOST` refused image `HOST/shop/web:1`: 401", "were looked for in no file (none was given)"],
    );
    assert_eq!(cause.class(), ErrorClass::Failed);
    says(&cause.hint().unwrap(), &["skopeo login 127.0.0.1:"]);

    let liar = Liar::start(challenge);
    let folder = tempfile::tempdir().unwrap();
    let registry = registry(|options| options.credentials = login(folder.path(), &liar.host()));
    let error = registry.manifest(&image(&liar)).await.unwrap_err().to_string();
    says(&error, &["401 Unauthorized", "auth.json` (found there)"]);
    assert!(!error.contains("secret"), "{error}");

    let (error, ..) = manifest(|_, _| Reply::new(403, Body::Whole(Vec::new()))).await;
    says(&error, &["403 Forbidden", "credentials for `HOST/shop/web` were looked for"]);
}

#[tokio::test]
async fn nobody_listens() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let image: ImageRef = format!("127.0.0.1:{port}/shop/web:1").parse().unwrap();
    let error = registry(|_| {}).manifest(&image).await.unwrap_err();
    says(&error.to_string(), &["no answer from `127.0.0.1:", "over https: ", "over http: ", "refused"]);
    assert_eq!(error.class(), ErrorClass::Failed);
}

/// A small registry of one image that answers everything well.
fn honest(layer: Vec<u8>) -> impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static {
    move |asked, _| {
        let manifest = manifest_of(&layer);
        match asked.path.rsplit('/').next().unwrap() {
            "1" => Reply::ok(manifest).header("content-type", media_type::OCI_MANIFEST),
            name if name == Digest::of(&manifest).to_string() && asked.path.contains("/manifests/") => {
                Reply::ok(manifest).header("content-type", media_type::OCI_MANIFEST)
            }
            name if name == Digest::of(&layer).to_string() => Reply::ok(layer.clone()),
            _ => Reply::not_found(),
        }
    }
}

fn mirrored(folder: &std::path::Path, mirrors: &[&Liar], location: &Liar) -> RegistriesConf {
    let path = folder.join("registries.conf");
    let mut text =
        format!("[[registry]]\nprefix = \"shop.example.com\"\nlocation = \"{}\"\n", location.host());
    for mirror in mirrors {
        write!(text, "[[registry.mirror]]\nlocation = \"{}/mirror\"\n", mirror.host()).unwrap();
    }
    std::fs::write(&path, text).unwrap();
    RegistriesConf::load(&[path], &[]).unwrap()
}

async fn resolved(registry: Registry, image: &str) -> Result<ResolvedImage, OciError> {
    resolve(&Sources::new(vec![Arc::new(registry)]), &image.parse().unwrap(), Extent::default(), &Silent)
        .await
}

#[tokio::test]
async fn a_download_goes_on_at_the_next_place() {
    let bytes = layer();
    let content = bytes.clone();
    let broken = Liar::start(move |asked, _| {
        if !asked.path.starts_with("/v2/mirror/web/blobs/") {
            return Reply::not_found();
        }
        let from = range(asked).unwrap_or(0);
        let upto = (from + 50_000).min(content.len());
        let body = Body::Cut(content[from..upto].to_vec());
        match from {
            0 => Reply::new(200, body).header("content-length", content.len()),
            _ => Reply::new(206, body)
                .header("content-length", content.len() - from)
                .header("content-range", format!("bytes {from}-{}/{}", content.len() - 1, content.len())),
        }
    });
    let good = Liar::start(honest(bytes.clone()));
    let folder = tempfile::tempdir().unwrap();
    let conf = mirrored(folder.path(), &[&broken], &good);
    let registry = registry(|options| options.registries = conf);
    let image = "shop.example.com/web:1".parse().unwrap();
    let (got, outcome) = download(&registry, &image, &entry(&bytes)).await;
    assert_eq!(outcome.unwrap().from, format!("{}/web", good.host()));
    assert!(got == bytes, "the bytes differ");
    assert_eq!(good.asked()[0].header("range"), Some("bytes=100000-"));
}

#[tokio::test]
async fn every_place_has_its_say_when_all_fail() {
    let missing = Liar::start(|_, _| Reply::not_found());
    let page = Liar::start(|_, _| Reply::ok("<html>").header("content-type", "text/html"));
    let denied = Liar::start(|_, _| Reply::new(403, Body::Whole(Vec::new())));
    let folder = tempfile::tempdir().unwrap();
    let conf = mirrored(folder.path(), &[&missing, &page], &denied);
    let registry = registry(|options| options.registries = conf);
    let error = resolved(registry, "shop.example.com/web:1").await.unwrap_err().to_string();
    says(
        &error,
        &[
            "image `shop.example.com/web:1` could not be had: mirror `",
            "404 Not Found",
            "with an HTML page",
            "403 Forbidden",
        ],
    );
}

#[tokio::test]
async fn a_dead_mirror_is_waited_for_once() {
    let dead = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let good = Liar::start(honest(layer()));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("registries.conf");
    let text = format!(
        "[[registry]]\nprefix = \"shop.example.com\"\nlocation = \"{}\"\n[[registry.mirror]]\nlocation = \"{dead}\"\n",
        good.host()
    );
    std::fs::write(&path, text).unwrap();
    let conf = RegistriesConf::load(&[path], &[]).unwrap();
    let notes = Arc::new(Notes::default());
    let registry = registry(|options| {
        options.registries = conf;
        options.progress = Arc::clone(&notes) as Arc<dyn Progress>;
    });
    let found = resolved(registry, "shop.example.com/web:1").await.unwrap();
    assert_eq!(found.layers, [entry(&layer())]);
    assert_eq!(found.entry.referrers, []);
    // Resolving asks some eight times.
    let lines = notes.lines();
    assert_eq!(lines.iter().filter(|line| line.contains("attempt 2 of 2")).count(), 1, "{lines:#?}");
    assert_eq!(lines.iter().filter(|line| line.contains("; asking `")).count(), 1, "{lines:#?}");
}

#[tokio::test]
async fn blocked_images_are_not_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("registries.conf");
    std::fs::write(&path, "[[registry]]\nprefix = \"shop.example.com/bad\"\nblocked = true\n").unwrap();
    let conf = RegistriesConf::load(&[path], &[]).unwrap();
    let registry = registry(|options| options.registries = conf);
    let error = resolved(registry, "shop.example.com/bad/web:1").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "`shop.example.com/bad/web:1` is blocked: the registries configuration has `blocked = true` for `shop.example.com/bad`"
    );
}
