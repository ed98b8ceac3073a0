//! Kernels for a few tokens: a block owns 16 rows, its warps split the sum, weights are held in registers.

use ossmith_plan::{Axis, ModelSpec, TILE_K, TILE_ROWS};

use super::{Constant, Draft, KernelPlan, ONE, footprint, head_constants, swiglu_constants, u32s};

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

/// How the sum over k is split among a block's warps.
struct Split {
    k_tiles: usize,
    warps: usize,
}

impl Split {
    /// The most warps, up to ten, that share the k tiles evenly; eight uneven ones where only few would.
    fn of(k: usize) -> Split {
        let k_tiles = k.div_ceil(TILE_K);
        let even = (1..=10).rev().find(|&warps| k_tiles.is_multiple_of(warps)).unwrap_or(1);
        let warps = if even < 4 && k_tiles > 10 { 8 } else { even };
        Split { k_tiles, warps }
    }

    fn share(&self) -> usize {
        self.k_tiles.div_ceil(self.warps)
    }

    fn threads(&self) -> usize {
        self.warps * 32
    }
}

fn rms_eps(spec: &ModelSpec) -> Constant {
    Constant::F32("kRmsEps", spec.rms_eps)
}

fn qkv(spec: &ModelSpec, tokens: usize) -> KernelPlan {
    let split = Split::of(spec.hidden);
    let mut constants = u32s(&[
        ("kHidden", spec.hidden),
        ("kMaxTokens", tokens),
        ("kHeldTiles", split.share().min(3)),
    ]);
    constants.push(rms_eps(spec));
    constants.extend(head_constants(spec));
    Draft {
        name: format!("rmsnorm_qkv_rope_decode{tokens}"),
        body: "qkv_decode.cu",
        params: &["Qkv"],
        grid: [Axis::Fixed((spec.qkv_width() / TILE_ROWS) as u32), ONE, ONE],
        threads: split.threads(),
        shared_bytes: footprint::rows(tokens, split.k_tiles)
            + footprint::sums(split.warps)
            + footprint::norm(split.warps, tokens),
        blocks_per_sm: 2,
        constants,
    }
    .plan()
}

fn attn_out(spec: &ModelSpec, tokens: usize) -> KernelPlan {
    let split = Split::of(spec.q_width());
    Draft {
        name: format!("attn_out_residual_decode{tokens}"),
        body: "attn_out_decode.cu",
        params: &["AttnOut"],
        grid: [Axis::Fixed((spec.hidden / TILE_ROWS) as u32), ONE, ONE],
        threads: split.threads(),
        shared_bytes: footprint::rows(tokens, split.k_tiles) + footprint::sums(split.warps),
        blocks_per_sm: 2,
        constants: u32s(&[
            ("kHidden", spec.hidden),
            ("kQWidth", spec.q_width()),
            ("kMaxTokens", tokens),
            ("kHeldTiles", split.share().min(4)),
        ]),
    }
    .plan()
}

fn router(spec: &ModelSpec, tokens: usize) -> KernelPlan {
    let split = Split::of(spec.hidden);
    let mut constants = u32s(&[
        ("kHidden", spec.hidden),
        ("kExperts", spec.experts),
        ("kMaxTokens", tokens),
        ("kHeldTiles", split.share().min(5)),
    ]);
    constants.push(rms_eps(spec));
    Draft {
        name: format!("rmsnorm_router_decode{tokens}"),
        body: "router_decode.cu",
        params: &["Router"],
        grid: [Axis::Fixed(spec.experts.div_ceil(TILE_ROWS) as u32), ONE, ONE],
        threads: split.threads(),
        shared_bytes: footprint::rows(tokens, split.k_tiles)
            + footprint::sums(split.warps)
            + footprint::norm(split.warps, tokens),
        blocks_per_sm: 1,
        constants,
    }
    .plan()
}

/// Experts whose strips are in flight together: as many as one token chooses, if they fit in registers.
fn experts_in_flight(spec: &ModelSpec, split: &Split) -> usize {
    spec.top_k.min((20 / split.share()).max(1))
}

fn expert_up(spec: &ModelSpec, tokens: usize) -> KernelPlan {
    const BLOCKS_PER_SM: usize = 2;
    let split = Split::of(spec.hidden);
    let mut constants = u32s(&[
        ("kHidden", spec.hidden),
        ("kInter", spec.inter),
        ("kExperts", spec.experts),
        ("kTopK", spec.top_k),
        ("kRowTiles", 2 * spec.inter / TILE_ROWS),
        ("kMaxTokens", tokens),
        ("kDepth", 2),
    ]);
    constants.extend(swiglu_constants(spec));
    Draft {
        name: format!("moe_up_swiglu_decode{tokens}"),
        body: "expert_up_decode.cu",
        params: &["ExpertUp"],
        grid: [Axis::PerSm(BLOCKS_PER_SM as u32), ONE, ONE],
        threads: split.threads(),
        shared_bytes: footprint::rows(tokens, split.k_tiles)
            + 2 * footprint::sums(split.warps)
            + footprint::route(spec.experts, spec.top_k, tokens),
        blocks_per_sm: BLOCKS_PER_SM,
        constants,
    }
    .plan()
}

fn expert_down(spec: &ModelSpec, tokens: usize) -> KernelPlan {
    let split = Split::of(spec.inter);
    let row_tiles = spec.hidden / TILE_ROWS;
    Draft {
        name: format!("moe_down_residual_decode{tokens}"),
        body: "expert_down_decode.cu",
        params: &["ExpertDown"],
        grid: [Axis::Fixed(row_tiles as u32), ONE, ONE],
        threads: split.threads(),
        shared_bytes: footprint::sums(split.warps)
            + footprint::route(spec.experts, spec.top_k, tokens),
        blocks_per_sm: 1,
        constants: u32s(&[
            ("kHidden", spec.hidden),
            ("kInter", spec.inter),
            ("kExperts", spec.experts),
            ("kTopK", spec.top_k),
            ("kRowTiles", row_tiles),
            ("kMaxTokens", tokens),
            ("kDepth", experts_in_flight(spec, &split)),
        ]),
    }
    .plan()
}

fn unembed(spec: &ModelSpec, tokens: usize) -> KernelPlan {
    const WARPS: usize = 8;
    const BLOCKS_PER_SM: usize = 2;
    Draft {
        name: format!("unembed_decode{tokens}"),
        body: "unembed_decode.cu",
        params: &["Unembed"],
        grid: [Axis::PerSm(BLOCKS_PER_SM as u32), ONE, ONE],
        threads: WARPS * 32,
        shared_bytes: footprint::rows(tokens, spec.hidden.div_ceil(TILE_K)),
        blocks_per_sm: BLOCKS_PER_SM,
        constants: u32s(&[
            ("kHidden", spec.hidden),
            ("kVocab", spec.vocab),
            ("kRowTiles", spec.vocab.div_ceil(TILE_ROWS)),
            ("kMaxTokens", tokens),
            ("kDepth", 3),
        ]),
    }
    .plan()
}
