//! What attention reads for one token at one key/value head.

use std::ops::Range;

use super::cache::TILE;

/// The query heads of one token that share a key/value head, and the keys of that head that they attend to.
#[derive(Clone, Copy, Debug)]
pub(super) struct AttentionView<'a> {
    /// Elements of a head.
    pub(super) head_dim: usize,
    /// Rotated queries, `[gqa_ratio, head_dim]`.
    pub(super) queries: &'a [f32],
    /// One sink logit per query head.
    pub(super) sinks: &'a [f32],
    /// Factor on `q · k`.
    pub(super) scale: f32,
    /// The first visible position.
    pub(super) first: usize,
    /// The last visible position, which is the token's own.
    pub(super) last: usize,
    /// The layer's cache.
    pub(super) storage: &'a [f32],
    /// Where each tile of `first / TILE ..= last / TILE` starts in `storage`.
    pub(super) tiles: &'a [usize],
}

impl<'a> AttentionView<'a> {
    /// The tiles of the sequence that are visible, at least in part.
    pub(super) fn tile_range(&self) -> Range<usize> {
        self.first / TILE..self.last / TILE + 1
    }

    /// Transposed keys `[head_dim, TILE]` of a tile of the sequence, and its values `[TILE, head_dim]`.
    pub(super) fn tile(&self, tile: usize) -> (&'a [f32], &'a [f32]) {
        let at = self.tiles[tile - self.first / TILE];
        let size = self.head_dim * TILE;
        self.storage[at..at + 2 * size].split_at(size)
    }

    /// The transposed keys of the tile that holds `position`, and the position's lane.
    pub(super) fn key_tile(&self, position: usize) -> (&'a [f32], usize) {
        (self.tile(position / TILE).0, position % TILE)
    }

    /// The value `[head_dim]` at `position`.
    pub(super) fn value(&self, position: usize) -> &'a [f32] {
        let from = position % TILE * self.head_dim;
        &self.tile(position / TILE).1[from..from + self.head_dim]
    }
}
