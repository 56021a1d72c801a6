//! Images that are not what most are, through the whole binary: what can be carried arrives and is
//! served, and what cannot is refused with what to do about it.

use std::fs;
use std::path::Path;
use std::process::Command;

use fleetpack::model::{Digest, media_type};

use crate::support::command::{fleetpack, run};
use crate::support::depot::Server;
use crate::support::layout::{Layout, digest_in, platform};
use crate::support::repository::Repository;
use crate::support::testbed::tool;

const HOST: &str = "registry.example.com";

/// A layout with odd images, and a repository that runs one of them.
struct Odd {
    folder: tempfile::TempDir,
    layout: Layout,
    repository: Repository,
}

impl Odd {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(&folder.path().join("layout"));
        let repository = Repository::init(&folder.path().join("shop"));
        let odd = Self { folder, layout, repository };
        run(odd.fleetpack().args(["keygen", "--output-key-prefix", "release"])).ok();
        odd
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn fleetpack(&self) -> Command {
        let mut command = fleetpack(self.path());
        command.current_dir(self.path());
        command
    }

    /// A build of a release that runs `image` alone.
    fn build(&self, image: &str) -> Command {
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec: {{containers: [{{name: web, image: \"{HOST}/{image}\"}}]}}\n"
        );
        self.repository.write("pod.yaml", pod);
        self.repository.commit(image);
        let mut command = self.fleetpack();
        command.args(["build", "shop", "--images-from", "oci:layout", "--key", "release.key"]);
        command.args(["--name", "shop", "-o", "out.tar"]);
        command
    }
}

#[test]
fn indexes_of_indexes_arrive_whole_and_sparse() {
    let mut odd = Odd::new();
    let layout = &odd.layout;
    let image = |architecture: &str| {
        let config = format!(r#"{{"os":"linux","architecture":"{architecture}"}}"#);
        let layer = layout.blob(media_type::OCI_LAYER_GZIP, architecture.as_bytes(), "");
        layout.image(&[layer], &config, &platform(architecture))
    };
    let (amd, arm, riscv) = (image("amd64"), image("arm64"), image("riscv64"));
    let inner = layout.index(&[arm.clone(), riscv.clone()], "");
    let index = layout.index(&[amd.clone(), inner.clone()], "");
    odd.layout.name(&index, &format!("{HOST}/nested:1"));

    for (platforms, present, absent) in [
        (&[][..], &[&index, &inner, &amd, &arm, &riscv][..], &[][..]),
        (&["--platform", "linux/arm64"], &[&index, &inner, &arm], &[&amd, &riscv]),
    ] {
        run(odd.build("nested:1").args(platforms)).ok();
        run(odd.fleetpack().args(["verify", "out.tar", "--key", "release.pub"])).ok();
        let mut serve = odd.fleetpack();
        serve.args(["serve", "--listen", "127.0.0.1:0", "--key", "release.pub", "--archive", "out.tar"]);
        let server = Server::start(&mut serve, &odd.path().join("serve.log"));
        let manifest = |reference: &str| {
            let name = format!("{}/{HOST}/nested{reference}", server.host());
            run(tool("crane", odd.path()).args(["manifest", "--insecure", &name]))
        };
        let tagged = manifest(":1").ok();
        assert_eq!(Digest::of(tagged.stdout.as_bytes()), digest_in(&index));
        for (descriptors, there) in [(present, true), (absent, false)] {
            for descriptor in descriptors {
                let ended = manifest(&format!("@{}", digest_in(descriptor)));
                assert_eq!(ended.code == 0, there, "{descriptor}: {ended:?}");
            }
        }
        fs::remove_file(odd.path().join("out.tar")).unwrap();
    }
    // The lock has the platforms of all depths.
    run(odd.fleetpack().args(["lock", "shop", "--images-from", "oci:layout"])).ok();
    let lock = fs::read_to_string(odd.repository.path.join("fleetpack.lock")).unwrap();
    assert!(lock.contains("  platforms: [linux/amd64, linux/arm64, linux/riscv64]\n"), "{lock}");
}

/// An image that cannot be carried, by what ails it.
fn bad(layout: &Layout, name: &str) -> String {
    match name {
        "elsewhere" => {
            let kind = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
            let digest = Digest::of(b"elsewhere");
            let layer = format!(
                r#"{{"mediaType":"{kind}","digest":"{digest}","size":9,"urls":["https://example.com/layer"]}}"#
            );
            layout.image(&[layer], "{}", "")
        }
        "first" => {
            let text = r#"{"schemaVersion":1,"name":"x","tag":"1","fsLayers":[],"history":[]}"#;
            layout.blob("application/vnd.docker.distribution.manifest.v1+json", text.as_bytes(), "")
        }
        "large" => {
            let (kind, padding) = (media_type::OCI_INDEX, "x".repeat(5 << 20));
            let text = format!(
                r#"{{"schemaVersion":2,"mediaType":"{kind}","annotations":{{"x":"{padding}"}},"manifests":[]}}"#
            );
            layout.blob(kind, text.as_bytes(), "")
        }
        _ => {
            let innermost = layout.image(&[], "{}", "");
            (0..6).fold(innermost, |inner, _| layout.index(&[inner], ""))
        }
    }
}

#[test]
fn what_cannot_be_carried_says_what_to_do() {
    for (name, code, parts) in [
        (
            "elsewhere",
            4,
            &[
                "non-distributable layer",
                "names https://example.com/layer",
                "help: push the layer to the registry as well",
            ][..],
        ),
        (
            "first",
            1,
            &[
                "is a Docker schema 1 manifest",
                "wanted schema 2 or OCI",
                "help: build and push the image anew",
            ],
        ),
        ("large", 1, &["is larger than 4194304 bytes", "help: whatever is well stays far below"]),
        ("deep", 1, &["indexes lie more than 4 deep in each other"]),
    ] {
        let mut odd = Odd::new();
        let descriptor = bad(&odd.layout, name);
        odd.layout.name(&descriptor, &format!("{HOST}/{name}:1"));
        let ended = run(&mut odd.build(&format!("{name}:1"))).refused(code, parts);
        assert!(ended.stderr.contains("pod.yaml:4  Pod web  spec.containers[0].image"), "{}", ended.stderr);
        assert!(!odd.path().join("out.tar").exists());
    }
}
