//! The key/value cache in pages, which kernels address through [`PageTables`].

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream};
use ossmith_plan::facts::SLIDING_PAGE_TOKENS;
use ossmith_plan::params::Ptr;
use ossmith_plan::{Layer, LayerKind, ModelSpec};

use super::memory::Buffer;
use super::page_tables::PageTables;
use crate::backend::Limits;
use crate::backend::sliding_pages;
use crate::{Error, Result};

pub(super) const BF16_BYTES: usize = 2;

/// Where a layer's keys and values lie, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct LayerAddresses {
    pub keys: Ptr,
    pub values: Ptr,
    pub page_table: Ptr,
    /// Entries of a slot in the page table.
    pub table_stride: u32,
    /// A page has 2 to this power tokens.
    pub page_bits: u32,
}

/// One layer's keys and values.
#[derive(Debug)]
struct LayerCache {
    kind: LayerKind,
    keys: Buffer,
    values: Buffer,
}

/// Consecutive pages of a window.
#[derive(Clone, Copy, Debug)]
struct PageRun {
    /// The first page.
    page: usize,
    /// Its number within the window.
    first: usize,
    pages: usize,
}

/// The cache of all layers.
#[derive(Debug)]
pub(super) struct DeviceCache {
    layers: Vec<LayerCache>,
    /// Which of its pages belong to which sequence.
    pub tables: PageTables,
    /// Memory of the page tables by layer kind.
    _table_buffers: [Buffer; 2],
    /// Pages of sliding layers that hold the window before a page's edge.
    window: usize,
    /// Bytes of a page of a sliding layer.
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
        let page_bytes = |kind: LayerKind| kind.page_tokens() * spec.kv_width() * BF16_BYTES;
        let layer = |layer: &Layer| {
            let kind = layer.kind();
            let pages = match kind {
                LayerKind::Sliding => sliding_pages::page_count(spec, limits),
                LayerKind::Full => limits.pages,
            };
            let make = |what| Buffer::zeroed(context, pages * page_bytes(kind), what);
            Ok(LayerCache { kind, keys: make("the key cache")?, values: make("the value cache")? })
        };
        let layers = spec.layers.iter().map(layer).collect::<Result<_>>()?;
        let table = |kind| {
            let bytes = PageTables::entries(kind, spec, limits) * size_of::<u32>();
            Buffer::zeroed(context, bytes, "a page table")
        };
        let buffers = [table(LayerKind::Sliding)?, table(LayerKind::Full)?];
        Ok(DeviceCache {
            layers,
            tables: PageTables::new(spec, limits, [buffers[0].ptr(), buffers[1].ptr()]),
            _table_buffers: buffers,
            window: spec.max_window().min(spec.context).div_ceil(SLIDING_PAGE_TOKENS),
            page_bytes: page_bytes(LayerKind::Sliding),
            snapshots: Vec::new(),
        })
    }

    /// Frees the keys and values. The cache cannot be used afterwards.
    pub(super) fn release(&mut self) {
        self.layers.clear();
        self.snapshots.clear();
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
        let runs = self.page_runs(slot, end)?;
        let sliding = self.layers.iter().filter(|layer| layer.kind == LayerKind::Sliding);
        for (cache, snapshots) in sliding.zip(&self.snapshots) {
            for &PageRun { page, first, pages } in &runs {
                let (from, bytes) = (page * self.page_bytes, pages * self.page_bytes);
                let kept = (snapshot * self.window + first) * self.page_bytes;
                for (of_cache, of_snapshot) in
                    [(&cache.keys, &snapshots.keys), (&cache.values, &snapshots.values)]
                {
                    if save {
                        of_snapshot.copy_from(stream, kept, of_cache, from, bytes)?;
                    } else {
                        of_cache.copy_from(stream, from, of_snapshot, kept, bytes)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The pages of the window before `end`, those that lie one behind the other together: each run is one copy per layer.
    fn page_runs(&self, slot: usize, end: usize) -> Result<Vec<PageRun>> {
        let mut runs: Vec<PageRun> = Vec::new();
        for (first, block) in self.tables.sliding.window_before(end).enumerate() {
            let missing =
                || Error::Internal(format!("sequence slot {slot} holds no window before {end}"));
            let page = self.tables.sliding.page(slot, block).ok_or_else(missing)? as usize;
            match runs.last_mut() {
                Some(run) if run.page + run.pages == page => run.pages += 1,
                _ => runs.push(PageRun { page, first, pages: 1 }),
            }
        }
        Ok(runs)
    }

    /// What kernels are given of a layer's cache.
    pub(super) fn layer(&self, layer: usize) -> LayerAddresses {
        let cache = &self.layers[layer];
        LayerAddresses {
            keys: cache.keys.ptr(),
            values: cache.values.ptr(),
            page_table: self.tables.address(cache.kind),
            table_stride: self.tables.stride(cache.kind) as u32,
            page_bits: cache.kind.page_tokens().ilog2(),
        }
    }

    /// Tokens of a page of a layer.
    pub(super) fn page_tokens(&self, layer: usize) -> usize {
        self.layers[layer].kind.page_tokens()
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
