//! Graph values where a step's kernels leave them. A decode step defers norms, so some of its values are in pieces, and
//! some never leave a kernel.

use ossmith_plan::{Op, Phase, PhaseKernel, Value};

use super::super::CudaBackend;
use super::super::exchange::ExchangeBuffers;
use super::super::forward::StepRun;
use super::device_values::{clear, poison, read_bf16, read_f32, read_rows};
use super::next_norm;
use super::verdict::Difference;
use crate::{Error, Result};

impl CudaBackend {
    /// Whether a value leaves the kernel that makes it.
    pub(super) fn is_seen(&self, value: Value, run: &StepRun) -> bool {
        match value {
            Value::Residual
            | Value::Qkv
            | Value::AttnHeads
            | Value::MoeInput
            | Value::RouterLogits
            | Value::ExpertAct => true,
            Value::AttnInput | Value::ExpertIds | Value::ExpertWeights | Value::ExpertOut => {
                !run.schedule.defers_norms()
            }
            // Of several ranks, one's part of a sum.
            Value::AttnDelta | Value::MoeDelta => {
                self.pass.exchange.is_some() && !run.schedule.defers_norms()
            }
            _ => false,
        }
    }

    /// A value of a step's tokens in a layer. Of queries, keys and values it has the queries, which attention reads; keys
    /// and values are in the cache.
    pub(super) fn value(&self, value: Value, layer: usize, run: &StepRun) -> Result<Vec<f32>> {
        let (workspace, tokens) = (&self.pass.workspace, run.tokens);
        let elements = tokens * self.pass.model.graph.row_elements(value, layer);
        let rows = |buffer| read_rows(&self.pass, buffer, elements, tokens);
        match value {
            Value::Residual => read_f32(&workspace.residual, elements),
            Value::AttnInput => rows(&workspace.normed),
            Value::Qkv => {
                let spec = &self.pass.model.rank_spec();
                let mut qkv = vec![0.0; elements];
                let queries = self.queries(tokens)?;
                let of_tokens = qkv.chunks_mut(spec.qkv_width());
                for (row, queries) in of_tokens.zip(queries.chunks(spec.q_width())) {
                    row[..spec.q_width()].copy_from_slice(queries);
                }
                Ok(qkv)
            }
            Value::AttnHeads => rows(&workspace.attn_output),
            Value::MoeInput if run.schedule.defers_norms() => next_norm::normed(&self.pass, tokens),
            Value::MoeInput => rows(&workspace.normed),
            Value::RouterLogits if run.schedule.defers_norms() => {
                next_norm::logits(&self.pass, tokens, layer)
            }
            Value::RouterLogits => read_f32(&workspace.router_logits, elements),
            Value::ExpertIds => {
                Ok(self.route_experts(tokens, layer)?.into_iter().map(|id| id as f32).collect())
            }
            Value::ExpertWeights => read_f32(&workspace.route_weights, elements),
            Value::ExpertAct => rows(&workspace.expert_act),
            Value::ExpertOut => read_bf16(&workspace.route_out, elements),
            Value::AttnDelta => read_f32(&self.parts()?.attn_part, elements),
            Value::MoeDelta => read_f32(&self.parts()?.moe_part, elements),
            _ => Err(Error::Internal(format!("value {value:?} never leaves a kernel"))),
        }
    }

    fn parts(&self) -> Result<&ExchangeBuffers> {
        let missing = || Error::Internal("one rank has no parts of sums".into());
        self.pass.exchange.as_ref().map(|exchange| &exchange.buffers).ok_or_else(missing)
    }

    /// Rotated queries of a step's tokens.
    pub(super) fn queries(&self, tokens: usize) -> Result<Vec<f32>> {
        let elements = tokens * self.pass.model.rank_spec().q_width();
        read_bf16(&self.pass.workspace.queries, elements)
    }

    /// The experts of a step's routes.
    pub(super) fn route_experts(&self, tokens: usize, layer: usize) -> Result<Vec<u32>> {
        let mut ids = vec![0_u32; tokens * self.pass.model.spec.layers[layer].top_k];
        self.pass.workspace.route_experts.read(0, &mut ids)?;
        Ok(ids)
    }

    /// Difference of the permutation of a step's routes by expert, tokens in order within an expert.
    pub(super) fn permutation_difference(&self, tokens: usize, layer: usize) -> Result<Difference> {
        let experts = self.route_experts(tokens, layer)?;
        let mut expected: Vec<u32> = (0..experts.len() as u32).collect();
        expected.sort_by_key(|&route| experts[route as usize]);
        let mut actual = vec![0; experts.len()];
        self.pass.workspace.permuted_routes.read(0, &mut actual)?;
        Difference::of_ids(&actual, &expected)
    }

    /// Overwrites where a phase leaves a value, so that what it forgets to write shows.
    pub(super) fn poison_value(
        &self,
        value: Value,
        phase: &Phase,
        layer: usize,
        run: &StepRun,
    ) -> Result<()> {
        let workspace = &self.pass.workspace;
        match value {
            Value::Residual if phase.computes(Op::Embed) => poison(&workspace.residual),
            Value::AttnInput => poison(&workspace.normed),
            Value::Qkv => poison(&workspace.queries),
            Value::AttnHeads => poison(&workspace.attn_output),
            Value::MoeInput if run.schedule.defers_norms() => {
                poison(&workspace.deferred_rows).and_then(|()| poison(&workspace.moe_square_sums))
            }
            Value::MoeInput => poison(&workspace.normed),
            // Decode kernels add to these logits, so they begin at zero.
            Value::RouterLogits if run.schedule.defers_norms() => {
                next_norm::clear_logits(&self.pass, layer)
            }
            Value::RouterLogits => poison(&workspace.router_logits),
            Value::ExpertIds => poison(&workspace.route_experts),
            Value::ExpertWeights => poison(&workspace.route_weights),
            Value::ExpertAct => poison(&workspace.expert_act),
            Value::ExpertOut => poison(&workspace.route_out),
            // After an exchange both are read by other ranks, and the next kernel adds to attention's.
            Value::AttnDelta if !phase.computes(Op::AllReduce) => clear(&self.parts()?.attn_part),
            Value::MoeDelta if !phase.computes(Op::AllReduce) => poison(&self.parts()?.moe_part),
            _ => Ok(()),
        }
    }

    /// Overwrites what a phase hands on to the next norm beside its own values.
    pub(super) fn poison_handed_on(&self, phase: &Phase) -> Result<()> {
        let workspace = &self.pass.workspace;
        phase.kernels.iter().try_for_each(|kernel| match kernel {
            PhaseKernel::Embed(_) | PhaseKernel::MoeDownResidual(_) => {
                poison(&workspace.deferred_rows).and_then(|()| poison(&workspace.attn_square_sums))
            }
            PhaseKernel::MoePermute(_) => poison(&workspace.permuted_routes),
            PhaseKernel::MoeUnpermuteRmsNorm(_) | PhaseKernel::AllReduceRmsNorm(_) => {
                poison(&workspace.normed)
            }
            _ => Ok(()),
        })
    }
}
