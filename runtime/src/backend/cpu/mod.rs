//! The CPU backend: the embedded default, and the oracle of every other one.
//!
//! It interprets the model's op graph node by node ([`Executor`]) over a buffer for each value ([`Values`]) in f32,
//! with weights packed in memory as the checkpoint stores them. A token's results depend on its sequence alone:
//! however it is batched or chunked, its bits are the same (for one instruction set). Instruction sets are chosen
//! once, in [`Isa::detect`]; `scalar` is the readable form of every op, `simd` the fast forms of those that pay.

mod attention;
mod batch;
mod cache;
mod distinct;
mod executor;
mod floats;
mod isa;
mod product;
mod scalar;
mod simd;
#[cfg(test)]
mod tests;
mod values;
mod weights;

use std::collections::VecDeque;
use std::sync::Arc;

use ossmith_plan::{Model, Value};

pub use batch::{Batch, Member, Row};
pub use cache::{Cache, plan_memory};
pub use executor::Executor;
pub use isa::{Isa, OVERRIDE};
#[cfg(feature = "cuda")]
pub(super) use scalar::rms_norm;
pub use values::Values;

use crate::backend::{Backend, LayerTaps, Limits, LogitRows, Output, Step, validate};
use crate::{Checkpoint, Error, Result, sampling};

/// Rows that go through the unembedding together: bounds the memory of logits.
const HEAD_ROWS: usize = 32;

/// Runs a model on the CPU. Steps are done when `submit` returns.
#[derive(Debug)]
pub struct CpuBackend {
    executor: Arc<Executor>,
    limits: Limits,
    cache: Cache,
    values: Values,
    head: Values,
    sampled: Vec<Option<u32>>,
    done: VecDeque<Output>,
}

impl CpuBackend {
    /// A backend over `weights`, with `threads` threads (all the machine's if `None`).
    ///
    /// # Errors
    /// [`Error::Device`] if the override of the instruction set, the threads or the cache cannot be had;
    /// what the checkpoint fails with.
    pub fn new(
        model: &'static Model,
        weights: Arc<Checkpoint>,
        limits: Limits,
        threads: Option<usize>,
    ) -> Result<CpuBackend> {
        let executor = Executor::new(model, weights, Isa::detect()?, threads)?;
        CpuBackend::with_executor(executor, limits)
    }

    /// A backend over an executor of one's own making.
    ///
    /// # Errors
    /// [`Error::Request`] for a limit of 0; [`Error::Device`] if there is no memory for the cache.
    pub fn with_executor(executor: Executor, limits: Limits) -> Result<CpuBackend> {
        validate::limits(&limits)?;
        let model = executor.model();
        Ok(CpuBackend {
            limits,
            cache: Cache::new(model, &limits)?,
            values: Values::new(model, 0),
            head: Values::new(model, 0),
            sampled: vec![None; limits.max_sequences],
            done: VecDeque::new(),
            executor: Arc::new(executor),
        })
    }

    fn step(&mut self, step: &Step<'_>) -> Result<Output> {
        let model = self.executor.model();
        let batch = Batch::new(model, &self.limits, step.sequences, &self.sampled)?;
        let mut output = Output { taps: self.forward(&batch, step.taps)?, ..Output::default() };
        self.finish(step, &batch, &mut output)?;
        for (sequence, token) in step.sequences.iter().zip(&output.sampled) {
            self.sampled[sequence.slot] = *token;
        }
        Ok(output)
    }

    fn forward(&mut self, batch: &Batch, taps: bool) -> Result<Vec<LayerTaps>> {
        let CpuBackend { executor, cache, values, .. } = self;
        let graph = &executor.model().graph;
        values.reset(batch.rows.len());
        values.set_u32(Value::Tokens, &batch.tokens)?;
        executor.run(graph.start, 0, values, batch, cache)?;
        let mut tapped = Vec::new();
        for layer in 0..executor.model().spec.layers.len() {
            executor.run(graph.layer, layer, values, batch, cache)?;
            if taps {
                tapped.push(LayerTaps {
                    residual: values.f32(Value::Residual)?.to_vec(),
                    router_indices: values.u32(Value::ExpertIds)?.to_vec(),
                    router_logits: values.f32(Value::RouterLogits)?.to_vec(),
                });
            }
        }
        Ok(tapped)
    }

    /// Runs the head over the rows whose logits anyone wants, some at a time.
    fn finish(&mut self, step: &Step<'_>, batch: &Batch, output: &mut Output) -> Result<()> {
        let wanted = wanted_rows(step);
        output.sampled = vec![None; step.sequences.len()];
        output.logits = vec![Vec::new(); step.sequences.len()];
        let (hidden, vocab) = (self.executor.model().spec.hidden, self.executor.model().spec.vocab);
        for wanted in wanted.chunks(HEAD_ROWS) {
            let residual = self.values.f32(Value::Residual)?;
            let mut inputs = Vec::with_capacity(wanted.len() * hidden);
            for want in wanted {
                inputs.extend_from_slice(&residual[want.row * hidden..(want.row + 1) * hidden]);
            }
            self.head.reset(wanted.len());
            self.head.set_f32(Value::Residual, &inputs)?;
            let nodes = self.executor.model().graph.head;
            self.executor.run(nodes, 0, &mut self.head, batch, &mut self.cache)?;
            let logits = self.head.f32(Value::Logits)?;
            for (want, logits) in wanted.iter().zip(logits.chunks_exact(vocab)) {
                if want.keep {
                    output.logits[want.sequence].extend_from_slice(logits);
                }
                if let Some(sampling) = step.sequences[want.sequence].sample.filter(|_| want.draw) {
                    let position = batch.rows[want.row].position + 1;
                    match sampling::draw(logits, &sampling, position) {
                        Ok(token) => output.sampled[want.sequence] = Some(token),
                        Err(Error::Device(_)) => output.damaged.push(want.sequence),
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        Ok(())
    }
}

/// A row whose logits are computed.
struct Wanted {
    sequence: usize,
    row: usize,
    keep: bool,
    draw: bool,
}

fn wanted_rows(step: &Step<'_>) -> Vec<Wanted> {
    let (mut wanted, mut first) = (Vec::new(), 0);
    for (index, sequence) in step.sequences.iter().enumerate() {
        let last = first + sequence.input.len() - 1;
        for row in first..=last {
            let draw = row == last && sequence.sample.is_some();
            let keep = match sequence.logits {
                LogitRows::None => false,
                LogitRows::Last => row == last,
                LogitRows::All => true,
            };
            if draw || keep {
                wanted.push(Wanted { sequence: index, row, keep, draw });
            }
        }
        first = last + 1;
    }
    wanted
}

impl Backend for CpuBackend {
    fn describe(&self) -> String {
        format!("cpu ({}, {} threads)", self.executor.isa().name(), self.executor.threads())
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn reserve_tails(&mut self, count: usize) -> Result<()> {
        self.cache.reserve_tails(count)
    }

    fn save_tail(&mut self, tail: usize, slot: usize, end: usize) -> Result<()> {
        self.cache.copy_tail(tail, slot, end, true)
    }

    fn load_tail(&mut self, tail: usize, slot: usize, end: usize) -> Result<()> {
        self.cache.copy_tail(tail, slot, end, false)
    }

    fn submit(&mut self, step: &Step<'_>) -> Result<()> {
        let executor = Arc::clone(&self.executor);
        let output = executor.install(|| self.step(step))?;
        self.done.push_back(output);
        Ok(())
    }

    fn collect(&mut self) -> Result<Output> {
        let nothing = || Error::Internal("collect without a submitted step".into());
        self.done.pop_front().ok_or_else(nothing)
    }
}
