//! The kernel compiler: `config.json` → [`spec`] → [`graph`] → [`mod@fuse`] → [`mod@schedule`] → [`emit`] → [`assemble`].
//! Each pass is a pure function over printable data; none knows files, GPUs or clocks.

#![forbid(unsafe_code)]

pub mod assemble;
pub mod emit;
pub mod fuse;
pub mod graph;
pub mod library;
pub mod literal;
pub mod schedule;
pub mod spec;
#[cfg(test)]
mod testing;

use ossmith_plan::{Model, ModelSpec};

/// Compiles a model: graph, fusion, schedules, layouts and CUDA text.
///
/// The result lives as long as the process, as a model built into a program does.
#[must_use]
pub fn compile(spec: ModelSpec) -> &'static Model {
    Box::leak(Box::new(assemble::assemble(spec)))
}

/// Gives data the lifetime of the process, as data built into a program has.
pub(crate) fn leak<T>(items: Vec<T>) -> &'static [T] {
    Vec::leak(items)
}
