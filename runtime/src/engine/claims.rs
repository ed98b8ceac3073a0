//! What is remembered of those who compete: how long a sample waits, and what its tenant has got. [`super::fairness`]
//! decides by it who goes first.

use super::validate::{Claimant, ValidatedRequest};

/// A request of priority `p + 1` is overtaken by requests of priority `p` that arrive up to this many steps later.
pub(super) const PRIORITY_STEPS: i64 = 1024;

/// What is known of a sample while it waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) claimant: Claimant,
    pub(super) priority: i32,
    /// The step in which it arrived.
    arrived: u64,
}

impl Waiting {
    /// A sample of a request that arrived at step `arrived`.
    pub(super) fn new(request: &ValidatedRequest, arrived: u64) -> Waiting {
        Waiting { claimant: request.claimant, priority: request.priority, arrived }
    }

    /// Its priority at step `now`: one better for every [`PRIORITY_STEPS`] since it arrived, but not better than `best`.
    pub(super) fn aged(&self, now: u64, best: i32) -> i64 {
        let steps = i64::try_from(now.saturating_sub(self.arrived)).unwrap_or(i64::MAX);
        (i64::from(self.priority) - steps / PRIORITY_STEPS).max(best.into())
    }
}

/// How many prompt tokens a tenant got while it read prompts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PromptShare {
    pub(super) tokens: u64,
    /// Of these, while there was a choice: to the first in order, and to the group with the fewest left.
    pub(super) in_order: u64,
    pub(super) shortest: u64,
}
