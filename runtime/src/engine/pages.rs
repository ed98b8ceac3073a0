//! Who owns which page of the full layers' cache. Ids only: the memory is the backend's.

use crate::backend::PAGE_TOKENS;

/// Pages of one sequence, in position order. They come from [`PageAllocator::take`] and cannot be copied, so a page
/// has one owner until it is given back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pages(Vec<u32>);

impl Pages {
    /// Ids of the pages that hold the first `positions` positions.
    pub(super) fn holding(&self, positions: usize) -> &[u32] {
        &self.0[..positions.div_ceil(PAGE_TOKENS).min(self.0.len())]
    }
}

/// A stack of free page ids.
#[derive(Debug)]
pub(super) struct PageAllocator {
    free: Vec<u32>,
}

impl PageAllocator {
    /// All of `0..pages` are free.
    pub(super) fn new(pages: usize) -> PageAllocator {
        let pages = u32::try_from(pages).unwrap_or(u32::MAX);
        PageAllocator { free: (0..pages).rev().collect() }
    }

    /// Pages for this many positions, or none at all if too few are free.
    pub(super) fn take(&mut self, positions: usize) -> Option<Pages> {
        let rest = self.free.len().checked_sub(positions.div_ceil(PAGE_TOKENS))?;
        Some(Pages(self.free.drain(rest..).rev().collect()))
    }

    /// Takes a sequence's pages back.
    pub(super) fn give(&mut self, pages: Pages) {
        self.free.extend(pages.0.into_iter().rev());
    }

    /// How many are free.
    pub(super) fn free(&self) -> usize {
        self.free.len()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against the plainest reference: a page is either free or held once, and none gets lost.
        #[test]
        fn pages_are_never_leaked_or_handed_out_twice(
            total in 0_usize..40,
            moves in prop::collection::vec((any::<bool>(), 0_usize..700), 0..200),
        ) {
            let mut allocator = PageAllocator::new(total);
            let mut held: Vec<Pages> = Vec::new();
            for (take, number) in moves {
                if take {
                    let (free, wanted) = (allocator.free(), number.div_ceil(PAGE_TOKENS));
                    let got = allocator.take(number);
                    prop_assert_eq!(got.is_some(), wanted <= free);
                    prop_assert_eq!(got.as_ref().map_or(wanted, |pages| pages.0.len()), wanted);
                    held.extend(got);
                } else if !held.is_empty() {
                    allocator.give(held.swap_remove(number % held.len()));
                }
                let mut all: Vec<u32> = held.iter().flat_map(|pages| pages.0.clone()).collect();
                all.extend(&allocator.free);
                all.sort_unstable();
                prop_assert_eq!(all, (0..total as u32).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn holding_gives_just_the_pages_of_the_first_positions() {
        let pages = PageAllocator::new(5).take(150).unwrap();
        assert_eq!(pages.holding(0), [0_u32; 0]);
        assert_eq!(pages.holding(64), [0]);
        assert_eq!(pages.holding(65), [0, 1]);
        assert_eq!(pages.holding(150), [0, 1, 2]);
    }
}
