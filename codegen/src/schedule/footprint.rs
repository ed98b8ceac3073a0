//! Bytes of the shared-memory structs of `codegen/cuda`, which assert that the reserved size suffices.

use ossmith_plan::{TILE_K, TILE_ROWS};

fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(16)
}

/// `SharedRows` of `tile/gemv.cuh`: padded bf16 rows.
pub(super) fn rows(tokens: usize, k_tiles: usize) -> usize {
    aligned(tokens * (k_tiles * TILE_K + 8) * 2)
}

/// `SharedSums` of `tile/gemv.cuh`: each warp's partial tile.
pub(super) fn sums(warps: usize) -> usize {
    warps * TILE_ROWS * 8 * 4
}

/// `SharedNorm` of `tile/norm.cuh`: each warp's partial squares.
pub(super) fn norm(warps: usize, tokens: usize) -> usize {
    aligned(tokens * warps * 4)
}

/// `SharedRoute` of `moe/route.cuh`.
pub(super) fn route(experts: usize, top_k: usize, tokens: usize) -> usize {
    let distinct = (tokens * top_k).min(experts);
    aligned(tokens * top_k * 8 + 4 + distinct * 4 + distinct * tokens)
}

/// `SharedRing` of `tile/gemm.cuh`.
pub(super) fn ring(stages: usize, tokens: usize) -> usize {
    stages * tokens * (TILE_K + 8) * 2
}

/// `Part`s of `attn/merge.cuh`, one a warp.
pub(super) fn attention_parts(warps: usize, head_dim: usize) -> usize {
    const COLUMN_HEADS: usize = 8;
    warps * COLUMN_HEADS * (2 + head_dim) * 4
}

/// `Shared` of `kernels/sample.cu`.
pub(super) fn sample(warps: usize) -> usize {
    const SELECT: usize = 256 * 8 + 8 + 8;
    warps * 8 + SELECT + 8
}
