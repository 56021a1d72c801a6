//! The log of `serve` on stderr: a line for each request and for each warning, as text or as JSON.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::ui::Ui;
use crate::model::{Event, Progress};
use crate::ops::serve::{AccessLog, Served};

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Writes the log.
pub struct ServeLog {
    format: LogFormat,
    ui: Arc<Ui>,
}

/// One line, `event` being `request`, `warning` or `note`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Line<'a> {
    Request {
        time: String,
        peer: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        user: Option<&'a str>,
        method: &'a str,
        target: &'a str,
        status: u16,
        bytes: u64,
        seconds: f64,
        whole: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        agent: Option<&'a str>,
    },
    Warning {
        time: String,
        message: &'a str,
    },
    Note {
        time: String,
        message: &'a str,
    },
}

/// Now, to the millisecond.
fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

impl ServeLog {
    /// A log in `format` on the stderr of `ui`.
    #[must_use]
    pub const fn new(format: LogFormat, ui: Arc<Ui>) -> Self {
        Self { format, ui }
    }

    fn write(&self, line: &Line<'_>) {
        match serde_json::to_string(line) {
            Ok(text) => self.ui.log(&text),
            Err(error) => self.ui.error(&format!("cannot write a line of the log: {error}"), None),
        }
    }
}

impl Progress for ServeLog {
    fn event(&self, event: Event) {
        match (self.format, event) {
            (LogFormat::Json, Event::Warning(message)) => {
                self.write(&Line::Warning { time: now(), message: &message });
            }
            (LogFormat::Json, Event::Note(message)) => {
                self.write(&Line::Note { time: now(), message: &message });
            }
            (_, event) => self.ui.event(event),
        }
    }
}

impl AccessLog for ServeLog {
    fn served(&self, request: &Served) {
        let Served { method, target, status, bytes, whole, .. } = request;
        let seconds = request.took.as_secs_f64();
        let peer = request.peer.to_string();
        let agent = request.agent.as_deref();
        let user = request.user.as_deref();
        match self.format {
            LogFormat::Json => self.write(&Line::Request {
                time: now(),
                peer,
                user,
                method,
                target,
                status: *status,
                bytes: *bytes,
                seconds: (seconds * 1e6).round() / 1e6,
                whole: *whole,
                agent,
            }),
            LogFormat::Text => {
                let cut = if *whole { "" } else { " (cut short)" };
                self.ui.log(&format!(
                    "{} {peer} {} {method} {target} {status} {bytes} {seconds:.3}s{cut} {}",
                    now(),
                    user.unwrap_or("-"),
                    agent.unwrap_or("-")
                ));
            }
        }
    }
}
