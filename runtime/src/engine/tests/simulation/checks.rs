//! What must hold, whatever a seed decides.

use super::super::super::Request;
use super::super::super::handle::End;
use super::super::super::request::{FinishReason, RequestId, TokenEvent};
use super::super::super::testing::Fault;
use super::world::World;
use crate::Error;
use crate::backend::PAGE_TOKENS;

/// Tokens that a mask may force at once in these runs.
const MAX_FORCED: usize = 8;

impl World {
    /// No page or sequence slot is lost, free twice, or used by two; no more requests are in than may be.
    pub(super) fn audit(&mut self) -> Result<(), String> {
        self.worker.engine.audit()?;
        let samples = self.worker.engine.scheduler.samples.len();
        let most = self.setup.policy.max_waiting + self.setup.limits.max_sequences;
        if samples > most {
            return Err(format!("{samples} samples are in, {most} may wait and run"));
        }
        Ok(())
    }

    /// A request may be refused if it can never be served, or if the queue is full.
    pub(super) fn check_refusal(&self, request: &Request, error: &Error) -> Result<(), String> {
        let limits = self.setup.limits;
        let most = self.setup.policy.max_waiting + limits.max_sequences;
        let tokens = request.prompt.len() + request.params.max_tokens.unwrap_or(0);
        let right = match error {
            Error::CacheTooSmall { .. } => tokens > limits.pages * PAGE_TOKENS + 1,
            Error::InvalidRequest { field: "n", .. } => request.params.n > most,
            Error::QueueFull { .. } => {
                self.worker.engine.scheduler.samples.len() + request.params.n
                    > self.setup.policy.max_waiting
            }
            // Commands that were not executed yet have ended the engine.
            Error::ShutDown | Error::Stopped { .. } => true,
            _ => false,
        };
        if right { Ok(()) } else { Err(format!("{request:?} was refused: {error}")) }
    }

    /// A held request has the events that its queue takes, and those of the tokens that were in flight.
    pub(super) fn check_backlogs(&mut self) -> Result<(), String> {
        let policy = self.setup.policy;
        for (id, open) in &self.open {
            let (held, queued) = open.events.backlog();
            self.tally.held += u64::from(held);
            let at_once = (1 + policy.draft_tokens).max(MAX_FORCED);
            let in_flight = open.samples.len() * (2 + self.setup.pipeline_depth) * at_once;
            let most = policy.event_capacity + in_flight;
            if queued > most {
                return Err(format!("{queued} events of {id:?} wait, {most} may"));
            }
        }
        Ok(())
    }

    /// An engine ends where a fault was planned, or where it was shut down.
    pub(super) fn check_end(&self, end: &End) -> Result<(), String> {
        let fatal = self
            .fault
            .is_some_and(|(fault, _)| !matches!(fault, Fault::Refuses | Fault::NonFinite));
        match end {
            End::Failed(reason) if !fatal => Err(format!("the engine failed: {reason}")),
            End::Failed(reason) => {
                // The record of the step that failed says who took part in it.
                let steps = self.handle.recent_steps(4);
                let failed = steps.iter().find(|step| step.failure.as_deref() == Some(reason));
                match failed.filter(|step| !step.entries.is_empty()) {
                    Some(_) => Ok(()),
                    None => Err(format!("no record names the step that failed: {steps:?}")),
                }
            }
            End::ShutDown => Ok(()),
        }
    }

    /// While a reader waits, something is on its way to it.
    pub(super) fn check_pending(&self, id: RequestId) -> Result<(), String> {
        let running = self.worker.engine.scheduler.samples.keys().any(|key| key.request == id.0);
        let (held, queued) = self.open[&id].events.backlog();
        if !running {
            return Err(format!(
                "no end came for {id:?}, which the engine does not have (held {held}, {queued} events)"
            ));
        }
        Ok(())
    }

    /// Each sample has had its end.
    pub(super) fn check_ended(&self, id: RequestId) -> Result<(), String> {
        let ended = |(_, _, end): &(_, _, Option<FinishReason>)| end.is_some();
        match self.open[&id].samples.iter().position(|sample| !ended(sample)) {
            None => Ok(()),
            Some(sample) => Err(format!("no end came for sample {sample} of {id:?}")),
        }
    }

    /// An event is the next of its sample's solo run, and each sample ends once, for a reason that it has.
    pub(super) fn check_event(&mut self, event: TokenEvent) -> Result<(), String> {
        let (now, fault, id) = (self.now(), self.fault, event.request);
        let steps = self.worker.engine.metrics().steps;
        let Some(open) = self.open.get_mut(&id) else {
            return Err(format!("an event of {id:?}, which is not open"));
        };
        let Some((want, got, end)) = open.samples.get_mut(event.sample) else {
            return Err(format!("{event:?} is of a sample that does not exist"));
        };
        if end.is_some() {
            return Err(format!("{event:?} comes after the end"));
        }
        let first = got.is_empty() && event.token.is_some();
        if first != event.prompt.is_some() {
            return Err(format!(
                "{event:?}: the first token comes with what is known of the prompt"
            ));
        }
        got.extend(event.token);
        self.tally.tokens += u64::from(event.token.is_some());
        if !want.starts_with(got) {
            return Err(format!("{id:?} got {got:?}, its solo run yields {want:?}"));
        }
        if let Some(finish) = event.finish.clone() {
            let right = match &finish {
                FinishReason::Stop | FinishReason::Length => got == want,
                FinishReason::Deadline => {
                    self.tally.deadlines += 1;
                    open.request.deadline.is_some_and(|deadline| deadline <= now)
                }
                FinishReason::Cancelled => {
                    self.tally.cancelled += 1;
                    open.cancelled
                }
                FinishReason::Failed(_) => {
                    self.tally.failed += 1;
                    fault.is_some()
                }
                FinishReason::StopString(_) => false,
            };
            if !right {
                return Err(format!(
                    "{id:?} ended with {finish:?} after {} of {} tokens",
                    got.len(),
                    want.len()
                ));
            }
            *end = Some(finish);
            self.tally.ended += 1;
        }
        if let Some((arrived, most)) = open.bound.take_if(|_| first) {
            let waited = steps - arrived;
            if waited > most {
                return Err(format!(
                    "{id:?} waited {waited} steps for its first token, the bound is {most}"
                ));
            }
        }
        let cached = event.prompt.map_or(0, |prompt| prompt.cached_tokens);
        self.check_cached(id, event.sample, cached)?;
        Ok(())
    }

    /// What a sample found in the cache was computed for the same tenant.
    fn check_cached(&mut self, id: RequestId, sample: usize, cached: usize) -> Result<(), String> {
        self.tally.cached_tokens += cached as u64;
        let open = &self.open[&id];
        let (prompt, salt) = (&open.request.prompt, open.request.cache_salt);
        let common = |tokens: &[u32]| prompt.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let alone = open.request.params.n == 1;
        let computed = self.computed.get(&salt).into_iter().flatten();
        let others = computed.filter(|(of, _)| *of != id || !alone);
        let most = others.map(|(_, tokens)| common(tokens)).max().unwrap_or(0);
        if cached > most || !cached.is_multiple_of(PAGE_TOKENS) {
            return Err(format!(
                "sample {sample} of {id:?} found {cached} cached tokens of {most}"
            ));
        }
        Ok(())
    }

    /// Tenants with open requests.
    pub(super) fn tenants(&self) -> usize {
        let mut tenants: Vec<u64> = self.open.values().map(|open| open.request.tenant).collect();
        tenants.sort_unstable();
        tenants.dedup();
        tenants.len()
    }

    /// The most steps to the first token of a tenant's only request, while nothing but slots and prompt tokens is scarce:
    /// every tenant's newcomers get a slot each before any has two, and then equal shares of the prompt tokens that
    /// generating samples and their drafts leave.
    pub(super) fn waiting_bound(&self, request: &Request) -> u64 {
        let limits = self.setup.limits;
        let tenants = limits.max_sequences;
        let rate =
            limits.max_step_tokens - (2 * limits.max_sequences + 4).min(limits.max_step_tokens - 1);
        let tokens = tenants * (request.prompt.len() + PAGE_TOKENS);
        (tenants + 3 * (self.setup.pipeline_depth + 1) + tokens.div_ceil(rate)) as u64
    }
}
