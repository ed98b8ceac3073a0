//! The key/value cache in f32. Full layers hold pages that the caller allocates, sliding layers those of
//! [`SlidingPages`].
//!
//! Both consist of *tiles* of 16 consecutive positions, in order of `position / 16`. For each key/value head a tile holds
//! its keys transposed, `[head_dim, 16]`, so that one query is multiplied with sixteen keys at a time, then its values,
//! `[16, head_dim]`.

use ossmith_plan::facts::SLIDING_PAGE_TOKENS;
use ossmith_plan::{Layer, LayerKind, Model};

use super::batch::{Batch, BatchSequence};
use super::floats::Floats;
use crate::backend::memory_budget::PAGES_PER_SNAPSHOT;
use crate::backend::sliding_pages::{self, SlidingPages};
use crate::backend::{Limits, MemoryBudget, PAGE_TOKENS};
use crate::{Error, Result};

/// Positions of one tile.
pub(super) const TILE: usize = 16;
/// Tiles of one page of a full layer.
const PAGE_TILES: usize = PAGE_TOKENS / TILE;
const _: () = assert!(SLIDING_PAGE_TOKENS == TILE, "a page of a sliding layer is one tile");

/// Keys and values of every layer.
#[derive(Debug)]
pub struct Cache {
    head_dim: usize,
    kv_heads: usize,
    sliding: SlidingPages,
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
        let spec = &model.rank_spec();
        let tile_floats = 2 * spec.kv_width() * TILE;
        let tiles = |layer: &Layer| match layer.kind() {
            LayerKind::Sliding => sliding_pages::page_count(spec, limits),
            LayerKind::Full => limits.pages.saturating_mul(PAGE_TILES),
        };
        let layer = |layer: &Layer| zeros(tiles(layer).saturating_mul(tile_floats));
        Ok(Cache {
            head_dim: spec.head_dim,
            kv_heads: spec.kv_heads,
            sliding: SlidingPages::new(spec, limits),
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

    /// Takes the pages that a step's tokens and the windows before them need in sliding layers.
    ///
    /// # Errors
    /// [`Error::Internal`] if they run out, which a step within its limits cannot cause.
    pub fn place(&mut self, batch: &Batch) -> Result<()> {
        let mut appended = vec![(0, usize::MAX, 0); batch.sequences.len()];
        for row in &batch.rows {
            let (slot, start, count) = &mut appended[row.sequence];
            *slot = batch.sequences[row.sequence].seq_slot;
            (*start, *count) = (row.position.min(*start), *count + 1);
        }
        self.sliding.place_all(appended.into_iter())
    }

    /// Copies the window before `end` from a sequence slot's sliding layers to a snapshot (`save`), or back.
    pub(crate) fn copy_snapshot(
        &mut self,
        snapshot: usize,
        seq_slot: usize,
        end: usize,
        save: bool,
    ) -> Result<()> {
        let missing = || {
            Error::Internal(format!(
                "there is no snapshot {snapshot}, or sequence slot {seq_slot} holds no window before {end}"
            ))
        };
        if !save {
            self.sliding.place_window(seq_slot, end)?;
        }
        let (tile, window) = (self.tile_floats(), self.window_tiles);
        let first = (end + 1).saturating_sub(self.sliding.window()) / TILE;
        let layers = self.layers.iter_mut().zip(&mut self.snapshots).zip(&self.kinds);
        for ((cache, snapshots), _) in layers.filter(|(_, kind)| **kind == LayerKind::Sliding) {
            for index in first..end / TILE {
                let page = self.sliding.page(seq_slot, index).ok_or_else(missing)?;
                let from = page as usize * tile;
                let to = (snapshot * window + index % window) * tile;
                let in_cache = cache.get_mut(from..from + tile).ok_or_else(missing)?;
                let in_snapshot = snapshots.get_mut(to..to + tile).ok_or_else(missing)?;
                if save {
                    in_snapshot.copy_from_slice(in_cache);
                } else {
                    in_cache.copy_from_slice(in_snapshot);
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
            // A block without a page is one that nothing is read from or written to, but for checks.
            LayerKind::Sliding => self.sliding.page(sequence.seq_slot, tile).unwrap_or(0) as usize,
            LayerKind::Full => {
                sequence.pages[tile / PAGE_TILES] as usize * PAGE_TILES + tile % PAGE_TILES
            }
        };
        (index * self.kv_heads + head) * 2 * self.head_dim * TILE
    }

    /// All tiles of a layer.
    pub(super) fn layer(&self, layer: usize) -> &[f32] {
        &self.layers[layer]
    }

    /// One position's rotated key and its value for one head, for checks. For a position that was never written, or
    /// that lies before a sliding layer's window, the result is whatever the memory holds.
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

/// The most that the cache takes, when every page has been written; weights stay in the checkpoint's map.
#[must_use]
pub fn memory_budget(model: &'static Model, limits: &Limits, snapshots: usize) -> MemoryBudget {
    let spec = &model.rank_spec();
    let tile = (2 * spec.kv_width() * TILE * size_of::<f32>()) as u64;
    let sliding = spec.layers.iter().filter(|layer| layer.window.is_some()).count();
    let full = (spec.layers.len() - sliding) as u64;
    let window = spec.max_window().min(spec.context).div_ceil(TILE);
    let in_page = PAGE_TILES as u64;
    let of_sliding = |pages: usize| (pages * sliding) as u64 * tile;
    MemoryBudget {
        page_bytes: limits.pages as u64 * in_page * full * tile,
        ring_bytes: of_sliding(
            limits.max_sequences * sliding_pages::pages_per_sequence(spec, limits),
        ),
        workspace_bytes: of_sliding(sliding_pages::pages_of_chunks(limits)),
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
