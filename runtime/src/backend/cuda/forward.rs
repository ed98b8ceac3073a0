//! One forward pass as kernel launches: the phases of the step's schedule in their order, each kernel with the parameters
//! of its type. Nothing here waits.
//!
//! Which kernels a step runs is decided in one place, the schedule; how a kernel is launched in one other, the match of
//! [`Pass::kernel`]. What follows the layers is in [`head`], what adapters add to a layer in [`adapted`].

mod adapted;
mod head;

use std::sync::Arc;

use cudarc::driver::CudaStream;
use ossmith_plan::facts::MAX_DECODE_TOKENS;
use ossmith_plan::params::{self, Params, PhaseKernel, Ptr};
use ossmith_plan::{Kernel, Model, Phase, Schedule, Value, Weight};

use super::adapters::DeviceAdapters;
use super::cache::{DeviceCache, LayerAddresses};
use super::exchange::Exchange;
use super::kernels::{Extent, Kernels};
use super::nvtx::Range;
use super::sampling_state::SamplingState;
use super::shadow::Shadow;
use super::weights::DeviceWeights;
use super::workspace::Workspace;
use crate::{Error, Result};

/// Device addresses of what the host says of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StepInputs {
    /// `[tokens]`; `u32::MAX` stands for the token that the sequence slot last sampled.
    pub tokens: Ptr,
    /// `[tokens]`.
    pub positions: Ptr,
    /// `[tokens]`.
    pub seq_slots: Ptr,
    /// `[rows]`: residual row of each row of the head.
    pub rows: Ptr,
    /// `[sampled rows]`: sampling settings.
    pub sampling: Ptr,
    /// `[sampled rows]`: what changes their logits.
    pub changes: Ptr,
    /// Tokens that single rows bias or forbid.
    pub edits: Ptr,
    /// `[rows that are only reported]`: their settings.
    pub given: Ptr,
    /// Set in steps with tokens that attention takes in tiles.
    pub tiled: Option<TiledInputs>,
    /// Set in steps with tokens that have adapters.
    pub adapted: Option<AdaptedInputs>,
}

/// Which tokens have which adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AdaptedInputs {
    /// `[groups]`: [`params::AdapterGroup`].
    pub groups: Ptr,
    pub group_count: Ptr,
    /// The tokens of the groups, one group after another.
    pub tokens: Ptr,
}

/// How attention divides a step's tokens; [`super::query_tiles`] says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TiledInputs {
    /// `[query_tile_count][2]`: first token and number of tokens.
    pub query_tiles: Ptr,
    pub query_tile_count: usize,
    /// `[single_query_count]`: tokens that are in no tile.
    pub single_query_tokens: Ptr,
    pub single_query_count: usize,
}

/// Everything that launches need.
#[derive(Debug)]
pub(super) struct Pass {
    pub model: &'static Model,
    pub stream: Arc<CudaStream>,
    pub kernels: Kernels,
    pub weights: DeviceWeights,
    pub cache: DeviceCache,
    pub workspace: Workspace,
    pub sampling: SamplingState,
    /// The 8-bit shadow of the unembedding, if the schedules read one.
    pub shadow: Option<Shadow>,
    /// Where several ranks share the model.
    pub exchange: Option<Exchange>,
    pub adapters: DeviceAdapters,
}

/// A step that is launched: what all its kernels have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct StepRun {
    pub schedule: &'static Schedule,
    pub inputs: StepInputs,
    pub tokens: usize,
    /// Where a decode step's kernels add up the router's logits, `[layer][token][expert]`. The experts read those of
    /// [`Workspace::router_logit_sums`], which is the same place but in timings.
    pub added_logit_sums: Ptr,
}

impl Pass {
    /// A step of `tokens` tokens.
    pub(super) fn step(&self, inputs: &StepInputs, tokens: usize) -> StepRun {
        StepRun {
            schedule: self.model.schedule(tokens),
            inputs: *inputs,
            tokens,
            added_logit_sums: self.workspace.router_logit_sums.ptr(),
        }
    }

    /// From token ids to the residual after the last layer.
    pub(super) fn body(&self, step: &StepRun) -> Result<()> {
        self.start(step)?;
        (0..self.model.spec.layers.len()).try_for_each(|layer| self.layer(step, layer))
    }

    /// What comes before the layers.
    pub(super) fn start(&self, step: &StepRun) -> Result<()> {
        step.schedule.start.iter().try_for_each(|phase| self.phase(phase, step, 0))
    }

    /// Every phase of a layer.
    pub(super) fn layer(&self, step: &StepRun, layer: usize) -> Result<()> {
        let _range = Range::new(|| format!("layer {layer}"));
        self.phases_of(step, layer).iter().try_for_each(|phase| self.phase(phase, step, layer))
    }

    /// The phases of a layer.
    pub(super) fn phases_of(&self, step: &StepRun, layer: usize) -> &'static [Phase] {
        step.schedule.layers[self.model.graph.class(layer)]
    }

    /// One phase before the layers (where `layer` is the first one's) or of a layer.
    pub(super) fn phase(&self, phase: &Phase, step: &StepRun, layer: usize) -> Result<()> {
        let before_layers = step.schedule.start.iter().any(|first| std::ptr::eq(first, phase));
        let _range = self.kernels.phase(phase.name, (!before_layers).then_some(layer));
        self.adapt_before(phase, step, layer)?;
        phase.kernels.iter().try_for_each(|kernel| self.kernel(kernel, phase, step, layer))?;
        self.adapt_after(phase, step, layer)
    }

    /// What depends on the number of tokens.
    pub(super) fn extent(&self, tokens: usize) -> Extent {
        let routes = tokens * self.model.spec.max_top_k();
        Extent { tokens: tokens as u32, routes: routes as u32, query_tiles: 0 }
    }

    /// The scale of the norm before a layer, or before the head after the last one.
    fn attn_norm(&self, layer: usize) -> Ptr {
        if layer < self.model.spec.layers.len() {
            self.weights.ptr(Weight::AttnNorm, layer)
        } else {
            self.weights.ptr(Weight::FinalNorm, 0)
        }
    }

    /// Bytes of one layer's sums of the router's logits.
    fn logit_sum_bytes(&self, layer: usize) -> usize {
        MAX_DECODE_TOKENS * self.model.spec.layers[layer].experts * size_of::<i64>()
    }

    /// How far a layer's sums of the router's logits lie from the first layer's: the embedding has as many for each.
    pub(super) fn logit_sums_offset(&self, layer: usize) -> usize {
        layer * self.logit_sum_bytes(layer)
    }

    fn launch<P: Params>(&self, kernel: &Kernel<P>, extent: Extent, params: &P) -> Result<()> {
        self.kernels.launch(&self.stream, kernel, extent, params)
    }

    /// Launches a kernel of a phase.
    pub(super) fn kernel(
        &self,
        kernel: &PhaseKernel,
        phase: &Phase,
        step: &StepRun,
        layer: usize,
    ) -> Result<()> {
        let (workspace, weights, inputs) = (&self.workspace, &self.weights, &step.inputs);
        let (tokens, extent) = (step.tokens as u32, self.extent(step.tokens));
        let LayerAddresses { keys, values, page_table, table_stride, page_bits } =
            self.cache.layer(layer);
        let tile_order = u32::from(step.schedule.tile_order);
        let logit_sums_offset = self.logit_sums_offset(layer) as Ptr;
        let router_logit_sums = workspace.router_logit_sums.ptr() + logit_sums_offset;
        match kernel {
            PhaseKernel::Embed(kernel) => {
                let params = params::Embed {
                    tokens: inputs.tokens,
                    seq_slots: inputs.seq_slots,
                    last_sampled: workspace.last_sampled.ptr(),
                    embedding: weights.ptr(Weight::Embedding, 0),
                    residual: workspace.residual.ptr(),
                    next_norm_scale: self.attn_norm(0),
                    deferred_rows: workspace.deferred_rows.ptr(),
                    square_sums: workspace.attn_square_sums.ptr(),
                    router_logit_sums: step.added_logit_sums,
                };
                self.launch(kernel, extent, &params)
            }
            PhaseKernel::EmbedRmsNorm(kernel) => {
                let params = params::EmbedRmsNorm {
                    tokens: inputs.tokens,
                    seq_slots: inputs.seq_slots,
                    last_sampled: workspace.last_sampled.ptr(),
                    embedding: weights.ptr(Weight::Embedding, 0),
                    residual: workspace.residual.ptr(),
                    scale: self.attn_norm(0),
                    normed: workspace.normed.ptr(),
                    tile_order,
                    unused: 0,
                };
                self.launch(kernel, extent, &params)
            }
            PhaseKernel::RmsNorm(kernel) => {
                let scale = phase.nodes.iter().flat_map(|node| node.weights).next();
                let scale = *scale.ok_or_else(|| misplaced(phase, "RmsNorm"))?;
                let params = params::RmsNorm {
                    residual: workspace.residual.ptr(),
                    rows: 0,
                    scale: weights.ptr(scale, layer),
                    normed: workspace.normed.ptr(),
                    tile_order,
                    unused: 0,
                };
                self.launch(kernel, extent, &params)
            }
            PhaseKernel::RmsNormQkvRope(kernel) => {
                let params = params::RmsNormQkvRope {
                    input: workspace.deferred_rows.ptr(),
                    square_sums: workspace.attn_square_sums.ptr(),
                    weight: weights.ptr(Weight::Qkv, layer),
                    bias: weights.ptr(Weight::QkvBias, layer),
                    queries: workspace.queries.ptr(),
                    keys,
                    values,
                    page_table,
                    positions: inputs.positions,
                    seq_slots: inputs.seq_slots,
                    table_stride,
                    page_bits,
                    tokens,
                    unused: 0,
                };
                self.launch(kernel, extent, &params)
            }
            PhaseKernel::QkvRope(kernel) => {
                let params = params::QkvRope {
                    input: workspace.normed.ptr(),
                    weight: weights.ptr(Weight::Qkv, layer),
                    bias: weights.ptr(Weight::QkvBias, layer),
                    queries: workspace.queries.ptr(),
                    keys,
                    values,
                    page_table,
                    positions: inputs.positions,
                    seq_slots: inputs.seq_slots,
                    table_stride,
                    page_bits,
                    tokens,
                    unused: 0,
                };
                self.launch(kernel, extent, &params)
            }
            PhaseKernel::Attention(kernel) => {
                let (single_query_tokens, count) = match &inputs.tiled {
                    None => (0, step.tokens),
                    Some(tiled) => (tiled.single_query_tokens, tiled.single_query_count),
                };
                if count == 0 {
                    return Ok(());
                }
                let params = params::Attention {
                    queries: workspace.queries.ptr(),
                    keys,
                    values,
                    page_table,
                    positions: inputs.positions,
                    seq_slots: inputs.seq_slots,
                    sinks: weights.ptr(Weight::Sinks, layer),
                    attn_output: workspace.attn_output.ptr(),
                    single_query_tokens,
                    partials: workspace.attn_partials.ptr(),
                    arrival_counters: workspace.attn_arrival_counters.ptr(),
                    table_stride,
                    tile_order,
                };
                self.launch(kernel, self.extent(count), &params)
            }
            PhaseKernel::AttentionTiled(kernel) => {
                let Some(tiled) = &inputs.tiled else { return Ok(()) };
                let params = params::AttentionTiled {
                    queries: workspace.queries.ptr(),
                    keys,
                    values,
                    page_table,
                    positions: inputs.positions,
                    seq_slots: inputs.seq_slots,
                    sinks: weights.ptr(Weight::Sinks, layer),
                    attn_output: workspace.attn_output.ptr(),
                    query_tiles: tiled.query_tiles,
                    table_stride,
                    tile_order,
                };
                let query_tiles = tiled.query_tile_count as u32;
                self.launch(kernel, Extent { query_tiles, ..self.extent(0) }, &params)
            }
            PhaseKernel::AttnOutResidualRouter(kernel) => {
                let params = params::AttnOutResidualRouter {
                    attn_output: workspace.attn_output.ptr(),
                    weight: weights.ptr(Weight::AttnOut, layer),
                    bias: weights.ptr(Weight::AttnOutBias, layer),
                    residual: workspace.residual.ptr(),
                    next_norm_scale: weights.ptr(Weight::MoeNorm, layer),
                    deferred_rows: workspace.deferred_rows.ptr(),
                    square_sums: workspace.moe_square_sums.ptr(),
                    router: weights.ptr(Weight::Router, layer),
                    router_logit_sums: step.added_logit_sums + logit_sums_offset,
                    tokens,
                    unused: 0,
                };
                self.launch(kernel, extent, &params)
            }
            PhaseKernel::AttnOutResidual(kernel) => {
                let params = params::AttnOutResidual {
                    attn_output: workspace.attn_output.ptr(),
                    weight: weights.ptr(Weight::AttnOut, layer),
                    bias: weights.ptr(Weight::AttnOutBias, layer),
                    // This rank's part of the sum is zero before, so adding to it writes it.
                    residual: match &self.exchange {
                        Some(exchange) => exchange.buffers.attn_part.ptr(),
                        None => workspace.residual.ptr(),
                    },
                    tokens,
                    unused: 0,
                };
                self.launch(kernel, extent, &params)
            }
            PhaseKernel::AllReduceRmsNorm(kernel) => {
                let buffers = &self.exchange(phase)?.buffers;
                let of_experts =
                    phase.nodes.iter().any(|node| node.inputs.contains(&Value::MoeDelta));
                let params = params::AllReduceRmsNorm {
                    residual: workspace.residual.ptr(),
                    // All ranks have read attention's parts when they come to the experts' sum.
                    clear: if of_experts { buffers.attn_part.ptr() } else { 0 },
                    scale: match of_experts {
                        true => self.attn_norm(layer + 1),
                        false => weights.ptr(Weight::MoeNorm, layer),
                    },
                    normed: workspace.normed.ptr(),
                    sum: of_experts.into(),
                    tokens,
                    tile_order,
                    unused: 0,
                };
                self.launch(kernel, extent, &params)
            }
            PhaseKernel::MoeUnpermute(kernel) => {
                let params = params::MoeUnpermute {
                    route_out: workspace.route_out.ptr(),
                    route_weights: workspace.route_weights.ptr(),
                    part: self.exchange(phase)?.buffers.moe_part.ptr(),
                };
                self.launch(kernel, extent, &params)
            }
            PhaseKernel::Router(kernel) => {
                let params = params::Router {
                    input: workspace.normed.ptr(),
                    weight: weights.ptr(Weight::Router, layer),
                    bias: weights.ptr(Weight::RouterBias, layer),
                    logits: workspace.router_logits.ptr(),
                    tokens,
                    unused: 0,
                };
                self.launch(kernel, extent, &params)
            }
            PhaseKernel::MoeTopk(kernel) => {
                let params = params::MoeTopk {
                    logits: workspace.router_logits.ptr(),
                    route_experts: workspace.route_experts.ptr(),
                    route_weights: workspace.route_weights.ptr(),
                    tokens,
                    unused: 0,
                };
                self.launch(kernel, extent, &params)
            }
            PhaseKernel::MoePermute(kernel) => {
                let params = params::MoePermute {
                    route_experts: workspace.route_experts.ptr(),
                    permuted_routes: workspace.permuted_routes.ptr(),
                    expert_tiles: workspace.expert_tiles.ptr(),
                    expert_tile_count: workspace.expert_tile_count.ptr(),
                    tokens,
                    unused: 0,
                };
                self.launch(kernel, extent, &params)
            }
            PhaseKernel::TopkMoeUpSwiglu(kernel) => {
                let params = params::TopkMoeUpSwiglu {
                    input: workspace.deferred_rows.ptr(),
                    square_sums: workspace.moe_square_sums.ptr(),
                    router_logit_sums,
                    router_bias: weights.ptr(Weight::RouterBias, layer),
                    logits: workspace.router_logits.ptr(),
                    weight: weights.ptr(Weight::GateUp, layer),
                    bias: weights.ptr(Weight::GateUpBias, layer),
                    expert_act: workspace.expert_act.ptr(),
                    weight_scale: weights.scale(Weight::GateUp, layer),
                    tokens,
                };
                self.launch(kernel, extent, &params)
            }
            PhaseKernel::MoeUpSwiglu(kernel) => {
                let params = params::MoeUpSwiglu {
                    input: workspace.normed.ptr(),
                    permuted_routes: workspace.permuted_routes.ptr(),
                    expert_tiles: workspace.expert_tiles.ptr(),
                    expert_tile_count: workspace.expert_tile_count.ptr(),
                    weight: weights.ptr(Weight::GateUp, layer),
                    bias: weights.ptr(Weight::GateUpBias, layer),
                    expert_act: workspace.expert_act.ptr(),
                    weight_scale: weights.scale(Weight::GateUp, layer),
                    unused: 0,
                };
                self.launch(kernel, extent, &params)
            }
            PhaseKernel::MoeDownResidual(kernel) => {
                let params = params::MoeDownResidual {
                    expert_act: workspace.expert_act.ptr(),
                    router_logit_sums,
                    router_square_sums: workspace.moe_square_sums.ptr(),
                    router_bias: weights.ptr(Weight::RouterBias, layer),
                    weight: weights.ptr(Weight::Down, layer),
                    bias: weights.ptr(Weight::DownBias, layer),
                    residual: workspace.residual.ptr(),
                    next_norm_scale: self.attn_norm(layer + 1),
                    deferred_rows: workspace.deferred_rows.ptr(),
                    square_sums: workspace.attn_square_sums.ptr(),
                    weight_scale: weights.scale(Weight::Down, layer),
                    tokens,
                };
                self.launch(kernel, extent, &params)
            }
            PhaseKernel::MoeDown(kernel) => {
                let params = params::MoeDown {
                    expert_act: workspace.expert_act.ptr(),
                    permuted_routes: workspace.permuted_routes.ptr(),
                    expert_tiles: workspace.expert_tiles.ptr(),
                    expert_tile_count: workspace.expert_tile_count.ptr(),
                    weight: weights.ptr(Weight::Down, layer),
                    bias: weights.ptr(Weight::DownBias, layer),
                    route_out: workspace.route_out.ptr(),
                    weight_scale: weights.scale(Weight::Down, layer),
                    unused: 0,
                };
                self.launch(kernel, extent, &params)
            }
            PhaseKernel::MoeUnpermuteRmsNorm(kernel) => {
                let params = params::MoeUnpermuteRmsNorm {
                    route_out: workspace.route_out.ptr(),
                    route_weights: workspace.route_weights.ptr(),
                    residual: workspace.residual.ptr(),
                    next_norm_scale: self.attn_norm(layer + 1),
                    normed: workspace.normed.ptr(),
                    tile_order,
                    unused: 0,
                };
                self.launch(kernel, extent, &params)
            }
            PhaseKernel::UnembedDecode(_)
            | PhaseKernel::UnembedShadow(_)
            | PhaseKernel::SampleShadow(_)
            | PhaseKernel::Unembed(_)
            | PhaseKernel::JoinLogits(_)
            | PhaseKernel::Sample(_) => Err(misplaced(phase, kernel.params())),
        }
    }

    /// What this rank shares with the others, for a phase that needs it.
    fn exchange(&self, phase: &Phase) -> Result<&Exchange> {
        let missing = || {
            Error::Internal(format!("phase {} adds over ranks, and there is only one", phase.name))
        };
        self.exchange.as_ref().ok_or_else(missing)
    }
}

/// A phase whose kernel belongs to another part of a step.
fn misplaced(phase: &Phase, kernel: &str) -> Error {
    Error::Internal(format!("phase {} cannot launch a {kernel} kernel where it stands", phase.name))
}
