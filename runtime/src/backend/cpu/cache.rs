//! The key/value cache in f32. Full layers hold pages that the caller allocates; sliding layers hold one ring per
//! sequence slot, long enough for the window and a whole step.
//!
//! Both consist of *tiles* of 16 consecutive positions, in order of `position / 16`. For each key/value head a tile holds
//! its keys transposed, `[head_dim, 16]`, so that one query is multiplied with sixteen keys at a time, then its values,
//! `[16, head_dim]`.

use ossmith_plan::{Layer, LayerKind, Model, ModelSpec};

use super::batch::BatchSequence;
use super::floats::Floats;
use crate::backend::memory_budget::PAGES_PER_SNAPSHOT;
use crate::backend::{Limits, MemoryBudget, PAGE_TOKENS};
use crate::{Error, Result};

/// Positions of one tile.
pub(super) const TILE: usize = 16;

/// Keys and values of every layer.
#[derive(Debug)]
pub struct Cache {
    head_dim: usize,
    kv_heads: usize,
    ring_tiles: usize,
    /// Tiles of the window before a tile's edge.
    window_tiles: usize,
    kinds: Vec<LayerKind>,
    layers: Vec<Floats>,
    /// Sliding-window snapshots by layer, `[snapshots, window_tiles]` tiles; empty for full layers.
    snapshots: Vec<Floats>,
}

impl Cache {
    /// An empty cache. The system provides its memory when positions are first written.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] with the size, if that much memory cannot be allocated.
    pub fn new(model: &'static Model, limits: &Limits) -> Result<Cache> {
        let spec = &model.spec;
        let ring_tiles = ring_tiles(spec, limits);
        let tile_floats = 2 * spec.kv_width() * TILE;
        let tiles = |layer: &Layer| match layer.kind() {
            LayerKind::Sliding => limits.max_sequences.saturating_mul(ring_tiles),
            LayerKind::Full => limits.pages.saturating_mul(PAGE_TOKENS / TILE),
        };
        let layer = |layer: &Layer| zeros(tiles(layer).saturating_mul(tile_floats));
        Ok(Cache {
            head_dim: spec.head_dim,
            kv_heads: spec.kv_heads,
            ring_tiles,
            window_tiles: spec.max_window().min(spec.context).div_ceil(TILE),
            kinds: spec.layers.iter().map(Layer::kind).collect(),
            layers: spec.layers.iter().map(layer).collect::<Result<_>>()?,
            snapshots: spec.layers.iter().map(|_| Floats::default()).collect(),
        })
    }

    /// Makes room for `count` sliding-window snapshots. The system provides the memory when they are first saved.
    pub(crate) fn reserve_snapshots(&mut self, count: usize) -> Result<()> {
        let floats = count.saturating_mul(self.window_tiles * self.tile_floats());
        for (kind, snapshots) in self.kinds.iter().zip(&mut self.snapshots) {
            if *kind == LayerKind::Sliding {
                *snapshots = zeros(floats)?;
            }
        }
        Ok(())
    }

    /// Copies the window before `end` from a sequence slot's rings to a snapshot (`save`), or back.
    pub(crate) fn copy_snapshot(
        &mut self,
        snapshot: usize,
        seq_slot: usize,
        end: usize,
        save: bool,
    ) -> Result<()> {
        let (tile, window, ring) = (self.tile_floats(), self.window_tiles, self.ring_tiles);
        let last = end / TILE;
        let layers = self.layers.iter_mut().zip(&mut self.snapshots).zip(&self.kinds);
        for ((rings, snapshots), _) in layers.filter(|(_, kind)| **kind == LayerKind::Sliding) {
            for index in last.saturating_sub(window)..last {
                let from = (seq_slot * ring + index % ring) * tile;
                let to = (snapshot * window + index % window) * tile;
                let missing = || {
                    Error::Internal(format!(
                        "there is no snapshot {snapshot} or no sequence slot {seq_slot}"
                    ))
                };
                let in_ring = rings.get_mut(from..from + tile).ok_or_else(missing)?;
                let in_snapshot = snapshots.get_mut(to..to + tile).ok_or_else(missing)?;
                if save {
                    in_snapshot.copy_from_slice(in_ring);
                } else {
                    in_ring.copy_from_slice(in_snapshot);
                }
            }
        }
        Ok(())
    }

    /// Floats of one tile, keys and values of all heads.
    fn tile_floats(&self) -> usize {
        2 * self.kv_heads * self.head_dim * TILE
    }

    /// Stores one position's rotated keys and values, each `[kv_heads, head_dim]`.
    pub(crate) fn write(
        &mut self,
        layer: usize,
        sequence: &BatchSequence,
        position: usize,
        keys: &[f32],
        values: &[f32],
    ) {
        let (head_dim, lane) = (self.head_dim, position % TILE);
        for head in 0..self.kv_heads {
            let at = self.tile(layer, sequence, position / TILE, head);
            let from = head * head_dim..(head + 1) * head_dim;
            let tile = &mut self.layers[layer][at..at + 2 * head_dim * TILE];
            let (tile_keys, tile_values) = tile.split_at_mut(head_dim * TILE);
            for (column, &key) in tile_keys.chunks_exact_mut(TILE).zip(&keys[from.clone()]) {
                column[lane] = key;
            }
            tile_values[lane * head_dim..(lane + 1) * head_dim].copy_from_slice(&values[from]);
        }
    }

    /// Where a head's keys of a tile start in [`Cache::layer`]; its values follow after `head_dim * TILE`.
    pub(super) fn tile(
        &self,
        layer: usize,
        sequence: &BatchSequence,
        tile: usize,
        head: usize,
    ) -> usize {
        let index = match self.kinds[layer] {
            LayerKind::Sliding => sequence.seq_slot * self.ring_tiles + tile % self.ring_tiles,
            LayerKind::Full => {
                let in_page = PAGE_TOKENS / TILE;
                sequence.pages[tile / in_page] as usize * in_page + tile % in_page
            }
        };
        (index * self.kv_heads + head) * 2 * self.head_dim * TILE
    }

    /// All tiles of a layer.
    pub(super) fn layer(&self, layer: usize) -> &[f32] {
        &self.layers[layer]
    }

    /// One position's rotated key and its value for one head, for checks. For a position that was never written, or
    /// that a sliding layer's ring has overwritten, the result is whatever the memory holds.
    #[must_use]
    pub fn read(
        &self,
        layer: usize,
        sequence: &BatchSequence,
        position: usize,
        head: usize,
    ) -> (Vec<f32>, Vec<f32>) {
        let at = self.tile(layer, sequence, position / TILE, head);
        let tile = &self.layers[layer][at..at + 2 * self.head_dim * TILE];
        let (keys, values) = tile.split_at(self.head_dim * TILE);
        let lane = position % TILE;
        let key = keys.chunks_exact(TILE).map(|column| column[lane]).collect();
        (key, values[lane * self.head_dim..(lane + 1) * self.head_dim].to_vec())
    }
}

/// The most that the cache takes, when every page and ring has been written; weights stay in the checkpoint's map.
#[must_use]
pub fn memory_budget(model: &'static Model, limits: &Limits, snapshots: usize) -> MemoryBudget {
    let spec = &model.spec;
    let tile = (2 * spec.kv_width() * TILE * size_of::<f32>()) as u64;
    let sliding = spec.layers.iter().filter(|layer| layer.window.is_some()).count();
    let full = (spec.layers.len() - sliding) as u64;
    let window = spec.max_window().min(spec.context).div_ceil(TILE);
    let in_page = (PAGE_TOKENS / TILE) as u64;
    MemoryBudget {
        page_bytes: limits.pages as u64 * in_page * full * tile,
        ring_bytes: (limits.max_sequences * sliding * ring_tiles(spec, limits)) as u64 * tile,
        snapshot_bytes: (snapshots * sliding * window) as u64 * tile,
        available_bytes: available_bytes(),
        pages: limits.pages as u64,
        bytes_per_page: in_page * full * tile
            + (usize::from(snapshots > 0) * sliding * window) as u64 * tile
                / PAGES_PER_SNAPSHOT as u64,
        ..MemoryBudget::default()
    }
}

/// Memory that the system can provide without swapping, where it reports that.
fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Tiles of a ring: one more than window and step need, because neither starts at a tile's edge.
fn ring_tiles(spec: &ModelSpec, limits: &Limits) -> usize {
    spec.max_window().saturating_add(limits.max_step_tokens).min(spec.context).div_ceil(TILE) + 1
}

fn zeros(len: usize) -> Result<Floats> {
    Floats::zeroed(len).map_err(|_| {
        let gigabytes = len as f64 * 4e-9;
        Error::OutOfMemory {
            needed_bytes: (len as u64).saturating_mul(4),
            available_bytes: available_bytes(),
            problem: format!(
                "no memory for a key/value cache of {gigabytes:.1} GB per layer; lower max_sequences, \
                 max_step_tokens or pages"
            ),
        }
    })
}
