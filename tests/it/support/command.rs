//! Programs in a scrubbed environment: nothing of the user's settings reaches a test.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// How a program ended and what it printed.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; 128 and more for a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ended {
    /// Stops the test unless the program ended with 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Stops the test unless the program ended with `code` and said each of `parts` on stderr.
    #[track_caller]
    pub fn refused(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "wanted `{part}` in:\n{}", self.stderr);
        }
        self
    }

    /// Standard output as JSON; of JSON lines the last one.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        let whole = serde_json::from_str(&self.stdout);
        let last = self.stdout.trim_end().lines().last().unwrap_or_default();
        whole
            .or_else(|error| serde_json::from_str(last).map_err(|_| error))
            .unwrap_or_else(|error| panic!("{error} in:\n{}", self.stdout))
    }

    /// Standard output as JSON lines.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<serde_json::Value> {
        let parsed = self.stdout.lines().map(serde_json::from_str).collect::<Result<Vec<_>, _>>();
        parsed.unwrap_or_else(|error| panic!("{error} in:\n{}", self.stdout))
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        Self {
            code: output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0)),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// A program with an environment of its own: `PATH`, a home in `home`, the C locale, UTC.
pub fn program(name: impl AsRef<OsStr>, home: &Path) -> Command {
    let mut command = Command::new(name);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("COSIGN_PASSWORD", "")
        .env("FLEETPACK_TESTBED", super::testbed::folder_hint())
        .stdin(Stdio::null());
    command
}

/// The binary under test.
pub fn fleetpack(home: &Path) -> Command {
    program(env!("CARGO_BIN_EXE_fleetpack"), home)
}

/// Runs a program to its end.
#[track_caller]
pub fn run(command: &mut Command) -> Ended {
    match command.output() {
        Ok(output) => output.into(),
        Err(error) => panic!("cannot run {command:?}: {error}"),
    }
}
