//! Arguments and settings that several subcommands share, read from flags and the environment.

use std::path::PathBuf;

use super::environment::{self, variable};
use super::ui::Failure;
use crate::model::{ErrorClass, SiteRegistry};
use crate::ops;

/// The store, for every command of the site.
#[derive(Debug, clap::Args)]
pub struct StoreArgs {
    /// The site's store [default: /var/lib/fleetpack for root, else `$XDG_DATA_HOME`/fleetpack].
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

impl StoreArgs {
    /// The folder.
    pub(super) fn path(self) -> PathBuf {
        self.store.unwrap_or_else(environment::default_store)
    }
}

/// The cluster, for commands that talk to one.
#[derive(Debug, clap::Args)]
pub struct ClusterArgs {
    /// kubeconfig file [default: $KUBECONFIG, else ~/.kube/config, else the service account].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: its current one].
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

impl ClusterArgs {
    /// What the flags and the environment say about the cluster.
    pub(super) fn settings(self) -> ops::ClusterSettings {
        let from_variable = || variable("KUBECONFIG").map(PathBuf::from);
        let usual = || environment::home().map(|home| home.join(".kube/config")).filter(|path| path.exists());
        ops::ClusterSettings {
            kubeconfig: self.kubeconfig.or_else(from_variable).or_else(usual),
            context: self.context,
        }
    }
}

/// A registry of the site's own.
#[derive(Debug, clap::Args)]
pub struct RegistryArgs {
    /// Push to this registry of the site's own, below the prefix, instead of having nodes pull from
    /// `fleetpack serve` [default: the one that the store remembers]. Credentials, certificates and
    /// `insecure` come from where skopeo and podman look for them.
    #[arg(long, value_name = "HOST[:PORT]/PREFIX", conflicts_with = "endpoint")]
    pub(super) registry: Option<SiteRegistry>,
}

/// The password of a private key: `COSIGN_PASSWORD`, else asked for at the terminal.
///
/// # Errors
///
/// When there is neither.
pub fn password(prompt: &str) -> Result<String, Failure> {
    if let Some(value) = std::env::var_os("COSIGN_PASSWORD") {
        return value
            .into_string()
            .map_err(|_| Failure::usage("`COSIGN_PASSWORD` is not UTF-8", "set it to text"));
    }
    rpassword::prompt_password(prompt).map_err(|error| {
        Failure::usage(
            format!("no password for the private key: no terminal to ask at ({error})"),
            "set COSIGN_PASSWORD (empty for a key without a password)",
        )
    })
}

/// A new password, asked for twice at the terminal unless `COSIGN_PASSWORD` gives it.
///
/// # Errors
///
/// When there is neither, or the two differ.
pub fn new_password() -> Result<String, Failure> {
    let first = password("Password for the new private key: ")?;
    if std::env::var_os("COSIGN_PASSWORD").is_none() && password("The same again: ")? != first {
        return Err(Failure {
            message: "the two passwords differ; no key was written".into(),
            hint: Some("run it again".into()),
            class: ErrorClass::Failed,
        });
    }
    Ok(first)
}

/// Where the registries' configuration and credentials are, in the order in which the
/// containers' own tools look (containers-registries.conf(5), containers-auth.json(5)).
#[must_use]
pub fn registry_settings() -> ops::RegistrySettings {
    let user = environment::config_home().map(|folder| folder.join("containers"));
    let system = PathBuf::from("/etc/containers");
    let (registries_conf, drop_ins) = if let Some(path) = variable("CONTAINERS_REGISTRIES_CONF") {
        // Who names the file wants that file, and no others beside it.
        (vec![PathBuf::from(path)], Vec::new())
    } else {
        {
            let places = || user.iter().chain([&system]);
            (
                places().map(|folder| folder.join("registries.conf")).collect(),
                [&system].into_iter().chain(&user).map(|folder| folder.join("registries.conf.d")).collect(),
            )
        }
    };
    let docker = variable("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| environment::home().map(|home| home.join(".docker")));
    let runtime = variable("XDG_RUNTIME_DIR").map(|folder| PathBuf::from(folder).join("containers"));
    let auth_files = [
        runtime.map(|folder| folder.join("auth.json")),
        user.as_ref().map(|folder| folder.join("auth.json")),
        docker.map(|folder| folder.join("config.json")),
    ];
    let certs_dirs = user.iter().chain([&system]).map(|folder| folder.join("certs.d"));
    ops::RegistrySettings {
        registries_conf,
        drop_ins,
        auth_file: variable("REGISTRY_AUTH_FILE").map(PathBuf::from),
        auth_files: auth_files.into_iter().flatten().collect(),
        certs_dirs: certs_dirs.chain([PathBuf::from("/etc/docker/certs.d")]).collect(),
    }
}

/// The time that `SOURCE_DATE_EPOCH` gives, in seconds since 1970.
///
/// # Errors
///
/// When it is not a number.
pub fn source_date_epoch() -> Result<Option<i64>, Failure> {
    let Some(text) = variable("SOURCE_DATE_EPOCH") else { return Ok(None) };
    let seconds = text.to_str().and_then(|text| text.parse().ok());
    seconds.map(Some).ok_or_else(|| {
        Failure::usage(
            format!("`SOURCE_DATE_EPOCH` is `{}`", text.to_string_lossy()),
            "set it to a whole number of seconds since 1970, or unset it",
        )
    })
}

/// A runtime for asynchronous work.
///
/// # Errors
///
/// When the system gives no threads.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| Failure {
        message: format!("cannot start threads: {error}"),
        hint: None,
        class: ErrorClass::Failed,
    })
}

/// A runtime for a server: more threads than processors, since each may be in the kernel for a while
/// and a small answer is not to wait for a large one; and a look at what came in after every few tasks.
///
/// # Errors
///
/// When the system gives no threads.
pub fn serving_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let processors = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(processors.saturating_mul(4).clamp(16, 64));
    builder.event_interval(7).global_queue_interval(7).enable_all().build().map_err(|error| Failure {
        message: format!("cannot start threads: {error}"),
        hint: None,
        class: ErrorClass::Failed,
    })
}

/// Runs `work` to its end, or drops it at Ctrl-C or SIGTERM: what it has made so far removes itself.
///
/// # Errors
///
/// When it was interrupted, or the system gives no threads.
pub fn interruptible<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = runtime()?;
    let done = runtime.block_on(async {
        let terminate = async {
            match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
                Ok(mut signal) => drop(signal.recv().await),
                // Without the signal there is still Ctrl-C.
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            done = work => Some(done),
            _ = tokio::signal::ctrl_c() => None,
            () = terminate => None,
        }
    });
    // A thread that still packs or hashes is not waited for.
    runtime.shutdown_background();
    done.ok_or_else(|| Failure {
        message: "interrupted; nothing was written".into(),
        hint: Some("run it again".into()),
        class: ErrorClass::Failed,
    })
}

/// A duration as people write it: `90s`, `10m`, `1h30m`.
///
/// # Errors
///
/// When the text is none, or longer than a day.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    let wanted = || format!("`{text}` is not a duration up to 24h, wanted such as `90s`, `10m`, `1h30m`");
    let mut seconds = 0_u64;
    let mut number: Option<u64> = None;
    for c in text.chars() {
        match c {
            '0'..='9' => {
                let digit = u64::from(c as u32 - u32::from(b'0'));
                number = Some(
                    number
                        .unwrap_or(0)
                        .checked_mul(10)
                        .and_then(|n| n.checked_add(digit))
                        .ok_or_else(wanted)?,
                );
            }
            's' | 'm' | 'h' => {
                let unit = match c {
                    's' => 1,
                    'm' => 60,
                    _ => 3600,
                };
                let part = number.take().and_then(|n| n.checked_mul(unit)).ok_or_else(wanted)?;
                seconds = seconds.checked_add(part).ok_or_else(wanted)?;
            }
            _ => return Err(wanted()),
        }
    }
    if number.is_some() || text.is_empty() || seconds > 24 * 3600 {
        return Err(wanted());
    }
    Ok(std::time::Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations() {
        assert_eq!(duration("1h30m").unwrap().as_secs(), 5400);
        assert_eq!(duration("0s").unwrap().as_secs(), 0);
        for bad in ["", "10", "m", "1d", "-1s", "25h", "99999999999999999999s", "1.5h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
