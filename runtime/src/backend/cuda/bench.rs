//! Timings of steps on the device, with the roofline measured beside them. Those of one kernel are in [`kernel`].

mod cublas;
pub mod kernel;

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use cudarc::driver::CudaGraph;
use ossmith_plan::params::FlatRead;
use ossmith_plan::{Auxiliary, Cost, PhaseTotal, Prediction, Rates, Schedule, Section, StepShape};

use super::forward::{StepInputs, StepRun};
use super::kernels::Extent;
use super::memory::{Buffer, device_error};
use super::replay::ReplayedStep;
use super::synthetic_inputs::distinct;
use super::{CudaBackend, DecodeGraph, RankedCudaBackend};
use crate::backend::{
    Backend, Input, LogitRows, MASKS_PER_SLOT, PAGE_TOKENS, RowSampling, Sequence, Step, validate,
};
use crate::sampling::{Penalties, SamplerConfig, TokenHistory};
use crate::{Error, Result};

/// Median and range of repeated timings, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimingStats {
    /// Median.
    pub median_ms: f64,
    /// Fastest.
    pub min_ms: f64,
    /// Slowest.
    pub max_ms: f64,
}

impl TimingStats {
    fn of(mut times: Vec<f64>) -> TimingStats {
        times.sort_by(f64::total_cmp);
        let at = |i: usize| times.get(i).copied().unwrap_or(f64::NAN);
        TimingStats { median_ms: at(times.len() / 2), min_ms: at(0), max_ms: at(times.len() - 1) }
    }
}

/// One phase over all layers.
#[derive(Clone, Debug, PartialEq)]
pub struct PhaseTime {
    /// Phase name; of those that stand outside layers beside one of the same name, with where it stands.
    pub name: String,
    /// What it must read and compute in a whole step.
    pub cost: Cost,
    /// What it should take in a whole step, by the cost model with the bandwidth that was measured.
    pub predicted: Prediction,
    /// Time with nothing else between.
    pub alone: TimingStats,
    /// Time in the chain: by how much a step without it is shorter, in milliseconds.
    pub in_chain_ms: f64,
}

/// A decode step of one batch size and context, or a step of one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct StepTimes {
    /// Its shape, with the routing that was seen.
    pub shape: StepShape,
    /// The regime of its schedule.
    pub regime: &'static str,
    /// Bytes that it must read.
    pub bytes: f64,
    /// Floating-point operations that it must do.
    pub flops: f64,
    /// Time from step to step, the host's share included; of prompts, time of the device.
    pub step: TimingStats,
    /// Time to read as many bytes front to back.
    pub roofline: TimingStats,
    /// Its phases.
    pub phases: Vec<PhaseTime>,
}

/// How the tokens of timed steps are sampled, with a seed for each sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodeSampling {
    /// Temperature and filters.
    pub config: SamplerConfig,
    /// Penalties for what the sequence holds; [`Penalties::NONE`] for none.
    pub penalties: Penalties,
    /// Tokens that are given a bias.
    pub biases: usize,
    /// Report each token, and this many of the most likely ones.
    pub logprobs: Option<u32>,
    /// Whether each token has a mask of its own, which is uploaded before its step.
    pub mask: bool,
}

impl DecodeSampling {
    /// Whether tokens are sampled greedily or by temperature alone, and nothing is reported of them.
    fn is_plain(&self) -> bool {
        let changed = self.penalties != Penalties::NONE || self.biases > 0 || self.mask;
        RowSampling { report: self.logprobs, ..self.config.into() }.is_plain() && !changed
    }
}

impl From<SamplerConfig> for DecodeSampling {
    fn from(config: SamplerConfig) -> DecodeSampling {
        let penalties = Penalties::NONE;
        DecodeSampling { config, penalties, biases: 0, logprobs: None, mask: false }
    }
}

/// The sequences of timed steps.
pub(super) struct TimedSequences<'a> {
    sampling: &'a DecodeSampling,
    vocab: usize,
    experts: usize,
    /// Pages of each.
    tables: Vec<Vec<u32>>,
    biases: Vec<(u32, f32)>,
    /// Masks that allow one half of the tokens each.
    masks: [Vec<u32>; MASKS_PER_SLOT],
}

impl<'a> TimedSequences<'a> {
    pub(super) fn new(
        sampling: &'a DecodeSampling,
        tables: Vec<Vec<u32>>,
        vocab: usize,
        experts: usize,
    ) -> TimedSequences<'a> {
        // The strides make each token different.
        let token = |index: usize| (index * (vocab / sampling.biases.max(1))) as u32;
        let words = vocab.div_ceil(u32::BITS as usize);
        let mask = |of: usize| {
            (0..words)
                .map(move |word| ossmith_scalar::mix_word((word * MASKS_PER_SLOT + of) as u32))
        };
        TimedSequences {
            sampling,
            vocab,
            experts,
            tables,
            biases: (0..sampling.biases).map(|index| (token(index), 0.5)).collect(),
            masks: std::array::from_fn(|of| mask(of).collect()),
        }
    }

    /// What sequence `slot` does at a position.
    fn sequence<'s>(&'s self, slot: usize, start: usize, input: Input<'s>) -> Sequence<'s> {
        let DecodeSampling { config, penalties, logprobs, mask, .. } = *self.sampling;
        let config = SamplerConfig { seed: slot as u64, ..config };
        let row = RowSampling {
            biases: &self.biases,
            penalties: (penalties != Penalties::NONE).then_some(penalties),
            mask: mask.then_some(start % MASKS_PER_SLOT),
            report: logprobs,
            ..RowSampling::from(config)
        };
        Sequence {
            seq_slot: slot,
            start,
            input,
            pages: &self.tables[slot],
            sample: Some(row),
            prompt_report: None,
            logits: LogitRows::None,
        }
    }
}

impl TimedSequences<'_> {
    /// Feeds one different token to each sequence, after a history of as many tokens as there are positions; returns the
    /// distinct experts of a layer, on average.
    pub(super) fn start(&self, backend: &mut impl Backend, position: usize) -> Result<f64> {
        let vocab = self.vocab;
        let batch = self.tables.len();
        let tokens: Vec<[u32; 1]> = (0..batch).map(|s| [(s * 7919 % vocab) as u32]).collect();
        if self.sampling.penalties != Penalties::NONE {
            for slot in 0..batch {
                let token = |at: usize| ((slot + at * 104_729) % vocab) as u32;
                let prompt: Vec<u32> = (0..position).map(token).collect();
                backend.set_history(slot, &TokenHistory::new(&prompt, &[]))?;
            }
        }
        self.upload_masks(backend, position)?;
        let sequences: Vec<Sequence<'_>> = tokens
            .iter()
            .enumerate()
            .map(|(slot, token)| self.sequence(slot, position, Input::Tokens(token)))
            .collect();
        let output = backend.run(&Step { sequences: &sequences, capture_activations: true })?;
        Ok(distinct(&output, self.experts))
    }

    /// Steps of the sequences' positions from `first` on.
    fn steps(&self, backend: &mut impl Backend, first: usize) -> Result<()> {
        for i in 0..STEPS {
            self.upload_masks(backend, first + i)?;
            let sequences: Vec<Sequence<'_>> = (0..self.tables.len())
                .map(|slot| self.sequence(slot, first + i, Input::Sampled))
                .collect();
            backend.submit(&Step { sequences: &sequences, capture_activations: false })?;
            if i > 0 {
                backend.collect()?;
            }
        }
        backend.collect().map(drop)
    }

    /// Gives each sequence its mask for the step at a position.
    fn upload_masks(&self, backend: &mut impl Backend, position: usize) -> Result<()> {
        let mask = position % MASKS_PER_SLOT;
        let slots = if self.sampling.mask { self.tables.len() } else { 0 };
        (0..slots).try_for_each(|slot| backend.set_mask(slot, mask, &self.masks[mask]))
    }
}

/// Times decode steps around a context; gives their shape too, with the positions and routes that the last one leaves.
fn time_steps(
    backend: &mut impl Backend,
    timed: &TimedSequences<'_>,
    context: usize,
) -> Result<(TimingStats, StepShape)> {
    let first = first_position(context);
    timed.start(backend, first)?;
    timed.steps(backend, first)?;
    let mut times = Vec::new();
    for _ in 0..REPEATS {
        let begin = Instant::now();
        timed.steps(backend, first)?;
        times.push(begin.elapsed().as_secs_f64() * 1e3 / STEPS as f64);
    }
    let distinct_experts = timed.start(backend, context.saturating_sub(1))?;
    let batch = timed.tables.len();
    let (tokens, rows, sequences) = (batch, batch, batch);
    let shape = StepShape { tokens, rows, sequences, keys: context, distinct_experts };
    Ok((TimingStats::of(times), shape))
}

/// The position of the first of the steps that see some context on average.
fn first_position(context: usize) -> usize {
    context.saturating_sub(STEPS / 2)
}

/// Steps timed together.
const STEPS: usize = 32;
/// Timings whose median is taken.
const REPEATS: usize = 9;

impl CudaBackend {
    /// Times decode steps of `batch` sequences that each see `context` keys: steps around that many (from none on
    /// where `context` is below 16), and phases with just as many. The cache holds random keys and values, and with
    /// penalties each history as many tokens. At temperature 1 routing is as diverse as the weights make it.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if the limits do not hold the batch; device errors.
    pub fn time_decode(
        &mut self,
        batch: usize,
        context: usize,
        sampling: &DecodeSampling,
    ) -> Result<StepTimes> {
        let whole = self.time_decode_step(batch, context, sampling)?;
        let shadow = sampling.is_plain() && self.pass.has_shadow_head(batch);
        self.with_phases(whole, &self.inputs, shadow)
    }

    /// As [`CudaBackend::time_decode`], of whole steps and the roofline, without phases.
    ///
    /// # Errors
    /// Those of [`CudaBackend::time_decode`].
    pub fn time_decode_step(
        &mut self,
        batch: usize,
        context: usize,
        sampling: &DecodeSampling,
    ) -> Result<StepTimes> {
        let timed = self.timed(batch, context, sampling)?;
        let (times, shape) = time_steps(self, &timed, context)?;
        self.step_times(shape, times)
    }

    /// The sequences of timed decode steps, with random keys and values in the cache.
    fn timed<'a>(
        &self,
        batch: usize,
        context: usize,
        sampling: &'a DecodeSampling,
    ) -> Result<TimedSequences<'a>> {
        sampling.config.check()?;
        validate::row_limits(sampling.biases, sampling.logprobs)?;
        let tables = self.page_tables(batch, first_position(context) + STEPS)?;
        self.fill_cache()?;
        let spec = &self.pass.model.spec;
        Ok(TimedSequences::new(sampling, tables, spec.vocab, spec.max_experts()))
    }

    /// Times the step of a prompt of `tokens` tokens, from nothing on, as [`CudaBackend::time_decode`] times decode steps.
    ///
    /// # Errors
    /// As there.
    pub fn time_prompt(&mut self, tokens: usize) -> Result<StepTimes> {
        let staged = self.stage_replays(ReplayedStep::Prompt { tokens })?;
        let replay = self.capture_replay(&staged)?;
        let times = self.time_replays(&[&replay], REPEATS, 1)?.into_iter().flatten().collect();
        let whole = self.step_times(staged.shape, TimingStats::of(times))?;
        self.with_phases(whole, staged.inputs(), false)
    }

    /// A step with the times of its phases, whose head is that of the shadow of the unembedding or not.
    fn with_phases(&self, step: StepTimes, inputs: &StepInputs, shadow: bool) -> Result<StepTimes> {
        let graphs = self.capture_phases(&step.shape, inputs, shadow)?;
        self.phases_of_step(step, &graphs)
    }

    /// A step with the times of its phases, by their graphs.
    fn phases_of_step(&self, step: StepTimes, graphs: &PhaseGraphs) -> Result<StepTimes> {
        let rates = self.rates().with_bandwidth(step.bytes / step.roofline.median_ms / 1e6);
        Ok(StepTimes { phases: self.time_phases(graphs, &step.shape, &rates)?, ..step })
    }

    /// What a step took, with its roofline.
    fn step_times(&self, shape: StepShape, step: TimingStats) -> Result<StepTimes> {
        let schedule = self.pass.model.schedule(shape.tokens);
        let cost = self.pass.model.step_cost(schedule, &shape);
        let bytes = cost.bytes();
        Ok(StepTimes {
            shape,
            regime: schedule.regime.name(),
            bytes,
            flops: cost.flops,
            step,
            roofline: self.time_flat_read(bytes)?,
            phases: Vec::new(),
        })
    }

    /// A page table for each of `batch` sequences of `tokens` tokens.
    pub(super) fn page_tables(&self, batch: usize, tokens: usize) -> Result<Vec<Vec<u32>>> {
        let pages = tokens.div_ceil(PAGE_TOKENS);
        if batch > self.limits.max_sequences || batch * pages > self.limits.pages {
            return Err(Error::invalid_option(
                "batch",
                format!(
                    "{batch} sequences of {tokens} tokens need {batch} sequence slots and {} pages; there are {} and {}",
                    batch * pages,
                    self.limits.max_sequences,
                    self.limits.pages
                ),
            ));
        }
        Ok((0..batch).map(|s| (0..pages).map(|i| (i * batch + s) as u32).collect()).collect())
    }

    /// Times reading `bytes` bytes front to back.
    ///
    /// # Errors
    /// Device errors.
    pub fn time_flat_read(&self, bytes: f64) -> Result<TimingStats> {
        let buffer = Buffer::zeroed(&self.context, bytes as usize / 4096 * 4096, "the flat read")?;
        self.fill_random(&buffer, 7)?;
        let out = Buffer::zeroed(&self.context, 16, "the flat read's result")?;
        let params =
            FlatRead { data: buffer.ptr(), units: buffer.bytes() as u64 / 16, out: out.ptr() };
        let extent = Extent { tokens: 0, routes: 0, query_tiles: 0 };
        let kernel = &self.pass.model.tools.flat_read;
        self.time_graph(|| {
            (0..4).try_for_each(|_| {
                self.pass.kernels.launch(&self.pass.stream, kernel, extent, &params)
            })
        })
        .map(|spread| spread.divided_by(4.0))
    }

    /// Captures what the phases of a step are timed by.
    fn capture_phases(
        &self,
        shape: &StepShape,
        inputs: &StepInputs,
        shadow: bool,
    ) -> Result<PhaseGraphs> {
        let model = self.pass.model;
        let sums = self.pass.workspace.router_logit_sums.bytes();
        let discarded = Buffer::zeroed(&self.context, sums, "sums that timings discard")?;
        let step = StepRun {
            // Those of the last real step stay, so that steps without some phase still read as many experts.
            added_logit_sums: discarded.ptr(),
            ..self.pass.step(inputs, shape.tokens)
        };
        let step = match shadow {
            true => StepRun { schedule: with_shadow_head(step.schedule), ..step },
            false => step,
        };
        let rows = shape.rows;
        // Without the start the residual would grow from replay to replay, so the start is in every chain and has no line.
        let mut totals = model.phase_totals(step.schedule, shape);
        totals.retain(|total| total.section != Section::Start);
        let capture = |total: &PhaseTotal| {
            let place = (total.section, total.index);
            let routes_stay = permutation_before(total, &totals);
            let graph = |kept: &dyn Fn((Section, usize)) -> bool| {
                self.graph_of(|| self.phases(&step, rows, kept)).map(DecodeGraph)
            };
            Ok([
                graph(&|at| at == place)?,
                graph(&|at| Some(at) != routes_stay)?,
                graph(&|at| Some(at) != routes_stay && at != place)?,
            ])
        };
        let graphs = totals.iter().map(capture).collect::<Result<_>>()?;
        Ok(PhaseGraphs { totals, graphs, _discarded: discarded })
    }

    fn time_phases(
        &self,
        graphs: &PhaseGraphs,
        shape: &StepShape,
        rates: &Rates,
    ) -> Result<Vec<PhaseTime>> {
        let (model, totals) = (self.pass.model, &graphs.totals);
        let schedule = model.schedule(shape.tokens);
        let time = |(total, [alone, whole, without]): (&PhaseTotal, &[DecodeGraph; 3])| {
            let alone = self.time_captured(&alone.0)?;
            // Side by side, so that a clock that moves moves both.
            let whole = self.time_captured(&whole.0)?;
            let without = self.time_captured(&without.0)?;
            Ok(PhaseTime {
                name: name(total, totals),
                cost: total.cost,
                predicted: model.predict(schedule, total, shape, rates),
                alone,
                in_chain_ms: whole.median_ms - without.median_ms,
            })
        };
        totals.iter().zip(&graphs.graphs).map(time).collect()
    }

    /// The launches of those phases of a step that `kept` names by their section and place.
    fn phases(
        &self,
        step: &StepRun,
        rows: usize,
        kept: impl Fn((Section, usize)) -> bool,
    ) -> Result<()> {
        let pass = &self.pass;
        for (index, phase) in step.schedule.start.iter().enumerate() {
            if kept((Section::Start, index)) {
                pass.phase(phase, step, 0)?;
            }
        }
        for layer in 0..pass.model.spec.layers.len() {
            for (index, phase) in pass.phases_of(step, layer).iter().enumerate() {
                if kept((Section::Layer, index)) {
                    pass.phase(phase, step, layer)?;
                }
            }
        }
        for (index, phase) in step.schedule.head.iter().enumerate() {
            if kept((Section::Head, index)) {
                pass.head_phase(phase, step, 0..rows)?;
            }
        }
        Ok(())
    }

    /// Captures launches and times replays.
    pub(super) fn time_graph(&self, launches: impl Fn() -> Result<()>) -> Result<TimingStats> {
        self.time_captured(&self.graph_of(launches)?)
    }

    fn time_captured(&self, graph: &CudaGraph) -> Result<TimingStats> {
        let mut times = Vec::new();
        for _ in 0..REPEATS {
            let begin = Instant::now();
            graph.launch().map_err(device_error("replay a timing graph"))?;
            self.synchronize()?;
            times.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        // The first replay uploads the graph.
        times.remove(0);
        Ok(TimingStats::of(times))
    }
}

/// What the phases of a step are timed by: for each, graphs of the phase alone, of the step, and of the step without it.
struct PhaseGraphs {
    totals: Vec<PhaseTotal>,
    graphs: Vec<[DecodeGraph; 3]>,
    _discarded: Buffer,
}

impl RankedCudaBackend {
    /// As [`CudaBackend::time_decode`]: phases and roofline are the first rank's, which all ranks run at once.
    ///
    /// # Errors
    /// As there.
    pub fn time_decode(
        &mut self,
        batch: usize,
        context: usize,
        sampling: &DecodeSampling,
    ) -> Result<StepTimes> {
        let mut timed = self.together(|_, rank| rank.timed(batch, context, sampling))?;
        let timed = timed.swap_remove(0);
        let (times, shape) = time_steps(self, &timed, context)?;
        let wholes = self.together(|_, rank| rank.step_times(shape, times))?;
        // All of them before any runs: making a graph may wait for what runs.
        let graphs = self.each(|rank| rank.capture_phases(&shape, &rank.inputs, false))?;
        let work: Vec<Mutex<(StepTimes, PhaseGraphs)>> =
            wholes.into_iter().zip(graphs).map(Mutex::new).collect();
        let mut results = self.together(|index, rank| {
            let (whole, graphs) = &*work[index].lock().unwrap_or_else(PoisonError::into_inner);
            rank.phases_of_step(whole.clone(), graphs)
        })?;
        Ok(results.swap_remove(0))
    }
}

impl TimingStats {
    fn divided_by(self, count: f64) -> TimingStats {
        TimingStats {
            median_ms: self.median_ms / count,
            min_ms: self.min_ms / count,
            max_ms: self.max_ms / count,
        }
    }
}

/// A schedule whose head is that of the shadow of the unembedding. It lives as long as the program.
fn with_shadow_head(schedule: &Schedule) -> &'static Schedule {
    Box::leak(Box::new(Schedule { head: schedule.shadow_head, ..*schedule }))
}

/// The permutation of routes right before a phase. A kernel behind that phase may read the permuted routes before its
/// inputs are complete, because the phase stands between; where a chain leaves the phase out, the permutation must not run
/// either, and the routes of the last real step stay.
fn permutation_before(total: &PhaseTotal, all: &[PhaseTotal]) -> Option<(Section, usize)> {
    let before = total.index.checked_sub(1)?;
    let found = all.iter().find(|other| (other.section, other.index) == (total.section, before))?;
    (found.phase.auxiliary == Some(Auxiliary::Permute)).then_some((found.section, found.index))
}

/// A phase's name, with its section if another section has a phase of that name.
fn name(total: &PhaseTotal, all: &[PhaseTotal]) -> String {
    let name = total.phase.name;
    let twin = |other: &PhaseTotal| other.phase.name == name && other.section != total.section;
    match total.section {
        Section::Head if all.iter().any(twin) => format!("{name} (head)"),
        _ => name.to_owned(),
    }
}
