//! The key/value cache in pages: those of full layers are the caller's to allocate, those of sliding layers belong to
//! [`SlidingPages`].
//!
//! Both are addressed through a page table, `[slot][table_stride]`.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream};
use ossmith_plan::params::Ptr;
use ossmith_plan::{Layer, LayerKind, ModelSpec};

use super::memory::Buffer;
use crate::backend::sliding_pages::{self, SlidingPages};
use crate::backend::{Limits, PAGE_TOKENS, Sequence, Step};
use crate::{Error, Result};

pub(super) const BF16_BYTES: usize = 2;

/// One layer's keys and values.
#[derive(Debug)]
struct LayerCache {
    kind: LayerKind,
    keys: Buffer,
    values: Buffer,
}

/// Entries of a page table that the device lacks.
#[derive(Debug)]
pub(super) struct TableUpdate {
    /// Of the first entry, on the device.
    pub address: Ptr,
    pub entries: Vec<u32>,
}

/// The cache of all layers.
#[derive(Debug)]
pub(super) struct DeviceCache {
    layers: Vec<LayerCache>,
    sliding: SlidingPages,
    /// Page tables by layer kind.
    tables: [Buffer; 2],
    /// What they hold, so that only changes are sent.
    shadows: [Vec<u32>; 2],
    stride: usize,
    /// Pages that hold the window before a page's edge.
    window: usize,
    page_bytes: usize,
    /// Keys and values of the sliding-window snapshots by sliding layer, `[snapshots][window]` pages.
    snapshots: Vec<LayerCache>,
}

impl DeviceCache {
    pub(super) fn new(
        context: &Arc<CudaContext>,
        spec: &ModelSpec,
        limits: &Limits,
    ) -> Result<DeviceCache> {
        let stride = spec.context.div_ceil(PAGE_TOKENS);
        let page_bytes = PAGE_TOKENS * spec.kv_width() * BF16_BYTES;
        let layer = |layer: &Layer| {
            let kind = layer.kind();
            let pages = match kind {
                LayerKind::Sliding => sliding_pages::page_count(spec, limits),
                LayerKind::Full => limits.pages,
            };
            let make = |what| Buffer::zeroed(context, pages * page_bytes, what);
            Ok(LayerCache { kind, keys: make("the key cache")?, values: make("the value cache")? })
        };
        let layers = spec.layers.iter().map(layer).collect::<Result<_>>()?;
        let entries = limits.max_sequences * stride;
        let table = || Buffer::zeroed(context, entries * size_of::<u32>(), "a page table");
        let tables = [table()?, table()?];
        Ok(DeviceCache {
            layers,
            tables,
            shadows: [vec![0; entries], vec![0; entries]],
            stride,
            sliding: SlidingPages::new(spec, limits),
            window: spec.max_window().min(spec.context).div_ceil(PAGE_TOKENS),
            page_bytes,
            snapshots: Vec::new(),
        })
    }

    /// Makes room for `count` sliding-window snapshots.
    pub(super) fn reserve_snapshots(
        &mut self,
        context: &Arc<CudaContext>,
        count: usize,
    ) -> Result<()> {
        let bytes = count * self.window * self.page_bytes;
        let make = || Buffer::zeroed(context, bytes, "sliding-window snapshots of cached prefixes");
        let sliding = self.layers.iter().filter(|layer| layer.kind == LayerKind::Sliding);
        let snapshot = |layer: &LayerCache| {
            Ok(LayerCache { kind: layer.kind, keys: make()?, values: make()? })
        };
        self.snapshots = sliding.map(snapshot).collect::<Result<_>>()?;
        Ok(())
    }

    /// Copies the window before `end` from a sequence slot's sliding layers to a snapshot (`save`), or back, in stream
    /// order.
    pub(super) fn copy_snapshot(
        &mut self,
        stream: &CudaStream,
        snapshot: usize,
        slot: usize,
        end: usize,
        save: bool,
    ) -> Result<()> {
        if !save {
            self.sliding.place_window(slot, end)?;
        }
        let bytes = self.page_bytes;
        let sliding = self.layers.iter().filter(|layer| layer.kind == LayerKind::Sliding);
        for (cache, snapshots) in sliding.zip(&self.snapshots) {
            for block in self.sliding.window_before(end) {
                let missing = || {
                    Error::Internal(format!("sequence slot {slot} holds no window before {end}"))
                };
                let page = self.sliding.page(slot, block).ok_or_else(missing)? as usize * bytes;
                let kept = (snapshot * self.window + block % self.window) * bytes;
                for (of_cache, of_snapshot) in
                    [(&cache.keys, &snapshots.keys), (&cache.values, &snapshots.values)]
                {
                    if save {
                        of_snapshot.copy_from(stream, kept, of_cache, page, bytes)?;
                    } else {
                        of_cache.copy_from(stream, page, of_snapshot, kept, bytes)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Addresses of a layer's keys, values and page table.
    pub(super) fn layer(&self, layer: usize) -> (Ptr, Ptr, Ptr) {
        let cache = &self.layers[layer];
        let table = &self.tables[cache.kind as usize];
        (cache.keys.ptr(), cache.values.ptr(), table.ptr())
    }

    /// A layer's keys and values.
    pub(super) fn buffers(&self, layer: usize) -> (&Buffer, &Buffer) {
        (&self.layers[layer].keys, &self.layers[layer].values)
    }

    /// The page of a layer that holds a position of a sequence, which the last step appended or its window contains.
    pub(super) fn page_of(
        &self,
        layer: usize,
        slot: usize,
        pages: &[u32],
        position: usize,
    ) -> usize {
        let index = position / PAGE_TOKENS;
        match self.layers[layer].kind {
            LayerKind::Sliding => self.sliding.page(slot, index).unwrap_or(0) as usize,
            LayerKind::Full => pages[index] as usize,
        }
    }

    /// Entries of one slot in a page table.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// Takes the pages of sliding layers that a step needs.
    pub(super) fn place(&mut self, step: &Step<'_>) -> Result<()> {
        self.sliding.place(step)
    }

    /// What a sequence's rows in the page tables lack, once its step has its pages.
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
            let entry = slot * self.stride + at;
            Some(TableUpdate {
                address: self.tables[kind as usize].at(entry * size_of::<u32>()),
                entries,
            })
        };
        [update(LayerKind::Sliding, sliding), update(LayerKind::Full, full)]
    }

    /// Bytes of keys and values.
    pub(super) fn bytes(&self) -> usize {
        self.layers.iter().chain(&self.snapshots).map(|l| l.keys.bytes() + l.values.bytes()).sum()
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
