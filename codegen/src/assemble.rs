//! The plan: phases, layouts, kernels and text put together as a [`Model`].

use ossmith_plan::params::Params;
use ossmith_plan::{
    DType, Kernel, LargeStep, Model, ModelSpec, RowOrder, Schedule, Shard, Target, Tools, Weight,
    WeightLayout,
};

use crate::schedule::{BATCH_TOKENS, DECODE_TOKENS, KernelPlan, large, schedule, wgmma};
use crate::{emit, fuse, graph, leak, library};

/// Compiles a model.
///
/// # Panics
/// When a schedule names a kernel that was not planned: a generator bug, found by the tests of every shipped model.
#[must_use]
pub fn assemble(spec: ModelSpec) -> Model {
    let local = Shard::WHOLE.local(&spec).expect("one rank has the whole model");
    let graph = graph::build(&spec, &local);
    let plans = schedule(&spec);
    let named = Named { plans: &plans };
    let mut schedules: Vec<Schedule> =
        DECODE_TOKENS.iter().map(|&tokens| decode_schedule(&named, tokens)).collect();
    let hopper = |max_tokens, suffixes: Suffixes| Schedule {
        target: Target::Hopper,
        ..large_schedule(&named, &suffixes, max_tokens)
    };
    let batch = Suffixes::all(large::BATCH, false);
    let by_warpgroups = Suffixes::all(wgmma::SUFFIX, true);
    if wgmma::fits(&spec) {
        schedules.push(hopper(large::BATCH_UNEMBED_ROWS, batch));
        let unembed = by_warpgroups.unembed;
        schedules
            .push(hopper(BATCH_TOKENS, Suffixes { unembed, unembed_tile_order: true, ..batch }));
        schedules.extend(wgmma::PROMPTS.iter().map(|prompts| {
            let [qkv, attn_out] = prompts.suffixes();
            hopper(prompts.max_tokens, Suffixes { qkv, attn_out, ..by_warpgroups })
        }));
    } else {
        schedules.push(hopper(BATCH_TOKENS, batch));
    }
    schedules.push(large_schedule(&named, &Suffixes::all(large::PREFILL, false), usize::MAX));
    Model {
        spec,
        graph,
        phases: leak(fuse::fuse(&graph)),
        layouts: leak(
            graph.shapes[0]
                .weights
                .iter()
                .map(|info| (info.weight, layout(&spec, info.weight, info.dtype)))
                .collect(),
        ),
        schedules: leak(schedules),
        tools: Tools {
            fill_bf16: named.kernel("fill_bf16"),
            fill_mxfp4: named.kernel("fill_mxfp4"),
            flat_read: named.kernel("flat_read"),
        },
        units: leak(plans.iter().map(emit::unit).collect()),
        headers: leak(library::headers()),
    }
}

/// How a weight lies in device memory: what tensor cores multiply is tiled, the rest is as stored.
fn layout(spec: &ModelSpec, weight: Weight, dtype: DType) -> WeightLayout {
    match (weight, dtype) {
        (Weight::Qkv, _) => {
            WeightLayout::Bf16Tiles(RowOrder::RopePairs { head_dim: spec.head_dim })
        }
        (Weight::AttnOut | Weight::Router | Weight::Unembedding, _) => {
            WeightLayout::Bf16Tiles(RowOrder::Natural)
        }
        (Weight::GateUp, _) => WeightLayout::Mxfp4Tiles(RowOrder::GateUpPairs),
        (_, DType::Mxfp4) => WeightLayout::Mxfp4Tiles(RowOrder::Natural),
        _ => WeightLayout::RowMajor,
    }
}

/// Plans by kernel name.
struct Named<'a> {
    plans: &'a [KernelPlan],
}

impl Named<'_> {
    /// The kernel of this name, which must take parameters `P`.
    fn kernel<P: Params>(&self, name: &str) -> Kernel<P> {
        let found = self.plans.iter().find(|plan| plan.info.name == name);
        let plan = found.unwrap_or_else(|| panic!("no kernel is named {name}"));
        let takes = plan.params.last().copied();
        assert_eq!(takes, Some(P::NAME), "kernel {name} takes other parameters");
        Kernel::new(plan.info)
    }
}

fn decode_schedule(named: &Named<'_>, tokens: usize) -> Schedule {
    Schedule {
        max_tokens: tokens,
        target: Target::Any,
        embed: named.kernel("embed"),
        rmsnorm: named.kernel("rmsnorm"),
        qkv_rope: named.kernel(&format!("rmsnorm_qkv_rope_decode{tokens}")),
        attention: [named.kernel("attention_sliding"), named.kernel("attention_full")],
        attn_out_residual: named.kernel(&format!("attn_out_residual_decode{tokens}")),
        moe_up_swiglu: named.kernel(&format!("moe_up_swiglu_decode{tokens}")),
        moe_down: named.kernel(&format!("moe_down_residual_decode{tokens}")),
        large: None,
        unembed: named.kernel(&format!("unembed_decode{tokens}")),
        unembed_tile_order: false,
        sample: named.kernel("sample"),
    }
}

/// What names of a large schedule's kernels end in, and which of them read rows in tile order.
#[derive(Clone, Copy)]
struct Suffixes {
    qkv: &'static str,
    attn_out: &'static str,
    unembed: &'static str,
    others: &'static str,
    tile_order: bool,
    unembed_tile_order: bool,
}

impl Suffixes {
    fn all(suffix: &'static str, tile_order: bool) -> Suffixes {
        Suffixes {
            qkv: suffix,
            attn_out: suffix,
            unembed: suffix,
            others: suffix,
            tile_order,
            unembed_tile_order: tile_order,
        }
    }
}

fn large_schedule(named: &Named<'_>, suffixes: &Suffixes, max_tokens: usize) -> Schedule {
    let Suffixes { qkv, attn_out, unembed, others, .. } = suffixes;
    Schedule {
        max_tokens,
        target: Target::Any,
        embed: named.kernel("embed"),
        rmsnorm: named.kernel("rmsnorm"),
        qkv_rope: named.kernel(&format!("qkv_rope_{qkv}")),
        attention: [named.kernel("attention_sliding"), named.kernel("attention_full")],
        attn_out_residual: named.kernel(&format!("attn_out_residual_{attn_out}")),
        moe_up_swiglu: named.kernel(&format!("moe_up_swiglu_{others}")),
        moe_down: named.kernel(&format!("moe_down_{others}")),
        large: Some(LargeStep {
            tile_order: suffixes.tile_order,
            attention_tiled: [
                named.kernel("attention_sliding_tiled"),
                named.kernel("attention_full_tiled"),
            ],
            router: named.kernel(&format!("router_{others}")),
            moe_topk: named.kernel("moe_topk"),
            moe_permute: named.kernel(&format!("moe_permute_{others}")),
            moe_unpermute_rmsnorm: named.kernel("moe_unpermute_rmsnorm"),
        }),
        unembed: named.kernel(&format!("unembed_{unembed}")),
        unembed_tile_order: suffixes.unembed_tile_order,
        sample: named.kernel("sample"),
    }
}
