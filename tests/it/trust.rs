//! Keys and signatures against the real cosign, both ways, with no network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fleetpack::model::Digest;
use fleetpack::trust::{KeyFile, PrivateKey, PublicKey, VerifyError, sign, verify_manifest, write_key_pair};

use super::support::command::{Ended, program, run};
use super::support::testbed::{testbed, tool};

const PASSWORD: &str = "correct horse";
const MANIFEST: &[u8] = br#"{"schemaVersion":2,"artifactType":"application/vnd.fleetpack.release.v1+json"}"#;
const COSIGNS: [&str; 2] = ["cosign2", "cosign3"];

/// A folder with a release manifest in it, and what cosign wants to know where there is no network.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        testbed(&["peers"]);
        let bench = Self { folder: tempfile::tempdir().unwrap() };
        fs::write(bench.path("manifest"), MANIFEST).unwrap();
        let root = r#"{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}"#;
        fs::write(bench.path("root.json"), root).unwrap();
        let config = r#"{"mediaType":"application/vnd.dev.sigstore.signingconfig.v0.2+json"}"#;
        fs::write(bench.path("signing.json"), config).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A cosign whose every connection would end at a closed port.
    fn cosign(&self, name: &str) -> Command {
        let mut command = tool(name, self.folder.path());
        command.current_dir(self.folder.path()).env("COSIGN_PASSWORD", PASSWORD);
        for proxy in ["HTTPS_PROXY", "HTTP_PROXY"] {
            command.env(proxy, "http://127.0.0.1:9");
        }
        command
    }

    /// A pair that the real cosign makes, at `PREFIX.key` and `PREFIX.pub`.
    fn generate(&self, cosign: &str, prefix: &str) {
        run(self.cosign(cosign).args(["generate-key-pair", "--output-key-prefix", prefix])).ok();
    }

    fn sign(&self, cosign: &str, key: &str, bundle: &str) {
        let mut command = self.cosign(cosign);
        command.args(["sign-blob", "--yes", "--key", key, "--bundle", bundle]);
        match cosign {
            "cosign2" => command.args(["--new-bundle-format", "--tlog-upload=false"]),
            _ => command.args(["--signing-config", "signing.json", "--trusted-root", "root.json"]),
        };
        run(command.arg("manifest")).ok();
    }

    fn verify(&self, cosign: &str, key: &str, bundle: &str) -> Ended {
        let mut command = self.cosign(cosign);
        command.args(["verify-blob", "--insecure-ignore-tlog", "--key", key, "--bundle", bundle]);
        if cosign == "cosign2" {
            command.args(["--new-bundle-format", "--trusted-root", "root.json"]);
        }
        run(command.arg("manifest"))
    }

    fn open(&self, name: &str) -> PrivateKey {
        KeyFile::load(&self.path(name)).unwrap().open(Some(PASSWORD.as_bytes())).unwrap()
    }

    fn public(&self, name: &str) -> PublicKey {
        PublicKey::load(&self.path(name)).unwrap()
    }
}

#[test]
fn our_keys_open_in_cosign_and_its_signatures_verify_here() {
    let bench = Bench::new();
    write_key_pair(&bench.path("ours"), PASSWORD.as_bytes()).unwrap();
    let public = bench.public("ours.pub");
    for cosign in COSIGNS {
        let shown = run(bench.cosign(cosign).args(["public-key", "--key", "ours.key"])).ok();
        assert_eq!(
            PublicKey::parse("shown", shown.stdout.as_bytes()).unwrap().fingerprint(),
            public.fingerprint()
        );
        bench.sign(cosign, "ours.key", "bundle");
        let bundle = fs::read(bench.path("bundle")).unwrap();
        let signers = verify_manifest(MANIFEST, &[bundle], std::slice::from_ref(&public)).unwrap();
        assert_eq!(signers[0].fingerprint, public.fingerprint());
        let wrong =
            run(bench.cosign(cosign).env("COSIGN_PASSWORD", "x").args(["public-key", "--key", "ours.key"]));
        assert_ne!(wrong.code, 0, "a wrong password opens nothing");
    }
}

#[test]
fn cosigns_keys_open_here_and_our_signatures_verify_in_cosign() {
    let bench = Bench::new();
    for maker in COSIGNS {
        bench.generate(maker, maker);
        let (key, public) = (format!("{maker}.key"), format!("{maker}.pub"));
        let private = bench.open(&key);
        assert_eq!(private.public().fingerprint(), bench.public(&public).fingerprint());
        let wrong = KeyFile::load(&bench.path(&key)).unwrap().open(Some(b"wrong")).unwrap_err().to_string();
        assert!(wrong.starts_with("the password does not open key `") && wrong.contains(&key), "{wrong}");
        fs::write(bench.path("bundle"), sign(MANIFEST, &private).unwrap()).unwrap();
        for cosign in COSIGNS {
            let ended = bench.verify(cosign, &public, "bundle").ok();
            assert!(ended.stderr.contains("Verified OK"), "{}", ended.stderr);
        }
        // What cosign 1 wrote is the same under another name.
        let old = fs::read_to_string(bench.path(&key)).unwrap().replace("SIGSTORE", "COSIGN");
        let old = KeyFile::parse("old.key", old.as_bytes()).unwrap();
        assert_eq!(
            old.open(Some(PASSWORD.as_bytes())).unwrap().public().fingerprint(),
            private.public().fingerprint()
        );
    }
}

#[test]
fn what_cosign_refuses_is_refused_here() {
    let bench = Bench::new();
    write_key_pair(&bench.path("ours"), PASSWORD.as_bytes()).unwrap();
    write_key_pair(&bench.path("theirs"), PASSWORD.as_bytes()).unwrap();
    let (ours, theirs) = (bench.open("ours.key"), bench.open("theirs.key"));
    let good = String::from_utf8(sign(MANIFEST, &ours).unwrap()).unwrap();
    let other = sign(b"another manifest", &ours).unwrap();
    // Theirs, under the name of our key.
    let forged = String::from_utf8(sign(MANIFEST, &theirs).unwrap()).unwrap();
    let forged = forged.replace(&theirs.public().hint(), &ours.public().hint());
    let at = good.rfind("\"signature\":\"").unwrap() + 40;
    let mut tampered = good.clone().into_bytes();
    tampered[at] = if tampered[at] == b'A' { b'B' } else { b'A' };
    for bundle in [other, forged.into_bytes(), tampered, b"{}".to_vec()] {
        fs::write(bench.path("bundle"), &bundle).unwrap();
        for cosign in COSIGNS {
            assert_ne!(bench.verify(cosign, "ours.pub", "bundle").code, 0);
        }
        verify_manifest(MANIFEST, &[bundle], &[bench.public("ours.pub")]).unwrap_err();
    }
    // The good one with another key, and over another manifest.
    fs::write(bench.path("bundle"), &good).unwrap();
    for cosign in COSIGNS {
        bench.verify(cosign, "ours.pub", "bundle").ok();
        assert_ne!(bench.verify(cosign, "theirs.pub", "bundle").code, 0);
    }
    let error = verify_manifest(MANIFEST, &[good.into_bytes()], &[bench.public("theirs.pub")]).unwrap_err();
    let VerifyError::OtherKeys { found, wanted, manifest } = &error else { panic!("{error}") };
    assert_eq!(*manifest, Digest::of(MANIFEST));
    assert_eq!(found, &[ours.public().fingerprint().to_string()]);
    assert!(wanted[0].starts_with(&theirs.public().fingerprint().to_string()), "{wanted:?}");
}

/// Keys in the clear, as openssl writes them.
#[test]
fn plain_keys_of_openssl_sign_and_other_kinds_are_refused() {
    let bench = Bench::new();
    let openssl = |arguments: &str| {
        run(program("openssl", bench.folder.path())
            .current_dir(bench.folder.path())
            .args(arguments.split(' ')))
        .ok()
    };
    openssl("ecparam -name prime256v1 -genkey -out sec1.key");
    openssl("pkcs8 -topk8 -nocrypt -in sec1.key -out pkcs8.key");
    openssl("ec -in sec1.key -pubout -out plain.pub");
    let public = bench.public("plain.pub");
    for name in ["sec1.key", "pkcs8.key"] {
        let file = KeyFile::load(&bench.path(name)).unwrap();
        assert!(!file.is_encrypted());
        let bundle = sign(MANIFEST, &file.open(None).unwrap()).unwrap();
        fs::write(bench.path("bundle"), &bundle).unwrap();
        verify_manifest(MANIFEST, &[bundle], std::slice::from_ref(&public)).unwrap();
        bench.verify("cosign3", "plain.pub", "bundle").ok();
    }
    openssl("ecparam -name secp384r1 -genkey -noout -out p384.key");
    openssl("ec -in p384.key -pubout -out p384.pub");
    openssl("genpkey -algorithm ed25519 -out ed25519.key");
    openssl("pkey -in ed25519.key -pubout -out ed25519.pub");
    openssl("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa.key");
    openssl("pkey -in rsa.key -pubout -out rsa.pub");
    for (kind, want) in [("p384", "an ECDSA P-384"), ("ed25519", "an Ed25519"), ("rsa", "an RSA")] {
        let error = PublicKey::load(&bench.path(&format!("{kind}.pub"))).unwrap_err().to_string();
        assert!(error.contains(&format!("is {want} public key, wanted an ECDSA P-256")), "{error}");
        let error = KeyFile::load(&bench.path(&format!("{kind}.key"))).unwrap().open(None).unwrap_err();
        assert!(error.to_string().contains("wanted an ECDSA P-256 private key"), "{error}");
    }
    assert!(
        PublicKey::load(Path::new("/nonexistent/key.pub")).unwrap_err().to_string().contains("cannot read")
    );
}
