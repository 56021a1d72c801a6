//! What long work tells about itself while it runs.

use super::Waiting;

/// One thing that happened during long work. Sizes are bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A phase begins; `bytes` is its whole size where it is known.
    Start {
        /// What the phase does, as a person reads it: `downloading 12 images`.
        title: String,
        /// Bytes to be moved, where known.
        bytes: Option<u64>,
    },
    /// So many more bytes of the phase are done.
    Advance(u64),
    /// The phase's current item, as a person reads it.
    Item(String),
    /// What the phase waits for at the cluster; told at each look, whether it is new or not.
    Waiting(Box<Waiting>),
    /// The phase has ended; `summary` is a line worth keeping.
    Finish {
        /// What was done: `14 images, 906 MB, 3 shared layers taken once`.
        summary: String,
    },
    /// A line of status.
    Note(String),
    /// Something a person should look at, although the work goes on.
    Warning(String),
}

/// Takes the events of long work. The terminal is one such sink, silence another.
pub trait Progress: Send + Sync {
    /// Takes one event. Called from several threads; must not block for long.
    fn event(&self, event: Event);

    /// Takes a line of status.
    fn note(&self, line: String) {
        self.event(Event::Note(line));
    }

    /// Takes a warning.
    fn warn(&self, line: String) {
        self.event(Event::Warning(line));
    }
}

/// The sink that drops everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: Event) {}
}
