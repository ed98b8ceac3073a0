//! Kernels for a few tokens: a block's warps split the sum over k and stream strips of 16 rows through rings in
//! shared memory, with the first tiles on their way before the kernel's inputs exist.

use ossmith_plan::{Axis, ModelSpec, PRODUCT_BLOCKS_PER_SM, TILE_K, TILE_ROWS};

use super::footprint::{self, TileFormat};
use super::{Constant, Draft, KernelPlan, ONE, head_constants, swiglu_constants, u32s};

/// The kernels of a step of at most `tokens` tokens, phase by phase.
pub(super) fn kernels(spec: &ModelSpec, tokens: usize) -> [KernelPlan; 5] {
    [
        qkv(spec, tokens),
        attn_out(spec, tokens),
        expert_up(spec, tokens),
        expert_down(spec, tokens),
        unembed(spec, tokens),
    ]
}

/// The most warps of a block.
const MOST_WARPS: usize = 16;

/// Warps that share `k_tiles` evenly, if there are enough such; else as many as there can be.
fn warps(k: usize) -> usize {
    let k_tiles = k.div_ceil(TILE_K);
    let most = k_tiles.min(MOST_WARPS);
    (most.div_ceil(2)..=most).rev().find(|&warps| k_tiles.is_multiple_of(warps)).unwrap_or(most)
}

/// A streaming product: what its kernels have in common.
struct Product {
    /// Length of the sum.
    k: usize,
    format: TileFormat,
    /// Chunks of a warp that are on their way: tiles of bf16, shares of a strip of MXFP4.
    ring: usize,
    grid: Axis,
    /// Shared memory besides ring and sums.
    other_bytes: usize,
}

impl Product {
    fn plan(
        self,
        name: String,
        body: &'static str,
        params: &'static [&'static str],
        tokens: usize,
        mut constants: Vec<Constant>,
    ) -> KernelPlan {
        let warps = warps(self.k);
        constants.extend(u32s(&[("kMaxTokens", tokens), ("kStages", self.ring)]));
        Draft {
            name,
            body,
            params,
            grid: [self.grid, ONE, ONE],
            threads: warps * 32,
            shared_bytes: footprint::weight_ring(
                self.format,
                self.k.div_ceil(TILE_K),
                warps,
                self.ring,
            ) + footprint::sums(warps, tokens)
                + self.other_bytes,
            blocks_per_sm: PRODUCT_BLOCKS_PER_SM,
            constants,
        }
        .plan()
    }
}

/// A grid of as many blocks as run at once.
const RESIDENT: Axis = Axis::PerSm(PRODUCT_BLOCKS_PER_SM as u32);

fn qkv(spec: &ModelSpec, tokens: usize) -> KernelPlan {
    let mut constants = u32s(&[("kHidden", spec.hidden)]);
    constants.push(Constant::F32("kRmsEps", spec.rms_eps));
    constants.extend(head_constants(spec));
    Product {
        k: spec.hidden,
        format: TileFormat::Bf16,
        ring: 3,
        grid: RESIDENT,
        other_bytes: footprint::inverse(tokens),
    }
    .plan(
        format!("rmsnorm_qkv_rope_decode{tokens}"),
        "rmsnorm_qkv_rope_decode.cu",
        &["QkvRope"],
        tokens,
        constants,
    )
}

fn attn_out(spec: &ModelSpec, tokens: usize) -> KernelPlan {
    let constants = u32s(&[
        ("kHidden", spec.hidden),
        ("kQWidth", spec.q_width()),
        ("kExperts", spec.max_experts()),
    ]);
    Product {
        k: spec.q_width(),
        format: TileFormat::Bf16,
        ring: 3,
        grid: Axis::Fixed((spec.hidden / TILE_ROWS) as u32),
        other_bytes: footprint::residual(tokens)
            + footprint::biases(1)
            + footprint::router_part(spec.max_experts(), tokens),
    }
    .plan(
        format!("attn_out_residual_decode{tokens}"),
        "attn_out_residual_decode.cu",
        &["AttnOutResidual"],
        tokens,
        constants,
    )
}

fn expert_up(spec: &ModelSpec, tokens: usize) -> KernelPlan {
    let mut constants = u32s(&[
        ("kHidden", spec.hidden),
        ("kInter", spec.inter),
        ("kExperts", spec.max_experts()),
        ("kTopK", spec.max_top_k()),
    ]);
    constants.push(Constant::F32("kRmsEps", spec.rms_eps));
    constants.extend(swiglu_constants(spec));
    Product {
        k: spec.hidden,
        format: TileFormat::Mxfp4,
        ring: 1,
        grid: RESIDENT,
        other_bytes: footprint::route(spec.max_experts(), spec.max_top_k(), tokens),
    }
    .plan(
        format!("moe_up_swiglu_decode{tokens}"),
        "moe_up_swiglu_decode.cu",
        &["MoeUpSwiglu"],
        tokens,
        constants,
    )
}

fn expert_down(spec: &ModelSpec, tokens: usize) -> KernelPlan {
    let mut constants = u32s(&[
        ("kHidden", spec.hidden),
        ("kInter", spec.inter),
        ("kExperts", spec.max_experts()),
        ("kTopK", spec.max_top_k()),
    ]);
    constants.push(Constant::F32("kRmsEps", spec.rms_eps));
    Product {
        k: spec.inter,
        format: TileFormat::Mxfp4,
        ring: 2,
        grid: Axis::Fixed((spec.hidden / TILE_ROWS) as u32),
        other_bytes: footprint::route(spec.max_experts(), spec.max_top_k(), tokens)
            + footprint::residual(tokens)
            + footprint::biases(spec.max_experts().min(tokens * spec.max_top_k())),
    }
    .plan(
        format!("moe_down_residual_decode{tokens}"),
        "moe_down_residual_decode.cu",
        &["MoeDown"],
        tokens,
        constants,
    )
}

fn unembed(spec: &ModelSpec, tokens: usize) -> KernelPlan {
    let mut constants = u32s(&[("kHidden", spec.hidden), ("kVocab", spec.vocab)]);
    constants.push(Constant::F32("kRmsEps", spec.rms_eps));
    Product {
        k: spec.hidden,
        format: TileFormat::Bf16,
        ring: 2,
        grid: RESIDENT,
        other_bytes: footprint::inverse(tokens),
    }
    .plan(
        format!("unembed_decode{tokens}"),
        "unembed_decode.cu",
        &["Unembed"],
        tokens,
        constants,
    )
}
