//! Samples from the shadow of the unembedding against those from all logits, both on the device: rows whose logits the shadow
//! tells apart, and rows of which it hardly can.

use half::bf16;
use ossmith_plan::facts::SQUARE_SUM_WIDTH;

use super::super::forward::{StepInputs, StepRun};
use super::super::memory::Buffer;
use super::super::staging::{SAMPLE_ROW_WORDS, sample_row};
use super::phases::Bench;
use super::step_layout::Random;
use super::verdict::Difference;
use super::{CheckOptions, SAMPLER};
use crate::Result;
use crate::backend::RowSampling;
use crate::sampling::SamplerConfig;

/// What a row of activations is like.
const KINDS: [&str; 8] = [
    "even activations",
    "one large activation",
    // All tokens with the same weight have the same logit.
    "one activation",
    "two activations",
    "tiny activations",
    "huge activations",
    // Every logit is zero.
    "no activations",
    "an activation that is no number",
];
/// Kinds that leave a few row tiles to compute. The others may leave all of them, which takes longer.
const EASY: [usize; 3] = [0, 0, 1];
/// One launch in so many has rows of all kinds.
const HARD_EVERY: usize = 16;
/// Most rows of a launch.
const ROWS_AT_ONCE: usize = 8;

/// Words of a launch, on the device.
struct RowBuffers {
    picked: Buffer,
    sampling: Buffer,
}

impl Bench {
    /// Samples rows by each schedule that has a shadow, in an eighth as many launches as rows are wanted. `report` receives
    /// the kernel, the rows, and the share of them that differ.
    pub(super) fn check_shadow(
        &mut self,
        seed: u64,
        options: &CheckOptions,
        report: &mut dyn FnMut(&str, &str, Difference),
    ) -> Result<()> {
        let buffer = |words: usize, what| Buffer::zeroed(&self.device.context, words * 4, what);
        let buffers = RowBuffers {
            picked: buffer(ROWS_AT_ONCE, "rows to sample")?,
            sampling: buffer(ROWS_AT_ONCE * SAMPLE_ROW_WORDS, "settings of rows")?,
        };
        let launches = options.sampler_rows.div_ceil(ROWS_AT_ONCE).max(2 * HARD_EVERY);
        let schedules = self.model.schedules.iter().filter(|one| !one.shadow_head.is_empty());
        for schedule in schedules {
            let mut kernels = schedule.shadow_head.iter().flat_map(|phase| phase.kernels).rev();
            let Some(last) = kernels.next() else { continue };
            if !schedule.shadow_head.iter().any(|phase| options.picks_phase(phase)) {
                continue;
            }
            let tokens = schedule.max_tokens.min(ROWS_AT_ONCE);
            let (mut random, mut differs) = (Random(seed), [[0_usize; 2]; KINDS.len()]);
            for launch in 0..launches {
                // As many rows as the schedule takes, and now and then fewer.
                let count = if launch % 5 == 4 { tokens.div_ceil(2) } else { tokens };
                let hard = launch % HARD_EVERY == HARD_EVERY - 1;
                let kind = |_| match hard {
                    true => random.below(KINDS.len()),
                    false => EASY[random.below(EASY.len())],
                };
                let kinds: Vec<usize> = (0..count).map(kind).collect();
                let found = self.compare_shadow(&kinds, &mut random, &buffers)?;
                for (&kind, differ) in kinds.iter().zip(found) {
                    differs[kind][0] += 1;
                    differs[kind][1] += usize::from(differ);
                }
            }
            for (name, [rows, differ]) in KINDS.iter().zip(differs).filter(|(_, of)| of[0] > 0) {
                let share = differ as f64 / rows as f64;
                let what = format!("{rows} rows of {name}, {SAMPLER}");
                report(last.info().name, &what, Difference::of_samples(share));
            }
        }
        Ok(())
    }

    /// Whether each row's token differs.
    fn compare_shadow(
        &mut self,
        kinds: &[usize],
        random: &mut Random,
        buffers: &RowBuffers,
    ) -> Result<Vec<bool>> {
        let (hidden, count) = (self.model.spec.hidden, kinds.len());
        let mut rows: Vec<u16> = Vec::with_capacity(count * hidden);
        let mut square_sums = Vec::with_capacity(count * hidden / SQUARE_SUM_WIDTH);
        for &kind in kinds {
            let row = activations(kind, hidden, random);
            let scale = 10_f32.powi(random.next() as i32 % 4 - 2);
            square_sums.extend(row.chunks(SQUARE_SUM_WIDTH).map(|part| {
                let sum: f32 = part.iter().map(|x| (x * scale).powi(2)).sum();
                if sum.is_finite() { sum } else { 1.0 }
            }));
            rows.extend(row.iter().map(|&x| bf16::from_f32(x).to_bits()));
        }
        let settings: Vec<[u32; SAMPLE_ROW_WORDS]> = (0..count)
            .map(|slot| {
                let temperature =
                    [0.0, 0.0, 1.0, 0.1, 0.7, 3.0, 100.0, 1e-6][random.next() as usize % 8];
                let seed = random.next();
                let config = SamplerConfig { temperature, seed, ..SamplerConfig::GREEDY };
                sample_row(&RowSampling::from(config), random.next() as usize % 100_000, slot)
            })
            .collect();
        let RowBuffers { picked, sampling } = buffers;
        picked.write(0, &(0..count as u32).rev().collect::<Vec<_>>())?;
        sampling.write(0, settings.as_flattened())?;
        let workspace = &self.device.pass.workspace;
        workspace.deferred_rows.write(0, &rows)?;
        workspace.attn_square_sums.write(0, &square_sums)?;
        let step = self.device.pass.step(&self.device.inputs, count);
        let inputs: StepInputs =
            StepInputs { rows: picked.ptr(), sampling: sampling.ptr(), ..step.inputs };
        let step = StepRun { inputs, ..step };
        self.device.pass.head(&step, 0..count)?;
        self.device.pass.sample(&step, count)?;
        let from_all = self.samples(count)?;
        self.device.pass.shadow_head(&step, count)?;
        let from_shadow = self.samples(count)?;
        Ok(from_all.iter().zip(&from_shadow).map(|(one, other)| one != other).collect())
    }

    /// What was sampled for the host and for the next step, which are overwritten then.
    fn samples(&self, count: usize) -> Result<Vec<(u32, u32)>> {
        self.device.synchronize()?;
        let workspace = &self.device.pass.workspace;
        let (mut sampled, mut last) = (vec![0_u32; count], vec![0_u32; count]);
        workspace.sampled.read(0, &mut sampled)?;
        workspace.last_sampled.read(0, &mut last)?;
        let nothing = vec![u32::MAX - 1; count];
        workspace.sampled.write(0, &nothing)?;
        workspace.last_sampled.write(0, &nothing)?;
        Ok(sampled.into_iter().zip(last).collect())
    }
}

fn activations(kind: usize, hidden: usize, random: &mut Random) -> Vec<f32> {
    let mut uniform = |_| (random.next() >> 40) as f32 / 8_388_608.0 - 1.0;
    let mut row: Vec<f32> = (0..hidden).map(&mut uniform).collect();
    let (one, other) = ((random.next() as usize) % hidden, (random.next() as usize) % hidden);
    match kind {
        1 => row[one] *= 1000.0,
        2 => row.iter_mut().enumerate().for_each(|(at, x)| {
            if at != one {
                *x = 0.0
            }
        }),
        3 => row.iter_mut().enumerate().for_each(|(at, x)| {
            if at != one && at != other {
                *x = 0.0
            }
        }),
        4 => row.iter_mut().for_each(|x| *x *= 1e-25),
        5 => row.iter_mut().for_each(|x| *x *= 1e25),
        6 => row.fill(0.0),
        7 => row[one] = if other % 2 == 0 { f32::NAN } else { f32::INFINITY },
        _ => {}
    }
    row
}
