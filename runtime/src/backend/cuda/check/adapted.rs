//! What adapters add to a layer: the phases beside which their kernels run, once more with an adapter for each sequence of the
//! step, against the executor with the same adapters.

use std::sync::Arc;

use ossmith_plan::PhaseKernel;

use super::ADAPTER_KERNELS;
use super::device_values::clear;
use super::phases::{Bench, Report};
use super::step_layout::{Layout, SEQUENCES};
use crate::backend::Backend;
use crate::{Adapter, Result};

/// Ranks of the two adapters: one tile, and more that do not fill it.
const RANKS: [usize; SEQUENCES] = [16, 40];

impl Bench {
    /// Checks the kernels on a layer of a step, before it is checked without adapters.
    pub(super) fn adapted_layer(
        &mut self,
        layout: &Layout,
        layer: usize,
        part: &'static str,
        report: Report<'_>,
    ) -> Result<()> {
        // Ranks have none.
        if self.device.pass.exchange.is_some() {
            return Ok(());
        }
        let adapters: Vec<Option<Arc<Adapter>>> = (0..SEQUENCES)
            .map(|slot| {
                let (spec, name) = (&self.model.spec, format!("adapter {slot}"));
                let mut value = || self.random.normal();
                Some(Arc::new(Adapter::of_attention(&name, spec, RANKS[slot], &mut value)))
            })
            .collect();
        for (slot, adapter) in adapters.iter().enumerate() {
            self.device.set_adapter(slot, adapter.clone())?;
        }
        let checked = self.adapted_phases(layout, layer, &adapters, part, report);
        for slot in 0..SEQUENCES {
            self.device.set_adapter(slot, None)?;
        }
        // The step without adapters adds to them anew.
        clear(&self.device.pass.workspace.router_logit_sums)?;
        checked
    }

    fn adapted_phases(
        &mut self,
        layout: &Layout,
        layer: usize,
        adapters: &[Option<Arc<Adapter>>],
        part: &'static str,
        report: Report<'_>,
    ) -> Result<()> {
        let tokens = layout.tokens.len();
        self.fill_history(layout, layer)?;
        let mut batch = self.stage(&layout.sequences())?;
        batch.adapt(adapters);
        self.randomise_residual(tokens, layer)?;
        for phase in self.device.pass.phases_of(&self.run(tokens), layer) {
            let adapts = |kernel: &PhaseKernel| match kernel {
                PhaseKernel::RmsNormQkvRope(_) | PhaseKernel::QkvRope(_) => {
                    Some(ADAPTER_KERNELS[0])
                }
                PhaseKernel::AttnOutResidualRouter(_) | PhaseKernel::AttnOutResidual(_) => {
                    Some(ADAPTER_KERNELS[1])
                }
                _ => None,
            };
            match phase.kernels.iter().find_map(adapts) {
                Some(name) => {
                    let mut of_adapter = |_: &str, part, found| report(name, part, found);
                    self.phase(phase, layer, part, layout, &batch, &mut of_adapter)?;
                    if name == ADAPTER_KERNELS[1] {
                        return Ok(());
                    }
                }
                None => self.launch(phase, &self.run(tokens), layer)?,
            }
        }
        Ok(())
    }
}
