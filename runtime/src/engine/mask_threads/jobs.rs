//! Masks that are to be computed, in order. What has to be quick is kept apart, so that a thread can take it alone.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::MaskCell;

/// A mask to compute. Those whose sample has taken the least time come first, then the oldest.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Job {
    order: Reverse<(u64, u64)>,
    pub(super) cell: ByAddress,
}

/// Cells are equal if they are the same, and have no order.
pub(super) struct ByAddress(pub(super) Arc<MaskCell>);

impl PartialEq for ByAddress {
    fn eq(&self, other: &ByAddress) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for ByAddress {}

impl PartialOrd for ByAddress {
    fn partial_cmp(&self, other: &ByAddress) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByAddress {
    fn cmp(&self, _: &ByAddress) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

#[derive(Default)]
pub(super) struct Jobs {
    quick: BinaryHeap<Job>,
    /// Masks that may take long, and those of samples that have ended.
    slow: BinaryHeap<Job>,
    next: u64,
    /// The engine is gone.
    pub(super) ended: bool,
}

impl Jobs {
    pub(super) fn push(&mut self, cell: Arc<MaskCell>, quick: bool) {
        self.next += 1;
        let order = Reverse((cell.spent.load(Ordering::Relaxed), self.next));
        let jobs = if quick { &mut self.quick } else { &mut self.slow };
        jobs.push(Job { order, cell: ByAddress(cell) });
    }

    /// The next job for a thread that does all, or only quick ones.
    pub(super) fn pop(&mut self, only_quick: bool) -> Option<Job> {
        if only_quick || self.quick.peek() >= self.slow.peek() {
            return self.quick.pop();
        }
        self.slow.pop()
    }
}
