//! The mask of one sample, and how far it is. What follows from it is in [`super::constrained`].

use super::mask_threads::SampleMask;

/// How far the mask of a sample's next token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// A token of the sample became known since, or is awaited.
    Outdated,
    /// It is being computed.
    Requested,
    /// It is known, and what it forces belongs to the sample.
    Known,
}

/// The mask of a sample.
#[derive(Debug)]
pub(super) struct Constraint {
    pub(super) mask: SampleMask,
    pub(super) progress: Progress,
    /// Forced tokens that no step has run yet.
    pub(super) forced: usize,
    /// Whether its last mask came while a step would have waited for it: then the layers of the next token may run before
    /// its mask is known.
    pub(super) keeps_up: bool,
}

impl Constraint {
    pub(super) fn new(mask: SampleMask) -> Constraint {
        Constraint { mask, progress: Progress::Outdated, forced: 0, keeps_up: false }
    }

    /// Whether the mask of the next token is known.
    pub(super) fn is_known(&self) -> bool {
        self.progress == Progress::Known
    }

    /// Forgets what belonged to a sequence slot.
    pub(super) fn leave_slot(&mut self) {
        self.mask.leave_slot();
        self.forced = 0;
    }
}
