//! What follows the layers: the norm of the rows whose logits are wanted, their unembedding, and sampling.

use std::ops::Range;

use ossmith_plan::params::{self, PhaseKernel, Ptr};
use ossmith_plan::{Auxiliary, Kernel, Phase, Schedule, Weight};

use super::{Pass, StepRun, misplaced};
use crate::{Error, Result};

impl Pass {
    /// Logits of the head's rows `range` of a step, into rows `0..range.len()` of the logits.
    pub(in super::super) fn head(&self, step: &StepRun, range: Range<usize>) -> Result<()> {
        let phases = step.schedule.head.iter();
        let phases = phases.filter(|phase| phase.auxiliary != Some(Auxiliary::Sample));
        for phase in phases {
            self.head_phase(phase, step, range.clone())?;
        }
        Ok(())
    }

    /// Waits, where several ranks share the model, until all have joined the logits of the rows before, which the next
    /// unembedding overwrites.
    pub(in super::super) fn logits_are_joined(&self, step: &StepRun) -> Result<()> {
        let kernels = step.schedule.head.iter().flat_map(|phase| phase.kernels);
        for kernel in kernels {
            if let PhaseKernel::JoinLogits(kernel) = kernel {
                self.join_logits(kernel, 0)?;
            }
        }
        Ok(())
    }

    fn join_logits(&self, kernel: &Kernel<params::JoinLogits>, rows: usize) -> Result<()> {
        let logits = self.workspace.logits.ptr();
        let params = params::JoinLogits { logits, rows: rows as u32, unused: 0 };
        self.launch(kernel, self.extent(rows), &params)
    }

    /// Samples a token for each of the first `rows` rows of the logits.
    pub(in super::super) fn sample(&self, step: &StepRun, rows: usize) -> Result<()> {
        let sample = |phase: &&Phase| phase.auxiliary == Some(Auxiliary::Sample);
        let phases = step.schedule.head.iter().filter(sample);
        for phase in phases {
            self.head_phase(phase, step, 0..rows)?;
        }
        Ok(())
    }

    /// Whether a step of `tokens` tokens has a head that samples by the shadow of the unembedding.
    pub(in super::super) fn has_shadow_head(&self, tokens: usize) -> bool {
        self.shadow.is_some() && !self.model.schedule(tokens).shadow_head.is_empty()
    }

    /// Samples a token for each of a decode step's first `rows` head rows, all of which are sampled greedily or by
    /// temperature alone, from the shadow of the unembedding.
    pub(in super::super) fn shadow_head(&self, step: &StepRun, rows: usize) -> Result<()> {
        let phases = step.schedule.shadow_head.iter();
        phases.into_iter().try_for_each(|phase| self.shadow_phase(phase, step, rows))
    }

    /// One phase of it.
    fn shadow_phase(&self, phase: &Phase, step: &StepRun, rows: usize) -> Result<()> {
        let _range = self.kernels.phase(phase.name, None);
        let (workspace, inputs) = (&self.workspace, &step.inputs);
        let none = || Error::Internal(format!("phase {} has no shadow to read", phase.name));
        let shadow = self.shadow.as_ref().ok_or_else(none)?;
        let (extent, count) = (self.extent(rows), rows as u32);
        let (input, square_sums) =
            (workspace.deferred_rows.ptr(), workspace.attn_square_sums.ptr());
        let (tile_bounds, lower_bounds) = (shadow.tile_bounds.ptr(), shadow.lower_bounds.ptr());
        for kernel in phase.kernels {
            match kernel {
                PhaseKernel::UnembedShadow(kernel) => {
                    let params = params::UnembedShadow {
                        input,
                        square_sums,
                        rows: inputs.rows,
                        shadow: shadow.codes.ptr(),
                        row_bounds: shadow.row_bounds.ptr(),
                        sampling: inputs.sampling,
                        tile_bounds,
                        lower_bounds,
                        count,
                        unused: 0,
                    };
                    self.launch(kernel, extent, &params)?;
                }
                PhaseKernel::SampleShadow(kernel) => {
                    let params = params::SampleShadow {
                        input,
                        square_sums,
                        rows: inputs.rows,
                        weight: self.weights.ptr(Weight::Unembedding, 0),
                        sampling: inputs.sampling,
                        tile_bounds,
                        lower_bounds,
                        logits: workspace.logits.ptr(),
                        candidates: shadow.candidates.ptr(),
                        candidate_count: shadow.counters.ptr(),
                        arrival_counter: shadow.counters.at(size_of::<u32>()),
                        sampled: workspace.sampled.ptr(),
                        last_sampled: workspace.last_sampled.ptr(),
                        count,
                        unused: 0,
                    };
                    self.launch(kernel, extent, &params)?;
                }
                other => return Err(misplaced(phase, other.params())),
            }
        }
        Ok(())
    }

    /// Reports of `rows` rows of the logits from row `first` on. They are those of the rows that are only reported from
    /// number `given` on.
    pub(in super::super) fn report(
        &self,
        step: &StepRun,
        first: usize,
        given: usize,
        rows: usize,
    ) -> Result<()> {
        let row_bytes = self.model.spec.vocab * size_of::<f32>();
        let params = params::Sample {
            logits: self.workspace.logits.at(first * row_bytes),
            rows: step.inputs.given + (given * size_of::<params::SampleRow>()) as Ptr,
            reports: self.sampling.reports(self.given_reports() + given),
            ..self.sample_params(step)
        };
        let kernels = step.schedule.head.iter().flat_map(|phase| phase.kernels);
        for kernel in kernels {
            if let PhaseKernel::Sample(kernel) = kernel {
                self.launch(kernel, self.extent(rows), &params)?;
            }
        }
        Ok(())
    }

    /// Where the reports of the rows that are only reported begin.
    pub(in super::super) fn given_reports(&self) -> usize {
        self.workspace.logit_rows
    }

    fn sample_params(&self, step: &StepRun) -> params::Sample {
        let (workspace, inputs) = (&self.workspace, &step.inputs);
        let state = &self.sampling.buffers;
        params::Sample {
            logits: workspace.logits.ptr(),
            rows: inputs.sampling,
            changes: inputs.changes,
            edits: inputs.edits,
            histories: state.histories.ptr(),
            masks: state.masks.ptr(),
            sampled: workspace.sampled.ptr(),
            last_sampled: workspace.last_sampled.ptr(),
            reports: state.reports.ptr(),
            scratch: state.scratch.ptr(),
        }
    }

    /// One phase of the head, for the head's rows `range`.
    pub(in super::super) fn head_phase(
        &self,
        phase: &Phase,
        step: &StepRun,
        range: Range<usize>,
    ) -> Result<()> {
        if phase.auxiliary == Some(Auxiliary::ShadowHead) {
            return self.shadow_phase(phase, step, range.len());
        }
        let _range = self.kernels.phase(phase.name, None);
        let (workspace, count) = (&self.workspace, range.len());
        let extent = self.extent(count);
        // As few or as many rows as there are: their unembedding may be another schedule's than the step's.
        let of_rows = self.model.schedule(count);
        let picked = step.inputs.rows + (range.start * size_of::<u32>()) as Ptr;
        for kernel in phase.kernels {
            match kernel {
                PhaseKernel::RmsNorm(kernel) => {
                    let params = params::RmsNorm {
                        residual: workspace.residual.ptr(),
                        rows: picked,
                        scale: self.weights.ptr(Weight::FinalNorm, 0),
                        normed: workspace.normed.ptr(),
                        tile_order: of_rows.unembed_tile_order.into(),
                        unused: 0,
                    };
                    self.launch(kernel, extent, &params)?;
                }
                PhaseKernel::UnembedDecode(_) | PhaseKernel::Unembed(_) => {
                    self.unembed(step.schedule, of_rows, picked, count)?;
                }
                PhaseKernel::JoinLogits(kernel) => self.join_logits(kernel, count)?,
                PhaseKernel::Sample(kernel) => {
                    self.launch(kernel, extent, &self.sample_params(step))?;
                }
                other => return Err(misplaced(phase, other.params())),
            }
        }
        Ok(())
    }

    /// Logits of `count` rows by the unembedding of the schedule for as many tokens. A step that defers norms has left
    /// deferred rows, of which `picked` are read; any other has normed these rows, in order.
    fn unembed(
        &self,
        of_step: &Schedule,
        of_rows: &Schedule,
        picked: Ptr,
        count: usize,
    ) -> Result<()> {
        let workspace = &self.workspace;
        let weight = self.weights.ptr(Weight::Unembedding, 0);
        // Of several ranks, each has some columns of a row.
        let logits = match &self.exchange {
            Some(exchange) => exchange.buffers.logits.ptr(),
            None => workspace.logits.ptr(),
        };
        let extent = self.extent(count);
        match (of_rows.unembed(), of_step.defers_norms()) {
            (Some(PhaseKernel::UnembedDecode(kernel)), deferred) => {
                let (input, square_sums, rows) = match deferred {
                    true => {
                        let sums = workspace.attn_square_sums.ptr();
                        (workspace.deferred_rows.ptr(), sums, picked)
                    }
                    false => (workspace.normed.ptr(), 0, 0),
                };
                let count = count as u32;
                let params = params::UnembedDecode {
                    input,
                    square_sums,
                    rows,
                    weight,
                    logits,
                    count,
                    unused: 0,
                };
                self.launch(kernel, extent, &params)
            }
            (Some(PhaseKernel::Unembed(kernel)), false) => {
                let input = workspace.normed.ptr();
                let params =
                    params::Unembed { input, weight, logits, count: count as u32, unused: 0 };
                self.launch(kernel, extent, &params)
            }
            _ => Err(Error::Internal(format!(
                "no unembedding takes {count} rows of a {} step",
                of_step.regime.name()
            ))),
        }
    }
}
