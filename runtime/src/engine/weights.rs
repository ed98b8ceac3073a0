//! Weights that change under a running engine, as trainers need it. Keys and values of the old weights are dropped: what was
//! running computes its prompt and its answer so far again, and goes on from there.

use std::sync::Arc;

use super::Engine;
use super::request::TokenEvent;
use super::step_plan::StepPlan;
use crate::{Checkpoint, Error, Result};

impl Engine {
    /// Replaces the weights by others of the same model, drops all cached prefixes, and has what was running compute again.
    /// If it fails, the engine goes on with the weights that it has.
    ///
    /// # Errors
    /// [`Error::NotIdle`] while a step is in flight, [`Error::Stopped`] if the engine has stopped, [`Error::InvalidOption`] where
    /// the backend cannot (all but the CPU with one rank); what is wrong with the weights.
    pub fn replace_weights(&mut self, weights: Arc<Checkpoint>) -> Result<()> {
        self.check_running()?;
        if !self.in_flight.is_empty() {
            return Err(Error::NotIdle { action: "replace weights" });
        }
        self.backend.replace_weights(weights)?;
        let running: Vec<_> = self.scheduler.running.iter().copied().collect();
        running.into_iter().for_each(|key| self.scheduler.preempt(key));
        self.reset_prefix_cache();
        self.scheduler.update_gauges();
        Ok(())
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
