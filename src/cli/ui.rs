//! The terminal: stdout is data, stderr is status, progress and warnings.
//!
//! The only place that prints. No bars and no colour on a pipe, with `--quiet` or `NO_COLOR`.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::waiting::{self, Told};

use crate::model::{ErrorClass, Event, Progress, Waiting};

/// How a command's result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON document with a `format` number.
    Json,
}

/// The terminal of this run.
pub struct Ui {
    quiet: bool,
    colour: bool,
    bars: bool,
    bar: Mutex<Option<Live>>,
    told: Mutex<Told>,
}

/// The lines at the bottom of a terminal that are drawn anew: the phase's, and below it one for each
/// line of the table of what is waited for.
#[derive(Clone)]
struct Live {
    all: MultiProgress,
    bar: ProgressBar,
    table: Vec<ProgressBar>,
}

impl Live {
    fn new(bar: ProgressBar) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        Self { bar: all.add(bar), all, table: Vec::new() }
    }

    /// Shows `lines` below the phase's own.
    fn show(&mut self, lines: &[String]) {
        for row in self.table.drain(lines.len().min(self.table.len())..) {
            row.finish_and_clear();
            self.all.remove(&row);
        }
        while self.table.len() < lines.len() {
            let row = self.all.add(ProgressBar::new_spinner());
            let style = ProgressStyle::with_template("{wide_msg}");
            row.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            self.table.push(row);
        }
        for (row, line) in self.table.iter().zip(lines) {
            row.set_message(one_line(line));
        }
    }

    fn clear(mut self) {
        self.show(&[]);
        self.bar.finish_and_clear();
    }
}

/// Tints of status lines.
#[derive(Clone, Copy)]
enum Tint {
    Plain,
    Yellow,
    Red,
}

impl Ui {
    /// The terminal as the environment has it: `no_color` is whether `NO_COLOR` is set and not empty.
    #[must_use]
    pub fn new(quiet: bool, no_color: bool) -> Self {
        let terminal = io::stderr().is_terminal();
        Self {
            quiet,
            colour: terminal && !no_color,
            bars: terminal && !quiet,
            bar: Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// Writes `text` and a newline to stdout. A reader that went away is not an error.
    pub fn data(&self, text: &str) {
        self.suspended(|| {
            let mut out = io::stdout().lock();
            let _ = writeln!(out, "{}", printable(text)).and_then(|()| out.flush());
        });
    }

    /// Writes `bytes` to stdout as they are.
    pub fn raw(&self, bytes: &[u8]) {
        let mut out = io::stdout().lock();
        let _ = out.write_all(bytes).and_then(|()| out.flush());
    }

    /// Prints `value` as pretty JSON on stdout.
    pub fn json<T: serde::Serialize>(&self, value: &T) {
        match serde_json::to_string_pretty(value) {
            Ok(text) => self.data(&text),
            Err(error) => self.error(&format!("cannot print the result as JSON: {error}"), None),
        }
    }

    /// Prints `value` as JSON in one line on stdout.
    pub fn json_line<T: serde::Serialize>(&self, value: &T) {
        match serde_json::to_string(value) {
            Ok(text) => self.data(&text),
            Err(error) => self.error(&format!("cannot print a line as JSON: {error}"), None),
        }
    }

    /// Prints an error with its hint: what to do next.
    pub fn error(&self, message: &str, hint: Option<&str>) {
        self.line(Tint::Red, "error: ", message);
        if let Some(hint) = hint {
            self.line(Tint::Plain, "  help: ", hint);
        }
    }

    /// Writes a line of a log to stderr, whole. Control characters of it are shown, newlines too.
    pub fn log(&self, text: &str) {
        let line = format!("{}\n", printable(text).replace('\n', "\\u000a"));
        self.suspended(|| {
            let _ = io::stderr().lock().write_all(line.as_bytes());
        });
    }

    fn line(&self, tint: Tint, label: &str, text: &str) {
        let (on, off) = match tint {
            _ if !self.colour => ("", ""),
            Tint::Plain => ("\u{1b}[1m", "\u{1b}[0m"),
            Tint::Yellow => ("\u{1b}[1;33m", "\u{1b}[0m"),
            Tint::Red => ("\u{1b}[1;31m", "\u{1b}[0m"),
        };
        self.suspended(|| {
            let _ = writeln!(io::stderr().lock(), "{on}{label}{off}{}", printable(text));
        });
    }

    /// Runs `print` with the bar and the table out of the way.
    fn suspended(&self, print: impl FnOnce()) {
        let live = self.bar.lock().ok().and_then(|live| live.as_ref().map(|live| live.all.clone()));
        match live {
            Some(live) => live.suspend(print),
            None => print(),
        }
    }

    fn set_bar(&self, bar: Option<ProgressBar>) {
        if let Ok(mut slot) = self.bar.lock()
            && let Some(old) = slot.take()
        {
            old.clear();
        }
        if let (Ok(mut slot), Some(bar)) = (self.bar.lock(), bar) {
            *slot = Some(Live::new(bar));
        }
    }

    fn with_bar(&self, act: impl FnOnce(&ProgressBar)) {
        if let Ok(slot) = self.bar.lock()
            && let Some(live) = slot.as_ref()
        {
            act(&live.bar);
        }
    }

    /// What is waited for: on a terminal the table, elsewhere what is new of it.
    fn waiting(&self, waiting: &Waiting) {
        if self.bars {
            if let Ok(mut slot) = self.bar.lock()
                && let Some(live) = slot.as_mut()
            {
                let Waiting { ready, total, seconds, left, .. } = waiting;
                live.bar.set_message(format!("{ready} of {total} ready, {seconds} s gone, {left} s left"));
                live.show(&waiting::table(waiting));
            }
            return;
        }
        let lines = match self.told.lock() {
            Ok(mut told) if !self.quiet => told.lines(waiting, Instant::now()),
            _ => Vec::new(),
        };
        for line in lines {
            self.line(Tint::Plain, "", &line);
        }
    }

    fn start(&self, title: &str, bytes: Option<u64>) {
        if !self.bars {
            return self.set_bar(None);
        }
        // Nothing is drawn before the bar has its place at the bottom of the terminal.
        let target = ProgressDrawTarget::hidden();
        let (bar, template) = match bytes {
            Some(bytes) => (
                ProgressBar::with_draw_target(Some(bytes), target),
                "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} left {msg}",
            ),
            None => (ProgressBar::with_draw_target(None, target), "{spinner} {prefix} {msg}"),
        };
        // A template that does not parse would be a slip of ours; the default style serves then.
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        bar.set_prefix(one_line(title));
        self.set_bar(Some(bar));
        self.with_bar(|bar| bar.enable_steady_tick(Duration::from_millis(200)));
    }
}

impl Progress for Ui {
    fn event(&self, event: Event) {
        match event {
            Event::Start { title, bytes } => self.start(&title, bytes),
            Event::Advance(bytes) => self.with_bar(|bar| bar.inc(bytes)),
            Event::Item(name) => self.with_bar(|bar| bar.set_message(one_line(&name))),
            Event::Waiting(waiting) => self.waiting(&waiting),
            Event::Finish { summary } => {
                self.set_bar(None);
                if !self.quiet && !summary.is_empty() {
                    self.line(Tint::Plain, "", &summary);
                }
            }
            Event::Note(line) => {
                if !self.quiet {
                    self.line(Tint::Plain, "", &line);
                }
            }
            Event::Warning(line) => self.line(Tint::Yellow, "warning: ", &line),
        }
    }
}

/// Text that may quote what came from outside: control characters, which a terminal obeys, are
/// shown instead, in a way that JSON knows too.
fn printable(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if harmful(c) {
            // Writing into a string never fails.
            let _ = write!(shown, "\\u{:04x}", u32::from(c));
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// The same for one line of a table that is redrawn, where the end of a line is harmful too.
fn one_line(text: &str) -> String {
    printable(&text.replace(['\n', '\t'], " ")).into_owned()
}

/// An error at the edge: what to print and how to end.
#[derive(Debug)]
pub struct Failure {
    /// What happened, causes included.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
    /// Which exit code.
    pub class: ErrorClass,
}

impl Failure {
    /// A mistake in the command line.
    #[must_use]
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()), class: ErrorClass::Usage }
    }
}

impl From<crate::ops::Error> for Failure {
    fn from(error: crate::ops::Error) -> Self {
        Self { message: crate::model::chain(&error), hint: error.hint(), class: error.class() }
    }
}

/// Bytes as people read them: `906.2 MiB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    HumanBytes(count).to_string()
}

/// Rows in columns, two spaces between them, no trailing space. A column of empty cells is left out.
#[must_use]
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let line = |row: &Vec<String>| {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths).filter(|(_, width)| **width > 0) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count()) + 2));
        }
        line.trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_nothing_from_outside() {
        assert_eq!(printable("fine\n\tü"), "fine\n\tü");
        assert_eq!(printable("a\u{1b}[2Jb\r\u{9b}c"), "a\\u001b[2Jb\\u000d\\u009bc");
    }

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["a".into(), "b".into()], vec!["long".into(), "c".into()]];
        assert_eq!(table(&rows), "a     b\nlong  c");
        assert_eq!(table(&[vec!["a".into(), String::new(), "b".into()]]), "a  b");
    }
}
