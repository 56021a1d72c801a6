//! `watch`: keeps the cluster at the active release, from the store alone, for ever.
//!
//! In each round it compares every active release with the cluster, without any lock, and applies
//! the objects that differ, holding the store's lock for as long as that takes and no longer. It
//! deletes nothing, waits for no health, and stays away where somebody else is at work: an apply
//! that runs, was cut or failed, or a cluster that says it runs another release. What another
//! manager sets again and again is left to people.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch as flag;

use super::install::{self, Site};
use super::watch_line::{Line, What};
use super::watch_memory::Memory;
use super::{ClusterSettings, Error, Result, chain};
use crate::apply::{self as cluster, ApplyError, DriftReport, ObjectDrift, Observation};
use crate::fsio::lock::BRIEF;
use crate::ledger::{self, Entry, History, Outcome};
use crate::model::progress::Silent;
use crate::model::{Digest, ErrorClass, ReleaseName, ReleaseVersion};
use crate::store::{Store, StoreError};

/// Pause after a round that left something to be tried again.
const SOON: Duration = Duration::from_secs(5);
/// The longest pause that trouble leads to, unless the interval is longer.
const LATE: Duration = Duration::from_mins(5);
/// How long the cluster may take to answer at all.
const CONNECT: Duration = Duration::from_secs(15);
/// How long it may take to be asked about one release.
const COMPARE: Duration = Duration::from_mins(5);
/// How long a healing may begin new objects: others wait for the store meanwhile.
const HEAL: Duration = Duration::from_secs(30);
/// Rounds of `--once`: what depends on what came back in one round comes back in the next.
const ROUNDS: u32 = 5;
/// Objects that the ledger names for one healing.
const NAMED: usize = 20;

/// What a watch is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The store.
    pub store: PathBuf,
    /// The cluster.
    pub cluster: ClusterSettings,
    /// The one release line to watch; none watches all.
    pub name: Option<ReleaseName>,
    /// How long to wait between two rounds.
    pub interval: Duration,
    /// Bring back what differs, and end.
    pub once: bool,
}

/// How a round went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Round {
    /// All is as it should be, or is told and left to people.
    Quiet,
    /// Something was brought back: worth a look soon.
    Healed,
    /// Another fleetpack holds the store.
    Busy,
    /// Something did not work and may work later.
    Trouble,
}

/// An active release.
struct Active {
    name: ReleaseName,
    version: ReleaseVersion,
    release: Digest,
    /// Number of the attempt that made it active: another one means that somebody was at work.
    attempt: u64,
}

struct Watch<'a> {
    options: &'a Options,
    connection: Option<cluster::Cluster>,
    unreachable: bool,
    memory: BTreeMap<ReleaseName, Memory>,
    /// What was said of waiting, by name; the empty name stands for all.
    waiting: BTreeMap<Option<ReleaseName>, String>,
    tell: &'a mut (dyn FnMut(&Line) + Send),
    stop: flag::Receiver<bool>,
}

/// Watches until SIGTERM or SIGINT, or once. Answers with the class to end with: none where all is
/// as it should be.
///
/// # Errors
///
/// When signals cannot be waited for. Trouble with the store or the cluster is told in lines, and
/// only ends a watch that was to run once.
pub async fn watch(options: Options, mut tell: impl FnMut(&Line) + Send) -> Result<Option<ErrorClass>> {
    let signals = |kind| signal(kind).map_err(|error| Error::io("wait for", Path::new("signals"), error));
    let (mut terminate, mut interrupt) =
        (signals(SignalKind::terminate())?, signals(SignalKind::interrupt())?);
    let (stopping, stop) = flag::channel(false);
    let mut watch = Watch {
        options: &options,
        connection: None,
        unreachable: false,
        memory: BTreeMap::new(),
        waiting: BTreeMap::new(),
        tell: &mut tell,
        stop,
    };
    let mut work = std::pin::pin!(watch.run());
    let stopped = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::select! {
        ended = &mut work => return ended,
        () = stopped => {}
    }
    // An object that is being applied is let finish; nothing new begins.
    let _ = stopping.send(true);
    work.await
}

impl Watch<'_> {
    async fn run(&mut self) -> Result<Option<ErrorClass>> {
        let (mut troubles, mut rounds) = (0_u32, 0_u32);
        loop {
            let round = self.round().await;
            if *self.stop.borrow() {
                self.say(None, What::Stopped);
                return Ok(None);
            }
            rounds += 1;
            troubles = if round == Round::Trouble { troubles + 1 } else { 0 };
            let pause = match round {
                Round::Quiet if self.options.once => return Ok(self.verdict()),
                Round::Quiet => self.options.interval,
                Round::Healed | Round::Busy => SOON.min(self.options.interval),
                Round::Trouble => backoff(troubles, self.options.interval),
            };
            if self.options.once {
                match round {
                    Round::Busy => return Ok(Some(ErrorClass::Locked)),
                    Round::Trouble if self.unreachable => return Ok(Some(ErrorClass::Failed)),
                    _ if rounds >= ROUNDS => return Ok(Some(ErrorClass::Differs)),
                    _ => {}
                }
            }
            let pause = if self.options.once { pause.min(Duration::from_secs(1)) } else { jitter(pause) };
            let mut stop = self.stop.clone();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // A sender that is gone stops the watch as a message does.
                _ = stop.wait_for(|stop| *stop) => {}
            }
            if *self.stop.borrow() {
                self.say(None, What::Stopped);
                return Ok(None);
            }
        }
    }

    /// What a watch that runs once ends with.
    fn verdict(&self) -> Option<ErrorClass> {
        let left = self.memory.values().any(Memory::has_problems);
        (left || !self.waiting.is_empty()).then_some(ErrorClass::Differs)
    }

    fn say(&mut self, active: Option<&Active>, what: What) {
        let line = Line {
            time: Timestamp::now(),
            name: active.map(|active| active.name.clone()),
            version: active.map(|active| active.version.clone()),
            what,
        };
        (self.tell)(&line);
    }

    /// Says once why nothing is done about `name`, or about anything.
    fn wait_for(&mut self, name: Option<ReleaseName>, why: String) {
        if self.waiting.get(&name) != Some(&why) {
            let line = Line {
                time: Timestamp::now(),
                name: name.clone(),
                version: None,
                what: What::Waiting { why: why.clone() },
            };
            (self.tell)(&line);
            self.waiting.insert(name, why);
        }
    }

    async fn round(&mut self) -> Round {
        let (store, history) = match read(&self.options.store) {
            Ok(Some(read)) => read,
            Ok(None) => {
                let why = format!("there is no store at `{}` yet", self.options.store.display());
                self.wait_for(None, why);
                return Round::Quiet;
            }
            Err(error) => {
                self.wait_for(None, chain(&error));
                return Round::Trouble;
            }
        };
        let names: Vec<ReleaseName> = match &self.options.name {
            Some(name) => vec![name.clone()],
            None => history.names().cloned().collect(),
        };
        let mut result = Round::Quiet;
        self.waiting.retain(|name, _| name.as_ref().is_none_or(|name| names.contains(name)));
        let mut active = Vec::new();
        for name in names {
            match active_release(&store, &history, &name) {
                Ok(found) => active.push(found),
                Err(why) => self.wait_for(Some(name), why),
            }
        }
        if active.is_empty() {
            if self.waiting.keys().all(Option::is_none) {
                self.wait_for(None, "nothing was applied from this store yet".into());
            }
            return result;
        }
        self.waiting.remove(&None);
        for active in active {
            if *self.stop.borrow() {
                return result;
            }
            let known = self.memory.get(&active.name).is_some_and(|memory| memory.release == active.release);
            if !known {
                self.memory.insert(active.name.clone(), Memory::new(active.release, self.options.interval));
                self.say(Some(&active), What::Watching { release: active.release });
            }
            result = result.max(self.look_after(&store, &active).await);
        }
        result
    }

    /// Compares one release, and brings back what differs.
    async fn look_after(&mut self, store: &Store, active: &Active) -> Round {
        let mut stop = self.stop.clone();
        let looked = tokio::select! {
            looked = look(&mut self.connection, self.options, store, active) => looked,
            _ = stop.wait_for(|stop| *stop) => return Round::Quiet,
        };
        let (seen, report) = match looked {
            Ok(looked) => looked,
            Err(error) => {
                // A new connection reads the kubeconfig anew: credentials may have been renewed.
                self.connection = None;
                if !self.unreachable {
                    self.unreachable = true;
                    self.say(Some(active), What::Unreachable { why: chain(&error) });
                }
                return Round::Trouble;
            }
        };
        if std::mem::take(&mut self.unreachable) {
            self.say(Some(active), What::Reachable);
        }
        if let Some(problem) = report.inventory.as_ref().filter(|problem| !problem.heals()) {
            self.wait_for(Some(active.name.clone()), format!("{problem}; it is left alone"));
            return Round::Quiet;
        }
        self.waiting.remove(&Some(active.name.clone()));
        let (heal, said) = match self.memory.get_mut(&active.name) {
            Some(memory) => memory.weigh(&report, Instant::now()),
            None => return Round::Quiet,
        };
        for what in said {
            self.say(Some(active), what);
        }
        if heal.is_empty() && report.inventory.is_none() {
            return Round::Quiet;
        }
        match self.heal(&seen, active, &heal).await {
            Ok(round) => round,
            Err(error) if error.class() == ErrorClass::Locked => Round::Busy,
            Err(error) => {
                if !self.unreachable {
                    self.unreachable = true;
                    self.say(Some(active), What::Unreachable { why: chain(&error) });
                }
                Round::Trouble
            }
        }
    }

    /// Applies what differs while it holds the store.
    async fn heal(&mut self, seen: &Observation, active: &Active, drift: &[ObjectDrift]) -> Result<Round> {
        let mut site = Site::open_existing(&self.options.store, BRIEF)?;
        if site.ledger.last_attempt(&active.name).map(|attempt| attempt.number) != Some(active.attempt) {
            // Somebody applied something since the look.
            return Ok(Round::Healed);
        }
        // Without it, nothing would have been written down if the process ended in the middle: what
        // came back came back all the same, and the next round finds the rest.
        let Some(connection) = self.connection.clone() else { return Ok(Round::Trouble) };
        let objects: Vec<_> = drift.iter().map(|drift| drift.object.clone()).collect();
        let stop = self.stop.clone();
        let outcomes =
            cluster::heal(&connection, seen, &objects, Instant::now() + HEAL, &move || *stop.borrow())
                .await?;
        let mut round = Round::Healed;
        let mut healed = Vec::new();
        for outcome in outcomes {
            let Some(drift) = drift.iter().find(|drift| drift.object == outcome.object) else { continue };
            let Some(memory) = self.memory.get_mut(&active.name) else { continue };
            let what = match outcome.outcome {
                Ok(()) => {
                    healed.push(outcome.object.to_string());
                    memory.healed(drift, Instant::now());
                    Some(What::healed(drift))
                }
                Err(error) => {
                    round = Round::Trouble;
                    memory.problem(&drift.object, chain(&error))
                }
            };
            if let Some(what) = what {
                self.say(Some(active), what);
            }
        }
        if !healed.is_empty() {
            let more = healed.len().saturating_sub(NAMED) as u64;
            healed.truncate(NAMED);
            let entry =
                Entry::Healed { name: active.name.clone(), release: active.release, objects: healed, more };
            site.ledger.append(Timestamp::now(), entry)?;
        }
        Ok(round)
    }
}

/// The store and its ledger; none where there is no store yet.
fn read(path: &Path) -> Result<Option<(Store, History)>> {
    let store = match Store::open_read_only(path) {
        Ok(store) => store,
        Err(StoreError::Absent { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let history = ledger::read(store.folder())?;
    Ok(Some((store, history)))
}

/// The release that `name` runs, or why none is to be looked after.
fn active_release(
    store: &Store,
    history: &History,
    name: &ReleaseName,
) -> std::result::Result<Active, String> {
    let Some(last) = history.last_attempt(name) else {
        return Err("nothing of it was applied to a cluster yet".into());
    };
    match &last.outcome {
        Outcome::Succeeded { .. } => {}
        Outcome::Failed { error, .. } => {
            let error: String = error.lines().next().unwrap_or_default().chars().take(300).collect();
            return Err(format!(
                "the last attempt ({} of {}) failed, and the cluster is as it left it: {error}",
                last.action,
                last.release.short()
            ));
        }
        Outcome::Unfinished | Outcome::Superseded => {
            return Err(format!(
                "an attempt ({} of {}) has not ended: it runs now, or was cut and the same command finishes it",
                last.action,
                last.release.short()
            ));
        }
    }
    let release = super::apply::known(store, last.release).map_err(|error| chain(&error))?;
    Ok(Active {
        name: name.clone(),
        version: release.document().version.clone(),
        release: last.release,
        attempt: last.number,
    })
}

/// Compares a release with the cluster; connects where there is no connection.
async fn look(
    connection: &mut Option<cluster::Cluster>,
    options: &Options,
    store: &Store,
    active: &Active,
) -> Result<(Observation, DriftReport)> {
    let late = |seconds: Duration| {
        let why = format!("no answer within {} s", seconds.as_secs());
        Error::from(ApplyError::Answer { what: "ask the cluster".into(), why })
    };
    let connected = match connection.take() {
        Some(connected) => connected,
        None => tokio::time::timeout(CONNECT, cluster::connect(&options.cluster.target()))
            .await
            .map_err(|_| late(CONNECT))??,
    };
    let release = super::apply::known(store, active.release)?;
    let objects = install::stored_objects(store, &release)?;
    let looked = async {
        let seen = cluster::observe(&connected, objects, &Silent).await?;
        let report = cluster::compare(&connected, &seen).await;
        Ok::<_, Error>((seen, report))
    };
    let looked = tokio::time::timeout(COMPARE, looked).await.map_err(|_| late(COMPARE))??;
    *connection = Some(connected);
    Ok(looked)
}

/// The pause after `troubles` troubled rounds in a row.
fn backoff(troubles: u32, interval: Duration) -> Duration {
    let doubled = SOON.min(interval).saturating_mul(1 << troubles.saturating_sub(1).min(16));
    doubled.min(LATE.max(interval))
}

/// A pause within a tenth of `pause`, so that the sites of a fleet do not ask all at once.
fn jitter(pause: Duration) -> Duration {
    // A freshly keyed hasher is all the randomness that jitter needs.
    let chance = u32::try_from(RandomState::new().hash_one(0) % 1000).unwrap_or_default();
    pause.mul_f64(0.9 + f64::from(chance) / 5000.0)
}

/// Names of fields, bounded.
pub(super) fn fields_of(drift: &ObjectDrift) -> BTreeSet<String> {
    if drift.missing {
        return [String::new()].into();
    }
    drift.fields.iter().map(|field| field.path.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_met_with_patience() {
        let interval = Duration::from_mins(1);
        let pauses: Vec<u64> = (1..9).map(|troubles| backoff(troubles, interval).as_secs()).collect();
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff(100, Duration::from_secs(1)).as_secs(), 300);
        assert_eq!(backoff(100, Duration::from_hours(1)).as_secs(), 3600);
        for _ in 0..100 {
            let pause = jitter(Duration::from_secs(100)).as_secs_f64();
            assert!((90.0..=110.0).contains(&pause), "{pause}");
        }
    }
}
