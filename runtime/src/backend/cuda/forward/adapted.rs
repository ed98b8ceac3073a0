//! What adapters add to a layer, in steps with tokens that have one: two launches beside the phases, which are those of any
//! other step.
//!
//! The rotation of queries and keys is linear, so what is added to them is rotated by itself after the layer's own was. The output
//! projection adds to the residual and, in a decode step, makes of the sum what the experts need, so what adapters add to the
//! residual is added before.

use ossmith_plan::Phase;
use ossmith_plan::params::{self, PhaseKernel};

use super::super::cache::LayerAddresses;
use super::{AdaptedInputs, Pass, StepRun};
use crate::Result;

impl Pass {
    /// What adapters add before a phase.
    pub(super) fn adapt_before(&self, phase: &Phase, step: &StepRun, layer: usize) -> Result<()> {
        let Some(adapted) = &step.inputs.adapted else { return Ok(()) };
        let is_output = |kernel: &PhaseKernel| {
            matches!(
                kernel,
                PhaseKernel::AttnOutResidualRouter(_) | PhaseKernel::AttnOutResidual(_)
            )
        };
        match phase.kernels.iter().any(is_output) {
            true => self.adapt_attn_out(adapted, step, layer),
            false => Ok(()),
        }
    }

    /// What adapters add after a phase.
    pub(super) fn adapt_after(&self, phase: &Phase, step: &StepRun, layer: usize) -> Result<()> {
        let Some(adapted) = &step.inputs.adapted else { return Ok(()) };
        for kernel in phase.kernels {
            match kernel {
                PhaseKernel::RmsNormQkvRope(_) => self.adapt_qkv(adapted, step, layer, true)?,
                PhaseKernel::QkvRope(_) => self.adapt_qkv(adapted, step, layer, false)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// `deferred`: the layer's input are deferred rows.
    fn adapt_qkv(
        &self,
        adapted: &AdaptedInputs,
        step: &StepRun,
        layer: usize,
        deferred: bool,
    ) -> Result<()> {
        let (workspace, inputs) = (&self.workspace, &step.inputs);
        let LayerAddresses { keys, values, page_table, table_stride, page_bits } =
            self.cache.layer(layer);
        let (matrices, _, matrices_stride) = self.adapters.matrices(layer)?;
        let (input, square_sums) = match deferred {
            true => (workspace.deferred_rows.ptr(), workspace.attn_square_sums.ptr()),
            false => (workspace.normed.ptr(), 0),
        };
        let params = params::AdaptQkv {
            groups: adapted.groups,
            group_count: adapted.group_count,
            adapted_tokens: adapted.tokens,
            matrices,
            input,
            square_sums,
            queries: workspace.queries.ptr(),
            keys,
            values,
            page_table,
            positions: inputs.positions,
            seq_slots: inputs.seq_slots,
            matrices_stride,
            table_stride,
            page_bits,
            tile_order: u32::from(step.schedule.tile_order && !deferred),
        };
        self.launch(&self.model.tools.adapt_qkv, self.extent(step.tokens), &params)
    }

    fn adapt_attn_out(&self, adapted: &AdaptedInputs, step: &StepRun, layer: usize) -> Result<()> {
        let (_, matrices, matrices_stride) = self.adapters.matrices(layer)?;
        let params = params::AdaptAttnOut {
            groups: adapted.groups,
            group_count: adapted.group_count,
            adapted_tokens: adapted.tokens,
            matrices,
            attn_output: self.workspace.attn_output.ptr(),
            residual: self.workspace.residual.ptr(),
            matrices_stride,
            tile_order: step.schedule.tile_order.into(),
        };
        self.launch(&self.model.tools.adapt_attn_out, self.extent(step.tokens), &params)
    }
}
