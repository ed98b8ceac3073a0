//! Attention over the cache. A task is a key/value head and a few neighbouring tokens of one sequence, which share each
//! tile of keys and values while it is in the core's cache; a token's bits do not depend on its neighbours.

use ossmith_plan::ModelSpec;
use rayon::prelude::*;

use super::batch::Batch;
use super::cache::{Cache, TILE};
use super::floats::Floats;
use super::isa::Isa;
use super::simd;
use super::view::AttentionView;

/// The largest number of tokens of a task. With more, tiles would be read less often from memory, but there would be few
/// tasks.
const MAX_TASK_TOKENS: usize = 16;
/// Tokens of a task below which it takes about as long as with one: it waits for the keys, which all its tokens share.
const FEW_TOKENS: usize = 8;

/// One layer's attention.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attention<'a> {
    pub(super) isa: Isa,
    pub(super) spec: &'a ModelSpec,
    /// Index of the layer, from 0.
    pub(super) layer: usize,
    /// One sink logit per query head.
    pub(super) sinks: &'a [f32],
    pub(super) cache: &'a Cache,
}

/// Some tokens of one sequence at one key/value head.
struct Task<'a> {
    /// The first token's row in the batch.
    row: usize,
    kv_head: usize,
    /// Each token's `[gqa_ratio, head_dim]`.
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

    /// Every token at every head, once. A task has several tokens only if there are enough tasks for all threads: several
    /// for each thread, or one where tasks would else have so few tokens that reading the keys is most of their work.
    fn tasks<'a>(&self, batch: &Batch, out: &'a mut [f32]) -> Vec<Task<'a>> {
        let heads = self.spec.kv_heads;
        let per_thread = batch.rows.len() * heads / rayon::current_num_threads();
        let task_tokens =
            (per_thread / 4).max(per_thread.min(FEW_TOKENS)).clamp(1, MAX_TASK_TOKENS);
        let mut tasks: Vec<Task<'a>> = Vec::new();
        let mut row = 0;
        let mut outs = out.chunks_mut(self.spec.gqa_ratio() * self.spec.head_dim);
        while row < batch.rows.len() {
            let sequence = batch.rows[row].sequence;
            let next = batch.rows[row..].iter().take(task_tokens);
            let count = next.take_while(|next| next.sequence == sequence).count();
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
        let gqa_width = spec.gqa_ratio() * spec.head_dim;
        let rows = &batch.rows[task.row..task.row + task.outs.len()];
        let sequence = &batch.sequences[rows[0].sequence];
        let layer = &spec.layers[self.layer];
        let first = |position: usize| layer.first_key(position);
        let tiles = first(rows[0].position) / TILE..rows[rows.len() - 1].position / TILE + 1;
        let starts = tiles.clone().map(|tile| self.cache.tile(self.layer, sequence, tile, kv_head));
        memory.tiles.clear();
        memory.tiles.extend(starts);
        let view = |index: usize| {
            let (row, last) = (task.row + index, rows[index].position);
            let from = row * spec.qkv_width() + kv_head * gqa_width;
            let visible = first(last) / TILE - tiles.start..last / TILE + 1 - tiles.start;
            AttentionView {
                head_dim: spec.head_dim,
                queries: &qkv[from..from + gqa_width],
                sinks: &self.sinks[kv_head * spec.gqa_ratio()..(kv_head + 1) * spec.gqa_ratio()],
                scale: 1.0 / (spec.head_dim as f32).sqrt(),
                first: first(last),
                last,
                storage: self.cache.layer(self.layer),
                tiles: &memory.tiles[visible],
            }
        };
        let views: Vec<AttentionView<'_>> = (0..rows.len()).map(view).collect();
        simd::attend(self.isa, &views, &mut memory.scores, &mut task.outs);
    }
}
