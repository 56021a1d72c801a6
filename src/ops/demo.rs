//! `demo`: the whole way on one machine, on real parts, with everything thrown away at the end.
//!
//! A registry and, unless one is given, a one-node cluster come from the project's
//! `tests/testbed`; the steps themselves are the very functions that the other subcommands call.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::{
    ClusterSettings, Error, RegistrySettings, Result, apply, build, keys, rollback, serve, status, verify,
};
use crate::model::Progress;
use crate::model::progress::Silent;

/// What the demo is told.
#[derive(Debug)]
pub struct Options {
    /// The working folder: the project is looked for from there upwards.
    pub here: PathBuf,
    /// A cluster to use instead of one of the demo's own.
    pub kubeconfig: Option<PathBuf>,
    /// Where `serve` listens; none takes a free port on loopback.
    pub listen: Option<SocketAddr>,
    /// Keep the folder at the end.
    pub keep: bool,
    /// `kustomize`, if it is installed.
    pub kustomize: Option<PathBuf>,
    /// `kubectl`, if it is installed.
    pub kubectl: Option<PathBuf>,
}

/// Images of the shop and what each is made with beyond the busybox base layer.
const IMAGES: &[(&str, &[&str])] = &[
    ("registry.example.com/shop/web:1.0", &["--file", "www/index.html=shop 1.0"]),
    ("registry.example.com/shop/web:2.0", &["--file", "www/index.html=shop 2.0"]),
    ("registry.example.com/shop/api:1.0", &["--file", "etc/part=api"]),
    ("registry.example.com/shop/worker:1.0", &["--file", "etc/part=worker"]),
    ("registry.example.com/shop/init:1.0", &["--file", "etc/part=init"]),
    (
        "registry.example.com/shop/agent:1.0",
        &["--platform", "linux/amd64,linux/arm64", "--file", "etc/part=agent"],
    ),
];

/// The manifests of the demo's shop: two deployments, one with an init container, a daemon set and
/// a job; small pods that are ready within a second and end when they are told to.
fn manifests(web: &str) -> String {
    let pod = |name: &str, image: &str, command: &str, probe: bool| {
        let probe = if probe {
            "\n          readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}"
        } else {
            ""
        };
        format!(
            "  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: {name}
          image: {image}
          command: [\"/bin/sh\", \"-c\", \"{command}\"]{probe}\n"
        )
    };
    let stay = "trap 'exit 0' TERM; while :; do sleep 1 & wait; done";
    let httpd = "exec httpd -f -p 8080 -h /www";
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop}}
---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: shop, namespace: shop}}\ndata: {{image: \"{web}\"}}
---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web, namespace: shop}}\nspec:\n  replicas: 1\n{}\
---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: api, namespace: shop}}\nspec:\n  replicas: 1\n{}      initContainers: [{{name: init, image: \"registry.example.com/shop/init:1.0\", command: [\"/bin/true\"]}}]
---\napiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: agent, namespace: shop}}\nspec:\n{}\
---\napiVersion: batch/v1\nkind: Job\nmetadata: {{name: worker, namespace: shop}}\nspec:\n  backoffLimit: 0\n  template:\n    spec:\n      restartPolicy: Never\n      containers: [{{name: worker, image: \"registry.example.com/shop/worker:1.0\", command: [\"/bin/true\"]}}]\n",
        pod("web", web, httpd, true),
        pod("api", "registry.example.com/shop/api:1.0", stay, false),
        pod("agent", "registry.example.com/shop/agent:1.0", stay, false),
    )
}

/// The folder `tests/testbed` of the project, looked for from `here` upwards.
fn testbed(here: &Path) -> Result<PathBuf> {
    here.ancestors().map(|folder| folder.join("tests/testbed")).find(|folder| folder.join("install").is_file()).ok_or_else(|| {
        Error::Setup {
            what: "the demo takes its registry, its images and its cluster from the project's `tests/testbed`, which is not here".into(),
            hint: "run it in a checkout of the project: `cargo run --release -- demo`".into(),
        }
    })
}

/// Lines of a program's stderr that its error repeats.
const LAST_LINES: usize = 8;

/// Runs a program to its end and answers with what it printed.
async fn run<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(program: &Path, arguments: I) -> Result<String> {
    run_telling(program, arguments, &Silent).await
}

/// As [`run`], and hands on each line of stderr as it comes: for work that takes minutes.
async fn run_telling<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(
    program: &Path,
    arguments: I,
    progress: &dyn Progress,
) -> Result<String> {
    let failed = |error| Error::io("run", program, error);
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let mut last: VecDeque<String> = VecDeque::new();
    let stderr = child.stderr.take();
    let listen = async {
        let Some(stderr) = stderr else { return Ok(()) };
        let mut lines = BufReader::new(stderr).lines();
        while let Some(line) = lines.next_line().await? {
            if last.len() == LAST_LINES {
                last.pop_front();
            }
            last.push_back(line.clone());
            progress.note(line);
        }
        Ok(())
    };
    let (output, listened) = tokio::join!(child.wait_with_output(), listen);
    let output = output.map_err(failed)?;
    listened.map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let last: Vec<String> = last.into();
    Err(Error::Setup {
        what: format!("`{}` ended with {}: {}", program.display(), output.status, last.join(" / ")),
        hint: "run `tests/testbed/install` by itself to see all that it says".into(),
    })
}

/// The parts that the demo has started; `stop` ends them, and so does a drop on the way out of an error.
struct Parts {
    testbed: PathBuf,
    folder: PathBuf,
    cluster: bool,
    registry: bool,
}

impl Parts {
    fn stop_now(&mut self) {
        let down = |script: &str, folder: &str| {
            // The scripts end only what they recorded, and what is gone already is no error.
            let _ = std::process::Command::new(self.testbed.join(script))
                .arg("down")
                .arg(self.folder.join(folder))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        };
        if std::mem::take(&mut self.cluster) {
            down("cluster", "cluster");
        }
        if std::mem::take(&mut self.registry) {
            down("registry", "registry");
        }
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        self.stop_now();
    }
}

/// The pods of the shop, once none is going away any more: name, phase, image.
async fn pods(kubectl: &Path, kubeconfig: &Path) -> Result<String> {
    let mut arguments: Vec<OsString> = vec!["--kubeconfig".into(), kubeconfig.into()];
    arguments.extend(["--namespace", "shop", "get", "pods", "--output", "json"].map(Into::into));
    let mut rows = String::new();
    for _ in 0..100 {
        let answer: serde_json::Value = serde_json::from_str(&run(kubectl, &arguments).await?)
            .map_err(|error| Error::io("understand the answer of", kubectl, error.into()))?;
        let items = answer["items"].as_array().cloned().unwrap_or_default();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        rows = items
            .iter()
            .map(|pod| {
                let (name, phase) = (text(&pod["metadata"]["name"]), text(&pod["status"]["phase"]));
                format!("  {name:24} {phase:10} {}", text(&pod["spec"]["containers"][0]["image"]))
            })
            .collect::<Vec<_>>()
            .join("\n");
        if items.iter().all(|pod| pod["metadata"]["deletionTimestamp"].is_null()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    Ok(rows)
}

/// Runs the demo.
///
/// # Errors
///
/// When a part cannot be had, or a step fails as it would on its own.
pub async fn demo(options: Options, progress: Arc<dyn Progress>) -> Result<()> {
    let scratch = tempfile::Builder::new()
        .prefix("fleetpack-demo-")
        .tempdir()
        .map_err(|error| Error::io("make a folder in", Path::new("the temporary folder"), error))?;
    let folder = scratch.path().to_owned();
    if options.keep {
        progress.note(format!("everything is in {}", scratch.keep().display()));
    }
    tokio::select! {
        done = steps(options, &folder, progress) => done,
        _ = tokio::signal::ctrl_c() => Err(Error::Setup { what: "interrupted; what was started is stopped".into(), hint: "run it again".into() }),
    }
}

#[expect(clippy::too_many_lines, reason = "a demo is read from top to bottom")]
async fn steps(options: Options, folder: &Path, progress: Arc<dyn Progress>) -> Result<()> {
    let say = |line: &str| progress.note(format!("\n== {line}"));
    let testbed = testbed(&options.here)?;
    let mut parts =
        Parts { testbed: testbed.clone(), folder: folder.to_owned(), cluster: false, registry: false };

    say("Parts: a registry, a few images, a one-node cluster (the first time this takes some ten minutes)");
    let mut install = vec!["peers", "mkimage"];
    if options.kubeconfig.is_none() {
        install.push("kube");
    }
    let installed = PathBuf::from(run_telling(&testbed.join("install"), install, progress.as_ref()).await?);
    parts.registry = true;
    let registry =
        run(&testbed.join("registry"), [OsStr::new("up"), folder.join("registry").as_os_str()]).await?;
    for (reference, extra) in IMAGES {
        let arguments =
            ["make", "--registry", &registry, "--name", reference].into_iter().chain(extra.iter().copied());
        run(&testbed.join("image"), arguments).await?;
    }
    progress.note(format!(
        "{} images are at a registry on {registry}, which stands for the one on the internet",
        IMAGES.len()
    ));

    say("fleetpack keygen; a Git repository with two releases");
    let key = keys::generate(&folder.join("release"), "")?;
    let repository = folder.join("shop");
    let git = |arguments: &[&str]| {
        let mut all: Vec<OsString> = vec!["-C".into(), repository.clone().into()];
        for setting in [
            "user.name=demo",
            "user.email=demo@localhost",
            "init.defaultBranch=main",
            "commit.gpgsign=false",
            "tag.gpgsign=false",
        ] {
            all.extend(["-c".into(), setting.into()]);
        }
        all.extend(arguments.iter().map(Into::into));
        async move { run(Path::new("git"), all).await }
    };
    let write =
        |path: PathBuf, text: &str| fs::write(&path, text).map_err(|error| Error::io("write", &path, error));
    fs::create_dir(&repository).map_err(|error| Error::io("make", &repository, error))?;
    git(&["init", "--quiet"]).await?;
    write(
        repository.join("fleetpack.yaml"),
        "apiVersion: fleetpack.dev/v1\nkind: Release\nmetadata: {name: shop}\nsources: [{path: shop.yaml}]\n",
    )?;
    for version in ["1.0", "2.0"] {
        write(repository.join("shop.yaml"), &manifests(&format!("registry.example.com/shop/web:{version}")))?;
        git(&["add", "--all"]).await?;
        git(&["commit", "--quiet", "--message", &format!("Shop {version}")]).await?;
        git(&["tag", &format!("v{version}")]).await?;
    }
    let registries = folder.join("registries.conf");
    write(
        registries.clone(),
        &format!(
            "[[registry]]\nprefix = \"registry.example.com\"\nlocation = \"{registry}/registry.example.com\"\ninsecure = true\n"
        ),
    )?;

    let mut archives = Vec::new();
    for tag in ["v1.0", "v2.0"] {
        say(&format!("fleetpack build shop --revision {tag} --key release.key"));
        let report = build::build(
            build::Options {
                repository: repository.clone(),
                revision: tag.into(),
                output: Some(folder.to_owned()),
                key: Some(keys::load_private(&key.private, || Ok(String::new()))?),
                registries: RegistrySettings {
                    registries_conf: vec![registries.clone()],
                    ..RegistrySettings::default()
                },
                kustomize: options.kustomize.clone(),
                kubectl: options.kubectl.clone(),
                ..build::Options::default()
            },
            progress.clone(),
        )
        .await?;
        progress.note(format!(
            "{}: release {}, {} images",
            report.archive.display(),
            report.release,
            report.images
        ));
        archives.push(report.archive);
    }

    say("The registry goes away: from here on there is only the archive");
    run(&testbed.join("registry"), [OsStr::new("down"), folder.join("registry").as_os_str()]).await?;
    parts.registry = false;

    for archive in &archives {
        say(&format!(
            "fleetpack verify {} --key release.pub",
            archive.file_name().unwrap_or_default().to_string_lossy()
        ));
        let report = verify::verify(archive, std::slice::from_ref(&key.public), progress.as_ref())?;
        progress.note(format!(
            "verified: {} {}, {} blobs, signed by {}",
            report.name,
            report.version,
            report.blobs,
            report.signers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        ));
    }

    say("fleetpack serve");
    let store = folder.join("store");
    let listen = options.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
    let mut server =
        serve::start(serve::Options { listen, content: serve::From::Store(store.clone()) }, progress.clone())
            .await?;
    let endpoint = server.endpoint().to_owned();
    progress.note(format!("images and Git are served at {endpoint}"));

    let kubeconfig = if let Some(path) = options.kubeconfig {
        path
    } else {
        say("A cluster whose node takes images from there and nowhere else");
        parts.cluster = true;
        let cluster = folder.join("cluster");
        run(
            &testbed.join("cluster"),
            [OsStr::new("up"), cluster.as_os_str(), OsStr::new("--mirror"), OsStr::new(&endpoint)],
        )
        .await?;
        cluster.join("kubeconfig")
    };
    let cluster = ClusterSettings { kubeconfig: Some(kubeconfig.clone()), context: None };
    let kubectl = installed.join("bin/kubectl");
    let running = || pods(&kubectl, &kubeconfig);

    for archive in &archives {
        say(&format!(
            "fleetpack apply {} --key release.pub",
            archive.file_name().unwrap_or_default().to_string_lossy()
        ));
        let report = apply::apply(
            apply::Options {
                archive: archive.clone(),
                keys: vec![key.public.clone()],
                store: store.clone(),
                cluster: cluster.clone(),
                timeout: Duration::from_mins(5),
                ..apply::Options::default()
            },
            progress.clone(),
        )
        .await?;
        progress.note(report.to_string());
        progress.note(running().await?);
    }

    say("fleetpack rollback");
    let report = rollback::rollback(
        rollback::Options {
            store: store.clone(),
            cluster,
            timeout: Duration::from_mins(5),
            ..rollback::Options::default()
        },
        progress.clone(),
    )
    .await?;
    progress.note(report.to_string());
    progress.note(running().await?);

    say("fleetpack history");
    progress.note(status::history(&store)?.to_string());
    server.stop().await?;
    // Both scripts wait for what they stop, which is no work for a thread of the runtime.
    tokio::task::spawn_blocking(move || parts.stop_now())
        .await
        .map_err(|error| Error::io("stop", folder, io::Error::other(error)))?;
    say("done: release 1.0 runs again, and nothing of the demo is left running");
    Ok(())
}
