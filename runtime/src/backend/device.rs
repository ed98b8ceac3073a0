//! Which backend runs a model: the choice among devices, made once, and the way to each.

use std::sync::Arc;

use ossmith_plan::Model;

use super::cpu::{self, CpuBackend, Executor, Isa};
use super::{Backend, DenseWeights, Limits, MemoryBudget, Progress};
use crate::{Checkpoint, Error, Result};

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

/// The most devices that can share a model.
pub const MAX_RANKS: usize = ossmith_plan::facts::MAX_RANKS;

/// How many ranks share a model, and which CUDA devices they are on: tensor parallelism. On the CPU a rank is a thread
/// with a part of the weights and of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranks {
    count: usize,
    devices: Option<[usize; MAX_RANKS]>,
}

impl Ranks {
    /// One device has the whole model.
    pub const ONE: Ranks = Ranks { count: 1, devices: None };

    /// So many ranks, on consecutive CUDA devices from the chosen one.
    #[must_use]
    pub const fn new(count: usize) -> Ranks {
        Ranks { count, devices: None }
    }

    /// A rank on each of these CUDA devices. Those beyond [`MAX_RANKS`] only count.
    #[must_use]
    pub fn on_devices(ordinals: &[usize]) -> Ranks {
        let mut devices = [0; MAX_RANKS];
        devices.iter_mut().zip(ordinals).for_each(|(device, &ordinal)| *device = ordinal);
        Ranks { count: ordinals.len(), devices: Some(devices) }
    }

    /// How many.
    #[must_use]
    pub const fn count(self) -> usize {
        self.count
    }

    /// The CUDA device of each rank, if the first is on this one or is named.
    #[must_use]
    pub fn ordinals(self, first: usize) -> Vec<usize> {
        let listed = |rank: usize| self.devices.map_or(first + rank, |devices| devices[rank]);
        (0..self.count.min(MAX_RANKS)).map(listed).collect()
    }

    /// Refuses a number that no model can be divided by, and a device that is named twice.
    pub(crate) fn check(self) -> Result<()> {
        if !(1..=MAX_RANKS).contains(&self.count) {
            let problem =
                format!("{} ranks cannot share a model: 1 to {MAX_RANKS} can", self.count);
            return Err(Error::invalid_option("ranks", problem));
        }
        let ordinals = self.ordinals(0);
        let mut seen = ordinals.iter().enumerate();
        match seen.find(|&(rank, ordinal)| ordinals[..rank].contains(ordinal)) {
            Some((_, twice)) => {
                let problem = format!("CUDA device {twice} is named twice; a device has one rank");
                Err(Error::invalid_option("ranks", problem))
            }
            None => Ok(()),
        }
    }
}

/// What each of several ranks computes of a model, in the order of the ranks, as `ossmith_models::ranks` compiles it. Ranks on
/// CUDA devices need it; those on the CPU interpret the model's graph.
#[derive(Clone, Copy, Debug)]
pub struct RankModels(pub &'static [&'static Model]);

impl PartialEq for RankModels {
    fn eq(&self, other: &RankModels) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for RankModels {}

/// What the CPU backend alone is given.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CpuOptions {
    /// Threads; all of the machine if `None`.
    pub(crate) threads: Option<usize>,
    /// The form of dense weights, which every other backend refuses if it is not bf16.
    pub(crate) dense: DenseWeights,
}

/// How many ranks there are, on which devices, and what each computes, if that is compiled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RankOptions {
    pub(crate) ranks: Ranks,
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "the CPU interprets the graph"))]
    pub(crate) models: Option<RankModels>,
}

impl RankOptions {
    /// What each rank computes.
    #[cfg(feature = "cuda")]
    fn compiled(&self) -> Result<&'static [&'static Model]> {
        let missing = || {
            let problem = "ranks on CUDA devices need kernels of their own: give \
                           `EngineOptions::with_rank_models` what `ossmith_models::ranks` compiles";
            Error::invalid_option("rank_models", problem.to_owned())
        };
        self.models.map(|models| models.0).ok_or_else(missing)
    }
}

/// Opens the backend of a resolved device, and returns it with the number of steps to keep in flight beyond the one that
/// is waited for.
pub(crate) fn open(
    device: Device,
    rank_options: RankOptions,
    model: &'static Model,
    checkpoint: Arc<Checkpoint>,
    limits: Limits,
    CpuOptions { threads, dense }: CpuOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Box<dyn Backend>, usize)> {
    let ranks = rank_options.ranks;
    let divided = matches!(device, Device::Cuda(_)) || ranks.count > 1;
    if dense != DenseWeights::Bf16 && divided {
        let problem = "dense weights in 8 bits run on the CPU and on one rank only, since the GPU's kernels read bf16: leave \
                       the option out (--dense), or run on the CPU (--backend cpu) without --tensor-parallel-size";
        return Err(Error::invalid_option("dense", problem.to_owned()));
    }
    match device {
        Device::Cuda(ordinal) if ranks.count > 1 => {
            Ok((cuda_ranks(&rank_options, &checkpoint, limits, ordinal, progress)?, 1))
        }
        Device::Cuda(ordinal) => Ok((cuda(model, checkpoint, limits, ordinal, progress)?, 1)),
        // The CPU works inside `submit`: another step in flight would only delay the first one's tokens.
        Device::Cpu | Device::Auto => {
            let read = |weight| dense == DenseWeights::Bf16 || !cpu::is_dense(weight);
            checkpoint.convert_all(&read, progress)?;
            let isa = Isa::detect()?;
            let backend = if ranks.count > 1 {
                CpuBackend::with_ranks(model, &checkpoint, limits, isa, ranks.count, threads)?
            } else {
                let executor = Executor::with_dense(model, checkpoint, isa, threads, dense)?;
                CpuBackend::with_executor(executor, limits)?
            };
            Ok((Box::new(backend), 0))
        }
    }
}

/// What a model takes on a resolved device, with room for `snapshots` sliding-window snapshots. The ranks of a CPU share
/// its memory, and this is what they take together; of those on CUDA devices it is what the one takes that has the least
/// left.
pub(crate) fn budget_on(
    device: Device,
    rank_options: RankOptions,
    model: &'static Model,
    limits: &Limits,
    snapshots: usize,
    dense: DenseWeights,
) -> Result<MemoryBudget> {
    match device {
        Device::Cuda(ordinal) if rank_options.ranks.count > 1 => {
            cuda_rank_budget(&rank_options, limits, snapshots, ordinal)
        }
        Device::Cuda(ordinal) => cuda_budget(model, limits, snapshots, ordinal),
        Device::Cpu | Device::Auto => {
            let dense_q8_bytes = match dense {
                DenseWeights::Bf16 => 0,
                DenseWeights::Q8 => cpu::dense_q8_bytes(model),
            };
            Ok(MemoryBudget { dense_q8_bytes, ..cpu::memory_budget(model, limits, snapshots) })
        }
    }
}

/// Why CUDA cannot be used here, in one sentence; `None` if it can.
#[cfg(feature = "cuda")]
fn cuda_problem() -> Option<String> {
    super::cuda::probe(0).err().map(|error| error.to_string())
}

/// How many CUDA devices there are, where that is known.
#[cfg(feature = "cuda")]
pub(crate) fn cuda_devices() -> Option<usize> {
    super::cuda::device_count()
}

/// Refuses experts that the kernels do not read.
#[cfg(feature = "cuda")]
fn check_experts(checkpoint: &Checkpoint) -> Result<()> {
    if checkpoint.has_bf16_experts() {
        let problem =
            "experts in bf16 have no CUDA kernels: let them be quantised to MXFP4, or use the CPU";
        return Err(Error::InvalidOption { option: "experts", problem: problem.to_owned() });
    }
    Ok(())
}

#[cfg(feature = "cuda")]
fn cuda_ranks(
    options: &RankOptions,
    checkpoint: &Arc<Checkpoint>,
    limits: Limits,
    first: usize,
    progress: &mut dyn FnMut(Progress),
) -> Result<Box<dyn Backend>> {
    check_experts(checkpoint)?;
    let (models, ordinals) = (options.compiled()?, options.ranks.ordinals(first));
    let backend =
        super::cuda::RankedCudaBackend::new(models, checkpoint, limits, &ordinals, progress)?;
    Ok(Box::new(backend))
}

#[cfg(feature = "cuda")]
fn cuda_rank_budget(
    options: &RankOptions,
    limits: &Limits,
    snapshots: usize,
    first: usize,
) -> Result<MemoryBudget> {
    let ordinals = options.ranks.ordinals(first);
    super::cuda::check_peers(&ordinals)?;
    let budgets = options
        .compiled()?
        .iter()
        .zip(ordinals)
        .map(|(model, ordinal)| super::cuda::memory_budget(model, limits, snapshots, ordinal));
    let budgets = budgets.collect::<Result<Vec<MemoryBudget>>>()?;
    let left = |budget: &MemoryBudget| {
        budget
            .available_bytes
            .map_or(i128::MAX, |available| i128::from(available) - i128::from(budget.total_bytes()))
    };
    let tightest = budgets.into_iter().min_by_key(left);
    tightest.ok_or_else(|| Error::Internal("no rank has a budget".into()))
}

#[cfg(feature = "cuda")]
fn cuda(
    model: &'static Model,
    checkpoint: Arc<Checkpoint>,
    limits: Limits,
    ordinal: usize,
    progress: &mut dyn FnMut(Progress),
) -> Result<Box<dyn Backend>> {
    check_experts(&checkpoint)?;
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
pub(crate) fn cuda_devices() -> Option<usize> {
    None
}

#[cfg(not(feature = "cuda"))]
fn cuda_ranks(
    _options: &RankOptions,
    _checkpoint: &Arc<Checkpoint>,
    _limits: Limits,
    _first: usize,
    _progress: &mut dyn FnMut(Progress),
) -> Result<Box<dyn Backend>> {
    Err(Error::unavailable(NO_CUDA))
}

#[cfg(not(feature = "cuda"))]
fn cuda_rank_budget(
    _options: &RankOptions,
    _limits: &Limits,
    _snapshots: usize,
    _first: usize,
) -> Result<MemoryBudget> {
    Err(Error::unavailable(NO_CUDA))
}

#[cfg(not(feature = "cuda"))]
fn cuda_budget(
    _model: &'static Model,
    _limits: &Limits,
    _snapshots: usize,
    _ordinal: usize,
) -> Result<MemoryBudget> {
    Err(Error::unavailable(NO_CUDA))
}

#[cfg(not(feature = "cuda"))]
fn cuda(
    _model: &'static Model,
    _checkpoint: Arc<Checkpoint>,
    _limits: Limits,
    _ordinal: usize,
    _progress: &mut dyn FnMut(Progress),
) -> Result<Box<dyn Backend>> {
    Err(Error::unavailable(NO_CUDA))
}
