//! A site without a cluster: a shop whose release holds a signed image and a large one, and what
//! the real clients do with a server of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::command::{Ended, run};
use super::depot::Server;
use super::shop::Shop;

/// The image that both cosigns signed at the upstream registry.
pub const SIGNED: &str = "registry.example.com/shop/web:1.0";
/// An image with one layer of [`BULK_SIZE`] bytes that no compression makes smaller.
pub const BULK: &str = "registry.example.com/shop/bulk:1.0";
/// More than the buffers of a connection take.
pub const BULK_SIZE: usize = 32 << 20;

/// The shop, with what makes a release worth serving.
pub struct Site {
    /// Its parts.
    pub shop: Shop,
    /// Digest of each image, by reference.
    pub bulk: String,
}

impl Site {
    /// Makes one below `folder`.
    #[track_caller]
    pub fn new(folder: &Path) -> Self {
        let shop = Shop::new(folder);
        let tree = folder.join("bulk");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("bulk"), noise(BULK_SIZE)).unwrap();
        let add = format!("{}:/bulk", tree.display());
        let bulk = shop.registry.image(BULK, &["--compression", "none", "--add", &add]);
        let site = Self { shop, bulk };
        site.sign();
        site
    }

    /// Signs with both cosigns, in the old form and in the new one, and asks nobody about it.
    fn sign(&self) {
        let at = format!(
            "{}/{}@{}",
            self.shop.registry.address,
            SIGNED.rsplit_once(':').unwrap().0,
            self.digest(SIGNED)
        );
        let config = r#"{"mediaType":"application/vnd.dev.sigstore.signingconfig.v0.2+json"}"#;
        fs::write(self.shop.folder.join("empty.json"), config).unwrap();
        let root = r#"{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}"#;
        fs::write(self.shop.folder.join("root.json"), root).unwrap();
        self.cosign("cosign2", &["generate-key-pair"]).ok();
        let common = ["--key", "cosign.key", "--allow-http-registry", "--yes", &at];
        self.cosign("cosign2", &[&["sign", "--tlog-upload=false"], &common[..]].concat()).ok();
        self.cosign("cosign3", &[&["sign", "--signing-config", "empty.json"], &common[..]].concat()).ok();
    }

    /// A cosign whose every connection but those on loopback ends at a closed port.
    pub fn cosign(&self, name: &str, arguments: &[&str]) -> Ended {
        let mut command = self.shop.tool(name);
        run(command
            .envs([("HTTPS_PROXY", "http://127.0.0.1:9"), ("HTTP_PROXY", "http://127.0.0.1:9")])
            .args(arguments))
    }

    /// The digest that the upstream registry says.
    pub fn digest(&self, reference: &str) -> &str {
        &self.shop.images.iter().find(|(name, _)| name == reference).unwrap().1
    }

    /// Builds a release with the large image.
    #[track_caller]
    pub fn build(&self, revision: &str, more: &[&str]) -> PathBuf {
        let archive = self.shop.folder.join(format!("{revision}.tar"));
        let mut command = self.shop.fleetpack();
        command.args(["build", "shop", "--revision", revision, "--key", "release.key"]).args(more);
        run(command.args(["--image", BULK, "-o"]).arg(&archive)).ok();
        archive
    }

    /// A server on the store.
    #[track_caller]
    pub fn serve(&self) -> Server {
        let mut command = self.shop.fleetpack();
        command.args(["serve", "--listen", "127.0.0.1:0", "--store", "store"]);
        Server::start(&mut command, &self.shop.folder.join("serve.log"))
    }

    /// A server on an archive.
    #[track_caller]
    pub fn serve_archive(&self, archive: &Path) -> Server {
        let mut command = self.shop.fleetpack();
        command.args(["serve", "--listen", "127.0.0.1:0", "--key", "release.pub", "--archive"]).arg(archive);
        Server::start(&mut command, &self.shop.folder.join("serve-archive.log"))
    }

    /// Puts a release into the store that `serve` serves.
    #[track_caller]
    pub fn seed(&self, archive: &Path) {
        let mut command = self.shop.fleetpack();
        command.args(["apply", "--seed-only", "--key", "release.pub", "--store", "store"]).arg(archive);
        run(&mut command).ok();
    }

    /// A skopeo that finds `registry.example.com` at `host` and nowhere else.
    pub fn skopeo_at(&self, host: &str) -> Command {
        let conf = self.shop.folder.join(format!("{}.conf", host.replace(':', "-")));
        let text = format!(
            "[[registry]]\nprefix = \"registry.example.com\"\nlocation = \"{host}\"\ninsecure = true\n"
        );
        fs::write(&conf, text).unwrap();
        let mut command = self.shop.tool("skopeo");
        command.arg("--registries-conf").arg(conf);
        command
    }

    /// What every client of a registry must be able to do with release `v1` at `host`.
    #[track_caller]
    pub fn clients(&self, host: &str) {
        let folder = tempfile::tempdir_in(&self.shop.folder).unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let used: Vec<_> =
            self.shop.images.iter().filter(|(name, _)| name != "registry.example.com/shop/web:2.0").collect();
        for (reference, digest) in &used {
            // Under its own name through registries.conf, and under the server's.
            let raw = self
                .skopeo_at(host)
                .args(["inspect", "--raw", &format!("docker://{reference}")])
                .output()
                .unwrap();
            assert!(raw.status.success(), "{reference}: {}", String::from_utf8_lossy(&raw.stderr));
            assert_eq!(&fleetpack::model::Digest::of(&raw.stdout).to_string(), digest, "{reference}");
            let name = format!("docker://{host}/{reference}");
            let found =
                run(self.shop.tool("skopeo").args(["inspect", "--tls-verify=false", &name])).ok().json();
            assert_eq!(found["Digest"].as_str(), Some(digest.as_str()), "{reference}");
            let copy = format!("oci:{}", path("skopeo"));
            run(self.skopeo_at(host).args(["copy", "--quiet", &format!("docker://{reference}"), &copy])).ok();
            let crane = |arguments: &[&str]| run(self.shop.tool("crane").args(arguments).arg("--insecure"));
            let at = format!("{host}/{reference}");
            assert_eq!(crane(&["digest", &at]).ok().stdout.trim(), digest);
            crane(&["pull", &at, &path("crane.tar")]).ok();
        }
        let crane = |arguments: &[&str]| {
            let ended = run(self.shop.tool("crane").args(arguments).arg("--insecure")).ok();
            ended.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let tags = crane(&["ls", &format!("{host}/registry.example.com/shop/init")]);
        assert_eq!(tags, ["1.0", "same"]);
        let catalog = crane(&["catalog", host]);
        let want = ["agent", "api", "bulk", "init", "web", "worker"];
        let want = want.iter().map(|name| format!("registry.example.com/shop/{name}"));
        let want: Vec<_> = std::iter::once("fleetpack/shop".to_owned()).chain(want).collect();
        assert_eq!(catalog, want);

        // The large layer, whole.
        let bulk = path("bulk");
        crane(&["export", &format!("{host}/{BULK}"), &bulk]);
        assert!(fs::metadata(&bulk).unwrap().len() > BULK_SIZE as u64);

        // The release itself with its signature, and an image with what refers to it.
        let oras = |arguments: &[&str]| run(self.shop.tool("oras").args(arguments)).ok().stdout;
        let release = format!("{host}/fleetpack/shop:v1-release");
        let found = oras(&["discover", "--plain-http", "--format", "json", &release]);
        assert!(found.contains("application/vnd.dev.sigstore.bundle.v0.3+json"), "{found}");
        oras(&[
            "cp",
            "-r",
            "--from-plain-http",
            &release,
            "--to-oci-layout",
            &format!("{}:r", path("release")),
        ]);
        let signed = format!("{host}/{SIGNED}");
        let found = oras(&["discover", "--plain-http", "--format", "json", &signed]);
        assert!(found.contains("application/vnd.dev.sigstore.bundle.v0.3+json"), "{found}");
        oras(&[
            "cp",
            "-r",
            "--from-plain-http",
            &signed,
            "--to-oci-layout",
            &format!("{}:s", path("signed")),
        ]);
        let rendered = format!("{host}/fleetpack/shop:v1");
        oras(&["pull", "--plain-http", "--output", &path("rendered"), &rendered]);

        // Signatures that were made upstream, in both forms, by the public key alone.
        for (name, more) in [
            ("cosign2", &[][..]),
            ("cosign2", &["--new-bundle-format", "--trusted-root", "root.json"]),
            ("cosign3", &["--new-bundle-format=false"]),
            ("cosign3", &["--trusted-root", "root.json"]),
        ] {
            let verify = |key: &str, image: &str| {
                let common =
                    ["verify", "--key", key, "--insecure-ignore-tlog", "--allow-http-registry", image];
                self.cosign(name, &[&common[..], more].concat())
            };
            verify("cosign.pub", &signed).ok();
            assert_ne!(verify("release.pub", &signed).code, 0, "{name} {more:?}: another key");
            let unsigned = format!("{host}/registry.example.com/shop/api:1.0");
            assert_ne!(verify("cosign.pub", &unsigned).code, 0, "{name} {more:?}: not signed");
        }
    }
}

/// Bytes that look like noise, the same every time.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
