//! The CPU backend: the embedded default, and the oracle of every other backend.
//!
//! It interprets the model's op graph node by node ([`Executor`]) over a buffer for each value ([`Values`]) in f32,
//! with weights packed in memory as the checkpoint stores them. A token's results depend on its sequence alone:
//! however it is batched or chunked, its bits are the same (for one instruction set). The instruction set is chosen
//! once, in [`Isa::detect`]; `scalar` is the readable form of every op, `simd` the fast forms of the expensive ones.

mod adapters;
mod attention;
mod batch;
mod cache;
mod distinct;
mod executor;
mod floats;
mod gemm;
mod isa;
mod q8;
mod rank_sums;
mod ranks;
mod runner;
mod scalar;
mod simd;
#[cfg(test)]
mod tests;
mod values;
mod view;
mod weights;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ossmith_plan::{Model, Shard};
use rayon::prelude::*;

pub use batch::{Batch, BatchSequence, Row};
pub use cache::{Cache, memory_budget};
pub use executor::Executor;
pub(super) use executor::RankSums;
pub use isa::{Isa, OVERRIDE};
pub(super) use q8::{bytes as dense_q8_bytes, is_dense};
pub(super) use rank_sums::SharedSums;
#[cfg(feature = "cuda")]
pub(super) use ranks::PATIENCE;
use ranks::RankThreads;
use runner::Runner;
#[cfg(feature = "cuda")]
pub(super) use scalar::rms_norm;
pub use values::Values;

use crate::backend::{
    Backend, DenseWeights, HeldStep, Input, LayerActivations, Limits, LogitRows, RowSampling,
    Sequence, SleepLevel, SlotState, Step, StepOutput, out_of_order, validate,
};
use crate::sampling::{self, TokenHistory, TokenLogprobs};
use crate::{Adapter, AdapterSupport, Checkpoint, Error, Result};

/// Rows that go through the unembedding together. This bounds the memory of logits.
const HEAD_ROWS: usize = 32;

/// Runs a model on the CPU, whole or divided among ranks. Steps are done when `submit` returns.
#[derive(Debug)]
pub struct CpuBackend {
    /// The executor of the only rank, or of the first: its threads sample.
    executor: Arc<Executor>,
    layers: Layers,
    limits: Limits,
    /// How many ranks share the model.
    ranks: usize,
    sampled: Vec<Option<u32>>,
    slots: Vec<SlotState>,
    /// The adapter of each sequence slot.
    adapters: Vec<Option<Arc<Adapter>>>,
    /// The step whose layers have run, if it is still to be sampled.
    held: Option<Held>,
    done: VecDeque<StepOutput>,
}

/// A step whose layers have run, and whose rows are still to be sampled.
#[derive(Debug)]
struct Held {
    step: HeldStep,
    batch: Arc<Batch>,
    activations: Vec<LayerActivations>,
}

/// Who runs the layers and the head.
#[derive(Debug)]
enum Layers {
    Whole(Box<Runner>),
    Ranks(RankThreads),
}

impl Layers {
    fn forward(&mut self, batch: &Arc<Batch>, capture: bool) -> Result<Vec<LayerActivations>> {
        match self {
            Layers::Whole(runner) => runner.forward(batch, capture),
            Layers::Ranks(ranks) => ranks.forward(batch, capture),
        }
    }

    fn head(&mut self, batch: &Arc<Batch>, rows: &[usize]) -> Result<&[f32]> {
        match self {
            Layers::Whole(runner) => runner.head(batch, rows),
            Layers::Ranks(ranks) => ranks.head(batch, rows),
        }
    }

    fn reserve_snapshots(&mut self, count: usize) -> Result<()> {
        match self {
            Layers::Whole(runner) => runner.cache.reserve_snapshots(count),
            Layers::Ranks(ranks) => ranks.reserve_snapshots(count),
        }
    }

    fn copy_snapshot(
        &mut self,
        snapshot: usize,
        seq_slot: usize,
        end: usize,
        save: bool,
    ) -> Result<()> {
        match self {
            Layers::Whole(runner) => runner.cache.copy_snapshot(snapshot, seq_slot, end, save),
            Layers::Ranks(ranks) => ranks.copy_snapshot(snapshot, seq_slot, end, save),
        }
    }
}

/// The executors of all ranks of a model, which share the threads evenly.
fn rank_executors(
    model: &'static Model,
    weights: &Arc<Checkpoint>,
    isa: Isa,
    ranks: usize,
    threads: Option<usize>,
    sums: &Arc<dyn RankSums>,
) -> Result<Vec<Arc<Executor>>> {
    let all = || std::thread::available_parallelism().map_or(1, usize::from);
    let each = (threads.unwrap_or_else(all) / ranks.max(1)).max(1);
    let executor = |shard: Shard| {
        let (weights, sums) = (weights.clone(), Some(sums.clone()));
        let dense = DenseWeights::Bf16;
        Executor::of_rank(model, shard, weights, isa, Some(each), sums, dense).map(Arc::new)
    };
    Shard::all(ranks).map(executor).collect()
}

impl CpuBackend {
    /// A backend over `weights`, with `threads` threads (all threads of the machine if `None`).
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for an unknown instruction set or a limit of 0, [`Error::OutOfMemory`] if there is no
    /// memory for the cache, [`Error::Device`] if threads cannot be started, and what the checkpoint reports.
    pub fn new(
        model: &'static Model,
        weights: Arc<Checkpoint>,
        limits: Limits,
        threads: Option<usize>,
    ) -> Result<CpuBackend> {
        let executor = Executor::new(model, weights, Isa::detect()?, threads)?;
        CpuBackend::with_executor(executor, limits)
    }

    /// A backend over an executor of a whole model that the caller made.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a limit of 0; [`Error::OutOfMemory`] if there is no memory for the cache.
    pub fn with_executor(executor: Executor, limits: Limits) -> Result<CpuBackend> {
        validate::limits(&limits)?;
        let executor = Arc::new(executor);
        let layers = Layers::Whole(Box::new(Runner::new(executor.clone(), &limits)?));
        Ok(CpuBackend::build(executor, layers, limits, 1))
    }

    /// A backend that divides a model among ranks, each a thread with a part of the weights and of the cache. They share
    /// the `threads` threads evenly; each has one at least.
    ///
    /// # Errors
    /// As [`CpuBackend::new`], and [`Error::InvalidOption`] if the model cannot be divided so.
    pub fn with_ranks(
        model: &'static Model,
        weights: &Arc<Checkpoint>,
        limits: Limits,
        isa: Isa,
        ranks: usize,
        threads: Option<usize>,
    ) -> Result<CpuBackend> {
        validate::limits(&limits)?;
        let sums = Arc::new(SharedSums::new(ranks, ranks::PATIENCE));
        let adding: Arc<dyn RankSums> = sums.clone();
        let executors = rank_executors(model, weights, isa, ranks, threads, &adding)?;
        CpuBackend::of_ranks(&executors, limits, sums, ranks::PATIENCE)
    }

    /// A backend over the executors of all ranks, which add by `sums` or by what stands before it.
    fn of_ranks(
        executors: &[Arc<Executor>],
        limits: Limits,
        sums: Arc<SharedSums>,
        limit: Duration,
    ) -> Result<CpuBackend> {
        let no_ranks = || Error::invalid_option("ranks", "ranks is 0; it must be at least 1");
        let first = executors.first().ok_or_else(no_ranks)?.clone();
        let threads = RankThreads::start(executors, &limits, sums, limit)?;
        Ok(CpuBackend::build(first, Layers::Ranks(threads), limits, executors.len()))
    }

    fn build(executor: Arc<Executor>, layers: Layers, limits: Limits, ranks: usize) -> CpuBackend {
        CpuBackend {
            executor,
            layers,
            limits,
            ranks,
            sampled: vec![None; limits.max_sequences],
            slots: vec![SlotState::default(); limits.max_sequences],
            adapters: vec![None; limits.max_sequences],
            held: None,
            done: VecDeque::new(),
        }
    }

    fn step(&mut self, step: &Step<'_>) -> Result<StepOutput> {
        let batch = self.batch(step)?;
        validate::masks(step.sequences, |slot, mask| self.has_mask(slot, mask))?;
        let activations = self.layers.forward(&batch, step.capture_activations)?;
        self.finish(step.sequences, &batch, activations)
    }

    /// A step's rows with their adapters.
    fn batch(&self, step: &Step<'_>) -> Result<Arc<Batch>> {
        let model = self.executor.model();
        let mut batch = Batch::new(model, &self.limits, step.sequences, &self.sampled)?;
        batch.adapt(&self.adapters);
        Ok(Arc::new(batch))
    }

    fn has_mask(&self, slot: usize, mask: usize) -> bool {
        !self.slots[slot].masks[mask].is_empty()
    }

    fn layers_of(&mut self, step: &Step<'_>) -> Result<()> {
        let batch = self.batch(step)?;
        let activations = self.layers.forward(&batch, step.capture_activations)?;
        self.held = Some(Held { step: HeldStep::new(step), batch, activations });
        Ok(())
    }

    fn sample_held(&mut self, rows: &[Option<RowSampling<'_>>]) -> Result<StepOutput> {
        let Held { step, batch, activations } =
            self.held.take().ok_or_else(|| out_of_order("sample"))?;
        let sequences = step.sequences(rows)?;
        let has_mask = |slot, mask| self.has_mask(slot, mask);
        validate::rows(self.executor.model(), &sequences, has_mask)?;
        self.finish(&sequences, &batch, activations)
    }

    /// Does work on the executor's threads, where it has any of its own.
    fn install<T: Send>(&mut self, work: impl FnOnce(&mut CpuBackend) -> T + Send) -> T {
        let executor = Arc::clone(&self.executor);
        match &self.layers {
            Layers::Whole(_) => executor.install(|| work(self)),
            // The ranks run on their own threads, of which none may wait for the step.
            Layers::Ranks(_) => work(self),
        }
    }

    /// What a step whose layers have run yields.
    fn finish(
        &mut self,
        sequences: &[Sequence<'_>],
        batch: &Arc<Batch>,
        activations: Vec<LayerActivations>,
    ) -> Result<StepOutput> {
        let mut output = StepOutput { activations, ..StepOutput::default() };
        self.run_head(sequences, batch, &mut output)?;
        let mut sampled = output.sampled.iter();
        for sequence in sequences {
            let rows = sampled.by_ref().take(sequence.sampled_rows());
            let last = rows.last().copied().flatten();
            // After a draft it is not known which of its tokens will be accepted.
            let known = !matches!(sequence.input, Input::Draft(_));
            self.sampled[sequence.seq_slot] = last.filter(|_| known);
        }
        Ok(output)
    }

    /// Runs the head over the rows whose logits are needed, some at a time.
    fn run_head(
        &mut self,
        sequences: &[Sequence<'_>],
        batch: &Arc<Batch>,
        output: &mut StepOutput,
    ) -> Result<()> {
        let rows = head_rows(sequences);
        output.prompt_reports = vec![Vec::new(); sequences.len()];
        output.logits = vec![Vec::new(); sequences.len()];
        let vocab = self.executor.model().spec.vocab;
        for rows in rows.chunks(HEAD_ROWS) {
            let indices: Vec<usize> = rows.iter().map(|row| row.row).collect();
            let logits = self.layers.head(batch, &indices)?;
            let slots = &self.slots;
            let result = |(row, logits): (&HeadRow<'_>, &[f32])| {
                let slot = &slots[sequences[row.sequence].seq_slot];
                row.result(slot, logits, batch.rows[row.row].position + 1)
            };
            let in_order = || rows.par_iter().zip(logits.par_chunks_exact(vocab)).map(result);
            let results: Vec<RowResult> =
                self.executor.install(|| in_order().collect::<Result<_>>())?;
            for ((row, logits), result) in rows.iter().zip(logits.chunks_exact(vocab)).zip(results)
            {
                if row.returned {
                    output.logits[row.sequence].extend_from_slice(logits);
                }
                output.prompt_reports[row.sequence].extend(result.prompt_report);
                let Some(sampling) = row.sampled else { continue };
                let (token, report) = result.sampled.unzip();
                output.sampled.push(token);
                output.reports.push(report.flatten());
                if let Some(token) = token {
                    let slot = sequences[row.sequence].seq_slot;
                    self.slots[slot].count(sampling, token);
                }
            }
        }
        Ok(())
    }
}

/// A row whose logits are computed.
struct HeadRow<'a> {
    sequence: usize,
    row: usize,
    returned: bool,
    sampled: Option<&'a RowSampling<'a>>,
    /// A token that is reported, and how many of the most likely ones beside it.
    reported: Option<(u32, u32)>,
}

/// What a row yields.
struct RowResult {
    /// The sampled token and its report; `None` also where no logit is a finite number.
    sampled: Option<(u32, Option<TokenLogprobs>)>,
    prompt_report: Option<TokenLogprobs>,
}

impl HeadRow<'_> {
    fn result(&self, slot: &SlotState, logits: &[f32], position: usize) -> Result<RowResult> {
        let sample = |row: &RowSampling<'_>| {
            let changes = slot.changes(row);
            match sampling::sample_changed(logits, &changes, &row.config, position) {
                Ok(token) => {
                    let report = row.report.map(|top| sampling::report(logits, token, top));
                    Ok(Some((token, report)))
                }
                Err(Error::NonFiniteLogits { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        Ok(RowResult {
            sampled: self.sampled.map_or(Ok(None), sample)?,
            prompt_report: self.reported.map(|(token, top)| sampling::report(logits, token, top)),
        })
    }
}

fn head_rows<'a>(sequences: &'a [Sequence<'a>]) -> Vec<HeadRow<'a>> {
    let (mut rows, mut first) = (Vec::new(), 0);
    for (index, sequence) in sequences.iter().enumerate() {
        let last = first + sequence.input.len() - 1;
        for row in first..=last {
            let samples = row + sequence.sampled_rows() > last;
            let sampled = sequence.sample.as_ref().filter(|_| samples);
            let returned = match sequence.logits {
                LogitRows::None => false,
                LogitRows::Last => row == last,
                LogitRows::All => true,
            };
            let reported = sequence
                .prompt_report
                .and_then(|report| Some((*report.next.get(row - first)?, report.top)));
            if sampled.is_some() || returned || reported.is_some() {
                rows.push(HeadRow { sequence: index, row, returned, sampled, reported });
            }
        }
        first = last + 1;
    }
    rows
}

impl Backend for CpuBackend {
    fn describe(&self) -> String {
        let (isa, threads) = (self.executor.isa().name(), self.executor.threads());
        match self.ranks {
            1 => match self.executor.dense_error() {
                None => format!("cpu ({isa}, {threads} threads)"),
                Some(error) => format!(
                    "cpu ({isa}, {threads} threads, dense weights in 8 bits: relative error {error:.5})"
                ),
            },
            ranks => format!("cpu ({isa}, {ranks} ranks of {threads} threads)"),
        }
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn reserve_snapshots(&mut self, count: usize) -> Result<()> {
        self.layers.reserve_snapshots(count)
    }

    fn save_snapshot(&mut self, snapshot: usize, seq_slot: usize, end: usize) -> Result<()> {
        self.layers.copy_snapshot(snapshot, seq_slot, end, true)
    }

    fn load_snapshot(&mut self, snapshot: usize, seq_slot: usize, end: usize) -> Result<()> {
        self.layers.copy_snapshot(snapshot, seq_slot, end, false)
    }

    fn set_history(&mut self, seq_slot: usize, history: &TokenHistory) -> Result<()> {
        validate::history(self.executor.model(), &self.limits, seq_slot, history)?;
        self.slots[seq_slot].history = history.clone();
        Ok(())
    }

    fn set_mask(&mut self, seq_slot: usize, mask: usize, words: &[u32]) -> Result<()> {
        validate::mask(self.executor.model(), &self.limits, seq_slot, mask, words)?;
        words.clone_into(&mut self.slots[seq_slot].masks[mask]);
        Ok(())
    }

    fn adapter_support(&self) -> AdapterSupport {
        match self.ranks {
            1 => AdapterSupport::All,
            _ => AdapterSupport::None,
        }
    }

    fn set_adapter(&mut self, seq_slot: usize, adapter: Option<Arc<Adapter>>) -> Result<()> {
        let fits =
            |adapter: &Arc<Adapter>| self.ranks == 1 && adapter.fits(&self.executor.model().spec);
        let taken = adapter.as_ref().is_none_or(fits);
        match self.adapters.get_mut(seq_slot).filter(|_| taken) {
            Some(slot) => {
                *slot = adapter;
                Ok(())
            }
            None => Err(Error::Internal(format!(
                "an adapter for slot {seq_slot} of {} does not fit the backend",
                self.limits.max_sequences
            ))),
        }
    }

    fn replace_weights(&mut self, weights: Arc<Checkpoint>) -> Result<()> {
        let Layers::Whole(runner) = &mut self.layers else {
            let problem = "weights are replaced by one rank only; load the model again";
            return Err(Error::invalid_option("weights", problem));
        };
        let executor = Arc::new(self.executor.with_weights(weights)?);
        runner.replace(Arc::clone(&executor));
        self.executor = executor;
        Ok(())
    }

    fn sleep(&mut self, _level: SleepLevel) -> Result<bool> {
        let Layers::Whole(runner) = &mut self.layers else {
            return Err(Error::invalid_option("level", "several ranks cannot sleep; end them"));
        };
        // Its memory is the system's again until positions are written.
        runner.cache = Cache::new(self.executor.model(), &self.limits)?;
        Ok(false)
    }

    fn update_weights(&mut self, path: &Path) -> Result<(usize, usize)> {
        let (updated, count) = self.executor.updated(path)?;
        self.replace_weights(Arc::new(updated))?;
        Ok((count, self.executor.model().graph.all_weights().count()))
    }

    fn submit(&mut self, step: &Step<'_>) -> Result<()> {
        if self.held.is_some() {
            return Err(out_of_order("submit"));
        }
        let output = self.install(|backend| backend.step(step))?;
        self.done.push_back(output);
        Ok(())
    }

    fn submit_layers(&mut self, step: &Step<'_>) -> Result<()> {
        if self.held.is_some() {
            return Err(out_of_order("submit_layers"));
        }
        self.install(|backend| backend.layers_of(step))
    }

    fn sample(&mut self, rows: &[Option<RowSampling<'_>>]) -> Result<()> {
        let output = self.install(|backend| backend.sample_held(rows))?;
        self.done.push_back(output);
        Ok(())
    }

    fn collect(&mut self) -> Result<StepOutput> {
        let missing = || Error::Internal("collect was called with no step submitted".into());
        self.done.pop_front().ok_or_else(missing)
    }
}
