//! Git repositories made by the real git.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::command::{Ended, program, run};

/// A repository with a work tree; commits have fixed authors and times.
pub struct Repository {
    /// Its work tree.
    pub path: PathBuf,
    commits: AtomicU64,
}

impl Repository {
    /// A new one on branch `main`.
    #[track_caller]
    pub fn init(path: &Path) -> Self {
        std::fs::create_dir_all(path).unwrap();
        let repository = Self { path: path.to_owned(), commits: AtomicU64::new(0) };
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        repository
    }

    /// Runs git in it and answers with what it printed; stops the test when git fails.
    #[track_caller]
    pub fn git(&self, arguments: &[&str]) -> String {
        self.try_git(arguments).ok().stdout.trim_end().to_owned()
    }

    /// Runs git in it.
    #[track_caller]
    pub fn try_git(&self, arguments: &[&str]) -> Ended {
        let date = format!("{} +0000", 1_700_000_000 + 60 * self.commits.load(Relaxed));
        let mut command = program("git", &self.path);
        command
            .current_dir(&self.path)
            .envs([("GIT_AUTHOR_NAME", "Tester"), ("GIT_AUTHOR_EMAIL", "tester@localhost")])
            .envs([("GIT_COMMITTER_NAME", "Tester"), ("GIT_COMMITTER_EMAIL", "tester@localhost")])
            .envs([("GIT_AUTHOR_DATE", &date), ("GIT_COMMITTER_DATE", &date)])
            .args(["-c", "protocol.file.allow=always"])
            .args(arguments);
        run(&mut command)
    }

    /// Writes a file of the work tree.
    #[track_caller]
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Commits all that is there, one minute after the commit before, and answers with the hash.
    #[track_caller]
    pub fn commit(&self, message: &str) -> String {
        self.commits.fetch_add(1, Relaxed);
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", message]);
        self.git(&["rev-parse", "HEAD"])
    }
}
