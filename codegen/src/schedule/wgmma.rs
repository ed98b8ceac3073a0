//! Kernels of prompts on Hopper: a block computes eight row tiles by many tokens with warpgroup products, on rows in tile
//! order. Short prompts have narrow tiles and two blocks a multiprocessor, which hide each other's waits.

use ossmith_plan::{Axis, ModelSpec, TILE_K, TILE_ROWS, Target};

use super::footprint::{self, TileFormat};
use super::{Constant, Draft, KernelPlan, ONE, head_constants, large, swiglu_constants, u32s};

/// How prompts of some length run.
pub struct Prompts {
    /// What kernel names end in.
    pub suffix: &'static str,
    /// Tokens of a step at most.
    pub max_tokens: usize,
    dense: Tiles,
    experts: Tiles,
    blocks_per_sm: usize,
}

/// What a block has of a product.
#[derive(Clone, Copy)]
struct Tiles {
    /// Tokens, or an expert's slots.
    tokens: usize,
    /// k tiles of all of them on their way or in use.
    stages: usize,
}

/// Short prompts, then any.
pub const PROMPTS: [Prompts; 2] = [
    Prompts {
        suffix: "wgmma128",
        max_tokens: 1024,
        dense: Tiles { tokens: 64, stages: 4 },
        experts: Tiles { tokens: 128, stages: 5 },
        blocks_per_sm: 2,
    },
    Prompts {
        suffix: "wgmma256",
        max_tokens: usize::MAX,
        dense: Tiles { tokens: 256, stages: 4 },
        experts: Tiles { tokens: 256, stages: 4 },
        blocks_per_sm: 1,
    },
];

/// Row tiles of one block, one a warp: two groups of four.
const WARPS: usize = 8;
/// Words that a block keeps of a token, at most: position and page, or slot.
const WORDS: usize = 2;

/// Whether a model's sums are made of whole tiles, as rows in tile order are.
#[must_use]
pub fn fits(spec: &ModelSpec) -> bool {
    [spec.hidden, spec.inter, spec.q_width()].iter().all(|width| width.is_multiple_of(TILE_K))
}

impl Prompts {
    /// Its kernels, phase by phase.
    pub(super) fn kernels(&self, spec: &ModelSpec) -> Vec<KernelPlan> {
        let mut qkv = u32s(&[("kHidden", spec.hidden)]);
        qkv.extend(head_constants(spec));
        let mut plans = vec![
            self.dense("qkv_rope", "qkv_wgmma.cu", &["Qkv"], spec.qkv_width(), qkv),
            self.dense(
                "attn_out_residual",
                "attn_out_wgmma.cu",
                &["AttnOut"],
                spec.hidden,
                u32s(&[("kHidden", spec.hidden), ("kQWidth", spec.q_width())]),
            ),
            self.grouped(
                spec,
                "moe_up_swiglu",
                "expert_up_wgmma.cu",
                &["ExpertUp"],
                2 * spec.inter,
                swiglu_constants(spec).into(),
            ),
            self.grouped(
                spec,
                "moe_down",
                "expert_down_wgmma.cu",
                &["ExpertDown"],
                spec.hidden,
                Vec::new(),
            ),
            self.dense(
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
        plans.push(large::router_in_tile_order(spec, self.suffix));
        plans.push(large::group(spec, self.suffix, self.experts.tokens));
        plans
    }

    fn dense(
        &self,
        operations: &str,
        body: &'static str,
        params: &'static [&'static str],
        rows: usize,
        constants: Vec<Constant>,
    ) -> KernelPlan {
        let along_tokens = Axis::TokenTiles(self.dense.tokens as u32);
        let side = (TileFormat::Bf16, self.dense, along_tokens);
        self.product(operations, body, params, rows, side, constants)
    }

    fn grouped(
        &self,
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
        let along_slots = Axis::ExpertTiles(self.experts.tokens as u32);
        let side = (TileFormat::Mxfp4, self.experts, along_slots);
        self.product(operations, body, params, rows, side, constants)
    }

    /// A product of `rows` rows for tiles of tokens, of a step's or of an expert's.
    fn product(
        &self,
        operations: &str,
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
        Draft {
            name: format!("{operations}_{}", self.suffix),
            body,
            params,
            grid: [Axis::Fixed(row_tiles.div_ceil(WARPS) as u32), along_tokens, ONE],
            threads: WARPS * 32,
            shared_bytes: footprint::wgmma(format, WARPS, tiles.tokens, tiles.stages, WORDS),
            blocks_per_sm: self.blocks_per_sm,
            constants,
        }
        .plan()
    }
}
