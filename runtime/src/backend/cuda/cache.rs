//! The key/value cache in pages, which kernels address through [`PageTables`].

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream};
use ossmith_plan::params::Ptr;
use ossmith_plan::{Layer, LayerKind, ModelSpec};

use super::memory::Buffer;
use super::page_tables::PageTables;
use crate::backend::sliding_pages;
use crate::backend::{Limits, PAGE_TOKENS};
use crate::{Error, Result};

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
    /// Which of its pages belong to which sequence.
    pub tables: PageTables,
    /// Memory of the page tables by layer kind.
    _table_buffers: [Buffer; 2],
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
        let bytes = PageTables::entries(spec, limits) * size_of::<u32>();
        let table = || Buffer::zeroed(context, bytes, "a page table");
        let buffers = [table()?, table()?];
        Ok(DeviceCache {
            layers,
            tables: PageTables::new(spec, limits, [buffers[0].ptr(), buffers[1].ptr()]),
            _table_buffers: buffers,
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
            self.tables.sliding.place_window(slot, end)?;
        }
        let bytes = self.page_bytes;
        let sliding = self.layers.iter().filter(|layer| layer.kind == LayerKind::Sliding);
        for (cache, snapshots) in sliding.zip(&self.snapshots) {
            for block in self.tables.sliding.window_before(end) {
                let missing = || {
                    Error::Internal(format!("sequence slot {slot} holds no window before {end}"))
                };
                let page =
                    self.tables.sliding.page(slot, block).ok_or_else(missing)? as usize * bytes;
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
        (cache.keys.ptr(), cache.values.ptr(), self.tables.address(cache.kind))
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
        self.tables.page_of(self.layers[layer].kind, slot, pages, position)
    }

    /// Bytes of keys and values.
    pub(super) fn bytes(&self) -> usize {
        self.layers.iter().chain(&self.snapshots).map(|l| l.keys.bytes() + l.values.bytes()).sum()
    }
}
