//! Kernels for many tokens: a block computes eight row tiles by up to 64 tokens; experts take their tokens as tiles
//! of a list sorted by expert.

use ossmith_plan::{Axis, ModelSpec, TILE_ROWS};

use super::{Constant, Draft, KernelPlan, ONE, footprint, head_constants, swiglu_constants, u32s};

/// Tokens of one block.
const TILE_TOKENS: usize = 64;
/// Row tiles of one block, one a warp.
const WARPS: usize = 8;
/// k tiles of activations on their way or in use.
const STAGES: usize = 4;

/// The kernels of a step of any size, phase by phase.
pub(super) fn kernels(spec: &ModelSpec) -> [KernelPlan; 8] {
    [
        dense("qkv_rope_prefill", "qkv_prefill.cu", &["Qkv"], spec.qkv_width(), {
            let mut constants = u32s(&[("kHidden", spec.hidden)]);
            constants.extend(head_constants(spec));
            constants
        }),
        dense(
            "attn_out_residual_prefill",
            "attn_out_prefill.cu",
            &["AttnOut"],
            spec.hidden,
            u32s(&[("kHidden", spec.hidden), ("kQWidth", spec.q_width())]),
        ),
        dense(
            "router_prefill",
            "router_prefill.cu",
            &["Router"],
            spec.experts,
            u32s(&[("kHidden", spec.hidden), ("kExperts", spec.experts)]),
        ),
        group(spec),
        expert_up(spec),
        expert_down(spec),
        combine(spec),
        dense(
            "unembed_prefill",
            "unembed_prefill.cu",
            &["Unembed"],
            spec.vocab,
            u32s(&[("kHidden", spec.hidden), ("kVocab", spec.vocab)]),
        ),
    ]
}

fn row_blocks(row_tiles: usize) -> Axis {
    Axis::Fixed(row_tiles.div_ceil(WARPS) as u32)
}

/// A dense product of `rows` rows for tiles of tokens.
fn dense(
    name: &str,
    body: &'static str,
    params: &'static [&'static str],
    rows: usize,
    mut constants: Vec<Constant>,
) -> KernelPlan {
    let row_tiles = rows.div_ceil(TILE_ROWS);
    constants.extend(u32s(&[
        ("kRowTiles", row_tiles),
        ("kTileTokens", TILE_TOKENS),
        ("kStages", STAGES),
    ]));
    Draft {
        name: name.into(),
        body,
        params,
        grid: [row_blocks(row_tiles), Axis::TokenTiles(TILE_TOKENS as u32), ONE],
        threads: WARPS * 32,
        shared_bytes: footprint::ring(STAGES, TILE_TOKENS),
        blocks_per_sm: 2,
        constants,
    }
    .plan()
}

/// An expert product of `row_tiles` row tiles for tiles of one expert's slots.
fn grouped(
    spec: &ModelSpec,
    name: &str,
    body: &'static str,
    params: &'static [&'static str],
    row_tiles: usize,
    extra: Vec<Constant>,
) -> KernelPlan {
    let mut constants = u32s(&[
        ("kHidden", spec.hidden),
        ("kInter", spec.inter),
        ("kTopK", spec.top_k),
        ("kExperts", spec.experts),
        ("kRowTiles", row_tiles),
        ("kTileTokens", TILE_TOKENS),
        ("kStages", STAGES),
    ]);
    constants.extend(extra);
    Draft {
        name: name.into(),
        body,
        params,
        grid: [row_blocks(row_tiles), Axis::ExpertTiles(TILE_TOKENS as u32), ONE],
        threads: WARPS * 32,
        shared_bytes: footprint::ring(STAGES, TILE_TOKENS) + TILE_TOKENS * 4,
        blocks_per_sm: 2,
        constants,
    }
    .plan()
}

fn expert_up(spec: &ModelSpec) -> KernelPlan {
    grouped(
        spec,
        "moe_up_swiglu_grouped",
        "expert_up_prefill.cu",
        &["ExpertUp"],
        2 * spec.inter / TILE_ROWS,
        swiglu_constants(spec).into(),
    )
}

fn expert_down(spec: &ModelSpec) -> KernelPlan {
    grouped(
        spec,
        "moe_down_grouped",
        "expert_down_prefill.cu",
        &["ExpertDown"],
        spec.hidden / TILE_ROWS,
        Vec::new(),
    )
}

fn group(spec: &ModelSpec) -> KernelPlan {
    Draft {
        name: "moe_group".into(),
        body: "group.cu",
        params: &["Group"],
        grid: [ONE, ONE, ONE],
        threads: 1024,
        shared_bytes: 3 * spec.experts * 4,
        blocks_per_sm: 1,
        constants: u32s(&[
            ("kExperts", spec.experts),
            ("kTopK", spec.top_k),
            ("kTileTokens", TILE_TOKENS),
        ]),
    }
    .plan()
}

fn combine(spec: &ModelSpec) -> KernelPlan {
    Draft {
        name: "moe_combine".into(),
        body: "combine.cu",
        params: &["Combine"],
        grid: [Axis::Tokens, ONE, ONE],
        threads: 256,
        shared_bytes: 0,
        blocks_per_sm: 1,
        constants: u32s(&[("kHidden", spec.hidden), ("kTopK", spec.top_k)]),
    }
    .plan()
}
