//! Every kernel against the CPU executor: the device runs one phase, the executor runs that phase's nodes on the
//! device's own inputs, and the outputs are compared. Shapes are the edges: one token, a full decode step, one more,
//! tiles that do not fill; positions around the window's edge and past YaRN's original context.

mod adapted;
mod device_values;
mod graph_values;
mod head;
mod next_norm;
mod phases;
mod sampler;
mod sampler_cases;
mod shadow;
mod step_layout;
mod verdict;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ossmith_plan::{Graph, Model, ModelSpec, Phase, Shard};

use super::CudaBackend;
use super::ranks::panicked;
use crate::backend::cpu::{Executor, Isa, PATIENCE, RankSums, SharedSums};
use crate::backend::{DenseWeights, Limits, PAGE_TOKENS, Progress};
use crate::checkpoint::Checkpoint;
use crate::{Error, Result};
use phases::Bench;
pub use sampler::SAMPLER_ROWS;
pub use verdict::{CheckLine, Difference};
use verdict::{Lines, SAMPLER};

/// Tokens of the steps that are checked: each schedule's fewest and most, and tiles that do not fill.
const TOKENS: [usize; 16] = [1, 2, 7, 8, 9, 32, 33, 64, 65, 128, 129, 256, 257, 512, 513, 1100];
/// First positions of the steps that are checked.
const STARTS: [usize; 3] = [0, 120, 4090];

/// The kernels that add what adapters add, to queries, keys and values and with the output projection.
const ADAPTER_KERNELS: [&str; 2] = ["adapt_qkv", "adapt_attn_out"];

/// What to check: everything, or a few kernels, phases and token counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// Kernels by name; with no phases either, all.
    pub kernels: Vec<String>,
    /// Phases by name.
    pub phases: Vec<String>,
    /// Tokens of the steps that are checked; if empty, the edges of every schedule.
    pub tokens: Vec<usize>,
    /// First positions of the steps that are checked; if empty, those around windows and the original context.
    pub starts: Vec<usize>,
    /// Rows, at least, with which each combination of the sampler's settings is checked.
    pub sampler_rows: usize,
}

impl CheckOptions {
    /// Whether a kernel of a phase is to be checked.
    fn picks(&self, phase: &str, kernel: &str) -> bool {
        let everything = self.kernels.is_empty() && self.phases.is_empty();
        everything
            || self.kernels.iter().any(|name| name == kernel)
            || self.phases.iter().any(|name| name == phase)
    }

    /// Whether what adapters add is to be checked.
    fn picks_adapters(&self) -> bool {
        ADAPTER_KERNELS.iter().any(|kernel| self.picks("adapters", kernel))
    }

    fn picks_phase(&self, phase: &Phase) -> bool {
        phase.kernels.iter().any(|kernel| self.picks(phase.name, kernel.info().name))
    }

    /// Tokens and first position of every step to check that `context` holds and whose schedule launches something to
    /// check.
    fn shapes(&self, model: &Model) -> Vec<(usize, usize)> {
        let or = |own: &[usize], default: &[usize]| {
            if own.is_empty() { default.to_vec() } else { own.to_vec() }
        };
        let (tokens, starts) = (or(&self.tokens, &TOKENS), or(&self.starts, &STARTS));
        let all =
            starts.iter().flat_map(|&start| tokens.iter().map(move |&tokens| (tokens, start)));
        let launches = |tokens| {
            let step = model.schedule(tokens);
            let of_rows = model.schedule(tokens.min(step_layout::HEAD_ROWS)).unembed();
            step.phases().chain(step.shadow_head).any(|phase| self.picks_phase(phase))
                || self.picks_adapters()
                || of_rows.is_some_and(|kernel| self.picks("unembed", kernel.info().name))
        };
        let fits = |&(tokens, start): &(usize, usize)| start + tokens <= model.spec.context;
        all.filter(fits).filter(|&(tokens, _)| launches(tokens)).collect()
    }
}

/// Checks all kernels of a model on a device, with synthetic weights of its shapes in one layer of each kind.
///
/// # Errors
/// Those of [`Checker::new`] and [`Checker::run`].
pub fn check(
    model: &'static Model,
    ordinal: usize,
    seed: u64,
    options: &CheckOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<CheckLine>> {
    Checker::new(model, ordinal, seed, options, progress)?.run(options, progress)
}

/// Checks the kernels of several ranks, each on a device of its own, as [`check`] does for one. All ranks check the same
/// phases at once, so that those that exchange find each other, and their executors add as the kernels do. A line has what
/// differs most on any rank.
///
/// # Errors
/// As [`check`], with the rank that failed first.
pub fn check_ranks(
    models: &[&'static Model],
    ordinals: &[usize],
    seed: u64,
    options: &CheckOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<CheckLine>> {
    let of = models.len();
    let mut limits = Limits::default();
    let mut small = Vec::new();
    for &model in models {
        let model = with_one_layer_of_each_class(model);
        limits = limits_of(&model.spec, options);
        small.push(model);
    }
    let Some(first) = small.first() else {
        return Err(Error::invalid_option("ranks", "ranks is 0; it must be at least 1".to_owned()));
    };
    let layers = models[0].spec.layers.len();
    let whole = Model { graph: first.whole_graph(), shard: Shard::WHOLE, ..**first };
    let whole: &'static Model = Box::leak(Box::new(whole));
    let weights = Arc::new(Checkpoint::synthetic(whole, seed));
    let backends = super::ranks::load(&small, &weights, limits, ordinals, progress)?;
    let sums = Arc::new(SharedSums::new(of, PATIENCE));
    let threads = std::thread::available_parallelism().map_or(1, usize::from) / of;
    let mut benches = Vec::new();
    for (shard, backend) in Shard::all(of).zip(backends.ranks) {
        let (isa, dense) = (Isa::detect()?, DenseWeights::Bf16);
        let (weights, adding) = (weights.clone(), Some(sums.clone() as Arc<dyn RankSums>));
        let executor =
            Executor::of_rank(whole, shard, weights, isa, Some(threads.max(1)), adding, dense)?;
        benches.push(Bench::new(backend, executor, layers, seed)?);
    }
    // Buffers have other places now.
    let addresses: Vec<_> = benches.iter().filter_map(|bench| bench.device.addresses()).collect();
    for bench in &mut benches {
        bench.device.connect(&addresses)?;
    }
    let results = std::thread::scope(|scope| {
        let check = |rank: usize, bench: Bench, progress: &mut dyn FnMut(Progress)| {
            let checked = || Checker { bench, seed }.run_lines(options, progress);
            let checked = catch_unwind(AssertUnwindSafe(checked));
            // The executors of other ranks may wait for this one's part of a sum.
            checked.unwrap_or_else(|panic| Err(panicked(&*panic))).map_err(|error| match error {
                Error::Rank { .. } => error,
                own => sums.fail(rank, own),
            })
        };
        let mut benches = benches.into_iter().enumerate();
        let first = benches.next();
        let others: Vec<_> = benches
            .map(|(rank, bench)| scope.spawn(move || check(rank, bench, &mut |_| {})))
            .collect();
        let first = first.map(|(rank, bench)| check(rank, bench, progress));
        let others = others
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| Err(panicked(&*panic))));
        first.into_iter().chain(others).collect::<Result<Vec<Lines>>>()
    })?;
    let joined = results.into_iter().reduce(Lines::joined_with);
    Ok(joined.unwrap_or_default().into_lines())
}

/// A device and the executor over the same synthetic weights, to check one schedule after another.
pub struct Checker {
    bench: Bench,
    seed: u64,
}

impl std::fmt::Debug for Checker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Checker of {}", self.bench.model.spec.name)
    }
}

impl Checker {
    /// Loads a model's shapes, with room for the steps of `options`.
    ///
    /// # Errors
    /// Those of [`CudaBackend::new`] and of the executor.
    pub fn new(
        model: &'static Model,
        ordinal: usize,
        seed: u64,
        options: &CheckOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Checker> {
        let all_layers = model.spec.layers.len();
        let model = with_one_layer_of_each_class(model);
        let limits = limits_of(&model.spec, options);
        let weights = Arc::new(Checkpoint::synthetic(model, seed));
        let backend = CudaBackend::new(model, weights.clone(), limits, ordinal, progress)?;
        let executor = Executor::new(backend.pass.model, weights, Isa::detect()?, None)?;
        Ok(Checker { bench: Bench::new(backend, executor, all_layers, seed)?, seed })
    }

    /// Checks other schedules of the same model from now on.
    ///
    /// # Errors
    /// Those of [`CudaBackend::reschedule`].
    pub fn reschedule(&mut self, model: &'static Model) -> Result<()> {
        self.bench.device.reschedule(with_one_layer_of_each_class(model))?;
        self.bench.model = self.bench.device.pass.model;
        Ok(())
    }

    /// A line for each kernel that is checked, on each kind of layer.
    ///
    /// # Errors
    /// Device errors, and [`Error::InvalidOption`] if nothing is checked; a kernel that is wrong is a line, not an error.
    pub fn run(
        &mut self,
        options: &CheckOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<CheckLine>> {
        self.run_lines(options, progress).map(Lines::into_lines)
    }

    fn run_lines(
        &mut self,
        options: &CheckOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Lines> {
        let shapes = options.shapes(self.bench.model);
        if shapes.is_empty() {
            let problem = "no step of these tokens launches it; `ossmith kernels plan` lists what each step launches";
            return Err(Error::invalid_option("kernel, phase, tokens", problem));
        }
        let mut lines = Lines::default();
        for (done, &(tokens, start)) in (1..).zip(&shapes) {
            let shape = format!("{tokens} tokens from position {start}");
            self.bench.step(tokens, start, options, &mut |kernel, part, found| {
                lines.add(kernel, part, &shape, found)
            })?;
            progress(Progress { stage: "check kernels", done, total: shapes.len() as u64 });
        }
        if options.picks("sample", "sample") {
            let rows = options.sampler_rows;
            self.bench.check_sampler(self.seed, rows, &mut |kernel, rows, found| {
                lines.add(kernel, SAMPLER, rows, found)
            })?;
        }
        self.bench.check_shadow(self.seed, options, &mut |kernel, rows, found| {
            lines.add(kernel, SAMPLER, rows, found)
        })?;
        Ok(lines)
    }
}

/// The same kernels over one layer of each class alone: enough to run each of them, and little to load.
#[must_use]
pub fn with_one_layer_of_each_class(model: &'static Model) -> &'static Model {
    let layers = model.spec.layer_classes();
    let classes: Vec<usize> = (0..layers.len()).collect();
    let spec = ModelSpec { layers: layers.leak(), ..model.spec };
    let graph = Graph { classes: classes.leak(), ..model.graph };
    Box::leak(Box::new(Model { spec, graph, ..*model }))
}

fn limits_of(spec: &ModelSpec, options: &CheckOptions) -> Limits {
    let most = |own: &[usize], default: &[usize]| {
        own.iter().chain(default.iter().filter(|_| own.is_empty())).copied().max().unwrap_or(1)
    };
    let (tokens, start) = (most(&options.tokens, &TOKENS), most(&options.starts, &STARTS));
    let positions = (start + tokens).min(spec.context);
    Limits {
        max_sequences: step_layout::SEQUENCES,
        // The history of a step is written in chunks of as many.
        max_step_tokens: tokens.max(64),
        pages: step_layout::SEQUENCES * positions.div_ceil(PAGE_TOKENS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_layer_of_each_class_runs_the_kernels_of_all() {
        let whole = ossmith_models::GPT_OSS_20B;
        let model = with_one_layer_of_each_class(whole);
        let windows: Vec<_> = model.spec.layers.iter().map(|layer| layer.window).collect();
        assert_eq!((windows, model.graph.classes), (vec![Some(128), None], &[0, 1][..]));
        assert_eq!(model.spec.hidden, whole.spec.hidden);
        assert_eq!(model.launched().len(), whole.launched().len());
    }

    #[test]
    fn short_contexts_are_checked_too() {
        let shapes = |context, options: &CheckOptions| {
            let own = ossmith_models::GPT_OSS_20B.on((9, 0));
            options.shapes(&Model { spec: ModelSpec { context, ..own.spec }, ..own })
        };
        let all = CheckOptions::default();
        assert_eq!(shapes(1, &all), [(1, 0)]);
        assert_eq!(shapes(130, &all).last(), Some(&(9, 120)));
        assert_eq!(shapes(131_072, &all).len(), TOKENS.len() * STARTS.len());
    }

    #[test]
    fn a_narrowed_check_takes_the_steps_that_launch_what_is_checked() {
        let model = ossmith_models::GPT_OSS_20B.on((9, 0));
        let named =
            |kernel: &str| CheckOptions { kernels: vec![kernel.into()], ..CheckOptions::default() };
        let tokens = |options: &CheckOptions| {
            let mut tokens: Vec<usize> =
                options.shapes(&model).iter().map(|shape| shape.0).collect();
            tokens.truncate(tokens.len() / STARTS.len()); // of the first start
            tokens
        };
        assert_eq!(tokens(&named("moe_up_swiglu_decode1")), [1]);
        assert_eq!(tokens(&named("moe_up_swiglu_decode8")), [2, 7, 8]);
        assert_eq!(tokens(&named("moe_up_swiglu_wgmma")), [257, 512, 513, 1100]);
        let phase = CheckOptions { phases: vec!["router".into()], ..CheckOptions::default() };
        assert_eq!(tokens(&phase), [9, 32, 33, 64, 65, 128, 129, 256, 257, 512, 513, 1100]);
        let other = CheckOptions { tokens: vec![8], ..named("moe_up_swiglu_decode1") };
        assert_eq!(other.shapes(&model), []);
        assert!(named("sample").picks("sample", "sample") && !phase.picks("sample", "sample"));
    }
}
