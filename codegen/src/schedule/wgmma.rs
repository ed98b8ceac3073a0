//! Kernels of prompts on Hopper: a block computes eight row tiles by many tokens with warpgroup products, on rows in tile
//! order. Where two blocks share a multiprocessor they hide each other's waits, decoding and epilogues.

use ossmith_plan::{Axis, ModelSpec, TILE_K, TILE_ROWS, Target};

use super::footprint::{self, TileFormat};
use super::{Constant, Draft, KernelPlan, ONE, head_constants, large, swiglu_constants, u32s};

/// How the dense products of prompts of some length run; all else is the same for any.
pub struct Prompts {
    /// Tokens of a step at most.
    pub max_tokens: usize,
    qkv: Tiles,
    attn_out: Tiles,
}

/// What a block has of a product.
#[derive(Clone, Copy)]
struct Tiles {
    /// What names of attention's products end in.
    suffix: &'static str,
    /// Tokens, or an expert's slots.
    tokens: usize,
    /// k tiles of all of them on their way or in use.
    stages: usize,
    blocks_per_sm: usize,
}

const NARROW: Tiles = Tiles { suffix: "wgmma64", tokens: 64, stages: 4, blocks_per_sm: 2 };
const MIDDLE: Tiles = Tiles { suffix: "wgmma128", tokens: 128, stages: 3, blocks_per_sm: 2 };
const WIDE: Tiles = Tiles { suffix: "wgmma256", tokens: 256, stages: 4, blocks_per_sm: 1 };
const EXPERTS: Tiles = Tiles { suffix: SUFFIX, tokens: 128, stages: 5, blocks_per_sm: 2 };

/// Short prompts, then any.
pub const PROMPTS: [Prompts; 2] = [
    Prompts { max_tokens: 512, qkv: NARROW, attn_out: NARROW },
    Prompts { max_tokens: usize::MAX, qkv: MIDDLE, attn_out: WIDE },
];

/// What names of these kernels end in; those of attention's products have their tiles' tokens behind it.
pub const SUFFIX: &str = "wgmma";

/// Row tiles of one block, one a warp: two groups of four.
const WARPS: usize = 8;
/// Words that a block keeps of a token, at most: position and page, or slot.
const WORDS: usize = 2;

/// Whether a model's sums are made of whole tiles, as rows in tile order are.
#[must_use]
pub fn fits(spec: &ModelSpec) -> bool {
    [spec.hidden, spec.inter, spec.q_width()].iter().all(|width| width.is_multiple_of(TILE_K))
}

/// The kernels of all prompts. The unembedding is that of large batches too: L2 does not hold its weights, and wide tiles
/// read them least often.
pub(super) fn kernels(spec: &ModelSpec) -> Vec<KernelPlan> {
    let mut plans: Vec<KernelPlan> =
        PROMPTS.iter().flat_map(|prompts| prompts.kernels(spec)).collect();
    let swiglu = swiglu_constants(spec).into();
    plans.extend([
        large::router_in_tile_order(spec, SUFFIX),
        large::moe_permute(spec, SUFFIX, EXPERTS.tokens),
        experts(
            spec,
            "moe_up_swiglu",
            "moe_up_swiglu_wgmma.cu",
            &["MoeUpSwiglu"],
            2 * spec.inter,
            swiglu,
        ),
        experts(spec, "moe_down", "moe_down_wgmma.cu", &["MoeDown"], spec.hidden, vec![]),
        dense(
            format!("unembed_{SUFFIX}"),
            "unembed_wgmma.cu",
            &["Unembed"],
            spec.vocab,
            WIDE,
            u32s(&[("kHidden", spec.hidden), ("kVocab", spec.vocab)]),
        ),
    ]);
    plans
}

impl Prompts {
    /// What the names of its products of attention end in: before it, and after it.
    #[must_use]
    pub fn suffixes(&self) -> [&'static str; 2] {
        [self.qkv.suffix, self.attn_out.suffix]
    }

    fn kernels(&self, spec: &ModelSpec) -> [KernelPlan; 2] {
        let [before, after] = self.suffixes();
        let mut qkv = u32s(&[("kHidden", spec.hidden)]);
        qkv.extend(head_constants(spec));
        let attn_out = u32s(&[("kHidden", spec.hidden), ("kQWidth", spec.q_width())]);
        [
            dense(
                format!("qkv_rope_{before}"),
                "qkv_rope_wgmma.cu",
                &["QkvRope"],
                spec.qkv_width(),
                self.qkv,
                qkv,
            ),
            dense(
                format!("attn_out_residual_{after}"),
                "attn_out_residual_wgmma.cu",
                &["AttnOutResidual"],
                spec.hidden,
                self.attn_out,
                attn_out,
            ),
        ]
    }
}

fn dense(
    name: String,
    body: &'static str,
    params: &'static [&'static str],
    rows: usize,
    tiles: Tiles,
    constants: Vec<Constant>,
) -> KernelPlan {
    let along_tokens = Axis::TokenTiles(tiles.tokens as u32);
    product(name, body, params, rows, (TileFormat::Bf16, tiles, along_tokens), constants)
}

fn experts(
    spec: &ModelSpec,
    operations: &str,
    body: &'static str,
    params: &'static [&'static str],
    rows: usize,
    extra: Vec<Constant>,
) -> KernelPlan {
    let mut constants =
        u32s(&[("kHidden", spec.hidden), ("kInter", spec.inter), ("kTopK", spec.max_top_k())]);
    constants.extend(extra);
    let along_slots = Axis::ExpertTiles(EXPERTS.tokens as u32);
    let side = (TileFormat::Mxfp4, EXPERTS, along_slots);
    product(format!("{operations}_{SUFFIX}"), body, params, rows, side, constants)
}

/// A product of `rows` rows for tiles of tokens, of a step's or of an expert's.
fn product(
    name: String,
    body: &'static str,
    params: &'static [&'static str],
    rows: usize,
    (format, tiles, along_tokens): (TileFormat, Tiles, Axis),
    mut constants: Vec<Constant>,
) -> KernelPlan {
    let row_tiles = rows.div_ceil(TILE_ROWS);
    constants.extend(u32s(&[
        ("kRowTiles", row_tiles),
        ("kTileTokens", tiles.tokens),
        ("kStages", tiles.stages),
    ]));
    let mut plan = Draft {
        name,
        body,
        params,
        grid: [Axis::Fixed(row_tiles.div_ceil(WARPS) as u32), along_tokens, ONE],
        threads: WARPS * 32,
        shared_bytes: footprint::wgmma(format, WARPS, tiles.tokens, tiles.stages, WORDS),
        blocks_per_sm: tiles.blocks_per_sm,
        constants,
    }
    .plan();
    plan.target = Target::Hopper;
    plan
}
