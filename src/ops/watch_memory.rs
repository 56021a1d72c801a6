//! What a watch remembers of a release: what it said, what it healed, and who fights with it. Pure.
//!
//! A field that was healed three times within the window (twelve intervals, at least an hour) and
//! differs again is contested: another manager sets it. That is told once, and the field is left
//! as it is until it has been right for a whole window, another release becomes active, or the
//! watch begins anew. An object whose other fields differ too is healed as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::watch::fields_of;
use super::watch_line::What;
use crate::apply::{DriftReport, ObjectDrift};
use crate::model::{Digest, ObjectId};

/// Healings within the window after which a field counts as contested.
const TIMES: usize = 3;

/// A field of an object; the empty path is the object's being there at all.
type Place = (ObjectId, String);

#[derive(Debug)]
pub(super) struct Memory {
    /// The release that this is about.
    pub(super) release: Digest,
    window: Duration,
    /// When each field was healed.
    healed: BTreeMap<Place, Vec<Instant>>,
    /// Contested fields, and when each was last seen to differ.
    contested: BTreeMap<Place, Instant>,
    /// What stands in the way of objects, as it was told.
    problems: BTreeMap<ObjectId, String>,
}

impl Memory {
    pub(super) fn new(release: Digest, interval: Duration) -> Self {
        Self {
            release,
            window: interval.saturating_mul(12).max(Duration::from_hours(1)),
            healed: BTreeMap::new(),
            contested: BTreeMap::new(),
            problems: BTreeMap::new(),
        }
    }

    /// Whether something is left that healing did not bring back.
    pub(super) fn has_problems(&self) -> bool {
        !self.problems.is_empty() || !self.contested.is_empty()
    }

    /// What to heal of what differs, and what there is to say.
    pub(super) fn weigh(&mut self, report: &DriftReport, now: Instant) -> (Vec<ObjectDrift>, Vec<What>) {
        let mut said = Vec::new();
        let mut heal = Vec::new();
        let mut in_the_way = BTreeSet::new();
        for unchecked in &report.unchecked {
            in_the_way.insert(unchecked.object.clone());
            said.extend(self.problem(&unchecked.object, unchecked.why.clone()));
        }
        for drift in &report.drift {
            if let Some(why) = &drift.stuck {
                in_the_way.insert(drift.object.clone());
                said.extend(self.problem(&drift.object, why.clone()));
                continue;
            }
            let (contested, fresh): (Vec<String>, Vec<String>) =
                fields_of(drift).into_iter().partition(|path| self.is_contested(&drift.object, path, now));
            let mut news = false;
            for path in contested {
                news |= self.contested.insert((drift.object.clone(), path), now).is_none();
            }
            if news {
                said.push(What::Contested {
                    object: drift.object.clone(),
                    missing: drift.missing,
                    fields: drift.fields.clone(),
                    changed_by: drift.changed_by.clone(),
                });
            }
            if !fresh.is_empty() || drift.more_fields > 0 {
                // A failure to heal it that was told stays told until it works.
                in_the_way.insert(drift.object.clone());
                heal.push(drift.clone());
            }
        }
        self.problems.retain(|object, _| in_the_way.contains(object));
        let over: Vec<Place> = self
            .contested
            .iter()
            .filter(|(_, seen)| now.saturating_duration_since(**seen) > self.window)
            .map(|(place, _)| place.clone())
            .collect();
        for place in over {
            self.contested.remove(&place);
            said.push(What::Settled { object: place.0 });
        }
        (heal, said)
    }

    fn is_contested(&self, object: &ObjectId, path: &str, now: Instant) -> bool {
        let place = (object.clone(), path.to_owned());
        let recent = |time: &&Instant| now.saturating_duration_since(**time) <= self.window;
        let many = self.healed.get(&place).is_some_and(|times| times.iter().filter(recent).count() >= TIMES);
        many || self.contested.contains_key(&place)
    }

    /// An object was healed.
    pub(super) fn healed(&mut self, drift: &ObjectDrift, now: Instant) {
        self.problems.remove(&drift.object);
        for path in fields_of(drift) {
            self.healed.entry((drift.object.clone(), path)).or_default().push(now);
        }
        let window = self.window;
        self.healed.retain(|_, times| {
            times.retain(|time| now.saturating_duration_since(*time) <= window);
            !times.is_empty()
        });
    }

    /// Something stands in the way of an object: what to say, where that is news.
    pub(super) fn problem(&mut self, object: &ObjectId, why: String) -> Option<What> {
        if self.problems.get(object) == Some(&why) {
            return None;
        }
        self.problems.insert(object.clone(), why.clone());
        Some(What::NotHealed { object: object.clone(), why })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::{FieldDrift, UncheckedObject};
    use crate::model::Origin;

    fn object(name: &str) -> ObjectId {
        ObjectId {
            api_version: "v1".into(),
            kind: "ConfigMap".into(),
            namespace: Some("shop".into()),
            name: name.into(),
        }
    }

    fn origin() -> Origin {
        Origin { file: "a.yaml".into(), ..Origin::default() }
    }

    fn drift(name: &str, fields: &[&str]) -> ObjectDrift {
        ObjectDrift {
            object: object(name),
            origin: origin(),
            missing: fields.is_empty(),
            fields: fields
                .iter()
                .map(|path| FieldDrift { path: (*path).into(), wanted: None, found: None })
                .collect(),
            more_fields: 0,
            changed_by: vec!["other".into()],
            stuck: None,
        }
    }

    fn report(drift: Vec<ObjectDrift>, unchecked: &[&str]) -> DriftReport {
        DriftReport {
            name: "shop".parse().unwrap(),
            version: "1".parse().unwrap(),
            release: Digest::of(b"1"),
            objects: 9,
            ready: 9,
            unready: vec![],
            drift,
            superfluous: vec![],
            unchecked: unchecked
                .iter()
                .map(|name| UncheckedObject { object: object(name), origin: origin(), why: "no".into() })
                .collect(),
            inventory: None,
        }
    }

    fn events(said: &[What]) -> Vec<String> {
        let event = |what| serde_json::to_value(what).unwrap()["event"].as_str().unwrap().to_owned();
        said.iter().map(event).collect()
    }

    #[test]
    fn a_fight_is_told_once_and_ended() {
        let minute = Duration::from_mins(1);
        let mut memory = Memory::new(Digest::of(b"1"), minute * 5);
        let mut now = Instant::now();
        let one = drift("web", &["data.a"]);
        for _ in 0..TIMES {
            let (heal, said) = memory.weigh(&report(vec![one.clone()], &[]), now);
            assert_eq!((heal.len(), said.len()), (1, 0));
            memory.healed(&heal[0], now);
            now += minute * 5;
        }
        let (heal, said) = memory.weigh(&report(vec![one.clone()], &[]), now);
        assert!(heal.is_empty());
        assert_eq!(events(&said), ["contested"]);
        assert!(memory.has_problems());
        // Not again, for hours; but another field of the object is healed, and so is another object.
        for _ in 0..100 {
            now += minute * 5;
            let (heal, said) = memory.weigh(&report(vec![one.clone()], &[]), now);
            assert!(heal.is_empty() && said.is_empty());
        }
        let both = vec![drift("web", &["data.a", "data.b"]), drift("api", &[])];
        let (heal, said) = memory.weigh(&report(both, &[]), now);
        assert_eq!((heal.len(), said.len()), (2, 0));
        // Right for a whole window: looked after again.
        let (_, said) = memory.weigh(&report(vec![], &[]), now + minute * 59);
        assert!(said.is_empty());
        let (_, said) = memory.weigh(&report(vec![], &[]), now + minute * 61);
        assert_eq!(events(&said), ["settled"]);
        let (heal, _) = memory.weigh(&report(vec![one], &[]), now + minute * 62);
        assert_eq!(heal.len(), 1);
    }

    #[test]
    fn what_differs_now_and_then_is_no_fight() {
        let mut memory = Memory::new(Digest::of(b"1"), Duration::from_mins(5));
        let mut now = Instant::now();
        for _ in 0..20 {
            let (heal, said) = memory.weigh(&report(vec![drift("web", &[])], &[]), now);
            assert_eq!((heal.len(), said.len()), (1, 0));
            memory.healed(&heal[0], now);
            now += Duration::from_mins(40);
        }
    }

    #[test]
    fn what_stands_in_the_way_is_told_once() {
        let mut memory = Memory::new(Digest::of(b"1"), Duration::from_mins(5));
        let now = Instant::now();
        let mut stuck = drift("web", &["spec.a"]);
        stuck.stuck = Some("it can never change".into());
        let seen = report(vec![stuck], &["api"]);
        let (heal, said) = memory.weigh(&seen, now);
        assert!(heal.is_empty());
        assert_eq!(events(&said), ["notHealed", "notHealed"]);
        assert!(memory.weigh(&seen, now).1.is_empty());
        // It worked in between: then it is news again.
        assert!(memory.weigh(&report(vec![], &[]), now).1.is_empty());
        assert!(!memory.has_problems());
        assert_eq!(memory.weigh(&seen, now).1.len(), 2);
        // A refused healing too, as long as the refusal is the same.
        let tried = drift("db", &["spec.a"]);
        let seen = report(vec![tried.clone()], &[]);
        memory.weigh(&seen, now);
        assert!(memory.problem(&tried.object, "denied".into()).is_some());
        memory.weigh(&seen, now);
        assert!(memory.problem(&tried.object, "denied".into()).is_none());
        assert!(memory.problem(&tried.object, "another reason".into()).is_some());
        memory.healed(&tried, now);
        assert!(!memory.has_problems());
    }
}
