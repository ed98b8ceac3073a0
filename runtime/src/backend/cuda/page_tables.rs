//! The page tables that kernels read, `[slot][stride]` for each kind of layer: they name the pages that hold the keys and
//! values of a sequence. Each step sends what the device's copies lack.

use ossmith_plan::params::Ptr;
use ossmith_plan::{LayerKind, ModelSpec};

use crate::Result;
use crate::backend::sliding_pages::SlidingPages;
use crate::backend::{Limits, PAGE_TOKENS, Sequence, Step};

/// Entries of a page table that the device lacks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TableUpdate {
    /// Of the first entry, on the device.
    pub address: Ptr,
    pub entries: Vec<u32>,
}

/// The page tables of all layers.
#[derive(Debug)]
pub(super) struct PageTables {
    /// The pages of sliding layers; those of full layers are the caller's to allocate.
    pub sliding: SlidingPages,
    /// What the device's tables hold, by layer kind, so that only changes are sent.
    shadows: [Vec<u32>; 2],
    /// Where they lie on the device, by layer kind.
    addresses: [Ptr; 2],
    stride: usize,
}

impl PageTables {
    /// Tables at `addresses`, of [`PageTables::entries`] zeros each.
    pub(super) fn new(spec: &ModelSpec, limits: &Limits, addresses: [Ptr; 2]) -> PageTables {
        let entries = || vec![0; PageTables::entries(spec, limits)];
        PageTables {
            sliding: SlidingPages::new(spec, limits),
            shadows: [entries(), entries()],
            addresses,
            stride: spec.context.div_ceil(PAGE_TOKENS),
        }
    }

    /// Entries of a table.
    pub(super) fn entries(spec: &ModelSpec, limits: &Limits) -> usize {
        limits.max_sequences * spec.context.div_ceil(PAGE_TOKENS)
    }

    /// Entries of one slot in a table.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// Address of the table of a kind of layer.
    pub(super) fn address(&self, kind: LayerKind) -> Ptr {
        self.addresses[kind as usize]
    }

    /// The page of a kind of layer that holds a position of a sequence, which the last step appended or its window
    /// contains.
    pub(super) fn page_of(
        &self,
        kind: LayerKind,
        slot: usize,
        pages: &[u32],
        position: usize,
    ) -> usize {
        let index = position / PAGE_TOKENS;
        match kind {
            LayerKind::Sliding => self.sliding.page(slot, index).unwrap_or(0) as usize,
            LayerKind::Full => pages[index] as usize,
        }
    }

    /// Takes the pages of sliding layers that a step needs.
    pub(super) fn place(&mut self, step: &Step<'_>) -> Result<()> {
        self.sliding.place(step)
    }

    /// What a sequence's rows in the tables lack, once its step has its pages.
    pub(super) fn updates(&mut self, sequence: &Sequence<'_>) -> [Option<TableUpdate>; 2] {
        let slot = sequence.seq_slot;
        let (first, pages) = self.sliding.blocks(slot);
        let row = &mut self.shadows[LayerKind::Sliding as usize][slot * self.stride..];
        let sliding =
            take_over(&mut row[first..], pages).map(|(at, entries)| (first + at, entries));
        let row = &mut self.shadows[LayerKind::Full as usize][slot * self.stride..];
        let known = row[..sequence.pages.len()] == *sequence.pages;
        // As nearly always, and much faster to see than where they part.
        let full = if known { None } else { take_over(row, sequence.pages.iter().copied()) };
        let update = |kind: LayerKind, changed: Option<(usize, Vec<u32>)>| {
            let (at, entries) = changed?;
            let entry = (slot * self.stride + at) * size_of::<u32>();
            Some(TableUpdate { address: self.address(kind) + entry as Ptr, entries })
        };
        [update(LayerKind::Sliding, sliding), update(LayerKind::Full, full)]
    }
}

/// Takes over `pages` into a row of a page table: the first entry that differed, and the entries from there on.
fn take_over(row: &mut [u32], pages: impl Iterator<Item = u32>) -> Option<(usize, Vec<u32>)> {
    let mut changed =
        row.iter_mut().zip(pages).enumerate().skip_while(|(_, (old, new))| **old == *new);
    let (first, (old, new)) = changed.next()?;
    *old = new;
    let mut entries = vec![new];
    for (_, (old, new)) in changed {
        *old = new;
        entries.push(new);
    }
    Some((first, entries))
}
