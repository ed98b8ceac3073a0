//! The CUDA backend: generated kernels, compiled once, on one stream of one device.
//!
//! A step is one copy of the host's words ([`staging`]), the phases as launches ([`forward`]), and one copy of the
//! sampled tokens back. Steps that sample a token after each of theirs, one per sequence or a draft to verify, replay a
//! CUDA graph per number of tokens; all others launch the same kernels one by one. Kernels are found by [`nvrtc`] and [`cubins`], weights placed by [`weights`].
//!
//! This is the one module that names cudarc. It knows nothing of requests or text.

#![allow(unsafe_code, reason = "driver calls; each block says what it relies on")]

pub mod bench;
mod cache;
pub mod check;
mod clock;
mod cubins;
mod device;
mod exchange;
mod forward;
mod kernels;
mod limits;
mod memory;
mod memory_budget;
pub mod nvrtc;
mod nvtx;
pub mod pack;
mod page_tables;
mod peers;
mod profile;
mod query_tiles;
mod ranks;
pub mod replay;
mod sampling_state;
mod sources;
mod staging;
mod stamps;
mod synthetic_inputs;
pub mod trace;
mod weights;
mod workspace;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaGraph, sys};
use ossmith_plan::Model;
use ossmith_plan::params::NOTHING_SAMPLED;

pub use cubins::{CacheUse, CubinCache};
pub use device::{DeviceInfo, probe};
pub use kernels::Kernels;
pub use memory_budget::{memory_budget, memory_budget_without_device};
pub use peers::check_peers;
pub use ranks::RankedCudaBackend;
pub use sources::{Sources, emit, plan_hash};
pub use stamps::{TracedBlock, TracedLaunch};

use crate::backend::{
    Backend, Input, LayerActivations, Limits, Progress, Step, StepForm, StepOutput, StepTime,
    validate,
};
use crate::checkpoint::Checkpoint;
use crate::sampling::{TokenHistory, TokenLogprobs};
use crate::{Error, Result};
use cache::DeviceCache;
use clock::{Clock, Marks};
use exchange::Exchange;
use forward::{Pass, StepInputs, StepRun};
use memory::{Buffer, Pinned, device_error};
use nvtx::Range;
use sampling_state::{REPORT_WORDS, SamplingState, StagedHistories, read_report};
use staging::{Arrays, Staging};
use weights::DeviceWeights;
use workspace::Workspace;

/// A model on a CUDA device.
#[derive(Debug)]
pub struct CudaBackend {
    info: DeviceInfo,
    context: Arc<CudaContext>,
    limits: Limits,
    arrays: Arrays,
    /// The device's copy of a step's words.
    words: Buffer,
    inputs: StepInputs,
    /// Bytes of each buffer between kernels.
    workspace_sizes: Vec<usize>,
    pass: Pass,
    /// By number of tokens, [`Workspace::logit_rows`] at most.
    graphs: HashMap<usize, DecodeGraph>,
    /// How the step was launched that was submitted last.
    form: StepForm,
    /// Whether steps are replayed as graphs where they can be.
    use_graphs: bool,
    free: Vec<Staged>,
    in_flight: VecDeque<InFlight>,
    /// Steps submitted and steps collected so far.
    submitted: u64,
    collected: u64,
    clock: Clock,
    /// Whether a token was sampled for a slot, for which [`Input::Sampled`] can stand.
    has_sampled: Vec<bool>,
}

/// A captured decode step.
struct DecodeGraph(CudaGraph);

// SAFETY: a graph may be used from any thread, one at a time; the backend is borrowed exclusively whenever it is.
unsafe impl Send for DecodeGraph {}

impl std::fmt::Debug for DecodeGraph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DecodeGraph")
    }
}

/// Host memory of one step, and its marks on the device's clock.
#[derive(Debug)]
struct Staged {
    staging: Staging,
    sampled_tokens: Pinned,
    histories: StagedHistories,
    /// Reports of the sampled rows, then of those that are only reported.
    reports: Pinned,
    marks: Marks,
}

/// The end of a step, the rows of its sequences, and its captured activations.
type Launched = (CudaEvent, Vec<Vec<f32>>, Vec<LayerActivations>);

/// A step that was submitted.
#[derive(Debug)]
struct InFlight {
    staged: Staged,
    done: CudaEvent,
    logits: Vec<Vec<f32>>,
    activations: Vec<LayerActivations>,
}

impl CudaBackend {
    /// Compiles or finds the kernels, places the weights and reserves the cache on device `ordinal`. Every call keeps a
    /// copy of the plan, some kilobytes, for as long as the program lives.
    ///
    /// # Errors
    /// [`Error::DeviceUnavailable`] for a device that cannot run the kernels, [`Error::OutOfMemory`] for one with too
    /// little memory, [`Error::Compile`] for a kernel that NVRTC refuses, [`Error::InvalidOption`] for limits of 0,
    /// [`Error::Checkpoint`].
    pub fn new(
        model: &'static Model,
        checkpoint: Arc<Checkpoint>,
        limits: Limits,
        ordinal: usize,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<CudaBackend> {
        validate::limits(&limits)?;
        let (context, info) = device::open(ordinal)?;
        let model = profile::model_for(&context, &info, model)?;
        if let Some(why) = model.cannot_run() {
            return Err(Error::unavailable(format!(
                "{} cannot run on {}: {why}",
                model.spec.name, info.name
            )));
        }
        for loss in model.losses {
            tracing::info!(model = model.spec.name, "{}", loss.what);
        }
        let stream = context.new_stream().map_err(device_error("make a stream"))?;
        let kernels = Kernels::load(&context, &info, model, progress)?;
        let weights =
            DeviceWeights::load(&context, &stream, &kernels, model, &checkpoint, progress)?;
        let cache = DeviceCache::new(&context, &model.rank_spec(), &limits)?;
        let workspace = Workspace::new(&context, model, &limits)?;
        let exchange = Exchange::new(&context, model, &limits)?;
        let clusters = device::has_clusters(info.compute);
        let sampling = SamplingState::new(&context, model, &limits, clusters)?;
        let workspace_sizes = workspace::sizes(model, &limits)?;
        tracing::info!(device = info.name, cache_bytes = cache.bytes(), "model placed");
        let arrays = Arrays::new(&model.spec, &limits);
        let words =
            Buffer::zeroed(&context, arrays.device_words() * size_of::<u32>(), "a step's words")?;
        Ok(CudaBackend {
            inputs: arrays.inputs(words.ptr()),
            workspace_sizes,
            pass: Pass { model, stream, kernels, weights, cache, workspace, sampling, exchange },
            has_sampled: vec![false; limits.max_sequences],
            graphs: HashMap::new(),
            form: StepForm::default(),
            use_graphs: use_graphs()?,
            free: Vec::new(),
            in_flight: VecDeque::new(),
            submitted: 0,
            collected: 0,
            clock: Clock::new(),
            info,
            context,
            limits,
            arrays,
            words,
        })
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &DeviceInfo {
        &self.info
    }

    /// The model with the schedules that it runs by.
    #[must_use]
    pub fn model(&self) -> &'static Model {
        self.pass.model
    }

    /// The loaded kernels.
    #[must_use]
    pub fn kernels(&self) -> &Kernels {
        &self.pass.kernels
    }

    fn staged(&mut self) -> Result<Staged> {
        if let Some(staged) = self.free.pop() {
            return Ok(staged);
        }
        let tile_tokens = self.pass.model.schedule(usize::MAX).query_tile_tokens();
        let words = Pinned::zeroed(&self.context, self.arrays.words())?;
        Ok(Staged {
            staging: Staging::new(words, self.arrays, tile_tokens),
            sampled_tokens: Pinned::zeroed(&self.context, self.pass.workspace.logit_rows)?,
            histories: StagedHistories::default(),
            reports: Pinned::zeroed(
                &self.context,
                (self.pass.workspace.logit_rows + self.limits.max_step_tokens) * REPORT_WORDS,
            )?,
            marks: Marks::new(&self.context)?,
        })
    }

    fn copy_snapshot(
        &mut self,
        snapshot: usize,
        seq_slot: usize,
        end: usize,
        save: bool,
    ) -> Result<()> {
        self.context.bind_to_thread().map_err(device_error("select the device"))?;
        self.pass.cache.copy_snapshot(&self.pass.stream, snapshot, seq_slot, end, save)
    }

    /// Sends a step's words.
    fn send(&self, staging: &Staging) -> Result<()> {
        staging.words.copy_to(&self.pass.stream, staging.device_range(), self.words.ptr())?;
        for range in staging.rare_ranges() {
            let address = self.words.at(range.start * size_of::<u32>());
            staging.words.copy_to(&self.pass.stream, range, address)?;
        }
        for (range, address) in &staging.page_updates {
            staging.words.copy_to(&self.pass.stream, range.clone(), *address)?;
        }
        Ok(())
    }

    /// Sends a staged step's words, launches it and starts the copy of the sampled tokens; gives its end, and the rows and activations
    /// that were waited for.
    fn launch(&mut self, step: &Step<'_>, staged: &mut Staged) -> Result<Launched> {
        let regime = self.pass.model.schedule(staged.staging.tokens).regime;
        let _range = Range::new(|| format!("{} step", regime.name()));
        self.send(&staged.staging)?;
        self.prepare_sampling(&mut staged.histories)?;
        staged.marks.begin(&self.pass.stream)?;

        let staging = &staged.staging;
        let samples_all = samples_all(staging, step);
        self.form = StepForm { regime: Some(regime.name()), graph: samples_all && self.use_graphs };
        let (rows, activations) = if samples_all {
            if self.use_graphs {
                self.replay(staging.tokens)?;
            } else {
                self.decode_step(staging.tokens)?;
            }
            (Vec::new(), Vec::new())
        } else {
            self.eager_step(staging, step.capture_activations)?
        };
        let mut logits = vec![Vec::new(); step.sequences.len()];
        for (row, values) in staging.wanted.iter().zip(rows) {
            logits[row.sequence].extend(values);
        }
        staged.marks.end(&self.pass.stream)?;
        staged.sampled_tokens.copy_from(
            &self.pass.stream,
            self.pass.workspace.sampled.ptr(),
            0..staging.sampled.len(),
        )?;
        if staging.reported.iter().any(Option::is_some) {
            let rows = staging.sampled.len();
            let source = self.pass.sampling.reports(0);
            staged.reports.copy_from(&self.pass.stream, source, 0..rows * REPORT_WORDS)?;
        }
        if !staging.given.is_empty() {
            let first = self.pass.given_reports();
            let source = self.pass.sampling.reports(first);
            let range = first * REPORT_WORDS..(first + staging.given.len()) * REPORT_WORDS;
            staged.reports.copy_from(&self.pass.stream, source, range)?;
        }
        let done =
            self.pass.stream.record_event(None).map_err(device_error("mark the end of a step"))?;
        Ok((done, logits, activations))
    }

    /// Makes the stream wait for masks, and writes histories.
    fn prepare_sampling(&mut self, staged: &mut StagedHistories) -> Result<()> {
        let Pass { sampling, stream, kernels, model, .. } = &mut self.pass;
        sampling.prepare(&self.context, stream, kernels, model, staged)
    }

    /// Captures the graph of a step of `tokens` tokens that samples after each of them, the first time.
    fn capture(&mut self, tokens: usize) -> Result<()> {
        if !self.graphs.contains_key(&tokens) {
            let graph = self.graph_of(|| self.decode_step(tokens))?;
            self.graphs.insert(tokens, DecodeGraph(graph));
        }
        Ok(())
    }

    /// Replays the graph of a step of `tokens` tokens that samples after each of them.
    fn replay(&mut self, tokens: usize) -> Result<()> {
        self.capture(tokens)?;
        self.graphs[&tokens].0.launch().map_err(device_error("replay a decode step"))
    }

    /// The launches of a step of `tokens` tokens that samples after each of them.
    fn decode_step(&self, tokens: usize) -> Result<()> {
        let step = self.pass.step(&self.inputs, tokens);
        self.pass.body(&step)?;
        self.pass.head(&step, 0..tokens)?;
        self.pass.sample(&step, tokens)
    }

    /// Any other step: launches one by one, and rows back to the host where they are wanted.
    fn eager_step(
        &self,
        staging: &Staging,
        capture: bool,
    ) -> Result<(Vec<Vec<f32>>, Vec<LayerActivations>)> {
        let step = self.pass.step(&staging.inputs(&self.inputs), staging.tokens);
        let captured = if capture {
            self.captured_body(&step)?
        } else {
            self.pass.body(&step)?;
            Vec::new()
        };
        let vocab = self.pass.model.spec.vocab;
        let mut rows: Vec<Vec<f32>> = vec![Vec::new(); staging.wanted.len()];
        let block = self.pass.workspace.logit_rows;
        for first in (0..staging.head_rows).step_by(block) {
            let range = first..staging.head_rows.min(first + block);
            if first > 0 {
                self.pass.logits_are_joined(&step)?;
            }
            self.pass.head(&step, range.clone())?;
            if first == 0 && !staging.sampled.is_empty() {
                self.pass.sample(&step, staging.sampled.len())?;
            }
            let first_given = staging.head_rows - staging.given.len();
            let given = range.start.max(first_given)..range.end;
            if !given.is_empty() {
                self.pass.report(
                    &step,
                    given.start - first,
                    given.start - first_given,
                    given.len(),
                )?;
            }
            let wanted = staging.wanted.iter().zip(&mut rows);
            let here: Vec<_> = wanted.filter(|(row, _)| range.contains(&row.head_row)).collect();
            if !here.is_empty() {
                self.synchronize()?;
            }
            for (row, logits) in here {
                logits.resize(vocab, 0.0);
                let offset = (row.head_row - first) * vocab * size_of::<f32>();
                self.pass.workspace.logits.read(offset, logits)?;
            }
        }
        Ok((rows, captured))
    }

    fn captured_body(&self, step: &StepRun) -> Result<Vec<LayerActivations>> {
        let (spec, workspace, tokens) = (&self.pass.model.spec, &self.pass.workspace, step.tokens);
        self.pass.start(step)?;
        let capture = |layer: usize| {
            self.pass.layer(step, layer)?;
            self.synchronize()?;
            let mut residual = vec![0.0; tokens * spec.hidden];
            workspace.residual.read(0, &mut residual)?;
            let mut router_logits = vec![0.0; tokens * spec.layers[layer].experts];
            workspace.router_logits.read(0, &mut router_logits)?;
            let router_indices = router_logits
                .chunks(spec.layers[layer].experts)
                .flat_map(|row| largest(row, spec.layers[layer].top_k))
                .collect();
            Ok(LayerActivations { residual, router_indices, router_logits })
        };
        (0..spec.layers.len()).map(capture).collect()
    }

    /// Captures launches as a graph.
    fn graph_of(&self, launches: impl FnOnce() -> Result<()>) -> Result<CudaGraph> {
        let stream = &self.pass.stream;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).map_err(device_error("begin a graph"))?;
        let launched = launches();
        let graph = stream
            .end_capture(sys::CUgraphInstantiate_flags(0))
            .map_err(device_error("make a graph of launches"))?;
        launched?;
        let graph =
            graph.ok_or_else(|| Error::Internal("a captured graph has no launches".into()))?;
        if self.pass.exchange.is_some() {
            // Uploading at the first launch could wait for a kernel that waits for this rank.
            graph.upload().map_err(device_error("upload a graph"))?;
            self.synchronize()?;
        }
        Ok(graph)
    }

    fn synchronize(&self) -> Result<()> {
        self.pass.stream.synchronize().map_err(device_error("finish a step"))
    }
}

/// Whether `OSSMITH_GRAPHS` lets steps be replayed as graphs. A profiler that shows a graph as one launch sees each kernel
/// without them.
fn use_graphs() -> Result<bool> {
    match std::env::var("OSSMITH_GRAPHS").as_deref() {
        Err(_) | Ok("" | "on") => Ok(true),
        Ok("off") => Ok(false),
        Ok(other) => Err(Error::invalid_option(
            "OSSMITH_GRAPHS",
            format!("it is `{other}`: set it to on or off, or leave it unset"),
        )),
    }
}

/// The `count` largest values' indices, largest first, lowest index first among equals.
fn largest(values: &[f32], count: usize) -> Vec<u32> {
    let mut indices: Vec<u32> = (0..values.len() as u32).collect();
    indices.sort_by(|&a, &b| values[b as usize].total_cmp(&values[a as usize]).then(a.cmp(&b)));
    indices.truncate(count);
    indices
}

impl Backend for CudaBackend {
    fn describe(&self) -> String {
        format!("cuda:{} ({})", self.info.ordinal, self.info.name)
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn max_sampled_rows(&self) -> usize {
        self.pass.workspace.logit_rows
    }

    fn reserve_snapshots(&mut self, count: usize) -> Result<()> {
        self.pass.cache.reserve_snapshots(&self.context, count)
    }

    fn save_snapshot(&mut self, snapshot: usize, seq_slot: usize, end: usize) -> Result<()> {
        self.copy_snapshot(snapshot, seq_slot, end, true)
    }

    fn load_snapshot(&mut self, snapshot: usize, seq_slot: usize, end: usize) -> Result<()> {
        self.copy_snapshot(snapshot, seq_slot, end, false)
    }

    fn step_time(&self) -> Option<StepTime> {
        self.clock.time()
    }

    fn step_form(&self) -> StepForm {
        self.form
    }

    fn set_history(&mut self, seq_slot: usize, history: &TokenHistory) -> Result<()> {
        validate::history(self.pass.model, &self.limits, seq_slot, history)?;
        self.pass.sampling.set_history(seq_slot, history);
        Ok(())
    }

    fn set_mask(&mut self, seq_slot: usize, mask: usize, words: &[u32]) -> Result<()> {
        validate::mask(self.pass.model, &self.limits, seq_slot, mask, words)?;
        self.context.bind_to_thread().map_err(device_error("select the device"))?;
        self.pass.sampling.set_mask(seq_slot, mask, words, self.submitted, self.collected)
    }

    fn submit(&mut self, step: &Step<'_>) -> Result<()> {
        let staged = self.stage(step)?;
        self.start(step, staged)
    }

    fn collect(&mut self) -> Result<StepOutput> {
        let missing = || Error::Internal("collect was called with no step submitted".into());
        let step = self.in_flight.pop_front().ok_or_else(missing)?;
        step.done.synchronize().map_err(device_error("finish a step"))?;
        self.collected += 1;
        let (output, staged) = step.output(self.pass.given_reports());
        let marks = self.clock.read(staged.marks, &self.context)?;
        self.free.push(Staged { marks, ..staged });
        Ok(output)
    }
}

/// Whether a token is sampled after each of a step's tokens and nothing else is wanted of it, so that a graph can be
/// replayed for it.
fn samples_all(staging: &Staging, step: &Step<'_>) -> bool {
    staging.sampled.len() == staging.tokens
        && staging.head_rows == staging.tokens
        && staging.wanted.is_empty()
        && !step.capture_activations
}

impl CudaBackend {
    /// Checks a step and gets everything ready that waits for the device or takes memory of it: ranks do so before any of
    /// them starts, because kernels that wait for each other must not be kept from it by the driver.
    fn stage(&mut self, step: &Step<'_>) -> Result<Staged> {
        validate::step(self.pass.model, &self.limits, step, |slot| self.has_sampled[slot])?;
        validate::sampled_rows(step, self.max_sampled_rows())?;
        validate::masks(step, |slot, mask| self.pass.sampling.has_mask(slot, mask))?;
        self.context.bind_to_thread().map_err(device_error("select the device"))?;
        let mut staged = self.staged()?;
        let tables = &mut self.pass.cache.tables;
        tables.place(step)?;
        staged.staging.fill(step, tables);
        if self.use_graphs && samples_all(&staged.staging, step) {
            self.capture(staged.staging.tokens)?;
        }
        Ok(staged)
    }

    /// Starts a staged step.
    fn start(&mut self, step: &Step<'_>, mut staged: Staged) -> Result<()> {
        self.context.bind_to_thread().map_err(device_error("select the device"))?;
        let launched = self.launch(step, &mut staged);
        if launched.is_err() {
            // What was sent already is read from, and written to, memory that goes now.
            let _ = self.synchronize();
        }
        let (done, logits, activations) = launched?;
        self.submitted += 1;
        for sequence in step.sequences {
            if let Some(mask) = sequence.sample.and_then(|row| row.mask) {
                self.pass.sampling.name_mask(sequence.seq_slot, mask, self.submitted);
            }
        }
        for &index in &staged.staging.sampled {
            // After a draft it is not known which of its tokens will be accepted.
            let sequence = &step.sequences[index];
            self.has_sampled[sequence.seq_slot] = !matches!(sequence.input, Input::Draft(_));
        }
        self.in_flight.push_back(InFlight { staged, done, logits, activations });
        Ok(())
    }
}

impl InFlight {
    /// What a step that is done has yielded, and its memory. The reports of rows that are only reported begin at
    /// `given`.
    fn output(self, given: usize) -> (StepOutput, Staged) {
        let InFlight { staged, logits, activations, .. } = self;
        let staging = &staged.staging;
        let report_at = |row: usize, top: u32| -> TokenLogprobs {
            read_report(&staged.reports.words()[row * REPORT_WORDS..][..REPORT_WORDS], top)
        };
        let rows = staging.sampled.len();
        let tokens = staged.sampled_tokens.words()[..rows].iter();
        let sampled: Vec<Option<u32>> =
            tokens.map(|&token| (token != NOTHING_SAMPLED).then_some(token)).collect();
        let report = |(row, token): (usize, &Option<u32>)| {
            let top = staging.reported[row].filter(|_| token.is_some())?;
            Some(report_at(row, top))
        };
        let reports = sampled.iter().enumerate().map(report).collect();
        let mut prompt_reports = vec![Vec::new(); logits.len()];
        for (row, &(index, top)) in staging.given.iter().enumerate() {
            prompt_reports[index].push(report_at(given + row, top));
        }
        (StepOutput { sampled, reports, prompt_reports, logits, activations }, staged)
    }
}

impl Drop for CudaBackend {
    fn drop(&mut self) {
        // Host memory must outlive the copies in flight; what they found no longer matters.
        let _ = self.pass.stream.synchronize();
        self.pass.sampling.wait();
    }
}
