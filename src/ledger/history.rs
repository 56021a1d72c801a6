//! What the lines of a ledger mean.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{Action, Entry, Line};
use crate::model::{Digest, ReleaseName};

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It did not: it runs right now, or it was cut.
    Unfinished,
    /// A later attempt began before this one had ended.
    Superseded,
    /// The release ran and was healthy.
    Succeeded {
        /// When.
        time: Timestamp,
    },
    /// It ended otherwise.
    Failed {
        /// When.
        time: Timestamp,
        /// What happened.
        error: String,
    },
}

/// One attempt to make a cluster run a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The number of its `begin`.
    pub number: u64,
    /// Line of releases.
    pub name: ReleaseName,
    /// What was wanted.
    pub action: Action,
    /// The release to run.
    pub release: Digest,
    /// The active release before.
    pub from: Option<Digest>,
    /// Why, where somebody had to say so.
    pub reason: Option<String>,
    /// When it began.
    pub began: Timestamp,
    /// Stages that are done, in order.
    pub steps: Vec<String>,
    /// How it ended.
    pub outcome: Outcome,
}

/// All lines of a ledger, and what follows from them.
#[derive(Debug, Clone, Default)]
pub struct History {
    lines: Vec<Line>,
    attempts: Vec<Attempt>,
    /// Position in `attempts` of the last attempt of each name.
    last: BTreeMap<ReleaseName, usize>,
    /// Position in `attempts` of the last attempt of each name that succeeded.
    active: BTreeMap<ReleaseName, usize>,
}

impl History {
    /// All lines, the oldest first.
    #[must_use]
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Number of the next line, and so of the attempt that it begins.
    #[must_use]
    pub fn next_number(&self) -> u64 {
        self.lines.len() as u64 + 1
    }

    /// Names of which a release was ever seeded or begun, sorted.
    pub fn names(&self) -> impl Iterator<Item = &ReleaseName> {
        let mut names: BTreeSet<&ReleaseName> = self.last.keys().collect();
        names.extend(self.lines.iter().filter_map(|line| match &line.entry {
            Entry::Seeded { name, .. } => Some(name),
            _ => None,
        }));
        names.into_iter()
    }

    /// The release of `name` that runs: that of its last `succeed`.
    #[must_use]
    pub fn active(&self, name: &ReleaseName) -> Option<Digest> {
        self.active_attempt(name).map(|attempt| attempt.release)
    }

    /// The attempt that made the active release of `name` run.
    #[must_use]
    pub fn active_attempt(&self, name: &ReleaseName) -> Option<&Attempt> {
        self.active.get(name).and_then(|at| self.attempts.get(*at))
    }

    /// The release that the last `begin` of `name` aimed at: nodes may already pull its images.
    /// Where no cluster was ever touched, it is the one that was seeded last.
    #[must_use]
    pub fn target(&self, name: &ReleaseName) -> Option<Digest> {
        self.last_attempt(name).map(|attempt| attempt.release).or_else(|| self.seeded(name).first().copied())
    }

    /// The last attempt of `name`, however it ended.
    #[must_use]
    pub fn last_attempt(&self, name: &ReleaseName) -> Option<&Attempt> {
        self.last.get(name).and_then(|at| self.attempts.get(*at))
    }

    /// The last attempt of `name`, when it neither succeeded nor failed: it was cut, or runs now.
    #[must_use]
    pub fn unfinished(&self, name: &ReleaseName) -> Option<&Attempt> {
        self.last_attempt(name).filter(|attempt| attempt.outcome == Outcome::Unfinished)
    }

    /// Every attempt that was cut or runs now, by name.
    pub fn all_unfinished(&self) -> impl Iterator<Item = &Attempt> {
        self.last.keys().filter_map(|name| self.unfinished(name))
    }

    /// All attempts, the oldest first.
    #[must_use]
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }

    /// All attempts of `name`, the oldest first.
    #[must_use]
    pub fn history<'a>(&'a self, name: &'a ReleaseName) -> impl DoubleEndedIterator<Item = &'a Attempt> {
        self.attempts.iter().filter(move |attempt| attempt.name == *name)
    }

    /// The attempt that `begin` line `number` began.
    #[must_use]
    pub fn attempt(&self, number: u64) -> Option<&Attempt> {
        self.position(number).and_then(|at| self.attempts.get(at))
    }

    /// Releases of `name` that ran healthy at some time, each once, the one that did so last first:
    /// the active one leads, the one to go back to follows.
    #[must_use]
    pub fn ran(&self, name: &ReleaseName) -> Vec<Digest> {
        let mut found = Vec::new();
        for attempt in self.history(name).rev() {
            if matches!(attempt.outcome, Outcome::Succeeded { .. }) && !found.contains(&attempt.release) {
                found.push(attempt.release);
            }
        }
        found
    }

    /// Releases of `name` that were seeded and not dropped since, each once, the one that was seeded
    /// last first.
    #[must_use]
    pub fn seeded(&self, name: &ReleaseName) -> Vec<Digest> {
        let mut found = Vec::new();
        let mut dropped = Vec::new();
        for line in self.lines.iter().rev() {
            match &line.entry {
                Entry::Dropped { release, .. } => dropped.push(*release),
                Entry::Seeded { name: of, release }
                    if of == name && !dropped.contains(release) && !found.contains(release) =>
                {
                    found.push(*release);
                }
                _ => {}
            }
        }
        found
    }

    /// Whether `release` was seeded and has not been dropped since.
    #[must_use]
    pub fn is_seeded(&self, release: Digest) -> bool {
        self.lines
            .iter()
            .rev()
            .find_map(|line| match &line.entry {
                Entry::Seeded { release: found, .. } if *found == release => Some(true),
                Entry::Dropped { release: found, .. } if *found == release => Some(false),
                _ => None,
            })
            .unwrap_or(false)
    }

    fn position(&self, number: u64) -> Option<usize> {
        self.attempts.binary_search_by_key(&number, |attempt| attempt.number).ok()
    }

    /// Refuses a line that makes no sense after those before.
    pub(super) fn check(&self, line: &Line) -> Result<(), String> {
        let (number, kind) = match &line.entry {
            Entry::Seeded { .. } | Entry::Dropped { .. } | Entry::Healed { .. } => return Ok(()),
            Entry::Begin { attempt, .. } if *attempt == line.number => return Ok(()),
            Entry::Begin { attempt, .. } => {
                return Err(format!("a `begin` with attempt {attempt} on line {}", line.number));
            }
            Entry::Step { attempt, .. } => (*attempt, "step"),
            Entry::Succeed { attempt } => (*attempt, "succeed"),
            Entry::Fail { attempt, .. } => (*attempt, "fail"),
        };
        match self.attempt(number).map(|attempt| &attempt.outcome) {
            Some(Outcome::Unfinished) => Ok(()),
            Some(_) => Err(format!("a `{kind}` of attempt {number}, which had ended before")),
            None => Err(format!("a `{kind}` of attempt {number}, but no line of that number began one")),
        }
    }

    /// Takes the next line, which [`History::check`] has let pass.
    pub(super) fn push(&mut self, line: Line) {
        match &line.entry {
            Entry::Seeded { .. } | Entry::Dropped { .. } | Entry::Healed { .. } => {}
            Entry::Begin { name, action, release, from, attempt: _, reason } => {
                // Whoever begins anew has given the cut attempt up.
                if let Some(before) = self.last.get(name).and_then(|at| self.attempts.get_mut(*at))
                    && before.outcome == Outcome::Unfinished
                {
                    before.outcome = Outcome::Superseded;
                }
                self.last.insert(name.clone(), self.attempts.len());
                self.attempts.push(Attempt {
                    number: line.number,
                    name: name.clone(),
                    action: *action,
                    release: *release,
                    from: *from,
                    reason: reason.clone(),
                    began: line.time,
                    steps: Vec::new(),
                    outcome: Outcome::Unfinished,
                });
            }
            Entry::Step { attempt, step } => {
                if let Some(at) = self.position(*attempt) {
                    self.attempts[at].steps.push(step.clone());
                }
            }
            Entry::Succeed { attempt } => {
                if let Some(at) = self.position(*attempt) {
                    self.attempts[at].outcome = Outcome::Succeeded { time: line.time };
                    self.active.insert(self.attempts[at].name.clone(), at);
                }
            }
            Entry::Fail { attempt, error } => {
                if let Some(at) = self.position(*attempt) {
                    self.attempts[at].outcome = Outcome::Failed { time: line.time, error: error.clone() };
                }
            }
        }
        self.lines.push(line);
    }
}
