//! Which page of a sliding layer holds which block of a sequence. A *block* is [`PAGE_TOKENS`] positions.
//!
//! Between steps a sequence needs the window before its next token, which lies in a few blocks. A step adds the blocks
//! that it appends to: many for a chunk of a prompt, whose tokens see each other's keys there. They come from pages that
//! all sequences share, and go back when the next step begins; a snapshot is saved before that. So a sequence slot takes
//! [`pages_per_sequence`] pages however long a chunk is, and the chunk's pages are there once, not once per slot.
//!
//! All sliding layers use the same pages. This module handles ids only: the memory is the backend's.

use std::collections::VecDeque;

use ossmith_plan::ModelSpec;

use super::{Limits, MAX_REVISED_TOKENS, PAGE_TOKENS};
#[cfg(feature = "cuda")]
use super::{Sequence, Step};
use crate::{Error, Result};

/// The pages of every sequence slot.
#[derive(Debug)]
pub(super) struct SlidingPages {
    /// Positions that a token sees, itself included.
    window: usize,
    /// The most pages that a slot keeps.
    kept: usize,
    free: Vec<u32>,
    slots: Vec<SlotPages>,
    /// Slots of the last step, and the first block of each that is still needed.
    stale: Vec<(usize, usize)>,
}

/// Consecutive blocks. The last may lie in the page of the first: see [`SlidingPages::place_one`].
#[derive(Debug, Default)]
struct SlotPages {
    first: usize,
    pages: VecDeque<u32>,
}

/// The most blocks that `window` consecutive positions lie in.
fn blocks_of(window: usize) -> usize {
    if window < 2 { 1 } else { (window - 2) / PAGE_TOKENS + 2 }
}

/// Pages that a sequence slot takes between steps, and in steps that append at most [`MAX_REVISED_TOKENS`] to it.
pub(super) fn pages_per_sequence(spec: &ModelSpec) -> usize {
    blocks_of(spec.max_window().min(spec.context))
}

/// Pages that the chunks of a step take beyond those. A chunk of more than a page's tokens takes at most one page more
/// than its tokens fill, because neither of its ends need be at a page's edge; so pages for twice its tokens are enough.
pub(super) fn pages_of_chunks(limits: &Limits) -> usize {
    2 * limits.max_step_tokens.div_ceil(PAGE_TOKENS)
}

/// All pages of a sliding layer.
pub(super) fn page_count(spec: &ModelSpec, limits: &Limits) -> usize {
    limits.max_sequences.saturating_mul(pages_per_sequence(spec)) + pages_of_chunks(limits)
}

impl SlidingPages {
    pub(super) fn new(spec: &ModelSpec, limits: &Limits) -> SlidingPages {
        SlidingPages::of(spec.max_window().min(spec.context), page_count(spec, limits), limits)
    }

    fn of(window: usize, count: usize, limits: &Limits) -> SlidingPages {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        SlidingPages {
            window,
            kept: blocks_of(window),
            free: (0..count).rev().collect(),
            slots: (0..limits.max_sequences).map(|_| SlotPages::default()).collect(),
            stale: Vec::new(),
        }
    }

    /// Takes the pages of a step; those that only the step before needed are free from here on.
    ///
    /// # Errors
    /// [`Error::Internal`] if pages run out, which a step within its limits cannot cause.
    #[cfg(feature = "cuda")]
    pub(super) fn place(&mut self, step: &Step<'_>) -> Result<()> {
        let appended = |one: &Sequence<'_>| (one.seq_slot, one.start, one.input.len());
        self.place_all(step.sequences.iter().map(appended))
    }

    /// The same for (sequence slot, start, number of tokens) of each sequence.
    pub(super) fn place_all(
        &mut self,
        mut appended: impl Iterator<Item = (usize, usize, usize)>,
    ) -> Result<()> {
        for (slot, needed) in std::mem::take(&mut self.stale) {
            self.free_before(slot, needed);
        }
        appended.try_for_each(|(slot, start, count)| self.place_one(slot, start, count))
    }

    /// Pages for `count` tokens from `start` on, and for the window before them.
    ///
    /// A few tokens can begin a block while the oldest block of their window is still needed. Then they take that block's
    /// page, as in a ring: what they overwrite lies before the window.
    fn place_one(&mut self, slot: usize, start: usize, count: usize) -> Result<()> {
        let oldest = (start + 1).saturating_sub(self.window);
        let (low, end) = (oldest / PAGE_TOKENS, (start + count).div_ceil(PAGE_TOKENS));
        // A block that begins at `start` or after holds nothing of this sequence.
        self.free_from(slot, start.div_ceil(PAGE_TOKENS).max(low));
        self.free_before(slot, low);
        if self.slots[slot].first != low {
            self.free_all(slot);
            self.slots[slot].first = low;
        }
        for block in low + self.slots[slot].pages.len()..end {
            let overwritten = (start + count).saturating_sub(block * PAGE_TOKENS);
            let shares = block == low + self.kept && overwritten <= oldest % PAGE_TOKENS;
            let page = if shares { self.slots[slot].pages[0] } else { self.allocate()? };
            self.slots[slot].pages.push_back(page);
        }
        // A shorter step may be a draft, after whose first token the sequence continues, or a token that runs again.
        let known = if count <= MAX_REVISED_TOKENS { start } else { start + count };
        self.stale.push((slot, (known + 1).saturating_sub(self.window) / PAGE_TOKENS));
        Ok(())
    }

    /// Positions that a token sees, itself included.
    pub(super) fn window(&self) -> usize {
        self.window
    }

    /// The blocks of the window before `end`, a page's edge.
    pub(super) fn window_before(&self, end: usize) -> std::ops::Range<usize> {
        (end + 1).saturating_sub(self.window) / PAGE_TOKENS..end / PAGE_TOKENS
    }

    /// Pages for the window before `end`, a page's edge, where a sequence slot will continue; what it had is free.
    pub(super) fn place_window(&mut self, slot: usize, end: usize) -> Result<()> {
        if slot >= self.slots.len() {
            return Err(Error::Internal(format!("there is no sequence slot {slot}")));
        }
        self.stale.retain(|(stale, _)| *stale != slot);
        self.free_all(slot);
        let blocks = self.window_before(end);
        self.slots[slot].first = blocks.start;
        for _ in blocks {
            let page = self.allocate()?;
            self.slots[slot].pages.push_back(page);
        }
        Ok(())
    }

    /// The page of a block, if the slot has one.
    pub(super) fn page(&self, slot: usize, block: usize) -> Option<u32> {
        let SlotPages { first, pages } = self.slots.get(slot)?;
        pages.get(block.checked_sub(*first)?).copied()
    }

    /// The first block of a slot that has a page, and the pages from there on.
    #[cfg(feature = "cuda")]
    pub(super) fn blocks(&self, slot: usize) -> (usize, impl Iterator<Item = u32>) {
        let SlotPages { first, pages } = &self.slots[slot];
        (*first, pages.iter().copied())
    }

    fn allocate(&mut self) -> Result<u32> {
        let none = || Error::Internal("a step takes more sliding pages than there are".to_owned());
        self.free.pop().ok_or_else(none)
    }

    /// Frees the blocks before `block`.
    fn free_before(&mut self, slot: usize, block: usize) {
        while self.slots[slot].first < block
            && let Some(page) = self.slots[slot].pages.pop_front()
        {
            self.slots[slot].first += 1;
            self.free_unless_shared(slot, page);
        }
    }

    /// Frees the blocks from `block` on.
    fn free_from(&mut self, slot: usize, block: usize) {
        while self.slots[slot].first + self.slots[slot].pages.len() > block
            && let Some(page) = self.slots[slot].pages.pop_back()
        {
            self.free_unless_shared(slot, page);
        }
    }

    fn free_all(&mut self, slot: usize) {
        self.free_from(slot, 0);
    }

    fn free_unless_shared(&mut self, slot: usize, page: u32) {
        if !self.slots[slot].pages.contains(&page) {
            self.free.push(page);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// A sequence in a slot: its number, its length, and where it may continue at the earliest.
    #[derive(Clone, Copy)]
    struct Sequence {
        number: usize,
        length: usize,
        earliest: usize,
    }

    /// What each place of each page holds: a sequence and a position.
    type Memory = HashMap<(u32, usize), (usize, usize)>;

    fn place_of(pages: &SlidingPages, slot: usize, position: usize) -> Option<(u32, usize)> {
        Some((pages.page(slot, position / PAGE_TOKENS)?, position % PAGE_TOKENS))
    }

    proptest! {
        /// Against a memory that records every write: each token finds the keys of its window, whatever else the step
        /// appends, wherever chunks begin and end, after drafts are taken back, and from snapshots; and pages never run
        /// out.
        #[test]
        fn every_token_finds_its_window(
            window in prop_oneof![1_usize..260, Just(64), Just(65), Just(128)],
            slots in 1_usize..5,
            max_step_tokens in 1_usize..500,
            steps in prop::collection::vec(
                prop::collection::vec((0_u8..12, 1_usize..500, 0_usize..500), 5), 1..40),
        ) {
            let limits = Limits { max_sequences: slots, max_step_tokens, pages: 1 };
            let count = slots * blocks_of(window) + pages_of_chunks(&limits);
            let mut pages = SlidingPages::of(window, count, &limits);
            let (mut memory, mut numbers) = (Memory::new(), 0);
            let mut sequences = vec![Sequence { number: 0, length: 0, earliest: 0 }; slots];
            let mut snapshots = vec![0];
            for step in steps {
                let (mut appended, mut budget) = (Vec::new(), max_step_tokens);
                for (slot, &(kind, count, choice)) in step.iter().take(slots).enumerate() {
                    let sequence = &mut sequences[slot];
                    if kind < 2 {
                        // Another sequence, from the start or from a snapshot of any earlier one.
                        numbers += 1;
                        let end = snapshots[choice % snapshots.len()];
                        *sequence = Sequence { number: numbers, length: end, earliest: end };
                        if end > 0 {
                            pages.place_window(slot, end).unwrap();
                            for position in (end + 1).saturating_sub(window)..end {
                                let place = place_of(&pages, slot, position).unwrap();
                                memory.insert(place, (numbers, position));
                            }
                        }
                    }
                    // Mostly single tokens and drafts.
                    let count = if kind < 8 { count % 4 + 1 } else { count }.min(budget);
                    if kind == 11 || count == 0 {
                        continue;
                    }
                    budget -= count;
                    let Sequence { number, length, earliest } = *sequence;
                    let start = earliest + choice % (length - earliest + 1);
                    appended.push((slot, number, start, count));
                    sequence.length = start + count;
                    sequence.earliest =
                        if count <= MAX_REVISED_TOKENS { start } else { start + count };
                }
                pages.place_all(appended.iter().map(|&(slot, _, start, count)| (slot, start, count)))
                    .unwrap();
                for &(slot, number, start, count) in &appended {
                    for position in start..start + count {
                        let place = place_of(&pages, slot, position).unwrap();
                        memory.insert(place, (number, position));
                    }
                }
                for &(slot, number, start, count) in &appended {
                    let holds = |position: usize| {
                        let place = place_of(&pages, slot, position);
                        place.and_then(|place| memory.get(&place)) == Some(&(number, position))
                    };
                    for token in start..start + count {
                        let seen = (token + 1).saturating_sub(window)..=token;
                        prop_assert!(seen.clone().all(holds), "token {} of {}", token, window);
                    }
                    for end in (start + 1..=start + count).filter(|end| end % PAGE_TOKENS == 0) {
                        let seen = (end + 1).saturating_sub(window)..end;
                        prop_assert!(seen.clone().all(holds), "snapshot at {}", end);
                        snapshots.push(end);
                    }
                }
            }
        }
    }

    #[test]
    fn a_slot_keeps_its_window_whatever_the_chunk() {
        for (window, kept) in [(1, 1), (2, 2), (65, 2), (66, 3), (67, 3), (128, 3), (129, 3)] {
            assert_eq!(blocks_of(window), kept, "{window}");
        }
    }
}
