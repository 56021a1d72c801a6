//! What refers to an image crosses with it: real cosign, of both lines, signs and attests at a
//! registry, and verifies at the site against `serve`, by the public key alone and with no network.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use fleetpack::model::media_type;

use crate::support::command::{Ended, fleetpack, program, run};
use crate::support::depot::Server;
use crate::support::layout::{Layout, digest_in, platform};
use crate::support::repository::Repository;
use crate::support::root::is_root;
use crate::support::testbed::{Registry, testbed, tool};

/// The image that everybody signs: an index of two platforms, with BuildKit's attestations.
const IMAGE: &str = "registry.example.com/shop/web:1";

/// A registry with one image and what refers to it, and a repository that runs the image.
struct Signed {
    folder: tempfile::TempDir,
    registry: Registry,
    /// Digests of the index, its two children, and what BuildKit says about each.
    index: String,
    children: [String; 2],
    attestations: [String; 2],
    /// An SBOM that oras attached.
    sbom: String,
}

impl Signed {
    #[track_caller]
    fn new() -> Self {
        testbed(&["peers"]);
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path();
        let registry = Registry::up(&home.join("registry"), &[]);
        registry.configure(home, &["registry.example.com"]);

        let mut layout = Layout::new(&home.join("layout"));
        let layer = |text: &str| layout.blob(media_type::OCI_LAYER_GZIP, text.as_bytes(), "");
        let image = |architecture: &str| {
            let config = format!(r#"{{"os":"linux","architecture":"{architecture}"}}"#);
            layout.image(&[layer(architecture)], &config, &platform(architecture))
        };
        let children = [image("amd64"), image("arm64")];
        let attestations = [layout.attestation(&children[0]), layout.attestation(&children[1])];
        let index = layout.index(&[&children[..], &attestations[..]].concat(), "");
        layout.name(&index, IMAGE);
        let text = |descriptor: &String| digest_in(descriptor).to_string();
        run(tool("skopeo", home).args([
            "copy",
            "--quiet",
            "--all",
            "--preserve-digests",
            "--dest-tls-verify=false",
            &format!("oci:{}:{IMAGE}", home.join("layout").display()),
            &format!("docker://{}/{IMAGE}", registry.address),
        ]))
        .ok();
        let mut signed = Self {
            index: text(&index),
            children: [text(&children[0]), text(&children[1])],
            attestations: [text(&attestations[0]), text(&attestations[1])],
            sbom: String::new(),
            registry,
            folder,
        };
        signed.sign();
        let repository = Repository::init(&signed.path().join("shop"));
        repository.write(
            "pod.yaml",
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec: {{containers: [{{name: web, image: \"{IMAGE}\"}}]}}\n"
            ),
        );
        repository.commit("a pod");
        run(signed.fleetpack().args(["keygen", "--output-key-prefix", "release"])).ok();
        signed
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn fleetpack(&self) -> Command {
        let mut command = fleetpack(self.path());
        command
            .current_dir(self.path())
            .env("CONTAINERS_REGISTRIES_CONF", self.path().join("registries.conf"));
        command
    }

    /// A tool whose every connection but those on loopback ends at a closed port.
    fn tool(&self, name: &str, arguments: &[&str]) -> Ended {
        run(tool(name, self.path())
            .current_dir(self.path())
            .envs([("HTTPS_PROXY", "http://127.0.0.1:9"), ("HTTP_PROXY", "http://127.0.0.1:9")])
            .env("COSIGN_EXPERIMENTAL", "1")
            .args(arguments))
    }

    fn at(&self, digest: &str) -> String {
        format!("{}/registry.example.com/shop/web@{digest}", self.registry.address)
    }

    /// Everything that cosign 2, cosign 3 and oras can hang onto an image.
    #[track_caller]
    fn sign(&mut self) {
        for (name, content) in [
            ("empty.json", r#"{"mediaType":"application/vnd.dev.sigstore.signingconfig.v0.2+json"}"#),
            ("root.json", r#"{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}"#),
            ("predicate.json", r#"{"tested":true}"#),
            ("sbom.json", r#"{"spdxVersion":"SPDX-2.3"}"#),
        ] {
            fs::write(self.path().join(name), content).unwrap();
        }
        self.tool("cosign2", &["generate-key-pair"]).ok();
        self.tool("cosign2", &["generate-key-pair", "--output-key-prefix", "other"]).ok();
        let key = ["--key", "cosign.key", "--allow-http-registry", "--yes"];
        let old = [&key[..], &["--tlog-upload=false"]].concat();
        let new = [&key[..], &["--signing-config", "empty.json"]].concat();
        let image = self.at(&self.index);
        let cosign = |name: &str, verb: &str, more: &[&[&str]], at: &str| {
            self.tool(name, &[&[verb], &more.concat()[..], &[at]].concat()).ok();
        };
        // Cosign 2: by its tags, by the referrers API, and as bundles.
        cosign("cosign2", "sign", &[&old, &["--recursive"]], &image);
        cosign("cosign2", "sign", &[&old, &["--registry-referrers-mode=oci-1-1"]], &image);
        let predicate = ["--type", "custom", "--predicate", "predicate.json"];
        cosign("cosign2", "attest", &[&old, &predicate], &image);
        cosign("cosign2", "attest", &[&old, &predicate, &["--new-bundle-format"]], &image);
        let attach = ["attach", "sbom", "--allow-http-registry", "--sbom", "sbom.json"];
        self.tool("cosign2", &[&attach[..], &[&image]].concat()).ok();
        cosign("cosign2", "sign", &[&old, &["--attachment", "sbom"]], &image);
        // Cosign 3: bundles.
        cosign("cosign3", "sign", &[&new], &image);
        cosign("cosign3", "attest", &[&new, &["--type", "spdxjson", "--predicate", "sbom.json"]], &image);
        // An SBOM by oras, and a signature of it.
        let oras = ["attach", "--plain-http", "--artifact-type", "application/vnd.example.sbom"];
        let attached =
            self.tool("oras", &[&oras[..], &["--format", "json", &image, "sbom.json"]].concat()).ok().json();
        let sbom = attached["digest"].as_str().unwrap().to_owned();
        cosign("cosign3", "sign", &[&new], &self.at(&sbom));
        self.sbom = sbom;
    }

    /// Builds an archive, and answers with the kinds of what refers to the image, in order of kind.
    #[track_caller]
    fn build(&self, archive: &str, arguments: &[&str]) -> Vec<String> {
        let mut command = self.fleetpack();
        command.args(["build", "shop", "--name", "shop", "--key", "release.key", "-o", archive]);
        run(command.args(arguments)).ok();
        let shown =
            run(self.fleetpack().args(["inspect", archive, "images", "--format", "json"])).ok().json();
        let image = &shown["release"]["images"][0];
        assert_eq!(image["digest"].as_str(), Some(self.index.as_str()));
        let referrers = image["referrers"].as_array().cloned().unwrap_or_default();
        let kind = |entry: &serde_json::Value| {
            let tag = entry["tag"].as_str().and_then(|tag| tag.rsplit_once('.')).map(|(_, suffix)| suffix);
            let kind = entry["artifactType"].as_str().unwrap();
            tag.unwrap_or(kind.strip_prefix("application/vnd.").unwrap()).to_owned()
        };
        let mut kinds: Vec<String> = referrers.iter().map(kind).collect();
        kinds.sort();
        kinds
    }

    /// A server of the archive in a network of its own that leads nowhere.
    #[track_caller]
    fn site(&self, archive: &str) -> Site<'_> {
        let store = format!("{archive}.store");
        let serve = ["serve", "--listen", "127.0.0.1:0", "--store", &store];
        let mut command = self.fleetpack();
        if is_root() {
            let up = "busybox ip link set lo up && exec \"$@\"";
            let own = command.get_program().to_owned();
            let mut alone = program("unshare", self.path());
            alone.current_dir(self.path()).args(["--net", "sh", "-c", up, "sh"]).arg(own);
            let busybox = testbed(&["peers"]).join("bin");
            let path = std::env::var("PATH").unwrap_or_default();
            alone.env("PATH", format!("{}:{path}", busybox.display()));
            command = alone;
        }
        let server = Server::start(command.args(serve), &self.path().join(format!("{archive}.log")));
        let site = Site { signed: self, server };
        let seed = ["apply", "--seed-only", "--key", "release.pub", "--store", &store, archive];
        run(&mut site.there(self.fleetpack().args(seed))).ok();
        site
    }
}

/// A site that reaches nobody.
struct Site<'a> {
    signed: &'a Signed,
    server: Server,
}

impl Site<'_> {
    /// A command as it is run where the server is.
    fn there(&self, command: &Command) -> Command {
        let mut there = program("nsenter", self.signed.path());
        if is_root() {
            there.arg(format!("--net=/proc/{}/ns/net", self.server.pid())).arg(command.get_program());
        } else {
            there = program(command.get_program(), self.signed.path());
            there.envs([("HTTPS_PROXY", "http://127.0.0.1:9"), ("HTTP_PROXY", "http://127.0.0.1:9")]);
        }
        there.current_dir(self.signed.path()).args(command.get_args());
        there
    }

    /// Runs a tool where the server is.
    fn tool(&self, name: &str, arguments: &[&str]) -> Ended {
        run(&mut self.there(tool(name, self.signed.path()).args(arguments)))
    }

    fn at(&self, reference: &str) -> String {
        format!("{}/{reference}", self.server.host())
    }

    /// `cosign VERB` with the public key `key`.
    fn cosign(&self, name: &str, verb: &str, key: &str, more: &[&str], reference: &str) -> Ended {
        let common = [verb, "--key", key, "--insecure-ignore-tlog", "--allow-http-registry"];
        self.tool(name, &[&common[..], more, &[&self.at(reference)]].concat())
    }
}

#[test]
fn what_was_signed_upstream_verifies_at_a_site_without_a_network() {
    let signed = Signed::new();
    let bundle = "dev.sigstore.bundle.v0.3+json";
    // Every form that there is. By cosign's tags: the index, its child, what BuildKit says about that,
    // and the SBOM under a tag. As bundles: two attestations, a signature, and that of oras' SBOM.
    // Nothing of the child for another platform.
    let kinds = signed.build("all.tar", &["--platform", "linux/amd64"]);
    assert_eq!(
        kinds,
        [
            "att",
            "dev.cosign.artifact.sig.v1+json",
            bundle,
            bundle,
            bundle,
            bundle,
            "example.sbom",
            "sbom",
            "sig",
            "sig",
            "sig",
            "sig"
        ]
    );
    let site = signed.site("all.tar");
    // What is verified now was fetched from nowhere else.
    let upstream = signed.registry.address.clone();
    if is_root() {
        let gone = site.tool("crane", &["manifest", "--insecure", &format!("{upstream}/{IMAGE}")]);
        assert_ne!(gone.code, 0, "the registry upstream can be reached: {gone:?}");
    }
    let (web, child) = (IMAGE, format!("registry.example.com/shop/web@{}", signed.children[0]));
    let sbom = format!("registry.example.com/shop/web@{}", signed.sbom);
    let root = ["--trusted-root", "root.json"];
    let (custom, spdx) = (["--type", "custom"], ["--type", "spdxjson"]);
    for (name, verb, more, reference) in [
        ("cosign2", "verify", &[][..], web),
        ("cosign2", "verify", &["--experimental-oci11"], web),
        ("cosign2", "verify", &[&["--new-bundle-format"], &root[..]].concat(), web),
        ("cosign2", "verify", &["--attachment", "sbom"], web),
        ("cosign2", "verify", &[], &child),
        ("cosign2", "verify-attestation", &custom, web),
        ("cosign2", "verify-attestation", &[&["--new-bundle-format"], &root[..], &custom].concat(), web),
        ("cosign3", "verify", &["--new-bundle-format=false"], web),
        ("cosign3", "verify", &root, web),
        ("cosign3", "verify", &root, &sbom),
        ("cosign3", "verify-attestation", &[&root[..], &spdx].concat(), web),
    ] {
        site.cosign(name, verb, "cosign.pub", more, reference).ok();
        let other = site.cosign(name, verb, "other.pub", more, reference);
        assert_ne!(other.code, 0, "{name} {verb} {more:?} {reference}: by another key");
    }
    let nothing = site.cosign(
        "cosign3",
        "verify-attestation",
        "cosign.pub",
        &[&root[..], &["--type", "vuln"]].concat(),
        web,
    );
    assert_ne!(nothing.code, 0, "an attestation that nobody made");

    // BuildKit's attestations: with their child, and only with it.
    let there = |digest: &str| {
        let name = site.at(&format!("registry.example.com/shop/web@{digest}"));
        site.tool("crane", &["manifest", "--insecure", &name]).code == 0
    };
    assert!(there(&signed.index) && there(&signed.children[0]) && there(&signed.attestations[0]));
    assert!(!there(&signed.children[1]) && !there(&signed.attestations[1]));
    // oras sees the whole tree.
    let tree = site.tool("oras", &["discover", "--plain-http", "--format", "json", &site.at(IMAGE)]).ok();
    for part in [&signed.sbom, "https://sigstore.dev/cosign/sign/v1", "https://spdx.dev/Document"] {
        assert!(tree.stdout.contains(part), "{part} is not in {}", tree.stdout);
    }
}

#[test]
fn signatures_alone_or_nothing() {
    let signed = Signed::new();
    let config = |which: &str| {
        let text = format!(
            "apiVersion: fleetpack.dev/v1\nkind: Release\nmetadata: {{name: shop}}\nimages: {{referrers: {which}}}\n"
        );
        fs::write(signed.path().join("shop/fleetpack.yaml"), text).unwrap();
        for arguments in [&["add", "--all"][..], &["commit", "--quiet", "--message", which]] {
            run(program("git", signed.path())
                .arg("-C")
                .arg(signed.path().join("shop"))
                .args(["-c", "user.name=Tester", "-c", "user.email=tester@localhost"])
                .args(arguments))
            .ok();
        }
    };
    config("signatures");
    let kinds = signed.build("signatures.tar", &["--platform", "linux/amd64"]);
    // By the tag, of the index, of its child and of what BuildKit says about that; by the API; and
    // cosign 3's.
    assert_eq!(
        kinds,
        ["dev.cosign.artifact.sig.v1+json", "dev.sigstore.bundle.v0.3+json", "sig", "sig", "sig"]
    );
    let site = signed.site("signatures.tar");
    let root = ["--trusted-root", "root.json"];
    site.cosign("cosign2", "verify", "cosign.pub", &[], IMAGE).ok();
    site.cosign("cosign3", "verify", "cosign.pub", &root, IMAGE).ok();
    let custom = ["--type", "custom"];
    assert_ne!(site.cosign("cosign2", "verify-attestation", "cosign.pub", &custom, IMAGE).code, 0);
    drop(site);

    config("none");
    assert_eq!(signed.build("none.tar", &[]), [""; 0]);
    // The flag wins. Both platforms bring the other child's signature.
    let all: BTreeSet<String> = signed.build("flag.tar", &["--referrers", "all"]).into_iter().collect();
    assert_eq!(all.len(), 6, "{all:?}");
    let site = signed.site("none.tar");
    assert_ne!(site.cosign("cosign2", "verify", "cosign.pub", &[], IMAGE).code, 0);
    // What BuildKit says is a part of the image.
    let name = site.at(&format!("registry.example.com/shop/web@{}", signed.attestations[1]));
    site.tool("crane", &["manifest", "--insecure", &name]).ok();
}
