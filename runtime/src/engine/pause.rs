//! Pausing: no step runs until the engine is resumed. What becomes of the requests meanwhile is the caller's choice.

use super::Engine;
use super::request::{FinishReason, TokenEvent};
use super::step_plan::StepPlan;
use crate::Result;

/// What becomes of requests when steps are paused. The names are those of vLLM's `/pause`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PauseMode {
    /// All end at once, with [`FinishReason::Cancelled`].
    #[default]
    Abort,
    /// Those that run are finished first; those that wait are kept.
    Wait,
    /// All are kept, and go on when the engine is resumed.
    Keep,
}

impl Engine {
    /// Lets waiting requests start, or not.
    pub(super) fn set_admission(&mut self, admits: bool) {
        self.scheduler.admits = admits;
    }

    /// Whether a request has begun and not ended, or a step is in flight.
    pub(super) fn is_running(&self) -> bool {
        !self.scheduler.running.is_empty() || !self.in_flight.is_empty()
    }

    /// Ends all requests.
    pub(super) fn abort_all(&mut self) -> Vec<TokenEvent> {
        let events = self.scheduler.end_all(&FinishReason::Cancelled);
        self.scheduler.update_gauges();
        events
    }

    /// Collects the steps in flight without starting another one, and returns their events.
    pub(super) fn drain(&mut self) -> Result<Vec<TokenEvent>> {
        self.check_running()?;
        let mut events = Vec::new();
        while !self.in_flight.is_empty() && self.failure.is_none() {
            let begin = self.clock.now();
            let done = self.sample_in_flight().and_then(|()| self.run(StepPlan::default()));
            match done {
                Ok(outcome) => events.extend(self.postprocess(outcome, begin)),
                Err(failure) => events.extend(self.fail(failure)),
            }
        }
        self.scheduler.update_gauges();
        Ok(events)
    }

    /// Ends the requests whose deadline has passed.
    pub(super) fn expire(&mut self) -> Vec<TokenEvent> {
        let events = self.scheduler.expire(self.clock.now());
        self.scheduler.update_gauges();
        events
    }
}
