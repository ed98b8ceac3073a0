//! The page tables that kernels read, `[slot][stride]` for each kind of layer: they name the pages that hold the keys and
//! values of a sequence. Each step sends what the device's copies lack.

use ossmith_plan::params::Ptr;
use ossmith_plan::{LayerKind, ModelSpec};

use crate::Result;
use crate::backend::sliding_pages::SlidingPages;
use crate::backend::{Limits, Sequence, Step};

/// In the order of their numbers.
const KINDS: [LayerKind; 2] = [LayerKind::Sliding, LayerKind::Full];

/// Entries of a sliding layer's table that are written ahead with an entry that changed: a sequence that generates takes the
/// pages of its ring in turn, so it sends one copy in as many pages.
pub(super) const ENTRIES_AHEAD: usize = 256;

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
    /// Entries of a slot, by layer kind.
    strides: [usize; 2],
}

impl PageTables {
    /// Tables at `addresses`, of [`PageTables::entries`] zeros each.
    pub(super) fn new(spec: &ModelSpec, limits: &Limits, addresses: [Ptr; 2]) -> PageTables {
        let entries = |kind| vec![0; PageTables::entries(kind, spec, limits)];
        PageTables {
            sliding: SlidingPages::new(spec, limits),
            shadows: KINDS.map(entries),
            addresses,
            strides: KINDS.map(|kind| spec.context.div_ceil(kind.page_tokens())),
        }
    }

    /// Entries of the table of a kind of layer.
    pub(super) fn entries(kind: LayerKind, spec: &ModelSpec, limits: &Limits) -> usize {
        limits.max_sequences * spec.context.div_ceil(kind.page_tokens())
    }

    /// Entries of one slot in the table of a kind of layer.
    pub(super) fn stride(&self, kind: LayerKind) -> usize {
        self.strides[kind as usize]
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
        let index = position / kind.page_tokens();
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
        [self.sliding_update(sequence.seq_slot), self.full_update(sequence)]
    }

    fn sliding_update(&mut self, slot: usize) -> Option<TableUpdate> {
        let (kind, stride) = (LayerKind::Sliding, self.stride(LayerKind::Sliding));
        let (first, pages) = self.sliding.blocks(slot);
        let row = &mut self.shadows[kind as usize][slot * stride + first..(slot + 1) * stride];
        let changed = row.iter().zip(pages).position(|(old, new)| *old != new)?;
        let pages = self.sliding.blocks(slot).1.skip(changed);
        let pages = pages.chain(self.sliding.pages_ahead(slot).take(ENTRIES_AHEAD));
        let entries: Vec<u32> = pages.take(row.len() - changed).collect();
        row[changed..][..entries.len()].copy_from_slice(&entries);
        Some(self.update(kind, slot, first + changed, entries))
    }

    fn full_update(&mut self, sequence: &Sequence<'_>) -> Option<TableUpdate> {
        let (kind, slot, pages) = (LayerKind::Full, sequence.seq_slot, sequence.pages);
        let stride = self.stride(kind);
        let row = &mut self.shadows[kind as usize][slot * stride..][..pages.len()];
        // As nearly always, and much faster to see than where they part.
        if *row == *pages {
            return None;
        }
        let changed = row.iter().zip(pages).position(|(old, new)| old != new)?;
        row.copy_from_slice(pages);
        Some(self.update(kind, slot, changed, pages[changed..].to_vec()))
    }

    /// Entries from number `first` of a slot on.
    fn update(&self, kind: LayerKind, slot: usize, first: usize, entries: Vec<u32>) -> TableUpdate {
        let entry = (slot * self.stride(kind) + first) * size_of::<u32>();
        TableUpdate { address: self.address(kind) + entry as Ptr, entries }
    }
}
