//! What a step or a prompt will take, before anything is run: the cost model of `ossmith_plan`, calibrated on recorded
//! results of the same profile.
//!
//! A step is work of eight kinds, each in microseconds at the rates that the card's data sheet gives ([`Work`]). A
//! prediction is their sum, each times a factor of its profile and regime. The factors are fitted to the recorded results
//! by least squares of relative errors, held near what is usual ([`USUAL`]) where the results do not decide them. The
//! error that is stated with a prediction is the one of results that the fit has not seen: each recorded result is
//! predicted from all others.

use ossmith_plan::{Arch, Axis, Model, Op, Section, StepShape};

use crate::error::Result;
use crate::history;
use crate::records::{Content, Record};

/// Kinds of work.
pub const KINDS: usize = 8;

/// Names of the kinds of work, in their order.
pub const KIND_NAMES: [&str; KINDS] = [
    "read dense weights",
    "read experts' weights",
    "read keys and values",
    "multiply",
    "attend to prompts",
    "launch",
    "pass values on",
    "fill tiles",
];

/// Work of each kind, in microseconds at the published rates.
pub type Work = [f64; KINDS];

/// Factors where no result decides them: memory gives about five sixths of its published rate, tensor cores about two
/// thirds of theirs, attention of prompts a third, and a launch takes 1.5 µs of a chain.
pub const USUAL: Work = [1.2, 1.3, 1.3, 1.5, 3.0, 1.5, 1.5, 0.5];

/// How far a factor may usually lie from [`USUAL`], relative to it, for one standard deviation.
const FACTOR_DEVIATION: f64 = 0.5;
/// How far a step may usually lie from its prediction, relative to it, for one standard deviation.
const STEP_DEVIATION: f64 = 0.03;

/// The work of one step by the schedule that the model has for it. `prompt` for a step of consecutive tokens, whose
/// attention reads keys in tiles.
#[must_use]
pub fn step_work(model: &Model, arch: &Arch, shape: &StepShape, prompt: bool) -> Work {
    let schedule = model.schedule(shape.tokens);
    let to_read = |bytes: f64| bytes / f64::from(arch.memory_gb_per_s) / 1e3;
    let to_compute = |flops: f64| flops / f64::from(arch.bf16_tflops) / 1e6;
    let mut work = [0.0; KINDS];
    for total in model.phase_totals(schedule, shape) {
        if total.section == Section::Head && shape.rows == 0 {
            continue;
        }
        let experts = total.phase.computes(Op::ExpertLinear);
        let attention = total.phase.computes(Op::Attention);
        let read = to_read(total.cost.weight_bytes);
        work[usize::from(experts)] += read;
        if attention && prompt {
            work[4] += to_compute(total.cost.flops);
        } else {
            work[2] += to_read(total.cost.cache_bytes);
            let tile = if experts { expert_tile(total.phase) } else { None };
            let full = tile.map_or(1.0, |tile| padding(model, shape, tile));
            work[3] += to_compute(total.cost.flops);
            work[7] += to_compute(total.cost.flops * (full - 1.0));
        }
        work[5] += (total.times * total.phase.kernels.len()) as f64;
        // A phase reads and writes about a row of the residual in float32 per token.
        let row_bytes = (8 * model.spec.hidden * shape.tokens * total.times) as f64;
        work[6] += to_read(row_bytes + 2.0 * total.cost.logit_bytes);
    }
    work
}

/// Routes of a tile of the kernel that computes a phase, if it takes experts in tiles.
fn expert_tile(phase: &ossmith_plan::Phase) -> Option<f64> {
    phase.kernels.iter().find_map(|kernel| match kernel.info().grid.y {
        Axis::ExpertTiles(routes) => Some(f64::from(routes)),
        _ => None,
    })
}

/// By how much tiles that are not full multiply the work of experts: each chosen expert leaves half a tile empty, or has
/// one tile.
fn padding(model: &Model, shape: &StepShape, tile: f64) -> f64 {
    let routes = (shape.tokens * model.spec.max_top_k()) as f64;
    let tiles = (routes / tile + shape.distinct_experts / 2.0).max(shape.distinct_experts);
    (tiles * tile / routes).max(1.0)
}

/// A step's or a prompt's work, by regime: what a prediction needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// Work of the steps of each regime.
    pub parts: Vec<(&'static str, Work)>,
}

impl Load {
    /// A decode step of `batch` sequences that see `context` keys each.
    #[must_use]
    pub fn decode(model: &Model, arch: &Arch, batch: usize, context: usize) -> Load {
        let shape = StepShape::decode(model, batch, context);
        Load { parts: vec![(regime(model, batch), step_work(model, arch, &shape, false))] }
    }

    /// A prompt of `tokens` tokens in steps of at most `chunk`.
    #[must_use]
    pub fn prompt(model: &Model, arch: &Arch, tokens: usize, chunk: usize) -> Load {
        let (tokens, chunk) = (tokens.max(1), chunk.max(1));
        let step = |start: usize| {
            let count = chunk.min(tokens - start);
            let keys = start + count.div_ceil(2);
            let rows = usize::from(start + count == tokens);
            let shape = StepShape { rows, ..StepShape::decode(model, count, keys) };
            (regime(model, count), step_work(model, arch, &shape, true))
        };
        Load { parts: (0..tokens).step_by(chunk).map(step).collect() }
    }
}

fn regime(model: &Model, tokens: usize) -> &'static str {
    model.schedule(tokens).regime.name()
}

/// A recorded result beside what its step consists of.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Model, kind and size: `gpt-oss-20b, batch 8, 1,024 keys`.
    pub name: String,
    /// The file.
    pub file: String,
    /// Its work.
    pub load: Load,
    /// Measured microseconds.
    pub us: f64,
}

/// A recorded result beside its prediction by a fit that has not seen it.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// As [`Measured::name`].
    pub name: String,
    /// Regime of its largest part.
    pub regime: &'static str,
    /// Measured milliseconds.
    pub measured_ms: f64,
    /// Predicted milliseconds.
    pub predicted_ms: f64,
}

impl Compared {
    /// Prediction over measurement, minus one.
    #[must_use]
    pub fn error(&self) -> f64 {
        self.predicted_ms / self.measured_ms - 1.0
    }
}

/// Factors of one profile.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictor {
    /// The profile.
    pub arch: Arch,
    factors: Vec<(&'static str, Work)>,
    /// Every recorded result beside its prediction from all others; empty if none is recorded for this profile.
    pub compared: Vec<Compared>,
}

impl Predictor {
    /// The predictor of a profile, fitted to the results that the repository keeps.
    ///
    /// # Errors
    /// [`crate::Error::Content`] if an embedded result cannot be read, which a test rules out.
    pub fn of(arch: Arch) -> Result<Predictor> {
        Ok(Predictor::fit(arch, &measured(&arch, &history::calibration()?)))
    }

    fn fit(arch: Arch, measured: &[Measured]) -> Predictor {
        let all: Vec<&Measured> = measured.iter().collect();
        let compared = (0..all.len()).map(|left_out| {
            let mut others = all.clone();
            let one = others.remove(left_out);
            Compared {
                name: one.name.clone(),
                regime: one.load.parts[0].0,
                measured_ms: one.us / 1e3,
                predicted_ms: predict(&factors(&others), &one.load) / 1e3,
            }
        });
        let compared = compared.collect();
        Predictor { arch, factors: factors(&all), compared }
    }

    /// Predicted milliseconds.
    #[must_use]
    pub fn ms(&self, load: &Load) -> f64 {
        predict(&self.factors, load) / 1e3
    }

    /// Mean and largest absolute relative error of the recorded results of a regime (all of them where it has none);
    /// `None` if none is recorded.
    #[must_use]
    pub fn error(&self, regime: &str) -> Option<(f64, f64)> {
        let of = |all: bool| -> Vec<f64> {
            let kept = self.compared.iter().filter(|one| all || one.regime == regime);
            kept.map(|one| one.error().abs()).collect()
        };
        let errors = if of(false).is_empty() { of(true) } else { of(false) };
        let largest = errors.iter().copied().fold(0.0, f64::max);
        (!errors.is_empty()).then(|| (errors.iter().sum::<f64>() / errors.len() as f64, largest))
    }

    /// The factors of a regime, in the order of [`KIND_NAMES`].
    #[must_use]
    pub fn factors(&self, regime: &str) -> Work {
        of_regime(&self.factors, regime)
    }
}

/// What the recorded results of a profile measured.
#[must_use]
pub fn measured(arch: &Arch, records: &[Record]) -> Vec<Measured> {
    let mut found = Vec::new();
    for record in records.iter().filter(|record| record.profile() == Some(arch.name)) {
        let Some(model) = ossmith_models::find(&record.model) else { continue };
        let model = &model.on(arch.compute);
        match &record.content {
            Content::Decode(runs) => found.extend(runs.iter().map(|run| {
                let shape = StepShape {
                    distinct_experts: run.distinct_experts,
                    ..StepShape::decode(model, run.batch, run.context)
                };
                let work = step_work(model, arch, &shape, false);
                Measured {
                    name: format!("{}, batch {}, {} keys", record.model, run.batch, run.context),
                    file: record.file.clone(),
                    load: Load { parts: vec![(regime(model, run.batch), work)] },
                    us: run.step.median_ms * 1e3,
                }
            })),
            Content::Prefill { chunk, runs } => found.extend(runs.iter().map(|run| Measured {
                name: format!(
                    "{}, prompt of {}, chunks of {}",
                    record.model,
                    run.tokens,
                    chunk.min(&run.tokens)
                ),
                file: record.file.clone(),
                load: Load::prompt(model, arch, run.tokens, *chunk),
                us: run.median_ms * 1e3,
            })),
            Content::Sweep(_) | Content::Trace(_) | Content::Kernels(_) => {}
        }
    }
    found
}

fn of_regime(factors: &[(&'static str, Work)], regime: &str) -> Work {
    factors.iter().find(|(name, _)| *name == regime).map_or(USUAL, |(_, factors)| *factors)
}

fn predict(factors: &[(&'static str, Work)], load: &Load) -> f64 {
    let part = |(regime, work): &(&str, Work)| {
        let factors = of_regime(factors, regime);
        work.iter().zip(factors).map(|(work, factor)| work * factor).sum::<f64>()
    };
    load.parts.iter().map(part).sum()
}

/// Factors of each regime that some result has.
fn factors(measured: &[&Measured]) -> Vec<(&'static str, Work)> {
    let regimes = ["decode", "batched", "prefill"];
    regimes.map(|regime| (regime, fit(regime, measured))).into()
}

/// Least squares of relative errors with factors held near the usual ones, by coordinate descent: each factor in turn is
/// set to where the sum is least. The sum is convex, so this ends at its least value.
fn fit(regime: &str, measured: &[&Measured]) -> Work {
    const ROUNDS: usize = 4_000;
    let rows: Vec<(Work, f64)> = measured
        .iter()
        .filter(|one| one.load.parts.iter().all(|(part, _)| *part == regime))
        .map(|one| {
            let mut sum = [0.0; KINDS];
            for (_, work) in &one.load.parts {
                sum.iter_mut().zip(work).for_each(|(sum, work)| *sum += work);
            }
            (sum.map(|work| work / one.us / STEP_DEVIATION), 1.0 / STEP_DEVIATION)
        })
        .collect();
    let mut factors = USUAL;
    for _ in 0..ROUNDS {
        for kind in 0..KINDS {
            let pull = (FACTOR_DEVIATION * USUAL[kind]).powi(-2);
            let (mut over, mut under) = (pull * USUAL[kind], pull);
            for (row, target) in &rows {
                let others: f64 =
                    (0..KINDS).filter(|&k| k != kind).map(|k| row[k] * factors[k]).sum();
                over += row[kind] * (target - others);
                under += row[kind] * row[kind];
            }
            factors[kind] = (over / under).max(0.0);
        }
    }
    factors
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No kind of work is less than nothing.
    #[test]
    fn work_grows_with_the_rows_of_logits() {
        let arch = Arch::named("h200").expect("a profile");
        let model = ossmith_models::GPT_OSS_20B.on(arch.compute);
        let of = |tokens| step_work(&model, &arch, &StepShape::decode(&model, tokens, 64), false);
        let (few, many) = (of(16), of(64));
        assert!(few.iter().chain(&many).all(|&us| us >= 0.0), "{few:?} {many:?}");
        // What is written and read: 48 rows of float32 logits, and more.
        let logits = (48 * 201_088 * 4 * 2) as f64 / f64::from(arch.memory_gb_per_s) / 1e3;
        assert!(many[6] - few[6] > logits, "{} to {}", few[6], many[6]);
    }

    /// The errors that `fit` and the report state: each recorded result predicted from all others of its profile.
    #[test]
    fn recorded_results_are_predicted_from_the_others() {
        // Larger errors than these would mean that the model no longer describes what the kernels do.
        for name in ["h100", "h200"] {
            let predictor = Predictor::of(Arch::named(name).expect("a profile")).expect("results");
            for one in &predictor.compared {
                eprintln!(
                    "{name} {:8} {:52} {:8.3} {:8.3} {:+.1} %",
                    one.regime,
                    one.name,
                    one.measured_ms,
                    one.predicted_ms,
                    100.0 * one.error()
                );
            }
            for (regime, mean_below, largest_below) in
                [("decode", 0.03, 0.1), ("batched", 0.1, 0.2), ("prefill", 0.1, 0.3)]
            {
                let (mean, largest) = predictor.error(regime).expect("results of each regime");
                eprintln!(
                    "{name} {regime}: mean {mean:.3}, largest {largest:.3}, {:.2?}",
                    predictor.factors(regime)
                );
                assert!(
                    mean < mean_below && largest < largest_below,
                    "{name} {regime}: {mean} {largest}"
                );
            }
        }
    }

    /// A profile without results has usual factors and states no error.
    #[test]
    fn a_profile_without_results_has_no_error_to_state() {
        let predictor = Predictor::of(Arch::PORTABLE).expect("results");
        assert_eq!((predictor.error("decode"), predictor.factors("decode")), (None, USUAL));
        let model = &ossmith_models::GPT_OSS_20B.on(Arch::PORTABLE.compute);
        let ms = predictor.ms(&Load::decode(model, &Arch::PORTABLE, 1, 1024));
        // 3.74 GB at 2.04 TB/s are 1.83 ms.
        assert!((1.83..3.7).contains(&ms), "{ms}");
    }

    /// A prompt in chunks is the sum of its steps, and only the last one computes logits.
    #[test]
    fn a_prompt_is_the_sum_of_its_chunks() {
        let (model, arch) = (&ossmith_models::GPT_OSS_20B.on(Arch::H100.compute), Arch::H100);
        let load = Load::prompt(model, &arch, 2048 + 5, 2048);
        let regimes: Vec<&str> = load.parts.iter().map(|part| part.0).collect();
        assert_eq!(regimes, ["prefill", "decode"]);
        let head = unembedding_us(model, &arch);
        let work = |load: &Load| load.parts[0].1[0];
        let alone = Load::prompt(model, &arch, 2048, 2048);
        assert!(
            (work(&alone) - work(&load) - head).abs() < 1.0,
            "{} {} {head}",
            work(&alone),
            work(&load)
        );
    }

    /// Microseconds to read the unembedding.
    fn unembedding_us(model: &Model, arch: &Arch) -> f64 {
        (2 * model.spec.vocab * model.spec.hidden) as f64 / f64::from(arch.memory_gb_per_s) / 1e3
    }
}
