//! The real peers of `tests/testbed`, installed on first use.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use super::command::{Ended, program, run};

/// Where the testbed lies or will lie (`tests/testbed/install` prints the same).
pub fn folder_hint() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("FLEETPACK_TESTBED").unwrap_or_else(|| {
        let cache = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
        cache.unwrap_or_else(|| PathBuf::from("/var/tmp/.cache")).join("fleetpack/testbed")
    })
}

/// A script of the testbed.
pub fn script(name: &str) -> Command {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testbed").join(name);
    // Go keeps its modules and its cache below HOME; the testbed's scripts are no part of what is tested.
    let mut command =
        program(path, &std::env::var_os("HOME").map_or_else(|| "/var/tmp".into(), PathBuf::from));
    for name in ["GOPROXY", "GOFLAGS", "GOSUMDB", "GOMODCACHE", "GOCACHE", "GOTOOLCHAIN"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// Installs `parts` of the testbed (a no-op where they are there) and answers with its folder.
#[track_caller]
pub fn testbed(parts: &[&str]) -> PathBuf {
    static INSTALLED: OnceLock<Mutex<Vec<String>>> = OnceLock::new();
    let mut installed =
        INSTALLED.get_or_init(Mutex::default).lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for part in parts {
        if !installed.iter().any(|name| name == part) {
            run(script("install").arg(part)).ok();
            installed.push((*part).to_owned());
        }
    }
    folder_hint()
}

/// A real tool of the testbed (`skopeo`, `crane`, `cosign2`, `cosign3`, `oras`, `kubectl` …) in a scrubbed environment.
#[track_caller]
pub fn tool(name: &str, home: &Path) -> Command {
    let part = match name {
        "gogit" | "mkimage" | "registries" | "wharfie" => name,
        "helm" | "helm3" => "helm",
        "fusefat" | "mount.exfat-fuse" | "fuseiso" | "mcopy" | "genisoimage" | "mksquashfs" => "media",
        name if name.starts_with("mkfs.") => "media",
        "podman" | "buildah" => "podman",
        name if name.starts_with("kube-") || name == "kubelet" => "kube",
        _ => "peers",
    };
    program(testbed(&[part]).join("bin").join(name), home)
}

/// A docker-registry on loopback; stopped when dropped, its blobs stay in `folder`.
pub struct Registry {
    folder: PathBuf,
    /// `127.0.0.1:PORT`.
    pub address: String,
}

impl Registry {
    /// Starts one with its storage in `folder`; `arguments` as `tests/testbed/registry up` takes them.
    #[track_caller]
    pub fn up(folder: &Path, arguments: &[&str]) -> Self {
        let ended = run(script("registry").arg("up").arg(folder).args(arguments)).ok();
        Self { folder: folder.to_owned(), address: ended.stdout.trim().to_owned() }
    }

    /// Pushes an image that `tests/testbed/image make` makes under the whole of `reference`, and
    /// answers with its digest.
    #[track_caller]
    pub fn image(&self, reference: &str, arguments: &[&str]) -> String {
        let mut command = script("image");
        command.args(["make", "--registry", &self.address, "--name", reference]).args(arguments);
        run(&mut command).ok().stdout.trim().to_owned()
    }

    /// A `registries.conf` that leads from each of `hosts` to this registry, in `folder`.
    #[track_caller]
    pub fn configure(&self, folder: &Path, hosts: &[&str]) -> PathBuf {
        let path = folder.join("registries.conf");
        let entry = |host: &&str| {
            format!(
                "[[registry]]\nprefix = \"{host}\"\nlocation = \"{}/{host}\"\ninsecure = true\n\n",
                self.address
            )
        };
        std::fs::write(&path, hosts.iter().map(entry).collect::<String>()).unwrap();
        path
    }

    /// Stops it now.
    pub fn down(self) {
        drop(self);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _: Ended = run(script("registry").arg("down").arg(&self.folder));
    }
}
