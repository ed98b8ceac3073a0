//! Kernels that multiply no weights: a row or a token for each block or warp. Memory and launches bound them, so they have
//! one shape on every device.

use ossmith_plan::facts::MAX_DECODE_TOKENS;
use ossmith_plan::params::{
    AllReduceRmsNorm, Embed, EmbedRmsNorm, JoinLogits, MoePermute, MoeTopk, MoeUnpermute,
    MoeUnpermuteRmsNorm, Params, PhaseKernel, ReportedToken, RmsNorm, Sample, SampleChanges,
    SampleEdit, SampleRow,
};
use ossmith_plan::{Arch, Axis, Family, Op};

use super::planned::{Body, Constant, Draft, Planned, PlannedKernel, body, u32s};
use super::tunables::{Legal, TILE_TOKENS_TRADE, Tuner, splits_of};
use super::{Context, ONE, Pattern, Result, footprint};

/// A kernel with a block for each token.
fn per_token<P: Params>(
    at: &Context<'_>,
    name: &str,
    body: Body,
    constants: Vec<Constant>,
) -> Result<Planned<P>> {
    let mut tuner = Tuner::new(name, at.overrides);
    let threads = tuner.pick(
        "threads",
        256,
        Legal::Range { min: 64, max: 1024, step: 32 },
        "threads of a row: more read it at once, and wait longer for each other",
    )?;
    let tunables = tuner.chosen();
    Ok(Draft {
        name: name.to_owned(),
        body,
        other_params: vec![],
        grid: [Axis::Tokens, ONE, ONE],
        cluster: 1,
        threads,
        shared_bytes: 0,
        blocks_per_sm: 1,
        constants,
        family: Family::Portable,
        tunables,
    }
    .plan(at.arch))
}

/// The kernel that computes a fusion without weights to multiply.
pub(super) fn schedule(fused: &Pattern, at: &Context<'_>) -> Result<Option<Vec<PlannedKernel>>> {
    use Op::{AddTo, AllReduce, Combine, Embed, RmsNorm, TopK};
    use PhaseKernel as P;
    let kernel = match fused {
        [(Embed, _)] => embed(at)?.of(P::Embed),
        [(Embed, _), (RmsNorm, _)] => embed_rmsnorm(at)?.of(P::EmbedRmsNorm),
        [(RmsNorm, _)] => rmsnorm(at)?.of(P::RmsNorm),
        [(TopK, _)] => moe_topk(at)?.of(P::MoeTopk),
        [(Combine, _), (AllReduce, _), (AddTo, _), (RmsNorm, _)] => {
            moe_unpermute_rmsnorm(at)?.of(P::MoeUnpermuteRmsNorm)
        }
        [(Combine, _)] => moe_unpermute(at)?.of(P::MoeUnpermute),
        [(AllReduce, _), (AddTo, _), (RmsNorm, _)] => {
            allreduce_rmsnorm(at)?.of(P::AllReduceRmsNorm)
        }
        _ => return Ok(None),
    };
    Ok(Some(vec![kernel]))
}

/// A kernel whose blocks meet those of other ranks: as many as are resident at once, whatever they have to do.
fn of_ranks<P: Params>(
    at: &Context<'_>,
    name: &str,
    body: Body,
    constants: Vec<Constant>,
) -> Result<Planned<P>> {
    /// Blocks that share an SM, and those of them that are launched.
    const BLOCKS_PER_SM: usize = 4;
    const LAUNCHED: usize = 2;
    let name = at.name_of_rank(name.to_owned());
    let mut tuner = Tuner::new(&name, at.overrides);
    let threads = tuner.pick(
        "threads",
        256,
        Legal::Range { min: 64, max: 512, step: 32 },
        "threads of a block: more ask other ranks for more at once, and wait longer for each other",
    )?;
    let tunables = tuner.chosen();
    let mut planned: Planned<P> = Draft {
        name,
        body,
        other_params: vec![],
        grid: [Axis::Fixed((LAUNCHED * at.arch.sms) as u32), ONE, ONE],
        cluster: 1,
        threads,
        shared_bytes: 0,
        blocks_per_sm: BLOCKS_PER_SM,
        constants,
        family: Family::Portable,
        tunables,
    }
    .plan(at.arch);
    planned.plan.ranks = at.shard.of;
    Ok(planned)
}

fn allreduce_rmsnorm(at: &Context<'_>) -> Result<Planned<AllReduceRmsNorm>> {
    let mut constants = u32s(&[("kHidden", at.spec.hidden)]);
    constants.push(Constant::F32("kRmsEps", at.spec.rms_eps));
    of_ranks(at, "allreduce_rmsnorm", body!("allreduce_rmsnorm.cu"), constants)
}

pub(super) fn join_logits(at: &Context<'_>) -> Result<Planned<JoinLogits>> {
    let constants = u32s(&[("kVocab", at.global.vocab)]);
    of_ranks(at, "join_logits", body!("join_logits.cu"), constants)
}

fn moe_unpermute(at: &Context<'_>) -> Result<Planned<MoeUnpermute>> {
    let constants = u32s(&[("kHidden", at.spec.hidden), ("kTopK", at.layer.top_k)]);
    per_token(at, &at.name_of_rank("moe_unpermute".into()), body!("moe_unpermute.cu"), constants)
}

fn embed(at: &Context<'_>) -> Result<Planned<Embed>> {
    let constants = u32s(&[
        ("kHidden", at.spec.hidden),
        ("kLayers", at.spec.layers.len()),
        ("kExperts", at.layer.experts),
        ("kMaxDecodeTokens", MAX_DECODE_TOKENS),
    ]);
    per_token(at, "embed", body!("embed.cu"), constants)
}

fn embed_rmsnorm(at: &Context<'_>) -> Result<Planned<EmbedRmsNorm>> {
    let mut constants = u32s(&[("kHidden", at.spec.hidden)]);
    constants.push(Constant::F32("kRmsEps", at.spec.rms_eps));
    per_token(at, "embed_rmsnorm", body!("embed_rmsnorm.cu"), constants)
}

fn rmsnorm(at: &Context<'_>) -> Result<Planned<RmsNorm>> {
    let mut constants = u32s(&[("kHidden", at.spec.hidden)]);
    constants.push(Constant::F32("kRmsEps", at.spec.rms_eps));
    per_token(at, "rmsnorm", body!("rmsnorm.cu"), constants)
}

fn moe_unpermute_rmsnorm(at: &Context<'_>) -> Result<Planned<MoeUnpermuteRmsNorm>> {
    let mut constants = u32s(&[("kHidden", at.spec.hidden), ("kTopK", at.layer.top_k)]);
    constants.push(Constant::F32("kRmsEps", at.spec.rms_eps));
    per_token(at, "moe_unpermute_rmsnorm", body!("moe_unpermute_rmsnorm.cu"), constants)
}

/// Each token's experts, a warp per token.
fn moe_topk(at: &Context<'_>) -> Result<Planned<MoeTopk>> {
    const NAME: &str = "moe_topk";
    let mut tuner = Tuner::new(NAME, at.overrides);
    let warps = tuner.pick(
        "warps",
        8,
        Legal::range(1, 32),
        "tokens of one block: more make fewer blocks, fewer spread over more SMs",
    )?;
    let tunables = tuner.chosen();
    Ok(Draft {
        name: NAME.into(),
        body: body!("moe_topk.cu"),
        other_params: vec![],
        grid: [Axis::TokenTiles(warps as u32), ONE, ONE],
        cluster: 1,
        threads: warps * 32,
        shared_bytes: 0,
        blocks_per_sm: 1,
        constants: u32s(&[("kExperts", at.layer.experts), ("kTopK", at.layer.top_k)]),
        family: Family::Portable,
        tunables,
    }
    .plan(at.arch))
}

/// Permutes a step's routes into tiles of one expert. The experts' GEMMs read its tiles, so their size is chosen here.
pub(super) fn moe_permute(at: &Context<'_>) -> Result<(Planned<MoePermute>, usize)> {
    let (experts, gemm) = (at.layer.experts, at.step.experts);
    let name = format!("moe_permute_{}", gemm.suffix());
    let mut tuner = Tuner::new(&name, at.overrides);
    let warps = tuner.pick(
        "warps",
        32,
        Legal::OneOf(&[1, 2, 4, 8, 16, 32]),
        "warps of the one block: more count routes at once, and take shared memory",
    )?;
    let tile_tokens = tuner.pick(
        "tile_tokens",
        gemm.tile_tokens(),
        gemm.legal_tile_tokens(),
        TILE_TOKENS_TRADE,
    )?;
    let tunables = tuner.chosen();
    let planned = Draft {
        name,
        body: body!("moe_permute.cu"),
        other_params: vec![],
        grid: [ONE, ONE, ONE],
        cluster: 1,
        threads: warps * 32,
        shared_bytes: footprint::permute(experts, warps),
        blocks_per_sm: 1,
        constants: u32s(&[
            ("kExperts", experts),
            ("kTopK", at.layer.top_k),
            ("kTileTokens", tile_tokens),
        ]),
        family: at.step.family,
        tunables,
    }
    .plan(at.arch);
    Ok((planned, tile_tokens))
}

pub(super) fn sample(at: &Context<'_>) -> Result<Planned<Sample>> {
    const NAME: &str = "sample";
    let mut tuner = Tuner::new(NAME, at.overrides);
    let threads = tuner.pick(
        "threads",
        512,
        Legal::Range { min: 64, max: 512, step: 32 },
        "threads of a block: more pass over a slice at once, and wait longer for each other",
    )?;
    let splits = tuner.pick(
        "splits",
        at.arch.max_cluster.min(8),
        splits_of(at.arch.max_cluster),
        "blocks of a cluster that share a row of logits: more pass over it at once, and fewer rows run at once",
    )?;
    let tunables = tuner.chosen();
    let state_bytes = footprint::sample_state(threads / 32, splits);
    // Ranks join their logits first, so each samples from whole rows.
    let slice_bytes = footprint::sample_slice(at.global, splits);
    // Every device has the kernel, so a slice is in shared memory only if the smallest one has room for it.
    let fits = state_bytes + slice_bytes <= Arch::PORTABLE.shared_bytes_per_block;
    let row_bytes = if fits { slice_bytes } else { 0 };
    Ok(Draft {
        name: NAME.into(),
        body: body!("sample.cu"),
        other_params: vec![
            SampleRow::NAME,
            SampleChanges::NAME,
            SampleEdit::NAME,
            ReportedToken::NAME,
        ],
        grid: [ONE, Axis::Tokens, Axis::Fixed(splits as u32)],
        cluster: splits,
        threads,
        shared_bytes: state_bytes + row_bytes,
        blocks_per_sm: 2,
        constants: u32s(&[
            ("kVocab", at.global.vocab),
            ("kSplits", splits),
            ("kRowBytes", row_bytes),
            ("kScratchStride", at.global.sliced_vocab(splits)),
        ]),
        family: Family::Portable,
        tunables,
    }
    .plan(at.arch))
}
