//! What is waited for, as lines: on a terminal a table redrawn in place, on a pipe what is new.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::model::{HealthState, ObjectId, Waiting, WaitingFor};

/// Lines of the table at most: it must fit the smallest usual terminal.
const LINES: usize = 14;
/// Lines of an object in it.
const LINES_OF_ONE: usize = 5;
/// How long an object may be on its way before a pipe hears of it.
const PATIENCE: u64 = 5;
/// How often a pipe hears how far it is, where nothing is new.
const SUMMARY: Duration = Duration::from_secs(30);

/// The table, without its headline.
pub(super) fn table(waiting: &Waiting) -> Vec<String> {
    let names: Vec<String> = waiting.unready.iter().map(|row| row.object.to_string()).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).min(40);
    let mut lines = Vec::new();
    let mut left_out = waiting.more;
    if let Some(why) = &waiting.unreachable {
        lines.push(format!("  the API server does not answer: {why}"));
    }
    for (row, name) in waiting.unready.iter().zip(names) {
        let details = row.details.iter().map(|detail| format!("           {detail}"));
        let log = row.log.iter().map(|line| format!("           | {line}"));
        let mut of_one = vec![format!("  {:<7}  {name:<width$}  {}", row.state, row.message)];
        of_one.extend(details.chain(log).take(LINES_OF_ONE - 1));
        if lines.len() + of_one.len() >= LINES {
            // The headline at least, as long as there is room for it.
            of_one.truncate(1);
        }
        if lines.len() + of_one.len() >= LINES {
            left_out += 1;
        } else {
            lines.append(&mut of_one);
        }
    }
    if left_out > 0 {
        lines.push(format!("  and {left_out} more"));
    }
    lines
}

/// What was told of a wait so far.
#[derive(Debug, Default)]
pub(super) struct Told {
    rows: BTreeMap<ObjectId, String>,
    last: Option<Instant>,
}

impl Told {
    /// The lines that are worth a pipe: what changed, and now and then how far it is.
    pub(super) fn lines(&mut self, waiting: &Waiting, now: Instant) -> Vec<String> {
        let last = *self.last.get_or_insert(now);
        let mut lines = Vec::new();
        for object in &waiting.became_ready {
            if self.rows.remove(object).is_some() {
                lines.push(format!("ready: {object}"));
            }
        }
        for row in &waiting.unready {
            let is_news = row.state == HealthState::Failed || waiting.seconds >= PATIENCE;
            let text = text(row);
            if is_news && self.rows.get(&row.object) != Some(&text) {
                lines.push(text.clone());
                self.rows.insert(row.object.clone(), text);
            }
        }
        if !lines.is_empty() {
            self.last = Some(now);
        } else if now.duration_since(last) >= SUMMARY {
            self.last = Some(now);
            lines.push(waiting.to_string());
        }
        lines
    }
}

fn text(row: &WaitingFor) -> String {
    let mut text = format!("{}: {}: {}", row.state, row.object, row.why());
    for line in &row.log {
        text.push_str("\n    | ");
        text.push_str(line);
    }
    text
}

/// Which looks are worth a line of JSON.
#[derive(Debug, Default)]
pub(super) struct News {
    last: Option<(Waiting, Instant)>,
}

impl News {
    /// Whether the look says something new, or the last one is long ago.
    pub(super) fn is(&mut self, waiting: &Waiting, now: Instant) -> bool {
        let is_news = self
            .last
            .as_ref()
            .is_none_or(|(before, at)| !waiting.says_the_same(before) || now.duration_since(*at) >= SUMMARY);
        if is_news {
            self.last = Some((waiting.clone(), now));
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, message: &str, details: &[&str], log: &[&str]) -> WaitingFor {
        let owned = |lines: &[&str]| lines.iter().map(|&line| line.to_owned()).collect();
        WaitingFor {
            object: ObjectId {
                api_version: "apps/v1".into(),
                kind: "Deployment".into(),
                namespace: Some("shop".into()),
                name: name.into(),
            },
            state: HealthState::InProgress,
            message: message.into(),
            details: owned(details),
            log: owned(log),
        }
    }

    fn waiting(seconds: u64, unready: Vec<WaitingFor>) -> Waiting {
        Waiting {
            before: None,
            ready: 1,
            total: 1 + unready.len(),
            seconds,
            left: 600 - seconds,
            became_ready: vec![],
            unready,
            more: 0,
            unreachable: None,
        }
    }

    #[test]
    fn the_table_has_a_bounded_number_of_lines() {
        let crash = "Pod shop/web-1 container main: CrashLoopBackOff";
        let one = row("web", "0 of 1 replicas available", &[crash], &["cannot open /data"]);
        assert_eq!(
            table(&waiting(7, vec![one.clone(), row("longer-name", "0 of 2 replicas updated", &[], &[])])),
            [
                "  waiting  Deployment shop/web          0 of 1 replicas available",
                "           Pod shop/web-1 container main: CrashLoopBackOff",
                "           | cannot open /data",
                "  waiting  Deployment shop/longer-name  0 of 2 replicas updated",
            ]
        );
        let many = table(&waiting(7, vec![one; 12]));
        assert_eq!(many.len(), LINES);
        assert_eq!(many.last().unwrap(), "  and 7 more");
    }

    #[test]
    fn a_pipe_hears_what_is_new() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut told = Told::default();
        let web = |message| row("web", message, &[], &[]);
        // What comes by itself within a moment is not worth a line.
        assert!(told.lines(&waiting(1, vec![web("0 of 1 replicas updated")]), at(1)).is_empty());
        let first = "waiting: Deployment shop/web: 0 of 1 replicas available";
        assert_eq!(told.lines(&waiting(6, vec![web("0 of 1 replicas available")]), at(6)), [first]);
        assert!(told.lines(&waiting(9, vec![web("0 of 1 replicas available")]), at(9)).is_empty());
        assert_eq!(
            told.lines(&waiting(40, vec![web("0 of 1 replicas available")]), at(40)),
            ["1 of 2 ready after 40 s; waiting for Deployment shop/web: 0 of 1 replicas available"]
        );
        let mut ready = waiting(50, vec![row("api", "0 of 1 replicas available", &["Pod x"], &["no disk"])]);
        ready.became_ready = vec![web("").object];
        assert_eq!(
            told.lines(&ready, at(50)),
            [
                "ready: Deployment shop/web",
                "waiting: Deployment shop/api: 0 of 1 replicas available (Pod x)\n    | no disk"
            ]
        );
        let mut failed = row("bad", "its work failed", &[], &[]);
        failed.state = HealthState::Failed;
        assert_eq!(
            told.lines(&waiting(0, vec![failed]), at(51)),
            ["failed: Deployment shop/bad: its work failed"]
        );
    }

    #[test]
    fn time_alone_is_no_news_for_long() {
        let begun = Instant::now();
        let mut news = News::default();
        let look = |seconds| waiting(seconds, vec![row("web", "0 of 1 replicas available", &[], &[])]);
        assert!(news.is(&look(0), begun));
        assert!(!news.is(&look(3), begun + Duration::from_secs(3)));
        assert!(news.is(&look(30), begun + Duration::from_secs(30)));
        assert!(news.is(&waiting(31, vec![]), begun + Duration::from_secs(31)));
    }
}
