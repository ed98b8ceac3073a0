//! One forward pass as kernel launches: the graph's phases in the order of the plan. Nothing here waits. What large
//! steps launch beside that is in [`large`].

mod large;

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::CudaStream;
use ossmith_plan::params::{self, Ptr};
use ossmith_plan::{MOST_SMALL_TOKENS, Model, Schedule, Weight};

use super::cache::DeviceCache;
use super::kernels::{Extent, Kernels};
use super::memory::Buffer;
use super::phase::LayerPhase;
use super::weights::DeviceWeights;
use super::workspace::Workspace;
use crate::Result;

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
    /// `[rows]`: sampling settings.
    pub sampling: Ptr,
    /// Set in steps with tokens that attention takes in tiles.
    pub tiled: Option<TiledInputs>,
}

/// How attention divides a step's tokens; [`super::runs`] says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TiledInputs {
    /// `[tile_count][2]`: first token and number of tokens.
    pub tiles: Ptr,
    pub tile_count: usize,
    /// `[alone_count]`: tokens that are in no tile.
    pub alone: Ptr,
    pub alone_count: usize,
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
}

impl Pass {
    /// From token ids to the residual after the last layer.
    pub(super) fn body(&self, inputs: &StepInputs, tokens: usize) -> Result<()> {
        self.start(inputs, tokens)?;
        (0..self.model.spec.layers.len()).try_for_each(|layer| self.layer(inputs, layer, tokens))
    }

    /// What comes before the layers.
    pub(super) fn start(&self, inputs: &StepInputs, tokens: usize) -> Result<()> {
        self.embed(inputs, tokens, self.router_logit_sums(0, tokens))
    }

    /// The embedding; `router_logit_sums` start at zero unless they are null.
    pub(super) fn embed(
        &self,
        inputs: &StepInputs,
        tokens: usize,
        router_logit_sums: Ptr,
    ) -> Result<()> {
        let params = params::Embed {
            tokens: inputs.tokens,
            seq_slots: inputs.seq_slots,
            last_sampled: self.workspace.last_sampled.ptr(),
            embedding: self.weights.ptr(Weight::Embedding, 0),
            residual: self.workspace.residual.ptr(),
            next_norm_scale: self.attn_norm(0),
            deferred_rows: self.workspace.deferred_rows.ptr(),
            square_sums: self.workspace.attn_square_sums.ptr(),
            router_logit_sums,
        };
        self.kernels.launch(
            &self.stream,
            &self.model.schedule(tokens).embed,
            self.extent(tokens),
            &params,
        )
    }

    /// Every phase of a layer.
    pub(super) fn layer(&self, inputs: &StepInputs, layer: usize, tokens: usize) -> Result<()> {
        LayerPhase::ALL.into_iter().try_for_each(|phase| self.phase(phase, inputs, layer, tokens))
    }

    /// One phase of a layer.
    pub(super) fn phase(
        &self,
        phase: LayerPhase,
        inputs: &StepInputs,
        layer: usize,
        tokens: usize,
    ) -> Result<()> {
        let schedule = self.model.schedule(tokens);
        match phase {
            LayerPhase::Qkv => self.qkv(schedule, inputs, layer, tokens),
            LayerPhase::Attention => self.attention(schedule, inputs, layer, tokens),
            LayerPhase::AttnOut => {
                self.attn_out(schedule, layer, tokens, self.router_logit_sums(layer, tokens))
            }
            LayerPhase::Router => match &schedule.large {
                Some(large) => self.router(large, schedule, layer, tokens),
                None => Ok(()),
            },
            LayerPhase::ExpertUp => self.expert_up(schedule, layer, tokens),
            LayerPhase::ExpertDown => self.expert_down(schedule, layer, tokens),
        }
    }

    fn extent(&self, tokens: usize) -> Extent {
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

    /// Norms `count` residual rows, those that `rows` picks or all in order.
    fn norm(
        &self,
        schedule: &Schedule,
        scale: Ptr,
        rows: Ptr,
        count: usize,
        tile_order: bool,
    ) -> Result<()> {
        let params = params::RmsNorm {
            residual: self.workspace.residual.ptr(),
            rows,
            scale,
            normed: self.workspace.normed.ptr(),
            tile_order: tile_order.into(),
            unused: 0,
        };
        self.kernels.launch(&self.stream, &schedule.rmsnorm, self.extent(count), &params)
    }

    /// What a GEMM or GEMV reads, and the sums of squares that its result is normed by: the deferred rows that the last
    /// writer of the residual left, with its `square_sums`, or rows that are normed already, which have none.
    fn gemm_input(&self, schedule: &Schedule, square_sums: &Buffer) -> (Ptr, Ptr) {
        if schedule.is_small() {
            (self.workspace.deferred_rows.ptr(), square_sums.ptr())
        } else {
            (self.workspace.normed.ptr(), 0)
        }
    }

    /// Where a layer's logits are summed up in small steps; null in others.
    fn router_logit_sums(&self, layer: usize, tokens: usize) -> Ptr {
        if !self.model.schedule(tokens).is_small() {
            return 0;
        }
        let of_layer = MOST_SMALL_TOKENS * self.model.spec.max_experts() * size_of::<i64>();
        self.workspace.router_logit_sums.ptr() + (layer * of_layer) as Ptr
    }

    fn qkv(
        &self,
        schedule: &Schedule,
        inputs: &StepInputs,
        layer: usize,
        tokens: usize,
    ) -> Result<()> {
        // In later layers of a large step whoever wrote the residual has normed it.
        if !schedule.is_small() && layer == 0 {
            self.norm(schedule, self.attn_norm(layer), 0, tokens, in_tile_order(schedule))?;
        }
        let (input, square_sums) = self.gemm_input(schedule, &self.workspace.attn_square_sums);
        let (keys, values, page_table) = self.cache.layer(layer);
        let params = params::QkvRope {
            input,
            square_sums,
            weight: self.weights.ptr(Weight::Qkv, layer),
            bias: self.weights.ptr(Weight::QkvBias, layer),
            queries: self.workspace.queries.ptr(),
            keys,
            values,
            page_table,
            positions: inputs.positions,
            seq_slots: inputs.seq_slots,
            table_stride: self.cache.stride() as u32,
            tokens: tokens as u32,
        };
        self.kernels.launch(&self.stream, &schedule.qkv_rope, self.extent(tokens), &params)
    }

    fn attention(
        &self,
        schedule: &Schedule,
        inputs: &StepInputs,
        layer: usize,
        tokens: usize,
    ) -> Result<()> {
        let kind = self.model.spec.layers[layer].kind();
        let (mut alone, mut alone_count) = (0, tokens);
        if let (Some(large), Some(tiled)) = (&schedule.large, &inputs.tiled) {
            self.attention_tiles(large, inputs, tiled, layer)?;
            (alone, alone_count) = (tiled.alone, tiled.alone_count);
        }
        if alone_count == 0 {
            return Ok(());
        }
        let (keys, values, page_table) = self.cache.layer(layer);
        let params = params::Attention {
            queries: self.workspace.queries.ptr(),
            keys,
            values,
            page_table,
            positions: inputs.positions,
            seq_slots: inputs.seq_slots,
            sinks: self.weights.ptr(Weight::Sinks, layer),
            attn_output: self.workspace.attn_output.ptr(),
            single_query_tokens: alone,
            partials: self.workspace.attn_partials.ptr(),
            arrival_counters: self.workspace.attn_arrival_counters.ptr(),
            table_stride: self.cache.stride() as u32,
            tile_order: in_tile_order(schedule).into(),
        };
        let kernel = schedule.attention_of(kind);
        self.kernels.launch(&self.stream, kernel, self.extent(alone_count), &params)
    }

    /// The residual after attention. A small step's shares of the router's logits are added to `router_logit_sums`, which for
    /// timings is elsewhere than where the experts look.
    pub(super) fn attn_out(
        &self,
        schedule: &Schedule,
        layer: usize,
        tokens: usize,
        router_logit_sums: Ptr,
    ) -> Result<()> {
        let params = params::AttnOutResidual {
            attn_output: self.workspace.attn_output.ptr(),
            weight: self.weights.ptr(Weight::AttnOut, layer),
            bias: self.weights.ptr(Weight::AttnOutBias, layer),
            residual: self.workspace.residual.ptr(),
            next_norm_scale: self.weights.ptr(Weight::MoeNorm, layer),
            deferred_rows: self.workspace.deferred_rows.ptr(),
            square_sums: self.workspace.moe_square_sums.ptr(),
            router: self.weights.ptr(Weight::Router, layer),
            router_logit_sums,
            tokens: tokens as u32,
            unused: 0,
        };
        self.kernels.launch(&self.stream, &schedule.attn_out_residual, self.extent(tokens), &params)
    }

    fn expert_up(&self, schedule: &Schedule, layer: usize, tokens: usize) -> Result<()> {
        let workspace = &self.workspace;
        if let Some(large) = &schedule.large {
            self.route(large, tokens)?;
        }
        let (input, square_sums) = self.gemm_input(schedule, &workspace.moe_square_sums);
        let params = params::MoeUpSwiglu {
            input,
            square_sums,
            router_logit_sums: self.router_logit_sums(layer, tokens),
            router_bias: self.weights.ptr(Weight::RouterBias, layer),
            logits: workspace.router_logits.ptr(),
            permuted_routes: workspace.permuted_routes.ptr(),
            expert_tiles: workspace.expert_tiles.ptr(),
            expert_tile_count: workspace.expert_tile_count.ptr(),
            weight: self.weights.ptr(Weight::GateUp, layer),
            bias: self.weights.ptr(Weight::GateUpBias, layer),
            expert_act: workspace.expert_act.ptr(),
            weight_scale: self.weights.scale(Weight::GateUp, layer),
            tokens: tokens as u32,
        };
        self.kernels.launch(&self.stream, &schedule.moe_up_swiglu, self.extent(tokens), &params)
    }

    fn expert_down(&self, schedule: &Schedule, layer: usize, tokens: usize) -> Result<()> {
        let workspace = &self.workspace;
        let params = params::MoeDown {
            expert_act: workspace.expert_act.ptr(),
            router_logit_sums: self.router_logit_sums(layer, tokens),
            router_square_sums: workspace.moe_square_sums.ptr(),
            router_bias: self.weights.ptr(Weight::RouterBias, layer),
            permuted_routes: workspace.permuted_routes.ptr(),
            expert_tiles: workspace.expert_tiles.ptr(),
            expert_tile_count: workspace.expert_tile_count.ptr(),
            weight: self.weights.ptr(Weight::Down, layer),
            bias: self.weights.ptr(Weight::DownBias, layer),
            residual: workspace.residual.ptr(),
            next_norm_scale: self.attn_norm(layer + 1),
            deferred_rows: workspace.deferred_rows.ptr(),
            square_sums: workspace.attn_square_sums.ptr(),
            route_out: workspace.route_out.ptr(),
            weight_scale: self.weights.scale(Weight::Down, layer),
            tokens: tokens as u32,
        };
        self.kernels.launch(&self.stream, &schedule.moe_down, self.extent(tokens), &params)?;
        schedule.large.as_ref().map_or(Ok(()), |large| self.combine(large, layer, tokens))
    }

    /// Logits of the head's rows `range` of a step of `tokens` tokens, into rows `0..range.len()` of the logits.
    pub(super) fn head(
        &self,
        inputs: &StepInputs,
        tokens: usize,
        range: Range<usize>,
    ) -> Result<()> {
        let (workspace, count) = (&self.workspace, range.len());
        let schedule = self.model.schedule(count);
        let picked = inputs.rows + (range.start * size_of::<u32>()) as Ptr;
        let (mut input, mut square_sums) =
            self.gemm_input(self.model.schedule(tokens), &workspace.attn_square_sums);
        let mut rows = picked;
        if square_sums == 0 || !schedule.is_small() {
            let final_norm = self.attn_norm(self.model.spec.layers.len());
            // The last combination has normed every row; the head's are picked, in the order that its product reads.
            self.norm(schedule, final_norm, picked, count, schedule.unembed_tile_order)?;
            (input, square_sums, rows) = (workspace.normed.ptr(), 0, 0);
        }
        let params = params::Unembed {
            input,
            square_sums,
            rows,
            weight: self.weights.ptr(Weight::Unembedding, 0),
            logits: workspace.logits.ptr(),
            count: count as u32,
            unused: 0,
        };
        self.kernels.launch(&self.stream, &schedule.unembed, self.extent(count), &params)
    }

    /// Draws a token for each of the first `rows` rows of the logits.
    pub(super) fn sample(&self, inputs: &StepInputs, rows: usize) -> Result<()> {
        let params = params::Sample {
            logits: self.workspace.logits.ptr(),
            rows: inputs.sampling,
            candidates: self.workspace.candidates.ptr(),
            arrival_counters: self.workspace.sample_arrival_counters.ptr(),
            sampled: self.workspace.sampled.ptr(),
            last_sampled: self.workspace.last_sampled.ptr(),
        };
        self.kernels.launch(
            &self.stream,
            &self.model.schedule(rows).sample,
            self.extent(rows),
            &params,
        )
    }
}

/// Whether the rows that this schedule's products read are in tile order.
fn in_tile_order(schedule: &Schedule) -> bool {
    schedule.large.is_some_and(|large| large.tile_order)
}
