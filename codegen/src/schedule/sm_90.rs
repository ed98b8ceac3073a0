//! What Hopper runs beside the portable schedules: batches by GEMMs with deep stages and sums split over clusters, prompts
//! and large unembeddings by GEMMs of warpgroups.

use ossmith_plan::{Family, Layer, ModelSpec, Regime, TILE_K};

use super::Step;
use super::gemm::{Gemm, Mma, Specialized, Wgmma};

/// Tokens up to which the batched schedules run by warps where a model's widths are not those of `wgmma`.
const BATCHED_TOKENS: usize = 192;

/// Tokens up to which warps are faster whatever the experts.
const LEAST_BY_WARPS: usize = 32;

/// Tokens up to which batches run by warps where a model's widths are those of `wgmma`: specialized warps are faster where an
/// expert has four routes or more, and from 65 tokens on with any experts.
fn tokens_by_warps(spec: &ModelSpec) -> usize {
    let routes = |layer: &Layer| 4 * layer.experts / layer.top_k;
    let least = spec.layers.iter().map(routes).max().unwrap_or(0);
    if least <= LEAST_BY_WARPS { LEAST_BY_WARPS } else { DENSE64.tile_tokens }
}

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

/// Batches by specialized warps: as many blocks as fit beside each other, since dense GEMMs split their sums over them.
const DENSE64: Specialized = Specialized {
    suffix: "batched64",
    tile_tokens: 64,
    groups: 1,
    stage_tiles: 1,
    stages: 4,
    blocks_per_sm: 3,
};
const DENSE128: Specialized =
    Specialized { suffix: "batched128", tile_tokens: 128, blocks_per_sm: 2, ..DENSE64 };
/// All tokens in one tile, and two warpgroups that share it: L2 could not read it more often.
const DENSE256: Specialized =
    Specialized { suffix: "batched256", tile_tokens: 256, groups: 2, blocks_per_sm: 1, ..DENSE64 };
const UNEMBED128: Specialized = Specialized { groups: 2, stages: 6, blocks_per_sm: 1, ..DENSE128 };
/// Three warpgroups divide the experts' row tiles evenly. A bulk copy takes as long for few bytes as for many, so a stage
/// has several k tiles.
const EXPERTS64: Specialized = Specialized {
    suffix: "batched64",
    tile_tokens: 32,
    groups: 3,
    stage_tiles: 5,
    stages: 4,
    blocks_per_sm: 1,
};
const EXPERTS128: Specialized = Specialized { suffix: "batched128", ..EXPERTS64 };
const EXPERTS256: Specialized =
    Specialized { suffix: "batched256", tile_tokens: 64, stage_tiles: 3, ..EXPERTS64 };

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
    let batched = |max_tokens| Step {
        regime: Regime::Batched,
        max_tokens,
        family: Family::Sm90,
        qkv_rope: Gemm::Mma(DENSE),
        attn_out_residual: Gemm::Mma(DENSE),
        router: DENSE,
        experts: Gemm::Mma(EXPERTS),
        unembed: Gemm::Mma(DENSE),
    };
    if let Some(why) = no_wgmma(spec) {
        return (vec![batched(BATCHED_TOKENS)], vec![why]);
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
    let specialized = |dense: Specialized, experts, unembed| Step {
        regime: Regime::Batched,
        max_tokens: dense.tile_tokens,
        family: Family::Sm90,
        qkv_rope: Gemm::Specialized(dense),
        attn_out_residual: Gemm::Specialized(dense),
        // Few rows: tiles of few tokens make enough blocks.
        router: Mma { suffix: dense.suffix, tile_tokens: dense.tile_tokens / 8, ..DENSE },
        experts: Gemm::Specialized(experts),
        unembed: Gemm::Specialized(unembed),
    };
    let by_warps = tokens_by_warps(spec);
    let mut steps = vec![batched(by_warps)];
    if by_warps < DENSE64.tile_tokens {
        steps.push(specialized(DENSE64, EXPERTS64, DENSE64));
    }
    steps.extend([
        specialized(DENSE128, EXPERTS128, UNEMBED128),
        specialized(DENSE256, EXPERTS256, DENSE256),
        prompts(SHORT_PROMPT_TOKENS, NARROW, NARROW),
        prompts(usize::MAX, MIDDLE, WIDE),
    ]);
    (steps, Vec::new())
}
