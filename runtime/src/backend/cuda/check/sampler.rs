//! The device's samples and reports against the host's, on the same logits: those of a step, and rows that are hard for
//! filters ([`super::sampler_cases`]).

use ossmith_plan::params::NOTHING_SAMPLED;
use rayon::prelude::*;

use super::super::forward::{StepInputs, StepRun};
use super::super::memory::Buffer;
use super::super::sampling_state::{REPORT_WORDS, StagedHistories, read_report};
use super::super::staging::{
    CHANGES_WORDS, EDIT_WORDS, SAMPLE_ROW_WORDS, given_row, row_changes, row_edits, sample_row,
};
use super::phases::Bench;
use super::sampler_cases::{COMBINATIONS, Case, Combination, KINDS, Sampled, same};
use super::step_layout::{Random, SAMPLER_ROWS as ROWS};
use super::verdict::Difference;
use crate::Result;
use crate::backend::MAX_EDITS;
use crate::sampling::SamplerConfig;

/// Rows of each combination that are checked unless more are wanted.
pub const SAMPLER_ROWS: usize = 4 * ROWS;
/// Rows of each kind among those that one launch samples.
const ROWS_OF_KIND: usize = ROWS / KINDS.len();
const _: () = assert!(ROWS.is_multiple_of(KINDS.len()), "each kind has as many rows");

/// Words of the rows of a launch, on the device.
struct RowBuffers {
    rows: Buffer,
    changes: Buffer,
    edits: Buffer,
}

impl Bench {
    /// Samples at least `rows` rows, of every kind, with each combination. `report` receives the kernel, the rows and the
    /// share of them that the host samples or reports otherwise.
    pub(super) fn check_sampler(
        &mut self,
        seed: u64,
        rows: usize,
        report: &mut dyn FnMut(&str, &str, Difference),
    ) -> Result<()> {
        let (mut random, vocab) = (Random(seed), self.model.spec.vocab);
        let context = &self.device.context;
        let buffer = |words: usize, what| Buffer::zeroed(context, words * size_of::<u32>(), what);
        let buffers = RowBuffers {
            rows: buffer(ROWS * SAMPLE_ROW_WORDS, "rows to sample")?,
            changes: buffer(ROWS * CHANGES_WORDS, "changes of rows")?,
            edits: buffer(ROWS * MAX_EDITS * EDIT_WORDS, "edits of rows")?,
        };
        let mut logits = vec![0.0; ROWS * vocab];
        for _ in 0..rows.div_ceil(ROWS) {
            let seeds: Vec<u64> = (0..ROWS).map(|_| random.next()).collect();
            logits.par_chunks_mut(vocab).zip(&seeds).enumerate().for_each(|(at, (row, &seed))| {
                KINDS[at % KINDS.len()].fill(row, &mut Random(seed));
            });
            self.device.pass.workspace.logits.write(0, &logits)?;
            for combination in &COMBINATIONS {
                let cases: Vec<Case> =
                    (0..ROWS).map(|_| Case::new(combination, vocab, &mut random)).collect();
                let differs = self.compare(combination, &cases, &logits, &buffers)?;
                for (index, kind) in KINDS.iter().enumerate() {
                    let of_kind = differs.iter().skip(index).step_by(KINDS.len());
                    let share = of_kind.filter(|&&differs| differs).count() as f64;
                    let what = format!("rows of {}, {}", kind.name, combination.name);
                    report("sample", &what, Difference::of_samples(share / ROWS_OF_KIND as f64));
                }
            }
        }
        Ok(())
    }

    /// Which rows differ from the host's.
    fn compare(
        &mut self,
        combination: &Combination,
        cases: &[Case],
        logits: &[f32],
        buffers: &RowBuffers,
    ) -> Result<Vec<bool>> {
        let vocab = self.model.spec.vocab;
        let found = self.on_device(cases, buffers)?;
        let expected: Vec<Sampled> = cases
            .par_iter()
            .zip(logits.par_chunks(vocab))
            .map(|(case, row)| case.on_host(row))
            .collect::<Result<_>>()?;
        let mut differs: Vec<bool> =
            found.iter().zip(&expected).map(|(found, expected)| !same(found, expected)).collect();
        let mut last = [0; ROWS];
        self.device.pass.workspace.last_sampled.read(0, &mut last)?;
        let samples = cases.iter().all(|case| case.given.is_none());
        for (row, expected) in expected.iter().enumerate().filter(|_| samples) {
            let token = expected.as_ref().map_or(0, |&(token, _)| token);
            differs[row] |= last[row] != token;
        }
        if combination.name == "penalties" {
            self.compare_histories(cases, &expected, &mut differs)?;
        }
        Ok(differs)
    }

    /// Every word of the histories after the samples.
    fn compare_histories(
        &self,
        cases: &[Case],
        expected: &[Sampled],
        differs: &mut [bool],
    ) -> Result<()> {
        let vocab = self.model.spec.vocab;
        let mut words = vec![0_u16; ROWS * vocab];
        self.device.pass.sampling.buffers.histories.read(0, &mut words)?;
        let rows = words.par_chunks(vocab).zip(cases).zip(expected).zip(differs);
        rows.for_each(|(((words, case), expected), differs)| {
            let mut history = case.history.clone();
            if let Some((token, _)) = expected {
                history.add(*token);
            }
            let mut wanted = vec![0; vocab];
            history.words().for_each(|(token, word)| wanted[token as usize] = word);
            *differs |= words != wanted;
        });
        Ok(())
    }

    /// What the device makes of the rows of logits that it holds.
    fn on_device(&mut self, cases: &[Case], buffers: &RowBuffers) -> Result<Vec<Sampled>> {
        let (mut rows, mut changes, mut edits) = (Vec::new(), Vec::new(), Vec::new());
        let mut histories = StagedHistories::default();
        for (slot, case) in cases.iter().enumerate() {
            let row = case.row();
            rows.push(match (case.given, case.report) {
                (Some(token), Some(top)) => given_row(token, top),
                _ => sample_row(&row, case.position, slot),
            });
            changes.push(row_changes(&row, edits.len(), slot));
            edits.extend(row_edits(&row));
            let sampling = &mut self.device.pass.sampling;
            if case.penalties.is_some() {
                sampling.set_history(slot, &case.history);
            }
            if let Some(words) = &case.mask {
                sampling.set_mask(slot, 0, words, 1, 0)?;
            }
        }
        buffers.rows.write(0, rows.as_flattened())?;
        buffers.changes.write(0, changes.as_flattened())?;
        if !edits.is_empty() {
            buffers.edits.write(0, edits.as_flattened())?;
        }
        let step = self.device.pass.step(&self.device.inputs, 1);
        let inputs = StepInputs {
            sampling: buffers.rows.ptr(),
            changes: buffers.changes.ptr(),
            edits: buffers.edits.ptr(),
            given: buffers.rows.ptr(),
            ..step.inputs
        };
        let step = StepRun { inputs, ..step };
        self.device.prepare_sampling(&mut histories)?;
        let given = cases.iter().all(|case| case.given.is_some());
        let first_report = if given {
            self.device.pass.report(&step, 0, 0, ROWS)?;
            self.device.pass.given_reports()
        } else {
            self.device.pass.sample(&step, ROWS)?;
            0
        };
        self.device.synchronize()?;
        let mut sampled = [0; ROWS];
        self.device.pass.workspace.sampled.read(0, &mut sampled)?;
        let mut reports = vec![0_u32; ROWS * REPORT_WORDS];
        let offset = first_report * REPORT_WORDS * size_of::<u32>();
        self.device.pass.sampling.buffers.reports.read(offset, &mut reports)?;
        let results = cases.iter().zip(sampled).zip(reports.chunks(REPORT_WORDS));
        let result = |((case, token), words): ((&Case, u32), &[u32])| {
            let token = case.given.unwrap_or(token);
            let report = case.report.map(|top| read_report(words, top));
            (token != NOTHING_SAMPLED).then_some((token, report))
        };
        Ok(results.map(result).collect())
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
    let differs = |(row, logits): (usize, &[f32])| -> Result<bool> {
        let case = Case::plain(settings[row], positions[row]);
        let expected = case.on_host(logits)?.map_or(NOTHING_SAMPLED, |(token, _)| token);
        Ok(expected != sampled[row])
    };
    let rows: Vec<(usize, &[f32])> = logits.chunks(vocab).enumerate().collect();
    let differs = rows.into_par_iter().map(differs).collect::<Result<Vec<bool>>>()?;
    Ok(differs.iter().filter(|&&differs| differs).count() as f64 / sampled.len().max(1) as f64)
}
