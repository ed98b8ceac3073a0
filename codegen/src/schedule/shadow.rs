//! Sampling by the 8-bit shadow of the unembedding, in decode steps: a GEMV over the shadow that bounds the logits, and a
//! kernel that computes those that can matter as the unembedding itself does, and samples.

use ossmith_plan::params::{
    Params, PhaseKernel, SampleRow, SampleShadow, ShadowLowerBound, ShadowRowBound,
    ShadowTileBound, UnembedShadow,
};
use ossmith_plan::{Axis, Family, Regime, TILE_K};

use super::footprint::{self, TileFormat};
use super::gemv::{self, Gemv, Rows};
use super::planned::{Constant, Draft, Planned, PlannedKernel, body, u32s};
use super::{Context, ONE, Result};

/// The most tokens of a step, which is a decode step: no other has a shadow.
fn tokens_of(at: &Context<'_>) -> usize {
    match at.step.regime {
        Regime::Decode { max_tokens } => max_tokens,
        Regime::Batched | Regime::Prefill => at.step.max_tokens,
    }
}

fn constants(at: &Context<'_>) -> Vec<Constant> {
    let mut constants = u32s(&[("kHidden", at.spec.hidden), ("kVocab", at.spec.vocab)]);
    constants.push(Constant::F32("kRmsEps", at.spec.rms_eps));
    constants
}

/// More than what roundings add to a logit, in units of the norms of both rows: each tensor-core instruction and each
/// addition of a partial sum rounds to 2^-20 of the largest term at worst (2^-20.9 on Hopper: 17 terms, truncated).
fn rounding(hidden: usize) -> f32 {
    const OTHERS: usize = 64;
    let instructions = hidden.div_ceil(TILE_K) * TILE_K / 16;
    (instructions + OTHERS) as f32 / (1 << 20) as f32
}

/// Both kernels, in the order of their launches.
pub(super) fn schedule(at: &Context<'_>) -> Result<Vec<PlannedKernel>> {
    Ok(vec![bounds(at)?.of(PhaseKernel::UnembedShadow), sample(at)?.of(PhaseKernel::SampleShadow)])
}

fn bounds(at: &Context<'_>) -> Result<Planned<UnembedShadow>> {
    let tokens = tokens_of(at);
    let mut constants = constants(at);
    constants.push(Constant::F32("kRounding", rounding(at.spec.hidden)));
    Gemv {
        operation: "unembed_shadow",
        body: body!("unembed_shadow_decode.cu"),
        other_params: vec![
            SampleRow::NAME,
            ShadowRowBound::NAME,
            ShadowTileBound::NAME,
            ShadowLowerBound::NAME,
        ],
        k: at.spec.hidden,
        format: TileFormat::Int8,
        stages: 4,
        rows: Rows::Resident,
        partial_bytes: footprint::partials(tokens) + footprint::shadow_slice(tokens),
        other_bytes: footprint::shadow_row(tokens),
        constants,
    }
    .plan(at, tokens)
}

fn sample(at: &Context<'_>) -> Result<Planned<SampleShadow>> {
    /// Some dozens of row tiles are computed, so more blocks would have nothing to do.
    const BLOCKS_PER_SM: usize = 1;
    let tokens = tokens_of(at);
    // A logit is the same only if as many warps split its sum.
    let threads = gemv::unembed(at, tokens)?.plan.info.threads as usize;
    Ok(Draft {
        name: format!("sample_shadow_decode{tokens}"),
        body: body!("sample_shadow_decode.cu"),
        other_params: vec![SampleRow::NAME, ShadowTileBound::NAME, ShadowLowerBound::NAME],
        grid: [Axis::PerSm(BLOCKS_PER_SM as u32), ONE, ONE],
        cluster: 1,
        threads,
        shared_bytes: threads / 32 * footprint::partials(tokens) + footprint::sample_shadow(tokens),
        blocks_per_sm: BLOCKS_PER_SM,
        constants: {
            let mut constants = constants(at);
            constants.extend(u32s(&[("kMaxTokens", tokens)]));
            constants
        },
        family: Family::Portable,
        tunables: vec![],
    }
    .plan(at.arch))
}
