//! Weights that change under a running engine, as trainers need it. Keys and values of the old weights are dropped: what was
//! running computes its prompt and its answer so far again, and goes on from there.

use std::path::Path;
use std::sync::Arc;

use super::Engine;
use crate::{Checkpoint, Error, Result};

impl Engine {
    /// Replaces the weights by others of the same model, drops all cached prefixes, and has what was running compute again.
    /// If it fails, the engine goes on with the weights that it has.
    ///
    /// # Errors
    /// [`Error::NotIdle`] while a step is in flight, [`Error::Stopped`] if the engine has stopped, [`Error::InvalidOption`] where
    /// the backend cannot (several ranks); what is wrong with the weights.
    pub fn replace_weights(&mut self, weights: Arc<Checkpoint>) -> Result<()> {
        self.check_may_change("replace weights")?;
        self.backend.replace_weights(weights)?;
        self.lacks_weights = false;
        self.forget_weights();
        Ok(())
    }

    /// Replaces the weights whose tensors are in a safetensors file, or in those of a folder, as [`Engine::replace_weights`]
    /// does, and returns how many they are. All others stay as they are.
    ///
    /// # Errors
    /// As [`Engine::replace_weights`], and as [`Checkpoint::updated`].
    pub fn update_weights(&mut self, path: &Path) -> Result<usize> {
        self.check_may_change("replace weights")?;
        let (replaced, all) = self.backend.update_weights(path)?;
        self.lacks_weights &= replaced < all;
        self.forget_weights();
        Ok(replaced)
    }

    /// Refuses a change while steps are in flight or the engine sleeps.
    pub(super) fn check_may_change(&self, action: &'static str) -> Result<()> {
        self.check_running()?;
        if !self.in_flight.is_empty() {
            return Err(Error::NotIdle { action });
        }
        match self.sleeps {
            true => Err(Error::Asleep { problem: "sleeps; wake it first" }),
            false => Ok(()),
        }
    }

    /// Drops what was computed with the weights before.
    pub(super) fn forget_weights(&mut self) {
        let running: Vec<_> = self.scheduler.running.iter().copied().collect();
        running.into_iter().for_each(|key| self.scheduler.preempt(key));
        self.reset_prefix_cache();
        self.scheduler.update_gauges();
    }
}
