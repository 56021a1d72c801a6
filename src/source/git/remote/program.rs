//! git as a child: without a shell, bounded in time and output, stopped when the caller gives up.

use std::io::{Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::{RemoteError, RemoteSettings, RemoteUrl, Scheme};
use crate::fsio::limits;

/// How long a remote may say nothing at all.
pub(super) const STALL: Duration = Duration::from_mins(3);
/// How long one step may take altogether.
pub(super) const DEADLINE: Duration = Duration::from_hours(6);
/// What is kept of git's complaints.
const COMPLAINT: usize = 2 << 10;
/// References of one repository as text: some hundred thousand.
const OUTPUT: u64 = 64 << 20;

/// Variables that would lead git to another repository than the one that it is told.
const ELSEWHERE: [&str; 9] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_NAMESPACE",
    "GIT_COMMON_DIR",
    "GIT_SHALLOW_FILE",
    "GIT_REPLACE_REF_BASE",
];

/// git, told of one remote.
pub(super) struct Git<'a> {
    program: &'a Path,
    settings: &'a RemoteSettings,
    url: &'a RemoteUrl,
}

/// A child that does not outlive this value; nor do its own children, where they have a group.
struct Guard {
    child: Child,
    group: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        if self.group
            && let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
        {
            // A group that is gone already is what is wanted.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl<'a> Git<'a> {
    /// The git of the settings, if there is one.
    pub fn new(settings: &'a RemoteSettings, url: &'a RemoteUrl) -> Option<Self> {
        settings.git.as_deref().map(|program| Self { program, settings, url })
    }

    /// Runs git on the repository at `folder`; answers with what it printed. `what` says what it is
    /// to do, for errors.
    pub fn run(
        &self,
        what: &'static str,
        folder: &Path,
        arguments: &[&str],
        input: &[u8],
    ) -> Result<Vec<u8>, RemoteError> {
        let mut command = self.command(folder);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let failed = |complaint: String| RemoteError::Git { what, url: self.url.to_string(), complaint };
        let mut guard = Guard {
            child: command
                .spawn()
                .map_err(|error| failed(format!("`{}`: {error}", self.program.display())))?,
            group: !self.settings.prompt,
        };
        let heard = Arc::new(AtomicU64::new(0));
        if let Some(mut pipe) = guard.child.stdin.take() {
            // A child that does not read its input says why on its own; inputs are smaller than a pipe holds.
            let _ = pipe.write_all(input);
        }
        // The readers are not joined: a child of the child could keep a pipe open for ever.
        let output = gather(guard.child.stdout.take(), OUTPUT, &heard);
        let complaint = last_lines(guard.child.stderr.take(), &heard);
        let watch = Watch::new(self.url, self.settings, folder);
        let mut last = (0, Instant::now());
        let status = loop {
            match guard.child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) => thread::sleep(Duration::from_millis(5)),
                Err(error) => return Err(failed(error.to_string())),
            }
            let size = watch.check()?;
            let now = heard.load(Ordering::Relaxed).wrapping_add(size);
            if now != last.0 {
                last = (now, Instant::now());
            } else if last.1.elapsed() > STALL {
                return Err(watch.late(format!("nothing came for {} s", STALL.as_secs())));
            }
        };
        if status.success() {
            let output = output.recv_timeout(Duration::from_secs(10)).unwrap_or_default();
            if output.len() as u64 > OUTPUT {
                return Err(failed(format!("it printed more than {OUTPUT} bytes")));
            }
            return Ok(output);
        }
        let complaint = complaint.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
        let mut complaint: String =
            complaint.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if complaint.is_empty() {
            complaint = status.to_string();
        }
        if let Some(secret) = self.url.secret() {
            complaint = complaint.replace(secret, "…");
        }
        Err(failed(complaint))
    }

    /// Its environment is the user's, since logins, proxies and keys are named there; but for what
    /// would lead it elsewhere.
    fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new(self.program);
        for name in ELSEWHERE {
            command.env_remove(name);
        }
        let allowed = match self.url.scheme() {
            Scheme::Https => "https",
            Scheme::Http => "http:https",
            Scheme::Ssh => "ssh",
            Scheme::File => "file",
        };
        command
            .env("GIT_ALLOW_PROTOCOL", allowed)
            .env("GIT_HTTP_LOW_SPEED_LIMIT", "1")
            .env("GIT_HTTP_LOW_SPEED_TIME", STALL.as_secs().to_string())
            .env("GIT_NO_LAZY_FETCH", "1")
            .env("LC_ALL", "C");
        if !self.settings.prompt {
            command.env("GIT_TERMINAL_PROMPT", "0").env("SSH_ASKPASS_REQUIRE", "never").process_group(0);
        }
        if let Some(with_login) = self.url.with_login() {
            // Arguments are seen by everybody on the machine; the environment is not.
            command
                .env("GIT_CONFIG_COUNT", "1")
                .env("GIT_CONFIG_KEY_0", format!("url.{with_login}.insteadOf"))
                .env("GIT_CONFIG_VALUE_0", self.url.as_str());
        }
        command.arg("--git-dir").arg(folder).args([
            "-c",
            "gc.auto=0",
            "-c",
            "maintenance.auto=false",
            "-c",
            "fetch.writeCommitGraph=false",
            "-c",
            "fetch.recurseSubmodules=false",
            "-c",
            "core.hooksPath=/dev/null",
            "-c",
            "fetch.unpackLimit=1",
        ]);
        command
    }
}

/// Bounds on a fetch: the clock, the size of what has come, and the caller's patience.
pub(super) struct Watch {
    url: String,
    cancel: Arc<AtomicBool>,
    packs: PathBuf,
    limit: u64,
    before: u64,
    begin: Instant,
}

impl Watch {
    /// For a fetch into the repository at `folder`.
    pub fn new(url: &RemoteUrl, settings: &RemoteSettings, folder: &Path) -> Self {
        let packs = folder.join("objects/pack");
        let before = size(&packs);
        Self {
            url: url.to_string(),
            cancel: Arc::clone(&settings.cancel),
            packs,
            limit: limits::GIT_FETCH,
            before,
            begin: Instant::now(),
        }
    }

    /// How much has come so far.
    pub fn check(&self) -> Result<u64, RemoteError> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(RemoteError::Interrupted { url: self.url.clone() });
        }
        if self.begin.elapsed() > DEADLINE {
            return Err(self.late(format!("it took more than {} s", DEADLINE.as_secs())));
        }
        let size = size(&self.packs);
        if size.saturating_sub(self.before) > self.limit {
            return Err(RemoteError::TooLarge { url: self.url.clone(), limit: self.limit });
        }
        Ok(size)
    }

    /// The error of one that waited long enough.
    pub fn late(&self, why: String) -> RemoteError {
        RemoteError::Time { url: self.url.clone(), why }
    }
}

/// Bytes of all files in a folder; what cannot be read counts as nothing.
fn size(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|data| data.len()).sum()
}

/// Reads a pipe on a thread, up to one byte above `limit`.
fn gather(
    pipe: Option<impl Read + Send + 'static>,
    limit: u64,
    heard: &Arc<AtomicU64>,
) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    let heard = Arc::clone(heard);
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let Some(pipe) = pipe else { return };
        let mut pipe = pipe.take(limit + 1);
        let mut part = vec![0; 64 << 10];
        while let Ok(count @ 1..) = pipe.read(&mut part) {
            heard.fetch_add(count as u64, Ordering::Relaxed);
            bytes.extend_from_slice(&part[..count]);
        }
        // Nobody waits any more when the taker has given up.
        let _ = sender.send(bytes);
    });
    receiver
}

/// Reads git's messages on a thread to their end and keeps the last ones that are no progress.
fn last_lines(pipe: Option<impl Read + Send + 'static>, heard: &Arc<AtomicU64>) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    let heard = Arc::clone(heard);
    thread::spawn(move || {
        let Some(mut pipe) = pipe else { return };
        let (mut kept, mut line) = (String::new(), Vec::new());
        let mut part = [0; 4096];
        let mut keep = |line: &mut Vec<u8>| {
            let text = String::from_utf8_lossy(line).trim().to_owned();
            line.clear();
            let progress = text.contains("% (") || text.ends_with("done.") || text.starts_with("From ");
            if !text.is_empty() && !progress {
                kept = format!("{kept} {text}");
                let excess = kept.len().saturating_sub(COMPLAINT);
                kept.drain(..kept.ceil_char_boundary(excess));
            }
        };
        while let Ok(count @ 1..) = pipe.read(&mut part) {
            heard.fetch_add(count as u64, Ordering::Relaxed);
            for byte in &part[..count] {
                if matches!(byte, b'\r' | b'\n') || line.len() > COMPLAINT {
                    keep(&mut line);
                } else {
                    line.push(*byte);
                }
            }
        }
        keep(&mut line);
        // Nobody waits any more when the taker has given up.
        let _ = sender.send(kept);
    });
    receiver
}
