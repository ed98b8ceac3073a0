//! Values between kernels, sized for the largest step.

use std::sync::Arc;

use cudarc::driver::CudaContext;
use ossmith_plan::{MOST_SMALL_TOKENS, ModelSpec};

use super::memory::Buffer;
use crate::Result;
use crate::backend::Limits;

/// Heads of one attention part (`kColumnHeads` of `attn/attend.cuh`): a maximum, a denominator and an output row each.
const PART_HEADS: usize = 8;
/// Key splits times tokens times heads stay below this many blocks more than one a head.
const MOST_SPLIT_BLOCKS: usize = 4096;
/// Slots that an expert tile holds at least, except the last of each expert.
const TILE_SLOTS: usize = 16;
/// Bytes of an expert tile's entry.
const TILE_ENTRY_BYTES: usize = 16;
/// Elements of a row behind one sum of squares (`kSquaresWidth` of `tile/norm.cuh`).
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
    /// Rows times the next norm's scale, and their squares: small steps' way to the next norm.
    pub scaled: B,
    pub attn_squares: B,
    pub moe_squares: B,
    pub queries: B,
    pub heads: B,
    pub parts: B,
    pub tickets: B,
    /// Small steps' sums of each layer's logits, `[layer][MOST_SMALL_TOKENS][experts]`.
    pub router_sums: B,
    pub router_logits: B,
    pub slot_experts: B,
    pub slot_weights: B,
    pub sorted: B,
    pub tiles: B,
    pub tile_count: B,
    pub hidden: B,
    pub slot_out: B,
    pub logits: B,
    /// Rows that `logits` holds.
    pub logit_rows: usize,
    /// Best tokens of parts of the vocabulary, by row.
    pub candidates: B,
    pub sample_tickets: B,
    /// Tokens drawn, by row.
    pub drawn: B,
    /// Tokens last drawn, by slot.
    pub sampled: B,
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
        let slots = tokens * spec.top_k;
        let logit_rows = limits.max_sequences.max(LOGIT_ROWS);
        let part_bytes = PART_HEADS * (2 + spec.head_dim) * 4;
        let mut make = |elements: usize, bytes: usize, what| place(elements * bytes, what);
        Ok(Workspace {
            residual: make(tokens * spec.hidden, 4, "the residual")?,
            normed: make(tokens * spec.hidden, 2, "normed rows")?,
            scaled: make(tokens * spec.hidden, 2, "scaled rows")?,
            attn_squares: make(tokens * spec.hidden / SQUARES_WIDTH, 4, "sums of squares")?,
            moe_squares: make(tokens * spec.hidden / SQUARES_WIDTH, 4, "sums of squares")?,
            queries: make(tokens * spec.q_width(), 2, "queries")?,
            heads: make(tokens * spec.q_width(), 2, "attention outputs")?,
            parts: make(MOST_SPLIT_BLOCKS, part_bytes, "attention parts")?,
            tickets: make(tokens * spec.kv_heads, 4, "attention tickets")?,
            router_sums: make(
                spec.layers.len() * MOST_SMALL_TOKENS * spec.experts,
                size_of::<i64>(),
                "router sums",
            )?,
            router_logits: make(tokens * spec.experts, 4, "router logits")?,
            slot_experts: make(slots, 4, "chosen experts")?,
            slot_weights: make(slots, 4, "expert weights")?,
            sorted: make(slots, 4, "sorted slots")?,
            tiles: make(
                slots / TILE_SLOTS + spec.experts.min(slots) + 1,
                TILE_ENTRY_BYTES,
                "expert tiles",
            )?,
            tile_count: make(1, 4, "a count")?,
            hidden: make(slots * spec.inter, 2, "expert activations")?,
            slot_out: make(slots * spec.hidden, 2, "expert outputs")?,
            logits: make(logit_rows * spec.vocab, 4, "logits")?,
            logit_rows,
            candidates: make(logit_rows * MOST_SAMPLE_SPLITS, 8, "candidate tokens")?,
            sample_tickets: make(logit_rows, 4, "sampling tickets")?,
            drawn: make(logit_rows, 4, "drawn tokens")?,
            sampled: make(limits.max_sequences, 4, "sampled tokens")?,
        })
    }
}
