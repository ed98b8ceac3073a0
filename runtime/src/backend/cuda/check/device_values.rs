//! Values on the device, read and written as f32, and poisoned so that what a kernel forgets to write shows.

use half::bf16;
use ossmith_plan::{Op, Phase, PhaseKernel, Value};
use ossmith_scalar::tile_position;

use super::super::CudaBackend;
use super::super::cache::DeviceCache;
use super::super::forward::{Pass, StepRun};
use super::super::memory::Buffer;
use super::{next_norm, relative_error};
use crate::backend::PAGE_TOKENS;
use crate::{Error, Result};

/// The first `count` bf16 elements.
pub(super) fn read_bf16(buffer: &Buffer, count: usize) -> Result<Vec<f32>> {
    let mut bits = vec![0_u16; count];
    buffer.read(0, &mut bits)?;
    Ok(bits.into_iter().map(|bits| bf16::from_bits(bits).to_f32()).collect())
}

/// The first `count` elements of rows that a GEMM of a step of `tokens` tokens reads, element by element.
pub(super) fn read_rows(
    pass: &Pass,
    buffer: &Buffer,
    count: usize,
    tokens: usize,
) -> Result<Vec<f32>> {
    let rows = read_bf16(buffer, count)?;
    Ok((0..count).map(|element| rows[row_position(pass, tokens, element)]).collect())
}

/// Writes such rows.
pub(super) fn write_rows(pass: &Pass, buffer: &Buffer, rows: &[f32], tokens: usize) -> Result<()> {
    let mut placed = vec![0_u16; rows.len()];
    for (element, &value) in rows.iter().enumerate() {
        placed[row_position(pass, tokens, element)] = bf16::from_f32(value).to_bits();
    }
    buffer.write(0, &placed)
}

/// Where an element stands among the rows that a GEMM of a step of `tokens` tokens reads.
fn row_position(pass: &Pass, tokens: usize, element: usize) -> usize {
    match pass.model.schedule(tokens).tile_order {
        true => tile_position(element as u32) as usize,
        false => element,
    }
}

/// The first `count` f32 elements.
pub(super) fn read_f32(buffer: &Buffer, count: usize) -> Result<Vec<f32>> {
    let mut values = vec![0.0; count];
    buffer.read(0, &mut values)?;
    Ok(values)
}

/// Fills a whole buffer with bytes that are not a number in any float format.
pub(super) fn poison(buffer: &Buffer) -> Result<()> {
    buffer.write(0, &vec![0xff_u8; buffer.bytes()])
}

/// Graph values where a step's kernels leave them. A decode step defers norms, so some of its values are in pieces, and
/// some never leave a kernel.
impl CudaBackend {
    /// Whether a value leaves the kernel that makes it.
    pub(super) fn is_seen(&self, value: Value, run: &StepRun) -> bool {
        match value {
            Value::Residual
            | Value::Qkv
            | Value::AttnHeads
            | Value::MoeInput
            | Value::RouterLogits
            | Value::ExpertHidden => true,
            Value::AttnInput | Value::ExpertIds | Value::ExpertWeights | Value::ExpertOut => {
                !run.schedule.defers_norms()
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
                let spec = &self.pass.model.spec;
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
            Value::ExpertHidden => rows(&workspace.expert_act),
            Value::ExpertOut => read_bf16(&workspace.route_out, elements),
            _ => Err(Error::Internal(format!("value {value:?} never leaves a kernel"))),
        }
    }

    /// Rotated queries of a step's tokens.
    pub(super) fn queries(&self, tokens: usize) -> Result<Vec<f32>> {
        let elements = tokens * self.pass.model.spec.q_width();
        read_bf16(&self.pass.workspace.queries, elements)
    }

    /// The experts of a step's routes.
    pub(super) fn route_experts(&self, tokens: usize, layer: usize) -> Result<Vec<u32>> {
        let mut ids = vec![0_u32; tokens * self.pass.model.spec.layers[layer].top_k];
        self.pass.workspace.route_experts.read(0, &mut ids)?;
        Ok(ids)
    }

    /// Relative error of the permutation of a step's routes by expert, tokens in order within an expert.
    pub(super) fn permutation_error(&self, tokens: usize, layer: usize) -> Result<f64> {
        let experts = self.route_experts(tokens, layer)?;
        let mut expected: Vec<usize> = (0..experts.len()).collect();
        expected.sort_by_key(|&route| experts[route]);
        let mut actual = vec![0_u32; experts.len()];
        self.pass.workspace.permuted_routes.read(0, &mut actual)?;
        let floats = |routes: &mut dyn Iterator<Item = usize>| -> Vec<f32> {
            routes.map(|route| route as f32).collect()
        };
        let actual = floats(&mut actual.into_iter().map(|route| route as usize));
        relative_error(&actual, &floats(&mut expected.into_iter()))
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
            // Sums are added to.
            Value::RouterLogits if run.schedule.defers_norms() => {
                next_norm::clear_logits(&self.pass, layer)
            }
            Value::RouterLogits => poison(&workspace.router_logits),
            Value::ExpertIds => poison(&workspace.route_experts),
            Value::ExpertWeights => poison(&workspace.route_weights),
            Value::ExpertHidden => poison(&workspace.expert_act),
            Value::ExpertOut => poison(&workspace.route_out),
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
            PhaseKernel::MoeUnpermuteRmsNorm(_) => poison(&workspace.normed),
            _ => Ok(()),
        })
    }
}

/// One layer's cache on the host, in the device's order.
pub(super) struct LayerSnapshot {
    keys: Vec<u16>,
    values: Vec<u16>,
    kv_heads: usize,
    head_dim: usize,
}

impl LayerSnapshot {
    pub(super) fn take(
        cache: &DeviceCache,
        layer: usize,
        kv_heads: usize,
        head_dim: usize,
    ) -> Result<Self> {
        let (keys, values) = cache.buffers(layer);
        let read = |buffer: &Buffer| {
            let mut bits = vec![0_u16; buffer.bytes() / 2];
            buffer.read(0, &mut bits)?;
            Ok::<_, crate::Error>(bits)
        };
        Ok(LayerSnapshot { keys: read(keys)?, values: read(values)?, kv_heads, head_dim })
    }

    /// Keys and values of one position, each `[kv_heads, head_dim]`: keys lie as `[page][head][token][dim]`, values
    /// as `[page][head][dim][token]`.
    pub(super) fn position(&self, page: usize, position: usize) -> (Vec<f32>, Vec<f32>) {
        let (dims, in_page) = (self.head_dim, position % PAGE_TOKENS);
        let mut keys = Vec::with_capacity(self.kv_heads * dims);
        let mut values = Vec::with_capacity(self.kv_heads * dims);
        for head in 0..self.kv_heads {
            let base = (page * self.kv_heads + head) * PAGE_TOKENS * dims;
            keys.extend((0..dims).map(|dim| self.keys[base + in_page * dims + dim]));
            values.extend((0..dims).map(|dim| self.values[base + dim * PAGE_TOKENS + in_page]));
        }
        let widen =
            |bits: Vec<u16>| bits.into_iter().map(|b| bf16::from_bits(b).to_f32()).collect();
        (widen(keys), widen(values))
    }
}
