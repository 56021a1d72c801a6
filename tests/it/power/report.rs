//! What a run of power cuts found.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::disk::{Event, Kind};
use super::site::Recording;

/// One cut.
pub struct Outcome {
    /// What the store lay on.
    pub file_system: &'static str,
    /// Name of the scenario.
    pub scenario: &'static str,
    /// How the power failed.
    pub kind: Kind,
    /// After so many events.
    pub at: usize,
    /// The last failpoint before it.
    pub step: String,
    /// What repeats it.
    pub repeat: String,
    /// How long it took.
    pub seconds: f64,
    /// What was wrong.
    pub violation: Option<String>,
}

/// All cuts.
#[derive(Default)]
pub struct Report {
    outcomes: Vec<Outcome>,
    /// Failpoints, writes, flushes and calls of each scenario and file system, over its recordings.
    recorded: BTreeMap<(&'static str, &'static str), [usize; 4]>,
}

impl Report {
    /// Notes what a recording holds.
    pub fn recorded(&mut self, file_system: &'static str, scenario: &'static str, recording: &Recording) {
        let counts = self.recorded.entry((scenario, file_system)).or_default();
        for event in &recording.log.events {
            let at = match event {
                Event::Step(_) => 0,
                Event::Write(..) => 1,
                Event::Flush => 2,
                Event::CallBegan(_) => 3,
                Event::CallEnded(_) | Event::Ended => continue,
            };
            counts[at] += 1;
        }
    }

    /// Notes one cut, and says it.
    pub fn add(&mut self, outcome: Outcome) {
        let Outcome { repeat, kind, at, step, seconds, violation, .. } = &outcome;
        let result = violation.as_deref().unwrap_or("survived");
        eprintln!("{repeat} {} (event {at}, after `{step}`), {seconds:.1} s: {result}", kind.name());
        self.outcomes.push(outcome);
    }

    /// Takes over another's.
    pub fn take(&mut self, other: Self) {
        self.outcomes.extend(other.outcomes);
        for (key, counts) in other.recorded {
            let own = self.recorded.entry(key).or_default();
            for (own, count) in own.iter_mut().zip(counts) {
                *own += count;
            }
        }
    }

    /// How many cuts.
    pub fn count(&self) -> usize {
        self.outcomes.len()
    }

    /// Those that broke something.
    pub fn violations(&self) -> Vec<String> {
        let broken = self.outcomes.iter().filter_map(|outcome| Some((outcome, outcome.violation.as_ref()?)));
        broken
            .map(|(outcome, why)| {
                let Outcome { repeat, kind, step, .. } = outcome;
                format!(
                    "{repeat} {}, after `{step}`: {why}\n  again: FLEETPACK_POWER_ONLY={repeat}",
                    kind.name()
                )
            })
            .collect()
    }

    /// Cuts by scenario, file system and kind.
    pub fn table(&self) -> String {
        const KINDS: [Kind; 4] = [Kind::Failpoint, Kind::Anywhere, Kind::Lost, Kind::Torn];
        let mut text = "| scenario | store on | failpoints, writes, flushes, calls recorded |".to_owned();
        for kind in KINDS {
            let _ = write!(text, " {} |", kind.name());
        }
        text.push_str(" cuts | violations |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
        for ((scenario, file_system), counts) in &self.recorded {
            let here: Vec<&Outcome> = self
                .outcomes
                .iter()
                .filter(|outcome| outcome.scenario == *scenario && outcome.file_system == *file_system)
                .collect();
            let [points, writes, flushes, calls] = counts;
            let _ = write!(text, "| {scenario} | {file_system} | {points}, {writes}, {flushes}, {calls} |");
            for kind in KINDS {
                let cuts: Vec<_> = here.iter().filter(|outcome| outcome.kind == kind).collect();
                let places: BTreeSet<_> = cuts.iter().map(|outcome| (outcome.at, &outcome.step)).collect();
                let _ = write!(text, " {} at {} places |", cuts.len(), places.len());
            }
            let violations = here.iter().filter(|outcome| outcome.violation.is_some()).count();
            let _ = writeln!(text, " {} | {violations} |", here.len());
        }
        text
    }

    /// The whole report, for `docs/`.
    pub fn document(&self, cuts: usize, seed: u64) -> String {
        let violations = self.violations();
        let found = if violations.is_empty() {
            "None.\n".to_owned()
        } else {
            violations.iter().fold(String::new(), |text, violation| format!("{text}- {violation}\n"))
        };
        format!(
            "{HEAD}\n## The last long run\n\n{} power cuts, seed {seed}, {} violations.\n\n{}\n### Violations\n\n{found}\n\
             ### To repeat it\n\n```text\n\
             FLEETPACK_POWER_CUTS={cuts} FLEETPACK_POWER_SEED={seed} FLEETPACK_POWER_REPORT=docs/power-cuts.md \\\n    \
             cargo test --test it power::the_power_fails -- --nocapture\n```\n\n\
             One cut alone: the same with `FLEETPACK_POWER_ONLY=ext4.0/next/17` (worker, scenario, number), as \
             each line of the run begins. Without variables, as in CI, 30 cuts are made.\n",
            self.count(),
            violations.len(),
            self.table()
        )
    }
}

/// What the run is, for who reads the page.
const HEAD: &str = include_str!("page.md");
