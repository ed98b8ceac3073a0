//! Attention over the cache. A task is a key/value head and a few neighbouring tokens of one sequence, which meet each
//! tile of keys and values while it is close; a token's bits do not depend on its neighbours.

use std::ops::Range;

use ossmith_plan::ModelSpec;
use rayon::prelude::*;

use super::batch::Batch;
use super::cache::{Cache, TILE};
use super::floats::Floats;
use super::isa::Isa;
use super::simd;

/// Most tokens of a task: with more, tiles are read less often from far memory, but tasks become few.
const MOST_TOKENS: usize = 16;

/// What one token sees: its query heads that share a key/value head, and that head's keys.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    /// Elements of a head.
    pub(super) head_dim: usize,
    /// Rotated queries, `[group, head_dim]`.
    pub(super) queries: &'a [f32],
    /// One sink logit a query head.
    pub(super) sinks: &'a [f32],
    /// Factor on `q · k`.
    pub(super) scale: f32,
    /// First position visible.
    pub(super) first: usize,
    /// Last position visible: the token's own.
    pub(super) last: usize,
    /// The layer's cache.
    pub(super) storage: &'a [f32],
    /// Where each tile of `first / TILE ..= last / TILE` starts in `storage`.
    pub(super) tiles: &'a [usize],
}

impl<'a> View<'a> {
    /// Which tiles of the sequence are seen, in part at least.
    pub(super) fn tile_range(&self) -> Range<usize> {
        self.first / TILE..self.last / TILE + 1
    }

    /// Transposed keys `[head_dim, TILE]` of a tile of the sequence, and values `[TILE, head_dim]`.
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

/// One layer's attention.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attention<'a> {
    pub(super) isa: Isa,
    pub(super) spec: &'a ModelSpec,
    /// Which layer, counted from 0.
    pub(super) layer: usize,
    /// One sink logit a query head.
    pub(super) sinks: &'a [f32],
    pub(super) cache: &'a Cache,
}

/// Some tokens of one sequence at one key/value head.
struct Task<'a> {
    /// First of the tokens' rows in the batch.
    row: usize,
    kv_head: usize,
    /// Each token's `[group, head_dim]`.
    outs: Vec<&'a mut [f32]>,
}

/// Memory of one task, kept by its thread.
#[derive(Default)]
struct TaskMemory {
    tiles: Vec<usize>,
    scores: Floats,
}

impl Attention<'_> {
    /// `out[row] =` attention of every query head, `[rows, q_width]`, from fused rows `qkv` whose keys and values
    /// are already in the cache.
    pub(super) fn run(&self, batch: &Batch, qkv: &[f32], out: &mut [f32]) {
        let tasks = self.tasks(batch, out);
        tasks.into_par_iter().for_each_init(TaskMemory::default, |memory, mut task| {
            self.attend(batch, qkv, &mut task, memory);
        });
    }

    /// Every token at every head, once. There are enough tasks for all threads before one has several tokens.
    fn tasks<'a>(&self, batch: &Batch, out: &'a mut [f32]) -> Vec<Task<'a>> {
        let heads = self.spec.kv_heads;
        let enough = 4 * rayon::current_num_threads();
        let most = (batch.rows.len() * heads / enough).clamp(1, MOST_TOKENS);
        let mut tasks: Vec<Task<'a>> = Vec::new();
        let mut row = 0;
        let mut outs = out.chunks_mut(self.spec.gqa_ratio() * self.spec.head_dim);
        while row < batch.rows.len() {
            let member = batch.rows[row].member;
            let mates = batch.rows[row..].iter().take(most);
            let count = mates.take_while(|mate| mate.member == member).count();
            let from = tasks.len();
            tasks.extend((0..heads).map(|kv_head| Task { row, kv_head, outs: Vec::new() }));
            for _ in 0..count {
                for (task, out) in tasks[from..].iter_mut().zip(&mut outs) {
                    task.outs.push(out);
                }
            }
            row += count;
        }
        tasks
    }

    fn attend(&self, batch: &Batch, qkv: &[f32], task: &mut Task<'_>, memory: &mut TaskMemory) {
        let (spec, kv_head) = (self.spec, task.kv_head);
        let group_width = spec.gqa_ratio() * spec.head_dim;
        let places = &batch.rows[task.row..task.row + task.outs.len()];
        let member = &batch.members[places[0].member];
        let layer = &spec.layers[self.layer];
        let first = |position: usize| layer.first_key(position);
        let tiles = first(places[0].position) / TILE..places[places.len() - 1].position / TILE + 1;
        let starts = tiles.clone().map(|tile| self.cache.tile(self.layer, member, tile, kv_head));
        memory.tiles.clear();
        memory.tiles.extend(starts);
        let view = |index: usize| {
            let (row, last) = (task.row + index, places[index].position);
            let from = row * spec.qkv_width() + kv_head * group_width;
            let seen = first(last) / TILE - tiles.start..last / TILE + 1 - tiles.start;
            View {
                head_dim: spec.head_dim,
                queries: &qkv[from..from + group_width],
                sinks: &self.sinks[kv_head * spec.gqa_ratio()..(kv_head + 1) * spec.gqa_ratio()],
                scale: 1.0 / (spec.head_dim as f32).sqrt(),
                first: first(last),
                last,
                storage: self.cache.layer(self.layer),
                tiles: &memory.tiles[seen],
            }
        };
        let views: Vec<View<'_>> = (0..places.len()).map(view).collect();
        simd::attend(self.isa, &views, &mut memory.scores, &mut task.outs);
    }
}
