//! What follows the layers: the head against the executor, and samples against the host's sampler.

use ossmith_plan::{PhaseKernel, Value};

use super::device_values::{poison, read_f32};
use super::phases::{Bench, Report};
use super::step_layout::{HEAD_ROWS, Layout};
use super::verdict::{Difference, SAMPLER};
use super::{CheckOptions, sampler};
use crate::Result;
use crate::backend::cpu::{Batch, Values};
use crate::backend::{LogitRows, Sequence, Step};

const FEW_HEAD_ROWS: usize = 32;

impl Bench {
    /// The head over the first tokens' rows, [`HEAD_ROWS`] at most, and samples of the sampled rows.
    pub(super) fn check_head(
        &mut self,
        layout: &Layout,
        options: &CheckOptions,
        report: Report<'_>,
    ) -> Result<()> {
        let mut sequences = layout.sequences();
        for sequence in &mut sequences {
            sequence.logits = LogitRows::All;
        }
        let mut staged = self.device.staged()?;
        let tables = &mut self.device.pass.cache.tables;
        let step = Step { sequences: &sequences, capture_activations: false };
        tables.place(&step)?;
        staged.staging.fill(&step, tables);
        self.device.send(&staged.staging)?;
        // The executor takes a second for many rows, and positions do not matter to them: one start has many.
        let most = if layout.starts[0] == 0 { HEAD_ROWS } else { FEW_HEAD_ROWS };
        let rows = staged.staging.head_rows.min(most);
        let unembed = self.model.schedule(rows).unembed().map_or("", |kernel| kernel.info().name);
        let sample = self.sample_kernel(layout.tokens.len());
        let (check_unembed, check_sample) =
            (options.picks("unembed", unembed), options.picks("sample", sample));
        if !check_unembed && !check_sample {
            self.device.free.push(staged);
            return Ok(());
        }
        let sampled = staged.staging.sampled.len();
        poison(&self.device.pass.workspace.logits)?;
        let step = self.device.pass.step(&self.device.inputs, layout.tokens.len());
        self.device.pass.head(&step, 0..rows)?;
        self.device.pass.sample(&step, sampled)?;
        self.device.synchronize()?;

        let logits = read_f32(&self.device.pass.workspace.logits, rows * self.model.spec.vocab)?;
        if check_unembed {
            let tokens = staged.staging.head_row_tokens(rows);
            let expected = self.logits_of(tokens, layout.tokens.len())?;
            // A rank's executor has its columns of a row.
            let columns = self.executor.vocab_range();
            let rows = logits.chunks(self.model.spec.vocab);
            let own: Vec<f32> = rows.flat_map(|row| &row[columns.clone()]).copied().collect();
            report(unembed, "head", Difference::of(&own, &expected)?);
        }
        if check_sample {
            let share = self.sampler_error(&sequences, sampled, &logits)?;
            report(sample, SAMPLER, Difference::of_samples(share));
        }
        self.device.free.push(staged);
        Ok(())
    }

    /// The executor's logits of some tokens of a step, from the residual on the device.
    fn logits_of(&mut self, tokens: &[u32], of_step: usize) -> Result<Vec<f32>> {
        let hidden = self.model.spec.hidden;
        let residual = read_f32(&self.device.pass.workspace.residual, of_step * hidden)?;
        let picked: Vec<f32> = tokens
            .iter()
            .flat_map(|&token| &residual[token as usize * hidden..][..hidden])
            .copied()
            .collect();
        let mut values = Values::new(self.model, tokens.len());
        values.set_f32(Value::Residual, &picked)?;
        let head = self.model.graph.head;
        self.executor.run(head, 0, &mut values, &Batch::default(), &mut self.cache)?;
        Ok(values.f32(Value::Logits)?.to_vec())
    }

    /// The kernel that samples in a step of `tokens` tokens.
    fn sample_kernel(&self, tokens: usize) -> &'static str {
        let kernels = self.model.schedule(tokens).head.iter().flat_map(|phase| phase.kernels);
        let mut sample = kernels.filter(|kernel| matches!(kernel, PhaseKernel::Sample(_)));
        sample.next().map_or("", |kernel| kernel.info().name)
    }

    /// The share of the device's samples that differ from the host's on the same logits.
    fn sampler_error(
        &self,
        sequences: &[Sequence<'_>],
        sampled: usize,
        logits: &[f32],
    ) -> Result<f64> {
        let mut tokens = vec![0_u32; sampled];
        self.device.pass.workspace.sampled.read(0, &mut tokens)?;
        let positions: Vec<usize> =
            sequences.iter().map(|sequence| sequence.start + sequence.input.len()).collect();
        let rows = sequences.iter().filter_map(|sequence| sequence.sample);
        let settings: Vec<_> = rows.map(|row| row.config).collect();
        let vocab = self.model.spec.vocab;
        sampler::disagreement(&logits[..sampled * vocab], vocab, &positions, &settings, &tokens)
    }
}
