//! From a model and its weights to an engine.

use std::sync::Arc;

use ossmith_plan::{Model, ModelSpec, Shard, ShardError};

use super::Engine;
use super::options::{EngineOptions, Policy};
use crate::backend::{
    self, Backend, CpuOptions, MemoryBudget, RankOptions, max_revised_tokens, snapshot_count,
};
use crate::{Checkpoint, Error, Limits, Progress, Ranks, Result};

/// Sliding-window snapshots to make room for; `None` if the model has no sliding layers.
pub(super) fn snapshots(policy: &Policy, spec: &ModelSpec, limits: &Limits) -> Option<usize> {
    snapshot_count(spec, limits).map(|count| if policy.prefix_cache { count } else { 0 })
}

/// Makes room for them.
pub(super) fn reserve_snapshots(backend: &mut dyn Backend, snapshots: Option<usize>) -> Result<()> {
    match snapshots {
        Some(count @ 1..) => backend.reserve_snapshots(count),
        _ => Ok(()),
    }
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
        let EngineOptions { limits, ranks, threads, dense, policy, .. } = options;
        ranks.check()?;
        if limits.max_sequences == 0 || limits.max_step_tokens == 0 || limits.pages == 0 {
            let problem =
                format!("{limits:?} leaves no room for a request; all must be at least 1");
            return Err(Error::invalid_option("limits", problem));
        }
        let (device, fallback) = options.device.resolve();
        if let Some(reason) = fallback {
            tracing::info!(%reason, "running on the CPU");
        }
        let options = EngineOptions { device, ..options };
        let mut model = with_head(model, &options);
        let mut budget = memory_budget(model, &options)?;
        if budget.shadow_bytes > 0 && budget.check().is_err() {
            tracing::info!("no shadow of the unembedding: there is no memory for it");
            model = Box::leak(Box::new(model.without_shadow_head()));
            budget = memory_budget(model, &options)?;
        }
        tracing::info!(%budget, "memory");
        budget.check()?;
        log_ranks(model, ranks)?;
        let rank_options = RankOptions { ranks, models: options.rank_models };
        let cpu = CpuOptions { threads, dense };
        let (backend, pipeline_depth) =
            backend::open(device, rank_options, model, checkpoint, limits, cpu, progress)?;
        tracing::info!(backend = %backend.describe(), ?limits, "engine ready");
        if policy.draft_tokens > 0 {
            let most = policy.draft_tokens.min(max_revised_tokens(&limits) - 1);
            let rows = backend.max_sampled_rows();
            tracing::info!(
                most,
                rows,
                "drafts of up to `most` tokens; a step samples from up to `rows` rows"
            );
        }
        Engine::with_backend(&model.spec, backend, pipeline_depth, policy)
    }
}

/// Logs what each rank reads of the checkpoint.
///
/// # Errors
/// [`Error::InvalidOption`] with the dimension that the ranks cannot share.
fn log_ranks(model: &'static Model, ranks: Ranks) -> Result<()> {
    let refused =
        |why: ShardError| Error::invalid_option("ranks", format!("{}: {why}", model.spec.name));
    let whole = model.bytes_of_rank(Shard::WHOLE).map_err(refused)?;
    for shard in Shard::all(ranks.count()).filter(|shard| shard.of > 1) {
        let bytes = model.bytes_of_rank(shard).map_err(refused)?;
        let Shard { rank, of } = shard;
        tracing::info!(
            "rank {rank} of {of} reads {:.2} GB of the {:.2} GB of weights",
            bytes as f64 / 1e9,
            whole as f64 / 1e9
        );
    }
    Ok(())
}

/// The model with the head that the options ask for.
fn with_head(model: &'static Model, options: &EngineOptions) -> &'static Model {
    if options.shadow_head || !model.has_shadow_head() {
        return model;
    }
    Box::leak(Box::new(model.without_shadow_head()))
}

/// The memory that a model would take with these options, before anything is loaded.
///
/// # Errors
/// [`Error::DeviceUnavailable`] if the device cannot run the model at all.
pub fn memory_budget(model: &'static Model, options: &EngineOptions) -> Result<MemoryBudget> {
    let (device, _) = options.device.resolve();
    let model = with_head(model, options);
    let snapshots = snapshots(&options.policy, &model.spec, &options.limits).unwrap_or(0);
    let rank_options = RankOptions { ranks: options.ranks, models: options.rank_models };
    backend::budget_on(device, rank_options, model, &options.limits, snapshots, options.dense)
}
