//! From a model and its weights to an engine.

use std::sync::Arc;

use ossmith_plan::{Model, ModelSpec};

use super::Engine;
use super::options::{EngineOptions, Policy};
use crate::backend::{self, MemoryBudget, snapshot_count};
use crate::{Checkpoint, Error, Limits, Progress, Result};

/// Sliding-window snapshots to make room for; `None` if the model has no sliding layers.
pub(super) fn snapshots(policy: &Policy, spec: &ModelSpec, limits: &Limits) -> Option<usize> {
    snapshot_count(spec, limits).map(|count| if policy.prefix_cache { count } else { 0 })
}

impl Engine {
    /// Loads weights onto a device and gets it ready to run; `progress` is called as weights load and kernels compile.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for limits of 0, [`Error::DeviceUnavailable`] or [`Error::OutOfMemory`] if the device
    /// cannot run the model within the limits, and what the checkpoint reports.
    pub fn load(
        model: &'static Model,
        checkpoint: Arc<Checkpoint>,
        options: EngineOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Engine> {
        let EngineOptions { limits, threads, policy, .. } = options;
        if limits.max_sequences == 0 || limits.max_step_tokens == 0 || limits.pages == 0 {
            let problem =
                format!("{limits:?} leaves no room for a request; all must be at least 1");
            return Err(Error::invalid_option("limits", problem));
        }
        let (device, fallback) = options.device.resolve();
        if let Some(reason) = fallback {
            tracing::info!(%reason, "running on the CPU");
        }
        let budget = memory_budget(model, &EngineOptions { device, ..options })?;
        tracing::info!(%budget, "memory");
        budget.check()?;
        let (backend, pipeline_depth) =
            backend::open(device, model, checkpoint, limits, threads, progress)?;
        tracing::info!(backend = %backend.describe(), ?limits, "engine ready");
        if policy.draft_tokens > 0 {
            let (most, rows) = (policy.draft_tokens, backend.max_sampled_rows());
            tracing::info!(
                most,
                rows,
                "drafts of up to `most` tokens; a step samples from up to `rows` rows"
            );
        }
        Engine::with_backend(&model.spec, backend, pipeline_depth, policy)
    }
}

/// The memory that a model would take with these options, before anything is loaded.
///
/// # Errors
/// [`Error::DeviceUnavailable`] if the device cannot run the model at all.
pub fn memory_budget(model: &'static Model, options: &EngineOptions) -> Result<MemoryBudget> {
    let (device, _) = options.device.resolve();
    let snapshots = snapshots(&options.policy, &model.spec, &options.limits).unwrap_or(0);
    backend::budget_on(device, model, &options.limits, snapshots)
}
