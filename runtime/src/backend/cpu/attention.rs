//! Attention over the cache: one task for each token and key/value head, whatever the batch.

use std::ops::Range;

use ossmith_plan::{LayerKind, ModelSpec};
use rayon::prelude::*;

use super::batch::Batch;
use super::cache::{Cache, TILE};
use super::isa::Isa;
use super::simd;

/// What one task sees: the query heads of one token that share a key/value head, and that head's keys.
#[derive(Debug)]
pub(super) struct View<'a> {
    /// Elements of a head.
    pub(super) head_dim: usize,
    /// Rotated queries, `[group, head_dim]`.
    pub(super) queries: &'a [f32],
    /// One sink logit a query head.
    pub(super) sinks: &'a [f32],
    /// Factor on `q · k`.
    pub(super) scale: f32,
    /// Positions visible.
    pub(super) keys: Range<usize>,
    /// The layer's cache.
    pub(super) storage: &'a [f32],
    /// Where each tile of `keys.start / TILE ..` starts in `storage`.
    pub(super) tiles: &'a [usize],
}

impl View<'_> {
    /// The transposed keys `[head_dim, TILE]` of the tile that holds `position`, and the position's lane.
    pub(super) fn key_tile(&self, position: usize) -> (&[f32], usize) {
        let at = self.tiles[position / TILE - self.keys.start / TILE];
        (&self.storage[at..at + self.head_dim * TILE], position % TILE)
    }

    /// The value `[head_dim]` at `position`.
    pub(super) fn value(&self, position: usize) -> &[f32] {
        let at = self.tiles[position / TILE - self.keys.start / TILE];
        let from = at + (TILE + position % TILE) * self.head_dim;
        &self.storage[from..from + self.head_dim]
    }
}

/// Memory of one task, kept by its thread.
#[derive(Default)]
struct TaskMemory {
    tiles: Vec<usize>,
    scores: Vec<f32>,
}

/// `out[row] =` attention of every query head, `[rows, q_width]`, from fused rows `qkv` whose keys and values are
/// already in the cache.
#[allow(clippy::too_many_arguments)]
pub(super) fn run(
    isa: Isa,
    spec: &ModelSpec,
    layer: usize,
    batch: &Batch,
    cache: &Cache,
    qkv: &[f32],
    sinks: &[f32],
    out: &mut [f32],
) {
    let head_dim = spec.head_dim;
    let group_width = spec.group() * head_dim;
    let task = |memory: &mut TaskMemory, (index, out): (usize, &mut [f32])| {
        let (row, kv_head) = (index / spec.kv_heads, index % spec.kv_heads);
        let place = batch.rows[row];
        let first = match spec.layers[layer] {
            LayerKind::Sliding => (place.position + 1).saturating_sub(spec.window),
            LayerKind::Full => 0,
        };
        let member = &batch.members[place.member];
        memory.tiles.clear();
        memory.tiles.extend(
            (first / TILE..=place.position / TILE)
                .map(|tile| cache.tile(layer, member, tile, kv_head)),
        );
        let from = row * spec.qkv_width() + kv_head * group_width;
        let view = View {
            head_dim,
            queries: &qkv[from..from + group_width],
            sinks: &sinks[kv_head * spec.group()..(kv_head + 1) * spec.group()],
            scale: 1.0 / (head_dim as f32).sqrt(),
            keys: first..place.position + 1,
            storage: cache.layer(layer),
            tiles: &memory.tiles,
        };
        simd::attend(isa, &view, &mut memory.scores, out);
    };
    out.par_chunks_mut(group_width).enumerate().for_each_init(TaskMemory::default, task);
}
