//! Images at real places: docker-registry, layouts and archives that skopeo wrote, signatures that
//! cosign made.

use std::path::Path;
use std::sync::Arc;

use fleetpack::model::progress::Silent;
use fleetpack::model::{ErrorClass, ImageRef, Progress, media_type};
use fleetpack::oci::{
    BlobSource, CredentialPaths, Credentials, Extent, RegistriesConf, Registry, RegistryOptions, Sources,
    fetch, resolve,
};

use crate::support::command::{program, run};
use crate::support::images::{fetch_all, of_registry, shape, take, texts};
use crate::support::liar::Notes;
use crate::support::testbed::{self, script, tool};

#[tokio::test]
async fn indexes_whole_and_sparse() {
    let folder = tempfile::tempdir().unwrap();
    let registry = testbed::Registry::up(&folder.path().join("registry"), &[]);
    let name = "registry.example.com/shop/web:1";
    let digest = registry.image(name, &["--platform", "linux/amd64,linux/arm64", "--file", "a=b"]);
    let sources = of_registry(&registry, folder.path());

    let whole = take(&sources, name, &[]).await.unwrap();
    assert_eq!(whole.entry.digest.to_string(), digest);
    assert_eq!(whole.entry.media_type, media_type::OCI_INDEX);
    assert_eq!(texts(&whole.entry.platforms), ["linux/amd64", "linux/arm64"]);
    assert_eq!(
        (whole.manifests.len(), whole.configs.len(), whole.layers.len()),
        (3, 2, 2),
        "layers are shared"
    );
    assert!(whole.entry.absent.is_empty() && whole.entry.referrers.is_empty());
    fetch_all(&whole).await;

    let sparse = take(&sources, name, &["linux/arm64"]).await.unwrap();
    assert_eq!(sparse.entry.digest.to_string(), digest, "a sparse index keeps its digest");
    assert_eq!(texts(&sparse.entry.platforms), ["linux/arm64"]);
    assert_eq!((sparse.manifests.len(), sparse.entry.absent.len()), (2, 1));
    assert_eq!(sparse.entry.absent[0].platform, Some("linux/amd64".parse().unwrap()));

    let again = take(&sources, &format!("registry.example.com/shop/web:old@{digest}"), &[]).await.unwrap();
    assert_eq!(again.entry.reference.tag(), Some("old"), "the digest decides and the tag is kept");
    assert_eq!(shape(&again), shape(&whole));

    let error = take(&sources, name, &["linux/amd64", "linux/s390x"]).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("`{name}` has no platform `linux/s390x`, it has `linux/amd64`, `linux/arm64`")
    );
    assert_eq!(error.class(), ErrorClass::Incomplete);
    let error = take(&sources, "registry.example.com/shop/web:2", &[]).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Incomplete);
    assert!(error.to_string().contains("web:2` was not found: `127.0.0.1:"), "{error}");
    assert!(error.to_string().contains("MANIFEST_UNKNOWN"), "{error}");
}

#[tokio::test]
async fn docker_images_and_zstd_layers() {
    let folder = tempfile::tempdir().unwrap();
    let registry = testbed::Registry::up(&folder.path().join("registry"), &[]);
    let docker = registry.image("registry.example.com/web:1", &["--format", "docker"]);
    let list = registry.image(
        "registry.example.com/web:2",
        &["--format", "docker", "--platform", "linux/amd64,linux/arm/v7"],
    );
    let zstd = registry.image("registry.example.com/zstd:1", &["--compression", "zstd"]);
    let sources = of_registry(&registry, folder.path());

    let found = take(&sources, "registry.example.com/web:1", &["linux/amd64"]).await.unwrap();
    assert_eq!(
        (found.entry.digest.to_string(), found.entry.media_type.as_str()),
        (docker, media_type::DOCKER_MANIFEST)
    );
    assert_eq!(texts(&found.entry.platforms), ["linux/amd64"]);
    assert!(found.inline.contains_key(&found.configs[0].digest), "the config was read for its platform");
    fetch_all(&found).await;
    let error = take(&sources, "registry.example.com/web:1", &["linux/arm64"]).await.unwrap_err().to_string();
    assert_eq!(error, "`registry.example.com/web:1` has no platform `linux/arm64`, it has `linux/amd64`");

    let found = take(&sources, "registry.example.com/web:2", &["linux/arm/v7"]).await.unwrap();
    assert_eq!(
        (found.entry.digest.to_string(), found.entry.media_type.as_str()),
        (list, media_type::DOCKER_LIST)
    );
    assert_eq!(texts(&found.entry.platforms), ["linux/arm/v7"]);

    let found = take(&sources, "registry.example.com/zstd:1", &[]).await.unwrap();
    assert_eq!(found.entry.digest.to_string(), zstd);
    assert!(found.layers.iter().all(|layer| layer.media_type.ends_with("+zstd")), "{:?}", found.layers);
    fetch_all(&found).await;
}

#[tokio::test]
async fn logins() {
    let folder = tempfile::tempdir().unwrap();
    let registry = testbed::Registry::up(&folder.path().join("registry"), &["--htpasswd", "carrier:s3cret"]);
    let name = format!("{}/registry.example.com/shop/web:1", registry.address);
    let digest = registry.image("registry.example.com/shop/web:1", &["--login", "carrier:s3cret"]);

    let error =
        take(&Sources::new(vec![Arc::new(Registry::new(RegistryOptions::default()))]), &name, &[]).await;
    let error = error.unwrap_err();
    assert!(error.to_string().contains("looked for in no file (none was given)"), "{error}");
    assert_eq!(error.class(), ErrorClass::Failed);

    // The file that the real skopeo writes, under a key with the repository's path.
    let file = folder.path().join("auth.json");
    let key = format!("{}/registry.example.com/shop", registry.address);
    for (password, fits) in [("wrong", false), ("s3cret", true)] {
        use base64::Engine as _;
        let auth = base64::engine::general_purpose::STANDARD.encode(format!("carrier:{password}"));
        if fits {
            run(tool("skopeo", folder.path())
                .args(["login", "--tls-verify=false", "--authfile"])
                .arg(&file)
                .args(["--username", "carrier", "--password", password, &key]))
            .ok();
            assert!(std::fs::read_to_string(&file).unwrap().contains(&auth));
        } else {
            std::fs::write(&file, format!(r#"{{"auths":{{"{key}":{{"auth":"{auth}"}}}}}}"#)).unwrap();
        }
        let paths = CredentialPaths { explicit: Some(file.clone()), ..CredentialPaths::default() };
        let options =
            RegistryOptions { credentials: Credentials::load(paths).unwrap(), ..RegistryOptions::default() };
        let outcome = take(&Sources::new(vec![Arc::new(Registry::new(options))]), &name, &[]).await;
        if fits {
            let found = outcome.unwrap();
            assert_eq!(found.entry.digest.to_string(), digest);
            fetch_all(&found).await;
        } else {
            let error = outcome.unwrap_err().to_string();
            assert!(
                error.contains("401 Unauthorized") && error.contains("auth.json` (found there)"),
                "{error}"
            );
            assert!(!error.contains("wrong"), "{error}");
        }
    }
}

#[tokio::test]
async fn signatures_in_both_forms_travel() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    let registry = testbed::Registry::up(&home.join("registry"), &[]);
    let name = "registry.example.com/shop/web:1";
    let digest = registry.image(name, &["--platform", "linux/amd64,linux/arm64"]);
    let at = format!("{}/registry.example.com/shop/web@{digest}", registry.address);
    // Signing with a key needs nobody else; a dead proxy makes sure that nobody else is asked.
    let cosign = |version: &str, arguments: &[&str]| {
        run(tool(version, home).current_dir(home).env("HTTPS_PROXY", "http://127.0.0.1:1").args(arguments))
            .ok()
    };
    cosign("cosign2", &["generate-key-pair"]);
    let common = ["--key", "cosign.key", "--allow-http-registry", "--yes"];
    cosign("cosign2", &[&["sign", "--tlog-upload=false", "--recursive"], &common[..], &[&at]].concat());
    std::fs::write(
        home.join("empty.json"),
        r#"{"mediaType":"application/vnd.dev.sigstore.signingconfig.v0.2+json"}"#,
    )
    .unwrap();
    cosign("cosign3", &[&["sign", "--signing-config", "empty.json"], &common[..], &[&at]].concat());

    let sources = of_registry(&registry, home);
    let found = take(&sources, name, &["linux/amd64"]).await.unwrap();
    let child = found.manifests[1].digest;
    let referrers = &found.entry.referrers;
    assert_eq!(referrers.len(), 3, "{referrers:#?}");
    let index_tag = format!("sha256-{}.sig", found.entry.digest.hex());
    let child_tag = format!("sha256-{}.sig", child.hex());
    // First those of the index, sorted by digest, then that of the child that is carried.
    assert!(referrers[..2].iter().all(|entry| entry.subject == found.entry.digest));
    assert!(referrers[0].digest < referrers[1].digest);
    assert_eq!((referrers[2].subject, referrers[2].tag.as_deref()), (child, Some(child_tag.as_str())));
    let old: Vec<_> = referrers[..2].iter().filter(|entry| entry.tag.as_ref() == Some(&index_tag)).collect();
    let new: Vec<_> = referrers[..2].iter().filter(|entry| entry.tag.is_none()).collect();
    assert_eq!((old.len(), new.len()), (1, 1));
    // The list in the registry calls it `application/vnd.oci.empty.v1+json`; its manifest knows better.
    assert_eq!(new[0].artifact_type.as_deref(), Some(media_type::SIGSTORE_BUNDLE));
    for entry in referrers {
        assert!(found.manifests.iter().any(|manifest| manifest.digest == entry.digest));
    }
    fetch_all(&found).await;
    // The same again, whatever answered first.
    let again = take(&sources, name, &["linux/amd64"]).await.unwrap();
    assert_eq!((&again.entry, shape(&again)), (&found.entry, shape(&found)));
}

#[tokio::test]
async fn mirrors_serve_what_they_have() {
    let folder = tempfile::tempdir().unwrap();
    let mirror = testbed::Registry::up(&folder.path().join("mirror"), &[]);
    let origin = testbed::Registry::up(&folder.path().join("origin"), &[]);
    let one = mirror.image("registry.example.com/shop/web:1", &["--file", "from=mirror"]);
    origin.image("registry.example.com/shop/web:1", &["--file", "from=origin"]);
    let two = origin.image("registry.example.com/shop/web:2", &["--file", "from=origin"]);
    let conf = folder.path().join("registries.conf");
    std::fs::write(
        &conf,
        format!(
            "[[registry]]\nprefix = \"registry.example.com\"\nlocation = \"{}/registry.example.com\"\ninsecure = true\n\
             [[registry.mirror]]\nlocation = \"{}/registry.example.com\"\ninsecure = true\n",
            origin.address, mirror.address
        ),
    )
    .unwrap();
    let options = || RegistryOptions {
        registries: RegistriesConf::load(std::slice::from_ref(&conf), &[]).unwrap(),
        ..RegistryOptions::default()
    };
    let sources = Sources::new(vec![Arc::new(Registry::new(options()))]);
    for (tag, digest) in [("1", &one), ("2", &two)] {
        let name = format!("registry.example.com/shop/web:{tag}");
        let found = take(&sources, &name, &[]).await.unwrap();
        assert_eq!(found.entry.digest.to_string(), *digest);
        fetch_all(&found).await;
        // The real skopeo reads the same file in the same way.
        let seen = run(tool("skopeo", folder.path())
            .args(["--registries-conf".as_ref(), conf.as_os_str()])
            .args(["inspect", "--no-tags", "--format", "{{.Digest}}", &format!("docker://{name}")]))
        .ok();
        assert_eq!(seen.stdout.trim(), digest);
    }
    // The origin is off: what the mirror has is still there.
    origin.down();
    let sources = Sources::new(vec![Arc::new(Registry::new(options()))]);
    let found = take(&sources, "registry.example.com/shop/web:1", &[]).await.unwrap();
    assert_eq!(found.entry.digest.to_string(), one);
    fetch_all(&found).await;
}

#[tokio::test]
async fn many_images_at_once_come_out_as_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let registry = testbed::Registry::up(&folder.path().join("registry"), &[]);
    let names: Vec<String> = (0..6).map(|n| format!("registry.example.com/shop/svc{n}:1")).collect();
    for (n, name) in names.iter().enumerate() {
        registry.image(name, &["--file", &format!("n={n}"), "--platform", "linux/amd64,linux/arm64"]);
    }
    let sources = of_registry(&registry, folder.path());
    let images: Vec<ImageRef> = names.iter().map(|name| name.parse().unwrap()).collect();
    let together = futures_util::future::join_all(
        images.iter().map(|image| resolve(&sources, image, Extent::default(), &Silent)),
    )
    .await;
    for (name, found) in names.iter().zip(together) {
        let alone = take(&of_registry(&registry, folder.path()), name, &[]).await.unwrap();
        assert_eq!(shape(&found.unwrap()), shape(&alone));
    }
}

/// A real registry behind TLS, with an authority of its own. It listens on loopback, but is asked
/// for at `0.0.0.0`, which leads there and is no name of this machine: nothing is allowed it.
struct TlsRegistry {
    child: std::process::Child,
    host: String,
}

impl TlsRegistry {
    fn up(folder: &Path) -> Self {
        let openssl = |arguments: &str| {
            run(program("openssl", folder).current_dir(folder).args(arguments.split(' '))).ok();
        };
        openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt -subj /CN=authority -days 30",
        );
        openssl(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout tls.key -out tls.csr -subj /CN=registry",
        );
        std::fs::write(folder.join("ext"), "subjectAltName=IP:0.0.0.0\n").unwrap();
        openssl(
            "x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out tls.crt -days 30 -extfile ext",
        );
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {0}/data}}\n\
             middleware:\n  storage:\n  - name: redirect\n    options: {{baseurl: 'http://0.0.0.0:{port}/'}}\n\
             http: {{addr: '127.0.0.1:{port}', secret: x, tls: {{certificate: {0}/tls.crt, key: {0}/tls.key}}}}\n",
            folder.display()
        );
        std::fs::write(folder.join("config.yml"), config).unwrap();
        let child = tool("docker-registry", folder)
            .arg("serve")
            .arg(folder.join("config.yml"))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        for _ in 0..200 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Self { child, host: format!("0.0.0.0:{port}") }
    }
}

impl Drop for TlsRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn certificates_are_checked_and_tls_is_not_left() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    let registry = TlsRegistry::up(home);
    let layout = home.join("layout");
    let name = "registry.example.com/shop/web:1";
    let digest = run(script("image").args(["make", "--name", name, "--oci"]).arg(&layout))
        .ok()
        .stdout
        .trim()
        .to_owned();
    let image = format!("{}/shop/web:1", registry.host);
    run(tool("skopeo", home).args([
        "copy",
        "--quiet",
        "--dest-tls-verify=false",
        &format!("oci:{}:{name}", layout.display()),
        &format!("docker://{image}"),
    ]))
    .ok();
    let certs = home.join("certs.d");
    let client = |change: &dyn Fn(&mut RegistryOptions)| {
        let mut options = RegistryOptions::default();
        change(&mut options);
        Registry::new(options)
    };
    let image: ImageRef = image.parse().unwrap();

    // An authority that nobody knows: refused, and not tried again.
    let notes = Arc::new(Notes::default());
    let strict = client(&|options| options.progress = Arc::clone(&notes) as Arc<dyn Progress>);
    let error = strict.manifest(&image).await.unwrap_err().to_string();
    assert!(error.contains("invalid peer certificate"), "{error}");
    assert_eq!(notes.lines(), [""; 0]);

    // The same authority in certs.d.
    std::fs::create_dir_all(certs.join(&registry.host)).unwrap();
    std::fs::copy(home.join("ca.crt"), certs.join(&registry.host).join("ca.crt")).unwrap();
    let trusting = client(&|options| options.certs_dirs = vec![home.join("nowhere"), certs.clone()]);
    let manifest = trusting.manifest(&image).await.unwrap();
    assert_eq!(manifest.digest.to_string(), digest);

    // This registry redirects its blobs to plain HTTP.
    let fleetpack::oci::Content::Image { layers, .. } = manifest.read().unwrap().content else { panic!() };
    let error = fetch(&trusting, &image, &layers[0].entry(), &mut |_| Ok(())).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "`{0}` redirected blob `{1}` of `{image}` to `http://{0}`: from TLS to plain HTTP",
            registry.host, layers[0].digest
        )
    );

    // `insecure = true` takes any certificate.
    let conf = home.join("registries.conf");
    std::fs::write(&conf, format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", registry.host))
        .unwrap();
    let careless = client(&|options| {
        options.registries = RegistriesConf::load(std::slice::from_ref(&conf), &[]).unwrap();
    });
    assert_eq!(careless.manifest(&image).await.unwrap().digest.to_string(), digest);
}
