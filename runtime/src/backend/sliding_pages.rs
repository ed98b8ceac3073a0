//! Which page of a sliding layer holds which block of a sequence. A *block* is [`SLIDING_PAGE_TOKENS`] positions.
//!
//! Between steps a sequence needs the window before its next token, which lies in a few blocks. So each sequence slot has
//! a ring of pages, which its blocks take in turn: while it generates, block `n` lies where block `n - pages` lay, and no
//! page table changes. A step adds the blocks that it appends to: many for a chunk of a prompt, whose tokens see each
//! other's keys there. What the ring lacks for them comes from pages that all slots share, and as many go back when the
//! next step begins; a snapshot is saved before that. So a slot has [`pages_per_sequence`] pages however long a chunk is,
//! and the chunk's pages are there once, not once per slot.
//!
//! Pages are smaller than those of full layers, because a window that begins and ends within pages takes one more than it
//! fills. All sliding layers use the same pages. This module handles ids only: the memory is the backend's.

use std::collections::VecDeque;

use ossmith_plan::ModelSpec;
use ossmith_plan::facts::SLIDING_PAGE_TOKENS;

use super::{Limits, max_revised_tokens};
#[cfg(feature = "cuda")]
use super::{Sequence, Step};
use crate::{Error, Result};

/// The pages of every sequence slot.
#[derive(Debug)]
pub(super) struct SlidingPages {
    /// Positions that a token sees, itself included.
    window: usize,
    /// Tokens of a step of which some may be taken back.
    revised: usize,
    /// Pages of a slot's ring.
    kept: usize,
    /// The pages of chunks.
    free: VecDeque<u32>,
    slots: Vec<SlotPages>,
    /// Slots of the last step, and the first block of each that is still needed.
    stale: Vec<(usize, usize)>,
}

/// Consecutive blocks. The last may lie in the page of the first: see [`SlidingPages::place_one`].
#[derive(Debug, Default)]
struct SlotPages {
    first: usize,
    pages: VecDeque<u32>,
    /// Pages of the ring that hold no block, the next to be used first.
    spare: VecDeque<u32>,
}

impl SlotPages {
    /// Whether the last block lies in the page of the first.
    fn wraps(&self) -> bool {
        self.pages.len() > 1 && self.pages.front() == self.pages.back()
    }

    /// Pages of the ring, and those of chunks that the slot has taken.
    fn count(&self) -> usize {
        self.pages.len() + self.spare.len() - usize::from(self.wraps())
    }
}

/// The most blocks that `window` consecutive positions lie in.
fn blocks_of(window: usize) -> usize {
    if window < 2 { 1 } else { (window - 2) / SLIDING_PAGE_TOKENS + 2 }
}

/// Pages of a ring that holds the window before a token, wherever it begins, and the tokens of a step of which some may be
/// taken back.
fn ring_pages(window: usize, revised: usize) -> usize {
    blocks_of(window).max((window - 1 + revised).div_ceil(SLIDING_PAGE_TOKENS))
}

/// Pages that a sequence slot has, which are enough for steps that append at most [`max_revised_tokens`] to it.
pub(super) fn pages_per_sequence(spec: &ModelSpec, limits: &Limits) -> usize {
    ring_pages(window_of(spec), max_revised_tokens(limits))
}

/// Pages that the chunks of a step take beyond those. A chunk of more than a page's tokens takes at most one page more
/// than its tokens fill, because neither of its ends need be at a page's edge; so pages for twice its tokens are enough.
pub(super) fn pages_of_chunks(limits: &Limits) -> usize {
    2 * limits.max_step_tokens.div_ceil(SLIDING_PAGE_TOKENS)
}

/// All pages of a sliding layer.
pub(super) fn page_count(spec: &ModelSpec, limits: &Limits) -> usize {
    limits.max_sequences.saturating_mul(pages_per_sequence(spec, limits)) + pages_of_chunks(limits)
}

/// The longest window of a model's sliding layers.
fn window_of(spec: &ModelSpec) -> usize {
    spec.max_window().min(spec.context).max(1)
}

impl SlidingPages {
    pub(super) fn new(spec: &ModelSpec, limits: &Limits) -> SlidingPages {
        SlidingPages::of(window_of(spec), limits)
    }

    fn of(window: usize, limits: &Limits) -> SlidingPages {
        let revised = max_revised_tokens(limits);
        let kept = ring_pages(window, revised);
        let mut ids = 0_u32..;
        let slots = (0..limits.max_sequences)
            .map(|_| SlotPages { spare: ids.by_ref().take(kept).collect(), ..SlotPages::default() })
            .collect();
        let free = ids.take(pages_of_chunks(limits)).collect();
        SlidingPages { window, revised, kept, free, slots, stale: Vec::new() }
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
    /// page, as in any ring: what they overwrite lies before the window.
    fn place_one(&mut self, slot: usize, start: usize, count: usize) -> Result<()> {
        let oldest = (start + 1).saturating_sub(self.window);
        let low = oldest / SLIDING_PAGE_TOKENS;
        let end = (start + count).div_ceil(SLIDING_PAGE_TOKENS);
        // A block that begins at `start` or after holds nothing of this sequence.
        self.free_from(slot, start.div_ceil(SLIDING_PAGE_TOKENS).max(low));
        self.free_before(slot, low);
        if self.slots[slot].first != low {
            self.free_all(slot);
            self.slots[slot].first = low;
        }
        let fits = start + count <= oldest + self.kept * SLIDING_PAGE_TOKENS;
        for block in low + self.slots[slot].pages.len()..end {
            let pages = &mut self.slots[slot];
            let page = match (pages.spare.pop_front(), pages.pages.front()) {
                (Some(page), _) => page,
                (None, Some(&first)) if fits && block == low + self.kept => first,
                (None, _) => self.free.pop_front().ok_or_else(|| {
                    Error::Internal("a step takes more sliding pages than there are".to_owned())
                })?,
            };
            self.slots[slot].pages.push_back(page);
        }
        // A shorter step may be a draft, after whose first token the sequence continues, or a token that runs again.
        let known = if count <= self.revised { start } else { start + count };
        self.stale.push((slot, (known + 1).saturating_sub(self.window) / SLIDING_PAGE_TOKENS));
        Ok(())
    }

    /// Positions that a token sees, itself included.
    pub(super) fn window(&self) -> usize {
        self.window
    }

    /// The blocks of the window before `end`, a page's edge.
    pub(super) fn window_before(&self, end: usize) -> std::ops::Range<usize> {
        (end + 1).saturating_sub(self.window) / SLIDING_PAGE_TOKENS..end / SLIDING_PAGE_TOKENS
    }

    /// Pages for the window before `end`, a page's edge, where a sequence slot will continue; what it had is free.
    pub(super) fn place_window(&mut self, slot: usize, end: usize) -> Result<()> {
        if slot >= self.slots.len() {
            return Err(Error::Internal(format!("there is no sequence slot {slot}")));
        }
        self.stale.retain(|(stale, _)| *stale != slot);
        self.free_all(slot);
        let blocks = self.window_before(end);
        let slot = &mut self.slots[slot];
        slot.first = blocks.start;
        slot.pages.extend(slot.spare.drain(..blocks.len()));
        Ok(())
    }

    /// The page of a block, if the slot has one.
    pub(super) fn page(&self, slot: usize, block: usize) -> Option<u32> {
        let SlotPages { first, pages, .. } = self.slots.get(slot)?;
        pages.get(block.checked_sub(*first)?).copied()
    }

    /// The first block of a slot that has a page, and the pages from there on.
    #[cfg(feature = "cuda")]
    pub(super) fn blocks(&self, slot: usize) -> (usize, impl Iterator<Item = u32>) {
        let SlotPages { first, pages, .. } = &self.slots[slot];
        (*first, pages.iter().copied())
    }

    /// The pages that the blocks after those will lie in, as long as steps append no chunk: the ring's, in turn.
    #[cfg(any(feature = "cuda", test))]
    pub(super) fn pages_ahead(&self, slot: usize) -> impl Iterator<Item = u32> {
        let slot = &self.slots[slot];
        let in_turn = slot.spare.iter().chain(slot.pages.iter().skip(usize::from(slot.wraps())));
        // What a chunk has taken goes back first.
        in_turn.skip(slot.count() - self.kept).cycle().copied()
    }

    /// Frees the blocks before `block`.
    fn free_before(&mut self, slot: usize, block: usize) {
        while self.slots[slot].first < block
            && let Some(page) = self.slots[slot].pages.pop_front()
        {
            let slot = &mut self.slots[slot];
            slot.first += 1;
            if !slot.pages.contains(&page) {
                slot.spare.push_back(page);
                if slot.count() > self.kept {
                    self.free.extend(slot.spare.pop_back());
                }
            }
        }
    }

    /// Frees the blocks from `block` on, so that the ring goes back to where it was before them.
    fn free_from(&mut self, slot: usize, block: usize) {
        while self.slots[slot].first + self.slots[slot].pages.len() > block
            && let Some(page) = self.slots[slot].pages.pop_back()
        {
            let slot = &mut self.slots[slot];
            if !slot.pages.contains(&page) {
                slot.spare.push_front(page);
                if slot.count() > self.kept {
                    self.free.extend(slot.spare.pop_front());
                }
            }
        }
    }

    fn free_all(&mut self, slot: usize) {
        self.free_from(slot, 0);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::super::PAGE_TOKENS;
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
        Some((pages.page(slot, position / SLIDING_PAGE_TOKENS)?, position % SLIDING_PAGE_TOKENS))
    }

    proptest! {
        /// Against a memory that records every write: each token finds the keys of its window, whatever else the step
        /// appends, wherever chunks begin and end, after drafts are taken back, and from snapshots; and pages never run
        /// out.
        #[test]
        fn every_token_finds_its_window(
            window in prop_oneof![1_usize..260, Just(64), Just(65), Just(128)],
            slots in prop_oneof![1_usize..5, Just(100), Just(300)],
            max_step_tokens in 1_usize..500,
            steps in prop::collection::vec(
                prop::collection::vec((0_u8..12, 1_usize..500, 0_usize..500), 5), 1..40),
        ) {
            let limits = Limits { max_sequences: slots, max_step_tokens, pages: 1 };
            let revised = max_revised_tokens(&limits);
            let mut pages = SlidingPages::of(window, &limits);
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
                    sequence.earliest = if count <= revised { start } else { start + count };
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

    proptest! {
        /// What a page table is sent once holds: a sequence that generates, with drafts or without, finds each block in the
        /// page that was ahead, from the first step after its prompt on.
        #[test]
        fn blocks_take_the_pages_ahead(
            window in prop_oneof![1_usize..260, Just(128)],
            slots in prop_oneof![1_usize..4, Just(256)],
            prompt in 1_usize..400,
            steps in prop::collection::vec((1_usize..17, 0_usize..17), 1..200),
        ) {
            let limits = Limits { max_sequences: slots, max_step_tokens: 512, pages: 1 };
            let mut pages = SlidingPages::of(window, &limits);
            pages.place_all([(0, 0, prompt)].into_iter()).unwrap();
            pages.place_all([(0, prompt, 1)].into_iter()).unwrap();
            let next = prompt / SLIDING_PAGE_TOKENS + 1;
            let ahead: Vec<u32> = pages.pages_ahead(0).take(250).collect();
            let mut start = prompt + 1;
            for (count, accepted) in steps {
                pages.place_all([(0, start, count)].into_iter()).unwrap();
                for block in next..(start + count).div_ceil(SLIDING_PAGE_TOKENS) {
                    if let Some(page) = pages.page(0, block) {
                        prop_assert_eq!(page, ahead[block - next], "block {}", block);
                    }
                }
                start += 1 + accepted % count;
            }
        }
    }

    #[test]
    fn a_slot_keeps_its_window_whatever_the_chunk() {
        for (window, blocks) in [(1, 1), (2, 2), (17, 2), (18, 3), (19, 3), (128, 9), (129, 9)] {
            assert_eq!(blocks_of(window), blocks, "{window}");
        }
        // The window, and the tokens of a draft: many of few sequences, few of many.
        let rings = [(1, 12), (64, 12), (128, 10), (256, 9), (1000, 9)];
        for (max_sequences, kept) in rings {
            let limits = Limits { max_sequences, max_step_tokens: 8192, pages: 1 };
            assert_eq!(SlidingPages::of(128, &limits).kept, kept, "{max_sequences}");
        }
    }
}
