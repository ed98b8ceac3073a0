//! How a step reaches the device: staged, launched with its sampling or before it, and ended by the copies of what it has
//! sampled.

use cudarc::driver::CudaEvent;

use super::memory::device_error;
use super::nvtx::Range;
use super::sampling_state::REPORT_WORDS;
use super::staging::Staging;
use super::{CudaBackend, InFlight, Launched, Pass, Staged};
use crate::Result;
use crate::backend::{
    Backend, HeldStep, Input, LayerActivations, Sequence, Step, StepForm, out_of_order, validate,
};

impl CudaBackend {
    /// Checks a step, which is sampled now (`samples`) or later, and gets everything ready that waits for the device or
    /// takes memory of it: ranks do so before any of them starts, because kernels that wait for each other must not be kept
    /// from it by the driver.
    pub(super) fn stage(&mut self, step: &Step<'_>, samples: bool) -> Result<Staged> {
        if self.held.is_some() {
            return Err(out_of_order("a submission"));
        }
        validate::step(self.pass.model, &self.limits, step, |slot| self.has_sampled[slot])?;
        validate::sampled_rows(step, self.max_sampled_rows())?;
        if samples {
            let has_mask = |slot, mask| self.pass.sampling.has_mask(slot, mask);
            validate::masks(step.sequences, has_mask)?;
        }
        self.context.bind_to_thread().map_err(device_error("select the device"))?;
        let mut staged = self.staged()?;
        self.pass.sampling.reserve_histories(&self.context, &mut staged.histories)?;
        let tables = &mut self.pass.cache.tables;
        tables.place(step)?;
        staged.staging.fill(step, tables);
        let adapters = &self.pass.adapters;
        staged.staging.put_adapters(step, |slot| adapters.place_of(slot));
        if self.use_graphs && samples_all(&staged.staging, step) {
            self.capture(self.decode_step_of(&staged.staging, samples))?;
        }
        Ok(staged)
    }

    /// Starts a staged step.
    pub(super) fn start(&mut self, step: &Step<'_>, staged: Staged) -> Result<()> {
        let launched = self.launch_staged(step, staged, true)?;
        self.end(launched, step.sequences)
    }

    /// Starts the layers of a staged step.
    pub(super) fn start_layers(&mut self, step: &Step<'_>, staged: Staged) -> Result<()> {
        let launched = self.launch_staged(step, staged, false)?;
        self.held = Some((HeldStep::new(step), launched));
        Ok(())
    }

    fn launch_staged(
        &mut self,
        step: &Step<'_>,
        mut staged: Staged,
        samples: bool,
    ) -> Result<Launched> {
        self.context.bind_to_thread().map_err(device_error("select the device"))?;
        let launched = self.launch(step, &mut staged, samples);
        if launched.is_err() {
            // What was sent already is read from, and written to, memory that goes now.
            let _ = self.synchronize();
        }
        let (logits, activations) = launched?;
        self.submitted += 1;
        Ok(Launched { staged, logits, activations })
    }

    /// Sends a staged step's words and launches it; gives the rows and activations that were waited for.
    fn launch(
        &mut self,
        step: &Step<'_>,
        staged: &mut Staged,
        samples: bool,
    ) -> Result<(Vec<Vec<f32>>, Vec<LayerActivations>)> {
        let regime = self.pass.model.schedule(staged.staging.tokens).regime;
        let _range = Range::new(|| format!("{} step", regime.name()));
        self.send(&staged.staging)?;
        self.prepare_sampling(&mut staged.histories)?;
        staged.marks.begin(&self.pass.stream)?;

        let staging = &staged.staging;
        let samples_all = samples_all(staging, step);
        self.form = StepForm { regime: Some(regime.name()), graph: samples_all && self.use_graphs };
        let (rows, activations) = if samples_all {
            let decode_step = self.decode_step_of(staging, samples);
            if self.use_graphs {
                self.replay(decode_step)?;
            } else {
                self.decode_step(decode_step)?;
            }
            (Vec::new(), Vec::new())
        } else {
            self.eager_step(staging, step.capture_activations, samples)?
        };
        let mut logits = vec![Vec::new(); step.sequences.len()];
        for (row, values) in staging.wanted.iter().zip(rows) {
            logits[row.sequence].extend(values);
        }
        if !samples {
            staged.marks.layers_end(&self.pass.stream)?;
        }
        Ok((logits, activations))
    }

    /// Samples a step whose layers were launched by these rows instead of those that it was staged with.
    pub(super) fn sample_rows(
        &mut self,
        held: &mut Launched,
        sequences: &[Sequence<'_>],
    ) -> Result<()> {
        let has_mask = |slot, mask| self.pass.sampling.has_mask(slot, mask);
        validate::rows(self.pass.model, sequences, has_mask)?;
        let Pass { sampling, stream, .. } = &mut self.pass;
        let staging = &mut held.staged.staging;
        // The copy of the step's words may still be in flight. It is followed by another one of what changes here, and
        // nothing reads these words before.
        staging.put_sampled_rows(sequences);
        for range in staging.sampling_ranges() {
            let address = self.words.at(range.start * size_of::<u32>());
            staging.words.copy_to(stream, range, address)?;
        }
        sampling.join_copies(stream)?;
        held.staged.marks.sampling(stream)?;
        let step = self.pass.step(&staging.inputs(&self.inputs), staging.tokens);
        self.pass.sample(&step, staging.sampled.len())
    }

    /// Starts the copies of what a step has sampled, after which it is in flight.
    pub(super) fn end(&mut self, held: Launched, sequences: &[Sequence<'_>]) -> Result<()> {
        let Launched { mut staged, logits, activations } = held;
        let finished = self.finish(&mut staged);
        if finished.is_err() {
            let _ = self.synchronize();
        }
        let done = finished?;
        for &Sequence { seq_slot, sample, input, .. } in sequences {
            if let Some(mask) = sample.and_then(|row| row.mask) {
                self.pass.sampling.name_mask(seq_slot, mask, self.submitted);
            }
            // After a draft it is not known which of its tokens will be accepted.
            self.has_sampled[seq_slot] = sample.is_some() && !matches!(input, Input::Draft(_));
        }
        self.in_flight.push_back(InFlight { staged, done, logits, activations });
        Ok(())
    }

    /// Starts the copies of a step's sampled tokens and reports; gives its end.
    fn finish(&mut self, staged: &mut Staged) -> Result<CudaEvent> {
        let staging = &staged.staging;
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
        self.pass.stream.record_event(None).map_err(device_error("mark the end of a step"))
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
