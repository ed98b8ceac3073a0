//! Pausing: no step runs until the engine is resumed. What becomes of the requests meanwhile is the caller's choice. A paused
//! engine can sleep: it gives back its memory, and what ran computes again when it has woken.

use super::request::{FinishReason, TokenEvent};
use super::step_plan::StepPlan;
use super::{Engine, load};
use crate::backend::SleepLevel;
use crate::{Error, Result};

/// What becomes of requests when steps are paused. The names are those of vLLM's `/pause`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PauseMode {
    /// All end at once, with [`FinishReason::Cancelled`].
    #[default]
    Abort,
    /// Those that run are finished first; those that wait are kept. Where steps are paused already, all are kept.
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
        self.settle_ended();
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
        self.settle_ended();
        Ok(events)
    }

    /// Ends the requests whose deadline has passed.
    pub(super) fn expire(&mut self) -> Vec<TokenEvent> {
        let events = self.scheduler.expire(self.clock.now());
        self.settle_ended();
        events
    }

    /// Gives memory back; see [`Backend::sleep`](crate::backend::Backend::sleep). What ran computes again later.
    pub(super) fn sleep(&mut self, level: SleepLevel) -> Result<()> {
        self.check_may_change("sleep")?;
        self.lacks_weights |= self.backend.sleep(level)?;
        self.sleeps = true;
        self.forget_weights();
        Ok(())
    }

    /// Takes the memory again, if the engine sleeps.
    pub(super) fn wake(&mut self) -> Result<()> {
        if std::mem::take(&mut self.sleeps) {
            let woken = self.backend.wake().and_then(|()| {
                let count = load::snapshots(&self.policy, self.spec, &self.limits);
                load::reserve_snapshots(&mut *self.backend, count)
            });
            self.sleeps = woken.is_err();
            woken?;
        }
        Ok(())
    }

    /// Refuses what needs weights and a cache where there are none.
    pub(super) fn check_awake(&self) -> Result<()> {
        match (self.sleeps, self.lacks_weights) {
            (false, false) => Ok(()),
            (true, _) => Err(Error::Asleep { problem: "sleeps; wake it first" }),
            (_, true) => Err(Error::Asleep {
                problem: "has no weights since it slept; replace all of them first",
            }),
        }
    }
}
