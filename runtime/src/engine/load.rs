//! From a model and its weights to an engine: which backend, made for which limits.

use std::sync::Arc;

use ossmith_plan::{Model, ModelSpec};

use super::Engine;
use crate::backend::MemoryPlan;
use crate::backend::cpu::{self, CpuBackend};
use crate::backend::memory::PAGES_PER_TAIL;
use crate::{Backend, Checkpoint, Device, Error, Limits, Progress, Result};

/// How an engine is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Where to run.
    pub device: Device,
    /// What to make room for.
    pub limits: Limits,
    /// Threads of the CPU backend; `None` uses all the machine's.
    pub threads: Option<usize>,
    /// How requests share it.
    pub policy: Policy,
}

/// How requests share an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Samples that may wait at once before [`crate::Error::Busy`].
    pub max_waiting: usize,
    /// Events of one request that may wait for its reader before the request is held.
    pub event_capacity: usize,
    /// Keep full pages of prompts and answers for requests that begin alike.
    pub prefix_cache: bool,
    /// Tokens that are guessed ahead from the request's own text and verified in one step; 0 turns it off.
    pub draft_tokens: usize,
}

impl Policy {
    /// Tails of cached prefixes to make room for; `None` if the model's sliding layers need none.
    #[must_use]
    pub fn tails(&self, spec: &ModelSpec, limits: &Limits) -> Option<usize> {
        let count = limits.pages.div_ceil(PAGES_PER_TAIL) + limits.max_sequences;
        spec.has_sliding_layers().then_some(if self.prefix_cache { count } else { 0 })
    }
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { max_waiting: 4096, event_capacity: 256, prefix_cache: true, draft_tokens: 0 }
    }
}

impl Default for EngineOptions {
    /// Eight sequences of 4096 tokens on the best device.
    fn default() -> EngineOptions {
        EngineOptions {
            device: Device::Auto,
            limits: Limits { max_sequences: 8, max_step_tokens: 512, pages: 512 },
            threads: None,
            policy: Policy::default(),
        }
    }
}

/// Makes [`Device::Auto`] definite; if that ends on the CPU, the text says why no GPU is used.
#[must_use]
pub fn resolve(device: Device) -> (Device, Option<String>) {
    match device {
        Device::Auto => match cuda_problem() {
            None => (Device::Cuda(0), None),
            Some(why) => (Device::Cpu, Some(why)),
        },
        chosen => (chosen, None),
    }
}

impl Engine {
    /// Loads weights onto a device and gets it ready to run; `progress` hears how far it is.
    ///
    /// # Errors
    /// [`Error::Request`] for limits of 0, [`Error::Device`] if the device cannot run the model within them, what
    /// the checkpoint reports.
    pub fn load(
        model: &'static Model,
        checkpoint: Arc<Checkpoint>,
        options: EngineOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Engine> {
        let EngineOptions { limits, threads, policy, .. } = options;
        if limits.max_sequences == 0 || limits.max_step_tokens == 0 || limits.pages == 0 {
            let why = format!("{limits:?} leaves no room for a request; all must be at least 1");
            return Err(Error::Request(why));
        }
        let (device, fallback) = resolve(options.device);
        if let Some(why) = fallback {
            tracing::info!(%why, "running on the CPU");
        }
        let plan = plan_memory(model, &EngineOptions { device, ..options })?;
        tracing::info!(%plan, "memory");
        plan.check()?;
        let (backend, ahead): (Box<dyn Backend>, usize) = match device {
            Device::Cuda(ordinal) => (cuda(model, checkpoint, limits, ordinal, progress)?, 1),
            Device::Cpu | Device::Auto => {
                (Box::new(CpuBackend::new(model, checkpoint, limits, threads)?), 0)
            }
        };
        tracing::info!(backend = %backend.describe(), ?limits, "engine ready");
        Engine::new(&model.spec, backend, ahead, policy)
    }
}

/// What a model would take with these options, before anything is loaded.
///
/// # Errors
/// [`Error::Device`] if the device cannot run the model at all.
pub fn plan_memory(model: &'static Model, options: &EngineOptions) -> Result<MemoryPlan> {
    let tails = options.policy.tails(&model.spec, &options.limits).unwrap_or(0);
    match resolve(options.device).0 {
        Device::Cuda(ordinal) => cuda_memory(model, &options.limits, tails, ordinal),
        Device::Cpu | Device::Auto => Ok(cpu::plan_memory(model, &options.limits, tails)),
    }
}

/// Why CUDA cannot be used here, in one sentence; `None` if it can.
#[cfg(feature = "cuda")]
fn cuda_problem() -> Option<String> {
    crate::backend::cuda::probe(0).err().map(|error| error.to_string())
}

#[cfg(feature = "cuda")]
fn cuda(
    model: &'static Model,
    checkpoint: Arc<Checkpoint>,
    limits: Limits,
    ordinal: usize,
    progress: &mut dyn FnMut(Progress),
) -> Result<Box<dyn Backend>> {
    let backend =
        crate::backend::cuda::CudaBackend::new(model, checkpoint, limits, ordinal, progress)?;
    Ok(Box::new(backend))
}

#[cfg(feature = "cuda")]
fn cuda_memory(
    model: &'static Model,
    limits: &Limits,
    tails: usize,
    ordinal: usize,
) -> Result<MemoryPlan> {
    crate::backend::cuda::plan_memory(model, limits, tails, ordinal)
}

#[cfg(not(feature = "cuda"))]
fn cuda_memory(
    _model: &'static Model,
    _limits: &Limits,
    _tails: usize,
    _ordinal: usize,
) -> Result<MemoryPlan> {
    Err(Error::Device("this build has no CUDA backend; build with feature cuda".to_owned()))
}

#[cfg(not(feature = "cuda"))]
fn cuda_problem() -> Option<String> {
    Some("this build has no CUDA backend".to_owned())
}

#[cfg(not(feature = "cuda"))]
fn cuda(
    _model: &'static Model,
    _checkpoint: Arc<Checkpoint>,
    _limits: Limits,
    _ordinal: usize,
    _progress: &mut dyn FnMut(Progress),
) -> Result<Box<dyn Backend>> {
    Err(Error::Device("this build has no CUDA backend; build with feature cuda".to_owned()))
}
