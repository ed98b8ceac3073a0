//! Bytes of the shared-memory structs of `codegen/cuda`, which assert that a launch reserves their size and no more
//! (`reserves` of `ptx/memory.cuh`).

use ossmith_plan::facts::{EXPERT_TILE_BYTES, PAGE_TOKENS, PARTIAL_HEADS, SPAN_KEYS};
use ossmith_plan::params::SampleRow;
use ossmith_plan::{ModelSpec, TILE_K, TILE_ROWS};

pub(super) fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(16)
}

/// How a tile of 16 rows by 64 elements is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TileFormat {
    Bf16,
    Mxfp4,
    Int8,
}

impl TileFormat {
    fn tile_bytes(self) -> usize {
        let elements = TILE_ROWS * TILE_K;
        match self {
            TileFormat::Bf16 => elements * 2,
            TileFormat::Mxfp4 => elements / 2 + elements / 32,
            // A bf16 scale for each row.
            TileFormat::Int8 => elements + TILE_ROWS * 2,
        }
    }
}

/// `SharedWeightStages` of `tile/gemv.cuh`: `depth` chunks per warp.
pub(super) fn weight_stages(
    format: TileFormat,
    k_tiles: usize,
    warps: usize,
    depth: usize,
) -> usize {
    let tiles = match format {
        TileFormat::Bf16 | TileFormat::Int8 => 1,
        TileFormat::Mxfp4 => k_tiles.div_ceil(warps),
    };
    warps * depth * tiles * format.tile_bytes()
}

/// A warp's `SharedPartials` of `tile/gemv.cuh`: its partial tile, twice.
pub(super) fn partials(tokens: usize) -> usize {
    let columns = if tokens == 1 { 1 } else { 8 };
    2 * TILE_ROWS * columns * 4
}

/// A warp's partials in `SharedRouteSums` of `kernels/moe_down_residual_decode.cu`.
pub(super) fn route_partials(routes: usize) -> usize {
    routes * (TILE_ROWS + 4) * 4
}

/// What `kernels/unembed_shadow_decode.cu` keeps of a row: its state, leaders, and the reciprocal of its rms.
pub(super) fn shadow_row(tokens: usize) -> usize {
    aligned(tokens * (24 + 8 * 20 + 4))
}

/// What it keeps of each of a row's K slices.
pub(super) fn shadow_slice(tokens: usize) -> usize {
    tokens * 3 * 4
}

/// `Shared` of `kernels/sample_shadow_decode.cu` besides partial sums.
pub(super) fn sample_shadow(tokens: usize) -> usize {
    aligned(tokens * (2 * 8 + 4 + 2 * 4) + 4)
}

/// `SharedInverseRms` of `tile/norm.cuh`.
pub(super) fn inverse_rms(tokens: usize) -> usize {
    aligned(tokens * 4)
}

/// `SharedRouterSlice` of `moe/logits.cuh`.
pub(super) fn router_slice(experts: usize, tokens: usize) -> usize {
    (experts.next_multiple_of(TILE_ROWS) + tokens) * TILE_ROWS * 2
}

/// `SharedRouting` of `moe/routing.cuh`.
pub(super) fn routing(experts: usize, top_k: usize, tokens: usize) -> usize {
    let distinct = (tokens * top_k).min(experts);
    aligned(
        tokens * (top_k * 8 + 4)
            + 4
            + distinct * 4
            + distinct * tokens
            + tokens * top_k
            + distinct
            + 1,
    )
}

/// `SharedResidual` of `epilogue/residual.cuh`, with the epoch of an exchange where there are several ranks.
pub(super) fn residual(tokens: usize, ranks: usize) -> usize {
    TILE_ROWS * (4 * tokens + 2) + if ranks > 1 { 16 } else { 0 }
}

/// Biases of a row tile, of one matrix or of several.
pub(super) fn biases(matrices: usize) -> usize {
    matrices * TILE_ROWS * 2
}

/// `SharedStages` of `tile/gemm.cuh`: `stages` times some k tiles of `tokens` rows and of `warps` row tiles.
pub(super) fn stages(
    format: TileFormat,
    warps: usize,
    tokens: usize,
    k_tiles: usize,
    stages: usize,
) -> usize {
    let rows = tokens * (k_tiles * TILE_K + 8) * 2;
    stages * (rows + warps * k_tiles * format.tile_bytes())
}

/// What `kernels/qkv_rope_gemm.cu` keeps of a token: a position and a page.
pub(super) const POSITION_AND_PAGE: usize = 8;

/// What the experts' GEMMs keep of a route: its number.
pub(super) const ROUTE: usize = 4;

/// `WgmmaStages` of `tile/wgmma.cuh`, `stages` k tiles of `tokens` columns and of each warp's weights, and
/// `bytes_per_token` for each of the tokens, in the `Shared` of a kernel.
pub(super) fn wgmma(
    format: TileFormat,
    warps: usize,
    tokens: usize,
    stages: usize,
    bytes_per_token: usize,
) -> usize {
    const STAGE_ALIGNMENT: usize = 1024;
    let stage = tokens * TILE_K * 2 + warps * format.tile_bytes();
    let buffer = (stages * stage).next_multiple_of(STAGE_ALIGNMENT);
    (buffer + bytes_per_token * tokens).next_multiple_of(STAGE_ALIGNMENT)
}

/// `BarrierStages` of `tile/specialized.cuh`, and `other_bytes` beside them in the `Shared` of a kernel.
pub(super) fn specialized(
    format: TileFormat,
    warps: usize,
    tokens: usize,
    stage_tiles: usize,
    stages: usize,
    other_bytes: usize,
) -> usize {
    const STAGE_ALIGNMENT: usize = 1024;
    const BARRIERS: usize = 2 * 8;
    let stage = stage_tiles * (tokens * TILE_K * 2 + warps * format.tile_bytes()) + BARRIERS;
    let buffer = (stages * stage).next_multiple_of(STAGE_ALIGNMENT);
    (buffer + other_bytes).next_multiple_of(STAGE_ALIGNMENT)
}

/// `SharedRoutes` of `moe/permute.cuh`.
pub(super) fn shared_routes(routes: usize) -> usize {
    routes * (EXPERT_TILE_BYTES + ROUTE)
}

/// `Shared` of `kernels/moe_permute.cu`.
pub(super) fn permute(experts: usize, warps: usize) -> usize {
    (warps + 3) * experts * 4
}

/// `SoftmaxPartial`s of `attn/merge.cuh`, one per warp.
pub(super) fn attention_partials(warps: usize, head_dim: usize) -> usize {
    warps * PARTIAL_HEADS * (2 + head_dim) * 4
}

/// Multistage buffers of `SharedSpan`s of `attn/attend.cuh`, one per warp.
pub(super) fn spans(warps: usize, stages: usize, head_dim: usize) -> usize {
    warps * stages * 2 * SPAN_KEYS * head_dim * 2
}

/// A multistage buffer of `SharedPage`s of `attn/tiled.cuh`.
pub(super) fn pages(stages: usize, head_dim: usize) -> usize {
    stages * 2 * PAGE_TOKENS * head_dim * 2
}

/// `Shared` of `kernels/sample.cu`.
pub(super) fn sample_state(warps: usize, splits: usize) -> usize {
    const REDUCED: usize = 2;
    const BINS: usize = 16;
    let results = REDUCED * (warps + 2 * splits) * size_of::<u64>();
    let gathered = size_of::<u32>();
    aligned(results + 4 * BINS * size_of::<u32>() + size_of::<SampleRow>() + gathered)
}

/// A block's slice of a row of logits, of `sample/row.cuh`.
pub(super) fn sample_slice(spec: &ModelSpec, splits: usize) -> usize {
    spec.sliced_vocab(splits) / splits * size_of::<f32>()
}
