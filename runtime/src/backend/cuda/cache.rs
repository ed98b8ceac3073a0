//! The key/value cache: pages shared by all sequences for full layers, a ring of pages for each slot in sliding ones.
//!
//! Both are addressed through a page table, `[slot][table_stride]`; a ring's table runs round its pages.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream};
use ossmith_plan::params::Ptr;
use ossmith_plan::{Layer, LayerKind, ModelSpec};

use super::memory::Buffer;
use crate::Result;
use crate::backend::{Limits, PAGE_TOKENS};

pub(super) const BF16_BYTES: usize = 2;

/// One layer's keys and values.
#[derive(Debug)]
struct LayerCache {
    kind: LayerKind,
    keys: Buffer,
    values: Buffer,
}

/// The cache of all layers.
#[derive(Debug)]
pub(super) struct DeviceCache {
    layers: Vec<LayerCache>,
    /// Page tables by layer kind: rings, then pages.
    tables: [Buffer; 2],
    /// What the device's page table holds, so that only changes are sent.
    shadow: Vec<u32>,
    stride: usize,
    /// Pages of one ring.
    ring: usize,
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
        let ring = ring_pages(spec, limits);
        let page_bytes = PAGE_TOKENS * spec.kv_width() * BF16_BYTES;
        let layer = |layer: &Layer| {
            let kind = layer.kind();
            let pages = match kind {
                LayerKind::Sliding => limits.max_sequences * ring,
                LayerKind::Full => limits.pages,
            };
            let make = |what| Buffer::zeroed(context, pages * page_bytes, what);
            Ok(LayerCache { kind, keys: make("the key cache")?, values: make("the value cache")? })
        };
        let layers = spec.layers.iter().map(layer).collect::<Result<_>>()?;
        let entries = limits.max_sequences * stride;
        let table = || Buffer::zeroed(context, entries * size_of::<u32>(), "a page table");
        let tables = [table()?, table()?];
        let rings: Vec<u32> =
            (0..entries).map(|i| (i / stride * ring + i % stride % ring) as u32).collect();
        tables[0].write(0, &rings)?;
        Ok(DeviceCache {
            layers,
            tables,
            shadow: vec![0; entries],
            stride,
            ring,
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

    /// Copies the window before `end` from a sequence slot's rings to a snapshot (`save`), or back, in stream order.
    pub(super) fn copy_snapshot(
        &self,
        stream: &CudaStream,
        snapshot: usize,
        slot: usize,
        end: usize,
        save: bool,
    ) -> Result<()> {
        let (last, bytes) = (end / PAGE_TOKENS, self.page_bytes);
        let sliding = self.layers.iter().filter(|layer| layer.kind == LayerKind::Sliding);
        for (rings, snapshots) in sliding.zip(&self.snapshots) {
            for index in last.saturating_sub(self.window)..last {
                let ring = (slot * self.ring + index % self.ring) * bytes;
                let kept = (snapshot * self.window + index % self.window) * bytes;
                for (of_ring, of_snapshot) in
                    [(&rings.keys, &snapshots.keys), (&rings.values, &snapshots.values)]
                {
                    if save {
                        of_snapshot.copy_from(stream, kept, of_ring, ring, bytes)?;
                    } else {
                        of_ring.copy_from(stream, ring, of_snapshot, kept, bytes)?;
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

    /// The page of a layer that holds a position of a sequence.
    pub(super) fn page_of(
        &self,
        layer: usize,
        slot: usize,
        pages: &[u32],
        position: usize,
    ) -> usize {
        let index = position / PAGE_TOKENS;
        match self.layers[layer].kind {
            LayerKind::Sliding => slot * self.ring + index % self.ring,
            LayerKind::Full => pages[index] as usize,
        }
    }

    /// Entries of one slot in a page table.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// The part of a slot's row in the page table that differs from `pages`, which it takes over:
    /// (device address, first entry of `pages` to send).
    pub(super) fn update(&mut self, slot: usize, pages: &[u32]) -> Option<(Ptr, usize)> {
        let row = &mut self.shadow[slot * self.stride..][..pages.len()];
        // As nearly always, and much faster to see than where they part.
        if row == pages {
            return None;
        }
        let first = row.iter().zip(pages).position(|(old, new)| old != new)?;
        row[first..].copy_from_slice(&pages[first..]);
        let entry = slot * self.stride + first;
        Some((self.tables[LayerKind::Full as usize].at(entry * size_of::<u32>()), first))
    }

    /// Bytes of keys and values.
    pub(super) fn bytes(&self) -> usize {
        self.layers.iter().chain(&self.snapshots).map(|l| l.keys.bytes() + l.values.bytes()).sum()
    }
}

/// Pages of a sliding layer's ring: the window before the first token of a step, and every token that a step may
/// append, wherever they begin within a page.
pub(super) fn ring_pages(spec: &ModelSpec, limits: &Limits) -> usize {
    (spec.max_window().min(spec.context) - 1 + limits.max_step_tokens).div_ceil(PAGE_TOKENS) + 1
}
