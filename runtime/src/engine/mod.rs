//! Prompts in, tokens out: continuous batching over one [`Backend`].
//!
//! [`Engine::step`] is the whole loop: *schedule* decides which tokens run next, *run* submits them and waits for
//! the oldest step under way, *postprocess* turns its result into events. [`Engine::generate`] and
//! [`Engine::stream`] drive it for the caller; [`EngineHandle`] puts it on a thread of its own, for servers.
//!
//! [`scheduler`] holds who waits and who runs, [`schedule`] the policy of a step, [`results`] what its output means,
//! [`pages`] and [`tails`] the cache and its prefixes, [`draw`] what the engine draws itself, [`text`] tokens to text.
//! The engine knows no tokenizer and no HTTP.

mod accept;
mod draft;
mod draw;
mod events;
mod handle;
mod load;
mod logits;
mod mask;
pub mod metrics;
mod pages;
mod params;
mod plan;
mod request;
mod results;
mod run;
mod sample;
mod schedule;
mod scheduler;
mod stream;
mod tails;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod text;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use ossmith_plan::ModelSpec;

pub use events::Events;
pub use handle::EngineHandle;
pub use load::{EngineOptions, Policy, plan_memory, resolve};
pub use logits::LogitsOptions;
pub use mask::{Allowed, MaskSource, TokenMask};
pub use metrics::Metrics;
pub use params::SamplingParams;
pub use request::{
    Completion, FinishReason, PromptInfo, Request, RequestId, TokenEvent, TokenLogprobs,
};
pub use stream::Stream;
pub use text::{TextStream, Vocabulary};

use crate::{Backend, Error, Limits, Result};
use accept::Accepted;
use plan::Plan;
use scheduler::Scheduler;

/// A model on a backend, with its queue.
pub struct Engine {
    spec: &'static ModelSpec,
    backend: Box<dyn Backend>,
    limits: Limits,
    policy: Policy,
    scheduler: Scheduler,
    /// Steps submitted and not yet collected, oldest first.
    under_way: VecDeque<Plan>,
    /// How many steps to submit beyond the one that is waited for.
    ahead: usize,
    next_id: u64,
    /// When the last results came.
    last_results: Option<Instant>,
    /// Whether the log says that some draws leave the device.
    told: bool,
    /// Why no step can run any more.
    failure: Option<Arc<str>>,
}

impl Engine {
    /// An engine over a backend that runs the model of these dimensions.
    ///
    /// With `ahead` of 1 the next step is submitted before the last one's tokens are known, which keeps a device
    /// busy; a backend that works inside `submit` wants 0.
    ///
    /// # Errors
    /// What the backend reports if it has no room for the tails of cached prefixes.
    pub fn new(
        spec: &'static ModelSpec,
        mut backend: Box<dyn Backend>,
        ahead: usize,
        policy: Policy,
    ) -> Result<Engine> {
        let limits = backend.limits();
        let tails = policy.tails(spec, &limits);
        if let Some(count) = tails.filter(|&count| count > 0) {
            backend.reserve_tails(count)?;
        }
        let most = backend.max_append();
        Ok(Engine {
            scheduler: Scheduler::new(&limits, most, spec.vocab, &policy, tails),
            under_way: VecDeque::new(),
            next_id: 0,
            last_results: None,
            told: false,
            failure: None,
            spec,
            backend,
            limits,
            policy,
            ahead,
        })
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
    pub fn metrics(&self) -> &Metrics {
        &self.scheduler.metrics
    }

    /// Why no step can run any more, if none can.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Whether no request waits or runs.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.scheduler.idle() && self.under_way.is_empty()
    }

    /// Whether [`Engine::step`] would do anything now: some request is neither finished nor held.
    #[must_use]
    pub fn can_step(&self) -> bool {
        !self.under_way.is_empty() || !self.scheduler.all_held()
    }

    /// The next moment at which a request ends by itself.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.scheduler.next_deadline()
    }

    /// Pages of the cache that no request holds; some of them may hold prefixes for later ones.
    #[must_use]
    pub fn free_pages(&self) -> usize {
        self.scheduler.pages.available()
    }

    /// Queues a request. A refusal leaves every other request as it was.
    ///
    /// # Errors
    /// [`Error::Request`] if the prompt is empty, names a token that does not exist or can never fit, or a
    /// setting is out of range; [`Error::Busy`] if the queue is full; [`Error::Closed`] if the engine has stopped.
    pub fn submit(&mut self, request: Request) -> Result<RequestId> {
        self.check_alive()?;
        let id = RequestId(self.next_id);
        let accepted = accept::accept(id, request, self.spec, &self.limits)?;
        let waiting = self.scheduler.waiting.len();
        if waiting + accepted.params.n > self.policy.max_waiting {
            return Err(accept::busy(waiting, self.policy.max_waiting));
        }
        self.next_id += 1;
        self.enqueue(accepted);
        Ok(id)
    }

    /// Queues a request that was checked.
    fn enqueue(&mut self, request: Accepted) {
        self.scheduler.push(request);
    }

    /// Forgets a request: no event of it comes any more, and what it held is free for the next step. Unknown and
    /// finished requests are ignored.
    pub fn cancel(&mut self, request: RequestId) {
        self.scheduler.cancel(request);
        self.scheduler.gauge();
    }

    /// Plans no further token of a request until it is resumed: its reader is slow. Tokens under way still come.
    pub fn hold(&mut self, request: RequestId) {
        self.scheduler.set_held(request, true);
    }

    /// Goes on with a request that was held.
    pub fn resume(&mut self, request: RequestId) {
        self.scheduler.set_held(request, false);
    }

    /// Forgets all cached prefixes that no request holds.
    pub fn reset_prefix_cache(&mut self) {
        self.scheduler.pages.reset();
    }

    /// Moves on by one step, and returns the tokens that became known; often none while prompts are read or the
    /// first steps are under way. Call it until [`Engine::is_idle`].
    ///
    /// What the backend cannot do ends requests with [`FinishReason::Failed`]: only those of the step if it was
    /// refused before anything ran, else all of them, and the engine has stopped.
    ///
    /// # Errors
    /// [`Error::Closed`] if the engine has stopped before.
    pub fn step(&mut self) -> Result<Vec<TokenEvent>> {
        self.check_alive()?;
        let begin = Instant::now();
        let mut events = self.scheduler.expire(begin);
        let plan = self.scheduler.schedule(begin);
        match self.run(plan) {
            Ok(done) => events.extend(self.postprocess(done, begin)),
            Err(failed) => events.extend(self.fail(failed)),
        }
        self.scheduler.gauge();
        Ok(events)
    }

    fn check_alive(&self) -> Result<()> {
        match &self.failure {
            None => Ok(()),
            Some(why) => Err(Error::Closed(format!(
                "the engine has stopped after an earlier failure ({why}); load it again"
            ))),
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
