//! An engine for Python: a model loaded onto a device, on a thread of its own.

use std::hash::{BuildHasher, RandomState};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ossmith::{Engine as Runtime, EngineHandle, Progress, Request};
use ossmith_plan::Model;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors;
use crate::logits::Logits;
use crate::params::{Options, Params};
use crate::stream::Stream;
use crate::wakeups::Wakeups;

/// Time between two reports of a loading stage.
const REPORT: Duration = Duration::from_millis(50);

/// An engine on a thread of its own.
#[pyclass(frozen, module = "ossmith._ossmith")]
pub(crate) struct Engine {
    handle: EngineHandle,
    model: &'static Model,
    /// Tokens of a prompt and its answer.
    max_model_len: usize,
    random_weights: bool,
    wakeups: Arc<Wakeups>,
}

#[pymethods]
impl Engine {
    /// Loads a model. `progress` is called with a stage, the units done and those in all.
    #[new]
    fn new(py: Python<'_>, options: Options, progress: Option<Py<PyAny>>) -> PyResult<Engine> {
        let name = options.model.clone();
        let (model, checkpoint) = py
            .detach(|| ossmith_cli::open_model(&name, options.weights_seed))
            .map_err(|text| errors::of_class(py, "CheckpointError", text))?;
        let random_weights = checkpoint.synthetic_seed().is_some();
        let (engine_options, max_model_len) = options.resolve(py, &model.spec)?;
        let mut reporter = Reporter::new(progress);
        let loaded = py.detach(|| {
            let mut report = |at| reporter.report(at);
            Runtime::load(model, checkpoint, engine_options, &mut report)
                .and_then(EngineHandle::start)
        });
        let handle = loaded.map_err(|error| errors::of_runtime(py, &error))?;
        reporter.failure.map_or(Ok(()), Err)?;
        let wakeups = Wakeups::new()?;
        Ok(Engine { handle, model, max_model_len, random_weights, wakeups })
    }

    /// Queues a request.
    fn submit(
        &self,
        py: Python<'_>,
        prompt: Vec<u32>,
        params: Params,
        priority: i32,
    ) -> PyResult<Stream> {
        let most = self.max_model_len;
        if prompt.len() >= most {
            let (tokens, limit) = (prompt.len(), most.saturating_sub(1));
            let error = ossmith::Error::PromptTooLong { tokens, limit };
            return Err(errors::of_runtime(py, &error));
        }
        let room = most - prompt.len();
        let detokenizer = params.detokenizer();
        let seed = RandomState::new().hash_one(0_u8) >> 32;
        let mut settings = params.settings(seed);
        settings.max_tokens = Some(settings.max_tokens.map_or(room, |tokens| tokens.min(room)));
        let mut request = Request::new(prompt, settings).with_priority(priority);
        request.detokenizer = detokenizer;
        let events = py.detach(|| self.handle.submit(request));
        let events = events.map_err(|error| errors::of_runtime(py, &error))?;
        Ok(Stream::new(events, &self.wakeups))
    }

    /// Logits of every token of a prompt, `[tokens, vocab]`, while no request is in flight.
    fn logits(&self, py: Python<'_>, prompt: Vec<u32>) -> PyResult<Logits> {
        let values = py.detach(|| self.handle.logits(prompt));
        let values = values.map_err(|error| errors::of_runtime(py, &error))?;
        Ok(Logits::new(values, self.model.spec.vocab))
    }

    /// The descriptor that is readable while streams have been woken.
    fn wakeup_descriptor(&self) -> RawFd {
        self.wakeups.descriptor()
    }

    /// The streams that were woken since the last call.
    fn take_wakeups(&self) -> PyResult<Vec<u64>> {
        Ok(self.wakeups.take()?)
    }

    fn reset_prefix_cache(&self) {
        self.handle.reset_prefix_cache();
    }

    /// Cancels everything and ends the engine's thread.
    fn shutdown(&self, py: Python<'_>) {
        py.detach(|| self.handle.shutdown());
    }

    /// Why the engine no longer runs.
    fn failure(&self) -> Option<String> {
        self.handle.closed().map(|error| error.to_string())
    }

    /// Counts so far.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let metrics = self.handle.metrics();
        let counts = PyDict::new(py);
        counts.set_item("requests_running", metrics.running)?;
        counts.set_item("requests_waiting", metrics.waiting)?;
        counts.set_item("prompt_tokens", metrics.prompt_tokens)?;
        counts.set_item("generated_tokens", metrics.generated_tokens)?;
        counts.set_item("cached_prompt_tokens", metrics.cached_tokens)?;
        Ok(counts)
    }

    #[getter]
    fn model_name(&self) -> &'static str {
        self.model.spec.name
    }

    #[getter]
    fn backend(&self) -> &str {
        self.handle.describe()
    }

    #[getter]
    fn max_model_len(&self) -> usize {
        self.max_model_len
    }

    #[getter]
    fn vocab_size(&self) -> usize {
        self.model.spec.vocab
    }

    #[getter]
    fn stop_token_ids(&self) -> Vec<u32> {
        self.model.spec.stop_tokens.to_vec()
    }

    #[getter]
    fn random_weights(&self) -> bool {
        self.random_weights
    }
}

/// Passes the progress of loading on, not too often.
struct Reporter {
    progress: Option<Py<PyAny>>,
    stage: &'static str,
    last: Instant,
    failure: Option<PyErr>,
}

impl Reporter {
    fn new(progress: Option<Py<PyAny>>) -> Reporter {
        Reporter { progress, stage: "", last: Instant::now(), failure: None }
    }

    fn report(&mut self, at: Progress) {
        let Some(progress) = &self.progress else { return };
        let soon = at.stage == self.stage && at.done < at.total && self.last.elapsed() < REPORT;
        if soon || self.failure.is_some() {
            return;
        }
        (self.stage, self.last) = (at.stage, Instant::now());
        self.failure = Python::attach(|py| {
            let called = progress.call1(py, (at.stage, at.done, at.total));
            called.map(drop).and_then(|()| py.check_signals()).err()
        });
    }
}
