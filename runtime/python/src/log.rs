//! The log, for Python's `logging`. Lines wait in a queue until a Python thread takes them, so that no thread of the engine
//! ever waits for the interpreter.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// Lines that wait; the oldest give way.
const MAX_LINES: usize = 4096;

/// A line: the level as `logging` counts it, the module, the text.
type Line = (u8, String, String);

#[derive(Default)]
struct Waiting {
    lines: VecDeque<Line>,
    dropped: usize,
}

static WAITING: Mutex<Waiting> = Mutex::new(Waiting { lines: VecDeque::new(), dropped: 0 });

fn waiting() -> MutexGuard<'static, Waiting> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Queue;

impl<S: Subscriber> Layer<S> for Queue {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let meta = event.metadata();
        let level = match *meta.level() {
            Level::ERROR => 40,
            Level::WARN => 30,
            Level::INFO => 20,
            Level::DEBUG => 10,
            Level::TRACE => 5,
        };
        let mut waiting = waiting();
        if waiting.lines.len() == MAX_LINES {
            waiting.lines.pop_front();
            waiting.dropped += 1;
        }
        waiting.lines.push_back((
            level,
            meta.target().replace("::", "."),
            text.message + &text.fields,
        ));
    }
}

/// An event's message, then its fields.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a string never fails.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}

/// Collects lines from now on: those of `filter`, as `OSSMITH_LOG` writes it. False if the process has another log.
#[pyfunction]
pub(crate) fn start_log(py: Python<'_>, filter: &str) -> PyResult<bool> {
    let filter = EnvFilter::try_new(filter).map_err(|why| {
        crate::errors::invalid(py, format!("OSSMITH_LOG={filter} is not a filter: {why}"))
    })?;
    Ok(tracing_subscriber::registry().with(Queue.with_filter(filter)).try_init().is_ok())
}

/// The lines that wait, oldest first, and how many were dropped before them.
#[pyfunction]
pub(crate) fn take_log() -> (Vec<Line>, usize) {
    let mut waiting = waiting();
    (waiting.lines.drain(..).collect(), std::mem::take(&mut waiting.dropped))
}
