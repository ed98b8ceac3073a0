//! Values between kernels, sized for the largest step.

use std::sync::Arc;

use cudarc::driver::CudaContext;
use ossmith_plan::{MOST_SMALL_TOKENS, ModelSpec};

use super::memory::Buffer;
use crate::Result;
use crate::backend::Limits;

/// Heads of one attention partial (`kColumnHeads` of `attn/attend.cuh`): a maximum, a denominator and an output row each.
const PARTIAL_HEADS: usize = 8;
/// Key splits times tokens times heads stay below this many blocks more than one a head.
const MOST_SPLIT_BLOCKS: usize = 4096;
/// Routes that an expert tile holds at least, except the last of each expert.
const TILE_ROUTES: usize = 16;
/// Bytes of an expert tile's entry.
const TILE_ENTRY_BYTES: usize = 16;
/// Elements of a row behind one sum of squares (`kSquareSumWidth` of `tile/norm.cuh`).
pub(super) const SQUARES_WIDTH: usize = 16;
/// Blocks that share a row of logits at most.
const MOST_SAMPLE_SPLITS: usize = 64;
/// Rows of logits kept at once beyond one a sequence, for callers that want every row.
const LOGIT_ROWS: usize = 32;

/// One buffer a value: on the device, or just its size.
#[derive(Debug)]
pub(super) struct Workspace<B = Buffer> {
    pub residual: B,
    pub normed: B,
    /// The deferred RMS norm of decode steps: rows times the next norm's scale, and their sums of squares.
    pub deferred_rows: B,
    pub attn_square_sums: B,
    pub moe_square_sums: B,
    pub queries: B,
    pub attn_output: B,
    pub attn_partials: B,
    pub attn_arrival_counters: B,
    /// Decode steps' sums of each layer's logits, `[layer][MOST_SMALL_TOKENS][experts]`.
    pub router_logit_sums: B,
    pub router_logits: B,
    pub route_experts: B,
    pub route_weights: B,
    pub permuted_routes: B,
    pub expert_tiles: B,
    pub expert_tile_count: B,
    pub expert_act: B,
    pub route_out: B,
    pub logits: B,
    /// Rows that `logits` holds.
    pub logit_rows: usize,
    /// Best tokens of slices of the vocabulary, by row.
    pub candidates: B,
    pub sample_arrival_counters: B,
    /// Tokens sampled, by row.
    pub sampled: B,
    /// Tokens last sampled, by sequence slot.
    pub last_sampled: B,
}

impl Workspace {
    pub(super) fn new(
        context: &Arc<CudaContext>,
        spec: &ModelSpec,
        limits: &Limits,
    ) -> Result<Workspace> {
        Workspace::build(spec, limits, |bytes, what| Buffer::zeroed(context, bytes, what))
    }
}

/// Bytes of each buffer of a workspace.
pub(super) fn sizes(spec: &ModelSpec, limits: &Limits) -> Result<Vec<usize>> {
    let mut sizes = Vec::new();
    Workspace::build(spec, limits, |bytes, _| {
        sizes.push(bytes);
        Ok(())
    })?;
    Ok(sizes)
}

impl<B> Workspace<B> {
    fn build(
        spec: &ModelSpec,
        limits: &Limits,
        mut place: impl FnMut(usize, &'static str) -> Result<B>,
    ) -> Result<Workspace<B>> {
        let tokens = limits.max_step_tokens.max(limits.max_sequences);
        let routes = tokens * spec.max_top_k();
        let logit_rows = limits.max_sequences.max(LOGIT_ROWS);
        let partial_bytes = PARTIAL_HEADS * (2 + spec.head_dim) * 4;
        let mut make = |elements: usize, bytes: usize, what| place(elements * bytes, what);
        Ok(Workspace {
            residual: make(tokens * spec.hidden, 4, "the residual")?,
            normed: make(tokens * spec.hidden, 2, "normed rows")?,
            deferred_rows: make(tokens * spec.hidden, 2, "deferred rows")?,
            attn_square_sums: make(tokens * spec.hidden / SQUARES_WIDTH, 4, "sums of squares")?,
            moe_square_sums: make(tokens * spec.hidden / SQUARES_WIDTH, 4, "sums of squares")?,
            queries: make(tokens * spec.q_width(), 2, "queries")?,
            attn_output: make(tokens * spec.q_width(), 2, "attention outputs")?,
            attn_partials: make(MOST_SPLIT_BLOCKS, partial_bytes, "attention partials")?,
            attn_arrival_counters: make(tokens * spec.kv_heads, 4, "attention arrival counters")?,
            router_logit_sums: make(
                spec.layers.len() * MOST_SMALL_TOKENS * spec.max_experts(),
                size_of::<i64>(),
                "router logit sums",
            )?,
            router_logits: make(tokens * spec.max_experts(), 4, "router logits")?,
            route_experts: make(routes, 4, "chosen experts")?,
            route_weights: make(routes, 4, "expert weights")?,
            permuted_routes: make(routes, 4, "permuted routes")?,
            expert_tiles: make(
                routes / TILE_ROUTES + spec.max_experts().min(routes) + 1,
                TILE_ENTRY_BYTES,
                "expert tiles",
            )?,
            expert_tile_count: make(1, 4, "a count")?,
            expert_act: make(routes * spec.inter, 2, "expert activations")?,
            route_out: make(routes * spec.hidden, 2, "expert outputs")?,
            logits: make(logit_rows * spec.vocab, 4, "logits")?,
            logit_rows,
            candidates: make(logit_rows * MOST_SAMPLE_SPLITS, 8, "candidate tokens")?,
            sample_arrival_counters: make(logit_rows, 4, "sampling arrival counters")?,
            sampled: make(logit_rows, 4, "sampled tokens of a step")?,
            last_sampled: make(limits.max_sequences, 4, "sampled tokens")?,
        })
    }
}
