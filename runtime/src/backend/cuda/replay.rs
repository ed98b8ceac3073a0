//! Whole steps as graphs that are replayed to be timed: the same step by several schedules, in turns, over the same
//! weights. A kernel that is faster alone may slow the ones around it, so this is what a tuner goes by.

use std::time::Instant;

use ossmith_plan::{Model, StepShape};

use super::forward::StepInputs;
use super::memory::device_error;
use super::sources::Sources;
use super::synthetic_inputs::{distinct, sampled};
use super::{CudaBackend, DecodeGraph, workspace};
use crate::backend::{Backend, Input, PAGE_TOKENS, Sequence, Step};
use crate::sampling::SamplerConfig;
use crate::{Error, Result};

/// A step to replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplayedStep {
    /// One token for each of `batch` sequences, which sees `context` keys.
    Decode {
        /// Sequences.
        batch: usize,
        /// Keys.
        context: usize,
    },
    /// The tokens of one prompt.
    Prompt {
        /// How many.
        tokens: usize,
    },
}

impl ReplayedStep {
    /// Tokens of the step.
    #[must_use]
    pub fn tokens(&self) -> usize {
        match *self {
            ReplayedStep::Decode { batch, .. } => batch,
            ReplayedStep::Prompt { tokens } => tokens,
        }
    }

    /// Sequences of the step, and pages of each.
    #[must_use]
    pub fn sequences(&self) -> (usize, usize) {
        match *self {
            ReplayedStep::Decode { batch, context } => {
                (batch, context.max(1).div_ceil(PAGE_TOKENS))
            }
            ReplayedStep::Prompt { tokens } => (1, tokens.div_ceil(PAGE_TOKENS)),
        }
    }
}

/// A step that is staged: its words are on the device, and its graphs can be captured.
#[derive(Clone, Copy, Debug)]
pub struct StagedStep {
    inputs: StepInputs,
    tokens: usize,
    rows: usize,
    /// Its shape, with the routing that was seen.
    pub shape: StepShape,
}

impl StagedStep {
    /// Where its words are.
    pub(super) fn inputs(&self) -> &StepInputs {
        &self.inputs
    }

    /// Rows of its head.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }
}

/// A captured step. It must be replayed while its words are staged, by the backend that captured it.
#[derive(Debug)]
pub struct Replay(DecodeGraph);

impl CudaBackend {
    /// Runs other schedules of the same model from now on. Weights and cache stay where they are, kernels that did not
    /// change are not loaded again, and replays that were captured before keep theirs.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for schedules of another model, or that need more room between kernels than those that the
    /// backend was made with; errors of compiling and loading.
    pub fn reschedule(&mut self, model: &'static Model) -> Result<()> {
        let refuse = |problem: String| Err(Error::invalid_option("schedule", problem));
        if model.spec != self.pass.model.spec || !self.in_flight.is_empty() {
            return refuse(format!("it is of another model than {}", self.pass.model.spec.name));
        }
        let model: &'static Model = Box::leak(Box::new(model.on(self.info.compute)));
        if let Some(why) = model.cannot_run() {
            return refuse(format!("{} cannot run by it: {why}", model.spec.name));
        }
        let needed = workspace::sizes(model, &self.limits)?;
        if needed.iter().zip(&self.workspace_sizes).any(|(needed, have)| needed > have) {
            return refuse("its tiles are smaller than those that memory was reserved for".into());
        }
        let sources = Sources::of(model)?;
        self.pass.kernels.take(&self.context, &self.info, model, &sources, &mut |_| {})?;
        self.pass.model = model;
        self.graphs.clear();
        Ok(())
    }

    /// Stages a step of different tokens, with random keys and values in the cache, and runs it once. The same step has the
    /// same routes by every schedule, as far as logits agree.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if the limits do not hold the step; device errors.
    pub fn stage_replays(&mut self, step: ReplayedStep) -> Result<StagedStep> {
        let (batch, pages) = step.sequences();
        self.fill_cache()?;
        let vocab = self.pass.model.spec.vocab;
        let tokens: Vec<u32> = (0..step.tokens()).map(|i| (i * 7919 % vocab) as u32).collect();
        let tables: Vec<Vec<u32>> =
            (0..batch).map(|s| (0..pages).map(|i| (i * batch + s) as u32).collect()).collect();
        let sequences: Vec<Sequence<'_>> = tables
            .iter()
            .zip(tokens.chunks(step.tokens() / batch))
            .enumerate()
            .map(|(slot, (pages, tokens))| {
                let start = match step {
                    ReplayedStep::Decode { context, .. } => context.max(1) - 1,
                    ReplayedStep::Prompt { .. } => 0,
                };
                let sampling = SamplerConfig { temperature: 1.0, ..SamplerConfig::GREEDY };
                sampled(slot, start, Input::Tokens(tokens), pages, &sampling)
            })
            .collect();
        let output = self.run(&Step { sequences: &sequences, capture_activations: true })?;
        let experts = self.pass.model.spec.max_experts();
        let distinct_experts = distinct(&output, experts);
        let shape = match step {
            ReplayedStep::Decode { context, .. } => {
                StepShape::decode(self.pass.model, batch, context.max(1))
            }
            ReplayedStep::Prompt { tokens } => StepShape::prompt(self.pass.model, tokens, 0),
        };
        let mut staged = self.staged()?;
        let tables = &mut self.pass.cache.tables;
        let step = Step { sequences: &sequences, capture_activations: false };
        tables.place(&step)?;
        staged.staging.fill(&step, tables);
        let adapters = &self.pass.adapters;
        staged.staging.put_adapters(&step, |slot| adapters.place_of(slot));
        self.send(&staged.staging)?;
        self.synchronize()?;
        let (inputs, tokens) = (staged.staging.inputs(&self.inputs), staged.staging.tokens);
        self.free.push(staged);
        Ok(StagedStep {
            inputs,
            tokens,
            rows: batch,
            shape: StepShape { distinct_experts, ..shape },
        })
    }

    /// Captures the staged step by the present schedules.
    ///
    /// # Errors
    /// Device errors.
    pub fn capture_replay(&self, step: &StagedStep) -> Result<Replay> {
        let graph = self.graph_of(|| {
            let run = self.pass.step(&step.inputs, step.tokens);
            self.pass.body(&run)?;
            // The staged rows are sampled by temperature alone.
            if step.rows == step.tokens && self.pass.has_shadow_head(step.tokens) {
                return self.pass.shadow_head(&run, step.rows);
            }
            self.pass.head(&run, 0..step.rows)?;
            self.pass.sample(&run, step.rows)
        })?;
        Ok(Replay(DecodeGraph(graph)))
    }

    /// Times replays in turns: `rounds` times each of them, `each` times in a row. Gives the milliseconds of one replay,
    /// by replay and round.
    ///
    /// # Errors
    /// Device errors.
    pub fn time_replays(
        &self,
        replays: &[&Replay],
        rounds: usize,
        each: usize,
    ) -> Result<Vec<Vec<f64>>> {
        let mut times = vec![Vec::with_capacity(rounds); replays.len()];
        // The first round uploads the graphs and is not kept.
        for round in 0..=rounds {
            for (replay, times) in replays.iter().zip(&mut times) {
                let begin = Instant::now();
                for _ in 0..each {
                    replay.0.0.launch().map_err(device_error("replay a step"))?;
                }
                self.synchronize()?;
                if round > 0 {
                    times.push(begin.elapsed().as_secs_f64() * 1e3 / each as f64);
                }
            }
        }
        Ok(times)
    }
}
