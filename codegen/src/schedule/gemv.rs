//! GEMVs of a few tokens: a block's warps split the sum over k and stream row tiles through multistage buffers in shared
//! memory, with the first tiles on their way before the kernel's inputs exist.

use ossmith_plan::params::{
    AttnOutResidualRouter, MoeDownResidual, Params, PhaseKernel, RmsNormQkvRope, TopkMoeUpSwiglu,
    UnembedDecode,
};
use ossmith_plan::{Axis, Op, Regime, Shard, TILE_K, TILE_ROWS, Weight};

use super::footprint::{self, TileFormat};
use super::planned::{Body, Constant, Draft, Planned, PlannedKernel, body, u32s};
use super::tunables::{Legal, Tuner};
use super::{Context, ONE, Pattern, Result, head_constants, swiglu_constants};

/// The most warps of a block.
const MAX_WARPS: usize = 16;

/// Blocks that share an SM. Two of about sixteen warps fill it: the next kernel's blocks come as these leave, so that its
/// first tiles are on their way while the last sums are reduced.
const BLOCKS_PER_SM: usize = 2;

/// Warps that share `k_tiles` evenly, if there are enough such; else as many as there can be.
fn even_warps(k: usize) -> usize {
    let k_tiles = k.div_ceil(TILE_K);
    let most = k_tiles.min(MAX_WARPS);
    (most.div_ceil(2)..=most).rev().find(|&warps| k_tiles.is_multiple_of(warps)).unwrap_or(most)
}

/// How a GEMV's blocks are dealt out.
pub(super) enum Rows {
    /// As many blocks as run at once, each with every so many-th row tile.
    Resident,
    /// A block for each row tile.
    PerTile(usize),
}

/// What GEMVs have in common.
pub(super) struct Gemv {
    pub(super) operation: &'static str,
    pub(super) body: Body,
    /// Structs that the kernel's parameters point to.
    pub(super) other_params: Vec<&'static str>,
    /// Length of the sum.
    pub(super) k: usize,
    pub(super) format: TileFormat,
    /// Chunks of a warp that are on their way: tiles of bf16, shares of a row tile of MXFP4.
    pub(super) stages: usize,
    pub(super) rows: Rows,
    /// Shared memory of one warp's split-K partials.
    pub(super) partial_bytes: usize,
    /// Shared memory besides weights and partial sums.
    pub(super) other_bytes: usize,
    pub(super) constants: Vec<Constant>,
}

impl Gemv {
    pub(super) fn plan<P: Params>(self, at: &Context<'_>, tokens: usize) -> Result<Planned<P>> {
        let name = at.name_of_rank(format!("{}_decode{tokens}", self.operation));
        let mut tuner = Tuner::new(&name, at.overrides);
        let warps = tuner.pick(
            "warps",
            even_warps(self.k),
            Legal::range(1, MAX_WARPS),
            "warps that split the sum: more hide more latency, and have more partial sums to reduce",
        )?;
        let stages = tuner.pick(
            "stages",
            self.stages,
            Legal::range(1, 8),
            "chunks of weights on their way to each warp: more keep memory busy, and delay what other kernels ask of it",
        )?;
        // Half a chunk of MXFP4 is too little to make a difference.
        let (own_pace, paces) = match self.format {
            TileFormat::Bf16 | TileFormat::Int8 => (0, Legal::range(0, 8)),
            TileFormat::Mxfp4 => (1, Legal::range(1, 8)),
        };
        let pace = tuner.pick(
            "pace",
            own_pace,
            paces,
            "chunks requested at a time while buffers fill, 0 for half of one: more fill sooner, and delay the kernel before",
        )?;
        let blocks_per_sm = tuner.pick(
            "blocks_per_sm",
            BLOCKS_PER_SM,
            Legal::range(1, 4),
            "blocks that share an SM: more overlap their ends, and leave each fewer registers",
        )?;
        let grid = match self.rows {
            Rows::Resident => Axis::PerSm(blocks_per_sm as u32),
            Rows::PerTile(tiles) => Axis::Fixed(tiles as u32),
        };
        let mut constants = self.constants;
        // A buffer of that many chunks is filled at once, however many more the pace would allow.
        let pace = pace.min(stages);
        constants.extend(u32s(&[("kMaxTokens", tokens), ("kStages", stages), ("kPace", pace)]));
        let k_tiles = self.k.div_ceil(TILE_K);
        let tunables = tuner.chosen();
        Ok(Draft {
            name,
            body: self.body,
            other_params: self.other_params,
            grid: [grid, ONE, ONE],
            cluster: 1,
            threads: warps * 32,
            shared_bytes: footprint::aligned(
                footprint::weight_stages(self.format, k_tiles, warps, stages)
                    + warps * self.partial_bytes
                    + self.other_bytes,
            ),
            blocks_per_sm,
            constants,
            family: at.step.family,
            tunables,
        }
        .plan(at.arch))
    }
}

/// The GEMV that computes a fusion in a step of a few tokens, which warps hold in registers.
pub(super) fn schedule(fused: &Pattern, at: &Context<'_>) -> Result<Option<Vec<PlannedKernel>>> {
    use Op::{
        AddTo, AllReduce, CacheWrite, Combine, ExpertLinear, Linear, RmsNorm, Rope, SwiGlu, TopK,
    };
    use PhaseKernel as P;
    use Weight::{AttnOut, Down, GateUp, Qkv, Router, Unembedding};
    let Regime::Decode { max_tokens: tokens } = at.step.regime else { return Ok(None) };
    let kernel = match fused {
        [(RmsNorm, _), (Linear, Some(Qkv)), (Rope, _), (CacheWrite, _)] => {
            rmsnorm_qkv_rope(at, tokens)?.of(P::RmsNormQkvRope)
        }
        [
            (Linear, Some(AttnOut)),
            (AllReduce, _),
            (AddTo, _),
            (RmsNorm, _),
            (Linear, Some(Router)),
        ] => over_ranks(attn_out_residual_router(at, tokens)?, at).of(P::AttnOutResidualRouter),
        [(TopK, _), (ExpertLinear, Some(GateUp)), (SwiGlu, _)] => {
            topk_moe_up_swiglu(at, tokens)?.of(P::TopkMoeUpSwiglu)
        }
        [(ExpertLinear, Some(Down)), (Combine, _), (AllReduce, _), (AddTo, _)] => {
            over_ranks(moe_down_residual(at, tokens)?, at).of(P::MoeDownResidual)
        }
        [(RmsNorm, _), (Linear, Some(Unembedding))] => unembed(at, tokens)?.of(P::UnembedDecode),
        _ => return Ok(None),
    };
    Ok(Some(vec![kernel]))
}

/// A kernel whose epilogue adds over ranks.
fn over_ranks<P: Params>(mut planned: Planned<P>, at: &Context<'_>) -> Planned<P> {
    planned.plan.ranks = at.shard.of;
    planned
}

fn rmsnorm_qkv_rope(at: &Context<'_>, tokens: usize) -> Result<Planned<RmsNormQkvRope>> {
    let spec = at.spec;
    let mut constants = u32s(&[("kHidden", spec.hidden)]);
    constants.push(Constant::F32("kRmsEps", spec.rms_eps));
    constants.extend(head_constants(spec));
    Gemv {
        operation: "rmsnorm_qkv_rope",
        body: body!("rmsnorm_qkv_rope_decode.cu"),
        other_params: vec![],
        k: spec.hidden,
        format: TileFormat::Bf16,
        stages: 3,
        rows: Rows::Resident,
        partial_bytes: footprint::partials(tokens),
        other_bytes: footprint::inverse_rms(tokens),
        constants,
    }
    .plan(at, tokens)
}

fn attn_out_residual_router(
    at: &Context<'_>,
    tokens: usize,
) -> Result<Planned<AttnOutResidualRouter>> {
    let (spec, experts) = (at.spec, at.layer.experts);
    Gemv {
        operation: "attn_out_residual",
        body: body!("attn_out_residual_decode.cu"),
        other_params: vec![],
        k: spec.q_width(),
        format: TileFormat::Bf16,
        // All blocks that exchange with other ranks must run at once, and so two on an SM.
        stages: if at.shard == Shard::WHOLE || tokens == 1 { 3 } else { 2 },
        rows: Rows::PerTile(spec.hidden / TILE_ROWS),
        partial_bytes: footprint::partials(tokens),
        other_bytes: footprint::residual(tokens, at.shard.of)
            + footprint::biases(1)
            + footprint::router_slice(experts, tokens),
        constants: u32s(&[
            ("kHidden", spec.hidden),
            ("kQWidth", spec.q_width()),
            ("kExperts", experts),
        ]),
    }
    .plan(at, tokens)
}

/// Constants of both GEMVs of the experts.
fn expert_constants(at: &Context<'_>) -> Vec<Constant> {
    let mut constants = u32s(&[
        ("kHidden", at.spec.hidden),
        ("kInter", at.spec.inter),
        ("kExperts", at.layer.experts),
        ("kTopK", at.layer.top_k),
    ]);
    constants.push(Constant::F32("kRmsEps", at.spec.rms_eps));
    constants
}

fn topk_moe_up_swiglu(at: &Context<'_>, tokens: usize) -> Result<Planned<TopkMoeUpSwiglu>> {
    let mut constants = expert_constants(at);
    constants.extend(swiglu_constants(at.spec));
    Gemv {
        operation: "moe_up_swiglu",
        body: body!("moe_up_swiglu_decode.cu"),
        other_params: vec![],
        k: at.spec.hidden,
        format: TileFormat::Mxfp4,
        stages: 1,
        rows: Rows::Resident,
        partial_bytes: footprint::partials(tokens),
        other_bytes: footprint::routing(at.layer.experts, at.layer.top_k, tokens),
        constants,
    }
    .plan(at, tokens)
}

fn moe_down_residual(at: &Context<'_>, tokens: usize) -> Result<Planned<MoeDownResidual>> {
    let (experts, top_k) = (at.layer.experts, at.layer.top_k);
    Gemv {
        operation: "moe_down_residual",
        body: body!("moe_down_residual_decode.cu"),
        other_params: vec![],
        k: at.spec.inter,
        format: TileFormat::Mxfp4,
        stages: 2,
        rows: Rows::PerTile(at.spec.hidden / TILE_ROWS),
        partial_bytes: footprint::route_partials(tokens * top_k),
        other_bytes: footprint::routing(experts, top_k, tokens)
            + footprint::residual(tokens, at.shard.of)
            + footprint::biases(tokens * top_k),
        constants: expert_constants(at),
    }
    .plan(at, tokens)
}

pub(super) fn unembed(at: &Context<'_>, tokens: usize) -> Result<Planned<UnembedDecode>> {
    let spec = at.spec;
    let mut constants = u32s(&[("kHidden", spec.hidden), ("kVocab", spec.vocab)]);
    constants.push(Constant::F32("kRmsEps", spec.rms_eps));
    Gemv {
        operation: "unembed",
        body: body!("unembed_decode.cu"),
        other_params: vec![],
        k: spec.hidden,
        format: TileFormat::Bf16,
        stages: 2,
        rows: Rows::Resident,
        partial_bytes: footprint::partials(tokens),
        other_bytes: footprint::inverse_rms(tokens),
        constants,
    }
    .plan(at, tokens)
}
