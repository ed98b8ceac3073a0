//! What runs on any device from Ampere on: decode steps by GEMVs, and GEMMs whose stages fit into 99 KiB for steps of any
//! number of tokens.

use ossmith_plan::facts::MAX_DECODE_TOKENS;
use ossmith_plan::{Family, Regime};

use super::Step;
use super::gemm::{Gemm, Mma};

/// Token counts up to which the decode schedules run.
const DECODE_TOKENS: [usize; 2] = [1, MAX_DECODE_TOKENS];

/// GEMM blocks of 64 tokens.
const BLOCKS: Mma = Mma {
    suffix: "prefill",
    tile_tokens: 64,
    warps: 8,
    stage_tiles: 1,
    stages: 3,
    blocks_per_sm: 2,
    splits: false,
};

/// The steps that a model has on any device, by ascending token count.
pub(super) fn steps() -> Vec<Step> {
    let gemms = |regime, max_tokens, blocks: Mma| Step {
        regime,
        max_tokens,
        family: Family::Portable,
        qkv_rope: Gemm::Mma(blocks),
        attn_out_residual: Gemm::Mma(blocks),
        router: blocks,
        experts: Gemm::Mma(blocks),
        unembed: Gemm::Mma(blocks),
    };
    let mut steps: Vec<Step> = DECODE_TOKENS
        .into_iter()
        .zip(["decode1", "decode8"])
        .map(|(max_tokens, suffix)| {
            // Their fusion leaves them no GEMM; one that did would have these.
            gemms(Regime::Decode { max_tokens }, max_tokens, Mma { suffix, ..BLOCKS })
        })
        .collect();
    steps.push(gemms(Regime::Prefill, usize::MAX, BLOCKS));
    steps
}
