//! The CUDA backend: generated kernels, compiled once, on one stream of one device.
//!
//! A step is one copy of the host's words ([`staging`]), the phases as launches ([`forward`]), and one copy of the
//! sampled tokens back. Steps that sample a token after each of theirs, one per sequence or a draft to verify, replay a
//! CUDA graph per number of tokens; all others launch the same kernels one by one. Kernels are found by [`nvrtc`] and [`cubins`], weights placed by [`weights`].
//!
//! This is the one module that names cudarc. It knows nothing of requests or text.

#![allow(unsafe_code, reason = "driver calls; each block says what it relies on")]

mod adapters;
pub mod bench;
mod bundle;
mod cache;
pub mod check;
mod clock;
mod cubins;
mod device;
mod eager;
mod exchange;
mod forward;
mod graphs;
mod kernels;
mod launch;
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
mod shadow;
mod sources;
mod staging;
mod stamps;
mod synthetic_inputs;
pub mod trace;
mod weights;
mod whole_file;
mod workspace;

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::{CudaContext, CudaEvent};
use ossmith_plan::params::NOTHING_SAMPLED;
use ossmith_plan::{Model, Rates, StepShape, Weight};

pub use bundle::Bundle;
pub use cubins::{CacheUse, CubinCache};
pub use device::{DeviceInfo, device_count, probe};
pub use kernels::Kernels;
pub use memory_budget::{memory_budget, memory_budget_without_device};
pub use peers::check_peers;
pub use ranks::RankedCudaBackend;
pub use sources::{Sources, emit, plan_hash};
pub use stamps::{TracedBlock, TracedLaunch};

use crate::backend::{
    Backend, HeldStep, LayerActivations, Limits, Progress, RowSampling, SleepLevel, Step, StepForm,
    StepOutput, StepTime, out_of_order, validate,
};
use crate::checkpoint::Checkpoint;
use crate::sampling::{TokenHistory, TokenLogprobs};
use crate::{Adapter, AdapterSupport, Error, Result};
use adapters::DeviceAdapters;
use cache::DeviceCache;
use clock::{Clock, Marks};
use exchange::Exchange;
use forward::{Pass, StepInputs};
use graphs::{DecodeGraph, DecodeStep, Samples, use_graphs};
use memory::{Buffer, Pinned, device_error};
use sampling_state::{REPORT_WORDS, SamplingState, StagedHistories, read_report};
use shadow::Shadow;
use staging::{Arrays, Staging};
use weights::{DeviceWeights, ReleasedWeights};
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
    graphs: HashMap<DecodeStep, DecodeGraph>,
    /// How the step was launched that was submitted last.
    form: StepForm,
    /// The weights while it sleeps.
    released: Option<ReleasedWeights>,
    /// Whether steps are replayed as graphs where they can be.
    use_graphs: bool,
    free: Vec<Staged>,
    /// The step whose layers were launched, if it is still to be sampled.
    held: Option<(HeldStep, Launched)>,
    in_flight: VecDeque<InFlight>,
    /// Steps submitted and steps collected so far.
    submitted: u64,
    collected: u64,
    clock: Clock,
    /// Whether a token was sampled for a slot, for which [`Input::Sampled`] can stand.
    has_sampled: Vec<bool>,
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

/// A step whose layers were launched.
#[derive(Debug)]
struct Launched {
    staged: Staged,
    logits: Vec<Vec<f32>>,
    activations: Vec<LayerActivations>,
}

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
        let shadow = Shadow::new(&context, &stream, &kernels, model, &weights)?;
        let workspace_sizes = workspace::sizes(model, &limits)?;
        tracing::info!(device = info.name, cache_bytes = cache.bytes(), "model placed");
        let arrays = Arrays::new(&model.spec, &limits);
        let words =
            Buffer::zeroed(&context, arrays.device_words() * size_of::<u32>(), "a step's words")?;
        Ok(CudaBackend {
            inputs: arrays.inputs(words.ptr()),
            workspace_sizes,
            pass: Pass {
                model,
                stream,
                kernels,
                weights,
                cache,
                workspace,
                sampling,
                shadow,
                exchange,
                adapters: DeviceAdapters::new(&model.spec, limits.max_sequences),
            },
            has_sampled: vec![false; limits.max_sequences],
            graphs: HashMap::new(),
            form: StepForm::default(),
            released: None,
            use_graphs: use_graphs()?,
            free: Vec::new(),
            held: None,
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

    /// Writes weights over those that are placed, and drops what was made of those: the shadow of the unembedding, and graphs,
    /// which hold the scales of weights.
    fn write_weights(&mut self, weights: &Checkpoint, changed: &[(Weight, usize)]) -> Result<()> {
        self.context.bind_to_thread().map_err(device_error("select the device"))?;
        self.synchronize()?;
        self.graphs.clear();
        let Pass { model, stream, kernels, weights: placed, shadow, .. } = &mut self.pass;
        placed.replace(model, weights, changed)?;
        match shadow {
            Some(shadow) if changed.iter().any(|(weight, _)| *weight == Weight::Unembedding) => {
                shadow.fill(stream, kernels, model, placed)
            }
            _ => Ok(()),
        }
    }

    /// Frees the memory that a sleeping device does without; those weights that are to be kept were copied before.
    fn free_memory(&mut self) {
        self.pass.cache.release();
        self.pass.weights.clear();
        self.pass.shadow = None;
        self.pass.adapters.release();
    }

    /// Takes the memory again, if it was freed.
    fn take_memory(&mut self) -> Result<()> {
        let Some(released) = &self.released else { return Ok(()) };
        self.context.bind_to_thread().map_err(device_error("select the device"))?;
        let Pass { model, stream, kernels, weights, cache, shadow, adapters, .. } = &mut self.pass;
        *cache = DeviceCache::new(&self.context, &model.rank_spec(), &self.limits)?;
        weights.restore(&self.context, released)?;
        *shadow = Shadow::new(&self.context, stream, kernels, model, weights)?;
        adapters.restore(&self.context, stream)?;
        self.released = None;
        Ok(())
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

    /// Makes the stream wait for masks, and writes histories.
    fn prepare_sampling(&mut self, staged: &mut StagedHistories) -> Result<()> {
        let Pass { sampling, stream, kernels, model, .. } = &mut self.pass;
        sampling.prepare(&self.context, stream, kernels, model, staged)
    }

    /// What its cost model expects of the device.
    fn rates(&self) -> Rates {
        Rates { sms: self.info.sms as usize, ..Rates::of(&self.pass.model.arch) }
    }

    fn synchronize(&self) -> Result<()> {
        self.pass.stream.synchronize().map_err(device_error("finish a step"))
    }
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

    fn expected_prompt_time(&self, tokens: usize) -> Option<Duration> {
        let model = self.pass.model;
        let shape = StepShape::prompt(model, tokens, 0);
        let phases = model.predictions(model.schedule(tokens), &shape, &self.rates());
        let us: f64 = phases.iter().map(|(_, prediction)| prediction.us()).sum();
        Some(Duration::from_secs_f64(us / 1e6))
    }

    fn step_form(&self) -> StepForm {
        self.form
    }

    fn set_history(&mut self, seq_slot: usize, history: &TokenHistory) -> Result<()> {
        validate::history(self.pass.model, &self.limits, seq_slot, history)?;
        self.pass.sampling.set_history(seq_slot, history);
        Ok(())
    }

    fn replace_weights(&mut self, weights: Arc<Checkpoint>) -> Result<()> {
        if weights.synthetic_kind().is_some() || weights.has_bf16_experts() {
            let problem = "a device takes neither random ones nor experts in bf16 in their place";
            return Err(Error::invalid_option("weights", problem));
        }
        let all = self.pass.model.graph.all_weights();
        let all: Vec<_> = all.map(|(info, layer)| (info.weight, layer)).collect();
        self.write_weights(&weights, &all)
    }

    fn update_weights(&mut self, path: &Path) -> Result<(usize, usize)> {
        let (weights, changed) = Checkpoint::of_update(path, self.pass.model)?;
        self.write_weights(&weights, &changed)?;
        Ok((changed.len(), self.pass.model.graph.all_weights().count()))
    }

    fn sleep(&mut self, level: SleepLevel) -> Result<bool> {
        self.context.bind_to_thread().map_err(device_error("select the device"))?;
        self.synchronize()?;
        let kept = level == SleepLevel::One;
        self.released = Some(self.pass.weights.released(kept)?);
        self.free_memory();
        self.graphs.clear();
        self.has_sampled.fill(false);
        Ok(!kept)
    }

    fn wake(&mut self) -> Result<()> {
        let woken = self.take_memory();
        if woken.is_err() {
            self.free_memory();
        }
        woken
    }

    fn set_mask(&mut self, seq_slot: usize, mask: usize, words: &[u32]) -> Result<()> {
        validate::mask(self.pass.model, &self.limits, seq_slot, mask, words)?;
        self.context.bind_to_thread().map_err(device_error("select the device"))?;
        // The step that waits for the copy: the next one, or that which is still to be sampled.
        let read_by = self.submitted + u64::from(self.held.is_none());
        self.pass.sampling.set_mask(seq_slot, mask, words, read_by, self.collected)
    }

    fn adapter_support(&self) -> AdapterSupport {
        match self.pass.exchange {
            None => AdapterSupport::Attention,
            Some(_) => AdapterSupport::None,
        }
    }

    fn set_adapter(&mut self, seq_slot: usize, adapter: Option<Arc<Adapter>>) -> Result<()> {
        if let Some(adapter) = &adapter {
            let other = (!adapter.fits(&self.pass.model.spec)).then(|| "other shapes".to_owned());
            if let Some(why) = other.or_else(|| self.adapter_support().refusal(adapter)) {
                return Err(Error::Internal(format!("an adapter for slot {seq_slot}: {why}")));
            }
        }
        self.context.bind_to_thread().map_err(device_error("select the device"))?;
        let Pass { adapters, stream, .. } = &mut self.pass;
        adapters.set(&self.context, stream, seq_slot, adapter)
    }

    fn submit(&mut self, step: &Step<'_>) -> Result<()> {
        let staged = self.stage(step, true)?;
        self.start(step, staged)
    }

    fn submit_layers(&mut self, step: &Step<'_>) -> Result<()> {
        let staged = self.stage(step, false)?;
        self.start_layers(step, staged)
    }

    fn sample(&mut self, rows: &[Option<RowSampling<'_>>]) -> Result<()> {
        let (step, mut launched) = self.held.take().ok_or_else(|| out_of_order("sample"))?;
        self.context.bind_to_thread().map_err(device_error("select the device"))?;
        let sampled = step.sequences(rows).and_then(|sequences| {
            self.sample_rows(&mut launched, &sequences)?;
            Ok(sequences)
        });
        if sampled.is_err() {
            // The layers still read the memory that goes now.
            let _ = self.synchronize();
        }
        self.end(launched, &sampled?)
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
        let (mut sampled, mut reports) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        for row in (0..rows).filter(|&row| !staging.left_out[row]) {
            let token = staged.sampled_tokens.words()[row];
            let token = (token != NOTHING_SAMPLED).then_some(token);
            reports.push(
                staging.reported[row].filter(|_| token.is_some()).map(|top| report_at(row, top)),
            );
            sampled.push(token);
        }
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
