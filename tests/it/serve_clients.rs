//! The real clients against a server that speaks TLS by the site's own authority and asks for
//! passwords: each knows the authority and the password in its own way.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::command::{Ended, program, run};
use crate::support::ctr::Ctr;
use crate::support::depot::Server;
use crate::support::root::is_root;
use crate::support::served::{BULK, BULK_SIZE, SIGNED, Site};
use crate::support::testbed::{testbed, tool};

const LOGIN: &str = "node:sec:ret";

/// A site whose server is closed to strangers.
struct Closed {
    site: Site,
    server: Server,
    /// Where clients find what the nodes would have.
    home: PathBuf,
    authority: PathBuf,
}

fn htpasswd(path: &Path, login: &str) {
    let (user, password) = login.split_once(':').unwrap();
    let hash = bcrypt::hash(password, 5).unwrap().replacen("$2b$", "$2y$", 1);
    fs::write(path, format!("{user}:{hash}\n")).unwrap();
}

impl Closed {
    fn new(folder: &Path) -> Self {
        let site = Site::new(folder);
        let archive = site.build("v1", &[]);
        htpasswd(&folder.join("htpasswd"), LOGIN);
        let mut command = site.shop.fleetpack();
        command.args(["serve", "--listen", "127.0.0.1:0", "--store", "store", "--htpasswd", "htpasswd"]);
        let server = Server::start(
            command.args(["--tls-self-signed", "--log-format", "json"]),
            &folder.join("serve.log"),
        );
        assert!(server.endpoint.starts_with("https://127.0.0.1:"), "{}", server.endpoint);
        // The gate of `apply` goes through TLS and the passwords as well.
        site.seed(&archive);
        let authority = folder.join("store/serve/ca.crt");
        let home = folder.join("home");
        fs::create_dir_all(home.join(".config/containers")).unwrap();
        fs::write(
            home.join(".config/containers/policy.json"),
            r#"{"default":[{"type":"insecureAcceptAnything"}]}"#,
        )
        .unwrap();
        fs::write(
            home.join("config.json"),
            json!({ "auths": { server.host(): { "auth": STANDARD.encode(LOGIN) } } }).to_string(),
        )
        .unwrap();
        Self { site, server, home, authority }
    }

    /// A client that finds the authority and the password where Go's and Docker's clients look.
    fn client(&self, name: &str) -> Command {
        let mut command = tool(name, &self.home);
        command.env("SSL_CERT_FILE", &self.authority).env("DOCKER_CONFIG", &self.home);
        command
    }

    fn image(&self, reference: &str) -> String {
        format!("{}/{reference}", self.server.host())
    }

    fn curl(&self, path: &str, arguments: &[&str]) -> Ended {
        let mut command = program("curl", &self.home);
        command.args(["--silent", "--show-error", "--include", "--cacert"]).arg(&self.authority);
        run(command.args(arguments).arg(format!("{}{path}", self.server.endpoint)))
    }
}

#[test]
fn clients_pull_and_clone_through_tls_with_a_password() {
    testbed(&["peers", "podman", "gogit"]);
    let folder = tempfile::tempdir().unwrap();
    let closed = Closed::new(folder.path());
    let Closed { site, server, home, authority } = &closed;
    strangers(&closed);
    let digest = site.digest(SIGNED);

    // skopeo, with a folder of certificates and a login of its own.
    let certificates = home.join("certs");
    fs::create_dir(&certificates).unwrap();
    fs::copy(authority, certificates.join("ca.crt")).unwrap();
    let certificates = certificates.to_str().unwrap();
    let name = format!("docker://{}", closed.image(SIGNED));
    let login = ["--cert-dir", certificates, "--creds", LOGIN];
    let found = run(tool("skopeo", home).arg("inspect").args(login).arg(&name)).ok().json();
    assert_eq!(found["Digest"].as_str(), Some(digest));
    let copy = format!("oci:{}", home.join("skopeo").display());
    let login = ["--src-cert-dir", certificates, "--src-creds", LOGIN];
    run(tool("skopeo", home).args(["copy", "--quiet"]).args(login).args([&name, &copy])).ok();

    // crane and oras.
    let crane = |arguments: &[&str]| run(closed.client("crane").args(arguments));
    assert_eq!(crane(&["digest", &closed.image(SIGNED)]).ok().stdout.trim(), digest);
    let bulk = home.join("bulk");
    crane(&["export", &closed.image(BULK), bulk.to_str().unwrap()]).ok();
    assert!(fs::metadata(&bulk).unwrap().len() > BULK_SIZE as u64);
    let rendered = closed.image("fleetpack/shop:v1");
    let into = home.join("rendered");
    run(closed.client("oras").args(["pull", "--output"]).arg(into).arg(rendered)).ok();
    let found = run(closed.client("oras").args(["discover", "--format", "json", &closed.image(SIGNED)])).ok();
    assert!(found.stdout.contains("application/vnd.dev.sigstore.bundle.v0.3+json"), "{}", found.stdout);

    // podman and buildah, whose library CRI-O pulls with.
    if is_root() {
        for name in ["podman", "buildah"] {
            let storage = home.join(name);
            let image = closed.image("registry.example.com/shop/api:1.0");
            let mut command = tool(name, home);
            command.args(["--storage-driver", "vfs", "--root"]).arg(storage.join("root"));
            command.arg("--runroot").arg(storage.join("run"));
            run(command.args(["pull", "--cert-dir", certificates, "--creds", LOGIN, &image])).ok();
        }
        containerd(&closed);
    }

    // git and go-git.
    let url = format!("https://{LOGIN}@{}/git/shop.git", server.host()).replace("sec:ret", "sec%3Aret");
    let authority = format!("http.sslCAInfo={}", authority.display());
    for version in ["0", "2"] {
        let to = home.join(format!("git-{version}"));
        let version = format!("protocol.version={version}");
        run(program("git", home).args(["-c", &version, "-c", &authority, "clone", "--quiet", &url]).arg(to))
            .ok();
    }
    run(closed.client("gogit").args(["clone", &url]).arg(home.join("gogit"))).ok();

    // Another password, without a restart; and what the log and the figures say.
    htpasswd(&folder.path().join("htpasswd"), "node:other");
    run(program("kill", home).args(["-HUP", &server.pid().to_string()])).ok();
    let begin = std::time::Instant::now();
    while closed.curl("/v2/", &["--user", "node:other"]).stdout.starts_with("HTTP/1.1 401") {
        assert!(begin.elapsed().as_secs() < 60, "the passwords are not read again");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert!(closed.curl("/v2/", &["--user", LOGIN]).stdout.starts_with("HTTP/1.1 401"));
    let figures = closed.curl("/metrics", &["--user", "node:other"]).ok().stdout;
    for want in [
        "fleetpack_http_requests_total{route=\"blob\",code=\"200\"}",
        "fleetpack_http_requests_total{route=\"base\",code=\"401\"}",
        "fleetpack_tls_certificate_end_timestamp_seconds",
        "fleetpack_content_errors_total 0\n",
    ] {
        assert!(figures.contains(want), "{want} in:\n{figures}");
    }
    let log = fs::read_to_string(folder.path().join("serve.log")).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(
        lines.iter().any(|line| line["user"] == "node" && line["status"] == 200 && line["whole"] == true)
    );
    assert!(lines.iter().any(|line| line["user"] == "fleetpack-site"), "the gate");
    assert!(!log.contains("sec:ret") && !log.contains("other"), "passwords are in the log");
}

/// Who has no password, no authority or no TLS.
fn strangers(closed: &Closed) {
    let refused = closed.curl("/v2/", &[]).ok().stdout;
    assert!(refused.starts_with("HTTP/1.1 401") && refused.contains("UNAUTHORIZED"), "{refused}");
    assert!(refused.to_lowercase().contains("www-authenticate: basic realm=\"fleetpack\""), "{refused}");
    for path in ["/metrics", "/", "/git/shop.git/info/refs?service=git-upload-pack", "/v2/_catalog"] {
        for login in [&[][..], &["--user", "node:wrong"], &["--user", "nobody:x"]] {
            let refused = closed.curl(path, login).ok().stdout;
            assert!(refused.starts_with("HTTP/1.1 401"), "{path} {login:?}: {refused}");
        }
    }
    assert!(closed.curl("/healthz", &[]).ok().stdout.starts_with("HTTP/1.1 200"));
    // Without the authority there is no connection, and in the clear there is no answer.
    let blind = run(program("curl", &closed.home).args(["--silent", &closed.server.endpoint]));
    assert_eq!(blind.code, 60, "{}", blind.stderr);
    let clear = format!("http://{}/v2/", closed.server.host());
    assert_ne!(run(program("curl", &closed.home).args(["--silent", &clear])).code, 0);
    let seen = run(tool("skopeo", &closed.home).args([
        "inspect",
        "--tls-verify=false",
        &format!("docker://{}", closed.image(SIGNED)),
    ]));
    assert_ne!(seen.code, 0);
    // Passwords never leave loopback in the clear by mistake.
    let mut command = closed.site.shop.fleetpack();
    command.args(["serve", "--listen", "0.0.0.0:0", "--store", "store", "--htpasswd", "htpasswd"]);
    run(&mut command).refused(2, &["in the clear", "--tls-self-signed", "--plaintext-passwords"]);
}

/// containerd, which knows the authority by hosts.toml.
fn containerd(closed: &Closed) {
    let endpoint = &closed.server.endpoint;
    let hosts = closed.home.join("certs.d/_default");
    fs::create_dir_all(&hosts).unwrap();
    let text = format!(
        "server = \"{endpoint}\"\nca = \"{0}\"\n\n[host.\"{endpoint}\"]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = \"{0}\"\n",
        closed.authority.display()
    );
    fs::write(hosts.join("hosts.toml"), text).unwrap();
    let containerd = Ctr::up(&closed.home);
    let hosts = closed.home.join("certs.d");
    let pull = |more: &[&str]| {
        let common = ["images", "pull", "--local", "--snapshotter", "native", "--hosts-dir"];
        containerd.run(&[&common[..], &[hosts.to_str().unwrap()], more].concat())
    };
    let image = "registry.example.com/shop/agent:1.0";
    assert_ne!(pull(&[image]).code, 0, "without a password");
    pull(&["--user", LOGIN, image]).ok();
}

#[test]
fn a_certificate_from_elsewhere_is_exchanged_while_the_server_runs() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    let make = |name: &str| {
        let arguments = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let subject = format!("/CN={name}");
        let mut command = program("openssl", home);
        command.current_dir(home).args(arguments).args(["-days", "2", "-subj", &subject]);
        command.args(["-addext", "subjectAltName=DNS:registry.site,IP:127.0.0.1"]);
        run(command.args(["-keyout", "new.key", "-out", "new.crt"])).ok();
    };
    let install = || {
        for suffix in ["crt", "key"] {
            fs::rename(home.join(format!("new.{suffix}")), home.join(format!("tls.{suffix}"))).unwrap();
        }
    };
    make("first");
    install();
    let mut command = crate::support::command::fleetpack(home);
    command.current_dir(home).args(["serve", "--listen", "127.0.0.1:0", "--store", "store"]);
    command.args(["--tls-cert", "tls.crt", "--tls-key", "tls.key", "--server-name", "registry.site"]);
    let server = Server::start(&mut command, &home.join("log"));
    assert!(server.endpoint.starts_with("https://registry.site:"), "{}", server.endpoint);
    assert!(fs::read_to_string(home.join("store/serve.json")).unwrap().contains("https://registry.site:"));
    let port = server.endpoint.rsplit(':').next().unwrap().to_owned();
    let subject = || {
        let mut command = program("openssl", home);
        let address = format!("127.0.0.1:{port}");
        command.args(["s_client", "-connect", &address, "-servername", "registry.site", "-brief"]);
        run(&mut command).stderr
    };
    assert!(subject().contains("first"), "{}", subject());
    // A key that does not fit leaves the one before in use; the right pair is taken without a word.
    make("second");
    fs::copy(home.join("new.crt"), home.join("tls.crt")).unwrap();
    run(program("kill", home).args(["-HUP", &server.pid().to_string()])).ok();
    let begin = std::time::Instant::now();
    while !fs::read_to_string(home.join("log")).unwrap().contains("stays as it was") {
        assert!(begin.elapsed().as_secs() < 60);
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(subject().contains("first"), "{}", subject());
    install();
    let begin = std::time::Instant::now();
    while !subject().contains("second") {
        assert!(begin.elapsed().as_secs() < 60, "{}", fs::read_to_string(home.join("log")).unwrap());
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    assert_eq!(server.stop().0, Some(0));
    for (certificate, part) in [("tls.key", "no certificate"), ("absent.crt", "cannot read")] {
        let mut command = crate::support::command::fleetpack(home);
        command.current_dir(home).args(["serve", "--listen", "127.0.0.1:0", "--store", "store"]);
        run(command.args(["--tls-cert", certificate, "--tls-key", "tls.key"])).refused(1, &[part]);
    }
}

#[test]
fn the_unit_is_one_that_systemd_takes_and_finds_closed() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    fs::create_dir(home.join("store")).unwrap();
    let mut command = crate::support::command::fleetpack(home);
    command.current_dir(home).args([
        "serve",
        "--print-systemd-unit",
        "--store",
        "store",
        "--tls-self-signed",
    ]);
    let unit = run(command.args(["--listen", "0.0.0.0:443", "--server-name", "registry.site"])).ok().stdout;
    assert!(unit.contains(&format!("--store={}", home.join("store").display())), "{unit}");
    let path = home.join("fleetpack.service");
    fs::write(&path, &unit).unwrap();
    let analyze = |arguments: &[&str]| {
        let mut command = program("systemd-analyze", home);
        match command.args(arguments).arg(&path).output() {
            Ok(output) => Some(Ended::from(output)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => panic!("{error}"),
        }
    };
    let Some(verified) = analyze(&["verify", "--man=no", "--recursive-errors=no"]) else {
        eprintln!("skipped: systemd-analyze is not there");
        return;
    };
    verified.ok();
    // 0 is closed, 10 is open: "OK" ends at 5, and a service as this one can do better.
    analyze(&["security", "--offline=true", "--threshold=25"]).unwrap().ok();
}
