//! Whether a request gets in at all. What can start at once waits for nothing, so it needs no place in the queue.

use crate::{Error, Result};

/// What an engine has room for, as of its last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Samples that wait.
    pub(super) waiting: usize,
    /// Samples of requests that are on their way to the engine.
    pub(super) arriving: usize,
    pub(super) free_slots: usize,
    /// All sequence slots.
    pub(super) slots: usize,
    /// Samples that may wait.
    pub(super) limit: usize,
}

impl Room {
    /// Takes so many more samples.
    ///
    /// # Errors
    /// [`Error::QueueFull`] if too many would wait; [`Error::InvalidRequest`] if they would even if nothing else ran.
    pub(super) fn check(&self, samples: usize) -> Result<()> {
        let waiting = self.waiting + self.arriving;
        if (waiting + samples).saturating_sub(self.free_slots) <= self.limit {
            return Ok(());
        }
        let (limit, capacity) = (self.limit, self.limit.saturating_add(self.slots));
        if samples > capacity {
            let Room { slots, .. } = self;
            let problem = format!(
                "n is {samples}, but {slots} samples run at once and {limit} may wait; request at most {capacity}"
            );
            return Err(Error::invalid_request("n", problem));
        }
        Err(Error::QueueFull { waiting, limit, capacity })
    }
}
