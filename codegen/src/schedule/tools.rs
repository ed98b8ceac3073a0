//! Kernels that are no part of a step. They run by themselves, one after another.

use ossmith_plan::params::{HistoryEntry, Params, ShadowRowBound};
use ossmith_plan::{Arch, Axis, Family, Tools};

use super::ONE;
use super::planned::{Body, Draft, KernelPlan, Planned, body};

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

/// The tools, and what is emitted for them.
pub(crate) fn tools(arch: &Arch) -> (Tools, [KernelPlan; 5]) {
    let fill_bf16 = tool(arch, "fill_bf16", body!("fill_bf16.cu"), vec![], 256, 8);
    let fill_mxfp4 = tool(arch, "fill_mxfp4", body!("fill_mxfp4.cu"), vec![], 256, 8);
    let flat_read = tool(arch, "flat_read", body!("flat_read.cu"), vec![], 512, 2);
    let bound = vec![ShadowRowBound::NAME];
    let make_shadow = tool(arch, "make_shadow", body!("make_shadow.cu"), bound, 256, 4);
    let entry = vec![HistoryEntry::NAME];
    let write_history = tool(arch, "write_history", body!("write_history.cu"), entry, 512, 1);
    let kernels = Tools {
        fill_bf16: fill_bf16.kernel,
        fill_mxfp4: fill_mxfp4.kernel,
        flat_read: flat_read.kernel,
        make_shadow: make_shadow.kernel,
        write_history: write_history.kernel,
    };
    let plans =
        [fill_bf16.plan, fill_mxfp4.plan, flat_read.plan, make_shadow.plan, write_history.plan];
    (kernels, plans)
}
