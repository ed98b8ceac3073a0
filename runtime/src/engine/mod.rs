//! Prompts in, tokens out: continuous batching over one [`Backend`].
//!
//! [`Engine::step`] is the whole loop: *schedule* decides which tokens run next, *run* submits them and waits for
//! the oldest step in flight, *postprocess* turns its result into events. [`Engine::generate`] and
//! [`Engine::stream`] drive it for the caller; [`EngineHandle`] puts it on a thread of its own, for servers.
//!
//! [`scheduler`] holds the samples that wait and run, [`batch`] the policy of a step, [`fairness`] who goes first, [`waiting`]
//! the queue, [`results`] what its output means, [`pages`] and [`snapshots`] the cache and its prefixes, [`host_sampling`]
//! the sampling on the host, [`constrained`] the samples with masks, which [`mask_threads`] computes, [`text`] tokens to
//! text, [`weights`] weights that change. The engine knows no tokenizer and no HTTP.

mod admission;
#[cfg(test)]
mod audit;
mod batch;
mod clock;
mod constrained;
mod constraint;
mod draft;
mod events;
mod fairness;
mod flight_recorder;
mod handle;
mod host_sampling;
mod load;
mod logits;
mod mask;
mod mask_threads;
mod metrics;
mod options;
mod pages;
mod params;
mod pause;
mod prompt_pace;
mod request;
mod results;
mod run;
mod sample;
mod scheduler;
mod snapshots;
mod step_plan;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod text;
mod token_stream;
mod validate;
mod waiting;
mod weights;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ossmith_plan::ModelSpec;

pub use events::{BlockingEvents, Events};
pub use flight_recorder::{StepEntry, StepRecord};
pub use handle::EngineHandle;
pub use load::memory_budget;
pub use logits::LogitsOptions;
pub use mask::{Allowed, MaskSource, TokenMask};
pub use metrics::{EngineMetrics, Histogram};
pub use options::{EngineOptions, Policy};
pub use params::SamplingParams;
pub use pause::PauseMode;
pub use request::{
    Completion, FinishReason, PromptInfo, Request, RequestId, TokenEvent, TokenLogprobs,
};
pub use text::{Detokenizer, TextStream};
pub use token_stream::TokenStream;

use crate::backend::Backend;
use crate::{Error, Limits, Result};
use admission::Room;
use clock::Clock;
use flight_recorder::FlightRecorder;
use mask_threads::MaskThreads;
use scheduler::Scheduler;
use step_plan::StepPlan;
use validate::{ValidatedRequest, check_adapter, validate};

/// A model on a backend, with its queue.
pub struct Engine {
    spec: &'static ModelSpec,
    backend: Box<dyn Backend>,
    limits: Limits,
    policy: Policy,
    scheduler: Scheduler,
    masks: MaskThreads,
    clock: Clock,
    recorder: FlightRecorder,
    /// Steps submitted and not yet collected, oldest first.
    in_flight: VecDeque<StepPlan>,
    /// How many steps to submit beyond the one that is waited for.
    pipeline_depth: usize,
    next_id: u64,
    /// How long the step took that was collected last.
    step_time: Duration,
    /// When the last results arrived.
    last_results: Option<Instant>,
    /// Whether it was logged that some samples need sampling on the host.
    warned_host_sampling: bool,
    /// The adapter that the backend has in each sequence slot, by its number; 0 for none.
    slot_adapters: Vec<u64>,
    /// Whether the backend's memory was given back, and whether the weights were not kept.
    sleeps: bool,
    lacks_weights: bool,
    /// Why no step can run any more.
    failure: Option<Arc<str>>,
}

impl Engine {
    /// An engine over a backend that runs the model of these dimensions.
    ///
    /// With a `pipeline_depth` of 1 the next step is submitted before the last one's tokens are known, which keeps a
    /// device busy; a backend that works inside `submit` needs 0.
    ///
    /// # Errors
    /// What the backend reports if it has no room for the sliding-window snapshots of cached prefixes.
    #[doc(hidden)]
    pub fn with_backend(
        spec: &'static ModelSpec,
        mut backend: Box<dyn Backend>,
        pipeline_depth: usize,
        policy: Policy,
    ) -> Result<Engine> {
        let (limits, clock) = (backend.limits(), Clock::default());
        let snapshots = load::snapshots(&policy, spec, &limits);
        load::reserve_snapshots(&mut *backend, snapshots)?;
        let mut scheduler =
            Scheduler::new(&*backend, spec.vocab, &policy, snapshots, clock.clone());
        // With more steps in flight the token before is not known when a step is sampled.
        scheduler.samples_apart = pipeline_depth == 1;
        Ok(Engine {
            scheduler,
            // A backend that works inside `submit` computes steps on the cores of masks.
            masks: MaskThreads::new(pipeline_depth == 0),
            recorder: FlightRecorder::new(clock.now()),
            clock,
            in_flight: VecDeque::new(),
            next_id: 0,
            step_time: Duration::ZERO,
            last_results: None,
            warned_host_sampling: false,
            slot_adapters: vec![0; limits.max_sequences],
            failure: None,
            sleeps: false,
            lacks_weights: false,
            spec,
            backend,
            limits,
            policy,
            pipeline_depth,
        })
    }

    /// The same engine without a flight recorder, for the bench that measures what one costs.
    #[doc(hidden)]
    #[must_use]
    pub fn without_step_records(mut self) -> Engine {
        self.recorder = FlightRecorder::off(self.clock.now());
        self
    }

    /// The model's dimensions.
    #[must_use]
    pub fn spec(&self) -> &'static ModelSpec {
        self.spec
    }

    /// The limits that the backend was built for.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// How requests share the engine.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The backend in one line.
    #[must_use]
    pub fn describe(&self) -> String {
        self.backend.describe()
    }

    /// What the engine has done and is doing.
    #[must_use]
    pub fn metrics(&self) -> &EngineMetrics {
        &self.scheduler.metrics
    }

    /// The last `count` steps that were collected or have failed, oldest first; as many as are kept.
    #[must_use]
    pub fn recent_steps(&self, count: usize) -> Vec<StepRecord> {
        self.recorder.recent(count)
    }

    /// Why no step can run any more, if none can.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Whether no request waits or runs.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.scheduler.is_idle() && self.in_flight.is_empty()
    }

    /// Whether [`Engine::step`] would do anything now: some request is neither finished nor held.
    #[must_use]
    pub fn can_step(&self) -> bool {
        !self.in_flight.is_empty() || self.scheduler.can_run()
    }

    /// The earliest deadline of a request, at which [`Engine::step`] ends it.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.scheduler.next_deadline()
    }

    /// Pages of the cache that no request uses; some of them may hold prefixes for later requests.
    #[must_use]
    pub fn free_pages(&self) -> usize {
        self.scheduler.pages.available()
    }

    /// Queues a request. A refusal affects no other request.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] if a token does not exist or a setting is out of range, [`Error::PromptTooLong`] or
    /// [`Error::CacheTooSmall`] if the request can never fit, [`Error::QueueFull`] if it can be served later,
    /// [`Error::Stopped`] if the engine has stopped.
    pub fn submit(&mut self, request: Request) -> Result<RequestId> {
        self.check_running()?;
        let id = RequestId(self.next_id);
        check_adapter(&request, self.spec, self.backend.adapter_support())?;
        let request = validate(id, request, self.spec, &self.limits, self.clock.now())?;
        self.room().check(request.params.n)?;
        self.next_id += 1;
        self.enqueue(request);
        Ok(id)
    }

    /// What there is room for now.
    fn room(&self) -> Room {
        Room {
            waiting: self.scheduler.waiting.len(),
            arriving: 0,
            free_slots: self.scheduler.free_seq_slots.len(),
            slots: self.limits.max_sequences,
            limit: self.policy.max_waiting,
        }
    }

    /// Queues a request that was checked.
    fn enqueue(&mut self, request: ValidatedRequest) {
        self.scheduler.push(request);
    }

    /// Has the engine share the cores for masks with others, so many in all. For an engine that has run no step.
    pub(crate) fn share_cores(&mut self, engines: usize) {
        self.masks.share_cores(engines);
    }

    /// Removes a request: it yields no further event, and what it used is free for the next step. Unknown and
    /// finished requests are ignored.
    pub fn cancel(&mut self, request: RequestId) {
        self.scheduler.cancel(request);
        self.settle_ended();
    }

    /// Frees the masks of samples that have ended without a step, and counts those that are left.
    fn settle_ended(&mut self) {
        self.masks.discard(std::mem::take(&mut self.scheduler.ended_masks));
        self.scheduler.update_gauges();
    }

    /// Schedules no further token of a request until it is resumed, because its reader is slow. Tokens in flight still
    /// arrive.
    pub fn hold(&mut self, request: RequestId) {
        self.scheduler.set_held(request, true);
    }

    /// Resumes a request that was held.
    pub fn resume(&mut self, request: RequestId) {
        self.scheduler.set_held(request, false);
    }

    /// Evicts all cached prefixes that no request uses.
    pub fn reset_prefix_cache(&mut self) {
        self.scheduler.pages.reset();
    }

    /// Advances by one step, and returns the tokens that became known; often none while prompts are read or the
    /// first steps are in flight. Call it until [`Engine::is_idle`].
    ///
    /// What the backend cannot do ends requests with [`FinishReason::Failed`]: only those of the step if it was
    /// refused before anything ran, otherwise all of them, and the engine has stopped.
    ///
    /// # Errors
    /// [`Error::Stopped`] if the engine has stopped before.
    pub fn step(&mut self) -> Result<Vec<TokenEvent>> {
        self.check_running()?;
        let begin = self.clock.now();
        let mut events = self.scheduler.expire(begin);
        self.masks.overtake_slow();
        events.extend(self.take_masks());
        if let Err(failure) = self.sample_in_flight() {
            events.extend(self.fail(failure));
            self.scheduler.update_gauges();
            return Ok(events);
        }
        let plan = self.scheduler.schedule(begin);
        if plan.entries.is_empty() && self.in_flight.is_empty() {
            // Nothing else can run before a late mask is ready.
            events.extend(self.wait_for_late_mask());
        }
        match self.run(plan) {
            Ok(outcome) => events.extend(self.postprocess(outcome, begin)),
            Err(failure) => events.extend(self.fail(failure)),
        }
        self.start_masks();
        self.scheduler.update_gauges();
        Ok(events)
    }

    fn check_running(&self) -> Result<()> {
        match &self.failure {
            None => Ok(()),
            Some(reason) => Err(Error::Stopped { reason: reason.to_string() }),
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("model", &self.spec.name)
            .field("backend", &self.describe())
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
