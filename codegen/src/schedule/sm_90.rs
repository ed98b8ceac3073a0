//! What Hopper runs beside the portable schedules: batches by GEMMs with deep stages and sums split over clusters, prompts
//! and large unembeddings by GEMMs of warpgroups.

use ossmith_plan::{Family, ModelSpec, Regime, TILE_K};

use super::Step;
use super::gemm::{Gemm, Mma, Wgmma};

/// Tokens up to which the batched schedules run, beyond those of the decode schedules.
const BATCHED_TOKENS: usize = 192;

/// Tokens up to which prompts run in narrow tiles.
const SHORT_PROMPT_TOKENS: usize = 512;

/// Blocks of 64 tokens with as much on its way as there is room for.
const DENSE: Mma = Mma {
    suffix: "batched",
    tile_tokens: 64,
    warps: 8,
    stage_tiles: 1,
    stages: 4,
    blocks_per_sm: 2,
    splits: true,
};

/// Most experts have few routes: narrow tiles leave room for three blocks, which hide each other's latency.
const EXPERTS: Mma = Mma {
    suffix: "batched",
    tile_tokens: 24,
    warps: 8,
    stage_tiles: 3,
    stages: 3,
    blocks_per_sm: 3,
    splits: false,
};

const NARROW: Wgmma = Wgmma { suffix: "wgmma64", tile_tokens: 64, stages: 4, blocks_per_sm: 2 };
const MIDDLE: Wgmma = Wgmma { suffix: "wgmma128", tile_tokens: 128, stages: 3, blocks_per_sm: 2 };
const WIDE: Wgmma = Wgmma { suffix: "wgmma256", tile_tokens: 256, stages: 4, blocks_per_sm: 1 };
const PROMPT_EXPERTS: Wgmma =
    Wgmma { suffix: "wgmma", tile_tokens: 128, stages: 5, blocks_per_sm: 2 };
/// L2 does not hold the unembedding's weights, and wide tiles read them least often.
const UNEMBED: Wgmma = Wgmma { suffix: "wgmma", ..WIDE };

/// Why a model's prompts cannot run by warpgroups: these read rows in tile order, which are whole tiles.
fn no_wgmma(spec: &ModelSpec) -> Option<String> {
    let widths =
        [("hidden", spec.hidden), ("inter", spec.inter), ("q_heads x head_dim", spec.q_width())];
    let broken = widths.into_iter().find(|(_, width)| !width.is_multiple_of(TILE_K));
    broken.map(|(name, width)| {
        format!("no wgmma for batches and prompts: {name} {width} is not a multiple of {TILE_K}")
    })
}

/// The steps that a model has on Hopper, by ascending token count, and what its shape does without.
pub(super) fn steps(spec: &ModelSpec) -> (Vec<Step>, Vec<String>) {
    let batched = |max_tokens, unembed| Step {
        regime: Regime::Batched,
        max_tokens,
        family: Family::Sm90,
        qkv_rope: Gemm::Mma(DENSE),
        attn_out_residual: Gemm::Mma(DENSE),
        router: DENSE,
        experts: Gemm::Mma(EXPERTS),
        unembed,
    };
    if let Some(why) = no_wgmma(spec) {
        return (vec![batched(BATCHED_TOKENS, Gemm::Mma(DENSE))], vec![why]);
    }
    let prompts = |max_tokens, qkv_rope, attn_out_residual| Step {
        regime: Regime::Prefill,
        max_tokens,
        family: Family::Sm90,
        qkv_rope: Gemm::Wgmma(qkv_rope),
        attn_out_residual: Gemm::Wgmma(attn_out_residual),
        router: Mma { suffix: "wgmma", ..DENSE },
        experts: Gemm::Wgmma(PROMPT_EXPERTS),
        unembed: Gemm::Wgmma(UNEMBED),
    };
    let steps = vec![
        // One tile of rows reads all weights of the unembedding once; more rows want wider tiles.
        batched(DENSE.tile_tokens, Gemm::Mma(DENSE)),
        batched(BATCHED_TOKENS, Gemm::Wgmma(UNEMBED)),
        prompts(SHORT_PROMPT_TOKENS, NARROW, NARROW),
        prompts(usize::MAX, MIDDLE, WIDE),
    ];
    (steps, Vec::new())
}
