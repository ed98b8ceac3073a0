//! The events of one request, for Python: by waiting for them, or by polling with a wake-up.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ossmith::{Events, FinishReason, PromptInfo, TokenEvent, TokenLogprobs};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use crate::wakeups::Wakeups;

/// Events that are taken at a time, so that a reader who is far behind does not hold the interpreter for long.
const MAX_BATCH: usize = 1024;

/// The events of a request. Dropping it cancels what is unfinished.
#[pyclass(frozen, module = "ossmith._ossmith")]
pub(crate) struct Stream {
    events: Mutex<Events>,
    waker: Waker,
    #[pyo3(get)]
    id: u64,
}

impl Stream {
    pub(crate) fn new(events: Events, wakeups: &Arc<Wakeups>) -> Stream {
        let id = events.id().0;
        Stream { waker: wakeups.waker(id), events: Mutex::new(events), id }
    }
}

#[pymethods]
impl Stream {
    /// Waits for events, for at most this many seconds: those that are there, none if the time is up, `None` at the end.
    fn take<'py>(&self, py: Python<'py>, seconds: f64) -> PyResult<Option<Bound<'py, PyList>>> {
        let wait = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        let batch = if wait.is_zero() {
            self.read(|events| events.next_within(wait))
        } else {
            py.detach(|| self.read(|events| events.next_within(wait)))
        };
        list(py, batch)
    }

    /// The events that are there. If there are none, the engine's pipe is written to when one comes.
    fn poll<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyList>>> {
        let batch = self.read(|events| events.poll_event(&mut Context::from_waker(&self.waker)));
        list(py, batch)
    }

    /// Ends the request within a step; its samples end with the reason `abort`.
    fn cancel(&self) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).cancel();
    }
}

impl Stream {
    /// The first event as `first` gets it and those that have come besides; `None` at the end.
    fn read(
        &self,
        first: impl FnOnce(&mut Events) -> Poll<Option<TokenEvent>>,
    ) -> Option<Vec<TokenEvent>> {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let mut batch = match first(&mut events) {
            Poll::Pending => return Some(Vec::new()),
            Poll::Ready(None) => return None,
            Poll::Ready(Some(event)) => vec![event],
        };
        while batch.len() < MAX_BATCH
            && let Poll::Ready(Some(event)) = events.next_within(Duration::ZERO)
        {
            batch.push(event);
        }
        Some(batch)
    }
}

fn list(py: Python<'_>, batch: Option<Vec<TokenEvent>>) -> PyResult<Option<Bound<'_, PyList>>> {
    let Some(batch) = batch else { return Ok(None) };
    let events: Vec<Bound<'_, PyTuple>> =
        batch.into_iter().map(|event| tuple(py, event)).collect::<PyResult<_>>()?;
    PyList::new(py, events).map(Some)
}

/// `(sample, token, text, logprobs, prompt, finish, detail)`: see `_ossmith.pyi`.
fn tuple(py: Python<'_>, event: TokenEvent) -> PyResult<Bound<'_, PyTuple>> {
    let TokenEvent { sample, token, text, logprobs, prompt, finish, .. } = event;
    let (finish, detail) = match &finish {
        None => (None, None),
        Some(reason) => (Some(reason.name()), detail(py, reason)?),
    };
    let prompt = prompt.map(|prompt| {
        let PromptInfo { cached_tokens, queued, logprobs } = *prompt;
        let logprobs: Vec<Option<Reported>> =
            logprobs.into_iter().map(|one| one.map(reported)).collect();
        (cached_tokens, queued.as_secs_f64(), logprobs)
    });
    (sample, token, text, logprobs.map(reported), prompt, finish, detail).into_pyobject(py)
}

/// The index of the stop string, or why the request failed.
fn detail<'py>(py: Python<'py>, reason: &FinishReason) -> PyResult<Option<Bound<'py, PyAny>>> {
    Ok(match reason {
        FinishReason::StopString(index) => Some(index.into_pyobject(py)?.into_any()),
        FinishReason::Failed(why) => Some(why.as_ref().into_pyobject(py)?.into_any()),
        FinishReason::Deadline => Some("deadline".into_pyobject(py)?.into_any()),
        _ => None,
    })
}

/// The log probability of a token, its rank, and the most likely tokens with theirs.
type Reported = (f32, u32, Vec<(u32, f32)>);

fn reported(logprobs: TokenLogprobs) -> Reported {
    (logprobs.logprob, logprobs.rank, logprobs.top)
}
