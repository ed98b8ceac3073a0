//! Attention, twice: by token, for decode steps and single-query tokens, whose keys are split among warps and blocks; and
//! by tile, for consecutive tokens of a sequence, which share what they read. A step's tokens are divided between the two
//! when it is staged, by the length of their query segment.

use ossmith_plan::facts::MAX_KV_SPLITS;
use ossmith_plan::params::{Attention, AttentionTiled, PhaseKernel};
use ossmith_plan::{Axis, Family, Op, Regime};

use super::planned::{Constant, Draft, Planned, PlannedKernel, body, u32s};
use super::tunables::{Legal, Tuner};
use super::{Context, ONE, Pattern, Result, footprint};

/// The layer's kernels are named by how far back it sees: `attention_sliding`, with the window where there are several.
fn name(at: &Context<'_>, suffix: &str) -> String {
    let windows = at.spec.layers.iter().filter_map(|layer| layer.window);
    let several = windows.clone().min() != windows.max();
    at.name_of_rank(match at.layer.window {
        None => format!("attention_full{suffix}"),
        Some(window) if several => format!("attention_sliding{window}{suffix}"),
        Some(_) => format!("attention_sliding{suffix}"),
    })
}

fn constants(at: &Context<'_>) -> Vec<Constant> {
    let spec = at.spec;
    let mut constants = u32s(&[
        ("kHeadDim", spec.head_dim),
        ("kQHeads", spec.q_heads),
        ("kKvHeads", spec.kv_heads),
        ("kGqaRatio", spec.gqa_ratio()),
        // 0 where every key is seen.
        ("kWindow", at.layer.window.unwrap_or(0)),
    ]);
    constants.push(Constant::F32("kScoreScale", 1.0 / (spec.head_dim as f32).sqrt()));
    constants
}

/// The kernels of attention: by token alone where steps have a few tokens, else each for its share of them.
pub(super) fn schedule(fused: &Pattern, at: &Context<'_>) -> Result<Option<Vec<PlannedKernel>>> {
    let [(Op::Attention, _)] = fused else { return Ok(None) };
    let by_token = by_token(at)?.of(PhaseKernel::Attention);
    Ok(Some(match at.step.regime {
        Regime::Decode { .. } => vec![by_token],
        Regime::Batched | Regime::Prefill => {
            vec![by_tile(at)?.of(PhaseKernel::AttentionTiled), by_token]
        }
    }))
}

fn by_token(at: &Context<'_>) -> Result<Planned<Attention>> {
    let head_dim = at.spec.head_dim;
    // Three blocks per SM on Hopper, and within the shared memory of a block elsewhere. Spans of 128 dims are twice as
    // large, so half the warps; and a thread joins eight of their partials at once, or registers end.
    let (own_warps, own_splits) = if head_dim <= 64 { (4, MAX_KV_SPLITS) } else { (2, 8) };
    // A step of one token has little else on its SMs than attention's blocks, which may take more shared memory.
    let alone = at.layer.window.is_none() && at.step.regime == Regime::Decode { max_tokens: 1 };
    let name = name(at, if alone { "_decode1" } else { "" });
    let mut tuner = Tuner::new(&name, at.overrides);
    let warps = tuner.pick(
        "warps",
        own_warps,
        Legal::OneOf(&[1, 2, 4, 8]),
        "warps that share a split's spans: more finish long sequences sooner, and have more partials to join",
    )?;
    let stages = tuner.pick(
        "stages",
        2,
        Legal::range(2, 4),
        "spans of keys and values in use and on their way to a warp: more hide more latency, and take shared memory",
    )?;
    let (splits, max_splits) = match at.layer.window {
        Some(_) => (ONE, 1),
        None => {
            let most = tuner.pick(
                "max_splits",
                own_splits,
                Legal::range(1, MAX_KV_SPLITS),
                "blocks that share the keys of a head: more fill the device at small batches, and have more to join",
            )?;
            (Axis::KvSplits(most as u32), most)
        }
    };
    let mut constants = constants(at);
    constants.extend(u32s(&[("kMaxSplits", max_splits), ("kStages", stages)]));
    let tunables = tuner.chosen();
    let partials = footprint::attention_partials(warps, head_dim) + 16;
    Ok(Draft {
        name,
        body: body!("attention.cu"),
        other_params: vec![],
        grid: [Axis::Fixed(at.spec.kv_heads as u32), splits, Axis::Tokens],
        cluster: 1,
        threads: warps * 32,
        shared_bytes: partials.max(footprint::spans(warps, stages, head_dim)),
        blocks_per_sm: 3,
        constants,
        family: Family::Portable,
        tunables,
    }
    .plan(at.arch))
}

fn by_tile(at: &Context<'_>) -> Result<Planned<AttentionTiled>> {
    const WARPS: usize = 4;
    /// Tokens of a tile of 16 rows.
    const ROW_TILE_TOKENS: usize = 2;
    let head_dim = at.spec.head_dim;
    // Outputs and queries of two row tiles of 128 dims leave no registers for scores.
    let row_tiles = if head_dim <= 64 { 2 } else { 1 };
    let tile_tokens = WARPS * row_tiles * ROW_TILE_TOKENS;
    let name = name(at, "_tiled");
    let mut tuner = Tuner::new(&name, at.overrides);
    let stages = tuner.pick(
        "stages",
        3,
        Legal::range(3, 5),
        "pages in use, next, and on their way: more hide more latency, and take shared memory",
    )?;
    let mut constants = constants(at);
    constants.extend(u32s(&[
        ("kTileTokens", tile_tokens),
        ("kRowTiles", row_tiles),
        ("kStages", stages),
    ]));
    let tunables = tuner.chosen();
    Ok(Draft {
        name,
        body: body!("attention_tiled.cu"),
        other_params: vec![],
        grid: [Axis::Fixed(at.spec.kv_heads as u32), Axis::QueryTiles(tile_tokens as u32), ONE],
        cluster: 1,
        threads: WARPS * 32,
        shared_bytes: footprint::pages(stages, head_dim),
        blocks_per_sm: 2,
        constants,
        family: Family::Portable,
        tunables,
    }
    .plan(at.arch))
}
