//! The kernel compiler: `config.json` → [`spec`] → [`graph`] → [`mod@fuse`] → [`mod@schedule`] → [`emit`] → [`assemble`].
//! Each pass is a pure function over printable data; none knows files, GPUs or clocks.

#![forbid(unsafe_code)]

pub mod assemble;
pub mod emit;
pub mod fuse;
pub mod graph;
pub mod library;
pub mod literal;
pub mod record;
pub mod schedule;
pub mod spec;
#[cfg(test)]
mod testing;

use ossmith_plan::{Arch, Model, ModelSpec, Shard};

pub use assemble::{CompileError, tunables};
pub use record::TuningRecord;
pub use schedule::{Legal, Overrides, OverridesError, Tunable};

/// Compiles a model: graph, fusion, schedules, layouts and CUDA text, for the built-in architecture profile and for any
/// device beside it.
///
/// The result lives as long as the process, as a model built into a program does.
///
/// # Errors
/// [`CompileError`] for a phase that cannot be scheduled.
pub fn compile(spec: ModelSpec) -> Result<&'static Model, CompileError> {
    compile_tuned(spec, &[])
}

/// Compiles a model as [`compile`] does, and beside it the schedules that tuning records give for other profiles.
///
/// # Errors
/// As [`compile`].
pub fn compile_tuned(
    spec: ModelSpec,
    records: &[TuningRecord],
) -> Result<&'static Model, CompileError> {
    Ok(Box::leak(Box::new(record::assemble_tuned(spec, records)?)))
}

/// Compiles a model for an architecture, with some choices made otherwise: what a tuner does.
///
/// # Errors
/// [`CompileError`]: as [`compile`], and for overrides that are illegal or name nothing.
pub fn compile_with(
    spec: ModelSpec,
    arch: &Arch,
    overrides: &Overrides,
) -> Result<&'static Model, CompileError> {
    Ok(Box::leak(Box::new(assemble::assemble(spec, arch, overrides)?)))
}

/// Compiles what one of several ranks computes of a model, for an architecture.
///
/// # Errors
/// [`CompileError`]: as [`compile`], and if so many ranks cannot share the model.
pub fn compile_rank(
    spec: ModelSpec,
    shard: Shard,
    arch: &Arch,
) -> Result<&'static Model, CompileError> {
    let model = assemble::assemble_rank(spec, shard, arch, &Overrides::default())?;
    Ok(Box::leak(Box::new(model)))
}

/// Gives data the lifetime of the process, as data built into a program has.
pub(crate) fn leak<T>(items: Vec<T>) -> &'static [T] {
    Vec::leak(items)
}
