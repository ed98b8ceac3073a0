//! Timings of decode steps on the device, with the roofline measured beside them.

use std::time::Instant;

use ossmith_plan::params::{FillBf16, FlatRead};
use ossmith_plan::{Model, Phase, StepShape};

use super::kernels::Extent;
use super::memory::{Buffer, device_error};
use super::phase::LayerPhase;
use super::{CudaBackend, weights};
use crate::backend::{Backend, Input, LogitRows, PAGE_TOKENS, Sequence, Step, StepOutput};
use crate::sampling::SamplerConfig;
use crate::{Error, Result};

/// Median and range of repeated timings, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Median.
    pub median_ms: f64,
    /// Fastest.
    pub min_ms: f64,
    /// Slowest.
    pub max_ms: f64,
}

impl Spread {
    fn of(mut times: Vec<f64>) -> Spread {
        times.sort_by(f64::total_cmp);
        let at = |i: usize| times.get(i).copied().unwrap_or(f64::NAN);
        Spread { median_ms: at(times.len() / 2), min_ms: at(0), max_ms: at(times.len() - 1) }
    }
}

/// One phase over all layers.
#[derive(Clone, Debug, PartialEq)]
pub struct PhaseTime {
    /// Phase name.
    pub name: &'static str,
    /// Bytes it must read in a whole step.
    pub bytes: f64,
    /// Time with nothing else between.
    pub alone: Spread,
    /// Time in the chain: by how much a step without it is shorter, in milliseconds.
    pub in_chain_ms: f64,
}

/// A decode step of one batch size and context.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodeTimes {
    /// Its shape, with the routing that was seen.
    pub shape: StepShape,
    /// Bytes that it must read.
    pub bytes: f64,
    /// Time from step to step, the host's share included.
    pub step: Spread,
    /// Time to read as many bytes front to back.
    pub roofline: Spread,
    /// Its phases.
    pub phases: Vec<PhaseTime>,
}

/// A part of a step that is timed by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// A phase, in every layer.
    Layers(LayerPhase),
    Head,
    Sample,
}

/// The sums of the last real step are not cleared.
const NO_SUMS: u64 = 0;
/// Steps timed together.
const STEPS: usize = 32;
/// Timings whose median is taken.
const REPEATS: usize = 9;

impl CudaBackend {
    /// Times decode steps of `batch` sequences that each see `context` keys: steps around that many (from none on
    /// where `context` is below 16), and phases with just as many. The cache holds random keys and values, tokens are
    /// drawn at temperature 1, so routing is as diverse as the weights make it.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if the limits do not hold the batch; device errors.
    pub fn time_decode(&mut self, batch: usize, context: usize) -> Result<DecodeTimes> {
        let first = context.saturating_sub(STEPS / 2);
        let last = first + STEPS;
        let pages = last.div_ceil(PAGE_TOKENS);
        if batch > self.limits.max_sequences || batch * pages > self.limits.pages {
            return Err(Error::invalid_option(
                "batch",
                format!(
                    "{batch} sequences of {last} tokens need {batch} sequence slots and {} pages; there are {} and {}",
                    batch * pages,
                    self.limits.max_sequences,
                    self.limits.pages
                ),
            ));
        }
        self.fill_cache()?;
        let tables: Vec<Vec<u32>> =
            (0..batch).map(|s| (0..pages).map(|i| (i * batch + s) as u32).collect()).collect();
        self.start(&tables, first)?;
        self.steps(&tables, first)?;
        let mut times = Vec::new();
        for _ in 0..REPEATS {
            let begin = Instant::now();
            self.steps(&tables, first)?;
            times.push(begin.elapsed().as_secs_f64() * 1e3 / STEPS as f64);
        }
        // Phases have the positions and routes that this step leaves.
        let distinct_experts = self.start(&tables, context.saturating_sub(1))?;
        let shape = StepShape { tokens: batch, keys: context, distinct_experts };
        let bytes = self.pass.model.step_bytes(&shape);
        Ok(DecodeTimes {
            shape,
            bytes,
            step: Spread::of(times),
            roofline: self.time_flat_read(bytes)?,
            phases: self.time_phases(&shape)?,
        })
    }

    /// Feeds one different token to each sequence; returns the distinct experts of a layer, on average.
    fn start(&mut self, tables: &[Vec<u32>], position: usize) -> Result<f64> {
        let vocab = self.pass.model.spec.vocab;
        let tokens: Vec<[u32; 1]> =
            (0..tables.len()).map(|s| [(s * 7919 % vocab) as u32]).collect();
        let sequences: Vec<Sequence<'_>> = tables
            .iter()
            .zip(&tokens)
            .enumerate()
            .map(|(slot, (pages, token))| drawing(slot, position, Input::Tokens(token), pages))
            .collect();
        let output = self.run(&Step { sequences: &sequences, capture_activations: true })?;
        Ok(distinct(&output, self.pass.model.spec.max_experts()))
    }

    /// Steps of the sequences' positions from `first` on.
    fn steps(&mut self, tables: &[Vec<u32>], first: usize) -> Result<()> {
        for i in 0..STEPS {
            let sequences: Vec<Sequence<'_>> = tables
                .iter()
                .enumerate()
                .map(|(slot, pages)| drawing(slot, first + i, Input::Sampled, pages))
                .collect();
            self.submit(&Step { sequences: &sequences, capture_activations: false })?;
            if i > 0 {
                self.collect()?;
            }
        }
        self.collect().map(drop)
    }

    fn fill_cache(&self) -> Result<()> {
        for layer in 0..self.pass.model.spec.layers.len() {
            let (keys, values) = self.pass.cache.buffers(layer);
            self.fill_random(keys, layer as u32)?;
            self.fill_random(values, !(layer as u32))?;
        }
        Ok(())
    }

    /// Fills a buffer with random bf16 numbers between -1 and 1.
    fn fill_random(&self, buffer: &Buffer, key: u32) -> Result<()> {
        let columns = 1 << 10;
        let params = FillBf16 {
            out: buffer.ptr(),
            key0: key,
            key1: 1,
            offset: 0,
            spread: 1,
            scale: 1.0 / 32_768.0,
            rows: (buffer.bytes() / 2 / columns) as u32,
            k: columns as u32,
            order: weights::ROW_MAJOR,
            head_dim: 0,
            unused: 0,
        };
        let extent = Extent { tokens: 0, routes: 0, query_tiles: 0 };
        self.pass.kernels.launch(
            &self.pass.stream,
            &self.pass.model.tools.fill_bf16,
            extent,
            &params,
        )
    }

    /// Times reading `bytes` bytes front to back.
    ///
    /// # Errors
    /// Device errors.
    pub fn time_flat_read(&self, bytes: f64) -> Result<Spread> {
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

    fn time_phases(&self, shape: &StepShape) -> Result<Vec<PhaseTime>> {
        let (layers, tokens) = (self.pass.model.spec.layers.len(), shape.tokens);
        parts(self.pass.model, shape)
            .into_iter()
            .map(|(part, name, bytes)| {
                let alone = self.time_graph(|| match part {
                    Part::Layers(phase) => (0..layers)
                        .try_for_each(|layer| self.phase_with_fixed_routes(phase, layer, tokens)),
                    Part::Head => self.pass.head(&self.inputs, tokens, 0..tokens),
                    Part::Sample => self.pass.sample(&self.inputs, tokens),
                })?;
                // Side by side, so that a clock that moves moves both.
                let whole = self.time_graph(|| self.step_without(tokens, None))?;
                let without = self.time_graph(|| self.step_without(tokens, Some(part)))?;
                Ok(PhaseTime {
                    name,
                    bytes,
                    alone,
                    in_chain_ms: whole.median_ms - without.median_ms,
                })
            })
            .collect()
    }

    /// A phase of a layer, but the router's sums go where nobody looks: those of the last real step stay, so that
    /// steps without some phase still read as many experts.
    fn phase_with_fixed_routes(
        &self,
        phase: LayerPhase,
        layer: usize,
        tokens: usize,
    ) -> Result<()> {
        if phase != LayerPhase::AttnOut {
            return self.pass.phase(phase, &self.inputs, layer, tokens);
        }
        let elsewhere = self.pass.workspace.attn_partials.ptr(); // attention writes them before it reads them
        self.pass.attn_out(self.pass.model.schedule(tokens), layer, tokens, elsewhere)
    }

    /// The launches of a decode step but for one part.
    fn step_without(&self, tokens: usize, skipped: Option<Part>) -> Result<()> {
        let kept = |part: Part| skipped != Some(part);
        self.pass.embed(&self.inputs, tokens, NO_SUMS)?;
        for layer in 0..self.pass.model.spec.layers.len() {
            for phase in LayerPhase::ALL.into_iter().filter(|&phase| kept(Part::Layers(phase))) {
                self.phase_with_fixed_routes(phase, layer, tokens)?;
            }
        }
        if kept(Part::Head) {
            self.pass.head(&self.inputs, tokens, 0..tokens)?;
        }
        if kept(Part::Sample) { self.pass.sample(&self.inputs, tokens) } else { Ok(()) }
    }

    /// Captures launches and times replays.
    fn time_graph(&self, launches: impl Fn() -> Result<()>) -> Result<Spread> {
        let graph = self.graph_of(launches)?;
        let mut times = Vec::new();
        for _ in 0..REPEATS {
            let begin = Instant::now();
            graph.launch().map_err(device_error("replay a timing graph"))?;
            self.synchronize()?;
            times.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        // The first replay uploads the graph.
        times.remove(0);
        Ok(Spread::of(times))
    }
}

impl Spread {
    fn divided_by(self, count: f64) -> Spread {
        Spread {
            median_ms: self.median_ms / count,
            min_ms: self.min_ms / count,
            max_ms: self.max_ms / count,
        }
    }
}

fn drawing<'a>(slot: usize, start: usize, input: Input<'a>, pages: &'a [u32]) -> Sequence<'a> {
    let sample = SamplerConfig { temperature: 1.0, seed: slot as u64, ..SamplerConfig::GREEDY };
    Sequence { seq_slot: slot, start, input, pages, sample: Some(sample), logits: LogitRows::None }
}

/// The parts of a step with their names and the bytes that they must read in a whole step. Small steps have no router
/// of their own: what it would read, the phase before it does.
fn parts(model: &Model, shape: &StepShape) -> Vec<(Part, &'static str, f64)> {
    let small = model.schedule(shape.tokens).is_small();
    let bytes = |phase: &Phase| model.phase_bytes(phase, shape);
    let mut parts = Vec::new();
    for phase in LayerPhase::ALL {
        let plan = phase.plan(model);
        let more = match phase {
            LayerPhase::Router if small => continue,
            LayerPhase::AttnOut if small => bytes(LayerPhase::Router.plan(model)),
            _ => 0.0,
        };
        parts.push((Part::Layers(phase), plan.name, bytes(plan) + more));
    }
    let head = model.phases.iter().filter(|phase| model.is_head(phase));
    parts.extend(head.map(|phase| (Part::Head, phase.name, bytes(phase))));
    let logits = size_of::<f32>() * model.spec.vocab * shape.tokens;
    parts.push((Part::Sample, "sample", logits as f64));
    parts
}

/// Distinct experts of a layer, averaged over layers.
fn distinct(output: &StepOutput, experts: usize) -> f64 {
    let count = |indices: &[u32]| {
        let mut seen = vec![false; experts];
        indices.iter().for_each(|&expert| seen[expert as usize] = true);
        seen.into_iter().filter(|&seen| seen).count() as f64
    };
    let layers = output.activations.len().max(1) as f64;
    output.activations.iter().map(|layer| count(&layer.router_indices)).sum::<f64>() / layers
}
