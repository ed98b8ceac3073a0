//! Kernels that are no part of a plain step: those that add what adapters add, and tools that run by themselves, one after
//! another.

use ossmith_plan::facts::{ADAPTER_RANK_TILE, ADAPTER_TOKENS, MAX_ADAPTER_RANK};
use ossmith_plan::params::{AdapterGroup, AdapterMatrices, HistoryEntry, Params, ShadowRowBound};
use ossmith_plan::{Arch, Axis, Family, ModelSpec, Tools};

use super::planned::{Body, Constant, Draft, KernelPlan, Planned, body, u32s};
use super::{ONE, head_constants};

fn tool<P: Params>(
    arch: &Arch,
    name: &str,
    body: Body,
    other_params: Vec<&'static str>,
    threads: usize,
    blocks_per_sm: usize,
) -> Planned<P> {
    let mut planned: Planned<P> = Draft {
        name: name.into(),
        body,
        other_params,
        grid: [Axis::PerSm(blocks_per_sm as u32), ONE, ONE],
        cluster: 1,
        threads,
        shared_bytes: 0,
        blocks_per_sm,
        constants: Vec::new(),
        family: Family::Portable,
        tunables: Vec::new(),
    }
    .plan(arch);
    planned.plan.info.dependent_launch = false;
    planned.kernel.info.dependent_launch = false;
    planned
}

/// A kernel with blocks for each part of a row and each group of tokens that have an adapter: a step has at most as many
/// groups as tokens.
fn adapter<P: Params>(
    arch: &Arch,
    name: &str,
    body: Body,
    parts: usize,
    mut constants: Vec<Constant>,
) -> Planned<P> {
    constants.extend(u32s(&[
        ("kGroupTokens", ADAPTER_TOKENS),
        ("kRankTile", ADAPTER_RANK_TILE),
        ("kMaxRank", MAX_ADAPTER_RANK),
    ]));
    Draft {
        name: name.into(),
        body,
        other_params: vec![AdapterGroup::NAME, AdapterMatrices::NAME],
        grid: [Axis::Fixed(parts as u32), Axis::Tokens, ONE],
        cluster: 1,
        threads: ADAPTER_THREADS,
        shared_bytes: 0,
        blocks_per_sm: 2,
        constants,
        family: Family::Portable,
        tunables: Vec::new(),
    }
    .plan(arch)
}

/// Threads of a kernel that adds what adapters add.
const ADAPTER_THREADS: usize = 256;

/// Rows of the output projection that one block adds to.
const ADAPTER_ROWS: usize = 2 * ADAPTER_THREADS;

/// The tools, and what is emitted for them. Adapters run on whole models alone.
pub(crate) fn tools(spec: &ModelSpec, arch: &Arch) -> (Tools, [KernelPlan; 7]) {
    let mut constants = head_constants(spec);
    constants.extend(u32s(&[("kHidden", spec.hidden)]));
    constants.push(Constant::F32("kRmsEps", spec.rms_eps));
    let parts = spec.q_heads / spec.kv_heads + 2;
    let adapt_qkv = adapter(arch, "adapt_qkv", body!("adapt_qkv.cu"), parts, constants);
    let constants =
        u32s(&[("kHidden", spec.hidden), ("kQWidth", spec.q_width()), ("kRows", ADAPTER_ROWS)]);
    let parts = spec.hidden.div_ceil(ADAPTER_ROWS);
    let adapt_attn_out =
        adapter(arch, "adapt_attn_out", body!("adapt_attn_out.cu"), parts, constants);
    let fill_bf16 = tool(arch, "fill_bf16", body!("fill_bf16.cu"), vec![], 256, 8);
    let fill_mxfp4 = tool(arch, "fill_mxfp4", body!("fill_mxfp4.cu"), vec![], 256, 8);
    let flat_read = tool(arch, "flat_read", body!("flat_read.cu"), vec![], 512, 2);
    let bound = vec![ShadowRowBound::NAME];
    let make_shadow = tool(arch, "make_shadow", body!("make_shadow.cu"), bound, 256, 4);
    let entry = vec![HistoryEntry::NAME];
    let write_history = tool(arch, "write_history", body!("write_history.cu"), entry, 512, 1);
    let kernels = Tools {
        adapt_qkv: adapt_qkv.kernel,
        adapt_attn_out: adapt_attn_out.kernel,
        fill_bf16: fill_bf16.kernel,
        fill_mxfp4: fill_mxfp4.kernel,
        flat_read: flat_read.kernel,
        make_shadow: make_shadow.kernel,
        write_history: write_history.kernel,
    };
    let plans = [
        adapt_qkv.plan,
        adapt_attn_out.plan,
        fill_bf16.plan,
        fill_mxfp4.plan,
        flat_read.plan,
        make_shadow.plan,
        write_history.plan,
    ];
    (kernels, plans)
}
