//! Kernels for a few tokens: a block's warps split the sum over k and stream strips of 16 rows through rings in
//! shared memory, with the first tiles on their way before the kernel's inputs exist.

use ossmith_plan::{Axis, ModelSpec, PRODUCT_BLOCKS_PER_SM, TILE_K, TILE_ROWS};

use super::footprint::{self, TileFormat};
use super::{Constant, Draft, KernelPlan, ONE, head_constants, swiglu_constants, u32s};

/// The kernels of a step of at most `tokens` tokens, phase by phase.
pub(super) fn kernels(spec: &ModelSpec, tokens: usize) -> [KernelPlan; 6] {
    [
        qkv(spec, tokens),
        attn_out(spec, tokens),
        router(spec, tokens),
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
        constants.extend(u32s(&[("kMaxTokens", tokens), ("kRing", self.ring)]));
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
        ring: 2,
        grid: RESIDENT,
        other_bytes: footprint::inverse(tokens),
    }
    .plan(
        format!("rmsnorm_qkv_rope_decode{tokens}"),
        "qkv_decode.cu",
        &["Qkv"],
        tokens,
        constants,
    )
}

fn attn_out(spec: &ModelSpec, tokens: usize) -> KernelPlan {
    let constants = u32s(&[("kHidden", spec.hidden), ("kQWidth", spec.q_width())]);
    Product {
        k: spec.q_width(),
        format: TileFormat::Bf16,
        ring: 2,
        grid: Axis::Fixed((spec.hidden / TILE_ROWS) as u32),
        other_bytes: 0,
    }
    .plan(
        format!("attn_out_residual_decode{tokens}"),
        "attn_out_decode.cu",
        &["AttnOut"],
        tokens,
        constants,
    )
}

fn router(spec: &ModelSpec, tokens: usize) -> KernelPlan {
    let mut constants = u32s(&[("kHidden", spec.hidden), ("kExperts", spec.experts)]);
    constants.push(Constant::F32("kRmsEps", spec.rms_eps));
    Product {
        k: spec.hidden,
        format: TileFormat::Bf16,
        // All of a warp's tiles: the router is small, and what matters is when it starts.
        ring: spec.hidden.div_ceil(TILE_K).div_ceil(warps(spec.hidden)),
        grid: Axis::Fixed(spec.experts.div_ceil(TILE_ROWS) as u32),
        other_bytes: footprint::inverse(tokens),
    }
    .plan(
        format!("rmsnorm_router_decode{tokens}"),
        "router_decode.cu",
        &["Router"],
        tokens,
        constants,
    )
}

fn expert_up(spec: &ModelSpec, tokens: usize) -> KernelPlan {
    let mut constants = u32s(&[
        ("kHidden", spec.hidden),
        ("kInter", spec.inter),
        ("kExperts", spec.experts),
        ("kTopK", spec.top_k),
    ]);
    constants.push(Constant::F32("kRmsEps", spec.rms_eps));
    constants.extend(swiglu_constants(spec));
    Product {
        k: spec.hidden,
        format: TileFormat::Mxfp4,
        ring: 3,
        grid: RESIDENT,
        other_bytes: footprint::inverse(tokens)
            + footprint::route(spec.experts, spec.top_k, tokens),
    }
    .plan(
        format!("moe_up_swiglu_decode{tokens}"),
        "expert_up_decode.cu",
        &["ExpertUp"],
        tokens,
        constants,
    )
}

fn expert_down(spec: &ModelSpec, tokens: usize) -> KernelPlan {
    let constants = u32s(&[
        ("kHidden", spec.hidden),
        ("kInter", spec.inter),
        ("kExperts", spec.experts),
        ("kTopK", spec.top_k),
    ]);
    Product {
        k: spec.inter,
        format: TileFormat::Mxfp4,
        ring: 3,
        grid: Axis::Fixed((spec.hidden / TILE_ROWS) as u32),
        other_bytes: footprint::route(spec.experts, spec.top_k, tokens)
            + footprint::down_pairs(tokens),
    }
    .plan(
        format!("moe_down_residual_decode{tokens}"),
        "expert_down_decode.cu",
        &["ExpertDown"],
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
