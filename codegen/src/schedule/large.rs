//! Kernels of large steps: a block computes some row tiles by some tokens; experts take their tokens as tiles of a
//! list sorted by expert. A batch of decoding sequences and a prompt run the same bodies in other shapes.

use ossmith_plan::{Axis, ModelSpec, TILE_K, TILE_ROWS, Target};

use super::footprint::{self, TileFormat};
use super::{Constant, Draft, KernelPlan, ONE, head_constants, swiglu_constants, u32s};

/// The shape of a product's blocks.
#[derive(Clone, Copy)]
struct Blocks {
    /// Tokens of one block.
    tokens: usize,
    /// Row tiles of one block, one a warp.
    warps: usize,
    /// k tiles that move together.
    stage_tiles: usize,
    /// Stages on their way or in use.
    stages: usize,
    /// Blocks that share a multiprocessor.
    per_sm: usize,
}

impl Blocks {
    fn shared_bytes(&self, format: TileFormat) -> usize {
        footprint::stages(format, self.warps, self.tokens, self.stage_tiles, self.stages)
    }

    fn constants(&self, row_tiles: usize) -> Vec<Constant> {
        u32s(&[
            ("kRowTiles", row_tiles),
            ("kTileTokens", self.tokens),
            ("kStageTiles", self.stage_tiles),
            ("kStages", self.stages),
        ])
    }

    fn along_rows(&self, row_tiles: usize) -> Axis {
        Axis::Fixed(row_tiles.div_ceil(self.warps) as u32)
    }
}

/// Blocks that run at once on the smallest device of the kind that kernels are tuned for.
const BLOCKS_AT_ONCE: usize = 2 * 132;
/// Blocks of a cluster at most, on any device that has them.
const MOST_CLUSTER: usize = 8;

/// What names of the batch schedule's kernels end in.
pub const BATCH: &str = "batched";
/// What names of the portable schedule's kernels end in.
pub const PREFILL: &str = "prefill";
/// Rows that the batch schedule's unembedding reads all weights for once.
pub const BATCH_UNEMBED_ROWS: usize = DEEP.tokens;

/// How large steps run.
struct Large {
    /// What kernel names end in.
    suffix: &'static str,
    dense: Blocks,
    experts: Blocks,
    /// Whether a dense product of few rows has its sum split over clusters, to have enough blocks.
    splits: bool,
}

/// The kernels of a step of at most [`super::BATCH_TOKENS`] tokens, phase by phase. Their rings are too large for other
/// devices than Hopper.
pub(super) fn batch(spec: &ModelSpec) -> Vec<KernelPlan> {
    let batch = Large {
        suffix: BATCH,
        dense: DEEP,
        // Most experts have few slots: narrow tiles leave room for three blocks, which hide each other's latency.
        experts: Blocks { tokens: 24, warps: 8, stage_tiles: 3, stages: 3, per_sm: 3 },
        splits: true,
    };
    let mut plans = batch.kernels(spec);
    plans.iter_mut().for_each(|plan| plan.target = Target::Hopper);
    plans
}

/// The kernels of a step of any size, phase by phase.
pub(super) fn prefill(spec: &ModelSpec) -> Vec<KernelPlan> {
    portable().kernels(spec)
}

/// Blocks of 64 tokens with as much on its way as Hopper has room for.
const DEEP: Blocks = Blocks { tokens: 64, warps: 8, stage_tiles: 1, stages: 4, per_sm: 2 };

/// The shapes that do for any number of tokens on any device: their rings fit into 99 KiB.
fn portable() -> Large {
    let blocks = Blocks { stages: 3, ..DEEP };
    Large { suffix: PREFILL, dense: blocks, experts: blocks, splits: false }
}

impl Large {
    fn kernels(&self, spec: &ModelSpec) -> Vec<KernelPlan> {
        let mut qkv = u32s(&[("kHidden", spec.hidden)]);
        qkv.extend(head_constants(spec));
        vec![
            self.dense(
                "qkv_rope",
                "qkv_rope_gemm.cu",
                &["QkvRope"],
                [spec.qkv_width(), spec.hidden],
                footprint::places(self.dense.tokens),
                qkv,
            ),
            self.dense(
                "attn_out_residual",
                "attn_out_residual_gemm.cu",
                &["AttnOutResidual"],
                [spec.hidden, spec.q_width()],
                0,
                u32s(&[("kHidden", spec.hidden), ("kQWidth", spec.q_width())]),
            ),
            self.router(spec, false),
            moe_permute(spec, self.suffix, self.experts.tokens),
            self.grouped(
                spec,
                "moe_up_swiglu",
                "moe_up_swiglu_gemm.cu",
                &["MoeUpSwiglu"],
                2 * spec.inter / TILE_ROWS,
                swiglu_constants(spec).into(),
            ),
            self.grouped(
                spec,
                "moe_down",
                "moe_down_gemm.cu",
                &["MoeDown"],
                spec.hidden / TILE_ROWS,
                Vec::new(),
            ),
            self.dense(
                "unembed",
                "unembed_gemm.cu",
                &["Unembed"],
                [spec.vocab, spec.hidden],
                0,
                u32s(&[("kHidden", spec.hidden), ("kVocab", spec.vocab)]),
            ),
        ]
    }

    fn router(&self, spec: &ModelSpec, tile_order: bool) -> KernelPlan {
        let constants = u32s(&[
            ("kHidden", spec.hidden),
            ("kExperts", spec.max_experts()),
            ("kTileOrder", tile_order.into()),
        ]);
        let shape = [spec.max_experts(), spec.hidden];
        self.dense("router", "router.cu", &["Router"], shape, 0, constants)
    }

    fn name(&self, operations: &str) -> String {
        format!("{operations}_{}", self.suffix)
    }

    /// Blocks that split a dense product's sum of `k_tiles` tiles: a power of two, of which most clusters find room at
    /// once, each block with tiles.
    fn splits(&self, row_blocks: usize, k_tiles: usize) -> usize {
        let fits = |splits: usize| {
            splits * row_blocks <= BLOCKS_AT_ONCE
                && (splits - 1) * k_tiles.div_ceil(splits) < k_tiles
        };
        match self.splits {
            true => [MOST_CLUSTER, 4, 2].into_iter().find(|&splits| fits(splits)).unwrap_or(1),
            false => 1,
        }
    }

    /// A dense product of `rows` rows and sums of `k` elements for tiles of tokens.
    fn dense(
        &self,
        operations: &str,
        body: &'static str,
        params: &'static [&'static str],
        [rows, k]: [usize; 2],
        other_bytes: usize,
        mut constants: Vec<Constant>,
    ) -> KernelPlan {
        let row_tiles = rows.div_ceil(TILE_ROWS);
        let splits = self.splits(row_tiles.div_ceil(self.dense.warps), k.div_ceil(TILE_K));
        constants.extend(self.dense.constants(row_tiles));
        constants.extend(u32s(&[("kSplits", splits)]));
        let mut plan = Draft {
            name: self.name(operations),
            body,
            params,
            grid: [
                self.dense.along_rows(row_tiles),
                Axis::TokenTiles(self.dense.tokens as u32),
                Axis::Fixed(splits as u32),
            ],
            threads: self.dense.warps * 32,
            shared_bytes: self.dense.shared_bytes(TileFormat::Bf16) + other_bytes,
            blocks_per_sm: self.dense.per_sm,
            constants,
        }
        .plan();
        plan.info.cluster = splits as u32;
        plan
    }

    /// An expert product of `row_tiles` row tiles for tiles of one expert's slots.
    fn grouped(
        &self,
        spec: &ModelSpec,
        operations: &str,
        body: &'static str,
        params: &'static [&'static str],
        row_tiles: usize,
        extra: Vec<Constant>,
    ) -> KernelPlan {
        let blocks = self.experts;
        let mut constants =
            u32s(&[("kHidden", spec.hidden), ("kInter", spec.inter), ("kTopK", spec.max_top_k())]);
        constants.extend(blocks.constants(row_tiles));
        constants.extend(extra);
        Draft {
            name: self.name(operations),
            body,
            params,
            grid: [blocks.along_rows(row_tiles), Axis::ExpertTiles(blocks.tokens as u32), ONE],
            threads: blocks.warps * 32,
            shared_bytes: blocks.shared_bytes(TileFormat::Mxfp4)
                + (blocks.tokens * 4).next_multiple_of(16),
            blocks_per_sm: blocks.per_sm,
            constants,
        }
        .plan()
    }
}

/// The router for rows in tile order.
pub(super) fn router_in_tile_order(spec: &ModelSpec, suffix: &'static str) -> KernelPlan {
    let large = Large { suffix, dense: DEEP, splits: true, ..portable() };
    let mut plan = large.router(spec, true);
    plan.target = Target::Hopper;
    plan
}

/// Each token's experts, a warp a token.
pub(super) fn moe_topk(spec: &ModelSpec) -> KernelPlan {
    const WARPS: usize = 8;
    Draft {
        name: "moe_topk".into(),
        body: "moe_topk.cu",
        params: &["MoeTopk"],
        grid: [Axis::TokenTiles(WARPS as u32), ONE, ONE],
        threads: WARPS * 32,
        shared_bytes: 0,
        blocks_per_sm: 1,
        constants: u32s(&[("kExperts", spec.max_experts()), ("kTopK", spec.max_top_k())]),
    }
    .plan()
}

/// Sorts a step's slots into tiles of one expert.
pub(super) fn moe_permute(spec: &ModelSpec, suffix: &str, tile_tokens: usize) -> KernelPlan {
    const WARPS: usize = 32;
    Draft {
        name: format!("moe_permute_{suffix}"),
        body: "moe_permute.cu",
        params: &["MoePermute"],
        grid: [ONE, ONE, ONE],
        threads: WARPS * 32,
        shared_bytes: footprint::permute(spec.max_experts(), WARPS),
        blocks_per_sm: 1,
        constants: u32s(&[
            ("kExperts", spec.max_experts()),
            ("kTopK", spec.max_top_k()),
            ("kTileTokens", tile_tokens),
        ]),
    }
    .plan()
}

/// The weighted sum of the experts' outputs, and the norm of what it makes.
pub(super) fn moe_unpermute_rmsnorm(spec: &ModelSpec) -> KernelPlan {
    let mut constants = u32s(&[("kHidden", spec.hidden), ("kTopK", spec.max_top_k())]);
    constants.push(Constant::F32("kRmsEps", spec.rms_eps));
    Draft {
        name: "moe_unpermute_rmsnorm".into(),
        body: "moe_unpermute_rmsnorm.cu",
        params: &["MoeUnpermuteRmsNorm"],
        grid: [Axis::Tokens, ONE, ONE],
        threads: 256,
        shared_bytes: 0,
        blocks_per_sm: 1,
        constants,
    }
    .plan()
}
