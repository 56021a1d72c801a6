//! Runs `kustomize`, `kubectl` or `helm` as a child: without a shell, in an environment that holds
//! nothing of ours, bounded in time and output, and as far from the network as a child can be
//! put without privileges.

use std::io::{self, Read};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::fsio::limits;
use crate::source::git::remote::RemoteSettings;

/// Longer than any honest rendering takes.
const DEADLINE: Duration = Duration::from_mins(5);
/// What is kept of the child's complaints.
const COMPLAINT: u64 = 16 << 10;

/// The tools of the build machine that render kustomizations and charts.
#[derive(Debug, Clone, Default)]
pub struct RenderTools {
    /// `kustomize`, which is taken first.
    pub kustomize: Option<PathBuf>,
    /// `kubectl`, whose `kustomize` command is the same code.
    pub kubectl: Option<PathBuf>,
    /// `helm`, version 3 or 4.
    pub helm: Option<PathBuf>,
    /// How the bases of kustomizations that lie elsewhere are fetched.
    pub remote: RemoteSettings,
}

/// Why a tool did not render.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// The tool could not be started or waited for.
    #[error("cannot run `{}`", tool.display())]
    Start {
        /// The tool.
        tool: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The tool says that the input is wrong.
    #[error("`{}` refused {folder} ({status}): {complaint}", tool.display())]
    Refused {
        /// The tool.
        tool: PathBuf,
        /// What it was to render, as people say it.
        folder: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to standard error, cut.
        complaint: String,
    },
    /// The tool took too long and was stopped.
    #[error("`{}` did not end within {} s on {folder}", tool.display(), DEADLINE.as_secs())]
    Time {
        /// The tool.
        tool: PathBuf,
        /// What it was to render, as people say it.
        folder: String,
    },
    /// The tool wrote too much and was stopped.
    #[error("`{}` wrote more than {} bytes for {folder}", tool.display(), limits::RENDERED)]
    Output {
        /// The tool.
        tool: PathBuf,
        /// What it was to render, as people say it.
        folder: String,
    },
}

impl ToolError {
    /// The error with what the tool said put otherwise.
    pub(super) fn with_complaint(mut self, change: impl FnOnce(&str) -> String) -> Self {
        if let Self::Refused { complaint, .. } = &mut self {
            *complaint = change(complaint);
        }
        self
    }
}

/// What a tool wrote.
pub(super) struct Written {
    /// To standard output.
    pub output: Vec<u8>,
    /// To standard error, cut.
    pub complaint: String,
}

/// A child that does not outlive this value, nor do its own children.
struct Guard(Child);

impl Guard {
    fn kill(&mut self) {
        if let Some(group) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            // A group that is gone already is what is wanted.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }

    fn wait_until(&mut self, end: Instant) -> io::Result<Option<ExitStatus>> {
        loop {
            match self.0.try_wait()? {
                None if Instant::now() < end => thread::sleep(Duration::from_millis(5)),
                status => return Ok(status),
            }
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(Some(_))) {
            self.kill();
        }
    }
}

impl RenderTools {
    /// The tool that will be taken, with the arguments that come before the folder.
    pub(super) fn choose(&self) -> Option<(&Path, &'static str)> {
        let kustomize = self.kustomize.as_deref().map(|tool| (tool, "build"));
        kustomize.or_else(|| self.kubectl.as_deref().map(|tool| (tool, "kustomize")))
    }
}

/// Renders the folder `at` (called `folder`, in quotes, in errors) and returns what the tool writes.
/// `scratch` serves as its home and for its temporary files.
pub(super) fn kustomize(
    (tool, verb): (&Path, &str),
    at: &Path,
    folder: &str,
    scratch: &Path,
) -> Result<Vec<u8>, ToolError> {
    let mut command = child(tool, scratch);
    command.arg(verb).args(["--load-restrictor", "LoadRestrictionsRootOnly"]).arg("--").arg(at);
    run(command, tool, &format!("`{folder}`"), DEADLINE).map(|written| written.output)
}

/// Renders the chart `at` with `helm template` and `arguments`, the last of which is the name of the
/// release. `asked_by` names the request in errors; `scratch` is the working folder and home.
pub(super) fn helm(
    tool: &Path,
    arguments: &[String],
    at: &Path,
    asked_by: &str,
    scratch: &Path,
) -> Result<Written, ToolError> {
    let mut command = child(tool, scratch);
    // Nothing of the user's own Helm may matter: plugins, repositories, credentials.
    for name in ["CONFIG", "CACHE", "DATA"] {
        command.env(format!("HELM_{name}_HOME"), scratch.join("helm").join(name));
        command.env(format!("XDG_{name}_HOME"), scratch.join("helm").join(name));
    }
    command.env("HELM_PLUGINS", scratch.join("helm/plugins"));
    command.arg("template").args(arguments).arg(at);
    run(command, tool, asked_by, DEADLINE)
}

/// A child that knows nothing of ours: no environment, its own home, no input, its own group.
fn child(tool: &Path, scratch: &Path) -> Command {
    let mut command = Command::new(tool);
    command
        .current_dir(scratch)
        .env_clear()
        .env("HOME", scratch)
        .env("TMPDIR", scratch)
        .env("PATH", "/usr/bin:/bin")
        .env("LC_ALL", "C")
        .env("KUBECONFIG", "/dev/null")
        // The names that lead elsewhere were refused before. What may have slipped through meets a
        // Git without transports and a proxy that nobody runs (port 9 is the discard service).
        .env("GIT_ALLOW_PROTOCOL", "none")
        .env("GIT_TERMINAL_PROMPT", "0")
        .envs(
            ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]
                .map(|name| (name, "http://127.0.0.1:9")),
        )
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    command
}

fn run(mut command: Command, tool: &Path, folder: &str, limit: Duration) -> Result<Written, ToolError> {
    let start = |source| ToolError::Start { tool: tool.to_owned(), source };
    let time = || ToolError::Time { tool: tool.to_owned(), folder: folder.to_owned() };
    let end = Instant::now() + limit;
    let mut guard = Guard(command.spawn().map_err(start)?);

    // The readers are not joined: a child of the child could keep a pipe open for ever.
    let (output, complaint) =
        (reader(guard.0.stdout.take(), limits::RENDERED), reader(guard.0.stderr.take(), COMPLAINT));
    let Ok(output) = output.recv_timeout(end.saturating_duration_since(Instant::now())) else {
        return Err(time());
    };
    let output = output.map_err(start)?;
    if output.len() as u64 > limits::RENDERED {
        return Err(ToolError::Output { tool: tool.to_owned(), folder: folder.to_owned() });
    }
    let status = guard.wait_until(end).map_err(start)?.ok_or_else(time)?;
    let complaint =
        complaint.recv_timeout(Duration::from_secs(1)).ok().and_then(Result::ok).unwrap_or_default();
    let complaint = String::from_utf8_lossy(&complaint).trim().to_owned();
    if status.success() {
        return Ok(Written { output, complaint });
    }
    Err(ToolError::Refused { tool: tool.to_owned(), folder: folder.to_owned(), status, complaint })
}

/// Reads a pipe on a thread: up to one byte above `limit`, so that the taker sees an excess. The rest
/// is read and dropped, so that the writer does not block on it.
fn reader(pipe: Option<impl Read + Send + 'static>, limit: u64) -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let Some(mut pipe) = pipe else { return };
        let result = pipe.by_ref().take(limit.saturating_add(1)).read_to_end(&mut bytes);
        // Nobody waits any more when the taker has given up.
        let _ = sender.send(result.map(|_| bytes));
        let _ = io::copy(&mut pipe, &mut io::sink());
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, limit: Duration) -> Result<Vec<u8>, ToolError> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        run(command, Path::new("/bin/sh"), "`deploy`", limit).map(|written| written.output)
    }

    #[test]
    fn output_complaint_and_time() {
        let long = Duration::from_mins(1);
        assert_eq!(sh("echo yes; echo no >&2", long).unwrap(), b"yes\n");
        let message = sh("echo broken >&2; exit 3", long).unwrap_err().to_string();
        assert!(message.contains("refused `deploy` (exit status: 3): broken"), "{message}");
        let message = sh("head -c 300000 /dev/zero >&2; echo end", long);
        assert_eq!(message.unwrap(), b"end\n", "a loud child does not block");
        // The grandchild holds the pipe: the deadline must not wait for it.
        let begin = Instant::now();
        assert!(matches!(sh("sleep 100 & wait", Duration::from_millis(200)), Err(ToolError::Time { .. })));
        assert!(matches!(
            sh("exec >&- 2>&-; sleep 100", Duration::from_millis(200)),
            Err(ToolError::Time { .. })
        ));
        assert!(begin.elapsed() < Duration::from_secs(50));
        assert!(matches!(sh("cat /dev/zero", long), Err(ToolError::Output { .. })));
        let missing = Command::new("/no/such/tool");
        assert!(matches!(run(missing, Path::new("/no/such/tool"), "x", long), Err(ToolError::Start { .. })));
    }
}
