//! Which backend runs a model: the choice among devices, made once, and the way to each.

use std::sync::Arc;

use ossmith_plan::Model;

use super::cpu::{self, CpuBackend};
use super::{Backend, Limits, MemoryBudget, Progress};
use crate::{Checkpoint, Result};

/// Where a model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// CUDA where a device can run the model, else the CPU; the choice is logged once.
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device of this ordinal.
    Cuda(usize),
}

impl Device {
    /// The device that [`Device::Auto`] stands for, with the reason in one sentence if that is the CPU. Any other device
    /// is returned as it is.
    #[must_use]
    pub fn resolve(self) -> (Device, Option<String>) {
        match self {
            Device::Auto => match cuda_problem() {
                None => (Device::Cuda(0), None),
                Some(problem) => (Device::Cpu, Some(problem)),
            },
            chosen => (chosen, None),
        }
    }
}

/// Opens the backend of a resolved device, and returns it with the number of steps to keep in flight beyond the one that
/// is waited for.
pub(crate) fn open(
    device: Device,
    model: &'static Model,
    checkpoint: Arc<Checkpoint>,
    limits: Limits,
    threads: Option<usize>,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Box<dyn Backend>, usize)> {
    match device {
        Device::Cuda(ordinal) => Ok((cuda(model, checkpoint, limits, ordinal, progress)?, 1)),
        // The CPU works inside `submit`: another step in flight would only delay the first one's tokens.
        Device::Cpu | Device::Auto => {
            Ok((Box::new(CpuBackend::new(model, checkpoint, limits, threads)?), 0))
        }
    }
}

/// What a model takes on a resolved device, with room for `snapshots` sliding-window snapshots.
pub(crate) fn budget_on(
    device: Device,
    model: &'static Model,
    limits: &Limits,
    snapshots: usize,
) -> Result<MemoryBudget> {
    match device {
        Device::Cuda(ordinal) => cuda_budget(model, limits, snapshots, ordinal),
        Device::Cpu | Device::Auto => Ok(cpu::memory_budget(model, limits, snapshots)),
    }
}

/// Why CUDA cannot be used here, in one sentence; `None` if it can.
#[cfg(feature = "cuda")]
fn cuda_problem() -> Option<String> {
    super::cuda::probe(0).err().map(|error| error.to_string())
}

#[cfg(feature = "cuda")]
fn cuda(
    model: &'static Model,
    checkpoint: Arc<Checkpoint>,
    limits: Limits,
    ordinal: usize,
    progress: &mut dyn FnMut(Progress),
) -> Result<Box<dyn Backend>> {
    let backend = super::cuda::CudaBackend::new(model, checkpoint, limits, ordinal, progress)?;
    Ok(Box::new(backend))
}

#[cfg(feature = "cuda")]
fn cuda_budget(
    model: &'static Model,
    limits: &Limits,
    snapshots: usize,
    ordinal: usize,
) -> Result<MemoryBudget> {
    super::cuda::memory_budget(model, limits, snapshots, ordinal)
}

#[cfg(not(feature = "cuda"))]
const NO_CUDA: &str = "this build has no CUDA backend; build with the feature cuda";

#[cfg(not(feature = "cuda"))]
fn cuda_problem() -> Option<String> {
    Some(NO_CUDA.to_owned())
}

#[cfg(not(feature = "cuda"))]
fn cuda_budget(
    _model: &'static Model,
    _limits: &Limits,
    _snapshots: usize,
    _ordinal: usize,
) -> Result<MemoryBudget> {
    Err(crate::Error::unavailable(NO_CUDA))
}

#[cfg(not(feature = "cuda"))]
fn cuda(
    _model: &'static Model,
    _checkpoint: Arc<Checkpoint>,
    _limits: Limits,
    _ordinal: usize,
    _progress: &mut dyn FnMut(Progress),
) -> Result<Box<dyn Backend>> {
    Err(crate::Error::unavailable(NO_CUDA))
}
