//! Kernels that are no part of a step. They run by themselves, one after another.

use ossmith_plan::params::Params;
use ossmith_plan::{Arch, Axis, Family, Tools};

use super::ONE;
use super::planned::{Body, Draft, KernelPlan, Planned, body};

fn tool<P: Params>(
    arch: &Arch,
    name: &str,
    body: Body,
    threads: usize,
    blocks_per_sm: usize,
) -> Planned<P> {
    let mut planned: Planned<P> = Draft {
        name: name.into(),
        body,
        other_params: vec![],
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
pub(crate) fn tools(arch: &Arch) -> (Tools, [KernelPlan; 3]) {
    let fill_bf16 = tool(arch, "fill_bf16", body!("fill_bf16.cu"), 256, 8);
    let fill_mxfp4 = tool(arch, "fill_mxfp4", body!("fill_mxfp4.cu"), 256, 8);
    let flat_read = tool(arch, "flat_read", body!("flat_read.cu"), 512, 2);
    let kernels = Tools {
        fill_bf16: fill_bf16.kernel,
        fill_mxfp4: fill_mxfp4.kernel,
        flat_read: flat_read.kernel,
    };
    (kernels, [fill_bf16.plan, fill_mxfp4.plan, flat_read.plan])
}
