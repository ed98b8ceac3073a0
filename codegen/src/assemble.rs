//! The plan: phases, layouts, kernels and text put together as a [`Model`].

use ossmith_plan::params::Params;
use ossmith_plan::{
    DType, Kernel, LargeStep, Model, ModelSpec, RowOrder, Schedule, Target, Tools, Weight,
    WeightLayout,
};

use crate::schedule::{
    BATCH_TOKENS, DECODE_TOKENS, KernelPlan, PROMPTS, Prompts, schedule, wgmma_fits,
};
use crate::{emit, fuse, graph, leak, library};

/// Compiles a model.
///
/// # Panics
/// When a schedule names a kernel that was not planned: a generator bug, found by the tests of every shipped model.
#[must_use]
pub fn assemble(spec: ModelSpec) -> Model {
    let graph = graph::build(&spec);
    let plans = schedule(&spec);
    let named = Named { plans: &plans };
    let mut schedules: Vec<Schedule> =
        DECODE_TOKENS.iter().map(|&tokens| decode_schedule(&named, tokens)).collect();
    let mut batch = large_schedule(&named, &format!("batch{BATCH_TOKENS}"), BATCH_TOKENS);
    batch.target = Target::Hopper;
    schedules.push(batch);
    if wgmma_fits(&spec) {
        schedules.extend(PROMPTS.iter().map(|prompts| hopper_schedule(&named, prompts)));
    }
    schedules.push(large_schedule(&named, "prefill", usize::MAX));
    Model {
        spec,
        graph,
        phases: leak(fuse::fuse(&graph)),
        layouts: leak(
            graph
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
        units: leak(plans.iter().map(|plan| emit::unit(&spec, plan)).collect()),
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
        qkv: named.kernel(&format!("rmsnorm_qkv_rope_decode{tokens}")),
        attention: [named.kernel("attn_sliding"), named.kernel("attn_full")],
        attn_out: named.kernel(&format!("attn_out_residual_decode{tokens}")),
        expert_up: named.kernel(&format!("moe_up_swiglu_decode{tokens}")),
        expert_down: named.kernel(&format!("moe_down_residual_decode{tokens}")),
        large: None,
        unembed: named.kernel(&format!("unembed_decode{tokens}")),
        sample: named.kernel("sample"),
    }
}

fn large_schedule(named: &Named<'_>, suffix: &str, max_tokens: usize) -> Schedule {
    Schedule {
        max_tokens,
        target: Target::Any,
        embed: named.kernel("embed"),
        rmsnorm: named.kernel("rmsnorm"),
        qkv: named.kernel(&format!("qkv_rope_{suffix}")),
        attention: [named.kernel("attn_sliding"), named.kernel("attn_full")],
        attn_out: named.kernel(&format!("attn_out_residual_{suffix}")),
        expert_up: named.kernel(&format!("moe_up_swiglu_{suffix}")),
        expert_down: named.kernel(&format!("moe_down_{suffix}")),
        large: Some(LargeStep {
            tile_order: false,
            attention: [named.kernel("attn_sliding_tile"), named.kernel("attn_full_tile")],
            router: named.kernel(&format!("router_{suffix}")),
            choose: named.kernel("moe_choose"),
            group: named.kernel(&format!("moe_group_{suffix}")),
            combine: named.kernel("moe_combine_rmsnorm"),
        }),
        unembed: named.kernel(&format!("unembed_{suffix}")),
        sample: named.kernel("sample"),
    }
}

/// Prompts with products by warpgroups, which read rows in tile order.
fn hopper_schedule(named: &Named<'_>, prompts: &Prompts) -> Schedule {
    let mut schedule = large_schedule(named, prompts.suffix, prompts.max_tokens);
    schedule.target = Target::Hopper;
    if let Some(large) = &mut schedule.large {
        large.tile_order = true;
    }
    schedule
}
