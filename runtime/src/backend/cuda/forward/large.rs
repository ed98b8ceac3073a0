//! What only large steps launch: attention in tiles, the router as a kernel of its own, slots sorted by expert, and the
//! experts' outputs summed.

use ossmith_plan::{LargeStep, Schedule, Weight, params};

use super::super::kernels::Extent;
use super::{Pass, StepInputs, TiledInputs};
use crate::Result;

impl Pass {
    /// Attention of the tokens that follow one another.
    pub(super) fn attention_tiles(
        &self,
        large: &LargeStep,
        inputs: &StepInputs,
        tiled: &TiledInputs,
        layer: usize,
    ) -> Result<()> {
        let (keys, values, page_table) = self.cache.layer(layer);
        let params = params::AttentionTiled {
            queries: self.workspace.queries.ptr(),
            keys,
            values,
            page_table,
            positions: inputs.positions,
            seq_slots: inputs.seq_slots,
            sinks: self.weights.ptr(Weight::Sinks, layer),
            attn_output: self.workspace.attn_output.ptr(),
            query_tiles: tiled.tiles,
            table_stride: self.cache.stride() as u32,
            tile_order: u32::from(large.tile_order),
        };
        let extent = Extent { query_tiles: tiled.tile_count as u32, ..self.extent(0) };
        let kernel = large.attention_of(self.model.spec.layers[layer].kind());
        self.kernels.launch(&self.stream, kernel, extent, &params)
    }

    /// The norm before the experts, and the router's logits.
    pub(super) fn router(
        &self,
        large: &LargeStep,
        schedule: &Schedule,
        layer: usize,
        tokens: usize,
    ) -> Result<()> {
        let scale = self.weights.ptr(Weight::MoeNorm, layer);
        self.norm(schedule, scale, 0, tokens, large.tile_order)?;
        let params = params::Router {
            input: self.workspace.normed.ptr(),
            weight: self.weights.ptr(Weight::Router, layer),
            bias: self.weights.ptr(Weight::RouterBias, layer),
            logits: self.workspace.router_logits.ptr(),
            tokens: tokens as u32,
            unused: 0,
        };
        self.kernels.launch(&self.stream, &large.router, self.extent(tokens), &params)
    }

    /// Each token's experts, and its slots sorted by them.
    pub(super) fn route(&self, large: &LargeStep, tokens: usize) -> Result<()> {
        let workspace = &self.workspace;
        let params = params::MoeTopk {
            logits: workspace.router_logits.ptr(),
            route_experts: workspace.route_experts.ptr(),
            route_weights: workspace.route_weights.ptr(),
            tokens: tokens as u32,
            unused: 0,
        };
        self.kernels.launch(&self.stream, &large.moe_topk, self.extent(tokens), &params)?;
        let params = params::MoePermute {
            route_experts: workspace.route_experts.ptr(),
            permuted_routes: workspace.permuted_routes.ptr(),
            expert_tiles: workspace.expert_tiles.ptr(),
            expert_tile_count: workspace.expert_tile_count.ptr(),
            tokens: tokens as u32,
            unused: 0,
        };
        self.kernels.launch(&self.stream, &large.moe_permute, self.extent(tokens), &params)
    }

    /// The experts' outputs, weighted and added to the residual, which is normed for the next layer.
    pub(super) fn combine(&self, large: &LargeStep, layer: usize, tokens: usize) -> Result<()> {
        let workspace = &self.workspace;
        let params = params::MoeUnpermuteRmsNorm {
            route_out: workspace.route_out.ptr(),
            route_weights: workspace.route_weights.ptr(),
            residual: workspace.residual.ptr(),
            next_norm_scale: self.attn_norm(layer + 1),
            normed: workspace.normed.ptr(),
            tile_order: u32::from(large.tile_order),
            unused: 0,
        };
        self.kernels.launch(
            &self.stream,
            &large.moe_unpermute_rmsnorm,
            self.extent(tokens),
            &params,
        )
    }
}
