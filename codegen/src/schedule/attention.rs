//! Attention, twice: by token, for steps of a few tokens and tokens that stand alone in their sequence's step, whose
//! keys are split among warps and blocks; and by tile, for tokens that follow one another, which share what they read.
//! A step's tokens are divided between the two when it is staged, by the length of their run.

use ossmith_plan::{Axis, MOST_KEY_SPLITS, ModelSpec};

use super::{Constant, Draft, KernelPlan, ONE, footprint, u32s};

/// Of sliding and of full layers: by token, then by tile.
pub(super) fn kernels(spec: &ModelSpec) -> [KernelPlan; 4] {
    [
        by_token(spec, "attention_sliding", spec.max_window()),
        by_token(spec, "attention_full", 0),
        by_tile(spec, "attention_sliding_tiled", spec.max_window()),
        by_tile(spec, "attention_full_tiled", 0),
    ]
}

/// `window` is 0 where every key is seen.
fn constants(spec: &ModelSpec, window: usize) -> Vec<Constant> {
    let mut constants = u32s(&[
        ("kHeadDim", spec.head_dim),
        ("kQHeads", spec.q_heads),
        ("kKvHeads", spec.kv_heads),
        ("kGqaRatio", spec.gqa_ratio()),
        ("kWindow", window),
    ]);
    constants.push(Constant::F32("kScoreScale", 1.0 / (spec.head_dim as f32).sqrt()));
    constants
}

fn by_token(spec: &ModelSpec, name: &str, window: usize) -> KernelPlan {
    /// Spans of keys and values in use and on their way to a warp.
    const STAGES: usize = 2;
    // Three blocks a multiprocessor on Hopper, and within the 99 KiB of a block elsewhere. Spans of 128 dims are twice as
    // large, so half the warps; and a thread joins eight of their parts at once, or registers end.
    let (warps, most_joined) = if spec.head_dim <= 64 { (4, MOST_KEY_SPLITS) } else { (2, 8) };
    let (splits, most_splits) = if window == 0 { (Axis::KeySplits, most_joined) } else { (ONE, 1) };
    let mut constants = constants(spec, window);
    constants.extend(u32s(&[("kMaxSplits", most_splits), ("kStages", STAGES)]));
    let parts = footprint::attention_parts(warps, spec.head_dim) + 16;
    Draft {
        name: name.into(),
        body: "attention.cu",
        params: &["Attention"],
        grid: [Axis::Fixed(spec.kv_heads as u32), splits, Axis::Tokens],
        threads: warps * 32,
        shared_bytes: parts.max(footprint::spans(warps, STAGES, spec.head_dim)),
        blocks_per_sm: 3,
        constants,
    }
    .plan()
}

fn by_tile(spec: &ModelSpec, name: &str, window: usize) -> KernelPlan {
    const WARPS: usize = 4;
    /// Pages in use, next, and on their way.
    const STAGES: usize = 3;
    /// Tokens of a tile of 16 rows.
    const ROW_TILE_TOKENS: usize = 2;
    // Outputs and queries of two row tiles of 128 dims leave no registers for scores.
    let row_tiles = if spec.head_dim <= 64 { 2 } else { 1 };
    let tile_tokens = WARPS * row_tiles * ROW_TILE_TOKENS;
    let mut constants = constants(spec, window);
    constants.extend(u32s(&[
        ("kTileTokens", tile_tokens),
        ("kRowTiles", row_tiles),
        ("kStages", STAGES),
    ]));
    Draft {
        name: name.into(),
        body: "attention_tiled.cu",
        params: &["AttentionTiled"],
        grid: [Axis::Fixed(spec.kv_heads as u32), Axis::RunTiles(tile_tokens as u32), ONE],
        threads: WARPS * 32,
        shared_bytes: footprint::pages(STAGES, spec.head_dim),
        blocks_per_sm: 2,
        constants,
    }
    .plan()
}
