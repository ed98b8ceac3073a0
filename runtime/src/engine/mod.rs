//! Prompts in, tokens out: continuous batching over one [`Backend`].
//!
//! [`Engine::step`] is the whole loop: *schedule* decides which tokens run next, *run* submits them and waits for
//! the oldest step under way, *postprocess* turns its result into events. [`Engine::generate`] and
//! [`Engine::stream`] drive it for the caller; a server drives [`Engine::submit`], [`Engine::step`] and
//! [`Engine::cancel`] itself. [`scheduler`] holds the policy, [`params`] the checks, [`logits`] the path without
//! sampling. The engine knows no text and no clock.

mod accept;
mod events;
mod handle;
mod load;
mod logits;
mod mask;
pub mod metrics;
mod pages;
mod params;
mod request;
mod scheduler;
mod stream;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod text;

use std::any::Any;
use std::collections::VecDeque;
use std::time::Instant;

use ossmith_plan::ModelSpec;

pub use events::Events;
pub use handle::EngineHandle;
pub use load::{EngineOptions, Policy, resolve};
pub use logits::LogitsOptions;
pub use mask::{Allowed, MaskSource, TokenMask};
pub use metrics::Metrics;
pub use params::SamplingParams;
pub use request::{
    Completion, FinishReason, PromptInfo, Request, RequestId, TokenEvent, TokenLogprobs,
};
pub use stream::Stream;
pub use text::{TextStream, Vocabulary};

use crate::backend::Step;
use crate::{Backend, Error, Limits, Result};
use accept::Accepted;
use scheduler::{Plan, Scheduler};

/// A model on a backend, with its queue.
pub struct Engine {
    spec: &'static ModelSpec,
    backend: Box<dyn Backend>,
    limits: Limits,
    scheduler: Scheduler,
    /// Steps submitted and not yet collected, oldest first.
    under_way: VecDeque<Plan>,
    /// How many steps to submit beyond the one that is waited for.
    ahead: usize,
    next_id: u64,
    policy: Policy,
    metrics: Metrics,
    /// Why no step can run any more.
    failure: Option<String>,
}

impl Engine {
    /// An engine over a backend that runs the model of these dimensions.
    ///
    /// With `ahead` of 1 the next step is submitted before the last one's tokens are known, which keeps a device
    /// busy; a backend that works inside `submit` wants 0.
    #[must_use]
    pub fn new(spec: &'static ModelSpec, backend: Box<dyn Backend>, ahead: usize) -> Engine {
        let limits = backend.limits();
        let scheduler = Scheduler::new(&limits, backend.max_append());
        let under_way = VecDeque::new();
        let (policy, metrics) = (Policy::default(), Metrics::new(limits.pages));
        let (next_id, failure) = (0, None);
        Engine {
            spec,
            backend,
            limits,
            scheduler,
            under_way,
            ahead,
            next_id,
            policy,
            metrics,
            failure,
        }
    }

    /// Replaces the policy; call it before the first request.
    #[must_use]
    pub fn with_policy(self, policy: Policy) -> Engine {
        Engine { policy, ..self }
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What the engine has done and is doing.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Why no step can run any more, if none can.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Whether [`Engine::step`] would do anything now.
    #[must_use]
    pub fn can_step(&self) -> bool {
        !self.is_idle()
    }

    /// The next moment at which a request ends by itself.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// The model's dimensions.
    #[must_use]
    pub fn spec(&self) -> &'static ModelSpec {
        self.spec
    }

    /// What the backend was made to fit.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The backend in one line.
    #[must_use]
    pub fn describe(&self) -> String {
        self.backend.describe()
    }

    /// Whether no request waits or runs.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.scheduler.idle() && self.under_way.is_empty()
    }

    /// Pages of the cache that no request holds.
    #[must_use]
    pub fn free_pages(&self) -> usize {
        self.scheduler.free_pages()
    }

    /// Queues a prompt. A refusal leaves every other request as it was.
    ///
    /// # Errors
    /// [`Error::Request`] if the prompt is empty, names a token that does not exist or can never fit, or a
    /// setting is out of range; [`Error::Device`] if the engine has stopped.
    pub fn submit(&mut self, request: Request) -> Result<RequestId> {
        self.check_alive()?;
        let id = RequestId(self.next_id);
        let accepted = accept::accept(id, request, self.spec, &self.limits)?;
        self.next_id += 1;
        self.enqueue(accepted);
        Ok(id)
    }

    /// Queues a request that was checked.
    fn enqueue(&mut self, request: Accepted) {
        self.metrics.requests += 1;
        self.scheduler.push(request.id, request);
    }

    /// Plans no further token of a request until it is resumed: its reader is slow.
    pub fn hold(&mut self, _request: RequestId) {}

    /// Goes on with a request that was held.
    pub fn resume(&mut self, _request: RequestId) {}

    /// Forgets all cached prefixes that no request holds.
    pub fn reset_prefix_cache(&mut self) {}

    /// Forgets a request: no event of it comes any more, and its place is free within a step.
    pub fn cancel(&mut self, request: RequestId) {
        self.scheduler.cancel(request);
    }

    /// Moves on by one step, and returns the tokens that became known; often none while prompts are read or the
    /// first steps are under way. Call it until [`Engine::is_idle`].
    ///
    /// # Errors
    /// What the backend reports. The engine then has stopped: its requests are gone and all later calls fail.
    pub fn step(&mut self) -> Result<Vec<TokenEvent>> {
        self.check_alive()?;
        let plan = self.scheduler.schedule();
        let done = self.run(plan).and_then(|done| match done {
            Some((plan, output)) => self.scheduler.postprocess(&plan, &output),
            None => Ok(Vec::new()),
        });
        done.inspect_err(|error| self.stop(error))
    }

    /// Submits a plan, if it holds any work, and collects the oldest step once enough of them are under way.
    fn run(&mut self, plan: Plan) -> Result<Option<(Plan, crate::backend::Output)>> {
        let nothing_new = plan.entries.is_empty();
        if !nothing_new {
            let sequences = self.scheduler.sequences(&plan);
            self.backend.submit(&Step { sequences: &sequences, taps: false })?;
            self.under_way.push_back(plan);
        }
        if self.under_way.len() <= self.ahead && !nothing_new {
            return Ok(None);
        }
        match self.under_way.pop_front() {
            Some(oldest) => Ok(Some((oldest, self.backend.collect()?))),
            None => Ok(None),
        }
    }

    fn check_alive(&self) -> Result<()> {
        match &self.failure {
            None => Ok(()),
            Some(why) => Err(Error::Device(format!(
                "the engine has stopped after an earlier failure ({why}); load it again"
            ))),
        }
    }

    fn stop(&mut self, why: &Error) {
        tracing::error!(%why, "the engine stops");
        self.failure = Some(why.to_string());
        self.under_way.clear();
        self.scheduler = Scheduler::new(&self.limits, self.backend.max_append());
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

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
