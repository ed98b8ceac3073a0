//! Kernels of large steps: a block computes some row tiles by some tokens; experts take their tokens as tiles of a
//! list sorted by expert. A batch of decoding sequences and a prompt run the same bodies in other shapes.

use ossmith_plan::{Axis, ModelSpec, TILE_ROWS};

use super::{Constant, Draft, KernelPlan, ONE, footprint, head_constants, swiglu_constants, u32s};

/// The shape of a large step's products.
struct Shape {
    /// What kernel names end in.
    suffix: String,
    /// Tokens of one block.
    tile_tokens: usize,
    /// Row tiles of one block, one a warp.
    warps: usize,
    /// k tiles of activations on their way or in use.
    stages: usize,
}

/// The kernels of a step of at most [`super::BATCH_TOKENS`] tokens, phase by phase.
pub(super) fn batch(spec: &ModelSpec) -> Vec<KernelPlan> {
    let suffix = format!("batch{}", super::BATCH_TOKENS);
    Shape { suffix, tile_tokens: 64, warps: 8, stages: 4 }.kernels(spec)
}

/// The kernels of a step of any size, phase by phase.
pub(super) fn prefill(spec: &ModelSpec) -> Vec<KernelPlan> {
    Shape { suffix: "prefill".into(), tile_tokens: 64, warps: 8, stages: 4 }.kernels(spec)
}

impl Shape {
    fn kernels(&self, spec: &ModelSpec) -> Vec<KernelPlan> {
        vec![
            self.dense("qkv_rope", "qkv_large.cu", &["Qkv"], spec.qkv_width(), {
                let mut constants = u32s(&[("kHidden", spec.hidden)]);
                constants.extend(head_constants(spec));
                constants
            }),
            self.dense(
                "attn_out_residual",
                "attn_out_large.cu",
                &["AttnOut"],
                spec.hidden,
                u32s(&[("kHidden", spec.hidden), ("kQWidth", spec.q_width())]),
            ),
            self.dense(
                "router",
                "router.cu",
                &["Router"],
                spec.experts,
                u32s(&[("kHidden", spec.hidden), ("kExperts", spec.experts)]),
            ),
            self.group(spec),
            self.grouped(
                spec,
                "moe_up_swiglu",
                "expert_up_large.cu",
                &["ExpertUp"],
                2 * spec.inter / TILE_ROWS,
                swiglu_constants(spec).into(),
            ),
            self.grouped(
                spec,
                "moe_down",
                "expert_down_large.cu",
                &["ExpertDown"],
                spec.hidden / TILE_ROWS,
                Vec::new(),
            ),
            self.dense(
                "unembed",
                "unembed_large.cu",
                &["Unembed"],
                spec.vocab,
                u32s(&[("kHidden", spec.hidden), ("kVocab", spec.vocab)]),
            ),
        ]
    }

    fn name(&self, operations: &str) -> String {
        format!("{operations}_{}", self.suffix)
    }

    fn row_blocks(&self, row_tiles: usize) -> Axis {
        Axis::Fixed(row_tiles.div_ceil(self.warps) as u32)
    }

    /// A dense product of `rows` rows for tiles of tokens.
    fn dense(
        &self,
        operations: &str,
        body: &'static str,
        params: &'static [&'static str],
        rows: usize,
        mut constants: Vec<Constant>,
    ) -> KernelPlan {
        let row_tiles = rows.div_ceil(TILE_ROWS);
        constants.extend(u32s(&[
            ("kRowTiles", row_tiles),
            ("kTileTokens", self.tile_tokens),
            ("kStages", self.stages),
        ]));
        Draft {
            name: self.name(operations),
            body,
            params,
            grid: [self.row_blocks(row_tiles), Axis::TokenTiles(self.tile_tokens as u32), ONE],
            threads: self.warps * 32,
            shared_bytes: footprint::ring(self.stages, self.tile_tokens),
            blocks_per_sm: 2,
            constants,
        }
        .plan()
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
        let mut constants = u32s(&[
            ("kHidden", spec.hidden),
            ("kInter", spec.inter),
            ("kTopK", spec.top_k),
            ("kExperts", spec.experts),
            ("kRowTiles", row_tiles),
            ("kTileTokens", self.tile_tokens),
            ("kStages", self.stages),
        ]);
        constants.extend(extra);
        Draft {
            name: self.name(operations),
            body,
            params,
            grid: [self.row_blocks(row_tiles), Axis::ExpertTiles(self.tile_tokens as u32), ONE],
            threads: self.warps * 32,
            shared_bytes: footprint::ring(self.stages, self.tile_tokens) + self.tile_tokens * 4,
            blocks_per_sm: 2,
            constants,
        }
        .plan()
    }

    fn group(&self, spec: &ModelSpec) -> KernelPlan {
        Draft {
            name: self.name("moe_group"),
            body: "group.cu",
            params: &["Group"],
            grid: [ONE, ONE, ONE],
            threads: 1024,
            shared_bytes: 3 * spec.experts * 4,
            blocks_per_sm: 1,
            constants: u32s(&[
                ("kExperts", spec.experts),
                ("kTopK", spec.top_k),
                ("kTileTokens", self.tile_tokens),
            ]),
        }
        .plan()
    }
}

/// The weighted sum of the experts' outputs.
pub(super) fn combine(spec: &ModelSpec) -> KernelPlan {
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
