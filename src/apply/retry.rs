//! How passing trouble of an API server is waited out: which pauses, and what is told of it.
//!
//! Every call has a patience of its own; within it the pauses double from 0.1 s to 5 s, each a
//! little longer or shorter than the last so that calls that failed together do not come back
//! together. What the server asks for (`Retry-After`) is waited, up to half a minute.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::model::Progress;

/// The first pause.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause of our own choice.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause that a server may ask for.
pub(super) const LONGEST_ASKED: Duration = Duration::from_secs(30);
/// Trouble that is over sooner is not worth a line.
const UNTOLD: Duration = Duration::from_secs(1);
/// Lines about trouble are at least this far apart.
const QUIET: Duration = Duration::from_secs(10);

/// The pauses of one call.
#[derive(Debug)]
pub(super) struct Pauses {
    began: Instant,
    patience: Duration,
    next: Duration,
}

impl Pauses {
    /// Pauses that end `patience` from now.
    pub(super) fn new(patience: Duration) -> Self {
        Self { began: Instant::now(), patience, next: FIRST_PAUSE }
    }

    /// How long to wait before the next try; none when it would come too late. `asked` is what
    /// the server wants.
    pub(super) fn next(&mut self, asked: Option<Duration>) -> Option<Duration> {
        let pause = match asked {
            Some(asked) => asked.min(LONGEST_ASKED),
            None => spread(self.next, noise()),
        };
        self.next = (self.next * 2).min(LONGEST_PAUSE);
        (self.began.elapsed() + pause < self.patience).then_some(pause)
    }

    /// How long the call has been tried.
    pub(super) fn waited(&self) -> Duration {
        self.began.elapsed()
    }
}

/// The pause, three quarters of it up to five quarters of it: `noise` is 0 to 999.
fn spread(pause: Duration, noise: u32) -> Duration {
    pause * (750 + noise.min(999) / 2) / 1000
}

/// The finest digits of the clock: enough to keep calls apart, and no secret.
fn noise() -> u32 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(500, |since| since.subsec_nanos() / 100 % 1000)
}

/// What all calls to one server know together of its trouble, so that it is told once and not by
/// each of them.
#[derive(Clone, Default)]
pub(super) struct Weather {
    sink: Option<Arc<dyn Progress>>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Since when calls have failed.
    since: Option<Instant>,
    /// When it was last told.
    told: Option<Instant>,
    /// Whether the end of it is worth telling.
    open: bool,
}

impl Weather {
    /// Trouble is told to `sink` from now on.
    pub(super) fn telling(sink: Arc<dyn Progress>) -> Self {
        Self { sink: Some(sink), state: Arc::default() }
    }

    /// A call failed and is tried again for up to `patience`: `what` says how, and `waited` how long
    /// it will have been at the next try.
    pub(super) fn bad(&self, what: impl FnOnce() -> String, waited: Duration, patience: Duration) {
        let Some(sink) = &self.sink else { return };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let since = *state.since.get_or_insert(now);
        if waited.max(now - since) < UNTOLD || state.told.is_some_and(|told| now - told < QUIET) {
            return;
        }
        state.told = Some(now);
        state.open = true;
        drop(state);
        sink.warn(format!("{}; trying again for up to {} s", what(), patience.as_secs()));
    }

    /// A call succeeded.
    pub(super) fn good(&self) {
        let Some(sink) = &self.sink else { return };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let since = state.since.take();
        let was_open = std::mem::take(&mut state.open);
        drop(state);
        if let (true, Some(since)) = (was_open, since) {
            sink.note(format!("the API server answers again, after {} s", since.elapsed().as_secs()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Event;

    #[test]
    fn pauses_grow_and_end() {
        let mut pauses = Pauses::new(Duration::from_mins(10));
        let mut last = Duration::ZERO;
        for _ in 0..12 {
            last = pauses.next(None).unwrap();
            assert!(last <= LONGEST_PAUSE * 5 / 4, "{last:?}");
        }
        assert!(last >= LONGEST_PAUSE * 3 / 4, "{last:?}");
        assert_eq!(pauses.next(Some(Duration::from_secs(7))), Some(Duration::from_secs(7)));
        assert_eq!(pauses.next(Some(Duration::from_hours(1))), Some(LONGEST_ASKED));
        assert_eq!(Pauses::new(Duration::from_millis(10)).next(None), None);
        assert_eq!(Pauses::new(Duration::from_secs(10)).next(Some(Duration::from_secs(11))), None);
        assert_eq!(spread(Duration::from_secs(4), 0), Duration::from_secs(3));
        assert!(spread(Duration::from_secs(4), 999) < Duration::from_secs(5));
    }

    #[derive(Default)]
    struct Lines(Mutex<Vec<String>>);

    impl Progress for Lines {
        fn event(&self, event: Event) {
            if let Event::Warning(line) | Event::Note(line) = event {
                self.0.lock().unwrap().push(line);
            }
        }
    }

    #[test]
    fn trouble_is_told_once_and_so_is_its_end() {
        let lines = Arc::new(Lines::default());
        let weather = Weather::telling(lines.clone());
        let waits =
            |waited| weather.bad(|| "the API server answered 429".into(), waited, Duration::from_secs(90));
        let bad = || waits(Duration::ZERO);
        bad();
        weather.good();
        assert_eq!(lines.0.lock().unwrap().len(), 0, "what passes at once is not told");
        let long_ago = Instant::now().checked_sub(Duration::from_secs(5));
        weather.state.lock().unwrap().since = long_ago;
        for _ in 0..100 {
            bad();
        }
        weather.good();
        weather.good();
        assert_eq!(
            *lines.0.lock().unwrap(),
            [
                "the API server answered 429; trying again for up to 90 s",
                "the API server answers again, after 5 s"
            ]
        );
    }
}
