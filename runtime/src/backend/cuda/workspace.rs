//! Values between kernels, sized for the largest step.

use std::sync::Arc;

use cudarc::driver::CudaContext;
use ossmith_plan::Model;
use ossmith_plan::facts::{
    EXPERT_TILE_BYTES, MAX_ATTENTION_PARTIALS, MAX_DECODE_TOKENS, PARTIAL_HEADS, SQUARE_SUM_WIDTH,
};

use super::memory::Buffer;
use crate::Result;
use crate::backend::Limits;

/// Rows of logits that are kept at once at least, for drafts and for callers that want every row.
const LOGIT_ROWS: usize = 32;

/// Rows of logits that are kept at once, which bounds the rows from which a step samples.
pub(super) fn logit_rows(limits: &Limits) -> usize {
    limits.max_sequences.max(LOGIT_ROWS)
}

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
    /// Decode steps' sums of each layer's logits, `[layer][MAX_DECODE_TOKENS][experts]`.
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
    /// Tokens sampled, by row.
    pub sampled: B,
    /// Tokens last sampled, by sequence slot.
    pub last_sampled: B,
}

impl Workspace {
    pub(super) fn new(
        context: &Arc<CudaContext>,
        model: &Model,
        limits: &Limits,
    ) -> Result<Workspace> {
        Workspace::build(model, limits, |bytes, what| Buffer::zeroed(context, bytes, what))
    }
}

/// Bytes of each buffer of a workspace.
pub(super) fn sizes(model: &Model, limits: &Limits) -> Result<Vec<usize>> {
    let mut sizes = Vec::new();
    Workspace::build(model, limits, |bytes, _| {
        sizes.push(bytes);
        Ok(())
    })?;
    Ok(sizes)
}

impl<B> Workspace<B> {
    fn build(
        model: &Model,
        limits: &Limits,
        mut place: impl FnMut(usize, &'static str) -> Result<B>,
    ) -> Result<Workspace<B>> {
        let spec = &model.rank_spec();
        let tokens = limits.max_step_tokens.max(limits.max_sequences);
        let routes = tokens * spec.max_top_k();
        // Each expert may leave one tile unfilled.
        let full_tiles = model.min_expert_tile().map_or(0, |tile| routes / tile);
        let expert_tiles = full_tiles + spec.max_experts().min(routes) + 1;
        let logit_rows = logit_rows(limits);
        let partial_bytes = PARTIAL_HEADS * (2 + spec.head_dim) * size_of::<f32>();
        let mut make = |elements: usize, bytes: usize, what| place(elements * bytes, what);
        Ok(Workspace {
            residual: make(tokens * spec.hidden, 4, "the residual")?,
            normed: make(tokens * spec.hidden, 2, "normed rows")?,
            deferred_rows: make(tokens * spec.hidden, 2, "deferred rows")?,
            attn_square_sums: make(tokens * spec.hidden / SQUARE_SUM_WIDTH, 4, "sums of squares")?,
            moe_square_sums: make(tokens * spec.hidden / SQUARE_SUM_WIDTH, 4, "sums of squares")?,
            queries: make(tokens * spec.q_width(), 2, "queries")?,
            attn_output: make(tokens * spec.q_width(), 2, "attention outputs")?,
            attn_partials: make(MAX_ATTENTION_PARTIALS, partial_bytes, "attention partials")?,
            attn_arrival_counters: make(tokens * spec.kv_heads, 4, "attention arrival counters")?,
            router_logit_sums: make(
                spec.layers.len() * MAX_DECODE_TOKENS * spec.max_experts(),
                size_of::<i64>(),
                "router logit sums",
            )?,
            router_logits: make(tokens * spec.max_experts(), 4, "router logits")?,
            route_experts: make(routes, 4, "chosen experts")?,
            route_weights: make(routes, 4, "expert weights")?,
            permuted_routes: make(routes, 4, "permuted routes")?,
            expert_tiles: make(expert_tiles, EXPERT_TILE_BYTES, "expert tiles")?,
            expert_tile_count: make(1, 4, "a count")?,
            expert_act: make(routes * spec.inter, 2, "expert activations")?,
            route_out: make(routes * spec.hidden, 2, "expert outputs")?,
            // Ranks join their logits.
            logits: make(logit_rows * model.spec.vocab, 4, "logits")?,
            logit_rows,
            sampled: make(logit_rows, 4, "sampled tokens of a step")?,
            last_sampled: make(limits.max_sequences, 4, "sampled tokens")?,
        })
    }
}
