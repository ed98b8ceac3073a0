//! Kernels of prompts on Hopper: a block computes eight row tiles by up to 256 tokens with warpgroup products, on rows in
//! tile order.

use ossmith_plan::{Axis, ModelSpec, TILE_K, TILE_ROWS, Target};

use super::footprint::{self, TileFormat};
use super::{Constant, Draft, KernelPlan, ONE, head_constants, large, swiglu_constants, u32s};

/// What kernel names end in.
pub const WGMMA: &str = "wgmma";

/// Tokens of one block (`kMostColumns` of `ptx/wgmma.cuh`).
const TILE_TOKENS: usize = 256;
/// Row tiles of one block, one a warp: two groups of four.
const WARPS: usize = 8;
/// Words that a block keeps of a token, at most: position and page, or slot.
const WORDS: usize = 2;

/// Whether a model's sums are made of whole tiles, as rows in tile order are.
#[must_use]
pub fn fits(spec: &ModelSpec) -> bool {
    [spec.hidden, spec.inter, spec.q_width()].iter().all(|width| width.is_multiple_of(TILE_K))
}

/// The kernels of a step of any size, phase by phase.
pub(super) fn kernels(spec: &ModelSpec) -> Vec<KernelPlan> {
    let mut plans = vec![
        dense("qkv_rope", "qkv_wgmma.cu", &["Qkv"], spec.qkv_width(), {
            let mut constants = u32s(&[("kHidden", spec.hidden)]);
            constants.extend(head_constants(spec));
            constants
        }),
        dense(
            "attn_out_residual",
            "attn_out_wgmma.cu",
            &["AttnOut"],
            spec.hidden,
            u32s(&[("kHidden", spec.hidden), ("kQWidth", spec.q_width())]),
        ),
        grouped(
            spec,
            "moe_up_swiglu",
            "expert_up_wgmma.cu",
            &["ExpertUp"],
            2 * spec.inter,
            swiglu_constants(spec).into(),
        ),
        grouped(spec, "moe_down", "expert_down_wgmma.cu", &["ExpertDown"], spec.hidden, Vec::new()),
        dense(
            "unembed",
            "unembed_wgmma.cu",
            &["Unembed"],
            spec.vocab,
            u32s(&[("kHidden", spec.hidden), ("kVocab", spec.vocab)]),
        ),
    ];
    for plan in &mut plans {
        plan.target = Target::Hopper;
    }
    plans.push(large::router_in_tile_order(spec, WGMMA));
    plans.push(large::group(spec, WGMMA, TILE_TOKENS));
    plans
}

/// A product of `rows` rows for tiles of tokens, of a step's or of an expert's.
fn product(
    operations: &str,
    body: &'static str,
    params: &'static [&'static str],
    rows: usize,
    (format, token_tiles): (TileFormat, Axis),
    mut constants: Vec<Constant>,
) -> KernelPlan {
    let row_tiles = rows.div_ceil(TILE_ROWS);
    constants.extend(u32s(&[("kRowTiles", row_tiles)]));
    Draft {
        name: format!("{operations}_{WGMMA}"),
        body,
        params,
        grid: [Axis::Fixed(row_tiles.div_ceil(WARPS) as u32), token_tiles, ONE],
        threads: WARPS * 32,
        shared_bytes: footprint::wgmma_ring(format, WARPS, TILE_TOKENS) + WORDS * TILE_TOKENS * 4,
        blocks_per_sm: 1,
        constants,
    }
    .plan()
}

fn dense(
    operations: &str,
    body: &'static str,
    params: &'static [&'static str],
    rows: usize,
    constants: Vec<Constant>,
) -> KernelPlan {
    let tiles = (TileFormat::Bf16, Axis::TokenTiles(TILE_TOKENS as u32));
    product(operations, body, params, rows, tiles, constants)
}

fn grouped(
    spec: &ModelSpec,
    operations: &str,
    body: &'static str,
    params: &'static [&'static str],
    rows: usize,
    extra: Vec<Constant>,
) -> KernelPlan {
    let mut constants =
        u32s(&[("kHidden", spec.hidden), ("kInter", spec.inter), ("kTopK", spec.top_k)]);
    constants.extend(extra);
    let tiles = (TileFormat::Mxfp4, Axis::ExpertTiles(TILE_TOKENS as u32));
    product(operations, body, params, rows, tiles, constants)
}
