//! The course of an apply as JSON lines on stdout: one object a line, the last one the report.
//!
//! The shapes stand in `docs/formats.md`. People see on stderr what they see otherwise.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde::Serialize;

use super::ui::{Failure, Format, Ui};
use super::waiting::News;
use super::{exit, settings};
use crate::model::{Event, Progress};

/// A sink that writes a line for each event that is one for programs.
struct JsonLines {
    ui: Arc<Ui>,
    news: Mutex<News>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a, T> {
    event: &'a str,
    #[serde(flatten)]
    body: T,
}

#[derive(Serialize)]
struct Message<'a> {
    message: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Failed<'a> {
    exit_code: u8,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

/// Runs `work` with the sink of a format, and prints its report in it. Where nothing is done at the
/// cluster (`is_short`), JSON is one document rather than lines.
pub(super) fn told<T, E, F>(
    ui: &Arc<Ui>,
    format: Format,
    is_short: bool,
    work: impl FnOnce(Arc<dyn Progress>) -> F,
) -> Result<(), Failure>
where
    T: Serialize + std::fmt::Display,
    Failure: From<E>,
    F: Future<Output = Result<T, E>>,
{
    let runtime = settings::runtime()?;
    match format {
        Format::Text => ui.data(&runtime.block_on(work(ui.clone()))?.to_string()),
        Format::Json if is_short => ui.json(&runtime.block_on(work(ui.clone()))?),
        Format::Json => {
            let lines = Arc::new(JsonLines::new(ui.clone()));
            match runtime.block_on(work(lines.clone())).map_err(Failure::from) {
                Ok(report) => lines.report(&report),
                Err(failure) => {
                    lines.failed(&failure);
                    return Err(failure);
                }
            }
        }
    }
    Ok(())
}

impl JsonLines {
    fn new(ui: Arc<Ui>) -> Self {
        Self { ui, news: Mutex::default() }
    }

    /// The last line: the report of what was done.
    fn report<T: Serialize>(&self, report: &T) {
        self.line("report", report);
    }

    /// The last line where there is no report: why.
    fn failed(&self, failure: &Failure) {
        let (message, hint) = (failure.message.as_str(), failure.hint.as_deref());
        self.line("failed", Failed { exit_code: exit::code(failure.class), message, hint });
    }

    fn line<T: Serialize>(&self, event: &str, body: T) {
        self.ui.json_line(&Line { event, body });
    }
}

impl Progress for JsonLines {
    fn event(&self, event: Event) {
        match &event {
            Event::Start { title, .. } => self.line("begin", Message { message: title }),
            Event::Finish { summary } => self.line("end", Message { message: summary }),
            Event::Note(line) => self.line("note", Message { message: line }),
            Event::Warning(line) => self.line("warning", Message { message: line }),
            Event::Waiting(waiting) => {
                let now = Instant::now();
                if self.news.lock().is_ok_and(|mut news| news.is(waiting, now)) {
                    self.line("waiting", waiting);
                }
            }
            Event::Advance(_) | Event::Item(_) => {}
        }
        self.ui.event(event);
    }
}
