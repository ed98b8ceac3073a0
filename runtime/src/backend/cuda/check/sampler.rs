//! The device's samples against the host's, on the same logits: those of a step, and rows that are hard for filters.

use ossmith_plan::params::{NOTHING_SAMPLED, SampleRow};
use rayon::prelude::*;

use super::super::forward::{StepInputs, StepRun};
use super::super::memory::Buffer;
use super::super::staging::{SAMPLE_ROW_WORDS, sample_row};
use super::phases::Bench;
use super::step_layout::{Random, SAMPLER_ROWS as ROWS};
use crate::sampling::{SamplerConfig, sample};
use crate::{Error, Result};

/// What the sampler's lines are filed under.
pub(super) const PART: &str = "sampler";

/// How often new rows are made.
const ROUNDS: usize = 4;
/// Rows of each kind among those that one launch samples.
const ROWS_OF_KIND: usize = ROWS / KINDS.len();
const _: () = assert!(ROWS.is_multiple_of(KINDS.len()), "each kind has as many rows");

/// A kind of row. `logit` computes one logit from its place in the row, from 0 to 1; `peak` replaces that of one token.
struct Kind {
    name: &'static str,
    logit: fn(&mut Random, f32) -> f32,
    peak: Option<f32>,
}

const fn kind(name: &'static str, logit: fn(&mut Random, f32) -> f32, peak: Option<f32>) -> Kind {
    Kind { name, logit, peak }
}

const KINDS: [Kind; 14] = [
    kind("normal logits", |random, _| 2.5 * random.normal(), None),
    kind("a few likely tokens", few_likely, None),
    kind("equal logits", |_, _| 1.25, None),
    kind("one finite logit", |_, _| f32::NEG_INFINITY, Some(10.0)),
    kind("ties", |random, _| (2.0 * random.normal()).floor() / 2.0, None),
    kind("NaN and infinities", mostly_not_finite, None),
    kind("one likely token", |random, _| 2.0 * random.normal() - 30.0, Some(10.0)),
    kind("ascending logits", |random, place| 20.0 * place + 1e-3 * random.normal(), None),
    kind("descending logits", |_, place| -20.0 * place, None),
    kind("bf16 logits in a narrow range", narrow_bf16, None),
    kind("two values", |random, _| if random.below(3) == 0 { 3.0 } else { -1.0 }, None),
    kind("huge logits", huge, None),
    kind("an infinite logit", |random, _| random.normal(), Some(f32::INFINITY)),
    kind("no finite logit", nothing_finite, None),
];

fn few_likely(random: &mut Random, _: f32) -> f32 {
    let logit = 3.0 * random.normal();
    match random.below(60_000) {
        0 => logit + 20.0,
        1..15 => logit + 12.0,
        _ => logit - 2.0,
    }
}

fn mostly_not_finite(random: &mut Random, _: f32) -> f32 {
    match random.below(100) {
        0 => 0.0,
        1 => -0.0,
        2..20 => f32::NAN,
        20..80 => f32::NEG_INFINITY,
        _ => 4.0 * random.normal(),
    }
}

fn narrow_bf16(random: &mut Random, _: f32) -> f32 {
    f32::from_bits((0.4 * random.normal()).to_bits() & 0xffff_0000)
}

fn huge(random: &mut Random, _: f32) -> f32 {
    random.normal() * [1e30, 1e-40, -1e38][random.below(3)]
}

fn nothing_finite(random: &mut Random, _: f32) -> f32 {
    if random.below(2) == 0 { f32::NAN } else { f32::NEG_INFINITY }
}

/// Greedy sampling, and every combination of filters.
const COMBINATIONS: [&str; 9] = [
    "greedy",
    "no filter",
    "top-k",
    "top-p",
    "top-k and top-p",
    "min-p",
    "top-k and min-p",
    "top-p and min-p",
    "all filters",
];

/// Random settings of a combination.
fn combined(combination: usize, vocab: usize, random: &mut Random) -> SamplerConfig {
    let Some(filters) = combination.checked_sub(1) else { return SamplerConfig::GREEDY };
    const TEMPERATURES: [f32; 12] =
        [1.0, 1.0, 1.0, 0.8, 0.6, 0.1, 1e-3, 1.5, 2.0, 100.0, 3e38, f32::from_bits(1)];
    const TOP_P: [f32; 9] = [0.95, 0.9, 0.8, 0.5, 0.1, 0.01, 0.999, 1e-7, 0.999_999_9];
    const MIN_P: [f32; 6] = [0.05, 0.1, 0.3, 1e-3, 1e-6, 1.0];
    let top_k = [1, 2, 50, 1 + random.below(100), 1 + random.below(2000), 1 + random.below(vocab)];
    let top_k = top_k[random.below(6)] as u32;
    SamplerConfig {
        temperature: TEMPERATURES[random.below(12)],
        top_k: if filters & 1 != 0 { top_k } else { 0 },
        top_p: if filters & 2 != 0 { TOP_P[random.below(9)] } else { 1.0 },
        min_p: if filters & 4 != 0 { MIN_P[random.below(6)] } else { 0.0 },
        seed: random.next(),
    }
}

impl Bench {
    /// Samples rows of every kind with every combination of filters. `report` receives the kernel, the rows and the share
    /// of them that the host samples otherwise.
    pub(super) fn check_sampler(
        &mut self,
        seed: u64,
        report: &mut dyn FnMut(&str, &str, f64),
    ) -> Result<()> {
        let (mut random, vocab) = (Random(seed), self.model.spec.vocab);
        let rows =
            Buffer::zeroed(&self.device.context, ROWS * size_of::<SampleRow>(), "rows to sample")?;
        let step = self.device.pass.step(&self.device.inputs, 1);
        let inputs = StepInputs { sampling: rows.ptr(), ..step.inputs };
        let step = StepRun { inputs, ..step };
        for _ in 0..ROUNDS {
            let mut logits = vec![0.0; ROWS * vocab];
            for (row, kind) in logits.chunks_mut(vocab).zip(KINDS.iter().cycle()) {
                for (token, logit) in row.iter_mut().enumerate() {
                    *logit = (kind.logit)(&mut random, token as f32 / vocab as f32);
                }
                if let Some(peak) = kind.peak {
                    row[random.below(vocab)] = peak;
                }
            }
            self.device.pass.workspace.logits.write(0, &logits)?;
            for (combination, name) in COMBINATIONS.iter().enumerate() {
                let settings: Vec<SamplerConfig> =
                    (0..ROWS).map(|_| combined(combination, vocab, &mut random)).collect();
                let positions: Vec<usize> = (0..ROWS).map(|_| random.below(1 << 17)).collect();
                let words: Vec<[u32; SAMPLE_ROW_WORDS]> = (0..ROWS)
                    .map(|row| sample_row(&settings[row].into(), positions[row], row))
                    .collect();
                rows.write(0, words.as_flattened())?;
                self.device.pass.sample(&step, ROWS)?;
                self.device.synchronize()?;
                let (mut sampled, mut last) = ([0; ROWS], [0; ROWS]);
                self.device.pass.workspace.sampled.read(0, &mut sampled)?;
                self.device.pass.workspace.last_sampled.read(0, &mut last)?;
                let expected = samples_of_host(&logits, vocab, &positions, &settings)?;
                for (index, kind) in KINDS.iter().enumerate() {
                    let of_kind = (index..ROWS).step_by(KINDS.len());
                    let differs = |&row: &usize| {
                        let token = expected[row];
                        let next = if token == NOTHING_SAMPLED { 0 } else { token };
                        (sampled[row], last[row]) != (token, next)
                    };
                    let share = of_kind.filter(differs).count() as f64 / ROWS_OF_KIND as f64;
                    report("sample", &format!("rows of {}, {name}", kind.name), share);
                }
            }
        }
        Ok(())
    }
}

/// The share of rows whose sample differs from the host's.
pub(super) fn disagreement(
    logits: &[f32],
    vocab: usize,
    positions: &[usize],
    settings: &[SamplerConfig],
    sampled: &[u32],
) -> Result<f64> {
    let expected = samples_of_host(logits, vocab, positions, settings)?;
    let differ = expected.iter().zip(sampled).filter(|(expected, token)| expected != token).count();
    Ok(differ as f64 / sampled.len().max(1) as f64)
}

/// The host's sample of each row; none from a row without a finite largest logit. Rows are spread over threads.
fn samples_of_host(
    logits: &[f32],
    vocab: usize,
    positions: &[usize],
    settings: &[SamplerConfig],
) -> Result<Vec<u32>> {
    let one = |row: &[f32], config: &SamplerConfig, position: usize| match sample(
        row, config, position,
    ) {
        Err(Error::NonFiniteLogits { .. }) => Ok(NOTHING_SAMPLED),
        sampled => sampled,
    };
    let rows: Vec<&[f32]> = logits.chunks(vocab).collect();
    (0..rows.len())
        .into_par_iter()
        .map(|row| one(rows[row], &settings[row], positions[row]))
        .collect()
}
