//! Steps whose kernels are launched one by one, because they differ from one to the next: those with prompts, with rows
//! that go back to the host, or whose activations are captured.

use super::CudaBackend;
use super::forward::StepRun;
use super::staging::Staging;
use crate::Result;
use crate::backend::LayerActivations;

impl CudaBackend {
    /// Any other step: launches one by one, and rows back to the host where they are wanted.
    pub(super) fn eager_step(
        &self,
        staging: &Staging,
        capture: bool,
        samples: bool,
    ) -> Result<(Vec<Vec<f32>>, Vec<LayerActivations>)> {
        let step = self.pass.step(&staging.inputs(&self.inputs), staging.tokens);
        let captured = if capture {
            self.captured_body(&step)?
        } else {
            self.pass.body(&step)?;
            Vec::new()
        };
        let vocab = self.pass.model.spec.vocab;
        let mut rows: Vec<Vec<f32>> = vec![Vec::new(); staging.wanted.len()];
        let block = self.pass.workspace.logit_rows;
        // The rows that are sampled are the first ones, whose logits stay until they are.
        for first in (0..staging.head_rows).step_by(block).rev() {
            let range = first..staging.head_rows.min(first + block);
            // Otherwise it is the block that runs first.
            if range.end < staging.head_rows {
                self.pass.logits_are_joined(&step)?;
            }
            self.pass.head(&step, range.clone())?;
            if samples && first == 0 && !staging.sampled.is_empty() {
                self.pass.sample(&step, staging.sampled.len())?;
            }
            let first_given = staging.head_rows - staging.given.len();
            let given = range.start.max(first_given)..range.end;
            if !given.is_empty() {
                self.pass.report(
                    &step,
                    given.start - first,
                    given.start - first_given,
                    given.len(),
                )?;
            }
            let wanted = staging.wanted.iter().zip(&mut rows);
            let here: Vec<_> = wanted.filter(|(row, _)| range.contains(&row.head_row)).collect();
            if !here.is_empty() {
                self.synchronize()?;
            }
            for (row, logits) in here {
                logits.resize(vocab, 0.0);
                let offset = (row.head_row - first) * vocab * size_of::<f32>();
                self.pass.workspace.logits.read(offset, logits)?;
            }
        }
        Ok((rows, captured))
    }

    fn captured_body(&self, step: &StepRun) -> Result<Vec<LayerActivations>> {
        let (spec, workspace, tokens) = (&self.pass.model.spec, &self.pass.workspace, step.tokens);
        self.pass.start(step)?;
        let capture = |layer: usize| {
            self.pass.layer(step, layer)?;
            self.synchronize()?;
            let mut residual = vec![0.0; tokens * spec.hidden];
            workspace.residual.read(0, &mut residual)?;
            let mut router_logits = vec![0.0; tokens * spec.layers[layer].experts];
            workspace.router_logits.read(0, &mut router_logits)?;
            let router_indices = router_logits
                .chunks(spec.layers[layer].experts)
                .flat_map(|row| largest(row, spec.layers[layer].top_k))
                .collect();
            Ok(LayerActivations { residual, router_indices, router_logits })
        };
        (0..spec.layers.len()).map(capture).collect()
    }
}

/// The `count` largest values' indices, largest first, lowest index first among equals.
fn largest(values: &[f32], count: usize) -> Vec<u32> {
    let mut indices: Vec<u32> = (0..values.len() as u32).collect();
    indices.sort_by(|&a, &b| values[b as usize].total_cmp(&values[a as usize]).then(a.cmp(&b)));
    indices.truncate(count);
    indices
}
